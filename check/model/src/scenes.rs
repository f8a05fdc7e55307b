//! The bounds: which pair, from which beginning, with how many of which faults.
//!
//! The one idea: a scene is small enough to be explored to its end, and the scenes together have every fault meet every step.

use understudy_failover::config::{AutomaticGiveback, Config, PoolConfig, Timing};
use understudy_failover::mutants::Mutant;
use understudy_failover::sim::PAIR;
use understudy_failover::words::{Micros, NodeId, PoolId};

use crate::pair::Faults;

/// How finely orders are cut into steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Detail {
    /// What a node does to one disk until its answer is known is one step; a survey is one.
    EveryDisk,
    /// Every command to every disk is a step.
    EveryAccess,
}

/// Where a scene begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// Both machines powered off, the records as the pair was made.
    Off,
    /// Both nodes up, every pool at home.
    Home,
    /// B serves everything, A is off.
    TakenOver,
    /// B serves everything and has released; A is in MBWAIT.
    Ready,
}

/// One scene.
#[derive(Debug, Clone)]
pub struct Scene {
    /// Its name.
    pub name: &'static str,
    /// Homes of its pools.
    pub homes: &'static [NodeId],
    /// 1 or 3.
    pub lock_disks: usize,
    /// How finely.
    pub detail: Detail,
    /// From where.
    pub start: Start,
    /// What may go wrong.
    pub faults: Faults,
    /// Most runs of one node; a state in which a node would need one more is not followed further.
    pub runs: u8,
    /// Whether every state is asked to heal.
    pub liveness: bool,
    /// The mistake switched on.
    pub mutant: Option<Mutant>,
}

/// Every wait is one moment, every age is before or now: see the crate's heading.
fn timeless() -> Timing {
    let one = Micros(1);
    Timing {
        poll_routine: one,
        poll_brisk: one,
        heartbeat: one,
        wait_short: one,
        wait_long: one,
        boot_wait: one,
        interconnect_alarm: one,
        second_node_delay: Micros(0),
        retry: one,
        hold_limit: one,
        settle_limit: one,
        receiver_limit: one,
        own_gap: one,
        bring_up_retry: one,
        veto_retry: one,
        refused_retry: one,
        want_limit: one,
    }
}

impl Scene {
    /// Its pools.
    pub fn pools(&self) -> impl Iterator<Item = PoolId> + use<> {
        (1..=self.homes.len() as u32).map(PoolId)
    }

    /// What a node of it is told.
    #[must_use]
    pub fn config(&self, node: NodeId) -> Config {
        let pools = self.homes.iter().zip(1..).map(|(home, id)| (PoolId(id), PoolConfig { home: *home }));
        Config {
            pair: PAIR,
            node,
            preferred: NodeId::A,
            lock_disks: self.lock_disks,
            pools: pools.collect(),
            giveback: AutomaticGiveback::Within { limit: 1_000, window: Micros(1) },
            timing: timeless(),
        }
    }
}

const ONE: &[NodeId] = &[NodeId::A];
const TWO: &[NodeId] = &[NodeId::A, NodeId::B];

const NONE: Faults = Faults {
    kills: 0,
    silences: 0,
    late_pages: 0,
    unknown_records: 0,
    unknown_writes: 0,
    writes: 0,
    cuts: 0,
    lock_disks: 0,
    legs: 0,
    cut_off: 0,
    doubts: 0,
    stale_opens: 0,
    requests: 0,
};

const fn scene(name: &'static str, start: Start, faults: Faults) -> Scene {
    Scene {
        name,
        homes: ONE,
        lock_disks: 3,
        detail: Detail::EveryDisk,
        start,
        faults,
        runs: 3,
        liveness: true,
        mutant: None,
    }
}

/// What CI explores.
#[must_use]
pub fn short() -> Vec<Scene> {
    vec![
        scene("power-on", Start::Off, Faults { kills: 1, ..NONE }),
        scene("death", Start::Home, Faults { kills: 1, writes: 1, ..NONE }),
        scene("zombie", Start::Home, Faults { silences: 1, writes: 1, ..NONE }),
        scene("giveback", Start::TakenOver, Faults { writes: 1, ..NONE }),
        scene("giveback-death", Start::Ready, Faults { kills: 1, ..NONE }),
        Scene { homes: TWO, ..scene("two-pools", Start::Home, Faults { kills: 1, ..NONE }) },
    ]
}

/// What is explored when there is time.
#[must_use]
pub fn long() -> Vec<Scene> {
    short()
}

/// Every mistake with the scene that finds it and the laws that may name it.
#[must_use]
pub fn mistakes() -> Vec<(Scene, &'static [crate::laws::Law])> {
    Vec::new()
}
