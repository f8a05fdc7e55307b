//! A disk in memory that goes wrong on request, and names that follow from a seed: for tests only, behind the feature `testing`.
//!
//! Fault model: every command takes a random (seeded) time; a write lands in two halves with a pause between, so that
//! overlapping writes that are not kept apart show; a link can be cut with commands under way, whose outcome is then
//! random; a disk can lose what was written without FUA or flush; power can be cut after a number of blocks, in the
//! middle of a write; reads and writes of chosen blocks can fail; everything can conflict; errors can be queued.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeSet, VecDeque};
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::future::LocalBoxFuture;
use tokio::sync::Notify;
use tokio::time::sleep;
use understudy_disk::disk::{Disk, DiskError, DiskIdentity, Durability, Extent, Geometry, Link};
use understudy_disk::reservation::Reservations;
use understudy_layout::Uuid;

/// Sense key MEDIUM ERROR with UNRECOVERED READ ERROR.
const BAD_READ: DiskError = DiskError::CheckCondition { key: 3, asc: 0x1100 };
/// Sense key MEDIUM ERROR with WRITE ERROR.
const BAD_WRITE: DiskError = DiskError::CheckCondition { key: 3, asc: 0x0c00 };

thread_local! {
    static NEXT_UUID: Cell<Option<u64>> = const { Cell::new(None) };
}

/// From now on pools, disks and volumes made on this thread get names that follow from `seed`.
pub fn name_from(seed: u64) {
    NEXT_UUID.set(Some(seed));
}

pub(crate) fn given_uuid() -> Option<Uuid> {
    let number = NEXT_UUID.get()?;
    NEXT_UUID.set(Some(number.wrapping_add(1)));
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&number.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
    bytes[8..].copy_from_slice(&number.to_be_bytes());
    Some(Uuid::from_random(bytes))
}

/// A disk in memory.
pub struct MemoryDisk {
    name: String,
    geometry: Geometry,
    live: RefCell<Vec<u8>>,
    durable: RefCell<Vec<u8>>,
    link: Cell<Link>,
    epoch: Cell<u64>,
    powered_on_in: Cell<u64>,
    link_changed: Notify,
    random: Cell<u64>,
    /// Longest time a step of a command takes, microseconds; 0: none.
    jitter_us: Cell<u64>,
    conflicts: Cell<bool>,
    hangs: Cell<bool>,
    bad_reads: RefCell<BTreeSet<u64>>,
    bad_writes: RefCell<BTreeSet<u64>>,
    write_errors: RefCell<VecDeque<DiskError>>,
    blocks_until_power_cut: Cell<Option<u64>>,
    /// How many blocks further the next write lands.
    strays_by: Cell<u64>,
    reads: Cell<u64>,
    questions: Cell<u64>,
    writes: Cell<u64>,
}

impl MemoryDisk {
    /// A blank disk, connected, with commands that take no time.
    #[must_use]
    pub fn new(name: &str, block_bytes: u32, bytes: u64) -> Rc<Self> {
        Self::from_image(name, block_bytes, vec![0; usize::try_from(bytes).expect("a test's disk fits memory")])
    }

    /// A disk with these bytes.
    #[must_use]
    pub fn from_image(name: &str, block_bytes: u32, image: Vec<u8>) -> Rc<Self> {
        let geometry = Geometry { block_bytes, blocks: image.len() as u64 / u64::from(block_bytes) };
        Rc::new(Self {
            name: name.to_owned(),
            geometry,
            durable: RefCell::new(image.clone()),
            live: RefCell::new(image),
            link: Cell::new(Link::Connected { epoch: 1 }),
            epoch: Cell::new(1),
            powered_on_in: Cell::new(1),
            link_changed: Notify::new(),
            random: Cell::new(0x9e37_79b9_7f4a_7c15),
            jitter_us: Cell::new(0),
            conflicts: Cell::new(false),
            hangs: Cell::new(false),
            bad_reads: RefCell::default(),
            bad_writes: RefCell::default(),
            write_errors: RefCell::default(),
            blocks_until_power_cut: Cell::new(None),
            strays_by: Cell::new(0),
            reads: Cell::new(0),
            questions: Cell::new(0),
            writes: Cell::new(0),
        })
    }

    /// Makes every step of a command take up to this long, in an order given by the seed.
    pub fn set_jitter(&self, seed: u64, longest: Duration) {
        self.random.set(seed | 1);
        self.jitter_us.set(u64::try_from(longest.as_micros()).unwrap_or(u64::MAX));
    }

    /// Everything on the disk, caches included.
    #[must_use]
    pub fn image(&self) -> Vec<u8> {
        self.live.borrow().clone()
    }

    /// Overwrites bytes behind everybody's back.
    pub fn scribble(&self, offset: usize, bytes: &[u8]) {
        self.live.borrow_mut()[offset..offset + bytes.len()].copy_from_slice(bytes);
        self.durable.borrow_mut()[offset..offset + bytes.len()].copy_from_slice(bytes);
    }

    /// Commands under way end with an unknown outcome, new ones with "unreachable".
    pub fn cut_link(&self) {
        self.change_link(Link::Down);
    }

    /// The disk is logged in again, in a new epoch.
    pub fn restore_link(&self) {
        self.epoch.set(self.epoch.get() + 1);
        self.change_link(Link::Connected { epoch: self.epoch.get() });
    }

    /// The disk lost power and is back: what was not flushed is gone, the epoch is new.
    pub fn lose_cache(&self) {
        let durable = self.durable.borrow().clone();
        *self.live.borrow_mut() = durable;
        self.powered_on_in.set(self.epoch.get() + 1);
        self.restore_link();
    }

    /// From now on reads and writes conflict, or not any more.
    pub fn set_conflict(&self, conflicts: bool) {
        self.conflicts.set(conflicts);
    }

    /// From now on commands are not answered until the link is cut, or are again.
    pub fn set_hang(&self, hangs: bool) {
        self.hangs.set(hangs);
        self.link_changed.notify_waiters();
    }

    /// Reads of this block fail from now on.
    pub fn break_read(&self, lba: u64) {
        self.bad_reads.borrow_mut().insert(lba);
    }

    /// Writes of this block fail from now on.
    pub fn break_write(&self, lba: u64) {
        self.bad_writes.borrow_mut().insert(lba);
    }

    /// Writes of every block fail from now on.
    pub fn break_all_writes(&self) {
        self.bad_writes.borrow_mut().extend(0..self.geometry.blocks);
    }

    /// Every block can be read and written again.
    pub fn mend(&self) {
        self.bad_reads.borrow_mut().clear();
        self.bad_writes.borrow_mut().clear();
    }

    /// The next write is answered with this, without being carried out.
    pub fn fail_next_write(&self, error: DiskError) {
        self.write_errors.borrow_mut().push_back(error);
    }

    /// The next write is acknowledged as usual, and what it wrote is `blocks` further.
    pub fn put_next_write_elsewhere(&self, blocks: u64) {
        self.strays_by.set(blocks);
    }

    /// Power goes after this many more blocks were written, whatever command they belong to; then nothing answers.
    pub fn cut_power_after(&self, blocks: u64) {
        self.blocks_until_power_cut.set(Some(blocks));
    }

    /// Reads carried out so far.
    #[must_use]
    pub fn reads(&self) -> u64 {
        self.reads.get()
    }

    /// How often it was asked whether it carries out reads, so far.
    #[must_use]
    pub fn questions(&self) -> u64 {
        self.questions.get()
    }

    /// Writes carried out so far.
    #[must_use]
    pub fn writes(&self) -> u64 {
        self.writes.get()
    }

    fn change_link(&self, link: Link) {
        self.link.set(link);
        self.link_changed.notify_waiters();
    }

    /// xorshift64.
    fn draw(&self, below: u64) -> u64 {
        let mut x = self.random.get();
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        self.random.set(x);
        x % below
    }

    async fn take_time(&self) {
        if self.jitter_us.get() > 0 {
            sleep(Duration::from_micros(self.draw(self.jitter_us.get()))).await;
        }
        loop {
            let changed = self.link_changed.notified();
            if !self.hangs.get() || self.link.get() == Link::Down {
                return;
            }
            changed.await;
        }
    }

    fn check(&self) -> Result<u64, DiskError> {
        let Link::Connected { epoch } = self.link.get() else {
            return Err(DiskError::Unreachable("link is down".into()));
        };
        if self.conflicts.get() { Err(DiskError::Conflict) } else { Ok(epoch) }
    }

    fn still(&self, epoch: u64) -> Result<(), DiskError> {
        let same = self.link.get() == (Link::Connected { epoch });
        if same { Ok(()) } else { Err(DiskError::OutcomeUnknown("the link went down".into())) }
    }

    fn bytes_of(&self, extent: Extent) -> std::ops::Range<usize> {
        let block = self.geometry.block_bytes as usize;
        let start = usize::try_from(extent.lba()).expect("on the disk") * block;
        start..start + extent.blocks() as usize * block
    }

    /// Lands blocks one by one, until power goes.
    fn land(&self, at: usize, bytes: &[u8], durability: Durability) -> Result<(), DiskError> {
        let block = self.geometry.block_bytes as usize;
        for (index, piece) in bytes.chunks(block).enumerate() {
            if let Some(left) = self.blocks_until_power_cut.get() {
                if left == 0 {
                    self.change_link(Link::Down);
                    return Err(DiskError::OutcomeUnknown("power went".into()));
                }
                self.blocks_until_power_cut.set(Some(left - 1));
            }
            let at = at + index * block;
            self.live.borrow_mut()[at..at + piece.len()].copy_from_slice(piece);
            if durability == Durability::ForceUnitAccess {
                self.durable.borrow_mut()[at..at + piece.len()].copy_from_slice(piece);
            }
        }
        Ok(())
    }

    async fn carry_out_write(&self, extent: Extent, bytes: Bytes, durability: Durability) -> Result<(), DiskError> {
        let epoch = self.check()?;
        let range = self.bytes_of(extent);
        assert_eq!(range.len(), bytes.len(), "a write has exactly its extent's length");
        if let Some(error) = self.write_errors.borrow_mut().pop_front() {
            return Err(error);
        }
        self.take_time().await;
        let lbas = extent.lba()..extent.lba() + u64::from(extent.blocks());
        if self.bad_writes.borrow().range(lbas).next().is_some() {
            return Err(BAD_WRITE);
        }
        // Cut off before, between or after the halves: the outcome is unknown whatever happened.
        if self.still(epoch).is_err() && self.draw(2) == 0 {
            return self.still(epoch);
        }
        let block = self.geometry.block_bytes as usize;
        let middle = bytes.len() / block / 2 * block;
        let start = range.start + usize::try_from(self.strays_by.take()).expect("on the disk") * block;
        self.land(start, &bytes[..middle], durability)?;
        self.take_time().await;
        if self.still(epoch).is_err() && self.draw(2) == 0 {
            return self.still(epoch);
        }
        self.land(start + middle, &bytes[middle..], durability)?;
        self.writes.set(self.writes.get() + 1);
        self.still(epoch)
    }
}

impl Disk for MemoryDisk {
    fn name(&self) -> &str {
        &self.name
    }

    fn geometry(&self) -> Result<Geometry, DiskError> {
        Ok(self.geometry)
    }

    fn identify(&self) -> LocalBoxFuture<'_, Result<DiskIdentity, DiskError>> {
        let identity = DiskIdentity { product: "memory".into(), serial: self.name.clone(), designator: String::new() };
        let reachable = self.link.get() != Link::Down;
        let unreachable = || DiskError::Unreachable("link is down".into());
        futures_util::future::ready(reachable.then_some(identity).ok_or_else(unreachable)).boxed_local()
    }

    fn probe(&self) -> LocalBoxFuture<'_, Result<Geometry, DiskError>> {
        async move {
            self.check()?;
            self.take_time().await;
            Ok(self.geometry)
        }
        .boxed_local()
    }

    fn admits_reads(&self) -> LocalBoxFuture<'_, Result<(), DiskError>> {
        async move {
            self.questions.set(self.questions.get() + 1);
            let epoch = self.check()?;
            self.take_time().await;
            self.still(epoch)
        }
        .boxed_local()
    }

    fn read(&self, extent: Extent) -> LocalBoxFuture<'_, Result<Bytes, DiskError>> {
        async move {
            let epoch = self.check()?;
            self.take_time().await;
            self.still(epoch)?;
            let lbas = extent.lba()..extent.lba() + u64::from(extent.blocks());
            if self.bad_reads.borrow().range(lbas).next().is_some() {
                return Err(BAD_READ);
            }
            self.reads.set(self.reads.get() + 1);
            let bytes = Bytes::copy_from_slice(&self.live.borrow()[self.bytes_of(extent)]);
            self.take_time().await;
            self.still(epoch).map(|()| bytes)
        }
        .boxed_local()
    }

    fn write(&self, extent: Extent, bytes: Bytes, durability: Durability) -> LocalBoxFuture<'_, Result<(), DiskError>> {
        self.carry_out_write(extent, bytes, durability).boxed_local()
    }

    fn flush(&self) -> LocalBoxFuture<'_, Result<(), DiskError>> {
        async move {
            let epoch = self.check()?;
            self.take_time().await;
            self.still(epoch)?;
            self.durable.borrow_mut().copy_from_slice(&self.live.borrow());
            Ok(())
        }
        .boxed_local()
    }

    fn link(&self) -> Link {
        self.link.get()
    }

    fn link_changed(&self, seen: Link) -> LocalBoxFuture<'_, Link> {
        async move {
            loop {
                let changed = self.link_changed.notified();
                if self.link.get() != seen {
                    return self.link.get();
                }
                changed.await;
            }
        }
        .boxed_local()
    }

    fn powered_on_in(&self) -> u64 {
        self.powered_on_in.get()
    }

    fn reservations(&self) -> Option<&dyn Reservations> {
        None
    }
}
