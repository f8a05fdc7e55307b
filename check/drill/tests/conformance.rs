//! libiscsi's suite against a volume of a pair and a disk of the shelf: nothing hangs, the node lives on, clients elsewhere go on, and nothing fails
//! but what is known to be the suite's own mistake.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, ensure};
use understudy::config::NodeName;
use understudy::harness::{Pair, Plan};
use understudy_drill::conformance::{Choice, Kind};
use understudy_drill::registered::registered_on;
use understudy_drill::stage::plan;
use understudy_drill::{Stage, conformance, play};

/// Several times what the whole suite takes on a busy machine.
const LIMIT: Duration = Duration::from_secs(240);

fn on_large_disks(folder: &Path, volume_bytes: u64) -> Plan {
    Plan { disk_bytes: 256 << 20, volume_bytes, ..plan(env!("CARGO_BIN_EXE_understudy-drilled"), folder) }
}

#[test]
fn libiscsis_suite_neither_hangs_nor_ends_a_node_nor_fails_unexplained() {
    if !conformance::is_present() {
        return;
    }
    play(LIMIT, |folder| {
        let mut stage = Stage::set_up(on_large_disks(folder, 128 << 20))?;
        stage.start_client(NodeName::B, 1)?;
        let incarnation = stage.pair.status(NodeName::A)?.incarnation;
        let program = conformance::Program::ask(conformance::INSTALLED)?;
        let results = conformance::run_all(&program, &conformance::volume_of(&stage)?, Choice::Every, |suite| {
            ensure!(stage.pair.status(NodeName::A)?.incarnation == incarnation, "node a restarted in {suite}");
            Ok(())
        })?;
        conformance::demand_all_explained(&results)?;
        stage.conclude()
    });
}

#[test]
fn libiscsis_suite_fails_nothing_unexplained_through_the_partner() {
    if !conformance::is_present() {
        return;
    }
    play(LIMIT, |folder| {
        let stage = Stage::set_up(on_large_disks(folder, 128 << 20))?;
        let program = conformance::Program::ask(conformance::INSTALLED)?;
        let door = conformance::volume_through_partner(&stage)?;
        let results = conformance::run_all(&program, &door, Choice::Every, |_| Ok(()))?;
        conformance::demand_all_explained(&results)?;
        stage.conclude()
    });
}

#[test]
fn libiscsis_suite_fails_nothing_unexplained_on_thin_and_write_protected_volumes_behind_chap() {
    if !conformance::is_present() {
        return;
    }
    play(LIMIT, |folder| {
        let more = conformance::access_by_proof();
        let stage = Stage::set_up(Plan { more, ..on_large_disks(folder, 16 << 20) })?;
        let program = conformance::Program::ask(conformance::INSTALLED)?;
        for kind in [Kind::Thin, Kind::WriteProtected] {
            let door = conformance::new_volume(&stage, kind, 128 << 20)?;
            let results = conformance::run_all(&program, &door, kind.choice(), |_| Ok(()))?;
            conformance::demand_all_explained(&results)?;
        }
        stage.conclude()
    });
}

#[test]
fn libiscsis_suite_neither_hangs_nor_ends_a_shelf_nor_fails_unexplained() {
    if !conformance::is_present() {
        return;
    }
    play(LIMIT, |folder| {
        let mut pair = Pair::lay_out(plan(env!("CARGO_BIN_EXE_understudy-drilled"), folder))?;
        pair.start_shelf()?;
        let program = conformance::Program::ask(conformance::INSTALLED)?;
        let results = conformance::run_all(&program, &conformance::last_disk_of(&pair)?, Choice::Every, |_| Ok(()))?;
        conformance::demand_all_explained(&results)?;
        // Still there, and its other disks are as they were.
        let config = pair.config();
        let keys = registered_on(config.disks.first().context("no disks")?, config)?;
        ensure!(keys.is_empty(), "keys on another disk: {keys:?}");
        Ok(())
    });
}
