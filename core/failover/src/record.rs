//! What a node writes to its area of a lock disk: records and heartbeats.
//!
//! An area has one heartbeat block and two record slots; a record goes to slot `sequence % 2`. The writer picks its sequence numbers so that
//! the last record known to stand on a majority is never overwritten, however often the next one is tried. Each area has one writer. Not here: where the area lies on the disk (the layout crate), and what the records of both
//! nodes on all lock disks say together ([`crate::survey`]).
//!
//! Record, little-endian: 0 magic `USTDRECD` (8) · 8 layout version (2) · 10 pair (2) · 12 node (1) · 13 zero (1) · 14 pools (2) ·
//! 16 incarnation (8) · 24 sequence (8) · 32 length of the whole in bytes with CRC (4) · 36 zero (4) · 40 entries · CRC-32C of everything
//! before it (4) · zeros up to a whole number of 4096-byte blocks.
//!
//! Entry: 0 pool (4) · 4 owner (1) · 5 verdict (1) · 6 legs equal (1) · 7 zero (1) · 8 generation (4) · 12 mirrors (2) ·
//! 14 zero (2) · 16 metadata version (8) · 24 one byte a mirror, one bit a good leg.
//!
//! Heartbeat: 0 magic `USTDBEAT` (8) · 8 pair (2) · 10 node (1) · 11 zero (5) · 16 incarnation (8) · 24 counter (8) · 32 CRC-32C (4) ·
//! zeros up to 512 bytes.

use thiserror::Error;

use crate::effect::LegsAre;
use crate::page::crc32c;
use crate::words::{Generation, Incarnation, LegSet, MetadataVersion, NodeId, PairId, PoolId};

/// Room of one record slot, a multiple of 4096. Holds 60 pools with about 240 mirrors each.
pub const RECORD_SLOT_BYTES: usize = 16 * 1024;
/// Room of the heartbeat block: what is written is 512 bytes, padded by the driver to the disk's block.
pub const HEARTBEAT_BYTES: usize = 512;
/// Layout this release writes.
pub const RECORD_VERSION: u16 = 1;

const RECORD_MAGIC: [u8; 8] = *b"USTDRECD";
const HEARTBEAT_MAGIC: [u8; 8] = *b"USTDBEAT";
const HEADER_BYTES: usize = 40;
const ENTRY_BYTES: usize = 24;
const BLOCK_BYTES: usize = 4096;

/// What an entry decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[repr(u8)]
pub enum Verdict {
    /// The owner has it.
    Owned = 1,
    /// Handed over to the owner named: the commit point of a hand-off.
    Commit = 2,
    /// A COMMIT before this one did not come to be; the owner named has it.
    Abort = 3,
}

/// What is recorded of one pool.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
pub struct PoolEntry {
    /// Which pool.
    pub pool: PoolId,
    /// Whose it is.
    pub owner: NodeId,
    /// Since which change.
    pub generation: Generation,
    /// Metadata version at that change; the disks may have a newer one, never an older one.
    pub metadata_version: MetadataVersion,
    /// What it decides.
    pub verdict: Verdict,
    /// Whether the legs held the same at that moment.
    pub legs_are: LegsAre,
    /// Legs recorded good, per mirror.
    pub legs: Vec<LegSet>,
}

/// A record.
#[derive(Debug, Clone, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct Record {
    /// Whose pair.
    pub pair: PairId,
    /// Whose area.
    pub node: NodeId,
    /// Which run wrote it.
    pub incarnation: Incarnation,
    /// Grows with every record of this area.
    pub sequence: u64,
    /// One entry a pool, ascending by pool.
    pub pools: Vec<PoolEntry>,
}

/// A heartbeat.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct Heartbeat {
    /// Which run beats.
    pub incarnation: Incarnation,
    /// Grows with every beat.
    pub counter: u64,
}

/// Why bytes are no record, or no heartbeat.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum RecordError {
    /// Never written.
    #[error("never written")]
    Blank,
    /// Torn or damaged.
    #[error("torn or damaged")]
    Torn,
    /// Of another pair or node.
    #[error("of another pair or node")]
    Foreign,
    /// Of a release too far away.
    #[error("layout {0} is not understood by this release")]
    Version(u16),
    /// A field has a value no release may write.
    #[error("a field has no meaning")]
    Meaning,
}

/// The two slots of one area: in each the whole record it holds, or `None` if it is blank, torn or foreign.
///
/// Both count. While a record is being written to one slot the one before it stands in the other, and if its writer dies in between
/// that is the one that decides.
pub type RecordSlots = [Option<Record>; 2];

fn take<const N: usize>(bytes: &[u8], offset: usize) -> Option<[u8; N]> {
    bytes.get(offset..offset + N)?.try_into().ok()
}

fn u16_at(bytes: &[u8], offset: usize) -> Option<u16> {
    take(bytes, offset).map(u16::from_le_bytes)
}

fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    take(bytes, offset).map(u32::from_le_bytes)
}

fn u64_at(bytes: &[u8], offset: usize) -> Option<u64> {
    take(bytes, offset).map(u64::from_le_bytes)
}

impl Record {
    /// The first record of a pair, written by `pair init` to slot 1 of node A's area on every lock disk: every pool with its home,
    /// generation 1, which is one of node A's.
    #[must_use]
    pub fn initial(
        pair: PairId,
        pools: impl IntoIterator<Item = (PoolId, NodeId, MetadataVersion, Vec<LegSet>)>,
    ) -> Self {
        let mut entries: Vec<_> = pools
            .into_iter()
            .map(|(pool, owner, metadata_version, legs)| PoolEntry {
                pool,
                owner,
                generation: Generation(1),
                metadata_version,
                verdict: Verdict::Owned,
                legs_are: LegsAre::Equal,
                legs,
            })
            .collect();
        entries.sort();
        Self { pair, node: NodeId::A, incarnation: Incarnation::NONE, sequence: 1, pools: entries }
    }

    /// Which of the two slots it belongs to.
    #[must_use]
    pub fn slot(&self) -> usize {
        (self.sequence % 2) as usize
    }

    /// The entry of a pool.
    #[must_use]
    pub fn entry(&self, pool: PoolId) -> Option<&PoolEntry> {
        self.pools.iter().find(|entry| entry.pool == pool)
    }

    /// The bytes to write: whole 4096-byte blocks, at most [`RECORD_SLOT_BYTES`].
    ///
    /// # Panics
    /// If the pair has more mirrors than a slot has room for: refused when a pair is configured.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(BLOCK_BYTES);
        bytes.extend_from_slice(&RECORD_MAGIC);
        bytes.extend_from_slice(&RECORD_VERSION.to_le_bytes());
        bytes.extend_from_slice(&self.pair.0.to_le_bytes());
        bytes.extend_from_slice(&[self.node.code(), 0]);
        bytes.extend_from_slice(&(self.pools.len() as u16).to_le_bytes());
        bytes.extend_from_slice(&self.incarnation.0.to_le_bytes());
        bytes.extend_from_slice(&self.sequence.to_le_bytes());
        let length: usize =
            HEADER_BYTES + self.pools.iter().map(|entry| ENTRY_BYTES + entry.legs.len()).sum::<usize>() + 4;
        bytes.extend_from_slice(&(length as u32).to_le_bytes());
        bytes.extend_from_slice(&[0; 4]);
        for entry in &self.pools {
            entry.put(&mut bytes);
        }
        bytes.extend_from_slice(&crc32c(&bytes).to_le_bytes());
        bytes.resize(bytes.len().next_multiple_of(BLOCK_BYTES), 0);
        assert!(bytes.len() <= RECORD_SLOT_BYTES, "a record fits its slot");
        bytes
    }

    /// The shortest record there is: one block.
    pub const LEAST_ROOM: usize = BLOCK_BYTES;

    /// How many bytes of its slot the record has that begins with these, in whole blocks; [`Record::LEAST_ROOM`] if none begins here. It is
    /// not known yet whether it is whole.
    #[must_use]
    pub fn room_of(start: &[u8]) -> usize {
        let length = u32_at(start, 32).filter(|_| take(start, 0) == Some(RECORD_MAGIC));
        let length = length.map_or(0, |length| length as usize).min(RECORD_SLOT_BYTES);
        length.next_multiple_of(BLOCK_BYTES).max(Self::LEAST_ROOM)
    }

    /// The record in the bytes of a slot.
    ///
    /// # Errors
    /// Says what the bytes are instead; none of it is ever acted on.
    pub fn decode(bytes: &[u8], pair: PairId, node: NodeId) -> Result<Self, RecordError> {
        if bytes.iter().take(HEADER_BYTES).all(|byte| *byte == 0) {
            return Err(RecordError::Blank);
        }
        if take(bytes, 0) != Some(RECORD_MAGIC) {
            return Err(RecordError::Torn);
        }
        let length = u32_at(bytes, 32).ok_or(RecordError::Torn)? as usize;
        if !(HEADER_BYTES + 4..=bytes.len().min(RECORD_SLOT_BYTES)).contains(&length)
            || u32_at(bytes, length - 4) != Some(crc32c(&bytes[..length - 4]))
        {
            return Err(RecordError::Torn);
        }
        let version = u16_at(bytes, 8).ok_or(RecordError::Torn)?;
        if version != RECORD_VERSION {
            return Err(RecordError::Version(version));
        }
        if u16_at(bytes, 10) != Some(pair.0) || bytes[12] != node.code() {
            return Err(RecordError::Foreign);
        }
        Self::decode_body(&bytes[..length - 4], pair, node).ok_or(RecordError::Meaning)
    }

    fn decode_body(bytes: &[u8], pair: PairId, node: NodeId) -> Option<Self> {
        let count = u16_at(bytes, 14)?;
        let (mut pools, mut at) = (Vec::new(), HEADER_BYTES);
        // BOUND: at most 65535 entries, each of which must lie within the slot.
        for _ in 0..count {
            let entry = PoolEntry::take(bytes, at)?;
            at += ENTRY_BYTES + entry.legs.len();
            pools.push(entry);
        }
        let ascending = pools.windows(2).all(|pair| pair[0].pool < pair[1].pool);
        (ascending && at == bytes.len()).then_some(Self {
            pair,
            node,
            incarnation: Incarnation(u64_at(bytes, 16)?),
            sequence: u64_at(bytes, 24)?,
            pools,
        })
    }

    /// The whole records in the bytes of the two slots of `node`'s area.
    #[must_use]
    pub fn slots_of(slots: [&[u8]; 2], pair: PairId, node: NodeId) -> RecordSlots {
        slots.map(|slot| Self::decode(slot, pair, node).ok())
    }
}

impl PoolEntry {
    fn put(&self, bytes: &mut Vec<u8>) {
        let equal = u8::from(self.legs_are == LegsAre::Equal);
        bytes.extend_from_slice(&self.pool.0.to_le_bytes());
        bytes.extend_from_slice(&[self.owner.code(), self.verdict as u8, equal, 0]);
        bytes.extend_from_slice(&self.generation.0.to_le_bytes());
        bytes.extend_from_slice(&(self.legs.len() as u16).to_le_bytes());
        bytes.extend_from_slice(&[0; 2]);
        bytes.extend_from_slice(&self.metadata_version.0.to_le_bytes());
        bytes.extend(self.legs.iter().map(|legs| legs.0));
    }

    fn take(bytes: &[u8], at: usize) -> Option<Self> {
        let mirrors = u16_at(bytes, at + 12)? as usize;
        let legs = bytes.get(at + ENTRY_BYTES..at + ENTRY_BYTES + mirrors)?;
        let verdict = match bytes[at + 5] {
            1 => Verdict::Owned,
            2 => Verdict::Commit,
            3 => Verdict::Abort,
            _ => return None,
        };
        let legs_are = match bytes[at + 6] {
            0 => LegsAre::PerhapsDifferent,
            1 => LegsAre::Equal,
            _ => return None,
        };
        Some(Self {
            pool: PoolId(u32_at(bytes, at)?),
            owner: NodeId::from_code(bytes[at + 4])?,
            generation: Generation(u32_at(bytes, at + 8)?).checked()?,
            metadata_version: MetadataVersion(u64_at(bytes, at + 16)?),
            verdict,
            legs_are,
            legs: legs.iter().map(|byte| LegSet(*byte)).collect(),
        })
    }
}

impl Generation {
    fn checked(self) -> Option<Self> {
        (self <= Self::LAST).then_some(self)
    }
}

impl Heartbeat {
    /// The 512 bytes to write.
    #[must_use]
    pub fn encode(self, pair: PairId, node: NodeId) -> [u8; HEARTBEAT_BYTES] {
        let mut bytes = [0; HEARTBEAT_BYTES];
        bytes[..8].copy_from_slice(&HEARTBEAT_MAGIC);
        bytes[8..10].copy_from_slice(&pair.0.to_le_bytes());
        bytes[10] = node.code();
        bytes[16..24].copy_from_slice(&self.incarnation.0.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.counter.to_le_bytes());
        let crc = crc32c(&bytes[..32]);
        bytes[32..36].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// The heartbeat in the bytes of an area's heartbeat block.
    ///
    /// # Errors
    /// Says what the bytes are instead.
    pub fn decode(bytes: &[u8], pair: PairId, node: NodeId) -> Result<Self, RecordError> {
        let head: [u8; 36] = take(bytes, 0).ok_or(RecordError::Torn)?;
        if head.iter().all(|byte| *byte == 0) {
            return Err(RecordError::Blank);
        }
        if head[..8] != HEARTBEAT_MAGIC || u32_at(&head, 32) != Some(crc32c(&head[..32])) {
            return Err(RecordError::Torn);
        }
        if u16_at(&head, 8) != Some(pair.0) || head[10] != node.code() {
            return Err(RecordError::Foreign);
        }
        let word = |offset| u64_at(&head, offset).ok_or(RecordError::Torn);
        Ok(Self { incarnation: Incarnation(word(16)?), counter: word(24)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAIR: PairId = PairId(9);

    fn record() -> Record {
        let entry = |pool: u32| PoolEntry {
            pool: PoolId(pool),
            owner: if pool.is_multiple_of(2) { NodeId::A } else { NodeId::B },
            generation: Generation(1000 + pool),
            metadata_version: MetadataVersion(1 << 40),
            verdict: [Verdict::Owned, Verdict::Commit, Verdict::Abort][pool as usize % 3],
            legs_are: if pool < 3 { LegsAre::Equal } else { LegsAre::PerhapsDifferent },
            legs: (0..pool as usize * 4).map(|mirror| LegSet(1 + mirror as u8 % 3)).collect(),
        };
        Record {
            pair: PAIR,
            node: NodeId::B,
            incarnation: Incarnation(77),
            sequence: 12,
            pools: (1..=60).map(entry).collect(),
        }
    }

    #[test]
    fn record_of_sixty_pools_comes_back_as_it_was() {
        let record = record();
        let bytes = record.encode();
        assert!(bytes.len() > 4096 && bytes.len().is_multiple_of(4096));
        assert_eq!(Record::decode(&bytes, PAIR, NodeId::B), Ok(record.clone()));
        let mut slot = bytes;
        slot.resize(RECORD_SLOT_BYTES, 0xee);
        assert_eq!(Record::decode(&slot, PAIR, NodeId::B), Ok(record));
    }

    #[test]
    fn room_of_a_record_is_known_from_its_start() {
        let bytes = record().encode();
        assert_eq!(Record::room_of(&bytes[..Record::LEAST_ROOM]), bytes.len());
        assert_eq!(Record::room_of(&[0; 4096]), Record::LEAST_ROOM);
        assert_eq!(Record::room_of(&bytes[..20]), Record::LEAST_ROOM);
        let mut lying = bytes;
        lying[32..36].copy_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(Record::room_of(&lying), RECORD_SLOT_BYTES, "never more than a slot");
    }

    #[test]
    fn record_cut_short_at_any_sector_is_torn() {
        let bytes = record().encode();
        let written = (0..bytes.len()).rev().find(|at| bytes[*at] != 0).expect("not blank") + 1;
        for sectors in 1..written.div_ceil(512) {
            let mut torn = bytes.clone();
            torn[sectors * 512..].fill(0x55);
            assert_eq!(Record::decode(&torn, PAIR, NodeId::B), Err(RecordError::Torn), "{sectors} sectors");
        }
    }

    #[test]
    fn every_flipped_byte_is_noticed() {
        let mut small = record();
        small.pools.truncate(2);
        let bytes = small.encode();
        let length = u32::from_le_bytes(bytes[32..36].try_into().expect("four bytes")) as usize;
        for at in 0..length {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x10;
            assert!(Record::decode(&damaged, PAIR, NodeId::B).is_err(), "byte {at}");
        }
    }

    fn with_crc(mut bytes: Vec<u8>) -> Vec<u8> {
        let length = u32::from_le_bytes(bytes[32..36].try_into().expect("four bytes")) as usize;
        let crc = crc32c(&bytes[..length - 4]);
        bytes[length - 4..length].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    #[test]
    fn lengths_and_counts_that_lie_are_refused() {
        let bytes = record().encode();
        for length in [0u32, 43, 1 << 20, u32::MAX] {
            let mut lying = bytes.clone();
            lying[32..36].copy_from_slice(&length.to_le_bytes());
            assert_eq!(Record::decode(&lying, PAIR, NodeId::B), Err(RecordError::Torn));
        }
        let mut lying = bytes.clone();
        lying[14..16].copy_from_slice(&61u16.to_le_bytes());
        assert_eq!(Record::decode(&with_crc(lying), PAIR, NodeId::B), Err(RecordError::Meaning));
        let mut lying = bytes;
        lying[40 + 12..40 + 14].copy_from_slice(&u16::MAX.to_le_bytes());
        assert_eq!(Record::decode(&with_crc(lying), PAIR, NodeId::B), Err(RecordError::Meaning));
    }

    #[test]
    fn a_record_longer_than_its_slot_is_refused() {
        let entry =
            |pool: u32| PoolEntry { pool: PoolId(pool), legs: vec![LegSet(3); 60_000], ..record().pools[0].clone() };
        let mut bytes = Record { pools: Vec::new(), ..record() }.encode()[..HEADER_BYTES].to_vec();
        bytes[14..16].copy_from_slice(&1u16.to_le_bytes());
        entry(1).put(&mut bytes);
        let length = (bytes.len() + 4) as u32;
        bytes[32..36].copy_from_slice(&length.to_le_bytes());
        bytes.extend_from_slice(&crc32c(&bytes).to_le_bytes());
        assert_eq!(Record::decode(&bytes, PAIR, NodeId::B), Err(RecordError::Torn), "it could not be written again");
    }

    #[test]
    fn fields_without_a_meaning_are_refused() {
        for (offset, byte) in [(44, 3u8), (45, 4), (45, 0), (46, 2), (51, 1)] {
            let mut bytes = record().encode();
            bytes[offset] = byte;
            assert_eq!(Record::decode(&with_crc(bytes), PAIR, NodeId::B), Err(RecordError::Meaning), "at {offset}");
        }
        let mut twice = record();
        twice.pools[1].pool = PoolId(1);
        assert_eq!(Record::decode(&twice.encode(), PAIR, NodeId::B), Err(RecordError::Meaning));
    }

    #[test]
    fn blank_foreign_and_newer_slots_are_told_apart() {
        assert_eq!(Record::decode(&[0; 4096], PAIR, NodeId::B), Err(RecordError::Blank));
        assert_eq!(Record::decode(&[], PAIR, NodeId::B), Err(RecordError::Blank));
        let bytes = record().encode();
        assert_eq!(Record::decode(&bytes, PairId(1), NodeId::B), Err(RecordError::Foreign));
        assert_eq!(Record::decode(&bytes, PAIR, NodeId::A), Err(RecordError::Foreign));
        let mut newer = bytes;
        newer[8] = 2;
        assert_eq!(Record::decode(&with_crc(newer), PAIR, NodeId::B), Err(RecordError::Version(2)));
    }

    #[test]
    fn torn_slot_leaves_the_other_one() {
        let (mut one, mut two) = (record(), record());
        one.sequence = 11;
        two.sequence = 12;
        let (odd, mut even) = (one.encode(), two.encode());
        even[700] ^= 1;
        assert_eq!(Record::slots_of([&even, &odd], PAIR, NodeId::B), [None, Some(one.clone())]);
        assert_eq!((one.slot(), two.slot()), (1, 0));
    }

    #[test]
    fn heartbeat_comes_back_and_its_damage_is_noticed() {
        let beat = Heartbeat { incarnation: Incarnation(3), counter: 4 };
        let bytes = beat.encode(PAIR, NodeId::A);
        assert_eq!(Heartbeat::decode(&bytes, PAIR, NodeId::A), Ok(beat));
        assert_eq!(Heartbeat::decode(&bytes, PAIR, NodeId::B), Err(RecordError::Foreign));
        assert_eq!(Heartbeat::decode(&[0; 512], PAIR, NodeId::A), Err(RecordError::Blank));
        assert_eq!(Heartbeat::decode(&bytes[..35], PAIR, NodeId::A), Err(RecordError::Torn));
        for at in 0..36 {
            let mut damaged = bytes;
            damaged[at] ^= 4;
            assert!(Heartbeat::decode(&damaged, PAIR, NodeId::A).is_err(), "byte {at}");
        }
    }
}
