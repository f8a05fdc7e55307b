//! What an operator may ask: planned and forced takeover, giveback, an orderly stop; a report of the partner's end is [`crate::alert`]'s.
//!
//! Not here: how any of it is carried out beyond its beginning. The one idea: a request is answered exactly once, also when it comes to
//! nothing.

use std::collections::{BTreeMap, BTreeSet};

use crate::claim::{Origin, Route};
use crate::config::OnEnd;
use crate::desk::Job;
use crate::effect::{Effect, Effects, Immovable, LegsAre, NoForecast, Reply, Veto};
use crate::hand_off::{Asked, Hold, Why};
use crate::input::{Earnest, Health, Input, Request, TakeoverKind};
use crate::machine::{Machine, State};
use crate::page::{DRY_RUN_LAYOUT, Page, PoolState, StateWord, WantAnswer, WantHow};
use crate::survivor::Exclusive;
use crate::timeline::Step;
use crate::timers::Timer;
use crate::watch::Signs;
use crate::words::{MetadataVersion, Micros, NodeId, Op, PoolId, RequestId};

/// How many routine reads of the partner's a halted node waits for, where its partner has to know. Ten: one is enough, and a busy machine
/// may miss some.
const LAST_READS: u64 = 10;

/// A planned takeover asked for here.
#[derive(Debug, Clone, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct Wanting {
    /// Whose answer is due.
    pub request: RequestId,
    /// Which pools.
    pub pools: BTreeSet<PoolId>,
    /// How it is meant.
    pub how: WantHow,
    /// Their disks are being initialised. Ends with `DisksInitialised` or `DiskInitConflicted`; `None` when it is done.
    pub init: Option<Op>,
    /// The request in the page, from then on. Ends with the partner's announcement, its refusal, or the limit.
    pub number: Option<u64>,
}

impl Wanting {
    /// What the partner's page says to the request of this number.
    fn answer_in(&self, number: u64, page: &Page) -> Option<Reply> {
        let vetoes_in = |bits: u32| Veto::ALL.into_iter().filter(move |veto| bits & veto.bit() != 0).collect();
        match page.content.want_answer {
            WantAnswer::Refused(of) if of == number && self.how == WantHow::DryRun => {
                Some(Reply::NoForecast(NoForecast::NoAnswer))
            }
            WantAnswer::Refused(of) if of == number => Some(Reply::Vetoed { vetoes: vetoes_in(page.content.vetoes) }),
            WantAnswer::Judged(judged) if judged.number == number => {
                let vetoes: BTreeSet<Veto> = vetoes_in(judged.vetoes);
                let pools = self.pools.iter().copied().collect();
                Some(match vetoes.iter().all(|veto| veto.is_soft()) {
                    true => Reply::WouldDo { overridden: vetoes, pause: judged.pause, pools, stay: BTreeMap::new() },
                    false => Reply::Vetoed { vetoes },
                })
            }
            WantAnswer::Nothing | WantAnswer::Refused(_) | WantAnswer::Judged(_) => None,
        }
    }
}

/// An orderly stop.
#[derive(Debug, Clone, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct Halting {
    /// Whose answer is due.
    pub request: RequestId,
    /// Pools being held. Ends with `PoolHeld` or `PoolNotHeld` of each.
    pub pools: BTreeMap<PoolId, Hold>,
}

impl Machine {
    pub(crate) fn operator_asked(&mut self, now: Micros, request: RequestId, what: Request, out: &mut Effects) {
        match what {
            Request::Takeover { kind: TakeoverKind::Planned, vetoes, earnest } => {
                self.asked_planned_takeover(now, Asked { request, vetoes, earnest }, None, out);
            }
            Request::Takeover { kind: TakeoverKind::Forced, earnest, .. } => {
                self.asked_forced_takeover(request, earnest, out);
            }
            Request::Giveback { vetoes, earnest } => self.asked_giveback(Asked { request, vetoes, earnest }, None, out),
            Request::Halt => self.asked_halt(now, request, out),
            Request::PartnerLost => self.asked_partner_lost(now, request, out),
            Request::TakeoverOf { pools, vetoes, earnest } => match self.immovable(&pools, self.config.partner()) {
                Some(reply) => self.answer(request, reply, out),
                None => self.asked_planned_takeover(now, Asked { request, vetoes, earnest }, Some(pools), out),
            },
            Request::GivebackOf { pools, vetoes, earnest } => match self.immovable(&pools, self.config.node) {
                Some(reply) => self.answer(request, reply, out),
                None => self.asked_giveback(Asked { request, vetoes, earnest }, Some(pools), out),
            },
        }
    }

    /// Why just these pools of the partner cannot be moved away from `from`, if they cannot. Those that share a target go together where
    /// commands are not forwarded: its clients find all of its volumes where they find one of them.
    fn immovable(&self, pools: &BTreeSet<PoolId>, from: NodeId) -> Option<Reply> {
        let (own, partner) = (self.config.node, self.config.partner());
        let not_there = |pool: PoolId| match self.owner(pool) {
            _ if self.home(pool) == Some(own) => Some(Immovable::OfThisNode),
            None => Some(Immovable::ServedByNobody),
            Some(owner) if owner == partner && self.is_refused_there(pool) => Some(Immovable::ServedByNobody),
            Some(owner) if owner == from => None,
            Some(owner) if owner == own => Some(Immovable::HereAlready),
            Some(_) => Some(Immovable::AtHome),
        };
        let stays = |pool: &PoolId| self.owner(*pool) == Some(from) && !pools.contains(pool);
        let left = self.config.homes_of(partner).find(stays).filter(|_| !self.may_split());
        pools.iter().find_map(|pool| {
            let why = not_there(*pool).or(left.map(|with| Immovable::SharesTarget { with }))?;
            Some(Reply::NotThisPool { pool: *pool, why })
        })
    }

    fn answer(&self, request: RequestId, reply: Reply, out: &mut Effects) {
        out.push(Effect::AnswerOperator { request, reply });
    }

    fn not_now(&self, request: RequestId, out: &mut Effects) {
        self.answer(request, Reply::NotNow { state: self.state_word() }, out);
    }

    fn asked_planned_takeover(
        &mut self,
        now: Micros,
        asked: Asked,
        named: Option<BTreeSet<PoolId>>,
        out: &mut Effects,
    ) {
        let request = asked.request;
        if self.state != State::Up {
            return self.not_now(request, out);
        }
        let mut vetoes = BTreeSet::new();
        let alive = self.watch.signs(now, &self.config) == Signs::Alive;
        let up = self.watch.page().is_some_and(|page| page.content.state == StateWord::Up);
        let older = self.watch.page().is_some_and(|page| page.layout_version < DRY_RUN_LAYOUT);
        let how = match asked.earnest {
            Earnest::Do => asked.vetoes.into(),
            Earnest::DryRun if !alive => return self.no_forecast(request, NoForecast::PartnerSilent, out),
            Earnest::DryRun if older => return self.no_forecast(request, NoForecast::PartnerOlder, out),
            Earnest::DryRun => WantHow::DryRun,
        };
        if !alive || !up {
            vetoes.insert(Veto::PartnerNotReady);
        }
        if self.health == Health::Unfit {
            vetoes.insert(Veto::PartnerUnhealthy);
        }
        let homes = self.config.homes_of(self.config.partner());
        let is_named = |pool: &PoolId| named.as_ref().is_none_or(|named| named.contains(pool));
        let has = |pool: &PoolId| self.owner(*pool) == Some(self.config.partner());
        let pools: BTreeSet<PoolId> = homes.filter(|pool| has(pool) && is_named(pool)).collect();
        if !vetoes.is_empty() {
            return self.answer(request, Reply::Vetoed { vetoes }, out);
        }
        let op = self.op();
        let all: Vec<PoolId> = pools.iter().copied().collect();
        let legs = self.legs_of(&all);
        out.push(Effect::InitialiseDisks { op, pools: all, legs });
        self.enter(State::Wanting(Wanting { request, pools, how, init: Some(op), number: None }));
        self.timers.set(Timer::Limit, now.after(self.config.timing.want_limit));
    }

    fn no_forecast(&self, request: RequestId, why: NoForecast, out: &mut Effects) {
        self.answer(request, Reply::NoForecast(why), out);
    }

    pub(crate) fn wanted_disks_initialised(&mut self, now: Micros, op: Op, wanting: Wanting, inventory: u64) {
        if wanting.init != Some(op) {
            return;
        }
        self.inventory = Some(inventory);
        // The order's number is new in this incarnation, which is all a request's number has to be.
        let wanting = Wanting { init: None, number: Some(op.0), ..wanting };
        self.enter(State::Wanting(wanting));
        self.timers.set(Timer::Limit, now.after(self.config.timing.want_limit));
    }

    pub(crate) fn page_read_wanting(&mut self, now: Micros, wanting: &Wanting, page: &Page, out: &mut Effects) {
        let announced = page.content.announcement.filter(|announced| {
            let current = wanting.pools.iter().all(|pool| announced.generation >= self.generation(*pool));
            announced.to == self.incarnation && current && wanting.how != WantHow::DryRun
        });
        if let Some(announced) = announced {
            let generation = announced.generation;
            out.push(Effect::Timeline(Step::AnnouncementRead { generation }));
            let origin = Origin::Wanted { request: wanting.request };
            self.begin_claim(origin, Route::Committed { generation }, wanting.pools.clone(), out);
        } else if let Some(reply) = wanting.number.and_then(|number| wanting.answer_in(number, page)) {
            self.answer(wanting.request, reply, out);
            self.enter(State::Up);
        } else if !matches!(page.content.state, StateWord::Up | StateWord::Giveback) {
            self.give_up_wanting(now, wanting, NoForecast::NoAnswer, out);
        }
    }

    /// It came to nothing; where only a forecast was asked for, that is why there is none.
    pub(crate) fn give_up_wanting(&mut self, _now: Micros, wanting: &Wanting, why: NoForecast, out: &mut Effects) {
        let reply = match wanting.how {
            WantHow::DryRun => Reply::NoForecast(why),
            WantHow::VetoesCount | WantHow::VetoesOverridden => Reply::GivenUp,
        };
        self.answer(wanting.request, reply, out);
        self.enter(State::Up);
    }

    fn asked_forced_takeover(&mut self, request: RequestId, earnest: Earnest, out: &mut Effects) {
        let origin = match self.state {
            State::Up => Origin::Service,
            State::Takeover(Exclusive::Resting) if self.has_partner_pools() => Origin::Service,
            State::Booting => Origin::Boot,
            State::GiveWait(_) | State::DiskInit(_) | State::MailboxWait => Origin::BringUp,
            State::Off
            | State::Claiming(_)
            | State::Takeover(_)
            | State::Released(_)
            | State::HandingOff(_)
            | State::Wanting(_)
            | State::Halting(_)
            | State::Ended => return self.not_now(request, out),
        };
        if earnest == Earnest::DryRun {
            let pools = self.config.homes_of(self.config.partner()).collect();
            let (overridden, stay) = (BTreeSet::new(), BTreeMap::new());
            return self.answer(request, Reply::WouldDo { overridden, pause: Micros(0), pools, stay }, out);
        }
        // Whatever key the partner has: the operator knows that it is to be stopped. Done means begun; the timeline shows the rest.
        self.watch.forget_key();
        self.clear_withheld(out);
        self.answer(request, Reply::Done, out);
        self.begin_contest(origin, out);
    }

    fn asked_giveback(&mut self, asked: Asked, named: Option<BTreeSet<PoolId>>, out: &mut Effects) {
        match self.state.clone() {
            State::Released(released) if self.is_partner_waiting(released.to) => {
                let mut pools: BTreeSet<PoolId> = self.guests().into_iter().collect();
                pools.retain(|pool| named.as_ref().is_none_or(|named| named.contains(pool)));
                self.begin_hand_off(released.to, pools, Why::Giveback, Some(asked), out);
            }
            State::Released(_) | State::Takeover(Exclusive::Resting | Exclusive::Releasing { .. }) => {
                let vetoes = BTreeSet::from([Veto::PartnerNotReady]);
                self.answer(asked.request, Reply::Vetoed { vetoes }, out);
            }
            State::Off
            | State::Booting
            | State::Claiming(_)
            | State::GiveWait(_)
            | State::DiskInit(_)
            | State::MailboxWait
            | State::Up
            | State::Takeover(Exclusive::Restoring { .. })
            | State::HandingOff(_)
            | State::Wanting(_)
            | State::Halting(_)
            | State::Ended => self.not_now(asked.request, out),
        }
    }

    // ---- orderly stop

    fn asked_halt(&mut self, now: Micros, request: RequestId, out: &mut Effects) {
        match self.state {
            State::Up | State::Takeover(_) | State::Released(_) => self.halt(now, request, out),
            // Nothing is served and nothing is half done.
            State::Booting | State::GiveWait(_) | State::DiskInit(_) | State::MailboxWait => {
                self.halt(now, request, out);
            }
            State::Off
            | State::Claiming(_)
            | State::HandingOff(_)
            | State::Wanting(_)
            | State::Halting(_)
            | State::Ended => self.not_now(request, out),
        }
    }

    fn halt(&mut self, now: Micros, request: RequestId, out: &mut Effects) {
        let mut pools = BTreeMap::new();
        for pool in self.held_pools().collect::<Vec<_>>() {
            let op = self.op();
            pools.insert(pool, Hold::Ordered(op));
            self.set_here(pool, PoolState::Held);
            out.push(Effect::HoldPool { op, pool });
        }
        let halting = Halting { request, pools };
        self.enter(State::Halting(halting.clone()));
        self.timers.set(Timer::Limit, now.after(self.config.timing.hold_limit));
        self.record_halt_if_held(now, halting, out);
    }

    pub(crate) fn halting_held(
        &mut self,
        now: Micros,
        mut halting: Halting,
        op: Op,
        pool: PoolId,
        at: (MetadataVersion, LegsAre),
        out: &mut Effects,
    ) {
        if halting.pools.get(&pool) != Some(&Hold::Ordered(op)) {
            return;
        }
        halting.pools.insert(pool, Hold::Held(at.0, at.1));
        let limit = self.timers.limit();
        self.enter(State::Halting(halting.clone()));
        if let Some(limit) = limit {
            self.timers.set(Timer::Limit, limit);
        }
        self.record_halt_if_held(now, halting, out);
    }

    fn record_halt_if_held(&mut self, now: Micros, halting: Halting, out: &mut Effects) {
        let held: BTreeMap<PoolId, (MetadataVersion, LegsAre)> = halting
            .pools
            .iter()
            .filter_map(|(pool, hold)| match hold {
                Hold::Held(version, legs_are) => Some((*pool, (*version, *legs_are))),
                Hold::Ordered(_) => None,
            })
            .collect();
        if held.len() < halting.pools.len() {
            return;
        }
        if held.is_empty() {
            return self.halt_recorded(now, out);
        }
        if self.desk.is_idle() {
            self.desk.ask(Job::Halt(held));
        } else {
            self.retry_after(now, self.config.timing.poll_brisk);
        }
    }

    pub(crate) fn retry_halt(&mut self, now: Micros, halting: Halting, out: &mut Effects) {
        self.record_halt_if_held(now, halting, out);
    }

    /// Recorded or not, everything is flushed: at worst the next owner resyncs.
    pub(crate) fn halt_recorded(&mut self, now: Micros, out: &mut Effects) {
        let State::Halting(halting) = self.state.clone() else { return };
        self.answer(halting.request, Reply::Done, out);
        self.desk.set_halted();
        let is_read = self.watch.signs(now, &self.config) == Signs::Alive;
        if is_read && self.config.policy.on_halt == OnEnd::Leave {
            self.timers.set(Timer::Limit, now.after(Micros(self.config.timing.poll_routine.0 * LAST_READS)));
        } else {
            self.leave(out);
        }
    }

    /// Halted, and the process goes on only so that the partner can read that: it would take a process that is merely gone for dead.
    pub(crate) fn take_halted(&mut self, now: Micros, input: &Input, out: &mut Effects) {
        let is_over = match input {
            Input::PartnerPageRead(page) => page
                .content
                .acknowledgement
                .is_some_and(|seen| seen.incarnation == self.incarnation && seen.state == StateWord::Halted),
            Input::TimerExpired => self.timers.take_due(now).contains(&Timer::Limit),
            // Nothing else matters any more.
            _ => false,
        };
        if is_over {
            self.leave(out);
        }
    }

    fn leave(&mut self, out: &mut Effects) {
        self.enter(State::Ended);
        self.publish(out);
        out.push(Effect::Halt);
    }

    /// It does not come to rest: go on serving.
    pub(crate) fn halt_limit(&mut self, now: Micros, halting: &Halting, out: &mut Effects) {
        for pool in halting.pools.keys() {
            self.set_here(*pool, PoolState::Serving);
            out.push(Effect::ResumePool { pool: *pool });
        }
        self.answer(halting.request, Reply::GivenUp, out);
        self.rest(now, out);
    }
}
