//! What a logical unit keeps through the end of its process, with its checksum made right.
//!
//! Properties: kept bytes open a unit or are refused with a reason, and a reason is never "nothing kept"; an opened
//! unit has a sound reservation and no key zero; what it would keep next is not too long, is accepted again and says the same, also to
//! a port that is still to be told something.

use bytes::Bytes;
use understudy_scsi::cdb::{ModeForm, SavePages};
use understudy_scsi::reservation::{OutAction, OutList, Persistence, ReservationType};
use understudy_scsi::transport::InitiatorPort;
use understudy_unit::reservations::Request;
use understudy_unit::state::MOST_BYTES;
use understudy_unit::unit::{Keep, LogicalUnit, Plan, StateRequest, UnitOptions};
use understudy_unit::{Geometry, Identity, Nexus, NexusId, TaskAttribute, TaskId};

use crate::choices::{Choices, Script};

const GEOMETRY: Geometry = Geometry { block_bytes: 512, blocks: 4096 };

fn options() -> UnitOptions {
    let identity = Identity { uuid: [7; 16], product: "FUZZED".into() };
    UnitOptions { keep: Keep::Always, ..UnitOptions::new(identity) }
}

fn sealed(body: &[u8]) -> Vec<u8> {
    [body, &crc_fast::crc32_iscsi(body).to_le_bytes()].concat()
}

fn nexus(name: &str) -> Nexus {
    Nexus { initiator: InitiatorPort { name: name.into(), isid: [0x80, 0, 0, 0, 0, 1] }, target_port: 1 }
}

/// Opens a unit with the bytes, as they are or sealed.
pub fn run(bytes: &[u8]) {
    let mut choices = Choices::new(bytes);
    let seal = choices.byte() & 7 != 7;
    let kept = if seal { sealed(choices.remainder()) } else { choices.remainder().to_vec() };
    let Ok(mut unit) = LogicalUnit::new(options(), GEOMETRY, Some(&kept)) else { return };
    let reservations = unit.reservations().clone();
    assert_eq!(reservations.invariant_holder_is_registered(), Ok(()));
    assert!(reservations.keys().all(|key| key != 0), "key zero is no registration");
    let _ = (reservations.report(), reservations.full_status());

    // One more registration: what is kept for it opens again, with everything that was there before.
    let id = unit.attach(nexus("iqn.2026-01.test:newcomer"));
    let task = unit.begin(id, 1, TaskAttribute::Simple, &[0; 16]).task;
    let list = OutList { key: 0, action_key: 5, persistence: Persistence::ThroughPowerLoss, ..plain() };
    let request = Request::Plain(OutAction::RegisterAndIgnoreExistingKey, 0, list);
    let Ok(change) = unit.plan_change(id, task, &StateRequest::Reserve(request)) else { return };
    let next = unit.bytes_to_keep(&change).expect("PRGENERATION has moved");
    unit.commit(change, Some(next.clone()));
    assert!(next.len() <= MOST_BYTES.max(kept.len()), "more than a medium has room for");
    let mut again = LogicalUnit::new(options(), GEOMETRY, Some(&next)).expect("our own bytes");
    assert_eq!(again.reservations(), unit.reservations());
    assert_eq!(again.caches_writes(), unit.caches_writes());
    let known = reservations.key_of(&nexus("iqn.2026-01.test:newcomer")).is_some();
    assert_eq!(again.reservations().keys().len(), reservations.keys().len() + usize::from(!known));
    if next.len() + 1024 <= MOST_BYTES {
        assert_eq!(told(&mut unit, AWAY), told(&mut again, AWAY));
    }
}

/// The name of a port that is away in the seeds.
const AWAY: &str = "iqn.2026-01.test:away";

/// What a port is told when it is back, until the unit is ready.
fn told(unit: &mut LogicalUnit, name: &str) -> Vec<Bytes> {
    let id = unit.attach(nexus(name));
    let mut told = Vec::new();
    loop {
        let begun = unit.begin(id, 1, TaskAttribute::Simple, &[0; 16]);
        unit.end(begun.task);
        let Plan::Refused(completion) = begun.plan else { return told };
        told.extend(completion.sense);
        assert!(told.len() < 16, "unit attentions without end");
    }
}

fn plain() -> OutList {
    OutList {
        key: 0,
        action_key: 0,
        ports: None,
        all_target_ports: understudy_scsi::reservation::AllTargetPorts::No,
        persistence: Persistence::Volatile,
    }
}

/// A unit with a registration, with a reservation, with saved mode pages, and with a port that was preempted while it was away.
#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    let mut unit = LogicalUnit::new(options(), GEOMETRY, None).expect("a fresh unit");
    let id = unit.attach(nexus("iqn.2026-01.test:c"));
    let task = unit.begin(id, 1, TaskAttribute::Simple, &[0; 16]).task;
    let register = OutList { action_key: 9, persistence: Persistence::ThroughPowerLoss, ..plain() };
    let reserve = OutList { key: 9, ..plain() };
    let kind = ReservationType::ExclusiveAccessRegistrantsOnly as u8;
    let page = [&[0, 0, 0, 0, 0x0a, 0x0a, 0x24, 0x10, 0, 0x40, 0, 0, 0xff, 0xff][..], &[0, 0]].concat();
    let requests = [
        StateRequest::Reserve(Request::Plain(OutAction::Register, 0, register)),
        StateRequest::Reserve(Request::Plain(OutAction::Reserve, kind, reserve)),
        StateRequest::SelectPages(ModeForm::Six, SavePages::Yes, Bytes::from(page)),
    ];
    let mut seeds: Vec<_> = requests.iter().map(|request| seed(&kept_for(&mut unit, id, task, request))).collect();
    let away = unit.attach(nexus(AWAY));
    let preempt = OutList { key: 9, action_key: 8, ..plain() };
    let register = StateRequest::Reserve(Request::Plain(OutAction::Register, 0, OutList { action_key: 8, ..plain() }));
    kept_for(&mut unit, away, task, &register);
    unit.detach(away);
    let preempt = StateRequest::Reserve(Request::Plain(OutAction::Preempt, kind, preempt));
    seeds.push(seed(&kept_for(&mut unit, id, task, &preempt)));
    seeds
}

/// Carries out a request; answers what is kept for it.
fn kept_for(unit: &mut LogicalUnit, id: NexusId, task: TaskId, request: &StateRequest) -> Vec<u8> {
    let change = unit.plan_change(id, task, request).expect("a sound request");
    let bytes = unit.bytes_to_keep(&change).expect("something changes");
    unit.commit(change, Some(bytes.clone()));
    bytes
}

/// Kept bytes as an input of this target.
fn seed(kept: &[u8]) -> Vec<u8> {
    Script::new().bytes(&[0]).bytes(&kept[..kept.len() - 4]).done()
}
