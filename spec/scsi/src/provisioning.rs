//! UNMAP parameter lists and GET LBA STATUS parameter data (SBC-3 r36 §5.35, §5.6).

use crate::bytes::{u16_at, u32_at, u64_at};
use crate::cdb::Span;
use crate::sense::{Asc, Sense};

/// Most block descriptors one UNMAP may carry; announced in the Block Limits page.
pub const MOST_UNMAP_DESCRIPTORS: u32 = 256;

/// The extents of an UNMAP parameter list. An empty list is legal and unmaps nothing.
///
/// # Errors
/// PARAMETER LIST LENGTH ERROR for a list shorter than its header, INVALID FIELD IN PARAMETER LIST for too many
/// descriptors.
pub fn parse_unmap(list: &[u8]) -> Result<Vec<Span>, Sense> {
    if list.is_empty() {
        return Ok(Vec::new());
    }
    if list.len() < 8 {
        return Err(Sense::illegal(Asc::PARAMETER_LIST_LENGTH_ERROR));
    }
    let announced = usize::from(u16_at(list, 2)) / 16;
    let present = (list.len() - 8) / 16;
    let count = announced.min(present);
    if count > MOST_UNMAP_DESCRIPTORS as usize {
        return Err(Sense::parameter_field(2, None));
    }
    Ok((0..count)
        .map(|index| {
            let at = 8 + index * 16;
            Span { lba: u64_at(list, at), blocks: u64::from(u32_at(list, at + 8)) }
        })
        .collect())
}

/// An UNMAP parameter list; block counts must fit 32 bits.
#[must_use]
pub fn encode_unmap(spans: &[Span]) -> Vec<u8> {
    let descriptors = (spans.len() * 16) as u16;
    let mut out = Vec::with_capacity(8 + spans.len() * 16);
    out.extend_from_slice(&(descriptors + 6).to_be_bytes());
    out.extend_from_slice(&descriptors.to_be_bytes());
    out.extend_from_slice(&[0; 4]);
    for span in spans {
        out.extend_from_slice(&span.lba.to_be_bytes());
        out.extend_from_slice(&(span.blocks as u32).to_be_bytes());
        out.extend_from_slice(&[0; 4]);
    }
    out
}

/// Provisioning status of GET LBA STATUS (SBC-3 r36 table 36).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum ProvisioningStatus {
    /// Mapped, or not known to be otherwise.
    Mapped = 0,
    /// Deallocated.
    Deallocated = 1,
}

/// GET LBA STATUS parameter data: blocks from `lba` on, in so many of each status one behind the other. A descriptor holds 32 bits of
/// blocks; behind one that would need more nothing is told, and the initiator asks again from there (SBC-3 r36 §5.6.2).
#[must_use]
pub fn encode_lba_statuses(mut lba: u64, stretches: impl IntoIterator<Item = (u64, ProvisioningStatus)>) -> Vec<u8> {
    let mut out = vec![0u8; 8];
    for (blocks, status) in stretches {
        let told = u32::try_from(blocks).unwrap_or(u32::MAX);
        out.extend_from_slice(&lba.to_be_bytes());
        out.extend_from_slice(&told.to_be_bytes());
        out.extend_from_slice(&[status as u8, 0, 0, 0]);
        if u64::from(told) != blocks {
            break;
        }
        lba += blocks;
    }
    let length = (out.len() - 4) as u32;
    out[0..4].copy_from_slice(&length.to_be_bytes());
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unmap_lists_are_read_back_as_written() {
        let spans = vec![Span { lba: 5, blocks: 9 }, Span { lba: 1 << 40, blocks: 1 }];
        assert_eq!(parse_unmap(&encode_unmap(&spans)), Ok(spans));
        assert_eq!(parse_unmap(&[]), Ok(Vec::new()));
    }

    /// SBC-3 r36 §5.35.2: descriptors cut off by the parameter list length are ignored.
    #[test]
    fn a_cut_descriptor_is_ignored_and_a_cut_header_refused() {
        let list = encode_unmap(&[Span { lba: 5, blocks: 9 }, Span { lba: 6, blocks: 1 }]);
        assert_eq!(parse_unmap(&list[..30]).unwrap().len(), 1);
        assert_eq!(parse_unmap(&list[..7]), Err(Sense::illegal(Asc::PARAMETER_LIST_LENGTH_ERROR)));
    }

    /// SBC-3 r36 §5.6.2: descriptors are adjacent.
    #[test]
    fn statuses_are_told_one_behind_the_other_as_far_as_their_fields_go() {
        use ProvisioningStatus::{Deallocated, Mapped};
        let bytes = encode_lba_statuses(7, [(5, Mapped), (1 << 33, Deallocated), (9, Mapped)]);
        assert_eq!((bytes.len(), u32_at(&bytes, 0)), (40, 36));
        assert_eq!((u64_at(&bytes, 8), u32_at(&bytes, 16), bytes[20]), (7, 5, 0));
        assert_eq!((u64_at(&bytes, 24), u32_at(&bytes, 32), bytes[36]), (12, u32::MAX, 1));
    }

    #[test]
    fn too_many_descriptors_are_refused() {
        let spans = vec![Span { lba: 0, blocks: 1 }; MOST_UNMAP_DESCRIPTORS as usize + 1];
        assert!(parse_unmap(&encode_unmap(&spans)).is_err());
    }
}
