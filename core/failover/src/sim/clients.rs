//! Simulated clients: one writes and reads each pool through whoever answers, and remembers what was acknowledged.
//!
//! The one idea: values only grow, so a medium that shows less than the last acknowledged value has lost a write, and a write that lands
//! below it came from a node that should have been fenced.

use super::disks::has_key_majority;
use super::{Outstanding, Served, What, World};
use crate::input::Input;
use crate::words::{LegIndex, MirrorIndex, NodeId, PoolId};

const MIRROR: MirrorIndex = MirrorIndex(0);

impl World {
    pub(crate) fn client(&mut self, node: NodeId, pool: PoolId) {
        self.soon(node, What::Client(pool), 6_000);
        let mount = &self.nodes[node.index()].mounts[&pool];
        match (mount.served, &mount.outstanding) {
            (Served::Yes, None) if self.dice.once_in(3) => self.client_reads(node, pool),
            (Served::Yes, None) => self.client_writes(node, pool),
            (Served::Yes | Served::Held, Some(_)) => self.send_unsent(node, pool),
            (Served::Held, None) | (Served::No | Served::Frozen, _) => {}
        }
    }

    /// Reads one leg, any one if they hold the same; answers only what every leg, or the lock disks in its place, confirms.
    fn client_reads(&mut self, node: NodeId, pool: PoolId) {
        let mount = &self.nodes[node.index()].mounts[&pool];
        let (good, equal) = (mount.good, mount.equal);
        let mut legs: Vec<u8> = (0..2).filter(|leg| good.contains(LegIndex(*leg))).collect();
        if equal && self.dice.once_in(2) {
            legs.reverse();
        }
        let Some(leg) = legs.first().copied() else { return };
        let acked = self.acked[&pool];
        let back = self.nodes[node.index()].mounts[&pool].back;
        for other in (0..2).filter(|other| good.contains(LegIndex(*other)) || back.contains(LegIndex(*other))) {
            let disk = self.disk(pool, other);
            let reached = disk.reachable[node.index()];
            if reached && !disk.lets_read(node) {
                return self.doubt(node, pool);
            }
            if !reached && (other == leg || !has_key_majority(&self.lock_disks, node)) {
                return;
            }
        }
        let value = self.disk(pool, leg).value;
        if value < acked {
            self.fail(format!("{node} answers a read of {pool} with {value}, after {acked} was acknowledged"));
        }
    }

    fn client_writes(&mut self, node: NodeId, pool: PoolId) {
        let value = self.next_value;
        self.next_value += 1;
        let it = &mut self.nodes[node.index()];
        let Some(mount) = it.mounts.get_mut(&pool) else { return };
        let waiting = (0..2).filter(|leg| mount.good.contains(LegIndex(*leg)) || mount.back.contains(LegIndex(*leg)));
        let waiting: std::collections::BTreeSet<u8> = waiting.collect();
        mount.outstanding = Some(Outstanding { value, unsent: waiting.clone(), waiting });
        self.send_unsent(node, pool);
    }

    /// Sends to every leg not sent to yet; one out of reach is reported failed, and sent to when it is back before it was dropped.
    fn send_unsent(&mut self, node: NodeId, pool: PoolId) {
        let Some(outstanding) = self.nodes[node.index()].mounts[&pool].outstanding.clone() else { return };
        for leg in outstanding.unsent {
            let disk = self.disk(pool, leg);
            if !disk.reachable[node.index()] {
                self.leg_out_of_reach(node, pool, leg);
            } else if disk.pr.lets_write(node) {
                self.accept_write(node, pool, leg, outstanding.value);
                if let Some(outstanding) = self.outstanding(node, pool) {
                    outstanding.unsent.remove(&leg);
                }
            } else {
                return self.doubt(node, pool);
            }
        }
    }

    fn outstanding(&mut self, node: NodeId, pool: PoolId) -> Option<&mut Outstanding> {
        self.nodes[node.index()].mounts.get_mut(&pool)?.outstanding.as_mut()
    }

    fn leg_out_of_reach(&mut self, node: NodeId, pool: PoolId, leg: u8) {
        #[cfg(feature = "mutants")]
        if crate::mutants::is_on(crate::mutants::Mutant::DropLegUnrecorded) {
            let left = self.nodes[node.index()].mounts[&pool].good.without(LegIndex(leg));
            if !left.is_empty() {
                return self.leg_dropped(node, pool, LegIndex(leg));
            }
        }
        // Told again after every while, as a real driver does while the leg stays away and nothing was decided.
        self.input(node, Input::LegFailed { pool, mirror: MIRROR, leg: LegIndex(leg) });
    }

    /// The disk refused: nothing of the pool is acknowledged until the machine has looked.
    fn doubt(&mut self, node: NodeId, pool: PoolId) {
        if let Some(mount) = self.nodes[node.index()].mounts.get_mut(&pool) {
            mount.outstanding = None;
            if mount.served == Served::Yes {
                mount.served = Served::Frozen;
            }
        }
        self.input(node, Input::FenceDoubted { pool });
    }

    /// A write reaches the medium, unless it was aborted.
    pub(crate) fn land(&mut self, pool: PoolId, leg: u8, value: u64) {
        let acked = self.acked[&pool];
        let disk = self.disk(pool, leg);
        let Some(at) = disk.in_flight.iter().position(|write| write.value == value) else { return };
        let write = disk.in_flight.swap_remove(at);
        disk.value = value;
        let node = write.node;
        if value < acked && self.is_leg_good(pool, leg) {
            self.fail(format!("a late write of {node} lands on {pool} with {value}, after {acked} was acknowledged"));
        }
        if self.nodes[node.index()].run == write.run {
            self.after(node, What::Landed { pool, leg, value }, 50);
        }
    }

    fn is_leg_good(&self, pool: PoolId, leg: u8) -> bool {
        let entry = self.view().truth(pool);
        entry.is_some_and(|entry| entry.legs.first().is_some_and(|legs| legs.contains(LegIndex(leg))))
    }

    pub(crate) fn landed(&mut self, node: NodeId, pool: PoolId, leg: u8, value: u64) {
        if let Some(outstanding) = self.outstanding(node, pool)
            && outstanding.value == value
        {
            outstanding.waiting.remove(&leg);
        }
        self.acknowledge_if_done(node, pool);
    }

    pub(crate) fn acknowledge_if_done(&mut self, node: NodeId, pool: PoolId) {
        let mount = &self.nodes[node.index()].mounts[&pool];
        let answers = matches!(mount.served, Served::Yes | Served::Held);
        let Some(outstanding) = mount.outstanding.as_ref().filter(|it| answers && it.waiting.is_empty()) else {
            return;
        };
        let value = outstanding.value;
        let acked = self.acked.entry(pool).or_insert(0);
        *acked = (*acked).max(value);
        self.acknowledged += 1;
        if let Some(mount) = self.nodes[node.index()].mounts.get_mut(&pool) {
            mount.outstanding = None;
        }
    }

    /// The background resync has come round: legs are made equal, and dropped ones that can be reached are copied.
    pub(crate) fn resynced(&mut self, node: NodeId, pool: PoolId) {
        self.soon(node, What::Resynced(pool), 80_000);
        let mount = &self.nodes[node.index()].mounts[&pool];
        let good = mount.good;
        let mut legs = (0..2u8).filter(|leg| good.contains(LegIndex(*leg)));
        let Some(source) = legs.next().filter(|_| mount.served == Served::Yes && mount.outstanding.is_none()) else {
            return;
        };
        let disks = &self.pool_disks[&pool];
        let idle = |leg: u8| {
            let disk = &disks[leg as usize];
            let mine = disk.pr.keys[node.index()].is_some() && disk.pr.keys[node.partner().index()].is_none();
            disk.reachable[node.index()] && mine && disk.in_flight.is_empty()
        };
        if !idle(source) {
            return;
        }
        let value = disks[source as usize].value;
        let targets: Vec<u8> = (0..2).filter(|leg| *leg != source && idle(*leg)).collect();
        let all_good_reached =
            (0..2).all(|leg| leg == source || !good.contains(LegIndex(leg)) || targets.contains(&leg));
        for leg in targets {
            self.disk(pool, leg).value = value;
            if !good.contains(LegIndex(leg)) {
                if let Some(mount) = self.nodes[node.index()].mounts.get_mut(&pool) {
                    mount.back = mount.back.with(LegIndex(leg));
                }
                self.input(node, Input::LegResynced { pool, mirror: MIRROR, leg: LegIndex(leg) });
            }
        }
        if all_good_reached && let Some(mount) = self.nodes[node.index()].mounts.get_mut(&pool) {
            mount.equal = true;
        }
    }
}
