//! Where things lie on a lock disk. What they say is the failover core's.
//!
//! Every node has its own area, written by nobody else: a heartbeat page and two record slots used in turn, so that
//! a record half written leaves the one before. Each starts on a 4 KiB boundary on any block size, and the
//! areas lie 64 KiB apart, so that a torn write of one node cannot hit the other node's bytes. The offsets are constants: a node finds
//! them on a disk whose partition table or label it cannot read.

use crate::{DiskShape, PAGE_BYTES, PARTITION_OFFSET, Span};

/// Number of node areas; a pair uses two, the rest is kept for later.
pub const NODE_AREAS: u8 = 4;

/// Distance between the areas of two nodes, bytes. 64 KiB: more than any physical block or stripe unit of a RAID
/// controller that might be rewritten as a whole.
const AREA_STRIDE: u64 = 64 << 10;

/// Room of one record slot, bytes: what the failover core calls `RECORD_SLOT_BYTES`.
pub const RECORD_SLOT_BYTES: u64 = 16 << 10;

/// First node area, bytes from the start of the disk.
const AREAS_OFFSET: u64 = PARTITION_OFFSET + (1 << 20);

/// Reserved for changing the format while both releases run, bytes from the start of the disk.
pub const UPGRADE_AREA_OFFSET: u64 = PARTITION_OFFSET + (2 << 20);

/// Size of the reserved area, bytes.
pub const UPGRADE_AREA_BYTES: u64 = 2 << 20;

/// The smallest lock disk, bytes: areas, upgrade area and the backup partition table, rounded up.
pub const LOCK_DISK_MIN_BYTES: u64 = 8 << 20;

/// One of the two places of a node's record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecordSlot {
    /// Even sequence numbers.
    Even,
    /// Odd sequence numbers.
    Odd,
}

impl RecordSlot {
    /// The slot that the record with this sequence number goes to.
    #[must_use]
    pub fn of_sequence(sequence: u64) -> Self {
        if sequence.is_multiple_of(2) { Self::Even } else { Self::Odd }
    }
}

/// The places of one lock disk, in its own blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LockPlaces {
    shape: DiskShape,
}

impl LockPlaces {
    /// The places on a disk of this shape; `None` if the disk is smaller than [`LOCK_DISK_MIN_BYTES`] or its blocks
    /// are not of 512 or 4096 bytes.
    #[must_use]
    pub fn new(shape: DiskShape) -> Option<Self> {
        let supported = matches!(shape.block_bytes, 512 | 4096) && shape.bytes() >= LOCK_DISK_MIN_BYTES;
        supported.then_some(Self { shape })
    }

    /// The heartbeat page of a node, 4 KiB.
    ///
    /// # Panics
    /// If `node` is not below [`NODE_AREAS`]: node numbers come from configuration checked long before.
    #[must_use]
    pub fn heartbeat(self, node: u8) -> Span {
        self.part(node, 0, PAGE_BYTES as u64)
    }

    /// One of the two record slots of a node, [`RECORD_SLOT_BYTES`].
    ///
    /// # Panics
    /// As [`LockPlaces::heartbeat`].
    #[must_use]
    pub fn record(self, node: u8, slot: RecordSlot) -> Span {
        let even = PAGE_BYTES as u64;
        match slot {
            RecordSlot::Even => self.part(node, even, RECORD_SLOT_BYTES),
            RecordSlot::Odd => self.part(node, even + RECORD_SLOT_BYTES, RECORD_SLOT_BYTES),
        }
    }

    /// Heartbeat and both record slots of a node in one read: 36 KiB, in the order heartbeat, even, odd.
    ///
    /// # Panics
    /// As [`LockPlaces::heartbeat`].
    #[must_use]
    pub fn node_area(self, node: u8) -> Span {
        self.part(node, 0, PAGE_BYTES as u64 + 2 * RECORD_SLOT_BYTES)
    }

    /// Everything that initialising a lock disk sets to zero: all node areas and the upgrade area.
    #[must_use]
    pub fn blank_at_birth(self) -> Span {
        let bytes = UPGRADE_AREA_OFFSET + UPGRADE_AREA_BYTES - AREAS_OFFSET;
        self.shape.span(AREAS_OFFSET, bytes).expect("the disk is at least LOCK_DISK_MIN_BYTES")
    }

    fn part(self, node: u8, offset: u64, bytes: u64) -> Span {
        assert!(node < NODE_AREAS, "node {node} has no area on a lock disk");
        let area = AREAS_OFFSET + u64::from(node) * AREA_STRIDE;
        self.shape.span(area + offset, bytes).expect("the disk is at least LOCK_DISK_MIN_BYTES")
    }
}

#[cfg(test)]
mod tests {
    use super::{LOCK_DISK_MIN_BYTES, LockPlaces, NODE_AREAS, RecordSlot, UPGRADE_AREA_BYTES, UPGRADE_AREA_OFFSET};
    use crate::{DiskShape, gpt};

    fn places(block_bytes: u32) -> (LockPlaces, DiskShape) {
        let shape = DiskShape { block_bytes, blocks: LOCK_DISK_MIN_BYTES / u64::from(block_bytes) };
        (LockPlaces::new(shape).expect("large enough"), shape)
    }

    #[test]
    fn no_two_pages_share_a_block_and_all_lie_in_the_partition() {
        for block_bytes in [512, 4096] {
            let (places, shape) = places(block_bytes);
            let partition = gpt::partition(shape).expect("large enough");
            let mut spans: Vec<_> = (0..NODE_AREAS)
                .flat_map(|node| {
                    [
                        places.heartbeat(node),
                        places.record(node, RecordSlot::Even),
                        places.record(node, RecordSlot::Odd),
                    ]
                })
                .collect();
            spans.push(shape.span(UPGRADE_AREA_OFFSET, UPGRADE_AREA_BYTES).expect("on the disk"));
            spans.sort_by_key(|span| span.lba);
            for pair in spans.windows(2) {
                assert!(pair[0].lba + u64::from(pair[0].blocks) <= pair[1].lba);
            }
            for span in &spans {
                assert!(partition.first_lba <= span.lba);
                assert!(span.lba + u64::from(span.blocks) - 1 <= partition.last_lba);
            }
        }
    }

    #[test]
    fn node_area_is_heartbeat_then_both_records() {
        for block_bytes in [512, 4096] {
            let (places, _) = places(block_bytes);
            let area = places.node_area(1);
            assert_eq!(area.lba, places.heartbeat(1).lba);
            let odd = places.record(1, RecordSlot::of_sequence(7));
            assert_eq!(area.lba + u64::from(area.blocks), odd.lba + u64::from(odd.blocks));
        }
    }

    #[test]
    fn small_disk_or_odd_block_size_has_no_places() {
        assert!(LockPlaces::new(DiskShape { block_bytes: 512, blocks: 100 }).is_none());
        assert!(LockPlaces::new(DiskShape { block_bytes: 520, blocks: 1 << 30 }).is_none());
        assert!(LockPlaces::new(DiskShape { block_bytes: 0, blocks: u64::MAX }).is_none());
    }
}
