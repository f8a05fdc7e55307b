//! The command line: what an operator types, and which exit status answers.
//!
//! Each command is a module of its own below; here is only what they are called and what `--help` says.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use understudy_eventlog::segment::RELEASE_AND_BUILD;

use crate::config::{Config, ConfigError, Look, NodeName};
use crate::replay::Place;
use crate::timeline::Style;

mod ask;
mod bench;
mod failure;
mod node;
mod put;
mod replay;
mod shelf;
mod show;
mod size;
#[cfg(test)]
mod tests;
mod upgrade;

pub use failure::Failure;
pub use size::{Size, VolumeWish};

/// What the exit status says; part of `--help`.
const EXIT_STATUS: &str = "\
Exit status:
  0  done
  1  it could not be done, or it failed
  2  the command line is wrong
  3  the pair's file is wrong or missing
  4  no node answers
  5  the node refused (vetoes, or not now)";

/// The same of `replay`, which has a verdict of its own.
const REPLAY_EXIT_STATUS: &str = "\
Exit status:
  0  every order is the one recorded
  1  something differs; the first difference of each run is named
  2  a file is no event log, damaged where it should be whole, or of a release too far away";

/// Two machines, one shelf of disks, storage that stays: a pair of nodes that take over from each other.
#[derive(Debug, Parser)]
#[command(name = "understudy", version = RELEASE_AND_BUILD, after_help = EXIT_STATUS, max_term_width = 110)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
    /// End when the process with this id ends (it must be the one that started this).
    #[arg(long, global = true, hide = true, value_name = "PID")]
    with_parent: Option<u32>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Watch a pair lose a node and get it back, on this machine, in under a minute
    ///
    /// Starts a shelf, two nodes and clients that write and verify all the time; kills a node, shows the takeover, starts
    /// the node again, shows each step of the bring-up, and verifies every acknowledged write. Needs no rights and
    /// leaves nothing behind.
    Demo(DemoArgs),
    /// Serve files of a folder as shared disks over iSCSI, with persistent reservations
    Shelf(ShelfArgs),
    /// Prepare the disks of a pair
    #[command(subcommand)]
    Pair(PairCommand),
    /// Run one node of a pair
    ///
    /// Two processes: this one, the supervisor, serves the state page and waits; the worker, which it starts, does everything else and
    /// ends with it. When the worker dies, the supervisor tells the partner at once, goes on telling for `silent_ms`, and ends with the
    /// worker's exit status (128 and the signal's number if a signal ended it). It does not start the worker again: whoever starts
    /// the node does. SIGTERM and SIGINT stop the node in an orderly way.
    Node(NodeArgs),
    /// Show what the nodes are doing
    Status(StatusArgs),
    /// Make a node take its partner's pools
    Takeover(TakeoverArgs),
    /// Report that the partner's machine has lost its power, so that a takeover need not wait
    ///
    /// For the alert of a BMC (docs/power-loss.md). A report is never believed against a sign of life: if the partner's page or heartbeat
    /// moves after it, nothing is done, and this ends with status 5. Else the partner is given up after `ended_ms` instead of
    /// `silent_ms`, contested and fenced as always.
    PartnerLost(PartnerLostArgs),
    /// Hand the partner's pools home
    Giveback(GivebackArgs),
    /// Replace the program of both nodes while clients go on
    ///
    /// One node after the other: its partner takes over as planned, you replace the program and restart the node, the pair brings it
    /// back and it gets its volumes again. Waits for each step and goes on by itself; may be interrupted and run again. Where only one
    /// node answers on this machine, it says what to run on the other.
    Upgrade(UpgradeArgs),
    /// Make, list, protect and delete volumes
    #[command(subcommand)]
    Volume(VolumeCommand),
    /// Show what happened: takeovers, bring-ups, givebacks, with their pauses
    Timeline(TimelineArgs),
    /// Run the event log of a node again, step by step, to understand what it did and why
    ///
    /// Every step is run through the failover machine of this very program: what the node was told, what it ordered, and whether
    /// this program orders the same. Works on the log of a node that is running. `docs/replay.md` shows how to read it.
    #[command(after_help = REPLAY_EXIT_STATUS)]
    Replay(ReplayArgs),
    /// Measure any iSCSI target: rate, bandwidth and how long commands take
    ///
    /// Keeps commands under way on a logical unit and says how they were answered. Reads only, unless --read-percent says
    /// otherwise: then it OVERWRITES the logical unit, whatever is on it.
    Bench(bench::BenchArgs),
}

/// Which pair, for every command that needs one.
#[derive(Debug, Clone, Args)]
struct PairFile {
    /// The file that describes the pair
    #[arg(
        long,
        short = 'p',
        value_name = "FILE",
        env = "UNDERSTUDY_PAIR",
        default_value = "/etc/understudy/pair.toml"
    )]
    pair: PathBuf,
}

impl PairFile {
    fn load(&self) -> Result<Config, ConfigError> {
        Config::load(&self.pair)
    }
}

#[derive(Debug, Args)]
struct DemoArgs {
    /// Write the result to FILE as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Keep the folder with the disks and the logs of all processes
    #[arg(long)]
    keep: bool,
    /// What carries the interconnect between the two nodes
    #[arg(long, value_name = "PROVIDER", default_value = "tcp", value_parser = ["tcp", "shm", "verbs"])]
    provider: String,
}

#[derive(Debug, Args)]
struct ShelfArgs {
    /// Folder of the files that are the disks; made if need be
    #[arg(long, value_name = "FOLDER")]
    folder: PathBuf,
    /// Address and port to serve at; port 0 picks a free one, which is printed
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:3260")]
    listen: std::net::SocketAddr,
    /// iSCSI name of the target
    #[arg(long, value_name = "IQN", default_value = "iqn.2026-01.org.example.understudy:shelf")]
    target: String,
    /// A disk, as `d0:1GiB`; its logical unit number is its place, from 0
    #[arg(long = "disk", value_name = "NAME:SIZE", required = true)]
    disks: Vec<String>,
    /// Bytes per block of every disk
    #[arg(long, value_name = "BYTES", default_value = "512", value_parser = ["512", "4096"])]
    block: String,
    /// Let in only the initiators that FILE lists, with the proofs it demands (docs/sessions.md)
    #[arg(long, value_name = "FILE")]
    access: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum PairCommand {
    /// Write labels, empty pools and the first records on all disks of a pair
    ///
    /// Run once, on either node, before the nodes are started. Disks that hold anything are refused.
    Init(InitArgs),
}

#[derive(Debug, Args)]
struct InitArgs {
    #[command(flatten)]
    file: PairFile,
    /// Make this volume too; may be given several times
    #[arg(long = "volume", value_name = "NAME:SIZE:POOL[:thin]")]
    volumes: Vec<VolumeWish>,
    /// Destroy what the disks hold, also another pair's pools
    #[arg(long)]
    overwrite: bool,
    /// Reach the disks as this node does
    #[arg(long, value_name = "NODE", default_value = "a")]
    node: NodeName,
}

#[derive(Debug, Args)]
struct NodeArgs {
    /// Which node of the pair this is: a or b
    node: NodeName,
    #[command(flatten)]
    file: PairFile,
    /// Be the worker; the state page's memory is the standard input
    #[arg(long, hide = true)]
    worker: bool,
}

#[derive(Debug, Args)]
struct StatusArgs {
    #[command(flatten)]
    file: PairFile,
    /// Only this node
    #[arg(long, value_name = "NODE")]
    node: Option<NodeName>,
    /// As JSON, one object with both nodes
    #[arg(long)]
    json: bool,
    /// Again every second, until interrupted
    #[arg(long)]
    watch: bool,
}

#[derive(Debug, Args)]
struct TakeoverArgs {
    #[command(flatten)]
    file: PairFile,
    /// The node that shall take over; may be left out where only one answers
    #[arg(long, value_name = "NODE")]
    node: Option<NodeName>,
    /// The partner hands over, clients see a pause of milliseconds (this is the default)
    #[arg(long, conflicts_with = "force")]
    planned: bool,
    /// Contest and fence the partner, whether or not it looks alive
    #[arg(long)]
    force: bool,
    /// Only this pool of the partner; may be given several times
    #[arg(long = "pool", value_name = "POOL", conflicts_with = "force")]
    pools: Vec<String>,
    /// Say what would move, what would veto it and how long the pause would be; change nothing
    #[arg(long, conflicts_with = "force")]
    dry_run: bool,
    /// Override soft vetoes of the partner (a resync in progress, a client's transfer); hard ones stand
    #[arg(long, conflicts_with = "force")]
    override_vetoes: bool,
}

#[derive(Debug, Args)]
struct PartnerLostArgs {
    #[command(flatten)]
    file: PairFile,
    /// The node that is told, the survivor; may be left out where only one answers
    #[arg(long, value_name = "NODE")]
    node: Option<NodeName>,
}

#[derive(Debug, Args)]
struct GivebackArgs {
    #[command(flatten)]
    file: PairFile,
    /// The node that shall give back; may be left out where it is plain
    #[arg(long, value_name = "NODE")]
    node: Option<NodeName>,
    /// Only this pool; may be given several times
    #[arg(long = "pool", value_name = "POOL")]
    pools: Vec<String>,
    /// Say what would veto it and how long the pause would be; change nothing
    #[arg(long)]
    dry_run: bool,
    /// Override soft vetoes (a resync in progress, a client's transfer, too many givebacks); hard ones stand
    #[arg(long)]
    override_vetoes: bool,
}

#[derive(Debug, Args)]
struct UpgradeArgs {
    #[command(flatten)]
    file: PairFile,
    /// Only this node
    #[arg(long, value_name = "NODE")]
    node: Option<NodeName>,
    /// Replaces the program of the node named by $UNDERSTUDY_NODE and restarts it; without it you are told when to do so
    #[arg(long, value_name = "COMMAND")]
    restart: Option<String>,
    /// How long you may take over what you are told to do
    #[arg(long, value_name = "MINUTES", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=10_080))]
    within: u64,
}

impl UpgradeArgs {
    fn within(&self) -> std::time::Duration {
        std::time::Duration::from_secs(self.within * 60)
    }
}

#[derive(Debug, Subcommand)]
enum VolumeCommand {
    /// Make a volume
    Create {
        /// Its name, unique in the pair
        name: String,
        /// Its size, as `64MiB` or `2GiB`
        size: Size,
        /// The pool it lives in
        #[arg(long, value_name = "POOL")]
        pool: String,
        /// Take room from the pool only where clients write; it may be larger than what is free
        ///
        /// What clients delete (UNMAP, as fstrim sends it) goes back to the pool. When the pool is full, writes to new places fail
        /// until there is room again; `status` raises an alarm before.
        #[arg(long)]
        thin: bool,
        #[command(flatten)]
        file: PairFile,
    },
    /// List all volumes and where clients find them
    List {
        /// As JSON
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        file: PairFile,
    },
    /// Let no client write to a volume any more, whatever node serves it
    Protect {
        /// Its name
        name: String,
        #[command(flatten)]
        file: PairFile,
    },
    /// Let clients write to a volume again
    Unprotect {
        /// Its name
        name: String,
        #[command(flatten)]
        file: PairFile,
    },
    /// Delete a volume and everything on it
    Delete {
        /// Its name
        name: String,
        #[command(flatten)]
        file: PairFile,
    },
}

#[derive(Debug, Args)]
struct TimelineArgs {
    #[command(flatten)]
    file: PairFile,
    /// As JSON: a list of operations with their steps
    #[arg(long)]
    json: bool,
    /// Only the newest so many operations
    #[arg(long, value_name = "N", default_value = "10")]
    newest: usize,
}

#[derive(Debug, Args)]
struct ReplayArgs {
    /// The state folder of a node, or single files of its log (`events-0.log` to `events-3.log`); of both nodes for one transcript
    #[arg(required = true, value_name = "FOLDER|FILE")]
    files: Vec<PathBuf>,
    /// Show steps from here on: the number of a step, or a time (UTC) as 14:03, 14:03:05.250 or 2026-05-31T14:03:05
    #[arg(long, value_name = "STEP|TIME")]
    from: Option<Place>,
    /// Show steps up to here
    #[arg(long, value_name = "STEP|TIME")]
    until: Option<Place>,
    /// Show only steps in which TEXT occurs, as `order 12`, `fence` or `TAKEOVER`; may be given more than once
    #[arg(long, value_name = "TEXT")]
    only: Vec<String>,
    /// Show also the steps from which nothing followed, instead of counting them
    #[arg(long)]
    all: bool,
    /// As JSON, one object a line
    #[arg(long)]
    json: bool,
    /// Only the verdict
    #[arg(long, conflicts_with = "json")]
    quiet: bool,
    /// Print a transcript as the golden scenarios of the failover machine have it, so that an incident can become one
    #[arg(long, conflicts_with_all = ["json", "quiet", "all", "from", "until", "only"])]
    export_transcript: bool,
}

/// Reads the command line, does what it says, and reports.
#[must_use]
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    if let Some(parent) = cli.with_parent
        && let Err(failure) = node::end_with(parent)
    {
        return failure.report();
    }
    match run(cli.command) {
        Ok(status) => status,
        Err(failure) => failure.report(),
    }
}

fn run(command: Command) -> Result<ExitCode, Failure> {
    match command {
        Command::Demo(args) => demo(&args),
        Command::Shelf(args) => shelf::run(&args),
        Command::Pair(PairCommand::Init(args)) => node::pair_init(&args),
        Command::Node(args) => node::run(&args),
        Command::Status(args) => show::status(&args),
        Command::Takeover(args) => ask::takeover(&args),
        Command::PartnerLost(args) => ask::partner_lost(&args),
        Command::Giveback(args) => ask::giveback(&args),
        Command::Upgrade(args) => upgrade::run(&args),
        Command::Volume(command) => ask::volume(&command),
        Command::Timeline(args) => show::timeline(&args),
        Command::Replay(args) => replay::run(&args),
        Command::Bench(args) => bench::run(&args),
    }
}

fn demo(args: &DemoArgs) -> Result<ExitCode, Failure> {
    let options = crate::demo::Options {
        json: args.json.clone(),
        folder: if args.keep { crate::demo::Keep::Always } else { crate::demo::Keep::OnFailure },
        provider: args.provider.clone(),
        style: Style::of_stdout(),
    };
    crate::demo::run(&options).map_err(Failure::from)
}

/// How error texts may look.
fn look() -> Look {
    match Style::of_stderr() {
        Style::Plain => Look::Plain,
        Style::Coloured => Look::Coloured,
    }
}
