//! Measurements of the interconnect for the benchmarks: prints nothing, decides nothing.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use crate::{
    FabricError, Identity, PAGE_BYTES, PageReader, PageServer, Provider, ReadFailure, ReaderOptions, ServerOptions,
};

/// What to measure.
#[derive(Debug, Clone, Copy)]
pub struct MeasureOptions {
    /// The provider.
    pub provider: Provider,
    /// Where this machine serves a page to itself; port 0 takes any free one.
    pub address: SocketAddr,
    /// Number of reads.
    pub reads: usize,
}

impl Default for MeasureOptions {
    fn default() -> Self {
        Self { provider: Provider::Tcp, address: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), reads: 5_000 }
    }
}

/// How long reads of a 4 KiB page took, from asking to having the copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadLatency {
    /// Number of reads.
    pub reads: usize,
    /// Half of them were faster.
    pub median: Duration,
    /// 99 of 100 were faster.
    pub p99: Duration,
    /// The slowest.
    pub worst: Duration,
}

/// Processor time spent by polling at a fixed pace.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PollingCost {
    /// Reads done.
    pub reads: usize,
    /// Share of one processor used by this process, serving and reading: 1.0 is one processor.
    pub processor_share: f64,
}

fn pair(options: &MeasureOptions) -> Result<(PageServer, PageReader), FabricError> {
    let identity = |node| Identity { pair: 1, node };
    let server = PageServer::start(ServerOptions {
        provider: options.provider,
        address: options.address,
        identity: identity(1),
        sequence_offset: 0,
    })?;
    server.publish(&[0; PAGE_BYTES]);
    let (reader, _events) = PageReader::start(ReaderOptions {
        provider: options.provider,
        partner: server.address(),
        identity: identity(2),
        partner_node: 1,
    })?;
    Ok((server, reader))
}

/// Serves a page to itself and reads it `options.reads` times, one after the other, in a thread without a runtime.
///
/// # Errors
/// The fabric could not be set up, or a read failed.
///
/// # Panics
/// Inside an asynchronous runtime.
pub fn measure_read_latency(options: &MeasureOptions) -> Result<ReadLatency, MeasureFailure> {
    let (_server, mut reader) = pair(options)?;
    reader.read_blocking(READ_WITHIN)?;
    let mut times = Vec::with_capacity(options.reads.max(1));
    for _ in 0..options.reads.max(1) {
        let start = Instant::now();
        reader.read_blocking(READ_WITHIN)?;
        times.push(start.elapsed());
    }
    times.sort_unstable();
    let at = |share: usize| times[(times.len() - 1) * share / 100];
    Ok(ReadLatency { reads: times.len(), median: at(50), p99: at(99), worst: at(100) })
}

/// Reads at `pace` for `span` and reports the processor time of the whole process meanwhile.
///
/// # Errors
/// The fabric could not be set up, or a read failed.
///
/// # Panics
/// Inside an asynchronous runtime.
pub fn measure_polling_cost(
    options: &MeasureOptions,
    pace: Duration,
    span: Duration,
) -> Result<PollingCost, MeasureFailure> {
    let (_server, mut reader) = pair(options)?;
    reader.read_blocking(READ_WITHIN)?;
    let (start, used) = (Instant::now(), processor_time());
    let mut reads = 0;
    while start.elapsed() < span {
        let due = start + pace * u32::try_from(reads + 1).unwrap_or(u32::MAX);
        reader.read_blocking(READ_WITHIN)?;
        reads += 1;
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
    }
    let share = processor_time().saturating_sub(used).as_secs_f64() / start.elapsed().as_secs_f64();
    Ok(PollingCost { reads, processor_share: share })
}

/// Long enough for a busy machine; a measurement that fails at it says so.
const READ_WITHIN: Duration = Duration::from_secs(5);

/// Processor time of this process so far.
fn processor_time() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(u64::try_from(now.tv_sec).unwrap_or(0), u32::try_from(now.tv_nsec).unwrap_or(0))
}

/// Why there is no measurement.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MeasureFailure {
    /// The fabric could not be set up.
    #[error(transparent)]
    Fabric(#[from] FabricError),
    /// A read failed.
    #[error(transparent)]
    Read(#[from] ReadFailure),
}
