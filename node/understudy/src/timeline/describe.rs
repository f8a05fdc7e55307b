//! The failover machine's steps in the operator's words: names for pools and nodes, and how each thing came to be known.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use understudy_failover::alert::SignOfLife;
use understudy_failover::page::StateWord;
use understudy_failover::timeline::Step;
use understudy_failover::words::{NodeId, PoolId};

use super::step;
use crate::config::{Config, NodeName};

/// A step as [`super::Recorder::record`] wants it.
#[derive(Debug, Clone, PartialEq)]
pub struct Described {
    /// Its kind, as in [`super::step`].
    pub step: String,
    /// In words.
    pub text: String,
    /// Its numbers.
    pub values: BTreeMap<String, Value>,
}

impl Described {
    fn new(step: &str, text: String, values: Value) -> Self {
        let values = match values {
            Value::Object(map) => map.into_iter().collect(),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => BTreeMap::new(),
        };
        Self { step: step.to_owned(), text, values }
    }
}

/// A step of node `own` of the pair, in words.
#[must_use]
pub fn describe(step: &Step, config: &Config, own: NodeName) -> Described {
    let partner = own.partner();
    match step {
        Step::Asserted(state) => {
            Described::new(&lower(*state), asserted(*state, partner), json!({ "state": state.name() }))
        }
        Step::PartnerRead { state, incarnation } => Described::new(
            &format!("{}-read", lower(*state)),
            format!("read {} in the page of {partner} by RDMA, incarnation {incarnation}", state.name()),
            json!({ "state": state.name(), "incarnation": incarnation.to_string() }),
        ),
        Step::PartnerLost
        | Step::ContestBegun
        | Step::ContestWon { .. }
        | Step::ContestUndecided
        | Step::LockDisksJoined { .. }
        | Step::RecordStands { .. }
        | Step::Verified
        | Step::PowerLossReported
        | Step::PowerLossRefuted(_)
        | Step::Restarting(_) => contest(step, partner),
        Step::PoolFenced { .. }
        | Step::Serving { .. }
        | Step::LegDropped { .. }
        | Step::LegsLeftOut { .. }
        | Step::PoolStays { .. } => of_pool(step, config),
        Step::Released { .. }
        | Step::Restored { .. }
        | Step::ReleaseVerified { .. }
        | Step::ReleaseNotFound
        | Step::DisksInitialised { .. } => of_disks(step, partner),
        Step::Vetoed(_)
        | Step::WantRead { .. }
        | Step::Holding { .. }
        | Step::Held
        | Step::CommitSent { .. }
        | Step::CommitStands { .. }
        | Step::Announced { .. }
        | Step::AnnouncementRead { .. }
        | Step::CommitRead { .. }
        | Step::CommitAborted
        | Step::Resumed
        | Step::HandedBack { .. }
        | Step::PortalsListening { .. }
        | Step::ServiceClosed { .. } => of_hand_off(step, partner),
        Step::RequestJudged { .. } | Step::GivebackDelayed { .. } | Step::TakeoverWithheld(_) => {
            of_policy(step, partner)
        }
    }
}

fn lower(state: StateWord) -> String {
    state.name().to_lowercase()
}

fn asserted(state: StateWord, partner: NodeName) -> String {
    let name = state.name();
    match state {
        StateWord::Booting => format!("page says {name}: registered with the fabric, no disk touched yet"),
        StateWord::GiveWait => {
            format!("page says {name}: the records give own pools to {partner}, waiting for its release")
        }
        StateWord::DiskInit => format!("page says {name}: initialising the disks while {partner} still serves"),
        StateWord::MailboxWait => format!("page says {name}: ready for the giveback"),
        StateWord::Resuming => format!("page says {name}: taking over from {partner}"),
        StateWord::Up => format!("page says {name}: serving own pools"),
        StateWord::Takeover => format!("page says {name}: serving the pools of {partner} too"),
        StateWord::Released => format!("page says {name}: {partner} may read the disks"),
        StateWord::Giveback => format!("page says {name}: handing the pools over to {partner}"),
        StateWord::Halted | StateWord::Panicked => format!("page says {name}"),
    }
}

fn contest(step: &Step, partner: NodeName) -> Described {
    match step {
        Step::PartnerLost => {
            Described::new("partner-lost", format!("{partner} is lost: its page or link is gone"), Value::Null)
        }
        Step::ContestBegun => Described::new(
            "contest",
            format!("page and heartbeat of {partner} stand still: contesting the lock disks"),
            Value::Null,
        ),
        Step::ContestWon { won, of } => Described::new(
            "contest-won",
            format!("won {won} of {of} lock disks: PREEMPT AND ABORT of the key of {partner}, read back"),
            json!({ "won": won, "of": of }),
        ),
        Step::LockDisksJoined { joined, of } => Described::new(
            "lock-disks-joined",
            format!("registered on {joined} of {of} lock disks"),
            json!({ "joined": joined, "of": of }),
        ),
        Step::RecordStands { generation, written, of } => Described::new(
            "recorded",
            format!("generation {generation} recorded on {written} of {of} lock disks"),
            json!({ "generation": generation.0, "written": written, "of": of }),
        ),
        Step::Verified => Described::new(
            "verified",
            "key and claim still stand on the lock disks, looked at after the fence".to_owned(),
            Value::Null,
        ),
        Step::PowerLossReported => Described::new(
            step::POWER_LOSS_REPORTED,
            format!("{partner} is reported to have lost its power: looking at its page and heartbeat at once"),
            Value::Null,
        ),
        Step::PowerLossRefuted(by) => Described::new(
            step::POWER_LOSS_REFUTED,
            format!("{partner} lives: its {} moved after the report", sign(*by)),
            json!({ "by": sign(*by) }),
        ),
        Step::Restarting(reason) => {
            Described::new("restart", format!("{step}"), json!({ "reason": format!("{reason:?}") }))
        }
        other => Described::new("contest-undecided", other.to_string(), Value::Null),
    }
}

/// What shows that a node lives.
#[must_use]
pub fn sign(of_life: SignOfLife) -> &'static str {
    match of_life {
        SignOfLife::Page => "page",
        SignOfLife::Heartbeat => "heartbeat",
    }
}

fn of_pool(step: &Step, config: &Config) -> Described {
    match step {
        Step::PoolFenced { pool, generation } => Described::new(
            "fenced",
            format!("{} fenced with generation {generation}, keys and reservation read back", pool_name(config, *pool)),
            json!({ "pool": pool_name(config, *pool), "generation": generation.0 }),
        ),
        Step::PoolStays { pool, vetoes } => {
            let vetoes: Vec<String> = vetoes.iter().map(|veto| format!("{veto:?}")).collect();
            let text = format!("{} stays where it is: {}", pool_name(config, *pool), vetoes.join(", "));
            Described::new("pool-stays", text, json!({ "pool": pool_name(config, *pool), "vetoes": vetoes }))
        }
        Step::Serving { pool, generation } => Described::new(
            "serving",
            format!("{} served with generation {generation}", pool_name(config, *pool)),
            json!({ "pool": pool_name(config, *pool), "generation": generation.0 }),
        ),
        Step::LegDropped { pool, generation } => Described::new(
            "leg-dropped",
            format!("{}: a leg is recorded bad with generation {generation}", pool_name(config, *pool)),
            json!({ "pool": pool_name(config, *pool), "generation": generation.0 }),
        ),
        Step::LegsLeftOut { pool } => Described::new(
            "legs-left-out",
            format!(
                "{} claimed without the legs that give no answer, which are recorded bad",
                pool_name(config, *pool)
            ),
            json!({ "pool": pool_name(config, *pool) }),
        ),
        other => Described::new("step", other.to_string(), Value::Null),
    }
}

fn of_disks(step: &Step, partner: NodeName) -> Described {
    match step {
        Step::Released { released, of, incarnation } => Described::new(
            "reservations-released",
            format!(
                "released {released} of {of}: type 6 -> type 5 by PREEMPT of the own key, read back; for incarnation {incarnation}"
            ),
            json!({ "released": released, "of": of, "incarnation": incarnation.to_string(), "before": 6, "after": 5 }),
        ),
        Step::Restored { restored, of } => Described::new(
            "reservations-restored",
            format!("exclusive again: type 5 -> type 6 on {restored} of {of}"),
            json!({ "restored": restored, "of": of, "before": 5, "after": 6 }),
        ),
        Step::ReleaseVerified { open, of } => Described::new(
            "release-checked",
            format!(
                "READ RESERVATION on {open} of {of} disks: type 5 held by {partner}; reading is allowed, writing is not"
            ),
            json!({ "open": open, "of": of }),
        ),
        Step::ReleaseNotFound => Described::new(
            "release-not-found",
            format!("{partner} announced a release the disks do not show: back to GIVEWAIT"),
            Value::Null,
        ),
        Step::DisksInitialised { found, of } => Described::new(
            "disks-initialised",
            format!(
                "{found} of {of} disks initialised: labels read, mirrors assembled, metadata loaded, portals prepared"
            ),
            json!({ "found": found, "of": of }),
        ),
        other => Described::new("step", other.to_string(), Value::Null),
    }
}

fn of_hand_off(step: &Step, partner: NodeName) -> Described {
    let numbered =
        |kind: &str, text: String, generation: u32| Described::new(kind, text, json!({ "generation": generation }));
    match step {
        Step::Vetoed(vetoes) => {
            let vetoes: Vec<String> = vetoes.iter().map(|veto| format!("{veto:?}")).collect();
            Described::new("vetoed", format!("hand-off vetoed: {}", vetoes.join(", ")), json!({ "vetoes": vetoes }))
        }
        Step::WantRead { request } => Described::new(
            "want-read",
            format!("read by RDMA that {partner} asks for pools"),
            json!({ "request": request }),
        ),
        Step::Holding { to } => Described::new(
            "holding",
            format!("holding clients' commands, handing over to {}", node_name(*to)),
            Value::Null,
        ),
        Step::Held => {
            Described::new("held", "every command in flight has ended, everything is flushed".to_owned(), Value::Null)
        }
        Step::CommitSent { generation } => {
            numbered("commit-sent", format!("COMMIT of generation {generation} sent to the lock disks"), generation.0)
        }
        Step::CommitStands { generation, written, of } => Described::new(
            "committed",
            format!("COMMIT of generation {generation} stands on {written} of {of} lock disks"),
            json!({ "generation": generation.0, "written": written, "of": of }),
        ),
        Step::Announced { generation } => {
            numbered("announced", format!("page announces the commit of generation {generation}"), generation.0)
        }
        Step::AnnouncementRead { generation } => numbered(
            "announcement-read",
            format!("read the commit of generation {generation} in the page of {partner} by RDMA"),
            generation.0,
        ),
        Step::CommitRead { generation } => numbered(
            "commit-read",
            format!("COMMIT of generation {generation} read from a majority of the lock disks"),
            generation.0,
        ),
        Step::CommitAborted => Described::new("commit-aborted", step.to_string(), Value::Null),
        Step::Resumed => Described::new("resumed", "held commands are carried on here".to_owned(), Value::Null),
        Step::HandedBack { generation } => numbered(
            "handed-back",
            format!("pools that cannot be served here are recorded as {partner}'s with generation {generation}"),
            generation.0,
        ),
        Step::PortalsListening { identity } => Described::new(
            "portals-listening",
            format!("portals of {} listen, logins are held", node_name(*identity)),
            json!({ "identity": node_name(*identity) }),
        ),
        Step::ServiceClosed { identity } => Described::new(
            "ceased",
            format!("requests for {} are not processed here any more", node_name(*identity)),
            json!({ "identity": node_name(*identity) }),
        ),
        other => Described::new("step", other.to_string(), Value::Null),
    }
}

fn of_policy(step: &Step, partner: NodeName) -> Described {
    match step {
        Step::RequestJudged { request, vetoes, pause } => {
            let vetoes: Vec<String> = vetoes.iter().map(|veto| format!("{veto:?}")).collect();
            let against = if vetoes.is_empty() { "nothing".to_owned() } else { vetoes.join(", ") };
            Described::new(
                "takeover-judged",
                format!("told {partner}, which only asked, what speaks against a takeover: {against}"),
                json!({ "request": request, "vetoes": vetoes, "pause_micros": pause.0 }),
            )
        }
        Step::GivebackDelayed { by } => Described::new(
            "giveback-delayed",
            format!("{partner} waits for its pools; the giveback is delayed by {} ms, as configured", by.0 / 1_000),
            json!({ "delay_micros": by.0 }),
        ),
        Step::TakeoverWithheld(why) => Described::new(
            "takeover-withheld",
            format!("{partner} has ended and is not taken over, as configured"),
            json!({ "why": format!("{why:?}") }),
        ),
        other => Described::new("step", other.to_string(), Value::Null),
    }
}

fn node_name(node: NodeId) -> NodeName {
    match node {
        NodeId::A => NodeName::A,
        NodeId::B => NodeName::B,
    }
}

fn pool_name(config: &Config, id: PoolId) -> String {
    let pool = config.pools.iter().find(|pool| u32::from(pool.id) == id.0);
    pool.map_or_else(|| id.to_string(), |pool| pool.name.clone())
}
