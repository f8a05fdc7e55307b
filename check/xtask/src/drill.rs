//! `drill`, `soak`, `netns`, `bench handoff`, `bench pacemaker`, `upgrade` and `conformance`: built and handed over to the program that plays them; what stands behind the command is its own arguments.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::programs::{build_release, cargo};
use crate::workspace;

/// The package with the drills, and its program.
const PACKAGE: &str = "understudy-drill";
const PROGRAM: &str = "understudy-drills";

/// Plays the table of drills, or some cells of it.
pub(crate) fn table(options: &[&str]) -> Result<()> {
    play("table", options)
}

/// Plays random drills for a long time.
pub(crate) fn soak(options: &[&str]) -> Result<()> {
    play("soak", options)
}

/// Moves pools there and back: a measurement, so with the optimisation of the product.
pub(crate) fn handoff(options: &[&str]) -> Result<()> {
    run(&build_release(&["--package", PACKAGE, "--bins"])?.join(PROGRAM), "handoff", options)
}

/// Moves, kills and restores a pair, and a cluster of other people's programs: a measurement as well.
pub(crate) fn pacemaker(options: &[&str]) -> Result<()> {
    run(&build_release(&["--package", PACKAGE, "--bins"])?.join(PROGRAM), "pacemaker", options)
}

/// Runs libiscsi's conformance suite.
pub(crate) fn conformance(options: &[&str]) -> Result<()> {
    play("conformance", options)
}

/// Counts false alarms of a pair that nothing is done to: with the optimisation of the product, as its users run it.
pub(crate) fn calm(options: &[&str]) -> Result<()> {
    run(&build_release(&["--package", PACKAGE, "--bins"])?.join(PROGRAM), "calm", options)
}

/// Moves portals between machines: its pauses are figures, so with the optimisation of the product.
pub(crate) fn netns(options: &[&str]) -> Result<()> {
    run(&build_release(&["--package", PACKAGE, "--bins"])?.join(PROGRAM), "netns", options)
}

/// The same once, with the programs of the tests; where namespaces can not be made it says why and succeeds.
pub(crate) fn netns_once() -> Result<()> {
    play("netns", &["--runs", "1", "--or-skip"])
}

/// Upgrades a pair under clients.
pub(crate) fn upgrade(options: &[&str]) -> Result<()> {
    play("upgrade", options)
}

/// In the profile of the tests: the drills of the tests and these share one build, and both have all assertions.
fn play(what: &str, options: &[&str]) -> Result<()> {
    let built = cargo(["build", "--quiet", "--package", PACKAGE, "--bins"]).status().context("cannot run cargo")?;
    ensure!(built.success(), "cargo build --package {PACKAGE} failed");
    run(&workspace::target_folder()?.join("debug").join(PROGRAM), what, options)
}

fn run(program: &Path, what: &str, options: &[&str]) -> Result<()> {
    let mut command = Command::new(program);
    let status = command.arg(what).args(options).status();
    let status = status.with_context(|| format!("cannot run {}", program.display()))?;
    ensure!(status.success(), "{PROGRAM} {what} ended with {status}");
    Ok(())
}
