//! ESXi. Its initiator's sources are not public. From public reports: the order at a scan and the missing RESERVE (6) that keeps
//! VMFS from being made (SPDK's issues 405 and 1414), the SMART daemon's ATA PASS-THROUGH and LOG SENSE (vendors'
//! knowledge bases), and from VMware's storage guides which T10 commands stand behind the offloaded primitives.

use understudy_scsi::Status;
use understudy_scsi::sense::{Asc, Sense, SenseKey};

use crate::pages::{
    capacity_10, capacity_16, identification, limits, no_exceptions, only_lun_0, provisioning, serial, supported,
    whole_inquiry, write_cache_on,
};
use crate::{POWER_ON, Seen, Step, UNKNOWN_COMMAND, asks, invalid, is_refused, no_data, sends};

fn healthy(seen: &Seen) {
    assert_eq!(seen.bytes[0] & 0x3f, 0x2f);
    assert_eq!((seen.bytes[8], seen.bytes[9]), (0, 0), "no exception");
    assert_eq!(seen.bytes[10], 0xff, "no temperature");
}

fn log_pages(seen: &Seen) {
    assert_eq!(&seen.bytes[4..], &[0x00, 0x2f]);
}

/// A rescan, and what its daemons ask later.
pub(crate) const SCAN: &[Step] = &[
    asks("REPORT LUNS", &[0xa0, 0, 0, 0, 0, 0, 0, 0, 0x08, 0x08, 0, 0], only_lun_0),
    is_refused("TEST UNIT READY meets the unit attention", &[0; 6], POWER_ON),
    asks("TEST UNIT READY", &[0; 6], no_data),
    asks("INQUIRY", &[0x12, 0, 0, 0, 255, 0], whole_inquiry),
    asks("VPD 00h", &[0x12, 1, 0x00, 0, 255, 0], supported),
    asks("VPD 80h", &[0x12, 1, 0x80, 0, 255, 0], serial),
    asks("VPD 83h", &[0x12, 1, 0x83, 0, 255, 0], identification),
    asks("VPD B0h", &[0x12, 1, 0xb0, 0, 255, 0], limits),
    asks("VPD B2h", &[0x12, 1, 0xb2, 0, 255, 0], provisioning),
    asks("READ CAPACITY (10)", &[0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0], capacity_10),
    asks("READ CAPACITY (16)", &[0x9e, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 32, 0, 0], capacity_16),
    asks("MODE SENSE (6) of page 08h", &[0x1a, 0, 0x08, 0, 255, 0], write_cache_on),
    asks("MODE SENSE (6) of page 1Ch", &[0x1a, 0, 0x1c, 0, 255, 0], no_exceptions),
    asks("LOG SENSE, which pages", &[0x4d, 0, 0x40, 0, 0, 0, 0, 2, 0, 0], log_pages),
    asks("LOG SENSE of page 2Fh", &[0x4d, 0, 0x6f, 0, 0, 0, 0, 2, 0, 0], healthy),
    is_refused("LOG SENSE of page 0Dh", &[0x4d, 0, 0x4d, 0, 0, 0, 0, 2, 0, 0], invalid(2, Some(5))),
    is_refused(
        "ATA PASS-THROUGH (16) of the SMART daemon",
        &[0x85, 8, 0x0e, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0xec, 0],
        UNKNOWN_COMMAND,
    ),
    sends("RESERVE (6) of a VMFS without ATS", &[0x16, 0, 0, 0, 0, 0], &[]),
    sends("RELEASE (6)", &[0x17, 0, 0, 0, 0, 0], &[]),
];

/// COMPARE AND WRITE of one block that holds zeroes.
const SET_LOCK: &[u8] = &{
    let mut data = [0; 1024];
    data[512] = 0xab;
    data
};

const MISCOMPARE: Sense = Sense::new(SenseKey::Miscompare, Asc::MISCOMPARE_DURING_VERIFY).with_information(0);

/// ATS, block zeroing, and the primitives that are not there.
pub(crate) const OFFLOADS: &[Step] = &[
    is_refused("TEST UNIT READY meets the unit attention", &[0; 6], POWER_ON),
    sends("COMPARE AND WRITE takes a free lock", &[0x89, 0, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 1, 0, 0], SET_LOCK),
    Step {
        data_out: SET_LOCK,
        ..is_refused(
            "COMPARE AND WRITE finds the lock taken",
            &[0x89, 0, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 1, 0, 0],
            MISCOMPARE,
        )
    },
    sends("WRITE SAME (16) zeroes 1 MiB", &[0x93, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0], &[0; 512]),
    is_refused(
        "EXTENDED COPY, which 3PC does not announce",
        &[0x83, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        UNKNOWN_COMMAND,
    ),
    is_refused("RECEIVE COPY RESULTS", &[0x84, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0], UNKNOWN_COMMAND),
];

/// UNMAP of eight blocks: done where B2h offers it, an unknown command elsewhere.
#[test]
fn unmap_is_there_exactly_where_the_pages_say_so() {
    use crate::{kinds, logged_in};
    use bytes::Bytes;
    use understudy_device::{Outcome, TaskAttribute};
    use understudy_scsi::cdb::Span;
    use understudy_scsi::inquiry::Provisioning;
    use understudy_scsi::{encode, provisioning};

    for options in kinds() {
        crate::run(|| async {
            let expected = match options.provisioning {
                Provisioning::Thin => Status::Good,
                Provisioning::Full => Status::CheckCondition,
            };
            let (_medium, client) = logged_in(options, "iqn.1998-01.com.vmware:host");
            let list = Bytes::from(provisioning::encode_unmap(&[Span { lba: 8, blocks: 8 }]));
            let mut answers = Vec::new();
            for cdb in [encode::test_unit_ready(), encode::unmap(24)] {
                let task = client.begin(0, 1, TaskAttribute::Simple, cdb);
                let Outcome::Completed(completion) = task.execute(list.clone()).await else { panic!("no answer") };
                answers.push(completion);
            }
            assert_eq!(answers[1].status, expected);
            let sense = answers[1].sense.as_deref().and_then(Sense::parse);
            assert_eq!(sense, (expected != Status::Good).then_some(UNKNOWN_COMMAND));
        });
    }
}
