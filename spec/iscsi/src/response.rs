//! PDUs that a target sends (RFC 7143 §11.4, .6 to .9, .11, .13, .15, .17, .19).
//!
//! Not here: when to send what. The one idea: one plain struct a PDU, `into_frame` and `decode`; the three sequence
//! numbers that every one of them carries are one value, [`Window`].

use bytes::{BufMut, Bytes, BytesMut};

use crate::bhs::{Bhs, Malformed, Opcode};
use crate::codes::{AsyncEvent, LogoutResponseCode, RejectReason, Residual, ServiceResponse, TaskFunctionResponse};
use crate::frame::Frame;
use crate::login::{LoginStatus, Stage};
use crate::request::{isid, stage_flags, stages};
use crate::serial::{CmdSn, Isid, StatSn, TaskTag, TransferTag, Tsih};

const FINAL: u8 = 0x80;

/// StatSN, ExpCmdSN and MaxCmdSN of a PDU from the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Window {
    /// Number of this status (for PDUs without status: the next one's; reserved in Data-In without status).
    pub stat_sn: StatSn,
    /// Next CmdSN the target expects.
    pub exp_cmd_sn: CmdSn,
    /// Highest CmdSN the target takes.
    pub max_cmd_sn: CmdSn,
}

impl Window {
    fn read(bhs: &Bhs) -> Self {
        Self { stat_sn: StatSn(bhs.u32(24)), exp_cmd_sn: CmdSn(bhs.u32(28)), max_cmd_sn: CmdSn(bhs.u32(32)) }
    }

    fn write(self, bhs: Bhs) -> Bhs {
        bhs.with_u32(24, self.stat_sn.0).with_u32(28, self.exp_cmd_sn.0).with_u32(32, self.max_cmd_sn.0)
    }
}

/// SCSI Response, RFC 7143 §11.4.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScsiResponse {
    /// iSCSI service response.
    pub response: ServiceResponse,
    /// SCSI status byte; means something only if completed at the target.
    pub status: u8,
    /// Initiator task tag.
    pub tag: TaskTag,
    /// Sequence numbers.
    pub window: Window,
    /// How many Data-In (or R2T) PDUs were sent for the command.
    pub exp_data_sn: u32,
    /// Residual of the read of a bidirectional command.
    pub read_residual: Residual,
    /// Residual.
    pub residual: Residual,
    /// Sense data without the leading length; empty if none.
    pub sense: Bytes,
}

impl ScsiResponse {
    /// Reads a frame.
    ///
    /// # Errors
    /// [`Malformed`]: other opcode, or sense data shorter than its length field says.
    pub fn decode(frame: Frame) -> Result<Self, Malformed> {
        let Frame { bhs, data, .. } = frame;
        bhs.expect(Opcode::ScsiResponse)?;
        Ok(Self {
            response: ServiceResponse(bhs.byte(2)),
            status: bhs.byte(3),
            tag: TaskTag(bhs.u32(16)),
            window: Window::read(&bhs),
            exp_data_sn: bhs.u32(36),
            read_residual: Residual::from_bits(bhs.flags() >> 2, bhs.u32(40)),
            residual: Residual::from_bits(bhs.flags(), bhs.u32(44)),
            sense: split_sense(&data)?.0,
        })
    }

    /// Makes the frame.
    #[must_use]
    pub fn into_frame(self) -> Frame {
        let flags = FINAL | self.read_residual.bits() << 2 | self.residual.bits();
        let bhs = Bhs::new(Opcode::ScsiResponse, flags)
            .with_byte(2, self.response.0)
            .with_byte(3, self.status)
            .with_u32(16, self.tag.0)
            .with_u32(36, self.exp_data_sn)
            .with_u32(40, self.read_residual.count())
            .with_u32(44, self.residual.count());
        Frame::new(self.window.write(bhs), join_sense(&self.sense, &[]))
    }
}

/// Splits a data segment into sense data and the rest, RFC 7143 §11.4.7.
fn split_sense(data: &Bytes) -> Result<(Bytes, Bytes), Malformed> {
    if data.is_empty() {
        return Ok((Bytes::new(), Bytes::new()));
    }
    let length = data.first_chunk::<2>().ok_or(Malformed::ShortData("sense length"))?;
    let end = 2 + usize::from(u16::from_be_bytes(*length));
    if data.len() < end {
        return Err(Malformed::ShortData("sense data"));
    }
    Ok((data.slice(2..end), data.slice(end..)))
}

/// PANIC: sense data is at most 252 bytes (SPC-4 r37 §4.5.1); more than 65,535 is this end's own mistake.
fn join_sense(sense: &Bytes, rest: &[u8]) -> Bytes {
    if sense.is_empty() && rest.is_empty() {
        return Bytes::new();
    }
    let length = u16::try_from(sense.len()).expect("sense data fits its length field");
    let mut data = BytesMut::with_capacity(2 + sense.len() + rest.len());
    data.put_u16(length);
    data.put_slice(sense);
    data.put_slice(rest);
    data.freeze()
}

/// Task Management Function Response, RFC 7143 §11.6.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TaskManagementResponse {
    /// The answer.
    pub response: TaskFunctionResponse,
    /// Initiator task tag of the request.
    pub tag: TaskTag,
    /// Sequence numbers.
    pub window: Window,
}

impl TaskManagementResponse {
    /// Reads a frame.
    ///
    /// # Errors
    /// [`Malformed::Opcode`].
    pub fn decode(frame: Frame) -> Result<Self, Malformed> {
        let bhs = frame.bhs;
        bhs.expect(Opcode::TaskManagementResponse)?;
        Ok(Self { response: TaskFunctionResponse(bhs.byte(2)), tag: TaskTag(bhs.u32(16)), window: Window::read(&bhs) })
    }

    /// Makes the frame.
    #[must_use]
    pub fn into_frame(self) -> Frame {
        let bhs =
            Bhs::new(Opcode::TaskManagementResponse, FINAL).with_byte(2, self.response.0).with_u32(16, self.tag.0);
        Frame::new(self.window.write(bhs), Bytes::new())
    }
}

/// SCSI Data-In, RFC 7143 §11.7.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DataIn {
    /// Last PDU of its sequence.
    pub is_final: bool,
    /// A bit: the target asks for an acknowledgement (ErrorRecoveryLevel 1 and above).
    pub acknowledge: bool,
    /// SCSI status, if this PDU ends the command (S bit).
    pub status: Option<u8>,
    /// Residual; only with status.
    pub residual: Residual,
    /// Logical unit number, with `acknowledge`.
    pub lun: u64,
    /// Initiator task tag.
    pub tag: TaskTag,
    /// Transfer tag, with `acknowledge`; else reserved.
    pub transfer_tag: TransferTag,
    /// Sequence numbers; `stat_sn` only with status.
    pub window: Window,
    /// Number within the command.
    pub data_sn: u32,
    /// Offset of the data in the command's buffer.
    pub buffer_offset: u32,
    /// The data.
    pub data: Bytes,
}

impl DataIn {
    /// Reads a frame.
    ///
    /// # Errors
    /// [`Malformed::Opcode`].
    pub fn decode(frame: Frame) -> Result<Self, Malformed> {
        let Frame { bhs, data, .. } = frame;
        bhs.expect(Opcode::DataIn)?;
        let flags = bhs.flags();
        let ends = flags & 0x01 != 0;
        Ok(Self {
            is_final: flags & FINAL != 0,
            acknowledge: flags & 0x40 != 0,
            status: ends.then(|| bhs.byte(3)),
            residual: if ends { Residual::from_bits(flags, bhs.u32(44)) } else { Residual::None },
            lun: bhs.lun(),
            tag: TaskTag(bhs.u32(16)),
            transfer_tag: TransferTag(bhs.u32(20)),
            window: Window::read(&bhs),
            data_sn: bhs.u32(36),
            buffer_offset: bhs.u32(40),
            data,
        })
    }

    /// Makes the frame. PANIC: as [`Frame::new`].
    #[must_use]
    pub fn into_frame(self) -> Frame {
        let flags = u8::from(self.is_final) << 7
            | u8::from(self.acknowledge) << 6
            | self.residual.bits()
            | u8::from(self.status.is_some());
        let bhs = Bhs::new(Opcode::DataIn, flags)
            .with_byte(3, self.status.unwrap_or(0))
            .with_lun(self.lun)
            .with_u32(16, self.tag.0)
            .with_u32(20, self.transfer_tag.0)
            .with_u32(36, self.data_sn)
            .with_u32(40, self.buffer_offset)
            .with_u32(44, self.residual.count());
        Frame::new(self.window.write(bhs), self.data)
    }
}

/// Ready To Transfer, RFC 7143 §11.8.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct R2t {
    /// Logical unit number, raw.
    pub lun: u64,
    /// Tag of the command.
    pub tag: TaskTag,
    /// To be copied into the Data-Out PDUs.
    pub transfer_tag: TransferTag,
    /// Sequence numbers; `stat_sn` is the next one's.
    pub window: Window,
    /// Number of this R2T within the command.
    pub r2t_sn: u32,
    /// Where the wanted data starts.
    pub buffer_offset: u32,
    /// How many bytes are wanted.
    pub desired_bytes: u32,
}

impl R2t {
    /// Reads a frame.
    ///
    /// # Errors
    /// [`Malformed::Opcode`].
    pub fn decode(frame: Frame) -> Result<Self, Malformed> {
        let bhs = frame.bhs;
        bhs.expect(Opcode::R2t)?;
        Ok(Self {
            lun: bhs.lun(),
            tag: TaskTag(bhs.u32(16)),
            transfer_tag: TransferTag(bhs.u32(20)),
            window: Window::read(&bhs),
            r2t_sn: bhs.u32(36),
            buffer_offset: bhs.u32(40),
            desired_bytes: bhs.u32(44),
        })
    }

    /// Makes the frame.
    #[must_use]
    pub fn into_frame(self) -> Frame {
        let bhs = Bhs::new(Opcode::R2t, FINAL)
            .with_lun(self.lun)
            .with_u32(16, self.tag.0)
            .with_u32(20, self.transfer_tag.0)
            .with_u32(36, self.r2t_sn)
            .with_u32(40, self.buffer_offset)
            .with_u32(44, self.desired_bytes);
        Frame::new(self.window.write(bhs), Bytes::new())
    }
}

/// Asynchronous Message, RFC 7143 §11.9.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AsyncMessage {
    /// What happened.
    pub event: AsyncEvent,
    /// Vendor code.
    pub vendor_code: u8,
    /// Logical unit number, for SCSI events.
    pub lun: u64,
    /// Sequence numbers.
    pub window: Window,
    /// Parameter 1 to 3; their meaning depends on `event`.
    pub parameters: [u16; 3],
    /// Sense data of a SCSI event; empty if none.
    pub sense: Bytes,
    /// Event data behind the sense data.
    pub event_data: Bytes,
}

impl AsyncMessage {
    /// Reads a frame.
    ///
    /// # Errors
    /// [`Malformed`]: other opcode, or sense data shorter than its length field says.
    pub fn decode(frame: Frame) -> Result<Self, Malformed> {
        let Frame { bhs, data, .. } = frame;
        bhs.expect(Opcode::AsyncMessage)?;
        let (sense, event_data) = split_sense(&data)?;
        Ok(Self {
            event: AsyncEvent(bhs.byte(36)),
            vendor_code: bhs.byte(37),
            lun: bhs.lun(),
            window: Window::read(&bhs),
            parameters: [bhs.u16(38), bhs.u16(40), bhs.u16(42)],
            sense,
            event_data,
        })
    }

    /// Makes the frame.
    #[must_use]
    pub fn into_frame(self) -> Frame {
        let [one, two, three] = self.parameters;
        let bhs = Bhs::new(Opcode::AsyncMessage, FINAL)
            .with_lun(self.lun)
            .with_u32(16, TaskTag::RESERVED.0)
            .with_byte(36, self.event.0)
            .with_byte(37, self.vendor_code)
            .with_u16(38, one)
            .with_u16(40, two)
            .with_u16(42, three);
        Frame::new(self.window.write(bhs), join_sense(&self.sense, &self.event_data))
    }
}

/// Text Response, RFC 7143 §11.11.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TextResponse {
    /// F bit: the negotiation has ended.
    pub is_final: bool,
    /// C bit: the text goes on in the next response.
    pub more_text: bool,
    /// Logical unit number, with `transfer_tag`.
    pub lun: u64,
    /// Initiator task tag.
    pub tag: TaskTag,
    /// To be copied into the next request; reserved if final.
    pub transfer_tag: TransferTag,
    /// Sequence numbers.
    pub window: Window,
    /// Text keys.
    pub text: Bytes,
}

impl TextResponse {
    /// Reads a frame.
    ///
    /// # Errors
    /// [`Malformed::Opcode`].
    pub fn decode(frame: Frame) -> Result<Self, Malformed> {
        let Frame { bhs, data, .. } = frame;
        bhs.expect(Opcode::TextResponse)?;
        Ok(Self {
            is_final: bhs.flags() & FINAL != 0,
            more_text: bhs.flags() & 0x40 != 0,
            lun: bhs.lun(),
            tag: TaskTag(bhs.u32(16)),
            transfer_tag: TransferTag(bhs.u32(20)),
            window: Window::read(&bhs),
            text: data,
        })
    }

    /// Makes the frame. PANIC: as [`Frame::new`].
    #[must_use]
    pub fn into_frame(self) -> Frame {
        let flags = u8::from(self.is_final) << 7 | u8::from(self.more_text) << 6;
        let bhs = Bhs::new(Opcode::TextResponse, flags)
            .with_lun(self.lun)
            .with_u32(16, self.tag.0)
            .with_u32(20, self.transfer_tag.0);
        Frame::new(self.window.write(bhs), self.text)
    }
}

/// Login Response, RFC 7143 §11.13.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoginResponse {
    /// T bit: the target goes to `next_stage`.
    pub transit: bool,
    /// C bit: the text goes on in the next response.
    pub more_text: bool,
    /// Current stage.
    pub stage: Stage,
    /// Next stage; means something only with `transit`.
    pub next_stage: Stage,
    /// Highest version supported.
    pub version_max: u8,
    /// Version in use.
    pub version_active: u8,
    /// Copied from the request.
    pub isid: Isid,
    /// Session handle given by the target in the last response.
    pub tsih: Tsih,
    /// Initiator task tag.
    pub tag: TaskTag,
    /// Sequence numbers.
    pub window: Window,
    /// Status.
    pub status: LoginStatus,
    /// Text keys.
    pub text: Bytes,
}

impl LoginResponse {
    /// Reads a frame.
    ///
    /// # Errors
    /// [`Malformed::Opcode`]; [`Malformed::Field`] for the reserved stage 2.
    pub fn decode(frame: Frame) -> Result<Self, Malformed> {
        let Frame { bhs, data, .. } = frame;
        bhs.expect(Opcode::LoginResponse)?;
        let (stage, next_stage) = stages(bhs.flags())?;
        Ok(Self {
            transit: bhs.flags() & 0x80 != 0,
            more_text: bhs.flags() & 0x40 != 0,
            stage,
            next_stage,
            version_max: bhs.byte(2),
            version_active: bhs.byte(3),
            isid: isid(&bhs),
            tsih: Tsih(bhs.u16(14)),
            tag: TaskTag(bhs.u32(16)),
            window: Window::read(&bhs),
            status: LoginStatus { class: bhs.byte(36), detail: bhs.byte(37) },
            text: data,
        })
    }

    /// Makes the frame. PANIC: as [`Frame::new`].
    #[must_use]
    pub fn into_frame(self) -> Frame {
        let flags = stage_flags(self.transit, self.more_text, self.stage, self.next_stage);
        let mut bhs = Bhs::new(Opcode::LoginResponse, flags)
            .with_byte(2, self.version_max)
            .with_byte(3, self.version_active)
            .with_u16(14, self.tsih.0)
            .with_u32(16, self.tag.0)
            .with_byte(36, self.status.class)
            .with_byte(37, self.status.detail);
        bhs.0[8..14].copy_from_slice(&self.isid.0);
        Frame::new(self.window.write(bhs), self.text)
    }
}

/// Logout Response, RFC 7143 §11.15.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogoutResponse {
    /// The answer.
    pub response: LogoutResponseCode,
    /// Initiator task tag.
    pub tag: TaskTag,
    /// Sequence numbers.
    pub window: Window,
    /// Seconds to wait before reconnecting.
    pub time_to_wait_s: u16,
    /// Seconds after `time_to_wait_s` for which the target keeps tasks.
    pub time_to_retain_s: u16,
}

impl LogoutResponse {
    /// Reads a frame.
    ///
    /// # Errors
    /// [`Malformed::Opcode`].
    pub fn decode(frame: Frame) -> Result<Self, Malformed> {
        let bhs = frame.bhs;
        bhs.expect(Opcode::LogoutResponse)?;
        Ok(Self {
            response: LogoutResponseCode(bhs.byte(2)),
            tag: TaskTag(bhs.u32(16)),
            window: Window::read(&bhs),
            time_to_wait_s: bhs.u16(40),
            time_to_retain_s: bhs.u16(42),
        })
    }

    /// Makes the frame.
    #[must_use]
    pub fn into_frame(self) -> Frame {
        let bhs = Bhs::new(Opcode::LogoutResponse, FINAL)
            .with_byte(2, self.response.0)
            .with_u32(16, self.tag.0)
            .with_u16(40, self.time_to_wait_s)
            .with_u16(42, self.time_to_retain_s);
        Frame::new(self.window.write(bhs), Bytes::new())
    }
}

/// Reject, RFC 7143 §11.17.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reject {
    /// Why.
    pub reason: RejectReason,
    /// Sequence numbers.
    pub window: Window,
    /// DataSN or R2TSN the target expected, for some reasons.
    pub data_sn: u32,
    /// Header of the rejected PDU (the sender's bytes, usually 48).
    pub rejected: Bytes,
}

impl Reject {
    /// Reads a frame.
    ///
    /// # Errors
    /// [`Malformed::Opcode`].
    pub fn decode(frame: Frame) -> Result<Self, Malformed> {
        let Frame { bhs, data, .. } = frame;
        bhs.expect(Opcode::Reject)?;
        Ok(Self { reason: RejectReason(bhs.byte(2)), window: Window::read(&bhs), data_sn: bhs.u32(36), rejected: data })
    }

    /// Makes the frame. PANIC: as [`Frame::new`].
    #[must_use]
    pub fn into_frame(self) -> Frame {
        let bhs = Bhs::new(Opcode::Reject, FINAL)
            .with_byte(2, self.reason.0)
            .with_u32(16, TaskTag::RESERVED.0)
            .with_u32(36, self.data_sn);
        Frame::new(self.window.write(bhs), self.rejected)
    }
}

/// NOP-In, RFC 7143 §11.19: an answer to a NOP-Out if `tag` is set, a ping if `transfer_tag` is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NopIn {
    /// Logical unit number.
    pub lun: u64,
    /// Tag of the NOP-Out answered, or reserved.
    pub tag: TaskTag,
    /// Reserved unless an answer is wanted.
    pub transfer_tag: TransferTag,
    /// Sequence numbers; `stat_sn` is the next one's in a ping.
    pub window: Window,
    /// Ping data returned.
    pub data: Bytes,
}

impl NopIn {
    /// Reads a frame.
    ///
    /// # Errors
    /// [`Malformed::Opcode`].
    pub fn decode(frame: Frame) -> Result<Self, Malformed> {
        let Frame { bhs, data, .. } = frame;
        bhs.expect(Opcode::NopIn)?;
        Ok(Self {
            lun: bhs.lun(),
            tag: TaskTag(bhs.u32(16)),
            transfer_tag: TransferTag(bhs.u32(20)),
            window: Window::read(&bhs),
            data,
        })
    }

    /// Makes the frame. PANIC: as [`Frame::new`].
    #[must_use]
    pub fn into_frame(self) -> Frame {
        let bhs = Bhs::new(Opcode::NopIn, FINAL)
            .with_lun(self.lun)
            .with_u32(16, self.tag.0)
            .with_u32(20, self.transfer_tag.0);
        Frame::new(self.window.write(bhs), self.data)
    }
}
