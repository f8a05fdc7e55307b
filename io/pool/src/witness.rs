//! Asking whether something still holds, for everybody who waits for the answer at once.
//!
//! A read that one leg answered may show what a new owner has written over elsewhere: a disk that the new owner could not reach, and left
//! out of its mirror, still serves the old one, which was stopped and does not know. So what one leg answered is passed on only when
//! every other leg, asked after the read came in, still carries out this node's reads, or the lock disks still name it.
//!
//! The one idea: a question answers everybody who came before it was put, so any number of readers cost one question at a time; who
//! comes while one is under way waits for a later one. Two things make that rare and short. Who puts a question lets the others have
//! their turn first: what came in one piece from a client shares it. And whatever else is asked of the same leg and proves as much (an
//! ordinary read that was answered) counts as a question, put when it was sent.

use std::cell::Cell;
use std::future::poll_fn;
use std::task::Poll;

use tokio::sync::Notify;

/// A question that may be put again and again, once at a time.
#[derive(Default)]
pub struct Witness {
    /// Questions put so far.
    put: Cell<u64>,
    /// The last that was answered with yes.
    affirmed: Cell<u64>,
    /// The last that was answered with no.
    denied: Cell<u64>,
    under_way: Cell<bool>,
    /// Those who wait for an answer.
    waiting: Cell<usize>,
    moved: Notify,
}

/// A question's number: it tells what was asked before it from what was asked after.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Put(u64);

/// Ends a question's turn, also when who put it has gone away.
struct Turn<'a>(&'a Witness);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.under_way.set(false);
        self.0.moved.notify_waiters();
    }
}

/// Counts who waits, for as long as it does.
struct Waiting<'a>(&'a Witness);

impl<'a> Waiting<'a> {
    fn begin(witness: &'a Witness) -> Self {
        witness.waiting.set(witness.waiting.get() + 1);
        Self(witness)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.set(self.0.waiting.get() - 1);
    }
}

impl Witness {
    /// Something is asked now that will prove as much as a question if it is answered: see [`Witness::affirm`].
    pub fn put(&self) -> Put {
        let number = self.put.get() + 1;
        self.put.set(number);
        Put(number)
    }

    /// What was asked then was answered, and it holds.
    pub fn affirm(&self, Put(number): Put) {
        if number > self.affirmed.get() {
            self.affirmed.set(number);
            if self.waiting.get() > 0 {
                self.moved.notify_waiters();
            }
        }
    }

    /// What is known about a question put after `before`.
    fn known_since(&self, before: u64) -> Option<bool> {
        if self.affirmed.get() > before {
            return Some(true);
        }
        (self.denied.get() > before).then_some(false)
    }

    /// Whether it holds, by a question put after this call.
    pub async fn holds_now(&self, ask: impl AsyncFn() -> bool) -> bool {
        let before = self.put.get();
        let _waiting = Waiting::begin(self);
        // BOUND: each round waits for an answer; the question after the one under way was put later than this call.
        loop {
            let moved = self.moved.notified();
            if let Some(known) = self.known_since(before) {
                return known;
            }
            if self.under_way.replace(true) {
                moved.await;
                continue;
            }
            let turn = Turn(self);
            let_the_others_go().await;
            // Meanwhile an ordinary read may have been answered, though seldom so soon.
            if self.known_since(before).is_none() {
                let number = self.put();
                if ask().await {
                    self.affirm(number);
                } else {
                    self.denied.set(self.denied.get().max(number.0));
                }
            }
            drop(turn);
        }
    }
}

/// One turn for everything that is ready to run. The runtime's own yield would also look at every socket first.
async fn let_the_others_go() {
    let mut gone = false;
    poll_fn(|context| {
        if std::mem::replace(&mut gone, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::collections::VecDeque;

    use futures_util::FutureExt as _;
    use futures_util::future::{join3, pending};
    use tokio::sync::oneshot;

    use super::*;

    #[test]
    fn who_comes_while_a_question_is_under_way_waits_for_the_next() {
        let witness = Witness::default();
        let (first, second) = (oneshot::channel(), oneshot::channel());
        let answers = RefCell::new(VecDeque::from([first.1, second.1]));
        let ask = async || {
            let answer = answers.borrow_mut().pop_front().expect("two questions at most");
            answer.await == Ok(true)
        };
        let mut early = std::pin::pin!(witness.holds_now(&ask));
        assert_eq!((&mut early).now_or_never(), None, "it lets the others have their turn");
        assert_eq!((&mut early).now_or_never(), None, "it has put its question");
        let mut late = std::pin::pin!(join3(witness.holds_now(&ask), witness.holds_now(&ask), witness.holds_now(&ask)));
        assert_eq!((&mut late).now_or_never(), None);
        first.0.send(true).expect("waits");
        assert_eq!((&mut early).now_or_never(), Some(true));
        assert_eq!((&mut late).now_or_never(), None, "what was asked before they came says nothing to them");
        assert_eq!((&mut late).now_or_never(), None, "one of them has put the next");
        second.0.send(false).expect("waits");
        assert_eq!(late.now_or_never(), Some((false, false, false)), "one question for all of them");
    }

    #[test]
    fn who_waited_asks_itself_when_the_asker_goes_away() {
        let witness = Witness::default();
        let mut gone = Box::pin(witness.holds_now(async || pending().await));
        assert_eq!((&mut gone).now_or_never(), None);
        assert_eq!((&mut gone).now_or_never(), None);
        let mut waiting = std::pin::pin!(witness.holds_now(async || true));
        assert_eq!((&mut waiting).now_or_never(), None);
        drop(gone);
        assert_eq!((&mut waiting).now_or_never(), None);
        assert_eq!(waiting.now_or_never(), Some(true));
    }

    #[test]
    fn who_comes_in_the_same_turn_shares_the_question() {
        let (witness, asked) = (Witness::default(), Cell::new(0));
        let ask = async || {
            asked.set(asked.get() + 1);
            true
        };
        let mut all = std::pin::pin!(join3(witness.holds_now(&ask), witness.holds_now(&ask), witness.holds_now(&ask)));
        assert_eq!((&mut all).now_or_never(), None);
        assert_eq!((&mut all).now_or_never(), Some((true, true, true)));
        assert_eq!(asked.get(), 1);
    }

    #[test]
    fn an_ordinary_read_sent_after_they_came_answers_those_who_wait() {
        let witness = Witness::default();
        let early = witness.put();
        let mut waiting = std::pin::pin!(witness.holds_now(async || pending().await));
        assert_eq!((&mut waiting).now_or_never(), None);
        witness.affirm(early);
        assert_eq!((&mut waiting).now_or_never(), None, "it was sent before they came");
        let mut another = std::pin::pin!(witness.holds_now(async || pending().await));
        assert_eq!((&mut another).now_or_never(), None);
        let late = witness.put();
        witness.affirm(late);
        assert_eq!((&mut another).now_or_never(), Some(true));
        let after = std::pin::pin!(witness.holds_now(async || pending().await));
        assert_eq!(after.now_or_never(), None, "and nobody who came later");
    }
}
