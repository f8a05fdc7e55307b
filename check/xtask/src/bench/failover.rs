//! Pauses at takeover and giveback, from repeated runs of `understudy demo`: real processes, a real kill, a client that
//! verifies every acknowledged write.

use std::fs;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Map, Value, json};

use super::{Series, machine, write_json};
use crate::programs::{MemoryFolder, Running, build_release};

/// A demo takes less than a minute; one that takes longer than this hangs.
const DEMO_LIMIT: Duration = Duration::from_secs(180);

/// The demo's figures that vary from run to run.
const MEASURES: [&str; 3] = ["takeover_pause_ms", "giveback_pause_ms", "uncoordinated_outage_ms"];

/// The demo's counts that must be zero.
const MUST_BE_ZERO: [&str; 2] = ["lost_writes", "failed_commands"];

/// Runs the demo `runs` times.
pub(crate) fn run(runs: u32, json: Option<PathBuf>) -> Result<()> {
    let program = build_release(&["--package", "understudy", "--bin", "understudy"])?.join("understudy");
    let machine = machine();
    let folder = MemoryFolder::new()?;
    let mut results = Vec::new();
    for number in 1..=runs {
        let result = demo(&program, folder.path()).with_context(|| format!("run {number} of {runs}"))?;
        println!("run {number} of {runs}: {}", describe(&result));
        results.push(result);
    }
    let mut report = Map::from_iter([("machine".to_owned(), machine), ("runs".to_owned(), json!(runs))]);
    println!("{:<28}{:>10}{:>10}{:>10}", "", "median", "lowest", "highest");
    for measure in MEASURES {
        let series = Series(results.iter().filter_map(|result| result[measure].as_f64()).collect());
        println!("{measure:<28}{:>10.2}{:>10.2}{:>10.2}", series.median(), series.best(), series.worst());
        report.insert(measure.to_owned(), series.to_json());
    }
    let mut clean = true;
    for count in MUST_BE_ZERO.iter().chain(&["acknowledged_writes"]) {
        let sum: u64 = results.iter().filter_map(|result| result[*count].as_u64()).sum();
        println!("{count:<28}{sum:>10}");
        clean &= sum == 0 || !MUST_BE_ZERO.contains(count);
        report.insert((*count).to_owned(), json!(sum));
    }
    write_json(json.as_deref(), &Value::Object(report))?;
    ensure!(clean, "writes were lost or commands failed");
    Ok(())
}

fn demo(program: &Path, folder: &Path) -> Result<Value> {
    let (file, log) = (folder.join("demo.json"), folder.join("demo.log"));
    let output = File::create(&log).context("cannot write the demo's log")?;
    let mut command = Command::new(program);
    command.args(["demo".as_ref(), "--json".as_ref(), file.as_os_str()]);
    command.stdin(std::process::Stdio::null()).stdout(output.try_clone()?).stderr(output);
    let status = Running::start("understudy demo", &mut command)?.wait(DEMO_LIMIT);
    let said = || fs::read_to_string(&log).unwrap_or_default();
    let status = status.with_context(|| format!("it said:\n{}", said()))?;
    ensure!(status.success(), "understudy demo failed ({status}):\n{}", said());
    let text = fs::read_to_string(&file).context("understudy demo wrote no result")?;
    serde_json::from_str(&text).context("understudy demo wrote something that is not JSON")
}

fn describe(result: &Value) -> String {
    let figure = |name: &&str| format!("{name} {}", result[*name]);
    MEASURES.iter().chain(&MUST_BE_ZERO).map(figure).collect::<Vec<_>>().join(", ")
}
