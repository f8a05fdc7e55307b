#![forbid(unsafe_code)]
//! The event log of the failover machine: every fact it was told and every order it gave, so that a run can be run again.
//!
//! Problem: what went wrong at a customer's is over when somebody looks, and a decision of the machine is understood only
//! together with everything it knew. Idea: the machine is a pure function of its facts, so the facts and the moments they came
//! at are enough to run the very same code again; the orders are kept too, so that it can be said whether what runs here is what
//! ran there, and where the two part.
//!
//! Not here: files, threads, clocks (the node's `event_log` has them) and words for people (its `replay` has them).
//!
//! A log is a row of *segments* ([`segment`]), each readable without the others: a header, then *frames* ([`frame`]) with a CRC each.
//! A segment's first frame says where the machine stands: its configuration at the start of a process, a snapshot of it otherwise.
//! The frames after it hold *steps* ([`step`]), in a form that makes the thousands of readings a minute in which only counters moved
//! a few bytes each. [`record::Recorder`] makes the frames, [`read::Segment`] takes them apart, [`replay::Replay`] runs them.
//!
//! What can fail: the process is killed (what was handed over stands; a frame half written is cut off by its CRC), the disk is slow or
//! full (steps are left out, that is said, and the log goes on from a snapshot), the file is damaged or not a log at all (an error
//! with the place; nothing here panics on any bytes, and no more memory is asked for than a small multiple of what was read).
//!
//! Rejected: a digest of the orders in place of the orders (says *that* something differs and not *what*); one file that is cut (the
//! cut end begins in the middle of something); a general compressor (what repeats here is known, and knowing it is smaller).

pub mod frame;
pub mod read;
pub mod record;
pub mod replay;
pub mod segment;
pub mod start;
pub mod step;
mod varint;
