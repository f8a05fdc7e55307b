//! The timeline as text: plain, or with colours on a terminal. Nothing here decides anything.

use std::fmt::Write;

use super::{Operation, TimelineStep};
use crate::config::NodeName;

/// How to write for the reader at hand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// Letters only.
    Plain,
    /// With escape sequences.
    Coloured,
}

impl Style {
    /// Coloured on a terminal, unless NO_COLOR is set (no-color.org) or TERM is `dumb`.
    #[must_use]
    pub fn of_stdout() -> Self {
        use std::io::IsTerminal;
        Self::for_terminal(std::io::stdout().is_terminal(), |name| std::env::var(name).ok())
    }

    /// The same for standard error.
    #[must_use]
    pub fn of_stderr() -> Self {
        use std::io::IsTerminal;
        Self::for_terminal(std::io::stderr().is_terminal(), |name| std::env::var(name).ok())
    }

    pub(super) fn for_terminal(terminal: bool, variable: impl Fn(&str) -> Option<String>) -> Self {
        let forbidden = variable("NO_COLOR").is_some_and(|value| !value.is_empty());
        let dumb = variable("TERM").is_some_and(|value| value == "dumb");
        if terminal && !forbidden && !dumb { Self::Coloured } else { Self::Plain }
    }

    fn wrap(self, code: &str, text: &str) -> String {
        match self {
            Self::Plain => text.to_owned(),
            Self::Coloured => format!("\x1b[{code}m{text}\x1b[0m"),
        }
    }

    /// Emphasised.
    #[must_use]
    pub fn bold(self, text: &str) -> String {
        self.wrap("1", text)
    }

    /// Of lesser weight.
    #[must_use]
    pub fn dim(self, text: &str) -> String {
        self.wrap("2", text)
    }

    /// Good news.
    #[must_use]
    pub fn good(self, text: &str) -> String {
        self.wrap("32", text)
    }

    /// Bad news.
    #[must_use]
    pub fn bad(self, text: &str) -> String {
        self.wrap("1;31", text)
    }

    /// Worth a look.
    #[must_use]
    pub fn caution(self, text: &str) -> String {
        self.wrap("33", text)
    }

    /// In the colour of a node.
    #[must_use]
    pub fn node(self, node: NodeName, text: &str) -> String {
        match node {
            NodeName::A => self.wrap("36", text),
            NodeName::B => self.wrap("35", text),
        }
    }
}

/// The operations one below the other.
#[must_use]
pub fn render(operations: &[Operation], style: Style) -> String {
    let mut out = String::new();
    for operation in operations {
        render_operation(&mut out, operation, style);
    }
    out
}

fn render_operation(out: &mut String, operation: &Operation, style: Style) {
    let begin = operation.steps.first().map_or(0, |step| step.wall_micros);
    let title = format!("{} of node {}", operation.kind.words(), operation.node);
    let mut facts = format!("{} UTC, {} ms", clock(begin), millis(operation.micros()));
    if let Some(pause) = operation.pause_micros() {
        let _ = write!(facts, ", pause {} ms", millis(pause));
    }
    let _ = writeln!(out, "{}  {}", style.bold(&title), style.dim(&facts));
    for step in &operation.steps {
        render_step(out, begin, step, style);
    }
    out.push('\n');
}

fn render_step(out: &mut String, begin: u64, step: &TimelineStep, style: Style) {
    let after = format!("{:>12}", format!("+{} ms", millis(step.wall_micros.saturating_sub(begin))));
    // The partner's steps stand in a column of their own, so that the eye sees who acts.
    let column = match step.node {
        NodeName::A => "a  ",
        NodeName::B => "  b",
    };
    let name = format!("{:<21}", step.step);
    let _ = writeln!(
        out,
        "{}  {}  {}  {}",
        style.dim(&after),
        style.node(step.node, column),
        style.node(step.node, &name),
        step.text
    );
}

/// Microseconds as milliseconds with one digit after the point.
fn millis(micros: u64) -> String {
    format!("{}.{}", micros / 1000, micros % 1000 / 100)
}

/// `YYYY-MM-DD hh:mm:ss.mmm` in UTC of microseconds since 1970.
#[must_use]
pub fn clock(wall_micros: u64) -> String {
    let (seconds, micros) = (wall_micros / 1_000_000, wall_micros % 1_000_000);
    let (days, of_day) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = civil(days);
    let (hour, minute, second) = (of_day / 3600, of_day / 60 % 60, of_day % 60);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}.{:03}", micros / 1000)
}

/// The Gregorian date of a day counted from 1970-01-01. Counting years from March puts the leap day last, so that the
/// lengths of the months before it follow one formula.
fn civil(days: u64) -> (u64, u64, u64) {
    let from_march_of_year_0 = days + 719_468;
    let era = from_march_of_year_0 / 146_097;
    let of_era = from_march_of_year_0 % 146_097;
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    (year, month, day)
}
