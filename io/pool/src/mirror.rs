//! A mirror: the same bytes on each good leg, read from one leg a region.
//!
//! Offsets here are bytes of the mirror's chunk space; a leg adds where its data area begins. Callers hand in ranges
//! that lie within one region ([`REGION_BYTES`]), which is what makes "the leg of the range" well defined.
//!
//! Which leg answers for a region is `region mod (number of good legs)`: both nodes compute the same, so a region that
//! may differ between the legs after an unclean death is read from the same leg before and after a move. Only three
//! things change it: a leg is dropped; a leg is good again, all regions being equal; or a disk may have lost what was in
//! its cache, and then the region is read from the other leg until it is copied back.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use bytes::Bytes;
use futures_util::future::{LocalBoxFuture, join, join_all};
use tokio::sync::{Mutex, Notify, mpsc};
use tokio::time::sleep;
use understudy_disk::disk::Durability;

use crate::leg::{Leg, LegOutcome, ReadFault};
use crate::overseer::LegPlace;
use crate::ranges::{RangeGuard, RangeLocks};
use crate::returning::Returning;
use crate::switch::Switch;

/// Unit of resync and of the choice of the leg to read. 1 MiB: no larger than the smallest chunk, so that a region
/// never spans chunks; large enough that copying it is one command a leg.
pub const REGION_BYTES: u64 = 1 << 20;

/// Attempts to copy a region before a flush that needs it fails, or a leg that is taken back is given up for now: enough to
/// outlast a disk that was only busy.
pub const PATIENCE: u32 = 3;

/// Why a mirror did not do what it was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MirrorFault {
    /// Every good leg's disk is there and says it cannot.
    Medium,
    /// The pool was stopped.
    Stopped,
}

/// Why a leg may not have what was acknowledged; a stronger reason comes later.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Doubt {
    /// Nothing was acknowledged that only one of them has.
    Nothing,
    /// Its disk came back in a new session and does not say that more happened. It may have and been told in an answer that was lost.
    NewSession,
    /// Its disk says that it was powered on.
    PoweredOn,
}

/// A region that may differ.
#[derive(Debug, Clone, Copy)]
struct Listed {
    /// The leg that has what was acknowledged, if it matters.
    best: Option<u8>,
    /// What speaks against the others.
    doubt: Doubt,
    /// When it was listed last: a copy that began before makes nothing equal.
    turn: u64,
}

/// What is known about legs that may differ.
#[derive(Default)]
struct Differences {
    /// Regions below this were copied since the start, or never differed.
    compared_to: u32,
    /// Regions that may differ whatever `compared_to` says.
    regions: BTreeMap<u32, Listed>,
    /// Those among them that a disk may have forgotten with its cache: until they are copied, nothing written to them counts as
    /// flushed.
    forgotten: BTreeSet<u32>,
    /// Grows with every listing.
    turn: u64,
}

impl Differences {
    /// Lists a region of which `doubted` may not have what was acknowledged; `other` is as good as any.
    fn doubt(&mut self, region: u32, doubted: u8, other: u8, doubt: Doubt) {
        self.turn += 1;
        let turn = self.turn;
        let listed = self.regions.entry(region).or_insert(Listed { best: Some(other), doubt, turn });
        listed.turn = turn;
        // If both disks may have forgotten, the one against which less speaks is the better one.
        if listed.best.is_none() || (listed.best == Some(doubted) && listed.doubt < doubt) {
            (listed.best, listed.doubt) = (Some(other), doubt);
        } else if listed.best != Some(doubted) {
            listed.doubt = listed.doubt.max(doubt);
        }
    }

    fn listed_in(&self, region: u32) -> Option<u64> {
        self.regions.get(&region).map(|listed| listed.turn)
    }
}

pub struct Mirror {
    /// In the order of their places.
    legs: RefCell<Rc<[Rc<Leg>]>>,
    /// The dropped leg that is copied to; one at a time.
    returning: RefCell<Option<Rc<Returning>>>,
    /// Held by the attempt to take a leg back that is under way.
    pub return_turn: Mutex<()>,
    /// A leg came, went, or was recorded good.
    pub legs_changed: Notify,
    pub regions: u32,
    locks: Rc<RangeLocks>,
    differences: RefCell<Differences>,
    /// The leg that answers changed while writes may have been under way.
    answers_changed: Cell<bool>,
    /// Called when there is something to copy.
    pub differs: Rc<Notify>,
    unfinished: mpsc::UnboundedSender<LocalBoxFuture<'static, ()>>,
    pub switch: Rc<Switch>,
}

/// What a mirror is made of.
pub struct MirrorParts {
    pub legs: Vec<Rc<Leg>>,
    pub regions: u32,
    /// Where writes go whose caller has gone away.
    pub unfinished: mpsc::UnboundedSender<LocalBoxFuture<'static, ()>>,
    pub differs: Rc<Notify>,
    pub switch: Rc<Switch>,
}

impl Mirror {
    pub fn new(parts: MirrorParts) -> Self {
        let MirrorParts { legs, regions, unfinished, differs, switch } = parts;
        Self {
            legs: RefCell::new(legs.into()),
            returning: RefCell::default(),
            return_turn: Mutex::new(()),
            legs_changed: Notify::new(),
            regions,
            locks: Rc::default(),
            differences: RefCell::default(),
            answers_changed: Cell::new(false),
            differs,
            unfinished,
            switch,
        }
    }

    /// Every leg that is or was part of it.
    pub fn legs(&self) -> Rc<[Rc<Leg>]> {
        Rc::clone(&self.legs.borrow())
    }

    fn legs_that(&self, hold: fn(&Leg) -> bool) -> impl Iterator<Item = Rc<Leg>> + use<> {
        let legs = self.legs();
        (0..legs.len()).map(move |at| Rc::clone(&legs[at])).filter(move |leg| hold(leg))
    }

    /// Those recorded good.
    pub fn good_legs(&self) -> impl Iterator<Item = Rc<Leg>> + use<> {
        self.legs_that(Leg::is_good)
    }

    /// Those that nothing is acknowledged without: the good ones and one that may be recorded good at any moment.
    pub fn counting_legs(&self) -> impl Iterator<Item = Rc<Leg>> + use<> {
        self.legs_that(Leg::counts)
    }

    /// The leg at a place, unless it was dropped.
    pub fn leg_at(&self, place: LegPlace) -> Option<Rc<Leg>> {
        self.counting_legs().find(|leg| leg.place == place)
    }

    /// Puts a leg where a dropped one was.
    pub fn put(&self, leg: Rc<Leg>) {
        let others = self.legs().iter().filter(|other| other.place != leg.place).cloned().collect::<Vec<_>>();
        let mut legs: Vec<_> = others.into_iter().chain([leg]).collect();
        legs.sort_by_key(|leg| leg.place);
        *self.legs.borrow_mut() = legs.into();
        self.legs_changed.notify_waiters();
    }

    /// The leg that is copied to, if there is one.
    pub fn returning(&self) -> Option<Rc<Returning>> {
        self.returning.borrow().clone().filter(|returning| !returning.leg.is_dropped())
    }

    pub fn set_returning(&self, returning: Option<Rc<Returning>>) {
        *self.returning.borrow_mut() = returning;
    }

    /// The record says that this leg is good: it answers for its share of the regions from now on.
    pub fn leg_recorded_good(&self, leg: &Leg) {
        self.answers_changed.set(true);
        leg.recorded_good();
        self.legs_changed.notify_waiters();
        self.differs.notify_one();
    }

    /// Ends when nothing that was begun before is under way any more; nothing else begins until it is dropped.
    pub async fn stand_still(&self) -> RangeGuard {
        self.locks.acquire(0, u64::MAX).await
    }

    /// Whether another good leg is up, so that `leg` may be dropped.
    pub fn another_up(&self, leg: &Rc<Leg>) -> bool {
        self.good_legs().any(|other| !Rc::ptr_eq(&other, leg) && other.is_up())
    }

    pub fn drop_leg(&self, leg: &Rc<Leg>) {
        self.answers_changed.set(true);
        if self.may_differ()
            && let Some(returning) = self.returning()
        {
            // What was copied came from the leg that answered; another one answers from now on.
            returning.forget_all();
        }
        leg.drop_for_good();
        if self.counting_legs().count() == 1 {
            let mut differences = self.differences.borrow_mut();
            differences.regions.clear();
            differences.forgotten.clear();
            differences.compared_to = self.regions;
        }
        self.differs.notify_one();
        self.legs_changed.notify_waiters();
    }

    /// From now on every region counts as possibly different (`None`) or as equal (`Some` of the number of regions).
    pub fn set_compared_to(&self, region: u32) {
        self.differences.borrow_mut().compared_to = region;
    }

    pub fn compared_to(&self) -> u32 {
        self.differences.borrow().compared_to
    }

    pub fn may_differ(&self) -> bool {
        let differences = self.differences.borrow();
        self.counting_legs().count() > 1 && (differences.compared_to < self.regions || !differences.regions.is_empty())
    }

    pub fn listed_differences(&self) -> usize {
        self.differences.borrow().regions.len()
    }

    /// The first listed region at or after `from`, going round.
    pub fn next_listed(&self, from: u32) -> Option<u32> {
        let differences = self.differences.borrow();
        let mut after = differences.regions.range(from..);
        after.next().or_else(|| differences.regions.iter().next()).map(|(&region, _)| region)
    }

    /// A leg's disk came back from a new session or a reset: what was in its cache may be gone. The others have it; of a
    /// last good leg nobody knows better than itself, and it goes on answering.
    pub fn distrust(&self, leg: &Rc<Leg>, regions: &BTreeSet<u32>, doubt: Doubt) {
        if let Some(returning) = self.returning() {
            regions.iter().for_each(|region| returning.forget(*region));
        }
        let other = self.good_legs().find(|other| !Rc::ptr_eq(other, leg)).unwrap_or_else(|| Rc::clone(leg));
        if regions.is_empty() || self.counting_legs().count() < 2 {
            return;
        }
        let mut differences = self.differences.borrow_mut();
        for &region in regions {
            differences.doubt(region, leg.place.leg, other.place.leg, doubt);
            differences.forgotten.insert(region);
        }
        self.differs.notify_one();
    }

    fn note_difference(&self, region: u32) {
        if let Some(returning) = self.returning() {
            returning.forget(region);
        }
        if self.counting_legs().count() > 1 {
            let best = Some(self.leg_of(region).place.leg);
            let mut differences = self.differences.borrow_mut();
            differences.turn += 1;
            let turn = differences.turn;
            let listed = differences.regions.entry(region).or_insert(Listed { best, doubt: Doubt::Nothing, turn });
            listed.turn = turn;
            drop(differences);
            self.differs.notify_one();
        }
    }

    fn is_equal(&self, region: u32) -> bool {
        let differences = self.differences.borrow();
        region < differences.compared_to && !differences.regions.contains_key(&region)
    }

    /// The leg that answers for a region.
    pub fn leg_of(&self, region: u32) -> Rc<Leg> {
        let preferred = self.differences.borrow().regions.get(&region).and_then(|listed| listed.best);
        if let Some(leg) = self.good_legs().find(|leg| Some(leg.place.leg) == preferred) {
            return leg;
        }
        let good = self.good_legs().count();
        let turn = usize::try_from(region).unwrap_or(0) % good.max(1);
        let leg = self.good_legs().nth(turn).or_else(|| self.legs().first().cloned());
        leg.expect("a mirror is loaded with at least one good leg, and the last one is never dropped")
    }

    fn region_of(offset: u64) -> u32 {
        u32::try_from(offset / REGION_BYTES).expect("a mirror has at most 2^32 regions: checked when it is loaded")
    }

    /// Reads bytes within one region.
    pub async fn read(&self, offset: u64, bytes: u64) -> Result<Bytes, MirrorFault> {
        let region = Self::region_of(offset);
        // BOUND: each round waits for a leg to change its state or ends.
        loop {
            if self.switch.is_stopped() {
                return Err(MirrorFault::Stopped);
            }
            // The leg that answered before may have shown a write that is still under way to this one.
            let finished = if self.answers_changed.get() && self.locks.overlaps(offset, offset + bytes) {
                Some(self.locks.acquire(offset, offset + bytes).await)
            } else {
                None
            };
            let leg = self.leg_of(region);
            let read = leg.read_once(leg.areas.data_offset + offset, bytes);
            let (read, witnessed) = join(read, self.is_witnessed(&leg)).await;
            match read {
                Ok(read) if witnessed => return Ok(read),
                Ok(_) => {
                    drop(finished);
                    sleep(self.switch.retry_delay).await;
                    continue;
                }
                Err(fault) => {
                    drop(finished);
                    let elsewhere = fault == ReadFault::Medium || self.is_equal(region);
                    if elsewhere && let Some(end) = self.read_elsewhere(&leg, offset, bytes, fault).await {
                        return end;
                    }
                }
            }
            if leg.is_good() {
                leg.changed_or_time_to_look().await;
            }
        }
    }

    /// Whether what one leg answers may be passed on: every other that nothing is acknowledged without, asked now, still carries out this
    /// node's reads; in the place of one that does not say so, the lock disks do (`crate::witness`).
    async fn is_witnessed(&self, answers: &Leg) -> bool {
        self.are_witnesses(self.counting_legs().filter(|leg| leg.place != answers.place)).await
    }

    async fn are_witnesses(&self, legs: impl Iterator<Item = Rc<Leg>>) -> bool {
        let each = legs.map(|leg| async move {
            leg.admits_reads().await || leg.is_dropped() || self.switch.is_still_owner().await
        });
        join_all(each).await.into_iter().all(|witnessed| witnessed)
    }

    /// Ends when it is certain, by questions put after this call, that this node still owns the pool: for an answer that no disk gives. No
    /// new owner serves before a leg of every mirror is fenced against this node or left out on a majority of the lock disks, so
    /// asking one mirror is enough.
    pub async fn confirm(&self) -> Result<(), MirrorFault> {
        // BOUND: each round asks every leg and pauses; it ends with the answers or with the pool.
        loop {
            if self.switch.is_stopped() {
                return Err(MirrorFault::Stopped);
            }
            if self.are_witnesses(self.counting_legs()).await {
                return Ok(());
            }
            sleep(self.switch.retry_delay).await;
        }
    }

    /// Reads from another leg, with every overlapping write finished; `None` if that has to wait.
    async fn read_elsewhere(
        &self,
        tried: &Rc<Leg>,
        offset: u64,
        bytes: u64,
        fault: ReadFault,
    ) -> Option<Result<Bytes, MirrorFault>> {
        let _finished = self.locks.acquire(offset, offset + bytes).await;
        let mut all_medium = fault == ReadFault::Medium;
        for leg in self.good_legs().filter(|leg| !Rc::ptr_eq(leg, tried)) {
            match leg.read_once(leg.areas.data_offset + offset, bytes).await {
                Ok(read) => return self.is_witnessed(&leg).await.then_some(Ok(read)),
                Err(ReadFault::Medium) => {}
                Err(ReadFault::NotUp) => all_medium = false,
            }
        }
        all_medium.then_some(Err(MirrorFault::Medium))
    }

    /// Writes bytes within one region to every good leg. Once begun it is carried through even if the caller goes.
    pub async fn write(self: &Rc<Self>, offset: u64, bytes: Bytes, durability: Durability) -> Result<(), MirrorFault> {
        let guard = self.locks.acquire(offset, offset + bytes.len() as u64).await;
        let mirror = Rc::clone(self);
        self.persevere(async move { mirror.write_locked(&guard, offset, bytes, durability).await }).await
    }

    /// Makes a range within one region read as zeroes on every good leg; writes only where it does not already.
    pub async fn clear(self: &Rc<Self>, offset: u64, bytes: u64) -> Result<(), MirrorFault> {
        let guard = self.locks.acquire(offset, offset + bytes).await;
        let legs: Vec<_> = self.counting_legs().collect();
        let reads = legs.iter().map(|leg| leg.read_once(leg.areas.data_offset + offset, bytes));
        let blank = |read: &Result<Bytes, ReadFault>| matches!(read, Ok(read) if read.iter().all(|&byte| byte == 0));
        if join_all(reads).await.iter().all(blank) {
            return Ok(());
        }
        let length = usize::try_from(bytes).expect("at most a region");
        let mirror = Rc::clone(self);
        let zeroes = Bytes::from(vec![0; length]);
        self.persevere(async move { mirror.write_locked(&guard, offset, zeroes, Durability::Cached).await }).await
    }

    /// Runs `work` to its end, in the background if the caller drops this: a write that reached one leg has to reach
    /// the others, and its range stays locked until then.
    async fn persevere<T: 'static>(&self, work: impl Future<Output = T> + 'static) -> T {
        let mut kept = Unfinished { work: Some(Box::pin(work)), background: self.unfinished.clone() };
        let result = kept.work.as_mut().expect("taken only when dropped").await;
        kept.work = None;
        result
    }

    async fn write_locked(
        &self,
        _range: &RangeGuard,
        offset: u64,
        bytes: Bytes,
        durability: Durability,
    ) -> Result<(), MirrorFault> {
        let region = Self::region_of(offset);
        let legs: Vec<_> = self.counting_legs().collect();
        let write = |leg: &Rc<Leg>| {
            if durability == Durability::Cached {
                leg.note_cached(region);
            }
            let (leg, bytes) = (Rc::clone(leg), bytes.clone());
            async move { leg.write(leg.areas.data_offset + offset, bytes, durability).await }
        };
        let along = self.returning().filter(|returning| returning.has(region));
        let outcomes = match (&legs[..], along) {
            ([only], None) => vec![write(only).await],
            ([first, second], None) => {
                let (first, second) = join(write(first), write(second)).await;
                vec![first, second]
            }
            (all, None) => join_all(all.iter().map(write)).await,
            // What was copied there stays the same. What was not yet is copied later, this write included.
            (all, Some(returning)) => {
                join(join_all(all.iter().map(write)), returning.write_along(write(&returning.leg))).await.0
            }
        };
        let settled = settle(&legs, &outcomes).await;
        if settled == Err(MirrorFault::Medium) {
            self.note_difference(region);
        }
        settled
    }

    /// Flushes every leg that counts. What a disk has forgotten is copied back to it before this ends, or the leg is dropped: a
    /// next owner might read it from there.
    pub async fn flush(self: &Rc<Self>) -> Result<(), MirrorFault> {
        let legs: Vec<_> = self.counting_legs().collect();
        let outcomes = join_all(legs.iter().map(|leg| leg.flush())).await;
        settle(&legs, &outcomes).await?;
        let mut attempts = 0;
        // BOUND: each round copies a region, waits for a leg, or is one of few attempts.
        while let Some(region) = self.first_forgotten() {
            if self.switch.is_stopped() {
                return Err(MirrorFault::Stopped);
            }
            if self.copy_region(region).await {
                attempts = 0;
            } else if attempts == PATIENCE {
                return Err(MirrorFault::Medium);
            } else {
                attempts += u32::from(self.leg_of(region).is_up());
                sleep(self.switch.retry_delay).await;
            }
        }
        Ok(())
    }

    fn first_forgotten(&self) -> Option<u32> {
        self.differences.borrow().forgotten.first().copied()
    }

    /// Makes a region equal on all legs that count; nothing else of the region is under way meanwhile.
    ///
    /// Returns whether it is equal now; if not, a leg is away or cannot read, and it has to be tried again.
    pub async fn copy_region(self: &Rc<Self>, region: u32) -> bool {
        let offset = u64::from(region) * REGION_BYTES;
        let guard = self.locks.acquire(offset, offset + REGION_BYTES).await;
        let listed_in = self.differences.borrow().listed_in(region);
        let source = self.leg_of(region);
        let Ok(truth) = source.read_once(source.areas.data_offset + offset, REGION_BYTES).await else {
            return false;
        };
        let targets: Vec<_> = self.counting_legs().filter(|leg| !Rc::ptr_eq(leg, &source)).collect();
        let mirror = Rc::clone(self);
        let copy = async move {
            let _range = guard;
            for leg in targets {
                let at = leg.areas.data_offset + offset;
                if leg.read_once(at, REGION_BYTES).await.is_ok_and(|there| there == truth) {
                    // Perhaps in its cache only: what was doubted since a new session is not on the medium for that.
                    leg.note_cached(region);
                    continue;
                }
                match leg.write(at, truth.clone(), Durability::ForceUnitAccess).await {
                    LegOutcome::Done | LegOutcome::Dropped => {}
                    LegOutcome::Refused => leg.fail(),
                    LegOutcome::Stopped => return false,
                }
            }
            mirror.note_equal(region, listed_in)
        };
        self.persevere(copy).await
    }

    /// Makes a region of the returning leg the same as what is answered for it; nothing else of the region is under way
    /// meanwhile.
    ///
    /// Returns whether it is; if not, no leg could read it, or the attempt is over.
    pub async fn copy_back(self: &Rc<Self>, region: u32, returning: &Rc<Returning>) -> bool {
        let offset = u64::from(region) * REGION_BYTES;
        let guard = self.locks.acquire(offset, offset + REGION_BYTES).await;
        let source = self.leg_of(region);
        let Ok(truth) = source.read_once(source.areas.data_offset + offset, REGION_BYTES).await else {
            return false;
        };
        let returning = Rc::clone(returning);
        self.persevere(async move {
            let _range = guard;
            returning.copy(region, truth).await
        })
        .await
    }

    /// Lets the resync go on behind a region it can not make equal now; the region stays listed.
    pub fn postpone(&self, region: u32) {
        let mut differences = self.differences.borrow_mut();
        let turn = differences.turn;
        differences.regions.entry(region).or_insert(Listed { best: None, doubt: Doubt::Nothing, turn });
        if differences.compared_to == region {
            differences.compared_to += 1;
        }
    }

    /// Whether it is: unless a disk came back meanwhile and may have forgotten it.
    fn note_equal(&self, region: u32, listed_in: Option<u64>) -> bool {
        let mut differences = self.differences.borrow_mut();
        if differences.listed_in(region) != listed_in {
            return false;
        }
        differences.regions.remove(&region);
        differences.forgotten.remove(&region);
        if differences.compared_to == region {
            differences.compared_to += 1;
        }
        true
    }
}

/// What all legs' outcomes together mean. A leg that refused what a good one took is dropped before this ends.
pub async fn settle(legs: &[Rc<Leg>], outcomes: &[LegOutcome]) -> Result<(), MirrorFault> {
    if outcomes.contains(&LegOutcome::Stopped) {
        return Err(MirrorFault::Stopped);
    }
    // What only a leg has that is not recorded good, or not any more, might not be there for the next owner.
    if !legs.iter().zip(outcomes).any(|(leg, &outcome)| outcome == LegOutcome::Done && leg.is_good()) {
        return Err(MirrorFault::Medium);
    }
    for (leg, _) in legs.iter().zip(outcomes).filter(|&(_, &outcome)| outcome == LegOutcome::Refused) {
        leg.fail();
    }
    for (leg, _) in legs.iter().zip(outcomes).filter(|&(_, &outcome)| outcome == LegOutcome::Refused) {
        if leg.dropped().await == LegOutcome::Stopped {
            return Err(MirrorFault::Stopped);
        }
    }
    Ok(())
}

/// Work that must not be abandoned half done.
struct Unfinished<T: 'static> {
    work: Option<LocalBoxFuture<'static, T>>,
    background: mpsc::UnboundedSender<LocalBoxFuture<'static, ()>>,
}

impl<T: 'static> Drop for Unfinished<T> {
    fn drop(&mut self) {
        if let Some(work) = self.work.take() {
            // The receiver is gone only when the pool is, and then nothing may be written any more.
            drop(self.background.send(Box::pin(async move { drop(work.await) })));
        }
    }
}
