//! Disks as a node reaches them: the [`disk::Disk`] boundary and its back ends.
//!
//! Not here: pools, mirrors, who may write. [`lun::IscsiLun`] is one logical unit behind an iSCSI session of this
//! crate's own initiator ([`session::Session`], also usable as a plain client); [`file::FileDisk`] is a plain file, for
//! single nodes. Everything runs inside one `LocalSet`. The one idea: what is not known is said. A command is either
//! answered, certainly not sent, or of unknown outcome; nothing here turns the last into one of the others, and nothing
//! here sends a write twice.
#![forbid(unsafe_code)]

mod chance;
pub mod conformance;
mod connection;
pub mod discover;
pub mod disk;
pub mod file;
pub mod lun;
pub mod network;
mod registrations;
mod reply;
pub mod reservation;
pub mod session;
pub mod url;
mod watched;
