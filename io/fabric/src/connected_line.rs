//! Connected endpoints (`tcp`, `verbs`): libfabric's connection manager carries the greetings and tells of the end.
//!
//! Not a policy: what follows from a failure is [`crate::reader`]'s. Whatever can wait waits at most until a deadline.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustix::fd::OwnedFd;

use crate::fabric_calls::{Domain, Endpoint, Event, EventQueue, Fabric, Info, Purpose, Registration, error_text};
use crate::greeting::{Greeting, RemoteRegion, Verdict};
use crate::reader::{Deadline, Line, MoveAnswer, News, PageAnswer};
use crate::region::Region;
use crate::threads::sleep_until_news;
use crate::{FabricError, MOVE_BYTES, PAGE_BYTES, Provider, ReadFailure};

/// `fi_errno` values that mean "the other end is gone": ECONNRESET, ENOTCONN, EPIPE, ESHUTDOWN, ECONNABORTED.
const GONE: [i32; 5] = [104, 107, 32, 108, 103];
/// `FI_ECONNREFUSED`.
const REFUSED: i32 = 111;
/// `FI_ETIMEDOUT`, EHOSTUNREACH, ENETUNREACH: nobody to ask there.
const UNREACHED: [i32; 3] = [110, 113, 101];

/// A connection over the connection manager.
pub(crate) struct ConnectedLine {
    // Fields drop in this order: the endpoint before the buffers it may still fill.
    endpoint: Option<Endpoint>,
    page: Registration,
    /// For what is moved, in either direction.
    moving: Registration,
    domain: Arc<Domain>,
    events: Arc<EventQueue>,
    info: Info,
    operations: usize,
}

impl ConnectedLine {
    pub(crate) fn open(provider: Provider, partner: SocketAddr, landing_bytes: usize) -> Result<Self, FabricError> {
        let info = Info::connecting(provider, partner)?;
        let fabric = Fabric::open(&info)?;
        let events = EventQueue::open(&fabric)?;
        let domain = Domain::open(&fabric, &info)?;
        let page = Registration::new(&domain, Arc::new(Region::zeroed(PAGE_BYTES)), Purpose::Local, 1)?;
        let moving =
            Registration::new(&domain, Arc::new(Region::zeroed(landing_bytes.min(MOVE_BYTES))), Purpose::Local, 2)?;
        Ok(Self { endpoint: None, page, moving, domain, events, info, operations: 0 })
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
                    let work = Some(endpoint.completions().as_ref());
                    sleep_until_news(&self.events, work, None, Some(deadline.left()));
                }
            }
        }
        Err(deadline.missed())
    }

    /// Posts one operation and waits for its end.
    fn operate(
        &mut self,
        deadline: Deadline,
        post: impl Fn(&Self, &Endpoint, usize) -> Result<bool, FabricError>,
    ) -> Result<(), ReadFailure> {
        self.operations += 1;
        let endpoint = self.endpoint.as_ref().ok_or(ReadFailure::Closed)?;
        perform(endpoint, self.operations, deadline, |context| post(self, endpoint, context))
    }
}

impl Line for ConnectedLine {
    fn connect(&mut self, own: &Greeting, deadline: Deadline) -> Result<Greeting, ReadFailure> {
        let endpoint = Endpoint::open(&self.domain, &self.info, &self.events)?;
        endpoint.connect(&self.info, &own.encode())?;
        let greeting = self.await_welcome(&endpoint, deadline)?;
        self.endpoint = Some(endpoint);
        Ok(greeting)
    }

    fn read(&mut self, page: RemoteRegion, deadline: Deadline) -> PageAnswer {
        self.operate(deadline, |line, endpoint, context| {
            endpoint.post_read(&line.page, PAGE_BYTES, page.address, page.key, context)
        })?;
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
        if let Some(endpoint) = &self.endpoint {
            // Nothing is under way: this only lets the provider notice that its socket closed.
            endpoint.completions().wait(Duration::ZERO)?;
        }
        let Some(event) = self.events.next()? else { return Ok(News::None) };
        let ours = self.endpoint.as_ref().map(Endpoint::name);
        Ok(match event {
            Event::Shutdown { endpoint } | Event::Failed { endpoint, .. } if Some(endpoint) == ours => News::Ended,
            // Of an endpoint closed before: its owner was told already.
            Event::Shutdown { .. } | Event::Failed { .. } | Event::Connected { .. } => News::Some,
            // A reader does not listen.
            Event::Requested { .. } | Event::Other => News::Some,
        })
    }

    fn sleep(&self, wake: &OwnedFd, within: Option<Duration>) {
        let work = self.endpoint.as_ref().map(|endpoint| endpoint.completions().as_ref());
        sleep_until_news(&self.events, work, Some(wake), within);
    }

    fn close(&mut self) {
        self.endpoint = None;
    }

    fn hang_up(&mut self) {
        if let Some(endpoint) = self.endpoint.take() {
            endpoint.shut_down();
        }
    }
}

/// Posts one operation and waits for its completion. BOUND: the deadline.
fn perform(
    endpoint: &Endpoint,
    context: usize,
    deadline: Deadline,
    post: impl Fn(usize) -> Result<bool, FabricError>,
) -> Result<(), ReadFailure> {
    let queue = endpoint.completions();
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
    Err(deadline.missed())
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
        None if UNREACHED.contains(&code) => deadline.missed(),
        None => ReadFailure::Fabric(format!("connecting failed: {}", error_text(code))),
    }
}
