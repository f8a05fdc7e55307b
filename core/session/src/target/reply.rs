//! Answers to commands: Data-In with or without status, SCSI Response, residuals (RFC 7143 §11.4, §11.7).
//!
//! Not here: when a command may be answered. The one idea: a read that went well ends with its last Data-In and needs
//! no response PDU of its own; everything else ends with a SCSI Response.

use bytes::Bytes;
use understudy_iscsi::codes::{Residual, ServiceResponse};
use understudy_iscsi::response::{DataIn, ScsiResponse, Window};
use understudy_iscsi::serial::{StatSn, TaskTag, TransferTag};

use super::full::Command;
use super::parameters::Parameters;
use super::transfer::Fault;
use super::wire::Wire;

/// SAM-5 status codes that are used here.
const GOOD: u8 = 0x00;
const CHECK_CONDITION: u8 = 0x02;
const TASK_SET_FULL: u8 = 0x28;

/// What became of a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// SCSI status byte (SAM-5).
    pub status: u8,
    /// Sense data; empty if none.
    pub sense: Bytes,
    /// Data for the initiator; cut here to what it expects.
    pub data_in: Bytes,
    /// Data-out that the CDB asked for, in bytes, for the residual.
    pub data_out_wanted: u32,
    /// Bytes of data-in that the command had and that went to the initiator's data region; then `data_in` is empty.
    pub data_in_moved: u32,
}

impl Reply {
    /// GOOD without data.
    #[must_use]
    pub fn good() -> Self {
        Self { status: GOOD, sense: Bytes::new(), data_in: Bytes::new(), data_out_wanted: 0, data_in_moved: 0 }
    }

    /// TASK SET FULL.
    pub(crate) fn task_set_full() -> Self {
        Self { status: TASK_SET_FULL, ..Self::good() }
    }
}

/// Sends the answer to `command`.
pub(crate) fn send(tag: TaskTag, command: &Command, reply: Reply, agreed: &Parameters, wire: &mut Wire) {
    let length = u32::try_from(reply.data_in.len()).unwrap_or(u32::MAX).max(reply.data_in_moved);
    let actual = if command.read { length } else { length.max(reply.data_out_wanted) };
    let residual = Residual::between(command.expected_bytes, actual);
    let mut data = if command.read && !command.write { reply.data_in } else { Bytes::new() };
    data.truncate(command.expected_bytes as usize);
    let mut data_sn = command.data_sn_of_status();
    if !data.is_empty() {
        let status = (reply.status == GOOD && reply.sense.is_empty()).then_some((reply.status, residual));
        data_sn = send_data(tag, data, status, agreed, wire);
        if status.is_some() {
            return;
        }
    }
    let response = ScsiResponse {
        response: ServiceResponse::COMPLETED,
        status: reply.status,
        tag,
        window: wire.status_window(),
        exp_data_sn: data_sn,
        read_residual: Residual::None,
        residual,
        sense: reply.sense,
    };
    wire.send(response.into_frame());
}

/// Room for all of a command's data, if one PDU can carry it and the initiator wants no less.
pub(crate) fn place<'a>(
    command: &Command,
    bytes: usize,
    agreed: &Parameters,
    wire: &'a mut Wire,
) -> Option<&'a mut [u8]> {
    let most = command.expected_bytes.min(agreed.send_data_segment).min(agreed.max_burst);
    let fits = command.read && !command.write && (1..=most as usize).contains(&bytes);
    if fits { wire.place(bytes) } else { None }
}

/// Sends the answer GOOD with the bytes that were placed.
pub(crate) fn send_placed(tag: TaskTag, command: &Command, wire: &mut Wire) {
    let bytes = u32::try_from(wire.out.placed()).unwrap_or(u32::MAX);
    let residual = Residual::between(command.expected_bytes, bytes);
    let window = wire.status_window();
    let pdu = DataIn { is_final: true, ..data_in(tag, Some((GOOD, residual)), window) };
    wire.send_placed(pdu.into_frame().bhs);
}

/// The first Data-In of a command, without data.
fn data_in(tag: TaskTag, ended: Option<(u8, Residual)>, window: Window) -> DataIn {
    DataIn {
        is_final: false,
        acknowledge: false,
        status: ended.map(|(status, _)| status),
        residual: ended.map_or(Residual::None, |(_, residual)| residual),
        lun: 0,
        tag,
        transfer_tag: TransferTag::RESERVED,
        window,
        data_sn: 0,
        buffer_offset: 0,
        data: Bytes::new(),
    }
}

/// Sends data in segments the initiator takes, grouped into bursts; returns the number of PDUs.
fn send_data(
    tag: TaskTag,
    mut data: Bytes,
    status: Option<(u8, Residual)>,
    agreed: &Parameters,
    wire: &mut Wire,
) -> u32 {
    let mut data_sn = 0;
    let mut buffer_offset = 0;
    let mut burst_left = agreed.max_burst;
    // BOUND: every turn takes at least one byte off `data`; segments and bursts are at least 512 bytes.
    while !data.is_empty() {
        let segment = agreed.send_data_segment.min(burst_left).min(u32::try_from(data.len()).unwrap_or(u32::MAX));
        let piece = data.split_to(segment as usize);
        burst_left -= segment;
        let last = data.is_empty();
        let ended = if last { status } else { None };
        let window = if ended.is_some() { wire.status_window() } else { without_status(wire) };
        let is_final = last || burst_left == 0;
        let pdu = DataIn { is_final, data_sn, buffer_offset, data: piece, ..data_in(tag, ended, window) };
        wire.send(pdu.into_frame());
        data_sn += 1;
        buffer_offset += segment;
        if burst_left == 0 {
            burst_left = agreed.max_burst;
        }
    }
    data_sn
}

/// StatSN is reserved in a Data-In without status (RFC 7143 §11.7.4).
fn without_status(wire: &Wire) -> Window {
    Window { stat_sn: StatSn(0), ..wire.window() }
}

/// Ends a command whose data-out could not be used: ABORTED COMMAND with the code of RFC 7143 §11.4.7.2.
pub(crate) fn send_fault(tag: TaskTag, command: &Command, fault: Fault, wire: &mut Wire) {
    let (code, qualifier) = match fault {
        Fault::Unexpected => (0x0c, 0x0c),
        Fault::WrongAmount => (0x0c, 0x0d),
        Fault::Digest => (0x47, 0x05),
    };
    // Fixed format, current error, SPC-4 r37 §4.5.3.
    let sense = [0x70, 0, 0x0b, 0, 0, 0, 0, 10, 0, 0, 0, 0, code, qualifier, 0, 0, 0, 0];
    let response = ScsiResponse {
        response: ServiceResponse::COMPLETED,
        status: CHECK_CONDITION,
        tag,
        window: wire.status_window(),
        exp_data_sn: command.data_sn_of_status(),
        read_residual: Residual::None,
        residual: Residual::between(command.expected_bytes, 0),
        sense: Bytes::copy_from_slice(&sense),
    };
    wire.send(response.into_frame());
}
