//! The initiator's half of one iSCSI session with one connection, without sockets and clocks (RFC 7143,
//! ErrorRecoveryLevel 0).
//!
//! Not here: the connection, reconnection, retries, the meaning of a SCSI status. The one idea: an [`Initiator`] lives
//! exactly as long as one TCP connection. Bytes go in by [`Initiator::receive`], bytes come out of
//! [`Initiator::outgoing`], what happened comes out of [`Initiator::poll_event`]; when the connection is lost,
//! [`Initiator::abandon`] consumes it and says of every command whether it was sent. A command therefore cannot be
//! replayed on another connection: no value that could do it survives. The ISID is the configuration's and is the same
//! in every session made from it, because persistent reservations are bound to it.

mod discovery;
mod login;
mod negotiation;
mod security;
mod tasks;

#[cfg(test)]
mod tests;

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};
use thiserror::Error;
use understudy_iscsi::codes::{
    AsyncEvent, LogoutReason, LogoutResponseCode, RejectReason, Residual, ServiceResponse, TaskAttribute, TaskFunction,
    TaskFunctionResponse,
};
use understudy_iscsi::login::{LoginStatus, Stage};
use understudy_iscsi::request::{LogoutRequest, NopOut};
use understudy_iscsi::response::{AsyncMessage, NopIn, Window};
use understudy_iscsi::serial::{Cid, CmdSn, Isid, StatSn, TaskTag, TransferTag};
use understudy_iscsi::{Advertised, Digests, Frame, FrameDecoder, FrameError, Malformed, Outgoing, TargetPdu};

pub use discovery::DiscoveredTarget;
pub use negotiation::Parameters;
pub use security::{Proof, Unproved};
use tasks::Tasks;

use crate::Micros;
use crate::credentials::Chance;

/// What a session is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Purpose {
    /// Commands to the logical units of one target.
    Normal {
        /// iSCSI name of the target.
        target: String,
    },
    /// SendTargets only.
    Discovery,
}

/// What to propose for a digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DigestOffer {
    /// No digest.
    #[default]
    None,
    /// CRC32C if the target can.
    Prefer,
    /// CRC32C or no session.
    Demand,
}

/// Everything that stays the same from session to session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// iSCSI name of this initiator.
    pub initiator_name: String,
    /// Initiator session identifier; with the name, the initiator port that reservations are bound to.
    pub isid: Isid,
    /// What for.
    pub purpose: Purpose,
    /// Stage the login starts in: [`Stage::Operational`] saves a round trip, [`Stage::Security`] suits targets that
    /// insist on negotiating AuthMethod.
    /// With a proof it is [`Stage::Security`] whatever stands here.
    pub first_stage: Stage,
    /// Who proves what; without it this end has nothing to prove and asks for nothing.
    pub proof: Option<Proof>,
    /// Header digest.
    pub header_digest: DigestOffer,
    /// Data digest.
    pub data_digest: DigestOffer,
    /// MaxRecvDataSegmentLength to declare, in bytes.
    pub receive_segment_bytes: u32,
    /// A ping is sent after this much silence of the target in full feature phase.
    pub ping_after: Micros,
    /// The session is lost if a ping is not answered within this time.
    pub ping_within: Micros,
    /// The session is lost if login takes longer than this.
    pub login_within: Micros,
    /// Where this end's memory is served, for a target that moves data by RDMA ([`understudy_iscsi::advertised`]).
    pub data_region: Option<String>,
}

/// Data of a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Transfer {
    /// None.
    None,
    /// Data-in of up to this many bytes.
    Read(u32),
    /// Data-out.
    Write(Bytes),
    /// Data-in of up to this many bytes, for which there is room in the data region. It comes by RDMA or all the same by Data-In.
    ReadInto(u32, Advertised),
    /// Data-out, which lies in the data region as well: nothing of it is sent unless the target asks for it.
    WriteFrom(Bytes, Advertised),
}

/// A SCSI command to carry out. `T` is the caller's ticket, returned with the outcome.
#[derive(Debug, Clone)]
pub struct Command<T> {
    /// Returned with the outcome.
    pub ticket: T,
    /// Logical unit number, raw.
    pub lun: u64,
    /// Task attribute.
    pub attribute: TaskAttribute,
    /// CDB, zero-padded.
    pub cdb: [u8; 16],
    /// Data.
    pub transfer: Transfer,
    /// When to give up on it: see [`Initiator::timeouts`].
    pub deadline: Micros,
}

/// A task management function to carry out.
#[derive(Debug, Clone)]
pub struct Management<T> {
    /// Returned with the response.
    pub ticket: T,
    /// What to do.
    pub function: TaskFunction,
    /// Logical unit number, raw.
    pub lun: u64,
    /// Task to abort, for ABORT TASK.
    pub referenced: Option<TaskTag>,
    /// When to give up on it.
    pub deadline: Micros,
}

/// How a command ended at the target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Completion {
    /// SCSI status byte.
    pub status: u8,
    /// Sense data; empty if none.
    pub sense: Bytes,
    /// Data-in received.
    pub data_in: Bytes,
    /// Residual as the target reported it.
    pub residual: Residual,
}

/// What is known of a command without an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// Nothing of it left this node: certainly not carried out.
    NotSent,
    /// It may have been carried out, and may still be.
    Unknown,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event<T> {
    /// Full feature phase reached.
    LoggedIn(Parameters),
    /// A command was answered.
    Completed {
        /// The command's.
        ticket: T,
        /// The answer.
        completion: Completion,
    },
    /// A command ended without a SCSI status: the target's service failed, or task management aborted it.
    Ended {
        /// The command's.
        ticket: T,
        /// Whether it may have been carried out. Aborted commands can no longer be.
        fate: Fate,
    },
    /// A task management function was answered.
    Managed {
        /// The function's.
        ticket: T,
        /// The answer.
        response: TaskFunctionResponse,
    },
    /// The whole answer to SendTargets.
    Targets(Vec<DiscoveredTarget>),
    /// A SCSI asynchronous event.
    SenseReported {
        /// Logical unit number, raw.
        lun: u64,
        /// Sense data.
        sense: Bytes,
    },
    /// The target asked for a logout: no command is sent any more, those sent are waited for, then
    /// [`Event::LoggedOut`] follows.
    LogoutRequested,
    /// The session has ended in order; the connection is to be closed.
    LoggedOut,
}

/// Why a session is lost.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SessionLost {
    /// The byte stream cannot be framed.
    #[error("unreadable stream: {0}")]
    Frame(#[from] FrameError),
    /// A PDU does not decode.
    #[error("malformed PDU: {0}")]
    Malformed(#[from] Malformed),
    /// The target broke a rule of the protocol.
    #[error("protocol error: {0}")]
    Protocol(&'static str),
    /// The target refused the login.
    #[error("login refused with status {:02x}{:02x}h{}{}", status.class, status.detail, login::advice(*status), address.as_ref().map_or(String::new(), |at| format!(", moved to {at}")))]
    LoginRefused {
        /// Class and detail.
        status: LoginStatus,
        /// TargetAddress of a redirection.
        address: Option<String>,
    },
    /// The two ends did not prove to each other who they are.
    #[error("no login: {0}")]
    Unproved(#[from] Unproved),
    /// The target rejected a PDU.
    #[error("a PDU with opcode {opcode:#04x} was rejected with reason {:#04x}", reason.0)]
    Rejected {
        /// Why.
        reason: RejectReason,
        /// Opcode of what was rejected.
        opcode: u8,
    },
    /// The target announced that it drops the connection.
    #[error("the target dropped the session (asynchronous event {})", .0.0)]
    Dropped(AsyncEvent),
    /// A ping was not answered in time.
    #[error("the target did not answer a ping in time")]
    Silent,
    /// The login did not end in time.
    #[error("the login did not end in time")]
    LoginTooSlow,
    /// A command that had been sent was not answered by its deadline.
    #[error("a command was not answered by its deadline")]
    CommandTooSlow,
}

#[derive(Debug)]
enum Phase {
    Login(Box<login::Login>),
    /// Full feature phase.
    Full,
    /// A logout is wanted: nothing new is sent; the logout request goes out when the last sent task has ended.
    Draining,
    /// The logout request is out.
    LoggingOut,
    /// The session has ended in order.
    Ended,
}

/// Silence of the target, and the ping that asks for a sign of life.
#[derive(Debug, Clone, Copy)]
enum Pulse {
    /// Bytes were heard at this moment.
    Heard(Micros),
    /// A ping is out and must be answered by this moment.
    Pinged { until: Micros },
}

/// The initiator's half of a session. See the module's header.
#[derive(Debug)]
pub struct Initiator<T> {
    config: Config,
    phase: Phase,
    parameters: Parameters,
    decoder: FrameDecoder,
    digests: Digests,
    outgoing: Outgoing,
    events: VecDeque<Event<T>>,
    tasks: Tasks<T>,
    /// CmdSN of the next command that is not immediate.
    cmd_sn: CmdSn,
    max_cmd_sn: CmdSn,
    exp_stat_sn: StatSn,
    discovery: discovery::Collected,
    pulse: Pulse,
    login_until: Micros,
    /// No deadline of a task lies before this moment.
    earliest_deadline: Micros,
}

/// Tag of login, logout, text and ping requests: one of each at most is under way, and task tags never have all of
/// their upper 16 bits set (see `tasks`).
pub(crate) const OWN_TAG: TaskTag = TaskTag(0xffff_0000);

impl<T> Initiator<T> {
    /// A session whose first login request already waits in [`Initiator::outgoing`].
    #[must_use]
    pub fn new(config: Config, now: Micros) -> Self {
        Self::with_chance(config, None, now)
    }

    /// As [`Initiator::new`], with random bytes drawn for this connection alone; without them no target can prove itself.
    #[must_use]
    pub fn with_chance(config: Config, chance: Option<Chance>, now: Micros) -> Self {
        let login_until = now.plus(config.login_within);
        let mut initiator = Self {
            phase: Phase::Login(Box::new(login::Login::new(&config, chance))),
            parameters: Parameters::defaults(),
            decoder: FrameDecoder::new(login::LOGIN_SEGMENT_BYTES),
            digests: Digests::default(),
            outgoing: Outgoing::new(),
            events: VecDeque::new(),
            tasks: Tasks::new(),
            cmd_sn: CmdSn(1),
            max_cmd_sn: CmdSn(0),
            exp_stat_sn: StatSn(0),
            discovery: discovery::Collected::default(),
            pulse: Pulse::Heard(now),
            login_until,
            earliest_deadline: Micros(u64::MAX),
            config,
        };
        initiator.send_login_request();
        initiator
    }

    /// Bytes to write to the connection.
    pub fn outgoing(&mut self) -> &mut Outgoing {
        &mut self.outgoing
    }

    /// The next thing that happened.
    pub fn poll_event(&mut self) -> Option<Event<T>> {
        self.events.pop_front()
    }

    /// What was negotiated; the RFC's defaults until login has ended.
    #[must_use]
    pub fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    /// The data region that was agreed on.
    #[must_use]
    pub fn data_region(&self) -> Option<&str> {
        self.config.data_region.as_deref().filter(|_| self.parameters.data_region)
    }

    /// Whether commands are being sent.
    #[must_use]
    pub fn is_logged_in(&self) -> bool {
        matches!(self.phase, Phase::Full)
    }

    /// Commands and functions without an answer, sent or not.
    #[must_use]
    pub fn outstanding(&self) -> usize {
        self.tasks.len()
    }

    /// Takes every whole PDU out of `buffer`.
    ///
    /// # Errors
    /// [`SessionLost`]: close the connection and call [`Initiator::abandon`].
    pub fn receive(&mut self, now: Micros, buffer: &mut BytesMut) -> Result<(), SessionLost> {
        self.pulse = Pulse::Heard(now);
        // BOUND: every turn takes at least 48 bytes off the buffer.
        while let Some(frame) = self.decoder.next(buffer)? {
            self.receive_frame(frame)?;
        }
        self.send_waiting();
        self.log_out_when_drained();
        Ok(())
    }

    fn receive_frame(&mut self, frame: Frame) -> Result<(), SessionLost> {
        let pdu = TargetPdu::decode(frame)?;
        if let Phase::Login(_) = self.phase {
            return match pdu {
                TargetPdu::LoginResponse(response) => self.receive_login(response),
                _anything_else => Err(SessionLost::Protocol("a PDU other than a login response during login")),
            };
        }
        match pdu {
            TargetPdu::DataIn(data_in) => self.receive_data_in(data_in),
            TargetPdu::ScsiResponse(response) => self.receive_response(response),
            TargetPdu::R2t(r2t) => self.receive_r2t(r2t),
            TargetPdu::NopIn(nop_in) => {
                self.receive_nop_in(nop_in);
                Ok(())
            }
            TargetPdu::TaskManagementResponse(response) => self.receive_managed(response),
            TargetPdu::TextResponse(response) => self.receive_text(response),
            TargetPdu::AsyncMessage(message) => self.receive_async(message),
            TargetPdu::LogoutResponse(response) => {
                self.note_status(response.window);
                self.receive_logout(response.response)
            }
            TargetPdu::Reject(reject) => {
                let opcode = reject.rejected.first().map_or(0xff, |byte| byte & 0x3f);
                Err(SessionLost::Rejected { reason: reject.reason, opcode })
            }
            TargetPdu::LoginResponse(_) => Err(SessionLost::Protocol("a login response after login")),
        }
    }

    /// Updates the command window, RFC 7143 §4.2.2.1: a MaxCmdSN below ExpCmdSN - 1 is ignored, and the window never
    /// shrinks.
    fn note_window(&mut self, window: Window) {
        let lowest = CmdSn(window.exp_cmd_sn.0.wrapping_sub(1));
        if lowest.is_at_or_before(window.max_cmd_sn) && self.max_cmd_sn.is_before(window.max_cmd_sn) {
            self.max_cmd_sn = window.max_cmd_sn;
        }
    }

    /// Window and StatSN of a PDU that carries a status. TCP keeps the order, so a gap could only be a target that
    /// counts wrongly; the number is acknowledged as received.
    fn note_status(&mut self, window: Window) {
        self.note_window(window);
        if self.exp_stat_sn.is_at_or_before(window.stat_sn) {
            self.exp_stat_sn = window.stat_sn.next();
        }
    }

    fn receive_nop_in(&mut self, nop_in: NopIn) {
        if nop_in.tag == TaskTag::RESERVED {
            self.note_window(nop_in.window);
        } else {
            self.note_status(nop_in.window);
        }
        // RFC 7143 §11.18: the answer to a target's ping carries its transfer tag and is immediate, because no task
        // tag means that it takes no CmdSN.
        if nop_in.transfer_tag != TransferTag::RESERVED {
            let answer = NopOut {
                immediate: true,
                lun: nop_in.lun,
                tag: TaskTag::RESERVED,
                transfer_tag: nop_in.transfer_tag,
                cmd_sn: self.cmd_sn,
                exp_stat_sn: self.exp_stat_sn,
                data: nop_in.data.slice(..nop_in.data.len().min(self.parameters.send_segment_bytes as usize)),
            };
            self.outgoing.push(answer.into_frame(), self.digests);
        }
    }

    fn receive_async(&mut self, message: AsyncMessage) -> Result<(), SessionLost> {
        self.note_status(message.window);
        match message.event {
            AsyncEvent::SCSI_EVENT => {
                self.events.push_back(Event::SenseReported { lun: message.lun, sense: message.sense });
                Ok(())
            }
            AsyncEvent::REQUEST_LOGOUT => {
                if matches!(self.phase, Phase::Full) {
                    self.phase = Phase::Draining;
                    self.events.push_back(Event::LogoutRequested);
                }
                Ok(())
            }
            // Renegotiation is asked for, not forced: a target that insists drops the connection (RFC 7143 §11.9.1).
            AsyncEvent::REQUEST_NEGOTIATION | AsyncEvent::VENDOR => Ok(()),
            dropped => Err(SessionLost::Dropped(dropped)),
        }
    }

    /// Ends the session in order: what was sent is waited for, what was not is left for [`Initiator::abandon`].
    pub fn log_out(&mut self) {
        if matches!(self.phase, Phase::Full) {
            self.phase = Phase::Draining;
        }
        self.log_out_when_drained();
    }

    fn log_out_when_drained(&mut self) {
        if !matches!(self.phase, Phase::Draining) || self.tasks.sent() > 0 {
            return;
        }
        self.phase = Phase::LoggingOut;
        let request = LogoutRequest {
            immediate: true,
            reason: LogoutReason::CLOSE_SESSION,
            tag: OWN_TAG,
            cid: Cid(0),
            cmd_sn: self.cmd_sn,
            exp_stat_sn: self.exp_stat_sn,
        };
        self.outgoing.push(request.into_frame(), self.digests);
    }

    /// Whatever the answer, the session is over for this end; a refusal only means that the target closes it later.
    fn receive_logout(&mut self, _response: LogoutResponseCode) -> Result<(), SessionLost> {
        if !matches!(self.phase, Phase::LoggingOut) {
            return Err(SessionLost::Protocol("a logout response without a logout"));
        }
        self.phase = Phase::Ended;
        self.events.push_back(Event::LoggedOut);
        Ok(())
    }

    /// The moment at which [`Initiator::timeouts`] wants to be called, if nothing happens before.
    #[must_use]
    pub fn next_timeout(&self) -> Micros {
        let own = match (&self.phase, self.pulse) {
            (Phase::Login(_), _) => self.login_until,
            (_, Pulse::Heard(at)) => at.plus(self.config.ping_after),
            (_, Pulse::Pinged { until }) => until,
        };
        own.min(self.earliest_deadline)
    }

    /// Acts on what is due at `now`: pings a silent target and gives up on late commands. A command that was never
    /// sent ends by [`Event::Ended`] with [`Fate::NotSent`]; one that was sent makes the session lost, because only a
    /// new session with the same ISID (reinstatement, RFC 7143 §6.3.5) makes the target abort it.
    ///
    /// # Errors
    /// [`SessionLost`]: close the connection and call [`Initiator::abandon`].
    pub fn timeouts(&mut self, now: Micros) -> Result<(), SessionLost> {
        if now >= self.earliest_deadline {
            self.expire_tasks(now)?;
        }
        if let Phase::Login(_) = self.phase {
            return if now >= self.login_until { Err(SessionLost::LoginTooSlow) } else { Ok(()) };
        }
        match self.pulse {
            Pulse::Heard(at) if now >= at.plus(self.config.ping_after) => {
                self.ping();
                self.pulse = Pulse::Pinged { until: now.plus(self.config.ping_within) };
                Ok(())
            }
            Pulse::Pinged { until } if now >= until => Err(SessionLost::Silent),
            Pulse::Heard(_) | Pulse::Pinged { .. } => Ok(()),
        }
    }

    fn ping(&mut self) {
        let ping = NopOut {
            immediate: true,
            lun: 0,
            tag: OWN_TAG,
            transfer_tag: TransferTag::RESERVED,
            cmd_sn: self.cmd_sn,
            exp_stat_sn: self.exp_stat_sn,
            data: Bytes::new(),
        };
        self.outgoing.push(ping.into_frame(), self.digests);
    }

    /// The connection is lost: what is known of every command and function that had no answer.
    #[must_use]
    pub fn abandon(self) -> Vec<(T, Fate)> {
        self.tasks.into_fates()
    }
}

/// Whether a service response means that the SCSI status counts.
fn is_completed(response: ServiceResponse) -> bool {
    response == ServiceResponse::COMPLETED
}
