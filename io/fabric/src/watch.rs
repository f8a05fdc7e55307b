//! Watches that the thread inside libfabric comes back, and answers in its place if it does not.
//!
//! libfabric's calls are asked for with deadlines, but some can spin without one: `shm` takes a lock in shared memory that
//! a partner may hold when it is stopped or killed. No caller must wait for that, so the place where an answer goes lies
//! here, with the time by which it is due, and whoever comes first takes it.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use crate::ReadFailure;
use crate::reader::{MoveAnswer, PageAnswer};

/// How often the watcher looks: what a caller waits beyond its deadline, at most twice that, when the thread is stuck.
const LOOK: Duration = Duration::from_millis(250);

/// How long a thread may be away before another takes its place: connecting over `verbs` to a machine that is gone takes
/// libfabric some seconds, and then it does come back.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// Where an answer goes. A caller that has gone away is not told.
pub(crate) enum Answer {
    /// Of a read.
    Page(oneshot::Sender<PageAnswer>),
    /// Of a write, which brings nothing back, or of a read of data.
    Moved(oneshot::Sender<MoveAnswer>),
}

impl Answer {
    pub(crate) fn page(self, outcome: PageAnswer) {
        match self {
            Self::Page(caller) => drop(caller.send(outcome)),
            Self::Moved(_) => unreachable!("one order at a time, answered by its own kind"),
        }
    }

    pub(crate) fn moved(self, outcome: MoveAnswer) {
        match self {
            Self::Moved(caller) => drop(caller.send(outcome)),
            Self::Page(_) => unreachable!("one order at a time, answered by its own kind"),
        }
    }

    fn fail(self, failure: ReadFailure) {
        match self {
            Self::Page(caller) => drop(caller.send(Err(failure))),
            Self::Moved(caller) => drop(caller.send(Err(failure))),
        }
    }
}

/// An order under way.
struct Pending {
    answer: Answer,
    within: Duration,
    due: Instant,
}

/// How the watched thread is.
#[derive(Default)]
enum Thread {
    #[default]
    Idle,
    Busy(Pending),
    /// It did not come back in time.
    Away {
        since: Instant,
    },
    /// Its reader is gone.
    Ended,
}

/// Whether a thread can be given an order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Presence {
    /// It can.
    Here,
    /// Not yet: it has not come back from the last one.
    Away,
    /// It will not come back.
    Lost,
}

/// The watch over one thread.
pub(crate) struct Watch {
    thread: Mutex<Thread>,
    ended: Condvar,
    patience: Duration,
}

impl Watch {
    pub(crate) fn new(patience: Duration) -> Self {
        Self { thread: Mutex::default(), ended: Condvar::new(), patience }
    }

    fn thread(&self) -> MutexGuard<'_, Thread> {
        self.thread.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An order begins.
    pub(crate) fn begin(&self, within: Duration, answer: Answer) {
        // As for deadlines: an hour is as good as for ever.
        let due = Instant::now() + within.min(Duration::from_secs(3600)) + LOOK;
        *self.thread() = Thread::Busy(Pending { answer, within, due });
    }

    /// The order has ended; its caller is told unless that was done in the thread's place.
    pub(crate) fn finish(&self, tell: impl FnOnce(Answer)) {
        let mut thread = self.thread();
        match std::mem::take(&mut *thread) {
            Thread::Busy(pending) => tell(pending.answer),
            // Back again, late.
            Thread::Idle | Thread::Away { .. } => {}
            Thread::Ended => *thread = Thread::Ended,
        }
    }

    /// Whether the thread can be given an order.
    pub(crate) fn presence(&self) -> Presence {
        match &*self.thread() {
            Thread::Idle | Thread::Busy(_) => Presence::Here,
            Thread::Away { since } if since.elapsed() < self.patience => Presence::Away,
            Thread::Away { .. } | Thread::Ended => Presence::Lost,
        }
    }

    /// The reader is gone; its order, if one is under way, is nobody's.
    pub(crate) fn end(&self) {
        *self.thread() = Thread::Ended;
        self.ended.notify_all();
    }

    /// The watcher's own thread. BOUND: ends when the reader does.
    pub(crate) fn keep(&self) {
        let mut thread = self.thread();
        while !matches!(*thread, Thread::Ended) {
            thread = self.ended.wait_timeout(thread, LOOK).unwrap_or_else(PoisonError::into_inner).0;
            if !matches!(&*thread, Thread::Busy(pending) if pending.due <= Instant::now()) {
                continue;
            }
            if let Thread::Busy(pending) = std::mem::replace(&mut *thread, Thread::Away { since: Instant::now() }) {
                tracing::warn!("interconnect: a call of libfabric does not come back in time");
                pending.answer.fail(ReadFailure::TimedOut(pending.within));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_comes_back_late_takes_orders_again_and_answers_nobody() {
        let watch = std::sync::Arc::new(Watch::new(PATIENCE));
        let keeper = std::thread::spawn({
            let watch = watch.clone();
            move || watch.keep()
        });
        let (answer, reply) = oneshot::channel();
        watch.begin(Duration::ZERO, Answer::Page(answer));
        assert_eq!(reply.blocking_recv(), Ok(Err(ReadFailure::TimedOut(Duration::ZERO))));
        assert_eq!(watch.presence(), Presence::Away);
        watch.finish(|_| panic!("its caller was answered"));
        assert_eq!(watch.presence(), Presence::Here);
        watch.end();
        keeper.join().expect("the watcher ends with the reader");
    }
}
