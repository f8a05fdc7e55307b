//! What operators are told: every alarm, veto and refusal of the failover machine, with its reason and its remedy.
//!
//! Not here: who asks and how it is shown. The one idea: whoever is told that something is not done is told why, and what to do about it; a
//! test walks all there are.

use std::fmt;

use understudy_failover::effect::{Alarm, Immovable, NoForecast, Veto, Withheld};
use understudy_failover::page::StateWord;
use understudy_failover::words::PoolId;

use crate::admin::{Veto as ToldVeto, VetoWeight};
use crate::config::NodeName;

/// Why something is so, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Said {
    /// What happened, to which thing.
    pub reason: String,
    /// What removes its cause, or that it passes by itself.
    pub remedy: String,
}

impl fmt::Display for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.reason, self.remedy)
    }
}

fn said(reason: impl Into<String>, remedy: impl Into<String>) -> Said {
    Said { reason: reason.into(), remedy: remedy.into() }
}

/// Which way pools were to move.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Movement {
    /// From the partner to the node that was asked.
    Takeover,
    /// From the node that was asked to the partner.
    Giveback,
}

/// A veto against a movement.
#[must_use]
pub fn of_veto(veto: Veto, movement: Movement) -> Said {
    match veto {
        Veto::ResyncRunning => {
            said("a mirror is being resynced", "it ends by itself: `understudy status` shows how far it is")
        }
        Veto::CopyRunning => said(
            "a dropped leg is being copied to; a new owner would begin it anew",
            "it ends by itself: `understudy status` shows how far it is",
        ),
        Veto::TransferWouldBeCut => said("a client's transfer would be cut", "it ends by itself: ask again"),
        Veto::PingPong => said(
            "too many automatic givebacks lately (`limit` in [giveback])",
            "find out why the node keeps failing, then ask for the giveback yourself",
        ),
        Veto::InventoryMismatch => said(
            "the two nodes do not find the same disks",
            "compare the disks in the status of both nodes and mend the paths to those that are missing",
        ),
        Veto::PartnerUnhealthy => match movement {
            Movement::Giveback => said("the partner says it is not healthy", "see the alarms in its status"),
            Movement::Takeover => said("the node that would take over is not healthy", "see the alarms in its status"),
        },
        Veto::VersionMismatch => said("the partner's release is too far away", "upgrade it: docs/upgrade.md says how"),
        Veto::NoRecordMajority => said(
            "the records do not stand on a majority of the lock disks",
            "check the lock disks and the paths to them: `understudy status` shows which do not answer",
        ),
        Veto::WriteOutcomeUnknown => said(
            "a write of unknown outcome may still reach a disk",
            "check the paths to the shelf; it is settled once the disk answers",
        ),
        Veto::PartnerNotReady => match movement {
            Movement::Giveback => said(
                "the partner is not waiting for its pools (MBWAIT)",
                "start it, and wait until `understudy status` shows it in MBWAIT; a giveback without that would be an outage",
            ),
            Movement::Takeover => said(
                "the partner is not UP, or shows no sign of life, so it cannot hand anything over",
                "wait until it is UP; if it is to be stopped whatever it does: `understudy takeover --force`",
            ),
        },
        Veto::UnusableThere => said(
            "the node it would go to finds its disks and cannot open it",
            "see the alarms in the status of that node: check the pool's disks there",
        ),
        Veto::DrainFailed => said(
            "a pool could not be held and drained in time (`handoff_ms` in [timing])",
            "check its disks, then ask again",
        ),
    }
}

/// The same for the admin protocol.
#[must_use]
pub fn told_veto(veto: Veto, movement: Movement) -> ToldVeto {
    let Said { reason, remedy } = of_veto(veto, movement);
    let weight = if veto.is_soft() { VetoWeight::Soft } else { VetoWeight::Hard };
    ToldVeto { weight, reason, remedy }
}

/// Why a pool that was named is not moved; `name` says what the machine's pools are called.
#[must_use]
pub fn of_immovable(pool: PoolId, why: Immovable, movement: Movement, name: impl Fn(PoolId) -> String) -> Said {
    let called = name(pool);
    match (why, movement) {
        (Immovable::OfThisNode, Movement::Takeover) => said(
            format!("{called} has its home at the node that was asked"),
            "if it is with the partner, `understudy giveback` there sends it home",
        ),
        (Immovable::OfThisNode, Movement::Giveback) => said(
            format!("{called} has its home at the node that was asked: there is nobody to give it back to"),
            "to have it at the partner: `understudy takeover` there",
        ),
        (Immovable::HereAlready, Movement::Takeover | Movement::Giveback) => said(
            format!("{called} is served by the node that was asked already"),
            "nothing has to be done; `understudy giveback` sends it home",
        ),
        (Immovable::AtHome, Movement::Takeover | Movement::Giveback) => said(
            format!("{called} is at home already"),
            "nothing has to be done; `understudy status` shows where each pool is",
        ),
        (Immovable::ServedByNobody, Movement::Takeover | Movement::Giveback) => said(
            format!("{called} is served by nobody, so nobody can hand it over"),
            "`understudy status` says what keeps it from being served: mend that first",
        ),
        (Immovable::SharesTarget { with }, Movement::Takeover | Movement::Giveback) => said(
            format!(
                "{called} cannot move without {}: their volumes are behind one target, and commands are not forwarded between the nodes",
                name(with)
            ),
            "name all pools of that home, or none, which means the same; with `forward` addresses in the pair's file each could move by itself",
        ),
    }
}

/// Why there is no forecast of a takeover.
#[must_use]
pub fn of_no_forecast(why: NoForecast, partner: NodeName) -> Said {
    match why {
        NoForecast::PartnerSilent => said(
            format!("{partner} does not answer: a takeover now would be a contested one, without its consent"),
            format!(
                "if {partner} is down it comes by itself, unless [takeover] says otherwise; `understudy takeover --force` does it at once, and \
                 fences {partner} if it lives"
            ),
        ),
        NoForecast::PartnerOlder => said(
            format!("the release of {partner} cannot be asked for what speaks against a takeover"),
            "upgrade it first (docs/upgrade.md); a takeover itself works, and is refused by it if something speaks against it",
        ),
        NoForecast::NoAnswer => said(
            format!("{partner} did not say in time what speaks against a takeover"),
            "`understudy status` shows what it is doing; ask again once it is UP",
        ),
        NoForecast::DisksUnread => said(
            "this node could not read the disks of those pools, so it could not take them over as planned",
            "check the paths from this node to the disks: `understudy status` shows them",
        ),
    }
}

/// What to do where a node in this state does not take a request.
#[must_use]
pub fn of_not_now(state: StateWord, movement: Movement) -> Said {
    let reason = format!("not while this node is {state}");
    match (state, movement) {
        (StateWord::Up, Movement::Takeover) => {
            said("another request is under way at this node", "wait for its answer, then ask again")
        }
        (StateWord::Up, Movement::Giveback) => said(
            "this node has no pool of its partner: there is nothing to give back",
            "`understudy status` shows where each pool is; ask the node that has them",
        ),
        (StateWord::Takeover | StateWord::Released, Movement::Takeover) => said(
            format!("{reason}: it has pools of its partner already"),
            "`understudy giveback` first, once the partner waits for them (MBWAIT)",
        ),
        (StateWord::Takeover | StateWord::Released, Movement::Giveback) => said(
            format!("{reason} and takes the disks back from a partner that went away"),
            "wait until the partner waits for its pools (MBWAIT), then ask again",
        ),
        (StateWord::Booting, Movement::Takeover | Movement::Giveback) => {
            said(reason, "wait until it is UP; the alarms in `understudy status` say what it waits for")
        }
        (StateWord::GiveWait | StateWord::DiskInit | StateWord::MailboxWait, Movement::Takeover) => said(
            format!("{reason}: its own pools are with the partner"),
            "`understudy giveback` at the partner; `understudy takeover --force` here only if the partner has to be stopped",
        ),
        (StateWord::GiveWait | StateWord::DiskInit | StateWord::MailboxWait, Movement::Giveback) => said(
            format!("{reason}: its own pools are with the partner"),
            "ask the partner for the giveback: `understudy giveback` there",
        ),
        (StateWord::Resuming | StateWord::Giveback, Movement::Takeover | Movement::Giveback) => {
            said(format!("{reason}: pools are being handed over"), "it takes moments: ask again")
        }
        (StateWord::Halted | StateWord::Panicked, Movement::Takeover | Movement::Giveback) => {
            said(reason, "start it again, or ask the other node")
        }
    }
}

/// An alarm of node `own`; `name` says what the machine's pools are called.
#[must_use]
pub fn of_alarm(alarm: Alarm, own: NodeName, name: impl Fn(PoolId) -> String) -> Said {
    let partner = own.partner();
    match alarm {
        Alarm::InterconnectDown => said(
            format!("the interconnect to {partner} is down while its heartbeat goes on"),
            "no takeover and no bring-up until it is mended: check the link between the nodes and the addresses in the pair's file",
        ),
        Alarm::LockDisksUnreachable => said(
            "no majority of the lock disks answers",
            "check the paths to the shelf; nothing can be taken over or given back until then",
        ),
        Alarm::RecordUnknown(pool) => said(
            format!("the records of {} do not stand on a majority of the lock disks, so it is not served", name(pool)),
            "check the lock disks: it is served once a majority of them answers",
        ),
        Alarm::PoolRefused(pool) => said(
            format!("{} is refused: not every leg recorded good could be fenced", name(pool)),
            "check the paths to its disks; it is tried again every few seconds, without disks that give no answer if one of each mirror does",
        ),
        Alarm::PoolUnusable(pool) => said(
            format!("{} could not be opened here", name(pool)),
            "check the paths to its disks and their labels; a partner that can serve it keeps it until then",
        ),
        Alarm::LastLegFailed(pool) => said(
            format!("the last good leg of a mirror of {} failed, and its commands are held", name(pool)),
            format!("they go on once its disk answers; if {partner} reaches it, `understudy takeover --force` there"),
        ),
        Alarm::HandOffVetoed => said(
            "a hand-off was vetoed",
            "`understudy timeline` says why, `understudy giveback --dry-run` or `takeover --dry-run` whether it still is",
        ),
        Alarm::ReleaseIncomplete => said(
            "not every disk could be released for the repaired node",
            "check the paths to the shelf; it is tried again by itself",
        ),
        Alarm::PageRejected => said(
            format!("what is read at {partner}'s interconnect address is no page of this pair"),
            "check that both nodes have the same pair's file and releases that are neighbours",
        ),
        Alarm::DiskInitFailed => said(
            "the disks of this node's pools could not be initialised",
            "check the paths to them; it is tried again by itself",
        ),
        Alarm::PartnerDown => said(
            format!("{partner} is down; this node serves everything"),
            format!("repair {partner} and start it: it is brought back by itself"),
        ),
        Alarm::GenerationsUsedUp => said(
            "the generations are used up: no pool can change its owner or its legs any more",
            "back up, and prepare the pair anew with `understudy pair init`",
        ),
        Alarm::TakeoverWithheld(why) => of_withheld(why, partner),
    }
}

fn of_withheld(why: Withheld, partner: NodeName) -> Said {
    let (end, key) = match why {
        Withheld::Halted => ("stopped in an orderly way", "on_halt"),
        Withheld::Panicked => ("died", "on_panic"),
    };
    said(
        format!("{partner} {end}, and its pools are served by nobody because `{key}` in [takeover] is \"no\""),
        format!("start {partner}, or take its pools over: `understudy takeover --force`"),
    )
}

#[cfg(test)]
#[path = "told_tests.rs"]
mod tests;
