//! Differences between async-std and smol, all in one place.

#[cfg(feature = "async-std")]
mod chosen {
    pub use async_std::net::TcpStream;

    pub(crate) fn spawn(task: impl Future<Output = ()> + Send + 'static) {
        drop(async_std::task::spawn(task));
    }

    pub(crate) fn wrap(stream: async_io::Async<std::net::TcpStream>) -> std::io::Result<TcpStream> {
        Ok(stream.into_inner()?.into())
    }
}

#[cfg(all(feature = "smol", not(feature = "async-std")))]
mod chosen {
    pub use smol::net::TcpStream;

    pub(crate) fn spawn(task: impl Future<Output = ()> + Send + 'static) {
        smol::spawn(task).detach();
    }

    pub(crate) fn wrap(stream: async_io::Async<std::net::TcpStream>) -> std::io::Result<TcpStream> {
        Ok(stream.into())
    }
}

pub use chosen::TcpStream;
pub(crate) use chosen::{spawn, wrap};
