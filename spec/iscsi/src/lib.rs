//! Bytes and tables of iSCSI (RFC 7143): PDUs of both directions, framing with digests, text keys, serial numbers.
//!
//! Not here: anything that decides. Whether a PDU is allowed now, what a negotiated value becomes or what to answer is
//! `core/session`'s business. The one idea: a [`Frame`] is what travels (header, additional header, data), every PDU
//! type is a plain struct that converts to and from a frame, and decoding is total: whatever bytes arrive, the answer
//! is a value or a [`frame::FrameError`] / [`bhs::Malformed`], never a panic.
#![forbid(unsafe_code)]

pub mod advertised;
pub mod bhs;
pub mod binary;
pub mod chap;
pub mod codes;
pub mod frame;
pub mod login;
pub mod outgoing;
pub mod pdu;
pub mod request;
pub mod response;
pub mod serial;
pub mod text;

pub use advertised::Advertised;
pub use bhs::{Bhs, Malformed, Opcode};
pub use frame::{Digest, Digests, Frame, FrameDecoder, FrameError};
pub use outgoing::Outgoing;
pub use pdu::{InitiatorPdu, TargetPdu};
