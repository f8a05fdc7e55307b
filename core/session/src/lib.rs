//! iSCSI sessions without I/O: the decisions of RFC 7143, both roles.
//!
//! Here is no socket, no clock and no SCSI: bytes and times come in as arguments, PDUs and orders go out as values.
//! The target's half is [`target`]; the initiator's half stands beside it. Tables and bytes are in
//! [`understudy_iscsi`].
#![forbid(unsafe_code)]

pub mod credentials;
pub mod initiator;
pub mod secret;
pub mod target;

/// A point in time or a span, in microseconds since a moment the caller chose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Micros(pub u64);

impl Micros {
    /// So many seconds.
    #[must_use]
    pub const fn from_seconds(seconds: u64) -> Self {
        Self(seconds * 1_000_000)
    }

    /// Later by `span`.
    #[must_use]
    pub const fn plus(self, span: Self) -> Self {
        Self(self.0.saturating_add(span.0))
    }
}
