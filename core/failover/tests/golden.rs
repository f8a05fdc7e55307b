//! Golden scenarios: a script of what befalls the pair, and the transcript of everything both nodes say about it.
//!
//! `UPDATE_GOLDEN=1` writes the transcripts anew; reading the difference is the review. Everything is deterministic: seed 1, no
//! chance of a fault beyond the script's, simulated time.

use std::path::PathBuf;

use understudy_failover::config::{AutomaticGiveback, OnEnd, Policy, PoolConfig};
use understudy_failover::effect::{Effect, Veto};
use understudy_failover::input::{Earnest, Input, Request, SoftVetoes, TakeoverKind};
use understudy_failover::machine::State;
use understudy_failover::page::{Stage, StateWord};
use understudy_failover::sim::faults::{heal, serve_again};
use understudy_failover::sim::{Chaos, Process, World, usual_config};
use understudy_failover::words::{LegIndex, Micros, MirrorIndex, NodeId, PoolId};

use NodeId::{A, B};

fn usual_policy() -> Policy {
    AutomaticGiveback::Within { limit: 10, window: Micros::from_millis(600_000) }.into()
}

const P1: PoolId = PoolId(1);
const P2: PoolId = PoolId(2);

struct Scenario {
    name: String,
    world: World,
}

impl Scenario {
    fn new(name: &str) -> Self {
        Self::with_policy(name, usual_policy())
    }

    fn with_policy(name: &str, policy: Policy) -> Self {
        let configs = NodeId::BOTH.map(|node| {
            let mut config = usual_config(node);
            config.policy = policy;
            config
        });
        let mut world = World::new(configs, 1, Chaos::NONE);
        world.transcript = Some(Vec::new());
        Self { name: name.to_owned(), world }
    }

    fn note(&mut self, text: &str) {
        if let Some(lines) = &mut self.world.transcript {
            lines.push(format!("# {text}"));
        }
    }

    fn run(&mut self, millis: u64) {
        let until = self.world.now.after(Micros::from_millis(millis));
        self.world.run_until(until).unwrap_or_else(|what| panic!("{}: {what}\n{}", self.name, self.text()));
    }

    fn until(&mut self, what: &str, done: impl Fn(&World) -> bool) {
        let limit = self.world.now.after(Micros::from_millis(30_000));
        let came = self.world.run_until_true(limit, what, done);
        came.unwrap_or_else(|what| panic!("{}: {what}\n{}", self.name, self.text()));
    }

    fn until_word(&mut self, node: NodeId, word: StateWord) {
        self.until(word.name(), |world| world.word(node) == Some(word));
    }

    fn cold_start(&mut self) {
        self.note("both nodes are powered on");
        self.world.start(A);
        self.world.start(B);
        self.until("both up", is_home);
        self.run(500);
    }

    fn kill(&mut self, node: NodeId) {
        self.note(&format!("{node} is killed"));
        self.world.kill(node);
    }

    fn start(&mut self, node: NodeId) {
        self.note(&format!("{node} is started"));
        self.world.start(node);
    }

    fn ask(&mut self, node: NodeId, what: Request) {
        self.note(&format!("the operator asks {node}"));
        self.world.ask(node, 1, what);
    }

    fn text(&self) -> String {
        let mut text = self.world.transcript.clone().unwrap_or_default().join("\n");
        text.push('\n');
        text
    }

    fn position(&self, from: usize, node: NodeId, part: &str) -> usize {
        let lines = self.world.transcript.as_ref().expect("kept");
        let found = lines
            .iter()
            .enumerate()
            .skip(from)
            .find(|(_, line)| line.contains(&format!(" {node} ")) && line.contains(part));
        found.unwrap_or_else(|| panic!("{}: no {part:?} of {node} after line {from}\n{}", self.name, self.text())).0
    }

    /// Each of these is said, in this order.
    fn assert_order(&self, steps: &[(NodeId, &str)]) {
        let mut from = 0;
        for (node, part) in steps {
            from = self.position(from, *node, part) + 1;
        }
    }

    fn assert_golden(&self) {
        let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("tests/golden/{}.txt", self.name));
        if std::env::var_os("UPDATE_GOLDEN").is_some_and(|value| value == "1") {
            std::fs::write(&path, self.text()).expect("transcript written");
            return;
        }
        let golden = std::fs::read_to_string(&path).unwrap_or_default();
        assert_eq!(golden, self.text(), "{} differs from its transcript; UPDATE_GOLDEN=1 writes it anew", self.name);
    }
}

fn is_home(world: &World) -> bool {
    let up = NodeId::BOTH.iter().all(|node| world.word(*node) == Some(StateWord::Up));
    up && world.answers(A, P1) && world.answers(B, P2) && !world.answers(A, P2) && !world.answers(B, P1)
}

fn heal_and_check(scenario: &mut Scenario) {
    heal(&mut scenario.world);
    serve_again(&mut scenario.world).unwrap_or_else(|what| panic!("{}: {what}\n{}", scenario.name, scenario.text()));
}

#[test]
fn cold_start_of_both_nodes_ends_with_each_serving_its_own() {
    let mut it = Scenario::new("cold_start");
    it.cold_start();
    it.assert_golden();
}

#[test]
fn a_lone_node_waits_for_its_partner_and_then_takes_everything() {
    let mut it = Scenario::new("lone_start");
    it.start(A);
    it.until("everything served by A", |world| world.answers(A, P1) && world.answers(A, P2));
    it.start(B);
    it.until("home", is_home);
    it.run(200);
    it.assert_golden();
}

/// The mission, rows 1 to 10, in their order.
#[test]
fn killed_node_is_taken_over_and_brought_back_in_coordination() {
    let mut it = Scenario::new("kill_takeover_giveback");
    it.cold_start();
    it.kill(A);
    it.until("B serves both", |world| world.answers(B, P1) && world.answers(B, P2));
    it.run(1_000);
    it.start(A);
    it.until("home", is_home);
    it.run(500);
    it.assert_order(&[
        (B, "lock disks won: 3 of 3"),
        (B, "generation 6 recorded on 3 of 3"),
        (B, "pool 1 fenced with generation 6, read back"),
        (B, "claim verified after the fence"),
        (B, "pool 1 served with generation 6"),
        (A, "asserted BOOTING"),
        (A, "asserted GIVEWAIT"),
        (B, "GIVEWAIT read by RDMA"),
        (B, "released 2 of 2"),
        (B, "asserted RELEASED"),
        (A, "RELEASED read by RDMA"),
        (A, "release verified on 2 of 2"),
        (A, "asserted DISKINIT"),
        (A, "disks initialised: 2 of 2"),
        (A, "asserted MBWAIT"),
        (B, "MBWAIT read by RDMA"),
        (B, "holding commands, handing off to A"),
        (B, "held, drained, flushed"),
        (B, "COMMIT of generation 8 sent"),
        (B, "COMMIT of generation 8 recorded on 3 of 3"),
        (B, "commit of generation 8 announced"),
        (A, "commit of generation 8 read by RDMA"),
        (A, "COMMIT of generation 8 read from the lock disks"),
    ]);
    it.assert_order(&[(B, "commit of generation 8 announced"), (B, "service for A closed"), (B, "asserted UP")]);
    it.assert_order(&[
        (A, "COMMIT of generation 8 read from the lock disks"),
        (A, "pool 1 fenced with generation 8, read back"),
        (A, "claim verified after the fence"),
        (A, "pool 1 served with generation 8"),
        (A, "asserted UP"),
    ]);
    it.assert_golden();
}

#[test]
fn node_stopped_without_a_word_is_taken_over_and_its_waking_changes_nothing() {
    let mut it = Scenario::new("silent_death_and_zombie");
    it.cold_start();
    it.note("A is stopped");
    let before = it.world.now;
    it.world.stop(A);
    it.until("B serves both", |world| world.answers(B, P1) && world.answers(B, P2));
    let outage = it.world.now.since(before);
    assert!(outage < Micros::from_millis(2_000), "taken over after {outage:?}");
    it.run(2_000);
    it.note("A wakes");
    it.world.wake(A);
    it.until("A has noticed", |world| world.nodes[A.index()].process == Process::Dead);
    assert!(!it.world.answers(A, P1));
    it.until("home", is_home);
    it.run(200);
    it.assert_golden();
}

#[test]
fn interconnect_alone_lost_raises_an_alarm_and_moves_nothing() {
    let mut it = Scenario::new("interconnect_lost");
    it.cold_start();
    it.note("the interconnect is cut both ways");
    it.world.interconnect = [false; 2];
    it.run(5_000);
    assert!(is_home(&it.world), "{}", it.text());
    it.assert_order(&[(A, "alarm InterconnectDown")]);
    it.assert_order(&[(B, "alarm InterconnectDown")]);
    it.note("it is mended");
    it.world.interconnect = [true; 2];
    it.run(500);
    it.assert_order(&[(A, "alarm over InterconnectDown")]);
    it.assert_golden();
}

#[test]
fn node_in_givewait_stays_there_while_the_interconnect_is_cut() {
    let mut it = Scenario::new("givewait_without_interconnect");
    it.cold_start();
    it.kill(A);
    it.until("B serves both", |world| world.answers(B, P1));
    it.note("the interconnect is cut both ways");
    it.world.interconnect = [false; 2];
    it.start(A);
    it.run(8_000);
    assert_eq!(it.world.word(A), Some(StateWord::GiveWait), "{}", it.text());
    assert!(it.world.answers(B, P1) && it.world.answers(B, P2));
    it.note("it is mended");
    it.world.interconnect = [true; 2];
    it.until("home", is_home);
    it.assert_golden();
}

/// The repaired node, or the survivor, is killed when the repaired node shows `at`.
fn killed_at(at: StateWord, victim: NodeId, how: fn(&mut World, NodeId)) {
    let who = if victim == A { "repaired" } else { "survivor" };
    let mut it = Scenario::new(&format!("{who}_killed_at_{}", at.name().to_lowercase()));
    it.cold_start();
    it.kill(A);
    it.until("B serves both", |world| world.answers(B, P1) && world.answers(B, P2));
    it.run(300);
    it.start(A);
    it.until_word(if matches!(at, StateWord::Released | StateWord::Giveback) { B } else { A }, at);
    it.note(&format!("{victim} is struck at {at}"));
    how(&mut it.world, victim);
    it.until("everything served", |world| {
        [P1, P2].iter().all(|pool| NodeId::BOTH.iter().filter(|node| world.answers(**node, *pool)).count() == 1)
    });
    it.run(1_000);
    it.note("faults end");
    heal_and_check(&mut it);
    it.assert_golden();
}

const BRING_UP: [StateWord; 7] = [
    StateWord::Booting,
    StateWord::GiveWait,
    StateWord::Released,
    StateWord::DiskInit,
    StateWord::MailboxWait,
    StateWord::Giveback,
    StateWord::Resuming,
];

#[test]
fn repaired_node_killed_in_each_state_of_the_bring_up_leaves_everything_served() {
    for at in BRING_UP {
        killed_at(at, A, World::kill);
    }
}

#[test]
fn survivor_killed_in_each_state_of_the_bring_up_leaves_everything_served() {
    for at in BRING_UP {
        killed_at(at, B, World::kill);
    }
}

#[test]
fn either_node_stopped_in_each_state_of_the_bring_up_and_woken_writes_nothing_late() {
    for at in BRING_UP {
        for victim in NodeId::BOTH {
            let mut it = Scenario::new("stopped");
            it.cold_start();
            it.kill(A);
            it.until("B serves both", |world| world.answers(B, P1));
            it.start(A);
            it.until_word(if matches!(at, StateWord::Released | StateWord::Giveback) { B } else { A }, at);
            it.world.stop(victim);
            it.run(4_000);
            it.world.wake(victim);
            it.run(1_000);
            heal_and_check(&mut it);
        }
    }
}

#[test]
fn commit_that_did_not_come_to_stand_is_aborted_and_served_on() {
    let mut it = Scenario::new("commit_absent");
    it.cold_start();
    it.kill(A);
    it.until("B serves both", |world| world.answers(B, P1));
    it.start(A);
    it.until("COMMIT asked for", |world| stage_of(world, B) == "Committing");
    it.note("two lock disks are out of reach of B");
    it.world.lock_disks[1].cut[B.index()] = true;
    it.world.lock_disks[2].cut[B.index()] = true;
    it.run(300);
    assert!(!it.world.answers(B, P1), "held until it is known\n{}", it.text());
    it.note("they are back");
    it.world.lock_disks[1].cut = [false; 2];
    it.world.lock_disks[2].cut = [false; 2];
    it.until("home", is_home);
    it.assert_order(&[(B, "COMMIT of generation 8 sent"), (B, "COMMIT did not stand, ABORT recorded"), (B, "resumed")]);
    it.assert_golden();
}

#[test]
fn commit_that_cannot_be_settled_restarts_the_node() {
    let mut it = Scenario::new("commit_unsettled");
    it.cold_start();
    it.kill(A);
    it.until("B serves both", |world| world.answers(B, P1));
    it.start(A);
    it.until("COMMIT asked for", |world| stage_of(world, B) == "Committing");
    it.note("two lock disks are out of reach of B for good");
    it.world.lock_disks[1].cut[B.index()] = true;
    it.world.lock_disks[2].cut[B.index()] = true;
    it.until("B restarts", |world| world.nodes[B.index()].process == Process::Dead);
    it.note("they are back");
    heal_and_check(&mut it);
    it.assert_order(&[(B, "restarting: CommitUnsettled")]);
    it.assert_golden();
}

fn page_stage(state: &State) -> Option<Stage> {
    match state {
        State::HandingOff(it) => Some(it.phase.stage()),
        State::Claiming(it) => Some(it.phase.stage()),
        _ => None,
    }
}

fn stage_of(world: &World, node: NodeId) -> &'static str {
    let Some(machine) = world.nodes[node.index()].machine.as_ref() else { return "" };
    match machine.state() {
        State::HandingOff(it) if it.phase.stage() == Stage::Committing => "Committing",
        _ => "",
    }
}

#[test]
fn planned_takeover_and_giveback_hand_the_pools_over_twice() {
    let mut it = Scenario::new("planned_takeover");
    it.cold_start();
    let takeover =
        Request::Takeover { kind: TakeoverKind::Planned, vetoes: SoftVetoes::Overridden, earnest: Earnest::Do };
    it.ask(B, takeover);
    it.until("B serves both", |world| world.answers(B, P1) && world.answers(B, P2));
    it.until_word(A, StateWord::MailboxWait);
    it.run(3_000);
    assert_eq!(it.world.word(A), Some(StateWord::MailboxWait), "no automatic giveback\n{}", it.text());
    it.ask(B, Request::Giveback { vetoes: SoftVetoes::Count, earnest: Earnest::DryRun });
    it.run(100);
    it.ask(B, Request::Giveback { vetoes: SoftVetoes::Count, earnest: Earnest::Do });
    it.until("home", is_home);
    it.run(200);
    it.assert_golden();
}

#[test]
fn forced_takeover_stops_a_sound_partner() {
    let mut it = Scenario::new("forced_takeover");
    it.cold_start();
    let what = Request::Takeover { kind: TakeoverKind::Forced, vetoes: SoftVetoes::Count, earnest: Earnest::Do };
    it.ask(B, what);
    it.until("B serves both", |world| world.answers(B, P1) && world.answers(B, P2));
    it.until("home", is_home);
    it.run(200);
    it.assert_golden();
}

#[test]
fn too_many_automatic_givebacks_wait_for_the_operator() {
    let giveback = AutomaticGiveback::Within { limit: 1, window: Micros::from_millis(600_000) };
    let mut it = Scenario::with_policy("ping_pong", giveback.into());
    it.cold_start();
    for _ in 0..2 {
        it.kill(A);
        it.until("B serves both", |world| world.answers(B, P1) && world.answers(B, P2));
        it.run(300);
        it.start(A);
        it.until_word(A, StateWord::MailboxWait);
        it.run(3_000);
    }
    assert_eq!(it.world.word(A), Some(StateWord::MailboxWait), "{}", it.text());
    it.ask(B, Request::Giveback { vetoes: SoftVetoes::Count, earnest: Earnest::Do });
    it.until("home", is_home);
    it.assert_order(&[(B, "vetoed: {PingPong}")]);
    it.assert_golden();
}

/// One leg goes out of reach of the repaired node only, after it has looked at its disks.
#[test]
fn pool_that_cannot_be_had_after_the_giveback_is_handed_back_and_served_by_the_survivor() {
    let giveback = AutomaticGiveback::Within { limit: 1, window: Micros::from_millis(600_000) };
    let mut it = Scenario::with_policy("handed_back", giveback.into());
    it.cold_start();
    it.kill(A);
    it.until("B serves both", |world| world.answers(B, P1) && world.answers(B, P2));
    it.start(A);
    it.until_word(A, StateWord::MailboxWait);
    it.note("a leg of pool 1 is out of reach of A");
    it.world.pool_disks.get_mut(&P1).expect("a pool")[1].reachable[A.index()] = false;
    it.until_word(A, StateWord::Resuming);
    it.until("B serves both", |world| world.answers(B, P1) && world.answers(B, P2));
    it.run(3_000);
    assert!(it.world.answers(B, P1) && it.world.answers(B, P2), "it stays there\n{}", it.text());
    it.note("the leg is back, the operator gives back");
    it.world.pool_disks.get_mut(&P1).expect("a pool")[1].reachable[A.index()] = true;
    it.ask(B, Request::Giveback { vetoes: SoftVetoes::Overridden, earnest: Earnest::Do });
    it.until("home", is_home);
    it.assert_order(&[
        (A, "asserted RESUMING"),
        (A, "recorded as the partner's"),
        (A, "service for A closed"),
        (A, "asserted GIVEWAIT"),
        (B, "pool 1 served"),
        (B, "vetoed: {PingPong}"),
        (A, "pool 1 served"),
    ]);
    it.assert_golden();
}

/// What was handed over is held until the receiver serves it, and its record is the receiver's: found by the model, which lost a leg then.
#[test]
fn leg_lost_after_the_commit_is_not_recorded_by_the_node_that_handed_over() {
    let mut it = Scenario::new("leg_lost_after_commit");
    it.cold_start();
    it.kill(A);
    it.until("B serves both", |world| world.answers(B, P1));
    it.start(A);
    let stage = |world: &World| world.nodes[B.index()].machine.as_ref().map(|machine| page_stage(machine.state()));
    it.until("COMMIT announced", |world| stage(world) == Some(Some(Stage::WaitingForReceiver)));
    it.kill(A);
    it.until("contested", |world| stage(world) == Some(Some(Stage::Contesting)));
    let machine = it.world.nodes[B.index()].machine.as_mut().expect("running");
    let mut out = Vec::new();
    machine.step(it.world.now, Input::LegFailed { pool: P1, mirror: MirrorIndex(0), leg: LegIndex(1) }, &mut out);
    assert!(!out.iter().any(|effect| matches!(effect, Effect::WriteRecord { .. })), "{out:?}");
    it.start(A);
    it.until("home", is_home);
}

/// The same at a cold start: the node is up, and its pool is where it can be served.
#[test]
fn pool_that_its_home_cannot_have_goes_to_the_partner() {
    let mut it = Scenario::new("home_cannot");
    it.note("a leg of pool 1 is out of reach of A");
    it.world.pool_disks.get_mut(&P1).expect("a pool")[1].reachable[A.index()] = false;
    it.start(A);
    it.start(B);
    it.until("B serves both", |world| world.answers(B, P1) && world.answers(B, P2));
    it.note("the leg is back");
    it.world.pool_disks.get_mut(&P1).expect("a pool")[1].reachable[A.index()] = true;
    it.until("home", is_home);
    it.assert_order(&[(A, "recorded as the partner's"), (B, "pool 1 served"), (A, "pool 1 served")]);
    it.assert_golden();
}

/// Nobody can have the pool: it is tried again and again, and no generation is spent on that.
#[test]
fn pool_that_nobody_can_have_does_not_use_up_generations() {
    let mut it = Scenario::new("nobody_can");
    it.world.pool_disks.get_mut(&P1).expect("a pool").iter_mut().for_each(|disk| disk.reachable = [false; 2]);
    it.start(A);
    it.start(B);
    it.run(40_000);
    let text = it.text();
    let tried = text.matches("claim verified after the fence").count();
    let newest = (1..100u32).rev().find(|number| text.contains(&format!("generation {number} ")));
    assert!(tried > 4 && newest < Some(10), "tried {tried} times, generation {newest:?}\n{text}");
    it.world.pool_disks.get_mut(&P1).expect("a pool").iter_mut().for_each(|disk| disk.reachable = [true; 2]);
    it.until("home", is_home);
}

/// One leg of a mirror is enough: a leg recorded good that neither node reaches is left out once the pool is tried again.
#[test]
fn leg_that_nobody_reaches_is_left_out() {
    let mut it = Scenario::new("left_out");
    it.note("a leg of pool 1 is out of reach of both");
    it.world.pool_disks.get_mut(&P1).expect("a pool")[1].reachable = [false; 2];
    it.start(A);
    it.start(B);
    it.until("pool 1 served", |world| world.answers(A, P1) || world.answers(B, P1));
    it.note("the leg is back");
    it.world.pool_disks.get_mut(&P1).expect("a pool")[1].reachable = [true; 2];
    it.until("home", is_home);
    it.assert_golden();
}

#[test]
fn halted_node_is_taken_over_after_the_short_wait() {
    let mut it = Scenario::new("halt");
    it.cold_start();
    it.ask(A, Request::Halt);
    it.until("B serves both", |world| world.answers(B, P1) && world.answers(B, P2));
    it.assert_order(&[(A, "asserted HALTED")]);
    it.start(A);
    it.until("home", is_home);
    it.assert_golden();
}

/// What a supervisor says for a worker that is gone is waited for no longer.
#[test]
fn announced_death_is_taken_over_at_once() {
    let mut it = Scenario::new("announced_death");
    it.cold_start();
    it.note("the worker of A dies");
    it.world.die(A);
    let died = it.world.now;
    it.until("B contests", |world| {
        let machine = world.nodes[B.index()].machine.as_ref();
        machine.is_some_and(|machine| page_stage(machine.state()) == Some(Stage::Contesting))
    });
    let took = it.world.now.since(died);
    assert!(took < Micros::from_millis(15), "one read of the page, at most 10 ms away, and not {took:?}");
    it.until("B serves both", |world| world.answers(B, P1) && world.answers(B, P2));
    it.run(1_000);
    it.start(A);
    it.until("home", is_home);
    it.assert_order(&[
        (B, "PANICKED read by RDMA"),
        (B, "lock disks contested"),
        (B, "lock disks won: 3 of 3"),
        (B, "pool 1 fenced with generation 6, read back"),
        (B, "claim verified after the fence"),
        (B, "pool 1 served with generation 6"),
        (A, "asserted MBWAIT"),
    ]);
    it.assert_golden();
}

/// A machine without power shows nothing, and its partner is told.
#[test]
fn power_loss_that_is_reported_shortens_the_wait() {
    let mut it = Scenario::new("power_loss_reported");
    it.cold_start();
    it.note("A loses its power: nothing of it answers, and nobody says so");
    it.world.interconnect[B.index()] = false;
    it.world.kill(A);
    it.run(20);
    let reported = it.world.now;
    it.ask(B, Request::PartnerLost);
    it.until("B serves both", |world| world.answers(B, P1) && world.answers(B, P2));
    let took = it.world.now.since(reported);
    assert!(took >= Micros::from_millis(50) && took < Micros::from_millis(200), "{took:?}");
    it.assert_order(&[
        (B, "reported to have lost its power"),
        (B, "lock disks contested"),
        (B, "pool 1 fenced with generation 6, read back"),
        (B, "claim verified after the fence"),
        (B, "pool 1 served with generation 6"),
    ]);
    it.assert_golden();
}

/// Whoever is reported dead and lives is left alone, by either of its signs.
#[test]
fn false_report_of_a_power_loss_is_refuted() {
    let mut it = Scenario::new("power_loss_refuted");
    it.cold_start();
    it.note("A is well");
    it.ask(B, Request::PartnerLost);
    it.run(1_000);
    it.note("the interconnect fails");
    it.world.interconnect = [false; 2];
    it.run(2_000);
    it.ask(B, Request::PartnerLost);
    it.run(2_000);
    it.assert_order(&[
        (B, "report refuted: the partner's page moves"),
        (B, "Refuted { by: Page }"),
        (B, "report refuted: the partner's heart beats"),
        (B, "Refuted { by: Heartbeat }"),
    ]);
    assert!(is_home(&it.world), "{}", it.world.describe());
    assert!(!it.text().contains("contested"), "{}", it.text());
}

fn stage_word(world: &World, node: NodeId) -> Option<Stage> {
    world.nodes[node.index()].machine.as_ref().and_then(|machine| machine.shown()).map(|content| content.stage)
}

/// The delay is waited for in MBWAIT, once, also when something else is done meanwhile.
#[test]
fn automatic_giveback_waits_for_its_delay() {
    let policy = Policy { giveback_delay: Micros::from_millis(20_000), ..usual_policy() };
    let mut it = Scenario::with_policy("giveback_delayed", policy);
    it.cold_start();
    it.kill(A);
    it.until("B serves both", |world| world.answers(B, P1) && world.answers(B, P2));
    it.start(A);
    it.until_word(A, StateWord::MailboxWait);
    it.until("the delay runs", |world| stage_word(world, B) == Some(Stage::Delaying));
    let began = it.world.now;
    it.run(10_000);
    it.ask(B, Request::Giveback { vetoes: SoftVetoes::Count, earnest: Earnest::DryRun });
    it.run(9_800);
    assert_eq!(it.world.word(A), Some(StateWord::MailboxWait), "{}", it.text());
    it.until("home", is_home);
    assert!(it.world.now.since(began) < Micros::from_millis(20_500), "{}", it.text());
    it.assert_order(&[(B, "giveback delayed by 20000 ms"), (B, "holding commands"), (A, "asserted UP")]);
    it.assert_golden();
}

#[test]
fn operator_does_not_wait_for_the_delay_of_the_giveback() {
    let policy = Policy { giveback_delay: Micros::from_millis(3_600_000), ..usual_policy() };
    let mut it = Scenario::with_policy("giveback_not_delayed", policy);
    it.cold_start();
    it.kill(A);
    it.until("B serves both", |world| world.answers(B, P1) && world.answers(B, P2));
    it.start(A);
    it.until("the delay runs", |world| stage_word(world, B) == Some(Stage::Delaying));
    it.run(3_000);
    assert_eq!(it.world.word(A), Some(StateWord::MailboxWait), "{}", it.text());
    it.ask(B, Request::Giveback { vetoes: SoftVetoes::Count, earnest: Earnest::Do });
    it.until("home", is_home);
    it.assert_golden();
}

/// The repaired node dies while the giveback is delayed: the delay begins anew with its next run.
#[test]
fn delay_of_a_giveback_ends_with_the_run_that_waits_for_it() {
    let policy = Policy { giveback_delay: Micros::from_millis(5_000), ..usual_policy() };
    let mut it = Scenario::with_policy("giveback_delayed_twice", policy);
    it.cold_start();
    for _ in 0..2 {
        it.kill(A);
        it.until("B serves both", |world| {
            world.answers(B, P1) && world.answers(B, P2) && world.word(B) == Some(StateWord::Takeover)
        });
        it.start(A);
        it.until("the delay runs", |world| stage_word(world, B) == Some(Stage::Delaying));
        it.run(4_000);
        assert_eq!(it.world.word(A), Some(StateWord::MailboxWait), "{}", it.text());
    }
    it.until("home", is_home);
}

#[test]
fn halted_node_is_left_alone_where_the_configuration_says_so() {
    let policy = Policy { on_halt: OnEnd::Leave, ..usual_policy() };
    let mut it = Scenario::with_policy("halt_left_alone", policy);
    it.cold_start();
    it.ask(A, Request::Halt);
    it.run(5_000);
    assert!(!it.world.answers(B, P1) && it.world.answers(B, P2), "{}", it.text());
    it.assert_order(&[(A, "asserted HALTED"), (B, "is not taken over"), (B, "alarm TakeoverWithheld(Halted)")]);
    it.start(A);
    it.until("home", is_home);
    it.assert_order(&[(B, "alarm TakeoverWithheld(Halted)"), (B, "alarm over TakeoverWithheld(Halted)")]);
    it.note("once more, and the operator does not want to wait");
    it.ask(A, Request::Halt);
    it.run(1_000);
    assert!(!it.world.answers(B, P1), "{}", it.text());
    it.ask(B, Request::Takeover { kind: TakeoverKind::Forced, vetoes: SoftVetoes::Count, earnest: Earnest::Do });
    it.until("B serves both", |world| world.answers(B, P1) && world.answers(B, P2));
    it.run(500);
    it.assert_golden();
}

/// A node that is killed says nothing: only who has said that it ended is left alone.
#[test]
fn killed_node_is_taken_over_whatever_is_said_of_halted_ones() {
    let policy = Policy { on_halt: OnEnd::Leave, on_panic: OnEnd::Leave, ..usual_policy() };
    let mut it = Scenario::with_policy("killed_not_halted", policy);
    it.cold_start();
    it.kill(A);
    it.until("B serves both", |world| world.answers(B, P1) && world.answers(B, P2));
}

#[test]
fn dry_run_of_a_takeover_is_judged_by_the_partner_and_moves_nothing() {
    let mut it = Scenario::new("takeover_dry_run");
    it.cold_start();
    let dry_run =
        Request::Takeover { kind: TakeoverKind::Planned, vetoes: SoftVetoes::Count, earnest: Earnest::DryRun };
    let commits = it.text().matches("COMMIT").count();
    it.ask(B, dry_run.clone());
    it.until("judged", |world| {
        let lines = world.transcript.as_ref().expect("kept");
        lines.iter().any(|line| line.contains("WouldDo"))
    });
    it.run(500);
    assert!(is_home(&it.world) && it.text().matches("COMMIT").count() == commits, "{}", it.text());
    it.assert_order(&[(A, "dry run"), (B, "WouldDo")]);
    it.note("the partner cannot be asked");
    it.world.interconnect = [false; 2];
    it.run(1_000);
    it.ask(B, dry_run);
    it.run(100);
    it.assert_order(&[(B, "NoForecast(PartnerSilent)")]);
    it.assert_golden();
}

/// Pools that share a target move together or not at all, and each refusal says which pool and why.
#[test]
fn pools_that_are_named_are_moved_or_refused_with_the_reason() {
    let p3 = PoolId(3);
    let configs = NodeId::BOTH.map(|node| {
        let mut config = usual_config(node);
        config.policy = AutomaticGiveback::OnRequest.into();
        config.pools.insert(p3, PoolConfig { home: A });
        config
    });
    let mut it = Scenario { name: "named_pools".to_owned(), world: World::new(configs, 1, Chaos::NONE) };
    it.world.transcript = Some(Vec::new());
    it.cold_start();
    let (vetoes, earnest) = (SoftVetoes::Overridden, Earnest::Do);
    let take = |pools: &[PoolId]| Request::TakeoverOf { pools: pools.iter().copied().collect(), vetoes, earnest };
    let give = |pools: &[PoolId]| Request::GivebackOf { pools: pools.iter().copied().collect(), vetoes, earnest };
    it.ask(B, take(&[P1]));
    it.ask(B, take(&[P2]));
    it.ask(B, give(&[P1, p3]));
    it.assert_order(&[
        (B, "NotThisPool { pool: PoolId(1), why: SharesTarget { with: PoolId(3) } }"),
        (B, "NotThisPool { pool: PoolId(2), why: OfThisNode }"),
        (B, "NotThisPool { pool: PoolId(1), why: AtHome }"),
    ]);
    it.run(200);
    assert!(is_home(&it.world), "{}", it.text());
    it.ask(B, take(&[P1, p3]));
    it.until("B serves all", |world| [P1, P2, p3].iter().all(|pool| world.answers(B, *pool)));
    it.until_word(A, StateWord::MailboxWait);
    it.run(100);
    it.ask(B, take(&[P1, p3]));
    it.ask(B, give(&[p3]));
    it.assert_order(&[
        (B, "NotThisPool { pool: PoolId(1), why: HereAlready }"),
        (B, "NotThisPool { pool: PoolId(3), why: SharesTarget { with: PoolId(1) } }"),
    ]);
    it.ask(B, give(&[P1, p3]));
    it.until("home", |world| is_home(world) && world.answers(A, p3));
    it.assert_golden();
}

/// Two pools of A's home and one of B's, where both nodes forward commands.
fn in_parts(name: &str, giveback: AutomaticGiveback) -> Scenario {
    let configs = NodeId::BOTH.map(|node| {
        let mut config = usual_config(node);
        config.policy = giveback.into();
        config.may_split = true;
        config.pools.insert(P3, PoolConfig { home: A });
        config
    });
    let mut it = Scenario { name: name.to_owned(), world: World::new(configs, 1, Chaos::NONE) };
    it.world.transcript = Some(Vec::new());
    it.cold_start();
    it
}

const P3: PoolId = PoolId(3);

fn take(pools: &[PoolId]) -> Request {
    let pools = pools.iter().copied().collect();
    Request::TakeoverOf { pools, vetoes: SoftVetoes::Overridden, earnest: Earnest::Do }
}

fn give(pools: &[PoolId]) -> Request {
    let pools = pools.iter().copied().collect();
    Request::GivebackOf { pools, vetoes: SoftVetoes::Overridden, earnest: Earnest::Do }
}

#[test]
fn one_of_two_pools_of_a_home_goes_to_the_partner_and_comes_home() {
    let mut it = in_parts("relocation", AutomaticGiveback::OnRequest);
    it.ask(B, take(&[P3]));
    it.until("B serves pool 3", |world| world.answers(B, P3));
    it.until_word(A, StateWord::MailboxWait);
    it.run(100);
    assert!(it.world.answers(A, P1) && !it.world.answers(B, P1), "{}", it.text());
    assert!(!it.text().contains("service of A is closed"), "{}", it.text());
    it.ask(B, give(&[P3]));
    it.until("home", |world| is_home(world) && world.answers(A, P3));
    it.assert_golden();
}

#[test]
fn what_is_vetoed_of_a_giveback_stays_and_comes_home_when_nothing_speaks_against_it_any_more() {
    let mut it =
        in_parts("giveback_in_part", AutomaticGiveback::Within { limit: 10, window: Micros::from_millis(600_000) });
    it.kill(A);
    it.until("B serves all", |world| [P1, P2, P3].iter().all(|pool| world.answers(B, *pool)));
    it.run(500);
    it.world.vetoed.insert(P3, [Veto::CopyRunning].into());
    it.start(A);
    it.until("A serves pool 1", |world| world.answers(A, P1));
    it.run(3_000);
    assert!(it.world.answers(B, P3) && !it.world.answers(A, P3), "{}", it.text());
    it.assert_order(&[(B, "pool 3 stays"), (A, "pool 1 served"), (A, "asserted GIVEWAIT"), (A, "asserted MBWAIT")]);
    it.note("the copy is done");
    it.world.vetoed.clear();
    it.until("home", |world| is_home(world) && world.answers(A, P3));
    it.assert_golden();
}

#[test]
fn operator_is_told_which_pools_stay() {
    let mut it = in_parts("giveback_asked_in_part", AutomaticGiveback::OnRequest);
    it.ask(B, take(&[P1, P3]));
    it.until_word(A, StateWord::MailboxWait);
    it.run(500);
    it.world.vetoed.insert(P1, [Veto::WriteOutcomeUnknown].into());
    it.ask(B, Request::Giveback { vetoes: SoftVetoes::Count, earnest: Earnest::DryRun });
    it.run(100);
    it.assert_order(&[(B, "pools: [PoolId(3)], stay: {PoolId(1): {WriteOutcomeUnknown}}")]);
    it.ask(B, Request::Giveback { vetoes: SoftVetoes::Overridden, earnest: Earnest::Do });
    it.until("A serves pool 3", |world| world.answers(A, P3));
    it.run(100);
    it.assert_order(&[(B, "DoneInPart { stayed: {PoolId(1): {WriteOutcomeUnknown}} }")]);
    it.note("the node that serves the other pool dies, and its partner takes that over, too");
    it.kill(A);
    it.until("B serves all", |world| [P1, P2, P3].iter().all(|pool| world.answers(B, *pool)));
    it.assert_golden();
}

/// The node that has a part of its partner's pools dies, and so does, another time, the one that has the rest.
#[test]
fn either_node_may_die_while_each_has_a_part() {
    for victim in NodeId::BOTH {
        let mut it = in_parts("death_in_parts", AutomaticGiveback::OnRequest);
        it.ask(B, take(&[P3]));
        it.until_word(A, StateWord::MailboxWait);
        it.run(100);
        it.kill(victim);
        let survivor = victim.partner();
        it.until("all are served", |world| [P1, P2, P3].iter().all(|pool| world.answers(survivor, *pool)));
        it.start(victim);
        it.run(1_000);
        heal_and_check(&mut it);
    }
}
