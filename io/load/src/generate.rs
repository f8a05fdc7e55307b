//! The load generator: keeps a number of commands under way on a number of connections, and measures.
//!
//! It knows nothing of the content it moves and stops at the first error: a rate with errors in it is no rate. All
//! connections share one thread, so that on a small machine the target under test keeps a processor to itself.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::{join_all, try_join_all};
use hdrhistogram::Histogram;
use serde::Serialize;
use thiserror::Error;
use tokio::task::{LocalSet, spawn_local};
use understudy_disk::disk::{Disk, DiskError, Durability, Extent, Geometry};

use crate::route::{Deadlines, IscsiRoute, LunAddress, Route};
use crate::stamp::scramble;

/// Where the commands go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Anywhere in the span, aligned to the command's size.
    Random,
    /// One after the other; each connection in its own part of the span.
    Sequential,
}

/// When the run ends.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Length {
    /// After this time.
    Time(Duration),
    /// After this many commands altogether.
    Commands(u64),
}

/// One run of the load generator.
#[derive(Debug, Clone)]
pub struct LoadPlan {
    /// The LUN; connection *n* appends `-n` to the initiator's name, so that each has a session of its own.
    pub address: LunAddress,
    /// Number of sessions.
    pub connections: usize,
    /// Commands under way on each.
    pub depth: usize,
    /// Bytes per command: a whole number of logical blocks.
    pub command_bytes: u32,
    /// Share of reads, in percent.
    pub read_percent: u8,
    /// Where the commands go.
    pub order: Order,
    /// How much of the LUN is used, from its start; `None`: all of it.
    pub span_bytes: Option<u64>,
    /// When the run ends.
    pub length: Length,
    /// Time before the measured part.
    pub warm_up: Duration,
    /// Where the random choices start.
    pub seed: u64,
}

/// Latencies in microseconds.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Latency {
    /// Arithmetic mean.
    pub mean: f64,
    /// Median.
    pub p50: f64,
    /// 90th percentile.
    pub p90: f64,
    /// 99th percentile.
    pub p99: f64,
    /// 99.9th percentile.
    pub p999: f64,
    /// Worst.
    pub max: f64,
}

/// What was measured.
#[derive(Debug, Clone, Serialize)]
pub struct LoadReport {
    /// Commands completed in the measured part.
    pub commands: u64,
    /// Length of the measured part.
    pub seconds: f64,
    /// Commands per second.
    pub iops: f64,
    /// Million bytes per second.
    pub megabytes_per_second: f64,
    /// From issue to answer.
    pub latency_micros: Latency,
}

/// Why there is no result.
#[derive(Debug, Error)]
pub enum LoadError {
    /// The plan cannot be carried out on this LUN.
    #[error("the plan does not fit the LUN: {0}")]
    Plan(String),
    /// No session.
    #[error("no session with {target} at {portal}")]
    Connect {
        /// Name of the target.
        target: String,
        /// Its portal.
        portal: String,
        /// Why.
        #[source]
        source: DiskError,
    },
    /// A command did not end with GOOD.
    #[error("a command failed")]
    Command(#[from] DiskError),
    /// No thread or event queue.
    #[error("the operating system gave no event queue")]
    System(#[from] std::io::Error),
}

/// Latest answer to a login the generator waits for.
const LOGIN_DEADLINE: Duration = Duration::from_secs(10);

/// Latest answer to a command the generator waits for.
const COMMAND_DEADLINE: Duration = Duration::from_secs(30);

/// Longest latency the histogram tells apart, in nanoseconds; longer ones are counted as this long.
const LONGEST_NANOS: u64 = 60_000_000_000;

/// Runs `plan` on the calling thread and returns when it is done.
///
/// # Errors
/// [`LoadError`]; the first failed command ends the run.
pub fn generate(plan: &LoadPlan) -> Result<LoadReport, LoadError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let tasks = LocalSet::new();
    runtime.block_on(tasks.run_until(async {
        let connecting = (0..plan.connections.max(1)).map(|number| connect(plan, number));
        let disks = try_join_all(connecting).await?;
        generate_on(plan, &disks).await
    }))
}

async fn connect(plan: &LoadPlan, number: usize) -> Result<Rc<dyn Disk>, LoadError> {
    let mut address = plan.address.clone();
    address.initiator = format!("{}-{number}", address.initiator);
    let (target, portal) = (address.target.clone(), address.portal.to_string());
    let route = IscsiRoute::new(address, Deadlines { login: LOGIN_DEADLINE, command: COMMAND_DEADLINE });
    route.connect().await.map_err(|source| LoadError::Connect { target, portal, source })
}

/// Runs `plan` over sessions that are already up.
async fn generate_on(plan: &LoadPlan, disks: &[Rc<dyn Disk>]) -> Result<LoadReport, LoadError> {
    let mut workers = Vec::new();
    let shared = Rc::new(Measured::new(plan));
    for (number, disk) in disks.iter().enumerate() {
        let part = Part::of(plan, disk.geometry()?, number, disks.len())?;
        let position = Rc::new(Cell::new(0));
        for worker in 0..plan.depth.max(1) as u64 {
            let choices = scramble(plan.seed ^ (worker << 32) ^ ((number as u64) << 48) | 1);
            let (disk, position, shared) = (Rc::clone(disk), Rc::clone(&position), Rc::clone(&shared));
            workers.push(spawn_local(work(disk, part, position, shared, choices)));
        }
    }
    for ended in join_all(workers).await {
        ended.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))?;
    }
    Ok(shared.report(plan.command_bytes))
}

/// The slots one connection works on.
#[derive(Debug, Clone, Copy)]
struct Part {
    geometry: Geometry,
    blocks: u32,
    first_slot: u64,
    slots: u64,
    order: Order,
    read_percent: u8,
}

impl Part {
    fn of(plan: &LoadPlan, geometry: Geometry, number: usize, connections: usize) -> Result<Self, LoadError> {
        let blocks = plan.command_bytes / geometry.block_bytes;
        if blocks == 0 || !plan.command_bytes.is_multiple_of(geometry.block_bytes) {
            let (command, block) = (plan.command_bytes, geometry.block_bytes);
            return Err(LoadError::Plan(format!("{command} bytes are not a whole number of blocks of {block} bytes")));
        }
        let capacity = geometry.blocks.saturating_mul(u64::from(geometry.block_bytes));
        let all = plan.span_bytes.unwrap_or(capacity).min(capacity) / u64::from(plan.command_bytes);
        let (first_slot, slots) = match plan.order {
            Order::Random => (0, all),
            Order::Sequential => {
                let share = all / connections as u64;
                (share * number as u64, share)
            }
        };
        if slots == 0 {
            return Err(LoadError::Plan("fewer commands fit the span than there are connections".to_owned()));
        }
        Ok(Self { geometry, blocks, first_slot, slots, order: plan.order, read_percent: plan.read_percent })
    }

    fn choose(&self, choices: u64, position: &Cell<u64>) -> Extent {
        let within = match self.order {
            Order::Random => (choices >> 16) % self.slots,
            Order::Sequential => {
                let next = position.get();
                position.set((next + 1) % self.slots);
                next
            }
        };
        let lba = (self.first_slot + within) * u64::from(self.blocks);
        Extent::within(self.geometry, lba, self.blocks).expect("slots lie within the LUN by construction")
    }
}

/// BOUND: ends with the run's length or the first error of any worker.
async fn work(
    disk: Rc<dyn Disk>,
    part: Part,
    position: Rc<Cell<u64>>,
    shared: Rc<Measured>,
    mut choices: u64,
) -> Result<(), DiskError> {
    // Content that no compressing or zero-detecting medium can make cheap, the same for every command.
    let mut content = vec![0; part.blocks as usize * part.geometry.block_bytes as usize];
    for piece in content.chunks_mut(8) {
        choices = scramble(choices);
        piece.copy_from_slice(&choices.to_le_bytes()[..piece.len()]);
    }
    let content = Bytes::from(content);
    while shared.goes_on() {
        choices = scramble(choices);
        let extent = part.choose(choices, &position);
        let issued = Instant::now();
        let answer = if choices % 100 < u64::from(part.read_percent) {
            disk.read(extent).await.map(drop)
        } else {
            disk.write(extent, content.clone(), Durability::Cached).await
        };
        if answer.is_err() {
            shared.failed.set(true);
            return answer;
        }
        shared.completed(issued, Instant::now());
    }
    Ok(())
}

/// What the workers of a run share.
struct Measured {
    begins: Instant,
    length: Length,
    issued: Cell<u64>,
    failed: Cell<bool>,
    last: Cell<Instant>,
    nanos: RefCell<Histogram<u64>>,
}

impl Measured {
    fn new(plan: &LoadPlan) -> Self {
        let begins = Instant::now() + plan.warm_up;
        let nanos = Histogram::new_with_bounds(1, LONGEST_NANOS, 3).expect("bounds and digits are valid constants");
        Self {
            begins,
            length: plan.length,
            issued: Cell::new(0),
            failed: Cell::new(false),
            last: Cell::new(begins),
            nanos: RefCell::new(nanos),
        }
    }

    /// Whether one more command may be issued; a counted run counts those of the measured part.
    fn goes_on(&self) -> bool {
        let now = Instant::now();
        let within = match self.length {
            Length::Time(length) => now < self.begins + length,
            Length::Commands(_) if now < self.begins => true,
            Length::Commands(commands) => self.issued.replace(self.issued.get() + 1) < commands,
        };
        within && !self.failed.get()
    }

    /// Counts a command that was issued and answered within the measured part.
    fn completed(&self, issued: Instant, now: Instant) {
        if issued < self.begins {
            return;
        }
        self.last.set(now);
        let nanos = u64::try_from(now.duration_since(issued).as_nanos()).unwrap_or(LONGEST_NANOS);
        self.nanos.borrow_mut().saturating_record(nanos.max(1));
    }

    fn report(&self, command_bytes: u32) -> LoadReport {
        let nanos = self.nanos.borrow();
        let seconds = self.last.get().duration_since(self.begins).as_secs_f64();
        let commands = nanos.len();
        let iops = if seconds > 0.0 { commands as f64 / seconds } else { 0.0 };
        let micros = |quantile: f64| nanos.value_at_quantile(quantile) as f64 / 1e3;
        LoadReport {
            commands,
            seconds,
            iops,
            megabytes_per_second: iops * f64::from(command_bytes) / 1e6,
            latency_micros: Latency {
                mean: nanos.mean() / 1e3,
                p50: micros(0.5),
                p90: micros(0.9),
                p99: micros(0.99),
                p999: micros(0.999),
                max: nanos.max() as f64 / 1e3,
            },
        }
    }
}
