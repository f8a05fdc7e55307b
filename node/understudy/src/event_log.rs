//! The event log of this node: four files in its state folder, written behind the back of the data path.
//!
//! Not here: what stands in them (`understudy-eventlog`), and running them again ([`crate::replay`]). The one idea: the event loop only
//! puts bytes together and hands them to a thread through a bounded queue; the thread writes them at once and never syncs. What was
//! written outlives the process, however it dies; what a dying *machine* had not yet put on its disk is lost, and the log ends
//! there. A disk that is too slow or full costs steps, which is said in the log, never time.

use std::cell::RefCell;
use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::sync::Once;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use understudy_eventlog::read::whole_bytes;
use understudy_eventlog::record::{Piece, Place, Recorder, Sink, Taken};
use understudy_eventlog::segment::{Header, VOCABULARY};
use understudy_failover::effect::Effects;
use understudy_failover::input::Input;
use understudy_failover::machine::Machine;
use understudy_failover::words::Micros;

use crate::driver::world::Witness;

/// Files a log is divided into, used in turn: when a new one is begun at least three quarters of what the log may hold are kept.
pub const FILES: u64 = 4;

/// Pieces on their way to the thread. More than a takeover and a bring-up together make.
const QUEUE: usize = 1024;

/// Bytes on their way to the thread. BOUND: with this a disk that hangs costs so much memory and no more.
const QUEUE_BYTES: usize = 4 << 20;

/// How long the end of a run waits for the last bytes to be written. A disk that takes longer loses them; a test that counts them
/// gives a busy machine its time.
const LAST_WAIT: Duration = Duration::from_millis(if cfg!(test) { 30_000 } else { 100 });

/// Name of the file of a segment.
#[must_use]
pub fn file_name(number: u64) -> String {
    format!("events-{}.log", number % FILES)
}

/// The log of one run.
pub struct EventLog {
    recorder: Rc<RefCell<Recorder<Queue>>>,
}

thread_local! {
    /// The log of the run on this thread, for the panic hook.
    static OWN: RefCell<Weak<RefCell<Recorder<Queue>>>> = const { RefCell::new(Weak::new()) };
}

impl EventLog {
    /// Goes on where the log in `folder` ends, or begins one. `bytes` is what all its files may hold together.
    ///
    /// # Errors
    /// What the system said about the folder, a file or the thread.
    pub fn open(folder: &Path, bytes: u64, machine: &Machine) -> io::Result<Self> {
        std::fs::create_dir_all(folder)?;
        let (place, file) = find_place(folder, machine)?;
        let queue = Queue::start(folder.to_owned(), file)?;
        let recorder = Rc::new(RefCell::new(Recorder::begin(queue, machine, place, bytes / FILES)));
        OWN.set(Rc::downgrade(&recorder));
        hand_over_in_a_panic();
        Ok(Self { recorder })
    }
}

impl Witness for EventLog {
    fn told(&mut self, now: Micros, fact: &Input, machine: &Machine) {
        self.recorder.borrow_mut().told(now, fact, machine);
    }

    fn ordered(&mut self, orders: &Effects, _: &Machine) {
        self.recorder.borrow_mut().ordered(orders);
    }
}

impl Drop for EventLog {
    fn drop(&mut self) {
        finish(&self.recorder);
    }
}

fn finish(recorder: &RefCell<Recorder<Queue>>) {
    if let Ok(mut recorder) = recorder.try_borrow_mut() {
        recorder.hand_over();
        recorder.sink().finish();
    }
}

/// A machine that stops itself has been told something: that has to be in the log.
fn hand_over_in_a_panic() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            // Nothing in a panic may panic: a thread without a log, or at its end, has nothing to hand over.
            let own = OWN.try_with(|own| own.try_borrow().ok().and_then(|own| own.upgrade()));
            if let Ok(Some(recorder)) = own {
                finish(&recorder);
            }
            before(info);
        }));
    });
}

/// Where the log goes on: at the end of the newest segment of this node, or, if it cannot be gone on with, behind it. What another
/// build wrote is not gone on with: a segment's header says for all of it which machine ran.
fn find_place(folder: &Path, machine: &Machine) -> io::Result<(Place, Option<(File, u64)>)> {
    let mut newest: Option<(u64, PathBuf)> = None;
    let mut highest = 0;
    for slot in 0..FILES {
        let path = folder.join(file_name(slot));
        let Some(header) = header_of(&path)? else { continue };
        highest = highest.max(header.number);
        let is_own = header.pair == machine.config().pair
            && header.node == machine.config().node
            && header.vocabulary == VOCABULARY
            && header.is_of_this_build();
        if is_own && newest.as_ref().is_none_or(|(number, _)| header.number > *number) {
            newest = Some((header.number, path));
        }
    }
    match newest.filter(|(number, _)| *number == highest) {
        Some((number, path)) => {
            let length = whole_bytes(&std::fs::read(&path)?) as u64;
            let mut file = OpenOptions::new().write(true).open(&path)?;
            // What a killed run left half written.
            file.set_len(length)?;
            file.seek(SeekFrom::Start(length))?;
            Ok((Place { number, length: Some(length) }, Some((file, length))))
        }
        None => Ok((Place { number: highest, length: None }, None)),
    }
}

fn header_of(path: &Path) -> io::Result<Option<Header>> {
    let mut bytes = Vec::new();
    match File::open(path) {
        Ok(file) => {
            io::Read::read_to_end(
                &mut io::Read::take(file, understudy_eventlog::segment::HEADER_BYTES as u64),
                &mut bytes,
            )?;
            Ok(Header::decode(&bytes).ok())
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// What event loop and thread share.
#[derive(Debug, Default)]
struct Shared {
    /// Bytes handed over and not yet written.
    waiting: AtomicUsize,
    /// Something was lost since this was last looked at.
    lost: AtomicBool,
}

/// The way to the thread.
struct Queue {
    pieces: Option<SyncSender<Piece>>,
    ended: Receiver<()>,
    shared: Arc<Shared>,
}

impl Queue {
    fn start(folder: PathBuf, file: Option<(File, u64)>) -> io::Result<Self> {
        let (pieces, inbox) = sync_channel(QUEUE);
        let (ending, ended) = sync_channel(0);
        let shared = Arc::new(Shared::default());
        let writer = Writer { folder, file, skips: false };
        let of_thread = Arc::clone(&shared);
        std::thread::Builder::new().name("event-log".to_owned()).spawn(move || {
            writer.write_all(&inbox, &of_thread);
            drop(ending);
        })?;
        Ok(Self { pieces: Some(pieces), ended, shared })
    }

    /// Ends the thread and waits a little for it.
    fn finish(&mut self) {
        drop(self.pieces.take());
        match self.ended.recv_timeout(LAST_WAIT) {
            Ok(()) | Err(RecvTimeoutError::Disconnected) => {}
            Err(RecvTimeoutError::Timeout) => tracing::warn!("the end of the event log was not written in time"),
        }
    }
}

fn bytes_of(piece: &Piece) -> &[u8] {
    match piece {
        Piece::Append(bytes) | Piece::Start(bytes) | Piece::Segment { bytes, .. } => bytes,
    }
}

impl Sink for Queue {
    fn put(&mut self, piece: Piece) -> Taken {
        let Some(pieces) = &self.pieces else { return Taken::No };
        let length = bytes_of(&piece).len();
        let waiting = self.shared.waiting.load(Ordering::Relaxed);
        if self.shared.lost.swap(false, Ordering::Relaxed) || waiting + length > QUEUE_BYTES {
            return Taken::No;
        }
        self.shared.waiting.fetch_add(length, Ordering::Relaxed);
        match pieces.try_send(piece) {
            Ok(()) => Taken::Yes,
            Err(_full) => {
                self.shared.waiting.fetch_sub(length, Ordering::Relaxed);
                Taken::No
            }
        }
    }

    fn wall_micros(&self) -> u64 {
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros() as u64)
    }
}

/// The thread's part.
struct Writer {
    folder: PathBuf,
    /// The file in use, and how much of it is whole.
    file: Option<(File, u64)>,
    /// Something was lost: nothing that follows makes sense before the next start.
    skips: bool,
}

impl Writer {
    fn write_all(mut self, pieces: &Receiver<Piece>, shared: &Shared) {
        let mut said = false;
        // BOUND: ends with the channel.
        for piece in pieces {
            let written = self.write(&piece);
            shared.waiting.fetch_sub(bytes_of(&piece).len(), Ordering::Relaxed);
            match written {
                Ok(()) => said = false,
                Err(error) => {
                    shared.lost.store(true, Ordering::Relaxed);
                    self.skips = true;
                    if !said {
                        tracing::warn!(%error, folder = %self.folder.display(), "cannot write the event log");
                    }
                    said = true;
                }
            }
        }
    }

    fn write(&mut self, piece: &Piece) -> io::Result<()> {
        match piece {
            Piece::Append(_) if self.skips => return Ok(()),
            Piece::Append(bytes) | Piece::Start(bytes) => {
                let (file, whole) = self.file.as_mut().ok_or(io::ErrorKind::NotFound)?;
                if let Err(error) = file.write_all(bytes) {
                    // The half of a frame would end the reading for everything behind it.
                    let again = file.set_len(*whole).and_then(|()| file.seek(SeekFrom::Start(*whole)));
                    if again.is_err() {
                        self.file = None;
                    }
                    return Err(error);
                }
                *whole += bytes.len() as u64;
            }
            Piece::Segment { number, bytes } => {
                self.file = None;
                let mut file = File::create(self.folder.join(file_name(*number)))?;
                file.write_all(bytes)?;
                self.file = Some((file, bytes.len() as u64));
            }
        }
        self.skips = false;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
