//! What a pool does when links, disks, power and the fence fail.

mod support;

use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::join;
use support::{Answer, Bench, MIB, block_of, read, run, settle, volume, write};
use tokio::time::{advance, sleep};
use understudy_device::medium::{Durability, Medium as _, MediumError};
use understudy_disk::disk::DiskError;
use understudy_pool::{InSync, LegPlace, LegSet, Reason};

const FIRST: LegPlace = LegPlace { mirror: 0, leg: 0 };
const SECOND: LegPlace = LegPlace { mirror: 0, leg: 1 };

#[test]
fn lost_leg_is_recorded_before_a_write_is_acknowledged_without_it() {
    run(async {
        let bench = Bench::new(512, 1).await;
        let pool = bench.serve(InSync::Yes).await;
        let v = volume(&pool, "v", 2, 512).await;
        bench.watcher.gate_open.set(false);
        bench.disks[1].cut_link();
        let mut write = v.write(0, block_of(&v, 1), Durability::Cached);
        assert!((&mut write).now_or_never().is_none());
        sleep(Duration::from_secs(4)).await;
        assert_eq!(bench.watcher.drops_asked.get(), 0, "a short absence drops nothing");
        sleep(Duration::from_secs(60)).await;
        assert_eq!(bench.watcher.drops_asked.get(), 1);
        assert!((&mut write).now_or_never().is_none(), "not recorded, not acknowledged");
        bench.watcher.open_gate();
        write.await.expect("acknowledged with one leg");
        assert_eq!(*bench.watcher.dropped.borrow(), [SECOND]);
        assert_eq!(pool.legs_good(), [LegSet(1)]);
        // The dropped leg stays out even when its link is back.
        let writes = bench.disks[1].writes();
        bench.disks[1].restore_link();
        support::write(&v, 0, 2).await;
        assert_eq!(bench.disks[1].writes(), writes);
    });
}

#[test]
fn leg_that_is_back_in_time_gets_the_write_after_its_fence_was_proved() {
    run(async {
        let bench = Bench::new(512, 1).await;
        let pool = bench.serve(InSync::Yes).await;
        let v = volume(&pool, "v", 2, 512).await;
        bench.disks[1].cut_link();
        let mut write = v.write(0, block_of(&v, 1), Durability::Cached);
        assert!((&mut write).now_or_never().is_none());
        bench.watcher.proof.set(Answer::Unknown);
        bench.disks[1].restore_link();
        sleep(Duration::from_secs(1)).await;
        assert!((&mut write).now_or_never().is_none(), "no proof, no write");
        bench.watcher.proof.set(Answer::Held);
        write.await.expect("written");
        assert_eq!(bench.watcher.asked.borrow().last(), Some(&(SECOND, Reason::NewLink)));
        assert_eq!(bench.watcher.drops_asked.get(), 0);
        bench.assert_legs_equal().await;
    });
}

#[test]
fn write_of_unknown_outcome_bars_its_range_until_the_same_disk_took_it() {
    run(async {
        let bench = Bench::new(512, 1).await;
        let pool = bench.serve(InSync::Yes).await;
        let v = volume(&pool, "v", 2, 512).await;
        bench.watcher.proof.set(Answer::Unknown);
        bench.disks[1].set_hang(true);
        let mut first = v.write(8, block_of(&v, 1), Durability::Cached);
        assert!((&mut first).now_or_never().is_none());
        bench.disks[1].cut_link();
        settle().await;
        assert!((&mut first).now_or_never().is_none());
        assert_eq!(pool.writes_of_unknown_outcome(), 1);
        bench.disks[1].set_hang(false);
        bench.disks[1].restore_link();
        let mut second = v.write(8, block_of(&v, 2), Durability::Cached);
        sleep(Duration::from_secs(2)).await;
        let (first_done, second_done) = ((&mut first).now_or_never(), (&mut second).now_or_never());
        assert!(first_done.is_none() && second_done.is_none());
        assert!(bench.watcher.asked.borrow().contains(&(SECOND, Reason::OutcomeUnknown)));
        bench.watcher.proof.set(Answer::Held);
        first.await.expect("repeated on the same disk");
        second.await.expect("after the first");
        assert_eq!(pool.writes_of_unknown_outcome(), 0);
        assert_eq!(read(&v, 8).await, 2);
        bench.assert_legs_equal().await;
    });
}

#[test]
fn conflict_with_a_lost_fence_stops_the_pool_without_an_acknowledgement() {
    run(async {
        let bench = Bench::new(512, 1).await;
        let pool = bench.serve(InSync::Yes).await;
        let v = volume(&pool, "v", 2, 512).await;
        bench.watcher.proof.set(Answer::Lost);
        bench.disks[0].set_conflict(true);
        let written = v.write(0, block_of(&v, 1), Durability::Cached).await;
        assert_eq!(written, Err(MediumError::Fenced));
        assert_eq!(*bench.watcher.fenced.borrow(), [FIRST]);
        assert_eq!(v.read(0, 1).await, Err(MediumError::Fenced));
    });
}

#[test]
fn conflict_on_one_disk_holds_every_answer_until_looked() {
    run(async {
        let bench = Bench::new(512, 2).await;
        let pool = bench.serve(InSync::Yes).await;
        // The volume on the other mirror has nothing to do with the disk in doubt.
        let near = volume(&pool, "near", 2, 512).await;
        let far = volume(&pool, "far", 2, 512).await;
        bench.watcher.proof.set(Answer::Unknown);
        bench.disks[0].fail_next_write(DiskError::Conflict);
        let mut doubtful = near.write(0, block_of(&near, 1), Durability::Cached);
        assert!((&mut doubtful).now_or_never().is_none());
        settle().await;
        let mut other = far.write(0, block_of(&far, 1), Durability::Cached);
        settle().await;
        assert!((&mut other).now_or_never().is_none());
        bench.watcher.proof.set(Answer::Held);
        other.await.expect("the fence stands");
        doubtful.await.expect("a conflict was certainly not carried out, so it is repeated");
        assert!(bench.watcher.asked.borrow().contains(&(FIRST, Reason::Conflict)));
    });
}

#[test]
fn disk_that_refuses_for_ever_and_shows_the_fence_when_asked_is_dropped_in_the_end() {
    run(async {
        let bench = Bench::new(512, 1).await;
        let pool = bench.serve(InSync::Yes).await;
        let v = volume(&pool, "v", 2, 512).await;
        bench.disks[1].set_conflict(true);
        v.write(0, block_of(&v, 1), Durability::Cached).await.expect("written on the other leg");
        assert_eq!(*bench.watcher.dropped.borrow(), [SECOND]);
        let asked = bench.watcher.asked.borrow().len();
        assert!(asked < 2_000, "asked {asked} times within the leg's time: without a pause in between");
    });
}

#[test]
fn proof_of_an_older_epoch_proves_nothing() {
    run(async {
        let bench = Bench::new(512, 1).await;
        let pool = bench.serve(InSync::Yes).await;
        let v = volume(&pool, "v", 2, 512).await;
        bench.watcher.proof.set(Answer::HeldBefore);
        bench.disks[1].cut_link();
        bench.disks[1].restore_link();
        let mut write = v.write(0, block_of(&v, 1), Durability::Cached);
        assert!((&mut write).now_or_never().is_none());
        sleep(Duration::from_secs(1)).await;
        assert!((&mut write).now_or_never().is_none());
        bench.watcher.proof.set(Answer::Held);
        write.await.expect("written");
    });
}

#[test]
fn unit_attention_alone_is_no_defeat() {
    run(async {
        let bench = Bench::new(512, 1).await;
        let pool = bench.serve(InSync::Yes).await;
        let v = volume(&pool, "v", 2, 512).await;
        bench.disks[0].fail_next_write(DiskError::CheckCondition { key: 6, asc: 0x2a05 });
        write(&v, 0, 3).await;
        assert_eq!(read(&v, 0).await, 3);
        assert!(bench.watcher.fenced.borrow().is_empty());
        bench.assert_legs_equal().await;
    });
}

#[test]
fn unreadable_block_comes_from_the_other_leg_and_fails_only_when_both_cannot() {
    run(async {
        let bench = Bench::new(512, 1).await;
        let pool = bench.serve(InSync::Yes).await;
        let v = volume(&pool, "v", 4, 512).await;
        let data = bench.data_offset().await as u64;
        for lba in [10, 2058] {
            write(&v, lba, 5).await;
            bench.disks[0].break_read(data / 512 + lba);
            assert_eq!(read(&v, lba).await, 5);
            bench.disks[1].break_read(data / 512 + lba);
            assert_eq!(v.read(lba, 1).await, Err(MediumError::Read { lba }));
        }
        assert_eq!(bench.watcher.drops_asked.get(), 0, "a read error is no reason to drop a leg");
    });
}

#[test]
fn leg_that_refuses_a_write_is_recorded_lost_and_two_refusals_are_the_clients() {
    run(async {
        let bench = Bench::new(512, 1).await;
        let pool = bench.serve(InSync::Yes).await;
        let v = volume(&pool, "v", 2, 512).await;
        let data = bench.data_offset().await as u64;
        bench.disks[0].break_write(data / 512 + 6);
        bench.disks[1].break_write(data / 512 + 6);
        let refused = v.write(6, block_of(&v, 1), Durability::Cached).await;
        assert_eq!(refused, Err(MediumError::Write { lba: 6 }));
        assert_eq!(bench.watcher.drops_asked.get(), 0);
        assert_eq!(pool.legs_good(), [LegSet(3)]);

        bench.disks[0].break_write(data / 512 + 7);
        write(&v, 7, 2).await;
        assert_eq!(*bench.watcher.dropped.borrow(), [FIRST]);
        assert_eq!(read(&v, 7).await, 2);
    });
}

#[test]
fn without_any_leg_commands_wait_and_none_fails() {
    run(async {
        let bench = Bench::new(512, 1).await;
        let pool = bench.serve(InSync::Yes).await;
        let v = volume(&pool, "v", 2, 512).await;
        write(&v, 1, 1).await;
        bench.disks.iter().for_each(|disk| disk.cut_link());
        let (mut written, mut seen) = (v.write(0, block_of(&v, 9), Durability::Cached), v.read(1, 1));
        assert!((&mut written).now_or_never().is_none() && (&mut seen).now_or_never().is_none());
        sleep(Duration::from_secs(60)).await;
        assert!((&mut written).now_or_never().is_none() && (&mut seen).now_or_never().is_none());
        assert_eq!(bench.watcher.drops_asked.get(), 0, "the last good leg is never dropped");
        bench.disks[1].restore_link();
        let (written, seen) = join(written, seen).await;
        assert_eq!(seen.expect("one leg is back")[0], 1);
        written.expect("the other one was dropped, recorded");
        assert_eq!(*bench.watcher.dropped.borrow(), [FIRST]);
    });
}

#[test]
fn disk_that_is_busy_for_long_holds_the_write_and_never_fails_it() {
    run(async {
        let bench = Bench::new(512, 1).await;
        let expected =
            understudy_pool::Expected { legs_good: support::only_first_leg(), ..bench.expected(InSync::Yes) };
        let pool = bench.load(expected).await.expect("loads");
        pool.start(2, &bench.fenced()).await.expect("starts");
        let v = volume(&pool, "v", 2, 512).await;
        for _ in 0..2000 {
            bench.disks[0].fail_next_write(DiskError::Status(0x08));
        }
        write(&v, 0, 4).await;
        assert_eq!(read(&v, 0).await, 4);
    });
}

#[test]
fn disk_that_forgot_its_cache_is_not_believed_and_gets_its_blocks_again() {
    for victim in [0, 1] {
        run(async {
            let bench = Bench::new(512, 1).await;
            let pool = bench.serve(InSync::Yes).await;
            let v = volume(&pool, "v", 4, 512).await;
            for lba in [0, 2048, 4096, 6144] {
                write(&v, lba, 1).await;
            }
            v.flush().await.expect("flushed");
            for lba in [0, 2048, 4096, 6144] {
                write(&v, lba, 2).await;
            }
            bench.disks[victim].lose_cache();
            for lba in [0, 2048, 4096, 6144] {
                assert_eq!(read(&v, lba).await, 2, "acknowledged, and still on the other disk");
            }
            sleep(Duration::from_secs(1)).await;
            pool.wait_in_sync().await;
            assert!(pool.in_sync());
            bench.assert_legs_equal().await;
        });
    }
}

#[test]
fn what_the_owner_before_left_in_a_cache_is_on_the_medium_before_it_is_shown() {
    for victim in [0, 1] {
        run(async {
            let bench = Bench::new(512, 1).await;
            let dead = bench.serve(InSync::Yes).await;
            let v = volume(&dead, "v", 4, 512).await;
            for lba in [0, 2048, 4096, 6144] {
                write(&v, lba, 1).await;
            }
            v.flush().await.expect("flushed");
            for lba in [0, 2048, 4096, 6144] {
                write(&v, lba, 2).await;
            }
            dead.stop();
            let pool = bench.serve(InSync::No).await;
            let uuid = pool.volumes().first().expect("one volume").uuid;
            let v = pool.medium(uuid).expect("served");
            bench.disks[victim].lose_cache();
            for lba in [0, 2048, 4096, 6144] {
                assert_eq!(read(&v, lba).await, 2, "acknowledged by the owner before");
            }
        });
    }
}

#[test]
fn of_two_disks_in_doubt_the_one_that_says_it_was_powered_on_is_not_believed() {
    for victim in [0, 1] {
        run(async {
            let bench = Bench::new(512, 1).await;
            let pool = bench.serve(InSync::Yes).await;
            let v = volume(&pool, "v", 4, 512).await;
            for lba in [0, 2048, 4096, 6144] {
                write(&v, lba, 1).await;
            }
            v.flush().await.expect("flushed");
            for lba in [0, 2048, 4096, 6144] {
                write(&v, lba, 2).await;
            }
            // A new session of one disk, and before anything is copied the other one loses power.
            bench.disks.iter().for_each(|disk| disk.set_jitter(9, Duration::from_secs(1)));
            bench.disks[1 - victim].cut_link();
            bench.disks[1 - victim].restore_link();
            settle().await;
            bench.disks[victim].lose_cache();
            settle().await;
            bench.disks.iter().for_each(|disk| disk.set_jitter(9, Duration::ZERO));
            for lba in [0, 2048, 4096, 6144] {
                assert_eq!(read(&v, lba).await, 2, "acknowledged, and on the disk that only had a new session");
            }
            v.flush().await.expect("flushed");
            bench.assert_legs_equal().await;
            bench.disks.iter().for_each(|disk| disk.lose_cache());
            for lba in [0, 2048, 4096, 6144] {
                assert_eq!(read(&v, lba).await, 2, "flushed");
            }
        });
    }
}

#[test]
fn what_is_found_equal_after_a_new_session_is_still_only_in_the_cache() {
    for victim in [0, 1] {
        run(async {
            let bench = Bench::new(512, 1).await;
            let pool = bench.serve(InSync::Yes).await;
            let v = volume(&pool, "v", 4, 512).await;
            for lba in [0, 2048, 4096, 6144] {
                write(&v, lba, 2).await;
            }
            bench.disks[victim].cut_link();
            bench.disks[victim].restore_link();
            sleep(Duration::from_secs(1)).await;
            pool.wait_in_sync().await;
            bench.disks[victim].lose_cache();
            for lba in [0, 2048, 4096, 6144] {
                assert_eq!(read(&v, lba).await, 2, "acknowledged, and still on the other disk");
            }
        });
    }
}

#[test]
fn disk_that_forgets_while_another_is_made_equal_to_it_stays_listed() {
    run(async {
        let bench = Bench::new(512, 1).await;
        let pool = bench.serve(InSync::Yes).await;
        let v = volume(&pool, "v", 1, 512).await;
        write(&v, 0, 2).await;
        // The second disk is doubted; the region is read from the first one, and its copy hangs at the second.
        bench.disks[1].lose_cache();
        bench.disks[1].set_hang(true);
        settle().await;
        bench.disks[0].lose_cache();
        settle().await;
        bench.disks[1].set_hang(false);
        sleep(Duration::from_secs(1)).await;
        pool.wait_in_sync().await;
        bench.assert_legs_equal().await;
    });
}

#[test]
fn pool_whose_only_disk_refuses_at_the_start_serves_when_it_is_started_again() {
    run(async {
        let bench = Bench::new(512, 1).await;
        let only_first =
            understudy_pool::Expected { legs_good: support::only_first_leg(), ..bench.expected(InSync::No) };
        let pool = bench.load(only_first).await.expect("loads");
        bench.disks[0].break_all_writes();
        assert_eq!(pool.start(2, &bench.fenced()).await, Err(understudy_pool::VolumeError::Refused));
        bench.disks[0].mend();
        pool.start(2, &bench.fenced()).await.expect("starts");
        let v = volume(&pool, "v", 2, 512).await;
        write(&v, 0, 4).await;
        assert_eq!(read(&v, 0).await, 4);
    });
}

#[test]
fn write_whose_caller_went_away_still_reaches_both_legs() {
    run(async {
        let bench = Bench::new(512, 1).await;
        let pool = bench.serve(InSync::Yes).await;
        let v = volume(&pool, "v", 2, 512).await;
        bench.disks[1].set_jitter(5, Duration::from_millis(50));
        let mut abandoned = v.write(3, block_of(&v, 6), Durability::Cached);
        assert!((&mut abandoned).now_or_never().is_none());
        drop(abandoned);
        // A later write of the same block waits for it, and wins.
        write(&v, 3, 7).await;
        assert_eq!(read(&v, 3).await, 7);
        bench.assert_legs_equal().await;
    });
}

#[test]
fn regions_that_differ_are_read_from_one_leg_until_they_are_equal() {
    run(async {
        let bench = Bench::new(512, 1).await;
        let pool = bench.serve(InSync::Yes).await;
        let v = volume(&pool, "v", 6, 512).await;
        pool.stop();
        let data = bench.data_offset().await;
        for region in 0..6 {
            for (leg, value) in [(0, 0x10), (1, 0x20)] {
                bench.disks[leg].scribble(data + region * (1 << 20), &[value; 512]);
            }
        }
        // Copying cannot go on while one leg is slow, so both answers would have time to show.
        bench.disks.iter().for_each(|disk| disk.set_jitter(3, Duration::from_millis(20)));
        let pool = bench.serve(InSync::No).await;
        assert!(!pool.in_sync());
        let v = pool.medium(v.uuid()).expect("there");
        let mut seen = Vec::new();
        for round in 0..20 {
            for region in 0..6u64 {
                let value = read(&v, region * 2048).await;
                if round == 0 {
                    seen.push(value);
                }
                assert_eq!(value, seen[usize::try_from(region).expect("small")], "region {region}, round {round}");
            }
        }
        pool.wait_in_sync().await;
        let progress = pool.resync_progress();
        assert_eq!(progress.equal, progress.of);
        bench.assert_legs_equal().await;
        for (region, value) in (0u64..).zip(seen) {
            assert_eq!(read(&v, region * 2048).await, value);
        }
    });
}

#[test]
fn same_leg_answers_on_both_nodes() {
    run(async {
        let bench = Bench::new(512, 1).await;
        let pool = bench.serve(InSync::Yes).await;
        let v = volume(&pool, "v", 6, 512).await;
        pool.stop();
        let data = bench.data_offset().await;
        for region in 0..6 {
            bench.disks[1].scribble(data + region * (1 << 20), &[0x20; 512]);
        }
        let mut views = Vec::new();
        for _ in 0..2 {
            let pool = bench.serve(InSync::Yes).await;
            let v = pool.medium(v.uuid()).expect("there");
            let mut view = Vec::new();
            for region in 0..6 {
                view.push(read(&v, region * 2048).await);
            }
            pool.stop();
            views.push(view);
        }
        assert_eq!(views[0], views[1]);
        assert!(views[0].contains(&0x20) && views[0].contains(&0), "both legs carry reads");
    });
}

#[test]
fn resync_goes_on_behind_a_region_no_leg_can_read() {
    run(async {
        let bench = Bench::new(512, 1).await;
        let pool = bench.serve(InSync::Yes).await;
        volume(&pool, "v", 6, 512).await;
        pool.stop();
        let data = bench.data_offset().await;
        bench.disks.iter().for_each(|disk| disk.break_read(data as u64 / 512 + 2));
        bench.disks[1].scribble(data + 5 * MIB as usize, &[9; 512]);
        let pool = bench.serve(InSync::No).await;
        sleep(Duration::from_secs(30)).await;
        let progress = pool.resync_progress();
        assert_eq!(progress.of - progress.equal, 1);
        assert!(!pool.in_sync());
        bench.assert_legs_equal().await;
        advance(Duration::from_secs(1)).await;
    });
}
