//! Waiting for a condition on one thread: check, remember the waker, be woken by whoever changed something.
//!
//! No permits and no queue; a signal wakes everybody and each looks again. That is cheap here because signals are only
//! given when somebody waits, and waiting is the exception.

use std::cell::RefCell;
use std::future::poll_fn;
use std::task::{Poll, Waker};

/// Something may have changed.
#[derive(Debug, Default)]
pub(crate) struct Event {
    // BOUND: one waker for each waiting future, emptied by every signal.
    wakers: RefCell<Vec<Waker>>,
}

impl Event {
    /// Wakes everybody who waits.
    pub(crate) fn signal(&self) {
        if self.wakers.borrow().is_empty() {
            return;
        }
        let wakers = self.wakers.take();
        for waker in wakers {
            waker.wake();
        }
    }

    /// Waits until `ready` answers something.
    pub(crate) async fn until<T>(&self, mut ready: impl FnMut() -> Option<T>) -> T {
        poll_fn(|context| match ready() {
            Some(value) => Poll::Ready(value),
            None => {
                let mut wakers = self.wakers.borrow_mut();
                if !wakers.iter().any(|waker| waker.will_wake(context.waker())) {
                    wakers.push(context.waker().clone());
                }
                Poll::Pending
            }
        })
        .await
    }
}
