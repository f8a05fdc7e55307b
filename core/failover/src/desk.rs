//! The desk where records are written: one at a time, each with a generation and a sequence number never used before.
//!
//! Not here: why one is written; [`crate::claim`], [`crate::hand_off`] and mirror legs each have their own job. The one idea:
//! entries change in memory only after the record stands on a majority, and a record that might stand is never written over: it is written
//! again until it does. COMMIT is the exception, with a settlement of its own (`crate::settle`).

use std::collections::{BTreeMap, BTreeSet};

use crate::effect::{Alarm, Effect, Effects, LegsAre};
use crate::input::WriteOutcome;
use crate::machine::{Machine, Membership, State};
use crate::record::{PoolEntry, Record, Verdict};
use crate::timeline::Step;
use crate::timers::Timer;
use crate::words::{Generation, LegIndex, MetadataVersion, Micros, MirrorIndex, NodeId, Op, PoolId};

/// What a record is written for.
#[derive(Debug, Clone, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub(crate) enum Job {
    /// This node has these pools, going on from these entries.
    Claim(Vec<PoolEntry>),
    /// These pools go to the partner, at these metadata versions and with legs like this.
    Commit(BTreeMap<PoolId, (MetadataVersion, LegsAre)>),
    /// They do not.
    Abort(BTreeSet<PoolId>),
    /// They are left at rest by their owner.
    Halt(BTreeMap<PoolId, (MetadataVersion, LegsAre)>),
    /// An own record of an earlier run that may stand is made to stand, unchanged, before anything is written over it.
    Settle(Box<Record>),
    /// Mirror legs failed or are good again.
    Legs(Vec<LegChange>),
    /// These pools, which this node owns and cannot serve, are the partner's.
    HandBack(BTreeSet<PoolId>),
}

/// One leg.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
pub(crate) struct LegChange {
    pub(crate) pool: PoolId,
    pub(crate) mirror: MirrorIndex,
    pub(crate) leg: LegIndex,
    pub(crate) to: LegState,
}

/// What a leg is to be recorded as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
pub(crate) enum LegState {
    Bad,
    Good,
}

/// A record whose answer is not in.
#[derive(Debug, Clone, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
struct Writing {
    op: Op,
    record: Record,
    job: Job,
    entries: Vec<PoolEntry>,
}

/// The desk.
#[derive(Debug, Clone, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct Desk {
    /// What the records say, as far as this node knows: the truth for pools it holds.
    pub(crate) entries: BTreeMap<PoolId, PoolEntry>,
    floor: Generation,
    sequence: u64,
    /// Sequence number of the own record that last stood: its slot is not written to.
    standing: u64,
    writing: Option<Writing>,
    next: Option<Job>,
    /// A record that did not get a majority that is known of. It may stand all the same, so nothing is written over it: it is
    /// written again, unchanged, until it stands.
    unresolved: Option<Writing>,
    legs: BTreeSet<LegChange>,
    pause: Pause,
    halted: Halted,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
enum Pause {
    No,
    /// The last record did not get a majority; [`Timer::Record`] ends it.
    Yes,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
enum Halted {
    No,
    Yes,
}

impl Default for Desk {
    fn default() -> Self {
        Self {
            entries: BTreeMap::new(),
            floor: Generation(0),
            sequence: 0,
            standing: 0,
            writing: None,
            next: None,
            unresolved: None,
            legs: BTreeSet::new(),
            pause: Pause::No,
            halted: Halted::No,
        }
    }
}

impl Desk {
    /// The highest generation heard of or used.
    pub(crate) fn floor(&self) -> Generation {
        self.floor
    }

    pub(crate) fn raise_floor(&mut self, seen: Generation) {
        self.floor = self.floor.max(seen);
    }

    /// What is in the own areas: the highest number, and the one not to be overwritten.
    pub(crate) fn raise_sequence(&mut self, highest: u64, standing: Option<u64>) {
        self.sequence = self.sequence.max(highest);
        self.standing = self.standing.max(standing.unwrap_or(0));
    }

    /// A number never used, of the slot that may be written to.
    fn new_sequence(&mut self) -> u64 {
        let next = self.sequence + 1;
        #[cfg(feature = "mutants")]
        if crate::mutants::is_on(crate::mutants::Mutant::OverwriteStanding) {
            self.sequence = if next % 2 == self.standing % 2 { next } else { next + 1 };
            return self.sequence;
        }
        self.sequence = if next % 2 == self.standing % 2 { next + 1 } else { next };
        self.sequence
    }

    pub(crate) fn is_writing(&self) -> bool {
        self.writing.is_some()
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.writing.is_none() && self.unresolved.is_none() && self.next.is_none() && self.legs.is_empty()
    }

    pub(crate) fn is_halted(&self) -> bool {
        self.halted == Halted::Yes
    }

    pub(crate) fn set_halted(&mut self) {
        self.halted = Halted::Yes;
    }

    pub(crate) fn end_pause(&mut self) {
        self.pause = Pause::No;
    }

    /// Puts a job on the desk; it is written as soon as the one before has answered.
    pub(crate) fn ask(&mut self, job: Job) {
        self.next = Some(job);
    }

    /// Whether a record that makes this leg good again is on its way.
    fn is_taking_back(&self, pool: PoolId, mirror: MirrorIndex, leg: LegIndex) -> bool {
        self.legs_under_way().contains(&LegChange { pool, mirror, leg, to: LegState::Good })
    }

    /// Changes waiting, and those in the record being written.
    fn legs_under_way(&self) -> BTreeSet<LegChange> {
        let mut all = self.legs.clone();
        for writing in self.writing.iter().chain(&self.unresolved) {
            if let Job::Legs(changes) = &writing.job {
                all.extend(changes);
            }
        }
        all
    }

    #[cfg(feature = "sim")]
    pub(crate) fn visit_ops(&mut self, visit: &mut dyn FnMut(&mut Op)) {
        self.writing.iter_mut().chain(&mut self.unresolved).for_each(|writing| visit(&mut writing.op));
    }

    /// Larger than anything heard of, and none the partner hands out; `None` where they are used up.
    fn new_generation(&mut self, own: NodeId) -> Option<Generation> {
        #[cfg(feature = "mutants")]
        if crate::mutants::is_on(crate::mutants::Mutant::SameGeneration) {
            return Some(self.floor);
        }
        let next = self.floor.next_of(own)?;
        #[cfg(feature = "mutants")]
        let next = if crate::mutants::is_on(crate::mutants::Mutant::ShareGenerations) {
            Generation(self.floor.0 + 1)
        } else {
            next
        };
        self.floor = next;
        Some(next)
    }
}

fn entries_for(job: &Job, known: &BTreeMap<PoolId, PoolEntry>, own: NodeId, generation: Generation) -> Vec<PoolEntry> {
    let change = |pool: &PoolId, verdict, owner, (metadata_version, legs_are)| {
        known.get(pool).map(|entry| PoolEntry {
            owner,
            generation,
            metadata_version,
            verdict,
            legs_are,
            ..entry.clone()
        })
    };
    match job {
        Job::Claim(basis) => basis.iter().map(|entry| claimed(entry, known, own, generation)).collect(),
        Job::Commit(held) => {
            held.iter().filter_map(|(pool, at)| change(pool, Verdict::Commit, own.partner(), *at)).collect()
        }
        Job::HandBack(pools) => {
            let at = |entry: &PoolEntry| (entry.metadata_version, LegsAre::PerhapsDifferent);
            let known = pools.iter().filter_map(|pool| known.get(pool));
            known.filter_map(|entry| change(&entry.pool, Verdict::Commit, own.partner(), at(entry))).collect()
        }
        Job::Settle(_) => Vec::new(),
        Job::Halt(held) => held.iter().filter_map(|(pool, at)| change(pool, Verdict::Owned, own, *at)).collect(),
        Job::Abort(pools) => pools
            .iter()
            .filter_map(|pool| known.get(pool))
            .map(|entry| PoolEntry {
                owner: own,
                generation,
                verdict: Verdict::Abort,
                legs_are: LegsAre::PerhapsDifferent,
                ..entry.clone()
            })
            .collect(),
        Job::Legs(changes) => {
            let mut entries: BTreeMap<PoolId, PoolEntry> = BTreeMap::new();
            for change in changes {
                let Some(entry) = known.get(&change.pool) else { continue };
                let entry = entries.entry(change.pool).or_insert_with(|| entry.clone());
                entry.generation = generation;
                if let Some(legs) = entry.legs.get_mut(change.mirror.0 as usize) {
                    *legs = match change.to {
                        LegState::Bad => legs.without(change.leg),
                        LegState::Good => legs.with(change.leg),
                    };
                }
            }
            entries.into_values().collect()
        }
    }
}

/// The entry of a pool claimed: a leg this node has recorded bad meanwhile stays bad.
fn claimed(basis: &PoolEntry, known: &BTreeMap<PoolId, PoolEntry>, own: NodeId, generation: Generation) -> PoolEntry {
    let mut legs = basis.legs.clone();
    if let Some(mine) = known.get(&basis.pool).filter(|mine| mine.owner == own && mine.generation >= basis.generation) {
        for (legs, others) in legs.iter_mut().zip(&mine.legs) {
            *legs = legs.and(*others);
        }
    }
    PoolEntry {
        owner: own,
        generation,
        verdict: Verdict::Owned,
        legs_are: LegsAre::PerhapsDifferent,
        legs,
        ..basis.clone()
    }
}

impl Machine {
    /// Writes the next record if the desk is free. Called at the end of every step.
    pub(crate) fn write_next(&mut self, _now: Micros, out: &mut Effects) {
        if self.membership == Membership::Outside || self.desk.is_writing() || self.desk.pause == Pause::Yes {
            return;
        }
        if let Some(again) = self.desk.unresolved.take() {
            return self.write(again.record, again.job, again.entries, out);
        }
        let job = match self.desk.next.take() {
            Some(Job::Settle(record)) => return self.write((*record).clone(), Job::Settle(record), Vec::new(), out),
            Some(job) => job,
            None if self.may_record_legs() => Job::Legs(std::mem::take(&mut self.desk.legs).into_iter().collect()),
            None => return,
        };
        let Some(generation) = self.desk.new_generation(self.config.node) else {
            return self.raise_alarm(Alarm::GenerationsUsedUp, out);
        };
        let entries = entries_for(&job, &self.desk.entries, self.config.node, generation);
        if let Job::Commit(_) = job {
            out.push(Effect::Timeline(Step::CommitSent { generation }));
        }
        let record = self.record_with(&entries);
        self.write(record, job, entries, out);
    }

    fn write(&mut self, record: Record, job: Job, entries: Vec<PoolEntry>, out: &mut Effects) {
        let op = self.op();
        out.push(Effect::WriteRecord { op, record: Box::new(record.clone()) });
        self.desk.writing = Some(Writing { op, record, job, entries });
    }

    /// Legs wait while a COMMIT is not settled: no write is in flight then.
    fn may_record_legs(&self) -> bool {
        let settling = match &self.state {
            State::HandingOff(hand_off) => hand_off.is_settling(),
            _ => false,
        };
        !settling && !self.desk.legs.is_empty()
    }

    fn record_with(&mut self, changed: &[PoolEntry]) -> Record {
        let sequence = self.desk.new_sequence();
        let mut pools = self.desk.entries.clone();
        pools.extend(changed.iter().map(|entry| (entry.pool, entry.clone())));
        Record {
            pair: self.config.pair,
            node: self.config.node,
            incarnation: self.incarnation,
            sequence,
            pools: pools.into_values().collect(),
        }
    }

    pub(crate) fn record_written(&mut self, now: Micros, op: Op, disks: &[WriteOutcome], out: &mut Effects) {
        let Some(writing) = self.desk.writing.take_if(|writing| writing.op == op) else { return };
        let written = disks.iter().filter(|outcome| **outcome == WriteOutcome::Written).count();
        let stands = written >= self.config.majority();
        #[cfg(feature = "mutants")]
        let stands = stands || (written > 0 && crate::mutants::is_on(crate::mutants::Mutant::ServeOnMinorityRecord));
        if stands {
            self.record_stands(now, writing, written, out);
        } else {
            self.record_failed(now, writing, out);
        }
    }

    fn record_stands(&mut self, now: Micros, writing: Writing, written: usize, out: &mut Effects) {
        let of = self.config.lock_disks;
        let generation = writing.entries.first().map_or(Generation(0), |entry| entry.generation);
        self.desk.standing = self.desk.standing.max(writing.record.sequence);
        self.desk.entries.extend(writing.entries.iter().map(|entry| (entry.pool, entry.clone())));
        match writing.job {
            Job::Commit(_) => self.commit_stands(now, generation, written, out),
            Job::Claim(_) => {
                out.push(Effect::Timeline(Step::RecordStands { generation, written, of }));
                self.claim_recorded(now, out);
            }
            Job::Abort(_) => {
                out.push(Effect::Timeline(Step::RecordStands { generation, written, of }));
                self.abort_stands(now, out);
            }
            Job::Settle(_) => self.claim_settled(out),
            Job::HandBack(_) => self.handed_back(now, generation, out),
            Job::Halt(_) => self.halt_recorded(now, out),
            Job::Legs(changes) => self.legs_recorded(changes, generation, out),
        }
    }

    fn record_failed(&mut self, now: Micros, writing: Writing, out: &mut Effects) {
        match writing.job {
            Job::Commit(_) => self.commit_unknown(now, writing.entries, out),
            Job::Halt(_) => self.halt_recorded(now, out),
            Job::Claim(_) | Job::Settle(_) => {
                // Whether it is still wanted is for the next look to say.
                let job = Job::Settle(Box::new(writing.record.clone()));
                self.write_later(now, Writing { job, ..writing });
                self.claim_not_recorded(now);
            }
            Job::Abort(_) | Job::Legs(_) | Job::HandBack(_) => self.write_later(now, writing),
        }
    }

    fn write_later(&mut self, now: Micros, writing: Writing) {
        self.desk.unresolved = Some(writing);
        self.desk.pause = Pause::Yes;
        self.timers.set(Timer::Record, now.after(self.config.timing.retry));
    }

    fn legs_recorded(&mut self, changes: Vec<LegChange>, generation: Generation, out: &mut Effects) {
        for LegChange { pool, mirror, leg, to } in changes {
            match to {
                LegState::Bad => {
                    self.desk.legs.remove(&LegChange { pool, mirror, leg, to: LegState::Good });
                    out.push(Effect::Timeline(Step::LegDropped { pool, generation }));
                    out.push(Effect::LegDropped { pool, mirror, leg });
                }
                LegState::Good => out.push(Effect::LegTakenBack { pool, mirror, leg }),
            }
        }
    }

    /// A leg does not take writes: recorded bad before anything is acknowledged without it.
    pub(crate) fn leg_failed(&mut self, pool: PoolId, mirror: MirrorIndex, leg: LegIndex, out: &mut Effects) {
        let Some(entry) = self.desk.entries.get(&pool).filter(|_| self.may_change_legs(pool)) else { return };
        let Some(legs) = entry.legs.get(mirror.0 as usize).copied() else { return };
        let going = self.desk.legs_under_way();
        let waiting =
            going.iter().filter(|change| change.pool == pool && change.mirror == mirror && change.to == LegState::Bad);
        let left = waiting.fold(legs, |legs, change| legs.without(change.leg)).without(leg);
        if going.contains(&LegChange { pool, mirror, leg, to: LegState::Bad }) {
            // It is being recorded; the answer to that is the answer to this.
        } else if left.is_empty() {
            // The last good leg: dropping it would leave nothing that holds what was acknowledged. The pool's commands wait for it.
            self.raise_alarm(Alarm::LastLegFailed(pool), out);
        } else if !legs.contains(leg) && !self.desk.is_taking_back(pool, mirror, leg) {
            out.push(Effect::LegDropped { pool, mirror, leg });
        } else {
            self.desk.legs.remove(&LegChange { pool, mirror, leg, to: LegState::Good });
            self.desk.legs.insert(LegChange { pool, mirror, leg, to: LegState::Bad });
        }
    }

    /// A dropped leg holds the same again.
    pub(crate) fn leg_resynced(&mut self, pool: PoolId, mirror: MirrorIndex, leg: LegIndex) {
        let bad = LegChange { pool, mirror, leg, to: LegState::Bad };
        // Once it is dropped it is not written along any more, and what was the same then is not the same when that is recorded.
        if self.may_change_legs(pool) && !self.desk.legs_under_way().contains(&bad) {
            self.desk.legs.insert(LegChange { to: LegState::Good, ..bad });
        }
    }

    /// A pool that was handed over is held until its receiver serves it, and is not this node's to record: such a record would carry the
    /// receiver's ownership past whatever either claims meanwhile.
    fn may_change_legs(&self, pool: PoolId) -> bool {
        self.is_holding(pool) && self.owner(pool) == Some(self.config.node)
    }

    /// Nothing of these pools is recorded any more: they are handed over.
    pub(crate) fn drop_leg_changes(&mut self, pools: &BTreeSet<PoolId>) {
        self.desk.legs.retain(|change| !pools.contains(&change.pool));
    }
}
