//! Taking a dropped leg back while clients go on.
//!
//! Problem: a leg that was recorded bad holds old data. It may count again only when it holds everything that was
//! acknowledged, on its medium, and whoever reads the records next must come to the same view, wherever this node dies.
//!
//! Idea: dropping in reverse, with every step proved before the next.
//!
//! 1. The disk answers: this node's fence is put on it, foreign keys are removed, and everything an earlier attempt or owner
//!    still had under way there is aborted ([`crate::Overseer::fence_leg`]). Its label must name this place.
//! 2. *Returning*: every region in use is copied, one after the other, under the region's lock; writes to regions that were
//!    copied go along (`crate::returning`). Any trouble of the leg ends the attempt; a client never fails or waits long for it.
//! 3. It gets the metadata in force; what it copied is flushed.
//! 4. *Joining*: with nothing under way in the mirror it is put among the legs that count. From here on nothing is
//!    acknowledged or flushed without it, and it can be left out only by a record, like a good one.
//! 5. What went along unflushed is flushed; the driver is told ([`crate::Overseer::leg_resynced`]) and has it recorded.
//! 6. *Good*: [`crate::Pool::leg_recorded_good`]. Only now it is read.
//!
//! A crash before 6 leaves the leg recorded bad, or recorded good with all that was acknowledged on it: the record may stand
//! from 5 on, and since 4 it has everything. The next owner knows nothing of an attempt and begins at 1.
//!
//! Rejected: a list of regions written since the drop, kept in the metadata (smaller copies, but one more thing that has to be
//! right on both nodes, after any number of moves); reading from a leg that is only partly copied.

use std::rc::{Rc, Weak};
use std::time::Duration;

use tokio::task::spawn_local;
use tokio::time::sleep;
use tracing::{debug, error, info, warn};
use understudy_disk::disk::{Disk, Link};
use understudy_layout::label::{PoolAreas, Role};

use crate::inventory::{Finding, examine};
use crate::leg::{Leg, LegOutcome, LegParts, Standing, supervise};
use crate::mirror::{Mirror, PATIENCE};
use crate::overseer::{LegPlace, Proof, ReturnNews};
use crate::pool::{Pool, data_bytes, fits};
use crate::resync::{politely, runs_in_use};
use crate::returning::Returning;
use crate::store;

/// The longest pause between attempts, in first pauses: about a minute with the usual second. A disk that comes and goes costs
/// its clients a short wait each time, so it must not do so often.
const LONGEST_PAUSE: u32 = 64;

/// How far a leg on its way back is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReturnProgress {
    /// Which leg.
    pub place: LegPlace,
    /// Regions in use that it has.
    pub copied: u64,
    /// Regions in use.
    pub of: u64,
}

impl ReturnProgress {
    /// In whole percent, 100 only when nothing is left.
    #[must_use]
    pub fn percent(self) -> u8 {
        let percent = (self.copied * 100).checked_div(self.of).unwrap_or(100);
        u8::try_from(percent).unwrap_or(100)
    }
}

/// Why an attempt came to nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum GaveUp {
    NotFenced,
    Unreadable,
    OtherDisk,
    Failed,
    Source,
}

impl GaveUp {
    fn words(self) -> &'static str {
        match self {
            Self::NotFenced => "its fence could not be put up",
            Self::Unreadable => "its label cannot be read",
            Self::OtherDisk => "it is not the disk the pool's metadata names there, or too small",
            Self::Failed => "it failed again",
            Self::Source => "a region cannot be read from any good leg",
        }
    }
}

/// The task of one place of a mirror, for as long as the pool serves.
pub async fn take_back(place: LegPlace, mirror: Rc<Mirror>, pool: Weak<Pool>) {
    let switch = Rc::clone(&mirror.switch);
    let (first, longest) = (switch.return_pause, switch.return_pause * LONGEST_PAUSE);
    let rounds = async {
        let mut pause = first;
        // BOUND: each round waits for a leg to be dropped, and then at least the pause.
        loop {
            until_dropped(place, &mirror).await;
            sleep(pause).await;
            let Some(disk) = switch.overseer.disk_of(place) else { return };
            while disk.link() == Link::Down {
                disk.link_changed(Link::Down).await;
            }
            pause = match try_once(place, disk, &mirror, &pool).await {
                Ok(()) if stays_for(longest, place, &mirror).await => first,
                Ok(()) => (pause * 2).min(longest),
                Err(why) => {
                    debug!(leg = %place, reason = why.words(), "leg not taken back");
                    (pause * 2).min(longest)
                }
            };
        }
    };
    tokio::select! { biased; () = switch.stopped() => {}, () = rounds => {} }
}

async fn until_dropped(place: LegPlace, mirror: &Mirror) {
    loop {
        let changed = mirror.legs_changed.notified();
        if mirror.leg_at(place).is_none() {
            return;
        }
        changed.await;
    }
}

async fn stays_for(length: Duration, place: LegPlace, mirror: &Mirror) -> bool {
    tokio::select! { biased; () = until_dropped(place, mirror) => false, () = sleep(length) => true }
}

/// One attempt; ends when the leg is recorded good.
async fn try_once(place: LegPlace, disk: Rc<dyn Disk>, mirror: &Rc<Mirror>, pool: &Weak<Pool>) -> Result<(), GaveUp> {
    let _turn = mirror.return_turn.lock().await;
    let overseer = &mirror.switch.overseer;
    let Proof::Held { epoch } = overseer.fence_leg(place, &*disk).await else {
        return Err(GaveUp::NotFenced);
    };
    let leg = identified(place, disk, epoch, mirror, pool).await?;
    spawn_local(supervise(Rc::clone(&leg), Rc::downgrade(mirror)));
    let returning = Rc::new(Returning::new(Rc::clone(&leg), mirror.regions));
    mirror.set_returning(Some(Rc::clone(&returning)));
    info!(leg = %place, disk = leg.disk.name(), "leg is copied to");
    overseer.tell(place, ReturnNews::Begun);
    let returned = copy_and_join(&returning, mirror, pool).await;
    mirror.set_returning(None);
    let returned = match returned {
        Ok(()) => recorded(&leg, mirror).await,
        Err(why) => {
            leg.drop_for_good();
            Err(why)
        }
    };
    match returned {
        Ok(()) => overseer.tell(place, ReturnNews::Good),
        Err(why) => {
            warn!(leg = %place, disk = leg.disk.name(), reason = why.words(), "leg given up again");
            overseer.tell(place, ReturnNews::GivenUp(why.words()));
        }
    }
    returned
}

async fn copy_and_join(returning: &Rc<Returning>, mirror: &Rc<Mirror>, pool: &Weak<Pool>) -> Result<(), GaveUp> {
    // BOUND: each round copies what was written, made or doubted since the one before; ends with the leg or the pool.
    loop {
        copy_all(returning, mirror, pool).await?;
        let pool = pool.upgrade().ok_or(GaveUp::Failed)?;
        if pool.join_leg(mirror, returning).await? {
            return Ok(());
        }
        sleep(mirror.switch.retry_delay).await;
    }
}

/// The leg on this disk, if it is the disk that belongs there.
async fn identified(
    place: LegPlace,
    disk: Rc<dyn Disk>,
    epoch: u64,
    mirror: &Mirror,
    pool: &Weak<Pool>,
) -> Result<Rc<Leg>, GaveUp> {
    let geometry = disk.probe().await.map_err(|_| GaveUp::Unreadable)?;
    let found = examine(&*disk, geometry).await.map_err(|_| GaveUp::Unreadable)?;
    let Finding::Ours(label) = found else { return Err(GaveUp::OtherDisk) };
    let pool = pool.upgrade().ok_or(GaveUp::Failed)?;
    let metadata = pool.metadata();
    let named = metadata.mirrors.get(usize::from(place.mirror)).and_then(|legs| legs.legs.get(usize::from(place.leg)));
    match label.role {
        Role::PoolLeg { pool: of, mirror: at, leg, areas, .. }
            if of == metadata.pool
                && (LegPlace { mirror: at, leg }) == place
                && named == Some(&label.disk)
                && pool.has_room(&areas, place.mirror) =>
        {
            let parts = LegParts { place, disk, areas, geometry };
            let leg = Rc::new(Leg::new(parts, Standing::Returning, Rc::clone(&mirror.switch)));
            leg.begin(Some(epoch));
            Ok(leg)
        }
        Role::PoolLeg { .. } | Role::Lock { .. } => Err(GaveUp::OtherDisk),
    }
}

/// Copies what is in use and not had, until nothing is.
async fn copy_all(returning: &Rc<Returning>, mirror: &Rc<Mirror>, pool: &Weak<Pool>) -> Result<(), GaveUp> {
    let (mut attempts, mut told, mut from) = (0, 0, 0);
    // BOUND: each round copies a region, or is one of few attempts at it, or ends.
    loop {
        let pool = pool.upgrade().ok_or(GaveUp::Failed)?;
        if returning.leg.is_dropped() {
            return Err(GaveUp::Failed);
        }
        let Some(region) = pool.first_not_had(returning, from) else {
            if from == 0 && !mirror.may_differ() {
                return Ok(());
            }
            // Once more from the front: volumes may have been made and regions doubted there. Or other legs are made equal first.
            sleep(mirror.switch.retry_delay).await;
            from = 0;
            continue;
        };
        if politely(mirror.copy_back(region, returning), &pool.resync).await {
            (attempts, from) = (0, region.saturating_add(1));
            let percent = pool.progress_of(returning).percent();
            if percent / 25 > told / 25 {
                told = percent;
                mirror.switch.overseer.tell(returning.leg.place, ReturnNews::Copied { percent });
            }
        } else if !mirror.leg_of(region).is_up() {
            // It has to come back itself first.
        } else if attempts < PATIENCE {
            attempts += 1;
        } else {
            returning.leg.drop_for_good();
            return Err(GaveUp::Source);
        }
    }
}

/// Says that the leg holds the same, again from time to time until the record does or it is dropped.
async fn recorded(leg: &Rc<Leg>, mirror: &Mirror) -> Result<(), GaveUp> {
    // What went along since the flush before it joined.
    if leg.flush().await != LegOutcome::Done {
        leg.fail();
        leg.dropped().await;
        return Err(GaveUp::Failed);
    }
    loop {
        let changed = mirror.legs_changed.notified();
        if leg.is_dropped() {
            return Err(GaveUp::Failed);
        }
        if leg.is_good() {
            info!(leg = %leg.place, disk = leg.disk.name(), "leg good again, recorded");
            return Ok(());
        }
        // A disk that forgot its cache meanwhile gets it again first.
        if leg.up_now() && !mirror.may_differ() {
            mirror.switch.overseer.leg_resynced(leg.place);
        }
        tokio::select! { biased; () = changed => {}, () = sleep(mirror.switch.leg_timeout / 5) => {} }
    }
}

impl Pool {
    /// Whether a disk with these areas has room for everything this mirror has.
    fn has_room(&self, areas: &PoolAreas, mirror: u16) -> bool {
        areas.slot_bytes >= self.slot_bytes && fits(areas, data_bytes(&self.metadata(), usize::from(mirror)))
    }

    /// The first region in use, at or after `from`, that a returning leg has not.
    fn first_not_had(&self, returning: &Returning, from: u32) -> Option<u32> {
        let metadata = self.metadata();
        let runs = runs_in_use(returning.leg.place.mirror, &metadata);
        let not_had = runs.filter_map(|run| (run.start.max(from)..run.end).find(|region| !returning.has(*region)));
        not_had.min()
    }

    fn progress_of(&self, returning: &Returning) -> ReturnProgress {
        let metadata = self.metadata();
        let place = returning.leg.place;
        let of = runs_in_use(place.mirror, &metadata).map(|run| u64::from(run.end - run.start)).sum();
        // Of a volume deleted meanwhile regions may be had that are not in use any more.
        ReturnProgress { place, copied: returning.count().min(of), of }
    }

    /// The legs that are being taken back.
    #[must_use]
    pub fn returning_legs(&self) -> Vec<ReturnProgress> {
        let returning = self.mirrors.iter().filter_map(|mirror| mirror.returning());
        returning.map(|returning| self.progress_of(&returning)).collect()
    }

    /// Puts a leg that has everything among those that count; false if it has not, after all.
    async fn join_leg(&self, mirror: &Rc<Mirror>, returning: &Rc<Returning>) -> Result<bool, GaveUp> {
        // No volume is made meanwhile, and none gets chunks: what is not in use yet was not copied.
        let _provisioning = self.provisioning.lock().await;
        let _allotting = self.allotting.turn().await;
        let _store = self.store.lock().await;
        let metadata = self.metadata();
        let image = metadata.encode(self.slot_bytes).map_err(|_| GaveUp::OtherDisk)?;
        let renewed = store::renew(&returning.leg, &metadata, &image.into()).await;
        if renewed != LegOutcome::Done || !returning.flush().await {
            return Err(GaveUp::Failed);
        }
        let _still = mirror.stand_still().await;
        if !returning.leg.up_now() {
            return Err(GaveUp::Failed);
        }
        // One leg answers for a region by the number of good legs: only equal ones may become more.
        if !returning.is_flushed() || mirror.may_differ() || self.first_not_had(returning, 0).is_some() {
            return Ok(false);
        }
        returning.leg.join();
        mirror.set_returning(None);
        mirror.put(Rc::clone(&returning.leg));
        Ok(true)
    }

    /// Whether a leg at this place is waited for: good, or about to be recorded so.
    #[must_use]
    pub fn has_leg(&self, place: LegPlace) -> bool {
        self.mirrors.get(usize::from(place.mirror)).is_some_and(|mirror| mirror.leg_at(place).is_some())
    }

    /// Told that the records say since now that this leg is good. One that is not ready for it, which cannot be, holds up
    /// every acknowledgement until it is recorded bad again.
    pub fn leg_recorded_good(&self, place: LegPlace) {
        let Some(mirror) = self.mirrors.get(usize::from(place.mirror)) else { return };
        if let Some(leg) = mirror.leg_at(place) {
            return mirror.leg_recorded_good(&leg);
        }
        let (Some(disk), Some(like)) = (self.switch.overseer.disk_of(place), mirror.legs().first().cloned()) else {
            return self.stop();
        };
        error!(leg = %place, "recorded good without having everything: to be recorded bad again");
        let parts = LegParts { place, disk, areas: like.areas, geometry: like.geometry() };
        let leg = Rc::new(Leg::new(parts, Standing::Good, Rc::clone(&self.switch)));
        leg.fail();
        mirror.put(Rc::clone(&leg));
        spawn_local(supervise(leg, Rc::downgrade(mirror)));
    }
}
