//! Faults carried out, and taken back when their time is over.

use std::rc::Rc;
use std::time::Duration;

use tokio::task::spawn_local;
use tokio::time::sleep;
use understudy::admin::{Provisioning, Request, SoftVetoes, TakeoverKind};
use understudy::config::NodeName;
use understudy_failover::words::{LegIndex, LegSet};
use understudy_layout::PAGE_BYTES;
use understudy_layout::label::PoolAreas;
use understudy_layout::lock::{LockPlaces, RecordSlot};

use crate::clock;
use crate::medium::Temper;
use crate::memory::Trouble;
use crate::network::Host;
use crate::plan::{Fault, LEGS, LOCK_DISKS, NODES, POOLS, Planned};
use crate::process::End;
use crate::stage::Stage;

/// Carries a fault out and, after its time, takes it back.
pub fn begin(stage: &Rc<Stage>, planned: Planned) {
    if !is_fair(stage, planned.fault) {
        return;
    }
    stage.log(format_args!("fault for {} ms: {:?}", planned.for_ms, planned.fault));
    let stage = Rc::clone(stage);
    spawn_local(async move {
        carry_out(&stage, planned.fault).await;
        sleep(Duration::from_millis(planned.for_ms)).await;
        take_back(&stage, planned.fault);
    });
}

/// Faults after which nothing can be demanded prove nothing.
fn is_fair(stage: &Stage, fault: Fault) -> bool {
    match fault {
        // One lock disk at a time may lose its mind, while the others show the records: they are kept on a majority.
        Fault::CorruptRecord { shelf, .. } | Fault::MisdirectRecord { shelf, .. } => {
            shelf as u64 == stage.plan.seed % 3 && stage.records_stand_without(shelf)
        }
        // One leg's metadata at a time, for the same reason, and only while the other one is good.
        Fault::UnreadableMetadata { shelf, .. }
        | Fault::CorruptMetadata { shelf, .. }
        | Fault::MisdirectMetadata { shelf, .. } => is_weak_leg(stage, shelf) && is_other_good(stage, shelf),
        // The same leg may be lost, one in all.
        Fault::LoseLeg { shelf } => {
            let lost = stage.lost.get().is_none_or(|lost| lost == shelf);
            is_weak_leg(stage, shelf) && is_other_good(stage, shelf) && lost
        }
        _always => true,
    }
}

/// Whether everything on this leg may go bad: what stands on the other one is left alone.
fn is_weak_leg(stage: &Stage, shelf: usize) -> bool {
    shelf >= LOCK_DISKS && place_of(shelf).1 == (stage.plan.seed % 2) as usize
}

/// Whether the other leg of the mirror is recorded good.
fn is_other_good(stage: &Stage, shelf: usize) -> bool {
    let (pool, leg) = place_of(shelf);
    let other = LegIndex(1 - leg as u8);
    stage.good_legs(pool).is_some_and(|good: LegSet| good.contains(other))
}

/// Pool and leg of a pool disk's shelf.
fn place_of(shelf: usize) -> (usize, usize) {
    ((shelf - LOCK_DISKS) / LEGS, (shelf - LOCK_DISKS) % LEGS)
}

fn name_of(node: usize) -> NodeName {
    NodeName::BOTH[node]
}

fn readers(node: usize) -> Vec<NodeName> {
    if node < 2 { vec![name_of(node)] } else { NodeName::BOTH.to_vec() }
}

fn change_reads(stage: &Stage, node: usize, change: impl Fn(&mut Trouble)) {
    for reader in readers(node) {
        let mut trouble = stage.memory.trouble(reader);
        change(&mut trouble);
        stage.memory.set_trouble(reader, trouble);
    }
}

async fn carry_out(stage: &Rc<Stage>, fault: Fault) {
    match fault {
        Fault::KillNode { node, power } => {
            stage.nodes[node].kill(if power { End::PowerLost } else { End::Killed });
        }
        Fault::KillBoth => stage.nodes.iter().for_each(|node| node.kill(End::Killed)),
        Fault::StopNode { node } => stage.nodes[node].process().stop(),
        Fault::HaltNode { node } => stage.nodes[node].halt(),
        Fault::CutReads { node } => change_reads(stage, node, |trouble| trouble.cut = true),
        Fault::SlowReads { node, millis } => change_reads(stage, node, |trouble| trouble.slow_ms = millis),
        Fault::TearReads { node } => change_reads(stage, node, |trouble| trouble.torn = true),
        Fault::CutPath { .. }
        | Fault::CutAllPaths { .. }
        | Fault::SlowPath { .. }
        | Fault::CutForward { .. }
        | Fault::DropForward
        | Fault::SlowForward { .. } => disturb(stage, fault),
        Fault::SlowDisk { shelf, millis } => {
            stage.shelves[shelf].medium.set_temper(Temper { slow_ms: millis, ..Temper::GOOD });
        }
        Fault::BadDisk { shelf, reads, writes } => {
            stage.shelves[shelf].medium.set_temper(Temper { slow_ms: 0, bad_reads: reads, bad_writes: writes });
        }
        Fault::KillShelf { shelf } => stage.shelves[shelf].end(End::Killed),
        Fault::PowerShelf { shelf } => lose_power(stage, shelf),
        Fault::LoseLeg { shelf } => {
            stage.lost.set(Some(shelf));
            stage.history.borrow_mut().forgotten_shows(place_of(shelf).0);
            stage.shelves[shelf].end(End::PowerLost);
        }
        Fault::LegAwayInClaim { shelf, power, node, after_ms, back_ms } => {
            leg_away_in_claim(stage, shelf, power, (node, after_ms, back_ms));
        }
        Fault::CrowdShelf { shelf, most } => stage.shelves[shelf].allow_tasks(most),
        Fault::RepeatAnswers { node, shelf, one_in } => {
            stage.net.repeat(Host::Shelf(shelf), Host::Node(node), one_in);
        }
        Fault::RepeatNews { node } => stage.memory.repeat_news(name_of(node)),
        Fault::StopShelf { shelf } => stage.shelves[shelf].stop(),
        Fault::DropSessions { shelf } => stage.shelves[shelf].drop_sessions(),
        Fault::CorruptRecord { .. }
        | Fault::MisdirectRecord { .. }
        | Fault::UnreadableMetadata { .. }
        | Fault::CorruptMetadata { .. }
        | Fault::MisdirectMetadata { .. } => damage(stage, fault),
        Fault::JumpClock { seconds } => clock::jump(seconds * 1_000_000),
        Fault::CutClient { client } => NODES.iter().for_each(|node| {
            stage.net.cut(Host::Client(client), *node);
            stage.net.cut(*node, Host::Client(client));
        }),
        Fault::AskTakeover { .. }
        | Fault::AskGiveback { .. }
        | Fault::MakeVolume { .. }
        | Fault::DeleteVolume { .. } => ask(stage, fault).await,
    }
}

/// What happens to the paths between hosts.
fn disturb(stage: &Stage, fault: Fault) {
    match fault {
        Fault::CutPath { node, shelf, out, back } => {
            if out {
                stage.net.cut(Host::Node(node), Host::Shelf(shelf));
            }
            if back {
                stage.net.cut(Host::Shelf(shelf), Host::Node(node));
            }
        }
        Fault::CutForward { node, out, back } => {
            let (here, partner) = (NODES[node], NODES[1 - node]);
            if out {
                stage.net.cut(here, partner);
            }
            if back {
                stage.net.cut(partner, here);
            }
        }
        Fault::DropForward => stage.net.break_off(NODES[0], NODES[1]),
        Fault::SlowForward { node, millis } => {
            stage.net.slow(NODES[node], NODES[1 - node], millis);
            stage.net.slow(NODES[1 - node], NODES[node], millis / 3);
        }
        Fault::CutAllPaths { node } => (0..stage.shelves.len()).for_each(|shelf| {
            stage.net.cut(Host::Node(node), Host::Shelf(shelf));
            stage.net.cut(Host::Shelf(shelf), Host::Node(node));
        }),
        Fault::SlowPath { node, shelf, millis } => {
            stage.net.slow(Host::Node(node), Host::Shelf(shelf), millis);
            stage.net.slow(Host::Shelf(shelf), Host::Node(node), millis / 3);
        }
        _others => {}
    }
}

fn lose_power(stage: &Stage, shelf: usize) {
    if shelf >= LOCK_DISKS {
        let (pool, leg) = place_of(shelf);
        stage.history.borrow_mut().leg_forgets(pool, leg);
        if !is_other_good(stage, shelf) {
            // Nobody has another copy.
            stage.history.borrow_mut().forgotten_shows(pool);
        }
    }
    stage.shelves[shelf].end(End::PowerLost);
}

/// The shelf goes, a little later the process, which is started again before the shelf or after it.
fn leg_away_in_claim(stage: &Rc<Stage>, shelf: usize, power: bool, process: (usize, u64, u64)) {
    if power {
        lose_power(stage, shelf)
    } else {
        stage.shelves[shelf].end(End::Killed)
    }
    let (node, after_ms, back_ms) = process;
    let stage = Rc::clone(stage);
    spawn_local(async move {
        sleep(Duration::from_millis(after_ms)).await;
        readers(node).into_iter().for_each(|name| stage.nodes[name.index()].kill(End::Killed));
        sleep(Duration::from_millis(back_ms)).await;
        readers(node).into_iter().for_each(|name| stage.nodes[name.index()].start());
    });
}

fn damage(stage: &Stage, fault: Fault) {
    if let Fault::UnreadableMetadata { shelf, .. }
    | Fault::CorruptMetadata { shelf, .. }
    | Fault::MisdirectMetadata { shelf, .. } = fault
    {
        stage.damaged.borrow_mut().insert(shelf);
    }
    match fault {
        Fault::CorruptRecord { shelf, node } => corrupt_record(stage, shelf, node),
        Fault::MisdirectRecord { shelf, node } => misdirect_record(stage, shelf, node),
        Fault::UnreadableMetadata { shelf, place } => {
            if let Some(lba) = metadata_block(stage, place) {
                stage.shelves[shelf].medium.make_unreadable(lba);
            }
        }
        Fault::CorruptMetadata { shelf, place } => {
            // Whether there was anything to corrupt.
            let _ = metadata_block(stage, place).map(|lba| stage.shelves[shelf].medium.corrupt(lba));
        }
        Fault::MisdirectMetadata { shelf, by } => {
            let blocks = stage.metadata_blocks();
            let most = blocks.end - blocks.start - by - 64;
            stage.shelves[shelf].medium.misdirect_next((blocks.start, most), by);
        }
        _others => {}
    }
}

fn corrupt_record(stage: &Stage, shelf: usize, node: usize) {
    let Some(places) = LockPlaces::new(stage.lock_shape()) else { return };
    let area = places.node_area(node as u8);
    let lba = area.lba + stage.chance.below(u64::from(area.blocks));
    stage.shelves[shelf].medium.corrupt(lba);
}

/// The next record, that is, and no heartbeat before it: by then what stands does so on the other lock disks, as when this was found fair.
fn misdirect_record(stage: &Stage, shelf: usize, node: usize) {
    let Some(places) = LockPlaces::new(stage.lock_shape()) else { return };
    let slots = [RecordSlot::Even, RecordSlot::Odd].map(|slot| places.record(node as u8, slot));
    let first = slots.iter().map(|slot| slot.lba).min().unwrap_or_default();
    let end = slots.iter().map(|slot| slot.lba + u64::from(slot.blocks)).max().unwrap_or_default();
    let by = stage.chance.between(1, end - first);
    stage.shelves[shelf].medium.misdirect_next((first, end - first), by);
}

fn metadata_block(stage: &Stage, place: u64) -> Option<u64> {
    let shape = stage.pool_shape();
    let areas = PoolAreas::for_disk(shape)?;
    let offset = areas.slot_offset((place % 2) as u8) + (place >> 8) % 4 * PAGE_BYTES as u64;
    Some(offset / u64::from(shape.block_bytes))
}

async fn ask(stage: &Rc<Stage>, fault: Fault) {
    let (node, request) = match fault {
        Fault::AskTakeover { node } => (node, Request::Takeover { kind: TakeoverKind::Planned }),
        Fault::AskGiveback { node, overridden } => {
            let soft_vetoes = if overridden { SoftVetoes::Override } else { SoftVetoes::Respect };
            (node, Request::Giveback { soft_vetoes })
        }
        Fault::MakeVolume { node, number } => {
            let (pool, name) = (POOLS[number as usize % 2].to_owned(), format!("extra{number}"));
            (node, Request::VolumeCreate { pool, name, bytes: 1 << 20, provisioning: Provisioning::Thick })
        }
        Fault::DeleteVolume { node, number } => (node, Request::VolumeDelete { name: format!("extra{number}") }),
        _others => return,
    };
    let node = Rc::clone(&stage.nodes[node]);
    let answer = node.ask(request).await;
    stage.log(format_args!("operator at {}: {:.120}", node.name, format!("{answer:?}")));
}

fn take_back(stage: &Rc<Stage>, fault: Fault) {
    match fault {
        Fault::KillNode { node, .. } | Fault::HaltNode { node } => stage.nodes[node].start(),
        Fault::KillBoth => stage.nodes.iter().for_each(|node| node.start()),
        Fault::StopNode { node } => stage.nodes[node].process().go_on(),
        Fault::CutReads { node } => change_reads(stage, node, |trouble| trouble.cut = false),
        Fault::SlowReads { node, .. } => change_reads(stage, node, |trouble| trouble.slow_ms = 0),
        Fault::TearReads { node } => change_reads(stage, node, |trouble| trouble.torn = false),
        Fault::CutPath { node, shelf, .. } => {
            stage.net.mend(Host::Node(node), Host::Shelf(shelf));
            stage.net.mend(Host::Shelf(shelf), Host::Node(node));
        }
        Fault::CutForward { .. } => {
            stage.net.mend(NODES[0], NODES[1]);
            stage.net.mend(NODES[1], NODES[0]);
        }
        Fault::SlowForward { .. } => {
            stage.net.slow(NODES[0], NODES[1], 0);
            stage.net.slow(NODES[1], NODES[0], 0);
        }
        Fault::CutAllPaths { node } => (0..stage.shelves.len()).for_each(|shelf| {
            stage.net.mend(Host::Node(node), Host::Shelf(shelf));
            stage.net.mend(Host::Shelf(shelf), Host::Node(node));
        }),
        Fault::SlowPath { node, shelf, .. } => {
            stage.net.slow(Host::Node(node), Host::Shelf(shelf), 0);
            stage.net.slow(Host::Shelf(shelf), Host::Node(node), 0);
        }
        Fault::SlowDisk { shelf, .. } | Fault::BadDisk { shelf, .. } => {
            stage.shelves[shelf].medium.set_temper(Temper::GOOD);
        }
        Fault::KillShelf { shelf } | Fault::PowerShelf { shelf } | Fault::LegAwayInClaim { shelf, .. } => {
            start(stage, shelf);
        }
        Fault::CrowdShelf { shelf, .. } => stage.shelves[shelf].allow_tasks(u32::MAX),
        Fault::RepeatAnswers { node, shelf, .. } => stage.net.repeat(Host::Shelf(shelf), Host::Node(node), 0),
        Fault::StopShelf { shelf } => stage.shelves[shelf].go_on(),
        Fault::CutClient { client } => NODES.iter().for_each(|node| {
            stage.net.mend(Host::Client(client), *node);
            stage.net.mend(*node, Host::Client(client));
        }),
        Fault::DropForward
        | Fault::DropSessions { .. }
        | Fault::CorruptRecord { .. }
        | Fault::MisdirectRecord { .. }
        | Fault::UnreadableMetadata { .. }
        | Fault::CorruptMetadata { .. }
        | Fault::MisdirectMetadata { .. }
        | Fault::RepeatNews { .. }
        | Fault::LoseLeg { .. }
        | Fault::JumpClock { .. }
        | Fault::AskTakeover { .. }
        | Fault::AskGiveback { .. }
        | Fault::MakeVolume { .. }
        | Fault::DeleteVolume { .. } => {}
    }
}

/// A shelf is started, unless it is lost.
fn start(stage: &Stage, shelf: usize) {
    if stage.lost.get() != Some(shelf) {
        stage.shelves[shelf].start();
    }
}

/// Everything is mended and everybody runs, but for a leg that was lost for good.
pub fn heal(stage: &Rc<Stage>) {
    stage.log(format_args!("healed"));
    stage.net.heal();
    for (number, shelf) in stage.shelves.iter().enumerate() {
        shelf.medium.heal();
        shelf.go_on();
        shelf.allow_tasks(u32::MAX);
        start(stage, number);
    }
    for name in NodeName::BOTH {
        stage.memory.set_trouble(name, Trouble::default());
    }
    for node in &stage.nodes {
        node.process().go_on();
        node.start();
    }
}
