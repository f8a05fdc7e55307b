//! Prints `docs/conformance.md`: starts a pair and runs libiscsi's suite against one of its volumes.
//!
//! Started by itself with the arguments of a node or a shelf it is one, so that it needs no other program.

use std::path::Path;
use std::process::ExitCode;

use anyhow::ensure;
use understudy::harness::{Pair, Plan};
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
    let folder = || tempfile::Builder::new().prefix("understudy-conformance-").tempdir();
    let (of_shelf, of_pair) = (folder()?, folder()?);
    let plan = |folder: &Path| Plan { disk_bytes: 256 << 20, volume_bytes: 128 << 20, ..Plan::small(folder) };
    let tell = |suite: &str| {
        eprintln!("{suite}");
        Ok(())
    };
    let mut bare = Pair::lay_out(plan(of_shelf.path()))?;
    bare.start_shelf()?;
    let disk = conformance::run_all(&conformance::last_disk_of(&bare)?, tell)?;
    drop(bare);
    let stage = Stage::set_up(plan(of_pair.path()))?;
    let volume = conformance::run_all(&conformance::volume_of(&stage)?, tell)?;
    print!("{}", conformance::document(&[("A volume of a pair", volume), ("A disk of `understudy shelf`", disk)]));
    Ok(())
}
