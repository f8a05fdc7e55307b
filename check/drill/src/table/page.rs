//! The table as a page: a row a step, a column a fault, so that it can be read at all.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::{Outcome, Run, Verdict, explanation};
use crate::cell::cells;
use crate::fault::Fault;

/// How to read it.
const LEGEND: &str = "\
Written by `cargo xtask drill --markdown FILE`; what the rows and columns mean is told in [drills.md](drills.md).

A number is the longest pause any client saw from its start to the end of the cell, in milliseconds; most of it is the fault itself.
Where a fault hits one node, `h:` stands for the node whose pools move and `s:` for its partner. `*`: something was noticed, and it is
right so (the reasons are below). `-`: not played, cables could not be cut.
";

/// Outcomes as a page of markdown: how to read it, counts, a table for each story, and what was noticed.
#[must_use]
pub fn page(run: &Run) -> String {
    let outcomes = &run.cells;
    let [passed, explained, failed, skipped] =
        [Verdict::Passed, Verdict::Explained, Verdict::Failed, Verdict::Skipped].map(|verdict| run.count(verdict));
    let mut stories: Vec<&str> = outcomes.iter().map(|outcome| outcome.step[0].as_str()).collect();
    stories.dedup();
    let mut out = format!(
        "# The table of drills\n\n{LEGEND}\n{} cells: {passed} passed, {explained} explained, {failed} failed, {skipped} skipped, in \
         {:.0} minutes.\n\n",
        outcomes.len(),
        run.seconds / 60.0
    );
    out += &of_network(outcomes);
    for story in stories {
        let of_story: Vec<&Outcome> = outcomes.iter().filter(|outcome| outcome.step[0] == story).collect();
        out += &of_one_story(story, &of_story);
    }
    out + &remarks(outcomes)
}

/// Later than this the drill's own network is no small part of a pause any more.
const LATE_MS: f64 = 50.0;

/// How much of the pauses is not the pair's; nothing if that is little.
fn of_network(outcomes: &[Outcome]) -> String {
    let late: Vec<f64> =
        outcomes.iter().map(|outcome| outcome.network_late_ms).filter(|late| *late > LATE_MS).collect();
    if late.is_empty() {
        return String::new();
    }
    let latest = late.iter().copied().fold(0.0, f64::max);
    format!(
        "In {} cells the drill's own network was more than {LATE_MS:.0} ms late, up to {latest:.0} ms, with leading clients to where a portal \
         had moved, for want of processor time: as much of their pauses is not the pair's.\n\n",
        late.len()
    )
}

/// Each reason once, with the number of its cells, and every failure.
fn remarks(outcomes: &[Outcome]) -> String {
    let mut out = String::new();
    let mut reasons: BTreeMap<&str, usize> = BTreeMap::new();
    let known: BTreeMap<String, &str> =
        cells().into_iter().filter_map(|cell| Some((cell.to_string(), explanation(cell)?))).collect();
    for outcome in outcomes.iter().filter(|outcome| outcome.verdict == Verdict::Explained) {
        // What was noticed stands in the outcome, too, and differs from cell to cell.
        *reasons.entry(known.get(&outcome.cell).copied().unwrap_or(&outcome.reason)).or_default() += 1;
    }
    if !reasons.is_empty() {
        out += "### Explained\n\n";
    }
    for (reason, cells) in reasons {
        // Writing to a string does not fail.
        let _ = writeln!(out, "- {cells} cells: {reason}.");
    }
    for outcome in outcomes.iter().filter(|outcome| outcome.verdict == Verdict::Failed) {
        let _ = writeln!(out, "- FAILED {}: {}", outcome.cell, outcome.reason.lines().next().unwrap_or_default());
    }
    out
}

fn of_one_story(story: &str, outcomes: &[&Outcome]) -> String {
    let columns: Vec<&str> = Fault::ALL
        .into_iter()
        .map(Fault::name)
        .filter(|fault| outcomes.iter().any(|outcome| outcome.fault == *fault))
        .collect();
    let mut rows: Vec<(&str, &str)> =
        outcomes.iter().map(|outcome| (outcome.step[1].as_str(), outcome.step[2].as_str())).collect();
    rows.dedup();
    let mut marks: BTreeMap<(&str, &str, &str), Vec<String>> = BTreeMap::new();
    for outcome in outcomes {
        let place = (outcome.step[1].as_str(), outcome.step[2].as_str(), outcome.fault.as_str());
        marks.entry(place).or_default().push(mark(outcome));
    }
    let mut out = format!(
        "### {story}\n\n| seen at | step | {} |\n|---|---|{}\n",
        columns.join(" | "),
        "---|".repeat(columns.len())
    );
    for (role, step) in rows {
        let cells =
            columns.iter().map(|fault| marks.get(&(role, step, *fault)).map_or(String::new(), |marks| marks.join(" ")));
        // Writing to a string does not fail.
        let _ = writeln!(out, "| {role} | {step} | {} |", cells.collect::<Vec<_>>().join(" | "));
    }
    out.push('\n');
    out
}

/// The longest pause in milliseconds, with the victim's first letter where there are two.
fn mark(outcome: &Outcome) -> String {
    let victim = outcome.victim.chars().next().map_or(String::new(), |letter| format!("{letter}:"));
    match outcome.verdict {
        Verdict::Passed => format!("{victim}{:.0}", outcome.longest_pause_ms),
        Verdict::Explained => format!("{victim}{:.0}\\*", outcome.longest_pause_ms),
        Verdict::Failed => format!("{victim}**FAILED**"),
        Verdict::Skipped => format!("{victim}-"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::outcome;

    #[test]
    fn a_late_network_is_told_and_one_that_was_not_is_not() {
        let of = |late: &[f64]| -> Vec<Outcome> {
            let cell = cells()[0];
            late.iter()
                .map(|late| Outcome { network_late_ms: *late, ..outcome(cell, Verdict::Passed, String::new()) })
                .collect()
        };
        assert_eq!(of_network(&of(&[2.0, LATE_MS])), "");
        let told = of_network(&of(&[60.0, 2.0, 700.0]));
        assert!(told.starts_with("In 2 cells") && told.contains("up to 700 ms"), "{told}");
    }
}
