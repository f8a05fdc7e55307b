//! Locks on ranges, of a mirror's bytes or of a volume's chunks: whatever overlaps goes one after the other, in the order it
//! came. Those who only want a range to stay as it is share it.
//!
//! Who waits for whom is kept by [`ExtentClaims`], in a tree by place: a lock costs about the same however many writes are under way.
//! Here is only the waiting. A range waits for every earlier one it overlaps, waiting ones included, so nobody starves.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use tokio::sync::oneshot;
use understudy_unit::{Claim, ExtentClaims, Sharing};

#[derive(Default)]
struct Queue {
    claims: ExtentClaims,
    /// Who is told when a range becomes free. BOUND: one for each write or copy that waits.
    waiting: BTreeMap<Claim, oneshot::Sender<()>>,
}

/// The locks of one mirror.
#[derive(Default)]
pub struct RangeLocks {
    queue: RefCell<Queue>,
}

/// A place in the queue, then the lock itself; dropping it gives up either.
pub struct RangeGuard {
    locks: Rc<RangeLocks>,
    claim: Claim,
}

impl RangeLocks {
    /// Waits until nothing that came earlier overlaps `start..end`, and keeps later ones out until the guard is
    /// dropped.
    pub async fn acquire(self: &Rc<Self>, start: u64, end: u64) -> RangeGuard {
        self.enter_and_wait(start, end, Sharing::Exclusive).await
    }

    /// The same, but lets in others who share.
    pub async fn share(self: &Rc<Self>, start: u64, end: u64) -> RangeGuard {
        self.enter_and_wait(start, end, Sharing::Shared).await
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
        let claim = queue.claims.claim(start, end - start, sharing);
        let receiver = (!queue.claims.granted(claim)).then(|| {
            let (granted, receiver) = oneshot::channel();
            queue.waiting.insert(claim, granted);
            receiver
        });
        (RangeGuard { locks: Rc::clone(self), claim }, receiver)
    }

    /// Whether anything is under way or waiting in this range.
    pub fn overlaps(&self, start: u64, end: u64) -> bool {
        !self.queue.borrow().claims.is_free(start, end - start, Sharing::Exclusive)
    }
}

impl Drop for RangeGuard {
    fn drop(&mut self) {
        let mut queue = self.locks.queue.borrow_mut();
        queue.waiting.remove(&self.claim);
        let mut free = Vec::new();
        queue.claims.release_telling(self.claim, |claim| free.push(claim));
        // In the order they came.
        free.sort_unstable();
        for claim in free {
            if let Some(granted) = queue.waiting.remove(&claim) {
                // A receiver that is gone has a guard about to be dropped, which passes the range on.
                let _ = granted.send(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use futures_util::FutureExt as _;
    use proptest::prelude::*;

    use super::{RangeGuard, RangeLocks, Sharing};

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

    /// The same rules as a plain list in order of arrival, searched as a whole each time: what the locks have to equal.
    #[derive(Default)]
    struct Plain(Vec<(u64, u64, u64, Sharing)>);

    impl Plain {
        fn is_free(before: &[(u64, u64, u64, Sharing)], start: u64, end: u64, sharing: Sharing) -> bool {
            before.iter().all(|&(_, from, to, other)| {
                to <= start || end <= from || (sharing == Sharing::Shared && other == Sharing::Shared)
            })
        }

        fn has(&self, name: u64) -> bool {
            let at = self.0.iter().position(|entry| entry.0 == name).expect("not given up");
            let (_, start, end, sharing) = self.0[at];
            Self::is_free(&self.0[..at], start, end, sharing)
        }
    }

    /// A guard whose range is its own, or a wait for it.
    struct Place {
        name: u64,
        guard: RangeGuard,
        granted: Option<tokio::sync::oneshot::Receiver<()>>,
    }

    proptest! {
        #[test]
        fn ranges_are_granted_as_if_each_were_compared_with_every_earlier_one(
            steps in prop::collection::vec((0u8..5, 0u64..200, 0u64..12), 1..300),
        ) {
            let (locks, mut plain) = (Rc::new(RangeLocks::default()), Plain::default());
            let mut places: Vec<Place> = Vec::new();
            for (name, (what, start, length)) in (0u64..).zip(steps) {
                // More come than go.
                if what >= 3 && !places.is_empty() {
                    let gone = places.remove((start * 12 + length) as usize % places.len());
                    plain.0.retain(|entry| entry.0 != gone.name);
                    drop(gone.guard);
                } else {
                    let (end, sharing) = (start + length, if what == 0 { Sharing::Exclusive } else { Sharing::Shared });
                    prop_assert_eq!(locks.overlaps(start, end), !Plain::is_free(&plain.0, start, end, Sharing::Exclusive));
                    let (guard, granted) = locks.enter(start, end, sharing);
                    places.push(Place { name, guard, granted });
                    plain.0.push((name, start, end, sharing));
                }
                for place in &mut places {
                    if place.granted.as_mut().is_some_and(|granted| granted.try_recv().is_ok()) {
                        place.granted = None;
                    }
                    prop_assert_eq!(place.granted.is_none(), plain.has(place.name));
                }
            }
        }
    }
}
