//! What stands on a disk, byte by byte: partition table, label, pool metadata, chunk maps, and where a lock disk keeps
//! heartbeats and records.
//!
//! Nothing here reads or writes a disk. Bytes come in, checked values go out, and the other way round; whoever owns
//! the disk moves the bytes. What a *record* on a lock disk says belongs to the failover core; only its place is here.
//!
//! The one idea: everything that changes is kept in two alternating slots, each protected by a CRC and numbered, so
//! that a power cut in the middle of a write always leaves the previous copy readable. Nothing in this crate panics on
//! any bytes; what cannot be understood is refused with the reason.
//!
//! ```text
//! disk    | 0 protective MBR, GPT | 1 MiB: our partition ................................ | backup GPT |
//! pool    | +0 label | +64 KiB label again | +1 MiB metadata slot 0, slot 1 | intent bitmap | chunks ...  |
//! lock    | +0 label | +64 KiB label again | +1 MiB node areas              | +2 MiB upgrade area         |
//! ```
#![forbid(unsafe_code)]

mod codec;

pub mod allocate;
pub mod gpt;
pub mod label;
pub mod lock;
pub mod metadata;
pub mod thin;

#[cfg(test)]
mod hostile;

use std::fmt;

/// Bytes of one unit of our own structures on a disk; a multiple of every supported block size.
pub const PAGE_BYTES: usize = 4096;

/// Where our partition begins, in bytes: the customary alignment, far behind the 128 entries of a GPT.
pub const PARTITION_OFFSET: u64 = 1 << 20;

/// A 128-bit random name of a disk, a pool or a volume.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Uuid(pub [u8; 16]);

impl Uuid {
    /// The name nothing has.
    pub const NIL: Self = Self([0; 16]);

    /// Makes a version 4 UUID (RFC 9562 §5.4) of 16 random bytes drawn by the caller.
    #[must_use]
    pub fn from_random(mut bytes: [u8; 16]) -> Self {
        bytes[6] = (bytes[6] & 0x0f) | 0x40;
        bytes[8] = (bytes[8] & 0x3f) | 0x80;
        Self(bytes)
    }

    /// Reads the 36-character form; `None` if it is anything else.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let hyphens = [8, 13, 18, 23];
        let bytes = text.as_bytes();
        if bytes.len() != 36 || hyphens.iter().any(|&at| bytes[at] != b'-') {
            return None;
        }
        let mut out = [0u8; 16];
        let mut digits = bytes.iter().enumerate().filter(|(at, _)| !hyphens.contains(at)).map(|(_, &byte)| byte);
        for slot in &mut out {
            let high = char::from(digits.next()?).to_digit(16)?;
            let low = char::from(digits.next()?).to_digit(16)?;
            *slot = u8::try_from(high * 16 + low).ok()?;
        }
        Some(Self(out))
    }
}

impl fmt::Display for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, byte) in self.0.iter().enumerate() {
            if matches!(at, 4 | 6 | 8 | 10) {
                f.write_str("-")?;
            }
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Grows by one with every write of a pool's metadata.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct MetadataVersion(pub u64);

/// Block length and number of blocks of a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiskShape {
    /// Bytes per block, 512 or 4096.
    pub block_bytes: u32,
    /// Number of blocks.
    pub blocks: u64,
}

impl DiskShape {
    /// Size in bytes.
    #[must_use]
    pub fn bytes(self) -> u64 {
        self.blocks.saturating_mul(u64::from(self.block_bytes))
    }

    /// The blocks that hold `bytes` bytes at byte `offset`.
    ///
    /// Returns `None` if the range is not made of whole blocks of this disk or does not lie on it.
    #[must_use]
    pub fn span(self, offset: u64, bytes: u64) -> Option<Span> {
        let block = u64::from(self.block_bytes);
        if block == 0 || !offset.is_multiple_of(block) || !bytes.is_multiple_of(block) {
            return None;
        }
        let lba = offset / block;
        let blocks = u32::try_from(bytes / block).ok()?;
        (lba.checked_add(u64::from(blocks))? <= self.blocks).then_some(Span { lba, blocks })
    }
}

/// A run of whole blocks of one disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// First block.
    pub lba: u64,
    /// Number of blocks.
    pub blocks: u32,
}

/// CRC32C as iSCSI uses it (RFC 7143 §13.1), here over pages of our own.
fn crc32c(bytes: &[u8]) -> u32 {
    crc_fast::crc32_iscsi(bytes)
}

/// One number for a set of disks: equal on two nodes exactly when both found the same disks with the same sizes
/// (as far as 64 bits can tell). The order in which the disks were found does not matter.
#[must_use]
pub fn inventory_digest(disks: &[(Uuid, u64)]) -> u64 {
    let mut sorted = disks.to_vec();
    sorted.sort_unstable();
    let mut bytes = Vec::with_capacity(sorted.len() * 24);
    for (uuid, size) in sorted {
        bytes.extend_from_slice(&uuid.0);
        bytes.extend_from_slice(&size.to_le_bytes());
    }
    crc_fast::crc64_nvme(&bytes)
}

#[cfg(test)]
mod tests {
    use super::{DiskShape, Uuid, inventory_digest};

    #[test]
    fn uuid_text_reads_back() {
        let uuid = Uuid::from_random([0xa5; 16]);
        assert_eq!(Uuid::parse(&uuid.to_string()), Some(uuid));
        assert_eq!(uuid.to_string(), "a5a5a5a5-a5a5-45a5-a5a5-a5a5a5a5a5a5");
        for bad in [
            "",
            "a5a5a5a5-a5a5-45a5-a5a5-a5a5a5a5a5a",
            "g5a5a5a5-a5a5-45a5-a5a5-a5a5a5a5a5a5",
            "é5a5a5a5-a5a5-45a5-a5a5-a5a5a5a5a5a",
        ] {
            assert_eq!(Uuid::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn digest_ignores_order_and_sees_size() {
        let (a, b) = ((Uuid([1; 16]), 10), (Uuid([2; 16]), 20));
        assert_eq!(inventory_digest(&[a, b]), inventory_digest(&[b, a]));
        assert_ne!(inventory_digest(&[a, b]), inventory_digest(&[a, (b.0, 21)]));
        assert_ne!(inventory_digest(&[a]), inventory_digest(&[a, a]));
    }

    #[test]
    fn span_takes_whole_blocks_on_the_disk_only() {
        let shape = DiskShape { block_bytes: 4096, blocks: 4 };
        assert!(shape.span(4096, 12288).is_some());
        assert!(shape.span(4096, 16384).is_none());
        assert!(shape.span(512, 4096).is_none());
        assert!(shape.span(u64::MAX - 4095, 4096).is_none());
    }
}
