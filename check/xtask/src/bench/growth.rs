//! What more volumes, sessions, commands and bytes cost a node: built in release mode and handed over to the program that measures; what
//! stands behind the command is its own arguments.

use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::programs::build_release;

/// Measures growth on real pairs.
pub(crate) fn run(options: &[&str]) -> Result<()> {
    let program = build_release(&["--package", "understudy-drill", "--bins"])?.join("understudy-drills");
    let status = Command::new(&program).arg("growth").args(options).status();
    let status = status.with_context(|| format!("cannot run {}", program.display()))?;
    ensure!(status.success(), "measuring growth ended with {status}");
    Ok(())
}
