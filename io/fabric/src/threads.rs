//! Threads of this crate: how they start, sleep and are woken.

use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};

use crate::FabricError;
use crate::fabric_calls::{CompletionQueue, EventQueue};

/// A descriptor that wakes a thread of ours out of its sleep.
pub(crate) fn wake_descriptor() -> Result<OwnedFd, FabricError> {
    eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
        .map_err(|error| FabricError::System { what: "make an eventfd", text: error.to_string() })
}

/// Wakes the thread that sleeps on `descriptor`.
pub(crate) fn wake(descriptor: &OwnedFd) {
    // A full counter means that the thread is about to wake up anyway.
    let _ = rustix::io::write(descriptor, &1u64.to_ne_bytes());
}

/// Forgets that somebody woke the sleeper.
pub(crate) fn calm(descriptor: &OwnedFd) {
    // Nothing to read: nobody did.
    let _ = rustix::io::read(descriptor, &mut [0; 8]);
}

/// Sleeps until one of the descriptors has input or an end, or the time is over; tells which have.
pub(crate) fn sleep_on(descriptors: &[BorrowedFd<'_>], within: Option<Duration>) -> Vec<bool> {
    let limit = within.map(|within| Timespec {
        tv_sec: i64::try_from(within.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: within.subsec_nanos().into(),
    });
    let mut waits: Vec<_> =
        descriptors.iter().map(|descriptor| PollFd::from_borrowed_fd(*descriptor, PollFlags::IN)).collect();
    // An interrupted wait is a short one: the answers are then empty.
    let _ = poll(&mut waits, limit.as_ref());
    waits.iter().map(|wait| !wait.revents().is_empty()).collect()
}

/// Sleeps until the event queue has news, the connection has work to do, somebody wakes the thread, or the time is
/// over. A connection's end becomes news only when its work is done, so a reader sleeps on both descriptors.
pub(crate) fn sleep_until_news(
    events: &EventQueue,
    connection: Option<&CompletionQueue>,
    woken: Option<&OwnedFd>,
    within: Option<Duration>,
) {
    let Some(news) = events.sleepable() else { return };
    let work = match connection.map(CompletionQueue::sleepable) {
        None => None,
        Some(Some(work)) => Some(work),
        Some(None) => return,
    };
    let descriptors: Vec<_> = [Some(news), work, woken.map(AsFd::as_fd)].into_iter().flatten().collect();
    sleep_on(&descriptors, within);
    if let Some(woken) = woken {
        calm(woken);
    }
}

/// Starts a thread with a name that shows in `top` and in a debugger.
pub(crate) fn spawn(name: &'static str, body: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, FabricError> {
    thread::Builder::new()
        .name(name.into())
        .spawn(body)
        .map_err(|error| FabricError::System { what: "start a thread", text: error.to_string() })
}
