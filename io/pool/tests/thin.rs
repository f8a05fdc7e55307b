//! Thin volumes: chunks are taken at the first write, found by whoever owns the pool next, blank where nothing was written, and
//! given back only while nothing is under way on them.

mod support;

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::future::{join, join_all};
use support::{Answer, Bench, MIB, block_of, read, run, settle, thin, volume, write};
use tokio::task::spawn_local;
use tokio::time::sleep;
use understudy_device::medium::{Durability, Medium as _, MediumError, Provisioned, Stretch};
use understudy_pool::testing::MemoryDisk;
use understudy_pool::{Expected, InSync, LegSet, Pool, VolumeMedium};

const CHUNK: u64 = MIB / 512;

/// What a deleted volume might have left everywhere.
async fn litter(bench: &Bench) {
    let from = bench.data_offset().await;
    for disk in &bench.disks {
        let end = disk.image().len() - 64 * 1024;
        disk.scribble(from, &vec![0xee; end - from]);
    }
}

/// What the next owner finds, whichever legs are left.
async fn found_by_the_next(bench: &Bench, v: &VolumeMedium, check: impl AsyncFn(Rc<VolumeMedium>)) {
    let images: Vec<_> = bench.disks.iter().map(|disk| disk.image()).collect();
    for legs in [0b11u8, 0b01, 0b10] {
        let disks = images.iter().enumerate();
        let disks = disks.map(|(at, image)| MemoryDisk::from_image(&format!("disk{at}"), 512, image.clone())).collect();
        let after = Bench { disks, watcher: support::Watcher::new(), pool_uuid: bench.pool_uuid };
        let legs_good = vec![LegSet(legs); bench.disks.len() / 2];
        let pool = after.load(Expected { legs_good, ..after.expected(InSync::No) }).await.expect("loads");
        pool.start(9, &after.fenced()).await.expect("starts");
        check(pool.medium(v.uuid()).expect("there")).await;
        pool.stop();
    }
}

fn free_mib(pool: &Pool) -> u64 {
    pool.metadata().free_bytes() / MIB
}

#[test]
fn what_was_never_written_reads_as_zeroes_and_no_disk_is_asked_for_it() {
    run(async {
        let bench = Bench::new(512, 2).await;
        litter(&bench).await;
        let pool = bench.serve(InSync::Yes).await;
        let free = free_mib(&pool);
        let v = thin(&pool, "v", 100, 512).await;
        assert_eq!(free_mib(&pool), free, "promised, not taken");
        let reads = || bench.disks.iter().map(|disk| disk.reads()).sum::<u64>();
        let (before, questions) = (reads(), bench.disks.iter().map(|disk| disk.questions()).sum::<u64>());
        assert!(v.read(5 * CHUNK - 3, 6000).await.expect("zeroes").iter().all(|&byte| byte == 0));
        assert_eq!(reads(), before);
        assert!(bench.disks.iter().map(|disk| disk.questions()).sum::<u64>() > questions, "but whether it still may");
        v.flush().await.expect("nothing to flush");
    });
}

#[test]
fn first_write_takes_a_blank_chunk_that_every_leg_alone_knows_of() {
    run(async {
        let bench = Bench::new(512, 1).await;
        litter(&bench).await;
        let pool = bench.serve(InSync::Yes).await;
        let free = free_mib(&pool);
        let v = thin(&pool, "v", 100, 512).await;
        write(&v, 7 * CHUNK + 5, 3).await;
        // Over the end of a chunk, and of a region.
        v.write(20 * CHUNK - 1, Bytes::from(vec![4; 1024]), Durability::Cached).await.expect("written");
        assert_eq!(free_mib(&pool), free - 3);
        found_by_the_next(&bench, &v, async |v| {
            for (lba, value) in [(7 * CHUNK + 5, 3), (20 * CHUNK - 1, 4), (20 * CHUNK, 4)] {
                assert_eq!(read(&v, lba).await, value);
            }
            for lba in [0, 7 * CHUNK, 7 * CHUNK + 4, 7 * CHUNK + 6, 8 * CHUNK - 1, 19 * CHUNK, 20 * CHUNK + 1] {
                assert_eq!(read(&v, lba).await, 0, "block {lba}");
            }
        })
        .await;
        pool.wait_in_sync().await;
        write(&v, 7 * CHUNK + 6, 5).await;
        assert_eq!(free_mib(&pool), free - 3, "a second write takes nothing");
    });
}

/// The same schedule as for reads of what is there (decision 19).
#[test]
fn node_that_was_fenced_does_not_answer_for_chunks_that_are_not_there() {
    run(async {
        let bench = Bench::new(512, 1).await;
        let pool = bench.serve(InSync::Yes).await;
        let v = thin(&pool, "v", 8, 512).await;
        for fenced in [0, 1] {
            bench.watcher.owner.set(false);
            bench.watcher.proof.set(Answer::Unknown);
            bench.disks[fenced].set_conflict(true);
            let mut shown = v.read(0, 1);
            let mut told = v.stretches(0, 1);
            let mut forgotten = v.unmap(vec![(0, CHUNK)]);
            settle().await;
            assert!((&mut shown).now_or_never().is_none());
            assert!((&mut told).now_or_never().is_none());
            assert!((&mut forgotten).now_or_never().is_none());
            bench.disks[fenced].set_conflict(false);
            bench.watcher.proof.set(Answer::Held);
            shown.await.expect("nobody had taken it over");
            told.await.expect("nor for this");
            forgotten.await.expect("nor for this");
        }
        bench.disks[1].set_conflict(true);
        bench.watcher.proof.set(Answer::Lost);
        assert_eq!(v.read(0, 1).await, Err(MediumError::Fenced));
        assert_eq!(v.stretches(0, 1).await, Err(MediumError::Fenced));
    });
}

#[test]
fn writes_that_wait_for_chunks_together_share_metadata_writes() {
    run(async {
        let bench = Bench::new(512, 2).await;
        let pool = bench.serve(InSync::Yes).await;
        let (one, other) = (thin(&pool, "one", 50, 512).await, thin(&pool, "other", 50, 512).await);
        let before = pool.metadata_version();
        // The last of each goes to a chunk that another one takes.
        let writes = [0, 4, 9, 2, 9].map(|chunk| [(&one, chunk), (&other, chunk)]);
        let writes = writes.iter().flatten().map(|(v, chunk)| write(v, chunk * CHUNK + 1, 8));
        join_all(writes).await;
        let versions = pool.metadata_version().0 - before.0;
        assert!(versions <= 3, "{versions} versions for ten writes");
        for chunk in [0, 2, 4, 9] {
            assert_eq!((read(&one, chunk * CHUNK + 1).await, read(&other, chunk * CHUNK + 1).await), (8, 8));
        }
    });
}

#[test]
fn whoever_writes_one_chunk_after_the_other_gets_some_ahead_unless_the_pool_is_nearly_full() {
    run(async {
        let bench = Bench::new(512, 4).await;
        let pool = bench.serve(InSync::Yes).await;
        let free = free_mib(&pool);
        let v = thin(&pool, "v", 200, 512).await;
        let before = pool.metadata_version();
        for chunk in 0..free - 1 {
            write(&v, chunk * CHUNK, 1).await;
        }
        let versions = pool.metadata_version().0 - before.0;
        assert!(versions < free / 2, "{versions} versions for {free} chunks");
        write(&v, (free - 1) * CHUNK, 1).await;
        assert_eq!(free_mib(&pool), 0, "none was lost to what lies ahead");
        for chunk in 0..free {
            assert_eq!((read(&v, chunk * CHUNK).await, read(&v, chunk * CHUNK + 1).await), (1, 0));
        }
    });
}

/// SBC-3 r36 §4.7.3: what a full pool cannot take is refused, and what is there stays.
#[test]
fn full_pool_refuses_the_first_write_to_a_chunk_and_loses_nothing() {
    run(async {
        let bench = Bench::new(512, 1).await;
        let pool = bench.serve(InSync::Yes).await;
        let mib = free_mib(&pool);
        let v = thin(&pool, "v", mib * 2, 512).await;
        let filler = volume(&pool, "filler", mib - 1, 512).await;
        write(&v, 3, 1).await;
        let full = v.write(CHUNK, block_of(&v, 2), Durability::Cached).await;
        assert_eq!(full, Err(MediumError::NoSpace));
        let both = v.write(CHUNK - 1, Bytes::from(vec![2; 1024]), Durability::Cached).await;
        assert_eq!(both, Err(MediumError::NoSpace), "as a whole");
        assert_eq!((read(&v, 3).await, read(&v, CHUNK - 1).await, read(&v, CHUNK).await), (1, 0, 0));
        write(&v, 4, 3).await;
        assert_eq!(v.zero(0, 2 * CHUNK).await, Err(MediumError::NoSpace), "zeroes take room, too");
        pool.delete_volume(filler.uuid()).await.expect("there");
        write(&v, CHUNK, 2).await;
        assert_eq!(read(&v, CHUNK).await, 2);
    });
}

#[test]
fn whole_chunks_are_given_back_and_parts_are_zeroed() {
    run(async {
        let bench = Bench::new(512, 1).await;
        let pool = bench.serve(InSync::Yes).await;
        let free = free_mib(&pool);
        // The last chunk is half a chunk.
        let wish = understudy_pool::VolumeWish {
            name: "v".into(),
            lun: None,
            block_bytes: 512,
            blocks: 6 * CHUNK + CHUNK / 2,
            provisioning: understudy_pool::Provisioning::Thin,
        };
        let uuid = pool.create_volume(wish).await.expect("promised").uuid;
        let v = pool.medium(uuid).expect("just made");
        v.zero(0, v.geometry().blocks).await.expect("takes every chunk");
        assert_eq!(free_mib(&pool), free - 7);
        for chunk in 0..7 {
            write(&v, chunk * CHUNK, 9).await;
            write(&v, chunk * CHUNK + 700, 9).await;
        }
        let before = pool.metadata_version();
        // From within the second chunk to within the fourth; the fifth in two pieces; the last as far as it goes.
        let ranges = vec![(5 * CHUNK, CHUNK), (CHUNK + 1, 2 * CHUNK + 600), (6 * CHUNK, CHUNK / 2)];
        v.unmap(ranges).await.expect("given back");
        assert_eq!(pool.metadata_version().0 - before.0, 1, "one change for all");
        assert_eq!(free_mib(&pool), free - 4);
        found_by_the_next(&bench, &v, async |v| {
            for (chunk, first, later) in [(0, 9, 9), (1, 9, 0), (2, 0, 0), (3, 0, 9), (4, 9, 9), (5, 0, 0), (6, 0, 0)] {
                let found = (read(&v, chunk * CHUNK).await, read(&v, chunk * CHUNK + 700).await);
                assert_eq!(found, (first, later), "chunk {chunk}");
            }
        })
        .await;
        let told = v.stretches(10, 8).await.expect("told");
        let mapped = |blocks| Stretch { blocks, state: Provisioned::Mapped };
        let gone = |blocks| Stretch { blocks, state: Provisioned::Deallocated };
        let all = [mapped(2 * CHUNK - 10), gone(CHUNK), mapped(2 * CHUNK), gone(CHUNK + CHUNK / 2)];
        assert_eq!(told, all);
        assert_eq!(v.stretches(10, 2).await.expect("told"), all[..2]);
        bench.assert_legs_equal().await;
    });
}

#[test]
fn chunk_is_not_given_back_while_something_is_under_way_on_it() {
    run(async {
        let bench = Bench::new(512, 1).await;
        let pool = bench.serve(InSync::Yes).await;
        let v = thin(&pool, "v", 4, 512).await;
        write(&v, 0, 1).await;
        let free = free_mib(&pool);
        bench.disks.iter().for_each(|disk| disk.set_hang(true));
        let mut reading = v.read(0, 1);
        settle().await;
        assert!((&mut reading).now_or_never().is_none());
        let mut unmapping = v.unmap(vec![(0, CHUNK)]);
        settle().await;
        assert!((&mut unmapping).now_or_never().is_none());
        let mut late = v.write(0, block_of(&v, 2), Durability::Cached);
        settle().await;
        assert!((&mut late).now_or_never().is_none());
        assert_eq!(free_mib(&pool), free, "still the volume's");
        bench.disks.iter().for_each(|disk| disk.set_hang(false));
        let ((shown, given_back), written) = join(join(reading, unmapping), late).await;
        assert_eq!(shown.expect("read")[0], 1);
        given_back.expect("given back");
        written.expect("into a new chunk");
        assert_eq!((read(&v, 0).await, read(&v, 1).await), (2, 0));
    });
}

/// A caller that goes away in the middle leaves the change under way: the chunk is nobody's to use until it has an outcome.
#[test]
fn giving_back_is_carried_through_when_its_caller_goes_away() {
    run(async {
        let bench = Bench::new(512, 1).await;
        let pool = bench.serve(InSync::Yes).await;
        let v = thin(&pool, "v", 4, 512).await;
        write(&v, 0, 1).await;
        let free = free_mib(&pool);
        bench.disks.iter().for_each(|disk| disk.set_hang(true));
        let mut unmapping = v.unmap(vec![(0, CHUNK)]);
        settle().await;
        assert!((&mut unmapping).now_or_never().is_none());
        drop(unmapping);
        let mut late = v.write(0, block_of(&v, 2), Durability::Cached);
        settle().await;
        assert!((&mut late).now_or_never().is_none());
        bench.disks.iter().for_each(|disk| disk.set_hang(false));
        late.await.expect("into a new chunk");
        assert_eq!((read(&v, 0).await, read(&v, 1).await), (2, 0));
        assert_eq!(free_mib(&pool), free);
    });
}

#[test]
fn thick_volume_made_meanwhile_and_thin_ones_never_share_a_chunk() {
    run(async {
        let bench = Bench::new(512, 1).await;
        litter(&bench).await;
        bench.disks.iter().zip(1..).for_each(|(disk, seed)| disk.set_jitter(seed, Duration::from_millis(5)));
        let pool = bench.serve(InSync::Yes).await;
        let v = thin(&pool, "v", 8, 512).await;
        let making = volume(&pool, "thick", 5, 512);
        let writing = async {
            for chunk in [6, 1, 3] {
                write(&v, chunk * CHUNK, 7).await;
            }
        };
        let (thick, ()) = join(making, writing).await;
        assert_eq!(pool.metadata().unsound(), None);
        for chunk in 0..5 {
            assert_eq!(read(&thick, chunk * CHUNK).await, 0);
            write(&thick, chunk * CHUNK, 8).await;
        }
        for chunk in [6, 1, 3] {
            assert_eq!((read(&v, chunk * CHUNK).await, read(&v, chunk * CHUNK + 1).await), (7, 0));
        }
    });
}

#[test]
fn warm_pool_serves_chunks_that_were_taken_and_given_back_since_it_was_loaded() {
    run(async {
        let bench = Bench::new(512, 1).await;
        let owner = bench.serve(InSync::Yes).await;
        let v = thin(&owner, "v", 8, 512).await;
        write(&v, 0, 1).await;
        let warm = bench.load(bench.expected(InSync::Yes)).await.expect("loads while the owner serves");
        let medium = warm.medium(v.uuid()).expect("there");
        write(&v, 5 * CHUNK, 2).await;
        v.unmap(vec![(0, CHUNK)]).await.expect("given back");
        owner.stop();
        let expected = Expected { at_least: owner.metadata_version(), ..bench.expected(InSync::Yes) };
        warm.refresh(expected).await.expect("newer");
        assert!(Rc::ptr_eq(&medium, &warm.medium(v.uuid()).expect("there")), "a unit keeps its medium");
        warm.start(3, &bench.fenced()).await.expect("starts");
        assert_eq!((read(&medium, 0).await, read(&medium, 5 * CHUNK).await), (0, 2));
    });
}

/// Power goes on both legs, or on one before the other, at every step of a first write: while the chunk is made blank, in the middle
/// of the metadata, in the middle of the data.
#[test]
fn power_lost_at_any_step_of_a_first_write_shows_neither_old_data_nor_loses_what_was_acknowledged() {
    // The chunk is 2048 blocks, the metadata some twenty behind it, the data one.
    let cuts = [0, 1024, 2047].into_iter().chain(2048..2067);
    // Mostly both at once; of every fourth step one of them alone, too.
    let both = cuts.zip(0..).flat_map(|(cut, at)| {
        let alone = match at % 8 {
            0 => Some((cut, u64::MAX)),
            4 => Some((u64::MAX, cut)),
            _ => None,
        };
        [Some((cut, cut)), alone].into_iter().flatten()
    });
    let mut lost = 0;
    for (at, (first, second)) in both.enumerate() {
        lost += run(async move {
            let bench = Bench::new(512, 1).await;
            litter(&bench).await;
            let pool = bench.serve(InSync::Yes).await;
            let v = thin(&pool, "v", 8, 512).await;
            write(&v, 3 * CHUNK, 1).await;
            v.flush().await.expect("flushed");
            bench.disks[0].cut_power_after(first);
            bench.disks[1].cut_power_after(second);
            let writing = spawn_local({
                let v = Rc::clone(&v);
                async move { v.write(6 * CHUNK + 9, block_of(&v, 2), Durability::ForceUnitAccess).await }
            });
            sleep(Duration::from_secs(2)).await;
            pool.stop();
            let acknowledged = writing.await.expect("ends").is_ok();
            settle().await;
            if at % 2 == 0 {
                bench.disks.iter().for_each(|disk| disk.lose_cache());
            }
            found_by_the_next(&bench, &v, async |v| {
                assert_eq!((read(&v, 3 * CHUNK).await, read(&v, 3 * CHUNK + 1).await), (1, 0));
                let found = read(&v, 6 * CHUNK + 9).await;
                assert!(found == 2 || (found == 0 && !acknowledged), "{found}, acknowledged {acknowledged}");
                for lba in [6 * CHUNK, 6 * CHUNK + 8, 6 * CHUNK + 10, 7 * CHUNK - 1] {
                    assert_eq!(read(&v, lba).await, 0, "block {lba}, cut after {first} and {second}");
                }
            })
            .await;
            usize::from(!acknowledged)
        });
    }
    assert!(lost > 20, "power has to go before the answer: {lost}");
}

/// A leg that is copied to while chunks come and go ends with all of them.
#[test]
fn leg_that_is_taken_back_has_the_chunks_that_came_meanwhile() {
    run(async {
        let bench = Bench::new(512, 1).await;
        litter(&bench).await;
        bench.disks.iter().zip(3..).for_each(|(disk, seed)| disk.set_jitter(seed, Duration::from_millis(3)));
        let pool = bench.serve(InSync::Yes).await;
        let v = thin(&pool, "v", 10, 512).await;
        write(&v, 0, 1).await;
        bench.disks[1].cut_link();
        sleep(Duration::from_secs(8)).await;
        assert_eq!(bench.watcher.dropped.borrow().len(), 1);
        let place = bench.watcher.dropped.borrow()[0];
        bench.watcher.takes_back.set(true);
        *bench.watcher.on_resynced.borrow_mut() = Some(Box::new({
            let pool = Rc::downgrade(&pool);
            move || {
                if let Some(pool) = pool.upgrade() {
                    pool.leg_recorded_good(place);
                }
            }
        }));
        bench.disks[1].restore_link();
        // BOUND: paused time; the leg is back in seconds.
        for round in 0u64.. {
            let chunk = round % 9;
            write(&v, chunk * CHUNK + round % 7, u8::try_from(round % 200).expect("small") + 1).await;
            if round % 3 == 0 {
                v.unmap(vec![((round + 4) % 9 * CHUNK, CHUNK)]).await.expect("given back");
            }
            sleep(Duration::from_millis(7)).await;
            if pool.legs_good() == [LegSet(3)] && round > 300 {
                break;
            }
            assert!(round < 5000, "never good again");
        }
        pool.wait_in_sync().await;
        let runs = pool.metadata().volumes[&v.uuid()].runs.clone();
        let (first, second) = (bench.data(0).await, bench.data(1).await);
        for run in runs {
            let range = run.physical as usize * MIB as usize..(run.physical + run.chunks) as usize * MIB as usize;
            assert!(first[range.clone()] == second[range], "the legs differ at {run:?}");
        }
    });
}
