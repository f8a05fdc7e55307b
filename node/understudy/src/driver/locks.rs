//! The lock disks: surveys, records, heartbeats, registrations, contests.
//!
//! Everything here carries out an order on every lock disk and reports what each of them said. What a majority is, and
//! what follows, the failover machine decides; the moves of a contest come from [`contest_move`].

use std::cell::Cell;
use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{join, join_all};
use understudy_disk::disk::{Disk, DiskError, Durability, Extent, Geometry, Link};
use understudy_disk::reservation::{Key, ReservationType, Reservations};
use understudy_failover::effect::Entry;
use understudy_failover::input::{JoinOutcome, WriteOutcome};
use understudy_failover::key::ReservationKey;
use understudy_failover::record::{Heartbeat, Record, RecordSlots};
use understudy_failover::survey::{ContestMove, KeyMajority, LockDiskView, Survey, contest_move};
use understudy_failover::words::{Incarnation, NodeId, PairId};
use understudy_layout::lock::{LockPlaces, RecordSlot};
use understudy_layout::{DiskShape, PAGE_BYTES, Span};

#[cfg(feature = "mistakes")]
use super::mistakes::{Mistake, is_made};

/// The type a lock disk is reserved with: both serving nodes are registered and write, everyone reads.
const LOCK_TYPE: ReservationType = ReservationType::WriteExclusiveRegistrantsOnly;

/// Moves on one lock disk in one contest. BOUND: register, one preempt a key and a look after each; a disk that needs more is answering
/// nonsense.
const CONTEST_MOVES: usize = 24;

/// The lock disks of the pair as this node reaches them.
pub struct LockDisks {
    disks: Vec<Rc<dyn Disk>>,
    pair: PairId,
    node: NodeId,
    incarnation: Incarnation,
    /// A lock disk that takes longer counts as silent in this survey or contest.
    patience: Duration,
    beats: Cell<u64>,
    /// Bytes of a record slot that a survey reads: those of the longest record seen.
    record_room: Cell<usize>,
}

impl LockDisks {
    /// The lock disks in the pair's fixed order.
    #[must_use]
    pub fn new(
        disks: Vec<Rc<dyn Disk>>,
        pair: PairId,
        node: NodeId,
        incarnation: Incarnation,
        patience: Duration,
    ) -> Self {
        let record_room = Cell::new(Record::LEAST_ROOM);
        Self { disks, pair, node, incarnation, patience, beats: Cell::new(0), record_room }
    }

    /// The disks, for the status page.
    #[must_use]
    pub fn disks(&self) -> &[Rc<dyn Disk>] {
        &self.disks
    }

    fn own_key(&self) -> ReservationKey {
        ReservationKey::on_lock_disk(self.pair, self.node, self.incarnation)
    }

    /// Reads every lock disk: both areas and READ KEYS.
    pub async fn survey(&self) -> Survey {
        let disks = join_all(self.disks.iter().map(|disk| self.within_patience(self.look_at(disk.as_ref())))).await;
        Survey { disks }
    }

    /// READ KEYS of every lock disk, and what that says of this node's own: while it is held, nobody has won them against it.
    pub async fn own_key_majority(&self) -> KeyMajority {
        let keys = self.disks.iter().map(|disk| self.within_patience(keys_of(disk.as_ref())));
        let views =
            join_all(keys).await.into_iter().map(|keys| Some(LockDiskView { keys: keys?, ..LockDiskView::default() }));
        Survey { disks: views.collect() }.key_majority(self.own_key())
    }

    async fn within_patience<T>(&self, work: impl Future<Output = Option<T>>) -> Option<T> {
        tokio::time::timeout(self.patience, work).await.ok().flatten()
    }

    async fn look_at(&self, disk: &dyn Disk) -> Option<LockDiskView> {
        let epoch = disk.link();
        let (keys, records) = tokio::join!(keys_of(disk), self.areas_of(disk));
        let (mut keys, (records, heartbeats)) = (keys?, records?);
        let own = self.own_key();
        if keys.contains(&own) && !disk.is_trusted() {
            // A new session: what the key was registered in is gone, and with some targets the registration with it.
            if disk.reservations()?.keep_registered(Key(own.0)).await.ok()? {
                trust_if_unchanged(disk, epoch);
            } else {
                keys.retain(|key| *key != own);
            }
        }
        Some(LockDiskView { records, heartbeats, keys })
    }

    async fn areas_of(&self, disk: &dyn Disk) -> Option<([RecordSlots; 2], [Option<Heartbeat>; 2])> {
        let geometry = geometry_of(disk).await?;
        let places = places_of(geometry)?;
        let [a, b] = NodeId::BOTH.map(|node| self.area_of(disk, geometry, places, node));
        let (a, b) = tokio::join!(a, b);
        let ((record_a, beat_a), (record_b, beat_b)) = (a?, b?);
        Some(([record_a, record_b], [beat_a, beat_b]))
    }

    /// What stands in a node's area. Of each slot as much is read as records had so far, and more where one says that it is longer: most
    /// of a slot is empty, and this is read twice in every pause and at every heartbeat.
    async fn area_of(
        &self,
        disk: &dyn Disk,
        geometry: Geometry,
        places: LockPlaces,
        node: NodeId,
    ) -> Option<(RecordSlots, Option<Heartbeat>)> {
        let area = node_area(node);
        loop {
            let room = self.record_room.get();
            // The even slot follows the heartbeat.
            let first = leading_extent(geometry, places.node_area(area), PAGE_BYTES + room)?;
            let second = leading_extent(geometry, places.record(area, RecordSlot::Odd), room)?;
            let (first, odd) = tokio::join!(disk.read(first), disk.read(second));
            let (first, odd) = (first.ok()?, odd.ok()?);
            let (beat, even) = first.split_at(PAGE_BYTES.min(first.len()));
            let needed = Record::room_of(even).max(Record::room_of(&odd));
            if needed <= room {
                let records = Record::slots_of([even, &odd], self.pair, node);
                return Some((records, Heartbeat::decode(beat, self.pair, node).ok()));
            }
            // BOUND: it grows with every turn, and ends at a whole slot.
            self.record_room.set(needed.max(self.record_room.get()));
        }
    }

    /// Writes the record to every lock disk; it counts where it is on the medium and was read again from its place.
    pub async fn write_record(&self, record: &Record) -> Vec<WriteOutcome> {
        let bytes = Bytes::from(record.encode());
        let (node, slot) = (node_area(record.node), RecordSlot::of_sequence(record.sequence));
        let write = |disk: Rc<dyn Disk>| {
            let bytes = bytes.clone();
            async move {
                let Ok(geometry) = disk.geometry() else { return WriteOutcome::Failed };
                let Some(places) = places_of(geometry) else { return WriteOutcome::Failed };
                let Some(extent) = leading_extent(geometry, places.record(node, slot), bytes.len()) else {
                    return WriteOutcome::Failed;
                };
                write_and_read_back(disk.as_ref(), extent, bytes).await
            }
        };
        join_all(self.disks.iter().cloned().map(write)).await
    }

    /// Beats once on every lock disk; returns on how many.
    pub async fn beat(&self) -> usize {
        self.beats.set(self.beats.get() + 1);
        let beat = Heartbeat { incarnation: self.incarnation, counter: self.beats.get() };
        let page = beat.encode(self.pair, self.node);
        let write = |disk: Rc<dyn Disk>| async move {
            let geometry = disk.geometry().ok()?;
            let places = places_of(geometry)?;
            let block = (geometry.block_bytes as usize).max(page.len());
            let mut bytes = vec![0; block];
            bytes[..page.len()].copy_from_slice(&page);
            let extent = leading_extent(geometry, places.heartbeat(node_area(self.node)), block)?;
            disk.write(extent, Bytes::from(bytes), Durability::Cached).await.ok()
        };
        let beats = self.disks.iter().cloned().map(|disk| self.within_patience(write(disk)));
        join_all(beats).await.into_iter().flatten().count()
    }

    /// Registers the own key on every lock disk and removes older keys of this node.
    pub async fn join(&self, key: ReservationKey, which: &BTreeSet<usize>) -> Vec<JoinOutcome> {
        let joins = self.disks.iter().enumerate().map(|(at, disk)| async move {
            if which.contains(&at) { self.within_patience(self.join_one(disk.as_ref(), key)).await } else { None }
        });
        let joined = join_all(joins).await.into_iter();
        joined.map(|done| done.map_or(JoinOutcome::Unreachable, |()| JoinOutcome::Joined)).collect()
    }

    async fn join_one(&self, disk: &dyn Disk, own: ReservationKey) -> Option<()> {
        geometry_of(disk).await?;
        let epoch = disk.link();
        let reservations = disk.reservations()?;
        reservations.register(Key(own.0)).await.ok()?;
        let older = |key: &ReservationKey| *key != own && key.is_of(self.pair, self.node);
        // BOUND: as many as were registered; each is removed once.
        for stale in keys_of(disk).await?.into_iter().filter(older) {
            reservations.preempt_and_abort(Key(own.0), Key(stale.0), LOCK_TYPE).await.ok()?;
        }
        reserve_if_free(reservations, own).await?;
        let keys = keys_of(disk).await?;
        if !keys.contains(&own) || keys.iter().any(older) {
            return None;
        }
        trust_if_unchanged(disk, epoch);
        Some(())
    }

    /// Contests every lock disk in order; stops at the first one that is lost. The answer is what READ KEYS said last on
    /// each disk.
    pub async fn contest(
        &self,
        key: ReservationKey,
        entry: Entry,
        victim: Option<ReservationKey>,
    ) -> Vec<Option<Vec<ReservationKey>>> {
        let mut found = vec![None; self.disks.len()];
        for (disk, found) in self.disks.iter().zip(&mut found) {
            let ended = self.within_patience(contest_one(disk.as_ref(), key, entry, victim)).await;
            let Some((keys, end)) = ended else { continue };
            *found = Some(keys);
            if end == ContestMove::Stop {
                break;
            }
        }
        found
    }
}

async fn contest_one(
    disk: &dyn Disk,
    own: ReservationKey,
    mut entry: Entry,
    victim: Option<ReservationKey>,
) -> Option<(Vec<ReservationKey>, ContestMove)> {
    geometry_of(disk).await?;
    let reservations = disk.reservations()?;
    let epoch = disk.link();
    for _ in 0..CONTEST_MOVES {
        let keys = keys_of(disk).await?;
        match contest_move(&keys, own, victim, entry) {
            // Whatever these answer, the keys read next tell.
            ContestMove::Register => {
                let _ = reservations.register(Key(own.0)).await;
                entry = Entry::Registered;
            }
            ContestMove::PreemptAndAbort(partner) => {
                let _ = reservations.preempt_and_abort(Key(own.0), Key(partner.0), LOCK_TYPE).await;
            }
            ContestMove::Next => {
                reserve_if_free(reservations, own).await?;
                trust_if_unchanged(disk, epoch);
                return Some((keys, ContestMove::Next));
            }
            ContestMove::Stop => return Some((keys, ContestMove::Stop)),
        }
    }
    None
}

async fn reserve_if_free(reservations: &dyn Reservations, own: ReservationKey) -> Option<()> {
    match reservations.read_reservation().await.ok()? {
        Some(_) => Some(()),
        // A conflict means that the partner reserved it in between, with the same type.
        None => match reservations.reserve(Key(own.0), LOCK_TYPE).await {
            Ok(()) | Err(DiskError::Conflict) => Some(()),
            Err(_) => None,
        },
    }
}

async fn keys_of(disk: &dyn Disk) -> Option<Vec<ReservationKey>> {
    let keys = disk.reservations()?.read_keys().await.ok()?;
    let mut keys: Vec<_> = keys.keys.into_iter().map(|key| ReservationKey(key.0)).collect();
    // As in `standing_of`.
    keys.dedup();
    Some(keys)
}

/// The writes that follow go out only while the session is the one in which the own key was seen.
fn trust_if_unchanged(disk: &dyn Disk, before: Link) {
    if let (Link::Connected { epoch }, true) = (before, disk.link() == before) {
        disk.trust(epoch);
    }
}

async fn geometry_of(disk: &dyn Disk) -> Option<Geometry> {
    match disk.geometry() {
        Ok(geometry) => Some(geometry),
        Err(_) => disk.probe().await.ok(),
    }
}

fn places_of(geometry: Geometry) -> Option<LockPlaces> {
    LockPlaces::new(DiskShape { block_bytes: geometry.block_bytes, blocks: geometry.blocks })
}

fn node_area(node: NodeId) -> u8 {
    // PANIC: a node's index is 0 or 1.
    u8::try_from(node.index()).expect("two nodes")
}

/// The first `bytes` of a span, which must be whole blocks.
fn leading_extent(geometry: Geometry, span: Span, bytes: usize) -> Option<Extent> {
    let blocks = u32::try_from(bytes).ok()? / geometry.block_bytes;
    (blocks <= span.blocks).then(|| Extent::within(geometry, span.lba, blocks)).flatten()
}

/// A disk may acknowledge a write that it put elsewhere: what cannot be read again from its place may be anywhere. The reading is sent right behind
/// the write, and once more after its answer where that came too early to show it.
async fn write_and_read_back(disk: &dyn Disk, extent: Extent, bytes: Bytes) -> WriteOutcome {
    // In this order: what is polled first is sent first.
    let (written, behind) =
        join(disk.write(extent, bytes.clone(), Durability::ForceUnitAccess), disk.read_behind(extent)).await;
    let outcome = outcome_of(written);
    #[cfg(feature = "mistakes")]
    if outcome == WriteOutcome::Unknown && is_made(Mistake::UnknownIsWritten) {
        return WriteOutcome::Written;
    }
    #[cfg(feature = "mistakes")]
    if is_made(Mistake::RecordNotReadBack) {
        return outcome;
    }
    if outcome != WriteOutcome::Written {
        return outcome;
    }
    let is_there = |read: Result<Bytes, DiskError>| read.is_ok_and(|found| found == bytes);
    if is_there(behind) || is_there(disk.read(extent).await) { WriteOutcome::Written } else { WriteOutcome::Unknown }
}

/// What a write's answer says about the medium. Refusals that a disk gives before it touches the medium (SPC-4 r37 §4.5.6: NOT
/// READY, ILLEGAL REQUEST, UNIT ATTENTION, DATA PROTECT) are certain; anything else may have been carried out in part.
fn outcome_of(answer: Result<(), DiskError>) -> WriteOutcome {
    match answer {
        Ok(()) => WriteOutcome::Written,
        Err(DiskError::Conflict | DiskError::Unreachable(_)) => WriteOutcome::Failed,
        Err(DiskError::CheckCondition { key: 2 | 5 | 6 | 7, .. }) => WriteOutcome::Failed,
        // BUSY, TASK SET FULL: SAM-5 r21 §5.3.1, the command was not accepted.
        Err(DiskError::Status(0x08 | 0x28)) => WriteOutcome::Failed,
        Err(
            DiskError::OutcomeUnknown(_)
            | DiskError::CheckCondition { .. }
            | DiskError::Status(_)
            | DiskError::Io(_)
            | DiskError::Protocol(_),
        ) => WriteOutcome::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use understudy_failover::effect::LegsAre;
    use understudy_failover::record::{PoolEntry, Verdict};
    use understudy_failover::words::{Generation, LegSet, MetadataVersion, PoolId};
    use understudy_pool::testing::MemoryDisk;

    use super::*;

    const BLOCK: u32 = 4096;
    const PAIR: PairId = PairId(1);

    fn lock_disks(disks: &[Rc<MemoryDisk>]) -> LockDisks {
        let disks = disks.iter().map(|disk| Rc::clone(disk) as Rc<dyn Disk>).collect();
        LockDisks::new(disks, PAIR, NodeId::A, Incarnation(1), Duration::from_secs(1))
    }

    fn record(sequence: u64) -> Record {
        Record { pair: PAIR, node: NodeId::A, incarnation: Incarnation(1), sequence, pools: Vec::new() }
    }

    #[tokio::test]
    async fn a_record_counts_only_where_it_can_be_read_from_its_place() {
        let disks = ["l0", "l1", "l2", "l3"].map(|name| MemoryDisk::new(name, BLOCK, 64 << 20));
        let locks = lock_disks(&disks);
        disks[1].put_next_write_elsewhere(1);
        disks[2].fail_next_write(DiskError::Conflict);
        let places = places_of(disks[3].geometry().expect("a size")).expect("large enough");
        disks[3].break_read(places.record(node_area(NodeId::A), RecordSlot::of_sequence(1)).lba);
        let outcomes = locks.write_record(&record(1)).await;
        let expected = [WriteOutcome::Written, WriteOutcome::Unknown, WriteOutcome::Failed, WriteOutcome::Unknown];
        assert_eq!(outcomes, expected, "whole, put elsewhere, refused, not readable");
        disks[3].mend();
        assert_eq!(
            locks.write_record(&record(1)).await,
            [WriteOutcome::Written; 4],
            "written again, it stands everywhere"
        );
    }

    #[tokio::test]
    async fn a_survey_reads_as_much_of_a_slot_as_its_record_says_it_has() {
        let disk = MemoryDisk::new("l0", BLOCK, 64 << 20);
        let locks = lock_disks(std::slice::from_ref(&disk));
        let entry = |pool| PoolEntry {
            pool: PoolId(pool),
            owner: NodeId::A,
            generation: Generation(1),
            metadata_version: MetadataVersion(1),
            verdict: Verdict::Owned,
            legs_are: LegsAre::Equal,
            legs: vec![LegSet(3); 200],
        };
        let long = Record { pools: (1..=60).map(entry).collect(), ..record(3) };
        assert!(long.encode().len() > Record::LEAST_ROOM);
        let records = [record(1), record(2), long];
        let mut expected = [None, None];
        for record in records {
            assert_eq!(locks.write_record(&record).await, [WriteOutcome::Written]);
            let slot = record.slot();
            expected[slot] = Some(record);
            let (found, beats) = locks.areas_of(disk.as_ref()).await.expect("readable");
            assert_eq!((found, beats), ([expected.clone(), [None, None]], [None, None]));
        }
    }
}
