//! `cargo xtask model`: builds the model checker optimised and runs it; what it says and how it ends is its own.

use anyhow::{Context, Result, ensure};

use std::process::Command;

use crate::programs::build_release;

/// Passes the options on.
pub(crate) fn run(options: &[&str]) -> Result<()> {
    let folder = build_release(&["-p", "understudy-model"])?;
    let mut checker = Command::new(folder.join("understudy-model"));
    let status = checker.args(options).status().context("cannot run the model checker")?;
    ensure!(status.success(), "the model checker found something, or did not come to its end");
    Ok(())
}
