//! `upgrade`: leads an operator through replacing the program of both nodes while clients go on.
//!
//! For each node: its partner takes over as planned, the program is replaced, the node boots and is brought back, and gets
//! its volumes again. Nothing here is remembered between two runs: where a node stands is read off the pair, so that a run that was
//! interrupted is simply begun again. What cannot be reached from this machine is asked of the operator, and waited for.

use std::process::{Command, ExitCode};
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::ask::{ask, status_of};
use super::failure::list;
use super::put::put;
use super::{Failure, UpgradeArgs};
use crate::admin::{Request, Response, SoftVetoes, Status, TakeoverKind, Veto, VetoWeight};
use crate::config::{Config, NodeName};

/// Between two looks at the pair.
const LOOK: Duration = Duration::from_millis(100);

/// What takes longer is told, and again whenever something changes.
const TOLD_AFTER: Duration = Duration::from_secs(3);

/// How long the pair may take over what it does by itself: a boot, a resync after it.
const PAIR_WITHIN: Duration = Duration::from_secs(10 * 60);

/// So long a node that waits for its volumes is left to the automatic giveback before it is asked for.
const AUTOMATIC_WITHIN: Duration = Duration::from_secs(2);

pub(super) fn run(args: &UpgradeArgs) -> Result<ExitCode, Failure> {
    let config = args.file.load()?;
    let nodes = args.node.map_or_else(|| NodeName::BOTH.to_vec(), |node| vec![node]);
    let walk = Walk { config: &config, restart: args.restart.as_deref(), within: args.within() };
    walk.look()?;
    for node in nodes {
        walk.upgrade(node)?;
    }
    put("done: both nodes serve their own volumes\n");
    Ok(ExitCode::SUCCESS)
}

/// What is known of both nodes from here.
struct View([Option<Status>; 2]);

impl View {
    fn own(&self, node: NodeName) -> Option<&Status> {
        self.0[node.index()].as_ref()
    }

    /// What its partner says of a node.
    fn told(&self, node: NodeName) -> Option<&Status> {
        self.own(node.partner())
    }

    /// The state word of a node; empty if nobody knows.
    fn state(&self, node: NodeName) -> &str {
        let own = self.own(node).map(|status| status.state.as_str());
        own.or_else(|| self.told(node).map(|status| status.partner.state.as_str())).unwrap_or_default()
    }

    fn incarnation(&self, node: NodeName) -> &str {
        let own = self.own(node).map(|status| status.incarnation.as_str());
        own.or_else(|| self.told(node).map(|status| status.partner.incarnation.as_str())).unwrap_or_default()
    }

    /// Whether the records give every pool of this home to `owner`, as far as a node that answers knows.
    fn pools_are_with(&self, home: NodeName, owner: NodeName) -> bool {
        // Who owns them knows best.
        let status = self.own(owner).or_else(|| self.own(owner.partner()));
        status.is_some_and(|status| {
            let mut pools = status.pools.iter().filter(|pool| pool.home == home).peekable();
            pools.peek().is_some() && pools.all(|pool| pool.owner == Some(owner))
        })
    }

    /// Whether the records give some pools of this home to one node and some to the other.
    fn is_in_parts(&self, home: NodeName) -> bool {
        let status = self.own(home).or_else(|| self.own(home.partner()));
        status.is_some_and(|status| {
            let at = |owner| status.pools.iter().any(|pool| pool.home == home && pool.owner == Some(owner));
            NodeName::BOTH.into_iter().all(at)
        })
    }

    fn is_home(&self, node: NodeName) -> bool {
        self.state(node) == "UP" && self.pools_are_with(node, node)
    }

    fn both_home(&self) -> bool {
        NodeName::BOTH.iter().all(|node| self.is_home(*node))
    }

    /// For the operator who waits.
    fn words(&self) -> String {
        let of = |node: NodeName| match self.state(node) {
            "" => format!("node {node} does not answer"),
            state => format!("node {node} is {state}"),
        };
        format!("{}, {}", of(NodeName::A), of(NodeName::B))
    }
}

struct Walk<'a> {
    config: &'a Config,
    restart: Option<&'a str>,
    within: Duration,
}

impl Walk<'_> {
    /// Fails if no node answers here: then nothing can be led.
    fn look(&self) -> Result<View, Failure> {
        let [a, b] = NodeName::BOTH.map(|node| status_of(self.config, node));
        match (a, b) {
            (Err(failure), Err(_)) => Err(failure),
            (a, b) => Ok(View([a.ok(), b.ok()])),
        }
    }

    /// Looks until `reached`. Nobody answering is waited out, too: a node is being restarted.
    fn wait(&self, what: &str, limit: Duration, mut reached: impl FnMut(&View) -> bool) -> Result<View, Failure> {
        let began = Instant::now();
        let (mut last, mut told) = (String::new(), String::new());
        // BOUND: the limit.
        while began.elapsed() < limit {
            let view = self.look().ok();
            match view {
                Some(view) if reached(&view) => return Ok(view),
                Some(view) => last = view.words(),
                None => "no node answers here".clone_into(&mut last),
            }
            if began.elapsed() >= TOLD_AFTER && last != told {
                put(&format!("  waiting until {what}: {last}\n"));
                told.clone_from(&last);
            }
            sleep(LOOK);
        }
        let reason = format!("gave up after {} s waiting until {what}: {last}", limit.as_secs());
        Err(Failure::new(
            reason,
            "see `understudy status`; when it is well again, run this again: it goes on from there",
        ))
    }

    fn upgrade(&self, node: NodeName) -> Result<(), Failure> {
        let partner = node.partner();
        if let Some(home) =
            self.look().ok().and_then(|view| NodeName::BOTH.into_iter().find(|home| view.is_in_parts(*home)))
        {
            let reason = format!("the pools of node {home} are at both nodes");
            return Err(Failure::new(reason, "bring them home first: `understudy giveback`; then run this again"));
        }
        let view =
            self.wait("the pair is whole", PAIR_WITHIN, |view| view.both_home() || view.pools_are_with(node, partner))?;
        put(&format!("node {node}{}\n", release(&view, node)));
        let before = view.own(node).map(|status| status.release.clone());
        if view.pools_are_with(node, partner) {
            put(&format!("  node {partner} serves its volumes already\n"));
        } else {
            self.take_over(node)?;
        }
        let view = self.wait("it has handed over", PAIR_WITHIN, |view| view.pools_are_with(node, partner))?;
        self.replace(node, view.incarnation(node))?;
        self.bring_home(node)?;
        let view = self.look()?;
        let after = view.own(node).map(|status| status.release.clone());
        put(&format!("  node {node} serves its volumes again{}\n", release(&view, node)));
        if before.is_some() && before == after {
            put("  its release and its failover machine are the same as before: was the program replaced?\n");
        }
        Ok(())
    }

    /// Its partner takes over, asked from here if it answers here.
    fn take_over(&self, node: NodeName) -> Result<(), Failure> {
        let partner = node.partner();
        if self.look()?.own(partner).is_none() {
            put(&format!("  on node {partner}'s machine, run: understudy takeover --planned --node {partner}\n"));
            return self.wait("it was run", self.within, |view| view.pools_are_with(node, partner)).map(drop);
        }
        put(&format!("  node {partner} takes over as planned\n"));
        self.demand(partner, &Request::Takeover { kind: TakeoverKind::Planned })
    }

    /// Asks until no soft veto stands against it: what they wait for, as a resync, passes.
    fn demand(&self, node: NodeName, request: &Request) -> Result<(), Failure> {
        let deadline = Instant::now() + PAIR_WITHIN;
        let mut told = Vec::new();
        let mut is_begun = false;
        // BOUND: the deadline.
        loop {
            match ask(self.config, node, request)? {
                Response::Done { .. } => return Ok(()),
                Response::DoneInPart { staying, .. } if Instant::now() < deadline => {
                    let vetoes: Vec<Veto> = staying.into_iter().flat_map(|one| one.vetoes).collect();
                    if !passes(&vetoes) {
                        let advice = format!("remove the cause, then `understudy giveback`:\n{}", list(&vetoes));
                        return Err(Failure::new("some pools stay where they are", advice));
                    }
                    is_begun = true;
                    sleep(LOOK);
                }
                // What came home is settling in.
                Response::Refused { vetoes, .. } if is_begun && vetoes.is_empty() && Instant::now() < deadline => {
                    if self.look().is_ok_and(|view| view.both_home()) {
                        return Ok(());
                    }
                    sleep(LOOK);
                }
                Response::Refused { vetoes, .. } if passes(&vetoes) && Instant::now() < deadline => {
                    if vetoes != told {
                        put(&format!("  waiting, because of\n{}", list(&vetoes)));
                        told = vetoes;
                    }
                    sleep(LOOK);
                }
                other => return Err(Failure::from_answer(other)),
            }
        }
    }

    /// Another program runs as this node: another incarnation than `old` is there.
    fn replace(&self, node: NodeName, old: &str) -> Result<(), Failure> {
        match self.restart {
            None => put(&format!(
                "  replace the program of node {node} and restart it now; its clients are served by node {}\n",
                node.partner()
            )),
            Some(command) => {
                put(&format!("  running: {command}\n"));
                let mut shell = Command::new("sh");
                let status = shell.args(["-c", command]).env("UNDERSTUDY_NODE", node.to_string()).status();
                let status = status.map_err(|error| Failure::new(format!("cannot run `{command}`: {error}"), ""))?;
                if !status.success() {
                    let advice = format!(
                        "node {} serves the volumes of both; put node {node} right, then run this again: it goes on from there",
                        node.partner()
                    );
                    return Err(Failure::new(format!("`{command}` ended with {status}"), advice));
                }
            }
        }
        let is_new = |view: &View| !["", old].contains(&view.incarnation(node));
        self.wait(&format!("node {node} has been restarted"), self.within, is_new).map(drop)
    }

    /// The coordinated bring-up goes by itself; the giveback is asked for where it does not come by itself.
    fn bring_home(&self, node: NodeName) -> Result<(), Failure> {
        let partner = node.partner();
        put(&format!("  node {node} boots and is brought back\n"));
        let waits = |view: &View| {
            let seen = view.told(node).is_none_or(|status| status.partner.state == "MBWAIT");
            view.state(node) == "MBWAIT" && seen
        };
        let mut waiting_since = None;
        let view = self.wait(&format!("node {node} is brought back"), PAIR_WITHIN, |view| {
            let since = waits(view).then(|| *waiting_since.get_or_insert_with(Instant::now));
            view.both_home() || since.is_some_and(|since| since.elapsed() >= AUTOMATIC_WITHIN)
        })?;
        if view.both_home() {
            return Ok(());
        }
        if view.own(partner).is_some() {
            put(&format!("  node {partner} gives back\n"));
            self.demand(partner, &Request::Giveback { soft_vetoes: SoftVetoes::Respect })?;
        } else {
            put(&format!("  on node {partner}'s machine, run: understudy giveback --node {partner}\n"));
        }
        self.wait("both nodes serve their own volumes", self.within, View::both_home).map(drop)
    }
}

/// Whether only what passes by itself speaks against something.
fn passes(vetoes: &[Veto]) -> bool {
    !vetoes.is_empty() && vetoes.iter().all(|veto| veto.weight == VetoWeight::Soft)
}

fn release(view: &View, node: NodeName) -> String {
    let release = view.own(node).map(|status| status.release.as_str()).unwrap_or_default();
    if release.is_empty() { String::new() } else { format!(", release {release}") }
}
