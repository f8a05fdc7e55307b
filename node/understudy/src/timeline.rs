//! What happened in a pair, step by step: how a node keeps it, and how two nodes' steps become one story.
//!
//! Each node's [`Recorder`] writes every step to `timeline.jsonl` in its state folder, keeps the newest in memory and
//! passes them to whoever watches. Steps carry wall-clock time for people to read; no decision is ever taken from it.

mod describe;
mod operation;
mod recorder;
mod render;
pub mod step;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::config::NodeName;

pub use describe::{Described, describe, sign};
pub use operation::{Operation, OperationKind, group};
pub use recorder::{Recorder, read_file};
pub use render::{Style, clock, render};

/// One step of one node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TimelineStep {
    /// Counts the steps of a node, also across its incarnations; never the same twice in one file.
    pub number: u64,
    /// Wall clock, microseconds since 1970.
    pub wall_micros: u64,
    /// The node whose step it is.
    pub node: NodeName,
    /// Its incarnation, 16 hexadecimal digits.
    pub incarnation: String,
    /// What kind of step, as `partner-givewait-read`; names of [`step`].
    pub step: String,
    /// The step in words.
    pub text: String,
    /// Numbers and names that belong to it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub values: BTreeMap<String, serde_json::Value>,
}

impl TimelineStep {
    /// The value called `name` as a whole number.
    #[must_use]
    pub fn number(&self, name: &str) -> Option<u64> {
        self.values.get(name)?.as_u64()
    }
}
