//! What can happen to a pair: the second column of the table of drills, and how each fault is begun and ended.

use std::time::Duration;

use anyhow::{Context, bail};
use understudy::admin::{Request, SoftVetoes, TakeoverKind};
use understudy::config::NodeName;
use understudy::harness::{Pair, Signal};

use crate::ground::{Ground, Manner};
use crate::network::{Cable, Network};
use crate::step::{Role, Story};

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fault {
    /// Nothing: the story as it should be.
    Nothing,
    /// SIGKILL; started again once its partner serves everything.
    Killed,
    /// SIGSTOP for one second.
    StoppedShort,
    /// SIGSTOP for longer than every timeout.
    StoppedLong,
    /// The interconnect is cut, both ways.
    InterconnectCut,
    /// What the node sends over the interconnect is lost; what its partner sends arrives.
    InterconnectMuted,
    /// The node reaches no disk any more.
    DiskPathCut,
    /// SIGSTOP of the shelf for longer than a disk command may take.
    ShelfStopped,
    /// SIGKILL of the shelf, and a new one after a second.
    ShelfKilled,
    /// One leg of each pool and one lock disk answer a hundred times as slowly.
    DiskSlow,
    /// One leg of each pool and one lock disk answer everything that touches a block with an error.
    DiskFailing,
    /// An operator asks for the opposite of what is going on.
    OppositeAsked,
    /// SIGKILL, and a start with a file from before the partner's pool was made; then with the right one.
    OldConfiguration,
}

/// Whom a fault can hit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hits {
    /// Either node.
    ANode,
    /// What both share.
    ThePair,
}

/// Longer than every timeout of the example file: a booting node waits 3 s, a hand-off is called off after 2 s, and so is a command.
const LONGER_THAN_EVERY_TIMEOUT: Duration = Duration::from_secs(4);

/// A second of SIGSTOP is in the issue of any cluster's support desk: a paused virtual machine, a host short of memory.
const SHORT_STOP: Duration = Duration::from_secs(1);

/// Longer than the deadline of a disk command, 2 s.
const WITHOUT_DISKS: Duration = Duration::from_secs(3);

/// Long enough for several heartbeats, commits and resyncs to meet it.
const DISK_TROUBLE: Duration = Duration::from_secs(2);

/// How long a shelf takes to be started again.
const SHELF_AWAY: Duration = Duration::from_secs(1);

/// A hundred times what a disk of the shelf takes on this kind of machine, about 0.2 ms.
const SLOW: &str = "delay 20";

/// The disks that are slow or fail: one lock disk, and the first leg of each node's pool.
const TROUBLED: [&str; 3] = ["l0", "d0", "d2"];

impl Fault {
    /// All of them.
    pub const ALL: [Self; 13] = [
        Self::Nothing,
        Self::Killed,
        Self::StoppedShort,
        Self::StoppedLong,
        Self::InterconnectCut,
        Self::InterconnectMuted,
        Self::DiskPathCut,
        Self::ShelfStopped,
        Self::ShelfKilled,
        Self::DiskSlow,
        Self::DiskFailing,
        Self::OppositeAsked,
        Self::OldConfiguration,
    ];

    /// Its name in the table.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Nothing => "nothing",
            Self::Killed => "killed",
            Self::StoppedShort => "stopped-1s",
            Self::StoppedLong => "stopped-long",
            Self::InterconnectCut => "interconnect-cut",
            Self::InterconnectMuted => "interconnect-muted",
            Self::DiskPathCut => "disk-path-cut",
            Self::ShelfStopped => "shelf-stopped",
            Self::ShelfKilled => "shelf-killed",
            Self::DiskSlow => "disk-slow",
            Self::DiskFailing => "disk-failing",
            Self::OppositeAsked => "opposite-asked",
            Self::OldConfiguration => "old-configuration",
        }
    }

    /// Whom it hits.
    #[must_use]
    pub fn hits(self) -> Hits {
        match self {
            Self::Killed
            | Self::StoppedShort
            | Self::StoppedLong
            | Self::InterconnectMuted
            | Self::DiskPathCut
            | Self::OldConfiguration => Hits::ANode,
            Self::Nothing
            | Self::InterconnectCut
            | Self::ShelfStopped
            | Self::ShelfKilled
            | Self::DiskSlow
            | Self::DiskFailing
            | Self::OppositeAsked => Hits::ThePair,
        }
    }

    /// Whether it needs cables that can be cut.
    #[must_use]
    pub fn needs_network(self) -> bool {
        matches!(self, Self::InterconnectCut | Self::InterconnectMuted | Self::DiskPathCut)
    }

    /// Begins the fault, at `victim` where it hits a node.
    ///
    /// # Errors
    /// It cannot be done: that is the drill's failure, not the pair's.
    pub(crate) fn begin(
        self,
        ground: &mut Ground,
        story: Story,
        home: NodeName,
        victim: NodeName,
    ) -> anyhow::Result<()> {
        let pair = &mut ground.stage.pair;
        match self {
            Self::Nothing => Ok(()),
            Self::Killed => pair.kill(victim),
            Self::StoppedShort | Self::StoppedLong => pair.signal(victim, Signal::STOP),
            Self::InterconnectCut => cables(ground)?.cut(Cable::Interconnect),
            Self::InterconnectMuted => cables(ground)?.mute(victim),
            Self::DiskPathCut => cables(ground)?.cut(Cable::DiskPath(victim)),
            Self::ShelfStopped => pair.signal_shelf(Signal::STOP),
            Self::ShelfKilled => pair.kill_shelf(),
            Self::DiskSlow => trouble(pair, Some(SLOW)),
            Self::DiskFailing => trouble(pair, Some("error")),
            Self::OppositeAsked => {
                ground.ask_aside(Role::Survivor.played(home), opposite(story), Manner::Once);
                Ok(())
            }
            Self::OldConfiguration => {
                let file = old_configuration(pair, victim)?;
                pair.kill(victim)?;
                pair.start_with(victim, &file)
            }
        }
    }

    /// Lets it last as long as it does.
    ///
    /// # Errors
    /// The partner of a node that is dead does not serve everything.
    pub(crate) fn last(self, ground: &mut Ground, victim: NodeName) -> anyhow::Result<()> {
        let partner = victim.partner();
        match self {
            Self::Nothing | Self::OppositeAsked => Ok(()),
            Self::Killed => wait_until_alone(ground, partner),
            Self::StoppedLong => {
                ground.stage.let_pass(LONGER_THAN_EVERY_TIMEOUT);
                wait_until_alone(ground, partner)
            }
            Self::StoppedShort => pass(ground, SHORT_STOP),
            Self::InterconnectCut | Self::InterconnectMuted | Self::OldConfiguration => {
                pass(ground, LONGER_THAN_EVERY_TIMEOUT)
            }
            Self::DiskPathCut | Self::ShelfStopped => pass(ground, WITHOUT_DISKS),
            Self::ShelfKilled => pass(ground, SHELF_AWAY),
            Self::DiskSlow | Self::DiskFailing => pass(ground, DISK_TROUBLE),
        }
    }

    /// Ends it.
    ///
    /// # Errors
    /// It cannot be ended.
    pub(crate) fn end(self, ground: &mut Ground, victim: NodeName) -> anyhow::Result<()> {
        let pair = &mut ground.stage.pair;
        match self {
            Self::Nothing | Self::OppositeAsked => Ok(()),
            Self::Killed => pair.start(victim),
            Self::StoppedShort | Self::StoppedLong => pair.signal(victim, Signal::CONT),
            Self::InterconnectCut | Self::InterconnectMuted | Self::DiskPathCut => cables(ground)?.mend(),
            Self::ShelfStopped => pair.signal_shelf(Signal::CONT),
            Self::ShelfKilled => pair.start_shelf(),
            Self::DiskSlow | Self::DiskFailing => trouble(pair, None),
            Self::OldConfiguration => {
                pair.kill(victim)?;
                pair.start(victim)
            }
        }
    }
}

fn pass(ground: &mut Ground, time: Duration) -> anyhow::Result<()> {
    ground.stage.let_pass(time);
    Ok(())
}

/// A partner that is dead too (its own pools were being taken over) cannot serve: then both are started again.
fn wait_until_alone(ground: &mut Ground, node: NodeName) -> anyhow::Result<()> {
    match ground.stage.pair.runs(node) {
        true => ground.stage.wait_until_alone(node),
        false => Ok(()),
    }
}

fn cables(ground: &Ground) -> anyhow::Result<&Network> {
    ground.network.as_ref().context("there are no cables to cut")
}

/// Tells the troubled disks what is wrong with them.
fn trouble(pair: &Pair, what: Option<&str>) -> anyhow::Result<()> {
    TROUBLED.into_iter().try_for_each(|disk| trouble_disk(pair, disk, what))
}

/// Tells a disk of the shelf what is wrong with it (`error`, `delay` and milliseconds), or that nothing is any more.
///
/// # Errors
/// The shelf's folder cannot be written to.
pub fn trouble_disk(pair: &Pair, disk: &str, what: Option<&str>) -> anyhow::Result<()> {
    let file = pair.folder().join("shelf").join(format!("{disk}.drill"));
    match what {
        // Renamed into place, so that the shelf never reads half of it.
        Some(what) => {
            let fresh = file.with_extension("drill.new");
            std::fs::write(&fresh, what)?;
            std::fs::rename(&fresh, &file)?;
        }
        None => std::fs::remove_file(&file)?,
    }
    Ok(())
}

fn opposite(story: Story) -> Request {
    match story {
        Story::Takeover | Story::PlannedTakeover => Request::Giveback { soft_vetoes: SoftVetoes::Override },
        Story::BringUp | Story::Giveback => Request::Takeover { kind: TakeoverKind::Planned },
    }
}

/// The pair's file without the pool of the partner and its disks.
fn old_configuration(pair: &Pair, victim: NodeName) -> anyhow::Result<std::path::PathBuf> {
    let text = std::fs::read_to_string(&pair.config().file)?;
    let mut old = toml_tables(&text);
    let before = old.len();
    let partner = victim.partner();
    let gone: Vec<String> = pair
        .config()
        .pools_of(partner)
        .flat_map(|pool| pool.mirrors.iter().flatten())
        .map(|index| format!("name = \"{}\"", pair.config().disks[*index].name))
        .collect();
    let home = format!("home = \"{partner}\"");
    old.retain(|table| {
        let of_partner = table.starts_with("[[pool]]") && table.contains(&home);
        let its_disk = table.starts_with("[[disk]]") && gone.iter().any(|name| table.contains(name.as_str()));
        !of_partner && !its_disk
    });
    if old.len() == before {
        bail!("the pair's file has no pool of {partner}");
    }
    let file = pair.folder().join("pair-old.toml");
    std::fs::write(&file, old.concat())?;
    Ok(file)
}

/// A file cut in front of each table.
fn toml_tables(text: &str) -> Vec<String> {
    let mut tables = vec![String::new()];
    for line in text.lines() {
        if line.starts_with('[') {
            tables.push(String::new());
        }
        // PANIC: there is one from the beginning.
        let table = tables.last_mut().expect("a table");
        table.push_str(line);
        table.push('\n');
    }
    tables
}
