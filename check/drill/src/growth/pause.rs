//! The pause of a giveback with few volumes and with many, in turns on two pairs.

use std::time::{Duration, Instant};

use anyhow::ensure;
use serde::Serialize;
use understudy::admin::{Request, Response, SoftVetoes, TakeoverKind, VetoWeight};
use understudy::timeline::TimelineStep;

use super::crowd::Crowd;
use super::{ANSWER_WITHIN, MEASURED, Order, address_of, median};
use crate::stage::{Fault, PATIENCE, Stage};

/// What many volumes are compared with.
pub(super) const FEW_VOLUMES: usize = 4;

/// Sessions that are there beside the clients in the last comparison.
const CROWD: usize = 100;

/// What went before a giveback.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum After {
    /// The node was killed and booted again: it has its pool in memory when it gets it.
    Boot,
    /// Its partner took over as planned, and the node went on running: it has loaded its pool anew since.
    PlannedTakeover,
}

impl After {
    /// In words.
    #[must_use]
    pub fn words(self) -> &'static str {
        match self {
            Self::Boot => "the node booted",
            Self::PlannedTakeover => "a planned takeover",
        }
    }
}

/// How long nobody asks: longer than a node takes to boot and be given its pool.
const QUIET: Duration = Duration::from_millis(1_500);

/// Pauses of one kind.
#[derive(Debug, Clone, Serialize)]
pub struct Pauses {
    /// What went before.
    pub after: After,
    /// Volumes of the pool that moves.
    pub volumes: usize,
    /// Sessions that do nothing beside the two clients.
    pub idle_sessions: usize,
    /// Median of the longest pause a client saw, in milliseconds.
    pub median_ms: f64,
    /// All of them.
    pub all_ms: Vec<f64>,
    /// What the nodes recorded of the last one, in milliseconds since they began to hold.
    pub steps: Vec<(String, f64)>,
}

/// Givebacks of both pairs in turns.
pub(super) fn compare(
    mut few: Stage,
    mut many: Stage,
    order: &Order,
    told: &impl Fn(&str),
) -> anyhow::Result<Vec<Pauses>> {
    let mut found = Vec::new();
    for stage in [&mut few, &mut many] {
        stage.start_clients(1)?;
    }
    let crowd = CROWD.min(order.sessions);
    for (after, idle_sessions) in [(After::Boot, 0), (After::Boot, crowd), (After::PlannedTakeover, 0)] {
        let mut kinds = [Vec::new(), Vec::new()];
        for _ in 0..order.givebacks {
            for (stage, pauses) in [&mut few, &mut many].into_iter().zip(&mut kinds) {
                let volumes = stage.pair.volumes(MEASURED)?;
                let _crowd = Crowd::gather(&address_of(&volumes[0])?, idle_sessions, &[])?;
                pauses.push(giveback(stage, after)?.as_secs_f64() * 1e3);
            }
        }
        for (stage, mut all_ms) in [&few, &many].into_iter().zip(kinds) {
            let volumes = stage.pair.volumes(MEASURED)?.len();
            let median_ms = median(&mut all_ms);
            let steps = hand_off_of(&stage.steps);
            let words = after.words();
            told(&format!(
                "giveback after {words}, {volumes} volumes, {idle_sessions} idle sessions: {median_ms:.1} ms"
            ));
            found.push(Pauses { after, volumes, idle_sessions, median_ms, all_ms, steps });
        }
    }
    for mut stage in [few, many] {
        for verdict in stage.verdicts()? {
            ensure!(verdict.holds(), "the client of {} is not content: {verdict:?}", verdict.label);
        }
    }
    Ok(found)
}

/// The longest pause of any client while the measured node gets its pool back.
fn giveback(stage: &mut Stage, after: After) -> anyhow::Result<Duration> {
    let marks = match after {
        After::Boot => {
            stage.lose(MEASURED)?;
            let marks = stage.mark();
            stage.repair(MEASURED, Fault::Killed)?;
            marks
        }
        After::PlannedTakeover => {
            let partner = MEASURED.partner();
            demand(stage, &Request::Takeover { kind: TakeoverKind::Planned })?;
            stage.wait_for("the partner waits for its pools", |stage| {
                stage.let_pass(Duration::from_millis(50));
                stage.pair.status(partner).is_ok_and(|status| status.partner.state == "MBWAIT")
            })?;
            stage.wait_until_clients_go_on("before the giveback")?;
            let marks = stage.mark();
            demand(stage, &Request::Giveback { soft_vetoes: SoftVetoes::Respect })?;
            marks
        }
    };
    // Whoever asks a node for its status while its clients come back makes them wait.
    stage.let_pass(QUIET);
    stage.wait_until_home()?;
    stage.wait_until_clients_go_on("after the giveback")?;
    Ok(stage.pauses(&marks).into_iter().map(|(_, pause)| pause).max().unwrap_or_default())
}

/// The steps of the last hand-off, from both nodes' clocks, which are one here.
fn hand_off_of(steps: &[TimelineStep]) -> Vec<(String, f64)> {
    let Some(begin) = steps.iter().rposition(|step| step.step == "holding") else { return Vec::new() };
    let began = steps[begin].wall_micros;
    let since = |step: &TimelineStep| (step.wall_micros as f64 - began as f64) / 1e3;
    let mut after: Vec<_> = steps.iter().filter(|step| step.wall_micros >= began).collect();
    after.sort_by_key(|step| step.wall_micros);
    after.into_iter().map(|step| (format!("{} {}", step.node, step.step), since(step))).collect()
}

/// Asks the partner until no soft veto stands against it: a resync ends by itself.
fn demand(stage: &Stage, request: &Request) -> anyhow::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    // BOUND: the deadline.
    loop {
        let answer = stage.pair.ask(MEASURED.partner(), request, ANSWER_WITHIN)?;
        match &answer {
            Response::Done { .. } => return Ok(()),
            Response::Refused { vetoes, .. }
                if !vetoes.is_empty()
                    && vetoes.iter().all(|veto| veto.weight == VetoWeight::Soft)
                    && Instant::now() < deadline =>
            {
                std::thread::sleep(Duration::from_millis(50));
            }
            _ => anyhow::bail!("asked for {request:?}: {answer:?}"),
        }
    }
}
