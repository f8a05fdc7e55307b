//! What a logical unit keeps its blocks on: a shelf's file, or a volume of a pool.
//!
//! A medium knows blocks and durability, no SCSI: reservations, unit attentions and the task set live in the logical
//! unit above it. Extents handed to a medium were already checked against its geometry.

use bytes::Bytes;
use futures_util::future::LocalBoxFuture;
use thiserror::Error;

/// Size and block length of a medium.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Geometry {
    /// Bytes per logical block: 512 or 4096.
    pub block_bytes: u32,
    /// Number of logical blocks.
    pub blocks: u64,
}

/// Why a medium did not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum MediumError {
    /// These blocks could not be read (MEDIUM ERROR, 11h/00h).
    #[error("unrecovered read error at block {lba}")]
    Read {
        /// First block that failed.
        lba: u64,
    },
    /// These blocks could not be written (MEDIUM ERROR, 0Ch/00h).
    #[error("write error at block {lba}")]
    Write {
        /// First block that failed.
        lba: u64,
    },
    /// No space left for a thin medium (DATA PROTECT, 27h/07h).
    #[error("no space left")]
    NoSpace,
    /// This node must not answer any more: the command gets no status and the session is closed.
    #[error("not the owner any more")]
    Fenced,
}

/// Whether a write must be on the medium before it is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// May sit in a cache until the next flush.
    Cached,
    /// On the medium before the answer (FUA).
    ForceUnitAccess,
}

/// Whether blocks have a place of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Provisioned {
    /// They do, or it is not known that they do not.
    Mapped,
    /// They do not, and read as zeroes.
    Deallocated,
}

/// Blocks one after the other of which the same is true.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stretch {
    /// How many.
    pub blocks: u64,
    /// What is true of them.
    pub state: Provisioned,
}

/// Blocks of one logical unit.
pub trait Medium {
    /// Size and block length.
    fn geometry(&self) -> Geometry;
    /// Reads `blocks` blocks at `lba`; the answer has exactly that length.
    fn read(&self, lba: u64, blocks: u32) -> LocalBoxFuture<'_, Result<Bytes, MediumError>>;
    /// Reads the blocks at `lba` into `into`, which is as long as some of them, if that takes no waiting. `None`: it may take some, or is
    /// never done in this way; nothing has happened, and [`Medium::read`] has to be asked. Otherwise it is over when this returns: no claim on the
    /// blocks keeps others away afterwards. What is in `into` counts only after a success.
    fn read_now(&self, lba: u64, into: &mut [u8]) -> Option<Result<(), MediumError>> {
        let _ = (lba, into);
        None
    }
    /// Writes whole blocks at `lba`.
    fn write(&self, lba: u64, bytes: Bytes, durability: Durability) -> LocalBoxFuture<'_, Result<(), MediumError>>;
    /// Writes whole blocks at `lba` if that takes no waiting; `None` as for [`Medium::read_now`].
    fn write_now(&self, lba: u64, bytes: &Bytes, durability: Durability) -> Option<Result<(), MediumError>> {
        let _ = (lba, bytes, durability);
        None
    }
    /// Makes everything answered so far durable.
    fn flush(&self) -> LocalBoxFuture<'_, Result<(), MediumError>>;
    /// Zeroes `blocks` blocks at `lba`. A medium that promises room takes it for them.
    fn zero(&self, lba: u64, blocks: u64) -> LocalBoxFuture<'_, Result<(), MediumError>>;
    /// Forgets ranges of blocks (first block, number), which do not overlap; afterwards they read as zeroes, and what room it can it gives
    /// back. A medium that has nothing to give back zeroes them.
    fn unmap(&self, ranges: Vec<(u64, u64)>) -> LocalBoxFuture<'_, Result<(), MediumError>> {
        Box::pin(async move {
            for (lba, blocks) in ranges {
                self.zero(lba, blocks).await?;
            }
            Ok(())
        })
    }
    /// What there is from `lba` on, in at most `most` stretches, one behind the other; `lba` exists, and `most` is not zero.
    fn stretches(&self, lba: u64, most: usize) -> LocalBoxFuture<'_, Result<Vec<Stretch>, MediumError>> {
        let _ = most;
        let all = Stretch { blocks: self.geometry().blocks.saturating_sub(lba), state: Provisioned::Mapped };
        Box::pin(std::future::ready(Ok(vec![all])))
    }
    /// Keeps the logical unit's own state (reservations, mode pages) durably with the medium, before the answer.
    ///
    /// An error is a promise, too: what was to be kept is nowhere, and whoever opens the medium next finds what was kept before.
    /// As long as that is not certain there is no answer. [`MediumError::NoSpace`] says that fewer bytes may find room.
    fn keep_state(&self, state: Vec<u8>) -> LocalBoxFuture<'_, Result<(), MediumError>>;
}
