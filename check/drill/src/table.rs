//! The table of drills: every cell played, two at a time, judged, and told as JSON and as a page of documentation.

mod explained;
mod page;

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use serde::{Deserialize, Serialize};
use understudy::config::NodeName;

use crate::cell::{Cell, Played, cells, longest};
use crate::ground::{Ground, Hosting, Wish};
use crate::network::Network;

pub use explained::explanation;
pub use page::page;

/// Two pairs with their clients fill a small machine; on more of them nothing would meet its usual pace.
pub const WORKERS: usize = 2;

/// A pair is replaced by a fresh one after so many cells, so that logs and files stay small.
const CELLS_A_GROUND: usize = 40;

/// How it went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// Everything held.
    Passed,
    /// Nothing was lost and the pair is home, but something was noticed, for the reason given in [`explanation`].
    Explained,
    /// Something did not hold.
    Failed,
    /// It was not played.
    Skipped,
}

/// What came out of a cell.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Outcome {
    /// The cell's name.
    pub cell: String,
    /// Parts of the name: story, role, place.
    pub step: [String; 3],
    /// The fault's name.
    pub fault: String,
    /// Whom it hit; empty if both.
    pub victim: String,
    /// How it went.
    pub verdict: Verdict,
    /// From the first client's start to the last check.
    pub seconds: f64,
    /// The longest pause any client saw.
    pub longest_pause_ms: f64,
    /// How much of it the drill's own network may have added, at the most: how late it led clients to a new listener.
    #[serde(default)]
    pub network_late_ms: f64,
    /// Commands answered with an error.
    pub failed_commands: u64,
    /// Why it was explained, failed or skipped.
    pub reason: String,
    /// Where everything is kept, if it failed.
    pub folder: Option<PathBuf>,
}

/// What to play.
#[derive(Debug, Clone)]
pub struct Order {
    /// The program built for drills.
    pub program: PathBuf,
    /// Where the folders of pairs are made.
    pub parent: PathBuf,
    /// Only cells with one of these in their name, see [`chosen`]; all if there are none.
    pub only: Vec<String>,
    /// How many at a time.
    pub workers: usize,
    /// Where the clients' choices start.
    pub seed: u64,
}

/// The cells an order names: those with one of these texts in their name, beginning where a word of it begins.
///
/// # Errors
/// It names none.
pub fn chosen(only: &[String]) -> anyhow::Result<Vec<Cell>> {
    let named = |cell: &Cell| only.is_empty() || only.iter().any(|part| is_named(&cell.to_string(), part));
    let chosen: Vec<Cell> = cells().into_iter().filter(named).collect();
    ensure!(!chosen.is_empty(), "no cell's name contains {}", only.join(" or "));
    Ok(chosen)
}

/// Whether `part` begins at the begin of a cell's name or of one of its words: `takeover` is not `planned-takeover`.
fn is_named(cell: &str, part: &str) -> bool {
    cell.match_indices(part).any(|(at, _)| at == 0 || cell[..at].ends_with('/'))
}

/// Plays an order; `told` is called with each outcome as it comes. Outcomes are in the order of the table.
///
/// # Errors
/// No cell, or no folder.
pub fn run(order: &Order, told: impl Fn(&Outcome, &str) + Sync) -> anyhow::Result<Vec<Outcome>> {
    std::fs::create_dir_all(&order.parent).with_context(|| format!("cannot make {}", order.parent.display()))?;
    let chosen = chosen(&order.only)?;
    let hosting = hosting();
    let total = chosen.len();
    let queue = Mutex::new(chosen.iter().copied().enumerate().collect::<VecDeque<_>>());
    let outcomes: Mutex<Vec<(usize, Outcome)>> = Mutex::new(Vec::new());
    let over = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..order.workers.min(total) {
            scope.spawn(|| {
                let mut worker = Worker::new(order, hosting);
                // A function, so that the lock is not held while the cell is played.
                let next = || queue.lock().expect("no worker panics with it").pop_front();
                // BOUND: the queue only shrinks.
                while let Some((index, cell)) = next() {
                    let outcome = worker.play(cell, index);
                    let number = over.fetch_add(1, Ordering::Relaxed) + 1;
                    told(&outcome, &format!("{number} of {total}"));
                    outcomes.lock().expect("no worker panics with it").push((index, outcome));
                }
            });
        }
    });
    let mut outcomes = outcomes.into_inner().expect("no worker panicked with it");
    outcomes.sort_by_key(|(index, _)| *index);
    Ok(outcomes.into_iter().map(|(_, outcome)| outcome).collect())
}

/// Whether cables can be cut here; says in one line if not.
#[must_use]
pub fn hosting() -> Hosting {
    match Network::make() {
        Ok(_) => Hosting::Apart,
        Err(error) => {
            eprintln!("SKIPPED: cells that cut cables: {error:#}");
            Hosting::Here
        }
    }
}

/// Plays one cell after the other on ground that is made when there is none.
struct Worker<'a> {
    order: &'a Order,
    hosting: Hosting,
    ground: Option<(Ground, usize)>,
}

impl<'a> Worker<'a> {
    fn new(order: &'a Order, hosting: Hosting) -> Self {
        Self { order, hosting, ground: None }
    }

    fn play(&mut self, cell: Cell, index: usize) -> Outcome {
        if cell.fault.needs_network() && self.hosting == Hosting::Here {
            return outcome(cell, Verdict::Skipped, "needs network namespaces".to_owned());
        }
        let began = Instant::now();
        let played = self.try_play(cell, index);
        match played {
            Ok(played) => judged(cell, &played),
            Err(error) => {
                let folder = self.ground.take().map(|(ground, _)| ground.give_up());
                Outcome {
                    seconds: began.elapsed().as_secs_f64(),
                    folder,
                    ..outcome(cell, Verdict::Failed, format!("{error:#}"))
                }
            }
        }
    }

    fn try_play(&mut self, cell: Cell, index: usize) -> anyhow::Result<Played> {
        if self.ground.as_ref().is_some_and(|(_, played)| *played >= CELLS_A_GROUND) {
            self.ground = None;
        }
        if self.ground.is_none() {
            let wish = Wish {
                program: self.order.program.clone(),
                parent: self.order.parent.clone(),
                volumes: 1,
                hosting: self.hosting,
            };
            self.ground = Some((Ground::make(&wish)?, 0));
        }
        let (ground, played) = self.ground.as_mut().context("there is ground")?;
        *played += 1;
        // Each node is home in half of the cells: one of them is preferred when both contest.
        let home = if index.is_multiple_of(2) { NodeName::A } else { NodeName::B };
        let played = cell.play(ground, home, self.order.seed + index as u64)?;
        if !played.dropped.is_empty() {
            self.ground = None;
        }
        Ok(played)
    }
}

fn judged(cell: Cell, played: &Played) -> Outcome {
    let noticed = noticed(played);
    let (verdict, reason) = match explanation(cell) {
        _ if noticed.is_empty() => (Verdict::Passed, String::new()),
        Some(why) => (Verdict::Explained, format!("{noticed}: {why}")),
        None => (Verdict::Failed, noticed),
    };
    Outcome {
        seconds: played.took.as_secs_f64(),
        longest_pause_ms: millis(longest(&played.pauses)),
        network_late_ms: millis(played.network_late),
        failed_commands: played.failed_commands,
        ..outcome(cell, verdict, reason)
    }
}

/// What was not as on an ordinary day, though nothing was lost and the pair is home; empty if there is nothing.
fn noticed(played: &Played) -> String {
    let mut noticed = Vec::new();
    if played.failed_commands > 0 {
        let last = played.last_failure.clone().unwrap_or_default();
        noticed.push(format!("{} commands failed, the last: {last}", played.failed_commands));
    }
    if !played.dropped.is_empty() {
        noticed.push(format!("dropped: {}", played.dropped.join(", ")));
    }
    noticed.join("; ")
}

fn outcome(cell: Cell, verdict: Verdict, reason: String) -> Outcome {
    let step = cell.step;
    Outcome {
        cell: cell.to_string(),
        step: [step.story.name(), step.role.name(), step.place].map(str::to_owned),
        fault: cell.fault.name().to_owned(),
        victim: match cell.fault.hits() {
            crate::fault::Hits::ANode => cell.victim.name().to_owned(),
            crate::fault::Hits::ThePair => String::new(),
        },
        verdict,
        seconds: 0.0,
        longest_pause_ms: 0.0,
        network_late_ms: 0.0,
        failed_commands: 0,
        reason,
        folder: None,
    }
}

/// Milliseconds with a fraction.
#[must_use]
pub fn millis(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e5).round() / 100.0
}

/// A run of the table, as it is kept.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Run {
    /// How long it took.
    pub seconds: f64,
    /// What came out, in the order of the table.
    pub cells: Vec<Outcome>,
}

impl Run {
    /// Writes it as JSON.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write(&self, file: &Path) -> anyhow::Result<()> {
        let text = serde_json::to_string_pretty(self)? + "\n";
        std::fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))
    }

    /// Runs kept in files as one: of a cell played again the last outcome counts. Cells that are not in the table any more are left
    /// out.
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn read(files: &[PathBuf]) -> anyhow::Result<Self> {
        let mut seconds = 0.0;
        let mut newest = BTreeMap::new();
        for file in files {
            let text = std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
            let run: Self = serde_json::from_slice(&text).with_context(|| format!("{} is no run", file.display()))?;
            seconds += run.seconds;
            newest.extend(run.cells.into_iter().map(|outcome| (outcome.cell.clone(), outcome)));
        }
        let cells = cells().iter().filter_map(|cell| newest.remove(&cell.to_string())).collect();
        Ok(Self { seconds, cells })
    }

    /// How many cells ended so.
    #[must_use]
    pub fn count(&self, verdict: Verdict) -> usize {
        self.cells.iter().filter(|outcome| outcome.verdict == verdict).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_cell_played_twice_the_last_outcome_counts() {
        let folder = tempfile::tempdir().expect("a folder");
        let cell = cells()[0];
        let files: Vec<PathBuf> = [Verdict::Failed, Verdict::Passed]
            .into_iter()
            .zip(["first", "second"])
            .map(|(verdict, name)| {
                let file = folder.path().join(name);
                let run = Run { seconds: 1.5, cells: vec![outcome(cell, verdict, String::new())] };
                run.write(&file).expect("written");
                file
            })
            .collect();
        let both = Run::read(&files).expect("read");
        assert_eq!((both.seconds, both.count(Verdict::Passed), both.count(Verdict::Failed)), (3.0, 1, 0));
    }

    #[test]
    fn a_part_of_a_name_begins_where_a_word_begins() {
        assert!(is_named("takeover/survivor/fenced/killed/survivor", "takeover/survivor/fenced"));
        assert!(is_named("giveback/survivor/held/disk-slow", "disk-slow"));
        assert!(!is_named("planned-takeover/survivor/fenced/killed/home", "takeover/survivor/fenced"));
    }

    #[test]
    fn nobody_chooses_a_cell_that_does_not_exist() {
        assert!(chosen(&["no-such-cell".to_owned()]).is_err());
    }
}
