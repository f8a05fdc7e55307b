//! What a fence promises: after PREEMPT AND ABORT has answered GOOD, nothing of its victim reaches the medium
//! (SPC-4 r37 §5.13.11.2.6), and a reservation that was answered is there after a crash (§5.13.5).
#[path = "support/late.rs"]
mod late;

use std::cell::RefCell;
use std::rc::Rc;

use bytes::Bytes;
use late::{LateMedium, block, command, host, outcome, register, reserve_out, run, settle, target};
use proptest::prelude::*;
use tokio::task::spawn_local;
use understudy_device::{NexusHandle, Outcome, TaskAttribute, TaskManagement, TaskManagementResponse};
use understudy_scsi::cdb::{Force, Span};
use understudy_scsi::reservation::{InAction, KeyList, OutAction, ReservationReport, ReservationType};
use understudy_scsi::sense::{Asc, Sense};
use understudy_scsi::{Status, encode};

const KIND: Option<ReservationType> = Some(ReservationType::WriteExclusiveRegistrantsOnly);

fn write(lba: u64) -> [u8; 16] {
    encode::write_16(Span { lba, blocks: 1 }, Force::CacheAllowed)
}

/// Two registered hosts, the first holding the reservation.
async fn pair(medium: &Rc<LateMedium>) -> (Rc<NexusHandle>, Rc<NexusHandle>) {
    let target = target(medium);
    let (victim, taker) = (host(&target, 1).await, host(&target, 2).await);
    register(&victim, 1).await;
    register(&taker, 2).await;
    assert_eq!(reserve_out(&victim, OutAction::Reserve, KIND, 1, 0).await, Status::Good);
    (victim, taker)
}

#[test]
fn preempt_and_abort_waits_for_the_write_at_the_medium_and_drops_the_one_before_it() {
    run(|| async {
        let medium = LateMedium::new();
        let (victim, taker) = pair(&medium).await;
        medium.be_late();
        let at_medium = spawn_local(victim.begin(0, 1, TaskAttribute::Simple, write(1)).execute(block(0xaa)));
        // This one has not got its data yet.
        let collecting = victim.begin(0, 2, TaskAttribute::Simple, write(2));
        settle().await;
        let preempting = Rc::clone(&taker);
        let preempt =
            spawn_local(async move { reserve_out(&preempting, OutAction::PreemptAndAbort, KIND, 2, 1).await });
        settle().await;
        assert!(!preempt.is_finished(), "GOOD before the victim's write was over");
        assert_eq!(command(&victim, write(3), block(0xcc)).await.status, Status::ReservationConflict);
        assert!(medium.land_one());
        assert_eq!(preempt.await.unwrap(), Status::Good);
        assert_eq!(at_medium.await.unwrap(), Outcome::Aborted);
        collecting.aborted().await;
        assert_eq!(collecting.execute(block(0xbb)).await, Outcome::Aborted);
        assert_eq!(*medium.landed.borrow(), vec![0xaa]);
    });
}

#[test]
fn a_write_whose_session_is_gone_is_still_waited_for() {
    run(|| async {
        let medium = LateMedium::new();
        let (victim, taker) = pair(&medium).await;
        medium.be_late();
        let abandoned = spawn_local(victim.begin(0, 1, TaskAttribute::Simple, write(1)).execute(block(0xaa)));
        settle().await;
        abandoned.abort();
        drop(victim);
        settle().await;
        let preempt = spawn_local(async move { reserve_out(&taker, OutAction::PreemptAndAbort, KIND, 2, 1).await });
        settle().await;
        assert!(!preempt.is_finished());
        assert!(medium.land_one(), "the write was carried on although nobody waited for it");
        assert_eq!(preempt.await.unwrap(), Status::Good);
    });
}

#[test]
fn a_write_waiting_for_its_blocks_is_refused_when_it_was_preempted_meanwhile() {
    run(|| async {
        let medium = LateMedium::new();
        let (victim, taker) = pair(&medium).await;
        medium.be_late();
        let own = Rc::clone(&taker);
        let first = spawn_local(async move { outcome(&own, write(1), block(0x11)).await });
        settle().await;
        let blocked = spawn_local(victim.begin(0, 1, TaskAttribute::Simple, write(1)).execute(block(0xaa)));
        settle().await;
        assert_eq!(reserve_out(&taker, OutAction::Preempt, KIND, 2, 1).await, Status::Good);
        medium.land_one();
        first.await.unwrap();
        let Outcome::Completed(refused) = blocked.await.unwrap() else { panic!("plain PREEMPT aborts nothing") };
        assert_eq!(refused.status, Status::ReservationConflict);
        assert_eq!(*medium.landed.borrow(), vec![0x11]);
    });
}

#[test]
fn a_registration_is_answered_and_shown_only_after_it_was_kept() {
    run(|| async {
        let medium = LateMedium::new();
        let target = target(&medium);
        let (one, two) = (host(&target, 1).await, host(&target, 2).await);
        medium.keep_late();
        let registering = Rc::clone(&one);
        let answered = spawn_local(async move { register(&registering, 7).await });
        settle().await;
        assert!(!answered.is_finished());
        let read_keys = encode::persistent_reserve_in(InAction::ReadKeys, 64);
        let keys = command(&two, read_keys, Bytes::new()).await;
        assert!(KeyList::parse(&keys.data_in).unwrap().keys.is_empty());
        assert!(medium.land_one());
        answered.await.unwrap();
        // A crash right after the answer: nothing but the kept bytes goes on.
        let restarted = late::target(&medium);
        let again = host(&restarted, 2).await;
        let keys = command(&again, read_keys, Bytes::new()).await;
        assert_eq!(KeyList::parse(&keys.data_in).unwrap().keys, vec![7]);
    });
}

/// SAM-5 r21 §7.7: the function completes when what it aborted is over.
#[test]
fn logical_unit_reset_waits_for_the_medium_and_keeps_reservations() {
    run(|| async {
        let medium = LateMedium::new();
        let (victim, taker) = pair(&medium).await;
        medium.be_late();
        let pending = spawn_local(victim.begin(0, 5, TaskAttribute::Simple, write(1)).execute(block(0xaa)));
        settle().await;
        let resetting = Rc::clone(&taker);
        let reset = spawn_local(async move { resetting.task_management(TaskManagement::LogicalUnitReset, 0, 0).await });
        settle().await;
        assert!(!reset.is_finished());
        medium.land_one();
        assert_eq!(reset.await.unwrap(), TaskManagementResponse::Complete);
        assert_eq!(pending.await.unwrap(), Outcome::Aborted);
        assert_eq!(command(&taker, encode::test_unit_ready(), Bytes::new()).await.status, Status::CheckCondition);
        let report = command(&taker, encode::persistent_reserve_in(InAction::ReadReservation, 64), Bytes::new()).await;
        assert_eq!(ReservationReport::parse(&report.data_in).unwrap().held.unwrap().key, 1);
        let missing = victim.task_management(TaskManagement::AbortTask, 0, 5).await;
        assert_eq!(missing, TaskManagementResponse::TaskDoesNotExist);
    });
}

#[derive(Debug, Clone, Copy)]
enum Step {
    VictimBegins(u8),
    VictimSendsData,
    TakerWrites(u8),
    MediumLandsOne,
    VictimReconnects,
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..6u8).prop_map(Step::VictimBegins),
        4 => Just(Step::VictimSendsData),
        1 => (0..6u8).prop_map(Step::TakerWrites),
        3 => Just(Step::MediumLandsOne),
        1 => Just(Step::VictimReconnects),
    ]
}

/// The victim writes 0xaa, the taker 0x11. Whatever was under way when PREEMPT AND ABORT was sent: once it is GOOD, no
/// 0xaa lands any more.
async fn no_victim_write_lands_after_good(before: Vec<Step>, after: Vec<Step>) -> Result<(), TestCaseError> {
    let medium = LateMedium::new();
    let target = target(&medium);
    let (victim, taker) = (host(&target, 1).await, host(&target, 2).await);
    register(&victim, 1).await;
    register(&taker, 2).await;
    prop_assert_eq!(reserve_out(&victim, OutAction::Reserve, KIND, 1, 0).await, Status::Good);
    medium.be_late();
    let victim = RefCell::new(victim);
    let collecting = RefCell::new(Vec::new());
    let play = async |steps: Vec<Step>| {
        for step in steps {
            match step {
                Step::VictimBegins(lba) => {
                    let task = victim.borrow().begin(0, 1, TaskAttribute::Simple, write(u64::from(lba)));
                    collecting.borrow_mut().push(task);
                }
                Step::VictimSendsData => {
                    let task = collecting.borrow_mut().pop();
                    if let Some(task) = task {
                        spawn_local(task.execute(block(0xaa)));
                    }
                }
                Step::TakerWrites(lba) => {
                    let task = taker.begin(0, 1, TaskAttribute::Simple, write(u64::from(lba)));
                    spawn_local(task.execute(block(0x11)));
                }
                Step::MediumLandsOne => {
                    medium.land_one();
                }
                Step::VictimReconnects => {
                    let fresh = host(&target, 1).await;
                    *victim.borrow_mut() = fresh;
                }
            }
            settle().await;
        }
    };
    play(before).await;
    let preempting = Rc::clone(&taker);
    let preempt = spawn_local(async move { reserve_out(&preempting, OutAction::PreemptAndAbort, KIND, 2, 1).await });
    // BOUND: every round lands a write; those of the victim end, and then the answer comes.
    while !preempt.is_finished() {
        settle().await;
        medium.land_one();
    }
    prop_assert_eq!(preempt.await.unwrap(), Status::Good);
    let landed_before = medium.landed.borrow().len();
    play(after).await;
    // BOUND: every round lands a write.
    while medium.land_one() {
        settle().await;
    }
    prop_assert!(!medium.landed.borrow()[landed_before..].contains(&0xaa), "a write of the victim landed after GOOD");
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]
    #[test]
    fn no_write_of_a_victim_lands_after_preempt_and_abort(
        before in proptest::collection::vec(any_step(), 0..24),
        after in proptest::collection::vec(any_step(), 0..16),
    ) {
        run(|| no_victim_write_lands_after_good(before, after))?;
    }
}

/// SAM-5 r21 §5.6: with TAS the victim is told by status and by no further unit attention, without it the other way
/// round.
#[test]
fn victims_are_told_of_lost_commands_by_status_or_by_attention() {
    run(|| async {
        for tas in [false, true] {
            let medium = LateMedium::new();
            let (victim, taker) = pair(&medium).await;
            if tas {
                let control = [0, 0, 0, 0, 0x0a, 0x0a, 0x20, 0x10, 0, 0x40, 0, 0, 0xff, 0xff, 0, 0];
                let mut select = [0u8; 16];
                (select[0], select[1], select[4]) = (0x15, 0x10, control.len() as u8);
                assert_eq!(command(&victim, select, Bytes::copy_from_slice(&control)).await.status, Status::Good);
                // The other host is told of the changed page.
                command(&taker, encode::test_unit_ready(), Bytes::new()).await;
            }
            let lost = victim.begin(0, 1, TaskAttribute::Simple, write(1));
            assert_eq!(reserve_out(&taker, OutAction::PreemptAndAbort, KIND, 2, 1).await, Status::Good);
            let mut codes = Vec::new();
            // BOUND: each round takes a unit attention.
            while let Some(sense) = command(&victim, encode::test_unit_ready(), Bytes::new()).await.sense {
                codes.push(Sense::parse(&sense).unwrap().asc);
            }
            match (tas, lost.execute(block(0xaa)).await) {
                (true, Outcome::Completed(told)) => {
                    assert_eq!(told.status, Status::TaskAborted);
                    assert_eq!(codes, [Asc::REGISTRATIONS_PREEMPTED]);
                }
                (false, Outcome::Aborted) => {
                    let both = [Asc::REGISTRATIONS_PREEMPTED, Asc::COMMANDS_CLEARED_BY_ANOTHER_INITIATOR];
                    assert_eq!(codes, both);
                }
                (_, other) => panic!("TAS {tas}: {other:?}"),
            }
            assert!(medium.landed.borrow().is_empty());
        }
    });
}
