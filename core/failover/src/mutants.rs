//! Deliberate mistakes, one at a time, that the random schedules and the model checker have to find.
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
    /// Takes the end of a fence from the status of its commands instead of reading it back (carried out by the model's driver).
    SkipReadBack,
    /// Opens the portals before the fence was seen.
    PortalsBeforeFence,
    /// Sends a write of unknown outcome again while the first may still land (carried out by the model's driver).
    RepeatUnknownWrite,
    /// Takes metadata older than recorded for good.
    OldMetadata,
    /// Hands out the same generation again.
    SameGeneration,
    /// Hands out whatever is next, also what the partner may hand out.
    ShareGenerations,
    /// Takes a contest for won though the partner has registered since.
    OverlookReturn,
    /// Keeps pools it cannot serve beside a partner that could.
    KeepUnopened,
    /// Gives back to a partner that finds other disks.
    IgnoreInventory,
    /// Takes a unit attention for defeat without looking.
    AttentionIsDefeat,
    /// Does not look for a claim of the partner's when it verifies or is told of the lock disks.
    IgnoreOtherClaim,
    /// Writes the next record over the one that stands.
    OverwriteStanding,
    /// Takes RELEASED for another incarnation for its own.
    AnyRelease,
    /// Gives the partner its service back before the giveback.
    CloseEarly,
    /// Leaves the pools of a partner that died where they are.
    LeaveOrphans,
    /// Does not look for the partner's release.
    OverlookRelease,
    /// Answers a read from one leg without asking whether the others, or the lock disks, are still this node's (carried out by the
    /// model's clients).
    ReadUnwitnessed,
    /// Tries a pool that was contested and refused again with a fence that lets others read.
    RetryWithGuard,
    /// Never leaves a leg out that it cannot reach.
    KeepLostLegs,
    /// Takes an announced COMMIT in MBWAIT only.
    OverlookAnnouncement,
    /// Serves the partner's pools while the partner has its own.
    ServeCrosswise,
    /// Closes the portals of its home when one of the pools leaves.
    ClosePortalsOfPart,
    /// Claims every own pool when a COMMIT of some is announced.
    ClaimWholeHome,
}

impl Mutant {
    /// Every one.
    pub const ALL: [Self; 32] = [
        Self::SkipVerify,
        Self::AnnounceBeforeCommit,
        Self::ServeBeforeFence,
        Self::ReleaseWithoutGuard,
        Self::IgnoreOpNumbers,
        Self::ServeOnMinorityRecord,
        Self::ResumeAfterCommitSent,
        Self::PlainPreempt,
        Self::DropLegUnrecorded,
        Self::SkipReadBack,
        Self::PortalsBeforeFence,
        Self::RepeatUnknownWrite,
        Self::OldMetadata,
        Self::SameGeneration,
        Self::ShareGenerations,
        Self::OverlookReturn,
        Self::KeepUnopened,
        Self::IgnoreInventory,
        Self::AttentionIsDefeat,
        Self::IgnoreOtherClaim,
        Self::OverwriteStanding,
        Self::AnyRelease,
        Self::CloseEarly,
        Self::LeaveOrphans,
        Self::OverlookRelease,
        Self::ReadUnwitnessed,
        Self::RetryWithGuard,
        Self::KeepLostLegs,
        Self::OverlookAnnouncement,
        Self::ServeCrosswise,
        Self::ClosePortalsOfPart,
        Self::ClaimWholeHome,
    ];
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
