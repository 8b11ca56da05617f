//! Word of changes of the network, which the system tells by calling a function of ours on a thread of its own.

use std::io::{self, Write};
use std::net::TcpStream;
use std::ptr::{null, null_mut};
use std::sync::{Mutex, OnceLock, PoisonError};

use windows_sys::Win32::Foundation::HANDLE;
use windows_sys::Win32::NetworkManagement::IpHelper::{
    MIB_IPFORWARD_ROW2, MIB_IPINTERFACE_ROW, MIB_NOTIFICATION_TYPE, MIB_UNICASTIPADDRESS_ROW,
    NotifyIpInterfaceChange, NotifyRouteChange2, NotifyUnicastIpAddressChange,
};
use windows_sys::Win32::Networking::WinSock::AF_UNSPEC;

/// Watchers who are told: one end each of a pair, whose other end is watched.
static TOLD: Mutex<Vec<TcpStream>> = Mutex::new(Vec::new());

/// A socket that gets a byte with every change. The system is asked once, and tells until the process ends.
pub(crate) fn changes() -> io::Result<TcpStream> {
    static ASKED: OnceLock<u32> = OnceLock::new();
    match *ASKED.get_or_init(ask) {
        0 => {}
        error => return Err(io::Error::from_raw_os_error(error.cast_signed())),
    }
    let (theirs, ours) = crate::socket::pair()?;
    TOLD.lock().unwrap_or_else(PoisonError::into_inner).push(ours);
    Ok(theirs)
}

/// Asks for word of interfaces, addresses and default routes. Returns the first error; 0 is none.
#[allow(unsafe_code)]
fn ask() -> u32 {
    let mut handles: [HANDLE; 3] = [null_mut(); 3];
    let [one, two, three] = &mut handles;
    // SAFETY: the functions live as long as the process, and have no context.
    let asked = unsafe {
        [
            NotifyIpInterfaceChange(AF_UNSPEC, Some(interface), null(), false, one),
            NotifyUnicastIpAddressChange(AF_UNSPEC, Some(address), null(), false, two),
            NotifyRouteChange2(AF_UNSPEC, Some(route), null(), false, three),
        ]
    };
    asked.into_iter().find(|error| *error != 0).unwrap_or(0)
}

#[allow(unsafe_code)]
unsafe extern "system" fn interface(
    _: *const core::ffi::c_void,
    _: *const MIB_IPINTERFACE_ROW,
    _: MIB_NOTIFICATION_TYPE,
) {
    tell();
}

#[allow(unsafe_code)]
unsafe extern "system" fn address(
    _: *const core::ffi::c_void,
    _: *const MIB_UNICASTIPADDRESS_ROW,
    _: MIB_NOTIFICATION_TYPE,
) {
    tell();
}

#[allow(unsafe_code)]
unsafe extern "system" fn route(
    _: *const core::ffi::c_void,
    row: *const MIB_IPFORWARD_ROW2,
    _: MIB_NOTIFICATION_TYPE,
) {
    // SAFETY: the row is null, or one that the system keeps until this returns.
    let bits = unsafe { row.as_ref() }.map_or(0, |row| row.DestinationPrefix.PrefixLength);
    // Of routes only default ones matter: there is one to each neighbour.
    if bits == 0 {
        tell();
    }
}

/// Tells all who are there still. One whose socket is full has been told.
fn tell() {
    let mut told = TOLD.lock().unwrap_or_else(PoisonError::into_inner);
    told.retain_mut(|socket| match socket.write(&[0]) {
        Err(e) => e.kind() == io::ErrorKind::WouldBlock,
        Ok(_) => true,
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::time::Duration;

    #[test]
    fn who_watches_is_told_and_who_has_gone_is_forgotten() {
        let (mut one, other) = (changes().unwrap(), changes().unwrap());
        one.set_nonblocking(false).unwrap();
        one.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        tell();
        assert_eq!(one.read(&mut [0; 8]).unwrap(), 1);
        let gone = other.local_addr().unwrap();
        drop(other);
        let is_there = || {
            let told = TOLD.lock().unwrap();
            told.iter().any(|socket| socket.peer_addr().is_ok_and(|at| at == gone))
        };
        for _ in 0..100 {
            if !is_there() {
                return;
            }
            tell();
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("it is told for ever");
    }
}
