//! The reader's side of the interconnect: one-sided reads of the partner's page under a deadline.
//!
//! One thread owns the endpoint and everything that could hang. It sleeps on one descriptor for orders and one for news
//! of the connection, so a link that closes is reported although nobody reads. Orders come one at a time; after any
//! failure the endpoint is closed, and the next order connects with a new one. A second thread watches that the first
//! comes back from libfabric at all; if not, the caller is answered all the same, and another takes over. How a provider is connected and moved is
//! behind [`Line`]; what is done about failures is here, the same for all.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::time::{Duration, Instant};

use bytes::Bytes;
use rustix::fd::OwnedFd;
use tokio::sync::{mpsc, oneshot};

use crate::connected_line::ConnectedLine;
use crate::greeting::{Greeting, RemoteRegion, Verdict};
use crate::shared_line::SharedLine;
use crate::threads::{spawn, wake, wake_descriptor};
use crate::watch::{Answer, PATIENCE, Presence, Watch};
use crate::{FabricError, Identity, LANDING_BYTES, PAGE_BYTES, Provider, ReadFailure};

/// After a failed operation, how long to look for the shutdown event that explains it: providers report the two in
/// either order, a few milliseconds apart.
const EXPLANATION_WAIT: Duration = Duration::from_millis(20);

/// Link events kept for a consumer that does not ask; older ones win, because the newest state shows in the next read.
const LINK_EVENTS_MAX: usize = 64;

/// As many bytes of what was put somewhere are read back.
const LAST_BYTES: usize = 8;

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

pub(crate) type PageAnswer = Result<Box<[u8; PAGE_BYTES]>, ReadFailure>;

pub(crate) type MoveAnswer = Result<Vec<u8>, ReadFailure>;

/// What the thread is asked for. Where the answer goes is kept by [`Watch`].
enum Order {
    Read { within: Duration },
    Write { offset: u64, bytes: Bytes, within: Duration },
    Put { offset: u64, bytes: Bytes, within: Duration },
    Fetch { offset: u64, length: usize, within: Duration },
}

/// Reads the partner's page. Dropping it closes the connection.
///
/// BOUND: one order is under way at a time: each call first waits for the answer to an earlier one whose future was
/// dropped, and every order ends by its own deadline.
pub struct PageReader {
    crew: Crew,
    options: ReaderOptions,
    /// Bytes of the partner's landing region.
    landing_bytes: usize,
    link: Link,
    abandoned: Abandoned,
}

/// The thread that works for a reader, and the one that watches it.
struct Crew {
    orders: Sender<Order>,
    wake: Arc<OwnedFd>,
    watch: Arc<Watch>,
}

impl Drop for Crew {
    fn drop(&mut self) {
        // Not joined: the thread may be inside an order until that order's deadline, and a runtime must not wait.
        self.watch.end();
    }
}

/// The answer to an order whose caller went away.
enum Abandoned {
    None,
    Read(oneshot::Receiver<PageAnswer>),
    Move(oneshot::Receiver<MoveAnswer>),
}

impl PageReader {
    /// Starts the thread; the first read connects.
    ///
    /// # Errors
    /// The provider is missing or the system refuses a thread.
    pub fn start(options: ReaderOptions) -> Result<(Self, LinkEvents), FabricError> {
        Self::start_with(options, LANDING_BYTES)
    }

    /// As [`PageReader::start`], for a server whose landing region has another length.
    pub(crate) fn start_with(options: ReaderOptions, landing_bytes: usize) -> Result<(Self, LinkEvents), FabricError> {
        let (events_in, events) = mpsc::channel(LINK_EVENTS_MAX);
        let link = Link { events: events_in, connections: Arc::default() };
        let crew = hire(open_line(&options, landing_bytes)?, (&options, landing_bytes), &link, PATIENCE)?;
        Ok((Self { crew, options, landing_bytes, link, abandoned: Abandoned::None }, LinkEvents { events }))
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
        self.order(Order::Read { within }, within, Answer::Page(answer))?;
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
        self.order(Order::Read { within }, within, Answer::Page(answer))?;
        reply.blocking_recv().unwrap_or_else(|_| Err(thread_ended()))
    }

    /// Writes `bytes` at `offset` of the partner's landing region with one `fi_write`.
    ///
    /// `Ok` says that the bytes left this node's buffer; over `tcp` it does not say that they arrived (libfabric 1.17
    /// ignores FI_DELIVERY_COMPLETE), so whoever needs to know asks for an answer in the partner's page.
    ///
    /// # Errors
    /// [`ReadFailure`], as for reads; also if the bytes do not fit the [`LANDING_BYTES`] of the region.
    pub async fn write(&mut self, offset: u64, bytes: impl Into<Bytes>, within: Duration) -> Result<(), ReadFailure> {
        let bytes = bytes.into();
        self.move_data(Order::Write { offset, bytes, within }, within).await.map(drop)
    }

    /// As [`PageReader::write`]; `Ok` says that the bytes have arrived.
    pub(crate) async fn put(&mut self, offset: u64, bytes: Bytes, within: Duration) -> Result<(), ReadFailure> {
        self.move_data(Order::Put { offset, bytes, within }, within).await.map(drop)
    }

    /// Reads `length` bytes at `offset` of the partner's landing region with one `fi_read`.
    pub(crate) async fn fetch(&mut self, offset: u64, length: usize, within: Duration) -> MoveAnswer {
        self.move_data(Order::Fetch { offset, length, within }, within).await
    }

    async fn move_data(&mut self, order: Order, within: Duration) -> MoveAnswer {
        self.settle().await;
        let (answer, reply) = oneshot::channel();
        self.order(order, within, Answer::Moved(answer))?;
        self.abandoned = Abandoned::Move(reply);
        let Abandoned::Move(reply) = &mut self.abandoned else { return Err(thread_ended()) };
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
        let order = Order::Write { offset, bytes: bytes.into(), within };
        self.order(order, within, Answer::Moved(answer))?;
        reply.blocking_recv().unwrap_or_else(|_| Err(thread_ended())).map(drop)
    }

    fn order(&mut self, order: Order, within: Duration, answer: Answer) -> Result<(), ReadFailure> {
        match self.crew.watch.presence() {
            Presence::Here => {}
            // It has been inside libfabric for longer than its deadline; nothing can be asked of it.
            Presence::Away => return Err(ReadFailure::TimedOut(within)),
            Presence::Lost => {
                let line = open_line(&self.options, self.landing_bytes)?;
                self.crew = hire(line, (&self.options, self.landing_bytes), &self.link, PATIENCE)?;
            }
        }
        self.crew.watch.begin(within, answer);
        self.crew.orders.send(order).map_err(|_| thread_ended())?;
        wake(&self.crew.wake);
        Ok(())
    }

    async fn settle(&mut self) {
        match &mut self.abandoned {
            Abandoned::None => {}
            Abandoned::Read(reply) => drop(reply.await),
            Abandoned::Move(reply) => drop(reply.await),
        }
        self.abandoned = Abandoned::None;
    }

    fn settle_blocking(&mut self) {
        match std::mem::replace(&mut self.abandoned, Abandoned::None) {
            Abandoned::None => {}
            Abandoned::Read(reply) => drop(reply.blocking_recv()),
            Abandoned::Move(reply) => drop(reply.blocking_recv()),
        }
    }
}

impl Drop for PageReader {
    fn drop(&mut self) {
        let (disconnected, _) = channel();
        self.crew.orders = disconnected;
        wake(&self.crew.wake);
    }
}

fn open_line(options: &ReaderOptions, landing_bytes: usize) -> Result<Box<dyn Line>, FabricError> {
    let ReaderOptions { provider, partner, .. } = *options;
    Ok(match provider {
        Provider::Tcp | Provider::Verbs => Box::new(ConnectedLine::open(provider, partner, landing_bytes)?),
        Provider::Shm => Box::new(SharedLine::open(partner, landing_bytes)?),
    })
}

/// Starts the two threads of a reader.
fn hire(
    line: Box<dyn Line>,
    (options, landing_bytes): (&ReaderOptions, usize),
    link: &Link,
    patience: Duration,
) -> Result<Crew, FabricError> {
    let wake = Arc::new(wake_descriptor()?);
    let watch = Arc::new(Watch::new(patience));
    let (orders, inbox) = channel();
    let worker = Worker {
        line,
        regions: None,
        options: options.clone(),
        landing_bytes,
        inbox,
        wake: wake.clone(),
        watch: watch.clone(),
        link: link.clone(),
    };
    spawn("fabric-read", move || worker.run())?;
    let crew = Crew { orders, wake, watch: watch.clone() };
    spawn("fabric-watch", move || watch.keep())?;
    Ok(crew)
}

fn thread_ended() -> ReadFailure {
    ReadFailure::Fabric("the reading thread has ended".into())
}

/// How a kind of provider is connected and moved: one connection to the partner, or none.
pub(crate) trait Line: Send {
    /// Connects with a new endpoint and tells each other who is there.
    fn connect(&mut self, own: &Greeting, deadline: Deadline) -> Result<Greeting, ReadFailure>;

    /// Reads a page from the start of the partner's region.
    fn read(&mut self, page: RemoteRegion, deadline: Deadline) -> PageAnswer;

    /// Writes `bytes`, which fit, at `offset` of the partner's region.
    fn write(
        &mut self,
        landing: RemoteRegion,
        offset: u64,
        bytes: &[u8],
        deadline: Deadline,
    ) -> Result<(), ReadFailure>;

    /// Reads `length` bytes, which there are, at `offset` of the partner's region.
    fn fetch(&mut self, landing: RemoteRegion, offset: u64, length: usize, deadline: Deadline) -> MoveAnswer;

    /// Takes one piece of news, if there is one.
    fn look_at_news(&mut self) -> Result<News, FabricError>;

    /// Sleeps until there may be news, somebody wakes the thread, or the time is over.
    fn sleep(&self, wake: &OwnedFd, within: Option<Duration>);

    /// Throws the connection away, if there is one.
    fn close(&mut self);

    /// The same with a goodbye.
    fn hang_up(&mut self);
}

/// What there was to hear of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum News {
    /// Nothing.
    None,
    /// Something that changes nothing.
    Some,
    /// The partner's end is gone.
    Ended,
}

/// The thread and what it owns.
struct Worker {
    line: Box<dyn Line>,
    /// The partner's memory, page and landing region; `None` without a connection.
    regions: Option<(RemoteRegion, RemoteRegion)>,
    options: ReaderOptions,
    landing_bytes: usize,
    inbox: Receiver<Order>,
    wake: Arc<OwnedFd>,
    watch: Arc<Watch>,
    link: Link,
}

/// Where changes of the connection are told, counted over all threads of a reader.
#[derive(Clone)]
struct Link {
    events: mpsc::Sender<LinkEvent>,
    connections: Arc<AtomicU64>,
}

impl Link {
    fn connected(&self) {
        let connection = self.connections.fetch_add(1, Ordering::Relaxed) + 1;
        self.tell(LinkEvent::Connected { connection });
    }

    fn closed(&self) {
        self.tell(LinkEvent::Closed { connection: self.connections.load(Ordering::Relaxed) });
    }

    fn tell(&self, event: LinkEvent) {
        // Full: nobody listens to link events. Closed: nobody wants to.
        let _ = self.events.try_send(event);
    }
}

impl Worker {
    /// BOUND: ends when the [`PageReader`] is dropped.
    fn run(mut self) {
        loop {
            match self.inbox.try_recv() {
                Ok(order) => self.carry_out(order),
                Err(TryRecvError::Disconnected) => return self.line.hang_up(),
                Err(TryRecvError::Empty) => match self.look_at_news() {
                    Ok(News::Some | News::Ended) => {}
                    Ok(News::None) => self.line.sleep(&self.wake, None),
                    Err(error) => {
                        tracing::warn!(%error, "interconnect: the reader's event queue failed");
                        return self.line.hang_up();
                    }
                },
            }
        }
    }

    fn carry_out(&mut self, order: Order) {
        match order {
            Order::Read { within } => {
                let outcome = self.read(Deadline::after(within));
                self.watch.finish(|answer| answer.page(outcome));
            }
            Order::Write { offset, bytes, within } => {
                let outcome = self.write(offset, &bytes, Deadline::after(within));
                self.watch.finish(|answer| answer.moved(outcome.map(|()| Vec::new())));
            }
            Order::Put { offset, bytes, within } => {
                let outcome = self.put(offset, &bytes, Deadline::after(within));
                self.watch.finish(|answer| answer.moved(outcome.map(|()| Vec::new())));
            }
            Order::Fetch { offset, length, within } => {
                let outcome = self.fetch(offset, length, Deadline::after(within));
                self.watch.finish(|answer| answer.moved(outcome));
            }
        }
    }

    fn read(&mut self, deadline: Deadline) -> PageAnswer {
        let (page, _) = self.connected(deadline)?;
        self.line.read(page, deadline).map_err(|failure| self.give_up(failure))
    }

    fn write(&mut self, offset: u64, bytes: &[u8], deadline: Deadline) -> Result<(), ReadFailure> {
        let landing = self.landing_with(offset, bytes.len(), deadline)?;
        self.line.write(landing, offset, bytes, deadline).map_err(|failure| self.give_up(failure))
    }

    /// A write, and a read of its last bytes behind it: a read passes no earlier write of its connection on the way to the partner's memory,
    /// while the end of the write alone may only say that the bytes have left this node.
    fn put(&mut self, offset: u64, bytes: &[u8], deadline: Deadline) -> Result<(), ReadFailure> {
        self.write(offset, bytes, deadline)?;
        let last = &bytes[bytes.len() - bytes.len().min(LAST_BYTES)..];
        let shown = self.fetch(offset + (bytes.len() - last.len()) as u64, last.len(), deadline)?;
        if shown == last { Ok(()) } else { Err(ReadFailure::Fabric("what was written is not there".into())) }
    }

    fn fetch(&mut self, offset: u64, length: usize, deadline: Deadline) -> MoveAnswer {
        let landing = self.landing_with(offset, length, deadline)?;
        self.line.fetch(landing, offset, length, deadline).map_err(|failure| self.give_up(failure))
    }

    /// The landing region, if these bytes lie within it.
    fn landing_with(&mut self, offset: u64, length: usize, deadline: Deadline) -> Result<RemoteRegion, ReadFailure> {
        let (end, most) = (offset.checked_add(length as u64), self.landing_bytes);
        if end.is_none_or(|end| end > most as u64) {
            return Err(ReadFailure::Fabric(format!("what is moved must lie within {most} bytes")));
        }
        Ok(self.connected(deadline)?.1)
    }

    /// The partner's memory, connecting first if need be.
    fn connected(&mut self, deadline: Deadline) -> Result<(RemoteRegion, RemoteRegion), ReadFailure> {
        // BOUND: the news that arrived before.
        while self.look_at_news()? != News::None {}
        match self.regions {
            Some(regions) => Ok(regions),
            None => self.connect(deadline),
        }
    }

    fn connect(&mut self, deadline: Deadline) -> Result<(RemoteRegion, RemoteRegion), ReadFailure> {
        let welcome = self.line.connect(&Greeting::caller(self.options.identity), deadline);
        let regions = welcome.and_then(|greeting| self.judge(&greeting)).inspect_err(|_| self.line.close())?;
        self.regions = Some(regions);
        self.link.connected();
        Ok(regions)
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
        if greeting.page.length as usize != PAGE_BYTES || greeting.landing.length as usize != self.landing_bytes {
            return Err(ReadFailure::Rejected("its regions have other sizes".into()));
        }
        Ok((greeting.page, greeting.landing))
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
        self.regions = None;
        self.line.close();
        failure
    }

    /// Whether the partner's end is found to be gone within [`EXPLANATION_WAIT`].
    fn partner_hung_up(&mut self) -> bool {
        let deadline = Deadline::after(EXPLANATION_WAIT);
        // BOUND: the deadline.
        while self.regions.is_some() && !deadline.is_over() {
            match self.look_at_news() {
                Ok(News::Some | News::Ended) => {}
                Ok(News::None) => self.line.sleep(&self.wake, Some(deadline.left())),
                Err(_) => return false,
            }
        }
        self.regions.is_none()
    }

    fn look_at_news(&mut self) -> Result<News, FabricError> {
        let news = self.line.look_at_news()?;
        if news == News::Ended {
            self.lose_link();
        }
        Ok(news)
    }

    fn lose_link(&mut self) {
        self.line.close();
        if self.regions.take().is_some() {
            self.link.closed();
        }
    }
}

/// When an operation must have ended.
#[derive(Clone, Copy)]
pub(crate) struct Deadline {
    end: Instant,
    within: Duration,
}

impl Deadline {
    pub(crate) fn after(within: Duration) -> Self {
        // An hour is as good as for ever here, and keeps the sum within the clock's range.
        let within = within.min(Duration::from_secs(3600));
        Self { end: Instant::now() + within, within }
    }

    pub(crate) fn left(self) -> Duration {
        self.end.saturating_duration_since(Instant::now())
    }

    pub(crate) fn is_over(self) -> bool {
        self.left().is_zero()
    }

    /// What a caller is told who ran into it.
    pub(crate) fn missed(self) -> ReadFailure {
        ReadFailure::TimedOut(self.within)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A provider whose reads never come back.
    struct Hanging;

    impl Line for Hanging {
        fn connect(&mut self, own: &Greeting, _deadline: Deadline) -> Result<Greeting, ReadFailure> {
            let region =
                |bytes: usize| RemoteRegion { length: u32::try_from(bytes).expect("small"), ..Default::default() };
            let identity = Identity { node: 1, ..own.identity };
            let (page, landing) = (region(PAGE_BYTES), region(LANDING_BYTES));
            Ok(Greeting { verdict: Verdict::Welcome, identity, page, landing })
        }

        fn read(&mut self, _page: RemoteRegion, _deadline: Deadline) -> PageAnswer {
            loop {
                std::thread::park();
            }
        }

        fn write(&mut self, _: RemoteRegion, _: u64, _: &[u8], _: Deadline) -> Result<(), ReadFailure> {
            Ok(())
        }

        fn fetch(&mut self, _: RemoteRegion, _: u64, _: usize, _: Deadline) -> MoveAnswer {
            Ok(Vec::new())
        }

        fn look_at_news(&mut self) -> Result<News, FabricError> {
            Ok(News::None)
        }

        fn sleep(&self, wake: &OwnedFd, within: Option<Duration>) {
            use rustix::fd::AsFd;
            crate::threads::sleep_on(&[wake.as_fd()], within);
            crate::threads::calm(wake);
        }

        fn close(&mut self) {}

        fn hang_up(&mut self) {}
    }

    #[test]
    fn a_read_that_never_comes_back_times_out_and_another_thread_takes_over() {
        let nobody = std::net::TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
        let options = ReaderOptions {
            provider: Provider::Tcp,
            partner: nobody.expect("an address"),
            identity: Identity { pair: 1, node: 2 },
            partner_node: 1,
        };
        let (events_in, events) = mpsc::channel(LINK_EVENTS_MAX);
        let link = Link { events: events_in, connections: Arc::default() };
        let crew = hire(Box::new(Hanging), (&options, LANDING_BYTES), &link, Duration::ZERO).expect("threads");
        let mut reader = PageReader { crew, options, landing_bytes: LANDING_BYTES, link, abandoned: Abandoned::None };
        let mut events = LinkEvents { events };
        reader.write_blocking(0, vec![1], Duration::from_secs(5)).expect("a write that ends");
        let within = Duration::from_millis(50);
        assert_eq!(reader.read_blocking(within), Err(ReadFailure::TimedOut(within)));
        assert_eq!(events.next_blocking(), Some(LinkEvent::Connected { connection: 1 }));
        // The other thread uses what the options say: there nobody listens.
        assert_eq!(reader.read_blocking(Duration::from_secs(5)), Err(ReadFailure::Refused));
    }
}
