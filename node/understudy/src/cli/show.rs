//! `status` and `timeline`: looking at a pair without changing anything.

use std::fmt::Write;
use std::process::ExitCode;
use std::time::Duration;

use super::ask::status_of;
use super::put::put;
use super::{Failure, Size, StatusArgs, TimelineArgs};
use crate::admin::{Client, DiskStatus, LegStatus, LinkState, PoolStatus, Request, Response, Status};
use crate::config::{Config, NodeName};
use crate::timeline::{Style, TimelineStep, group, read_file, render};

/// Steps asked of each node for the timeline: all a node keeps.
const STEPS: usize = 4096;

/// JSON as people read it.
pub(super) fn pretty(value: &impl serde::Serialize) -> Result<String, Failure> {
    serde_json::to_string_pretty(value).map_err(|error| Failure::new(format!("cannot write JSON: {error}"), ""))
}

pub(super) fn status(args: &StatusArgs) -> Result<ExitCode, Failure> {
    let config = args.file.load()?;
    let style = Style::of_stdout();
    // BOUND: --watch runs until interrupted.
    loop {
        let answers = look(&config, args.node);
        let text = if args.json { as_json(&answers)? + "\n" } else { as_text(&config, &answers, style) };
        if args.watch && style == Style::Coloured {
            put("\x1b[H\x1b[2J");
        }
        put(&text);
        if !args.watch {
            return ended(answers);
        }
        std::thread::sleep(Duration::from_secs(1));
    }
}

type Answers = Vec<(NodeName, Result<Status, Failure>)>;

fn look(config: &Config, only: Option<NodeName>) -> Answers {
    let wanted = NodeName::BOTH.into_iter().filter(|node| only.is_none_or(|only| only == *node));
    wanted.map(|node| (node, status_of(config, node))).collect()
}

/// Success if any node answered.
fn ended(answers: Answers) -> Result<ExitCode, Failure> {
    let mut failure = None;
    for (_, answer) in answers {
        match answer {
            Ok(_) => return Ok(ExitCode::SUCCESS),
            Err(error) => failure = Some(error),
        }
    }
    failure.map_or(Ok(ExitCode::SUCCESS), Err)
}

fn as_json(answers: &Answers) -> Result<String, Failure> {
    let mut nodes = serde_json::Map::new();
    for (node, answer) in answers {
        let value = answer.as_ref().ok().map(serde_json::to_value).transpose();
        let value = value.map_err(|error| Failure::new(format!("cannot write JSON: {error}"), ""))?;
        nodes.insert(node.to_string(), value.unwrap_or(serde_json::Value::Null));
    }
    pretty(&nodes)
}

fn as_text(config: &Config, answers: &Answers, style: Style) -> String {
    let mut out = format!("{}\n\n", style.bold(&format!("pair {}", config.pair.name)));
    for (node, answer) in answers {
        match answer {
            Ok(status) => one_node(&mut out, status, style),
            Err(_) => {
                let _ = writeln!(
                    out,
                    "{}  no answer at {}\n",
                    style.node(*node, &format!("node {node}")),
                    config.node(*node).admin.display()
                );
            }
        }
    }
    out
}

fn one_node(out: &mut String, status: &Status, style: Style) {
    let state = match status.state.as_str() {
        "UP" => style.good(&status.state),
        "HALTED" | "PANICKED" => style.bad(&status.state),
        _ => style.caution(&status.state),
    };
    let since = format!("for {}.{} s", status.state_for_ms / 1000, status.state_for_ms % 1000 / 100);
    let _ = writeln!(
        out,
        "{}  {state}  {} {}",
        style.node(status.node, &style.bold(&format!("node {}", status.node))),
        status.stage,
        style.dim(&format!(
            "{since}, incarnation {}, process {}{}",
            status.incarnation,
            status.process,
            release(status)
        ))
    );
    partner(out, status, style);
    if let Some(left) = status.giveback_in_ms {
        let (whole, part) = (left / 1000, left % 1000 / 100);
        let _ = writeln!(out, "  giveback   by itself in {whole}.{part} s; `understudy giveback` does it now");
    }
    for alarm in &status.alarms {
        let _ = writeln!(out, "  {}  {alarm}", style.bad("alarm"));
    }
    for pool in &status.pools {
        one_pool(out, pool, style);
    }
    for portal in &status.portals {
        let _ = writeln!(
            out,
            "  portal     {}  of {}, {} sessions, {} commands",
            portal.address, portal.identity, portal.sessions, portal.commands
        );
    }
    disks(out, "lock disk", &status.lock_disks, style);
    disks(out, "disk", &status.disks, style);
    out.push('\n');
}

fn release(status: &Status) -> String {
    if status.release.is_empty() { String::new() } else { format!(", release {}", status.release) }
}

fn partner(out: &mut String, status: &Status, style: Style) {
    let partner = &status.partner;
    let age = |ms: Option<u64>| ms.map_or_else(|| "never".to_owned(), |ms| format!("{ms} ms ago"));
    let state = if partner.state.is_empty() { "unknown" } else { &partner.state };
    let latency = partner.read_micros_median.map_or_else(String::new, |micros| format!(", median read {micros} us"));
    let _ = writeln!(
        out,
        "  partner    {state}  interconnect {}, page {}{latency}, heartbeat {}",
        partner.interconnect,
        style.dim(&age(partner.page_age_ms)),
        style.dim(&age(partner.heartbeat_age_ms))
    );
}

fn one_pool(out: &mut String, pool: &PoolStatus, style: Style) {
    let owner = pool.owner.map_or_else(|| style.bad("nobody known"), |owner| style.node(owner, &owner.to_string()));
    let mut space = match (pool.free_bytes, pool.bytes) {
        (Some(free), Some(bytes)) => format!(", {} free of {}", Size(free), Size(bytes)),
        (None, _) | (_, None) => String::new(),
    };
    if let (Some(free), Some(bytes), Some(promised)) = (pool.free_bytes, pool.bytes, pool.promised_bytes)
        && promised + free > bytes
    {
        space.push_str(&format!(", {} promised", Size(promised)));
    }
    let volumes = pool.volumes.map_or_else(String::new, |count| format!(", {count} volumes"));
    let _ = writeln!(
        out,
        "  pool       {:<12} {}  owner {owner}, home {}, generation {}{space}{volumes}",
        pool.name, pool.state, pool.home, pool.generation
    );
    for mirror in &pool.mirrors {
        let legs: Vec<String> = mirror.legs.iter().map(|leg| leg_text(leg, style)).collect();
        let resync = match mirror.resync_left_bytes {
            0 => String::new(),
            left => style.caution(&format!(", resync: {} left", Size(left))),
        };
        let _ = writeln!(out, "               mirror {}{resync}", legs.join(" + "));
    }
}

fn leg_text(leg: &LegStatus, style: Style) -> String {
    let LegStatus { disk, state, copied_percent } = leg;
    match (state.as_str(), copied_percent) {
        ("good", _) => disk.clone(),
        (_, Some(percent)) => style.caution(&format!("{disk} ({state} {percent} %)")),
        (_, None) => style.bad(&format!("{disk} ({state})")),
    }
}

fn disks(out: &mut String, kind: &str, disks: &[DiskStatus], style: Style) {
    for disk in disks {
        let link = match disk.link {
            LinkState::Connected => style.good("connected"),
            LinkState::Down => style.bad("down"),
        };
        let size = disk.bytes.map_or_else(String::new, |bytes| Size(bytes).to_string());
        let reservation = if disk.reservation.is_empty() { "" } else { &disk.reservation };
        let _ = writeln!(
            out,
            "  {kind:<10} {:<12} {link}  {size:>9}  {reservation}  {}",
            disk.name,
            style.dim(&disk.keys.join(" "))
        );
    }
}

pub(super) fn timeline(args: &TimelineArgs) -> Result<ExitCode, Failure> {
    let config = args.file.load()?;
    let mut operations = group(collect(&config)?);
    let older = operations.len().saturating_sub(args.newest);
    operations.drain(..older);
    if args.json {
        put(&format!("{}\n", pretty(&operations)?));
    } else if operations.is_empty() {
        put("nothing has happened yet\n");
    } else {
        put(&render(&operations, Style::of_stdout()));
    }
    Ok(ExitCode::SUCCESS)
}

/// The steps of both nodes: asked of those that answer, read from the state folder of those that do not and are here.
fn collect(config: &Config) -> Result<Vec<TimelineStep>, Failure> {
    let mut steps = Vec::new();
    let mut failures = Vec::new();
    for node in NodeName::BOTH {
        match steps_of(config, node) {
            Ok(found) => steps.extend(found),
            Err(failure) => failures.push(failure),
        }
    }
    match failures.pop() {
        Some(failure) if steps.is_empty() && failures.len() == 1 => Err(failure),
        Some(_) | None => Ok(steps),
    }
}

fn steps_of(config: &Config, node: NodeName) -> Result<Vec<TimelineStep>, Failure> {
    let asked = Client::connect(&config.node(node).admin)
        .and_then(|mut client| client.ask(&Request::Timeline { newest: STEPS }, Duration::from_secs(5)));
    match asked {
        Ok(Response::Timeline { steps }) => Ok(steps),
        Ok(other) => Err(Failure::from_answer(other)),
        Err(error) => {
            let path = config.node(node).state.join("timeline.jsonl");
            match read_file(&path) {
                Ok(steps) if !steps.is_empty() => Ok(steps),
                Ok(_) | Err(_) => Err(Failure::from(error)),
            }
        }
    }
}
