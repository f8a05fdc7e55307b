//! A lane: work that is carried out one piece after another, in the order it was given.
//!
//! Orders on the reservations of one pool, and records on the lock disks, must not overtake each other; orders of
//! different lanes run side by side.

use std::future::Future;

use futures_util::future::LocalBoxFuture;
use tokio::sync::mpsc;

/// One lane. Dropping it lets what was given run to its end.
#[derive(Clone)]
pub struct Lane {
    queue: mpsc::UnboundedSender<LocalBoxFuture<'static, ()>>,
}

impl Lane {
    /// An empty lane, run by a task of its own. Must be called inside a `LocalSet`.
    #[must_use]
    pub fn start() -> Self {
        // BOUND: the failover machine gives at most a few orders of one kind before it waits for an answer.
        let (queue, mut work) = mpsc::unbounded_channel::<LocalBoxFuture<'static, ()>>();
        tokio::task::spawn_local(async move {
            while let Some(piece) = work.recv().await {
                piece.await;
            }
        });
        Self { queue }
    }

    /// Gives the lane a piece of work.
    pub fn give(&self, piece: impl Future<Output = ()> + 'static) {
        // The receiver lives as long as the process: a failed send can only happen while the runtime is torn down.
        let _ = self.queue.send(Box::pin(piece));
    }
}
