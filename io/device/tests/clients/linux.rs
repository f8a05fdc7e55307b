//! Linux: `drivers/scsi/scsi_scan.c`, `scsi.c` and `sd.c` of 4.19 to 6.12; sg3_utils, udev's `scsi_id`, multipath-tools.

use understudy_scsi::alua::{self, AccessState};

use crate::pages::{
    capacity_16, characteristics, disk, identification, limits, mode_head_6, only_lun_0, page_head, provisioning,
    serial, supported, whole_inquiry, write_cache_on,
};
use crate::{POWER_ON, Seen, Step, UNKNOWN_COMMAND, asks, invalid, is_refused, no_data, sends};

/// REPORT SUPPORTED OPERATION CODES for one command: SUPPORT is 3, "as the standard says".
fn is_supported(seen: &Seen) {
    assert_eq!(seen.bytes[1] & 0x07, 3);
    assert_eq!(usize::from(seen.u16(2)) + 4, seen.bytes.len());
}

fn is_not_supported(seen: &Seen) {
    assert_eq!(seen.bytes[1] & 0x07, 1);
}

fn eight_blocks(seen: &Seen) {
    assert_eq!(seen.bytes.len(), 4096);
}

/// Scan and revalidation of one disk.
pub(crate) const SCAN: &[Step] = &[
    asks("INQUIRY, shortest", &[0x12, 0, 0, 0, 36, 0], disk),
    asks("INQUIRY, as long as it said", &[0x12, 0, 0, 0, 96, 0], whole_inquiry),
    asks("VPD 00h, its length", &[0x12, 1, 0x00, 0, 4, 0], page_head),
    asks("VPD 00h", &[0x12, 1, 0x00, 0, 12, 0], supported),
    asks("VPD 80h, its length", &[0x12, 1, 0x80, 0, 4, 0], page_head),
    asks("VPD 80h", &[0x12, 1, 0x80, 0, 36, 0], serial),
    asks("VPD 83h, its length", &[0x12, 1, 0x83, 0, 4, 0], page_head),
    asks("VPD 83h", &[0x12, 1, 0x83, 0, 255, 0], identification),
    asks("VPD B0h", &[0x12, 1, 0xb0, 0, 64, 0], limits),
    asks("VPD B1h", &[0x12, 1, 0xb1, 0, 64, 0], characteristics),
    asks("VPD B2h", &[0x12, 1, 0xb2, 0, 8, 0], provisioning),
    asks("REPORT LUNS", &[0xa0, 0, 0, 0, 0, 0, 0, 0, 0x10, 0, 0, 0], only_lun_0),
    is_refused("TEST UNIT READY meets the unit attention", &[0; 6], POWER_ON),
    asks("TEST UNIT READY", &[0; 6], no_data),
    asks("READ CAPACITY (16)", &[0x9e, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 32, 0, 0], capacity_16),
    asks("MODE SENSE (6) of every page, the header", &[0x1a, 0, 0x3f, 0, 4, 0], mode_head_6),
    asks("MODE SENSE (6) of page 08h, the header", &[0x1a, 0, 0x08, 0, 4, 0], mode_head_6),
    asks("MODE SENSE (6) of page 08h", &[0x1a, 0, 0x08, 0, 32, 0], write_cache_on),
    asks("is INQUIRY supported", &[0xa3, 0x0c, 1, 0x12, 0, 0, 0, 0, 2, 0, 0, 0], is_supported),
    asks("is WRITE SAME (16) supported", &[0xa3, 0x0c, 1, 0x93, 0, 0, 0, 0, 2, 0, 0, 0], is_supported),
    asks("is WRITE SAME (10) supported", &[0xa3, 0x0c, 1, 0x41, 0, 0, 0, 0, 2, 0, 0, 0], is_supported),
    asks("is SECURITY PROTOCOL IN supported", &[0xa3, 0x0c, 1, 0xa2, 0, 0, 0, 0, 2, 0, 0, 0], is_not_supported),
    asks("READ (10) of the partition table", &[0x28, 0, 0, 0, 0, 0, 0, 0, 8, 0], eight_blocks),
    sends("SYNCHRONIZE CACHE (10) at the end", &[0x35, 0, 0, 0, 0, 0, 0, 0, 0, 0], &[]),
];

/// What kernels since 6.5 ask besides: the page list before each page, and hints a unit may not have.
pub(crate) const LATER_KERNELS: &[Step] = &[
    asks("VPD 00h before each page", &[0x12, 1, 0x00, 0, 36, 0], supported),
    is_refused("TEST UNIT READY meets the unit attention", &[0; 6], POWER_ON),
    is_refused("MODE SENSE (10) of I/O hints", &[0x5a, 8, 0x0a, 5, 0, 0, 0, 2, 0, 0], invalid(3, None)),
    is_refused("VPD B7h, if somebody asks in spite of the list", &[0x12, 1, 0xb7, 0, 4, 0], invalid(2, None)),
];

/// REPORT CAPABILITIES: persistent, with all six types.
fn capabilities(seen: &Seen) {
    assert_eq!(seen.u16(0), 8);
    assert_eq!(seen.bytes[2] & 0x01, 1, "PTPL_C");
    assert_eq!(seen.bytes[3] & 0x80, 0x80, "the type mask is valid");
    assert_eq!((seen.bytes[4] & 0xea, seen.bytes[5] & 0x01), (0xea, 1), "every type");
}

fn one_active_group(seen: &Seen) {
    let groups = alua::parse_groups(&seen.bytes);
    let states: Vec<_> = groups.iter().map(|group| (group.group, group.state, group.ports.len())).collect();
    assert_eq!(states, [(1, AccessState::ActiveOptimized, 1)]);
}

fn one_key(seen: &Seen) {
    assert_eq!((seen.u32(4), seen.u64(8)), (8, 0x1234));
}

fn write_exclusive_registrants_only(seen: &Seen) {
    assert_eq!((seen.u32(4), seen.u64(8), seen.bytes[21]), (16, 0x1234, 0x05));
}

/// REGISTER AND IGNORE EXISTING KEY 1234h, with APTPL.
const NEW_KEY: &[u8] = &[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x12, 0x34, 0, 0, 0, 0, 1, 0, 0, 0];
/// The key alone.
const OWN_KEY: &[u8] = &[0, 0, 0, 0, 0, 0, 0x12, 0x34, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// multipathd's checker, udev's names, and the reservations of `mpathpersist` and `fence_scsi`.
pub(crate) const MULTIPATH: &[Step] = &[
    is_refused("path checker: TEST UNIT READY after a login", &[0; 6], POWER_ON),
    asks("path checker: TEST UNIT READY", &[0; 6], no_data),
    asks("scsi_id: INQUIRY", &[0x12, 0, 0, 0, 36, 0], disk),
    asks("scsi_id: VPD 83h", &[0x12, 1, 0x83, 0, 254, 0], identification),
    asks("scsi_id: VPD 80h", &[0x12, 1, 0x80, 0, 254, 0], serial),
    asks("REPORT TARGET PORT GROUPS", &[0xa3, 0x0a, 0, 0, 0, 0, 0, 0, 0, 128, 0, 0], one_active_group),
    // `scsi_dh_alua` asks for the extended form first, with room for one group of one port.
    asks("the same with the time of a transition", &[0xa3, 0x2a, 0, 0, 0, 0, 0, 0, 0, 20, 0, 0], one_active_group),
    is_refused(
        "SET TARGET PORT GROUPS, which TPGS does not announce",
        &[0xa4, 0x0a, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0],
        UNKNOWN_COMMAND,
    ),
    asks("REPORT CAPABILITIES", &[0x5e, 2, 0, 0, 0, 0, 0, 0, 8, 0], capabilities),
    sends("REGISTER AND IGNORE EXISTING KEY", &[0x5f, 6, 0, 0, 0, 0, 0, 0, 24, 0], NEW_KEY),
    asks("READ KEYS", &[0x5e, 0, 0, 0, 0, 0, 0, 0x20, 0, 0], one_key),
    sends("RESERVE, write exclusive, registrants only", &[0x5f, 1, 5, 0, 0, 0, 0, 0, 24, 0], OWN_KEY),
    asks("READ RESERVATION", &[0x5e, 1, 0, 0, 0, 0, 0, 0x20, 0, 0], write_exclusive_registrants_only),
    sends("RELEASE", &[0x5f, 2, 5, 0, 0, 0, 0, 0, 24, 0], OWN_KEY),
    sends("CLEAR", &[0x5f, 3, 0, 0, 0, 0, 0, 0, 24, 0], OWN_KEY),
];
