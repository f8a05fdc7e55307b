//! What a pool asks of whoever drives it: proofs of the fence, and records of legs that are lost or back.
//!
//! The pool never reads a reservation and never writes a record itself; it only refuses to go on without the answer.

use std::fmt;
use std::rc::Rc;

use futures_util::future::LocalBoxFuture;
use understudy_disk::disk::Disk;

/// Position of a disk in its pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct LegPlace {
    /// The mirror.
    pub mirror: u16,
    /// The leg within it.
    pub leg: u8,
}

impl fmt::Display for LegPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "mirror {} leg {}", self.mirror, self.leg)
    }
}

/// Why a proof is wanted; later ones include the earlier ones' demands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// A new session or a reset: the fence was proved for an older one.
    NewLink,
    /// The disk refused a command with RESERVATION CONFLICT, TASK ABORTED or a unit attention: somebody changed
    /// something. Nothing is acknowledged until the answer is there.
    Conflict,
    /// A command's outcome is unknown. The answer must also stand for this: no command of this node's earlier session
    /// can reach the medium any more (session reinstated, or LOGICAL UNIT RESET done).
    OutcomeUnknown,
}

/// What READ KEYS and READ RESERVATION said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Proof {
    /// This node's fence stands on the disk, and what the reason demands was done.
    Held {
        /// The link's epoch it was proved in: the present one, or a newer one if a reset was part of the proof.
        epoch: u64,
    },
    /// It does not: this node is the victim. The pool stops itself.
    Lost,
    /// The disk could not be asked, or what the reason demands could not be done; ask again.
    Unknown,
}

/// What happens to a leg on its way back, for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReturnNews {
    /// It is fenced and is copied to from now on.
    Begun,
    /// So much of it is copied; told at every quarter.
    Copied {
        /// Whole percent of the regions in use.
        percent: u8,
    },
    /// It is recorded good.
    Good,
    /// This attempt came to nothing; there will be another.
    GivenUp(&'static str),
}

/// The driver's side. All calls may take their time; commands wait meanwhile.
pub trait Overseer {
    /// Proves the fence on this disk by READ KEYS and READ RESERVATION.
    fn prove_fence<'a>(&'a self, place: LegPlace, disk: &'a dyn Disk, reason: Reason) -> LocalBoxFuture<'a, Proof>;

    /// Records on a majority of the lock disks that this leg is not good any more. True only when it stands there.
    fn drop_leg(&self, place: LegPlace) -> LocalBoxFuture<'_, bool>;

    /// The disk at a place of the pool, whether its leg is good or not; `None` if the pool has no such place.
    fn disk_of(&self, place: LegPlace) -> Option<Rc<dyn Disk>>;

    /// Puts this node's fence on the disk of a dropped leg, foreign keys removed and every command aborted that an owner, this one
    /// included, sent it before; then proves it. Anything but `Held`: not now.
    fn fence_leg<'a>(&'a self, place: LegPlace, disk: &'a dyn Disk) -> LocalBoxFuture<'a, Proof>;

    /// A dropped leg has everything, and nothing is acknowledged without it any more: to be recorded good. Answered by
    /// [`crate::Pool::leg_recorded_good`] once that stands on a majority of the lock disks; told again while it is not.
    fn leg_resynced(&self, place: LegPlace);

    /// What happens to a leg on its way back.
    fn tell(&self, place: LegPlace, news: ReturnNews);

    /// Reads from a majority of the lock disks, after this call, that this node has not lost its pools. False as long as it cannot be said.
    fn is_still_owner(&self) -> LocalBoxFuture<'_, bool>;

    /// Told once, after [`Proof::Lost`]: the pool has stopped itself.
    fn fenced(&self, place: LegPlace);
}
