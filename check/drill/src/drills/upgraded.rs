//! `understudy-drills upgrade`: from which program to which, and what came out.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::Args;
use understudy_drill::upgrade::{self, Order};

use crate::{Place, write_json};

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The program that both nodes run at first
    #[arg(long, value_name = "FILE")]
    old: PathBuf,
    /// Where the clients' choices start
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Write the report as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    #[command(flatten)]
    place: Place,
}

/// Upgrades a pair, and says what clients saw.
pub(crate) fn run(options: &Options) -> anyhow::Result<ExitCode> {
    let parent = options.place.folder();
    std::fs::create_dir_all(&parent).with_context(|| format!("cannot make {}", parent.display()))?;
    let folder = tempfile::Builder::new().prefix("upgrade-").tempdir_in(&parent)?;
    let (old, new) = (options.old.clone(), options.place.program()?);
    let report = match upgrade::run(&Order { old, new, folder: folder.path().to_owned(), seed: options.seed }) {
        Ok(report) => report,
        Err(error) => return Err(error.context(format!("everything is in {}", folder.keep().display()))),
    };
    report.told.iter().for_each(|line| println!("{line}"));
    for (volume, pause_ms) in &report.pauses_ms {
        println!("longest pause of the client of {volume}: {pause_ms:.1} ms");
    }
    println!("{} writes acknowledged and read back", report.acknowledged_writes);
    write_json(options.json.as_deref(), &report)?;
    Ok(ExitCode::SUCCESS)
}
