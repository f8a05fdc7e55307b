//! How the rest of a portal reaches one connection: orders to it, and the news that it is over.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::task::{Context, Waker};

use tokio::sync::Notify;

/// What a connection is told to do. A later order of more force replaces an earlier one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Order {
    /// Ask the initiator to log out.
    RequestLogout,
    /// Tell the initiator that the session ends, and end it.
    DropAnnounced,
    /// The same, as far as its socket takes it at once: nothing waits for this connection.
    Dismiss,
    /// End it without a word.
    Drop,
}

/// One connection as others see it.
#[derive(Debug, Default)]
pub(crate) struct Control {
    order: Cell<Option<Order>>,
    waker: RefCell<Option<Waker>>,
    target: RefCell<Option<String>>,
    peer: Cell<Option<SocketAddr>>,
    over: Cell<bool>,
    ended: Notify,
}

impl Control {
    /// Gives an order; the connection carries it out when it runs next.
    pub(crate) fn order(&self, order: Order) {
        self.order.set(self.order.get().max(Some(order)));
        if let Some(waker) = self.waker.borrow().as_ref() {
            waker.wake_by_ref();
        }
    }

    /// The order given since the last look; the connection's task is woken by the next.
    pub(crate) fn poll_order(&self, context: &Context<'_>) -> Option<Order> {
        let mut waker = self.waker.borrow_mut();
        if !waker.as_ref().is_some_and(|known| known.will_wake(context.waker())) {
            *waker = Some(context.waker().clone());
        }
        self.order.take()
    }

    /// The target the connection belongs to, or asks for, from now on.
    pub(crate) fn belongs_to(&self, target: &str) {
        *self.target.borrow_mut() = Some(target.to_owned());
    }

    /// Whether it is a connection to `target`.
    pub(crate) fn is_of(&self, target: &str) -> bool {
        self.target.borrow().as_deref() == Some(target)
    }

    /// Its other end.
    pub(crate) fn comes_from(&self, peer: SocketAddr) {
        self.peer.set(Some(peer));
    }

    /// Where it comes from, once that is known.
    pub(crate) fn peer(&self) -> Option<SocketAddr> {
        self.peer.get()
    }

    /// The connection is over, and nothing of its commands is left anywhere.
    pub(crate) fn is_over(&self) {
        self.over.set(true);
        self.ended.notify_waiters();
    }

    /// Waits for that.
    pub(crate) async fn until_over(&self) {
        // BOUND: ends with the connection, whose last steps are bounded in time by the medium.
        loop {
            let ended = self.ended.notified();
            if self.over.get() {
                return;
            }
            ended.await;
        }
    }
}
