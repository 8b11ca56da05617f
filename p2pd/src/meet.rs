//! Codes in place of addresses: `p2pd send`, `p2pd receive CODE` and `p2pd pair`.

use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::Duration;

use p2pd_core::{Code, MAX_CODES, MeetingError, MeetingNews, Name, NodeId, PeerAddress, ProtocolTag};
use p2pd_tokio::{Meeting, Node};
use serde_json::json;

use crate::invitation::Invitation;
use crate::peers;
use crate::say::Say;

/// Time for which a host waits for a guest.
const HOST_WITHIN: Duration = Duration::from_secs(600);
/// Time for which a guest looks for its host, who is there by then.
const GUEST_WITHIN: Duration = Duration::from_secs(60);

/// Thing that both sides of a meeting are for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Purpose {
    File,
    Pair,
}

impl Purpose {
    fn tag(self) -> Option<ProtocolTag> {
        ProtocolTag::new(match self {
            Purpose::File => b"p2pd file",
            Purpose::Pair => b"p2pd pair",
        })
    }
}

/// Role in a meeting: a host's command for the other side, or a guest's code.
#[derive(Debug)]
pub(crate) enum Role {
    Host(Invitation),
    Guest(Code),
}

/// News before the other side has come.
#[derive(Debug)]
pub(crate) enum Told<'a> {
    /// The code for the other side.
    Code(&'a Code),
    /// Somebody tried a wrong code, and this one is of no use any more.
    Guessed,
}

/// Meets the other side: as a guest by its code, as a host without one. Returns its address and its id, and the meeting,
/// which is over when it is dropped.
///
/// # Errors
/// Says why nobody was met.
pub(crate) async fn by_code(
    node: &Node,
    purpose: Purpose,
    code: Option<Code>,
    mut tell: impl FnMut(Told<'_>),
) -> Result<(PeerAddress, NodeId, Meeting), MeetingError> {
    let within = if code.is_some() { GUEST_WITHIN } else { HOST_WITHIN };
    let tag = purpose.tag().ok_or(MeetingError::Nobody)?;
    let mut meeting = node.meet(code, tag, within).await?;
    loop {
        match meeting.next().await.ok_or(MeetingError::Shutdown)? {
            MeetingNews::Code(code) => tell(Told::Code(&code)),
            MeetingNews::Guessed => tell(Told::Guessed),
            MeetingNews::Met(address) => {
                // The core told no address without one.
                let id = NodeId::try_from(address.node()).map_err(|_| MeetingError::Silent)?;
                return Ok((*address, id, meeting));
            }
            MeetingNews::Failed(why) => return Err(why),
            _ => {}
        }
    }
}

/// Meets the other side, and says how it goes. Returns its address and its id, and the meeting, which ends by [`leave`].
pub(crate) async fn meet(
    node: &Node,
    purpose: Purpose,
    role: &Role,
    say: Say,
) -> Result<(PeerAddress, NodeId, Meeting), ExitCode> {
    let code = match role {
        Role::Host(_) => None,
        Role::Guest(code) => Some(*code),
    };
    say.waiting(if code.is_some() { "looking for the other side" } else { "asking for a number" });
    let met = by_code(node, purpose, code, |told| {
        match (told, role) {
        (Told::Code(code), Role::Host(invitation)) => {
            say.code(code, invitation);
            say.waiting("waiting for the other side");
        }
        (Told::Code(_), Role::Guest(_)) => {}
        (Told::Guessed, _) => say.wrong(
            || json!({"event": "guessed"}),
            || format!("somebody tried a wrong code: this one is of no use any more, {MAX_CODES} are tried in all"),
        ),
    }
    });
    let (address, id, meeting) = met.await.map_err(|why| failed(why, say))?;
    say.still();
    say.line(
        || json!({"event": "met", "node_id": id.to_string()}),
        || format!("the other side has the code: {id}"),
    );
    Ok((address, id, meeting))
}

/// Waits until both sides know that they have met. Returns false to a guest that the host may not know.
pub(crate) async fn leave(mut meeting: Meeting) -> bool {
    while let Some(news) = meeting.next().await {
        if news == MeetingNews::Unconfirmed {
            return false;
        }
    }
    true
}

/// Meets the other side, and keeps it under a name.
pub(crate) async fn pair(node: &Node, role: &Role, name: Option<Name>, say: Say) -> ExitCode {
    let (address, id, meeting) = match meet(node, Purpose::Pair, role, say).await {
        Ok(met) => met,
        Err(code) => return code,
    };
    let kept = peers::keep(name, id, &address);
    match &kept {
        Ok(name) => say.line(
            || json!({"event": "paired", "name": name.as_str(), "node_id": id.to_string()}),
            || format!("paired: {} is {id}", name.as_str()),
        ),
        Err(why) => say.error(why),
    }
    if !leave(meeting).await {
        say.warning(
            "the other side has not said that it has paired too; if it has not, pair both once more, which changes nothing here",
        );
    }
    if kept.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn failed(why: MeetingError, say: Say) -> ExitCode {
    say.still();
    say.error(&why.to_string());
    ExitCode::FAILURE
}

impl Say {
    /// Prints a code, the command for the other side, and at a terminal a QR code.
    fn code(self, code: &Code, invitation: &Invitation) {
        self.still();
        self.wrong(|| json!({"event": "code", "code": code.to_string()}), || format!("code: {code}"));
        if !self.is_json() && !self.is_quiet() {
            self.above(|| invitation.tell(code));
            if std::io::stderr().is_terminal() {
                self.above(|| invitation.draw(code));
            }
        }
    }
}
