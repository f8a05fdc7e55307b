//! `understudy-drills pacemaker`: how often, and how the peer is set up.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use understudy_drill::pacemaker::{self, AddressOrder, KINDS, Order, Side};

use crate::{Place, print_row, write_json};

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// How often each thing is done
    #[arg(long, value_name = "N", default_value_t = 5)]
    runs: u32,
    /// Corosync's token timeout; 3000 is its own default
    #[arg(long, value_name = "N", default_value_t = 3000)]
    token_ms: u32,
    /// Where the moving address stands in the peer's group
    #[arg(long, value_enum, default_value_t = AddressOrder::Last)]
    address: AddressOrder,
    /// Where the clients' choices start
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Write the report as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    #[command(flatten)]
    place: Place,
}

/// Measures both, and prints them one below the other.
pub(crate) fn run(options: &Options) -> anyhow::Result<ExitCode> {
    let order = Order {
        program: options.place.program()?,
        parent: options.place.folder(),
        runs: options.runs,
        token_ms: options.token_ms,
        address: options.address,
        seed: options.seed,
    };
    let report = pacemaker::run(&order, |line| println!("{line}"))?;
    write_json(options.json.as_deref(), &report)?;
    println!("{:<32}{:>10}{:>10}{:>10}", "pauses of clients, ms", "median", "99 %", "worst");
    print_side("understudy", &report.understudy);
    print_side("pacemaker, corosync, tgt", &report.pacemaker);
    Ok(ExitCode::SUCCESS)
}

fn print_side(who: &str, side: &Side) {
    println!("{who}");
    for kind in KINDS {
        if let Some(pauses) = side.pauses.get(kind) {
            print_row(&format!("  {kind}"), pauses);
        }
    }
    let (written, lost, failed) = (side.acknowledged_writes, side.lost_writes, side.failed_commands);
    println!("  {written} writes acknowledged, {lost} blocks wrong, {failed} commands failed");
    side.found.iter().for_each(|line| println!("  {line}"));
}
