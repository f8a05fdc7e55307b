//! What must hold, by name.
//!
//! Not here: the invariants over a moment, which the failover core names itself ([`understudy_failover::invariants`]). The one idea: a
//! law is broken by a step, and the step that breaks the first one ends its schedule, so that a counterexample says what is wrong and
//! not what came of it.

use std::collections::BTreeMap;
use std::fmt;

use understudy_failover::invariants::{self, PairView, PoolDiskView, Service};
use understudy_failover::mutants::{Mutant, is_on};
use understudy_failover::page::Page;
use understudy_failover::record::{PoolEntry, Record, Verdict};
use understudy_failover::sim::disks::{LockDisk, has_key_majority};
use understudy_failover::words::{LegIndex, NodeId, PoolId};

use crate::clients::written;
use crate::orders::page_of;
use crate::pair::{Node, Pair, Served};

/// A law.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Law {
    /// At most one node that answers for a pool can get a write onto its disks.
    OneWriter,
    /// No acknowledged write is lost.
    NothingLost,
    /// At most one node answers for a volume.
    OneAnswers,
    /// The generation that stands for a pool never goes back.
    GenerationForward,
    /// No generation is handed out twice.
    GenerationOnce,
    /// Nobody serves without having seen its fence, and its key on the lock disks after that.
    FenceSeen,
    /// Nobody serves without its record on a majority.
    RecordStands,
    /// COMMIT stands before it is announced.
    CommitFirst,
    /// Once COMMIT was sent nothing is answered until it is settled.
    CommitHeld,
    /// A disk once reserved stays reserved.
    StaysReserved,
    /// Disks the partner serves from are initialised only after its release was found on them.
    ReleaseFirst,
    /// A node ceases to answer for its partner only after the giveback.
    CloseLast,
    /// Portals open only after a fence was seen.
    PortalsAfterFence,
    /// Nobody gives up who has lost nothing.
    DefeatReal,
    /// Nobody serves from metadata older than recorded.
    MetadataCurrent,
    /// When faults stop, every volume is served again, by the pair or by one node alone.
    ServedAgain,
    /// A sound pair ends with every pool at home.
    HomeAgain,
    /// While a leg stays lost to one node, the pair comes to rest with every volume served.
    AtRest,
    /// When faults stop, what is announced to a node that runs is taken by it: nobody waits for a time limit.
    SeenThrough,
    /// Who serves a pool of its own home listens for that home.
    HomeListens,
}

impl Law {
    /// Every law.
    pub const ALL: [Self; 20] = [
        Self::OneWriter,
        Self::NothingLost,
        Self::OneAnswers,
        Self::GenerationForward,
        Self::GenerationOnce,
        Self::FenceSeen,
        Self::RecordStands,
        Self::CommitFirst,
        Self::CommitHeld,
        Self::StaysReserved,
        Self::ReleaseFirst,
        Self::CloseLast,
        Self::PortalsAfterFence,
        Self::DefeatReal,
        Self::MetadataCurrent,
        Self::ServedAgain,
        Self::HomeAgain,
        Self::AtRest,
        Self::SeenThrough,
        Self::HomeListens,
    ];

    /// As a sentence.
    #[must_use]
    pub const fn sentence(self) -> &'static str {
        match self {
            Self::OneWriter => "one writer per pool's disks",
            Self::NothingLost => "no acknowledged write lost",
            Self::OneAnswers => "at most one node answers for a volume",
            Self::GenerationForward => "generations never go back",
            Self::GenerationOnce => "no generation is handed out twice",
            Self::FenceSeen => "nobody serves without having seen its fence",
            Self::RecordStands => "nobody serves without its record on a majority",
            Self::CommitFirst => "COMMIT stands before it is announced",
            Self::CommitHeld => "nothing is answered once COMMIT was sent, until it is settled",
            Self::StaysReserved => "a disk once reserved stays reserved",
            Self::ReleaseFirst => "no disk is initialised before its release was seen",
            Self::CloseLast => "the partner's service ends only after the giveback",
            Self::PortalsAfterFence => "portals open only after the fence",
            Self::DefeatReal => "nobody gives up who has lost nothing",
            Self::MetadataCurrent => "no metadata older than recorded is served",
            Self::ServedAgain => "when faults stop every volume is served again",
            Self::HomeAgain => "a sound pair ends with every pool at home",
            Self::AtRest => "while a leg stays lost to one node, the pair comes to rest with every volume served",
            Self::HomeListens => "a home that serves any of its pools listens",
            Self::SeenThrough => "when faults stop an announced COMMIT is taken without waiting for a limit",
        }
    }
}

impl fmt::Display for Law {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.sentence())
    }
}

fn service(node: &Node) -> BTreeMap<PoolId, Service> {
    let one = |served| if served == Served::Yes { Service::Answering } else { Service::Silent };
    node.mounts.iter().map(|(pool, mount)| (*pool, one(mount.served))).collect()
}

/// Shows a state as the invariants want to see it.
pub fn with_view<R>(pair: &Pair, look: impl FnOnce(&PairView<'_>) -> R) -> R {
    let announced = |node: NodeId| -> Option<Page> {
        let machine = pair.node(node).machine.as_ref()?;
        machine.shown()?.announcement?;
        page_of(pair.node(node), node)
    };
    let pages = [announced(NodeId::A), announced(NodeId::B)];
    let disks =
        |legs: &Vec<crate::pair::Leg>| -> Vec<PoolDiskView> { legs.iter().map(|leg| leg.disk.pr.clone()).collect() };
    look(&PairView {
        machines: [pair.nodes[0].machine.as_deref(), pair.nodes[1].machine.as_deref()],
        pages: [pages[0].as_ref(), pages[1].as_ref()],
        lock_disks: pair.shelf.lock_disks.iter().map(LockDisk::view).collect(),
        pool_disks: pair.shelf.legs.iter().map(|(pool, legs)| (*pool, disks(legs))).collect(),
        services: [service(&pair.nodes[0]), service(&pair.nodes[1])],
    })
}

/// Whether anything the laws of a moment look at can be different now.
#[must_use]
pub fn may_have_changed(before: &Pair, now: &Pair) -> bool {
    let node = |it: NodeId| {
        let (before, now) = (before.node(it), now.node(it));
        let words = |node: &Node| {
            let machine = node.machine.as_ref();
            let entries = machine.map(|machine| node.mounts.keys().map(|pool| machine.entry(*pool).cloned()).collect());
            let entries: Option<Vec<_>> = entries;
            let listens = machine.map(|machine| NodeId::BOTH.map(|node| machine.listens_for(node)));
            (entries, listens, machine.and_then(|machine| machine.shown()?.announcement))
        };
        !std::ptr::eq(before, now) && (before.mounts != now.mounts || words(before) != words(now))
    };
    !std::sync::Arc::ptr_eq(&before.shelf, &now.shelf) || NodeId::BOTH.into_iter().any(node)
}

/// Checks every law over a moment and over what is remembered, and remembers this moment.
pub fn judge(pair: &mut Pair) {
    if pair.memory.broken.is_some() {
        return;
    }
    let before = pair.memory.clone();
    let (verdict, stands, reserved) = with_view(pair, |view| {
        let verdict = moment(view);
        let stands: Vec<_> = pair.pools().filter_map(|pool| view.truth(pool)).collect();
        (verdict, stands, invariants::reserved_disks(view))
    });
    let mut verdict = verdict.and_then(|()| {
        invariants::invariant_reserved_disks_stay_reserved(&before.reserved, &reserved)
            .map_err(|how| (Law::StaysReserved, how))
    });
    for entry in &stands {
        let Some(last) = before.stood.get(&entry.pool) else { continue };
        if entry.generation < last.generation {
            let how = format!("{}: generation went from {} back to {}", entry.pool, last.generation, entry.generation);
            verdict = verdict.and(Err((Law::GenerationForward, how)));
        } else if entry.generation == last.generation && entry != last {
            let how = format!("{}: generation {} stands for {last:?} and for {entry:?}", entry.pool, entry.generation);
            verdict = verdict.and(Err((Law::GenerationOnce, how)));
        }
    }
    verdict = verdict
        .and_then(|()| commit_is_held(pair))
        .and_then(|()| reads_show_what_was_acknowledged(pair))
        .and_then(|()| metadata_is_current(pair));
    if let Err((law, how)) = verdict {
        return pair.break_law(law, how);
    }
    let news = stands.iter().any(|entry| before.stood.get(&entry.pool) != Some(entry));
    if news || !reserved.is_subset(&before.reserved) {
        let memory = pair.memory_mut();
        memory.stood.extend(stands.into_iter().map(|entry| (entry.pool, entry)));
        memory.reserved.extend(reserved);
    }
}

fn moment(view: &PairView<'_>) -> Result<(), (Law, String)> {
    invariants::invariant_one_writer_per_pool(view).map_err(|how| (Law::OneWriter, how))?;
    invariants::invariant_one_node_answers(view).map_err(|how| (Law::OneAnswers, how))?;
    invariants::invariant_no_serve_without_record_majority(view).map_err(|how| (Law::RecordStands, how))?;
    invariants::invariant_home_listens(view).map_err(|how| (Law::HomeListens, how))?;
    invariants::invariant_commit_before_announce(view).map_err(|how| (Law::CommitFirst, how))
}

/// A node that answers has no COMMIT of its own on any lock disk, or on its way there, that is newer than what it goes by.
fn commit_is_held(pair: &Pair) -> Result<(), (Law, String)> {
    for (node, pool) in NodeId::BOTH.into_iter().flat_map(|node| pair.pools().map(move |pool| (node, pool))) {
        let machine = pair.node(node).machine.as_ref();
        let Some(known) = machine.and_then(|machine| machine.entry(pool)).filter(|_| pair.node(node).answers(pool))
        else {
            continue;
        };
        let sent = pair.shelf.lock_disks.iter().flat_map(|disk| {
            let late = disk.late.iter().filter(|(owner, _)| *owner == node).map(|(_, record)| record);
            disk.slots[node.index()].iter().flatten().chain(late)
        });
        let mut entries = sent.filter_map(|record| record.entry(pool));
        let away = |entry: &&PoolEntry| entry.verdict == Verdict::Commit && entry.owner != node;
        if entries.by_ref().filter(away).any(|entry| entry.generation > known.generation) {
            let how = format!("{node} answers for {pool} while its own COMMIT is not settled");
            return Err((Law::CommitHeld, how));
        }
    }
    Ok(())
}

/// A record that reaches a lock disk must not name a generation that stands for something else.
pub(crate) fn stored(pair: &mut Pair, record: &Record) {
    let twice = record.pools.iter().find_map(|entry| {
        let stood = pair.memory.stood.get(&entry.pool)?;
        (stood.generation == entry.generation && stood != entry).then(|| {
            format!(
                "{}: generation {} stands for {stood:?}, and is written for {entry:?}",
                entry.pool, entry.generation
            )
        })
    });
    if let Some(how) = twice {
        pair.break_law(Law::GenerationOnce, how);
    }
}

/// Whether a node would answer a read of this leg: every other leg it counts on lets it read, too, or, where one is out of reach, its key
/// stands on a majority of the lock disks.
fn is_witnessed(pair: &Pair, node: NodeId, pool: PoolId, read: u8) -> bool {
    if is_on(Mutant::ReadUnwitnessed) {
        return true;
    }
    written(pair, node, pool).into_iter().filter(|leg| *leg != read).all(|leg| {
        let disk = &pair.leg(pool, leg).disk;
        if disk.reachable[node.index()] { disk.lets_read(node) } else { has_key_majority(&pair.shelf.lock_disks, node) }
    })
}

/// Whatever a node that answers could read now is at least what was acknowledged last.
fn reads_show_what_was_acknowledged(pair: &Pair) -> Result<(), (Law, String)> {
    for (node, pool) in NodeId::BOTH.into_iter().flat_map(|node| pair.pools().map(move |pool| (node, pool))) {
        let mount = &pair.node(node).mounts[&pool];
        if mount.served != Served::Yes {
            continue;
        }
        let good = (0..2u8).filter(|leg| mount.good.contains(LegIndex(*leg)));
        let read: Vec<u8> = if mount.equal { good.collect() } else { good.take(1).collect() };
        let acked = pair.memory.acked[&pool];
        for leg in read {
            let disk = &pair.leg(pool, leg).disk;
            let shown = disk.reachable[node.index()] && disk.lets_read(node) && is_witnessed(pair, node, pool, leg);
            if shown && disk.value < acked {
                let how =
                    format!("{node} would answer a read of {pool} with {}, after {acked} was acknowledged", disk.value);
                return Err((Law::NothingLost, how));
            }
        }
    }
    Ok(())
}

fn metadata_is_current(pair: &Pair) -> Result<(), (Law, String)> {
    for (node, pool) in NodeId::BOTH.into_iter().flat_map(|node| pair.pools().map(move |pool| (node, pool))) {
        let mount = &pair.node(node).mounts[&pool];
        let machine = pair.node(node).machine.as_ref();
        let recorded = machine.and_then(|machine| machine.entry(pool)).map(|entry| entry.metadata_version.0);
        if mount.served == Served::Yes && recorded.is_some_and(|recorded| mount.version < recorded) {
            let how = format!("{node} serves {pool} at metadata version {}, recorded is {recorded:?}", mount.version);
            return Err((Law::MetadataCurrent, how));
        }
    }
    Ok(())
}
