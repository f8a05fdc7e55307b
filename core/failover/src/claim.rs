//! Seize, then verify: a node's way from a right to serve some pools to serving them.
//!
//! (1) own key on a majority of the lock disks, by joining or by winning a contest; (2) the claim recorded on a majority, unless the
//! partner's COMMIT is the record; (3) the disks fenced and read back; (4) one more look: own key still there, no other claim. Then,
//! and only then, the first access that changes anything. Not here: what made the node claim, and the state it rests in afterwards
//! beyond `Machine::rest`.

use std::collections::{BTreeMap, BTreeSet};

use crate::bring_up::GiveWait;
use crate::desk::Job;
use crate::effect::{Alarm, Effect, Effects, Entry, Reply, RestartReason};
use crate::hand_off::HandOff;
use crate::input::JoinOutcome;
use crate::key::ReservationKey;
use crate::machine::{Machine, Membership, State};
use crate::page::{PoolState, Stage, StateWord};
use crate::record::{PoolEntry, Verdict};
use crate::survey::{Contest, KeyMajority, Standing, Survey, judge_contest};
use crate::survivor::{Exclusive, Released};
use crate::timeline::Step;
use crate::timers::Timer;
use crate::watch::Signs;
use crate::words::{Generation, Micros, NodeId, Op, PoolId, RequestId};

/// Where a node was when it began to claim, and goes back to if it has to give up.
#[derive(Debug, Clone, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub enum Origin {
    /// Booting.
    Boot,
    /// GIVEWAIT, DISKINIT or MBWAIT, with the partner gone.
    BringUp,
    /// Serving.
    Service,
    /// MBWAIT, with the giveback committed.
    HandedOver,
    /// Serving, with a request of the operator's committed.
    Wanted {
        /// Whose answer is due.
        request: RequestId,
    },
    /// RELEASED, with a pool that could not be served so far.
    Released(Released),
    /// A hand-off committed, with a receiver that does not act.
    AfterCommit(Box<HandOff>),
}

/// Where the right comes from.
#[derive(Debug, Clone, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub enum Route {
    /// The records give the pools to this node.
    HomeAgain,
    /// This node has to win the lock disks.
    Contested {
        /// How it comes to its registration.
        entry: Entry,
        /// The key it contests against.
        victim: Option<ReservationKey>,
    },
    /// The partner announced a COMMIT of this generation.
    Committed {
        /// Which.
        generation: Generation,
    },
}

/// Something ordered for one pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub enum Part {
    /// Not ordered yet.
    Due,
    /// Ordered; ends with the answer of this number.
    Ordered(Op),
    /// Seen done.
    Done,
    /// Failed; tried again after a while.
    Failed,
}

/// How far one pool is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct Progress {
    /// Its fence.
    pub fence: Part,
    /// Its metadata.
    pub open: Part,
    /// How often something failed.
    pub failures: u8,
    /// Whether it is a retry.
    pub tried: Tried,
}

/// Whether a pool was refused when this claim began.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub enum Tried {
    /// No: a claim tries it for the first time.
    Now,
    /// Yes, and it is this node's by the records.
    Before,
}

/// How far a claim is.
#[derive(Debug, Clone, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub enum ClaimPhase {
    /// Registers on the lock disks. Ends with `LockDisksJoined`.
    Joining {
        /// Of the order.
        op: Op,
    },
    /// Contests them. Ends with `LockDisksContested`.
    Contesting {
        /// Of the order.
        op: Op,
    },
    /// Reads what to go on from. Ends with `Surveyed`.
    Looking {
        /// Of the order.
        op: Op,
    },
    /// Its record is on the desk. Ends with `RecordWritten`.
    Recording,
    /// Fences, opens, prepares portals. Ends with the answers of every part.
    Preparing {
        /// Per pool.
        pools: BTreeMap<PoolId, Progress>,
        /// Portals ordered and not yet listening.
        portals: BTreeMap<Op, NodeId>,
    },
    /// Looks once more. Ends with `Surveyed`.
    Verifying {
        /// Of the order.
        op: Op,
        /// Pools fenced and opened.
        ready: BTreeSet<PoolId>,
    },
    /// Waits before it tries again.
    Paused(Again),
    /// The record that these pools are the partner's is on the desk, because they cannot be had here and could be there. Ends with
    /// `RecordWritten`.
    HandingBack {
        /// Which.
        pools: BTreeSet<PoolId>,
        /// Pools fenced and opened that stay.
        ready: BTreeSet<PoolId>,
    },
}

/// What is tried again.
#[derive(Debug, Clone, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub enum Again {
    /// Joining.
    Join,
    /// Contesting.
    Contest,
    /// Looking.
    Look,
    /// Verifying.
    Verify(BTreeSet<PoolId>),
}

impl ClaimPhase {
    /// For the page.
    #[must_use]
    pub fn stage(&self) -> Stage {
        match self {
            Self::Joining { .. } | Self::Paused(Again::Join) => Stage::Joining,
            Self::Contesting { .. } | Self::Paused(Again::Contest) => Stage::Contesting,
            Self::Looking { .. } | Self::Paused(Again::Look) => Stage::Surveying,
            Self::Recording | Self::HandingBack { .. } => Stage::Recording,
            Self::Preparing { .. } => Stage::Fencing,
            Self::Verifying { .. } | Self::Paused(Again::Verify(_)) => Stage::Verifying,
        }
    }
}

/// A claim.
#[derive(Debug, Clone, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct Claim {
    /// Where it began.
    pub origin: Origin,
    /// Where the right comes from.
    pub route: Route,
    /// What is claimed; a contest decides it after it is won.
    pub pools: BTreeSet<PoolId>,
    /// How far it is.
    pub phase: ClaimPhase,
}

impl Machine {
    /// Begins a claim.
    pub(crate) fn begin_claim(&mut self, origin: Origin, route: Route, pools: BTreeSet<PoolId>, out: &mut Effects) {
        let again = match (&route, self.membership) {
            (Route::HomeAgain, Membership::Outside) => Again::Join,
            (Route::HomeAgain, Membership::Registered) | (Route::Committed { .. }, _) => Again::Look,
            (Route::Contested { .. }, _) => Again::Contest,
        };
        if again == Again::Contest {
            out.push(Effect::Timeline(Step::ContestBegun));
        }
        self.order_again(Claim { origin, route, pools, phase: ClaimPhase::Paused(again.clone()) }, again, out);
    }

    /// Contests the lock disks for everything this node does not serve.
    pub(crate) fn begin_contest(&mut self, origin: Origin, out: &mut Effects) {
        let entry = match self.membership {
            Membership::Outside => Entry::Newcomer,
            Membership::Registered => Entry::Registered,
        };
        let route = Route::Contested { entry, victim: self.watch.key() };
        self.begin_claim(origin, route, BTreeSet::new(), out);
    }

    /// A receiver that stopped in a hand-off, when it listened beside this node already, would get every new connection for as long as
    /// it stays stopped. Only for who handed over: everybody else that listens beside another came later, and gets them already.
    pub(crate) fn reclaim_portals(&self, hand_off: &HandOff, out: &mut Effects) {
        let kept = self.held_besides(&hand_off.pools);
        for identity in NodeId::BOTH {
            if self.portals_go(identity, &hand_off.pools, &kept) && self.listening[identity.index()] {
                out.push(Effect::ReclaimPortals { identity });
            }
        }
    }

    pub(crate) fn claim_phase(&mut self, mut claim: Claim, phase: ClaimPhase) {
        claim.phase = phase;
        self.enter(State::Claiming(Box::new(claim)));
    }

    pub(crate) fn pause_claim(&mut self, now: Micros, claim: Claim, again: Again) {
        let length = match (&claim.route, &again) {
            (Route::Committed { .. }, _) => self.config.timing.poll_routine,
            (Route::Contested { .. }, Again::Contest) if self.config.preferred != self.config.node => {
                self.config.timing.retry.after(self.config.timing.second_node_delay)
            }
            _ => self.config.timing.retry,
        };
        self.claim_phase(claim, ClaimPhase::Paused(again));
        self.retry_after(now, length);
    }

    pub(crate) fn retry_claim(&mut self, now: Micros, claim: Claim, out: &mut Effects) {
        match claim.phase.clone() {
            ClaimPhase::Paused(again) => self.order_again(claim, again, out),
            ClaimPhase::Preparing { .. } => self.order_parts(now, claim, out),
            // No deadline is set in these: their answers end them.
            ClaimPhase::Joining { .. }
            | ClaimPhase::Contesting { .. }
            | ClaimPhase::Looking { .. }
            | ClaimPhase::Recording
            | ClaimPhase::HandingBack { .. }
            | ClaimPhase::Verifying { .. } => {}
        }
    }

    pub(crate) fn order_again(&mut self, claim: Claim, again: Again, out: &mut Effects) {
        let (op, key) = (self.op(), self.lock_key());
        match again {
            Again::Join => {
                let which = (0..self.config.lock_disks).collect();
                out.push(Effect::JoinLockDisks { op, which, key });
                self.claim_phase(claim, ClaimPhase::Joining { op });
            }
            Again::Contest => {
                let Route::Contested { entry, victim } = claim.route else { return };
                out.push(Effect::ContestLockDisks { op, key, entry, victim });
                self.claim_phase(claim, ClaimPhase::Contesting { op });
            }
            Again::Look => {
                out.push(Effect::Survey { op });
                self.claim_phase(claim, ClaimPhase::Looking { op });
            }
            Again::Verify(ready) => {
                out.push(Effect::Survey { op });
                self.claim_phase(claim, ClaimPhase::Verifying { op, ready });
            }
        }
    }

    /// The registration stands on a majority: from now on its absence there means defeat.
    pub(crate) fn become_member(&mut self, out: &mut Effects) {
        if self.membership == Membership::Outside {
            self.membership = Membership::Registered;
            out.push(Effect::StartHeartbeat);
        }
    }

    pub(crate) fn lock_disks_joined(&mut self, now: Micros, op: Op, disks: &[JoinOutcome], out: &mut Effects) {
        let done = disks.iter().enumerate().filter(|(_, outcome)| **outcome == JoinOutcome::Joined);
        let done: BTreeSet<usize> = done.map(|(at, _)| at).collect();
        let joined = done.len();
        self.joined.extend(done);
        if self.rejoin == Some(op) {
            self.rejoin = None;
        }
        let enough = joined >= self.config.majority();
        match self.state.clone() {
            State::Claiming(claim) if claim.phase == (ClaimPhase::Joining { op }) => {
                if enough {
                    out.push(Effect::Timeline(Step::LockDisksJoined { joined, of: self.config.lock_disks }));
                    self.become_member(out);
                    self.order_again(*claim, Again::Look, out);
                } else {
                    self.pause_claim(now, *claim, Again::Join);
                }
            }
            State::DiskInit(init) => self.joined_disk_init(now, op, &init, joined, out),
            // The answer of an order given before this state: whoever asked has gone on without it.
            State::Off
            | State::Booting
            | State::Claiming(_)
            | State::GiveWait(_)
            | State::MailboxWait
            | State::Up
            | State::Takeover(_)
            | State::Released(_)
            | State::HandingOff(_)
            | State::Wanting(_)
            | State::Halting(_)
            | State::Ended => {}
        }
    }

    pub(crate) fn lock_disks_contested(
        &mut self,
        now: Micros,
        op: Op,
        disks: &[Option<Vec<ReservationKey>>],
        out: &mut Effects,
    ) {
        let State::Claiming(claim) = self.state.clone() else { return };
        let (ClaimPhase::Contesting { op: mine }, Route::Contested { victim, .. }) = (&claim.phase, &claim.route)
        else {
            return;
        };
        if *mine != op {
            return;
        }
        match judge_contest(disks, self.lock_key(), *victim) {
            Contest::Won { won } => {
                let own = self.lock_key();
                let stands =
                    disks.iter().enumerate().filter(|(_, keys)| keys.as_ref().is_some_and(|it| it.contains(&own)));
                self.joined.extend(stands.map(|(at, _)| at));
                out.push(Effect::Timeline(Step::ContestWon { won, of: self.config.lock_disks }));
                self.become_member(out);
                if let Origin::AfterCommit(hand_off) = &claim.origin {
                    self.reclaim_portals(hand_off, out);
                }
                self.order_again(*claim, Again::Look, out);
            }
            Contest::Lost => self.restart(RestartReason::ContestLost, out),
            Contest::PartnerChanged => {
                let keys = disks.iter().flatten().flatten();
                let key = keys.copied().find(|key| key.is_of(self.config.pair, self.config.partner()));
                self.watch.learn_key(now, key);
                self.abandon_contest(now, *claim, out);
            }
            Contest::Undecided => {
                out.push(Effect::Timeline(Step::ContestUndecided));
                self.pause_claim(now, *claim, Again::Contest);
            }
        }
    }

    /// The partner lives after all: back to where this node was.
    fn abandon_contest(&mut self, now: Micros, claim: Claim, out: &mut Effects) {
        match claim.origin {
            Origin::Boot | Origin::HandedOver => self.enter(State::Booting),
            Origin::BringUp => self.enter(State::GiveWait(GiveWait::Waiting)),
            Origin::Service | Origin::Wanted { .. } => self.rest(now, out),
            Origin::Released(released) => self.enter(State::Released(released)),
            Origin::AfterCommit(hand_off) => self.wait_for_receiver(now, *hand_off),
        }
    }

    /// A page was read while claiming: a contest that has not been won is given up when the partner lives.
    pub(crate) fn page_read_claiming(&mut self, now: Micros, claim: &Claim, out: &mut Effects) {
        let waiting = claim.phase == ClaimPhase::Paused(Again::Contest);
        let forced = matches!(claim.origin, Origin::AfterCommit(_));
        if waiting && !forced && self.watch.signs(now, &self.config) == Signs::Alive {
            self.abandon_contest(now, claim.clone(), out);
        }
    }

    pub(crate) fn surveyed_claiming(
        &mut self,
        now: Micros,
        op: Option<Op>,
        claim: Claim,
        survey: &Survey,
        out: &mut Effects,
    ) {
        #[cfg(feature = "mutants")]
        if let ClaimPhase::Verifying { ready, .. } = &claim.phase
            && crate::mutants::is_on(crate::mutants::Mutant::IgnoreOpNumbers)
        {
            let ready = ready.clone();
            return self.claim_verified(now, claim, &ready, survey, out);
        }
        match claim.phase.clone() {
            ClaimPhase::Looking { op: mine } if op == Some(mine) => self.claim_looked(now, claim, survey, out),
            ClaimPhase::Verifying { op: mine, ready } if op == Some(mine) => {
                self.claim_verified(now, claim, &ready, survey, out);
            }
            // A reading begun before the order proves nothing for it.
            ClaimPhase::Looking { .. }
            | ClaimPhase::Verifying { .. }
            | ClaimPhase::Joining { .. }
            | ClaimPhase::Contesting { .. }
            | ClaimPhase::Recording
            | ClaimPhase::Preparing { .. }
            | ClaimPhase::HandingBack { .. }
            | ClaimPhase::Paused(_) => {}
        }
    }

    fn claim_looked(&mut self, now: Micros, claim: Claim, survey: &Survey, out: &mut Effects) {
        match survey.key_majority(self.lock_key()) {
            KeyMajority::Held => {}
            KeyMajority::Lost => return self.restart(RestartReason::KeyLost, out),
            KeyMajority::Unknown => return self.pause_claim(now, claim, Again::Look),
        }
        match claim.route {
            Route::HomeAgain => self.looked_home_again(now, claim, survey, out),
            Route::Contested { .. } => self.looked_contested(now, claim, survey, out),
            Route::Committed { generation } => self.looked_committed(now, claim, generation, survey, out),
        }
    }

    fn looked_home_again(&mut self, now: Micros, claim: Claim, survey: &Survey, out: &mut Effects) {
        let known: Vec<PoolEntry> =
            claim.pools.iter().filter_map(|pool| survey.standing(*pool).known().cloned()).collect();
        let all_known = self.config.pools.keys().all(|pool| survey.standing(*pool).known().is_some());
        let taken = known.iter().any(|entry| entry.owner != self.config.node);
        if known.len() == claim.pools.len() && all_known && !taken {
            if self.is_claimed_already(&claim, &known) {
                return self.prepare(now, claim, out);
            }
            self.desk.ask(Job::Claim(known));
            self.claim_phase(claim, ClaimPhase::Recording);
        } else if claim.origin == Origin::Boot {
            self.enter(State::Booting);
        } else if taken {
            self.restart(RestartReason::Overtaken, out);
        } else {
            // The records cannot be judged now; the pools stay refused and are tried again.
            for pool in claim.pools.iter().filter(|pool| !self.is_holding(**pool)).copied().collect::<Vec<_>>() {
                self.set_here(pool, PoolState::Refused);
            }
            self.timers.set(Timer::Refused, now.after(self.config.timing.refused_retry));
            self.abandon_contest(now, claim, out);
        }
    }

    /// A refused pool that is tried again: what this run has recorded of it stands, and it has heard of nothing newer. A pool that stays
    /// out of reach would use up the generations otherwise.
    fn is_claimed_already(&self, claim: &Claim, known: &[PoolEntry]) -> bool {
        let again = matches!(claim.origin, Origin::Service | Origin::Released(_));
        again
            && known.iter().all(|entry| {
                entry.verdict == Verdict::Owned
                    && entry.generation == self.desk.floor()
                    && self.desk.entries.get(&entry.pool) == Some(entry)
                    && self.is_refused_here(entry.pool)
            })
    }

    fn looked_contested(&mut self, now: Micros, mut claim: Claim, survey: &Survey, out: &mut Effects) {
        if !survey.is_readable() {
            return self.pause_claim(now, claim, Again::Look);
        }
        match self.is_alone(survey) {
            KeyMajority::Held => {}
            KeyMajority::Unknown => return self.pause_claim(now, claim, Again::Look),
            KeyMajority::Lost => return self.partner_is_back(now, claim, survey, out),
        }
        if let Some(record) = survey.unsettled_record(self.config.node) {
            self.desk.ask(Job::Settle(Box::new(record.clone())));
            return self.claim_phase(claim, ClaimPhase::Recording);
        }
        let mut basis = Vec::new();
        for pool in self.config.pools.keys().copied().collect::<Vec<_>>() {
            let mine = self.owner(pool) == Some(self.config.node);
            let handed_over = match &claim.origin {
                Origin::AfterCommit(hand_off) => hand_off.pools.contains(&pool),
                _ => false,
            };
            if mine && self.is_holding(pool) && !handed_over {
                continue;
            }
            match survey.standing(pool).winner_basis() {
                Some(entry) => {
                    self.clear_alarm(Alarm::RecordUnknown(pool), out);
                    basis.push(entry);
                }
                None => self.raise_alarm(Alarm::RecordUnknown(pool), out),
            }
        }
        claim.pools = basis.iter().map(|entry| entry.pool).collect();
        self.desk.ask(Job::Claim(basis));
        self.claim_phase(claim, ClaimPhase::Recording);
    }

    /// Whether a contest that was won still is: a partner that has registered since has read what this node was about to write over.
    pub(crate) fn is_alone(&self, survey: &Survey) -> KeyMajority {
        #[cfg(feature = "mutants")]
        if crate::mutants::is_on(crate::mutants::Mutant::OverlookReturn) {
            return KeyMajority::Held;
        }
        survey.alone_majority(self.lock_key())
    }

    /// The partner registered between the contest and the reading after it: another run lives, unless it is contested whoever it is.
    fn partner_is_back(&mut self, now: Micros, claim: Claim, survey: &Survey, out: &mut Effects) {
        let Route::Contested { victim, .. } = claim.route else { return };
        let key = survey.key_of(self.config.pair, self.config.partner());
        if victim.is_some() && victim != key {
            self.watch.learn_key(now, key);
            self.abandon_contest(now, claim, out);
        } else {
            self.contest_again(claim, victim, out);
        }
    }

    /// Once more, with the registration this node has by now.
    pub(crate) fn contest_again(&mut self, mut claim: Claim, victim: Option<ReservationKey>, out: &mut Effects) {
        claim.route = Route::Contested { entry: Entry::Registered, victim };
        self.order_again(claim, Again::Contest, out);
    }

    fn looked_committed(
        &mut self,
        now: Micros,
        claim: Claim,
        generation: Generation,
        survey: &Survey,
        out: &mut Effects,
    ) {
        let entries: Vec<Standing> = claim.pools.iter().map(|pool| survey.standing(*pool)).collect();
        let committed = entries.iter().filter_map(Standing::known);
        let committed: Vec<&PoolEntry> =
            committed.filter(|entry| entry.owner == self.config.node && entry.generation >= generation).collect();
        if committed.len() == claim.pools.len() {
            self.desk.entries.extend(committed.into_iter().map(|entry| (entry.pool, entry.clone())));
            out.push(Effect::Timeline(Step::CommitRead { generation }));
            self.prepare(now, claim, out);
        } else if entries
            .iter()
            .filter_map(Standing::known)
            .any(|entry| entry.owner != self.config.node && entry.generation > generation)
        {
            self.commit_withdrawn(now, claim, out);
        } else {
            self.pause_claim(now, claim, Again::Look);
        }
    }

    /// The partner took its COMMIT back, or took the pools again.
    fn commit_withdrawn(&mut self, now: Micros, claim: Claim, out: &mut Effects) {
        match claim.origin {
            Origin::Wanted { request } => {
                out.push(Effect::AnswerOperator { request, reply: Reply::GivenUp });
                self.rest(now, out);
            }
            Origin::Boot
            | Origin::BringUp
            | Origin::Service
            | Origin::HandedOver
            | Origin::Released(_)
            | Origin::AfterCommit(_) => self.enter(State::GiveWait(GiveWait::Waiting)),
        }
    }

    pub(crate) fn claim_recorded(&mut self, now: Micros, out: &mut Effects) {
        if let State::Claiming(claim) = self.state.clone()
            && claim.phase == ClaimPhase::Recording
        {
            self.prepare(now, *claim, out);
        }
    }

    /// What an earlier run left half recorded stands now: look again.
    pub(crate) fn claim_settled(&mut self, out: &mut Effects) {
        if let State::Claiming(claim) = self.state.clone()
            && claim.phase == ClaimPhase::Recording
        {
            self.order_again(*claim, Again::Look, out);
        }
    }

    pub(crate) fn claim_not_recorded(&mut self, now: Micros) {
        if let State::Claiming(claim) = self.state.clone()
            && claim.phase == ClaimPhase::Recording
        {
            self.pause_claim(now, *claim, Again::Look);
        }
    }

    /// The state a serving node rests in, by what it holds and what it misses.
    pub(crate) fn rest(&mut self, now: Micros, out: &mut Effects) {
        let missed = |pool: &PoolId| self.owner(*pool) == Some(self.config.node) && !self.is_holding(*pool);
        for pool in self.config.pools.keys().copied().filter(missed).collect::<Vec<_>>() {
            self.refuse(now, pool, Alarm::PoolRefused(pool), out);
        }
        if self.serving_word() == StateWord::Takeover {
            self.enter(State::Takeover(Exclusive::Resting));
        } else if self.homes_away().is_empty() {
            self.enter(State::Up);
        } else {
            self.enter(State::GiveWait(GiveWait::Waiting));
        }
    }
}
