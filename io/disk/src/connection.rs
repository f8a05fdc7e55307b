//! The background task of a session: connects, moves bytes, reconnects.
//!
//! Not here: protocol rules. The one idea: one poll function looks at readability, the outgoing queue and the clock in
//! that order. Commands submitted by many callers between two polls leave in one vectored write, and answers that
//! arrived together are given out in one turn.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, Sleep, sleep_until, timeout};
use understudy_iscsi::login::{LoginStatus, Stage};
use understudy_session::Micros;
use understudy_session::initiator::{Config, Event, Fate, Initiator, SessionLost};

use crate::chance;
use crate::disk::{DiskError, Link};
use crate::network::Network;
use crate::session::{Reconnect, RegionOffer, Shared, Ticket};

/// Room kept free in the receive buffer: one read then takes what a deep queue of small answers has brought.
const RECEIVE_ROOM: usize = 128 * 1024;

/// Reads in one poll before other tasks get their turn.
const READS_PER_TURN: u32 = 8;

/// First and longest pause between two attempts to connect. After a connection that lasted at least the longest pause
/// the next attempt is made at once; otherwise the pause doubles, so that a target which closes every session, or a
/// second initiator with the same ISID, does not make this one spin. The longest is small against every outage that a
/// client would notice.
const PAUSE: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(250));

/// Why a connection is over.
enum End {
    LoggedOut,
    Closed,
    Socket(io::Error),
    Protocol(SessionLost),
}

impl End {
    fn text(&self) -> String {
        match self {
            Self::LoggedOut => "logged out".to_owned(),
            Self::Closed => "the target closed the connection".to_owned(),
            Self::Socket(error) => error.to_string(),
            Self::Protocol(lost) => lost.to_string(),
        }
    }

    /// Whether trying again will not help: somebody has to set up one of the ends.
    fn wants_an_operator(&self) -> bool {
        let Self::Protocol(lost) = self else { return false };
        match lost {
            SessionLost::Unproved(_) => true,
            SessionLost::LoginRefused { status, .. } => {
                [LoginStatus::AUTHENTICATION_FAILURE, LoginStatus::AUTHORIZATION_FAILURE].contains(status)
            }
            SessionLost::Frame(_)
            | SessionLost::Malformed(_)
            | SessionLost::Protocol(_)
            | SessionLost::Rejected { .. }
            | SessionLost::Dropped(_)
            | SessionLost::Silent
            | SessionLost::LoginTooSlow
            | SessionLost::CommandTooSlow => false,
        }
    }
}

/// Connects again and again until the session is closed.
pub(crate) async fn run<N: Network>(network: N, shared: Rc<Shared>) {
    let mut pause = Duration::ZERO;
    let mut next = Attempt { config: shared.config.clone(), portal: shared.place.portal.clone() };
    // BOUND: as long as the session lives; between two turns lies a pause, a connection that lasted, or one redirection.
    loop {
        let began = Instant::now();
        let end = serve(&network, &shared, &next).await;
        let has_lasted = began.elapsed() >= PAUSE.1;
        tracing::debug!(target = %shared.place.target, portal = %next.portal, "session ended: {}", end.text());
        if end.wants_an_operator() && *shared.last_trouble.borrow() != end.text() {
            tracing::error!(target = %shared.place.target, portal = %next.portal, "{}", end.text());
        }
        give_up(&shared, &end);
        if shared.is_closing.get() || shared.options.reconnect == Reconnect::Never {
            shared.is_closing.set(true);
            shared.link.set(Link::Down);
            return;
        }
        let is_redirected = next.learn(&shared, &end);
        if is_redirected {
            continue;
        }
        if has_lasted {
            pause = Duration::ZERO;
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).clamp(PAUSE.0, PAUSE.1);
    }
}

/// How the next connection is tried.
struct Attempt {
    config: Config,
    portal: String,
}

impl Attempt {
    /// Takes what a refused login says. Returns whether the target is to be tried elsewhere at once; a redirection
    /// counts for one attempt, then the configured portal is asked again.
    fn learn(&mut self, shared: &Shared, end: &End) -> bool {
        let was_redirected = self.portal != shared.place.portal;
        self.portal.clone_from(&shared.place.portal);
        let End::Protocol(SessionLost::LoginRefused { status, address }) = end else { return false };
        if *status == LoginStatus::AUTHENTICATION_FAILURE {
            // Some targets want to negotiate AuthMethod even when it ends up as None.
            self.config.first_stage = Stage::Security;
        }
        match address {
            Some(address) if status.class == 1 && !was_redirected => {
                self.portal = address.split(',').next().unwrap_or(address).to_owned();
                true
            }
            Some(_) | None => false,
        }
    }
}

/// One connection from connect to end.
async fn serve<N: Network>(network: &N, shared: &Rc<Shared>, attempt: &Attempt) -> End {
    let connecting = timeout(shared.options.login_deadline, network.connect(&attempt.portal));
    let stream = match connecting.await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return End::Socket(error),
        Err(_) => return End::Socket(io::ErrorKind::TimedOut.into()),
    };
    let data_region = shared.options.data_region.as_ref().and_then(RegionOffer::name);
    let config = Config { data_region, ..attempt.config.clone() };
    let machine = Initiator::with_chance(config, chance::for_one(&attempt.config), shared.now());
    let mut connection = Connection {
        shared,
        stream,
        buffer: BytesMut::with_capacity(RECEIVE_ROOM),
        timer: Box::pin(sleep_until(Instant::now())),
        armed: Micros(0),
    };
    shared.machine.replace(Some(machine));
    poll_fn(|context| connection.poll(context)).await
}

/// Says of every command of the lost connection what is known of it.
fn give_up(shared: &Shared, end: &End) {
    let machine = shared.machine.take();
    *shared.last_trouble.borrow_mut() = end.text();
    shared.waker.replace(None);
    if shared.link.get() != Link::Down {
        shared.link.set(Link::Down);
    }
    for (ticket, fate) in machine.into_iter().flat_map(Initiator::abandon) {
        fail(shared, ticket, fate);
    }
}

fn fail(shared: &Shared, ticket: Ticket, fate: Fate) {
    let error = match fate {
        Fate::NotSent => shared.unreachable(),
        Fate::Unknown => DiskError::OutcomeUnknown(shared.last_trouble.borrow().clone()),
    };
    match ticket {
        Ticket::Command(promise) => promise.keep(Err(error)),
        Ticket::Function(promise) => promise.keep(Err(error)),
    }
}

struct Connection<'a, S> {
    shared: &'a Rc<Shared>,
    stream: S,
    buffer: BytesMut,
    timer: Pin<Box<Sleep>>,
    /// When `timer` fires.
    armed: Micros,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<'_, S> {
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<End> {
        self.shared.is_woken.set(false);
        self.keep_waker(context);
        match self.poll_read(context).and_then(|()| self.poll_write(context)).and_then(|()| self.poll_timer(context)) {
            Ok(()) => Poll::Pending,
            Err(end) => Poll::Ready(end),
        }
    }

    fn keep_waker(&self, context: &Context<'_>) {
        let mut waker = self.shared.waker.borrow_mut();
        if !waker.as_ref().is_some_and(|waker| waker.will_wake(context.waker())) {
            *waker = Some(context.waker().clone());
        }
    }

    fn poll_read(&mut self, context: &mut Context<'_>) -> Result<(), End> {
        for _ in 0..READS_PER_TURN {
            if self.buffer.capacity() - self.buffer.len() < RECEIVE_ROOM / 4 {
                self.buffer.reserve(RECEIVE_ROOM);
            }
            let count = match pin!(self.stream.read_buf(&mut self.buffer)).poll(context) {
                Poll::Pending => return Ok(()),
                Poll::Ready(Ok(count)) => count,
                Poll::Ready(Err(error)) => return Err(End::Socket(error)),
            };
            if count == 0 {
                return Err(End::Closed);
            }
            let received = self.machine(|machine, now, buffer| machine.receive(now, buffer));
            // What was answered before the trouble was answered.
            self.give_out()?;
            received?;
        }
        context.waker().wake_by_ref();
        Ok(())
    }

    fn machine(
        &mut self,
        act: impl FnOnce(&mut Initiator<Ticket>, Micros, &mut BytesMut) -> Result<(), SessionLost>,
    ) -> Result<(), End> {
        let now = self.shared.now();
        let mut machine = self.shared.machine.borrow_mut();
        let Some(machine) = machine.as_mut() else { return Err(End::Closed) };
        act(machine, now, &mut self.buffer).map_err(End::Protocol)
    }

    /// Hands the events of the protocol machine to those who wait for them.
    fn give_out(&self) -> Result<(), End> {
        // BOUND: the machine makes events only from bytes and timeouts, neither of which arrive here.
        loop {
            let event = self.shared.machine.borrow_mut().as_mut().and_then(Initiator::poll_event);
            match event {
                None => return Ok(()),
                Some(Event::Completed { ticket: Ticket::Command(promise), completion }) => {
                    promise.keep(Ok(completion.into()));
                }
                Some(Event::Managed { ticket: Ticket::Function(promise), response }) => promise.keep(Ok(response)),
                Some(Event::Ended { ticket, fate }) => self.end_one(ticket, fate),
                Some(Event::LoggedIn(parameters)) => self.logged_in(&parameters),
                Some(Event::LoggedOut) => return Err(End::LoggedOut),
                Some(Event::LogoutRequested) => {
                    tracing::info!(target = %self.shared.place.target, "the target asks for a new login");
                }
                Some(Event::SenseReported { lun, sense }) => {
                    tracing::info!(target = %self.shared.place.target, lun, "asynchronous event {sense:02x?}");
                }
                // A normal session asks for no targets, and answers carry the ticket of their question.
                Some(Event::Targets(_) | Event::Completed { .. } | Event::Managed { .. }) => {}
            }
        }
    }

    fn end_one(&self, ticket: Ticket, fate: Fate) {
        let error = match fate {
            Fate::NotSent => DiskError::Unreachable("the target's command window stayed shut".to_owned()),
            Fate::Unknown => DiskError::OutcomeUnknown("aborted at the target".to_owned()),
        };
        match ticket {
            Ticket::Command(promise) => promise.keep(Err(error)),
            Ticket::Function(promise) => promise.keep(Err(error)),
        }
    }

    fn logged_in(&self, parameters: &understudy_session::initiator::Parameters) {
        let epoch = self.shared.logins.get() + 1;
        self.shared.logins.set(epoch);
        tracing::debug!(target = %self.shared.place.target, epoch, ?parameters, "logged in");
        self.shared.link.set(Link::Connected { epoch });
        if self.shared.is_closing.get()
            && let Some(machine) = self.shared.machine.borrow_mut().as_mut()
        {
            machine.log_out();
        }
    }

    fn poll_write(&mut self, context: &mut Context<'_>) -> Result<(), End> {
        let mut machine = self.shared.machine.borrow_mut();
        let Some(machine) = machine.as_mut() else { return Err(End::Closed) };
        let outgoing = machine.outgoing();
        // BOUND: every turn takes bytes off the queue.
        while !outgoing.is_empty() {
            match pin!(self.stream.write_buf(outgoing)).poll(context) {
                Poll::Pending => return Ok(()),
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(error)) => return Err(End::Socket(error)),
            }
        }
        Ok(())
    }

    /// Lets the machine act on time that has passed, and sets the timer for the next time it wants to.
    fn poll_timer(&mut self, context: &mut Context<'_>) -> Result<(), End> {
        // BOUND: a turn that goes round again had a timer fire and the machine move its next timeout.
        loop {
            let wanted = self.shared.machine.borrow().as_ref().map_or(Micros(u64::MAX), Initiator::next_timeout);
            // A timer that fires early costs one look; one that would fire late is set anew.
            if (self.armed == Micros(0) || wanted < self.armed)
                && let Some(at) = self.shared.instant(wanted)
            {
                self.timer.as_mut().reset(at);
                self.armed = wanted;
            }
            if self.timer.as_mut().poll(context).is_pending() {
                return Ok(());
            }
            self.armed = Micros(0);
            let acted = self.machine(|machine, now, _| machine.timeouts(now));
            self.give_out()?;
            acted?;
            self.poll_write(context)?;
        }
    }
}

impl From<SessionLost> for End {
    fn from(lost: SessionLost) -> Self {
        Self::Protocol(lost)
    }
}
