//! The end that the user or the system asks for: SIGINT and SIGTERM, which mean the same.

use std::io;

use tokio::sync::SetOnce;

use crate::INTERRUPTED;

static ASKED: SetOnce<()> = SetOnce::const_new();

/// Takes signals from here on. With `serves` the first one is told by [`interrupted`], and the second one ends the
/// program at once. Without, the first one does.
///
/// # Errors
/// The system's, where there are no such signals: then only being killed ends it.
pub(crate) fn take(serves: bool) -> io::Result<()> {
    let mut signals = Signals::new()?;
    tokio::spawn(async move {
        if serves {
            signals.next().await;
            let _ = ASKED.set(());
        }
        signals.next().await;
        std::process::exit(INTERRUPTED.into());
    });
    Ok(())
}

/// Waits until the program is asked to end, and is told of it at any time later.
pub(crate) async fn interrupted() {
    ASKED.wait().await;
}

#[cfg(unix)]
struct Signals {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
}

#[cfg(unix)]
impl Signals {
    fn new() -> io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Signals {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

#[cfg(windows)]
struct Signals {
    interrupt: tokio::signal::windows::CtrlC,
    close: tokio::signal::windows::CtrlClose,
}

#[cfg(windows)]
impl Signals {
    fn new() -> io::Result<Self> {
        use tokio::signal::windows::{ctrl_c, ctrl_close};
        Ok(Signals { interrupt: ctrl_c()?, close: ctrl_close()? })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.close.recv() => {}
        }
    }
}
