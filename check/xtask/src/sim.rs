//! `cargo xtask sim`: the simulation of two whole nodes, built with optimisation and run.
//!
//! The arguments are the program's own (`check/sim/src/main.rs`): `--seed`, `--runs`, `--kinds`, `--json`, `--plan`, `--verbose`, `--shrink`.
//! `--mistakes` makes deliberate mistakes of the driver and the machine, one after another, and tells which seed finds each;
//! `--mistake NAME` makes one of them.

use anyhow::{Context, Result, ensure};

use crate::programs::build_release;

/// Runs it.
pub(crate) fn run(arguments: &[&str]) -> Result<()> {
    let mut arguments = arguments.to_vec();
    let mut build = vec!["--package", "understudy-sim"];
    if arguments.iter().any(|word| word.starts_with("--mistake")) {
        build.extend(["--features", "understudy-sim/mistakes"]);
    }
    if arguments == ["--mistakes"] {
        arguments.push("1");
    }
    let program = build_release(&build)?.join("understudy-sim");
    let status = std::process::Command::new(&program).args(&arguments).status();
    let status = status.with_context(|| format!("cannot run {}", program.display()))?;
    ensure!(status.success(), "the simulation found something, or could not run ({status})");
    Ok(())
}
