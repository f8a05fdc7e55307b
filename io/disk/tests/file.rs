//! The plain-file back end.

mod support;

use std::path::PathBuf;
use std::rc::Rc;

use futures_util::future::LocalBoxFuture;
use understudy_disk::conformance::{self, Bench};
use understudy_disk::disk::Disk;
use understudy_disk::file::FileDisk;

struct FileBench {
    path: PathBuf,
    block_bytes: u32,
}

impl Bench for FileBench {
    fn open(&self, _nexus: u16) -> LocalBoxFuture<'_, Rc<dyn Disk>> {
        let disk: Rc<dyn Disk> = Rc::new(FileDisk::open(&self.path, self.block_bytes).expect("the file is there"));
        Box::pin(async { disk })
    }
}

#[test]
fn a_file_passes_the_disk_suite() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    for block_bytes in [512, 4096] {
        let path = folder.path().join(block_bytes.to_string());
        FileDisk::create(&path, block_bytes, 32 * 1024 * 1024 / u64::from(block_bytes)).expect("created");
        support::run(conformance::disk(&FileBench { path, block_bytes }));
    }
}

#[test]
fn a_file_has_no_reservations_and_odd_block_lengths_are_refused() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("disk");
    assert!(FileDisk::create(&path, 520, 8).is_err());
    assert!(FileDisk::open(&path, 520).is_err());
    let path = folder.path().join("other");
    assert!(FileDisk::create(&path, 512, 8).expect("created").reservations().is_none());
    assert!(FileDisk::create(&path, 512, 8).is_err(), "an existing file is not overwritten");
}
