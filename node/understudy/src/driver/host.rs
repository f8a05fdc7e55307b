//! The world of a node that runs on a machine of its own: TCP, libfabric, the system's clock and random numbers, signals, files.

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use futures_util::future::LocalBoxFuture;
use futures_util::stream::{self, LocalBoxStream, StreamExt as _};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use understudy_address::Keeper;
use understudy_device::{Elsewhere, NexusName};
use understudy_disk::disk::Disk;
use understudy_disk::lun::IscsiLun;
use understudy_disk::session::{Nexus, Options, Place, Session};
use understudy_disk::url::LunUrl;
use understudy_fabric::{Identity, PAGE_BYTES, PageReader, Provider, ReadFailure, ReaderOptions, SharedMemory};
use understudy_failover::effect::Effects;
use understudy_failover::input::Input;
use understudy_failover::machine::Machine;
use understudy_failover::page::SEQUENCE_OFFSET;
use understudy_failover::words::{Incarnation, Micros};
use understudy_forward::landings::{At, Landings};
use understudy_forward::{Line, movers};
use understudy_portal::{Portal, PortalError, PortalOptions};

use super::clock::Clock;
use super::service::node_id;
use super::world::{Addresses, DataWay, Interconnect, PartnerPage, Witness, World};
use crate::admin::{AdminRequest, Server};
use crate::config::{Config, NodeName};
use crate::event_log::EventLog;
use crate::timeline::Recorder;

/// Requests of operators that wait for the driver. A person types, a script loops: more than this many at once is a mistake.
const REQUESTS: usize = 64;

/// This machine.
#[derive(Debug, Clone)]
pub struct Host {
    page: SharedMemory,
}

impl Host {
    /// With the memory in which the own page is published, and which another process serves.
    #[must_use]
    pub fn new(page: SharedMemory) -> Self {
        Self { page }
    }
}

/// The partner's memory over libfabric.
struct Partner {
    reader: PageReader,
    clock: Clock,
}

impl PartnerPage for Partner {
    fn read(&mut self, within: Duration) -> LocalBoxFuture<'_, Result<Box<[u8; PAGE_BYTES]>, ReadFailure>> {
        Box::pin(self.reader.read(within))
    }

    fn rest(&mut self, length: Duration) -> LocalBoxFuture<'_, ()> {
        Box::pin(self.clock.wait(length))
    }
}

/// Looks away.
struct Nobody;

impl Witness for Nobody {
    fn told(&mut self, _: Micros, _: &Input, _: &Machine) {}
    fn ordered(&mut self, _: &Effects, _: &Machine) {}
}

impl World for Host {
    fn incarnation(&self) -> anyhow::Result<Incarnation> {
        loop {
            let drawn =
                getrandom::u64().map_err(|error| anyhow::anyhow!("no random numbers from the system: {error}"))?;
            // Keys carry the low 16 bits only: they must not be zero either.
            if drawn & 0xffff != 0 {
                return Ok(Incarnation(drawn));
            }
        }
    }

    fn interconnect(&self, config: &Config, own: NodeName) -> anyhow::Result<Interconnect> {
        let node = node_id(own);
        let provider: Provider = config.provider.as_str().parse().context("interconnect provider")?;
        let identity = Identity { pair: u64::from(config.pair.id), node: node.code() };
        let options = ReaderOptions {
            provider,
            partner: config.node(own.partner()).interconnect,
            identity,
            partner_node: node.partner().code(),
        };
        let start = || PageReader::start(options.clone()).context("cannot start reading the partner's page");
        let (reader, link) = start()?;
        // A connection of its own: what is written there neither waits for the routine reads nor keeps them waiting.
        let post = if config.manages_addresses() { Some(start()?.0) } else { None };
        Ok(Interconnect {
            own: Box::new(self.page.publisher(SEQUENCE_OFFSET)),
            partner: Box::new(Partner { reader, clock: Clock::start()? }),
            link: Box::new(link),
            post: post.map(|post| Box::new(post) as _),
        })
    }

    fn recorder(&self, config: &Config, own: NodeName, incarnation: Incarnation) -> anyhow::Result<Recorder> {
        let folder = &config.node(own).state;
        Recorder::open(folder, own, incarnation.0)
            .with_context(|| format!("cannot write to the state folder {}", folder.display()))
    }

    fn witness(&self, config: &Config, own: NodeName, machine: &Machine) -> anyhow::Result<Box<dyn Witness>> {
        let folder = &config.node(own).state;
        match EventLog::open(folder, config.event_log_bytes, machine) {
            Ok(log) => Ok(Box::new(log)),
            // Nothing that serves depends on it.
            Err(error) => {
                tracing::warn!(%error, folder = %folder.display(), "there is no event log of this run");
                Ok(Box::new(Nobody))
            }
        }
    }

    fn open_disk(&self, url: &LunUrl, nexus: Nexus, options: Options) -> Rc<dyn Disk> {
        IscsiLun::open(url, nexus, options)
    }

    fn open_forward(&self, partner: Place, client: &NexusName, data: Option<&DataWay>) -> Rc<dyn Elsewhere> {
        let nexus = understudy_forward::nexus(client);
        match data {
            None => Line::over(Session::start(partner, nexus, understudy_forward::options())),
            Some(DataWay { landings, .. }) => {
                let session = Session::start(partner, nexus, understudy_forward::options_with(landings));
                Line::with(session, Rc::clone(landings))
            }
        }
    }

    fn data_way(&self, config: &Config, own: NodeName) -> Option<DataWay> {
        config.forwarding()?;
        let provider = match config.provider.as_str().parse().ok()? {
            provider @ (Provider::Shm | Provider::Verbs) => provider,
            // It makes a one-sided read or write of two messages, and is no shorter a way than a connection of one's own.
            Provider::Tcp => return None,
        };
        let identity = Identity { pair: u64::from(config.pair.id), node: node_id(own).code() };
        let landings = Landings::start(At { provider, address: config.node(own).interconnect, identity });
        let (address, node) = (config.node(own.partner()).interconnect, node_id(own.partner()).code());
        let (reach, moves) = movers::reach(movers::Partner { provider, address, node, own: identity });
        Some(DataWay { landings, reach, moves })
    }

    fn bind_portal(&self, address: SocketAddr, options: PortalOptions) -> Result<Portal, PortalError> {
        Portal::bind(address, options)
    }

    fn addresses(&self, config: &Config, own: NodeName) -> anyhow::Result<Option<Rc<dyn Addresses>>> {
        if !config.manages_addresses() {
            return Ok(None);
        }
        let all: Vec<_> = config.nodes.iter().flat_map(|node| node.managed_on(own)).collect();
        let keeper = Keeper::start(&all).context("cannot manage the addresses of the portals")?;
        Ok(Some(Rc::new(keeper)))
    }

    fn operators(
        &self,
        config: &Config,
        own: NodeName,
        recorder: &Rc<Recorder>,
    ) -> anyhow::Result<mpsc::Receiver<AdminRequest>> {
        let (requests, inbox) = mpsc::channel(REQUESTS);
        let server = Server::bind(&config.node(own).admin)?;
        tokio::task::spawn_local(server.serve(requests, Rc::clone(recorder)));
        Ok(inbox)
    }

    fn halts(&self) -> anyhow::Result<LocalBoxStream<'static, ()>> {
        let terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
        let interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
        let told = async |(mut terminate, mut interrupt): (Signal, Signal)| {
            let told = tokio::select! {
                told = terminate.recv() => told,
                told = interrupt.recv() => told,
            };
            told.map(|()| ((), (terminate, interrupt)))
        };
        Ok(stream::unfold((terminate, interrupt), told).boxed_local())
    }

    fn wall_micros(&self) -> u64 {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
    }
}
