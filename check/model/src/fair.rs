//! What must come about once faults stop: every volume served again, and a sound pair at home.
//!
//! One deterministic fair run a state and a company ([`Company`]): what is cut is mended, who is dead starts (or stays dead), and then both nodes
//! take turns in which everything that can happen at a node happens: orders carried out to their end, pages read, lock disks looked at,
//! deadlines passed, legs resynced. Not here: every fair run; one that fails is a counterexample, one that succeeds is one run. The one
//! idea: runs end in states that earlier runs were seen to come home from, so almost every one is short.

use std::collections::HashSet;
use std::sync::Mutex;

use understudy_failover::hand_off::HandOffPhase;
use understudy_failover::input::{Earnest, Input, Request, SoftVetoes, TakeoverKind};
use understudy_failover::machine::{Machine, State};
use understudy_failover::mutants;
use understudy_failover::page::{PoolState, StateWord};
use understudy_failover::timers::Timer;
use understudy_failover::words::{LegIndex, NodeId, PoolId, RequestId};

use crate::clients::resyncable;
use crate::laws::{self, Law};
use crate::moves::Move;
use crate::orders::{World, page_of};
use crate::pair::{Faults, Leg, Pair, Served};
use crate::scenes::Scene;
use crate::work::{Lands, Turn, ready};

/// Who lives when faults stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Company {
    /// Both: the pair has to come home.
    Both,
    /// One node alone: it has to serve everything.
    Alone(NodeId),
    /// Both, and every leg that one of them does not reach, or neither, stays so: they have to come to rest with everything served.
    Unmended,
    /// One node alone, and what it does not reach stays out of its reach: it has to serve everything.
    AloneUnmended(NodeId),
}

impl Company {
    /// Each.
    pub const ALL: [Self; 6] = [
        Self::Both,
        Self::Alone(NodeId::A),
        Self::Alone(NodeId::B),
        Self::Unmended,
        Self::AloneUnmended(NodeId::A),
        Self::AloneUnmended(NodeId::B),
    ];

    /// Whether there is anything to be asked of this one: a leg is out of reach, and of every mirror one that is recorded good is not.
    fn applies(self, pair: &Pair) -> bool {
        let who: &[NodeId] = match self {
            Self::Both | Self::Alone(_) => return true,
            Self::Unmended => &NodeId::BOTH,
            Self::AloneUnmended(node) => &[node],
        };
        let lost = |leg: &Leg| who.iter().any(|node| !leg.disk.reachable[node.index()]);
        let reached = |leg: &Leg| who.iter().any(|node| leg.disk.reachable[node.index()]);
        let good = |pool: &PoolId, leg: u8| {
            let stood = pair.memory.stood.get(pool).and_then(|entry| entry.legs.first());
            stood.is_none_or(|legs| legs.contains(LegIndex(leg)))
        };
        let has_good =
            |(pool, legs): (&PoolId, &Vec<Leg>)| legs.iter().zip(0u8..).any(|(leg, at)| good(pool, at) && reached(leg));
        pair.shelf.legs.values().flatten().any(lost) && pair.shelf.legs.iter().all(has_good)
    }

    /// Whether legs stay as they are when everything else is mended.
    fn keeps_legs(self) -> bool {
        matches!(self, Self::Unmended | Self::AloneUnmended(_))
    }
}

/// Most rounds of a run. From power-off to home takes about ten.
const ROUNDS: usize = 120;

/// States from which runs have come home, by company.
#[derive(Debug, Default)]
pub struct Homecomings([Mutex<HashSet<u64>>; 6]);

/// Why a run did not come home.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stuck {
    /// The law it breaks.
    pub law: Law,
    /// How it ended.
    pub how: String,
}

impl Homecomings {
    /// Whether every company comes home from here.
    ///
    /// # Errors
    /// How the first that does not ends.
    pub fn check(&self, scene: &Scene, pair: &Pair) -> Result<(), Stuck> {
        for (company, known) in Company::ALL.into_iter().zip(&self.0).filter(|(company, _)| company.applies(pair)) {
            let mut told = None;
            run(scene, pair, company, Some(known), &mut told)?;
        }
        Ok(())
    }
}

/// Runs until home. With `told`, tells what happens.
///
/// # Errors
/// How it ends otherwise.
pub fn run(
    scene: &Scene,
    pair: &Pair,
    company: Company,
    known: Option<&Mutex<HashSet<u64>>>,
    told: &mut Option<Vec<String>>,
) -> Result<Pair, Stuck> {
    mutants::switch(scene.mutant);
    let mut world = World { scene, pair: pair.clone(), lines: told.as_ref().map(|_| Vec::new()) };
    world.pair.memory_mut().faults = Faults::default();
    let legs = world.pair.shelf.legs.clone();
    world.mend();
    if company.keeps_legs() {
        let lost = legs.into_iter().flat_map(|(pool, legs)| legs.into_iter().zip(0..).map(move |it| (pool, it)));
        for (pool, (leg, at)) in lost {
            world.pair.leg_mut(pool, at).disk.reachable = leg.disk.reachable;
        }
    }
    let ended = world.come_home(company, known);
    mutants::switch(None);
    if let (Some(told), Some(lines)) = (told, world.lines.take()) {
        told.extend(lines);
    }
    ended.map(|()| world.pair)
}

/// Runs both nodes until `done`, for the beginning of a scene.
///
/// # Panics
/// If it never comes about.
#[must_use]
pub fn run_until(scene: &Scene, pair: &Pair, done: impl Fn(&Pair) -> bool) -> Pair {
    let mut world = World { scene, pair: pair.clone(), lines: None };
    world.until(done);
    world.judge_and_seal();
    world.pair
}

/// Has `node` take over from a partner that does nothing meanwhile, with leg 0 of every pool out of its reach, until it has refused the
/// pools.
///
/// # Panics
/// If it never does.
#[must_use]
pub fn take_over_short_of_a_leg(scene: &Scene, pair: &Pair, node: NodeId) -> Pair {
    let mut world = World { scene, pair: pair.clone(), lines: None };
    for pool in scene.pools() {
        world.pair.leg_mut(pool, 0).disk.reachable[node.index()] = false;
    }
    if world.pair.node(node).running().is_none() {
        world.start(node);
    }
    for _ in 0..ROUNDS {
        world.carry_out_orders(node);
        let refused = |machine: &Machine| {
            scene.pools().all(|pool| machine.pool(pool).is_some_and(|it| it.state == PoolState::Refused))
        };
        let settled = |machine: &Machine| !matches!(machine.state(), State::Claiming(_));
        if world.pair.node(node).running().is_some_and(|machine| refused(machine) && settled(machine)) {
            world.judge_and_seal();
            return world.pair;
        }
        if world.hears(node) {
            world.make(Move::Silence(node));
        }
        world.make(Move::Look(node));
        if world.pair.node(node).running().is_some_and(|machine| machine.deadlines().contains(&Timer::Retry)) {
            world.make(Move::Pass(node, Timer::Retry));
        }
    }
    panic!("never came about: {}", describe(&world.pair));
}

impl World<'_> {
    /// Single steps of both nodes in turn, without giveback's deadlines, until `done`.
    fn until(&mut self, done: impl Fn(&Pair) -> bool) {
        for _ in 0..ROUNDS {
            for node in NodeId::BOTH {
                if self.pair.node(node).running().is_none() {
                    self.start(node);
                }
                for it in [Move::ReadPage(node), Move::Look(node)] {
                    self.make(it);
                    for _ in 0..100 {
                        if done(&self.pair) {
                            return;
                        }
                        let Some(at) = ready(&self.pair, node).first().copied() else { break };
                        self.step_task(node, at, Turn::Well);
                    }
                }
                for pool in resyncable(&self.pair, node) {
                    self.resync(node, pool);
                }
            }
        }
        panic!("never came about: {}", describe(&self.pair));
    }

    fn come_home(&mut self, company: Company, known: Option<&Mutex<HashSet<u64>>>) -> Result<(), Stuck> {
        let mut passed = Vec::new();
        let mut impatient = false;
        for _ in 0..ROUNDS {
            let mark = self.pair.fingerprint();
            // PANIC: nobody panics while holding the lock.
            let arrived = known.is_some_and(|known| known.lock().expect("not poisoned").contains(&mark));
            let rests = company != Company::Unmended || (impatient && passed.contains(&mark));
            if arrived || (rests && self.is_home(company)) {
                passed.push(mark);
                if let Some(known) = known {
                    known.lock().expect("not poisoned").extend(passed);
                }
                return Ok(());
            }
            if passed.contains(&mark) {
                if impatient && rests {
                    break;
                }
                if let Some(node) = self.waits_for_receiver().filter(|_| company == Company::Both) {
                    let how =
                        format!("{node} announced a COMMIT that its partner does not take: {}", describe(&self.pair));
                    return Err(Stuck { law: Law::SeenThrough, how });
                }
                impatient = true;
            }
            passed.push(mark);
            self.round(company, impatient);
            self.judge_and_seal();
            if let Some((law, how)) = &self.pair.memory.broken {
                return Err(Stuck { law: *law, how: format!("after faults stopped ({company:?}): {how}") });
            }
        }
        let served = self.pair.pools().all(|pool| NodeId::BOTH.iter().any(|node| self.pair.node(*node).answers(pool)));
        let law = match company {
            Company::Both if served => Law::HomeAgain,
            Company::Unmended => Law::AtRest,
            Company::Both | Company::Alone(_) | Company::AloneUnmended(_) => Law::ServedAgain,
        };
        Err(Stuck { law, how: format!("faults stopped ({company:?}), and it ends with {}", describe(&self.pair)) })
    }

    /// The node whose announced COMMIT nobody has taken.
    fn waits_for_receiver(&self) -> Option<NodeId> {
        let announced = |machine: &Machine| match machine.state() {
            State::HandingOff(hand_off) => matches!(hand_off.phase, HandOffPhase::Announced { .. }),
            _ => false,
        };
        NodeId::BOTH.into_iter().find(|node| self.pair.node(*node).running().is_some_and(announced))
    }

    fn judge_and_seal(&mut self) {
        for node in NodeId::BOTH {
            self.pair.node_mut(node).make_canonical();
        }
        laws::judge(&mut self.pair);
        self.pair.reseal();
    }

    fn is_home(&self, company: Company) -> bool {
        let up =
            |node: NodeId| self.pair.node(node).running().is_some_and(|machine| machine.state_word() == StateWord::Up);
        match company {
            Company::Both => {
                let answers = |(home, pool): (&NodeId, _)| {
                    self.pair.node(*home).answers(pool) && !self.pair.node(home.partner()).answers(pool)
                };
                let listens = |home: &NodeId| {
                    let listening =
                        |node: NodeId| self.pair.node(node).running().is_some_and(|machine| machine.listens_for(*home));
                    listening(*home) && !listening(home.partner())
                };
                let at_home = NodeId::BOTH.into_iter().all(up) && self.scene.homes.iter().all(listens);
                at_home && self.scene.homes.iter().zip(self.pair.pools()).all(answers)
            }
            Company::Alone(node) | Company::AloneUnmended(node) => {
                self.pair.pools().all(|pool| self.pair.node(node).answers(pool))
            }
            Company::Unmended => {
                let one =
                    |pool| NodeId::BOTH.into_iter().filter(|node| self.pair.node(*node).answers(pool)).count() == 1;
                self.pair.pools().all(one)
            }
        }
    }

    /// Everything that is due happens, A first, and A twice: two nodes in step with each other could tie for ever.
    fn round(&mut self, company: Company, impatient: bool) {
        let turns = match company {
            Company::Both | Company::Unmended => vec![NodeId::A, NodeId::A, NodeId::B],
            Company::Alone(node) | Company::AloneUnmended(node) => vec![node],
        };
        if let Company::Alone(node) | Company::AloneUnmended(node) = company
            && self.pair.node(node.partner()).machine.is_some()
        {
            self.say(|| format!("{} is killed", node.partner()));
            self.end(node.partner());
        }
        let mut last = None;
        for node in turns {
            // No limit passes between two turns of one node: its partner has had no time to do what it waits for.
            self.turn(node, impatient, impatient && last != Some(node));
            last = Some(node);
        }
    }

    fn turn(&mut self, node: NodeId, impatient: bool, limits_pass: bool) {
        if self.pair.node(node).running().is_none() {
            self.say(|| format!("{node} starts"));
            self.start(node);
        }
        self.settle_everything();
        self.carry_out_orders(node);
        if page_of(self.pair.node(node.partner()), node.partner()).is_some() {
            self.make(Move::ReadPage(node));
        }
        // What is said for a worker that is gone stands still as well.
        if self.pair.node(node.partner()).machine.is_none() && self.hears(node) {
            self.make(Move::Silence(node));
        }
        self.carry_out_orders(node);
        self.make(Move::Look(node));
        self.carry_out_orders(node);
        let all =
            [Timer::Retry, Timer::Record, Timer::Release, Timer::Doubt, Timer::Refused, Timer::Delay, Timer::Limit];
        for timer in all {
            let set = self.pair.node(node).running().is_some_and(|machine| machine.deadlines().contains(&timer));
            if set && (timer != Timer::Limit || limits_pass) {
                self.make(Move::Pass(node, timer));
                self.carry_out_orders(node);
            }
        }
        for pool in resyncable(&self.pair, node) {
            self.resync(node, pool);
        }
        self.carry_out_orders(node);
        if impatient {
            self.ask_for_giveback(node);
            self.ask_for_takeover(node);
        }
    }

    fn hears(&self, node: NodeId) -> bool {
        self.pair.node(node).running().is_some_and(|machine| machine.has_heard())
    }

    /// What was taken over on request stays until an operator gives it back.
    fn ask_for_giveback(&mut self, node: NodeId) {
        let released =
            self.pair.node(node).running().is_some_and(|machine| matches!(machine.state(), State::Released(_)));
        if released {
            let what = Request::Giveback { vetoes: SoftVetoes::Overridden, earnest: Earnest::Do };
            self.input(node, Input::OperatorAsked { request: RequestId(1), what });
            self.carry_out_orders(node);
        }
    }

    /// A partner that has ended and is left alone, as configured, is taken over from when an operator says so.
    fn ask_for_takeover(&mut self, node: NodeId) {
        if self.pair.node(node).running().is_some_and(|machine| machine.leaves_partner_alone()) {
            let (vetoes, earnest) = (SoftVetoes::Count, Earnest::Do);
            let what = Request::Takeover { kind: TakeoverKind::Forced, vetoes, earnest };
            self.input(node, Input::OperatorAsked { request: RequestId(1), what });
            self.carry_out_orders(node);
        }
    }

    /// Whatever is on its way arrives.
    fn settle_everything(&mut self) {
        let late = |pair: &Pair| {
            let disks = pair.shelf.lock_disks.iter().enumerate();
            disks.flat_map(|(at, disk)| disk.late.first().map(|(owner, _)| (at, *owner))).next()
        };
        // BOUND: each takes one away.
        while let Some((at, owner)) = late(&self.pair) {
            self.settle_record(at, owner, Lands::Yes);
        }
        for node in NodeId::BOTH {
            self.pair.node_mut(node).late = None;
        }
        let flying = |pair: &Pair| {
            pair.pools()
                .flat_map(|pool| [(pool, 0), (pool, 1)])
                .find(|(pool, leg)| !pair.leg(*pool, *leg).disk.in_flight.is_empty())
        };
        // BOUND: each takes one away.
        while let Some((pool, leg)) = flying(&self.pair) {
            let write = &self.pair.leg(pool, leg).disk.in_flight[0];
            let writer = self.pair.node(write.node);
            if u32::from(writer.run) == write.run && writer.running().is_some() {
                self.land(pool, leg, 0);
            } else {
                self.vanish(pool, leg, 0);
            }
        }
        for (node, pool) in NodeId::BOTH.into_iter().flat_map(|it| self.scene.pools().map(move |pool| (it, pool))) {
            if matches!(self.pair.node(node).mounts[&pool].served, Served::Yes | Served::Held) {
                self.send_unsent(node, pool);
            }
        }
    }

    /// Every order of this node is carried out, and those that follow from it.
    fn carry_out_orders(&mut self, node: NodeId) {
        // BOUND: a machine orders a bounded number of things a fact; a loop of orders without end would be a mistake of its own.
        for _ in 0..400 {
            if self.pair.node(node).running().is_none() {
                return;
            }
            match ready(&self.pair, node).first() {
                Some(at) => self.step_task(node, *at, Turn::Well),
                None => return,
            }
        }
    }
}

/// Both nodes in a line.
#[must_use]
pub fn describe(pair: &Pair) -> String {
    let one = |node: NodeId| {
        let word = pair.node(node).running().map_or("-", |machine| machine.state_word().name());
        let served: Vec<Served> = pair.node(node).mounts.values().map(|mount| mount.served).collect();
        format!("{node} {word} {served:?}")
    };
    format!("{}, {}", one(NodeId::A), one(NodeId::B))
}
