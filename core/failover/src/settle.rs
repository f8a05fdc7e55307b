//! The commit point of a hand-off, and how it is found out whether it was passed.
//!
//! Not here: what leads to COMMIT and what follows once it stands ([`crate::hand_off`], which also says why ABORT is followed by a look).

use std::collections::BTreeMap;

use crate::desk::Job;
use crate::effect::{Effect, Effects, FenceKind, RestartReason};
use crate::hand_off::{HandOff, HandOffPhase, Why};
use crate::input::FenceOutcome;
use crate::machine::{Machine, State};
use crate::page::Announcement;
use crate::record::PoolEntry;
use crate::survey::{KeyMajority, Survey};
use crate::timeline::Step;
use crate::timers::Timer;
use crate::words::{Generation, Micros, Op, PoolId};

impl Machine {
    pub(crate) fn commit_stands(&mut self, now: Micros, generation: Generation, written: usize, out: &mut Effects) {
        let State::HandingOff(hand_off) = self.state.clone() else { return };
        let of = self.config.lock_disks;
        out.push(Effect::Timeline(Step::CommitStands { generation, written, of }));
        self.announcement = Some(Announcement { generation, to: hand_off.to });
        out.push(Effect::Timeline(Step::Announced { generation }));
        self.drop_leg_changes(&hand_off.pools);
        if hand_off.why == Why::Giveback && hand_off.asked.is_none() {
            self.givebacks.push(now);
        }
        self.hand_off_phase(*hand_off, HandOffPhase::Announced { generation });
        self.timers.set(Timer::Limit, now.after(self.config.timing.receiver_limit));
    }

    pub(crate) fn commit_unknown(&mut self, _now: Micros, entries: Vec<PoolEntry>, out: &mut Effects) {
        let State::HandingOff(hand_off) = self.state.clone() else { return };
        #[cfg(feature = "mutants")]
        if crate::mutants::is_on(crate::mutants::Mutant::ResumeAfterCommitSent) {
            return self.give_up_hand_off(_now, *hand_off, out);
        }
        self.read_back(*hand_off, entries, out);
    }

    fn read_back(&mut self, hand_off: HandOff, entries: Vec<PoolEntry>, out: &mut Effects) {
        let op = self.op();
        out.push(Effect::Survey { op });
        self.hand_off_phase(hand_off, HandOffPhase::ReadingBack { op: Some(op), entries });
    }

    pub(crate) fn retry_hand_off(&mut self, now: Micros, hand_off: HandOff, out: &mut Effects) {
        match hand_off.phase.clone() {
            HandOffPhase::Holding { .. } => self.commit_if_held(now, hand_off, out),
            HandOffPhase::ReadingBack { entries, .. } => self.read_back(hand_off, entries, out),
            HandOffPhase::Reviewing { .. } => self.review(hand_off, out),
            // Their answers end them.
            HandOffPhase::Preparing { .. }
            | HandOffPhase::Committing
            | HandOffPhase::Aborting { .. }
            | HandOffPhase::Announced { .. } => {}
        }
    }

    pub(crate) fn surveyed_handing_off(
        &mut self,
        now: Micros,
        op: Option<Op>,
        hand_off: HandOff,
        survey: &Survey,
        out: &mut Effects,
    ) {
        match hand_off.phase.clone() {
            HandOffPhase::ReadingBack { op: mine, entries } if op.is_some() && op == mine => {
                self.commit_read_back(now, hand_off, entries, survey, out);
            }
            HandOffPhase::Reviewing { fences, survey: mine } if op.is_some() && op == mine => {
                self.review_surveyed(now, hand_off, fences, survey, out);
            }
            HandOffPhase::Announced { generation } => self.handed_back_seen(now, hand_off, generation, out),
            // Read for something else, or before the order.
            HandOffPhase::Preparing { .. }
            | HandOffPhase::Holding { .. }
            | HandOffPhase::Committing
            | HandOffPhase::ReadingBack { .. }
            | HandOffPhase::Aborting { .. }
            | HandOffPhase::Reviewing { .. } => {}
        }
    }

    fn commit_read_back(
        &mut self,
        now: Micros,
        hand_off: HandOff,
        entries: Vec<PoolEntry>,
        survey: &Survey,
        out: &mut Effects,
    ) {
        let majority = self.config.majority();
        let silent = survey.disks.iter().filter(|disk| disk.is_none()).count();
        let counts = entries.iter().map(|entry| survey.count_of(self.config.node, entry));
        let found = counts.min().unwrap_or(0);
        if found >= majority {
            let generation = entries.first().map_or(Generation(0), |entry| entry.generation);
            self.desk.entries.extend(entries.into_iter().map(|entry| (entry.pool, entry)));
            self.commit_stands(now, generation, found, out);
        } else if found + silent < majority {
            self.desk.ask(Job::Abort(hand_off.pools.clone()));
            self.hand_off_phase(hand_off, HandOffPhase::Aborting { entries });
        } else {
            self.hand_off_phase(hand_off, HandOffPhase::ReadingBack { op: None, entries });
            self.retry_after(now, self.config.timing.heartbeat);
        }
    }

    pub(crate) fn abort_stands(&mut self, _now: Micros, out: &mut Effects) {
        let State::HandingOff(hand_off) = self.state.clone() else { return };
        if matches!(hand_off.phase, HandOffPhase::Aborting { .. }) {
            self.review(*hand_off, out);
        }
    }

    /// ABORT stands; a receiver that saw COMMIT before has fenced, and is seen now.
    fn review(&mut self, hand_off: HandOff, out: &mut Effects) {
        let mut fences = BTreeMap::new();
        for pool in &hand_off.pools {
            fences.insert(*pool, self.order_look(*pool, out));
        }
        let op = self.op();
        out.push(Effect::Survey { op });
        self.hand_off_phase(hand_off, HandOffPhase::Reviewing { fences, survey: Some(op) });
    }

    pub(crate) fn order_look(&mut self, pool: PoolId, out: &mut Effects) -> Op {
        let op = self.op();
        let generation = self.here.get(&pool).map_or(Generation(0), |here| here.key_generation);
        let legs = self.desk.entries.get(&pool).map(|entry| entry.legs.clone()).unwrap_or_default();
        out.push(Effect::FencePool { op, pool, generation, kind: FenceKind::Look, legs });
        op
    }

    pub(crate) fn review_answered(
        &mut self,
        now: Micros,
        op: Op,
        pool: PoolId,
        outcome: FenceOutcome,
        out: &mut Effects,
    ) {
        let State::HandingOff(hand_off) = self.state.clone() else { return };
        let HandOffPhase::Reviewing { mut fences, survey } = hand_off.phase.clone() else { return };
        if fences.get(&pool) != Some(&op) {
            return;
        }
        match outcome {
            FenceOutcome::Fenced => {
                fences.remove(&pool);
                self.hand_off_phase(*hand_off, HandOffPhase::Reviewing { fences, survey });
                self.reviewed(now, out);
            }
            FenceOutcome::Incomplete { .. } => self.retry_after(now, self.config.timing.heartbeat),
            FenceOutcome::Lost | FenceOutcome::NewerKey { .. } => self.restart(RestartReason::FenceLost, out),
        }
    }

    fn review_surveyed(
        &mut self,
        now: Micros,
        hand_off: HandOff,
        fences: BTreeMap<PoolId, Op>,
        survey: &Survey,
        out: &mut Effects,
    ) {
        // Its own defeat was looked for before; here only whether the key is seen at all.
        if survey.key_majority(self.lock_key()) != KeyMajority::Held {
            return self.retry_after(now, self.config.timing.heartbeat);
        }
        self.hand_off_phase(hand_off, HandOffPhase::Reviewing { fences, survey: None });
        self.reviewed(now, out);
    }

    fn reviewed(&mut self, now: Micros, out: &mut Effects) {
        let State::HandingOff(hand_off) = self.state.clone() else { return };
        let HandOffPhase::Reviewing { fences, survey: None } = &hand_off.phase else { return };
        if fences.is_empty() {
            out.push(Effect::Timeline(Step::CommitAborted));
            self.give_up_hand_off(now, *hand_off, out);
        }
    }
}
