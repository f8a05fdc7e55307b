//! Waiting for a condition on one thread: check, remember the waker, be woken by whoever changed something.
//!
//! No permits and no queue; a signal wakes everybody and each looks again. That is cheap here because signals are only
//! given when somebody waits, and waiting is the exception.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::task::{Poll, Waker};

/// Something may have changed.
#[derive(Debug, Default)]
pub(crate) struct Event {
    // BOUND: one waker for each waiting future, emptied by every signal.
    wakers: RefCell<Vec<Waker>>,
    /// Signals given while somebody waited; the list of wakers is another one after each.
    signals: Cell<u64>,
}

impl Event {
    /// Wakes everybody who waits.
    pub(crate) fn signal(&self) {
        if self.wakers.borrow().is_empty() {
            return;
        }
        self.signals.set(self.signals.get() + 1);
        let wakers = self.wakers.take();
        for waker in wakers {
            waker.wake();
        }
    }

    /// Waits until `ready` answers something.
    pub(crate) async fn until<T>(&self, mut ready: impl FnMut() -> Option<T>) -> T {
        // Where its waker is, and in which list: polled again it is found without a search, however many wait.
        let mut place = None;
        poll_fn(|context| match ready() {
            Some(value) => Poll::Ready(value),
            None => {
                let mut wakers = self.wakers.borrow_mut();
                match place {
                    Some((signals, at)) if signals == self.signals.get() => {
                        let waker: &mut Waker = &mut wakers[at];
                        waker.clone_from(context.waker());
                    }
                    Some(_) | None => {
                        place = Some((self.signals.get(), wakers.len()));
                        wakers.push(context.waker().clone());
                    }
                }
                Poll::Pending
            }
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt as _;

    #[test]
    fn who_looks_again_without_a_signal_is_listed_once_and_wakes_later() {
        let (event, ready) = (Event::default(), Cell::new(false));
        let mut waits: Vec<_> = (0..3).map(|_| Box::pin(event.until(|| ready.get().then_some(())))).collect();
        for _ in 0..2 {
            waits.iter_mut().for_each(|wait| assert!(wait.now_or_never().is_none()));
            assert_eq!(event.wakers.borrow().len(), 3);
        }
        event.signal();
        assert!(event.wakers.borrow().is_empty());
        waits.iter_mut().for_each(|wait| assert!(wait.now_or_never().is_none()));
        ready.set(true);
        event.signal();
        waits.iter_mut().for_each(|wait| assert!(wait.now_or_never().is_some()));
    }
}
