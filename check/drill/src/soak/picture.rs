//! The pauses of an endurance run as a picture: time from left to right, length of the pause from bottom to top on a logarithmic
//! scale, a row of dots a kind of event, and median and worst of each kind as a table.

use std::fmt::Write;

use super::tally::{Report, Seen};
use crate::strokes::{self, line, words};

/// Of the whole picture.
const WIDTH: f64 = 1200.0;
const HEIGHT: f64 = 560.0;

/// Of the plot inside it.
const LEFT: f64 = 80.0;
const RIGHT: f64 = 760.0;
const TOP: f64 = 60.0;
const BOTTOM: f64 = 500.0;

/// Decades of the scale, in milliseconds: 1 ms to 100 s.
const DECADES: [f64; 6] = [1.0, 10.0, 100.0, 1_000.0, 10_000.0, 100_000.0];

/// Colours that people who see no red or green can tell apart too; the last one is for everything that was disturbed.
const COLOURS: [(&str, &str); 5] = [
    ("takeover", "#d55e00"),
    ("bring-up", "#0072b2"),
    ("planned-takeover", "#e69f00"),
    ("giveback", "#009e73"),
    ("disturbed", "#999999"),
];

/// The picture of a report.
#[must_use]
pub fn picture(report: &Report) -> String {
    let mut out = strokes::begin(WIDTH, HEIGHT);
    let heading = format!(
        "{:.0} minutes, {} drills, {} takeovers, {} givebacks, {} lost writes: longest pause of any client in each drill",
        report.minutes, report.cycles, report.takeovers, report.givebacks, report.lost_writes
    );
    out += &words(LEFT, 30.0, "start", "#000000", &heading);
    out += &axes(report.minutes.max(0.1));
    for seen in &report.pauses {
        out += &dot(seen, report.minutes.max(0.1));
    }
    out += &legend(report);
    out + strokes::END
}

fn axes(minutes: f64) -> String {
    let mut out = String::new();
    for decade in DECADES {
        let y = height_of(decade);
        out += &line(LEFT, y, RIGHT, y, "#dddddd");
        let name = if decade < 1_000.0 { format!("{decade:.0} ms") } else { format!("{:.0} s", decade / 1_000.0) };
        out += &words(LEFT - 8.0, y + 4.0, "end", "#000000", &name);
    }
    for sixth in 0..=6 {
        let at = minutes * f64::from(sixth) / 6.0;
        let x = place_of(at, minutes);
        out += &line(x, BOTTOM, x, BOTTOM + 5.0, "#000000");
        out += &words(x, BOTTOM + 20.0, "middle", "#000000", &format!("{at:.0} min"));
    }
    out + &line(LEFT, BOTTOM, RIGHT, BOTTOM, "#000000") + &line(LEFT, TOP, LEFT, BOTTOM, "#000000")
}

fn dot(seen: &Seen, minutes: f64) -> String {
    strokes::dot(place_of(seen.at_s / 60.0, minutes), height_of(seen.pause_ms), colour_of(&seen.kind))
}

fn legend(report: &Report) -> String {
    let columns = [RIGHT + 60.0, RIGHT + 290.0, RIGHT + 350.0, RIGHT + 420.0];
    let mut out = String::new();
    for (x, name) in columns.iter().skip(1).zip(["drills", "median", "worst"]) {
        out += &words(*x, TOP, "end", "#000000", name);
    }
    for (row, (kind, figures)) in report.kinds.iter().enumerate() {
        let y = TOP + 24.0 * (row as f64 + 1.0);
        // Writing to a string does not fail.
        let _ =
            writeln!(out, "<circle cx=\"{}\" cy=\"{}\" r=\"5\" fill=\"{}\"/>", RIGHT + 45.0, y - 4.0, colour_of(kind));
        out += &words(columns[0], y, "start", "#000000", kind);
        let figures = [figures.drills.to_string(), length(figures.median_ms), length(figures.worst_ms)];
        for (x, figure) in columns.iter().skip(1).zip(figures) {
            out += &words(*x, y, "end", "#000000", &figure);
        }
    }
    out
}

fn length(ms: f64) -> String {
    if ms < 1_000.0 { format!("{ms:.0} ms") } else { format!("{:.1} s", ms / 1_000.0) }
}

fn colour_of(kind: &str) -> &'static str {
    let found = COLOURS.iter().find(|(known, _)| kind == *known);
    found.or(COLOURS.last()).map_or("#000000", |(_, colour)| colour)
}

fn place_of(minute: f64, minutes: f64) -> f64 {
    LEFT + (RIGHT - LEFT) * (minute / minutes).clamp(0.0, 1.0)
}

fn height_of(ms: f64) -> f64 {
    let decades = (DECADES.len() - 1) as f64;
    BOTTOM - (BOTTOM - TOP) * (ms.max(1.0).log10() / decades).clamp(0.0, 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fault::Fault;
    use crate::soak::{Kind, Tally};
    use std::time::Duration;

    #[test]
    fn every_pause_is_a_dot_within_the_plot_and_every_kind_a_row() {
        let mut tally = Tally::new(1);
        for (kind, ms) in [(Kind::Takeover, 0), (Kind::Giveback, 5), (Kind::Disturbed(Fault::Killed), 10_000_000)] {
            tally.pause(kind, Duration::from_millis(ms));
        }
        let drawn = picture(&tally.report(None));
        assert_eq!(drawn.matches("r=\"3\"").count(), 3);
        assert_eq!(drawn.matches("r=\"5\"").count(), 3);
        assert!(height_of(0.0) <= BOTTOM && height_of(1e9) >= TOP);
    }
}
