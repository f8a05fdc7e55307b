//! The whole simulated world of one run, and what is judged in it all the time.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::Range;
use std::rc::{Rc, Weak};

use understudy::config::{Config, NodeName};
use understudy::pair_init::{self, DisksInUse, Wish};
use understudy_failover::invariants::{
    Holder, PairView, PoolDiskView, check_moment, invariant_generation_never_goes_back,
    invariant_reserved_disks_stay_reserved, reserved_disks,
};
use understudy_failover::key::ReservationKey;
use understudy_failover::page::Page;
use understudy_failover::record::{Heartbeat, Record};
use understudy_failover::survey::{LockDiskView, Survey};
use understudy_failover::words::{Generation, LegSet, NodeId, PairId, PoolId};
use understudy_layout::label::PoolAreas;
use understudy_layout::lock::{LockPlaces, RecordSlot};
use understudy_layout::{DiskShape, Span};

use crate::chance::Chance;
use crate::digest::Digest;
use crate::history::History;
use crate::medium::SimMedium;
use crate::memory::Memory;
use crate::network::{Host, Net, Uplink};
use crate::node::{Node, supervise};
use crate::plan::{LEGS, LOCK_DISKS, Plan, configuration, volume_wishes};
use crate::process::Process;
use crate::shelf::Shelf;

/// As much of a heartbeat's page and of a record's slot as two pools with one mirror each can fill.
const HEAD_BYTES: usize = 1024;

/// Everything.
pub struct Stage {
    /// What the run was asked to be.
    pub plan: Plan,
    /// For what nothing else is said of.
    pub chance: Chance,
    /// The pair's file.
    pub config: Rc<Config>,
    /// Between hosts.
    pub net: Rc<Net>,
    /// Between the nodes.
    pub memory: Rc<Memory>,
    /// Lock disks first, then pool disks, in the order of the file.
    pub shelves: Vec<Rc<Shelf>>,
    /// Both machines.
    pub nodes: [Rc<Node>; 2],
    /// What clients saw.
    pub history: RefCell<History>,
    failure: RefCell<Option<String>>,
    lines: RefCell<Vec<String>>,
    digest: Cell<u64>,
    reserved: RefCell<BTreeSet<(PoolId, usize)>>,
    generations: RefCell<BTreeMap<PoolId, Generation>>,
    /// The shelf of a leg that is lost for good.
    pub lost: Cell<Option<usize>>,
    /// The shelves of legs whose metadata was damaged.
    pub damaged: RefCell<BTreeSet<usize>>,
    /// The run ended with a pool that is rightly refused.
    pub refused: Cell<bool>,
    /// Moments judged.
    pub moments: Cell<u64>,
    /// What a corruption may have taken back, so that generations are not compared across it.
    pub is_judged: Cell<bool>,
}

impl Stage {
    /// A world with blank disks, nothing running.
    #[must_use]
    pub fn new(plan: Plan) -> Rc<Self> {
        let chance = Chance::new(plan.seed);
        let config = Rc::new(configuration(&plan));
        let net = Net::new(chance.apart(1), plan.jitter_ms);
        let memory = Memory::new(chance.apart(2));
        let shelf = |number: usize| {
            let (shape, guarded) = if number < LOCK_DISKS {
                (lock_shape(&plan), record_blocks(lock_shape(&plan)))
            } else {
                (pool_shape(&plan), metadata_blocks(pool_shape(&plan)))
            };
            let chance = chance.apart(100 + number as u64);
            let medium = SimMedium::new(shape.block_bytes, shape.bytes(), guarded, chance);
            Shelf::new(number, &net, medium, plan.window)
        };
        let shelves = (0..LOCK_DISKS + LEGS * 2).map(shelf).collect();
        Rc::new_cyclic(|stage: &Weak<Self>| Self {
            chance: chance.apart(3),
            config,
            net,
            memory,
            shelves,
            nodes: NodeName::BOTH.map(|name| Node::new(name, stage)),
            history: RefCell::default(),
            failure: RefCell::default(),
            lines: RefCell::default(),
            digest: Cell::new(plan.seed),
            reserved: RefCell::default(),
            generations: RefCell::default(),
            lost: Cell::new(None),
            damaged: RefCell::default(),
            refused: Cell::new(false),
            moments: Cell::new(0),
            is_judged: Cell::new(true),
            plan,
        })
    }

    /// Makes the disks a pair's, as `pair init` does, and starts both machines.
    ///
    /// # Errors
    /// What `pair init` says.
    pub async fn begin(self: &Rc<Self>) -> anyhow::Result<()> {
        self.shelves.iter().for_each(Shelf::start);
        let uplink = Uplink { net: Rc::clone(&self.net), host: Host::Node(0), process: Process::new() };
        let wish = Wish { node: NodeName::A, volumes: volume_wishes(), disks_in_use: DisksInUse::Refuse };
        pair_init::run_over(uplink, &self.config, &wish).await?;
        for node in &self.nodes {
            supervise(node);
            node.start();
        }
        Ok(())
    }

    /// Whether every step is to be told.
    #[must_use]
    pub fn is_verbose(&self) -> bool {
        self.plan.verbose
    }

    /// Takes down what happened.
    pub fn log(&self, text: fmt::Arguments<'_>) {
        let line = format!("{:10.3} {text}", crate::clock::elapsed().as_secs_f64());
        let mut digest = self.digest();
        digest.add(line.as_bytes());
        self.digest.set(digest.value());
        if self.is_verbose() {
            eprintln!("{line}");
        }
        self.lines.borrow_mut().push(line);
    }

    /// The newest lines of what happened.
    #[must_use]
    pub fn last_lines(&self, count: usize) -> Vec<String> {
        let lines = self.lines.borrow();
        lines[lines.len().saturating_sub(count)..].to_vec()
    }

    /// Something that must not happen did; the first one counts.
    pub fn fail(&self, text: String) {
        self.log(format_args!("WRONG: {text}"));
        self.failure.borrow_mut().get_or_insert(text);
    }

    /// What went wrong first.
    #[must_use]
    pub fn failure(&self) -> Option<String> {
        self.failure.borrow().clone()
    }

    /// The digest of everything so far.
    #[must_use]
    pub fn digest(&self) -> Digest {
        Digest::from(self.digest.get())
    }

    /// Something was added to it.
    pub fn set_digest(&self, value: u64) {
        self.digest.set(value);
    }

    /// The pools.
    pub fn pools(&self) -> impl Iterator<Item = (PoolId, NodeName, &[usize])> {
        self.config.pools.iter().map(|pool| (PoolId(u32::from(pool.id)), pool.home, pool.mirrors[0].as_slice()))
    }

    fn pair(&self) -> PairId {
        PairId(self.config.pair.id)
    }

    /// Looks at everything that must hold at every moment.
    pub fn check_moment(&self) {
        if self.failure.borrow().is_some() || !self.is_judged.get() {
            return;
        }
        self.moments.set(self.moments.get() + 1);
        let machines = self.nodes.each_ref().map(|node| node.seen.machine.borrow());
        let pages: [Option<Page>; 2] = NodeName::BOTH.map(|name| {
            let bytes = self.memory.page(name)?;
            Page::decode(&bytes, self.pair(), NodeId::BOTH[name.index()]).ok()
        });
        let Some(pool_disks) = self.pool_disks() else { return };
        let Some(lock_disks) = self.lock_disks() else { return };
        let view = PairView {
            machines: [machines[0].as_ref(), machines[1].as_ref()],
            pages: [pages[0].as_ref(), pages[1].as_ref()],
            lock_disks,
            pool_disks,
            services: self.nodes.each_ref().map(|node| node.seen.services.borrow().clone()),
        };
        let reserved = reserved_disks(&view);
        let judged = check_moment(&view)
            .and_then(|()| invariant_reserved_disks_stay_reserved(&self.reserved.borrow(), &reserved))
            .and_then(|()| invariant_generation_never_goes_back(&self.generations.borrow(), &view));
        self.reserved.borrow_mut().extend(reserved);
        for (pool, _, _) in self.pools() {
            if let Some(entry) = view.truth(pool) {
                self.generations.borrow_mut().insert(pool, entry.generation);
            }
        }
        drop(machines);
        if let Err(text) = judged {
            self.fail(text);
        }
    }

    /// The pool disks as they are; `None` while one is off, which could be asked nothing.
    fn pool_disks(&self) -> Option<BTreeMap<PoolId, Vec<PoolDiskView>>> {
        let view = |place: &usize| {
            let unit = self.shelves[LOCK_DISKS + place].unit()?;
            Some(unit.look(|unit| {
                let reservations = unit.reservations();
                let key_of =
                    |node: NodeId| reservations.keys().map(ReservationKey).find(|key| key.is_of(self.pair(), node));
                let reservation = reservations.report().and_then(|held| {
                    let key = ReservationKey(held.key);
                    let node = NodeId::BOTH.into_iter().find(|node| key.is_of(self.pair(), *node))?;
                    Some(Holder { node, kind: held.kind as u8 })
                });
                PoolDiskView { keys: NodeId::BOTH.map(key_of), reservation }
            }))
        };
        self.pools().map(|(pool, _, legs)| Some((pool, legs.iter().map(view).collect::<Option<Vec<_>>>()?))).collect()
    }

    /// Legs recorded good of the pool of this place.
    #[must_use]
    pub fn good_legs(&self, pool: usize) -> Option<LegSet> {
        let (id, _, _) = self.pools().nth(pool)?;
        let survey = Survey { disks: self.shelves[..LOCK_DISKS].iter().map(|shelf| self.lock_disk(shelf)).collect() };
        survey.standing(id).known().and_then(|entry| entry.legs.first().copied())
    }

    /// Whether the record of every pool stands on a majority also without this lock disk.
    #[must_use]
    pub fn records_stand_without(&self, lock: usize) -> bool {
        let view = |(number, shelf): (usize, &Rc<Shelf>)| if number == lock { None } else { self.lock_disk(shelf) };
        let survey = Survey { disks: self.shelves[..LOCK_DISKS].iter().enumerate().map(view).collect() };
        self.pools().all(|(pool, _, _)| survey.standing(pool).known().is_some())
    }

    fn lock_disks(&self) -> Option<Vec<LockDiskView>> {
        self.shelves[..LOCK_DISKS].iter().map(|shelf| self.lock_disk(shelf)).collect()
    }

    fn lock_disk(&self, shelf: &Shelf) -> Option<LockDiskView> {
        let unit = shelf.unit()?;
        let keys = unit.look(|unit| unit.reservations().keys().map(ReservationKey).collect());
        let shape = self.lock_shape();
        let places = LockPlaces::new(shape)?;
        let area = |node: NodeId| {
            let number = node.index() as u8;
            let head = |span: Span| shelf.medium.head(span.lba, HEAD_BYTES);
            let slots = [RecordSlot::Even, RecordSlot::Odd].map(|slot| head(places.record(number, slot)));
            let records = Record::slots_of([&slots[0], &slots[1]], self.pair(), node);
            (records, Heartbeat::decode(&head(places.heartbeat(number)), self.pair(), node).ok())
        };
        let [(record_a, beat_a), (record_b, beat_b)] = NodeId::BOTH.map(area);
        Some(LockDiskView { records: [record_a, record_b], heartbeats: [beat_a, beat_b], keys })
    }

    /// Size and blocks of the lock disks.
    #[must_use]
    pub fn lock_shape(&self) -> DiskShape {
        lock_shape(&self.plan)
    }

    /// Size and blocks of the pool disks.
    #[must_use]
    pub fn pool_shape(&self) -> DiskShape {
        pool_shape(&self.plan)
    }

    /// Where a pool disk's metadata lies.
    #[must_use]
    pub fn metadata_blocks(&self) -> Range<u64> {
        metadata_blocks(self.pool_shape())
    }

    /// Whether a pool is rightly refused: the only leg recorded good is lost for good or had its metadata damaged. Its sibling was dropped
    /// about that time, and nobody has another copy.
    #[must_use]
    pub fn is_rightly_refused(&self, pool: usize) -> bool {
        let first = LOCK_DISKS + pool * LEGS;
        let good = self.good_legs(pool);
        let is_only_good = |shelf: usize| good == Some(LegSet(1 << (shelf - first)));
        let is_gone = |shelf: &usize| self.lost.get() == Some(*shelf) || self.damaged.borrow().contains(shelf);
        (first..first + LEGS).filter(is_gone).any(is_only_good)
    }
}

fn lock_shape(plan: &Plan) -> DiskShape {
    DiskShape { block_bytes: plan.lock_block_bytes, blocks: (8 << 20) / u64::from(plan.lock_block_bytes) }
}

fn pool_shape(plan: &Plan) -> DiskShape {
    DiskShape { block_bytes: plan.pool_block_bytes, blocks: (64 << 20) / u64::from(plan.pool_block_bytes) }
}

/// Heartbeats and records of both nodes.
fn record_blocks(shape: DiskShape) -> Range<u64> {
    let areas = LockPlaces::new(shape).map(|places| [0, 1].map(|node| places.node_area(node)));
    areas.map_or(0..0, |[a, b]| a.lba..b.lba + u64::from(b.blocks))
}

fn metadata_blocks(shape: DiskShape) -> Range<u64> {
    let block = u64::from(shape.block_bytes);
    let slots = |areas: PoolAreas| areas.metadata_offset / block..areas.intent_offset / block;
    PoolAreas::for_disk(shape).map_or(0..0, slots)
}
