//! Announced death: the worker of a node dies in whatever way, and its supervisor says so.
//!
//! Demanded: the partner reads PANICKED (HALTED after an orderly stop) by RDMA before it gives the node up, and takes over to the clients'
//! satisfaction; the supervisor ends with what its worker ended with; the node comes home when it is started again.

use std::time::Duration;

use anyhow::{Context, ensure};
use understudy::admin::{Request, Response, TakeoverKind};
use understudy::config::NodeName;
use understudy::harness::{Plan, Signal, Site};
use understudy_drill::stage::{PATIENCE, plan};
use understudy_drill::{Fault, Stage, play};

/// Several times what a drill takes on a busy machine.
const LIMIT: Duration = Duration::from_secs(90);

/// Who dies.
const DEAD: NodeName = NodeName::A;

/// Who hears of it.
const SURVIVOR: NodeName = NodeName::B;

fn set_up(folder: &std::path::Path) -> anyhow::Result<Stage> {
    // As many have it in their environment: the way to a panic takes longer to find out than a partner waits for a page to move.
    let mut hosts = Site::Here.hosts()?;
    hosts.to_nodes = NodeName::BOTH.map(|_| vec!["env".to_owned(), "RUST_BACKTRACE=1".to_owned()]);
    let pair = Plan { site: Site::Apart(Box::new(hosts)), ..plan(env!("CARGO_BIN_EXE_understudy-drilled"), folder) };
    let mut stage = Stage::set_up(pair)?;
    stage.start_clients(1)?;
    Ok(stage)
}

/// The survivor read `word` and then gave its partner up; nothing else made it do so.
fn demand_announced(stage: &mut Stage, word: &str) -> anyhow::Result<()> {
    let told = stage.steps.iter().filter(|step| step.node == SURVIVOR).map(|step| step.step.as_str());
    let told: Vec<&str> = told.filter(|step| [word, "partner-lost"].contains(step)).collect();
    ensure!(told == [word, "partner-lost"], "node {SURVIVOR} told {told:?}");
    Ok(())
}

/// How the node ends, by the exit status of its supervisor, once the survivor serves everything.
fn dies(
    how: impl FnOnce(&mut Stage) -> anyhow::Result<()>,
    word: &'static str,
    status: i32,
    folder: &std::path::Path,
) -> anyhow::Result<()> {
    let mut stage = set_up(folder)?;
    stage.steps.clear();
    how(&mut stage)?;
    let ended = stage.pair.wait_for_end(DEAD, PATIENCE)?;
    ensure!(ended.code() == Some(status), "node {DEAD} ended with {ended}");
    stage.wait_until_alone(SURVIVOR)?;
    stage.demand_keys_of(|_| SURVIVOR)?;
    demand_announced(&mut stage, word)?;
    stage.pair.start(DEAD)?;
    stage.conclude()
}

#[test]
fn killed_worker_is_announced() {
    play(LIMIT, |folder| dies(|stage| stage.pair.kill_worker(DEAD), "panicked-read", 137, folder));
}

#[test]
fn panic_ends_the_worker_and_is_announced() {
    play(LIMIT, |folder| {
        let panic = |stage: &mut Stage| {
            stage.arm(DEAD, "want-read", Fault::Panicked)?;
            let request = Request::Takeover { kind: TakeoverKind::Planned };
            let answer = stage.pair.ask(SURVIVOR, &request, PATIENCE)?;
            ensure!(matches!(answer, Response::Failed { .. }), "the takeover was answered {answer:?}");
            Ok(())
        };
        dies(panic, "panicked-read", 101, folder)?;
        let log = std::fs::read_to_string(folder.join(format!("node-{DEAD}.log")))?;
        ensure!(log.contains("panicked at") && log.contains("a drill asks for it"), "the log does not say why:\n{log}");
        ensure!(!log.contains("stack backtrace"), "the partner waited for all this:\n{log}");
        Ok(())
    });
}

#[test]
fn orderly_stop_is_announced_as_one() {
    play(LIMIT, |folder| dies(|stage| stage.pair.signal(DEAD, Signal::TERM), "halted-read", 0, folder));
}

#[test]
fn worker_does_not_outlive_its_supervisor() {
    play(LIMIT, |folder| {
        let mut stage = set_up(folder)?;
        let (supervisor, worker) = (stage.pair.process_of(DEAD), stage.pair.worker_of(DEAD));
        let supervisor = supervisor.and_then(|id| rustix::process::Pid::from_raw(id.cast_signed()));
        ensure!(worker.is_some() && worker != stage.pair.process_of(DEAD), "it is a process of its own: {worker:?}");
        rustix::process::kill_process(supervisor.context("node a runs")?, Signal::KILL)?;
        stage.pair.wait_for_end(DEAD, PATIENCE)?;
        stage.wait_until_alone(SURVIVOR)?;
        stage.pair.start(DEAD)?;
        stage.conclude()
    });
}

/// A death in each step of a bring-up in which the partner waits for the repaired node, or the repaired node for its partner.
#[test]
fn repaired_node_and_survivor_may_die_announced_in_a_bring_up() {
    for (node, place) in [
        (DEAD, "page-givewait"),
        (DEAD, "page-mbwait"),
        (DEAD, "commit-read"),
        (SURVIVOR, "page-released"),
        (SURVIVOR, "committed"),
    ] {
        play(LIMIT, move |folder| {
            let mut stage = set_up(folder)?;
            stage.lose(DEAD)?;
            stage.arm(node, place, Fault::Died)?;
            stage.pair.start(DEAD)?;
            stage.wait_until_hit(node, Fault::Died)?;
            stage.wait_until_alone(node.partner())?;
            stage.demand_keys_of(|_| node.partner())?;
            stage.repair(node, Fault::Died)?;
            stage.conclude()
        });
    }
}

/// A node that lives is left alone, whoever says that its machine has no power.
#[test]
fn report_of_a_power_loss_is_refuted_by_a_node_that_lives() {
    play(LIMIT, |folder| {
        let mut stage = set_up(folder)?;
        let before = stage.pair.status(DEAD)?.incarnation;
        let answer = stage.pair.ask(SURVIVOR, &Request::PartnerLost, PATIENCE)?;
        ensure!(matches!(&answer, Response::Refused { reason, .. } if reason.contains("lives")), "answered {answer:?}");
        stage.wait_until_told(SURVIVOR, "power-loss-refuted", "a lives")?;
        ensure!(stage.times_told(SURVIVOR, "partner-lost", "") == 0, "it was given up");
        ensure!(stage.pair.status(DEAD)?.incarnation == before, "it runs on");
        stage.conclude()
    });
}

/// Nothing of a machine without power answers; here it is stopped, and finds out what happened when it goes on.
#[test]
fn report_of_a_power_loss_that_is_true_leads_to_a_takeover() {
    play(LIMIT, |folder| {
        let mut stage = set_up(folder)?;
        stage.steps.clear();
        stage.pair.signal(DEAD, Signal::STOP)?;
        let answer = stage.pair.ask(SURVIVOR, &Request::PartnerLost, PATIENCE)?;
        ensure!(matches!(answer, Response::Done { .. }), "answered {answer:?}");
        stage.wait_until_alone(SURVIVOR)?;
        stage.demand_keys_of(|_| SURVIVOR)?;
        demand_announced(&mut stage, "power-loss-reported")?;
        stage.pair.signal(DEAD, Signal::CONT)?;
        stage.conclude()
    });
}
