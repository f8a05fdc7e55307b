//! A medium in memory, for tests and benchmarks: it forgets everything with the process.
//!
//! One zero-filled piece of memory; reads copy out of it.

use std::cell::RefCell;
use std::future::ready;
use std::rc::Rc;

use bytes::Bytes;
use futures_util::future::LocalBoxFuture;
use memmap2::{Advice, MmapMut};

use crate::medium::{Durability, Geometry, Medium, MediumError};

/// See the module.
#[derive(Debug)]
pub struct MemoryMedium {
    geometry: Geometry,
    blocks: RefCell<MmapMut>,
    kept: RefCell<Option<Vec<u8>>>,
}

/// Memory in large pages where the system has them: blocks at random places of many small ones take longer to reach.
fn zeroes(bytes: usize) -> MmapMut {
    // PANIC: as for any memory that is not there.
    let memory = MmapMut::map_anon(bytes.max(1)).expect("there is memory for the medium");
    if let Err(error) = memory.advise(Advice::HugePage) {
        tracing::debug!(%error, "no large pages");
    }
    memory
}

impl MemoryMedium {
    /// A medium of so many zero blocks.
    #[must_use]
    pub fn new(block_bytes: u32, blocks: u64) -> Rc<Self> {
        let bytes = usize::try_from(u64::from(block_bytes) * blocks).unwrap_or(usize::MAX);
        Rc::new(Self {
            geometry: Geometry { block_bytes, blocks },
            blocks: RefCell::new(zeroes(bytes)),
            kept: RefCell::new(None),
        })
    }

    /// The bytes last given to [`Medium::keep_state`].
    #[must_use]
    pub fn kept_state(&self) -> Option<Vec<u8>> {
        self.kept.borrow().clone()
    }

    fn range(&self, lba: u64, bytes: usize) -> core::ops::Range<usize> {
        let start = lba as usize * self.geometry.block_bytes as usize;
        start..start + bytes
    }

    fn put(&self, lba: u64, bytes: &[u8]) {
        self.blocks.borrow_mut()[self.range(lba, bytes.len())].copy_from_slice(bytes);
    }
}

impl Medium for MemoryMedium {
    fn geometry(&self) -> Geometry {
        self.geometry
    }

    fn read(&self, lba: u64, blocks: u32) -> LocalBoxFuture<'_, Result<Bytes, MediumError>> {
        let range = self.range(lba, blocks as usize * self.geometry.block_bytes as usize);
        let bytes = Bytes::copy_from_slice(&self.blocks.borrow()[range]);
        Box::pin(ready(Ok(bytes)))
    }

    fn read_now(&self, lba: u64, into: &mut [u8]) -> Option<Result<(), MediumError>> {
        into.copy_from_slice(&self.blocks.borrow()[self.range(lba, into.len())]);
        Some(Ok(()))
    }

    fn write(&self, lba: u64, bytes: Bytes, _: Durability) -> LocalBoxFuture<'_, Result<(), MediumError>> {
        self.put(lba, &bytes);
        Box::pin(ready(Ok(())))
    }

    fn write_now(&self, lba: u64, bytes: &Bytes, _: Durability) -> Option<Result<(), MediumError>> {
        self.put(lba, bytes);
        Some(Ok(()))
    }

    fn flush(&self) -> LocalBoxFuture<'_, Result<(), MediumError>> {
        Box::pin(ready(Ok(())))
    }

    fn zero(&self, lba: u64, blocks: u64) -> LocalBoxFuture<'_, Result<(), MediumError>> {
        let range = self.range(lba, blocks as usize * self.geometry.block_bytes as usize);
        self.blocks.borrow_mut()[range].fill(0);
        Box::pin(ready(Ok(())))
    }

    fn keep_state(&self, state: Vec<u8>) -> LocalBoxFuture<'_, Result<(), MediumError>> {
        *self.kept.borrow_mut() = Some(state);
        Box::pin(ready(Ok(())))
    }
}
