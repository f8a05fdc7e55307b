//! The table as a page: a row a step, a column a fault, so that it can be read at all.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::{Outcome, Verdict};
use crate::fault::Fault;

/// Outcomes as markdown tables, one a story.
#[must_use]
pub fn page(outcomes: &[Outcome]) -> String {
    let mut stories: Vec<&str> = outcomes.iter().map(|outcome| outcome.step[0].as_str()).collect();
    stories.dedup();
    let mut out = String::new();
    for story in stories {
        let of_story: Vec<&Outcome> = outcomes.iter().filter(|outcome| outcome.step[0] == story).collect();
        out += &of_one_story(story, &of_story);
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
