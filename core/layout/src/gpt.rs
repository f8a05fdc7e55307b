//! The partition table that keeps other systems away from our disks (UEFI 2.10 §5.3), and the look at a disk's first
//! and last bytes that keeps *us* away from theirs.
//!
//! A table holds exactly one partition of one of two types of our own: pool disk or lock disk. It is written once,
//! when a pair is made. It is never needed to find our structures ([`crate::PARTITION_OFFSET`] is a constant); its
//! loss is an alarm, not an outage. Encoding is `gptman`'s over an in-memory image of the disk's two ends; decoding
//! checks every field it takes a size from before letting `gptman` follow it.

use std::io::{self, Cursor, Read, Seek, SeekFrom, Write};

use crate::{DiskShape, PARTITION_OFFSET, Uuid};

/// How much of either end of a disk [`inspect`] wants to see, bytes. Covers the places where other systems put their
/// marks: ZFS labels (16 KiB), btrfs (64 KiB), LVM and file systems (first 4 KiB), md 0.90/1.0 (last 128 KiB).
pub const INSPECTED_BYTES: usize = 128 << 10;

/// How much of either end of a disk a table occupies, bytes, rounded up to what any block size divides.
const TABLE_BYTES: usize = 64 << 10;

/// What a disk of ours is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DiskKind {
    /// Holds one leg of a mirror of a pool.
    Pool,
    /// Holds heartbeats and records.
    Lock,
}

impl DiskKind {
    /// Partition type as it stands on the disk (the first three groups of the text form are little-endian).
    /// Drawn at random for this project: pool 6f1d2bb4-2c52-4d6a-9d0e-75cb5f1e0a01,
    /// lock 6f1d2bb4-2c52-4d6a-9d0e-75cb5f1e0a02.
    fn type_guid(self) -> [u8; 16] {
        let last = match self {
            Self::Pool => 0x01,
            Self::Lock => 0x02,
        };
        [0xb4, 0x2b, 0x1d, 0x6f, 0x52, 0x2c, 0x6a, 0x4d, 0x9d, 0x0e, 0x75, 0xcb, 0x5f, 0x1e, 0x0a, last]
    }

    fn of_type_guid(guid: [u8; 16]) -> Option<Self> {
        [Self::Pool, Self::Lock].into_iter().find(|kind| kind.type_guid() == guid)
    }

    fn partition_name(self) -> &'static str {
        match self {
            Self::Pool => "understudy pool",
            Self::Lock => "understudy lock",
        }
    }
}

/// First and last block of a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Partition {
    /// First block.
    pub first_lba: u64,
    /// Last block, included.
    pub last_lba: u64,
}

impl Partition {
    /// Size in bytes on a disk with blocks of this length.
    #[must_use]
    pub fn bytes(self, block_bytes: u32) -> u64 {
        (self.last_lba - self.first_lba + 1) * u64::from(block_bytes)
    }
}

/// The bytes to write to make a disk ours.
#[derive(Debug, Clone)]
pub struct TableImage {
    /// Bytes for the front of the disk: protective MBR, header, entries.
    pub head: Vec<u8>,
    /// Bytes for the end of the disk.
    pub tail: Vec<u8>,
    /// Block at which `tail` begins.
    pub tail_lba: u64,
}

/// What stands on a disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Contents {
    /// Both ends are zeroes.
    Blank,
    /// A partition table of ours.
    Ours(DiskKind),
    /// Somebody else's; the text says whose, as far as it can be told.
    Foreign(&'static str),
}

/// The partition on a disk of this shape; `None` if the disk is below 4 MiB or has blocks that are not of 512 or
/// 4096 bytes.
#[must_use]
pub fn partition(shape: DiskShape) -> Option<Partition> {
    let block = u64::from(shape.block_bytes);
    if !matches!(block, 512 | 4096) || shape.bytes() < 4 << 20 || shape.bytes() == u64::MAX {
        return None;
    }
    let unit = TABLE_BYTES as u64;
    let end = (shape.bytes() - unit) / unit * unit;
    Some(Partition { first_lba: PARTITION_OFFSET / block, last_lba: end / block - 1 })
}

/// The table for a disk of this shape with one partition of this kind; `None` as [`partition`].
///
/// `disk` names the table, `partition_name` the partition in it; both random.
#[must_use]
pub fn table(shape: DiskShape, kind: DiskKind, disk: Uuid, partition_name: Uuid) -> Option<TableImage> {
    let place = partition(shape)?;
    let mut ends = Ends::blank(shape, TABLE_BYTES);
    let block = u64::from(shape.block_bytes);
    let mut gpt = gptman::GPT::new_from(&mut ends, block, disk.0).ok()?;
    gpt[1] = gptman::GPTPartitionEntry {
        partition_type_guid: kind.type_guid(),
        unique_partition_guid: partition_name.0,
        starting_lba: place.first_lba,
        ending_lba: place.last_lba,
        attribute_bits: 0,
        partition_name: kind.partition_name().into(),
    };
    gptman::GPT::write_protective_mbr_into(&mut ends, block).ok()?;
    gpt.write_into(&mut ends).ok()?;
    Some(TableImage { head: ends.head, tail: ends.tail, tail_lba: ends.tail_offset / block })
}

/// Says whose a disk is, from its first and last [`INSPECTED_BYTES`] (or the whole disk twice, if it is smaller).
#[must_use]
pub fn inspect(shape: DiskShape, head: &[u8], tail: &[u8]) -> Contents {
    if head.iter().chain(tail).all(|&byte| byte == 0) {
        return Contents::Blank;
    }
    let Some(tail_offset) = shape.bytes().checked_sub(tail.len() as u64) else {
        return Contents::Foreign("a disk smaller than what was read from it");
    };
    let mut ends = Ends { head: head.to_vec(), tail: tail.to_vec(), tail_offset, at: 0 };
    match read_table(shape, &mut ends) {
        Some(partitions) => {
            kind_of(&partitions).map_or(Contents::Foreign("another system's partition table"), Contents::Ours)
        }
        None => Contents::Foreign(signature(head)),
    }
}

/// The used entries of the primary table, or of the backup if the primary is damaged.
fn read_table(shape: DiskShape, ends: &mut Ends) -> Option<Vec<gptman::GPTPartitionEntry>> {
    let block = u64::from(shape.block_bytes);
    if !matches!(block, 512 | 4096) || shape.blocks < 2 || shape.bytes() == u64::MAX {
        return None;
    }
    [1, shape.blocks - 1].into_iter().find_map(|lba| {
        let mut sector = [0u8; 512];
        ends.seek(SeekFrom::Start(lba.checked_mul(block)?)).ok()?;
        ends.read_exact(&mut sector).ok()?;
        let header = gptman::GPTHeader::read_from(&mut Cursor::new(&sector[..])).ok()?;
        let usual = header.number_of_partition_entries == 128 && header.size_of_partition_entry == 128;
        if !usual || header.partition_entry_lba >= shape.blocks {
            return None;
        }
        let entries = header.read_partitions(ends, block).ok()?;
        Some(entries.into_iter().filter(gptman::GPTPartitionEntry::is_used).collect())
    })
}

fn kind_of(used: &[gptman::GPTPartitionEntry]) -> Option<DiskKind> {
    match used {
        [only] => DiskKind::of_type_guid(only.partition_type_guid),
        _ => None,
    }
}

/// Names what other systems put at the front of a disk.
fn signature(head: &[u8]) -> &'static str {
    let at = |offset: usize, mark: &[u8]| head.get(offset..offset + mark.len()) == Some(mark);
    if at(512, b"EFI PART") || at(4096, b"EFI PART") {
        "a partition table of another system or a damaged one"
    } else if at(512, b"LABELONE") {
        "an LVM physical volume"
    } else if at(0x438, &[0x53, 0xef]) {
        "an ext2/3/4 file system"
    } else if at(0, b"XFSB") {
        "an XFS file system"
    } else if at(0, b"LUKS\xba\xbe") {
        "a LUKS volume"
    } else if at(0x1_0040, b"_BHRfS_M") {
        "a btrfs file system"
    } else if at(510, &[0x55, 0xaa]) {
        "an MBR partition table or boot sector"
    } else {
        "bytes that are not zero and not ours"
    }
}

/// Both ends of a disk in memory, with nothing between: what `gptman` reads and writes.
struct Ends {
    head: Vec<u8>,
    tail: Vec<u8>,
    tail_offset: u64,
    at: u64,
}

impl Ends {
    fn blank(shape: DiskShape, each: usize) -> Self {
        let tail_offset = shape.bytes() - each as u64;
        Self { head: vec![0; each], tail: vec![0; each], tail_offset, at: 0 }
    }

    /// The bytes from the current position to the end of the piece it is in.
    fn here(&mut self) -> Option<&mut [u8]> {
        let in_head = usize::try_from(self.at).ok().filter(|&at| at < self.head.len());
        if let Some(at) = in_head {
            return self.head.get_mut(at..);
        }
        let at = usize::try_from(self.at.checked_sub(self.tail_offset)?).ok()?;
        self.tail.get_mut(at..)
    }
}

impl Read for Ends {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let here = self.here().ok_or_else(|| io::Error::other("between the two ends"))?;
        let count = here.len().min(into.len());
        into[..count].copy_from_slice(&here[..count]);
        self.at += count as u64;
        Ok(count)
    }
}

impl Write for Ends {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let here = self.here().ok_or_else(|| io::Error::other("between the two ends"))?;
        let count = here.len().min(bytes.len());
        here[..count].copy_from_slice(&bytes[..count]);
        self.at += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Seek for Ends {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let end = self.tail_offset + self.tail.len() as u64;
        let target = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::End(by) => end.checked_add_signed(by),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
        };
        self.at = target.ok_or_else(|| io::Error::other("before the start of the disk"))?;
        Ok(self.at)
    }
}

#[cfg(test)]
mod tests {
    use super::{Contents, DiskKind, INSPECTED_BYTES, inspect, partition, table};
    use crate::{DiskShape, Uuid};

    fn shapes() -> [DiskShape; 3] {
        [
            DiskShape { block_bytes: 512, blocks: 131_072 },
            DiskShape { block_bytes: 4096, blocks: 16_384 },
            DiskShape { block_bytes: 512, blocks: 8 << 30 },
        ]
    }

    /// What `inspect` would be shown of a disk that carries only this table.
    fn ends_with(shape: DiskShape, kind: DiskKind) -> (Vec<u8>, Vec<u8>) {
        let image = table(shape, kind, Uuid([7; 16]), Uuid([8; 16])).expect("large enough");
        let (mut head, mut tail) = (image.head, vec![0; INSPECTED_BYTES - image.tail.len()]);
        head.resize(INSPECTED_BYTES, 0);
        tail.extend_from_slice(&image.tail);
        (head, tail)
    }

    #[test]
    fn own_table_is_recognised_from_either_end() {
        for shape in shapes() {
            for kind in [DiskKind::Pool, DiskKind::Lock] {
                let (head, tail) = ends_with(shape, kind);
                let nothing = vec![0; INSPECTED_BYTES];
                assert_eq!(inspect(shape, &head, &tail), Contents::Ours(kind));
                assert_eq!(inspect(shape, &head, &nothing), Contents::Ours(kind));
                assert_eq!(inspect(shape, &nothing, &tail), Contents::Ours(kind));
            }
        }
    }

    #[test]
    fn blank_and_foreign_disks_are_told_apart() {
        let shape = shapes()[0];
        let zeroes = vec![0; INSPECTED_BYTES];
        assert_eq!(inspect(shape, &zeroes, &zeroes), Contents::Blank);
        for (offset, mark) in [(0x438, &[0x53, 0xef][..]), (512, b"LABELONE"), (0x1_0040, b"_BHRfS_M"), (77, b"x")] {
            let mut head = zeroes.clone();
            head[offset..offset + mark.len()].copy_from_slice(mark);
            assert!(matches!(inspect(shape, &head, &zeroes), Contents::Foreign(_)));
        }
        let mut tail = zeroes.clone();
        tail[INSPECTED_BYTES - 5] = 1;
        assert!(matches!(inspect(shape, &zeroes, &tail), Contents::Foreign(_)));
    }

    #[test]
    fn second_partition_makes_a_table_foreign() {
        let shape = shapes()[0];
        let mut ends = super::Ends::blank(shape, INSPECTED_BYTES);
        let mut gpt = gptman::GPT::new_from(&mut ends, 512, [1; 16]).expect("fits");
        for (at, guid) in [(1u32, DiskKind::Pool.type_guid()), (2, [9; 16])] {
            gpt[at] = gptman::GPTPartitionEntry {
                partition_type_guid: guid,
                unique_partition_guid: [u8::try_from(at).expect("small"); 16],
                starting_lba: 2048 * u64::from(at),
                ending_lba: 2048 * u64::from(at) + 7,
                attribute_bits: 0,
                partition_name: "x".into(),
            };
        }
        gpt.write_into(&mut ends).expect("fits");
        assert_eq!(inspect(shape, &ends.head, &ends.tail), Contents::Foreign("another system's partition table"));
    }

    #[test]
    fn impossible_shapes_have_no_partition() {
        for shape in [
            DiskShape { block_bytes: 0, blocks: u64::MAX },
            DiskShape { block_bytes: 4096, blocks: u64::MAX },
            DiskShape { block_bytes: 520, blocks: 1 << 20 },
            DiskShape { block_bytes: 512, blocks: 100 },
        ] {
            assert_eq!(partition(shape), None);
            assert!(table(shape, DiskKind::Pool, Uuid::NIL, Uuid::NIL).is_none());
        }
    }
}
