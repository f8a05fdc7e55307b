//! Windows: Microsoft's published class drivers (`storage/class/classpnp` and `disk` of Windows-driver-samples), a published
//! capture of its initiator for REPORT LUNS, and its requirements of RAID systems. The port driver's part of the order
//! (INQUIRY, VPD 80h and 83h before the class drivers) follows from the descriptors it has to fill and is not from a capture.

use crate::linux;
use crate::pages::{
    capacity_10, capacity_16, characteristics, control, disk, every_mode_page, identification, limits, no_exceptions,
    only_lun_0, provisioning, serial, supported, whole_inquiry, write_cache_can_be_changed, write_cache_off,
    write_cache_on,
};
use crate::{POWER_ON, Step, UNKNOWN_COMMAND, asks, is_refused, no_data, sends};

/// MODE SELECT (6) of the caching page with WCE zero, as the device manager's check box sends it.
const NO_WRITE_CACHE: &[u8] = &[0, 0, 0, 0, 0x08, 0x12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// Discovery of a disk and start of its device.
pub(crate) const SCAN: &[Step] = &[
    asks("REPORT LUNS", &[0xa0, 0, 0, 0, 0, 0, 0, 0, 0, 16, 0, 0], only_lun_0),
    asks("INQUIRY", &[0x12, 0, 0, 0, 36, 0], disk),
    asks("INQUIRY", &[0x12, 0, 0, 0, 255, 0], whole_inquiry),
    asks("VPD 00h", &[0x12, 1, 0x00, 0, 255, 0], supported),
    asks("VPD 80h", &[0x12, 1, 0x80, 0, 255, 0], serial),
    asks("VPD 83h", &[0x12, 1, 0x83, 0, 255, 0], identification),
    is_refused("TEST UNIT READY meets the unit attention", &[0; 6], POWER_ON),
    asks("TEST UNIT READY", &[0; 6], no_data),
    asks("READ CAPACITY (10)", &[0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0], capacity_10),
    asks("READ CAPACITY (16)", &[0x9e, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 32, 0, 0], capacity_16),
    asks("VPD B0h", &[0x12, 1, 0xb0, 0, 255, 0], limits),
    asks("VPD B1h", &[0x12, 1, 0xb1, 0, 64, 0], characteristics),
    asks("VPD B2h", &[0x12, 1, 0xb2, 0, 255, 0], provisioning),
    asks("MODE SENSE (6) of every page", &[0x1a, 0, 0x3f, 0, 192, 0], every_mode_page),
    asks("MODE SENSE (6) of page 1Ch", &[0x1a, 0, 0x1c, 0, 192, 0], no_exceptions),
    asks("MODE SENSE (6) of page 0Ah, for QERR", &[0x1a, 0, 0x0a, 0, 192, 0], control),
    asks("MODE SENSE (6) of page 08h", &[0x1a, 0, 0x08, 0, 192, 0], write_cache_on),
    asks("MODE SENSE (6) of page 08h, changeable", &[0x1a, 0, 0x48, 0, 192, 0], write_cache_can_be_changed),
    sends("MODE SELECT (6), write cache off", &[0x15, 0x11, 0, 0, 24, 0], NO_WRITE_CACHE),
    asks("MODE SENSE (6) of page 08h", &[0x1a, 0, 0x08, 0, 192, 0], write_cache_off),
    is_refused(
        "POPULATE TOKEN, which VPD 8Fh does not announce",
        &[0x83, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        UNKNOWN_COMMAND,
    ),
    sends("VERIFY (10) without comparing", &[0x2f, 0, 0, 0, 0, 0, 0, 0, 8, 0], &[]),
    sends("SYNCHRONIZE CACHE (10)", &[0x35, 0, 0, 0, 0, 0, 0, 0, 0, 0], &[]),
    sends("START STOP UNIT at power-down", &[0x1b, 0, 0, 0, 0, 0], &[]),
    sends("START STOP UNIT at power-up", &[0x1b, 0, 0, 0, 1, 0], &[]),
];

/// What the storage tests of a failover cluster's validation do on one node; the same commands as Linux's agents send.
pub(crate) const CLUSTER: &[Step] = linux::MULTIPATH;
