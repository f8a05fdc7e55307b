//! Our target against others, all serving to the same load generator, in turns (A B C A B C …), so that other work on the
//! machine hits all alike.
//!
//! Beside the rate it takes the processor time that the target spent for a command. For one command at a time it also measures
//! an exchange of as many bytes between two processes that do nothing else.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::servers::{Keeping, MEBIBYTES, Rival, Server, Side, on_its_processor, start_and_listen, start_ours};
use super::{Series, machine, write_json};
use crate::programs::{MemoryFolder, Running, build_release, succeed};

/// What is measured, and how long.
#[derive(Debug, Clone)]
pub(crate) struct Effort {
    pub(crate) rivals: Vec<Rival>,
    pub(crate) keeping: Keeping,
    pub(crate) client: Waiting,
    /// Only workloads with this in their name.
    pub(crate) only: String,
    /// Turns of each.
    pub(crate) rounds: u32,
    /// Length of one measurement.
    pub(crate) seconds: f64,
}

/// What the client does between answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Waiting {
    /// It looks for the next one for a while. What is measured is the target, and not how long this machine takes to wake a processor,
    /// which the sender of an answer pays for.
    Awake,
    /// It sleeps until there is one, as an ordinary program does.
    Asleep,
}

impl Waiting {
    pub(crate) fn named(name: &str) -> Result<Self> {
        match name {
            "awake" => Ok(Self::Awake),
            "asleep" => Ok(Self::Asleep),
            other => bail!("--client {other}: expected awake or asleep"),
        }
    }

    /// As the load generator's option takes it: longer than any answer should take.
    fn micros(self) -> &'static str {
        match self {
            Self::Awake => "200",
            Self::Asleep => "0",
        }
    }
}

impl Effort {
    pub(crate) fn keeping(name: &str) -> Result<Keeping> {
        match name {
            "memory" => Ok(Keeping::Memory),
            "file" => Ok(Keeping::File),
            other => bail!("--on {other}: expected memory or file"),
        }
    }
}

/// One kind of load.
#[derive(Debug, Clone, Copy)]
struct Workload {
    reads: bool,
    bytes: u32,
    depth: u32,
    connections: u32,
}

impl Workload {
    /// What issue and design ask for: small commands at random places, large ones one after the other.
    fn all() -> Vec<Self> {
        let mut all = Vec::new();
        for reads in [true, false] {
            for (depth, connections) in [(1, 1), (8, 1), (32, 1), (1, 4), (8, 4), (32, 4)] {
                all.push(Self { reads, bytes: 4 << 10, depth, connections });
            }
            all.push(Self { reads, bytes: 128 << 10, depth: 8, connections: 1 });
            all.push(Self { reads, bytes: 1 << 20, depth: 4, connections: 1 });
        }
        all
    }

    fn is_random(self) -> bool {
        self.bytes == 4 << 10
    }

    fn name(self) -> String {
        let what = if self.reads { "read" } else { "write" };
        let order = if self.is_random() { "random" } else { "sequential" };
        let (kib, depth) = (self.bytes >> 10, self.depth);
        let connections = if self.connections == 1 { "" } else { ", 4 connections" };
        format!("{kib} KiB {order} {what}, depth {depth}{connections}")
    }

    /// What the bare exchange sends and receives for one: a header each way, and the data with one of them.
    fn exchanged(self) -> Option<(u32, u32)> {
        const HEADER: u32 = 48;
        let alone = self.depth == 1 && self.connections == 1;
        let data = if self.reads { (HEADER, HEADER + self.bytes) } else { (HEADER + self.bytes, HEADER) };
        alone.then_some(data)
    }
}

/// What is measured of one server at one workload.
#[derive(Debug, Clone, Default)]
struct Figures {
    /// Commands per second.
    rate: Series,
    /// Processor time of the target for a command, in microseconds.
    processor: Series,
    /// Median time of a command, in microseconds.
    median: Series,
}

impl Figures {
    fn to_json(&self) -> Value {
        let (rate, processor, median) = (self.rate.to_json(), self.processor.to_json(), self.median.to_json());
        json!({ "commands_per_second": rate, "processor_micros": processor, "median_micros": median })
    }
}

struct Bare {
    _running: Running,
    address: String,
}

/// Measures all in turns.
pub(crate) fn run(effort: &Effort, json: Option<PathBuf>) -> Result<()> {
    let programs = build_release(&["--package", "understudy-load", "--bins", "--examples"])?;
    let machine = machine();
    let folder = MemoryFolder::new()?;
    let mut servers = vec![("understudy", start_ours(&programs, folder.path(), effort.keeping)?)];
    for rival in &effort.rivals {
        servers.push((rival.name(), rival.start(folder.path(), effort.keeping)?));
    }
    for (name, server) in &servers {
        fill(&programs, server).with_context(|| format!("cannot fill the LUN of {name}"))?;
        server.signal("-STOP")?;
    }
    let bare = start_bare(&programs)?;
    let mut rows = Vec::new();
    for workload in Workload::all().into_iter().filter(|workload| workload.name().contains(&effort.only)) {
        let mut figures = vec![Figures::default(); servers.len()];
        let mut exchange = Series::default();
        for _ in 0..effort.rounds {
            for ((_, server), figures) in servers.iter().zip(&mut figures) {
                server.signal("-CONT")?;
                measure(&programs, server, workload, effort, figures)?;
                server.signal("-STOP")?;
            }
            if let Some((request, answer)) = workload.exchanged() {
                exchange.push(measure_bare(&programs, &bare, request, answer, effort.seconds)?);
            }
        }
        show(workload, &servers, &figures, &exchange);
        let of_each = servers.iter().zip(&figures).map(|((name, _), figures)| ((*name).to_owned(), figures.to_json()));
        let of_each: serde_json::Map<String, Value> = of_each.collect();
        let bare_rate = workload.exchanged().map(|_| exchange.to_json());
        rows.push(json!({ "workload": workload.name(), "targets": of_each, "bare_exchanges_per_second": bare_rate }));
    }
    let keeping = if effort.keeping == Keeping::Memory { "memory" } else { "file" };
    let client = if effort.client == Waiting::Awake { "awake" } else { "asleep" };
    let effort = json!({ "client": client, "rounds": effort.rounds, "seconds": effort.seconds, "mebibytes": MEBIBYTES, "on": keeping });
    write_json(json.as_deref(), &json!({ "machine": machine, "effort": effort, "workloads": rows }))
}

/// A workload's figures: rate, ratio of ours to each other's, and processor time.
fn show(workload: Workload, servers: &[(&'static str, Server)], figures: &[Figures], exchange: &Series) {
    println!("{}", workload.name());
    let own = figures[0].rate.median();
    for ((name, _), figures) in servers.iter().zip(figures) {
        let (rate, processor) = (figures.rate.median(), figures.processor.median());
        let megabytes = rate * f64::from(workload.bytes) / 1e6;
        let (lowest, highest) = (figures.rate.best(), figures.rate.worst());
        println!(
            "  {name:<12}{rate:>9.0}/s ({lowest:.0} to {highest:.0}) {megabytes:>7.0} MB/s, median {:>7.1} µs, processor {processor:>7.2} µs, understudy is {:.2} times as fast",
            figures.median.median(),
            own / rate,
        );
    }
    if workload.exchanged().is_some() {
        let bare = exchange.median();
        println!("  {:<12}{bare:>9.0}/s, understudy takes {:.2} times as long", "bare TCP", bare / own);
    }
}

fn load(programs: &Path, server: &Server) -> Command {
    let mut command = on_its_processor(Side::Client, programs.join("understudy-load"));
    command.args(["generate", "--portal", &server.portal, "--target", &server.target]);
    command.args(["--lun", &server.lun.to_string(), "--json", "-"]);
    command
}

/// Writes every block once: memory that was never written is slow to write and quick to read.
fn fill(programs: &Path, server: &Server) -> Result<()> {
    let mut command = load(programs, server);
    command.args(["--read-percent", "0", "--order", "sequential", "--bytes", "1048576", "--depth", "4"]);
    command.args(["--commands", &MEBIBYTES.to_string(), "--warm-up-millis", "0"]);
    succeed(&mut command).map(drop)
}

/// One measurement.
fn measure(programs: &Path, server: &Server, workload: Workload, effort: &Effort, figures: &mut Figures) -> Result<()> {
    let before = server.processor_micros()?;
    let mut command = load(programs, server);
    command.args(["--depth", &workload.depth.to_string()]);
    command.args(["--connections", &workload.connections.to_string(), "--bytes", &workload.bytes.to_string()]);
    command.args(["--read-percent", if workload.reads { "100" } else { "0" }]);
    command.args(["--order", if workload.is_random() { "random" } else { "sequential" }]);
    command.args(["--seconds", &effort.seconds.to_string(), "--warm-up-millis", "100"]);
    command.args(["--awake-micros", effort.client.micros()]);
    let output = succeed(&mut command).with_context(|| format!("{} against {}", workload.name(), server.portal))?;
    let spent = server.processor_micros()? - before;
    let report: Value = serde_json::from_slice(&output.stdout).context("understudy-load wrote no JSON")?;
    let commands = report["commands_altogether"].as_f64().context("understudy-load counted nothing")?;
    figures.rate.push(report["iops"].as_f64().context("understudy-load reported no rate")?);
    figures.median.push(report["latency_micros"]["p50"].as_f64().context("understudy-load reported no latency")?);
    figures.processor.push(spent / commands.max(1.0));
    Ok(())
}

fn start_bare(programs: &Path) -> Result<Bare> {
    let mut command = on_its_processor(Side::Server, programs.join("examples/bare_exchange"));
    let (running, address) = start_and_listen("bare_exchange", command.arg("serve").stdin(Stdio::piped()))?;
    Ok(Bare { _running: running, address })
}

/// Exchanges per second.
fn measure_bare(programs: &Path, bare: &Bare, request: u32, answer: u32, seconds: f64) -> Result<f64> {
    let mut command = on_its_processor(Side::Client, programs.join("examples/bare_exchange"));
    command.args(["measure", &bare.address, &request.to_string(), &answer.to_string(), &seconds.to_string()]);
    let report: Value = serde_json::from_slice(&succeed(&mut command)?.stdout).context("no JSON")?;
    report["iops"].as_f64().context("bare_exchange reported no rate")
}
