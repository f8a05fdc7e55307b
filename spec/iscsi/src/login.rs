//! Login stages and status codes (RFC 7143 §11.12, §11.13).
//!
//! Not here: the login state machines. The one idea: a stage that is not one of the three defined ones is refused at
//! decoding, a status is kept as its two bytes.

/// Stage of a login, RFC 7143 §11.12.3.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Stage {
    /// Security negotiation.
    Security = 0,
    /// Operational negotiation.
    Operational = 1,
    /// Full feature phase.
    FullFeature = 3,
}

impl Stage {
    /// The stage of a two-bit field; `None` for the reserved value 2.
    #[must_use]
    pub const fn from_bits(bits: u8) -> Option<Self> {
        match bits & 0x03 {
            0 => Some(Self::Security),
            1 => Some(Self::Operational),
            3 => Some(Self::FullFeature),
            _reserved => None,
        }
    }
}

/// Status class and detail of a login response, RFC 7143 §11.13.5.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct LoginStatus {
    /// 0 success, 1 redirection, 2 the initiator's fault, 3 the target's fault.
    pub class: u8,
    /// What exactly.
    pub detail: u8,
}

impl LoginStatus {
    const fn new(class: u8, detail: u8) -> Self {
        Self { class, detail }
    }

    /// Login goes on or has succeeded.
    pub const SUCCESS: Self = Self::new(0, 0);
    /// Target moved temporarily; TargetAddress says where.
    pub const MOVED_TEMPORARILY: Self = Self::new(1, 1);
    /// Target moved for ever.
    pub const MOVED_PERMANENTLY: Self = Self::new(1, 2);
    /// Miscellaneous initiator error.
    pub const INITIATOR_ERROR: Self = Self::new(2, 0);
    /// Authentication failed.
    pub const AUTHENTICATION_FAILURE: Self = Self::new(2, 1);
    /// Not allowed to use this target.
    pub const AUTHORIZATION_FAILURE: Self = Self::new(2, 2);
    /// No such target.
    pub const NOT_FOUND: Self = Self::new(2, 3);
    /// The target has been removed.
    pub const TARGET_REMOVED: Self = Self::new(2, 4);
    /// Protocol version not supported.
    pub const UNSUPPORTED_VERSION: Self = Self::new(2, 5);
    /// Too many connections.
    pub const TOO_MANY_CONNECTIONS: Self = Self::new(2, 6);
    /// A required key is missing.
    pub const MISSING_PARAMETER: Self = Self::new(2, 7);
    /// The target does not support a session spanning this portal.
    pub const CANNOT_INCLUDE_IN_SESSION: Self = Self::new(2, 8);
    /// Session type not supported.
    pub const SESSION_TYPE_NOT_SUPPORTED: Self = Self::new(2, 9);
    /// No such session.
    pub const SESSION_DOES_NOT_EXIST: Self = Self::new(2, 10);
    /// Invalid request during login.
    pub const INVALID_DURING_LOGIN: Self = Self::new(2, 11);
    /// Target hardware or software error.
    pub const TARGET_ERROR: Self = Self::new(3, 0);
    /// Service unavailable for now.
    pub const SERVICE_UNAVAILABLE: Self = Self::new(3, 1);
    /// Out of resources.
    pub const OUT_OF_RESOURCES: Self = Self::new(3, 2);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reserved_stage_is_no_stage() {
        assert_eq!(Stage::from_bits(2), None);
        assert_eq!(Stage::from_bits(3), Some(Stage::FullFeature));
    }
}
