//! What the demo measured, whether it held, and how it is told.

use std::path::Path;

use anyhow::Context;
use serde::Serialize;

use crate::config::NodeName;
use crate::timeline::{Operation, Style, TimelineStep, step};

/// The result of a demo; its JSON form has exactly these fields.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Outcome {
    /// Longest gap any client saw from the kill until everything was served again, in ms.
    pub takeover_pause_ms: f64,
    /// Longest gap any client saw during the bring-up and giveback, in ms.
    pub giveback_pause_ms: f64,
    /// From GIVEWAIT to UP of the repaired node, in ms: what the outage would have been had the survivor stopped serving
    /// when the repaired node first waited for its disks.
    pub uncoordinated_outage_ms: f64,
    /// Writes that were answered GOOD.
    pub acknowledged_writes: u64,
    /// Of these, found missing or replaced by something else.
    pub lost_writes: u64,
    /// Commands that ended in anything but success.
    pub failed_commands: u64,
    /// What happened, grouped.
    pub timeline: Vec<Operation>,
    /// What did not hold, in words; empty is good.
    #[serde(skip)]
    pub broken: Vec<String>,
}

impl Outcome {
    /// Whether everything the demo promises held.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.lost_writes == 0 && self.failed_commands == 0 && self.broken.is_empty()
    }

    /// Writes it as JSON.
    ///
    /// # Errors
    /// The file can not be written.
    pub fn write(&self, file: &Path) -> anyhow::Result<()> {
        let text = serde_json::to_string_pretty(self)? + "\n";
        std::fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))
    }

    /// The figures and the verdict.
    #[must_use]
    pub fn summary(&self, style: Style) -> String {
        let figure = |name: &str, value: String, remark: &str| {
            format!("  {name:<34}{:>14}   {}\n", style.bold(&format!("{value:>14}")), style.dim(remark))
        };
        let ms = |value: f64| format!("{value:.1} ms");
        let mut out = figure(
            "pause at the takeover",
            ms(self.takeover_pause_ms),
            "node a killed; b fences its disks and serves them",
        );
        out += &figure(
            "pause at the giveback",
            ms(self.giveback_pause_ms),
            "the whole bring-up of a, as its clients saw it",
        );
        out += &figure(
            "outage without coordination",
            ms(self.uncoordinated_outage_ms),
            "GIVEWAIT to UP of a, had b stopped serving first",
        );
        out += &figure("acknowledged writes", self.acknowledged_writes.to_string(), "every one read back at the end");
        out += &figure("lost writes", self.lost_writes.to_string(), "");
        out += &figure("failed commands", self.failed_commands.to_string(), "");
        out.push('\n');
        for broken in &self.broken {
            out += &format!("  {} {broken}\n", style.bad("broken:"));
        }
        out += &match self.holds() {
            true => format!("  {}\n", style.good("all of it held")),
            false => format!("  {}\n", style.bad("it did not hold")),
        };
        out
    }
}

/// The mission's order: each of these happens after the one before it. `a` is the repaired node, `b` the survivor.
const BRING_UP: [(NodeName, &str); 14] = [
    (NodeName::A, step::BOOTING),
    (NodeName::A, step::GIVEWAIT),
    (NodeName::B, step::GIVEWAIT_READ),
    (NodeName::B, step::RESERVATIONS_RELEASED),
    (NodeName::B, step::RELEASED),
    (NodeName::A, step::RELEASED_READ),
    (NodeName::A, step::RELEASE_CHECKED),
    (NodeName::A, step::DISKINIT),
    (NodeName::A, step::MBWAIT),
    (NodeName::B, step::MBWAIT_READ),
    (NodeName::B, step::COMMITTED),
    (NodeName::A, step::COMMIT_READ),
    (NodeName::A, step::FENCED),
    (NodeName::A, step::UP),
];

/// The survivor ceases only after the giveback.
const CEASING: [(NodeName, &str); 2] = [(NodeName::B, step::COMMITTED), (NodeName::B, step::CEASED)];

/// What of the mission's order these steps of a bring-up break.
pub(super) fn order_broken(steps: &[TimelineStep]) -> Vec<String> {
    [&BRING_UP[..], &CEASING[..]].into_iter().flat_map(|order| chain_broken(order, steps)).collect()
}

fn chain_broken(order: &[(NodeName, &str)], steps: &[TimelineStep]) -> Vec<String> {
    let mut broken = Vec::new();
    let mut before: Option<&TimelineStep> = None;
    for (node, kind) in order {
        let Some(found) = steps.iter().find(|step| step.node == *node && step.step == *kind) else {
            broken.push(format!("node {node} never recorded `{kind}`"));
            continue;
        };
        if let Some(before) = before
            && found.wall_micros < before.wall_micros
        {
            broken.push(format!("`{kind}` of {node} came before `{}` of {}", before.step, before.node));
        }
        before = Some(found);
    }
    broken
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(wall_micros: u64, node: NodeName, kind: &str) -> TimelineStep {
        TimelineStep {
            number: wall_micros,
            wall_micros,
            node,
            incarnation: String::new(),
            step: kind.to_owned(),
            text: String::new(),
            values: std::collections::BTreeMap::new(),
        }
    }

    fn whole() -> Vec<TimelineStep> {
        let mut steps: Vec<_> = BRING_UP.iter().zip(1..).map(|((node, kind), wall)| at(wall, *node, kind)).collect();
        steps.push(at(100, NodeName::B, step::CEASED));
        steps
    }

    #[test]
    fn a_whole_bring_up_in_order_breaks_nothing() {
        assert_eq!(order_broken(&whole()), Vec::<String>::new());
    }

    #[test]
    fn release_before_the_read_that_asks_for_it_is_broken() {
        let mut steps = whole();
        steps[2].wall_micros = 5;
        assert_eq!(order_broken(&steps), ["`reservations-released` of b came before `givewait-read` of b"]);
    }

    #[test]
    fn ceasing_before_the_commit_is_broken_and_a_missing_step_too() {
        let mut steps = whole();
        steps.last_mut().expect("steps").wall_micros = 1;
        steps.remove(7);
        let broken = order_broken(&steps);
        assert_eq!(broken, ["node a never recorded `diskinit`", "`ceased` of b came before `committed` of b"]);
    }

    #[test]
    fn the_json_form_has_exactly_the_named_fields() {
        let outcome = Outcome {
            takeover_pause_ms: 1.5,
            giveback_pause_ms: 2.0,
            uncoordinated_outage_ms: 3.0,
            acknowledged_writes: 4,
            lost_writes: 0,
            failed_commands: 0,
            timeline: Vec::new(),
            broken: vec!["not part of it".to_owned()],
        };
        let value = serde_json::to_value(&outcome).expect("JSON");
        let mut names: Vec<&str> = value.as_object().expect("an object").keys().map(String::as_str).collect();
        names.sort_unstable();
        let mut expected = [
            "takeover_pause_ms",
            "giveback_pause_ms",
            "uncoordinated_outage_ms",
            "acknowledged_writes",
            "lost_writes",
            "failed_commands",
            "timeline",
        ];
        expected.sort_unstable();
        assert_eq!(names, expected);
        assert!(!outcome.holds());
    }
}
