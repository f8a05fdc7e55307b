//! Under construction: runs one node.

use std::process::ExitCode;

use crate::config::{Config, NodeName};

/// Runs `node` of the pair until it is told to stop.
///
/// # Errors
/// Always, so far.
pub async fn run(_config: Config, node: NodeName) -> anyhow::Result<ExitCode> {
    anyhow::bail!("node {node}: not built yet")
}
