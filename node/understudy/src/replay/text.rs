//! A replay as text for people: eventful steps with their orders, the others counted.

use super::range::{Range, Uneventfully};
use super::{Run, Show, Shown, Uneventful, Verdict, occasion, render_verdict, words};
use crate::config::NodeName;
use crate::timeline::{Style, clock};
use understudy_failover::effect::Effect;
use understudy_failover::words::NodeId;

/// Prints a replay.
pub struct Text<P> {
    put: P,
    style: Style,
    range: Range,
    uneventful: Uneventful,
    /// The title of the run in hand, if none of its steps was shown yet and only a part is.
    title: Option<String>,
}

impl<P: FnMut(&str)> Text<P> {
    /// Prints with `put`.
    pub fn new(put: P, style: Style, range: Range) -> Self {
        Self { put, style, range, uneventful: Uneventful::default(), title: None }
    }

    fn line(&mut self, text: &str) {
        (self.put)(&format!("{text}\n"));
    }

    fn show_title(&mut self) {
        if let Some(title) = self.title.take() {
            self.line(&title);
        }
    }

    fn show_uneventful(&mut self) {
        let uneventful = std::mem::take(&mut self.uneventful);
        if uneventful.steps > 0 {
            let line = format!("{:>23}{}", "", self.style.dim(&format!("… {}", uneventful.words())));
            self.line(&line);
        }
    }
}

fn letter(node: NodeId) -> NodeName {
    match node {
        NodeId::A => NodeName::A,
        NodeId::B => NodeName::B,
    }
}

impl<P: FnMut(&str)> Show for Text<P> {
    fn run(&mut self, run: &Run<'_>) {
        self.show_uneventful();
        let node = letter(run.header.node);
        let title = format!("node {node} of pair {:04x}, incarnation {}", run.header.pair.0, run.start.incarnation);
        let facts = format!(
            "{} UTC, release {}, build {}: {}",
            clock(run.start.wall_micros),
            run.header.release,
            run.header.build,
            occasion(run.start)
        );
        self.title = Some(format!("\n{}  {}", self.style.node(node, &title), self.style.dim(&facts)));
        if !self.range.is_part() {
            self.show_title();
        }
    }

    fn note(&mut self, text: &str) {
        self.show_uneventful();
        let line = self.style.caution(&format!("! {text}"));
        self.line(&line);
    }

    fn step(&mut self, shown: &Shown<'_>) {
        if !self.range.contains(shown) {
            return;
        }
        let step = shown.step;
        let fact = words::fact(&step.fact);
        let orders: Vec<String> = step.orders.iter().map(words::effect).collect();
        if !self.range.is_about(orders.iter().chain([&fact]).map(String::as_str)) {
            return;
        }
        if shown.is_uneventful() && self.range.all == Uneventfully::Counted {
            // Those among many that happen to hold the words are no count of anything.
            if self.range.only.is_empty() {
                self.show_title();
                self.uneventful.count(step);
            }
            return;
        }
        self.show_title();
        self.show_uneventful();
        let seconds = format!("{}.{:06}", step.now.0 / 1_000_000, step.now.0 % 1_000_000);
        let state = match (step.before, step.after) {
            (before, after) if before == after => self.style.dim(before.name()),
            (before, after) => format!("{before} → {}", self.style.bold(after.name())),
        };
        let line = format!("{seconds:>13} {:>8}  {}  [{state}]", shown.number, fact);
        self.line(&line);
        for (order, text) in step.orders.iter().zip(&orders) {
            let line = match order {
                Effect::Timeline(_) => format!("{:>23}{} {}", "", self.style.bold("*"), self.style.bold(text)),
                _ => format!("{:>23}→ {text}", ""),
            };
            self.line(&line);
        }
        if let Some(difference) = &step.difference {
            let recorded = difference.recorded.as_ref().map_or("nothing more".to_owned(), words::effect);
            let line = format!("DIFFERS in order {}: recorded is: {recorded}", difference.at + 1);
            let line = format!("{:>23}{}", "", self.style.bad(&line));
            self.line(&line);
        }
    }

    fn end(&mut self, verdict: &Verdict) {
        self.show_uneventful();
        let text = render_verdict(verdict, self.style);
        (self.put)(&format!("\n{text}"));
    }
}
