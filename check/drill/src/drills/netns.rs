//! `understudy-drills netns`: portals that move between machines made of network namespaces.
//!
//! Without the right to make them it starts itself once more, as root of a user namespace, which many systems let everybody have.

use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use anyhow::{Context, bail};
use clap::Args;
use understudy_drill::moving::{self, Order, median};
use understudy_drill::network::Network;
use understudy_drill::tools;

use crate::{Place, write_json};

/// Set when it was started again, which is done once.
const AGAIN: &str = "UNDERSTUDY_NETNS_AGAIN";

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// How often each kind of move
    #[arg(long, value_name = "N", default_value_t = 5)]
    runs: u32,
    /// Where the clients' choices start
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Do nothing, and succeed, where network namespaces can not be made
    #[arg(long)]
    or_skip: bool,
    /// Write the report as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    #[command(flatten)]
    place: Place,
}

/// Moves portals there and back in every way, and prints how long clients waited.
pub(crate) fn run(options: &Options) -> anyhow::Result<ExitCode> {
    if let Err(refused) = Network::make() {
        let why = match start_again() {
            Ok(never) => match never {},
            Err(error) => format!("{refused:#}; {error:#}"),
        };
        if options.or_skip {
            println!("skipped: {why}");
            return Ok(ExitCode::SUCCESS);
        }
        bail!(
            "{why}; run it as root, or allow user namespaces (kernel.unprivileged_userns_clone, user.max_user_namespaces)"
        );
    }
    let order = Order {
        program: options.place.program()?,
        parent: options.place.folder(),
        runs: options.runs,
        seed: options.seed,
    };
    let report = moving::run(&order, |line| println!("{line}"))?;
    write_json(options.json.as_deref(), &report)?;
    println!("{:<24}{:>14}{:>14}{:>16}", "medians", "takeover, ms", "giveback, ms", "address, \u{b5}s");
    for moves in &report.moves {
        let of = |values: &[f64]| median(values).unwrap_or_default();
        let (taken, given) = (of(&moves.takeover_ms), of(&moves.giveback_ms));
        let address = median(&moves.address_micros).unwrap_or_default();
        println!("{:<24}{taken:>14.1}{given:>14.1}{address:>16}", moves.loss.name());
    }
    println!("{} writes acknowledged and read back, no command failed", report.acknowledged_writes);
    Ok(ExitCode::SUCCESS)
}

/// Replaces this process by itself as root of namespaces of its own, with a place for their names.
fn start_again() -> anyhow::Result<std::convert::Infallible> {
    if std::env::var_os(AGAIN).is_some() {
        bail!("nor as root of a user namespace");
    }
    let unshare = tools::find("unshare").context("unshare not found (Debian: util-linux)")?;
    let own = std::env::current_exe().context("cannot find this program's own file")?;
    let probe = ["--user", "--map-root-user", "--net", "--mount"];
    let allowed = Command::new(&unshare).args(probe).arg("true").output().is_ok_and(|output| output.status.success());
    if !allowed {
        bail!("user namespaces are not allowed here either");
    }
    let mut command = Command::new(unshare);
    command.args(probe).args(["sh", "-c", "mount -t tmpfs tmpfs /run && exec \"$0\" \"$@\""]).arg(own);
    command.args(std::env::args_os().skip(1)).env(AGAIN, "1");
    Err(command.exec()).context("cannot start again in a user namespace")
}
