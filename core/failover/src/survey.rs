//! What the lock disks say together.
//!
//! Pure judgement over one reading of all lock disks: which entry of a pool stands on a majority, whether a majority carries a key.
//! Not here: what a node does about it. The one idea: a majority is always counted over *all* lock disks of the pair; one that did not
//! answer counts for nothing, and might hold anything.

use std::collections::BTreeMap;

use crate::key::ReservationKey;
use crate::record::{Heartbeat, PoolEntry, Record, RecordSlots};
use crate::words::{Generation, Incarnation, NodeId, PairId, PoolId};

/// One lock disk as it was read.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, serde::Serialize, serde::Deserialize)]
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
#[derive(Debug, Clone, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
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
    ///
    /// `None` where nothing can be built on: nothing is known, or no leg of some mirror is good in every candidate.
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
                (!basis.legs.iter().any(|legs| legs.is_empty())).then_some(basis)
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
    let stale = keys.iter().copied().find(|key| key.is_of(parts.pair, parts.node) && *key != own);
    if let (true, Some(stale)) = (keys.contains(&own), stale) {
        // What an earlier run of this node sent must not land after this one has read.
        return ContestMove::PreemptAndAbort(stale);
    }
    match (keys.contains(&own), partner, entry) {
        (false, _, crate::effect::Entry::Newcomer) => ContestMove::Register,
        // It was out of reach when this node joined, or forgot: nobody has won it yet.
        (false, None, crate::effect::Entry::Registered) => ContestMove::Register,
        (false, Some(_), crate::effect::Entry::Registered) => ContestMove::Stop,
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
        self.sequences(node).into_keys().map(|(sequence, _)| sequence).max().unwrap_or(0)
    }

    /// The sequence number of a node's last record that stands on a majority. Its slot is the one not to be written to.
    #[must_use]
    pub fn standing_sequence(&self, node: NodeId) -> Option<u64> {
        let sequences = self.sequences(node);
        sequences.into_iter().rev().find(|(_, count)| *count >= self.majority()).map(|((sequence, _), _)| sequence)
    }

    /// A node's newest record, if it stands on too few of the lock disks that answered to be sure of it, and on enough to be possible.
    /// Its writer's next run must not write over it before it stands: what it says may have been acted on.
    #[must_use]
    pub fn unsettled_record(&self, node: NodeId) -> Option<&Record> {
        let silent = self.disks.iter().filter(|disk| disk.is_none()).count();
        let records = self.disks.iter().flatten().flat_map(|disk| disk.records[node.index()].iter().flatten());
        let newest = records.max_by_key(|record| (record.sequence, record.incarnation))?;
        let count = self.sequences(node).get(&(newest.sequence, newest.incarnation)).copied().unwrap_or(0);
        (count < self.majority() && count + silent >= self.majority()).then_some(newest)
    }

    /// On how many lock disks each record stands. Two runs that could not see each other's may have used one number.
    fn sequences(&self, node: NodeId) -> BTreeMap<(u64, Incarnation), usize> {
        let mut counts = BTreeMap::new();
        for record in self.disks.iter().flatten().flat_map(|disk| disk.records[node.index()].iter().flatten()) {
            *counts.entry((record.sequence, record.incarnation)).or_insert(0) += 1;
        }
        counts
    }

    /// Whether `writer` claims the pool for itself anywhere, even on a minority, with this generation or a higher one.
    #[must_use]
    pub fn is_claimed_by(&self, writer: NodeId, pool: PoolId, from: Generation) -> bool {
        #[cfg(feature = "mutants")]
        if crate::mutants::is_on(crate::mutants::Mutant::IgnoreOtherClaim) {
            return false;
        }
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

    /// How a contest that was won with the key `own` stands now: lost if the partner has registered since on so many lock disks that
    /// no majority is this node's alone.
    #[must_use]
    pub fn alone_majority(&self, own: ReservationKey) -> KeyMajority {
        let Some(parts) = own.parts() else { return KeyMajority::Unknown };
        let answered = self.disks.iter().flatten();
        let alone = |disk: &&LockDiskView| {
            disk.keys.contains(&own) && !disk.keys.iter().any(|key| key.is_of(parts.pair, parts.node.partner()))
        };
        let (won, silent) = (answered.filter(alone).count(), self.disks.iter().filter(|disk| disk.is_none()).count());
        if won >= self.majority() {
            KeyMajority::Held
        } else if won + silent >= self.majority() {
            KeyMajority::Unknown
        } else {
            KeyMajority::Lost
        }
    }

    /// A key of `node` on some lock disk.
    #[must_use]
    pub fn key_of(&self, pair: PairId, node: NodeId) -> Option<ReservationKey> {
        self.disks.iter().flatten().flat_map(|disk| &disk.keys).copied().find(|key| key.is_of(pair, node))
    }

    /// A node's heartbeat on each lock disk.
    #[must_use]
    pub fn heartbeats(&self, node: NodeId) -> Vec<Option<Heartbeat>> {
        self.disks.iter().map(|disk| disk.as_ref().and_then(|disk| disk.heartbeats[node.index()])).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::effect::{Entry, LegsAre};
    use crate::record::Verdict;
    use crate::words::{LegSet, MetadataVersion};

    const PAIR: PairId = PairId(3);
    const POOL: PoolId = PoolId(1);

    fn entry(owner: NodeId, generation: u32, verdict: Verdict) -> PoolEntry {
        PoolEntry {
            pool: POOL,
            owner,
            generation: Generation(generation),
            metadata_version: MetadataVersion(u64::from(generation)),
            verdict,
            legs_are: LegsAre::Equal,
            legs: vec![LegSet(3)],
        }
    }

    fn record(node: NodeId, sequence: u64, entry: PoolEntry) -> Record {
        Record { pair: PAIR, node, incarnation: Incarnation(1), sequence, pools: vec![entry] }
    }

    /// A lock disk with these records in the slots they belong to.
    fn disk(records: &[Record]) -> Option<LockDiskView> {
        let mut view = LockDiskView::default();
        for record in records {
            view.records[record.node.index()][record.slot()] = Some(record.clone());
        }
        Some(view)
    }

    fn survey(disks: Vec<Option<LockDiskView>>) -> Survey {
        Survey { disks }
    }

    fn a_owned(generation: u32) -> Record {
        record(NodeId::A, u64::from(generation), entry(NodeId::A, generation, Verdict::Owned))
    }

    #[test]
    fn entry_on_all_three_or_on_two_is_known() {
        let known = Standing::Known(entry(NodeId::A, 4, Verdict::Owned));
        assert_eq!(survey(vec![disk(&[a_owned(4)]); 3]).standing(POOL), known);
        assert_eq!(survey(vec![disk(&[a_owned(4)]), disk(&[a_owned(4)]), disk(&[])]).standing(POOL), known);
        assert_eq!(survey(vec![disk(&[a_owned(4)]), None, disk(&[a_owned(4)])]).standing(POOL), known);
        assert_eq!(survey(vec![disk(&[a_owned(4)])]).standing(POOL), known);
    }

    #[test]
    fn minority_answering_is_unknown_whatever_it_says() {
        assert_eq!(survey(vec![disk(&[a_owned(4)]), None, None]).standing(POOL), Standing::Unknown);
        assert_eq!(survey(vec![None]).standing(POOL), Standing::Unknown);
        assert_eq!(survey(vec![disk(&[]), disk(&[]), disk(&[])]).standing(POOL), Standing::Unknown);
    }

    #[test]
    fn commit_on_a_minority_with_everyone_answering_did_not_happen() {
        let commit = record(NodeId::A, 5, entry(NodeId::B, 5, Verdict::Commit));
        let disks = vec![disk(&[a_owned(4), commit]), disk(&[a_owned(4)]), disk(&[a_owned(4)])];
        assert_eq!(survey(disks).standing(POOL), Standing::Known(entry(NodeId::A, 4, Verdict::Owned)));
    }

    #[test]
    fn commit_on_a_minority_with_one_disk_silent_is_unsettled() {
        let commit = record(NodeId::A, 5, entry(NodeId::B, 5, Verdict::Commit));
        let disks = vec![disk(&[a_owned(4), commit]), disk(&[a_owned(4)]), None];
        let candidates = vec![entry(NodeId::B, 5, Verdict::Commit), entry(NodeId::A, 4, Verdict::Owned)];
        assert_eq!(survey(disks).standing(POOL), Standing::Unsettled { candidates });
    }

    #[test]
    fn commit_on_a_majority_stands_over_the_entry_before_it() {
        let commit = record(NodeId::A, 5, entry(NodeId::B, 5, Verdict::Commit));
        let disks = vec![disk(&[a_owned(4), commit.clone()]), disk(&[a_owned(4), commit]), None];
        assert_eq!(survey(disks).standing(POOL), Standing::Known(entry(NodeId::B, 5, Verdict::Commit)));
    }

    #[test]
    fn abort_on_a_majority_stands_over_a_commit_on_a_majority() {
        let commit = record(NodeId::A, 5, entry(NodeId::B, 5, Verdict::Commit));
        let abort = record(NodeId::A, 6, entry(NodeId::A, 6, Verdict::Abort));
        let disks = vec![disk(&[commit.clone(), abort.clone()]), disk(&[commit.clone(), abort]), disk(&[commit])];
        assert_eq!(survey(disks).standing(POOL), Standing::Known(entry(NodeId::A, 6, Verdict::Abort)));
    }

    #[test]
    fn second_record_half_written_leaves_the_first_standing() {
        // Generation 4 stands on disks 1 and 2; 5 reached only disk 1, and its writer died. Only with both slots 4 is found.
        let disks = vec![disk(&[a_owned(3), a_owned(4)]), disk(&[a_owned(4), a_owned(5)]), disk(&[a_owned(3)])];
        assert_eq!(survey(disks).standing(POOL), Standing::Known(entry(NodeId::A, 4, Verdict::Owned)));
    }

    #[test]
    fn two_answers_that_differ_leave_the_truth_among_them() {
        let other = record(NodeId::B, 5, entry(NodeId::B, 5, Verdict::Owned));
        let disks = vec![disk(&[a_owned(4)]), disk(&[other]), None];
        let candidates = vec![entry(NodeId::B, 5, Verdict::Owned), entry(NodeId::A, 4, Verdict::Owned)];
        assert_eq!(survey(disks).standing(POOL), Standing::Unsettled { candidates });
    }

    #[test]
    fn two_claims_of_one_generation_are_judged_alike_by_everyone() {
        let other = record(NodeId::B, 4, entry(NodeId::B, 4, Verdict::Owned));
        let both = disk(&[a_owned(4), other]);
        let standing = survey(vec![both.clone(), both.clone(), both]).standing(POOL);
        assert_eq!(standing, Standing::Known(entry(NodeId::B, 4, Verdict::Owned)));
    }

    #[test]
    fn copy_in_the_other_area_counts_once_a_disk() {
        let copy = record(NodeId::B, 9, entry(NodeId::A, 4, Verdict::Owned));
        let disks = vec![disk(&[a_owned(4), copy]), disk(&[]), disk(&[])];
        assert_eq!(survey(disks).standing(POOL), Standing::Unknown);
    }

    #[test]
    fn winner_builds_on_the_newest_candidate_with_the_legs_good_in_all() {
        let mut dropped = entry(NodeId::A, 5, Verdict::Owned);
        dropped.legs = vec![LegSet(1)];
        let disks = vec![disk(&[a_owned(4), record(NodeId::A, 5, dropped.clone())]), disk(&[a_owned(4)]), None];
        let basis = survey(disks).standing(POOL).winner_basis().expect("candidates");
        assert_eq!((basis.generation, basis.legs), (Generation(5), vec![LegSet(1)]));
        assert_eq!(basis.metadata_version, MetadataVersion(4), "the disks may have any version from the older one on");
        assert_eq!(Standing::Unknown.winner_basis(), None);
    }

    #[test]
    fn own_record_that_may_stand_is_named_and_one_that_cannot_is_not() {
        let disks = vec![disk(&[a_owned(4), a_owned(5)]), disk(&[a_owned(4)]), None];
        assert_eq!(survey(disks).unsettled_record(NodeId::A), Some(&a_owned(5)));
        let disks = vec![disk(&[a_owned(4), a_owned(5)]), disk(&[a_owned(4)]), disk(&[a_owned(4)])];
        let survey = survey(disks);
        assert_eq!(survey.unsettled_record(NodeId::A), None);
        assert_eq!(survey.standing_sequence(NodeId::A), Some(4));
        assert_eq!(survey.highest_sequence(NodeId::A), 5);
        assert_eq!(survey.standing_sequence(NodeId::B), None);
    }

    #[test]
    fn claim_on_a_minority_is_a_claim_and_a_commit_is_none() {
        let claim = record(NodeId::B, 5, entry(NodeId::B, 5, Verdict::Owned));
        let commit = record(NodeId::B, 5, entry(NodeId::A, 5, Verdict::Commit));
        let of = |record| survey(vec![disk(&[record]), disk(&[]), disk(&[])]);
        assert!(of(claim.clone()).is_claimed_by(NodeId::B, POOL, Generation(5)));
        assert!(!of(claim).is_claimed_by(NodeId::B, POOL, Generation(6)));
        assert!(!of(commit).is_claimed_by(NodeId::B, POOL, Generation(5)));
    }

    fn key(node: NodeId, incarnation: u64) -> ReservationKey {
        ReservationKey::on_lock_disk(PAIR, node, Incarnation(incarnation))
    }

    fn with_keys(keys: &[Option<&[ReservationKey]>]) -> Survey {
        let disk = |keys: &[ReservationKey]| LockDiskView { keys: keys.to_vec(), ..LockDiskView::default() };
        survey(keys.iter().map(|keys| keys.map(disk)).collect())
    }

    #[test]
    fn key_majority_counts_over_all_lock_disks() {
        let (a, b) = (key(NodeId::A, 1), key(NodeId::B, 1));
        let both: &[ReservationKey] = &[a, b];
        let only_b: &[ReservationKey] = &[b];
        assert_eq!(with_keys(&[Some(both), Some(both), Some(only_b)]).key_majority(a), KeyMajority::Held);
        assert_eq!(with_keys(&[Some(both), Some(only_b), Some(only_b)]).key_majority(a), KeyMajority::Lost);
        assert_eq!(with_keys(&[Some(both), Some(only_b), None]).key_majority(a), KeyMajority::Unknown);
        assert_eq!(with_keys(&[Some(both), None, None]).key_majority(a), KeyMajority::Unknown);
        assert_eq!(with_keys(&[Some(&[]), Some(&[]), None]).key_majority(a), KeyMajority::Lost);
        assert_eq!(with_keys(&[Some(both)]).key_majority(a), KeyMajority::Held);
        assert_eq!(with_keys(&[None]).key_majority(a), KeyMajority::Unknown);
        assert_eq!(with_keys(&[Some(&[key(NodeId::A, 2)])]).key_majority(a), KeyMajority::Lost, "another run's key");
    }

    #[test]
    fn contest_is_won_by_own_key_without_the_partners_on_a_majority() {
        let (a, b) = (key(NodeId::A, 1), key(NodeId::B, 1));
        let judge = |disks: &[Option<Vec<ReservationKey>>]| judge_contest(disks, a, Some(b));
        assert_eq!(judge(&[Some(vec![a]), Some(vec![a]), None]), Contest::Won { won: 2 });
        assert_eq!(judge(&[Some(vec![a]), Some(vec![a, b]), Some(vec![a])]), Contest::Won { won: 2 });
        assert_eq!(judge(&[Some(vec![a]), Some(vec![a, b]), None]), Contest::Undecided);
        assert_eq!(judge(&[Some(vec![b]), None, None]), Contest::Lost);
        assert_eq!(judge(&[Some(vec![a]), Some(vec![b]), None]), Contest::Lost);
        assert_eq!(
            judge(&[Some(vec![]), Some(vec![]), Some(vec![])]),
            Contest::Undecided,
            "a disk that forgot counts for nobody"
        );
        assert_eq!(judge(&[Some(vec![a, key(NodeId::B, 2)]), None, None]), Contest::PartnerChanged);
        assert_eq!(judge_contest(&[Some(vec![a])], a, None), Contest::Won { won: 1 });
        assert_eq!(judge_contest(&[None], a, None), Contest::Undecided);
    }

    #[test]
    fn what_an_earlier_run_registered_is_preempted_before_a_lock_disk_counts() {
        let (own, stale) = (key(NodeId::A, 2), key(NodeId::A, 1));
        assert_eq!(contest_move(&[own, stale], own, None, Entry::Registered), ContestMove::PreemptAndAbort(stale));
        assert_eq!(contest_move(&[stale], own, None, Entry::Newcomer), ContestMove::Register);
    }

    #[test]
    fn contest_stays_won_until_the_partner_registers_again() {
        let (a, b) = (key(NodeId::A, 1), key(NodeId::B, 2));
        let (mine, both): (&[_], &[_]) = (&[a], &[a, b]);
        assert_eq!(with_keys(&[Some(mine)]).alone_majority(a), KeyMajority::Held);
        assert_eq!(with_keys(&[Some(both)]).alone_majority(a), KeyMajority::Lost);
        assert_eq!(with_keys(&[Some(mine), Some(both), Some(mine)]).alone_majority(a), KeyMajority::Held);
        assert_eq!(with_keys(&[Some(mine), Some(both), None]).alone_majority(a), KeyMajority::Unknown);
        assert_eq!(with_keys(&[Some(mine), Some(both), Some(both)]).alone_majority(a), KeyMajority::Lost);
        assert_eq!(with_keys(&[Some(both)]).key_of(PAIR, NodeId::B), Some(b));
    }

    #[test]
    fn two_runs_that_used_one_number_do_not_make_a_majority_together() {
        let again = Record { incarnation: Incarnation(2), ..a_owned(5) };
        let disks = vec![disk(&[a_owned(4), a_owned(5)]), disk(&[a_owned(4), again.clone()]), None];
        let survey = survey(disks);
        assert_eq!(survey.standing_sequence(NodeId::A), Some(4));
        assert_eq!(survey.unsettled_record(NodeId::A), Some(&again));
    }

    #[test]
    fn loser_does_not_register_again_and_a_newcomer_does_once() {
        let (a, b) = (key(NodeId::A, 1), key(NodeId::B, 1));
        assert_eq!(contest_move(&[b], a, Some(b), Entry::Registered), ContestMove::Stop);
        assert_eq!(contest_move(&[b], a, Some(b), Entry::Newcomer), ContestMove::Register);
        assert_eq!(contest_move(&[a, b], a, Some(b), Entry::Registered), ContestMove::PreemptAndAbort(b));
        assert_eq!(contest_move(&[a], a, Some(b), Entry::Registered), ContestMove::Next);
        assert_eq!(contest_move(&[a, key(NodeId::B, 2)], a, Some(b), Entry::Registered), ContestMove::Stop);
        assert_eq!(contest_move(&[a, b], a, None, Entry::Newcomer), ContestMove::PreemptAndAbort(b));
        let foreign = ReservationKey::on_lock_disk(PairId(4), NodeId::B, Incarnation(1));
        assert_eq!(contest_move(&[a, foreign], a, None, Entry::Registered), ContestMove::Next, "not this pair's");
    }
}
