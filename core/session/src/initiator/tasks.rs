//! Commands and task management functions under way, and the data they move (RFC 7143 §11.3 to §11.8).
//!
//! Not here: SCSI. The one idea: a task tag is a place in a table plus a count of how often the place was used, so an
//! answer finds its task without a search, and an answer to a task that has ended finds nothing.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};
use understudy_iscsi::Advertised;
use understudy_iscsi::codes::{Residual, TaskFunction, TaskFunctionResponse};
use understudy_iscsi::request::{DataOut, ScsiCommand, TaskManagementRequest};
use understudy_iscsi::response::{DataIn, R2t, ScsiResponse, TaskManagementResponse};
use understudy_iscsi::serial::{CmdSn, TaskTag, TransferTag};

use super::{Command, Completion, Event, Fate, Initiator, Management, Phase, SessionLost, Transfer, is_completed};
use crate::Micros;

/// Most tasks under way or waiting in one session: twice the deepest queue any target here grants, and few enough that
/// looking at each of them at a deadline costs microseconds.
pub(super) const TASK_LIMIT: usize = 4096;

/// Task management functions are sent at once, outside the command window.
#[derive(Debug)]
struct Managing<T> {
    ticket: T,
    function: TaskFunction,
    lun: u64,
    referenced: Option<TaskTag>,
    cmd_sn: CmdSn,
    deadline: Micros,
}

/// Data-in received so far.
#[derive(Debug)]
enum Gathered {
    Nothing,
    /// One PDU's, by reference.
    Whole(Bytes),
    Pieces(BytesMut),
}

impl Gathered {
    fn len(&self) -> usize {
        match self {
            Self::Nothing => 0,
            Self::Whole(bytes) => bytes.len(),
            Self::Pieces(bytes) => bytes.len(),
        }
    }

    fn append(&mut self, data: Bytes, expected: usize) {
        match self {
            Self::Nothing => *self = Self::Whole(data),
            Self::Whole(first) => {
                let mut pieces = BytesMut::with_capacity(expected);
                pieces.extend_from_slice(first);
                pieces.extend_from_slice(&data);
                *self = Self::Pieces(pieces);
            }
            Self::Pieces(pieces) => pieces.extend_from_slice(&data),
        }
    }

    fn into_bytes(self) -> Bytes {
        match self {
            Self::Nothing => Bytes::new(),
            Self::Whole(bytes) => bytes,
            Self::Pieces(bytes) => bytes.freeze(),
        }
    }
}

#[derive(Debug)]
struct Sent<T> {
    ticket: T,
    lun: u64,
    cmd_sn: CmdSn,
    deadline: Micros,
    data_out: Bytes,
    /// Bytes of `data_out` that went out; no byte goes out twice.
    data_sent: usize,
    read_bytes: u32,
    data_in: Gathered,
}

#[derive(Debug)]
enum Place<T> {
    Free,
    Waiting(Command<T>),
    Sent(Sent<T>),
    Managing(Managing<T>),
}

#[derive(Debug)]
struct Slot<T> {
    /// How often the place was used, below 0xffff: see `OWN_TAG`.
    uses: u16,
    place: Place<T>,
}

/// The table.
#[derive(Debug)]
pub(super) struct Tasks<T> {
    slots: Vec<Slot<T>>,
    free: Vec<u16>,
    /// Commands for which the target's window has no room yet, oldest first.
    waiting: VecDeque<TaskTag>,
    sent: usize,
}

impl<T> Tasks<T> {
    pub(super) fn new() -> Self {
        Self { slots: Vec::new(), free: Vec::new(), waiting: VecDeque::new(), sent: 0 }
    }

    pub(super) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Commands and functions that were sent.
    pub(super) fn sent(&self) -> usize {
        self.sent
    }

    fn is_full(&self) -> bool {
        self.len() >= TASK_LIMIT
    }

    /// PANIC: `is_full` was asked before.
    fn occupy(&mut self, place: Place<T>) -> TaskTag {
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot { uses: 0, place: Place::Free });
            u16::try_from(self.slots.len() - 1).expect("TASK_LIMIT fits 16 bits")
        });
        let slot = &mut self.slots[usize::from(index)];
        slot.place = place;
        TaskTag(u32::from(slot.uses) << 16 | u32::from(index))
    }

    fn place(&mut self, tag: TaskTag) -> Option<&mut Place<T>> {
        let slot = self.slots.get_mut((tag.0 & 0xffff) as usize)?;
        (u32::from(slot.uses) == tag.0 >> 16).then_some(&mut slot.place)
    }

    fn sent_task(&mut self, tag: TaskTag) -> Option<&mut Sent<T>> {
        match self.place(tag)? {
            Place::Sent(task) => Some(task),
            Place::Free | Place::Waiting(_) | Place::Managing(_) => None,
        }
    }

    /// Takes a task out of the table; its tag names nothing any more.
    fn vacate(&mut self, tag: TaskTag) -> Place<T> {
        let Some(place) = self.place(tag) else { return Place::Free };
        let place = core::mem::replace(place, Place::Free);
        match &place {
            Place::Free => return Place::Free,
            Place::Waiting(_) => {}
            Place::Sent(_) | Place::Managing(_) => self.sent -= 1,
        }
        let index = (tag.0 & 0xffff) as u16;
        let slot = &mut self.slots[usize::from(index)];
        slot.uses = if slot.uses == 0xfffe { 0 } else { slot.uses + 1 };
        self.free.push(index);
        place
    }

    fn tags(&self) -> Vec<TaskTag> {
        let tag = |(index, slot): (usize, &Slot<T>)| TaskTag(u32::from(slot.uses) << 16 | index as u32);
        self.slots.iter().enumerate().filter(|(_, slot)| !matches!(slot.place, Place::Free)).map(tag).collect()
    }

    pub(super) fn into_fates(self) -> Vec<(T, Fate)> {
        let fate = |slot: Slot<T>| match slot.place {
            Place::Free => None,
            Place::Waiting(command) => Some((command.ticket, Fate::NotSent)),
            Place::Sent(task) => Some((task.ticket, Fate::Unknown)),
            Place::Managing(task) => Some((task.ticket, Fate::Unknown)),
        };
        self.slots.into_iter().filter_map(fate).collect()
    }
}

impl<T> Initiator<T> {
    /// Sends a command, or queues it until login has ended and the target's command window has room. Returns its tag.
    ///
    /// # Errors
    /// The command itself if 4,096 tasks are under way or the session is ending; it was not sent.
    pub fn submit(&mut self, command: Command<T>) -> Result<TaskTag, Command<T>> {
        if self.tasks.is_full() || !matches!(self.phase, Phase::Full | Phase::Login(_)) {
            return Err(command);
        }
        self.earliest_deadline = self.earliest_deadline.min(command.deadline);
        let tag = self.tasks.occupy(Place::Free);
        if self.tasks.waiting.is_empty() && self.window_is_open() {
            self.send_command(tag, command);
        } else {
            self.tasks.slots[(tag.0 & 0xffff) as usize].place = Place::Waiting(command);
            self.tasks.waiting.push_back(tag);
        }
        Ok(tag)
    }

    /// Sends a task management function at once.
    ///
    /// # Errors
    /// The function itself if 4,096 tasks are under way or the session is not in full feature phase; it was not sent.
    pub fn manage(&mut self, management: Management<T>) -> Result<TaskTag, Management<T>> {
        if self.tasks.is_full() || !matches!(self.phase, Phase::Full) {
            return Err(management);
        }
        let Management { ticket, function, lun, referenced, deadline } = management;
        self.withdraw_waiting(referenced);
        self.earliest_deadline = self.earliest_deadline.min(deadline);
        let referenced_cmd_sn =
            referenced.and_then(|tag| self.tasks.sent_task(tag)).map_or(self.cmd_sn, |task| task.cmd_sn);
        let cmd_sn = self.cmd_sn;
        let tag = self.tasks.occupy(Place::Managing(Managing { ticket, function, lun, referenced, cmd_sn, deadline }));
        self.tasks.sent += 1;
        let request = TaskManagementRequest {
            immediate: true,
            function,
            lun,
            tag,
            referenced: referenced.unwrap_or(TaskTag::RESERVED),
            cmd_sn,
            exp_stat_sn: self.exp_stat_sn,
            referenced_cmd_sn,
            exp_data_sn: 0,
        };
        self.outgoing.push(request.into_frame(), self.digests);
        Ok(tag)
    }

    /// Ends a command that was never sent and is to be aborted: the target does not know it and could not stop it.
    fn withdraw_waiting(&mut self, referenced: Option<TaskTag>) {
        let Some(tag) = referenced else { return };
        if let Some(Place::Waiting(_)) = self.tasks.place(tag)
            && let Place::Waiting(command) = self.tasks.vacate(tag)
        {
            self.events.push_back(Event::Ended { ticket: command.ticket, fate: Fate::NotSent });
        }
    }

    fn window_is_open(&self) -> bool {
        matches!(self.phase, Phase::Full) && self.cmd_sn.is_at_or_before(self.max_cmd_sn)
    }

    pub(super) fn send_waiting(&mut self) {
        // BOUND: every turn takes one tag off the queue.
        while self.window_is_open() {
            let Some(tag) = self.tasks.waiting.pop_front() else { return };
            // A tag whose command has expired names nothing any more.
            if let Some(place @ Place::Waiting(_)) = self.tasks.place(tag) {
                let Place::Waiting(command) = core::mem::replace(place, Place::Free) else { continue };
                self.send_command(tag, command);
            }
        }
    }

    fn send_command(&mut self, tag: TaskTag, command: Command<T>) {
        let Command { ticket, lun, attribute, cdb, transfer, deadline } = command;
        let (read_bytes, data_out, advertised) = match transfer {
            Transfer::None => (0, Bytes::new(), None),
            Transfer::Read(bytes) => (bytes, Bytes::new(), None),
            Transfer::Write(data) => (0, data, None),
            Transfer::ReadInto(bytes, advertised) => (bytes, Bytes::new(), Some(advertised)),
            Transfer::WriteFrom(data, advertised) => (0, data, Some(advertised)),
        };
        let length = data_out.len();
        let unasked = if advertised.is_some() { 0 } else { self.parameters.first_burst_bytes as usize };
        let first_burst = length.min(unasked);
        let immediate = if self.parameters.immediate_data { first_burst.min(self.segment_bytes()) } else { 0 };
        let unsolicited = if self.parameters.initial_r2t { immediate } else { first_burst };
        let pdu = ScsiCommand {
            immediate: false,
            is_final: unsolicited == immediate,
            read: read_bytes > 0,
            write: length > 0,
            attribute,
            lun,
            tag,
            expected_bytes: if length > 0 { length as u32 } else { read_bytes },
            cmd_sn: self.cmd_sn,
            exp_stat_sn: self.exp_stat_sn,
            cdb,
            ahs: advertised.map(Advertised::encode).unwrap_or_default(),
            data: data_out.slice(..immediate),
        };
        let cmd_sn = self.cmd_sn;
        self.cmd_sn = cmd_sn.next();
        self.outgoing.push(pdu.into_frame(), self.digests);
        self.send_data(lun, tag, TransferTag::RESERVED, data_out.slice(immediate..unsolicited), immediate as u32);
        let data_in = Gathered::Nothing;
        let task = Sent { ticket, lun, cmd_sn, deadline, data_out, data_sent: unsolicited, read_bytes, data_in };
        self.tasks.slots[(tag.0 & 0xffff) as usize].place = Place::Sent(task);
        self.tasks.sent += 1;
    }

    fn segment_bytes(&self) -> usize {
        self.parameters.send_segment_bytes as usize
    }

    /// Sends one sequence of Data-Out PDUs; none for no data.
    fn send_data(&mut self, lun: u64, tag: TaskTag, transfer_tag: TransferTag, data: Bytes, offset: u32) {
        let (mut rest, mut buffer_offset, mut data_sn) = (data, offset, 0);
        // BOUND: every turn takes at least 512 bytes, or what is left, off `rest` (MaxRecvDataSegmentLength >= 512).
        while !rest.is_empty() {
            let piece = rest.split_to(rest.len().min(self.segment_bytes()));
            let sent = piece.len() as u32;
            let pdu = DataOut {
                is_final: rest.is_empty(),
                lun,
                tag,
                transfer_tag,
                exp_stat_sn: self.exp_stat_sn,
                data_sn,
                buffer_offset,
                data: piece,
            };
            self.outgoing.push(pdu.into_frame(), self.digests);
            buffer_offset += sent;
            data_sn += 1;
        }
    }

    pub(super) fn receive_r2t(&mut self, r2t: R2t) -> Result<(), SessionLost> {
        self.note_window(r2t.window);
        let Some(task) = self.tasks.sent_task(r2t.tag) else {
            return Err(SessionLost::Protocol("R2T for a task that is not there"));
        };
        let start = r2t.buffer_offset as usize;
        let end = start.saturating_add(r2t.desired_bytes as usize);
        if r2t.desired_bytes == 0 || end > task.data_out.len() {
            return Err(SessionLost::Protocol("R2T for data that is not there"));
        }
        // DataSequenceInOrder is Yes and there is no recovery R2T at ErrorRecoveryLevel 0 (RFC 7143 §11.8), so offsets only
        // grow. A target that asks again for what it has would make this end queue the whole write for 48 bytes.
        if start < task.data_sent {
            return Err(SessionLost::Protocol("R2T for data that was sent already"));
        }
        task.data_sent = end;
        let (data, lun) = (task.data_out.slice(start..end), task.lun);
        self.send_data(lun, r2t.tag, r2t.transfer_tag, data, r2t.buffer_offset);
        Ok(())
    }

    pub(super) fn receive_data_in(&mut self, pdu: DataIn) -> Result<(), SessionLost> {
        match pdu.status {
            None => self.note_window(pdu.window),
            Some(_) => self.note_status(pdu.window),
        }
        let Some(task) = self.tasks.sent_task(pdu.tag) else {
            return Err(SessionLost::Protocol("Data-In for a task that is not there"));
        };
        // DataPDUInOrder and DataSequenceInOrder are both Yes, so data arrives from the start to the end.
        let gathered = task.data_in.len();
        if pdu.buffer_offset as usize != gathered || gathered + pdu.data.len() > task.read_bytes as usize {
            return Err(SessionLost::Protocol("Data-In out of order or beyond the expected length"));
        }
        task.data_in.append(pdu.data, task.read_bytes as usize);
        if let Some(status) = pdu.status {
            self.complete(pdu.tag, status, Bytes::new(), pdu.residual);
        }
        Ok(())
    }

    pub(super) fn receive_response(&mut self, response: ScsiResponse) -> Result<(), SessionLost> {
        self.note_status(response.window);
        if self.tasks.sent_task(response.tag).is_none() {
            return Err(SessionLost::Protocol("a SCSI response for a task that is not there"));
        }
        if is_completed(response.response) {
            self.complete(response.tag, response.status, response.sense, response.residual);
        } else if let Place::Sent(task) = self.tasks.vacate(response.tag) {
            self.events.push_back(Event::Ended { ticket: task.ticket, fate: Fate::Unknown });
        }
        Ok(())
    }

    fn complete(&mut self, tag: TaskTag, status: u8, sense: Bytes, residual: Residual) {
        if let Place::Sent(task) = self.tasks.vacate(tag) {
            let completion = Completion { status, sense, data_in: task.data_in.into_bytes(), residual };
            self.events.push_back(Event::Completed { ticket: task.ticket, completion });
        }
    }

    pub(super) fn receive_managed(&mut self, pdu: TaskManagementResponse) -> Result<(), SessionLost> {
        self.note_status(pdu.window);
        let Some(Place::Managing(_)) = self.tasks.place(pdu.tag) else {
            return Err(SessionLost::Protocol("a task management response for a function that is not there"));
        };
        if let Place::Managing(management) = self.tasks.vacate(pdu.tag) {
            if pdu.response == TaskFunctionResponse::COMPLETE {
                self.end_aborted(&management);
            }
            self.events.push_back(Event::Managed { ticket: management.ticket, response: pdu.response });
        }
        Ok(())
    }

    /// Ends the tasks a completed function has aborted: the target will not answer them any more (RFC 7143 §4.2.3.3).
    fn end_aborted(&mut self, management: &Managing<T>) {
        for tag in self.tasks.tags() {
            let Some(task) = self.tasks.sent_task(tag) else { continue };
            let is_older = task.cmd_sn.is_before(management.cmd_sn);
            let is_aborted = match management.function {
                TaskFunction::ABORT_TASK => management.referenced == Some(tag),
                TaskFunction::ABORT_TASK_SET | TaskFunction::CLEAR_TASK_SET | TaskFunction::LOGICAL_UNIT_RESET => {
                    is_older && task.lun == management.lun
                }
                TaskFunction::TARGET_WARM_RESET | TaskFunction::TARGET_COLD_RESET | TaskFunction::I_T_NEXUS_RESET => {
                    is_older
                }
                _function_that_aborts_nothing => false,
            };
            if is_aborted && let Place::Sent(task) = self.tasks.vacate(tag) {
                self.events.push_back(Event::Ended { ticket: task.ticket, fate: Fate::Unknown });
            }
        }
    }

    /// Ends what is overdue and was never sent, and finds the next deadline.
    pub(super) fn expire_tasks(&mut self, now: Micros) -> Result<(), SessionLost> {
        let mut earliest = Micros(u64::MAX);
        for tag in self.tasks.tags() {
            let (deadline, was_sent) = match self.tasks.place(tag) {
                None | Some(Place::Free) => continue,
                Some(Place::Waiting(command)) => (command.deadline, false),
                Some(Place::Sent(task)) => (task.deadline, true),
                Some(Place::Managing(task)) => (task.deadline, true),
            };
            if now < deadline {
                earliest = earliest.min(deadline);
            } else if was_sent {
                return Err(SessionLost::CommandTooSlow);
            } else if let Place::Waiting(command) = self.tasks.vacate(tag) {
                self.events.push_back(Event::Ended { ticket: command.ticket, fate: Fate::NotSent });
            }
        }
        self.earliest_deadline = earliest;
        Ok(())
    }
}
