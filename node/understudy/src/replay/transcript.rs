//! A replay as the transcripts of the failover machine's golden scenarios are written, so that an incident can become one.
//!
//! Milliseconds, node, what happened; both nodes' logs, if both are given, in one text by the wall clock. What an operator asked and
//! what the runs did not say themselves stands in lines with `#`, as the script of a scenario does.

use understudy_failover::effect::Effect;
use understudy_failover::input::Input;
use understudy_failover::words::NodeId;

use super::{Run, Show, Shown, Verdict, words};

/// Collects the lines.
#[derive(Debug, Default)]
pub struct Transcript {
    /// By the wall clock; the order of the log among equals.
    lines: Vec<(u64, Option<NodeId>, String)>,
    runs: u64,
    last: u64,
}

impl Transcript {
    /// The text.
    #[must_use]
    pub fn render(&self) -> String {
        let mut lines = self.lines.clone();
        lines.sort_by_key(|(wall, _, _)| *wall);
        let begin = lines.first().map_or(0, |(wall, _, _)| *wall);
        let mut out = String::new();
        for (wall, node, text) in lines {
            match node {
                Some(node) => {
                    let millis = (wall - begin) as f64 / 1000.0;
                    out.push_str(&format!("{millis:>9.3} {node} {text}\n"));
                }
                None => out.push_str(&format!("# {text}\n")),
            }
        }
        out
    }
}

impl Show for Transcript {
    fn run(&mut self, run: &Run<'_>) {
        self.runs += 1;
        self.last = run.start.wall_micros;
        let text = match run.start.steps {
            0 => format!("process started, incarnation {}", run.start.incarnation),
            steps => format!("incarnation {} joined after {steps} steps", run.start.incarnation),
        };
        self.lines.push((run.start.wall_micros, Some(run.header.node), text));
    }

    fn note(&mut self, text: &str) {
        self.lines.push((self.last, None, text.to_owned()));
    }

    fn step(&mut self, shown: &Shown<'_>) {
        let (wall, node) = (shown.step.wall_micros, shown.header.node);
        self.last = wall;
        if let Input::OperatorAsked { what, .. } = &shown.step.fact {
            self.lines.push((wall, None, format!("the operator asks {node} {}", words::asked(what))));
        }
        // What happened, whatever happens here.
        for order in &shown.step.recorded {
            let text = match order {
                Effect::Timeline(step) => step.to_string(),
                Effect::RaiseAlarm(alarm) => format!("alarm {alarm:?}"),
                Effect::ClearAlarm(alarm) => format!("alarm over {alarm:?}"),
                Effect::AnswerOperator { request, reply } => format!("answers request {}: {reply:?}", request.0),
                _ => continue,
            };
            self.lines.push((wall, Some(node), text));
        }
    }

    fn end(&mut self, _: &Verdict) {}
}
