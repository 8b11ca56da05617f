//! Credentials for a TURN server, out of a server list's entry.

use std::fmt;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use p2pd_core::text::shown;
use p2pd_core::turn::Credentials;
use p2pd_core::{Login, ServerRef, TurnAuth};
use tokio::io::AsyncReadExt;
use tokio::process::Command;

use p2pd_sys::servers::{LoginSource, Servers};

/// Longest time of a command.
const PATIENCE: Duration = Duration::from_secs(10);
/// Most bytes of a command's output.
const LONGEST: u64 = 4096;

/// Permission for a list to run programs of this machine.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum Commands {
    /// No program runs: the list may be anybody's.
    #[default]
    Refused,
    /// Programs of the list run: whoever gave it trusts it with that.
    Allowed,
}

/// Returns what a list's program prints for a TURN server. It writes to the standard error of this program.
///
/// # Errors
/// Says what is wrong with the command or with its output, or that the command is not allowed.
pub async fn credentials(command: &[String], commands: Commands) -> Result<TurnAuth, CredentialError> {
    let (user, password) = printed(command, commands).await?;
    Ok(TurnAuth::Renewed(Some(Credentials::new(&user, &password))))
}

/// Sources of what is good for a while: a list whose programs were allowed to run.
#[derive(Clone, Default, Debug)]
pub struct Renewals(Arc<Servers>);

impl Renewals {
    /// Takes the sources of logins from a list, for a node with the same servers.
    pub fn of(servers: &Servers) -> Self {
        Renewals(Arc::new(servers.clone()))
    }

    /// A login that is good now. The command of a list that was allowed to run one runs again.
    ///
    /// # Errors
    /// Says why there is none.
    pub async fn get(&self, server: ServerRef) -> Result<Login, CredentialError> {
        let stays = || CredentialError::Failed("its login stays as it is".into());
        match self.0.source(server).ok_or_else(stays)? {
            LoginSource::Command(command) => {
                let (user, password) = printed(&command, Commands::Allowed).await?;
                Ok(Login::new(&user, Some(&password)))
            }
            source => source.read().ok_or_else(stays)?.map_err(CredentialError::Failed),
        }
    }
}

/// Runs the commands that print user names and passwords of brokers, and gives each broker its output. Returns the
/// brokers that are left without, with their places in the list.
///
/// # Errors
/// A command that is not allowed.
pub async fn log_in(
    servers: &mut Servers,
    commands: Commands,
) -> Result<Vec<(usize, CredentialError)>, CredentialError> {
    let mut failed = Vec::new();
    for (place, broker) in servers.brokers.iter_mut().enumerate() {
        let Some(LoginSource::Command(command)) = servers.logins.get(&broker.id) else { continue };
        match printed(command, commands).await {
            Ok((user, password)) => broker.login = Some(Login::new(&user, Some(&password))),
            Err(why @ CredentialError::NotAllowed(_)) => return Err(why),
            Err(why) => failed.push((place, why)),
        }
    }
    Ok(failed)
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

    async fn sh(script: &str) -> Result<TurnAuth, String> {
        credentials(&["sh", "-c", script].map(String::from), Commands::Allowed)
            .await
            .map_err(|why| why.to_string())
    }

    fn renewed(user: &str, password: &str) -> TurnAuth {
        TurnAuth::Renewed(Some(Credentials::new(user, password)))
    }

    #[tokio::test]
    async fn commands_print_a_name_and_a_password() {
        assert_eq!(sh("echo alice; echo 'se cret'").await, Ok(renewed("alice", "se cret")));
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
        let missing =
            credentials(&["/nonexistent/program".into()], Commands::Allowed).await.unwrap_err().to_string();
        assert!(missing.contains("/nonexistent/program: No such file"), "{missing}");
    }

    #[tokio::test]
    async fn a_command_that_nobody_allowed_is_not_run_and_is_shown() {
        let dir = tempfile::tempdir().unwrap();
        let proof = dir.path().join("ran");
        let words = ["sh", "-c", &format!("touch {}; echo a; echo b", proof.display()), "\x1b[2J\nready: x"];
        let command = words.map(String::from);
        let why = credentials(&command, Commands::Refused).await.unwrap_err();
        assert!(matches!(&why, CredentialError::NotAllowed(shown) if *shown == words), "{why}");
        let said = why.to_string();
        assert!(said.contains("\"sh\" \"-c\" \"touch ") && said.contains("\\u{1b}[2J\\nready: x"), "{said}");
        assert!(said.contains("--allow-commands") && said.chars().all(p2pd_core::text::is_plain), "{said}");
        assert!(!proof.exists());
        assert_eq!(credentials(&command, Commands::Allowed).await, Ok(renewed("a", "b")));
        assert!(proof.exists());
    }

    #[tokio::test]
    async fn a_list_says_where_new_logins_come_from() {
        let dir = tempfile::tempdir().unwrap();
        let (list, password) = (dir.path().join("servers.toml"), dir.path().join("password"));
        std::fs::write(&password, "first\n").unwrap();
        let text = r#"
            [[mqtt]]
            id = 7
            host = "a"
            user = "u"
            password_file = "password"
            [[turn]]
            host = "a"
            auth = "none"
            [[turn]]
            host = "a"
            credential_command = ["sh", "-c", "echo x; echo y"]
        "#;
        std::fs::write(&list, text).unwrap();
        let servers = Servers::read(&list).unwrap();
        assert!(servers.brokers[0].renews);
        assert_eq!(servers.turn[0].for_node().auth, TurnAuth::Nobody);
        let renewals = Renewals::of(&servers);
        std::fs::write(&password, "second\n").unwrap();
        assert_eq!(renewals.get(ServerRef::Broker(7)).await, Ok(Login::new("u", Some("second"))));
        assert_eq!(renewals.get(ServerRef::Turn(1)).await, Ok(Login::new("x", Some("y"))));
        assert!(renewals.get(ServerRef::Turn(0)).await.is_err());
    }
}
