//! The interconnect: a state page the partner reads one-sided, and reads of the partner's page.
//!
//! [`PageServer`] registers one page of memory with libfabric and lets the partner read it; the node that owns the
//! page is not asked and, with an RDMA card, does not even notice. [`PageReader`] reads the partner's page with
//! `fi_read`, each read under a deadline of its own. This crate carries bytes: what a page means, whether it is torn
//! and what follows from a failed read is decided in `understudy-failover`.
//!
//! **Idea.** Every call that can hang (a stopped partner makes the `tcp` provider's reads and connects wait without
//! limit) runs on a thread that belongs to this crate and ends at a deadline; after any failure the endpoint is thrown
//! away and the next read connects with a new one. Results reach the single-threaded data path through channels that
//! need no particular runtime.
//!
//! **What the fabric can tell apart** ([`ReadFailure`]): nobody listens (`Refused`), the process ended (`Closed`, also
//! reported between reads by [`LinkEvents`]), stopped or cut off (`TimedOut`, on `tcp`; on `verbs` and `shm` reads of a
//! stopped process go on, on `shm` for some hundred reads, and its heartbeat counter stands still). A read that succeeded is therefore no sign of life:
//! only a counter that grows is.
//!
//! **A death in the node.** The memory can be shared by the process that serves it and one that publishes in it
//! ([`SharedMemory`]): the page and its connections then outlive the publisher.
//!
//! **Absent on purpose:** retries, and judgement about the partner.

mod connected_line;
mod data;
mod fabric_calls;
mod greeting;
mod measure;
mod memory;
mod provider;
mod reader;
mod region;
mod rendezvous;
mod server;
mod shared_acceptor;
mod shared_line;
mod threads;
mod watch;

use std::time::Duration;

use thiserror::Error;

pub use crate::data::{DataMover, DataRegion};
pub use crate::measure::{
    MeasureFailure, MeasureOptions, PollingCost, ReadLatency, measure_polling_cost, measure_read_latency,
};
pub use crate::memory::{SharedMemory, SharedPage};
pub use crate::provider::{Provider, UnknownProvider};
pub use crate::reader::{LinkEvent, LinkEvents, PageReader, ReaderOptions};
pub use crate::server::{PageServer, ServerOptions};

/// Bytes of a state page.
pub const PAGE_BYTES: usize = 4096;

/// Bytes of the second region of a [`PageServer`], which the partner may write with `fi_write`.
pub const LANDING_BYTES: usize = 64 * 1024;

/// Most bytes moved at a time to or from a [`DataRegion`].
pub const MOVE_BYTES: usize = 1 << 20;

/// Who is at an end of the interconnect. Both ends check it before the first read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// The pair's number; nodes of different pairs do not talk to each other.
    pub pair: u64,
    /// The node's number within its pair.
    pub node: u8,
}

/// The fabric could not be set up on this side.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum FabricError {
    /// The library is not there, or too old.
    #[error("libfabric cannot be loaded ({0}): install Debian's package libfabric1")]
    Missing(String),
    /// A call of libfabric failed.
    #[error("libfabric's {call} failed: {text} (error {code})")]
    Call {
        /// The call.
        call: &'static str,
        /// Positive `fi_errno` value.
        code: i32,
        /// libfabric's text for it.
        text: String,
    },
    /// The system refused a thread or a descriptor.
    #[error("cannot {what}: {text}")]
    System {
        /// What was tried.
        what: &'static str,
        /// The system's answer.
        text: String,
    },
    /// The provider is not available in this way.
    #[error("{0}")]
    Unsupported(String),
}

/// Why a read or write of the partner's memory brought nothing. Facts as this side sees them.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ReadFailure {
    /// Nobody listens at the partner's address: its host is up, its process is not.
    #[error("nobody listens at the partner's interconnect address")]
    Refused,
    /// The partner answered and does not want this connection: another pair, another version, the wrong node.
    #[error("the partner rejected the connection: {0}")]
    Rejected(String),
    /// The connection ended: the partner's process died or closed it.
    #[error("the partner's process closed the link")]
    Closed,
    /// No answer within the deadline: stopped, cut off, or its host is gone.
    #[error("no answer within {0:?}")]
    TimedOut(Duration),
    /// This side's fabric failed.
    #[error("interconnect: {0}")]
    Fabric(String),
}

impl From<FabricError> for ReadFailure {
    fn from(error: FabricError) -> Self {
        Self::Fabric(error.to_string())
    }
}
