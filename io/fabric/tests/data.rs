//! Data regions over real libfabric on loopback: what is put there is there, what is taken back is nobody's.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use understudy_fabric::{DataMover, DataRegion, Identity, MOVE_BYTES, Provider, ReadFailure, ReaderOptions};

const PATIENCE: Duration = Duration::from_secs(10);
const BYTES: usize = 2 * MOVE_BYTES;

fn region(provider: Provider) -> DataRegion {
    let address: SocketAddr = "127.0.0.1:0".parse().expect("an address");
    DataRegion::start(provider, address, Identity { pair: 7, node: 1 }, BYTES).expect("a region")
}

async fn mover(provider: Provider, region: &DataRegion, bytes: usize) -> Result<DataMover, ReadFailure> {
    let identity = Identity { pair: 7, node: 2 };
    let options = ReaderOptions { provider, partner: region.address(), identity, partner_node: 1 };
    DataMover::start(options, bytes, PATIENCE).await
}

fn pattern(length: usize, seed: usize) -> Bytes {
    (0..length).map(|at| (at * 31 + seed * 7 + (at >> 9)) as u8).collect()
}

fn with_each_provider(test: impl AsyncFn(Provider)) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        for provider in [Provider::Shm, Provider::Tcp] {
            test(provider).await;
        }
    });
}

#[test]
fn what_is_put_there_is_there_and_what_lies_there_is_fetched() {
    with_each_provider(async |provider| {
        let region = region(provider);
        let mut mover = mover(provider, &region, BYTES).await.expect("a mover");
        for (length, offset) in [(1, 0), (4096, 4096), (65_536, MOVE_BYTES), (MOVE_BYTES - 3, MOVE_BYTES)] {
            let data = pattern(length, offset);
            mover.write(offset as u32, data.clone(), PATIENCE).await.expect("put");
            assert_eq!(region.take(offset, length), data, "{provider}: {length} at {offset}");
            let other = pattern(length, offset + 1);
            region.put(offset, &other);
            let fetched = mover.fetch(offset as u32, length as u32, PATIENCE).await.expect("fetched");
            assert_eq!(fetched, other, "{provider}: {length} at {offset}");
        }
    });
}

#[test]
fn nothing_is_moved_beyond_the_region_or_more_than_the_limit_at_a_time() {
    with_each_provider(async |provider| {
        let region = region(provider);
        let mut mover = mover(provider, &region, BYTES).await.expect("a mover");
        let end = BYTES as u32;
        assert!(mover.write(end - 1, pattern(2, 0), PATIENCE).await.is_err());
        assert!(mover.fetch(end, 1, PATIENCE).await.is_err());
        assert!(mover.fetch(0, MOVE_BYTES as u32 + 1, PATIENCE).await.is_err());
        // None of which left it unusable.
        mover.write(0, pattern(512, 3), PATIENCE).await.expect("put");
        assert_eq!(region.take(0, 512), pattern(512, 3));
    });
}

#[test]
fn a_region_of_another_length_is_not_used() {
    with_each_provider(async |provider| {
        let region = region(provider);
        let refused = mover(provider, &region, 2 * BYTES).await.err().expect("refused");
        assert!(matches!(refused, ReadFailure::Rejected(_)), "{provider}: {refused}");
    });
}

/// A partner that wakes up long after its connection was given up.
#[test]
fn a_region_that_is_gone_takes_nothing_and_its_place_is_not_used_again() {
    with_each_provider(async |provider| {
        let old = region(provider);
        let mut mover = mover(provider, &old, BYTES).await.expect("a mover");
        mover.write(0, pattern(4096, 1), PATIENCE).await.expect("put");
        drop(old);
        let next = region(provider);
        next.put(0, &pattern(4096, 2));
        // The thread that takes the old one back may not have come to it yet: until then what is written goes nowhere.
        let _ = mover.write(0, pattern(4096, 3), PATIENCE).await;
        assert_eq!(next.take(0, 4096), pattern(4096, 2), "{provider}");
    });
}
