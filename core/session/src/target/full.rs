//! The full feature phase of a connection: command window, commands and their data, and everything around them.
//!
//! Not here: SCSI. A command goes to the shell as an [`Event`] and comes back as a [`Reply`].
//!
//! The ideas: (1) PDUs that carry a CmdSN are delivered in its order; what comes early waits in `held`, inside the
//! window, so it is bounded. (2) A command that has been delivered sits in `commands` until it is answered or
//! abandoned, and MaxCmdSN only moves when one leaves, so that map is bounded too. (3) Memory: the bytes of commands
//! under way are counted; beyond the budget a command waits, first come first served, before its data is asked for or
//! its execution is ordered. What came unasked, or ahead of its turn, has a budget of the same size: beyond it a command is answered
//! with TASK SET FULL, and an initiator that leaves out a CmdSN and goes on sending is given up.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use understudy_iscsi::codes::{LogoutReason, LogoutResponseCode, RejectReason, TaskFunction, TaskFunctionResponse};
use understudy_iscsi::request::{DataOut, LogoutRequest, NopOut, ScsiCommand, TaskManagementRequest, TextRequest};
use understudy_iscsi::response::{LogoutResponse, NopIn, R2t, TaskManagementResponse};
use understudy_iscsi::serial::{Cid, CmdSn, TaskTag, TransferTag};
use understudy_iscsi::{Advertised, Bhs, Frame, InitiatorPdu, Malformed};

use super::commands::Commands;
use super::parameters::{InitialR2t, Parameters, SessionKind};
use super::reply::{self, Reply};
use super::text::{Exchange, TargetEntry};
use super::transfer::{Fault, Transfer};
use super::wire::Wire;
use super::{Begun, CommandArrived, End, Event, Limits};

/// Time2Wait we announce at logout: a client may come back at once.
const TIME_TO_WAIT_S: u16 = 0;

/// A command between its arrival and its answer.
#[derive(Debug)]
pub(crate) struct Command {
    pub(crate) lun: u64,
    pub(crate) expected_bytes: u32,
    pub(crate) read: bool,
    pub(crate) write: bool,
    /// Whether it used up a CmdSN (was not immediate).
    numbered: bool,
    transfer: Transfer,
    stage: CommandStage,
    /// Where in the data region its data is, or goes.
    advertised: Option<Advertised>,
    /// Bytes counted against the memory budget.
    charged: u64,
}

impl Command {
    /// DataSN count of a response without Data-In: the R2Ts that were sent (RFC 7143 §11.4.8).
    pub(crate) fn data_sn_of_status(&self) -> u32 {
        self.transfer.r2ts()
    }
}

/// How far a command has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum CommandStage {
    /// Handed to the shell, which has not said yet how much data-out it wants.
    Arrived,
    /// Waits for memory.
    Waiting,
    /// Data-out is being collected.
    Collecting,
    /// The shell fetches the data-out.
    Fetching,
    /// The shell executes it.
    Executing,
}

/// State of a connection in full feature phase.
#[derive(Debug)]
pub(crate) struct FullFeature {
    pub(crate) kind: SessionKind,
    pub(crate) agreed: Parameters,
    cid: Cid,
    limits: Limits,
    commands: Commands,
    immediate_commands: u32,
    held: BTreeMap<u32, Vec<Frame>>,
    waiting: VecDeque<TaskTag>,
    /// Data-out that the shell is to fetch. BOUND: the commands under way.
    fetches: VecDeque<(TaskTag, Advertised)>,
    charged: u64,
    transfer_tag: u32,
    exchange: Exchange,
    functions: u32,
    logout: Option<TaskTag>,
}

/// What handling a PDU leads to besides what was sent.
pub(crate) type Handled = Result<(), End>;

impl FullFeature {
    pub(crate) fn new(kind: SessionKind, agreed: Parameters, cid: Cid, limits: Limits) -> Self {
        Self {
            kind,
            agreed,
            cid,
            limits,
            commands: Commands::default(),
            immediate_commands: 0,
            held: BTreeMap::new(),
            waiting: VecDeque::new(),
            fetches: VecDeque::new(),
            charged: 0,
            transfer_tag: 0,
            exchange: Exchange::default(),
            functions: 0,
            logout: None,
        }
    }

    /// Bytes counted against the memory budget.
    pub(crate) fn memory_used(&self) -> u64 {
        self.charged
    }

    /// From now on commands under way may hold so many bytes of data.
    pub(crate) fn limit_memory(&mut self, bytes: u64) {
        self.limits.memory_bytes = bytes;
    }

    /// Takes one frame as it came; delivers it, holds it or drops it by its CmdSN.
    pub(crate) fn take(&mut self, frame: Frame, wire: &mut Wire, events: &mut VecDeque<Event>) -> Handled {
        if self.logout.is_some() {
            wire.reject(RejectReason::WAITING_FOR_LOGOUT, &frame.bhs);
            return Ok(());
        }
        let Some((cmd_sn, immediate)) = numbering(&frame.bhs) else {
            return self.take_unnumbered(frame, wire, events);
        };
        // An initiator that does not keep to the window is ignored (RFC 7143 §4.2.2.1).
        if immediate {
            return self.deliver(frame, wire, events);
        }
        if !wire.within_window(cmd_sn) {
            return Ok(());
        }
        if cmd_sn != wire.expected() {
            self.make_sure_to_hold(frame.data.len())?;
            // BOUND: one entry per number of the window.
            self.held.entry(cmd_sn.0).or_insert_with(|| vec![frame]);
            return Ok(());
        }
        wire.take_command();
        self.deliver(frame, wire, events)
    }

    /// Whether so many more bytes may be kept ahead of their turn. One connection brings what is sent in order, so none of a sound
    /// initiator's are.
    fn make_sure_to_hold(&self, more: usize) -> Handled {
        let held: usize = self.held.values().flatten().map(|frame| frame.data.len()).sum();
        if (held + more) as u64 <= self.limits.memory_bytes {
            return Ok(());
        }
        Err(End::Protocol("more data ahead of its turn than there is memory for"))
    }

    /// Whether PDUs that came early can be delivered now.
    pub(crate) fn next_held(&mut self, wire: &mut Wire) -> Option<Vec<Frame>> {
        let frames = self.held.remove(&wire.expected().0)?;
        wire.take_command();
        Some(frames)
    }

    fn take_unnumbered(&mut self, frame: Frame, wire: &mut Wire, events: &mut VecDeque<Event>) -> Handled {
        let tag = frame.bhs.u32(16);
        if !self.held.is_empty() {
            self.make_sure_to_hold(frame.data.len())?;
        }
        let of_held = |frames: &&mut Vec<Frame>| frames.first().is_some_and(|first| first.bhs.u32(16) == tag);
        let limit = self.agreed.first_burst as usize / 512 + 1;
        match self.held.values_mut().find(of_held) {
            // Unsolicited data of a command that came early waits with it.
            // BOUND: the bytes of a first burst, in the smallest sensible segments.
            Some(frames) if frames.len() < limit && fits_first_burst(frames, &frame, self.agreed.first_burst) => {
                frames.push(frame);
                Ok(())
            }
            Some(_too_many) => Err(End::Protocol("more unsolicited data than the first burst")),
            None => self.deliver(frame, wire, events),
        }
    }

    /// Handles one PDU whose turn it is.
    pub(crate) fn deliver(&mut self, frame: Frame, wire: &mut Wire, events: &mut VecDeque<Event>) -> Handled {
        let bhs = frame.bhs;
        let pdu = match InitiatorPdu::decode(frame) {
            Ok(pdu) => pdu,
            Err(malformed) => return reject_malformed(malformed, &bhs, wire),
        };
        if self.kind == SessionKind::Discovery
            && !matches!(pdu, InitiatorPdu::TextRequest(_) | InitiatorPdu::LogoutRequest(_) | InitiatorPdu::NopOut(_))
        {
            if numbering(&bhs).is_some_and(|(_, immediate)| !immediate) {
                wire.free_command();
            }
            wire.reject(RejectReason::COMMAND_NOT_SUPPORTED, &bhs);
            return Ok(());
        }
        match pdu {
            InitiatorPdu::ScsiCommand(command) => self.command(command, &bhs, wire, events),
            InitiatorPdu::DataOut(data) => self.data_out(&data, wire, events),
            InitiatorPdu::NopOut(nop) => self.nop(nop, wire),
            InitiatorPdu::TaskManagementRequest(request) => self.task_management(&request, &bhs, wire, events),
            InitiatorPdu::TextRequest(request) => self.text(&request, &bhs, wire, events),
            InitiatorPdu::LogoutRequest(request) => self.log_out(&request, wire, events),
            InitiatorPdu::Snack(_) => wire.reject(RejectReason::SNACK_REJECT, &bhs),
            InitiatorPdu::LoginRequest(_) => {
                wire.reject(RejectReason::PROTOCOL_ERROR, &bhs);
                return Err(End::Protocol("login request in full feature phase"));
            }
        }
        Ok(())
    }

    fn command(&mut self, pdu: ScsiCommand, bhs: &Bhs, wire: &mut Wire, events: &mut VecDeque<Event>) {
        let numbered = !pdu.immediate;
        let refused = if pdu.tag == TaskTag::RESERVED || (!pdu.is_final && !pdu.write) {
            Some(RejectReason::INVALID_PDU_FIELD)
        } else if self.commands.get(pdu.tag).is_some() {
            Some(RejectReason::TASK_IN_PROGRESS)
        } else if !numbered && self.immediate_commands >= self.limits.immediate_commands {
            Some(RejectReason::IMMEDIATE_COMMAND_REJECT)
        } else {
            None
        };
        if let Some(reason) = refused {
            if numbered {
                wire.free_command();
            }
            wire.reject(reason, bhs);
            return;
        }
        let offered = if pdu.write { pdu.expected_bytes } else { 0 };
        let advertised = pdu.advertised().filter(|_| self.agreed.data_region.is_some());
        let mut transfer = Transfer::start(pdu.data, offered, !pdu.is_final, &self.agreed);
        if !pdu.is_final && self.agreed.initial_r2t == InitialR2t::Required {
            transfer.fail(Fault::Unexpected);
        }
        let command = Command {
            lun: pdu.lun,
            expected_bytes: pdu.expected_bytes,
            read: pdu.read,
            write: pdu.write,
            numbered,
            transfer,
            stage: CommandStage::Arrived,
            advertised,
            charged: 0,
        };
        self.immediate_commands += u32::from(!numbered);
        self.commands.insert(pdu.tag, command);
        events.push_back(Event::Command(CommandArrived {
            tag: pdu.tag,
            lun: pdu.lun,
            attribute: pdu.attribute,
            cdb: pdu.cdb,
            data_out_offered: offered,
            data_in_room: if pdu.read { pdu.expected_bytes } else { 0 },
            advertised,
        }));
    }

    /// The shell has put the command into the task set; `wanted` is how much data-out its CDB asks for.
    pub(crate) fn begun(&mut self, tag: TaskTag, wanted: u32, wire: &mut Wire) -> Begun {
        let Some(command) = self.commands.get_mut(tag) else {
            return Begun::Refused;
        };
        command.transfer.want(wanted);
        command.stage = CommandStage::Collecting;
        if command.transfer.is_settled() && command.transfer.fault().is_some() {
            self.fail(tag, wire);
            return Begun::Refused;
        }
        match self.advance(tag, wire) {
            Some(data) => Begun::Execute(data),
            None if self.holds_too_much_unasked(tag) => {
                self.refuse_for_now(tag, wire);
                Begun::Refused
            }
            None => Begun::Later,
        }
    }

    /// Whether this command brought data unasked, cannot be executed yet, and there is too much of that already.
    fn holds_too_much_unasked(&self, tag: TaskTag) -> bool {
        let unasked = |command: &Command| {
            if command.charged == 0 { u64::from(command.transfer.may_hold(&self.agreed)) } else { 0 }
        };
        let own = self.commands.get(tag).map_or(0, unasked);
        own != 0 && self.commands.iter().map(unasked).sum::<u64>() > self.limits.memory_bytes.max(own)
    }

    /// There is no room for this command now, and there are others of this nexus: the initiator sends it again later (SAM-5 r21 §5.3.1).
    fn refuse_for_now(&mut self, tag: TaskTag, wire: &mut Wire) {
        if let Some(command) = self.remove(tag, wire) {
            reply::send(tag, &command, Reply::task_set_full(), &self.agreed, wire);
        }
    }

    /// Moves a command on as far as it goes; the data-out if it can be executed now.
    fn advance(&mut self, tag: TaskTag, wire: &mut Wire) -> Option<Bytes> {
        let command = self.commands.get_mut(tag)?;
        let settled = command.transfer.is_settled();
        if !settled && !command.transfer.needs_soliciting() {
            return None;
        }
        if command.charged == 0 {
            let charge = u64::from(if command.write { command.transfer.wanted() } else { command.expected_bytes });
            let occupied = self.charged + wire.out.len() as u64;
            // The limit may have been lowered below what is held: what needs nothing goes on all the same.
            if charge != 0 && occupied != 0 && occupied + charge > self.limits.memory_bytes {
                command.stage = CommandStage::Waiting;
                self.waiting.push_back(tag);
                return None;
            }
            command.charged = charge;
            self.charged += charge;
        }
        if settled {
            command.stage = CommandStage::Executing;
            return Some(command.transfer.finish());
        }
        let wanted = command.transfer.wanted();
        if let Some(all) = command.advertised.filter(|all| all.length >= wanted && !command.transfer.has_any()) {
            command.stage = CommandStage::Fetching;
            self.fetches.push_back((tag, Advertised { length: wanted, ..all }));
            return None;
        }
        command.stage = CommandStage::Collecting;
        self.solicit(tag, wire);
        None
    }

    /// Data-out that the shell is to fetch.
    pub(crate) fn next_fetch(&mut self) -> Option<Event> {
        // BOUND: each turn takes one off; those of commands that have ended since are left out.
        while let Some((tag, from)) = self.fetches.pop_front() {
            if self.commands.get(tag).is_some_and(|command| command.stage == CommandStage::Fetching) {
                return Some(Event::FetchData { tag, from });
            }
        }
        None
    }

    /// What the shell fetched; without it the initiator is asked. The data if the command can be executed now.
    pub(crate) fn fetched(&mut self, tag: TaskTag, data: Option<Bytes>, wire: &mut Wire) -> Option<Bytes> {
        let command = self.commands.get_mut(tag).filter(|command| command.stage == CommandStage::Fetching)?;
        let wanted = command.transfer.wanted() as usize;
        if let Some(data) = data.filter(|data| data.len() == wanted) {
            command.stage = CommandStage::Executing;
            return Some(data);
        }
        command.advertised = None;
        command.stage = CommandStage::Collecting;
        self.solicit(tag, wire);
        None
    }

    fn solicit(&mut self, tag: TaskTag, wire: &mut Wire) {
        let Some(command) = self.commands.get_mut(tag) else { return };
        // BOUND: MaxOutstandingR2T.
        while let Some(solicit) = {
            let next = TransferTag(self.transfer_tag);
            command.transfer.solicit(next, &self.agreed)
        } {
            // The reserved value is never used: the counter wraps before it.
            self.transfer_tag = (self.transfer_tag + 1) % TransferTag::RESERVED.0;
            let r2t = R2t {
                lun: command.lun,
                tag,
                transfer_tag: solicit.transfer_tag,
                window: wire.window(),
                r2t_sn: solicit.r2t_sn,
                buffer_offset: solicit.buffer_offset,
                desired_bytes: solicit.desired_bytes,
            };
            wire.send(r2t.into_frame());
        }
    }

    /// A command that waited for memory and may go on now.
    pub(crate) fn admit_waiting(&mut self, wire: &mut Wire) -> Option<Event> {
        // BOUND: each turn takes one off, and stops when one does not fit.
        while let Some(tag) = self.waiting.pop_front() {
            let before = self.waiting.len();
            if let Some(data) = self.advance(tag, wire) {
                return Some(Event::DataArrived { tag, data });
            }
            if self.waiting.len() > before {
                // It still does not fit and went to the end: it keeps its place.
                self.waiting.rotate_right(1);
                return None;
            }
        }
        None
    }

    fn data_out(&mut self, pdu: &DataOut, wire: &mut Wire, events: &mut VecDeque<Event>) {
        let Some(command) = self.commands.get_mut(pdu.tag) else {
            // Data of a command that was answered or aborted meanwhile: the initiator may still have sent it.
            return;
        };
        if matches!(command.stage, CommandStage::Executing | CommandStage::Waiting | CommandStage::Fetching) {
            return;
        }
        command.transfer.take(pdu, &self.agreed);
        self.data_moved(pdu.tag, wire, events);
    }

    /// Data was received (or lost) for this command: see what it needs next.
    fn data_moved(&mut self, tag: TaskTag, wire: &mut Wire, events: &mut VecDeque<Event>) {
        let Some(command) = self.commands.get(tag) else { return };
        if command.transfer.is_settled() && command.transfer.fault().is_some() {
            self.fail(tag, wire);
            events.push_back(Event::CommandFailed { tag });
        } else if let Some(data) = self.advance(tag, wire) {
            events.push_back(Event::DataArrived { tag, data });
        }
    }

    /// A PDU came whose data was damaged; its header is good.
    pub(crate) fn damaged(&mut self, bhs: &Bhs, wire: &mut Wire, events: &mut VecDeque<Event>) {
        wire.reject(RejectReason::DATA_DIGEST_ERROR, bhs);
        let empty = Frame::new(*bhs, Bytes::new());
        // What is not Data-Out is discarded; the initiator has to send it again (RFC 7143 §7.8).
        if let Ok(InitiatorPdu::DataOut(pdu)) = InitiatorPdu::decode(empty)
            && let Some(command) = self.commands.get_mut(pdu.tag)
        {
            command.transfer.fail(Fault::Digest);
            command.transfer.take(&pdu, &self.agreed);
            self.data_moved(pdu.tag, wire, events);
        }
    }

    /// Ends a command whose data-out is unusable.
    fn fail(&mut self, tag: TaskTag, wire: &mut Wire) {
        if let Some(command) = self.remove(tag, wire) {
            let fault = command.transfer.fault().unwrap_or(Fault::WrongAmount);
            reply::send_fault(tag, &command, fault, wire);
        }
    }

    /// Answers a command.
    pub(crate) fn complete(&mut self, tag: TaskTag, reply: Reply, wire: &mut Wire) {
        if let Some(command) = self.remove(tag, wire) {
            reply::send(tag, &command, reply, &self.agreed, wire);
        }
    }

    /// Room for the answer of a command that reads.
    pub(crate) fn place<'a>(&self, tag: TaskTag, bytes: usize, wire: &'a mut Wire) -> Option<&'a mut [u8]> {
        reply::place(self.commands.get(tag)?, bytes, &self.agreed, wire)
    }

    /// Answers a command with the data that was placed.
    pub(crate) fn complete_placed(&mut self, tag: TaskTag, wire: &mut Wire) {
        if let Some(command) = self.remove(tag, wire) {
            reply::send_placed(tag, &command, wire);
        }
    }

    /// A command was aborted: nothing is sent (RFC 7143 §4.2.3.3).
    pub(crate) fn abandon(&mut self, tag: TaskTag, wire: &mut Wire) {
        self.remove(tag, wire);
    }

    fn remove(&mut self, tag: TaskTag, wire: &mut Wire) -> Option<Command> {
        let command = self.commands.remove(tag)?;
        self.charged -= command.charged;
        if command.numbered {
            wire.free_command();
        } else {
            self.immediate_commands -= 1;
        }
        if command.stage == CommandStage::Waiting {
            self.waiting.retain(|waiting| *waiting != tag);
        }
        Some(command)
    }

    fn nop(&mut self, pdu: NopOut, wire: &mut Wire) {
        if !pdu.immediate {
            wire.free_command();
        }
        if pdu.tag == TaskTag::RESERVED {
            return;
        }
        let mut data = pdu.data;
        data.truncate(self.agreed.send_data_segment as usize);
        let window = wire.status_window();
        wire.send(NopIn { lun: pdu.lun, tag: pdu.tag, transfer_tag: TransferTag::RESERVED, window, data }.into_frame());
    }

    fn task_management(
        &mut self,
        pdu: &TaskManagementRequest,
        bhs: &Bhs,
        wire: &mut Wire,
        events: &mut VecDeque<Event>,
    ) {
        if !pdu.immediate {
            wire.free_command();
        }
        if self.functions >= self.limits.task_functions {
            wire.reject(RejectReason::IMMEDIATE_COMMAND_REJECT, bhs);
            return;
        }
        self.functions += 1;
        let TaskManagementRequest { tag, function, lun, referenced, .. } = *pdu;
        let refused = match function {
            TaskFunction::TASK_REASSIGN => Some(TaskFunctionResponse::REASSIGNMENT_NOT_SUPPORTED),
            TaskFunction::ABORT_TASK
            | TaskFunction::ABORT_TASK_SET
            | TaskFunction::CLEAR_TASK_SET
            | TaskFunction::LOGICAL_UNIT_RESET
            | TaskFunction::TARGET_WARM_RESET
            | TaskFunction::TARGET_COLD_RESET => None,
            _unsupported => Some(TaskFunctionResponse::NOT_SUPPORTED),
        };
        match refused {
            Some(response) => self.function_done(tag, response, wire),
            None => events.push_back(Event::TaskManagement { tag, function, lun, referenced }),
        }
    }

    /// Answers a task management request.
    pub(crate) fn function_done(&mut self, tag: TaskTag, response: TaskFunctionResponse, wire: &mut Wire) {
        self.functions = self.functions.saturating_sub(1);
        let window = wire.status_window();
        wire.send(TaskManagementResponse { response, tag, window }.into_frame());
    }

    fn text(&mut self, pdu: &TextRequest, bhs: &Bhs, wire: &mut Wire, events: &mut VecDeque<Event>) {
        if !pdu.immediate {
            wire.free_command();
        }
        match self.exchange.take(pdu, self.kind, &mut self.agreed, wire) {
            Ok(Some(wanted)) => events.push_back(Event::TargetsAsked(wanted)),
            Ok(None) => {}
            Err(reason) => wire.reject(reason, bhs),
        }
    }

    /// Answers SendTargets.
    pub(crate) fn targets(&mut self, targets: Vec<TargetEntry>, wire: &mut Wire) {
        self.exchange.finish(targets, &self.agreed, wire);
    }

    fn log_out(&mut self, pdu: &LogoutRequest, wire: &mut Wire, events: &mut VecDeque<Event>) {
        if !pdu.immediate {
            wire.free_command();
        }
        let response = match pdu.reason {
            LogoutReason::CLOSE_CONNECTION if pdu.cid != self.cid => LogoutResponseCode::CID_NOT_FOUND,
            LogoutReason::CLOSE_SESSION | LogoutReason::CLOSE_CONNECTION => {
                self.logout = Some(pdu.tag);
                events.push_back(Event::LogoutAsked);
                return;
            }
            _recovery => LogoutResponseCode::RECOVERY_NOT_SUPPORTED,
        };
        send_logout(pdu.tag, response, wire);
    }

    /// Every task of the session is over: the logout can be answered.
    pub(crate) fn logged_out(&mut self, wire: &mut Wire) {
        if let Some(tag) = self.logout {
            send_logout(tag, LogoutResponseCode::SUCCESS, wire);
        }
    }
}

/// Whether what is held of one command is no more than may come unasked. Without this an initiator that leaves out one
/// CmdSN could make this end keep segments of any length, window by window, before a single command is counted.
fn fits_first_burst(held: &[Frame], next: &Frame, first_burst: u32) -> bool {
    let bytes: usize = held.iter().map(|frame| frame.data.len()).sum();
    bytes + next.data.len() <= first_burst as usize
}

fn send_logout(tag: TaskTag, response: LogoutResponseCode, wire: &mut Wire) {
    let window = wire.status_window();
    let response = LogoutResponse { response, tag, window, time_to_wait_s: TIME_TO_WAIT_S, time_to_retain_s: 0 };
    wire.send(response.into_frame());
}

fn reject_malformed(malformed: Malformed, bhs: &Bhs, wire: &mut Wire) -> Handled {
    match malformed {
        Malformed::Opcode(_) => {
            wire.reject(RejectReason::COMMAND_NOT_SUPPORTED, bhs);
            Err(End::Protocol("opcode that no initiator sends"))
        }
        Malformed::Field(_) | Malformed::ShortData(_) => {
            wire.reject(RejectReason::INVALID_PDU_FIELD, bhs);
            Err(End::Protocol("malformed PDU"))
        }
    }
}

/// CmdSN and immediate bit, for PDUs that have them (all of an initiator's but Data-Out and SNACK).
fn numbering(bhs: &Bhs) -> Option<(CmdSn, bool)> {
    use understudy_iscsi::Opcode;
    match bhs.opcode() {
        Ok(
            Opcode::NopOut
            | Opcode::ScsiCommand
            | Opcode::TaskManagementRequest
            | Opcode::LoginRequest
            | Opcode::TextRequest
            | Opcode::LogoutRequest,
        ) => Some((CmdSn(bhs.u32(24)), bhs.immediate())),
        Ok(_unnumbered) => None,
        Err(_undefined) => None,
    }
}
