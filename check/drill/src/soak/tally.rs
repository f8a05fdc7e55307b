//! What an endurance run counts: drills, takeovers, givebacks, bytes, and every pause by its kind.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde::Serialize;
use understudy::timeline::{TimelineStep, step};
use understudy_load::Verdict;

use crate::fault::Fault;
use crate::table::millis;

/// Bytes of every command of a verifying client.
const COMMAND_BYTES: u64 = 4096;

/// What a pause belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A node was killed, its partner took over; nothing else happened.
    Takeover,
    /// It came back: the whole bring-up and giveback.
    BringUp,
    /// An operator asked for a takeover.
    PlannedTakeover,
    /// An operator asked for the giveback.
    Giveback,
    /// Something was done to the pair meanwhile, often for seconds.
    Disturbed(Fault),
}

impl Kind {
    /// Its name in the report.
    #[must_use]
    pub fn name(self) -> String {
        match self {
            Self::Takeover => "takeover".to_owned(),
            Self::BringUp => "bring-up".to_owned(),
            Self::PlannedTakeover => "planned-takeover".to_owned(),
            Self::Giveback => "giveback".to_owned(),
            Self::Disturbed(fault) => format!("disturbed: {}", fault.name()),
        }
    }
}

/// Counts so far.
#[derive(Debug)]
pub struct Tally {
    seed: u64,
    began: Instant,
    drills: u64,
    takeovers: u64,
    givebacks: u64,
    acknowledged_writes: u64,
    verified_reads: u64,
    lost_writes: u64,
    failed_commands: u64,
    read_backs: u64,
    pauses: Vec<Seen>,
}

/// One pause.
#[derive(Debug, Clone, Serialize)]
pub struct Seen {
    /// Seconds since the begin, when the drill was over.
    pub at_s: f64,
    /// Name of its kind.
    pub kind: String,
    /// The longest pause any client saw.
    pub pause_ms: f64,
}

/// The pauses of one kind.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct OfKind {
    /// How many drills.
    pub drills: usize,
    /// The median.
    pub median_ms: f64,
    /// The worst.
    pub worst_ms: f64,
}

/// What came out; its JSON form has these fields.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// What the drills were drawn with.
    pub seed: u64,
    /// How long it ran.
    pub minutes: f64,
    /// Drills, each there and back again.
    pub cycles: u64,
    /// Times a node began to serve its partner's pools.
    pub takeovers: u64,
    /// Times a node ceased to serve its partner's pools after a hand-off.
    pub givebacks: u64,
    /// Bytes of acknowledged writes.
    pub bytes_written: u64,
    /// Bytes read and found to be what was acknowledged.
    pub bytes_verified: u64,
    /// Times everything was read back and the legs of all mirrors compared.
    pub read_backs: u64,
    /// Acknowledged writes found missing or replaced.
    pub lost_writes: u64,
    /// Commands answered with an error.
    pub failed_commands: u64,
    /// Drills after which the pair did not come home.
    pub stuck: u64,
    /// What ended it early, if anything did.
    pub ended_by: Option<String>,
    /// Median and worst by kind.
    pub kinds: BTreeMap<String, OfKind>,
    /// Every pause.
    pub pauses: Vec<Seen>,
}

impl Tally {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            seed,
            began: Instant::now(),
            drills: 0,
            takeovers: 0,
            givebacks: 0,
            acknowledged_writes: 0,
            verified_reads: 0,
            lost_writes: 0,
            failed_commands: 0,
            read_backs: 0,
            pauses: Vec::new(),
        }
    }

    pub(super) fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    pub(super) fn drills(&self) -> u64 {
        self.drills
    }

    pub(super) fn pause(&mut self, kind: Kind, pause: Duration) {
        let at_s = (self.began.elapsed().as_secs_f64() * 10.0).round() / 10.0;
        self.pauses.push(Seen { at_s, kind: kind.name(), pause_ms: millis(pause) });
    }

    pub(super) fn drill_over(&mut self, steps: &[TimelineStep]) {
        self.drills += 1;
        self.takeovers += steps.iter().filter(|found| found.step == step::TAKEOVER).count() as u64;
        self.givebacks += steps.iter().filter(|found| gave_back(found)).count() as u64;
    }

    pub(super) fn verified(&mut self, verdicts: &[Verdict]) {
        self.read_backs += 1;
        for verdict in verdicts {
            self.acknowledged_writes += verdict.acknowledged_writes;
            self.verified_reads += verdict.verified_reads;
            self.lost_writes += verdict.lost_writes;
            self.failed_commands += verdict.failed_commands;
        }
    }

    pub(super) fn line(&self) -> String {
        let worst = self.pauses.iter().map(|seen| seen.pause_ms).fold(0.0, f64::max);
        format!(
            "{:.1} min: {} drills, {} takeovers, {} givebacks, {} MiB written, {} MiB verified, {} lost, worst pause {worst:.0} ms",
            self.elapsed().as_secs_f64() / 60.0,
            self.drills,
            self.takeovers,
            self.givebacks,
            (self.acknowledged_writes * COMMAND_BYTES) >> 20,
            (self.verified_reads * COMMAND_BYTES) >> 20,
            self.lost_writes
        )
    }

    pub(super) fn report(self, ended_by: Option<String>) -> Report {
        let mut by_kind: BTreeMap<String, Vec<f64>> = BTreeMap::new();
        for seen in &self.pauses {
            by_kind.entry(seen.kind.clone()).or_default().push(seen.pause_ms);
        }
        Report {
            seed: self.seed,
            minutes: (self.elapsed().as_secs_f64() / 6.0).round() / 10.0,
            cycles: self.drills,
            takeovers: self.takeovers,
            givebacks: self.givebacks,
            bytes_written: self.acknowledged_writes * COMMAND_BYTES,
            bytes_verified: self.verified_reads * COMMAND_BYTES,
            read_backs: self.read_backs,
            lost_writes: self.lost_writes,
            failed_commands: self.failed_commands,
            stuck: u64::from(ended_by.is_some()),
            ended_by,
            kinds: by_kind.into_iter().map(|(kind, pauses)| (kind, of_kind(pauses))).collect(),
            pauses: self.pauses,
        }
    }
}

/// A node ceased to answer for its partner: that is the end of every giveback, and of nothing else.
fn gave_back(found: &TimelineStep) -> bool {
    let identity = found.values.get("identity").and_then(|identity| identity.as_str());
    found.step == step::CEASED && identity.is_some_and(|identity| identity != found.node.to_string())
}

fn of_kind(mut pauses: Vec<f64>) -> OfKind {
    pauses.sort_by(f64::total_cmp);
    OfKind {
        drills: pauses.len(),
        median_ms: pauses[pauses.len() / 2],
        worst_ms: pauses.last().copied().unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn median_and_worst_are_of_one_kind_only() {
        let mut tally = Tally::new(1);
        for ms in [30, 10, 20] {
            tally.pause(Kind::Giveback, Duration::from_millis(ms));
        }
        tally.pause(Kind::Disturbed(Fault::Killed), Duration::from_secs(2));
        let report = tally.report(None);
        assert_eq!(report.kinds["giveback"], OfKind { drills: 3, median_ms: 20.0, worst_ms: 30.0 });
        assert_eq!(report.kinds["disturbed: killed"].worst_ms, 2000.0);
        assert_eq!(report.stuck, 0);
    }
}
