//! PDUs out of a fuzzer's decisions: fields near what makes sense, and any value now and then.
//!
//! Not a model of a sound peer. The one idea: numbers that a session compares (CmdSN, tags, offsets) are picked from
//! the few that are near the right ones, so that most PDUs get past the first check.

use bytes::Bytes;
use understudy_iscsi::codes::{
    AsyncEvent, LogoutReason, LogoutResponseCode, RejectReason, Residual, ServiceResponse, TaskAttribute, TaskFunction,
    TaskFunctionResponse,
};
use understudy_iscsi::login::{LoginStatus, Stage};
use understudy_iscsi::request::{
    DataOut, LoginRequest, LogoutRequest, NopOut, ScsiCommand, Snack, TaskManagementRequest, TextRequest,
};
use understudy_iscsi::response::{
    AsyncMessage, DataIn, LoginResponse, LogoutResponse, NopIn, R2t, Reject, ScsiResponse, TaskManagementResponse,
    TextResponse, Window,
};
use understudy_iscsi::serial::{Cid, CmdSn, Isid, StatSn, TaskTag, TransferTag, Tsih};
use understudy_iscsi::text::KeyList;
use understudy_iscsi::{InitiatorPdu, TargetPdu};

use crate::choices::Choices;

/// Longest data segment made here.
const DATA_BYTES: usize = 4096;

/// Keys worth sending, with values worth sending.
const KEYS: [(&str, &[&str]); 25] = [
    ("InitiatorName", &["iqn.2026-01.test:c", "", "x"]),
    ("TargetName", &["iqn.2026-01.test:t", "", "x"]),
    ("SessionType", &["Normal", "Discovery", "Other"]),
    ("AuthMethod", &["None", "CHAP,None", "CHAP"]),
    ("HeaderDigest", &["CRC32C", "None", "CRC32C,None", "None,CRC32C", ""]),
    ("DataDigest", &["CRC32C", "None", "CRC32C,None", "None,CRC32C", ""]),
    ("MaxRecvDataSegmentLength", &["8192", "512", "0x400", "16777215", "0", "511"]),
    ("MaxBurstLength", &["512", "1024", "262144", "16777215", "0"]),
    ("FirstBurstLength", &["512", "2048", "65536", "16777215", "0"]),
    ("MaxOutstandingR2T", &["1", "8", "65535", "0", "65536"]),
    ("InitialR2T", &["Yes", "No", "maybe"]),
    ("ImmediateData", &["Yes", "No", "maybe"]),
    ("MaxConnections", &["1", "2", "0"]),
    ("ErrorRecoveryLevel", &["0", "1", "2", "3"]),
    ("DefaultTime2Wait", &["0", "2", "3601"]),
    ("DefaultTime2Retain", &["0", "20"]),
    ("TargetPortalGroupTag", &["1", "65535", "65536"]),
    ("TargetAlias", &["", "a disk"]),
    ("SendTargets", &["All", "", "iqn.2026-01.test:t"]),
    ("X-nobody-knows", &["1", "NotUnderstood", "Reject"]),
    ("CHAP_A", &["8", "5", "8,7,6,5", "0"]),
    ("CHAP_I", &["7", "256", "-1"]),
    ("CHAP_C", &["0x000102030405060708090a0b0c0d0e0f", "0b", "0b////"]),
    ("CHAP_N", &["target", "user", ""]),
    ("CHAP_R", &["0x000102030405060708090a0b0c0d0e0f", "0x", "0b/"]),
];

/// A text: a few keys of the table, or any bytes.
pub(crate) fn key_text(choices: &mut Choices<'_>) -> Bytes {
    let count = choices.below(16);
    if count == 15 {
        return Bytes::copy_from_slice(choices.chunk());
    }
    let mut keys = KeyList::new();
    for _ in 0..count {
        let (key, values) = choices.pick(&KEYS);
        keys.push(key, *choices.pick(values));
    }
    keys.encode()
}

/// Data of a length that is often a whole number of blocks.
pub(crate) fn data(choices: &mut Choices<'_>) -> Bytes {
    let length = match choices.below(6) {
        0 => 0,
        1 => 512,
        2 => 1024,
        3 => DATA_BYTES,
        4 => choices.below(256),
        _ => return Bytes::copy_from_slice(choices.chunk()),
    };
    Bytes::from(vec![choices.byte(); length])
}

/// Near `expected`, or anything.
fn near(choices: &mut Choices<'_>, expected: u32) -> u32 {
    match choices.byte() {
        0..=199 => expected,
        offset @ 200..=231 => expected.wrapping_add(u32::from(offset)).wrapping_sub(215),
        _ => choices.u32(),
    }
}

/// One of sixteen tags, or the reserved one.
pub(crate) fn tag(choices: &mut Choices<'_>) -> TaskTag {
    let number = choices.below(18);
    if number == 17 { TaskTag::RESERVED } else { TaskTag(number as u32) }
}

fn transfer_tag(choices: &mut Choices<'_>) -> TransferTag {
    let number = choices.below(10);
    if number == 9 { TransferTag::RESERVED } else { TransferTag(number as u32) }
}

fn stage(choices: &mut Choices<'_>) -> Stage {
    *choices.pick(&[Stage::Operational, Stage::Security, Stage::FullFeature])
}

fn bytes_count(choices: &mut Choices<'_>) -> u32 {
    *choices.pick(&[0, 512, 1024, 4096, 65_536, 1 << 20, 33 << 20, u32::MAX, 511, 1])
}

fn offset(choices: &mut Choices<'_>) -> u32 {
    *choices.pick(&[0, 512, 1024, 2048, 4096, 65_536, 1, u32::MAX])
}

pub(crate) fn login_request(choices: &mut Choices<'_>, cmd_sn: u32) -> LoginRequest {
    let flags = choices.byte();
    LoginRequest {
        transit: flags & 1 != 0,
        more_text: flags & 2 != 0,
        stage: stage(choices),
        next_stage: *choices.pick(&[Stage::FullFeature, Stage::Operational, Stage::Security]),
        version_max: 0,
        version_min: u8::from(flags & 0xf0 == 0xf0),
        isid: Isid([0x80, 0, 0, 0, 0, u8::from(flags & 0x0c == 0x0c)]),
        tsih: Tsih(0),
        tag: TaskTag(0),
        cid: Cid(0),
        cmd_sn: CmdSn(cmd_sn),
        exp_stat_sn: StatSn(0),
        text: key_text(choices),
    }
}

pub(crate) fn command(choices: &mut Choices<'_>, cmd_sn: u32) -> ScsiCommand {
    let flags = choices.byte();
    ScsiCommand {
        immediate: flags & 0x30 == 0x30,
        is_final: flags & 1 == 0,
        read: flags & 2 != 0,
        write: flags & 4 != 0,
        attribute: TaskAttribute(flags >> 6),
        lun: 0,
        tag: tag(choices),
        expected_bytes: bytes_count(choices),
        cmd_sn: CmdSn(near(choices, cmd_sn)),
        exp_stat_sn: StatSn(0),
        cdb: [0; 16],
        ahs: Bytes::new(),
        data: data(choices),
    }
}

/// Any PDU of an initiator but a login request or a command.
pub(crate) fn request(choices: &mut Choices<'_>, cmd_sn: u32) -> InitiatorPdu {
    let kind = choices.below(8);
    let flags = choices.byte();
    let (immediate, is_final) = (flags & 1 != 0, flags & 2 == 0);
    let (exp_stat_sn, lun) = (StatSn(0), 0);
    match kind {
        0..=2 => InitiatorPdu::DataOut(DataOut {
            is_final,
            lun,
            tag: tag(choices),
            transfer_tag: transfer_tag(choices),
            exp_stat_sn,
            data_sn: choices.below(4) as u32,
            buffer_offset: offset(choices),
            data: data(choices),
        }),
        3 => InitiatorPdu::NopOut(NopOut {
            immediate,
            lun,
            tag: tag(choices),
            transfer_tag: transfer_tag(choices),
            cmd_sn: CmdSn(near(choices, cmd_sn)),
            exp_stat_sn,
            data: data(choices),
        }),
        4 => InitiatorPdu::TaskManagementRequest(TaskManagementRequest {
            immediate,
            function: TaskFunction(choices.below(10) as u8),
            lun,
            tag: tag(choices),
            referenced: tag(choices),
            cmd_sn: CmdSn(near(choices, cmd_sn)),
            exp_stat_sn,
            referenced_cmd_sn: CmdSn(near(choices, cmd_sn)),
            exp_data_sn: 0,
        }),
        5 => InitiatorPdu::TextRequest(TextRequest {
            immediate,
            is_final,
            more_text: flags & 4 != 0,
            lun,
            tag: tag(choices),
            transfer_tag: *choices.pick(&[TransferTag::RESERVED, TransferTag(1), TransferTag(2)]),
            cmd_sn: CmdSn(near(choices, cmd_sn)),
            exp_stat_sn,
            text: key_text(choices),
        }),
        6 => InitiatorPdu::LogoutRequest(LogoutRequest {
            immediate,
            reason: LogoutReason(choices.below(4) as u8),
            tag: tag(choices),
            cid: Cid(u16::from(flags & 0xf0 == 0xf0)),
            cmd_sn: CmdSn(near(choices, cmd_sn)),
            exp_stat_sn,
        }),
        _ => InitiatorPdu::Snack(Snack {
            kind: flags >> 4,
            lun,
            tag: tag(choices),
            transfer_tag: transfer_tag(choices),
            exp_stat_sn,
            begin: 0,
            run: choices.u32(),
        }),
    }
}

/// What a target would have to say to be believed: the numbers of a session under way.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Standing {
    pub(crate) stat_sn: u32,
    pub(crate) cmd_sn: u32,
    /// Tag of some request of the initiator's.
    pub(crate) tag: TaskTag,
}

fn window(choices: &mut Choices<'_>, standing: Standing) -> Window {
    Window {
        stat_sn: StatSn(near(choices, standing.stat_sn)),
        exp_cmd_sn: CmdSn(near(choices, standing.cmd_sn)),
        max_cmd_sn: CmdSn(near(choices, standing.cmd_sn.wrapping_add(8))),
    }
}

pub(crate) fn login_response(choices: &mut Choices<'_>, request: &LoginRequest, standing: Standing) -> LoginResponse {
    let flags = choices.byte();
    LoginResponse {
        transit: flags & 1 == 0,
        more_text: flags & 2 != 0,
        stage: if flags & 0x1c == 0x1c { stage(choices) } else { request.stage },
        next_stage: if flags & 0x0c == 0x0c { stage(choices) } else { request.next_stage },
        version_max: 0,
        version_active: 0,
        isid: request.isid,
        tsih: Tsih(u16::from(flags & 0xe0 != 0xe0)),
        tag: request.tag,
        window: window(choices, standing),
        status: LoginStatus { class: u8::from(choices.byte() == 255), detail: 0 },
        text: key_text(choices),
    }
}

/// Any PDU of a target but a login response.
pub(crate) fn response(choices: &mut Choices<'_>, standing: Standing) -> TargetPdu {
    let kind = choices.below(12);
    let flags = choices.byte();
    let window = window(choices, standing);
    let tag = if flags & 0xc0 == 0xc0 { tag(choices) } else { standing.tag };
    let status = *choices.pick(&[0, 2, 0x18, 8, 0x28, 255]);
    let residual = *choices.pick(&[Residual::None, Residual::Underflow(9), Residual::Overflow(u32::MAX)]);
    match kind {
        0..=2 => TargetPdu::DataIn(DataIn {
            is_final: true,
            acknowledge: flags & 2 != 0,
            status: (flags & 1 != 0).then_some(status),
            residual: if flags & 1 != 0 { residual } else { Residual::None },
            lun: 0,
            tag,
            transfer_tag: TransferTag::RESERVED,
            window,
            data_sn: 0,
            buffer_offset: offset(choices),
            data: data(choices),
        }),
        3..=5 => TargetPdu::R2t(R2t {
            lun: 0,
            tag,
            transfer_tag: transfer_tag(choices),
            window,
            r2t_sn: choices.below(4) as u32,
            buffer_offset: offset(choices),
            desired_bytes: bytes_count(choices),
        }),
        6 => TargetPdu::ScsiResponse(ScsiResponse {
            response: ServiceResponse(u8::from(flags & 3 == 3)),
            status,
            tag,
            window,
            exp_data_sn: 0,
            read_residual: Residual::None,
            residual,
            sense: if flags & 4 != 0 { data(choices) } else { Bytes::new() },
        }),
        rare => rare_response(choices, (rare, flags), window, tag),
    }
}

/// What an initiator that only reads and writes seldom sees.
fn rare_response(choices: &mut Choices<'_>, (kind, flags): (usize, u8), window: Window, tag: TaskTag) -> TargetPdu {
    match kind {
        7 => TargetPdu::TaskManagementResponse(TaskManagementResponse {
            response: TaskFunctionResponse(choices.below(7) as u8),
            tag,
            window,
        }),
        8 => TargetPdu::TextResponse(TextResponse {
            is_final: flags & 1 == 0,
            more_text: flags & 2 != 0,
            lun: 0,
            tag,
            transfer_tag: transfer_tag(choices),
            window,
            text: key_text(choices),
        }),
        9 => TargetPdu::NopIn(NopIn {
            lun: 0,
            tag: if flags & 1 == 0 { TaskTag::RESERVED } else { tag },
            transfer_tag: transfer_tag(choices),
            window,
            data: data(choices),
        }),
        10 => TargetPdu::AsyncMessage(AsyncMessage {
            event: AsyncEvent(choices.below(6) as u8),
            vendor_code: 0,
            lun: 0,
            window,
            parameters: [0, 0, choices.u16()],
            sense: data(choices),
            event_data: Bytes::new(),
        }),
        _ if flags & 1 == 0 => TargetPdu::LogoutResponse(LogoutResponse {
            response: LogoutResponseCode(flags >> 6),
            tag,
            window,
            time_to_wait_s: 0,
            time_to_retain_s: 0,
        }),
        _ => TargetPdu::Reject(Reject {
            reason: RejectReason(choices.byte()),
            window,
            data_sn: 0,
            rejected: data(choices),
        }),
    }
}
