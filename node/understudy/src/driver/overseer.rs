//! What a pool asks of its node: proof that the fence stands, and a record of a leg that was lost.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

use futures_util::future::LocalBoxFuture;
use tokio::sync::{mpsc, oneshot};
use understudy_disk::disk::{Disk, Link};
use understudy_failover::effect::FenceKind;
use understudy_failover::fence::DiskFence;
use understudy_failover::input::Input;
use understudy_failover::key::ReservationKey;
use understudy_failover::words::{LegIndex, MirrorIndex, PoolId};
use understudy_pool::{LegPlace, Overseer, Proof, Reason};

use super::fence::fence_one;
#[cfg(feature = "mistakes")]
use super::mistakes::{Mistake, is_made};

/// One pool's link to the failover machine.
pub struct PoolOverseer {
    pool: PoolId,
    /// The key the pool's disks were last fenced with.
    key: Cell<Option<ReservationKey>>,
    waiting: RefCell<BTreeMap<LegPlace, Vec<oneshot::Sender<()>>>>,
    facts: mpsc::UnboundedSender<Input>,
}

impl PoolOverseer {
    /// An overseer of a pool that is not fenced yet.
    #[must_use]
    pub fn new(pool: PoolId, facts: mpsc::UnboundedSender<Input>) -> Self {
        Self { pool, key: Cell::new(None), waiting: RefCell::default(), facts }
    }

    /// The pool's disks are fenced with this key from now on.
    pub fn fenced_with(&self, key: ReservationKey) {
        self.key.set(Some(key));
    }

    /// The key of the last fence.
    #[must_use]
    pub fn key(&self) -> Option<ReservationKey> {
        self.key.get()
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
        let _ = self.facts.send(Input::FenceDoubted { pool: self.pool });
    }
}

async fn look(disk: &dyn Disk, key: ReservationKey) -> Proof {
    let Link::Connected { epoch } = disk.link() else { return Proof::Unknown };
    // Done in one epoch of the link, this one, or not at all.
    match fence_one(disk, key, FenceKind::Look).await {
        DiskFence::Fenced => Proof::Held { epoch },
        DiskFence::Lost | DiskFence::NewerKey(_) => Proof::Lost,
        DiskFence::Incomplete => Proof::Unknown,
    }
}

/// LOGICAL UNIT RESET, whose answer says that nothing sent before it is at the medium any more (SAM-5 r21 §7.7).
async fn abort_own_commands(disk: &dyn Disk) -> bool {
    match disk.reservations() {
        Some(reservations) => reservations.reset().await.is_ok(),
        None => false,
    }
}

impl Overseer for PoolOverseer {
    fn prove_fence<'a>(&'a self, _: LegPlace, disk: &'a dyn Disk, reason: Reason) -> LocalBoxFuture<'a, Proof> {
        Box::pin(async move {
            let Some(key) = self.key.get() else { return Proof::Unknown };
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
        let _ = self.facts.send(Input::LegFailed { pool: self.pool, mirror, leg });
        #[cfg(feature = "mistakes")]
        if is_made(Mistake::LegDroppedUnrecorded) {
            self.leg_dropped(place);
        }
        Box::pin(async move { answer.await.is_ok() })
    }

    fn fenced(&self, _: LegPlace) {
        self.doubt();
    }
}
