//! A medium whose writes can be held back: for tests and for `doctor`, never part of a shelf that serves a pair.
//!
//! It makes visible what a disk does with a write that is already at the medium when its initiator is fenced: PREEMPT
//! AND ABORT must not answer before that write has landed or can never land.

use std::rc::Rc;

use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::future::LocalBoxFuture;
use tokio::sync::watch;
use understudy_device::medium::{Durability, Geometry, Medium, MediumError};

/// The switch of a [`DelayedMedium`]; clones are the same switch.
#[derive(Clone)]
pub struct WriteDelay {
    holding: watch::Sender<bool>,
    held: watch::Sender<usize>,
}

impl Default for WriteDelay {
    fn default() -> Self {
        Self { holding: watch::Sender::new(false), held: watch::Sender::new(0) }
    }
}

impl WriteDelay {
    /// From now on writes wait at the medium.
    pub fn hold(&self) {
        self.holding.send_replace(true);
    }

    /// Lets all waiting writes go on, and later ones pass.
    pub fn release(&self) {
        self.holding.send_replace(false);
    }

    /// Writes waiting now.
    #[must_use]
    pub fn held(&self) -> usize {
        *self.held.borrow()
    }

    /// Waits until at least `count` writes wait.
    pub async fn holds(&self, count: usize) {
        // The sender lives in `self`, so the wait cannot fail.
        let _ = self.held.subscribe().wait_for(|held| *held >= count).await;
    }

    async fn pass(&self) {
        if !*self.holding.borrow() {
            return;
        }
        let _counted = Held::new(&self.held);
        // As above.
        let _ = self.holding.subscribe().wait_for(|holding| !holding).await;
    }
}

/// One waiting write; counted until it goes on or is dropped.
struct Held<'a>(&'a watch::Sender<usize>);

impl<'a> Held<'a> {
    fn new(held: &'a watch::Sender<usize>) -> Self {
        held.send_modify(|count| *count += 1);
        Self(held)
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}

/// A medium that asks a [`WriteDelay`] before each write and zeroing.
pub struct DelayedMedium {
    inner: Rc<dyn Medium>,
    delay: WriteDelay,
}

impl DelayedMedium {
    /// Puts the switch in front of `inner`.
    #[must_use]
    pub fn new(inner: Rc<dyn Medium>, delay: WriteDelay) -> Self {
        Self { inner, delay }
    }
}

impl Medium for DelayedMedium {
    fn geometry(&self) -> Geometry {
        self.inner.geometry()
    }

    fn read(&self, lba: u64, blocks: u32) -> LocalBoxFuture<'_, Result<Bytes, MediumError>> {
        self.inner.read(lba, blocks)
    }

    fn write(&self, lba: u64, bytes: Bytes, durability: Durability) -> LocalBoxFuture<'_, Result<(), MediumError>> {
        async move {
            self.delay.pass().await;
            self.inner.write(lba, bytes, durability).await
        }
        .boxed_local()
    }

    fn flush(&self) -> LocalBoxFuture<'_, Result<(), MediumError>> {
        self.inner.flush()
    }

    fn zero(&self, lba: u64, blocks: u64) -> LocalBoxFuture<'_, Result<(), MediumError>> {
        async move {
            self.delay.pass().await;
            self.inner.zero(lba, blocks).await
        }
        .boxed_local()
    }

    fn keep_state(&self, state: Vec<u8>) -> LocalBoxFuture<'_, Result<(), MediumError>> {
        self.inner.keep_state(state)
    }
}
