//! INQUIRY data and vital product data pages (SPC-4 r37 §6.6, §7.8; SBC-3 r36 §6.6).
//!
//! Strings are cut and padded to their fields here; what they say is the logical unit's.

use crate::bytes::{u8_at, u16_at};

/// Vital product data page codes.
#[allow(missing_docs, reason = "each constant's name is the standard's name of the page")]
pub mod page {
    pub const SUPPORTED_PAGES: u8 = 0x00;
    pub const UNIT_SERIAL_NUMBER: u8 = 0x80;
    pub const DEVICE_IDENTIFICATION: u8 = 0x83;
    pub const EXTENDED_INQUIRY: u8 = 0x86;
    pub const MODE_PAGE_POLICY: u8 = 0x87;
    pub const BLOCK_LIMITS: u8 = 0xb0;
    pub const BLOCK_DEVICE_CHARACTERISTICS: u8 = 0xb1;
    pub const LOGICAL_BLOCK_PROVISIONING: u8 = 0xb2;
}

/// Peripheral qualifier and device type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Peripheral {
    /// A direct access block device is here.
    Disk = 0x00,
    /// No unit can be reached at this number (SPC-4 r37 §6.6.2).
    NothingHere = 0x7f,
}

/// Who a unit says it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// T10 vendor identification, 8 ASCII bytes at most.
    pub vendor: String,
    /// Product identification, 16 ASCII bytes at most.
    pub product: String,
    /// Product revision level, 4 ASCII bytes at most.
    pub revision: String,
}

/// Appends `text` as `width` printable ASCII bytes, cut or padded with spaces.
fn push_text(out: &mut Vec<u8>, text: &str, width: usize) {
    let end = out.len() + width;
    out.extend(text.bytes().filter(|byte| (0x20..0x7f).contains(byte)).take(width));
    out.resize(end, b' ');
}

/// Version descriptors: SAM-5, SPC-4, SBC-3 and iSCSI, no version claimed (SPC-4 r37 table 173).
const VERSION_DESCRIPTORS: [u16; 4] = [0x00a0, 0x0460, 0x04c0, 0x0960];

/// Standard INQUIRY data, 96 bytes.
#[must_use]
pub fn encode_standard(peripheral: Peripheral, identity: &Identity) -> Vec<u8> {
    // TPGS 01b: ports may differ in how they reach the unit, and nobody's command changes that (SPC-4 r37 §6.6.2).
    let port_groups = if peripheral == Peripheral::Disk { 0x10 } else { 0x00 };
    // Version 6 (SPC-4), HISUP with response data format 2, CMDQUE.
    let mut out = vec![peripheral as u8, 0x00, 0x06, 0x12, 91, port_groups, 0x00, 0x02];
    push_text(&mut out, &identity.vendor, 8);
    push_text(&mut out, &identity.product, 16);
    push_text(&mut out, &identity.revision, 4);
    out.resize(58, 0);
    for descriptor in VERSION_DESCRIPTORS {
        out.extend_from_slice(&descriptor.to_be_bytes());
    }
    out.resize(96, 0);
    out
}

/// Reads vendor, product and revision, trimmed; `None` if shorter than 36 bytes.
#[must_use]
pub fn parse_standard(bytes: &[u8]) -> Option<(u8, Identity)> {
    if bytes.len() < 36 {
        return None;
    }
    let text = |range: core::ops::Range<usize>| String::from_utf8_lossy(&bytes[range]).trim().to_owned();
    Some((bytes[0], Identity { vendor: text(8..16), product: text(16..32), revision: text(32..36) }))
}

/// A page: header and body.
#[must_use]
pub fn encode_page(page: u8, body: &[u8]) -> Vec<u8> {
    let mut out = vec![Peripheral::Disk as u8, page];
    out.extend_from_slice(&(body.len() as u16).to_be_bytes());
    out.extend_from_slice(body);
    out
}

/// The body of page data, if it is `page` and at least its header is there; a body cut short comes back cut.
#[must_use]
pub fn parse_page(bytes: &[u8], page: u8) -> Option<&[u8]> {
    if bytes.len() < 4 || u8_at(bytes, 1) != page {
        return None;
    }
    let length = usize::from(u16_at(bytes, 2)).min(bytes.len() - 4);
    Some(&bytes[4..4 + length])
}

/// What a designator names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Association {
    /// The logical unit.
    LogicalUnit = 0,
    /// The target port the command came by.
    TargetPort = 1,
    /// The target device.
    TargetDevice = 2,
}

/// A designation descriptor (SPC-4 r37 §7.8.6.1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Designator {
    /// What it names.
    pub association: Association,
    /// How.
    pub name: DesignatorName,
}

/// The designator itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DesignatorName {
    /// Type 1: T10 vendor identification and a vendor specific part.
    T10(String),
    /// Type 3: NAA, 8 or 16 bytes.
    Naa(Vec<u8>),
    /// Type 4: relative target port identifier.
    RelativeTargetPort(u16),
    /// Type 5: target port group.
    TargetPortGroup(u16),
    /// Type 8: SCSI name string.
    ScsiName(String),
    /// Any other, as it came.
    Other {
        /// DESIGNATOR TYPE.
        kind: u8,
        /// The bytes.
        bytes: Vec<u8>,
    },
}

impl Designator {
    fn encode(&self) -> Vec<u8> {
        let (code_set, kind, body) = match &self.name {
            DesignatorName::T10(text) => (2, 1, text.as_bytes().to_vec()),
            DesignatorName::Naa(bytes) => (1, 3, bytes.clone()),
            DesignatorName::RelativeTargetPort(port) => (1, 4, u32::from(*port).to_be_bytes().to_vec()),
            DesignatorName::TargetPortGroup(group) => (1, 5, u32::from(*group).to_be_bytes().to_vec()),
            DesignatorName::ScsiName(text) => {
                // At least one zero, then to a multiple of four (SPC-4 r37 §7.8.6.11).
                let mut bytes = text.as_bytes().to_vec();
                bytes.resize((bytes.len() + 1).next_multiple_of(4), 0);
                (3, 8, bytes)
            }
            DesignatorName::Other { kind, bytes } => (1, *kind, bytes.clone()),
        };
        // Protocol identifier 5 (iSCSI) with PIV for whatever belongs to a port or the target device.
        let (protocol, valid) = if self.association == Association::LogicalUnit { (0x00, 0x00) } else { (0x50, 0x80) };
        let mut out = vec![protocol | code_set, valid | ((self.association as u8) << 4) | kind, 0, body.len() as u8];
        out.extend_from_slice(&body);
        out
    }
}

/// The body of the Device Identification page.
#[must_use]
pub fn encode_designators(designators: &[Designator]) -> Vec<u8> {
    designators.iter().flat_map(Designator::encode).collect()
}

/// Reads the designators of a Device Identification page body, as far as they are whole.
#[must_use]
pub fn parse_designators(body: &[u8]) -> Vec<Designator> {
    let mut designators = Vec::new();
    let mut rest = body;
    // BOUND: each round takes at least four bytes of `rest`.
    while rest.len() >= 4 {
        let length = 4 + usize::from(rest[3]);
        let Some(bytes) = rest.get(4..length) else { break };
        let association = match (rest[1] >> 4) & 0x03 {
            0 => Association::LogicalUnit,
            1 => Association::TargetPort,
            _ => Association::TargetDevice,
        };
        let text = || String::from_utf8_lossy(bytes).trim_end_matches(['\0', ' ']).to_owned();
        let name = match rest[1] & 0x0f {
            1 => DesignatorName::T10(text()),
            3 => DesignatorName::Naa(bytes.to_vec()),
            4 => DesignatorName::RelativeTargetPort(u16_at(bytes, 2)),
            5 => DesignatorName::TargetPortGroup(u16_at(bytes, 2)),
            8 => DesignatorName::ScsiName(text()),
            kind => DesignatorName::Other { kind, bytes: bytes.to_vec() },
        };
        designators.push(Designator { association, name });
        rest = &rest[length..];
    }
    designators
}

/// Block Limits (SBC-3 r36 §6.6.4). All counts in logical blocks, zero meaning "no limit reported".
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct BlockLimits {
    /// MAXIMUM COMPARE AND WRITE LENGTH.
    pub compare_and_write: u8,
    /// OPTIMAL TRANSFER LENGTH GRANULARITY.
    pub granularity: u16,
    /// MAXIMUM TRANSFER LENGTH.
    pub transfer: u32,
    /// OPTIMAL TRANSFER LENGTH.
    pub optimal_transfer: u32,
    /// MAXIMUM PREFETCH LENGTH.
    pub prefetch: u32,
    /// MAXIMUM UNMAP LBA COUNT.
    pub unmap_blocks: u32,
    /// MAXIMUM UNMAP BLOCK DESCRIPTOR COUNT.
    pub unmap_descriptors: u32,
    /// OPTIMAL UNMAP GRANULARITY.
    pub unmap_granularity: u32,
    /// MAXIMUM WRITE SAME LENGTH.
    pub write_same: u64,
}

impl BlockLimits {
    /// The page's body, 60 bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![0u8; 60];
        out[1] = self.compare_and_write;
        out[2..4].copy_from_slice(&self.granularity.to_be_bytes());
        out[4..8].copy_from_slice(&self.transfer.to_be_bytes());
        out[8..12].copy_from_slice(&self.optimal_transfer.to_be_bytes());
        out[12..16].copy_from_slice(&self.prefetch.to_be_bytes());
        out[16..20].copy_from_slice(&self.unmap_blocks.to_be_bytes());
        out[20..24].copy_from_slice(&self.unmap_descriptors.to_be_bytes());
        out[24..28].copy_from_slice(&self.unmap_granularity.to_be_bytes());
        out[32..40].copy_from_slice(&self.write_same.to_be_bytes());
        out
    }

    /// Reads the page's body; fields past its end read zero.
    #[must_use]
    pub fn parse(body: &[u8]) -> Self {
        use crate::bytes::{u32_at, u64_at};
        Self {
            compare_and_write: u8_at(body, 1),
            granularity: u16_at(body, 2),
            transfer: u32_at(body, 4),
            optimal_transfer: u32_at(body, 8),
            prefetch: u32_at(body, 12),
            unmap_blocks: u32_at(body, 16),
            unmap_descriptors: u32_at(body, 20),
            unmap_granularity: u32_at(body, 24),
            write_same: u64_at(body, 32),
        }
    }
}

/// The body of the Block Device Characteristics page: no rotation (SBC-3 r36 §6.6.3).
#[must_use]
pub fn encode_characteristics() -> Vec<u8> {
    let mut out = vec![0u8; 60];
    out[1] = 0x01;
    out
}

/// How blocks are provisioned (SBC-3 r36 §6.6.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Provisioning {
    /// Every block is allocated; nothing can be unmapped.
    Full,
    /// Thin: UNMAP and WRITE SAME with UNMAP deallocate; unmapped blocks read as zeroes.
    Thin,
}

impl Provisioning {
    /// The body of the Logical Block Provisioning page: LBPU, LBPWS, LBPWS10, LBPRZ and the type.
    #[must_use]
    pub fn encode(self) -> Vec<u8> {
        match self {
            Self::Full => vec![0, 0, 0, 0],
            Self::Thin => vec![0, 0xe4, 0x02, 0],
        }
    }
}

/// The body of the Extended INQUIRY page (SPC-4 r37 §7.8.7): head of queue, ordered and simple tasks; no volatile
/// cache of its own (V_SUP stays zero: what a cache holds depends on the medium).
#[must_use]
pub fn encode_extended() -> Vec<u8> {
    let mut out = vec![0u8; 60];
    out[1] = 0x07;
    out
}

/// The body of the Mode Page Policy page (SPC-4 r37 §7.8.9): every mode page is shared by all I_T nexuses.
#[must_use]
pub fn encode_mode_page_policy() -> Vec<u8> {
    vec![0x3f, 0xff, 0x00, 0x00]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn standard_data_is_padded_and_read_back() {
        let identity =
            Identity { vendor: "UNDRSTDY".into(), product: "A name too long to fit".into(), revision: "1".into() };
        let bytes = encode_standard(Peripheral::Disk, &identity);
        assert_eq!(bytes.len(), 96);
        assert_eq!(usize::from(bytes[4]) + 5, 96);
        let (peripheral, read) = parse_standard(&bytes).unwrap();
        assert_eq!((peripheral, read.product.as_str()), (0, "A name too long"));
        assert_eq!(parse_standard(&bytes[..35]), None);
    }

    #[test]
    fn designators_are_read_back_as_written() {
        let all = vec![
            Designator {
                association: Association::LogicalUnit,
                name: DesignatorName::Naa(vec![0x30, 1, 2, 3, 4, 5, 6, 7]),
            },
            Designator { association: Association::LogicalUnit, name: DesignatorName::T10("UNDRSTDYabc".into()) },
            Designator { association: Association::TargetPort, name: DesignatorName::RelativeTargetPort(7) },
            Designator { association: Association::TargetPort, name: DesignatorName::TargetPortGroup(0x201) },
            Designator {
                association: Association::TargetPort,
                name: DesignatorName::ScsiName("iqn.a,t,0x0001".into()),
            },
        ];
        let page = encode_page(page::DEVICE_IDENTIFICATION, &encode_designators(&all));
        assert_eq!(parse_designators(parse_page(&page, 0x83).unwrap()), all);
        assert!(parse_page(&page, 0x80).is_none());
        assert_eq!(parse_designators(&page[4..page.len() - 1]).len(), 4);
    }

    #[test]
    fn block_limits_are_read_back_as_written() {
        let limits =
            BlockLimits { compare_and_write: 9, transfer: 1 << 15, write_same: 1 << 40, ..BlockLimits::default() };
        assert_eq!(BlockLimits::parse(&limits.encode()), limits);
        assert_eq!(BlockLimits::parse(&[]), BlockLimits::default());
    }
}
