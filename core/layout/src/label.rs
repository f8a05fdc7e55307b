//! The label: which disk this is, whose it is, and where its areas lie.
//!
//! Written when a disk is given to a pair, and again only when the disk changes its place; stands twice. It does *not*
//! say whether the disk is good or up to date: that is the record majority's and the metadata version's to say. Areas
//! are recorded, not computed, so a later release may size them differently without a new format.

use thiserror::Error;

use crate::codec::{Reader, Writer};
use crate::gpt::{self, DiskKind};
use crate::{DiskShape, PAGE_BYTES, PARTITION_OFFSET, Span, Uuid, crc32c};

const MAGIC: [u8; 8] = *b"UNDRSTDY";

/// Layout version of the label page and of everything whose place it records.
const LABEL_VERSION: u16 = 1;

/// Where the two copies stand, bytes from the start of the disk; 64 KiB apart for the reason node areas are.
const COPY_OFFSETS: [u64; 2] = [PARTITION_OFFSET, PARTITION_OFFSET + (64 << 10)];

/// Longest name of a pool or a volume, bytes of UTF-8.
pub const NAME_MAX_BYTES: usize = 64;

/// Where the areas of a pool disk lie, in bytes from the start of the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolAreas {
    /// First metadata slot; the second follows at once.
    pub metadata_offset: u64,
    /// Size of one metadata slot.
    pub slot_bytes: u32,
    /// Write-intent bitmap: reserved, written by a later release, zeroes until then.
    pub intent_offset: u64,
    /// Size of the bitmap's area.
    pub intent_bytes: u32,
    /// First chunk.
    pub data_offset: u64,
    /// Bytes from there to the end of the partition.
    pub data_bytes: u64,
}

/// Metadata slot on disks of 1 GiB and more: holds the 4096 volumes of a full pool (about 120 bytes each), some
/// 100,000 runs and several MiB of volumes' states at once.
const LARGE_SLOT_BYTES: u32 = 8 << 20;
/// Metadata slot on smaller disks (tests, demonstrations), which cannot hold many volumes anyway.
const SMALL_SLOT_BYTES: u32 = 1 << 20;
/// 16 Mi bits: a bit a MiB covers a leg of 16 TiB; larger legs get coarser bits.
const LARGE_INTENT_BYTES: u32 = 2 << 20;
const SMALL_INTENT_BYTES: u32 = 64 << 10;
/// Boundary between the two sizes above.
const LARGE_DISK_BYTES: u64 = 1 << 30;
/// Data begins on a multiple of this, as large as any stripe worth aligning to.
const DATA_ALIGNMENT: u64 = 1 << 20;
/// The smallest pool disk: areas of the small sizes and a few chunks.
pub const POOL_DISK_MIN_BYTES: u64 = 16 << 20;

impl PoolAreas {
    /// The areas for a new pool disk; `None` if it is smaller than [`POOL_DISK_MIN_BYTES`] or has odd blocks.
    #[must_use]
    pub fn for_disk(shape: DiskShape) -> Option<Self> {
        let partition = gpt::partition(shape)?;
        if shape.bytes() < POOL_DISK_MIN_BYTES {
            return None;
        }
        let (slot_bytes, intent_bytes) = if shape.bytes() < LARGE_DISK_BYTES {
            (SMALL_SLOT_BYTES, SMALL_INTENT_BYTES)
        } else {
            (LARGE_SLOT_BYTES, LARGE_INTENT_BYTES)
        };
        let metadata_offset = PARTITION_OFFSET + (1 << 20);
        let intent_offset = metadata_offset + 2 * u64::from(slot_bytes);
        let data_offset = (intent_offset + u64::from(intent_bytes)).next_multiple_of(DATA_ALIGNMENT);
        let end = (partition.last_lba + 1) * u64::from(shape.block_bytes);
        Some(Self {
            metadata_offset,
            slot_bytes,
            intent_offset,
            intent_bytes,
            data_offset,
            data_bytes: end - data_offset,
        })
    }

    /// Byte offset of a metadata slot (0 or 1) on the disk.
    #[must_use]
    pub fn slot_offset(&self, slot: u8) -> u64 {
        self.metadata_offset + u64::from(slot & 1) * u64::from(self.slot_bytes)
    }

    /// Whether the areas follow each other without overlap and end within `disk_bytes`.
    fn sound(&self, disk_bytes: u64) -> bool {
        let page = PAGE_BYTES as u64;
        let whole = [self.metadata_offset, self.intent_offset, self.data_offset, u64::from(self.slot_bytes)];
        let after = |offset: u64, bytes: u64| offset.saturating_add(bytes);
        whole.iter().all(|value| value.is_multiple_of(page))
            && u64::from(self.slot_bytes) >= 2 * page
            && self.slot_bytes <= 256 << 20
            && self.metadata_offset > COPY_OFFSETS[1]
            && self.intent_offset >= after(self.metadata_offset, 2 * u64::from(self.slot_bytes))
            && self.data_offset >= after(self.intent_offset, u64::from(self.intent_bytes))
            && after(self.data_offset, self.data_bytes) <= disk_bytes
            && disk_bytes != u64::MAX
    }
}

/// What a disk is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Role {
    /// Leg `leg` of mirror `mirror` of a pool.
    PoolLeg {
        /// The pool.
        pool: Uuid,
        /// Its name when the label was written; for messages only.
        pool_name: String,
        /// Position of the mirror in the pool.
        mirror: u16,
        /// Position of the disk in the mirror.
        leg: u8,
        /// Where its areas lie.
        areas: PoolAreas,
    },
    /// Lock disk number `index` of the pair, counted from 0: the fixed order of an arbitration.
    Lock {
        /// Position.
        index: u8,
    },
}

/// The label of one disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Label {
    /// The pair the disk belongs to.
    pub pair: u16,
    /// The disk's own name.
    pub disk: Uuid,
    /// Its shape when it was labelled; a disk may grow afterwards, never shrink.
    pub shape: DiskShape,
    /// What it is for.
    pub role: Role,
}

/// Why a label page is not usable.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum LabelError {
    /// Neither copy has our mark.
    #[error("no label")]
    Absent,
    /// Marked as ours, but damaged.
    #[error("label damaged: {0}")]
    Damaged(&'static str),
    /// Made by a release this one does not understand.
    #[error("label has layout version {0}; this release reads version {LABEL_VERSION}")]
    Newer(u16),
    /// The disk is smaller than the label says.
    #[error("the disk has {found} bytes, its label says {labelled}: wrong disk or shrunk")]
    Shrunk {
        /// Bytes the disk has now.
        found: u64,
        /// Bytes it had.
        labelled: u64,
    },
}

impl Label {
    /// The two places of a label on a disk of this shape; `None` if the disk is too small for one.
    #[must_use]
    pub fn places(shape: DiskShape) -> Option<[Span; 2]> {
        let page = PAGE_BYTES as u64;
        Some([shape.span(COPY_OFFSETS[0], page)?, shape.span(COPY_OFFSETS[1], page)?])
    }

    /// The kind of partition such a disk has.
    #[must_use]
    pub fn kind(&self) -> DiskKind {
        match self.role {
            Role::PoolLeg { .. } => DiskKind::Pool,
            Role::Lock { .. } => DiskKind::Lock,
        }
    }

    /// The page to write to both places, [`PAGE_BYTES`] long.
    ///
    /// # Panics
    /// If the pool's name is longer than [`NAME_MAX_BYTES`].
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut page = Writer::default();
        page.raw(&MAGIC);
        page.u16(LABEL_VERSION);
        page.u16(self.pair);
        page.u32(self.shape.block_bytes);
        page.u64(self.shape.blocks);
        page.uuid(self.disk);
        match &self.role {
            Role::PoolLeg { pool, pool_name, mirror, leg, areas } => {
                assert!(pool_name.len() <= NAME_MAX_BYTES, "names are checked where they come in");
                page.u8(1);
                page.u8(*leg);
                page.u16(*mirror);
                page.uuid(*pool);
                page.u64(areas.metadata_offset);
                page.u32(areas.slot_bytes);
                page.u32(areas.intent_bytes);
                page.u64(areas.intent_offset);
                page.u64(areas.data_offset);
                page.u64(areas.data_bytes);
                page.text(pool_name);
            }
            Role::Lock { index } => {
                page.u8(2);
                page.u8(*index);
            }
        }
        page.pad_to(PAGE_BYTES - 4);
        page.u32(crc32c(&page.0));
        page.0
    }

    /// Reads the label of a disk of this shape from its two copies; the first one that is whole counts.
    ///
    /// # Errors
    /// [`LabelError`], of the copy that came closer to being a label.
    pub fn decode(shape: DiskShape, copies: [&[u8]; 2]) -> Result<Self, LabelError> {
        let label = match (Self::decode_copy(copies[0]), Self::decode_copy(copies[1])) {
            (Ok(label), _) | (Err(_), Ok(label)) => label,
            (Err(LabelError::Absent), Err(second)) => return Err(second),
            (Err(first), Err(_)) => return Err(first),
        };
        if shape.block_bytes != label.shape.block_bytes {
            return Err(LabelError::Damaged("the disk's block size changed"));
        }
        if shape.blocks < label.shape.blocks {
            return Err(LabelError::Shrunk { found: shape.bytes(), labelled: label.shape.bytes() });
        }
        if let Role::PoolLeg { areas, .. } = &label.role
            && !areas.sound(label.shape.bytes())
        {
            return Err(LabelError::Damaged("areas overlap or lie past the end of the disk"));
        }
        Ok(label)
    }

    fn decode_copy(page: &[u8]) -> Result<Self, LabelError> {
        let page = page.get(..PAGE_BYTES).ok_or(LabelError::Absent)?;
        let (body, crc) = page.split_at(PAGE_BYTES - 4);
        let mut reader = Reader::new(body);
        if reader.take(MAGIC.len()) != Some(&MAGIC) {
            return Err(LabelError::Absent);
        }
        if crc != crc32c(body).to_le_bytes() {
            return Err(LabelError::Damaged("checksum"));
        }
        let short = LabelError::Damaged("too short");
        let version = reader.u16().ok_or(short.clone())?;
        if version != LABEL_VERSION {
            return Err(LabelError::Newer(version));
        }
        Self::decode_fields(&mut reader).ok_or(LabelError::Damaged("unknown role or bad name"))
    }

    fn decode_fields(reader: &mut Reader<'_>) -> Option<Self> {
        let pair = reader.u16()?;
        let shape = DiskShape { block_bytes: reader.u32()?, blocks: reader.u64()? };
        let disk = reader.uuid()?;
        let role = match reader.u8()? {
            1 => {
                let (leg, mirror, pool) = (reader.u8()?, reader.u16()?, reader.uuid()?);
                let (metadata_offset, slot_bytes, intent_bytes) = (reader.u64()?, reader.u32()?, reader.u32()?);
                let (intent_offset, data_offset, data_bytes) = (reader.u64()?, reader.u64()?, reader.u64()?);
                let areas =
                    PoolAreas { metadata_offset, slot_bytes, intent_offset, intent_bytes, data_offset, data_bytes };
                let pool_name = reader.text().filter(|name| name.len() <= NAME_MAX_BYTES)?;
                Role::PoolLeg { pool, pool_name, mirror, leg, areas }
            }
            2 => Role::Lock { index: reader.u8()? },
            _ => return None,
        };
        Some(Self { pair, disk, shape, role })
    }
}

#[cfg(test)]
mod tests {
    use super::{Label, LabelError, PoolAreas, Role};
    use crate::{DiskShape, PAGE_BYTES, Uuid, crc32c};

    fn label(shape: DiskShape) -> Label {
        let areas = PoolAreas::for_disk(shape).expect("large enough");
        let role = Role::PoolLeg { pool: Uuid([3; 16]), pool_name: "blau".into(), mirror: 5, leg: 1, areas };
        Label { pair: 0x1234, disk: Uuid([9; 16]), shape, role }
    }

    const SHAPES: [DiskShape; 3] = [
        DiskShape { block_bytes: 512, blocks: 64 << 11 },
        DiskShape { block_bytes: 4096, blocks: 64 << 8 },
        DiskShape { block_bytes: 512, blocks: 1 << 33 },
    ];

    #[test]
    fn label_reads_back_from_either_copy() {
        for shape in SHAPES {
            let lock = Label { role: Role::Lock { index: 2 }, ..label(shape) };
            for label in [label(shape), lock] {
                let page = label.encode();
                let noise = vec![0x5a; PAGE_BYTES];
                assert_eq!(page.len(), PAGE_BYTES);
                assert_eq!(Label::decode(shape, [&page, &noise]), Ok(label.clone()));
                assert_eq!(Label::decode(shape, [&noise, &page]), Ok(label));
                assert_eq!(Label::decode(shape, [&noise, &noise]), Err(LabelError::Absent));
            }
        }
    }

    #[test]
    fn any_flipped_byte_is_noticed() {
        let shape = SHAPES[0];
        let page = label(shape).encode();
        for at in (0..PAGE_BYTES).step_by(7) {
            let mut bad = page.clone();
            bad[at] ^= 0x10;
            assert!(Label::decode(shape, [&bad, &bad]).is_err(), "byte {at}");
        }
    }

    #[test]
    fn newer_version_shrunk_disk_and_overlapping_areas_are_refused() {
        let shape = SHAPES[0];
        let mut page = label(shape).encode();
        page[8] = 2;
        let crc = crc32c(&page[..PAGE_BYTES - 4]).to_le_bytes();
        page[PAGE_BYTES - 4..].copy_from_slice(&crc);
        assert_eq!(Label::decode(shape, [&page, &page]), Err(LabelError::Newer(2)));

        let page = label(shape).encode();
        let smaller = DiskShape { blocks: shape.blocks - 1, ..shape };
        assert!(matches!(Label::decode(smaller, [&page, &page]), Err(LabelError::Shrunk { .. })));

        let mut overlapping = label(shape);
        if let Role::PoolLeg { areas, .. } = &mut overlapping.role {
            areas.intent_offset = areas.metadata_offset;
        }
        let page = overlapping.encode();
        assert!(matches!(Label::decode(shape, [&page, &page]), Err(LabelError::Damaged(_))));
    }

    #[test]
    fn disk_may_have_grown() {
        let shape = SHAPES[1];
        let page = label(shape).encode();
        let larger = DiskShape { blocks: shape.blocks * 2, ..shape };
        assert_eq!(Label::decode(larger, [&page, &page]), Ok(label(shape)));
    }
}
