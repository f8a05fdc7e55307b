//! Everything CI checks, in the order in which it fails fastest. Every step runs even if an earlier one failed, so that
//! one run tells everything; what the steps print is shown only when they fail, apart from the tests' counts.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};

use crate::programs::{cargo, installed, succeed};
use crate::{citations, drill, fuzz, layers, model, sizes, upgrade, words};

/// Programs that only some tests need; without them those tests skip themselves.
const CLIENTS: [(&str, &str); 5] = [
    ("qemu-img", "qemu-utils, qemu-block-extra"),
    ("tgtd", "tgt"),
    ("tgtadm", "tgt"),
    ("iscsi-test-cu", "libiscsi-bin"),
    ("e2fsck", "e2fsprogs"),
];

/// The tests that start whole pairs, five processes and threads that never rest each: two at a time, whatever the machine.
const DRILLS: &str = "understudy-drill";

/// How many inputs each fuzz target is given: enough to see that it works and to find what is easy to find. A number and
/// not a time, so that a commit that passed passes again; the hunt for new cases is `cargo xtask fuzz --seconds N`.
const FUZZ_RUNS: &str = "20000";

type Step = (&'static str, fn() -> Result<()>);

/// The steps.
const STEPS: [Step; 15] = [
    ("layers", layers::run),
    ("sizes", sizes::run),
    ("words", words::run),
    ("citations", citations::check),
    ("format", format),
    ("licences and sources of dependencies", deny),
    ("clippy", clippy),
    ("programs", programs),
    ("model", || model::run(&[])),
    ("tests", tests),
    ("portals that move between machines", drill::netns_once),
    ("upgrade from the commit before", upgrade::check),
    ("mistakes that the simulation finds", mistakes),
    ("fuzzing", || fuzz::run(&["--part", "core", "--runs", FUZZ_RUNS])),
    ("documentation", documentation),
];

/// Runs every step.
pub(crate) fn run() -> Result<()> {
    let mut failed = Vec::new();
    for (name, step) in STEPS {
        println!("== {name}");
        let began = Instant::now();
        if let Err(error) = step() {
            println!("{error:#}");
            failed.push(name);
        }
        println!("== {name}: {} ({:.0} s)", outcome(failed.last() == Some(&name)), began.elapsed().as_secs_f64());
    }
    ensure!(failed.is_empty(), "failed: {}", failed.join(", "));
    println!("== everything passed");
    Ok(())
}

fn outcome(failed: bool) -> &'static str {
    if failed { "FAILED" } else { "passed" }
}

fn format() -> Result<()> {
    succeed(&mut cargo(["fmt", "--all", "--check"])).map(drop)
}

fn clippy() -> Result<()> {
    succeed(&mut cargo(["clippy", "--workspace", "--all-targets", "--quiet", "--", "-D", "warnings"])).map(drop)
}

/// The drills start the programs, so these are built first.
fn programs() -> Result<()> {
    succeed(&mut cargo(["build", "--workspace", "--bins", "--examples", "--quiet"])).map(drop)
}

fn documentation() -> Result<()> {
    let mut command = cargo(["doc", "--workspace", "--no-deps", "--document-private-items", "--quiet"]);
    succeed(command.env("RUSTDOCFLAGS", "-D warnings")).map(drop)
}

/// Advisories need a database from the network and change without the project changing, so they are not part of this.
fn deny() -> Result<()> {
    if !cargo_has("deny") {
        ensure!(
            std::env::var("CI").as_deref() != Ok("true"),
            "cargo-deny is missing: cargo install --locked cargo-deny"
        );
        println!("skipped: cargo-deny is not installed (cargo install --locked cargo-deny)");
        return Ok(());
    }
    println!("licenses, bans, sources; advisories are left out (they need a database from the network)");
    succeed(&mut cargo(["deny", "--log-level", "error", "check", "licenses", "bans", "sources"])).map(drop)
}

fn cargo_has(subcommand: &str) -> bool {
    let probe = cargo([subcommand, "--version"]).stdout(Stdio::null()).stderr(Stdio::null()).status();
    probe.is_ok_and(|status| status.success())
}

fn tests() -> Result<()> {
    for (program, packages) in CLIENTS.iter().filter(|(program, _)| !installed(program)) {
        println!("note: {program} is missing, the tests that need it skip themselves (Debian: {packages})");
    }
    if cargo_has("nextest") {
        // Nextest does not run the documentation's examples.
        counted(&mut cargo(["test", "--workspace", "--doc", "--no-fail-fast"]), "documentation examples")?;
        let mut command = cargo(["nextest", "run", "--workspace", "--no-fail-fast", "--show-progress", "none"]);
        command.args(["--status-level", "fail", "--final-status-level", "fail", "--cargo-quiet"]);
        let status = command.status().context("cannot run cargo nextest")?;
        ensure!(status.success(), "tests failed");
        return Ok(());
    }
    let all_but_drills = ["test", "--workspace", "--exclude", DRILLS, "--no-fail-fast"];
    let others = counted(&mut cargo(all_but_drills), "tests");
    let drills = ["test", "--package", DRILLS, "--no-fail-fast", "--", "--test-threads", "2"];
    counted(&mut cargo(drills), "drills")?;
    others
}

/// Two nodes with a deliberate mistake each: a build of its own, because no product is built with that feature.
fn mistakes() -> Result<()> {
    let test = ["test", "--package", "understudy-sim", "--features", "mistakes", "--test", "mistakes"];
    counted(&mut cargo(test), "mistakes")
}

/// Runs `cargo test` and prints the sum of its counts; the lines of passing tests are left out.
fn counted(command: &mut Command, what: &str) -> Result<()> {
    let mut child = command.stdout(Stdio::piped()).spawn().context("cannot run cargo test")?;
    let output = child.stdout.take().context("cargo test has no output")?;
    let mut counts = Counts::default();
    for line in BufReader::new(output).lines() {
        let line = line.context("cannot read the output of cargo test")?;
        if !counts.take(&line) {
            println!("{line}");
        }
    }
    let status = child.wait()?;
    println!("{what}: {} passed, {} failed, {} ignored", counts.passed, counts.failed, counts.ignored);
    if !status.success() {
        bail!("{what} failed");
    }
    Ok(())
}

/// What `cargo test` counted so far.
#[derive(Debug, Default, PartialEq, Eq)]
struct Counts {
    passed: u64,
    failed: u64,
    ignored: u64,
}

impl Counts {
    /// Takes a line in; `true` if nobody needs to see it.
    fn take(&mut self, line: &str) -> bool {
        if let Some((_, counts)) = line.split_once("test result: ") {
            let words: Vec<&str> = counts.split([' ', ';']).collect();
            for pair in words.windows(2) {
                let number = pair[0].parse().unwrap_or(0);
                match pair[1] {
                    "passed" => self.passed += number,
                    "failed" => self.failed += number,
                    "ignored" => self.ignored += number,
                    _ => {}
                }
            }
            return true;
        }
        let passing = line.starts_with("test ") && (line.ends_with("... ok") || line.contains("... ignored"));
        passing || line.is_empty() || line.starts_with("running ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_counts_of_every_test_program_add_up() {
        let mut counts = Counts::default();
        let result = "test result: ok. 3 passed; 1 failed; 2 ignored; 0 measured; 0 filtered out; finished in 0.00s";
        assert!(counts.take(result) && counts.take(result));
        assert_eq!(counts, Counts { passed: 6, failed: 2, ignored: 4 });
    }

    #[test]
    fn only_what_went_wrong_is_shown() {
        let mut counts = Counts::default();
        assert!(counts.take("test a::b ... ok"));
        assert!(!counts.take("test a::b ... FAILED"));
        assert!(!counts.take("thread 'a' panicked"));
    }
}
