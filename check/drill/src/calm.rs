//! A pair to which nothing is done, on a machine that is busy: every contest, takeover and alarm is a false one.
//!
//! The load is of two kinds: clients that write and verify all the time, and threads that only want a processor. The one
//! idea: the nodes' own records say what they thought of each other, and their status how close they came to it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::ensure;
use serde::Serialize;
use understudy::config::NodeName;
use understudy::timeline::step;

use crate::ground::{Ground, Hosting, Wish};

/// What a node only records when it takes its partner for lost, or contests it.
const ALARMING: [&str; 3] = [step::PARTNER_LOST, step::CONTEST, step::TAKEOVER];

/// Between two looks at the nodes.
const LOOK: Duration = Duration::from_millis(500);

/// Between two lines for whoever waits, and between two times that everything is read back.
const TOLD_EVERY: Duration = Duration::from_secs(60);
const VERIFIED_EVERY: Duration = Duration::from_secs(5 * 60);

/// What to do.
#[derive(Debug, Clone)]
pub struct Order {
    /// The program built for drills.
    pub program: PathBuf,
    /// Where the folder of the pair is made.
    pub parent: PathBuf,
    /// How long.
    pub length: Duration,
    /// Threads that want a processor all the time.
    pub hogs: usize,
    /// What the clients draw their commands with.
    pub seed: u64,
}

/// What came out; its JSON form has these fields.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Report {
    /// How long it was.
    pub seconds: f64,
    /// Steps that no node had reason for, and how often.
    pub false_alarms: BTreeMap<String, u64>,
    /// Alarms that were raised at any look, in the operator's words, and at how many looks.
    pub alarms: BTreeMap<String, u64>,
    /// How often the nodes were asked, and how often one did not answer in time.
    pub looks: u64,
    /// See `looks`.
    pub unanswered: u64,
    /// The oldest page of its partner that a node was seen with, in milliseconds.
    pub oldest_page_ms: u64,
    /// The same of the partner's heartbeat on the lock disks.
    pub oldest_heartbeat_ms: u64,
    /// Writes that were acknowledged and read back.
    pub acknowledged_writes: u64,
}

/// Watches until the time is over; `told` gets a line a minute.
///
/// # Errors
/// The pair does not come up, or a client is not content.
pub fn run(order: &Order, told: impl Fn(&str)) -> anyhow::Result<Report> {
    std::fs::create_dir_all(&order.parent)?;
    let wish =
        Wish { program: order.program.clone(), parent: order.parent.clone(), volumes: 1, hosting: Hosting::Here };
    let mut ground = Ground::make(&wish)?;
    ground.stage.steps.clear();
    let mut report = Report::default();
    let hogs = Hogs::start(order.hogs);
    let outcome = watch(order, &mut ground, &mut report, told);
    drop(hogs);
    match outcome {
        Ok(()) => Ok(report),
        Err(error) => Err(error.context(format!("everything is in {}", ground.give_up().display()))),
    }
}

fn watch(order: &Order, ground: &mut Ground, report: &mut Report, told: impl Fn(&str)) -> anyhow::Result<()> {
    let began = Instant::now();
    let (mut tell_at, mut seed) = (began + TOLD_EVERY, order.seed);
    // BOUND: until the time is over.
    while began.elapsed() < order.length {
        ground.start_clients(seed)?;
        seed += 1;
        let verify_at = Instant::now() + VERIFIED_EVERY;
        while began.elapsed() < order.length && Instant::now() < verify_at {
            ground.stage.let_pass(LOOK);
            report.look(ground);
            if Instant::now() >= tell_at {
                tell_at += TOLD_EVERY;
                told(&format!("{} of {} s, {}", began.elapsed().as_secs(), order.length.as_secs(), report.words()));
            }
        }
        for verdict in ground.judge()? {
            ensure!(verdict.holds(), "the client of {} is not content: {verdict:?}", verdict.label);
            report.acknowledged_writes += verdict.acknowledged_writes;
        }
    }
    report.seconds = began.elapsed().as_secs_f64();
    Ok(())
}

impl Report {
    /// Counts what the nodes recorded since the last look, and how they stand now.
    pub fn look(&mut self, ground: &mut Ground) {
        for step in ground.stage.steps.drain(..).filter(|step| ALARMING.contains(&step.step.as_str())) {
            *self.false_alarms.entry(format!("{} {}: {}", step.node, step.step, step.text)).or_default() += 1;
        }
        for node in NodeName::BOTH {
            self.looks += 1;
            let Ok(status) = ground.stage.pair.status(node) else {
                self.unanswered += 1;
                continue;
            };
            for alarm in status.alarms {
                *self.alarms.entry(format!("{node}: {alarm}")).or_default() += 1;
            }
            let age = |ms: Option<u64>| ms.unwrap_or_default();
            self.oldest_page_ms = self.oldest_page_ms.max(age(status.partner.page_age_ms));
            self.oldest_heartbeat_ms = self.oldest_heartbeat_ms.max(age(status.partner.heartbeat_age_ms));
        }
    }

    /// In one line.
    #[must_use]
    pub fn words(&self) -> String {
        let (steps, alarms) = (self.false_alarms.values().sum::<u64>(), self.alarms.len());
        format!(
            "{steps} false alarms, {alarms} kinds of alarm raised, oldest page {} ms, oldest heartbeat {} ms, {} of {} looks unanswered",
            self.oldest_page_ms, self.oldest_heartbeat_ms, self.unanswered, self.looks
        )
    }
}

/// Threads that want a processor until this is dropped.
struct Hogs {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Hogs {
    fn start(number: usize) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let hog = |_| {
            let stop = Arc::clone(&stop);
            std::thread::spawn(move || {
                // BOUND: until dropped.
                while !stop.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            })
        };
        let threads = (0..number).map(hog).collect();
        Self { stop, threads }
    }
}

impl Drop for Hogs {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}
