//! The target's half of an iSCSI connection: bytes in, PDUs out, commands to execute.
//!
//! It is RFC 7143 with ErrorRecoveryLevel 0 and one connection a session, so a session and its connection live and die
//! together. It is no socket, no clock and no SCSI device.
//!
//! How it is driven: bytes go in with [`TargetConnection::handle_input`], which stops whenever it has something to
//! ask; the shell then takes every [`Event`] from [`TargetConnection::poll_event`] and answers those that ask
//! (`Command`, `TargetsAsked`) before it goes on. What has to be sent accumulates in
//! [`TargetConnection::outgoing`]. Time comes in as an argument; [`TargetConnection::poll_deadline`] says when
//! [`TargetConnection::handle_deadline`] wants to be called. When [`TargetConnection::end`] is set, the shell sends
//! what is left and closes.
//!
//! Whatever bytes arrive, the worst that happens is the end of this connection, with the status or Reject that the
//! RFC names. Everything is bounded by [`Limits`].

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use thiserror::Error;
use understudy_iscsi::codes::{AsyncEvent, TaskAttribute, TaskFunction, TaskFunctionResponse};
use understudy_iscsi::login::LoginStatus;
use understudy_iscsi::request::LoginRequest;
use understudy_iscsi::response::{AsyncMessage, LoginResponse, NopIn};
use understudy_iscsi::serial::{Cid, TaskTag, TransferTag, Tsih};
use understudy_iscsi::text::KeyList;
use understudy_iscsi::{Advertised, Frame, FrameDecoder, FrameError, Outgoing};

use crate::Micros;
pub use crate::credentials::Chance;

pub mod access;
mod commands;
mod full;
mod login;
pub mod parameters;
mod reply;
mod security;
mod text;
mod transfer;
mod wire;

use access::{Access, Refusal};
use full::FullFeature;
use login::{Login, Refused, Step};
use parameters::Offer;
use security::Security;
use wire::Wire;

pub use login::LoginAsked;
pub use parameters::SessionKind;
pub use reply::Reply;
pub use text::{TargetEntry, TargetsWanted};

/// What one connection may use up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Commands that may be outstanding: the depth of the CmdSN window.
    pub window: u32,
    /// SCSI commands marked immediate that may be outstanding beside them.
    pub immediate_commands: u32,
    /// Task management functions that may be outstanding.
    pub task_functions: u32,
    /// Bytes of data that commands under way may hold. One command is always let through. As many again may have come unasked, of
    /// commands that wait for their turn; what comes beyond that is answered with TASK SET FULL.
    pub memory_bytes: u64,
    /// How long a login may take, waiting for the shell not counted.
    pub login: Micros,
    /// How long a discovery session may last: who asks what targets there are needs a moment, not a session.
    pub discovery: Micros,
    /// Silence after which the initiator is pinged.
    pub ping_after: Micros,
    /// Silence after a ping after which the connection is given up.
    pub ping_timeout: Micros,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            // Deep enough that one connection keeps a fast medium busy; initiators seldom queue more on one LUN.
            window: 128,
            immediate_commands: 16,
            task_functions: 16,
            memory_bytes: 32 << 20,
            login: Micros::from_seconds(15),
            discovery: Micros::from_seconds(60),
            // open-iscsi pings every 5 s by itself; we only look for dead peers of silent initiators.
            ping_after: Micros::from_seconds(15),
            ping_timeout: Micros::from_seconds(15),
        }
    }
}

/// How a connection is set up.
#[derive(Debug, Clone, Default)]
pub struct Setup {
    /// What we agree to at login.
    pub offer: Offer,
    /// Bounds.
    pub limits: Limits,
    /// Tags of the portal group the connection came in by.
    pub portal_groups: PortalGroups,
    /// Who may log in.
    pub access: Arc<Access>,
    /// Random bytes, drawn for this connection alone. Without them nobody can prove who it is, and who has to is refused.
    pub chance: Option<Chance>,
}

/// The tags of one portal group: a target numbers its groups by itself, so the same portals may have another tag in each.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PortalGroups {
    /// Tag in every target that is not named in `of`.
    pub usual: u16,
    /// Tags in single targets, by name in lower case.
    pub of: BTreeMap<String, u16>,
}

impl From<u16> for PortalGroups {
    fn from(usual: u16) -> Self {
        Self { usual, of: BTreeMap::new() }
    }
}

impl PortalGroups {
    /// The tag in this target.
    #[must_use]
    pub fn tag_in(&self, target: &str) -> u16 {
        self.of.get(&target.to_ascii_lowercase()).copied().unwrap_or(self.usual)
    }
}

/// A SCSI command that has arrived, in CmdSN order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CommandArrived {
    /// Initiator task tag.
    pub tag: TaskTag,
    /// Logical unit number, the eight bytes as a big-endian number.
    pub lun: u64,
    /// Task attribute.
    pub attribute: TaskAttribute,
    /// First 16 bytes of the CDB.
    pub cdb: [u8; 16],
    /// Bytes of data-out the initiator has; 0 if the command is no write.
    pub data_out_offered: u32,
    /// Bytes of data-in the initiator has room for; 0 if the command is no read.
    pub data_in_room: u32,
    /// Where in its data region it has them, or that room, if it says so and one was agreed on.
    pub advertised: Option<Advertised>,
}

/// Something the shell has to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Everything is agreed: answer with [`TargetConnection::admit`], [`TargetConnection::refuse`] or
    /// [`TargetConnection::redirect`], whenever.
    LoginAsked(LoginAsked),
    /// Answer with [`TargetConnection::targets`] at once.
    TargetsAsked(TargetsWanted),
    /// Put it into the task set and say so with [`TargetConnection::begun`] at once.
    Command(CommandArrived),
    /// All data-out of a begun command is there: execute it.
    DataArrived {
        /// Which.
        tag: TaskTag,
        /// Its data-out.
        data: Bytes,
    },
    /// The data-out of a begun command is in the initiator's data region: fetch it and say so with [`TargetConnection::fetched`].
    FetchData {
        /// Which.
        tag: TaskTag,
        /// From where; as much as is wanted.
        from: Advertised,
    },
    /// A begun command was ended here, because its data-out was unusable: forget it.
    CommandFailed {
        /// Which.
        tag: TaskTag,
    },
    /// Do it and answer with [`TargetConnection::function_done`].
    TaskManagement {
        /// Tag of the request.
        tag: TaskTag,
        /// One of ABORT TASK to TARGET COLD RESET without CLEAR ACA.
        function: TaskFunction,
        /// Logical unit number, raw.
        lun: u64,
        /// Tag of the task meant by ABORT TASK.
        referenced: TaskTag,
    },
    /// End the nexus and its tasks, then call [`TargetConnection::logged_out`].
    LogoutAsked,
}

/// What to do with a command that was begun.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Begun {
    /// Execute it now with this data-out.
    Execute(Bytes),
    /// Wait for [`Event::DataArrived`] or [`Event::CommandFailed`].
    Later,
    /// It has been answered already: forget it.
    Refused,
}

/// Why a connection is over.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum End {
    /// The initiator logged out.
    #[error("logged out")]
    LoggedOut,
    /// The login was refused with this status.
    #[error("login refused with status {:02x}{:02x}h", .0.class, .0.detail)]
    LoginRefused(LoginStatus),
    /// The initiator may not log in, or did not prove that it is who it says.
    #[error("{0}")]
    NotLetIn(Refusal),
    /// The login took too long.
    #[error("login not finished in time")]
    LoginTimeout,
    /// A discovery session went on and on.
    #[error("discovery session not over in time")]
    DiscoveryOverdue,
    /// The initiator no longer answers.
    #[error("initiator does not answer pings")]
    Silent,
    /// It did not log out when asked to.
    #[error("initiator was asked to log out and did not")]
    LogoutOverdue,
    /// It broke a rule that leaves nothing to go on with.
    #[error("protocol error: {0}")]
    Protocol(&'static str),
    /// The byte stream cannot be read any further.
    #[error("unreadable byte stream: {0}")]
    Frame(FrameError),
    /// The shell ended it.
    #[error("closed by the target")]
    Dropped,
}

#[derive(Debug)]
enum Phase {
    Login(Box<Login>),
    /// The shell has been asked; nothing is read until it answers.
    Asked {
        login: Box<Login>,
        cid: Cid,
        response: Box<LoginResponse>,
    },
    FullFeature(Box<FullFeature>),
    Ended(End),
}

/// One connection.
#[derive(Debug)]
pub struct TargetConnection {
    setup: Setup,
    decoder: FrameDecoder,
    wire: Wire,
    phase: Phase,
    /// The initiator's name, once it was let in.
    initiator: String,
    events: VecDeque<Event>,
    /// Frames that came early and whose turn has come.
    released: VecDeque<Frame>,
    started: Micros,
    heard: Micros,
    pinged: Option<Micros>,
    /// When it has to be over: a logout was asked for, or it is a discovery session.
    leave_by: Option<Micros>,
}

impl TargetConnection {
    /// A connection that was just accepted.
    #[must_use]
    pub fn new(mut setup: Setup, now: Micros) -> Self {
        let security = Security::new(Arc::clone(&setup.access), setup.chance.take());
        let login = Login::new(setup.offer.clone(), core::mem::take(&mut setup.portal_groups), security);
        Self {
            decoder: FrameDecoder::new(login::TEXT_LIMIT),
            wire: Wire::default(),
            phase: Phase::Login(Box::new(login)),
            initiator: String::new(),
            events: VecDeque::new(),
            released: VecDeque::new(),
            started: now,
            heard: now,
            pinged: None,
            leave_by: None,
            setup,
        }
    }

    /// Why it is over, once it is.
    #[must_use]
    pub fn end(&self) -> Option<&End> {
        if let Phase::Ended(end) = &self.phase { Some(end) } else { None }
    }

    /// What has to be sent.
    pub fn outgoing(&mut self) -> &mut Outgoing {
        &mut self.wire.out
    }

    /// The initiator's name; empty before it was let in.
    #[must_use]
    pub fn initiator(&self) -> &str {
        &self.initiator
    }

    /// Whether input is taken now; while a login is held, it is not.
    #[must_use]
    pub fn takes_input(&self) -> bool {
        matches!(self.phase, Phase::Login(_) | Phase::FullFeature(_)) && self.events.is_empty()
    }

    /// Bytes have arrived: the initiator lives.
    pub fn heard(&mut self, now: Micros) {
        self.heard = now;
        self.pinged = None;
    }

    /// Takes PDUs off the front of `buffer` until there is something to ask, or no whole PDU.
    pub fn handle_input(&mut self, buffer: &mut BytesMut) {
        // BOUND: each turn takes a frame off `buffer` or `released`, or moves held frames to `released`.
        while self.takes_input() {
            if let Some(frame) = self.released.pop_front() {
                self.deliver(frame);
                continue;
            }
            if let Phase::FullFeature(full) = &mut self.phase
                && let Some(frames) = full.next_held(&mut self.wire)
            {
                self.released.extend(frames);
                continue;
            }
            match self.decoder.next(buffer) {
                Ok(Some(frame)) => self.take(frame),
                Ok(None) => return,
                Err(error) => self.unreadable(error),
            }
        }
    }

    /// The next thing to do.
    pub fn poll_event(&mut self) -> Option<Event> {
        if let Some(event) = self.events.pop_front() {
            return Some(event);
        }
        let Phase::FullFeature(full) = &mut self.phase else { return None };
        full.next_fetch().or_else(|| full.admit_waiting(&mut self.wire)).or_else(|| full.next_fetch())
    }

    /// Where the initiator's data region is served, if one was agreed on.
    #[must_use]
    pub fn data_region(&self) -> Option<&str> {
        if let Phase::FullFeature(full) = &self.phase { full.agreed.data_region.as_deref() } else { None }
    }

    /// The data region cannot be reached: from now on all data goes by PDUs.
    pub fn forget_data_region(&mut self) {
        if let Phase::FullFeature(full) = &mut self.phase {
            full.agreed.data_region = None;
        }
    }

    /// The data-out that [`Event::FetchData`] asked for. Without it the initiator is asked to send it. Returns whether the command still
    /// wants it and can be executed with it.
    pub fn fetched(&mut self, tag: TaskTag, data: Option<Bytes>) -> Option<Bytes> {
        if let Phase::FullFeature(full) = &mut self.phase { full.fetched(tag, data, &mut self.wire) } else { None }
    }

    fn take(&mut self, frame: Frame) {
        match &mut self.phase {
            Phase::Login(_) => self.take_login(frame),
            Phase::FullFeature(full) => {
                if let Err(end) = full.take(frame, &mut self.wire, &mut self.events) {
                    self.finish(end);
                }
            }
            Phase::Asked { .. } | Phase::Ended(_) => {}
        }
    }

    fn deliver(&mut self, frame: Frame) {
        if let Phase::FullFeature(full) = &mut self.phase
            && let Err(end) = full.deliver(frame, &mut self.wire, &mut self.events)
        {
            self.finish(end);
        }
    }

    fn unreadable(&mut self, error: FrameError) {
        match (&mut self.phase, error) {
            (Phase::FullFeature(full), FrameError::DataDigest(bhs)) => {
                full.damaged(&bhs, &mut self.wire, &mut self.events);
            }
            (Phase::Login(_), _) => self.refuse_request(None, LoginStatus::INITIATOR_ERROR.into()),
            // With a damaged header nobody knows what to reject (RFC 7143 §7.7); a length beyond the limit cannot
            // be skipped without reading it all.
            (_, error) => self.finish(End::Frame(error)),
        }
    }

    fn take_login(&mut self, frame: Frame) {
        let Phase::Login(login) = &mut self.phase else { return };
        let Ok(request) = LoginRequest::decode(frame) else {
            // Before the first login request nothing is answered (RFC 7143 §6.3); a reserved stage is answered.
            self.refuse_request(None, LoginStatus::INVALID_DURING_LOGIN.into());
            return;
        };
        if login.is_first() {
            self.wire.start(request.cmd_sn, request.exp_stat_sn, self.setup.limits.window);
        }
        let window = self.wire.status_window();
        match login.step(&request, window) {
            Ok(Step::Respond(response)) => self.wire.send(response.into_frame()),
            Ok(Step::Ask { asked, response }) => self.ask(asked, response),
            Err(refused) => self.refuse_request(Some(&request), refused),
        }
    }

    fn ask(&mut self, asked: LoginAsked, response: LoginResponse) {
        let placeholder = Phase::Ended(End::Dropped);
        if let Phase::Login(login) = core::mem::replace(&mut self.phase, placeholder) {
            self.phase = Phase::Asked { login, cid: asked.cid, response: Box::new(response) };
            self.events.push_back(Event::LoginAsked(asked));
        }
    }

    fn refuse_request(&mut self, request: Option<&LoginRequest>, refused: Refused) {
        let window = self.wire.window();
        self.wire.send(login::refusal(request, window, refused.status()).into_frame());
        self.finish(match refused {
            Refused::Broken(status) => End::LoginRefused(status),
            Refused::NotLetIn(refusal) => End::NotLetIn(refusal),
        });
    }

    /// Bytes of data that the commands under way may hold: what counts against [`Limits::memory_bytes`].
    #[must_use]
    pub fn memory_used(&self) -> u64 {
        if let Phase::FullFeature(full) = &self.phase { full.memory_used() } else { 0 }
    }

    /// From now on the commands under way may hold so many bytes of data; what they hold already is not taken back.
    pub fn limit_memory(&mut self, bytes: u64) {
        if let Phase::FullFeature(full) = &mut self.phase {
            full.limit_memory(bytes);
        }
    }

    /// The login that was asked about may complete; `tsih` names the new session.
    pub fn admit(&mut self, now: Micros, tsih: Tsih) {
        let placeholder = Phase::Ended(End::Dropped);
        let Phase::Asked { login, cid, response } = core::mem::replace(&mut self.phase, placeholder) else {
            return;
        };
        let (kind, agreed) = login.agreed();
        login.initiator().clone_into(&mut self.initiator);
        let response = LoginResponse { tsih, ..*response };
        self.wire.send(response.into_frame());
        self.decoder.set(agreed.digests, self.setup.offer.receive_data_segment as usize);
        self.wire.digests = agreed.digests;
        self.heard = now;
        self.leave_by = (kind == SessionKind::Discovery).then(|| now.plus(self.setup.limits.discovery));
        self.phase = Phase::FullFeature(Box::new(FullFeature::new(kind, agreed, cid, self.setup.limits.clone())));
    }

    /// The login that was asked about fails.
    pub fn refuse(&mut self, status: LoginStatus) {
        self.refuse_with(status, &KeyList::new());
    }

    /// The login that was asked about belongs to another address, as `address:port`: the initiator is sent there, for now (RFC 7143
    /// §11.13.5). A portal group tag has no place in it (§13.8).
    pub fn redirect(&mut self, address: &str) {
        let mut keys = KeyList::new();
        keys.push("TargetAddress", address);
        self.refuse_with(LoginStatus::MOVED_TEMPORARILY, &keys);
    }

    fn refuse_with(&mut self, status: LoginStatus, keys: &KeyList) {
        if let Phase::Asked { response, .. } = &self.phase {
            let text = keys.encode();
            let refusal = LoginResponse { transit: false, tsih: Tsih(0), status, text, ..*response.clone() };
            self.wire.send(refusal.into_frame());
            self.finish(End::LoginRefused(status));
        }
    }

    /// A command has entered the task set and its CDB asks for `data_out_bytes` of data.
    pub fn begun(&mut self, tag: TaskTag, data_out_bytes: u32) -> Begun {
        match &mut self.phase {
            Phase::FullFeature(full) => full.begun(tag, data_out_bytes, &mut self.wire),
            Phase::Login(_) | Phase::Asked { .. } | Phase::Ended(_) => Begun::Refused,
        }
    }

    /// Answers a command.
    pub fn complete(&mut self, tag: TaskTag, reply: Reply) {
        if let Phase::FullFeature(full) = &mut self.phase {
            full.complete(tag, reply, &mut self.wire);
        }
    }

    /// Room in what goes out for `bytes` bytes that this command reads, if its answer is one short PDU with all of them; whoever has filled
    /// it calls [`TargetConnection::complete_placed`] next. It holds bytes of earlier answers.
    pub fn place(&mut self, tag: TaskTag, bytes: usize) -> Option<&mut [u8]> {
        if let Phase::FullFeature(full) = &self.phase { full.place(tag, bytes, &mut self.wire) } else { None }
    }

    /// Answers a command GOOD with the bytes it was given room for.
    pub fn complete_placed(&mut self, tag: TaskTag) {
        if let Phase::FullFeature(full) = &mut self.phase {
            full.complete_placed(tag, &mut self.wire);
        }
    }

    /// A command was aborted: no answer.
    pub fn abandon(&mut self, tag: TaskTag) {
        if let Phase::FullFeature(full) = &mut self.phase {
            full.abandon(tag, &mut self.wire);
        }
    }

    /// Answers a task management request.
    pub fn function_done(&mut self, tag: TaskTag, response: TaskFunctionResponse) {
        if let Phase::FullFeature(full) = &mut self.phase {
            full.function_done(tag, response, &mut self.wire);
        }
    }

    /// Answers SendTargets: with those of `targets` that the initiator may use.
    pub fn targets(&mut self, mut targets: Vec<TargetEntry>) {
        targets.retain(|target| self.setup.access.may_use(&self.initiator, &target.name));
        if let Phase::FullFeature(full) = &mut self.phase {
            full.targets(targets, &mut self.wire);
        }
    }

    /// The nexus is gone: answers the logout and ends.
    pub fn logged_out(&mut self) {
        if let Phase::FullFeature(full) = &mut self.phase {
            full.logged_out(&mut self.wire);
            self.finish(End::LoggedOut);
        }
    }

    /// Asks the initiator to log out (RFC 7143 §11.9); ends the connection if it has not after `within`.
    pub fn request_logout(&mut self, now: Micros, within: Micros) {
        if matches!(self.phase, Phase::FullFeature(_)) && self.leave_by.is_none() {
            let seconds = u16::try_from(within.0.div_ceil(1_000_000)).unwrap_or(u16::MAX);
            self.send_async(AsyncEvent::REQUEST_LOGOUT, [0, 0, seconds]);
            self.leave_by = Some(now.plus(within));
        }
    }

    /// Ends the connection, telling the initiator that all of its session goes and that it may come back at once.
    pub fn drop_session(&mut self) {
        if matches!(self.phase, Phase::FullFeature(_)) {
            self.send_async(AsyncEvent::DROP_SESSION, [0, 0, 0]);
        }
        if self.end().is_none() {
            self.finish(End::Dropped);
        }
    }

    fn send_async(&mut self, event: AsyncEvent, parameters: [u16; 3]) {
        let window = self.wire.status_window();
        let (sense, event_data) = (Bytes::new(), Bytes::new());
        let message = AsyncMessage { event, vendor_code: 0, lun: 0, window, parameters, sense, event_data };
        self.wire.send(message.into_frame());
    }

    fn finish(&mut self, end: End) {
        self.phase = Phase::Ended(end);
        self.events.clear();
        self.released.clear();
    }

    /// When [`TargetConnection::handle_deadline`] wants to be called next.
    #[must_use]
    pub fn poll_deadline(&self) -> Option<Micros> {
        let limits = &self.setup.limits;
        match &self.phase {
            Phase::Login(_) => Some(self.started.plus(limits.login)),
            Phase::FullFeature(_) => {
                let silence = match self.pinged {
                    Some(pinged) => pinged.plus(limits.ping_timeout),
                    None => self.heard.plus(limits.ping_after),
                };
                Some(self.leave_by.map_or(silence, |by| by.min(silence)))
            }
            Phase::Asked { .. } | Phase::Ended(_) => None,
        }
    }

    /// Does what is due.
    pub fn handle_deadline(&mut self, now: Micros) {
        if self.poll_deadline().is_none_or(|deadline| now < deadline) {
            return;
        }
        match &self.phase {
            Phase::Login(_) => self.finish(End::LoginTimeout),
            Phase::FullFeature(full) if self.leave_by.is_some_and(|by| now >= by) => {
                let discovers = full.kind == SessionKind::Discovery;
                self.finish(if discovers { End::DiscoveryOverdue } else { End::LogoutOverdue });
            }
            // A discovery session has no pings; one that is silent has no purpose.
            Phase::FullFeature(full) if full.kind == SessionKind::Discovery => self.finish(End::Silent),
            Phase::FullFeature(_) if self.pinged.is_some() => self.finish(End::Silent),
            Phase::FullFeature(_) => {
                let window = self.wire.window();
                let (tag, transfer_tag) = (TaskTag::RESERVED, TransferTag(0));
                self.wire.send(NopIn { lun: 0, tag, transfer_tag, window, data: Bytes::new() }.into_frame());
                self.pinged = Some(now);
            }
            Phase::Asked { .. } | Phase::Ended(_) => {}
        }
    }
}

#[cfg(test)]
mod tests;
