//! Serialization of reports and events, for programs that pass them on.
//!
//! Words that people read stand as text, names of alternatives in small letters with `_`, and times in seconds.

use serde::{Serialize, Serializer};

use crate::address::{NodeText, PeerAddress};
use crate::call::{ConnectId, Refusal, Strategy};
use crate::event::{Advice, BrokerLoss, FailReason, Outcome, Stage};
use crate::failure::IoFailure;
use crate::identity::NodeId;
use crate::io::LinkKind;
use crate::meeting::{Code, MeetingError, MeetingId};
use crate::name::{Name, NameError};
use crate::nat::{Delta, DeltaType, Filtering, Mapping, NatType, Verdict};
use crate::pipe::{PipeId, PipeMode};
use crate::portmap::{MapError, Truth, Way};

macro_rules! as_text {
    ($($kind:ty),+ $(,)?) => {$(
        impl Serialize for $kind {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
    )+};
}

as_text!(
    Advice,
    BrokerLoss,
    Code,
    Delta,
    DeltaType,
    FailReason,
    Filtering,
    IoFailure,
    MapError,
    MeetingError,
    Mapping,
    Name,
    NameError,
    NatType,
    NodeId,
    NodeText,
    PeerAddress,
    PipeMode,
    Refusal,
    Stage,
    Strategy,
    Truth,
    Way,
);

macro_rules! as_name {
    ($($kind:ty),+ $(,)?) => {$(
        impl Serialize for $kind {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.name())
            }
        }
    )+};
}

as_name!(LinkKind, Outcome, Verdict);

impl Serialize for ConnectId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u32(self.number())
    }
}

impl Serialize for MeetingId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u32(self.number())
    }
}

impl Serialize for PipeId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(self.number())
    }
}
