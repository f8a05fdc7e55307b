//! `cargo xtask fuzz`: builds the fuzz targets for libFuzzer and runs each for a while.
//!
//! Not the targets (`check/fuzz`) and not the replay of what was found (an ordinary test there). The one idea: libFuzzer
//! needs coverage, which is a pass of LLVM that the stable toolchain has, and no sanitizer; so this works with the one
//! toolchain that everything else uses, and a C++ compiler for libFuzzer itself.
//!
//! What is learned stays under cargo's target folder and is used again by the next run, unless a number of inputs was
//! asked for: those begin with the committed corpora and a fixed seed, so that what CI says follows from the commit. A
//! finding is made small, put into `check/fuzz/regressions/TARGET/`, and fails the command.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use crate::programs::{cargo, installed, succeed};
use crate::{Options, workspace};

const USAGE: &str = "\
cargo xtask fuzz [--seconds N | --runs N] [--target NAME] [--part core|all] [--json FILE]
                       each target for N seconds (10), going on from what earlier runs learned; or N inputs, the same
                       ones every time; part core leaves out what needs the whole appliance built
cargo xtask fuzz --seed-corpora
                       writes the seed corpora anew";

/// Coverage for libFuzzer: edges, counters, a table of the places, and comparisons, which it learns values from.
const COVERAGE: &str = "-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares --cfg fuzzing";

/// Longest input: some hundred decisions, or a few PDUs. Longer ones are slower and reach nothing else.
const LONGEST_INPUT: u32 = 4096;
/// Seconds that one input may take. Inputs take microseconds; more than this is work without a bound.
const PATIENCE_S: u32 = 10;
/// Where libFuzzer's chance begins when a number of inputs is asked for; any number but zero, which means "another one each time".
const SEED: u32 = 1;
/// Seconds spent on making a finding small.
const MINIMISING_S: u32 = 20;

/// Runs the subcommand.
pub(crate) fn run(words: &[&str]) -> Result<()> {
    match words {
        ["--seed-corpora"] => seed_corpora(),
        ["--help"] => {
            println!("{USAGE}");
            Ok(())
        }
        options => {
            let options = Options::parse(options, &["--seconds", "--runs", "--target", "--part", "--json"])?;
            let part = match options.text("--part").unwrap_or("all") {
                "core" => Part::Core,
                "all" => Part::All,
                other => bail!("--part {other}: expected core or all\n{USAGE}"),
            };
            let effort = match options.text("--runs") {
                Some(_) => Effort::Runs(options.number("--runs", 0)?),
                None => Effort::Seconds(options.number("--seconds", 10)?),
            };
            fuzz(part, options.text("--target"), effort, options.file("--json"))
        }
    }
}

fn seed_corpora() -> Result<()> {
    let arguments = ["run", "--quiet", "--package", "understudy-fuzz-targets", "--example", "seed_corpora"];
    succeed(&mut cargo(arguments)).map(drop)
}

/// Which targets are built.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    /// Those of the protocols and formats: the build is small.
    Core,
    /// Also those that need the whole appliance.
    All,
}

/// How long a target is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Effort {
    /// Seconds, each time with other inputs.
    Seconds(u32),
    /// Inputs, each time the same ones.
    Runs(u32),
}

impl Effort {
    /// What libFuzzer is told.
    fn arguments(self) -> Vec<String> {
        match self {
            Self::Seconds(seconds) => vec![format!("-max_total_time={seconds}")],
            Self::Runs(runs) => vec![format!("-runs={runs}"), format!("-seed={SEED}"), "-reload=0".to_owned()],
        }
    }
}

fn folder() -> PathBuf {
    workspace::root().join("check/fuzz")
}

fn fuzz(part: Part, only: Option<&str>, effort: Effort, json: Option<PathBuf>) -> Result<()> {
    ensure!(installed("c++") || installed("g++"), "libFuzzer needs a C++ compiler (Debian: g++)");
    let manifest = fs::read_to_string(folder().join("libfuzzer/Cargo.toml")).context("cannot read the manifest")?;
    let mut targets = programs_of(&manifest, part);
    if let Some(only) = only {
        targets.retain(|target| target == only);
        ensure!(!targets.is_empty(), "--target {only}: no such target in this part");
    }
    let programs = build(part)?;
    let mut figures = Vec::new();
    let mut findings = Vec::new();
    println!("{:<18} {:>12} {:>8} {:>7} {:>9} {:>7}", "target", "executions", "per s", "edges", "features", "corpus");
    for target in &targets {
        let output = run_one(&programs, target, effort)?;
        let said = String::from_utf8_lossy(&output.stderr);
        let figure = Figures::read(&said);
        println!("{target:<18} {figure}");
        figures.push(figure.json(target, effort));
        if !output.status.success() {
            println!("{}", last_words(&said));
            findings.push(keep(&programs, target)?);
        }
    }
    if let Some(file) = json {
        fs::write(&file, serde_json::to_string_pretty(&json!({ "targets": figures }))? + "\n")
            .with_context(|| format!("cannot write {}", file.display()))?;
    }
    ensure!(findings.is_empty(), "found, and kept as a regression test:\n  {}", findings.join("\n  "));
    Ok(())
}

/// The programs of the manifest, in its order.
fn programs_of(manifest: &str, part: Part) -> Vec<String> {
    let programs = manifest.split("[[bin]]").skip(1);
    let wanted = programs.filter(|program| part == Part::All || !program.contains("required-features"));
    wanted.filter_map(|program| program.split('"').nth(1)).map(str::to_owned).collect()
}

/// Builds the programs and says where they are. For the host, named: then build scripts get no coverage.
fn build(part: Part) -> Result<PathBuf> {
    let host = host()?;
    let folder_of_builds = workspace::target_folder()?.join("fuzz");
    let mut command = cargo(["build", "--quiet", "--release", "--bins", "--target", &host]);
    command.current_dir(folder().join("libfuzzer")).env("RUSTFLAGS", COVERAGE);
    command.env("CARGO_TARGET_DIR", &folder_of_builds);
    if part == Part::Core {
        command.arg("--no-default-features");
    }
    let status = command.status().context("cannot run cargo build")?;
    ensure!(status.success(), "the fuzz targets do not build");
    Ok(folder_of_builds.join(host).join("release"))
}

fn host() -> Result<String> {
    let output = succeed(Command::new("rustc").arg("-vV"))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let host = text.lines().find_map(|line| line.strip_prefix("host: "));
    host.map(str::to_owned).context("rustc -vV names no host")
}

/// Where libFuzzer puts the input that broke a property.
fn found(programs: &Path, target: &str) -> PathBuf {
    programs.join(format!("found-{target}"))
}

/// The command that starts a target. libFuzzer tells places apart by their addresses, so the same inputs each time need
/// the same addresses each time, where the system lets us have that.
fn start(program: &Path, effort: Effort) -> Command {
    const SAME_ADDRESSES: [&str; 2] = ["setarch", "--addr-no-randomize"];
    let probe = || Command::new(SAME_ADDRESSES[0]).arg(SAME_ADDRESSES[1]).arg("true").output();
    if matches!(effort, Effort::Runs(_)) && probe().is_ok_and(|output| output.status.success()) {
        let mut command = Command::new(SAME_ADDRESSES[0]);
        command.arg(SAME_ADDRESSES[1]).arg(program);
        return command;
    }
    Command::new(program)
}

fn run_one(programs: &Path, target: &str, effort: Effort) -> Result<Output> {
    let learned = programs.join(if matches!(effort, Effort::Runs(_)) { "fresh" } else { "corpus" }).join(target);
    if matches!(effort, Effort::Runs(_)) && learned.exists() {
        fs::remove_dir_all(&learned).with_context(|| format!("cannot empty {}", learned.display()))?;
    }
    fs::create_dir_all(&learned).with_context(|| format!("cannot make {}", learned.display()))?;
    let artifact = found(programs, target);
    if artifact.exists() {
        fs::remove_file(&artifact)?;
    }
    let mut command = start(&programs.join(target), effort);
    command.args(effort.arguments());
    command.args([
        format!("-max_len={LONGEST_INPUT}"),
        format!("-timeout={PATIENCE_S}"),
        "-print_final_stats=1".to_owned(),
        format!("-exact_artifact_path={}", artifact.display()),
    ]);
    command.arg(&learned);
    let kept = ["corpus", "regressions"].map(|kind| folder().join(kind).join(target));
    command.args(kept.iter().filter(|folder| folder.is_dir()));
    command.output().with_context(|| format!("cannot run {target}"))
}

/// Makes the finding small, if it can be, and keeps it.
fn keep(programs: &Path, target: &str) -> Result<String> {
    let artifact = found(programs, target);
    let folder = folder().join("regressions").join(target);
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let number = fs::read_dir(&folder)?.count() + 1;
    let kept = folder.join(format!("found-{number}"));
    fs::copy(&artifact, &kept).with_context(|| format!("{target} failed and left no input"))?;
    let small = programs.join(format!("small-{target}"));
    let output = Command::new(programs.join(target))
        .args(["-minimize_crash=1".to_owned(), format!("-max_total_time={MINIMISING_S}")])
        .arg(format!("-exact_artifact_path={}", small.display()))
        .arg(&artifact)
        .output();
    if output.is_ok() && small.is_file() {
        fs::copy(&small, &kept)?;
        fs::remove_file(&small)?;
    }
    Ok(kept.display().to_string())
}

/// The panic's lines, which libFuzzer buries.
fn last_words(said: &str) -> String {
    let lines: Vec<&str> = said.lines().collect();
    let begins = lines.iter().position(|line| line.contains("panicked at") || line.contains("ERROR: libFuzzer"));
    let begins = begins.unwrap_or(lines.len().saturating_sub(6));
    lines[begins..].iter().take(6).copied().collect::<Vec<_>>().join("\n")
}

/// What libFuzzer says at its end.
#[derive(Debug, Default, PartialEq, Eq)]
struct Figures {
    executions: u64,
    per_second: u64,
    edges: u64,
    features: u64,
    inputs: u64,
}

impl Figures {
    fn read(said: &str) -> Self {
        let mut figures = Self::default();
        // The last line that shows coverage: `#123 DONE cov: 4 ft: 5 corp: 6/7b … exec/s: 8 …`.
        for line in said.lines().filter(|line| line.starts_with('#') && line.contains(" cov: ")) {
            let after = |name: &str| {
                let rest = line.split_once(name).map_or("", |(_, rest)| rest.trim_start());
                rest.split(|c: char| !c.is_ascii_digit()).next().and_then(|digits| digits.parse().ok()).unwrap_or(0)
            };
            figures = Self {
                executions: after("#"),
                per_second: after("exec/s:"),
                edges: after("cov:"),
                features: after("ft:"),
                inputs: after("corp:"),
            };
        }
        figures
    }

    fn json(&self, target: &str, effort: Effort) -> Value {
        json!({
            "target": target,
            "effort": effort.arguments(),
            "executions": self.executions,
            "executions_per_second": self.per_second,
            "edges": self.edges,
            "features": self.features,
            "corpus": self.inputs,
        })
    }
}

impl std::fmt::Display for Figures {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { executions, per_second, edges, features, inputs } = self;
        write!(f, "{executions:>12} {per_second:>8} {edges:>7} {features:>9} {inputs:>7}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_those_of_the_last_line() {
        let said = "#2\tINITED cov: 1 ft: 2 corp: 3/4b exec/s: 0\n#1000\tDONE   cov: 11 ft: 12 corp: 4/13b lim: 9 exec/s: 500 rss: 27Mb\nDone";
        let expected = Figures { executions: 1000, per_second: 500, edges: 11, features: 12, inputs: 4 };
        assert_eq!(Figures::read(said), expected);
        assert_eq!(Figures::read("nothing"), Figures::default());
    }

    #[test]
    fn programs_that_need_the_appliance_are_left_out_of_the_core() {
        let manifest = "[package]\nname = \"p\"\n[[bin]]\nname = \"a\"\npath = \"x\"\n[[bin]]\nname = \"b\"\nrequired-features = [\"appliance\"]\n";
        assert_eq!(programs_of(manifest, Part::Core), ["a"]);
        assert_eq!(programs_of(manifest, Part::All), ["a", "b"]);
    }

    #[test]
    fn the_panic_is_found_among_the_figures() {
        let said = "#1 INITED cov: 1\nthread 'x' panicked at a.rs:1:2:\nno\nSUMMARY\n";
        assert!(last_words(said).starts_with("thread 'x' panicked"));
    }
}
