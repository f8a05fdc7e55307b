//! Facts: what the driver tells the failover machine, in the past tense.
//!
//! Not here: what follows from a fact. The one idea: a fact that answers an order carries the order's [`Op`]; a late one of an
//! older order changes nothing.

use std::collections::{BTreeMap, BTreeSet};

use crate::effect::{LegsAre, Veto};
use crate::key::ReservationKey;
use crate::page::Page;
use crate::survey::Survey;
use crate::words::{Generation, LegIndex, LegSet, MetadataVersion, Micros, MirrorIndex, Op, PoolId, RequestId};

/// Why a read of the partner's page gave no page.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
pub enum Unreadable {
    /// The partner's machine refuses the connection: its process does not run.
    Refused,
    /// The connection was closed by the other side.
    Closed,
    /// No answer in time.
    TimedOut,
    /// The fabric failed otherwise.
    Fabric,
    /// Bad CRC or a sequence number in change, again and again.
    Torn,
    /// A page of another pair, node, or of a release too far away.
    Rejected,
}

/// What became of a record on one lock disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub enum WriteOutcome {
    /// On the medium.
    Written,
    /// Refused; it will never be there.
    Failed,
    /// Not known; it may be there, or get there.
    Unknown,
}

/// What became of a registration on one lock disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub enum JoinOutcome {
    /// Own key stands (READ KEYS), older own keys do not.
    Joined,
    /// The disk did not answer, or refused.
    Unreachable,
}

/// What became of the fence of one pool.
#[derive(Debug, Clone, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub enum FenceOutcome {
    /// Every disk of every leg recorded good has the end state asked for, read back.
    Fenced,
    /// At least one good leg's disk could not be reached or has not the end state; nothing says that the partner has it.
    Incomplete {
        /// Disks fenced.
        fenced: u32,
        /// Disks that had to be.
        of: u32,
        /// Per mirror, the legs whose disks gave no answer; mirrors behind the last such leg are left out.
        unreached: Vec<LegSet>,
    },
    /// On at least one disk own key is gone or was refused and the partner's stands.
    Lost,
    /// A key of this pair stands with a higher generation than the one to fence with.
    NewerKey {
        /// That generation.
        generation: Generation,
    },
}

/// What became of opening a pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub enum OpenOutcome {
    /// Its metadata is loaded.
    Opened {
        /// The version found.
        metadata_version: MetadataVersion,
    },
    /// The metadata carries a higher generation than the one to open with.
    NewerGeneration {
        /// That generation.
        generation: Generation,
    },
    /// It could not be read, or only in an older version than recorded.
    Failed,
}

/// Why a pool was not held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub enum NotHeld {
    /// Commands in flight did not end.
    DrainTimedOut,
    /// The flush failed.
    FlushFailed,
    /// A write's outcome is unknown.
    OutcomeUnknown,
}

/// What a hand-off would meet at the node that has the pools.
#[derive(Debug, Clone, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct HandOffFindings {
    /// Digest of the disks of the pools, as this node finds them.
    pub inventory: u64,
    /// What the driver knows that speaks against it.
    pub vetoes: BTreeSet<Veto>,
    /// What speaks against handing over one of the pools.
    pub of_pools: BTreeMap<PoolId, BTreeSet<Veto>>,
    /// How long the drain and the flush would hold clients.
    pub predicted_pause: Micros,
}

/// Whether an operator passes over soft vetoes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub enum SoftVetoes {
    /// They count.
    Count,
    /// They are listed and passed over.
    Overridden,
}

/// Whether it is to be done or only judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub enum Earnest {
    /// Do it.
    Do,
    /// Say what would speak against it, and how long the pause would be.
    DryRun,
}

/// How a takeover is to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub enum TakeoverKind {
    /// The partner hands its pools over.
    Planned,
    /// The lock disks are contested at once, whatever the partner shows.
    Forced,
}

/// What an operator asks of this node.
#[derive(Debug, Clone, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub enum Request {
    /// Take the partner's pools.
    Takeover {
        /// How.
        kind: TakeoverKind,
        /// Soft vetoes.
        vetoes: SoftVetoes,
        /// Really?
        earnest: Earnest,
    },
    /// Give the partner's pools back.
    Giveback {
        /// Soft vetoes.
        vetoes: SoftVetoes,
        /// Really?
        earnest: Earnest,
    },
    /// Stop serving in an orderly way and end the process.
    Halt,
    /// Look at once whether the partner is gone: its machine is reported to have lost its power.
    PartnerLost,
    /// A planned takeover of these pools of the partner and no others.
    TakeoverOf {
        /// Which.
        pools: BTreeSet<PoolId>,
        /// Soft vetoes.
        vetoes: SoftVetoes,
        /// Really?
        earnest: Earnest,
    },
    /// A giveback of these pools of the partner and no others.
    GivebackOf {
        /// Which.
        pools: BTreeSet<PoolId>,
        /// Soft vetoes.
        vetoes: SoftVetoes,
        /// Really?
        earnest: Earnest,
    },
}

/// Service health as the driver sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[repr(u32)]
pub enum Health {
    /// All well.
    Good = 0,
    /// Serving, with something amiss.
    Degraded = 1,
    /// Not able to serve: a hard veto for anything coming here.
    Unfit = 2,
}

/// A fact.
#[derive(Debug, Clone, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub enum Input {
    /// The process runs and the page is registered with the fabric. First of all inputs.
    Started,
    /// The partner's page was read by RDMA and decoded.
    PartnerPageRead(Box<Page>),
    /// A read gave no page.
    PartnerPageUnreadable(Unreadable),
    /// The connection to the partner's page closed, reported by the fabric between reads.
    PartnerLinkClosed,
    /// The lock disks were read; unsolicited (`None`) after each heartbeat.
    Surveyed {
        /// Of the order, if any.
        op: Option<Op>,
        /// What they said.
        survey: Box<Survey>,
    },
    /// Answer of JoinLockDisks, one entry a lock disk.
    LockDisksJoined {
        /// Of the order.
        op: Op,
        /// Per lock disk.
        disks: Vec<JoinOutcome>,
    },
    /// Answer of ContestLockDisks: the keys on each lock disk after it, `None` where it did not answer or was not tried any more.
    LockDisksContested {
        /// Of the order.
        op: Op,
        /// READ KEYS per lock disk.
        disks: Vec<Option<Vec<ReservationKey>>>,
    },
    /// Answer of WriteRecord.
    RecordWritten {
        /// Of the order.
        op: Op,
        /// Per lock disk.
        disks: Vec<WriteOutcome>,
    },
    /// Answer of FencePool.
    PoolFenced {
        /// Of the order.
        op: Op,
        /// Which pool.
        pool: PoolId,
        /// How it ended.
        outcome: FenceOutcome,
    },
    /// Answer of ReleaseReservations.
    ReservationsReleased {
        /// Of the order.
        op: Op,
        /// Disks now read as type 5 held by this node.
        released: u32,
        /// Disks of legs recorded good.
        of: u32,
    },
    /// Answer of RestoreReservations.
    ReservationsRestored {
        /// Of the order.
        op: Op,
        /// Disks now read as type 6 held by this node.
        restored: u32,
        /// Disks of legs recorded good.
        of: u32,
    },
    /// Answer of CheckRelease.
    ReleaseChecked {
        /// Of the order.
        op: Op,
        /// Disks read as type 5 held by a key of the partner.
        open: u32,
        /// Disks of the pools that answered.
        of: u32,
    },
    /// Answer of InitialiseDisks.
    DisksInitialised {
        /// Of the order.
        op: Op,
        /// Digest of the disks found, in an order both nodes agree on.
        inventory: u64,
        /// Disks found.
        found: u32,
        /// Disks the labels name.
        of: u32,
    },
    /// Answer of InitialiseDisks: a disk refused with a reservation conflict, or labels could not be read.
    DiskInitConflicted {
        /// Of the order.
        op: Op,
    },
    /// Answer of OpenPool.
    PoolOpened {
        /// Of the order.
        op: Op,
        /// Which pool.
        pool: PoolId,
        /// How it ended.
        outcome: OpenOutcome,
    },
    /// Answer of HoldPool: nothing is in flight, everything is flushed.
    PoolHeld {
        /// Of the order.
        op: Op,
        /// Which pool.
        pool: PoolId,
        /// Its metadata version, final while held.
        metadata_version: MetadataVersion,
        /// Whether its legs hold the same now.
        legs_are: LegsAre,
    },
    /// Answer of HoldPool.
    PoolNotHeld {
        /// Of the order.
        op: Op,
        /// Which pool.
        pool: PoolId,
        /// Why.
        reason: NotHeld,
    },
    /// Answer of OpenPortals: connections are accepted.
    PortalsOpened {
        /// Of the order.
        op: Op,
    },
    /// Answer of PrepareHandOff.
    HandOffPrepared {
        /// Of the order.
        op: Op,
        /// What was found.
        findings: HandOffFindings,
    },
    /// A leg of a served pool does not take writes any more. Nothing is acknowledged without it before `LegDropped`.
    LegFailed {
        /// Which pool.
        pool: PoolId,
        /// Which mirror.
        mirror: MirrorIndex,
        /// Which leg.
        leg: LegIndex,
    },
    /// A dropped leg holds the same as its mirror again.
    LegResynced {
        /// Which pool.
        pool: PoolId,
        /// Which mirror.
        mirror: MirrorIndex,
        /// Which leg.
        leg: LegIndex,
    },
    /// A reservation conflict or a unit attention on a disk of this pool: a reason to look.
    FenceDoubted {
        /// Which pool.
        pool: PoolId,
    },
    /// The operator asked.
    OperatorAsked {
        /// Number to echo.
        request: RequestId,
        /// What for.
        what: Request,
    },
    /// The moment [`crate::machine::Machine::poll_timeout`] gave has come.
    TimerExpired,
    /// Service health changed.
    ServiceHealthChanged(Health),
    /// Answer of InitialiseDisks: the disks were read, and these pools cannot be opened from what is on them.
    PoolsUnopenable {
        /// Of the order.
        op: Op,
        /// Digest of the disks found, in an order both nodes agree on.
        inventory: u64,
        /// Disks found.
        found: u32,
        /// Disks the labels name.
        of: u32,
        /// Which pools.
        pools: BTreeSet<PoolId>,
    },
}
