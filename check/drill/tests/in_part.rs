//! Pools of one home at both nodes, on real processes: each moves by itself, clients keep their sessions, and either node may die.

use std::time::Duration;

use anyhow::ensure;
use understudy::admin::{Earnest, Provisioning, Request, Response, SoftVetoes, Status};
use understudy::config::NodeName;
use understudy::harness::Plan;
use understudy_drill::stage::{Ways, plan, serving};
use understudy_drill::{Stage, play};

/// Several times what a test takes on a busy machine.
const LIMIT: Duration = Duration::from_secs(90);

/// How long a node may take to answer a request for a hand-off.
const ANSWER_WITHIN: Duration = Duration::from_secs(20);

/// Two pools of each node, a client of each of node a's and one of node b's.
fn set_up(folder: &std::path::Path, ways: Ways, policy: &str) -> anyhow::Result<Stage> {
    let usual = plan(env!("CARGO_BIN_EXE_understudy-drilled"), folder);
    let more = usual.more.clone() + policy;
    let mut stage = Stage::set_up(Plan { pools: 2, more, ..usual })?;
    stage.ways = ways;
    for (node, index) in [(NodeName::A, 0), (NodeName::A, 1), (NodeName::B, 0)] {
        stage.add_client(node, index, 1 + index as u64)?;
    }
    stage.wait_until_clients_go_on("at the start")?;
    stage.wait_for("all mirrors are in step", |stage| {
        let in_step = |status: &Status| {
            status.pools.iter().flat_map(|pool| &pool.mirrors).all(|mirror| mirror.resync_left_bytes == 0)
        };
        NodeName::BOTH.iter().all(|node| stage.pair.status(*node).is_ok_and(|status| in_step(&status)))
    })?;
    Ok(stage)
}

fn ask(stage: &Stage, request: &Request) -> anyhow::Result<Response> {
    stage.pair.ask(NodeName::B, request, ANSWER_WITHIN)
}

fn demand_done(stage: &Stage, request: &Request) -> anyhow::Result<()> {
    let response = ask(stage, request)?;
    ensure!(matches!(response, Response::Done { .. }), "{request:?} was answered {response:?}");
    Ok(())
}

fn take_second(stage: &mut Stage) -> anyhow::Result<()> {
    let pools = vec!["pool-a2".to_owned()];
    let (soft_vetoes, earnest) = (SoftVetoes::Respect, Earnest::Do);
    demand_done(stage, &Request::TakeoverOf { pools, soft_vetoes, earnest })?;
    stage.wait_until_clients_go_on("after the relocation")
}

fn give_back(pool: &str) -> Request {
    Request::GivebackOf { pools: vec![pool.to_owned()], soft_vetoes: SoftVetoes::Respect, earnest: Earnest::Do }
}

fn wait_until_a_waits(stage: &mut Stage) -> anyhow::Result<()> {
    stage.wait_for("a waits for what is away", |stage| {
        stage.pair.status(NodeName::B).is_ok_and(|status| status.partner.state == "MBWAIT")
    })
}

fn demand_served(stage: &Stage, node: NodeName, pools: &[&str]) -> anyhow::Result<()> {
    let status = stage.pair.status(node)?;
    ensure!(serving(&status) == pools, "{node} serves {:?} instead of {pools:?}", serving(&status));
    Ok(())
}

/// A client that knows only one way keeps its session, whether the pool it uses goes or stays, and no command of it has to be sent again.
#[test]
fn one_pool_of_two_is_relocated_and_comes_home_and_no_session_ends() {
    for ways in [Ways::Own, Ways::Other] {
        play(LIMIT, move |folder| {
            let mut stage = set_up(folder, ways, "")?;
            for round in 1..=2 {
                take_second(&mut stage)?;
                wait_until_a_waits(&mut stage)?;
                demand_served(&stage, NodeName::A, &["pool-a"])?;
                demand_served(&stage, NodeName::B, &["pool-a2", "pool-b", "pool-b2"])?;
                demand_done(&stage, &give_back("pool-a2"))?;
                stage.wait_until_home()?;
                stage.wait_until_clients_go_on(&format!("after giveback {round}"))?;
            }
            ensure!(stage.connection_losses() == [0, 0, 0], "sessions were lost: {:?}", stage.connection_losses());
            ensure!(stage.told_to_repeat() == [0, 0, 0], "commands had to be repeated: {:?}", stage.told_to_repeat());
            stage.conclude()
        });
    }
}

#[test]
fn either_node_may_die_while_each_has_a_part() {
    for victim in NodeName::BOTH {
        play(LIMIT, move |folder| {
            let mut stage = set_up(folder, Ways::Both, "")?;
            take_second(&mut stage)?;
            stage.lose(victim)?;
            stage.pair.start(victim)?;
            stage.wait_until_home()?;
            stage.conclude()
        });
    }
}

#[test]
fn giveback_of_one_pool_leaves_the_other_until_a_second_one() {
    play(LIMIT, |folder| {
        let mut stage = set_up(folder, Ways::Own, "automatic = \"on-request\"\n")?;
        stage.lose(NodeName::A)?;
        stage.pair.start(NodeName::A)?;
        wait_until_a_waits(&mut stage)?;
        stage.wait_for("b has resynced", |stage| {
            let mirrors = |status: Status| status.pools.into_iter().flat_map(|pool| pool.mirrors);
            let status = stage.pair.status(NodeName::B);
            status.is_ok_and(|status| mirrors(status).all(|mirror| mirror.resync_left_bytes == 0))
        })?;
        demand_done(&stage, &give_back("pool-a"))?;
        stage.wait_until_clients_go_on("after the giveback of one")?;
        wait_until_a_waits(&mut stage)?;
        demand_served(&stage, NodeName::A, &["pool-a"])?;
        demand_served(&stage, NodeName::B, &["pool-a2", "pool-b", "pool-b2"])?;
        let volume = Request::VolumeCreate {
            pool: "pool-a2".to_owned(),
            name: "new".to_owned(),
            bytes: 1 << 20,
            provisioning: Provisioning::Thick,
        };
        let answer = ask(&stage, &volume)?;
        let refused = matches!(&answer, Response::Refused { reason, .. } if reason.contains("at both nodes"));
        ensure!(refused, "a volume in a home that is in parts: {answer:?}");
        let upgrade = ["upgrade".to_owned(), "--pair".to_owned(), stage.pair.config().file.display().to_string()];
        let refused = stage.pair.command(&upgrade).expect_err("an upgrade needs each home whole").to_string();
        ensure!(refused.contains("are at both nodes"), "{refused}");
        let losses = stage.connection_losses();
        demand_done(&stage, &Request::Giveback { soft_vetoes: SoftVetoes::Respect })?;
        stage.wait_until_home()?;
        stage.wait_until_clients_go_on("after the rest has come home")?;
        ensure!(stage.connection_losses() == losses, "sessions were lost: {:?}", stage.connection_losses());
        stage.conclude()
    });
}
