//! Making disks ours: partition table, label, first metadata; for `pair init` only.
//!
//! Order matters when power fails in between: areas first, then the label, then the partition table. A disk without
//! label is nobody's and can be initialised again; a disk with a label has valid areas.

use std::rc::Rc;

use bytes::Bytes;
use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use thiserror::Error;
use understudy_disk::disk::{Disk, DiskError, Durability, Geometry};
use understudy_layout::allocate::{AllocateError, NewPool};
use understudy_layout::gpt::{DiskKind, TableImage, table};
use understudy_layout::label::{Label, PoolAreas, Role};
use understudy_layout::lock::LockPlaces;
use understudy_layout::metadata::{Metadata, MetadataError};
use understudy_layout::{PAGE_BYTES, Uuid};

use crate::inventory::{Finding, examine, extent_of, shape_of};

/// What to do with a disk that is not blank.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Existing {
    /// Leave it alone and say what it carries.
    Refuse,
    /// The operator knows.
    Overwrite,
}

/// A pool to be made.
pub struct PoolPlan {
    /// Its small number in records and pages.
    pub number: u16,
    /// Its pair.
    pub pair: u16,
    /// Its home node.
    pub home: u8,
    /// The operator's name for it.
    pub name: String,
    /// Bytes per chunk; [`understudy_layout::metadata::DEFAULT_CHUNK_BYTES`] unless there is a reason.
    pub chunk_bytes: u32,
    /// Per mirror, the disks of its legs.
    pub mirrors: Vec<Vec<Rc<dyn Disk>>>,
}

/// Why disks were not made ours.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum InitialiseError {
    /// A disk carries something. Nothing was written to any disk.
    #[error("disk {disk} carries {what}; nothing was written. Overwrite it explicitly if that can go")]
    NotBlank {
        /// The disk.
        disk: String,
        /// What it carries.
        what: String,
    },
    /// A disk is too small or has odd blocks. Nothing was written to any disk.
    #[error("disk {disk} is too small ({bytes} bytes) or has blocks that are not of 512 or 4096 bytes")]
    Unsuitable {
        /// The disk.
        disk: String,
        /// Its size.
        bytes: u64,
    },
    /// A disk did not do what it was asked.
    #[error("disk {disk}: {error}")]
    Disk {
        /// The disk.
        disk: String,
        /// Why.
        #[source]
        error: DiskError,
    },
    /// The pool is not possible. Nothing was written to any disk.
    #[error(transparent)]
    Plan(#[from] AllocateError),
    /// The metadata does not fit.
    #[error(transparent)]
    Metadata(#[from] MetadataError),
}

/// Disks written at once.
const DISKS_AT_ONCE: usize = 32;
/// Largest single write, bytes.
const TRANSFER_BYTES: u32 = 1 << 20;

/// A random name.
pub(crate) fn fresh_uuid() -> Uuid {
    #[cfg(feature = "testing")]
    if let Some(uuid) = crate::testing::given_uuid() {
        return uuid;
    }
    let mut bytes = [0; 16];
    // PANIC: a kernel without random numbers cannot run a pair at all (incarnations, keys).
    getrandom::fill(&mut bytes).expect("the kernel gives random numbers");
    Uuid::from_random(bytes)
}

/// A disk that may be written.
struct Candidate {
    disk: Rc<dyn Disk>,
    geometry: Geometry,
    uuid: Uuid,
}

async fn candidate(disk: Rc<dyn Disk>, existing: Existing) -> Result<Candidate, InitialiseError> {
    let name = disk.name().to_owned();
    let failed = |error| InitialiseError::Disk { disk: name.clone(), error };
    let geometry = disk.probe().await.map_err(failed)?;
    let finding = examine(&*disk, geometry).await.map_err(failed)?;
    let what = match (finding, existing) {
        (Finding::Blank, _) | (_, Existing::Overwrite) => None,
        (Finding::Ours(label), Existing::Refuse) => Some(format!("a disk of pair {} of this product", label.pair)),
        (Finding::Foreign(what), Existing::Refuse) => Some(what.to_owned()),
        (Finding::Damaged(error), Existing::Refuse) => Some(format!("traces of this product ({error})")),
        (Finding::Conflict, Existing::Refuse) => Some("a reservation of another node".to_owned()),
        (Finding::Failed(error), Existing::Refuse) => return Err(failed(error)),
    };
    match what {
        Some(what) => Err(InitialiseError::NotBlank { disk: name, what }),
        None => Ok(Candidate { disk, geometry, uuid: fresh_uuid() }),
    }
}

impl Candidate {
    fn failed(&self, error: DiskError) -> InitialiseError {
        InitialiseError::Disk { disk: self.disk.name().to_owned(), error }
    }

    fn unsuitable(&self) -> InitialiseError {
        let bytes = shape_of(self.geometry).bytes();
        InitialiseError::Unsuitable { disk: self.disk.name().to_owned(), bytes }
    }

    async fn write(&self, offset: u64, bytes: Bytes) -> Result<(), InitialiseError> {
        let span = shape_of(self.geometry).span(offset, bytes.len() as u64).ok_or_else(|| self.unsuitable())?;
        let extent = extent_of(self.geometry, span).map_err(|error| self.failed(error))?;
        self.disk.write(extent, bytes, Durability::ForceUnitAccess).await.map_err(|error| self.failed(error))
    }

    async fn write_zeroes(&self, offset: u64, bytes: u64) -> Result<(), InitialiseError> {
        let zeroes = Bytes::from(vec![0; TRANSFER_BYTES as usize]);
        let end = offset + bytes;
        for at in (offset..end).step_by(TRANSFER_BYTES as usize) {
            let length = usize::try_from((end - at).min(u64::from(TRANSFER_BYTES))).expect("at most a transfer");
            self.write(at, zeroes.slice(..length)).await?;
        }
        Ok(())
    }

    async fn write_label_and_table(&self, label: &Label, kind: DiskKind) -> Result<(), InitialiseError> {
        let places = Label::places(label.shape).ok_or_else(|| self.unsuitable())?;
        let table = table(label.shape, kind, self.uuid, fresh_uuid()).ok_or_else(|| self.unsuitable())?;
        let page = Bytes::from(label.encode());
        for place in places {
            self.write(place.lba * u64::from(label.shape.block_bytes), page.clone()).await?;
        }
        let TableImage { head, tail, tail_lba } = table;
        self.write(tail_lba * u64::from(label.shape.block_bytes), Bytes::from(tail)).await?;
        self.write(0, Bytes::from(head)).await?;
        self.disk.flush().await.map_err(|error| self.failed(error))
    }
}

/// Makes a pool of these disks: partition tables, labels, metadata version 1. Whether the disks may be written is
/// checked for all of them before the first is.
///
/// The caller has registered with the disks if they need it.
///
/// # Errors
/// [`InitialiseError`].
pub async fn initialise_pool(plan: PoolPlan, existing: Existing) -> Result<Metadata, InitialiseError> {
    let PoolPlan { number, pair, home, name, chunk_bytes, mirrors } = plan;
    let places: Vec<_> = (0u16..)
        .zip(&mirrors)
        .flat_map(|(mirror, legs)| (0u8..).zip(legs).map(move |(leg, _)| (mirror, leg)))
        .collect();
    let candidates: Vec<Candidate> = stream::iter(mirrors.iter().flatten().cloned())
        .map(|disk| candidate(disk, existing))
        .buffered(DISKS_AT_ONCE)
        .try_collect()
        .await?;
    let areas_of =
        |candidate: &Candidate| PoolAreas::for_disk(shape_of(candidate.geometry)).ok_or_else(|| candidate.unsuitable());
    let areas = candidates.iter().map(areas_of).collect::<Result<Vec<_>, _>>()?;

    let mut legs = vec![Vec::new(); mirrors.len()];
    for ((candidate, areas), (mirror, _)) in candidates.iter().zip(&areas).zip(&places) {
        legs[usize::from(*mirror)].push((candidate.uuid, areas.data_bytes));
    }
    let block_bytes = candidates.iter().map(|candidate| candidate.geometry.block_bytes).max().unwrap_or(512);
    let pool = fresh_uuid();
    let new = NewPool { pool, number, pair, home, name: name.clone(), chunk_bytes, block_bytes, mirrors: legs };
    let metadata = new.metadata()?;
    let smallest_slot = areas.iter().map(|areas| areas.slot_bytes).min().unwrap_or(0);
    let image = Bytes::from(metadata.encode(smallest_slot)?);

    let mut writes = Vec::with_capacity(candidates.len());
    for ((candidate, &areas), &(mirror, leg)) in candidates.iter().zip(&areas).zip(&places) {
        let role = Role::PoolLeg { pool, pool_name: name.clone(), mirror, leg, areas };
        let label = Label { pair, disk: candidate.uuid, shape: shape_of(candidate.geometry), role };
        writes.push(write_pool_disk(candidate, areas, label, &metadata, image.clone()));
    }
    stream::iter(writes).buffer_unordered(DISKS_AT_ONCE).try_collect::<Vec<()>>().await?;
    Ok(metadata)
}

async fn write_pool_disk(
    candidate: &Candidate,
    areas: PoolAreas,
    label: Label,
    metadata: &Metadata,
    image: Bytes,
) -> Result<(), InitialiseError> {
    // An older life's header in the other slot must not outlive this one; the rest of a slot is never read without it.
    candidate.write_zeroes(areas.slot_offset(metadata.slot() ^ 1), PAGE_BYTES as u64).await?;
    candidate.write(areas.slot_offset(metadata.slot()), image).await?;
    candidate.write_zeroes(areas.intent_offset, u64::from(areas.intent_bytes)).await?;
    candidate.write_label_and_table(&label, DiskKind::Pool).await
}

/// Makes a lock disk: number `index` of the pair's, in the order of arbitration.
///
/// # Errors
/// [`InitialiseError`].
pub async fn initialise_lock_disk(
    disk: Rc<dyn Disk>,
    pair: u16,
    index: u8,
    existing: Existing,
) -> Result<Label, InitialiseError> {
    let candidate = candidate(disk, existing).await?;
    let shape = shape_of(candidate.geometry);
    let places = LockPlaces::new(shape).ok_or_else(|| candidate.unsuitable())?;
    let blank = places.blank_at_birth();
    let block = u64::from(shape.block_bytes);
    candidate.write_zeroes(blank.lba * block, u64::from(blank.blocks) * block).await?;
    let label = Label { pair, disk: candidate.uuid, shape, role: Role::Lock { index } };
    candidate.write_label_and_table(&label, DiskKind::Lock).await?;
    Ok(label)
}
