//! One connection: a socket, the session's machine ([`TargetConnection`]), and the commands under way.
//!
//! The idea: one task per connection whose whole work is one poll function. Each time it is woken it reads what is
//! there, lets the machine cut it into commands, polls the commands, and writes what they answered, until nothing
//! moves any more. So many commands go out and many answers come back per system call, and a command that its medium
//! can do at once costs neither a task nor a wake-up.
//!
//! Not here: any decision about the protocol, or about who may log in.

use std::collections::BTreeMap;
use std::future::Future;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use futures_util::StreamExt;
use futures_util::future::{Either, LocalBoxFuture, select};
use futures_util::stream::FuturesUnordered;
use tokio::io::AsyncReadExt;
use tokio::sync::oneshot;
use tokio::time::{Instant, Sleep};
use understudy_device::{
    Attempt, Completion, NexusHandle, Outcome, Status, Task, TaskAttribute, TaskManagement, TaskManagementResponse,
};
use understudy_iscsi::Advertised;
use understudy_iscsi::codes::{self, TaskFunction, TaskFunctionResponse};
use understudy_iscsi::login::LoginStatus;
use understudy_iscsi::serial::TaskTag;
use understudy_session::Micros;
use understudy_session::target::{Begun, CommandArrived, End, Event, Reply, Setup, TargetConnection};

use crate::control::Order;
use crate::data::DataMover;
use crate::eager::Eager;
use crate::registry::{Admitted, Declined, Enrolled, Registry, Served};
use crate::wire::Wire;

/// Room made for each read: enough for dozens of small PDUs, or most of a large one.
const READ_BYTES: usize = 128 << 10;

/// Bytes read ahead while the machine takes no input (a login is held): a login and nothing more.
const READ_AHEAD_LIMIT: usize = 64 << 10;

/// Slices given to one gathered write. The kernel takes 1024; beyond a few dozen nothing is gained.
const SLICES: usize = 64;

/// Bytes waiting to be sent beyond which nothing more is read: a client that does not read its answers is not served.
const SEND_LIMIT: usize = 4 << 20;

/// So many bytes of short answers are sent although more commands are there to be carried out: about half of what a deep queue of
/// small reads asks for at a time, so that the client works on one half while the other is read. With the last answer it is just below
/// the 64 KiB that the kernel takes through TCP in one piece. Long answers gain nothing by it.
const SEND_EARLY_BYTES: usize = 60 << 10;

/// How long the last words of a connection may take to be sent.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// Why a connection ended, for the log.
#[derive(Debug, thiserror::Error)]
enum Ending {
    #[error("{0}")]
    Session(End),
    #[error("closed by the initiator")]
    Closed,
    #[error("{0}")]
    Socket(io::Error),
    /// This node must not answer any more.
    #[error("the unit is fenced")]
    Fenced,
    #[error("data could not be moved to the initiator's data region")]
    DataNotMoved,
    #[error("dropped by its owner")]
    Dropped,
}

/// Something that ran beside the connection and is done.
enum Done {
    Command {
        tag: TaskTag,
        wanted: u32,
        outcome: Outcome,
    },
    /// Its data never came; it was answered already.
    Forgotten,
    /// What it read is in the initiator's data region, as long as this.
    Moved {
        tag: TaskTag,
        bytes: u32,
    },
    /// What it read may be in the initiator's data region, now or later.
    NotMoved,
    /// Its data-out, from the initiator's data region.
    Fetched {
        tag: TaskTag,
        data: Option<Bytes>,
    },
    Function {
        tag: TaskTag,
        function: TaskFunction,
        response: TaskFunctionResponse,
    },
}

struct Connection<W> {
    stream: W,
    machine: TargetConnection,
    registry: Rc<Registry>,
    enrolled: Enrolled,
    buffer: BytesMut,
    /// To and from the initiator's data region.
    mover: Option<Rc<dyn DataMover>>,
    /// Where there is room for what commands read.
    advertised: BTreeMap<TaskTag, Advertised>,
    /// Commands that wait for their data-out.
    waiting: BTreeMap<TaskTag, oneshot::Sender<Bytes>>,
    running: FuturesUnordered<LocalBoxFuture<'static, Done>>,
    admission: Option<LocalBoxFuture<'static, Result<Admitted, Declined>>>,
    admitted: Option<Admitted>,
    nexus: Option<Rc<NexusHandle>>,
    leaving: Option<LocalBoxFuture<'static, ()>>,
    alarm: Pin<Box<Sleep>>,
    armed: Option<Micros>,
    local: SocketAddr,
    now: Instant,
    eager: Option<Rc<Eager>>,
}

/// Serves one connection to its end.
pub(crate) async fn serve<W: Wire>(stream: W, peer: SocketAddr, registry: Rc<Registry>, enrolled: Enrolled) {
    // A socket that died before we looked has no address and needs no service.
    let Ok(local) = stream.local_addr() else { return };
    stream.send_at_once();
    enrolled.control.comes_from(peer);
    let mut connection = Connection::new(stream, local, registry, enrolled);
    let ending = std::future::poll_fn(|context| connection.poll(context)).await;
    connection.note(peer, &ending);
    connection.wind_up(&ending).await;
}

impl<W: Wire> Connection<W> {
    fn new(stream: W, local: SocketAddr, registry: Rc<Registry>, enrolled: Enrolled) -> Self {
        let now = Instant::now();
        let setup = Setup {
            offer: registry.offer(),
            limits: registry.options.limits.clone(),
            portal_groups: registry.portal_groups(),
            access: Arc::clone(&registry.options.access),
            chance: if registry.options.access.demands_proofs() { (registry.options.chance)() } else { None },
        };
        let machine = TargetConnection::new(setup, micros(registry.started, now));
        let eager = registry.eager();
        Self {
            stream,
            machine,
            registry,
            enrolled,
            buffer: BytesMut::new(),
            mover: None,
            advertised: BTreeMap::new(),
            waiting: BTreeMap::new(),
            running: FuturesUnordered::new(),
            admission: None,
            admitted: None,
            nexus: None,
            leaving: None,
            alarm: Box::pin(tokio::time::sleep(Duration::ZERO)),
            armed: None,
            local,
            now,
            eager,
        }
    }

    /// Everything: ready when the connection is over.
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Ending> {
        self.now = Instant::now();
        if let Some(order) = self.enrolled.control.poll_order(context)
            && let Err(ending) = self.obey(order)
        {
            return Poll::Ready(ending);
        }
        let mut moved = false;
        // BOUND: tokio's budget makes the socket pending now and then even if it never runs dry.
        loop {
            match self.turn(context) {
                Ok(true) => moved = true,
                Ok(false) => break,
                Err(ending) => return Poll::Ready(ending),
            }
        }
        if moved {
            self.tell_eager();
        }
        if self.poll_alarm(context).is_ready() {
            context.waker().wake_by_ref();
        }
        match self.machine.end() {
            Some(end) => Poll::Ready(Ending::Session(end.clone())),
            None => Poll::Pending,
        }
    }

    /// Something came; more may come at once.
    fn tell_eager(&self) {
        if let Some(eager) = &self.eager {
            eager.came(self.now.into_std());
            eager.waits(Instant::now().into_std());
        }
    }

    /// One round of reading, executing and writing; whether anything moved.
    fn turn(&mut self, context: &mut Context<'_>) -> Result<bool, Ending> {
        let mut moved = self.poll_read(context)?;
        if moved {
            let now = self.micros();
            self.machine.heard(now);
            self.machine.limit_memory(self.registry.memory_share());
            self.machine.handle_input(&mut self.buffer);
        }
        moved |= self.take_events(context)?;
        moved |= self.poll_running(context)?;
        self.enrolled.uses_memory(self.machine.memory_used());
        moved |= self.poll_admission(context);
        if let Some(leaving) = &mut self.leaving
            && leaving.as_mut().poll(context).is_ready()
        {
            self.leaving = None;
            self.machine.logged_out();
        }
        moved |= self.poll_write(context).map_err(Ending::Socket)?;
        Ok(moved && self.machine.end().is_none())
    }

    fn obey(&mut self, order: Order) -> Result<(), Ending> {
        match order {
            Order::RequestLogout => {
                let within = Micros(u64::try_from(self.registry.options.logout_within.as_micros()).unwrap_or(u64::MAX));
                let now = self.micros();
                self.machine.request_logout(now, within);
                Ok(())
            }
            Order::DropAnnounced => {
                self.machine.drop_session();
                Ok(())
            }
            Order::Dismiss => {
                self.machine.drop_session();
                Err(Ending::Dropped)
            }
            Order::Drop => Err(Ending::Dropped),
        }
    }

    /// Reads once; whether bytes came.
    fn poll_read(&mut self, context: &mut Context<'_>) -> Result<bool, Ending> {
        let held_up = !self.machine.takes_input() && self.buffer.len() >= READ_AHEAD_LIMIT;
        if held_up || self.machine.outgoing().len() > SEND_LIMIT || self.machine.end().is_some() {
            return Ok(false);
        }
        // Asking for a little more than the rest keeps a buffer in use until it is nearly full.
        if self.buffer.capacity() - self.buffer.len() < READ_BYTES / 8 {
            self.buffer.reserve(READ_BYTES);
        }
        match pin!(self.stream.read_buf(&mut self.buffer)).poll(context) {
            Poll::Ready(Ok(0)) => Err(Ending::Closed),
            Poll::Ready(Ok(_)) => Ok(true),
            Poll::Ready(Err(error)) => Err(Ending::Socket(error)),
            Poll::Pending => Ok(false),
        }
    }

    /// Does what the machine asks for and feeds it until it asks for nothing; whether there was anything.
    fn take_events(&mut self, context: &mut Context<'_>) -> Result<bool, Ending> {
        let mut moved = false;
        // BOUND: every event takes a PDU off the buffer, or a command off the machine's queue.
        while let Some(event) = self.machine.poll_event() {
            moved = true;
            match event {
                Event::Command(arrived) => self.begin(&arrived, context)?,
                Event::DataArrived { tag, data } => {
                    if let Some(sender) = self.waiting.remove(&tag) {
                        // The receiver is gone if the command was aborted meanwhile; it answers by itself.
                        let _ = sender.send(data);
                    }
                }
                Event::FetchData { tag, from } => self.fetch(tag, from),
                Event::CommandFailed { tag } => drop(self.waiting.remove(&tag)),
                Event::TaskManagement { tag, function, lun, referenced } => {
                    self.manage(tag, function, lun, referenced);
                }
                Event::LoginAsked(asked) => {
                    self.enrolled.negotiated();
                    let control = Rc::clone(&self.enrolled.control);
                    self.admission = Some(Box::pin(Rc::clone(&self.registry).admit(control, asked)));
                }
                Event::TargetsAsked(wanted) => {
                    let own = self.admitted.as_ref().and_then(Admitted::target_name);
                    let entries = self.registry.entries(&wanted, self.machine.initiator(), own, self.local);
                    self.machine.targets(entries);
                }
                Event::LogoutAsked => self.leave(),
            }
            if self.machine.outgoing().short_bytes() >= SEND_EARLY_BYTES {
                self.poll_write(context).map_err(Ending::Socket)?;
            }
            self.machine.handle_input(&mut self.buffer);
        }
        Ok(moved)
    }

    fn begin(&mut self, arrived: &CommandArrived, context: &mut Context<'_>) -> Result<(), Ending> {
        let Some(nexus) = &self.nexus else {
            self.machine.abandon(arrived.tag);
            return Ok(());
        };
        let tag = arrived.tag;
        let mut task = nexus.begin(arrived.lun, tag.0, attribute(arrived.attribute), arrived.cdb);
        task.offer(arrived.data_out_offered);
        task.make_room(arrived.data_in_room);
        let wanted = task.data_out_bytes();
        let goes_there = arrived.advertised.filter(|_| arrived.data_in_room > 0);
        if let Some(room) = goes_there {
            self.advertised.insert(tag, room);
        }
        match self.machine.begun(tag, wanted) {
            Begun::Execute(data) => {
                let machine = &mut self.machine;
                let task = match task
                    .attempt(&data, |bytes| if goes_there.is_some() { None } else { machine.place(tag, bytes) })
                {
                    Attempt::Over(outcome) => return self.answer(tag, wanted, outcome),
                    Attempt::Placed => {
                        self.machine.complete_placed(tag);
                        self.count_completed();
                        return Ok(());
                    }
                    Attempt::Waits(task) => task,
                };
                let mut running: LocalBoxFuture<'static, Done> =
                    Box::pin(async move { Done::Command { tag, wanted, outcome: task.execute(data).await } });
                match running.as_mut().poll(context) {
                    Poll::Ready(done) => return self.finish(done),
                    Poll::Pending => self.running.push(running),
                }
            }
            Begun::Later => {
                let (sender, receiver) = oneshot::channel();
                self.waiting.insert(tag, sender);
                self.running.push(Box::pin(execute_later(task, tag, wanted, receiver)));
            }
            Begun::Refused => {
                self.advertised.remove(&tag);
                drop(task);
            }
        }
        Ok(())
    }

    fn fetch(&mut self, tag: TaskTag, from: Advertised) {
        let fetching = self.mover.as_ref().map(|mover| mover.fetch(from));
        self.running.push(Box::pin(async move {
            let data = match fetching {
                Some(fetching) => fetching.await,
                None => None,
            };
            Done::Fetched { tag, data }
        }));
    }

    fn manage(&mut self, tag: TaskTag, function: TaskFunction, lun: u64, referenced: TaskTag) {
        let translated = match function {
            TaskFunction::ABORT_TASK => TaskManagement::AbortTask,
            TaskFunction::ABORT_TASK_SET => TaskManagement::AbortTaskSet,
            TaskFunction::CLEAR_TASK_SET => TaskManagement::ClearTaskSet,
            TaskFunction::LOGICAL_UNIT_RESET => TaskManagement::LogicalUnitReset,
            TaskFunction::TARGET_WARM_RESET => TaskManagement::TargetWarmReset,
            TaskFunction::TARGET_COLD_RESET => TaskManagement::TargetColdReset,
            _unsupported => return self.machine.function_done(tag, TaskFunctionResponse::NOT_SUPPORTED),
        };
        let Some(nexus) = self.nexus.clone() else {
            return self.machine.function_done(tag, TaskFunctionResponse::REJECTED);
        };
        self.running.push(Box::pin(async move {
            let response = match nexus.task_management(translated, lun, referenced.0).await {
                TaskManagementResponse::Complete => TaskFunctionResponse::COMPLETE,
                TaskManagementResponse::TaskDoesNotExist => TaskFunctionResponse::TASK_DOES_NOT_EXIST,
                TaskManagementResponse::LunDoesNotExist => TaskFunctionResponse::LUN_DOES_NOT_EXIST,
                TaskManagementResponse::NotAuthorized => TaskFunctionResponse::NOT_AUTHORIZED,
            };
            Done::Function { tag, function, response }
        }));
    }

    fn poll_running(&mut self, context: &mut Context<'_>) -> Result<bool, Ending> {
        let mut moved = false;
        // BOUND: the commands under way; new ones come only with the next read.
        while !self.running.is_empty() {
            let Poll::Ready(Some(done)) = self.running.poll_next_unpin(context) else { break };
            self.finish(done)?;
            moved = true;
        }
        Ok(moved)
    }

    fn finish(&mut self, done: Done) -> Result<(), Ending> {
        match done {
            Done::Command { tag, wanted, outcome } => {
                self.waiting.remove(&tag);
                self.answer(tag, wanted, outcome)?;
            }
            Done::Forgotten => {}
            Done::Moved { tag, bytes } => {
                self.machine.complete(tag, Reply { data_in_moved: bytes, ..Reply::good() });
                self.count_completed();
            }
            // The initiator takes that memory out of use when its session ends unanswered.
            Done::NotMoved => return Err(Ending::DataNotMoved),
            Done::Fetched { tag, data } => {
                if let Some(data) = self.machine.fetched(tag, data)
                    && let Some(sender) = self.waiting.remove(&tag)
                {
                    // As for data that came by the connection.
                    let _ = sender.send(data);
                }
            }
            Done::Function { tag, function, response } => {
                self.machine.function_done(tag, response);
                if function == TaskFunction::TARGET_COLD_RESET
                    && response == TaskFunctionResponse::COMPLETE
                    && let Some(name) = self.admitted.as_ref().and_then(Admitted::target_name)
                {
                    self.registry.order_all_of(name, Order::DropAnnounced);
                }
            }
        }
        Ok(())
    }

    fn answer(&mut self, tag: TaskTag, wanted: u32, outcome: Outcome) -> Result<(), Ending> {
        match outcome {
            Outcome::Completed(completion) => self.complete(tag, completion, wanted),
            Outcome::Carried { completion, data_out_wanted } => self.complete(tag, completion, data_out_wanted),
            Outcome::Aborted => {
                self.advertised.remove(&tag);
                self.machine.abandon(tag);
            }
            Outcome::Fenced => return Err(Ending::Fenced),
        }
        Ok(())
    }

    fn complete(&mut self, tag: TaskTag, completion: Completion, data_out_wanted: u32) {
        if let Some(room) = self.advertised.remove(&tag)
            && completion.status == Status::Good
            && !completion.data_in.is_empty()
            && let Some(mover) = &self.mover
        {
            let bytes = u32::try_from(completion.data_in.len()).unwrap_or(u32::MAX);
            let mut data = completion.data_in;
            data.truncate(room.length as usize);
            let moving = mover.put(room, data);
            return self
                .running
                .push(Box::pin(async move { if moving.await { Done::Moved { tag, bytes } } else { Done::NotMoved } }));
        }
        let reply = Reply {
            status: completion.status as u8,
            sense: completion.sense.unwrap_or_default(),
            data_in: completion.data_in,
            data_out_wanted,
            data_in_moved: 0,
        };
        self.machine.complete(tag, reply);
        self.count_completed();
    }

    fn count_completed(&self) {
        self.registry.activity.completed(self.now);
        if let Some(Served { activity, .. }) = self.admitted.as_ref().and_then(|a| a.served.as_ref()) {
            activity.completed(self.now);
        }
    }

    fn poll_admission(&mut self, context: &mut Context<'_>) -> bool {
        let Some(admission) = &mut self.admission else { return false };
        let Poll::Ready(decision) = admission.as_mut().poll(context) else { return false };
        self.admission = None;
        match decision {
            Ok(mut admitted) => {
                self.nexus = admitted.nexus.take().map(Rc::new);
                let now = self.micros();
                self.machine.admit(now, admitted.tsih);
                self.admitted = Some(admitted);
                self.reach_data_region();
                // What came behind the login request can be handled now.
                self.machine.handle_input(&mut self.buffer);
            }
            Err(Declined::Status(status)) => self.machine.refuse(status),
            Err(Declined::Elsewhere(address)) => self.machine.redirect(&address.to_string()),
        }
        true
    }

    fn reach_data_region(&mut self) {
        let Some(region) = self.machine.data_region() else { return };
        self.mover = self.registry.options.data.as_ref().and_then(|reach| reach.mover(region));
        if self.mover.is_none() {
            self.machine.forget_data_region();
        }
    }

    /// Ends the nexus before the logout is answered.
    fn leave(&mut self) {
        let nexus = self.release_nexus();
        self.leaving = Some(Box::pin(async move {
            if let Some(nexus) = nexus {
                nexus.close().await;
            }
        }));
    }

    /// The nexus, with nothing left that uses it.
    fn release_nexus(&mut self) -> Option<NexusHandle> {
        self.waiting.clear();
        self.running = FuturesUnordered::new();
        self.nexus.take().and_then(Rc::into_inner)
    }

    /// Sends as much as the socket takes; whether it took anything, so that there may be room for more commands.
    fn poll_write(&mut self, context: &mut Context<'_>) -> io::Result<bool> {
        let out = self.machine.outgoing();
        let before = out.len();
        // BOUND: each turn sends at least one byte, or the socket is full.
        while !out.is_empty() {
            let mut slices = [IoSlice::new(&[]); SLICES];
            let used = out.chunks_vectored(&mut slices);
            match Pin::new(&mut self.stream).poll_write_vectored(context, &slices[..used]) {
                Poll::Ready(Ok(0)) => return Err(io::ErrorKind::WriteZero.into()),
                Poll::Ready(Ok(sent)) => out.advance(sent),
                Poll::Ready(Err(error)) => return Err(error),
                Poll::Pending => break,
            }
        }
        Ok(out.len() < before)
    }

    /// Keeps the alarm at or before the machine's deadline. Ready when the machine was called.
    fn poll_alarm(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let Some(deadline) = self.machine.poll_deadline() else {
            return Poll::Pending;
        };
        if self.armed.is_none_or(|armed| deadline < armed) {
            self.arm(deadline);
        }
        ready!(self.alarm.as_mut().poll(context));
        self.armed = None;
        self.now = Instant::now();
        let now = self.micros();
        self.machine.handle_deadline(now);
        Poll::Ready(())
    }

    fn arm(&mut self, deadline: Micros) {
        self.alarm.as_mut().reset(self.registry.started + Duration::from_micros(deadline.0));
        self.armed = Some(deadline);
    }

    fn micros(&self) -> Micros {
        micros(self.registry.started, self.now)
    }

    fn note(&self, peer: SocketAddr, ending: &Ending) {
        let target = self.admitted.as_ref().and_then(Admitted::target_name).unwrap_or("none");
        let expected = match ending {
            Ending::Session(End::LoggedOut | End::Dropped | End::LoginRefused(LoginStatus::MOVED_TEMPORARILY))
            | Ending::Dropped => true,
            Ending::Closed => self.admitted.as_ref().is_none_or(|admitted| !admitted.is_normal()),
            Ending::Session(_) | Ending::Socket(_) | Ending::Fenced | Ending::DataNotMoved => false,
        };
        if expected {
            tracing::debug!(%peer, target, reason = %ending, "connection over");
        } else if let Ending::Session(End::NotLetIn(refusal)) = ending {
            tracing::warn!(%peer, "{refusal}");
        } else {
            self.registry.failed_sessions.set(self.registry.failed_sessions.get() + 1);
            tracing::info!(%peer, target, reason = %ending, "connection ended");
        }
    }

    /// Ends the nexus and the socket. Others who wait for the end of this connection wait only for the nexus.
    async fn wind_up(mut self, ending: &Ending) {
        self.admission = None;
        self.leaving = None;
        let nexus = self.release_nexus();
        match ending {
            Ending::Session(_) => {
                self.close_nexus(nexus).await;
                let words = std::future::poll_fn(|context| self.poll_last_words(context));
                // A socket that does not take them in time, or fails, is closed all the same.
                let _ = tokio::time::timeout(LAST_WORDS, words).await;
                self.stream.end_in_order();
            }
            Ending::Dropped | Ending::Closed | Ending::Socket(_) | Ending::Fenced | Ending::DataNotMoved => {
                if matches!(ending, Ending::Dropped) {
                    // What was answered goes out as far as the socket takes it: the client is to come back now.
                    let _ = std::future::poll_fn(|context| Poll::Ready(self.poll_write(context))).await;
                }
                let Self { stream, admitted, enrolled, .. } = self;
                stream.end_in_order();
                if let Some(nexus) = nexus {
                    nexus.close().await;
                }
                drop((admitted, enrolled));
            }
        }
    }

    async fn close_nexus(&mut self, nexus: Option<NexusHandle>) {
        if let Some(nexus) = nexus {
            nexus.close().await;
        }
        self.admitted = None;
        self.enrolled.control.is_over();
    }

    fn poll_last_words(&mut self, context: &mut Context<'_>) -> Poll<()> {
        match self.poll_write(context) {
            Ok(_) if !self.machine.outgoing().is_empty() => Poll::Pending,
            Ok(_) | Err(_) => Poll::Ready(()),
        }
    }
}

/// Waits for the data-out of a task, or for its abort, and executes it.
async fn execute_later(task: Task, tag: TaskTag, wanted: u32, data: oneshot::Receiver<Bytes>) -> Done {
    let arrived = {
        let aborted = pin!(task.aborted());
        match select(data, aborted).await {
            Either::Left((Ok(data), _)) => Some(data),
            Either::Left((Err(_ended), _)) => return Done::Forgotten,
            Either::Right(_) => None,
        }
    };
    Done::Command { tag, wanted, outcome: task.execute(arrived.unwrap_or_default()).await }
}

fn attribute(code: codes::TaskAttribute) -> TaskAttribute {
    match code {
        codes::TaskAttribute::ORDERED => TaskAttribute::Ordered,
        codes::TaskAttribute::HEAD_OF_QUEUE => TaskAttribute::HeadOfQueue,
        // Untagged is what initiators send that know no attributes; ACA tasks exist only while an ACA condition
        // does, and no unit here establishes one (NormACA is refused).
        _untagged_or_simple => TaskAttribute::Simple,
    }
}

fn micros(started: Instant, now: Instant) -> Micros {
    Micros(u64::try_from(now.saturating_duration_since(started).as_micros()).unwrap_or(u64::MAX))
}
