//! Making the legs of a mirror equal while clients go on.
//!
//! One task a mirror, a few copies at once in the whole pool. Regions in use are compared from the front, then those
//! noted since (a disk that lost its cache, a write every leg refused). A copy holds its region's lock, so it never
//! crosses a client's write. While clients are busy every copy is followed by a rest as long as the copy took, so they
//! keep at least half of the disks' time.

use std::cell::RefCell;
use std::ops::Range;
use std::rc::Rc;

use tokio::sync::{Notify, Semaphore};
use tokio::time::{Instant, sleep};
use understudy_layout::metadata::Metadata;

use crate::mirror::{Mirror, REGION_BYTES};
use crate::switch::Switch;

/// Copies under way at once in a pool: enough to keep a shelf busy, few enough (2 MiB each) not to matter in memory.
pub const COPIES_AT_ONCE: usize = 4;

/// Attempts at the front region before it is put on the list and the others get their turn.
const PATIENCE: u32 = 3;

/// How far a resync is. Regions are of 1 MiB, whether in use or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ResyncProgress {
    /// Regions known to be equal.
    pub equal: u64,
    /// All regions.
    pub of: u64,
}

/// What every mirror's task shares.
pub struct ResyncShared {
    pub metadata: Rc<RefCell<Rc<Metadata>>>,
    pub permits: Semaphore,
    pub equal: Notify,
    pub switch: Rc<Switch>,
}

/// The task of one mirror; ends with the pool.
pub async fn resync(index: u16, mirror: Rc<Mirror>, shared: Rc<ResyncShared>) {
    let mut attempts = 0;
    let mut after_listed = 0;
    // BOUND: each round copies a region, or waits for one that differs, or ends with the pool.
    while !shared.switch.is_stopped() {
        let differs = mirror.differs.notified();
        let front = front_region(index, &mirror, &shared.metadata.borrow());
        let Some(region) = front.or_else(|| mirror.next_listed(after_listed)) else {
            shared.equal.notify_waiters();
            tokio::select! { biased; () = differs => {}, () = shared.switch.stopped() => {} }
            continue;
        };
        if politely(mirror.copy_region(region), &shared).await {
            attempts = 0;
        } else if front.is_some() && attempts < PATIENCE {
            attempts += 1;
        } else {
            attempts = 0;
            mirror.postpone(region);
        }
        after_listed = region.wrapping_add(1);
    }
}

/// Regions of a mirror that belong to volumes, run by run.
pub fn runs_in_use(index: u16, metadata: &Metadata) -> impl Iterator<Item = Range<u32>> + '_ {
    let per_chunk = u64::from(metadata.chunk_bytes) / REGION_BYTES;
    let runs = metadata.volumes.values().flat_map(|volume| &volume.runs).filter(move |run| run.mirror == index);
    runs.filter_map(move |run| {
        let first = u64::from(run.physical) * per_chunk;
        let end = first + u64::from(run.chunks) * per_chunk;
        Some(u32::try_from(first).ok()?..u32::try_from(end).ok()?)
    })
}

/// The first region in use that was not compared yet; regions not in use are passed over.
fn front_region(index: u16, mirror: &Mirror, metadata: &Metadata) -> Option<u32> {
    let from = mirror.compared_to();
    if from >= mirror.regions {
        return None;
    }
    let candidates = runs_in_use(index, metadata).filter_map(|run| {
        let candidate = run.start.max(from);
        (candidate < run.end).then_some(candidate)
    });
    let next = candidates.min();
    mirror.set_compared_to(next.unwrap_or(mirror.regions));
    next
}

/// Makes a copy when it is its turn, and then rests for as long as it took if clients are busy.
pub async fn politely(copy: impl Future<Output = bool>, shared: &ResyncShared) -> bool {
    let Ok(permit) = shared.permits.acquire().await else { return false };
    let (begun, commands) = (Instant::now(), shared.switch.commands.get());
    let copied = copy.await;
    drop(permit);
    if !copied {
        sleep(shared.switch.retry_delay).await;
    } else if shared.switch.commands.get() == commands {
        tokio::task::yield_now().await;
    } else {
        sleep(begun.elapsed()).await;
    }
    copied
}
