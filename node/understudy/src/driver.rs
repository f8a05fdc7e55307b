//! Runs one node: carries out the orders of the failover machine, reports facts to it, keeps the clock.
//!
//! Not here: decisions. What the machine orders is done as ordered; what comes of it goes back as a fact with the
//! order's number. The order of the start matters: the page is registered and says BOOTING before any disk is touched.

pub mod addresses;
pub mod admin;
pub mod carry_out;
pub mod clientele;
mod clock;
#[cfg(feature = "drill")]
pub mod drill;
pub mod end;
pub mod fence;
pub mod host;
pub mod lane;
pub mod locks;
#[cfg(feature = "mistakes")]
pub mod mistakes;
pub mod node;
pub mod overseer;
pub mod partner;
pub mod publisher;
mod replies;
pub mod service;
pub mod shelves;
pub mod told;
pub mod world;

use std::process::ExitCode;
use std::rc::Rc;
use std::time::Duration;

use futures_util::StreamExt as _;
use tokio::sync::mpsc;
use tokio::time::Instant;
use understudy_fabric::SharedMemory;
use understudy_failover::effect::Effects;
use understudy_failover::input::{Input, Request};
use understudy_failover::machine::Machine;
use understudy_failover::words::Micros;

use crate::config::{Config, NodeName};
use host::Host;
use node::Node;
use world::{Witness, World};

/// How the run of a node ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// In an orderly way.
    Halted,
    /// The process is to be replaced by a fresh incarnation.
    Restart,
}

/// Runs `node` of the pair until it is told to stop, as the worker of a supervisor, which serves what is published in `page`.
///
/// # Errors
/// When the node cannot even begin: interconnect, admin socket or state folder not usable.
pub async fn run(config: Config, node: NodeName, page: SharedMemory) -> anyhow::Result<ExitCode> {
    match run_in(Rc::new(Host::new(page)), Rc::new(config), node).await? {
        Ending::Halted => Ok(ExitCode::SUCCESS),
        Ending::Restart => end::start_again(),
    }
}

/// One run of `own` in a world, until it ends.
///
/// # Errors
/// As [`run`].
pub async fn run_in(world: Rc<dyn World>, config: Rc<Config>, own: NodeName) -> anyhow::Result<Ending> {
    // BOUND: every producer waits for answers, or is paced by a timer.
    let (facts, mut inbox) = mpsc::unbounded_channel();
    let mut halts = world.halts()?;
    let (node, parts) = Node::start(Rc::clone(&world), Rc::clone(&config), own, facts.clone())?;
    let machine = Machine::new(node.machine_config(), node.incarnation());
    let witness = world.witness(&config, own, &machine)?;
    let mut clock = Clock { began: Instant::now(), machine, witness };

    let ordered = clock.step(Input::Started);
    if let Some(ending) = node.carry_out_all(ordered) {
        return Ok(ending);
    }
    let mut requests = node.go_on(parts)?;
    loop {
        let due = clock.machine.poll_timeout().map(|at| clock.moment(at));
        let fact = tokio::select! {
            biased;
            Some(fact) = inbox.recv() => fact,
            Some(request) = requests.recv() => match node.ask(request) {
                Some(fact) => fact,
                None => continue,
            },
            Some(()) = halts.next() => node.operator_asks(Request::Halt),
            () = sleep_until(due) => Input::TimerExpired,
        };
        let ordered = clock.step(fact);
        node.giveback_due.set(clock.machine.giveback_due().map(|at| clock.moment(at)));
        match node.carry_out_all(ordered) {
            None => {}
            // Nothing may be answered any more, so nothing is waited for.
            Some(Ending::Restart) => return Ok(Ending::Restart),
            Some(Ending::Halted) => {
                node.wind_up().await;
                return Ok(Ending::Halted);
            }
        }
    }
}

async fn sleep_until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}

/// The machine and the clock it is told the time from.
struct Clock {
    began: Instant,
    machine: Machine,
    witness: Box<dyn Witness>,
}

impl Clock {
    fn moment(&self, at: Micros) -> Instant {
        self.began + Duration::from_micros(at.0)
    }

    fn step(&mut self, fact: Input) -> Effects {
        let now = Micros(u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX));
        let mut orders = Effects::new();
        self.witness.told(now, &fact, &self.machine);
        self.machine.step(now, fact, &mut orders);
        self.witness.ordered(&orders, &self.machine);
        orders
    }
}
