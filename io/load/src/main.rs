//! The two clients as a program: `understudy-load generate` measures, `understudy-load verify` judges, against any
//! iSCSI target.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Args, Parser, Subcommand, ValueEnum};
use serde::Serialize;
use understudy_load::{Length, LoadPlan, LunAddress, Order, Verifier, VerifierOptions, generate};

/// Load on and judgement of any iSCSI target.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Keep commands under way and report rates and latencies. OVERWRITES the LUN unless --read-percent is 100.
    Generate(Generate),
    /// Write stamped blocks, read them back all the time, and say whether anything acknowledged was lost. OVERWRITES the LUN.
    Verify(Verify),
}

#[derive(Debug, Args)]
struct Place {
    /// Address and port of the portal.
    #[arg(long)]
    portal: SocketAddr,
    /// iSCSI name of the target.
    #[arg(long)]
    target: String,
    /// LUN number.
    #[arg(long, default_value_t = 0)]
    lun: u16,
    /// iSCSI name to log in as.
    #[arg(long, default_value = "iqn.2026-01.io.understudy:load")]
    initiator: String,
    /// Write the result as JSON to this file; `-`: to standard output.
    #[arg(long)]
    json: Option<PathBuf>,
}

impl Place {
    fn address(&self) -> LunAddress {
        let (target, initiator) = (self.target.clone(), self.initiator.clone());
        LunAddress { portal: self.portal, target, lun: self.lun, initiator }
    }
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Pattern {
    /// Anywhere in the span.
    Random,
    /// One after the other.
    Sequential,
}

#[derive(Debug, Args)]
struct Generate {
    #[command(flatten)]
    place: Place,
    /// Number of sessions.
    #[arg(long, default_value_t = 1)]
    connections: usize,
    /// Commands under way on each session.
    #[arg(long, default_value_t = 1)]
    depth: usize,
    /// Bytes per command.
    #[arg(long, default_value_t = 4096)]
    bytes: u32,
    /// Share of reads, in percent.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u8).range(0..=100))]
    read_percent: u8,
    /// Where the commands go.
    #[arg(long, value_enum, default_value_t = Pattern::Random)]
    order: Pattern,
    /// Use only this much of the LUN, in MiB.
    #[arg(long)]
    span_mib: Option<u64>,
    /// Length of the measured part, in seconds.
    #[arg(long, default_value_t = 10.0, conflicts_with = "commands")]
    seconds: f64,
    /// Measure this many commands instead.
    #[arg(long)]
    commands: Option<u64>,
    /// Time before the measured part, in milliseconds.
    #[arg(long, default_value_t = 500)]
    warm_up_millis: u64,
    /// Where the random choices start.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How long to look for answers before sleeping, in microseconds.
    #[arg(long, default_value_t = 0)]
    awake_micros: u64,
}

#[derive(Debug, Args)]
struct Verify {
    #[command(flatten)]
    place: Place,
    /// Commands under way.
    #[arg(long, default_value_t = 8)]
    depth: usize,
    /// Bytes per command.
    #[arg(long, default_value_t = 4096)]
    bytes: u32,
    /// Use only this much of the LUN, in MiB.
    #[arg(long, default_value_t = 64)]
    span_mib: u64,
    /// How long to write, in seconds.
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// Longest time for the final verification, in seconds.
    #[arg(long, default_value_t = 60)]
    limit_seconds: u64,
    /// Where the random choices start.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().command {
        Command::Generate(arguments) => run_generate(&arguments),
        Command::Verify(arguments) => run_verify(&arguments),
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}

fn run_generate(arguments: &Generate) -> Result<ExitCode> {
    let length = match arguments.commands {
        Some(commands) => Length::Commands(commands),
        None => Length::Time(Duration::try_from_secs_f64(arguments.seconds).context("--seconds")?),
    };
    let plan = LoadPlan {
        address: arguments.place.address(),
        connections: arguments.connections,
        depth: arguments.depth,
        command_bytes: arguments.bytes,
        read_percent: arguments.read_percent,
        order: match arguments.order {
            Pattern::Random => Order::Random,
            Pattern::Sequential => Order::Sequential,
        },
        span_bytes: arguments.span_mib.map(|mebibytes| mebibytes << 20),
        length,
        warm_up: Duration::from_millis(arguments.warm_up_millis),
        seed: arguments.seed,
        awake: Duration::from_micros(arguments.awake_micros),
    };
    let report = generate(&plan)?;
    let latency = &report.latency_micros;
    let (rate, bandwidth) = (report.iops, report.megabytes_per_second);
    let text = format!(
        "{} commands in {:.2} s: {rate:.0} commands/s, {bandwidth:.1} MB/s; latency µs: mean {:.1}, median {:.1}, \
         90% {:.1}, 99% {:.1}, 99.9% {:.1}, worst {:.1}",
        report.commands, report.seconds, latency.mean, latency.p50, latency.p90, latency.p99, latency.p999, latency.max
    );
    publish(&arguments.place, &text, &report)?;
    Ok(ExitCode::SUCCESS)
}

fn run_verify(arguments: &Verify) -> Result<ExitCode> {
    let options = VerifierOptions {
        depth: arguments.depth,
        command_bytes: arguments.bytes,
        span_bytes: arguments.span_mib << 20,
        seed: arguments.seed,
        ..VerifierOptions::default()
    };
    let verifier = Verifier::start("verify", arguments.place.address(), options).context("cannot start")?;
    std::thread::sleep(Duration::from_secs(arguments.seconds));
    let verdict = verifier.finish(Duration::from_secs(arguments.limit_seconds));
    let mut text = format!(
        "seed {}: {} writes acknowledged, {} reads verified, {} blocks lost, {} commands failed, {} connections lost, \
         {} slots unverified, longest pause {:.1} ms",
        verdict.seed,
        verdict.acknowledged_writes,
        verdict.verified_reads,
        verdict.lost_writes,
        verdict.failed_commands,
        verdict.connection_losses,
        verdict.unverified_slots,
        verdict.longest_pause.as_secs_f64() * 1e3,
    );
    for line in verdict.violations.iter().chain(&verdict.last_failure) {
        text.push_str("\n  ");
        text.push_str(line);
    }
    publish(&arguments.place, &text, &verdict)?;
    // A target that was never reached lost nothing, and proved nothing either.
    let proved = verdict.holds() && verdict.acknowledged_writes > 0;
    Ok(if proved { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn publish(place: &Place, text: &str, result: &impl Serialize) -> Result<()> {
    let json = serde_json::to_string_pretty(result).context("the result is no JSON")?;
    match &place.json {
        Some(file) if file.as_os_str() == "-" => println!("{json}"),
        Some(file) => {
            fs::write(file, json + "\n").with_context(|| format!("cannot write {}", file.display()))?;
            println!("{text}");
        }
        None => println!("{text}"),
    }
    Ok(())
}
