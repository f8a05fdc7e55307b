//! What the event log costs a node: time a step, bytes a step, by kind. Runs the facts of a log given again, with and without a log.
//!
//!     cargo run --release -p understudy --example event_log_cost -- <state folder of a node>
//!
//! The steps come one behind the other here, a hundred times faster than in life, so the writing thread works at the same time, as
//! it does in the busiest moment of a hand-off.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use understudy::driver::world::Witness as _;
use understudy::event_log::EventLog;
use understudy::replay;
use understudy_eventlog::read::{Entry, Segment};
use understudy_eventlog::start::Start;
use understudy_eventlog::step::{Memory, Step};
use understudy_failover::effect::Effects;
use understudy_failover::input::Input;

/// Between two steps: the writing thread gets its turn, as in life.
const BREATH: Duration = Duration::from_micros(50);

const LOG_BYTES: u64 = 32 << 20;

fn kind(step: &Step) -> &'static str {
    match (&step.fact, step.orders.is_empty()) {
        (Input::PartnerPageRead(_), true) => "page read, nothing follows",
        (Input::Surveyed { op: None, .. }, true) => "lock disks read, nothing follows",
        (Input::PartnerPageUnreadable(_), true) => "page unreadable, nothing follows",
        (_, true) => "other, nothing follows",
        (_, false) => "something follows",
    }
}

#[derive(Default)]
struct Cost {
    steps: u64,
    machine: Duration,
    log: Vec<Duration>,
    bytes: u64,
}

fn main() -> anyhow::Result<()> {
    let folder = PathBuf::from(std::env::args().nth(1).context("name the state folder of a node")?);
    let sources = replay::read(&[folder]);
    let mut costs: BTreeMap<&'static str, Cost> = BTreeMap::new();
    for source in sources.logs.iter().flatten() {
        let mut run: Option<(Start, Vec<Step>)> = None;
        for entry in Segment::open(&source.bytes)?.map_while(Result::ok) {
            match (entry, &mut run) {
                (Entry::Start(start), _) => {
                    if let Some((start, steps)) = run.replace((*start, Vec::new())) {
                        measure(&start, &steps, &mut costs)?;
                    }
                }
                (Entry::Step(step), Some((_, steps))) => steps.push(*step),
                (Entry::Step(_), None) => {}
            }
        }
        if let Some((start, steps)) = run {
            measure(&start, &steps, &mut costs)?;
        }
    }
    println!("{:<34} {:>8} {:>12} {:>12} {:>12} {:>8}", "step", "count", "machine us", "log us", "log p99 us", "bytes");
    for (kind, cost) in &mut costs {
        cost.log.sort_unstable();
        let micros = |time: Duration| time.as_nanos() as f64 / 1000.0;
        let count = cost.steps as f64;
        let mean = cost.log.iter().sum::<Duration>();
        let p99 = cost.log[(cost.log.len() - 1) * 99 / 100];
        println!(
            "{kind:<34} {:>8} {:>12.2} {:>12.2} {:>12.2} {:>8.1}",
            cost.steps,
            micros(cost.machine) / count,
            micros(mean) / count,
            micros(p99),
            cost.bytes as f64 / count
        );
    }
    Ok(())
}

fn measure(start: &Start, steps: &[Step], costs: &mut BTreeMap<&'static str, Cost>) -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let mut machine = start.machine()?;
    let mut log = EventLog::open(folder.path(), LOG_BYTES, &machine)?;
    let (mut memory, mut bytes) = (Memory::from(start.now), Vec::new());
    for step in steps {
        let cost = costs.entry(kind(step)).or_default();
        let fact = step.fact.clone();
        let mut orders = Effects::new();
        let began = Instant::now();
        log.told(step.now, &fact, &machine);
        let told = Instant::now();
        machine.step(step.now, fact, &mut orders);
        let stepped = Instant::now();
        log.ordered(&orders, &machine);
        cost.log.push((told - began) + stepped.elapsed());
        cost.machine += stepped - told;
        cost.steps += 1;
        bytes.clear();
        memory.put(step, &mut bytes);
        cost.bytes += bytes.len() as u64;
        std::thread::sleep(BREATH);
    }
    Ok(())
}
