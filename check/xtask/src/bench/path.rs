//! What the way to the shelf costs: the same load on a target that keeps its blocks in a file, and on a volume of a pair whose
//! disks are such files on a shelf, in turns.
//!
//! Node and shelf share one processor here and the client has the other, so rates follow the processor time of a command,
//! which is told for node and shelf apart. `--program` names another build of `understudy`, whose pair is measured in the same
//! turns.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::servers::{Keeping, Side, on_its_processor, processor_micros, start_and_listen, start_ours};
use super::{Series, machine, write_json};
use crate::programs::{MemoryFolder, Running, build_release, succeed};

/// How long it is measured.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Effort {
    /// Turns of each.
    pub(crate) rounds: u32,
    /// Length of one measurement.
    pub(crate) seconds: f64,
}

/// Name, arguments of the load generator.
const WORKLOADS: [(&str, &[&str]); 8] = [
    ("4 KiB random read, depth 1", &["--depth", "1"]),
    ("4 KiB random read, depth 8", &["--depth", "8"]),
    ("4 KiB random read, depth 32", &["--depth", "32"]),
    ("4 KiB random write, depth 1", &["--depth", "1", "--read-percent", "0"]),
    ("4 KiB random write, depth 8", &["--depth", "8", "--read-percent", "0"]),
    ("4 KiB random write, depth 32", &["--depth", "32", "--read-percent", "0"]),
    ("128 KiB sequential read, depth 8", &["--depth", "8", "--bytes", "131072", "--order", "sequential"]),
    (
        "128 KiB sequential write, depth 8",
        &["--depth", "8", "--bytes", "131072", "--order", "sequential", "--read-percent", "0"],
    ),
];

/// What is measured: a LUN, and the processes that a command to it goes through.
struct Way {
    name: String,
    _running: Running,
    portal: String,
    target: String,
    lun: String,
    processes: Vec<(String, u32)>,
}

/// What was measured at one workload.
#[derive(Default, Clone)]
struct Figures {
    rate: Series,
    median: Series,
    processor: Vec<Series>,
}

/// Measures in turns.
pub(crate) fn run(program: Option<PathBuf>, effort: Effort, json: Option<PathBuf>) -> Result<()> {
    let programs = build_release(&["--package", "understudy-load", "--bins", "--examples"])?;
    build_release(&["--package", "understudy", "--bins", "--example", "standing_pair"])?;
    let machine = machine();
    let folder = MemoryFolder::new()?;
    let mut ways = vec![alone(&programs, folder.path())?];
    ways.push(pair("volume of a pair", &programs, &programs.join("understudy"), folder.path())?);
    if let Some(program) = program {
        ways.push(pair("volume, other build", &programs, &program, folder.path())?);
    }
    let mut rows = Vec::new();
    for (workload, arguments) in WORKLOADS {
        let none =
            |way: &Way| Figures { processor: vec![Series::default(); way.processes.len()], ..Figures::default() };
        let mut figures: Vec<Figures> = ways.iter().map(none).collect();
        for _ in 0..effort.rounds {
            for (way, figures) in ways.iter().zip(&mut figures) {
                measure(&programs, way, arguments, effort.seconds, figures)?;
            }
        }
        println!("{workload}");
        ways.iter().zip(&figures).for_each(|(way, of_way)| show(way, of_way, &figures[0]));
        let of_each = ways.iter().zip(&figures).map(|(way, figures)| (way.name.clone(), to_json(way, figures)));
        rows.push(json!({ "workload": workload, "ways": of_each.collect::<serde_json::Map<_, _>>() }));
    }
    let effort = json!({ "rounds": effort.rounds, "seconds": effort.seconds });
    write_json(json.as_deref(), &json!({ "machine": machine, "effort": effort, "workloads": rows }))
}

fn alone(programs: &Path, folder: &Path) -> Result<Way> {
    let server = start_ours(programs, folder, Keeping::File)?;
    let processes = vec![("target".to_owned(), server.process())];
    let (running, portal, target, lun) = server.into_parts();
    Ok(Way { name: "file alone".to_owned(), _running: running, portal, target, lun: lun.to_string(), processes })
}

fn pair(name: &str, programs: &Path, program: &Path, folder: &Path) -> Result<Way> {
    let folder = folder.join(name.replace([' ', ','], "-"));
    fs::create_dir(&folder).context("no folder for a pair")?;
    let mut command = on_its_processor(Side::Server, programs.join("examples/standing_pair"));
    command.arg(program).arg(folder).stdin(Stdio::piped());
    let (running, line) = start_and_listen("standing_pair", &mut command)?;
    let place: Value = serde_json::from_str(&line).with_context(|| format!("standing_pair said: {line}"))?;
    let text = |name: &str| place[name].as_str().map(ToOwned::to_owned).context("standing_pair left something out");
    let process = |name: &str| {
        let id = place["processes"][name].as_u64().and_then(|id| u32::try_from(id).ok());
        id.map(|id| (name.to_owned(), id)).context("standing_pair named no process")
    };
    let processes = vec![process("node")?, process("shelf")?];
    let (portal, target) = (text("portal")?, text("target")?);
    Ok(Way { name: name.to_owned(), _running: running, portal, target, lun: place["lun"].to_string(), processes })
}

fn measure(programs: &Path, way: &Way, arguments: &[&str], seconds: f64, figures: &mut Figures) -> Result<()> {
    let spent = || way.processes.iter().map(|(_, id)| processor_micros(*id)).collect::<Result<Vec<_>>>();
    let before = spent()?;
    let mut command: Command = on_its_processor(Side::Client, programs.join("understudy-load"));
    command.args(["generate", "--portal", &way.portal, "--target", &way.target, "--lun", &way.lun]);
    command.args(arguments).args(["--seconds", &seconds.to_string(), "--warm-up-millis", "100", "--json", "-"]);
    let output = succeed(&mut command).with_context(|| way.name.clone())?;
    let report: Value = serde_json::from_slice(&output.stdout).context("understudy-load wrote no JSON")?;
    let figure = |value: &Value| value.as_f64().context("understudy-load left something out");
    let commands = figure(&report["commands_altogether"])?.max(1.0);
    figures.rate.push(figure(&report["iops"])?);
    figures.median.push(figure(&report["latency_micros"]["p50"])?);
    for ((after, before), series) in spent()?.iter().zip(&before).zip(&mut figures.processor) {
        series.push((after - before) / commands);
    }
    Ok(())
}

fn show(way: &Way, figures: &Figures, alone: &Figures) {
    let (rate, median) = (figures.rate.median(), figures.median.median());
    let ratio = rate / alone.rate.median();
    let processor = way.processes.iter().zip(&figures.processor);
    let processor: Vec<String> = processor.map(|((name, _), time)| format!("{name} {:.1} µs", time.median())).collect();
    let (name, processor) = (&way.name, processor.join(", "));
    println!(
        "  {name:<20}{rate:>9.0}/s, {ratio:.2} of the file alone, median {median:>6.0} µs, processor: {processor}"
    );
}

fn to_json(way: &Way, figures: &Figures) -> Value {
    let processor = way.processes.iter().zip(&figures.processor);
    let processor: serde_json::Map<_, _> = processor.map(|((name, _), time)| (name.clone(), time.to_json())).collect();
    let (rate, median) = (figures.rate.to_json(), figures.median.to_json());
    json!({ "commands_per_second": rate, "median_micros": median, "processor_micros": processor })
}
