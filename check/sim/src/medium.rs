//! The medium of a simulated disk: blocks, a volatile cache, and everything that goes wrong with them.
//!
//! A write lands in two halves with time between them. What was written without force is only in the cache until a flush; a loss
//! of power takes each such block or leaves it, one by one. A write under way when power is lost ends after any of its blocks, and where the
//! product claims to notice it (`guarded`: records of the lock disks, pool metadata) the last of them may be half new and half
//! old; elsewhere a block is written whole or not at all, as disks promise. Corruption is put there by whoever runs the faults, in
//! the same places only.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::rc::Rc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::future::LocalBoxFuture;
use tokio::time::sleep;
use understudy_device::medium::{Durability, Geometry, Medium, MediumError};

use crate::chance::Chance;

/// How a medium behaves now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Temper {
    /// Longest time of one step of a command, milliseconds.
    pub slow_ms: u64,
    /// One in so many reads fails; 0: none.
    pub bad_reads: u64,
    /// One in so many writes fails, perhaps after half of it; 0: none.
    pub bad_writes: u64,
}

impl Temper {
    /// A good medium.
    pub const GOOD: Self = Self { slow_ms: 0, bad_reads: 0, bad_writes: 0 };
}

/// A medium; what is on it outlives the shelf's process.
pub struct SimMedium {
    geometry: Geometry,
    chance: Chance,
    blocks: RefCell<BTreeMap<u64, Bytes>>,
    /// What power loss would bring back, for every block in the cache.
    cached: RefCell<BTreeMap<u64, Option<Bytes>>>,
    kept: RefCell<Option<Vec<u8>>>,
    temper: Cell<Temper>,
    /// The next write that begins in here lands so many blocks further.
    misdirect: Cell<Option<(u64, u64, u64)>>,
    unreadable: RefCell<BTreeSet<u64>>,
    /// Writes that have begun, by number: what power loss interrupts.
    under_way: RefCell<BTreeMap<u64, (u64, Bytes)>>,
    last_write: Cell<u64>,
    /// Blocks whose content says whether it is whole.
    guarded: Range<u64>,
}

impl SimMedium {
    /// A blank medium; within `guarded` a block may be torn.
    #[must_use]
    pub fn new(block_bytes: u32, bytes: u64, guarded: Range<u64>, chance: Chance) -> Rc<Self> {
        Rc::new(Self {
            geometry: Geometry { block_bytes, blocks: bytes / u64::from(block_bytes) },
            chance,
            blocks: RefCell::default(),
            cached: RefCell::default(),
            kept: RefCell::default(),
            temper: Cell::new(Temper::GOOD),
            misdirect: Cell::new(None),
            unreadable: RefCell::default(),
            under_way: RefCell::default(),
            last_write: Cell::new(0),
            guarded,
        })
    }

    /// From now on it behaves so.
    pub fn set_temper(&self, temper: Temper) {
        self.temper.set(temper);
    }

    /// The state its logical unit kept last.
    #[must_use]
    pub fn kept(&self) -> Option<Vec<u8>> {
        self.kept.borrow().clone()
    }

    /// Its process is gone, and what it had begun to write is not going to be.
    pub fn abandon(&self) {
        self.under_way.take();
    }

    /// Power is lost: of what is in the cache and of what was being written, some blocks are on the medium and some are not.
    pub fn lose_power(&self) {
        for (lba, bytes) in self.under_way.take().into_values() {
            self.interrupt(lba, &bytes);
        }
        for (lba, before) in self.cached.take() {
            if self.chance.one_in(2) {
                self.put(lba, before);
            }
        }
    }

    /// A write ends after some of its blocks, the last of them perhaps torn.
    fn interrupt(&self, lba: u64, bytes: &Bytes) {
        let step = self.geometry.block_bytes as usize;
        let whole = self.chance.below((bytes.len() / step) as u64 + 1) as usize;
        self.store(lba, &bytes.slice(..whole * step), Durability::ForceUnitAccess);
        let torn = lba + whole as u64;
        if whole * step < bytes.len() && self.guarded.contains(&torn) && self.chance.one_in(2) {
            let at = self.chance.below(step as u64) as usize;
            let mut block = BytesMut::from(&self.block(torn)[..]);
            block[..at].copy_from_slice(&bytes[whole * step..whole * step + at]);
            self.put(torn, Some(block.freeze()));
        }
    }

    fn put(&self, lba: u64, content: Option<Bytes>) {
        let mut blocks = self.blocks.borrow_mut();
        match content {
            Some(content) => blocks.insert(lba, content),
            None => blocks.remove(&lba),
        };
    }

    /// Flips bits of a block that holds something; whether it does.
    pub fn corrupt(&self, lba: u64) -> bool {
        let Some(block) = self.blocks.borrow().get(&lba).cloned() else { return false };
        let mut block = BytesMut::from(&block[..]);
        let at = self.chance.below(64.min(block.len() as u64)) as usize;
        block[at] ^= 1 << self.chance.below(8);
        self.put(lba, Some(block.freeze()));
        true
    }

    /// The next write that begins in `span` (first block and number) lands `by` blocks further.
    pub fn misdirect_next(&self, (first, blocks): (u64, u64), by: u64) {
        self.misdirect.set(Some((first, blocks, by)));
    }

    /// A block that fails to be read until it is written again.
    pub fn make_unreadable(&self, lba: u64) {
        self.unreadable.borrow_mut().insert(lba);
    }

    /// Everything that was put wrong on purpose ends; what is on the medium stays.
    pub fn heal(&self) {
        self.temper.set(Temper::GOOD);
        self.misdirect.set(None);
        self.unreadable.take();
    }

    /// The first bytes from a block on, as they are.
    #[must_use]
    pub fn head(&self, lba: u64, length: usize) -> Vec<u8> {
        let block_bytes = self.geometry.block_bytes as usize;
        let mut bytes = vec![0; length.next_multiple_of(block_bytes)];
        for (place, content) in self.blocks.borrow().range(lba..lba + (bytes.len() / block_bytes) as u64) {
            let at = (place - lba) as usize * block_bytes;
            bytes[at..at + block_bytes].copy_from_slice(content);
        }
        bytes
    }

    /// One block as it is.
    #[must_use]
    pub fn block(&self, lba: u64) -> Bytes {
        let zero = || Bytes::from(vec![0; self.geometry.block_bytes as usize]);
        self.blocks.borrow().get(&lba).cloned().unwrap_or_else(zero)
    }

    async fn take_time(&self) {
        let slow = self.temper.get().slow_ms;
        // A good medium answers most commands at once.
        let most = if slow > 0 { slow } else { u64::from(self.chance.one_in(8)) * 2 };
        let millis = self.chance.below(most + 1);
        if millis > 0 {
            sleep(Duration::from_millis(millis)).await;
        }
    }

    fn fails(&self, one_in: u64) -> bool {
        one_in > 0 && self.chance.one_in(one_in)
    }

    fn store(&self, lba: u64, bytes: &Bytes, durability: Durability) {
        let step = self.geometry.block_bytes as usize;
        for (place, start) in (lba..).zip((0..bytes.len()).step_by(step)) {
            let before = self.blocks.borrow_mut().insert(place, bytes.slice(start..start + step));
            self.unreadable.borrow_mut().remove(&place);
            match durability {
                Durability::Cached => {
                    self.cached.borrow_mut().entry(place).or_insert(before);
                }
                Durability::ForceUnitAccess => {
                    self.cached.borrow_mut().remove(&place);
                }
            }
        }
    }

    fn place_of(&self, lba: u64) -> u64 {
        match self.misdirect.get() {
            Some((first, blocks, by)) if (first..first + blocks).contains(&lba) => {
                self.misdirect.set(None);
                lba + by
            }
            Some(_) | None => lba,
        }
    }

    async fn write_all(&self, lba: u64, bytes: Bytes, durability: Durability) -> Result<(), MediumError> {
        let number = self.last_write.get() + 1;
        self.last_write.set(number);
        let lba = self.place_of(lba);
        self.under_way.borrow_mut().insert(number, (lba, bytes.clone()));
        let end = self.write_in_halves(lba, bytes, durability).await;
        self.under_way.borrow_mut().remove(&number);
        end
    }

    async fn write_in_halves(&self, lba: u64, bytes: Bytes, durability: Durability) -> Result<(), MediumError> {
        self.take_time().await;
        let block = self.geometry.block_bytes as usize;
        let half = bytes.len() / block / 2;
        if half > 0 {
            self.store(lba, &bytes.slice(..half * block), durability);
            self.take_time().await;
        }
        if self.fails(self.temper.get().bad_writes) {
            return Err(MediumError::Write { lba });
        }
        self.store(lba + half as u64, &bytes.slice(half * block..), durability);
        if durability == Durability::ForceUnitAccess {
            self.take_time().await;
        }
        Ok(())
    }

    async fn read_all(&self, lba: u64, blocks: u32) -> Result<Bytes, MediumError> {
        self.take_time().await;
        let range = lba..lba + u64::from(blocks);
        if let Some(bad) = self.unreadable.borrow().range(range.clone()).next() {
            return Err(MediumError::Read { lba: *bad });
        }
        if self.fails(self.temper.get().bad_reads) {
            return Err(MediumError::Read { lba });
        }
        if blocks == 1 {
            return Ok(self.block(lba));
        }
        let block_bytes = self.geometry.block_bytes as usize;
        let mut bytes = BytesMut::zeroed(blocks as usize * block_bytes);
        for (place, content) in self.blocks.borrow().range(range) {
            let at = (place - lba) as usize * block_bytes;
            bytes[at..at + block_bytes].copy_from_slice(content);
        }
        Ok(bytes.freeze())
    }
}

impl Medium for SimMedium {
    fn geometry(&self) -> Geometry {
        self.geometry
    }

    fn read(&self, lba: u64, blocks: u32) -> LocalBoxFuture<'_, Result<Bytes, MediumError>> {
        Box::pin(self.read_all(lba, blocks))
    }

    fn write(&self, lba: u64, bytes: Bytes, durability: Durability) -> LocalBoxFuture<'_, Result<(), MediumError>> {
        Box::pin(self.write_all(lba, bytes, durability))
    }

    fn flush(&self) -> LocalBoxFuture<'_, Result<(), MediumError>> {
        Box::pin(async {
            // What was answered before the flush was asked for, and nothing written since.
            let then: BTreeMap<u64, Option<Bytes>> = {
                let blocks = self.blocks.borrow();
                self.cached.borrow().keys().map(|lba| (*lba, blocks.get(lba).cloned())).collect()
            };
            self.take_time().await;
            if self.fails(self.temper.get().bad_writes) {
                return Err(MediumError::Write { lba: 0 });
            }
            let (mut cached, now) = (self.cached.borrow_mut(), self.blocks.borrow());
            for (lba, then) in then {
                if then.as_ref().map(|block| block.as_ptr()) == now.get(&lba).map(|block| block.as_ptr()) {
                    cached.remove(&lba);
                } else if let Some(before) = cached.get_mut(&lba) {
                    *before = then;
                }
            }
            Ok(())
        })
    }

    fn zero(&self, lba: u64, blocks: u64) -> LocalBoxFuture<'_, Result<(), MediumError>> {
        Box::pin(async move {
            self.take_time().await;
            let there: Vec<u64> = self.blocks.borrow().range(lba..lba + blocks).map(|(place, _)| *place).collect();
            for place in there {
                let before = self.blocks.borrow_mut().remove(&place);
                self.cached.borrow_mut().entry(place).or_insert(before);
            }
            Ok(())
        })
    }

    fn keep_state(&self, state: Vec<u8>) -> LocalBoxFuture<'_, Result<(), MediumError>> {
        Box::pin(async move {
            self.take_time().await;
            *self.kept.borrow_mut() = Some(state);
            Ok(())
        })
    }
}
