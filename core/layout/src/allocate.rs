//! Which chunks a volume gets, gives back, and where its blocks lie: pure functions from metadata to metadata.
//!
//! Every change returns new metadata with the next version and leaves the old one alone; it counts only after it was
//! written. Free space is not stored anywhere: it is what no run covers, so it cannot disagree with the map.
//!
//! Chunks are made blank between the moment they are chosen and the moment they are a volume's. So choosing ([`Metadata::plan_volume`],
//! [`Metadata::plan_chunks`]) and having ([`Metadata::with_planned`], [`Metadata::with_chunks`]) are two steps, and whoever chooses is told
//! what others have chosen meanwhile.

use thiserror::Error;

use crate::label::NAME_MAX_BYTES;
use crate::metadata::{
    CHUNK_BYTES_RANGE, LEGS_MAX, LUN_MAX, MIRRORS_MAX, Metadata, Mirror, Protection, Provisioning, Run,
    STATE_MAX_BYTES, VOLUMES_MAX, Volume,
};
use crate::{MetadataVersion, Uuid};

/// Why a pool or volume can not be made, changed or deleted. Nothing was changed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum AllocateError {
    /// Not enough free chunks.
    #[error("pool has {free} bytes free, {wanted} are needed")]
    NoSpace {
        /// Bytes free.
        free: u64,
        /// Bytes needed, whole chunks.
        wanted: u64,
    },
    /// As many volumes as a pool can have.
    #[error("a pool holds at most {VOLUMES_MAX} volumes")]
    TooManyVolumes,
    /// A volume or pool of that name is there.
    #[error("there is a volume named {0:?} already")]
    NameTaken(String),
    /// Empty, too long or with control characters.
    #[error("name {0:?} is empty, longer than {NAME_MAX_BYTES} bytes or has control characters")]
    BadName(String),
    /// The number is another volume's.
    #[error("LUN {0} is in use in this pool")]
    LunTaken(u16),
    /// The number can not be addressed.
    #[error("LUN {0} is above {LUN_MAX}")]
    LunTooLarge(u16),
    /// Block length that this pool's disks can not carry.
    #[error("volumes of this pool need blocks of {needed} bytes (its disks') or 4096, not {asked}")]
    BadBlockSize {
        /// Smallest possible.
        needed: u32,
        /// Asked for.
        asked: u32,
    },
    /// Zero, or more than 2^32 chunks.
    #[error("a volume of {0} blocks is empty or too large")]
    BadSize(u64),
    /// No such volume.
    #[error("no volume {0}")]
    NoSuchVolume(Uuid),
    /// Chunks were chosen that are not free, or for a place of the volume that has some.
    #[error("chunks chosen for volume {0} are in use")]
    ChunksInUse(Uuid),
    /// Kept state above the limit.
    #[error("state of {0} bytes is above the {STATE_MAX_BYTES} a volume may keep")]
    StateTooLarge(usize),
    /// A pool that can not be.
    #[error("pool not possible: {0}")]
    BadPool(&'static str),
}

/// What a new pool is to be.
#[derive(Debug, Clone)]
pub struct NewPool {
    /// Its name for life.
    pub pool: Uuid,
    /// Its small number in records and pages.
    pub number: u16,
    /// Its pair.
    pub pair: u16,
    /// Its home node.
    pub home: u8,
    /// The operator's name for it.
    pub name: String,
    /// Bytes per chunk: a power of two, 1 to 64 MiB.
    pub chunk_bytes: u32,
    /// Largest block length among its disks.
    pub block_bytes: u32,
    /// Per mirror, its legs: the disk and the bytes of its data area.
    pub mirrors: Vec<Vec<(Uuid, u64)>>,
}

/// What a new volume is to be.
#[derive(Debug, Clone)]
pub struct NewVolume {
    /// Its name for life.
    pub uuid: Uuid,
    /// The operator's name for it.
    pub name: String,
    /// Its LUN number.
    pub lun: u16,
    /// Block length clients see.
    pub block_bytes: u32,
    /// Size in these blocks.
    pub blocks: u64,
    /// When its chunks are taken.
    pub provisioning: Provisioning,
}

/// A place on a mirror.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The mirror.
    pub mirror: u16,
    /// Byte offset in the mirror's chunk space.
    pub offset: u64,
}

/// A piece of a volume that is contiguous on one mirror, or that it has no chunks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// Where it lies; nowhere if the volume has no chunks there.
    pub place: Option<Place>,
    /// Bytes.
    pub bytes: u64,
}

impl NewPool {
    /// Version 1 of the pool's metadata, without volumes.
    ///
    /// # Errors
    /// [`AllocateError::BadPool`], [`AllocateError::BadName`].
    pub fn metadata(self) -> Result<Metadata, AllocateError> {
        check_name(&self.name)?;
        if !self.chunk_bytes.is_power_of_two() || !CHUNK_BYTES_RANGE.contains(&self.chunk_bytes) {
            return Err(AllocateError::BadPool("chunks must be a power of two from 1 to 64 MiB"));
        }
        if self.mirrors.is_empty() || self.mirrors.len() > MIRRORS_MAX {
            return Err(AllocateError::BadPool("a pool has 1 to 512 mirrors"));
        }
        if self.mirrors.iter().any(|legs| legs.is_empty() || legs.len() > LEGS_MAX) {
            return Err(AllocateError::BadPool("a mirror has 1 to 4 legs"));
        }
        let mirrors: Vec<_> = self.mirrors.iter().map(|legs| mirror_of(legs, self.chunk_bytes)).collect();
        if mirrors.iter().any(|mirror| mirror.chunks == 0) {
            return Err(AllocateError::BadPool("a disk is too small for a single chunk"));
        }
        let metadata = Metadata {
            version: MetadataVersion(1),
            generation: 0,
            pool: self.pool,
            number: self.number,
            pair: self.pair,
            home: self.home,
            name: self.name,
            chunk_bytes: self.chunk_bytes,
            block_bytes: self.block_bytes,
            mirrors,
            volumes: std::collections::BTreeMap::new(),
        };
        metadata.unsound().map_or(Ok(metadata.clone()), |what| Err(AllocateError::BadPool(what)))
    }
}

fn mirror_of(legs: &[(Uuid, u64)], chunk_bytes: u32) -> Mirror {
    let smallest = legs.iter().map(|&(_, bytes)| bytes / u64::from(chunk_bytes)).min().unwrap_or(0);
    Mirror { legs: legs.iter().map(|&(disk, _)| disk).collect(), chunks: u32::try_from(smallest).unwrap_or(u32::MAX) }
}

fn check_name(name: &str) -> Result<(), AllocateError> {
    if name.is_empty() || name.len() > NAME_MAX_BYTES || name.chars().any(char::is_control) {
        return Err(AllocateError::BadName(name.to_owned()));
    }
    Ok(())
}

impl Metadata {
    /// The next version, unchanged but for `change`.
    pub(crate) fn next(&self, change: impl FnOnce(&mut Self)) -> Self {
        let mut next = self.clone();
        next.version.0 += 1;
        change(&mut next);
        next
    }

    /// A new volume with the chunks it would get; `chosen` are free chunks that others have chosen already.
    ///
    /// # Errors
    /// Any [`AllocateError`] but `NoSuchVolume` and `ChunksInUse`.
    pub fn plan_volume(&self, new: NewVolume, chosen: &[Run]) -> Result<Volume, AllocateError> {
        self.check_new(&new.name, new.lun, new.block_bytes)?;
        let bytes = new.blocks.checked_mul(u64::from(new.block_bytes)).filter(|&bytes| bytes > 0);
        let chunks = bytes.map(|bytes| bytes.div_ceil(u64::from(self.chunk_bytes)));
        let chunks = chunks.and_then(|chunks| u32::try_from(chunks).ok()).ok_or(AllocateError::BadSize(new.blocks))?;
        let runs = match new.provisioning {
            Provisioning::Thick => self.find_room(chunks, chosen)?,
            Provisioning::Thin => Vec::new(),
        };
        let NewVolume { uuid, name, lun, block_bytes, blocks, provisioning } = new;
        let (protection, state) = (Protection::Writable, Vec::new());
        Ok(Volume { uuid, name, lun, block_bytes, blocks, provisioning, protection, runs, state })
    }

    fn check_new(&self, name: &str, lun: u16, block_bytes: u32) -> Result<(), AllocateError> {
        check_name(name)?;
        if self.volumes.len() >= VOLUMES_MAX {
            return Err(AllocateError::TooManyVolumes);
        }
        if self.volumes.values().any(|volume| volume.name == name) {
            return Err(AllocateError::NameTaken(name.to_owned()));
        }
        if lun > LUN_MAX {
            return Err(AllocateError::LunTooLarge(lun));
        }
        if self.volumes.values().any(|volume| volume.lun == lun) {
            return Err(AllocateError::LunTaken(lun));
        }
        if !matches!(block_bytes, 512 | 4096) || block_bytes < self.block_bytes {
            return Err(AllocateError::BadBlockSize { needed: self.block_bytes, asked: block_bytes });
        }
        Ok(())
    }

    /// The next version with a volume that was planned.
    ///
    /// # Errors
    /// Those of [`Metadata::plan_volume`], and `ChunksInUse`.
    pub fn with_planned(&self, volume: Volume) -> Result<Self, AllocateError> {
        self.check_new(&volume.name, volume.lun, volume.block_bytes)?;
        if !self.are_free(&volume.runs) {
            return Err(AllocateError::ChunksInUse(volume.uuid));
        }
        Ok(self.next(|next| drop(next.volumes.insert(volume.uuid, volume))))
    }

    /// The next version with one more volume.
    ///
    /// # Errors
    /// Any [`AllocateError`] but `NoSuchVolume` and `ChunksInUse`.
    pub fn with_volume(&self, new: NewVolume) -> Result<Self, AllocateError> {
        self.with_planned(self.plan_volume(new, &[])?)
    }

    /// The next version without this volume.
    ///
    /// # Errors
    /// [`AllocateError::NoSuchVolume`].
    pub fn without_volume(&self, uuid: Uuid) -> Result<Self, AllocateError> {
        if !self.volumes.contains_key(&uuid) {
            return Err(AllocateError::NoSuchVolume(uuid));
        }
        Ok(self.next(|next| drop(next.volumes.remove(&uuid))))
    }

    /// The next version with this volume's kept state replaced.
    ///
    /// # Errors
    /// [`AllocateError::NoSuchVolume`], [`AllocateError::StateTooLarge`].
    pub fn with_state(&self, uuid: Uuid, state: Vec<u8>) -> Result<Self, AllocateError> {
        if state.len() > STATE_MAX_BYTES {
            return Err(AllocateError::StateTooLarge(state.len()));
        }
        if !self.volumes.contains_key(&uuid) {
            return Err(AllocateError::NoSuchVolume(uuid));
        }
        Ok(self.next(|next| {
            next.volumes.entry(uuid).and_modify(|volume| volume.state = state);
        }))
    }

    /// The next version with this volume protected against writes, or not any more.
    ///
    /// # Errors
    /// [`AllocateError::NoSuchVolume`].
    pub fn with_protection(&self, uuid: Uuid, protection: Protection) -> Result<Self, AllocateError> {
        if !self.volumes.contains_key(&uuid) {
            return Err(AllocateError::NoSuchVolume(uuid));
        }
        Ok(self.next(|next| {
            next.volumes.entry(uuid).and_modify(|volume| volume.protection = protection);
        }))
    }

    /// The next version, written under a new ownership.
    #[must_use]
    pub fn with_generation(&self, generation: u64) -> Self {
        self.next(|next| next.generation = generation)
    }

    /// The smallest LUN number no volume of this pool has.
    #[must_use]
    pub fn free_lun(&self) -> Option<u16> {
        let taken: std::collections::BTreeSet<_> = self.volumes.values().map(|volume| volume.lun).collect();
        (0..=LUN_MAX).find(|lun| !taken.contains(lun))
    }

    /// Bytes that no volume has.
    #[must_use]
    pub fn free_bytes(&self) -> u64 {
        let mapped: u64 = self.volumes.values().map(Volume::chunks_mapped).sum();
        self.capacity_bytes().saturating_sub(mapped * u64::from(self.chunk_bytes))
    }

    /// Bytes of all mirrors' chunks.
    #[must_use]
    pub fn capacity_bytes(&self) -> u64 {
        let chunks: u64 = self.mirrors.iter().map(|mirror| u64::from(mirror.chunks)).sum();
        chunks * u64::from(self.chunk_bytes)
    }

    /// Bytes the volumes have if every block of them is written; above the capacity if thin ones were promised more than there is.
    #[must_use]
    pub fn promised_bytes(&self) -> u64 {
        let chunks = self.volumes.values().map(|volume| u64::from(volume.chunks(self.chunk_bytes)));
        chunks.sum::<u64>().saturating_mul(u64::from(self.chunk_bytes))
    }

    /// What no volume has and nobody has `chosen`.
    #[must_use]
    pub fn free(&self, chosen: &[Run]) -> Free {
        let mut used = vec![Vec::new(); self.mirrors.len()];
        for run in self.volumes.values().flat_map(|volume| &volume.runs).chain(chosen) {
            used[usize::from(run.mirror)].push((run.physical, run.chunks));
        }
        let gaps = |(mirror, mut used): (&Mirror, Vec<(u32, u32)>)| {
            used.sort_unstable();
            used.push((mirror.chunks, 0));
            let mut next = 0;
            let mut free = Vec::new();
            for (first, count) in used {
                if first > next {
                    free.push((next, first - next));
                }
                // What was chosen may be recorded by now, as a part of a longer run.
                next = next.max(first + count);
            }
            free
        };
        Free(self.mirrors.iter().zip(used).map(gaps).collect())
    }

    /// Whether no volume has any of these chunks, and none is named twice.
    pub(crate) fn are_free(&self, runs: &[Run]) -> bool {
        let mut free = self.free(&[]);
        runs.iter().all(|run| free.take(run))
    }

    /// Takes the smallest gap that holds the whole volume, from the mirror with most room; failing that, the largest
    /// gaps there are. Few runs keep the map small and a client's sequential reads sequential.
    fn find_room(&self, chunks: u32, chosen: &[Run]) -> Result<Vec<Run>, AllocateError> {
        let mut free = self.free(chosen);
        let (total, chunk) = (free.chunks(), u64::from(self.chunk_bytes));
        if total < u64::from(chunks) {
            return Err(AllocateError::NoSpace { free: total * chunk, wanted: u64::from(chunks) * chunk });
        }
        Ok(free.place(0, chunks))
    }
}

/// Free chunks. Per mirror, the gaps (first chunk, count) in order.
#[derive(Debug, Clone)]
pub struct Free(Vec<Vec<(u32, u32)>>);

impl Free {
    /// How many there are.
    #[must_use]
    pub fn chunks(&self) -> u64 {
        self.0.iter().flatten().map(|&(_, count)| u64::from(count)).sum()
    }

    /// Takes exactly these chunks; `false`, and nothing taken, if some are not free.
    pub(crate) fn take(&mut self, run: &Run) -> bool {
        let Some(gaps) = self.0.get_mut(usize::from(run.mirror)) else { return false };
        let after = gaps.partition_point(|&(first, _)| first <= run.physical);
        let Some(at) = after.checked_sub(1) else { return false };
        let (first, count) = gaps[at];
        let (before, end) = (run.physical - first, u64::from(run.physical) + u64::from(run.chunks));
        let Some(behind) = (u64::from(first) + u64::from(count)).checked_sub(end) else { return false };
        // As long as the gap it is cut from, so it fits.
        let behind = u32::try_from(behind).unwrap_or(0);
        gaps[at] = (first, before);
        gaps.insert(at + 1, (run.physical + run.chunks, behind));
        true
    }

    /// Up to `most` chunks that begin exactly there.
    pub(crate) fn take_at(&mut self, mirror: u16, physical: u32, most: u32) -> u32 {
        let Some(gaps) = self.0.get_mut(usize::from(mirror)) else { return 0 };
        let Some(gap) = gaps.iter_mut().find(|gap| gap.0 == physical && gap.1 > 0) else { return 0 };
        let taken = gap.1.min(most);
        *gap = (physical + taken, gap.1 - taken);
        taken
    }

    /// Places for so many chunks of a volume from `logical` on. The caller has looked whether there are as many.
    pub(crate) fn place(&mut self, mut logical: u32, chunks: u32) -> Vec<Run> {
        let mut runs = Vec::new();
        let mut wanted = chunks;
        // BOUND: every round uses up a gap or ends.
        while wanted > 0 {
            let Some((mirror, gap)) = choose_gap(&self.0, wanted) else { return runs };
            let (physical, count) = self.0[mirror][gap];
            let taken = count.min(wanted);
            let mirror_number = u16::try_from(mirror).unwrap_or(u16::MAX);
            runs.push(Run { logical, mirror: mirror_number, physical, chunks: taken });
            self.0[mirror][gap] = (physical + taken, count - taken);
            logical += taken;
            wanted -= taken;
        }
        runs
    }
}

/// Mirror and gap to allocate from next; `None` if nothing is free.
fn choose_gap(free: &[Vec<(u32, u32)>], wanted: u32) -> Option<(usize, usize)> {
    let room = |mirror: usize| free[mirror].iter().map(|&(_, count)| u64::from(count)).sum::<u64>();
    let gaps = free
        .iter()
        .enumerate()
        .flat_map(|(mirror, gaps)| gaps.iter().enumerate().map(move |(gap, &(_, count))| (mirror, gap, count)));
    let gaps: Vec<_> = gaps.filter(|&(_, _, count)| count > 0).collect();
    let rooms: Vec<_> = (0..free.len()).map(room).collect();
    let fitting = gaps.iter().filter(|&&(_, _, count)| count >= wanted);
    let best = fitting
        .max_by_key(|&&(mirror, gap, count)| (rooms[mirror], u32::MAX - count, usize::MAX - mirror, usize::MAX - gap));
    let best = best.or_else(|| gaps.iter().max_by_key(|&&(_, _, count)| count));
    best.map(|&(mirror, gap, _)| (mirror, gap))
}

/// Where the byte range of a volume lies, in order and without gaps: what the map does not cover lies nowhere.
///
/// `runs` is a volume's map as [`Metadata::decode`] accepts it.
pub fn locate(runs: &[Run], chunk_bytes: u32, offset: u64, bytes: u64) -> impl Iterator<Item = Segment> + '_ {
    let chunk = u64::from(chunk_bytes);
    let end = offset.saturating_add(bytes);
    let mut next = runs.partition_point(|run| (u64::from(run.logical) + u64::from(run.chunks)) * chunk <= offset);
    let mut at = offset;
    std::iter::from_fn(move || {
        if at >= end {
            return None;
        }
        let Some(run) = runs.get(next) else {
            let segment = Segment { place: None, bytes: end - at };
            at = end;
            return Some(segment);
        };
        let run_start = u64::from(run.logical) * chunk;
        if at < run_start {
            let to = run_start.min(end);
            let segment = Segment { place: None, bytes: to - at };
            at = to;
            return Some(segment);
        }
        let to = (run_start + u64::from(run.chunks) * chunk).min(end);
        let place = Place { mirror: run.mirror, offset: u64::from(run.physical) * chunk + (at - run_start) };
        let segment = Segment { place: Some(place), bytes: to - at };
        (at, next) = (to, next + 1);
        Some(segment)
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::{AllocateError, NewPool, NewVolume, Place, Segment, locate};
    use crate::Uuid;
    use crate::metadata::{Metadata, Protection, Provisioning, Run, VOLUMES_MAX, Volume};
    use proptest::prelude::*;

    const MIB: u64 = 1 << 20;

    /// A pool of two-way mirrors with this many chunks of 1 MiB each.
    pub fn pool(mirrors: u8, chunks: u64) -> Metadata {
        let legs =
            |mirror: u8| vec![(Uuid([100 + mirror; 16]), chunks * MIB), (Uuid([200 + mirror; 16]), chunks * MIB + 5)];
        let mirrors = (0..mirrors).map(legs).collect();
        let new = NewPool {
            pool: Uuid([1; 16]),
            number: 1,
            pair: 7,
            home: 0,
            name: "p".into(),
            chunk_bytes: 1 << 20,
            block_bytes: 512,
            mirrors,
        };
        new.metadata().expect("sound")
    }

    /// A thick volume of so many of these chunks.
    pub fn volume(number: u16, chunks: u64) -> NewVolume {
        let mut uuid = [0; 16];
        uuid[..2].copy_from_slice(&number.to_le_bytes());
        NewVolume {
            uuid: Uuid(uuid),
            name: format!("v{number}"),
            lun: number,
            block_bytes: 512,
            blocks: chunks * 2048,
            provisioning: Provisioning::Thick,
        }
    }

    #[test]
    fn volume_is_one_run_where_there_is_room() {
        let metadata = pool(2, 10).with_volume(volume(0, 10)).expect("fits");
        assert_eq!(metadata.volumes.values().next().expect("one").runs.len(), 1);
        assert_eq!(metadata.version.0, 2);
        assert_eq!(metadata.free_bytes(), 10 * MIB);
    }

    #[test]
    fn volume_spreads_over_gaps_and_space_ends_with_an_error_that_says_how_much() {
        let metadata = pool(2, 10).with_volume(volume(0, 15)).expect("fits");
        assert_eq!(metadata.unsound(), None);
        assert_eq!(
            metadata.with_volume(volume(1, 6)).err(),
            Some(AllocateError::NoSpace { free: 5 * MIB, wanted: 6 * MIB })
        );
        let full = metadata.with_volume(volume(1, 5)).expect("fits exactly");
        assert_eq!(full.free_bytes(), 0);
        let back = full.without_volume(volume(0, 1).uuid).expect("there");
        assert_eq!(back.free_bytes(), 15 * MIB);
    }

    #[test]
    fn taken_names_and_numbers_and_bad_sizes_are_refused() {
        let metadata = pool(1, 10).with_volume(volume(0, 1)).expect("fits");
        let refused = |change: fn(&mut NewVolume)| {
            let mut new = volume(1, 1);
            change(&mut new);
            metadata.with_volume(new).expect_err("refused")
        };
        assert_eq!(refused(|new| new.name = "v0".into()), AllocateError::NameTaken("v0".into()));
        assert_eq!(refused(|new| new.lun = 0), AllocateError::LunTaken(0));
        assert_eq!(refused(|new| new.lun = 0x4000), AllocateError::LunTooLarge(0x4000));
        assert_eq!(refused(|new| new.blocks = 0), AllocateError::BadSize(0));
        assert_eq!(refused(|new| new.blocks = u64::MAX), AllocateError::BadSize(u64::MAX));
        assert!(matches!(refused(|new| new.block_bytes = 520), AllocateError::BadBlockSize { .. }));
        assert!(matches!(refused(|new| new.name = "a\n".into()), AllocateError::BadName(_)));
        assert!(matches!(refused(|new| new.name = "x".repeat(65)), AllocateError::BadName(_)));
        assert!(matches!(metadata.without_volume(Uuid([9; 16])), Err(AllocateError::NoSuchVolume(_))));
    }

    #[test]
    fn full_pool_of_volumes_fits_a_slot_and_one_more_is_refused() {
        let mut metadata = pool(1, 5000);
        for number in 0..u16::try_from(VOLUMES_MAX).expect("small") {
            let new = volume(number, 1);
            let runs = vec![Run { logical: 0, mirror: 0, physical: u32::from(number), chunks: 1 }];
            let NewVolume { uuid, lun, block_bytes, blocks, provisioning, .. } = new;
            let name = format!("{number:064}");
            let (state, protection) = (vec![1; 512], Protection::Writable);
            metadata
                .volumes
                .insert(uuid, Volume { uuid, name, lun, block_bytes, blocks, provisioning, protection, runs, state });
        }
        assert_eq!(metadata.with_volume(volume(5000, 1)).err(), Some(AllocateError::TooManyVolumes));
        let image = metadata.encode(8 << 20).expect("a large slot holds them all");
        assert_eq!(Metadata::decode(&image), Ok(metadata));
    }

    #[test]
    fn range_across_runs_is_located_piece_by_piece() {
        let runs = [
            Run { logical: 0, mirror: 0, physical: 7, chunks: 2 },
            Run { logical: 2, mirror: 1, physical: 0, chunks: 1 },
        ];
        let on = |mirror, offset, bytes| Segment { place: Some(Place { mirror, offset }), bytes };
        let nowhere = |bytes| Segment { place: None, bytes };
        let found = |offset, bytes| locate(&runs, 1 << 20, offset, bytes).collect::<Vec<_>>();
        assert_eq!(found(MIB, 2 * MIB), [on(0, 8 * MIB, MIB), on(1, 0, MIB)]);
        assert_eq!(found(MIB + 512, 512), [on(0, 8 * MIB + 512, 512)]);
        assert_eq!(found(3 * MIB, 512), [nowhere(512)]);
        assert_eq!(found(0, 0), []);
        let holes = [runs[1]];
        let around: Vec<_> = locate(&holes, 1 << 20, MIB, 3 * MIB).collect();
        assert_eq!(around, [nowhere(MIB), on(1, 0, MIB), nowhere(MIB)]);
    }

    #[test]
    fn a_plan_keeps_its_chunks_only_until_somebody_else_has_them() {
        let metadata = pool(1, 10);
        let planned = metadata.plan_volume(volume(0, 6), &[]).expect("room");
        let beside = metadata.plan_volume(volume(1, 4), &planned.runs).expect("room beside");
        assert!(metadata.plan_volume(volume(2, 5), &planned.runs).is_err());
        let both = metadata.with_planned(planned.clone()).and_then(|next| next.with_planned(beside)).expect("apart");
        assert_eq!((both.unsound(), both.free_bytes()), (None, 0));
        let parts = planned.runs[0];
        let chosen = [Run { physical: parts.physical + 1, chunks: 2, ..parts }, parts];
        assert_eq!(both.free(&chosen).chunks(), 0, "chosen and recorded is counted once");
        let taken = metadata.with_volume(volume(3, 6)).expect("room");
        assert_eq!(taken.with_planned(planned.clone()).err(), Some(AllocateError::ChunksInUse(planned.uuid)));
    }

    proptest! {
        #[test]
        fn any_order_of_creating_and_deleting_keeps_the_map_sound(steps in proptest::collection::vec((0u16..12, 1u64..9), 1..60)) {
            let mut metadata = pool(3, 20);
            for (number, chunks) in steps {
                let before = metadata.free_bytes();
                let uuid = volume(number, 1).uuid;
                let next = match metadata.volumes.get(&uuid) {
                    Some(there) => {
                        let freed = there.bytes();
                        let next = metadata.without_volume(uuid).expect("there");
                        prop_assert_eq!(next.free_bytes(), before + freed);
                        next
                    }
                    None => match metadata.with_volume(volume(number, chunks)) {
                        Ok(next) => next,
                        Err(AllocateError::NoSpace { .. }) => { prop_assert!(before < chunks * MIB); continue }
                        Err(other) => return Err(TestCaseError::fail(other.to_string())),
                    },
                };
                prop_assert_eq!(next.version.0, metadata.version.0 + 1);
                prop_assert_eq!(next.unsound(), None);
                metadata = next;
            }
            let image = metadata.encode(1 << 20).expect("fits");
            prop_assert_eq!(Metadata::decode(&image), Ok(metadata));
        }
    }
}
