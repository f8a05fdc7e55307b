//! Pool I/O: disks become mirrors, mirrors become volumes, volumes are media for logical units.
//!
//! Not here: who owns a pool, keys and reservations (the driver fences before [`Pool::start`] and answers through
//! [`Overseer`]), SCSI (the device above), and holding commands during a hand-off (the device again).
//!
//! Problem: two legs of a mirror must look like one disk to clients, while either leg, the path to it, or the right to
//! write to it may vanish in the middle of any write.
//!
//! Idea: *one leg answers for a region*. Every region of 1 MiB has one leg that all its reads come from, chosen by
//! arithmetic both nodes share. A write is answered when every good leg has it. So a reader never sees a newer and
//! then an older state, a region that differs between the legs is no danger until it is copied, and the copy's
//! direction is never a question.
//!
//! Invariants
//! - An acknowledged write is on every leg that the record majority calls good at that moment.
//! - Two writes that overlap, or a write and the resync of its region, never run at once (module `ranges`).
//! - A write of unknown outcome keeps its range locked and is repeated on the same disk only, after the link is up and
//!   the fence was proved anew; no other path ever carries it.
//! - A leg that is back is waited for before it is recorded good, and read only after (module `take_back`).
//! - A leg is left out only after `Overseer::drop_leg` said that this is recorded; the last good leg is never left out.
//! - A metadata version that could not be written everywhere is nowhere when its change is refused (module `commit`).
//! - A thin volume has a chunk only after it was made blank on every good leg and the metadata that says so stands there; a chunk is free
//!   only after the metadata without it stands there, and while nothing is under way on it (modules `allot` and `thin`).
//! - After [`Pool::stop`] nothing is acknowledged and nothing new is sent to a disk.
//!
//! What can fail: links, disks, power, the fence. What cannot be decided here is waited for: a client's command is
//! never failed because a path is down, only because a disk that is there cannot read or write a block.
//!
//! Rejected: alternating reads between legs (new-then-old while a write is under way, and two legs' worth of answers
//! after an unclean death); a region lock for reads (a lock per read to protect against what a fixed leg excludes).
//!
//! Everything runs on one thread: `Rc`, `Cell`, futures that are not `Send`, tasks by `spawn_local`.

mod allot;
mod commit;
pub mod initialise;
pub mod inventory;
mod leg;
mod mirror;
pub mod overseer;
mod pool;
mod ranges;
mod resync;
mod returning;
mod store;
mod switch;
mod take_back;
#[cfg(feature = "testing")]
pub mod testing;
mod thin;
mod volume;
mod witness;

pub use initialise::{Existing, InitialiseError, PoolPlan, initialise_lock_disk, initialise_pool};
pub use inventory::{Discovered, Finding, Inventory, PoolDisk, Progress, discover};
pub use overseer::{LegPlace, Overseer, Proof, Reason, ReturnNews};
pub use pool::{
    Expected, FencedLeg, InSync, LegSet, LoadError, Pool, PoolOptions, VolumeError, VolumeSummary, VolumeWish,
};
pub use resync::ResyncProgress;
pub use take_back::ReturnProgress;
pub use understudy_layout::metadata::{Protection, Provisioning};
pub use volume::VolumeMedium;
