//! A dropped leg while it is copied to: which regions it has, and how clients' writes go along.
//!
//! Not here: when an attempt begins and ends (`crate::take_back`). The one idea: a region is either *had*, and then every
//! write to it goes to this leg too before it is answered, or not had, and then no write to it goes there and the copy that
//! is still to come brings it. The region's lock keeps the two apart, so nothing older ever lands on something newer.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::timeout;
use tracing::warn;
use understudy_disk::disk::Durability;

use crate::leg::{Leg, LegOutcome};
use crate::mirror::REGION_BYTES;

/// How long a client's write is kept waiting for a leg that is not good yet. Longer than any disk takes that is worth
/// having back; well below what clients notice as an outage. A leg that is slower is given up.
const ALONG_WITHIN: Duration = Duration::from_secs(1);

/// One attempt.
pub struct Returning {
    pub leg: Rc<Leg>,
    /// One bit a region.
    had: RefCell<Vec<u64>>,
    count: Cell<u64>,
    /// Something was copied since the last flush began.
    unflushed: Cell<bool>,
}

impl Returning {
    pub fn new(leg: Rc<Leg>, regions: u32) -> Self {
        let words = regions.div_ceil(u64::BITS);
        Self { leg, had: RefCell::new(vec![0; words as usize]), count: Cell::new(0), unflushed: Cell::new(false) }
    }

    /// Whether this region holds the same.
    pub fn has(&self, region: u32) -> bool {
        let had = self.had.borrow();
        had.get((region / u64::BITS) as usize).is_some_and(|word| word & (1 << (region % u64::BITS)) != 0)
    }

    /// How many regions are had.
    pub fn count(&self) -> u64 {
        self.count.get()
    }

    fn note(&self, region: u32) {
        if !self.has(region)
            && let Some(word) = self.had.borrow_mut().get_mut((region / u64::BITS) as usize)
        {
            *word |= 1 << (region % u64::BITS);
            self.count.set(self.count.get() + 1);
        }
        self.unflushed.set(true);
    }

    /// This region has to be copied again.
    pub fn forget(&self, region: u32) {
        if self.has(region)
            && let Some(word) = self.had.borrow_mut().get_mut((region / u64::BITS) as usize)
        {
            *word &= !(1 << (region % u64::BITS));
            self.count.set(self.count.get() - 1);
        }
    }

    /// All of them have to be.
    pub fn forget_all(&self) {
        self.had.borrow_mut().fill(0);
        self.count.set(0);
    }

    /// Whether everything copied is on the medium.
    pub fn is_flushed(&self) -> bool {
        !self.unflushed.get()
    }

    /// Brings what was copied to the medium; false if the attempt is over. A disk that loses power meanwhile or before has a
    /// new link, and that ends the attempt, so nothing that was forgotten can count.
    pub async fn flush(&self) -> bool {
        self.unflushed.set(false);
        self.done(self.leg.flush().await)
    }

    /// A client's write to a region that is had. It never fails the client, and keeps it waiting only so long.
    pub async fn write_along(&self, write: impl Future<Output = LegOutcome>) {
        match timeout(ALONG_WITHIN, write).await {
            Ok(outcome) => {
                self.done(outcome);
            }
            Err(_) => {
                warn!(leg = %self.leg.place, disk = self.leg.disk.name(), "too slow to be taken back");
                self.leg.drop_for_good();
            }
        }
    }

    /// Writes a region unless it is the same already; its lock is held. Whether it is had now.
    pub async fn copy(&self, region: u32, truth: Bytes) -> bool {
        let at = self.leg.areas.data_offset + u64::from(region) * REGION_BYTES;
        let same = self.leg.read_once(at, REGION_BYTES).await.is_ok_and(|there| there == truth);
        if !same && !self.done(self.leg.write(at, truth, Durability::Cached).await) {
            return false;
        }
        if self.leg.is_dropped() {
            return false;
        }
        self.note(region);
        true
    }

    /// Anything but success ends the attempt.
    fn done(&self, outcome: LegOutcome) -> bool {
        if outcome == LegOutcome::Refused {
            self.leg.drop_for_good();
        }
        outcome == LegOutcome::Done
    }
}
