//! Many runs: what they came to so far, told at the end, every so often, and when somebody ends them early.
//!
//! A run has its thread to itself and looks at no signal, so a second thread waits for those. It prints the sums of the runs that
//! are over, writes them to the file that was asked for, and ends the program; the run under way counts for nothing.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::process::exit;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};

use crate::run::Outcome;

/// Between two lines of progress.
const PROGRESS: Duration = Duration::from_secs(30);

/// A shell's status of a program ended by a signal: this and the signal's number.
const BY_SIGNAL: i32 = 128;

/// What a number of runs came to.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Sums {
    /// Runs.
    pub runs: usize,
    /// Seeds of those that went wrong.
    pub failed: Vec<u64>,
    /// Seeds of those that ended with a pool refused whose only leg recorded good is gone.
    pub refused: Vec<u64>,
    /// Simulated time, seconds.
    pub simulated_seconds: f64,
    /// Time it took, seconds.
    pub real_seconds: f64,
    /// Faults carried out or planned.
    pub faults: u64,
    /// Processes of nodes started.
    pub starts: u64,
    /// Writes acknowledged, in blocks.
    pub acknowledged: u64,
    /// Writes of unknown outcome, in blocks.
    pub unknown: u64,
    /// Blocks read.
    pub reads: u64,
    /// Moments at which all invariants were looked at.
    pub moments: u64,
    /// Time from healing to everything at home: of the run in the middle, seconds.
    pub home_after_middle: f64,
    /// The longest, seconds.
    pub home_after_most: f64,
}

impl Sums {
    /// Of these runs, which took so long.
    #[must_use]
    pub fn of(outcomes: &[Outcome], real: Duration) -> Self {
        let sum = |of: fn(&Outcome) -> u64| outcomes.iter().map(of).sum::<u64>();
        let seeds = |which: fn(&&Outcome) -> bool| outcomes.iter().filter(which).map(|outcome| outcome.seed).collect();
        let mut home: Vec<Duration> = outcomes.iter().filter_map(|outcome| outcome.home_after).collect();
        home.sort_unstable();
        let seconds = |time: Option<&Duration>| time.map_or(0.0, Duration::as_secs_f64);
        Self {
            runs: outcomes.len(),
            failed: seeds(|outcome| outcome.failure.is_some()),
            refused: seeds(|outcome| outcome.refused),
            simulated_seconds: outcomes.iter().map(|outcome| outcome.simulated).sum::<Duration>().as_secs_f64(),
            real_seconds: real.as_secs_f64(),
            faults: sum(|outcome| outcome.faults as u64),
            starts: sum(|outcome| outcome.starts),
            acknowledged: sum(|outcome| outcome.acknowledged),
            unknown: sum(|outcome| outcome.unknown),
            reads: sum(|outcome| outcome.reads),
            moments: sum(|outcome| outcome.moments),
            home_after_middle: seconds(home.get(home.len() / 2)),
            home_after_most: seconds(home.last()),
        }
    }

    /// Simulated hours an hour.
    fn speed(&self) -> f64 {
        if self.real_seconds > 0.0 { self.simulated_seconds / self.real_seconds } else { 0.0 }
    }

    /// In one line, while the others are still to come.
    fn progress(&self) -> String {
        format!(
            "{} runs, {} failed, {} refused; {:.0} s simulated in {:.0} s",
            self.runs,
            self.failed.len(),
            self.refused.len(),
            self.simulated_seconds,
            self.real_seconds
        )
    }
}

impl fmt::Display for Sums {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} runs, {} failed {:?}: {:.0} s simulated in {:.0} s, {:.1} simulated hours an hour ({:.5} years)",
            self.runs,
            self.failed.len(),
            self.failed,
            self.simulated_seconds,
            self.real_seconds,
            self.speed(),
            self.speed() * 3600.0 / (365.25 * 86_400.0),
        )?;
        writeln!(f, "{} ended with a pool refused whose only good leg is gone {:?}", self.refused.len(), self.refused)?;
        write!(
            f,
            "{} faults, {} starts of nodes, {} writes acknowledged, {} of unknown outcome, {} blocks read, {} moments judged, \
             home after {:.1} s in the middle, {:.1} s at most",
            self.faults,
            self.starts,
            self.acknowledged,
            self.unknown,
            self.reads,
            self.moments,
            self.home_after_middle,
            self.home_after_most,
        )
    }
}

/// Runs that belong together.
pub struct Campaign {
    began: Instant,
    json: Option<PathBuf>,
    outcomes: Mutex<Vec<Outcome>>,
}

impl Campaign {
    /// None yet; what comes of them is written to `json`.
    #[must_use]
    pub fn begin(json: Option<PathBuf>) -> Arc<Self> {
        Arc::new(Self { began: Instant::now(), json, outcomes: Mutex::default() })
    }

    fn outcomes(&self) -> MutexGuard<'_, Vec<Outcome>> {
        // What a panic of the other thread left is whole: outcomes are only ever pushed.
        self.outcomes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One more is over.
    pub fn add(&self, outcome: Outcome) {
        self.outcomes().push(outcome);
    }

    /// What all came to so far.
    #[must_use]
    pub fn sums(&self) -> Sums {
        Sums::of(&self.outcomes(), self.began.elapsed())
    }

    /// Prints the sums and writes the file; `ended_by` names the signal that ended them early.
    ///
    /// # Errors
    /// The file's.
    pub fn conclude(&self, ended_by: Option<&str>) -> io::Result<Sums> {
        let sums = self.sums();
        println!("{sums}");
        if let Some(file) = &self.json {
            let outcomes = self.outcomes();
            let told = serde_json::json!({ "ended_by": ended_by, "sums": sums, "runs": *outcomes });
            std::fs::write(file, serde_json::to_vec_pretty(&told)?)?;
        }
        Ok(sums)
    }

    /// Tells of progress on the standard error, and ends the program with the sums so far when it is interrupted or told to end.
    ///
    /// # Errors
    /// No thread, or no word of signals.
    pub fn watch(self: &Arc<Self>) -> io::Result<()> {
        let campaign = Arc::clone(self);
        // Not on the thread of the runs: their clock is a simulated one.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (mut interrupt, mut terminate) = {
            let _inside = runtime.enter();
            (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?)
        };
        let watching = async move {
            loop {
                let (name, number) = tokio::select! {
                    _ = interrupt.recv() => ("SIGINT", SignalKind::interrupt().as_raw_value()),
                    _ = terminate.recv() => ("SIGTERM", SignalKind::terminate().as_raw_value()),
                    () = tokio::time::sleep(PROGRESS) => {
                        eprintln!("so far: {}", campaign.sums().progress());
                        continue;
                    }
                };
                println!("ended by {name}; of the runs that were over:");
                if let Err(error) = campaign.conclude(Some(name)) {
                    eprintln!("error: {error}");
                }
                exit(BY_SIGNAL + number);
            }
        };
        thread::Builder::new().name("watch".to_owned()).spawn(move || runtime.block_on(watching)).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(seed: u64) -> Outcome {
        Outcome {
            seed,
            failure: None,
            digest: 0,
            simulated: Duration::from_secs(30),
            faults: 5,
            starts: 2,
            acknowledged: 10,
            unknown: 1,
            reads: 7,
            moments: 3,
            home_after: Some(Duration::from_secs(seed)),
            refused: false,
            last_lines: Vec::new(),
        }
    }

    #[test]
    fn failed_and_refused_runs_are_named_and_the_rest_is_added_up() {
        let failed = Outcome { failure: Some("lost".to_owned()), home_after: None, ..outcome(4) };
        let refused = Outcome { refused: true, ..outcome(3) };
        let sums = Sums::of(&[outcome(1), outcome(2), refused, failed], Duration::from_secs(60));
        assert_eq!((sums.runs, sums.failed.as_slice(), sums.refused.as_slice()), (4, &[4][..], &[3][..]));
        assert_eq!((sums.faults, sums.acknowledged, sums.simulated_seconds), (20, 40, 120.0));
        assert_eq!((sums.home_after_middle, sums.home_after_most), (2.0, 3.0));
        let text = sums.to_string();
        assert!(text.contains("4 runs, 1 failed [4]: 120 s simulated in 60 s, 2.0 simulated hours an hour"), "{text}");
        assert!(text.contains("1 ended with a pool refused whose only good leg is gone [3]"), "{text}");
    }

    #[test]
    fn no_run_at_all_has_sums_too() {
        let sums = Sums::of(&[], Duration::ZERO);
        assert!(sums.to_string().starts_with("0 runs, 0 failed []: 0 s simulated in 0 s, 0.0 simulated"), "{sums}");
    }
}
