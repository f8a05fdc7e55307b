//! libiscsi (`lib/connect.c` of 1.19 and of June 2026) and QEMU's driver on top of it (`block/iscsi.c` of 2.12 to 9.2).

use crate::pages::{
    capacity_16, disk, everything_mapped, extended_inquiry, identification, limits, only_lun_0, provisioning, serial,
    supported, whole_inquiry, writable_with_fua,
};
use crate::{POWER_ON, Seen, Step, asks, is_refused, no_data, sends};

/// A full connect: unit attentions are swallowed with TEST UNIT READY, after a reconnection the serial number must be the old one.
pub(crate) const CONNECT: &[Step] = &[
    is_refused("TEST UNIT READY meets the unit attention", &[0; 6], POWER_ON),
    asks("TEST UNIT READY", &[0; 6], no_data),
    asks("INQUIRY", &[0x12, 0, 0, 0, 96, 0], whole_inquiry),
    asks("VPD 80h", &[0x12, 1, 0x80, 1, 4, 0], serial),
    asks("VPD 86h of iscsi-inq", &[0x12, 1, 0x86, 0, 255, 0], extended_inquiry),
    asks("REPORT LUNS of iscsi-ls", &[0xa0, 0, 0, 0, 0, 0, 0, 0, 0, 16, 0, 0], only_lun_0),
];

fn zeroes(seen: &Seen) {
    assert_eq!(seen.bytes.len(), 512);
    assert!(seen.bytes.iter().all(|byte| *byte == 0));
}

/// Opening a disk: what is longer than the first 64 bytes is asked again.
pub(crate) const QEMU: &[Step] = &[
    is_refused("TEST UNIT READY meets the unit attention", &[0; 6], POWER_ON),
    asks("INQUIRY, first part", &[0x12, 0, 0, 0, 64, 0], disk),
    asks("INQUIRY", &[0x12, 0, 0, 0, 96, 0], whole_inquiry),
    asks("MODE SENSE (6) of every page, no descriptor", &[0x1a, 8, 0x3f, 0, 255, 0], writable_with_fua),
    asks("READ CAPACITY (16)", &[0x9e, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 32, 0, 0], capacity_16),
    asks("VPD 00h", &[0x12, 1, 0x00, 0, 64, 0], supported),
    asks("VPD 83h", &[0x12, 1, 0x83, 0, 255, 0], identification),
    asks("VPD B0h", &[0x12, 1, 0xb0, 0, 64, 0], limits),
    asks("VPD B2h", &[0x12, 1, 0xb2, 0, 64, 0], provisioning),
    asks("GET LBA STATUS", &[0x9e, 0x12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 24, 0, 0], everything_mapped),
    sends("WRITE SAME (16) of zeroes", &[0x93, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0], &[0; 512]),
    asks("READ (16)", &[0x88, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0], zeroes),
    sends("SYNCHRONIZE CACHE (10)", &[0x35, 0, 0, 0, 0, 0, 0, 0, 0, 0], &[]),
];
