//! STUN Binding (RFC 8489): a server tells how it sees a socket of ours.
//!
//! ```
//! use p2pd_core::Transport;
//! use p2pd_core::stun::{BindingOutcome, TransactionId, binding_request, decode_binding};
//!
//! // Twelve random bytes, by which the answer is known.
//! let request = binding_request(TransactionId([7; 12]), None);
//! # let mut answer = request.to_vec();
//! # (answer[0], answer[3]) = (1, 12);
//! # answer.truncate(20);
//! # answer.extend([0, 0x20, 0, 8, 0, 1, 0x2e, 0xb2, 0xe8, 0x12, 0xd5, 0x43]);
//! let reply = decode_binding(&answer, Transport::Udp).unwrap();
//! assert_eq!(reply.transaction, TransactionId([7; 12]));
//! assert_eq!(reply.outcome, BindingOutcome::Mapped(([201, 0, 113, 1], 4000).into()));
//! ```

pub use crate::wire::guard::{GuardError, Rule};
pub use crate::wire::stun::{
    BindingOutcome, BindingReply, ChangeRequest, StunError, StunSplitter, TransactionId, binding_request,
    decode_binding,
};
