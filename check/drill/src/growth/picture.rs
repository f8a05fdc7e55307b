//! The curves of growth as a picture: a panel for each thing that grows, both scales logarithmic, so that what grows in proportion is
//! a slope of one and what does not grow at all is level.

use super::{Point, Report};
use crate::strokes::{self, dot, line, words};

/// Of one panel, its margins included.
const WIDTH: f64 = 400.0;
const HEIGHT: f64 = 280.0;

/// Of the plot inside it.
const LEFT: f64 = 60.0;
const RIGHT: f64 = 380.0;
const TOP: f64 = 40.0;
const BOTTOM: f64 = 240.0;

/// Panels side by side.
const COLUMNS: usize = 3;

/// Colours that people who see no red or green can tell apart too.
const COLOURS: [&str; 2] = ["#0072b2", "#d55e00"];

/// A curve: what it shows, and its points.
type Curve = (&'static str, Vec<(f64, f64)>);

struct Panel {
    title: &'static str,
    unit: &'static str,
    curves: Vec<Curve>,
}

/// The picture of a report.
#[must_use]
pub fn picture(report: &Report) -> String {
    let panels = panels(report);
    let rows = panels.len().div_ceil(COLUMNS);
    let mut out = strokes::begin(WIDTH * COLUMNS as f64, HEIGHT * rows as f64);
    for (number, panel) in panels.iter().enumerate() {
        let (x, y) = ((number % COLUMNS) as f64 * WIDTH, (number / COLUMNS) as f64 * HEIGHT);
        out += &format!("<g transform=\"translate({x:.0} {y:.0})\">\n{}</g>\n", panel.draw());
    }
    out + strokes::END
}

fn panels(report: &Report) -> Vec<Panel> {
    let cost = |title, points: &[Point]| {
        let of = |figure: fn(&Point) -> f64| points.iter().map(|point| (point.at as f64, figure(point))).collect();
        let curves = vec![("read", of(|point| point.read_micros)), ("write", of(|point| point.write_micros))];
        Panel { title, unit: "processor time of a command, µs", curves }
    };
    let mebibytes = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    let volumes = report.volumes.iter().map(|of| (of.volumes as f64, mebibytes(of.own_bytes))).collect();
    let in_use = || report.sessions.iter().filter(|of| of.sessions > 0);
    let logged_in = in_use().map(|of| (of.sessions as f64, mebibytes(of.own_bytes))).collect();
    let visited = in_use().filter_map(|of| Some((of.sessions as f64, mebibytes(of.all_visited_bytes?)))).collect();
    vec![
        cost("volumes", &report.by_volumes),
        cost("sessions", &report.by_sessions),
        cost("queue depth", &report.by_depth),
        cost("bytes of a command", &report.by_bytes),
        Panel { title: "volumes", unit: "memory, MiB", curves: vec![("nobody logged in", volumes)] },
        Panel {
            title: "sessions, with the most volumes",
            unit: "memory, MiB",
            curves: vec![("logged in", logged_in), ("have asked every volume", visited)],
        },
    ]
}

/// A logarithmic scale from a power of ten to another.
struct Scale {
    lowest: f64,
    highest: f64,
    from: f64,
    to: f64,
}

impl Scale {
    fn over(figures: impl Iterator<Item = f64> + Clone, from: f64, to: f64) -> Self {
        let positive = figures.filter(|figure| *figure > 0.0);
        let lowest = positive.clone().fold(f64::INFINITY, f64::min).log10().floor();
        let highest = positive.fold(0.0, f64::max).log10().ceil();
        if lowest.is_finite() {
            Self { lowest, highest: highest.max(lowest + 1.0), from, to }
        } else {
            Self { lowest: 0.0, highest: 1.0, from, to }
        }
    }

    fn place(&self, figure: f64) -> f64 {
        let share = (figure.max(f64::MIN_POSITIVE).log10() - self.lowest) / (self.highest - self.lowest);
        self.from + (self.to - self.from) * share.clamp(0.0, 1.0)
    }

    fn decades(&self) -> impl Iterator<Item = f64> + use<> {
        (self.lowest as i32..=self.highest as i32).map(|decade| 10f64.powi(decade))
    }
}

impl Panel {
    fn draw(&self) -> String {
        let points = || self.curves.iter().flat_map(|(_, points)| points.iter().copied());
        let across = Scale::over(points().map(|(x, _)| x), LEFT, RIGHT);
        let up = Scale::over(points().map(|(_, y)| y), BOTTOM, TOP);
        let mut out = words(LEFT, 18.0, "start", "#000000", &format!("{}, by {}", self.unit, self.title));
        for decade in up.decades() {
            let y = up.place(decade);
            out += &line(LEFT, y, RIGHT, y, "#dddddd");
            out += &words(LEFT - 6.0, y + 4.0, "end", "#000000", &name(decade));
        }
        for decade in across.decades() {
            let x = across.place(decade);
            out += &line(x, TOP, x, BOTTOM, "#eeeeee");
            out += &words(x, BOTTOM + 18.0, "middle", "#000000", &name(decade));
        }
        for (number, ((what, points), colour)) in self.curves.iter().zip(COLOURS).enumerate() {
            let placed: Vec<_> = points.iter().map(|(x, y)| (across.place(*x), up.place(*y))).collect();
            placed.windows(2).for_each(|ends| out += &line(ends[0].0, ends[0].1, ends[1].0, ends[1].1, colour));
            placed.iter().for_each(|(x, y)| out += &dot(*x, *y, colour));
            out += &words(LEFT + 8.0, TOP + 14.0 * (number as f64 + 1.0), "start", colour, what);
        }
        out
    }
}

fn name(decade: f64) -> String {
    if decade >= 1_000_000.0 { format!("{:.0} M", decade / 1e6) } else { format!("{decade}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_point_is_a_dot_within_its_panel() {
        let scale = Scale::over([3.0, 250.0].into_iter(), BOTTOM, TOP);
        assert_eq!((scale.place(1.0), scale.place(1000.0)), (BOTTOM, TOP));
        let panel = Panel {
            title: "x",
            unit: "y",
            curves: vec![("a", vec![(1.0, 3.0), (10.0, 250.0)]), ("b", vec![(1.0, 9.0)])],
        };
        assert_eq!(panel.draw().matches("<circle").count(), 3);
        assert!(!Panel { title: "x", unit: "y", curves: vec![("a", vec![])] }.draw().contains("NaN"));
    }
}
