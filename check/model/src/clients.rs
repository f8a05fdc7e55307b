//! Clients, as one write at a time to each pool through whoever answers, and the background resync.
//!
//! The one idea: values only grow, so a leg that shows less than the last acknowledged value to a node that would answer from it has
//! lost a write, and a write that lands below it came from a node that should have been fenced.

use std::collections::BTreeSet;

use understudy_failover::input::Input;
use understudy_failover::mutants::{Mutant, is_on};
use understudy_failover::sim::disks::InFlight;
use understudy_failover::words::{LegIndex, MirrorIndex, NodeId, PoolId};

use crate::laws::Law;
use crate::orders::World;
use crate::pair::{Outstanding, Pair, Served};

const MIRROR: MirrorIndex = MirrorIndex(0);

/// The legs a node writes to.
#[must_use]
pub fn written(pair: &Pair, node: NodeId, pool: PoolId) -> BTreeSet<u8> {
    let mount = &pair.node(node).mounts[&pool];
    (0..2).filter(|leg| mount.good.contains(LegIndex(*leg)) || mount.back.contains(LegIndex(*leg))).collect()
}

/// Good legs a node serves and cannot reach.
#[must_use]
pub fn missing_legs(pair: &Pair, node: NodeId) -> Vec<(PoolId, u8)> {
    let serving = pair.pools().filter(|pool| matches!(pair.node(node).mounts[pool].served, Served::Yes | Served::Held));
    let legs = serving.flat_map(|pool| written(pair, node, pool).into_iter().map(move |leg| (pool, leg)));
    legs.filter(|(pool, leg)| !pair.leg(*pool, *leg).disk.reachable[node.index()]).collect()
}

/// Pools a node could resync something of now.
#[must_use]
pub fn resyncable(pair: &Pair, node: NodeId) -> Vec<PoolId> {
    pair.pools().filter(|pool| resync_of(pair, node, *pool).is_some()).collect()
}

struct Resync {
    source: u8,
    targets: Vec<u8>,
    makes_equal: bool,
}

fn resync_of(pair: &Pair, node: NodeId, pool: PoolId) -> Option<Resync> {
    let mount = &pair.node(node).mounts[&pool];
    if mount.served != Served::Yes || mount.outstanding.is_some() {
        return None;
    }
    let idle = |leg: u8| {
        let disk = &pair.leg(pool, leg).disk;
        let mine = disk.pr.keys[node.index()].is_some() && disk.pr.keys[node.partner().index()].is_none();
        disk.reachable[node.index()] && mine && disk.in_flight.is_empty()
    };
    let good = |leg: u8| mount.good.contains(LegIndex(leg));
    let source = (0..2).find(|leg| good(*leg)).filter(|leg| idle(*leg))?;
    let stale = |leg: u8| !good(leg) && !mount.back.contains(LegIndex(leg));
    let targets: Vec<u8> = (0..2).filter(|leg| *leg != source && idle(*leg)).collect();
    let all_good = (0..2).all(|leg| leg == source || !good(leg) || targets.contains(&leg));
    let makes_equal = all_good && !mount.equal;
    let useful = makes_equal || targets.iter().any(|leg| stale(*leg));
    useful.then_some(Resync { source, targets, makes_equal })
}

impl World<'_> {
    /// A client writes through a node that answers.
    pub fn client_writes(&mut self, node: NodeId, pool: PoolId) {
        let memory = self.pair.memory_mut();
        let value = memory.next_value;
        memory.next_value += 1;
        let waiting = written(&self.pair, node, pool);
        self.mount(node, pool).outstanding = Some(Outstanding { value, unsent: waiting.clone(), waiting });
        self.send_unsent(node, pool);
    }

    /// Sends to every leg not sent to yet; one out of reach is reported failed, a refusal freezes the pool.
    pub fn send_unsent(&mut self, node: NodeId, pool: PoolId) {
        let Some(outstanding) = self.pair.node(node).mounts[&pool].outstanding.clone() else { return };
        let run = u32::from(self.pair.node(node).run);
        for leg in outstanding.unsent {
            let disk = &self.pair.leg(pool, leg).disk;
            if !disk.reachable[node.index()] {
                self.leg_out_of_reach(node, pool, leg);
            } else if disk.pr.lets_write(node) {
                let value = outstanding.value;
                self.pair.leg_mut(pool, leg).disk.in_flight.push(InFlight { node, run, value });
                if let Some(outstanding) = &mut self.mount(node, pool).outstanding {
                    outstanding.unsent.remove(&leg);
                }
            } else {
                return self.refused(node, pool);
            }
        }
    }

    /// A leg that is written to cannot be reached.
    pub fn leg_out_of_reach(&mut self, node: NodeId, pool: PoolId, leg: u8) {
        if is_on(Mutant::DropLegUnrecorded)
            && !self.pair.node(node).mounts[&pool].good.without(LegIndex(leg)).is_empty()
        {
            return self.leg_dropped(node, pool, LegIndex(leg));
        }
        self.input(node, Input::LegFailed { pool, mirror: MIRROR, leg: LegIndex(leg) });
    }

    /// A disk refused a write: nothing of the pool is acknowledged until the machine has looked.
    fn refused(&mut self, node: NodeId, pool: PoolId) {
        self.mount(node, pool).outstanding = None;
        self.doubt(node, pool);
    }

    /// A conflict or a unit attention.
    pub fn doubt(&mut self, node: NodeId, pool: PoolId) {
        let mount = self.mount(node, pool);
        if mount.served == Served::Yes {
            mount.served = Served::Frozen;
        }
        self.input(node, Input::FenceDoubted { pool });
    }

    /// The outcome of a write in flight is unknown to its node: the session is made anew, by which the target has carried it out or
    /// never will, and it is sent again.
    pub fn write_unknown(&mut self, pool: PoolId, leg: u8, at: usize) {
        let write = self.pair.leg(pool, leg).disk.in_flight[at].clone();
        let disk = &mut self.pair.leg_mut(pool, leg).disk;
        if !is_on(Mutant::RepeatUnknownWrite) {
            disk.in_flight.remove(at);
        }
        // The other path carries the same write once more.
        disk.in_flight.push(write);
    }

    /// A write reaches the medium.
    pub fn land(&mut self, pool: PoolId, leg: u8, at: usize) {
        let write = self.pair.leg_mut(pool, leg).disk.in_flight.remove(at);
        self.pair.leg_mut(pool, leg).disk.value = write.value;
        let acked = self.pair.memory.acked[&pool];
        let recorded_good = self
            .pair
            .memory
            .stood
            .get(&pool)
            .and_then(|entry| entry.legs.first())
            .is_none_or(|it| it.contains(LegIndex(leg)));
        if write.value < acked && recorded_good {
            let how = format!(
                "a late write of {} lands on leg {leg} of {pool} with {}, after {acked} was acknowledged",
                write.node, write.value
            );
            self.pair.break_law(Law::NothingLost, how);
        }
        if u32::from(self.pair.node(write.node).run) != write.run || self.pair.node(write.node).running().is_none() {
            return;
        }
        let outstanding = self.mount(write.node, pool).outstanding.as_mut();
        if let Some(outstanding) = outstanding.filter(|outstanding| outstanding.value == write.value) {
            outstanding.waiting.remove(&leg);
        }
        self.acknowledge_if_done(write.node, pool);
    }

    /// A write in flight is lost with the process that sent it.
    pub fn vanish(&mut self, pool: PoolId, leg: u8, at: usize) {
        self.pair.leg_mut(pool, leg).disk.in_flight.remove(at);
    }

    pub(crate) fn acknowledge_if_done(&mut self, node: NodeId, pool: PoolId) {
        let Some(mount) = self.pair.node(node).mounts.get(&pool) else { return };
        let answers = matches!(mount.served, Served::Yes | Served::Held);
        let Some(value) = mount.outstanding.as_ref().filter(|it| answers && it.waiting.is_empty()).map(|it| it.value)
        else {
            return;
        };
        self.mount(node, pool).outstanding = None;
        let acked = self.pair.memory_mut().acked.entry(pool).or_insert(0);
        *acked = value.max(*acked);
        self.say(|| format!("      {node} acknowledges write {value} of {pool}"));
    }

    /// The background resync comes round.
    pub fn resync(&mut self, node: NodeId, pool: PoolId) {
        let Some(resync) = resync_of(&self.pair, node, pool) else { return };
        let source = self.pair.leg(pool, resync.source).clone();
        for leg in resync.targets {
            let it = self.pair.leg_mut(pool, leg);
            (it.disk.value, it.version) = (source.disk.value, source.version);
            let mount = self.mount(node, pool);
            if !mount.good.contains(LegIndex(leg)) && !mount.back.contains(LegIndex(leg)) {
                mount.back = mount.back.with(LegIndex(leg));
                self.input(node, Input::LegResynced { pool, mirror: MIRROR, leg: LegIndex(leg) });
            }
        }
        if resync.makes_equal {
            self.mount(node, pool).equal = true;
        }
    }
}
