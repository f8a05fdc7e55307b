//! PDUs that an initiator sends (RFC 7143 §11.3, .5, .7, .10, .12, .14, .16, .18).
//!
//! Not here: what a session allows. The one idea: one plain struct a PDU, `into_frame` and `decode`; fields that the
//! RFC reserves are written as zero and ignored when read.

use bytes::{Bytes, BytesMut};

use crate::advertised::{self, Advertised};
use crate::bhs::{Bhs, Malformed, Opcode};
use crate::codes::{LogoutReason, TaskAttribute, TaskFunction};
use crate::frame::Frame;
use crate::login::Stage;
use crate::serial::{Cid, CmdSn, Isid, StatSn, TaskTag, TransferTag, Tsih};

const FINAL: u8 = 0x80;

/// SCSI Command, RFC 7143 §11.3.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScsiCommand {
    /// Immediate delivery.
    pub immediate: bool,
    /// No unsolicited Data-Out PDUs follow this one.
    pub is_final: bool,
    /// Data-in is expected.
    pub read: bool,
    /// Data-out is expected.
    pub write: bool,
    /// Task attribute.
    pub attribute: TaskAttribute,
    /// Logical unit number, raw.
    pub lun: u64,
    /// Initiator task tag.
    pub tag: TaskTag,
    /// Expected data transfer length in bytes (of the write if both bits are set).
    pub expected_bytes: u32,
    /// Command sequence number.
    pub cmd_sn: CmdSn,
    /// Next StatSN the initiator expects.
    pub exp_stat_sn: StatSn,
    /// First 16 bytes of the CDB, zero-padded.
    pub cdb: [u8; 16],
    /// Additional header segments, raw; see [`ScsiCommand::extended_cdb`].
    pub ahs: Bytes,
    /// Immediate data.
    pub data: Bytes,
}

impl ScsiCommand {
    /// Reads a frame.
    ///
    /// # Errors
    /// [`Malformed::Opcode`].
    pub fn decode(frame: Frame) -> Result<Self, Malformed> {
        let Frame { bhs, ahs, data } = frame;
        bhs.expect(Opcode::ScsiCommand)?;
        let mut cdb = [0; 16];
        cdb.copy_from_slice(&bhs.0[32..48]);
        Ok(Self {
            immediate: bhs.immediate(),
            is_final: bhs.flags() & FINAL != 0,
            read: bhs.flags() & 0x40 != 0,
            write: bhs.flags() & 0x20 != 0,
            attribute: TaskAttribute(bhs.flags() & 0x07),
            lun: bhs.lun(),
            tag: TaskTag(bhs.u32(16)),
            expected_bytes: bhs.u32(20),
            cmd_sn: CmdSn(bhs.u32(24)),
            exp_stat_sn: StatSn(bhs.u32(28)),
            cdb,
            ahs,
            data,
        })
    }

    /// Makes the frame. PANIC: as [`Frame::with_ahs`].
    #[must_use]
    pub fn into_frame(self) -> Frame {
        let flags = u8::from(self.is_final) << 7
            | u8::from(self.read) << 6
            | u8::from(self.write) << 5
            | self.attribute.0 & 0x07;
        let mut bhs = Bhs::new(Opcode::ScsiCommand, flags)
            .with_immediate(self.immediate)
            .with_lun(self.lun)
            .with_u32(16, self.tag.0)
            .with_u32(20, self.expected_bytes)
            .with_u32(24, self.cmd_sn.0)
            .with_u32(28, self.exp_stat_sn.0);
        bhs.0[32..48].copy_from_slice(&self.cdb);
        Frame::with_ahs(bhs, self.ahs, self.data)
    }

    /// The whole CDB if an Extended CDB segment is present (RFC 7143 §11.2.2.3), else `None`; also `None` if the
    /// segments lie about their lengths.
    #[must_use]
    pub fn extended_cdb(&self) -> Option<Bytes> {
        let rest = self.segment(0x01)?;
        let mut cdb = BytesMut::from(&self.cdb[..]);
        cdb.extend_from_slice(rest.get(1..)?);
        Some(cdb.freeze())
    }

    /// Expected length of the data-in of a bidirectional command (RFC 7143 §11.2.2.4).
    #[must_use]
    pub fn bidirectional_read_bytes(&self) -> Option<u32> {
        let bytes = self.segment(0x02)?.get(1..5)?;
        Some(u32::from_be_bytes(bytes.try_into().ok()?))
    }

    /// Where the initiator has the data, if it says so.
    #[must_use]
    pub fn advertised(&self) -> Option<Advertised> {
        Advertised::decode(self.segment(advertised::AHS_TYPE)?)
    }

    /// The first segment of `kind`: its reserved byte and what follows.
    fn segment(&self, kind: u8) -> Option<&[u8]> {
        let mut rest = &self.ahs[..];
        // BOUND: every turn takes at least four bytes off `rest`.
        while let Some((head, body)) = rest.split_first_chunk::<3>() {
            let length = usize::from(u16::from_be_bytes([head[0], head[1]]));
            if head[2] & 0x3f == kind {
                return body.get(..length);
            }
            let step = (3 + length).next_multiple_of(4);
            rest = rest.get(step..)?;
        }
        None
    }
}

/// NOP-Out, RFC 7143 §11.18: a ping if `tag` is set, an answer to a NOP-In if `transfer_tag` is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NopOut {
    /// Immediate delivery.
    pub immediate: bool,
    /// Logical unit number, copied from the NOP-In answered.
    pub lun: u64,
    /// Initiator task tag, or reserved when no answer is wanted.
    pub tag: TaskTag,
    /// Target transfer tag of the NOP-In answered, or reserved.
    pub transfer_tag: TransferTag,
    /// Command sequence number.
    pub cmd_sn: CmdSn,
    /// Next StatSN the initiator expects.
    pub exp_stat_sn: StatSn,
    /// Ping data.
    pub data: Bytes,
}

impl NopOut {
    /// Reads a frame.
    ///
    /// # Errors
    /// [`Malformed::Opcode`].
    pub fn decode(frame: Frame) -> Result<Self, Malformed> {
        let Frame { bhs, data, .. } = frame;
        bhs.expect(Opcode::NopOut)?;
        Ok(Self {
            immediate: bhs.immediate(),
            lun: bhs.lun(),
            tag: TaskTag(bhs.u32(16)),
            transfer_tag: TransferTag(bhs.u32(20)),
            cmd_sn: CmdSn(bhs.u32(24)),
            exp_stat_sn: StatSn(bhs.u32(28)),
            data,
        })
    }

    /// Makes the frame. PANIC: as [`Frame::new`].
    #[must_use]
    pub fn into_frame(self) -> Frame {
        let bhs = Bhs::new(Opcode::NopOut, FINAL)
            .with_immediate(self.immediate)
            .with_lun(self.lun)
            .with_u32(16, self.tag.0)
            .with_u32(20, self.transfer_tag.0)
            .with_u32(24, self.cmd_sn.0)
            .with_u32(28, self.exp_stat_sn.0);
        Frame::new(bhs, self.data)
    }
}

/// Task Management Function Request, RFC 7143 §11.5.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TaskManagementRequest {
    /// Immediate delivery.
    pub immediate: bool,
    /// What to do.
    pub function: TaskFunction,
    /// Logical unit number, raw.
    pub lun: u64,
    /// Tag of this request.
    pub tag: TaskTag,
    /// Tag of the task it is about, or reserved.
    pub referenced: TaskTag,
    /// Command sequence number.
    pub cmd_sn: CmdSn,
    /// Next StatSN the initiator expects.
    pub exp_stat_sn: StatSn,
    /// CmdSN of the referenced task.
    pub referenced_cmd_sn: CmdSn,
    /// For TASK REASSIGN.
    pub exp_data_sn: u32,
}

impl TaskManagementRequest {
    /// Reads a frame.
    ///
    /// # Errors
    /// [`Malformed::Opcode`].
    pub fn decode(frame: Frame) -> Result<Self, Malformed> {
        let bhs = frame.bhs;
        bhs.expect(Opcode::TaskManagementRequest)?;
        Ok(Self {
            immediate: bhs.immediate(),
            function: TaskFunction(bhs.flags() & 0x7f),
            lun: bhs.lun(),
            tag: TaskTag(bhs.u32(16)),
            referenced: TaskTag(bhs.u32(20)),
            cmd_sn: CmdSn(bhs.u32(24)),
            exp_stat_sn: StatSn(bhs.u32(28)),
            referenced_cmd_sn: CmdSn(bhs.u32(32)),
            exp_data_sn: bhs.u32(36),
        })
    }

    /// Makes the frame.
    #[must_use]
    pub fn into_frame(self) -> Frame {
        let bhs = Bhs::new(Opcode::TaskManagementRequest, FINAL | self.function.0 & 0x7f)
            .with_immediate(self.immediate)
            .with_lun(self.lun)
            .with_u32(16, self.tag.0)
            .with_u32(20, self.referenced.0)
            .with_u32(24, self.cmd_sn.0)
            .with_u32(28, self.exp_stat_sn.0)
            .with_u32(32, self.referenced_cmd_sn.0)
            .with_u32(36, self.exp_data_sn);
        Frame::new(bhs, Bytes::new())
    }
}

/// Login Request, RFC 7143 §11.12.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoginRequest {
    /// T bit: the initiator is ready to go to `next_stage`.
    pub transit: bool,
    /// C bit: the text goes on in the next request.
    pub more_text: bool,
    /// Current stage.
    pub stage: Stage,
    /// Next stage; means something only with `transit`.
    pub next_stage: Stage,
    /// Highest version supported; 0 is the only one.
    pub version_max: u8,
    /// Lowest version supported.
    pub version_min: u8,
    /// Initiator session identifier.
    pub isid: Isid,
    /// Session handle, or zero for a new session.
    pub tsih: Tsih,
    /// Initiator task tag, the same for all requests of a login.
    pub tag: TaskTag,
    /// Connection identifier.
    pub cid: Cid,
    /// Command sequence number.
    pub cmd_sn: CmdSn,
    /// Next StatSN the initiator expects.
    pub exp_stat_sn: StatSn,
    /// Text keys.
    pub text: Bytes,
}

impl LoginRequest {
    /// Reads a frame.
    ///
    /// # Errors
    /// [`Malformed::Opcode`]; [`Malformed::Field`] for the reserved stage 2 (NSG only with the T bit).
    pub fn decode(frame: Frame) -> Result<Self, Malformed> {
        let Frame { bhs, data, .. } = frame;
        bhs.expect(Opcode::LoginRequest)?;
        let transit = bhs.flags() & 0x80 != 0;
        let (stage, next_stage) = stages(bhs.flags())?;
        Ok(Self {
            transit,
            more_text: bhs.flags() & 0x40 != 0,
            stage,
            next_stage,
            version_max: bhs.byte(2),
            version_min: bhs.byte(3),
            isid: isid(&bhs),
            tsih: Tsih(bhs.u16(14)),
            tag: TaskTag(bhs.u32(16)),
            cid: Cid(bhs.u16(20)),
            cmd_sn: CmdSn(bhs.u32(24)),
            exp_stat_sn: StatSn(bhs.u32(28)),
            text: data,
        })
    }

    /// Makes the frame. PANIC: as [`Frame::new`].
    #[must_use]
    pub fn into_frame(self) -> Frame {
        let flags = stage_flags(self.transit, self.more_text, self.stage, self.next_stage);
        let mut bhs = Bhs::new(Opcode::LoginRequest, flags)
            .with_immediate(true)
            .with_byte(2, self.version_max)
            .with_byte(3, self.version_min)
            .with_u16(14, self.tsih.0)
            .with_u32(16, self.tag.0)
            .with_u16(20, self.cid.0)
            .with_u32(24, self.cmd_sn.0)
            .with_u32(28, self.exp_stat_sn.0);
        bhs.0[8..14].copy_from_slice(&self.isid.0);
        Frame::new(bhs, self.text)
    }
}

pub(crate) fn isid(bhs: &Bhs) -> Isid {
    let mut isid = [0; 6];
    isid.copy_from_slice(&bhs.0[8..14]);
    Isid(isid)
}

/// Current and next stage of byte 1. Without the T bit NSG is reserved and read as the current stage.
pub(crate) fn stages(flags: u8) -> Result<(Stage, Stage), Malformed> {
    let stage = Stage::from_bits(flags >> 2).ok_or(Malformed::Field("current login stage"))?;
    if flags & 0x80 == 0 {
        return Ok((stage, stage));
    }
    let next = Stage::from_bits(flags).ok_or(Malformed::Field("next login stage"))?;
    Ok((stage, next))
}

pub(crate) fn stage_flags(transit: bool, more_text: bool, stage: Stage, next: Stage) -> u8 {
    let next = if transit { next as u8 } else { 0 };
    u8::from(transit) << 7 | u8::from(more_text) << 6 | (stage as u8) << 2 | next
}

/// Text Request, RFC 7143 §11.10.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TextRequest {
    /// Immediate delivery.
    pub immediate: bool,
    /// F bit: the initiator has no more to say.
    pub is_final: bool,
    /// C bit: the text goes on in the next request.
    pub more_text: bool,
    /// Logical unit number, copied from the response answered.
    pub lun: u64,
    /// Initiator task tag.
    pub tag: TaskTag,
    /// Transfer tag of the response answered, or reserved.
    pub transfer_tag: TransferTag,
    /// Command sequence number.
    pub cmd_sn: CmdSn,
    /// Next StatSN the initiator expects.
    pub exp_stat_sn: StatSn,
    /// Text keys.
    pub text: Bytes,
}

impl TextRequest {
    /// Reads a frame.
    ///
    /// # Errors
    /// [`Malformed::Opcode`].
    pub fn decode(frame: Frame) -> Result<Self, Malformed> {
        let Frame { bhs, data, .. } = frame;
        bhs.expect(Opcode::TextRequest)?;
        Ok(Self {
            immediate: bhs.immediate(),
            is_final: bhs.flags() & FINAL != 0,
            more_text: bhs.flags() & 0x40 != 0,
            lun: bhs.lun(),
            tag: TaskTag(bhs.u32(16)),
            transfer_tag: TransferTag(bhs.u32(20)),
            cmd_sn: CmdSn(bhs.u32(24)),
            exp_stat_sn: StatSn(bhs.u32(28)),
            text: data,
        })
    }

    /// Makes the frame. PANIC: as [`Frame::new`].
    #[must_use]
    pub fn into_frame(self) -> Frame {
        let flags = u8::from(self.is_final) << 7 | u8::from(self.more_text) << 6;
        let bhs = Bhs::new(Opcode::TextRequest, flags)
            .with_immediate(self.immediate)
            .with_lun(self.lun)
            .with_u32(16, self.tag.0)
            .with_u32(20, self.transfer_tag.0)
            .with_u32(24, self.cmd_sn.0)
            .with_u32(28, self.exp_stat_sn.0);
        Frame::new(bhs, self.text)
    }
}

/// SCSI Data-Out, RFC 7143 §11.7.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DataOut {
    /// Last PDU of its sequence (unsolicited burst or one R2T).
    pub is_final: bool,
    /// Logical unit number, raw.
    pub lun: u64,
    /// Tag of the command.
    pub tag: TaskTag,
    /// Transfer tag of the R2T answered; reserved for unsolicited data.
    pub transfer_tag: TransferTag,
    /// Next StatSN the initiator expects.
    pub exp_stat_sn: StatSn,
    /// Number within its sequence.
    pub data_sn: u32,
    /// Offset of the data in the command's buffer.
    pub buffer_offset: u32,
    /// The data.
    pub data: Bytes,
}

impl DataOut {
    /// Reads a frame.
    ///
    /// # Errors
    /// [`Malformed::Opcode`].
    pub fn decode(frame: Frame) -> Result<Self, Malformed> {
        let Frame { bhs, data, .. } = frame;
        bhs.expect(Opcode::DataOut)?;
        Ok(Self {
            is_final: bhs.flags() & FINAL != 0,
            lun: bhs.lun(),
            tag: TaskTag(bhs.u32(16)),
            transfer_tag: TransferTag(bhs.u32(20)),
            exp_stat_sn: StatSn(bhs.u32(28)),
            data_sn: bhs.u32(36),
            buffer_offset: bhs.u32(40),
            data,
        })
    }

    /// Makes the frame. PANIC: as [`Frame::new`].
    #[must_use]
    pub fn into_frame(self) -> Frame {
        let bhs = Bhs::new(Opcode::DataOut, u8::from(self.is_final) << 7)
            .with_lun(self.lun)
            .with_u32(16, self.tag.0)
            .with_u32(20, self.transfer_tag.0)
            .with_u32(28, self.exp_stat_sn.0)
            .with_u32(36, self.data_sn)
            .with_u32(40, self.buffer_offset);
        Frame::new(bhs, self.data)
    }
}

/// Logout Request, RFC 7143 §11.14.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogoutRequest {
    /// Immediate delivery.
    pub immediate: bool,
    /// Why.
    pub reason: LogoutReason,
    /// Initiator task tag.
    pub tag: TaskTag,
    /// Connection to close, where the reason names one.
    pub cid: Cid,
    /// Command sequence number.
    pub cmd_sn: CmdSn,
    /// Next StatSN the initiator expects.
    pub exp_stat_sn: StatSn,
}

impl LogoutRequest {
    /// Reads a frame.
    ///
    /// # Errors
    /// [`Malformed::Opcode`].
    pub fn decode(frame: Frame) -> Result<Self, Malformed> {
        let bhs = frame.bhs;
        bhs.expect(Opcode::LogoutRequest)?;
        Ok(Self {
            immediate: bhs.immediate(),
            reason: LogoutReason(bhs.flags() & 0x7f),
            tag: TaskTag(bhs.u32(16)),
            cid: Cid(bhs.u16(20)),
            cmd_sn: CmdSn(bhs.u32(24)),
            exp_stat_sn: StatSn(bhs.u32(28)),
        })
    }

    /// Makes the frame.
    #[must_use]
    pub fn into_frame(self) -> Frame {
        let bhs = Bhs::new(Opcode::LogoutRequest, FINAL | self.reason.0 & 0x7f)
            .with_immediate(self.immediate)
            .with_u32(16, self.tag.0)
            .with_u16(20, self.cid.0)
            .with_u32(24, self.cmd_sn.0)
            .with_u32(28, self.exp_stat_sn.0);
        Frame::new(bhs, Bytes::new())
    }
}

/// SNACK Request, RFC 7143 §11.16; at ErrorRecoveryLevel 0 it is only ever rejected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Snack {
    /// Kind, 4 bits.
    pub kind: u8,
    /// Logical unit number, raw.
    pub lun: u64,
    /// Tag of the task, or reserved.
    pub tag: TaskTag,
    /// Transfer tag or SNACK tag.
    pub transfer_tag: TransferTag,
    /// Next StatSN the initiator expects.
    pub exp_stat_sn: StatSn,
    /// First missing number.
    pub begin: u32,
    /// How many are missing.
    pub run: u32,
}

impl Snack {
    /// Reads a frame.
    ///
    /// # Errors
    /// [`Malformed::Opcode`].
    pub fn decode(frame: Frame) -> Result<Self, Malformed> {
        let bhs = frame.bhs;
        bhs.expect(Opcode::Snack)?;
        Ok(Self {
            kind: bhs.flags() & 0x0f,
            lun: bhs.lun(),
            tag: TaskTag(bhs.u32(16)),
            transfer_tag: TransferTag(bhs.u32(20)),
            exp_stat_sn: StatSn(bhs.u32(28)),
            begin: bhs.u32(40),
            run: bhs.u32(44),
        })
    }

    /// Makes the frame.
    #[must_use]
    pub fn into_frame(self) -> Frame {
        let bhs = Bhs::new(Opcode::Snack, FINAL | self.kind & 0x0f)
            .with_lun(self.lun)
            .with_u32(16, self.tag.0)
            .with_u32(20, self.transfer_tag.0)
            .with_u32(28, self.exp_stat_sn.0)
            .with_u32(40, self.begin)
            .with_u32(44, self.run);
        Frame::new(bhs, Bytes::new())
    }
}
