//! Random schedules: whatever the order, overlap, cut or crash, what was acknowledged is there and the legs end equal.

mod support;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use proptest::prelude::*;
use support::{Bench, run, settle, volume};
use tokio::task::spawn_local;
use tokio::time::sleep;
use understudy_device::medium::{Durability, Medium as _, MediumError};
use understudy_layout::MetadataVersion;
use understudy_pool::InSync;
use understudy_pool::testing::MemoryDisk;

const BLOCKS: u64 = 2 * 2048;

/// A write of `blocks` blocks of `value` after `wait_ms`.
#[derive(Debug, Clone)]
struct Step {
    lba: u64,
    blocks: u64,
    value: u8,
    wait_ms: u64,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    // Around the boundary of two regions, so that writes overlap each other and are cut in two.
    let step = (2040u64..2056, 1u64..9, 1u8..255, 0u64..30).prop_map(|(lba, blocks, value, wait_ms)| Step {
        lba,
        blocks,
        value,
        wait_ms,
    });
    proptest::collection::vec(step, 1..25)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    /// Overlapping writes at once, legs of different speed, links going down and up, a resync running over it.
    #[test]
    fn legs_end_equal_and_hold_only_whole_writes(steps in steps(), seed: u64, cuts in proptest::collection::vec((0usize..2, 1u64..200, 1u64..900), 0..4)) {
        run(async {
            let bench = Bench::new(512, 1).await;
            let uuid = {
                let pool = bench.serve(InSync::Yes).await;
                let uuid = volume(&pool, "v", 2, 512).await.uuid();
                pool.stop();
                uuid
            };
            let data = bench.data_offset().await;
            bench.disks[1].scribble(data + 2046 * 512, &[0xff; 2048]);
            bench.disks[0].set_jitter(seed, Duration::from_millis(9));
            bench.disks[1].set_jitter(seed.rotate_left(17), Duration::from_millis(9));
            let pool = bench.serve(InSync::No).await;
            let v = pool.medium(uuid).expect("there");
            let cutter = spawn_local({
                let disks = bench.disks.clone();
                async move {
                    for (disk, after, long) in cuts {
                        sleep(Duration::from_millis(after)).await;
                        disks[disk].cut_link();
                        sleep(Duration::from_millis(long)).await;
                        disks[disk].restore_link();
                    }
                }
            });
            let writes = steps.iter().map(|step| {
                let v = Rc::clone(&v);
                async move {
                    sleep(Duration::from_millis(step.wait_ms)).await;
                    let length = usize::try_from(step.blocks * 512).expect("small");
                    let bytes = Bytes::from(vec![step.value; length]);
                    v.write(step.lba, bytes, Durability::Cached).await.expect("held, never failed");
                }
            });
            join_all(writes).await;
            cutter.await.expect("ends");
            sleep(Duration::from_secs(1)).await;
            pool.wait_in_sync().await;
            bench.assert_legs_equal().await;
            let whole = v.read(0, u32::try_from(BLOCKS).expect("small")).await.expect("read");
            for (lba, block) in (0u64..).zip(whole.chunks(512)) {
                assert!(block.iter().all(|byte| *byte == block[0]), "block {lba} is a mixture");
                let covered = steps.iter().any(|step| (step.lba..step.lba + step.blocks).contains(&lba));
                let possible = steps.iter().any(|step| step.value == block[0] && (step.lba..step.lba + step.blocks).contains(&lba));
                assert!(possible || !covered, "block {lba} lost every write: {}", block[0]);
            }
            prop_assert!(bench.watcher.dropped.borrow().is_empty());
            Ok(())
        })?;
    }

    /// A value once read is never followed by an older one, while writes are under way on legs of different speed.
    #[test]
    fn readers_never_see_time_go_back(seed: u64, writes in 2u8..30) {
        run(async {
            let bench = Bench::new(4096, 1).await;
            let pool = bench.serve(InSync::Yes).await;
            let v = volume(&pool, "v", 2, 4096).await;
            bench.disks[0].set_jitter(seed, Duration::from_millis(9));
            bench.disks[1].set_jitter(seed.rotate_left(9), Duration::from_millis(9));
            let acknowledged = Rc::new(RefCell::new(BTreeMap::<u64, u8>::new()));
            let lbas = [5, 300];
            let writers = lbas.map(|lba| {
                let (v, acknowledged) = (Rc::clone(&v), Rc::clone(&acknowledged));
                spawn_local(async move {
                    for value in 1..=writes {
                        support::write(&v, lba, value).await;
                        acknowledged.borrow_mut().insert(lba, value);
                    }
                })
            });
            let readers = lbas.iter().flat_map(|&lba| [lba; 3]).map(|lba| {
                let (v, acknowledged) = (Rc::clone(&v), Rc::clone(&acknowledged));
                spawn_local(async move {
                    let mut newest = 0;
                    while newest < writes {
                        let floor = acknowledged.borrow().get(&lba).copied().unwrap_or(0).max(newest);
                        let seen = support::read(&v, lba).await;
                        assert!(seen >= floor, "block {lba}: read {seen} after {floor}");
                        newest = seen;
                    }
                })
            });
            let readers: Vec<_> = readers.collect();
            for task in writers.into_iter().chain(readers) {
                task.await.expect("holds");
            }
        });
    }

    /// Power goes in the middle of any metadata write, on both disks, at different moments.
    #[test]
    fn power_cut_leaves_the_last_acknowledged_state_or_the_next(blocks in [0u64..120, 0u64..120], state_bytes in 1usize..9000) {
        run(async {
            let bench = Bench::new(512, 1).await;
            let pool = bench.serve(InSync::Yes).await;
            let v = volume(&pool, "v", 2, 512).await;
            let state = |number: u64| {
                let mut state = vec![0x77; state_bytes];
                state.extend_from_slice(&number.to_le_bytes());
                state
            };
            v.keep_state(state(0)).await.expect("kept");
            let acknowledged = Rc::new(std::cell::Cell::new((0, pool.metadata_version())));
            for (disk, blocks) in bench.disks.iter().zip(blocks) {
                disk.cut_power_after(blocks);
            }
            let keeper = spawn_local({
                let (v, pool, acknowledged) = (Rc::clone(&v), Rc::clone(&pool), Rc::clone(&acknowledged));
                async move {
                    for number in 1..40u64 {
                        let mut state = vec![0x77; state_bytes];
                        state.extend_from_slice(&number.to_le_bytes());
                        match v.keep_state(state).await {
                            Ok(()) => acknowledged.set((number, pool.metadata_version())),
                            Err(MediumError::Fenced) => return,
                            Err(other) => panic!("{other}"),
                        }
                    }
                }
            });
            sleep(Duration::from_secs(2)).await;
            pool.stop();
            keeper.await.expect("ends");
            settle().await;
            let (number, version) = acknowledged.get();
            assert!(number < 39, "power has to go before the last write");
            let images: Vec<_> = bench.disks.iter().map(|disk| disk.image()).collect();
            // All good legs together, and each alone as if the other had been recorded lost.
            for legs in [0b11u8, 0b01, 0b10] {
                let disks = (0u8..).zip(&images).map(|(at, image)| MemoryDisk::from_image(&format!("disk{at}"), 512, image.clone()));
                let after = Bench { disks: disks.collect(), watcher: support::Watcher::new(), pool_uuid: bench.pool_uuid };
                let expected = understudy_pool::Expected {
                    at_least: MetadataVersion(version.0),
                    legs_good: vec![understudy_pool::LegSet(legs)],
                    ..after.expected(InSync::No)
                };
                let pool = after.load(expected).await.expect("a whole copy that is new enough");
                let kept = pool.medium(v.uuid()).expect("there").kept_state();
                prop_assert!(kept == state(number) || kept == state(number + 1));
                // What was found stands on every good leg before anything relies on it.
                pool.start(9, &after.fenced()).await.expect("starts");
                let served = pool.metadata_version();
                prop_assert!(served > version);
                pool.stop();
                for alone in (0..2u8).filter(|leg| legs & (1 << leg) != 0) {
                    let expected = understudy_pool::Expected {
                        at_least: served,
                        legs_good: vec![understudy_pool::LegSet(1 << alone)],
                        ..after.expected(InSync::No)
                    };
                    let again = after.load(expected).await.expect("on every good leg");
                    prop_assert_eq!(again.medium(v.uuid()).expect("there").kept_state(), kept.clone());
                }
            }
            Ok(())
        })?;
    }
}
