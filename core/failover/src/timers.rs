//! The machine's deadlines.
//!
//! Not here: what happens when one passes. The one idea: a deadline is a moment, never a flag; leaving a state takes its
//! deadlines with it.

use std::collections::BTreeMap;

use crate::words::Micros;

/// What a deadline is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
pub enum Timer {
    /// When to judge again whether the partner shows signs of life.
    Signs,
    /// When to try again what failed in this state for a reason that may pass.
    Retry,
    /// When the phase of a hand-off or of a request has taken too long.
    Limit,
    /// When to write a record again that did not get a majority.
    Record,
    /// When to release once more for a partner that does not get beyond GIVEWAIT: a leg may have come back since.
    Release,
    /// When to look again at a fence in doubt.
    Doubt,
    /// When to try refused pools again.
    Refused,
    /// When the giveback has been delayed for as long as is configured.
    Delay,
}

impl Timer {
    const ALL: [Self; 8] =
        [Self::Signs, Self::Retry, Self::Limit, Self::Record, Self::Release, Self::Doubt, Self::Refused, Self::Delay];
}

/// Deadlines set.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, serde::Serialize, serde::Deserialize)]
pub struct Timers(BTreeMap<Timer, Micros>);

impl Timers {
    /// Sets a deadline, in place of an older one.
    pub fn set(&mut self, timer: Timer, at: Micros) {
        self.0.insert(timer, at);
    }

    /// Takes a deadline back.
    pub fn stop(&mut self, timer: Timer) {
        self.0.remove(&timer);
    }

    /// Whether one is set.
    #[must_use]
    pub fn is_set(&self, timer: Timer) -> bool {
        self.0.contains_key(&timer)
    }

    /// When the phase under way has taken too long.
    #[must_use]
    pub(crate) fn limit(&self) -> Option<Micros> {
        self.0.get(&Timer::Limit).copied()
    }

    /// When the delay of the giveback ends.
    #[must_use]
    pub(crate) fn delay(&self) -> Option<Micros> {
        self.0.get(&Timer::Delay).copied()
    }

    /// The next moment anything is due.
    #[must_use]
    pub fn next(&self) -> Option<Micros> {
        self.0.values().min().copied()
    }

    /// Takes out every deadline that has passed.
    pub fn take_due(&mut self, now: Micros) -> Vec<Timer> {
        let due: Vec<Timer> =
            Timer::ALL.into_iter().filter(|timer| self.0.get(timer).is_some_and(|at| *at <= now)).collect();
        for timer in &due {
            self.0.remove(timer);
        }
        due
    }

    pub(crate) fn shift_back(&mut self, by: Micros) {
        for at in self.0.values_mut() {
            *at = at.since(by);
        }
    }
}
