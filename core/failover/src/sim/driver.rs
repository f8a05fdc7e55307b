//! The simulated driver: takes orders as the real one does, without a decision of its own.
//!
//! Not here: the steps of what takes time ([`super::tasks`]).

use std::collections::{BTreeMap, BTreeSet};

use super::tasks::{Contest, Fence, Kind, Leg, Solicited};
use super::{Mount, Outstanding, Process, Served, What, World};
use crate::effect::{Effect, LegsAre, Veto};
use crate::fence::{FenceType, Registered};
use crate::key::ReservationKey;
use crate::record::Heartbeat;
use crate::words::{LegIndex, LegSet, Micros, NodeId, Op, PoolId};

impl World {
    pub(crate) fn order(&mut self, node: NodeId, effect: Effect) {
        let index = node.index();
        match effect {
            Effect::PublishPage(content) => {
                self.nodes[index].content = Some(*content);
                self.publish(node);
            }
            Effect::Survey { op } => {
                self.begin_task(node, op, Kind::Survey { solicited: Solicited::Ordered, disks: Vec::new() });
            }
            Effect::JoinLockDisks { op, which, key } => {
                self.begin_task(node, op, Kind::Join { key, which, disks: Vec::new() });
            }
            Effect::ContestLockDisks { op, key, entry, victim } => {
                let contest = Contest { key, entry, here: entry, victim, stopped: false };
                self.begin_task(node, op, Kind::Contest { contest, disks: Vec::new() });
            }
            Effect::WriteRecord { op, record } => {
                self.begin_task(node, op, Kind::Record { record, disks: Vec::new() });
            }
            Effect::FencePool { op, pool, generation, kind, legs } => {
                let incarnation = self.nodes[index].machine.as_ref().map(|machine| machine.incarnation());
                let Some(incarnation) = incarnation else { return };
                let own = ReservationKey::on_pool_disk(super::PAIR, node, 0, generation, incarnation);
                let good = legs.first().copied().unwrap_or(LegSet(0));
                let fence = Fence { pool, own, kind, good, registered: Registered::NotYet, next: 0 };
                self.begin_task(node, op, Kind::Fence { fence, ends: Vec::new() });
            }
            Effect::ReleaseReservations { op, pools } => self.retype(node, op, &pools, FenceType::WriteGuard),
            Effect::RestoreReservations { op, pools } => self.retype(node, op, &pools, FenceType::Exclusive),
            Effect::CheckRelease { op, pools, legs } => {
                let good = legs;
                let mut legs = self.legs_of(&pools);
                legs.retain(|(pool, leg)| good[pool][0].contains(LegIndex(*leg)));
                self.begin_task(node, op, Kind::Check { legs, open: 0, next: 0 });
            }
            Effect::InitialiseDisks { op, pools, legs } => {
                let good = legs;
                let mut legs = self.legs_of(&pools);
                legs.retain(|(pool, leg)| good[pool][0].contains(LegIndex(*leg)));
                self.begin_task(node, op, Kind::Init { legs, next: 0 });
            }
            Effect::OpenPortals { op, .. } => self.begin_task(node, op, Kind::Portals),
            Effect::OpenPool { op, pool, generation, legs_are, legs, .. } => {
                let mount = self.mount(node, pool);
                mount.good = legs.first().copied().unwrap_or(LegSet(0));
                mount.equal = legs_are == LegsAre::Equal;
                mount.back = LegSet(0);
                self.begin_task(node, op, Kind::Open { pool, generation });
            }
            Effect::ServePool { pool } => {
                self.mount(node, pool).served = Served::Yes;
                self.soon(node, What::Resynced(pool), 80_000);
            }
            Effect::HoldPool { op, pool } => {
                self.mount(node, pool).served = Served::Held;
                let until = self.now.after(Micros::from_millis(1_000));
                self.begin_task(node, op, Kind::Hold { pool, until });
            }
            Effect::FreezePool { pool } => self.mount(node, pool).served = Served::Frozen,
            Effect::ResumePool { pool } => self.mount(node, pool).served = Served::Yes,
            Effect::ClosePool { pool } => *self.mount(node, pool) = Mount::new(),
            Effect::LegDropped { pool, leg, .. } => self.leg_dropped(node, pool, leg),
            Effect::LegTakenBack { pool, leg, .. } => {
                let mount = self.mount(node, pool);
                if mount.back.contains(leg) {
                    mount.good = mount.good.with(leg);
                }
            }
            Effect::PrepareHandOff { op, pools } => self.begin_task(node, op, Kind::Prepare { pools }),
            other => self.order_beside(node, other),
        }
    }

    /// Orders about the node itself rather than a pool or a disk.
    fn order_beside(&mut self, node: NodeId, effect: Effect) {
        let index = node.index();
        match effect {
            Effect::StartHeartbeat => self.nodes[index].beating = true,
            Effect::SetPollPace(pace) => {
                let it = &mut self.nodes[index];
                it.pace = pace;
                it.reads += 1;
                let chain = it.reads;
                self.after(node, What::ReadPage(chain), 1_000);
            }
            Effect::AnswerOperator { request, reply } => {
                self.say(node, || format!("answers request {}: {reply:?}", request.0));
            }
            Effect::RaiseAlarm(alarm) => self.say(node, || format!("alarm {alarm:?}")),
            Effect::ClearAlarm(alarm) => self.say(node, || format!("alarm over {alarm:?}")),
            Effect::Restart(_) => {
                // Its supervisor starts the next one, and says nothing for this one.
                self.say(node, || "worker ended to start again".to_owned());
                self.end(node);
                self.restart_later(node, 20_000);
            }
            Effect::Halt => self.die(node),
            // Timeline steps are written down where effects are noted, and who gets a connection is not modelled; the rest was taken above.
            _ => {}
        }
    }

    fn mount(&mut self, node: NodeId, pool: PoolId) -> &mut Mount {
        self.nodes[node.index()].mounts.entry(pool).or_insert_with(Mount::new)
    }

    fn legs_of(&self, pools: &[PoolId]) -> Vec<Leg> {
        let legs = |pool: &PoolId| {
            let pool = *pool;
            (0..self.pool_disks[&pool].len() as u8).map(move |leg| (pool, leg))
        };
        pools.iter().flat_map(legs).collect()
    }

    /// Legs recorded good only: the others are nobody's concern until they are resynced.
    fn retype(&mut self, node: NodeId, op: Op, pools: &[PoolId], to: FenceType) {
        let mounts = &self.nodes[node.index()].mounts;
        let mut legs = self.legs_of(pools);
        legs.retain(|(pool, leg)| mounts[pool].good.contains(LegIndex(*leg)));
        self.begin_task(node, op, Kind::Retype { legs, to, done: 0, next: 0 });
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

    pub(crate) fn vetoes_of(&self, node: NodeId, pools: &[PoolId]) -> BTreeMap<PoolId, BTreeSet<Veto>> {
        let of_pool = |pool: &PoolId| {
            let mut vetoes = self.vetoed.get(pool).cloned().unwrap_or_default();
            if !self.nodes[node.index()].mounts[pool].equal {
                vetoes.insert(Veto::ResyncRunning);
            }
            (*pool, vetoes)
        };
        pools.iter().map(of_pool).collect()
    }

    pub(crate) fn legs_are(&self, node: NodeId, pool: PoolId) -> LegsAre {
        if self.nodes[node.index()].mounts[&pool].equal { LegsAre::Equal } else { LegsAre::PerhapsDifferent }
    }

    pub(crate) fn beat(&mut self, node: NodeId) {
        let it = &mut self.nodes[node.index()];
        let Some(machine) = &it.machine else { return };
        let incarnation = machine.incarnation();
        it.live.heartbeat += 1;
        let (counter, beating) = (it.live.heartbeat, it.beating && it.process == Process::Running);
        for disk in &mut self.lock_disks {
            if beating && !disk.cut[node.index()] && disk.keys[node.index()].is_some() {
                disk.beats[node.index()] = Some(Heartbeat { incarnation, counter });
            }
        }
        self.publish(node);
        self.begin_task(node, Op(0), Kind::Survey { solicited: Solicited::AfterBeat, disks: Vec::new() });
        self.after(node, What::Beat, 50_000);
    }
}
