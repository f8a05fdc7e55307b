//! What the demo prints: acts, lines, steps. Plain text when piped, colours in a terminal.

use std::time::Instant;

use crate::config::NodeName;
use crate::timeline::{Style, TimelineStep};

/// Where the demo prints to.
#[derive(Debug)]
pub(super) struct Screen {
    style: Style,
    began: Instant,
}

impl Screen {
    pub fn new(style: Style) -> Self {
        Self { style, began: Instant::now() }
    }

    pub fn style(&self) -> Style {
        self.style
    }

    /// The title of a part of the story.
    pub fn act(&self, title: &str) {
        let rule = match self.style {
            Style::Plain => "--",
            Style::Coloured => "━━",
        };
        println!("\n{} {}", self.style.dim(rule), self.style.bold(title));
    }

    /// A line of the demo's own.
    pub fn line(&self, who: &str, text: &str) {
        println!("{}  {who:<7} {text}", self.time());
    }

    /// A line about something that went wrong.
    pub fn trouble(&self, text: &str) {
        println!("{}  {}", self.time(), self.style.bad(text));
    }

    /// A step of a node, as it happened.
    pub fn step(&self, step: &TimelineStep) {
        let who = match step.node {
            NodeName::A => "a      ",
            NodeName::B => "    b  ",
        };
        let rdma = if step.step.ends_with("-read") && step.text.contains("RDMA") {
            self.style.bold(&step.text)
        } else {
            step.text.clone()
        };
        let name = format!("{:<21}", step.step);
        println!("{}  {} {} {rdma}", self.time(), self.style.node(step.node, who), self.style.node(step.node, &name));
    }

    fn time(&self) -> String {
        self.style.dim(&format!("{:8.3} s", self.began.elapsed().as_secs_f64()))
    }
}
