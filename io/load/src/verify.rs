//! The verifying client: its own thread, its own runtime, one LUN.
//!
//! Workers write stamped slots and read them back, at a fixed depth. A write that was not acknowledged, for whatever reason, is issued
//! again with the same content until it is: that is what a file system above a real client does, and it keeps the rule
//! for reads simple (see [`crate::ledger`]). At the end every slot ever acknowledged is read once more.

use std::cell::RefCell;
use std::future::Future;
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::join_all;
use serde::Serialize;
use tokio::sync::watch;
use tokio::task::{LocalSet, spawn_local};
use tokio::time::{sleep, timeout, timeout_at};
use understudy_disk::disk::{Disk, DiskError, Durability, Extent, Geometry};

use crate::ledger::{Ledger, Slot};
use crate::line::{Failure, FirstSeen, Line, Session};
use crate::paths::Paths;
use crate::route::{Deadlines, IscsiRoute, LunAddress, Route};
use crate::score::{Mark, Pause, Progress, Score};
use crate::stamp::{Run, Sequence, scramble, write_stamp};

/// Wait before a command the target failed is issued again: long enough not to drown the target in repeats.
const AFTER_FAILURE: Duration = Duration::from_millis(5);

/// How a [`Verifier`] works.
#[derive(Debug, Clone)]
pub struct VerifierOptions {
    /// Commands under way at a time.
    pub depth: usize,
    /// Bytes per command: a whole number of logical blocks.
    pub command_bytes: u32,
    /// How much of the LUN is used, from its start.
    pub span_bytes: u64,
    /// Share of reads, in percent.
    pub read_percent: u8,
    /// A command without an answer for this long costs the connection.
    pub command_deadline: Duration,
    /// A login without an answer for this long is given up and tried again.
    pub login_deadline: Duration,
    /// Wait of each worker before each command: half of this to one and a half, drawn, and rounded up to a millisecond. Zero: as fast as
    /// the target answers.
    pub pace: Duration,
    /// Where the random choices start; the same seed makes the same choices. Also told in the verdict.
    pub seed: u64,
}

impl Default for VerifierOptions {
    fn default() -> Self {
        Self {
            depth: 8,
            command_bytes: 4096,
            span_bytes: 64 << 20,
            read_percent: 30,
            command_deadline: Duration::from_secs(1),
            login_deadline: Duration::from_millis(250),
            pace: Duration::ZERO,
            seed: 1,
        }
    }
}

/// What came out.
#[derive(Debug, Clone, Serialize)]
pub struct Verdict {
    /// The name given at the start.
    pub label: String,
    /// Seed of the run.
    pub seed: u64,
    /// Writes answered GOOD.
    pub acknowledged_writes: u64,
    /// Reads answered GOOD and judged, the final verification included.
    pub verified_reads: u64,
    /// Distinct blocks that at some time did not show what had been acknowledged.
    pub lost_writes: u64,
    /// Commands answered with an error a client would report.
    pub failed_commands: u64,
    /// Sessions lost.
    pub connection_losses: u64,
    /// Commands that the target could not tell the outcome of and left to the client to issue again.
    pub told_to_repeat: u64,
    /// Blocks that went back from a write under way to the one before it.
    pub backward_reads: u64,
    /// Slots acknowledged and not read back within the limit of [`Verifier::finish`]; writes still unanswered count too.
    pub unverified_slots: u64,
    /// The longest gap between two completions of the whole run.
    pub longest_pause: Duration,
    /// The first violations in words.
    pub violations: Vec<String>,
    /// The last failure in words.
    pub last_failure: Option<String>,
}

impl Verdict {
    /// Whether nothing acknowledged was lost, nothing failed and everything was read back.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.lost_writes == 0 && self.failed_commands == 0 && self.unverified_slots == 0 && self.violations.is_empty()
    }
}

/// What the owner asks of the thread.
#[derive(Debug, Clone, Copy)]
enum Order {
    Work,
    Finish { limit: Duration },
}

/// A running verifying client. Dropping it without [`Verifier::finish`] ends it without a verdict.
#[derive(Debug)]
pub struct Verifier {
    score: Arc<Mutex<Score>>,
    orders: watch::Sender<Order>,
    thread: JoinHandle<Verdict>,
}

impl Verifier {
    /// Starts the client; it connects in the background and keeps trying.
    ///
    /// # Errors
    /// If the operating system gives no thread or no event queue.
    pub fn start(label: &str, address: LunAddress, options: VerifierOptions) -> std::io::Result<Self> {
        Self::start_by(label, vec![address], options)
    }

    /// The same by several ways, the preferred one first.
    ///
    /// # Errors
    /// As [`Verifier::start`].
    pub fn start_by(label: &str, ways: Vec<LunAddress>, options: VerifierOptions) -> std::io::Result<Self> {
        let deadlines = options.deadlines();
        let route = move |address| Rc::new(IscsiRoute::new(address, deadlines)) as Rc<dyn Route>;
        Self::start_on(label, options, move || ways.into_iter().map(route).collect())
    }

    /// The same over any [`Route`]s, made by `routes` on the client's own thread: at least one.
    ///
    /// # Errors
    /// As [`Verifier::start`].
    pub fn start_on<R>(label: &str, options: VerifierOptions, routes: R) -> std::io::Result<Self>
    where
        R: FnOnce() -> Vec<Rc<dyn Route>> + Send + 'static,
    {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let score = Arc::new(Mutex::new(Score::new(Instant::now())));
        let (orders, received) = watch::channel(Order::Work);
        let (label, shared) = (label.to_owned(), Arc::clone(&score));
        let thread = std::thread::Builder::new().name("verifier".to_owned()).spawn(move || {
            let tasks = LocalSet::new();
            runtime.block_on(tasks.run_until(run(label, options, routes, shared, received)))
        })?;
        Ok(Self { score, orders, thread })
    }

    /// Waits until the first command was completed; `false` if it was not within `limit`. Blocks the calling thread.
    #[must_use]
    pub fn wait_until_running(&self, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        while Instant::now() < deadline {
            let progress = self.progress();
            if progress.acknowledged_writes + progress.verified_reads > 0 {
                return true;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        false
    }

    /// Begins a new window for [`Verifier::pause_since`].
    #[must_use]
    pub fn mark(&self) -> Mark {
        self.with_score(|score, now| score.mark(now))
    }

    /// The longest gap between two completions that ended after `mark`, the one still open included.
    #[must_use]
    pub fn pause_since(&self, mark: Mark) -> Pause {
        self.with_score(|score, now| score.pause(mark, None, now))
    }

    /// The longest gap that ended between two marks.
    #[must_use]
    pub fn pause_between(&self, mark: Mark, later: Mark) -> Pause {
        self.with_score(|score, now| score.pause(mark, Some(later), now))
    }

    /// Counts so far.
    #[must_use]
    pub fn progress(&self) -> Progress {
        self.with_score(|score, now| score.progress(now))
    }

    /// Stops issuing, settles every unanswered write, reads every acknowledged slot once more and says what came out.
    /// What cannot be read within `limit` is counted as unverified. Blocks the calling thread.
    #[must_use]
    pub fn finish(self, limit: Duration) -> Verdict {
        // A send fails only when the thread has ended, and then joining says why.
        let _ended_already = self.orders.send(Order::Finish { limit });
        self.thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    fn with_score<T>(&self, ask: impl FnOnce(&mut Score, Instant) -> T) -> T {
        let mut score = self.score.lock().unwrap_or_else(PoisonError::into_inner);
        ask(&mut score, Instant::now())
    }
}

impl VerifierOptions {
    fn deadlines(&self) -> Deadlines {
        Deadlines { login: self.login_deadline, command: self.command_deadline }
    }
}

/// The thread's work from the first login to the verdict.
async fn run<R>(
    label: String,
    options: VerifierOptions,
    routes: R,
    score: Arc<Mutex<Score>>,
    mut orders: watch::Receiver<Order>,
) -> Verdict
where
    R: FnOnce() -> Vec<Rc<dyn Route>>,
{
    let seed = options.seed;
    let first_seen = Rc::<FirstSeen>::default();
    let open = |route| Line::open(route, options.deadlines(), Arc::clone(&score), Rc::clone(&first_seen));
    let paths = Paths::over(routes().into_iter().map(open).collect());
    let line = Rc::clone(paths.first());
    let first = tokio::select! {
        (_, session) = paths.session() => Some(session),
        _ = orders.changed() => None,
    };
    let mut unverified_slots = 0;
    match first.map(|session| Client::new(paths, &*session.disk, options)) {
        None => {}
        Some(Err(why)) => line.score().command_failed(why),
        Some(Ok(client)) => unverified_slots = Rc::new(client).work_until_told(&mut orders).await,
    }
    let score = line.score();
    let (now, progress) = (Instant::now(), score.progress(Instant::now()));
    Verdict {
        label,
        seed,
        acknowledged_writes: progress.acknowledged_writes,
        verified_reads: progress.verified_reads,
        lost_writes: progress.violations,
        failed_commands: progress.failed_commands,
        connection_losses: progress.connection_losses,
        told_to_repeat: progress.told_to_repeat,
        backward_reads: progress.backward_reads,
        unverified_slots,
        longest_pause: score.pause(Mark::START, None, now).length,
        violations: score.violations().to_vec(),
        last_failure: progress.last_failure,
    }
}

/// One LUN's workers and what they share.
struct Client {
    paths: Paths,
    options: VerifierOptions,
    geometry: Geometry,
    run: Run,
    ledger: RefCell<Ledger>,
    stopping: watch::Sender<bool>,
}

/// How one try of a command ended.
enum Try<T> {
    Answered(T),
    Again,
}

impl Client {
    fn new(paths: Paths, disk: &dyn Disk, options: VerifierOptions) -> Result<Self, String> {
        let geometry = disk.geometry().map_err(|error| error.to_string())?;
        let blocks_per_slot = options.command_bytes / geometry.block_bytes;
        if blocks_per_slot == 0 || !options.command_bytes.is_multiple_of(geometry.block_bytes) {
            let (command, block) = (options.command_bytes, geometry.block_bytes);
            return Err(format!("{command} bytes a command are not a whole number of blocks of {block} bytes"));
        }
        let capacity = geometry.blocks.saturating_mul(u64::from(geometry.block_bytes));
        let slots = options.span_bytes.min(capacity) / u64::from(options.command_bytes);
        if slots == 0 {
            return Err("the LUN is smaller than one command".to_owned());
        }
        let slots = usize::try_from(slots).map_err(|_| "the span does not fit this machine's memory".to_owned())?;
        // Distinct runs on the same LUN must not take each other's blocks for their own, so the clock goes in as well.
        let started = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        let run = Run(scramble(options.seed ^ started.as_nanos() as u64 | 1));
        let ledger = RefCell::new(Ledger::new(run, slots, blocks_per_slot, geometry.block_bytes));
        Ok(Self { paths, options, geometry, run, ledger, stopping: watch::Sender::new(false) })
    }

    /// Works until the owner asks for the verdict (or is gone), then settles and verifies. Returns the slots that could not be
    /// verified.
    async fn work_until_told(self: Rc<Self>, orders: &mut watch::Receiver<Order>) -> u64 {
        let workers: Vec<_> = (0..self.options.depth.max(1) as u64)
            .map(|worker| spawn_local(Rc::clone(&self).work(scramble(self.options.seed ^ (worker << 32) | 1))))
            .collect();
        let limit = loop {
            if let Order::Finish { limit } = *orders.borrow_and_update() {
                break limit;
            }
            if orders.changed().await.is_err() {
                break Duration::ZERO; // Dropped without `finish`: nobody wants the verdict.
            }
        };
        self.stopping.send_replace(true);
        let deadline = tokio::time::Instant::now() + limit;
        let aborts: Vec<_> = workers.iter().map(|worker| worker.abort_handle()).collect();
        let ended = timeout_at(deadline, join_all(workers)).await;
        aborts.iter().for_each(|worker| worker.abort());
        if let Ok(ended) = ended {
            // A worker that panicked found a mistake of this program; a verdict without it would be worthless.
            ended
                .into_iter()
                .for_each(|worker| worker.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic())));
        }
        self.verify_everything(deadline).await
    }

    /// BOUND: ends when the owner asks for the verdict and the write under way is settled.
    async fn work(self: Rc<Self>, mut choices: u64) {
        let mut stopping = self.stopping.subscribe();
        while !*stopping.borrow_and_update() {
            choices = scramble(choices);
            if !self.options.pace.is_zero() {
                // Half of it to one and a half: what was held together would go on in step for ever otherwise.
                sleep(self.options.pace / 2 + self.options.pace * ((choices >> 8) % 1024) as u32 / 1024).await;
            }
            let slot = Slot((choices >> 16) as usize % self.ledger.borrow().slots());
            let wants_read = choices % 100 < u64::from(self.options.read_percent);
            let issued = if wants_read { None } else { self.ledger.borrow_mut().issue(slot) };
            match issued {
                Some(sequence) => self.write_until_acknowledged(slot, sequence).await,
                None => self.read_until_judged(slot).await,
            }
        }
    }

    /// BOUND: until acknowledged; the owner's limit ends the task.
    async fn write_until_acknowledged(&self, slot: Slot, sequence: Sequence) {
        let (extent, bytes) = (self.extent(slot), self.stamped(slot, sequence));
        loop {
            let write = |session: Session| {
                let bytes = bytes.clone();
                async move { session.disk.write(extent, bytes, Durability::Cached).await }
            };
            if let Try::Answered(()) = self.attempt("write", extent, write).await {
                self.ledger.borrow_mut().acknowledge(slot, sequence);
                return self.score().write_acknowledged(Instant::now());
            }
        }
    }

    /// BOUND: until answered; the owner's limit ends the task.
    async fn read_until_judged(&self, slot: Slot) {
        let extent = self.extent(slot);
        loop {
            // What must be shown is taken down at the moment of issue, not before any wait for a session.
            let read = |session: Session| async move {
                let expected = self.ledger.borrow().expect(slot);
                session.disk.read(extent).await.map(|bytes| (expected, bytes))
            };
            if let Try::Answered((expected, bytes)) = self.attempt("read", extent, read).await {
                let judgement = self.ledger.borrow_mut().judge(expected, &bytes);
                let mut score = self.score();
                return score.read_judged(Instant::now(), &judgement.violations, judgement.backward_blocks);
            }
        }
    }

    /// One command on the session that is up, with everything that can happen to it counted.
    async fn attempt<T, F>(&self, what: &str, extent: Extent, issue: impl FnOnce(Session) -> F) -> Try<T>
    where
        F: Future<Output = Result<T, DiskError>>,
    {
        let (line, session) = self.paths.session().await;
        let answer = tokio::select! {
            biased;
            answer = timeout(line.command_deadline(), issue(session.clone())) => answer,
            () = line.replaced(&session) => return Try::Again,
        };
        let failure = match answer {
            Ok(Ok(answer)) => return Try::Answered(answer),
            Ok(Err(error)) => Failure::from(error),
            Err(_elapsed) => Failure::Connection(format!("{what} at block {} not answered in time", extent.lba())),
        };
        match failure {
            Failure::Attention => {}
            Failure::Repeat => self.score().told_to_repeat(),
            Failure::Command(why) => {
                self.score().command_failed(format!("{what} at block {}: {why}", extent.lba()));
                sleep(AFTER_FAILURE).await;
            }
            Failure::Connection(why) => line.lost(&session, why),
        }
        Try::Again
    }

    /// Reads every slot ever acknowledged; returns how many could not be read by `deadline`, writes without an answer included.
    async fn verify_everything(&self, deadline: tokio::time::Instant) -> u64 {
        let written: Vec<Slot> = {
            let ledger = self.ledger.borrow();
            (0..ledger.slots()).map(Slot).filter(|&slot| ledger.written(slot) || ledger.unsettled(slot)).collect()
        };
        let remaining = RefCell::new(written.into_iter());
        let verified = RefCell::new(0);
        let total = remaining.borrow().len() as u64;
        let unsettled = {
            let ledger = self.ledger.borrow();
            (0..ledger.slots()).map(Slot).filter(|&slot| ledger.unsettled(slot)).count() as u64
        };
        let readers = (0..self.options.depth.max(1)).map(|_| async {
            loop {
                let Some(slot) = remaining.borrow_mut().next() else {
                    return;
                };
                self.read_until_judged(slot).await;
                *verified.borrow_mut() += 1;
            }
        });
        // Running out of time shows in the count.
        let _in_time = timeout_at(deadline, join_all(readers)).await;
        let unread = total - *verified.borrow();
        unread.max(unsettled)
    }

    fn score(&self) -> MutexGuard<'_, Score> {
        self.paths.first().score()
    }

    fn extent(&self, slot: Slot) -> Extent {
        let blocks = self.options.command_bytes / self.geometry.block_bytes;
        let first = self.ledger.borrow().first_block(slot);
        Extent::within(self.geometry, first, blocks).expect("slots lie within the LUN by construction")
    }

    fn stamped(&self, slot: Slot, sequence: Sequence) -> Bytes {
        let first = self.ledger.borrow().first_block(slot);
        let mut bytes = vec![0; self.options.command_bytes as usize];
        for (index, block) in bytes.chunks_mut(self.geometry.block_bytes as usize).enumerate() {
            write_stamp(block, self.run, first + index as u64, sequence);
        }
        Bytes::from(bytes)
    }
}
