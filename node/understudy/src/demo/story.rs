//! The story the demo tells, act by act.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use understudy_load::{Mark, Verdict, Verifier, VerifierOptions};

use super::Options;
use super::observer;
use super::outcome::{Outcome, order_broken};
use super::screen::Screen;
use crate::config::NodeName;
use crate::harness::{Pair, Plan, Watch, size, volume_name};
use crate::timeline::{TimelineStep, group, render, step};

/// For anything that should take a second at most: ten times that on a machine busy with other work.
const PATIENCE: Duration = Duration::from_secs(15);

/// How long the clients run undisturbed between two events.
const CALM: Duration = Duration::from_millis(1_500);

/// What a client writes to: little, so that most blocks are written several times and an old state would show, and so
/// that the files are soon removed.
const SPAN_BYTES: u64 = 2 << 20;

/// Volumes, and clients, a node.
const VOLUMES: usize = 2;

/// Plays the whole story.
pub(super) fn play(options: &Options, folder: &Path) -> anyhow::Result<Outcome> {
    let mut play = Play::set_up(options, folder)?;
    play.start_nodes()?;
    play.start_clients()?;
    let takeover_pause = play.lose_a()?;
    let bring_up = play.get_a_back()?;
    let verdicts = play.verify()?;
    let outcome = play.conclude(takeover_pause, &bring_up, &verdicts);
    println!("\n{}", render(&outcome.timeline, play.screen.style()));
    print!("{}", outcome.summary(play.screen.style()));
    Ok(outcome)
}

/// What was measured while a came back.
struct BringUp {
    pause: Duration,
    steps: Vec<TimelineStep>,
}

/// One client and the volume it writes to.
struct Client {
    volume: String,
    home: NodeName,
    verifier: Verifier,
}

/// Everything on stage.
struct Play {
    screen: Screen,
    pair: Pair,
    watch: Watch,
    steps: Vec<TimelineStep>,
    clients: Vec<Client>,
    interrupted: Arc<AtomicBool>,
}

impl Play {
    fn set_up(options: &Options, folder: &Path) -> anyhow::Result<Self> {
        let screen = Screen::new(options.style);
        let interrupted = watch_for_interrupt()?;
        screen.act("A shelf, two nodes, clients that never stop");
        let plan = Plan { volumes: VOLUMES, provider: options.provider.clone(), ..Plan::small(folder) };
        let mut pair = Pair::lay_out(plan)?;
        screen.line("folder", &folder.display().to_string());
        pair.start_shelf()?;
        let count = pair.config().disks.len() + pair.config().lock_disks.len();
        screen.line("shelf", &format!("serves {count} disks at {} with persistent reservations", pair.shelf_address()));
        for line in pair.init()?.lines() {
            screen.line("init", line);
        }
        let watch = pair.watch();
        Ok(Self { screen, pair, watch, steps: Vec::new(), clients: Vec::new(), interrupted })
    }

    fn start_nodes(&mut self) -> anyhow::Result<()> {
        self.screen.act("Both nodes boot; each serves its own pool");
        for node in NodeName::BOTH {
            self.pair.start(node)?;
        }
        self.wait_for("both nodes are UP", |play| NodeName::BOTH.iter().all(|node| play.is(*node, "UP")))?;
        self.look_at_disks("the shelf says");
        Ok(())
    }

    fn start_clients(&mut self) -> anyhow::Result<()> {
        self.screen.act("Clients write and verify on volumes of both nodes");
        for node in NodeName::BOTH {
            let volumes = self.pair.volumes(node)?;
            for index in 0..VOLUMES {
                let name = volume_name(node, index);
                let volume = volumes.iter().find(|volume| volume.name == name);
                let volume = volume.with_context(|| format!("node {node} does not serve volume {name}"))?;
                let initiator = format!("iqn.2026-01.org.example.understudy:client-{name}");
                let address = Pair::address_of(volume, &initiator).with_context(|| format!("{name} has no portal"))?;
                self.screen.line(
                    "client",
                    &format!("{name}, {}, at {} {}", size(volume.bytes), address.portal, address.target),
                );
                let verifier = Verifier::start(&name, address, load(index)).context("cannot start a client")?;
                self.clients.push(Client { volume: name, home: node, verifier });
            }
        }
        self.wait_for("all clients run", |play| play.clients.iter().all(|client| client.acknowledged() > 0))?;
        self.calm()
    }

    /// Kills a and waits until b serves its clients. Gives the longest pause.
    fn lose_a(&mut self) -> anyhow::Result<Duration> {
        self.screen.act("Node a is killed (SIGKILL)");
        let before = self.marks();
        let acknowledged = self.acknowledged();
        self.pair.kill(NodeName::A)?;
        self.screen.line("demo", "a is dead: its sockets are closed, its reservations still stand");
        self.wait_for("b has taken over and serves the clients of a", |play| {
            play.is(NodeName::B, "TAKEOVER") && play.all_went_on(&acknowledged)
        })?;
        self.look_at_disks("the shelf says");
        self.calm()?;
        let pause = self.longest_pause(&before);
        self.tell_pauses("takeover", &before);
        Ok(pause)
    }

    /// Starts a again and waits until it serves its clients.
    fn get_a_back(&mut self) -> anyhow::Result<BringUp> {
        self.screen.act("Node a is repaired and boots; b serves on until a is ready");
        let before = self.marks();
        let first = self.steps.len();
        self.pair.start(NodeName::A)?;
        let mut looked = false;
        self.wait_for("a serves its own volumes again", |play| {
            let released = play.steps[first..].iter().any(|step| step.step == step::RELEASED);
            if released && !looked {
                looked = true;
                play.look_at_disks("the shelf says, after RELEASED");
            }
            NodeName::BOTH.iter().all(|node| play.is(*node, "UP"))
        })?;
        let acknowledged = self.acknowledged();
        self.wait_for("all clients go on", |play| play.all_went_on(&acknowledged))?;
        self.look_at_disks("the shelf says");
        self.calm()?;
        self.tell_pauses("giveback", &before);
        Ok(BringUp { pause: self.longest_pause(&before), steps: self.steps[first..].to_vec() })
    }

    /// Stops the clients, each reading back everything that was acknowledged to it.
    fn verify(&mut self) -> anyhow::Result<Vec<Verdict>> {
        self.screen.act("Every acknowledged write is read back");
        let finishing: Vec<_> =
            self.clients.drain(..).map(|client| std::thread::spawn(move || client.verifier.finish(PATIENCE))).collect();
        let mut verdicts = Vec::new();
        for thread in finishing {
            let verdict = thread.join().map_err(|_| anyhow::anyhow!("a client panicked"))?;
            let text = format!(
                "{}: {} writes acknowledged, {} lost, {} commands failed, {} blocks unverified, connection lost {} times",
                verdict.label,
                verdict.acknowledged_writes,
                verdict.lost_writes,
                verdict.failed_commands,
                verdict.unverified_slots,
                verdict.connection_losses
            );
            self.screen.line("client", &text);
            verdicts.push(verdict);
        }
        Ok(verdicts)
    }

    fn conclude(&self, takeover_pause: Duration, bring_up: &BringUp, verdicts: &[Verdict]) -> Outcome {
        let ms = |length: Duration| length.as_secs_f64() * 1_000.0;
        let mut broken = order_broken(&bring_up.steps);
        for verdict in verdicts.iter().filter(|verdict| !verdict.holds()) {
            broken.push(format!("client of {} is not content", verdict.label));
            broken.extend(verdict.violations.iter().map(|violation| format!("{}: {violation}", verdict.label)));
        }
        let outage = outage_micros(&bring_up.steps);
        if outage.is_none() {
            broken.push("GIVEWAIT or UP of a was not recorded".to_owned());
        }
        Outcome {
            takeover_pause_ms: ms(takeover_pause),
            giveback_pause_ms: ms(bring_up.pause),
            uncoordinated_outage_ms: ms(Duration::from_micros(outage.unwrap_or(0))),
            acknowledged_writes: verdicts.iter().map(|verdict| verdict.acknowledged_writes).sum(),
            lost_writes: verdicts.iter().map(|verdict| verdict.lost_writes).sum(),
            failed_commands: verdicts.iter().map(|verdict| verdict.failed_commands).sum(),
            timeline: group(self.steps.clone()),
            broken,
        }
    }

    /// Shows steps as they come until `reached`.
    fn wait_for(&mut self, what: &str, mut reached: impl FnMut(&mut Self) -> bool) -> anyhow::Result<()> {
        let deadline = Instant::now() + PATIENCE;
        // BOUND: the deadline.
        while !reached(self) {
            self.pump(Duration::from_millis(10))?;
            if Instant::now() >= deadline {
                bail!("{} s have passed, and still not: {what}\n{}", PATIENCE.as_secs(), self.situation());
            }
        }
        self.pump(Duration::ZERO)
    }

    /// What an operator would look at next.
    fn situation(&self) -> String {
        let states = NodeName::BOTH.map(|node| match self.pair.status(node) {
            Ok(status) => format!("node {node} is {} {}", status.state, status.stage),
            Err(error) => format!("node {node}: {error:#}"),
        });
        let clients: Vec<String> = self.clients.iter().map(Client::situation).collect();
        format!("{}\n{}", states.join("\n"), clients.join("\n"))
    }

    /// Lets the clients run for a while, still showing steps.
    fn calm(&mut self) -> anyhow::Result<()> {
        let end = Instant::now() + CALM;
        // BOUND: the end.
        while Instant::now() < end {
            self.pump(end.saturating_duration_since(Instant::now()).min(Duration::from_millis(50)))?;
        }
        Ok(())
    }

    /// Shows the steps that come within `length`, and ends the play on an interrupt or a node that died by itself.
    fn pump(&mut self, length: Duration) -> anyhow::Result<()> {
        let deadline = Instant::now() + length;
        // BOUND: after the deadline only what has already arrived is taken.
        while let Some(step) = self.watch.next(deadline) {
            self.screen.step(&step);
            self.steps.push(step);
        }
        if self.interrupted.load(Ordering::Relaxed) {
            bail!("interrupted");
        }
        for node in NodeName::BOTH {
            self.pair.check_alive(node)?;
        }
        Ok(())
    }

    fn is(&self, node: NodeName, state: &str) -> bool {
        self.pair.status(node).is_ok_and(|status| status.state == state)
    }

    fn marks(&self) -> Vec<Mark> {
        self.clients.iter().map(|client| client.verifier.mark()).collect()
    }

    fn acknowledged(&self) -> Vec<u64> {
        self.clients.iter().map(Client::acknowledged).collect()
    }

    /// Whether every client had a good many writes acknowledged since.
    fn all_went_on(&self, since: &[u64]) -> bool {
        self.clients.iter().zip(since).all(|(client, before)| client.acknowledged() > before + 20)
    }

    fn longest_pause(&self, since: &[Mark]) -> Duration {
        let pauses = self.clients.iter().zip(since).map(|(client, mark)| client.verifier.pause_since(*mark).length);
        pauses.max().unwrap_or_default()
    }

    fn tell_pauses(&self, what: &str, since: &[Mark]) {
        for (client, mark) in self.clients.iter().zip(since) {
            let pause = client.verifier.pause_since(*mark).length.as_secs_f64() * 1_000.0;
            let text =
                format!("{} (home {}): longest pause during the {what} {pause:.1} ms", client.volume, client.home);
            self.screen.line("client", &text);
        }
    }

    /// Shows what the shelf itself says about the disks of a's pool.
    fn look_at_disks(&self, who: &str) {
        let config = self.pair.config();
        let disks: Vec<usize> =
            config.pools_of(NodeName::A).flat_map(|pool| pool.mirrors.iter().flatten().copied()).collect();
        for index in disks {
            let disk = &config.disks[index];
            match observer::look(disk, config) {
                Ok(text) => self.screen.line("shelf", &format!("{who}: {} {text}", disk.name)),
                Err(error) => self.screen.trouble(&format!("{}: {error:#}", disk.name)),
            }
        }
    }
}

impl Client {
    fn acknowledged(&self) -> u64 {
        self.verifier.progress().acknowledged_writes
    }

    fn situation(&self) -> String {
        let progress = self.verifier.progress();
        format!(
            "client of {}: {} writes acknowledged, {} commands failed, last completion {} ms ago{}",
            self.volume,
            progress.acknowledged_writes,
            progress.failed_commands,
            progress.since_last_completion.as_millis(),
            progress.last_failure.map_or_else(String::new, |failure| format!(", last failure: {failure}"))
        )
    }
}

/// Enough to see a pause of a millisecond, little enough to leave a small machine to the nodes.
fn load(index: usize) -> VerifierOptions {
    VerifierOptions {
        depth: 2,
        pace: Duration::from_millis(1),
        span_bytes: SPAN_BYTES,
        seed: index as u64 + 1,
        ..VerifierOptions::default()
    }
}

/// From GIVEWAIT to UP of a, in microseconds.
fn outage_micros(steps: &[TimelineStep]) -> Option<u64> {
    let of_a = |kind: &str| steps.iter().find(|step| step.node == NodeName::A && step.step == kind);
    Some(of_a(step::UP)?.wall_micros.saturating_sub(of_a(step::GIVEWAIT)?.wall_micros))
}

/// A flag that SIGINT and SIGTERM raise, so that the children are ended and the folder is named.
fn watch_for_interrupt() -> anyhow::Result<Arc<AtomicBool>> {
    let raised = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&raised);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let guard = runtime.enter();
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    let mut interrupt = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::interrupt())?;
    drop(guard);
    std::thread::spawn(move || {
        runtime.block_on(async {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        });
        flag.store(true, Ordering::Relaxed);
    });
    Ok(raised)
}
