//! A pair with clients on volumes of both nodes, and what a drill does to it and demands of it.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use understudy::admin::{LinkState, Status};
use understudy::config::NodeName;
use understudy::driver::drill;
use understudy::harness::{Pair, Plan, Signal, Watch, volume_name};
use understudy::timeline::TimelineStep;
use understudy_load::{Mark, Progress, Verdict, Verifier, VerifierOptions};

use crate::registered::{Registered, registered_on};

/// For anything a pair does within a second or two by itself: several times that, for a machine busy with other drills.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// What every client must have had acknowledged since to be called served: more than can have been under way.
pub(crate) const GOING_ON: u64 = 30;

/// A node that has not heard of its partner for this long, and is still where it was, has settled: several times the longest
/// wait before a takeover of a running node.
const SILENCE_MS: u64 = 1_500;

/// As many reads of a page as a routine pace makes in that time.
const PAGES: u64 = 150;

/// What a client writes to: little, so that most blocks are written several times and an old state would show.
const SPAN_BYTES: u64 = 1 << 20;

/// Room that drills may need, several side by side.
const SCRATCH_BYTES: u64 = 2 << 30;

/// What hits a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// SIGKILL of both of its processes, as by a power cut.
    Killed,
    /// SIGKILL of its worker: the supervisor announces the death.
    Died,
    /// Its worker panics: the same.
    Panicked,
    /// SIGSTOP, and SIGCONT once the other node has settled without it: nothing of it answers.
    Stopped,
    /// It does nothing for as long, but its memory can be read.
    Hung,
}

/// Which processes of a node die when it is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Death {
    /// Both at once, as by a power cut.
    Whole,
    /// Its worker: its supervisor announces it.
    Announced,
}

/// Where drills have their disks: in memory if they can. On a machine whose own disk is busy a single flush takes ten seconds
/// and more, and what a pair rightly waits for is not what a drill is about.
#[must_use]
pub fn scratch() -> PathBuf {
    let memory = PathBuf::from("/dev/shm");
    let room = rustix::fs::statvfs(&memory).is_ok_and(|found| found.f_bavail * found.f_frsize >= SCRATCH_BYTES);
    let usable = room && rustix::fs::access(&memory, rustix::fs::Access::WRITE_OK).is_ok();
    if usable { memory } else { std::env::temp_dir() }
}

/// Plays a drill in a folder of its own, at most for `limit`. If it does not hold, everything stays in the folder,
/// which is named.
///
/// # Panics
/// It does not hold, or not in time.
pub fn play(limit: Duration, drill: impl FnOnce(&Path) -> anyhow::Result<()> + Send + 'static) {
    let folder = tempfile::Builder::new().prefix("understudy-drill-").tempdir_in(scratch()).expect("a folder");
    let path = folder.path().to_owned();
    let (done, over) = channel();
    let player = std::thread::spawn(move || {
        let outcome = drill(&path);
        // Nobody listens any more only after the limit.
        let _ = done.send(());
        outcome
    });
    let outcome = match over.recv_timeout(limit) {
        Err(RecvTimeoutError::Timeout) => Err(anyhow::anyhow!("not over after {} s", limit.as_secs())),
        // Disconnected: it panicked, and joining tells.
        Ok(()) | Err(RecvTimeoutError::Disconnected) => match player.join() {
            Ok(outcome) => outcome,
            Err(panic) => {
                eprintln!("disks and logs are in {}", folder.keep().display());
                std::panic::resume_unwind(panic)
            }
        },
    };
    if let Err(error) = outcome {
        panic!("{error:#}\ndisks and logs are in {}", folder.keep().display());
    }
}

/// The usual plan of a drill: small, with `program` as shelf and nodes.
#[must_use]
pub fn plan(program: &str, folder: &Path) -> Plan {
    Plan {
        program: Some(PathBuf::from(program)),
        // More givebacks than any drill has.
        more: "[giveback]\nlimit = 100\n".to_owned(),
        ..Plan::small(folder)
    }
}

/// How a drill's clients work.
pub(crate) fn client_options(seed: u64) -> VerifierOptions {
    VerifierOptions {
        depth: 4,
        pace: Duration::from_millis(2),
        span_bytes: SPAN_BYTES,
        seed,
        ..VerifierOptions::default()
    }
}

#[derive(Debug)]
struct Client {
    label: String,
    verifier: Verifier,
}

/// Where the story of a drill is told while it goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Telling {
    /// On standard error, which a test captures.
    Aloud,
    /// In `timeline.log` in the folder: several drills at a time would talk across each other.
    InFolder,
}

/// Which portals a client uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Ways {
    /// Those of the volume's home, which are at the node that has its pool.
    Own,
    /// Those, and while they are not reached those of the other identity.
    Both,
    /// Only those of the other identity, which may be at the other node.
    Other,
}

/// Everything a drill needs.
#[derive(Debug)]
pub struct Stage {
    /// The pair.
    pub pair: Pair,
    /// Which ways clients take that are started from now on.
    pub ways: Ways,
    /// Bytes of each of their commands.
    pub command_bytes: u32,
    /// How nodes die that are lost from now on.
    pub death: Death,
    watch: Watch,
    /// What the nodes recorded so far.
    pub steps: Vec<TimelineStep>,
    clients: Vec<Client>,
    telling: Telling,
}

impl Stage {
    /// A pair that is UP, each node serving its own pool, without clients.
    ///
    /// # Errors
    /// It does not come up.
    pub fn set_up(plan: Plan) -> anyhow::Result<Self> {
        Self::set_up_telling(plan, Telling::Aloud)
    }

    /// The same, telling its story where it is said.
    ///
    /// # Errors
    /// It does not come up.
    pub fn set_up_telling(plan: Plan, telling: Telling) -> anyhow::Result<Self> {
        let mut pair = Pair::lay_out(plan)?;
        pair.start_shelf()?;
        pair.init()?;
        let watch = pair.watch();
        for node in NodeName::BOTH {
            pair.start(node)?;
        }
        let (ways, death) = (Ways::Own, Death::Whole);
        let command_bytes = VerifierOptions::default().command_bytes;
        let mut stage =
            Self { pair, ways, command_bytes, death, watch, steps: Vec::new(), clients: Vec::new(), telling };
        stage.wait_until_home()?;
        Ok(stage)
    }

    /// Starts a verifying client on the first volume of each node and waits until both are served.
    ///
    /// # Errors
    /// They are not.
    pub fn start_clients(&mut self, seed: u64) -> anyhow::Result<()> {
        NodeName::BOTH.into_iter().try_for_each(|node| self.start_client(node, seed))
    }

    /// Starts a verifying client on the first volume of a node and waits until it is served.
    ///
    /// # Errors
    /// It is not.
    pub fn start_client(&mut self, node: NodeName, seed: u64) -> anyhow::Result<()> {
        self.add_client(node, 0, seed)?;
        self.wait_until_clients_go_on("at the start")
    }

    /// Starts a verifying client on one of the volumes of a node, without waiting.
    ///
    /// # Errors
    /// The node does not serve it.
    pub fn add_client(&mut self, node: NodeName, index: usize, seed: u64) -> anyhow::Result<()> {
        let label = volume_name(node, index);
        let ways = self.ways_to(&label, node)?;
        let seed = seed * 2 + node.index() as u64;
        self.tell(&format!("client of {label}: seed {seed}"));
        let options = VerifierOptions { command_bytes: self.command_bytes, ..client_options(seed) };
        let verifier = Verifier::start_by(&label, ways, options).context("cannot start a client")?;
        self.clients.push(Client { label, verifier });
        Ok(())
    }

    /// The ways a client takes to a volume that `node` serves.
    fn ways_to(&self, volume: &str, node: NodeName) -> anyhow::Result<Vec<understudy_load::LunAddress>> {
        let own = self.address_of(volume, node)?;
        let portal = self.pair.portal_of(node.partner());
        let other = understudy_load::LunAddress { portal, ..own.clone() };
        Ok(match self.ways {
            Ways::Own => vec![own],
            Ways::Both => vec![own, other],
            Ways::Other => vec![other],
        })
    }

    /// Where a client finds a volume that `node` serves.
    ///
    /// # Errors
    /// It does not serve it.
    pub fn address_of(&self, volume: &str, node: NodeName) -> anyhow::Result<understudy_load::LunAddress> {
        let volumes = self.pair.volumes(node)?;
        let found = volumes.iter().find(|found| found.name == volume);
        let found = found.with_context(|| format!("node {node} does not serve volume {volume}"))?;
        let initiator = format!("iqn.2026-01.org.example.understudy:client-{volume}");
        Pair::address_of(found, &initiator).with_context(|| format!("{volume} has no portal"))
    }

    /// Kills a node and waits until the other one serves everything.
    ///
    /// # Errors
    /// It does not.
    pub fn lose(&mut self, node: NodeName) -> anyhow::Result<()> {
        match self.death {
            Death::Whole => self.pair.kill(node)?,
            Death::Announced => {
                self.pair.kill_worker(node)?;
                self.pair.wait_for_end(node, PATIENCE)?;
            }
        }
        self.wait_until_alone(node.partner())
    }

    /// Asks a node to be hit the next time it comes to `place` (see [`understudy::driver::drill`]).
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn arm(&self, node: NodeName, place: &str, fault: Fault) -> anyhow::Result<()> {
        let fault = match fault {
            Fault::Killed => "kill",
            Fault::Died => "die",
            Fault::Panicked => "panic",
            Fault::Stopped => "stop",
            Fault::Hung => "hang",
        };
        let state = &self.pair.config().node(node).state;
        std::fs::create_dir_all(state)?;
        // Renamed into place, so that a node never reads half of it.
        let fresh = state.join("drill.new");
        std::fs::write(&fresh, format!("{place}:{fault}"))?;
        std::fs::rename(&fresh, state.join(drill::FILE)).context("cannot arm the drill")
    }

    /// Waits until the armed node was hit.
    ///
    /// # Errors
    /// It never came to the place.
    pub fn wait_until_hit(&mut self, node: NodeName, fault: Fault) -> anyhow::Result<()> {
        let hit = match fault {
            Fault::Killed | Fault::Died | Fault::Panicked => self.pair.wait_for_end(node, PATIENCE).map(drop),
            Fault::Stopped => self.pair.wait_until_stopped(node, PATIENCE),
            Fault::Hung => self.wait_until_hanging(node),
        };
        hit.with_context(|| format!("node {node} was never hit\n{}", self.situation()))
    }

    /// Waits until `node` serves everything, having heard nothing of its partner for a good while, and all clients go on.
    ///
    /// # Errors
    /// It does not get there.
    pub fn wait_until_alone(&mut self, node: NodeName) -> anyhow::Result<()> {
        self.wait_until_taken_over(node, |status| status.partner.page_age_ms.is_none_or(|age| age > SILENCE_MS))
    }

    /// The same with a partner that hangs: its page is read on, again and again the same.
    ///
    /// # Errors
    /// It does not get there.
    pub fn wait_until_alone_beside_hanging(&mut self, node: NodeName) -> anyhow::Result<()> {
        // Another one may only just have started to answer.
        let before = self.pair.status(node).map_or(0, |status| status.partner.pages_read);
        self.wait_until_taken_over(node, |status| status.partner.pages_read > before + PAGES)
    }

    fn wait_until_taken_over(&mut self, node: NodeName, settled: impl Fn(&Status) -> bool) -> anyhow::Result<()> {
        self.wait_for(&format!("node {node} serves everything alone"), |stage| {
            stage.pair.status(node).is_ok_and(|status| {
                status.state == "TAKEOVER" && settled(&status) && serving(&status).len() == status.pools.len()
            })
        })?;
        self.wait_until_clients_go_on(&format!("while node {node} is alone"))
    }

    /// Waits until both nodes are UP and serve the pools that are at home with them, and nothing else.
    ///
    /// # Errors
    /// They do not get there.
    pub fn wait_until_home(&mut self) -> anyhow::Result<()> {
        self.wait_for("both nodes are UP with their own pools", |stage| {
            NodeName::BOTH.iter().all(|node| {
                stage.pair.status(*node).is_ok_and(|status| {
                    let own: Vec<&str> = stage.pair.config().pools_of(*node).map(|pool| pool.name.as_str()).collect();
                    status.state == "UP" && serving(&status) == own
                })
            })
        })
    }

    /// Waits until neither node reaches any disk.
    ///
    /// # Errors
    /// They go on reaching some.
    pub fn wait_until_disks_are_lost(&mut self) -> anyhow::Result<()> {
        self.wait_for("no node reaches a disk", |stage| {
            NodeName::BOTH.iter().all(|node| {
                stage.pair.status(*node).is_ok_and(|status| {
                    status.lock_disks.iter().chain(&status.disks).all(|disk| disk.link == LinkState::Down)
                })
            })
        })
    }

    /// Waits until every client had a good many writes acknowledged from now on.
    ///
    /// # Errors
    /// One had not.
    pub fn wait_until_clients_go_on(&mut self, when: &str) -> anyhow::Result<()> {
        let before: Vec<u64> = self.clients.iter().map(Client::acknowledged).collect();
        self.wait_for(&format!("all clients go on {when}"), |stage| {
            stage.clients.iter().zip(&before).all(|(client, before)| client.acknowledged() > before + GOING_ON)
        })
    }

    /// How often the clients have lost a connection so far, one number a client.
    #[must_use]
    pub fn told_to_repeat(&self) -> Vec<u64> {
        self.clients.iter().map(|client| client.verifier.progress().told_to_repeat).collect()
    }

    /// Sessions each client lost so far.
    #[must_use]
    pub fn connection_losses(&self) -> Vec<u64> {
        self.clients.iter().map(|client| client.verifier.progress().connection_losses).collect()
    }

    /// The keys on every pool disk must be those of `owner` of its pool, as it runs now, and no others.
    ///
    /// # Errors
    /// They are not; or a disk or node does not answer.
    pub fn demand_keys_of(&self, owner: impl Fn(NodeName) -> NodeName) -> anyhow::Result<()> {
        self.demand_keys_without(&[], owner)
    }

    /// The same, without these disks: one that was dropped belongs to nobody, and keeps the keys it had.
    ///
    /// # Errors
    /// They are not; or a disk or node does not answer.
    pub fn demand_keys_without(&self, dropped: &[String], owner: impl Fn(NodeName) -> NodeName) -> anyhow::Result<()> {
        let config = self.pair.config();
        for pool in &config.pools {
            let owner = owner(pool.home);
            let only = Registered { node: Some(owner), incarnation: incarnation_bits(&self.pair.status(owner)?)? };
            let disks = pool.mirrors.iter().flatten().map(|index| &config.disks[*index]);
            for disk in disks.filter(|disk| !dropped.contains(&disk.name)) {
                let found = registered_on(disk, config)?;
                ensure!(found == [only], "{} of {} has the keys {found:?}, not only {only:?}", disk.name, pool.name);
            }
        }
        Ok(())
    }

    /// On the lock disks no key of an incarnation that does not run any more.
    ///
    /// # Errors
    /// There is one; or a disk or node does not answer.
    pub fn demand_living_keys_on_lock_disks(&self) -> anyhow::Result<()> {
        let config = self.pair.config();
        for disk in &config.lock_disks {
            for found in registered_on(disk, config)? {
                let node = found.node.with_context(|| format!("{} has a foreign key", disk.name))?;
                let living = incarnation_bits(&self.pair.status(node)?)?;
                ensure!(found.incarnation == living, "{} has a key of a dead incarnation of {node}", disk.name);
            }
        }
        Ok(())
    }

    /// Both nodes are home, exactly one node serves each pool, only living keys stand on the disks, clients go on; then every
    /// client reads back all it was acknowledged.
    ///
    /// # Errors
    /// Any of it does not hold.
    pub fn conclude(mut self) -> anyhow::Result<()> {
        self.wait_until_home()?;
        self.wait_until_clients_go_on("at the end")?;
        self.demand_keys_of(|home| home)?;
        self.demand_living_keys_on_lock_disks()?;
        for verdict in self.verdicts()? {
            self.tell(&format!("{verdict:?}"));
            ensure!(verdict.holds(), "the client of {} is not content: {verdict:?}", verdict.label);
        }
        // That no node left the state while the clients read back.
        self.wait_until_home()
    }

    /// Ends the clients, each having read back all it was acknowledged.
    ///
    /// # Errors
    /// One panicked.
    pub fn verdicts(&mut self) -> anyhow::Result<Vec<Verdict>> {
        let finishing: Vec<_> =
            self.clients.drain(..).map(|client| std::thread::spawn(move || client.verifier.finish(PATIENCE))).collect();
        finishing.into_iter().map(|thread| thread.join().map_err(|_| anyhow::anyhow!("a client panicked"))).collect()
    }

    /// Waits for a fact, at most [`PATIENCE`].
    ///
    /// # Errors
    /// It did not become one; or a node ended by itself.
    pub fn wait_for(&mut self, what: &str, mut reached: impl FnMut(&mut Self) -> bool) -> anyhow::Result<()> {
        let deadline = Instant::now() + PATIENCE;
        // BOUND: the deadline.
        while !reached(self) {
            self.pump(Instant::now() + Duration::from_millis(10));
            for node in NodeName::BOTH {
                self.pair.check_alive(node)?;
            }
            if Instant::now() >= deadline {
                bail!("{} s have passed, and still not: {what}\n{}", PATIENCE.as_secs(), self.situation());
            }
        }
        Ok(())
    }

    /// Waits until `node` has told of `step` with `text` in it at least once. What its status says may be known before its
    /// timeline has arrived.
    ///
    /// # Errors
    /// As [`Stage::wait_for`].
    pub fn wait_until_told(&mut self, node: NodeName, step: &str, text: &str) -> anyhow::Result<()> {
        self.wait_for(&format!("{node} tells of {step} ({text})"), |stage| stage.times_told(node, step, text) > 0)
    }

    /// How often `node` has told of `step` with `text` in it, as far as its timeline has arrived.
    #[must_use]
    pub fn times_told(&self, node: NodeName, step: &str, text: &str) -> usize {
        self.steps.iter().filter(|told| told.node == node && told.step == step && told.text.contains(text)).count()
    }

    fn pump(&mut self, deadline: Instant) {
        // BOUND: after the deadline only what has already arrived is taken.
        while let Some(step) = self.watch.next(deadline) {
            self.tell(&format!("{} {} {:<22} {}", step.wall_micros, step.node, step.step, step.text));
            self.steps.push(step);
        }
    }

    /// Tells a line of the story.
    pub fn tell(&self, line: &str) {
        match self.telling {
            Telling::Aloud => eprintln!("{line}"),
            Telling::InFolder => {
                let file = self.pair.folder().join("timeline.log");
                let file = OpenOptions::new().create(true).append(true).open(file);
                // Without its story a drill is as good; the disk it could not be written to fails everything else anyway.
                drop(file.and_then(|mut file| writeln!(file, "{line}")));
            }
        }
    }

    /// Lets the pair go on for a while without demanding anything: for faults whose length is what they are.
    pub fn let_pass(&mut self, time: Duration) {
        let deadline = Instant::now() + time;
        // BOUND: the deadline.
        while Instant::now() < deadline {
            self.pump((Instant::now() + Duration::from_millis(10)).min(deadline));
        }
    }

    /// A point in time for [`Stage::pauses`], one a client.
    #[must_use]
    pub fn mark(&self) -> Vec<Mark> {
        self.clients.iter().map(|client| client.verifier.mark()).collect()
    }

    /// The longest pause of each client since it was marked, by the volume's name.
    #[must_use]
    pub fn pauses(&self, marks: &[Mark]) -> Vec<(String, Duration)> {
        let pause =
            |(client, mark): (&Client, &Mark)| (client.label.clone(), client.verifier.pause_since(*mark).length);
        self.clients.iter().zip(marks).map(pause).collect()
    }

    /// The counts of every client so far, by the volume's name.
    #[must_use]
    pub fn progress(&self) -> Vec<(String, Progress)> {
        self.clients.iter().map(|client| (client.label.clone(), client.verifier.progress())).collect()
    }

    /// What there is to say about the pair now.
    pub fn situation(&mut self) -> String {
        self.pump(Instant::now());
        let mut lines: Vec<String> = Vec::new();
        for node in NodeName::BOTH {
            lines.push(match self.pair.status(node) {
                Ok(status) => format!(
                    "node {node} is {} {}, serves {:?}, alarms {:?}, partner {:?}",
                    status.state,
                    status.stage,
                    serving(&status),
                    status.alarms,
                    status.partner
                ),
                Err(error) => format!("node {node}: {error:#}"),
            });
        }
        lines.extend(self.clients.iter().map(|client| format!("{}: {:?}", client.label, client.verifier.progress())));
        lines.join("\n")
    }

    /// Waits until a node hangs at the place it was armed with.
    ///
    /// # Errors
    /// It never came there.
    pub fn wait_until_hanging(&mut self, node: NodeName) -> anyhow::Result<()> {
        let file = self.hanging(node);
        self.wait_for("a node hangs", |_| file.exists())
    }

    /// The file that exists as long as a node hangs.
    #[must_use]
    pub fn hanging(&self, node: NodeName) -> PathBuf {
        self.pair.config().node(node).state.join(drill::HANGING)
    }

    /// Ends what was done to a node: starts it again, or lets it go on.
    ///
    /// # Errors
    /// It can not be started or does not run.
    pub fn repair(&mut self, node: NodeName, fault: Fault) -> anyhow::Result<()> {
        match fault {
            Fault::Killed | Fault::Died | Fault::Panicked => self.pair.start(node),
            Fault::Stopped => self.pair.signal(node, Signal::CONT),
            Fault::Hung => std::fs::remove_file(self.hanging(node)).context("the node does not hang"),
        }
    }
}

impl Client {
    fn acknowledged(&self) -> u64 {
        self.verifier.progress().acknowledged_writes
    }
}

/// The pools a node says it serves.
#[must_use]
pub fn serving(status: &Status) -> Vec<&str> {
    status.pools.iter().filter(|pool| pool.state == "serving").map(|pool| pool.name.as_str()).collect()
}

fn incarnation_bits(status: &Status) -> anyhow::Result<u16> {
    let whole = u64::from_str_radix(&status.incarnation, 16).context("the incarnation of a status")?;
    Ok((whole & 0xffff) as u16)
}
