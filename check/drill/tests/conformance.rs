//! libiscsi's suite against a volume of a pair: nothing hangs, the node lives on, clients elsewhere go on, and nothing fails
//! but what is known to be the suite's own mistake.

use std::time::Duration;

use anyhow::ensure;
use understudy::config::NodeName;
use understudy::harness::{Plan, volume_name};
use understudy_drill::stage::plan;
use understudy_drill::{Stage, conformance, play};

/// Several times what the whole suite takes on a busy machine.
const LIMIT: Duration = Duration::from_secs(240);

#[test]
fn libiscsis_suite_neither_hangs_nor_ends_a_node_nor_fails_unexplained() {
    if !conformance::is_present() {
        return;
    }
    play(LIMIT, |folder| {
        let plan = Plan {
            disk_bytes: 256 << 20,
            volume_bytes: 128 << 20,
            ..plan(env!("CARGO_BIN_EXE_understudy-drilled"), folder)
        };
        let mut stage = Stage::set_up(plan)?;
        stage.start_client(NodeName::B, 1)?;
        let incarnation = stage.pair.status(NodeName::A)?.incarnation;
        let address = stage.address_of(&volume_name(NodeName::A, 0), NodeName::A)?;
        let url = format!("iscsi://{}/{}/{}", address.portal, address.target, address.lun);
        let mut results = Vec::new();
        for suite in conformance::suites()? {
            results.push(conformance::run_suite(&url, &suite)?);
            ensure!(stage.pair.status(NodeName::A)?.incarnation == incarnation, "node a restarted in {suite}");
        }
        println!("{}", conformance::document(&results));
        let broken: Vec<_> = results.iter().filter(|result| result.broken.is_some()).collect();
        ensure!(broken.is_empty(), "did not get to their end: {broken:?}");
        let failed: Vec<String> = results.iter().flat_map(conformance::SuiteResult::failed).collect();
        let unexplained: Vec<_> =
            failed.iter().filter(|name| !conformance::MISTAKEN.iter().any(|(known, _)| known == name)).collect();
        ensure!(unexplained.is_empty(), "failed: {unexplained:?}");
        ensure!(results.iter().map(|result| result.tests.len()).sum::<usize>() > 100, "hardly any test ran");
        stage.conclude()
    });
}
