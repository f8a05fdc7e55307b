//! A leg that was dropped comes back: while clients write, across every failure, and never with older data than was acknowledged.

mod support;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use futures_util::FutureExt as _;
use proptest::prelude::*;
use support::{Bench, MIB, block_of, only_first_leg, read, run, settle, volume, write};
use tokio::task::spawn_local;
use tokio::time::{Instant, sleep};
use understudy_device::medium::{Durability, Medium as _};
use understudy_disk::disk::{Disk, DiskError};
use understudy_pool::{Expected, InSync, LegPlace, LegSet, Pool, ReturnNews, VolumeMedium};

const FIRST: LegPlace = LegPlace { mirror: 0, leg: 0 };
const SECOND: LegPlace = LegPlace { mirror: 0, leg: 1 };
const BOTH: [LegSet; 1] = [LegSet(3)];
const ONE: [LegSet; 1] = [LegSet(1)];

/// A pool that lost its second leg, recorded; the disk is in reach again. Every MiB of its volume was written since.
async fn degraded(bench: &Bench, mib: u64) -> (Rc<Pool>, Rc<VolumeMedium>) {
    let pool = bench.serve(InSync::Yes).await;
    let v = volume(&pool, "v", mib, 512).await;
    bench.disks[1].cut_link();
    let mut first = v.write(0, block_of(&v, 1), Durability::Cached);
    assert!((&mut first).now_or_never().is_none());
    first.await.expect("written once the leg is dropped");
    assert_eq!(pool.legs_good(), ONE);
    for region in 0..mib {
        write(&v, region * 2048 + 7, u8::try_from(region + 1).expect("few")).await;
    }
    bench.disks[1].restore_link();
    (pool, v)
}

/// Records what the pool asks for as soon as it does.
fn record_at_once(bench: &Bench, pool: &Rc<Pool>) {
    let pool = Rc::downgrade(pool);
    *bench.watcher.on_resynced.borrow_mut() = Some(Box::new(move || {
        let pool = pool.upgrade();
        spawn_local(async move { pool.iter().for_each(|pool| pool.leg_recorded_good(SECOND)) });
    }));
}

async fn until(what: &str, holds: impl Fn() -> bool) {
    for _ in 0..200_000 {
        if holds() {
            return;
        }
        sleep(Duration::from_millis(1)).await;
    }
    panic!("never: {what}");
}

async fn until_both_good(pool: &Pool) {
    until("both legs are good", || pool.legs_good() == BOTH).await;
}

/// The first copies went over, and there is more to come.
async fn until_half_copied(pool: &Pool) {
    until("some of it is copied", || pool.returning_legs().first().is_some_and(|leg| leg.copied > 1)).await;
}

#[test]
fn leg_that_answers_again_is_copied_recorded_and_then_read() {
    run(async {
        let bench = Bench::new(512, 1).await;
        let (pool, v) = degraded(&bench, 6).await;
        bench.watcher.takes_back.set(true);
        until("it has everything", || !bench.watcher.resynced.borrow().is_empty()).await;
        assert_eq!(pool.legs_good(), ONE, "not recorded, not good");
        let reads = bench.disks[1].reads();
        for region in 0..6u8 {
            assert_eq!(read(&v, u64::from(region) * 2048 + 7).await, region + 1);
        }
        assert_eq!(bench.disks[1].reads(), reads, "not recorded, not read");
        pool.leg_recorded_good(SECOND);
        assert_eq!(pool.legs_good(), BOTH);
        bench.assert_legs_equal().await;
        assert!(pool.in_sync());
        for region in 0..6u8 {
            assert_eq!(read(&v, u64::from(region) * 2048 + 7).await, region + 1);
        }
        assert!(bench.disks[1].reads() > reads, "it answers for its share again");
        settle().await;
        let news = bench.watcher.news.borrow();
        assert_eq!((news.first(), news.last()), (Some(&ReturnNews::Begun), Some(&ReturnNews::Good)));
        assert!(news.contains(&ReturnNews::Copied { percent: 50 }), "{news:?}");
    });
}

#[test]
fn nothing_is_acknowledged_without_a_leg_that_may_be_recorded_good() {
    run(async {
        let bench = Bench::new(512, 1).await;
        let (pool, v) = degraded(&bench, 4).await;
        bench.watcher.takes_back.set(true);
        until("it has everything", || !bench.watcher.resynced.borrow().is_empty()).await;
        bench.disks[1].cut_link();
        bench.watcher.gate_open.set(false);
        let mut written = v.write(5, block_of(&v, 9), Durability::Cached);
        assert!((&mut written).now_or_never().is_none());
        sleep(Duration::from_secs(60)).await;
        assert!((&mut written).now_or_never().is_none(), "the record may say that the leg is good");
        bench.watcher.open_gate();
        written.await.expect("recorded bad");
        assert_eq!(pool.legs_good(), ONE);
    });
}

#[test]
fn crash_between_copy_and_record_leaves_either_record_true() {
    for recorded in [only_first_leg(), vec![LegSet(3)]] {
        run(async {
            let bench = Bench::new(512, 1).await;
            let (pool, v) = degraded(&bench, 4).await;
            bench.watcher.takes_back.set(true);
            until("it has everything", || !bench.watcher.resynced.borrow().is_empty()).await;
            for region in 0..4 {
                write(&v, region * 2048 + 9, 0x40).await;
            }
            v.keep_state(vec![7; 3]).await.expect("kept");
            // The record was sent; this node dies before it hears whether it stands.
            pool.stop();
            let expected = Expected {
                legs_good: recorded.clone(),
                at_least: pool.metadata_version(),
                ..bench.expected(InSync::No)
            };
            let next = bench.load(expected).await.expect("loads");
            next.start(3, &bench.fenced()).await.expect("starts");
            let v = next.medium(v.uuid()).expect("there");
            assert_eq!(v.kept_state(), [7; 3]);
            for region in 0..4u8 {
                assert_eq!(read(&v, u64::from(region) * 2048 + 9).await, 0x40);
                assert_eq!(read(&v, u64::from(region) * 2048 + 7).await, region + 1);
            }
        });
    }
}

#[test]
fn second_failure_costs_no_client_more_than_a_moment_and_is_tried_again_later() {
    run(async {
        let bench = Bench::new(512, 1).await;
        let (pool, v) = degraded(&bench, 8).await;
        record_at_once(&bench, &pool);
        bench.watcher.takes_back.set(true);
        bench.disks[1].set_jitter(3, Duration::from_millis(20));
        for _ in 0..3 {
            until_half_copied(&pool).await;
            bench.disks[1].set_hang(true);
            let begun = Instant::now();
            write(&v, 7, 0x77).await;
            assert!(begun.elapsed() <= Duration::from_millis(1100), "{:?}", begun.elapsed());
            assert_eq!(bench.watcher.drops_asked.get(), 1, "what is not good needs no record to be left out");
            bench.disks[1].cut_link();
            bench.disks[1].set_hang(false);
            bench.disks[1].restore_link();
        }
        until_both_good(&pool).await;
        let given_up = bench.watcher.news.borrow().iter().filter(|news| matches!(news, ReturnNews::GivenUp(_))).count();
        assert_eq!(given_up, 3);
        bench.assert_legs_equal().await;
        assert_eq!(read(&v, 7).await, 0x77);
    });
}

#[test]
fn attempts_come_ever_more_slowly_while_the_disk_refuses() {
    run(async {
        let bench = Bench::new(512, 1).await;
        let (pool, _v) = degraded(&bench, 2).await;
        bench.watcher.takes_back.set(true);
        bench.disks[1].break_all_writes();
        let data = bench.data_offset().await as u64 / 512;
        assert!(data > 0);
        sleep(Duration::from_secs(600)).await;
        let attempts = bench.watcher.news.borrow().iter().filter(|news| **news == ReturnNews::Begun).count();
        assert!((6..=15).contains(&attempts), "{attempts}");
        assert_eq!(pool.legs_good(), ONE);
        record_at_once(&bench, &pool);
        bench.disks[1].mend();
        until_both_good(&pool).await;
        bench.assert_legs_equal().await;
    });
}

#[test]
fn disk_that_loses_power_at_any_moment_of_it_ends_with_everything_that_was_flushed() {
    for moment in (0..60).step_by(3) {
        run(async {
            let bench = Bench::new(512, 1).await;
            let (pool, v) = degraded(&bench, 4).await;
            record_at_once(&bench, &pool);
            bench.disks[1].set_jitter(moment + 1, Duration::from_millis(4));
            bench.watcher.takes_back.set(true);
            until("it is copied to", || !pool.returning_legs().is_empty()).await;
            sleep(Duration::from_millis(moment)).await;
            write(&v, 3 * 2048 + 1, 0x33).await;
            bench.disks[1].lose_cache();
            write(&v, 2 * 2048 + 1, 0x22).await;
            v.flush().await.expect("flushed");
            until_both_good(&pool).await;
            until("nothing differs", || pool.in_sync()).await;
            // No client flushes from here on: what counted as flushed must be on the medium.
            pool.stop();
            bench.disks[1].lose_cache();
            bench.assert_legs_equal().await;
        });
    }
}

#[test]
fn volume_made_during_the_copy_is_on_both_legs() {
    run(async {
        let bench = Bench::new(512, 1).await;
        let (pool, v) = degraded(&bench, 4).await;
        // What no volume used so far is not copied, and here it is not blank.
        let data = bench.data_offset().await;
        bench.disks[1].scribble(data + 8 * MIB as usize, &vec![0xee; 2 * MIB as usize]);
        bench.disks[1].scribble(data + 4 * MIB as usize, &vec![0xee; 4 * MIB as usize]);
        record_at_once(&bench, &pool);
        bench.disks[1].set_jitter(5, Duration::from_millis(30));
        bench.watcher.takes_back.set(true);
        until_half_copied(&pool).await;
        let other = volume(&pool, "other", 3, 512).await;
        write(&other, 1, 0x51).await;
        assert_eq!(pool.legs_good(), ONE, "made while the copy was under way");
        until_both_good(&pool).await;
        for medium in [&v, &other] {
            assert_eq!(read(medium, 2048 + 100).await, 0);
        }
        pool.stop();
        // The second leg alone.
        let expected = Expected { legs_good: vec![LegSet(2)], ..bench.expected(InSync::Yes) };
        let alone = bench.load(expected).await.expect("loads");
        alone.start(3, &bench.fenced()).await.expect("starts");
        let other = alone.medium(other.uuid()).expect("there");
        assert_eq!(read(&other, 1).await, 0x51);
        for lba in 2..3 * 2048 {
            assert_eq!(read(&other, lba).await, 0, "block {lba}");
        }
    });
}

#[test]
fn volume_whose_making_outlasts_the_copy_is_on_both_legs() {
    run(async {
        let bench = Bench::new(512, 1).await;
        let (pool, _v) = degraded(&bench, 4).await;
        let data = bench.data_offset().await;
        bench.disks[1].scribble(data + 4 * MIB as usize, &vec![0xee; 3 * MIB as usize]);
        record_at_once(&bench, &pool);
        bench.disks[1].set_jitter(5, Duration::from_millis(30));
        bench.watcher.takes_back.set(true);
        until_half_copied(&pool).await;
        // The good leg is busy for the metadata; reads go on.
        (0..200).for_each(|_| bench.disks[0].fail_next_write(DiskError::Status(0x08)));
        volume(&pool, "other", 3, 512).await;
        until_both_good(&pool).await;
        bench.assert_legs_equal().await;
    });
}

#[test]
fn what_the_last_good_leg_forgot_is_forgotten_by_the_copy_too() {
    run(async {
        let bench = Bench::new(512, 1).await;
        let (pool, v) = degraded(&bench, 8).await;
        v.flush().await.expect("flushed");
        record_at_once(&bench, &pool);
        bench.disks[1].set_jitter(5, Duration::from_millis(30));
        bench.watcher.takes_back.set(true);
        until_half_copied(&pool).await;
        write(&v, 7, 0x66).await;
        // Not flushed: it may go with the power of the disk, and then for good.
        bench.disks[0].lose_cache();
        until_both_good(&pool).await;
        bench.assert_legs_equal().await;
        assert_eq!(read(&v, 7).await, 1);
    });
}

#[test]
fn metadata_nobody_else_has_is_not_believed_when_the_leg_is_back() {
    run(async {
        let bench = Bench::new(512, 1).await;
        let pool = bench.serve(InSync::Yes).await;
        let v = volume(&pool, "v", 2, 512).await;
        let version = pool.metadata_version();
        pool.stop();
        let before = bench.disks[0].image();
        // A newer version that only the second leg got: its other holder is put back.
        let pool = bench.serve(InSync::Yes).await;
        pool.medium(v.uuid()).expect("there").keep_state(b"ghost".to_vec()).await.expect("kept");
        pool.stop();
        bench.disks[0].scribble(0, &before);
        let expected = || Expected { legs_good: only_first_leg(), at_least: version, ..bench.expected(InSync::Yes) };
        let pool = bench.load(expected()).await.expect("loads");
        pool.start(3, &bench.fenced()).await.expect("starts");
        record_at_once(&bench, &pool);
        bench.watcher.takes_back.set(true);
        until_both_good(&pool).await;
        pool.stop();
        let next = bench.load(Expected { legs_good: BOTH.to_vec(), ..expected() }).await.expect("loads");
        assert_eq!(next.metadata_version(), version);
        assert!(next.medium(v.uuid()).expect("there").kept_state().is_empty());
    });
}

#[test]
fn another_disk_in_the_place_is_not_written_to() {
    run(async {
        let bench = Bench::new(512, 1).await;
        let other = Bench::new(512, 1).await;
        let (pool, _v) = degraded(&bench, 2).await;
        let before = other.disks[1].image();
        bench.watcher.disks.borrow_mut()[1] = Rc::clone(&other.disks[1]) as Rc<dyn Disk>;
        bench.watcher.takes_back.set(true);
        sleep(Duration::from_secs(300)).await;
        assert_eq!(pool.legs_good(), ONE);
        assert!(bench.watcher.resynced.borrow().is_empty());
        assert!(other.disks[1].image() == before);
    });
}

#[test]
fn copy_waits_for_its_source_instead_of_giving_up() {
    run(async {
        let bench = Bench::new(512, 1).await;
        let (pool, v) = degraded(&bench, 8).await;
        record_at_once(&bench, &pool);
        bench.disks[1].set_jitter(3, Duration::from_millis(20));
        bench.watcher.takes_back.set(true);
        until_half_copied(&pool).await;
        bench.disks[0].cut_link();
        sleep(Duration::from_secs(20)).await;
        assert_eq!(pool.returning_legs().len(), 1);
        bench.disks[0].restore_link();
        until_both_good(&pool).await;
        assert_eq!(bench.watcher.drops_asked.get(), 1, "the last good leg is never dropped");
        assert_eq!(read(&v, 7).await, 1);
        bench.assert_legs_equal().await;
    });
}

#[test]
fn leg_recorded_good_without_having_everything_holds_all_answers_until_it_is_recorded_bad() {
    run(async {
        let bench = Bench::new(512, 1).await;
        let (pool, v) = degraded(&bench, 2).await;
        bench.watcher.gate_open.set(false);
        pool.leg_recorded_good(SECOND);
        let mut written = v.write(3, block_of(&v, 4), Durability::Cached);
        assert!((&mut written).now_or_never().is_none());
        sleep(Duration::from_secs(30)).await;
        assert!((&mut written).now_or_never().is_none());
        assert_eq!(read(&v, 7).await, 1, "read where it is");
        bench.watcher.open_gate();
        written.await.expect("recorded bad");
        assert_eq!(pool.legs_good(), ONE);
        assert_eq!(bench.watcher.dropped.borrow().last(), Some(&SECOND));
    });
}

#[test]
fn leg_recorded_good_while_the_pool_is_warm_is_not_used_either() {
    run(async {
        let bench = Bench::new(512, 1).await;
        let (pool, v) = degraded(&bench, 2).await;
        pool.stop();
        let expected = Expected { legs_good: only_first_leg(), ..bench.expected(InSync::Yes) };
        let pool = bench.load(expected).await.expect("loads");
        let v = pool.medium(v.uuid()).expect("there");
        bench.watcher.gate_open.set(false);
        pool.leg_recorded_good(SECOND);
        pool.start(3, &bench.fenced()).await.expect("starts");
        let mut written = v.write(3, block_of(&v, 4), Durability::Cached);
        assert!((&mut written).now_or_never().is_none());
        sleep(Duration::from_secs(30)).await;
        assert!((&mut written).now_or_never().is_none());
        for region in 0..2u8 {
            assert_eq!(read(&v, u64::from(region) * 2048 + 7).await, region + 1);
        }
        bench.watcher.open_gate();
        written.await.expect("recorded bad");
        assert_eq!(pool.legs_good(), ONE);
    });
}

#[test]
fn warm_pool_does_not_serve_without_a_leg_that_was_taken_back_since() {
    run(async {
        let bench = Bench::new(512, 1).await;
        let with = |legs: &[LegSet]| Expected { legs_good: legs.to_vec(), ..bench.expected(InSync::Yes) };
        let warm = bench.load(with(&ONE)).await.expect("loads");
        assert!(warm.refresh(with(&ONE)).await.is_ok());
        assert_eq!(warm.refresh(with(&BOTH)).await, Err(understudy_pool::LoadError::NotWarm));
    });
}

#[test]
fn flush_is_answered_only_when_a_disk_that_forgot_has_everything_again() {
    run(async {
        let bench = Bench::new(512, 1).await;
        let pool = bench.serve(InSync::Yes).await;
        let v = volume(&pool, "v", 4, 512).await;
        v.flush().await.expect("flushed");
        for region in 0..4 {
            write(&v, region * 2048, 2).await;
        }
        // The copy back takes its time.
        bench.disks.iter().for_each(|disk| disk.set_jitter(9, Duration::from_millis(50)));
        bench.disks[1].lose_cache();
        v.flush().await.expect("flushed");
        pool.stop();
        bench.disks.iter().for_each(|disk| disk.lose_cache());
        bench.assert_legs_equal().await;
        assert_eq!(bench.watcher.drops_asked.get(), 0);
    });
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

    /// Writers and readers all the time, the leg away and back again and again, records that take their time: no reader sees time
    /// go back, and in the end both legs hold the same.
    #[test]
    fn older_data_never_wins(seed: u64, cuts in proptest::collection::vec((1u64..4000, 1u64..9000), 1..4), record_ms in 0u64..200) {
        run(async {
            let bench = Bench::new(512, 1).await;
            let (pool, v) = degraded(&bench, 4).await;
            bench.disks[0].set_jitter(seed, Duration::from_millis(3));
            bench.disks[1].set_jitter(seed.rotate_left(9), Duration::from_millis(5));
            let to_record = Rc::downgrade(&pool);
            *bench.watcher.on_resynced.borrow_mut() = Some(Box::new(move || {
                let pool = to_record.upgrade();
                spawn_local(async move {
                    sleep(Duration::from_millis(record_ms)).await;
                    // As the machine: a leg that was dropped meanwhile is not recorded good.
                    pool.iter().filter(|pool| pool.has_leg(SECOND)).for_each(|pool| pool.leg_recorded_good(SECOND));
                });
            }));
            bench.watcher.takes_back.set(true);
            let over = Rc::new(Cell::new(false));
            let acknowledged = Rc::new(RefCell::new(BTreeMap::<u64, u8>::new()));
            let lbas = [7, 2048 + 7, 2 * 2048 + 9, 3 * 2048 + 2047];
            let writers = lbas.map(|lba| {
                let (v, acknowledged, over) = (Rc::clone(&v), Rc::clone(&acknowledged), Rc::clone(&over));
                spawn_local(async move {
                    let mut value = 10u8;
                    while !over.get() && value < 250 {
                        write(&v, lba, value).await;
                        acknowledged.borrow_mut().insert(lba, value);
                        value += 1;
                        sleep(Duration::from_millis(u64::from(value) % 97)).await;
                    }
                })
            });
            let readers = lbas.map(|lba| {
                let (v, acknowledged, over) = (Rc::clone(&v), Rc::clone(&acknowledged), Rc::clone(&over));
                spawn_local(async move {
                    let mut newest = 0;
                    while !over.get() {
                        let floor = acknowledged.borrow().get(&lba).copied().unwrap_or(0).max(newest);
                        let seen = read(&v, lba).await;
                        assert!(seen >= floor, "block {lba}: read {seen} after {floor}");
                        newest = seen;
                        sleep(Duration::from_millis(1)).await;
                    }
                })
            });
            for (after, long) in cuts {
                sleep(Duration::from_millis(after)).await;
                bench.disks[1].cut_link();
                sleep(Duration::from_millis(long)).await;
                bench.disks[1].restore_link();
            }
            until_both_good(&pool).await;
            until("nothing differs", || pool.in_sync()).await;
            over.set(true);
            for task in writers.into_iter().chain(readers) {
                task.await.expect("holds");
            }
            settle().await;
            bench.assert_legs_equal().await;
            let acknowledged = acknowledged.take();
            for (lba, value) in acknowledged {
                assert_eq!(read(&v, lba).await, value);
            }
            assert!(!bench.watcher.dropped.borrow().contains(&FIRST));
        });
    }
}
