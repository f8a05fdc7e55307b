//! The pool's switch: warm, serving, or stopped for good; and the pause in acknowledging while a fence is in doubt.

use std::cell::Cell;
use std::future::Future;
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::Notify;
use understudy_device::medium::MediumError;

use crate::overseer::Overseer;
use crate::pool::PoolOptions;
use crate::witness::Witness;

/// Life of a pool on this node; only ever moves forward.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Loaded; commands wait.
    Warm,
    /// Fenced and serving.
    Serving,
    /// Not this node's any more.
    Stopped,
}

/// Shared by a pool, its legs and its volumes.
pub struct Switch {
    phase: Cell<Phase>,
    /// Legs whose fence is being looked at.
    doubts: Cell<u32>,
    /// Writes whose outcome nobody knows at this moment.
    pub unknown_writes: Cell<usize>,
    /// Client commands begun, for the resync to see whether there is load.
    pub commands: Cell<u64>,
    changed: Notify,
    pub overseer: Rc<dyn Overseer>,
    ownership: Witness,
    /// How long a leg may be away before it is dropped.
    pub leg_timeout: Duration,
    /// Pause between attempts on a disk that is busy or cannot be asked.
    pub retry_delay: Duration,
    /// Shortest pause before a dropped leg is tried again.
    pub return_pause: Duration,
}

impl Switch {
    pub fn new(overseer: Rc<dyn Overseer>, options: PoolOptions) -> Self {
        let PoolOptions { leg_timeout, retry_delay, return_pause } = options;
        Self {
            phase: Cell::new(Phase::Warm),
            doubts: Cell::new(0),
            unknown_writes: Cell::new(0),
            commands: Cell::new(0),
            changed: Notify::new(),
            overseer,
            ownership: Witness::default(),
            leg_timeout,
            retry_delay,
            return_pause,
        }
    }

    pub fn phase(&self) -> Phase {
        self.phase.get()
    }

    pub fn is_stopped(&self) -> bool {
        self.phase.get() == Phase::Stopped
    }

    pub fn serve(&self) {
        if self.phase.get() == Phase::Warm {
            self.phase.set(Phase::Serving);
            self.changed.notify_waiters();
        }
    }

    pub fn stop(&self) {
        self.phase.set(Phase::Stopped);
        self.changed.notify_waiters();
    }

    /// Whether the lock disks, asked after this call, still name this node.
    pub async fn is_still_owner(&self) -> bool {
        self.ownership.holds_now(async || self.overseer.is_still_owner().await).await
    }

    pub fn doubt(&self) {
        self.doubts.set(self.doubts.get() + 1);
    }

    pub fn settle_doubt(&self) {
        self.doubts.set(self.doubts.get() - 1);
        self.changed.notify_waiters();
    }

    /// Waits for a change of phase or doubt; only correct when created before looking at either.
    pub fn changed(&self) -> impl Future<Output = ()> + '_ {
        self.changed.notified()
    }

    pub async fn stopped(&self) {
        loop {
            let changed = self.changed();
            if self.is_stopped() {
                return;
            }
            changed.await;
        }
    }

    /// Ends when commands may run.
    async fn serving(&self) -> Result<(), MediumError> {
        loop {
            let changed = self.changed();
            match self.phase.get() {
                Phase::Warm => changed.await,
                Phase::Serving => return Ok(()),
                Phase::Stopped => return Err(MediumError::Fenced),
            }
        }
    }

    /// Ends when nothing stands against acknowledging.
    async fn may_acknowledge(&self) -> Result<(), MediumError> {
        loop {
            let changed = self.changed();
            if self.is_stopped() {
                return Err(MediumError::Fenced);
            }
            if self.doubts.get() == 0 {
                return Ok(());
            }
            changed.await;
        }
    }

    /// Runs a client's command between the gates: waits for the pool to serve, gives up at once when it stops, and
    /// answers only while no fence is in doubt. Errors are answers, too.
    pub async fn command<T>(&self, work: impl Future<Output = Result<T, MediumError>>) -> Result<T, MediumError> {
        self.commands.set(self.commands.get().wrapping_add(1));
        self.serving().await?;
        let result = tokio::select! {
            biased;
            () = self.stopped() => return Err(MediumError::Fenced),
            result = work => result,
        };
        self.may_acknowledge().await?;
        result
    }
}
