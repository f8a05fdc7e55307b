//! A volume as a medium: block addresses through the chunk map to mirrors.
//!
//! A command is cut at region boundaries and its pieces run side by side; each is atomic against what overlaps it, the
//! command as a whole is not (SBC-3 r36 §4.7 asks for no more).

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::rc::{Rc, Weak};

use bytes::{Bytes, BytesMut};
use futures_util::future::{LocalBoxFuture, join_all, try_join_all};
use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use tokio::sync::Notify;
use understudy_device::medium::{Durability, Geometry, Medium, MediumError};
use understudy_disk::disk;
use understudy_layout::Uuid;
use understudy_layout::allocate::locate;
use understudy_layout::metadata::{Run, STATE_MAX_BYTES, Volume};

use crate::mirror::{Mirror, MirrorFault, REGION_BYTES};
use crate::pool::{Pool, VolumeError};
use crate::switch::Switch;

/// A region of zeroes, shared by everything that writes zeroes.
static ZEROES: [u8; REGION_BYTES as usize] = [0; REGION_BYTES as usize];

/// Regions zeroed at once by one command.
const ZEROED_AT_ONCE: usize = 4;

// A unit never has more to keep than a volume's metadata has room for.
const _: () = assert!(understudy_device::MOST_STATE_BYTES <= STATE_MAX_BYTES);

/// A volume of a pool. Commands wait while the pool is warm, and end with [`MediumError::Fenced`] once it stopped.
pub struct VolumeMedium {
    uuid: Uuid,
    geometry: Geometry,
    chunk_bytes: u32,
    runs: RefCell<Rc<[Run]>>,
    mirrors: Rc<[Rc<Mirror>]>,
    switch: Rc<Switch>,
    pool: Weak<Pool>,
    deleted: Cell<bool>,
    under_way: Cell<usize>,
    idle: Notify,
}

/// A piece of a command within one region.
struct Piece {
    mirror: u16,
    offset: u64,
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
            runs: RefCell::new(volume.runs.clone().into()),
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

    pub(crate) fn fits(&self, volume: &Volume) -> bool {
        self.geometry == (Geometry { block_bytes: volume.block_bytes, blocks: volume.blocks })
            && self.runs.borrow()[..] == volume.runs[..]
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

    /// Makes everything read as zeroes: a new volume shows nothing of what its chunks held before.
    pub(crate) async fn clear(&self) -> Result<(), MirrorFault> {
        let bytes = self.geometry.blocks * u64::from(self.geometry.block_bytes);
        // Whole chunks: what lies behind the end must be equal on both legs, too.
        let bytes = bytes.next_multiple_of(u64::from(self.chunk_bytes));
        let pieces = self.pieces(0, bytes).into_iter().map(|piece| {
            let mirror = self.mirror(&piece);
            async move { mirror.clear(piece.offset, piece.bytes).await }
        });
        stream::iter(pieces).map(Ok).try_for_each_concurrent(ZEROED_AT_ONCE * 2, |clear| clear).await
    }

    fn mirror(&self, piece: &Piece) -> Rc<Mirror> {
        Rc::clone(&self.mirrors[usize::from(piece.mirror)])
    }

    fn pieces(&self, offset: u64, bytes: u64) -> Vec<Piece> {
        let runs = Rc::clone(&self.runs.borrow());
        let mut pieces = Vec::with_capacity(1);
        let mut at = 0;
        for segment in locate(&runs, self.chunk_bytes, offset, bytes) {
            let mut from = segment.offset;
            let end = segment.offset + segment.bytes;
            while from < end {
                let to = end.min((from / REGION_BYTES + 1) * REGION_BYTES);
                pieces.push(Piece { mirror: segment.mirror, offset: from, bytes: to - from, at });
                at += to - from;
                from = to;
            }
        }
        debug_assert_eq!(at, bytes, "extents are checked against the geometry above");
        pieces
    }

    fn byte_offset(&self, lba: u64) -> u64 {
        lba * u64::from(self.geometry.block_bytes)
    }

    fn lba_of(&self, lba: u64, piece_at: u64) -> u64 {
        lba + piece_at / u64::from(self.geometry.block_bytes)
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
        let bytes = u64::from(blocks) * u64::from(self.geometry.block_bytes);
        let pieces = self.pieces(self.byte_offset(lba), bytes);
        let read = |piece: &Piece| {
            let (mirror, offset, bytes) = (self.mirror(piece), piece.offset, piece.bytes);
            let lba = self.lba_of(lba, piece.at);
            async move { mirror.read(offset, bytes).await.map_err(|fault| read_error(fault, lba)) }
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
        let pieces = self.pieces(self.byte_offset(lba), bytes.len() as u64);
        let write = |piece: &Piece| {
            let from = usize::try_from(piece.at).expect("within the command's bytes");
            let length = usize::try_from(piece.bytes).expect("at most a region");
            let (mirror, offset, part) = (self.mirror(piece), piece.offset, bytes.slice(from..from + length));
            let lba = self.lba_of(lba, piece.at);
            async move { mirror.write(offset, part, durability).await.map_err(|fault| write_error(fault, lba)) }
        };
        match &pieces[..] {
            [only] => write(only).await,
            // All of them to their end: an answer must not come before the last piece's.
            more => join_all(more.iter().map(write)).await.into_iter().collect(),
        }
    }

    async fn zero_pieces(&self, lba: u64, blocks: u64) -> Result<(), MediumError> {
        let pieces = self.pieces(self.byte_offset(lba), blocks * u64::from(self.geometry.block_bytes));
        let writes = pieces.into_iter().map(|piece| {
            let mirror = self.mirror(&piece);
            let zeroes = Bytes::from_static(&ZEROES).slice(..usize::try_from(piece.bytes).expect("at most a region"));
            let lba = self.lba_of(lba, piece.at);
            async move {
                let written = mirror.write(piece.offset, zeroes, disk::Durability::Cached).await;
                written.map_err(|fault| write_error(fault, lba))
            }
        });
        stream::iter(writes).map(Ok).try_for_each_concurrent(ZEROED_AT_ONCE, |write| write).await
    }

    async fn flush_mirrors(&self) -> Result<(), MediumError> {
        let used: BTreeSet<u16> = self.runs.borrow().iter().map(|run| run.mirror).collect();
        let flushes = used.into_iter().map(|mirror| self.mirrors[usize::from(mirror)].flush());
        let results = join_all(flushes).await;
        results.into_iter().try_for_each(|flushed| flushed.map_err(|fault| write_error(fault, 0)))
    }

    async fn keep(&self, state: Vec<u8>) -> Result<(), MediumError> {
        let Some(pool) = self.pool.upgrade() else { return Err(MediumError::Fenced) };
        let uuid = self.uuid;
        match pool.commit(move |metadata| metadata.with_state(uuid, state.clone())).await {
            Ok(_) => Ok(()),
            Err(VolumeError::Fenced) => Err(MediumError::Fenced),
            Err(VolumeError::Refused) => Err(MediumError::Write { lba: 0 }),
            Err(VolumeError::Allocate(_) | VolumeError::Metadata(_)) => Err(MediumError::NoSpace),
        }
    }
}

fn read_error(fault: MirrorFault, lba: u64) -> MediumError {
    match fault {
        MirrorFault::Medium => MediumError::Read { lba },
        MirrorFault::Stopped => MediumError::Fenced,
    }
}

fn write_error(fault: MirrorFault, lba: u64) -> MediumError {
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

    fn keep_state(&self, state: Vec<u8>) -> LocalBoxFuture<'_, Result<(), MediumError>> {
        Box::pin(self.command(self.keep(state), MediumError::Write { lba: 0 }))
    }
}
