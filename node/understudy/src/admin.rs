//! The admin protocol of a node: one JSON object a line over a Unix socket that only its owner may open.
//!
//! A client sends [`Request`]s, each answered by one [`Response`] in order; after [`Request::Events`] the connection
//! only carries [`Response::Event`]s. Every line says the protocol's version, so that a program of another release is
//! told so instead of being misunderstood. Keys and incarnations are hexadecimal text, because JSON numbers are not exact
//! beyond 53 bits.
//!
//! Nothing is decided here: requests go to the driver through [`AdminRequest`], whose answer is sent back.

pub mod client;
pub mod server;
#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use crate::config::NodeName;
use crate::timeline::TimelineStep;

pub use client::{Client, ClientError};
pub use server::{Server, ServerError};

/// Version of the protocol; both sides refuse another one.
pub const VERSION: u32 = 1;

/// Longest line either side accepts, so that a client can not make a node collect memory without end.
pub const LINE_BYTES: usize = 4 << 20;

/// One line: the version and what it carries.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Line<T> {
    /// [`VERSION`].
    pub understudy: u32,
    /// The request or response itself.
    #[serde(flatten)]
    pub body: T,
}

impl<T> Line<T> {
    /// `body` as said by this release.
    pub fn new(body: T) -> Self {
        Self { understudy: VERSION, body }
    }
}

/// How a takeover is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TakeoverKind {
    /// The partner hands its pools over; clients see a pause of milliseconds.
    Planned,
    /// The partner is contested on the lock disks and fenced, whether or not it looks alive.
    Forced,
}

/// What to do about soft vetoes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SoftVetoes {
    /// They stop the giveback.
    Respect,
    /// They are noted in the timeline and overridden; hard vetoes stand.
    Override,
}

/// Whether it is to be done or only judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Earnest {
    /// Do it.
    Do,
    /// Say what would speak against it, and how long the pause would be.
    DryRun,
}

/// When a volume's chunks are taken from its pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Provisioning {
    /// All of them when it is made.
    #[default]
    Thick,
    /// Each at the first write to it.
    Thin,
}

/// Whether clients may write to a volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Protection {
    /// They may.
    #[default]
    Writable,
    /// They may not.
    WriteProtected,
}

impl From<Provisioning> for understudy_pool::Provisioning {
    fn from(provisioning: Provisioning) -> Self {
        match provisioning {
            Provisioning::Thick => Self::Thick,
            Provisioning::Thin => Self::Thin,
        }
    }
}

impl From<understudy_pool::Provisioning> for Provisioning {
    fn from(provisioning: understudy_pool::Provisioning) -> Self {
        match provisioning {
            understudy_pool::Provisioning::Thick => Self::Thick,
            understudy_pool::Provisioning::Thin => Self::Thin,
        }
    }
}

impl From<Protection> for understudy_pool::Protection {
    fn from(protection: Protection) -> Self {
        match protection {
            Protection::Writable => Self::Writable,
            Protection::WriteProtected => Self::WriteProtected,
        }
    }
}

impl From<understudy_pool::Protection> for Protection {
    fn from(protection: understudy_pool::Protection) -> Self {
        match protection {
            understudy_pool::Protection::Writable => Self::Writable,
            understudy_pool::Protection::WriteProtected => Self::WriteProtected,
        }
    }
}

/// What a client asks of a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "kebab-case")]
pub enum Request {
    /// The node's state: [`Response::Status`].
    Status,
    /// Take the partner's pools: [`Response::Done`] once they are served here.
    Takeover {
        /// Planned or forced.
        kind: TakeoverKind,
    },
    /// The partner's machine is reported to have lost its power: [`Response::Done`] once it is given up, [`Response::Refused`] if it lives.
    PartnerLost,
    /// Hand the partner's pools home: [`Response::Done`] once they are served there.
    Giveback {
        /// What soft vetoes do.
        soft_vetoes: SoftVetoes,
    },
    /// What a giveback would meet now: [`Response::GivebackForecast`]. Changes nothing.
    GivebackDryRun,
    /// A planned takeover of these pools of the partner; of all, if none is named. [`Response::Done`] once they are served here, or
    /// [`Response::TakeoverForecast`]. Another kind of request than [`Request::Takeover`], so that a release that knows no names of pools
    /// refuses it instead of taking all.
    TakeoverOf {
        /// Their names.
        pools: Vec<String>,
        /// What soft vetoes do.
        soft_vetoes: SoftVetoes,
        /// Really?
        earnest: Earnest,
    },
    /// A giveback of these pools of the partner; of all, if none is named. [`Response::Done`] once they are served there, or
    /// [`Response::GivebackForecast`].
    GivebackOf {
        /// Their names.
        pools: Vec<String>,
        /// What soft vetoes do.
        soft_vetoes: SoftVetoes,
        /// Really?
        earnest: Earnest,
    },
    /// Make a volume in a pool this node owns: [`Response::Volumes`] with just it.
    VolumeCreate {
        /// The pool's name.
        pool: String,
        /// The volume's name, unique in the pair.
        name: String,
        /// Size in bytes; rounded up to whole chunks by the pool.
        bytes: u64,
        /// When its chunks are taken.
        #[serde(default)]
        provisioning: Provisioning,
    },
    /// The volumes of every pool this node owns: [`Response::Volumes`].
    VolumeList,
    /// Protect a volume against writes, or let clients write again: [`Response::Done`] once no write is under way that came before.
    VolumeProtect {
        /// The volume's name.
        name: String,
        /// What shall hold.
        protection: Protection,
    },
    /// Delete a volume and what it holds: [`Response::Done`].
    VolumeDelete {
        /// The volume's name.
        name: String,
    },
    /// The newest steps this node kept, oldest first: [`Response::Timeline`].
    Timeline {
        /// How many at most.
        newest: usize,
    },
    /// From now on every step as it happens: [`Response::Event`]s until the connection ends.
    Events {
        /// Begin with this many earlier steps of this incarnation.
        earlier: usize,
    },
}

/// What a node answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "kebab-case")]
pub enum Response {
    /// The node's state.
    Status {
        /// All of it.
        status: Box<Status>,
    },
    /// It was done.
    Done {
        /// What, for the operator.
        text: String,
    },
    /// It was done, but for some pools, which stay where they are.
    DoneInPart {
        /// What, for the operator.
        text: String,
        /// Which pools stay.
        staying: Vec<Staying>,
    },
    /// What a giveback would meet.
    GivebackForecast {
        /// The pools that would move.
        #[serde(default)]
        pools: Vec<String>,
        /// Those that would stay.
        #[serde(default)]
        staying: Vec<Staying>,
        /// What speaks against it; empty means it would go ahead.
        vetoes: Vec<Veto>,
        /// The pause expected for clients, in microseconds, from the last measured flush and record write.
        predicted_pause_micros: Option<u64>,
    },
    /// What a takeover would meet.
    TakeoverForecast {
        /// The pools that would move.
        pools: Vec<String>,
        /// What speaks against it.
        vetoes: Vec<Veto>,
        /// The pause expected for clients, in microseconds, as the partner measured it.
        predicted_pause_micros: Option<u64>,
        /// Why the partner's answer is not known, and what that means; empty if it is.
        unknown: String,
        /// What to do about that.
        advice: String,
    },
    /// Volumes.
    Volumes {
        /// In the order of pools and names.
        volumes: Vec<VolumeStatus>,
    },
    /// Steps, oldest first.
    Timeline {
        /// The steps.
        steps: Vec<TimelineStep>,
    },
    /// One step, as it happened.
    Event {
        /// The step.
        step: TimelineStep,
    },
    /// The node will not do that now.
    Refused {
        /// Why.
        reason: String,
        /// The vetoes, if it was vetoes.
        #[serde(default)]
        vetoes: Vec<Veto>,
        /// What the operator can do.
        advice: String,
    },
    /// The node tried and could not.
    Failed {
        /// What happened.
        reason: String,
        /// What the operator can do.
        advice: String,
    },
}

/// A pool that stays where it is when others of its home move.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Staying {
    /// Its name.
    pub pool: String,
    /// Why it stays.
    pub vetoes: Vec<Veto>,
}

/// How much a veto weighs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum VetoWeight {
    /// The operator may override it.
    Soft,
    /// Nobody may.
    Hard,
}

/// One reason against a hand-off.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Veto {
    /// Soft or hard.
    pub weight: VetoWeight,
    /// Why.
    pub reason: String,
    /// What would remove it; empty from releases before this was told.
    #[serde(default)]
    pub remedy: String,
}

/// A node, as `status` shows it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// The pair's name.
    pub pair: String,
    /// Which node.
    pub node: NodeName,
    /// Its incarnation, 16 hexadecimal digits.
    pub incarnation: String,
    /// Its process, so that an operator (or a drill) can find it.
    pub process: u32,
    /// What it runs: its release and the build of its failover machine; empty from releases before this was told.
    #[serde(default)]
    pub release: String,
    /// The state word of its page in capitals, as `UP`, `GIVEWAIT`, `TAKEOVER`.
    pub state: String,
    /// What it is doing within that state; may be empty.
    pub stage: String,
    /// How long it has been in this state.
    pub state_for_ms: u64,
    /// How long until the giveback that is being delayed begins by itself; none if none is.
    #[serde(default)]
    pub giveback_in_ms: Option<u64>,
    /// The partner as this node sees it.
    pub partner: PartnerStatus,
    /// The lock disks, in the order of the file.
    pub lock_disks: Vec<DiskStatus>,
    /// The pool disks, in the order of the file.
    pub disks: Vec<DiskStatus>,
    /// Every pool of the pair, as far as this node knows.
    pub pools: Vec<PoolStatus>,
    /// The portals open here, also the partner's after a takeover.
    pub portals: Vec<PortalStatus>,
    /// Alarms raised and not cleared.
    pub alarms: Vec<String>,
}

/// The partner as seen over the interconnect and on the lock disks.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct PartnerStatus {
    /// State word of the last page read; empty if none was.
    pub state: String,
    /// Incarnation of the last page read; empty if none was.
    pub incarnation: String,
    /// How the last read of its page ended: `read`, `refused`, `closed`, `timed-out`, or what the fabric said.
    pub interconnect: String,
    /// Since a page was last read; none if never.
    pub page_age_ms: Option<u64>,
    /// Since its heartbeat on the lock disks last moved; none if never seen.
    pub heartbeat_age_ms: Option<u64>,
    /// Pages read since this node started.
    pub pages_read: u64,
    /// Median time of a read of the page, in microseconds.
    pub read_micros_median: Option<u64>,
    /// Connections of its clients, at addresses that are managed, that it last told of.
    #[serde(default)]
    pub connections_told: u64,
    /// Commands that it forwarded here and whose data was moved by RDMA, since this node started.
    #[serde(default)]
    pub moved_by_rdma: u64,
}

/// A disk as this node reaches it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskStatus {
    /// Its name in the file.
    pub name: String,
    /// Whether there is a session with it.
    pub link: LinkState,
    /// Its size, if known.
    pub bytes: Option<u64>,
    /// Keys registered on it when last read.
    pub keys: Vec<String>,
    /// `type 5 held by b` or `none`, as last read; empty if never read.
    pub reservation: String,
}

/// Whether there is a session with a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LinkState {
    /// Logged in.
    Connected,
    /// Trying to log in.
    Down,
}

/// A pool as this node knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolStatus {
    /// Its name.
    pub name: String,
    /// The node it belongs to by configuration.
    pub home: NodeName,
    /// The node the record majority names; none if there is no majority.
    pub owner: Option<NodeName>,
    /// Its generation.
    pub generation: u64,
    /// `serving`, `held`, `warm`, `closed`, …: what it is here.
    pub state: String,
    /// Its mirrors.
    pub mirrors: Vec<MirrorStatus>,
    /// Size of all chunks in bytes, if open here.
    pub bytes: Option<u64>,
    /// Bytes not used by a volume, if open here.
    pub free_bytes: Option<u64>,
    /// Bytes the volumes use once every block of them is written, if open here: above `bytes` if thin ones were promised more.
    #[serde(default)]
    pub promised_bytes: Option<u64>,
    /// Number of volumes, if open here.
    pub volumes: Option<usize>,
}

/// A mirror of a pool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MirrorStatus {
    /// Its legs.
    pub legs: Vec<LegStatus>,
    /// Bytes still to be made equal; 0 when the legs are.
    pub resync_left_bytes: u64,
}

/// One leg of a mirror.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LegStatus {
    /// The disk's name.
    pub disk: String,
    /// `good`, `dropped` or `resyncing`.
    pub state: String,
    /// How much of what is in use a dropped leg has already, while it is copied to.
    #[serde(default)]
    pub copied_percent: Option<u8>,
}

/// A volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeStatus {
    /// Its name.
    pub name: String,
    /// Its pool.
    pub pool: String,
    /// Its size.
    pub bytes: u64,
    /// Bytes of its pool that it uses, whole chunks.
    #[serde(default)]
    pub used_bytes: u64,
    /// When its chunks are taken.
    #[serde(default)]
    pub provisioning: Provisioning,
    /// Whether clients may write to it.
    #[serde(default)]
    pub protection: Protection,
    /// Its logical unit number at `target`.
    pub lun: u16,
    /// The iSCSI name clients find it under.
    pub target: String,
    /// The addresses clients find it at.
    pub portals: Vec<std::net::SocketAddr>,
    /// Its unit serial number (VPD 80h).
    pub serial: String,
    /// The clients that see it, if not everyone does who may log in.
    #[serde(default)]
    pub initiators: Option<Vec<String>>,
}

/// A portal open on this node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortalStatus {
    /// Its address.
    pub address: std::net::SocketAddr,
    /// The node whose identity it is part of.
    pub identity: NodeName,
    /// Sessions of clients.
    pub sessions: u64,
    /// Commands completed since it was opened.
    pub commands: u64,
}

/// A request on its way to the driver. Dropping it unanswered ends the client's connection.
#[derive(Debug)]
pub struct AdminRequest {
    /// Never [`Request::Timeline`] or [`Request::Events`]: the server answers those from the recorder.
    pub request: Request,
    /// Where the answer goes.
    pub reply: oneshot::Sender<Response>,
}
