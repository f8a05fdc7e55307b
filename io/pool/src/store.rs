//! Pool metadata on the legs: finding the newest copy, and writing the next one everywhere before it counts.
//!
//! Reading asks every good leg for its two header pages and takes the body from one leg. Writing puts the whole image
//! into the slot of its version on every good leg; it is done when every good leg of every mirror has it, or was
//! recorded as lost. That is more than a majority of the copies, and it is what lets any one good leg answer later for
//! what was relied on.

use std::rc::Rc;

use bytes::{Bytes, BytesMut};
use futures_util::future::join_all;
use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use understudy_disk::disk::{DiskError, Durability};
use understudy_layout::metadata::{Header, Metadata, MetadataError};
use understudy_layout::{MetadataVersion, PAGE_BYTES, Uuid};

use crate::leg::{Leg, LegOutcome};
use crate::mirror::{Mirror, MirrorFault, settle};
use crate::overseer::LegPlace;
use crate::pool::LoadError;

/// Disks asked at once when a pool is loaded.
const DISKS_AT_ONCE: usize = 64;
/// Largest single transfer of metadata, bytes.
const TRANSFER_BYTES: usize = 1 << 20;

/// What stands on the legs.
pub struct Found {
    /// The newest copy.
    pub metadata: Metadata,
    /// Its header.
    pub header: Header,
    /// Whether every leg asked has exactly this version.
    pub uniform: bool,
}

/// The headers of both slots of one leg.
async fn headers(leg: &Leg) -> Result<[Result<Header, MetadataError>; 2], DiskError> {
    let page = PAGE_BYTES as u64;
    let (first, second) = (leg.areas.slot_offset(0), leg.areas.slot_offset(1));
    let (first, second) = futures_util::future::join(leg.read_raw(first, page), leg.read_raw(second, page)).await;
    Ok([Header::decode(&first?), Header::decode(&second?)])
}

async fn image(leg: &Leg, slot: u8, header: Header) -> Result<Metadata, LoadError> {
    let bytes = header.image_bytes();
    if bytes > u64::from(leg.areas.slot_bytes) {
        return Err(LoadError::Metadata(MetadataError::Damaged("length of the body")));
    }
    let step = TRANSFER_BYTES as u64;
    let from = leg.areas.slot_offset(slot);
    let pieces = (0..bytes.div_ceil(step)).map(|piece| {
        let at = piece * step;
        leg.read_raw(from + at, step.min(bytes - at))
    });
    let pieces: Vec<Bytes> = stream::iter(pieces)
        .buffered(4)
        .try_collect()
        .await
        .map_err(|error| LoadError::Leg { place: leg.place, error })?;
    let whole = match &pieces[..] {
        [only] => only.clone(),
        more => more
            .iter()
            .fold(BytesMut::new(), |mut all, piece| {
                all.extend_from_slice(piece);
                all
            })
            .freeze(),
    };
    Ok(Metadata::decode(&whole)?)
}

/// The newest whole copy on these legs that is not older than `at_least`.
pub async fn find(legs: &[Rc<Leg>], pool: Uuid, at_least: MetadataVersion) -> Result<Found, LoadError> {
    let asked: Vec<_> = stream::iter(legs)
        .map(|leg| async move { (leg, headers(leg).await) })
        .buffer_unordered(DISKS_AT_ONCE)
        .collect()
        .await;
    let mut candidates = Vec::new();
    let mut trouble = None;
    let mut newer_release = None;
    for (leg, answer) in &asked {
        match answer {
            Err(DiskError::Conflict) => return Err(LoadError::Conflict(leg.place)),
            Err(error) => trouble = Some((leg.place, error.clone())),
            Ok(slots) => {
                for (slot, header) in (0u8..).zip(slots) {
                    match header {
                        Ok(header) if header.pool == pool => candidates.push((*leg, slot, *header)),
                        Ok(_) | Err(MetadataError::Absent) => {}
                        Err(error) => newer_release = Some(error.clone()),
                    }
                }
            }
        }
    }
    candidates.sort_by_key(|(leg, _, header)| (std::cmp::Reverse((header.version, header.generation)), leg.place));
    for (leg, slot, header) in &candidates {
        if header.version < at_least {
            return Err(MetadataError::Older { found: header.version.0, committed: at_least.0 }.into());
        }
        // A copy that was cut short, or is being written by the owner at this moment, leaves the next best one.
        let Ok(metadata) = image(leg, *slot, *header).await else { continue };
        let same = candidates.iter().filter(|(_, _, other)| other == header).count();
        return Ok(Found { metadata, header: *header, uniform: same == legs.len() });
    }
    let unreadable = |(place, error): (LegPlace, DiskError)| LoadError::Leg { place, error };
    Err(trouble.map(unreadable).unwrap_or_else(|| newer_release.unwrap_or(MetadataError::Absent).into()))
}

/// Whether some leg confirms, by headers alone, that the copy with the header `known` is still the newest one. The whole header counts, and
/// with it the checksum of the body: a version that was taken back leaves its number to the one after it.
pub async fn confirms(legs: &[Rc<Leg>], known: &Header, at_least: MetadataVersion) -> bool {
    if known.version < at_least {
        return false;
    }
    // BOUND: one leg after the other, until the first that answers.
    for leg in legs {
        let Ok(slots) = headers(leg).await else { continue };
        let newest = slots.iter().flatten().filter(|header| header.pool == known.pool);
        let newest = newest.max_by_key(|header| (header.version, header.generation));
        return newest == Some(known);
    }
    false
}

/// Writes an image into its slot on every good leg of every mirror.
pub async fn write(mirrors: &[Rc<Mirror>], slot: u8, image: &Bytes) -> Result<(), MirrorFault> {
    let each = mirrors.iter().map(|mirror| async move {
        let legs: Vec<_> = mirror.counting_legs().collect();
        let outcomes = join_all(legs.iter().map(|leg| write_leg(leg, slot, image))).await;
        settle(&legs, &outcomes).await
    });
    let results = join_all(each).await;
    results.into_iter().find(Result::is_err).unwrap_or(Ok(()))
}

/// Gives a leg that comes back the metadata in force, and takes away whatever else it may still have: a version it got and
/// no other leg did could look newer.
pub async fn renew(leg: &Leg, metadata: &Metadata, image: &Bytes) -> LegOutcome {
    let stale = leg.areas.slot_offset(1 - metadata.slot());
    let blank = Bytes::from_static(&[0; PAGE_BYTES]);
    match leg.write(stale, blank, Durability::ForceUnitAccess).await {
        LegOutcome::Done => write_leg(leg, metadata.slot(), image).await,
        other => other,
    }
}

/// Whether a version that failed is gone from a leg.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Withdrawn {
    /// The leg does not show it, or does not count any more.
    Gone,
    /// Perhaps not: the leg can be neither written nor read.
    PerhapsThere,
    /// The pool was stopped; nothing was found out.
    Stopped,
}

/// Takes a version that could not be written everywhere from a leg that may have it: without its header page it is none.
pub async fn withdraw(leg: &Leg, failed: &Metadata) -> Withdrawn {
    let at = leg.areas.slot_offset(failed.slot());
    let blank = Bytes::from_static(&[0; PAGE_BYTES]);
    match leg.write(at, blank, Durability::ForceUnitAccess).await {
        LegOutcome::Done | LegOutcome::Dropped => Withdrawn::Gone,
        LegOutcome::Stopped => Withdrawn::Stopped,
        // A disk that takes no write may not have taken the one before either.
        LegOutcome::Refused => match leg.read_raw(at, PAGE_BYTES as u64).await {
            Ok(page) => match Header::decode(&page) {
                Ok(header) if header.pool == failed.pool && header.version == failed.version => Withdrawn::PerhapsThere,
                Ok(_) | Err(_) => Withdrawn::Gone,
            },
            Err(_) => Withdrawn::PerhapsThere,
        },
    }
}

async fn write_leg(leg: &Leg, slot: u8, image: &Bytes) -> LegOutcome {
    let from = leg.areas.slot_offset(slot);
    let pieces = (0..image.len()).step_by(TRANSFER_BYTES).map(|at| {
        let piece = image.slice(at..image.len().min(at + TRANSFER_BYTES));
        leg.write(from + at as u64, piece, Durability::ForceUnitAccess)
    });
    let outcomes = join_all(pieces).await;
    outcomes.into_iter().find(|&outcome| outcome != LegOutcome::Done).unwrap_or(LegOutcome::Done)
}
