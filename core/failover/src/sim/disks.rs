//! Simulated disks: registrations and reservations as SPC-4 has them for types 5 and 6, and writes that land late.
//!
//! Not here: who asks. The one idea: a write is judged by the reservation when it arrives, and lands later; only PREEMPT AND ABORT
//! takes it back.

use crate::fence::{DiskStanding, FenceType};
use crate::invariants::{Holder, PoolDiskView};
use crate::key::ReservationKey;
use crate::record::{Heartbeat, Record, RecordSlots};
use crate::survey::LockDiskView;
use crate::words::NodeId;

/// A write the disk has accepted and not carried out.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct InFlight {
    /// Whose.
    pub node: NodeId,
    /// Of which run of that node, counted.
    pub run: u32,
    /// What it writes: numbers grow with every write anywhere.
    pub value: u64,
}

/// A pool disk: one block is enough.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PoolDisk {
    /// Keys and reservation.
    pub pr: PoolDiskView,
    /// What is on the medium.
    pub value: u64,
    /// Accepted writes.
    pub in_flight: Vec<InFlight>,
    /// Whether each node reaches it.
    pub reachable: [bool; 2],
}

impl PoolDisk {
    /// A new one.
    #[must_use]
    pub fn new() -> Self {
        let pr = PoolDiskView { keys: [None; 2], reservation: None };
        Self { pr, value: 0, in_flight: Vec::new(), reachable: [true; 2] }
    }

    /// Whether a read of this node is carried out.
    #[must_use]
    pub fn lets_read(&self, node: NodeId) -> bool {
        self.pr.keys[node.index()].is_some() || self.pr.reservation.is_none_or(|holder| holder.kind == 5)
    }

    /// REGISTER AND IGNORE EXISTING KEY.
    pub fn register(&mut self, node: NodeId, key: ReservationKey) {
        self.pr.keys[node.index()] = Some(key);
    }

    /// READ KEYS and READ RESERVATION.
    #[must_use]
    pub fn standing(&self) -> DiskStanding {
        let kind = |holder: Holder| if holder.kind == 6 { FenceType::Exclusive } else { FenceType::WriteGuard };
        let held = self
            .pr
            .reservation
            .and_then(|holder| self.pr.keys[holder.node.index()].map(|key| (key, Some(kind(holder)))));
        DiskStanding { keys: self.pr.keys.iter().flatten().copied().collect(), reservation: held }
    }

    /// PREEMPT (AND ABORT) of one key; the reservation becomes the preempter's if it was the victim's.
    pub fn preempt(&mut self, node: NodeId, victim: ReservationKey, kind: u8, aborts: bool) {
        let other = node.partner();
        if self.pr.keys[node.index()].is_none() || self.pr.keys[other.index()] != Some(victim) {
            return;
        }
        self.pr.keys[other.index()] = None;
        if aborts {
            self.in_flight.retain(|write| write.node != other);
        }
        if self.pr.reservation.is_some_and(|holder| holder.node == other) {
            self.pr.reservation = Some(Holder { node, kind });
        }
    }

    /// RESERVE where nothing is reserved, or PREEMPT of the own key to change the type.
    pub fn hold(&mut self, node: NodeId, kind: u8) {
        let own = self.pr.reservation.is_none_or(|holder| holder.node == node);
        if own && self.pr.keys[node.index()].is_some() {
            self.pr.reservation = Some(Holder { node, kind });
        }
    }
}

impl Default for PoolDisk {
    fn default() -> Self {
        Self::new()
    }
}

/// A lock disk.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct LockDisk {
    /// Keys.
    pub keys: [Option<ReservationKey>; 2],
    /// Per node, two slots.
    pub slots: [RecordSlots; 2],
    /// Per node.
    pub beats: [Option<Heartbeat>; 2],
    /// Records accepted from a node that may still land.
    pub late: Vec<(NodeId, Record)>,
    /// Whether each node is cut off from it.
    pub cut: [bool; 2],
}

impl LockDisk {
    /// READ of both areas and READ KEYS.
    #[must_use]
    pub fn view(&self) -> LockDiskView {
        LockDiskView {
            records: self.slots.clone(),
            heartbeats: self.beats,
            keys: self.keys.iter().flatten().copied().collect(),
        }
    }

    /// Removes the partner's key and whatever of its writes is under way.
    pub fn preempt_and_abort(&mut self, node: NodeId) {
        let victim = node.partner();
        if self.keys[node.index()].is_some() && self.keys[victim.index()].take().is_some() {
            self.late.retain(|(owner, _)| *owner != victim);
        }
    }

    /// Stores a record that reached the medium.
    pub fn store(&mut self, node: NodeId, record: &Record) {
        self.slots[node.index()][record.slot()] = Some(record.clone());
    }
}

/// Whether `node` reads its key on a majority of the lock disks: what it asks in the place of a leg that gives no answer, before it
/// answers a read from another.
#[must_use]
pub fn has_key_majority(disks: &[LockDisk], node: NodeId) -> bool {
    let own = |disk: &&LockDisk| !disk.cut[node.index()] && disk.keys[node.index()].is_some();
    disks.iter().filter(own).count() > disks.len() / 2
}
