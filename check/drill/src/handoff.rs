//! Moves of pools with nothing else done to the pair, there and back many times: how long clients wait, and where the time goes.
//!
//! Not endurance (`crate::soak`), which looks for what breaks. The one idea: what a client waits is measured by the client, and taken
//! apart by the steps that both nodes wrote into their timelines; the two clocks are one here.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, ensure};
use serde::Serialize;
use understudy::admin::{Earnest, Request, Response, SoftVetoes};
use understudy::config::NodeName;
use understudy::timeline::{OperationKind, TimelineStep, group};

use crate::ground::{Ground, Hosting, Wish};
use crate::stage::{Death, Ways};
use crate::step::Story;
use crate::table::millis;

/// Moves there and back before the clients are ended and everything is read back.
const RUNS_A_ROUND: u32 = 25;

/// How long a node may take over a dry run, which looks at every disk.
const PREDICTED_WITHIN: Duration = Duration::from_secs(20);

/// The steps of a move that was asked for, from the first command that waits to the first that is answered.
const HAND_OFF: &[&str] = &[
    "holding",
    "held",
    "commit-sent",
    "committed",
    "announced",
    "announcement-read",
    "commit-read",
    "fenced",
    "verified",
    "serving",
    "first-answer",
];

/// The steps of a takeover from a node that was killed, from the moment it is given up.
const TAKEOVER: &[&str] =
    &["partner-lost", "contest", "contest-won", "recorded", "fenced", "verified", "serving", "first-answer"];

/// What to do.
#[derive(Debug, Clone)]
pub struct Order {
    /// The program built for drills.
    pub program: PathBuf,
    /// Where the folder of the pair is made.
    pub parent: PathBuf,
    /// Moves there and back.
    pub runs: u32,
    /// What the clients draw their commands with.
    pub seed: u64,
    /// How the pools come to move.
    pub story: Story,
    /// How a node dies in a takeover nobody asked for.
    pub death: Death,
    /// Which ways the clients take.
    pub ways: Ways,
}

/// Pauses of one kind of move, milliseconds.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Pauses {
    /// Of all runs.
    pub median_ms: f64,
    /// The smallest that is not below 99 of 100.
    pub p99_ms: f64,
    /// Of all runs.
    pub worst_ms: f64,
    /// In the order of the runs.
    pub all_ms: Vec<f64>,
}

impl Pauses {
    pub(crate) fn of(all_ms: Vec<f64>) -> Self {
        let [median_ms, p99_ms, worst_ms] = percentiles(&all_ms, [50, 99, 100]);
        Self { median_ms, p99_ms, worst_ms, all_ms }
    }
}

/// What a dry run said before each move of one kind, and what came of it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Forecasts {
    /// The pauses that were predicted.
    pub predicted: Pauses,
    /// By how much the pause was longer than predicted: 1 is just as long.
    pub times_predicted: Spread,
}

/// A number that was found once a run.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Spread {
    /// The smallest that is not below 10 of 100.
    pub tenth: f64,
    /// The same of 50.
    pub median: f64,
    /// The same of 90.
    pub ninetieth: f64,
    /// Of all runs.
    pub largest: f64,
    /// In the order of the runs.
    pub all: Vec<f64>,
}

impl Spread {
    fn of(all: Vec<f64>) -> Self {
        let [tenth, median, ninetieth, largest] = percentiles(&all, [10, 50, 90, 100]);
        Self { tenth, median, ninetieth, largest, all }
    }
}

/// The smallest values that are not below so many of 100; 0 of nothing.
fn percentiles<const N: usize>(all: &[f64], hundredths: [usize; N]) -> [f64; N] {
    let mut sorted = all.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = |hundredths: usize| sorted.get((sorted.len() * hundredths).div_ceil(100).max(1) - 1).copied();
    hundredths.map(|hundredths| at(hundredths).unwrap_or_default())
}

/// What came out; its JSON form has these fields.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Moves there and back.
    pub runs: u32,
    /// The longest pause any client saw, by the kind of move.
    pub pauses: BTreeMap<String, Pauses>,
    /// What dry runs said of the pauses, by the kind of move; of moves that are not asked for there is none.
    pub forecasts: BTreeMap<String, Forecasts>,
    /// By the kind of move, in order: the step, and how long after the one before it, milliseconds.
    pub steps: BTreeMap<String, Vec<(String, Pauses)>>,
    /// Writes that clients were acknowledged.
    pub acknowledged_writes: u64,
    /// Acknowledged writes found missing or replaced.
    pub lost_writes: u64,
    /// Commands answered with an error.
    pub failed_commands: u64,
    /// Commands of unknown outcome that clients were left to issue again.
    pub told_to_repeat: u64,
}

/// Runs it; `told` gets a line whenever everything was read back.
///
/// # Errors
/// The pair does not come up, a move does not go as it should, or a client is not content. Everything is kept then.
pub fn run(order: &Order, told: impl Fn(&str)) -> anyhow::Result<Report> {
    std::fs::create_dir_all(&order.parent).with_context(|| format!("cannot make {}", order.parent.display()))?;
    let wish =
        Wish { program: order.program.clone(), parent: order.parent.clone(), volumes: 1, hosting: Hosting::Here };
    let mut ground = Ground::make(&wish)?;
    (ground.stage.ways, ground.stage.death) = (order.ways, order.death);
    let mut collected = Collected::default();
    match play(order, &mut ground, &mut collected, told) {
        Ok(()) => Ok(collected.report(order)),
        Err(error) => Err(error.context(format!("everything is in {}", ground.give_up().display()))),
    }
}

fn play(order: &Order, ground: &mut Ground, collected: &mut Collected, told: impl Fn(&str)) -> anyhow::Result<()> {
    let mut done = 0;
    // BOUND: at least one run a round.
    while done < order.runs {
        ground.start_clients(order.seed + u64::from(done))?;
        for _ in 0..RUNS_A_ROUND.min(order.runs - done) {
            let home = NodeName::BOTH[(done % 2) as usize];
            done += 1;
            collected.add(there_and_back(ground, order.story, home).with_context(|| format!("run {done}"))?);
            collected.take_apart(order.story, std::mem::take(&mut ground.stage.steps));
        }
        for verdict in ground.judge()? {
            collected.acknowledged_writes += verdict.acknowledged_writes;
            collected.lost_writes += verdict.lost_writes;
            collected.failed_commands += verdict.failed_commands;
            collected.told_to_repeat += verdict.told_to_repeat;
        }
        told(&format!("{done} of {} there and back", order.runs));
    }
    ensure!(collected.failed_commands == 0, "{} commands failed", collected.failed_commands);
    Ok(())
}

/// What clients waited in one move of each kind, milliseconds, and what was predicted of it.
struct Moved {
    kind: &'static str,
    pause_ms: f64,
    predicted_ms: Option<f64>,
}

/// Moves the pools of `home` to its partner and home again, each after a dry run where moves are asked for.
fn there_and_back(ground: &mut Ground, story: Story, home: NodeName) -> anyhow::Result<[Moved; 2]> {
    let survivor = home.partner();
    let is_asked_for = match story {
        Story::PlannedTakeover | Story::Giveback => true,
        Story::Takeover | Story::BringUp => false,
    };
    let predict = |ground: &mut Ground, kind| {
        if is_asked_for { predict(ground, kind, survivor).map(Some) } else { Ok(None) }
    };
    let of_takeover = predict(ground, "takeover")?;
    ground.stage.steps.clear();
    let mut of_giveback = None;
    let [taken, given] = story.play_undisturbed(ground, home, |ground| {
        of_giveback = predict(ground, "giveback")?;
        Ok(())
    })?;
    Ok([
        Moved { kind: "takeover", pause_ms: millis(taken), predicted_ms: of_takeover },
        Moved { kind: "giveback", pause_ms: millis(given), predicted_ms: of_giveback },
    ])
}

/// What a dry run says of the pause of a move that `survivor` would be asked for, in milliseconds.
fn predict(ground: &mut Ground, kind: &'static str, survivor: NodeName) -> anyhow::Result<f64> {
    let takeover =
        Request::TakeoverOf { pools: Vec::new(), soft_vetoes: SoftVetoes::Respect, earnest: Earnest::DryRun };
    let request = if kind == "takeover" { takeover } else { Request::GivebackDryRun };
    let mut predicted_micros = None;
    ground.stage.wait_for(&format!("a {kind} is predicted"), |stage| {
        predicted_micros = match stage.pair.ask(survivor, &request, PREDICTED_WITHIN) {
            Ok(Response::GivebackForecast { predicted_pause_micros, .. })
            | Ok(Response::TakeoverForecast { predicted_pause_micros, .. }) => predicted_pause_micros,
            Ok(_) | Err(_) => None,
        };
        predicted_micros.is_some()
    })?;
    Ok(predicted_micros.unwrap_or_default() as f64 / 1e3)
}

#[derive(Debug, Default)]
struct Collected {
    predicted_ms: BTreeMap<&'static str, Vec<f64>>,
    times_predicted: BTreeMap<&'static str, Vec<f64>>,
    pauses: BTreeMap<&'static str, Vec<f64>>,
    steps: BTreeMap<(&'static str, &'static str), Vec<f64>>,
    acknowledged_writes: u64,
    lost_writes: u64,
    failed_commands: u64,
    told_to_repeat: u64,
}

impl Collected {
    fn add(&mut self, moves: [Moved; 2]) {
        for Moved { kind, pause_ms, predicted_ms } in moves {
            self.pauses.entry(kind).or_default().push(pause_ms);
            if let Some(predicted_ms) = predicted_ms {
                self.predicted_ms.entry(kind).or_default().push(predicted_ms);
                self.times_predicted.entry(kind).or_default().push(pause_ms / predicted_ms);
            }
        }
    }

    /// How long after the one before it each step of both moves came.
    fn take_apart(&mut self, story: Story, steps: Vec<TimelineStep>) {
        for operation in group(steps) {
            let (kind, chain) = match operation.kind {
                OperationKind::Takeover => ("takeover", of_takeover(story)),
                OperationKind::BringUp => ("giveback", HAND_OFF),
                OperationKind::Start => continue,
            };
            for (step, after_ms) in distances(chain, &operation.steps) {
                self.steps.entry((kind, step)).or_default().push(after_ms);
            }
        }
    }

    fn report(self, order: &Order) -> Report {
        let mut steps: BTreeMap<String, Vec<(String, Pauses)>> = BTreeMap::new();
        for (kind, chain) in [("takeover", of_takeover(order.story)), ("giveback", HAND_OFF)] {
            let found = chain.iter().filter_map(|step| Some((*step, self.steps.get(&(kind, *step))?)));
            let rows = found.map(|(step, after)| (step.to_owned(), Pauses::of(after.clone())));
            steps.insert(kind.to_owned(), rows.collect());
        }
        let forecasts = self.predicted_ms.into_iter().zip(self.times_predicted.into_values());
        let forecasts = forecasts.map(|((kind, predicted_ms), times)| {
            (kind.to_owned(), Forecasts { predicted: Pauses::of(predicted_ms), times_predicted: Spread::of(times) })
        });
        Report {
            runs: order.runs,
            forecasts: forecasts.collect(),
            pauses: self.pauses.into_iter().map(|(kind, all)| (kind.to_owned(), Pauses::of(all))).collect(),
            steps,
            acknowledged_writes: self.acknowledged_writes,
            lost_writes: self.lost_writes,
            failed_commands: self.failed_commands,
            told_to_repeat: self.told_to_repeat,
        }
    }
}

fn of_takeover(story: Story) -> &'static [&'static str] {
    match story {
        Story::Takeover | Story::BringUp => TAKEOVER,
        Story::PlannedTakeover | Story::Giveback => HAND_OFF,
    }
}

/// For each step of the chain that is there, how long after the one before it, milliseconds; the first has none.
fn distances(chain: &[&'static str], steps: &[TimelineStep]) -> Vec<(&'static str, f64)> {
    let Some(first) = chain.first().and_then(|name| steps.iter().find(|step| step.step == *name)) else {
        return Vec::new();
    };
    let mut last = first.wall_micros;
    let mut found = Vec::new();
    for name in &chain[1..] {
        let Some(step) = steps.iter().find(|step| step.step == *name && step.wall_micros >= last) else { continue };
        found.push((*name, (step.wall_micros - last) as f64 / 1e3));
        last = step.wall_micros;
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(number: u64, name: &str, wall_micros: u64) -> TimelineStep {
        TimelineStep {
            number,
            wall_micros,
            node: NodeName::A,
            incarnation: String::new(),
            step: name.to_owned(),
            text: String::new(),
            values: BTreeMap::new(),
        }
    }

    #[test]
    fn percentiles_are_values_that_were_measured() {
        let pauses = Pauses::of((1..=200).rev().map(f64::from).collect());
        assert_eq!((pauses.median_ms, pauses.p99_ms, pauses.worst_ms), (100.0, 198.0, 200.0));
        assert_eq!(pauses.all_ms[0], 200.0, "the order of the runs is kept");
        assert_eq!(Pauses::of(vec![3.0]).p99_ms, 3.0);
        assert_eq!(Pauses::of(Vec::new()).worst_ms, 0.0);
    }

    #[test]
    fn forecasts_are_held_against_the_moves_of_their_kind() {
        let moved = |kind, pause_ms, predicted_ms| Moved { kind, pause_ms, predicted_ms };
        let mut collected = Collected::default();
        for run in 1..=10 {
            let pause_ms = f64::from(run);
            collected.add([moved("takeover", pause_ms, Some(2.0)), moved("giveback", pause_ms, None)]);
        }
        assert_eq!((collected.pauses["giveback"].len(), collected.predicted_ms.get("giveback")), (10, None));
        let spread = Spread::of(collected.times_predicted.remove("takeover").expect("predicted"));
        assert_eq!((spread.tenth, spread.median, spread.ninetieth, spread.largest), (0.5, 2.5, 4.5, 5.0));
        assert_eq!(spread.all[0], 0.5, "the order of the runs is kept");
    }

    #[test]
    fn a_step_is_as_long_as_it_comes_after_the_one_before_it() {
        // A fence of an earlier move, and one step that was not told.
        let told = ["fenced", "holding", "held", "committed", "fenced"].iter().zip([5, 1_000, 1_500, 3_000, 3_250]);
        let steps: Vec<_> = told.zip(1..).map(|((name, at), number)| step(number, name, at)).collect();
        let expected = vec![("held", 0.5), ("committed", 1.5), ("fenced", 0.25)];
        assert_eq!(distances(HAND_OFF, &steps), expected);
        assert_eq!(distances(TAKEOVER, &steps), vec![]);
    }
}
