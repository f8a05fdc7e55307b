//! From one metadata version to the next: changes asked for at the same time share a write, and a version that could not be
//! written everywhere is taken back.
//!
//! Problem: what a client was told of its reservations is metadata. A write that one mirror took and another refused leaves a
//! version on some disks that this node does not know as its own; the next owner would find it, and with it reservations of which
//! the client was told that they were not made.
//!
//! Idea: there is no answer while the disks may say something else than this node. A version that failed is blanked, leg by leg, until
//! none that counts shows it any more; then the version before is the newest everywhere, as it is here, and the change is refused. Until
//! then it has no outcome, as a write of unknown outcome has none: it vetoes a hand-off, and if this node dies, whichever state the next
//! owner finds is one that a client with an unanswered command has to expect.
//!
//! One image is written at a time, to every disk of the pool. So a change that comes while one is being written waits, and all
//! that waited go together, within bounds: a cluster of clients that moves to another host with a thousand volumes costs a score of
//! writes and not a thousand.

use std::collections::VecDeque;
use std::rc::Rc;

use bytes::Bytes;
use futures_util::future::join_all;
use tokio::sync::oneshot;
use tokio::task::spawn_local;
use tokio::time::sleep;
use tracing::{error, info};
use understudy_layout::MetadataVersion;
use understudy_layout::allocate::AllocateError;
use understudy_layout::metadata::{Metadata, MetadataError};

use crate::leg::UnknownOutcome;
use crate::mirror::MirrorFault;
use crate::pool::{Pool, VolumeError};
use crate::store::{self, Withdrawn};

/// Changes that share a write. Each copies the map of every volume: with a thousand volumes so many take some ten milliseconds, for which
/// nothing else of this thread goes on.
const MOST_TOGETHER: usize = 64;

/// What a change makes of the metadata before it.
type Change = Box<dyn Fn(&Metadata) -> Result<Metadata, AllocateError>>;

/// A change and who waits for it.
pub struct Asked {
    change: Change,
    answer: oneshot::Sender<Result<Rc<Metadata>, VolumeError>>,
}

impl Asked {
    fn answer(self, outcome: Result<Rc<Metadata>, VolumeError>) {
        // Whoever asked may be gone; what was asked is carried through all the same.
        let _ = self.answer.send(outcome);
    }
}

impl Pool {
    /// Writes the metadata that `change` makes of the present one. Once begun it is carried through.
    pub(crate) async fn commit(
        &self,
        change: impl Fn(&Metadata) -> Result<Metadata, AllocateError> + 'static,
    ) -> Result<Rc<Metadata>, VolumeError> {
        let me = self.me.upgrade().ok_or(VolumeError::Fenced)?;
        let (answer, outcome) = oneshot::channel();
        self.asked.borrow_mut().push_back(Asked { change: Box::new(change), answer });
        // As many turns as changes, and each takes one change or more: none is left behind.
        spawn_local(async move { me.commit_what_is_asked().await });
        // The task ends without an answer only when the runtime goes down, and then nobody is answered any more.
        outcome.await.unwrap_or(Err(VolumeError::Fenced))
    }

    async fn commit_what_is_asked(&self) {
        let _turn = self.store.lock().await;
        let asked = {
            let mut waiting = self.asked.borrow_mut();
            let together = waiting.len().min(MOST_TOGETHER);
            waiting.drain(..together).collect()
        };
        let (next, granted) = self.after(asked);
        if granted.is_empty() {
            return;
        }
        match next.encode(self.slot_bytes) {
            Ok(image) => {
                let outcome = self.write_version(next, image.into()).await;
                granted.into_iter().for_each(|asked| asked.answer(outcome.clone()));
            }
            Err(full) => self.refuse_or_try_alone(granted, full).await,
        }
    }

    /// The version after all of these changes, and those it has; the others are answered.
    fn after(&self, asked: VecDeque<Asked>) -> (Metadata, VecDeque<Asked>) {
        let base = self.metadata();
        let mut next = Metadata::clone(&base);
        let mut granted = VecDeque::new();
        for asked in asked {
            match (asked.change)(&next) {
                Ok(changed) => {
                    next = changed;
                    granted.push_back(asked);
                }
                Err(refused) => asked.answer(Err(refused.into())),
            }
        }
        next.version = MetadataVersion(base.version.0 + 1);
        (next, granted)
    }

    /// No room for all of them: the first goes alone, so that one that asks for too much does not cost the others theirs.
    async fn refuse_or_try_alone(&self, mut granted: VecDeque<Asked>, full: MetadataError) {
        let Some(first) = granted.pop_front() else { return };
        if granted.is_empty() {
            return first.answer(Err(full.into()));
        }
        let later = std::mem::take(&mut *self.asked.borrow_mut());
        self.asked.borrow_mut().extend(granted.into_iter().chain(later));
        let (next, alone) = self.after([first].into());
        let outcome = match next.encode(self.slot_bytes) {
            Ok(image) => self.write_version(next, image.into()).await,
            Err(full) => Err(full.into()),
        };
        alone.into_iter().for_each(|asked| asked.answer(outcome.clone()));
    }

    async fn write_version(&self, next: Metadata, image: Bytes) -> Result<Rc<Metadata>, VolumeError> {
        match store::write(&self.mirrors, next.slot(), &image).await {
            Ok(()) => {
                let next = Rc::new(next);
                *self.metadata.borrow_mut() = Rc::clone(&next);
                Ok(next)
            }
            Err(MirrorFault::Stopped) => Err(VolumeError::Fenced),
            Err(MirrorFault::Medium) => Err(self.withdraw(&next).await),
        }
    }

    /// Ends when no leg that counts shows this version any more; says what to answer then.
    async fn withdraw(&self, failed: &Metadata) -> VolumeError {
        let version = failed.version.0;
        error!(version, "a metadata version was refused by a mirror and is taken back");
        let mut unknown = UnknownOutcome::new(&self.switch);
        unknown.count();
        // BOUND: each round ends with answers of the disks; it goes on until they are mended, recorded bad, or the pool is stopped.
        loop {
            let legs: Vec<_> = self.mirrors.iter().flat_map(|mirror| mirror.counting_legs()).collect();
            let withdrawn = join_all(legs.iter().map(|leg| store::withdraw(leg, failed))).await;
            if withdrawn.contains(&Withdrawn::Stopped) {
                return VolumeError::Fenced;
            }
            if withdrawn.iter().all(|&withdrawn| withdrawn == Withdrawn::Gone) {
                info!(version, "taken back");
                return VolumeError::Refused;
            }
            sleep(self.switch.retry_delay).await;
        }
    }

    /// Writes the metadata in force anew, under another generation, before the pool serves. A version that fails is left where it is:
    /// it says the same, and the pool is not served.
    pub(crate) async fn rewrite(&self, generation: u64) -> Result<(), VolumeError> {
        let _turn = self.store.lock().await;
        let next = self.metadata().with_generation(generation);
        let image = Bytes::from(next.encode(self.slot_bytes)?);
        store::write(&self.mirrors, next.slot(), &image).await?;
        *self.metadata.borrow_mut() = Rc::new(next);
        Ok(())
    }
}
