//! Who may make this node do what, as far as that is decided in one place.

pub(super) mod door;
pub(super) mod places;
pub(super) mod source;
