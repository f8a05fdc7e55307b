//! The file that describes a pair: what both nodes, `pair init` and every client command read.
//!
//! One TOML file, the same on both nodes; relative paths in it are relative to the file. Reading it is strict: an
//! unknown key, a wrong type or a contradiction is reported with the line, what stands there and what is expected, and
//! all mistakes of a file are reported at once. Nothing here looks at disks or the network.
//!
//! The annotated example is `docs/pair.example.toml`; a test reads it.

mod build;
mod clients;
mod mistake;
mod policy;
mod portals;
mod read;
mod shelves;
#[cfg(test)]
pub(crate) mod tests;
mod volumes;

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use understudy_disk::session::Place;
use understudy_disk::url::LunUrl;
use understudy_portal::access::Access;

pub use build::fold_name;
pub use clients::ClientLimits;
pub use mistake::{ConfigError, Look, Mistake};
pub use portals::PortalAddress;
pub use shelves::{Proofs, shelf_access};
pub use volumes::Audiences;

/// Which of the two nodes of a pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NodeName {
    /// The first node, `[node.a]`.
    A,
    /// The second node, `[node.b]`.
    B,
}

impl NodeName {
    /// Both nodes, in order.
    pub const BOTH: [Self; 2] = [Self::A, Self::B];

    /// The other node of the pair.
    #[must_use]
    pub fn partner(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B => Self::A,
        }
    }

    /// 0 for a, 1 for b: the place of this node in anything that keeps one entry a node.
    #[must_use]
    pub fn index(self) -> usize {
        match self {
            Self::A => 0,
            Self::B => 1,
        }
    }
}

impl fmt::Display for NodeName {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.pad(match self {
            Self::A => "a",
            Self::B => "b",
        })
    }
}

impl FromStr for NodeName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "a" => Ok(Self::A),
            "b" => Ok(Self::B),
            other => Err(format!("there is no node `{other}`: a pair has the nodes `a` and `b`")),
        }
    }
}

/// The libfabric provider that carries the interconnect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Provider {
    /// Sockets; runs anywhere, emulates RDMA.
    Tcp,
    /// RDMA network cards and Soft-RoCE.
    Verbs,
    /// Two nodes on one machine.
    Shm,
}

impl Provider {
    /// The name libfabric knows it by.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Verbs => "verbs",
            Self::Shm => "shm",
        }
    }
}

/// `[pair]`: who the pair is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PairIdentity {
    /// Name shown to the operator.
    pub name: String,
    /// The 16 bits that stand in every reservation key and on every disk; never 0.
    pub id: u16,
    /// The node that tries first when neither wins a contest for the lock disks.
    pub preferred: NodeName,
}

/// `[timing]`: when to try something. None of these decides whether it is safe. Whatever is not here has one value only,
/// with its reason, in the failover core.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// Between two reads of the partner's page while nothing happens.
    pub poll: Duration,
    /// Between two reads while a hand-off is under way.
    pub poll_brisk: Duration,
    /// A read of the partner's page that takes longer counts as unanswered.
    pub read_deadline: Duration,
    /// Between two heartbeats on the lock disks.
    pub heartbeat: Duration,
    /// Page and heartbeat silent for this long: contest the lock disks.
    pub silent: Duration,
    /// The same, when the link was closed.
    pub closed: Duration,
    /// The same, when the page says that the partner's process has ended, or its machine that nobody listens.
    pub ended: Duration,
    /// A booting node waits this long for signs of its partner before it contests the lock disks.
    pub boot: Duration,
    /// Between two tries of anything that may pass.
    pub retry: Duration,
    /// A hand-off that has not sent its commit after this long is called off and the pool served on.
    pub handoff: Duration,
    /// A disk command without an answer after this long is of unknown outcome.
    pub disk: Duration,
}

/// `[giveback]`: whether a repaired node gets its pools back without being asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AutomaticGiveback {
    /// At once when it is ready, at most `limit` times within `window`.
    Within {
        /// How many times.
        limit: u32,
        /// In how long a time.
        window: Duration,
    },
    /// Only when the operator asks.
    OnRequest,
}

/// What follows when a partner has ended and said so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnEnd {
    /// Its pools are taken over.
    TakeOver,
    /// They wait for it, or for the operator.
    Leave,
}

/// `[takeover]`: when a partner that has ended is taken over from without being asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AutomaticTakeover {
    /// When its process panicked or crashed. One that was killed is always taken over from.
    pub on_panic: OnEnd,
    /// When it stopped in an orderly way.
    pub on_halt: OnEnd,
}

/// `[node.a]` or `[node.b]`: what is particular to one node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeSettings {
    /// Which node this is.
    pub name: NodeName,
    /// Where the node's state page is reached.
    pub interconnect: SocketAddr,
    /// Where it takes commands that its partner forwards. With it, each volume is visible through both nodes.
    pub forward: Option<SocketAddr>,
    /// Where its volumes are served; these addresses move to the partner at a takeover.
    pub portals: Vec<SocketAddr>,
    /// Those of their addresses that the nodes put on interfaces and take off themselves; none: they are where they are.
    pub managed: Vec<PortalAddress>,
    /// iSCSI name of its target; moves with the portals.
    pub target: String,
    /// Folder for what the node keeps about itself (timeline, logs); nothing that safety depends on.
    pub state: PathBuf,
    /// Unix socket of the admin interface.
    pub admin: PathBuf,
}

/// `iscsi://host:port/target/lun`, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskUrl {
    /// Address of the shelf's portal.
    pub portal: SocketAddr,
    /// iSCSI name of the shelf's target.
    pub target: String,
    /// Logical unit number.
    pub lun: u16,
}

impl DiskUrl {
    /// The same as the disk back end wants it.
    #[must_use]
    pub fn lun_url(&self) -> LunUrl {
        LunUrl { place: Place { portal: self.portal.to_string(), target: self.target.clone() }, lun: self.lun }
    }
}

impl fmt::Display for DiskUrl {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "iscsi://{}/{}/{}", self.portal, self.target, self.lun)
    }
}

impl FromStr for DiskUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        build::disk_url(text)
    }
}

/// `[[disk]]` or `[[lock_disk]]`: one logical unit both nodes reach.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskSource {
    /// Name shown to the operator and used in `mirrors`.
    pub name: String,
    /// Where each node reaches it, in the order of [`NodeName::index`].
    pub urls: [DiskUrl; 2],
}

impl DiskSource {
    /// Where `node` reaches this disk.
    #[must_use]
    pub fn url(&self, node: NodeName) -> &DiskUrl {
        &self.urls[node.index()]
    }
}

/// `[[pool]]`: disks with one owner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolLayout {
    /// Name shown to the operator.
    pub name: String,
    /// The number it has in records and state pages: derived from the name, never 0.
    pub id: u16,
    /// The node it belongs to while both nodes are well.
    pub home: NodeName,
    /// Mirrors, each the places of its legs in [`Config::disks`].
    pub mirrors: Vec<Vec<usize>>,
}

/// A whole pair, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The file it was read from, absolute.
    pub file: PathBuf,
    /// Who the pair is.
    pub pair: PairIdentity,
    /// What carries the interconnect.
    pub provider: Provider,
    /// When to try things.
    pub timing: Timing,
    /// Whether givebacks happen by themselves.
    pub giveback: AutomaticGiveback,
    /// How long a repaired node waits for one that does.
    pub giveback_delay: Duration,
    /// When takeovers happen by themselves.
    pub takeover: AutomaticTakeover,
    /// What the files of a node's event log may hold together, in bytes.
    pub event_log_bytes: u64,
    /// How much of a node its clients may take.
    pub limits: ClientLimits,
    /// Which clients are let in.
    pub access: Arc<Access>,
    /// Which of them see which volume.
    pub audiences: Audiences,
    /// What is proved at the logins to shelves.
    pub proofs: Proofs,
    /// Both nodes, in the order of [`NodeName::index`].
    pub nodes: [NodeSettings; 2],
    /// One or three lock disks, in the order in which they are contested.
    pub lock_disks: Vec<DiskSource>,
    /// Every disk of every pool.
    pub disks: Vec<DiskSource>,
    /// The pools.
    pub pools: Vec<PoolLayout>,
}

impl Config {
    /// Reads and checks `file`.
    ///
    /// # Errors
    /// [`ConfigError`] with every mistake found; [`ConfigError::render`] shows them.
    pub fn load(file: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(file)
            .map_err(|source| ConfigError::Unreadable { file: file.to_owned(), source })?;
        let absolute = std::path::absolute(file).unwrap_or_else(|_| file.to_owned());
        let config = Self::parse(&absolute, &text)?;
        if config.has_secrets() {
            check_readers(&config.file)?;
        }
        Ok(config)
    }

    /// Checks `text` as the content of `file`; relative paths are taken from the folder of `file`.
    ///
    /// # Errors
    /// [`ConfigError::Mistaken`] with every mistake found.
    pub fn parse(file: &Path, text: &str) -> Result<Self, ConfigError> {
        build::build(file, text)
    }

    /// The settings of one node.
    #[must_use]
    pub fn node(&self, name: NodeName) -> &NodeSettings {
        &self.nodes[name.index()]
    }

    /// Where both nodes take forwarded commands, in the order of [`NodeName::index`]; `None` if they take none.
    #[must_use]
    pub fn forwarding(&self) -> Option<[SocketAddr; 2]> {
        let [a, b] = &self.nodes;
        Some([a.forward?, b.forward?])
    }

    /// Whether the nodes put addresses of portals on their interfaces themselves.
    #[must_use]
    pub fn manages_addresses(&self) -> bool {
        self.nodes.iter().any(|node| !node.managed.is_empty())
    }

    /// The pool called `name`.
    #[must_use]
    pub fn pool(&self, name: &str) -> Option<&PoolLayout> {
        self.pools.iter().find(|pool| pool.name == name)
    }

    /// The pools whose home is `node`.
    pub fn pools_of(&self, node: NodeName) -> impl Iterator<Item = &PoolLayout> {
        self.pools.iter().filter(move |pool| pool.home == node)
    }
}

/// A file with secrets that everyone on the machine can read or change keeps none.
fn check_readers(file: &Path) -> Result<(), ConfigError> {
    use std::os::unix::fs::PermissionsExt as _;
    let unreadable = |source| ConfigError::Unreadable { file: file.to_owned(), source };
    let mode = std::fs::metadata(file).map_err(unreadable)?.permissions().mode() & 0o777;
    // The owner's group may be one of administrators.
    if mode & 0o007 != 0 { Err(ConfigError::Exposed { file: file.to_owned(), mode }) } else { Ok(()) }
}
