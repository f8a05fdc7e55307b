//! `understudy-model`: explores the scenes and says what was found.
//!
//! Not here: the scenes and the laws (the library).

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use understudy_model::explore::{Effort, Report, Told, explore};
use understudy_model::scenes::{self, Scene};
use understudy_model::tale;

const USAGE: &str =
    "understudy-model [--long | --deep | --mutants] [--scene NAME] [--tell] [--threads N] [--minutes N] [--json FILE]";

#[derive(Default)]
struct Options {
    long: bool,
    deep: bool,
    mutants: bool,
    tell: bool,
    scene: Option<String>,
    threads: Option<usize>,
    minutes: Option<u64>,
    json: Option<PathBuf>,
}

fn options() -> Result<Options> {
    let mut options = Options::default();
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut value = || words.next().with_context(|| format!("{word}: a value is missing\n{USAGE}"));
        match word.as_str() {
            "--long" => options.long = true,
            "--deep" => options.deep = true,
            "--tell" => options.tell = true,
            "--mutants" => options.mutants = true,
            "--scene" => options.scene = Some(value()?),
            "--threads" => options.threads = Some(value()?.parse().context("--threads: a number")?),
            "--minutes" => options.minutes = Some(value()?.parse().context("--minutes: a number")?),
            "--json" => options.json = Some(value()?.into()),
            _ => bail!("{word}: unknown\n{USAGE}"),
        }
    }
    Ok(options)
}

fn main() -> ExitCode {
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<bool> {
    let options = options()?;
    let (results, sound) = if options.mutants { mutants(&options) } else { scenes(&options) };
    if let Some(file) = &options.json {
        let text = serde_json::to_string_pretty(&results)?;
        fs::write(file, text + "\n").with_context(|| format!("cannot write {}", file.display()))?;
    }
    Ok(sound)
}

/// What the process has had in memory at most, in MiB; zero where the system does not say.
fn peak_mib() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.split_whitespace().next()).and_then(|number| number.parse::<u64>().ok());
    kib.unwrap_or(0) / 1024
}

fn as_json(report: &Report) -> Value {
    json!({
        "scene": report.scene,
        "states": report.states,
        "moves": report.moves,
        "depth": report.depth,
        "complete": report.complete,
        "seconds": report.took.as_secs_f64(),
        "peak_mib": peak_mib(),
        "broken": report.broken.as_ref().map(|found| json!({
            "law": found.law.sentence(), "how": found.how, "steps": found.moves.len(),
        })),
    })
}

fn scenes(options: &Options) -> (Value, bool) {
    let all = match (options.deep, options.long) {
        (true, _) => scenes::deep(),
        (false, true) => scenes::long(),
        (false, false) => scenes::short(),
    };
    let threads = options.threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
    let limit = Duration::from_secs(60 * options.minutes.unwrap_or(if options.long { 600 } else { 10 }));
    let told = if options.tell { Told::EveryLevel } else { Told::Nothing };
    let chosen: Vec<Scene> =
        all.into_iter().filter(|scene| options.scene.as_deref().is_none_or(|name| name == scene.name)).collect();
    let (mut results, mut sound) = (Vec::new(), !chosen.is_empty());
    println!("{:<22} {:>10} {:>11} {:>6} {:>9} {:>9}", "scene", "states", "moves", "depth", "seconds", "peak MiB");
    for scene in chosen {
        let report = explore(&scene, Effort { threads, limit, told });
        let end = if report.complete { "" } else { "  NOT COMPLETE" };
        println!(
            "{:<22} {:>10} {:>11} {:>6} {:>9.1} {:>9}{end}",
            report.scene,
            report.states,
            report.moves,
            report.depth,
            report.took.as_secs_f64(),
            peak_mib()
        );
        results.push(as_json(&report));
        sound &= report.complete;
        if let Some(found) = &report.broken {
            println!("{}", tale::tell(&scene, found));
            sound = false;
        }
    }
    (Value::Array(results), sound)
}

fn mutants(options: &Options) -> (Value, bool) {
    let (mut results, mut sound) = (Vec::new(), true);
    println!("{:<26} {:<16} {:>6} {:>9} {:>8}  law", "mistake", "scene", "steps", "states", "seconds");
    for (scene, law) in scenes::mistakes() {
        let Some(mutant) = scene.mutant else { continue };
        if options.scene.as_deref().is_some_and(|name| name != format!("{mutant:?}")) {
            continue;
        }
        let limit = Duration::from_secs(60 * options.minutes.unwrap_or(2));
        let report = explore(&scene, Effort { threads: options.threads.unwrap_or(1), limit, told: Told::Nothing });
        let found = report.broken.as_ref();
        let steps = found.map_or("-".to_owned(), |found| found.moves.len().to_string());
        let said = found.map_or("NOT FOUND".to_owned(), |found| found.law.to_string());
        let right = found.is_some_and(|found| law.contains(&found.law));
        let (states, seconds) = (report.states, report.took.as_secs_f64());
        println!("{:<26} {:<16} {steps:>6} {states:>9} {seconds:>8.1}  {said}", format!("{mutant:?}"), scene.name);
        if !right && found.is_some() {
            println!("  expected one of {law:?}");
        }
        if let Some(found) = found.filter(|_| options.scene.is_some()) {
            println!("{}", tale::tell(&scene, found));
        }
        results.push(json!({ "mistake": format!("{mutant:?}"), "found": right, "report": as_json(&report) }));
        sound &= right;
    }
    (Value::Array(results), sound)
}
