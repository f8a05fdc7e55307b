//! Memory for the data of commands, which the partner reads and writes, and the hand that moves data to and from the partner's.
//!
//! Not here: which command has which stretch, and when one may be used again (`understudy-forward`). The one idea: the same as for pages, with a landing
//! region that is larger and readable, and whose addresses are never used for anything else: a partner that was stopped and wakes up
//! long after its connection was given up finds no memory there, and nobody else's.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;

use crate::reader::{PageReader, ReaderOptions};
use crate::region::Region;
use crate::server::{PageServer, ServerOptions};
use crate::threads::spawn;
use crate::{FabricError, Identity, MOVE_BYTES, PAGE_BYTES, Provider, ReadFailure};

/// Memory of this node that the partner reads and writes. Dropping it takes it from the partner.
pub struct DataRegion {
    server: Option<PageServer>,
    address: SocketAddr,
    bytes: usize,
}

impl DataRegion {
    /// Registers `bytes` bytes, a multiple of the page size, and accepts the partner from now on, at any free port of `address`.
    ///
    /// # Errors
    /// As [`PageServer::start`].
    pub fn start(
        provider: Provider,
        address: SocketAddr,
        identity: Identity,
        bytes: usize,
    ) -> Result<Self, FabricError> {
        let address = SocketAddr::new(address.ip(), 0);
        let options = ServerOptions { provider, address, identity, sequence_offset: 0 };
        let server = PageServer::start_with(options, Region::zeroed(PAGE_BYTES), Region::lasting(bytes)?)?;
        Ok(Self { address: server.address(), server: Some(server), bytes })
    }

    /// Where the partner connects to.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its length in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Puts bytes at `offset`, a multiple of [`PAGE_BYTES`].
    ///
    /// # Panics
    /// If they do not lie within the region.
    pub fn put(&self, offset: usize, bytes: &[u8]) {
        self.region().put(offset, bytes);
    }

    /// Copies out `length` bytes from `offset`, a multiple of [`PAGE_BYTES`].
    ///
    /// # Panics
    /// As [`DataRegion::put`].
    #[must_use]
    pub fn take(&self, offset: usize, length: usize) -> Bytes {
        self.region().take(offset, length).into()
    }

    fn region(&self) -> &Region {
        // PANIC: it is taken when this is dropped.
        self.server.as_ref().expect("there until the end").landing()
    }
}

impl Drop for DataRegion {
    fn drop(&mut self) {
        // Its threads may be inside libfabric, which may wait for a partner that is stopped: nobody else waits for that.
        let server = self.server.take();
        if let Err(error) = spawn("fabric-end", move || drop(server)) {
            tracing::warn!(%error, "interconnect: memory for data was taken back at once");
        }
    }
}

/// Moves data to and from the partner's [`DataRegion`], one stretch at a time.
pub struct DataMover {
    reader: PageReader,
}

impl DataMover {
    /// Starts the thread and connects.
    ///
    /// # Errors
    /// [`ReadFailure`], as for reads of pages.
    pub async fn start(options: ReaderOptions, bytes: usize, within: Duration) -> Result<Self, ReadFailure> {
        // It makes the library's objects, which takes milliseconds.
        let started = tokio::task::spawn_blocking(move || PageReader::start_with(options, bytes)).await;
        let ended = |_| ReadFailure::Fabric("the thread that connects has ended".into());
        let (mut reader, _) = started.map_err(ended)??;
        // The first read ends what connecting began.
        reader.read(within).await?;
        Ok(Self { reader })
    }

    /// Writes at most [`MOVE_BYTES`] at `offset` of the partner's region. When it ends well they are there.
    ///
    /// # Errors
    /// [`ReadFailure`]; they may still arrive.
    pub async fn write(&mut self, offset: u32, bytes: Bytes, within: Duration) -> Result<(), ReadFailure> {
        fits(bytes.len())?;
        self.reader.put(offset.into(), bytes, within).await
    }

    /// Reads at most [`MOVE_BYTES`] from `offset` of the partner's region.
    ///
    /// # Errors
    /// [`ReadFailure`].
    pub async fn fetch(&mut self, offset: u32, length: u32, within: Duration) -> Result<Bytes, ReadFailure> {
        fits(length as usize)?;
        self.reader.fetch(offset.into(), length as usize, within).await.map(Bytes::from)
    }
}

fn fits(bytes: usize) -> Result<(), ReadFailure> {
    if bytes <= MOVE_BYTES {
        return Ok(());
    }
    Err(ReadFailure::Fabric(format!("at most {MOVE_BYTES} bytes are moved at a time")))
}
