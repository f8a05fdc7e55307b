//! What a volume's unit keeps with the pool: on every leg before the answer, one write for many, and gone from every leg when it
//! was refused.

mod support;

use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::join_all;
use support::{Bench, read, run, settle, volume, write};
use tokio::time::sleep;
use understudy_device::medium::{Medium as _, MediumError};
use understudy_disk::disk::DiskError;
use understudy_layout::metadata::STATE_MAX_BYTES;
use understudy_layout::{MetadataVersion, Uuid};
use understudy_pool::testing::MemoryDisk;
use understudy_pool::{InSync, LegSet, Pool};

/// Sense key MEDIUM ERROR with WRITE ERROR.
const REFUSED: DiskError = DiskError::CheckCondition { key: 3, asc: 0x0c00 };

/// The state the next owner finds of this volume, whichever legs it looks at.
async fn state_found(bench: &Bench, volume: Uuid) -> Vec<u8> {
    let images: Vec<_> = bench.disks.iter().map(|disk| disk.image()).collect();
    let mut found = Vec::new();
    for legs in [0b11u8, 0b01, 0b10] {
        let disks = images.iter().enumerate();
        let disks = disks.map(|(at, image)| MemoryDisk::from_image(&format!("disk{at}"), 512, image.clone())).collect();
        let after = Bench { disks, watcher: support::Watcher::new(), pool_uuid: bench.pool_uuid };
        let legs_good = vec![LegSet(legs); bench.disks.len() / 2];
        let expected = understudy_pool::Expected { legs_good, ..after.expected(InSync::No) };
        let pool = after.load(expected).await.expect("loads");
        found.push(pool.medium(volume).expect("there").kept_state());
    }
    assert!(found.windows(2).all(|pair| pair[0] == pair[1]), "the legs do not agree: {found:?}");
    found.pop().expect("three looks")
}

fn state_here(pool: &Pool, volume: Uuid) -> Vec<u8> {
    pool.medium(volume).expect("there").kept_state()
}

#[test]
fn states_kept_at_the_same_time_share_a_write() {
    run(async {
        let bench = Bench::new(512, 1).await;
        let pool = bench.serve(InSync::Yes).await;
        let mut volumes = Vec::new();
        for number in 0..10 {
            volumes.push(volume(&pool, &format!("v{number}"), 1, 512).await);
        }
        let before = pool.metadata_version();
        let keeps = volumes.iter().zip(1u8..).map(|(volume, number)| volume.keep_state(vec![number; 30]));
        assert!(join_all(keeps).await.iter().all(Result::is_ok));
        let after = pool.metadata_version();
        assert!(after.0 - before.0 <= 2, "{} versions for ten states", after.0 - before.0);
        for (volume, number) in volumes.iter().zip(1u8..) {
            assert_eq!(state_found(&bench, volume.uuid()).await, [number; 30]);
        }
    });
}

/// A mirror that takes the version beside one that refuses it: nobody is ever to find it.
#[test]
fn a_refused_state_is_on_no_leg_when_its_change_is_answered() {
    run(async {
        let bench = Bench::new(512, 2).await;
        let pool = bench.serve(InSync::Yes).await;
        let v = volume(&pool, "v", 2, 512).await;
        v.keep_state(b"before".to_vec()).await.expect("kept");
        let version = pool.metadata_version();
        bench.disks[2].fail_next_write(REFUSED);
        bench.disks[3].fail_next_write(REFUSED);
        let refused = v.keep_state(b"refused".to_vec()).await;
        assert_eq!(refused, Err(MediumError::Write { lba: 0 }));
        assert_eq!((state_here(&pool, v.uuid()), pool.metadata_version()), (b"before".to_vec(), version));
        assert_eq!(state_found(&bench, v.uuid()).await, b"before");
        assert_eq!(pool.writes_of_unknown_outcome(), 0);
        v.keep_state(b"after".to_vec()).await.expect("the disks take writes again");
        assert_eq!(state_found(&bench, v.uuid()).await, b"after");
        assert!(bench.watcher.dropped.borrow().is_empty());
    });
}

/// A disk that takes no write at all and shows that it has not got the version has nothing to be taken back.
#[test]
fn a_mirror_that_takes_no_writes_refuses_a_state_and_goes_on_reading() {
    run(async {
        let bench = Bench::new(512, 2).await;
        let pool = bench.serve(InSync::Yes).await;
        let v = volume(&pool, "v", 2, 512).await;
        write(&v, 0, 9).await;
        v.keep_state(b"before".to_vec()).await.expect("kept");
        bench.disks[2].break_all_writes();
        bench.disks[3].break_all_writes();
        assert_eq!(v.keep_state(b"refused".to_vec()).await, Err(MediumError::Write { lba: 0 }));
        assert_eq!(state_found(&bench, v.uuid()).await, b"before");
        assert_eq!(read(&v, 0).await, 9);
        bench.disks[2].mend();
        bench.disks[3].mend();
        v.keep_state(b"after".to_vec()).await.expect("mended");
    });
}

/// While a disk that may have the version is out of reach nobody knows what the next owner would find: no answer, a veto to
/// every hand-off, and the state before stays in force.
#[test]
fn a_refused_state_that_may_stand_on_a_leg_out_of_reach_is_not_answered() {
    run(async {
        let bench = Bench::new(512, 2).await;
        let pool = bench.serve(InSync::Yes).await;
        let v = volume(&pool, "v", 2, 512).await;
        v.keep_state(b"before".to_vec()).await.expect("kept");
        bench.disks[2].fail_next_write(REFUSED);
        bench.disks[3].fail_next_write(REFUSED);
        for disk in &bench.disks[..2] {
            disk.set_jitter(7, Duration::from_millis(5));
        }
        let mut keeping = v.keep_state(b"refused".to_vec());
        assert!((&mut keeping).now_or_never().is_none());
        settle().await;
        let landed = bench.disks[..2].iter().map(|disk| disk.writes()).sum::<u64>();
        // BOUND: paused time; the version is on both legs of the first mirror before their links go.
        while bench.disks[..2].iter().map(|disk| disk.writes()).sum::<u64>() < landed + 2 {
            sleep(Duration::from_micros(100)).await;
        }
        bench.disks[..2].iter().for_each(|disk| disk.cut_link());
        sleep(Duration::from_secs(60)).await;
        assert!((&mut keeping).now_or_never().is_none(), "answered while the disks may say something else");
        assert!(pool.writes_of_unknown_outcome() > 0);
        assert_eq!(state_here(&pool, v.uuid()), b"before");
        bench.disks[..2].iter().for_each(|disk| disk.restore_link());
        assert_eq!(keeping.await, Err(MediumError::Write { lba: 0 }));
        assert_eq!(pool.writes_of_unknown_outcome(), 0);
        assert_eq!(state_found(&bench, v.uuid()).await, b"before");
    });
}

/// The metadata of a small pool has 1 MiB: a state that finds no room is refused, and does not take others with it.
#[test]
fn a_state_without_room_is_refused_alone_and_nothing_is_written_for_it() {
    run(async {
        let bench = Bench::new(512, 2).await;
        let pool = bench.serve(InSync::Yes).await;
        let mut volumes = Vec::new();
        for number in 0..20 {
            volumes.push(volume(&pool, &format!("v{number}"), 1, 512).await);
        }
        let keeps = volumes.iter().map(|volume| volume.keep_state(vec![1; STATE_MAX_BYTES]));
        let kept = join_all(keeps).await;
        let full = kept.iter().filter(|kept| **kept == Err(MediumError::NoSpace)).count();
        assert!((1..8).contains(&full) && kept.iter().filter(|kept| kept.is_ok()).count() == 20 - full, "{kept:?}");
        for (volume, kept) in volumes.iter().zip(&kept) {
            assert_eq!(state_here(&pool, volume.uuid()).len(), if kept.is_ok() { STATE_MAX_BYTES } else { 0 });
        }
        let last = &volumes[19];
        assert_eq!(last.keep_state(vec![2; STATE_MAX_BYTES]).await, Err(MediumError::NoSpace));
        last.keep_state(vec![2; 20]).await.expect("a small one has room");
        assert_eq!(last.keep_state(vec![2; STATE_MAX_BYTES + 1]).await, Err(MediumError::NoSpace));
    });
}

/// A repaired node loads a pool while its partner serves it. What it serves later is what the partner kept last.
#[test]
fn a_warm_pool_serves_the_state_that_was_kept_last() {
    for in_sync in [InSync::Yes, InSync::No] {
        run(async move {
            let bench = Bench::new(512, 1).await;
            let serving = bench.serve(InSync::Yes).await;
            let v = volume(&serving, "v", 2, 512).await;
            v.keep_state(b"early".to_vec()).await.expect("kept");
            let warm = bench.load(bench.expected(in_sync)).await.expect("loads");
            assert_eq!(state_here(&warm, v.uuid()), b"early");
            v.keep_state(b"late".to_vec()).await.expect("kept");
            let at_least: MetadataVersion = serving.metadata_version();
            serving.stop();
            let expected = understudy_pool::Expected { at_least, ..bench.expected(in_sync) };
            warm.refresh(expected).await.expect("refreshed");
            warm.start(4, &bench.fenced()).await.expect("starts");
            assert_eq!(state_here(&warm, v.uuid()), b"late");
            assert_eq!(read(&warm.medium(v.uuid()).expect("there"), 0).await, 0);
        });
    }
}
