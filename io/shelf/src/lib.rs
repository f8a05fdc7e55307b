//! The shelf: disks made of files, with full persistent reservations, served over iSCSI.
//!
//! It lets a laptop run a whole pair, and is a shelf like any other to the nodes: they reach it through the same
//! initiator as an array. It is not part of a node and knows nothing of pairs.
//!
//! **Layers.** [`FileMedium`] keeps one disk's blocks in a sparse file and its reservations in a file beside it; the
//! logical unit of `understudy-device` enforces reservations above it; the portal of `understudy-portal` carries iSCSI.
//! [`Shelf`] puts them together for one folder of disks, which it locks.
//!
//! **Durability.** A write is answered from the page cache (the disk reports a volatile write cache); SYNCHRONIZE CACHE
//! and FUA end in `fdatasync`. Reservation state that must survive a loss of power (APTPL) is replaced atomically and
//! synchronised before the command is answered, so killing the shelf right after GOOD forgets nothing.

pub mod delay;
#[cfg(feature = "drill")]
pub mod drilled;
mod file;
mod label;
mod shelf;

pub use file::FileMedium;
pub use shelf::{Shelf, ShelfConfig, ShelfDisk, ShelfError};
