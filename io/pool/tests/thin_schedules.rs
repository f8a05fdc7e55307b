//! Random schedules of thin volumes: chunks come and go under writes, beside thick volumes, on legs that come and go, until power fails
//! everywhere; what the next owner finds is what was acknowledged, and nobody ever sees what was somebody else's.

mod support;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use proptest::prelude::*;
use support::{Bench, block_of, read, run, settle, thin};
use tokio::task::spawn_local;
use tokio::time::sleep;
use understudy_device::medium::{Durability, Medium as _, MediumError};
use understudy_pool::testing::MemoryDisk;
use understudy_pool::{Expected, InSync, LegPlace, Pool, Provisioning, VolumeError, VolumeMedium, VolumeWish};

const CHUNK: u64 = 2048;
/// Blocks of a chunk that are written, and one that never is.
const WRITTEN: [u64; 3] = [0, 700, CHUNK - 1];
const NEVER: u64 = 5;
const SECOND: LegPlace = LegPlace { mirror: 0, leg: 1 };

#[derive(Debug, Clone, Copy)]
enum Step {
    Write(usize, u8),
    Unmap,
}

/// What one chunk must show: only its own task changes it.
#[derive(Debug, Default)]
struct Shown {
    settled: [u8; WRITTEN.len()],
    under_way: Option<Step>,
}

impl Shown {
    fn after(&self, step: Step) -> [u8; WRITTEN.len()] {
        let mut after = self.settled;
        match step {
            Step::Write(block, value) => after[block] = value,
            Step::Unmap => after = [0; WRITTEN.len()],
        }
        after
    }

    fn may_be(&self, found: [u8; WRITTEN.len()]) -> bool {
        found == self.settled || self.under_way.is_some_and(|step| found == self.after(step))
    }
}

/// xorshift64, in an order of its own for each task.
fn draw(state: &mut u64, below: u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state % below
}

async fn found(v: &VolumeMedium, chunk: u64) -> Result<[u8; WRITTEN.len()], MediumError> {
    let mut values = [0; WRITTEN.len()];
    for (value, block) in values.iter_mut().zip(WRITTEN) {
        let bytes = v.read(chunk * CHUNK + block, 1).await?;
        assert!(bytes.iter().all(|&byte| byte == bytes[0]), "block {block} of chunk {chunk} is a mixture");
        *value = bytes[0];
    }
    let never = v.read(chunk * CHUNK + NEVER, 1).await?;
    assert!(never.iter().all(|&byte| byte == 0), "block {NEVER} of chunk {chunk} shows somebody else's {}", never[0]);
    Ok(values)
}

/// Writes and unmaps one chunk until the pool is stopped.
async fn work(v: Rc<VolumeMedium>, chunk: u64, shown: Rc<RefCell<Shown>>, mut state: u64) {
    loop {
        let value = u8::try_from(draw(&mut state, 250)).expect("small") + 1;
        let step = match draw(&mut state, 4) {
            3 => Step::Unmap,
            block => Step::Write(usize::try_from(block).expect("small"), value),
        };
        shown.borrow_mut().under_way = Some(step);
        let done = match step {
            Step::Write(block, value) => {
                let lba = chunk * CHUNK + WRITTEN[block];
                v.write(lba, block_of(&v, value), Durability::ForceUnitAccess).await
            }
            Step::Unmap => v.unmap(vec![(chunk * CHUNK, CHUNK)]).await,
        };
        match done {
            Ok(()) => {
                let after = shown.borrow().after(step);
                *shown.borrow_mut() = Shown { settled: after, under_way: None };
            }
            Err(MediumError::NoSpace) => shown.borrow_mut().under_way = None,
            Err(MediumError::Fenced) => return,
            Err(other) => panic!("{other}"),
        }
        match found(&v, chunk).await {
            Ok(values) => assert_eq!(values, shown.borrow().settled, "chunk {chunk} after {step:?}"),
            Err(MediumError::Fenced) => return,
            Err(other) => panic!("{other}"),
        }
        sleep(Duration::from_millis(draw(&mut state, 40))).await;
    }
}

/// Makes thick volumes, fills them and deletes them until the pool is stopped.
async fn come_and_go(pool: Rc<Pool>, mut state: u64) {
    for number in 0u64.. {
        let (name, blocks) = (format!("thick{number}"), CHUNK * (1 + draw(&mut state, 3)));
        let wish = VolumeWish { name, lun: None, block_bytes: 512, blocks, provisioning: Provisioning::Thick };
        match pool.create_volume(wish).await {
            Ok(made) => {
                let Some(v) = pool.medium(made.uuid) else { return };
                for lba in (0..blocks).step_by(300) {
                    let Ok(bytes) = v.read(lba, 1).await else { return };
                    assert!(bytes.iter().all(|&byte| byte == 0), "a new volume shows {}", bytes[0]);
                    if v.write(lba, block_of(&v, 0xdd), Durability::Cached).await.is_err() {
                        return;
                    }
                }
                if pool.delete_volume(made.uuid).await.is_err() {
                    return;
                }
            }
            Err(VolumeError::Fenced) => return,
            Err(_) => {}
        }
        sleep(Duration::from_millis(draw(&mut state, 90))).await;
    }
}

/// Legs recorded good as soon as they have everything.
fn record_at_once(bench: &Bench, pool: &Rc<Pool>) {
    let to_record = Rc::downgrade(pool);
    *bench.watcher.on_resynced.borrow_mut() = Some(Box::new(move || {
        let pool = to_record.upgrade();
        spawn_local(async move {
            pool.iter().filter(|pool| pool.has_leg(SECOND)).for_each(|pool| pool.leg_recorded_good(SECOND));
        });
    }));
    bench.watcher.takes_back.set(true);
}

/// The disks after power failed everywhere: what stood in their caches only is gone.
fn after_power_loss(bench: &Bench) -> Bench {
    bench.disks.iter().for_each(|disk| disk.lose_cache());
    let images = bench.disks.iter().enumerate();
    let disks = images.map(|(at, disk)| MemoryDisk::from_image(&format!("disk{at}"), 512, disk.image())).collect();
    Bench { disks, watcher: support::Watcher::new(), pool_uuid: bench.pool_uuid }
}

proptest! {
    // Few, because every flush of a disk in memory copies all of it.
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    #[test]
    fn every_chunk_shows_what_was_acknowledged_and_nothing_of_anybody_else(
        seed: u64,
        cuts in proptest::collection::vec((0usize..2, 1u64..500, 1u64..9000), 0..4),
        crash_ms in 20u64..2500,
    ) {
        run(async {
            let bench = Bench::new(512, 1).await;
            let data = bench.data_offset().await;
            for disk in &bench.disks {
                disk.scribble(data, &vec![0xee; disk.image().len() - data - 64 * 1024]);
            }
            bench.disks[0].set_jitter(seed, Duration::from_millis(3));
            bench.disks[1].set_jitter(seed.rotate_left(9), Duration::from_millis(4));
            let pool = bench.serve(InSync::Yes).await;
            record_at_once(&bench, &pool);
            let volumes = [thin(&pool, "one", 6, 512).await, thin(&pool, "other", 40, 512).await];
            let places: Vec<_> = [0u64, 1, 2, 5].iter().flat_map(|&chunk| [(0, chunk), (1, chunk * 7)]).collect();
            let shown: Vec<_> = places.iter().map(|_| Rc::new(RefCell::new(Shown::default()))).collect();
            let workers = places.iter().zip(&shown).zip(1u64..).map(|((&(volume, chunk), shown), number)| {
                let state = (seed ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15)) | 1;
                spawn_local(work(Rc::clone(&volumes[volume]), chunk, Rc::clone(shown), state))
            });
            let mut tasks: Vec<_> = workers.collect();
            tasks.push(spawn_local(come_and_go(Rc::clone(&pool), seed | 1)));
            let undisturbed = cuts.is_empty();
            let cutter = spawn_local({
                let disks = bench.disks.clone();
                async move {
                    for (disk, after, long) in cuts {
                        sleep(Duration::from_millis(after)).await;
                        disks[disk].cut_link();
                        // Of the first leg only moments: while it is away alone, nothing goes on.
                        sleep(Duration::from_millis(if disk == 0 { long / 20 } else { long })).await;
                        disks[disk].restore_link();
                    }
                }
            });
            sleep(Duration::from_millis(crash_ms)).await;
            let legs_good = pool.legs_good();
            pool.stop();
            for task in tasks {
                task.await.expect("holds");
            }
            cutter.abort();
            settle().await;
            assert_eq!(pool.metadata().unsound(), None);
            let after = after_power_loss(&bench);
            let next = after.load(Expected { legs_good, ..after.expected(InSync::No) }).await.expect("loads");
            next.start(9, &after.fenced()).await.expect("starts");
            assert_eq!(next.metadata().unsound(), None);
            for (&(volume, chunk), shown) in places.iter().zip(&shown) {
                let v = next.medium(volumes[volume].uuid()).expect("there");
                let values = found(&v, chunk).await.expect("read");
                assert!(shown.borrow().may_be(values), "volume {volume} chunk {chunk} shows {values:?}: {:?}", shown.borrow());
            }
            let touched = Cell::new(0);
            shown.iter().for_each(|shown| touched.set(touched.get() + u32::from(shown.borrow().settled != [0; 3])));
            // A leg that is away is waited for, longer than this lasts.
            assert!(!undisturbed || crash_ms < 1000 || touched.get() > 0, "nothing was ever written");
            let v = next.medium(volumes[0].uuid()).expect("there");
            assert_eq!(read(&v, 3 * CHUNK).await, 0, "a chunk nobody wrote to");
        });
    }
}
