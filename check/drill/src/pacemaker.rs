//! A pair, and a cluster of what people use now (Corosync, Pacemaker, tgt), moved and hurt in the same way on the same hosts.
//!
//! Not a drill: nothing is demanded of the peer but that it serves again; what its client saw is reported. Both have the same client, with
//! one path, which reconnects. The pair comes first and has ended when the cluster begins, so neither takes processor time from the other.
//!
//! Four things are done, in each run: a planned move and the way back, and a power cut and the way back. In a power cut a node's cables go
//! dark before its processes are killed, so that no last word of its kernel tells a client that it is gone.

mod cluster;
mod resources;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use serde::Serialize;
use understudy::config::NodeName;
use understudy_load::{LunAddress, Verdict, Verifier};

use crate::cell::longest;
use crate::ground::{Ground, Hosting, Wish};
use crate::handoff::Pauses;
use crate::network::Network;
use crate::stage::{GOING_ON, client_options};
use crate::step::Story;
use crate::table::millis;
use cluster::Cluster;

/// For a client of the cluster to go on once everything is there.
const PATIENCE: Duration = Duration::from_secs(60);

/// Between a power cut and the begin of the boot: no machine is back sooner, and the kernels around it have given up asking for its hardware
/// address by then (three times, a second apart), so that they ask at once when it answers again.
const DARK: Duration = Duration::from_secs(5);

const PLANNED: &str = "planned move";
const BACK: &str = "move back";
const POWER: &str = "power cut";
const RETURN: &str = "return and move back";

/// What is done, in order.
pub const KINDS: [&str; 4] = [PLANNED, BACK, POWER, RETURN];

/// Where the address stands in the group: its members start in this order and stop in the opposite one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum AddressOrder {
    /// Nobody reaches a target that has no LUN yet or any more.
    Last,
    /// Clients of a target that is being taken down are told so.
    First,
}

/// What to do.
#[derive(Debug, Clone)]
pub struct Order {
    /// The program built for drills.
    pub program: PathBuf,
    /// Where folders are made.
    pub parent: PathBuf,
    /// How often each thing is done.
    pub runs: u32,
    /// How long Corosync waits for its token.
    pub token_ms: u32,
    /// Where the address stands.
    pub address: AddressOrder,
    /// What the clients draw their commands with.
    pub seed: u64,
}

/// What came out; its JSON form has these fields.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// How often each thing was done.
    pub runs: u32,
    /// How long Corosync waited for its token.
    pub token_ms: u32,
    /// Where the address stood.
    pub address: AddressOrder,
    /// The pair.
    pub understudy: Side,
    /// The cluster.
    pub pacemaker: Side,
}

/// What the clients of one of them saw.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Side {
    /// The longest pause of a client, by what was done.
    pub pauses: BTreeMap<String, Pauses>,
    /// Writes that clients were acknowledged.
    pub acknowledged_writes: u64,
    /// Blocks that at some time did not show what had been acknowledged.
    pub lost_writes: u64,
    /// Commands answered with an error.
    pub failed_commands: u64,
    /// Sessions lost.
    pub connection_losses: u64,
    /// What was found in such blocks, and the last failure, in words.
    pub found: Vec<String>,
}

impl Side {
    fn of(times: BTreeMap<&'static str, Vec<f64>>, verdicts: Vec<Verdict>) -> Self {
        let pauses = times.into_iter().map(|(kind, all)| (kind.to_owned(), Pauses::of(all))).collect();
        let mut side = Self { pauses, ..Self::default() };
        for verdict in verdicts {
            side.acknowledged_writes += verdict.acknowledged_writes;
            side.lost_writes += verdict.lost_writes;
            side.failed_commands += verdict.failed_commands;
            side.connection_losses += verdict.connection_losses;
            side.found.extend(verdict.violations.into_iter().chain(verdict.last_failure));
        }
        side
    }
}

/// Runs both; `told` gets a line after each run.
///
/// # Errors
/// Something is not installed, there is no right to make hosts, or one of the two does not serve again. Everything is kept then.
pub fn run(order: &Order, told: impl Fn(&str)) -> anyhow::Result<Report> {
    cluster::demand_installed()?;
    std::fs::create_dir_all(&order.parent).with_context(|| format!("cannot make {}", order.parent.display()))?;
    let wish =
        Wish { program: order.program.clone(), parent: order.parent.clone(), volumes: 1, hosting: Hosting::Apart };
    let mut ground = Ground::make(&wish)?;
    let understudy = match play_pair(order, &mut ground, &told) {
        Ok(side) => side,
        Err(error) => return Err(error.context(format!("everything is in {}", ground.give_up().display()))),
    };
    // The hosts stay, the pair goes.
    let Ground { stage, network, .. } = ground;
    drop(stage);
    let network = network.context("the pair was not on hosts of its own")?;
    let folder = tempfile::Builder::new().prefix("cluster-").tempdir_in(&order.parent)?;
    let pacemaker = match play_cluster(order, &network, folder.path(), &told) {
        Ok(side) => side,
        Err(error) => return Err(error.context(format!("everything is in {}", folder.keep().display()))),
    };
    Ok(Report { runs: order.runs, token_ms: order.token_ms, address: order.address, understudy, pacemaker })
}

fn play_pair(order: &Order, ground: &mut Ground, told: &impl Fn(&str)) -> anyhow::Result<Side> {
    network_of(ground)?.lay_lan()?;
    let mut times: BTreeMap<&'static str, Vec<f64>> = BTreeMap::new();
    ground.start_clients(order.seed)?;
    ground.wait_until_sound()?;
    for number in 0..order.runs {
        let home = NodeName::BOTH[(number % 2) as usize];
        let [moved, back] = Story::PlannedTakeover.play_undisturbed(ground, home, |_| Ok(()))?;
        let marks = ground.stage.mark();
        network_of(ground)?.darken(home)?;
        ground.stage.pair.kill(home)?;
        ground.stage.wait_until_alone(home.partner())?;
        let lost = longest(&ground.stage.pauses(&marks));
        ground.stage.let_pass(DARK);
        let marks = ground.stage.mark();
        network_of(ground)?.light_up(home)?;
        ground.stage.pair.start(home)?;
        ground.wait_until_sound()?;
        let returned = longest(&ground.stage.pauses(&marks));
        told(&collect(&mut times, "pair", number, [moved, back, lost, returned]));
    }
    Ok(Side::of(times, ground.judge()?))
}

fn network_of(ground: &Ground) -> anyhow::Result<&Network> {
    ground.network.as_ref().context("the pair is not on hosts of its own")
}

fn play_cluster(order: &Order, network: &Network, folder: &Path, told: &impl Fn(&str)) -> anyhow::Result<Side> {
    let mut cluster = Cluster::start(network, folder, order.token_ms, order.address)?;
    let address = LunAddress {
        portal: Network::moving_portal(),
        target: cluster::TARGET.to_owned(),
        lun: 1,
        initiator: "iqn.2026-01.org.example.understudy:client-of-peer".to_owned(),
    };
    let client = Verifier::start("peer", address, client_options(order.seed)).context("cannot start a client")?;
    wait_until_goes_on(&client)?;
    let mut times: BTreeMap<&'static str, Vec<f64>> = BTreeMap::new();
    let [home, other] = NodeName::BOTH;
    for number in 0..order.runs {
        let moved = pause(&client, || cluster.move_to(other))?;
        let back = pause(&client, || cluster.move_to(home))?;
        cluster.wait_until_whole()?;
        let lost = pause(&client, || {
            cluster.cut_power(home)?;
            cluster.wait_until_at(other)
        })?;
        std::thread::sleep(DARK);
        let returned = pause(&client, || {
            cluster.restore_power(home)?;
            cluster.wait_until_whole()?;
            cluster.move_to(home)
        })?;
        cluster.wait_until_whole()?;
        told(&collect(&mut times, "cluster", number, [moved, back, lost, returned]));
    }
    let verdict = client.finish(PATIENCE);
    ensure!(verdict.unverified_slots == 0, "the cluster does not serve what is to be read back: {verdict:?}");
    Ok(Side::of(times, vec![verdict]))
}

/// The longest pause of a client while something is done and until it goes on.
fn pause(client: &Verifier, mut act: impl FnMut() -> anyhow::Result<()>) -> anyhow::Result<Duration> {
    let mark = client.mark();
    act()?;
    wait_until_goes_on(client)?;
    Ok(client.pause_since(mark).length)
}

fn wait_until_goes_on(client: &Verifier) -> anyhow::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    let before = client.progress().acknowledged_writes;
    // BOUND: the deadline.
    while client.progress().acknowledged_writes <= before + GOING_ON {
        if Instant::now() >= deadline {
            bail!("the client does not go on for {} s: {:?}", PATIENCE.as_secs(), client.progress());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

/// Adds the pauses of a run, and says what they were.
fn collect(times: &mut BTreeMap<&'static str, Vec<f64>>, who: &str, number: u32, pauses: [Duration; 4]) -> String {
    let mut line = format!("{who}, run {}:", number + 1);
    for (kind, pause) in KINDS.into_iter().zip(pauses) {
        times.entry(kind).or_default().push(millis(pause));
        line += &format!(" {kind} {:.0} ms,", millis(pause));
    }
    line.trim_end_matches(',').to_owned()
}
