//! Small words used everywhere: I_T nexus, geometry, task attribute, completion.

use bytes::Bytes;
use understudy_scsi::Status;
use understudy_scsi::sense::{Sense, SenseFormat};
use understudy_scsi::transport::InitiatorPort;

/// An I_T nexus as persistent reservations know it (SPC-4 r37 §5.13.1): it outlives sessions.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Nexus {
    /// Initiator name and ISID.
    pub initiator: InitiatorPort,
    /// Relative target port identifier; here the target portal group tag.
    pub target_port: u16,
}

/// A nexus attached to a unit right now: an index that is only good until it is detached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct NexusId(pub(crate) u32);

/// Size and block length of a unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Geometry {
    /// Bytes per logical block.
    pub block_bytes: u32,
    /// Number of logical blocks.
    pub blocks: u64,
}

/// Task attributes (SAM-5 r21 §8.6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TaskAttribute {
    /// May be reordered with other simple tasks.
    Simple,
    /// Waits for every older task of its nexus, and every younger one waits for it.
    Ordered,
    /// Starts at once.
    HeadOfQueue,
}

/// How a command ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Completion {
    /// Status byte.
    pub status: Status,
    /// Sense data, with CHECK CONDITION only.
    pub sense: Option<Bytes>,
    /// Data for the initiator, already cut to the allocation length.
    pub data_in: Bytes,
}

impl Completion {
    /// A status without data or sense.
    #[must_use]
    pub fn status(status: Status) -> Self {
        Self { status, sense: None, data_in: Bytes::new() }
    }

    /// GOOD without data.
    #[must_use]
    pub fn good() -> Self {
        Self::status(Status::Good)
    }

    /// GOOD with data.
    #[must_use]
    pub fn data(data_in: Bytes) -> Self {
        Self { status: Status::Good, sense: None, data_in }
    }

    /// CHECK CONDITION.
    #[must_use]
    pub fn check(sense: &Sense, format: SenseFormat) -> Self {
        Self { status: Status::CheckCondition, sense: Some(sense.encode(format).into()), data_in: Bytes::new() }
    }
}
