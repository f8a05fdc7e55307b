//! The 48-byte Basic Header Segment (RFC 7143 §11.2.1): field access by offset, and opcodes.
//!
//! Not here: meaning of the fields beyond the common ones. The one idea: a header is its 48 bytes; PDU types read and
//! write them through the few accessors here, so no offset arithmetic exists elsewhere.

use thiserror::Error;

/// Length of a Basic Header Segment in bytes, RFC 7143 §11.2.1.
pub const BHS_BYTES: usize = 48;

/// Largest DataSegmentLength that its 24-bit field can carry.
pub const DATA_SEGMENT_LIMIT: usize = (1 << 24) - 1;

/// Opcode of a PDU, RFC 7143 §11.2.1.2.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
#[allow(missing_docs, reason = "the names are those of the RFC's table")]
pub enum Opcode {
    NopOut = 0x00,
    ScsiCommand = 0x01,
    TaskManagementRequest = 0x02,
    LoginRequest = 0x03,
    TextRequest = 0x04,
    DataOut = 0x05,
    LogoutRequest = 0x06,
    Snack = 0x10,
    NopIn = 0x20,
    ScsiResponse = 0x21,
    TaskManagementResponse = 0x22,
    LoginResponse = 0x23,
    TextResponse = 0x24,
    DataIn = 0x25,
    LogoutResponse = 0x26,
    R2t = 0x31,
    AsyncMessage = 0x32,
    Reject = 0x3f,
}

impl Opcode {
    /// The opcode of a six-bit value, or `None` if the RFC defines none.
    #[must_use]
    pub const fn from_bits(bits: u8) -> Option<Self> {
        Some(match bits & 0x3f {
            0x00 => Self::NopOut,
            0x01 => Self::ScsiCommand,
            0x02 => Self::TaskManagementRequest,
            0x03 => Self::LoginRequest,
            0x04 => Self::TextRequest,
            0x05 => Self::DataOut,
            0x06 => Self::LogoutRequest,
            0x10 => Self::Snack,
            0x20 => Self::NopIn,
            0x21 => Self::ScsiResponse,
            0x22 => Self::TaskManagementResponse,
            0x23 => Self::LoginResponse,
            0x24 => Self::TextResponse,
            0x25 => Self::DataIn,
            0x26 => Self::LogoutResponse,
            0x31 => Self::R2t,
            0x32 => Self::AsyncMessage,
            0x3f => Self::Reject,
            _undefined => return None,
        })
    }
}

/// Why a frame is not the PDU it claims to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Malformed {
    /// The opcode is undefined or belongs to the other direction.
    #[error("unexpected opcode {0:#04x}")]
    Opcode(u8),
    /// A field holds a value that cannot be represented.
    #[error("invalid field: {0}")]
    Field(&'static str),
    /// The data segment is shorter than what it describes.
    #[error("data segment too short: {0}")]
    ShortData(&'static str),
}

/// A Basic Header Segment.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Bhs(pub [u8; BHS_BYTES]);

impl core::fmt::Debug for Bhs {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Bhs({:02x?})", self.0)
    }
}

impl Bhs {
    /// A header of zeros but for the opcode and byte 1.
    #[must_use]
    pub fn new(opcode: Opcode, flags: u8) -> Self {
        let mut bytes = [0; BHS_BYTES];
        bytes[0] = opcode as u8;
        bytes[1] = flags;
        Self(bytes)
    }

    /// Opcode, or the raw six bits if undefined.
    ///
    /// # Errors
    /// [`Malformed::Opcode`].
    pub fn opcode(&self) -> Result<Opcode, Malformed> {
        Opcode::from_bits(self.0[0]).ok_or(Malformed::Opcode(self.0[0] & 0x3f))
    }

    /// Immediate delivery bit, RFC 7143 §11.2.1.1.
    #[must_use]
    pub fn immediate(&self) -> bool {
        self.0[0] & 0x40 != 0
    }

    /// Sets or clears the immediate delivery bit.
    #[must_use]
    pub fn with_immediate(mut self, immediate: bool) -> Self {
        self.0[0] = self.0[0] & 0x3f | u8::from(immediate) << 6;
        self
    }

    /// Byte 1: the final bit and opcode-specific flags.
    #[must_use]
    pub fn flags(&self) -> u8 {
        self.0[1]
    }

    /// TotalAHSLength in bytes, RFC 7143 §11.2.1.4 (the field counts four-byte words).
    #[must_use]
    pub fn ahs_bytes(&self) -> usize {
        usize::from(self.0[4]) * 4
    }

    /// DataSegmentLength in bytes without padding, RFC 7143 §11.2.1.5.
    #[must_use]
    pub fn data_bytes(&self) -> usize {
        usize::from(self.0[5]) << 16 | usize::from(self.0[6]) << 8 | usize::from(self.0[7])
    }

    /// Writes TotalAHSLength and DataSegmentLength.
    ///
    /// PANIC: with more than 1,020 bytes of AHS, an AHS not of whole words, or data beyond 24 bits: senders bound both
    /// by negotiated limits far below.
    pub fn set_lengths(&mut self, ahs_bytes: usize, data_bytes: usize) {
        assert!(ahs_bytes.is_multiple_of(4) && ahs_bytes <= 1020, "AHS of {ahs_bytes} bytes cannot be described");
        assert!(data_bytes <= DATA_SEGMENT_LIMIT, "data segment of {data_bytes} bytes cannot be described");
        self.0[4] = (ahs_bytes / 4) as u8;
        self.0[5] = (data_bytes >> 16) as u8;
        self.0[6] = (data_bytes >> 8) as u8;
        self.0[7] = data_bytes as u8;
    }

    /// One byte.
    #[must_use]
    pub fn byte(&self, offset: usize) -> u8 {
        self.0[offset]
    }

    /// Two bytes, big endian.
    #[must_use]
    pub fn u16(&self, offset: usize) -> u16 {
        u16::from_be_bytes([self.0[offset], self.0[offset + 1]])
    }

    /// Four bytes, big endian.
    #[must_use]
    pub fn u32(&self, offset: usize) -> u32 {
        u32::from_be_bytes([self.0[offset], self.0[offset + 1], self.0[offset + 2], self.0[offset + 3]])
    }

    /// The eight bytes at offset 8: the logical unit number where the PDU has one.
    #[must_use]
    pub fn lun(&self) -> u64 {
        u64::from(self.u32(8)) << 32 | u64::from(self.u32(12))
    }

    /// Sets one byte.
    #[must_use]
    pub fn with_byte(mut self, offset: usize, value: u8) -> Self {
        self.0[offset] = value;
        self
    }

    /// Sets two bytes, big endian.
    #[must_use]
    pub fn with_u16(mut self, offset: usize, value: u16) -> Self {
        self.0[offset..offset + 2].copy_from_slice(&value.to_be_bytes());
        self
    }

    /// Sets four bytes, big endian.
    #[must_use]
    pub fn with_u32(mut self, offset: usize, value: u32) -> Self {
        self.0[offset..offset + 4].copy_from_slice(&value.to_be_bytes());
        self
    }

    /// Sets the logical unit number field.
    #[must_use]
    pub fn with_lun(mut self, lun: u64) -> Self {
        self.0[8..16].copy_from_slice(&lun.to_be_bytes());
        self
    }

    /// Checks the opcode against what a decoder expects.
    pub(crate) fn expect(&self, opcode: Opcode) -> Result<(), Malformed> {
        if self.0[0] & 0x3f == opcode as u8 { Ok(()) } else { Err(Malformed::Opcode(self.0[0] & 0x3f)) }
    }
}
