//! Failures leave nothing behind. A file of its own, with one test: what is counted belongs to the whole process.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use understudy_fabric::{Identity, PageReader, PageServer, Provider, ReadFailure, ReaderOptions, ServerOptions};

/// Generous, for a busy machine; nothing below waits this long unless it fails.
const PATIENT: Duration = Duration::from_secs(10);

fn serve(provider: Provider, address: SocketAddr) -> PageServer {
    let identity = Identity { pair: 1, node: 1 };
    PageServer::start(ServerOptions { provider, address, identity, sequence_offset: 0 }).expect("a page server")
}

/// Threads and descriptors of this process.
fn resources() -> (usize, usize) {
    let count = |folder| std::fs::read_dir(folder).expect("procfs").count();
    (count("/proc/self/task"), count("/proc/self/fd"))
}

#[test]
fn failures_leak_neither_threads_nor_descriptors() {
    for provider in [Provider::Tcp, Provider::Shm] {
        let address = serve(provider, SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).address();
        let identity = Identity { pair: 1, node: 2 };
        let options = ReaderOptions { provider, partner: address, identity, partner_node: 1 };
        let (mut reader, _events) = PageReader::start(options).expect("a reader");
        assert_eq!(reader.read_blocking(PATIENT), Err(ReadFailure::Refused));
        let before = resources();
        for _ in 0..20 {
            let server = serve(provider, address);
            let start = Instant::now();
            while reader.read_blocking(PATIENT).is_err() {
                assert!(start.elapsed() < PATIENT);
            }
            drop(server);
            assert!(reader.read_blocking(PATIENT).is_err());
        }
        let after = resources();
        assert!(after.0 <= before.0 + 2 && after.1 <= before.1 + 8, "{provider}: {before:?} before, {after:?} after");
    }
}
