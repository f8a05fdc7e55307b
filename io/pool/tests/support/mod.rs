//! A pool on disks in memory, and an overseer whose answers a test decides.
#![allow(dead_code, reason = "every test file uses another part of it")]

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::LocalBoxFuture;
use tokio::sync::Notify;
use tokio::task::LocalSet;
use understudy_device::medium::{Durability, Medium as _};
use understudy_disk::disk::{Disk, Link};
use understudy_layout::label::Role;
use understudy_layout::metadata::DEFAULT_CHUNK_BYTES;
use understudy_layout::{MetadataVersion, Uuid};
use understudy_pool::testing::MemoryDisk;
use understudy_pool::{
    Existing, Expected, FencedLeg, InSync, LegPlace, LegSet, LoadError, Overseer, Pool, PoolDisk, PoolOptions,
    PoolPlan, Proof, Provisioning, Reason, ReturnNews, VolumeMedium, VolumeWish, discover, initialise_pool,
};

pub const MIB: u64 = 1 << 20;

/// Runs a test on paused time: sleeps cost nothing and order is deterministic.
pub fn run<T>(test: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    let runtime = runtime.expect("a runtime can be built");
    LocalSet::new().block_on(&runtime, test)
}

/// What a [`Watcher`] answers.
#[derive(Clone, Copy)]
pub enum Answer {
    /// Held, in the link's present epoch.
    Held,
    /// Held, in the epoch before.
    HeldBefore,
    Lost,
    Unknown,
}

/// Answers as the test says and remembers what it was asked.
pub struct Watcher {
    pub proof: Cell<Answer>,
    pub asked: RefCell<Vec<(LegPlace, Reason)>>,
    pub dropped: RefCell<Vec<LegPlace>>,
    pub fenced: RefCell<Vec<LegPlace>>,
    /// Whether a drop can be recorded; a closed gate makes `drop_leg` wait.
    pub gate_open: Cell<bool>,
    pub gate: Notify,
    pub drops_asked: Cell<usize>,
    /// The disks of the pool, by place.
    pub disks: RefCell<Vec<Rc<dyn Disk>>>,
    /// Whether dropped legs may be fenced, and so taken back.
    pub takes_back: Cell<bool>,
    /// Legs told to have everything, as often as it was told.
    pub resynced: RefCell<Vec<LegPlace>>,
    pub news: RefCell<Vec<ReturnNews>>,
    /// Called when a leg is told to have everything.
    pub on_resynced: RefCell<Option<Box<dyn Fn()>>>,
    /// What the lock disks say.
    pub owner: Cell<bool>,
}

impl Watcher {
    pub fn new() -> Rc<Self> {
        Rc::new(Self {
            proof: Cell::new(Answer::Held),
            asked: RefCell::default(),
            dropped: RefCell::default(),
            fenced: RefCell::default(),
            gate_open: Cell::new(true),
            gate: Notify::new(),
            drops_asked: Cell::new(0),
            disks: RefCell::default(),
            takes_back: Cell::new(false),
            resynced: RefCell::default(),
            news: RefCell::default(),
            on_resynced: RefCell::default(),
            owner: Cell::new(true),
        })
    }

    pub fn open_gate(&self) {
        self.gate_open.set(true);
        self.gate.notify_waiters();
    }
}

impl Overseer for Watcher {
    fn prove_fence<'a>(&'a self, place: LegPlace, disk: &'a dyn Disk, reason: Reason) -> LocalBoxFuture<'a, Proof> {
        self.asked.borrow_mut().push((place, reason));
        let answer = match (self.proof.get(), disk.link()) {
            (Answer::Held, Link::Connected { epoch }) => Proof::Held { epoch },
            (Answer::HeldBefore, Link::Connected { epoch }) => Proof::Held { epoch: epoch - 1 },
            (Answer::Lost, _) => Proof::Lost,
            (Answer::Unknown, _) | (_, Link::Down) => Proof::Unknown,
        };
        Box::pin(std::future::ready(answer))
    }

    fn drop_leg(&self, place: LegPlace) -> LocalBoxFuture<'_, bool> {
        self.drops_asked.set(self.drops_asked.get() + 1);
        Box::pin(async move {
            while !self.gate_open.get() {
                self.gate.notified().await;
            }
            self.dropped.borrow_mut().push(place);
            true
        })
    }

    fn disk_of(&self, place: LegPlace) -> Option<Rc<dyn Disk>> {
        let at = usize::from(place.mirror) * 2 + usize::from(place.leg);
        self.disks.borrow().get(at).cloned()
    }

    fn fence_leg<'a>(&'a self, _: LegPlace, disk: &'a dyn Disk) -> LocalBoxFuture<'a, Proof> {
        let proof = match disk.link() {
            Link::Connected { epoch } if self.takes_back.get() => Proof::Held { epoch },
            Link::Connected { .. } | Link::Down => Proof::Unknown,
        };
        Box::pin(std::future::ready(proof))
    }

    fn leg_resynced(&self, place: LegPlace) {
        self.resynced.borrow_mut().push(place);
        if let Some(then) = &*self.on_resynced.borrow() {
            then();
        }
    }

    fn tell(&self, _: LegPlace, news: ReturnNews) {
        self.news.borrow_mut().push(news);
    }

    fn is_still_owner(&self) -> LocalBoxFuture<'_, bool> {
        Box::pin(std::future::ready(self.owner.get()))
    }

    fn fenced(&self, place: LegPlace) {
        self.fenced.borrow_mut().push(place);
    }
}

/// A shelf of disks, the pool on them, and how to load it again.
pub struct Bench {
    pub disks: Vec<Rc<MemoryDisk>>,
    pub watcher: Rc<Watcher>,
    pub pool_uuid: Uuid,
}

impl Bench {
    /// A pool of two-way mirrors on blank disks of 16 MiB.
    pub async fn new(block_bytes: u32, mirrors: usize) -> Self {
        let disks: Vec<_> =
            (0..mirrors * 2).map(|at| MemoryDisk::new(&format!("disk{at}"), block_bytes, 16 * MIB)).collect();
        let legs = disks.chunks(2).map(|legs| legs.iter().map(|leg| Rc::clone(leg) as Rc<dyn Disk>).collect());
        let plan = PoolPlan {
            number: 1,
            pair: 7,
            home: 0,
            name: "blue".into(),
            chunk_bytes: DEFAULT_CHUNK_BYTES,
            mirrors: legs.collect(),
        };
        let metadata = initialise_pool(plan, Existing::Refuse).await.expect("blank disks");
        let watcher = Watcher::new();
        *watcher.disks.borrow_mut() = disks.iter().map(|disk| Rc::clone(disk) as Rc<dyn Disk>).collect();
        Self { disks, watcher, pool_uuid: metadata.pool }
    }

    pub async fn pool_disks(&self) -> Vec<PoolDisk> {
        let disks = self.disks.iter().map(|disk| Rc::clone(disk) as Rc<dyn Disk>).collect();
        discover(disks, 4, |_| {}).await.pool_disks(self.pool_uuid)
    }

    pub fn expected(&self, in_sync: InSync) -> Expected {
        Expected { pool: self.pool_uuid, at_least: MetadataVersion(1), legs_good: Vec::new(), in_sync }
    }

    pub async fn load(&self, expected: Expected) -> Result<Rc<Pool>, LoadError> {
        let options = PoolOptions {
            leg_timeout: Duration::from_secs(5),
            retry_delay: Duration::from_millis(10),
            return_pause: Duration::from_secs(1),
        };
        let watcher = Rc::clone(&self.watcher) as Rc<dyn Overseer>;
        Pool::load(self.pool_disks().await, expected, watcher, options).await
    }

    /// Every leg as fenced in the epoch its disk is in.
    pub fn fenced(&self) -> Vec<FencedLeg> {
        let fenced = |(at, disk): (usize, &Rc<MemoryDisk>)| {
            let place = LegPlace { mirror: u16::try_from(at / 2).expect("few"), leg: u8::from(at % 2 == 1) };
            match disk.link() {
                Link::Connected { epoch } => Some(FencedLeg { place, epoch }),
                Link::Down => None,
            }
        };
        self.disks.iter().enumerate().filter_map(fenced).collect()
    }

    /// A pool that serves.
    pub async fn serve(&self, in_sync: InSync) -> Rc<Pool> {
        let pool = self.load(self.expected(in_sync)).await.expect("loads");
        pool.start(2, &self.fenced()).await.expect("starts");
        pool
    }

    /// The bytes of all chunks of one disk.
    pub async fn data(&self, disk: usize) -> Vec<u8> {
        let found = self.pool_disks().await;
        let Role::PoolLeg { areas, .. } = &found[disk].label.role else { panic!("not a pool disk") };
        let start = usize::try_from(areas.data_offset).expect("small");
        let length = usize::try_from(areas.data_bytes / MIB * MIB).expect("small");
        self.disks[disk].image()[start..start + length].to_vec()
    }

    pub async fn data_offset(&self) -> usize {
        let found = self.pool_disks().await;
        let Role::PoolLeg { areas, .. } = &found[0].label.role else { panic!("not a pool disk") };
        usize::try_from(areas.data_offset).expect("small")
    }

    pub async fn assert_legs_equal(&self) {
        for mirror in 0..self.disks.len() / 2 {
            let (first, second) = (self.data(mirror * 2).await, self.data(mirror * 2 + 1).await);
            let differ = first.iter().zip(&second).position(|(a, b)| a != b);
            assert_eq!(differ, None, "legs of mirror {mirror} differ");
        }
    }
}

/// A volume of this many MiB.
pub async fn volume(pool: &Rc<Pool>, name: &str, mib: u64, block_bytes: u32) -> Rc<VolumeMedium> {
    make(pool, name, mib, block_bytes, Provisioning::Thick).await
}

/// A thin volume of this many MiB.
pub async fn thin(pool: &Rc<Pool>, name: &str, mib: u64, block_bytes: u32) -> Rc<VolumeMedium> {
    make(pool, name, mib, block_bytes, Provisioning::Thin).await
}

async fn make(pool: &Rc<Pool>, name: &str, mib: u64, block_bytes: u32, provisioning: Provisioning) -> Rc<VolumeMedium> {
    let blocks = mib * MIB / u64::from(block_bytes);
    let wish = VolumeWish { name: name.into(), lun: None, block_bytes, blocks, provisioning };
    let made = pool.create_volume(wish).await.expect("fits");
    pool.medium(made.uuid).expect("just made")
}

pub fn block_of(volume: &VolumeMedium, value: u8) -> Bytes {
    Bytes::from(vec![value; volume.geometry().block_bytes as usize])
}

pub async fn write(volume: &VolumeMedium, lba: u64, value: u8) {
    volume.write(lba, block_of(volume, value), Durability::Cached).await.expect("written");
}

/// The value every byte of a block has.
pub async fn read(volume: &VolumeMedium, lba: u64) -> u8 {
    let bytes = volume.read(lba, 1).await.expect("read");
    assert!(bytes.iter().all(|&byte| byte == bytes[0]), "block {lba} is mixed");
    bytes[0]
}

/// Lets everything that can run without time passing run.
pub async fn settle() {
    for _ in 0..50 {
        tokio::task::yield_now().await;
    }
}

pub fn only_first_leg() -> Vec<LegSet> {
    vec![LegSet(1)]
}
