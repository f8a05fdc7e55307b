//! `bench`: the load generator against any iSCSI target.
//!
//! It knows of no pair: a portal, a target name and a logical unit are all it needs, so that a pair and what it is compared
//! with are measured alike. The measuring itself is in `understudy-load`.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, ValueEnum};
use understudy_load::{Length, LoadError, LoadPlan, LoadReport, LunAddress, Order, generate};

use super::{Failure, Size};

/// Width of the longest bar of the histogram, in characters.
const BAR: f64 = 40.0;

#[derive(Debug, Args)]
pub(super) struct BenchArgs {
    /// Address and port of the portal
    #[arg(value_name = "ADDRESS:PORT")]
    portal: SocketAddr,
    /// iSCSI name of the target
    #[arg(value_name = "IQN")]
    target: String,
    /// Logical unit number
    #[arg(long, value_name = "N", default_value_t = 0)]
    lun: u16,
    /// iSCSI name to log in as; connection n appends -n
    #[arg(long, value_name = "IQN", default_value = "iqn.2026-01.org.example.understudy:bench")]
    initiator: String,
    /// Sessions
    #[arg(long, value_name = "N", default_value_t = 1)]
    connections: usize,
    /// Commands under way on each session
    #[arg(long, value_name = "N", default_value_t = 1)]
    depth: usize,
    /// Size of a command, as 4096 or 128KiB
    #[arg(long, value_name = "SIZE", default_value = "4KiB")]
    bytes: Size,
    /// Share of reads, in percent; the rest are writes
    #[arg(long, value_name = "PERCENT", default_value_t = 100, value_parser = clap::value_parser!(u8).range(0..=100))]
    read_percent: u8,
    /// Allow writes, which overwrite what is on the logical unit
    #[arg(long)]
    overwrite: bool,
    /// Where the commands go
    #[arg(long, value_enum, default_value_t = Pattern::Random)]
    order: Pattern,
    /// Use only so much of the logical unit, from its start
    #[arg(long, value_name = "SIZE")]
    span: Option<Size>,
    /// Length of the measured part
    #[arg(long, value_name = "SECONDS", default_value_t = 10.0)]
    seconds: f64,
    /// Time before the measured part
    #[arg(long, value_name = "SECONDS", default_value_t = 0.5)]
    warm_up: f64,
    /// Where the random choices start; the same seed makes the same choices
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Look for answers so long before sleeping: measures the target more than this machine's waking up, and takes a processor
    #[arg(long, value_name = "MICROSECONDS", default_value_t = 0)]
    awake: u64,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Pattern {
    /// Anywhere
    Random,
    /// One after the other, each session in its own part
    Sequential,
}

pub(super) fn run(args: &BenchArgs) -> Result<ExitCode, Failure> {
    if args.read_percent < 100 && !args.overwrite {
        let reason = format!("with --read-percent {} it would write to the logical unit", args.read_percent);
        return Err(Failure::new(reason, "give --overwrite if what is on it may be lost"));
    }
    let report = generate(&plan(args)?).map_err(|error| failure(&error))?;
    if args.json {
        let text = serde_json::to_string_pretty(&report);
        println!("{}", text.map_err(|error| Failure::new(format!("no JSON: {error}"), ""))?);
    } else {
        print!("{}", text(&report));
    }
    Ok(ExitCode::SUCCESS)
}

fn plan(args: &BenchArgs) -> Result<LoadPlan, Failure> {
    let seconds = |name: &str, seconds: f64| {
        let wrong = |error| Failure::new(format!("{name} {seconds}: {error}"), "write seconds, as 10 or 0.5");
        Duration::try_from_secs_f64(seconds).map_err(wrong)
    };
    let command_bytes = u32::try_from(args.bytes.0);
    let too_large = |_| Failure::new(format!("--bytes {}: too large for one command", args.bytes), "");
    let (target, initiator) = (args.target.clone(), args.initiator.clone());
    Ok(LoadPlan {
        address: LunAddress { portal: args.portal, target, lun: args.lun, initiator },
        connections: args.connections,
        depth: args.depth,
        command_bytes: command_bytes.map_err(too_large)?,
        read_percent: args.read_percent,
        order: match args.order {
            Pattern::Random => Order::Random,
            Pattern::Sequential => Order::Sequential,
        },
        span_bytes: args.span.map(|Size(bytes)| bytes),
        length: Length::Time(seconds("--seconds", args.seconds)?),
        warm_up: seconds("--warm-up", args.warm_up)?,
        seed: args.seed,
        awake: Duration::from_micros(args.awake),
    })
}

fn failure(error: &LoadError) -> Failure {
    let advice = match error {
        LoadError::Connect { .. } => "check address and name; `understudy volume list` shows those of a pair's volumes",
        LoadError::Plan(_) | LoadError::Command(_) | LoadError::System(_) => "",
    };
    let cause = std::error::Error::source(error).map_or(String::new(), |source| format!(": {source}"));
    Failure::new(format!("{error}{cause}"), advice)
}

fn text(report: &LoadReport) -> String {
    let LoadReport { commands, seconds, iops, megabytes_per_second, latency_micros: latency, histogram, .. } = report;
    let mut out = format!(
        "{commands} commands in {seconds:.2} s: {iops:.0} commands/s, {megabytes_per_second:.1} MB/s\n\
         microseconds: mean {:.1}, median {:.1}, 90 % {:.1}, 99 % {:.1}, 99.9 % {:.1}, worst {:.1}\n",
        latency.mean, latency.p50, latency.p90, latency.p99, latency.p999, latency.max
    );
    let most = histogram.iter().map(|bucket| bucket.commands).max().unwrap_or_default().max(1) as f64;
    for bucket in histogram {
        let bar = "#".repeat((bucket.commands as f64 / most * BAR).ceil() as usize);
        // Writing to a string cannot fail.
        let _ = writeln!(out, "  up to {:>10.0} µs {:>10}  {bar}", bucket.up_to_micros, bucket.commands);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use understudy_load::{Bucket, Latency};

    #[test]
    fn the_histogram_is_drawn_in_proportion_and_nothing_that_happened_is_invisible() {
        let latency_micros = Latency { mean: 3.0, p50: 2.0, p90: 4.0, p99: 9.0, p999: 9.0, max: 9.5 };
        let bucket = |up_to_micros, commands| Bucket { up_to_micros, commands };
        let report = LoadReport {
            commands: 10_001,
            commands_altogether: 10_001,
            seconds: 1.0,
            iops: 10_001.0,
            megabytes_per_second: 41.0,
            latency_micros,
            histogram: vec![bucket(2.0, 10_000), bucket(4.0, 0), bucket(8.0, 1)],
        };
        let text = text(&report);
        let bars: Vec<usize> = text.lines().skip(2).map(|line| line.matches('#').count()).collect();
        assert_eq!(bars, [40, 0, 1], "{text}");
    }
}
