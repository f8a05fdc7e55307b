//! A plain file as a [`Disk`]: for single nodes and tests.
//!
//! Not here: reservations; a file has none and therefore refuses to be part of a pair. The one idea: positioned reads
//! and writes on tokio's blocking threads, one file handle for all of them; flush is `fdatasync`.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::{LocalBoxFuture, pending};
use tokio::task::spawn_blocking;

use crate::disk::{Disk, DiskError, DiskIdentity, Durability, Extent, Geometry, Link};
use crate::reservation::Reservations;

/// A file as a disk. Its link is always connected.
#[derive(Debug)]
pub struct FileDisk {
    name: String,
    file: Arc<File>,
    geometry: Geometry,
}

impl FileDisk {
    /// Opens an existing file; its size, rounded down to whole blocks of `block_bytes` (512 or 4096), is the disk's.
    ///
    /// # Errors
    /// Whatever opening a file for reading and writing may bring; `InvalidInput` for another block length.
    pub fn open(path: &Path, block_bytes: u32) -> io::Result<Self> {
        Self::on(path, OpenOptions::new().read(true).write(true).open(path)?, block_bytes)
    }

    /// Makes a new sparse file of `blocks` blocks.
    ///
    /// # Errors
    /// As [`FileDisk::open`]; `AlreadyExists` if there is one.
    pub fn create(path: &Path, block_bytes: u32, blocks: u64) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(path)?;
        let bytes = blocks.checked_mul(block_bytes.into()).ok_or(io::ErrorKind::InvalidInput)?;
        file.set_len(bytes)?;
        Self::on(path, file, block_bytes)
    }

    fn on(path: &Path, file: File, block_bytes: u32) -> io::Result<Self> {
        if !matches!(block_bytes, 512 | 4096) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let blocks = file.metadata()?.len() / u64::from(block_bytes);
        let geometry = Geometry { block_bytes, blocks };
        Ok(Self { name: path.display().to_string(), file: Arc::new(file), geometry })
    }

    fn offset(&self, extent: Extent) -> u64 {
        extent.lba() * u64::from(self.geometry.block_bytes)
    }

    fn length(&self, extent: Extent) -> usize {
        extent.blocks() as usize * self.geometry.block_bytes as usize
    }

    async fn blocking<R: Send + 'static>(
        &self,
        work: impl FnOnce(&File) -> io::Result<R> + Send + 'static,
    ) -> Result<R, DiskError> {
        let file = Arc::clone(&self.file);
        let done = spawn_blocking(move || work(&file)).await;
        // A cancelled task means that the runtime is being shut down under the caller.
        done.unwrap_or_else(|error| Err(io::Error::other(error))).map_err(|error| DiskError::Io(error.to_string()))
    }
}

impl Disk for FileDisk {
    fn name(&self) -> &str {
        &self.name
    }

    fn geometry(&self) -> Result<Geometry, DiskError> {
        Ok(self.geometry)
    }

    fn identify(&self) -> LocalBoxFuture<'_, Result<DiskIdentity, DiskError>> {
        let identity =
            DiskIdentity { product: "plain file".to_owned(), serial: String::new(), designator: String::new() };
        Box::pin(async { Ok(identity) })
    }

    fn probe(&self) -> LocalBoxFuture<'_, Result<Geometry, DiskError>> {
        Box::pin(async { Ok(self.geometry) })
    }

    fn admits_reads(&self) -> LocalBoxFuture<'_, Result<(), DiskError>> {
        // A plain file has no reservations.
        Box::pin(std::future::ready(Ok(())))
    }

    fn read(&self, extent: Extent) -> LocalBoxFuture<'_, Result<Bytes, DiskError>> {
        let (offset, length) = (self.offset(extent), self.length(extent));
        Box::pin(self.blocking(move |file| {
            let mut bytes = vec![0; length];
            file.read_exact_at(&mut bytes, offset)?;
            Ok(Bytes::from(bytes))
        }))
    }

    fn write(&self, extent: Extent, bytes: Bytes, durability: Durability) -> LocalBoxFuture<'_, Result<(), DiskError>> {
        assert_eq!(bytes.len(), self.length(extent), "data fits the extent");
        let offset = self.offset(extent);
        Box::pin(self.blocking(move |file| {
            file.write_all_at(&bytes, offset)?;
            match durability {
                Durability::Cached => Ok(()),
                Durability::ForceUnitAccess => file.sync_data(),
            }
        }))
    }

    fn flush(&self) -> LocalBoxFuture<'_, Result<(), DiskError>> {
        Box::pin(self.blocking(File::sync_data))
    }

    fn link(&self) -> Link {
        Link::Connected { epoch: 1 }
    }

    fn link_changed(&self, seen: Link) -> LocalBoxFuture<'_, Link> {
        if seen == self.link() { Box::pin(pending()) } else { Box::pin(async { self.link() }) }
    }

    fn reservations(&self) -> Option<&dyn Reservations> {
        None
    }
}
