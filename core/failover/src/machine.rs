//! The failover machine: facts in, orders out.
use crate::config::Config;
use crate::effect::Effects;
use crate::input::Input;
use crate::words::{Incarnation, Micros};

/// The machine of one node.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Machine {
    config: Config,
    incarnation: Incarnation,
}

impl Machine {
    /// A machine at the start of a process.
    #[must_use]
    pub fn new(config: Config, incarnation: Incarnation) -> Self {
        Self { config, incarnation }
    }

    /// Takes one fact and pushes the orders that follow from it.
    pub fn step(&mut self, _now: Micros, _input: Input, _out: &mut Effects) {}

    /// When [`Input::TimerExpired`] is due.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Micros> {
        None
    }
}
