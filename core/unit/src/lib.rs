//! A logical unit that decides: who may do what, in which order, and what each command means for the medium.
//!
//! It performs nothing. [`unit::LogicalUnit`] is told facts (a command arrived, the medium is done, an I_T nexus is gone)
//! and answers with [`unit::Work`] for whoever has a medium. No medium, clock, socket or task lives here, so the rules
//! of persistent reservations can be tested by the million.
//!
//! **The idea that carries the safety.** A change of reservations is first *planned* on a copy, then kept durably by
//! the driver, and only then *committed* in memory: nobody ever sees, or is refused by, a state that a crash could
//! take back. From the commit on no new command of a preempted I_T nexus passes, and the commit names every command
//! that is still at the medium, so that PREEMPT AND ABORT can wait for exactly those.
//!
//! What is pending of these conditions for ports that are not there is kept with them (module `untold`).
//!
//! What can fail: the copy cannot be kept (the command fails, nothing changed), the kept bytes cannot be read at the
//! start (the unit does not open; guessing "no reservations" would let a fenced initiator write).
#![forbid(unsafe_code)]

mod access_state;
mod answers;
mod attention;
mod change;
mod commands;
mod extents;
mod intervals;
mod nexus;
mod pages;
pub mod reservations;
mod rules;
pub mod state;
mod tasks;
pub mod unit;
mod untold;
mod whereabouts;

pub use answers::Identity;
pub use attention::Attentions;
pub use extents::{Claim, ExtentClaims, Released, Sharing};
pub use nexus::{Completion, Geometry, Nexus, NexusId, TaskAttribute};
pub use rules::{may_be_repeated, passes_attention};
pub use tasks::{Admission, TaskId};
pub use whereabouts::{Side, Whereabouts};
