//! What came of the conformance suite, told: as tables for people, as JSON for programs.
//!
//! Several subjects stand side by side, ours and a peer's, so that a figure always has one to be compared with.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use serde::Serialize;

use super::{Ending, Program, SUBSETS, SuiteResult, mistaken};

/// Passed, failed, skipped.
pub type Counts = [usize; 3];

/// One target that was tested.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Subject {
    /// What it is.
    pub name: String,
    /// Whether it is of this project, so that what failed there has to be explained.
    pub is_ours: bool,
    /// Sums by family, `ALL` among them.
    pub families: BTreeMap<String, Counts>,
    /// Suite by suite.
    pub suites: Vec<SuiteResult>,
}

impl Subject {
    /// Counts by family what `program`'s tests came to.
    #[must_use]
    pub fn new(name: &str, is_ours: bool, program: &Program, suites: Vec<SuiteResult>) -> Self {
        let mut families: BTreeMap<String, Counts> = BTreeMap::new();
        for suite in &suites {
            let family = suite.name.split('.').next().unwrap_or_default();
            add(families.entry(family.to_owned()).or_default(), suite.counts());
        }
        let mut by_test: BTreeMap<String, &Ending> = BTreeMap::new();
        for suite in &suites {
            let without_family = suite.name.split_once('.').map_or("", |(_, rest)| rest);
            by_test.extend(suite.tests.iter().map(|(test, ending)| (format!("{without_family}.{test}"), ending)));
        }
        let run: BTreeSet<&str> =
            suites.iter().filter_map(|suite| suite.name.split_once('.').map(|(_, rest)| rest)).collect();
        for family in SUBSETS {
            let sums = families.entry(family.to_owned()).or_default();
            let tests = program.tests_of(family);
            let tests = tests.filter(|test| test.split_once('.').is_some_and(|(suite, _)| run.contains(suite)));
            // A suite that hung leaves tests that were not come to: those are failures.
            tests.for_each(|test| add(sums, counted(by_test.get(test).copied())));
        }
        Self { name: name.to_owned(), is_ours, families, suites }
    }

    fn counts_of(&self, suite: &str) -> Option<Counts> {
        self.suites.iter().find(|result| result.name == suite).map(SuiteResult::counts)
    }
}

fn add(sums: &mut Counts, more: Counts) {
    sums.iter_mut().zip(more).for_each(|(sum, more)| *sum += more);
}

fn counted(ending: Option<&Ending>) -> Counts {
    match ending {
        Some(Ending::Passed) => [1, 0, 0],
        Some(Ending::Failed(_)) | None => [0, 1, 0],
        Some(Ending::Skipped(_)) => [0, 0, 1],
    }
}

/// One release of the suite against every subject.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Which release.
    pub release: String,
    /// What was tested.
    pub subjects: Vec<Subject>,
}

impl Report {
    /// As a section of markdown.
    #[must_use]
    pub fn section(&self) -> String {
        let mut out = format!("## {}\n\n{}", self.release, self.sums());
        for subject in self.subjects.iter().filter(|subject| subject.is_ours) {
            let _ = write!(out, "\n### {}\n\n{}\n{}", subject.name, failures(&subject.suites), skips(&subject.suites));
        }
        let _ = write!(out, "\n### Suite by suite\n\n{}", self.suites());
        out
    }

    /// Sums by family.
    #[must_use]
    pub fn sums(&self) -> String {
        let mut out = self.head("family");
        for family in ["ALL", "SCSI", "iSCSI", "LINUX"] {
            let counts = |subject: &Subject| subject.families.get(family).copied();
            self.row(&mut out, family, counts);
        }
        out
    }

    fn suites(&self) -> String {
        let mut out = self.head("suite");
        let names: BTreeSet<&str> =
            self.subjects.iter().flat_map(|subject| &subject.suites).map(|suite| suite.name.as_str()).collect();
        for name in names {
            self.row(&mut out, name, |subject| subject.counts_of(name));
        }
        out
    }

    fn head(&self, of: &str) -> String {
        let names: Vec<&str> = self.subjects.iter().map(|subject| subject.name.as_str()).collect();
        format!("| {of} | {} |\n|---|{}\n", names.join(" | "), "---:|".repeat(names.len()))
    }

    fn row(&self, out: &mut String, name: &str, counts: impl Fn(&Subject) -> Option<Counts>) {
        let cells = self.subjects.iter().map(|subject| match counts(subject) {
            Some([passed, failed, skipped]) => format!("{passed} / {failed} / {skipped}"),
            None => "not run".to_owned(),
        });
        // Writing to a string can not fail.
        let _ = writeln!(out, "| {name} | {} |", cells.collect::<Vec<_>>().join(" | "));
    }
}

fn failures(results: &[SuiteResult]) -> String {
    if results.iter().all(|result| result.failed().is_empty()) {
        return "Nothing failed.\n".to_owned();
    }
    let mut out = "Failed:\n\n".to_owned();
    for result in results {
        for (test, ending) in &result.tests {
            let Ending::Failed(words) = ending else { continue };
            let name = format!("{}.{test}", result.name);
            let why = mistaken(&name).map_or_else(|| format!("not explained. It says: {words}"), str::to_owned);
            let _ = writeln!(out, "- `{name}`: {why}");
        }
    }
    out
}

fn skips(results: &[SuiteResult]) -> String {
    let mut reasons: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for result in results {
        for (test, ending) in &result.tests {
            if let Ending::Skipped(reason) = ending {
                reasons.entry(reason).or_default().push(format!("`{}.{test}`", result.name));
            }
        }
    }
    let mut out = "Skipped by the test itself, in its own words:\n\n".to_owned();
    for (reason, tests) in reasons {
        let _ = writeln!(out, "- {reason}: {}", tests.join(", "));
    }
    out
}

/// The whole document for `docs/conformance.md`.
#[must_use]
pub fn document(reports: &[Report]) -> String {
    let sections: Vec<String> = reports.iter().map(Report::section).collect();
    format!("{DOCUMENT_HEAD}\n{}", sections.join("\n"))
}

const DOCUMENT_HEAD: &str = "# Conformance

What libiscsi's suite `iscsi-test-cu` says of volumes of a pair, of a disk of the shelf, and of tgtd beside them. The file is written by

    cargo xtask conformance --peer --markdown docs/conformance.md [--json FILE] [--suite FILE]...

which starts pairs, runs every suite of the families SCSI and iSCSI in a process of its own (`--dataloss`, two sessions where a test wants
two paths), and counts a test that skipped itself as skipped, not as passed: in the tables, passed / failed / skipped. `ALL` and `LINUX` hold
the same tests again. Tests behind one that failed are run again alone, because it may have left the suite's own state behind. *Through the partner* is a volume of node a
by the portal of node b, which forwards; its second session takes the own way. The thin volume and the
write-protected one are behind CHAP, so that the tests of CHAP can run; on the write-protected one only those suites are run that have nothing to write
(and `ReadOnly`, which writes and wants to be refused). `--suite` names other builds of `iscsi-test-cu`; `--url` tests a target that runs already, and **destroys what is on it**.

The drill `conformance` demands in every run of the tests that no suite hangs, that the node neither ends nor restarts, that clients elsewhere go
on, and that nothing fails that is not explained here.
";

#[cfg(test)]
mod tests {
    use super::*;

    fn program() -> Program {
        let tests = ["ALL.Mixed.Good", "ALL.Mixed.Bad", "ALL.Mixed.Never", "LINUX.Mixed.Good"];
        Program { file: String::new(), tests: tests.map(str::to_owned).to_vec() }
    }

    fn subject() -> Subject {
        let tests = [
            ("Good", Ending::Passed),
            ("Left out", Ending::Skipped("X is not implemented.".to_owned())),
            ("Bad", Ending::Failed("LBA is wrong".to_owned())),
        ];
        let tests = tests.map(|(name, ending)| (name.to_owned(), ending)).to_vec();
        let suite = SuiteResult { name: "SCSI.Mixed".to_owned(), tests, broken: None };
        Subject::new("Something", true, &program(), vec![suite])
    }

    #[test]
    fn families_are_counted_and_a_test_not_come_to_has_failed() {
        let subject = subject();
        assert_eq!(subject.families["SCSI"], [1, 1, 1]);
        assert_eq!(subject.families["ALL"], [1, 2, 0]);
        assert_eq!(subject.families["LINUX"], [1, 0, 0]);
    }

    #[test]
    fn a_failure_nobody_explained_is_told_so() {
        let report = Report { release: "a release".to_owned(), subjects: vec![subject()] };
        let text = document(&[report]);
        assert!(text.contains("- `SCSI.Mixed.Bad`: not explained"), "{text}");
        assert!(text.contains("- X is not implemented.: `SCSI.Mixed.Left out`"), "{text}");
        assert!(text.contains("| SCSI.Mixed | 1 / 1 / 1 |"), "{text}");
        assert!(text.contains("| ALL | 1 / 2 / 0 |"), "{text}");
    }
}
