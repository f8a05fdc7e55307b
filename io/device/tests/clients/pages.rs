//! What every client reads out of the same pages: standard INQUIRY data, vital product data, capacity, mode pages.

use understudy_scsi::inquiry::{self, Association, DesignatorName};

use crate::Seen;

/// The serial number of the unit under test: its uuid in hexadecimal.
const SERIAL: &[u8] = b"30313233343536373839616263646566";
/// 2 MiB in blocks of 512 bytes.
const LAST_BLOCK: u64 = 4095;

pub(crate) fn disk(seen: &Seen) {
    let bytes = &seen.bytes;
    assert_eq!(bytes[0], 0, "a disk that is there");
    assert_eq!(bytes[1] & 0x80, 0, "not removable");
    assert_eq!(bytes[2], 6, "SPC-4");
    assert_eq!(bytes[3] & 0x0f, 2, "response data format");
    assert_eq!(bytes[4], 91, "96 bytes in all");
    assert_eq!(
        bytes[5] & 0x39,
        0x10,
        "port groups that move by themselves, no third-party copy, no protection information"
    );
    assert_eq!(bytes[7] & 0x02, 2, "commands are queued");
    assert!(bytes.len() >= 36, "vendor, product and revision");
    assert_eq!(&bytes[8..16], b"UNDRSTDY");
    assert!(bytes[8..36].iter().all(|byte| (0x20..0x7f).contains(byte)));
}

pub(crate) fn whole_inquiry(seen: &Seen) {
    disk(seen);
    assert_eq!(seen.bytes.len(), 96);
}

fn body(seen: &Seen, page: u8) -> Vec<u8> {
    let body = inquiry::parse_page(&seen.bytes, page).expect("the page that was asked for").to_vec();
    assert_eq!(body.len(), usize::from(seen.u16(2)), "the page is as long as it says");
    body
}

/// The first four bytes of a page: a client learns from them how long it is.
pub(crate) fn page_head(seen: &Seen) {
    assert_eq!(seen.bytes.len(), 4);
    assert!(seen.u16(2) > 0);
}

pub(crate) fn supported(seen: &Seen) {
    let pages = body(seen, 0x00);
    assert!(pages.is_sorted(), "ascending (SPC-4 r37 §7.8.13)");
    assert!(pages.len() <= 32, "Linux looks no further");
    for page in [0x00, 0x80, 0x83, 0x86, 0x87, 0xb0, 0xb1, 0xb2] {
        assert!(pages.contains(&page), "{page:02x}h");
    }
    for page in [0x89, 0x8f, 0xb7, 0xb9] {
        assert!(!pages.contains(&page), "{page:02x}h is not there and must not be looked for");
    }
}

pub(crate) fn serial(seen: &Seen) {
    assert_eq!(body(seen, 0x80), SERIAL);
}

/// The unit is named by NAA and by vendor and serial number, the port by its relative number and its group, all in the forms of the standard.
pub(crate) fn identification(seen: &Seen) {
    let designators = inquiry::parse_designators(&body(seen, 0x83));
    let of_unit: Vec<_> = designators.iter().filter(|one| one.association == Association::LogicalUnit).collect();
    let naa = of_unit.iter().find_map(|one| match &one.name {
        DesignatorName::Naa(bytes) => Some(bytes.clone()),
        _ => None,
    });
    assert_eq!(naa.expect("NAA"), [0x30, 0x31, 0x32, 0x33, 0x34, 0x35, 0x36, 0x37]);
    let t10 = DesignatorName::T10(format!("UNDRSTDY{}", String::from_utf8_lossy(SERIAL)));
    assert!(of_unit.iter().any(|one| one.name == t10));
    let port = DesignatorName::RelativeTargetPort(1);
    let group = DesignatorName::TargetPortGroup(1);
    for name in [port, group] {
        assert!(designators.iter().any(|one| one.association == Association::TargetPort && one.name == name));
    }
}

pub(crate) fn extended_inquiry(seen: &Seen) {
    let body = body(seen, 0x86);
    assert_eq!(body.len(), 60);
    assert_eq!(body[1] & 0x07, 0x07, "simple, ordered and head of queue");
    assert_eq!(body[0] & 0x07, 0, "no protection information");
}

/// Windows takes the page only with 3Ch bytes (SBC-3 r36 §6.6.4).
pub(crate) fn limits(seen: &Seen) {
    assert_eq!(body(seen, 0xb0).len(), 0x3c);
    assert_eq!(seen.bytes[5], 255, "COMPARE AND WRITE of 255 blocks");
    assert_eq!(seen.u32(8), 65_536, "no transfer of more than 32 MiB");
    assert_eq!(seen.u32(20) != 0, seen.is_thin(), "UNMAP exactly where it is offered");
    assert_eq!(seen.u32(24) != 0, seen.is_thin());
    assert!(seen.u16(6).is_power_of_two() && u32::from(seen.u16(6)) <= seen.u32(12));
}

pub(crate) fn characteristics(seen: &Seen) {
    assert_eq!(body(seen, 0xb1).len(), 0x3c);
    assert_eq!(seen.u16(4), 1, "nothing rotates");
}

pub(crate) fn provisioning(seen: &Seen) {
    assert_eq!(body(seen, 0xb2).len(), 4);
    let (flags, kind) = (seen.bytes[5], seen.bytes[6] & 0x07);
    assert_eq!((flags, kind), if seen.is_thin() { (0xe4, 2) } else { (0, 0) });
}

pub(crate) fn only_lun_0(seen: &Seen) {
    assert_eq!(seen.u32(0), 8);
    assert_eq!(seen.u64(8), 0);
    assert_eq!(seen.bytes.len(), 16);
}

pub(crate) fn capacity_10(seen: &Seen) {
    assert_eq!((u64::from(seen.u32(0)), seen.u32(4)), (LAST_BLOCK, 512));
}

pub(crate) fn capacity_16(seen: &Seen) {
    assert_eq!(seen.bytes.len(), 32);
    assert_eq!((seen.u64(0), seen.u32(8)), (LAST_BLOCK, 512));
    assert_eq!(seen.bytes[12], 0, "no protection information");
    assert_eq!(seen.bytes[14] & 0xc0, if seen.is_thin() { 0xc0 } else { 0 });
}

/// Header of MODE SENSE (6): writable, and FUA is obeyed.
pub(crate) fn mode_head_6(seen: &Seen) {
    assert_eq!(seen.bytes[2], 0x10, "not write-protected, DPOFUA");
    assert!(usize::from(seen.bytes[0]) + 1 >= seen.bytes.len());
}

/// Bytes of a page behind the 6-byte form's header and block descriptor, page header included.
fn mode_page(seen: &Seen, page: u8) -> Vec<u8> {
    mode_head_6(seen);
    let mut at = 4 + usize::from(seen.bytes[3]);
    while at < seen.bytes.len() {
        let header = if seen.bytes[at] & 0x40 == 0 { 2 } else { 4 };
        let length = header + if header == 2 { usize::from(seen.bytes[at + 1]) } else { usize::from(seen.u16(at + 2)) };
        if seen.bytes[at] & 0x3f == page && header == 2 {
            return seen.bytes[at..at + length].to_vec();
        }
        at += length;
    }
    panic!("no page {page:02x}h")
}

pub(crate) fn every_mode_page(seen: &Seen) {
    assert_eq!(usize::from(seen.bytes[0]) + 1, seen.bytes.len(), "nothing was cut off");
    for page in [0x01, 0x02, 0x08, 0x0a, 0x1a, 0x1c] {
        mode_page(seen, page);
    }
}

pub(crate) fn write_cache_on(seen: &Seen) {
    let page = mode_page(seen, 0x08);
    assert_eq!((page.len(), page[2] & 0x04), (20, 4), "WCE: the client flushes");
}

pub(crate) fn write_cache_off(seen: &Seen) {
    assert_eq!(mode_page(seen, 0x08)[2] & 0x04, 0);
}

pub(crate) fn write_cache_can_be_changed(seen: &Seen) {
    let page = mode_page(seen, 0x08);
    assert_eq!((page[2], page[3..].iter().all(|byte| *byte == 0)), (4, true));
}

/// Fixed-format sense, no common task set, QERR zero: an error of one command ends no other.
pub(crate) fn control(seen: &Seen) {
    let page = mode_page(seen, 0x0a);
    assert_eq!((page.len(), page[2] & 0x04, page[3] & 0x06), (12, 0, 0));
}

/// DEXCPT: no failure is predicted.
pub(crate) fn no_exceptions(seen: &Seen) {
    let page = mode_page(seen, 0x1c);
    assert_eq!((page.len(), page[2] & 0x08), (12, 8));
}

/// QEMU asks without block descriptors and reads no page: only whether it may write, and whether FUA is obeyed.
pub(crate) fn writable_with_fua(seen: &Seen) {
    mode_head_6(seen);
    assert_eq!(seen.bytes[3], 0);
}

/// A medium that keeps no map says "mapped" of everything.
pub(crate) fn everything_mapped(seen: &Seen) {
    assert_eq!((seen.u32(0), seen.u64(8)), (20, 0));
    assert_eq!((seen.u32(16), seen.bytes[20]), (4096, 0));
}
