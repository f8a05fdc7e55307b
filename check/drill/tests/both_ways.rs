//! Clients with a way through either node, while pools move: whoever came through the partner keeps its session through every move.

use std::time::Duration;

use anyhow::ensure;
use understudy::admin::{Request, Response, SoftVetoes, TakeoverKind};
use understudy::config::NodeName;
use understudy::harness::Plan;
use understudy_drill::stage::{Ways, plan};
use understudy_drill::{Stage, play};

/// Several times what a test takes on a busy machine.
const LIMIT: Duration = Duration::from_secs(90);

/// How long a node may take to answer a request for a hand-off.
const ANSWER_WITHIN: Duration = Duration::from_secs(20);

/// There and back.
const ROUNDS: usize = 3;

fn demand_done(stage: &Stage, request: &Request) -> anyhow::Result<()> {
    let response = stage.pair.ask(NodeName::B, request, ANSWER_WITHIN)?;
    ensure!(matches!(response, Response::Done { .. }), "{request:?} was answered {response:?}");
    Ok(())
}

fn set_up(folder: &std::path::Path, ways: Ways) -> anyhow::Result<Stage> {
    let mut stage = Stage::set_up(plan(env!("CARGO_BIN_EXE_understudy-drilled"), folder))?;
    stage.ways = ways;
    stage.start_client(NodeName::A, 1)?;
    Ok(stage)
}

fn there_and_back(stage: &mut Stage) -> anyhow::Result<()> {
    stage.wait_for("all mirrors are in step", |stage| {
        NodeName::BOTH.iter().all(|node| {
            stage.pair.status(*node).is_ok_and(|status| {
                status.pools.iter().flat_map(|pool| &pool.mirrors).all(|mirror| mirror.resync_left_bytes == 0)
            })
        })
    })?;
    for round in 1..=ROUNDS {
        stage.wait_for("b sees a UP", |stage| {
            stage.pair.status(NodeName::B).is_ok_and(|status| status.partner.state == "UP")
        })?;
        demand_done(stage, &Request::Takeover { kind: TakeoverKind::Planned })?;
        stage.wait_until_clients_go_on(&format!("after takeover {round}"))?;
        stage.wait_for("a waits for its pools", |stage| {
            stage.pair.status(NodeName::B).is_ok_and(|status| status.partner.state == "MBWAIT")
        })?;
        demand_done(stage, &Request::Giveback { soft_vetoes: SoftVetoes::Respect })?;
        stage.wait_until_home()?;
        stage.wait_until_clients_go_on(&format!("after giveback {round}"))?;
    }
    Ok(())
}

#[test]
fn a_session_through_the_partner_outlives_planned_moves_and_no_command_of_it_fails_or_has_to_be_repeated() {
    play(LIMIT, |folder| {
        let mut stage = set_up(folder, Ways::Other)?;
        there_and_back(&mut stage)?;
        ensure!(stage.connection_losses() == [0], "sessions were lost: {:?}", stage.connection_losses());
        ensure!(stage.told_to_repeat() == [0], "commands had to be repeated: {:?}", stage.told_to_repeat());
        stage.conclude()
    });
}

#[test]
fn a_client_with_both_ways_loses_nothing_in_planned_moves() {
    play(LIMIT, |folder| {
        let mut stage = set_up(folder, Ways::Both)?;
        there_and_back(&mut stage)?;
        ensure!(stage.told_to_repeat() == [0], "commands had to be repeated: {:?}", stage.told_to_repeat());
        stage.conclude()
    });
}

#[test]
fn a_session_through_the_partner_outlives_the_death_of_the_node_that_had_the_pool() {
    play(LIMIT, |folder| {
        let mut stage = set_up(folder, Ways::Other)?;
        stage.lose(NodeName::A)?;
        stage.wait_until_clients_go_on("after the takeover")?;
        stage.pair.start(NodeName::A)?;
        stage.wait_until_home()?;
        stage.wait_until_clients_go_on("after the giveback")?;
        ensure!(stage.connection_losses() == [0], "sessions were lost: {:?}", stage.connection_losses());
        stage.conclude()
    });
}

#[test]
fn a_client_with_both_ways_outlives_the_death_of_either_node() {
    play(LIMIT, |folder| {
        let mut stage = set_up(folder, Ways::Both)?;
        for node in NodeName::BOTH {
            stage.lose(node)?;
            stage.wait_until_clients_go_on(&format!("after the death of {node}"))?;
            stage.pair.start(node)?;
            stage.wait_until_home()?;
            stage.wait_until_clients_go_on(&format!("after {node} is back"))?;
        }
        stage.conclude()
    });
}

/// Commands long enough that their data is moved by RDMA: here by shared memory of this host.
#[test]
fn data_of_long_commands_through_the_partner_goes_by_rdma_and_is_right_after_moves_and_deaths() {
    play(LIMIT, |folder| {
        let program = env!("CARGO_BIN_EXE_understudy-drilled");
        let mut stage = Stage::set_up(Plan { provider: "shm".to_owned(), ..plan(program, folder) })?;
        (stage.ways, stage.command_bytes) = (Ways::Other, 128 << 10);
        stage.start_client(NodeName::A, 1)?;
        wait_until_data_goes_by_rdma(&mut stage)?;
        stage.lose(NodeName::A)?;
        stage.wait_until_clients_go_on("after the takeover")?;
        stage.pair.start(NodeName::A)?;
        stage.wait_until_home()?;
        stage.wait_until_clients_go_on("after the giveback")?;
        // Its new run counts from zero.
        wait_until_data_goes_by_rdma(&mut stage)?;
        stage.lose(NodeName::B)?;
        stage.pair.start(NodeName::B)?;
        stage.wait_until_home()?;
        stage.wait_until_clients_go_on("after the forwarding node is back")?;
        stage.conclude()
    });
}

fn wait_until_data_goes_by_rdma(stage: &mut Stage) -> anyhow::Result<()> {
    stage.wait_for("the owner moves data by RDMA", |stage| {
        stage.pair.status(NodeName::A).is_ok_and(|status| status.partner.moved_by_rdma > 10)
    })
}
