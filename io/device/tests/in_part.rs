//! Sessions with a target whose units are at both nodes: each command goes where its unit is, and what no unit can answer is answered for both.
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
    Attempt, Audience, Completion, Elsewhere, NexusHandle, OnDemand, Outcome, Presence, Target, TaskAttribute,
    TaskManagement, TaskManagementResponse,
};
use understudy_scsi::sense::{Asc, SenseKey};
use understudy_scsi::{Status, encode, luns};

/// Unit 0 is at this node, the home, and unit 1 at the other one. The client came by the home's own way.
struct Parts {
    here: Rc<Target>,
    there: Rc<Target>,
    disks: [Rc<LateMedium>; 2],
    partner: Rc<Partner>,
    client: Rc<NexusHandle>,
}

impl Parts {
    fn new() -> Self {
        let [here, there] = ["here", "there"].map(|_| Target::new("iqn.2026-01.test:target"));
        let disks = [LateMedium::new(), LateMedium::new()];
        here.add(0, unit(&disks[0])).unwrap();
        there.add(1, unit(&disks[1])).unwrap();
        here.set_presence(Presence::Part);
        there.set_presence(Presence::Part);
        let partner = Partner::of(&there);
        let line = Rc::clone(&partner);
        let on_demand = OnDemand::opened_by(move || {
            let opening = Rc::clone(&line);
            spawn_local(async move { opening.open().await });
            Rc::clone(&line) as Rc<dyn Elsewhere>
        });
        let client = Rc::new(here.attach_routed(client(), on_demand));
        Self { here, there, disks, partner, client }
    }

    fn start(&self, lun: u16, cdb: [u8; 16], data: Bytes) -> JoinHandle<Outcome> {
        let mut task = self.client.begin(luns::encode_lun(lun), 7, TaskAttribute::Simple, cdb);
        task.offer(data.len() as u32);
        task.make_room(if data.is_empty() { 512 } else { 0 });
        spawn_local(task.execute(data))
    }

    async fn go(&self, lun: u16, cdb: [u8; 16], data: Bytes) -> Completion {
        answered(self.start(lun, cdb, data).await.unwrap())
    }

    async fn ready(&self, lun: u16) -> Completion {
        self.go(lun, encode::test_unit_ready(), Bytes::new()).await
    }

    /// Both units have told the client of its arrival.
    async fn known() -> Self {
        let parts = Self::new();
        for lun in [0, 1] {
            assert_eq!(attention(&parts.ready(lun).await), Asc::POWER_ON_RESET_OR_BUS_DEVICE_RESET);
        }
        parts
    }

    async fn listed(&self, allocation: u32) -> (usize, Vec<u64>) {
        let answer = self.go(0, encode::report_luns(allocation), Bytes::new()).await;
        assert_eq!(answer.status, Status::Good);
        assert_eq!(answer.data_in[4..8], [0; 4], "SPC-4 r37 §6.33: reserved");
        (answer.data_in.len(), luns::parse_report(&answer.data_in))
    }

    fn landed(&self) -> [Vec<u8>; 2] {
        [0, 1].map(|node: usize| self.disks[node].landed.borrow().clone())
    }
}

#[test]
fn each_command_goes_where_its_unit_is_and_the_session_with_the_other_node_is_opened_when_one_has_to() {
    run(|| async {
        let parts = Parts::new();
        assert_eq!(attention(&parts.ready(0).await), Asc::POWER_ON_RESET_OR_BUS_DEVICE_RESET);
        assert_eq!(parts.go(0, write_cdb(), block(1)).await.status, Status::Good);
        assert_eq!(parts.partner.opened.get(), 0);
        assert_eq!(attention(&parts.ready(1).await), Asc::POWER_ON_RESET_OR_BUS_DEVICE_RESET);
        assert_eq!(parts.go(1, write_cdb(), block(2)).await.status, Status::Good);
        assert_eq!(parts.go(1, read_cdb(), Bytes::new()).await.data_in, block(2));
        assert_eq!((parts.partner.opened.get(), parts.landed()), (1, [vec![1], vec![2]]));
    });
}

/// SPC-4 r37 §6.33.
#[test]
fn the_list_names_the_units_of_both_nodes_however_little_of_it_the_client_takes() {
    run(|| async {
        let parts = Parts::known().await;
        assert_eq!(parts.listed(512).await, (24, vec![0, 1 << 48]));
        // The length says how much there is.
        assert_eq!(parts.listed(16).await, (16, vec![0]));
        let refused = parts.go(0, encode::report_luns(8), Bytes::new()).await;
        assert_eq!(sense(&refused).key, SenseKey::IllegalRequest);
        parts.there.set_presence(Presence::Unsettled);
        let waits = parts.start(0, encode::report_luns(512), Bytes::new());
        settle().await;
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert!(!waits.is_finished(), "more units may come to the other node");
        parts.there.set_presence(Presence::Part);
        assert_eq!(luns::parse_report(&answered(waits.await.unwrap()).data_in), [0, 1 << 48]);
    });
}

#[test]
fn who_does_not_know_yet_what_comes_here_takes_a_part_for_no_whole() {
    run(|| async {
        let parts = Parts::known().await;
        parts.here.set_presence(Presence::Unsettled);
        let list = parts.start(0, encode::report_luns(512), Bytes::new());
        let nobody = parts.start(9, encode::inquiry(36), Bytes::new());
        settle().await;
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert!(!list.is_finished() && !nobody.is_finished());
        parts.here.set_presence(Presence::Part);
        assert_eq!(luns::parse_report(&answered(list.await.unwrap()).data_in), [0, 1 << 48]);
        assert_eq!(answered(nobody.await.unwrap()).data_in[0], 0x7f, "SPC-4 r37 §6.6.2: no unit, and none possible");
    });
}

#[test]
fn a_number_that_neither_node_has_is_nobodys_and_one_that_comes_here_meanwhile_is_not() {
    run(|| async {
        let parts = Parts::known().await;
        assert_eq!(sense(&parts.ready(9).await).key, SenseKey::UnitAttention);
        assert_eq!(sense(&parts.ready(9).await).asc, Asc::LOGICAL_UNIT_NOT_SUPPORTED);
        // It has left the other node when the command comes there, and has come here when that says so.
        let leaving = parts.there.remove(1).unwrap();
        leaving.fence();
        let write = parts.start(1, write_cdb(), block(3));
        let (here, disk) = (Rc::clone(&parts.here), Rc::clone(&parts.disks[0]));
        spawn_local(async move {
            assert!(here.arrive([(1, unit(&disk), Audience::Everyone)]).is_empty());
        });
        assert_eq!(answered(write.await.unwrap()).status, Status::Good);
        assert_eq!(parts.landed(), [vec![3], vec![]]);
    });
}

#[test]
fn a_unit_that_goes_to_the_other_node_takes_the_commands_that_waited_for_it_along() {
    run(|| async {
        let parts = Parts::known().await;
        parts.there.set_presence(Presence::Unsettled);
        let moving = || parts.there.arrive([(0, unit(&parts.disks[1]), Audience::Everyone)]);
        parts.here.hold_and_drain().await;
        let write = parts.start(0, write_cdb(), block(4));
        settle().await;
        assert!(moving().is_empty());
        let written = answered(write.await.unwrap());
        assert_eq!(written.status, Status::Good, "{:?}", written.sense);
        assert_eq!(parts.landed(), [vec![], vec![4]]);
        parts.here.depart(|lun| lun == 0);
        assert_eq!(attention(&parts.ready(0).await), Asc::ASYMMETRIC_ACCESS_STATE_CHANGED);
        assert_eq!(parts.ready(0).await.status, Status::Good);
    });
}

#[test]
fn while_nothing_is_about_to_part_a_hold_opens_no_session_and_while_something_is_it_does() {
    for parting in [false, true] {
        run(|| async {
            let parts = Parts::new();
            assert_eq!(attention(&parts.ready(0).await), Asc::POWER_ON_RESET_OR_BUS_DEVICE_RESET);
            parts.here.set_parting(parting);
            parts.here.hold_and_drain().await;
            let write = parts.start(0, write_cdb(), block(5));
            settle().await;
            assert_eq!(parts.partner.opened.get(), u64::from(parting));
            parts.here.resume();
            assert_eq!(answered(write.await.unwrap()).status, Status::Good);
            assert_eq!(parts.landed(), [vec![5], vec![]]);
        });
    }
}

/// SPC-4 r37 §5.11: 3Fh/0Eh is for a list that has changed.
#[test]
fn a_unit_that_moves_changes_the_list_for_nobody_and_one_that_is_made_does() {
    run(|| async {
        let parts = Parts::known().await;
        parts.here.arrive([(3, unit(&parts.disks[0]), Audience::Everyone)]);
        parts.here.depart(|lun| lun == 3);
        assert_eq!(parts.ready(0).await.status, Status::Good);
        parts.here.add(4, unit(&parts.disks[0])).unwrap();
        assert_eq!(attention(&parts.ready(0).await), Asc::REPORTED_LUNS_DATA_HAS_CHANGED);
        assert_eq!(parts.ready(1).await.status, Status::Good);
        parts.there.add(5, unit(&parts.disks[1])).unwrap();
        assert_eq!(attention(&parts.ready(1).await), Asc::REPORTED_LUNS_DATA_HAS_CHANGED);
    });
}

/// RFC 7143 §11.5.1.
#[test]
fn a_target_reset_ends_what_is_under_way_at_both_nodes() {
    run(|| async {
        let parts = Parts::known().await;
        parts.disks.iter().for_each(|disk| disk.be_late());
        let writes = [0, 1].map(|lun| parts.start(lun, write_cdb(), block(6)));
        settle().await;
        let client = Rc::clone(&parts.client);
        let reset = spawn_local(async move { client.task_management(TaskManagement::TargetWarmReset, 0, 0).await });
        settle().await;
        assert!(!reset.is_finished(), "both are at their media");
        assert!(parts.disks[1].land_one());
        settle().await;
        assert!(!reset.is_finished() && parts.disks[0].land_one());
        assert_eq!(reset.await.unwrap(), TaskManagementResponse::Complete);
        for write in writes {
            assert_eq!(write.await.unwrap(), Outcome::Aborted);
        }
    });
}

#[test]
fn a_command_to_a_unit_that_is_here_needs_no_more_than_a_first_look() {
    run(|| async {
        let parts = Parts::known().await;
        let mut task = parts.client.begin(0, 7, TaskAttribute::Simple, write_cdb());
        task.offer(512);
        match task.attempt(&block(8), |_| None) {
            Attempt::Over(outcome) => assert_eq!(answered(outcome).status, Status::Good),
            Attempt::Placed => panic!("nothing is read"),
            // A medium that takes its time: the command is as it was.
            Attempt::Waits(task) => assert_eq!(answered(task.execute(block(8)).await).status, Status::Good),
        }
        let away = parts.client.begin(luns::encode_lun(1), 8, TaskAttribute::Simple, read_cdb());
        assert!(matches!(away.attempt(&Bytes::new(), |_| None), Attempt::Waits(_)));
        assert_eq!(parts.landed(), [vec![8], vec![]]);
    });
}

#[test]
fn a_command_that_waited_for_a_unit_to_come_is_carried_out_when_its_gate_opens_though_all_was_known_before() {
    run(|| async {
        let parts = Parts::known().await;
        parts.partner.cut();
        parts.here.set_presence(Presence::Unsettled);
        let write = parts.start(1, write_cdb(), block(9));
        settle().await;
        let coming = unit(&parts.disks[0]);
        coming.hold();
        assert!(parts.here.arrive([(1, Rc::clone(&coming), Audience::Everyone)]).is_empty());
        parts.here.set_presence(Presence::Whole);
        settle().await;
        assert!(!write.is_finished());
        coming.resume();
        settle().await;
        assert!(write.is_finished(), "nothing else is going to wake it");
        assert_eq!(answered(write.await.unwrap()).status, Status::Good);
    });
}
