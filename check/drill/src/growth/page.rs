//! The figures of growth as markdown tables, for docs/growth.md.

use std::fmt::Write;

use super::{Point, Report, mebibytes};

/// The tables.
#[must_use]
pub fn page(report: &Report) -> String {
    let mut out = String::new();
    costs(&mut out, "volumes", &report.by_volumes);
    costs(&mut out, "sessions", &report.by_sessions);
    costs(&mut out, "commands under way", &report.by_depth);
    costs(&mut out, "bytes of a command", &report.by_bytes);
    out += "| volumes | memory, MiB | making one more, µs of processor time | a node at rest, % of a processor |\n|---:|---:|---:|---:|\n";
    for of in &report.volumes {
        let made = if of.creation_micros > 0.0 { format!("{:.0}", of.creation_micros) } else { String::new() };
        // Writing to a string does not fail.
        let _ = writeln!(out, "| {} | {:.1} | {made} | {:.1} |", of.volumes, mebibytes(of.own_bytes), of.idle_percent);
    }
    out += "\n| sessions | memory, MiB | the same once each has asked every volume | all that is resident |\n|---:|---:|---:|---:|\n";
    for of in &report.sessions {
        let visited = of.all_visited_bytes.map_or_else(String::new, |bytes| format!("{:.1}", mebibytes(bytes)));
        let (own, resident) = (mebibytes(of.own_bytes), mebibytes(of.resident_bytes));
        let _ = writeln!(out, "| {} | {own:.1} | {visited} | {resident:.1} |", of.sessions);
    }
    out += "\n| a giveback after | volumes | sessions at rest | pause, ms: median | lowest | highest |\n|---|---:|---:|---:|---:|---:|\n";
    for pauses in &report.pauses {
        let lowest = pauses.all_ms.iter().copied().fold(f64::INFINITY, f64::min);
        let highest = pauses.all_ms.iter().copied().fold(0.0, f64::max);
        let _ = writeln!(
            out,
            "| {} | {} | {} | {:.1} | {lowest:.1} | {highest:.1} |",
            pauses.after.words(),
            pauses.volumes,
            pauses.idle_sessions,
            pauses.median_ms
        );
    }
    out
}

fn costs(out: &mut String, what: &str, points: &[Point]) {
    let _ = writeln!(out, "| {what} | read, µs | write, µs |\n|---:|---:|---:|");
    for point in points {
        let _ = writeln!(out, "| {} | {:.1} | {:.1} |", point.at, point.read_micros, point.write_micros);
    }
    out.push('\n');
}
