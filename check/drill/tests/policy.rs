//! What is done by itself and what only on request, on real processes: forecasts, pools by name, a delayed giveback, a halted partner.

use std::time::Duration;

use anyhow::ensure;
use understudy::admin::{Earnest, Request, Response, SoftVetoes, Status, TakeoverKind};
use understudy::config::NodeName;
use understudy::harness::{Plan, Signal};
use understudy_drill::stage::{PATIENCE, plan};
use understudy_drill::{Fault, Stage, play};

/// Several times what a test takes on a busy machine.
const LIMIT: Duration = Duration::from_secs(90);

/// How long a node may take to answer a request for a hand-off.
const ANSWER_WITHIN: Duration = Duration::from_secs(20);

fn set_up(folder: &std::path::Path, policy: &str) -> anyhow::Result<Stage> {
    let usual = plan(env!("CARGO_BIN_EXE_understudy-drilled"), folder);
    let mut stage = Stage::set_up(Plan { more: usual.more.clone() + policy, ..usual })?;
    stage.start_clients(1)?;
    stage.wait_for("all mirrors are in step", |stage| {
        let in_step = |status: &Status| {
            status.pools.iter().flat_map(|pool| &pool.mirrors).all(|mirror| mirror.resync_left_bytes == 0)
        };
        NodeName::BOTH.iter().all(|node| stage.pair.status(*node).is_ok_and(|status| in_step(&status)))
    })?;
    Ok(stage)
}

fn ask_b(stage: &Stage, request: &Request) -> anyhow::Result<Response> {
    stage.pair.ask(NodeName::B, request, ANSWER_WITHIN)
}

fn takeover_of(pools: &[&str], earnest: Earnest) -> Request {
    let pools = pools.iter().map(|pool| (*pool).to_owned()).collect();
    Request::TakeoverOf { pools, soft_vetoes: SoftVetoes::Respect, earnest }
}

fn giveback_of(pools: &[&str], earnest: Earnest) -> Request {
    let pools = pools.iter().map(|pool| (*pool).to_owned()).collect();
    Request::GivebackOf { pools, soft_vetoes: SoftVetoes::Respect, earnest }
}

fn wait_until_b(stage: &mut Stage, what: &str, is_so: impl Fn(&Status) -> bool) -> anyhow::Result<()> {
    stage.wait_for(what, |stage| stage.pair.status(NodeName::B).is_ok_and(|status| is_so(&status)))
}

fn demand_refused(stage: &Stage, request: &Request, because: &str) -> anyhow::Result<()> {
    let answer = ask_b(stage, request)?;
    let Response::Refused { reason, advice, .. } = &answer else {
        anyhow::bail!("{request:?} was answered {answer:?}")
    };
    ensure!(reason.contains(because) && !advice.is_empty(), "{request:?} was refused with {answer:?}");
    Ok(())
}

#[test]
fn takeover_is_judged_by_the_partner_beforehand_and_clients_notice_nothing() {
    play(LIMIT, |folder| {
        let mut stage = set_up(folder, "")?;
        let losses = stage.connection_losses();
        let answer = ask_b(&stage, &takeover_of(&[], Earnest::DryRun))?;
        let Response::TakeoverForecast { pools, vetoes, predicted_pause_micros, unknown, .. } = &answer else {
            anyhow::bail!("answered {answer:?}")
        };
        ensure!(pools == &["pool-a"] && vetoes.is_empty() && unknown.is_empty(), "{answer:?}");
        ensure!(predicted_pause_micros.is_some_and(|pause| pause > 0), "{answer:?}");
        eprintln!("predicted pause: {} us", predicted_pause_micros.unwrap_or_default());
        stage.wait_until_home()?;
        stage.wait_until_clients_go_on("after the forecast")?;
        ensure!(stage.connection_losses() == losses, "a client lost its session");
        stage.conclude()
    });
}

#[test]
fn pool_that_is_named_moves_and_comes_home_or_is_refused_with_a_reason() {
    play(LIMIT, |folder| {
        let mut stage = set_up(folder, "")?;
        demand_refused(&stage, &takeover_of(&["pool-c"], Earnest::Do), "there is no pool `pool-c`")?;
        demand_refused(&stage, &takeover_of(&["pool-b"], Earnest::Do), "has its home at the node that was asked")?;
        demand_refused(&stage, &giveback_of(&["pool-a"], Earnest::Do), "is at home already")?;
        let answer = ask_b(&stage, &takeover_of(&["pool-a"], Earnest::Do))?;
        ensure!(matches!(answer, Response::Done { .. }), "{answer:?}");
        stage.demand_keys_of(|_| NodeName::B)?;
        stage.wait_until_clients_go_on("after the takeover")?;
        demand_refused(&stage, &takeover_of(&["pool-a"], Earnest::Do), "is served by the node that was asked already")?;
        wait_until_b(&mut stage, "b sees MBWAIT", |status| status.partner.state == "MBWAIT")?;
        let answer = ask_b(&stage, &giveback_of(&["pool-a"], Earnest::DryRun))?;
        ensure!(matches!(&answer, Response::GivebackForecast { vetoes, .. } if vetoes.is_empty()), "{answer:?}");
        let answer = ask_b(&stage, &giveback_of(&["pool-a"], Earnest::Do))?;
        ensure!(matches!(answer, Response::Done { .. }), "{answer:?}");
        stage.conclude()
    });
}

#[test]
fn delayed_giveback_says_how_long_it_waits_and_is_done_at_once_when_asked_for() {
    play(LIMIT, |folder| {
        let mut stage = set_up(folder, "delay_ms = 3600000\n")?;
        stage.lose(NodeName::A)?;
        stage.pair.start(NodeName::A)?;
        wait_until_b(&mut stage, "the giveback is delayed", |status| status.giveback_in_ms.is_some())?;
        let status = stage.pair.status(NodeName::B)?;
        let left = status.giveback_in_ms.unwrap_or_default();
        ensure!(status.stage == "Delaying" && (3_500_000..3_600_000).contains(&left), "{}, {left} ms", status.stage);
        stage.wait_until_clients_go_on("meanwhile")?;
        let answer = ask_b(&stage, &Request::Giveback { soft_vetoes: SoftVetoes::Respect })?;
        ensure!(matches!(answer, Response::Done { .. }), "{answer:?}");
        ensure!(stage.pair.status(NodeName::B)?.giveback_in_ms.is_none(), "it is done");
        stage.conclude()
    });
}

#[test]
fn halted_partner_is_left_alone_as_configured_and_its_volumes_wait_for_it() {
    play(LIMIT, |folder| {
        let mut stage = set_up(folder, "[takeover]\non_halt = \"no\"\n")?;
        let left_alone = |status: &Status| {
            let said = |text: &String| text.contains("stopped in an orderly way") && text.contains("takeover --force");
            status.state == "UP" && status.alarms.iter().any(said)
        };
        stage.pair.signal(NodeName::A, Signal::TERM)?;
        stage.pair.wait_for_end(NodeName::A, PATIENCE)?;
        wait_until_b(&mut stage, "b says that it leaves a alone", left_alone)?;
        let answer = ask_b(&stage, &takeover_of(&[], Earnest::DryRun))?;
        ensure!(
            matches!(&answer, Response::TakeoverForecast { unknown, .. } if unknown.contains("contested")),
            "{answer:?}"
        );
        stage.pair.start(NodeName::A)?;
        stage.wait_until_home()?;
        stage.wait_until_clients_go_on("once it is back")?;
        ensure!(stage.pair.status(NodeName::B)?.alarms.is_empty(), "the alarm is over");
        stage.conclude()
    });
}

#[test]
fn halted_partner_that_was_left_alone_is_taken_over_when_asked_for() {
    play(LIMIT, |folder| {
        let mut stage = set_up(folder, "[takeover]\non_halt = \"no\"\n")?;
        stage.pair.signal(NodeName::A, Signal::TERM)?;
        stage.pair.wait_for_end(NodeName::A, PATIENCE)?;
        wait_until_b(&mut stage, "b says that it leaves a alone", |status| !status.alarms.is_empty())?;
        let answer = ask_b(&stage, &Request::Takeover { kind: TakeoverKind::Forced })?;
        ensure!(matches!(answer, Response::Done { .. }), "{answer:?}");
        stage.wait_until_alone(NodeName::B)?;
        stage.pair.start(NodeName::A)?;
        stage.conclude()
    });
}

#[test]
fn partner_that_panicked_is_left_alone_as_configured() {
    play(LIMIT, |folder| {
        let mut stage = set_up(folder, "[takeover]\non_panic = \"no\"\n")?;
        stage.arm(NodeName::A, "want-read", Fault::Panicked)?;
        let answer = ask_b(&stage, &Request::Takeover { kind: TakeoverKind::Planned })?;
        ensure!(matches!(answer, Response::Failed { .. }), "{answer:?}");
        stage.pair.wait_for_end(NodeName::A, PATIENCE)?;
        let left_alone = |status: &Status| status.alarms.iter().any(|text| text.contains("`on_panic`"));
        wait_until_b(&mut stage, "b says that it leaves a alone", left_alone)?;
        stage.pair.start(NodeName::A)?;
        stage.wait_until_home()?;
        stage.conclude()
    });
}

#[test]
fn partner_whose_worker_was_killed_is_taken_over_where_one_that_panicked_would_not_be() {
    play(LIMIT, |folder| {
        let mut stage = set_up(folder, "[takeover]\non_panic = \"no\"\n")?;
        stage.pair.kill_worker(NodeName::A)?;
        let ended = stage.pair.wait_for_end(NodeName::A, PATIENCE)?;
        ensure!(ended.code() == Some(137), "a ended with {ended}");
        stage.wait_until_alone(NodeName::B)?;
        stage.demand_keys_of(|_| NodeName::B)?;
        ensure!(stage.times_told(NodeName::B, "panicked-read", "") == 0, "it was said to have panicked");
        stage.pair.start(NodeName::A)?;
        stage.conclude()
    });
}
