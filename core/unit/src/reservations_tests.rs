//! Tests of persistent reservations: one rule each, then random histories against the invariants.

use proptest::prelude::*;
use understudy_scsi::reservation::AllTargetPorts;

use super::*;
use ReservationType::{
    ExclusiveAccess, ExclusiveAccessAllRegistrants, ExclusiveAccessRegistrantsOnly, WriteExclusive,
    WriteExclusiveRegistrantsOnly,
};

fn nexus(number: u8) -> Nexus {
    let initiator = InitiatorPort { name: format!("iqn.host{number}"), isid: [0, 0, 0, 0, 0, number] };
    Nexus { initiator, target_port: 1 }
}

fn list(key: u64, action_key: u64) -> OutList {
    OutList { key, action_key, ..OutList::default() }
}

fn plain(action: OutAction, kind: Option<ReservationType>, key: u64, action_key: u64) -> Request {
    Request::Plain(action, kind.map_or(0, |kind| kind as u8), list(key, action_key))
}

/// A history that ends in a state; every step must succeed.
fn after(steps: &[(u8, Request)]) -> Reservations {
    steps.iter().fold(Reservations::default(), |state, (who, request)| state.plan(&nexus(*who), request).unwrap().next)
}

fn registered(count: u8) -> Vec<(u8, Request)> {
    (1..=count).map(|who| (who, plain(OutAction::Register, None, 0, u64::from(who) * 16))).collect()
}

fn reserved(count: u8, kind: ReservationType) -> Reservations {
    let mut steps = registered(count);
    steps.push((1, plain(OutAction::Reserve, Some(kind), 16, 0)));
    after(&steps)
}

/// SPC-4 r37 §5.13.7 table 49.
#[test]
fn register_of_an_unregistered_nexus_needs_old_key_zero() {
    let empty = Reservations::default();
    assert_eq!(empty.plan(&nexus(1), &plain(OutAction::Register, None, 5, 6)), Err(Refusal::Conflict));
    let nothing = empty.plan(&nexus(1), &plain(OutAction::Register, None, 0, 0)).unwrap();
    assert_eq!(nothing.next, empty);
    let state = after(&[(1, plain(OutAction::Register, None, 0, 6))]);
    assert_eq!((state.key_of(&nexus(1)), state.generation()), (Some(6), 1));
}

/// SPC-4 r37 §5.13.7 table 50.
#[test]
fn register_of_a_registered_nexus_needs_its_key_and_ignoring_does_not() {
    let state = after(&registered(1));
    assert_eq!(state.plan(&nexus(1), &plain(OutAction::Register, None, 99, 1)), Err(Refusal::Conflict));
    let ignored = state.plan(&nexus(1), &plain(OutAction::RegisterAndIgnoreExistingKey, None, 99, 1)).unwrap();
    assert_eq!((ignored.next.key_of(&nexus(1)), ignored.next.generation()), (Some(1), 2));
}

/// SPC-4 r37 §6.16.3: what REPORT CAPABILITIES does not announce is refused.
#[test]
fn all_target_ports_is_refused() {
    let mut asked = list(0, 1);
    asked.all_target_ports = AllTargetPorts::Yes;
    let request = Request::Plain(OutAction::Register, 0, asked);
    assert!(matches!(Reservations::default().plan(&nexus(1), &request), Err(Refusal::Check(_))));
}

/// SPC-4 r37 §5.13.7: SPEC_I_PT registers the nexuses named along with one's own, all or none.
#[test]
fn named_ports_are_registered_together_or_not_at_all() {
    let mut asked = list(0, 7);
    asked.ports = Some(vec![TransportId::Port(nexus(2).initiator), TransportId::Port(nexus(3).initiator)]);
    let request = Request::Plain(OutAction::Register, 0, asked);
    let state = after(&[(1, request.clone())]);
    assert_eq!(state.keys().collect::<Vec<_>>(), vec![7, 7, 7]);
    let taken = after(&[(3, plain(OutAction::Register, None, 0, 1))]);
    assert_eq!(taken.plan(&nexus(1), &request), Err(Refusal::Conflict));
}

/// SPC-4 r37 §5.13.9: RESERVE by the holder with its own type is GOOD, with another it conflicts.
#[test]
fn reserve_of_another_type_by_the_holder_conflicts() {
    let state = reserved(2, WriteExclusive);
    assert!(state.plan(&nexus(1), &plain(OutAction::Reserve, Some(WriteExclusive), 16, 0)).is_ok());
    assert_eq!(state.plan(&nexus(1), &plain(OutAction::Reserve, Some(ExclusiveAccess), 16, 0)), Err(Refusal::Conflict));
    assert_eq!(state.plan(&nexus(2), &plain(OutAction::Reserve, Some(WriteExclusive), 32, 0)), Err(Refusal::Conflict));
    let wrong_scope = Request::Plain(OutAction::Reserve, 0x11, list(16, 0));
    assert!(matches!(after(&registered(1)).plan(&nexus(1), &wrong_scope), Err(Refusal::Check(_))));
}

/// SPC-4 r37 §5.13.1 tables 62 and 63: who may do what under each type.
#[test]
fn standing_follows_the_table_for_every_type() {
    for kind in ReservationType::ALL {
        let state = reserved(2, kind);
        assert_eq!(state.standing(&nexus(1)), Standing::Admitted, "{kind:?}: holder");
        let registrant = match kind {
            WriteExclusive => Standing::BarredFromWriting,
            ExclusiveAccess => Standing::Barred,
            _ => Standing::Admitted,
        };
        assert_eq!(state.standing(&nexus(2)), registrant, "{kind:?}: registrant");
        let outsider = if kind.lets_outsiders_read() { Standing::BarredFromWriting } else { Standing::Barred };
        assert_eq!(state.standing(&nexus(9)), outsider, "{kind:?}: outsider");
    }
}

/// SPC-4 r37 §5.13.11.1.
#[test]
fn release_needs_the_holder_and_the_right_type_and_tells_registrants() {
    let state = reserved(2, WriteExclusiveRegistrantsOnly);
    let by_other =
        state.plan(&nexus(2), &plain(OutAction::Release, Some(WriteExclusiveRegistrantsOnly), 32, 0)).unwrap();
    assert_eq!(by_other.next, state);
    let wrong = state.plan(&nexus(1), &plain(OutAction::Release, Some(WriteExclusive), 16, 0));
    assert_eq!(wrong, Err(Refusal::Check(Sense::illegal(Asc::INVALID_RELEASE_OF_PERSISTENT_RESERVATION))));
    let released =
        state.plan(&nexus(1), &plain(OutAction::Release, Some(WriteExclusiveRegistrantsOnly), 16, 0)).unwrap();
    assert_eq!(released.attentions, vec![(nexus(2), Asc::RESERVATIONS_RELEASED)]);
    assert_eq!((released.next.held(), released.next.generation()), (None, state.generation()));
    let exclusive = reserved(2, ExclusiveAccess);
    let silent = exclusive.plan(&nexus(1), &plain(OutAction::Release, Some(ExclusiveAccess), 16, 0)).unwrap();
    assert!(silent.attentions.is_empty());
}

/// SPC-4 r37 §5.13.11.1.2: the one who unregisters is not told about its own doing.
#[test]
fn unregistering_holder_releases_and_tells_only_others() {
    for (kind, told) in [(WriteExclusiveRegistrantsOnly, true), (ExclusiveAccess, false)] {
        let planned = reserved(2, kind).plan(&nexus(1), &plain(OutAction::Register, None, 16, 0)).unwrap();
        assert_eq!(planned.next.held(), None);
        let expected = if told { vec![(nexus(2), Asc::RESERVATIONS_RELEASED)] } else { vec![] };
        assert_eq!(planned.attentions, expected, "{kind:?}");
    }
}

/// SPC-4 r37 §5.13.11.1.2.
#[test]
fn all_registrants_reservation_ends_with_the_last_registrant() {
    let state = reserved(2, ExclusiveAccessAllRegistrants);
    let one_left = state.plan(&nexus(1), &plain(OutAction::Register, None, 16, 0)).unwrap().next;
    assert!(one_left.held().is_some());
    let none_left = one_left.plan(&nexus(2), &plain(OutAction::Register, None, 32, 0)).unwrap().next;
    assert_eq!(none_left.held(), None);
}

/// SPC-4 r37 §5.13.11.3.
#[test]
fn clear_removes_everything_and_tells_the_others() {
    let planned = reserved(3, WriteExclusive).plan(&nexus(2), &plain(OutAction::Clear, None, 32, 0)).unwrap();
    assert!(planned.next.is_unused() && planned.next.held().is_none());
    let told = [1, 3].map(|who| (nexus(who), Asc::RESERVATIONS_PREEMPTED));
    assert_eq!(planned.attentions, told);
}

/// SPC-4 r37 §5.13.11.2.4: in one step, with the preempter keeping its registration.
#[test]
fn preempting_ones_own_key_changes_the_type_and_keeps_the_registration() {
    let state = reserved(2, ExclusiveAccessRegistrantsOnly);
    let request = plain(OutAction::Preempt, Some(WriteExclusiveRegistrantsOnly), 16, 16);
    let planned = state.plan(&nexus(1), &request).unwrap();
    let held = HeldReservation { key: 16, kind: WriteExclusiveRegistrantsOnly };
    assert_eq!(planned.next.report(), Some(held));
    assert_eq!(planned.next.keys().count(), 2);
    assert_eq!(planned.attentions, vec![(nexus(2), Asc::RESERVATIONS_RELEASED)]);
}

/// SPC-4 r37 §5.13.11.2.4.
#[test]
fn preempting_the_holder_takes_its_reservation_and_its_registration() {
    let state = reserved(3, WriteExclusiveRegistrantsOnly);
    let request = plain(OutAction::PreemptAndAbort, Some(WriteExclusiveRegistrantsOnly), 32, 16);
    let planned = state.plan(&nexus(2), &request).unwrap();
    assert_eq!(planned.next.key_of(&nexus(1)), None);
    assert_eq!(planned.next.held().unwrap().holder, Some(nexus(2)));
    assert_eq!(planned.attentions, vec![(nexus(1), Asc::REGISTRATIONS_PREEMPTED)]);
    assert_eq!(planned.aborts, vec![nexus(1)]);
}

/// SPC-4 r37 §5.13.11.2.5: preempting a registrant who does not hold the reservation creates none.
#[test]
fn preempting_a_plain_registrant_only_removes_registrations() {
    let unreserved = after(&registered(2));
    let request = plain(OutAction::Preempt, Some(ExclusiveAccess), 16, 32);
    let planned = unreserved.plan(&nexus(1), &request).unwrap();
    assert_eq!((planned.next.held(), planned.next.key_of(&nexus(2))), (None, None));
    assert_eq!(unreserved.plan(&nexus(1), &plain(OutAction::Preempt, None, 16, 77)), Err(Refusal::Conflict));
    assert!(matches!(unreserved.plan(&nexus(1), &plain(OutAction::Preempt, None, 16, 0)), Err(Refusal::Check(_))));
    assert_eq!(unreserved.plan(&nexus(9), &plain(OutAction::Preempt, None, 16, 32)), Err(Refusal::Conflict));
}

/// SPC-4 r37 §5.13.11.2.4: key zero preempts every other registrant of an all-registrants reservation.
#[test]
fn zero_key_preempts_everybody_else_of_an_all_registrants_reservation() {
    let state = reserved(3, ExclusiveAccessAllRegistrants);
    let request = plain(OutAction::PreemptAndAbort, Some(ExclusiveAccess), 32, 0);
    let planned = state.plan(&nexus(2), &request).unwrap();
    assert_eq!(planned.next.keys().collect::<Vec<_>>(), vec![32]);
    assert_eq!(planned.next.report(), Some(HeldReservation { key: 32, kind: ExclusiveAccess }));
    assert_eq!(planned.aborts, vec![nexus(1), nexus(3)]);
}

/// SPC-4 r37 §5.13.11.2.4: a key shared by several nexuses falls with all of them but the one that preempts.
#[test]
fn preempting_ones_own_shared_key_removes_the_other_nexuses_sharing_it() {
    let mut steps: Vec<(u8, Request)> = (1..=3).map(|who| (who, plain(OutAction::Register, None, 0, 5))).collect();
    steps.push((1, plain(OutAction::Reserve, Some(WriteExclusiveRegistrantsOnly), 5, 0)));
    let request = plain(OutAction::Preempt, Some(WriteExclusiveRegistrantsOnly), 5, 5);
    let planned = after(&steps).plan(&nexus(1), &request).unwrap();
    assert_eq!(planned.next.keys().count(), 1);
    assert_eq!(planned.attentions.len(), 2);
}

/// SPC-4 r37 §5.13.8.
#[test]
fn register_and_move_hands_the_reservation_to_another_nexus() {
    let state = reserved(1, WriteExclusive);
    let mut asked = MoveList {
        key: 16,
        action_key: 99,
        own_registration: OwnRegistration::Removed,
        persistence: Persistence::Volatile,
        target_port: 1,
        port: TransportId::Port(nexus(2).initiator),
    };
    let planned = state.plan(&nexus(1), &Request::Move(1, asked.clone())).unwrap();
    assert_eq!(planned.next.report(), Some(HeldReservation { key: 99, kind: WriteExclusive }));
    assert_eq!(planned.next.key_of(&nexus(1)), None);
    asked.port = TransportId::Port(nexus(1).initiator);
    assert!(matches!(state.plan(&nexus(1), &Request::Move(1, asked.clone())), Err(Refusal::Check(_))));
    asked.action_key = 0;
    assert!(matches!(state.plan(&nexus(1), &Request::Move(1, asked)), Err(Refusal::Check(_))));
}

#[test]
fn registrations_are_limited() {
    let mut state = Reservations::default();
    for number in 0..MOST_REGISTRATIONS {
        let mut full = nexus(0);
        full.initiator.name = format!("iqn.{number}");
        state.registrations.insert(full, 1);
    }
    let refused = state.plan(&nexus(1), &plain(OutAction::Register, None, 0, 1));
    assert_eq!(refused, Err(Refusal::Check(Sense::illegal(Asc::INSUFFICIENT_REGISTRATION_RESOURCES))));
}

fn any_request() -> impl Strategy<Value = (u8, Request)> {
    let action = prop_oneof![
        4 => Just(OutAction::RegisterAndIgnoreExistingKey),
        2 => Just(OutAction::Register),
        3 => Just(OutAction::Reserve),
        2 => Just(OutAction::Release),
        1 => Just(OutAction::Clear),
        3 => Just(OutAction::Preempt),
        3 => Just(OutAction::PreemptAndAbort),
    ];
    let kind = proptest::sample::select(ReservationType::ALL.to_vec());
    let moved = (1..5u8, kind.clone(), 0..4u64, 0..4u64, any::<bool>(), 1..5u8).prop_map(
        |(who, kind, key, action_key, keep, to)| {
            let own_registration = if keep { OwnRegistration::Kept } else { OwnRegistration::Removed };
            let port = TransportId::Port(nexus(to).initiator);
            let list = MoveList {
                key,
                action_key,
                own_registration,
                persistence: Persistence::Volatile,
                target_port: 1,
                port,
            };
            (who, Request::Move(kind as u8, list))
        },
    );
    let usual = (1..5u8, action, kind, 0..4u64, 0..4u64)
        .prop_map(|(who, action, kind, key, action_key)| (who, plain(action, Some(kind), key, action_key)));
    prop_oneof![8 => usual, 1 => moved]
}

/// Whatever is refused, a registrant of type 5 or 6 is admitted and nobody else is (the exclusion the failover rests
/// on), and under types 1 and 3 only the holder writes.
fn invariant_exclusion(state: &Reservations) -> Result<(), String> {
    for who in 1..6 {
        let nexus = nexus(who);
        let registered = state.key_of(&nexus).is_some();
        let standing = state.standing(&nexus);
        let Some(held) = state.held() else {
            if standing != Standing::Admitted {
                return Err(format!("host {who} is barred from an unreserved unit"));
            }
            continue;
        };
        let may = if held.kind.admits_registrants() { registered } else { held.holder.as_ref() == Some(&nexus) };
        if may != (standing == Standing::Admitted) {
            return Err(format!("host {who}: {standing:?} under {held:?}, registered {registered}"));
        }
    }
    Ok(())
}

proptest! {
    #[test]
    fn random_histories_keep_the_invariants(steps in proptest::collection::vec(any_request(), 1..60)) {
        let mut state = Reservations::default();
        for (who, request) in steps {
            let Ok(planned) = state.plan(&nexus(who), &request) else { continue };
            let next = planned.next;
            prop_assert_eq!(next.invariant_holder_is_registered(), Ok(()));
            if let Err(broken) = invariant_exclusion(&next) {
                prop_assert!(false, "{}", broken);
            }
            let registrations_moved = next.registrations != state.registrations;
            let step = next.generation.wrapping_sub(state.generation);
            prop_assert!(step <= 1 && (step == 1 || !registrations_moved));
            // Nobody is told of its own doing, and nobody's commands are aborted without losing the registration or
            // asking for it.
            prop_assert!(planned.attentions.iter().all(|(told, _)| *told != nexus(who)));
            for victim in &planned.aborts {
                prop_assert!(*victim == nexus(who) || !next.registrations.contains_key(victim));
            }
            state = next;
        }
    }
}
