//! Credentials for a TURN server, out of a server list's entry.

use std::fmt;
use std::process::Stdio;
use std::time::{Duration, SystemTime};

use p2pd_core::text::shown;
use p2pd_core::turn::Credentials;
use p2pd_core::{Login, WallTime};
use tokio::io::AsyncReadExt;
use tokio::process::Command;

use crate::servers::{Commands, Servers, TurnCredential, TurnServer};

/// Lifetime of short-lived credentials; an allocation made meanwhile lives on.
const HOLD_FOR: Duration = Duration::from_secs(24 * 3600);
/// Longest time of a command,
const PATIENCE: Duration = Duration::from_secs(10);
/// and most bytes of its output.
const LONGEST: u64 = 4096;

impl TurnCredential {
    /// Returns credentials that are good now. A command writes to the standard error of this program.
    ///
    /// # Errors
    /// Says what is wrong with the command or with its output, or that the command is not allowed.
    pub async fn get(&self, commands: Commands) -> Result<Credentials, CredentialError> {
        match self {
            TurnCredential::Password { user, password } => Ok(Credentials::new(user, password)),
            TurnCredential::Secret(secret) => {
                let until = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default() + HOLD_FOR;
                let until = i64::try_from(until.as_micros()).unwrap_or(i64::MAX);
                Ok(Credentials::short_lived(secret, None, WallTime::from_micros(until)))
            }
            TurnCredential::Command(command) => {
                let (user, password) = printed(command, commands).await?;
                Ok(Credentials::new(&user, &password))
            }
        }
    }
}

impl Servers {
    /// Runs the commands that print user names and passwords of brokers, and gives each broker its output. Returns the
    /// brokers that are left without, with their places in the list.
    ///
    /// # Errors
    /// A command that is not allowed.
    pub async fn log_in(
        &mut self,
        commands: Commands,
    ) -> Result<Vec<(usize, CredentialError)>, CredentialError> {
        let mut failed = Vec::new();
        for (place, broker) in self.brokers.iter_mut().enumerate() {
            let Some(command) = self.login_commands.get(&broker.id) else { continue };
            match printed(command, commands).await {
                Ok((user, password)) => broker.login = Some(Login::new(&user, Some(&password))),
                Err(why @ CredentialError::NotAllowed(_)) => return Err(why),
                Err(why) => failed.push((place, why)),
            }
        }
        Ok(failed)
    }
}

/// Returns the name and the password that a list's command prints.
async fn printed(command: &[String], commands: Commands) -> Result<(String, String), CredentialError> {
    if commands == Commands::Refused {
        return Err(CredentialError::NotAllowed(command.into()));
    }
    let name = shown(command.first().map_or("", String::as_str));
    let ran = tokio::time::timeout(PATIENCE, run(command)).await;
    let text = ran.unwrap_or_else(|_| Err(format!("took more than {} s", PATIENCE.as_secs())));
    let read = text.and_then(|text| read(&text));
    read.map_err(|why| CredentialError::Failed(format!("credential_command {name}: {why}")))
}

/// Reason for which there are no credentials for a server.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum CredentialError {
    /// The list names a program, and nobody [allowed](Commands::Allowed) to run it: the program and its arguments.
    NotAllowed(Vec<String>),
    /// The program could not be run, or its output has no credentials.
    Failed(String),
}

/// Writes the error in one line, for any content of the list.
impl fmt::Display for CredentialError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CredentialError::NotAllowed(command) => {
                f.write_str("the list runs a program,")?;
                for word in command {
                    write!(f, " \"{}\"", shown(word))?;
                }
                f.write_str(
                    ", which counts only with --allow-commands: give that if you trust the list's author",
                )
            }
            CredentialError::Failed(why) => f.write_str(why),
        }
    }
}

impl std::error::Error for CredentialError {}

impl TurnServer {
    /// Returns the server for a node's use, with credentials that are good now.
    ///
    /// # Errors
    /// Says what is wrong with its credentials.
    pub async fn resolve(&self, commands: Commands) -> Result<p2pd_core::TurnServer, CredentialError> {
        let TurnServer { host, port, transport, tls, lifetimes, ref credential } = self.clone();
        let credentials = credential.get(commands).await?;
        Ok(p2pd_core::TurnServer { host, port, transport, tls, credentials, lifetimes, proxy: None })
    }
}

/// Returns the output of a command, which ends with this program at the latest.
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

fn read(text: &str) -> Result<(String, String), String> {
    let mut lines = text.lines();
    match (lines.next(), lines.next(), lines.next()) {
        (Some(user), Some(password), None) if !user.is_empty() && !password.is_empty() => {
            Ok((user.into(), password.into()))
        }
        _ => Err("did not print a name and, on a second line, a password".into()),
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    async fn sh(script: &str) -> Result<Credentials, String> {
        let command = TurnCredential::Command(["sh", "-c", script].map(String::from).into());
        command.get(Commands::Allowed).await.map_err(|why| why.to_string())
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
        let missing = TurnCredential::Command(vec!["/nonexistent/program".into()]);
        let missing = missing.get(Commands::Allowed).await.unwrap_err().to_string();
        assert!(missing.contains("/nonexistent/program: No such file"), "{missing}");
    }

    #[tokio::test]
    async fn a_command_that_nobody_allowed_is_not_run_and_is_shown() {
        let dir = tempfile::tempdir().unwrap();
        let proof = dir.path().join("ran");
        let words = ["sh", "-c", &format!("touch {}; echo a; echo b", proof.display()), "\x1b[2J\nready: x"];
        let command = TurnCredential::Command(words.map(String::from).into());
        let why = command.get(Commands::Refused).await.unwrap_err();
        assert!(matches!(&why, CredentialError::NotAllowed(shown) if *shown == words), "{why}");
        let said = why.to_string();
        assert!(said.contains("\"sh\" \"-c\" \"touch ") && said.contains("\\u{1b}[2J\\nready: x"), "{said}");
        assert!(said.contains("--allow-commands") && said.chars().all(p2pd_core::text::is_plain), "{said}");
        assert!(!proof.exists());
        assert_eq!(command.get(Commands::Allowed).await, Ok(Credentials::new("a", "b")));
        assert!(proof.exists());
    }

    #[tokio::test]
    async fn secrets_become_credentials_of_a_day_and_passwords_are_as_they_are() {
        let alice = TurnCredential::Password { user: "alice".into(), password: "secret".into() };
        assert_eq!(alice.get(Commands::Refused).await, Ok(Credentials::new("alice", "secret")));
        let now = SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs() as i64;
        let made = TurnCredential::Secret("north".into()).get(Commands::Refused).await.unwrap();
        let until: i64 = made.user().parse().unwrap();
        assert!((now + 86_400..now + 86_460).contains(&until));
        let again = Credentials::short_lived("north", None, WallTime::from_micros(until * 1_000_000));
        assert_eq!(made, again);
    }
}
