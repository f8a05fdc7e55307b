//! Deliberate mistakes of the driver and of the failover machine, by their names; only with the feature `mistakes`.
//!
//! A judge that finds nothing proves nothing until it was seen to find something. Each mistake comes with the first of the seeds that are
//! tried, a few, and the kinds of faults of its weather, so that the search is short; which of them finds it, and what judged it, is told.

use understudy::driver::mistakes::{self, Mistake};
use understudy_failover::mutants::{self, Mutant};

/// Somebody's mistake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deliberate {
    /// The driver's.
    Driver(Mistake),
    /// The machine's.
    Machine(Mutant),
}

impl Deliberate {
    /// Its name.
    #[must_use]
    pub fn name(self) -> String {
        match self {
            Self::Driver(mistake) => format!("{mistake:?}"),
            Self::Machine(mutant) => format!("{mutant:?}"),
        }
    }

    /// Every one, whether it is known to be found or not.
    #[must_use]
    pub fn all() -> Vec<Self> {
        Mistake::ALL.into_iter().map(Self::Driver).chain(Mutant::ALL.into_iter().map(Self::Machine)).collect()
    }

    /// The one of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::all().into_iter().find(|one| one.name() == name)
    }

    /// Nodes of this thread make it from now on, until what this returns is dropped.
    #[must_use]
    pub fn made(self) -> Making {
        match self {
            Self::Driver(mistake) => mistakes::make(Some(mistake)),
            Self::Machine(mutant) => mutants::switch(Some(mutant)),
        }
        Making
    }
}

/// A mistake is made.
pub struct Making;

impl Drop for Making {
    fn drop(&mut self) {
        mistakes::make(None);
        mutants::switch(None);
    }
}
