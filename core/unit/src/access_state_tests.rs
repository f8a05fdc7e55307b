//! Tests of target port groups: what each state lets pass, and who is told of a move.

use bytes::Bytes;
use understudy_scsi::alua::parse_groups;
use understudy_scsi::cdb::{Force, Span};
use understudy_scsi::inquiry::{Association, page, parse_designators, parse_page};
use understudy_scsi::operations::{OPERATIONS, action, opcode};
use understudy_scsi::transport::InitiatorPort;
use understudy_scsi::{Status, encode};

use super::*;
use crate::answers::Identity;
use crate::commands::Work;
use crate::nexus::{Completion, Geometry, Nexus, TaskAttribute};
use crate::unit::{Plan, UnitOptions};

const OWNERS: u16 = 1;
const PARTNERS: u16 = 2;

fn groups(owners: AccessState, partners: AccessState) -> Vec<PortGroup> {
    let group = |group, state| PortGroup {
        group,
        state,
        cause: AccessCause::Initial,
        possible: AccessState::ALL.to_vec(),
        ports: vec![group],
    };
    vec![group(OWNERS, owners), group(PARTNERS, partners)]
}

/// A unit reached by two groups, and a nexus by each, with nothing pending.
fn unit(owners: AccessState, partners: AccessState) -> (LogicalUnit, [NexusId; 2]) {
    let options = UnitOptions::new(Identity { uuid: [7; 16], product: "TEST".into() });
    let mut unit = LogicalUnit::new(options, Geometry { block_bytes: 512, blocks: 1000 }, None).unwrap();
    unit.reached_by(groups(owners, partners));
    let nexuses = [OWNERS, PARTNERS].map(|target_port| {
        let initiator = InitiatorPort { name: "iqn.host".into(), isid: [0, 0, 0, 0, 0, target_port as u8] };
        unit.attach(Nexus { initiator, target_port })
    });
    for nexus in nexuses {
        assert_eq!(
            asc(&run(&mut unit, nexus, &encode::test_unit_ready())),
            Some(Asc::POWER_ON_RESET_OR_BUS_DEVICE_RESET)
        );
    }
    (unit, nexuses)
}

fn run(unit: &mut LogicalUnit, nexus: NexusId, cdb: &[u8; 16]) -> Completion {
    let begun = unit.begin(nexus, 1, TaskAttribute::Simple, cdb);
    let completion = match begun.plan {
        Plan::Refused(completion) => completion,
        Plan::Command(command) => match unit.work(nexus, &command, &Bytes::from_static(&[0; 1024]), "iqn.target") {
            Work::Done(completion) => completion,
            _ => Completion::good(),
        },
    };
    unit.end(begun.task);
    completion
}

fn asc(completion: &Completion) -> Option<Asc> {
    completion.sense.as_ref().and_then(|bytes| Sense::parse(bytes)).map(|sense| sense.asc)
}

fn report(unit: &mut LogicalUnit, nexus: NexusId) -> Vec<PortGroup> {
    let mut cdb = [0; 16];
    (cdb[0], cdb[1], cdb[9]) = (opcode::MAINTENANCE_IN, 0x20 | action::REPORT_TARGET_PORT_GROUPS, 255);
    parse_groups(&run(unit, nexus, &cdb).data_in)
}

/// SPC-4 r37 §6.37.
#[test]
fn a_unit_told_of_no_groups_reports_the_one_the_question_came_by() {
    let (mut unit, [_, other]) = unit(AccessState::ActiveOptimized, AccessState::ActiveOptimized);
    unit.port_groups = PortGroups::default();
    let found = report(&mut unit, other);
    assert_eq!(found.len(), 1);
    assert_eq!(
        (found[0].group, found[0].state, &found[0].ports[..]),
        (PARTNERS, AccessState::ActiveOptimized, &[PARTNERS][..])
    );
}

/// SPC-4 r37 §6.37: the report is the same by whichever port it is asked for.
#[test]
fn both_ports_report_both_groups_and_name_one_unit() {
    let (mut unit, nexuses) = unit(AccessState::ActiveOptimized, AccessState::Unavailable);
    let reports = nexuses.map(|nexus| report(&mut unit, nexus));
    assert_eq!(reports[0], groups(AccessState::ActiveOptimized, AccessState::Unavailable));
    assert_eq!(reports[0], reports[1]);
    let pages = nexuses.map(|nexus| {
        let data = run(&mut unit, nexus, &encode::vital_product_data(page::DEVICE_IDENTIFICATION, 512)).data_in;
        parse_designators(parse_page(&data, page::DEVICE_IDENTIFICATION).unwrap())
    });
    let [owners, partners] = &pages;
    for (one, other) in owners.iter().zip(partners) {
        assert_eq!(one == other, one.association != Association::TargetPort, "{one:?} {other:?}");
    }
}

/// SPC-4 r37 §6.37: what a closed way lets pass never reaches a block, and all of it passes an open one.
#[test]
fn a_closed_way_answers_who_the_unit_is_and_carries_out_nothing() {
    let closed = [
        (AccessState::Standby, Asc::TARGET_PORT_IN_STANDBY_STATE),
        (AccessState::Unavailable, Asc::TARGET_PORT_IN_UNAVAILABLE_STATE),
    ];
    for (state, refusal) in closed {
        let (mut unit, [open, shut]) = unit(AccessState::ActiveOptimized, state);
        for operation in &OPERATIONS {
            let mut cdb = [0; 16];
            (cdb[0], cdb[1]) = (operation.code, operation.action.unwrap_or(0));
            let answer = asc(&run(&mut unit, shut, &cdb));
            let Ok(command) = Command::parse(&cdb) else { continue };
            assert_eq!(answer == Some(refusal), !passes(state, &command), "{state:?} {operation:02x?}");
            assert_ne!(asc(&run(&mut unit, open, &cdb)), Some(refusal));
        }
        for identity in [encode::inquiry(96), encode::vital_product_data(page::UNIT_SERIAL_NUMBER, 96)] {
            assert_eq!(run(&mut unit, shut, &identity).status, Status::Good);
        }
        assert_eq!(asc(&run(&mut unit, shut, &encode::test_unit_ready())), Some(refusal));
        let span = Span { lba: 0, blocks: 1 };
        for blocks in [encode::read_16(span, Force::CacheAllowed), encode::write_16(span, Force::CacheAllowed)] {
            assert_eq!(asc(&run(&mut unit, shut, &blocks)), Some(refusal));
            assert_eq!(run(&mut unit, open, &blocks).status, Status::Good);
        }
    }
}

/// SAM-5 r21 §5.14: one condition for each nexus, whichever way it comes.
#[test]
fn a_move_is_told_to_every_nexus_once_and_one_that_changes_nothing_to_nobody() {
    let (mut unit, nexuses) = unit(AccessState::ActiveOptimized, AccessState::Unavailable);
    unit.access_moved(OWNERS, AccessState::Unavailable);
    unit.access_moved(PARTNERS, AccessState::ActiveOptimized);
    unit.access_moved(PARTNERS, AccessState::ActiveOptimized);
    for nexus in nexuses {
        assert_eq!(asc(&run(&mut unit, nexus, &encode::test_unit_ready())), Some(Asc::ASYMMETRIC_ACCESS_STATE_CHANGED));
    }
    let [was_open, is_open] = nexuses;
    assert_eq!(asc(&run(&mut unit, was_open, &encode::test_unit_ready())), Some(Asc::TARGET_PORT_IN_UNAVAILABLE_STATE));
    assert_eq!(run(&mut unit, is_open, &encode::test_unit_ready()).status, Status::Good);
    assert!(report(&mut unit, is_open).iter().all(|group| group.cause == AccessCause::Implicit));
    assert_eq!(unit.access_state(was_open), AccessState::Unavailable);
}

#[test]
fn a_command_that_waited_while_its_way_was_closed_is_not_carried_out() {
    let (mut unit, [nexus, _]) = unit(AccessState::ActiveOptimized, AccessState::Unavailable);
    let write = encode::write_16(Span { lba: 0, blocks: 1 }, Force::CacheAllowed);
    let begun = unit.begin(nexus, 1, TaskAttribute::Simple, &write);
    unit.access_moved(OWNERS, AccessState::Unavailable);
    let Plan::Command(command) = begun.plan else { panic!("the way was open when it came") };
    let Work::Done(answer) = unit.work(nexus, &command, &Bytes::from_static(&[0; 512]), "iqn.target") else {
        panic!("it was carried out")
    };
    assert_eq!(asc(&answer), Some(Asc::TARGET_PORT_IN_UNAVAILABLE_STATE));
}

/// SPC-4 r37 §6.45: states move by themselves (TPGS 01b), so the command that would move them is none of this unit's.
#[test]
fn nobody_sets_a_state_by_a_command() {
    let (mut unit, [nexus, _]) = unit(AccessState::ActiveOptimized, AccessState::Unavailable);
    assert_eq!(run(&mut unit, nexus, &encode::inquiry(96)).data_in[5] & 0x30, 0x10);
    let mut cdb = [0; 16];
    (cdb[0], cdb[1]) = (0xa4, 0x0a);
    assert_eq!(asc(&run(&mut unit, nexus, &cdb)), Some(Asc::INVALID_COMMAND_OPERATION_CODE));
}
