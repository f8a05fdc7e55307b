//! What the failover machine is told once, at its start: the pair's shape and its times.
//!
//! Not here: addresses, devices, names; the driver has those. The one idea: every number that decides *when* something
//! is tried is here with its reason; none of them decides *whether* it is safe.

use std::collections::BTreeMap;

use crate::words::{Micros, NodeId, PairId, PoolId};

/// The largest number of pools of a pair: what the state page's pool table holds.
pub const POOLS_MAX: usize = 60;

/// One pool as configured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct PoolConfig {
    /// The node it belongs to by configuration.
    pub home: NodeId,
}

/// Whether a repaired partner gets its pools back without being asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub enum AutomaticGiveback {
    /// At once after MBWAIT, at most `limit` times within `window`; after that it waits for the operator.
    Within {
        /// How many automatic givebacks.
        limit: u32,
        /// In how long a time.
        window: Micros,
    },
    /// Only when the operator asks.
    OnRequest,
}

/// What follows when the partner has ended and said so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub enum OnEnd {
    /// Its pools are taken over.
    TakeOver,
    /// They wait for it, or for the operator.
    Leave,
}

/// What this node does by itself, and when. It only ever keeps an automatic act back; what an operator asks for is not subject to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct Policy {
    /// Whether a repaired partner gets its pools back without being asked for.
    pub giveback: AutomaticGiveback,
    /// How long the repaired partner waits in MBWAIT before it does.
    pub giveback_delay: Micros,
    /// What follows when the partner stopped in an orderly way: its page said HALTED.
    pub on_halt: OnEnd,
    /// What follows when the partner's process panicked or crashed: its page said PANICKED. One that was killed does not say it to a partner
    /// that would leave it alone ([`crate::last_word`]).
    pub on_panic: OnEnd,
}

impl From<AutomaticGiveback> for Policy {
    /// With everything else as it is without being said.
    fn from(giveback: AutomaticGiveback) -> Self {
        Self { giveback, giveback_delay: Micros(0), on_halt: OnEnd::TakeOver, on_panic: OnEnd::TakeOver }
    }
}

/// When things are tried. Microseconds.
#[derive(Debug, Clone, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct Timing {
    /// Between two routine reads of the partner's page. 10 ms: a hand-off is noticed within one frame of a screen, at
    /// 100 reads a second, which is nothing for the fabric.
    pub poll_routine: Micros,
    /// Between two reads while a hand-off is due. 1 ms: short against what the partner does beforehand.
    pub poll_brisk: Micros,
    /// Between two heartbeats, and between two looks at the partner's. 50 ms: three missed looks fit the wait after a closed link.
    pub heartbeat: Micros,
    /// How long page and heartbeat both stand still, after the partner's machine said that nobody listens or was reported to have no
    /// power, until the lock disks are contested. 75 ms: a heartbeat and a half, so that whoever lives against these signs has
    /// beaten once more. After the page said HALTED or PANICKED nothing is waited for, unless another run is seen beside it.
    pub wait_ended: Micros,
    /// The same after the link was closed and nothing else is known. 150 ms: three heartbeats, so that a process that only
    /// lost its link is still seen alive.
    pub wait_closed: Micros,
    /// The same without any such sign: 600 ms, twelve heartbeats. Leaves 1.4 s of the 2 s a silent death may take.
    pub wait_long: Micros,
    /// How long a booting node waits for a sign of a partner never seen before it contests the lock disks. 3 s: two nodes
    /// powered on together find each other; too short, and the slower one finds its pools taken over.
    pub boot_wait: Micros,
    /// After this long without any sign but a heartbeat the interconnect is reported down. 1 s.
    pub interconnect_alarm: Micros,
    /// Added before a contest by the node that is not preferred, so that two sound nodes that lost sight of each other do not
    /// tie. 100 ms: longer than a contest of three disks takes.
    pub second_node_delay: Micros,
    /// Between two tries of anything that failed for a reason that may pass (survey, record, fence, release). 100 ms.
    pub retry: Micros,
    /// How long a hand-off may hold clients before COMMIT is sent; then it resumes. 2 s: far below any client's patience,
    /// far above any drain of a sound disk.
    pub hold_limit: Micros,
    /// How long, after COMMIT was sent, until it is known to stand. 2 s: then the node restarts, and the records tell.
    pub settle_limit: Micros,
    /// How long a committed hand-off waits for the receiver to serve before it is contested. 3 s: below 20 s, at which Windows
    /// gives a disk up, with room for the takeover.
    pub receiver_limit: Micros,
    /// A gap between two steps of this machine after which it distrusts its own view of the partner, because it was itself
    /// stopped. 300 ms: half the long wait.
    pub own_gap: Micros,
    /// How long a node that does not get forward in a bring-up (release not found, disks conflict) waits before it looks
    /// again. 200 ms.
    pub bring_up_retry: Micros,
    /// How long after a veto the hand-off is judged again. 1 s.
    pub veto_retry: Micros,
    /// How long after a pool was refused it is tried again. 5 s.
    pub refused_retry: Micros,
    /// How long a wish for a planned takeover stands in the page before it is given up. 10 s.
    pub want_limit: Micros,
}

impl Timing {
    /// Between two reads in the few milliseconds in which the partner is known to be doing what this node waits for: a fifth of
    /// [`Timing::poll_brisk`].
    #[must_use]
    pub fn poll_eager(&self) -> Micros {
        Micros(self.poll_brisk.0 / 5)
    }
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            poll_routine: Micros::from_millis(10),
            poll_brisk: Micros::from_millis(1),
            heartbeat: Micros::from_millis(50),
            wait_ended: Micros::from_millis(75),
            wait_closed: Micros::from_millis(150),
            wait_long: Micros::from_millis(600),
            boot_wait: Micros::from_millis(3_000),
            interconnect_alarm: Micros::from_millis(1_000),
            second_node_delay: Micros::from_millis(100),
            retry: Micros::from_millis(100),
            hold_limit: Micros::from_millis(2_000),
            settle_limit: Micros::from_millis(2_000),
            receiver_limit: Micros::from_millis(3_000),
            own_gap: Micros::from_millis(300),
            bring_up_retry: Micros::from_millis(200),
            veto_retry: Micros::from_millis(1_000),
            refused_retry: Micros::from_millis(5_000),
            want_limit: Micros::from_millis(10_000),
        }
    }
}

/// Everything the machine is told.
#[derive(Debug, Clone, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct Config {
    /// Which pair.
    pub pair: PairId,
    /// Which node of it this is.
    pub node: NodeId,
    /// Which node contests first.
    pub preferred: NodeId,
    /// How many lock disks the pair has: 3 or 1.
    pub lock_disks: usize,
    /// Every pool of the pair, at most [`POOLS_MAX`].
    pub pools: BTreeMap<PoolId, PoolConfig>,
    /// Whether clients' commands are forwarded to the partner: then pools of one home, which share a target, may be at both nodes.
    pub may_split: bool,
    /// What it does by itself.
    pub policy: Policy,
    /// When things are tried.
    pub timing: Timing,
}

impl Config {
    /// The partner's name.
    #[must_use]
    pub fn partner(&self) -> NodeId {
        self.node.partner()
    }

    /// How many lock disks are a majority of all of them.
    #[must_use]
    pub fn majority(&self) -> usize {
        self.lock_disks / 2 + 1
    }

    /// The pools whose home is `node`, ascending.
    pub fn homes_of(&self, node: NodeId) -> impl Iterator<Item = PoolId> + '_ {
        self.pools.iter().filter(move |(_, pool)| pool.home == node).map(|(id, _)| *id)
    }
}
