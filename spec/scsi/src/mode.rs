//! Mode parameter lists: headers, block descriptors and the layout of pages (SPC-4 r37 §7.5, SBC-3 r36 §6.5).
//!
//! Pages are kept as bytes with a mask of what may be changed, as the standard itself describes them. Which values are
//! current belongs to the logical unit.

use crate::bytes::{u8_at, u16_at, u32_at, u64_at};
use crate::cdb::{BlockDescriptors, ModeForm};
use crate::sense::{Asc, Sense};

/// One page as it is before anybody changed it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageLayout {
    /// Page code.
    pub page: u8,
    /// Subpage code, zero for the page_0 format.
    pub subpage: u8,
    /// Default bytes behind the page's header.
    pub default: &'static [u8],
    /// A one for every bit MODE SELECT may change.
    pub changeable: &'static [u8],
}

/// Page codes.
#[allow(missing_docs, reason = "each constant's name is the standard's name of the page")]
pub mod page {
    pub const READ_WRITE_ERROR_RECOVERY: u8 = 0x01;
    pub const DISCONNECT_RECONNECT: u8 = 0x02;
    pub const CACHING: u8 = 0x08;
    pub const CONTROL: u8 = 0x0a;
    pub const CONTROL_EXTENSION_SUBPAGE: u8 = 0x01;
    pub const POWER_CONDITION: u8 = 0x1a;
    pub const INFORMATIONAL_EXCEPTIONS: u8 = 0x1c;
    pub const ALL_PAGES: u8 = 0x3f;
    pub const ALL_SUBPAGES: u8 = 0xff;
}

/// Index of the caching page in [`PAGES`].
pub const CACHING: usize = 2;
/// Index of the control page in [`PAGES`].
pub const CONTROL: usize = 3;
/// The pages of which a unit keeps what was saved, as indices in [`PAGES`], in the order they are kept. Others have nothing that could be
/// saved, so they may come and go without a change of what is kept. A page that gets changeable bits is added at the end.
pub const KEPT: [usize; 4] = [CACHING, CONTROL, 4, 6];
/// WCE in the first byte of the caching page (SBC-3 r36 §6.5.5).
pub const WRITE_CACHE_ENABLED: u8 = 0x04;
/// D_SENSE in the first byte of the control page (SPC-4 r37 §7.5.8).
pub const DESCRIPTOR_SENSE: u8 = 0x04;
/// SWP in the third byte of the control page.
pub const SOFTWARE_WRITE_PROTECT: u8 = 0x08;
/// TAS in the fourth byte of the control page.
pub const TASK_ABORTED_STATUS: u8 = 0x40;

/// A page nothing can be changed of.
const fn fixed(page: u8, default: &'static [u8]) -> PageLayout {
    PageLayout { page, subpage: 0, default, changeable: NOTHING.split_at(default.len()).0 }
}

static NOTHING: [u8; 64] = [0; 64];

/// Every page, ordered by page code and subpage.
pub static PAGES: [PageLayout; 7] = [
    // Errors of a medium are dealt with where the medium is; an initiator tunes nothing of that.
    fixed(page::READ_WRITE_ERROR_RECOVERY, &[0; 10]),
    // Bursts are negotiated by iSCSI.
    fixed(page::DISCONNECT_RECONNECT, &[0; 14]),
    // WCE is on: whether a write needs a flush is said by FUA and SYNCHRONIZE CACHE.
    PageLayout {
        page: page::CACHING,
        subpage: 0,
        default: &[WRITE_CACHE_ENABLED, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        changeable: &[WRITE_CACHE_ENABLED, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
    },
    // TST 001b: each I_T nexus has a task set of its own, so that one nexus cannot stall another with ordered tasks.
    // QUEUE ALGORITHM MODIFIER 1: simple tasks may be reordered. BUSY TIMEOUT PERIOD: unlimited.
    PageLayout {
        page: page::CONTROL,
        subpage: 0,
        default: &[0x20, 0x10, 0, 0, 0, 0, 0xff, 0xff, 0, 0],
        changeable: &[DESCRIPTOR_SENSE, 0, SOFTWARE_WRITE_PROTECT, TASK_ABORTED_STATUS, 0, 0, 0, 0, 0, 0],
    },
    PageLayout {
        page: page::CONTROL,
        subpage: page::CONTROL_EXTENSION_SUBPAGE,
        default: &[0; 28],
        changeable: &[0; 28],
    },
    // No timer of a power condition runs: the disks below belong to the node.
    fixed(page::POWER_CONDITION, &[0; 38]),
    // DEXCPT is one: nothing is reported by informational exceptions.
    PageLayout {
        page: page::INFORMATIONAL_EXCEPTIONS,
        subpage: 0,
        default: &[0x08, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        changeable: &[0; 10],
    },
];

/// What the header says about the unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// WP.
    pub write_protected: bool,
    /// Number of logical blocks.
    pub blocks: u64,
    /// Bytes per logical block.
    pub block_bytes: u32,
}

/// MODE SENSE parameter data: header, block descriptor and pages (each a layout's index with its bytes).
#[must_use]
pub fn encode_sense(
    form: ModeForm,
    descriptors: BlockDescriptors,
    header: Header,
    pages: &[(usize, Vec<u8>)],
) -> Vec<u8> {
    let descriptor = encode_descriptor(form, descriptors, header);
    // DPOFUA is always one: DPO is accepted and FUA obeyed (SBC-3 r36 §6.5.2).
    let specific = 0x10 | if header.write_protected { 0x80 } else { 0 };
    let mut out = match form {
        ModeForm::Six => vec![0, 0, specific, descriptor.len() as u8],
        ModeForm::Ten => {
            let long = u8::from(descriptor.len() == 16);
            vec![0, 0, 0, specific, long, 0, 0, descriptor.len() as u8]
        }
    };
    out.extend_from_slice(&descriptor);
    for (index, bytes) in pages {
        let layout = &PAGES[*index];
        // PS: every page can be saved.
        if layout.subpage == 0 {
            out.extend_from_slice(&[0x80 | layout.page, bytes.len() as u8]);
        } else {
            out.extend_from_slice(&[0xc0 | layout.page, layout.subpage]);
            out.extend_from_slice(&(bytes.len() as u16).to_be_bytes());
        }
        out.extend_from_slice(bytes);
    }
    match form {
        ModeForm::Six => out[0] = (out.len() - 1).min(255) as u8,
        ModeForm::Ten => {
            let length = (out.len() - 2) as u16;
            out[0..2].copy_from_slice(&length.to_be_bytes());
        }
    }
    out
}

fn encode_descriptor(form: ModeForm, descriptors: BlockDescriptors, header: Header) -> Vec<u8> {
    match (descriptors, form) {
        (BlockDescriptors::Disabled, _) => Vec::new(),
        (BlockDescriptors::LongAllowed, ModeForm::Ten) => {
            let mut out = header.blocks.to_be_bytes().to_vec();
            out.extend_from_slice(&[0; 4]);
            out.extend_from_slice(&header.block_bytes.to_be_bytes());
            out
        }
        (BlockDescriptors::Short | BlockDescriptors::LongAllowed, _) => {
            let mut out = u32::try_from(header.blocks).unwrap_or(u32::MAX).to_be_bytes().to_vec();
            out.extend_from_slice(&header.block_bytes.to_be_bytes());
            out
        }
    }
}

/// One page of a MODE SELECT list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SelectedPage<'a> {
    /// Index in [`PAGES`].
    pub layout: usize,
    /// Offset of the page's body in the parameter list.
    pub at: usize,
    /// The body, as long as the layout's.
    pub body: &'a [u8],
}

/// Reads a MODE SELECT parameter list: every page known, whole and of the right length; a block descriptor only if it
/// changes nothing.
///
/// # Errors
/// PARAMETER LIST LENGTH ERROR for a list cut short, INVALID FIELD IN PARAMETER LIST otherwise.
pub fn parse_select(form: ModeForm, list: &[u8], header: Header) -> Result<Vec<SelectedPage<'_>>, Sense> {
    const CUT: Sense = Sense::illegal(Asc::PARAMETER_LIST_LENGTH_ERROR);
    if list.is_empty() {
        return Ok(Vec::new());
    }
    let (header_bytes, descriptor_bytes) = match form {
        ModeForm::Six => (4, usize::from(u8_at(list, 3))),
        ModeForm::Ten => (8, usize::from(u16_at(list, 6))),
    };
    if list.len() < header_bytes + descriptor_bytes {
        return Err(CUT);
    }
    let long = form == ModeForm::Ten && list[4] & 1 != 0;
    check_descriptor(&list[header_bytes..header_bytes + descriptor_bytes], long, header, header_bytes)?;
    let mut pages = Vec::new();
    let mut at = header_bytes + descriptor_bytes;
    // BOUND: each round moves `at` forward by at least a page header.
    while at < list.len() {
        let page = parse_selected(list, at)?;
        at = page.at + page.body.len();
        pages.push(page);
    }
    Ok(pages)
}

fn check_descriptor(bytes: &[u8], long: bool, header: Header, at: usize) -> Result<(), Sense> {
    let (blocks, all_ones, block_bytes) = match (bytes.len(), long) {
        (0, _) => return Ok(()),
        (8, false) => (u64::from(u32_at(bytes, 0)), u64::from(u32::MAX), u32_at(bytes, 4) & 0x00ff_ffff),
        (16, true) => (u64_at(bytes, 0), u64::MAX, u32_at(bytes, 12)),
        _ => return Err(Sense::parameter_field(at as u16 - 1, None)),
    };
    if blocks != 0 && blocks != all_ones && blocks != header.blocks {
        return Err(Sense::parameter_field(at as u16, None));
    }
    if block_bytes != header.block_bytes {
        return Err(Sense::parameter_field(at as u16 + 4, None));
    }
    Ok(())
}

fn parse_selected(list: &[u8], at: usize) -> Result<SelectedPage<'_>, Sense> {
    const CUT: Sense = Sense::illegal(Asc::PARAMETER_LIST_LENGTH_ERROR);
    let first = list[at];
    let (subpage, header, length) = if first & 0x40 == 0 {
        (0, 2, usize::from(*list.get(at + 1).ok_or(CUT)?))
    } else {
        list.get(at + 3).ok_or(CUT)?;
        (list[at + 1], 4, usize::from(u16_at(list, at + 2)))
    };
    let layout = PAGES
        .iter()
        .position(|layout| layout.page == first & 0x3f && layout.subpage == subpage)
        .ok_or(Sense::parameter_field(at as u16, None))?;
    if PAGES[layout].default.len() != length {
        return Err(Sense::parameter_field(at as u16 + 1, None));
    }
    let body = list.get(at + header..at + header + length).ok_or(CUT)?;
    Ok(SelectedPage { layout, at: at + header, body })
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: Header = Header { write_protected: false, blocks: 1 << 20, block_bytes: 512 };

    fn everything() -> Vec<(usize, Vec<u8>)> {
        PAGES.iter().enumerate().map(|(index, layout)| (index, layout.default.to_vec())).collect()
    }

    #[test]
    fn what_sense_returns_select_accepts() {
        for form in [ModeForm::Six, ModeForm::Ten] {
            for descriptors in [BlockDescriptors::Disabled, BlockDescriptors::Short, BlockDescriptors::LongAllowed] {
                let data = encode_sense(form, descriptors, HEADER, &everything());
                let pages = parse_select(form, &data, HEADER).unwrap();
                assert_eq!(pages.len(), PAGES.len(), "{form:?} {descriptors:?}");
            }
        }
    }

    /// SPC-4 r37 §6.11: a list that ends within a page is a length error.
    #[test]
    fn every_cut_inside_a_list_is_refused() {
        let data = encode_sense(ModeForm::Ten, BlockDescriptors::Short, HEADER, &everything());
        let whole: Vec<usize> =
            parse_select(ModeForm::Ten, &data, HEADER).unwrap().iter().map(|page| page.at + page.body.len()).collect();
        for cut in 1..data.len() {
            let result = parse_select(ModeForm::Ten, &data[..cut], HEADER);
            assert_eq!(result.is_ok(), cut == 16 || whole.contains(&cut), "cut at {cut}");
        }
    }

    #[test]
    fn masks_are_as_long_as_pages_and_pages_are_ordered() {
        for layout in &PAGES {
            assert_eq!(layout.default.len(), layout.changeable.len());
        }
        assert!(PAGES.windows(2).all(|pair| (pair[0].page, pair[0].subpage) < (pair[1].page, pair[1].subpage)));
        assert_eq!((PAGES[CACHING].page, PAGES[CONTROL].page), (page::CACHING, page::CONTROL));
    }

    /// What was kept by the first release were these four, in this order.
    #[test]
    fn whatever_can_be_changed_is_kept_and_the_first_four_stay_in_place() {
        let first = KEPT[..4].iter().map(|index| (PAGES[*index].page, PAGES[*index].subpage));
        assert_eq!(first.collect::<Vec<_>>(), [(0x08, 0), (0x0a, 0), (0x0a, 1), (0x1c, 0)]);
        for (index, layout) in PAGES.iter().enumerate() {
            let changes = layout.changeable.iter().any(|byte| *byte != 0);
            assert!(!changes || KEPT.contains(&index), "{:02x}h", layout.page);
        }
    }

    #[test]
    fn another_block_length_is_refused() {
        let data = encode_sense(ModeForm::Six, BlockDescriptors::Short, Header { block_bytes: 4096, ..HEADER }, &[]);
        assert!(parse_select(ModeForm::Six, &data, HEADER).is_err());
    }
}
