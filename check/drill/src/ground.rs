//! Where drills of the table take place: a pair with clients, on hosts of its own if that is possible, used again and again.
//!
//! A cell leaves it as it found it, or it is given up with everything in its folder.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use tempfile::TempDir;
use understudy::admin::{Client, Request, Response, SoftVetoes, Status, TakeoverKind, Veto, VetoWeight};
use understudy::config::NodeName;
use understudy::harness::{Pair, Plan, Site};
use understudy_load::Verdict;

use crate::legs::demand_equal_legs;
use crate::network::{Network, Way};
use crate::registered::registered_on;
use crate::stage::{PATIENCE, Stage, Telling, plan, serving};

/// How long an operator waits before asking again: longer than a node takes to answer a request it will carry out.
const ASK_AGAIN: Duration = Duration::from_secs(2);

/// Before an operator asks again for what was vetoed.
const VETOED: Duration = Duration::from_millis(50);

/// How long a node may take over an answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(20);

/// Which hosts a ground has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hosting {
    /// Network namespaces, which need rights: cables can be cut.
    Apart,
    /// The same with a switch before the clients, and nodes that move the addresses of their portals themselves. Nothing comes home
    /// before it is asked for.
    Switched,
    /// This host: cables can not be cut.
    Here,
}

/// What a ground is made of.
#[derive(Debug, Clone)]
pub struct Wish {
    /// The program built for drills.
    pub program: PathBuf,
    /// Where folders of grounds are made.
    pub parent: PathBuf,
    /// Volumes, each with a client, in the pool of each node.
    pub volumes: usize,
    /// Which hosts.
    pub hosting: Hosting,
}

/// A pair with clients.
#[derive(Debug)]
pub struct Ground {
    /// The pair and its clients.
    pub stage: Stage,
    /// Its cables, if they can be cut. Dropped after the processes on them.
    pub network: Option<Network>,
    volumes: usize,
    // Dropped last.
    folder: TempDir,
}

impl Ground {
    /// Sets everything up; the calling thread is on the clients' host then.
    ///
    /// # Errors
    /// It cannot be made, or the pair does not come up.
    pub fn make(wish: &Wish) -> anyhow::Result<Self> {
        let folder =
            tempfile::Builder::new().prefix("ground-").tempdir_in(&wish.parent).context("cannot make a folder")?;
        let network = match wish.hosting {
            Hosting::Apart => Some(Network::make()?),
            Hosting::Switched => Some(Network::make_with(Way::Switched)?),
            Hosting::Here => None,
        };
        let site = match &network {
            Some(network) => {
                network.enter_as_client()?;
                network.site()?
            }
            None => Site::Here,
        };
        let program = wish.program.display().to_string();
        let plan = Plan {
            volumes: wish.volumes,
            disk_bytes: 256 << 20,
            site,
            // More givebacks than any drill has: how often a node may fail is not what is drilled.
            more: match wish.hosting {
                Hosting::Apart | Hosting::Here => "[giveback]\nlimit = 1000\nwithin_ms = 1000\n".to_owned(),
                Hosting::Switched => "[giveback]\nautomatic = \"on-request\"\n".to_owned(),
            },
            ..plan(&program, folder.path())
        };
        let stage = match Stage::set_up_telling(plan, Telling::InFolder) {
            Ok(stage) => stage,
            Err(error) => bail!("{error:#}\neverything is in {}", folder.keep().display()),
        };
        Ok(Self { stage, network, volumes: wish.volumes, folder })
    }

    /// Its folder, with the logs of all processes and `timeline.log`.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// How late, at the most, the network led clients to a new listener since this was asked last; nothing without cables of its own.
    pub fn network_late(&self) -> Duration {
        self.network.as_ref().map(Network::latest).unwrap_or_default()
    }

    /// Ends it and leaves the folder.
    #[must_use]
    pub fn give_up(self) -> PathBuf {
        let Self { stage, network, folder, .. } = self;
        drop(stage);
        drop(network);
        folder.keep()
    }

    /// Starts a client on every volume.
    ///
    /// # Errors
    /// One is not served.
    pub fn start_clients(&mut self, seed: u64) -> anyhow::Result<()> {
        for node in NodeName::BOTH {
            for index in 0..self.volumes {
                self.stage.add_client(node, index, seed * 16 + index as u64)?;
            }
        }
        self.stage.wait_until_clients_go_on("at the start")
    }

    /// Both nodes home, nothing left to resync, only living keys on the disks, clients going on. An operator asks for the giveback of
    /// what does not come home by itself.
    ///
    /// # Errors
    /// Any of it is not so in time.
    pub fn wait_until_sound(&mut self) -> anyhow::Result<()> {
        self.wait_until_whole()?;
        self.stage.wait_until_clients_go_on("at the end")?;
        self.wait_for_keys()?;
        // That nothing moved meanwhile.
        self.wait_until_whole()
    }

    fn wait_until_whole(&mut self) -> anyhow::Result<()> {
        let mut asked = Instant::now();
        let deadline = Instant::now() + PATIENCE;
        // BOUND: the deadline.
        loop {
            self.stage.let_pass(Duration::from_millis(10));
            NodeName::BOTH.into_iter().try_for_each(|node| self.stage.pair.check_alive(node))?;
            let statuses = NodeName::BOTH.map(|node| self.stage.pair.status(node).ok());
            if let [Some(a), Some(b)] = &statuses
                && [(NodeName::A, a), (NodeName::B, b)]
                    .iter()
                    .all(|(node, status)| is_whole(&self.stage.pair, *node, status))
            {
                return Ok(());
            }
            if Instant::now() >= deadline {
                let what = "both nodes are UP with their own pools and nothing to resync";
                bail!("{} s have passed, and still not: {what}\n{}", PATIENCE.as_secs(), self.stage.situation());
            }
            let waits = NodeName::BOTH
                .into_iter()
                .zip(&statuses)
                .find(|(_, status)| status.as_ref().is_some_and(may_give_back));
            if let Some((node, _)) = waits
                && asked.elapsed() > ASK_AGAIN
            {
                asked = Instant::now();
                let request = Request::Giveback { soft_vetoes: SoftVetoes::Override };
                let answer = self.stage.pair.ask(node, &request, ANSWER_WITHIN);
                self.stage.tell(&format!("operator asks {node} for the giveback: {answer:?}"));
            }
        }
    }

    /// Keys of dead incarnations are removed by the owner when it looks next, so they are waited for.
    fn wait_for_keys(&mut self) -> anyhow::Result<()> {
        let deadline = Instant::now() + PATIENCE;
        // BOUND: the deadline.
        loop {
            let demanded = self
                .dropped_legs()
                .and_then(|dropped| self.stage.demand_keys_without(&dropped, |home| home))
                .and_then(|()| self.stage.demand_living_keys_on_lock_disks())
                .and_then(|()| self.demand_both_on_lock_disks());
            match demanded {
                Ok(()) => return Ok(()),
                Err(error) if Instant::now() >= deadline => {
                    return Err(error.context(format!("the keys are wrong for {} s", PATIENCE.as_secs())));
                }
                // What an operator asked for earlier may only now have begun: then it has to come home again first.
                Err(_) => {
                    self.stage.let_pass(Duration::from_millis(50));
                    self.wait_until_whole()?;
                }
            }
        }
    }

    fn demand_both_on_lock_disks(&self) -> anyhow::Result<()> {
        let config = self.stage.pair.config();
        for disk in &config.lock_disks {
            let found = registered_on(disk, config)?;
            let both = NodeName::BOTH.iter().all(|node| found.iter().any(|key| key.node == Some(*node)));
            ensure!(both, "{} lacks the key of a node: {found:?}", disk.name);
        }
        Ok(())
    }

    /// Ends the clients, each having read back all it was acknowledged, and compares the legs of every mirror.
    ///
    /// # Errors
    /// Something acknowledged is missing, or the legs differ in something a client wrote. Failed commands are the caller's to judge.
    pub fn judge(&mut self) -> anyhow::Result<Vec<Verdict>> {
        let verdicts = self.stage.verdicts()?;
        for verdict in &verdicts {
            self.stage.tell(&format!("{verdict:?}"));
            let whole = verdict.lost_writes == 0 && verdict.unverified_slots == 0 && verdict.violations.is_empty();
            ensure!(whole, "the client of {} is not content: {verdict:?}", verdict.label);
        }
        // Nobody writes any more; what a resync still has to do is done first.
        self.wait_until_whole()?;
        let dropped = self.dropped_legs()?;
        demand_equal_legs(self.stage.pair.config(), &self.folder.path().join("shelf"), &dropped)?;
        Ok(verdicts)
    }

    /// The disks recorded as dropped. Those that work are taken back, so on ground that is sound there is none.
    ///
    /// # Errors
    /// A node does not answer.
    pub fn dropped_legs(&self) -> anyhow::Result<Vec<String>> {
        let mut dropped = Vec::new();
        for node in NodeName::BOTH {
            let pools = self.stage.pair.status(node)?.pools;
            let legs = pools
                .into_iter()
                .filter(|pool| pool.home == node)
                .flat_map(|pool| pool.mirrors)
                .flat_map(|mirror| mirror.legs);
            dropped.extend(legs.filter(|leg| leg.state == "dropped").map(|leg| leg.disk));
        }
        Ok(dropped)
    }

    /// Kills the home node and waits until its partner serves everything.
    ///
    /// # Errors
    /// It does not.
    pub fn lose(&mut self, node: NodeName) -> anyhow::Result<()> {
        self.stage.lose(node)
    }

    /// An operator asks `node` to take over from its partner, and waits for it, and for the partner to be ready to get its pools
    /// back.
    ///
    /// # Errors
    /// It is refused, fails, or has no answer in time.
    pub fn take_over(&mut self, node: NodeName) -> anyhow::Result<()> {
        self.demand_done(node, &Request::Takeover { kind: TakeoverKind::Planned })?;
        self.stage.wait_for("the partner waits for its pools", |stage| {
            stage.pair.status(node).is_ok_and(|status| may_give_back(&status))
        })
    }

    /// An operator asks `node` for the giveback, and waits for it.
    ///
    /// # Errors
    /// It is refused, fails, or has no answer in time.
    pub fn give_back(&mut self, node: NodeName) -> anyhow::Result<()> {
        self.demand_done(node, &Request::Giveback { soft_vetoes: SoftVetoes::Respect })
    }

    fn demand_done(&mut self, node: NodeName, request: &Request) -> anyhow::Result<()> {
        let answer = insist(&self.stage.pair.config().node(node).admin, request)?;
        ensure!(matches!(answer, Response::Done { .. }), "node {node} was asked for {request:?}: {answer:?}");
        Ok(())
    }

    /// Asks without waiting for the answer, which is written to `asked.log` when it comes.
    pub fn ask_aside(&self, node: NodeName, request: Request, manner: Manner) {
        let socket = self.stage.pair.config().node(node).admin.clone();
        let file = self.folder.path().join("asked.log");
        // BOUND: ends with the answer or its time limit.
        std::thread::spawn(move || {
            let answer = match manner {
                Manner::Once => ask(&socket, &request),
                Manner::UntilItMay => insist(&socket, &request),
            };
            let line = format!("node {node}: {request:?}: {answer:?}\n");
            let opened = std::fs::OpenOptions::new().create(true).append(true).open(file);
            // The folder may be gone by now.
            drop(opened.and_then(|mut file| std::io::Write::write_all(&mut file, line.as_bytes())));
        });
    }
}

/// How an operator asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    /// Whatever the answer is.
    Once,
    /// Again, as long as only soft vetoes stand against it: a resync ends by itself.
    UntilItMay,
}

fn ask(socket: &Path, request: &Request) -> anyhow::Result<Response> {
    Ok(Client::connect(socket)?.ask(request, ANSWER_WITHIN)?)
}

fn insist(socket: &Path, request: &Request) -> anyhow::Result<Response> {
    let deadline = Instant::now() + PATIENCE;
    // BOUND: the deadline.
    loop {
        let answer = ask(socket, request)?;
        let soft = |vetoes: &[Veto]| !vetoes.is_empty() && vetoes.iter().all(|veto| veto.weight == VetoWeight::Soft);
        match &answer {
            Response::Refused { vetoes, .. } if soft(vetoes) && Instant::now() < deadline => std::thread::sleep(VETOED),
            _ => return Ok(answer),
        }
    }
}

/// It serves its partner's pools, and the partner is ready to have them back.
fn may_give_back(status: &Status) -> bool {
    ["TAKEOVER", "RELEASED"].contains(&status.state.as_str()) && status.partner.state == "MBWAIT"
}

/// An alarm that may stay when everything is well again: it tells of a refusal, until the next hand-off.
const LASTING_ALARM: &str = "a hand-off was vetoed";

/// UP, serving its own pools and nothing else, with nothing to resync, hearing its partner, without alarms.
fn is_whole(pair: &Pair, node: NodeName, status: &Status) -> bool {
    let own: Vec<&str> = pair.config().pools_of(node).map(|pool| pool.name.as_str()).collect();
    let pools = status.pools.iter().filter(|pool| own.contains(&pool.name.as_str()));
    let mut mirrors = pools.flat_map(|pool| &pool.mirrors);
    status.state == "UP"
        && serving(status) == own
        && status.partner.state == "UP"
        && status.alarms.iter().all(|alarm| alarm.starts_with(LASTING_ALARM))
        && mirrors.all(|mirror| mirror.resync_left_bytes == 0 && mirror.legs.iter().all(|leg| leg.state != "resyncing"))
}
