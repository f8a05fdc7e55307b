//! Short waits that are exact: tokio's own are rounded up to whole milliseconds, which is longer than most steps of a hand-off.

use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use tokio::sync::oneshot;

/// From this length on a millisecond more or less does not matter, and no thread has to be woken for it.
const LONG: Duration = Duration::from_millis(5);

/// A wait that somebody is in.
struct Wait {
    until: Instant,
    over: oneshot::Sender<()>,
}

/// A thread that sleeps for others, one wait at a time. It ends when this is dropped.
pub(super) struct Clock(Sender<Wait>);

impl Clock {
    /// Starts the thread.
    ///
    /// # Errors
    /// The system gives none.
    pub(super) fn start() -> anyhow::Result<Self> {
        let (waits, inbox) = channel();
        let thread = std::thread::Builder::new().name("clock".to_owned());
        thread.spawn(move || keep(&inbox)).context("the system gives no thread for a clock")?;
        Ok(Self(waits))
    }

    /// Waits; a wait that was dropped does not delay the next one.
    pub(super) async fn wait(&self, length: Duration) {
        if length >= LONG {
            return tokio::time::sleep(length).await;
        }
        let (over, told) = oneshot::channel();
        // The thread lives as long as this, and answers every wait but one that another took the place of.
        if self.0.send(Wait { until: Instant::now() + length, over }).is_ok() {
            let _ = told.await;
        }
    }
}

/// BOUND: ends with the clock.
fn keep(inbox: &Receiver<Wait>) {
    let mut newest = inbox.recv().ok();
    while let Some(wait) = newest.take() {
        newest = match inbox.recv_timeout(wait.until.saturating_duration_since(Instant::now())) {
            Ok(other) => Some(other),
            Err(RecvTimeoutError::Disconnected) => None,
            Err(RecvTimeoutError::Timeout) => {
                // Dropped meanwhile: nobody waits.
                let _ = wait.over.send(());
                inbox.recv().ok()
            }
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_wait_that_was_dropped_does_not_delay_the_next_one() {
        let clock = Clock::start().expect("a thread");
        let began = Instant::now();
        let long = LONG.checked_sub(Duration::from_millis(1)).expect("longer");
        for _ in 0..3 {
            // Polled once, so that the thread has it.
            assert!(futures_util::FutureExt::now_or_never(clock.wait(long)).is_none());
            clock.wait(Duration::from_micros(1)).await;
        }
        clock.wait(Duration::from_micros(300)).await;
        assert!(began.elapsed() >= Duration::from_micros(303), "no wait ends early");
    }
}
