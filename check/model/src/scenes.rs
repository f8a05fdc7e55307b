//! The bounds: which pair, from which beginning, with how many of which faults.
//!
//! The one idea: a scene is small enough to be explored to its end, and the scenes together have every fault meet every step.

use understudy_failover::config::{AutomaticGiveback, Config, OnEnd, Policy, PoolConfig, Timing};
use understudy_failover::mutants::Mutant;
use understudy_failover::sim::PAIR;
use understudy_failover::words::{Micros, NodeId, PoolId};

use crate::laws::Law;
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
    /// The same, and this node reaches no leg of any pool.
    Legless(NodeId),
    /// The same, and the records give every pool to the node that is not its home.
    Crossed,
    /// Both nodes up, every pool at home.
    Home,
    /// B serves everything, A is off.
    TakenOver,
    /// B serves everything and has released; A is in MBWAIT.
    Ready,
    /// This node has taken over from the other, which still serves and has not noticed; a leg is out of its reach, and it has refused
    /// the pool. For B that is the pool of a home that served it; for A, which has just booted, its own, which B served.
    Refused(NodeId),
}

/// What the configuration keeps back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Restraint {
    /// Nothing.
    Nothing,
    /// Whatever it can: givebacks are delayed, and a partner that has ended is left alone.
    Everything,
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
    /// Whether pools of one home may be at both nodes.
    pub may_split: bool,
    /// What may go wrong.
    pub faults: Faults,
    /// Most runs of one node; a state in which a node would need one more is not followed further.
    pub runs: u8,
    /// Most orders of one node under way; with more it first carries one out.
    pub orders: usize,
    /// What is not done by itself, or not at once.
    pub restraint: Restraint,
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
        wait_ended: one,
        wait_closed: one,
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
            may_split: self.may_split,
            policy: self.policy(),
            timing: timeless(),
        }
    }
}

impl Scene {
    fn policy(&self) -> Policy {
        let usual = Policy::from(AutomaticGiveback::Within { limit: 1_000, window: Micros(1) });
        match self.restraint {
            Restraint::Nothing => usual,
            Restraint::Everything => {
                let (on_halt, on_panic) = (OnEnd::Leave, OnEnd::Leave);
                Policy { giveback_delay: Micros(1), on_halt, on_panic, ..usual }
            }
        }
    }
}

const ONE: &[NodeId] = &[NodeId::A];
const TWO: &[NodeId] = &[NodeId::A, NodeId::B];
/// Two pools of one home, and one of the other.
const PARTS: &[NodeId] = &[NodeId::A, NodeId::A, NodeId::B];

const NONE: Faults = Faults {
    kills: 0,
    announced: 0,
    silences: 0,
    late_pages: 0,
    unknown_records: 0,
    unknown_writes: 0,
    writes: 0,
    cuts: 0,
    lock_disks: 0,
    legs: 0,
    mends: 0,
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
        may_split: false,
        faults,
        runs: 3,
        orders: 2,
        restraint: Restraint::Nothing,
        liveness: true,
        mutant: None,
    }
}

/// One lock disk: the same decisions with a third of the steps.
const fn small(name: &'static str, start: Start, faults: Faults) -> Scene {
    Scene { lock_disks: 1, ..scene(name, start, faults) }
}

/// Two pools of one home, which move by themselves.
const fn parts(name: &'static str, start: Start, faults: Faults) -> Scene {
    Scene { homes: PARTS, may_split: true, ..small(name, start, faults) }
}

/// What CI explores.
#[must_use]
pub fn short() -> Vec<Scene> {
    use Start::{Crossed, Home, Legless, Off, Ready, Refused, TakenOver};
    vec![
        small("power-on", Off, NONE),
        Scene { homes: TWO, ..small("crosswise", Crossed, NONE) },
        small("death", Home, Faults { kills: 1, ..NONE }),
        small("announced-death", Home, Faults { announced: 1, ..NONE }),
        small("giveback-announced-death", Ready, Faults { announced: 1, ..NONE }),
        small("zombie", Home, Faults { silences: 1, ..NONE }),
        small("giveback", TakenOver, NONE),
        small("giveback-silence", Ready, Faults { silences: 1, ..NONE }),
        small("giveback-unknown", Ready, Faults { unknown_records: 1, ..NONE }),
        small("giveback-late-page", Ready, Faults { late_pages: 1, ..NONE }),
        small("bring-up-late-page", TakenOver, Faults { late_pages: 1, ..NONE }),
        small("writes", Home, Faults { writes: 2, unknown_writes: 1, ..NONE }),
        small("leg", Home, Faults { legs: 1, mends: 1, writes: 1, ..NONE }),
        small("no-leg", Legless(NodeId::A), NONE),
        small("leg-left-out", Refused(NodeId::B), Faults { writes: 1, ..NONE }),
        small("doubt", Home, Faults { doubts: 1, writes: 1, ..NONE }),
        small("cut", Home, Faults { cuts: 2, mends: 1, silences: 1, ..NONE }),
        small("cut-off", Home, Faults { cut_off: 1, mends: 1, ..NONE }),
        small("stale", Ready, Faults { stale_opens: 1, ..NONE }),
        small("operator", Home, Faults { requests: 1, ..NONE }),
        Scene { restraint: Restraint::Everything, ..small("giveback-delayed", TakenOver, NONE) },
        Scene {
            restraint: Restraint::Everything,
            ..small("operator-restrained", Home, Faults { requests: 1, ..NONE })
        },
        parts("parts", Home, Faults { requests: 1, ..NONE }),
        Scene { restraint: Restraint::Everything, ..parts("parts-giveback", Ready, Faults { requests: 1, ..NONE }) },
        Scene { homes: TWO, ..small("two-pools-death", Home, Faults { kills: 1, ..NONE }) },
        Scene { detail: Detail::EveryAccess, ..small("every-access-zombie", Home, Faults { silences: 1, ..NONE }) },
        scene("three-giveback", Ready, NONE),
        scene("three-unknown", Ready, Faults { unknown_records: 2, ..NONE }),
    ]
}

/// What is explored when there is time.
#[must_use]
pub fn long() -> Vec<Scene> {
    use Start::{Home, Off, TakenOver};
    let fine = |scene: Scene| Scene { detail: Detail::EveryAccess, ..scene };
    vec![
        small("giveback-death", TakenOver, Faults { kills: 1, ..NONE }),
        small("two-deaths", Home, Faults { kills: 2, ..NONE }),
        small("zombie-writes", Home, Faults { silences: 1, writes: 1, ..NONE }),
        small("zombies", Home, Faults { silences: 2, ..NONE }),
        scene("three-takeover-giveback", TakenOver, NONE),
        small("power-on-death", Off, Faults { kills: 1, ..NONE }),
        small("death-and-zombie", Home, Faults { kills: 1, silences: 1, ..NONE }),
        small("operators", Home, Faults { requests: 2, ..NONE }),
        small("operator-death", Home, Faults { requests: 1, kills: 1, ..NONE }),
        fine(small("every-access-death", Home, Faults { kills: 1, ..NONE })),
        small("announced-deaths", Home, Faults { announced: 2, ..NONE }),
        small("leg-announced-death", Home, Faults { announced: 1, legs: 1, ..NONE }),
        scene("three-death", Home, Faults { kills: 1, ..NONE }),
        scene("three-zombie", Home, Faults { silences: 1, ..NONE }),
    ]
}

/// What is searched for as long as there is time: no machine has come to the end of these.
#[must_use]
pub fn deep() -> Vec<Scene> {
    use Start::{Crossed, Home, Ready};
    vec![
        small("giveback-death-unknown", Ready, Faults { kills: 1, unknown_records: 1, ..NONE }),
        small("giveback-silence-unknown", Ready, Faults { silences: 1, unknown_records: 1, ..NONE }),
        Scene { homes: TWO, ..small("crosswise-death", Crossed, Faults { kills: 1, ..NONE }) },
        parts("parts-death", Home, Faults { requests: 1, kills: 1, ..NONE }),
        parts("parts-zombie", Home, Faults { requests: 1, silences: 1, ..NONE }),
        parts("parts-giveback-death", Ready, Faults { requests: 1, kills: 1, ..NONE }),
        small("leg-death", Home, Faults { kills: 1, legs: 1, ..NONE }),
        small("leg-giveback", Ready, Faults { legs: 1, mends: 1, ..NONE }),
        small("leg-zombie", Home, Faults { silences: 1, legs: 1, ..NONE }),
        scene("three-lock-disk", Ready, Faults { lock_disks: 1, mends: 1, ..NONE }),
        scene("three-lock-disk-death", Ready, Faults { lock_disks: 1, kills: 1, ..NONE }),
    ]
}

/// Every mistake with the scene that finds it and the laws that may name it.
#[must_use]
pub fn mistakes() -> Vec<(Scene, &'static [Law])> {
    usual_mistakes().into_iter().chain(mistakes_in_parts()).collect()
}

fn mistakes_in_parts() -> [(Scene, &'static [Law]); 2] {
    let close = parts("parts", Start::Home, Faults { requests: 1, ..NONE });
    let claim = parts("parts-giveback", Start::Ready, Faults { requests: 1, ..NONE });
    let claim = Scene { restraint: Restraint::Everything, ..claim };
    [
        (
            Scene { mutant: Some(Mutant::ClosePortalsOfPart), liveness: false, ..close },
            &[Law::CloseLast, Law::HomeListens],
        ),
        (Scene { mutant: Some(Mutant::ClaimWholeHome), ..claim }, &[Law::HomeAgain, Law::SeenThrough]),
    ]
}

fn usual_mistakes() -> Vec<(Scene, &'static [Law])> {
    use Start::{Crossed, Home, Legless, Ready, Refused, TakenOver};
    // What breaks a law of a moment is to be found by that law, not by what comes of it when faults stop.
    let with = |mutant, scene: Scene| Scene { mutant: Some(mutant), liveness: false, ..scene };
    let stuck = |mutant, scene: Scene| Scene { mutant: Some(mutant), ..scene };
    let death = small("death", Home, Faults { kills: 1, ..NONE });
    let zombie = small("zombie", Home, Faults { silences: 1, ..NONE });
    let zombies = small("zombies", Home, Faults { silences: 2, ..NONE });
    let giveback = small("giveback", TakenOver, NONE);
    let handed = small("ready", Ready, NONE);
    let unknown = Faults { unknown_records: 2, ..NONE };
    let crosswise = Scene { homes: TWO, ..small("crosswise", Crossed, NONE) };
    let forced = small("forced", Home, Faults { requests: 1, kills: 1, ..NONE });
    let late = small("bring-up-late-page", TakenOver, Faults { late_pages: 1, ..NONE });
    vec![
        (with(Mutant::SkipReadBack, zombie.clone()), &[Law::OneWriter, Law::StaysReserved, Law::RecordStands]),
        (with(Mutant::PortalsBeforeFence, death.clone()), &[Law::PortalsAfterFence]),
        (with(Mutant::AnnounceBeforeCommit, handed.clone()), &[Law::CommitFirst]),
        (with(Mutant::ReleaseWithoutGuard, giveback.clone()), &[Law::StaysReserved]),
        (with(Mutant::IgnoreOpNumbers, giveback.clone()), &[Law::FenceSeen]),
        (
            with(Mutant::PlainPreempt, small("zombie", Home, Faults { silences: 1, writes: 2, ..NONE })),
            &[Law::NothingLost],
        ),
        (
            with(Mutant::DropLegUnrecorded, small("leg-death", Home, Faults { kills: 1, legs: 1, writes: 1, ..NONE })),
            &[Law::NothingLost],
        ),
        (
            with(Mutant::ResumeAfterCommitSent, small("unknown", Ready, Faults { unknown_records: 1, ..NONE })),
            &[Law::CommitHeld],
        ),
        (
            with(Mutant::RepeatUnknownWrite, small("writes", Home, Faults { writes: 2, unknown_writes: 1, ..NONE })),
            &[Law::NothingLost],
        ),
        (with(Mutant::OldMetadata, small("stale", Ready, Faults { stale_opens: 1, ..NONE })), &[Law::MetadataCurrent]),
        (with(Mutant::SameGeneration, handed.clone()), &[Law::GenerationOnce]),
        (with(Mutant::ShareGenerations, forced.clone()), &[Law::GenerationOnce]),
        (with(Mutant::OverlookReturn, forced), &[Law::OneAnswers, Law::OneWriter]),
        (stuck(Mutant::KeepUnopened, small("no-leg", Legless(NodeId::A), NONE)), &[Law::AtRest]),
        (stuck(Mutant::IgnoreInventory, small("leg-ready", Ready, Faults { legs: 1, ..NONE })), &[Law::AtRest]),
        (with(Mutant::AttentionIsDefeat, small("doubt", Home, Faults { doubts: 1, ..NONE })), &[Law::DefeatReal]),
        (with(Mutant::SkipVerify, zombies.clone()), &[Law::RecordStands, Law::OneWriter]),
        (with(Mutant::ServeBeforeFence, death), &[Law::PortalsAfterFence, Law::FenceSeen]),
        (
            with(Mutant::ServeOnMinorityRecord, scene("three-unknown", Ready, unknown)),
            &[Law::CommitFirst, Law::RecordStands],
        ),
        (with(Mutant::IgnoreOtherClaim, zombies), &[Law::RecordStands, Law::OneWriter]),
        (
            with(Mutant::OverwriteStanding, scene("three-death", Ready, Faults { kills: 1, ..NONE })),
            &[Law::GenerationForward],
        ),
        (with(Mutant::AnyRelease, giveback.clone()), &[Law::ReleaseFirst]),
        (with(Mutant::CloseEarly, handed), &[Law::CloseLast]),
        (stuck(Mutant::LeaveOrphans, small("home", Home, NONE)), &[Law::ServedAgain]),
        (stuck(Mutant::OverlookRelease, giveback), &[Law::HomeAgain]),
        (
            with(Mutant::ReadUnwitnessed, small("leg-left-out", Refused(NodeId::B), Faults { writes: 1, ..NONE })),
            &[Law::NothingLost],
        ),
        (with(Mutant::RetryWithGuard, small("leg-left-out", Refused(NodeId::A), NONE)), &[Law::OneAnswers]),
        (stuck(Mutant::OverlookAnnouncement, late), &[Law::SeenThrough]),
        (stuck(Mutant::ServeCrosswise, crosswise), &[Law::HomeAgain]),
        (stuck(Mutant::KeepLostLegs, small("leg", Home, Faults { legs: 1, ..NONE })), &[Law::ServedAgain, Law::AtRest]),
    ]
}
