//! `understudy-drills`: the table of drills, endurance, moves of pools, upgrades, conformance and growth; started by `cargo xtask drill`,
//! `soak`, `bench handoff`, `bench pacemaker`, `upgrade`, `conformance` and `bench growth`.

#[path = "drills/calm.rs"]
mod calm;
#[path = "drills/conform.rs"]
mod conform;
#[path = "drills/grow.rs"]
mod grow;
#[path = "drills/netns.rs"]
mod netns;
#[path = "drills/peer.rs"]
mod peer;
#[path = "drills/upgraded.rs"]
mod upgraded;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Context;
use clap::{Args, Parser, Subcommand};
use serde::Serialize;
use understudy_drill::stage::scratch;
use understudy_drill::stage::{Death, Ways};
use understudy_drill::step::Story;
use understudy_drill::table::{self, Order, Outcome, Run, Verdict};
use understudy_drill::{handoff, soak};

/// Drills on real processes.
#[derive(Debug, Parser)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Play the table, or some cells of it
    Table(TableArgs),
    /// Play random drills for a long time
    Soak(SoakArgs),
    /// Move pools there and back many times, and take the clients' pauses apart
    Handoff(HandoffArgs),
    /// Run libiscsi's conformance suite
    Conformance(conform::Options),
    /// Measure what more volumes, sessions, commands and bytes cost a node
    Growth(grow::Options),
    /// Move portals between machines made of network namespaces
    Netns(netns::Options),
    /// Do nothing to a pair on a busy machine, and count false alarms
    Calm(calm::Options),
    /// Move, kill and restore a pair, and then a cluster of Pacemaker, Corosync and tgt
    Pacemaker(peer::Options),
    /// Replace the programs of both nodes under clients, led by `understudy upgrade`
    Upgrade(upgraded::Options),
}

#[derive(Debug, Args)]
struct TableArgs {
    /// Only cells with this in their name, from the begin of a word of it; may be given several times
    #[arg(long, value_name = "TEXT")]
    only: Vec<String>,
    /// Only say which cells these are
    #[arg(long)]
    list: bool,
    /// Write the outcomes as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write the outcomes as markdown tables
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,
    /// Play nothing: take the outcomes from such JSON files, of a cell in several of them the last one
    #[arg(long, value_name = "FILE", conflicts_with_all = ["only", "list"])]
    from: Vec<PathBuf>,
    /// Pairs at a time
    #[arg(long, value_name = "N", default_value_t = table::WORKERS)]
    workers: usize,
    /// Where the clients' choices start
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    #[command(flatten)]
    place: Place,
}

#[derive(Debug, Args)]
struct SoakArgs {
    /// How long
    #[arg(long, value_name = "N", default_value_t = 60)]
    minutes: u64,
    /// What the drills are drawn with
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Volumes in the pool of each node
    #[arg(long, value_name = "N", default_value_t = 2)]
    volumes: usize,
    /// Write the report as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Draw the pauses
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    #[command(flatten)]
    place: Place,
}

#[derive(Debug, Args)]
struct HandoffArgs {
    /// Moves there and back
    #[arg(long, value_name = "N", default_value_t = 200)]
    runs: u32,
    /// Kill the node instead of asking its partner to take over
    #[arg(long)]
    killed: bool,
    /// Kill only its worker, so that its supervisor announces the death
    #[arg(long, requires = "killed")]
    announced: bool,
    /// Which ways the clients take.
    #[arg(long, value_enum, default_value_t = Ways::Own)]
    ways: Ways,
    /// Where the clients' choices start
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Write the report as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    #[command(flatten)]
    place: Place,
}

/// What is started, and where.
#[derive(Debug, Args)]
struct Place {
    /// The program built for drills; the one beside this one if left out
    #[arg(long, value_name = "FILE")]
    program: Option<PathBuf>,
    /// Where folders are made, in memory if left out; of failed drills everything stays there
    #[arg(long, value_name = "FOLDER")]
    folder: Option<PathBuf>,
}

impl Place {
    fn program(&self) -> anyhow::Result<PathBuf> {
        match &self.program {
            Some(program) => Ok(program.clone()),
            None => Ok(std::env::current_exe()
                .context("cannot find this program's own file")?
                .with_file_name("understudy-drilled")),
        }
    }

    fn folder(&self) -> PathBuf {
        self.folder.clone().unwrap_or_else(|| scratch().join("understudy-drills"))
    }
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Table(args) => play_table(&args),
        Command::Soak(args) => endure(&args),
        Command::Handoff(args) => move_pools(&args),
        Command::Conformance(options) => conform::run(&options),
        Command::Growth(options) => grow::run(&options),
        Command::Netns(options) => netns::run(&options),
        Command::Calm(options) => calm::run(&options),
        Command::Pacemaker(options) => peer::run(&options),
        Command::Upgrade(options) => upgraded::run(&options),
    };
    match outcome {
        Ok(status) => status,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Writes a report where it is wanted.
fn write_json(file: Option<&Path>, report: &impl Serialize) -> anyhow::Result<()> {
    let Some(file) = file else { return Ok(()) };
    let text = serde_json::to_string_pretty(report)? + "\n";
    std::fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))
}

fn play_table(args: &TableArgs) -> anyhow::Result<ExitCode> {
    if args.list {
        table::chosen(&args.only)?.iter().for_each(|cell| println!("{cell}"));
        return Ok(ExitCode::SUCCESS);
    }
    let order = Order {
        program: args.place.program()?,
        parent: args.place.folder(),
        only: args.only.clone(),
        workers: args.workers,
        seed: args.seed,
    };
    let run = if args.from.is_empty() {
        let began = Instant::now();
        let cells = table::run(&order, tell)?;
        Run { seconds: began.elapsed().as_secs_f64(), cells }
    } else {
        Run::read(&args.from)?
    };
    if let Some(file) = &args.json {
        run.write(file)?;
    }
    if let Some(file) = &args.markdown {
        std::fs::write(file, table::page(&run)).with_context(|| format!("cannot write {}", file.display()))?;
    }
    let [passed, explained, failed, skipped] =
        [Verdict::Passed, Verdict::Explained, Verdict::Failed, Verdict::Skipped].map(|verdict| run.count(verdict));
    println!("{passed} passed, {explained} explained, {failed} failed, {skipped} skipped, in {:.0} s", run.seconds);
    for outcome in run.cells.iter().filter(|outcome| outcome.verdict == Verdict::Failed) {
        println!("FAILED {}", outcome.cell);
    }
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn endure(args: &SoakArgs) -> anyhow::Result<ExitCode> {
    let order = soak::Order {
        program: args.place.program()?,
        parent: args.place.folder(),
        length: Duration::from_secs(args.minutes * 60),
        seed: args.seed,
        volumes: args.volumes,
        hosting: table::hosting(),
    };
    println!("seed {}", order.seed);
    let report = soak::run(&order, |line| println!("{line}"))?;
    write_json(args.json.as_deref(), &report)?;
    if let Some(file) = &args.svg {
        std::fs::write(file, soak::picture(&report)).with_context(|| format!("cannot write {}", file.display()))?;
    }
    for (kind, figures) in &report.kinds {
        println!(
            "{kind:<32}{:>6} drills, median {:>8.1} ms, worst {:>8.1} ms",
            figures.drills, figures.median_ms, figures.worst_ms
        );
    }
    match &report.ended_by {
        None => Ok(ExitCode::SUCCESS),
        Some(why) => {
            println!("ENDED after {} drills: {why}", report.cycles);
            Ok(ExitCode::FAILURE)
        }
    }
}

fn move_pools(args: &HandoffArgs) -> anyhow::Result<ExitCode> {
    let order = handoff::Order {
        program: args.place.program()?,
        parent: args.place.folder(),
        runs: args.runs,
        seed: args.seed,
        story: if args.killed { Story::Takeover } else { Story::PlannedTakeover },
        death: if args.announced { Death::Announced } else { Death::Whole },
        ways: args.ways,
    };
    let report = handoff::run(&order, |line| println!("{line}"))?;
    write_json(args.json.as_deref(), &report)?;
    println!("{:<32}{:>10}{:>10}{:>10}", "pauses of clients, ms", "median", "99 %", "worst");
    for (kind, pauses) in &report.pauses {
        print_row(kind, pauses);
        for (step, after) in &report.steps[kind] {
            print_row(&format!("  until {step}"), after);
        }
    }
    for (kind, forecasts) in &report.forecasts {
        print_row(&format!("{kind}, predicted"), &forecasts.predicted);
    }
    for (kind, handoff::Forecasts { times_predicted: times, .. }) in &report.forecasts {
        let (tenth, median, ninetieth, largest) = (times.tenth, times.median, times.ninetieth, times.largest);
        println!(
            "{kind}: {median:.2} times as long as predicted in the median, {tenth:.2} at 10 of 100, \
             {ninetieth:.2} at 90, {largest:.2} at the most"
        );
    }
    let (written, lost) = (report.acknowledged_writes, report.lost_writes);
    let (failed, repeated) = (report.failed_commands, report.told_to_repeat);
    println!("{written} writes acknowledged, {lost} lost, {failed} commands failed, {repeated} had to be issued again");
    Ok(ExitCode::SUCCESS)
}

fn print_row(name: &str, times: &handoff::Pauses) {
    println!("{name:<32}{:>10.2}{:>10.2}{:>10.2}", times.median_ms, times.p99_ms, times.worst_ms);
}

fn tell(outcome: &Outcome, number: &str) {
    let verdict = match outcome.verdict {
        Verdict::Passed => "passed",
        Verdict::Explained => "explained",
        Verdict::Failed => "FAILED",
        Verdict::Skipped => "skipped",
    };
    println!(
        "{number}: {verdict} {} ({:.1} s, longest pause {:.0} ms)",
        outcome.cell, outcome.seconds, outcome.longest_pause_ms
    );
    if outcome.network_late_ms > outcome.longest_pause_ms / 10.0 {
        println!("    the drill's own network was up to {:.0} ms late", outcome.network_late_ms);
    }
    if !outcome.reason.is_empty() {
        println!("    {}", outcome.reason.replace('\n', "\n    "));
    }
    if let Some(folder) = &outcome.folder {
        println!("    everything is in {}", folder.display());
    }
}
