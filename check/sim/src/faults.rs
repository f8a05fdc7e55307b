//! Faults carried out, and taken back when their time is over.

use std::rc::Rc;
use std::time::Duration;

use tokio::task::spawn_local;
use tokio::time::sleep;
use understudy::admin::{Request, SoftVetoes, TakeoverKind};
use understudy::config::NodeName;
use understudy_failover::words::{LegIndex, LegSet};
use understudy_layout::label::PoolAreas;
use understudy_layout::lock::LockPlaces;
use understudy_layout::{DiskShape, PAGE_BYTES};

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

/// Faults after which data may rightly be lost prove nothing.
fn is_fair(stage: &Stage, fault: Fault) -> bool {
    match fault {
        // A cache that is lost costs what clients did not ask to have on the medium: with the other leg's copy gone too, rightly. So the
        // second leg only, and only while the first is recorded good.
        Fault::PowerShelf { shelf } if shelf >= LOCK_DISKS && !stage.plan.durable => {
            let (pool, leg) = ((shelf - LOCK_DISKS) / LEGS, (shelf - LOCK_DISKS) % LEGS);
            leg == 1 && stage.good_legs(pool).is_some_and(|good: LegSet| good.contains(LegIndex(0)))
        }
        // One lock disk at a time may lose its mind: the records are kept on a majority.
        Fault::CorruptRecord { shelf, .. } | Fault::MisdirectRecord { shelf, .. } => {
            shelf as u64 == stage.plan.seed % 3
        }
        // One leg's metadata at a time, for the same reason.
        Fault::UnreadableMetadata { shelf, .. } => shelf % LEGS == (stage.plan.seed % 2) as usize,
        _always => true,
    }
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
        Fault::CutPath { node, shelf, out, back } => {
            if out {
                stage.net.cut(Host::Node(node), Host::Shelf(shelf));
            }
            if back {
                stage.net.cut(Host::Shelf(shelf), Host::Node(node));
            }
        }
        Fault::CutAllPaths { node } => (0..stage.shelves.len()).for_each(|shelf| {
            stage.net.cut(Host::Node(node), Host::Shelf(shelf));
            stage.net.cut(Host::Shelf(shelf), Host::Node(node));
        }),
        Fault::SlowPath { node, shelf, millis } => {
            stage.net.slow(Host::Node(node), Host::Shelf(shelf), millis);
            stage.net.slow(Host::Shelf(shelf), Host::Node(node), millis / 3);
        }
        Fault::SlowDisk { shelf, millis } => {
            stage.shelves[shelf].medium.set_temper(Temper { slow_ms: millis, ..Temper::GOOD });
        }
        Fault::BadDisk { shelf, reads, writes } => {
            stage.shelves[shelf].medium.set_temper(Temper { slow_ms: 0, bad_reads: reads, bad_writes: writes });
        }
        Fault::KillShelf { shelf } => stage.shelves[shelf].end(End::Killed),
        Fault::PowerShelf { shelf } => stage.shelves[shelf].end(End::PowerLost),
        Fault::StopShelf { shelf } => stage.shelves[shelf].stop(),
        Fault::DropSessions { shelf } => stage.shelves[shelf].drop_sessions(),
        Fault::CorruptRecord { shelf, node } => corrupt_record(stage, shelf, node),
        Fault::MisdirectRecord { shelf, node } => misdirect_record(stage, shelf, node),
        Fault::UnreadableMetadata { shelf, place } => hide_metadata(stage, shelf, place),
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

fn corrupt_record(stage: &Stage, shelf: usize, node: usize) {
    let Some(places) = LockPlaces::new(stage.lock_shape()) else { return };
    let area = places.node_area(node as u8);
    let lba = area.lba + stage.chance.below(u64::from(area.blocks));
    stage.shelves[shelf].medium.corrupt(lba);
}

fn misdirect_record(stage: &Stage, shelf: usize, node: usize) {
    let Some(places) = LockPlaces::new(stage.lock_shape()) else { return };
    let area = places.node_area(node as u8);
    let by = stage.chance.between(1, u64::from(area.blocks));
    stage.shelves[shelf].medium.misdirect_next((area.lba, u64::from(area.blocks)), by);
}

fn hide_metadata(stage: &Stage, shelf: usize, place: u64) {
    let shape = DiskShape {
        block_bytes: stage.plan.pool_block_bytes,
        blocks: (64 << 20) / u64::from(stage.plan.pool_block_bytes),
    };
    let Some(areas) = PoolAreas::for_disk(shape) else { return };
    let offset = areas.slot_offset((place % 2) as u8) + (place >> 8) % 4 * PAGE_BYTES as u64;
    stage.shelves[shelf].medium.make_unreadable(offset / u64::from(shape.block_bytes));
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
            (node, Request::VolumeCreate { pool, name, bytes: 1 << 20 })
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
        Fault::KillShelf { shelf } | Fault::PowerShelf { shelf } => stage.shelves[shelf].start(),
        Fault::StopShelf { shelf } => stage.shelves[shelf].go_on(),
        Fault::CutClient { client } => NODES.iter().for_each(|node| {
            stage.net.mend(Host::Client(client), *node);
            stage.net.mend(*node, Host::Client(client));
        }),
        Fault::DropSessions { .. }
        | Fault::CorruptRecord { .. }
        | Fault::MisdirectRecord { .. }
        | Fault::UnreadableMetadata { .. }
        | Fault::JumpClock { .. }
        | Fault::AskTakeover { .. }
        | Fault::AskGiveback { .. }
        | Fault::MakeVolume { .. }
        | Fault::DeleteVolume { .. } => {}
    }
}

/// Everything is mended and everybody runs.
pub fn heal(stage: &Rc<Stage>) {
    stage.log(format_args!("healed"));
    stage.net.heal();
    for shelf in &stage.shelves {
        shelf.medium.heal();
        shelf.go_on();
        shelf.start();
    }
    for name in NodeName::BOTH {
        stage.memory.set_trouble(name, Trouble::default());
    }
    for node in &stage.nodes {
        node.process().go_on();
        node.start();
    }
}
