//! Sockets held to an interface by its number, as Linux and Apple's systems know it.

use std::io;
use std::net::SocketAddr;
use std::num::NonZeroU32;

use socket2::{SockRef, Socket};

/// Has all packets of a socket leave by an interface: `SO_BINDTOIFINDEX`, on Apple's systems `IP_BOUND_IF`.
pub(crate) fn leave_by(socket: &SockRef<'_>, local: SocketAddr, interface: u32) -> io::Result<()> {
    match local {
        SocketAddr::V4(_) => socket.bind_device_by_index_v4(NonZeroU32::new(interface)),
        SocketAddr::V6(_) => socket.bind_device_by_index_v6(NonZeroU32::new(interface)),
    }
}

/// Has a socket send and hear by an interface alone.
pub(crate) fn hold_to(socket: &Socket, local: SocketAddr, interface: u32) -> io::Result<()> {
    leave_by(&SockRef::from(socket), local, interface)
}

/// Binds a fresh socket, and listens for connections by an interface beside another listener on the same port.
pub(crate) fn listen_beside(
    socket: &Socket,
    local: SocketAddr,
    backlog: u16,
    interface: u32,
) -> io::Result<()> {
    hold_to(socket, local, interface)?;
    socket.bind(&local.into())?;
    socket.listen(i32::from(backlog))
}
