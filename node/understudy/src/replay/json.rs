//! A replay as JSON, one object a line: `run`, `note`, `step`, `uneventful`, and `verdict` at the end.

use serde_json::{Value, json};

use super::range::{Range, Uneventfully};
use super::{Ending, Run, Show, Shown, Uneventful, Verdict, Writer, occasion, words};
use understudy_failover::effect::Effect;

/// Prints a replay as JSON.
pub struct Json<P> {
    put: P,
    range: Range,
    uneventful: Uneventful,
}

impl<P: FnMut(&str)> Json<P> {
    /// Prints with `put`.
    pub fn new(put: P, range: Range) -> Self {
        Self { put, range, uneventful: Uneventful::default() }
    }

    fn object(&mut self, kind: &str, mut object: Value) {
        self.show_uneventful();
        object["kind"] = json!(kind);
        (self.put)(&format!("{object}\n"));
    }

    fn show_uneventful(&mut self) {
        let it = std::mem::take(&mut self.uneventful);
        if it.steps > 0 {
            let object = json!({ "kind": "uneventful", "steps": it.steps, "kinds": it.kinds,
                "first_micros": it.first, "last_micros": it.last });
            (self.put)(&format!("{object}\n"));
        }
    }
}

impl<P: FnMut(&str)> Show for Json<P> {
    fn run(&mut self, run: &Run<'_>) {
        let object = json!({
            "pair": format!("{:04x}", run.header.pair.0),
            "node": run.header.node.to_string().to_lowercase(),
            "incarnation": run.start.incarnation.to_string(),
            "wall_micros": run.start.wall_micros,
            "release": run.header.release,
            "build": run.header.build.to_string(),
            "is_of_this_build": run.header.is_of_this_build(),
            "steps_before": run.start.steps,
            "occasion": occasion(run.start),
        });
        self.object("run", object);
    }

    fn note(&mut self, text: &str) {
        self.object("note", json!({ "text": text }));
    }

    fn step(&mut self, shown: &Shown<'_>) {
        if !self.range.contains(shown) {
            return;
        }
        let step = shown.step;
        let fact = words::fact(&step.fact);
        let words: Vec<(bool, String)> =
            step.orders.iter().map(|order| (matches!(order, Effect::Timeline(_)), words::effect(order))).collect();
        if !self.range.is_about(words.iter().map(|(_, words)| words).chain([&fact]).map(String::as_str)) {
            return;
        }
        if shown.is_uneventful() && self.range.all == Uneventfully::Counted {
            // Those among many that happen to hold the words are no count of anything.
            if self.range.only.is_empty() {
                self.uneventful.count(step);
            }
            return;
        }
        let (timeline, orders): (Vec<_>, Vec<_>) = words.into_iter().partition(|(is_of_timeline, _)| *is_of_timeline);
        let texts = |words: Vec<(bool, String)>| words.into_iter().map(|(_, words)| words).collect::<Vec<_>>();
        let difference = step.difference.as_ref().map(|difference| {
            json!({
                "at": difference.at,
                "recorded": difference.recorded.as_ref().map(words::effect),
                "replayed": difference.replayed.as_ref().map(words::effect),
            })
        });
        let object = json!({
            "step": shown.number,
            "of_run": step.number,
            "micros": step.now.0,
            "wall_micros": step.wall_micros,
            "fact": fact,
            "orders": texts(orders),
            "timeline": texts(timeline),
            "before": step.before.name(),
            "after": step.after.name(),
            "difference": difference,
        });
        self.object("step", object);
    }

    fn end(&mut self, verdict: &Verdict) {
        let differences: Vec<Value> = verdict
            .differences
            .iter()
            .map(|it| {
                json!({ "step": it.number, "wall_micros": it.wall_micros, "run": it.run, "words": it.words,
                    "is_of_this_build": it.writer == Writer::ThisBuild })
            })
            .collect();
        let object = json!({
            "verdict": match verdict.ending() {
                Ending::Same => "same",
                Ending::Differs => "differs",
                Ending::Unusable => "unusable",
            },
            "runs": verdict.runs,
            "steps": verdict.steps,
            "steps_left_out": verdict.left_out,
            "snapshots_same": verdict.snapshots_same,
            "differing_steps": verdict.differing_steps,
            "differences": differences,
            "unusable": verdict.unusable,
            "first_wall_micros": verdict.span.map(|span| span.0),
            "last_wall_micros": verdict.span.map(|span| span.1),
            "bytes": verdict.bytes,
        });
        self.object("verdict", object);
    }
}
