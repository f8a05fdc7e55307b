//! What a node's driver takes from outside: disks, the interconnect, portals, operators, clocks, chance.
//!
//! Not here: decisions, and anything about pairs. In the product there is one world, [`super::host::Host`]; a simulation of two
//! nodes in one process brings its own, and everything above this boundary is the same code.

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use futures_util::future::LocalBoxFuture;
use futures_util::stream::LocalBoxStream;
use tokio::sync::mpsc;
use understudy_address::{AddressError, Connection, Contested, Keeper, ManagedAddress};
use understudy_device::{Elsewhere, NexusName};
use understudy_disk::disk::Disk;
use understudy_disk::session::{Nexus, Options, Place};
use understudy_disk::url::LunUrl;
use understudy_fabric::{LinkEvent, LinkEvents, PAGE_BYTES, PageReader, ReadFailure, SharedPage};
use understudy_failover::effect::Effects;
use understudy_failover::input::Input;
use understudy_failover::machine::Machine;
use understudy_failover::words::{Incarnation, Micros};
use understudy_forward::landings::Landings;
use understudy_forward::movers::Moves;
use understudy_portal::{DataReach, Portal, PortalError, PortalOptions};

use crate::admin::AdminRequest;
use crate::config::{Config, NodeName};
use crate::timeline::Recorder;

/// The memory in which the own state page stands.
pub trait OwnPage {
    /// Replaces the page; its sequence number is even and differs from the last one's.
    fn publish(&self, page: &[u8; PAGE_BYTES]);

    /// Copies what the partner wrote beside the page; `false` if there is no such place.
    fn landed(&self, _offset: usize, _into: &mut [u8]) -> bool {
        false
    }
}

/// The place beside the partner's page where this node may write.
pub trait Post {
    /// Writes there. Nothing says that it arrived.
    ///
    /// # Errors
    /// [`ReadFailure`].
    fn write(&mut self, offset: u64, bytes: Vec<u8>, within: Duration) -> LocalBoxFuture<'_, Result<(), ReadFailure>>;
}

/// Addresses of this machine's interfaces, and what the network is told of them. See [`Keeper`].
pub trait Addresses {
    /// Puts addresses on their interfaces; the network is told.
    ///
    /// # Errors
    /// One of them is not there; the others are.
    fn take(&self, addresses: Vec<ManagedAddress>) -> LocalBoxFuture<'_, Result<(), AddressError>>;

    /// Takes addresses off.
    ///
    /// # Errors
    /// One of them may still be there; the others are not.
    fn leave(&self, addresses: Vec<ManagedAddress>) -> LocalBoxFuture<'_, Result<(), AddressError>>;

    /// The node serves: what was taken stays a while longer.
    fn keep(&self);

    /// Tells clients of a node that is gone that their connections are no more.
    fn tickle(&self, connections: Vec<Connection>);

    /// Addresses that another machine has as well.
    fn contested(&self) -> Vec<Contested>;
}

/// The partner's memory.
pub trait PartnerPage {
    /// Reads the partner's page, which may be torn.
    ///
    /// # Errors
    /// [`ReadFailure`].
    fn read(&mut self, within: Duration) -> LocalBoxFuture<'_, Result<Box<[u8; PAGE_BYTES]>, ReadFailure>>;

    /// Waits before the next read, as exactly as this world can. May be dropped.
    fn rest(&mut self, length: Duration) -> LocalBoxFuture<'_, ()> {
        Box::pin(tokio::time::sleep(length))
    }
}

/// News of the link to the partner.
pub trait LinkNews {
    /// The next change; `None` if there will be none.
    fn next(&mut self) -> LocalBoxFuture<'_, Option<LinkEvent>>;
}

/// Both directions of the interconnect.
pub struct Interconnect {
    /// Where the partner reads.
    pub own: Box<dyn OwnPage>,
    /// Where the partner is read.
    pub partner: Box<dyn PartnerPage>,
    /// Whether there is a link.
    pub link: Box<dyn LinkNews>,
    /// Where the partner is told which clients are connected here; none where addresses are not managed.
    pub post: Option<Box<dyn Post>>,
}

/// RDMA for the data of commands that one node forwards to the other.
pub struct DataWay {
    /// Memory of this node for commands that it forwards.
    pub landings: Rc<Landings>,
    /// The partner's memory, for commands that it forwards.
    pub reach: DataReach,
    /// How often data was moved to or from there.
    pub moves: Moves,
}

/// Sees every step of the failover machine of one run.
pub trait Witness {
    /// `machine` is about to be told `fact`.
    fn told(&mut self, now: Micros, fact: &Input, machine: &Machine);

    /// It has taken it in, is now `machine`, and ordered this; nothing of it is carried out yet.
    fn ordered(&mut self, orders: &Effects, machine: &Machine);
}

/// Everything a node meets.
pub trait World {
    /// A number nobody had before, for this run; its low 16 bits, which keys carry, are not zero.
    ///
    /// # Errors
    /// There is no chance to be had.
    fn incarnation(&self) -> anyhow::Result<Incarnation>;

    /// Where the own page is published, and what reads the partner's.
    ///
    /// # Errors
    /// The interconnect cannot be used.
    fn interconnect(&self, config: &Config, own: NodeName) -> anyhow::Result<Interconnect>;

    /// Keeps the steps of this run.
    ///
    /// # Errors
    /// There is no place to keep them.
    fn recorder(&self, config: &Config, own: NodeName, incarnation: Incarnation) -> anyhow::Result<Recorder>;

    /// Whoever sees the machine's steps.
    ///
    /// # Errors
    /// It cannot begin.
    fn witness(&self, config: &Config, own: NodeName, machine: &Machine) -> anyhow::Result<Box<dyn Witness>>;

    /// Opens a disk. Called inside a `LocalSet`.
    fn open_disk(&self, url: &LunUrl, nexus: Nexus, options: Options) -> Rc<dyn Disk>;

    /// Begins a session with the partner that carries the commands of one client, whose data may be moved in this way. Called inside a
    /// `LocalSet`.
    fn open_forward(&self, partner: Place, client: &NexusName, data: Option<&DataWay>) -> Rc<dyn Elsewhere>;

    /// How the data of forwarded commands is moved by RDMA; `None` where it goes by TCP.
    fn data_way(&self, _config: &Config, _own: NodeName) -> Option<DataWay> {
        None
    }

    /// Listens for clients. Called inside a `LocalSet`.
    ///
    /// # Errors
    /// Another process has the address and does not share it.
    fn bind_portal(&self, address: SocketAddr, options: PortalOptions) -> Result<Portal, PortalError>;

    /// What moves the addresses of portals, none of which this machine has from then on; `None` where none is managed.
    ///
    /// # Errors
    /// An interface is missing, or a right.
    fn addresses(&self, _config: &Config, _own: NodeName) -> anyhow::Result<Option<Rc<dyn Addresses>>> {
        Ok(None)
    }

    /// Where operators' requests come in. Called inside a `LocalSet`.
    ///
    /// # Errors
    /// There is no way for them.
    fn operators(
        &self,
        config: &Config,
        own: NodeName,
        recorder: &Rc<Recorder>,
    ) -> anyhow::Result<mpsc::Receiver<AdminRequest>>;

    /// Every time the node is told to halt.
    ///
    /// # Errors
    /// It cannot be told.
    fn halts(&self) -> anyhow::Result<LocalBoxStream<'static, ()>>;

    /// Microseconds since 1970 by the wall clock, for people and the timeline only.
    fn wall_micros(&self) -> u64;
}

impl OwnPage for SharedPage {
    fn publish(&self, page: &[u8; PAGE_BYTES]) {
        Self::publish(self, page);
    }

    fn landed(&self, offset: usize, into: &mut [u8]) -> bool {
        Self::landed(self, offset, into)
    }
}

impl Post for PageReader {
    fn write(&mut self, offset: u64, bytes: Vec<u8>, within: Duration) -> LocalBoxFuture<'_, Result<(), ReadFailure>> {
        Box::pin(Self::write(self, offset, bytes, within))
    }
}

impl Addresses for Keeper {
    fn take(&self, addresses: Vec<ManagedAddress>) -> LocalBoxFuture<'_, Result<(), AddressError>> {
        Box::pin(Self::take(self, addresses))
    }

    fn leave(&self, addresses: Vec<ManagedAddress>) -> LocalBoxFuture<'_, Result<(), AddressError>> {
        Box::pin(Self::leave(self, addresses))
    }

    fn keep(&self) {
        Self::keep(self);
    }

    fn tickle(&self, connections: Vec<Connection>) {
        Self::tickle(self, connections);
    }

    fn contested(&self) -> Vec<Contested> {
        Self::contested(self)
    }
}

impl LinkNews for LinkEvents {
    fn next(&mut self) -> LocalBoxFuture<'_, Option<LinkEvent>> {
        Box::pin(Self::next(self))
    }
}
