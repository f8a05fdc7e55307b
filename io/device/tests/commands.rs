//! Commands at the medium, the gate, and what a target answers for units it does not have.
#[path = "support/late.rs"]
mod late;

use std::rc::Rc;

use bytes::{Bytes, BytesMut};
use late::{LateMedium, block, command, host, options, outcome, run, settle, target};
use tokio::task::spawn_local;
use understudy_device::medium::MediumError;
use understudy_device::memory::MemoryMedium;
use understudy_device::{Medium, Outcome, TaskAttribute, TaskManagement, TaskManagementResponse, UnitOnMedium};
use understudy_scsi::cdb::{Force, Span};
use understudy_scsi::inquiry::{self, DesignatorName};
use understudy_scsi::operations::opcode;
use understudy_scsi::provisioning::encode_unmap;
use understudy_scsi::sense::{Asc, Sense};
use understudy_scsi::{Status, encode, luns};

fn write(lba: u64, blocks: u64) -> [u8; 16] {
    encode::write_16(Span { lba, blocks }, Force::CacheAllowed)
}

fn read(lba: u64, blocks: u64) -> [u8; 16] {
    encode::read_16(Span { lba, blocks }, Force::CacheAllowed)
}

fn asc(completion: &understudy_device::Completion) -> Asc {
    Sense::parse(completion.sense.as_ref().unwrap()).unwrap().asc
}

#[test]
fn what_was_written_is_read() {
    run(|| async {
        let medium = LateMedium::new();
        let host = host(&target(&medium), 1).await;
        let data = Bytes::from([block(1), block(2), block(3)].concat());
        assert_eq!(command(&host, write(7, 3), data.clone()).await.status, Status::Good);
        assert_eq!(command(&host, read(7, 3), Bytes::new()).await.data_in, data);
    });
}

/// RFC 7143 §11.4.5.1: of data cut short by the initiator's expected length, whole blocks are written.
#[test]
fn short_data_writes_the_whole_blocks_it_has() {
    run(|| async {
        let medium = LateMedium::new();
        let host = host(&target(&medium), 1).await;
        assert_eq!(command(&host, write(0, 2), block(9)).await.status, Status::Good);
        let found = command(&host, read(0, 2), Bytes::new()).await.data_in;
        assert_eq!((found[0], found[512]), (9, 0));
    });
}

/// The initiator would take a part of a block that was left out in silence for written.
#[test]
fn data_that_ends_within_a_block_is_refused_and_nothing_is_written() {
    run(|| async {
        let medium = LateMedium::new();
        let host = host(&target(&medium), 1).await;
        let cut = Bytes::from([block(9), block(9)].concat()).slice(..700);
        let mut and_verify = write(0, 2);
        and_verify[0] = opcode::WRITE_AND_VERIFY_16;
        for cdb in [write(0, 2), and_verify] {
            let answer = command(&host, cdb, cut.clone()).await;
            assert_eq!(answer.status, Status::CheckCondition);
            assert_eq!(asc(&answer), Asc::INVALID_FIELD_IN_COMMAND_INFORMATION_UNIT);
        }
        let found = command(&host, read(0, 2), Bytes::new()).await.data_in;
        assert!(found.iter().all(|byte| *byte == 0), "something was written");
    });
}

fn or_write(lba: u64, blocks: u64) -> [u8; 16] {
    let mut cdb = write(lba, blocks);
    cdb[0] = opcode::ORWRITE_16;
    cdb
}

/// SBC-3 r36 §5.7.
#[test]
fn or_write_sets_bits_and_clears_none() {
    run(|| async {
        let medium = LateMedium::new();
        let host = host(&target(&medium), 1).await;
        command(&host, write(3, 2), Bytes::from([block(0x12), block(0x34)].concat())).await;
        let data = Bytes::from([block(0x81), block(0)].concat());
        assert_eq!(command(&host, or_write(3, 2), data).await.status, Status::Good);
        let found = command(&host, read(3, 2), Bytes::new()).await.data_in;
        assert_eq!(found, Bytes::from([block(0x93), block(0x34)].concat()));
        let beyond = command(&host, or_write(u64::MAX, 1), block(1)).await;
        assert_eq!(asc(&beyond), Asc::LOGICAL_BLOCK_ADDRESS_OUT_OF_RANGE);
    });
}

#[test]
fn of_two_or_writes_on_one_block_none_is_lost() {
    run(|| async {
        let medium = LateMedium::new();
        let host = host(&target(&medium), 1).await;
        medium.be_late();
        let set = |bit: u8| {
            let task = host.begin(0, u32::from(bit), TaskAttribute::Simple, or_write(5, 1));
            spawn_local(task.execute(block(bit)))
        };
        let both = (set(1), set(2));
        settle().await;
        assert_eq!(medium.waiting(), 1, "the second must not look before the first has written");
        while medium.land_one() {
            settle().await;
        }
        for outcome in [both.0.await, both.1.await] {
            assert!(matches!(outcome.unwrap(), Outcome::Completed(completion) if completion.status == Status::Good));
        }
        assert_eq!(command(&host, read(5, 1), Bytes::new()).await.data_in, block(3));
    });
}

/// SBC-3 r36 §5.2.
#[test]
fn of_two_compare_and_writes_on_one_block_only_one_succeeds() {
    run(|| async {
        let medium = LateMedium::new();
        let host = host(&target(&medium), 1).await;
        medium.be_late();
        let swap = |to: u8| {
            let data = Bytes::from([block(0), block(to)].concat());
            let task = host.begin(
                0,
                u32::from(to),
                TaskAttribute::Simple,
                encode::compare_and_write(5, 1, Force::CacheAllowed),
            );
            spawn_local(task.execute(data))
        };
        let (first, second) = (swap(1), swap(2));
        settle().await;
        assert_eq!(medium.waiting(), 1, "the second must not look before the first has written");
        medium.land_one();
        let Outcome::Completed(won) = first.await.unwrap() else { panic!() };
        let Outcome::Completed(lost) = second.await.unwrap() else { panic!() };
        assert_eq!((won.status, asc(&lost)), (Status::Good, Asc::MISCOMPARE_DURING_VERIFY));
        assert_eq!(Sense::parse(&lost.sense.unwrap()).unwrap().information, Some(0));
        assert_eq!(command(&host, read(5, 1), Bytes::new()).await.data_in[0], 1);
    });
}

#[test]
fn overlapping_writes_land_in_the_order_they_came_and_others_pass() {
    run(|| async {
        let medium = LateMedium::new();
        let host = host(&target(&medium), 1).await;
        medium.be_late();
        let put = |lba, byte| {
            let task = host.begin(0, u32::from(byte), TaskAttribute::Simple, write(lba, 2));
            spawn_local(task.execute(Bytes::from([block(byte), block(byte)].concat())))
        };
        let tasks = [put(0, 1), put(1, 2), put(8, 3)];
        settle().await;
        assert_eq!(medium.waiting(), 2, "the second overlaps the first and waits");
        while medium.land_one() {
            settle().await;
        }
        for task in tasks {
            assert!(matches!(task.await.unwrap(), Outcome::Completed(_)));
        }
        assert_eq!(*medium.landed.borrow(), vec![1, 3, 2]);
    });
}

/// A medium that is a file may answer a read in the middle of a write with bytes of both.
#[test]
fn a_read_waits_for_an_overlapping_write_and_others_pass() {
    run(|| async {
        let medium = LateMedium::new();
        let host = host(&target(&medium), 1).await;
        medium.be_late();
        let start = |tag, cdb, data| spawn_local(host.begin(0, tag, TaskAttribute::Simple, cdb).execute(data));
        let put = start(1, write(4, 1), block(7));
        settle().await;
        let overlapping = start(2, read(3, 4), Bytes::new());
        let mut verify = read(4, 1);
        verify[0] = opcode::VERIFY_16;
        let verifying = start(3, verify, Bytes::new());
        let elsewhere = start(4, read(8, 4), Bytes::new());
        settle().await;
        assert!(elsewhere.is_finished() && !overlapping.is_finished() && !verifying.is_finished());
        assert!(medium.land_one());
        assert!(matches!(put.await.unwrap(), Outcome::Completed(_)));
        let Outcome::Completed(found) = overlapping.await.unwrap() else { panic!() };
        assert_eq!((found.data_in[0], found.data_in[512]), (0, 7));
        assert!(matches!(verifying.await.unwrap(), Outcome::Completed(_)));
    });
}

/// SBC-3 r36 §5.37, §5.42, §5.35.
#[test]
fn verify_write_same_and_unmap_work_across_chunks() {
    run(|| async {
        let medium = MemoryMedium::new(512, 8192);
        let unit = UnitOnMedium::new(options(), Rc::clone(&medium) as Rc<dyn Medium>, None).unwrap();
        let target = understudy_device::Target::new("iqn.t");
        target.add(3, unit).unwrap();
        let lun = luns::encode_lun(3);
        let handle = target.attach(understudy_device::NexusName {
            initiator_name: "iqn.h".into(),
            isid: [0; 6],
            target_portal_group: 1,
        });
        let go = async |cdb: [u8; 16], data: Bytes| match handle
            .begin(lun, 1, TaskAttribute::Simple, cdb)
            .execute(data)
            .await
        {
            Outcome::Completed(completion) => completion,
            other => panic!("{other:?}"),
        };
        go(encode::test_unit_ready(), Bytes::new()).await;
        let mut same = encode::write_16(Span { lba: 1, blocks: 5000 }, Force::CacheAllowed);
        same[0] = opcode::WRITE_SAME_16;
        assert_eq!(go(same, block(0x5a)).await.status, Status::Good);
        let mut verify = same;
        (verify[0], verify[1]) = (opcode::VERIFY_16, 0x06);
        assert_eq!(go(verify, block(0x5a)).await.status, Status::Good);
        let holes = encode_unmap(&[Span { lba: 4000, blocks: 1 }, Span { lba: 3999, blocks: 2 }]);
        let unmapped = go(encode::unmap(holes.len() as u16), holes.into()).await;
        assert_eq!(unmapped.status, Status::Good);
        let differs = go(verify, block(0x5a)).await;
        assert_eq!(Sense::parse(&differs.sense.unwrap()).unwrap().information, Some(3998 * 512));
        assert_eq!(go(read(3999, 1), Bytes::new()).await.data_in, block(0));
    });
}

#[test]
fn hold_lets_nothing_start_and_resume_carries_everything_on() {
    run(|| async {
        let medium = LateMedium::new();
        let target = target(&medium);
        let host = host(&target, 1).await;
        medium.be_late();
        let under_way = spawn_local(host.begin(0, 1, TaskAttribute::Simple, write(0, 1)).execute(block(1)));
        let blocked = spawn_local(host.begin(0, 2, TaskAttribute::Simple, write(0, 1)).execute(block(2)));
        settle().await;
        let holding = Rc::clone(&target);
        let drained = spawn_local(async move { holding.hold_and_drain().await });
        settle().await;
        assert!(!drained.is_finished());
        medium.land_one();
        drained.await.unwrap();
        assert!(matches!(under_way.await.unwrap(), Outcome::Completed(_)));
        let reading = spawn_local(host.begin(0, 3, TaskAttribute::Simple, read(0, 1)).execute(Bytes::new()));
        settle().await;
        assert_eq!(medium.waiting(), 0, "a write that waited for its blocks started behind the hold");
        assert!(!reading.is_finished() && !blocked.is_finished());
        target.resume();
        settle().await;
        assert!(medium.land_one());
        assert!(matches!(blocked.await.unwrap(), Outcome::Completed(_)));
        assert!(matches!(reading.await.unwrap(), Outcome::Completed(_)));
    });
}

#[test]
fn a_frozen_unit_keeps_its_answers_and_a_fenced_one_never_gives_them() {
    run(|| async {
        for resumed in [true, false] {
            let medium = LateMedium::new();
            let target = target(&medium);
            let host = host(&target, 1).await;
            medium.be_late();
            let under_way = spawn_local(host.begin(0, 1, TaskAttribute::Simple, write(0, 1)).execute(block(1)));
            settle().await;
            target.freeze();
            medium.land_one();
            settle().await;
            assert!(!under_way.is_finished());
            if resumed {
                target.resume();
                assert!(matches!(under_way.await.unwrap(), Outcome::Completed(_)));
            } else {
                target.fence();
                target.resume();
                assert_eq!(under_way.await.unwrap(), Outcome::Fenced);
                assert_eq!(outcome(&host, read(0, 1), Bytes::new()).await, Outcome::Fenced);
            }
        }
    });
}

#[test]
fn a_medium_that_is_fenced_silences_the_unit() {
    run(|| async {
        let medium = LateMedium::new();
        let host = host(&target(&medium), 1).await;
        medium.failing.set(Some(MediumError::Write { lba: 4 }));
        let failed = command(&host, write(4, 1), block(1)).await;
        assert_eq!(asc(&failed), Asc::WRITE_ERROR);
        medium.failing.set(Some(MediumError::Fenced));
        assert_eq!(outcome(&host, write(4, 1), block(1)).await, Outcome::Fenced);
        assert_eq!(outcome(&host, encode::test_unit_ready(), Bytes::new()).await, Outcome::Fenced);
    });
}

/// SAM-5 r21 §7.2.
#[test]
fn abort_task_ends_a_command_that_waits_and_close_waits_for_the_medium() {
    run(|| async {
        let medium = LateMedium::new();
        let target = target(&medium);
        let host = host(&target, 1).await;
        medium.be_late();
        let first = spawn_local(host.begin(0, 1, TaskAttribute::Simple, write(0, 1)).execute(block(1)));
        let ordered = spawn_local(host.begin(0, 2, TaskAttribute::Ordered, write(9, 1)).execute(block(2)));
        settle().await;
        assert_eq!(medium.waiting(), 1, "the ordered command waits for the older one");
        let aborted = host.task_management(TaskManagement::AbortTask, 0, 2).await;
        assert_eq!(aborted, TaskManagementResponse::Complete);
        assert_eq!(ordered.await.unwrap(), Outcome::Aborted);
        let handle = Rc::into_inner(host).unwrap();
        let closed = spawn_local(handle.close());
        settle().await;
        assert!(!closed.is_finished());
        medium.land_one();
        closed.await.unwrap();
        assert_eq!(first.await.unwrap(), Outcome::Aborted);
    });
}

/// SAM-5 r21 §4.7.5, SPC-4 r37 §6.33.
#[test]
fn a_number_without_a_unit_is_reported_as_such() {
    run(|| async {
        let medium = LateMedium::new();
        let target = target(&medium);
        let host = host(&target, 1).await;
        let elsewhere = luns::encode_lun(9);
        let go = async |lun, cdb| match host.begin(lun, 1, TaskAttribute::Simple, cdb).execute(Bytes::new()).await {
            Outcome::Completed(completion) => completion,
            other => panic!("{other:?}"),
        };
        assert_eq!(go(elsewhere, encode::inquiry(96)).await.data_in[0], 0x7f);
        assert_eq!(asc(&go(elsewhere, read(0, 1)).await), Asc::LOGICAL_UNIT_NOT_SUPPORTED);
        let added = UnitOnMedium::new(options(), MemoryMedium::new(4096, 8), None).unwrap();
        target.add(9, added).unwrap();
        assert!(target.add(9, UnitOnMedium::new(options(), MemoryMedium::new(4096, 8), None).unwrap()).is_err());
        let listed = go(elsewhere, encode::report_luns(64)).await;
        assert_eq!(luns::parse_report(&listed.data_in), vec![0, elsewhere]);
        assert_eq!(go(0, encode::test_unit_ready()).await.status, Status::Good, "REPORT LUNS took the attention");
        let seen = host.task_management(TaskManagement::LogicalUnitReset, luns::encode_lun(77), 0).await;
        assert_eq!(seen, TaskManagementResponse::LunDoesNotExist);
        target.remove(9);
        assert_eq!(asc(&go(0, encode::test_unit_ready()).await), Asc::REPORTED_LUNS_DATA_HAS_CHANGED);
    });
}

#[test]
fn identity_follows_from_the_uuid_alone() {
    run(|| async {
        let medium = LateMedium::new();
        let host = host(&target(&medium), 1).await;
        let page = command(&host, encode::vital_product_data(0x83, 1024), Bytes::new()).await;
        let designators = inquiry::parse_designators(inquiry::parse_page(&page.data_in, 0x83).unwrap());
        assert_eq!(designators[0].name, DesignatorName::Naa(b"\x301234567".to_vec()));
        assert!(matches!(&designators[1].name, DesignatorName::T10(name) if name.starts_with("UNDRSTDY3031")));
        let serial = command(&host, encode::vital_product_data(0x80, 255), Bytes::new()).await;
        assert_eq!(&serial.data_in[4..], b"30313233343536373839616263646566");
    });
}

/// Nothing a portal may hand over makes the device panic.
#[test]
fn any_command_with_any_data_is_answered() {
    run(|| async {
        let medium = LateMedium::new();
        let host = host(&target(&medium), 1).await;
        for code in 0..=255u8 {
            for fill in [0x00, 0x01, 0x10, 0xff] {
                for length in [0, 1, 24, 512, 1024] {
                    let mut cdb = [fill; 16];
                    cdb[0] = code;
                    let data = BytesMut::zeroed(length).freeze();
                    for lun in [0, u64::MAX] {
                        let task = host.begin(lun, 1, TaskAttribute::Simple, cdb);
                        assert!(matches!(task.execute(data.clone()).await, Outcome::Completed(_)), "{cdb:02x?}");
                    }
                }
            }
        }
    });
}

/// SBC-3 r36 §6.5.5: without a write cache nothing is answered that a power loss could take back.
#[test]
fn without_a_write_cache_everything_is_durable_before_it_is_answered() {
    let no_write_cache =
        Bytes::from_static(&[0, 0, 0, 0, 0x08, 0x12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    run(|| async {
        let medium = LateMedium::new();
        let host = host(&target(&medium), 1).await;
        let span = Span { lba: 8, blocks: 16 };
        let unmap = Bytes::from(encode_unmap(&[span]));
        let kept_zeroes = {
            let mut cdb = encode::write_same_16_unmap(span);
            cdb[1] = 0;
            cdb
        };
        let changes = [
            ("WRITE SAME of a pattern", kept_zeroes, block(7)),
            ("WRITE SAME of zeroes", kept_zeroes, block(0)),
            ("WRITE SAME of zeroes with UNMAP", encode::write_same_16_unmap(span), block(0)),
            ("UNMAP", encode::unmap(unmap.len() as u16), unmap),
        ];
        for (name, cdb, data) in &changes {
            assert_eq!(command(&host, *cdb, data.clone()).await.status, Status::Good, "{name}");
        }
        assert_eq!(medium.flushed.get(), 0, "with the write cache on nobody asked for it");
        let select = {
            let mut cdb = [0; 16];
            cdb[..6].copy_from_slice(&[opcode::MODE_SELECT_6, 0x11, 0, 0, 24, 0]);
            cdb
        };
        assert_eq!(command(&host, select, no_write_cache).await.status, Status::Good);
        for (name, cdb, data) in changes {
            let before = medium.landed.borrow().len();
            assert_eq!(command(&host, cdb, data).await.status, Status::Good, "{name}");
            let landed = medium.landed.borrow().len();
            assert!(landed > before && medium.flushed.get() == landed, "{name} was answered before it was flushed");
        }
    });
}

/// SBC-3 r36 §4.7.3.4.4, §5.42: blocks may be deallocated only if they then read as the block that was sent. (libiscsi's
/// WriteSame10.UnmapUntilEnd sends ones and expects zeroes: the suite is wrong there.)
#[test]
fn write_same_with_unmap_never_loses_a_pattern_that_is_not_zero() {
    run(|| async {
        let medium = LateMedium::new();
        let host = host(&target(&medium), 1).await;
        let span = Span { lba: 3, blocks: 4 };
        assert_eq!(command(&host, encode::write_same_16_unmap(span), block(0xff)).await.status, Status::Good);
        assert!(command(&host, read(3, 4), Bytes::new()).await.data_in.iter().all(|byte| *byte == 0xff));
        assert_eq!(command(&host, encode::write_same_16_unmap(span), block(0)).await.status, Status::Good);
        assert!(command(&host, read(3, 4), Bytes::new()).await.data_in.iter().all(|byte| *byte == 0));
    });
}
