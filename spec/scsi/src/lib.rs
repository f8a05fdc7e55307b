//! SCSI as bytes and tables: what SPC-4 r37, SBC-3 r36 and SAM-5 r21 say a command, an answer or an error looks like.
//!
//! Both roles read it: the logical unit parses commands and builds answers, the initiator builds commands and parses
//! answers. Nothing here decides anything (no task set, no reservations in force, no medium): if a rule needs to know
//! what happened before, it is in `understudy-unit`.
//!
//! The one idea: bytes come in as slices of unknown quality and leave as plain values or as a fault that says which
//! byte was wrong; no function here panics on input.
#![forbid(unsafe_code)]

pub mod alua;
mod bytes;
pub mod capacity;
pub mod cdb;
pub mod encode;
pub mod inquiry;
pub mod log;
pub mod luns;
pub mod mode;
pub mod operations;
pub mod provisioning;
pub mod reservation;
pub mod sense;
mod status;
pub mod transport;

pub use cdb::{CdbFault, Command};
pub use sense::{Asc, Sense, SenseKey};
pub use status::Status;
