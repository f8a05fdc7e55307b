//! Lines of the timeline: what happened, as facts an operator can follow and a test can compare.
//!
//! Not here: time stamps and text; the driver adds the one, the program makes the other (each line has a plain
//! [`std::fmt::Display`] form to start from). The one idea: the order of rows 1 to 11 of the mission can be read off these.

use std::collections::BTreeSet;
use std::fmt;

use crate::alert::SignOfLife;
use crate::effect::{RestartReason, Veto, Withheld};
use crate::page::StateWord;
use crate::words::{Generation, Incarnation, Micros, NodeId, PoolId};

/// One step.
#[derive(Debug, Clone, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub enum Step {
    /// Own page says this now.
    Asserted(StateWord),
    /// The partner's page, read by RDMA, says this.
    PartnerRead {
        /// Its state.
        state: StateWord,
        /// Its incarnation.
        incarnation: Incarnation,
    },
    /// The partner's page or link is gone, or it says HALTED or PANICKED.
    PartnerLost,
    /// Page and heartbeat stand still: the lock disks are contested.
    ContestBegun,
    /// So many of the lock disks are won.
    ContestWon {
        /// Won.
        won: usize,
        /// Of.
        of: usize,
    },
    /// No majority either way; tried again later.
    ContestUndecided,
    /// Registered on so many lock disks.
    LockDisksJoined {
        /// Joined.
        joined: usize,
        /// Of.
        of: usize,
    },
    /// A record of this generation stands.
    RecordStands {
        /// Its highest generation.
        generation: Generation,
        /// Lock disks that have it.
        written: usize,
        /// Of.
        of: usize,
    },
    /// A pool's disks are fenced and read back.
    PoolFenced {
        /// Which.
        pool: PoolId,
        /// Generation of the keys.
        generation: Generation,
    },
    /// After the fences: own key and own claim still stand on a majority of the lock disks.
    Verified,
    /// A pool is served here.
    Serving {
        /// Which.
        pool: PoolId,
        /// With which generation.
        generation: Generation,
    },
    /// Exclusive reservations released and guarded, read back.
    Released {
        /// Disks released.
        released: u32,
        /// Of.
        of: u32,
        /// For whom.
        incarnation: Incarnation,
    },
    /// Taken back to exclusive.
    Restored {
        /// Disks.
        restored: u32,
        /// Of.
        of: u32,
    },
    /// The partner's RELEASED was verified on the disks.
    ReleaseVerified {
        /// Disks readable and guarded.
        open: u32,
        /// Of.
        of: u32,
    },
    /// The release was announced but not found on the disks, or the disks refused.
    ReleaseNotFound,
    /// Disks initialised.
    DisksInitialised {
        /// Found.
        found: u32,
        /// Of.
        of: u32,
    },
    /// A hand-off was vetoed.
    Vetoed(BTreeSet<Veto>),
    /// A pool stays where it is while others of the hand-off go.
    PoolStays {
        /// Which.
        pool: PoolId,
        /// Why.
        vetoes: BTreeSet<Veto>,
    },
    /// The partner's page asks for these pools.
    WantRead {
        /// Number of its request.
        request: u64,
    },
    /// A hand-off begins: commands are held from now on.
    Holding {
        /// To whom.
        to: NodeId,
    },
    /// Everything is held, drained and flushed.
    Held,
    /// The first write of COMMIT was sent.
    CommitSent {
        /// Of which generation.
        generation: Generation,
    },
    /// COMMIT stands on a majority.
    CommitStands {
        /// Of which generation.
        generation: Generation,
        /// Lock disks that have it.
        written: usize,
        /// Of.
        of: usize,
    },
    /// The page announces the commit.
    Announced {
        /// Of which generation.
        generation: Generation,
    },
    /// The announcement was read by RDMA.
    AnnouncementRead {
        /// Of which generation.
        generation: Generation,
    },
    /// COMMIT was read from a majority of the lock disks.
    CommitRead {
        /// Of which generation.
        generation: Generation,
    },
    /// COMMIT did not stand; ABORT is recorded and the fence looked at: carried on.
    CommitAborted,
    /// Held commands are carried on here.
    Resumed,
    /// Portals listen for this identity; logins are held.
    PortalsListening {
        /// Whose.
        identity: NodeId,
    },
    /// Requests for this identity are not accepted here any more.
    ServiceClosed {
        /// Whose.
        identity: NodeId,
    },
    /// A mirror leg was recorded bad.
    LegDropped {
        /// Of which pool.
        pool: PoolId,
        /// With which generation.
        generation: Generation,
    },
    /// The process starts again.
    Restarting(RestartReason),
    /// Pools that cannot be had here, and could be had there, are recorded as the partner's.
    HandedBack {
        /// Generation of that record.
        generation: Generation,
    },
    /// Legs of this pool, recorded good, gave no answer while it was claimed; the claim goes on without them.
    LegsLeftOut {
        /// Which pool.
        pool: PoolId,
    },
    /// The partner's machine is reported to have lost its power.
    PowerLossReported,
    /// It has not: this moved after the report.
    PowerLossRefuted(SignOfLife),
    /// The partner asked, in its page, what would come of a request for pools, and is told.
    RequestJudged {
        /// Number of its request.
        request: u64,
        /// What speaks against it.
        vetoes: BTreeSet<Veto>,
        /// How long its clients would wait.
        pause: Micros,
    },
    /// The repaired partner waits for its pools, and the giveback for its time.
    GivebackDelayed {
        /// How long.
        by: Micros,
    },
    /// The partner has ended, and its pools are left alone, as configured.
    TakeoverWithheld(Withheld),
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Asserted(state) => write!(f, "asserted {state}"),
            Self::PartnerRead { state, incarnation } => {
                write!(f, "{state} read by RDMA from incarnation {incarnation}")
            }
            Self::PartnerLost => f.write_str("partner lost"),
            Self::ContestBegun => f.write_str("lock disks contested"),
            Self::ContestWon { won, of } => write!(f, "lock disks won: {won} of {of}"),
            Self::ContestUndecided => f.write_str("contest undecided, to be repeated"),
            Self::LockDisksJoined { joined, of } => write!(f, "registered on {joined} of {of} lock disks"),
            Self::RecordStands { generation, written, of } => {
                write!(f, "generation {generation} recorded on {written} of {of} lock disks")
            }
            Self::PoolFenced { pool, generation } => write!(f, "{pool} fenced with generation {generation}, read back"),
            Self::Verified => f.write_str("claim verified after the fence"),
            Self::Serving { pool, generation } => write!(f, "{pool} served with generation {generation}"),
            Self::Released { released, of, incarnation } => {
                write!(f, "released {released} of {of} for incarnation {incarnation}")
            }
            Self::Restored { restored, of } => write!(f, "exclusive again on {restored} of {of}"),
            Self::ReleaseVerified { open, of } => write!(f, "release verified on {open} of {of}"),
            Self::ReleaseNotFound => f.write_str("release not found on the disks"),
            Self::DisksInitialised { found, of } => write!(f, "disks initialised: {found} of {of}"),
            Self::Vetoed(vetoes) => write!(f, "vetoed: {vetoes:?}"),
            Self::PoolStays { pool, vetoes } => write!(f, "{pool} stays: {vetoes:?}"),
            Self::WantRead { request } => write!(f, "request {request} for pools read by RDMA"),
            Self::Holding { to } => write!(f, "holding commands, handing off to {to}"),
            Self::Held => f.write_str("held, drained, flushed"),
            Self::CommitSent { generation } => write!(f, "COMMIT of generation {generation} sent"),
            Self::CommitStands { generation, written, of } => {
                write!(f, "COMMIT of generation {generation} recorded on {written} of {of} lock disks")
            }
            Self::Announced { generation } => write!(f, "commit of generation {generation} announced"),
            Self::AnnouncementRead { generation } => write!(f, "commit of generation {generation} read by RDMA"),
            Self::CommitRead { generation } => write!(f, "COMMIT of generation {generation} read from the lock disks"),
            Self::CommitAborted => f.write_str("COMMIT did not stand, ABORT recorded"),
            Self::Resumed => f.write_str("resumed"),
            Self::HandedBack { generation } => {
                write!(f, "cannot be served here: recorded as the partner's with generation {generation}")
            }
            Self::PortalsListening { identity } => write!(f, "portals of {identity} listening"),
            Self::ServiceClosed { identity } => write!(f, "service for {identity} closed"),
            Self::LegDropped { pool, generation } => write!(f, "{pool}: leg recorded bad with generation {generation}"),
            Self::LegsLeftOut { pool } => write!(f, "{pool}: claimed without the legs that give no answer"),
            Self::PowerLossReported => f.write_str("partner reported to have lost its power"),
            Self::PowerLossRefuted(SignOfLife::Page) => f.write_str("report refuted: the partner's page moves"),
            Self::PowerLossRefuted(SignOfLife::Heartbeat) => f.write_str("report refuted: the partner's heart beats"),
            Self::Restarting(reason) => write!(f, "restarting: {reason:?}"),
            Self::RequestJudged { request, vetoes, pause } => {
                write!(f, "dry run {request} of a takeover judged: vetoes {vetoes:?}, pause {} us", pause.0)
            }
            Self::GivebackDelayed { by } => write!(f, "giveback delayed by {} ms, as configured", by.0 / 1_000),
            Self::TakeoverWithheld(why) => {
                write!(f, "partner has ended ({why:?}) and is not taken over, as configured")
            }
        }
    }
}
