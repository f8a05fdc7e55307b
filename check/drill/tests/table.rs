//! Some cells of the table of drills, at least one of every fault, at the steps where most hangs on it. `cargo xtask drill` plays
//! all of them.

use std::path::Path;

use understudy_drill::play;
use understudy_drill::table::{Order, Verdict, run};

/// Several times what the cells of a test take on a busy machine.
const LIMIT: std::time::Duration = std::time::Duration::from_secs(180);

/// Plays the cells of these names on one pair; those that cut cables are skipped where there is no right to make networks.
fn cells(names: &[&'static str]) {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    play(LIMIT, move |folder: &Path| {
        let order = Order {
            program: env!("CARGO_BIN_EXE_understudy-drilled").into(),
            parent: folder.to_owned(),
            only: names.clone(),
            workers: 1,
            seed: 1,
        };
        let outcomes = run(&order, |outcome, number| eprintln!("{number}: {outcome:?}"))?;
        anyhow::ensure!(outcomes.len() == names.len(), "{} cells for {} names", outcomes.len(), names.len());
        let failed: Vec<_> = outcomes.iter().filter(|outcome| outcome.verdict == Verdict::Failed).collect();
        anyhow::ensure!(failed.is_empty(), "{failed:#?}");
        Ok(())
    });
}

#[test]
fn a_cut_interconnect_stops_no_service_and_is_got_over() {
    cells(&[
        "bring-up/home/page-givewait/interconnect-cut",
        "bring-up/survivor/held/interconnect-cut",
        "giveback/survivor/announced/interconnect-muted/survivor",
    ]);
}

#[test]
fn a_node_cut_from_all_disks_writes_nothing_and_comes_home() {
    cells(&[
        "bring-up/survivor/holding/disk-path-cut/survivor",
        "planned-takeover/survivor/commit-read/disk-path-cut/survivor",
    ]);
}

#[test]
fn a_shelf_that_stops_or_dies_in_the_middle_of_a_commit_or_contest_is_used_again() {
    cells(&["bring-up/survivor/commit-sent/shelf-killed", "takeover/survivor/contest-won/shelf-stopped"]);
}

#[test]
fn slow_and_failing_disks_delay_a_giveback_and_do_not_break_it() {
    cells(&["giveback/survivor/held/disk-slow", "bring-up/home/disks-initialised/disk-failing"]);
}

#[test]
fn an_operator_may_ask_for_the_opposite_at_any_moment() {
    cells(&[
        "takeover/survivor/fenced/opposite-asked",
        "planned-takeover/home/held/opposite-asked",
        "giveback/home/commit-read/opposite-asked",
    ]);
}

#[test]
fn a_node_with_an_old_configuration_gets_no_pool_and_takes_none() {
    cells(&[
        "bring-up/home/page-mbwait/old-configuration/home",
        "bring-up/survivor/reservations-released/old-configuration/survivor",
    ]);
}

#[test]
fn a_node_stopped_in_a_hand_off_leaves_no_late_write() {
    cells(&[
        "giveback/survivor/commit-sent/stopped-1s/survivor",
        "planned-takeover/home/held/stopped-long/home",
        "planned-takeover/survivor/serving/killed/survivor",
    ]);
}
