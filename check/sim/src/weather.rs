//! Kinds of faults, and what chance makes of each.

use crate::chance::Chance;
use crate::plan::{Fault, LEGS, LOCK_DISKS, VOLUMES};

/// A kind of fault: what a run has often or not at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A node's process is killed.
    Kill,
    /// A node loses power.
    NodePower,
    /// Both processes are killed.
    KillBoth,
    /// A node stands still for a while.
    Stop,
    /// A node is halted in order.
    Halt,
    /// Reads of the partner's page are lost.
    CutReads,
    /// They are late.
    SlowReads,
    /// They are torn.
    TearReads,
    /// The end of the partner's connection is reported too often.
    RepeatNews,
    /// A node and a shelf do not hear one another, or not in one direction.
    CutPath,
    /// A shelf hears a node that does not hear it: commands arrive, answers do not, or the other way about.
    CutOneWay,
    /// A node is cut off from every shelf.
    CutAll,
    /// A path is slow.
    SlowPath,
    /// A shelf's answers come twice.
    RepeatAnswers,
    /// A disk is slow.
    SlowDisk,
    /// A disk fails reads and writes.
    BadDisk,
    /// A shelf is full or busy.
    Crowd,
    /// A shelf's process is killed.
    KillShelf,
    /// A shelf loses power.
    ShelfPower,
    /// A shelf stands still for a while.
    StopShelf,
    /// A shelf drops its sessions.
    DropSessions,
    /// What is on lock disks and in pool metadata is damaged.
    Damage,
    /// A leg is lost for good.
    LoseLeg,
    /// The wall clock jumps.
    WallClock,
    /// A client is cut off.
    CutClient,
    /// Operators ask for takeovers and givebacks.
    Operators,
    /// Operators make and delete volumes.
    Volumes,
    /// A leg is gone for long while a claim is going on, and comes back.
    LegAwayInClaim,
    /// The way of forwarded commands is cut, in both directions or in one.
    CutForward,
    /// Connections for forwarded commands break off.
    DropForward,
    /// The way of forwarded commands is slow.
    SlowForward,
}

impl Kind {
    /// Every one.
    pub const ALL: [Self; 31] = [
        Self::Kill,
        Self::NodePower,
        Self::KillBoth,
        Self::Stop,
        Self::Halt,
        Self::CutReads,
        Self::SlowReads,
        Self::TearReads,
        Self::RepeatNews,
        Self::CutPath,
        Self::CutOneWay,
        Self::CutAll,
        Self::SlowPath,
        Self::RepeatAnswers,
        Self::SlowDisk,
        Self::BadDisk,
        Self::Crowd,
        Self::KillShelf,
        Self::ShelfPower,
        Self::StopShelf,
        Self::DropSessions,
        Self::Damage,
        Self::LoseLeg,
        Self::WallClock,
        Self::CutClient,
        Self::Operators,
        Self::Volumes,
        Self::LegAwayInClaim,
        Self::CutForward,
        Self::DropForward,
        Self::SlowForward,
    ];

    /// A fault of this kind.
    #[must_use]
    pub fn draw(self, chance: &Chance) -> Fault {
        let node = chance.below(2) as usize;
        let shelf = chance.below((LOCK_DISKS + LEGS * 2) as u64) as usize;
        match self {
            Self::Kill => Fault::KillNode { node, power: false },
            Self::NodePower => Fault::KillNode { node, power: true },
            Self::KillBoth => Fault::KillBoth,
            Self::Stop => Fault::StopNode { node },
            Self::Halt => Fault::HaltNode { node },
            Self::CutReads => Fault::CutReads { node: chance.below(3) as usize },
            Self::SlowReads => Fault::SlowReads { node, millis: chance.between(5, 400) },
            Self::TearReads => Fault::TearReads { node },
            Self::RepeatNews => Fault::RepeatNews { node },
            Self::CutPath => Fault::CutPath { node, shelf, out: chance.one_in(2), back: true },
            Self::CutOneWay => Fault::CutPath { node, shelf, out: true, back: false },
            Self::CutAll => Fault::CutAllPaths { node },
            Self::SlowPath => Fault::SlowPath { node, shelf, millis: chance.between(5, 1_500) },
            Self::RepeatAnswers => Fault::RepeatAnswers { node, shelf, one_in: chance.between(2, 40) },
            Self::SlowDisk => Fault::SlowDisk { shelf, millis: chance.between(5, 1_500) },
            Self::BadDisk => Fault::BadDisk { shelf, reads: chance.below(30), writes: chance.below(30) },
            Self::Crowd => Fault::CrowdShelf { shelf, most: chance.below(4) as u32 },
            Self::KillShelf => Fault::KillShelf { shelf },
            Self::ShelfPower => Fault::PowerShelf { shelf },
            Self::StopShelf => Fault::StopShelf { shelf },
            Self::DropSessions => Fault::DropSessions { shelf },
            Self::Damage => damage(chance, node),
            Self::LoseLeg => Fault::LoseLeg { shelf: LOCK_DISKS + chance.below(2 * LEGS as u64) as usize },
            Self::WallClock => Fault::JumpClock { seconds: chance.between(0, 200_000) as i64 - 100_000 },
            Self::CutClient => Fault::CutClient { client: chance.below(VOLUMES.len() as u64) as usize },
            Self::Operators if chance.one_in(3) => Fault::AskTakeover { node },
            Self::Operators => Fault::AskGiveback { node, overridden: chance.one_in(2) },
            Self::Volumes if chance.one_in(2) => Fault::MakeVolume { node, number: chance.below(8) },
            Self::Volumes => Fault::DeleteVolume { node, number: chance.below(8) },
            Self::LegAwayInClaim => Fault::LegAwayInClaim {
                shelf: LOCK_DISKS + chance.below(2 * LEGS as u64) as usize,
                power: chance.one_in(2),
                node: chance.below(3) as usize,
                after_ms: chance.below(1_500),
                back_ms: chance.between(10, 12_000),
            },
            Self::CutForward => {
                let one_way = chance.one_in(2);
                Fault::CutForward { node, out: true, back: !one_way }
            }
            Self::DropForward => Fault::DropForward,
            Self::SlowForward => Fault::SlowForward { node, millis: chance.between(5, 1_500) },
        }
    }
}

fn damage(chance: &Chance, node: usize) -> Fault {
    let lock = chance.below(LOCK_DISKS as u64) as usize;
    let pool_disk = LOCK_DISKS + chance.below(2 * LEGS as u64) as usize;
    match chance.below(5) {
        0 => Fault::CorruptRecord { shelf: lock, node },
        1 => Fault::MisdirectRecord { shelf: lock, node },
        2 => Fault::UnreadableMetadata { shelf: pool_disk, place: chance.draw() },
        3 => Fault::CorruptMetadata { shelf: pool_disk, place: chance.draw() },
        _else => Fault::MisdirectMetadata { shelf: pool_disk, by: chance.between(1, 64) },
    }
}
