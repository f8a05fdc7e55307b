//! Moves the data of commands that the partner forwards here, to and from its memory.
//!
//! Not here: the memory ([`crate::landings`]) and the commands (`understudy-portal`). The one idea: one mover for each region of the partner's; once
//! something failed it is never used again, and data goes by TCP until the partner offers another region.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::LocalBoxFuture;
use tokio::sync::Mutex;
use understudy_fabric::{DataMover, Identity, Provider, ReadFailure, ReaderOptions};
use understudy_iscsi::Advertised;
use understudy_portal::DataReach;

use crate::landings::REGION_BYTES;

/// How long connecting, or moving the data of one command, may take. By then the partner's client is near the end of its patience.
const WITHIN: Duration = Duration::from_secs(2);

/// Whose data regions are reached.
#[derive(Debug, Clone, Copy)]
pub struct Partner {
    /// The provider; both nodes must agree.
    pub provider: Provider,
    /// Where its regions are, at any port.
    pub address: SocketAddr,
    /// Its number in the pair.
    pub node: u8,
    /// Who this node is.
    pub own: Identity,
}

/// How often data was moved.
#[derive(Debug, Clone, Default)]
pub struct Moves(Rc<Cell<u64>>);

impl Moves {
    /// Commands whose data was moved by RDMA, since the start.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.0.get()
    }
}

/// The partner's data regions, for a portal, and how often they were used.
#[must_use]
pub fn reach(partner: Partner) -> (DataReach, Moves) {
    let moves = Moves::default();
    let counted = moves.clone();
    // The partner has one region at a time.
    let known: RefCell<Option<(SocketAddr, Rc<Mover>)>> = RefCell::default();
    let reach = move |region: &str| {
        let address: SocketAddr = region.parse().ok()?;
        if address.ip() != partner.address.ip() {
            return None;
        }
        let mut known = known.borrow_mut();
        let mover = match &*known {
            Some((of, mover)) if *of == address => Rc::clone(mover),
            _ => Rc::new(Mover::new(partner, address, counted.clone())),
        };
        *known = Some((address, Rc::clone(&mover)));
        let usable: Option<Rc<dyn understudy_portal::DataMover>> = (!mover.has_failed.get()).then_some(mover as _);
        usable
    };
    (DataReach::new(reach), moves)
}

/// Moves data to and from one region.
struct Mover {
    options: ReaderOptions,
    line: Rc<Mutex<Option<DataMover>>>,
    has_failed: Rc<Cell<bool>>,
    moves: Moves,
}

impl Mover {
    fn new(partner: Partner, address: SocketAddr, moves: Moves) -> Self {
        let Partner { provider, node, own, .. } = partner;
        let options = ReaderOptions { provider, partner: address, identity: own, partner_node: node };
        Self { options, line: Rc::default(), has_failed: Rc::default(), moves }
    }

    fn with_line<T: 'static>(
        &self,
        act: impl AsyncFnOnce(&mut DataMover) -> Result<T, ReadFailure> + 'static,
    ) -> LocalBoxFuture<'static, Option<T>> {
        let (options, line, moves) = (self.options.clone(), Rc::clone(&self.line), self.moves.clone());
        let has_failed = Rc::clone(&self.has_failed);
        Box::pin(async move {
            let mut line = line.lock().await;
            if has_failed.get() {
                return None;
            }
            let moved = async {
                if line.is_none() {
                    *line = Some(DataMover::start(options, REGION_BYTES, WITHIN).await?);
                }
                match &mut *line {
                    Some(line) => act(line).await,
                    None => Err(ReadFailure::Closed),
                }
            };
            match moved.await {
                Ok(done) => {
                    moves.0.set(moves.0.get() + 1);
                    Some(done)
                }
                Err(failure) => {
                    tracing::info!(%failure, "the data of forwarded commands goes by TCP until the partner logs in anew");
                    has_failed.set(true);
                    *line = None;
                    None
                }
            }
        })
    }
}

impl understudy_portal::DataMover for Mover {
    fn put(&self, to: Advertised, data: Bytes) -> LocalBoxFuture<'static, bool> {
        let put = self.with_line(async move |line| line.write(to.offset, data, WITHIN).await);
        Box::pin(async { put.await.is_some() })
    }

    fn fetch(&self, from: Advertised) -> LocalBoxFuture<'static, Option<Bytes>> {
        self.with_line(async move |line| line.fetch(from.offset, from.length, WITHIN).await)
    }
}
