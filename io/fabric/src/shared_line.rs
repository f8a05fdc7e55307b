//! The reader's side of `shm`: a rendezvous connection for the greeting and the end, shared memory for the reads.
//!
//! On a host that lets one process read another's memory, a read is done by the reader alone: a stopped partner's page
//! stays readable, and its counter stands still. Elsewhere libfabric needs the partner's hand for each read, and a
//! stopped partner times out.

use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use rustix::fd::{AsFd, OwnedFd};

use crate::fabric_calls::{Domain, Fabric, Info, Purpose, Registration, UnconnectedEndpoint, error_text};
use crate::greeting::{Greeting, RemoteRegion, Verdict};
use crate::reader::{Deadline, Line, MoveAnswer, News, PageAnswer};
use crate::region::Region;
use crate::rendezvous::{Arrived, HELLO_BYTES, Hello, NUDGE_EVERY, QUEUE_PLACES, nudge, own_name, remove, sweep, take};
use crate::threads::{calm, sleep_on};
use crate::{FabricError, MOVE_BYTES, PAGE_BYTES, ReadFailure};

/// First and longest pause between two looks at an operation that did not end at once.
const LOOK_SOON: Duration = Duration::from_micros(50);
const LOOK_LATE: Duration = Duration::from_millis(2);

/// `ESRCH`: the process whose memory was to be read is gone.
const NO_SUCH_PROCESS: i32 = 3;

/// A meeting with the partner's process.
struct Meeting {
    endpoint: UnconnectedEndpoint,
    stream: TcpStream,
    /// Both endpoints, until they have found each other.
    names: Vec<String>,
}

/// Shared memory with a process of this host.
pub(crate) struct SharedLine {
    // Fields drop in this order: the endpoint before the buffers it may still fill.
    meeting: Option<Meeting>,
    page: Registration,
    /// For what is moved, in either direction.
    moving: Registration,
    domain: Arc<Domain>,
    info: Info,
    partner: SocketAddr,
    operations: usize,
}

impl SharedLine {
    pub(crate) fn open(partner: SocketAddr, landing_bytes: usize) -> Result<Self, FabricError> {
        sweep();
        let info = Info::unconnected(&own_name(), QUEUE_PLACES)?;
        let fabric = Fabric::open(&info)?;
        let domain = Domain::open(&fabric, &info)?;
        let page = Registration::new(&domain, Arc::new(Region::zeroed(PAGE_BYTES)), Purpose::Local, 1)?;
        let moving =
            Registration::new(&domain, Arc::new(Region::zeroed(landing_bytes.min(MOVE_BYTES))), Purpose::Local, 2)?;
        Ok(Self { meeting: None, page, moving, domain, info, partner, operations: 0 })
    }

    /// Carries one operation out. BOUND: the deadline.
    fn operate(
        &mut self,
        deadline: Deadline,
        post: impl Fn(&Self, &UnconnectedEndpoint, usize) -> Result<bool, FabricError>,
    ) -> Result<(), ReadFailure> {
        self.operations += 1;
        let Meeting { endpoint, stream, .. } = self.meeting.as_ref().ok_or(ReadFailure::Closed)?;
        if self.operations.is_multiple_of(NUDGE_EVERY) {
            nudge(stream);
        }
        let (mut posted, mut pause) = (false, LOOK_SOON);
        while !deadline.is_over() {
            if !posted {
                posted = post(self, endpoint, self.operations)?;
            }
            // Only one operation is under way, and a failed one does not always say which it was.
            match endpoint.look()? {
                Some(completion) if completion.code == 0 => return still_there(stream),
                Some(completion) if completion.code == NO_SUCH_PROCESS => return Err(ReadFailure::Closed),
                Some(completion) => return Err(ReadFailure::Fabric(error_text(completion.code))),
                None => {}
            }
            nudge(stream);
            sleep_on(&[stream.as_fd()], Some(pause.min(deadline.left())));
            still_there(stream)?;
            pause = (pause * 2).min(LOOK_LATE);
        }
        Err(deadline.missed())
    }

    /// BOUND: the deadline.
    fn greet(&self, stream: &TcpStream, hello: &[u8; HELLO_BYTES], deadline: Deadline) -> Result<Hello, ReadFailure> {
        let mut writing = stream;
        // A fresh connection has room for a hello.
        std::io::Write::write_all(&mut writing, hello).map_err(|_| ReadFailure::Closed)?;
        let (mut answer, mut length) = ([0; HELLO_BYTES], 0);
        while !deadline.is_over() {
            match take(stream, &mut answer[length..]) {
                Arrived::End => return Err(ReadFailure::Closed),
                Arrived::Bytes(count) => length += count,
            }
            if length == HELLO_BYTES {
                let hello = Hello::decode(&answer);
                return hello.ok_or_else(|| ReadFailure::Rejected(Verdict::OtherVersion.text()));
            }
            sleep_on(&[stream.as_fd()], Some(deadline.left()));
        }
        Err(deadline.missed())
    }
}

/// Fails if the partner's process is gone: memory that was read then is nobody's.
fn still_there(stream: &TcpStream) -> Result<(), ReadFailure> {
    // The partner sends nothing after its hello.
    match take(stream, &mut [0; 16]) {
        Arrived::End => Err(ReadFailure::Closed),
        Arrived::Bytes(_) => Ok(()),
    }
}

fn connect(partner: SocketAddr, deadline: Deadline) -> Result<TcpStream, ReadFailure> {
    use std::io::ErrorKind;
    let left = deadline.left();
    if left.is_zero() {
        return Err(deadline.missed());
    }
    let stream = TcpStream::connect_timeout(&partner, left).map_err(|error| match error.kind() {
        ErrorKind::ConnectionRefused => ReadFailure::Refused,
        ErrorKind::TimedOut | ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable => deadline.missed(),
        ErrorKind::ConnectionReset | ErrorKind::ConnectionAborted => ReadFailure::Closed,
        _ => ReadFailure::Fabric(format!("connecting failed: {error}")),
    })?;
    let prepared = stream.set_nodelay(true).and_then(|()| stream.set_nonblocking(true));
    prepared.map_err(|error| ReadFailure::Fabric(format!("connecting failed: {error}")))?;
    Ok(stream)
}

impl Line for SharedLine {
    fn connect(&mut self, own: &Greeting, deadline: Deadline) -> Result<Greeting, ReadFailure> {
        let stream = connect(self.partner, deadline)?;
        let mut endpoint = UnconnectedEndpoint::open(&self.domain, &self.info)?;
        let own_endpoint = endpoint.name()?;
        let hello = Hello { greeting: *own, endpoint: own_endpoint.clone() };
        let hello = hello.encode().ok_or_else(|| ReadFailure::Fabric("the endpoint's name is too long".into()))?;
        let welcome = self.greet(&stream, &hello, deadline)?;
        if welcome.greeting.verdict == Verdict::Welcome {
            endpoint.meet(&welcome.endpoint)?;
        }
        self.meeting = Some(Meeting { endpoint, stream, names: vec![own_endpoint, welcome.endpoint] });
        Ok(welcome.greeting)
    }

    fn read(&mut self, page: RemoteRegion, deadline: Deadline) -> PageAnswer {
        self.operate(deadline, |line, endpoint, context| {
            endpoint.post_read(&line.page, PAGE_BYTES, page.address, page.key, context)
        })?;
        // Each side has the other's memory now and needs no name for it: what nobody can find, nobody leaves behind.
        if let Some(meeting) = &mut self.meeting {
            std::mem::take(&mut meeting.names).iter().for_each(|name| remove(name));
        }
        Ok(self.page.region().copy_page())
    }

    fn write(
        &mut self,
        landing: RemoteRegion,
        offset: u64,
        bytes: &[u8],
        deadline: Deadline,
    ) -> Result<(), ReadFailure> {
        self.moving.region().copy_in(bytes);
        let address = landing.address.wrapping_add(offset);
        self.operate(deadline, |line, endpoint, context| {
            endpoint.post_write(&line.moving, bytes.len(), address, landing.key, context)
        })
    }

    fn fetch(&mut self, landing: RemoteRegion, offset: u64, length: usize, deadline: Deadline) -> MoveAnswer {
        let address = landing.address.wrapping_add(offset);
        self.operate(deadline, |line, endpoint, context| {
            endpoint.post_read(&line.moving, length, address, landing.key, context)
        })?;
        Ok(self.moving.region().take(0, length))
    }

    fn look_at_news(&mut self) -> Result<News, FabricError> {
        let gone = self.meeting.as_ref().is_some_and(|meeting| still_there(&meeting.stream).is_err());
        Ok(if gone { News::Ended } else { News::None })
    }

    fn sleep(&self, wake: &OwnedFd, within: Option<Duration>) {
        let stream = self.meeting.as_ref().map(|meeting| meeting.stream.as_fd());
        let descriptors: Vec<_> = [Some(wake.as_fd()), stream].into_iter().flatten().collect();
        sleep_on(&descriptors, within);
        calm(wake);
    }

    fn close(&mut self) {
        self.meeting = None;
    }

    fn hang_up(&mut self) {
        // The end of the rendezvous connection is the goodbye.
        self.meeting = None;
    }
}
