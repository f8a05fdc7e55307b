//! The program `understudy`: a node of a pair, the shelf to try it on, and the commands an operator gives.
//!
//! The library holds everything; the executable only calls [`cli::main`]. What decides lives in `core`, what can fail
//! because of the world in `io`; here they are wired together and shown to people.

pub mod admin;
pub mod cli;
pub mod config;
pub mod demo;
pub mod driver;
pub mod event_log;
pub mod harness;
pub mod pair_init;
pub mod replay;
pub mod supervisor;
pub mod timeline;
