//! The score of a verifying client while it runs: counts, and the gaps between completions.
//!
//! The pause a client sees is the longest gap between two completed commands (good ones: an error is not service).
//! Gaps are kept per *window*: [`Score::mark`] opens one, so that the pause at the takeover and the pause at the
//! giveback are told apart without keeping every completion. The gap still open counts too, or an outage that never ends
//! would look short.

use std::collections::BTreeSet;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::Serialize;

use crate::ledger::Violation;

/// A point in time between two windows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mark(usize);

impl Mark {
    /// The beginning of the run.
    pub const START: Self = Self(0);
}

/// A gap between two completed commands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Pause {
    /// How long nothing was completed.
    pub length: Duration,
    /// When the last command before it was completed, microseconds since 1970.
    pub began_unix_micros: u64,
    /// When the first command after it was completed (or the time of asking, for the gap still open).
    pub ended_unix_micros: u64,
}

/// Counts so far.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Progress {
    /// Writes answered GOOD.
    pub acknowledged_writes: u64,
    /// Reads answered GOOD and judged.
    pub verified_reads: u64,
    /// Commands answered with an error a client would report.
    pub failed_commands: u64,
    /// Sessions lost, for whatever reason.
    pub connection_losses: u64,
    /// Commands that the target could not tell the outcome of and left to the client to issue again.
    pub told_to_repeat: u64,
    /// Distinct blocks that broke the rule of [`crate::ledger`] at least once.
    pub violations: u64,
    /// Blocks read older than a finished read had shown, without an acknowledged write being lost.
    pub backward_reads: u64,
    /// Time since the last good completion, or since the start.
    pub since_last_completion: Duration,
    /// Whether a session is up.
    pub connected: bool,
    /// The last failure, in words: a failed command, or why a connection was lost or refused.
    pub last_failure: Option<String>,
}

/// How many violations are kept in words; the rest is only counted.
const KEPT_VIOLATIONS: usize = 50;

#[derive(Debug)]
pub(crate) struct Score {
    started: Instant,
    /// Wall clock at `started`, to put gaps beside a timeline of other processes.
    started_unix_micros: u64,
    last_completion: Option<Instant>,
    /// BOUND: one window per call of `mark`.
    windows: Vec<Gap>,
    progress: Progress,
    broken_blocks: BTreeSet<u64>,
    violations: Vec<String>,
}

/// The longest finished gap of a window.
#[derive(Debug, Clone, Copy)]
struct Gap {
    began: Instant,
    ended: Instant,
}

impl Gap {
    fn length(self) -> Duration {
        self.ended.duration_since(self.began)
    }
}

impl Score {
    pub(crate) fn new(now: Instant) -> Self {
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self {
            started: now,
            started_unix_micros: u64::try_from(unix.as_micros()).unwrap_or(u64::MAX),
            last_completion: None,
            windows: vec![Gap { began: now, ended: now }],
            progress: Progress::default(),
            broken_blocks: BTreeSet::new(),
            violations: Vec::new(),
        }
    }

    pub(crate) fn write_acknowledged(&mut self, now: Instant) {
        self.progress.acknowledged_writes += 1;
        self.completed(now);
    }

    pub(crate) fn read_judged(&mut self, now: Instant, violations: &[Violation], backward_blocks: u64) {
        self.progress.verified_reads += 1;
        self.progress.backward_reads += backward_blocks;
        self.broken_blocks.extend(violations.iter().map(|violation| violation.lba));
        self.progress.violations = self.broken_blocks.len() as u64;
        violations.iter().for_each(|violation| self.keep(violation.to_string()));
        self.completed(now);
    }

    /// The LUN is not the one the client began with: a failed command as far as any client is concerned.
    pub(crate) fn identity_changed(&mut self, what: String) {
        self.keep(what.clone());
        self.command_failed(what);
    }

    fn keep(&mut self, violation: String) {
        if self.violations.len() < KEPT_VIOLATIONS {
            self.violations.push(violation);
        }
    }

    pub(crate) fn command_failed(&mut self, why: String) {
        self.progress.failed_commands += 1;
        self.progress.last_failure = Some(why);
    }

    pub(crate) fn connected(&mut self) {
        self.progress.connected = true;
    }

    pub(crate) fn connection_lost(&mut self, why: String) {
        self.progress.connection_losses += 1;
        self.progress.connected = false;
        self.progress.last_failure = Some(why);
    }

    pub(crate) fn told_to_repeat(&mut self) {
        self.progress.told_to_repeat += 1;
    }

    pub(crate) fn connect_failed(&mut self, why: String) {
        self.progress.last_failure = Some(why);
    }

    pub(crate) fn mark(&mut self, now: Instant) -> Mark {
        self.windows.push(Gap { began: now, ended: now });
        Mark(self.windows.len() - 1)
    }

    /// The longest gap that ended in the windows from `from` up to, not including, `until`; without `until` the gap
    /// still open counts as ending `now`.
    pub(crate) fn pause(&self, from: Mark, until: Option<Mark>, now: Instant) -> Pause {
        let end = until.map_or(self.windows.len(), |mark| mark.0).max(from.0);
        let open = match (until, self.last_completion) {
            (None, Some(began)) => Some(Gap { began, ended: now }),
            (None, None) => Some(Gap { began: self.started, ended: now }),
            (Some(_), _) => None,
        };
        let finished = self.windows[from.0..end].iter().copied();
        finished.chain(open).max_by_key(|gap| gap.length()).map(|gap| self.describe(gap)).unwrap_or_default()
    }

    pub(crate) fn progress(&self, now: Instant) -> Progress {
        let since_last_completion = now.duration_since(self.last_completion.unwrap_or(self.started));
        Progress { since_last_completion, ..self.progress.clone() }
    }

    pub(crate) fn violations(&self) -> &[String] {
        &self.violations
    }

    /// Time before the first completion is no gap: nothing had been served yet.
    fn completed(&mut self, now: Instant) {
        if let Some(began) = self.last_completion.replace(now) {
            let gap = Gap { began, ended: now };
            let longest = self.windows.last_mut().expect("there is always a window");
            if gap.length() > longest.length() {
                *longest = gap;
            }
        }
    }

    fn describe(&self, gap: Gap) -> Pause {
        let unix_micros = |at: Instant| {
            let since = at.duration_since(self.started).as_micros();
            self.started_unix_micros.saturating_add(u64::try_from(since).unwrap_or(u64::MAX))
        };
        Pause {
            length: gap.length(),
            began_unix_micros: unix_micros(gap.began),
            ended_unix_micros: unix_micros(gap.ended),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MILLI: Duration = Duration::from_millis(1);

    fn scored(at_millis: &[u32]) -> (Score, Instant) {
        let start = Instant::now();
        let mut score = Score::new(start);
        at_millis.iter().for_each(|&at| score.write_acknowledged(start + at * MILLI));
        (score, start)
    }

    #[test]
    fn the_pause_is_the_longest_gap_between_two_completions() {
        let (score, start) = scored(&[100, 101, 131, 132]);
        assert_eq!(score.pause(Mark::START, None, start + 133 * MILLI).length, 30 * MILLI);
    }

    #[test]
    fn two_windows_keep_their_pauses_apart() {
        let (mut score, start) = scored(&[1, 31]);
        let mark = score.mark(start + 32 * MILLI);
        score.write_acknowledged(start + 36 * MILLI);
        let now = start + 37 * MILLI;
        assert_eq!(score.pause(mark, None, now).length, 5 * MILLI);
        assert_eq!(score.pause(Mark::START, Some(mark), now).length, 30 * MILLI);
    }

    #[test]
    fn a_gap_that_began_before_the_mark_counts_whole() {
        let (mut score, start) = scored(&[10]);
        let mark = score.mark(start + 11 * MILLI);
        score.write_acknowledged(start + 60 * MILLI);
        assert_eq!(score.pause(mark, None, start + 61 * MILLI).length, 50 * MILLI);
    }

    #[test]
    fn an_outage_that_goes_on_counts_up_to_now() {
        let (mut score, start) = scored(&[10]);
        let mark = score.mark(start + 10 * MILLI);
        assert_eq!(score.pause(mark, None, start + 500 * MILLI).length, 490 * MILLI);
        assert_eq!(score.progress(start + 500 * MILLI).since_last_completion, 490 * MILLI);
    }

    #[test]
    fn a_failed_command_does_not_end_a_pause() {
        let (mut score, start) = scored(&[10]);
        score.command_failed("busy".to_owned());
        assert_eq!(score.pause(Mark::START, None, start + 40 * MILLI).length, 30 * MILLI);
    }
}
