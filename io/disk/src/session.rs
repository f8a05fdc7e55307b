//! One iSCSI session with one target, as a client uses it: commands in, answers out, reconnecting underneath.
//!
//! Not here: SCSI semantics and retries (`lun`), the protocol (`understudy-session`), the socket (`connection`). The
//! one idea: every connection gets a new protocol machine; the old one is consumed and tells of each of its commands
//! whether it had been sent. So a command is never on two connections, while the initiator name and the ISID, to which
//! the target binds reservations, are the same on all of them. A login with the same ISID makes the target abort what
//! the older session had under way (session reinstatement, RFC 7143 §6.3.5).
//!
//! While there is no session, commands fail at once with [`DiskError::Unreachable`]; whoever wants to wait uses
//! [`Session::connected`] or [`Session::link_changed`].

use std::cell::{Cell, RefCell};
use std::fmt;
use std::future::Future;
use std::rc::Rc;
use std::task::Waker;
use std::time::Duration;

use bytes::Bytes;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use understudy_iscsi::codes::{Residual, TaskAttribute, TaskFunction, TaskFunctionResponse};
use understudy_iscsi::login::Stage;
use understudy_iscsi::serial::{Isid, TaskTag};
use understudy_session::Micros;
use understudy_session::initiator::{Command, Completion, Config, Initiator, Management, Purpose};
pub use understudy_session::initiator::{DigestOffer, Proof, Transfer};

use crate::connection;
use crate::disk::{DiskError, Link};
use crate::network::{Network, Tcp};
use crate::reply::{Promise, promise};
use crate::watched::Watched;

/// Who this end is: the initiator port that persistent reservations are bound to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Nexus {
    /// iSCSI name of the initiator.
    pub initiator_name: String,
    /// Session identifier. Two sessions of one initiator name with one target need different ones: with the same they
    /// would push each other out.
    pub isid: Isid,
}

/// Where a target is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// `host:port`.
    pub portal: String,
    /// iSCSI name of the target.
    pub target: String,
}

/// What happens when a session is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Reconnect {
    /// Log in again: at once, then with a growing pause of at most 250 ms.
    #[default]
    Always,
    /// One attempt, one session; then the link stays down.
    Never,
}

/// Settings of a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// How long a command may take before its outcome is called unknown and the session is made anew. Also how long it
    /// may wait for the target's command window.
    pub command_deadline: Duration,
    /// The same for SYNCHRONIZE CACHE, which takes as long as the medium needs for everything written before.
    pub flush_deadline: Duration,
    /// How long connecting and logging in may take, each.
    pub login_deadline: Duration,
    /// Silence of the target before it is pinged.
    pub ping_after: Duration,
    /// How long it may take to answer a ping.
    pub ping_within: Duration,
    /// What happens when the session is lost.
    pub reconnect: Reconnect,
    /// Header digest.
    pub header_digest: DigestOffer,
    /// Data digest.
    pub data_digest: DigestOffer,
    /// Who proves what at a login.
    pub proof: Option<Proof>,
    /// What data region is proposed at each login.
    pub data_region: Option<RegionOffer>,
}

/// Names the data region to propose at a login, if there is one then ([`understudy_iscsi::advertised`]).
#[derive(Clone)]
pub struct RegionOffer(Rc<dyn Fn() -> Option<String>>);

impl RegionOffer {
    /// Asked before every login.
    #[must_use]
    pub fn new(name: impl Fn() -> Option<String> + 'static) -> Self {
        Self(Rc::new(name))
    }

    pub(crate) fn name(&self) -> Option<String> {
        (self.0)()
    }
}

impl fmt::Debug for RegionOffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RegionOffer")
    }
}

impl PartialEq for RegionOffer {
    fn eq(&self, other: &Self) -> bool {
        Rc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for RegionOffer {}

impl Default for Options {
    /// Two seconds for a command and for a login: below them a disk that answers late would be declared lost, above
    /// them a takeover would wait for a dead one. Thirty for a flush: a busy disk's takes seconds, and cutting it short
    /// would only begin it anew; a disk that is dead shows by the pings, which start after one second.
    fn default() -> Self {
        Self {
            command_deadline: Duration::from_secs(2),
            flush_deadline: Duration::from_secs(30),
            login_deadline: Duration::from_secs(2),
            ping_after: Duration::from_secs(1),
            ping_within: Duration::from_secs(2),
            reconnect: Reconnect::Always,
            header_digest: DigestOffer::None,
            data_digest: DigestOffer::None,
            proof: None,
            data_region: None,
        }
    }
}

/// MaxRecvDataSegmentLength declared: reads up to this size come in one PDU.
const RECEIVE_SEGMENT_BYTES: u32 = 256 * 1024;

/// A command as a client gives it.
#[derive(Debug, Clone)]
pub struct Request {
    /// CDB, zero-padded.
    pub cdb: [u8; 16],
    /// Data.
    pub transfer: Transfer,
    /// How long it may take.
    pub deadline: Duration,
}

/// A target's answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// SCSI status byte.
    pub status: u8,
    /// Sense data; empty if none.
    pub sense: Bytes,
    /// Data-in received.
    pub data_in: Bytes,
    /// Residual as the target reported it.
    pub residual: Residual,
}

impl From<Completion> for Answer {
    fn from(completion: Completion) -> Self {
        let Completion { status, sense, data_in, residual } = completion;
        Self { status, sense, data_in, residual }
    }
}

/// Whom an event of the protocol machine concerns.
#[derive(Debug)]
pub(crate) enum Ticket {
    Command(Promise<Result<Answer, DiskError>>),
    Function(Promise<Result<TaskFunctionResponse, DiskError>>),
}

/// What the session's callers and its background task share.
pub(crate) struct Shared {
    pub(crate) place: Place,
    pub(crate) config: Config,
    pub(crate) options: Options,
    /// The protocol machine of the connection there is now.
    pub(crate) machine: RefCell<Option<Initiator<Ticket>>>,
    /// Wakes the background task when there is something to send.
    pub(crate) waker: RefCell<Option<Waker>>,
    pub(crate) is_woken: Cell<bool>,
    pub(crate) link: Watched<Link>,
    pub(crate) logins: Cell<u64>,
    pub(crate) last_trouble: RefCell<String>,
    pub(crate) is_closing: Cell<bool>,
    origin: Instant,
}

impl Shared {
    pub(crate) fn now(&self) -> Micros {
        Micros(self.origin.elapsed().as_micros() as u64)
    }

    pub(crate) fn instant(&self, at: Micros) -> Option<Instant> {
        self.origin.checked_add(Duration::from_micros(at.0))
    }

    /// Has the background task look at the outgoing queue; once is enough until it did.
    fn kick(&self) {
        if !self.is_woken.replace(true)
            && let Some(waker) = &*self.waker.borrow()
        {
            waker.wake_by_ref();
        }
    }

    pub(crate) fn unreachable(&self) -> DiskError {
        let trouble = self.last_trouble.borrow();
        let why = if trouble.is_empty() { "not logged in yet" } else { &trouble };
        DiskError::Unreachable(format!("{} at {}: {why}", self.place.target, self.place.portal))
    }
}

/// A session. Dropping it closes the connection at once; see [`Session::close`] for the polite way.
pub struct Session {
    shared: Rc<Shared>,
    task: JoinHandle<()>,
}

impl Drop for Session {
    fn drop(&mut self) {
        self.task.abort();
    }
}

pub(crate) fn micros(span: Duration) -> Micros {
    Micros(u64::try_from(span.as_micros()).unwrap_or(u64::MAX))
}

pub(crate) fn config(nexus: Nexus, purpose: Purpose, options: &Options) -> Config {
    Config {
        initiator_name: nexus.initiator_name,
        isid: nexus.isid,
        purpose,
        first_stage: Stage::Operational,
        proof: options.proof.clone(),
        header_digest: options.header_digest,
        data_digest: options.data_digest,
        receive_segment_bytes: RECEIVE_SEGMENT_BYTES,
        data_region: None,
        ping_after: micros(options.ping_after),
        ping_within: micros(options.ping_within),
        login_within: micros(options.login_deadline),
    }
}

impl Session {
    /// Starts connecting in the background and returns at once.
    ///
    /// PANIC: outside a tokio `LocalSet`.
    #[must_use]
    pub fn start(place: Place, nexus: Nexus, options: Options) -> Rc<Self> {
        Self::start_over(Tcp, place, nexus, options)
    }

    /// As [`Session::start`], over another network.
    ///
    /// PANIC: outside a tokio `LocalSet`.
    #[must_use]
    pub fn start_over(network: impl Network, place: Place, nexus: Nexus, options: Options) -> Rc<Self> {
        let config = config(nexus, Purpose::Normal { target: place.target.clone() }, &options);
        let shared = Rc::new(Shared {
            place,
            config,
            options,
            machine: RefCell::new(None),
            waker: RefCell::new(None),
            is_woken: Cell::new(false),
            link: Watched::new(Link::Down),
            logins: Cell::new(0),
            last_trouble: RefCell::new(String::new()),
            is_closing: Cell::new(false),
            origin: Instant::now(),
        });
        let task = tokio::task::spawn_local(connection::run(network, Rc::clone(&shared)));
        Rc::new(Self { shared, task })
    }

    /// Where the target is.
    #[must_use]
    pub fn place(&self) -> &Place {
        &self.shared.place
    }

    /// State of the session; here `epoch` is the number of the login alone.
    #[must_use]
    pub fn link(&self) -> Link {
        self.shared.link.get()
    }

    /// Whether commands are taken now: there is a session, and the target has not asked for its end.
    #[must_use]
    pub fn takes_commands(&self) -> bool {
        self.shared.machine.borrow().as_ref().is_some_and(Initiator::is_logged_in)
    }

    /// The data region that the target uses in the session there is now.
    #[must_use]
    pub fn data_region(&self) -> Option<String> {
        self.shared.machine.borrow().as_ref().and_then(Initiator::data_region).map(str::to_owned)
    }

    /// Waits until [`Session::link`] differs from `seen`.
    pub async fn link_changed(&self, seen: Link) -> Link {
        self.shared.link.until(|link| link.get() != seen).await;
        self.link()
    }

    /// Waits until there is a session, or with [`Reconnect::Never`] until there will be none.
    ///
    /// # Errors
    /// [`DiskError::Unreachable`] if nothing tries to connect any more.
    pub async fn connected(&self) -> Result<(), DiskError> {
        // BOUND: every turn waits for a change of the link.
        while self.link() == Link::Down {
            if self.shared.is_closing.get() {
                return Err(self.shared.unreachable());
            }
            // The background task sets the link also when it gives up.
            self.shared.link.set_after(self.shared.link.version()).await;
        }
        Ok(())
    }

    /// Why the last connection or attempt failed; empty if none did.
    #[must_use]
    pub fn last_trouble(&self) -> String {
        self.shared.last_trouble.borrow().clone()
    }

    /// Carries out one command and returns whatever the target answers: no retries, no reading of the status.
    ///
    /// # Errors
    /// [`DiskError::Unreachable`]: it was not sent. [`DiskError::OutcomeUnknown`]: it was sent, and the session was
    /// lost or the deadline passed before an answer.
    pub fn execute(&self, lun: u64, request: Request) -> impl Future<Output = Result<Answer, DiskError>> + use<> {
        let submitted = self.submit(lun, TaskAttribute::SIMPLE, request);
        async move { submitted?.1.await }
    }

    /// Sends one command and returns the tag it has for [`Session::manage_task`], and its answer as [`Session::execute`] gives it.
    /// Commands are sent in the order of calls.
    ///
    /// # Errors
    /// [`DiskError::Unreachable`]: it was not sent.
    pub fn submit(
        &self,
        lun: u64,
        attribute: TaskAttribute,
        request: Request,
    ) -> Result<(TaskTag, impl Future<Output = Result<Answer, DiskError>> + use<>), DiskError> {
        let mut machine = self.shared.machine.borrow_mut();
        let machine = machine.as_mut().filter(|machine| machine.is_logged_in());
        let machine = machine.ok_or_else(|| self.shared.unreachable())?;
        let (promise, reply) = promise();
        let command = Command {
            ticket: Ticket::Command(promise),
            lun,
            attribute,
            cdb: request.cdb,
            transfer: request.transfer,
            deadline: self.shared.now().plus(micros(request.deadline)),
        };
        let refused = |_| DiskError::Unreachable("too many commands under way".to_owned());
        let tag = machine.submit(command).map_err(refused)?;
        self.shared.kick();
        Ok((tag, reply))
    }

    /// Carries out a task management function on a logical unit.
    ///
    /// # Errors
    /// As [`Session::execute`].
    pub async fn manage(&self, lun: u64, function: TaskFunction) -> Result<TaskFunctionResponse, DiskError> {
        self.manage_task(lun, function, None).await
    }

    /// The same, for a function that names a command of this session.
    ///
    /// # Errors
    /// As [`Session::execute`].
    pub async fn manage_task(
        &self,
        lun: u64,
        function: TaskFunction,
        referenced: Option<TaskTag>,
    ) -> Result<TaskFunctionResponse, DiskError> {
        let (promise, reply) = promise();
        {
            let mut machine = self.shared.machine.borrow_mut();
            let machine = machine.as_mut().ok_or_else(|| self.shared.unreachable())?;
            let deadline = self.shared.now().plus(micros(self.shared.options.command_deadline));
            let ticket = Ticket::Function(promise);
            let management = Management { ticket, function, lun, referenced, deadline };
            machine.manage(management).map_err(|_| self.shared.unreachable())?;
        }
        self.shared.kick();
        reply.await
    }

    /// Logs out, after waiting for the commands under way, and stays closed. Returns when the connection is closed,
    /// at the latest after the time allowed for a login.
    pub async fn close(&self) {
        self.shared.is_closing.set(true);
        if let Some(machine) = self.shared.machine.borrow_mut().as_mut() {
            machine.log_out();
        }
        self.shared.kick();
        let down = async {
            while let seen @ Link::Connected { .. } = self.link() {
                self.link_changed(seen).await;
            }
        };
        // Too late is as good as closed: the abort below closes the socket.
        _ = tokio::time::timeout(self.shared.options.login_deadline, down).await;
        self.task.abort();
    }
}
