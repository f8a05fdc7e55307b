//! The benchmarks: other programs are started, in turns where two are compared, and their figures put together.
//!
//! Times on a machine shared with other work vary; medians and ratios of one run are what to look at.

pub(crate) mod fabric;
pub(crate) mod failover;
pub(crate) mod growth;
pub(crate) mod path;
pub(crate) mod servers;
pub(crate) mod target;

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Value, json};

/// Figures of one kind from several runs.
#[derive(Debug, Clone, Default)]
struct Series(Vec<f64>);

impl Series {
    fn push(&mut self, figure: f64) {
        self.0.push(figure);
    }

    fn sorted(&self) -> Vec<f64> {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        sorted
    }

    /// The middle one, or the mean of the two in the middle; zero without any.
    fn median(&self) -> f64 {
        let sorted = self.sorted();
        match (sorted.len(), sorted.len() / 2) {
            (0, _) => 0.0,
            (count, middle) if count % 2 == 1 => sorted[middle],
            (_, middle) => f64::midpoint(sorted[middle - 1], sorted[middle]),
        }
    }

    fn best(&self) -> f64 {
        self.sorted().first().copied().unwrap_or(0.0)
    }

    fn worst(&self) -> f64 {
        self.sorted().last().copied().unwrap_or(0.0)
    }

    fn to_json(&self) -> Value {
        json!({ "median": self.median(), "lowest": self.best(), "highest": self.worst(), "all": self.0 })
    }
}

/// What the figures were measured on.
fn machine() -> Value {
    let processors = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let model = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = model.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or_default();
    json!({
        "processors": processors,
        "processor": model.trim_start_matches([' ', '\t', ':']),
        "kernel": kernel.trim(),
        "load_before": fs::read_to_string("/proc/loadavg").unwrap_or_default().trim(),
    })
}

fn write_json(file: Option<&Path>, result: &Value) -> Result<()> {
    let Some(file) = file else { return Ok(()) };
    let text = serde_json::to_string_pretty(result).context("the result is no JSON")?;
    fs::write(file, text + "\n").with_context(|| format!("cannot write {}", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle() {
        assert_eq!(Series(vec![3.0, 1.0, 2.0]).median(), 2.0);
        assert_eq!(Series(vec![4.0, 1.0, 2.0, 3.0]).median(), 2.5);
        assert_eq!(Series::default().median(), 0.0);
        assert_eq!(Series(vec![3.0, 1.0]).worst(), 3.0);
    }
}
