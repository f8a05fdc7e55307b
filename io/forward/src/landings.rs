//! Stretches of this node's memory in which the data of forwarded commands lies while the partner moves it by RDMA.
//!
//! Not here: which commands are forwarded, and who moves the data ([`crate::movers`]). The one idea: **a stretch is used again only after the
//! command it was for was answered.** A command that was sent and not answered may still be carried out by a partner that was stopped and wakes up:
//! then it writes where it was told to. So its stretch is lost for good. When all of a region are, another region is made, to be offered at the next
//! login; the addresses of the old one are never used again ([`DataRegion`]).

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::{Rc, Weak};
use std::sync::mpsc::{Receiver, channel};

use bytes::Bytes;
use understudy_fabric::{DataRegion, FabricError, Identity, MOVE_BYTES, Provider};
use understudy_iscsi::Advertised;

/// Stretches of a region, each for the longest command that is moved.
const STRETCHES: usize = 8;

/// Bytes of a region; the partner has to expect the same.
pub(crate) const REGION_BYTES: usize = STRETCHES * MOVE_BYTES;

/// Regions that are given up before no more are made: each costs addresses for good, and if so many commands stay unanswered something else is wrong.
const REGIONS_MAX: u32 = 64;

/// Where a region is made.
#[derive(Debug, Clone, Copy)]
pub struct At {
    /// The provider; both nodes must agree.
    pub provider: Provider,
    /// Any free port of this address.
    pub address: SocketAddr,
    /// Who serves.
    pub identity: Identity,
}

/// The region there is now, and how another one is made.
pub struct Landings {
    at: At,
    current: RefCell<Option<Rc<Stretches>>>,
    coming: RefCell<Option<Receiver<Result<DataRegion, FabricError>>>>,
    made: Cell<u32>,
    own: Weak<Self>,
}

/// One region.
struct Stretches {
    region: DataRegion,
    name: String,
    free: RefCell<Vec<usize>>,
    /// How many are never used again.
    lost: Cell<usize>,
}

impl Landings {
    /// Begins to make a region, on a thread of its own.
    #[must_use]
    pub fn start(at: At) -> Rc<Self> {
        let landings = Rc::new_cyclic(|own| Self {
            at,
            current: RefCell::default(),
            coming: RefCell::default(),
            made: Cell::new(0),
            own: Weak::clone(own),
        });
        landings.make();
        landings
    }

    fn make(&self) {
        if self.made.get() == REGIONS_MAX {
            return tracing::warn!(
                "the data of forwarded commands goes by TCP from now on: too many of them were not answered"
            );
        }
        self.made.set(self.made.get() + 1);
        let (made, coming) = channel();
        let At { provider, address, identity } = self.at;
        let make = move || {
            // Nobody waits for it when the node has ended meanwhile.
            let _ = made.send(DataRegion::start(provider, address, identity, REGION_BYTES));
        };
        match std::thread::Builder::new().name("data-region".into()).spawn(make) {
            Ok(_runs_on) => *self.coming.borrow_mut() = Some(coming),
            Err(error) => tracing::warn!(%error, "the data of forwarded commands goes by TCP"),
        }
    }

    /// What the region there is now is called, to be proposed at a login.
    #[must_use]
    pub fn name(&self) -> Option<String> {
        self.take_what_has_come();
        self.current.borrow().as_ref().map(|stretches| stretches.name.clone())
    }

    fn take_what_has_come(&self) {
        let Some(made) = self.coming.borrow().as_ref().and_then(|coming| coming.try_recv().ok()) else { return };
        *self.coming.borrow_mut() = None;
        match made {
            Ok(region) => {
                let name = region.address().to_string();
                let free = RefCell::new((0..STRETCHES).collect());
                *self.current.borrow_mut() = Some(Rc::new(Stretches { region, name, free, lost: Cell::new(0) }));
            }
            Err(error) => tracing::warn!(%error, "the data of forwarded commands goes by TCP"),
        }
    }

    /// A stretch of the region of this name for so many bytes; `None` if it is another one by now, or has none free.
    pub(crate) fn stretch(&self, name: &str, bytes: usize) -> Option<Stretch> {
        let current = self.current.borrow();
        let stretches = current.as_ref().filter(|stretches| stretches.name == name && bytes <= MOVE_BYTES)?;
        let index = stretches.free.borrow_mut().pop()?;
        let landings = Weak::clone(&self.own);
        Some(Stretch { landings, of: Rc::clone(stretches), index, bytes, is_answered: Cell::new(false) })
    }

    /// Nothing of this region is left.
    fn give_up(&self, stretches: &Rc<Stretches>) {
        let was_current = self.current.borrow_mut().take_if(|current| Rc::ptr_eq(current, stretches));
        if was_current.is_some() {
            self.make();
        }
    }
}

/// Memory for the data of one command. Dropped without [`Stretch::answered`] it is never used again.
pub(crate) struct Stretch {
    landings: Weak<Landings>,
    of: Rc<Stretches>,
    index: usize,
    bytes: usize,
    is_answered: Cell<bool>,
}

impl Stretch {
    /// For the command.
    pub(crate) fn advertised(&self) -> Advertised {
        // PANIC: regions are a few MiB.
        let number = |bytes| u32::try_from(bytes).expect("within a region");
        Advertised { offset: number(self.offset()), length: number(self.bytes) }
    }

    fn offset(&self) -> usize {
        self.index * MOVE_BYTES
    }

    /// Puts the data of a command that writes there.
    pub(crate) fn put(&self, data: &[u8]) {
        self.of.region.put(self.offset(), data);
    }

    /// The first bytes of what the partner put there, copied out.
    pub(crate) fn take(&self, bytes: usize) -> Bytes {
        self.of.region.take(self.offset(), bytes.min(self.bytes))
    }

    /// Its command was answered, or never sent: nobody else uses the stretch any more.
    pub(crate) fn answered(&self) {
        self.is_answered.set(true);
    }
}

impl Drop for Stretch {
    fn drop(&mut self) {
        if self.is_answered.get() {
            return self.of.free.borrow_mut().push(self.index);
        }
        self.of.lost.set(self.of.lost.get() + 1);
        if self.of.lost.get() == STRETCHES
            && let Some(landings) = self.landings.upgrade()
        {
            landings.give_up(&self.of);
        }
    }
}
