//! A running digest of everything that happened: the same seed must give the same one.

use std::hash::Hasher;

/// FNV-1a, 64 bits: no secret start, unlike the standard library's hasher.
#[derive(Debug, Clone, Copy)]
pub struct Digest(u64);

impl From<u64> for Digest {
    fn from(value: u64) -> Self {
        Self(value)
    }
}

impl Digest {
    /// Adds bytes.
    pub fn add(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    /// The digest.
    #[must_use]
    pub fn value(self) -> u64 {
        self.0
    }
}

impl Hasher for Digest {
    fn write(&mut self, bytes: &[u8]) {
        self.add(bytes);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}
