//! A pool's metadata: what it is made of and where every volume's chunks lie.
//!
//! Problem: the map from volumes to disks must survive a power cut at any moment, be readable by the other node within
//! a hand-off's milliseconds, and leave room for what later releases keep in it.
//!
//! Idea: the whole of it is one byte string with one number, the *metadata version*. Every disk of the pool has two
//! slots; version N goes to slot N mod 2 of every good leg before anything relies on it, and version N+1 is not begun
//! before N stands on every good leg. So every good leg always has at least one whole copy, any single good leg knows
//! the last version that was relied on, and the 4 KiB header alone tells whether anything changed.
//!
//! Invariants (checked by [`Metadata::decode`], so that nothing behind it has to): runs lie on their mirror, no chunk
//! belongs to two volumes, a thick volume's map has no holes, a thin one's does not go past its end, names and numbers are unique.
//!
//! What a release from before thin and write-protected volumes would get wrong stands behind a feature bit each. A bit is set only in a
//! pool that needs it, so that other pools stay readable for that release.
//!
//! What can fail: a torn write (checksum of the body), a stale disk (version below `at_least`), a newer release's
//! format (version and feature bits; refused, never guessed at). Rejected: a log of changes (replay time in the pause,
//! and a second format to prove), and a copy on a few disks only (the version a disk must have would then depend on
//! which disk it is).

use std::collections::{BTreeMap, BTreeSet};

use thiserror::Error;

use crate::codec::{Reader, Writer};
use crate::label::NAME_MAX_BYTES;
use crate::{MetadataVersion, PAGE_BYTES, Uuid, crc32c};

const MAGIC: [u8; 8] = *b"UNDRPOOL";
const LAYOUT_VERSION: u16 = 1;
/// Feature bit: there are thin volumes, whose maps have holes.
const HAS_THIN: u64 = 1 << 0;
/// Feature bit: there are write-protected volumes. A release that does not know of them would let clients write.
const HAS_PROTECTED: u64 = 1 << 1;
/// Every feature this release knows.
const KNOWN_FEATURES: u64 = HAS_THIN | HAS_PROTECTED;

/// Chunk size of new pools. 1 MiB rather than 4: a thick volume costs one run whatever the chunk size, so larger
/// chunks save nothing, while a later snapshot or thin volume copies or zeroes one chunk at its first small write.
pub const DEFAULT_CHUNK_BYTES: u32 = 1 << 20;
/// Smallest and largest chunk a pool may be made with; powers of two only.
pub const CHUNK_BYTES_RANGE: std::ops::RangeInclusive<u32> = (1 << 20)..=(64 << 20);
/// Volumes in a pool. More would not fit a slot together with their states; a LUN number needs 14 bits.
pub const VOLUMES_MAX: usize = 4096;
/// Mirrors in a pool: 512 two-way mirrors are 1024 disks.
pub const MIRRORS_MAX: usize = 512;
/// Legs of one mirror.
pub const LEGS_MAX: usize = 4;
/// Bytes of one volume's kept state: 128 registrations with names of the longest kind (RFC 7143 §4.2.7.1: 223 bytes).
pub const STATE_MAX_BYTES: usize = 64 << 10;
/// LUN numbers end here: flat space addressing (SAM-5 r21 §4.7.7.4) has 14 bits.
pub const LUN_MAX: u16 = 0x3fff;

/// A run of consecutive chunks of a volume that are consecutive on their mirror, too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// First chunk within the volume.
    pub logical: u32,
    /// The mirror it lies on.
    pub mirror: u16,
    /// First chunk on the mirror.
    pub physical: u32,
    /// Number of chunks, at least 1.
    pub chunks: u32,
}

/// When a volume's chunks are taken from its pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Provisioning {
    /// All of them when it is made.
    #[default]
    Thick,
    /// Each at the first write to it; they can be given back one by one.
    Thin,
}

/// Whether clients may write to a volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Protection {
    /// They may.
    #[default]
    Writable,
    /// They may not, whoever they are.
    WriteProtected,
}

/// A volume and its map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Volume {
    /// Its name for life: what VPD page 83h is derived from.
    pub uuid: Uuid,
    /// The operator's name for it, at most 64 bytes.
    pub name: String,
    /// LUN number at its target, unique in the pool.
    pub lun: u16,
    /// Block length clients see, a multiple of the pool's.
    pub block_bytes: u32,
    /// Size in these blocks.
    pub blocks: u64,
    /// When its chunks are taken from the pool.
    pub provisioning: Provisioning,
    /// Whether clients may write to it.
    pub protection: Protection,
    /// Where its chunks lie, ordered by `logical`; without holes if it is thick.
    pub runs: Vec<Run>,
    /// Opaque state of its logical unit: reservations, mode pages.
    pub state: Vec<u8>,
}

impl Volume {
    /// Size in bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.blocks * u64::from(self.block_bytes)
    }

    /// Chunks it has if every block was written.
    #[must_use]
    pub fn chunks(&self, chunk_bytes: u32) -> u32 {
        let chunks = self.bytes().div_ceil(u64::from(chunk_bytes.max(1)));
        u32::try_from(chunks).unwrap_or(u32::MAX)
    }

    /// Chunks it has.
    #[must_use]
    pub fn chunks_mapped(&self) -> u64 {
        self.runs.iter().map(|run| u64::from(run.chunks)).sum()
    }
}

/// A mirror: the same chunks on each of its legs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mirror {
    /// Disks in leg order.
    pub legs: Vec<Uuid>,
    /// Chunks it has: of its smallest leg.
    pub chunks: u32,
}

/// Everything a pool knows about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Metadata {
    /// Grows by one with every write.
    pub version: MetadataVersion,
    /// Generation of the ownership under which it was written.
    pub generation: u64,
    /// The pool.
    pub pool: Uuid,
    /// Its small number in records and pages.
    pub number: u16,
    /// The pair it belongs to.
    pub pair: u16,
    /// The node it belongs to by configuration.
    pub home: u8,
    /// The operator's name for it, at most 64 bytes.
    pub name: String,
    /// Bytes per chunk.
    pub chunk_bytes: u32,
    /// Largest block length of its disks: what all offsets are multiples of.
    pub block_bytes: u32,
    /// Its mirrors.
    pub mirrors: Vec<Mirror>,
    /// Its volumes.
    pub volumes: BTreeMap<Uuid, Volume>,
}

/// Why metadata can not be read or written.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum MetadataError {
    /// No slot carries our mark.
    #[error("no pool metadata")]
    Absent,
    /// A slot carries our mark and is damaged.
    #[error("pool metadata damaged: {0}")]
    Damaged(&'static str),
    /// Written by a release that this one does not understand.
    #[error(
        "pool metadata has layout version {version}, features {features:#x}; this release reads version {LAYOUT_VERSION} with features {KNOWN_FEATURES:#x}: update it"
    )]
    Newer {
        /// Its layout version.
        version: u16,
        /// Its feature bits.
        features: u64,
    },
    /// The newest readable copy is older than the version known to have been committed.
    #[error(
        "newest metadata found is version {found}, but version {committed} was committed: a disk that has it is missing"
    )]
    Older {
        /// Version found.
        found: u64,
        /// Version recorded.
        committed: u64,
    },
    /// It does not fit its slot.
    #[error("pool metadata needs {needed} bytes, its slot has {slot}: delete volumes or use more, smaller pools")]
    Full {
        /// Bytes needed.
        needed: u64,
        /// Bytes available.
        slot: u32,
    },
}

/// The first page of a slot: enough to know whether the rest is worth reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Version in this slot.
    pub version: MetadataVersion,
    /// Generation under which it was written.
    pub generation: u64,
    /// The pool.
    pub pool: Uuid,
    /// Feature bits: what a reader of the body has to know.
    features: u64,
    /// Bytes of the body that follows the header page.
    pub body_bytes: u32,
    /// CRC32C of the body.
    pub body_crc: u32,
}

impl Header {
    /// Bytes of header and body, rounded up to whole pages: what to read from the slot.
    #[must_use]
    pub fn image_bytes(&self) -> u64 {
        (PAGE_BYTES as u64 + u64::from(self.body_bytes)).next_multiple_of(PAGE_BYTES as u64)
    }

    /// Reads the first page of a slot.
    ///
    /// # Errors
    /// [`MetadataError::Absent`], [`MetadataError::Damaged`] or [`MetadataError::Newer`].
    pub fn decode(page: &[u8]) -> Result<Self, MetadataError> {
        let page = page.get(..PAGE_BYTES).ok_or(MetadataError::Absent)?;
        let (fields, crc) = page.split_at(PAGE_BYTES - 4);
        let mut reader = Reader::new(fields);
        if reader.take(MAGIC.len()) != Some(&MAGIC) {
            return Err(MetadataError::Absent);
        }
        if crc != crc32c(fields).to_le_bytes() {
            return Err(MetadataError::Damaged("checksum of the header"));
        }
        Self::decode_fields(&mut reader).ok_or(MetadataError::Damaged("short header"))?
    }

    fn decode_fields(reader: &mut Reader<'_>) -> Option<Result<Self, MetadataError>> {
        let version = reader.u16()?;
        reader.u16()?;
        let body_bytes = reader.u32()?;
        let features = reader.u64()?;
        if version != LAYOUT_VERSION || features & !KNOWN_FEATURES != 0 {
            return Some(Err(MetadataError::Newer { version, features }));
        }
        let (number, generation) = (reader.u64()?, reader.u64()?);
        let (pool, body_crc) = (reader.uuid()?, reader.u32()?);
        Some(Ok(Self { version: MetadataVersion(number), generation, pool, features, body_bytes, body_crc }))
    }

    fn encode(&self) -> Vec<u8> {
        let mut page = Writer::default();
        page.raw(&MAGIC);
        page.u16(LAYOUT_VERSION);
        page.u16(0);
        page.u32(self.body_bytes);
        page.u64(self.features); // snapshots and clones will each own a bit
        page.u64(self.version.0);
        page.u64(self.generation);
        page.uuid(self.pool);
        page.u32(self.body_crc);
        page.pad_to(PAGE_BYTES - 4);
        page.u32(crc32c(&page.0));
        page.0
    }
}

/// Volume kinds on disk. A volume of another kind needs a feature bit, so an older release never gets this far.
const THICK: u8 = 0;
const THIN: u8 = 1;
/// Flags of a volume on disk: it is write-protected.
const PROTECTED: u8 = 1 << 0;
/// Run kinds on disk: the chunks are the volume's own. Shared (snapshot) runs will be another, behind a feature bit.
const OWNED: u16 = 0;

impl Metadata {
    /// The volume of this name.
    #[must_use]
    pub fn volume_named(&self, name: &str) -> Option<&Volume> {
        self.volumes.values().find(|volume| volume.name == name)
    }

    /// The slot (0 or 1) that this version goes to.
    #[must_use]
    pub fn slot(&self) -> u8 {
        u8::from(!self.version.0.is_multiple_of(2))
    }

    fn features(&self) -> u64 {
        let of = |volume: &Volume| match (volume.provisioning, volume.protection) {
            (Provisioning::Thick, Protection::Writable) => 0,
            (Provisioning::Thick, Protection::WriteProtected) => HAS_PROTECTED,
            (Provisioning::Thin, Protection::Writable) => HAS_THIN,
            (Provisioning::Thin, Protection::WriteProtected) => HAS_THIN | HAS_PROTECTED,
        };
        self.volumes.values().fold(0, |features, volume| features | of(volume))
    }

    /// The bytes for that slot: whole pages, at most `slot_bytes`.
    ///
    /// # Errors
    /// [`MetadataError::Full`].
    pub fn encode(&self, slot_bytes: u32) -> Result<Vec<u8>, MetadataError> {
        let body = self.encode_body();
        let needed = (PAGE_BYTES + body.len()).next_multiple_of(PAGE_BYTES);
        let full = MetadataError::Full { needed: needed as u64, slot: slot_bytes };
        let Ok(body_bytes) = u32::try_from(body.len()) else { return Err(full) };
        if needed as u64 > u64::from(slot_bytes) {
            return Err(full);
        }
        let header = Header {
            version: self.version,
            generation: self.generation,
            pool: self.pool,
            features: self.features(),
            body_bytes,
            body_crc: crc32c(&body),
        };
        let mut image = header.encode();
        image.extend_from_slice(&body);
        image.resize(needed, 0);
        Ok(image)
    }

    fn encode_body(&self) -> Vec<u8> {
        let mut body = Writer::default();
        body.u16(self.number);
        body.u16(self.pair);
        body.u8(self.home);
        body.u8(0);
        body.u16(u16::try_from(self.mirrors.len()).expect("at most MIRRORS_MAX"));
        body.u32(u32::try_from(self.volumes.len()).expect("at most VOLUMES_MAX"));
        body.u32(self.chunk_bytes);
        body.u32(self.block_bytes);
        body.u32(0); // bytes per bit of the intent bitmap; 0: the bitmap is not in use
        body.text(&self.name);
        for mirror in &self.mirrors {
            let mut record = Writer::default();
            record.u32(mirror.chunks);
            record.u8(u8::try_from(mirror.legs.len()).expect("at most LEGS_MAX"));
            mirror.legs.iter().for_each(|&disk| record.uuid(disk));
            sized(&mut body, &record);
        }
        for volume in self.volumes.values() {
            sized(&mut body, &encode_volume(volume));
        }
        body.0
    }

    /// Reads header and body of a slot.
    ///
    /// # Errors
    /// [`MetadataError::Absent`], [`MetadataError::Damaged`] or [`MetadataError::Newer`].
    pub fn decode(image: &[u8]) -> Result<Self, MetadataError> {
        let header = Header::decode(image)?;
        let length = usize::try_from(header.body_bytes).map_err(|_| MetadataError::Damaged("length of the body"))?;
        let body = image.get(PAGE_BYTES..).and_then(|rest| rest.get(..length));
        let body = body.ok_or(MetadataError::Damaged("length of the body"))?;
        if crc32c(body) != header.body_crc {
            return Err(MetadataError::Damaged("checksum of the body (a write that was cut short)"));
        }
        let metadata =
            decode_body(header, &mut Reader::new(body)).ok_or(MetadataError::Damaged("fields of the body"))?;
        metadata.unsound().map_or(Ok(metadata.clone()), |what| Err(MetadataError::Damaged(what)))
    }

    /// What is wrong with it, if anything: the invariants of this file.
    #[must_use]
    pub fn unsound(&self) -> Option<&'static str> {
        let chunk_ok = self.chunk_bytes.is_power_of_two() && CHUNK_BYTES_RANGE.contains(&self.chunk_bytes);
        if !chunk_ok || !matches!(self.block_bytes, 512 | 4096) {
            return Some("chunk or block size");
        }
        if self.mirrors.len() > MIRRORS_MAX || self.volumes.len() > VOLUMES_MAX || self.name.len() > NAME_MAX_BYTES {
            return Some("too many mirrors or volumes, or too long a name");
        }
        let disks: BTreeSet<_> = self.mirrors.iter().flat_map(|mirror| &mirror.legs).collect();
        let legs: usize = self.mirrors.iter().map(|mirror| mirror.legs.len()).sum();
        if disks.len() != legs
            || self.mirrors.iter().any(|mirror| mirror.legs.is_empty() || mirror.legs.len() > LEGS_MAX)
        {
            return Some("a mirror without legs or a disk in two places");
        }
        let names: BTreeSet<_> = self.volumes.values().map(|volume| &volume.name).collect();
        let luns: BTreeSet<_> = self.volumes.values().map(|volume| volume.lun).collect();
        if names.len() != self.volumes.len() || luns.len() != self.volumes.len() {
            return Some("two volumes with one name or LUN");
        }
        self.volumes.values().find_map(|volume| self.unsound_volume(volume)).or_else(|| self.chunk_owned_twice())
    }

    fn unsound_volume(&self, volume: &Volume) -> Option<&'static str> {
        let sizes = matches!(volume.block_bytes, 512 | 4096) && volume.block_bytes >= self.block_bytes;
        if !sizes || volume.lun > LUN_MAX || volume.name.len() > NAME_MAX_BYTES || volume.state.len() > STATE_MAX_BYTES
        {
            return Some("block size, LUN, name or state of a volume");
        }
        let Some(bytes) = volume.blocks.checked_mul(u64::from(volume.block_bytes)).filter(|&bytes| bytes > 0) else {
            return Some("a volume without blocks, or with more than there can be");
        };
        let Ok(chunks) = u32::try_from(bytes.div_ceil(u64::from(self.chunk_bytes))) else {
            return Some("a volume longer than its map can be");
        };
        let mut next = 0u32;
        for run in &volume.runs {
            let mirror = self.mirrors.get(usize::from(run.mirror));
            let end = run.physical.checked_add(run.chunks);
            let fits = mirror.zip(end).is_some_and(|(mirror, end)| end <= mirror.chunks);
            let in_place = match volume.provisioning {
                Provisioning::Thick => run.logical == next,
                Provisioning::Thin => run.logical >= next,
            };
            if !in_place || run.chunks == 0 || !fits {
                return Some(
                    "a run out of order, with a hole before it where none may be, or past the end of its mirror",
                );
            }
            let Some(after) = run.logical.checked_add(run.chunks) else {
                return Some("a map longer than a volume can be");
            };
            next = after;
        }
        let whole = match volume.provisioning {
            Provisioning::Thick => next == chunks,
            Provisioning::Thin => next <= chunks,
        };
        (!whole).then_some("a map shorter or longer than its volume")
    }

    fn chunk_owned_twice(&self) -> Option<&'static str> {
        let mut runs: Vec<_> = self.volumes.values().flat_map(|volume| &volume.runs).collect();
        runs.sort_unstable_by_key(|run| (run.mirror, run.physical));
        let overlap = runs
            .windows(2)
            .any(|pair| pair[0].mirror == pair[1].mirror && pair[0].physical + pair[0].chunks > pair[1].physical);
        overlap.then_some("a chunk that belongs to two volumes")
    }
}

/// The newest of several readable copies that is not older than `at_least`.
///
/// # Errors
/// [`MetadataError::Absent`] if there is none, [`MetadataError::Older`] if all are older: serving from one of them
/// would undo what was already answered.
pub fn newest(
    candidates: impl IntoIterator<Item = Metadata>,
    at_least: MetadataVersion,
) -> Result<Metadata, MetadataError> {
    let best = candidates.into_iter().max_by_key(|metadata| (metadata.version, metadata.generation));
    let best = best.ok_or(MetadataError::Absent)?;
    if best.version < at_least {
        return Err(MetadataError::Older { found: best.version.0, committed: at_least.0 });
    }
    Ok(best)
}

/// A record behind its length, so that an older release can skip fields a newer one appended.
fn sized(body: &mut Writer, record: &Writer) {
    body.u32(u32::try_from(record.0.len()).expect("a record is below a slot's size"));
    body.raw(&record.0);
}

fn encode_volume(volume: &Volume) -> Writer {
    let mut record = Writer::default();
    record.uuid(volume.uuid);
    record.u8(match volume.provisioning {
        Provisioning::Thick => THICK,
        Provisioning::Thin => THIN,
    });
    record.u8(match volume.protection {
        Protection::Writable => 0,
        Protection::WriteProtected => PROTECTED,
    });
    record.u16(volume.lun);
    record.u32(volume.block_bytes);
    record.u64(volume.blocks);
    record.uuid(Uuid::NIL); // the volume it will be a snapshot or clone of
    record.u32(u32::try_from(volume.runs.len()).expect("a chunk number has 32 bits"));
    record.u32(u32::try_from(volume.state.len()).expect("at most STATE_MAX_BYTES"));
    record.text(&volume.name);
    for run in &volume.runs {
        record.u32(run.logical);
        record.u32(run.physical);
        record.u32(run.chunks);
        record.u16(run.mirror);
        record.u16(OWNED);
    }
    record.raw(&volume.state);
    record
}

fn decode_body(header: Header, reader: &mut Reader<'_>) -> Option<Metadata> {
    let (number, pair, home) = (reader.u16()?, reader.u16()?, reader.u8()?);
    reader.u8()?;
    let (mirror_count, volume_count) = (reader.u16()?, reader.u32()?);
    let (chunk_bytes, block_bytes) = (reader.u32()?, reader.u32()?);
    reader.u32()?;
    let name = reader.text()?;
    // BOUND: both loops end with the bytes at hand; a count that lies runs out of them.
    let mirrors = (0..mirror_count).map(|_| decode_mirror(reader)).collect::<Option<Vec<_>>>()?;
    let mut volumes = BTreeMap::new();
    for _ in 0..volume_count {
        let volume = decode_volume(reader, header.features)?;
        if volumes.insert(volume.uuid, volume).is_some() {
            return None;
        }
    }
    let Header { version, generation, pool, .. } = header;
    reader.is_empty().then_some(Metadata {
        version,
        generation,
        pool,
        number,
        pair,
        home,
        name,
        chunk_bytes,
        block_bytes,
        mirrors,
        volumes,
    })
}

fn decode_mirror(reader: &mut Reader<'_>) -> Option<Mirror> {
    let length = usize::try_from(reader.u32()?).ok()?;
    let mut record = Reader::new(reader.take(length)?);
    let (chunks, count) = (record.u32()?, record.u8()?);
    let legs = (0..count).map(|_| record.uuid()).collect::<Option<Vec<_>>>()?;
    Some(Mirror { legs, chunks })
}

fn decode_volume(reader: &mut Reader<'_>, features: u64) -> Option<Volume> {
    let length = usize::try_from(reader.u32()?).ok()?;
    let mut record = Reader::new(reader.take(length)?);
    let uuid = record.uuid()?;
    let provisioning = match record.u8()? {
        THICK => Provisioning::Thick,
        THIN if features & HAS_THIN != 0 => Provisioning::Thin,
        _ => return None,
    };
    let protection = match record.u8()? {
        // A pool without the bit may be served by a release that neither looks at this byte nor keeps it.
        flags if flags & PROTECTED != 0 && features & HAS_PROTECTED != 0 => Protection::WriteProtected,
        _ => Protection::Writable,
    };
    let (lun, block_bytes, blocks) = (record.u16()?, record.u32()?, record.u64()?);
    record.uuid()?;
    let (run_count, state_bytes) = (record.u32()?, usize::try_from(record.u32()?).ok()?);
    let name = record.text()?;
    let runs = (0..run_count).map(|_| decode_run(&mut record)).collect::<Option<Vec<_>>>()?;
    let state = record.take(state_bytes)?.to_vec();
    Some(Volume { uuid, name, lun, block_bytes, blocks, provisioning, protection, runs, state })
}

fn decode_run(record: &mut Reader<'_>) -> Option<Run> {
    let (logical, physical, chunks, mirror) = (record.u32()?, record.u32()?, record.u32()?, record.u16()?);
    (record.u16()? == OWNED).then_some(Run { logical, mirror, physical, chunks })
}

#[cfg(test)]
mod tests {
    use super::{Header, Metadata, MetadataError, Protection, Provisioning, Run, newest};
    use crate::allocate::{NewVolume, tests::pool};
    use crate::{MetadataVersion, PAGE_BYTES, Uuid, crc32c};

    const SLOT: u32 = 1 << 20;

    fn sample() -> Metadata {
        let mut metadata = pool(3, 40);
        for lun in 0..5u16 {
            let uuid = Uuid([u8::try_from(lun).expect("small") + 1; 16]);
            let new = NewVolume {
                uuid,
                name: format!("v{lun}"),
                lun,
                block_bytes: 4096,
                blocks: 256 * 9 + u64::from(lun),
                provisioning: Provisioning::Thick,
            };
            metadata = metadata.with_volume(new).expect("fits");
        }
        let first = *metadata.volumes.keys().next().expect("there are five");
        metadata.volumes.get_mut(&first).expect("just seen").state = vec![7; 300];
        metadata
    }

    #[test]
    fn metadata_reads_back() {
        let metadata = sample();
        let image = metadata.encode(SLOT).expect("fits");
        assert_eq!(image.len() % PAGE_BYTES, 0);
        assert_eq!(Metadata::decode(&image), Ok(metadata.clone()));
        let header = Header::decode(&image).expect("valid");
        assert_eq!(header.image_bytes(), image.len() as u64);
        assert_eq!(header.version, metadata.version);
    }

    #[test]
    fn torn_image_is_refused_at_every_block() {
        let old = sample().encode(SLOT).expect("fits");
        let mut newer = sample();
        newer.version.0 += 2;
        newer.name = "renamed".into();
        let new = newer.encode(SLOT).expect("fits");
        for cut in (512..new.len().min(old.len())).step_by(512) {
            let mut torn = new[..cut].to_vec();
            torn.extend_from_slice(&old[cut..]);
            let unchanged = torn == new;
            assert_eq!(Metadata::decode(&torn).is_ok(), unchanged, "cut at {cut}");
        }
    }

    /// What a release from before thin and write-protected volumes wrote: pool, header, thick volumes of one run and of two, kept state.
    #[test]
    fn pools_of_the_first_release_are_read_and_written_as_they_were() {
        const HEAD: &str = "554e4452504f4f4c010000001f0100000000000000000000050000000000000003000000000000000101010101010101\
            010101010101010193da11a2";
        const CRC: &str = "79ca28c9";
        const BODY: &str = "01000700000002000200000000001000000200000000000001702500000028000000026464646464646464646464\
            6464646464c8c8c8c8c8c8c8c8c8c8c8c8c8c8c8c825000000280000000265656565656565656565656565656565c9c9c9c9c9c9c9\
            c9c9c9c9c9c9c9c9c94b000000010101010101010101010101010101010000000000100000000900000000000000000000000000\
            00000000000000000001000000000000000276300000000000000000090000000000000060000000080808080808080808080808\
            080808080000070000100000013c0000000000000000000000000000000000000000000002000000050000000276370000000000\
            0000002800000001000000280000000900000015000000000000000707070707";
        let bytes = |hex: &str| -> Vec<u8> {
            let digits = hex.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).expect("ASCII"));
            digits.map(|pair| u8::from_str_radix(pair, 16).expect("hexadecimal")).collect()
        };
        let mut image = bytes(HEAD);
        image.resize(PAGE_BYTES - 4, 0);
        image.extend(bytes(CRC));
        image.extend(bytes(BODY));
        image.resize(2 * PAGE_BYTES, 0);
        let metadata = Metadata::decode(&image).expect("understood");
        let volumes: Vec<_> = metadata.volumes.values().collect();
        assert!(volumes.iter().all(|volume| volume.provisioning == Provisioning::Thick));
        assert!(volumes.iter().all(|volume| volume.protection == Protection::Writable));
        assert_eq!((volumes[1].runs.len(), volumes[1].state.len(), metadata.generation), (2, 5, 3));
        assert_eq!(metadata.encode(SLOT).expect("fits"), image);
    }

    #[test]
    fn thin_and_protected_volumes_stand_behind_feature_bits_of_their_own() {
        let metadata = sample();
        let of = |metadata: &Metadata| Header::decode(&metadata.encode(SLOT).expect("fits")).expect("ours").features;
        let uuid = *metadata.volumes.keys().next().expect("five");
        let protected = metadata.with_protection(uuid, Protection::WriteProtected).expect("there");
        let thin = NewVolume {
            uuid: Uuid([9; 16]),
            name: "thin".into(),
            lun: 9,
            block_bytes: 4096,
            blocks: 1 << 20,
            provisioning: Provisioning::Thin,
        };
        let both = protected.with_volume(thin).expect("takes no room");
        assert_eq!([&metadata, &protected, &both].map(of), [0, 2, 3]);
        let image = both.encode(SLOT).expect("fits");
        assert_eq!(Metadata::decode(&image), Ok(both));
        // A volume of a kind whose bit is not set was written by nobody.
        let mut image = image;
        image[16] = 2;
        let crc = crc32c(&image[..PAGE_BYTES - 4]).to_le_bytes();
        image[PAGE_BYTES - 4..PAGE_BYTES].copy_from_slice(&crc);
        assert!(matches!(Metadata::decode(&image), Err(MetadataError::Damaged(_))));
    }

    #[test]
    fn version_alternates_between_the_slots() {
        let mut metadata = sample();
        let first = metadata.slot();
        metadata.version.0 += 1;
        assert_ne!(metadata.slot(), first);
    }

    #[test]
    fn newest_never_goes_below_the_committed_version() {
        let old = sample();
        let mut new = old.clone();
        new.version.0 += 1;
        let committed = new.version;
        assert_eq!(newest([old.clone(), new.clone()], committed), Ok(new.clone()));
        assert_eq!(newest([new.clone(), old.clone()], old.version), Ok(new));
        assert!(matches!(newest([old], committed), Err(MetadataError::Older { .. })));
        assert_eq!(newest([], MetadataVersion(0)), Err(MetadataError::Absent));
    }

    #[test]
    fn metadata_larger_than_its_slot_is_refused_with_both_sizes() {
        let metadata = sample();
        assert!(matches!(metadata.encode(4096), Err(MetadataError::Full { needed: 8192, slot: 4096 })));
    }

    #[test]
    fn unknown_feature_bit_is_refused() {
        let mut image = sample().encode(SLOT).expect("fits");
        image[16] = 4;
        let crc = crc32c(&image[..PAGE_BYTES - 4]).to_le_bytes();
        image[PAGE_BYTES - 4..PAGE_BYTES].copy_from_slice(&crc);
        assert_eq!(Metadata::decode(&image), Err(MetadataError::Newer { version: 1, features: 4 }));
    }

    #[test]
    fn chunk_of_two_volumes_is_refused() {
        let mut metadata = sample();
        let runs: Vec<Vec<Run>> = metadata.volumes.values().map(|volume| volume.runs.clone()).collect();
        let second = *metadata.volumes.keys().nth(1).expect("five");
        metadata.volumes.get_mut(&second).expect("seen").blocks = 256 * 9;
        metadata.volumes.get_mut(&second).expect("seen").runs = runs[0].clone();
        assert!(metadata.unsound().is_some());
        let image = metadata.encode(SLOT).expect("fits");
        assert!(matches!(Metadata::decode(&image), Err(MetadataError::Damaged(_))));
    }
}
