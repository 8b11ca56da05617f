//! Addresses as programs write them.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};

/// An address that a socket can have: any of std's types, or a text such as `192.0.2.1:80`. There are no names in the simulated internet.
pub trait ToSocketAddrs {
    /// Returns the address.
    ///
    /// # Errors
    /// Fails for a text that is no address.
    fn address(&self) -> io::Result<SocketAddr>;
}

macro_rules! plain {
    ($($kind:ty),*) => {$(
        impl ToSocketAddrs for $kind {
            fn address(&self) -> io::Result<SocketAddr> {
                Ok((*self).into())
            }
        }
    )*};
}

plain!(
    SocketAddr,
    SocketAddrV4,
    SocketAddrV6,
    (IpAddr, u16),
    (Ipv4Addr, u16),
    (Ipv6Addr, u16),
    ([u8; 4], u16)
);

impl ToSocketAddrs for str {
    fn address(&self) -> io::Result<SocketAddr> {
        self.parse().map_err(|_| no_address(self))
    }
}

impl ToSocketAddrs for String {
    fn address(&self) -> io::Result<SocketAddr> {
        self.as_str().address()
    }
}

impl ToSocketAddrs for (&str, u16) {
    fn address(&self) -> io::Result<SocketAddr> {
        let ip: IpAddr = self.0.parse().map_err(|_| no_address(self.0))?;
        Ok((ip, self.1).into())
    }
}

impl<T: ToSocketAddrs + ?Sized> ToSocketAddrs for &T {
    fn address(&self) -> io::Result<SocketAddr> {
        (**self).address()
    }
}

fn no_address(text: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, format!("{text} is no address, and there are no names here"))
}
