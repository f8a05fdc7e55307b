//! For tests of the simulation only (cargo feature `mistakes`, never in the product): a driver that makes one chosen mistake.
//!
//! Each is one that somebody could make in good faith while changing the driver. The simulation has to find every one of them.

use std::cell::Cell;
use std::rc::Rc;

use bytes::Bytes;
use futures_util::future::{FutureExt as _, LocalBoxFuture};
use tokio::task::spawn_local;
use understudy_device::medium::{Durability, Geometry, Medium, MediumError, Stretch};
use understudy_device::{Answer, Carried, Elsewhere, Sent, TaskManagement, TaskManagementResponse};

/// Something the driver does wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mistake {
    /// The fence of a pool is said to stand without having been read back.
    FenceNotReadBack,
    /// The partner's keys are removed, but its commands under way are not aborted and may land later.
    PreemptWithoutAbort,
    /// A record whose outcome is not known is said to be written.
    UnknownIsWritten,
    /// A record counts where its write was acknowledged; it is not read again from its place.
    RecordNotReadBack,
    /// A leg is used no more before its loss stands in the records.
    LegDroppedUnrecorded,
    /// A pool is handed over while commands are under way.
    HeldWithoutDrain,
    /// Mirrors are read from any leg after a takeover, whatever the record says.
    LegsTakenForEqual,
    /// A pool is closed without ending what its units have under way.
    ClosedUnfenced,
    /// A write may go out in a new session before the fence was proved again.
    EverySessionTrusted,
    /// A write of unknown outcome is sent again while the first may still be under way: no LOGICAL UNIT RESET before it.
    UnknownWriteRepeated,
    /// Legs recorded bad are part of their mirror when the pool is opened.
    DroppedLegsRead,
    /// A write is answered before any leg has it.
    AnsweredTooEarly,
    /// A flush is answered without being carried out.
    FlushForgotten,
    /// A write that has to be on the medium is answered from the cache.
    ForceForgotten,
    /// A forwarded command whose session ended before it was answered counts as one that was never sent.
    UnansweredIsUnsent,
}

impl Mistake {
    /// Every one.
    pub const ALL: [Self; 15] = [
        Self::FenceNotReadBack,
        Self::PreemptWithoutAbort,
        Self::UnknownIsWritten,
        Self::RecordNotReadBack,
        Self::LegDroppedUnrecorded,
        Self::HeldWithoutDrain,
        Self::LegsTakenForEqual,
        Self::ClosedUnfenced,
        Self::EverySessionTrusted,
        Self::UnknownWriteRepeated,
        Self::DroppedLegsRead,
        Self::AnsweredTooEarly,
        Self::FlushForgotten,
        Self::ForceForgotten,
        Self::UnansweredIsUnsent,
    ];
}

thread_local! {
    static MADE: Cell<Option<Mistake>> = const { Cell::new(None) };
}

/// From now on drivers of this thread make this mistake, or none.
pub fn make(mistake: Option<Mistake>) {
    MADE.set(mistake);
}

pub(super) fn is_made(mistake: Mistake) -> bool {
    MADE.get() == Some(mistake)
}

/// The way to the partner, where the mistake about forwarded commands is made.
struct Forgetful(Rc<dyn Elsewhere>);

/// The way, and who forgets in front of it that a command was sent.
pub(super) fn beyond(way: Rc<dyn Elsewhere>) -> Rc<dyn Elsewhere> {
    Rc::new(Forgetful(way))
}

impl Elsewhere for Forgetful {
    fn session(&self) -> Option<u64> {
        self.0.session()
    }

    fn changed(&self, seen: Option<u64>) -> LocalBoxFuture<'_, ()> {
        self.0.changed(seen)
    }

    fn send(&self, command: &Carried) -> Option<Sent> {
        let Sent { reference, answer } = self.0.send(command)?;
        let forgotten = |answer| match answer {
            Answer::Unknown if is_made(Mistake::UnansweredIsUnsent) => Answer::NotSent,
            other => other,
        };
        Some(Sent { reference, answer: answer.map(forgotten).boxed_local() })
    }

    fn manage(
        &self,
        function: TaskManagement,
        lun: u64,
        referenced: Option<u32>,
    ) -> LocalBoxFuture<'_, Option<TaskManagementResponse>> {
        self.0.manage(function, lun, referenced)
    }

    fn close(&self) -> LocalBoxFuture<'_, ()> {
        self.0.close()
    }
}

/// A volume between its logical unit and its pool, where the mistakes about answers are made.
struct Hasty(Rc<dyn Medium>);

/// The medium, and whoever answers too early in front of it.
pub(super) fn before(medium: Rc<dyn Medium>) -> Rc<dyn Medium> {
    Rc::new(Hasty(medium))
}

impl Medium for Hasty {
    fn geometry(&self) -> Geometry {
        self.0.geometry()
    }

    fn read(&self, lba: u64, blocks: u32) -> LocalBoxFuture<'_, Result<Bytes, MediumError>> {
        self.0.read(lba, blocks)
    }

    fn write(&self, lba: u64, bytes: Bytes, durability: Durability) -> LocalBoxFuture<'_, Result<(), MediumError>> {
        if is_made(Mistake::AnsweredTooEarly) {
            let medium = Rc::clone(&self.0);
            spawn_local(async move { medium.write(lba, bytes, durability).await });
            return Box::pin(async { Ok(()) });
        }
        let durability = if is_made(Mistake::ForceForgotten) { Durability::Cached } else { durability };
        self.0.write(lba, bytes, durability)
    }

    fn flush(&self) -> LocalBoxFuture<'_, Result<(), MediumError>> {
        if is_made(Mistake::FlushForgotten) {
            return Box::pin(async { Ok(()) });
        }
        self.0.flush()
    }

    fn zero(&self, lba: u64, blocks: u64) -> LocalBoxFuture<'_, Result<(), MediumError>> {
        self.0.zero(lba, blocks)
    }

    fn unmap(&self, ranges: Vec<(u64, u64)>) -> LocalBoxFuture<'_, Result<(), MediumError>> {
        self.0.unmap(ranges)
    }

    fn stretches(&self, lba: u64, most: usize) -> LocalBoxFuture<'_, Result<Vec<Stretch>, MediumError>> {
        self.0.stretches(lba, most)
    }

    fn keep_state(&self, state: Vec<u8>) -> LocalBoxFuture<'_, Result<(), MediumError>> {
        self.0.keep_state(state)
    }
}
