//! `understudy upgrade` on real processes, with clients. From one program to the same one here; `cargo xtask upgrade` takes the one of
//! the commit before.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::ensure;
use understudy::config::NodeName;
use understudy_drill::stage::plan;
use understudy_drill::upgrade::{Order, run};
use understudy_drill::{Stage, play};

const PROGRAM: &str = env!("CARGO_BIN_EXE_understudy-drilled");

/// Several times what the test takes on a busy machine.
const LIMIT: Duration = Duration::from_secs(240);

#[test]
fn both_nodes_are_replaced_under_clients_that_lose_nothing() {
    play(LIMIT, |folder| {
        let program = PathBuf::from(PROGRAM);
        let report = run(&Order { old: program.clone(), new: program, folder: folder.to_owned(), seed: 1 })?;
        ensure!(report.acknowledged_writes > 0, "nobody wrote");
        let same = report.told.iter().filter(|line| line.contains("was the program replaced?")).count();
        ensure!(same == 2, "it noticed {same} times that the program was not replaced: {:#?}", report.told);
        Ok(())
    });
}

/// The operator's command is run for the node whose turn it is; if it fails, nothing more is done, and what to do is said.
#[test]
fn a_restart_command_that_fails_ends_it_and_the_next_run_goes_on_from_there() {
    play(LIMIT, |folder| {
        let mut stage = Stage::set_up(plan(PROGRAM, folder))?;
        stage.start_clients(1)?;
        let file = stage.pair.config().file.display().to_string();
        let upgrade = |restart: &str| {
            Command::new(PROGRAM).args(["upgrade", "--node", "a", "--pair", &file, "--restart", restart]).output()
        };
        let ended = upgrade("test \"$UNDERSTUDY_NODE\" = b")?;
        let said = String::from_utf8_lossy(&ended.stderr).into_owned();
        ensure!(!ended.status.success() && said.contains("put node a right"), "it said {said}");
        let status = stage.pair.status(NodeName::B)?;
        ensure!(status.state == "RELEASED", "node b serves both, and is {}", status.state);

        let process = stage.pair.process_of(NodeName::A).expect("node a runs");
        let leading = std::thread::spawn({
            let file = file.clone();
            move || {
                let restart = format!("kill -TERM {process}");
                Command::new(PROGRAM).args(["upgrade", "--node", "a", "--pair", &file, "--restart", &restart]).output()
            }
        });
        stage.pair.wait_for_end(NodeName::A, Duration::from_secs(60))?;
        stage.pair.start(NodeName::A)?;
        let ended = leading.join().expect("no panic")?;
        let said = String::from_utf8_lossy(&ended.stdout).into_owned();
        ensure!(ended.status.success() && said.contains("serves its volumes already"), "it said {said}");
        stage.conclude()
    });
}
