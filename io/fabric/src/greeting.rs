//! What the two ends tell each other in the connection manager's private data: who they are and where their memory is.
//!
//! Little-endian, 53 bytes; `verbs` carries no more than 55 in a connection request.
//!
//! | offset | bytes | what |
//! |---|---|---|
//! | 0 | 4 | magic `USFB` |
//! | 4 | 2 | version |
//! | 6 | 1 | verdict: 0 welcome, else why not |
//! | 7 | 8 | pair |
//! | 15 | 1 | node |
//! | 16 | 8+8+2 | page: address, key, length |
//! | 34 | 8+8+3 | landing region: address, key, length |

use crate::Identity;

/// Bytes of a greeting.
pub(crate) const GREETING_BYTES: usize = 53;
const MAGIC: [u8; 4] = *b"USFB";
/// Grows when the layout above changes; ends with different versions do not connect.
const VERSION: u16 = 1;

/// A region as the other end addresses it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct RemoteRegion {
    /// Address for `fi_read` and `fi_write`: virtual, or 0 where the provider counts from the region's start.
    pub(crate) address: u64,
    /// Protection key.
    pub(crate) key: u64,
    /// Bytes.
    pub(crate) length: u32,
}

/// Why a connection was not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Accepted.
    Welcome,
    /// The other end belongs to another pair.
    OtherPair,
    /// The other end says it is this very node.
    SameNode,
    /// The other end's magic or version is not ours.
    OtherVersion,
    /// A number this version does not know.
    Unknown(u8),
}

impl Verdict {
    fn code(self) -> u8 {
        match self {
            Self::Welcome => 0,
            Self::OtherPair => 1,
            Self::SameNode => 2,
            Self::OtherVersion => 3,
            Self::Unknown(code) => code,
        }
    }

    fn of_code(code: u8) -> Self {
        match code {
            0 => Self::Welcome,
            1 => Self::OtherPair,
            2 => Self::SameNode,
            3 => Self::OtherVersion,
            other => Self::Unknown(other),
        }
    }

    /// For the operator.
    pub(crate) fn text(self) -> String {
        match self {
            Self::Welcome => "accepted".into(),
            Self::OtherPair => "it belongs to another pair".into(),
            Self::SameNode => "it is configured with the same node number as this node".into(),
            Self::OtherVersion => "it speaks another version of the interconnect".into(),
            Self::Unknown(code) => format!("reason {code}"),
        }
    }
}

/// One end's private data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Greeting {
    pub(crate) verdict: Verdict,
    pub(crate) identity: Identity,
    pub(crate) page: RemoteRegion,
    pub(crate) landing: RemoteRegion,
}

impl Greeting {
    /// What a reader says when it connects.
    pub(crate) fn caller(identity: Identity) -> Self {
        let none = RemoteRegion::default();
        Self { verdict: Verdict::Welcome, identity, page: none, landing: none }
    }

    /// The bytes for the wire.
    pub(crate) fn encode(&self) -> [u8; GREETING_BYTES] {
        let mut bytes = [0; GREETING_BYTES];
        bytes[..4].copy_from_slice(&MAGIC);
        bytes[4..6].copy_from_slice(&VERSION.to_le_bytes());
        bytes[6] = self.verdict.code();
        bytes[7..15].copy_from_slice(&self.identity.pair.to_le_bytes());
        bytes[15] = self.identity.node;
        bytes[16..24].copy_from_slice(&self.page.address.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.page.key.to_le_bytes());
        bytes[32..34].copy_from_slice(&self.page.length.to_le_bytes()[..2]);
        bytes[34..42].copy_from_slice(&self.landing.address.to_le_bytes());
        bytes[42..50].copy_from_slice(&self.landing.key.to_le_bytes());
        bytes[50..53].copy_from_slice(&self.landing.length.to_le_bytes()[..3]);
        bytes
    }

    /// Reads a greeting; a provider may have padded it. `None` if it is not one of this version.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes = bytes.get(..GREETING_BYTES)?;
        let long = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
        if bytes[..4] != MAGIC || bytes[4..6] != VERSION.to_le_bytes() {
            return None;
        }
        Some(Self {
            verdict: Verdict::of_code(bytes[6]),
            identity: Identity { pair: long(7), node: bytes[15] },
            page: RemoteRegion {
                address: long(16),
                key: long(24),
                length: u32::from_le_bytes([bytes[32], bytes[33], 0, 0]),
            },
            landing: RemoteRegion {
                address: long(34),
                key: long(42),
                length: u32::from_le_bytes([bytes[50], bytes[51], bytes[52], 0]),
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full() -> Greeting {
        Greeting {
            verdict: Verdict::SameNode,
            identity: Identity { pair: 0x0102_0304_0506_0708, node: 2 },
            page: RemoteRegion { address: u64::MAX - 7, key: 11, length: 4096 },
            landing: RemoteRegion { address: 1 << 40, key: u64::MAX, length: 65536 },
        }
    }

    #[test]
    fn a_greeting_is_read_back() {
        assert_eq!(Greeting::decode(&full().encode()), Some(full()));
        let mut padded = full().encode().to_vec();
        padded.extend([0; 3]);
        assert_eq!(Greeting::decode(&padded), Some(full()));
    }

    #[test]
    fn a_greeting_fits_a_verbs_connection_request() {
        const { assert!(GREETING_BYTES <= 55) };
    }

    #[test]
    fn short_foreign_or_other_versions_are_no_greeting() {
        let good = full().encode();
        assert_eq!(Greeting::decode(&good[..GREETING_BYTES - 1]), None);
        assert_eq!(Greeting::decode(&[]), None);
        for position in 0..6 {
            let mut bad = good;
            bad[position] ^= 0x80;
            assert_eq!(Greeting::decode(&bad), None, "byte {position}");
        }
    }

    #[test]
    fn an_unknown_verdict_is_kept_as_a_number() {
        let mut bytes = full().encode();
        bytes[6] = 200;
        assert_eq!(Greeting::decode(&bytes).map(|greeting| greeting.verdict), Some(Verdict::Unknown(200)));
    }
}
