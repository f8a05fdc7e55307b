//! The first look at a command answers only what waits for nothing, and answers it as the whole way does.
#[path = "support/late.rs"]
mod late;

use std::rc::Rc;

use bytes::Bytes;
use late::{LateMedium, block, carry_out, command, host, register, reserve_out, run, settle, target};
use proptest::prelude::*;
use tokio::task::spawn_local;
use understudy_device::medium::MediumError;
use understudy_device::{Attempt, NexusHandle, Outcome, Task, TaskAttribute, TaskManagement, UnitOnMedium};
use understudy_scsi::cdb::{Force, Span};
use understudy_scsi::reservation::{OutAction, ReservationType};
use understudy_scsi::sense::{Asc, Sense};
use understudy_scsi::{Status, encode};

fn write(lba: u64, blocks: u64) -> [u8; 16] {
    encode::write_16(Span { lba, blocks }, Force::CacheAllowed)
}

fn read(lba: u64, blocks: u64) -> [u8; 16] {
    encode::read_16(Span { lba, blocks }, Force::CacheAllowed)
}

fn begin(host: &NexusHandle, tag: u32, cdb: [u8; 16]) -> Task {
    host.begin(0, tag, TaskAttribute::Simple, cdb)
}

/// The task, if it has to go the whole way; an answer at the first look is a mistake.
fn waits(task: Task, data_out: &Bytes) -> Task {
    let mut room = [0; 4096];
    match task.attempt(data_out, |bytes| room.get_mut(..bytes)) {
        Attempt::Waits(task) => task,
        answered => panic!("answered at the first look: {answered:?}"),
    }
}

fn status(outcome: Outcome) -> Status {
    let Outcome::Completed(completion) = outcome else { panic!("{outcome:?}") };
    completion.status
}

#[test]
fn a_read_and_a_write_that_wait_for_nothing_are_over_at_once_and_leave_nothing_behind() {
    run(|| async {
        let medium = LateMedium::new();
        let target = target(&medium);
        let host = host(&target, 1).await;
        let written = begin(&host, 1, write(7, 1)).attempt(&block(5), |_| None);
        let Attempt::Over(outcome) = written else { panic!("{written:?}") };
        assert_eq!(status(outcome), Status::Good);
        let mut room = [0xee; 2048];
        let placed = begin(&host, 2, read(6, 3)).attempt(&Bytes::new(), |bytes| room.get_mut(..bytes));
        assert!(matches!(placed, Attempt::Placed), "{placed:?}");
        assert_eq!(room, [[0; 512], [5; 512], [0; 512], [0xee; 512]].concat()[..]);
        assert_eq!(medium.at_once.get(), 2);
        // Neither is in the task set any more, nor has it a claim.
        let ordered = host.begin(0, 3, TaskAttribute::Ordered, write(0, 9));
        assert_eq!(status(ordered.execute(Bytes::from(vec![1; 9 * 512])).await), Status::Good);
        target.hold_and_drain().await;
    });
}

#[test]
fn without_room_a_read_goes_the_whole_way() {
    run(|| async {
        let medium = LateMedium::new();
        let host = host(&target(&medium), 1).await;
        let attempt = begin(&host, 1, read(0, 1)).attempt(&Bytes::new(), |_| None);
        let Attempt::Waits(task) = attempt else { panic!("{attempt:?}") };
        assert_eq!(medium.at_once.get(), 0);
        assert_eq!(status(task.execute(Bytes::new()).await), Status::Good);
    });
}

#[test]
fn behind_a_shut_gate_nothing_is_done_at_the_first_look() {
    run(|| async {
        let medium = LateMedium::new();
        let target = target(&medium);
        let host = host(&target, 1).await;
        for shut in [UnitOnMedium::hold, UnitOnMedium::freeze] {
            let unit = Rc::clone(&target.units()[0]);
            shut(&unit);
            let reading = waits(begin(&host, 1, read(0, 1)), &Bytes::new());
            let writing = waits(begin(&host, 2, write(0, 1)), &block(1));
            assert_eq!((medium.at_once.get(), medium.landed.borrow().len()), (0, 0));
            drop((reading, writing));
            unit.resume();
        }
        target.fence();
        assert_eq!(carry_out(begin(&host, 3, read(0, 1)), Bytes::new()).await, Outcome::Fenced);
        assert_eq!(carry_out(begin(&host, 4, write(0, 1)), block(1)).await, Outcome::Fenced);
        assert_eq!((medium.at_once.get(), medium.landed.borrow().len()), (0, 0));
    });
}

#[test]
fn blocks_that_a_write_has_are_left_alone() {
    run(|| async {
        let medium = LateMedium::new();
        let host = host(&target(&medium), 1).await;
        medium.be_late();
        let first = spawn_local(begin(&host, 1, write(4, 2)).execute(Bytes::from(vec![7; 1024])));
        settle().await;
        medium.be_punctual();
        let reading = waits(begin(&host, 2, read(0, 5)), &Bytes::new());
        let writing = waits(begin(&host, 3, write(5, 1)), &block(8));
        // Both stand in line now: what comes behind the write waits for it, though nothing is at the medium there.
        let (reading, writing) = (spawn_local(reading.execute(Bytes::new())), spawn_local(writing.execute(block(8))));
        settle().await;
        let behind = waits(begin(&host, 4, read(5, 1)), &Bytes::new());
        assert_eq!(medium.at_once.get(), 0);
        assert_eq!(status(carry_out(begin(&host, 5, read(6, 1)), Bytes::new()).await), Status::Good);
        assert_eq!(medium.at_once.get(), 1, "nobody has those blocks");
        assert!(medium.land_one());
        for task in [first, reading, writing] {
            assert_eq!(status(task.await.unwrap()), Status::Good);
        }
        let Outcome::Completed(found) = behind.execute(Bytes::new()).await else { panic!() };
        assert_eq!(found.data_in, block(8));
    });
}

#[test]
fn a_write_waits_for_a_read_under_way_and_a_read_does_not() {
    run(|| async {
        let medium = LateMedium::new();
        let host = host(&target(&medium), 1).await;
        medium.read_late();
        let first = spawn_local(begin(&host, 1, read(0, 4)).execute(Bytes::new()));
        settle().await;
        medium.be_punctual();
        let writing = waits(begin(&host, 2, write(3, 1)), &block(8));
        assert_eq!(status(carry_out(begin(&host, 3, read(3, 1)), Bytes::new()).await), Status::Good);
        assert_eq!(medium.at_once.get(), 1);
        assert!(medium.land_one());
        let Outcome::Completed(found) = first.await.unwrap() else { panic!() };
        assert_eq!(found.data_in, Bytes::from(vec![0; 2048]));
        assert_eq!(status(writing.execute(block(8)).await), Status::Good);
    });
}

/// SAM-5 r21 §8.6.3.
#[test]
fn an_older_ordered_command_goes_first() {
    run(|| async {
        let medium = LateMedium::new();
        let host = host(&target(&medium), 1).await;
        let ordered = host.begin(0, 1, TaskAttribute::Ordered, write(9, 1));
        let reading = waits(begin(&host, 2, read(0, 1)), &Bytes::new());
        let writing = waits(begin(&host, 3, write(1, 1)), &block(2));
        let late = waits(host.begin(0, 4, TaskAttribute::Ordered, read(0, 1)), &Bytes::new());
        assert_eq!((medium.at_once.get(), medium.landed.borrow().len()), (0, 0));
        assert_eq!(status(carry_out(ordered, block(1)).await), Status::Good);
        for (task, data) in [(reading, Bytes::new()), (writing, block(2)), (late, Bytes::new())] {
            assert_eq!(status(carry_out(task, data).await), Status::Good);
        }
        assert_eq!(medium.at_once.get(), 4);
    });
}

#[test]
fn an_aborted_command_does_nothing() {
    run(|| async {
        let medium = LateMedium::new();
        let host = host(&target(&medium), 1).await;
        for (cdb, data) in [(read(0, 1), Bytes::new()), (write(0, 1), block(1))] {
            let task = begin(&host, 1, cdb);
            host.task_management(TaskManagement::AbortTaskSet, 0, 0).await;
            assert_eq!(carry_out(task, data).await, Outcome::Aborted);
        }
        assert_eq!((medium.at_once.get(), medium.landed.borrow().len()), (0, 0));
    });
}

/// SPC-4 r37 §5.13; the reservation comes while the data of the write is on its way.
#[test]
fn a_reservation_that_came_meanwhile_stands() {
    run(|| async {
        let medium = LateMedium::new();
        let target = target(&medium);
        let (outsider, holder) = (host(&target, 1).await, host(&target, 2).await);
        let (reading, writing) = (begin(&outsider, 1, read(0, 1)), begin(&outsider, 2, write(0, 1)));
        register(&holder, 1).await;
        let kind = Some(ReservationType::ExclusiveAccess);
        assert_eq!(reserve_out(&holder, OutAction::Reserve, kind, 1, 0).await, Status::Good);
        assert_eq!(status(carry_out(reading, Bytes::new()).await), Status::ReservationConflict);
        assert_eq!(status(carry_out(writing, block(1)).await), Status::ReservationConflict);
        assert_eq!(status(carry_out(begin(&outsider, 3, read(0, 1)), Bytes::new()).await), Status::ReservationConflict);
        assert_eq!((medium.at_once.get(), medium.landed.borrow().len()), (0, 0));
        assert_eq!(status(carry_out(begin(&holder, 1, write(0, 1)), block(1)).await), Status::Good);
        assert_eq!(medium.at_once.get(), 1);
    });
}

/// SAM-5 r21 §5.14.
#[test]
fn a_unit_attention_is_told_first() {
    run(|| async {
        let medium = LateMedium::new();
        let target = target(&medium);
        let host = host(&target, 1).await;
        target.units()[0].capacity_changed();
        let Outcome::Completed(told) = carry_out(begin(&host, 1, read(0, 1)), Bytes::new()).await else { panic!() };
        assert_eq!(Sense::parse(&told.sense.unwrap()).unwrap().asc, Asc::CAPACITY_DATA_HAS_CHANGED);
        assert_eq!(medium.at_once.get(), 0);
        assert_eq!(status(carry_out(begin(&host, 2, read(0, 1)), Bytes::new()).await), Status::Good);
        assert_eq!(medium.at_once.get(), 1);
    });
}

#[test]
fn write_protection_and_force_unit_access_count() {
    run(|| async {
        let medium = LateMedium::new();
        let target = target(&medium);
        let host = host(&target, 1).await;
        let forced = encode::write_16(Span { lba: 0, blocks: 1 }, Force::UnitAccess);
        assert_eq!(status(carry_out(begin(&host, 1, forced), block(1)).await), Status::Good);
        assert_eq!(medium.forced.get(), 1);
        target.units()[0].write_protect().await;
        // MODE PARAMETERS CHANGED.
        assert_eq!(command(&host, encode::test_unit_ready(), Bytes::new()).await.status, Status::CheckCondition);
        assert_eq!(status(carry_out(begin(&host, 2, write(0, 1)), block(2)).await), Status::CheckCondition);
        assert_eq!(*medium.landed.borrow(), vec![1]);
    });
}

/// A write whose outcome is an error is not made again.
#[test]
fn a_write_that_fails_at_once_is_answered_and_a_fence_silences_the_unit() {
    run(|| async {
        let medium = LateMedium::new();
        let host = host(&target(&medium), 1).await;
        medium.failing.set(Some(MediumError::Write { lba: 4 }));
        let Outcome::Completed(failed) = carry_out(begin(&host, 1, write(4, 1)), block(1)).await else { panic!() };
        assert_eq!(Sense::parse(&failed.sense.unwrap()).unwrap().asc, Asc::WRITE_ERROR);
        assert!(medium.landed.borrow().is_empty());
        medium.failing.set(Some(MediumError::Fenced));
        assert_eq!(carry_out(begin(&host, 2, write(4, 1)), block(1)).await, Outcome::Fenced);
        assert_eq!(carry_out(begin(&host, 3, read(4, 1)), Bytes::new()).await, Outcome::Fenced);
        assert!(medium.landed.borrow().is_empty());
    });
}

#[derive(Debug, Clone, Copy)]
struct Step {
    reads: bool,
    lba: u64,
    blocks: u64,
    /// Blocks of data that come with it, besides those it asks for.
    offered: i8,
    attribute: TaskAttribute,
}

fn any_step() -> impl Strategy<Value = Step> {
    let attribute = prop_oneof![4 => Just(TaskAttribute::Simple), 1 => Just(TaskAttribute::Ordered)];
    (any::<bool>(), 0u64..24, 0u64..6, -1i8..2, attribute).prop_map(|(reads, lba, blocks, offered, attribute)| Step {
        reads,
        lba,
        blocks,
        offered,
        attribute,
    })
}

/// What every step answered, and the blocks at the end. All commands are in the task set before the first one is looked at.
async fn answers(steps: &[Step], at_first_look: bool) -> (Vec<Outcome>, Bytes) {
    let medium = LateMedium::new();
    let host = host(&target(&medium), 1).await;
    let begun: Vec<(Task, Bytes)> = (1u32..)
        .zip(steps)
        .map(|(tag, step)| {
            let cdb = if step.reads { read(step.lba, step.blocks) } else { write(step.lba, step.blocks) };
            let blocks = if step.reads { 0 } else { step.blocks.saturating_add_signed(step.offered.into()) };
            let data = Bytes::from(vec![tag as u8; blocks as usize * 512]);
            (host.begin(0, tag, step.attribute, cdb), data)
        })
        .collect();
    let mut under_way = Vec::new();
    for (task, data) in begun {
        under_way.push(spawn_local(async move {
            if at_first_look { carry_out(task, data).await } else { task.execute(data).await }
        }));
    }
    let mut outcomes = Vec::new();
    for task in under_way {
        outcomes.push(task.await.unwrap());
    }
    (outcomes, command(&host, read(0, 32), Bytes::new()).await.data_in)
}

proptest! {
    #[test]
    fn the_first_look_answers_what_the_whole_way_answers(steps in prop::collection::vec(any_step(), 1..24)) {
        run(|| async {
            let (quick, slow) = (answers(&steps, true).await, answers(&steps, false).await);
            prop_assert_eq!(quick, slow);
            Ok(())
        })?;
    }
}
