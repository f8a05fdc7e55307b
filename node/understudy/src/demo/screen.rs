//! What the demo prints: acts, lines, steps. Plain text when piped, colours in a terminal.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::config::NodeName;
use crate::timeline::{Style, TimelineStep};

/// Where the demo prints to.
#[derive(Debug)]
pub(super) struct Screen {
    style: Style,
    began: Instant,
    began_wall: Duration,
}

impl Screen {
    pub fn new(style: Style) -> Self {
        let began_wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { style, began: Instant::now(), began_wall }
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
        println!(
            "{}  {} {} {rdma}",
            self.time_of(step),
            self.style.node(step.node, who),
            self.style.node(step.node, &name)
        );
    }

    fn time(&self) -> String {
        self.seconds(self.began.elapsed().as_secs_f64())
    }

    /// When the step happened, not when it was heard of: the nodes run on the same machine, by the same clock.
    fn time_of(&self, step: &TimelineStep) -> String {
        let since = Duration::from_micros(step.wall_micros).saturating_sub(self.began_wall);
        self.seconds(since.as_secs_f64())
    }

    fn seconds(&self, seconds: f64) -> String {
        self.style.dim(&format!("{seconds:8.3} s"))
    }
}
