//! From a server list's entry to the credentials that a TURN server takes.

use std::process::Stdio;
use std::time::{Duration, SystemTime};

use p2pd_core::WallTime;
use p2pd_core::turn::Credentials;
use tokio::io::AsyncReadExt;
use tokio::process::Command;

use crate::servers::{TurnCredential, TurnServer};

/// How long short-lived ones hold; what was allocated meanwhile lives on.
const HOLD_FOR: Duration = Duration::from_secs(24 * 3600);
/// A command may take this long,
const PATIENCE: Duration = Duration::from_secs(10);
/// and print so many bytes.
const LONGEST: u64 = 4096;

impl TurnCredential {
    /// Credentials that are good now. A command's standard error is ours.
    ///
    /// # Errors
    /// What is wrong with the command, or with what it printed.
    pub async fn get(&self) -> Result<Credentials, String> {
        match self {
            TurnCredential::Password { user, password } => Ok(Credentials::new(user, password)),
            TurnCredential::Secret(secret) => {
                let until = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default() + HOLD_FOR;
                let until = i64::try_from(until.as_micros()).unwrap_or(i64::MAX);
                Ok(Credentials::short_lived(secret, None, WallTime::from_micros(until)))
            }
            TurnCredential::Command(command) => {
                let name = command.first().map_or("", String::as_str);
                let ran = tokio::time::timeout(PATIENCE, run(command)).await;
                let text = ran.unwrap_or_else(|_| Err(format!("took more than {} s", PATIENCE.as_secs())));
                text.and_then(|text| read(&text)).map_err(|why| format!("credential_command {name}: {why}"))
            }
        }
    }
}

impl TurnServer {
    /// As a node uses it, with credentials that are good now.
    ///
    /// # Errors
    /// Names the server, and what is wrong with its credentials.
    pub async fn resolve(&self) -> Result<p2pd_core::TurnServer, String> {
        let TurnServer { host, port, transport, tls, lifetimes, ref credential } = self.clone();
        let credentials =
            credential.get().await.map_err(|why| format!("TURN server {host}:{port}: {why}"))?;
        Ok(p2pd_core::TurnServer { host, port, transport, tls, credentials, lifetimes })
    }
}

/// What a command prints. It ends with us at the latest.
async fn run(command: &[String]) -> Result<String, String> {
    let (program, arguments) = command.split_first().ok_or("is empty")?;
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().map_err(|why| why.to_string())?;
    let mut text = String::new();
    if let Some(output) = child.stdout.take() {
        output.take(LONGEST + 1).read_to_string(&mut text).await.map_err(|why| why.to_string())?;
    }
    if text.len() as u64 > LONGEST {
        return Err(format!("printed more than {LONGEST} bytes"));
    }
    match child.wait().await {
        Ok(status) if status.success() => Ok(text),
        Ok(status) => Err(format!("ended with {status}")),
        Err(why) => Err(why.to_string()),
    }
}

fn read(text: &str) -> Result<Credentials, String> {
    let mut lines = text.lines();
    match (lines.next(), lines.next(), lines.next()) {
        (Some(user), Some(password), None) if !user.is_empty() && !password.is_empty() => {
            Ok(Credentials::new(user, password))
        }
        _ => Err("did not print a name and, on a second line, a password".into()),
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    async fn sh(script: &str) -> Result<Credentials, String> {
        TurnCredential::Command(["sh", "-c", script].map(String::from).into()).get().await
    }

    #[tokio::test]
    async fn commands_print_a_name_and_a_password() {
        assert_eq!(sh("echo alice; echo 'se cret'").await, Ok(Credentials::new("alice", "se cret")));
        for (script, why) in [
            ("echo alice", "did not print"),
            ("echo; echo secret", "did not print"),
            ("echo a; echo b; echo c", "did not print"),
            ("echo a; echo b; exit 3", "exit status: 3"),
            ("head -c 5000 /dev/zero", "more than 4096 bytes"),
        ] {
            let error = sh(script).await.unwrap_err();
            assert!(error.starts_with("credential_command sh: ") && error.contains(why), "{script}: {error}");
        }
        let missing = TurnCredential::Command(vec!["/nonexistent/program".into()]).get().await.unwrap_err();
        assert!(missing.contains("/nonexistent/program: No such file"), "{missing}");
    }

    #[tokio::test]
    async fn secrets_become_credentials_of_a_day_and_passwords_are_as_they_are() {
        let alice = TurnCredential::Password { user: "alice".into(), password: "secret".into() };
        assert_eq!(alice.get().await, Ok(Credentials::new("alice", "secret")));
        let now = SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs() as i64;
        let made = TurnCredential::Secret("north".into()).get().await.unwrap();
        let until: i64 = made.user().parse().unwrap();
        assert!((now + 86_400..now + 86_460).contains(&until));
        let again = Credentials::short_lived("north", None, WallTime::from_micros(until * 1_000_000));
        assert_eq!(made, again);
    }
}
