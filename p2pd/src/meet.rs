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

/// Meets the other side. Returns its address and its id, and the meeting, which ends by [`leave`].
pub(crate) async fn meet(
    node: &Node,
    purpose: Purpose,
    role: &Role,
    say: Say,
) -> Result<(PeerAddress, NodeId, Meeting), ExitCode> {
    let (code, within) = match role {
        Role::Host(_) => (None, HOST_WITHIN),
        Role::Guest(code) => (Some(*code), GUEST_WITHIN),
    };
    let begun = match purpose.tag() {
        Some(tag) => node.meet(code, tag, within).await,
        None => Err(MeetingError::Nobody),
    };
    let mut meeting = begun.map_err(|why| failed(why, say))?;
    say.waiting(if code.is_some() { "looking for the other side" } else { "asking for a number" });
    loop {
        match (meeting.next().await, role) {
            (Some(MeetingNews::Code(code)), Role::Host(invitation)) => {
                say.code(&code, invitation);
                say.waiting("waiting for the other side");
            }
            (Some(MeetingNews::Guessed), _) => say.wrong(
                || json!({"event": "guessed"}),
                || format!("somebody tried a wrong code: this one is of no use any more, {MAX_CODES} are tried in all"),
            ),
            (Some(MeetingNews::Met(address)), _) => {
                say.still();
                // The core told no address without one.
                let Ok(id) = NodeId::try_from(address.node()) else {
                    return Err(failed(MeetingError::Silent, say));
                };
                say.line(
                    || json!({"event": "met", "node_id": id.to_string()}),
                    || format!("the other side has the code: {id}"),
                );
                return Ok((*address, id, meeting));
            }
            (Some(MeetingNews::Failed(why)), _) => return Err(failed(why, say)),
            (Some(_), _) => {}
            (None, _) => return Err(failed(MeetingError::Shutdown, say)),
        }
    }
}

/// Waits until both sides know that they have met. Returns false to a guest that the host may not know.
async fn leave(mut meeting: Meeting) -> bool {
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
