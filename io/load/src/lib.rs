//! The two clients that judge a pair from outside: one that *verifies*, one that *measures*.
//!
//! [`Verifier`] writes stamped blocks to one LUN, reads them back all the time, survives lost connections the way a
//! real client does (it reconnects and issues its own unanswered writes again) and says at the end whether every
//! acknowledged write is there, and how long the longest gap between two completions was. [`generate()`] drives any
//! iSCSI target at a given depth and reports rates and a latency histogram.
//!
//! Neither knows anything about pairs, nodes or takeovers: they see a portal, a target name and a LUN, like any client.
//! The judging itself ([`ledger`], [`stamp`]) does no input or output, so that the tests can show that it bites.

mod drive;
mod generate;
pub mod ledger;
mod line;
mod paths;
mod route;
mod score;
pub mod stamp;
mod verify;

pub use drive::Trouble;
pub use generate::{Bucket, Latency, Length, LoadError, LoadPlan, LoadReport, Order, generate};
pub use route::{LunAddress, Route};
pub use score::{Mark, Pause, Progress};
pub use verify::{Verdict, Verifier, VerifierOptions};
