//! Reservations and the medium that keeps them: nothing is answered or seen before it is kept, and what could not be kept never was.
#[path = "support/late.rs"]
mod late;

use std::rc::Rc;

use bytes::Bytes;
use late::{LateMedium, block, command, host, options, register, reserve_out, run, settle, target, target_with};
use tokio::task::spawn_local;
use understudy_device::medium::MediumError;
use understudy_device::{Keep, NexusHandle, UnitOptions};
use understudy_scsi::cdb::{Force, Span};
use understudy_scsi::reservation::{InAction, OutAction, OutList, Persistence, ReservationType};
use understudy_scsi::sense::{Asc, Sense, SenseKey};
use understudy_scsi::{Status, encode};

const KIND: Option<ReservationType> = Some(ReservationType::WriteExclusiveRegistrantsOnly);
const SPAN: Span = Span { lba: 0, blocks: 1 };

/// Everything PERSISTENT RESERVE IN shows: generation, registrations, holder.
async fn shown(host: &NexusHandle) -> (Bytes, Bytes) {
    let full = command(host, encode::persistent_reserve_in(InAction::ReadFullStatus, 4096), Bytes::new()).await;
    let held = command(host, encode::persistent_reserve_in(InAction::ReadReservation, 64), Bytes::new()).await;
    (full.data_in, held.data_in)
}

/// Two registered hosts, the first holding the reservation.
async fn two_hosts(medium: &Rc<LateMedium>) -> (Rc<NexusHandle>, Rc<NexusHandle>) {
    let target = target(medium);
    let (holder, other) = (host(&target, 1).await, host(&target, 2).await);
    register(&holder, 1).await;
    register(&other, 2).await;
    assert_eq!(reserve_out(&holder, OutAction::Reserve, KIND, 1, 0).await, Status::Good);
    (holder, other)
}

const CHANGES: [(OutAction, u64, u64); 7] = [
    (OutAction::Register, 1, 9),
    (OutAction::Register, 1, 0),
    (OutAction::RegisterAndIgnoreExistingKey, 0, 9),
    (OutAction::Release, 1, 0),
    (OutAction::Clear, 1, 0),
    (OutAction::Preempt, 1, 2),
    (OutAction::PreemptAndAbort, 1, 2),
];

/// SPC-4 r37 §5.13.5. Commands of others go on meanwhile.
#[test]
fn no_service_action_is_answered_or_seen_before_it_is_kept() {
    for (action, key, action_key) in CHANGES {
        run(|| async move {
            let medium = LateMedium::new();
            let (holder, other) = two_hosts(&medium).await;
            let (before, kept) = (shown(&other).await, medium.kept());
            medium.keep_late();
            let asking = Rc::clone(&holder);
            let asked = spawn_local(async move { reserve_out(&asking, action, KIND, key, action_key).await });
            settle().await;
            assert!(!asked.is_finished(), "{action:?} was answered before it was kept");
            assert_eq!(shown(&other).await, before, "{action:?} was seen before it was kept");
            let write = encode::write_16(SPAN, Force::CacheAllowed);
            assert_eq!(command(&other, write, block(7)).await.status, Status::Good);
            assert!(medium.land_one());
            assert_eq!(asked.await.unwrap(), Status::Good);
            assert_ne!(medium.kept(), kept);
            // A crash at this moment: the next process shows what this one shows.
            let after = shown(&holder).await;
            let next = host(&target(&medium), 3).await;
            assert_eq!(shown(&next).await, after, "{action:?}");
        });
    }
}

#[test]
fn a_change_that_could_not_be_kept_fails_and_nothing_of_it_is_ever_seen() {
    for (action, key, action_key) in CHANGES {
        run(|| async move {
            let medium = LateMedium::new();
            let (holder, other) = two_hosts(&medium).await;
            let (before, kept) = (shown(&other).await, medium.kept());
            medium.failing_keeps.borrow_mut().push_back(MediumError::Write { lba: 0 });
            let list = OutList { key, action_key, persistence: Persistence::ThroughPowerLoss, ..OutList::default() };
            let cdb = encode::persistent_reserve_out(action, KIND, 24);
            let failed = command(&holder, cdb, list.encode().into()).await;
            let sense = Sense::parse(failed.sense.as_ref().unwrap()).unwrap();
            assert_eq!((sense.key, sense.asc), (SenseKey::HardwareError, Asc::INTERNAL_TARGET_FAILURE));
            assert_eq!((shown(&other).await, medium.kept()), (before, kept), "{action:?}");
            assert!(command(&other, encode::test_unit_ready(), Bytes::new()).await.sense.is_none(), "nobody is told");
            assert_eq!(reserve_out(&holder, action, KIND, key, action_key).await, Status::Good, "asked again");
        });
    }
}

/// SPC-4 r37 §5.13.7.
#[test]
fn a_registration_that_finds_no_room_is_refused_as_such() {
    run(|| async {
        let medium = LateMedium::new();
        let (holder, other) = two_hosts(&medium).await;
        let before = shown(&other).await;
        medium.failing_keeps.borrow_mut().extend([MediumError::NoSpace, MediumError::NoSpace]);
        let list = OutList { key: 1, action_key: 9, ..OutList::default() };
        let cdb = encode::persistent_reserve_out(OutAction::Register, None, 24);
        let refused = command(&holder, cdb, list.encode().into()).await;
        let sense = Sense::parse(refused.sense.as_ref().unwrap()).unwrap();
        assert_eq!((sense.key, sense.asc), (SenseKey::IllegalRequest, Asc::INSUFFICIENT_REGISTRATION_RESOURCES));
        assert_eq!(shown(&other).await, before);
    });
}

#[test]
fn whom_to_tell_is_not_kept_where_there_is_no_room_for_it_and_the_change_is() {
    run(|| async {
        let medium = LateMedium::new();
        let target = target_with(UnitOptions { keep: Keep::Always, ..options() }, &medium);
        let (holder, other) = (host(&target, 1).await, host(&target, 2).await);
        register(&holder, 1).await;
        register(&other, 2).await;
        medium.failing_keeps.borrow_mut().push_back(MediumError::NoSpace);
        assert_eq!(reserve_out(&holder, OutAction::Preempt, KIND, 1, 2).await, Status::Good);
        let next = target_with(UnitOptions { keep: Keep::Always, ..options() }, &medium);
        let other = host(&next, 2).await;
        assert!(command(&other, encode::test_unit_ready(), Bytes::new()).await.sense.is_none());
        let list = OutList { key: 2, action_key: 3, ..OutList::default() };
        let cdb = encode::persistent_reserve_out(OutAction::Register, None, 24);
        assert_eq!(command(&other, cdb, list.encode().into()).await.status, Status::ReservationConflict);
    });
}
