//! A process of the simulated world: a set of tasks that can be stopped, woken and killed as a whole.
//!
//! Not a process of the system. Killing drops every task of the set at once; what a kernel would do then (close its connections)
//! is left to those who hold [`Process`] and ask how it ended. Stopping means that none of its tasks is polled: timers pass,
//! bytes arrive, and it sees all that when it is woken.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Poll, Waker};

use tokio::task::{LocalSet, spawn_local};

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// It ended or was killed; its host goes on and closes what it had open.
    Killed,
    /// Its host lost power: nobody hears of it.
    PowerLost,
}

/// One process; clones are the same.
#[derive(Clone)]
pub struct Process(Rc<Inner>);

struct Inner {
    tasks: RefCell<Option<LocalSet>>,
    stopped: Cell<bool>,
    end: Cell<Option<End>>,
    woken: RefCell<Option<Waker>>,
}

impl Process {
    /// A process without work.
    #[must_use]
    pub fn new() -> Self {
        Self(Rc::new(Inner {
            tasks: RefCell::new(Some(LocalSet::new())),
            stopped: Cell::new(false),
            end: Cell::new(None),
            woken: RefCell::new(None),
        }))
    }

    /// Runs `work` as its first task; ready when it was done or the process was killed. Everything it spawned ends with it.
    pub async fn run(&self, work: impl Future<Output = ()> + 'static) {
        let first = match self.0.tasks.borrow().as_ref() {
            Some(tasks) => tasks.spawn_local(work),
            None => return,
        };
        let me = self.clone();
        let driving = spawn_local(async move { me.drive().await });
        // Cancelled when it was killed.
        let _ = first.await;
        self.end(End::Killed);
        let _ = driving.await;
    }

    async fn drive(&self) {
        poll_fn(|context| {
            *self.0.woken.borrow_mut() = Some(context.waker().clone());
            if self.0.end.get().is_some() {
                return Poll::Ready(());
            }
            if self.0.stopped.get() {
                return Poll::Pending;
            }
            let mut tasks = self.0.tasks.borrow_mut();
            if let Some(tasks) = tasks.as_mut() {
                // The set is ready when it has no tasks left, which `run` notices by the first one.
                let _ = Pin::new(tasks).poll(context);
            }
            Poll::Pending
        })
        .await;
    }

    fn wake_driver(&self) {
        if let Some(waker) = self.0.woken.borrow().as_ref() {
            waker.wake_by_ref();
        }
    }

    /// None of its tasks runs from now on.
    pub fn stop(&self) {
        self.0.stopped.set(true);
    }

    /// It goes on.
    pub fn go_on(&self) {
        self.0.stopped.set(false);
        self.wake_driver();
    }

    /// Ends it, all tasks at once; the first end counts.
    pub fn end(&self, how: End) {
        if self.0.end.get().is_none() {
            self.0.end.set(Some(how));
        }
        let tasks = self.0.tasks.borrow_mut().take();
        drop(tasks);
        self.wake_driver();
    }

    /// How it ended, if it did.
    #[must_use]
    pub fn ended(&self) -> Option<End> {
        self.0.end.get()
    }

    /// Whether it is stopped.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.0.stopped.get()
    }
}

impl Default for Process {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::{Instant, sleep};

    use super::*;

    #[tokio::test(flavor = "current_thread", start_paused = true)]
    async fn a_stopped_process_does_nothing_until_it_goes_on_and_nothing_ever_when_killed() {
        LocalSet::new()
            .run_until(async {
                let ticks = Rc::new(Cell::new(0));
                let process = Process::new();
                let (ours, counted) = (process.clone(), Rc::clone(&ticks));
                let began = Instant::now();
                let run = spawn_local(async move {
                    let ticking = async move {
                        spawn_local(async move {
                            loop {
                                sleep(Duration::from_millis(10)).await;
                                counted.set(counted.get() + 1);
                            }
                        });
                        std::future::pending::<()>().await;
                    };
                    ours.run(ticking).await;
                });
                sleep(Duration::from_millis(105)).await;
                assert_eq!(ticks.get(), 10);
                process.stop();
                sleep(Duration::from_millis(1000)).await;
                assert_eq!(ticks.get(), 10);
                process.go_on();
                sleep(Duration::from_millis(50)).await;
                let later = ticks.get();
                assert!((11..=16).contains(&later), "{later}");
                process.end(End::Killed);
                sleep(Duration::from_millis(1000)).await;
                assert_eq!(ticks.get(), later);
                run.await.expect("the run ends");
                assert!(began.elapsed() >= Duration::from_secs(2));
            })
            .await;
    }
}
