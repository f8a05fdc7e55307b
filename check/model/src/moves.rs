//! What can happen next, and what it makes of a state.
//!
//! The one idea: everything a node does by itself is free and may come in any order; what goes wrong is counted ([`Faults`]). Silence and
//! a passed limit count only while the partner lives: a dead one is silent for nothing.
//!
//! [`Faults`]: crate::pair::Faults

use std::collections::BTreeSet;
use std::fmt;
use std::sync::LazyLock;

use understudy_failover::input::{Earnest, Input, Request, SoftVetoes, TakeoverKind};
use understudy_failover::mutants;
use understudy_failover::timers::Timer;
use understudy_failover::words::{NodeId, PoolId, RequestId};

use crate::clients::{missing_legs, resyncable};
use crate::laws;
use crate::orders::{World, page_of};
use crate::pair::{Faults, Pair, Served, Work};
use crate::scenes::Scene;
use crate::work::{Lands, Turn, ready};

/// Who is cut from a leg.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Whose {
    /// One node.
    One(NodeId),
    /// Both.
    Both,
}

/// One move.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Move {
    /// A step of an order.
    Step(NodeId, usize, Turn),
    /// The partner's page is read.
    ReadPage(NodeId),
    /// The partner's page is read, and arrives later.
    BeginRead(NodeId),
    /// What was read before arrives.
    EndRead(NodeId),
    /// The reading of the lock disks after a heartbeat.
    Look(NodeId),
    /// A deadline passes.
    Pass(NodeId, Timer),
    /// The partner is taken for silent.
    Silence(NodeId),
    /// The process starts.
    Start(NodeId),
    /// The process is killed.
    Kill(NodeId),
    /// The worker dies, and its supervisor says so.
    Die(NodeId),
    /// A client writes.
    Write(NodeId, PoolId),
    /// What could not be sent to a leg is sent now.
    Resend(NodeId, PoolId),
    /// A data write lands.
    Land(PoolId, u8, usize),
    /// A data write of a process that is gone never lands.
    Vanish(PoolId, u8, usize),
    /// The outcome of a data write is unknown to its node.
    WriteUnknown(PoolId, u8, usize),
    /// A record of unknown outcome lands or never will.
    Settle(usize, NodeId, Lands),
    /// A leg that is written to is found missing.
    Missing(NodeId, PoolId, u8),
    /// The background resync.
    Resync(NodeId, PoolId),
    /// This node cannot read the partner's page any more.
    Cut(NodeId),
    /// A lock disk is lost.
    LoseLockDisk(usize),
    /// A leg is lost.
    LoseLeg(PoolId, u8, Whose),
    /// A node is cut from all disks.
    CutOff(NodeId),
    /// Everything cut or lost is there again.
    Mend,
    /// A unit attention or a conflict for no reason.
    Doubt(NodeId, PoolId),
    /// An operator asks.
    Ask(NodeId, &'static Request),
}

impl fmt::Display for Move {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Step(node, at, turn) => write!(f, "{node} takes a step of its order {at} ({turn:?})"),
            Self::ReadPage(node) => write!(f, "{node} reads its partner's page"),
            Self::BeginRead(node) => write!(f, "{node} begins to read its partner's page"),
            Self::EndRead(node) => write!(f, "{node} gets the page it began to read"),
            Self::Look(node) => write!(f, "{node} beats and reads the lock disks"),
            Self::Pass(node, timer) => write!(f, "at {node} the deadline {timer:?} passes"),
            Self::Silence(node) => write!(f, "{node} finds its partner silent"),
            Self::Start(node) => write!(f, "{node} starts"),
            Self::Kill(node) => write!(f, "{node} is killed"),
            Self::Die(node) => write!(f, "the worker of {node} dies"),
            Self::Write(node, pool) => write!(f, "a client writes to {pool} through {node}"),
            Self::Resend(node, pool) => write!(f, "{node} sends what it could not send to a leg of {pool}"),
            Self::Land(pool, leg, _) => write!(f, "a write lands on leg {leg} of {pool}"),
            Self::Vanish(pool, leg, _) => write!(f, "a dead process's write to leg {leg} of {pool} is lost"),
            Self::WriteUnknown(pool, leg, _) => write!(f, "a write to leg {leg} of {pool} has an unknown outcome"),
            Self::Settle(disk, node, lands) => write!(f, "{node}'s late record lands on lock disk {disk}: {lands:?}"),
            Self::Missing(node, pool, leg) => write!(f, "{node} finds leg {leg} of {pool} missing"),
            Self::Resync(node, pool) => write!(f, "{node} resyncs {pool}"),
            Self::Cut(node) => write!(f, "{node} cannot read its partner's page any more"),
            Self::LoseLockDisk(disk) => write!(f, "lock disk {disk} is lost"),
            Self::LoseLeg(pool, leg, whose) => write!(f, "leg {leg} of {pool} is lost to {whose:?}"),
            Self::CutOff(node) => write!(f, "{node} is cut from all disks"),
            Self::Mend => write!(f, "what was lost is there again"),
            Self::Doubt(node, pool) => write!(f, "{node} gets a unit attention on a disk of {pool}"),
            Self::Ask(node, what) => write!(f, "an operator asks {node}: {what:?}"),
        }
    }
}

const DO: (SoftVetoes, Earnest) = (SoftVetoes::Overridden, Earnest::Do);

/// What operators ask for.
static REQUESTS: [Request; 5] = [
    Request::Takeover { kind: TakeoverKind::Planned, vetoes: DO.0, earnest: DO.1 },
    Request::Takeover { kind: TakeoverKind::Forced, vetoes: DO.0, earnest: DO.1 },
    Request::Takeover { kind: TakeoverKind::Planned, vetoes: DO.0, earnest: Earnest::DryRun },
    Request::Giveback { vetoes: DO.0, earnest: DO.1 },
    Request::Halt,
];

/// What they ask for besides where pools move by themselves: the first one alone.
static REQUESTS_OF_PART: LazyLock<[Request; 2]> = LazyLock::new(|| {
    let pools = BTreeSet::from([PoolId(1)]);
    [
        Request::TakeoverOf { pools: pools.clone(), vetoes: DO.0, earnest: DO.1 },
        Request::GivebackOf { pools, vetoes: DO.0, earnest: DO.1 },
    ]
});

/// Every move a state allows.
pub fn moves(scene: &Scene, pair: &Pair, out: &mut Vec<Move>) {
    if pair.memory.broken.is_some() {
        return;
    }
    for node in NodeId::BOTH {
        moves_of(scene, pair, node, out);
        faults_of(scene, pair, node, out);
    }
    moves_of_disks(pair, out);
    faults_of_disks(pair, out);
}

fn moves_of(scene: &Scene, pair: &Pair, node: NodeId, out: &mut Vec<Move>) {
    let it = pair.node(node);
    let Some(machine) = it.running() else {
        if it.run < scene.runs {
            out.push(Move::Start(node));
        }
        return;
    };
    let ready = ready(pair, node);
    out.extend(ready.iter().map(|at| Move::Step(node, *at, Turn::Well)));
    if it.tasks.len() > scene.orders && !ready.is_empty() {
        return;
    }
    if it.late.is_some() {
        out.push(Move::EndRead(node));
    } else if it.sees && page_of(pair.node(node.partner()), node.partner()).is_some() {
        out.push(Move::ReadPage(node));
    }
    if pair.shelf.lock_disks.iter().all(|disk| disk.cut[node.index()] || !disk.late.iter().any(|it| it.0 == node)) {
        out.push(Move::Look(node));
    }
    out.extend(machine.deadlines().into_iter().filter(|it| may_pass(pair, node, *it)).map(|it| Move::Pass(node, it)));
    if machine.has_heard() && (is_gone(pair, node) || pair.memory.faults.silences > 0) {
        out.push(Move::Silence(node));
    }
    out.extend(missing_legs(pair, node).into_iter().map(|(pool, leg)| Move::Missing(node, pool, leg)));
    out.extend(resyncable(pair, node).into_iter().map(|pool| Move::Resync(node, pool)));
    let unsent = pair.pools().filter(|pool| {
        let mount = &it.mounts[pool];
        let open = matches!(mount.served, Served::Yes | Served::Held);
        let unsent = mount.outstanding.iter().flat_map(|outstanding| &outstanding.unsent);
        open && unsent.clone().any(|leg| pair.leg(*pool, *leg).disk.reachable[node.index()])
    });
    out.extend(unsent.map(|pool| Move::Resend(node, pool)));
}

/// Whether the partner shows nothing because there is nobody, or because nothing it shows arrives.
fn is_gone(pair: &Pair, node: NodeId) -> bool {
    let partner = pair.node(node.partner());
    partner.running().is_none() || (!pair.node(node).sees && !partner.beating)
}

fn may_pass(pair: &Pair, node: NodeId, timer: Timer) -> bool {
    timer != Timer::Limit || is_gone(pair, node) || pair.memory.faults.silences > 0
}

fn faults_of(scene: &Scene, pair: &Pair, node: NodeId, out: &mut Vec<Move>) {
    let (it, left) = (pair.node(node), pair.memory.faults);
    let Some(machine) = it.running() else { return };
    let mut add = |left: u8, it: Move| out.extend((left > 0).then_some(it));
    add(left.kills, Move::Kill(node));
    add(left.announced, Move::Die(node));
    if it.late.is_none() && it.sees && page_of(pair.node(node.partner()), node.partner()).is_some() {
        add(left.late_pages, Move::BeginRead(node));
    }
    if it.sees {
        add(left.cuts, Move::Cut(node));
    }
    if pair.shelf.lock_disks.iter().any(|disk| !disk.cut[node.index()]) {
        add(left.cut_off, Move::CutOff(node));
    }
    for pool in pair.pools().filter(|pool| it.answers(*pool)) {
        if it.mounts[&pool].outstanding.is_none() {
            add(left.writes, Move::Write(node, pool));
        }
        add(left.doubts, Move::Doubt(node, pool));
    }
    for at in ready(pair, node) {
        match &it.tasks[at].work {
            Work::Record { .. } => add(left.unknown_records, Move::Step(node, at, Turn::Unknown)),
            Work::Open { .. } => add(left.stale_opens, Move::Step(node, at, Turn::Stale)),
            _ => {}
        }
    }
    if machine.state_word() != understudy_failover::page::StateWord::Booting {
        let of_part = if scene.may_split { REQUESTS_OF_PART.iter() } else { [].iter() };
        REQUESTS.iter().chain(of_part).for_each(|request| add(left.requests, Move::Ask(node, request)));
    }
}

fn moves_of_disks(pair: &Pair, out: &mut Vec<Move>) {
    let left = pair.memory.faults;
    for (pool, legs) in &pair.shelf.legs {
        for (leg, at, write) in legs
            .iter()
            .zip(0u8..)
            .flat_map(|(it, leg)| it.disk.in_flight.iter().enumerate().map(move |(at, w)| (leg, at, w)))
        {
            out.push(Move::Land(*pool, leg, at));
            let writer = pair.node(write.node);
            if u32::from(writer.run) != write.run || writer.running().is_none() {
                out.push(Move::Vanish(*pool, leg, at));
            } else if left.unknown_writes > 0 {
                out.push(Move::WriteUnknown(*pool, leg, at));
            }
        }
    }
    for (at, disk) in pair.shelf.lock_disks.iter().enumerate() {
        for (owner, _) in &disk.late {
            out.extend([Lands::Yes, Lands::Never].map(|lands| Move::Settle(at, *owner, lands)));
        }
    }
}

fn faults_of_disks(pair: &Pair, out: &mut Vec<Move>) {
    let left = pair.memory.faults;
    let lock_whole = pair.shelf.lock_disks.iter().all(|disk| disk.cut == [false; 2]);
    if left.lock_disks > 0 && lock_whole {
        out.extend((0..pair.shelf.lock_disks.len()).map(Move::LoseLockDisk));
    }
    let legs_whole = pair.shelf.legs.values().flatten().all(|leg| leg.disk.reachable == [true; 2]);
    if left.legs > 0 && legs_whole {
        let whose = [Whose::One(NodeId::A), Whose::One(NodeId::B), Whose::Both];
        let legs = pair.pools().flat_map(|pool| [(pool, 0), (pool, 1)]);
        out.extend(legs.flat_map(|(pool, leg)| whose.map(|whose| Move::LoseLeg(pool, leg, whose))));
    }
    if left.mends > 0 && (!lock_whole || !legs_whole || pair.nodes.iter().any(|node| !node.sees)) {
        out.push(Move::Mend);
    }
}

/// What a move makes of a state; `None` if nothing. With `lines` it is told.
#[must_use]
pub fn apply(scene: &Scene, before: &Pair, it: Move, lines: Option<&mut Vec<String>>) -> Option<Pair> {
    mutants::switch(scene.mutant);
    let mut world = World { scene, pair: before.clone(), lines: lines.as_ref().map(|_| Vec::new()) };
    pay(&mut world.pair, it);
    world.make(it);
    world.answer_at_once();
    let World { mut pair, lines: told, .. } = world;
    if let (Some(lines), Some(told)) = (lines, told) {
        lines.extend(told);
    }
    pair.seal(before);
    if laws::may_have_changed(before, &pair) {
        laws::judge(&mut pair);
        pair.seal(before);
    }
    mutants::switch(None);
    (pair.fingerprint() != before.fingerprint()).then_some(pair)
}

/// Takes a move's price.
fn pay(pair: &mut Pair, it: Move) {
    let free_silence = |node| is_gone(pair, node);
    let price: Option<fn(&mut Faults) -> &mut u8> = match it {
        Move::Kill(_) => Some(|left| &mut left.kills),
        Move::Die(_) => Some(|left| &mut left.announced),
        Move::Silence(node) if !free_silence(node) => Some(|left| &mut left.silences),
        Move::Pass(node, Timer::Limit) if !free_silence(node) => Some(|left| &mut left.silences),
        Move::BeginRead(_) => Some(|left| &mut left.late_pages),
        Move::Step(_, _, Turn::Unknown) => Some(|left| &mut left.unknown_records),
        Move::Step(_, _, Turn::Stale) => Some(|left| &mut left.stale_opens),
        Move::Write(..) => Some(|left| &mut left.writes),
        Move::WriteUnknown(..) => Some(|left| &mut left.unknown_writes),
        Move::Cut(_) => Some(|left| &mut left.cuts),
        Move::LoseLockDisk(_) => Some(|left| &mut left.lock_disks),
        Move::LoseLeg(..) => Some(|left| &mut left.legs),
        Move::CutOff(_) => Some(|left| &mut left.cut_off),
        Move::Doubt(..) => Some(|left| &mut left.doubts),
        Move::Ask(..) => Some(|left| &mut left.requests),
        Move::Mend => Some(|left| &mut left.mends),
        _ => None,
    };
    if let Some(price) = price {
        let left = price(&mut pair.memory_mut().faults);
        *left = left.saturating_sub(1);
    }
}

impl World<'_> {
    /// Where only disks are looked at closely: orders that touch nothing but the node are answered at once, and legs nobody writes to are
    /// resynced at once.
    fn answer_at_once(&mut self) {
        if self.scene.is_fine() {
            return;
        }
        for node in NodeId::BOTH {
            let at_once = |pair: &Pair| {
                let mut tasks = pair.node(node).tasks.iter();
                tasks.position(|task| matches!(task.work, Work::Portals | Work::Prepare { .. }))
            };
            // BOUND: a machine answers none of these with another of its kind for ever.
            while let Some(at) = at_once(&self.pair) {
                self.step_task(node, at, Turn::Well);
            }
            if self.scene.faults.writes == 0 && self.scene.faults.legs == 0 {
                for pool in resyncable(&self.pair, node) {
                    self.resync(node, pool);
                }
            }
        }
    }

    /// Lets a move happen.
    pub fn make(&mut self, it: Move) {
        match it {
            Move::Step(node, at, turn) => self.step_task(node, at, turn),
            Move::ReadPage(node) => {
                if let Some(page) = self.page_of(node.partner()) {
                    self.input(node, Input::PartnerPageRead(Box::new(page)));
                }
            }
            Move::BeginRead(node) => {
                let page = self.page_of(node.partner());
                self.pair.node_mut(node).late = page.map(Box::new);
            }
            Move::EndRead(node) => {
                if let Some(page) = self.pair.node_mut(node).late.take() {
                    self.input(node, Input::PartnerPageRead(page));
                }
            }
            Move::Look(node) => self.look(node),
            Move::Pass(node, timer) => self.expire(node, |machine| machine.let_pass(timer)),
            Move::Silence(node) => self.expire(node, understudy_failover::machine::Machine::hear_nothing),
            Move::Start(node) => self.start(node),
            Move::Kill(node) => self.end(node),
            Move::Die(node) => self.die(node),
            Move::Write(node, pool) => self.client_writes(node, pool),
            Move::Resend(node, pool) => self.send_unsent(node, pool),
            Move::Land(pool, leg, at) => self.land(pool, leg, at),
            Move::Vanish(pool, leg, at) => self.vanish(pool, leg, at),
            Move::WriteUnknown(pool, leg, at) => self.write_unknown(pool, leg, at),
            Move::Settle(at, owner, lands) => self.settle_record(at, owner, lands),
            Move::Missing(node, pool, leg) => self.leg_out_of_reach(node, pool, leg),
            Move::Resync(node, pool) => self.resync(node, pool),
            Move::Doubt(node, pool) => self.doubt(node, pool),
            Move::Ask(node, what) => {
                self.input(node, Input::OperatorAsked { request: RequestId(1), what: what.clone() })
            }
            Move::Cut(_) | Move::LoseLockDisk(_) | Move::LoseLeg(..) | Move::CutOff(_) | Move::Mend => self.cut(it),
        }
    }

    fn expire(&mut self, node: NodeId, let_it: impl FnOnce(&mut understudy_failover::machine::Machine)) {
        if let Some(machine) = &mut self.pair.node_mut(node).machine {
            let_it(machine);
            self.input(node, Input::TimerExpired);
        }
    }

    fn cut(&mut self, it: Move) {
        match it {
            Move::Cut(node) => self.pair.node_mut(node).sees = false,
            Move::LoseLockDisk(at) => self.pair.shelf_mut().lock_disks[at].cut = [true; 2],
            Move::LoseLeg(pool, leg, whose) => {
                let reachable = &mut self.pair.leg_mut(pool, leg).disk.reachable;
                match whose {
                    Whose::One(node) => reachable[node.index()] = false,
                    Whose::Both => *reachable = [false; 2],
                }
            }
            Move::CutOff(node) => {
                let shelf = self.pair.shelf_mut();
                shelf.lock_disks.iter_mut().for_each(|disk| disk.cut[node.index()] = true);
                shelf.legs.values_mut().flatten().for_each(|leg| leg.disk.reachable[node.index()] = false);
            }
            _ => self.mend(),
        }
    }

    /// Everything cut or lost is there again.
    pub fn mend(&mut self) {
        let shelf = self.pair.shelf_mut();
        shelf.lock_disks.iter_mut().for_each(|disk| disk.cut = [false; 2]);
        shelf.legs.values_mut().flatten().for_each(|leg| leg.disk.reachable = [true; 2]);
        NodeId::BOTH.into_iter().for_each(|node| self.pair.node_mut(node).sees = true);
    }
}
