//! The hand-off of pools: giveback and planned takeover are the same thing.
//!
//! Prepare while serving; hold, drain, flush; record COMMIT; announce; wait until the receiver serves. Not here: the receiver's side,
//! which is a claim ([`crate::claim`]).
//!
//! The one idea: before the first write of COMMIT was sent any trouble means "resume"; once it was sent this node holds until it
//! knows. Known to stand: go on. Known to be absent: record ABORT, *and then look at the fence and the lock disks once more*, because a
//! late write may have completed COMMIT between the reading and the ABORT, and a receiver that saw it has fenced. It looks after its
//! fence, this node after its ABORT: one of them sees the other. Not to be settled in time: start again, the records will tell.

use std::collections::{BTreeMap, BTreeSet};

use crate::bring_up::GiveWait;
use crate::claim::Origin;
use crate::desk::Job;
use crate::effect::{Alarm, Effect, Effects, LegsAre, Reply, RestartReason, Veto};
use crate::input::{Earnest, HandOffFindings, Health, NotHeld, SoftVetoes};
use crate::machine::{Machine, State};
use crate::page::{Judged, Page, PoolState, Stage, StateWord, WantAnswer, WantHow};
use crate::record::PoolEntry;
use crate::survey::KeyMajority;
use crate::survivor::{AfterMailboxWait, Released};
use crate::timeline::Step;
use crate::timers::Timer;
use crate::watch::Signs;
use crate::words::{Generation, Incarnation, MetadataVersion, Micros, NodeId, Op, PoolId, RequestId};

/// Why pools are handed over.
#[derive(Debug, Clone, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub enum Why {
    /// They go home.
    Giveback,
    /// The partner asked for them in its page.
    Wanted {
        /// Number of its request.
        number: u64,
        /// How it is meant.
        how: WantHow,
    },
}

/// An operator who waits for an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct Asked {
    /// Number to echo.
    pub request: RequestId,
    /// Whether soft vetoes count.
    pub vetoes: SoftVetoes,
    /// Whether it is to be done.
    pub earnest: Earnest,
}

/// How one pool of a hand-off is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub enum Hold {
    /// Ends with `PoolHeld` or `PoolNotHeld`.
    Ordered(Op),
    /// Drained and flushed.
    Held(MetadataVersion, LegsAre),
}

/// How far a hand-off is.
#[derive(Debug, Clone, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub enum HandOffPhase {
    /// Still serving. Ends with `HandOffPrepared`.
    Preparing {
        /// Of the order.
        op: Op,
    },
    /// Commands are held. Ends with the answers for every pool, and with an idle desk.
    Holding {
        /// Per pool.
        pools: BTreeMap<PoolId, Hold>,
    },
    /// COMMIT is on the desk or sent. Ends with `RecordWritten`.
    Committing,
    /// It is not known to stand: read back. Ends with `Surveyed`.
    ReadingBack {
        /// Of the order; `None` while it waits to read again.
        op: Option<Op>,
        /// What was to stand.
        entries: Vec<PoolEntry>,
    },
    /// Absent: ABORT is on the desk or sent. Ends with `RecordWritten`.
    Aborting {
        /// What did not stand.
        entries: Vec<PoolEntry>,
    },
    /// ABORT stands: fence and lock disks are looked at before anything goes on. Ends with `PoolFenced` of each and `Surveyed`.
    Reviewing {
        /// Fences not answered yet.
        fences: BTreeMap<PoolId, Op>,
        /// The survey, if not answered yet.
        survey: Option<Op>,
    },
    /// COMMIT stands and is announced: the receiver's turn. Ends with its page.
    Announced {
        /// Of which generation.
        generation: Generation,
    },
}

impl HandOffPhase {
    /// For the page.
    #[must_use]
    pub fn stage(&self) -> Stage {
        match self {
            Self::Preparing { .. } => Stage::Preparing,
            Self::Holding { .. } => Stage::Holding,
            Self::Committing => Stage::Committing,
            Self::ReadingBack { .. } | Self::Aborting { .. } | Self::Reviewing { .. } => Stage::Settling,
            Self::Announced { .. } => Stage::WaitingForReceiver,
        }
    }
}

/// A hand-off.
#[derive(Debug, Clone, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct HandOff {
    /// To which incarnation of the partner.
    pub to: Incarnation,
    /// Which pools.
    pub pools: BTreeSet<PoolId>,
    /// Those that were to go and stay, and why.
    pub stayed: BTreeMap<PoolId, BTreeSet<Veto>>,
    /// Why.
    pub why: Why,
    /// Who waits for an answer here.
    pub asked: Option<Asked>,
    /// What follows MBWAIT if it comes to nothing.
    pub then: AfterMailboxWait,
    /// How far it is.
    pub phase: HandOffPhase,
}

impl HandOff {
    /// The incarnation RELEASED stays valid for: the partner goes on reading while it is handed its pools.
    #[must_use]
    pub fn released_to(&self) -> Option<Incarnation> {
        match self.why {
            Why::Giveback => Some(self.to),
            Why::Wanted { .. } => None,
        }
    }

    /// Whether this pool's commands are held for it.
    #[must_use]
    pub fn is_holding(&self, pool: PoolId) -> bool {
        !matches!(self.phase, HandOffPhase::Preparing { .. }) && self.pools.contains(&pool)
    }

    /// Whether COMMIT was asked for and it is not known what became of it.
    #[must_use]
    pub fn is_settling(&self) -> bool {
        match self.phase {
            HandOffPhase::Preparing { .. } | HandOffPhase::Holding { .. } => false,
            HandOffPhase::Committing
            | HandOffPhase::ReadingBack { .. }
            | HandOffPhase::Aborting { .. }
            | HandOffPhase::Reviewing { .. }
            | HandOffPhase::Announced { .. } => true,
        }
    }
}

impl Machine {
    pub(crate) fn begin_hand_off(
        &mut self,
        to: Incarnation,
        pools: BTreeSet<PoolId>,
        why: Why,
        asked: Option<Asked>,
        out: &mut Effects,
    ) {
        let then = match &self.state {
            State::Released(released) => released.then,
            _ => AfterMailboxWait::Configured,
        };
        let op = self.op();
        // What the receiver has initialised: of a giveback, all of its pools, though not all of them may go.
        let prepared = match why {
            Why::Giveback => self.guests(),
            Why::Wanted { .. } => pools.iter().copied().collect(),
        };
        out.push(Effect::PrepareHandOff { op, pools: prepared });
        let (phase, stayed) = (HandOffPhase::Preparing { op }, BTreeMap::new());
        self.enter(State::HandingOff(Box::new(HandOff { to, pools, stayed, why, asked, then, phase })));
    }

    pub(crate) fn hand_off_phase(&mut self, mut hand_off: HandOff, phase: HandOffPhase) {
        let limit = self.timers.limit();
        hand_off.phase = phase;
        self.enter(State::HandingOff(Box::new(hand_off)));
        if let Some(at) = limit {
            self.timers.set(Timer::Limit, at);
        }
    }

    // ---- vetoes

    pub(crate) fn hand_off_prepared(&mut self, now: Micros, op: Op, findings: HandOffFindings, out: &mut Effects) {
        let State::HandingOff(hand_off) = self.state.clone() else { return };
        if hand_off.phase != (HandOffPhase::Preparing { op }) {
            return;
        }
        let vetoes = self.vetoes_against(now, &hand_off, &findings);
        let of_pools = self.vetoes_of_pools(&hand_off, &findings);
        let all: BTreeSet<Veto> = vetoes.iter().chain(of_pools.values().flatten()).copied().collect();
        let overridden = match (&hand_off.why, hand_off.asked) {
            (_, Some(asked)) => asked.vetoes,
            (Why::Wanted { number, how: WantHow::DryRun }, None) => {
                let number = *number;
                return self.judged(now, *hand_off, number, all, findings.predicted_pause, out);
            }
            (Why::Wanted { how: WantHow::VetoesOverridden, .. }, None) => SoftVetoes::Overridden,
            (Why::Wanted { how: WantHow::VetoesCount, .. } | Why::Giveback, None) => SoftVetoes::Count,
        };
        let counts = |veto: &Veto| overridden == SoftVetoes::Count || !veto.is_soft();
        let stay = Self::staying(&of_pools, overridden);
        let goes_in_part = stay.is_empty() || (stay.len() < hand_off.pools.len() && self.goes_in_part(&hand_off));
        if !goes_in_part || vetoes.iter().any(counts) {
            return self.vetoed(now, *hand_off, all.into_iter().filter(counts).collect(), out);
        }
        if let Some(asked) = hand_off.asked.filter(|asked| asked.earnest == Earnest::DryRun) {
            let pools = hand_off.pools.iter().copied().filter(|pool| !stay.contains_key(pool)).collect();
            let overridden = all.into_iter().filter(|veto| !counts(veto)).collect();
            let reply = Reply::WouldDo { overridden, pause: findings.predicted_pause, pools, stay };
            out.push(Effect::AnswerOperator { request: asked.request, reply });
            return self.back_from_hand_off(now, *hand_off);
        }
        self.inventory = Some(findings.inventory);
        let mut hand_off = hand_off;
        self.stays(&mut hand_off, stay, out);
        self.hold(now, *hand_off, out);
    }

    /// The partner only asked what would come of it: it is told in the page, and nothing else changes.
    fn judged(
        &mut self,
        now: Micros,
        hand_off: HandOff,
        number: u64,
        vetoes: BTreeSet<Veto>,
        pause: Micros,
        out: &mut Effects,
    ) {
        let bits = vetoes.iter().map(|veto| veto.bit()).sum();
        self.want_answer = WantAnswer::Judged(Judged { number, vetoes: bits, pause });
        out.push(Effect::Timeline(Step::RequestJudged { request: number, vetoes, pause }));
        self.back_from_hand_off(now, hand_off);
    }

    fn vetoes_against(&mut self, now: Micros, hand_off: &HandOff, findings: &HandOffFindings) -> BTreeSet<Veto> {
        let mut vetoes = findings.vetoes.clone();
        let mut add = |veto: Veto, holds: bool| {
            if holds {
                vetoes.insert(veto);
            }
        };
        let page = self.watch.page();
        let receiver = page.filter(|page| page.incarnation == hand_off.to);
        let ready = receiver.is_some_and(|page| match hand_off.why {
            Why::Giveback => page.content.state == StateWord::MailboxWait,
            Why::Wanted { number, .. } => page.content.want.is_some_and(|want| want.number == number),
        });
        let mismatch = receiver.is_some_and(|page| page.content.inventory != Some(findings.inventory));
        #[cfg(feature = "mutants")]
        let mismatch = mismatch && !crate::mutants::is_on(crate::mutants::Mutant::IgnoreInventory);
        let records = self.survey.as_ref().is_some_and(|survey| {
            let known = |pool: &PoolId| survey.standing(*pool).known().is_some();
            survey.key_majority(self.lock_key()) == KeyMajority::Held && self.config.pools.keys().all(known)
        });
        add(Veto::PartnerNotReady, !ready || hand_off.pools.is_empty());
        add(Veto::InventoryMismatch, mismatch);
        add(Veto::PartnerUnhealthy, receiver.is_some_and(|page| page.content.health == Health::Unfit));
        add(Veto::VersionMismatch, self.watch.is_rejected());
        add(Veto::NoRecordMajority, !records);
        let automatic = hand_off.why == Why::Giveback && hand_off.asked.is_none();
        if automatic && self.is_ping_pong(now) {
            vetoes.insert(Veto::PingPong);
        }
        vetoes
    }

    fn vetoed(&mut self, now: Micros, hand_off: HandOff, vetoes: BTreeSet<Veto>, out: &mut Effects) {
        let known = std::mem::replace(&mut self.vetoes, vetoes.clone());
        if known != vetoes {
            out.push(Effect::Timeline(Step::Vetoed(vetoes.clone())));
        }
        self.raise_alarm(Alarm::HandOffVetoed, out);
        if let Some(asked) = hand_off.asked {
            out.push(Effect::AnswerOperator { request: asked.request, reply: Reply::Vetoed { vetoes } });
        }
        if let Why::Wanted { number, .. } = hand_off.why {
            self.want_answer = WantAnswer::Refused(number);
        }
        self.back_from_hand_off(now, hand_off);
    }

    /// The state a hand-off came from; it is judged again after a while.
    fn back_from_hand_off(&mut self, now: Micros, hand_off: HandOff) {
        match hand_off.why {
            Why::Giveback => {
                self.enter(State::Released(Released::new(hand_off.to, hand_off.then)));
                self.retry_after(now, self.config.timing.veto_retry);
            }
            Why::Wanted { .. } => self.enter(State::Up),
        }
    }

    // ---- hold

    fn hold(&mut self, now: Micros, hand_off: HandOff, out: &mut Effects) {
        self.vetoes.clear();
        self.clear_alarm(Alarm::HandOffVetoed, out);
        self.announcement = None;
        #[cfg(feature = "mutants")]
        if crate::mutants::is_on(crate::mutants::Mutant::CloseEarly) {
            self.close_service(self.config.partner(), out);
        }
        out.push(Effect::Timeline(Step::Holding { to: self.config.partner() }));
        let mut pools = BTreeMap::new();
        for pool in hand_off.pools.clone() {
            if !self.is_holding(pool) {
                // Owned, and it could not be served here: nothing to drain, and its home may reach what this node does not.
                let version = self.desk.entries.get(&pool).map_or(MetadataVersion(0), |entry| entry.metadata_version);
                pools.insert(pool, Hold::Held(version, LegsAre::PerhapsDifferent));
                continue;
            }
            let op = self.op();
            pools.insert(pool, Hold::Ordered(op));
            self.set_here(pool, PoolState::Held);
            out.push(Effect::HoldPool { op, pool });
        }
        let phase = HandOffPhase::Holding { pools };
        self.hand_off_phase(hand_off.clone(), phase.clone());
        self.timers.set(Timer::Limit, now.after(self.config.timing.hold_limit));
        self.commit_if_held(now, HandOff { phase, ..hand_off }, out);
    }

    pub(crate) fn pool_held(
        &mut self,
        now: Micros,
        op: Op,
        pool: PoolId,
        at: (MetadataVersion, LegsAre),
        out: &mut Effects,
    ) {
        match self.state.clone() {
            State::HandingOff(mut hand_off) => {
                let HandOffPhase::Holding { pools } = &mut hand_off.phase else { return };
                if pools.get(&pool) != Some(&Hold::Ordered(op)) {
                    return;
                }
                pools.insert(pool, Hold::Held(at.0, at.1));
                if let Some(here) = self.here.get_mut(&pool) {
                    here.metadata_version = at.0;
                }
                self.commit_if_held(now, *hand_off, out);
            }
            State::Halting(halting) => self.halting_held(now, halting, op, pool, at, out),
            // Resumed since.
            State::Off
            | State::Booting
            | State::Claiming(_)
            | State::GiveWait(_)
            | State::DiskInit(_)
            | State::MailboxWait
            | State::Up
            | State::Takeover(_)
            | State::Released(_)
            | State::Wanting(_)
            | State::Ended => {}
        }
    }

    /// COMMIT is asked for when every pool is held and no other record is on its way.
    pub(crate) fn commit_if_held(&mut self, now: Micros, hand_off: HandOff, out: &mut Effects) {
        let HandOffPhase::Holding { pools } = &hand_off.phase else { return };
        let held: BTreeMap<PoolId, (MetadataVersion, LegsAre)> = pools
            .iter()
            .filter_map(|(pool, hold)| match hold {
                Hold::Held(version, legs_are) => Some((*pool, (*version, *legs_are))),
                Hold::Ordered(_) => None,
            })
            .collect();
        if held.len() < pools.len() {
            return self.enter_keeping_limit(hand_off);
        }
        if !self.desk.is_idle() {
            self.enter_keeping_limit(hand_off);
            return self.retry_after(now, self.config.timing.poll_brisk);
        }
        out.push(Effect::Timeline(Step::Held));
        #[cfg(feature = "mutants")]
        if crate::mutants::is_on(crate::mutants::Mutant::AnnounceBeforeCommit) {
            let generation = Generation(self.desk.floor().0 + 1);
            self.announcement = Some(crate::page::Announcement { generation, to: hand_off.to });
        }
        self.desk.ask(Job::Commit(held));
        self.hand_off_phase(hand_off, HandOffPhase::Committing);
        self.timers.set(Timer::Limit, now.after(self.config.timing.settle_limit));
    }

    fn enter_keeping_limit(&mut self, hand_off: HandOff) {
        let phase = hand_off.phase.clone();
        self.hand_off_phase(hand_off, phase);
    }

    pub(crate) fn pool_not_held(&mut self, now: Micros, op: Op, pool: PoolId, reason: NotHeld, out: &mut Effects) {
        match self.state.clone() {
            State::HandingOff(hand_off) => {
                let HandOffPhase::Holding { pools } = &hand_off.phase else { return };
                if pools.get(&pool) == Some(&Hold::Ordered(op)) {
                    let veto = match reason {
                        NotHeld::OutcomeUnknown => Veto::WriteOutcomeUnknown,
                        NotHeld::DrainTimedOut | NotHeld::FlushFailed => Veto::DrainFailed,
                    };
                    if hand_off.pools.len() > 1 && self.goes_in_part(&hand_off) {
                        return self.leave_behind(now, *hand_off, pool, veto, out);
                    }
                    self.resume(&hand_off, out);
                    self.vetoed(now, *hand_off, BTreeSet::from([veto]), out);
                }
            }
            State::Halting(halting) => self.halt_limit(now, &halting, out),
            State::Off
            | State::Booting
            | State::Claiming(_)
            | State::GiveWait(_)
            | State::DiskInit(_)
            | State::MailboxWait
            | State::Up
            | State::Takeover(_)
            | State::Released(_)
            | State::Wanting(_)
            | State::Ended => {}
        }
    }

    /// Carries on what was held.
    fn resume(&mut self, hand_off: &HandOff, out: &mut Effects) {
        for pool in hand_off.pools.iter().copied().filter(|pool| self.is_holding(*pool)).collect::<Vec<_>>() {
            self.resume_pool(pool, out);
        }
        out.push(Effect::Timeline(Step::Resumed));
    }

    pub(crate) fn resume_pool(&mut self, pool: PoolId, out: &mut Effects) {
        if self.doubts.contains_key(&pool) {
            self.set_here(pool, PoolState::Held);
        } else {
            self.set_here(pool, PoolState::Serving);
            out.push(Effect::ResumePool { pool });
        }
    }

    pub(crate) fn give_up_hand_off(&mut self, now: Micros, hand_off: HandOff, out: &mut Effects) {
        if !matches!(hand_off.phase, HandOffPhase::Preparing { .. }) {
            self.resume(&hand_off, out);
        }
        if let Some(asked) = hand_off.asked {
            out.push(Effect::AnswerOperator { request: asked.request, reply: Reply::GivenUp });
        }
        if let Why::Wanted { number, .. } = hand_off.why {
            self.want_answer = WantAnswer::Refused(number);
        }
        self.back_from_hand_off(now, hand_off);
    }

    // ---- the receiver's turn

    pub(crate) fn page_read_handing_off(&mut self, now: Micros, hand_off: HandOff, page: &Page, out: &mut Effects) {
        match &hand_off.phase {
            HandOffPhase::Announced { generation } => self.receiver_read(now, &hand_off, *generation, page, out),
            HandOffPhase::Preparing { .. } | HandOffPhase::Holding { .. } if page.incarnation != hand_off.to => {
                self.give_up_hand_off(now, hand_off, out);
            }
            HandOffPhase::Preparing { .. }
            | HandOffPhase::Holding { .. }
            | HandOffPhase::Committing
            | HandOffPhase::ReadingBack { .. }
            | HandOffPhase::Aborting { .. }
            | HandOffPhase::Reviewing { .. } => {}
        }
    }

    fn receiver_read(
        &mut self,
        now: Micros,
        hand_off: &HandOff,
        generation: Generation,
        page: &Page,
        out: &mut Effects,
    ) {
        let kept = self.held_besides(&hand_off.pools);
        for identity in NodeId::BOTH {
            let go = self.portals_go(identity, &hand_off.pools, &kept);
            if go && page.content.portals_listening[identity.index()] && self.listening[identity.index()] {
                self.close_service(identity, out);
            }
        }
        self.judge_receiver(now, hand_off, generation, page, out);
    }

    /// Whether the receiver serves what it was given, but for what it has given back.
    pub(crate) fn judge_receiver(
        &mut self,
        now: Micros,
        hand_off: &HandOff,
        generation: Generation,
        page: &Page,
        out: &mut Effects,
    ) {
        let serves = |pool: &PoolId| {
            page.content.pool(*pool).is_some_and(|it| {
                let as_here = it.state == PoolState::Refused && self.is_refused_here(*pool);
                it.generation >= generation && (it.state == PoolState::Serving || as_here)
            })
        };
        let back = self.handed_back_of(hand_off, generation);
        if !hand_off.pools.difference(&back).all(serves) {
            return;
        }
        if back.is_empty() {
            self.hand_off_done(now, hand_off, out);
        } else if back.len() == hand_off.pools.len() {
            self.take_back(hand_off.clone(), out);
        } else {
            self.done_but_for(hand_off.clone(), back, out);
        }
    }

    pub(crate) fn close_service(&mut self, identity: NodeId, out: &mut Effects) {
        self.listening[identity.index()] = false;
        out.push(Effect::ClosePortals { identity });
        out.push(Effect::Timeline(Step::ServiceClosed { identity }));
    }

    fn hand_off_done(&mut self, now: Micros, hand_off: &HandOff, out: &mut Effects) {
        self.let_go(&hand_off.pools, out);
        self.announcement = None;
        if let Some(asked) = hand_off.asked {
            let reply = Self::reply_of(hand_off);
            out.push(Effect::AnswerOperator { request: asked.request, reply });
        }
        match hand_off.why {
            Why::Giveback => self.rest_after_giveback(now, hand_off),
            // The repaired node's way from here on: what was closed is initialised anew while the partner serves, and not in the pause
            // of the giveback.
            Why::Wanted { .. } => self.enter(State::GiveWait(GiveWait::Waiting)),
        }
    }

    /// These pools are the partner's now, and served there.
    pub(crate) fn let_go(&mut self, pools: &BTreeSet<PoolId>, out: &mut Effects) {
        let kept = self.held_besides(pools);
        for identity in NodeId::BOTH {
            if self.portals_go(identity, pools, &kept) && self.listening[identity.index()] {
                self.close_service(identity, out);
            }
        }
        for pool in pools {
            out.push(Effect::ClosePool { pool: *pool });
            self.set_here(*pool, PoolState::Away);
            self.doubts.remove(pool);
            if let Some(here) = self.here.get_mut(pool) {
                (here.fence, here.fence_due) = (None, None);
            }
        }
    }

    /// The partner is silent: before COMMIT the pools stay; after it they are contested.
    pub(crate) fn receiver_lost(&mut self, now: Micros, hand_off: HandOff, out: &mut Effects) {
        match hand_off.phase {
            HandOffPhase::Preparing { .. } | HandOffPhase::Holding { .. } => self.give_up_hand_off(now, hand_off, out),
            HandOffPhase::Announced { .. } => {
                out.push(Effect::Timeline(Step::PartnerLost));
                self.begin_contest(Origin::AfterCommit(Box::new(hand_off)), out);
            }
            HandOffPhase::Committing
            | HandOffPhase::ReadingBack { .. }
            | HandOffPhase::Aborting { .. }
            | HandOffPhase::Reviewing { .. } => {}
        }
    }

    /// Back to waiting for a receiver that turned out to live.
    pub(crate) fn wait_for_receiver(&mut self, now: Micros, hand_off: HandOff) {
        self.enter(State::HandingOff(Box::new(hand_off)));
        self.timers.set(Timer::Limit, now.after(self.config.timing.receiver_limit));
    }

    pub(crate) fn hand_off_limit(&mut self, now: Micros, hand_off: HandOff, out: &mut Effects) {
        match hand_off.phase {
            HandOffPhase::Preparing { .. } | HandOffPhase::Holding { .. } => self.give_up_hand_off(now, hand_off, out),
            HandOffPhase::Committing
            | HandOffPhase::ReadingBack { .. }
            | HandOffPhase::Aborting { .. }
            | HandOffPhase::Reviewing { .. } => self.restart(RestartReason::CommitUnsettled, out),
            // A receiver whose restart is on its way up again is given its time; one that hangs is contested.
            HandOffPhase::Announced { .. } if self.is_receiver_new(&hand_off, now) => {
                self.wait_for_receiver(now, hand_off);
            }
            HandOffPhase::Announced { .. } => self.begin_contest(Origin::AfterCommit(Box::new(hand_off)), out),
        }
    }

    fn is_receiver_new(&self, hand_off: &HandOff, now: Micros) -> bool {
        self.watch.incarnation() != Some(hand_off.to) && self.watch.signs(now, &self.config) == Signs::Alive
    }
}
