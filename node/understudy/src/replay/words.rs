//! Facts and orders in plain words, one line each.
//!
//! Not here: what matters and what does not. Names of pools and disks are not in a log, so numbers stand for them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{Debug, Write};

use understudy_failover::effect::{Effect, Reply, Veto};
use understudy_failover::input::{
    Earnest, FenceOutcome, Input, JoinOutcome, OpenOutcome, Request, SoftVetoes, TakeoverKind, WriteOutcome,
};
use understudy_failover::page::{Judged, Page, PageContent, WantAnswer, WantHow};
use understudy_failover::record::Record;
use understudy_failover::survey::Survey;
use understudy_failover::words::{LegSet, NodeId, Op, PoolId};

fn order(op: Op) -> String {
    format!("order {}", op.0)
}

fn list(items: impl IntoIterator<Item = impl ToString>) -> String {
    let items: Vec<String> = items.into_iter().map(|item| item.to_string()).collect();
    if items.is_empty() { "none".to_owned() } else { items.join(", ") }
}

fn debugged(items: impl IntoIterator<Item = impl Debug>) -> String {
    list(items.into_iter().map(|item| format!("{item:?}")))
}

/// Legs recorded good, per mirror, as `0+1 0`.
fn legs(legs: &[LegSet]) -> String {
    let mirror = |set: &LegSet| {
        let of_mirror: Vec<String> =
            (0..8).filter(|leg| set.0 & (1 << leg) != 0).map(|leg: u8| leg.to_string()).collect();
        if of_mirror.is_empty() { "-".to_owned() } else { of_mirror.join("+") }
    };
    list(legs.iter().map(mirror))
}

fn legs_by_pool(by_pool: &BTreeMap<PoolId, Vec<LegSet>>) -> String {
    list(by_pool.iter().map(|(pool, good)| format!("{pool} legs {}", legs(good))))
}

/// What the machine was told.
#[must_use]
pub fn fact(input: &Input) -> String {
    match input {
        Input::Started => "the process runs, its page is registered".to_owned(),
        Input::PartnerPageRead(page) => partner_page(page),
        Input::PartnerPageUnreadable(why) => format!("the partner's page cannot be read: {why:?}"),
        Input::PartnerLinkClosed => "the link to the partner's page closed".to_owned(),
        Input::Surveyed { op: None, survey } => format!("lock disks read: {}", survey_words(survey)),
        Input::Surveyed { op: Some(op), survey } => {
            format!("{}: lock disks read: {}", order(*op), survey_words(survey))
        }
        Input::LockDisksJoined { op, disks } => {
            let joined = disks.iter().filter(|outcome| **outcome == JoinOutcome::Joined).count();
            format!("{}: registered on {joined} of {} lock disks", order(*op), disks.len())
        }
        Input::LockDisksContested { op, disks } => {
            let keys = |keys: &Option<Vec<_>>| keys.as_ref().map_or("silent".to_owned(), |keys| keys_words(keys));
            format!("{}: lock disks contested, keys now: {}", order(*op), list(disks.iter().map(keys)))
        }
        Input::RecordWritten { op, disks } => {
            let written = disks.iter().filter(|outcome| **outcome == WriteOutcome::Written).count();
            let each = if written == disks.len() { String::new() } else { format!(" ({})", debugged(disks)) };
            format!("{}: record written on {written} of {} lock disks{each}", order(*op), disks.len())
        }
        Input::PoolFenced { op, pool, outcome } => format!("{}: {pool} {}", order(*op), fenced(outcome)),
        Input::ReservationsReleased { op, released, of } => {
            format!("{}: reservations released on {released} of {of} disks, read back", order(*op))
        }
        Input::ReservationsRestored { op, restored, of } => {
            format!("{}: exclusive again on {restored} of {of} disks, read back", order(*op))
        }
        Input::ReleaseChecked { op, open, of } => {
            format!("{}: {open} of {of} disks found released by the partner", order(*op))
        }
        Input::DisksInitialised { op, inventory, found, of } => {
            format!("{}: disks initialised, {found} of {of}, inventory {inventory:016x}", order(*op))
        }
        Input::DiskInitConflicted { op } => format!("{}: a disk refused to be initialised", order(*op)),
        Input::PoolOpened { op, pool, outcome } => format!("{}: {pool} {}", order(*op), opened(outcome)),
        Input::PoolHeld { op, pool, metadata_version, legs_are } => {
            let version = metadata_version.0;
            format!("{}: {pool} held, drained, flushed; metadata version {version}, legs {legs_are:?}", order(*op))
        }
        other => rarer_fact(other),
    }
}

fn fenced(outcome: &FenceOutcome) -> String {
    match outcome {
        FenceOutcome::Fenced => "fenced, read back".to_owned(),
        FenceOutcome::Incomplete { fenced, of, unreached } => {
            let silent: u32 = unreached.iter().map(|legs| legs.len()).sum();
            format!("fenced on {fenced} of {of} disks only, {silent} gave no answer")
        }
        FenceOutcome::Lost => "not fenced: the own keys are gone".to_owned(),
        FenceOutcome::NewerKey { generation } => {
            format!("not fenced: a key of generation {generation} is registered")
        }
    }
}

fn opened(outcome: &OpenOutcome) -> String {
    match outcome {
        OpenOutcome::Opened { metadata_version } => format!("opened, metadata version {}", metadata_version.0),
        OpenOutcome::NewerGeneration { generation } => {
            format!("not opened: its metadata are of generation {generation}")
        }
        OpenOutcome::Failed => "not opened: no good leg gave its metadata".to_owned(),
    }
}

fn rarer_fact(input: &Input) -> String {
    match input {
        Input::PoolNotHeld { op, pool, reason } => format!("{}: {pool} could not be held: {reason:?}", order(*op)),
        Input::PortalsOpened { op } => format!("{}: portals listen", order(*op)),
        Input::HandOffPrepared { op, findings } => format!(
            "{}: hand-off prepared: vetoes {}, predicted pause {} us, inventory {:016x}",
            order(*op),
            debugged(&findings.vetoes),
            findings.predicted_pause.0,
            findings.inventory
        ),
        Input::LegFailed { pool, mirror, leg } => {
            format!("{pool}: leg {} of mirror {} does not take writes", leg.0, mirror.0)
        }
        Input::LegResynced { pool, mirror, leg } => {
            format!("{pool}: leg {} of mirror {} holds the same again", leg.0, mirror.0)
        }
        Input::FenceDoubted { pool } => format!("{pool}: a conflict or a unit attention puts its fence in doubt"),
        Input::OperatorAsked { request, what } => format!("request {}: the operator asks {}", request.0, asked(what)),
        Input::TimerExpired => "a deadline has come".to_owned(),
        Input::ServiceHealthChanged(health) => format!("service health is {health:?} now"),
        other => format!("{other:?}"),
    }
}

/// What an operator asked for.
#[must_use]
pub fn asked(what: &Request) -> String {
    let some = |what: &str, pools: &BTreeSet<PoolId>| format!("{what} of {}", list(pools));
    let (what, vetoes, earnest) = match what {
        Request::Takeover { kind: TakeoverKind::Planned, vetoes, earnest } => {
            ("a planned takeover".to_owned(), vetoes, earnest)
        }
        Request::Takeover { kind: TakeoverKind::Forced, vetoes, earnest } => {
            ("a forced takeover".to_owned(), vetoes, earnest)
        }
        Request::Giveback { vetoes, earnest } => ("the giveback".to_owned(), vetoes, earnest),
        Request::TakeoverOf { pools, vetoes, earnest } => (some("a planned takeover", pools), vetoes, earnest),
        Request::GivebackOf { pools, vetoes, earnest } => (some("the giveback", pools), vetoes, earnest),
        Request::Halt => return "it to halt".to_owned(),
        Request::PartnerLost => return "it to look whether its partner has lost its power".to_owned(),
    };
    let vetoes = match vetoes {
        SoftVetoes::Count => "",
        SoftVetoes::Overridden => ", soft vetoes overridden",
    };
    let earnest = match earnest {
        Earnest::Do => "",
        Earnest::DryRun => " (dry run)",
    };
    format!("for {what}{vetoes}{earnest}")
}

fn partner_page(page: &Page) -> String {
    format!(
        "partner's page read: {}; incarnation {}, heartbeat {}, sequence {}",
        content(&page.content),
        page.incarnation,
        page.live.heartbeat,
        page.sequence
    )
}

fn content(content: &PageContent) -> String {
    let mut text = format!("{} ({:?}), generation {}", content.state, content.stage, content.generation);
    if let Some(seen) = content.acknowledgement {
        let _ = write!(text, ", has seen {} of {}", seen.state, seen.incarnation);
    }
    if let Some(to) = content.released_to {
        let _ = write!(text, ", released to {to}");
    }
    if let Some(announced) = content.announcement {
        let _ = write!(text, ", announces the commit of generation {} to {}", announced.generation, announced.to);
    }
    if let Some(want) = content.want {
        let only = if want.how == WantHow::DryRun { ", only to be judged" } else { "" };
        let _ = write!(text, ", wants pools (request {}{only})", want.number);
    }
    match content.want_answer {
        WantAnswer::Nothing => {}
        WantAnswer::Refused(number) => {
            let _ = write!(text, ", refuses request {number}");
        }
        WantAnswer::Judged(judged) => {
            let Judged { number, vetoes, pause } = judged;
            let _ = write!(text, ", judges request {number}: veto bits {vetoes:#x}, pause {} us", pause.0);
        }
    }
    let pools = content.pools.iter().map(|pool| {
        let owner = pool.owner.map_or("?".to_owned(), |owner| owner.to_string());
        format!("{} {:?} (owner {owner}, generation {})", pool.id, pool.state, pool.generation)
    });
    let _ = write!(text, "; {}", list(pools));
    text
}

fn keys_words(keys: &[understudy_failover::key::ReservationKey]) -> String {
    let key = |key: &understudy_failover::key::ReservationKey| match key.parts() {
        Some(parts) => format!("{}:{:04x}", parts.node, parts.incarnation_low),
        None => format!("{:016x}", key.0),
    };
    if keys.is_empty() { "no key".to_owned() } else { list(keys.iter().map(key)) }
}

fn survey_words(survey: &Survey) -> String {
    let disks = survey.disks.iter().map(|disk| {
        let Some(disk) = disk else { return "silent".to_owned() };
        let beats = NodeId::BOTH.map(|node| match disk.heartbeats[node.index()] {
            Some(beat) => format!("{node} beats {}", beat.counter),
            None => format!("{node} never beat"),
        });
        let newest = |node: NodeId| {
            let sequences = disk.records[node.index()].iter().flatten().map(|record| record.sequence);
            sequences.max().map_or("none".to_owned(), |sequence| sequence.to_string())
        };
        let records = NodeId::BOTH.map(|node| format!("{node} {}", newest(node)));
        format!("{}, records {}, keys {}", beats.join(" "), records.join(" "), keys_words(&disk.keys))
    });
    // Most of the time they all say the same.
    let mut groups: Vec<(Vec<String>, String)> = Vec::new();
    for (number, words) in disks.enumerate() {
        match groups.iter_mut().find(|(_, same)| *same == words) {
            Some((numbers, _)) => numbers.push(number.to_string()),
            None => groups.push((vec![number.to_string()], words)),
        }
    }
    let group = |(numbers, words): &(Vec<String>, String)| format!("[{}] {words}", numbers.join(" "));
    groups.iter().map(group).collect::<Vec<_>>().join("; ")
}

fn record(record: &Record) -> String {
    let entry = |entry: &understudy_failover::record::PoolEntry| {
        format!(
            "{} is {}'s, generation {}, {:?}, legs {} {:?}",
            entry.pool,
            entry.owner,
            entry.generation,
            entry.verdict,
            legs(&entry.legs),
            entry.legs_are
        )
    };
    format!("record {}: {}", record.sequence, record.pools.iter().map(entry).collect::<Vec<_>>().join("; "))
}

fn pools(pools: &[PoolId]) -> String {
    list(pools)
}

/// What it ordered.
#[must_use]
pub fn effect(effect: &Effect) -> String {
    match effect {
        Effect::PublishPage(words) => format!("publish the page: {}", content(words)),
        Effect::Survey { op } => format!("{}: read the lock disks", order(*op)),
        Effect::JoinLockDisks { op, which, key } => {
            format!("{}: register {} on lock disks {}", order(*op), keys_words(&[*key]), list(which))
        }
        Effect::ContestLockDisks { op, key, entry, victim } => {
            let against = victim.map_or("whoever is there".to_owned(), |victim| keys_words(&[victim]));
            format!("{}: contest the lock disks with {} ({entry:?}) against {against}", order(*op), keys_words(&[*key]))
        }
        Effect::WriteRecord { op, record: it } => format!("{}: write {}", order(*op), record(it)),
        Effect::FencePool { op, pool, generation, kind, legs: good } => {
            let good = legs(good);
            format!("{}: fence {pool} ({kind:?}) with generation {generation}, legs {good}", order(*op))
        }
        Effect::ReleaseReservations { op, pools: of } => format!("{}: release {}", order(*op), pools(of)),
        Effect::RestoreReservations { op, pools: of } => format!("{}: exclusive again: {}", order(*op), pools(of)),
        Effect::CheckRelease { op, legs: good, .. } => {
            format!("{}: look whether the partner released {}", order(*op), legs_by_pool(good))
        }
        Effect::InitialiseDisks { op, legs: good, .. } => {
            format!("{}: initialise the disks of {}", order(*op), legs_by_pool(good))
        }
        Effect::OpenPortals { op, identity } => format!("{}: listen for clients of {identity}", order(*op)),
        Effect::ClosePortals { identity } => format!("stop answering clients of {identity}"),
        Effect::ReclaimPortals { identity } => format!("new connections for clients of {identity} come here again"),
        Effect::OpenPool { op, pool, generation, metadata_version, legs_are, legs: good } => format!(
            "{}: open {pool}, generation {generation}, metadata version {} or newer, legs {} {legs_are:?}",
            order(*op),
            metadata_version.0,
            legs(good)
        ),
        Effect::ServePool { pool } => format!("serve {pool}"),
        Effect::HoldPool { op, pool } => format!("{}: hold {pool}, drain and flush it", order(*op)),
        Effect::FreezePool { pool } => format!("freeze {pool}"),
        Effect::ResumePool { pool } => format!("resume {pool}"),
        Effect::ClosePool { pool } => format!("close {pool}"),
        other => order_beside(other),
    }
}

fn order_beside(effect: &Effect) -> String {
    match effect {
        Effect::LegDropped { pool, mirror, leg } => {
            format!("acknowledge without leg {} of mirror {} of {pool}", leg.0, mirror.0)
        }
        Effect::LegTakenBack { pool, mirror, leg } => {
            format!("leg {} of mirror {} of {pool} is good again", leg.0, mirror.0)
        }
        Effect::PrepareHandOff { op, pools: of } => format!("{}: prepare to hand over {}", order(*op), pools(of)),
        Effect::StartHeartbeat => "beat on the lock disks from now on".to_owned(),
        Effect::SetPollPace(pace) => {
            format!("read the partner's page at the {} pace", format!("{pace:?}").to_lowercase())
        }
        Effect::RaiseAlarm(alarm) => format!("alarm: {alarm:?}"),
        Effect::ClearAlarm(alarm) => format!("alarm over: {alarm:?}"),
        Effect::Timeline(step) => step.to_string(),
        Effect::AnswerOperator { request, reply: it } => format!("answer request {}: {}", request.0, reply(it)),
        Effect::Restart(reason) => format!("start again as a fresh incarnation: {reason:?}"),
        Effect::Halt => "end the process".to_owned(),
        other => format!("{other:?}"),
    }
}

fn staying(stay: &BTreeMap<PoolId, BTreeSet<Veto>>) -> String {
    stay.iter().map(|(pool, vetoes)| format!("; {pool} stays: {}", debugged(vetoes))).collect()
}

fn reply(reply: &Reply) -> String {
    let vetoes = |vetoes: &BTreeSet<_>| debugged(vetoes);
    match reply {
        Reply::Done => "done".to_owned(),
        Reply::NotNow { state } => format!("not now, the node is {state}"),
        Reply::Vetoed { vetoes: by } => format!("vetoed: {}", vetoes(by)),
        Reply::WouldDo { overridden, pause, pools: of, stay } => {
            let (of, overridden) = (pools(of), vetoes(overridden));
            format!("would move {of}, predicted pause {} us, overriding {overridden}{}", pause.0, staying(stay))
        }
        Reply::DoneInPart { stayed } => format!("done{}", staying(stayed)),
        Reply::GivenUp => "given up".to_owned(),
        Reply::Refuted { by } => format!("refuted by {by:?}").to_lowercase(),
        Reply::NotThisPool { pool, why } => format!("{pool} is not moved: {why:?}"),
        Reply::NoForecast(why) => format!("no forecast: {why:?}"),
    }
}
