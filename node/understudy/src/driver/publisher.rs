//! The own state page: the machine's words, the live words of this driver, sequence number and CRC, put into the
//! registered memory.

use std::cell::{Cell, RefCell};

use understudy_failover::page::{LAYOUT_VERSION, LiveWords, Page, PageContent};
use understudy_failover::words::{Incarnation, NodeId, PairId};

use super::world::OwnPage;

/// Publishes the page. One a process.
pub struct Publisher {
    server: Box<dyn OwnPage>,
    pair: PairId,
    node: NodeId,
    incarnation: Incarnation,
    sequence: Cell<u64>,
    live: Cell<LiveWords>,
    content: RefCell<Option<PageContent>>,
}

impl Publisher {
    /// Nothing is published yet: a reader finds an empty page.
    #[must_use]
    pub fn new(server: Box<dyn OwnPage>, pair: PairId, node: NodeId, incarnation: Incarnation) -> Self {
        Self {
            server,
            pair,
            node,
            incarnation,
            sequence: Cell::new(0),
            live: Cell::new(LiveWords::default()),
            content: RefCell::new(None),
        }
    }

    /// Publishes what the machine says.
    pub fn publish(&self, content: PageContent) {
        *self.content.borrow_mut() = Some(content);
        self.refresh();
    }

    /// Publishes the page again with the newest live words.
    pub fn refresh(&self) {
        let Some(content) = self.content.borrow().clone() else { return };
        self.sequence.set(self.sequence.get() + 2);
        let page = Page {
            pair: self.pair,
            node: self.node,
            incarnation: self.incarnation,
            sequence: self.sequence.get(),
            layout_version: LAYOUT_VERSION,
            content,
            live: self.live.get(),
        };
        self.server.publish(&page.encode());
    }

    /// One more piece of work is done in this stage.
    pub fn progress(&self) {
        self.change(|live| live.progress += 1);
    }

    /// The I/O path works: a heartbeat reached a majority of the lock disks.
    pub fn beat(&self) {
        self.change(|live| live.heartbeat += 1);
    }

    /// When the last client command was completed, microseconds since 1970.
    pub fn last_completion(&self, wall_micros: u64) {
        if self.live.get().last_completion < wall_micros {
            self.change(|live| live.last_completion = wall_micros);
        }
    }

    fn change(&self, change: impl FnOnce(&mut LiveWords)) {
        let mut live = self.live.get();
        change(&mut live);
        self.live.set(live);
        self.refresh();
    }

    /// Copies what the partner wrote beside the page; `false` if there is no such place.
    pub fn landed(&self, offset: usize, into: &mut [u8]) -> bool {
        self.server.landed(offset, into)
    }

    /// What the machine last said.
    #[must_use]
    pub fn content(&self) -> Option<PageContent> {
        self.content.borrow().clone()
    }
}
