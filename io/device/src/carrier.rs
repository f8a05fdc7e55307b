//! Futures that must reach their end although nobody waits for them any more.
//!
//! A write that was given to the medium cannot be taken back by dropping a future: part of it may already be done, by
//! another thread or another machine. So the future that knows when it is over is never dropped; if its owner goes, it
//! is handed to a task that drives it to the end.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_util::StreamExt;
use futures_util::future::LocalBoxFuture;
use futures_util::stream::FuturesUnordered;
use tokio::sync::mpsc;

type Orphan = LocalBoxFuture<'static, ()>;

/// Where orphaned futures go.
#[derive(Debug, Clone)]
pub(crate) struct Carrier {
    orphans: mpsc::UnboundedSender<Orphan>,
}

impl Carrier {
    /// Starts the task that drives orphans; it ends with the last `Carrier`. Must be called inside a `LocalSet`.
    pub(crate) fn start() -> Self {
        // BOUND: an orphan is a command of the task set, which is bounded.
        let (orphans, mut arriving) = mpsc::unbounded_channel::<Orphan>();
        tokio::task::spawn_local(async move {
            let mut driven = FuturesUnordered::new();
            loop {
                tokio::select! {
                    biased;
                    arrived = arriving.recv() => match arrived {
                        Some(orphan) => driven.push(orphan),
                        None => break,
                    },
                    Some(()) = driven.next(), if !driven.is_empty() => {}
                }
            }
            // BOUND: no more arrive; each ends when its medium answers.
            while driven.next().await.is_some() {}
        });
        Self { orphans }
    }

    /// The future, which will be driven to its end even if the answer is dropped.
    pub(crate) fn carry<T: 'static>(&self, future: impl Future<Output = T> + 'static) -> Carried<T> {
        Carried { future: Some(Box::pin(future)), carrier: self.clone() }
    }
}

/// See [`Carrier::carry`].
pub(crate) struct Carried<T: 'static> {
    future: Option<LocalBoxFuture<'static, T>>,
    carrier: Carrier,
}

impl<T: 'static> Future for Carried<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        // PANIC: polling a future after its end is the caller's mistake.
        let future = self.future.as_mut().expect("a future is not polled after its end");
        let polled = future.as_mut().poll(context);
        if polled.is_ready() {
            self.future = None;
        }
        polled
    }
}

impl<T: 'static> Drop for Carried<T> {
    fn drop(&mut self) {
        if let Some(future) = self.future.take() {
            // If the task is gone, the whole runtime is going down, and the process with it.
            let _ = self.carrier.orphans.send(Box::pin(async move {
                future.await;
            }));
        }
    }
}
