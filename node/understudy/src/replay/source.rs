//! The files of a log: which there are, whose, and in what order.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use understudy_eventlog::read::Segment;
use understudy_eventlog::segment::{Header, HeaderError};

use crate::event_log::{FILES, file_name};

/// Largest file that is read: the largest segment a configuration can ask for.
const FILE_BYTES_MAX: u64 = 256 << 20;

/// A file that cannot be used, and why.
#[derive(Debug)]
pub struct Unusable {
    /// Which.
    pub path: PathBuf,
    /// What happened, and what to do.
    pub reason: String,
    /// Whether it only has nothing in it yet.
    pub is_blank: bool,
}

/// A segment in memory.
#[derive(Debug)]
pub struct Source {
    /// Where it was read from.
    pub path: PathBuf,
    /// Its bytes, as they were at one moment: the node may go on writing.
    pub bytes: Vec<u8>,
    /// Whose.
    pub header: Header,
}

/// What was found.
#[derive(Debug, Default)]
pub struct Sources {
    /// By pair and node, each with its segments in order.
    pub logs: Vec<Vec<Source>>,
    /// What could not be used.
    pub unusable: Vec<Unusable>,
}

/// Reads every file named, and the log in every folder named.
#[must_use]
pub fn read(paths: &[PathBuf]) -> Sources {
    let mut all = Vec::new();
    let mut unusable = Vec::new();
    for path in paths.iter().flat_map(|path| files_of(path, &mut unusable)).collect::<Vec<_>>() {
        match read_one(&path) {
            Ok(source) => all.push(source),
            Err((reason, is_blank)) => unusable.push(Unusable { path, reason, is_blank }),
        }
    }
    all.sort_by_key(|source| (source.header.pair, source.header.node, source.header.number));
    let mut logs: Vec<Vec<Source>> = Vec::new();
    for source in all {
        let whose = |source: &Source| (source.header.pair, source.header.node);
        match logs.last_mut() {
            Some(log) if log.first().map(whose) == Some(whose(&source)) => log.push(source),
            Some(_) | None => logs.push(vec![source]),
        }
    }
    Sources { logs, unusable }
}

fn files_of(path: &Path, unusable: &mut Vec<Unusable>) -> Vec<PathBuf> {
    if !path.is_dir() {
        return vec![path.to_owned()];
    }
    let files: Vec<PathBuf> = (0..FILES).map(|slot| path.join(file_name(slot))).filter(|file| file.exists()).collect();
    if files.is_empty() {
        let reason = format!("there is no event log in this folder ({} and so on)", file_name(0));
        unusable.push(Unusable { path: path.to_owned(), reason, is_blank: false });
    }
    files
}

fn read_one(path: &Path) -> Result<Source, (String, bool)> {
    let bytes = read_bounded(path).map_err(|error| (error.to_string(), false))?;
    let opened = Segment::open(&bytes).map(|segment| segment.header().clone());
    match opened {
        Ok(header) => Ok(Source { path: path.to_owned(), bytes, header }),
        Err(error) => Err((error.to_string(), matches!(error, HeaderError::Unfinished(_)))),
    }
}

fn read_bounded(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        let most = FILE_BYTES_MAX >> 20;
        return Err(io::Error::other(format!("this is no event log: longer than {most} MiB")));
    }
    Ok(bytes)
}
