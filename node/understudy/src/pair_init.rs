//! `pair init`: making the disks of a pair ours, once, before any node runs.
//!
//! Every disk is looked at before the first one is written: what holds anything, or is registered by anybody, is refused
//! unless the operator said to overwrite. Registrations are cleared, so that a fresh pair starts unreserved. The records
//! are written last: until they stand on every lock disk no node serves anything, so an init that was interrupted leaves
//! nothing that could be mistaken for a pair.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use thiserror::Error;
use understudy_disk::disk::{Disk, DiskError, Durability, Extent};
use understudy_disk::reservation::{Key, Reservations};

use crate::cli::{Size, VolumeWish};
use crate::config::{Config, DiskSource, NodeName, PoolLayout};

/// What to do with disks that hold something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DisksInUse {
    /// Nothing is written to any disk.
    Refuse,
    /// It is destroyed.
    Overwrite,
}

/// What the operator asked for.
#[derive(Debug, Clone)]
pub struct Wish {
    /// Reach the disks as this node does.
    pub node: NodeName,
    /// Volumes to make.
    pub volumes: Vec<VolumeWish>,
    /// What to do with disks that hold something.
    pub disks_in_use: DisksInUse,
}

/// Why a pair was not prepared.
#[derive(Debug, Error)]
pub enum InitError {
    /// A disk did not do what it was asked.
    #[error("disk `{disk}`: {source}")]
    Disk {
        /// Its name in the file.
        disk: String,
        /// What it said.
        source: DiskError,
    },
    /// A disk can not be reserved.
    #[error("disk `{disk}` has no persistent reservations")]
    Unreservable {
        /// Its name in the file.
        disk: String,
    },
    /// Somebody has registered keys on a disk.
    #[error("disk `{disk}` is in use: {keys} registered")]
    Registered {
        /// Its name in the file.
        disk: String,
        /// The keys, as text.
        keys: String,
    },
    /// Two names in the file are one disk.
    #[error("`{first}` and `{second}` are the same disk ({identity})")]
    SameDisk {
        /// The name met first.
        first: String,
        /// The other one.
        second: String,
        /// What the disk says it is.
        identity: String,
    },
    /// A volume can not be made.
    #[error("volume `{volume}`: {reason}")]
    Volume {
        /// Its name.
        volume: String,
        /// Why.
        reason: String,
    },
    /// A pool or a lock disk can not be initialised.
    #[error("{what}: {reason}")]
    Initialise {
        /// Which.
        what: String,
        /// Why.
        reason: String,
    },
}

impl InitError {
    /// What the operator can do.
    #[must_use]
    pub fn advice(&self) -> &'static str {
        match self {
            Self::Disk { .. } => "check that the shelf runs and that the url in the pair's file names a logical unit of it",
            Self::Unreservable { .. } => "a pair needs disks with SCSI-3 persistent reservations",
            Self::Registered { .. } => {
                "end whatever uses it (a node of another pair?); `--overwrite` removes the registrations and destroys what it holds"
            }
            Self::SameDisk { .. } => "give every disk of the file a logical unit of its own",
            Self::Volume { .. } => "the pair is not ready: correct --volume and run `pair init --overwrite`",
            Self::Initialise { .. } => "nothing was written if the disk holds something; `--overwrite` destroys it",
        }
    }
}

/// A disk of the file, reached.
struct Reached {
    name: String,
    disk: Rc<dyn Disk>,
}
