//! The simulated network between hosts: connections of bytes that are late, cut, broken off or silent.
//!
//! Not the interconnect of the two nodes, which is memory (module `memory`). What goes in on one side comes out on the other in
//! order and whole or not at all, as with TCP. A cut path delivers nothing; what was under way arrives when the path is mended,
//! even if the sender has closed its end meanwhile: that is how a write of a node that lost its disk lands late. A host that
//! lost power is silent; its peers learn of it by their own deadlines, or when it is up again and refuses what it does not know.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};
use tokio::sync::Notify;
use tokio::task::spawn_local;
use tokio::time::{Instant, Sleep, sleep, timeout};
use understudy_disk::network::Network;
use understudy_portal::{Acceptor, Wire};

use crate::chance::Chance;
use crate::plan::address_of;
use crate::process::{End, Process};
use crate::repeat::Framing;

/// A machine of the simulated world.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
pub enum Host {
    /// A node, by its index.
    Node(usize),
    /// The shelf of one disk, by the disk's number.
    Shelf(usize),
    /// A client, by its number.
    Client(usize),
}

/// Bytes under way on one direction of a connection before the sender has to wait.
const WINDOW: usize = 256 << 10;

/// How long a closed connection takes in what still comes before it forgets it.
const FAREWELL: Duration = Duration::from_secs(1);

/// One direction between two hosts.
#[derive(Default)]
struct Path {
    cut: Cell<bool>,
    /// Extra milliseconds of every delivery.
    slow_ms: Cell<u64>,
    /// One delivery in so many comes again; 0: none.
    repeats: Cell<u64>,
    waiting: RefCell<Vec<Waker>>,
}

/// Everything that connects the hosts.
pub struct Net {
    chance: Chance,
    /// Longest ordinary delay of a delivery, milliseconds.
    jitter_ms: Cell<u64>,
    paths: RefCell<BTreeMap<(Host, Host), Rc<Path>>>,
    listening: RefCell<Vec<Rc<Listening>>>,
    ends: RefCell<BTreeMap<Host, Vec<Weak<Pipe>>>>,
    next_port: Cell<u16>,
}

struct Listening {
    address: SocketAddr,
    host: Host,
    process: Process,
    arrived: RefCell<VecDeque<(Stream, SocketAddr)>>,
    came: Notify,
}

impl Net {
    /// A network without cuts.
    #[must_use]
    pub fn new(chance: Chance, jitter_ms: u64) -> Rc<Self> {
        Rc::new(Self {
            chance,
            jitter_ms: Cell::new(jitter_ms),
            paths: RefCell::default(),
            listening: RefCell::default(),
            ends: RefCell::default(),
            next_port: Cell::new(1024),
        })
    }

    fn path(&self, from: Host, to: Host) -> Rc<Path> {
        Rc::clone(self.paths.borrow_mut().entry((from, to)).or_default())
    }

    /// From now on nothing of `from` reaches `to`.
    pub fn cut(&self, from: Host, to: Host) {
        self.path(from, to).cut.set(true);
    }

    /// The path is whole again; what was under way arrives.
    pub fn mend(&self, from: Host, to: Host) {
        let path = self.path(from, to);
        path.cut.set(false);
        path.waiting.take().into_iter().for_each(Waker::wake);
    }

    /// Every delivery from `from` to `to` takes so much longer.
    pub fn slow(&self, from: Host, to: Host, extra_ms: u64) {
        self.path(from, to).slow_ms.set(extra_ms);
    }

    /// One delivery in so many from `from` to `to` comes again, if it is made of whole PDUs; 0: none.
    pub fn repeat(&self, from: Host, to: Host, one_in: u64) {
        self.path(from, to).repeats.set(one_in);
    }

    /// Every path is whole and fast again.
    pub fn heal(&self) {
        let all: Vec<_> = self.paths.borrow().keys().copied().collect();
        for (from, to) in all {
            self.slow(from, to, 0);
            self.repeat(from, to, 0);
            self.mend(from, to);
        }
    }

    /// Every connection between the two hosts breaks off, with what was under way.
    pub fn break_off(&self, one: Host, other: Host) {
        let between = [self.path(one, other), self.path(other, one)];
        let pipes: Vec<_> = self.ends.borrow().get(&one).into_iter().flatten().filter_map(Weak::upgrade).collect();
        let is_between = |pipe: &&Rc<Pipe>| between.iter().any(|path| Rc::ptr_eq(path, &pipe.path));
        pipes.iter().filter(is_between).for_each(|pipe| pipe.reset());
    }

    /// A host is up again after a loss of power: it resets connections it knows nothing of.
    pub fn host_is_up(&self, host: Host) {
        for pipe in self.ends.borrow_mut().remove(&host).unwrap_or_default() {
            if let Some(pipe) = pipe.upgrade().filter(|pipe| pipe.is_silent.get()) {
                pipe.reset();
            }
        }
    }

    fn delay(&self, path: &Path) -> Duration {
        let ordinary = if self.chance.one_in(2) { 0 } else { self.chance.below(self.jitter_ms.get() + 1) };
        Duration::from_millis(ordinary + path.slow_ms.get())
    }

    async fn travel(&self, path: &Path) {
        sleep(self.delay(path)).await;
        std::future::poll_fn(|context| {
            if !path.cut.get() {
                return Poll::Ready(());
            }
            path.waiting.borrow_mut().push(context.waker().clone());
            Poll::Pending
        })
        .await;
    }

    /// The listener that a new connection reaches: nearly always the one that came last, as when an address has moved; now and
    /// then an older one that has not gone yet, as when two hosts have the same address for a moment.
    fn listener(&self, address: SocketAddr) -> Option<Rc<Listening>> {
        let listening = self.listening.borrow();
        let there: Vec<_> = listening.iter().filter(|one| one.address == address).collect();
        let older = there.len() > 1 && self.chance.one_in(16);
        let chosen = if older { there.first() } else { there.last() };
        chosen.map(|chosen| Rc::clone(chosen))
    }

    async fn connect(self: &Rc<Self>, from: Host, process: &Process, portal: &str) -> io::Result<Stream> {
        let address: SocketAddr = portal.parse().map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
        let Some(listener) = self.listener(address) else {
            // Its host is off, or there and nobody listens.
            sleep(self.chance.millis(0, 3)).await;
            if self.chance.one_in(2) {
                std::future::pending::<()>().await;
            }
            return Err(io::ErrorKind::ConnectionRefused.into());
        };
        let (there, back) = (self.path(from, listener.host), self.path(listener.host, from));
        self.travel(&there).await;
        if listener.process.ended().is_some() {
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        let (out, answers) = (Pipe::new(self, Rc::clone(&there)), Pipe::new(self, Rc::clone(&back)));
        for host in [from, listener.host] {
            let mut ends = self.ends.borrow_mut();
            let ends = ends.entry(host).or_default();
            ends.retain(|end| end.strong_count() > 0);
            ends.extend([Rc::downgrade(&out), Rc::downgrade(&answers)]);
        }
        self.next_port.set(self.next_port.get().checked_add(1).unwrap_or(1024));
        let ip = match from {
            Host::Node(node) => address_of(node),
            Host::Shelf(_) | Host::Client(_) => [10, 9, 0, 1].into(),
        };
        let peer = SocketAddr::new(ip, self.next_port.get());
        let theirs = Stream::new(Rc::clone(&out), Rc::clone(&answers), address, listener.process.clone());
        let ours = Stream::new(answers, out, peer, process.clone());
        listener.arrived.borrow_mut().push_back((theirs, peer));
        listener.came.notify_one();
        self.travel(&back).await;
        Ok(ours)
    }

    /// Listens at `address` beside whoever does already.
    #[must_use]
    pub fn listen(self: &Rc<Self>, address: SocketAddr, host: Host, process: &Process) -> SimListener {
        let listening = Rc::new(Listening {
            address,
            host,
            process: process.clone(),
            arrived: RefCell::default(),
            came: Notify::new(),
        });
        self.listening.borrow_mut().push(Rc::clone(&listening));
        SimListener { net: Rc::clone(self), listening }
    }
}

/// The network as one process of one host sees it.
#[derive(Clone)]
pub struct Uplink {
    /// All of it.
    pub net: Rc<Net>,
    /// Where the process runs.
    pub host: Host,
    /// Whose connections these are.
    pub process: Process,
}

impl Network for Uplink {
    type Stream = Stream;

    async fn connect(&self, portal: &str) -> io::Result<Stream> {
        self.net.connect(self.host, &self.process, portal).await
    }
}

/// A listening address of a process.
pub struct SimListener {
    net: Rc<Net>,
    listening: Rc<Listening>,
}

impl Drop for SimListener {
    fn drop(&mut self) {
        self.net.listening.borrow_mut().retain(|one| !Rc::ptr_eq(one, &self.listening));
    }
}

impl Acceptor for SimListener {
    type Stream = Stream;

    fn address(&self) -> SocketAddr {
        self.listening.address
    }

    async fn accept(&self) -> io::Result<(Stream, SocketAddr)> {
        loop {
            if let Some(arrived) = self.listening.arrived.borrow_mut().pop_front() {
                return Ok(arrived);
            }
            self.listening.came.notified().await;
        }
    }

    fn reclaim(&self) -> io::Result<()> {
        let mut listening = self.net.listening.borrow_mut();
        listening.retain(|one| !Rc::ptr_eq(one, &self.listening));
        listening.push(Rc::clone(&self.listening));
        Ok(())
    }

    fn close(self) -> Vec<Stream> {
        self.listening.arrived.take().into_iter().map(|(stream, _)| stream).collect()
    }
}

enum Segment {
    Data(Bytes),
    End,
    Reset,
}

/// One direction of a connection.
struct Pipe {
    net: Weak<Net>,
    path: Rc<Path>,
    queue: RefCell<VecDeque<(Instant, Segment)>>,
    bytes: Cell<usize>,
    reader: RefCell<Option<Waker>>,
    writer: RefCell<Option<Waker>>,
    /// Nobody reads any more, and the writer may know.
    reader_gone: Cell<bool>,
    /// One of the ends lost power.
    is_silent: Cell<bool>,
    framing: RefCell<Framing>,
}

impl Pipe {
    fn new(net: &Rc<Net>, path: Rc<Path>) -> Rc<Self> {
        Rc::new(Self {
            net: Rc::downgrade(net),
            path,
            queue: RefCell::default(),
            bytes: Cell::new(0),
            reader: RefCell::default(),
            writer: RefCell::default(),
            reader_gone: Cell::new(false),
            is_silent: Cell::new(false),
            framing: RefCell::default(),
        })
    }

    /// Sends data, and now and then, where the path repeats, what was sent before once more.
    fn send_data(&self, data: Bytes) {
        let whole = self.framing.borrow_mut().take(&data);
        self.send(Segment::Data(data.clone()));
        let repeats = self.path.repeats.get();
        let Some(net) = self.net.upgrade().filter(|_| whole && repeats > 0) else { return };
        let earlier = self.framing.borrow_mut().kept.take_if(|_| net.chance.one_in(2));
        earlier.into_iter().for_each(|earlier| self.send(Segment::Data(earlier)));
        if net.chance.one_in(repeats) {
            self.framing.borrow_mut().kept = Some(data);
        }
    }

    fn send(&self, segment: Segment) {
        let Some(net) = self.net.upgrade() else { return };
        if self.is_silent.get() {
            return;
        }
        if let Segment::Data(data) = &segment {
            self.bytes.set(self.bytes.get() + data.len());
        }
        let mut queue = self.queue.borrow_mut();
        let earliest = queue.back().map_or_else(Instant::now, |(at, _)| (*at).max(Instant::now()));
        let at = earliest.max(Instant::now() + net.delay(&self.path));
        queue.push_back((at, segment));
        drop(queue);
        wake(&self.reader);
    }

    fn reset(&self) {
        self.is_silent.set(false);
        self.queue.take();
        self.bytes.set(0);
        self.queue.borrow_mut().push_back((Instant::now(), Segment::Reset));
        self.reader_gone.set(true);
        wake(&self.reader);
        wake(&self.writer);
    }

    fn go_silent(&self) {
        self.is_silent.set(true);
        self.queue.take();
        self.bytes.set(0);
    }
}

fn wake(waiting: &RefCell<Option<Waker>>) {
    if let Some(waker) = waiting.borrow_mut().take() {
        waker.wake();
    }
}

/// One end of a connection.
pub struct Stream {
    incoming: Rc<Pipe>,
    outgoing: Rc<Pipe>,
    local: SocketAddr,
    process: Process,
    timer: Option<Pin<Box<Sleep>>>,
    has_ended: bool,
}

impl Stream {
    fn new(incoming: Rc<Pipe>, outgoing: Rc<Pipe>, local: SocketAddr, process: Process) -> Self {
        Self { incoming, outgoing, local, process, timer: None, has_ended: false }
    }

    fn end_sending(&mut self) {
        if !self.has_ended {
            self.has_ended = true;
            self.outgoing.send(Segment::End);
        }
    }

    fn poll_due(&mut self, at: Instant, context: &mut Context<'_>) -> Poll<()> {
        if at <= Instant::now() {
            return Poll::Ready(());
        }
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(at)));
        if timer.deadline() != at {
            timer.as_mut().reset(at);
        }
        timer.as_mut().poll(context)
    }
}

impl AsyncRead for Stream {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let incoming = Rc::clone(&self.incoming);
        if incoming.path.cut.get() {
            incoming.path.waiting.borrow_mut().push(context.waker().clone());
            return Poll::Pending;
        }
        let Some(due) = incoming.queue.borrow().front().map(|(at, _)| *at) else {
            *incoming.reader.borrow_mut() = Some(context.waker().clone());
            return Poll::Pending;
        };
        if self.poll_due(due, context).is_pending() {
            *incoming.reader.borrow_mut() = Some(context.waker().clone());
            return Poll::Pending;
        }
        let mut queue = incoming.queue.borrow_mut();
        let Some((_, segment)) = queue.front_mut() else { return Poll::Pending };
        match segment {
            Segment::End => Poll::Ready(Ok(())),
            Segment::Reset => Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
            Segment::Data(data) => {
                let taken = data.len().min(into.remaining());
                into.put_slice(&data[..taken]);
                data.advance(taken);
                if data.is_empty() {
                    queue.pop_front();
                }
                drop(queue);
                incoming.bytes.set(incoming.bytes.get() - taken);
                wake(&incoming.writer);
                Poll::Ready(Ok(()))
            }
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let outgoing = &self.outgoing;
        if outgoing.reader_gone.get() && !outgoing.path.cut.get() {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let room = WINDOW.saturating_sub(outgoing.bytes.get());
        if room == 0 {
            *outgoing.writer.borrow_mut() = Some(context.waker().clone());
            return Poll::Pending;
        }
        let taken = room.min(bytes.len());
        outgoing.send_data(Bytes::copy_from_slice(&bytes[..taken]));
        Poll::Ready(Ok(taken))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        // One delivery for what is written at once.
        let whole: Vec<&[u8]> = slices.iter().map(|slice| &**slice).collect();
        self.poll_write(context, &whole.concat())
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.end_sending();
        Poll::Ready(Ok(()))
    }
}

impl Wire for Stream {
    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.local)
    }

    fn send_at_once(&self) {}

    fn end_in_order(mut self) {
        self.end_sending();
        spawn_local(async move {
            let mut sink = [0; 4096];
            let reading = async { while self.read(&mut sink).await.is_ok_and(|count| count > 0) {} };
            let _ = timeout(FAREWELL, reading).await;
        });
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if self.process.ended() == Some(End::PowerLost) {
            self.outgoing.go_silent();
            self.incoming.go_silent();
            return;
        }
        let breaks_off = !self.has_ended && self.outgoing.net.upgrade().is_some_and(|net| net.chance.one_in(4));
        if breaks_off {
            // What has not been delivered never is.
            let now = Instant::now();
            self.outgoing.queue.borrow_mut().retain(|(at, _)| *at <= now && !self.outgoing.path.cut.get());
            self.outgoing.send(Segment::Reset);
        } else {
            self.end_sending();
        }
        self.incoming.reader_gone.set(true);
        self.incoming.queue.take();
        wake(&self.incoming.writer);
    }
}
