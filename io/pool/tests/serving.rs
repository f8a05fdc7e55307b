//! Making, finding, loading and serving a pool while nothing goes wrong.

mod support;

use std::rc::Rc;

use bytes::Bytes;
use futures_util::FutureExt as _;
use support::{Bench, MIB, only_first_leg, read, run, settle, volume, write};
use understudy_device::medium::{Durability, Medium as _, MediumError};
use understudy_disk::disk::{self, Disk, Extent};
use understudy_layout::MetadataVersion;
use understudy_layout::label::Role;
use understudy_layout::metadata::{Metadata, MetadataError};
use understudy_pool::testing::MemoryDisk;
use understudy_pool::{
    Existing, Finding, InSync, InitialiseError, LegPlace, LegSet, LoadError, VolumeError, discover,
    initialise_lock_disk,
};

#[test]
fn written_blocks_read_back_after_another_load_with_either_block_size() {
    for block_bytes in [512, 4096] {
        run(async {
            let bench = Bench::new(block_bytes, 2).await;
            let pool = bench.serve(InSync::Yes).await;
            let v = volume(&pool, "v", 5, 4096).await;
            let blocks = v.geometry().blocks;
            // One command over region, chunk and possibly mirror boundaries.
            let long: Vec<u8> = (0..3 * MIB).map(|at| u8::try_from(at / 4096 % 251).expect("small")).collect();
            v.write(100, Bytes::from(long.clone()), Durability::ForceUnitAccess).await.expect("written");
            write(&v, blocks - 1, 7).await;
            v.flush().await.expect("flushed");
            pool.stop();
            bench.assert_legs_equal().await;

            let again = bench.serve(InSync::Yes).await;
            let v = again.medium(v.uuid()).expect("still there");
            assert_eq!(v.read(100, 768).await.expect("read"), long);
            assert_eq!(read(&v, blocks - 1).await, 7);
            assert_eq!(read(&v, 99).await, 0);
        });
    }
}

#[test]
fn disk_of_somebody_else_is_refused_and_no_disk_is_written() {
    run(async {
        let clean = MemoryDisk::new("clean", 512, 16 * MIB);
        let ext4 = MemoryDisk::new("ext4", 512, 16 * MIB);
        ext4.scribble(0x438, &[0x53, 0xef]);
        let plan = || understudy_pool::PoolPlan {
            number: 1,
            pair: 1,
            home: 0,
            name: "p".into(),
            chunk_bytes: 1 << 20,
            mirrors: vec![vec![Rc::clone(&clean) as Rc<dyn Disk>, Rc::clone(&ext4) as Rc<dyn Disk>]],
        };
        let refused = understudy_pool::initialise_pool(plan(), Existing::Refuse).await;
        assert!(matches!(refused, Err(InitialiseError::NotBlank { disk, .. }) if disk == "ext4"));
        assert_eq!((clean.writes(), ext4.writes()), (0, 0));
        understudy_pool::initialise_pool(plan(), Existing::Overwrite).await.expect("the operator knows");
        let refused = understudy_pool::initialise_pool(plan(), Existing::Refuse).await;
        assert!(matches!(refused, Err(InitialiseError::NotBlank { disk, .. }) if disk == "clean"));
    });
}

#[test]
fn discovery_tells_every_kind_of_disk_apart() {
    run(async {
        let bench = Bench::new(512, 1).await;
        let lock = MemoryDisk::new("lock", 4096, 8 * MIB);
        initialise_lock_disk(Rc::clone(&lock) as Rc<dyn Disk>, 7, 2, Existing::Refuse).await.expect("blank");
        let blank = MemoryDisk::new("blank", 512, 16 * MIB);
        let foreign = MemoryDisk::new("foreign", 512, 16 * MIB);
        foreign.scribble(512, b"LABELONE");
        let gone = MemoryDisk::new("gone", 512, 16 * MIB);
        gone.cut_link();
        let reserved = MemoryDisk::new("reserved", 512, 16 * MIB);
        reserved.set_conflict(true);
        let pool_disks = bench.disks.iter().cloned();
        let all: Vec<Rc<dyn Disk>> =
            pool_disks.chain([lock, blank, foreign, gone, reserved]).map(|disk| disk as Rc<dyn Disk>).collect();
        let mut steps = Vec::new();
        let inventory = discover(all.clone(), 3, |progress| steps.push((progress.done, progress.of))).await;
        assert_eq!(steps, (1..=7).map(|done| (done, 7)).collect::<Vec<_>>());
        let kinds: Vec<_> = inventory.disks.iter().map(|found| &found.finding).collect();
        assert!(matches!(kinds[0], Finding::Ours(_)) && matches!(kinds[1], Finding::Ours(_)));
        assert!(matches!(kinds[2], Finding::Ours(_)));
        assert_eq!(kinds[3], &Finding::Blank);
        assert_eq!(kinds[4], &Finding::Foreign("an LVM physical volume"));
        assert!(matches!(kinds[5], Finding::Failed(_)));
        assert_eq!(kinds[6], &Finding::Conflict);
        assert_eq!(inventory.conflicts().count(), 1);
        assert!(inventory.conflicts().all(|found| found.identity.is_some()), "INQUIRY works on a reserved disk");
        assert_eq!(inventory.pools(), [(bench.pool_uuid, "blue".to_owned())]);
        let backwards = discover(all.into_iter().rev().collect(), 1, |_| {}).await;
        assert_eq!(inventory.digest(), backwards.digest());
        bench.disks[1].cut_link();
        let fewer = bench.disks.iter().map(|disk| Rc::clone(disk) as Rc<dyn Disk>).collect();
        assert_ne!(discover(fewer, 1, |_| {}).await.digest(), inventory.digest());
    });
}

#[test]
fn commands_of_a_warm_pool_wait_for_the_start() {
    run(async {
        let bench = Bench::new(512, 1).await;
        let pool = bench.serve(InSync::Yes).await;
        let uuid = volume(&pool, "v", 2, 512).await.uuid();
        pool.stop();
        let warm = bench.load(bench.expected(InSync::Yes)).await.expect("loads");
        let v = warm.medium(uuid).expect("there");
        let mut waiting = v.read(0, 1);
        settle().await;
        assert!((&mut waiting).now_or_never().is_none());
        warm.start(3, &bench.fenced()).await.expect("starts");
        assert!(waiting.await.is_ok());
    });
}

#[test]
fn stopped_pool_answers_fenced_at_once_even_to_commands_under_way() {
    run(async {
        let bench = Bench::new(512, 1).await;
        let pool = bench.serve(InSync::Yes).await;
        let v = volume(&pool, "v", 2, 512).await;
        bench.disks.iter().for_each(|disk| disk.set_hang(true));
        let mut write = v.write(0, support::block_of(&v, 1), Durability::Cached);
        let mut read = v.read(5, 1);
        settle().await;
        assert!((&mut write).now_or_never().is_none() && (&mut read).now_or_never().is_none());
        pool.stop();
        assert_eq!(write.now_or_never(), Some(Err(MediumError::Fenced)));
        assert_eq!(read.now_or_never(), Some(Err(MediumError::Fenced)));
        assert_eq!(v.flush().now_or_never(), Some(Err(MediumError::Fenced)));
        assert_eq!(pool.delete_volume(v.uuid()).await, Err(VolumeError::Fenced));
    });
}

#[test]
fn kept_state_is_on_every_leg_before_the_answer() {
    run(async {
        let bench = Bench::new(4096, 2).await;
        let pool = bench.serve(InSync::Yes).await;
        let v = volume(&pool, "v", 2, 4096).await;
        v.keep_state(b"reservation of client A".to_vec()).await.expect("kept");
        let version = pool.metadata_version();
        pool.stop();
        // Each leg alone knows it: every other disk is asked for nothing.
        for survivor in 0..4 {
            let legs_good = (0..2).map(|mirror| LegSet(if survivor / 2 == mirror { 1 << (survivor % 2) } else { 3 }));
            let expected = understudy_pool::Expected {
                at_least: version,
                legs_good: legs_good.collect(),
                ..bench.expected(InSync::No)
            };
            let pool = bench.load(expected).await.expect("loads");
            assert_eq!(pool.metadata_version(), version);
            assert_eq!(pool.medium(v.uuid()).expect("there").kept_state(), b"reservation of client A");
        }
    });
}

#[test]
fn metadata_older_than_committed_is_refused() {
    run(async {
        let bench = Bench::new(512, 1).await;
        let pool = bench.serve(InSync::Yes).await;
        let version = pool.metadata_version();
        pool.stop();
        let expected =
            understudy_pool::Expected { at_least: MetadataVersion(version.0 + 1), ..bench.expected(InSync::Yes) };
        let refused = bench.load(expected).await;
        assert!(matches!(refused.err(), Some(LoadError::Metadata(MetadataError::Older { .. }))));
    });
}

#[test]
fn missing_good_leg_is_refused_and_a_leg_recorded_bad_is_never_read() {
    run(async {
        let mut bench = Bench::new(512, 1).await;
        let pool = bench.serve(InSync::Yes).await;
        let uuid = volume(&pool, "v", 2, 512).await.uuid();
        pool.stop();
        let lost = bench.disks.remove(1);
        let place = LegPlace { mirror: 0, leg: 1 };
        assert_eq!(bench.load(bench.expected(InSync::Yes)).await.err(), Some(LoadError::LegMissing(place)));
        bench.disks.push(lost);
        let expected = understudy_pool::Expected { legs_good: only_first_leg(), ..bench.expected(InSync::No) };
        let pool = bench.load(expected).await.expect("one good leg is enough");
        let (reads, writes) = (bench.disks[1].reads(), bench.disks[1].writes());
        pool.start(3, &bench.fenced()).await.expect("starts");
        let v = pool.medium(uuid).expect("there");
        for lba in [0, 2048, 4095] {
            write(&v, lba, 9).await;
            assert_eq!(read(&v, lba).await, 9);
        }
        pool.wait_in_sync().await;
        assert_eq!((bench.disks[1].reads(), bench.disks[1].writes()), (reads, writes));
        assert_eq!(pool.legs_good(), only_first_leg());
    });
}

#[test]
fn refresh_reads_two_pages_when_nothing_changed_and_everything_when_it_did() {
    run(async {
        let bench = Bench::new(512, 2).await;
        let owner = bench.serve(InSync::Yes).await;
        let first = volume(&owner, "first", 2, 512).await.uuid();
        let warm = bench.load(bench.expected(InSync::Yes)).await.expect("loads while the owner serves");
        let reads = || bench.disks.iter().map(|disk| disk.reads()).sum::<u64>();
        let expected = |at_least| understudy_pool::Expected { at_least, ..bench.expected(InSync::Yes) };

        let before = reads();
        let version = warm.refresh(expected(owner.metadata_version())).await.expect("unchanged");
        assert_eq!((version, reads() - before), (owner.metadata_version(), 2));
        let medium = warm.medium(first).expect("there");

        let second = volume(&owner, "second", 2, 512).await.uuid();
        warm.refresh(expected(owner.metadata_version())).await.expect("newer");
        assert_eq!(warm.metadata(), owner.metadata());
        assert!(warm.medium(second).is_some());
        assert!(Rc::ptr_eq(&medium, &warm.medium(first).expect("there")), "a unit keeps its medium");

        owner.stop();
        warm.start(3, &bench.fenced()).await.expect("starts");
        assert_eq!(warm.refresh(bench.expected(InSync::Yes)).await, Err(LoadError::NotWarm));
    });
}

/// A version that a mirror refused is taken back, and the next one has its number.
#[test]
fn refresh_does_not_take_another_version_of_the_same_number_for_the_one_it_knows() {
    run(async {
        let bench = Bench::new(512, 1).await;
        let owner = bench.serve(InSync::Yes).await;
        let v = volume(&owner, "v", 2, 512).await;
        v.keep_state(b"once".to_vec()).await.expect("kept");
        let warm = bench.load(bench.expected(InSync::Yes)).await.expect("loads while the owner serves");
        let known = warm.metadata();
        let mut other = Metadata::clone(&known);
        other.volumes.get_mut(&v.uuid()).expect("there").state = b"else".to_vec();
        for disk in &bench.disks {
            let label = discover(vec![Rc::clone(disk) as _], 1, |_| {}).await.pool_disks(known.pool);
            let Role::PoolLeg { areas, .. } = label[0].label.role else { panic!("a leg") };
            let image = other.encode(areas.slot_bytes).expect("fits");
            let at = areas.slot_offset(other.slot()) / 512;
            let extent = Extent::within(disk.geometry().expect("known"), at, image.len() as u32 / 512).expect("inside");
            disk.write(extent, image.into(), disk::Durability::Cached).await.expect("written");
        }
        let version = warm.refresh(bench.expected(InSync::Yes)).await.expect("refreshed");
        assert_eq!((version, warm.medium(v.uuid()).expect("there").kept_state()), (known.version, b"else".to_vec()));
    });
}

#[test]
fn clean_hand_off_writes_nothing_before_serving() {
    run(async {
        let bench = Bench::new(512, 2).await;
        let owner = bench.serve(InSync::Yes).await;
        volume(&owner, "v", 2, 512).await;
        owner.stop();
        let warm = bench.load(bench.expected(InSync::Yes)).await.expect("loads");
        let writes = || bench.disks.iter().map(|disk| disk.writes()).sum::<u64>();
        let before = writes();
        warm.start(3, &bench.fenced()).await.expect("starts");
        assert_eq!(writes(), before);
        assert!(warm.in_sync());
    });
}

#[test]
fn deleted_volume_gives_its_space_back_and_its_bytes_to_nobody() {
    run(async {
        let bench = Bench::new(512, 1).await;
        let pool = bench.serve(InSync::Yes).await;
        let free = pool.metadata().free_bytes();
        let mib = free / MIB;
        let old = volume(&pool, "old", mib, 512).await;
        write(&old, 3, 0xaa).await;
        let full = pool
            .create_volume(understudy_pool::VolumeWish {
                name: "more".into(),
                lun: None,
                block_bytes: 512,
                blocks: 1,
                provisioning: understudy_pool::Provisioning::Thick,
            })
            .await;
        assert!(matches!(full, Err(VolumeError::Allocate(_))));
        pool.delete_volume(old.uuid()).await.expect("there");
        assert_eq!(pool.metadata().free_bytes(), free);
        assert_eq!(old.read(3, 1).await, Err(MediumError::Read { lba: 3 }));
        let new = volume(&pool, "new", mib, 512).await;
        assert_eq!(read(&new, 3).await, 0);
        assert_eq!(pool.volumes().len(), 1);
    });
}

#[test]
fn zeroed_blocks_read_as_zeroes_on_both_legs() {
    run(async {
        let bench = Bench::new(512, 1).await;
        let pool = bench.serve(InSync::Yes).await;
        let v = volume(&pool, "v", 4, 512).await;
        for lba in [0, 2047, 2048, 6000] {
            write(&v, lba, 1).await;
        }
        v.zero(1, 6000).await.expect("zeroed");
        assert_eq!(read(&v, 0).await, 1);
        for lba in [2047, 2048, 6000] {
            assert_eq!(read(&v, lba).await, 0);
        }
        bench.assert_legs_equal().await;
    });
}
