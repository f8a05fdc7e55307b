//! Tests of the logical unit: precedence of statuses, unit attentions, legacy reservations, kept state.

use understudy_scsi::cdb::{Force, Span};
use understudy_scsi::encode;
use understudy_scsi::operations::opcode;
use understudy_scsi::reservation::{InAction, KeyList, OutAction, OutList, Persistence, ReservationType};
use understudy_scsi::transport::InitiatorPort;

use super::*;

const GEOMETRY: Geometry = Geometry { block_bytes: 512, blocks: 1000 };
const SPAN: Span = Span { lba: 0, blocks: 1 };

fn options() -> UnitOptions {
    UnitOptions::new(Identity { uuid: [7; 16], product: "TEST".into() })
}

fn nexus(number: u8) -> Nexus {
    let initiator = InitiatorPort { name: format!("iqn.host{number}"), isid: [0, 0, 0, 0, 0, number] };
    Nexus { initiator, target_port: 1 }
}

struct Bench {
    unit: LogicalUnit,
}

impl Bench {
    fn new() -> Self {
        Self { unit: LogicalUnit::new(options(), GEOMETRY, None).unwrap() }
    }

    /// Attaches and swallows the power-on unit attention.
    fn attach(&mut self, number: u8) -> NexusId {
        let id = self.unit.attach(nexus(number));
        assert_eq!(self.sense(id, &encode::test_unit_ready()), Some(Asc::POWER_ON_RESET_OR_BUS_DEVICE_RESET));
        id
    }

    fn run(&mut self, id: NexusId, cdb: &[u8; 16], data_out: &[u8]) -> Completion {
        let begun = self.unit.begin(id, 1, TaskAttribute::Simple, cdb);
        let completion = match begun.plan {
            Plan::Refused(completion) => completion,
            Plan::Command(command) => {
                match self.unit.work(id, &command, &Bytes::copy_from_slice(data_out), "iqn.target") {
                    Work::Done(completion) => completion,
                    Work::Change(request) => match self.unit.plan_change(id, begun.task, &request) {
                        Ok(change) => {
                            let kept = self.unit.bytes_to_keep(&change);
                            self.unit.commit(change, kept);
                            Completion::good()
                        }
                        Err(refused) => refused,
                    },
                    _ => Completion::good(),
                }
            }
        };
        self.unit.end(begun.task);
        completion
    }

    fn status(&mut self, id: NexusId, cdb: &[u8; 16]) -> Status {
        self.run(id, cdb, &[0; 512]).status
    }

    fn sense(&mut self, id: NexusId, cdb: &[u8; 16]) -> Option<Asc> {
        self.run(id, cdb, &[0; 512]).sense.and_then(|bytes| Sense::parse(&bytes)).map(|sense| sense.asc)
    }

    fn reserve_out(&mut self, id: NexusId, action: OutAction, kind: Option<ReservationType>, list: &OutList) -> Status {
        let cdb = encode::persistent_reserve_out(action, kind, 24);
        self.run(id, &cdb, &list.encode()).status
    }

    fn register(&mut self, id: NexusId, key: u64) {
        let list = OutList { action_key: key, ..OutList::default() };
        assert_eq!(self.reserve_out(id, OutAction::RegisterAndIgnoreExistingKey, None, &list), Status::Good);
    }
}

fn read() -> [u8; 16] {
    encode::read_16(SPAN, Force::CacheAllowed)
}

fn write() -> [u8; 16] {
    encode::write_16(SPAN, Force::CacheAllowed)
}

/// SAM-5 r21 §5.14: once to each nexus; INQUIRY neither reports nor clears it.
#[test]
fn power_on_is_reported_once_and_not_by_inquiry() {
    let mut bench = Bench::new();
    let id = bench.unit.attach(nexus(1));
    assert_eq!(bench.status(id, &encode::inquiry(96)), Status::Good);
    assert_eq!(bench.sense(id, &read()), Some(Asc::POWER_ON_RESET_OR_BUS_DEVICE_RESET));
    assert_eq!(bench.status(id, &read()), Status::Good);
    bench.unit.detach(id);
    let again = bench.unit.attach(nexus(1));
    assert_eq!(bench.sense(again, &read()), Some(Asc::I_T_NEXUS_LOSS));
}

/// SPC-4 r37 §6.39.
#[test]
fn request_sense_takes_the_unit_attention_as_data() {
    let mut bench = Bench::new();
    let id = bench.unit.attach(nexus(1));
    let mut cdb = [0u8; 16];
    (cdb[0], cdb[4]) = (opcode::REQUEST_SENSE, 252);
    let answer = bench.run(id, &cdb, &[]);
    assert_eq!(answer.status, Status::Good);
    assert_eq!(Sense::parse(&answer.data_in).unwrap().asc, Asc::POWER_ON_RESET_OR_BUS_DEVICE_RESET);
    assert_eq!(bench.status(id, &read()), Status::Good);
}

/// SAM-5 r21 §5.3.3: a reset attention goes before RESERVATION CONFLICT, any other after it.
#[test]
fn conflict_stands_between_reset_and_other_attentions() {
    let mut bench = Bench::new();
    let (holder, other) = (bench.attach(1), bench.attach(2));
    bench.register(holder, 1);
    bench.register(other, 2);
    let kind = Some(ReservationType::ExclusiveAccessRegistrantsOnly);
    let preempt = OutList { key: 1, action_key: 2, ..OutList::default() };
    let own = OutList { key: 1, ..OutList::default() };
    assert_eq!(bench.reserve_out(holder, OutAction::Reserve, kind, &own), Status::Good);
    assert_eq!(bench.reserve_out(holder, OutAction::Preempt, kind, &preempt), Status::Good);
    assert_eq!(bench.status(other, &read()), Status::ReservationConflict);
    assert_eq!(bench.sense(other, &encode::test_unit_ready()), Some(Asc::REGISTRATIONS_PREEMPTED));
    bench.unit.reset(Reset::Unit);
    assert_eq!(bench.sense(other, &read()), Some(Asc::BUS_DEVICE_RESET_FUNCTION));
    assert_eq!(bench.status(other, &read()), Status::ReservationConflict);
}

/// SPC-4 r37 table 62, SBC-3 r36 table 13.
#[test]
fn outsiders_of_a_write_exclusive_reservation_read_and_do_not_write() {
    let mut bench = Bench::new();
    let (holder, other) = (bench.attach(1), bench.attach(2));
    bench.register(holder, 1);
    let own = OutList { key: 1, ..OutList::default() };
    let kind = Some(ReservationType::WriteExclusiveRegistrantsOnly);
    assert_eq!(bench.reserve_out(holder, OutAction::Reserve, kind, &own), Status::Good);
    let passing = [read(), encode::test_unit_ready(), encode::inquiry(36), encode::read_capacity_16(32)];
    for cdb in passing {
        assert_eq!(bench.status(other, &cdb), Status::Good, "{:02x}", cdb[0]);
    }
    let refused = [
        write(),
        encode::synchronize_cache_16(),
        encode::unmap(0),
        encode::compare_and_write(0, 1, Force::CacheAllowed),
    ];
    for cdb in refused {
        assert_eq!(bench.status(other, &cdb), Status::ReservationConflict, "{:02x}", cdb[0]);
        assert_ne!(bench.status(holder, &cdb), Status::ReservationConflict, "{:02x}", cdb[0]);
    }
}

/// SPC-4 r37 table 62: reservations can be read, and the unit found, under an exclusive access reservation.
#[test]
fn outsiders_of_an_exclusive_access_reservation_only_look() {
    let mut bench = Bench::new();
    let (holder, other) = (bench.attach(1), bench.attach(2));
    bench.register(holder, 0xabc);
    let own = OutList { key: 0xabc, ..OutList::default() };
    let kind = Some(ReservationType::ExclusiveAccessRegistrantsOnly);
    assert_eq!(bench.reserve_out(holder, OutAction::Reserve, kind, &own), Status::Good);
    assert_eq!(bench.status(other, &read()), Status::ReservationConflict);
    let keys = bench.run(other, &encode::persistent_reserve_in(InAction::ReadKeys, 256), &[]);
    assert_eq!(KeyList::parse(&keys.data_in).unwrap().keys, vec![0xabc]);
    bench.register(other, 5);
    assert_eq!(bench.status(other, &write()), Status::Good, "types 5 and 6 let anyone register");
}

/// SPC-2 r20 §5.5.1 and SPC-4 r37 §5.13.3.
#[test]
fn legacy_reserve_keeps_others_out_until_release_or_nexus_loss() {
    let mut bench = Bench::new();
    let (one, two) = (bench.attach(1), bench.attach(2));
    let (mut reserve, mut release) = ([0u8; 16], [0u8; 16]);
    (reserve[0], release[0]) = (opcode::RESERVE_6, opcode::RELEASE_6);
    assert_eq!(bench.status(one, &reserve), Status::Good);
    assert_eq!(bench.status(two, &encode::test_unit_ready()), Status::ReservationConflict);
    assert_eq!(bench.status(two, &reserve), Status::ReservationConflict);
    assert_eq!(bench.status(two, &release), Status::Good);
    assert_eq!(bench.status(two, &read()), Status::ReservationConflict);
    assert_eq!(bench.status(one, &read()), Status::Good);
    bench.unit.detach(one);
    assert_eq!(bench.status(two, &read()), Status::Good);
    bench.register(two, 9);
    assert_eq!(bench.status(two, &reserve), Status::Good);
    let third = bench.attach(3);
    assert_eq!(bench.status(third, &reserve), Status::ReservationConflict);
}

/// SPC-4 r37 §5.13.5: with APTPL a new incarnation of the unit has the reservations of the old one, without not.
#[test]
fn kept_bytes_carry_reservations_exactly_when_aptpl_was_asked() {
    for (persistence, keep, survives) in [
        (Persistence::ThroughPowerLoss, Keep::AsAskedByAptpl, true),
        (Persistence::Volatile, Keep::AsAskedByAptpl, false),
        (Persistence::Volatile, Keep::Always, true),
    ] {
        let mut unit = LogicalUnit::new(UnitOptions { keep, ..options() }, GEOMETRY, None).unwrap();
        let id = unit.attach(nexus(1));
        let list = OutList { action_key: 3, persistence, ..OutList::default() };
        let request = StateRequest::Reserve(crate::reservations::Request::Plain(OutAction::Register, 0, list));
        let begun = unit.begin(id, 1, TaskAttribute::Simple, &encode::inquiry(36));
        let change = unit.plan_change(id, begun.task, &request).unwrap();
        let bytes = unit.bytes_to_keep(&change);
        unit.commit(change, bytes.clone());
        let next = LogicalUnit::new(UnitOptions { keep, ..options() }, GEOMETRY, bytes.as_deref()).unwrap();
        assert_eq!(next.reservations().key_of(&nexus(1)).is_some(), survives, "{persistence:?} {keep:?}");
    }
}

/// SPC-4 r37 §6.11: others are told, the one who asked is not; what may not change is refused as a whole.
#[test]
fn mode_select_changes_what_may_change_and_tells_others() {
    let mut bench = Bench::new();
    let (one, two) = (bench.attach(1), bench.attach(2));
    let mut sense = [0u8; 16];
    (sense[0], sense[1], sense[2], sense[4]) = (opcode::MODE_SENSE_6, 0x08, 0x0a, 255);
    let mut pages = bench.run(one, &sense, &[]).data_in.to_vec();
    pages[0] = 0;
    let mut select = [0u8; 16];
    (select[0], select[1], select[4]) = (opcode::MODE_SELECT_6, 0x10, pages.len() as u8);
    pages[4 + 2 + 2] |= 0x08;
    assert_eq!(bench.run(one, &select, &pages).status, Status::Good);
    assert_eq!(bench.sense(one, &write()), Some(Asc::WRITE_PROTECTED));
    assert_eq!(bench.sense(two, &read()), Some(Asc::MODE_PARAMETERS_CHANGED));
    pages[4 + 2 + 5] ^= 0x01;
    assert_eq!(bench.sense(one, &select).unwrap().code(), 0x26);
    bench.unit.reset(Reset::Unit);
    assert_eq!(bench.sense(one, &read()), Some(Asc::BUS_DEVICE_RESET_FUNCTION));
    assert_eq!(bench.status(one, &write()), Status::Good, "unsaved values end with a reset");
}

/// SBC-3 r36 §5.11: a transfer must lie within the unit, and within what the Block Limits page announces.
#[test]
fn blocks_past_the_end_and_too_long_transfers_want_no_data() {
    let mut bench = Bench::new();
    let id = bench.attach(1);
    for span in [Span { lba: 1000, blocks: 1 }, Span { lba: 999, blocks: 2 }, Span { lba: u64::MAX, blocks: 1 }] {
        let begun = bench.unit.begin(id, 1, TaskAttribute::Simple, &encode::write_16(span, Force::CacheAllowed));
        assert_eq!(begun.data_out_bytes, 0);
        assert!(matches!(begun.plan, Plan::Refused(_)));
        bench.unit.end(begun.task);
        assert_eq!(
            bench.sense(id, &encode::read_16(span, Force::CacheAllowed)),
            Some(Asc::LOGICAL_BLOCK_ADDRESS_OUT_OF_RANGE)
        );
    }
    let begun = bench.unit.begin(id, 1, TaskAttribute::Simple, &write());
    assert_eq!(begun.data_out_bytes, 512);
}

/// The slot of a lost nexus is not given to another while a write of the lost one is still at the medium.
#[test]
fn a_lost_nexus_keeps_its_name_until_its_last_write_is_over() {
    let mut bench = Bench::new();
    let lost = bench.attach(1);
    let begun = bench.unit.begin(lost, 1, TaskAttribute::Simple, &write());
    bench.unit.start(begun.task);
    assert_eq!(bench.unit.detach(lost), vec![begun.task]);
    let other = bench.unit.attach(nexus(2));
    assert_ne!(lost, other);
    bench.unit.end(begun.task);
    assert_eq!(bench.unit.attach(nexus(3)), lost);
}

/// SAM-5 r21 §5.3.1.
#[test]
fn a_full_task_set_says_so_and_takes_no_more_and_a_closed_one_is_busy() {
    let mut bench = Bench::new();
    let id = bench.attach(1);
    bench.unit.allow_tasks(1);
    let one = bench.unit.begin(id, 1, TaskAttribute::Simple, &encode::test_unit_ready());
    assert!(matches!(one.plan, Plan::Command(_)));
    assert_eq!(bench.status(id, &encode::test_unit_ready()), Status::TaskSetFull);
    bench.unit.end(one.task);
    assert_eq!(bench.status(id, &encode::test_unit_ready()), Status::Good);
    bench.unit.allow_tasks(0);
    assert_eq!(bench.status(id, &encode::test_unit_ready()), Status::Busy);
    bench.unit.allow_tasks(u32::MAX);
    assert_eq!(bench.status(id, &encode::test_unit_ready()), Status::Good);
}
