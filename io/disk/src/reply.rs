//! Where the answer to one command is put, and who is woken by it.
//!
//! Not here: what the answer is. The one idea: one small allocation a command, no atomics, because a session and all
//! its callers live in one thread.

use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

#[derive(Debug)]
enum State<T> {
    Pending(Option<Waker>),
    Answered(T),
    Taken,
}

/// The end that is answered.
#[derive(Debug)]
pub(crate) struct Promise<T>(Rc<RefCell<State<T>>>);

/// The end that waits. Dropping it takes nothing back: the command goes on, its answer is thrown away.
#[derive(Debug)]
pub(crate) struct Reply<T>(Rc<RefCell<State<T>>>);

pub(crate) fn promise<T>() -> (Promise<T>, Reply<T>) {
    let state = Rc::new(RefCell::new(State::Pending(None)));
    (Promise(Rc::clone(&state)), Reply(state))
}

impl<T> Promise<T> {
    pub(crate) fn keep(self, answer: T) {
        let before = self.0.replace(State::Answered(answer));
        if let State::Pending(Some(waker)) = before {
            waker.wake();
        }
    }
}

impl<T> Future for Reply<T> {
    type Output = T;

    /// PANIC: when polled again after it was ready, as any future may.
    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        let mut state = self.0.borrow_mut();
        match &mut *state {
            State::Pending(Some(waker)) if waker.will_wake(context.waker()) => Poll::Pending,
            State::Pending(waker) => {
                *waker = Some(context.waker().clone());
                Poll::Pending
            }
            State::Answered(_) => match std::mem::replace(&mut *state, State::Taken) {
                State::Answered(answer) => Poll::Ready(answer),
                State::Pending(_) | State::Taken => unreachable!("it was answered a line ago"),
            },
            State::Taken => panic!("a reply was polled after it had been taken"),
        }
    }
}
