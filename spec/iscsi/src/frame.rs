//! Framing: cutting a byte stream into frames, with digests and a limit on the data segment.
//!
//! Not here: sockets (the caller owns the buffer) and meaning. The one idea: data segments are split off the receive
//! buffer without copying, and nothing is waited for before its length has been checked against the limit.

use bytes::{Buf, Bytes, BytesMut};
use crc_fast::{CrcAlgorithm, checksum};
use thiserror::Error;

use crate::bhs::{BHS_BYTES, Bhs};

/// Whether a part of a frame is followed by a CRC32C, RFC 7143 §13.1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Digest {
    /// No digest.
    #[default]
    None,
    /// CRC32C, four bytes.
    Crc32c,
}

impl Digest {
    pub(crate) const fn bytes(self) -> usize {
        match self {
            Self::None => 0,
            Self::Crc32c => 4,
        }
    }
}

/// Digests in force on a connection; both off during login.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Digests {
    /// Over BHS and AHS.
    pub header: Digest,
    /// Over the data segment and its padding, if there is one.
    pub data: Digest,
}

/// CRC32C of `bytes` as it goes on the wire (RFC 7143 §13.1: sent least significant byte first; e.g. 32 zero bytes
/// give aa 36 91 8a).
#[must_use]
pub fn crc32c(bytes: &[u8]) -> [u8; 4] {
    (checksum(CrcAlgorithm::Crc32Iscsi, bytes) as u32).to_le_bytes()
}

/// Bytes of padding after `length` bytes of a data segment.
#[must_use]
pub const fn padding(length: usize) -> usize {
    length.wrapping_neg() & 3
}

/// One PDU as it travels: header, additional header segments, data without padding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// Basic header; its length fields always match `ahs` and `data`.
    pub bhs: Bhs,
    /// Additional header segments, a multiple of four bytes.
    pub ahs: Bytes,
    /// Data segment without padding.
    pub data: Bytes,
}

impl Frame {
    /// A frame without additional header segments; sets the length fields.
    ///
    /// PANIC: `data` longer than 2^24 - 1 bytes.
    #[must_use]
    pub fn new(mut bhs: Bhs, data: Bytes) -> Self {
        bhs.set_lengths(0, data.len());
        Self { bhs, ahs: Bytes::new(), data }
    }

    /// A frame with additional header segments.
    ///
    /// PANIC: as [`Bhs::set_lengths`].
    #[must_use]
    pub fn with_ahs(mut bhs: Bhs, ahs: Bytes, data: Bytes) -> Self {
        bhs.set_lengths(ahs.len(), data.len());
        Self { bhs, ahs, data }
    }
}

/// Why a byte stream cannot be cut into frames any further.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum FrameError {
    /// The data segment is longer than this end declared it would take.
    #[error("data segment of {length} bytes exceeds the limit of {limit}")]
    DataTooLong {
        /// Length in the header.
        length: usize,
        /// The limit in force.
        limit: usize,
    },
    /// The header digest is wrong: the length fields cannot be trusted, the connection is lost.
    #[error("header digest mismatch")]
    HeaderDigest,
    /// The data digest is wrong; the header is good and says what was meant.
    #[error("data digest mismatch in a PDU with opcode {:#04x}", .0.byte(0) & 0x3f)]
    DataDigest(Bhs),
}

/// Cuts a receive buffer into frames.
#[derive(Debug, Clone)]
pub struct FrameDecoder {
    digests: Digests,
    data_limit: usize,
    /// Header digest of the frame at the head of the buffer has been checked already.
    header_checked: bool,
}

impl FrameDecoder {
    /// A decoder without digests that takes data segments up to `data_limit` bytes (this end's
    /// MaxRecvDataSegmentLength; 8192 until negotiated, RFC 7143 §13.12).
    #[must_use]
    pub fn new(data_limit: usize) -> Self {
        Self { digests: Digests::default(), data_limit, header_checked: false }
    }

    /// Changes digests and limit, from the next frame on: to be called when login ends, before decoding further.
    pub fn set(&mut self, digests: Digests, data_limit: usize) {
        self.digests = digests;
        self.data_limit = data_limit;
        self.header_checked = false;
    }

    /// Takes the next whole frame off the front of `buffer`, or `None` if more bytes are needed (`buffer` then has
    /// room reserved for the rest of the frame at its head).
    ///
    /// # Errors
    /// [`FrameError`]; after anything but [`FrameError::DataDigest`] the stream is unusable.
    pub fn next(&mut self, buffer: &mut BytesMut) -> Result<Option<Frame>, FrameError> {
        let Some(head) = buffer.first_chunk::<BHS_BYTES>() else { return Ok(None) };
        let bhs = Bhs(*head);
        let (ahs_bytes, data_bytes) = (bhs.ahs_bytes(), bhs.data_bytes());
        let header_end = BHS_BYTES + ahs_bytes;
        let header_bytes = header_end + self.digests.header.bytes();
        if self.digests.header == Digest::Crc32c && !self.header_checked {
            if buffer.len() < header_bytes {
                return Ok(None);
            }
            if crc32c(&buffer[..header_end]) != buffer[header_end..header_bytes] {
                return Err(FrameError::HeaderDigest);
            }
            self.header_checked = true;
        }
        if data_bytes > self.data_limit {
            return Err(FrameError::DataTooLong { length: data_bytes, limit: self.data_limit });
        }
        let data_digest = if data_bytes == 0 { 0 } else { self.digests.data.bytes() };
        let data_end = header_bytes + data_bytes + padding(data_bytes);
        let total = data_end + data_digest;
        if buffer.len() < total {
            buffer.reserve(total - buffer.len());
            return Ok(None);
        }
        self.header_checked = false;
        let digest_good = data_digest == 0 || crc32c(&buffer[header_bytes..data_end]) == buffer[data_end..total];
        if ahs_bytes + data_bytes == 0 {
            // Nothing of the buffer is kept, so it need not be shared.
            buffer.advance(total);
            return Ok(Some(Frame { bhs, ahs: Bytes::new(), data: Bytes::new() }));
        }
        let whole = buffer.split_to(total).freeze();
        if !digest_good {
            return Err(FrameError::DataDigest(bhs));
        }
        let ahs = if ahs_bytes == 0 { Bytes::new() } else { whole.slice(BHS_BYTES..header_end) };
        let data = if data_bytes == 0 { Bytes::new() } else { whole.slice(header_bytes..header_bytes + data_bytes) };
        Ok(Some(Frame { bhs, ahs, data }))
    }
}
