//! A value that others on the same thread wait for changes of.
//!
//! Not here: threads. Those who wait are woken in the order in which they began to, so that the same events always run in the
//! same order; that, and being cheap, is why it is not a channel of the runtime.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::task::{Poll, Waker};

/// See the module.
pub(crate) struct Watched<T> {
    value: Cell<T>,
    version: Cell<u64>,
    last_waiter: Cell<u64>,
    // BOUND: one entry for each waiting future; it takes itself out when it is dropped.
    waiters: RefCell<BTreeMap<u64, Waker>>,
}

impl<T: Copy> Watched<T> {
    pub(crate) fn new(value: T) -> Self {
        Self { value: Cell::new(value), version: Cell::new(0), last_waiter: Cell::new(0), waiters: RefCell::default() }
    }

    pub(crate) fn get(&self) -> T {
        self.value.get()
    }

    /// Counts the calls of [`Watched::set`].
    pub(crate) fn version(&self) -> u64 {
        self.version.get()
    }

    /// Wakes everybody, also if the value is the same.
    pub(crate) fn set(&self, value: T) {
        self.value.set(value);
        self.version.set(self.version.get() + 1);
        for waiter in self.waiters.take().into_values() {
            waiter.wake();
        }
    }

    /// Waits until `is_enough` says so; asked now and after every [`Watched::set`].
    pub(crate) async fn until(&self, mut is_enough: impl FnMut(&Self) -> bool) {
        let waiting = Waiting { watched: self, number: self.last_waiter.get() + 1 };
        self.last_waiter.set(waiting.number);
        poll_fn(|context| {
            if is_enough(self) {
                return Poll::Ready(());
            }
            self.waiters.borrow_mut().insert(waiting.number, context.waker().clone());
            Poll::Pending
        })
        .await;
    }

    /// Waits for the first [`Watched::set`] after `version`.
    pub(crate) async fn set_after(&self, version: u64) {
        self.until(|now| now.version() != version).await;
    }
}

struct Waiting<'a, T> {
    watched: &'a Watched<T>,
    number: u64,
}

impl<T> Drop for Waiting<'_, T> {
    fn drop(&mut self) {
        self.watched.waiters.borrow_mut().remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use tokio::task::{LocalSet, spawn_local, yield_now};

    use super::*;

    #[tokio::test(flavor = "current_thread")]
    async fn waiters_are_woken_in_the_order_in_which_they_came() {
        let (watched, order) = (Rc::new(Watched::new(0)), Rc::new(RefCell::new(Vec::new())));
        let wait = |name: u32| {
            let (watched, order) = (Rc::clone(&watched), Rc::clone(&order));
            async move {
                watched.until(|now| now.get() == 2).await;
                order.borrow_mut().push(name);
            }
        };
        let all = async {
            let waiting: Vec<_> = (0..20).map(|name| spawn_local(wait(name))).collect();
            yield_now().await;
            watched.set(1);
            yield_now().await;
            assert!(order.borrow().is_empty());
            watched.set(2);
            for one in waiting {
                one.await.expect("it ends");
            }
        };
        LocalSet::new().run_until(all).await;
        assert_eq!(*order.borrow(), (0..20).collect::<Vec<_>>());
    }

    #[tokio::test(flavor = "current_thread")]
    async fn who_stops_waiting_leaves_nothing_behind() {
        let watched = Watched::new(());
        let seen = watched.version();
        drop(tokio::time::timeout(std::time::Duration::ZERO, watched.set_after(seen)).await);
        assert!(watched.waiters.borrow().is_empty());
        watched.set(());
        watched.set_after(seen).await;
    }
}
