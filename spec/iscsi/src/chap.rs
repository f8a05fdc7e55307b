//! CHAP as iSCSI uses it: the algorithms and what they compute (RFC 1994 §4.1, RFC 7143 §12.1.3).
//!
//! Not here: who sends what when. The one idea: an algorithm is named by its number in IANA's registry of PPP
//! authentication algorithms, and an answer is one digest over identifier, secret and challenge.

use digest::Digest;
use subtle::ConstantTimeEq;

/// Longest challenge and answer either side may send, in bytes (RFC 7143 §12.1.3).
pub const BINARY_LIMIT: usize = 1024;

/// How an answer is computed: IANA, PPP Authentication Algorithms. 5 is RFC 1994's, the others are registered for iSCSI.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum ChapAlgorithm {
    /// MD5, 16 bytes.
    Md5 = 5,
    /// SHA-1, 20 bytes.
    Sha1 = 6,
    /// SHA-256, 32 bytes.
    Sha256 = 7,
    /// SHA3-256, 32 bytes.
    Sha3_256 = 8,
}

impl ChapAlgorithm {
    /// Every one, the best first.
    pub const ALL: [Self; 4] = [Self::Sha3_256, Self::Sha256, Self::Sha1, Self::Md5];

    /// The number in `CHAP_A`.
    #[must_use]
    pub const fn number(self) -> u8 {
        self as u8
    }

    /// The algorithm with this number, if it is known.
    #[must_use]
    pub fn from_number(number: u64) -> Option<Self> {
        Self::ALL.into_iter().find(|algorithm| u64::from(algorithm.number()) == number)
    }

    /// The name people know it by.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Md5 => "MD5",
            Self::Sha1 => "SHA1",
            Self::Sha256 => "SHA-256",
            Self::Sha3_256 => "SHA3-256",
        }
    }

    /// Length of an answer in bytes.
    #[must_use]
    pub const fn answer_bytes(self) -> usize {
        match self {
            Self::Md5 => 16,
            Self::Sha1 => 20,
            Self::Sha256 | Self::Sha3_256 => 32,
        }
    }

    /// What one who knows `secret` answers to `challenge`.
    #[must_use]
    pub fn answer(self, identifier: u8, secret: &[u8], challenge: &[u8]) -> Vec<u8> {
        match self {
            Self::Md5 => hashed::<md5::Md5>(identifier, secret, challenge),
            Self::Sha1 => hashed::<sha1::Sha1>(identifier, secret, challenge),
            Self::Sha256 => hashed::<sha2::Sha256>(identifier, secret, challenge),
            Self::Sha3_256 => hashed::<sha3::Sha3_256>(identifier, secret, challenge),
        }
    }

    /// Whether `answer` is the right one. How long this takes tells nothing about where they differ.
    #[must_use]
    pub fn is_answer(self, answer: &[u8], identifier: u8, secret: &[u8], challenge: &[u8]) -> bool {
        self.answer(identifier, secret, challenge).as_slice().ct_eq(answer).into()
    }
}

fn hashed<D: Digest>(identifier: u8, secret: &[u8], challenge: &[u8]) -> Vec<u8> {
    let digest = D::new().chain_update([identifier]).chain_update(secret).chain_update(challenge);
    digest.finalize().to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::binary::encode_binary;

    /// Computed with Python's hashlib over `07h`, "a secret of 22 letters" and the bytes 0 to 15.
    #[test]
    fn answers_are_those_of_an_independent_implementation() {
        let challenge: Vec<u8> = (0..16).collect();
        let answer =
            |algorithm: ChapAlgorithm| encode_binary(&algorithm.answer(7, b"a secret of 22 letters", &challenge));
        assert_eq!(answer(ChapAlgorithm::Md5), "0x22859126b8a84ba69afae40a4a578b22");
        assert_eq!(answer(ChapAlgorithm::Sha1), "0xa9d3e0db1beaebe5d5ee7f0dc1db3c94d39161c6");
        assert_eq!(answer(ChapAlgorithm::Sha256), "0xa6618e9e51d939e6b71928d18b93238d69dcf832e74a8471c40dfc36b27c174b");
        assert_eq!(
            answer(ChapAlgorithm::Sha3_256),
            "0xd88efee34694c88067b35adab3338e28a198c5f363fff96642c7b067dc721159"
        );
    }

    #[test]
    fn numbers_are_those_of_the_registry_and_lengths_those_of_the_digests() {
        assert_eq!(ChapAlgorithm::ALL.map(ChapAlgorithm::number), [8, 7, 6, 5]);
        assert_eq!(ChapAlgorithm::from_number(4), None);
        assert_eq!(ChapAlgorithm::from_number(0x108), None);
        for algorithm in ChapAlgorithm::ALL {
            assert_eq!(ChapAlgorithm::from_number(u64::from(algorithm.number())), Some(algorithm));
            assert_eq!(algorithm.answer(0, b"s", b"c").len(), algorithm.answer_bytes());
        }
    }

    #[test]
    fn only_the_whole_answer_is_the_answer() {
        for algorithm in ChapAlgorithm::ALL {
            let good = algorithm.answer(1, b"secret", b"challenge");
            let is_answer = |answer: &[u8]| algorithm.is_answer(answer, 1, b"secret", b"challenge");
            assert!(is_answer(&good));
            assert!(!is_answer(&good[1..]) && !is_answer(&[]) && !is_answer(&[&good[..], &[0]].concat()));
            for at in 0..good.len() {
                let mut bad = good.clone();
                bad[at] ^= 1;
                assert!(!is_answer(&bad), "{algorithm:?} byte {at}");
            }
            assert!(!algorithm.is_answer(&good, 2, b"secret", b"challenge"));
        }
    }
}
