//! What a run is made of: shape of the pair, load, and a list of faults with their times. Everything follows from the seed; a list
//! made shorter is still a run.

use std::net::IpAddr;
use std::path::Path;

use serde::{Deserialize, Serialize};
use understudy::admin::Provisioning;
use understudy::cli::{Size, VolumeWish};
use understudy::config::Config;

use crate::chance::Chance;
use crate::network::Host;
use crate::shelf::Shelf;
use crate::weather::Kind;

/// Lock disks; their shelves have the first numbers.
pub const LOCK_DISKS: usize = 3;

/// Legs of the one mirror of each pool.
pub const LEGS: usize = 2;

/// Name of each volume, and its pool, whose home is the node of the same place.
pub const VOLUMES: [(&str, usize); 3] = [("v0", 0), ("v1", 1), ("v2", 0)];

/// Names of the pools.
pub const POOLS: [&str; 2] = ["pa", "pb"];

/// A leg that is away during a claim is away at least so long, milliseconds: longer than the product waits for one.
const LEG_AWAY_MS: u64 = 6_000;

/// Something goes wrong, or somebody asks for something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Fault {
    /// A node's process ends and is started again after a while.
    KillNode {
        /// Which.
        node: usize,
        /// Its host loses power: nobody hears of it.
        power: bool,
    },
    /// Both processes end.
    KillBoth,
    /// A node's process stands still, its memory stays readable.
    StopNode {
        /// Which.
        node: usize,
    },
    /// A node is told to halt in order.
    HaltNode {
        /// Which.
        node: usize,
    },
    /// A node's reads of its partner's page are lost.
    CutReads {
        /// Which; 2: both.
        node: usize,
    },
    /// They are late.
    SlowReads {
        /// Which.
        node: usize,
        /// By up to so much.
        millis: u64,
    },
    /// They are torn.
    TearReads {
        /// Which.
        node: usize,
    },
    /// Nothing goes from one host to another, or the other way either.
    CutPath {
        /// From here.
        node: usize,
        /// To this shelf.
        shelf: usize,
        /// Commands get lost.
        out: bool,
        /// Answers get lost.
        back: bool,
    },
    /// A node is cut off from every shelf.
    CutAllPaths {
        /// Which.
        node: usize,
    },
    /// On the way of forwarded commands nothing goes from a node to its partner, or the other way.
    CutForward {
        /// From here.
        node: usize,
        /// What goes to the partner gets lost.
        out: bool,
        /// What comes from the partner gets lost.
        back: bool,
    },
    /// Every connection for forwarded commands breaks off.
    DropForward,
    /// The way of forwarded commands is slow.
    SlowForward {
        /// From here.
        node: usize,
        /// By so much.
        millis: u64,
    },
    /// A path is slow.
    SlowPath {
        /// From here.
        node: usize,
        /// To this shelf.
        shelf: usize,
        /// By so much.
        millis: u64,
    },
    /// A disk is slow.
    SlowDisk {
        /// Which.
        shelf: usize,
        /// Each step takes up to so much.
        millis: u64,
    },
    /// A disk fails reads and writes now and then.
    BadDisk {
        /// Which.
        shelf: usize,
        /// One in so many reads.
        reads: u64,
        /// One in so many writes.
        writes: u64,
    },
    /// A shelf's process ends; its cache is written.
    KillShelf {
        /// Which.
        shelf: usize,
    },
    /// A shelf loses power, and with it what was in its cache.
    PowerShelf {
        /// Which.
        shelf: usize,
    },
    /// A shelf stands still.
    StopShelf {
        /// Which.
        shelf: usize,
    },
    /// A shelf breaks all its sessions off.
    DropSessions {
        /// Which.
        shelf: usize,
    },
    /// Bits flip in an area of a lock disk.
    CorruptRecord {
        /// Which lock disk.
        shelf: usize,
        /// Whose area.
        node: usize,
    },
    /// The next record a node writes to a lock disk lands elsewhere in its area.
    MisdirectRecord {
        /// Which lock disk.
        shelf: usize,
        /// Whose area.
        node: usize,
    },
    /// A block of a pool disk's metadata cannot be read until it is written again.
    UnreadableMetadata {
        /// Which pool disk's shelf.
        shelf: usize,
        /// A number from which the place follows.
        place: u64,
    },
    /// Bits flip in a block of a pool disk's metadata.
    CorruptMetadata {
        /// Which pool disk's shelf.
        shelf: usize,
        /// A number from which the place follows.
        place: u64,
    },
    /// The next write to a pool disk's metadata lands elsewhere in it.
    MisdirectMetadata {
        /// Which pool disk's shelf.
        shelf: usize,
        /// By so many blocks.
        by: u64,
    },
    /// A shelf takes only so many commands of one initiator at a time, TASK SET FULL beyond; with none it is BUSY.
    CrowdShelf {
        /// Which.
        shelf: usize,
        /// So many.
        most: u32,
    },
    /// Of what a shelf answers a node, some is delivered twice, at once or later.
    RepeatAnswers {
        /// To this node.
        node: usize,
        /// From this shelf.
        shelf: usize,
        /// One delivery in so many.
        one_in: u64,
    },
    /// The end of the partner's connection is reported again, and connections that were never closed are reported closed.
    RepeatNews {
        /// To this node.
        node: usize,
    },
    /// A leg is lost for good.
    LoseLeg {
        /// Which pool disk's shelf.
        shelf: usize,
    },
    /// A leg's shelf is gone for longer than a leg is waited for, meanwhile a claim is going on, and then it is back with what was on it.
    LegAwayInClaim {
        /// Which pool disk's shelf.
        shelf: usize,
        /// It loses what was in its cache.
        power: bool,
        /// Whose process ends; 2: both.
        node: usize,
        /// So long after the shelf.
        after_ms: u64,
        /// And is started again so long after that.
        back_ms: u64,
    },
    /// The wall clock jumps.
    JumpClock {
        /// By so many seconds.
        seconds: i64,
    },
    /// A client's way to both nodes is cut.
    CutClient {
        /// Which.
        client: usize,
    },
    /// An operator asks for a planned takeover.
    AskTakeover {
        /// Whom.
        node: usize,
    },
    /// An operator asks for a giveback.
    AskGiveback {
        /// Whom.
        node: usize,
        /// Soft vetoes are overridden.
        overridden: bool,
    },
    /// An operator makes a volume.
    MakeVolume {
        /// Whom.
        node: usize,
        /// Its number.
        number: u64,
    },
    /// An operator deletes a volume made before.
    DeleteVolume {
        /// Whom.
        node: usize,
        /// Its number.
        number: u64,
    },
}

/// A fault with its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Planned {
    /// When, milliseconds after the load began.
    pub at_ms: u64,
    /// How long it lasts; nothing for what is done at once.
    pub for_ms: u64,
    /// What.
    pub fault: Fault,
}

/// One run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// Where chance begins.
    pub seed: u64,
    /// Every step is told.
    #[serde(default)]
    pub verbose: bool,
    /// Longest ordinary delay of the network, milliseconds.
    pub jitter_ms: u64,
    /// 512 or 4096.
    pub lock_block_bytes: u32,
    /// Bytes of a block of the pool disks.
    pub pool_block_bytes: u32,
    /// Commands a shelf takes from one initiator at a time.
    pub window: u32,
    /// Clients write through the caches of all disks, so that any of them may lose power at any time.
    pub durable: bool,
    /// Commands each client has under way.
    pub depth: u64,
    /// Longest pause of a client between two commands, milliseconds.
    pub pace_ms: u64,
    /// Every second client comes through the node that is not its volume's home, and its volume has another client that does not.
    #[serde(default)]
    pub other_way: bool,
    /// How fast each node's clock runs, thousandths: one that runs slow waits longer for everything.
    #[serde(default = "right_clocks")]
    pub clock_rate: [u32; 2],
    /// How long the first phase lasts, milliseconds.
    pub length_ms: u64,
    /// In order of time.
    pub faults: Vec<Planned>,
}

fn right_clocks() -> [u32; 2] {
    [1000, 1000]
}

impl Plan {
    /// The run that follows from `seed`. Each run has its own weather: some kinds of faults often, others not at all.
    #[must_use]
    pub fn from_seed(seed: u64) -> Self {
        let chance = Chance::new(seed).apart(4);
        let kinds: Vec<Kind> = Kind::ALL.into_iter().filter(|_| chance.one_in(3)).collect();
        Self::in_weather(seed, &kinds)
    }

    /// The run that follows from `seed` with faults of these kinds only.
    #[must_use]
    pub fn in_weather(seed: u64, kinds: &[Kind]) -> Self {
        let chance = Chance::new(seed).apart(0);
        let durable = chance.one_in(2);
        let length_ms = chance.between(5_000, 40_000);
        let every_ms = chance.pick(&[150, 400, 1_000, 3_000]);
        let mut faults = Vec::new();
        let mut at_ms = chance.below(2_000);
        while at_ms < length_ms && !kinds.is_empty() {
            let for_ms = match chance.below(4) {
                0 => chance.between(1, 100),
                1 | 2 => chance.between(100, 1_500),
                _long => chance.between(1_500, 8_000),
            };
            let fault = chance.pick(kinds).draw(&chance);
            let for_ms = if matches!(fault, Fault::LegAwayInClaim { .. }) { for_ms + LEG_AWAY_MS } else { for_ms };
            faults.push(Planned { at_ms, for_ms, fault });
            at_ms += chance.between(1, every_ms * 2);
        }
        Self {
            seed,
            verbose: false,
            jitter_ms: chance.pick(&[0, 1, 3, 20]),
            lock_block_bytes: chance.pick(&[512, 4096]),
            pool_block_bytes: 512,
            window: chance.pick(&[3, 8, 128]),
            durable,
            depth: chance.between(1, 4),
            pace_ms: chance.pick(&[5, 20, 60]),
            other_way: Chance::new(seed).apart(5).one_in(2),
            clock_rate: if chance.one_in(3) {
                [0, 1].map(|_| chance.between(800, 1_250) as u32)
            } else {
                right_clocks()
            },
            length_ms,
            faults,
        }
    }
}

/// A node's address on the link between them.
#[must_use]
pub fn address_of(node: usize) -> IpAddr {
    [10, 2, 0, 1 + node as u8].into()
}

/// Where clients find the volumes of a node.
#[must_use]
pub fn portal_of(node: usize) -> String {
    format!("10.0.0.{}:3260", 11 + node)
}

/// The iSCSI name of a node's target.
#[must_use]
pub fn target_of(node: usize) -> String {
    format!("iqn.2026-01.sim:{}", ["a", "b"][node])
}

/// The pair's file as `node` follows it: what its clock, slow or fast, makes of the waits.
#[must_use]
pub fn configuration_of(plan: &Plan, node: usize) -> Config {
    let mut config = configuration(plan);
    let timing = &mut config.timing;
    for wait in [
        &mut timing.poll,
        &mut timing.poll_brisk,
        &mut timing.read_deadline,
        &mut timing.heartbeat,
        &mut timing.silent,
        &mut timing.closed,
        &mut timing.ended,
        &mut timing.boot,
        &mut timing.retry,
        &mut timing.handoff,
        &mut timing.disk,
    ] {
        *wait = *wait * 1000 / plan.clock_rate[node];
    }
    config
}

/// The pair's file.
///
/// # Panics
/// If it is not sound, which no plan can make it.
#[must_use]
pub fn configuration(plan: &Plan) -> Config {
    let mut text = "[pair]\nname = \"sim\"\nid = \"51a0\"\n[giveback]\nlimit = 1000\nwithin_ms = 1000\n".to_owned();
    for (node, name) in ["a", "b"].iter().enumerate() {
        text += &format!(
            "[node.{name}]\ninterconnect = \"{}:7100\"\nforward = \"{}:7101\"\nportals = [\"{}\"]\ntarget = \"{}\"\nstate = \"/nowhere/{name}\"\n",
            address_of(node),
            address_of(node),
            portal_of(node),
            target_of(node),
        );
    }
    let url = |shelf: usize| format!("iscsi://{}/{}/0", Shelf::address(shelf), Shelf::target(shelf));
    for lock in 0..LOCK_DISKS {
        text += &format!("[[lock_disk]]\nname = \"l{lock}\"\nurl = \"{}\"\n", url(lock));
    }
    for disk in 0..LEGS * 2 {
        text += &format!("[[disk]]\nname = \"d{disk}\"\nurl = \"{}\"\n", url(LOCK_DISKS + disk));
    }
    for (node, pool) in POOLS.iter().enumerate() {
        let (one, two) = (node * LEGS, node * LEGS + 1);
        let home = ["a", "b"][node];
        text += &format!("[[pool]]\nname = \"{pool}\"\nhome = \"{home}\"\nmirrors = [[\"d{one}\", \"d{two}\"]]\n");
    }
    assert!(plan.lock_block_bytes >= 512, "blocks a disk has");
    match Config::parse(Path::new("/nowhere/pair.toml"), &text) {
        Ok(config) => config,
        Err(error) => panic!("the simulated pair's file is not sound: {error:?}"),
    }
}

/// The volumes made at the start.
#[must_use]
pub fn volume_wishes() -> Vec<VolumeWish> {
    let wish = |(name, node): &(&str, usize)| VolumeWish {
        name: (*name).to_owned(),
        size: Size(8 << 20),
        pool: POOLS[*node].to_owned(),
        provisioning: Provisioning::Thick,
    };
    VOLUMES.iter().map(wish).collect()
}

/// The hosts of both nodes.
pub const NODES: [Host; 2] = [Host::Node(0), Host::Node(1)];
