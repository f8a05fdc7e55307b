//! Deliberate mistakes, one at a time, that the random schedules have to find.
//!
//! Compiled only with the feature `mutants`, never part of the product. The one idea: a checker that finds nothing has to show first that
//! it can find something.

use std::cell::Cell;

/// One mistake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mutant {
    /// Serves after the fence without the second look.
    SkipVerify,
    /// Announces a COMMIT that is not yet known to stand.
    AnnounceBeforeCommit,
    /// Opens and serves without waiting for the fence.
    ServeBeforeFence,
    /// The release leaves no write guard (carried out by the simulated driver).
    ReleaseWithoutGuard,
    /// Takes any reading of the lock disks for the one ordered after the fence.
    IgnoreOpNumbers,
    /// Takes a record on one lock disk for one on a majority.
    ServeOnMinorityRecord,
    /// Goes on after a COMMIT of unknown outcome without an ABORT.
    ResumeAfterCommitSent,
    /// PREEMPT instead of PREEMPT AND ABORT (carried out by the simulated driver).
    PlainPreempt,
    /// Acknowledges without a leg before that is recorded (carried out by the simulated driver).
    DropLegUnrecorded,
}

thread_local! {
    static ON: Cell<Option<Mutant>> = const { Cell::new(None) };
}

/// Switches one mistake on, or all off, for this thread.
pub fn switch(mutant: Option<Mutant>) {
    ON.with(|on| on.set(mutant));
}

/// Whether this mistake is made.
#[must_use]
pub fn is_on(mutant: Mutant) -> bool {
    ON.with(|on| on.get() == Some(mutant))
}
