//! Drills: whole pairs of real processes, hurt on purpose, judged by clients from outside.
//!
//! Not the demo (which tells one good story) and not the simulator (which plays millions of bad ones without processes).
//! Here the real program runs with real sockets, disks and signals. The one idea: a drill never says what *should have
//! happened inside*; it hits a node in a named state and then demands what a client and an operator may demand: every volume
//! served by exactly one node, nothing acknowledged lost, no command failed, and on the disks only the keys of the node that serves.
//!
//! Everything waits for facts, with a limit; nothing assumes that something took a certain time.

pub mod calm;
pub mod cell;
pub mod client_port;
pub mod conformance;
pub mod fault;
pub mod ground;
pub mod growth;
pub mod handoff;
pub mod legs;
pub mod moving;
pub mod network;
pub mod pacemaker;
pub mod registered;
pub mod soak;
pub mod stage;
pub mod step;
mod strokes;
pub mod table;
pub mod tgt;
pub mod tools;
pub mod upgrade;

pub use stage::{Fault, Stage, play};
