//! The owner's side of the interconnect: memory that the partner reads and writes without asking.
//!
//! One thread accepts connections, and one for each connection lets libfabric work: the `tcp` provider claims to serve
//! reads by itself, yet a reader hangs unless some thread of this process waits in `fi_cq_sread`. Such a thread starts
//! only after its endpoint was enabled; one that waited before would not see the new connection.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::fd::OwnedFd;

use crate::fabric_calls::{
    Domain, Endpoint, EndpointName, Event, EventQueue, Fabric, Info, Listener, Purpose, Registration,
};
use crate::greeting::{Greeting, RemoteRegion, Verdict};
use crate::memory::SharedMemory;
use crate::region::Region;
use crate::shared_acceptor::SharedAcceptor;
use crate::threads::{sleep_until_news, spawn, wake, wake_descriptor};
use crate::{FabricError, Identity, LANDING_BYTES, PAGE_BYTES, Provider};

/// Connections kept; a partner needs one. The oldest goes when another arrives, because a partner that was cut off
/// leaves connections behind which no provider reports closed for minutes.
pub(crate) const CONNECTIONS_MAX: usize = 4;

/// How long a serving thread waits at most before it looks whether it should end, where the provider cannot be woken.
const SERVE_WAIT: Duration = Duration::from_secs(1);

/// Keys asked for; providers that choose keys themselves ignore them.
pub(crate) const PAGE_KEY: u64 = 1;
pub(crate) const LANDING_KEY: u64 = 2;

/// How to serve a page.
#[derive(Debug, Clone)]
pub struct ServerOptions {
    /// The provider; both ends must agree.
    pub provider: Provider,
    /// Where to listen; port 0 takes any free one. `verbs` needs the address of the card, not a wildcard.
    pub address: SocketAddr,
    /// Who serves.
    pub identity: Identity,
    /// Where in the page the little-endian u64 sequence number lies; a multiple of 8.
    pub sequence_offset: usize,
}

/// A page of this node's memory, readable by the partner; stops serving when dropped.
pub struct PageServer {
    page: Arc<Region>,
    landing: Arc<Region>,
    address: SocketAddr,
    sequence_offset: usize,
    publishing: Mutex<()>,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

/// What the accepting thread and the owner share.
pub(crate) struct Shared {
    pub(crate) stop: AtomicBool,
    pub(crate) connections: AtomicUsize,
    pub(crate) wake: OwnedFd,
}

impl PageServer {
    /// Registers a zeroed page and the landing region, and accepts the partner from now on.
    ///
    /// # Errors
    /// The provider is missing, the address is taken, or the system refuses a thread.
    pub fn start(options: ServerOptions) -> Result<Self, FabricError> {
        Self::start_with(options, Region::zeroed(PAGE_BYTES), Region::zeroed(LANDING_BYTES))
    }

    /// The same with memory in which another process publishes, by [`SharedMemory::publisher`]. Connections outlive that process.
    ///
    /// # Errors
    /// As [`PageServer::start`].
    pub fn start_on(memory: &SharedMemory, options: ServerOptions) -> Result<Self, FabricError> {
        Self::start_with(options, memory.page(), memory.landing())
    }

    pub(crate) fn start_with(options: ServerOptions, page: Region, landing: Region) -> Result<Self, FabricError> {
        assert!(
            options.sequence_offset.is_multiple_of(8) && options.sequence_offset < PAGE_BYTES,
            "the sequence number is an aligned word of the page"
        );
        let (page, landing) = (Arc::new(page), Arc::new(landing));
        let shared = Arc::new(Shared {
            stop: AtomicBool::new(false),
            connections: AtomicUsize::new(0),
            wake: wake_descriptor()?,
        });
        let (thread, address) = accept_on_a_thread(&options, &page, &landing, &shared)?;
        Ok(Self {
            page,
            landing,
            address,
            sequence_offset: options.sequence_offset,
            publishing: Mutex::new(()),
            shared,
            thread: Some(thread),
        })
    }

    /// Where the partner connects to.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Replaces the page. Its sequence number must be even and differ from the last one's; while the words change, a
    /// reader sees the number before it (odd) and reads again.
    ///
    /// # Panics
    /// If the sequence number is odd.
    pub fn publish(&self, page: &[u8; PAGE_BYTES]) {
        let _one_at_a_time = self.publishing.lock().unwrap_or_else(PoisonError::into_inner);
        self.page.publish(page, self.sequence_offset);
    }

    /// Copies what the partner wrote at `offset` of the landing region. `false`, and nothing copied, if that is not
    /// within its [`LANDING_BYTES`].
    #[must_use]
    pub fn landed(&self, offset: usize, into: &mut [u8]) -> bool {
        self.landing.copy_out_within(offset, into)
    }

    /// The region that the partner may write.
    pub(crate) fn landing(&self) -> &Region {
        &self.landing
    }

    /// Connections open now.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::Relaxed)
    }
}

impl Drop for PageServer {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        wake(&self.shared.wake);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Starts the thread of the options' provider.
fn accept_on_a_thread(
    options: &ServerOptions,
    page: &Arc<Region>,
    landing: &Arc<Region>,
    shared: &Arc<Shared>,
) -> Result<(JoinHandle<()>, SocketAddr), FabricError> {
    let (page, landing, shared) = (page.clone(), landing.clone(), shared.clone());
    match options.provider {
        Provider::Tcp | Provider::Verbs => {
            let (acceptor, address) = Acceptor::open(options, page, landing, shared)?;
            Ok((spawn("fabric-accept", move || acceptor.run())?, address))
        }
        Provider::Shm => {
            let (acceptor, address) = SharedAcceptor::open(options, page, landing, shared)?;
            Ok((spawn("fabric-accept", move || acceptor.run())?, address))
        }
    }
}

/// The thread that accepts.
struct Acceptor {
    // Fields drop in this order: connections before the listener, memory and queues they use.
    connections: Vec<Connection>,
    listener: Listener,
    greeting: Greeting,
    _page: Registration,
    _landing: Registration,
    domain: Arc<Domain>,
    events: Arc<EventQueue>,
    shared: Arc<Shared>,
}

impl Acceptor {
    fn open(
        options: &ServerOptions,
        page: Arc<Region>,
        landing: Arc<Region>,
        shared: Arc<Shared>,
    ) -> Result<(Self, SocketAddr), FabricError> {
        let info = Info::listening(options.provider, options.address)?;
        let fabric = Fabric::open(&info)?;
        let events = EventQueue::open(&fabric)?;
        let domain = Domain::open(&fabric, &info)?;
        let virtual_addresses = info.uses_virtual_addresses();
        let page = Registration::new(&domain, page, Purpose::PartnerReads, PAGE_KEY)?;
        let landing = Registration::new(&domain, landing, Purpose::PartnerWrites, LANDING_KEY)?;
        let greeting = Greeting {
            verdict: Verdict::Welcome,
            identity: options.identity,
            page: remote(&page, virtual_addresses),
            landing: remote(&landing, virtual_addresses),
        };
        let listener = Listener::open(&fabric, &info, &events)?;
        let address = listener.address()?.unwrap_or(options.address);
        let acceptor = Self {
            connections: Vec::new(),
            listener,
            greeting,
            _page: page,
            _landing: landing,
            domain,
            events,
            shared,
        };
        Ok((acceptor, address))
    }

    /// BOUND: ends when the server is dropped, which sets `stop` and wakes the thread.
    fn run(mut self) {
        while !self.shared.stop.load(Ordering::Relaxed) {
            match self.events.next() {
                Ok(Some(event)) => self.take(event),
                Ok(None) => sleep_until_news(&self.events, None, Some(&self.shared.wake), None),
                Err(error) => {
                    tracing::warn!(%error, "interconnect: the event queue failed; no new connections are taken");
                    return;
                }
            }
        }
    }

    fn take(&mut self, event: Event) {
        match event {
            Event::Requested { request, bytes } => self.answer(&request, &bytes),
            Event::Shutdown { endpoint } | Event::Failed { endpoint, .. } => self.forget(endpoint),
            // The serving thread is already at work; nothing waits for the last step of the handshake.
            Event::Connected { .. } | Event::Other => {}
        }
        self.shared.connections.store(self.connections.len(), Ordering::Relaxed);
    }

    fn answer(&mut self, request: &Info, bytes: &[u8]) {
        let verdict = judge(&self.greeting, Greeting::decode(bytes));
        let answered = if verdict == Verdict::Welcome {
            self.accept(request)
        } else {
            let refusal = Greeting { verdict, ..Greeting::caller(self.greeting.identity) };
            self.listener.reject(request, &refusal.encode())
        };
        match answered {
            Ok(()) => tracing::debug!(?verdict, "interconnect: connection request answered"),
            Err(error) => tracing::warn!(%error, "interconnect: a connection request could not be answered"),
        }
    }

    fn accept(&mut self, request: &Info) -> Result<(), FabricError> {
        if self.connections.len() >= CONNECTIONS_MAX {
            self.connections.remove(0);
        }
        let endpoint = Endpoint::open(&self.domain, request, &self.events)?;
        endpoint.accept(&self.greeting.encode())?;
        self.connections.push(Connection::serve(endpoint)?);
        Ok(())
    }

    fn forget(&mut self, endpoint: EndpointName) {
        self.connections.retain(|connection| connection.endpoint.name() != endpoint);
    }
}

/// One accepted connection with the thread that moves it.
struct Connection {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
    endpoint: Endpoint,
}

impl Connection {
    fn serve(endpoint: Endpoint) -> Result<Self, FabricError> {
        let stop = Arc::new(AtomicBool::new(false));
        let (queue, stopped) = (endpoint.completions().clone(), stop.clone());
        // BOUND: ends at the first wait after `stop`, at the latest after SERVE_WAIT.
        let thread = spawn("fabric-serve", move || {
            while !stopped.load(Ordering::Relaxed) {
                if let Err(error) = queue.wait(SERVE_WAIT) {
                    tracing::debug!(%error, "interconnect: a connection stopped serving");
                    return;
                }
            }
        })?;
        Ok(Self { stop, thread: Some(thread), endpoint })
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.endpoint.shut_down();
        self.stop.store(true, Ordering::Relaxed);
        self.endpoint.completions().wake();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Whether a caller is the partner, as far as it says.
pub(crate) fn judge(own: &Greeting, caller: Option<Greeting>) -> Verdict {
    match caller {
        None => Verdict::OtherVersion,
        Some(caller) if caller.identity.pair != own.identity.pair => Verdict::OtherPair,
        Some(caller) if caller.identity.node == own.identity.node => Verdict::SameNode,
        Some(_) => Verdict::Welcome,
    }
}

/// A region as the partner addresses it.
pub(crate) fn remote(registration: &Registration, virtual_addresses: bool) -> RemoteRegion {
    let region = registration.region();
    RemoteRegion {
        address: if virtual_addresses { region.start() as u64 } else { 0 },
        key: registration.key(),
        length: u32::try_from(region.bytes()).expect("regions are small"),
    }
}
