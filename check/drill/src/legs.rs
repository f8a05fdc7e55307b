//! Whether the legs of every mirror hold the same, read from the shelf's own files: no node is asked.
//!
//! A node that was stopped and woke may still have writes under way. If one of them landed on one leg, no client may notice for a
//! long time, because only one leg answers a read; here it shows. Only blocks written by verifying clients are compared: labels,
//! metadata and bitmaps differ from leg to leg on purpose.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Context, ensure};
use rustix::fs::SeekFrom;
use understudy::config::Config;
use understudy_load::stamp::is_stamped;

/// Blocks of a shelf that the harness starts.
const BLOCK_BYTES: usize = 4096;

/// Read at a time.
const CHUNK_BYTES: usize = 1 << 20;

/// Compares the legs of every mirror, whose files are in `shelf`, without those that were dropped.
///
/// # Errors
/// Blocks written by a client differ, or a file cannot be read.
pub fn demand_equal_legs(config: &Config, shelf: &Path, dropped: &[String]) -> anyhow::Result<()> {
    for pool in &config.pools {
        for mirror in &pool.mirrors {
            let names = mirror.iter().map(|index| &config.disks[*index].name);
            let names: Vec<&str> = names.filter(|name| !dropped.contains(name)).map(String::as_str).collect();
            let [first, rest @ ..] = &names[..] else { continue };
            for other in rest {
                let path = |name: &str| shelf.join(format!("{name}.disk"));
                let differing = compare(&path(first), &path(other)).with_context(|| format!("{first} and {other}"))?;
                ensure!(
                    differing.is_empty(),
                    "legs {first} and {other} of {} differ in {} blocks clients wrote, the first at bytes {:?}",
                    pool.name,
                    differing.len(),
                    &differing[..differing.len().min(8)]
                );
            }
        }
    }
    Ok(())
}

/// Where blocks differ that a client wrote, on either of the two.
fn compare(one: &Path, other: &Path) -> io::Result<Vec<u64>> {
    let (one, other) = (File::open(one)?, File::open(other)?);
    let length = one.metadata()?.len().min(other.metadata()?.len());
    let mut differing = Vec::new();
    let (mut left, mut right) = (vec![0; CHUNK_BYTES], vec![0; CHUNK_BYTES]);
    let mut at = 0;
    // BOUND: each round goes on by a chunk, up to the length.
    while let Some(begin) = next_written(&one, &other, at, length)? {
        let size = usize::try_from(length - begin).map_or(CHUNK_BYTES, |left| left.min(CHUNK_BYTES));
        one.read_exact_at(&mut left[..size], begin)?;
        other.read_exact_at(&mut right[..size], begin)?;
        let blocks = left[..size].chunks(BLOCK_BYTES).zip(right[..size].chunks(BLOCK_BYTES)).zip(0..);
        let different = blocks.filter(|((left, right), _)| left != right && (is_stamped(left) || is_stamped(right)));
        differing.extend(different.map(|(_, index): (_, u64)| begin + index * BLOCK_BYTES as u64));
        at = begin + size as u64;
    }
    Ok(differing)
}

/// The first chunk from `at` on of which either file has anything: both are sparse.
fn next_written(one: &File, other: &File, at: u64, length: u64) -> io::Result<Option<u64>> {
    let mut found = length;
    for file in [one, other] {
        match rustix::fs::seek(file, SeekFrom::Data(at)) {
            Ok(data) => found = found.min(data),
            // Nothing more in this one.
            Err(rustix::io::Errno::NXIO) => {}
            Err(error) => return Err(error.into()),
        }
    }
    let begin = (found / BLOCK_BYTES as u64) * BLOCK_BYTES as u64;
    Ok((begin < length).then_some(begin.max(at)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use understudy_load::stamp::{Run, Sequence, write_stamp};

    fn stamped(sequence: u64) -> Vec<u8> {
        let mut block = vec![0; BLOCK_BYTES];
        write_stamp(&mut block, Run(7), 3, Sequence(sequence));
        block
    }

    #[test]
    fn a_late_write_on_one_leg_shows_and_metadata_does_not() {
        let folder = tempfile::tempdir().expect("a folder");
        let files = ["one", "other"].map(|name| folder.path().join(name));
        let [one, other] = [&files[0], &files[1]].map(|path| {
            let file = File::create(path).expect("a file");
            file.set_len(64 << 20).expect("its length");
            file
        });
        for file in [&one, &other] {
            file.write_all_at(&stamped(1), 40 << 20).expect("the same on both");
        }
        one.write_all_at(b"metadata of one leg", 8192).expect("metadata");
        assert_eq!(compare(&files[0], &files[1]).expect("read"), Vec::<u64>::new());
        other.write_all_at(&stamped(2), 50 << 20).expect("a late write");
        assert_eq!(compare(&files[0], &files[1]).expect("read"), [50 << 20]);
    }
}
