//! Logical unit numbers and REPORT LUNS parameter data (SAM-5 r21 §4.7, SPC-4 r37 §6.33).
//!
//! Only single-level numbers are built; anything deeper names no unit here.

use crate::bytes::{u32_at, u64_at};

/// Highest number a unit can have: 14 bits of flat space addressing.
pub const HIGHEST_LUN: u16 = 0x3fff;

/// The eight bytes of a LUN, big endian as a number: peripheral addressing below 256, flat space above
/// (SAM-5 r21 §4.7.7).
#[must_use]
pub fn encode_lun(lun: u16) -> u64 {
    let first = if lun < 256 { lun } else { 0x4000 | (lun & HIGHEST_LUN) };
    u64::from(first) << 48
}

/// The unit number of eight LUN bytes, or `None` if they address anything but a unit of the first level (a second
/// level, another bus, a well-known unit).
#[must_use]
pub fn decode_lun(raw: u64) -> Option<u16> {
    if raw << 16 != 0 {
        return None;
    }
    let first = (raw >> 48) as u16;
    match first >> 14 {
        0 if first < 256 => Some(first),
        1 => Some(first & HIGHEST_LUN),
        _ => None,
    }
}

/// SELECT REPORT values that list ordinary units; 01h lists well-known units, of which there are none.
#[must_use]
pub fn lists_units(select: u8) -> Option<Listing> {
    match select {
        0x00 | 0x02 => Some(Listing::EveryUnit),
        0x01 => Some(Listing::WellKnown),
        _ => None,
    }
}

/// What a REPORT LUNS lists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Listing {
    /// The logical units.
    EveryUnit,
    /// Well-known logical units only.
    WellKnown,
}

/// The parameter data.
#[must_use]
pub fn encode_report(luns: &[u16]) -> Vec<u8> {
    let mut out = Vec::with_capacity(8 + luns.len() * 8);
    out.extend_from_slice(&((luns.len() * 8) as u32).to_be_bytes());
    out.extend_from_slice(&[0; 4]);
    for lun in luns {
        out.extend_from_slice(&encode_lun(*lun).to_be_bytes());
    }
    out
}

/// The raw LUNs of parameter data, as many as are really there.
#[must_use]
pub fn parse_report(bytes: &[u8]) -> Vec<u64> {
    let listed = u32_at(bytes, 0) as usize / 8;
    let present = bytes.len().saturating_sub(8) / 8;
    (0..listed.min(present)).map(|index| u64_at(bytes, 8 + index * 8)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_lun_is_read_back_as_written() {
        for lun in [0, 1, 255, 256, 300, HIGHEST_LUN] {
            assert_eq!(decode_lun(encode_lun(lun)), Some(lun));
        }
    }

    #[test]
    fn deeper_and_foreign_addresses_name_nothing() {
        for raw in [1, 0x0001_0001_0000_0000, 0x0100_0000_0000_0000, 0xc101_0000_0000_0000] {
            assert_eq!(decode_lun(raw), None, "{raw:#x}");
        }
    }

    #[test]
    fn a_list_that_lies_about_its_length_is_cut() {
        let mut bytes = encode_report(&[0, 7]);
        bytes[..4].copy_from_slice(&u32::MAX.to_be_bytes());
        assert_eq!(parse_report(&bytes), vec![0, 7 << 48]);
    }
}
