//! What two ends of a session know of each other, for CHAP in either role (RFC 7143 §12.1.3).
//!
//! Not here: the exchange, which each role has for itself. The one idea: both directions have a name and a secret of their own, and
//! whoever challenges brings random bytes along, because nothing here can make any.

use understudy_iscsi::chap::ChapAlgorithm;

use crate::secret::Secret;

/// What an initiator and a target know of each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credentials {
    /// What the initiator proves.
    pub initiator: Identity,
    /// What the target proves: if the initiator asks, seen from the target; or no session, seen from the initiator (mutual
    /// CHAP).
    pub target: Option<Identity>,
}

/// A name with its secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// `CHAP_N`.
    pub user: String,
    /// What is known to both ends only.
    pub secret: Secret,
}

/// Algorithms that are agreed to unless others are named. MD5, which every initiator has to offer (RFC 7143 §12.1.3), is left to the
/// operator: what CHAP asks of a digest it still does, but few rules for the use of cryptography allow it.
pub const ALGORITHMS: [ChapAlgorithm; 3] = [ChapAlgorithm::Sha3_256, ChapAlgorithm::Sha256, ChapAlgorithm::Sha1];

/// Random bytes for one login.
#[derive(Clone, PartialEq, Eq)]
pub struct Chance {
    /// Identifier of the challenge.
    pub identifier: u8,
    /// The challenge; as many bytes are used as the answer will have.
    pub challenge: [u8; 32],
}

impl std::fmt::Debug for Chance {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("Chance(not shown)")
    }
}

/// Keys that belong to the security stage alone.
pub(crate) fn is_security_key(key: &str) -> bool {
    matches!(key, "AuthMethod" | "CHAP_A" | "CHAP_I" | "CHAP_C" | "CHAP_N" | "CHAP_R")
}
