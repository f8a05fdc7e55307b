//! Locks on ranges, of a mirror's bytes or of a volume's chunks: whatever overlaps goes one after the other, in the order it
//! came. Those who only want a range to stay as it is share it.
//!
//! The entries are a plain list. Its length is the number of writes under way, a few hundred at most, and a scan of it
//! costs less than one hash of a sturdier structure would for the dozen entries there usually are. A range waits for
//! every earlier entry it overlaps, waiting ones included, so nobody starves.

use std::cell::RefCell;
use std::rc::Rc;

use tokio::sync::oneshot;

/// Who else may have the range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sharing {
    Nobody,
    Sharers,
}

struct Entry {
    ticket: u64,
    start: u64,
    end: u64,
    sharing: Sharing,
    /// Present while waiting; sent to when the range becomes free.
    granted: Option<oneshot::Sender<()>>,
}

#[derive(Default)]
struct Queue {
    next_ticket: u64,
    /// In order of arrival. BOUND: one entry a write or copy under way.
    entries: Vec<Entry>,
    waiting: usize,
}

impl Queue {
    fn is_free(&self, before: usize, start: u64, end: u64, sharing: Sharing) -> bool {
        let shared = |entry: &Entry| sharing == Sharing::Sharers && entry.sharing == Sharing::Sharers;
        self.entries[..before].iter().all(|entry| entry.end <= start || end <= entry.start || shared(entry))
    }
}

/// The locks of one mirror.
#[derive(Default)]
pub struct RangeLocks {
    queue: RefCell<Queue>,
}

/// A place in the queue, then the lock itself; dropping it gives up either.
pub struct RangeGuard {
    locks: Rc<RangeLocks>,
    ticket: u64,
}

impl RangeLocks {
    /// Waits until nothing that came earlier overlaps `start..end`, and keeps later ones out until the guard is
    /// dropped.
    pub async fn acquire(self: &Rc<Self>, start: u64, end: u64) -> RangeGuard {
        self.enter_and_wait(start, end, Sharing::Nobody).await
    }

    /// The same, but lets in others who share.
    pub async fn share(self: &Rc<Self>, start: u64, end: u64) -> RangeGuard {
        self.enter_and_wait(start, end, Sharing::Sharers).await
    }

    async fn enter_and_wait(self: &Rc<Self>, start: u64, end: u64, sharing: Sharing) -> RangeGuard {
        let (guard, granted) = self.enter(start, end, sharing);
        if let Some(granted) = granted {
            // The sender lives in the queue until it is used or this guard is dropped.
            drop(granted.await);
        }
        guard
    }

    fn enter(self: &Rc<Self>, start: u64, end: u64, sharing: Sharing) -> (RangeGuard, Option<oneshot::Receiver<()>>) {
        let mut queue = self.queue.borrow_mut();
        let ticket = queue.next_ticket;
        queue.next_ticket += 1;
        let free = queue.is_free(queue.entries.len(), start, end, sharing);
        let (granted, receiver) = if free { (None, None) } else { Some(oneshot::channel()).unzip() };
        queue.waiting += usize::from(!free);
        queue.entries.push(Entry { ticket, start, end, sharing, granted });
        (RangeGuard { locks: Rc::clone(self), ticket }, receiver)
    }

    /// Whether anything is under way or waiting in this range.
    pub fn overlaps(&self, start: u64, end: u64) -> bool {
        let queue = self.queue.borrow();
        !queue.is_free(queue.entries.len(), start, end, Sharing::Nobody)
    }
}

impl Drop for RangeGuard {
    fn drop(&mut self) {
        let mut queue = self.locks.queue.borrow_mut();
        let Some(at) = queue.entries.iter().position(|entry| entry.ticket == self.ticket) else {
            return;
        };
        let gone = queue.entries.remove(at);
        queue.waiting -= usize::from(gone.granted.is_some());
        if queue.waiting == 0 {
            return;
        }
        for at in at..queue.entries.len() {
            let Entry { start, end, sharing, .. } = queue.entries[at];
            if queue.entries[at].granted.is_some() && queue.is_free(at, start, end, sharing) {
                queue.waiting -= 1;
                if let Some(granted) = queue.entries[at].granted.take() {
                    // A receiver that is gone has a guard about to be dropped, which passes the range on.
                    let _ = granted.send(());
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::RangeLocks;
    use futures_util::FutureExt as _;
    use std::rc::Rc;

    #[test]
    fn overlapping_ranges_go_in_order_and_others_pass() {
        let locks = Rc::new(RangeLocks::default());
        let first = locks.acquire(0, 10).now_or_never().expect("free");
        let mut second = Box::pin(locks.acquire(5, 15));
        assert!(second.as_mut().now_or_never().is_none());
        let mut third = Box::pin(locks.acquire(12, 20));
        assert!(third.as_mut().now_or_never().is_none(), "waits behind the second, which waits");
        let apart = locks.acquire(30, 40).now_or_never();
        assert!(apart.is_some());
        drop(first);
        let second = second.now_or_never().expect("first is gone");
        assert!(third.as_mut().now_or_never().is_none());
        drop(second);
        assert!(third.now_or_never().is_some());
    }

    #[test]
    fn abandoned_wait_lets_the_next_one_through() {
        let locks = Rc::new(RangeLocks::default());
        let first = locks.acquire(0, 10).now_or_never().expect("free");
        let mut second = Box::pin(locks.acquire(0, 10));
        assert!(second.as_mut().now_or_never().is_none());
        let mut third = Box::pin(locks.acquire(0, 10));
        assert!(third.as_mut().now_or_never().is_none());
        drop(first);
        drop(second);
        assert!(third.now_or_never().is_some());
        assert!(!locks.overlaps(0, 100));
    }

    #[test]
    fn sharers_go_together_and_whoever_wants_a_range_alone_keeps_later_ones_out() {
        let locks = Rc::new(RangeLocks::default());
        let first = locks.share(0, 10).now_or_never().expect("free");
        let second = locks.share(5, 15).now_or_never().expect("shared");
        let mut alone = Box::pin(locks.acquire(8, 9));
        assert!(alone.as_mut().now_or_never().is_none());
        let mut late = Box::pin(locks.share(0, 10));
        assert!(late.as_mut().now_or_never().is_none(), "else the one before it would never get its turn");
        drop(first);
        assert!(alone.as_mut().now_or_never().is_none());
        drop(second);
        let alone = alone.now_or_never().expect("nobody is left");
        assert!(late.as_mut().now_or_never().is_none());
        drop(alone);
        assert!(late.now_or_never().is_some());
    }

    #[test]
    fn touching_ranges_do_not_overlap() {
        let locks = Rc::new(RangeLocks::default());
        let _first = locks.acquire(0, 10).now_or_never().expect("free");
        assert!(!locks.overlaps(10, 20));
        assert!(locks.overlaps(9, 10));
        assert!(locks.acquire(10, 20).now_or_never().is_some());
    }
}
