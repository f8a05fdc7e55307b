//! `pair init`: making the disks of a pair ours, once, before any node runs.
//!
//! Every disk is looked at before the first one is written: what holds anything, or is registered by anybody, is refused
//! unless the operator said to overwrite. Registrations are cleared, so that a fresh pair starts unreserved. The records
//! are written last: until they stand on every lock disk no node serves anything, so an init that was interrupted leaves
//! nothing that could be mistaken for a pair.

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{LocalBoxFuture, join_all};
use thiserror::Error;
use understudy_disk::disk::{Disk, DiskError, Durability, Extent, Link};
use understudy_disk::lun::IscsiLun;
use understudy_disk::network::{Network, Tcp};
use understudy_disk::reservation::{Key, Reservations};
use understudy_disk::session::{Nexus, Options};
use understudy_failover::record::Record;
use understudy_failover::words::{LegSet, MetadataVersion, NodeId, PairId, PoolId};
use understudy_iscsi::serial::Isid;
use understudy_layout::lock::{LockPlaces, RecordSlot};
use understudy_layout::metadata::DEFAULT_CHUNK_BYTES;
use understudy_layout::{DiskShape, Uuid};
use understudy_pool::{
    Existing, Expected, Finding, InSync, LegPlace, Overseer, Pool, PoolDisk, PoolOptions, PoolPlan, Proof, Reason,
    ReturnNews, discover, initialise_lock_disk, initialise_pool,
};

use crate::cli::{Size, VolumeWish};
use crate::config::{Config, DiskSource, NodeName, PoolLayout};

/// How long a disk may take to log in.
const LOGIN: Duration = Duration::from_secs(10);

/// Block size of new volumes: what every client accepts.
const VOLUME_BLOCK_BYTES: u32 = 512;

/// Disks looked at together.
const AT_ONCE: usize = 32;

/// Generation of the first owner.
const FIRST_GENERATION: u64 = 1;

/// What to do with disks that hold something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DisksInUse {
    /// Nothing is written to any disk.
    Refuse,
    /// It is destroyed.
    Overwrite,
}

/// What the operator asked for.
#[derive(Debug, Clone)]
pub struct Wish {
    /// Reach the disks as this node does.
    pub node: NodeName,
    /// Volumes to make.
    pub volumes: Vec<VolumeWish>,
    /// What to do with disks that hold something.
    pub disks_in_use: DisksInUse,
}

/// Why a pair was not prepared.
#[derive(Debug, Error)]
pub enum InitError {
    /// A disk did not do what it was asked.
    #[error("disk `{disk}`: {source}")]
    Disk {
        /// Its name in the file.
        disk: String,
        /// What it said.
        source: DiskError,
    },
    /// A disk can not be reserved.
    #[error("disk `{disk}` has no persistent reservations")]
    Unreservable {
        /// Its name in the file.
        disk: String,
    },
    /// Somebody has registered keys on a disk.
    #[error("disk `{disk}` is in use: {keys} registered")]
    Registered {
        /// Its name in the file.
        disk: String,
        /// The keys, as text.
        keys: String,
    },
    /// A disk holds something.
    #[error("disk `{disk}` is in use: it holds {what}")]
    InUse {
        /// Its name in the file.
        disk: String,
        /// What was found.
        what: String,
    },
    /// Two names in the file are one disk.
    #[error("`{first}` and `{second}` are the same disk ({identity})")]
    SameDisk {
        /// The name met first.
        first: String,
        /// The other one.
        second: String,
        /// What the disk says it is.
        identity: String,
    },
    /// A volume can not be made.
    #[error("volume `{volume}`: {reason}")]
    Volume {
        /// Its name.
        volume: String,
        /// Why.
        reason: String,
    },
    /// A pool or a lock disk can not be initialised.
    #[error("{what}: {reason}")]
    Initialise {
        /// Which.
        what: String,
        /// Why.
        reason: String,
    },
}

impl InitError {
    /// What the operator can do.
    #[must_use]
    pub fn advice(&self) -> &'static str {
        match self {
            Self::Disk { .. } => {
                "check that the shelf runs and that the url in the pair's file names a logical unit of it"
            }
            Self::Unreservable { .. } => "a pair needs disks with SCSI-3 persistent reservations",
            Self::Registered { .. } => {
                "end whatever uses it (a node of another pair?); `--overwrite` removes the registrations and destroys what it holds"
            }
            Self::InUse { .. } => "nothing was changed on any disk; `--overwrite` destroys what they hold",
            Self::SameDisk { .. } => "give every disk of the file a logical unit of its own",
            Self::Volume { .. } => "the pair is not ready: correct --volume and run `pair init --overwrite`",
            Self::Initialise { .. } => "nothing was written if the disk holds something; `--overwrite` destroys it",
        }
    }
}

/// A disk of the file, reached.
struct Reached {
    name: String,
    disk: Rc<IscsiLun>,
}

/// All disks of the file, in its order.
struct AllReached {
    locks: Vec<Reached>,
    disks: Vec<Reached>,
}

impl AllReached {
    fn iter(&self) -> impl Iterator<Item = &Reached> {
        self.locks.iter().chain(&self.disks)
    }
}

/// Prepares every disk of the pair; must run inside a `LocalSet`. Gives what was done, one line each.
///
/// # Errors
/// See [`InitError`]; until the last step no node takes the disks for a pair.
pub async fn run(config: &Config, wish: &Wish) -> Result<Vec<String>, InitError> {
    run_over(Tcp, config, wish).await
}

/// As [`run`], over another network.
///
/// # Errors
/// As [`run`].
pub async fn run_over(network: impl Network + Clone, config: &Config, wish: &Wish) -> Result<Vec<String>, InitError> {
    check_wishes(config, &wish.volumes)?;
    let reached = reach_all(network, config, wish.node).await?;
    check_distinct(&reached).await?;
    if wish.disks_in_use == DisksInUse::Refuse {
        check_unused(&reached).await?;
    }
    let key = Key(random());
    for disk in reached.iter() {
        clear(disk, key).await?;
    }
    let mut said = Vec::new();
    initialise_locks(config, &reached.locks, existing(wish)).await?;
    let mut entries = Vec::new();
    // Volumes of all pools of a home are behind one target.
    let mut next_luns = [0; 2];
    for pool in &config.pools {
        let next_lun = &mut next_luns[pool.home.index()];
        entries.push(one_pool(config, wish, pool, (&reached.disks, next_lun), &mut said).await?);
    }
    write_first_record(config, &reached.locks, entries).await?;
    let names: Vec<&str> = reached.locks.iter().map(|disk| disk.name.as_str()).collect();
    said.push(format!("lock disks {}: first records written, no reservations", names.join(" ")));
    join_all(reached.iter().map(|disk| disk.disk.session().close())).await;
    Ok(said)
}

fn existing(wish: &Wish) -> Existing {
    match wish.disks_in_use {
        DisksInUse::Refuse => Existing::Refuse,
        DisksInUse::Overwrite => Existing::Overwrite,
    }
}

fn check_wishes(config: &Config, volumes: &[VolumeWish]) -> Result<(), InitError> {
    for (index, volume) in volumes.iter().enumerate() {
        let refuse = |reason: String| InitError::Volume { volume: volume.name.clone(), reason };
        if config.pool(&volume.pool).is_none() {
            return Err(refuse(format!("there is no pool `{}` in the pair's file", volume.pool)));
        }
        if volumes[..index].iter().any(|other| other.name == volume.name) {
            return Err(refuse("two volumes have this name".to_owned()));
        }
    }
    Ok(())
}

/// Opens every disk and waits until all have answered.
async fn reach_all(network: impl Network + Clone, config: &Config, node: NodeName) -> Result<AllReached, InitError> {
    // A name of its own: a node that runs on the same disks keeps its sessions.
    let initiator_name = format!("{}.init", config.node(node).target);
    let open = |number: usize, source: &DiskSource| {
        let isid = Isid::random(number as u32, 1);
        let nexus = Nexus { initiator_name: initiator_name.clone(), isid };
        let url = source.url(node);
        let options = Options { command_deadline: config.timing.disk.max(LOGIN), ..config.disk_options(url) };
        Reached {
            name: source.name.clone(),
            disk: IscsiLun::open_over(network.clone(), &url.lun_url(), nexus, options),
        }
    };
    let locks: Vec<Reached> = config.lock_disks.iter().enumerate().map(|(n, disk)| open(n, disk)).collect();
    let after = locks.len();
    let disks = config.disks.iter().enumerate().map(|(n, disk)| open(after + n, disk)).collect();
    let all = AllReached { locks, disks };
    let ready =
        join_all(all.iter().map(|disk| async { disk.disk.ready(LOGIN).await.map_err(|error| disk.failed(error)) }));
    ready.await.into_iter().collect::<Result<(), _>>()?;
    Ok(all)
}

impl Reached {
    fn failed(&self, source: DiskError) -> InitError {
        InitError::Disk { disk: self.name.clone(), source }
    }

    fn reservations(&self) -> Result<&dyn Reservations, InitError> {
        self.disk.reservations().ok_or_else(|| InitError::Unreservable { disk: self.name.clone() })
    }

    /// Writes whole pages of our own at a place of the layout.
    async fn write(&self, span: understudy_layout::Span, bytes: Vec<u8>) -> Result<(), InitError> {
        let geometry = self.disk.geometry().map_err(|error| self.failed(error))?;
        let extent = Extent::within(geometry, span.lba, span.blocks);
        let extent = extent.ok_or_else(|| self.failed(DiskError::Protocol("it became smaller".to_owned())))?;
        let written = self.disk.write(extent, Bytes::from(bytes), Durability::ForceUnitAccess).await;
        written.map_err(|error| self.failed(error))
    }

    fn places(&self) -> Result<LockPlaces, InitError> {
        let geometry = self.disk.geometry().map_err(|error| self.failed(error))?;
        let shape = DiskShape { block_bytes: geometry.block_bytes, blocks: geometry.blocks };
        LockPlaces::new(shape).ok_or_else(|| InitError::Initialise {
            what: format!("lock disk `{}`", self.name),
            reason: format!("it is smaller than {}", Size(understudy_layout::lock::LOCK_DISK_MIN_BYTES)),
        })
    }
}

/// Two names for one disk would let a mirror be its own second leg. Disks that do not say who they are pass.
async fn check_distinct(all: &AllReached) -> Result<(), InitError> {
    let identities = join_all(all.iter().map(|disk| disk.disk.identify())).await;
    let mut seen: Vec<(&str, String)> = Vec::new();
    for (disk, identity) in all.iter().zip(identities) {
        let identity = identity.map_err(|error| disk.failed(error))?;
        let text = if identity.designator.is_empty() { identity.serial } else { identity.designator };
        if let Some((first, _)) = seen.iter().find(|(_, other)| !text.is_empty() && *other == text) {
            return Err(InitError::SameDisk { first: (*first).to_owned(), second: disk.name.clone(), identity: text });
        }
        seen.push((&disk.name, text));
    }
    Ok(())
}

/// Refuses disks that hold anything, or that anybody has registered at, before the first one is touched.
async fn check_unused(all: &AllReached) -> Result<(), InitError> {
    for disk in all.iter() {
        let found = disk.reservations()?.read_keys().await.map_err(|error| disk.failed(error))?.keys;
        if !found.is_empty() {
            let keys: Vec<String> = found.iter().map(|key| format!("key {:016x}", key.0)).collect();
            return Err(InitError::Registered { disk: disk.name.clone(), keys: keys.join(", ") });
        }
    }
    let disks = all.iter().map(|disk| Rc::clone(&disk.disk) as Rc<dyn Disk>).collect();
    let inventory = discover(disks, AT_ONCE, |_| {}).await;
    for (disk, found) in all.iter().zip(&inventory.disks) {
        let what = match &found.finding {
            Finding::Blank => continue,
            Finding::Ours(label) => format!("a disk of pair {:04x}", label.pair),
            Finding::Foreign(what) => (*what).to_owned(),
            Finding::Damaged(error) => format!("a damaged label of ours ({error})"),
            Finding::Conflict => return Err(disk.failed(DiskError::Conflict)),
            Finding::Failed(error) => return Err(disk.failed(error.clone())),
        };
        return Err(InitError::InUse { disk: disk.name.clone(), what });
    }
    Ok(())
}

/// Leaves a disk without registrations and reservation.
async fn clear(disk: &Reached, key: Key) -> Result<(), InitError> {
    let reservations = disk.reservations()?;
    let failed = |error| disk.failed(error);
    reservations.register(key).await.map_err(failed)?;
    reservations.clear(key).await.map_err(failed)?;
    // Under a reservation of somebody else the size was not to be had.
    disk.disk.probe().await.map_err(failed)?;
    Ok(())
}

async fn initialise_locks(config: &Config, locks: &[Reached], existing: Existing) -> Result<(), InitError> {
    for (index, lock) in locks.iter().enumerate() {
        let made =
            initialise_lock_disk(Rc::clone(&lock.disk) as Rc<dyn Disk>, config.pair.id, index as u8, existing).await;
        made.map_err(|error| InitError::Initialise {
            what: format!("lock disk `{}`", lock.name),
            reason: error.to_string(),
        })?;
    }
    Ok(())
}

/// What the first record says of a pool.
type Entry = (PoolId, NodeId, MetadataVersion, Vec<LegSet>);

/// Makes a pool and its volumes.
async fn one_pool(
    config: &Config,
    wish: &Wish,
    layout: &PoolLayout,
    (disks, next_lun): (&[Reached], &mut u16),
    said: &mut Vec<String>,
) -> Result<Entry, InitError> {
    let failed = |reason: String| InitError::Initialise { what: format!("pool `{}`", layout.name), reason };
    let leg = |place: &usize| Rc::clone(&disks[*place].disk) as Rc<dyn Disk>;
    let mirrors: Vec<Vec<Rc<dyn Disk>>> = layout.mirrors.iter().map(|legs| legs.iter().map(leg).collect()).collect();
    let all: Vec<Rc<dyn Disk>> = mirrors.iter().flatten().cloned().collect();
    let plan = PoolPlan {
        number: layout.id,
        pair: config.pair.id,
        home: layout.home.index() as u8,
        name: layout.name.clone(),
        chunk_bytes: DEFAULT_CHUNK_BYTES,
        mirrors,
    };
    let made = initialise_pool(plan, existing(wish)).await.map_err(|error| failed(error.to_string()))?;
    let pool = open(made.pool, all).await.map_err(failed)?;
    let names: Vec<String> = layout.mirrors.iter().map(|legs| names_of(legs, disks)).collect();
    said.push(format!("pool {} of node {} on {}", layout.name, layout.home, names.join(", ")));
    for volume in wish.volumes.iter().filter(|volume| volume.pool == layout.name) {
        let made = make_volume(&pool, volume, *next_lun).await?;
        *next_lun = made + 1;
        said.push(format!("volume {} of {} in {}, logical unit {}", volume.name, volume.size, layout.name, made));
    }
    pool.flush().await.map_err(|error| failed(error.to_string()))?;
    pool.stop();
    let legs = layout.mirrors.iter().map(|legs| LegSet::first(legs.len() as u8)).collect();
    let home = match layout.home {
        NodeName::A => NodeId::A,
        NodeName::B => NodeId::B,
    };
    Ok((PoolId(u32::from(layout.id)), home, MetadataVersion(pool.metadata_version().0), legs))
}

fn names_of(legs: &[usize], disks: &[Reached]) -> String {
    let names: Vec<&str> = legs.iter().map(|place| disks[*place].name.as_str()).collect();
    names.join("+")
}

/// Loads the pool just made, as a node does.
async fn open(uuid: Uuid, disks: Vec<Rc<dyn Disk>>) -> Result<Rc<Pool>, String> {
    let inventory = discover(disks, AT_ONCE, |_| {}).await;
    let found: Vec<PoolDisk> = inventory.pool_disks(uuid);
    let at_least = understudy_layout::MetadataVersion(0);
    let expected = Expected { pool: uuid, at_least, legs_good: Vec::new(), in_sync: InSync::Yes };
    let pool = Pool::load(found, expected, Rc::new(Unfenced), PoolOptions::default()).await;
    let pool = pool.map_err(|error| error.to_string())?;
    pool.start(FIRST_GENERATION, &[]).await.map_err(|error| error.to_string())?;
    Ok(pool)
}

async fn make_volume(pool: &Pool, wish: &VolumeWish, lun: u16) -> Result<u16, InitError> {
    let wanted = understudy_pool::VolumeWish {
        name: wish.name.clone(),
        lun: Some(lun),
        block_bytes: VOLUME_BLOCK_BYTES,
        blocks: wish.size.0.div_ceil(u64::from(VOLUME_BLOCK_BYTES)),
        provisioning: wish.provisioning.into(),
    };
    let made = pool.create_volume(wanted).await;
    let made = made.map_err(|error| InitError::Volume { volume: wish.name.clone(), reason: error.to_string() })?;
    Ok(made.lun)
}

/// The overseer of a pool that nobody serves yet: there is no fence to prove and no record to write.
struct Unfenced;

impl Overseer for Unfenced {
    fn prove_fence<'a>(&'a self, _place: LegPlace, disk: &'a dyn Disk, _reason: Reason) -> LocalBoxFuture<'a, Proof> {
        let proof = match disk.link() {
            Link::Connected { epoch } => Proof::Held { epoch },
            Link::Down => Proof::Unknown,
        };
        Box::pin(std::future::ready(proof))
    }

    fn is_still_owner(&self) -> LocalBoxFuture<'_, bool> {
        // Nobody else knows of these disks yet.
        Box::pin(std::future::ready(true))
    }

    fn drop_leg(&self, _place: LegPlace) -> LocalBoxFuture<'_, bool> {
        // A new pool with a leg that already failed is no pool to start with.
        Box::pin(std::future::ready(false))
    }

    fn disk_of(&self, _place: LegPlace) -> Option<Rc<dyn Disk>> {
        None
    }

    fn fence_leg<'a>(&'a self, _place: LegPlace, _disk: &'a dyn Disk) -> LocalBoxFuture<'a, Proof> {
        Box::pin(std::future::ready(Proof::Unknown))
    }

    fn leg_resynced(&self, _place: LegPlace) {}

    fn tell(&self, _place: LegPlace, _news: ReturnNews) {}

    fn fenced(&self, _place: LegPlace) {}
}

/// The record that makes the disks a pair: the same on every lock disk.
async fn write_first_record(config: &Config, locks: &[Reached], entries: Vec<Entry>) -> Result<(), InitError> {
    let record = Record::initial(PairId(config.pair.id), entries);
    let slot = RecordSlot::of_sequence(record.sequence);
    for lock in locks {
        let mut bytes = record.encode();
        let span = lock.places()?.record(record.node.index() as u8, slot);
        let geometry = lock.disk.geometry().map_err(|error| lock.failed(error))?;
        bytes.resize(span.blocks as usize * geometry.block_bytes as usize, 0);
        lock.write(span, bytes).await?;
    }
    Ok(())
}

/// A number nobody else has.
fn random() -> u64 {
    let mut bytes = [0; 8];
    // PANIC: without the kernel's random numbers no incarnation can be drawn either; nothing here works then.
    getrandom::fill(&mut bytes).expect("the kernel gives random numbers");
    u64::from_le_bytes(bytes).max(1)
}
