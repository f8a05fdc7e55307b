//! Growth: what one more volume, session, command under way or block costs a node, and how long a giveback is with many volumes.
//!
//! Not a load test: rates depend on what else the machine does, so processor time and memory of the node's process are measured,
//! which other work blurs much less. The one idea: a node is asked how many commands it has answered and the system how long it
//! ran, twice within a load that is already there; so neither logins nor the begin of a run count.

mod cost;
mod crowd;
mod page;
mod pause;
mod picture;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, ensure};
use serde::Serialize;
use understudy::admin::{Provisioning, Request, Response, VolumeStatus};
use understudy::config::NodeName;
use understudy::harness::Plan;
use understudy_load::{Length, LoadPlan, LunAddress, Order as Pattern};

use crate::stage::{Fault, Stage, Telling, plan};
use cost::{Cost, measure, memory};
use crowd::Crowd;

pub use page::page;
pub use pause::{After, Pauses};
pub use picture::picture;

/// The node that is measured.
const MEASURED: NodeName = NodeName::A;

/// The steps of volumes and sessions, as far as they are asked for.
const TENFOLD: [usize; 4] = [1, 10, 100, 1000];

/// Commands under way on one session.
const DEPTHS: [usize; 5] = [1, 4, 16, 64, 128];

/// Bytes of a command.
const SIZES: [u32; 5] = [4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20];

/// A volume that load goes to: wide enough that a thousand commands seldom meet, little enough that a busy shelf has zeroed it soon.
const WIDE_BYTES: u64 = 32 << 20;

/// Any other volume: the least there is.
const NARROW_BYTES: u64 = 1 << 20;

/// How long a node may take over an answer: the last of a thousand volumes is zeroed, flushed and recorded.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);

/// Commands under way where depth is not what is asked.
const USUAL_DEPTH: usize = 8;

/// What to do.
#[derive(Debug, Clone)]
pub struct Order {
    /// The program that is the shelf and the nodes.
    pub program: PathBuf,
    /// Where the folders of pairs are made.
    pub parent: PathBuf,
    /// Most volumes.
    pub volumes: usize,
    /// Most sessions.
    pub sessions: usize,
    /// Measurements a point, of which the median counts.
    pub rounds: usize,
    /// Givebacks with few and with many volumes, in turns.
    pub givebacks: usize,
}

/// One point of a curve.
#[derive(Debug, Clone, Serialize)]
pub struct Point {
    /// How many, or how large.
    pub at: u64,
    /// Processor time of the node per read.
    pub read_micros: f64,
    /// Per write.
    pub write_micros: f64,
}

impl Point {
    /// For whoever waits for the end.
    fn words(&self) -> String {
        format!(
            "{}: {:.1} µs of processor time for a read, {:.1} for a write",
            self.at, self.read_micros, self.write_micros
        )
    }
}

fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// What a node with so many volumes takes.
#[derive(Debug, Clone, Serialize)]
pub struct OfVolumes {
    /// Volumes it serves.
    pub volumes: usize,
    /// Memory that is its own (RssAnon), nobody logged in.
    pub own_bytes: u64,
    /// Processor time of making one more.
    pub creation_micros: f64,
    /// Share of a processor it takes while nobody asks for anything.
    pub idle_percent: f64,
}

/// What a node with many volumes and so many sessions takes.
#[derive(Debug, Clone, Serialize)]
pub struct OfSessions {
    /// Sessions.
    pub sessions: usize,
    /// Memory that is its own once they are logged in.
    pub own_bytes: u64,
    /// The same once each has asked every volume something.
    pub all_visited_bytes: Option<u64>,
    /// All that is resident then, program and libraries included.
    pub resident_bytes: u64,
}

/// What came out.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Cost of a command by number of volumes.
    pub by_volumes: Vec<Point>,
    /// By number of sessions, one command under way on each.
    pub by_sessions: Vec<Point>,
    /// By commands under way on one session.
    pub by_depth: Vec<Point>,
    /// By bytes of a command.
    pub by_bytes: Vec<Point>,
    /// Memory and upkeep by number of volumes.
    pub volumes: Vec<OfVolumes>,
    /// Memory by number of sessions, with the most volumes.
    pub sessions: Vec<OfSessions>,
    /// Pauses of givebacks.
    pub pauses: Vec<Pauses>,
}

/// Measures everything; `told` gets a line after each step.
///
/// # Errors
/// A pair does not come up or does not go on.
pub fn run(order: &Order, told: impl Fn(&str)) -> anyhow::Result<Report> {
    std::fs::create_dir_all(&order.parent).with_context(|| format!("cannot make {}", order.parent.display()))?;
    let folders = [folder_in(&order.parent)?, folder_in(&order.parent)?];
    let mut many = Stage::set_up_telling(plan_of(order, folders[0].path(), 1)?, Telling::InFolder)?;
    let (mut by_volumes, mut volumes) = (Vec::new(), Vec::new());
    let mut creation_micros = 0.0;
    for count in steps(order.volumes) {
        if count > 1 {
            creation_micros = add_volumes(&many, count)?;
        }
        let idle_percent = cost::idle_share(&many.pair, MEASURED)? * 100.0;
        let own_bytes = memory(&many.pair, MEASURED)?.own_bytes;
        volumes.push(OfVolumes { volumes: count, own_bytes, creation_micros, idle_percent });
        let last = the_last(&many)?;
        let cost = point(&many, order.rounds, count as u64, &load(&last, 1, USUAL_DEPTH, 4096))?;
        told(&format!("volumes, {}, {:.1} MiB of its own", cost.words(), mebibytes(own_bytes)));
        by_volumes.push(cost);
    }
    // A fresh process: what making the volumes left behind is not what serving them takes.
    many.lose(MEASURED)?;
    many.repair(MEASURED, Fault::Killed)?;
    many.wait_until_home()?;
    let sessions = sessions(&many, order, &told)?;
    let wide = the_last(&many)?;
    let curve = |name: &str, loads: Vec<(u64, LoadPlan)>| -> anyhow::Result<Vec<Point>> {
        let points = loads.into_iter().map(|(at, plan)| point(&many, order.rounds, at, &plan));
        let tell = |point: &anyhow::Result<Point>| {
            if let Ok(point) = point {
                told(&format!("{name}, {}", point.words()));
            }
        };
        points.inspect(tell).collect()
    };
    let crowds = steps(order.sessions).map(|count| (count as u64, load(&wide, count, 1, 4096)));
    let by_sessions = curve("sessions", crowds.collect())?;
    let depths = DEPTHS.map(|depth| (depth as u64, load(&wide, 1, depth, 4096)));
    let by_depth = curve("depth", depths.to_vec())?;
    let sizes = SIZES.map(|bytes| (u64::from(bytes), load(&wide, 1, USUAL_DEPTH, bytes)));
    let by_bytes = curve("bytes", sizes.to_vec())?;
    let few = Stage::set_up_telling(plan_of(order, folders[1].path(), pause::FEW_VOLUMES)?, Telling::InFolder)?;
    let pauses = pause::compare(few, many, order, &told)?;
    Ok(Report { by_volumes, by_sessions, by_depth, by_bytes, volumes, sessions, pauses })
}

fn folder_in(parent: &Path) -> anyhow::Result<tempfile::TempDir> {
    tempfile::Builder::new().prefix("growth-").tempdir_in(parent).context("cannot make a folder")
}

fn steps(most: usize) -> impl Iterator<Item = usize> {
    TENFOLD.into_iter().filter(move |step| *step <= most)
}

/// Room for all volumes in one pool of one mirror.
fn plan_of(order: &Order, folder: &Path, volumes: usize) -> anyhow::Result<Plan> {
    let program = order.program.to_str().context("the program's path is no text")?;
    let disk_bytes = (order.volumes as u64 + 64) * NARROW_BYTES + 8 * WIDE_BYTES;
    Ok(Plan {
        volumes,
        volume_bytes: WIDE_BYTES,
        disk_bytes,
        more: "[giveback]\nlimit = 1000\nwithin_ms = 1000\n".to_owned(),
        ..plan(program, folder)
    })
}

/// Makes volumes until there are `count`, the last one wide; the processor time of the last ones but it, each.
fn add_volumes(stage: &Stage, count: usize) -> anyhow::Result<f64> {
    let there = stage.pair.volumes(MEASURED)?.len();
    let judged = count - 1 - (count - there) / 2;
    let mut before = memory(&stage.pair, MEASURED)?;
    for number in there..count - 1 {
        if number == judged {
            before = memory(&stage.pair, MEASURED)?;
        }
        create(stage, &format!("narrow{number}"), NARROW_BYTES)?;
    }
    let spent = memory(&stage.pair, MEASURED)?.ran.saturating_sub(before.ran);
    create(stage, &format!("wide{count}"), WIDE_BYTES)?;
    Ok(spent.as_secs_f64() * 1e6 / (count - 1 - judged).max(1) as f64)
}

fn create(stage: &Stage, name: &str, bytes: u64) -> anyhow::Result<()> {
    let pool = format!("pool-{MEASURED}");
    let order = Request::VolumeCreate { pool, name: name.to_owned(), bytes, provisioning: Provisioning::Thick };
    let answer = stage.pair.ask(MEASURED, &order, ANSWER_WITHIN)?;
    ensure!(matches!(answer, Response::Volumes { .. }), "{name} was not made: {answer:?}");
    Ok(())
}

/// Where the volume with the highest number is.
fn the_last(stage: &Stage) -> anyhow::Result<LunAddress> {
    let volumes = stage.pair.volumes(MEASURED)?;
    let last = volumes.iter().max_by_key(|volume| volume.lun).context("there is no volume")?;
    address_of(last)
}

fn address_of(volume: &VolumeStatus) -> anyhow::Result<LunAddress> {
    let initiator = "iqn.2026-01.org.example.understudy:growth";
    understudy::harness::Pair::address_of(volume, initiator).context("the volume has no portal")
}

fn load(address: &LunAddress, connections: usize, depth: usize, command_bytes: u32) -> LoadPlan {
    LoadPlan {
        address: address.clone(),
        connections,
        depth,
        command_bytes,
        read_percent: 100,
        order: Pattern::Random,
        span_bytes: None,
        length: Length::Time(cost::LOAD),
        warm_up: Duration::ZERO,
        seed: 1,
        awake: Duration::ZERO,
    }
}

/// Reads and writes in turns; medians.
fn point(stage: &Stage, rounds: usize, at: u64, plan: &LoadPlan) -> anyhow::Result<Point> {
    let (mut reads, mut writes) = (Vec::new(), Vec::new());
    for _ in 0..rounds.max(1) {
        for (percent, costs) in [(100, &mut reads), (0, &mut writes)] {
            let Cost { micros } = measure(&stage.pair, MEASURED, &LoadPlan { read_percent: percent, ..plan.clone() })?;
            costs.push(micros);
        }
    }
    Ok(Point { at, read_micros: median(&mut reads), write_micros: median(&mut writes) })
}

/// Memory with more and more sessions that do nothing; up to a hundred of them ask every volume something.
fn sessions(stage: &Stage, order: &Order, told: &impl Fn(&str)) -> anyhow::Result<Vec<OfSessions>> {
    let volumes = stage.pair.volumes(MEASURED)?;
    let luns: Vec<u16> = volumes.iter().map(|volume| volume.lun).collect();
    let address = address_of(volumes.first().context("there is no volume")?)?;
    let mut found = Vec::new();
    for count in [0].into_iter().chain(steps(order.sessions)) {
        let crowd = Crowd::gather(&address, count, &[])?;
        let own_bytes = memory(&stage.pair, MEASURED)?.own_bytes;
        let mut all_visited_bytes = None;
        drop(crowd);
        if (1..=100).contains(&count) {
            let _crowd = Crowd::gather(&address, count, &luns)?;
            all_visited_bytes = Some(memory(&stage.pair, MEASURED)?.own_bytes);
        }
        let resident_bytes = memory(&stage.pair, MEASURED)?.resident_bytes;
        found.push(OfSessions { sessions: count, own_bytes, all_visited_bytes, resident_bytes });
        told(&format!("sessions with all volumes, {count}: {:.1} MiB of its own", mebibytes(own_bytes)));
    }
    Ok(found)
}

/// The middle one; zero of nothing.
fn median(figures: &mut [f64]) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied().unwrap_or(0.0)
}
