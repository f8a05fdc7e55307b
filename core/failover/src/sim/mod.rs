//! A pair as a closed world: two machines with simulated drivers, lock disks, pool disks and clients.
//!
//! Fault model: a node's process is killed at any moment, announced by its supervisor or not, with orders half carried out and writes under way
//! that land later or never;
//! it is stopped and wakes up again with everything it had in mind; reads of the partner's page are lost, late or cut off for good, in
//! one direction or both; answers of orders come in any order; a lock disk or a pool disk is out of reach of one node or both;
//! a record's write is torn, lost, or lands after its answer said "unknown"; operators ask for anything at any time. Not modelled:
//! corrupt sectors, disks that lie about reservations, more than one path to a disk.
//!
//! The one idea: time jumps from event to event and every event is drawn from one seeded generator, so that a seed is a schedule.
//! After every event the invariants are checked. [`World`] can also be driven by a script, without chance, for transcripts.

use std::collections::{BTreeMap, BTreeSet};

pub mod canonical;
mod chance;
mod clients;
pub mod disks;
mod driver;
pub mod faults;
mod observe;
mod tasks;

use crate::config::{AutomaticGiveback, Config, OnEnd, PoolConfig, Timing};
use crate::effect::{Effect, Effects, PollPace, Veto};
use crate::input::{Input, Request, Unreadable};
use crate::invariants::Deeds;
use crate::last_word::{Cause, last_word};
use crate::machine::Machine;
use crate::page::{LAYOUT_VERSION, LiveWords, Page, PageContent};
use crate::record::Record;
use crate::words::{Generation, Incarnation, LegSet, MetadataVersion, Micros, NodeId, Op, PairId, PoolId, RequestId};
pub use chance::{Chaos, Dice};
use disks::{LockDisk, PoolDisk};
use tasks::Task;

/// The pair's number in every simulated world.
pub const PAIR: PairId = PairId(7);

/// Whether a node's process runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Process {
    /// There is none.
    Dead,
    /// It runs.
    Running,
    /// SIGSTOP.
    Stopped,
}

/// What a simulated driver does with a pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Served {
    No,
    Yes,
    /// Commands wait; those in flight go on.
    Held,
    /// Nothing is answered.
    Frozen,
}

/// A client's write under way through one node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Outstanding {
    pub(crate) value: u64,
    pub(crate) waiting: BTreeSet<u8>,
    pub(crate) unsent: BTreeSet<u8>,
}

/// One pool as a driver has it.
#[derive(Debug, Clone)]
pub(crate) struct Mount {
    pub(crate) served: Served,
    pub(crate) good: LegSet,
    /// Copied again, and written along, but not recorded good yet.
    pub(crate) back: LegSet,
    pub(crate) equal: bool,
    pub(crate) outstanding: Option<Outstanding>,
}

impl Mount {
    fn new() -> Self {
        Self { served: Served::No, good: LegSet(0), back: LegSet(0), equal: false, outstanding: None }
    }
}

/// One node: its process, its registered memory, its simulated driver.
pub struct Node {
    /// Whether it runs.
    pub process: Process,
    /// Counts its runs.
    pub run: u32,
    /// Its machine, if there is a process.
    pub machine: Option<Machine>,
    pub(crate) page: Option<Page>,
    pub(crate) content: Option<PageContent>,
    pub(crate) live: LiveWords,
    pub(crate) pace: PollPace,
    pub(crate) beating: bool,
    /// Which chain of page reads is the one in force: a new pace begins a new one at once.
    pub(crate) reads: u64,
    pub(crate) mounts: BTreeMap<PoolId, Mount>,
    pub(crate) tasks: BTreeMap<u64, Task>,
    pub(crate) parked: Vec<What>,
    pub(crate) deeds: Deeds,
    pub(crate) surveys: BTreeMap<Op, u64>,
    pub(crate) record_queue: Vec<u64>,
    pub(crate) pool_queues: BTreeMap<PoolId, Vec<u64>>,
    timer: Option<Micros>,
}

/// Something that happens to one run of one node.
#[derive(Debug, Clone)]
pub(crate) enum What {
    Timer,
    ReadPage(u64),
    Fact(Box<Input>),
    Beat,
    Step(u64),
    Client(PoolId),
    Landed { pool: PoolId, leg: u8, value: u64 },
    Resynced(PoolId),
}

enum Event {
    Node {
        node: NodeId,
        run: u32,
        what: What,
    },
    Land {
        pool: PoolId,
        leg: u8,
        value: u64,
    },
    LateRecord {
        disk: usize,
        node: NodeId,
        sequence: u64,
    },
    Restart(NodeId),
    Wake(NodeId),
    /// The supervisor of a dead run ends.
    Silent {
        node: NodeId,
        run: u32,
    },
}

/// A fact told to one run of a node.
#[derive(Debug, Clone)]
pub struct Told {
    /// To whom.
    pub node: NodeId,
    /// To which run of it.
    pub incarnation: Incarnation,
    /// When.
    pub now: Micros,
    /// What.
    pub input: Input,
}

/// The world.
pub struct World {
    /// The moment.
    pub now: Micros,
    /// Both nodes.
    pub nodes: [Node; 2],
    /// Lock disks.
    pub lock_disks: Vec<LockDisk>,
    /// Pool disks by pool, one a leg.
    pub pool_disks: BTreeMap<PoolId, Vec<PoolDisk>>,
    /// Whether each node can read the other's page.
    pub interconnect: [bool; 2],
    /// How it misbehaves.
    pub chaos: Chaos,
    /// What speaks against handing over a pool, besides what its disks say.
    pub vetoed: BTreeMap<PoolId, BTreeSet<Veto>>,
    /// Lines of what happened, if kept.
    pub transcript: Option<Vec<String>>,
    /// Every fact told to a machine, if kept: what an event log would hold.
    pub told: Option<Vec<Told>>,
    /// Chance.
    pub dice: Dice,
    /// Acknowledged writes, for the curious.
    pub acknowledged: u64,
    pub(crate) acked: BTreeMap<PoolId, u64>,
    pub(crate) next_value: u64,
    pub(crate) next_task: u64,
    queue: BTreeMap<(Micros, u64), Event>,
    next_event: u64,
    configs: [Config; 2],
    highest: BTreeMap<PoolId, Generation>,
    reserved: BTreeSet<(PoolId, usize)>,
    pub(crate) changed: bool,
    failure: Option<String>,
}

/// The configuration of a node of the usual world: pool 1 at home on A, pool 2 on B, three lock disks.
#[must_use]
pub fn usual_config(node: NodeId) -> Config {
    let pools = [(PoolId(1), PoolConfig { home: NodeId::A }), (PoolId(2), PoolConfig { home: NodeId::B })];
    Config {
        pair: PAIR,
        node,
        preferred: NodeId::A,
        lock_disks: 3,
        pools: pools.into(),
        may_split: false,
        policy: AutomaticGiveback::Within { limit: 1_000, window: Micros::from_millis(1_000) }.into(),
        timing: Timing::default(),
    }
}

impl World {
    /// A world with both nodes powered off and the records of `pair init` on the lock disks.
    #[must_use]
    pub fn new(configs: [Config; 2], seed: u64, chaos: Chaos) -> Self {
        let legs = vec![LegSet::first(2)];
        let pools = configs[0].pools.iter();
        let initial = Record::initial(PAIR, pools.map(|(pool, it)| (*pool, it.home, MetadataVersion(1), legs.clone())));
        let mut disk = LockDisk::default();
        disk.store(NodeId::A, &initial);
        let ids: Vec<PoolId> = configs[0].pools.keys().copied().collect();
        Self {
            now: Micros::from_millis(1),
            nodes: [Node::new(&ids), Node::new(&ids)],
            lock_disks: vec![disk; configs[0].lock_disks],
            pool_disks: ids.iter().map(|pool| (*pool, vec![PoolDisk::new(), PoolDisk::new()])).collect(),
            interconnect: [true; 2],
            chaos,
            vetoed: BTreeMap::new(),
            transcript: None,
            told: None,
            dice: Dice::new(seed),
            acknowledged: 0,
            acked: ids.iter().map(|pool| (*pool, 0)).collect(),
            next_value: 1,
            next_task: 1,
            queue: BTreeMap::new(),
            next_event: 0,
            configs,
            highest: BTreeMap::new(),
            reserved: BTreeSet::new(),
            changed: true,
            failure: None,
        }
    }

    /// Starts a node's process.
    pub fn start(&mut self, node: NodeId) {
        if self.nodes[node.index()].process != Process::Dead {
            return;
        }
        let run = self.nodes[node.index()].run + 1;
        let ids: Vec<PoolId> = self.pool_disks.keys().copied().collect();
        let incarnation = Incarnation(u64::from(node.code()) << 8 | u64::from(run & 0xff) | u64::from(run >> 8) << 16);
        let mut fresh = Node::new(&ids);
        fresh.run = run;
        fresh.process = Process::Running;
        fresh.machine = Some(Machine::new(self.configs[node.index()].clone(), incarnation));
        self.nodes[node.index()] = fresh;
        self.say(node, || format!("process started, incarnation {run}"));
        self.input(node, Input::Started);
        self.soon(node, What::ReadPage(0), 5_000);
        self.soon(node, What::Beat, 50_000);
        for pool in ids {
            self.soon(node, What::Client(pool), 3_000);
        }
    }

    /// SIGKILL of everything, the supervisor included: what was sent may still land.
    pub fn kill(&mut self, node: NodeId) {
        if self.nodes[node.index()].process != Process::Dead {
            self.say(node, || "process killed".to_owned());
        }
        self.end(node);
        self.silence(node);
    }

    /// Only the worker ends, in whatever way: its supervisor speaks for it for a while.
    pub fn die(&mut self, node: NodeId) {
        let it = &mut self.nodes[node.index()];
        if it.process == Process::Dead {
            return;
        }
        let (run, bytes) = (it.run, it.page.as_ref().map(Page::encode));
        it.page = bytes.and_then(|bytes| last_word(&[bytes], (PAIR, node), Cause::Failed, OnEnd::TakeOver));
        self.say(node, || "worker ended".to_owned());
        self.end(node);
        let until = self.now.after(self.configs[node.index()].timing.wait_long);
        self.push(until, Event::Silent { node, run });
    }

    /// No worker any more.
    pub(crate) fn end(&mut self, node: NodeId) {
        self.changed = true;
        let it = &mut self.nodes[node.index()];
        it.process = Process::Dead;
        it.machine = None;
        it.parked.clear();
        it.tasks.clear();
        for mount in it.mounts.values_mut() {
            *mount = Mount::new();
        }
    }

    /// No page any more, and its reader is told.
    fn silence(&mut self, node: NodeId) {
        let (partner, shown) = (node.partner(), self.nodes[node.index()].page.take().is_some());
        if shown && self.interconnect[partner.index()] {
            self.soon(partner, What::Fact(Box::new(Input::PartnerLinkClosed)), 3_000);
        }
    }

    /// SIGSTOP.
    pub fn stop(&mut self, node: NodeId) {
        if self.nodes[node.index()].process == Process::Running {
            self.nodes[node.index()].process = Process::Stopped;
            self.say(node, || "process stopped".to_owned());
        }
    }

    /// SIGCONT: everything that was due happens now.
    pub fn wake(&mut self, node: NodeId) {
        if self.nodes[node.index()].process != Process::Stopped {
            return;
        }
        self.nodes[node.index()].process = Process::Running;
        self.say(node, || "process woken".to_owned());
        for what in std::mem::take(&mut self.nodes[node.index()].parked) {
            let after = 1 + self.dice.below(500);
            self.after(node, what, after);
        }
    }

    /// An operator asks a node.
    pub fn ask(&mut self, node: NodeId, request: u64, what: Request) {
        if self.nodes[node.index()].process == Process::Running {
            self.say(node, || format!("operator asks {what:?}"));
            self.input(node, Input::OperatorAsked { request: RequestId(request), what });
        }
    }

    /// Starts the process later.
    pub fn restart_later(&mut self, node: NodeId, after_us: u64) {
        let at = self.now.after(Micros(after_us));
        self.push(at, Event::Restart(node));
    }

    /// Wakes the process later.
    pub fn wake_later(&mut self, node: NodeId, after_us: u64) {
        let at = self.now.after(Micros(after_us));
        self.push(at, Event::Wake(node));
    }

    /// What went wrong, if anything did.
    #[must_use]
    pub fn failure(&self) -> Option<&str> {
        self.failure.as_deref()
    }

    /// Runs until `until`, or until something is wrong.
    ///
    /// # Errors
    /// What is wrong, as a sentence.
    pub fn run_until(&mut self, until: Micros) -> Result<(), String> {
        // BOUND: every event lies at or after the one before, and each pushes events a positive time ahead.
        while let Some(entry) = self.queue.first_entry() {
            if entry.key().0 > until {
                break;
            }
            let ((at, _), event) = entry.remove_entry();
            self.now = self.now.max(at);
            self.happen(event);
            self.check();
            if let Some(failure) = &self.failure {
                return Err(failure.clone());
            }
        }
        self.now = self.now.max(until);
        Ok(())
    }

    /// Runs until `done` says so, at most until `until`.
    ///
    /// # Errors
    /// What is wrong, or that it never came about.
    pub fn run_until_true(&mut self, until: Micros, what: &str, done: impl Fn(&Self) -> bool) -> Result<(), String> {
        while !done(self) {
            if self.now >= until {
                return Err(format!("never came about: {what}: {}", self.describe()));
            }
            let next = self.queue.first_key_value().map_or(until, |((at, _), _)| (*at).max(self.now));
            self.run_until(next.min(until))?;
        }
        Ok(())
    }

    /// Both nodes in a line, for messages.
    #[must_use]
    pub fn describe(&self) -> String {
        let node = |node: NodeId| {
            let word = self.word(node).map_or("-", crate::page::StateWord::name);
            let machine = self.nodes[node.index()].machine.as_ref();
            let pools = self.pool_disks.keys().filter_map(|pool| Some(machine?.pool(*pool)?.state));
            format!("{node} {word} {:?}", pools.collect::<Vec<_>>())
        };
        format!("{}; {}", node(NodeId::A), node(NodeId::B))
    }

    /// A node's state word.
    #[must_use]
    pub fn word(&self, node: NodeId) -> Option<crate::page::StateWord> {
        let it = &self.nodes[node.index()];
        it.machine.as_ref().filter(|_| it.process == Process::Running).map(Machine::state_word)
    }

    /// Whether a node answers for a pool now.
    #[must_use]
    pub fn answers(&self, node: NodeId, pool: PoolId) -> bool {
        let it = &self.nodes[node.index()];
        it.process == Process::Running && it.mounts[&pool].served == Served::Yes
    }

    /// Every pool and its home.
    pub fn homes(&self) -> impl Iterator<Item = (PoolId, NodeId)> + '_ {
        self.configs[0].pools.iter().map(|(pool, it)| (*pool, it.home))
    }

    /// A pool's last acknowledged write.
    #[must_use]
    pub fn last_acknowledged(&self, pool: PoolId) -> u64 {
        self.acked[&pool]
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Node { node, run, what } => {
                let it = &mut self.nodes[node.index()];
                if it.run != run || it.process == Process::Dead {
                    return;
                }
                if it.process == Process::Stopped {
                    it.parked.push(what);
                    return;
                }
                self.happen_to(node, what);
            }
            Event::Land { pool, leg, value } => self.land(pool, leg, value),
            Event::LateRecord { disk, node, sequence } => {
                self.changed = true;
                self.land_record(disk, node, sequence);
            }
            Event::Restart(node) => self.start(node),
            Event::Wake(node) => self.wake(node),
            Event::Silent { node, run } => {
                let it = &self.nodes[node.index()];
                if it.run == run && it.process == Process::Dead {
                    self.silence(node);
                }
            }
        }
    }

    fn happen_to(&mut self, node: NodeId, what: What) {
        match what {
            What::Timer => {
                let due = self.nodes[node.index()].timer.take();
                if due.is_some_and(|due| due <= self.now) {
                    self.input(node, Input::TimerExpired);
                } else {
                    self.nodes[node.index()].timer = due;
                }
            }
            What::ReadPage(chain) => self.read_page(node, chain),
            What::Fact(input) => self.input(node, *input),
            What::Beat => self.beat(node),
            What::Step(task) => self.step_task(node, task),
            What::Client(pool) => self.client(node, pool),
            What::Landed { pool, leg, value } => self.landed(node, pool, leg, value),
            What::Resynced(pool) => self.resynced(node, pool),
        }
    }

    /// Feeds one fact to a node's machine and carries out what follows.
    pub(crate) fn input(&mut self, node: NodeId, input: Input) {
        self.note_input(node, &input);
        let now = self.now;
        let mut out = Effects::new();
        let Some(machine) = self.nodes[node.index()].machine.as_mut() else { return };
        if let Some(told) = &mut self.told {
            told.push(Told { node, incarnation: machine.incarnation(), now, input: input.clone() });
        }
        machine.step(now, input, &mut out);
        for effect in out {
            self.carry_out(node, effect);
        }
        self.set_timer(node);
    }

    fn set_timer(&mut self, node: NodeId) {
        let it = &mut self.nodes[node.index()];
        let Some(at) = it.machine.as_ref().and_then(Machine::poll_timeout) else { return };
        let at = at.max(Micros(self.now.0 + 1));
        if it.timer.is_none_or(|set| at < set) {
            it.timer = Some(at);
            let run = it.run;
            self.push(at, Event::Node { node, run, what: What::Timer });
        }
    }

    fn read_page(&mut self, node: NodeId, chain: u64) {
        if chain != self.nodes[node.index()].reads {
            return;
        }
        let every = match self.nodes[node.index()].pace {
            PollPace::Routine => 10_000,
            PollPace::Brisk => 1_000,
            PollPace::Eager => 200,
        };
        let partner = &self.nodes[node.partner().index()];
        let cut = !self.interconnect[node.index()];
        let lost = self.dice.once_in(self.chaos.page_lost);
        let input = match (partner.process, &partner.page) {
            _ if cut || lost => Input::PartnerPageUnreadable(Unreadable::TimedOut),
            (_, None) => Input::PartnerPageUnreadable(Unreadable::Refused),
            (Process::Stopped, _) => Input::PartnerPageUnreadable(Unreadable::TimedOut),
            (Process::Running | Process::Dead, Some(page)) => self.through_memory(page),
        };
        let delay = if self.dice.once_in(self.chaos.page_late) { self.dice.below(60_000) } else { 30 };
        self.after(node, What::Fact(Box::new(input)), delay + 1);
        // One read at a time, as over a fabric: pages come in the order they were read.
        self.after(node, What::ReadPage(chain), every + delay + 2);
    }

    /// A page goes through its bytes, so that the codec is part of every schedule.
    fn through_memory(&self, page: &Page) -> Input {
        let bytes = page.encode();
        match Page::decode(&bytes, PAIR, page.node) {
            Ok(page) => Input::PartnerPageRead(Box::new(page)),
            Err(_) => Input::PartnerPageUnreadable(Unreadable::Rejected),
        }
    }

    pub(crate) fn publish(&mut self, node: NodeId) {
        let it = &mut self.nodes[node.index()];
        let (Some(machine), Some(content)) = (&it.machine, &it.content) else { return };
        it.live.progress += 1;
        it.page = Some(Page {
            pair: PAIR,
            node,
            incarnation: machine.incarnation(),
            sequence: it.live.progress * 2,
            layout_version: LAYOUT_VERSION,
            content: content.clone(),
            live: it.live,
        });
    }

    pub(crate) fn after(&mut self, node: NodeId, what: What, after_us: u64) {
        let run = self.nodes[node.index()].run;
        let at = self.now.after(Micros(after_us.max(1)));
        self.push(at, Event::Node { node, run, what });
    }

    /// Within the next so many microseconds.
    pub(crate) fn soon(&mut self, node: NodeId, what: What, within_us: u64) {
        let after = 1 + self.dice.below(within_us);
        self.after(node, what, after);
    }

    fn push(&mut self, at: Micros, event: Event) {
        self.next_event += 1;
        self.queue.insert((at, self.next_event), event);
    }

    pub(crate) fn land_later(&mut self, pool: PoolId, leg: u8, value: u64) {
        let longest = if self.dice.once_in(self.chaos.slow_write) { 2_000_000 } else { self.chaos.write_us };
        let at = self.now.after(Micros(1 + self.dice.below(longest)));
        self.push(at, Event::Land { pool, leg, value });
    }

    pub(crate) fn record_later(&mut self, disk: usize, node: NodeId, sequence: u64) {
        let at = self.now.after(Micros(1 + self.dice.below(400_000)));
        self.push(at, Event::LateRecord { disk, node, sequence });
    }

    pub(crate) fn say(&mut self, node: NodeId, line: impl FnOnce() -> String) {
        let now = self.now;
        if let Some(lines) = &mut self.transcript {
            lines.push(format!("{:>9.3} {node} {}", now.0 as f64 / 1000.0, line()));
        }
    }

    pub(crate) fn fail(&mut self, what: String) {
        let text = format!("at {:.3} ms: {what}", self.now.0 as f64 / 1000.0);
        self.failure.get_or_insert(text);
    }

    pub(crate) fn carry_out(&mut self, node: NodeId, effect: Effect) {
        self.note_effect(node, &effect);
        self.order(node, effect);
    }
}

impl Node {
    fn new(pools: &[PoolId]) -> Self {
        Self {
            process: Process::Dead,
            run: 0,
            machine: None,
            page: None,
            content: None,
            live: LiveWords::default(),
            pace: PollPace::Routine,
            beating: false,
            reads: 0,
            mounts: pools.iter().map(|pool| (*pool, Mount::new())).collect(),
            tasks: BTreeMap::new(),
            parked: Vec::new(),
            deeds: Deeds::default(),
            surveys: BTreeMap::new(),
            record_queue: Vec::new(),
            pool_queues: BTreeMap::new(),
            timer: None,
        }
    }
}
