//! What the iSCSI back end makes of a target's answers, bad ones above all; the target is scripted.

mod support;

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::poll_immediate;
use support::mini::{BLOCKS, Mini, Reply};
use support::{nexus, options, run};
use understudy_disk::disk::{Disk, DiskError, Durability, Extent, Geometry, Link};
use understudy_disk::lun::IscsiLun;
use understudy_disk::reservation::{Key, ReservationType};
use understudy_disk::session::{Options, Session};
use understudy_iscsi::codes::TaskAttribute;
use understudy_iscsi::login::{LoginStatus, Stage};
use understudy_scsi::operations::opcode;
use understudy_scsi::reservation::KeyList;
use understudy_scsi::{Asc, Sense, Status};

const GEOMETRY: Geometry = Geometry { block_bytes: 512, blocks: BLOCKS };
const POWER_ON: u16 = 0x2900;
const RESERVATIONS_PREEMPTED: u16 = 0x2a03;

fn extent() -> Extent {
    Extent::within(GEOMETRY, 8, 8).expect("inside")
}

async fn write(lun: &IscsiLun) -> Result<(), DiskError> {
    lun.write(extent(), Bytes::from(vec![1; 4096]), Durability::Cached).await
}

async fn open(mini: &Mini) -> Rc<IscsiLun> {
    open_with(mini, options()).await
}

async fn open_with(mini: &Mini, options: Options) -> Rc<IscsiLun> {
    let lun = IscsiLun::open(&mini.url(), nexus(3), options);
    lun.ready(Duration::from_secs(10)).await.expect("the mini target is there");
    lun
}

fn epoch(lun: &IscsiLun) -> u64 {
    match lun.link() {
        Link::Connected { epoch } => epoch,
        Link::Down => panic!("the link is down"),
    }
}

#[test]
fn a_write_answered_by_a_reset_is_handed_back_and_not_repeated() {
    run(async {
        let mini = Mini::start().await;
        let lun = open(&mini).await;
        let before = epoch(&lun);
        lun.trust(before);
        mini.answer_once_each(opcode::WRITE_16, vec![Reply::attention(POWER_ON)]);
        assert_eq!(write(&lun).await, Err(DiskError::CheckCondition { key: 6, asc: POWER_ON }));
        assert_eq!(mini.count(opcode::WRITE_16), 1);
        assert_eq!(epoch(&lun), before + 1);
        assert!(matches!(write(&lun).await, Err(DiskError::Unreachable(_))), "the fence is not proved any more");
        assert_eq!(mini.count(opcode::WRITE_16), 1, "so nothing was sent");
        lun.trust(epoch(&lun));
        assert_eq!(write(&lun).await, Ok(()));
    });
}

#[test]
fn a_flush_answered_by_a_reset_is_handed_back() {
    run(async {
        let mini = Mini::start().await;
        let lun = open(&mini).await;
        mini.answer(|command| (command.cdb[0] == 0x91).then(|| Reply::attention(POWER_ON)));
        assert_eq!(lun.flush().await, Err(DiskError::CheckCondition { key: 6, asc: POWER_ON }));
        assert_eq!(mini.count(0x91), 1);
    });
}

#[test]
fn a_read_behind_a_write_is_sent_before_the_write_is_answered_and_in_order() {
    run(async {
        let mini = Mini::start().await;
        let lun = open(&mini).await;
        mini.answer_once_each(opcode::WRITE_16, vec![Reply::Silence]);
        let mut writing = Box::pin(write(&lun));
        assert_eq!(poll_immediate(&mut writing).await, None);
        assert_eq!(lun.read_behind(extent()).await, Ok(Bytes::from(vec![0; 4096])));
        assert_eq!(poll_immediate(&mut writing).await, None, "this target never answers it");
        let commands = mini.commands.borrow();
        let sent: Vec<_> = commands.iter().rev().take(2).rev().map(|sent| (sent.cdb[0], sent.attribute)).collect();
        let expected = [(opcode::WRITE_16, TaskAttribute::SIMPLE), (opcode::READ_16, TaskAttribute::ORDERED)];
        assert_eq!(sent, expected);
    });
}

#[test]
fn other_attentions_are_swallowed_by_repeating() {
    run(async {
        let mini = Mini::start().await;
        let lun = open(&mini).await;
        let before = epoch(&lun);
        let attentions = || vec![Reply::attention(RESERVATIONS_PREEMPTED), Reply::attention(0x3f0e)];
        mini.answer_once_each(opcode::WRITE_16, attentions());
        assert_eq!(write(&lun).await, Ok(()));
        assert_eq!(mini.count(opcode::WRITE_16), 3);
        assert_eq!(epoch(&lun), before);
        mini.answer_once_each(opcode::READ_16, vec![Reply::attention(POWER_ON)]);
        assert_eq!(lun.read(extent()).await.map(|bytes| bytes.len()), Ok(4096), "a read changes nothing");
        assert_eq!(epoch(&lun), before + 1, "but the reset is noticed");
    });
}

#[test]
fn attentions_without_end_are_handed_back() {
    run(async {
        let mini = Mini::start().await;
        let lun = open(&mini).await;
        mini.answer(|_| Some(Reply::attention(RESERVATIONS_PREEMPTED)));
        let answer = lun.read(extent()).await;
        assert_eq!(answer, Err(DiskError::CheckCondition { key: 6, asc: RESERVATIONS_PREEMPTED }));
        assert!(mini.count(opcode::READ_16) <= 20);
    });
}

#[test]
fn a_conflict_is_never_repeated() {
    run(async {
        let mini = Mini::start().await;
        let lun = open(&mini).await;
        mini.answer(|_| Some(Reply::Status(Status::ReservationConflict)));
        assert_eq!(write(&lun).await, Err(DiskError::Conflict));
        assert_eq!(lun.read(extent()).await, Err(DiskError::Conflict));
        assert_eq!((mini.count(opcode::WRITE_16), mini.count(opcode::READ_16)), (1, 1));
    });
}

/// A target that forgot the nexus with its session and still lists its key.
struct Forgetful {
    mini: Rc<Mini>,
    generation: Rc<Cell<u32>>,
    /// The key registered last.
    registered: Rc<Cell<u64>>,
    /// How many registrations somebody else makes between the look at the keys and the next new registration.
    meddling: Rc<Cell<u32>>,
    /// Whether the connection is lost instead of the next answer to a new registration.
    breaks: Rc<Cell<bool>>,
}

impl Forgetful {
    async fn start() -> Self {
        let mini = Mini::start().await;
        let generation = Rc::new(Cell::new(7));
        let (registered, meddling, breaks) = (Rc::default(), Rc::<Cell<u32>>::default(), Rc::<Cell<bool>>::default());
        let forgetful = Self { mini, generation, registered, meddling, breaks };
        let (generation, registered) = (Rc::clone(&forgetful.generation), Rc::clone(&forgetful.registered));
        let (meddling, breaks) = (Rc::clone(&forgetful.meddling), Rc::clone(&forgetful.breaks));
        forgetful.mini.answer(move |command| match (command.cdb[0], command.cdb[1]) {
            (opcode::PERSISTENT_RESERVE_IN, _) => {
                Some(Reply::Data(KeyList::encode(generation.get(), [1].into_iter()).into()))
            }
            // REGISTER.
            (opcode::PERSISTENT_RESERVE_OUT, 0) => Some(Reply::Status(Status::ReservationConflict)),
            // REGISTER AND IGNORE EXISTING KEY; the key is in the second half of the first 16 bytes.
            (opcode::PERSISTENT_RESERVE_OUT, 6) => {
                generation.set(generation.get() + 1 + meddling.take());
                registered.set(command.data[8..16].iter().fold(0, |key, byte| key << 8 | u64::from(*byte)));
                Some(if breaks.take() { Reply::Close } else { Reply::Status(Status::Good) })
            }
            _ => None,
        });
        forgetful
    }
}

#[test]
fn a_forgotten_registration_is_made_again_only_if_nobody_changed_any_meanwhile() {
    run(async {
        let target = Forgetful::start().await;
        let lun = open(&target.mini).await;
        let pr = lun.reservations().expect("iSCSI");
        assert_eq!(pr.keep_registered(Key(1)).await, Ok(true));
        assert_eq!(target.registered.get(), 1);
        target.meddling.set(1);
        assert_eq!(pr.keep_registered(Key(1)).await, Ok(false));
        assert_eq!(target.registered.get(), 0, "taken back");
        assert_eq!(pr.keep_registered(Key(1)).await, Ok(false), "the key that is listed may be the one made in doubt");
    });
}

#[test]
fn a_registration_made_in_doubt_is_taken_back_also_if_nobody_waits_any_more() {
    run(async {
        let target = Forgetful::start().await;
        let lun = open(&target.mini).await;
        let pr = lun.reservations().expect("iSCSI");
        target.meddling.set(1);
        let becomes = async |key| {
            // BOUND: the time limit around it.
            while target.registered.get() != key {
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            kept = pr.keep_registered(Key(1)) => panic!("{kept:?} before it was registered"),
            () = becomes(1) => {}
        }
        let taken_back = tokio::time::timeout(Duration::from_secs(10), becomes(0)).await;
        assert!(taken_back.is_ok(), "key {} is left behind", target.registered.get());
    });
}

#[test]
fn a_registration_made_again_whose_answer_was_lost_stays_in_doubt_if_somebody_changed_one() {
    run(async {
        for (meddling, kept) in [(0, true), (1, false)] {
            let target = Forgetful::start().await;
            let lun = open(&target.mini).await;
            let pr = lun.reservations().expect("iSCSI");
            target.meddling.set(meddling);
            target.breaks.set(true);
            assert!(matches!(pr.keep_registered(Key(1)).await, Err(DiskError::OutcomeUnknown(_))));
            lun.ready(Duration::from_secs(10)).await.expect("the session is made anew");
            assert_eq!(pr.keep_registered(Key(1)).await, Ok(kept), "{meddling} changes by somebody else");
            pr.register(Key(1)).await.expect("whoever registers anew knows why");
            assert_eq!(pr.keep_registered(Key(1)).await, Ok(true));
        }
    });
}

#[test]
fn a_busy_disk_is_asked_again_within_a_bound() {
    run(async {
        let mini = Mini::start().await;
        let lun = open(&mini).await;
        let busy = vec![Reply::Status(Status::TaskSetFull), Reply::Status(Status::Busy)];
        mini.answer_once_each(opcode::WRITE_16, busy);
        assert_eq!(write(&lun).await, Ok(()));
        assert_eq!(mini.count(opcode::WRITE_16), 3);
        mini.answer(|_| Some(Reply::Status(Status::Busy)));
        assert_eq!(write(&lun).await, Err(DiskError::Status(0x08)));
        assert!(mini.count(opcode::WRITE_16) <= 20);
    });
}

#[test]
fn errors_of_the_medium_and_short_answers_are_told_as_they_are() {
    run(async {
        let mini = Mini::start().await;
        let lun = open(&mini).await;
        mini.answer(|_| Some(Reply::Sense(Sense::illegal(Asc(0x2100)))));
        assert_eq!(lun.read(extent()).await, Err(DiskError::CheckCondition { key: 5, asc: 0x2100 }));
        mini.answer(|_| Some(Reply::Data(Bytes::from_static(&[0; 100]))));
        assert!(matches!(lun.read(extent()).await, Err(DiskError::Protocol(_))));
        mini.answer(|_| Some(Reply::Status(Status::CheckCondition)));
        assert!(matches!(write(&lun).await, Err(DiskError::Protocol(_))), "CHECK CONDITION without sense");
        mini.answer(|_| Some(Reply::Status(Status::TaskAborted)));
        assert_eq!(write(&lun).await, Err(DiskError::Status(0x40)));
    });
}

#[test]
fn a_session_lost_under_writes_leaves_them_unknown_and_sends_none_again() {
    run(async {
        let mini = Mini::start().await;
        let lun = open(&mini).await;
        mini.answer(|command| (command.cdb[0] == opcode::WRITE_16).then_some(Reply::Close));
        let outcomes = futures_util::future::join_all((0..8).map(|_| write(&lun))).await;
        for outcome in outcomes {
            assert!(matches!(outcome, Err(DiskError::OutcomeUnknown(_))), "{outcome:?}");
        }
        mini.answer(|_| None);
        lun.ready(Duration::from_secs(10)).await.expect("the session is made anew");
        assert_eq!(mini.count(opcode::WRITE_16), 1, "the one that made the target close");
        let isids: Vec<_> = mini.logins.borrow().clone();
        assert_eq!(isids, [nexus(3).isid, nexus(3).isid]);
    });
}

#[test]
fn a_silent_target_costs_the_deadline_and_a_new_session_with_the_same_isid() {
    run(async {
        let mini = Mini::start().await;
        let lun = open_with(&mini, Options { command_deadline: Duration::from_millis(100), ..options() }).await;
        mini.answer(|command| (command.cdb[0] == opcode::WRITE_16).then_some(Reply::Silence));
        let before = epoch(&lun);
        assert!(matches!(write(&lun).await, Err(DiskError::OutcomeUnknown(_))));
        let Link::Connected { epoch: after } = lun.link_changed(Link::Down).await else { panic!("connected again") };
        assert!(after > before);
        assert_eq!(*mini.logins.borrow(), [nexus(3).isid, nexus(3).isid]);
        assert_eq!(mini.count(opcode::WRITE_16), 1);
    });
}

#[test]
fn a_disk_reserved_by_another_is_connected_without_a_size() {
    run(async {
        let mini = Mini::start().await;
        mini.answer(|command| (command.cdb[0] == 0x9e).then_some(Reply::Status(Status::ReservationConflict)));
        let lun = open(&mini).await;
        assert!(matches!(lun.geometry(), Err(DiskError::Unreachable(_))));
        assert!(matches!(write(&lun).await, Err(DiskError::Unreachable(_))));
        assert_eq!(lun.probe().await, Err(DiskError::Conflict));
        mini.answer(|_| None);
        assert_eq!(lun.probe().await, Ok(GEOMETRY));
        assert_eq!(write(&lun).await, Ok(()));
    });
}

#[test]
fn a_redirected_login_is_followed_once() {
    run(async {
        let (old, new) = (Mini::start().await, Mini::start().await);
        let there = format!("{},1", new.address);
        old.answer_logins(move |_| Err((LoginStatus::MOVED_TEMPORARILY, Some(there.clone()))));
        let lun = open(&old).await;
        assert_eq!(lun.geometry(), Ok(GEOMETRY));
        assert_eq!((old.logins.borrow().len(), new.logins.borrow().len()), (0, 1));
        // The redirection is forgotten with the session.
        old.answer_logins(|_| Ok(()));
        let seen = lun.link();
        new.drop_connections();
        assert_eq!(lun.link_changed(seen).await, Link::Down);
        lun.ready(Duration::from_secs(10)).await.expect("connected at the configured portal");
        assert_eq!((old.logins.borrow().len(), new.logins.borrow().len()), (1, 1));
    });
}

#[test]
fn a_target_that_insists_on_the_security_stage_gets_it() {
    run(async {
        let mini = Mini::start().await;
        let introduced = Cell::new(false);
        mini.answer_logins(move |request| {
            introduced.set(introduced.get() || request.stage == Stage::Security);
            if introduced.get() { Ok(()) } else { Err((LoginStatus::AUTHENTICATION_FAILURE, None)) }
        });
        open(&mini).await;
    });
}

#[test]
fn closing_a_session_logs_out() {
    run(async {
        let mini = Mini::start().await;
        let session = Session::start(mini.url().place, nexus(0), options());
        session.connected().await.expect("the mini target is there");
        session.close().await;
        assert_eq!(mini.logouts.get(), 1);
        assert!(matches!(session.connected().await, Err(DiskError::Unreachable(_))));
    });
}

#[test]
fn nobody_there_is_unreachable_with_a_reason() {
    run(async {
        let mini = Mini::start().await;
        mini.answer_logins(|_| Err((LoginStatus::NOT_FOUND, None)));
        let lun = IscsiLun::open(&mini.url(), nexus(0), options());
        let Err(DiskError::Unreachable(why)) = lun.ready(Duration::from_millis(50)).await else { panic!("not there") };
        assert!(why.contains("0203h"), "{why}");
    });
}

#[test]
fn preempt_and_abort_falls_back_where_the_disk_lacks_it() {
    run(async {
        let mini = Mini::start().await;
        let lun = open(&mini).await;
        let pr = lun.reservations().expect("iSCSI disks have reservations");
        assert!(pr.aborts_exactly());
        mini.answer(|command| {
            let is_lacking = command.cdb[0] == 0x5f && command.cdb[1] & 0x1f == 5;
            is_lacking.then(|| Reply::Sense(Sense::illegal(Asc::INVALID_FIELD_IN_CDB)))
        });
        let before = epoch(&lun);
        pr.preempt_and_abort(Key(1), Key(2), ReservationType::WriteExclusiveRegistrantsOnly)
            .await
            .expect("substituted");
        assert!(!pr.aborts_exactly());
        let actions: Vec<u8> =
            mini.commands.borrow().iter().filter(|one| one.cdb[0] == 0x5f).map(|one| one.cdb[1] & 0x1f).collect();
        assert_eq!(actions, [5, 4], "PREEMPT AND ABORT was tried, then PREEMPT");
        assert_eq!(epoch(&lun), before, "this target raises no unit attention after a reset");
    });
}

#[test]
fn registration_asks_for_persistence_and_does_without_where_refused() {
    run(async {
        let mini = Mini::start().await;
        let lun = open(&mini).await;
        let pr = lun.reservations().expect("iSCSI disks have reservations");
        pr.register(Key(1)).await.expect("accepted");
        assert!(pr.keeps_through_power_loss());
        mini.answer(|command| {
            let asks_aptpl = command.cdb[0] == 0x5f && command.data[20] & 1 != 0;
            asks_aptpl.then(|| Reply::Sense(Sense::illegal(Asc::INVALID_FIELD_IN_PARAMETER_LIST)))
        });
        pr.register(Key(2)).await.expect("accepted without");
        assert!(!pr.keeps_through_power_loss());
    });
}
