//! Grouping the steps of both nodes into operations: starts, takeovers, bring-ups.
//!
//! An operation begins with a step that can only be its first one and takes in everything of both nodes up to the next
//! beginning. That is enough because a pair does one such thing at a time, and it needs no agreement between the clocks of
//! the two nodes beyond "seconds".

use serde::Serialize;

use super::TimelineStep;
use super::step;
use crate::config::NodeName;

/// What kind of operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum OperationKind {
    /// A node booted and served what the records gave it, without its partner having taken over.
    Start,
    /// A node took its partner's pools.
    Takeover,
    /// A repaired node was brought back in coordination, or got its pools back on request.
    BringUp,
}

impl OperationKind {
    /// In words.
    #[must_use]
    pub fn words(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Takeover => "takeover",
            Self::BringUp => "bring-up and giveback",
        }
    }
}

/// One operation of a pair.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Operation {
    /// What kind.
    pub kind: OperationKind,
    /// The node that took over, or that was brought back, or that started first.
    pub node: NodeName,
    /// Its steps, oldest first, of both nodes.
    pub steps: Vec<TimelineStep>,
}

impl Operation {
    /// From the first step to the last, in microseconds.
    #[must_use]
    pub fn micros(&self) -> u64 {
        match (self.steps.first(), self.steps.last()) {
            (Some(first), Some(last)) => last.wall_micros.saturating_sub(first.wall_micros),
            (None, _) | (_, None) => 0,
        }
    }

    /// The longest pause the nodes measured in it, in microseconds, if they measured any.
    #[must_use]
    pub fn pause_micros(&self) -> Option<u64> {
        self.steps.iter().filter_map(|step| step.number(step::PAUSE)).max()
    }

    /// The first step of this kind, by whichever node.
    #[must_use]
    pub fn first(&self, kind: &str) -> Option<&TimelineStep> {
        self.steps.iter().find(|step| step.step == kind)
    }
}

/// Puts steps of one or both nodes into time order and groups them.
#[must_use]
pub fn group(mut steps: Vec<TimelineStep>) -> Vec<Operation> {
    steps.sort_by_key(|step| (step.wall_micros, step.node, step.number));
    let mut operations: Vec<Operation> = Vec::new();
    for step in steps {
        match (begins(&step, operations.last()), operations.last_mut()) {
            (Some(kind), _) => operations.push(Operation { kind, node: step.node, steps: vec![step] }),
            (None, Some(operation)) => {
                if step.step == step::GIVEWAIT && operation.kind == OperationKind::Start {
                    operation.kind = OperationKind::BringUp;
                    operation.node = step.node;
                }
                operation.steps.push(step);
            }
            // What was cut off the file began before its first beginning.
            (None, None) => {}
        }
    }
    operations
}

/// The kind of operation that begins with `step`, if one does.
fn begins(step: &TimelineStep, open: Option<&Operation>) -> Option<OperationKind> {
    let within = |kind| open.is_some_and(|operation| operation.kind == kind && !is_over(operation));
    match step.step.as_str() {
        // Two nodes that boot together make one start.
        step::BOOTING => (!within(OperationKind::Start)).then_some(OperationKind::Start),
        step::PARTNER_LOST | step::CONTEST | step::WANT_READ | step::TAKEOVER_ASKED => {
            (!within(OperationKind::Takeover)).then_some(OperationKind::Takeover)
        }
        step::GIVEBACK_ASKED => (!within(OperationKind::BringUp)).then_some(OperationKind::BringUp),
        _ => None,
    }
}

/// Whether an operation has reached its end, so that the like of it begins a new one.
fn is_over(operation: &Operation) -> bool {
    match operation.kind {
        OperationKind::Takeover => operation.first(step::TAKEOVER).is_some(),
        OperationKind::Start | OperationKind::BringUp => operation.first(step::UP).is_some(),
    }
}
