//! `p2pd name`, and the file with the keys of names.

use std::path::PathBuf;
use std::process::ExitCode;

use p2pd_core::{Event, Name, NameError, NameNews};
use p2pd_sys::{NatFile, PinFile};
use p2pd_tokio::{NamePin, Node};

use crate::options::{Common, NameCommand};
use crate::say::Say;

/// Returns the file with the keys of names: the user's choice, else beside the key file, else in the home folder.
pub(crate) fn pin_file(common: &Common) -> Result<PinFile, String> {
    let path = common.names.clone().or_else(|| state_file(common, "names"));
    Ok(PinFile::new(path.ok_or("no home directory: give --names")?))
}

/// Returns the file with what the NATs of networks remember: beside the key file, else in the home folder.
pub(crate) fn nat_file(common: &Common) -> Option<NatFile> {
    state_file(common, "nat").map(NatFile::new)
}

fn state_file(common: &Common, what: &str) -> Option<PathBuf> {
    match &common.identity {
        Some(key) => {
            let mut path = key.clone().into_os_string();
            path.push(format!(".{what}"));
            Some(PathBuf::from(path))
        }
        None => Some(std::env::home_dir()?.join(".p2pd").join(what)),
    }
}

/// A name belongs to a key, and without a file the key is gone when the program ends.
pub(crate) fn needs_identity(common: &Common) -> Result<(), String> {
    match common.identity {
        Some(_) => Ok(()),
        None => Err("a name belongs to a key that lasts: give --identity".into()),
    }
}

/// Stores the key of a name that the event reports.
pub(crate) fn keep(file: &PinFile, event: &Event, say: Say) {
    if let Event::Name { name, news } = event
        && let NameNews::Pinned { id, sequence } = **news
        && let Err(why) = file.keep(NamePin { name: *name, id, sequence })
    {
        say.error(&why.to_string());
    }
}

/// Takes a name for the node. Where no broker is there, a node that `stays` takes it when one comes.
pub(crate) async fn register(
    node: &Node,
    name: Name,
    stays: bool,
    file: &PinFile,
    say: Say,
) -> Result<(), ExitCode> {
    let mut events = node.events();
    let waits = async {
        loop {
            match events.recv().await {
                Some(Ok(Event::Name { name: of, news })) if of == name && *news == NameNews::Waiting => {
                    return;
                }
                Some(_) => {}
                None => std::future::pending().await,
            }
        }
    };
    say.waiting("registering the name");
    let mut registering = tokio::spawn({
        let node = node.clone();
        async move { node.register(name).await }
    });
    tokio::select! {
        outcome = &mut registering => told(name, outcome.unwrap_or(Err(NameError::Shutdown)), file, say),
        () = waits => {
            if !stays {
                return Err(failed(name, NameError::NoBroker, file, say));
            }
            tokio::spawn(async move {
                // A failure is said by the event of it.
                if let Ok(Ok(brokers)) = registering.await {
                    say.registered(name, brokers);
                }
            });
            Ok(())
        }
    }
}

fn told(name: Name, outcome: Result<u8, NameError>, file: &PinFile, say: Say) -> Result<(), ExitCode> {
    match outcome {
        Ok(brokers) => {
            say.registered(name, brokers);
            Ok(())
        }
        Err(why) => Err(failed(name, why, file, say)),
    }
}

/// Carries out a command that needs a node.
pub(crate) async fn run(node: &Node, command: &NameCommand, file: &PinFile, say: Say) -> ExitCode {
    match *command {
        NameCommand::Register { name, .. } => match register(node, name, false, file, say).await {
            Ok(()) => ExitCode::SUCCESS,
            Err(code) => code,
        },
        NameCommand::Resolve { name, .. } => {
            say.waiting("asking for the name");
            match node.resolve(name).await {
                Ok(address) => {
                    say.still();
                    if say.print(&address.to_string()) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
                }
                Err(why) => failed(name, why, file, say),
            }
        }
        NameCommand::Release { name, .. } => {
            say.waiting("giving the name up");
            match node.release(name).await {
                Ok(brokers) => {
                    say.released(name, brokers);
                    ExitCode::SUCCESS
                }
                Err(why) => failed(name, why, file, say),
            }
        }
        NameCommand::Forget { name, .. } => forget(name, file, say),
    }
}

/// Forgets which key a name had.
pub(crate) fn forget(name: Name, file: &PinFile, say: Say) -> ExitCode {
    match file.forget(name) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => {
            say.error(&format!("{name} is not in {}", file.path().display()));
            ExitCode::FAILURE
        }
        Err(why) => {
            say.error(&why.to_string());
            ExitCode::FAILURE
        }
    }
}

fn failed(name: Name, why: NameError, file: &PinFile, say: Say) -> ExitCode {
    let hint = match why {
        NameError::OtherKey { .. } => {
            let file = file.path().display();
            format!("; if that is right: p2pd name forget {name} --names {file}")
        }
        _ => String::new(),
    };
    say.error(&format!("{name}: {why}{hint}"));
    ExitCode::FAILURE
}
