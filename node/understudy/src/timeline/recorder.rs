//! Keeping a node's steps: in a file that survives the process being killed, in memory, and on the way to watchers.
//!
//! The file is written by a thread of its own, so that a slow system disk never delays the data path; a line is handed
//! to the kernel as soon as the step is recorded, so SIGKILL loses none that was written. The file is bounded: when it
//! has grown past [`FILE_BYTES`] its older half is cut off.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{SystemTime, UNIX_EPOCH};

use tokio::sync::broadcast;

use super::TimelineStep;
use crate::config::NodeName;

/// Largest `timeline.jsonl`: some 40,000 steps, years of ordinary life and days of the worst.
pub(super) const FILE_BYTES: u64 = 8 << 20;

/// Steps kept in memory: several whole takeovers and bring-ups.
const KEPT: usize = 4096;

/// Steps a watcher may fall behind where nothing is kept on disk.
const WATCHED_IN_MEMORY: usize = 16;

/// Steps waiting for the writer thread; more than a bring-up has. Past that they are counted and left out of the file.
const QUEUE: usize = 1024;

/// Keeps the steps of one incarnation of one node.
#[derive(Debug)]
pub struct Recorder {
    node: NodeName,
    incarnation: String,
    watchers: broadcast::Sender<TimelineStep>,
    kept: RefCell<Kept>,
    clock: fn() -> u64,
}

#[derive(Debug)]
struct Kept {
    newest: VecDeque<TimelineStep>,
    next: u64,
    /// `None`: the steps stay in memory.
    writer: Option<SyncSender<TimelineStep>>,
    left_out: u64,
}

impl Recorder {
    /// Opens `timeline.jsonl` in the folder `state`, which it makes if need be, for this incarnation of `node`.
    ///
    /// # Errors
    /// What the system said about the folder, the file or the thread.
    pub fn open(state: &Path, node: NodeName, incarnation: u64) -> io::Result<Self> {
        std::fs::create_dir_all(state)?;
        let path = state.join("timeline.jsonl");
        let all = read_file(&path)?;
        let next = all.iter().map(|step| step.number.saturating_add(1)).max().unwrap_or(1);
        let newest = all.into_iter().rev().take(KEPT).rev().collect();
        let file = append_to(&path)?;
        let (writer, lines) = sync_channel(QUEUE);
        std::thread::Builder::new().name("timeline".to_owned()).spawn(move || write_all(&path, file, &lines))?;
        Ok(Self::with(node, incarnation, Kept { newest, next, writer: Some(writer), left_out: 0 }, wall_micros, KEPT))
    }

    /// Keeps steps in memory only, stamped by `clock` (microseconds since 1970), numbered from `first`.
    #[must_use]
    pub fn in_memory(node: NodeName, incarnation: u64, first: u64, clock: fn() -> u64) -> Self {
        Self::with(
            node,
            incarnation,
            Kept { newest: VecDeque::new(), next: first, writer: None, left_out: 0 },
            clock,
            WATCHED_IN_MEMORY,
        )
    }

    fn with(node: NodeName, incarnation: u64, kept: Kept, clock: fn() -> u64, watched: usize) -> Self {
        let (watchers, _) = broadcast::channel(watched);
        Self { node, incarnation: format!("{incarnation:016x}"), watchers, kept: RefCell::new(kept), clock }
    }

    /// Records a step that happens now.
    pub fn record(&self, step: &str, text: impl Into<String>, values: BTreeMap<String, serde_json::Value>) {
        self.record_at((self.clock)(), step, text, values);
    }

    /// Records a step that happened at `wall_micros`, and was only noticed now.
    pub fn record_at(
        &self,
        wall_micros: u64,
        step: &str,
        text: impl Into<String>,
        values: BTreeMap<String, serde_json::Value>,
    ) {
        let mut kept = self.kept.borrow_mut();
        let number = kept.next;
        kept.next = kept.next.saturating_add(1);
        let step = TimelineStep {
            number,
            wall_micros,
            node: self.node,
            incarnation: self.incarnation.clone(),
            step: step.to_owned(),
            text: text.into(),
            values,
        };
        tracing::info!(step = step.step, "{}", step.text);
        if kept.newest.len() == KEPT {
            kept.newest.pop_front();
        }
        kept.newest.push_back(step.clone());
        let in_file = match &kept.writer {
            None => true,
            Some(writer) => writer.try_send(step.clone()).is_ok(),
        };
        if !in_file {
            kept.left_out += 1;
            tracing::warn!(left_out = kept.left_out, "a step did not reach the timeline file");
        }
        // Nobody watching is not an error.
        drop(self.watchers.send(step));
    }

    /// The newest `count` steps, oldest first; also those earlier incarnations left in the file.
    #[must_use]
    pub fn newest(&self, count: usize) -> Vec<TimelineStep> {
        let kept = self.kept.borrow();
        kept.newest.iter().skip(kept.newest.len().saturating_sub(count)).cloned().collect()
    }

    /// Every step from now on.
    #[must_use]
    pub fn subscribe(&self) -> broadcast::Receiver<TimelineStep> {
        self.watchers.subscribe()
    }
}

/// Microseconds since 1970 by the wall clock; 0 on a machine whose clock stands before that.
fn wall_micros() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros() as u64)
}

fn append_to(path: &Path) -> io::Result<File> {
    let mut file = OpenOptions::new().create(true).append(true).open(path)?;
    if std::fs::read(path)?.last().is_some_and(|last| *last != b'\n') {
        // A line torn by a crash of the machine must not swallow the next one.
        file.write_all(b"\n")?;
    }
    Ok(file)
}

/// The writer thread: ends when the recorder is gone.
fn write_all(path: &Path, mut file: File, steps: &Receiver<TimelineStep>) {
    // BOUND: ends with the channel.
    for step in steps {
        if let Err(error) = write_one(path, &mut file, &step) {
            tracing::warn!(%error, path = %path.display(), "cannot write the timeline");
        }
    }
}

fn write_one(path: &Path, file: &mut File, step: &TimelineStep) -> io::Result<()> {
    let mut line = serde_json::to_vec(step).map_err(io::Error::other)?;
    line.push(b'\n');
    file.write_all(&line)?;
    if file.metadata()?.len() > FILE_BYTES {
        *file = cut_older_half(path)?;
    }
    Ok(())
}

fn cut_older_half(path: &Path) -> io::Result<File> {
    let bytes = std::fs::read(path)?;
    let half = bytes.len() / 2;
    let begin = bytes[half..].iter().position(|byte| *byte == b'\n').map_or(bytes.len(), |end| half + end + 1);
    let fresh: PathBuf = path.with_extension("jsonl.new");
    std::fs::write(&fresh, &bytes[begin..])?;
    std::fs::rename(&fresh, path)?;
    append_to(path)
}

/// The steps in a `timeline.jsonl`, oldest first. Lines that are no steps (torn by a crash of the machine, or written by a
/// later release) are left out; a file that does not exist has none.
///
/// # Errors
/// What the system said.
pub fn read_file(path: &Path) -> io::Result<Vec<TimelineStep>> {
    match std::fs::read(path) {
        Ok(bytes) => {
            Ok(String::from_utf8_lossy(&bytes).lines().filter_map(|line| serde_json::from_str(line).ok()).collect())
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}
