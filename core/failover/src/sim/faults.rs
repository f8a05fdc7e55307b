//! Random schedules: a pair under faults, then healed, then asked to serve.
//!
//! Phase 1 safety: faults drawn at random while clients write. Phase 2 liveness: faults stop, everything reachable, everything awake;
//! every pool has to be served, and the pair has to end at home.

use super::{Chaos, Process, World, usual_config};
use crate::config::{Config, PoolConfig};
use crate::input::{Earnest, Request, SoftVetoes, TakeoverKind};
use crate::page::StateWord;
use crate::words::{Micros, NodeId, PoolId};

/// Which faults are drawn, by weight.
#[derive(Debug, Clone, Copy)]
pub struct Mix {
    /// SIGKILL with a restart, of the worker alone or of everything.
    pub kill: u64,
    /// SIGSTOP with a wake-up.
    pub stop: u64,
    /// Interconnect, each direction.
    pub interconnect: u64,
    /// One lock disk out of reach of one node or both.
    pub lock_disk: u64,
    /// One leg out of reach of one node or both.
    pub leg: u64,
    /// Operators.
    pub operator: u64,
}

impl Mix {
    /// All of them.
    pub const ALL: Self = Self { kill: 6, stop: 6, interconnect: 3, lock_disk: 3, leg: 3, operator: 4 };

    fn total(self) -> u64 {
        self.kill + self.stop + self.interconnect + self.lock_disk + self.leg + self.operator
    }
}

/// The pair a schedule befalls: not every one has three lock disks and one pool a node.
#[must_use]
pub fn pair_of(seed: u64) -> [Config; 2] {
    let mut configs = NodeId::BOTH.map(usual_config);
    for config in &mut configs {
        if matches!(seed % 5, 0 | 2) {
            config.pools.insert(PoolId(3), PoolConfig { home: NodeId::A });
            config.may_split = seed % 5 == 2;
        }
        if seed.is_multiple_of(7) {
            config.lock_disks = 1;
        }
        if seed.is_multiple_of(3) {
            config.preferred = NodeId::B;
        }
        if seed % 11 == 10 {
            config.pools.remove(&PoolId(2));
        }
    }
    configs
}

/// Runs one schedule.
///
/// # Errors
/// What went wrong, with the moment.
pub fn run_schedule(seed: u64, mix: Mix, chaos: Chaos, length: Micros) -> Result<World, String> {
    let mut world = World::new(pair_of(seed), seed, chaos);
    replay(&mut world, mix, length)?;
    Ok(world)
}

/// The same on a world made by the caller, who may keep its transcript.
///
/// # Errors
/// What went wrong, with the moment.
pub fn replay(world: &mut World, mix: Mix, length: Micros) -> Result<(), String> {
    for node in NodeId::BOTH {
        let after = world.dice.below(2_000_000);
        world.restart_later(node, after);
    }
    let end = world.now.after(length);
    while world.now < end {
        let longest = if world.dice.once_in(3) { 1_500_000 } else { 60_000 };
        let pause = 1_000 + world.dice.below(longest);
        let until = world.now.after(Micros(pause));
        world.run_until(until)?;
        draw_fault(world, mix);
    }
    heal(world);
    serve_again(world)
}

fn any_node(world: &mut World) -> NodeId {
    if world.dice.once_in(2) { NodeId::A } else { NodeId::B }
}

fn draw_fault(world: &mut World, mix: Mix) {
    let node = any_node(world);
    let mut drawn = world.dice.below(mix.total());
    let mut is = |weight: u64| {
        let hit = drawn < weight;
        drawn = if hit { u64::MAX } else { drawn - weight };
        hit
    };
    if is(mix.kill) {
        if world.dice.once_in(2) {
            world.die(node);
        } else {
            world.kill(node);
        }
        let after =
            if world.dice.once_in(2) { 30_000 + world.dice.below(300_000) } else { world.dice.below(6_000_000) };
        world.restart_later(node, after);
    } else if is(mix.stop) {
        world.stop(node);
        let after = if world.dice.once_in(2) { world.dice.below(400_000) } else { world.dice.below(4_000_000) };
        world.wake_later(node, after);
    } else if is(mix.interconnect) {
        let works = world.dice.once_in(2);
        world.interconnect[node.index()] = works;
        if world.dice.once_in(2) {
            world.interconnect[node.partner().index()] = works;
        }
    } else if is(mix.lock_disk) {
        // At most one lock disk is out of reach at a time: the pair is built for that.
        let at = world.dice.below(world.lock_disks.len() as u64) as usize;
        for disk in &mut world.lock_disks {
            disk.cut = [false; 2];
        }
        world.lock_disks[at].cut[node.index()] = true;
        world.lock_disks[at].cut[node.partner().index()] = world.dice.once_in(2);
    } else if is(mix.leg) {
        draw_leg(world, node);
    } else if is(mix.operator) {
        draw_request(world, node);
    }
}

fn draw_leg(world: &mut World, node: NodeId) {
    let pools: Vec<_> = world.pool_disks.keys().copied().collect();
    let pool = pools[world.dice.below(pools.len() as u64) as usize];
    let leg = world.dice.below(2) as u8;
    let both = world.dice.once_in(2);
    for other in 0..2 {
        world.disk(pool, other).reachable = [true; 2];
    }
    let works = world.dice.once_in(3);
    let disk = world.disk(pool, leg);
    disk.reachable[node.index()] = works;
    if both {
        disk.reachable[node.partner().index()] = works;
    }
}

fn draw_request(world: &mut World, node: NodeId) {
    let vetoes = if world.dice.once_in(2) { SoftVetoes::Count } else { SoftVetoes::Overridden };
    let earnest = if world.dice.once_in(8) { Earnest::DryRun } else { Earnest::Do };
    let may_split = world.nodes[node.index()].machine.as_ref().is_some_and(|machine| machine.config().may_split);
    if may_split && world.dice.once_in(2) {
        let pools: Vec<_> = world.pool_disks.keys().copied().collect();
        let pools = [pools[world.dice.below(pools.len() as u64) as usize]].into();
        let what = match world.dice.once_in(2) {
            true => Request::TakeoverOf { pools, vetoes, earnest },
            false => Request::GivebackOf { pools, vetoes, earnest },
        };
        let request = world.dice.roll();
        return world.ask(node, request, what);
    }
    let what = match world.dice.below(8) {
        0..=2 => Request::Takeover { kind: TakeoverKind::Planned, vetoes, earnest },
        3 => Request::Takeover { kind: TakeoverKind::Forced, vetoes, earnest },
        4 | 5 => Request::Giveback { vetoes, earnest },
        6 => Request::Halt,
        _ => Request::PartnerLost,
    };
    let request = world.dice.roll();
    let halts = what == Request::Halt;
    world.ask(node, request, what);
    if halts {
        let after = world.dice.below(3_000_000);
        world.restart_later(node, after);
    }
}

/// Faults stop.
pub fn heal(world: &mut World) {
    world.chaos = Chaos::NONE;
    world.interconnect = [true; 2];
    for disk in &mut world.lock_disks {
        disk.cut = [false; 2];
    }
    let pools: Vec<_> = world.pool_disks.keys().copied().collect();
    for pool in pools {
        for leg in 0..2 {
            world.disk(pool, leg).reachable = [true; 2];
        }
    }
    for node in NodeId::BOTH {
        match world.nodes[node.index()].process {
            Process::Dead => world.start(node),
            Process::Stopped => world.wake(node),
            Process::Running => {}
        }
    }
}

/// Every pool served, then everything at home.
///
/// # Errors
/// That it does not come about in a minute.
pub fn serve_again(world: &mut World) -> Result<(), String> {
    let limit = world.now.after(Micros::from_millis(60_000));
    let pools: Vec<_> = world.pool_disks.keys().copied().collect();
    world.run_until_true(limit, "every pool is served", |world| {
        pools.iter().all(|pool| NodeId::BOTH.iter().any(|node| world.answers(*node, *pool)))
    })?;
    // What an operator took over stays until an operator gives it back; a request made before the faults ended may still be under way.
    let limit = world.now.after(Micros::from_millis(60_000));
    let mut home_since = None;
    loop {
        match home_since {
            Some(since) if is_home(world) && world.now.since(since) >= Micros::from_millis(2_000) => return Ok(()),
            Some(_) if is_home(world) => {}
            None if is_home(world) => home_since = Some(world.now),
            Some(_) | None => home_since = None,
        }
        if world.now >= limit {
            return Err(format!("not at home: {}", world.describe()));
        }
        for node in NodeId::BOTH {
            if world.word(node) == Some(StateWord::Released) {
                world.ask(node, 1, Request::Giveback { vetoes: SoftVetoes::Overridden, earnest: Earnest::Do });
            }
            world.start(node);
        }
        let next = world.now.after(Micros::from_millis(500));
        world.run_until(next)?;
    }
}

fn is_home(world: &World) -> bool {
    let up = NodeId::BOTH.iter().all(|node| world.word(*node) == Some(StateWord::Up));
    up && world.homes().all(|(pool, home)| world.answers(home, pool) && !world.answers(home.partner(), pool))
}
