//! Planned takeovers and givebacks on request, again and again, under clients and under somebody who keeps connecting.
//!
//! What no hand-off may do: fail a command, lose a write, or refuse or reset a connection to the portal that moves.

use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, ensure};
use understudy::admin::{Request, Response, SoftVetoes, TakeoverKind};
use understudy::config::NodeName;
use understudy_drill::stage::plan;
use understudy_drill::{Stage, play};

/// Several times what the test takes on a busy machine.
const LIMIT: Duration = Duration::from_secs(90);

/// How long a node may take to answer a request for a hand-off.
const ANSWER_WITHIN: Duration = Duration::from_secs(20);

/// There and back.
const ROUNDS: usize = 5;

/// Connects to an address over and over, and counts.
struct Knocker {
    stop: Arc<AtomicBool>,
    knocking: JoinHandle<(u64, Vec<String>)>,
}

impl Knocker {
    fn start(address: SocketAddr) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let knocking = std::thread::spawn(move || {
            let (mut let_in, mut refused) = (0, Vec::new());
            // BOUND: until told to stop, which the test does at its end, one connection at a time.
            while !stopped.load(Ordering::Relaxed) {
                match TcpStream::connect(address) {
                    Ok(_) => let_in += 1,
                    Err(error) => refused.push(error.to_string()),
                }
            }
            (let_in, refused)
        });
        Self { stop, knocking }
    }

    fn conclude(self) -> anyhow::Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        let (let_in, refused) = self.knocking.join().map_err(|_| anyhow::anyhow!("the knocker panicked"))?;
        eprintln!("{let_in} connections to the moving portal, {} refused", refused.len());
        ensure!(refused.is_empty() && let_in > 0, "{let_in} let in, refused: {refused:?}");
        Ok(())
    }
}

fn demand_done(stage: &Stage, request: &Request) -> anyhow::Result<()> {
    let response = stage.pair.ask(NodeName::B, request, ANSWER_WITHIN)?;
    ensure!(matches!(response, Response::Done { .. }), "{request:?} was answered {response:?}");
    Ok(())
}

/// A resync would veto a takeover, rightly; a new pair begins with one.
fn wait_until_in_step(stage: &mut Stage) -> anyhow::Result<()> {
    stage.wait_for("all mirrors are in step", |stage| {
        NodeName::BOTH.iter().all(|node| {
            stage.pair.status(*node).is_ok_and(|status| {
                status.pools.iter().flat_map(|pool| &pool.mirrors).all(|mirror| mirror.resync_left_bytes == 0)
            })
        })
    })
}

fn give_back(stage: &mut Stage) -> anyhow::Result<()> {
    // Refused, rightly, before the partner is seen to wait for its pools.
    wait_until_seen(stage, "MBWAIT")?;
    demand_done(stage, &Request::Giveback { soft_vetoes: SoftVetoes::Respect })?;
    stage.wait_until_home()
}

/// How often node b told of the first answer after it got the pool of node a.
fn first_answers(stage: &Stage) -> usize {
    stage.times_told(NodeName::B, "first-answer", "pool-a")
}

/// Waits until node b has read this state word in the page of its partner.
fn wait_until_seen(stage: &mut Stage, state: &str) -> anyhow::Result<()> {
    stage.wait_for(&format!("b sees a {state}"), |stage| {
        stage.pair.status(NodeName::B).is_ok_and(|status| status.partner.state == state)
    })
}

#[test]
fn planned_takeovers_and_givebacks_fail_no_command_and_refuse_no_connection() {
    play(LIMIT, |folder| {
        let mut stage = Stage::set_up(plan(env!("CARGO_BIN_EXE_understudy-drilled"), folder))?;
        stage.start_clients(1)?;
        let portal = *stage.pair.config().node(NodeName::A).portals.first().context("node a has a portal")?;
        wait_until_in_step(&mut stage)?;
        let knocker = Knocker::start(portal);
        for round in 1..=ROUNDS {
            demand_done(&stage, &Request::Takeover { kind: TakeoverKind::Planned })?;
            stage.demand_keys_of(|_| NodeName::B)?;
            stage.wait_until_clients_go_on(&format!("after takeover {round}"))?;
            give_back(&mut stage)?;
            stage.demand_keys_of(|home| home)?;
            stage.wait_until_clients_go_on(&format!("after giveback {round}"))?;
            wait_until_seen(&mut stage, "UP")?;
        }
        knocker.conclude()?;
        stage.conclude()
    });
}

#[test]
fn a_giveback_with_nothing_to_give_back_is_refused_with_a_reason() {
    play(LIMIT, |folder| {
        let stage = Stage::set_up(plan(env!("CARGO_BIN_EXE_understudy-drilled"), folder))?;
        let request = Request::Giveback { soft_vetoes: SoftVetoes::Respect };
        let response = stage.pair.ask(NodeName::B, &request, ANSWER_WITHIN)?;
        let Response::Refused { reason, advice, .. } = &response else { anyhow::bail!("answered {response:?}") };
        ensure!(!reason.is_empty() && !advice.is_empty(), "refused without a word: {response:?}");
        stage.conclude()
    });
}

/// The first time nobody uses what node b took, so whoever waits there for a first answer waits in vain, and must not take that of the
/// second time for it.
#[test]
fn a_first_answer_is_told_once_though_the_pool_was_there_before_and_nobody_used_it() {
    play(LIMIT, |folder| {
        let mut stage = Stage::set_up(plan(env!("CARGO_BIN_EXE_understudy-drilled"), folder))?;
        stage.start_clients(1)?;
        wait_until_in_step(&mut stage)?;
        stage.verdicts()?;
        demand_done(&stage, &Request::Takeover { kind: TakeoverKind::Planned })?;
        give_back(&mut stage)?;
        wait_until_seen(&mut stage, "UP")?;
        ensure!(first_answers(&stage) == 0, "somebody used the pool of node a at node b");
        stage.start_client(NodeName::A, 2)?;
        demand_done(&stage, &Request::Takeover { kind: TakeoverKind::Planned })?;
        stage.wait_until_told(NodeName::B, "first-answer", "pool-a")?;
        stage.wait_until_clients_go_on("at b")?;
        give_back(&mut stage)?;
        ensure!(first_answers(&stage) == 1, "told {} times", first_answers(&stage));
        stage.conclude()
    });
}
