//! Chunks of thin volumes: which one gets, and which it gives back.
//!
//! A thin volume's map has holes, which read as zeroes. Here is only arithmetic on the map; that a chunk is blank before a
//! volume has it, and that nothing is under way on one that is given back, belongs to whoever moves the bytes.

use std::ops::Range;

use crate::Uuid;
use crate::allocate::{AllocateError, Free};
use crate::metadata::{Metadata, Provisioning, Run, Volume};

/// The parts of `chunks` that a map does not cover, in order.
#[must_use]
pub fn unmapped(runs: &[Run], chunks: Range<u32>) -> Vec<Range<u32>> {
    let mut holes = Vec::new();
    let mut at = chunks.start;
    for run in covering(runs, &chunks) {
        if run.logical > at {
            holes.push(at..run.logical.min(chunks.end));
        }
        at = at.max(run.logical + run.chunks);
    }
    if at < chunks.end {
        holes.push(at..chunks.end);
    }
    holes
}

/// Whether a map covers any of these chunks.
#[must_use]
pub fn has_any(runs: &[Run], chunks: &Range<u32>) -> bool {
    covering(runs, chunks).next().is_some()
}

/// The runs that have chunks in this range, in order.
fn covering<'a>(runs: &'a [Run], chunks: &Range<u32>) -> impl Iterator<Item = &'a Run> + use<'a> {
    let (start, end) = (chunks.start, chunks.end);
    let first = runs.partition_point(|run| run.logical + run.chunks <= start);
    runs[first..].iter().take_while(move |run| run.logical < end && start < end)
}

impl Metadata {
    fn thin(&self, uuid: Uuid) -> Result<&Volume, AllocateError> {
        let volume = self.volumes.get(&uuid).filter(|volume| volume.provisioning == Provisioning::Thin);
        volume.ok_or(AllocateError::NoSuchVolume(uuid))
    }

    /// Chooses chunks for these places of a thin volume, which has none there, and takes them from what is `free`.
    ///
    /// What continues a run of the volume goes right behind it if that is free: a client that writes one block after the other gets one
    /// long run.
    ///
    /// # Errors
    /// [`AllocateError::NoSuchVolume`] (also of a thick one), [`AllocateError::BadSize`] past the volume's end,
    /// [`AllocateError::NoSpace`].
    pub fn plan_chunks(&self, uuid: Uuid, places: &[Range<u32>], free: &mut Free) -> Result<Vec<Run>, AllocateError> {
        let volume = self.thin(uuid)?;
        if places.iter().any(|place| place.end > volume.chunks(self.chunk_bytes)) {
            return Err(AllocateError::BadSize(volume.blocks));
        }
        let wanted: u64 = places.iter().map(|place| u64::from(place.end.saturating_sub(place.start))).sum();
        let (total, chunk) = (free.chunks(), u64::from(self.chunk_bytes));
        if total < wanted {
            return Err(AllocateError::NoSpace { free: total * chunk, wanted: wanted * chunk });
        }
        let mut runs = Vec::new();
        for place in places {
            runs.extend(behind(volume, place, free));
        }
        Ok(runs)
    }

    /// The next version, in which a thin volume has these chunks, too.
    ///
    /// # Errors
    /// [`AllocateError::NoSuchVolume`], [`AllocateError::BadSize`], [`AllocateError::ChunksInUse`].
    pub fn with_chunks(&self, uuid: Uuid, runs: &[Run]) -> Result<Self, AllocateError> {
        let volume = self.thin(uuid)?;
        let chunks = volume.chunks(self.chunk_bytes);
        let fits = |run: &Run| run.logical.checked_add(run.chunks).is_some_and(|end| end <= chunks && run.chunks > 0);
        if !runs.iter().all(fits) {
            return Err(AllocateError::BadSize(volume.blocks));
        }
        if !self.are_free(runs) {
            return Err(AllocateError::ChunksInUse(uuid));
        }
        let mut map: Vec<Run> = volume.runs.iter().chain(runs).copied().collect();
        map.sort_unstable_by_key(|run| run.logical);
        if map.windows(2).any(|pair| pair[0].logical + pair[0].chunks > pair[1].logical) {
            return Err(AllocateError::ChunksInUse(uuid));
        }
        Ok(self.with_map(uuid, joined(map)))
    }

    /// The next version, in which a thin volume has none of these chunks. Whether it had is the same.
    ///
    /// # Errors
    /// [`AllocateError::NoSuchVolume`].
    pub fn without_chunks(&self, uuid: Uuid, places: &[Range<u32>]) -> Result<Self, AllocateError> {
        let mut map = self.thin(uuid)?.runs.clone();
        for place in places {
            map = map.into_iter().flat_map(|run| outside(run, place)).collect();
        }
        Ok(self.with_map(uuid, map))
    }

    fn with_map(&self, uuid: Uuid, map: Vec<Run>) -> Self {
        self.next(|next| {
            next.volumes.entry(uuid).and_modify(|volume| volume.runs = map);
        })
    }
}

/// Chunks for one place: as many as can be right behind what the volume has before it, then wherever there is room.
fn behind(volume: &Volume, place: &Range<u32>, free: &mut Free) -> Vec<Run> {
    let mut runs = Vec::new();
    let mut at = place.start;
    let before = volume.runs.iter().rev().find(|run| run.logical + run.chunks == at);
    if let Some(before) = before {
        let physical = before.physical + before.chunks;
        let taken = free.take_at(before.mirror, physical, place.end - at);
        if taken > 0 {
            runs.push(Run { logical: at, mirror: before.mirror, physical, chunks: taken });
            at += taken;
        }
    }
    runs.extend(free.place(at, place.end - at));
    runs
}

/// A map with neighbours made one run.
fn joined(map: Vec<Run>) -> Vec<Run> {
    let mut out: Vec<Run> = Vec::with_capacity(map.len());
    for run in map {
        match out.last_mut() {
            Some(last)
                if last.mirror == run.mirror
                    && last.logical + last.chunks == run.logical
                    && last.physical + last.chunks == run.physical =>
            {
                last.chunks += run.chunks;
            }
            Some(_) | None => out.push(run),
        }
    }
    out
}

/// What is left of a run without these places: nothing, one piece or two.
fn outside(run: Run, without: &Range<u32>) -> impl Iterator<Item = Run> + use<> {
    let end = run.logical + run.chunks;
    let (start, stop) = (without.start.clamp(run.logical, end), without.end.clamp(run.logical, end));
    let piece = move |from: u32, to: u32| {
        let physical = run.physical + (from - run.logical);
        (from < to).then(|| Run { logical: from, physical, chunks: to - from, ..run })
    };
    let pieces = if start < stop { [piece(run.logical, start), piece(stop, end)] } else { [Some(run), None] };
    pieces.into_iter().flatten()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::single_range_in_vec_init, reason = "a list of one range is meant, not its numbers")]

    use proptest::prelude::*;

    use super::{has_any, unmapped};
    use crate::Uuid;
    use crate::allocate::tests::{pool, volume};
    use crate::allocate::{AllocateError, NewVolume};
    use crate::metadata::{Metadata, Provisioning, Run};

    const MIB: u64 = 1 << 20;

    fn thin(number: u16, chunks: u64) -> NewVolume {
        NewVolume { provisioning: Provisioning::Thin, ..volume(number, chunks) }
    }

    fn uuid(number: u16) -> Uuid {
        volume(number, 1).uuid
    }

    fn given(metadata: &Metadata, number: u16, places: &[std::ops::Range<u32>]) -> Metadata {
        let runs = metadata.plan_chunks(uuid(number), places, &mut metadata.free(&[])).expect("room");
        let next = metadata.with_chunks(uuid(number), &runs).expect("free");
        assert_eq!(next.unsound(), None);
        next
    }

    fn runs(metadata: &Metadata, number: u16) -> &[Run] {
        &metadata.volumes[&uuid(number)].runs
    }

    #[test]
    fn a_thin_volume_takes_nothing_and_may_be_larger_than_its_pool() {
        let metadata = pool(1, 10).with_volume(thin(0, 1000)).expect("promised");
        assert_eq!((metadata.free_bytes(), metadata.promised_bytes()), (10 * MIB, 1000 * MIB));
        assert_eq!(metadata.unsound(), None);
        let image = metadata.encode(1 << 20).expect("fits");
        assert_eq!(Metadata::decode(&image), Ok(metadata));
    }

    #[test]
    fn one_block_after_the_other_is_one_run() {
        let mut metadata = pool(2, 20).with_volume(thin(0, 30)).and_then(|next| next.with_volume(thin(1, 30)));
        for chunk in 0..8 {
            metadata = metadata.map(|metadata| given(&metadata, 0, &[chunk..chunk + 1]));
        }
        let metadata = metadata.expect("made");
        assert_eq!(runs(&metadata, 0), [Run { logical: 0, mirror: 0, physical: 0, chunks: 8 }]);
        // The other mirror has more room now.
        let metadata = given(&metadata, 1, &[3..5, 7..8]);
        assert!(runs(&metadata, 1).iter().all(|run| run.mirror == 1));
        assert_eq!(metadata.free_bytes(), (40 - 8 - 3) * MIB);
    }

    #[test]
    fn chunks_given_back_are_free_and_what_is_between_stays() {
        let metadata = given(&pool(1, 10).with_volume(thin(0, 10)).expect("promised"), 0, &[0..10]);
        assert_eq!(metadata.plan_chunks(uuid(0), &[0..0], &mut metadata.free(&[])), Ok(Vec::new()));
        let less = metadata.without_chunks(uuid(0), &[2..4, 6..7, 9..40]).expect("thin");
        assert_eq!((less.unsound(), less.free_bytes()), (None, 4 * MIB));
        assert_eq!(unmapped(runs(&less, 0), 0..10), [2..4, 6..7, 9..10]);
        assert!(has_any(runs(&less, 0), &(3..5)) && !has_any(runs(&less, 0), &(2..4)));
        assert_eq!(unmapped(runs(&less, 0), 4..6), Vec::<std::ops::Range<u32>>::new());
        let image = less.encode(1 << 20).expect("fits");
        assert_eq!(Metadata::decode(&image), Ok(less));
    }

    #[test]
    fn what_others_chose_or_have_is_not_given_away() {
        let metadata = pool(1, 10).with_volume(thin(0, 20)).expect("promised");
        let chosen = metadata.plan_chunks(uuid(0), &[0..6], &mut metadata.free(&[])).expect("room");
        assert_eq!(
            metadata.plan_chunks(uuid(0), &[10..15], &mut metadata.free(&chosen)),
            Err(AllocateError::NoSpace { free: 4 * MIB, wanted: 5 * MIB })
        );
        let beside = metadata.plan_chunks(uuid(0), &[10..14], &mut metadata.free(&chosen)).expect("room beside");
        let both = metadata.with_chunks(uuid(0), &chosen).and_then(|next| next.with_chunks(uuid(0), &beside));
        let both = both.expect("apart");
        assert_eq!((both.unsound(), both.free(&[]).chunks()), (None, 0));
        assert_eq!(both.with_chunks(uuid(0), &beside), Err(AllocateError::ChunksInUse(uuid(0))));
        let twice = metadata.with_chunks(uuid(0), &[chosen[0], chosen[0]]);
        assert_eq!(twice, Err(AllocateError::ChunksInUse(uuid(0))));
    }

    #[test]
    fn thick_volumes_and_places_past_the_end_get_nothing() {
        let metadata = pool(1, 10).with_volume(thin(0, 5)).and_then(|next| next.with_volume(volume(1, 5)));
        let metadata = metadata.expect("room");
        let mut free = metadata.free(&[]);
        assert_eq!(metadata.plan_chunks(uuid(1), &[0..1], &mut free), Err(AllocateError::NoSuchVolume(uuid(1))));
        assert_eq!(metadata.without_chunks(uuid(1), &[0..1]), Err(AllocateError::NoSuchVolume(uuid(1))));
        assert!(matches!(metadata.plan_chunks(uuid(0), &[4..6], &mut free), Err(AllocateError::BadSize(_))));
    }

    proptest! {
        /// Any order of giving, taking back, making and deleting keeps the map sound and the sum of free chunks right.
        #[test]
        fn maps_stay_sound(steps in proptest::collection::vec((0u16..4, any::<bool>(), 0u32..16, 1u32..5), 1..60)) {
            let mut metadata = pool(2, 16).with_volume(volume(9, 3)).expect("room");
            for number in 0..4 {
                metadata = metadata.with_volume(thin(number, 16)).expect("promised");
            }
            for (number, gives, first, count) in steps {
                let place = first..(first + count).min(16);
                let before = metadata.free(&[]).chunks();
                let map = runs(&metadata, number).to_vec();
                let holes = unmapped(&map, place.clone());
                let missing: u32 = holes.iter().map(|hole| hole.end - hole.start).sum();
                let had = place.end - place.start - missing;
                metadata = if gives {
                    match metadata.plan_chunks(uuid(number), &holes, &mut metadata.free(&[])) {
                        Ok(chosen) => metadata.with_chunks(uuid(number), &chosen).expect("free"),
                        Err(AllocateError::NoSpace { .. }) => { prop_assert!(before < u64::from(missing)); continue }
                        Err(other) => return Err(TestCaseError::fail(other.to_string())),
                    }
                } else {
                    metadata.without_chunks(uuid(number), std::slice::from_ref(&place)).expect("thin")
                };
                let after = if gives { before - u64::from(missing) } else { before + u64::from(had) };
                prop_assert_eq!(metadata.free(&[]).chunks(), after);
                prop_assert_eq!(metadata.free_bytes(), after * MIB);
                prop_assert_eq!(metadata.unsound(), None);
                prop_assert_eq!(unmapped(runs(&metadata, number), place.clone()).is_empty(), gives);
            }
            let image = metadata.encode(1 << 20).expect("fits");
            prop_assert_eq!(Metadata::decode(&image), Ok(metadata));
        }
    }
}
