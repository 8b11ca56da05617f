//! A private network namespace, known by a descriptor and by no name.

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::panic::resume_unwind;
use std::process::{Command, Stdio};
use std::sync::Arc;

use super::{LabError, Result, sys, tool};

/// A network namespace. It exists as long as a handle, a process or a socket in it does.
#[derive(Clone)]
pub struct Namespace {
    name: Arc<str>,
    fd: Arc<OwnedFd>,
}

impl std::fmt::Debug for Namespace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Namespace({} net:[{}])", self.name, self.inode().unwrap_or(0))
    }
}

impl Namespace {
    /// Makes an empty namespace. `name` is for messages only.
    pub(super) fn new(name: &str) -> Result<Self> {
        let open = || {
            sys::unshare_net()?;
            File::open("/proc/thread-self/ns/net")
        };
        // On a thread of its own, because unshare changes the thread that calls it.
        let made = std::thread::scope(|s| s.spawn(open).join());
        let file = match made {
            Ok(file) => file.map_err(|e| LabError::new(format!("new network namespace {name}: {e}")))?,
            Err(panic) => resume_unwind(panic),
        };
        Ok(Self { name: name.into(), fd: Arc::new(file.into()) })
    }

    /// The name used in messages: `h0`, `r0`, `srv`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The number by which the kernel shows this namespace: `net:[N]` in `/proc/PID/ns/net`.
    pub fn inode(&self) -> Result<u64> {
        let file = self.fd.try_clone().map(File::from).and_then(|f| f.metadata());
        file.map(|m| m.ino())
            .map_err(|e| LabError::new(format!("{}: inode of the namespace: {e}", self.name)))
    }

    /// A path under which `ip` finds the namespace (`ip link set X netns PATH`) while this process lives.
    pub(super) fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.fd.as_raw_fd())
    }

    /// Runs `work` on a thread inside the namespace and returns its result. Sockets made there stay in the namespace
    /// wherever they are used later, and threads started there begin inside. So a whole tokio runtime built in `work`
    /// lives behind the NAT.
    ///
    /// # Panics
    /// If the kernel refuses to enter, or as `work` does.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let inside = || {
            sys::set_net(self.fd.as_fd()).unwrap_or_else(|e| panic!("entering namespace {}: {e}", self.name));
            work()
        };
        let done = std::thread::scope(|s| {
            let thread =
                std::thread::Builder::new().name(format!("in {}", self.name)).spawn_scoped(s, inside);
            thread.unwrap_or_else(|e| panic!("starting a thread for {}: {e}", self.name)).join()
        });
        done.unwrap_or_else(|panic| resume_unwind(panic))
    }

    /// A command whose process runs inside the namespace. The kernel kills it when the thread that
    /// spawns it ends; [`Host::spawn`](super::Host::spawn) does away with that restriction.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new(tool(program).unwrap_or_else(|| program.into()));
        sys::confine(&mut command, Arc::clone(&self.fd));
        command
    }

    /// Runs a configuration tool with `input` and waits. Its words are part of the error.
    pub(super) fn configure(&self, program: &str, args: &[&str], input: &str) -> Result<()> {
        let failed = |why: String| {
            LabError::new(format!("{}: {program} {}: {why}\ninput:\n{input}", self.name, args.join(" ")))
        };
        // From a thread that is inside already, and only if it is: these programs run as root, and one
        // that was not moved would reconfigure the machine itself.
        let run = || {
            self.verify_inside()?;
            let mut command = self.command(program);
            command.args(args).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
            let mut child = command.spawn().map_err(|e| failed(e.to_string()))?;
            let wrote = child.stdin.take().map_or(Ok(()), |mut pipe| pipe.write_all(input.as_bytes()));
            let output = child.wait_with_output().map_err(|e| failed(e.to_string()))?;
            Ok::<_, LabError>((output, wrote))
        };
        let (output, wrote) = self.enter(run)?;
        if !output.status.success() {
            return Err(failed(format!(
                "{}: {}",
                output.status,
                String::from_utf8_lossy(&output.stderr).trim()
            )));
        }
        wrote.map_err(|e| failed(format!("writing its input: {e}")))
    }

    /// Checks that the calling thread is in this namespace, and that this is not where the process began.
    fn verify_inside(&self) -> Result<()> {
        let inode = |path: &str| {
            let found = std::fs::metadata(path).map(|m| m.ino());
            found.map_err(|e| LabError::new(format!("{}: {path}: {e}", self.name)))
        };
        let (here, outside) = (inode("/proc/thread-self/ns/net")?, inode("/proc/self/ns/net")?);
        if here == self.inode()? && here != outside {
            return Ok(());
        }
        Err(LabError::new(format!(
            "{}: the thread is outside the lab's namespaces (net:[{here}])",
            self.name
        )))
    }

    /// Sets kernel parameters of the namespace, `("net/ipv4/ip_forward", "1")`.
    pub(super) fn sysctl(&self, values: &[(&str, &str)]) -> Result<()> {
        self.enter(|| {
            self.verify_inside()?;
            values.iter().try_for_each(|(key, value)| {
                std::fs::write(format!("/proc/sys/{key}"), value)
                    .map_err(|e| LabError::new(format!("{}: sysctl {key} = {value}: {e}", self.name)))
            })
        })
    }

    /// Opens a TUN device inside the namespace, which is there as long as the file.
    ///
    /// # Errors
    /// Of /dev/net/tun.
    pub fn tun(&self, device: &str) -> Result<File> {
        self.enter(|| {
            self.verify_inside()?;
            sys::open_tun(device).map_err(|e| {
                LabError::new(format!("{}: TUN device {device} by /dev/net/tun: {e}", self.name))
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outside_is_noticed() {
        crate::require_lab!();
        let space = Namespace::new("probe").unwrap();
        let error = space.verify_inside().unwrap_err().to_string();
        assert!(error.contains("outside"), "{error}");
        space.enter(|| space.verify_inside()).unwrap();
    }

    #[test]
    fn an_error_names_the_place_the_command_its_words_and_its_input() {
        crate::require_lab!();
        let space = Namespace::new("probe").unwrap();
        let error = space.configure("ip", &["-batch", "-"], "link set nowhere up\n").unwrap_err().to_string();
        for part in ["probe", "ip -batch -", "Cannot find device", "link set nowhere up"] {
            assert!(error.contains(part), "{part:?} is not in: {error}");
        }
        let error = space.sysctl(&[("net/none", "1")]).unwrap_err().to_string();
        assert!(error.contains("net/none"), "{error}");
    }
}
