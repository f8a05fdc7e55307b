//! `understudy-drills growth`: how far is measured, and where the results go.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::Args;
use understudy_drill::growth::{self, Order};

use crate::Place;

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Most volumes: 1, 10, 100 or 1000
    #[arg(long, value_name = "N", default_value_t = 1000)]
    volumes: usize,
    /// Most sessions: 1, 10, 100 or 1000
    #[arg(long, value_name = "N", default_value_t = 1000)]
    sessions: usize,
    /// Measurements a point, of which the median counts
    #[arg(long, value_name = "N", default_value_t = 3)]
    rounds: usize,
    /// Givebacks of each kind
    #[arg(long, value_name = "N", default_value_t = 9)]
    givebacks: usize,
    /// Write the figures as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Draw them
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Write them as markdown tables
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,
    #[command(flatten)]
    place: Place,
}

/// Measures, and writes what was asked for.
pub(crate) fn run(options: &Options) -> anyhow::Result<ExitCode> {
    let order = Order {
        program: options.place.program()?,
        parent: options.place.folder(),
        volumes: options.volumes,
        sessions: options.sessions,
        rounds: options.rounds,
        givebacks: options.givebacks,
    };
    let report = growth::run(&order, |line| println!("{line}"))?;
    let text = growth::page(&report);
    println!("\n{text}");
    let json = || Ok(serde_json::to_string_pretty(&report)? + "\n");
    let write = |file: &Option<PathBuf>, text: &dyn Fn() -> anyhow::Result<String>| match file {
        Some(file) => std::fs::write(file, text()?).with_context(|| format!("cannot write {}", file.display())),
        None => Ok(()),
    };
    write(&options.json, &json)?;
    write(&options.svg, &|| Ok(growth::picture(&report)))?;
    write(&options.markdown, &|| Ok(text.clone()))?;
    Ok(ExitCode::SUCCESS)
}
