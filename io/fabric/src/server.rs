//! The owner's side of the interconnect: memory that the partner reads and writes without asking.
//!
//! One thread accepts connections, and one for each connection lets libfabric work: the `tcp` provider claims to serve
//! reads by itself, yet a reader hangs unless some thread of this process waits in `fi_cq_sread`. Such a thread starts
//! only after its endpoint was enabled; one that waited before would not see the new connection.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::fd::{AsFd, OwnedFd};

use crate::fabric_calls::{
    CompletionQueue, Domain, Endpoint, EndpointName, Event, EventQueue, Fabric, Info, Listener, Purpose, Registration,
};
use crate::greeting::{Greeting, RemoteRegion, Verdict};
use crate::region::Region;
use crate::{FabricError, Identity, LANDING_BYTES, PAGE_BYTES, Provider};

/// Connections kept; a partner needs one. The oldest goes when another arrives, because a partner that was cut off
/// leaves connections behind which no provider reports closed for minutes.
const CONNECTIONS_MAX: usize = 4;

/// How long a serving thread waits at most before it looks whether it should end, where the provider cannot be woken.
const SERVE_WAIT: Duration = Duration::from_secs(1);

/// Keys asked for; providers that choose keys themselves ignore them.
const PAGE_KEY: u64 = 1;
const LANDING_KEY: u64 = 2;

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
struct Shared {
    stop: AtomicBool,
    connections: AtomicUsize,
    wake: OwnedFd,
}

impl PageServer {
    /// Registers a zeroed page and the landing region, and accepts the partner from now on.
    ///
    /// # Errors
    /// The provider is missing, the address is taken, or the system refuses a thread.
    pub fn start(options: ServerOptions) -> Result<Self, FabricError> {
        assert!(
            options.sequence_offset.is_multiple_of(8) && options.sequence_offset < PAGE_BYTES,
            "the sequence number is an aligned word of the page"
        );
        if options.provider == Provider::Shm {
            return Err(FabricError::Unsupported(shm_is_missing()));
        }
        let page = Arc::new(Region::zeroed(PAGE_BYTES));
        let landing = Arc::new(Region::zeroed(LANDING_BYTES));
        let shared = Arc::new(Shared {
            stop: AtomicBool::new(false),
            connections: AtomicUsize::new(0),
            wake: wake_descriptor()?,
        });
        let (acceptor, address) = Acceptor::open(&options, page.clone(), landing.clone(), shared.clone())?;
        let thread = spawn("fabric-accept", move || acceptor.run())?;
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
        let inside = offset.checked_add(into.len()).is_some_and(|end| end <= LANDING_BYTES);
        if inside {
            self.landing.copy_out(offset, into);
        }
        inside
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

/// Why `shm` is refused, for the operator.
pub(crate) fn shm_is_missing() -> String {
    "the shm provider has no connected endpoints and is not supported by this build; use tcp for two nodes on one host"
        .into()
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
                Ok(None) => sleep_until_news(&self.events, None, &self.shared.wake, None),
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
        let verdict = self.judge(bytes);
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

    fn judge(&self, bytes: &[u8]) -> Verdict {
        match Greeting::decode(bytes) {
            None => Verdict::OtherVersion,
            Some(caller) if caller.identity.pair != self.greeting.identity.pair => Verdict::OtherPair,
            Some(caller) if caller.identity.node == self.greeting.identity.node => Verdict::SameNode,
            Some(_) => Verdict::Welcome,
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

fn remote(registration: &Registration, virtual_addresses: bool) -> RemoteRegion {
    let region = registration.region();
    RemoteRegion {
        address: if virtual_addresses { region.start() as u64 } else { 0 },
        key: registration.key(),
        length: u32::try_from(region.bytes()).expect("regions are small"),
    }
}

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

/// Sleeps until the event queue has news, the connection has work to do, somebody wakes the thread, or the time is
/// over. A connection's end becomes news only when its work is done, so a reader sleeps on both descriptors.
pub(crate) fn sleep_until_news(
    events: &EventQueue,
    connection: Option<&CompletionQueue>,
    woken: &OwnedFd,
    within: Option<Duration>,
) {
    let Some(news) = events.sleepable() else { return };
    let work = match connection.map(CompletionQueue::sleepable) {
        None => None,
        Some(Some(work)) => Some(work),
        Some(None) => return,
    };
    let limit = within.map(|within| Timespec {
        tv_sec: i64::try_from(within.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: within.subsec_nanos().into(),
    });
    let descriptors = [Some(woken.as_fd()), Some(news), work];
    let mut waits: Vec<_> = descriptors
        .into_iter()
        .flatten()
        .map(|descriptor| PollFd::from_borrowed_fd(descriptor, PollFlags::IN))
        .collect();
    // An interrupted wait is a short one.
    let _ = poll(&mut waits, limit.as_ref());
    if waits[0].revents().contains(PollFlags::IN) {
        let mut count = [0; 8];
        let _ = rustix::io::read(woken, &mut count);
    }
}

/// Starts a thread with a name that shows in `top` and in a debugger.
pub(crate) fn spawn(name: &'static str, body: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, FabricError> {
    thread::Builder::new()
        .name(name.into())
        .spawn(body)
        .map_err(|error| FabricError::System { what: "start a thread", text: error.to_string() })
}
