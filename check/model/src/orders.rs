//! The simulated driver: takes a machine's orders as the real one does, without a decision of its own.
//!
//! Not here: the steps of what takes time ([`crate::work`]). The one idea: what takes no time and touches nothing but the node itself is
//! done at once, everything else becomes a task that any other event may come before.

use std::collections::{BTreeMap, BTreeSet};

use understudy_failover::config::OnEnd;
use understudy_failover::effect::{Effect, Effects, LegsAre, RestartReason};
use understudy_failover::fence::{FenceType, Registered};
use understudy_failover::input::{FenceOutcome, Input};
use understudy_failover::invariants::{self, Deeds};
use understudy_failover::key::ReservationKey;
use understudy_failover::last_word::{Cause, last_word};
use understudy_failover::machine::{Machine, State};
use understudy_failover::page::{LAYOUT_VERSION, LiveWords, Page};
use understudy_failover::sim::PAIR;
use understudy_failover::sim::canonical::NOW;
use understudy_failover::survey::KeyMajority;
use understudy_failover::words::{Incarnation, LegIndex, LegSet, NodeId, Op, PoolId};

use crate::laws::Law;
use crate::pair::{Done, Mount, Node, Outstanding, Pair, Served, Task, Work};
use crate::scenes::{Detail, Scene};

/// A state being changed.
pub struct World<'a> {
    /// The bounds.
    pub scene: &'a Scene,
    /// The state.
    pub pair: Pair,
    /// What is told of it, if anybody listens.
    pub lines: Option<Vec<String>>,
}

impl World<'_> {
    /// Tells a line.
    pub fn say(&mut self, line: impl FnOnce() -> String) {
        if let Some(lines) = &mut self.lines {
            lines.push(line());
        }
    }

    /// Feeds one fact to a node's machine and carries out what follows.
    pub fn input(&mut self, node: NodeId, input: Input) {
        self.note_fact(node, &input);
        let mut out = Effects::new();
        let Some(machine) = self.pair.node_mut(node).machine.as_mut() else { return };
        machine.step(NOW, input, &mut out);
        for effect in out {
            self.note_order(node, &effect);
            self.order(node, effect);
        }
    }

    /// Starts a process.
    pub fn start(&mut self, node: NodeId) {
        let config = self.scene.config(node);
        let run = self.pair.node(node).run + 1;
        let incarnation = Incarnation(u64::from(node.code()) << 8 | u64::from(run));
        let pools: Vec<PoolId> = self.pair.pools().collect();
        let fresh = Node {
            run,
            machine: Some(Box::new(Machine::new(config, incarnation))),
            sees: self.pair.node(node).sees,
            ..Node::off(pools.into_iter())
        };
        *self.pair.node_mut(node) = fresh;
        self.input(node, Input::Started);
    }

    /// The process is gone; what it sent may still land.
    pub fn end(&mut self, node: NodeId) {
        let pools: Vec<PoolId> = self.pair.pools().collect();
        let it = self.pair.node_mut(node);
        *it = Node { run: it.run, sees: it.sees, ..Node::off(pools.into_iter()) };
    }

    /// The worker is gone, and its supervisor says so; one that is not spoken for is like [`Self::end`].
    pub fn die(&mut self, node: NodeId) {
        let last = self.page_of(node).map(|page| page.encode());
        let word = last.and_then(|bytes| last_word(&[bytes], (PAIR, node), Cause::Failed, OnEnd::TakeOver));
        self.end(node);
        // As every page here: its counters have moved.
        self.pair.node_mut(node).last_word = word.map(|page| Box::new(Page { sequence: 2, ..page }));
    }

    /// The page in a node's memory now.
    #[must_use]
    pub fn page_of(&self, node: NodeId) -> Option<Page> {
        page_of(self.pair.node(node), node)
    }

    fn task(&mut self, node: NodeId, op: Op, work: Work) {
        self.pair.node_mut(node).tasks.push(Task { op, work });
    }

    fn order(&mut self, node: NodeId, effect: Effect) {
        match effect {
            Effect::Survey { op } => {
                let after = self.pair.node(node).done.fenced.clone();
                self.task(node, op, Work::Survey { after, disks: Vec::new() });
            }
            Effect::JoinLockDisks { op, which, key } => {
                self.task(node, op, Work::Join { key, which, disks: Vec::new() });
            }
            Effect::ContestLockDisks { op, key, entry, victim } => {
                let work = Work::Contest { key, entry, here: entry, victim, stopped: false, disks: Vec::new() };
                self.task(node, op, work);
            }
            Effect::WriteRecord { op, record } => self.task(node, op, Work::Record { record, disks: Vec::new() }),
            Effect::FencePool { op, pool, generation, kind, legs } => {
                let Some(machine) = &self.pair.node(node).machine else { return };
                let own = ReservationKey::on_pool_disk(PAIR, node, 0, generation, machine.incarnation());
                let good = first(&legs);
                let (registered, leg, ends) = (Registered::NotYet, 0, Vec::new());
                self.task(node, op, Work::Fence { pool, own, kind, good, registered, leg, ends });
            }
            Effect::ReleaseReservations { op, pools } => self.retype(node, op, &pools, FenceType::WriteGuard),
            Effect::RestoreReservations { op, pools } => self.retype(node, op, &pools, FenceType::Exclusive),
            Effect::CheckRelease { op, pools, legs } => {
                let legs = self.good_legs(&pools, &legs);
                self.task(node, op, Work::Check { legs });
            }
            Effect::InitialiseDisks { op, pools, legs } => {
                let legs = self.good_legs(&pools, &legs);
                self.task(node, op, Work::Init { legs });
            }
            Effect::OpenPortals { op, .. } => self.task(node, op, Work::Portals),
            Effect::PrepareHandOff { op, pools } => self.task(node, op, Work::Prepare { pools }),
            Effect::StartHeartbeat => self.pair.node_mut(node).beating = true,
            Effect::Restart(_) => self.end(node),
            Effect::Halt => self.halted(node),
            other => self.order_on_pool(node, other),
        }
    }

    fn order_on_pool(&mut self, node: NodeId, effect: Effect) {
        match effect {
            Effect::OpenPool { op, pool, legs_are, legs, .. } => {
                let mount = self.mount(node, pool);
                mount.good = first(&legs);
                mount.equal = legs_are == LegsAre::Equal;
                mount.back = LegSet(0);
                mount.flushed = false;
                self.task(node, op, Work::Open { pool });
            }
            Effect::HoldPool { op, pool } => {
                self.mount(node, pool).served = Served::Held;
                self.task(node, op, Work::Hold { pool });
            }
            Effect::ServePool { pool } | Effect::ResumePool { pool } => {
                self.mount(node, pool).served = Served::Yes;
                self.acknowledge_if_done(node, pool);
            }
            Effect::FreezePool { pool } => self.mount(node, pool).served = Served::Frozen,
            Effect::ClosePool { pool } => *self.mount(node, pool) = Mount::new(),
            Effect::LegDropped { pool, leg, .. } => self.leg_dropped(node, pool, leg),
            Effect::LegTakenBack { pool, leg, .. } => {
                let mount = self.mount(node, pool);
                if mount.back.contains(leg) {
                    mount.good = mount.good.with(leg);
                }
            }
            Effect::Timeline(step) => self.say(|| format!("      {node} {step}")),
            Effect::AnswerOperator { reply, .. } => {
                self.say(|| format!("      {node} answers the operator: {reply:?}"))
            }
            // The page is read out of the machine, the pace is any, alarms and who gets a new connection decide nothing; the others were
            // taken before.
            _ => {}
        }
    }

    /// A node that has halted can still be read until its machine is switched off.
    fn halted(&mut self, node: NodeId) {
        let it = self.pair.node_mut(node);
        it.tasks.clear();
        it.done = Done::default();
        it.late = None;
        it.beating = false;
        it.mounts.values_mut().for_each(|mount| *mount = Mount::new());
    }

    pub(crate) fn mount(&mut self, node: NodeId, pool: PoolId) -> &mut Mount {
        self.pair.node_mut(node).mounts.entry(pool).or_default()
    }

    fn good_legs(&self, pools: &[PoolId], good: &BTreeMap<PoolId, Vec<LegSet>>) -> Vec<(PoolId, u8)> {
        let legs = pools.iter().flat_map(|pool| [(*pool, 0), (*pool, 1)]);
        legs.filter(|(pool, leg)| good.get(pool).is_some_and(|legs| first(legs).contains(LegIndex(*leg)))).collect()
    }

    fn retype(&mut self, node: NodeId, op: Op, pools: &[PoolId], to: FenceType) {
        let mounts = &self.pair.node(node).mounts;
        let legs = pools.iter().flat_map(|pool| [(*pool, 0), (*pool, 1)]);
        let legs = legs.filter(|(pool, leg)| mounts[pool].good.contains(LegIndex(*leg))).collect();
        self.task(node, op, Work::Retype { legs, to, next: 0, done: 0 });
    }

    pub(crate) fn leg_dropped(&mut self, node: NodeId, pool: PoolId, leg: LegIndex) {
        let mount = self.mount(node, pool);
        mount.good = mount.good.without(leg);
        mount.back = mount.back.without(leg);
        if let Some(Outstanding { waiting, unsent, .. }) = &mut mount.outstanding {
            waiting.remove(&leg.0);
            unsent.remove(&leg.0);
        }
        self.acknowledge_if_done(node, pool);
    }

    // ---- what the observer notes

    fn note_fact(&mut self, node: NodeId, input: &Input) {
        match input {
            Input::PoolFenced { pool, outcome: FenceOutcome::Fenced, .. } => {
                let done = &mut self.pair.node_mut(node).done;
                done.fenced.insert(*pool);
                done.verified.remove(pool);
            }
            Input::ReleaseChecked { open, of, .. } => {
                self.pair.node_mut(node).done.release_checked = open == of && *of > 0;
            }
            _ => {}
        }
    }

    /// An ordered survey has been answered.
    pub(crate) fn note_survey(&mut self, node: NodeId, after: BTreeSet<PoolId>, held: KeyMajority) {
        let done = &mut self.pair.node_mut(node).done;
        done.verified = if held == KeyMajority::Held { after } else { BTreeSet::new() };
    }

    fn note_order(&mut self, node: NodeId, effect: &Effect) {
        let verdict = match effect {
            Effect::ServePool { pool } => {
                let deeds = deeds_of(&self.pair.node(node).done, *pool);
                invariants::invariant_served_after_fence_and_verification(node, *pool, &deeds)
                    .map_err(|how| (Law::FenceSeen, how))
            }
            Effect::OpenPortals { identity, .. } => self.portals_after_fence(node, *identity),
            Effect::InitialiseDisks { .. } if self.is_in_disk_init(node) => {
                let deeds = deeds_of(&self.pair.node(node).done, PoolId(0));
                invariants::invariant_release_before_disk_init(node, &deeds).map_err(|how| (Law::ReleaseFirst, how))
            }
            Effect::ClosePortals { identity } => crate::laws::with_view(&self.pair, |view| {
                invariants::invariant_close_only_after_giveback(node, *identity, view)
            })
            .map_err(|how| (Law::CloseLast, how)),
            Effect::Restart(reason) => self.defeat_was_real(node, *reason),
            _ => Ok(()),
        };
        if let Err((law, how)) = verdict {
            self.pair.break_law(law, how);
        }
    }

    fn is_in_disk_init(&self, node: NodeId) -> bool {
        self.pair.node(node).machine.as_ref().is_some_and(|machine| matches!(machine.state(), State::DiskInit(_)))
    }

    fn portals_after_fence(&self, node: NodeId, identity: NodeId) -> Result<(), (Law, String)> {
        let Some(machine) = &self.pair.node(node).machine else { return Ok(()) };
        let fenced = |pool: PoolId| machine.pool(pool).is_some_and(|here| here.fence.is_some());
        // In a hand-off the pools of this identity are committed to this node, and its logins wait.
        let committed = matches!(machine.state(), State::Claiming(claim)
            if matches!(claim.route, understudy_failover::claim::Route::Committed { .. }));
        if committed || machine.config().homes_of(identity).any(fenced) {
            return Ok(());
        }
        Err((Law::PortalsAfterFence, format!("{node} opens the portals of {identity} before any fence was seen")))
    }

    fn defeat_was_real(&self, node: NodeId, reason: RestartReason) -> Result<(), (Law, String)> {
        let Some(machine) = &self.pair.node(node).machine else { return Ok(()) };
        let incarnation = machine.incarnation();
        let lock_key = ReservationKey::on_lock_disk(PAIR, node, incarnation);
        let lock_lost = self.pair.shelf.lock_disks.iter().any(|disk| disk.keys[node.index()] != Some(lock_key));
        let own = |key: Option<ReservationKey>| {
            key.and_then(ReservationKey::parts).is_some_and(|parts| parts.incarnation_low == incarnation.low())
        };
        let mut legs = self.pair.shelf.legs.values().flatten();
        let fence_lost = legs.any(|leg| !own(leg.disk.pr.keys[node.index()]));
        let real = match reason {
            RestartReason::ContestLost | RestartReason::KeyLost => lock_lost,
            RestartReason::FenceLost => fence_lost,
            // Read from records that may have been written over since, or given up rather than lost.
            RestartReason::NewerGeneration | RestartReason::CommitUnsettled | RestartReason::Overtaken => true,
        };
        if real { Ok(()) } else { Err((Law::DefeatReal, format!("{node} gives up ({reason:?}) and has lost nothing"))) }
    }
}

fn first(legs: &[LegSet]) -> LegSet {
    legs.first().copied().unwrap_or(LegSet(0))
}

fn deeds_of(done: &Done, pool: PoolId) -> Deeds {
    let fenced = done.fenced.contains(&pool).then_some((pool, 1));
    let verified = Some((if done.verified.contains(&pool) { 2 } else { 0 }, true));
    Deeds {
        clock: 3,
        fenced: fenced.into_iter().collect(),
        verified,
        release_checked: done.release_checked,
        ..Deeds::default()
    }
}

/// The page in a node's memory.
#[must_use]
pub fn page_of(it: &Node, node: NodeId) -> Option<Page> {
    let Some(machine) = &it.machine else { return it.last_word.as_deref().cloned() };
    let content = machine.shown()?.clone();
    // Read later than whatever was read before: its counters have moved.
    let live = LiveWords { progress: 1, heartbeat: 1, last_completion: 0 };
    let (incarnation, layout_version) = (machine.incarnation(), LAYOUT_VERSION);
    Some(Page { pair: PAIR, node, incarnation, sequence: 2, layout_version, content, live })
}

impl Scene {
    /// Whether steps that touch one disk after another are taken one at a time.
    #[must_use]
    pub fn is_fine(&self) -> bool {
        self.detail == Detail::EveryAccess
    }
}
