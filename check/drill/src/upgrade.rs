//! An upgrade of both nodes under clients, from one program to another: what `understudy upgrade` leads an operator through, with
//! this drill for the operator.
//!
//! The pair is set up with the old program; the new one leads. So every step of the way is taken by an old and a new node together:
//! the new node is brought back by an old survivor, and later an old one is taken over by a new one.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, TryRecvError, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use serde::Serialize;
use understudy::config::NodeName;
use understudy::harness::Signal;

use crate::stage::{Stage, Telling, plan};
use crate::table::millis;

/// Far longer than an upgrade of a small pair takes on a busy machine.
const LIMIT: Duration = Duration::from_secs(180);

/// How long a node may take to end in order.
const END_WITHIN: Duration = Duration::from_secs(20);

/// What to do.
#[derive(Debug, Clone)]
pub struct Order {
    /// What both nodes run at first.
    pub old: PathBuf,
    /// What both run at the end, and what leads.
    pub new: PathBuf,
    /// An empty folder for the pair.
    pub folder: PathBuf,
    /// What the clients draw their commands with.
    pub seed: u64,
}

/// What came out; its JSON form has these fields.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// The longest pause of each client in the whole upgrade, by volume, in milliseconds.
    pub pauses_ms: Vec<(String, f64)>,
    /// Writes that were acknowledged and read back.
    pub acknowledged_writes: u64,
    /// What the operator was told.
    pub told: Vec<String>,
}

/// Runs it.
///
/// # Errors
/// The pair does not come up, the upgrade does not go to its end, a node does not run the new program then, or a client lost a write or
/// saw a command fail.
pub fn run(order: &Order) -> anyhow::Result<Report> {
    let old = order.old.to_str().context("the old program's path is no text")?;
    let mut stage = Stage::set_up_telling(plan(old, &order.folder), Telling::InFolder)?;
    stage.start_clients(order.seed)?;
    let marks = stage.mark();
    let told = lead(&mut stage, &order.new)?;
    stage.wait_until_clients_go_on("after the upgrade")?;
    let pauses_ms = stage.pauses(&marks).into_iter().map(|(label, pause)| (label, millis(pause))).collect();
    for node in NodeName::BOTH {
        let process = stage.pair.process_of(node).context("a node does not run")?;
        let program = std::fs::read_link(format!("/proc/{process}/exe")).context("cannot see what a node runs")?;
        let new = order.new.canonicalize().context("the new program is gone")?;
        ensure!(program == new, "node {node} runs {}", program.display());
    }
    stage.wait_until_home()?;
    let mut acknowledged_writes = 0;
    for verdict in stage.verdicts()? {
        ensure!(verdict.holds(), "the client of {} is not content: {verdict:?}", verdict.label);
        acknowledged_writes += verdict.acknowledged_writes;
    }
    Ok(Report { pauses_ms, acknowledged_writes, told })
}

/// Does what `understudy upgrade` says until it is done; what it said.
fn lead(stage: &mut Stage, new: &Path) -> anyhow::Result<Vec<String>> {
    let (mut leading, lines) = start_leading(stage, new)?;
    let deadline = Instant::now() + LIMIT;
    let mut told = Vec::new();
    // BOUND: the deadline.
    loop {
        stage.let_pass(Duration::from_millis(10));
        match lines.try_recv() {
            Ok(line) => {
                stage.tell(&format!("upgrade: {line}"));
                if let Some(node) = to_be_replaced(&line) {
                    stage.pair.signal(node, Signal::TERM)?;
                    stage.pair.wait_for_end(node, END_WITHIN)?;
                    stage.pair.replace_program(new.to_owned());
                    stage.pair.start(node)?;
                }
                told.push(line);
            }
            Err(TryRecvError::Empty) if Instant::now() < deadline => {}
            Err(TryRecvError::Empty) => {
                leading.kill().context("cannot end the upgrade")?;
                bail!("not upgraded after {} s; it said: {told:#?}\n{}", LIMIT.as_secs(), stage.situation());
            }
            Err(TryRecvError::Disconnected) => break,
        }
    }
    let status = leading.wait().context("cannot wait for the upgrade")?;
    ensure!(status.success(), "the upgrade ended with {status}; it said: {told:#?}");
    Ok(told)
}

fn start_leading(stage: &Stage, new: &Path) -> anyhow::Result<(Child, Receiver<String>)> {
    let mut command = Command::new(new);
    command.args(["--with-parent", &std::process::id().to_string(), "upgrade", "--pair"]);
    command.arg(&stage.pair.config().file).stdin(Stdio::null()).stdout(Stdio::piped());
    let mut leading = command.spawn().with_context(|| format!("cannot start {}", new.display()))?;
    let out = leading.stdout.take().context("it has no output")?;
    let (sender, lines) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(out).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    Ok((leading, lines))
}

/// The node whose program the operator is told to replace.
fn to_be_replaced(line: &str) -> Option<NodeName> {
    let node = line.trim().strip_prefix("replace the program of node ")?.split(' ').next()?;
    NodeName::BOTH.into_iter().find(|name| name.to_string() == node)
}
