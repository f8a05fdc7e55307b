//! Staying awake for a moment when the next command will probably come at once.
//!
//! A client that waits for answers pays for two wake-ups each time: its own and ours. A processor that went to sleep takes longer to
//! wake than a command takes to carry out. So while a client works, the thread does not sleep at once after an answer (or after
//! it asked a medium that answers later) but looks at its sockets again and again, for [`WINDOW`] at most. Everything else that
//! is ready to run runs in between. With many commands under way it pays as well: they come and go in batches.
//!
//! It is only done while it pays. What was waited for has to have come within that time, the last few times; once that it
//! did not is reason to sleep again until it did a few times. And nobody is to go short of a processor for it: a thread that is
//! put off its processor again and again sleeps for a while, because somebody else wants to run. While it is awake it offers its
//! processor each time it looks. Without commands nothing is awake.
//!
//! Not here: which sockets there are. The runtime looks at all of them.

use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio::task::{JoinHandle, spawn_local, yield_now};

use crate::crowded::times_put_off;

/// Longest time awake after an answer. An exchange over a local network with a client that waits for each answer takes 20 to
/// 100 µs when both ends have to wake up; who takes longer than this waits for something else than us.
const WINDOW: Duration = Duration::from_micros(200);

/// So many commands in a row have to have come in time.
const ENOUGH: u32 = 8;

/// Every so many times it is asked whether somebody else wants the processor: that costs as much as looking at the sockets once.
const BETWEEN_LOOKS: u32 = 16;

/// Being put off so often in between means that somebody else does. Now and then it happens on any machine; a client that has to
/// share our processor puts us off with each command.
const TOO_OFTEN: u64 = 8;

/// How long to sleep as usual when somebody else does.
const PUT_OFF: Duration = Duration::from_millis(50);

/// Whether it pays to stay awake.
#[derive(Debug, Default)]
struct Habit {
    /// Since when something is waited for.
    waits: Option<Instant>,
    /// How often in a row it came soon.
    soon: u32,
}

impl Habit {
    fn waits(&mut self, now: Instant) {
        self.waits = Some(now);
    }

    fn came(&mut self, now: Instant) {
        let Some(since) = self.waits.take() else { return };
        self.soon = if now.duration_since(since) <= WINDOW { self.soon.saturating_add(1) } else { 0 };
    }

    fn pays(&self) -> bool {
        self.soon >= ENOUGH
    }
}

/// Shared by the connections of a portal.
#[derive(Default)]
pub(crate) struct Eager {
    habit: Cell<Habit>,
    /// When to fall asleep.
    until: Cell<Option<Instant>>,
    not_before: Cell<Option<Instant>>,
    looks: Cell<u32>,
    put_off: Cell<u64>,
    wanted: Notify,
}

impl Eager {
    fn habit<T>(&self, look: impl FnOnce(&mut Habit) -> T) -> T {
        let mut habit = self.habit.take();
        let seen = look(&mut habit);
        self.habit.set(habit);
        seen
    }

    /// What a connection waited for came: bytes, or the medium's answer.
    pub(crate) fn came(&self, now: Instant) {
        self.habit(|habit| habit.came(now));
        self.until.set(None);
    }

    /// A connection did what there was to do and waits: for the next command, or for the medium's answer.
    pub(crate) fn waits(&self, now: Instant) {
        let pays = self.habit(|habit| {
            habit.waits(now);
            habit.pays()
        });
        if pays && self.not_before.get().is_none_or(|moment| now >= moment) && !self.is_crowded(now) {
            self.until.set(Some(now + WINDOW));
            self.wanted.notify_one();
        }
    }

    /// Whether somebody else wants the processor, as far as it is time to ask.
    fn is_crowded(&self, now: Instant) -> bool {
        self.looks.set(self.looks.get() + 1);
        if !self.looks.get().is_multiple_of(BETWEEN_LOOKS) {
            return false;
        }
        let times = times_put_off();
        let crowded = times.saturating_sub(self.put_off.replace(times)) >= TOO_OFTEN;
        if crowded {
            self.not_before.set(Some(now + PUT_OFF));
        }
        crowded
    }

    fn is_awake(&self) -> bool {
        self.until.get().is_some_and(|until| Instant::now() < until)
    }
}

/// Keeps the thread awake when that is wanted, until this is dropped.
pub(crate) struct Awake {
    pub(crate) eager: Rc<Eager>,
    task: JoinHandle<()>,
}

impl Awake {
    /// Called inside a `LocalSet`.
    pub(crate) fn start() -> Self {
        let eager = Rc::<Eager>::default();
        let task = spawn_local(stay_awake(Rc::clone(&eager)));
        Self { eager, task }
    }
}

impl Drop for Awake {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn stay_awake(eager: Rc<Eager>) {
    // BOUND: ends with the portal; each round waits until it is wanted.
    loop {
        eager.wanted.notified().await;
        // BOUND: WINDOW.
        while eager.is_awake() {
            // Whoever else waits for this processor gets it, and is counted by that: see `is_crowded`.
            std::thread::yield_now();
            // The runtime looks at its sockets and timers, and lets everything run that is ready.
            yield_now().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exchange(habit: &mut Habit, now: &mut Instant, gap: Duration) {
        habit.waits(*now);
        *now += gap;
        habit.came(*now);
    }

    #[test]
    fn it_pays_after_a_few_commands_that_came_at_once_and_not_after_one_that_did_not() {
        let (mut habit, mut now) = (Habit::default(), Instant::now());
        for _ in 1..ENOUGH {
            exchange(&mut habit, &mut now, WINDOW);
            assert!(!habit.pays());
        }
        exchange(&mut habit, &mut now, WINDOW / 2);
        assert!(habit.pays());
        exchange(&mut habit, &mut now, WINDOW * 2);
        assert!(!habit.pays());
    }

    #[test]
    fn what_comes_while_something_is_under_way_says_nothing() {
        let (mut habit, now) = (Habit::default(), Instant::now());
        for _ in 0..2 * ENOUGH {
            habit.came(now);
        }
        assert!(!habit.pays());
    }
}
