//! Asking whether something still holds, for everybody who waits for the answer at once.
//!
//! A read that one leg answered may show what a new owner has written over elsewhere: a disk that the new owner could not reach, and left
//! out of its mirror, still serves the old one, which was stopped and does not know. So what one leg answered is passed on only when
//! every other leg, asked after the read came in, still carries out this node's reads, or the lock disks still name it. The one idea:
//! who comes while a question is under way waits for the next one, so that any number of readers cost one question at a time.

use std::cell::Cell;

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
    ended: Notify,
}

/// Ends a question's turn, also when who put it has gone away.
struct Turn<'a>(&'a Witness);

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.under_way.set(false);
        self.0.ended.notify_waiters();
    }
}

impl Witness {
    /// Whether it holds, by a question put after this call.
    pub async fn holds_now(&self, ask: impl AsyncFn() -> bool) -> bool {
        let before = self.put.get();
        // BOUND: each round waits for one question to end; the one after it was put later than this call.
        loop {
            let ended = self.ended.notified();
            if self.affirmed.get() > before {
                return true;
            }
            if self.denied.get() > before {
                return false;
            }
            if self.under_way.replace(true) {
                ended.await;
                continue;
            }
            let turn = Turn(self);
            let number = self.put.get() + 1;
            self.put.set(number);
            let last = if ask().await { &self.affirmed } else { &self.denied };
            last.set(number);
            drop(turn);
        }
    }
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
        assert_eq!((&mut early).now_or_never(), None);
        let mut late = std::pin::pin!(join3(witness.holds_now(&ask), witness.holds_now(&ask), witness.holds_now(&ask)));
        assert_eq!((&mut late).now_or_never(), None);
        first.0.send(true).expect("waits");
        assert_eq!((&mut early).now_or_never(), Some(true));
        assert_eq!((&mut late).now_or_never(), None, "what was asked before they came says nothing to them");
        second.0.send(false).expect("waits");
        assert_eq!(late.now_or_never(), Some((false, false, false)), "one question for all of them");
    }

    #[test]
    fn who_waited_asks_itself_when_the_asker_goes_away() {
        let witness = Witness::default();
        let mut gone = Box::pin(witness.holds_now(async || pending().await));
        assert_eq!((&mut gone).now_or_never(), None);
        let mut waiting = std::pin::pin!(witness.holds_now(async || true));
        assert_eq!((&mut waiting).now_or_never(), None);
        drop(gone);
        assert_eq!(waiting.now_or_never(), Some(true));
    }
}
