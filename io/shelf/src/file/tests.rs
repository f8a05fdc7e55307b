//! The file medium: blocks, holes, group commit, kept state.

use std::fs;
use std::os::unix::fs::MetadataExt as _;

use tempfile::TempDir;
use tokio::task::LocalSet;

use super::*;

const GEOMETRY: Geometry = Geometry { block_bytes: 512, blocks: 8192 };

struct Place {
    folder: TempDir,
}

impl Place {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().expect("a folder") }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn open(&self) -> io::Result<FileMedium> {
        FileMedium::open("d", &self.path("d.disk"), &self.path("d.state"), GEOMETRY)
    }
}

async fn on_local_set<T>(body: impl Future<Output = T>) -> T {
    LocalSet::new().run_until(body).await
}

fn block(fill: u8, count: usize) -> Bytes {
    vec![fill; 512 * count].into()
}

#[tokio::test]
async fn a_new_disk_reads_as_zeroes_and_takes_no_space() {
    let place = Place::new();
    let medium = place.open().expect("opened");
    assert_eq!(medium.read(0, 16).await, Ok(block(0, 16)));
    assert_eq!(medium.read(GEOMETRY.blocks - 1, 1).await, Ok(block(0, 1)));
    let metadata = fs::metadata(place.path("d.disk")).expect("the file");
    assert_eq!(metadata.len(), 512 * 8192);
    assert!(metadata.blocks() * 512 < metadata.len() / 2, "{} sectors", metadata.blocks());
}

#[tokio::test]
async fn blocks_written_are_read_back_also_after_opening_again() {
    let place = Place::new();
    on_local_set(async {
        let medium = place.open().expect("opened");
        medium.write(7, block(7, 3), Durability::Cached).await.expect("written");
        medium.write(GEOMETRY.blocks - 1, block(9, 1), Durability::ForceUnitAccess).await.expect("written");
        assert_eq!(medium.read(6, 5).await, Ok([block(0, 1), block(7, 3), block(0, 1)].concat().into()));
        drop(medium);
        let medium = place.open().expect("opened again");
        assert_eq!(medium.read(7, 3).await, Ok(block(7, 3)));
        assert_eq!(medium.read(GEOMETRY.blocks - 1, 1).await, Ok(block(9, 1)));
    })
    .await;
}

#[tokio::test]
async fn zeroed_blocks_read_as_zeroes_and_their_neighbours_stay() {
    let place = Place::new();
    let medium = place.open().expect("opened");
    medium.write(0, block(5, 4096), Durability::Cached).await.expect("written");
    medium.zero(3, 2049).await.expect("zeroed");
    medium.zero(4000, 0).await.expect("nothing to do");
    assert_eq!(medium.read(0, 3).await, Ok(block(5, 3)));
    assert_eq!(medium.read(3, 2049).await, Ok(block(0, 2049)));
    assert_eq!(medium.read(2052, 2044).await, Ok(block(5, 2044)));
}

#[test]
fn zeroes_are_written_where_holes_cannot_be_punched() {
    let place = Place::new();
    let medium = place.open().expect("opened");
    let length = 3 * ZERO_CHUNK as u64 / 2;
    write_all_at(medium.file(), &vec![1; 4 << 20], 0).expect("written");
    write_zeroes(medium.file(), 512, length).expect("zeroed");
    let bytes = fs::read(place.path("d.disk")).expect("the file");
    let zero = bytes.iter().filter(|byte| **byte == 0).count() as u64;
    assert_eq!((zero, bytes[511], bytes[512], bytes[512 + 3 * ZERO_CHUNK / 2]), (length, 1, 0, 1));
}

#[tokio::test]
async fn flushes_that_wait_together_share_one_fdatasync() {
    let place = Place::new();
    on_local_set(async {
        let medium = Rc::new(place.open().expect("opened"));
        let asked: Vec<_> = (0..100)
            .map(|_| {
                let medium = medium.clone();
                spawn_local(async move { medium.flush().await })
            })
            .collect();
        for flush in asked {
            flush.await.expect("not cancelled").expect("flushed");
        }
        assert!((1..=2).contains(&medium.flushes_done()), "{} fdatasync for 100 flushes", medium.flushes_done());
        medium.flush().await.expect("flushed");
        assert!((2..=3).contains(&medium.flushes_done()));
    })
    .await;
}

#[tokio::test]
async fn a_flush_whose_caller_went_away_does_not_stop_the_others() {
    let place = Place::new();
    on_local_set(async {
        let medium = place.open().expect("opened");
        drop(futures_util::poll!(medium.flush()));
        medium.flush().await.expect("flushed");
        medium.write(1, block(1, 1), Durability::ForceUnitAccess).await.expect("written");
    })
    .await;
}

#[tokio::test]
async fn after_a_failed_flush_nothing_is_called_durable_any_more() {
    let place = Place::new();
    on_local_set(async {
        let mut medium = place.open().expect("opened");
        // A pipe cannot be synchronised.
        let (_reader, writer) = io::pipe().expect("a pipe");
        let good = std::mem::replace(&mut medium.blocks, Arc::new(File::from(std::os::fd::OwnedFd::from(writer))));
        assert_eq!(medium.flush().await, Err(MediumError::Write { lba: 0 }));
        medium.blocks = good;
        assert_eq!(medium.flush().await, Err(MediumError::Write { lba: 0 }));
        let forced = medium.write(1, block(1, 1), Durability::ForceUnitAccess).await;
        assert_eq!(forced, Err(MediumError::Write { lba: 0 }));
        drop(medium);
        place.open().expect("opened").flush().await.expect("flushed after a restart");
    })
    .await;
}

#[tokio::test]
async fn the_last_state_kept_is_found_again() {
    let place = Place::new();
    let medium = place.open().expect("opened");
    assert_eq!(medium.kept_state().expect("readable"), None);
    let kept = futures_util::future::join_all((0..20u8).map(|number| medium.keep_state(vec![number; 1000]))).await;
    assert!(kept.iter().all(Result::is_ok));
    assert_eq!(place.open().expect("opened").kept_state().expect("readable"), Some(vec![19; 1000]));
}

#[tokio::test]
async fn state_that_cannot_be_kept_fails_the_command() {
    let place = Place::new();
    fs::create_dir_all(place.path("d.state/in-the-way")).expect("a folder");
    let medium = place.open().expect("opened");
    assert_eq!(medium.keep_state(vec![1]).await, Err(MediumError::Write { lba: 0 }));
}

#[tokio::test]
async fn a_file_cut_short_behind_our_back_is_a_read_error_and_no_panic() {
    let place = Place::new();
    let medium = place.open().expect("opened");
    medium.blocks.set_len(512 * 10).expect("cut");
    assert_eq!(medium.read(8, 4).await, Err(MediumError::Read { lba: 8 }));
    assert_eq!(medium.read(8, 2).await, Ok(block(0, 2)));
}

#[test]
fn a_file_of_another_size_is_refused_and_left_alone() {
    let place = Place::new();
    fs::write(place.path("d.disk"), b"somebody else's").expect("written");
    let error = place.open().err().expect("refused");
    assert!(error.to_string().contains("has 15 bytes"), "{error}");
    assert_eq!(fs::read(place.path("d.disk")).expect("the file"), b"somebody else's");
}
