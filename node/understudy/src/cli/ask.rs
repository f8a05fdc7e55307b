//! `takeover`, `partner-lost`, `giveback`, `volume`: asking a node to do something.

use std::process::ExitCode;
use std::time::Duration;

use super::failure::list;
use super::put::put;
use super::size::{Size, check_volume_name};
use super::{Failure, GivebackArgs, PartnerLostArgs, TakeoverArgs, VolumeCommand};
use crate::admin::{
    Client, Earnest, Protection, Provisioning, Request, Response, SoftVetoes, Status, Staying, TakeoverKind, Veto,
    VolumeStatus,
};
use crate::config::{Config, NodeName};

/// A hand-off may wait for a flush of everything; clients of the pair see none of that wait.
const PATIENCE: Duration = Duration::from_secs(60);

/// What only looks at memory answers at once.
const SHORT: Duration = Duration::from_secs(5);

/// Asks `node` one thing.
pub(super) fn ask(config: &Config, node: NodeName, request: &Request) -> Result<Response, Failure> {
    let limit = match request {
        Request::Status | Request::Timeline { .. } | Request::Events { .. } | Request::VolumeList => SHORT,
        Request::Takeover { .. }
        | Request::PartnerLost
        | Request::TakeoverOf { .. }
        | Request::Giveback { .. }
        | Request::GivebackDryRun
        | Request::GivebackOf { .. }
        | Request::VolumeCreate { .. }
        | Request::VolumeProtect { .. }
        | Request::VolumeDelete { .. } => PATIENCE,
    };
    Ok(Client::connect(&config.node(node).admin)?.ask(request, limit)?)
}

/// The state of one node.
pub(super) fn status_of(config: &Config, node: NodeName) -> Result<Status, Failure> {
    match ask(config, node, &Request::Status)? {
        Response::Status { status } => Ok(*status),
        other => Err(Failure::from_answer(other)),
    }
}

/// The nodes that answer here, with their state; on two machines that is the one on this machine.
fn answering(config: &Config) -> Result<Vec<Status>, Failure> {
    let asked = NodeName::BOTH.map(|node| status_of(config, node));
    let mut found = Vec::new();
    let mut failure = None;
    for answer in asked {
        match answer {
            Ok(status) => found.push(status),
            Err(error) => failure = Some(error),
        }
    }
    match failure {
        Some(failure) if found.is_empty() => Err(failure),
        Some(_) | None => Ok(found),
    }
}

/// The one node among `candidates`, or advice to name it.
fn the_one(candidates: &[NodeName], what: &str) -> Result<NodeName, Failure> {
    match candidates {
        [one] => Ok(*one),
        [] => Err(Failure::Refused {
            reason: format!("no node that answers here {what}"),
            vetoes: Vec::new(),
            advice: "see `understudy status`".to_owned(),
        }),
        [..] => Err(Failure::new(
            format!("both nodes answer here, and either {what}"),
            "say which with --node a or --node b",
        )),
    }
}

pub(super) fn takeover(args: &TakeoverArgs) -> Result<ExitCode, Failure> {
    let config = args.file.load()?;
    let node = match args.node {
        Some(node) => node,
        None => {
            let nodes: Vec<NodeName> = answering(&config)?.iter().map(|status| status.node).collect();
            the_one(&nodes, "can take over")?
        }
    };
    report(ask(&config, node, &takeover_request(args))?)
}

/// The plain request where it says the same: a node of an older release knows no other.
pub(super) fn takeover_request(args: &TakeoverArgs) -> Request {
    let TakeoverArgs { force, pools, dry_run, override_vetoes, .. } = args;
    match (force, dry_run, override_vetoes, pools.is_empty()) {
        (true, ..) => Request::Takeover { kind: TakeoverKind::Forced },
        (false, false, false, true) => Request::Takeover { kind: TakeoverKind::Planned },
        (false, ..) => {
            let (soft_vetoes, earnest) = (soft(*override_vetoes), earnest(*dry_run));
            Request::TakeoverOf { pools: pools.clone(), soft_vetoes, earnest }
        }
    }
}

fn soft(overridden: bool) -> SoftVetoes {
    if overridden { SoftVetoes::Override } else { SoftVetoes::Respect }
}

fn earnest(dry_run: bool) -> Earnest {
    if dry_run { Earnest::DryRun } else { Earnest::Do }
}

pub(super) fn partner_lost(args: &PartnerLostArgs) -> Result<ExitCode, Failure> {
    let config = args.file.load()?;
    let node = match args.node {
        Some(node) => node,
        None => {
            let nodes: Vec<NodeName> = answering(&config)?.iter().map(|status| status.node).collect();
            the_one(&nodes, "can have lost its partner")?
        }
    };
    report(ask(&config, node, &Request::PartnerLost)?)
}

pub(super) fn giveback(args: &GivebackArgs) -> Result<ExitCode, Failure> {
    let config = args.file.load()?;
    let node = match args.node {
        Some(node) => node,
        None => {
            let holders: Vec<NodeName> =
                answering(&config)?.iter().filter(|status| holds_partners(status)).map(|status| status.node).collect();
            the_one(&holders, "has pools of its partner")?
        }
    };
    report(ask(&config, node, &giveback_request(args))?)
}

/// As [`takeover_request`].
pub(super) fn giveback_request(args: &GivebackArgs) -> Request {
    let GivebackArgs { pools, dry_run, override_vetoes, .. } = args;
    match (pools.is_empty(), dry_run, override_vetoes) {
        (true, true, false) => Request::GivebackDryRun,
        (true, false, overridden) => Request::Giveback { soft_vetoes: soft(*overridden) },
        (..) => {
            let (soft_vetoes, earnest) = (soft(*override_vetoes), earnest(*dry_run));
            Request::GivebackOf { pools: pools.clone(), soft_vetoes, earnest }
        }
    }
}

/// Whether a node owns a pool whose home is the other one.
fn holds_partners(status: &Status) -> bool {
    status.pools.iter().any(|pool| pool.owner == Some(status.node) && pool.home != status.node)
}

/// Prints an answer that is good news.
fn report(answer: Response) -> Result<ExitCode, Failure> {
    match answer {
        Response::Done { text } => put(&format!("{text}\n")),
        Response::DoneInPart { text, staying } => put(&in_part(&text, &staying)),
        Response::GivebackForecast { pools, staying, vetoes, predicted_pause_micros } => {
            put(&giveback_forecast((&pools, &staying), &vetoes, predicted_pause_micros));
        }
        Response::TakeoverForecast { pools, vetoes, predicted_pause_micros, unknown, .. } if unknown.is_empty() => {
            put(&takeover_forecast(&pools, &vetoes, predicted_pause_micros));
        }
        Response::TakeoverForecast { unknown, advice, .. } => {
            put(&format!("{unknown}\n  {advice}\n{UNCHANGED}"));
        }
        Response::Volumes { volumes } => put(&volume_table(&volumes)),
        other => return Err(Failure::from_answer(other)),
    }
    Ok(ExitCode::SUCCESS)
}

/// How every dry run ends.
const UNCHANGED: &str = "(dry run: nothing was changed)\n";

/// What was done, and what stays. It is a success: everything that could move has moved.
pub(super) fn in_part(text: &str, staying: &[Staying]) -> String {
    format!("{text}\nbut these stay where they are; `understudy giveback` again brings them home:\n{}", stays(staying))
}

fn stays(staying: &[Staying]) -> String {
    staying.iter().map(|one| format!("{}:\n{}", one.pool, list(&one.vetoes))).collect()
}

fn which(pools: &[String]) -> String {
    if pools.is_empty() { String::new() } else { format!("these pools would move: {}\n", pools.join(", ")) }
}

pub(super) fn takeover_forecast(pools: &[String], vetoes: &[Veto], pause_micros: Option<u64>) -> String {
    which(pools) + &verdict("takeover", vetoes, pause_micros)
}

pub(super) fn giveback_forecast(
    (pools, staying): (&[String], &[Staying]),
    vetoes: &[Veto],
    pause_micros: Option<u64>,
) -> String {
    let left = if staying.is_empty() {
        String::new()
    } else {
        format!("these would stay where they are:\n{}", stays(staying))
    };
    which(pools) + &left + &verdict("giveback", vetoes, pause_micros)
}

fn verdict(what: &str, vetoes: &[Veto], pause_micros: Option<u64>) -> String {
    let verdict = if vetoes.is_empty() {
        format!("nothing speaks against a {what} now\n")
    } else {
        format!("a {what} would be vetoed now:\n{}", list(vetoes))
    };
    let pause = match pause_micros {
        Some(micros) => format!("clients would see a pause of about {}.{} ms\n", micros / 1000, micros % 1000 / 100),
        None => "the pause can not be predicted yet: nothing was measured\n".to_owned(),
    };
    format!("{verdict}{pause}{UNCHANGED}")
}

pub(super) fn volume(command: &VolumeCommand) -> Result<ExitCode, Failure> {
    match command {
        VolumeCommand::Create { name, size, pool, thin, file } => {
            check_volume_name(name).map_err(|expected| Failure::new(expected, ""))?;
            let config = file.load()?;
            if config.pool(pool).is_none() {
                let known: Vec<&str> = config.pools.iter().map(|pool| pool.name.as_str()).collect();
                let advice = format!("the pair's pools are: {}", known.join(", "));
                return Err(Failure::new(format!("there is no pool `{pool}`"), advice));
            }
            let node = owner(&config, |status| owns(status, pool), &format!("pool `{pool}`"))?;
            let provisioning = if *thin { Provisioning::Thin } else { Provisioning::Thick };
            let request = Request::VolumeCreate { pool: pool.clone(), name: name.clone(), bytes: size.0, provisioning };
            report(ask(&config, node, &request)?)
        }
        VolumeCommand::Delete { name, file } => {
            ask_holder(&file.load()?, name, &Request::VolumeDelete { name: name.clone() })
        }
        VolumeCommand::Protect { name, file } => {
            let protection = Protection::WriteProtected;
            ask_holder(&file.load()?, name, &Request::VolumeProtect { name: name.clone(), protection })
        }
        VolumeCommand::Unprotect { name, file } => {
            let protection = Protection::Writable;
            ask_holder(&file.load()?, name, &Request::VolumeProtect { name: name.clone(), protection })
        }
        VolumeCommand::List { json, file } => volume_list(&file.load()?, *json),
    }
}

/// Asks the node that serves a volume.
fn ask_holder(config: &Config, name: &str, request: &Request) -> Result<ExitCode, Failure> {
    let holds = |status: &Status| {
        volumes_of(config, status.node).is_ok_and(|all| all.iter().any(|volume| volume.name == *name))
    };
    let node = owner(config, holds, &format!("volume `{name}`"))?;
    report(ask(config, node, request)?)
}

fn owns(status: &Status, pool: &str) -> bool {
    status.pools.iter().any(|known| known.name == pool && known.owner == Some(status.node))
}

/// The answering node of which `has` is true.
fn owner(config: &Config, has: impl Fn(&Status) -> bool, what: &str) -> Result<NodeName, Failure> {
    let found = answering(config)?.into_iter().find(|status| has(status));
    found.map(|status| status.node).ok_or_else(|| {
        let advice = "ask on the node that serves it, or look at `understudy status`";
        Failure::new(format!("no node that answers here has {what}"), advice)
    })
}

fn volumes_of(config: &Config, node: NodeName) -> Result<Vec<VolumeStatus>, Failure> {
    match ask(config, node, &Request::VolumeList)? {
        Response::Volumes { volumes } => Ok(volumes),
        other => Err(Failure::from_answer(other)),
    }
}

fn volume_list(config: &Config, json: bool) -> Result<ExitCode, Failure> {
    let mut volumes = Vec::new();
    for status in answering(config)? {
        volumes.extend(volumes_of(config, status.node)?);
    }
    if json {
        put(&format!("{}\n", super::show::pretty(&volumes)?));
    } else {
        put(&volume_table(&volumes));
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) fn volume_table(volumes: &[VolumeStatus]) -> String {
    let mut out = String::new();
    for volume in volumes {
        let size = Size(volume.bytes).to_string();
        out.push_str(&format!("{:<20} {size:>10}  {:<12}", volume.name, volume.pool));
        for portal in &volume.portals {
            out.push_str(&format!("  iscsi://{portal}/{}/{}", volume.target, volume.lun));
        }
        if volume.provisioning == Provisioning::Thin {
            out.push_str(&format!("  thin, {} used", Size(volume.used_bytes)));
        }
        if volume.protection == Protection::WriteProtected {
            out.push_str("  write-protected");
        }
        if let Some(initiators) = &volume.initiators {
            let seen_by = if initiators.is_empty() { "nobody".to_owned() } else { initiators.join(", ") };
            out.push_str(&format!("  seen by {seen_by}"));
        }
        out.push('\n');
    }
    if volumes.is_empty() {
        out.push_str("there are no volumes; make one with `understudy volume create NAME SIZE --pool POOL`\n");
    }
    out
}
