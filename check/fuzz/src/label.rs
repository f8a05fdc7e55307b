//! Disk labels, with their checksums made right, on disks of several shapes.
//!
//! Properties: a label that is accepted puts every area on the disk, in whole blocks and without overlap; it encodes to a
//! page that reads the same; one whole copy of two is enough, and two damaged ones are never a label.

use understudy_layout::label::{Label, PoolAreas, Role};
use understudy_layout::lock::{LockPlaces, RecordSlot};
use understudy_layout::{DiskShape, PAGE_BYTES, Uuid};

use crate::choices::{Choices, Script};

const SHAPES: [DiskShape; 4] = [
    DiskShape { block_bytes: 512, blocks: 1 << 17 },
    DiskShape { block_bytes: 4096, blocks: 1 << 14 },
    DiskShape { block_bytes: 512, blocks: 1 << 33 },
    DiskShape { block_bytes: 4096, blocks: u64::MAX / 4096 },
];

/// Reads the bytes as the front of a label page.
pub fn run(bytes: &[u8]) {
    let mut choices = Choices::new(bytes);
    let (way, shape) = (choices.byte(), *choices.pick(&SHAPES));
    let shape = DiskShape { blocks: shape.blocks.saturating_sub(choices.below(4) as u64), ..shape };
    let mut page = choices.remainder().to_vec();
    page.resize(PAGE_BYTES, 0);
    if way & 7 != 7 {
        let crc = crc_fast::crc32_iscsi(&page[..PAGE_BYTES - 4]).to_le_bytes();
        page[PAGE_BYTES - 4..].copy_from_slice(&crc);
    }
    let damaged = vec![0x5a; PAGE_BYTES];
    match Label::decode(shape, [&page, &page]) {
        Ok(label) => {
            judge(shape, &label);
            assert_eq!(Label::decode(shape, [&damaged, &page]).as_ref(), Ok(&label));
            assert_eq!(Label::decode(shape, [&page, &damaged]).as_ref(), Ok(&label));
            assert_eq!(Label::decode(shape, [&label.encode(), &damaged]), Ok(label));
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
    places(shape);
}

fn judge(shape: DiskShape, label: &Label) {
    assert!(label.shape.blocks <= shape.blocks && label.shape.block_bytes == shape.block_bytes);
    let Role::PoolLeg { areas, .. } = &label.role else { return };
    let slot = u64::from(areas.slot_bytes);
    for number in 0..2 {
        assert!(shape.span(areas.slot_offset(number), slot).is_some(), "a slot that is not on the disk");
    }
    assert!(areas.slot_offset(0) + slot <= areas.slot_offset(1));
    assert!(areas.slot_offset(1) + slot <= areas.intent_offset);
    assert!(areas.intent_offset + u64::from(areas.intent_bytes) <= areas.data_offset);
    assert!(areas.data_offset.checked_add(areas.data_bytes).is_some_and(|end| end <= shape.bytes()));
    let metadata_pages = Label::places(shape).expect("a disk with a label has room for it");
    let block = u64::from(shape.block_bytes);
    for page in metadata_pages {
        assert!((page.lba + u64::from(page.blocks)) * block <= areas.metadata_offset, "metadata over the label");
    }
}

/// Our own sizes are sound on every disk that has any.
fn places(shape: DiskShape) {
    if let Some(areas) = PoolAreas::for_disk(shape) {
        let role = Role::PoolLeg { pool: Uuid([3; 16]), pool_name: "p".into(), mirror: 0, leg: 0, areas };
        let label = Label { pair: 1, disk: Uuid([4; 16]), shape, role };
        assert_eq!(Label::decode(shape, [&label.encode(), &[]]), Ok(label));
    }
    if let Some(places) = LockPlaces::new(shape) {
        let (even, odd) = (places.record(1, RecordSlot::Even), places.record(1, RecordSlot::Odd));
        assert!(even.lba + u64::from(even.blocks) <= odd.lba);
    }
}

/// The label of a pool disk and of a lock disk.
#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    let shape = SHAPES[0];
    let areas = PoolAreas::for_disk(shape).expect("large enough");
    let pool = Role::PoolLeg { pool: Uuid([3; 16]), pool_name: "fast".into(), mirror: 2, leg: 1, areas };
    let roles = [pool, Role::Lock { index: 2 }];
    let page = |role| Label { pair: 1, disk: Uuid([4; 16]), shape, role }.encode();
    roles.map(|role| Script::new().bytes(&[0, 0, 0]).bytes(&page(role)[..160]).done()).into()
}
