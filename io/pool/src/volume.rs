//! A volume as a medium: block addresses through the chunk map to mirrors.
//!
//! A command is cut at region boundaries and its pieces run side by side; each is atomic against what overlaps it, the
//! command as a whole is not (SBC-3 r36 §4.7 asks for no more). What is different about a thin volume is in `crate::thin`.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::rc::{Rc, Weak};

use bytes::{Bytes, BytesMut};
use futures_util::future::{LocalBoxFuture, join_all, try_join_all};
use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use tokio::sync::Notify;
use understudy_device::medium::{Durability, Geometry, Medium, MediumError, Stretch};
use understudy_disk::disk;
use understudy_layout::Uuid;
use understudy_layout::allocate::{Place, locate};
use understudy_layout::metadata::{Provisioning, Run, STATE_MAX_BYTES, Volume};

use crate::mirror::{Mirror, MirrorFault, REGION_BYTES};
use crate::pool::{Pool, VolumeError};
use crate::switch::Switch;
use crate::thin::Thin;

/// A region of zeroes, shared by everything that writes zeroes.
static ZEROES: [u8; REGION_BYTES as usize] = [0; REGION_BYTES as usize];

/// Regions zeroed at once by one command.
const ZEROED_AT_ONCE: usize = 4;

// A unit never has more to keep than a volume's metadata has room for.
const _: () = assert!(understudy_device::MOST_STATE_BYTES <= STATE_MAX_BYTES);

/// Where a volume's chunks lie.
pub(crate) struct Map {
    pub(crate) runs: Vec<Run>,
    /// The mirrors they lie on.
    mirrors: Vec<u16>,
}

impl Map {
    fn of(volume: &Volume) -> Rc<Self> {
        let mirrors: BTreeSet<u16> = volume.runs.iter().map(|run| run.mirror).collect();
        Rc::new(Self { runs: volume.runs.clone(), mirrors: mirrors.into_iter().collect() })
    }
}

/// A volume of a pool. Commands wait while the pool is warm, and end with [`MediumError::Fenced`] once it stopped.
pub struct VolumeMedium {
    uuid: Uuid,
    geometry: Geometry,
    pub(crate) chunk_bytes: u32,
    map: RefCell<Rc<Map>>,
    /// What only a thin volume has.
    pub(crate) thin: Option<Thin>,
    pub(crate) mirrors: Rc<[Rc<Mirror>]>,
    switch: Rc<Switch>,
    pub(crate) pool: Weak<Pool>,
    deleted: Cell<bool>,
    under_way: Cell<usize>,
    idle: Notify,
}

/// A piece of a command within one region, or of chunks that the volume does not have.
pub(crate) struct Piece {
    place: Option<Place>,
    bytes: u64,
    /// Where it begins in the command, bytes.
    at: u64,
}

impl VolumeMedium {
    pub(crate) fn new(
        volume: &Volume,
        chunk_bytes: u32,
        mirrors: Rc<[Rc<Mirror>]>,
        switch: Rc<Switch>,
        pool: Weak<Pool>,
    ) -> Self {
        Self {
            uuid: volume.uuid,
            geometry: Geometry { block_bytes: volume.block_bytes, blocks: volume.blocks },
            chunk_bytes,
            map: RefCell::new(Map::of(volume)),
            thin: (volume.provisioning == Provisioning::Thin).then(Thin::default),
            mirrors,
            switch,
            pool,
            deleted: Cell::new(false),
            under_way: Cell::new(0),
            idle: Notify::new(),
        }
    }

    /// Its name for life.
    #[must_use]
    pub fn uuid(&self) -> Uuid {
        self.uuid
    }

    /// What [`Medium::keep_state`] kept last, on this node or the one before; empty if nothing ever.
    #[must_use]
    pub fn kept_state(&self) -> Vec<u8> {
        let pool = self.pool.upgrade();
        let state = pool.and_then(|pool| pool.metadata().volumes.get(&self.uuid).map(|volume| volume.state.clone()));
        state.unwrap_or_default()
    }

    /// Takes over the map of this volume; `false` if it cannot be the same one.
    pub(crate) fn adopt(&self, volume: &Volume) -> bool {
        let geometry = Geometry { block_bytes: volume.block_bytes, blocks: volume.blocks };
        let is_thin = volume.provisioning == Provisioning::Thin;
        if geometry != self.geometry || is_thin != self.thin.is_some() {
            return false;
        }
        let same = self.map().runs == volume.runs;
        if is_thin && !same {
            *self.map.borrow_mut() = Map::of(volume);
        }
        is_thin || same
    }

    pub(crate) fn map(&self) -> Rc<Map> {
        Rc::clone(&self.map.borrow())
    }

    /// Refuses new commands and waits for those under way.
    pub(crate) async fn delete(&self) {
        self.deleted.set(true);
        loop {
            let idle = self.idle.notified();
            if self.under_way.get() == 0 {
                return;
            }
            idle.await;
        }
    }

    pub(crate) fn undelete(&self) {
        self.deleted.set(false);
    }

    fn mirror(&self, place: Place) -> Rc<Mirror> {
        Rc::clone(&self.mirrors[usize::from(place.mirror)])
    }

    pub(crate) fn pieces(&self, offset: u64, bytes: u64) -> Vec<Piece> {
        let map = self.map();
        let mut pieces = Vec::with_capacity(1);
        let mut at = 0;
        for segment in locate(&map.runs, self.chunk_bytes, offset, bytes) {
            let end = at + segment.bytes;
            let mut place = segment.place;
            while at < end {
                let room = place.map_or(REGION_BYTES, |place| REGION_BYTES - place.offset % REGION_BYTES);
                let bytes = room.min(end - at);
                pieces.push(Piece { place, bytes, at });
                at += bytes;
                place = place.map(|place| Place { offset: place.offset + bytes, ..place });
            }
        }
        debug_assert_eq!(at, bytes, "extents are checked against the geometry above");
        pieces
    }

    pub(crate) fn byte_offset(&self, lba: u64) -> u64 {
        lba * u64::from(self.geometry.block_bytes)
    }

    pub(crate) fn block_of(&self, offset: u64) -> u64 {
        offset / u64::from(self.geometry.block_bytes)
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.byte_offset(self.geometry.blocks)
    }

    fn lba_of(&self, lba: u64, piece_at: u64) -> u64 {
        lba + self.block_of(piece_at)
    }

    async fn command<T>(
        &self,
        work: impl Future<Output = Result<T, MediumError>>,
        refused: MediumError,
    ) -> Result<T, MediumError> {
        if self.deleted.get() {
            return Err(refused);
        }
        let _counted = UnderWay::begin(self);
        self.switch.command(work).await
    }

    async fn read_pieces(&self, lba: u64, blocks: u32) -> Result<Bytes, MediumError> {
        let (offset, bytes) = (self.byte_offset(lba), u64::from(blocks) * u64::from(self.geometry.block_bytes));
        let _used = self.use_chunks(offset, bytes).await;
        let pieces = self.pieces(offset, bytes);
        if pieces.iter().all(|piece| piece.place.is_none()) {
            self.confirm(offset).await?;
        }
        let read = |piece: &Piece| {
            let (place, bytes) = (piece.place, piece.bytes);
            let lba = self.lba_of(lba, piece.at);
            async move {
                match place {
                    Some(place) => {
                        let read = self.mirror(place).read(place.offset, bytes).await;
                        read.map_err(|fault| read_error(fault, lba))
                    }
                    None => Ok(zeroes(bytes)),
                }
            }
        };
        match &pieces[..] {
            [only] => read(only).await,
            more => {
                let parts = try_join_all(more.iter().map(read)).await?;
                let mut whole = BytesMut::with_capacity(parts.iter().map(Bytes::len).sum());
                parts.iter().for_each(|part| whole.extend_from_slice(part));
                Ok(whole.freeze())
            }
        }
    }

    async fn write_pieces(&self, lba: u64, bytes: Bytes, durability: Durability) -> Result<(), MediumError> {
        let durability = match durability {
            Durability::Cached => disk::Durability::Cached,
            Durability::ForceUnitAccess => disk::Durability::ForceUnitAccess,
        };
        let offset = self.byte_offset(lba);
        let _used = self.use_chunks(offset, bytes.len() as u64).await;
        self.have_chunks(offset, bytes.len() as u64, lba).await?;
        let pieces = self.pieces(offset, bytes.len() as u64);
        let write = |piece: &Piece| {
            let from = usize::try_from(piece.at).expect("within the command's bytes");
            let length = usize::try_from(piece.bytes).expect("at most a region");
            let part = bytes.slice(from..from + length);
            self.write_piece(lba, piece, part, durability)
        };
        match &pieces[..] {
            [only] => write(only).await,
            // All of them to their end: an answer must not come before the last piece's.
            more => join_all(more.iter().map(write)).await.into_iter().collect(),
        }
    }

    fn write_piece(
        &self,
        lba: u64,
        piece: &Piece,
        bytes: Bytes,
        durability: disk::Durability,
    ) -> impl Future<Output = Result<(), MediumError>> + use<> {
        let lba = self.lba_of(lba, piece.at);
        let place = piece.place.map(|place| (self.mirror(place), place.offset));
        async move {
            // Chunks are there before anything is written.
            let (mirror, offset) = place.ok_or(MediumError::Write { lba })?;
            mirror.write(offset, bytes, durability).await.map_err(|fault| write_error(fault, lba))
        }
    }

    /// Writes zeroes, into chunks that the volume has or gets.
    pub(crate) async fn zero_pieces(&self, lba: u64, blocks: u64) -> Result<(), MediumError> {
        let (offset, bytes) = (self.byte_offset(lba), blocks * u64::from(self.geometry.block_bytes));
        let _used = self.use_chunks(offset, bytes).await;
        // A chunk that comes new is blank already.
        let pieces = self.pieces(offset, bytes);
        self.have_chunks(offset, bytes, lba).await?;
        self.zero_those_mapped(lba, pieces).await
    }

    /// Writes zeroes where pieces lie somewhere.
    pub(crate) async fn zero_those_mapped(&self, lba: u64, pieces: Vec<Piece>) -> Result<(), MediumError> {
        let mapped = pieces.into_iter().filter(|piece| piece.place.is_some());
        let writes = mapped.map(|piece| self.write_piece(lba, &piece, zeroes(piece.bytes), disk::Durability::Cached));
        stream::iter(writes).map(Ok).try_for_each_concurrent(ZEROED_AT_ONCE, |write| write).await
    }

    async fn flush_mirrors(&self) -> Result<(), MediumError> {
        let map = self.map();
        if map.mirrors.is_empty() {
            return self.confirm(0).await;
        }
        let flushes = map.mirrors.iter().map(|mirror| self.mirrors[usize::from(*mirror)].flush());
        let results = join_all(flushes).await;
        results.into_iter().try_for_each(|flushed| flushed.map_err(|fault| write_error(fault, 0)))
    }

    async fn keep(&self, state: Vec<u8>) -> Result<(), MediumError> {
        let Some(pool) = self.pool.upgrade() else { return Err(MediumError::Fenced) };
        let uuid = self.uuid;
        let kept = pool.commit(move |metadata| metadata.with_state(uuid, state.clone())).await;
        kept.map(drop).map_err(|error| change_error(&error, 0))
    }
}

/// Why a change of the metadata for a command at `lba` was not made.
pub(crate) fn change_error(error: &VolumeError, lba: u64) -> MediumError {
    match error {
        VolumeError::Fenced => MediumError::Fenced,
        VolumeError::Refused => MediumError::Write { lba },
        VolumeError::Allocate(_) | VolumeError::Metadata(_) => MediumError::NoSpace,
    }
}

/// At most a region of them.
fn zeroes(bytes: u64) -> Bytes {
    Bytes::from_static(&ZEROES).slice(..usize::try_from(bytes).expect("at most a region"))
}

fn read_error(fault: MirrorFault, lba: u64) -> MediumError {
    match fault {
        MirrorFault::Medium => MediumError::Read { lba },
        MirrorFault::Stopped => MediumError::Fenced,
    }
}

pub(crate) fn write_error(fault: MirrorFault, lba: u64) -> MediumError {
    match fault {
        MirrorFault::Medium => MediumError::Write { lba },
        MirrorFault::Stopped => MediumError::Fenced,
    }
}

/// Counts a command until it is answered or given up.
struct UnderWay<'a>(&'a VolumeMedium);

impl<'a> UnderWay<'a> {
    fn begin(volume: &'a VolumeMedium) -> Self {
        volume.under_way.set(volume.under_way.get() + 1);
        Self(volume)
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.under_way.set(self.0.under_way.get() - 1);
        if self.0.under_way.get() == 0 {
            self.0.idle.notify_waiters();
        }
    }
}

impl Medium for VolumeMedium {
    fn geometry(&self) -> Geometry {
        self.geometry
    }

    fn read(&self, lba: u64, blocks: u32) -> LocalBoxFuture<'_, Result<Bytes, MediumError>> {
        Box::pin(self.command(self.read_pieces(lba, blocks), MediumError::Read { lba }))
    }

    fn write(&self, lba: u64, bytes: Bytes, durability: Durability) -> LocalBoxFuture<'_, Result<(), MediumError>> {
        Box::pin(self.command(self.write_pieces(lba, bytes, durability), MediumError::Write { lba }))
    }

    fn flush(&self) -> LocalBoxFuture<'_, Result<(), MediumError>> {
        Box::pin(self.command(self.flush_mirrors(), MediumError::Write { lba: 0 }))
    }

    fn zero(&self, lba: u64, blocks: u64) -> LocalBoxFuture<'_, Result<(), MediumError>> {
        Box::pin(self.command(self.zero_pieces(lba, blocks), MediumError::Write { lba }))
    }

    fn unmap(&self, ranges: Vec<(u64, u64)>) -> LocalBoxFuture<'_, Result<(), MediumError>> {
        let lba = ranges.first().map_or(0, |range| range.0);
        Box::pin(self.command(self.unmap_ranges(ranges), MediumError::Write { lba }))
    }

    fn stretches(&self, lba: u64, most: usize) -> LocalBoxFuture<'_, Result<Vec<Stretch>, MediumError>> {
        Box::pin(self.command(self.stretches_from(lba, most), MediumError::Read { lba }))
    }

    fn keep_state(&self, state: Vec<u8>) -> LocalBoxFuture<'_, Result<(), MediumError>> {
        Box::pin(self.command(self.keep(state), MediumError::Write { lba: 0 }))
    }
}
