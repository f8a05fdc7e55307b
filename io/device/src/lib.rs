//! The device server: SCSI targets made of logical units ([`understudy_unit`]) on media ([`medium::Medium`]).
//!
//! It carries out what the unit decides and decides nothing about SCSI itself. Everything runs on one thread in one
//! `LocalSet`; nothing here is `Send`.
//!
//! **In flight** means: from [`NexusHandle::begin`] until the medium's own future has ended. A command that writes is
//! carried to its end even if whoever asked for it is gone, and only then leaves the task set; that is what makes
//! PREEMPT AND ABORT, resets and [`UnitOnMedium::drained`] exact. If they have answered, nothing of an aborted command
//! can reach the medium any more.
//!
//! **The gate** holds a whole unit without failing anything: new commands wait inside (hold), answers too (freeze), or
//! everything ends without an answer for good (fence). Units may share one: [`CommonGate`].
#![forbid(unsafe_code)]

mod attached;
mod attempt;
mod audience;
mod carrier;
mod compare;
mod event;
mod gate;
mod listing;
pub mod medium;
pub mod memory;
mod perform;
mod routed;
mod target;
mod task;
mod unit;

pub use attempt::Attempt;
pub use audience::Audience;
pub use gate::{CommonGate, Gate};
pub use medium::Medium;
pub use routed::{Answer, Carried, Elsewhere, OnDemand, Sent};
pub use target::{LunTaken, NexusHandle, NexusName, Presence, Target, TaskManagement, TaskManagementResponse};
pub use task::{Outcome, Task};
pub use understudy_scsi::Status;
pub use understudy_scsi::inquiry::Provisioning;
pub use understudy_unit::state::MOST_BYTES as MOST_STATE_BYTES;
pub use understudy_unit::unit::{Access, Keep, UnitOptions};
pub use understudy_unit::{Completion, Identity as UnitIdentity, TaskAttribute};
pub use unit::{OpenError, UnitOnMedium};
