//! Purposes of draws of the nodes, their servers and their scenarios, among [`Domain::User`]. Programs that use this crate begin at 16.

use crate::engine::Domain;

/// The seed of a node.
pub const NODE: Domain = Domain::User(0);
/// A node's clock.
pub const CLOCK: Domain = Domain::User(1);
/// A server's treatment of a message.
pub const SERVICE: Domain = Domain::User(2);
/// The choices of a scenario.
pub const SCENARIO: Domain = Domain::User(3);
/// The acts of strangers.
pub const STRANGER: Domain = Domain::User(4);
