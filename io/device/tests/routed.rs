//! Sessions whose units may be at another node: where each command is carried out while units move, and that none is carried out twice.
#[path = "support/late.rs"]
mod late;
#[path = "support/partner.rs"]
mod partner;

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use late::{LateMedium, block, settle};
use partner::{Partner, answered, attention, client, read_cdb, run, sense, unit, write_cdb};
use tokio::task::{JoinHandle, spawn_local};
use understudy_device::{
    Completion, Elsewhere, NexusHandle, NexusName, Outcome, Presence, Target, TaskAttribute, TaskManagement,
    TaskManagementResponse,
};
use understudy_scsi::sense::{Asc, SenseKey};
use understudy_scsi::{Status, encode, luns};

/// One volume, two nodes, a client whose session is at this one.
struct Two {
    here: Rc<Target>,
    there: Rc<Target>,
    /// What the volume is on, as each node reaches it.
    disks: [Rc<LateMedium>; 2],
    partner: Rc<Partner>,
    client: Rc<NexusHandle>,
}

impl Two {
    /// The other node has the volume, and there is a session with it; the client was told of its own arrival.
    async fn with_the_unit_there() -> Self {
        let [here, there] = ["here", "there"].map(|_| Target::new("iqn.2026-01.test:target"));
        let disks = [LateMedium::new(), LateMedium::new()];
        there.add(0, unit(&disks[1])).unwrap();
        there.set_presence(Presence::Whole);
        let partner = Partner::of(&there);
        let client = Rc::new(here.attach_routed(client(), Rc::clone(&partner) as Rc<dyn Elsewhere>));
        partner.open().await;
        let two = Self { here, there, disks, partner, client };
        assert_eq!(
            attention(&two.go(encode::test_unit_ready(), Bytes::new()).await),
            Asc::POWER_ON_RESET_OR_BUS_DEVICE_RESET
        );
        two
    }

    fn start(&self, cdb: [u8; 16], data: Bytes) -> JoinHandle<Outcome> {
        self.start_as(TaskAttribute::Simple, 7, cdb, data)
    }

    fn start_as(&self, attribute: TaskAttribute, tag: u32, cdb: [u8; 16], data: Bytes) -> JoinHandle<Outcome> {
        let mut task = self.client.begin(0, tag, attribute, cdb);
        task.offer(data.len() as u32);
        task.make_room(if data.is_empty() { 512 } else { 0 });
        spawn_local(task.execute(data))
    }

    async fn go(&self, cdb: [u8; 16], data: Bytes) -> Completion {
        answered(self.start(cdb, data).await.unwrap())
    }

    fn write(&self, byte: u8) -> JoinHandle<Outcome> {
        self.start(write_cdb(), block(byte))
    }

    /// The volume comes here, as at a takeover: the other node is fenced.
    fn comes_here(&self) {
        self.there.fence();
        self.here.add(0, unit(&self.disks[0])).unwrap();
        self.here.set_presence(Presence::Whole);
    }

    /// What each node wrote, in order.
    fn landed(&self) -> [Vec<u8>; 2] {
        [0, 1].map(|node: usize| self.disks[node].landed.borrow().clone())
    }
}

/// SAM-5 r21 §5.14.
#[test]
fn a_command_is_carried_out_where_its_unit_is_and_the_first_one_after_a_move_is_told_of_it() {
    run(|| async {
        let two = Two::with_the_unit_there().await;
        assert_eq!(two.go(write_cdb(), block(1)).await.status, Status::Good);
        assert_eq!(two.go(read_cdb(), Bytes::new()).await.data_in, block(1));
        assert_eq!(two.landed(), [vec![], vec![1]]);
        two.comes_here();
        // INQUIRY is never told; everything else once.
        assert_eq!(two.go(encode::inquiry(36), Bytes::new()).await.status, Status::Good);
        let told = two.go(write_cdb(), block(2)).await;
        assert_eq!(attention(&told), Asc::ASYMMETRIC_ACCESS_STATE_CHANGED);
        assert_eq!(two.go(write_cdb(), block(2)).await.status, Status::Good);
        assert_eq!(two.landed(), [vec![2], vec![1]]);
    });
}

#[test]
fn commands_wait_while_the_other_node_holds_the_unit_and_are_carried_out_where_it_goes_without_being_told_of_the_move()
{
    run(|| async {
        let two = Two::with_the_unit_there().await;
        two.there.hold_and_drain().await;
        let (write, read) = (two.write(3), two.start(read_cdb(), Bytes::new()));
        settle().await;
        // By the test's own clock: they were sent and turned away many times.
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert!(!write.is_finished() && !read.is_finished());
        // The other node holds on until it has seen that this one serves: nobody waits for that.
        two.here.add(0, unit(&two.disks[0])).unwrap();
        two.here.set_presence(Presence::Whole);
        assert_eq!(answered(write.await.unwrap()).status, Status::Good);
        assert_eq!(answered(read.await.unwrap()).status, Status::Good);
        assert_eq!(two.landed(), [vec![3], vec![]]);
        assert_eq!(
            attention(&two.go(encode::test_unit_ready(), Bytes::new()).await),
            Asc::ASYMMETRIC_ACCESS_STATE_CHANGED
        );
    });
}

#[test]
fn a_hand_off_that_is_called_off_lets_the_commands_that_waited_go_on_where_they_were() {
    run(|| async {
        let two = Two::with_the_unit_there().await;
        two.there.hold_and_drain().await;
        let write = two.write(3);
        settle().await;
        two.there.resume();
        assert_eq!(answered(write.await.unwrap()).status, Status::Good);
        assert_eq!(two.landed(), [vec![], vec![3]]);
    });
}

#[test]
fn commands_held_here_go_to_the_other_node_as_soon_as_it_takes_them() {
    run(|| async {
        let two = Two::with_the_unit_there().await;
        two.partner.cut();
        two.there.set_presence(Presence::Unsettled);
        let theirs = two.there.remove(0).unwrap();
        two.here.add(0, unit(&two.disks[0])).unwrap();
        two.here.set_presence(Presence::Whole);
        assert_eq!(attention(&two.go(write_cdb(), block(4)).await), Asc::ASYMMETRIC_ACCESS_STATE_CHANGED);
        two.here.hold_and_drain().await;
        let write = two.write(5);
        settle().await;
        assert!(!write.is_finished());
        // The other node has it and says so by letting the session in, before this one has taken its own unit away.
        two.there.add(0, theirs).unwrap();
        two.there.set_presence(Presence::Whole);
        two.partner.open().await;
        assert_eq!(answered(write.await.unwrap()).status, Status::Good);
        assert_eq!(two.landed(), [vec![], vec![5]]);
    });
}

#[test]
fn nothing_is_said_of_a_write_that_was_perhaps_carried_out_before_nothing_of_it_can_be_any_more_and_it_is_not_repeated()
{
    run(|| async {
        let two = Two::with_the_unit_there().await;
        two.disks[1].be_late();
        let write = two.write(6);
        settle().await;
        assert_eq!(two.disks[1].waiting(), 1);
        two.partner.cut();
        settle().await;
        assert!(!write.is_finished(), "the other node may still carry it out");
        // The login of the same nexus waits until the write is over.
        let partner = Rc::clone(&two.partner);
        let login = spawn_local(async move { partner.open().await });
        settle().await;
        assert!(!write.is_finished() && !login.is_finished());
        assert!(two.disks[1].land_one());
        login.await.unwrap();
        let answer = sense(&answered(write.await.unwrap()));
        assert_eq!((answer.key, answer.asc), (SenseKey::AbortedCommand, Asc::LOGICAL_UNIT_COMMUNICATION_FAILURE));
        assert_eq!(two.landed(), [vec![], vec![6]]);
    });
}

#[test]
fn when_the_unit_comes_here_a_write_of_unknown_outcome_is_left_to_the_client_and_a_read_is_carried_out_again() {
    run(|| async {
        let two = Two::with_the_unit_there().await;
        two.disks[1].be_late();
        let write = two.write(7);
        let read = two.start(read_cdb(), Bytes::new());
        settle().await;
        two.partner.cut();
        settle().await;
        assert!(!write.is_finished() && !read.is_finished());
        let coming = unit(&two.disks[0]);
        coming.hold();
        two.here.add(0, Rc::clone(&coming)).unwrap();
        settle().await;
        assert!(!write.is_finished() && !read.is_finished(), "the other node may not be fenced yet");
        two.there.fence();
        coming.resume();
        two.here.set_presence(Presence::Whole);
        assert_eq!(sense(&answered(write.await.unwrap())).key, SenseKey::AbortedCommand);
        let read = answered(read.await.unwrap());
        assert_eq!((read.status, read.data_in), (Status::Good, block(0)));
        assert_eq!(two.landed(), [vec![], vec![]]);
    });
}

#[test]
fn a_command_that_no_node_takes_is_told_in_the_end_that_this_way_leads_nowhere() {
    run(|| async {
        let two = Two::with_the_unit_there().await;
        two.partner.cut();
        let before = tokio::time::Instant::now();
        let answer = sense(&two.go(write_cdb(), block(8)).await);
        assert_eq!((answer.key, answer.asc), (SenseKey::NotReady, Asc::TARGET_PORT_IN_UNAVAILABLE_STATE));
        assert!(before.elapsed() < Duration::from_secs(30), "Linux aborts a command after 30 s");
    });
}

/// SAM-5 r21 §6.3.
#[test]
fn the_first_command_of_a_session_is_told_of_it_though_it_had_to_wait_and_no_other_is() {
    for comes_here in [false, true] {
        run(|| async {
            let two = Two::with_the_unit_there().await;
            two.partner.cut();
            let late = Rc::clone(&two.partner) as Rc<dyn Elsewhere>;
            let name = NexusName { isid: [0x80, 0, 0, 0, 0, 2], ..client() };
            let client = Rc::new(two.here.attach_routed(name, late));
            let first = client.begin(0, 1, TaskAttribute::Simple, encode::test_unit_ready()).execute(Bytes::new());
            let first = spawn_local(first);
            settle().await;
            assert!(!first.is_finished());
            if comes_here {
                two.comes_here()
            } else {
                two.partner.open().await
            }
            assert_eq!(attention(&answered(first.await.unwrap())), Asc::POWER_ON_RESET_OR_BUS_DEVICE_RESET);
            let second = client.begin(0, 1, TaskAttribute::Simple, encode::test_unit_ready()).execute(Bytes::new());
            assert_eq!(answered(second.await).status, Status::Good);
        });
    }
}

#[test]
fn an_aborted_command_goes_nowhere_whether_it_waits_or_was_sent() {
    run(|| async {
        let two = Two::with_the_unit_there().await;
        two.disks[1].be_late();
        let sent = two.start_as(TaskAttribute::Simple, 20, write_cdb(), block(9));
        settle().await;
        let abort = |tag| two.client.task_management(TaskManagement::AbortTask, 0, tag);
        // It is at the medium: the answer waits until it is off it.
        let mut aborting = Box::pin(abort(20));
        assert!(futures_util::poll!(&mut aborting).is_pending());
        settle().await;
        assert!(two.disks[1].land_one());
        assert_eq!(aborting.await, TaskManagementResponse::Complete);
        assert_eq!(sent.await.unwrap(), Outcome::Aborted);
        two.partner.cut();
        let waits = two.start_as(TaskAttribute::Simple, 21, write_cdb(), block(10));
        settle().await;
        assert_eq!(abort(21).await, TaskManagementResponse::Complete);
        assert_eq!(waits.await.unwrap(), Outcome::Aborted);
        assert_eq!(abort(21).await, TaskManagementResponse::TaskDoesNotExist);
        two.comes_here();
        settle().await;
        assert_eq!(two.landed(), [vec![], vec![9]]);
    });
}

#[test]
fn an_ordered_command_that_waits_goes_after_older_ones_and_before_younger_ones() {
    run(|| async {
        let two = Two::with_the_unit_there().await;
        two.partner.cut();
        let attributes = [TaskAttribute::Simple, TaskAttribute::Ordered, TaskAttribute::Simple];
        let begin = |(number, attribute)| {
            let mut task = two.client.begin(0, u32::from(number), attribute, write_cdb());
            task.offer(512);
            (task, block(number))
        };
        let writes: Vec<_> = (1..).zip(attributes).map(begin).collect();
        // Whoever is looked at first must not be first for that.
        let writes: Vec<_> = writes.into_iter().rev().map(|(task, data)| spawn_local(task.execute(data))).collect();
        settle().await;
        two.comes_here();
        for write in writes {
            assert_eq!(answered(write.await.unwrap()).status, Status::Good);
        }
        assert_eq!(two.landed(), [vec![1, 2, 3], vec![]]);
    });
}

#[test]
fn the_list_of_units_and_numbers_nobody_has_are_answered_by_whoever_has_all_units() {
    run(|| async {
        let two = Two::with_the_unit_there().await;
        let listed = two.go(encode::report_luns(64), Bytes::new()).await;
        assert_eq!(luns::parse_report(&listed.data_in), [0]);
        let nobody = |two: &Two| {
            let task = two.client.begin(luns::encode_lun(9), 1, TaskAttribute::Simple, encode::test_unit_ready());
            spawn_local(task.execute(Bytes::new()))
        };
        // It is told of its arrival first, as by every unit.
        assert_eq!(sense(&answered(nobody(&two).await.unwrap())).key, SenseKey::UnitAttention);
        assert_eq!(sense(&answered(nobody(&two).await.unwrap())).asc, Asc::LOGICAL_UNIT_NOT_SUPPORTED);
        two.partner.cut();
        let waits = nobody(&two);
        settle().await;
        assert!(!waits.is_finished(), "it may be among the units that are still to come");
        two.comes_here();
        assert_eq!(sense(&answered(waits.await.unwrap())).asc, Asc::LOGICAL_UNIT_NOT_SUPPORTED);
    });
}

#[test]
fn what_a_command_asked_for_is_told_though_it_was_not_known_when_it_came() {
    run(|| async {
        let two = Two::with_the_unit_there().await;
        // Two blocks are brought, the CDB asks for one.
        let both = Bytes::from([block(1), block(2)].concat());
        let outcome = two.start(write_cdb(), both).await.unwrap();
        assert!(matches!(outcome, Outcome::Carried { data_out_wanted: 512, .. }), "{outcome:?}");
        assert_eq!(two.landed(), [vec![], vec![1]]);
    });
}
