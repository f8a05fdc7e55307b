//! Endurance: random drills of the table, and undisturbed takeovers and givebacks between them, on one pair for a long time.
//!
//! The same seed draws the same drills. Clients on several volumes write and verify all the time; every few drills they are ended,
//! everything they were acknowledged is read back, the legs of all mirrors are compared, and new ones go on. The first thing that
//! does not hold ends it, with everything kept.

mod picture;
mod tally;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use understudy::config::NodeName;

use crate::cell::{Cell, cells, longest};
use crate::ground::{Ground, Hosting, Wish};
use crate::step::Story;
use crate::table::explanation;

pub use picture::picture;
pub use tally::{Kind, Report, Tally};

/// Drills between two times that everything is read back.
const DRILLS_A_ROUND: u64 = 10;

/// Of ten drills, so many are undisturbed: their pauses are those of the pair, the others' mostly those of the fault.
const UNDISTURBED_OF_TEN: u64 = 4;

/// Between two lines that tell how it goes.
const LINE_EVERY: Duration = Duration::from_secs(60);

/// What to do.
#[derive(Debug, Clone)]
pub struct Order {
    /// The program built for drills.
    pub program: PathBuf,
    /// Where the folders of pairs are made.
    pub parent: PathBuf,
    /// How long no new drill is begun after.
    pub length: Duration,
    /// What the drills are drawn with.
    pub seed: u64,
    /// Volumes, each with a client, in the pool of each node.
    pub volumes: usize,
    /// Which hosts.
    pub hosting: Hosting,
}

/// One drill as it was drawn.
#[derive(Debug, Clone, Copy)]
enum Drill {
    Undisturbed(Story),
    Disturbed(Cell),
}

/// Draws numbers, always the same ones from the same seed (splitmix64).
struct Draws(u64);

impl Draws {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }

    fn drill(&mut self, cells: &[Cell]) -> Drill {
        if self.below(10) < UNDISTURBED_OF_TEN {
            return Drill::Undisturbed(if self.below(2) == 0 { Story::Takeover } else { Story::PlannedTakeover });
        }
        Drill::Disturbed(cells[self.below(cells.len() as u64) as usize])
    }

    fn node(&mut self) -> NodeName {
        NodeName::BOTH[self.below(2) as usize]
    }
}

/// Runs it; `told` gets a line every minute. The report says what was found, also if that ended it.
///
/// # Errors
/// It could not be begun.
pub fn run(order: &Order, told: impl Fn(&str)) -> anyhow::Result<Report> {
    std::fs::create_dir_all(&order.parent).with_context(|| format!("cannot make {}", order.parent.display()))?;
    let drawn_from = drawn_from(order.hosting);
    let mut draws = Draws(order.seed);
    let mut tally = Tally::new(order.seed);
    let mut said = Instant::now();
    let mut ground = make(order)?;
    let rounds = play_rounds(order, &mut ground, &drawn_from, &mut draws, &mut tally, &mut |tally| {
        if said.elapsed() >= LINE_EVERY {
            said = Instant::now();
            told(&tally.line());
        }
    });
    if let Err(error) = rounds {
        let folder = ground.give_up();
        return Ok(tally.report(Some(format!("{error:#}\neverything is in {}", folder.display()))));
    }
    told(&tally.line());
    Ok(tally.report(None))
}

/// Without cells that leave a mark ([`explanation`]): one pair shall last all the time.
fn drawn_from(hosting: Hosting) -> Vec<Cell> {
    let possible = |cell: &Cell| hosting == Hosting::Apart || !cell.fault.needs_network();
    cells().into_iter().filter(|cell| possible(cell) && explanation(*cell).is_none()).collect()
}

fn make(order: &Order) -> anyhow::Result<Ground> {
    Ground::make(&Wish {
        program: order.program.clone(),
        parent: order.parent.clone(),
        volumes: order.volumes,
        hosting: order.hosting,
    })
}

/// Rounds until the time is over.
fn play_rounds(
    order: &Order,
    ground: &mut Ground,
    cells: &[Cell],
    draws: &mut Draws,
    tally: &mut Tally,
    after_each: &mut dyn FnMut(&Tally),
) -> anyhow::Result<()> {
    // BOUND: until the time is over.
    while tally.elapsed() < order.length {
        ground.start_clients(order.seed.wrapping_add(tally.drills()))?;
        for _ in 0..DRILLS_A_ROUND {
            let (drill, home) = (draws.drill(cells), draws.node());
            let name = match drill {
                Drill::Undisturbed(story) => format!("{} undisturbed", story.name()),
                Drill::Disturbed(cell) => cell.to_string(),
            };
            ground.stage.tell(&format!("== drill {}: {name}, home is {home}", tally.drills() + 1));
            play(ground, drill, home, tally)
                .with_context(|| format!("drill {} ({name}, home is {home})", tally.drills() + 1))?;
            tally.drill_over(&ground.stage.steps);
            ground.stage.steps.clear();
            after_each(tally);
            let dropped = ground.dropped_legs()?;
            ensure!(
                dropped.is_empty(),
                "drill {} ({name}, home is {home}) dropped {}",
                tally.drills(),
                dropped.join(", ")
            );
            if tally.elapsed() >= order.length {
                break;
            }
        }
        let verdicts = ground.judge()?;
        tally.verified(&verdicts);
    }
    Ok(())
}

fn play(ground: &mut Ground, drill: Drill, home: NodeName, tally: &mut Tally) -> anyhow::Result<()> {
    let failed =
        |ground: &Ground| -> u64 { ground.stage.progress().iter().map(|(_, progress)| progress.failed_commands).sum() };
    let failed_before = failed(ground);
    match drill {
        Drill::Undisturbed(story) => {
            let [taken, given] = story.play_undisturbed(ground, home, |_| Ok(()))?;
            let kinds = match story {
                Story::Takeover | Story::BringUp => [Kind::Takeover, Kind::BringUp],
                Story::PlannedTakeover | Story::Giveback => [Kind::PlannedTakeover, Kind::Giveback],
            };
            tally.pause(kinds[0], taken);
            tally.pause(kinds[1], given);
        }
        Drill::Disturbed(cell) => {
            let marks = ground.stage.mark();
            cell.disturb(ground, home)?;
            ground.wait_until_sound()?;
            tally.pause(Kind::Disturbed(cell.fault), longest(&ground.stage.pauses(&marks)));
        }
    }
    let violations: u64 = ground.stage.progress().iter().map(|(_, progress)| progress.violations).sum();
    if violations > 0 {
        bail!("{violations} blocks do not show what was acknowledged\n{}", ground.stage.situation());
    }
    let more = failed(ground) - failed_before;
    if more > 0 {
        bail!("{more} commands failed\n{}", ground.stage.situation());
    }
    Ok(())
}
