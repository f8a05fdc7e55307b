//! Portals that move between machines, on network namespaces with a switch: the nodes put addresses on their interfaces themselves.
//!
//! Not the table of drills, where the network leads the clients. What is demanded here beside it: after every move the address is
//! on the node that serves and on no other, the clients believe it to be there, and a client of a machine that is gone is told so by
//! the node that is left. Everything waits for facts; how long clients waited is reported and not judged.

use std::io::{ErrorKind, Read};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use serde::Serialize;
use understudy::admin::Status;
use understudy::config::NodeName;
use understudy::harness::Signal;
use understudy::timeline::TimelineStep;

use crate::ground::{Ground, Hosting, Wish};
use crate::network::{Cable, Network};
use crate::stage::{PATIENCE, serving};
use crate::table::millis;

/// What to do.
#[derive(Debug, Clone)]
pub struct Order {
    /// The program built for drills.
    pub program: PathBuf,
    /// Where the folder of the pair is made.
    pub parent: PathBuf,
    /// How often each kind of move.
    pub runs: u32,
    /// What the clients draw their commands with.
    pub seed: u64,
}

/// How a node is lost, or goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Loss {
    /// Its partner is asked to take over; nothing is lost.
    Planned,
    /// Its process is killed. Its kernel ends the connections and keeps the address.
    Killed,
    /// Its process is stopped. Its kernel goes on answering for the address, and on holding the connections.
    Stopped,
    /// Its machine is gone: every cable is cut, then the process is killed, so that nobody hears a word of it.
    Gone,
}

impl Loss {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Planned, Self::Killed, Self::Stopped, Self::Gone];

    /// For people.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Planned => "planned",
            Self::Killed => "process killed",
            Self::Stopped => "process stopped",
            Self::Gone => "machine gone",
        }
    }
}

/// What came of one kind of move.
#[derive(Debug, Clone, Serialize)]
pub struct Moves {
    /// Which.
    pub loss: Loss,
    /// The longest pause of the clients of the node that went, of each run, milliseconds.
    pub takeover_ms: Vec<f64>,
    /// The same at the giveback.
    pub giveback_ms: Vec<f64>,
    /// How long the survivor took to bring the address, of each run, microseconds.
    pub address_micros: Vec<u64>,
}

/// Everything that came out.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// By the kind of move.
    pub moves: Vec<Moves>,
    /// Writes that clients were acknowledged; each was read back.
    pub acknowledged_writes: u64,
}

/// The value in the middle; of two the smaller.
#[must_use]
pub fn median<T: Copy + PartialOrd>(values: &[T]) -> Option<T> {
    let mut sorted = values.to_vec();
    sorted.sort_by(|a, b| a.partial_cmp(b).unwrap_or(std::cmp::Ordering::Equal));
    sorted.get(sorted.len().saturating_sub(1) / 2).copied()
}

/// Plays it; the calling thread is on the clients' host afterwards.
///
/// # Errors
/// The pair does not come up, or something that is demanded does not hold. Everything is kept then.
pub fn run(order: &Order, told: impl Fn(&str)) -> anyhow::Result<Report> {
    std::fs::create_dir_all(&order.parent).with_context(|| format!("cannot make {}", order.parent.display()))?;
    let wish =
        Wish { program: order.program.clone(), parent: order.parent.clone(), volumes: 1, hosting: Hosting::Switched };
    let mut ground = Ground::make(&wish)?;
    match play(order, &mut ground, told) {
        Ok(report) => Ok(report),
        Err(error) => Err(error.context(format!("everything is in {}", ground.give_up().display()))),
    }
}

fn play(order: &Order, ground: &mut Ground, told: impl Fn(&str)) -> anyhow::Result<Report> {
    ground.start_clients(order.seed)?;
    demand_places(ground, |home| home)?;
    let mut report = Report { moves: Vec::new(), acknowledged_writes: 0 };
    for loss in Loss::ALL {
        let mut moves = Moves { loss, takeover_ms: Vec::new(), giveback_ms: Vec::new(), address_micros: Vec::new() };
        for run in 0..order.runs {
            let home = NodeName::BOTH[(run % 2) as usize];
            there_and_back(ground, loss, home, &mut moves)
                .with_context(|| format!("node {home}, {}, run {}", loss.name(), run + 1))?;
        }
        told(&format!("{}: {} there and back", loss.name(), order.runs));
        report.moves.push(moves);
    }
    for verdict in ground.judge()? {
        ensure!(verdict.failed_commands == 0, "{} commands failed", verdict.failed_commands);
        report.acknowledged_writes += verdict.acknowledged_writes;
    }
    Ok(report)
}

/// `home` goes, its partner serves everything, and it gets its own back.
fn there_and_back(ground: &mut Ground, loss: Loss, home: NodeName, moves: &mut Moves) -> anyhow::Result<()> {
    let survivor = home.partner();
    ground.wait_until_sound()?;
    // So that they have something to believe.
    demand_that_clients_find(ground, home, home)?;
    ground.stage.steps.clear();
    let marks = ground.stage.mark();
    match loss {
        Loss::Planned => ground.take_over(survivor)?,
        Loss::Killed => ground.stage.pair.kill(home)?,
        Loss::Stopped => ground.stage.pair.signal(home, Signal::STOP)?,
        Loss::Gone => lose_machine(ground, home)?,
    }
    wait_until_all_is_at(ground, survivor)?;
    moves.takeover_ms.push(pause(ground, &marks, home));
    moves.address_micros.extend(ground.stage.steps.iter().filter_map(micros_of_addresses));
    demand_that_clients_believe(ground, home, survivor)?;
    match loss {
        Loss::Planned => {}
        Loss::Killed => ground.stage.pair.start(home)?,
        Loss::Stopped => {
            demand_that_clients_find(ground, home, survivor)?;
            ground.stage.pair.signal(home, Signal::CONT)?;
        }
        Loss::Gone => {
            network(&ground.network)?.mend()?;
            ground.stage.pair.start(home)?;
        }
    }
    ground.stage.wait_for("the repaired node waits for its pools", |stage| {
        stage.pair.status(survivor).is_ok_and(|status| status.partner.state == "MBWAIT" && serves_all(&status))
    })?;
    demand_places(ground, |_| survivor)?;
    demand_that_clients_find(ground, home, survivor)?;
    let marks = ground.stage.mark();
    ground.give_back(survivor)?;
    ground.wait_until_sound()?;
    moves.giveback_ms.push(pause(ground, &marks, home));
    demand_that_clients_believe(ground, home, home)?;
    demand_places(ground, |home| home)?;
    demand_that_clients_find(ground, home, home)
}

/// A machine without power, and clients of it, one at each portal, that only wait: nothing but the survivor's word can tell them.
fn lose_machine(ground: &mut Ground, home: NodeName) -> anyhow::Result<()> {
    let all = portals(ground, home);
    wait_until_told_of(ground, home.partner(), 1)?;
    let waiting =
        all.iter().map(TcpStream::connect).collect::<Result<Vec<_>, _>>().context("a client cannot connect")?;
    wait_until_told_of(ground, home.partner(), 1 + waiting.len() as u64)?;
    let network = network(&ground.network)?;
    for cable in [Cable::ToSwitch(home), Cable::Interconnect, Cable::DiskPath(home)] {
        network.cut(cable)?;
    }
    ground.stage.pair.kill(home)?;
    waiting.into_iter().try_for_each(demand_reset)
}

/// Waits until the survivor knows of so many connections: that of the client that goes on, and those of the clients that wait.
fn wait_until_told_of(ground: &mut Ground, survivor: NodeName, connections: u64) -> anyhow::Result<()> {
    ground.stage.wait_for(&format!("{survivor} was told of {connections} connections"), |stage| {
        stage.pair.status(survivor).is_ok_and(|status| status.partner.connections_told == connections)
    })
}

/// The client hears that its connection is no more, and did nothing for it.
fn demand_reset(mut waiting: TcpStream) -> anyhow::Result<()> {
    waiting.set_read_timeout(Some(PATIENCE))?;
    match waiting.read(&mut [0; 1]) {
        Err(error) if error.kind() == ErrorKind::ConnectionReset => Ok(()),
        Err(error) => bail!("the client that waits was not told within {} s: {error}", PATIENCE.as_secs()),
        Ok(bytes) => bail!("the client that waits got {bytes} bytes and no reset"),
    }
}

fn wait_until_all_is_at(ground: &mut Ground, survivor: NodeName) -> anyhow::Result<()> {
    ground.stage.wait_for(&format!("node {survivor} serves everything"), |stage| {
        stage.pair.status(survivor).is_ok_and(|status| serves_all(&status))
    })?;
    ground.stage.wait_until_clients_go_on(&format!("at {survivor}"))
}

fn serves_all(status: &Status) -> bool {
    serving(status).len() == status.pools.len()
}

/// Of the client whose volume is at home there, milliseconds.
fn pause(ground: &Ground, marks: &[understudy_load::Mark], home: NodeName) -> f64 {
    let label = understudy::harness::volume_name(home, 0);
    let pauses = ground.stage.pauses(marks);
    pauses.iter().find(|(of, _)| *of == label).map(|(_, pause)| millis(*pause)).unwrap_or_default()
}

fn micros_of_addresses(step: &TimelineStep) -> Option<u64> {
    (step.step == "addresses-here").then(|| step.values.get("micros")?.as_u64()).flatten()
}

/// The portals of a node.
fn portals(ground: &Ground, identity: NodeName) -> Vec<SocketAddr> {
    ground.stage.pair.config().node(identity).portals.clone()
}

/// Each address is on the node that is to have it, and nowhere else. Waited for: the one that gave says goodbye to its clients first.
fn demand_places(ground: &mut Ground, owner: impl Fn(NodeName) -> NodeName) -> anyhow::Result<()> {
    for identity in NodeName::BOTH {
        for address in portals(ground, identity).into_iter().map(|portal| portal.ip()) {
            let Ground { stage, network: made, .. } = &mut *ground;
            let network = network(made)?;
            let mut found = Vec::new();
            let wanted = owner(identity);
            let outcome = stage.wait_for(&format!("{address} is at {wanted} alone"), |_| {
                found = network.have_address(address).unwrap_or_default();
                found == [wanted]
            });
            outcome.with_context(|| format!("it is at {found:?}"))?;
        }
    }
    Ok(())
}

/// Those that go on follow the address without asking.
fn demand_that_clients_believe(ground: &mut Ground, identity: NodeName, owner: NodeName) -> anyhow::Result<()> {
    for address in portals(ground, identity).into_iter().map(|portal| portal.ip()) {
        let Ground { stage, network: made, .. } = &mut *ground;
        let network = network(made)?;
        stage.wait_for(&format!("the clients believe {address} to be at {owner}"), |_| {
            network.is_believed_at(address).ok().flatten() == Some(owner)
        })?;
    }
    Ok(())
}

/// Clients that ask anew find the owner. Waited for: where two answer, the first answer counts for a second, and is then put right.
fn demand_that_clients_find(ground: &mut Ground, identity: NodeName, owner: NodeName) -> anyhow::Result<()> {
    let all = portals(ground, identity);
    network(&ground.network)?.forget_neighbours()?;
    for portal in all {
        let Ground { stage, network: made, .. } = &mut *ground;
        let network = network(made)?;
        stage.wait_for(&format!("clients that ask find {} at {owner}", portal.ip()), |_| {
            // Whoever it reaches: it has to be asked for to be believed anywhere.
            let reached = TcpStream::connect_timeout(&portal, Duration::from_secs(1));
            reached.is_ok() && network.is_believed_at(portal.ip()).ok().flatten() == Some(owner)
        })?;
    }
    Ok(())
}

fn network(made: &Option<Network>) -> anyhow::Result<&Network> {
    made.as_ref().context("this ground has no cables")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_a_value_that_was_measured() {
        assert_eq!(median::<u64>(&[]), None);
        assert_eq!(median(&[3]), Some(3));
        assert_eq!(median(&[9, 1, 5, 7]), Some(5));
    }
}
