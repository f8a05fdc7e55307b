//! Processor time and memory of a node's process, by proc(5).

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use understudy::admin::Status;
use understudy::config::NodeName;
use understudy::harness::Pair;
use understudy_load::{LoadPlan, generate};

/// How long load goes on: what is measured of it, and room before and behind.
pub(super) const LOAD: Duration = Duration::from_millis(1_500);

/// What is measured of it: a hundred times the unit in which processor time is told.
const MEASURED: Duration = Duration::from_millis(1_000);

/// The unit in which Linux tells processor time (USER_HZ).
const TICK: Duration = Duration::from_millis(10);

/// Fields of `stat` behind the name before user time and, behind it, system time.
const UTIME: usize = 11;

/// Before that everybody is logged in and every buffer has its size.
const BEFORE: Duration = Duration::from_millis(200);

/// How long a node may leave a question for its status unanswered.
const ANSWERED_WITHIN: Duration = Duration::from_secs(20);

/// How long a thousand logins may take.
const LOGGED_IN_WITHIN: Duration = Duration::from_secs(30);

/// How long the upkeep of a node at rest is watched.
const IDLE: Duration = Duration::from_millis(1_500);

/// What a command cost.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cost {
    pub(super) micros: f64,
}

/// A look at a node's process.
#[derive(Debug, Clone, Copy)]
pub(super) struct Look {
    /// Processor time so far, of all its threads.
    pub(super) ran: Duration,
    /// Memory that is its own.
    pub(super) own_bytes: u64,
    /// All that is resident.
    pub(super) resident_bytes: u64,
}

/// Looks at the process of a node.
pub(super) fn memory(pair: &Pair, node: NodeName) -> anyhow::Result<Look> {
    look(patient_status(pair, node)?.process)
}

/// The status of a node, asked again for as long as a busy machine may keep it from answering.
fn patient_status(pair: &Pair, node: NodeName) -> anyhow::Result<Status> {
    let deadline = Instant::now() + ANSWERED_WITHIN;
    // BOUND: the deadline.
    loop {
        match pair.status(node) {
            Err(_) if Instant::now() < deadline => sleep(Duration::from_millis(20)),
            answered => return answered,
        }
    }
}

fn look(process: u32) -> anyhow::Result<Look> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).context("the node's process is gone")?;
    let kilobytes = |name: &str| -> anyhow::Result<u64> {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).context("no such figure of a process")?;
        let number = line.split_whitespace().next().context("an empty figure of a process")?;
        Ok(number.parse::<u64>()? << 10)
    };
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).context("the node's process is gone")?;
    // The name before them stands in parentheses and may hold anything. Threads that have ended count, too.
    let fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace();
    let ticks: u64 = fields.skip(UTIME).take(2).map(|field| field.parse().unwrap_or(0)).sum();
    let (own_bytes, resident_bytes) = (kilobytes("RssAnon:")?, kilobytes("VmRSS:")?);
    Ok(Look { ran: TICK * u32::try_from(ticks)?, own_bytes, resident_bytes })
}

/// Share of a processor that a node takes for its upkeep.
pub(super) fn idle_share(pair: &Pair, node: NodeName) -> anyhow::Result<f64> {
    let process = patient_status(pair, node)?.process;
    let (before, began) = (look(process)?, Instant::now());
    sleep(IDLE);
    Ok((look(process)?.ran - before.ran).as_secs_f64() / began.elapsed().as_secs_f64())
}

/// Commands answered and sessions of a node's clients.
fn answered(pair: &Pair, node: NodeName) -> anyhow::Result<(u64, u64)> {
    let status = patient_status(pair, node)?;
    let own = status.portals.iter().filter(|portal| portal.identity == node);
    Ok(own.fold((0, 0), |(commands, sessions), portal| (commands + portal.commands, sessions + portal.sessions)))
}

/// What a command of this load costs the node.
pub(super) fn measure(pair: &Pair, node: NodeName, plan: &LoadPlan) -> anyhow::Result<Cost> {
    let process = patient_status(pair, node)?.process;
    let upkeep = idle_share(pair, node)?;
    let (wanted, plan) = (plan.connections as u64, plan.clone());
    let generator = std::thread::spawn(move || generate(&plan));
    let measured = measure_under_way(pair, node, process, wanted, || generator.is_finished());
    let report = generator.join().map_err(|_| anyhow::anyhow!("the generator panicked"))?;
    report.context("the load failed")?;
    let (ran, commands, length) = measured?;
    let spent = ran.as_secs_f64() - upkeep * length.as_secs_f64();
    Ok(Cost { micros: spent * 1e6 / commands.max(1) as f64 })
}

fn measure_under_way(
    pair: &Pair,
    node: NodeName,
    process: u32,
    sessions: u64,
    is_over: impl Fn() -> bool,
) -> anyhow::Result<(Duration, u64, Duration)> {
    let deadline = Instant::now() + LOGGED_IN_WITHIN;
    // BOUND: the deadline.
    while answered(pair, node)?.1 < sessions {
        if Instant::now() > deadline || is_over() {
            bail!("not {sessions} sessions after {} s", LOGGED_IN_WITHIN.as_secs());
        }
        sleep(Duration::from_millis(20));
    }
    sleep(BEFORE);
    let (commands, before, began) = (answered(pair, node)?.0, look(process)?, Instant::now());
    sleep(MEASURED);
    let (ran, length) = (look(process)?.ran - before.ran, began.elapsed());
    Ok((ran, answered(pair, node)?.0 - commands, length))
}
