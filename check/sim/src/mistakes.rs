//! Deliberate mistakes of the driver and of the failover machine, by their names; only with the feature `mistakes`.
//!
//! A judge that finds nothing proves nothing until it was seen to find something. Each mistake comes with the first of the seeds that are
//! tried, a few, and the kinds of faults of its weather, so that the search is short; which of them finds it, and what judged it, is told.

use understudy::driver::mistakes::{self, Mistake};
use understudy_failover::mutants::{self, Mutant};

use crate::plan::Plan;
use crate::run::{Outcome, run};
use crate::weather::Kind;

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

/// A mistake that has to be found, and where to look for it.
#[derive(Debug, Clone, Copy)]
pub struct Case {
    /// Which.
    pub mistake: Deliberate,
    /// Kinds of faults that bring it out.
    pub kinds: &'static [Kind],
    /// First seed tried.
    pub first: u64,
    /// Seeds tried at most.
    pub seeds: u64,
}

impl Case {
    /// Twelve seeds from the first on.
    const fn new(mistake: Deliberate, kinds: &'static [Kind]) -> Self {
        Self { mistake, kinds, first: 1, seeds: 12 }
    }

    /// The first run that goes wrong with the mistake made, and holds without it.
    #[must_use]
    pub fn find(&self) -> Option<Outcome> {
        let plans = (self.first..self.first + self.seeds).map(|seed| Plan::in_weather(seed, self.kinds));
        let blamed = |plan: Plan| {
            let made = self.mistake.made();
            let outcome = run(&plan);
            drop(made);
            (outcome.failure.is_some() && run(&plan).failure.is_none()).then_some(outcome)
        };
        plans.into_iter().find_map(blamed)
    }
}

/// Those that have to be found.
pub const KNOWN: [Case; 9] = [
    Case::new(Deliberate::Driver(Mistake::FenceNotReadBack), &[Kind::Stop, Kind::Kill, Kind::CutAll]),
    Case::new(Deliberate::Driver(Mistake::RecordNotReadBack), &[Kind::Damage, Kind::Kill, Kind::CutPath]),
    Case::new(Deliberate::Driver(Mistake::DroppedLegsRead), &[Kind::BadDisk, Kind::Kill]),
    Case::new(Deliberate::Driver(Mistake::AnsweredTooEarly), &[Kind::Kill, Kind::SlowDisk]),
    Case::new(Deliberate::Driver(Mistake::FlushForgotten), &[Kind::ShelfPower, Kind::Kill]),
    Case::new(Deliberate::Driver(Mistake::ForceForgotten), &[Kind::ShelfPower, Kind::Kill]),
    // A fence is one round trip, and what else a claim waits for is no shorter: a fence that takes several tries shows it.
    Case::new(Deliberate::Machine(Mutant::ServeBeforeFence), &[Kind::Kill, Kind::BadDisk, Kind::Crowd]),
    Case::new(Deliberate::Driver(Mistake::UnansweredIsUnsent), &[Kind::DropForward, Kind::CutForward]),
    Case::new(Deliberate::Machine(Mutant::KeepLostLegs), &[Kind::LoseLeg, Kind::KillBoth]),
];

/// A mistake is made.
pub struct Making;

impl Drop for Making {
    fn drop(&mut self) {
        mistakes::make(None);
        mutants::switch(None);
    }
}
