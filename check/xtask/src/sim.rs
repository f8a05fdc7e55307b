//! `cargo xtask sim`: the simulation of two whole nodes, built with optimisation and run.
//!
//! The arguments are the program's own (`check/sim/src/main.rs`): `--seed`, `--runs`, `--json`, `--plan`, `--verbose`, `--shrink`.

use anyhow::{Context, Result, ensure};

use crate::programs::build_release;

/// Runs it.
pub(crate) fn run(arguments: &[&str]) -> Result<()> {
    let program = build_release(&["--package", "understudy-sim"])?.join("understudy-sim");
    let status = std::process::Command::new(&program).args(arguments).status();
    let status = status.with_context(|| format!("cannot run {}", program.display()))?;
    ensure!(status.success(), "the simulation found something, or could not run ({status})");
    Ok(())
}
