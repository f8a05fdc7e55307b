//! Orders: what the failover machine asks of its driver.
//!
//! Not here: how any of it is done. The one idea: an order is carried out without a decision of the driver's; what takes time
//! carries an [`Op`] and names the inputs that end it; orders on the reservations of one pool, and orders to write a record, are
//! carried out one after another in the order given.

use std::collections::{BTreeMap, BTreeSet};

use crate::alert::SignOfLife;
use crate::fence::FenceType;
use crate::key::ReservationKey;
use crate::page::{PageContent, StateWord};
use crate::record::Record;
use crate::timeline::Step;
use crate::words::{Generation, LegIndex, LegSet, MetadataVersion, Micros, MirrorIndex, NodeId, Op, PoolId, RequestId};

/// Orders in the order they were given.
pub type Effects = Vec<Effect>;

/// How a node comes to its registration on the lock disks for a contest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub enum Entry {
    /// It is registered, as a serving node. Finding its own key gone it has lost and must not register again.
    Registered,
    /// A booting node: it registers first, in order to contest.
    Newcomer,
}

/// What kind of fence a pool gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub enum FenceKind {
    /// End state: own keys only, this node holds type 6 (Exclusive Access - Registrants Only). The partner's keys are removed by
    /// PREEMPT AND ABORT.
    Exclusive,
    /// End state: own keys only, this node holds type 5 (Write Exclusive - Registrants Only). The partner's keys are removed
    /// by PREEMPT AND ABORT. For own pools, and for pools handed over.
    WriteGuard,
    /// Nothing is changed: looks whether own keys stand on every path, no key of the partner does, and this node holds type 5 or 6.
    Look,
}

impl From<FenceType> for FenceKind {
    fn from(held: FenceType) -> Self {
        match held {
            FenceType::Exclusive => Self::Exclusive,
            FenceType::WriteGuard => Self::WriteGuard,
        }
    }
}

/// How the legs of a pool's mirrors may be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
pub enum LegsAre {
    /// They hold the same: any leg may be read.
    Equal,
    /// They may differ where writes were in flight: each mirror is read from one fixed leg until it is resynced.
    PerhapsDifferent,
}

/// How closely the partner's page is watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub enum PollPace {
    /// [`crate::config::Timing::poll_routine`].
    Routine,
    /// [`crate::config::Timing::poll_brisk`].
    Brisk,
    /// [`crate::config::Timing::poll_eager`].
    Eager,
}

/// What an operator has to know; stands until cleared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
pub enum Alarm {
    /// The partner's page cannot be read while its heartbeat goes on.
    InterconnectDown,
    /// No majority of the lock disks can be read or written.
    LockDisksUnreachable,
    /// The records of this pool do not stand on a majority: it is not served.
    RecordUnknown(PoolId),
    /// Not every leg recorded good could be fenced: the pool is refused.
    PoolRefused(PoolId),
    /// The pool could not be opened after its fence.
    PoolUnusable(PoolId),
    /// The last good leg of a mirror failed.
    LastLegFailed(PoolId),
    /// A hand-off was vetoed; the page and the timeline say why.
    HandOffVetoed,
    /// Not every disk's exclusive reservation could be released.
    ReleaseIncomplete,
    /// The partner's page is of another pair, node or a release too far away.
    PageRejected,
    /// The disks of own pools could not be initialised.
    DiskInitFailed,
    /// The partner is down and this node serves everything.
    PartnerDown,
    /// Generations are used up.
    GenerationsUsedUp,
    /// The partner has ended, and the configuration says to leave its pools alone then.
    TakeoverWithheld(Withheld),
}

impl Alarm {
    /// One of each kind, with this pool where one is named.
    #[must_use]
    pub fn each(pool: PoolId) -> Vec<Self> {
        let mut all = vec![Self::InterconnectDown];
        // BOUND: the chain below ends.
        while let Some(next) = all.last().and_then(|last| last.next(pool)) {
            all.push(next);
        }
        all
    }

    /// The kind after this one.
    fn next(self, pool: PoolId) -> Option<Self> {
        match self {
            Self::InterconnectDown => Some(Self::LockDisksUnreachable),
            Self::LockDisksUnreachable => Some(Self::RecordUnknown(pool)),
            Self::RecordUnknown(_) => Some(Self::PoolRefused(pool)),
            Self::PoolRefused(_) => Some(Self::PoolUnusable(pool)),
            Self::PoolUnusable(_) => Some(Self::LastLegFailed(pool)),
            Self::LastLegFailed(_) => Some(Self::HandOffVetoed),
            Self::HandOffVetoed => Some(Self::ReleaseIncomplete),
            Self::ReleaseIncomplete => Some(Self::PageRejected),
            Self::PageRejected => Some(Self::DiskInitFailed),
            Self::DiskInitFailed => Some(Self::PartnerDown),
            Self::PartnerDown => Some(Self::GenerationsUsedUp),
            Self::GenerationsUsedUp => Some(Self::TakeoverWithheld(Withheld::Halted)),
            Self::TakeoverWithheld(Withheld::Halted) => Some(Self::TakeoverWithheld(Withheld::Panicked)),
            Self::TakeoverWithheld(Withheld::Panicked) => None,
        }
    }
}

/// Why a partner that has ended is not taken over from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
pub enum Withheld {
    /// It stopped in an orderly way.
    Halted,
    /// Its process ended otherwise.
    Panicked,
}

/// Why the process starts again as a fresh incarnation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
pub enum RestartReason {
    /// The partner won the lock disks.
    ContestLost,
    /// Own key is gone from a majority of the lock disks.
    KeyLost,
    /// The partner recorded a newer generation of a pool this node serves.
    NewerGeneration,
    /// The fence of a pool is gone.
    FenceLost,
    /// It could not be settled whether a COMMIT stands.
    CommitUnsettled,
    /// The partner took the pools of this node while it was on its way up.
    Overtaken,
}

/// Why a hand-off may not happen now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[repr(u8)]
pub enum Veto {
    /// Soft: a mirror is being resynced.
    ResyncRunning = 0,
    /// Soft: a copy is running.
    CopyRunning = 1,
    /// Soft: a client transfer would be cut.
    TransferWouldBeCut = 2,
    /// Soft: too many automatic givebacks lately.
    PingPong = 3,
    /// Hard: the two nodes do not find the same disks.
    InventoryMismatch = 8,
    /// Hard: the partner says it is not healthy.
    PartnerUnhealthy = 9,
    /// Hard: the partner's release is too far away.
    VersionMismatch = 10,
    /// Hard: the records do not stand on a majority of the lock disks.
    NoRecordMajority = 11,
    /// Hard: a write of unknown outcome may still reach a disk.
    WriteOutcomeUnknown = 12,
    /// Hard: the partner is not in a state to receive.
    PartnerNotReady = 13,
    /// Hard: a pool could not be held and drained in time.
    DrainFailed = 14,
    /// Hard: the partner cannot open a pool.
    UnusableThere = 15,
}

impl Veto {
    /// Every veto.
    pub const ALL: [Self; 12] = [
        Self::ResyncRunning,
        Self::CopyRunning,
        Self::TransferWouldBeCut,
        Self::PingPong,
        Self::InventoryMismatch,
        Self::PartnerUnhealthy,
        Self::VersionMismatch,
        Self::NoRecordMajority,
        Self::WriteOutcomeUnknown,
        Self::PartnerNotReady,
        Self::DrainFailed,
        Self::UnusableThere,
    ];

    /// Whether an operator can override it.
    #[must_use]
    pub fn is_soft(self) -> bool {
        (self as u8) < 8
    }

    /// Its bit in the page's veto word.
    #[must_use]
    pub fn bit(self) -> u32 {
        1 << (self as u8)
    }
}

/// Answer to an operator's request.
#[derive(Debug, Clone, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub enum Reply {
    /// Done.
    Done,
    /// It cannot be asked for in this state.
    NotNow {
        /// The state the node is in.
        state: StateWord,
    },
    /// It would have been vetoed, or was.
    Vetoed {
        /// Why; empty in a dry run that found nothing against it.
        vetoes: BTreeSet<Veto>,
    },
    /// Dry run: nothing against it.
    WouldDo {
        /// Soft vetoes that an override passes over.
        overridden: BTreeSet<Veto>,
        /// Predicted pause of the clients.
        pause: Micros,
        /// The pools that would move.
        pools: Vec<PoolId>,
        /// Those that would stay, and why.
        stay: BTreeMap<PoolId, BTreeSet<Veto>>,
    },
    /// Done but for these pools, which stay where they are.
    DoneInPart {
        /// Which, and why.
        stayed: BTreeMap<PoolId, BTreeSet<Veto>>,
    },
    /// Begun, and given up: the pools are where they were.
    GivenUp,
    /// The partner lives: nothing was done.
    Refuted {
        /// What shows it.
        by: SignOfLife,
    },
    /// This pool was named, and cannot be moved so.
    NotThisPool {
        /// Which.
        pool: PoolId,
        /// Why.
        why: Immovable,
    },
    /// Dry run of a takeover: what the partner would say is not known.
    NoForecast(NoForecast),
}

/// Why a pool that was named is not moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub enum Immovable {
    /// Its home is the node that was asked, which takes and gives back pools of its partner.
    OfThisNode,
    /// The node that was asked has it already.
    HereAlready,
    /// It is at home.
    AtHome,
    /// It is served by nobody.
    ServedByNobody,
    /// Its volumes and those of this pool, which was not named, are behind one target, and the nodes do not forward commands to each other.
    SharesTarget {
        /// The pool that would be left behind.
        with: PoolId,
    },
}

impl Immovable {
    /// One of each kind, with this pool where one is named.
    #[must_use]
    pub fn each(with: PoolId) -> Vec<Self> {
        let mut all = vec![Self::OfThisNode];
        // BOUND: the chain below ends.
        while let Some(last) = all.last() {
            let next = match last {
                Self::OfThisNode => Self::HereAlready,
                Self::HereAlready => Self::AtHome,
                Self::AtHome => Self::ServedByNobody,
                Self::ServedByNobody => Self::SharesTarget { with },
                Self::SharesTarget { .. } => break,
            };
            all.push(next);
        }
        all
    }
}

/// Why there is no forecast of a takeover.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub enum NoForecast {
    /// The partner shows no sign of life, or only its heartbeat: there is nobody to hand anything over.
    PartnerSilent,
    /// The partner's release cannot be asked.
    PartnerOlder,
    /// The partner did not answer in time.
    NoAnswer,
    /// This node could not read the disks of the pools, so it could not take them as planned either.
    DisksUnread,
}

impl NoForecast {
    /// Every one.
    pub const ALL: [Self; 4] = [Self::PartnerSilent, Self::PartnerOlder, Self::NoAnswer, Self::DisksUnread];
}

/// An order.
#[derive(Debug, Clone, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub enum Effect {
    /// Put this into the registered page, with the live words, a new sequence number and the CRC. Takes no time.
    PublishPage(Box<PageContent>),
    /// Read every lock disk: both areas and READ KEYS. Ends with `Surveyed{op: Some}`. The answer may contain nothing read before the order.
    Survey {
        /// Echoed.
        op: Op,
    },
    /// Register `key` on these lock disks (REGISTER AND IGNORE), PREEMPT AND ABORT older keys of this node, RESERVE type 5 where
    /// nothing is reserved. Ends with `LockDisksJoined`, in which a lock disk not asked for is `Unreachable`.
    JoinLockDisks {
        /// Echoed.
        op: Op,
        /// Which lock disks, by their number in the pair's order; the others are left alone.
        which: BTreeSet<usize>,
        /// Own key.
        key: ReservationKey,
    },
    /// Contest every lock disk in order 0, 1, 2 with [`crate::survey::contest_move`]. Stops at the first disk that is lost.
    /// Ends with `LockDisksContested`.
    ContestLockDisks {
        /// Echoed.
        op: Op,
        /// Own key.
        key: ReservationKey,
        /// Registered already, or registers in order to contest.
        entry: Entry,
        /// The partner's key this contest is against; another key of the partner is left alone. `None`: whatever the partner has.
        victim: Option<ReservationKey>,
    },
    /// Write the record to slot `record.sequence % 2` of the own area of every lock disk, FUA. Ends with `RecordWritten`. No write to a
    /// lock disk may be sent while an earlier one to it may still land.
    WriteRecord {
        /// Echoed.
        op: Op,
        /// What to write.
        record: Box<Record>,
    },
    /// Fence every disk of a pool and read the end state back. Ends with `PoolFenced`.
    FencePool {
        /// Echoed.
        op: Op,
        /// Which pool.
        pool: PoolId,
        /// Generation for the keys.
        generation: Generation,
        /// Which end state.
        kind: FenceKind,
        /// Legs recorded good, per mirror: all of their disks must be fenced.
        legs: Vec<LegSet>,
    },
    /// Type 6 → 5 on every disk of these pools by PREEMPT of one's own key, proved by READ RESERVATION. Ends with `ReservationsReleased`.
    ReleaseReservations {
        /// Echoed.
        op: Op,
        /// Which pools.
        pools: Vec<PoolId>,
    },
    /// Type 5 → 6 again. Ends with `ReservationsRestored`.
    RestoreReservations {
        /// Echoed.
        op: Op,
        /// Which pools.
        pools: Vec<PoolId>,
    },
    /// READ RESERVATION on every good disk of these pools: type 5 held by a key of the partner? Ends with `ReleaseChecked`.
    CheckRelease {
        /// Echoed.
        op: Op,
        /// Which pools.
        pools: Vec<PoolId>,
        /// Legs recorded good, by pool and mirror: only their disks count.
        legs: BTreeMap<PoolId, Vec<LegSet>>,
    },
    /// Discover, read labels, assemble mirrors, load metadata, prepare volumes, reading only. Ends with `DisksInitialised`,
    /// `PoolsUnopenable` or `DiskInitConflicted`; a conflict on a leg recorded bad is none: the survivor may not reach that disk to release it.
    InitialiseDisks {
        /// Echoed.
        op: Op,
        /// Which pools.
        pools: Vec<PoolId>,
        /// Legs recorded good, by pool and mirror.
        legs: BTreeMap<PoolId, Vec<LegSet>>,
    },
    /// Listen where this node identity's portals are, logins held until a pool of that identity is served. Ends with `PortalsOpened`.
    OpenPortals {
        /// Echoed.
        op: Op,
        /// Own identity or the partner's.
        identity: NodeId,
    },
    /// Stop answering for this identity: drain the accept queue, drop its sessions, close. Takes no time.
    ClosePortals {
        /// Own identity or the partner's.
        identity: NodeId,
    },
    /// Read the pool's metadata (a warm pool: its tail, up to the version) and be ready to serve. Given only after the pool's fence
    /// or, in a hand-off, after COMMIT was read, and then reading only. Ends with `PoolOpened`.
    OpenPool {
        /// Echoed.
        op: Op,
        /// Which pool.
        pool: PoolId,
        /// Its generation now.
        generation: Generation,
        /// The metadata version recorded; the disks may have this or a newer one, never an older one.
        metadata_version: MetadataVersion,
        /// How its mirrors may be read.
        legs_are: LegsAre,
        /// Legs recorded good, per mirror.
        legs: Vec<LegSet>,
    },
    /// Let the pool's commands through, those held at the login gate too. Takes no time.
    ServePool {
        /// Which pool.
        pool: PoolId,
    },
    /// Hold new commands of the pool, drain those in flight, flush. Ends with `PoolHeld` or `PoolNotHeld`.
    HoldPool {
        /// Echoed.
        op: Op,
        /// Which pool.
        pool: PoolId,
    },
    /// Hold everything of the pool at once and acknowledge nothing, without draining: something has to be looked at. Takes no time.
    FreezePool {
        /// Which pool.
        pool: PoolId,
    },
    /// Carry on what was held or frozen. Takes no time.
    ResumePool {
        /// Which pool.
        pool: PoolId,
    },
    /// Forget the pool; what is held is dropped without an answer. Takes no time.
    ClosePool {
        /// Which pool.
        pool: PoolId,
    },
    /// This leg is recorded bad: acknowledge without it.
    LegDropped {
        /// Which pool.
        pool: PoolId,
        /// Which mirror.
        mirror: MirrorIndex,
        /// Which leg.
        leg: LegIndex,
    },
    /// This leg is recorded good again.
    LegTakenBack {
        /// Which pool.
        pool: PoolId,
        /// Which mirror.
        mirror: MirrorIndex,
        /// Which leg.
        leg: LegIndex,
    },
    /// Prepare a hand-off while serving: flush what can be flushed, take the disk inventory, list what speaks against it.
    /// Ends with `HandOffPrepared`.
    PrepareHandOff {
        /// Echoed.
        op: Op,
        /// Which pools.
        pools: Vec<PoolId>,
    },
    /// Beat on the lock disks from now on, every [`crate::config::Timing::heartbeat`], each beat followed by an unsolicited survey.
    StartHeartbeat,
    /// How often the partner's page is read from now on.
    SetPollPace(PollPace),
    /// Tell the operator.
    RaiseAlarm(Alarm),
    /// It has passed.
    ClearAlarm(Alarm),
    /// A line of the timeline.
    Timeline(Step),
    /// Answer the operator.
    AnswerOperator {
        /// Which request.
        request: RequestId,
        /// The answer.
        reply: Reply,
    },
    /// Stop at once, acknowledge nothing more, start the process again as a fresh incarnation.
    Restart(RestartReason),
    /// Everything is flushed and recorded, the page says HALTED: end the process.
    Halt,
    /// This node has listened for this identity since before it handed its pools over, and the receiver, defeated now, may have begun to
    /// listen there later without having stopped: new connections come here again. Takes no time.
    ReclaimPortals {
        /// Own identity or the partner's.
        identity: NodeId,
    },
}
