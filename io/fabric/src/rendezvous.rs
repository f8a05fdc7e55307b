//! How two processes on one host meet before they share memory (`shm`): a TCP connection at the interconnect address.
//!
//! The provider has no connections, so this one stands in for them. It carries one hello in each direction (who is there,
//! where the memory is, what the endpoint is called), afterwards nudges from the reader, and its end tells at once that
//! the other process is gone: the kernel closes it whatever the process died of.
//!
//! **Nudges.** Each read leaves a command in the server's queue, which only the server can take out, under a lock in
//! shared memory that the reader takes too (libfabric 1.17). A process that dies holding it leaves the other one spinning
//! without end. So the server touches its queue only when the reader asks, by a byte on this connection: when it
//! connects, when the queue is half full, and when an operation did not end at once.
//!
//! | offset | bytes | what |
//! |---|---|---|
//! | 0 | 53 | greeting, as in the connection manager's private data |
//! | 53 | 75 | name of the endpoint, zero-padded; empty in a refusal |

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;

use crate::greeting::{GREETING_BYTES, Greeting};

/// Bytes of a hello.
pub(crate) const HELLO_BYTES: usize = 128;

/// Places in an endpoint's queue: so many reads a stopped partner takes before they time out. Each place costs 4 KiB of
/// shared memory.
pub(crate) const QUEUE_PLACES: usize = 512;

/// Reads between two nudges, so that the queue is never full while the server runs.
pub(crate) const NUDGE_EVERY: usize = QUEUE_PLACES / 2;

/// Where shared memory objects show as files.
const FOLDER: &str = "/dev/shm";

/// First part of the names of our endpoints; the process id follows.
const NAME: &str = "understudy-";

/// One end's introduction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Hello {
    pub(crate) greeting: Greeting,
    pub(crate) endpoint: String,
}

impl Hello {
    /// The bytes for the wire; `None` if the endpoint's name is too long for them.
    pub(crate) fn encode(&self) -> Option<[u8; HELLO_BYTES]> {
        let mut bytes = [0; HELLO_BYTES];
        let room = &mut bytes[GREETING_BYTES..HELLO_BYTES - 1];
        room.get_mut(..self.endpoint.len())?.copy_from_slice(self.endpoint.as_bytes());
        bytes[..GREETING_BYTES].copy_from_slice(&self.greeting.encode());
        Some(bytes)
    }

    /// Reads a hello; `None` if it is none of this version.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let greeting = Greeting::decode(bytes)?;
        let name = bytes.get(GREETING_BYTES..HELLO_BYTES)?;
        let end = name.iter().position(|byte| *byte == 0)?;
        let endpoint = std::str::from_utf8(&name[..end]).ok()?.to_owned();
        Some(Self { greeting, endpoint })
    }
}

/// What arrived on a rendezvous connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Arrived {
    /// So many bytes; 0: nothing yet.
    Bytes(usize),
    /// The other end is gone.
    End,
}

/// Takes what is there on a connection that does not block.
pub(crate) fn take(stream: &TcpStream, into: &mut [u8]) -> Arrived {
    let mut reading = stream;
    match reading.read(into) {
        Ok(0) => Arrived::End,
        Ok(count) => Arrived::Bytes(count),
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => Arrived::Bytes(0),
        Err(_) => Arrived::End,
    }
}

/// Asks the server to look at its queue.
pub(crate) fn nudge(stream: &TcpStream) {
    let mut writing = stream;
    // A full socket holds nudges enough; a closed one shows when it is read.
    let _ = writing.write(&[1]);
}

/// What names of this process's endpoints begin with.
pub(crate) fn own_name() -> String {
    format!("{NAME}{}", std::process::id())
}

/// Removes shared memory that processes killed before have left behind.
pub(crate) fn sweep() {
    for entry in std::fs::read_dir(FOLDER).into_iter().flatten().flatten() {
        let left_behind = process_of(&entry.file_name().to_string_lossy()).is_some_and(|id| !runs(id));
        if left_behind && std::fs::remove_file(entry.path()).is_ok() {
            tracing::debug!(file = %entry.path().display(), "interconnect: removed a dead process's shared memory");
        }
    }
}

/// Removes the name of an endpoint's shared memory; whoever has the memory keeps it.
pub(crate) fn remove(endpoint: &str) {
    let file = endpoint.split_once("://").map_or(endpoint, |(_, file)| file);
    if process_of(file).is_some() {
        // The other side may have been first.
        let _ = std::fs::remove_file(std::path::Path::new(FOLDER).join(file));
    }
}

/// The process an endpoint's file belongs to; `None` if it is not one of ours.
fn process_of(file: &str) -> Option<u32> {
    let (id, number) = file.strip_prefix(NAME)?.split_once(':')?;
    // The name may come from elsewhere: it must not lead out of the folder.
    number.bytes().all(|byte| byte.is_ascii_digit() || byte == b':').then(|| id.parse().ok())?
}

fn runs(process: u32) -> bool {
    std::path::Path::new(&format!("/proc/{process}")).exists()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Identity;

    fn hello(endpoint: &str) -> Hello {
        let greeting = Greeting::caller(Identity { pair: 7, node: 1 });
        Hello { greeting, endpoint: endpoint.to_owned() }
    }

    #[test]
    fn a_hello_is_read_back() {
        for name in ["", "fi_shm://understudy-1:0:0", &"n".repeat(74)] {
            let bytes = hello(name).encode().expect("it fits");
            assert_eq!(Hello::decode(&bytes), Some(hello(name)));
        }
    }

    #[test]
    fn a_name_too_long_is_not_cut_off() {
        assert_eq!(hello(&"n".repeat(75)).encode(), None);
    }

    #[test]
    fn short_foreign_or_endless_hellos_are_none() {
        let good = hello("name").encode().expect("it fits");
        assert_eq!(Hello::decode(&good[..HELLO_BYTES - 1]), None);
        assert_eq!(Hello::decode(&[0; HELLO_BYTES]), None);
        let mut endless = good;
        endless[GREETING_BYTES..].fill(b'x');
        assert_eq!(Hello::decode(&endless), None);
        let mut no_text = good;
        no_text[GREETING_BYTES] = 0xff;
        assert_eq!(Hello::decode(&no_text), None);
    }

    #[test]
    fn only_our_own_files_are_told_by_their_process() {
        assert_eq!(process_of("understudy-12:0:3"), Some(12));
        assert_eq!(process_of("understudy-x:0:3"), None);
        assert_eq!(process_of("understudy-12"), None);
        assert_eq!(process_of("12:0:3"), None);
        assert_eq!(process_of("understudy-12:0:3/../../x"), None);
    }
}
