//! What the lock disks say together.
//!
//! Pure judgement over one reading of all lock disks: which entry of a pool stands on a majority, whether a majority carries a key.
//! Not here: what a node does about it. The one idea: a majority is always counted over *all* lock disks of the pair; one that did not
//! answer counts for nothing, and might hold anything.

use std::collections::BTreeMap;

use crate::key::ReservationKey;
use crate::record::{Heartbeat, PoolEntry, Record, RecordSlots};
use crate::words::{Generation, NodeId, PairId, PoolId};

/// One lock disk as it was read.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct LockDiskView {
    /// Both slots of each node's area, by node index.
    pub records: [RecordSlots; 2],
    /// Heartbeat of each node, by node index.
    pub heartbeats: [Option<Heartbeat>; 2],
    /// READ KEYS.
    pub keys: Vec<ReservationKey>,
}

impl LockDiskView {
    /// Every whole record of both areas.
    pub fn records(&self) -> impl Iterator<Item = &Record> {
        self.records.iter().flatten().flatten()
    }
}

/// One reading of all lock disks; `None` for one that did not answer.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Survey {
    /// In the pair's fixed order.
    pub disks: Vec<Option<LockDiskView>>,
}

/// What the records say about one pool.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Standing {
    /// This entry stands, identical, on a majority, and nothing newer can.
    Known(PoolEntry),
    /// A newer entry may stand, depending on lock disks that did not answer.
    Unsettled {
        /// Every entry that may be the truth, newest first.
        candidates: Vec<PoolEntry>,
    },
    /// Too few lock disks answered, or no majority says the same: nobody may act.
    Unknown,
}

impl Standing {
    /// The entry, if it is known.
    #[must_use]
    pub fn known(&self) -> Option<&PoolEntry> {
        match self {
            Self::Known(entry) => Some(entry),
            Self::Unsettled { .. } | Self::Unknown => None,
        }
    }

    /// What a node that has won the lock disks may build on: the newest candidate, with only those legs that are good in every
    /// candidate, because a leg that may have been dropped may miss acknowledged writes.
    #[must_use]
    pub fn winner_basis(&self) -> Option<PoolEntry> {
        match self {
            Self::Known(entry) => Some(entry.clone()),
            Self::Unknown => None,
            Self::Unsettled { candidates } => {
                let mut basis = candidates.first()?.clone();
                for other in &candidates[1..] {
                    basis.metadata_version = basis.metadata_version.min(other.metadata_version);
                    for (legs, others) in basis.legs.iter_mut().zip(&other.legs) {
                        *legs = legs.and(*others);
                    }
                }
                Some(basis)
            }
        }
    }
}

/// How the keys on the lock disks stand for one node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum KeyMajority {
    /// Its key stands on a majority.
    Held,
    /// It is gone from a majority.
    Lost,
    /// Too few lock disks answered to say.
    Unknown,
}

/// How a contest ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Contest {
    /// Won on a majority.
    Won {
        /// Lock disks won.
        won: usize,
    },
    /// Own key was removed from at least one lock disk while the partner's stands there.
    Lost,
    /// The partner's key changed: it restarted.
    PartnerChanged,
    /// Neither: try again.
    Undecided,
}

/// The next move on one lock disk in a contest; the driver asks again after each READ KEYS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ContestMove {
    /// Register the own key (REGISTER AND IGNORE EXISTING KEY), then READ KEYS again.
    Register,
    /// PREEMPT AND ABORT this key with the own one, type 5, then READ KEYS again whatever the answer was.
    PreemptAndAbort(ReservationKey),
    /// Nothing more to do on this disk: go on with the next one.
    Next,
    /// Lost, or the partner's key changed: the contest is over, leave the remaining disks alone.
    Stop,
}

/// The next move on a lock disk whose keys are `keys`. A newcomer whose own key vanished after it had registered in this contest must
/// be asked for with [`crate::effect::Entry::Registered`] from then on.
#[must_use]
pub fn contest_move(
    keys: &[ReservationKey],
    own: ReservationKey,
    victim: Option<ReservationKey>,
    entry: crate::effect::Entry,
) -> ContestMove {
    let Some(parts) = own.parts() else { return ContestMove::Stop };
    let partner = keys.iter().copied().find(|key| key.is_of(parts.pair, parts.node.partner()));
    match (keys.contains(&own), partner, entry) {
        (false, _, crate::effect::Entry::Newcomer) => ContestMove::Register,
        (false, _, crate::effect::Entry::Registered) => ContestMove::Stop,
        (true, None, _) => ContestMove::Next,
        (true, Some(partner), _) if victim.is_none_or(|victim| victim == partner) => {
            ContestMove::PreemptAndAbort(partner)
        }
        (true, Some(_), _) => ContestMove::Stop,
    }
}

/// How a contest ended, from the keys that stood on each lock disk after it.
#[must_use]
pub fn judge_contest(
    disks: &[Option<Vec<ReservationKey>>],
    own: ReservationKey,
    victim: Option<ReservationKey>,
) -> Contest {
    let Some(parts) = own.parts() else { return Contest::Undecided };
    let (mut won, mut lost, mut changed) = (0, 0, 0);
    for keys in disks.iter().flatten() {
        let partner = keys.iter().find(|key| key.is_of(parts.pair, parts.node.partner()));
        match (keys.contains(&own), partner) {
            (true, None) => won += 1,
            (true, Some(partner)) if victim.is_some_and(|victim| victim != *partner) => changed += 1,
            (true, Some(_)) => {}
            (false, Some(_)) => lost += 1,
            // Nobody's key: the disk lost its registrations (replaced, or no APTPL). It counts for nobody.
            (false, None) => {}
        }
    }
    if won > disks.len() / 2 {
        Contest::Won { won }
    } else if lost > 0 {
        Contest::Lost
    } else if changed > 0 {
        Contest::PartnerChanged
    } else {
        Contest::Undecided
    }
}

impl Survey {
    /// How many lock disks are a majority of all.
    #[must_use]
    pub fn majority(&self) -> usize {
        self.disks.len() / 2 + 1
    }

    /// Whether a majority of the lock disks answered.
    #[must_use]
    pub fn is_readable(&self) -> bool {
        self.disks.iter().flatten().count() >= self.majority()
    }

    /// What the records say about a pool.
    #[must_use]
    pub fn standing(&self, pool: PoolId) -> Standing {
        let silent = self.disks.iter().filter(|disk| disk.is_none()).count();
        let mut candidates: Vec<(PoolEntry, usize)> = Vec::new();
        for disk in self.disks.iter().flatten() {
            let mut here: Vec<&PoolEntry> = disk.records().filter_map(|record| record.entry(pool)).collect();
            // Both areas and both slots of one disk may hold the same entry, as a copy: it counts once a disk.
            here.sort();
            here.dedup();
            for entry in here {
                match candidates.iter_mut().find(|(candidate, _)| candidate == entry) {
                    Some((_, count)) => *count += 1,
                    None => candidates.push((entry.clone(), 1)),
                }
            }
        }
        candidates.retain(|(_, count)| count + silent >= self.majority());
        candidates.sort_by(|(one, _), (other, _)| (other.generation, other).cmp(&(one.generation, one)));
        if !self.is_readable() || candidates.is_empty() {
            return Standing::Unknown;
        }
        // Whatever stands, stands on a lock disk that answered, because a majority did: the truth is among the candidates, and nothing
        // older than the first certain one can be it.
        let certain = candidates.iter().position(|(_, count)| *count >= self.majority());
        if let Some(certain) = certain {
            candidates.truncate(certain + 1);
        }
        let mut entries: Vec<PoolEntry> = candidates.into_iter().map(|(entry, _)| entry).collect();
        match certain {
            Some(0) => Standing::Known(entries.swap_remove(0)),
            Some(_) | None => Standing::Unsettled { candidates: entries },
        }
    }

    /// The highest generation any record of any lock disk names, of any pool.
    #[must_use]
    pub fn highest_generation(&self) -> Generation {
        let records = self.disks.iter().flatten().flat_map(LockDiskView::records);
        records.flat_map(|record| &record.pools).map(|entry| entry.generation).max().unwrap_or(Generation(0))
    }

    /// The highest sequence number in a node's areas.
    #[must_use]
    pub fn highest_sequence(&self, node: NodeId) -> u64 {
        self.sequences(node).into_keys().max().unwrap_or(0)
    }

    /// The sequence number of a node's last record that stands on a majority. Its slot is the one not to be written to.
    #[must_use]
    pub fn standing_sequence(&self, node: NodeId) -> Option<u64> {
        let sequences = self.sequences(node);
        sequences.into_iter().rev().find(|(_, count)| *count >= self.majority()).map(|(sequence, _)| sequence)
    }

    /// A node's newest record, if it stands on too few of the lock disks that answered to be sure of it, and on enough to be possible.
    /// Its writer's next run must not write over it before it stands: what it says may have been acted on.
    #[must_use]
    pub fn unsettled_record(&self, node: NodeId) -> Option<&Record> {
        let silent = self.disks.iter().filter(|disk| disk.is_none()).count();
        let records = self.disks.iter().flatten().flat_map(|disk| disk.records[node.index()].iter().flatten());
        let newest = records.max_by_key(|record| record.sequence)?;
        let count = self.sequences(node).get(&newest.sequence).copied().unwrap_or(0);
        (count < self.majority() && count + silent >= self.majority()).then_some(newest)
    }

    fn sequences(&self, node: NodeId) -> BTreeMap<u64, usize> {
        let mut counts = BTreeMap::new();
        for record in self.disks.iter().flatten().flat_map(|disk| disk.records[node.index()].iter().flatten()) {
            *counts.entry(record.sequence).or_insert(0) += 1;
        }
        counts
    }

    /// Whether `writer` claims the pool for itself anywhere, even on a minority, with this generation or a higher one.
    #[must_use]
    pub fn is_claimed_by(&self, writer: NodeId, pool: PoolId, from: Generation) -> bool {
        let records = self.disks.iter().flatten().flat_map(|disk| disk.records[writer.index()].iter().flatten());
        records.filter_map(|record| record.entry(pool)).any(|entry| entry.owner == writer && entry.generation >= from)
    }

    /// On how many lock disks exactly this entry stands in the area of `writer`.
    #[must_use]
    pub fn count_of(&self, writer: NodeId, entry: &PoolEntry) -> usize {
        let has = |disk: &&LockDiskView| {
            let mut records = disk.records[writer.index()].iter().flatten();
            records.any(|record| record.entry(entry.pool) == Some(entry))
        };
        self.disks.iter().flatten().filter(has).count()
    }

    /// How a key stands.
    #[must_use]
    pub fn key_majority(&self, key: ReservationKey) -> KeyMajority {
        let (mut held, mut gone) = (0, 0);
        for disk in self.disks.iter().flatten() {
            if disk.keys.contains(&key) { held += 1 } else { gone += 1 }
        }
        if held >= self.majority() {
            KeyMajority::Held
        } else if gone >= self.majority() {
            KeyMajority::Lost
        } else {
            KeyMajority::Unknown
        }
    }

    /// On how many lock disks a key of `node` stands, of whatever incarnation.
    #[must_use]
    pub fn keys_of(&self, pair: PairId, node: NodeId) -> usize {
        self.disks.iter().flatten().filter(|disk| disk.keys.iter().any(|key| key.is_of(pair, node))).count()
    }

    /// A node's heartbeat on each lock disk.
    #[must_use]
    pub fn heartbeats(&self, node: NodeId) -> Vec<Option<Heartbeat>> {
        self.disks.iter().map(|disk| disk.as_ref().and_then(|disk| disk.heartbeats[node.index()])).collect()
    }
}
