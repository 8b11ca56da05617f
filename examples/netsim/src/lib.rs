//! Programs that know nothing of simulations, and are tested in simulated internets.

pub mod chat;
pub mod texts;
