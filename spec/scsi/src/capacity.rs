//! READ CAPACITY parameter data (SBC-3 r36 §5.12, §5.13).

use crate::bytes::{u32_at, u64_at};

/// Size, block length and whether blocks are provisioned on demand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capacity {
    /// Number of logical blocks.
    pub blocks: u64,
    /// Bytes per logical block.
    pub block_bytes: u32,
    /// Logical blocks per physical block, as a power of two.
    pub physical_exponent: u8,
    /// LBPME: blocks are provisioned on demand and UNMAP works.
    pub provisioned_on_demand: ProvisionedOnDemand,
}

/// LBPME and LBPRZ (SBC-3 r36 §4.7.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProvisionedOnDemand {
    /// Every block is allocated.
    No,
    /// Unmapped blocks read as zeroes.
    ReadsZeroes,
    /// Unmapped blocks read as anything.
    ReadsAnything,
}

impl Capacity {
    /// The 8 bytes of READ CAPACITY (10): FFFFFFFFh where the last address does not fit.
    #[must_use]
    pub fn encode_10(&self) -> Vec<u8> {
        let last = self.blocks.saturating_sub(1);
        let mut out = u32::try_from(last).unwrap_or(u32::MAX).to_be_bytes().to_vec();
        out.extend_from_slice(&self.block_bytes.to_be_bytes());
        out
    }

    /// The 32 bytes of READ CAPACITY (16).
    #[must_use]
    pub fn encode_16(&self) -> Vec<u8> {
        let mut out = vec![0u8; 32];
        out[0..8].copy_from_slice(&self.blocks.saturating_sub(1).to_be_bytes());
        out[8..12].copy_from_slice(&self.block_bytes.to_be_bytes());
        out[13] = self.physical_exponent & 0x0f;
        out[14] = match self.provisioned_on_demand {
            ProvisionedOnDemand::No => 0x00,
            ProvisionedOnDemand::ReadsZeroes => 0xc0,
            ProvisionedOnDemand::ReadsAnything => 0x80,
        };
        out
    }

    /// Reads READ CAPACITY (16) parameter data; `None` if too short, or if the block count would not fit.
    #[must_use]
    pub fn parse_16(bytes: &[u8]) -> Option<Self> {
        if bytes.len() < 12 {
            return None;
        }
        let provisioned_on_demand = match crate::bytes::u8_at(bytes, 14) & 0xc0 {
            0xc0 => ProvisionedOnDemand::ReadsZeroes,
            0x80 => ProvisionedOnDemand::ReadsAnything,
            _ => ProvisionedOnDemand::No,
        };
        Some(Self {
            blocks: u64_at(bytes, 0).checked_add(1)?,
            block_bytes: u32_at(bytes, 8),
            physical_exponent: crate::bytes::u8_at(bytes, 13) & 0x0f,
            provisioned_on_demand,
        })
    }

    /// Reads READ CAPACITY (10) parameter data; `None` if too short, or if only the 16-byte command knows the size.
    #[must_use]
    pub fn parse_10(bytes: &[u8]) -> Option<Self> {
        if bytes.len() < 8 || u32_at(bytes, 0) == u32::MAX {
            return None;
        }
        Some(Self {
            blocks: u64::from(u32_at(bytes, 0)) + 1,
            block_bytes: u32_at(bytes, 4),
            physical_exponent: 0,
            provisioned_on_demand: ProvisionedOnDemand::No,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BIG: Capacity = Capacity {
        blocks: 1 << 33,
        block_bytes: 512,
        physical_exponent: 3,
        provisioned_on_demand: ProvisionedOnDemand::ReadsZeroes,
    };

    #[test]
    fn sixteen_byte_form_is_read_back_as_written() {
        assert_eq!(Capacity::parse_16(&BIG.encode_16()), Some(BIG));
        assert_eq!(Capacity::parse_16(&BIG.encode_16()[..11]), None);
    }

    /// SBC-3 r36 §5.12.2.
    #[test]
    fn ten_byte_form_says_when_it_does_not_know() {
        assert_eq!(&BIG.encode_10()[..4], &[0xff; 4]);
        assert_eq!(Capacity::parse_10(&BIG.encode_10()), None);
        let small = Capacity { blocks: 100, ..BIG };
        assert_eq!(Capacity::parse_10(&small.encode_10()).unwrap().blocks, 100);
    }
}
