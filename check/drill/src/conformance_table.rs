//! Prints `docs/conformance.md`: starts a pair and runs libiscsi's suite against one of its volumes.
//!
//! Started by itself with the arguments of a node or a shelf it is one, so that it needs no other program.

use std::process::ExitCode;

use anyhow::ensure;
use understudy::config::NodeName;
use understudy::harness::{Plan, volume_name};
use understudy_drill::{Stage, conformance};

fn main() -> ExitCode {
    if std::env::args().len() > 1 {
        return understudy::cli::main();
    }
    match print_document() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn print_document() -> anyhow::Result<()> {
    ensure!(conformance::is_present(), "without iscsi-test-cu there is nothing to tell");
    let folder = tempfile::Builder::new().prefix("understudy-conformance-").tempdir()?;
    let stage = Stage::set_up(Plan { disk_bytes: 256 << 20, volume_bytes: 128 << 20, ..Plan::small(folder.path()) })?;
    let address = stage.address_of(&volume_name(NodeName::A, 0), NodeName::A)?;
    let url = format!("iscsi://{}/{}/{}", address.portal, address.target, address.lun);
    let mut results = Vec::new();
    for suite in conformance::suites()? {
        eprintln!("{suite}");
        results.push(conformance::run_suite(&url, &suite)?);
    }
    print!("{}", conformance::document(&results));
    Ok(())
}
