#![forbid(unsafe_code)]
//! The failover machine of a pair.
//!
//! What it is: a pure function of facts. [`machine::Machine::step`] takes the moment and an [`input::Input`] and pushes
//! [`effect::Effect`]s; the formats two nodes share are beside it: the state page, the records of the lock disks, the keys.
//! What it is not: it has no clock, socket, thread or randomness, and it does not know what a disk is.

pub mod alert;
pub mod boot;
pub mod bring_up;
pub mod claim;
pub mod config;
mod content;
pub mod desk;
pub mod effect;
pub mod fence;
mod hand_back;
pub mod hand_off;
mod in_part;
pub mod input;
#[cfg(feature = "sim")]
pub mod invariants;
pub mod key;
pub mod last_word;
mod leave_out;
pub mod machine;
#[cfg(feature = "mutants")]
pub mod mutants;
pub mod operator;
pub mod page;
mod prepare;
pub mod record;
mod settle;
#[cfg(feature = "sim")]
pub mod sim;
pub mod survey;
pub mod survivor;
pub mod timeline;
pub mod timers;
pub mod victim;
pub mod watch;
pub mod words;
