//! The failover machine of one node: facts in, orders out.
//!
//! Problem: two nodes share disks; at any moment at most one of them may write to a pool, and after any failure one of them has to
//! serve it. Idea: the records on the lock disks say whose a pool is, the reservations on its disks make it so, and a node serves
//! only after it has *seized* (own key on a majority of lock disks, its claim recorded, the disks fenced) and *then verified* (one
//! more look at the lock disks). Whichever of two racers registers or records second meets the other at its verification, so no
//! two can pass. Everything about time only decides when something is tried.
//!
//! Not here: any input or output. Each phase has its file: [`crate::boot`] finds out, [`crate::claim`] seizes and verifies,
//! [`crate::bring_up`] is the repaired node's way, [`crate::survivor`] the other side of it, [`crate::hand_off`] the commit,
//! [`crate::operator`] requests, [`crate::victim`] how a node learns that it has lost, [`crate::desk`] writes records.
//!
//! What can fail: anything, at any point; the answer is always one of: try again, go back one phase while still serving, or
//! start again as a fresh incarnation. Rejected: leases, quorum services, a message protocol between the nodes.

use std::collections::{BTreeMap, BTreeSet};

use crate::bring_up::{DiskInit, GiveWait};
use crate::claim::{Claim, Origin};
use crate::config::Config;
use crate::desk::Desk;
use crate::effect::{Alarm, Effect, Effects, FenceKind, NoForecast, PollPace, RestartReason, Veto};
use crate::hand_off::HandOff;
use crate::input::{Health, Input};
use crate::key::ReservationKey;
use crate::operator::{Halting, Wanting};
use crate::page::{Announcement, PageContent, PoolState, StateWord, WantAnswer};
use crate::record::PoolEntry;
use crate::survey::Survey;
use crate::survivor::{AfterMailboxWait, Exclusive, Released};
use crate::timeline::Step;
use crate::timers::{Timer, Timers};
use crate::watch::Watch;
use crate::words::{Generation, Incarnation, LegSet, MetadataVersion, Micros, NodeId, Op, PoolId};

/// Where a node is.
#[derive(Debug, Clone, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub enum State {
    /// Before `Started`.
    Off,
    /// Finds out what the records say and whether the partner lives.
    Booting,
    /// On the way to serve some pools: seizes, then verifies.
    Claiming(Box<Claim>),
    /// The records give own pools to the partner: waits for its release.
    GiveWait(GiveWait),
    /// Initialises disks while the partner serves.
    DiskInit(DiskInit),
    /// Ready to take its pools.
    MailboxWait,
    /// Serves its own pools.
    Up,
    /// Serves the partner's too, exclusively.
    Takeover(Exclusive),
    /// Serves the partner's too; the partner's incarnation may read their disks.
    Released(Released),
    /// Hands pools over.
    HandingOff(Box<HandOff>),
    /// Asks the partner for its pools.
    Wanting(Wanting),
    /// Stops in an orderly way.
    Halting(Halting),
    /// Restart or Halt was ordered: nothing is answered any more.
    Ended,
}

impl State {
    /// Whether the giveback that follows is being delayed, whatever else is done meanwhile.
    fn delays_giveback(&self) -> bool {
        let then = match self {
            Self::Released(released) => released.then,
            Self::HandingOff(hand_off) => hand_off.then,
            Self::Claiming(claim) => match &claim.origin {
                Origin::Released(released) => released.then,
                _ => return false,
            },
            _ => return false,
        };
        then == AfterMailboxWait::Delayed
    }
}

/// Whether this incarnation is registered on the lock disks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub enum Membership {
    /// Not registered, or not on a majority.
    Outside,
    /// Registered on a majority; its key missing there means it has lost.
    Registered,
}

/// What this node does with a pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct Here {
    /// As its page says.
    pub state: PoolState,
    /// The fence it set and saw.
    pub fence: Option<FenceKind>,
    /// The fence it last set out to make, seen or not; a release takes it back to the write guard.
    pub fence_due: Option<FenceKind>,
    /// Generation in the keys of that fence; a leg recorded bad since has a newer one and no new keys.
    pub key_generation: Generation,
    /// Metadata version last heard of.
    pub metadata_version: MetadataVersion,
}

/// The machine of one node.
#[derive(Debug, Clone, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct Machine {
    pub(crate) config: Config,
    pub(crate) incarnation: Incarnation,
    pub(crate) state: State,
    pub(crate) watch: Watch,
    pub(crate) desk: Desk,
    pub(crate) here: BTreeMap<PoolId, Here>,
    pub(crate) timers: Timers,
    pub(crate) membership: Membership,
    /// Lock disks this incarnation has been registered on.
    pub(crate) joined: BTreeSet<usize>,
    /// The order that joins those that were out of reach before.
    pub(crate) rejoin: Option<Op>,
    pub(crate) survey: Option<Survey>,
    pub(crate) listening: [bool; 2],
    pub(crate) health: Health,
    pub(crate) inventory: Option<u64>,
    pub(crate) vetoes: BTreeSet<Veto>,
    pub(crate) announcement: Option<Announcement>,
    pub(crate) doubts: BTreeMap<PoolId, Option<Op>>,
    /// The order that gives own pools the write guard which a contest left exclusive.
    pub(crate) guarding: Option<Op>,
    pub(crate) wants_answered: Option<(Incarnation, u64)>,
    pub(crate) want_answer: WantAnswer,
    pub(crate) givebacks: Vec<Micros>,
    pub(crate) alarms: BTreeSet<Alarm>,
    pace: PollPace,
    pub(crate) published: Option<PageContent>,
    pub(crate) next_op: u64,
    pub(crate) last_step: Option<Micros>,
}

impl Machine {
    /// A machine at the start of a process.
    ///
    /// # Panics
    /// On a configuration no pair can have: it was refused when it was read.
    #[must_use]
    pub fn new(config: Config, incarnation: Incarnation) -> Self {
        assert!(config.lock_disks == 1 || config.lock_disks == 3, "a pair has 1 or 3 lock disks");
        assert!(config.pools.len() <= crate::config::POOLS_MAX, "a pair has at most 60 pools");
        assert!(incarnation != Incarnation::NONE, "an incarnation is not zero");
        let away = Here {
            state: PoolState::Away,
            fence: None,
            fence_due: None,
            key_generation: Generation(0),
            metadata_version: MetadataVersion(0),
        };
        Self {
            incarnation,
            state: State::Off,
            watch: Watch::new(config.lock_disks),
            desk: Desk::default(),
            here: config.pools.keys().map(|pool| (*pool, away)).collect(),
            timers: Timers::default(),
            membership: Membership::Outside,
            joined: BTreeSet::new(),
            rejoin: None,
            survey: None,
            listening: [false; 2],
            health: Health::Good,
            inventory: None,
            vetoes: BTreeSet::new(),
            announcement: None,
            doubts: BTreeMap::new(),
            guarding: None,
            wants_answered: None,
            want_answer: WantAnswer::Nothing,
            givebacks: Vec::new(),
            alarms: BTreeSet::new(),
            pace: PollPace::Routine,
            published: None,
            next_op: 1,
            last_step: None,
            config,
        }
    }

    /// Takes one fact and pushes the orders that follow from it.
    pub fn step(&mut self, now: Micros, input: Input, out: &mut Effects) {
        if self.state == State::Ended {
            return;
        }
        self.notice_own_gap(now, out);
        self.take(now, input, out);
        if self.state == State::Off || self.state == State::Ended {
            return;
        }
        self.judge_partner(now, out);
        self.write_next(now, out);
        self.set_pace(out);
        if self.state != State::Ended {
            self.timers.set(Timer::Signs, self.watch.next_judgement(now, &self.config));
            self.publish(out);
        }
    }

    /// When [`Input::TimerExpired`] is due.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Micros> {
        if self.state == State::Ended { None } else { self.timers.next() }
    }

    /// Where the node is.
    #[must_use]
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Which run this is.
    #[must_use]
    pub fn incarnation(&self) -> Incarnation {
        self.incarnation
    }

    /// What it was told at its start.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// What this node does with a pool.
    #[must_use]
    pub fn pool(&self, pool: PoolId) -> Option<Here> {
        self.here.get(&pool).copied()
    }

    /// What this node knows of a pool's record.
    #[must_use]
    pub fn entry(&self, pool: PoolId) -> Option<&PoolEntry> {
        self.desk.entries.get(&pool)
    }

    /// Alarms that stand.
    #[must_use]
    pub fn alarms(&self) -> &BTreeSet<Alarm> {
        &self.alarms
    }

    /// The partner's page as last read in this life.
    #[must_use]
    pub fn partner_page(&self) -> Option<&crate::page::Page> {
        self.watch.page()
    }

    /// Whether the portals of this node's identity listen here.
    #[must_use]
    pub fn listens_for(&self, identity: NodeId) -> bool {
        self.listening[identity.index()]
    }

    /// Whether this incarnation is registered on the lock disks.
    #[must_use]
    pub fn membership(&self) -> Membership {
        self.membership
    }

    /// When the giveback that is being delayed is due; `None` if none is.
    #[must_use]
    pub fn giveback_due(&self) -> Option<Micros> {
        self.timers.delay()
    }

    /// Counts every moment inside from `by` later: for a model checker, which wants equal situations to be equal.
    pub fn shift_back(&mut self, by: Micros) {
        self.timers.shift_back(by);
        self.watch.shift_back(by);
        self.last_step = self.last_step.map(|at| at.since(by));
        for at in &mut self.givebacks {
            *at = at.since(by);
        }
    }

    /// A node that was stopped for a while knows nothing of its partner and must look at itself first.
    fn notice_own_gap(&mut self, now: Micros, out: &mut Effects) {
        let gap = self.last_step.is_some_and(|last| now.since(last) > self.config.timing.own_gap);
        self.last_step = Some(now);
        if gap && self.state != State::Off {
            self.watch.start_over(now);
            let op = self.op();
            out.push(Effect::Survey { op });
        }
    }

    fn take(&mut self, now: Micros, input: Input, out: &mut Effects) {
        match input {
            Input::Started => self.started(now, out),
            // Nothing is known and nothing was ordered before the start.
            _ if self.state == State::Off => {}
            input if self.desk.is_halted() => self.take_halted(now, &input, out),
            Input::PartnerPageRead(page) => self.page_read(now, *page, out),
            Input::PartnerPageUnreadable(why) => self.page_unreadable(why, out),
            Input::PartnerLinkClosed => self.page_unreadable(crate::input::Unreadable::Closed, out),
            Input::Surveyed { op, survey } => self.surveyed(now, op, *survey, out),
            Input::LockDisksJoined { op, disks } => self.lock_disks_joined(now, op, &disks, out),
            Input::LockDisksContested { op, disks } => self.lock_disks_contested(now, op, &disks, out),
            Input::RecordWritten { op, disks } => self.record_written(now, op, &disks, out),
            Input::PoolFenced { op, pool, outcome } => self.pool_fenced(now, op, pool, outcome, out),
            Input::ReservationsReleased { op, released, of } => self.reservations_released(now, op, released, of, out),
            Input::ReservationsRestored { op, restored, of } => self.reservations_restored(now, op, restored, of, out),
            Input::ReleaseChecked { op, open, of } => self.release_checked(now, op, open, of, out),
            Input::DisksInitialised { op, inventory, found, of } => {
                self.disks_initialised(now, op, inventory, (found, of), out);
            }
            Input::PoolsUnopenable { op, inventory, found, of, pools } => {
                self.pools_unopenable(now, op, inventory, (found, of), &pools, out);
            }
            Input::DiskInitConflicted { op } => self.disk_init_conflicted(now, op, out),
            Input::PoolOpened { op, pool, outcome } => self.pool_opened(now, op, pool, outcome, out),
            Input::PoolHeld { op, pool, metadata_version, legs_are } => {
                self.pool_held(now, op, pool, (metadata_version, legs_are), out);
            }
            Input::PoolNotHeld { op, pool, reason } => self.pool_not_held(now, op, pool, reason, out),
            Input::PortalsOpened { op } => self.portals_opened(now, op, out),
            Input::HandOffPrepared { op, findings } => self.hand_off_prepared(now, op, findings, out),
            Input::LegFailed { pool, mirror, leg } => self.leg_failed(pool, mirror, leg, out),
            Input::LegResynced { pool, mirror, leg } => self.leg_resynced(pool, mirror, leg),
            Input::FenceDoubted { pool } => self.fence_doubted(now, pool, out),
            Input::OperatorAsked { request, what } => self.operator_asked(now, request, what, out),
            Input::TimerExpired => self.timer_expired(now, out),
            Input::ServiceHealthChanged(health) => self.health = health,
        }
    }

    fn timer_expired(&mut self, now: Micros, out: &mut Effects) {
        for timer in self.timers.take_due(now) {
            match timer {
                // The partner is judged at the end of every step; this one only makes sure that there is a step.
                Timer::Signs => {}
                Timer::Retry => self.retry(now, out),
                Timer::Limit => self.limit_passed(now, out),
                Timer::Record => self.desk.end_pause(),
                Timer::Release => self.release_again(now, out),
                Timer::Doubt => self.look_at_doubts(now, out),
                Timer::Refused => self.try_refused(now, out),
                Timer::Delay => self.delay_is_over(now, out),
            }
        }
    }

    /// What failed in this state is tried again.
    fn retry(&mut self, now: Micros, out: &mut Effects) {
        match self.state.clone() {
            State::Claiming(claim) => self.retry_claim(now, *claim, out),
            State::GiveWait(_) => self.look_for_release(now, out),
            State::Takeover(exclusive) => self.retry_exclusive(now, &exclusive, out),
            State::Released(released) => self.consider_giveback(now, &released, out),
            State::HandingOff(hand_off) => self.retry_hand_off(now, *hand_off, out),
            State::Halting(halting) => self.retry_halt(now, halting, out),
            State::MailboxWait => self.retry_mailbox_wait(now),
            // These wait for facts that come by themselves: surveys and pages.
            State::Off | State::Booting | State::DiskInit(_) | State::Up | State::Wanting(_) | State::Ended => {}
        }
    }

    /// A phase has taken too long.
    fn limit_passed(&mut self, now: Micros, out: &mut Effects) {
        match self.state.clone() {
            State::HandingOff(hand_off) => self.hand_off_limit(now, *hand_off, out),
            State::Wanting(wanting) => self.give_up_wanting(now, &wanting, NoForecast::NoAnswer, out),
            State::Halting(halting) => self.halt_limit(now, &halting, out),
            // No phase of these has a limit: leaving a state stops its deadlines.
            State::Off
            | State::Booting
            | State::Claiming(_)
            | State::GiveWait(_)
            | State::DiskInit(_)
            | State::MailboxWait
            | State::Up
            | State::Takeover(_)
            | State::Released(_)
            | State::Ended => {}
        }
    }

    fn page_read(&mut self, now: Micros, page: crate::page::Page, out: &mut Effects) {
        let news = self
            .watch
            .page()
            .is_none_or(|last| (last.incarnation, last.content.state) != (page.incarnation, page.content.state));
        if news {
            let (state, incarnation) = (page.content.state, page.incarnation);
            out.push(Effect::Timeline(Step::PartnerRead { state, incarnation }));
        }
        if self.watch.page().is_none_or(|last| last.incarnation != page.incarnation) {
            // Another run counts its requests from the beginning: it must not find an answer to an earlier one's.
            self.want_answer = WantAnswer::Nothing;
        }
        self.desk.raise_floor(page.content.generation);
        self.watch.page_read(now, page.clone(), &self.config);
        if news && self.watch.has_ended() && self.watch.is_blind(now, &self.config) {
            let op = self.op();
            out.push(Effect::Survey { op });
        }
        self.clear_alarm(Alarm::PageRejected, out);
        match self.state.clone() {
            State::Booting => self.decide_boot(now, out),
            State::Claiming(claim) => self.page_read_claiming(now, &claim, out),
            State::GiveWait(wait) => self.page_read_give_wait(now, &wait, &page, out),
            State::DiskInit(_) => self.page_read_disk_init(now, &page, out),
            State::MailboxWait => self.page_read_mailbox_wait(now, &page, out),
            State::Up => self.page_read_up(now, &page, out),
            State::Takeover(exclusive) => self.page_read_takeover(now, &exclusive, &page, out),
            State::Released(released) => self.page_read_released(now, &released, &page, out),
            State::HandingOff(hand_off) => self.page_read_handing_off(now, *hand_off, &page, out),
            State::Wanting(wanting) => self.page_read_wanting(now, &wanting, &page, out),
            // Nothing of the partner's changes an orderly stop.
            State::Off | State::Halting(_) | State::Ended => {}
        }
    }

    fn page_unreadable(&mut self, why: crate::input::Unreadable, out: &mut Effects) {
        if self.watch.page_unreadable(why) {
            let op = self.op();
            out.push(Effect::Survey { op });
        }
    }

    fn surveyed(&mut self, now: Micros, op: Option<Op>, survey: Survey, out: &mut Effects) {
        self.watch.surveyed(now, op, &survey, &self.config);
        self.desk.raise_floor(survey.highest_generation());
        let node = self.config.node;
        self.desk.raise_sequence(survey.highest_sequence(node), survey.standing_sequence(node));
        self.judge_lock_disks(&survey, out);
        self.survey = Some(survey.clone());
        if self.has_lost(&survey, out) {
            return;
        }
        self.absorb(&survey);
        self.join_the_rest(&survey, out);
        match self.state.clone() {
            State::Booting => self.decide_boot(now, out),
            State::Claiming(claim) => self.surveyed_claiming(now, op, *claim, &survey, out),
            State::GiveWait(_) | State::DiskInit(_) | State::MailboxWait => self.surveyed_bring_up(now, &survey, out),
            State::HandingOff(hand_off) => self.surveyed_handing_off(now, op, *hand_off, &survey, out),
            State::Up | State::Takeover(_) | State::Released(_) => self.claim_what_was_given(now, out),
            // They serve and were judged above; what the partner has is acted on when its signs fail.
            State::Wanting(_) | State::Halting(_) => {}
            State::Off | State::Ended => {}
        }
    }

    fn judge_lock_disks(&mut self, survey: &Survey, out: &mut Effects) {
        if survey.is_readable() {
            self.clear_alarm(Alarm::LockDisksUnreachable, out);
        } else if self.survey.is_some() {
            // The first look of a run comes before its sessions are made.
            self.raise_alarm(Alarm::LockDisksUnreachable, out);
        }
    }

    /// Takes over what the records say of pools this node does not hold.
    fn absorb(&mut self, survey: &Survey) {
        for pool in self.config.pools.keys().copied().collect::<Vec<_>>() {
            let Some(entry) = survey.standing(pool).known().cloned() else { continue };
            let newer = self.desk.entries.get(&pool).is_none_or(|mine| entry.generation > mine.generation);
            // An entry that stands and is of this node's own making while its answer is not in yet belongs to the desk.
            if newer && !self.is_holding(pool) && !self.desk.is_writing() {
                self.desk.entries.insert(pool, entry);
            }
        }
    }

    // ---- small things every phase uses

    pub(crate) fn op(&mut self) -> Op {
        let op = Op(self.next_op);
        self.next_op += 1;
        op
    }

    /// Enters a state; the deadlines of the one before go with it.
    pub(crate) fn enter(&mut self, state: State) {
        if !state.delays_giveback() {
            self.timers.stop(Timer::Delay);
        }
        self.timers.stop(Timer::Retry);
        self.timers.stop(Timer::Limit);
        self.timers.stop(Timer::Release);
        self.state = state;
    }

    pub(crate) fn retry_after(&mut self, now: Micros, length: Micros) {
        self.timers.set(Timer::Retry, now.after(length));
    }

    pub(crate) fn restart(&mut self, reason: RestartReason, out: &mut Effects) {
        let serving: Vec<PoolId> = self.held_pools().collect();
        out.extend(serving.into_iter().map(|pool| Effect::FreezePool { pool }));
        out.push(Effect::Timeline(Step::Restarting(reason)));
        out.push(Effect::Restart(reason));
        self.enter(State::Ended);
    }

    pub(crate) fn raise_alarm(&mut self, alarm: Alarm, out: &mut Effects) {
        if self.alarms.insert(alarm) {
            out.push(Effect::RaiseAlarm(alarm));
        }
    }

    pub(crate) fn clear_alarm(&mut self, alarm: Alarm, out: &mut Effects) {
        if self.alarms.remove(&alarm) {
            out.push(Effect::ClearAlarm(alarm));
        }
    }

    /// Own key on lock disks.
    pub(crate) fn lock_key(&self) -> ReservationKey {
        ReservationKey::on_lock_disk(self.config.pair, self.config.node, self.incarnation)
    }

    pub(crate) fn home(&self, pool: PoolId) -> Option<NodeId> {
        self.config.pools.get(&pool).map(|pool| pool.home)
    }

    pub(crate) fn owner(&self, pool: PoolId) -> Option<NodeId> {
        self.desk.entries.get(&pool).map(|entry| entry.owner)
    }

    /// Whether this node serves the pool or keeps its commands.
    pub(crate) fn is_holding(&self, pool: PoolId) -> bool {
        self.here.get(&pool).is_some_and(|here| matches!(here.state, PoolState::Serving | PoolState::Held))
    }

    /// The pools this node serves or keeps commands of.
    pub(crate) fn held_pools(&self) -> impl Iterator<Item = PoolId> + '_ {
        self.here.keys().copied().filter(|pool| self.is_holding(*pool))
    }

    /// Own home pools the records give to the partner.
    pub(crate) fn homes_away(&self) -> Vec<PoolId> {
        let homes = self.config.homes_of(self.config.node);
        homes.filter(|pool| self.owner(*pool) == Some(self.config.partner())).collect()
    }

    /// The partner's home pools that the records give to this node.
    pub(crate) fn guests(&self) -> Vec<PoolId> {
        let homes = self.config.homes_of(self.config.partner());
        homes.filter(|pool| self.owner(*pool) == Some(self.config.node)).collect()
    }

    /// Legs recorded good, by pool.
    pub(crate) fn legs_of(&self, pools: &[PoolId]) -> BTreeMap<PoolId, Vec<LegSet>> {
        let entries = pools.iter().filter_map(|pool| self.desk.entries.get(pool));
        entries.map(|entry| (entry.pool, entry.legs.clone())).collect()
    }

    pub(crate) fn set_here(&mut self, pool: PoolId, state: PoolState) {
        if let Some(here) = self.here.get_mut(&pool) {
            here.state = state;
        }
    }

    pub(crate) fn generation(&self, pool: PoolId) -> Generation {
        self.desk.entries.get(&pool).map_or(Generation(0), |entry| entry.generation)
    }

    fn set_pace(&mut self, out: &mut Effects) {
        let pace = self.wanted_pace();
        if pace != self.pace {
            self.pace = pace;
            out.push(Effect::SetPollPace(pace));
        }
    }

    pub(crate) fn publish(&mut self, out: &mut Effects) {
        let content = self.content();
        let asserted = self.published.as_ref().map(|last| last.state);
        if asserted != Some(content.state) {
            out.push(Effect::Timeline(Step::Asserted(content.state)));
        }
        if self.published.as_ref() != Some(&content) {
            self.published = Some(content.clone());
            out.push(Effect::PublishPage(Box::new(content)));
        }
    }

    /// The state word this node shows now.
    #[must_use]
    pub fn state_word(&self) -> StateWord {
        self.content().state
    }
}
