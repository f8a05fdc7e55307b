//! What is different about the medium of a thin volume: chunks that are not there.
//!
//! A command holds the chunks it touches, together with others, for as long as it is under way; giving chunks back waits until
//! nobody holds them and keeps later ones out. So nothing ever reads or writes a place on a mirror that belongs to another volume by
//! then. (A write whose caller has gone goes on alone; it has the lock of its range on the mirror, which whoever makes that chunk blank
//! for its next volume waits for.)
//!
//! What is not there reads as zeroes, and no disk is asked for them. Whether this node may still say so is: by the same questions that
//! witness every other read (`crate::witness`).

use std::cell::Cell;
use std::ops::Range;
use std::rc::Rc;

use understudy_device::medium::{MediumError, Provisioned, Stretch};
use understudy_layout::allocate::locate;
use understudy_layout::thin::{has_any, unmapped};

use crate::allot::MOST_AHEAD_BYTES;
use crate::pool::VolumeError;
use crate::ranges::{RangeGuard, RangeLocks};
use crate::volume::{VolumeMedium, change_error, write_error};

/// What only a thin volume has.
#[derive(Default)]
pub(crate) struct Thin {
    /// By chunk number.
    in_use: Rc<RangeLocks>,
    /// The chunk behind those given last, and how many were given ahead.
    last: Cell<(u32, u32)>,
}

impl Thin {
    /// What to give ahead behind chunks that a command lacks: more each time it is the next ones.
    fn ahead(&self, needed: &[Range<u32>], most: u32) -> Range<u32> {
        let (Some(first), Some(last)) = (needed.first(), needed.last()) else { return 0..0 };
        let (next, before) = self.last.get();
        let ahead = if first.start == next && next > 0 { (before * 2).clamp(1, most.max(1)).min(most) } else { 0 };
        let end = last.end.saturating_add(ahead);
        self.last.set((end, ahead));
        last.end..end
    }
}

/// Chunks that one command holds alone.
pub(crate) type Held = Rc<[RangeGuard]>;

impl VolumeMedium {
    fn chunks_of(&self, offset: u64, bytes: u64) -> Range<u32> {
        let chunk = u64::from(self.chunk_bytes);
        // A volume has at most 2^32 chunks: checked when its metadata is read.
        let number = |chunks: u64| u32::try_from(chunks).unwrap_or(u32::MAX);
        number(offset / chunk)..number((offset + bytes).div_ceil(chunk))
    }

    /// Holds the chunks of these bytes, so that they are not given back; nothing to hold in a thick volume.
    pub(crate) async fn use_chunks(&self, offset: u64, bytes: u64) -> Option<RangeGuard> {
        let thin = self.thin.as_ref()?;
        let chunks = self.chunks_of(offset, bytes);
        Some(thin.in_use.share(u64::from(chunks.start), u64::from(chunks.end)).await)
    }

    /// Ends when the volume has every chunk of these bytes, which the caller holds.
    pub(crate) async fn have_chunks(&self, offset: u64, bytes: u64, lba: u64) -> Result<(), MediumError> {
        let Some(thin) = &self.thin else { return Ok(()) };
        let chunks = self.chunks_of(offset, bytes);
        // BOUND: each round is given what it lacks or ends; what it waited for with another command may have been refused to that one.
        loop {
            let needed = unmapped(&self.map().runs, chunks.clone());
            if needed.is_empty() {
                return Ok(());
            }
            let pool = self.pool.upgrade().ok_or(MediumError::Fenced)?;
            let most = u32::try_from(MOST_AHEAD_BYTES / u64::from(self.chunk_bytes)).unwrap_or(0);
            let mut ahead = thin.ahead(&needed, most);
            ahead.end = ahead.end.min(self.chunks_in_all());
            pool.allot(self.uuid(), needed, ahead).await.map_err(|error| change_error(&error, lba))?;
        }
    }

    fn chunks_in_all(&self) -> u32 {
        self.chunks_of(0, self.bytes()).end
    }

    /// Whether this node still owns the pool, for an answer about `offset` that no disk gave.
    pub(crate) async fn confirm(&self, offset: u64) -> Result<(), MediumError> {
        // Any mirror knows; not always the same one, so that none is asked for everybody.
        let at = self.chunks_of(offset, 0).start as usize % self.mirrors.len().max(1);
        match self.mirrors.get(at) {
            Some(mirror) => mirror.confirm().await.map_err(|fault| write_error(fault, 0)),
            None => Ok(()),
        }
    }

    /// Gives back the chunks that lie in these ranges of blocks as a whole, all of them by one change, and zeroes the rest.
    pub(crate) async fn unmap_ranges(&self, ranges: Vec<(u64, u64)>) -> Result<(), MediumError> {
        let Some(thin) = &self.thin else {
            for (lba, blocks) in ranges {
                self.zero_pieces(lba, blocks).await?;
            }
            return Ok(());
        };
        let lba = ranges.first().map_or(0, |range| range.0);
        let mut ranges: Vec<_> =
            ranges.into_iter().map(|(lba, blocks)| self.byte_offset(lba)..self.byte_offset(lba + blocks)).collect();
        ranges.sort_unstable_by_key(|range| range.start);
        // In ascending order, so that two commands never wait for each other; and joined, so that none waits for itself.
        let whole: Vec<_> = ranges.iter().map(|range| self.whole_chunks(range)).collect();
        let mut held = Vec::new();
        // BOUND: one for each range.
        for chunks in joined(ranges.iter().map(|range| self.chunks_of(range.start, range.end - range.start))) {
            let goes = |whole: &Range<u32>| whole.start < whole.end && chunks.contains(&whole.start);
            let (start, end) = (u64::from(chunks.start), u64::from(chunks.end));
            held.push(match whole.iter().any(goes) {
                true => thin.in_use.acquire(start, end).await,
                // Only zeroed: others may go on beside it.
                false => thin.in_use.share(start, end).await,
            });
        }
        let held: Held = held.into();
        self.give_back(&ranges, &whole, lba, &held).await?;
        for (range, whole) in ranges.iter().zip(&whole) {
            self.zero_edges(range, whole).await?;
        }
        Ok(())
    }

    /// The chunks that lie in a range as a whole. What is behind the volume's end belongs to nobody, so its last chunk does if its blocks do.
    fn whole_chunks(&self, range: &Range<u64>) -> Range<u32> {
        let chunk = u64::from(self.chunk_bytes);
        let end = if range.end == self.bytes() { range.end.next_multiple_of(chunk) } else { range.end };
        let first = self.chunks_of(range.start.next_multiple_of(chunk), 0).start;
        first..self.chunks_of(end, 0).start.max(first)
    }

    async fn give_back(
        &self,
        ranges: &[Range<u64>],
        whole: &[Range<u32>],
        lba: u64,
        held: &Held,
    ) -> Result<(), MediumError> {
        let map = self.map();
        let places: Vec<_> = whole.iter().filter(|chunks| has_any(&map.runs, chunks)).cloned().collect();
        if places.is_empty() {
            // Nothing is written, but this node must still be the one to say that it is done.
            return self.confirm(ranges.first().map_or(0, |range| range.start)).await;
        }
        let pool = self.pool.upgrade().ok_or(MediumError::Fenced)?;
        match pool.take_chunks(self.uuid(), places.clone(), Rc::clone(held)).await {
            // A hole makes two runs of one, for which the metadata may have no room left: then the blocks are zeroed.
            Err(VolumeError::Metadata(_)) => {
                for chunks in places {
                    let chunk = u64::from(self.chunk_bytes);
                    let (start, end) = (u64::from(chunks.start) * chunk, u64::from(chunks.end) * chunk);
                    let pieces = self.pieces(start, end.min(self.bytes()) - start);
                    self.zero_those_mapped(self.block_of(start), pieces).await?;
                }
                Ok(())
            }
            done => done.map_err(|error| change_error(&error, lba)),
        }
    }

    /// Zeroes what of a range is no whole chunk.
    async fn zero_edges(&self, range: &Range<u64>, whole: &Range<u32>) -> Result<(), MediumError> {
        let chunk = u64::from(self.chunk_bytes);
        let (start, end) = (u64::from(whole.start) * chunk, u64::from(whole.end) * chunk);
        let edges = match start < end {
            true => [range.start..start, end.min(range.end)..range.end],
            false => [range.clone(), 0..0],
        };
        for edge in edges.into_iter().filter(|edge| edge.start < edge.end) {
            let pieces = self.pieces(edge.start, edge.end - edge.start);
            self.zero_those_mapped(self.block_of(edge.start), pieces).await?;
        }
        Ok(())
    }

    /// What there is from a block on: at most so many stretches.
    pub(crate) async fn stretches_from(&self, lba: u64, most: usize) -> Result<Vec<Stretch>, MediumError> {
        let offset = self.byte_offset(lba);
        self.confirm(offset).await?;
        let map = self.map();
        let block_bytes = self.byte_offset(1);
        let mut stretches: Vec<Stretch> = Vec::new();
        for segment in locate(&map.runs, self.chunk_bytes, offset, self.bytes().saturating_sub(offset)) {
            let state = if segment.place.is_some() { Provisioned::Mapped } else { Provisioned::Deallocated };
            let blocks = segment.bytes / block_bytes;
            if let Some(last) = stretches.last_mut().filter(|last| last.state == state) {
                last.blocks += blocks;
            } else if stretches.len() < most {
                stretches.push(Stretch { blocks, state });
            } else {
                break;
            }
        }
        Ok(stretches)
    }
}

/// Ranges in ascending order, those that touch or overlap made one.
fn joined(ranges: impl Iterator<Item = Range<u32>>) -> Vec<Range<u32>> {
    let mut out: Vec<Range<u32>> = Vec::new();
    for range in ranges {
        match out.last_mut() {
            Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
            Some(_) | None => out.push(range),
        }
    }
    out
}
