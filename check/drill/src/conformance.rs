//! libiscsi's conformance suite, `iscsi-test-cu`, against one logical unit: run suite by suite, and counted.
//!
//! The program's own summary calls a test that skipped itself *passed*; here it is counted as skipped. Each suite is a
//! process of its own with a limit, so that one that hangs is told from one that fails and the rest still runs.
//! What came of it is told by [`crate::conformance::report`].

pub mod report;

use std::os::unix::process::ExitStatusExt;

use anyhow::{Context, bail, ensure};
use serde::Serialize;
use understudy::admin::{Protection, Provisioning, Request, Response};
use understudy::config::NodeName;
use understudy::harness::{Pair, volume_name};

use crate::stage::PATIENCE;
use crate::{Stage, tools};

/// The families run. Those of [`SUBSETS`] hold the same tests again.
const FAMILIES: [&str; 2] = ["SCSI", "iSCSI"];

/// Families whose tests are some of those run, counted from them.
pub const SUBSETS: [&str; 2] = ["ALL", "LINUX"];

/// A suite takes a second or two; the slowest wait for timeouts of their own.
const SUITE_SECONDS: u32 = 60;

/// Fewer tests than this are a mistake of whoever ran them: there are some forty that only read, and above two hundred in all.
const FEWEST: usize = 30;

/// The program as packages install it.
pub const INSTALLED: &str = "iscsi-test-cu";

/// Tests of the suite that fail against a target that does what the standard says, and why. Some are of later releases than others.
pub const MISTAKEN: [(&str, &str); 6] = [
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
    (
        "iSCSI.iSCSITMF.AbortTaskSimpleAsync",
        "demands that a command is still in its own library's queue right after it was issued; the library of that release sends at once",
    ),
    (
        "iSCSI.iSCSITMF.LUNResetSimpleAsync",
        "demands the same as `AbortTaskSimpleAsync`: that a command is still in its own library's queue right after it was issued",
    ),
    (
        "iSCSI.iSCSISendTargets.Simple",
        "asks for SendTargets=All in a normal session, which RFC 7143 appendix C allows in a discovery session only",
    ),
    (
        "iSCSI.iSCSISendTargets.Invalid",
        "waits for ever, without asking for anything, once its library has been answered NotUnderstood, as RFC 7143 §6.2 demands",
    ),
];

/// Which suites are run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Choice {
    /// Every one of the families.
    Every,
    /// Those that can be run where nothing can be written: most tests write something first, and would only tell that they could not.
    Reading,
}

/// Suites without a test that has to write.
const READING: [&str; 17] = [
    "SCSI.Inquiry",
    "SCSI.Mandatory",
    "SCSI.ModeSense6",
    "SCSI.NoMedia",
    "SCSI.Prefetch10",
    "SCSI.Prefetch16",
    "SCSI.PrinReadKeys",
    "SCSI.PrinReportCapabilities",
    "SCSI.PrinServiceactionRange",
    "SCSI.Read6",
    "SCSI.Read10",
    "SCSI.Read12",
    "SCSI.Read16",
    "SCSI.ReadCapacity10",
    "SCSI.ReadCapacity16",
    "SCSI.ReadOnly",
    "SCSI.TestUnitReady",
];

impl Choice {
    fn takes(self, suite: &str) -> bool {
        match self {
            Self::Every => FAMILIES.iter().any(|family| suite.split('.').next() == Some(family)),
            Self::Reading => READING.contains(&suite),
        }
    }
}

/// The program that holds the tests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    file: String,
    /// Every test as `FAMILY.SUITE.TEST`, families counted from others included.
    tests: Vec<String>,
}

impl Program {
    /// Asks it for its tests. `file` is a name on the path or where it is.
    ///
    /// # Errors
    /// It cannot be run, or names no tests.
    pub fn ask(file: &str) -> anyhow::Result<Self> {
        let output = tools::run(file, SUITE_SECONDS, &["--list"])?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        let tests: Vec<String> =
            text.split_whitespace().filter(|word| word.split('.').count() == 3).map(str::to_owned).collect();
        ensure!(!tests.is_empty(), "{file} --list named no tests");
        Ok(Self { file: file.to_owned(), tests })
    }

    fn suites(&self, choice: Choice) -> Vec<String> {
        let mut suites: Vec<String> = Vec::new();
        for test in &self.tests {
            let Some((suite, _)) = test.rsplit_once('.') else { continue };
            if choice.takes(suite) && suites.last().is_none_or(|last| last != suite) {
                suites.push(suite.to_owned());
            }
        }
        suites
    }

    /// The tests of one family, as `SUITE.TEST`.
    fn tests_of<'a>(&'a self, family: &'a str) -> impl Iterator<Item = &'a str> {
        self.tests.iter().filter_map(move |test| test.strip_prefix(family)?.strip_prefix('.'))
    }
}

/// Whether the program is installed; says so in one line if not.
#[must_use]
pub fn is_present() -> bool {
    tools::present(&[INSTALLED, "timeout"], "libiscsi-bin coreutils")
}

/// How one test ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ending {
    /// Every assertion held.
    Passed,
    /// It says that the target cannot be tested so, with its reason.
    Skipped(String),
    /// An assertion failed, with what was said.
    Failed(String),
}

/// What came of one suite.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
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

/// How the suite gets at a logical unit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Door {
    /// Where it is, as libiscsi writes it.
    url: String,
    /// The way of the second session, for the tests that want two paths.
    second_url: String,
    /// The second initiator's name.
    second: &'static str,
}

impl Door {
    /// Where everyone is let in under any name.
    #[must_use]
    pub fn open(url: String) -> Self {
        Self { second_url: url.clone(), url, second: SECOND_NAME }
    }
}

/// Names that the suite's initiators have.
const FIRST_NAME: &str = "iqn.2007-10.com.github:sahlberg:libiscsi:iscsi-test";
const SECOND_NAME: &str = "iqn.2007-10.com.github:sahlberg:libiscsi:iscsi-test-2";

/// The first volume of node a.
///
/// # Errors
/// Node a does not serve it.
pub fn volume_of(stage: &Stage) -> anyhow::Result<Door> {
    let address = stage.address_of(&volume_name(NodeName::A, 0), NodeName::A)?;
    Ok(Door::open(format!("iscsi://{}/{}/{}", address.portal, address.target, address.lun)))
}

/// The same volume through node b, which forwards, and by its own way for the tests that want two paths.
///
/// # Errors
/// Node a does not serve it.
pub fn volume_through_partner(stage: &Stage) -> anyhow::Result<Door> {
    let address = stage.address_of(&volume_name(NodeName::A, 0), NodeName::A)?;
    let url = |portal| format!("iscsi://{portal}/{}/{}", address.target, address.lun);
    let second_url = url(address.portal);
    Ok(Door { url: url(stage.pair.portal_of(NodeName::B)), second_url, second: SECOND_NAME })
}

/// What the suite proves itself with.
const USER: &str = "suite";
const SECRET: &str = "proof-of-the-suite";

/// For the file of a pair that lets in nobody but the suite, which has to prove who it is, so that its tests of CHAP can run. It knows MD5
/// only, and one secret; that belongs to one initiator, so both its sessions are one's.
#[must_use]
pub fn access_by_proof() -> String {
    format!(
        "[access]\nalgorithms = [\"sha3-256\", \"sha-256\", \"sha-1\", \"md5\"]\n\n[[initiator]]\nname = \"{FIRST_NAME}\"\nuser = \
         \"{USER}\"\nsecret = \"{SECRET}\"\n"
    )
}

/// What an own volume of node a is tested as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Every chunk is there.
    Thick,
    /// Chunks come and go.
    Thin,
    /// Nobody may write. Thin, so that commands that unmap are among those refused.
    WriteProtected,
}

impl Kind {
    /// The suites that can be run on it.
    #[must_use]
    pub fn choice(self) -> Choice {
        match self {
            Self::Thick | Self::Thin => Choice::Every,
            Self::WriteProtected => Choice::Reading,
        }
    }
}

/// A new volume of node a, whose pair demands [`access_by_proof`].
///
/// # Errors
/// Node a does not make it or does not serve it.
pub fn new_volume(stage: &Stage, kind: Kind, bytes: u64) -> anyhow::Result<Door> {
    let (name, provisioning) = match kind {
        Kind::Thick => ("tested-thick", Provisioning::Thick),
        Kind::Thin => ("tested-thin", Provisioning::Thin),
        Kind::WriteProtected => ("tested-protected", Provisioning::Thin),
    };
    let pool = stage.pair.config().pools.iter().find(|pool| pool.home == NodeName::A).context("node a has no pool")?;
    let create = Request::VolumeCreate { pool: pool.name.clone(), name: name.to_owned(), bytes, provisioning };
    demand_done(stage, &create)?;
    if kind == Kind::WriteProtected {
        let protection = Protection::WriteProtected;
        demand_done(stage, &Request::VolumeProtect { name: name.to_owned(), protection })?;
    }
    let address = stage.address_of(name, NodeName::A)?;
    let url = format!("iscsi://{USER}%{SECRET}@{}/{}/{}", address.portal, address.target, address.lun);
    Ok(Door { second_url: url.clone(), url, second: FIRST_NAME })
}

fn demand_done(stage: &Stage, request: &Request) -> anyhow::Result<()> {
    match stage.pair.ask(NodeName::A, request, PATIENCE)? {
        Response::Done { .. } | Response::Volumes { .. } => Ok(()),
        other => bail!("node a answered {other:?}"),
    }
}

/// A disk of a shelf whose pair was not prepared yet.
///
/// # Errors
/// The pair has none.
pub fn last_disk_of(pair: &Pair) -> anyhow::Result<Door> {
    let disk = pair.config().disks.last().context("the pair has no disks")?.url(NodeName::A);
    Ok(Door::open(format!("iscsi://{}/{}/{}", disk.portal, disk.target, disk.lun)))
}

/// Runs one suite against a logical unit, with two sessions there for the tests that want two paths.
///
/// A test that fails may leave the program in a state in which the ones behind it cannot run: those are run again, each in a process of its
/// own, and only that counts.
fn run_suite(program: &Program, door: &Door, suite: &str) -> anyhow::Result<SuiteResult> {
    let mut result = run_tests(program, door, suite)?;
    let failed = result.tests.iter().position(|(_, ending)| matches!(ending, Ending::Failed(_)));
    let behind = failed.map_or(result.tests.len(), |failed| failed + 1);
    for (test, ending) in &mut result.tests[behind..] {
        let alone = run_tests(program, door, &format!("{suite}.{test}"))?;
        if let Some((_, instead)) = alone.tests.into_iter().next() {
            *ending = instead;
        }
    }
    Ok(result)
}

/// Runs a suite, or one test of it, in one process.
fn run_tests(program: &Program, door: &Door, suite: &str) -> anyhow::Result<SuiteResult> {
    let Door { url, second_url, second } = door;
    let arguments = ["--dataloss", "--verbose", "--initiator-name-2", second, "-t", suite, url, second_url];
    let output = tools::run(&program.file, SUITE_SECONDS, &arguments)?;
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
        Ending::Skipped(without_time(&skipped.replace("[SKIPPED]", "")).to_owned())
    } else if says("FAILED") {
        let words = line_with("[FAILED]").or_else(|| line_with("CU_")).unwrap_or_default();
        Ending::Failed(without_time(&words.replace("[FAILED]", "")).to_owned())
    } else if says("passed") {
        Ending::Passed
    } else {
        Ending::Failed("it did not end".to_owned())
    };
    (name.trim().to_owned(), ending)
}

/// Newer releases put the time before every remark.
fn without_time(remark: &str) -> &str {
    remark.trim_start_matches(|c: char| c.is_ascii_digit() || c.is_whitespace() || "-:.".contains(c)).trim_end()
}

/// Runs suites against a logical unit; what is on it is lost. `after` is called after each.
///
/// # Errors
/// The program cannot be run, or what `after` said.
pub fn run_all(
    program: &Program,
    door: &Door,
    choice: Choice,
    mut after: impl FnMut(&str) -> anyhow::Result<()>,
) -> anyhow::Result<Vec<SuiteResult>> {
    let run = |suite: String| {
        let result = run_suite(program, door, &suite)?;
        after(&suite)?;
        Ok(result)
    };
    program.suites(choice).into_iter().map(run).collect()
}

/// Why a test fails that is mistaken itself.
#[must_use]
pub fn mistaken(test: &str) -> Option<&'static str> {
    MISTAKEN.iter().find(|(mistaken, _)| *mistaken == test).map(|(_, why)| *why)
}

/// Fails unless every suite got to its end and nothing failed that is not the suite's own mistake.
///
/// # Errors
/// What did not.
pub fn demand_all_explained(results: &[SuiteResult]) -> anyhow::Result<()> {
    // A suite that hangs leaves a test without an end, which is among those that failed; other ways to break name none.
    let silent = |result: &&SuiteResult| result.broken.is_some() && result.failed().is_empty();
    let silent: Vec<_> = results.iter().filter(silent).collect();
    ensure!(silent.is_empty(), "did not get to their end: {silent:?}");
    let failed: Vec<String> = results.iter().flat_map(SuiteResult::failed).collect();
    let unexplained: Vec<_> = failed.iter().filter(|name| mistaken(name).is_none()).collect();
    ensure!(unexplained.is_empty(), "failed: {unexplained:?}");
    ensure!(results.iter().map(|result| result.tests.len()).sum::<usize>() > FEWEST, "hardly any test ran");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAID: &str = "Suite: Mixed\n  Test: Good ...passed\n  Test: Refused ...    [FAILED] as it should\npassed\n  Test: Left out ...    2026-06-11 04:54:29.000001      [SKIPPED] X is not implemented.\npassed\n  \
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
}
