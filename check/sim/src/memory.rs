//! The simulated interconnect: the state pages of both nodes and the reads of them.
//!
//! A read takes time, finds the page as it was at some moment of that time, and may be lost, late or torn. The memory of a
//! stopped process can still be read; that of a dead one cannot: its host refuses, or answers nothing if it lost power.

use std::cell::{Cell, RefCell};
use std::future::pending;
use std::rc::Rc;
use std::time::Duration;

use futures_util::future::LocalBoxFuture;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use understudy::config::NodeName;
use understudy::driver::world::{Interconnect, LinkNews, OwnPage, PartnerPage};
use understudy_fabric::{LinkEvent, PAGE_BYTES, ReadFailure};

use crate::chance::Chance;
use crate::process::{End, Process};

/// What a node's memory holds.
struct Region {
    process: Process,
    page: Box<[u8; PAGE_BYTES]>,
    before: Box<[u8; PAGE_BYTES]>,
}

/// How reads go wrong.
#[derive(Debug, Clone, Copy, Default)]
pub struct Trouble {
    /// Nothing comes back.
    pub cut: bool,
    /// So many milliseconds more.
    pub slow_ms: u64,
    /// Every other read is half of one page and half of the page before.
    pub torn: bool,
}

/// Both nodes' memory and the way to it.
pub struct Memory {
    chance: Chance,
    regions: [RefCell<Option<Region>>; 2],
    /// Where each node hears of the end of the other's process.
    news: [RefCell<Option<mpsc::UnboundedSender<LinkEvent>>>; 2],
    connected: [Cell<bool>; 2],
    /// By reader.
    trouble: [Cell<Trouble>; 2],
}

impl Memory {
    /// Nothing registered yet.
    #[must_use]
    pub fn new(chance: Chance) -> Rc<Self> {
        Rc::new(Self {
            chance,
            regions: Default::default(),
            news: Default::default(),
            connected: Default::default(),
            trouble: Default::default(),
        })
    }

    /// How reads by `reader` go from now on.
    pub fn set_trouble(&self, reader: NodeName, trouble: Trouble) {
        self.trouble[reader.index()].set(trouble);
    }

    /// How reads by `reader` go now.
    #[must_use]
    pub fn trouble(&self, reader: NodeName) -> Trouble {
        self.trouble[reader.index()].get()
    }

    /// The page a node shows, if its process exists.
    #[must_use]
    pub fn page(&self, node: NodeName) -> Option<Box<[u8; PAGE_BYTES]>> {
        self.regions[node.index()].borrow().as_ref().map(|region| region.page.clone())
    }

    /// The process of `node` has ended.
    pub fn gone(&self, node: NodeName, how: End) {
        let reader = node.partner();
        match how {
            End::Killed => *self.regions[node.index()].borrow_mut() = None,
            // The region stays, unreachable, until the host is up again.
            End::PowerLost => {}
        }
        self.news[node.index()].take();
        let was_connected = self.connected[reader.index()].replace(false);
        if how == End::Killed && was_connected && !self.trouble(reader).cut {
            let news = self.news[reader.index()].borrow();
            // The reader may be gone as well.
            let _ = news.as_ref().map(|news| news.send(LinkEvent::Closed { connection: 1 }));
        }
    }

    /// A node is told that a connection has closed which did long ago, or did not.
    pub fn repeat_news(&self, reader: NodeName) {
        let news = self.news[reader.index()].borrow();
        let connection = self.chance.below(2);
        // The reader may be gone.
        let _ = news.as_ref().map(|news| news.send(LinkEvent::Closed { connection }));
    }

    /// The host of `node` is up again after a loss of power, without the process.
    pub fn host_is_up(&self, node: NodeName) {
        let mut region = self.regions[node.index()].borrow_mut();
        if region.as_ref().is_some_and(|region| region.process.ended().is_some()) {
            *region = None;
        }
    }

    /// What a node's driver gets.
    #[must_use]
    pub fn interconnect(self: &Rc<Self>, own: NodeName, process: &Process) -> Interconnect {
        let blank = || Box::new([0; PAGE_BYTES]);
        let region = Region { process: process.clone(), page: blank(), before: blank() };
        *self.regions[own.index()].borrow_mut() = Some(region);
        let (sender, receiver) = mpsc::unbounded_channel();
        *self.news[own.index()].borrow_mut() = Some(sender);
        self.connected[own.index()].set(false);
        let me = || (Rc::clone(self), own);
        Interconnect {
            own: Box::new(Own(me())),
            partner: Box::new(Partner(me())),
            link: Box::new(News(receiver)),
            post: None,
        }
    }

    fn snapshot(&self, reader: NodeName) -> Result<Box<[u8; PAGE_BYTES]>, ReadFailure> {
        let regions = self.regions[reader.partner().index()].borrow();
        let Some(region) = regions.as_ref() else {
            let was_connected = self.connected[reader.index()].replace(false);
            return Err(if was_connected { ReadFailure::Closed } else { ReadFailure::Refused });
        };
        self.connected[reader.index()].set(true);
        let mut page = region.page.clone();
        if self.trouble(reader).torn && self.chance.one_in(2) {
            let at = self.chance.below(PAGE_BYTES as u64 / 8) as usize * 8;
            page[at..].copy_from_slice(&region.before[at..]);
        }
        Ok(page)
    }

    async fn read(&self, reader: NodeName) -> Result<Box<[u8; PAGE_BYTES]>, ReadFailure> {
        let trouble = self.trouble(reader);
        let extra = if trouble.slow_ms > 0 { self.chance.below(trouble.slow_ms + 1) } else { 0 };
        if extra > 0 {
            sleep(Duration::from_millis(extra)).await;
        }
        let is_dark = |region: &Region| region.process.ended() == Some(End::PowerLost);
        let dark = self.regions[reader.partner().index()].borrow().as_ref().is_some_and(is_dark);
        if self.trouble(reader).cut || dark {
            pending::<()>().await;
        }
        let page = self.snapshot(reader);
        sleep(Duration::from_millis(extra + self.chance.below(2))).await;
        if self.trouble(reader).cut {
            pending::<()>().await;
        }
        page
    }
}

struct Own((Rc<Memory>, NodeName));

impl OwnPage for Own {
    fn publish(&self, page: &[u8; PAGE_BYTES]) {
        let (memory, own) = &self.0;
        if let Some(region) = memory.regions[own.index()].borrow_mut().as_mut() {
            region.before = std::mem::replace(&mut region.page, Box::new(*page));
        }
    }
}

struct Partner((Rc<Memory>, NodeName));

impl PartnerPage for Partner {
    fn read(&mut self, within: Duration) -> LocalBoxFuture<'_, Result<Box<[u8; PAGE_BYTES]>, ReadFailure>> {
        let (memory, own) = &self.0;
        Box::pin(async move {
            match timeout(within, memory.read(*own)).await {
                Ok(answer) => answer,
                Err(_) => {
                    memory.connected[own.index()].set(false);
                    Err(ReadFailure::TimedOut(within))
                }
            }
        })
    }
}

struct News(mpsc::UnboundedReceiver<LinkEvent>);

impl LinkNews for News {
    fn next(&mut self) -> LocalBoxFuture<'_, Option<LinkEvent>> {
        Box::pin(self.0.recv())
    }
}
