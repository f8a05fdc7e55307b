//! What every disk back end must do, as one suite that a back end's tests call.
//!
//! Not here: anything about one back end (reconnection, time-outs). The one idea: a back end's test brings a
//! [`Bench`], which opens the same logical unit through as many I_T nexuses as asked for; the suite states facts and
//! panics at the first one that does not hold. Every fact of reservations cites SPC-4 r37.

mod reservations;

use std::rc::Rc;

use bytes::Bytes;
use futures_util::future::{LocalBoxFuture, join_all};

use crate::disk::{Disk, DiskError, Durability, Extent, Geometry, Link};

pub use reservations::{reservations, reservations_to_the_letter};

/// Smallest disk that the suite runs on.
pub const MINIMUM_BYTES: u64 = 16 * 1024 * 1024;

/// Opens the logical unit under test. At the start of a suite it must be unreserved and without registrations; its
/// contents are overwritten.
pub trait Bench {
    /// The unit through nexus number `nexus`, connected. The same number is always the same initiator port.
    fn open(&self, nexus: u16) -> LocalBoxFuture<'_, Rc<dyn Disk>>;
}

/// Runs every fact that does not need reservations.
///
/// PANIC: at the first fact that does not hold.
pub async fn disk(bench: &dyn Bench) {
    let disk = bench.open(0).await;
    let disk = &*disk;
    geometry_is_usable_and_probe_agrees(disk).await;
    identity_is_stable(disk).await;
    link_is_connected(disk).await;
    nothing_transferred_is_fine(disk).await;
    what_is_written_is_read_back(disk).await;
    neighbours_stay_untouched(disk).await;
    many_commands_at_once_do_not_mix(disk).await;
    durability_is_accepted(disk).await;
    another_nexus_reads_what_was_written(bench, disk).await;
}

/// Bytes that differ from block to block and from `salt` to `salt`.
pub(crate) fn pattern(geometry: Geometry, lba: u64, blocks: u32, salt: u64) -> Bytes {
    let words = u64::from(blocks) * u64::from(geometry.block_bytes) / 8;
    let first = lba * u64::from(geometry.block_bytes) / 8;
    let word = |index: u64| (first + index).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ salt.rotate_left(17);
    (0..words).flat_map(|index| word(index).to_le_bytes()).collect()
}

pub(crate) fn extent(geometry: Geometry, lba: u64, blocks: u32) -> Extent {
    Extent::within(geometry, lba, blocks).expect("the suite stays within the disk")
}

pub(crate) fn geometry(disk: &dyn Disk) -> Geometry {
    disk.geometry().expect("a connected disk knows its size")
}

pub(crate) async fn write(disk: &dyn Disk, lba: u64, blocks: u32, salt: u64) -> Result<(), DiskError> {
    let geometry = geometry(disk);
    let bytes = pattern(geometry, lba, blocks, salt);
    disk.write(extent(geometry, lba, blocks), bytes, Durability::Cached).await
}

pub(crate) async fn read(disk: &dyn Disk, lba: u64, blocks: u32) -> Result<Bytes, DiskError> {
    disk.read(extent(geometry(disk), lba, blocks)).await
}

async fn expect_pattern(disk: &dyn Disk, lba: u64, blocks: u32, salt: u64) {
    let bytes = read(disk, lba, blocks).await.expect("a read is answered");
    assert!(bytes == pattern(geometry(disk), lba, blocks, salt), "blocks {lba}+{blocks} do not hold what was written");
}

async fn geometry_is_usable_and_probe_agrees(disk: &dyn Disk) {
    let geometry = geometry(disk);
    assert!(matches!(geometry.block_bytes, 512 | 4096), "blocks of {} bytes", geometry.block_bytes);
    let bytes = geometry.blocks * u64::from(geometry.block_bytes);
    assert!(bytes >= MINIMUM_BYTES, "the suite needs {MINIMUM_BYTES} bytes, the disk has {bytes}");
    assert_eq!(disk.probe().await, Ok(geometry));
    assert_eq!(Extent::within(geometry, geometry.blocks, 1), None);
    assert_eq!(Extent::within(geometry, u64::MAX, 2), None);
}

async fn identity_is_stable(disk: &dyn Disk) {
    let identity = disk.identify().await.expect("INQUIRY is answered");
    assert!(!identity.product.is_empty());
    assert_eq!(disk.identify().await, Ok(identity));
    assert!(!disk.name().is_empty());
}

async fn link_is_connected(disk: &dyn Disk) {
    let Link::Connected { epoch } = disk.link() else { panic!("the bench hands out connected disks") };
    assert_eq!(disk.link_changed(Link::Down).await, Link::Connected { epoch });
}

async fn nothing_transferred_is_fine(disk: &dyn Disk) {
    assert_eq!(read(disk, 0, 0).await, Ok(Bytes::new()));
    assert_eq!(write(disk, 0, 0, 0).await, Ok(()));
}

async fn what_is_written_is_read_back(disk: &dyn Disk) {
    let geometry = geometry(disk);
    let half_mebibyte = 512 * 1024 / geometry.block_bytes;
    // One block, an odd count, one burst, more than a burst, more than one command carries.
    for (salt, blocks) in [1, 3, half_mebibyte / 2, half_mebibyte + 1, 5 * half_mebibyte + 7].into_iter().enumerate() {
        for lba in [0, 17, geometry.blocks - u64::from(blocks)] {
            let salt = salt as u64 + 1;
            write(disk, lba, blocks, salt).await.expect("a write is answered");
            expect_pattern(disk, lba, blocks, salt).await;
        }
    }
}

async fn neighbours_stay_untouched(disk: &dyn Disk) {
    write(disk, 100, 64, 20).await.expect("a write is answered");
    write(disk, 110, 3, 21).await.expect("a write is answered");
    expect_pattern(disk, 100, 10, 20).await;
    expect_pattern(disk, 110, 3, 21).await;
    expect_pattern(disk, 113, 51, 20).await;
}

async fn many_commands_at_once_do_not_mix(disk: &dyn Disk) {
    // More than the command window of most targets; lengths differ so that answers come back out of order.
    let places: Vec<(u64, u32)> = (0..200).map(|index| (index * 16, 1 + (index as u32 * 7) % 16)).collect();
    let writes = places.iter().map(|(lba, blocks)| write(disk, *lba, *blocks, 30 + lba));
    for done in join_all(writes).await {
        done.expect("each write is answered");
    }
    join_all(places.iter().map(|(lba, blocks)| expect_pattern(disk, *lba, *blocks, 30 + lba))).await;
}

async fn durability_is_accepted(disk: &dyn Disk) {
    let geometry = geometry(disk);
    let bytes = pattern(geometry, 40, 8, 40);
    disk.write(extent(geometry, 40, 8), bytes, Durability::ForceUnitAccess).await.expect("a FUA write is answered");
    expect_pattern(disk, 40, 8, 40).await;
    disk.flush().await.expect("a flush is answered");
}

async fn another_nexus_reads_what_was_written(bench: &dyn Bench, disk: &dyn Disk) {
    let other = bench.open(1).await;
    write(disk, 60, 8, 50).await.expect("a write is answered");
    expect_pattern(&*other, 60, 8, 50).await;
    write(&*other, 62, 2, 51).await.expect("a write is answered");
    expect_pattern(disk, 62, 2, 51).await;
}
