//! The system calls that std does not offer: namespaces, TUN devices, `ppoll`, pidfds. All `unsafe` of
//! this package is here, each call wrapped so that callers cannot misuse it.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// The effective user id.
pub(super) fn effective_uid() -> u32 {
    // SAFETY: geteuid has no arguments and cannot fail.
    unsafe { libc::geteuid() }
}

/// Moves the calling thread into a new, empty network namespace.
pub(super) fn unshare_net() -> io::Result<()> {
    // SAFETY: no pointers; CLONE_NEWNET concerns the calling thread only.
    check(unsafe { libc::unshare(libc::CLONE_NEWNET) }).map(drop)
}

/// Moves the calling thread into the network namespace behind `namespace`.
pub(super) fn set_net(namespace: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: the descriptor is open for the duration of the call; the kernel checks its type.
    check(unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET) }).map(drop)
}

/// Makes `command`'s child start inside `namespace` and die with this process. The kernel ties the
/// death signal to the *thread* that forks, so that thread has to live as long as the child should.
pub(super) fn confine(command: &mut Command, namespace: Arc<OwnedFd>) {
    let parent = std::process::id();
    let hook = move || {
        set_net(namespace.as_fd())?;
        // SAFETY: no pointers are involved.
        check(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as libc::c_ulong) })?;
        if std::os::unix::process::parent_id() == parent {
            Ok(())
        } else {
            // The parent died before the prctl: nobody would ever send the signal.
            Err(io::Error::from_raw_os_error(libc::ESRCH))
        }
    };
    // SAFETY: between fork and exec the hook makes system calls only: no allocation, no lock. The
    // errors it returns are plain numbers, and the Arc it owns is neither cloned nor dropped there.
    unsafe { command.pre_exec(hook) };
}

/// Opens a new TUN device called `name` in the calling thread's network namespace. Reads and writes
/// carry one bare IP packet each and never block. The device lives as long as the file.
pub(super) fn open_tun(name: &str) -> io::Result<File> {
    let file =
        OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open("/dev/net/tun")?;
    // SAFETY: ifreq is plain data, for which all-zero is valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    if name.len() >= request.ifr_name.len() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "interface name too long"));
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_TUN | libc::IFF_NO_PI) as libc::c_short;
    // SAFETY: TUNSETIFF reads and writes one ifreq, which outlives the call; its name is NUL-terminated
    // by the length check above.
    check(unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &mut request) })?;
    Ok(file)
}

/// Asks the kernel to wake the calling thread on time rather than up to 50 us later.
pub(super) fn precise_timers() -> io::Result<()> {
    // SAFETY: no pointers are involved; the setting belongs to the calling thread.
    check(unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, 1 as libc::c_ulong) }).map(drop)
}

/// Has the calling thread run before others, where that is allowed.
pub(super) fn run_first() {
    // SAFETY: no pointers are involved; on Linux a 0 means the calling thread.
    unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, -15) };
}

/// A set of descriptors to wait on for input.
pub(super) struct PollSet(Vec<libc::pollfd>);

impl PollSet {
    /// Watches `fds`, which have to stay open for as long as [`PollSet::wait`] is called.
    pub(super) fn new<'a>(fds: impl IntoIterator<Item = BorrowedFd<'a>>) -> Self {
        let entry =
            |fd: BorrowedFd<'_>| libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        Self(fds.into_iter().map(entry).collect())
    }

    /// Waits until something is readable or closed, or until `timeout` (with nanosecond resolution)
    /// has passed. False when nothing happened.
    pub(super) fn wait(&mut self, timeout: Option<Duration>) -> io::Result<bool> {
        let timeout = timeout.map(|t| libc::timespec {
            tv_sec: libc::time_t::try_from(t.as_secs()).unwrap_or(libc::time_t::MAX),
            tv_nsec: t.subsec_nanos().into(),
        });
        let timeout = timeout.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
        // SAFETY: the pointer and the length describe the vector, which nobody else touches; `timeout`
        // is null or points to a live timespec; a null signal mask is allowed. A descriptor that was
        // closed meanwhile yields POLLNVAL, not undefined behaviour.
        let ready = unsafe {
            libc::ppoll(self.0.as_mut_ptr(), self.0.len() as libc::nfds_t, timeout, std::ptr::null())
        };
        match check(ready) {
            Ok(n) => Ok(n > 0),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {
                self.0.iter_mut().for_each(|p| p.revents = 0);
                Ok(false)
            }
            Err(e) => Err(e),
        }
    }

    /// Returns true if the last wait found something on the descriptor with this index.
    pub(super) fn ready(&self, index: usize) -> bool {
        self.0[index].revents != 0
    }
}

/// A descriptor that becomes readable when process `pid` ends.
pub(super) fn pidfd(pid: u32) -> io::Result<OwnedFd> {
    // SAFETY: pidfd_open takes two integers and returns a new descriptor or -1.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid as libc::pid_t, 0) };
    let fd = check(i32::try_from(fd).unwrap_or(-1))?;
    // SAFETY: the kernel has just made this descriptor for us; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Sends `signal` to the process behind `pidfd`: unlike a number it can never name a stranger.
pub(super) fn signal(pidfd: BorrowedFd<'_>, signal: i32) -> io::Result<()> {
    // SAFETY: the descriptor is open, and a null siginfo asks for the default one.
    let done = unsafe {
        let info = std::ptr::null::<libc::siginfo_t>();
        libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), signal, info, 0)
    };
    check(i32::try_from(done).unwrap_or(-1)).map(drop)
}
