//! The search: every state a scene can reach, breadth first, and what was found.
//!
//! Not here: what can happen ([`crate::moves`]) and what must hold ([`crate::laws`]). The one idea: a state once seen is kept as a fingerprint
//! of 64 bits and the way to it as one number; whole states only for the level being followed. So the first counterexample found is
//! one of the shortest.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use understudy_failover::page::StateWord;
use understudy_failover::record::Record;
use understudy_failover::sim::PAIR;
use understudy_failover::sim::disks::{LockDisk, PoolDisk};
use understudy_failover::words::{LegSet, MetadataVersion, NodeId};

use crate::fair::{self, Company, Homecomings};
use crate::laws::Law;
use crate::moves::{self, Move};
use crate::pair::{Faults, Leg, Memory, Node, Pair, Shelf};
use crate::scenes::{Scene, Start};

/// A law broken.
#[derive(Debug, Clone)]
pub struct Counterexample {
    /// Which.
    pub law: Law,
    /// How.
    pub how: String,
    /// What led there.
    pub moves: Vec<Move>,
}

/// What a search found.
#[derive(Debug)]
pub struct Report {
    /// Of which scene.
    pub scene: &'static str,
    /// States that differ.
    pub states: usize,
    /// Moves followed.
    pub moves: usize,
    /// Longest shortest way to a state.
    pub depth: usize,
    /// Whether every state was followed to its end.
    pub complete: bool,
    /// How long it took.
    pub took: Duration,
    /// A law broken, if any.
    pub broken: Option<Counterexample>,
}

/// What a search says of itself while it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Told {
    /// Nothing.
    Nothing,
    /// How many states each level has, to standard error.
    EveryLevel,
}

/// How a search is run.
#[derive(Debug, Clone, Copy)]
pub struct Effort {
    /// Threads.
    pub threads: usize,
    /// Longest time; what is left then is not explored, and the report says so.
    pub limit: Duration,
    /// Whether it says how far it is.
    pub told: Told,
}

/// Both off; the records as the pair was made, or every pool at the other node.
fn powered_off(scene: &Scene) -> Pair {
    let legs = vec![LegSet::first(2)];
    let owner = |home: &NodeId| if scene.start == Start::Crossed { home.partner() } else { *home };
    let pools = scene.homes.iter().zip(scene.pools());
    let initial =
        Record::initial(PAIR, pools.map(|(home, pool)| (pool, owner(home), MetadataVersion(1), legs.clone())));
    let mut disk = LockDisk::default();
    disk.store(NodeId::A, &initial);
    let leg = Leg { disk: PoolDisk::new(), version: 1 };
    let shelf = Shelf {
        lock_disks: vec![disk; scene.lock_disks],
        legs: scene.pools().map(|pool| (pool, vec![leg.clone(), leg.clone()])).collect(),
    };
    let memory = Memory {
        faults: Faults::default(),
        acked: scene.pools().map(|pool| (pool, 0)).collect(),
        next_value: 1,
        stood: std::collections::BTreeMap::new(),
        reserved: std::collections::BTreeSet::new(),
        broken: None,
    };
    Pair::new([Node::off(scene.pools()), Node::off(scene.pools())], shelf, memory)
}

/// The state a scene begins with. The mistake switched on is not made on the way there.
///
/// # Panics
/// If the sound pair does not get there: nothing else would be worth exploring.
#[must_use]
pub fn beginning(scene: &Scene) -> Pair {
    let sound = Scene { mutant: None, ..scene.clone() };
    let come_home =
        |pair: &Pair, company| fair::run(&sound, pair, company, None, &mut None).expect("a sound pair comes home");
    let off = powered_off(&sound);
    let mut pair = match scene.start {
        Start::Off | Start::Crossed => off,
        Start::Legless(node) => {
            let mut legless = off;
            let legs = legless.shelf_mut().legs.values_mut().flatten();
            legs.for_each(|leg| leg.disk.reachable[node.index()] = false);
            legless
        }
        Start::Home => come_home(&off, Company::Both),
        Start::TakenOver => come_home(&come_home(&off, Company::Both), Company::Alone(NodeId::B)),
        Start::Ready => {
            let alone = come_home(&come_home(&off, Company::Both), Company::Alone(NodeId::B));
            fair::run_until(&sound, &alone, |pair| {
                pair.node(NodeId::A).running().is_some_and(|machine| machine.state_word() == StateWord::MailboxWait)
            })
        }
        Start::Refused(node) => {
            let home = come_home(&off, Company::Both);
            let served = if node == NodeId::A { come_home(&home, Company::Alone(NodeId::B)) } else { home };
            fair::take_over_short_of_a_leg(&sound, &served, node)
        }
    };
    pair.memory_mut().faults = scene.faults;
    for node in NodeId::BOTH {
        // Runs made on the way here do not count.
        let it = pair.node_mut(node);
        it.make_canonical();
    }
    pair.reseal();
    pair
}

/// From where a state was first reached, and by which of the moves possible there.
#[derive(Debug, Clone, Copy)]
struct Reached {
    from: u64,
    by: u16,
}

/// How many locks share the table of states.
const SHARDS: usize = 64;

/// A fingerprint is spread evenly already.
#[derive(Default, Clone, Copy)]
struct AsIs(u64);

impl Hasher for AsIs {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _: &[u8]) {
        // PANIC: only fingerprints are hashed with it.
        unreachable!("a fingerprint is one number");
    }

    fn write_u64(&mut self, number: u64) {
        self.0 = number;
    }
}

type Table = HashMap<u64, Reached, BuildHasherDefault<AsIs>>;

struct Search {
    scene: Scene,
    seen: Vec<Mutex<Table>>,
    homecomings: Homecomings,
    moves: AtomicUsize,
    broken: Mutex<Option<(u64, Law, String)>>,
    ends: Instant,
}

impl Search {
    /// Whether this state is new.
    fn enter(&self, fingerprint: u64, reached: Reached) -> bool {
        // PANIC: nobody panics while holding the lock.
        let mut shard = self.seen[(fingerprint >> 56) as usize % SHARDS].lock().expect("not poisoned");
        match shard.entry(fingerprint) {
            Entry::Occupied(_) => false,
            Entry::Vacant(free) => {
                free.insert(reached);
                true
            }
        }
    }

    fn states(&self) -> usize {
        self.seen.iter().map(|shard| shard.lock().expect("not poisoned").len()).sum()
    }

    fn is_over(&self) -> bool {
        Instant::now() >= self.ends || self.broken.lock().expect("not poisoned").is_some()
    }

    fn note(&self, fingerprint: u64, law: Law, how: String) {
        self.broken.lock().expect("not poisoned").get_or_insert((fingerprint, law, how));
    }

    /// What must hold of a new state.
    fn judge(&self, pair: &Pair) {
        if let Some((law, how)) = &pair.memory.broken {
            self.note(pair.fingerprint(), *law, how.clone());
        } else if self.scene.liveness
            && let Err(stuck) = self.homecomings.check(&self.scene, pair)
        {
            self.note(pair.fingerprint(), stuck.law, stuck.how);
        }
    }

    /// Follows every move of one state; new states go to `next`.
    fn follow(&self, pair: &Pair, next: &mut Vec<Pair>) {
        let from = pair.fingerprint();
        let mut possible = Vec::new();
        moves::moves(&self.scene, pair, &mut possible);
        for (by, it) in (0..).zip(&possible) {
            let Some(after) = moves::apply(&self.scene, pair, *it, None) else { continue };
            self.moves.fetch_add(1, Ordering::Relaxed);
            if self.enter(after.fingerprint(), Reached { from, by }) {
                self.judge(&after);
                next.push(after);
            }
        }
    }

    /// One level further, shared between threads.
    fn level(&self, states: Vec<Pair>, threads: usize) -> Vec<Pair> {
        let states: Vec<Mutex<Option<Pair>>> = states.into_iter().map(|pair| Mutex::new(Some(pair))).collect();
        let turn = AtomicUsize::new(0);
        let work = || {
            let mut next = Vec::new();
            while let Some(state) = states.get(turn.fetch_add(1, Ordering::Relaxed)) {
                if self.is_over() {
                    break;
                }
                if let Some(pair) = state.lock().expect("not poisoned").take() {
                    self.follow(&pair, &mut next);
                }
            }
            next
        };
        std::thread::scope(|scope| {
            let others: Vec<_> = (1..threads).map(|_| scope.spawn(work)).collect();
            let mut next = work();
            others.into_iter().for_each(|other| next.extend(other.join().expect("a worker ends")));
            next
        })
    }

    /// The moves that lead to a state.
    fn way_to(&self, begin: &Pair, end: u64) -> Vec<Move> {
        let mut back = Vec::new();
        let mut at = end;
        while at != begin.fingerprint() {
            let reached = self.seen[(at >> 56) as usize % SHARDS].lock().expect("not poisoned")[&at];
            back.push(reached.by);
            at = reached.from;
        }
        let mut pair = begin.clone();
        let mut way = Vec::new();
        for by in back.into_iter().rev() {
            let mut possible = Vec::new();
            moves::moves(&self.scene, &pair, &mut possible);
            let it = possible[usize::from(by)];
            way.push(it);
            pair = moves::apply(&self.scene, &pair, it, None).unwrap_or(pair);
        }
        way
    }
}

/// Explores a scene until its end, the first broken law, or the limit.
#[must_use]
pub fn explore(scene: &Scene, effort: Effort) -> Report {
    let began = Instant::now();
    let begin = beginning(scene);
    let search = Search {
        scene: scene.clone(),
        seen: (0..SHARDS).map(|_| Mutex::default()).collect(),
        homecomings: Homecomings::default(),
        moves: AtomicUsize::new(0),
        broken: Mutex::default(),
        ends: began + effort.limit,
    };
    search.enter(begin.fingerprint(), Reached { from: 0, by: 0 });
    search.judge(&begin);
    let mut states = vec![begin.clone()];
    let mut depth = 0;
    while !states.is_empty() && !search.is_over() {
        states = search.level(states, effort.threads);
        depth += usize::from(!states.is_empty());
        if effort.told == Told::EveryLevel {
            eprintln!("  depth {depth}: {} states to follow, {} in all", states.len(), search.states());
        }
    }
    let broken = search.broken.lock().expect("not poisoned").take();
    let broken = broken.map(|(end, law, how)| Counterexample { law, how, moves: search.way_to(&begin, end) });
    Report {
        scene: scene.name,
        states: search.states(),
        moves: search.moves.load(Ordering::Relaxed),
        depth,
        complete: broken.is_none() && states.is_empty(),
        took: began.elapsed(),
        broken,
    }
}
