//! Write protection that comes and goes while a unit is in use, and what a thin unit tells about its blocks.
#[path = "support/late.rs"]
mod late;

use bytes::Bytes;
use late::{LateMedium, block, command, host, options, run, settle, target_with};
use tokio::task::spawn_local;
use understudy_device::{Access, Completion, Outcome, TaskAttribute, UnitOptions};
use understudy_scsi::cdb::{Force, Span};
use understudy_scsi::operations::{action, opcode};
use understudy_scsi::sense::{Asc, Sense, SenseKey};
use understudy_scsi::{Status, encode};

fn write(lba: u64) -> [u8; 16] {
    encode::write_16(Span { lba, blocks: 1 }, Force::CacheAllowed)
}

/// MODE SENSE (6) of the caching page, without block descriptors.
fn mode_sense() -> [u8; 16] {
    let mut cdb = [0; 16];
    (cdb[0], cdb[1], cdb[2], cdb[4]) = (opcode::MODE_SENSE_6, 0x08, 0x08, 255);
    cdb
}

fn sense(answer: &Completion) -> Sense {
    Sense::parse(answer.sense.as_ref().expect("sense data")).expect("well formed")
}

/// SBC-3 r36 §4.12, §6.5.2; SAM-5 r21 §5.14.
#[test]
fn everyone_is_told_of_write_protection_and_nobody_writes_under_it() {
    run(|| async {
        let medium = LateMedium::new();
        let target = target_with(options(), &medium);
        let (one, other) = (host(&target, 1).await, host(&target, 2).await);
        let unit = target.units().remove(0);
        unit.write_protect().await;
        for host in [&one, &other] {
            assert_eq!(sense(&command(host, write(0), block(1)).await).asc, Asc::MODE_PARAMETERS_CHANGED);
            let refused = sense(&command(host, write(0), block(1)).await);
            assert_eq!((refused.key, refused.asc), (SenseKey::DataProtect, Asc::WRITE_PROTECTED));
            assert_eq!(command(host, mode_sense(), Bytes::new()).await.data_in[2] & 0x80, 0x80);
        }
        unit.write_protect().await;
        assert_eq!(sense(&command(&one, write(0), block(1)).await).asc, Asc::WRITE_PROTECTED, "nothing new to tell");
        unit.allow_writes();
        assert_eq!(sense(&command(&one, write(0), block(1)).await).asc, Asc::MODE_PARAMETERS_CHANGED);
        assert_eq!(command(&one, write(0), block(1)).await.status, Status::Good);
        assert_eq!(command(&one, mode_sense(), Bytes::new()).await.data_in[2] & 0x80, 0);
    });
}

#[test]
fn protecting_waits_for_writes_at_the_medium_and_refuses_those_that_wait_for_their_blocks() {
    run(|| async {
        let medium = LateMedium::new();
        let target = target_with(options(), &medium);
        let host = host(&target, 1).await;
        let unit = target.units().remove(0);
        medium.be_late();
        let put = |tag| spawn_local(host.begin(0, tag, TaskAttribute::Simple, write(4)).execute(block(7)));
        let (first, second) = (put(1), put(2));
        settle().await;
        assert_eq!(medium.waiting(), 1, "the second waits for the first");
        let protecting = spawn_local({
            let unit = std::rc::Rc::clone(&unit);
            async move { unit.write_protect().await }
        });
        settle().await;
        assert!(!protecting.is_finished());
        assert!(medium.land_one());
        protecting.await.expect("ends");
        let Outcome::Completed(first) = first.await.expect("ends") else { panic!("not answered") };
        let Outcome::Completed(second) = second.await.expect("ends") else { panic!("not answered") };
        assert_eq!(first.status, Status::Good);
        assert_eq!(sense(&second).asc, Asc::WRITE_PROTECTED);
        assert_eq!(medium.landed.borrow().len(), 1);
    });
}

#[test]
fn a_unit_may_be_protected_from_the_start() {
    run(|| async {
        let medium = LateMedium::new();
        let options = UnitOptions { access: Access::WriteProtected, ..options() };
        let target = target_with(options, &medium);
        let host = host(&target, 1).await;
        assert_eq!(sense(&command(&host, write(0), block(1)).await).asc, Asc::WRITE_PROTECTED);
        let read = encode::read_16(Span { lba: 0, blocks: 1 }, Force::CacheAllowed);
        assert_eq!(command(&host, read, Bytes::new()).await.status, Status::Good);
    });
}

/// SBC-3 r36 §5.6: of a medium that does not tell, everything is mapped; the answer is cut to the allocation length.
#[test]
fn lba_status_is_told_from_the_block_asked_for_to_the_end() {
    run(|| async {
        let medium = LateMedium::new();
        let host = host(&target_with(options(), &medium), 1).await;
        let ask = |lba: u64, allocation: u32| {
            let mut cdb = [0; 16];
            (cdb[0], cdb[1]) = (opcode::SERVICE_ACTION_IN_16, action::GET_LBA_STATUS);
            cdb[2..10].copy_from_slice(&lba.to_be_bytes());
            cdb[10..14].copy_from_slice(&allocation.to_be_bytes());
            command(&host, cdb, Bytes::new())
        };
        let told = ask(96, 100).await.data_in;
        assert_eq!((told.len(), &told[..4]), (24, &[0, 0, 0, 20][..]));
        assert_eq!((&told[8..16], &told[16..20]), (&96u64.to_be_bytes()[..], &4000u32.to_be_bytes()[..]));
        assert_eq!(told[20], 0);
        assert_eq!(ask(96, 10).await.data_in.len(), 10);
        assert_eq!(sense(&ask(4096, 100).await).asc, Asc::LOGICAL_BLOCK_ADDRESS_OUT_OF_RANGE);
    });
}
