//! Who may make us do what.

pub(crate) mod reach;
