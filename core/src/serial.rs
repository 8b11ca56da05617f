//! What can be serialized, for programs that pass reports and events on.
//!
//! Words that people read stand as text, names of alternatives in small letters with `_`, and times in seconds.

use core::time::Duration;

use serde::{Serialize, Serializer};

use crate::address::{NodeText, PeerAddress};
use crate::event::{Advice, BrokerLoss, ConnectId, FailReason, Outcome, Refusal, Stage, Strategy};
use crate::identity::NodeId;
use crate::io::{IoFailure, LinkKind};
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
    Delta,
    DeltaType,
    FailReason,
    Filtering,
    IoFailure,
    MapError,
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

impl Serialize for PipeId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(self.number())
    }
}

pub(crate) fn seconds<S: Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(time.as_secs_f64())
}

pub(crate) fn maybe_seconds<S: Serializer>(
    time: &Option<Duration>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    time.map(|time| time.as_secs_f64()).serialize(serializer)
}

pub(crate) fn all<S: Serializer, T: Serialize>(
    list: &impl AsRef<[T]>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(list.as_ref())
}
