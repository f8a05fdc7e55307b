//! `understudy-drills conformance`: which targets are started for the suite, and where its results go.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, ensure};
use clap::Args;
use understudy::harness::{Pair, Plan};
use understudy_drill::conformance::report::{Report, Subject, document};
use understudy_drill::conformance::{self, Choice, Door, Kind, Program, demand_all_explained, run_all};
use understudy_drill::tgt::Tgtd;
use understudy_drill::{Stage, stage};

use crate::Place;

/// Bytes of the logical units tested: some tests want a minimum, and none a file system.
const DISK_BYTES: u64 = 256 << 20;
const VOLUME_BYTES: u64 = 128 << 20;

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The suite's program: a name on the path or a file; may be given several times, for several releases
    #[arg(long, value_name = "FILE", default_value = conformance::INSTALLED)]
    suite: Vec<String>,
    /// What to call each release in the tables, in the same order
    #[arg(long, value_name = "TEXT")]
    release: Vec<String>,
    /// Test only this target, which runs already, written iscsi://ADDRESS:PORT/TARGET/LUN; WHAT IS ON IT IS LOST
    #[arg(long, value_name = "URL", conflicts_with = "peer")]
    url: Option<String>,
    /// Test Debian's tgtd beside ours
    #[arg(long)]
    peer: bool,
    /// Write every test's outcome as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write the page of docs/
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,
    #[command(flatten)]
    place: Place,
}

/// Runs the suite against every target asked for; fails if ours fails a test that is not mistaken itself.
pub(crate) fn run(options: &Options) -> anyhow::Result<ExitCode> {
    let mut reports = Vec::new();
    for (at, file) in options.suite.iter().enumerate() {
        let program = Program::ask(file)?;
        let release = options.release.get(at).unwrap_or(file).clone();
        let report = Report { release, subjects: subjects(options, &program)? };
        println!("{}\n{}", report.release, report.sums());
        reports.push(report);
    }
    if let Some(file) = &options.json {
        let text = serde_json::to_string_pretty(&reports)? + "\n";
        std::fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))?;
    }
    if let Some(file) = &options.markdown {
        std::fs::write(file, document(&reports)).with_context(|| format!("cannot write {}", file.display()))?;
    }
    let ours = reports.iter().flat_map(|report| &report.subjects).filter(|subject| subject.is_ours);
    for subject in ours {
        demand_all_explained(&subject.suites).with_context(|| subject.name.clone())?;
    }
    Ok(ExitCode::SUCCESS)
}

fn subjects(options: &Options, program: &Program) -> anyhow::Result<Vec<Subject>> {
    if let Some(url) = &options.url {
        return Ok(vec![tested("the target named", true, program, &Door::open(url.clone()))?]);
    }
    let parent = options.place.folder();
    std::fs::create_dir_all(&parent).with_context(|| format!("cannot make {}", parent.display()))?;
    let mut subjects = vec![
        volume(options, program, &parent, "a volume of a pair", conformance::volume_of)?,
        volume(options, program, &parent, "through the partner", conformance::volume_through_partner)?,
        of_kind(options, program, &parent, Kind::Thin)?,
        of_kind(options, program, &parent, Kind::WriteProtected)?,
        disk(options, program, &parent)?,
    ];
    if options.peer {
        ensure!(Tgtd::is_present(), "tgtd is not installed; leave --peer out, or install the package tgt");
        let folder = folder_in(&parent)?;
        let tgtd = Tgtd::start(folder.path(), &[DISK_BYTES])?;
        let url = tgtd.urls(1).pop().context("tgtd has no disk")?;
        subjects.push(tested("tgtd", false, program, &Door::open(url))?);
    }
    Ok(subjects)
}

fn volume(
    options: &Options,
    program: &Program,
    parent: &Path,
    name: &str,
    door: fn(&Stage) -> anyhow::Result<Door>,
) -> anyhow::Result<Subject> {
    let folder = folder_in(parent)?;
    let stage = Stage::set_up(plan(options, folder.path())?)?;
    tested(name, true, program, &door(&stage)?)
}

/// A volume of a kind of its own, in a pair of its own: what a suite did to another volume is not to be seen here.
fn of_kind(options: &Options, program: &Program, parent: &Path, kind: Kind) -> anyhow::Result<Subject> {
    let folder = folder_in(parent)?;
    let small =
        Plan { volume_bytes: DISK_BYTES / 16, more: conformance::access_by_proof(), ..plan(options, folder.path())? };
    let stage = Stage::set_up(small)?;
    let name = match kind {
        Kind::Thick => "a volume of a pair",
        Kind::Thin => "a thin volume",
        Kind::WriteProtected => "a write-protected volume",
    };
    let door = conformance::new_volume(&stage, kind, VOLUME_BYTES)?;
    tested_by(kind.choice(), name, true, program, &door)
}

fn disk(options: &Options, program: &Program, parent: &Path) -> anyhow::Result<Subject> {
    let folder = folder_in(parent)?;
    let mut pair = Pair::lay_out(plan(options, folder.path())?)?;
    pair.start_shelf()?;
    tested("a disk of `understudy shelf`", true, program, &conformance::last_disk_of(&pair)?)
}

fn tested(name: &str, is_ours: bool, program: &Program, door: &Door) -> anyhow::Result<Subject> {
    tested_by(Choice::Every, name, is_ours, program, door)
}

fn tested_by(choice: Choice, name: &str, is_ours: bool, program: &Program, door: &Door) -> anyhow::Result<Subject> {
    let suites = run_all(program, door, choice, |suite| {
        eprintln!("{name}: {suite}");
        Ok(())
    })?;
    Ok(Subject::new(name, is_ours, program, suites))
}

fn folder_in(parent: &Path) -> anyhow::Result<tempfile::TempDir> {
    Ok(tempfile::Builder::new().prefix("conformance-").tempdir_in(parent)?)
}

fn plan(options: &Options, folder: &Path) -> anyhow::Result<Plan> {
    let program = options.place.program()?;
    let program = program.to_str().context("the program's path is no text")?;
    Ok(Plan { disk_bytes: DISK_BYTES, volume_bytes: VOLUME_BYTES, ..stage::plan(program, folder) })
}
