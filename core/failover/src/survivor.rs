//! The serving node: UP, TAKEOVER, RELEASED, and what it makes of the partner's signs.
//!
//! Not here: the hand-off itself ([`crate::hand_off`]). The one idea: the survivor goes on serving in all of these; what changes is only
//! what the partner may see of the disks.

use std::collections::BTreeSet;

use crate::claim::{Origin, Route};
use crate::config::{AutomaticGiveback, OnEnd};
use crate::effect::{Alarm, Effect, Effects, FenceKind, NoForecast, Withheld};
use crate::hand_off::Why;
use crate::machine::{Machine, State};
use crate::page::{Page, PoolState, StateWord, WantHow};
use crate::timeline::Step;
use crate::timers::Timer;
use crate::watch::Signs;
use crate::words::{Incarnation, Micros, Op, PoolId};

/// TAKEOVER.
#[derive(Debug, Clone, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub enum Exclusive {
    /// Nothing to do but serve.
    Resting,
    /// GIVEWAIT was read: the exclusive reservations are released. Ends with `ReservationsReleased`.
    Releasing {
        /// Of the order.
        op: Op,
        /// For whom.
        to: Incarnation,
    },
    /// The repaired incarnation is gone: back to exclusive. Ends with `ReservationsRestored`.
    Restoring {
        /// Of the order.
        op: Op,
    },
}

/// What follows when the partner reaches MBWAIT.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub enum AfterMailboxWait {
    /// The giveback, as the configuration says.
    Configured,
    /// The giveback when the operator asks: these pools were taken on request.
    OnRequest,
    /// The giveback, when its delay is over.
    Delayed,
    /// The giveback: its delay is over.
    Due,
}

/// RELEASED.
#[derive(Debug, Clone, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct Released {
    /// The incarnation that may read the disks and register on the lock disks.
    pub to: Incarnation,
    /// What follows.
    pub then: AfterMailboxWait,
}

impl Released {
    /// Released to an incarnation.
    #[must_use]
    pub fn new(to: Incarnation, then: AfterMailboxWait) -> Self {
        Self { to, then }
    }
}

impl Machine {
    /// What silence, or its end, means in the state this node is in. Called at the end of every step.
    pub(crate) fn judge_partner(&mut self, now: Micros, out: &mut Effects) {
        if self.watch.is_rejected() {
            self.raise_alarm(Alarm::PageRejected, out);
        }
        let signs = self.watch.signs(now, &self.config);
        self.judge_alert(now, signs, out);
        match signs {
            Signs::Alive => {
                self.clear_alarm(Alarm::InterconnectDown, out);
                self.clear_alarm(Alarm::PartnerDown, out);
                self.clear_withheld(out);
            }
            Signs::HeartbeatOnly => {
                if self.watch.page_silence(now) >= self.config.timing.interconnect_alarm {
                    self.raise_alarm(Alarm::InterconnectDown, out);
                }
            }
            Signs::Silent => self.partner_silent(now, out),
            Signs::NotKnown => {}
        }
    }

    fn partner_silent(&mut self, now: Micros, out: &mut Effects) {
        match self.state.clone() {
            State::Booting => self.begin_contest(Origin::Boot, out),
            State::GiveWait(_) | State::DiskInit(_) | State::MailboxWait => {
                out.push(Effect::Timeline(Step::PartnerLost));
                self.begin_contest(Origin::BringUp, out);
            }
            State::Up => match self.is_left_alone() {
                Some(why) => self.leave_alone(why, out),
                None => self.partner_died(now, out),
            },
            State::Takeover(Exclusive::Resting) => match self.is_left_alone().filter(|_| self.has_partner_pools()) {
                Some(why) => self.leave_alone(why, out),
                None => self.partner_died(now, out),
            },
            State::Takeover(Exclusive::Releasing { .. }) | State::Released(_) => {
                out.push(Effect::Timeline(Step::PartnerLost));
                self.raise_alarm(Alarm::PartnerDown, out);
                self.take_release_back(now, out);
            }
            State::HandingOff(hand_off) => self.receiver_lost(now, *hand_off, out),
            State::Wanting(wanting) => self.give_up_wanting(now, &wanting, NoForecast::PartnerSilent, out),
            // A restoration goes on; a claim is paced by itself and verified at its end; a stop is a stop.
            State::Takeover(Exclusive::Restoring { .. })
            | State::Claiming(_)
            | State::Halting(_)
            | State::Off
            | State::Ended => {}
        }
    }

    fn partner_died(&mut self, _now: Micros, out: &mut Effects) {
        self.raise_alarm(Alarm::PartnerDown, out);
        #[cfg(feature = "mutants")]
        if crate::mutants::is_on(crate::mutants::Mutant::LeaveOrphans) {
            return;
        }
        // Pools whose records cannot be judged now are contested when they can.
        let theirs = |pool: &PoolId| {
            let basis = self.survey.as_ref().and_then(|survey| survey.standing(*pool).winner_basis());
            self.owner(*pool) != Some(self.config.node) && basis.is_some()
        };
        if self.config.pools.keys().any(theirs) {
            out.push(Effect::Timeline(Step::PartnerLost));
            self.begin_contest(Origin::Service, out);
        }
    }

    /// Whether the partner has ended in a way that the configuration says not to take over after. Only while this run has seen it say so:
    /// whoever starts and finds nobody takes over.
    pub(crate) fn is_left_alone(&self) -> Option<Withheld> {
        let policy = &self.config.policy;
        match self.watch.page()?.content.state {
            StateWord::Halted if policy.on_halt == OnEnd::Leave => Some(Withheld::Halted),
            StateWord::Panicked if policy.on_panic == OnEnd::Leave => Some(Withheld::Panicked),
            _ => None,
        }
    }

    fn leave_alone(&mut self, why: Withheld, out: &mut Effects) {
        if self.has_partner_pools() && !self.alarms.contains(&Alarm::TakeoverWithheld(why)) {
            out.push(Effect::Timeline(Step::PartnerLost));
            out.push(Effect::Timeline(Step::TakeoverWithheld(why)));
            self.raise_alarm(Alarm::TakeoverWithheld(why), out);
        }
    }

    /// Whether the records give any pool to the partner.
    pub(crate) fn has_partner_pools(&self) -> bool {
        self.config.pools.keys().any(|pool| self.owner(*pool) == Some(self.config.partner()))
    }

    pub(crate) fn clear_withheld(&mut self, out: &mut Effects) {
        for why in [Withheld::Halted, Withheld::Panicked] {
            self.clear_alarm(Alarm::TakeoverWithheld(why), out);
        }
    }

    pub(crate) fn page_read_up(&mut self, _now: Micros, page: &Page, out: &mut Effects) {
        if page.content.state == StateWord::Up {
            self.forget_refusals(out);
            self.guard_own_pools(out);
        }
        // BOOTING or GIVEWAIT of a partner that the records still give its pools is acknowledged by the page itself and serves itself.
        let Some(want) = page.content.want else { return };
        if self.wants_answered == Some((page.incarnation, want.number)) {
            return;
        }
        self.wants_answered = Some((page.incarnation, want.number));
        let wanted = page.content.pools.iter().filter(|pool| pool.wanted).map(|pool| pool.id);
        let mut pools: BTreeSet<PoolId> = wanted.filter(|pool| self.owner(*pool) == Some(self.config.node)).collect();
        if pools.iter().any(|pool| self.is_holding(*pool) && !self.is_serving(*pool)) {
            // One is frozen, to be looked at: it is all or nothing, and nothing is vetoed.
            pools.clear();
        }
        if want.how != WantHow::DryRun {
            out.push(Effect::Timeline(Step::WantRead { request: want.number }));
        }
        let why = Why::Wanted { number: want.number, how: want.how };
        self.begin_hand_off(page.incarnation, pools, why, None, out);
    }

    /// Own pools that a contest left exclusive are readable again for a partner that is up: it has to look at their disks when it is asked to
    /// take them over. One that has pools of its own was released to while it waited for them.
    fn guard_own_pools(&mut self, out: &mut Effects) {
        let pools = self.exclusive_pools();
        if pools.is_empty() || self.guarding.is_some() || self.timers.is_set(Timer::Retry) {
            return;
        }
        let op = self.op();
        self.guarding = Some(op);
        out.push(Effect::ReleaseReservations { op, pools });
    }

    fn exclusive_pools(&self) -> Vec<PoolId> {
        self.held_pools().filter(|pool| self.here[pool].fence == Some(FenceKind::Exclusive)).collect()
    }

    fn pools_guarded(&mut self, now: Micros, released: u32, of: u32) {
        self.guarding = None;
        // Whatever was contested since is to be as the contest leaves it.
        if self.state != State::Up {
            return;
        }
        if released < of {
            return self.retry_after(now, self.config.timing.bring_up_retry);
        }
        self.set_fences(FenceKind::WriteGuard);
    }

    pub(crate) fn is_serving(&self, pool: PoolId) -> bool {
        self.here.get(&pool).is_some_and(|here| here.state == PoolState::Serving)
    }

    pub(crate) fn page_read_takeover(&mut self, now: Micros, exclusive: &Exclusive, page: &Page, out: &mut Effects) {
        match exclusive {
            Exclusive::Resting if page.content.state == StateWord::GiveWait && !self.timers.is_set(Timer::Retry) => {
                self.release(page.incarnation, out);
            }
            Exclusive::Resting => {}
            Exclusive::Releasing { to, .. } if *to != page.incarnation => self.take_release_back(now, out),
            // Answers are on their way.
            Exclusive::Releasing { .. } | Exclusive::Restoring { .. } => {}
        }
    }

    /// The partner's pools, and own ones that a contest left exclusive.
    fn pools_to_release(&self) -> Vec<PoolId> {
        let guest = |pool: &PoolId| self.home(*pool) == Some(self.config.partner());
        let exclusive = |pool: &PoolId| self.here[pool].fence == Some(FenceKind::Exclusive);
        self.held_pools().filter(|pool| guest(pool) || exclusive(pool)).collect()
    }

    /// RELEASED was announced and the partner still waits.
    pub(crate) fn release_again(&mut self, _now: Micros, out: &mut Effects) {
        if let State::Released(released) = self.state.clone()
            && released.then != AfterMailboxWait::OnRequest
        {
            self.release(released.to, out);
        }
    }

    fn release(&mut self, to: Incarnation, out: &mut Effects) {
        let (op, pools) = (self.op(), self.pools_to_release());
        out.push(Effect::ReleaseReservations { op, pools });
        self.enter(State::Takeover(Exclusive::Releasing { op, to }));
    }

    pub(crate) fn reservations_released(&mut self, now: Micros, op: Op, released: u32, of: u32, out: &mut Effects) {
        if self.guarding == Some(op) {
            return self.pools_guarded(now, released, of);
        }
        let State::Takeover(Exclusive::Releasing { op: mine, to }) = self.state else { return };
        if mine != op {
            return;
        }
        if released < of {
            self.raise_alarm(Alarm::ReleaseIncomplete, out);
            self.enter(State::Takeover(Exclusive::Resting));
            return self.retry_after(now, self.config.timing.bring_up_retry);
        }
        self.clear_alarm(Alarm::ReleaseIncomplete, out);
        self.set_fences(FenceKind::WriteGuard);
        out.push(Effect::Timeline(Step::Released { released, of, incarnation: to }));
        self.vetoes.clear();
        self.enter(State::Released(Released::new(to, AfterMailboxWait::Configured)));
    }

    /// What was refused here is served by the partner again, as the records say.
    fn forget_refusals(&mut self, out: &mut Effects) {
        let partner = Some(self.config.partner());
        for pool in self.config.pools.keys().copied().filter(|pool| self.owner(*pool) == partner).collect::<Vec<_>>() {
            self.clear_alarm(Alarm::PoolRefused(pool), out);
            self.clear_alarm(Alarm::PoolUnusable(pool), out);
        }
    }

    fn set_fences(&mut self, kind: FenceKind) {
        for pool in self.held_pools().collect::<Vec<_>>() {
            if let Some(here) = self.here.get_mut(&pool) {
                (here.fence, here.fence_due) = (Some(kind), Some(kind));
            }
        }
    }

    /// The repaired incarnation is gone or another: nobody may read the disks any more.
    pub(crate) fn take_release_back(&mut self, _now: Micros, out: &mut Effects) {
        let (op, pools) = (self.op(), self.guests());
        out.push(Effect::RestoreReservations { op, pools });
        self.enter(State::Takeover(Exclusive::Restoring { op }));
    }

    pub(crate) fn reservations_restored(&mut self, now: Micros, op: Op, restored: u32, of: u32, out: &mut Effects) {
        if self.state != State::Takeover(Exclusive::Restoring { op }) {
            return;
        }
        out.push(Effect::Timeline(Step::Restored { restored, of }));
        for pool in self.guests() {
            if let Some(here) = self.here.get_mut(&pool) {
                (here.fence, here.fence_due) = (Some(FenceKind::Exclusive), Some(FenceKind::Exclusive));
            }
        }
        self.enter(State::Takeover(Exclusive::Resting));
        if restored < of {
            self.retry_after(now, self.config.timing.bring_up_retry);
        }
    }

    /// A release that did not reach every disk is tried when GIVEWAIT is read next; a restoration at once.
    pub(crate) fn retry_exclusive(&mut self, now: Micros, exclusive: &Exclusive, out: &mut Effects) {
        let page = self.watch.page().cloned();
        let waiting = page.filter(|page| page.content.state == StateWord::GiveWait);
        match (exclusive, waiting) {
            (Exclusive::Resting, Some(page)) if self.watch.signs(now, &self.config) == Signs::Alive => {
                self.release(page.incarnation, out);
            }
            (Exclusive::Resting, _) => self.take_release_back(now, out),
            (Exclusive::Releasing { .. } | Exclusive::Restoring { .. }, _) => {}
        }
    }

    pub(crate) fn page_read_released(&mut self, now: Micros, released: &Released, page: &Page, out: &mut Effects) {
        let on_the_way = match page.content.state {
            StateWord::GiveWait | StateWord::DiskInit | StateWord::MailboxWait => true,
            // It finishes what a planned takeover began.
            StateWord::Giveback => released.then == AfterMailboxWait::OnRequest,
            StateWord::Booting
            | StateWord::Resuming
            | StateWord::Up
            | StateWord::Takeover
            | StateWord::Released
            | StateWord::Halted
            | StateWord::Panicked => false,
        };
        match page.content.state {
            StateWord::GiveWait if !self.timers.is_set(Timer::Release) => {
                self.timers.set(Timer::Release, now.after(self.config.timing.veto_retry));
            }
            StateWord::GiveWait => {}
            _ => self.timers.stop(Timer::Release),
        }
        if page.incarnation != released.to || !on_the_way {
            self.take_release_back(now, out);
        } else if !self.timers.is_set(Timer::Retry) {
            self.consider_giveback(now, released, out);
        }
    }

    /// Starts the giveback if the partner is in MBWAIT and nobody has to be asked, at once or after the delay.
    pub(crate) fn consider_giveback(&mut self, now: Micros, released: &Released, out: &mut Effects) {
        let automatic = matches!(self.config.policy.giveback, AutomaticGiveback::Within { .. });
        if !automatic || !self.is_partner_waiting(released.to) {
            return;
        }
        let by = self.config.policy.giveback_delay;
        match released.then {
            AfterMailboxWait::Configured if by > Micros(0) => {
                out.push(Effect::Timeline(Step::GivebackDelayed { by }));
                self.enter(State::Released(Released::new(released.to, AfterMailboxWait::Delayed)));
                self.timers.set(Timer::Delay, now.after(by));
            }
            AfterMailboxWait::Configured | AfterMailboxWait::Due => {
                let pools = self.guests().into_iter().collect();
                self.begin_hand_off(released.to, pools, Why::Giveback, None, out);
            }
            AfterMailboxWait::OnRequest | AfterMailboxWait::Delayed => {}
        }
    }

    /// The giveback follows, now or when what is under way is done.
    pub(crate) fn delay_is_over(&mut self, now: Micros, out: &mut Effects) {
        match &mut self.state {
            State::Released(released) => {
                released.then = AfterMailboxWait::Due;
                let released = released.clone();
                self.consider_giveback(now, &released, out);
            }
            State::HandingOff(hand_off) => hand_off.then = AfterMailboxWait::Due,
            State::Claiming(claim) => {
                if let Origin::Released(released) = &mut claim.origin {
                    released.then = AfterMailboxWait::Due;
                }
            }
            // Entered since, which took the deadline back.
            State::Off
            | State::Booting
            | State::GiveWait(_)
            | State::DiskInit(_)
            | State::MailboxWait
            | State::Up
            | State::Takeover(_)
            | State::Wanting(_)
            | State::Halting(_)
            | State::Ended => {}
        }
    }

    pub(crate) fn is_partner_waiting(&self, to: Incarnation) -> bool {
        self.watch.page().is_some_and(|page| page.incarnation == to && page.content.state == StateWord::MailboxWait)
    }

    /// The records give this node pools it does not have: a hand-off it had given up waiting for was committed all the same.
    pub(crate) fn claim_what_was_given(&mut self, now: Micros, out: &mut Effects) {
        let given = |pool: &PoolId| {
            self.owner(*pool) == Some(self.config.node)
                && matches!(self.here[pool].state, PoolState::Away | PoolState::Warm | PoolState::Opening)
        };
        let given: BTreeSet<PoolId> = self.config.pools.keys().copied().filter(given).collect();
        let refused = |pool: &PoolId| self.is_refused_here(*pool) && self.owner(*pool) == Some(self.config.node);
        if !given.is_empty() {
            self.try_pools(now, given, out);
        } else if !self.timers.is_set(Timer::Refused) && self.config.pools.keys().any(refused) {
            // Refused while it was this node's before, and given again since.
            self.timers.set(Timer::Refused, now.after(self.config.timing.refused_retry));
        }
    }

    /// Whether this node could not serve this pool when it tried last.
    pub(crate) fn is_refused_here(&self, pool: PoolId) -> bool {
        self.here.get(&pool).is_some_and(|here| here.state == PoolState::Refused)
    }

    /// Pools this node owns and could not serve are tried again.
    pub(crate) fn try_refused(&mut self, now: Micros, out: &mut Effects) {
        let refused =
            |pool: &PoolId| self.here[pool].state == PoolState::Refused && self.owner(*pool) == Some(self.config.node);
        let pools: BTreeSet<PoolId> = self.here.keys().copied().filter(refused).collect();
        if !pools.is_empty() {
            self.try_pools(now, pools, out);
        }
    }

    /// Claims pools the records give this node, now or, if something else is under way, later.
    fn try_pools(&mut self, now: Micros, pools: BTreeSet<PoolId>, out: &mut Effects) {
        let origin = match &self.state {
            State::Up | State::Takeover(Exclusive::Resting) => Some(Origin::Service),
            State::Released(released) => Some(Origin::Released(released.clone())),
            // Something else is under way; later.
            State::Off
            | State::Booting
            | State::Claiming(_)
            | State::GiveWait(_)
            | State::DiskInit(_)
            | State::MailboxWait
            | State::Takeover(Exclusive::Releasing { .. } | Exclusive::Restoring { .. })
            | State::HandingOff(_)
            | State::Wanting(_)
            | State::Halting(_)
            | State::Ended => None,
        };
        match origin {
            Some(origin) => self.begin_claim(origin, Route::HomeAgain, pools, out),
            None => {
                for pool in pools {
                    self.set_here(pool, PoolState::Refused);
                }
                self.timers.set(Timer::Refused, now.after(self.config.timing.refused_retry));
            }
        }
    }

    /// How many automatic givebacks fit the limit now.
    pub(crate) fn is_ping_pong(&mut self, now: Micros) -> bool {
        let AutomaticGiveback::Within { limit, window } = self.config.policy.giveback else { return false };
        self.givebacks.retain(|at| now.since(*at) < window);
        self.givebacks.len() >= limit as usize
    }
}
