//! One state of the model: two nodes, the disks, and what the observer remembers.
//!
//! Not here: how it changes. The one idea: a state is what can still make a difference, in a form in which equal situations are equal;
//! its parts are shared between states and hashed once.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use understudy_failover::effect::{Entry, FenceKind};
use understudy_failover::fence::{FenceType, PlacedFence, Registered};
use understudy_failover::input::{JoinOutcome, WriteOutcome};
use understudy_failover::key::ReservationKey;
use understudy_failover::machine::{Machine, State};
use understudy_failover::page::Page;
use understudy_failover::record::{PoolEntry, Record};
use understudy_failover::sim::disks::{LockDisk, PoolDisk};
use understudy_failover::survey::LockDiskView;
use understudy_failover::words::{LegSet, NodeId, Op, PoolId};

use crate::laws::Law;

/// What a driver does with a pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Served {
    /// Nothing.
    No,
    /// Commands go through.
    Yes,
    /// Commands wait; those in flight go on.
    Held,
    /// Nothing is answered.
    Frozen,
}

/// A client's write under way.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Outstanding {
    /// What it writes; grows with every write.
    pub value: u64,
    /// Legs it has not landed on.
    pub waiting: BTreeSet<u8>,
    /// Legs it was not sent to yet.
    pub unsent: BTreeSet<u8>,
}

/// One pool as a driver has it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Mount {
    /// Whether it is served.
    pub served: Served,
    /// Legs recorded good.
    pub good: LegSet,
    /// Copied again and written along, not recorded good yet.
    pub back: LegSet,
    /// Whether any leg may be read.
    pub equal: bool,
    /// Version of the metadata loaded.
    pub version: u64,
    /// Whether metadata was written since it was opened.
    pub flushed: bool,
    /// A write under way.
    pub outstanding: Option<Outstanding>,
}

impl Mount {
    /// Not mounted.
    #[must_use]
    pub fn new() -> Self {
        Self {
            served: Served::No,
            good: LegSet(0),
            back: LegSet(0),
            equal: false,
            version: 0,
            flushed: false,
            outstanding: None,
        }
    }
}

impl Default for Mount {
    fn default() -> Self {
        Self::new()
    }
}

/// An order under way.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Task {
    /// Its number.
    pub op: Op,
    /// How far it is.
    pub work: Work,
}

/// What an order is and how far it is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Work {
    /// Survey, with the pools whose fence had been seen when it was ordered.
    Survey {
        /// Those pools.
        after: BTreeSet<PoolId>,
        /// Lock disks read so far.
        disks: Vec<Option<LockDiskView>>,
    },
    /// JoinLockDisks.
    Join {
        /// Own key.
        key: ReservationKey,
        /// Which.
        which: BTreeSet<usize>,
        /// Answers so far.
        disks: Vec<JoinOutcome>,
    },
    /// ContestLockDisks.
    Contest {
        /// Own key.
        key: ReservationKey,
        /// As ordered.
        entry: Entry,
        /// On the lock disk under way.
        here: Entry,
        /// The partner's key it is against.
        victim: Option<ReservationKey>,
        /// Lost on one: the others are left alone.
        stopped: bool,
        /// Answers so far.
        disks: Vec<Option<Vec<ReservationKey>>>,
    },
    /// WriteRecord.
    Record {
        /// What.
        record: Box<Record>,
        /// Answers so far.
        disks: Vec<WriteOutcome>,
    },
    /// FencePool.
    Fence {
        /// Which.
        pool: PoolId,
        /// Own key.
        own: ReservationKey,
        /// Which end state.
        kind: FenceKind,
        /// Legs recorded good.
        good: LegSet,
        /// On the leg under way.
        registered: Registered,
        /// That leg.
        leg: u8,
        /// Ends of the good legs so far.
        ends: Vec<PlacedFence>,
    },
    /// ReleaseReservations or RestoreReservations.
    Retype {
        /// Disks.
        legs: Vec<(PoolId, u8)>,
        /// To which type.
        to: FenceType,
        /// Next of them.
        next: usize,
        /// How many have the type.
        done: u32,
    },
    /// CheckRelease.
    Check {
        /// Disks.
        legs: Vec<(PoolId, u8)>,
    },
    /// InitialiseDisks.
    Init {
        /// Disks.
        legs: Vec<(PoolId, u8)>,
    },
    /// OpenPortals.
    Portals,
    /// OpenPool.
    Open {
        /// Which.
        pool: PoolId,
    },
    /// HoldPool.
    Hold {
        /// Which.
        pool: PoolId,
    },
    /// PrepareHandOff.
    Prepare {
        /// Which.
        pools: Vec<PoolId>,
    },
}

impl Work {
    /// Whether it changes nothing anywhere.
    #[must_use]
    pub fn only_reads(&self) -> bool {
        match self {
            Self::Survey { .. } | Self::Check { .. } | Self::Init { .. } | Self::Portals | Self::Prepare { .. } => true,
            Self::Fence { kind, .. } => *kind == FenceKind::Look,
            Self::Join { .. }
            | Self::Contest { .. }
            | Self::Record { .. }
            | Self::Retype { .. }
            | Self::Open { .. }
            | Self::Hold { .. } => false,
        }
    }
}

/// What one run of a node did, for the laws about order.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Done {
    /// Pools whose fence it has seen.
    pub fenced: BTreeSet<PoolId>,
    /// Of these, those after whose fence it ordered a survey that showed its key on a majority.
    pub verified: BTreeSet<PoolId>,
    /// RELEASED for it was read and every disk found open.
    pub release_checked: bool,
}

/// One node.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Node {
    /// Counts its runs.
    pub run: u8,
    /// Its machine, if there is a process; one that has halted keeps its last page.
    pub machine: Option<Box<Machine>>,
    /// What a supervisor says for a worker that is gone.
    pub last_word: Option<Box<Page>>,
    /// Orders under way, in the order given.
    pub tasks: Vec<Task>,
    /// Pools.
    pub mounts: BTreeMap<PoolId, Mount>,
    /// What it did.
    pub done: Done,
    /// A page of the partner's that was read and has not arrived.
    pub late: Option<Box<Page>>,
    /// Whether it beats on the lock disks.
    pub beating: bool,
    /// Whether it reads the partner's page.
    pub sees: bool,
}

impl Node {
    /// Powered off.
    #[must_use]
    pub fn off(pools: impl Iterator<Item = PoolId>) -> Self {
        Self {
            run: 0,
            machine: None,
            last_word: None,
            tasks: Vec::new(),
            mounts: pools.map(|pool| (pool, Mount::new())).collect(),
            done: Done::default(),
            late: None,
            beating: false,
            sees: true,
        }
    }

    /// Its machine, if the process runs.
    #[must_use]
    pub fn running(&self) -> Option<&Machine> {
        self.machine.as_deref().filter(|machine| *machine.state() != State::Ended)
    }

    /// Whether commands of this pool go through.
    #[must_use]
    pub fn answers(&self, pool: PoolId) -> bool {
        self.mounts.get(&pool).is_some_and(|mount| mount.served == Served::Yes)
    }

    /// Order numbers from one on, counters forgotten.
    pub fn make_canonical(&mut self) {
        let mut known = Vec::new();
        let Some(machine) = &mut self.machine else { return };
        machine.visit_ops(&mut |op| known.push(*op));
        // What only reads, and nobody waits for any more, changes nothing; a reading of the lock disks can come unasked at any time.
        self.tasks.retain(|task| known.contains(&task.op) || !task.work.only_reads());
        known.extend(self.tasks.iter().map(|task| task.op));
        known.sort_unstable();
        known.dedup();
        // PANIC: every number visited below was visited above.
        let name = |op: &mut Op| *op = Op(known.binary_search(op).expect("a number seen before") as u64 + 1);
        machine.visit_ops(&mut |op| name(op));
        self.tasks.iter_mut().for_each(|task| name(&mut task.op));
        machine.forget_what_does_not_matter(known.len() as u64 + 1);
    }
}

/// One leg of a pool's mirror.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Leg {
    /// Registrations, reservation, data, writes under way, who reaches it.
    pub disk: PoolDisk,
    /// Version of the metadata on it.
    pub version: u64,
}

/// Every disk.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Shelf {
    /// Lock disks.
    pub lock_disks: Vec<LockDisk>,
    /// Legs by pool.
    pub legs: BTreeMap<PoolId, Vec<Leg>>,
}

/// How many of each may still happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Faults {
    /// A process is killed.
    pub kills: u8,
    /// A worker dies, and its supervisor says so in its page.
    pub announced: u8,
    /// A partner that lives is taken for silent, or a hand-off's time is up: a stopped process, a lost interconnect, a slow disk.
    pub silences: u8,
    /// A page arrives late.
    pub late_pages: u8,
    /// A record's write has an unknown outcome.
    pub unknown_records: u8,
    /// A data write has an unknown outcome.
    pub unknown_writes: u8,
    /// Clients write.
    pub writes: u8,
    /// The interconnect is cut, one direction at a time.
    pub cuts: u8,
    /// One lock disk is lost to both nodes.
    pub lock_disks: u8,
    /// One leg is lost to one node or to both.
    pub legs: u8,
    /// Everything cut or lost is there again.
    pub mends: u8,
    /// One node is cut from all disks.
    pub cut_off: u8,
    /// A unit attention or conflict for no reason.
    pub doubts: u8,
    /// Metadata is read from what was kept warm, one version too old.
    pub stale_opens: u8,
    /// Operators ask.
    pub requests: u8,
}

/// What the observer remembers.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Memory {
    /// Faults left.
    pub faults: Faults,
    /// Last acknowledged write by pool.
    pub acked: BTreeMap<PoolId, u64>,
    /// Value of the next write.
    pub next_value: u64,
    /// What stood last for a pool.
    pub stood: BTreeMap<PoolId, PoolEntry>,
    /// Disks that have been reserved.
    pub reserved: BTreeSet<(PoolId, usize)>,
    /// The first law that was broken, and how.
    pub broken: Option<(Law, String)>,
}

/// One state.
#[derive(Debug, Clone)]
pub struct Pair {
    /// Nodes.
    pub nodes: [Arc<Node>; 2],
    /// Disks.
    pub shelf: Arc<Shelf>,
    /// Memory.
    pub memory: Arc<Memory>,
    digests: [u64; 4],
}

impl PartialEq for Pair {
    fn eq(&self, other: &Self) -> bool {
        self.digests == other.digests
    }
}

impl Hash for Pair {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.digests.hash(state);
    }
}

/// Of one part.
fn digest<T: Hash>(part: &T) -> u64 {
    ahash::RandomState::with_seeds(11, 23, 47, 89).hash_one(part)
}

impl Pair {
    /// Of these parts.
    #[must_use]
    pub fn new(nodes: [Node; 2], shelf: Shelf, memory: Memory) -> Self {
        let [a, b] = nodes;
        let mut pair = Self {
            nodes: [Arc::new(a), Arc::new(b)],
            shelf: Arc::new(shelf),
            memory: Arc::new(memory),
            digests: [0; 4],
        };
        pair.reseal();
        pair
    }

    /// Makes it canonical and hashes what is not shared with `before`.
    pub fn seal(&mut self, before: &Self) {
        for node in 0..2 {
            if !Arc::ptr_eq(&self.nodes[node], &before.nodes[node]) {
                Arc::make_mut(&mut self.nodes[node]).make_canonical();
                self.digests[node] = digest(&*self.nodes[node]);
            }
        }
        if !Arc::ptr_eq(&self.shelf, &before.shelf) {
            self.digests[2] = digest(&*self.shelf);
        }
        if !Arc::ptr_eq(&self.memory, &before.memory) {
            self.digests[3] = digest(&*self.memory);
        }
    }

    /// Hashes every part anew.
    pub fn reseal(&mut self) {
        self.digests = [digest(&*self.nodes[0]), digest(&*self.nodes[1]), digest(&*self.shelf), digest(&*self.memory)];
    }

    /// One number for the whole.
    #[must_use]
    pub fn fingerprint(&self) -> u64 {
        digest(&self.digests)
    }

    /// A node.
    #[must_use]
    pub fn node(&self, node: NodeId) -> &Node {
        &self.nodes[node.index()]
    }

    /// A node, to be changed.
    pub fn node_mut(&mut self, node: NodeId) -> &mut Node {
        Arc::make_mut(&mut self.nodes[node.index()])
    }

    /// The disks, to be changed.
    pub fn shelf_mut(&mut self) -> &mut Shelf {
        Arc::make_mut(&mut self.shelf)
    }

    /// The memory, to be changed.
    pub fn memory_mut(&mut self) -> &mut Memory {
        Arc::make_mut(&mut self.memory)
    }

    /// A leg.
    #[must_use]
    pub fn leg(&self, pool: PoolId, leg: u8) -> &Leg {
        &self.shelf.legs[&pool][leg as usize]
    }

    /// A leg, to be changed.
    pub fn leg_mut(&mut self, pool: PoolId, leg: u8) -> &mut Leg {
        // PANIC: legs come from the shelf's own table.
        &mut self.shelf_mut().legs.get_mut(&pool).expect("a pool of this pair")[leg as usize]
    }

    /// Every pool.
    pub fn pools(&self) -> impl Iterator<Item = PoolId> + '_ {
        self.shelf.legs.keys().copied()
    }

    /// Notes that a law was broken, if it is the first.
    pub fn break_law(&mut self, law: Law, how: String) {
        if self.memory.broken.is_none() {
            self.memory_mut().broken = Some((law, how));
        }
    }
}
