//! The memory of a page server, shared by two processes: one serves it, the other publishes in it.
//!
//! The publishing process may die at any moment, also in the middle of a publication. So every page is put down twice: first as a
//! *draft*, which nobody reads from outside, then where the partner reads. One of the two is whole at every moment, and a whole
//! draft is never older than what is shown. Not here: what a page means, and who says what after a death.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, fstat, ftruncate, memfd_create};
use rustix::io::Errno;
use rustix::mm::{Advice, MapFlags, MprotectFlags, ProtFlags, madvise, mmap, mmap_anonymous, mprotect, munmap};

use crate::region::{Page, Region};
use crate::{FabricError, LANDING_BYTES, PAGE_BYTES};

const PAGE_AT: usize = 0;
const DRAFT_AT: usize = PAGE_AT + PAGE_BYTES;
const LANDING_AT: usize = DRAFT_AT + PAGE_BYTES;
const BYTES: usize = LANDING_AT + LANDING_BYTES;

/// It keeps its length for ever: a mapping of it never faults.
const SEALS: SealFlags = SealFlags::SHRINK.union(SealFlags::GROW).union(SealFlags::SEAL);

/// A page, its draft and the landing region, in memory that goes from process to process as a descriptor.
#[derive(Debug, Clone)]
pub struct SharedMemory {
    descriptor: Arc<OwnedFd>,
    mapping: Arc<Mapping>,
}

impl SharedMemory {
    /// Fresh memory, all zero. Its descriptor is closed in programs this process starts, unless it is handed to them.
    ///
    /// # Errors
    /// The system has none.
    pub fn create() -> Result<Self, FabricError> {
        let make = || {
            let memory = memfd_create("state-page", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
            ftruncate(&memory, BYTES as u64)?;
            fcntl_add_seals(&memory, SEALS)?;
            Ok(memory)
        };
        Self::map(make().map_err(|error| refused("make shared memory", error))?)
    }

    /// Memory another process has made, by the descriptor it handed over.
    ///
    /// # Errors
    /// The descriptor is none of such memory.
    pub fn open(descriptor: OwnedFd) -> Result<Self, FabricError> {
        let refused = |error| refused("use the shared memory of a state page", error);
        let (length, seals) = (fstat(&descriptor).map_err(refused)?.st_size, fcntl_get_seals(&descriptor));
        if length != BYTES as i64 || !seals.is_ok_and(|seals| seals.contains(SEALS)) {
            return Err(refused(Errno::INVAL));
        }
        Self::map(descriptor)
    }

    fn map(descriptor: OwnedFd) -> Result<Self, FabricError> {
        let mapping = Mapping::of(descriptor.as_fd()).map_err(|error| refused("map shared memory", error))?;
        Ok(Self { descriptor: Arc::new(descriptor), mapping: Arc::new(mapping) })
    }

    /// To hand over to another process.
    #[must_use]
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }

    /// The hand that publishes in it. `sequence_offset` is where in the page the little-endian u64 sequence number lies.
    #[must_use]
    pub fn publisher(&self, sequence_offset: usize) -> SharedPage {
        SharedPage {
            page: self.page(),
            draft: self.region(DRAFT_AT, PAGE_BYTES),
            landing: self.landing(),
            sequence_offset,
            publishing: Mutex::new(()),
        }
    }

    pub(crate) fn page(&self) -> Region {
        self.region(PAGE_AT, PAGE_BYTES)
    }

    pub(crate) fn landing(&self) -> Region {
        self.region(LANDING_AT, LANDING_BYTES)
    }

    fn region(&self, at: usize, bytes: usize) -> Region {
        Region::shared(Part { mapping: self.mapping.clone(), first: at / PAGE_BYTES, pages: bytes / PAGE_BYTES })
    }
}

fn refused(what: &'static str, error: Errno) -> FabricError {
    FabricError::System { what, text: error.to_string() }
}

/// Publishes in shared memory; whoever serves it is not asked.
pub struct SharedPage {
    page: Region,
    draft: Region,
    landing: Region,
    sequence_offset: usize,
    publishing: Mutex<()>,
}

impl SharedPage {
    /// As [`crate::PageServer::publish`], and a death in the middle leaves one whole page to [`SharedPage::left_behind`].
    ///
    /// # Panics
    /// If the sequence number is odd.
    pub fn publish(&self, page: &[u8; PAGE_BYTES]) {
        let _one_at_a_time = self.publishing.lock().unwrap_or_else(PoisonError::into_inner);
        self.draft.publish(page, self.sequence_offset);
        self.page.publish(page, self.sequence_offset);
    }

    /// As [`crate::PageServer::landed`].
    #[must_use]
    pub fn landed(&self, offset: usize, into: &mut [u8]) -> bool {
        self.landing.copy_out_within(offset, into)
    }

    /// What a publisher that is dead left behind, the newest first: draft and page. One of them is whole, if anything was ever
    /// published.
    #[must_use]
    pub fn left_behind(&self) -> [Box<[u8; PAGE_BYTES]>; 2] {
        [self.draft.copy_page(), self.page.copy_page()]
    }
}

/// All of the memory, as this process sees it.
#[derive(Debug)]
struct Mapping(NonNull<Page>);

// SAFETY: the memory is made of atomics, stays where it is for as long as the mapping lives, and is unmapped once, in Drop.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    fn of(descriptor: BorrowedFd<'_>) -> Result<Self, Errno> {
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping at a place the system chooses; nothing else lies there.
        let start = unsafe { mmap(std::ptr::null_mut(), BYTES, access, MapFlags::SHARED, descriptor, 0)? };
        // Never null, which would be a page at address zero.
        NonNull::new(start.cast()).map(Self).ok_or(Errno::NOMEM)
    }

    fn pages(&self) -> &[Page] {
        // SAFETY: the mapping is page-aligned, as long as this, initialised (zeroed by the system) and sealed at that length; the
        // words in it are atomics, so other processes may change them.
        unsafe { std::slice::from_raw_parts(self.0.as_ptr(), BYTES / PAGE_BYTES) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: mapped in `of` with this length; every region that points into it keeps it alive.
        let unmapped = unsafe { munmap(self.0.as_ptr().cast(), BYTES) };
        debug_assert!(unmapped.is_ok(), "a mapping of ours is unmapped");
    }
}

/// Pages whose addresses are never used for anything else: what a partner still sends there, long after the pages were given up, finds no
/// memory, and nobody else's.
#[derive(Debug)]
pub(crate) struct Lasting {
    start: NonNull<Page>,
    pages: usize,
}

// SAFETY: the memory is made of atomics and stays where it is for ever.
unsafe impl Send for Lasting {}
// SAFETY: as above.
unsafe impl Sync for Lasting {}

impl Lasting {
    pub(crate) fn new(pages: usize) -> Result<Self, FabricError> {
        let refused = |error| refused("make memory for data", error);
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping at a place the system chooses; nothing else lies there.
        let start = unsafe { mmap_anonymous(std::ptr::null_mut(), pages * PAGE_BYTES, access, MapFlags::PRIVATE) };
        let start = NonNull::new(start.map_err(refused)?.cast()).ok_or_else(|| refused(Errno::NOMEM))?;
        Ok(Self { start, pages })
    }

    pub(crate) fn pages(&self) -> &[Page] {
        // SAFETY: mapped in `new` with this length, zeroed by the system, page-aligned, never unmapped; the words in it are atomics.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.pages) }
    }
}

impl Drop for Lasting {
    fn drop(&mut self) {
        let (start, length) = (self.start.as_ptr().cast(), self.pages * PAGE_BYTES);
        // First nobody reaches it, then its content goes: nobody may be shown zeroes in place of data.
        // SAFETY: mapped in `new` with this length; whoever had a reference to it is gone.
        let closed = unsafe { mprotect(start, length, MprotectFlags::empty()) };
        // SAFETY: as above.
        let emptied = closed.and_then(|()| unsafe { madvise(start, length, Advice::LinuxDontNeed) });
        if let Err(error) = emptied {
            tracing::warn!(%error, "interconnect: memory for data is kept although nobody needs it any more");
        }
    }
}

/// Some pages of the memory.
#[derive(Debug)]
pub(crate) struct Part {
    mapping: Arc<Mapping>,
    first: usize,
    pages: usize,
}

impl Part {
    pub(crate) fn pages(&self) -> &[Page] {
        &self.mapping.pages()[self.first..self.first + self.pages]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEQUENCE: usize = 24;

    fn page(sequence: u64) -> Box<[u8; PAGE_BYTES]> {
        let mut page = Box::new([7; PAGE_BYTES]);
        page[SEQUENCE..SEQUENCE + 8].copy_from_slice(&sequence.to_le_bytes());
        page
    }

    fn of_another_process(memory: &SharedMemory) -> SharedMemory {
        SharedMemory::open(memory.descriptor().try_clone_to_owned().expect("a descriptor")).expect("the same memory")
    }

    #[test]
    fn what_one_mapping_publishes_the_other_shows() {
        let served = SharedMemory::create().expect("memory");
        let publisher = of_another_process(&served).publisher(SEQUENCE);
        publisher.publish(&page(2));
        assert_eq!(served.page().copy_page(), page(2));
        served.landing().copy_in(b"told");
        let mut told = [0; 4];
        assert!(publisher.landed(0, &mut told));
        assert_eq!(&told, b"told");
        assert!(!publisher.landed(LANDING_BYTES - 3, &mut told), "past the end");
    }

    #[test]
    fn a_death_in_the_middle_of_either_half_of_a_publication_leaves_a_whole_page() {
        let memory = SharedMemory::create().expect("memory");
        let publisher = memory.publisher(SEQUENCE);
        publisher.publish(&page(2));
        // In the draft.
        publisher.draft.publish(&page(4), SEQUENCE);
        publisher.draft.copy_in(&[0xff; SEQUENCE + 8]);
        assert_eq!(publisher.left_behind()[1], page(2));
        // In the page.
        publisher.draft.publish(&page(4), SEQUENCE);
        publisher.page.copy_in(&[0xff; SEQUENCE + 8]);
        assert_eq!(publisher.left_behind()[0], page(4));
    }

    #[test]
    fn other_descriptors_are_no_memory_of_a_page() {
        let file = std::fs::File::open("/dev/null").expect("a file");
        assert!(matches!(SharedMemory::open(file.into()), Err(FabricError::System { .. })));
        // One that somebody could cut short under our feet.
        let unsealed = memfd_create("unsealed", MemfdFlags::CLOEXEC).expect("memory");
        ftruncate(&unsealed, BYTES as u64).expect("a length");
        assert!(matches!(SharedMemory::open(unsealed), Err(FabricError::System { .. })));
    }
}
