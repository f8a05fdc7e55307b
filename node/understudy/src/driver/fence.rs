//! The fence of a pool's disks: carried out move by move, as [`fence_move`] says, on all disks side by side.
//!
//! Every function reports what was read back, disk by disk. A disk whose session changed in the meantime counts as not
//! done: what was proved in the old session proves nothing in the new one.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::Instant;
use understudy_disk::disk::{Disk, Link};
use understudy_disk::reservation::{Key, Keys, Reservation, ReservationType};
use understudy_failover::effect::FenceKind;
use understudy_failover::fence::{
    DiskFence, DiskStanding, FenceMove, FenceType, PlacedFence, Registered, fence_move, victims_ahead,
};
use understudy_failover::key::ReservationKey;
use understudy_failover::words::{LegIndex, MirrorIndex, NodeId, PairId, PoolId};
use understudy_pool::{FencedLeg, LegPlace};

#[cfg(feature = "mistakes")]
use super::mistakes::{Mistake, is_made};
use super::shelves::PlacedDisk;

/// Moves on one disk. BOUND: register, one preempt a stale key, change of type, and a look after each.
const MOVES: usize = 24;

fn wire_type(kind: FenceType) -> ReservationType {
    match kind {
        FenceType::WriteGuard => ReservationType::WriteExclusiveRegistrantsOnly,
        FenceType::Exclusive => ReservationType::ExclusiveAccessRegistrantsOnly,
    }
}

fn fence_type(kind: ReservationType) -> Option<FenceType> {
    match kind {
        ReservationType::WriteExclusiveRegistrantsOnly => Some(FenceType::WriteGuard),
        ReservationType::ExclusiveAccessRegistrantsOnly => Some(FenceType::Exclusive),
        ReservationType::WriteExclusive
        | ReservationType::ExclusiveAccess
        | ReservationType::WriteExclusiveAllRegistrants
        | ReservationType::ExclusiveAccessAllRegistrants => None,
    }
}

/// READ KEYS and READ RESERVATION; `None` if the disk does not answer.
pub async fn standing_of(disk: &dyn Disk) -> Option<DiskStanding> {
    let reservations = disk.reservations()?;
    let (keys, reservation) = tokio::join!(reservations.read_keys(), reservations.read_reservation());
    Some(standing(keys.ok()?, reservation.ok()?))
}

fn standing(keys: Keys, reservation: Option<Reservation>) -> DiskStanding {
    let mut keys: Vec<_> = keys.keys.into_iter().map(|key| ReservationKey(key.0)).collect();
    // A target that binds registrations to sessions lists a key once more for each session it has forgotten.
    keys.sort_unstable();
    keys.dedup();
    let reservation = reservation.map(|held| (ReservationKey(held.key.0), fence_type(held.kind)));
    DiskStanding { keys, reservation }
}

/// How long what was seen beforehand is used. Later it would not be wrong, but most likely for nothing.
const FORESEEN_FOR: Duration = Duration::from_secs(1);

/// What stood on the disks of a pool shortly before it is to be fenced, each with the epoch of the link it was read in.
///
/// The first moves of a fence follow from it, so that no look has to come before them. It proves nothing: what counts is what is read back behind
/// the moves, and where that is not the end the disk is looked at anew.
#[derive(Default)]
pub struct Foreseen(RefCell<BTreeMap<PoolId, (Instant, Standings)>>);

type Standings = BTreeMap<LegPlace, (u64, DiskStanding)>;

impl Foreseen {
    /// Looks at the disks of a pool that this node will probably fence soon.
    pub async fn look(&self, pool: PoolId, disks: &[PlacedDisk]) {
        let began = Instant::now();
        let looks = disks.iter().map(|placed| async move {
            let Link::Connected { epoch } = placed.disk.link() else { return None };
            Some((placed.place, (epoch, standing_of(placed.disk.as_ref()).await?)))
        });
        let standings = join_all(looks).await.into_iter().flatten().collect();
        self.0.borrow_mut().insert(pool, (began, standings));
    }

    /// What was seen; a fence uses it once.
    fn take(&self, pool: PoolId) -> Standings {
        let seen = self.0.borrow_mut().remove(&pool).filter(|(began, _)| began.elapsed() < FORESEEN_FOR);
        seen.map(|(_, standings)| standings).unwrap_or_default()
    }
}

/// What became of the disks of a pool.
pub struct FencedDisks {
    /// One outcome a disk.
    pub outcomes: Vec<PlacedFence>,
    /// The disks fenced, with the session it was done in.
    pub legs: Vec<FencedLeg>,
}

/// Fences every disk of a pool, or only looks.
pub async fn fence_all(
    (pool, disks): (PoolId, &[PlacedDisk]),
    own: ReservationKey,
    kind: FenceKind,
    foreseen: &Foreseen,
) -> FencedDisks {
    let mut foreseen = foreseen.take(pool);
    let fences = disks.iter().map(|placed| {
        let (place, before) = (placed.place, placed.disk.link());
        let seen = foreseen.remove(&place).filter(|(epoch, _)| before == Link::Connected { epoch: *epoch });
        async move {
            let outcome = fence_from(placed.disk.as_ref(), own, kind, seen.map(|(_, standing)| standing)).await;
            let leg = match (outcome, before) {
                (DiskFence::Fenced, Link::Connected { epoch }) => Some(FencedLeg { place, epoch }),
                _ => None,
            };
            ((MirrorIndex(place.mirror), LegIndex(place.leg), outcome), leg)
        }
    });
    let (outcomes, legs): (_, Vec<_>) = join_all(fences).await.into_iter().unzip();
    FencedDisks { outcomes, legs: legs.into_iter().flatten().collect() }
}

/// Fences one disk, or only looks at it. Looking changes no fence, but renews a registration that the target forgot with the
/// session it was made in.
pub async fn fence_one(disk: &dyn Disk, own: ReservationKey, kind: FenceKind) -> DiskFence {
    fence_from(disk, own, kind, None).await
}

async fn fence_from(
    disk: &dyn Disk,
    own: ReservationKey,
    kind: FenceKind,
    foreseen: Option<DiskStanding>,
) -> DiskFence {
    let Link::Connected { epoch } = disk.link() else { return DiskFence::Unreached };
    let end = move_until_end(disk, own, kind, foreseen).await;
    if disk.link() != (Link::Connected { epoch }) {
        return DiskFence::Incomplete;
    }
    if end == DiskFence::Fenced {
        disk.trust(epoch);
    }
    end
}

/// Whether moves may be sent before the ones before them were answered; a deliberate mistake in one of them is made alone.
fn may_run_ahead() -> bool {
    #[cfg(feature = "mistakes")]
    if is_made(Mistake::PreemptWithoutAbort) {
        return false;
    }
    true
}

async fn move_until_end(
    disk: &dyn Disk,
    own: ReservationKey,
    kind: FenceKind,
    mut foreseen: Option<DiskStanding>,
) -> DiskFence {
    let Some(reservations) = disk.reservations() else { return DiskFence::Incomplete };
    #[cfg(feature = "mistakes")]
    if is_made(Mistake::FenceNotReadBack) && kind != FenceKind::Look {
        let _ = reservations.register(Key(own.0)).await;
        return DiskFence::Fenced;
    }
    let mut registered = Registered::NotYet;
    // What was seen beforehand says what to begin with, and never how it ended.
    foreseen.take_if(|seen| victims_ahead(seen, own, kind, registered).is_empty());
    for _ in 0..MOVES {
        let now = match foreseen.take() {
            Some(seen) => seen,
            None => match standing_of(disk).await {
                Some(seen) => seen,
                None => return DiskFence::Unreached,
            },
        };
        let own_key = Key(own.0);
        let ahead = victims_ahead(&now, own, kind, registered);
        if let Some((_, wanted)) = ahead.first().filter(|_| may_run_ahead()) {
            registered = Registered::Already;
            let victims: Vec<_> = ahead.iter().map(|(victim, _)| Key(victim.0)).collect();
            let seen = reservations.seize(own_key, &victims, wire_type(*wanted)).await;
            let seen = seen.map(|(keys, reservation)| standing(keys, reservation));
            if seen.is_ok_and(|seen| fence_move(&seen, own, kind, registered) == FenceMove::End(DiskFence::Fenced)) {
                return DiskFence::Fenced;
            }
            continue;
        }
        // Whatever a move answers, what is read next tells.
        let _ = match fence_move(&now, own, kind, registered) {
            FenceMove::End(DiskFence::Fenced) if registered == Registered::NotYet => {
                let kept = reservations.keep_registered(own_key).await;
                return if kept == Ok(true) { DiskFence::Fenced } else { DiskFence::Incomplete };
            }
            FenceMove::End(end) => return end,
            FenceMove::Register => {
                registered = Registered::Already;
                reservations.register(own_key).await
            }
            #[cfg(feature = "mistakes")]
            FenceMove::PreemptAndAbort(victim, kind) if is_made(Mistake::PreemptWithoutAbort) => {
                reservations.preempt(own_key, Key(victim.0), wire_type(kind)).await
            }
            FenceMove::PreemptAndAbort(victim, kind) => {
                reservations.preempt_and_abort(own_key, Key(victim.0), wire_type(kind)).await
            }
            FenceMove::Reserve(kind) => reservations.reserve(own_key, wire_type(kind)).await,
            FenceMove::ChangeType(kind) => reservations.preempt(own_key, own_key, wire_type(kind)).await,
        };
    }
    DiskFence::Incomplete
}

/// Changes the type of the own reservation on every disk in one step each, by PREEMPT of the own key, and counts the disks that
/// read back so. A registration that a defeated partner had under way may have landed after the fence: it is taken away here, as
/// the fence would have done, or nothing would ever be released.
pub async fn change_type(disks: &[PlacedDisk], own: ReservationKey, to: FenceType) -> usize {
    let change = |PlacedDisk { disk, .. }: PlacedDisk| async move {
        let Some(reservations) = disk.reservations() else { return false };
        let _ = reservations.preempt(Key(own.0), Key(own.0), wire_type(to)).await;
        let Some(now) = standing_of(disk.as_ref()).await else { return false };
        let stands = now.reservation == Some((own, Some(to)));
        stands && (now.keys == [own] || move_until_end(disk.as_ref(), own, to.into(), None).await == DiskFence::Fenced)
    };
    join_all(disks.iter().cloned().map(change)).await.into_iter().filter(|done| *done).count()
}

/// What READ RESERVATION said on the disks of pools the partner holds for this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReleaseFound {
    /// Disks this node may read: type 5 held by a key of the partner, or still held by a key of this node itself because the partner
    /// could not reach the disk to fence it.
    pub open: u32,
    /// Disks that answered.
    pub of: u32,
}

/// Looks on how many disks the partner has put a write guard in the place of its exclusive reservation.
pub async fn check_release(disks: &[Rc<dyn Disk>], pair: PairId, own: NodeId) -> ReleaseFound {
    let found = join_all(disks.iter().map(|disk| standing_of(disk.as_ref()))).await;
    let may_read = |now: &&&DiskStanding| {
        now.reservation.is_some_and(|(key, kind)| {
            key.is_of(pair, own) || (kind == Some(FenceType::WriteGuard) && key.is_of(pair, own.partner()))
        })
    };
    let answered: Vec<_> = found.iter().flatten().collect();
    let open = answered.iter().filter(may_read).count();
    ReleaseFound { open: open as u32, of: answered.len() as u32 }
}

#[cfg(test)]
#[path = "fence_tests.rs"]
mod tests;
