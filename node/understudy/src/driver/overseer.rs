//! What a pool asks of its node: proof that the fence stands, and records of legs that are lost or back.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

use futures_util::future::LocalBoxFuture;
use tokio::sync::{mpsc, oneshot};
use understudy_disk::disk::{Disk, Link};
use understudy_failover::effect::FenceKind;
use understudy_failover::fence::DiskFence;
use understudy_failover::input::Input;
use understudy_failover::key::ReservationKey;
use understudy_failover::survey::KeyMajority;
use understudy_failover::words::{LegIndex, MirrorIndex, PoolId};
use understudy_pool::{LegPlace, Overseer, Proof, Reason, ReturnNews};

use super::fence::fence_one;
use super::lane::Lane;
use super::locks::LockDisks;
#[cfg(feature = "mistakes")]
use super::mistakes::{Mistake, is_made};
use super::shelves::PlacedDisk;
use crate::timeline::Recorder;

/// Looks after a reset: the first may meet its unit attention.
const LOOKS: usize = 3;

/// The fence a pool's disks have: what a leg that comes back is given.
#[derive(Debug, Clone, Copy)]
struct Fence {
    key: ReservationKey,
    kind: FenceKind,
}

/// What an overseer is made of.
pub struct OverseerParts {
    /// Its pool.
    pub pool: PoolId,
    /// The pool's name.
    pub name: String,
    /// Every disk of the pool, whether its leg is good or not.
    pub disks: Vec<PlacedDisk>,
    /// Their names in the configuration.
    pub disk_names: BTreeMap<LegPlace, String>,
    /// Where orders on the reservations of the pool wait for their turn.
    pub lane: Lane,
    /// Where facts go.
    pub facts: mpsc::UnboundedSender<Input>,
    /// Where steps are kept.
    pub recorder: Rc<Recorder>,
    /// The lock disks.
    pub locks: Rc<LockDisks>,
}

/// One pool's link to the failover machine.
pub struct PoolOverseer {
    parts: OverseerParts,
    /// The fence of the pool's disks, in the order of its lane.
    fence: Rc<Cell<Option<Fence>>>,
    waiting: RefCell<BTreeMap<LegPlace, Vec<oneshot::Sender<()>>>>,
}

impl PoolOverseer {
    /// An overseer of a pool that is not fenced yet.
    #[must_use]
    pub fn new(parts: OverseerParts) -> Self {
        Self { parts, fence: Rc::default(), waiting: RefCell::default() }
    }

    /// The pool's disks are fenced with this key from now on; a mere look leaves the kind of fence as it is.
    pub fn fenced_with(&self, key: ReservationKey, kind: FenceKind) {
        let kind = match kind {
            FenceKind::Exclusive | FenceKind::WriteGuard => kind,
            FenceKind::Look => self.fence.get().map_or(FenceKind::WriteGuard, |fence| fence.kind),
        };
        self.fence.set(Some(Fence { key, kind }));
    }

    /// The reservations on the pool's disks are of this kind from now on.
    pub fn retyped(&self, kind: FenceKind) {
        if let Some(fence) = self.fence.get() {
            self.fence.set(Some(Fence { kind, ..fence }));
        }
    }

    /// The key of the last fence.
    #[must_use]
    pub fn key(&self) -> Option<ReservationKey> {
        self.fence.get().map(|fence| fence.key)
    }

    /// A leg is recorded good: whatever the fence of the pool became while it was copied to, its disk has it too.
    pub fn leg_taken_back(&self, place: LegPlace) {
        let (Some(disk), fence) = (self.disk_of(place), Rc::clone(&self.fence)) else { return };
        self.parts.lane.give(async move {
            let Some(Fence { key, kind }) = fence.get() else { return };
            fence_one(disk.as_ref(), key, kind).await;
        });
    }

    fn record(&self, step: &str, place: LegPlace, text: &str) {
        let disk = self.parts.disk_names.get(&place).cloned().unwrap_or_default();
        let values = [
            ("pool".to_owned(), self.parts.name.clone().into()),
            ("mirror".to_owned(), place.mirror.into()),
            ("leg".to_owned(), place.leg.into()),
            ("disk".to_owned(), disk.clone().into()),
        ];
        let text = format!("{disk} of {}, {place}: {text}", self.parts.name);
        self.parts.recorder.record(step, text, values.into());
    }

    /// The loss of this leg stands in the records.
    pub fn leg_dropped(&self, place: LegPlace) {
        for waiting in self.waiting.borrow_mut().remove(&place).unwrap_or_default() {
            // The pool may have been closed meanwhile.
            let _ = waiting.send(());
        }
    }

    fn doubt(&self) {
        // The receiver lives as long as the process.
        let _ = self.parts.facts.send(Input::FenceDoubted { pool: self.parts.pool });
    }
}

async fn look(disk: &dyn Disk, key: ReservationKey) -> Proof {
    let Link::Connected { epoch } = disk.link() else { return Proof::Unknown };
    // Done in one epoch of the link, this one, or not at all.
    match fence_one(disk, key, FenceKind::Look).await {
        DiskFence::Fenced => Proof::Held { epoch },
        DiskFence::Lost | DiskFence::NewerKey(_) => Proof::Lost,
        DiskFence::Incomplete | DiskFence::Unreached => Proof::Unknown,
    }
}

/// LOGICAL UNIT RESET, whose answer says that nothing sent before it is at the medium any more (SAM-5 r21 §7.7).
async fn abort_own_commands(disk: &dyn Disk) -> bool {
    match disk.reservations() {
        Some(reservations) => reservations.reset().await.is_ok(),
        None => false,
    }
}

/// Fences the disk of a leg that comes back and lets nothing that was sent to it before reach the medium any more.
async fn fence_anew(disk: &dyn Disk, Fence { key, kind }: Fence) -> Proof {
    match fence_one(disk, key, kind).await {
        DiskFence::Fenced => {}
        DiskFence::Lost | DiskFence::NewerKey(_) => return Proof::Lost,
        DiskFence::Incomplete | DiskFence::Unreached => return Proof::Unknown,
    }
    if !abort_own_commands(disk).await {
        return Proof::Unknown;
    }
    for _ in 0..LOOKS {
        match look(disk, key).await {
            Proof::Unknown => {}
            known => return known,
        }
    }
    Proof::Unknown
}

impl Overseer for PoolOverseer {
    fn prove_fence<'a>(&'a self, _: LegPlace, disk: &'a dyn Disk, reason: Reason) -> LocalBoxFuture<'a, Proof> {
        Box::pin(async move {
            let Some(key) = self.key() else { return Proof::Unknown };
            #[cfg(feature = "mistakes")]
            if let (true, Link::Connected { epoch }) = (is_made(Mistake::EverySessionTrusted), disk.link()) {
                disk.trust(epoch);
                return Proof::Held { epoch };
            }
            let looked = look(disk, key).await;
            #[cfg(feature = "mistakes")]
            let reason = if is_made(Mistake::UnknownWriteRepeated) { Reason::NewLink } else { reason };
            // Only an owner resets: it would abort the commands of the node that fenced this one. Not every target waits, when
            // a session is made again, for what the old one had at the medium.
            match (looked, reason) {
                (Proof::Held { .. }, Reason::OutcomeUnknown) if abort_own_commands(disk).await => look(disk, key).await,
                (Proof::Held { .. }, Reason::OutcomeUnknown) => Proof::Unknown,
                (looked, _) => looked,
            }
        })
    }

    fn drop_leg(&self, place: LegPlace) -> LocalBoxFuture<'_, bool> {
        let (recorded, answer) = oneshot::channel();
        self.waiting.borrow_mut().entry(place).or_default().push(recorded);
        let (mirror, leg) = (MirrorIndex(place.mirror), LegIndex(place.leg));
        let _ = self.parts.facts.send(Input::LegFailed { pool: self.parts.pool, mirror, leg });
        #[cfg(feature = "mistakes")]
        if is_made(Mistake::LegDroppedUnrecorded) {
            self.leg_dropped(place);
        }
        Box::pin(async move { answer.await.is_ok() })
    }

    fn disk_of(&self, place: LegPlace) -> Option<Rc<dyn Disk>> {
        let placed = self.parts.disks.iter().find(|placed| placed.place == place);
        placed.map(|placed| Rc::clone(&placed.disk))
    }

    fn fence_leg<'a>(&'a self, place: LegPlace, _: &'a dyn Disk) -> LocalBoxFuture<'a, Proof> {
        let (done, answer) = oneshot::channel();
        if let Some(disk) = self.disk_of(place) {
            let fence = Rc::clone(&self.fence);
            self.parts.lane.give(async move {
                // A pool that was closed meanwhile wants no fence any more.
                if let (Some(fence), false) = (fence.get(), done.is_closed()) {
                    // The pool may be closed while it is made.
                    let _ = done.send(fence_anew(disk.as_ref(), fence).await);
                }
            });
        }
        Box::pin(async move {
            let proof = answer.await.unwrap_or(Proof::Unknown);
            if proof == Proof::Lost {
                // Of a leg that is not good this alone says nothing, but it is a reason to look at those that are.
                self.doubt();
            }
            proof
        })
    }

    fn leg_resynced(&self, place: LegPlace) {
        let (mirror, leg) = (MirrorIndex(place.mirror), LegIndex(place.leg));
        let _ = self.parts.facts.send(Input::LegResynced { pool: self.parts.pool, mirror, leg });
    }

    fn is_still_owner(&self) -> LocalBoxFuture<'_, bool> {
        Box::pin(async move { self.parts.locks.own_key_majority().await == KeyMajority::Held })
    }

    fn tell(&self, place: LegPlace, news: ReturnNews) {
        match news {
            ReturnNews::Begun => self.record("leg-resync", place, "answers again, is fenced and copied to"),
            ReturnNews::Copied { percent } => {
                self.record("leg-resync-progress", place, &format!("{percent} % copied"));
            }
            ReturnNews::Good => self.record("leg-taken-back", place, "holds the same and is recorded good again"),
            ReturnNews::GivenUp(why) => {
                self.record("leg-resync-ended", place, &format!("not taken back this time, {why}"));
            }
        }
    }

    fn fenced(&self, _: LegPlace) {
        self.doubt();
    }
}
