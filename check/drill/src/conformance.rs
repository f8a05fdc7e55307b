//! libiscsi's conformance suite, `iscsi-test-cu`, against one logical unit: run suite by suite, counted, told as a table.
//!
//! The program's own summary calls a test that skipped itself *passed*; here it is counted as skipped. Each suite is a
//! process of its own with a limit, so that one that hangs is told from one that fails and the rest still runs.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::os::unix::process::ExitStatusExt;

use anyhow::{Context, ensure};
use understudy::config::NodeName;
use understudy::harness::{Pair, volume_name};

use crate::{Stage, tools};

/// The families run. `LINUX` and `ALL` hold the same tests again.
const FAMILIES: [&str; 2] = ["SCSI", "iSCSI"];

/// A suite takes a second or two; the slowest wait for timeouts of their own.
const SUITE_SECONDS: u32 = 60;

/// Tests of the suite that fail against a target that does what the standard says, and why.
pub const MISTAKEN: [(&str, &str); 2] = [
    (
        "SCSI.GetLBAStatus.UnmapSingle",
        "expects a descriptor that begins at another LBA than the one asked for, which only holds with more than one logical \
         block per physical block",
    ),
    (
        "SCSI.WriteSame10.UnmapUntilEnd",
        "sends a block of FFh with the UNMAP bit and expects zeroes to be read; SBC-3 r36 §4.7.3.4.4 wants the data written \
         where unmapped blocks would read differently",
    ),
];

/// Whether the program is installed; says so in one line if not.
#[must_use]
pub fn is_present() -> bool {
    tools::present(&["iscsi-test-cu", "timeout"], "libiscsi-bin coreutils")
}

/// How one test ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending {
    /// Every assertion held.
    Passed,
    /// It says that the target cannot be tested so, with its reason.
    Skipped(String),
    /// An assertion failed, with what was said.
    Failed(String),
}

/// What came of one suite.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SuiteResult {
    /// `FAMILY.SUITE`.
    pub name: String,
    /// Its tests by name, in order.
    pub tests: Vec<(String, Ending)>,
    /// If it did not get to its end: why.
    pub broken: Option<String>,
}

impl SuiteResult {
    fn count(&self, wanted: impl Fn(&Ending) -> bool) -> usize {
        self.tests.iter().filter(|(_, ending)| wanted(ending)).count()
    }

    fn counts(&self) -> [usize; 3] {
        [
            self.count(|ending| *ending == Ending::Passed),
            self.count(|ending| matches!(ending, Ending::Failed(_))),
            self.count(|ending| matches!(ending, Ending::Skipped(_))),
        ]
    }

    /// The tests that failed, as `FAMILY.SUITE.TEST`.
    #[must_use]
    pub fn failed(&self) -> Vec<String> {
        let failed = self.tests.iter().filter(|(_, ending)| matches!(ending, Ending::Failed(_)));
        failed.map(|(test, _)| format!("{}.{test}", self.name)).collect()
    }
}

/// The first volume of node a, as libiscsi writes it.
///
/// # Errors
/// Node a does not serve it.
pub fn volume_of(stage: &Stage) -> anyhow::Result<String> {
    let address = stage.address_of(&volume_name(NodeName::A, 0), NodeName::A)?;
    Ok(format!("iscsi://{}/{}/{}", address.portal, address.target, address.lun))
}

/// A disk of a shelf whose pair was not prepared yet, as libiscsi writes it.
///
/// # Errors
/// The pair has none.
pub fn last_disk_of(pair: &Pair) -> anyhow::Result<String> {
    let disk = pair.config().disks.last().context("the pair has no disks")?.url(NodeName::A);
    Ok(format!("iscsi://{}/{}/{}", disk.portal, disk.target, disk.lun))
}

/// The suites the installed program has.
///
/// # Errors
/// It cannot be asked.
pub fn suites() -> anyhow::Result<Vec<String>> {
    let output = tools::run("iscsi-test-cu", SUITE_SECONDS, &["--list"])?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    let is_suite = |word: &&str| {
        let mut parts = word.split('.');
        parts.next().is_some_and(|family| FAMILIES.contains(&family)) && parts.count() == 1
    };
    let suites: Vec<String> = text.split_whitespace().filter(is_suite).map(str::to_owned).collect();
    ensure!(!suites.is_empty(), "iscsi-test-cu --list named no suite of {}", FAMILIES.join(" or "));
    Ok(suites)
}

/// Runs one suite against the logical unit at `url`; what is on it is lost.
///
/// # Errors
/// The program cannot be started.
pub fn run_suite(url: &str, suite: &str) -> anyhow::Result<SuiteResult> {
    let arguments = ["--dataloss", "--verbose", "-t", suite, url];
    let output = tools::run("iscsi-test-cu", SUITE_SECONDS, &arguments).context("iscsi-test-cu")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    let tests = endings(&text);
    let broken = if output.status.code() == Some(137) || output.status.signal() == Some(9) {
        Some(format!("not over after {SUITE_SECONDS} s"))
    } else if let Some(signal) = output.status.signal() {
        Some(format!("ended by signal {signal}"))
    } else if !text.contains("Run Summary") {
        Some(format!("ended without a summary ({}): {}", output.status, text.trim()))
    } else {
        None
    };
    Ok(SuiteResult { name: suite.to_owned(), tests, broken })
}

/// How each test in what the program printed ended.
fn endings(text: &str) -> Vec<(String, Ending)> {
    let text = text.split("Run Summary").next().unwrap_or_default();
    text.split("  Test: ").skip(1).map(ending).collect()
}

fn ending(told: &str) -> (String, Ending) {
    let (name, rest) = told.split_once(" ...").unwrap_or((told, ""));
    let line_with = |word: &str| rest.lines().map(str::trim).find(|line| line.contains(word)).map(str::to_owned);
    // The verdict stands at the beginning of a line or right after the name. Elsewhere `[FAILED]` is the test's own remark about
    // a command, often about one that was meant to fail.
    let says = |verdict: &str| rest.lines().any(|line| line.starts_with(verdict));
    let ending = if let Some(skipped) = line_with("[SKIPPED]") {
        Ending::Skipped(skipped.replace("[SKIPPED]", "").trim().to_owned())
    } else if says("FAILED") {
        let words = line_with("[FAILED]").or_else(|| line_with("CU_")).unwrap_or_default();
        Ending::Failed(words.replace("[FAILED]", "").trim().to_owned())
    } else if says("passed") {
        Ending::Passed
    } else {
        Ending::Failed("it did not end".to_owned())
    };
    (name.trim().to_owned(), ending)
}

/// The table: one row a suite, then the sums.
#[must_use]
pub fn table(results: &[SuiteResult]) -> String {
    let mut out = "| suite | passed | failed | skipped |\n|---|---:|---:|---:|\n".to_owned();
    let mut sums = [0; 3];
    for result in results {
        let counts = result.counts();
        for (sum, count) in sums.iter_mut().zip(counts) {
            *sum += count;
        }
        let broken = result.broken.as_ref().map_or_else(String::new, |why| format!(" ({why})"));
        // Writing to a string can not fail.
        let _ = writeln!(out, "| {}{broken} | {} | {} | {} |", result.name, counts[0], counts[1], counts[2]);
    }
    let _ = writeln!(out, "| **all** | **{}** | **{}** | **{}** |", sums[0], sums[1], sums[2]);
    out
}

/// Runs every suite against the logical unit at `url`; what is on it is lost. `after` is called after each.
///
/// # Errors
/// The program cannot be run, or what `after` said.
pub fn run_all(url: &str, mut after: impl FnMut(&str) -> anyhow::Result<()>) -> anyhow::Result<Vec<SuiteResult>> {
    let run = |suite: String| {
        let result = run_suite(url, &suite)?;
        after(&suite)?;
        Ok(result)
    };
    suites()?.into_iter().map(run).collect()
}

/// Fails unless every suite got to its end and nothing failed that is not the suite's own mistake.
///
/// # Errors
/// What did not.
pub fn demand_all_explained(results: &[SuiteResult]) -> anyhow::Result<()> {
    let broken: Vec<_> = results.iter().filter(|result| result.broken.is_some()).collect();
    ensure!(broken.is_empty(), "did not get to their end: {broken:?}");
    let failed: Vec<String> = results.iter().flat_map(SuiteResult::failed).collect();
    let unexplained: Vec<_> = failed.iter().filter(|name| !MISTAKEN.iter().any(|(known, _)| known == name)).collect();
    ensure!(unexplained.is_empty(), "failed: {unexplained:?}");
    ensure!(results.iter().map(|result| result.tests.len()).sum::<usize>() > 100, "hardly any test ran");
    Ok(())
}

/// The whole document for `docs/conformance.md`: what was tested, and what came of it.
#[must_use]
pub fn document(tested: &[(&str, Vec<SuiteResult>)]) -> String {
    let mut out = DOCUMENT_HEAD.to_owned();
    for (what, results) in tested {
        // Writing to a string can not fail.
        let _ = writeln!(out, "\n## {what}\n\n{}\n{}\n{}", table(results), failures(results), skips(results));
    }
    out.truncate(out.trim_end().len());
    out + "\n"
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
            let why = MISTAKEN.iter().find(|(mistaken, _)| *mistaken == name).map(|(_, why)| *why);
            let why = why.map_or_else(|| format!("not explained. It says: {words}"), str::to_owned);
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

const DOCUMENT_HEAD: &str = "# Conformance

What libiscsi's suite `iscsi-test-cu` says of a volume of a pair and of a disk of the shelf. The file is written by

    cargo run -p understudy-drill --bin conformance-table > docs/conformance.md

which starts a pair, runs every suite of the families SCSI and iSCSI in a process of its own (`--dataloss`), and counts a test
that skipped itself as skipped, not as passed. The drill `conformance` demands in every run of the tests that no suite hangs, that
the node neither ends nor restarts, that clients elsewhere go on, and that nothing fails that is not explained here.
";

#[cfg(test)]
mod tests {
    use super::*;

    const SAID: &str = "Suite: Mixed\n  Test: Good ...passed\n  Test: Refused ...    [FAILED] as it should\npassed\n  Test: Left out ...    [SKIPPED] X is not implemented.\npassed\n  \
                        Test: Bad ...    [FAILED] LBA is wrong\nFAILED\n    1. test.c:12  - CU_FAIL\n  Test: Cut off ...\n\nRun \
                        Summary:    Type  Total\n  Test: not one ...passed";

    fn mixed() -> SuiteResult {
        SuiteResult { name: "SCSI.Mixed".to_owned(), tests: endings(SAID), broken: None }
    }

    #[test]
    fn a_test_that_skipped_itself_is_not_counted_as_passed() {
        let expected = [
            ("Good", Ending::Passed),
            ("Refused", Ending::Passed),
            ("Left out", Ending::Skipped("X is not implemented.".to_owned())),
            ("Bad", Ending::Failed("LBA is wrong".to_owned())),
            ("Cut off", Ending::Failed("it did not end".to_owned())),
        ];
        assert_eq!(mixed().tests, expected.map(|(name, ending)| (name.to_owned(), ending)));
    }

    #[test]
    fn the_table_sums_up_and_tells_what_broke() {
        let broken = SuiteResult { broken: Some("not over after 60 s".to_owned()), ..mixed() };
        let table = table(&[mixed(), broken]);
        assert!(table.contains("| SCSI.Mixed | 2 | 2 | 1 |"), "{table}");
        assert!(table.contains("| SCSI.Mixed (not over after 60 s) |"), "{table}");
        assert!(table.contains("| **all** | **4** | **4** | **2** |"), "{table}");
    }

    #[test]
    fn a_failure_nobody_explained_is_told_so() {
        let text = document(&[("Something", vec![mixed()])]);
        assert!(text.contains("- `SCSI.Mixed.Bad`: not explained"), "{text}");
        assert!(text.contains("- X is not implemented.: `SCSI.Mixed.Left out`"), "{text}");
    }
}
