//! What clients see of a node: the targets of both identities, their portals, and the pools behind them.
//!
//! An *identity* is a node's name towards clients: its target and its portals. A node always has its own, and its
//! partner's while it serves the partner's pools. Nothing is decided here: the failover machine orders each step.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Mutex, OwnedMutexGuard};
use understudy_device::Target;
use understudy_failover::effect::LegsAre;
use understudy_failover::input::{NotHeld, OpenOutcome};
use understudy_failover::words::{Generation, LegSet, MetadataVersion, NodeId, PoolId};
use understudy_layout::Uuid;
use understudy_pool::{Expected, FencedLeg, InSync, Inventory, LoadError, Pool, PoolOptions, VolumeError, discover};
use understudy_portal::{LoginGate, Portal, PortalOptions};

use super::addresses::PortalAddresses;
#[cfg(feature = "mistakes")]
use super::mistakes::{Mistake, is_made};
use super::overseer::PoolOverseer;
use super::publisher::Publisher;
use super::shelves::PoolDisks;
use super::world::{DataWay, World};
use crate::config::{Config, NodeName};

mod units;
mod volumes;
mod ways;

pub use units::{OpenPool, VolumeUnit};
pub use volumes::CreateError;
use ways::Forwarded;

/// Disks asked at the same time while they are initialised: enough to hide their latency, few enough for a small shelf.
const AT_ONCE: usize = 32;

/// What a pool's disks must show before it is opened: everything the record says of it.
#[derive(Debug, Clone)]
pub struct Recorded {
    /// Generation now.
    pub generation: Generation,
    /// The disks have this metadata version or a newer one.
    pub metadata_version: MetadataVersion,
    /// How the mirrors may be read.
    pub legs_are: LegsAre,
    /// Legs recorded good, per mirror.
    pub legs: Vec<LegSet>,
}

/// What clients see of a node.
pub struct Service {
    world: Rc<dyn World>,
    config: Rc<Config>,
    own: NodeName,
    disks: Rc<PoolDisks>,
    publisher: Rc<Publisher>,
    addresses: Rc<PortalAddresses>,
    identities: [Identity; 2],
    data: Option<Rc<DataWay>>,
    overseers: BTreeMap<PoolId, Rc<PoolOverseer>>,
    pools: RefCell<BTreeMap<PoolId, Rc<OpenPool>>>,
    /// Pools ordered to be opened whose answer is still out: while there is one, logins stay held.
    opening: RefCell<Vec<PoolId>>,
    /// Pools let through.
    served: RefCell<BTreeSet<PoolId>>,
    /// One volume made or deleted at a time in a pool, and none while the pool is held: the metadata version of a hand-off
    /// is final.
    provisioning: BTreeMap<PoolId, Arc<Mutex<()>>>,
    /// The turns of pools on hold, kept from everyone else until they are carried on or closed.
    turns: RefCell<BTreeMap<PoolId, OwnedMutexGuard<()>>>,
    /// How often each pool was carried on or closed: an order to hold it that was waiting meanwhile is void.
    resumed: RefCell<BTreeMap<PoolId, u64>>,
}

struct Identity {
    target: Rc<Target>,
    gate: RefCell<LoginGate>,
    portals: RefCell<Vec<Portal>>,
    forwarded: Forwarded,
}

/// The node of the configuration that the failover core calls so.
#[must_use]
pub fn node_name(node: NodeId) -> NodeName {
    match node {
        NodeId::A => NodeName::A,
        NodeId::B => NodeName::B,
    }
}

/// The number of a node of the configuration.
#[must_use]
pub fn node_id(node: NodeName) -> NodeId {
    match node {
        NodeName::A => NodeId::A,
        NodeName::B => NodeId::B,
    }
}

impl Service {
    /// Nothing is open, nothing listens.
    #[must_use]
    pub fn new(
        world: Rc<dyn World>,
        (config, own): (Rc<Config>, NodeName),
        disks: Rc<PoolDisks>,
        publisher: Rc<Publisher>,
        addresses: Rc<PortalAddresses>,
        overseers: BTreeMap<PoolId, Rc<PoolOverseer>>,
    ) -> Self {
        let identity = |node: NodeName| Identity {
            target: Target::new(config.node(node).target.clone()),
            gate: RefCell::new(LoginGate::held()),
            portals: RefCell::default(),
            forwarded: Forwarded::default(),
        };
        let identities = NodeName::BOTH.map(identity);
        let provisioning = config.pools.iter().map(|pool| (super::shelves::pool_id(pool.id), Arc::default())).collect();
        let data = world.data_way(&config, own).map(Rc::new);
        Self {
            world,
            config,
            own,
            data,
            disks,
            publisher,
            addresses,
            identities,
            overseers,
            pools: RefCell::default(),
            opening: RefCell::default(),
            served: RefCell::default(),
            provisioning,
            turns: RefCell::default(),
            resumed: RefCell::default(),
        }
    }

    /// The overseer of a pool.
    #[must_use]
    pub fn overseer(&self, pool: PoolId) -> Option<&Rc<PoolOverseer>> {
        self.overseers.get(&pool)
    }

    /// The pools open here, warm ones too.
    #[must_use]
    pub fn open_pools(&self) -> Vec<(PoolId, Rc<OpenPool>)> {
        self.pools.borrow().iter().map(|(id, pool)| (*id, Rc::clone(pool))).collect()
    }

    /// A pool open here.
    #[must_use]
    pub fn opened(&self, pool: PoolId) -> Option<Rc<OpenPool>> {
        self.pools.borrow().get(&pool).cloned()
    }

    fn identity_of(&self, pool: PoolId) -> Option<&Identity> {
        Some(&self.identities[self.home_of(pool)?.index()])
    }

    /// The portals that listen here, with the node whose identity they are part of.
    #[must_use]
    pub fn portals(&self) -> Vec<(NodeName, Portal)> {
        let of = |node: NodeName| {
            let portals = self.identities[node.index()].portals.borrow();
            portals.iter().map(move |portal| (node, portal.clone())).collect::<Vec<_>>()
        };
        NodeName::BOTH.into_iter().flat_map(of).collect()
    }

    /// When a command to a volume of this identity was last completed here, by whichever way it came.
    #[must_use]
    pub fn last_completion(&self, identity: NodeName) -> Option<tokio::time::Instant> {
        let target = &self.config.node(identity).target;
        let last = |portal: &Portal| portal.target_counters(target)?.last_completion;
        let at_portals =
            self.identities.iter().filter_map(|place| place.portals.borrow().iter().filter_map(last).max());
        let forwarded = self.identities[identity.index()].forwarded.portal.borrow();
        at_portals.chain(forwarded.iter().filter_map(last)).max()
    }

    /// The identity whose clients would notice a move of pools: the partner's while it is served here, else the own one.
    #[must_use]
    pub fn moving_identity(&self, own: NodeName) -> NodeName {
        if self.identities[own.partner().index()].portals.borrow().is_empty() { own } else { own.partner() }
    }

    /// Whether another pool of this one's home is served here.
    #[must_use]
    pub fn serves_beside(&self, pool: PoolId) -> bool {
        let home = self.home_of(pool);
        self.served.borrow().iter().any(|other| *other != pool && self.home_of(*other) == home)
    }

    /// The node whose identity a pool's volumes are served under.
    #[must_use]
    pub fn home_of(&self, pool: PoolId) -> Option<NodeName> {
        self.config.pools.iter().find(|layout| super::shelves::pool_id(layout.id) == pool).map(|layout| layout.home)
    }

    /// Listens where this identity's portals are, logins held, and then brings the addresses that are to come here.
    pub async fn open_portals(&self, identity: NodeId) {
        let node = node_name(identity);
        let place = &self.identities[node.index()];
        if !place.portals.borrow().is_empty() {
            return;
        }
        let gate = LoginGate::held();
        *place.gate.borrow_mut() = gate.clone();
        let other = self.config.node(node.partner());
        for (path, address) in self.config.node(node).portals.iter().enumerate() {
            let presence = self.addresses.presence(node, *address);
            let options = PortalOptions { presence, ..self.config.portal_options() };
            let portal = self.bind_until_free(*address, options).await;
            self.offer_own(node, &portal, gate.clone());
            // On the same path if there is one.
            self.offer_other(node, &portal, other.portals.get(path).or(other.portals.first()).copied());
            place.portals.borrow_mut().push(portal);
        }
        self.addresses.arrive(node).await;
        self.tell_of_ways();
    }

    /// Binds a portal, again and again while another process has the address without sharing it.
    async fn bind_until_free(&self, address: std::net::SocketAddr, options: PortalOptions) -> Portal {
        loop {
            match self.world.bind_portal(address, options.clone()) {
                Ok(portal) => return portal,
                Err(error) => {
                    tracing::error!("portal {address}: {error}; trying again");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
    }

    /// New connections for this identity come here again, though the partner may have begun to listen later.
    pub fn reclaim_portals(&self, identity: NodeId) {
        for portal in self.identities[node_name(identity).index()].portals.borrow().iter() {
            portal.reclaim();
        }
        self.addresses.reclaim(node_name(identity));
    }

    /// Stops answering for this identity.
    pub fn close_portals(&self, identity: NodeId) {
        let node = node_name(identity);
        let place = &self.identities[node.index()];
        if !self.keeps_some_of(node) {
            place.forwarded.end_sessions(&self.config.node(node).target);
        }
        let portals = place.portals.take();
        for portal in &portals {
            for target in NodeName::BOTH.map(|node| &self.config.node(node).target) {
                portal.dismiss_sessions(target);
            }
        }
        self.addresses.depart(node, portals);
        self.tell_of_ways();
    }

    /// Discovers the disks of these pools' legs recorded good, reading only, and loads the pools; names those that could not be loaded.
    pub async fn initialise(
        &self,
        good: &BTreeMap<PoolId, Vec<LegSet>>,
    ) -> Result<(Inventory, BTreeSet<PoolId>), Conflicted> {
        let inventory = self.inventory(good).await;
        if inventory.conflicts().next().is_some() {
            return Err(Conflicted);
        }
        let mut unopenable = BTreeSet::new();
        for (id, legs) in good {
            // Whatever the disks have is warm, and is looked at again when the pool is opened.
            let recorded = Recorded {
                generation: Generation(0),
                metadata_version: MetadataVersion(0),
                legs_are: LegsAre::PerhapsDifferent,
                legs: legs.clone(),
            };
            match self.load(*id, &inventory, &recorded).await {
                Ok(warm) => self.make_units(*id, &warm).await,
                Err(error) => {
                    tracing::warn!("{id} could not be loaded beforehand: {error}");
                    unopenable.insert(*id);
                }
            }
        }
        Ok((inventory, unopenable))
    }

    /// Identifies the disks of these pools' legs recorded good and reads their labels. Both nodes take the same legs, so that
    /// their digests compare.
    pub async fn inventory(&self, good: &BTreeMap<PoolId, Vec<LegSet>>) -> Inventory {
        let disks = good.iter().flat_map(|(pool, legs)| self.disks.good_of(*pool, legs)).map(|placed| placed.disk);
        discover(disks.collect(), AT_ONCE, |_| self.publisher.progress()).await
    }

    async fn load(&self, id: PoolId, inventory: &Inventory, recorded: &Recorded) -> Result<Rc<OpenPool>, LoadError> {
        let overseer = self.overseers.get(&id).expect("orders name pools of the configuration");
        let name = self.config.pools.iter().find(|pool| super::shelves::pool_id(pool.id) == id).map(|pool| &pool.name);
        let uuid = inventory.pools().into_iter().find(|(_, found)| Some(found) == name).map(|(uuid, _)| uuid);
        // A pool none of whose disks was found has no uuid to ask for: the load says so.
        let uuid = uuid.unwrap_or(Uuid([0; 16]));
        let (disks, options) = (inventory.pool_disks(uuid), PoolOptions::default());
        let pool = Pool::load(disks, expected(uuid, recorded), Rc::clone(overseer) as _, options).await?;
        self.publisher.progress();
        let opened = OpenPool::new(pool, recorded.generation);
        let before = self.pools.borrow_mut().insert(id, Rc::clone(&opened));
        if let Some(before) = before {
            self.take_down(id, &before);
        }
        Ok(opened)
    }

    /// Makes a pool ready to serve: loads it, or reads the tail of a warm one, and puts its volumes behind the target, held.
    pub async fn open(&self, id: PoolId, recorded: Recorded) -> OpenOutcome {
        self.opening.borrow_mut().push(id);
        let outcome = self.open_inner(id, &recorded).await;
        self.opening.borrow_mut().retain(|other| *other != id);
        match outcome {
            Ok(metadata_version) => OpenOutcome::Opened { metadata_version },
            Err(error) => {
                tracing::error!("{id} could not be opened: {error}");
                self.open_gate_if_ready(id);
                OpenOutcome::Failed
            }
        }
    }

    async fn open_inner(&self, id: PoolId, recorded: &Recorded) -> Result<MetadataVersion, LoadError> {
        let opened = match self.opened(id) {
            Some(known) => match known.pool.refresh(expected(known.pool.uuid(), recorded)).await {
                Ok(_) => known,
                Err(LoadError::NotWarm) => self.open_again(id, recorded).await?,
                Err(error) => return Err(error),
            },
            None => self.load_from_disks(id, recorded).await?,
        };
        opened.generation.set(recorded.generation);
        self.bring_in_line(id, &opened).await;
        Ok(MetadataVersion(opened.pool.metadata_version().0))
    }

    async fn load_from_disks(&self, id: PoolId, recorded: &Recorded) -> Result<Rc<OpenPool>, LoadError> {
        let inventory = self.inventory(&[(id, recorded.legs.clone())].into()).await;
        self.load(id, &inventory, recorded).await
    }

    /// A pool that was handed over, held here since, and is claimed back: the partner may have written to it, so nothing known
    /// of it counts. Held commands are dropped unanswered; their clients log in again, which is held until the pool is
    /// served, so that none of them finds its volume missing.
    async fn open_again(&self, id: PoolId, recorded: &Recorded) -> Result<Rc<OpenPool>, LoadError> {
        let gate = self.identity_of(id).map(|place| place.gate.borrow().clone());
        gate.iter().for_each(LoginGate::hold);
        if let Some(place) = self.identity_of(id) {
            place.forwarded.end_sessions(place.target.name());
        }
        self.close(id);
        let loaded = self.load_from_disks(id, recorded).await;
        let home = self.home_of(id);
        if loaded.is_err() && self.open_pools().iter().any(|(other, _)| self.home_of(*other) == home) {
            // The clients of the identity's other pools are not to wait for this one.
            gate.iter().for_each(LoginGate::open);
            self.identity_of(id).into_iter().for_each(|place| place.forwarded.gate.open());
        }
        loaded
    }

    /// Lets the pool's commands through, and the logins once no other pool is on its way. A pool whose disks refuse is tried again
    /// and again, with its clients waiting: the machine takes it for served and orders it once.
    pub async fn serve(&self, id: PoolId, fenced: &[FencedLeg]) {
        let Some(opened) = self.opened(id) else { return };
        let generation = u64::from(opened.generation.get().0);
        // BOUND: until the disks take it, or the pool is closed, which stops it.
        while let Err(error) = opened.pool.start(generation, fenced).await {
            tracing::error!("{id} could not be started: {error}");
            if matches!(error, VolumeError::Fenced) {
                return;
            }
            tokio::time::sleep(self.config.timing.retry).await;
        }
        self.resume(id);
        self.served.borrow_mut().insert(id);
        self.open_gate_if_ready(id);
    }

    /// Lets the logins of a pool's identity through once one of its pools is served and none is on its way: a client that
    /// comes in finds all units there are going to be.
    fn open_gate_if_ready(&self, id: PoolId) {
        let home = self.home_of(id);
        let on_its_way = self.opening.borrow().iter().any(|other| self.home_of(*other) == home);
        let served = self.served.borrow().iter().any(|other| self.home_of(*other) == home);
        if let (Some(place), true, false) = (self.identity_of(id), served, on_its_way) {
            place.gate.borrow().open();
            place.forwarded.gate.open();
        }
    }

    /// Holds new commands, drains those in flight, flushes.
    pub async fn hold(&self, id: PoolId) -> Result<(MetadataVersion, LegsAre), NotHeld> {
        // A pool that is not open has nothing under way, and nothing to hand over: the machine only holds what it serves.
        let Some(opened) = self.opened(id) else { return Err(NotHeld::FlushFailed) };
        // Nor one that is still being started: what is resumed when it is would be taken for held.
        if !self.served.borrow().contains(&id) {
            return Err(NotHeld::FlushFailed);
        }
        let ordered = self.times_resumed(id);
        if !self.turns.borrow().contains_key(&id) {
            let turn = self.turn(id).await;
            if self.times_resumed(id) != ordered {
                return Err(NotHeld::DrainTimedOut);
            }
            self.turns.borrow_mut().insert(id, turn);
        }
        opened.gate.hold();
        #[cfg(feature = "mistakes")]
        let drains = !is_made(Mistake::HeldWithoutDrain);
        #[cfg(not(feature = "mistakes"))]
        let drains = true;
        if drains {
            opened.gate.drained().await;
        }
        if opened.pool.writes_of_unknown_outcome() > 0 {
            return Err(NotHeld::OutcomeUnknown);
        }
        opened.pool.flush().await.map_err(|_| NotHeld::FlushFailed)?;
        let legs_are = if opened.pool.in_sync() { LegsAre::Equal } else { LegsAre::PerhapsDifferent };
        Ok((MetadataVersion(opened.pool.metadata_version().0), legs_are))
    }

    /// Holds everything at once and acknowledges nothing.
    pub fn freeze(&self, id: PoolId) {
        if let Some(opened) = self.opened(id) {
            opened.gate.freeze();
        }
    }

    fn times_resumed(&self, id: PoolId) -> u64 {
        self.resumed.borrow().get(&id).copied().unwrap_or(0)
    }

    /// Ends the hold of a pool, also one that is still being waited for.
    fn end_hold(&self, id: PoolId) {
        *self.resumed.borrow_mut().entry(id).or_default() += 1;
        self.turns.borrow_mut().remove(&id);
    }

    async fn turn(&self, id: PoolId) -> OwnedMutexGuard<()> {
        let turn = self.provisioning.get(&id).expect("orders name pools of the configuration");
        Arc::clone(turn).lock_owned().await
    }

    /// Carries on what was held or frozen.
    pub fn resume(&self, id: PoolId) {
        self.end_hold(id);
        if let Some(opened) = self.opened(id) {
            opened.gate.resume();
        }
    }

    /// Forgets a pool; what is held is dropped without an answer.
    pub fn close(&self, id: PoolId) {
        self.end_hold(id);
        if self.served.borrow_mut().remove(&id) {
            self.end_forwarded_if_gone(id);
        }
        let Some(opened) = self.pools.borrow_mut().remove(&id) else { return };
        #[cfg(feature = "mistakes")]
        if is_made(Mistake::ClosedUnfenced) {
            return opened.pool.stop();
        }
        self.take_down(id, &opened);
        self.pools_moved();
    }

    /// What the disks of these pools say, flushed beforehand, for a hand-off.
    pub async fn flush_pools(&self, pools: &[PoolId]) {
        for opened in pools.iter().filter_map(|id| self.opened(*id)) {
            // A flush that fails now fails again while the pool is held, where it counts.
            let _ = opened.pool.flush().await;
        }
    }
}

/// A disk refused with a reservation conflict.
#[derive(Debug)]
pub struct Conflicted;

fn expected(pool: Uuid, recorded: &Recorded) -> Expected {
    #[cfg(feature = "mistakes")]
    let recorded = &match is_made(Mistake::LegsTakenForEqual) {
        true => Recorded { legs_are: LegsAre::Equal, ..recorded.clone() },
        false => recorded.clone(),
    };
    #[cfg(feature = "mistakes")]
    let recorded = &match is_made(Mistake::DroppedLegsRead) {
        true => Recorded { legs: vec![LegSet(u8::MAX); recorded.legs.len()], ..recorded.clone() },
        false => recorded.clone(),
    };
    Expected {
        pool,
        at_least: understudy_layout::MetadataVersion(recorded.metadata_version.0),
        legs_good: recorded.legs.iter().map(|legs| understudy_pool::LegSet(legs.0)).collect(),
        in_sync: match recorded.legs_are {
            LegsAre::Equal => InSync::Yes,
            LegsAre::PerhapsDifferent => InSync::No,
        },
    }
}

#[cfg(test)]
#[path = "service_tests.rs"]
mod tests;
