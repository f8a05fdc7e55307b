//! Units that not everyone sees: to the others they are not there, whichever way they are tried.
#[path = "support/late.rs"]
mod late;

use std::rc::Rc;

use bytes::Bytes;
use late::{LateMedium, block, host, options, outcome, register, reserve_out, run, target};
use understudy_device::memory::MemoryMedium;
use understudy_device::{
    Audience, Completion, NexusHandle, NexusName, Outcome, Target, TaskAttribute, TaskManagement,
    TaskManagementResponse, UnitOnMedium,
};
use understudy_scsi::cdb::{Force, Span};
use understudy_scsi::operations::opcode;
use understudy_scsi::reservation::{OutAction, OutList, ReservationType};
use understudy_scsi::sense::{Asc, Sense};
use understudy_scsi::transport::{InitiatorPort, TransportId};
use understudy_scsi::{Status, encode, luns};

const HIDDEN: u16 = 5;

/// Unit 0 for everyone, unit 5 for host 1 only.
fn masked() -> (Rc<Target>, Rc<UnitOnMedium>) {
    let target = target(&LateMedium::new());
    let unit = UnitOnMedium::new(options(), MemoryMedium::new(512, 64), None).unwrap();
    target.add_for(HIDDEN, Rc::clone(&unit), Audience::only(["iqn.2026-01.test:HOST1"])).unwrap();
    (target, unit)
}

async fn go(host: &NexusHandle, lun: u16, cdb: [u8; 16], data: Bytes) -> Completion {
    match host.begin(luns::encode_lun(lun), 1, TaskAttribute::Simple, cdb).execute(data).await {
        Outcome::Completed(completion) => completion,
        other => panic!("{other:?}"),
    }
}

async fn listed(host: &NexusHandle) -> Vec<u64> {
    luns::parse_report(&go(host, 0, encode::report_luns(64), Bytes::new()).await.data_in)
}

fn asc(completion: &Completion) -> Asc {
    Sense::parse(completion.sense.as_ref().unwrap()).unwrap().asc
}

/// SPC-4 r37 §5.11.1, §6.33; SAM-5 r21 §4.7.5.
#[test]
fn a_unit_is_not_there_for_those_who_do_not_see_it() {
    run(|| async {
        let (target, _) = masked();
        let (sees, blind) = (host(&target, 1).await, host(&target, 2).await);
        assert_eq!(listed(&sees).await, [0, luns::encode_lun(HIDDEN)]);
        assert_eq!(listed(&blind).await, [0]);
        go(&sees, HIDDEN, encode::test_unit_ready(), Bytes::new()).await;
        let span = Span { lba: 0, blocks: 1 };
        let (put, get) = (encode::write_16(span, Force::CacheAllowed), encode::read_16(span, Force::CacheAllowed));
        assert_eq!(go(&sees, HIDDEN, put, block(7)).await.status, Status::Good);

        assert_eq!(go(&blind, HIDDEN, encode::inquiry(96), Bytes::new()).await.data_in[0], 0x7f);
        let mut request_sense = [0; 16];
        (request_sense[0], request_sense[4]) = (opcode::REQUEST_SENSE, 32);
        let sense = go(&blind, HIDDEN, request_sense, Bytes::new()).await;
        assert_eq!(Sense::parse(&sense.data_in).unwrap().asc, Asc::LOGICAL_UNIT_NOT_SUPPORTED);
        for code in 0..=255 {
            let mut cdb = put;
            cdb[0] = code;
            let answer = go(&blind, HIDDEN, cdb, block(9)).await;
            match code {
                opcode::INQUIRY | opcode::REQUEST_SENSE | opcode::REPORT_LUNS => continue,
                _any_other => assert_eq!(asc(&answer), Asc::LOGICAL_UNIT_NOT_SUPPORTED, "{code:02x}"),
            }
        }
        assert_eq!(go(&sees, HIDDEN, get, Bytes::new()).await.data_in, block(7));
        for function in [
            TaskManagement::AbortTask,
            TaskManagement::AbortTaskSet,
            TaskManagement::ClearTaskSet,
            TaskManagement::LogicalUnitReset,
        ] {
            let answer = blind.task_management(function, luns::encode_lun(HIDDEN), 1).await;
            assert_eq!(answer, TaskManagementResponse::LunDoesNotExist, "{function:?}");
        }
    });
}

/// A registration for a port (SPC-4 r37 §5.13.7, SPEC_I_PT) opens nothing that its initiator does not see.
#[test]
fn a_third_partys_registration_shows_nobody_a_unit() {
    run(|| async {
        let (target, unit) = masked();
        let (sees, blind) = (host(&target, 1).await, host(&target, 2).await);
        go(&sees, HIDDEN, encode::test_unit_ready(), Bytes::new()).await;
        let port = InitiatorPort { name: "iqn.2026-01.test:host2".into(), isid: [0x80, 0, 0, 0, 0, 2] };
        let list = OutList { action_key: 9, ports: Some(vec![TransportId::Port(port)]), ..OutList::default() };
        let list = Bytes::from(list.encode());
        let cdb = encode::persistent_reserve_out(OutAction::Register, None, list.len() as u32);
        assert_eq!(go(&sees, HIDDEN, cdb, list).await.status, Status::Good);
        assert_eq!(unit.look(|unit| unit.reservations().keys().collect::<Vec<_>>()), [9, 9]);
        let holder = [OutList { key: 9, action_key: 8, ..OutList::default() }.encode().into(), Bytes::new()];
        for action in [OutAction::Clear, OutAction::Register, OutAction::Preempt] {
            let cdb = encode::persistent_reserve_out(action, Some(ReservationType::WriteExclusive), 24);
            assert_eq!(asc(&go(&blind, HIDDEN, cdb, holder[0].clone()).await), Asc::LOGICAL_UNIT_NOT_SUPPORTED);
        }
        assert_eq!(unit.look(|unit| unit.reservations().keys().collect::<Vec<_>>()), [9, 9]);
        // On the unit both see they meet as ever.
        register(&blind, 2).await;
        let reserve = reserve_out(&blind, OutAction::Reserve, Some(ReservationType::ExclusiveAccess), 2, 0).await;
        assert_eq!(reserve, Status::Good);
        let span = Span { lba: 0, blocks: 1 };
        let read = go(&sees, 0, encode::read_16(span, Force::CacheAllowed), Bytes::new()).await;
        assert_eq!(read.status, Status::ReservationConflict);
    });
}

/// RFC 7143 §11.5.1: a reset of the target is subject to access controls.
#[test]
fn a_target_reset_reaches_no_further_than_its_initiator_sees() {
    run(|| async {
        let (target, _) = masked();
        let (sees, blind) = (host(&target, 1).await, host(&target, 2).await);
        for lun in [0, HIDDEN] {
            go(&sees, lun, encode::test_unit_ready(), Bytes::new()).await;
        }
        let warm = blind.task_management(TaskManagement::TargetWarmReset, 0, 0).await;
        assert_eq!(warm, TaskManagementResponse::Complete);
        let seen = go(&sees, 0, encode::test_unit_ready(), Bytes::new()).await;
        assert_eq!(asc(&seen), Asc::BUS_DEVICE_RESET_FUNCTION);
        assert_eq!(go(&sees, HIDDEN, encode::test_unit_ready(), Bytes::new()).await.status, Status::Good);
        let cold = blind.task_management(TaskManagement::TargetColdReset, 0, 0).await;
        assert_eq!(cold, TaskManagementResponse::NotAuthorized);
        assert_eq!(go(&sees, 0, encode::test_unit_ready(), Bytes::new()).await.status, Status::Good);
        let cold = sees.task_management(TaskManagement::TargetColdReset, 0, 0).await;
        assert_eq!(cold, TaskManagementResponse::Complete);
        let seen = go(&sees, HIDDEN, encode::test_unit_ready(), Bytes::new()).await;
        assert_eq!(asc(&seen), Asc::POWER_ON_RESET_OR_BUS_DEVICE_RESET);
    });
}

#[test]
fn only_those_who_see_a_unit_are_told_that_it_came_or_went() {
    run(|| async {
        let (target, _) = masked();
        let (sees, blind) = (host(&target, 1).await, host(&target, 2).await);
        let more = UnitOnMedium::new(options(), MemoryMedium::new(512, 64), None).unwrap();
        target.add_for(9, more, Audience::only(["iqn.2026-01.test:host1"])).unwrap();
        let told = async |host: &NexusHandle| match outcome(host, encode::test_unit_ready(), Bytes::new()).await {
            Outcome::Completed(completion) => completion.sense.map(|_| ()),
            other => panic!("{other:?}"),
        };
        assert_eq!((told(&sees).await, told(&blind).await), (Some(()), None));
        assert_eq!(listed(&sees).await.len(), 3);
        assert_eq!(listed(&blind).await.len(), 1);
        target.remove(9);
        assert_eq!((told(&sees).await, told(&blind).await), (Some(()), None));
    });
}

#[test]
fn a_target_has_something_for_those_who_see_a_unit_of_it() {
    run(|| async {
        let target = Target::new("iqn.t");
        assert!(target.has_something_for("iqn.x"), "its units may be on their way");
        let unit = UnitOnMedium::new(options(), MemoryMedium::new(512, 64), None).unwrap();
        target.add_for(0, unit, Audience::only(["iqn.y"])).unwrap();
        assert!(!target.has_something_for("iqn.x") && target.has_something_for("iqn.y"));
        let name = NexusName { initiator_name: "iqn.x".into(), isid: [0; 6], target_portal_group: 1 };
        let nexus = target.attach(name);
        assert_eq!(listed(&nexus).await, [0; 0]);
        assert_eq!(go(&nexus, 0, encode::inquiry(96), Bytes::new()).await.data_in[0], 0x7f);
    });
}

/// SAM-5 r21 §5.14: a power-on says more than whatever happened before it was told.
#[test]
fn whoever_comes_to_a_unit_first_is_told_of_a_power_on_and_of_nothing_before() {
    run(|| async {
        let target = target(&LateMedium::new());
        let isid = [0x80, 0, 0, 0, 0, 7];
        let nexus = target.attach(NexusName { initiator_name: "iqn.x".into(), isid, target_portal_group: 1 });
        let more = UnitOnMedium::new(options(), MemoryMedium::new(512, 64), None).unwrap();
        target.add(9, more).unwrap();
        for lun in [0, 9] {
            let told = go(&nexus, lun, encode::test_unit_ready(), Bytes::new()).await;
            assert_eq!(asc(&told), Asc::POWER_ON_RESET_OR_BUS_DEVICE_RESET);
            assert_eq!(go(&nexus, lun, encode::test_unit_ready(), Bytes::new()).await.status, Status::Good);
        }
    });
}

/// SPC-4 r37 §6.33: whoever has read the list knows it, by whatever number it was asked.
#[test]
fn a_list_read_by_one_number_is_no_news_by_another() {
    run(|| async {
        let (target, _) = masked();
        let sees = host(&target, 1).await;
        let ready = async |lun| go(&sees, lun, encode::test_unit_ready(), Bytes::new()).await;
        ready(HIDDEN).await;
        let more = UnitOnMedium::new(options(), MemoryMedium::new(512, 64), None).unwrap();
        target.add(9, more).unwrap();
        assert_eq!(asc(&ready(0).await), Asc::REPORTED_LUNS_DATA_HAS_CHANGED);
        // INQUIRY leaves the attention where it is; reading the list takes it away.
        go(&sees, HIDDEN, encode::inquiry(96), Bytes::new()).await;
        assert_eq!(listed(&sees).await.len(), 3);
        assert_eq!(ready(HIDDEN).await.status, Status::Good);
        target.remove(9);
        for lun in [0, HIDDEN] {
            assert_eq!(asc(&ready(lun).await), Asc::REPORTED_LUNS_DATA_HAS_CHANGED);
            assert_eq!(ready(lun).await.status, Status::Good);
        }
    });
}
