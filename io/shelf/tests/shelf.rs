//! The shelf through real sessions: blocks, identity, reservations, writes in flight at PREEMPT AND ABORT, and what a
//! killed shelf still knows.
//!
//! For the last one the shelf is this test binary started again with [`ROLE`] set; it serves until its standard input
//! closes, so it never outlives the test.

use std::env;
use std::fs;
use std::io::{BufRead, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tempfile::TempDir;
use tokio::task::{LocalSet, spawn_local};
use tokio::time::timeout;
use understudy_disk::disk::{Disk, DiskError, Durability, Extent};
use understudy_disk::lun::IscsiLun;
use understudy_disk::reservation::{Key, Reservation, ReservationType, Reservations};
use understudy_disk::session::{Nexus, Options, Place};
use understudy_disk::url::LunUrl;
use understudy_iscsi::serial::Isid;
use understudy_shelf::delay::{DelayedMedium, WriteDelay};
use understudy_shelf::{Shelf, ShelfConfig, ShelfDisk, ShelfError};

/// Set in the environment of the child: the folder to serve.
const ROLE: &str = "UNDERSTUDY_SHELF_TEST_FOLDER";
const TARGET: &str = "iqn.2026-01.org.example:shelf";
const BLOCK: usize = 512;
/// Generous, for a busy machine; only a failing test waits this long.
const PATIENT: Duration = Duration::from_secs(10);

const A: Key = Key(0xa1);
const B: Key = Key(0xb1);
const WRITE_EXCLUSIVE: ReservationType = ReservationType::WriteExclusiveRegistrantsOnly;
const EXCLUSIVE: ReservationType = ReservationType::ExclusiveAccessRegistrantsOnly;

fn config(folder: &Path) -> ShelfConfig {
    let disk = |name: &str, block_bytes| ShelfDisk { name: name.into(), bytes: 4 << 20, block_bytes };
    ShelfConfig {
        folder: folder.to_owned(),
        listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
        target: TARGET.into(),
        disks: vec![disk("lock1", 512), disk("data1", 512), disk("data2", 4096)],
        access: Arc::default(),
    }
}

fn folder() -> TempDir {
    tempfile::tempdir().expect("a folder")
}

/// Runs a test body on a single-threaded runtime with a `LocalSet`, in bounded time.
fn run(body: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let local = LocalSet::new();
    let outcome = runtime.block_on(local.run_until(async { timeout(3 * PATIENT, body).await }));
    // Blocking threads of a failed test must not keep the process.
    runtime.shutdown_background();
    outcome.expect("in bounded time");
}

/// Opens LUN `lun` as node `node`, ready for commands.
async fn open(address: SocketAddr, lun: u16, node: u8) -> Rc<IscsiLun> {
    let url = LunUrl { place: Place { portal: address.to_string(), target: TARGET.into() }, lun };
    let nexus = Nexus {
        initiator_name: format!("iqn.2026-01.org.example:node{node}"),
        isid: Isid([0x80, 0, 0, 0, node, u8::try_from(lun).expect("a small number")]),
    };
    // Commands that a test holds back must not end by their own deadline.
    let disk = IscsiLun::open(&url, nexus, Options { command_deadline: PATIENT, ..Options::default() });
    disk.ready(PATIENT).await.expect("connected");
    disk
}

fn reservations(disk: &IscsiLun) -> &dyn Reservations {
    disk.reservations().expect("an iSCSI LUN has them")
}

fn extent(disk: &IscsiLun, lba: u64, blocks: u32) -> Extent {
    Extent::within(disk.geometry().expect("a size"), lba, blocks).expect("within the disk")
}

async fn write(disk: &IscsiLun, lba: u64, fill: u8) -> Result<(), DiskError> {
    let bytes = Bytes::from(vec![fill; disk.geometry()?.block_bytes as usize]);
    disk.write(extent(disk, lba, 1), bytes, Durability::Cached).await
}

/// The byte a block is filled with.
async fn read(disk: &IscsiLun, lba: u64) -> Result<u8, DiskError> {
    let bytes = disk.read(extent(disk, lba, 1)).await?;
    assert!(bytes.iter().all(|byte| *byte == bytes[0]), "a torn block");
    Ok(bytes[0])
}

async fn keys(disk: &IscsiLun) -> Vec<Key> {
    let mut keys = reservations(disk).read_keys().await.expect("keys").keys;
    keys.sort_unstable();
    keys
}

#[test]
fn blocks_and_identity_survive_a_restart_of_the_shelf() {
    run(async {
        let folder = folder();
        let mut first = Vec::new();
        for round in 0..2u8 {
            let shelf = Shelf::start(config(folder.path())).await.expect("a shelf");
            for lun in 0..3u16 {
                let disk = open(shelf.address(), lun, 1).await;
                let geometry = disk.geometry().expect("a size");
                assert_eq!(u64::from(geometry.block_bytes) * geometry.blocks, 4 << 20);
                assert_eq!(geometry.block_bytes, if lun == 2 { 4096 } else { 512 });
                let identity = disk.identify().await.expect("an identity");
                let fill = u8::try_from(lun).expect("small") + 10;
                if round == 0 {
                    assert!(!first.contains(&identity), "two disks with one identity");
                    first.push(identity);
                    write(&disk, 5, fill).await.expect("written");
                    disk.flush().await.expect("flushed");
                } else {
                    assert_eq!(identity, first[usize::from(lun)]);
                    assert_eq!(read(&disk, 5).await, Ok(fill));
                }
            }
            shelf.stop().await;
        }
    });
}

#[test]
fn write_exclusive_refuses_the_writes_and_exclusive_access_the_reads_of_others() {
    run(async {
        let folder = folder();
        let shelf = Shelf::start(config(folder.path())).await.expect("a shelf");
        let (a, b) = (open(shelf.address(), 1, 1).await, open(shelf.address(), 1, 2).await);
        let other = open(shelf.address(), 0, 2).await;
        let own = reservations(&a);
        own.register(A).await.expect("registered");
        own.reserve(A, WRITE_EXCLUSIVE).await.expect("reserved");
        write(&a, 1, 1).await.expect("the holder writes");
        assert_eq!(read(&b, 1).await, Ok(1));
        assert_eq!(b.admits_reads().await, Ok(()));
        assert_eq!(write(&b, 1, 2).await, Err(DiskError::Conflict));
        write(&other, 1, 2).await.expect("another disk is not reserved");

        own.preempt(A, A, EXCLUSIVE).await.expect("the type changes in one step");
        assert_eq!(own.read_reservation().await, Ok(Some(Reservation { key: A, kind: EXCLUSIVE })));
        assert_eq!(read(&b, 1).await, Err(DiskError::Conflict));
        assert_eq!(b.admits_reads().await, Err(DiskError::Conflict), "a READ of no blocks is a READ");
        assert_eq!(a.admits_reads().await, Ok(()));
        assert_eq!(keys(&b).await, [A], "the partner may still ask for keys");
        assert!(own.keeps_through_power_loss());

        reservations(&b).register(B).await.expect("registered");
        write(&b, 1, 3).await.expect("registrants only: a registrant writes");
        own.preempt(A, B, EXCLUSIVE).await.expect("preempted");
        assert_eq!(write(&b, 1, 4).await, Err(DiskError::Conflict));
        assert_eq!(read(&a, 1).await, Ok(3));
        shelf.stop().await;
    });
}

/// A shelf whose second disk has a switch for its writes.
async fn delayed(folder: &Path) -> (Shelf, WriteDelay) {
    let delay = WriteDelay::default();
    let switch = delay.clone();
    let shelf = Shelf::start_wrapped(config(folder), move |lun, medium| match lun {
        1 => Rc::new(DelayedMedium::new(medium, switch.clone())),
        _ => medium,
    });
    (shelf.await.expect("a shelf"), delay)
}

/// SPC-4 r37 §5.13.11.2.6: the tasks of the preempted nexus are aborted before PREEMPT AND ABORT ends.
#[test]
fn preempt_and_abort_does_not_answer_before_a_write_at_the_medium_has_landed() {
    run(async {
        let folder = folder();
        let (shelf, delay) = delayed(folder.path()).await;
        let (a, b) = (open(shelf.address(), 1, 1).await, open(shelf.address(), 1, 2).await);
        reservations(&a).register(A).await.expect("registered");
        reservations(&a).reserve(A, WRITE_EXCLUSIVE).await.expect("reserved");
        reservations(&b).register(B).await.expect("registered");

        delay.hold();
        let late = spawn_local({
            let a = a.clone();
            async move { write(&a, 7, 0xaa).await }
        });
        delay.holds(1).await;
        let preempted = spawn_local({
            let b = b.clone();
            async move { reservations(&b).preempt_and_abort(B, A, EXCLUSIVE).await }
        });
        // Other commands go on meanwhile, and tell that the preemption has begun.
        let watcher = open(shelf.address(), 1, 3).await;
        while keys(&watcher).await != [B] {}
        for _ in 0..50 {
            keys(&watcher).await;
        }
        assert!(!preempted.is_finished(), "answered while a write of the preempted nexus was at the medium");
        assert_eq!(delay.held(), 1);
        assert_eq!(write(&a, 8, 0xab).await, Err(DiskError::Conflict), "nothing new passes");

        delay.release();
        preempted.await.expect("not cancelled").expect("preempted");
        assert_eq!(delay.held(), 0);
        assert!(reservations(&b).aborts_exactly());
        assert_eq!(read(&b, 7).await, Ok(0xaa), "landed before the answer");
        write(&b, 7, 0xbb).await.expect("written");
        // Whatever became of the preempted node's session and commands, none of its writes follows.
        late.abort();
        let _ = late.await;
        drop(a);
        while shelf.portal().counters().sessions > 2 {
            tokio::task::yield_now().await;
        }
        assert_eq!((read(&b, 7).await, read(&b, 8).await), (Ok(0xbb), Ok(0)));
        shelf.stop().await;
    });
}

#[test]
fn writes_of_a_lost_session_that_are_at_the_medium_are_waited_for_too() {
    run(async {
        let folder = folder();
        let (shelf, delay) = delayed(folder.path()).await;
        let (a, b) = (open(shelf.address(), 1, 1).await, open(shelf.address(), 1, 2).await);
        reservations(&a).register(A).await.expect("registered");
        reservations(&b).register(B).await.expect("registered");
        delay.hold();
        let late = spawn_local({
            let a = a.clone();
            async move { write(&a, 7, 0xaa).await }
        });
        delay.holds(1).await;
        late.abort();
        let _ = late.await;
        drop(a);
        // Some round trips later the shelf has seen the end of the connection; the session itself stays on its books
        // until its write is over. (The fact holds in either order.)
        let watcher = open(shelf.address(), 1, 3).await;
        for _ in 0..50 {
            keys(&watcher).await;
        }
        let preempted = spawn_local({
            let b = b.clone();
            async move { reservations(&b).preempt_and_abort(B, A, EXCLUSIVE).await }
        });
        while keys(&watcher).await != [B] {}
        for _ in 0..50 {
            keys(&watcher).await;
        }
        assert!(!preempted.is_finished(), "answered although a dead session's write is still at the medium");
        delay.release();
        preempted.await.expect("not cancelled").expect("preempted");
        write(&b, 7, 0xbb).await.expect("written");
        assert_eq!(read(&b, 7).await, Ok(0xbb));
        shelf.stop().await;
    });
}

#[test]
fn a_folder_serves_one_shelf_at_a_time() {
    run(async {
        let folder = folder();
        let shelf = Shelf::start(config(folder.path())).await.expect("a shelf");
        let second = Shelf::start(config(folder.path())).await.err().expect("refused");
        assert!(matches!(&second, ShelfError::InUse { holder: Some(id), .. } if *id == std::process::id()), "{second}");
        shelf.stop().await;
        Shelf::start(config(folder.path())).await.expect("free again").stop().await;
    });
}

#[test]
fn what_cannot_be_served_is_refused_before_anything_is_made() {
    run(async {
        let folder = folder();
        let change = |change: fn(&mut ShelfConfig)| {
            let mut config = config(&folder.path().join("new"));
            change(&mut config);
            config
        };
        let wrong = [
            ("at least one", change(|config| config.disks.clear())),
            ("two disks", change(|config| config.disks[1].name = "lock1".into())),
            ("letters", change(|config| config.disks[0].name = "../lock1".into())),
            ("letters", change(|config| config.disks[0].name = String::new())),
            ("expected 512 or 4096", change(|config| config.disks[0].block_bytes = 520)),
            ("multiple of the block size", change(|config| config.disks[0].bytes = 1000)),
            ("multiple of the block size", change(|config| config.disks[0].bytes = 0)),
            ("no iSCSI name", change(|config| config.target = "shelf".into())),
            ("no iSCSI name", change(|config| config.target = "iqn.2026-01.org.example:a b".into())),
        ];
        for (what, config) in wrong {
            let error = Shelf::start(config).await.err().expect(what).to_string();
            assert!(error.contains(what), "{what}: {error}");
        }
        assert!(!folder.path().join("new").exists());
    });
}

#[test]
fn a_disk_configured_otherwise_than_it_was_made_is_refused() {
    run(async {
        let folder = folder();
        Shelf::start(config(folder.path())).await.expect("a shelf").stop().await;
        let mut smaller = config(folder.path());
        smaller.disks[1].bytes /= 2;
        let error = Shelf::start(smaller).await.err().expect("refused").to_string();
        assert!(error.contains("disk data1") && error.contains("was made with 4194304 bytes"), "{error}");

        fs::remove_file(folder.path().join("data1.label")).expect("removed");
        let error = Shelf::start(config(folder.path())).await.err().expect("refused").to_string();
        assert!(error.contains("without its label"), "{error}");
    });
}

#[test]
fn damaged_reservation_state_keeps_the_shelf_from_serving() {
    run(async {
        let folder = folder();
        let shelf = Shelf::start(config(folder.path())).await.expect("a shelf");
        let disk = open(shelf.address(), 1, 1).await;
        reservations(&disk).register(A).await.expect("registered");
        shelf.stop().await;
        let state = folder.path().join("data1.state");
        let good = fs::read(&state).expect("kept");
        for position in 0..good.len() {
            let mut bad = good.clone();
            bad[position] ^= 0x55;
            fs::write(&state, &bad).expect("written");
            let error = Shelf::start(config(folder.path())).await.err();
            assert!(matches!(error, Some(ShelfError::Kept { .. })), "byte {position} of {}", good.len());
        }
        fs::write(&state, &good[..good.len() - 1]).expect("written");
        assert!(matches!(Shelf::start(config(folder.path())).await.err(), Some(ShelfError::Kept { .. })));
        fs::write(&state, &good).expect("written");
        Shelf::start(config(folder.path())).await.expect("a shelf").stop().await;
    });
}

/// Not a test of its own: the body of the child process. Without [`ROLE`] it does nothing.
#[test]
#[ignore = "the shelf's process, started by the other tests"]
fn shelf_process() {
    let Ok(folder) = env::var(ROLE) else { return };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(LocalSet::new().run_until(async {
        let shelf = Shelf::start(config(Path::new(&folder))).await.expect("a shelf");
        println!("\nserving {}", shelf.address());
        std::io::stdout().flush().expect("the parent reads");
        let _ = tokio::task::spawn_blocking(|| std::io::stdin().read(&mut [0])).await;
    }));
    runtime.shutdown_background();
}

/// A shelf in a process of its own, killed by its own id when dropped.
struct Process {
    child: Child,
    address: SocketAddr,
    _stdin: ChildStdin,
}

impl Process {
    fn start(folder: &Path) -> Self {
        let mut child = Command::new(env::current_exe().expect("this binary"))
            .args(["--exact", "shelf_process", "--ignored", "--nocapture"])
            .env(ROLE, folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the shelf starts");
        let stdin = child.stdin.take().expect("piped");
        let stdout = BufReader::new(child.stdout.take().expect("piped"));
        let address = stdout
            .lines()
            .map_while(Result::ok)
            .find_map(|line| line.strip_prefix("serving ").map(|address| address.parse().expect("an address")))
            .expect("the shelf says where it serves");
        Self { child, address, _stdin: stdin }
    }

    fn kill(mut self) {
        self.child.kill().expect("our own child");
        self.child.wait().expect("our own child");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// SPC-4 r37 §5.13.7: what was registered and reserved with APTPL is there after a loss of power, however soon it came
/// after GOOD.
#[test]
fn reservations_are_known_after_the_shelf_was_killed_right_after_good() {
    run(async {
        let folder = folder();
        let shelf = Process::start(folder.path());
        let a = open(shelf.address, 1, 1).await;
        reservations(&a).register(A).await.expect("registered");
        shelf.kill();

        let shelf = Process::start(folder.path());
        let (a, b) = (open(shelf.address, 1, 1).await, open(shelf.address, 1, 2).await);
        assert_eq!(keys(&b).await, [A]);
        reservations(&a).reserve(A, WRITE_EXCLUSIVE).await.expect("reserved");
        shelf.kill();

        let shelf = Process::start(folder.path());
        let b = open(shelf.address, 1, 2).await;
        let held = reservations(&b).read_reservation().await;
        assert_eq!(held, Ok(Some(Reservation { key: A, kind: WRITE_EXCLUSIVE })));
        assert_eq!(write(&b, 1, 2).await, Err(DiskError::Conflict));
        reservations(&b).register(B).await.expect("registered");
        reservations(&b).preempt_and_abort(B, A, EXCLUSIVE).await.expect("preempted");
        shelf.kill();

        let shelf = Process::start(folder.path());
        let (a, b) = (open(shelf.address, 1, 1).await, open(shelf.address, 1, 2).await);
        assert_eq!(keys(&a).await, [B]);
        let held = reservations(&a).read_reservation().await;
        assert_eq!(held, Ok(Some(Reservation { key: B, kind: EXCLUSIVE })));
        assert_eq!(write(&a, 1, 1).await, Err(DiskError::Conflict));
        assert_eq!(read(&a, 1).await, Err(DiskError::Conflict));
        write(&b, 1, 3).await.expect("the holder writes");
        shelf.kill();

        let shelf = Process::start(folder.path());
        let b = open(shelf.address, 1, 2).await;
        assert_eq!(read(&b, 1).await, Ok(3), "the page cache outlives the process");
        reservations(&b).register(Key(0)).await.expect("unregistered");
        shelf.kill();

        let shelf = Process::start(folder.path());
        let b = open(shelf.address, 1, 2).await;
        assert_eq!((keys(&b).await, reservations(&b).read_reservation().await), (vec![], Ok(None)));
    });
}

#[test]
fn each_of_many_preemptions_is_known_after_a_kill() {
    run(async {
        let folder = folder();
        for round in 0..6u64 {
            let shelf = Process::start(folder.path());
            let disk = open(shelf.address, 0, u8::try_from(round % 2).expect("small")).await;
            if round > 0 {
                assert_eq!(keys(&disk).await, [Key(round)], "the key of the round before");
            }
            reservations(&disk).register(Key(round + 1)).await.expect("registered");
            if round == 0 {
                reservations(&disk).reserve(Key(1), EXCLUSIVE).await.expect("reserved");
            } else {
                reservations(&disk).preempt_and_abort(Key(round + 1), Key(round), EXCLUSIVE).await.expect("preempted");
            }
            shelf.kill();
        }
    });
}

#[test]
fn a_block_is_as_long_as_configured() {
    run(async {
        let folder = folder();
        let shelf = Shelf::start(config(folder.path())).await.expect("a shelf");
        let (small, large) = (open(shelf.address(), 1, 1).await, open(shelf.address(), 2, 1).await);
        let lengths = (small.read(extent(&small, 0, 3)).await, large.read(extent(&large, 0, 3)).await);
        let length = |answer: Result<Bytes, DiskError>| answer.map(|bytes| bytes.len());
        assert_eq!((length(lengths.0), length(lengths.1)), (Ok(3 * BLOCK), Ok(3 * 8 * BLOCK)));
        shelf.stop().await;
    });
}
