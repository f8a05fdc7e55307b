//! The load generator: keeps a number of commands under way on a number of connections, and measures.
//!
//! It knows nothing of the content it moves and stops at the first error: a rate with errors in it is no rate. All
//! connections share one thread, so that on a small machine the target under test keeps a processor to itself.

use std::cell::{Cell, RefCell};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::try_join_all;
use hdrhistogram::Histogram;
use serde::Serialize;
use thiserror::Error;
use tokio::select;
use tokio::sync::Notify;
use tokio::task::yield_now;
use tokio::time::Instant;
use understudy_scsi::capacity::Capacity;
use understudy_scsi::cdb::{Force, Span};
use understudy_scsi::encode::{self, Cdb};
use understudy_session::initiator::Transfer;

use crate::drive::{Client, Trouble};
use crate::route::LunAddress;
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
    /// How long the thread goes on looking for answers before it sleeps. A processor that sleeps takes longer to wake than many a
    /// command takes, and whoever sends an answer pays for the waking.
    pub awake: Duration,
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

/// Commands that took about as long.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Bucket {
    /// Longest time in it, in microseconds; the bucket before ends where this one begins.
    pub up_to_micros: f64,
    /// How many.
    pub commands: u64,
}

/// What was measured.
#[derive(Debug, Clone, Serialize)]
pub struct LoadReport {
    /// Commands completed in the measured part.
    pub commands: u64,
    /// Commands completed before, in, and after it: what the target worked for.
    pub commands_altogether: u64,
    /// Length of the measured part.
    pub seconds: f64,
    /// Commands per second.
    pub iops: f64,
    /// Million bytes per second.
    pub megabytes_per_second: f64,
    /// From issue to answer.
    pub latency_micros: Latency,
    /// The same in buckets, each twice as wide as the one before; from the first to the last that has commands.
    pub histogram: Vec<Bucket>,
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
        source: Trouble,
    },
    /// A command did not end with GOOD.
    #[error("a command failed")]
    Command(#[from] Trouble),
    /// No thread or event queue.
    #[error("the operating system gave no event queue")]
    System(#[from] std::io::Error),
}

/// Longest latency the histogram tells apart, in nanoseconds; longer ones are counted as this long.
const LONGEST_NANOS: u64 = 60_000_000_000;

/// Runs `plan` on the calling thread and returns when it is done.
///
/// # Errors
/// [`LoadError`]; the first failed command ends the run.
pub fn generate(plan: &LoadPlan) -> Result<LoadReport, LoadError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let connections = plan.connections.max(1);
        let clients = try_join_all((0..connections).map(|number| connect(plan, number))).await?;
        let shared = Measured::new(plan);
        let mut workers = Vec::with_capacity(connections);
        for (number, (client, capacity)) in clients.into_iter().enumerate() {
            let part = Part::of(plan, capacity, number)?;
            workers.push(work(client, part, plan.depth.max(1), &shared));
        }
        select! {
            biased;
            ended = try_join_all(workers) => drop(ended?),
            () = shared.stay_awake(plan.awake) => {}
        }
        Ok(shared.report(plan.command_bytes))
    })
}

async fn connect(plan: &LoadPlan, number: usize) -> Result<(Client, Capacity), LoadError> {
    let refused = |source| LoadError::Connect {
        target: plan.address.target.clone(),
        portal: plan.address.portal.to_string(),
        source,
    };
    let mut client = Client::log_in(&plan.address, number).await.map_err(refused)?;
    let capacity = client.capacity().await.map_err(refused)?;
    Ok((client, capacity))
}

/// What one connection does: the slots it works on, and what it chooses next.
struct Part {
    blocks: u32,
    first_slot: u64,
    slots: u64,
    order: Order,
    read_percent: u8,
    next_slot: u64,
    choices: u64,
    /// Content that no compressing or zero-detecting medium can make cheap, the same for every command.
    content: Bytes,
}

impl Part {
    fn of(plan: &LoadPlan, capacity: Capacity, number: usize) -> Result<Self, LoadError> {
        let block_bytes = capacity.block_bytes.max(1);
        let blocks = plan.command_bytes / block_bytes;
        if blocks == 0 || !plan.command_bytes.is_multiple_of(block_bytes) {
            let command = plan.command_bytes;
            return Err(LoadError::Plan(format!(
                "{command} bytes are not a whole number of blocks of {block_bytes} bytes"
            )));
        }
        let bytes = capacity.blocks.saturating_mul(u64::from(block_bytes));
        let all = plan.span_bytes.unwrap_or(bytes).min(bytes) / u64::from(plan.command_bytes);
        let (first_slot, slots) = match plan.order {
            Order::Random => (0, all),
            Order::Sequential => {
                let share = all / plan.connections.max(1) as u64;
                (share * number as u64, share)
            }
        };
        if slots == 0 {
            return Err(LoadError::Plan("fewer commands fit the span than there are connections".to_owned()));
        }
        let mut choices = scramble(plan.seed ^ ((number as u64) << 48) | 1);
        let mut content = vec![0; plan.command_bytes as usize];
        for piece in content.chunks_mut(8) {
            choices = scramble(choices);
            piece.copy_from_slice(&choices.to_le_bytes()[..piece.len()]);
        }
        let (order, read_percent) = (plan.order, plan.read_percent);
        Ok(Self { blocks, first_slot, slots, order, read_percent, next_slot: 0, choices, content: content.into() })
    }

    fn next(&mut self) -> (Cdb, Transfer) {
        self.choices = scramble(self.choices);
        let within = match self.order {
            Order::Random => (self.choices >> 16) % self.slots,
            Order::Sequential => {
                let next = self.next_slot;
                self.next_slot = (next + 1) % self.slots;
                next
            }
        };
        let span = Span { lba: (self.first_slot + within) * u64::from(self.blocks), blocks: self.blocks.into() };
        if self.choices % 100 < u64::from(self.read_percent) {
            let bytes = u32::try_from(self.content.len()).unwrap_or(u32::MAX);
            (encode::read_16(span, Force::CacheAllowed), Transfer::Read(bytes))
        } else {
            (encode::write_16(span, Force::CacheAllowed), Transfer::Write(self.content.clone()))
        }
    }
}

/// BOUND: ends with the run's length, the first error, or the target's silence.
async fn work(mut client: Client, mut part: Part, depth: usize, shared: &Measured) -> Result<(), Trouble> {
    let (mut now, mut under_way) = (Instant::now(), 0);
    while under_way < depth && shared.goes_on(now) {
        let (cdb, transfer) = part.next();
        client.issue(now, cdb, transfer)?;
        under_way += 1;
    }
    while under_way > 0 {
        client.moved().await?;
        now = Instant::now();
        shared.came(now);
        while let Some(issued) = client.answered()? {
            shared.completed(issued, now);
            under_way -= 1;
            if shared.goes_on(now) {
                let (cdb, transfer) = part.next();
                client.issue(now, cdb, transfer)?;
                under_way += 1;
            }
        }
    }
    Ok(())
}

/// What the workers of a run share.
struct Measured {
    begins: Instant,
    length: Length,
    issued: Cell<u64>,
    altogether: Cell<u64>,
    last: Cell<Instant>,
    came: Cell<Instant>,
    coming: Notify,
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
            altogether: Cell::new(0),
            last: Cell::new(begins),
            came: Cell::new(begins),
            coming: Notify::new(),
            nanos: RefCell::new(nanos),
        }
    }

    fn came(&self, now: Instant) {
        self.came.set(now);
        self.coming.notify_one();
    }

    /// Keeps the thread looking at its sockets for so long after an answer.
    async fn stay_awake(&self, longest: Duration) {
        // BOUND: dropped at the end of the run.
        loop {
            self.coming.notified().await;
            while self.came.get().elapsed() < longest {
                yield_now().await;
            }
        }
    }

    /// Whether one more command may be issued; a counted run counts those of the measured part.
    fn goes_on(&self, now: Instant) -> bool {
        match self.length {
            Length::Time(length) => now < self.begins + length,
            Length::Commands(_) if now < self.begins => true,
            Length::Commands(commands) => self.issued.replace(self.issued.get() + 1) < commands,
        }
    }

    /// Counts a command that was issued and answered within the measured part.
    fn completed(&self, issued: Instant, now: Instant) {
        self.altogether.set(self.altogether.get() + 1);
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
            commands_altogether: self.altogether.get(),
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
            histogram: buckets(&nanos),
        }
    }
}

/// The narrowest bucket ends here, in nanoseconds: no command over a network is answered sooner.
const FIRST_BUCKET_NANOS: u64 = 1_000;

fn buckets(nanos: &Histogram<u64>) -> Vec<Bucket> {
    let all = nanos.iter_log(FIRST_BUCKET_NANOS, 2.0).map(|step| Bucket {
        up_to_micros: (step.value_iterated_to() + 1) as f64 / 1e3,
        commands: step.count_since_last_iteration(),
    });
    let mut used: Vec<Bucket> = all.skip_while(|bucket| bucket.commands == 0).collect();
    while used.last().is_some_and(|bucket| bucket.commands == 0) {
        used.pop();
    }
    used
}
