//! The reader's side of the interconnect: one-sided reads of the partner's page under a deadline.
//!
//! One thread owns the endpoint and everything that could hang. It sleeps on one descriptor for orders and one for news
//! of the connection, so a link that closes is reported although nobody reads. Orders come one at a time; after any
//! failure the endpoint is closed, and the next order connects with a new one.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::fd::OwnedFd;
use tokio::sync::{mpsc, oneshot};

use crate::fabric_calls::{Domain, Endpoint, Event, EventQueue, Fabric, Info, Purpose, Registration, error_text};
use crate::greeting::{Greeting, RemoteRegion, Verdict};
use crate::region::Region;
use crate::server::{shm_is_missing, sleep_until_news, spawn, wake, wake_descriptor};
use crate::{FabricError, Identity, LANDING_BYTES, PAGE_BYTES, Provider, ReadFailure};

/// After a failed operation, how long to look for the shutdown event that explains it: providers report the two in
/// either order, a few milliseconds apart.
const EXPLANATION_WAIT: Duration = Duration::from_millis(20);

/// Link events kept for a consumer that does not ask; older ones win, because the newest state shows in the next read.
const LINK_EVENTS_MAX: usize = 64;

/// `fi_errno` values that mean "the other end is gone": ECONNRESET, ENOTCONN, EPIPE, ESHUTDOWN, ECONNABORTED.
const GONE: [i32; 5] = [104, 107, 32, 108, 103];
/// `FI_ECONNREFUSED`.
const REFUSED: i32 = 111;
/// `FI_ETIMEDOUT`, EHOSTUNREACH, ENETUNREACH: nobody to ask there.
const UNREACHED: [i32; 3] = [110, 113, 101];

/// Whom to read.
#[derive(Debug, Clone)]
pub struct ReaderOptions {
    /// The provider; both ends must agree.
    pub provider: Provider,
    /// Where the partner's page is served.
    pub partner: SocketAddr,
    /// Who reads.
    pub identity: Identity,
    /// The partner's node number; another node answering there is [`ReadFailure::Rejected`].
    pub partner_node: u8,
}

/// A change of the connection to the partner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkEvent {
    /// Connected; reads go this way until it closes.
    Connected {
        /// Counts the connections of this reader from 1.
        connection: u64,
    },
    /// The partner's end is gone although nobody here closed it: its process died or stopped serving.
    Closed {
        /// The connection that ended.
        connection: u64,
    },
}

/// Changes of the connection, in order.
pub struct LinkEvents {
    events: mpsc::Receiver<LinkEvent>,
}

impl LinkEvents {
    /// The next change; `None` after the reader was dropped. May be cancelled.
    pub async fn next(&mut self) -> Option<LinkEvent> {
        self.events.recv().await
    }

    /// The next change, for threads without a runtime.
    pub fn next_blocking(&mut self) -> Option<LinkEvent> {
        self.events.blocking_recv()
    }
}

type PageAnswer = Result<Box<[u8; PAGE_BYTES]>, ReadFailure>;

/// What the thread is asked for.
enum Order {
    Read { within: Duration, answer: oneshot::Sender<PageAnswer> },
    Write { offset: u64, bytes: Vec<u8>, within: Duration, answer: oneshot::Sender<Result<(), ReadFailure>> },
}

/// Reads the partner's page. Dropping it closes the connection.
///
/// BOUND: one order is under way at a time: each call first waits for the answer to an earlier one whose future was
/// dropped, and every order ends by its own deadline.
pub struct PageReader {
    orders: Option<Sender<Order>>,
    wake: Arc<OwnedFd>,
    abandoned: Abandoned,
    thread: Option<JoinHandle<()>>,
}

/// The answer to an order whose caller went away.
enum Abandoned {
    None,
    Read(oneshot::Receiver<PageAnswer>),
    Write(oneshot::Receiver<Result<(), ReadFailure>>),
}

impl PageReader {
    /// Starts the thread; the first read connects.
    ///
    /// # Errors
    /// The provider is missing or the system refuses a thread.
    pub fn start(options: ReaderOptions) -> Result<(Self, LinkEvents), FabricError> {
        if options.provider == Provider::Shm {
            return Err(FabricError::Unsupported(shm_is_missing()));
        }
        let wake = Arc::new(wake_descriptor()?);
        let (orders, inbox) = channel();
        let (link, events) = mpsc::channel(LINK_EVENTS_MAX);
        let worker = Worker::open(options, inbox, wake.clone(), link)?;
        let thread = spawn("fabric-read", move || worker.run())?;
        let reader = Self { orders: Some(orders), wake, abandoned: Abandoned::None, thread: Some(thread) };
        Ok((reader, LinkEvents { events }))
    }

    /// Reads the partner's page with one `fi_read`, connecting first if need be; all of it within the time given.
    /// The page may be torn: look at its sequence number and checksum.
    ///
    /// May be cancelled: the next call then waits for the end of this read first.
    ///
    /// # Errors
    /// [`ReadFailure`]; the connection is then closed, and the next call makes a new one.
    pub async fn read(&mut self, within: Duration) -> PageAnswer {
        self.settle().await;
        let (answer, reply) = oneshot::channel();
        self.order(Order::Read { within, answer })?;
        self.abandoned = Abandoned::Read(reply);
        let Abandoned::Read(reply) = &mut self.abandoned else { return Err(thread_ended()) };
        let outcome = reply.await.unwrap_or_else(|_| Err(thread_ended()));
        self.abandoned = Abandoned::None;
        outcome
    }

    /// [`PageReader::read`] for threads without a runtime.
    ///
    /// # Errors
    /// As [`PageReader::read`].
    ///
    /// # Panics
    /// Inside an asynchronous runtime.
    pub fn read_blocking(&mut self, within: Duration) -> PageAnswer {
        self.settle_blocking();
        let (answer, reply) = oneshot::channel();
        self.order(Order::Read { within, answer })?;
        reply.blocking_recv().unwrap_or_else(|_| Err(thread_ended()))
    }

    /// Writes `bytes` at `offset` of the partner's landing region with one `fi_write`.
    ///
    /// `Ok` says that the bytes left this node's buffer; over `tcp` it does not say that they arrived (libfabric 1.17
    /// ignores FI_DELIVERY_COMPLETE), so whoever needs to know asks for an answer in the partner's page.
    ///
    /// # Errors
    /// [`ReadFailure`], as for reads; also if the bytes do not fit the [`LANDING_BYTES`] of the region.
    pub async fn write(&mut self, offset: u64, bytes: Vec<u8>, within: Duration) -> Result<(), ReadFailure> {
        self.settle().await;
        let (answer, reply) = oneshot::channel();
        self.order(Order::Write { offset, bytes, within, answer })?;
        self.abandoned = Abandoned::Write(reply);
        let Abandoned::Write(reply) = &mut self.abandoned else { return Err(thread_ended()) };
        let outcome = reply.await.unwrap_or_else(|_| Err(thread_ended()));
        self.abandoned = Abandoned::None;
        outcome
    }

    /// [`PageReader::write`] for threads without a runtime.
    ///
    /// # Errors
    /// As [`PageReader::write`].
    ///
    /// # Panics
    /// Inside an asynchronous runtime.
    pub fn write_blocking(&mut self, offset: u64, bytes: Vec<u8>, within: Duration) -> Result<(), ReadFailure> {
        self.settle_blocking();
        let (answer, reply) = oneshot::channel();
        self.order(Order::Write { offset, bytes, within, answer })?;
        reply.blocking_recv().unwrap_or_else(|_| Err(thread_ended()))
    }

    fn order(&self, order: Order) -> Result<(), ReadFailure> {
        let orders = self.orders.as_ref().ok_or_else(thread_ended)?;
        orders.send(order).map_err(|_| thread_ended())?;
        wake(&self.wake);
        Ok(())
    }

    async fn settle(&mut self) {
        match &mut self.abandoned {
            Abandoned::None => {}
            Abandoned::Read(reply) => drop(reply.await),
            Abandoned::Write(reply) => drop(reply.await),
        }
        self.abandoned = Abandoned::None;
    }

    fn settle_blocking(&mut self) {
        match std::mem::replace(&mut self.abandoned, Abandoned::None) {
            Abandoned::None => {}
            Abandoned::Read(reply) => drop(reply.blocking_recv()),
            Abandoned::Write(reply) => drop(reply.blocking_recv()),
        }
    }
}

impl Drop for PageReader {
    fn drop(&mut self) {
        self.orders = None;
        wake(&self.wake);
        // Not joined: the thread may be inside an order until that order's deadline, and a runtime must not wait.
        drop(self.thread.take());
    }
}

fn thread_ended() -> ReadFailure {
    ReadFailure::Fabric("the reading thread has ended".into())
}

/// The thread and what it owns.
struct Worker {
    // Fields drop in this order: the connection before the buffers it may still fill.
    connection: Option<Connection>,
    buffers: Buffers,
    domain: Arc<Domain>,
    events: Arc<EventQueue>,
    info: Info,
    options: ReaderOptions,
    inbox: Receiver<Order>,
    wake: Arc<OwnedFd>,
    link: mpsc::Sender<LinkEvent>,
    connections: u64,
    operations: usize,
}

/// This side's ends of reads and writes.
struct Buffers {
    page: Registration,
    outgoing: Registration,
}

/// A live connection.
struct Connection {
    endpoint: Endpoint,
    page: RemoteRegion,
    landing: RemoteRegion,
}

impl Worker {
    fn open(
        options: ReaderOptions,
        inbox: Receiver<Order>,
        wake: Arc<OwnedFd>,
        link: mpsc::Sender<LinkEvent>,
    ) -> Result<Self, FabricError> {
        let info = Info::connecting(options.provider, options.partner)?;
        let fabric = Fabric::open(&info)?;
        let events = EventQueue::open(&fabric)?;
        let domain = Domain::open(&fabric, &info)?;
        let page = Registration::new(&domain, Arc::new(Region::zeroed(PAGE_BYTES)), Purpose::Local, 1)?;
        let outgoing = Registration::new(&domain, Arc::new(Region::zeroed(LANDING_BYTES)), Purpose::Local, 2)?;
        let buffers = Buffers { page, outgoing };
        Ok(Self {
            connection: None,
            buffers,
            domain,
            events,
            info,
            options,
            inbox,
            wake,
            link,
            connections: 0,
            operations: 0,
        })
    }

    /// BOUND: ends when the [`PageReader`] is dropped.
    fn run(mut self) {
        loop {
            match self.inbox.try_recv() {
                Ok(order) => self.carry_out(order),
                Err(TryRecvError::Disconnected) => return self.hang_up(),
                Err(TryRecvError::Empty) => match self.look_at_news() {
                    Ok(News::Some) => {}
                    Ok(News::None) => self.sleep(None),
                    Err(error) => {
                        tracing::warn!(%error, "interconnect: the reader's event queue failed");
                        return self.hang_up();
                    }
                },
            }
        }
    }

    fn carry_out(&mut self, order: Order) {
        // A caller that has gone away is not told; the answer is dropped.
        match order {
            Order::Read { within, answer } => drop(answer.send(self.read(Deadline::after(within)))),
            Order::Write { offset, bytes, within, answer } => {
                drop(answer.send(self.write(offset, &bytes, Deadline::after(within))));
            }
        }
    }

    fn read(&mut self, deadline: Deadline) -> PageAnswer {
        self.operate(deadline, |connection, buffers, context| {
            let page = connection.page;
            connection.endpoint.post_read(&buffers.page, PAGE_BYTES, page.address, page.key, context)
        })?;
        Ok(self.buffers.page.region().copy_page())
    }

    fn write(&mut self, offset: u64, bytes: &[u8], deadline: Deadline) -> Result<(), ReadFailure> {
        let end = offset.checked_add(bytes.len() as u64);
        if end.is_none_or(|end| end > LANDING_BYTES as u64) {
            return Err(ReadFailure::Fabric(format!("a write must lie within {LANDING_BYTES} bytes")));
        }
        self.buffers.outgoing.region().copy_in(bytes);
        self.operate(deadline, |connection, buffers, context| {
            let landing = connection.landing;
            let address = landing.address + offset;
            connection.endpoint.post_write(&buffers.outgoing, bytes.len(), address, landing.key, context)
        })
    }

    /// Connects if need be, posts one operation and waits for its end.
    fn operate(
        &mut self,
        deadline: Deadline,
        post: impl Fn(&Connection, &Buffers, usize) -> Result<bool, FabricError>,
    ) -> Result<(), ReadFailure> {
        while let News::Some = self.look_at_news()? {}
        if self.connection.is_none() {
            self.connect(deadline)?;
        }
        self.operations += 1;
        let outcome = match &self.connection {
            Some(connection) => {
                perform(connection, self.operations, deadline, |context| post(connection, &self.buffers, context))
            }
            None => Err(ReadFailure::Closed),
        };
        outcome.map_err(|failure| self.give_up(failure))
    }

    /// Closes the endpoint after a failure, having looked whether the partner's end is known to be gone.
    fn give_up(&mut self, failure: ReadFailure) -> ReadFailure {
        let explained = match failure {
            ReadFailure::Fabric(_) => self.partner_hung_up(),
            ReadFailure::Closed => true,
            ReadFailure::Refused | ReadFailure::Rejected(_) | ReadFailure::TimedOut(_) => false,
        };
        if explained {
            self.lose_link();
            return ReadFailure::Closed;
        }
        self.connection = None;
        failure
    }

    /// Whether a shutdown event arrives within [`EXPLANATION_WAIT`].
    fn partner_hung_up(&mut self) -> bool {
        let deadline = Deadline::after(EXPLANATION_WAIT);
        // BOUND: the deadline.
        while self.connection.is_some() && !deadline.is_over() {
            match self.look_at_news() {
                Ok(News::Some) => {}
                Ok(News::None) => self.sleep(Some(deadline.left())),
                Err(_) => return false,
            }
        }
        self.connection.is_none()
    }

    /// Sleeps until there is something to do here.
    fn sleep(&self, within: Option<Duration>) {
        let queue = self.connection.as_ref().map(|connection| connection.endpoint.completions().as_ref());
        sleep_until_news(&self.events, queue, &self.wake, within);
    }

    /// Takes one event, if there is one.
    fn look_at_news(&mut self) -> Result<News, FabricError> {
        if let Some(connection) = &self.connection {
            // Nothing is under way: this only lets the provider notice that its socket closed.
            connection.endpoint.completions().wait(Duration::ZERO)?;
        }
        let Some(event) = self.events.next()? else { return Ok(News::None) };
        let ours = self.connection.as_ref().map(|connection| connection.endpoint.name());
        match event {
            Event::Shutdown { endpoint } | Event::Failed { endpoint, .. } if Some(endpoint) == ours => self.lose_link(),
            // Of an endpoint closed before: its owner was told already.
            Event::Shutdown { .. } | Event::Failed { .. } | Event::Connected { .. } => {}
            // A reader does not listen.
            Event::Requested { .. } | Event::Other => {}
        }
        Ok(News::Some)
    }

    fn lose_link(&mut self) {
        if self.connection.take().is_some() {
            self.tell(LinkEvent::Closed { connection: self.connections });
        }
    }

    fn tell(&self, event: LinkEvent) {
        // Full: nobody listens to link events. Closed: nobody wants to.
        let _ = self.link.try_send(event);
    }

    fn connect(&mut self, deadline: Deadline) -> Result<(), ReadFailure> {
        let endpoint = Endpoint::open(&self.domain, &self.info, &self.events)?;
        endpoint.connect(&self.info, &Greeting::caller(self.options.identity).encode())?;
        let greeting = self.await_welcome(&endpoint, deadline)?;
        let (page, landing) = self.judge(&greeting)?;
        self.connections += 1;
        self.connection = Some(Connection { endpoint, page, landing });
        self.tell(LinkEvent::Connected { connection: self.connections });
        Ok(())
    }

    /// BOUND: the deadline.
    fn await_welcome(&self, endpoint: &Endpoint, deadline: Deadline) -> Result<Greeting, ReadFailure> {
        while !deadline.is_over() {
            match self.events.next()? {
                Some(Event::Connected { endpoint: name, bytes }) if name == endpoint.name() => {
                    return Greeting::decode(&bytes).ok_or_else(|| ReadFailure::Rejected(Verdict::OtherVersion.text()));
                }
                Some(Event::Failed { endpoint: name, code, bytes }) if name == endpoint.name() => {
                    return Err(connect_failure(code, &bytes, deadline));
                }
                Some(Event::Shutdown { endpoint: name }) if name == endpoint.name() => return Err(ReadFailure::Closed),
                // News of endpoints closed before, or of no interest to a reader.
                Some(
                    Event::Connected { .. }
                    | Event::Failed { .. }
                    | Event::Shutdown { .. }
                    | Event::Requested { .. }
                    | Event::Other,
                ) => {}
                None => {
                    sleep_until_news(&self.events, Some(endpoint.completions()), &self.wake, Some(deadline.left()));
                }
            }
        }
        Err(ReadFailure::TimedOut(deadline.within))
    }

    fn judge(&self, greeting: &Greeting) -> Result<(RemoteRegion, RemoteRegion), ReadFailure> {
        let (own, theirs) = (self.options.identity, greeting.identity);
        if greeting.verdict != Verdict::Welcome {
            return Err(ReadFailure::Rejected(greeting.verdict.text()));
        }
        if theirs.pair != own.pair {
            return Err(ReadFailure::Rejected(Verdict::OtherPair.text()));
        }
        if theirs.node != self.options.partner_node {
            return Err(ReadFailure::Rejected(format!("node {} answers there", theirs.node)));
        }
        if greeting.page.length as usize != PAGE_BYTES || greeting.landing.length as usize != LANDING_BYTES {
            return Err(ReadFailure::Rejected("its regions have other sizes".into()));
        }
        Ok((greeting.page, greeting.landing))
    }

    fn hang_up(&mut self) {
        if let Some(connection) = self.connection.take() {
            connection.endpoint.shut_down();
        }
    }
}

/// Whether there was an event.
enum News {
    Some,
    None,
}

/// Posts one operation and waits for its completion. BOUND: the deadline.
fn perform(
    connection: &Connection,
    context: usize,
    deadline: Deadline,
    post: impl Fn(usize) -> Result<bool, FabricError>,
) -> Result<(), ReadFailure> {
    let queue = connection.endpoint.completions();
    let mut posted = false;
    while !deadline.is_over() {
        if !posted {
            posted = post(context).map_err(operation_failure)?;
        }
        // A full queue is only moved on by looking at it, so this waits in either case.
        let wait = if posted { deadline.left() } else { Duration::from_millis(1) };
        match queue.wait(wait)? {
            Some(completion) if completion.context != context => {}
            Some(completion) if completion.code == 0 => return Ok(()),
            Some(completion) if GONE.contains(&completion.code) => return Err(ReadFailure::Closed),
            Some(completion) => return Err(ReadFailure::Fabric(error_text(completion.code))),
            None => {}
        }
    }
    Err(ReadFailure::TimedOut(deadline.within))
}

fn operation_failure(error: FabricError) -> ReadFailure {
    match error {
        FabricError::Call { code, .. } if GONE.contains(&code) => ReadFailure::Closed,
        other => other.into(),
    }
}

fn connect_failure(code: i32, bytes: &[u8], deadline: Deadline) -> ReadFailure {
    match Greeting::decode(bytes) {
        Some(greeting) => ReadFailure::Rejected(greeting.verdict.text()),
        None if code == REFUSED => ReadFailure::Refused,
        None if GONE.contains(&code) => ReadFailure::Closed,
        None if UNREACHED.contains(&code) => ReadFailure::TimedOut(deadline.within),
        None => ReadFailure::Fabric(format!("connecting failed: {}", error_text(code))),
    }
}

/// When an operation must have ended.
#[derive(Clone, Copy)]
struct Deadline {
    end: Instant,
    within: Duration,
}

impl Deadline {
    fn after(within: Duration) -> Self {
        // An hour is as good as for ever here, and keeps the sum within the clock's range.
        let within = within.min(Duration::from_secs(3600));
        Self { end: Instant::now() + within, within }
    }

    fn left(self) -> Duration {
        self.end.saturating_duration_since(Instant::now())
    }

    fn is_over(self) -> bool {
        self.left().is_zero()
    }
}
