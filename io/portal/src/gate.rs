//! Holding logins: a portal may listen before its volumes can be served.
//!
//! While a gate is closed, a client's connection is accepted and its login negotiated, but the last login response
//! waits. A client therefore sees a slow login, never "connection refused" and never "no such LUN".

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

/// Shared by everything that decides about, or waits for, the logins of one or more targets.
#[derive(Clone)]
pub struct LoginGate(Rc<Gate>);

struct Gate {
    open: Cell<bool>,
    changed: Notify,
    since: RefCell<Vec<Instant>>,
    longest: Cell<Duration>,
}

impl LoginGate {
    /// A gate that lets logins pass.
    #[must_use]
    pub fn opened() -> Self {
        Self::new(true)
    }

    /// A gate that holds logins until [`LoginGate::open`].
    #[must_use]
    pub fn held() -> Self {
        Self::new(false)
    }

    fn new(open: bool) -> Self {
        Self(Rc::new(Gate {
            open: Cell::new(open),
            changed: Notify::new(),
            since: RefCell::new(Vec::new()),
            longest: Cell::new(Duration::ZERO),
        }))
    }

    /// Lets the held logins and all later ones pass.
    pub fn open(&self) {
        self.0.open.set(true);
        self.0.changed.notify_waiters();
    }

    /// Holds logins from now on; sessions that exist are not touched.
    pub fn hold(&self) {
        self.0.open.set(false);
    }

    /// Whether logins pass.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.0.open.get()
    }

    /// Logins waiting now.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.0.since.borrow().len()
    }

    /// Longest time any login has waited here, those that wait now included.
    #[must_use]
    pub fn longest_hold(&self) -> Duration {
        let oldest = self.0.since.borrow().iter().map(Instant::elapsed).max();
        self.0.longest.get().max(oldest.unwrap_or_default())
    }

    /// Waits until the gate is open.
    pub(crate) async fn pass(&self) {
        if self.is_open() {
            return;
        }
        let _waiting = Waiting::enter(&self.0);
        // BOUND: ends with `open`; the caller limits the time.
        loop {
            let changed = self.0.changed.notified();
            if self.is_open() {
                return;
            }
            changed.await;
        }
    }
}

/// One waiting login; leaves the list however the wait ends.
struct Waiting<'a> {
    gate: &'a Gate,
    since: Instant,
}

impl<'a> Waiting<'a> {
    fn enter(gate: &'a Gate) -> Self {
        let since = Instant::now();
        gate.since.borrow_mut().push(since);
        Self { gate, since }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut waiting = self.gate.since.borrow_mut();
        if let Some(position) = waiting.iter().position(|since| *since == self.since) {
            waiting.swap_remove(position);
        }
        self.gate.longest.set(self.gate.longest.get().max(self.since.elapsed()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    #[tokio::test(flavor = "current_thread", start_paused = true)]
    async fn held_login_waits_until_the_gate_opens_and_is_counted() {
        let gate = LoginGate::held();
        let mut login = Box::pin(gate.pass());
        assert!((&mut login).now_or_never().is_none());
        assert_eq!(gate.waiting(), 1);
        tokio::time::advance(Duration::from_millis(70)).await;
        assert_eq!(gate.longest_hold(), Duration::from_millis(70));
        gate.open();
        login.await;
        assert_eq!(gate.waiting(), 0);
        assert_eq!(gate.longest_hold(), Duration::from_millis(70));
        assert!(gate.pass().now_or_never().is_some());
    }

    #[tokio::test(flavor = "current_thread", start_paused = true)]
    async fn login_that_gives_up_leaves_no_trace() {
        let gate = LoginGate::held();
        assert!(tokio::time::timeout(Duration::from_secs(1), gate.pass()).await.is_err());
        assert_eq!(gate.waiting(), 0);
        assert_eq!(gate.longest_hold(), Duration::from_secs(1));
    }
}
