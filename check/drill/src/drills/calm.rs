//! `understudy-drills calm`: how long nothing is done to a pair, beside how much other work.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use understudy_drill::calm::{self, Order};

use crate::{Place, write_json};

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// How long
    #[arg(long, value_name = "N", default_value_t = 60)]
    minutes: u64,
    /// Threads beside the pair and its clients that want a processor all the time; as many as there are processors if left out
    #[arg(long, value_name = "N")]
    hogs: Option<usize>,
    /// What the clients draw their commands with
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Write the report as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    #[command(flatten)]
    place: Place,
}

/// Watches, and fails if a node took its partner for lost or raised an alarm.
pub(crate) fn run(options: &Options) -> anyhow::Result<ExitCode> {
    let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let order = Order {
        program: options.place.program()?,
        parent: options.place.folder(),
        length: Duration::from_secs(options.minutes * 60),
        hogs: options.hogs.unwrap_or(processors),
        seed: options.seed,
    };
    println!("seed {}, {} threads want {processors} processors beside the pair", order.seed, order.hogs);
    let report = calm::run(&order, |line| println!("{line}"))?;
    write_json(options.json.as_deref(), &report)?;
    println!("{:.0} s: {}", report.seconds, report.words());
    for (what, times) in report.false_alarms.iter().chain(&report.alarms) {
        println!("  {times} times: {what}");
    }
    println!("{} writes acknowledged and read back", report.acknowledged_writes);
    Ok(if report.false_alarms.is_empty() && report.alarms.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
