//! Many units behind one gate: held, drained, frozen and fenced together.
#[path = "support/late.rs"]
mod late;

use std::rc::Rc;

use bytes::Bytes;
use late::{LateMedium, block, options, run, settle};
use tokio::task::{JoinHandle, spawn_local};
use understudy_device::{
    Audience, CommonGate, Gate, LunTaken, Medium, NexusHandle, NexusName, Outcome, Target, TaskAttribute, UnitOnMedium,
};
use understudy_scsi::cdb::{Force, Span};
use understudy_scsi::{Status, encode, luns};

/// So many units behind one gate, and a host that has spoken to each of them.
struct Bench {
    gate: Rc<CommonGate>,
    target: Rc<Target>,
    media: Vec<Rc<LateMedium>>,
    host: NexusHandle,
}

fn unit(gate: &Rc<CommonGate>, medium: &Rc<LateMedium>) -> Rc<UnitOnMedium> {
    UnitOnMedium::behind(gate, options(), Rc::clone(medium) as Rc<dyn Medium>, None).unwrap()
}

impl Bench {
    async fn new(units: u16) -> Self {
        let (gate, target) = (CommonGate::held(), Target::new("iqn.2026-01.test:target"));
        let media: Vec<_> = (0..units).map(|_| LateMedium::new()).collect();
        let added = (0u16..).zip(&media).map(|(lun, medium)| (lun, unit(&gate, medium), Audience::Everyone));
        assert!(target.add_all(added).is_empty());
        let initiator_name = "iqn.2026-01.test:host".to_owned();
        let host = target.attach(NexusName { initiator_name, isid: [0x80, 0, 0, 0, 0, 1], target_portal_group: 1 });
        let bench = Self { gate, target, media, host };
        let greetings: Vec<_> =
            (0..units).map(|lun| bench.send(lun, encode::test_unit_ready(), Bytes::new())).collect();
        settle().await;
        assert!(greetings.iter().all(|greeting| !greeting.is_finished()), "the gate is held from the start");
        bench.gate.resume();
        for greeting in greetings {
            assert_eq!(status(greeting).await, Some(Status::CheckCondition));
        }
        bench
    }

    fn send(&self, lun: u16, cdb: [u8; 16], data: Bytes) -> JoinHandle<Outcome> {
        spawn_local(self.host.begin(luns::encode_lun(lun), 1, TaskAttribute::Simple, cdb).execute(data))
    }

    fn write(&self, lun: u16, byte: u8) -> JoinHandle<Outcome> {
        self.send(lun, encode::write_16(Span { lba: 0, blocks: 1 }, Force::CacheAllowed), block(byte))
    }
}

async fn status(answer: JoinHandle<Outcome>) -> Option<Status> {
    match answer.await.unwrap() {
        Outcome::Completed(done) => Some(done.status),
        Outcome::Aborted | Outcome::Fenced | Outcome::Carried { .. } => None,
    }
}

#[test]
fn a_common_gate_is_drained_when_no_unit_has_anything_at_its_medium() {
    run(|| async {
        let bench = Bench::new(5).await;
        for at in [1, 3] {
            bench.media[at].be_late();
        }
        let under_way = [bench.write(1, 1), bench.write(3, 3)];
        let blocked = bench.write(3, 4);
        settle().await;
        bench.gate.hold();
        let gate = Rc::clone(&bench.gate);
        let drained = spawn_local(async move { gate.drained().await });
        let late = bench.write(0, 9);
        settle().await;
        assert!(bench.media[1].land_one());
        settle().await;
        assert!(!drained.is_finished(), "one unit is not drained");
        assert!(bench.media[3].land_one());
        drained.await.unwrap();
        for done in under_way {
            assert_eq!(status(done).await, Some(Status::Good), "what was under way is answered");
        }
        settle().await;
        assert!(!late.is_finished() && !blocked.is_finished(), "nothing starts behind the hold");
        assert_eq!((bench.media[3].waiting(), bench.media[0].landed.borrow().len()), (0, 0));
        bench.gate.resume();
        assert_eq!(status(late).await, Some(Status::Good));
        settle().await;
        assert!(bench.media[3].land_one());
        assert_eq!(status(blocked).await, Some(Status::Good));
    });
}

#[test]
fn a_frozen_common_gate_keeps_the_answers_and_a_fenced_one_never_gives_them() {
    run(|| async {
        for fenced in [false, true] {
            let bench = Bench::new(3).await;
            bench.media[2].be_late();
            let under_way = bench.write(2, 1);
            settle().await;
            bench.gate.freeze();
            assert!(bench.media[2].land_one());
            let waits = bench.write(0, 2);
            settle().await;
            assert!(!under_way.is_finished() && !waits.is_finished());
            if fenced {
                bench.gate.fence();
            }
            // Which a fenced gate does not hear.
            bench.gate.resume();
            let expected = if fenced { None } else { Some(Status::Good) };
            assert_eq!((status(under_way).await, status(waits).await), (expected, expected));
            assert_eq!(bench.gate.gate(), if fenced { Gate::Fenced } else { Gate::Open });
        }
    });
}

#[test]
fn a_units_own_gate_counts_besides_the_common_one() {
    run(|| async {
        let bench = Bench::new(2).await;
        let units = bench.target.units();
        units[0].hold();
        let (held, open) = (bench.write(0, 1), bench.write(1, 2));
        assert_eq!(status(open).await, Some(Status::Good));
        bench.gate.hold();
        units[0].resume();
        settle().await;
        assert!(!held.is_finished() && units[0].gate() == Gate::Held);
        bench.gate.resume();
        assert_eq!(status(held).await, Some(Status::Good));
        units[1].fence();
        bench.gate.resume();
        assert_eq!(status(bench.write(1, 3)).await, None);
    });
}

#[test]
fn units_added_together_are_in_order_and_those_without_room_are_named() {
    run(|| async {
        let (gate, medium) = (CommonGate::held(), LateMedium::new());
        let target = Target::new("iqn.2026-01.test:target");
        let add =
            |luns: &[u16]| target.add_all(luns.iter().map(|lun| (*lun, unit(&gate, &medium), Audience::Everyone)));
        assert_eq!(add(&[7, 3]), []);
        assert_eq!(add(&[9, 3, 1, 1, 0x4000]), [LunTaken(1), LunTaken(3), LunTaken(0x4000)]);
        assert_eq!(target.luns(), [1, 3, 7, 9]);
        assert_eq!(target.remove_all(|lun| lun > 3).len(), 2);
        assert_eq!(target.luns(), [1, 3]);
    });
}
