//! A pool on this node: loaded warm, started once fenced, stopped for good.
//!
//! ```text
//! load (reads only) --> refresh, as often as wanted --> start (fenced) --> serving --> stop
//! ```
//! A pool object serves one ownership. After [`Pool::stop`] it is of no more use; the next ownership loads another.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::rc::{Rc, Weak};
use std::time::Duration;

use futures_util::future::LocalBoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use thiserror::Error;
use tokio::sync::{Mutex, Notify, Semaphore, mpsc};
use tokio::task::spawn_local;
use understudy_disk::disk::{DiskError, Geometry};
use understudy_layout::allocate::{AllocateError, NewVolume};
use understudy_layout::label::{PoolAreas, Role};
use understudy_layout::metadata::{Header, Metadata, MetadataError, Protection, Provisioning, Volume};
use understudy_layout::{MetadataVersion, Uuid};

use crate::allot::Allotting;
use crate::commit::Asked;
use crate::inventory::PoolDisk;
use crate::leg::{Leg, LegParts, Standing, supervise};
use crate::mirror::{Mirror, MirrorFault, MirrorParts, REGION_BYTES};
use crate::overseer::{LegPlace, Overseer};
use crate::resync::{COPIES_AT_ONCE, ResyncProgress, ResyncShared, resync};
use crate::store;
use crate::switch::{Phase, Switch};
use crate::take_back::take_back;
use crate::volume::VolumeMedium;

/// Which legs of a mirror are recorded good: bit n for leg n.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LegSet(pub u8);

impl LegSet {
    /// Every leg a mirror can have.
    pub const ALL: Self = Self(0xff);

    /// Whether this leg is in it.
    #[must_use]
    pub fn has(self, leg: u8) -> bool {
        leg < 8 && self.0 & (1 << leg) != 0
    }
}

/// Whether the legs of every mirror were equal when the pool changed hands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InSync {
    /// A clean hand-off.
    Yes,
    /// An unclean death, or not known: every region in use is compared again.
    No,
}

/// What the record majority says about a pool.
#[derive(Debug, Clone)]
pub struct Expected {
    /// The pool.
    pub pool: Uuid,
    /// The committed metadata version: nothing older is ever used.
    pub at_least: MetadataVersion,
    /// Per mirror, the legs recorded good; mirrors past the end count as having all.
    pub legs_good: Vec<LegSet>,
    /// Whether the legs are equal.
    pub in_sync: InSync,
}

impl Expected {
    fn recorded_good(&self, place: LegPlace) -> bool {
        self.legs_good.get(usize::from(place.mirror)).copied().unwrap_or(LegSet::ALL).has(place.leg)
    }
}

/// How patient a pool is.
#[derive(Debug, Clone, Copy)]
pub struct PoolOptions {
    /// How long a leg may be away before its loss is recorded, while another leg is up. Longer than a path takes to
    /// log in again, well below the time clients wait (20 s and more).
    pub leg_timeout: Duration,
    /// Pause between attempts on a disk that is busy or cannot be asked.
    pub retry_delay: Duration,
    /// Pause before a dropped leg is tried again; doubled each time it fails again, up to 64 times this. Longer than what made it
    /// fail usually takes to show again, short enough that a mirror is not left with one leg for no reason.
    pub return_pause: Duration,
}

impl Default for PoolOptions {
    fn default() -> Self {
        Self {
            leg_timeout: Duration::from_secs(5),
            retry_delay: Duration::from_millis(10),
            return_pause: Duration::from_secs(1),
        }
    }
}

/// A leg the driver fenced, and the link epoch it saw *before* it did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FencedLeg {
    /// Which.
    pub place: LegPlace,
    /// The epoch of its link.
    pub epoch: u64,
}

/// Why a pool cannot be loaded.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum LoadError {
    /// No disk found carries a label of this pool.
    #[error("no disk of pool {0} was found")]
    NoDisk(Uuid),
    /// A leg recorded good was not found.
    #[error("{0} is recorded good, and its disk was not found: connect it, or force the pool without it")]
    LegMissing(LegPlace),
    /// A mirror has no leg recorded good.
    #[error("mirror {0} has no good leg: its data is lost unless a leg recorded bad is forced back")]
    NoGoodLeg(u16),
    /// A disk's label and the metadata disagree.
    #[error("the disk at {0} is not the one the pool's metadata names there")]
    Misplaced(LegPlace),
    /// A disk is too small for the chunks the metadata says it has.
    #[error("the disk at {0} is too small for its chunks")]
    TooSmall(LegPlace),
    /// A disk refuses reads: the partner holds it exclusively (type 6).
    #[error("{0} is reserved by the partner")]
    Conflict(LegPlace),
    /// A disk could not be read.
    #[error("{place} cannot be read: {error}")]
    Leg {
        /// Which.
        place: LegPlace,
        /// Why.
        error: DiskError,
    },
    /// No usable metadata.
    #[error(transparent)]
    Metadata(#[from] MetadataError),
    /// The pool serves or was stopped: only a warm one can be refreshed.
    #[error("the pool is not warm")]
    NotWarm,
}

/// Why a volume could not be made, deleted or changed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum VolumeError {
    /// The wish cannot be granted; nothing changed.
    #[error(transparent)]
    Allocate(#[from] AllocateError),
    /// The metadata would not fit; nothing changed.
    #[error(transparent)]
    Metadata(#[from] MetadataError),
    /// A disk is there and refuses to be written.
    #[error("a disk without a good sibling refuses to be written")]
    Refused,
    /// The pool was stopped.
    #[error("the pool is not served by this node any more")]
    Fenced,
}

impl From<MirrorFault> for VolumeError {
    fn from(fault: MirrorFault) -> Self {
        match fault {
            MirrorFault::Medium => Self::Refused,
            MirrorFault::Stopped => Self::Fenced,
        }
    }
}

/// A volume as the operator wants it.
#[derive(Debug, Clone)]
pub struct VolumeWish {
    /// Its name, unique in the pool.
    pub name: String,
    /// Its LUN number; the smallest free one if `None`.
    pub lun: Option<u16>,
    /// Block length clients see: 512 or 4096, not below the disks'.
    pub block_bytes: u32,
    /// Size in these blocks.
    pub blocks: u64,
    /// When its chunks are taken from the pool.
    pub provisioning: Provisioning,
}

/// A volume as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeSummary {
    /// Its name for life.
    pub uuid: Uuid,
    /// The operator's name for it.
    pub name: String,
    /// Its LUN number.
    pub lun: u16,
    /// Block length clients see.
    pub block_bytes: u32,
    /// Size in these blocks.
    pub blocks: u64,
    /// When its chunks are taken from the pool.
    pub provisioning: Provisioning,
    /// Whether clients may write to it.
    pub protection: Protection,
    /// Chunks it has.
    pub chunks: u64,
}

impl From<&Volume> for VolumeSummary {
    fn from(volume: &Volume) -> Self {
        let Volume { uuid, name, lun, block_bytes, blocks, provisioning, protection, .. } = volume;
        Self {
            uuid: *uuid,
            name: name.clone(),
            lun: *lun,
            block_bytes: *block_bytes,
            blocks: *blocks,
            provisioning: *provisioning,
            protection: *protection,
            chunks: volume.chunks_mapped(),
        }
    }
}

/// A pool on this node.
pub struct Pool {
    pub(crate) me: Weak<Self>,
    pub(crate) switch: Rc<Switch>,
    pub(crate) mirrors: Rc<[Rc<Mirror>]>,
    pub(crate) metadata: Rc<RefCell<Rc<Metadata>>>,
    volumes: RefCell<BTreeMap<Uuid, Rc<VolumeMedium>>>,
    /// One metadata write at a time: version N+1 begins when N stands everywhere.
    pub(crate) store: Mutex<()>,
    /// Changes that wait for their turn, in the order they were asked for. BOUND: one of each volume, and one that makes or deletes one.
    pub(crate) asked: RefCell<VecDeque<Asked>>,
    /// One volume made or deleted at a time.
    pub(crate) provisioning: Mutex<()>,
    /// Chunks for thin volumes.
    pub(crate) allotting: Allotting,
    pub(crate) slot_bytes: u32,
    in_sync: Cell<InSync>,
    /// Of the metadata as it was read last: what a warm pool is compared with.
    read: Cell<Header>,
    /// Every good leg was seen with the newest version.
    uniform: Cell<bool>,
    pub(crate) resync: Rc<ResyncShared>,
    unfinished: RefCell<Option<mpsc::UnboundedReceiver<LocalBoxFuture<'static, ()>>>>,
}

/// The legs of a pool found on disks, by place.
fn legs_of(disks: Vec<PoolDisk>, expected: &Expected, switch: &Rc<Switch>) -> Vec<Rc<Leg>> {
    let mut legs: Vec<_> = disks
        .into_iter()
        .filter_map(|found| match found.label.role {
            Role::PoolLeg { pool, mirror, leg, areas, .. } if pool == expected.pool => {
                let shape = found.label.shape;
                let geometry = Geometry { block_bytes: shape.block_bytes, blocks: shape.blocks };
                let parts = LegParts { place: LegPlace { mirror, leg }, disk: found.disk, areas, geometry };
                Some(Rc::new(Leg::new(parts, Standing::Good, Rc::clone(switch))))
            }
            Role::PoolLeg { .. } | Role::Lock { .. } => None,
        })
        .collect();
    legs.sort_by_key(|leg| leg.place);
    legs
}

/// Bytes of data area the mirror's chunks take.
pub(crate) fn data_bytes(metadata: &Metadata, mirror: usize) -> u64 {
    u64::from(metadata.mirrors[mirror].chunks) * u64::from(metadata.chunk_bytes)
}

pub(crate) fn fits(areas: &PoolAreas, bytes: u64) -> bool {
    bytes <= areas.data_bytes && bytes / REGION_BYTES < u64::from(u32::MAX)
}

impl Pool {
    /// Loads a pool from the disks found. Only reads, so it may run while the partner serves; a copy of the metadata
    /// being written at this moment leaves the one before.
    ///
    /// # Errors
    /// [`LoadError`]; `Conflict` where the partner still holds a disk exclusively.
    pub async fn load(
        disks: Vec<PoolDisk>,
        expected: Expected,
        overseer: Rc<dyn Overseer>,
        options: PoolOptions,
    ) -> Result<Rc<Self>, LoadError> {
        let switch = Rc::new(Switch::new(overseer, options));
        let uuids: BTreeMap<_, _> = disks.iter().map(|found| (place_of(found), found.label.disk)).collect();
        let legs = legs_of(disks, &expected, &switch);
        if legs.is_empty() {
            return Err(LoadError::NoDisk(expected.pool));
        }
        legs.iter().filter(|leg| !expected.recorded_good(leg.place)).for_each(|leg| leg.drop_for_good());
        let good: Vec<_> = legs.iter().filter(|leg| leg.is_good()).cloned().collect();
        let found = store::find(&good, expected.pool, expected.at_least).await?;
        check_places(&found.metadata, &expected, &legs, &uuids)?;

        let (sender, receiver) = mpsc::unbounded_channel();
        let mirror = |index: usize| {
            let parts = MirrorParts {
                legs: legs.iter().filter(|leg| usize::from(leg.place.mirror) == index).cloned().collect(),
                regions: u32::try_from(data_bytes(&found.metadata, index) / REGION_BYTES).expect("checked by fits"),
                unfinished: sender.clone(),
                differs: Rc::new(Notify::new()),
                switch: Rc::clone(&switch),
            };
            Rc::new(Mirror::new(parts))
        };
        let mirrors: Rc<[_]> = (0..found.metadata.mirrors.len()).map(mirror).collect();
        let slot_bytes = legs.iter().map(|leg| leg.areas.slot_bytes).min().unwrap_or(0);
        let metadata = Rc::new(RefCell::new(Rc::new(found.metadata)));
        let shared = ResyncShared {
            metadata: Rc::clone(&metadata),
            permits: Semaphore::new(COPIES_AT_ONCE),
            equal: Notify::new(),
            switch: Rc::clone(&switch),
        };
        let pool = Rc::new_cyclic(|me| Self {
            me: me.clone(),
            switch,
            mirrors,
            metadata,
            volumes: RefCell::default(),
            store: Mutex::new(()),
            asked: RefCell::default(),
            provisioning: Mutex::new(()),
            allotting: Allotting::default(),
            slot_bytes,
            in_sync: Cell::new(expected.in_sync),
            read: Cell::new(found.header),
            uniform: Cell::new(found.uniform),
            resync: Rc::new(shared),
            unfinished: RefCell::new(Some(receiver)),
        });
        pool.adopt_volumes();
        Ok(pool)
    }

    /// Brings a warm pool up to what is recorded now. Reads two header pages of one leg unless something changed.
    ///
    /// # Errors
    /// [`LoadError`]; `NotWarm` once the pool was started.
    pub async fn refresh(&self, expected: Expected) -> Result<MetadataVersion, LoadError> {
        if self.switch.phase() != Phase::Warm {
            return Err(LoadError::NotWarm);
        }
        self.in_sync.set(expected.in_sync);
        if self.places().any(|place| expected.recorded_good(place) && self.good_leg(place).is_none()) {
            // A leg was taken back since: what is known of its disk is too old, or nothing.
            return Err(LoadError::NotWarm);
        }
        for leg in self.mirrors.iter().flat_map(|mirror| mirror.good_legs()) {
            if !expected.recorded_good(leg.place) {
                leg.drop_for_good();
            }
        }
        let good: Vec<_> = self.mirrors.iter().flat_map(|mirror| mirror.good_legs()).collect();
        if let Some(mirror) = self.mirrors.iter().position(|mirror| mirror.good_legs().next().is_none()) {
            return Err(LoadError::NoGoodLeg(u16::try_from(mirror).unwrap_or(u16::MAX)));
        }
        let known = self.metadata();
        if expected.in_sync == InSync::Yes && store::confirms(&good, &self.read.get(), expected.at_least).await {
            return Ok(known.version);
        }
        let found = store::find(&good, expected.pool, expected.at_least).await?;
        // Mirrors cannot be added while a pool is warm; a pool that grew is loaded anew.
        if found.metadata.mirrors != known.mirrors {
            return Err(MetadataError::Damaged("the pool's mirrors changed since it was loaded; load it again").into());
        }
        self.uniform.set(found.uniform);
        self.read.set(found.header);
        *self.metadata.borrow_mut() = Rc::new(found.metadata);
        self.adopt_volumes();
        Ok(self.metadata().version)
    }

    /// Serves, after the driver fenced every good leg. `fenced` names the legs and the link epoch seen *before* each
    /// was fenced; a leg not named, or whose link changed since, is asked about through [`Overseer::prove_fence`].
    ///
    /// After an unclean death the metadata is first written anew under `generation`, because its last version may
    /// stand on one leg only; after a clean hand-off nothing is written.
    ///
    /// # Errors
    /// [`VolumeError::Fenced`] if the pool was stopped meanwhile, [`VolumeError::Refused`] if a mirror's only disk
    /// cannot be written or flushed: it serves nothing then, its legs are looked after, and it can be started again.
    pub async fn start(&self, generation: u64, fenced: &[FencedLeg]) -> Result<(), VolumeError> {
        if let Some(receiver) = self.unfinished.borrow_mut().take() {
            self.begin_legs(fenced);
            spawn_local(finish(receiver, Rc::clone(&self.switch)));
        }
        if self.in_sync.get() == InSync::No || !self.uniform.get() {
            self.rewrite(generation).await?;
        }
        if self.in_sync.get() == InSync::No {
            // What the owner before left in the disks' caches. Who it was knows which regions those are, and nobody else: one disk that
            // loses power later would show older blocks than were read here, and a flush would be answered without them.
            self.flush().await?;
        }
        self.switch.serve();
        for (index, mirror) in (0u16..).zip(self.mirrors.iter()) {
            spawn_local(resync(index, Rc::clone(mirror), Rc::clone(&self.resync)));
        }
        for place in self.places() {
            let mirror = Rc::clone(&self.mirrors[usize::from(place.mirror)]);
            spawn_local(take_back(place, mirror, self.me.clone()));
        }
        Ok(())
    }

    fn begin_legs(&self, fenced: &[FencedLeg]) {
        for mirror in self.mirrors.iter() {
            for leg in mirror.legs().iter() {
                leg.begin(fenced.iter().find(|fenced| fenced.place == leg.place).map(|fenced| fenced.epoch));
                spawn_local(supervise(Rc::clone(leg), Rc::downgrade(mirror)));
            }
            mirror.set_compared_to(match self.in_sync.get() {
                InSync::No if mirror.good_legs().count() > 1 => 0,
                InSync::Yes | InSync::No => mirror.regions,
            });
        }
    }

    /// Every place of a leg, good or not.
    fn places(&self) -> impl Iterator<Item = LegPlace> + use<> {
        let metadata = self.metadata();
        let legs = (0u16..).zip(&metadata.mirrors).map(|(mirror, of)| (mirror, of.legs.len())).collect::<Vec<_>>();
        legs.into_iter().flat_map(|(mirror, legs)| (0u8..).take(legs).map(move |leg| LegPlace { mirror, leg }))
    }

    fn good_leg(&self, place: LegPlace) -> Option<Rc<Leg>> {
        self.mirrors.get(usize::from(place.mirror))?.good_legs().find(|leg| leg.place == place)
    }

    /// The fence switch: from this call on every medium answers [`understudy_device::medium::MediumError::Fenced`],
    /// commands under way included, and nothing new is sent to a disk. What a disk already has, only the fence stops.
    pub fn stop(&self) {
        self.switch.stop();
    }

    /// The pool's name for life.
    #[must_use]
    pub fn uuid(&self) -> Uuid {
        self.metadata().pool
    }

    /// The metadata in force: on every good leg, or being read by the partner's next owner.
    #[must_use]
    pub fn metadata(&self) -> Rc<Metadata> {
        Rc::clone(&self.metadata.borrow())
    }

    /// Its version.
    #[must_use]
    pub fn metadata_version(&self) -> MetadataVersion {
        self.metadata.borrow().version
    }

    /// Per mirror, the legs that count.
    #[must_use]
    pub fn legs_good(&self) -> Vec<LegSet> {
        let set = |mirror: &Rc<Mirror>| LegSet(mirror.good_legs().fold(0, |set, leg| set | (1 << leg.place.leg)));
        self.mirrors.iter().map(set).collect()
    }

    /// Whether the legs of every mirror are known to be equal, but for what is under way at this moment. After the
    /// device drained its commands this is what a COMMIT may record.
    #[must_use]
    pub fn in_sync(&self) -> bool {
        match self.switch.phase() {
            Phase::Warm => self.in_sync.get() == InSync::Yes,
            Phase::Serving | Phase::Stopped => !self.mirrors.iter().any(|mirror| mirror.may_differ()),
        }
    }

    /// Waits until [`Pool::in_sync`], or until the pool is stopped.
    pub async fn wait_in_sync(&self) {
        loop {
            let equal = self.resync.equal.notified();
            if self.in_sync() || self.switch.is_stopped() {
                return;
            }
            tokio::select! { biased; () = equal => {}, () = self.switch.stopped() => {} }
        }
    }

    /// How far the resync is.
    #[must_use]
    pub fn resync_progress(&self) -> ResyncProgress {
        let of = self.mirrors.iter().map(|mirror| u64::from(mirror.regions)).sum();
        let unequal = |mirror: &Rc<Mirror>| {
            if !mirror.may_differ() {
                return 0;
            }
            u64::from(mirror.regions - mirror.compared_to().min(mirror.regions)) + mirror.listed_differences() as u64
        };
        let different: u64 = self.mirrors.iter().map(unequal).sum();
        ResyncProgress { equal: u64::saturating_sub(of, different), of }
    }

    /// Writes whose outcome nobody knows at this moment: a hard veto of any hand-off while above zero.
    #[must_use]
    pub fn writes_of_unknown_outcome(&self) -> usize {
        self.switch.unknown_writes.get()
    }

    /// Flushes every good leg.
    ///
    /// # Errors
    /// [`VolumeError::Fenced`], [`VolumeError::Refused`].
    pub async fn flush(&self) -> Result<(), VolumeError> {
        let flushes = self.mirrors.iter().map(|mirror| mirror.flush());
        futures_util::future::try_join_all(flushes).await?;
        Ok(())
    }

    /// Every volume, by LUN.
    #[must_use]
    pub fn volumes(&self) -> Vec<VolumeSummary> {
        let mut volumes: Vec<_> = self.metadata().volumes.values().map(VolumeSummary::from).collect();
        volumes.sort_by_key(|volume| volume.lun);
        volumes
    }

    /// The medium of a volume; its commands wait while the pool is warm.
    #[must_use]
    pub fn medium(&self, volume: Uuid) -> Option<Rc<VolumeMedium>> {
        self.volumes.borrow().get(&volume).cloned()
    }

    /// Makes a volume that reads as zeroes; it is on all good legs when this returns.
    ///
    /// # Errors
    /// [`VolumeError`].
    pub async fn create_volume(&self, wish: VolumeWish) -> Result<VolumeSummary, VolumeError> {
        let me = self.me.upgrade().ok_or(VolumeError::Fenced)?;
        detached(async move { me.create_volume_to_the_end(wish).await }).await
    }

    async fn create_volume_to_the_end(&self, wish: VolumeWish) -> Result<VolumeSummary, VolumeError> {
        let _turn = self.provisioning.lock().await;
        let metadata = self.metadata();
        let lun = wish.lun.or_else(|| metadata.free_lun()).ok_or(AllocateError::TooManyVolumes)?;
        let VolumeWish { name, block_bytes, blocks, provisioning, .. } = wish;
        let uuid = crate::initialise::fresh_uuid();
        let new = NewVolume { uuid, name, lun, block_bytes, blocks, provisioning };
        let planned = metadata.plan_volume(new, &self.allotting.chosen())?;
        // Nobody else gets these chunks while they are made blank, which takes as long as the volume is large.
        let _chosen = self.allotting.choose(&planned.runs);
        metadata.with_planned(planned.clone())?.encode(self.slot_bytes)?;
        self.clear(&planned.runs).await?;
        self.flush().await?;
        let metadata = self.commit(move |metadata| metadata.with_planned(planned.clone())).await?;
        self.adopt_volumes();
        Ok((&metadata.volumes[&uuid]).into())
    }

    /// Protects a volume against writes, or lets clients write to it again. What the unit in front of it does meanwhile is its owner's.
    ///
    /// # Errors
    /// [`VolumeError`].
    pub async fn protect_volume(&self, volume: Uuid, protection: Protection) -> Result<(), VolumeError> {
        self.commit(move |metadata| metadata.with_protection(volume, protection)).await.map(drop)
    }

    /// Deletes a volume: refuses its commands, waits for those under way, then forgets it.
    ///
    /// # Errors
    /// [`VolumeError`]; after `Fenced` the next owner may find it still there.
    pub async fn delete_volume(&self, volume: Uuid) -> Result<(), VolumeError> {
        let me = self.me.upgrade().ok_or(VolumeError::Fenced)?;
        detached(async move { me.delete_volume_to_the_end(volume).await }).await
    }

    async fn delete_volume_to_the_end(&self, volume: Uuid) -> Result<(), VolumeError> {
        let _turn = self.provisioning.lock().await;
        let medium = self.medium(volume).ok_or(AllocateError::NoSuchVolume(volume))?;
        medium.delete().await;
        if let Err(error) = self.commit(move |metadata| metadata.without_volume(volume)).await {
            medium.undelete();
            return Err(error);
        }
        self.adopt_volumes();
        Ok(())
    }

    fn medium_of(&self, volume: &Volume) -> VolumeMedium {
        let chunk_bytes = self.metadata.borrow().chunk_bytes;
        VolumeMedium::new(volume, chunk_bytes, Rc::clone(&self.mirrors), Rc::clone(&self.switch), self.me.clone())
    }

    /// Brings one medium in line with the metadata.
    pub(crate) fn adopt_map(&self, uuid: Uuid) {
        let metadata = self.metadata();
        if let (Some(volume), Some(medium)) = (metadata.volumes.get(&uuid), self.medium(uuid)) {
            medium.adopt(volume);
        }
    }

    /// Brings the media in line with the metadata; those of volumes that are still there stay the same objects.
    pub(crate) fn adopt_volumes(&self) {
        let metadata = self.metadata();
        let mut volumes = self.volumes.borrow_mut();
        volumes.retain(|uuid, medium| metadata.volumes.get(uuid).is_some_and(|volume| medium.adopt(volume)));
        for (uuid, volume) in &metadata.volumes {
            volumes.entry(*uuid).or_insert_with(|| Rc::new(self.medium_of(volume)));
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.switch.stop();
    }
}

/// Runs to its end even if the caller goes away.
pub(crate) async fn detached<T: 'static>(
    work: impl Future<Output = Result<T, VolumeError>> + 'static,
) -> Result<T, VolumeError> {
    // The task ends without a result only when the runtime goes down, and then nobody is answered any more.
    spawn_local(work).await.unwrap_or(Err(VolumeError::Fenced))
}

/// Carries through what callers left unfinished; ends with the pool.
async fn finish(mut left: mpsc::UnboundedReceiver<LocalBoxFuture<'static, ()>>, switch: Rc<Switch>) {
    let mut under_way = FuturesUnordered::new();
    // BOUND: at most as many as there were commands; each ends with its legs' outcomes.
    while !(switch.is_stopped() && under_way.is_empty()) {
        tokio::select! {
            biased;
            work = left.recv() => match work {
                Some(work) => under_way.push(work),
                None if under_way.is_empty() => return,
                None => drop(under_way.next().await),
            },
            Some(()) = under_way.next() => {}
            () = switch.stopped(), if !switch.is_stopped() => {}
        }
    }
}

fn place_of(found: &PoolDisk) -> Option<(Uuid, LegPlace)> {
    match &found.label.role {
        Role::PoolLeg { pool, mirror, leg, .. } => Some((*pool, LegPlace { mirror: *mirror, leg: *leg })),
        Role::Lock { .. } => None,
    }
}

/// Every leg recorded good is there, is the disk the metadata names, and is large enough.
fn check_places(
    metadata: &Metadata,
    expected: &Expected,
    legs: &[Rc<Leg>],
    uuids: &BTreeMap<Option<(Uuid, LegPlace)>, Uuid>,
) -> Result<(), LoadError> {
    for (index, mirror) in (0u16..).zip(&metadata.mirrors) {
        let mut good = 0;
        for (leg, disk) in (0u8..).zip(&mirror.legs) {
            let place = LegPlace { mirror: index, leg };
            if !expected.recorded_good(place) {
                continue;
            }
            good += 1;
            let found = legs.iter().find(|leg| leg.place == place).ok_or(LoadError::LegMissing(place))?;
            if uuids.get(&Some((expected.pool, place))) != Some(disk) {
                return Err(LoadError::Misplaced(place));
            }
            if !fits(&found.areas, data_bytes(metadata, usize::from(index))) {
                return Err(LoadError::TooSmall(place));
            }
        }
        if good == 0 {
            return Err(LoadError::NoGoodLeg(index));
        }
    }
    let placed = |leg: &&Rc<Leg>| {
        metadata
            .mirrors
            .get(usize::from(leg.place.mirror))
            .is_some_and(|mirror| usize::from(leg.place.leg) < mirror.legs.len())
    };
    match legs.iter().find(|leg| leg.is_good() && !placed(leg)) {
        Some(stray) => Err(LoadError::Misplaced(stray.place)),
        None => Ok(()),
    }
}
