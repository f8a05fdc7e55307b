//! What must hold over the pair at every moment, as named functions.
//!
//! Called by the random schedules after every event, and meant for the model checker; a view of the pair is all they need, so
//! whoever simulates the world can call them. Not here: liveness. Each returns what is wrong as a sentence.

use std::collections::{BTreeMap, BTreeSet};

use crate::key::ReservationKey;
use crate::machine::Machine;
use crate::page::Page;
use crate::record::{PoolEntry, Verdict};
use crate::survey::{LockDiskView, Survey};
use crate::words::{Generation, LegIndex, LegSet, NodeId, PoolId};

/// What a node's driver does with a pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Service {
    /// Nothing, or only keeping what is held.
    Silent,
    /// Commands go through and are answered.
    Answering,
}

/// A reservation of a pool disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Holder {
    /// Whose.
    pub node: NodeId,
    /// 5 or 6.
    pub kind: u8,
}

/// A pool disk as it really is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PoolDiskView {
    /// Registered key of each node.
    pub keys: [Option<ReservationKey>; 2],
    /// Reservation.
    pub reservation: Option<Holder>,
}

impl PoolDiskView {
    /// Whether a write of this node would be carried out (SPC-4 r37 table 64: types 5 and 6 let registrants write).
    #[must_use]
    pub fn lets_write(&self, node: NodeId) -> bool {
        self.reservation.is_none() || self.keys[node.index()].is_some()
    }
}

/// The pair as it really is at one moment.
#[derive(Debug, Clone)]
pub struct PairView<'a> {
    /// Machines of the processes that exist, stopped ones too.
    pub machines: [Option<&'a Machine>; 2],
    /// Pages in registered memory.
    pub pages: [Option<&'a Page>; 2],
    /// Lock disks.
    pub lock_disks: Vec<LockDiskView>,
    /// Pool disks, by pool.
    pub pool_disks: BTreeMap<PoolId, Vec<PoolDiskView>>,
    /// What the drivers do.
    pub services: [BTreeMap<PoolId, Service>; 2],
}

impl PairView<'_> {
    fn survey(&self) -> Survey {
        Survey { disks: self.lock_disks.iter().cloned().map(Some).collect() }
    }

    fn answers(&self, node: NodeId, pool: PoolId) -> bool {
        self.services[node.index()].get(&pool) == Some(&Service::Answering)
    }

    /// The disks of the legs recorded good: a leg recorded bad is nobody's data, and whoever takes it back fences it first.
    fn good_disks(&self, pool: PoolId) -> impl Iterator<Item = &PoolDiskView> {
        let good = self.truth(pool).and_then(|entry| entry.legs.first().copied()).unwrap_or(LegSet(0xff));
        let disks = self.pool_disks[&pool].iter().enumerate();
        disks.filter(move |(leg, _)| good.contains(LegIndex(*leg as u8))).map(|(_, disk)| disk)
    }

    /// The entry that stands for a pool.
    #[must_use]
    pub fn truth(&self, pool: PoolId) -> Option<PoolEntry> {
        self.survey().standing(pool).known().cloned()
    }
}

/// Outcome of one invariant.
pub type Verdicts = Result<(), String>;

/// At most one node that answers for a pool can also get a write onto its disks: a fenced node that has not noticed yet is
/// harmless, two unfenced ones are not.
///
/// # Errors
/// Names the pool.
pub fn invariant_one_writer_per_pool(view: &PairView<'_>) -> Verdicts {
    for pool in view.pool_disks.keys() {
        let writers = NodeId::BOTH
            .into_iter()
            .filter(|node| view.answers(*node, *pool) && view.good_disks(*pool).any(|disk| disk.lets_write(*node)));
        if writers.count() > 1 {
            return Err(format!("{pool}: both nodes answer and can write"));
        }
    }
    Ok(())
}

/// At most one node answers for a pool and could still read what it answers from the disks.
///
/// # Errors
/// Names the pool.
pub fn invariant_one_node_answers(view: &PairView<'_>) -> Verdicts {
    for pool in view.pool_disks.keys() {
        let reads = |disk: &PoolDiskView, node: NodeId| {
            disk.keys[node.index()].is_some() || disk.reservation.is_none_or(|holder| holder.kind == 5)
        };
        let answering = NodeId::BOTH
            .into_iter()
            .filter(|node| view.answers(*node, *pool) && view.good_disks(*pool).all(|disk| reads(disk, *node)));
        if answering.count() > 1 {
            return Err(format!("{pool}: both nodes answer"));
        }
    }
    Ok(())
}

/// Who answers for a pool, and is not fenced off already, has its claim on a majority of the lock disks.
///
/// # Errors
/// Names node and pool.
pub fn invariant_no_serve_without_record_majority(view: &PairView<'_>) -> Verdicts {
    let survey = view.survey();
    for node in NodeId::BOTH {
        let Some(machine) = view.machines[node.index()] else { continue };
        let unfenced = |pool: &PoolId| view.pool_disks[pool].iter().any(|disk| disk.keys[node.index()].is_some());
        for pool in view.pool_disks.keys().filter(|pool| view.answers(node, **pool) && unfenced(pool)) {
            let Some(entry) = machine.entry(*pool) else {
                return Err(format!("{node} answers for {pool} without knowing its record"));
            };
            let claims = |disk: &&LockDiskView| {
                let mut entries = disk.records().filter_map(|record| record.entry(*pool));
                // Or something newer, of whoever is about to take it: that one's fence ends this node's part.
                entries.any(|other| other.generation >= entry.generation)
            };
            if entry.owner != node || view.lock_disks.iter().filter(claims).count() < survey.majority() {
                return Err(format!("{node} answers for {pool} without a record majority"));
            }
        }
    }
    Ok(())
}

/// An announcement in a page is about a COMMIT, or a later record, that stands on a majority.
///
/// # Errors
/// Names the node.
pub fn invariant_commit_before_announce(view: &PairView<'_>) -> Verdicts {
    let survey = view.survey();
    for node in NodeId::BOTH {
        let Some(announced) = view.pages[node.index()].and_then(|page| page.content.announcement) else { continue };
        let commits = |disk: &&LockDiskView| {
            disk.records[node.index()].iter().flatten().any(|record| {
                record.pools.iter().any(|entry| {
                    entry.generation > announced.generation
                        || (entry.generation == announced.generation && entry.verdict == Verdict::Commit)
                })
            })
        };
        if view.lock_disks.iter().filter(commits).count() < survey.majority() {
            return Err(format!("{node} announces generation {} without COMMIT on a majority", announced.generation));
        }
    }
    Ok(())
}

/// Who serves a pool of its own home listens for that home: the portals of a home that has some of its pools are at the home.
///
/// # Errors
/// Names node and pool.
pub fn invariant_home_listens(view: &PairView<'_>) -> Verdicts {
    for node in NodeId::BOTH {
        let Some(machine) = view.machines[node.index()].filter(|machine| !machine.listens_for(node)) else { continue };
        if let Some(pool) = machine.config().homes_of(node).find(|pool| view.answers(node, *pool)) {
            return Err(format!("{node} serves {pool}, and its portals are closed"));
        }
    }
    Ok(())
}

/// The pool disks that are reserved, by pool and leg.
#[must_use]
pub fn reserved_disks(view: &PairView<'_>) -> BTreeSet<(PoolId, usize)> {
    let legs = view.pool_disks.iter().flat_map(|(pool, disks)| disks.iter().enumerate().map(move |it| (*pool, it)));
    legs.filter(|(_, (_, disk))| disk.reservation.is_some()).map(|(pool, (leg, _))| (pool, leg)).collect()
}

/// A pool disk once reserved is never without a reservation: release puts the write guard in place of the exclusive one in the
/// same operation.
///
/// # Errors
/// Names the pool.
pub fn invariant_reserved_disks_stay_reserved(
    ever: &BTreeSet<(PoolId, usize)>,
    now: &BTreeSet<(PoolId, usize)>,
) -> Verdicts {
    match ever.difference(now).next() {
        Some((pool, leg)) => Err(format!("leg {leg} of {pool} lost its reservation")),
        None => Ok(()),
    }
}

/// The generation that stands for a pool never goes back.
///
/// # Errors
/// Names the pool.
pub fn invariant_generation_never_goes_back(highest: &BTreeMap<PoolId, Generation>, view: &PairView<'_>) -> Verdicts {
    for (pool, before) in highest {
        if let Some(entry) = view.truth(*pool)
            && entry.generation < *before
        {
            let areas = view
                .lock_disks
                .iter()
                .map(|disk| {
                    disk.records()
                        .map(|r| {
                            format!(
                                "{}{} {:?}",
                                r.node,
                                r.sequence,
                                r.pools.iter().map(|e| (e.pool.0, e.owner, e.generation.0)).collect::<Vec<_>>()
                            )
                        })
                        .collect::<Vec<_>>()
                })
                .collect::<Vec<_>>();
            return Err(format!("{pool}: generation went from {before} back to {}; {areas:?}", entry.generation));
        }
    }
    Ok(())
}

/// What one incarnation did, for the invariants about order.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Deeds {
    /// Count of everything it did, to order the rest.
    pub clock: u64,
    /// When a pool's fence was seen.
    pub fenced: BTreeMap<PoolId, u64>,
    /// When the survey that was answered last had been ordered, and whether it showed the own key on a majority.
    pub verified: Option<(u64, bool)>,
    /// Whether RELEASED for it was read and every disk was found open.
    pub release_checked: bool,
    /// Pools it has served.
    pub served: BTreeMap<PoolId, u64>,
}

/// A pool is served only after its fence was seen, and a survey ordered after that showed the own key on a majority.
///
/// # Errors
/// Says what is missing.
pub fn invariant_served_after_fence_and_verification(node: NodeId, pool: PoolId, deeds: &Deeds) -> Verdicts {
    let Some(fenced) = deeds.fenced.get(&pool) else {
        return Err(format!("{node} serves {pool} without having seen its fence"));
    };
    match deeds.verified {
        Some((ordered, true)) if ordered > *fenced => Ok(()),
        Some(_) | None => Err(format!("{node} serves {pool} without having verified after its fence")),
    }
}

/// Disks of a pool the partner serves are initialised only after the release was read and checked.
///
/// # Errors
/// Names the node.
pub fn invariant_release_before_disk_init(node: NodeId, deeds: &Deeds) -> Verdicts {
    if deeds.release_checked { Ok(()) } else { Err(format!("{node} initialises disks before the release")) }
}

/// A node stops answering for the partner's identity only when the records give that identity's pools away, or some of them to the partner,
/// which forwards what comes for the others.
///
/// # Errors
/// Names node and identity.
pub fn invariant_close_only_after_giveback(node: NodeId, identity: NodeId, view: &PairView<'_>) -> Verdicts {
    let Some(machine) = view.machines[node.index()] else { return Ok(()) };
    let is_home = |pool: PoolId| view.truth(pool).is_some_and(|entry| entry.owner == identity);
    if identity != node && machine.config().may_split && machine.config().homes_of(identity).any(is_home) {
        return Ok(());
    }
    for pool in machine.config().homes_of(identity) {
        if view.truth(pool).is_some_and(|entry| entry.owner == node) {
            return Err(format!("{node} closes the service of {identity} while the records give it {pool}"));
        }
    }
    Ok(())
}

/// Every invariant over one moment.
///
/// # Errors
/// The first that does not hold.
pub fn check_moment(view: &PairView<'_>) -> Verdicts {
    invariant_one_writer_per_pool(view)?;
    invariant_one_node_answers(view)?;
    invariant_no_serve_without_record_majority(view)?;
    invariant_home_listens(view)?;
    invariant_commit_before_announce(view)
}
