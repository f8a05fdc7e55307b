//! Where a replay can begin: a process started with this configuration, or the machine as it was at this moment.
//!
//! Not here: steps. The one idea: whoever has a start and the facts after it needs nothing else, neither the pair's file nor the
//! segment before.

use serde::{Deserialize, Serialize};
use thiserror::Error;
use understudy_failover::config::{Config, POOLS_MAX};
use understudy_failover::machine::Machine;
use understudy_failover::words::{Incarnation, Micros};

/// Why a start was written down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Occasion {
    /// The process began.
    Process,
    /// A segment begins in the middle of a run.
    Segment,
    /// Steps had to be left out before it: the disk was too slow, or would not take them.
    LeftOut {
        /// How many.
        steps: u64,
    },
}

/// What the machine is at this place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stand {
    /// New, with this configuration.
    New(Box<Config>),
    /// This.
    Snapshot(Box<Machine>),
}

/// A start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Start {
    /// Which run.
    pub incarnation: Incarnation,
    /// When, microseconds since 1970 by the wall clock; for people only.
    pub wall_micros: u64,
    /// The same moment by the clock the machine is told the time from.
    pub now: Micros,
    /// Steps of this run before it.
    pub steps: u64,
    /// Why.
    pub occasion: Occasion,
    /// The machine.
    pub stand: Stand,
}

/// Why a start says nothing a machine can be made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum StartError {
    /// Not a pair's.
    #[error("a pair has 1 or 3 lock disks, this has {0}")]
    LockDisks(usize),
    /// Not a pair's.
    #[error("a pair has at most {POOLS_MAX} pools, this has {0}")]
    Pools(usize),
    /// Nobody's.
    #[error("it names no incarnation, or two")]
    Incarnation,
    /// A snapshot no machine can be in.
    #[error("its pools are not those of its configuration")]
    Incoherent,
}

impl Start {
    /// What the machine was told of the pair.
    #[must_use]
    pub fn config(&self) -> &Config {
        match &self.stand {
            Stand::New(config) => config,
            Stand::Snapshot(machine) => machine.config(),
        }
    }

    /// The machine at this place.
    ///
    /// # Errors
    /// [`StartError`]: the bytes are whole, and nobody's machine was ever so.
    pub fn machine(&self) -> Result<Machine, StartError> {
        let config = self.config();
        if config.lock_disks != 1 && config.lock_disks != 3 {
            return Err(StartError::LockDisks(config.lock_disks));
        }
        if config.pools.len() > POOLS_MAX {
            return Err(StartError::Pools(config.pools.len()));
        }
        if self.incarnation == Incarnation::NONE {
            return Err(StartError::Incarnation);
        }
        match &self.stand {
            Stand::New(config) => Ok(Machine::new((**config).clone(), self.incarnation)),
            Stand::Snapshot(machine) if machine.incarnation() != self.incarnation => Err(StartError::Incarnation),
            Stand::Snapshot(machine) if !has_its_pools(machine) => Err(StartError::Incoherent),
            Stand::Snapshot(machine) => Ok((**machine).clone()),
        }
    }
}

fn has_its_pools(machine: &Machine) -> bool {
    machine.config().pools.keys().all(|pool| machine.pool(*pool).is_some())
}
