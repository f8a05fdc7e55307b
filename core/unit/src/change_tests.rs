//! Tests of changes of kept state: what is kept before each is in force, who is told over the end of a nexus or of a process,
//! and what happens where there is no room.

use bytes::Bytes;
use understudy_scsi::Status;
use understudy_scsi::encode;
use understudy_scsi::reservation::{
    Capabilities, InAction, MoveList, OutAction, OutList, OwnRegistration, ReservationType,
};
use understudy_scsi::transport::{InitiatorPort, TransportId};

use super::*;
use crate::answers::Identity;
use crate::nexus::{Geometry, TaskAttribute};
use crate::reservations::Request;
use crate::unit::{Plan, Reset, UnitOptions, Work};

const GEOMETRY: Geometry = Geometry { block_bytes: 512, blocks: 1000 };
const KIND: ReservationType = ReservationType::WriteExclusiveRegistrantsOnly;

fn port(name: String) -> Nexus {
    Nexus { initiator: InitiatorPort { name, isid: [0; 6] }, target_port: 1 }
}

fn nexus(number: u8) -> Nexus {
    port(format!("iqn.host{number}"))
}

fn volume(kept: Option<&[u8]>) -> LogicalUnit {
    let identity = Identity { uuid: [7; 16], product: "TEST".into() };
    let options = UnitOptions { keep: Keep::Always, ..UnitOptions::new(identity) };
    LogicalUnit::new(options, GEOMETRY, kept).expect("sound")
}

fn plain(action: OutAction, key: u64, action_key: u64) -> StateRequest {
    let list = OutList { key, action_key, ..OutList::default() };
    StateRequest::Reserve(Request::Plain(action, KIND as u8, list))
}

/// A volume and what its medium has of it.
struct Kept {
    unit: LogicalUnit,
    bytes: Option<Vec<u8>>,
}

impl Kept {
    fn new() -> Self {
        Self { unit: volume(None), bytes: None }
    }

    /// The process ends; the next one finds what was kept.
    fn restarted(&self) -> Self {
        Self { unit: volume(self.bytes.as_deref()), bytes: self.bytes.clone() }
    }

    fn plan(&mut self, id: NexusId, request: &StateRequest) -> Result<Change, Completion> {
        let begun = self.unit.begin(id, 1, TaskAttribute::Simple, &encode::inquiry(36));
        let change = self.unit.plan_change(id, begun.task, request);
        self.unit.end(begun.task);
        change
    }

    fn change(&mut self, id: NexusId, request: &StateRequest) {
        let change = self.plan(id, request).expect("not refused");
        let bytes = self.unit.bytes_to_keep(&change);
        self.bytes = bytes.clone().or(self.bytes.take());
        self.unit.commit(change, bytes);
    }

    /// What TEST UNIT READY finds, again and again, until it is answered GOOD.
    fn told(&mut self, id: NexusId) -> Vec<Asc> {
        let mut told = Vec::new();
        loop {
            let begun = self.unit.begin(id, 1, TaskAttribute::Simple, &encode::test_unit_ready());
            self.unit.end(begun.task);
            let Plan::Refused(completion) = begun.plan else { return told };
            let sense = completion.sense.as_deref().and_then(Sense::parse).expect("CHECK CONDITION");
            assert_eq!(sense.key, SenseKey::UnitAttention);
            told.push(sense.asc);
        }
    }

    fn attach(&mut self, number: u8) -> NexusId {
        let id = self.unit.attach(nexus(number));
        self.told(id);
        id
    }

    /// Two registered hosts, the first holding the reservation.
    fn with_two_hosts() -> (Self, NexusId, NexusId) {
        let mut kept = Self::new();
        let (holder, other) = (kept.attach(1), kept.attach(2));
        kept.change(holder, &plain(OutAction::Register, 0, 1));
        kept.change(other, &plain(OutAction::Register, 0, 2));
        kept.change(holder, &plain(OutAction::Reserve, 1, 0));
        (kept, holder, other)
    }
}

/// SPC-4 r37 §5.13.5: whatever a service action does is kept before it is seen, and a next process finds exactly that.
#[test]
fn every_service_action_is_kept_before_it_is_in_force() {
    let to = TransportId::Port(nexus(3).initiator);
    let own_registration = OwnRegistration::Removed;
    let list = MoveList {
        key: 1,
        action_key: 3,
        own_registration,
        persistence: Persistence::Volatile,
        target_port: 1,
        port: to,
    };
    let actions = [
        plain(OutAction::Register, 1, 9),
        plain(OutAction::Register, 1, 0),
        plain(OutAction::RegisterAndIgnoreExistingKey, 0, 9),
        plain(OutAction::Release, 1, 0),
        plain(OutAction::Clear, 1, 0),
        plain(OutAction::Preempt, 1, 2),
        plain(OutAction::PreemptAndAbort, 1, 2),
        StateRequest::Reserve(Request::Move(KIND as u8, list)),
    ];
    for action in actions {
        let (mut kept, holder, _) = Kept::with_two_hosts();
        let before = kept.unit.reservations().clone();
        let change = kept.plan(holder, &action).expect("not refused");
        let bytes = kept.unit.bytes_to_keep(&change).expect("something changes");
        assert_eq!(*kept.unit.reservations(), before, "{action:?} was seen before it was kept");
        let next = change.reservations.as_ref().map(|planned| planned.next.clone()).expect("planned");
        assert_ne!(next, before);
        assert_eq!(*volume(Some(&bytes)).reservations(), next, "{action:?}");
        kept.unit.commit(change, Some(bytes));
        assert_eq!(*kept.unit.reservations(), next);
    }
}

/// SPC-4 r37 §6.15.4: APTPL can be asked for (PTPL_C), and what was asked last is said (PTPL_A), by a next process too.
#[test]
fn capabilities_say_what_aptpl_was_asked_for_and_registrations_are_kept_whatever_it_was() {
    let mut kept = Kept::new();
    let id = kept.attach(1);
    for (persistence, key) in
        [(Persistence::Volatile, 1), (Persistence::ThroughPowerLoss, 2), (Persistence::Volatile, 3)]
    {
        let list = OutList { action_key: key, persistence, ..OutList::default() };
        let action = OutAction::RegisterAndIgnoreExistingKey;
        kept.change(id, &StateRequest::Reserve(Request::Plain(action, 0, list)));
        let mut next = kept.restarted();
        let host = next.attach(1);
        for (unit, id) in [(&mut kept.unit, id), (&mut next.unit, host)] {
            let cdb = encode::persistent_reserve_in(InAction::ReportCapabilities, 8);
            let begun = unit.begin(id, 1, TaskAttribute::Simple, &cdb);
            let Plan::Command(command) = begun.plan else { panic!("refused") };
            let Work::Done(answer) = unit.work(id, &command, &Bytes::new(), "iqn.target") else { panic!("no answer") };
            unit.end(begun.task);
            let said = Capabilities::parse(&answer.data_in).expect("eight bytes");
            assert!(said.persistence);
            assert_eq!(said.persistence_active, persistence == Persistence::ThroughPowerLoss);
            assert_eq!(unit.reservations().key_of(&nexus(1)), Some(key));
        }
    }
}

#[test]
fn a_reserve_that_is_there_already_keeps_nothing_anew() {
    let (mut kept, holder, _) = Kept::with_two_hosts();
    let change = kept.plan(holder, &plain(OutAction::Reserve, 1, 0)).expect("GOOD");
    assert_eq!(kept.unit.bytes_to_keep(&change), None);
}

/// SPC-4 r37 §5.13.11.2.4: the port that lost its registration is told, also one that is away when it happens.
#[test]
fn a_port_that_was_away_is_told_that_its_registration_was_preempted() {
    let (mut kept, holder, other) = Kept::with_two_hosts();
    kept.unit.detach(holder);
    kept.change(other, &plain(OutAction::Preempt, 2, 1));
    let back = kept.unit.attach(nexus(1));
    assert_eq!(kept.told(back), [Asc::I_T_NEXUS_LOSS, Asc::REGISTRATIONS_PREEMPTED]);
    kept.unit.detach(back);
    let again = kept.unit.attach(nexus(1));
    assert_eq!(kept.told(again), [Asc::I_T_NEXUS_LOSS], "once");
}

#[test]
fn what_was_pending_when_a_nexus_ended_is_told_to_its_port_when_it_is_back() {
    let (mut kept, holder, other) = Kept::with_two_hosts();
    kept.change(holder, &plain(OutAction::Release, 1, 0));
    kept.unit.detach(other);
    let back = kept.unit.attach(nexus(2));
    assert_eq!(kept.told(back), [Asc::I_T_NEXUS_LOSS, Asc::RESERVATIONS_RELEASED]);
}

/// The next owner tells who was not told, attached or not, behind the power-on condition everybody finds there.
#[test]
fn whoever_was_not_told_by_a_process_that_ended_is_told_by_the_next() {
    for attached in [true, false] {
        let (mut kept, holder, other) = Kept::with_two_hosts();
        if !attached {
            kept.unit.detach(holder);
        }
        kept.change(other, &plain(OutAction::Preempt, 2, 1));
        let mut next = kept.restarted();
        let (back, unconcerned) = (next.unit.attach(nexus(1)), next.unit.attach(nexus(2)));
        let expected = [Asc::POWER_ON_RESET_OR_BUS_DEVICE_RESET, Asc::REGISTRATIONS_PREEMPTED];
        assert_eq!(next.told(back), expected);
        assert_eq!(next.told(unconcerned), expected[..1]);
    }
}

#[test]
fn what_was_reported_is_taken_off_the_kept_bytes_with_the_next_change() {
    let (mut kept, holder, other) = Kept::with_two_hosts();
    kept.change(holder, &plain(OutAction::Release, 1, 0));
    assert_eq!(kept.told(other), [Asc::RESERVATIONS_RELEASED]);
    kept.change(holder, &plain(OutAction::Reserve, 1, 0));
    let mut next = kept.restarted();
    let other = next.unit.attach(nexus(2));
    assert_eq!(next.told(other), [Asc::POWER_ON_RESET_OR_BUS_DEVICE_RESET]);
}

/// SAM-5 r21 §5.14: a reset tells an initiator to look at everything anyway.
#[test]
fn a_reset_takes_the_place_of_what_was_pending_for_a_port_that_is_there() {
    let (mut kept, holder, other) = Kept::with_two_hosts();
    kept.change(holder, &plain(OutAction::Release, 1, 0));
    kept.unit.reset(Reset::Unit);
    assert_eq!(kept.told(other), [Asc::BUS_DEVICE_RESET_FUNCTION]);
}

/// A shelf's unit is not moved between nodes: the end of its process is a loss of power, and a session that ends takes what was
/// pending for it along.
#[test]
fn a_unit_that_keeps_as_asked_by_aptpl_forgets_what_was_pending() {
    let identity = Identity { uuid: [7; 16], product: "TEST".into() };
    let unit = LogicalUnit::new(UnitOptions::new(identity), GEOMETRY, None).expect("fresh");
    let mut kept = Kept { unit, bytes: None };
    let (one, two) = (kept.attach(1), kept.attach(2));
    kept.change(one, &plain(OutAction::Register, 0, 1));
    kept.change(two, &plain(OutAction::Register, 0, 2));
    kept.unit.detach(one);
    kept.change(two, &plain(OutAction::Preempt, 2, 1));
    let back = kept.unit.attach(nexus(1));
    assert_eq!(kept.told(back), [Asc::I_T_NEXUS_LOSS]);
}

/// SPC-4 r37 §5.13.7: a registration that there is no room for is refused as such, and whoever is registered can go on.
#[test]
fn registrations_without_room_are_refused_and_nothing_changes() {
    let mut kept = Kept::new();
    let mut count = 0;
    let refused = loop {
        let id = kept.unit.attach(port(format!("{count:0223}")));
        match kept.plan(id, &plain(OutAction::Register, 0, 7)) {
            Ok(change) => {
                let bytes = kept.unit.bytes_to_keep(&change);
                assert!(bytes.as_ref().is_some_and(|bytes| bytes.len() <= state::MOST_BYTES));
                kept.bytes = bytes.clone();
                kept.unit.commit(change, bytes);
                count += 1;
            }
            Err(refused) => break refused,
        }
        assert!(count < 1024, "never full");
    };
    assert!(count >= 257, "{count}");
    let sense = refused.sense.as_deref().and_then(Sense::parse).expect("CHECK CONDITION");
    assert_eq!((sense.key, sense.asc), (SenseKey::IllegalRequest, Asc::INSUFFICIENT_REGISTRATION_RESOURCES));
    assert_eq!(kept.unit.reservations().keys().len(), count);
    // With every byte used up, those who are registered still reserve, preempt and leave.
    let (one, two) = (kept.unit.attach(port(format!("{:0223}", 0))), kept.unit.attach(port(format!("{:0223}", 1))));
    kept.change(one, &plain(OutAction::Reserve, 7, 0));
    kept.change(one, &plain(OutAction::Release, 7, 0));
    kept.change(two, &plain(OutAction::Register, 7, 0));
    assert_eq!(kept.restarted().unit.reservations().keys().len(), count - 1);
}

#[test]
fn the_answers_of_a_change_that_was_not_kept_say_so() {
    let unit = volume(None);
    let sense = |completion: Completion| {
        assert_eq!(completion.status, Status::CheckCondition);
        let sense = completion.sense.as_deref().and_then(Sense::parse).expect("sense data");
        (sense.key, sense.asc)
    };
    assert_eq!(sense(unit.not_kept()), (SenseKey::HardwareError, Asc::INTERNAL_TARGET_FAILURE));
    let registering = plain(OutAction::Register, 0, 7);
    let no_room = sense(unit.no_room_to_keep(&registering));
    assert_eq!(no_room, (SenseKey::IllegalRequest, Asc::INSUFFICIENT_REGISTRATION_RESOURCES));
    let form = understudy_scsi::cdb::ModeForm::Six;
    let selecting = StateRequest::SelectPages(form, understudy_scsi::cdb::SavePages::Yes, Bytes::new());
    assert_eq!(sense(unit.no_room_to_keep(&selecting)), (SenseKey::IllegalRequest, Asc::INSUFFICIENT_RESOURCES));
}
