//! The disk boundary: what pool I/O and the failover driver may ask of one SCSI logical unit, whatever carries it.
//!
//! A [`Disk`] is one logical unit as reached from this node over one path. It never retries a write by itself: a write
//! whose outcome is unknown comes back as [`DiskError::OutcomeUnknown`], and whoever asked decides what is safe.
//! Persistent reservations are a separate trait because a plain file has none and therefore can never join a pair.

use bytes::Bytes;
use futures_util::future::LocalBoxFuture;
use thiserror::Error;

use crate::reservation::Reservations;

/// Size and block length of a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Geometry {
    /// Bytes per logical block: 512 or 4096.
    pub block_bytes: u32,
    /// Number of logical blocks.
    pub blocks: u64,
}

/// A run of whole blocks known to lie within a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    lba: u64,
    blocks: u32,
}

impl Extent {
    /// The extent of `blocks` blocks starting at `lba`, or `None` if any of it lies past the end of `geometry`.
    #[must_use]
    pub fn within(geometry: Geometry, lba: u64, blocks: u32) -> Option<Self> {
        let end = lba.checked_add(u64::from(blocks))?;
        (end <= geometry.blocks).then_some(Self { lba, blocks })
    }

    /// The part of it that starts `skip` blocks in and is `blocks` long.
    ///
    /// PANIC: if that is not within the extent.
    #[must_use]
    pub fn part(self, skip: u32, blocks: u32) -> Self {
        assert!(u64::from(skip) + u64::from(blocks) <= u64::from(self.blocks), "a part lies within its extent");
        Self { lba: self.lba + u64::from(skip), blocks }
    }

    /// First block.
    #[must_use]
    pub fn lba(self) -> u64 {
        self.lba
    }

    /// Number of blocks.
    #[must_use]
    pub fn blocks(self) -> u32 {
        self.blocks
    }
}

/// Whether a write must be on the medium before it is answered (FUA, SBC-3 r36 §5.40) or may sit in the disk's cache
/// until the next flush.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// The disk's write cache may hold it.
    Cached,
    /// On the medium before the answer.
    ForceUnitAccess,
}

/// Why a disk did not do what it was asked. Facts only; nothing here says what to do next.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum DiskError {
    /// RESERVATION CONFLICT: a reservation of another registrant refuses this node.
    #[error("reservation conflict")]
    Conflict,
    /// There is no session with the disk now, and the command was not sent.
    #[error("disk not reachable: {0}")]
    Unreachable(String),
    /// The command was sent and the session died or the deadline passed before an answer: it may or may not have
    /// been carried out, and may still be.
    #[error("outcome unknown: {0}")]
    OutcomeUnknown(String),
    /// CHECK CONDITION with this sense key and additional sense code (high byte ASC, low byte ASCQ).
    #[error("check condition {key:#03x}/{asc:#06x}")]
    CheckCondition {
        /// Sense key, SPC-4 r37 §4.5.6.
        key: u8,
        /// Additional sense code and qualifier.
        asc: u16,
    },
    /// Any other status byte (BUSY, TASK SET FULL, TASK ABORTED after the allowed repeats).
    #[error("status {0:#04x}")]
    Status(u8),
    /// The world below a file-backed disk failed.
    #[error("input/output error: {0}")]
    Io(String),
    /// The disk's answer makes no sense (short data, wrong page code, changed geometry).
    #[error("unusable answer: {0}")]
    Protocol(String),
}

/// What identifies a logical unit wherever it is reached from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskIdentity {
    /// INQUIRY vendor and product, trimmed.
    pub product: String,
    /// VPD 80h unit serial number, trimmed; empty if the disk has none.
    pub serial: String,
    /// Best VPD 83h designator of the logical unit as `naa.…`, `eui.…` or `t10.…`; empty if it has none.
    pub designator: String,
}

/// What changed underneath, for whoever must prove the fence again before the next write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Link {
    /// Logged in. `epoch` grows with every login and every power-on or reset unit attention (29h/xx): a fence proved
    /// in an older epoch proves nothing in this one.
    Connected {
        /// Number of the login or reset.
        epoch: u64,
    },
    /// No session; the disk is trying to log in again.
    Down,
}

/// One logical unit reached over one path.
pub trait Disk {
    /// The name used in messages to the operator.
    fn name(&self) -> &str;

    /// Size and block length as of the last login.
    ///
    /// # Errors
    /// [`DiskError::Unreachable`] before READ CAPACITY was ever answered.
    fn geometry(&self) -> Result<Geometry, DiskError>;

    /// Asks INQUIRY (works on a reserved disk) and returns who this is.
    fn identify(&self) -> LocalBoxFuture<'_, Result<DiskIdentity, DiskError>>;

    /// Asks READ CAPACITY again and remembers the answer; conflicts on a disk reserved by the partner (type 6).
    fn probe(&self) -> LocalBoxFuture<'_, Result<Geometry, DiskError>>;

    /// Reads an extent; the answer has exactly the extent's length.
    fn read(&self, extent: Extent) -> LocalBoxFuture<'_, Result<Bytes, DiskError>>;

    /// The same, after everything that was sent before on this path (SAM-5 r21 §8.6.3, ORDERED), also what has not been answered yet. Of a disk that
    /// does not keep to the order it is a read like any other: what it answers may be older.
    fn read_behind(&self, extent: Extent) -> LocalBoxFuture<'_, Result<Bytes, DiskError>> {
        self.read(extent)
    }

    /// Asks whether the disk carries out this node's reads now: a READ of no blocks, which meets the same reservation as any other.
    fn admits_reads(&self) -> LocalBoxFuture<'_, Result<(), DiskError>>;

    /// Writes an extent; `bytes` must have exactly its length.
    fn write(&self, extent: Extent, bytes: Bytes, durability: Durability) -> LocalBoxFuture<'_, Result<(), DiskError>>;

    /// SYNCHRONIZE CACHE of the whole disk.
    fn flush(&self) -> LocalBoxFuture<'_, Result<(), DiskError>>;

    /// State of the session.
    fn link(&self) -> Link;

    /// Waits until [`Disk::link`] differs from `seen`.
    fn link_changed(&self, seen: Link) -> LocalBoxFuture<'_, Link>;

    /// The newest epoch that began with the disk saying that it was powered on, or may have been (29h/xx except a bus device reset
    /// and the loss of the nexus, 29h/03h and 29h/07h): what was in its cache is likely gone. That a disk says nothing proves
    /// nothing, because what it said may have been lost with a connection. A disk that tells none of them apart says it in every epoch.
    fn powered_on_in(&self) -> u64 {
        match self.link() {
            Link::Connected { epoch } => epoch,
            Link::Down => u64::MAX,
        }
    }

    /// Says that the fence of this disk has been proved (READ KEYS and READ RESERVATION) in `epoch` of the link. From
    /// the first call on, a write is sent only while the link is connected with the epoch trusted last; in any other
    /// epoch it fails with [`DiskError::Unreachable`] and nothing is sent. A disk of which no epoch was ever trusted
    /// does not hold writes back. A disk without reservations has no fence and ignores this.
    fn trust(&self, epoch: u64) {
        _ = epoch;
    }

    /// Whether the link is connected with the epoch trusted last. A disk without reservations always is.
    fn is_trusted(&self) -> bool {
        true
    }

    /// Persistent reservations, or `None` where the disk cannot have any (plain file).
    fn reservations(&self) -> Option<&dyn Reservations>;
}
