//! Latency of reading a 4 KiB state page over one provider, as JSON, for `cargo xtask bench fabric`.
//!
//! The page is served by this process to itself over the loopback: what is measured is the fabric's software, not a cable.

use anyhow::{Context, Result, bail};
use understudy_fabric::{MeasureOptions, Provider, measure_polling_cost, measure_read_latency};

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [provider] = arguments.as_slice() else { bail!("usage: page_latency tcp|shm|verbs") };
    let options = MeasureOptions { provider: provider.parse::<Provider>()?, ..MeasureOptions::default() };
    let latency = measure_read_latency(&options).context("reading one page after the other")?;
    let polling =
        measure_polling_cost(&options, std::time::Duration::from_millis(5), std::time::Duration::from_secs(2))
            .context("reading at a node's pace")?;
    let report = serde_json::json!({
        "provider": provider,
        "reads": latency.reads,
        "median_micros": latency.median.as_secs_f64() * 1e6,
        "p99_micros": latency.p99.as_secs_f64() * 1e6,
        "worst_micros": latency.worst.as_secs_f64() * 1e6,
        "processor_share_polling_every_5_ms": polling.processor_share,
    });
    println!("{report}");
    Ok(())
}
