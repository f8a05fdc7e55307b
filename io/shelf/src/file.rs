//! One disk's blocks in a sparse file, and what its logical unit keeps in a file beside it.
//!
//! Reads and writes go through the page cache in place: they take a microsecond or two, less than handing them to
//! another thread. Whatever may really block (`fdatasync`, punching holes, replacing the state) runs on a blocking
//! thread.
//!
//! **Group commit.** One `fdatasync` at a time; whoever asks while it runs waits for the next one, together with all
//! others who asked meanwhile. A flush therefore always begins after the call that asked for it.
//!
//! **A failed `fdatasync` is final.** Linux marks the pages clean all the same, so a second attempt would report
//! success for blocks that are lost. From then on every flush and FUA write of this medium fails until the shelf is
//! restarted.

use std::cell::{Cell, RefCell};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::future::LocalBoxFuture;
use rustix::fs::FallocateFlags;
use rustix::io::Errno;
use tokio::sync::{Mutex, oneshot};
use tokio::task::{spawn_blocking, spawn_local};
use understudy_device::medium::{Durability, Geometry, Medium, MediumError};

use crate::label::{read_whole, replace};

/// Zeroes written at once where the file system cannot punch holes.
const ZERO_CHUNK: usize = 1 << 20;

/// A disk in a file.
pub struct FileMedium {
    name: String,
    blocks: Arc<File>,
    geometry: Geometry,
    state: Arc<PathBuf>,
    /// Keeps replacements of the state in order, also when a caller goes away in the middle of one.
    state_order: Arc<Mutex<()>>,
    flushes: Rc<Flushes>,
}

/// The flush under way and those who wait for the next one.
#[derive(Default)]
struct Flushes {
    running: Cell<bool>,
    failed: Cell<bool>,
    /// BOUND: one entry for a flush or FUA write under way, which the portal's command window limits.
    waiting: RefCell<Vec<oneshot::Sender<bool>>>,
    /// `fdatasync` calls so far.
    done: Cell<u64>,
}

impl FileMedium {
    /// Opens the blocks at `blocks`, making the file if it is missing, and the state at `state`. The file must be
    /// `geometry`'s size or empty.
    ///
    /// # Errors
    /// The file cannot be opened, or has another size (`InvalidData`).
    pub fn open(name: &str, blocks: &Path, state: &Path, geometry: Geometry) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(blocks)?;
        let (found, wanted) = (file.metadata()?.len(), geometry.blocks * u64::from(geometry.block_bytes));
        if found == 0 {
            file.set_len(wanted)?;
            file.sync_all()?;
        } else if found != wanted {
            let text = format!("has {found} bytes, and {wanted} are configured");
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        Ok(Self {
            name: name.to_owned(),
            blocks: Arc::new(file),
            geometry,
            state: Arc::new(state.to_owned()),
            state_order: Arc::default(),
            flushes: Rc::default(),
        })
    }

    /// What [`Medium::keep_state`] kept last, `None` if nothing was ever kept.
    ///
    /// # Errors
    /// The file is there and cannot be read.
    pub fn kept_state(&self) -> io::Result<Option<Vec<u8>>> {
        read_whole(&self.state)
    }

    /// `fdatasync` calls so far: what a benchmark of group commit looks at.
    #[must_use]
    pub fn flushes_done(&self) -> u64 {
        self.flushes.done.get()
    }

    fn offset(&self, lba: u64) -> u64 {
        lba * u64::from(self.geometry.block_bytes)
    }

    fn file(&self) -> BorrowedFd<'_> {
        self.blocks.as_fd()
    }

    /// The command's answer for what the file system said, and a line for the operator.
    fn trouble(&self, what: &str, error: &io::Error, answer: MediumError) -> MediumError {
        tracing::error!(disk = %self.name, %error, "{what} failed");
        match error.raw_os_error().map(Errno::from_raw_os_error) {
            Some(Errno::NOSPC | Errno::DQUOT) => MediumError::NoSpace,
            _ => answer,
        }
    }

    fn get(&self, lba: u64, blocks: u32) -> Result<Bytes, MediumError> {
        let length = blocks as usize * self.geometry.block_bytes as usize;
        let mut bytes = Vec::with_capacity(length);
        // BOUND: each turn reads at least one byte.
        while bytes.len() < length {
            let at = self.offset(lba) + bytes.len() as u64;
            let room = length - bytes.len();
            match read_at(self.file(), &mut bytes, room, at) {
                Ok(0) => {
                    let error = io::Error::from(io::ErrorKind::UnexpectedEof);
                    return Err(self.trouble("reading", &error, MediumError::Read { lba }));
                }
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(self.trouble("reading", &error.into(), MediumError::Read { lba })),
            }
        }
        Ok(bytes.into())
    }

    fn fill(&self, lba: u64, into: &mut [u8]) -> Result<(), MediumError> {
        read_all_at(self.file(), into, self.offset(lba))
            .map_err(|error| self.trouble("reading", &error, MediumError::Read { lba }))
    }

    fn put(&self, lba: u64, bytes: &[u8]) -> Result<(), MediumError> {
        write_all_at(self.file(), bytes, self.offset(lba))
            .map_err(|error| self.trouble("writing", &error, MediumError::Write { lba }))
    }

    async fn flush_all(&self) -> Result<(), MediumError> {
        let failure = MediumError::Write { lba: 0 };
        if self.flushes.failed.get() {
            return Err(failure);
        }
        let (done, flushed) = oneshot::channel();
        self.flushes.waiting.borrow_mut().push(done);
        if !self.flushes.running.replace(true) {
            spawn_local(flush_while_asked(self.name.clone(), self.blocks.clone(), self.flushes.clone()));
        }
        match flushed.await {
            Ok(true) => Ok(()),
            Ok(false) | Err(_) => Err(failure),
        }
    }
}

/// Flushes as long as somebody waits. BOUND: each turn answers everyone who waited when it began.
async fn flush_while_asked(name: String, blocks: Arc<File>, flushes: Rc<Flushes>) {
    loop {
        let served = flushes.waiting.take();
        if served.is_empty() {
            break;
        }
        let outcome = if flushes.failed.get() {
            Ok(Err(io::Error::other("an earlier flush failed")))
        } else {
            let blocks = blocks.clone();
            spawn_blocking(move || blocks.sync_data()).await
        };
        flushes.done.set(flushes.done.get() + 1);
        let good = match outcome {
            Ok(Ok(())) => true,
            Ok(Err(error)) => {
                tracing::error!(disk = %name, %error, "flushing failed; nothing of this disk is durable any more until the shelf is restarted");
                false
            }
            Err(error) => {
                tracing::error!(disk = %name, %error, "the flushing thread failed");
                false
            }
        };
        flushes.failed.set(flushes.failed.get() || !good);
        for waiter in served {
            // A command that was aborted does not wait any more.
            let _ = waiter.send(good);
        }
    }
    flushes.running.set(false);
}

impl Medium for FileMedium {
    fn geometry(&self) -> Geometry {
        self.geometry
    }

    fn read(&self, lba: u64, blocks: u32) -> LocalBoxFuture<'_, Result<Bytes, MediumError>> {
        async move { self.get(lba, blocks) }.boxed_local()
    }

    fn read_now(&self, lba: u64, into: &mut [u8]) -> Option<Result<(), MediumError>> {
        Some(self.fill(lba, into))
    }

    fn write(&self, lba: u64, bytes: Bytes, durability: Durability) -> LocalBoxFuture<'_, Result<(), MediumError>> {
        async move {
            self.put(lba, &bytes)?;
            match durability {
                Durability::Cached => Ok(()),
                Durability::ForceUnitAccess => self.flush_all().await,
            }
        }
        .boxed_local()
    }

    fn write_now(&self, lba: u64, bytes: &Bytes, durability: Durability) -> Option<Result<(), MediumError>> {
        match durability {
            Durability::Cached => Some(self.put(lba, bytes)),
            Durability::ForceUnitAccess => None,
        }
    }

    fn flush(&self) -> LocalBoxFuture<'_, Result<(), MediumError>> {
        self.flush_all().boxed_local()
    }

    fn zero(&self, lba: u64, blocks: u64) -> LocalBoxFuture<'_, Result<(), MediumError>> {
        async move {
            let (file, from) = (self.blocks.clone(), self.offset(lba));
            let length = blocks * u64::from(self.geometry.block_bytes);
            let outcome = spawn_blocking(move || zero_range(file.as_fd(), from, length)).await;
            outcome
                .unwrap_or_else(|error| Err(io::Error::other(error)))
                .map_err(|error| self.trouble("zeroing", &error, MediumError::Write { lba }))
        }
        .boxed_local()
    }

    fn keep_state(&self, state: Vec<u8>) -> LocalBoxFuture<'_, Result<(), MediumError>> {
        async move {
            let turn = self.state_order.clone().lock_owned().await;
            let path = self.state.clone();
            let outcome = spawn_blocking(move || {
                let _turn = turn;
                replace(&path, &state)
            })
            .await;
            outcome
                .unwrap_or_else(|error| Err(io::Error::other(error)))
                .map_err(|error| self.trouble("keeping reservations", &error, MediumError::Write { lba: 0 }))
        }
        .boxed_local()
    }
}

/// Appends up to `room` bytes found at `offset`.
fn read_at(file: BorrowedFd<'_>, bytes: &mut Vec<u8>, room: usize, offset: u64) -> Result<usize, Errno> {
    debug_assert!(bytes.capacity() - bytes.len() >= room);
    rustix::io::pread(file, rustix::buffer::spare_capacity(bytes), offset)
}

fn read_all_at(file: BorrowedFd<'_>, mut into: &mut [u8], mut offset: u64) -> io::Result<()> {
    // BOUND: each turn reads at least one byte.
    while !into.is_empty() {
        match rustix::io::pread(file, &mut *into, offset) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => {
                into = &mut into[count..];
                offset += count as u64;
            }
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn write_all_at(file: BorrowedFd<'_>, mut bytes: &[u8], mut offset: u64) -> io::Result<()> {
    // BOUND: each turn writes at least one byte.
    while !bytes.is_empty() {
        match rustix::io::pwrite(file, bytes, offset) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => {
                bytes = &bytes[count..];
                offset += count as u64;
            }
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Makes a range read as zeroes, giving its space back where the file system can.
fn zero_range(file: BorrowedFd<'_>, from: u64, length: u64) -> io::Result<()> {
    if length == 0 {
        return Ok(());
    }
    match rustix::fs::fallocate(file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, from, length) {
        Ok(()) => Ok(()),
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => write_zeroes(file, from, length),
        Err(error) => Err(error.into()),
    }
}

fn write_zeroes(file: BorrowedFd<'_>, from: u64, length: u64) -> io::Result<()> {
    let zeroes = vec![0; ZERO_CHUNK];
    let (mut at, end) = (from, from + length);
    while at < end {
        let count = usize::try_from(end - at).unwrap_or(ZERO_CHUNK).min(ZERO_CHUNK);
        write_all_at(file, &zeroes[..count], at)?;
        at += count as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
