//! Ending a TCP connection so that what was already sent still arrives.
//!
//! Closing a socket with unread bytes makes the kernel send a reset, and a reset throws away what the other side has
//! received but not read: completions among them. So we send our end first, read and forget what still comes, and
//! close when the other side has closed too or after a moment.

use std::cell::Cell;
use std::time::Duration;

use socket2::SockRef;
use tokio::net::TcpStream;
use tokio::task::spawn_local;

/// How long we wait for the other side's end. Long enough for a round trip on any network that storage is served on;
/// a client that has nothing to say closes at once.
const MOMENT: Duration = Duration::from_secs(1);

/// Bytes we are willing to read and forget: what a client may have under way in a full socket buffer.
const FORGOTTEN_MAX: usize = 16 << 20;

/// Most connections that are waited for at a time; one more is closed at once. Otherwise whoever opens connections faster than they
/// are refused would use up the files this process may have open.
const WAITED_FOR_MAX: usize = 1024;

thread_local! {
    /// Connections that are waited for.
    static WAITED_FOR: Cell<usize> = const { Cell::new(0) };
}

/// One that is waited for.
struct WaitedFor;

impl WaitedFor {
    fn begin() -> Option<Self> {
        let others = WAITED_FOR.get();
        (others < WAITED_FOR_MAX).then(|| {
            WAITED_FOR.set(others + 1);
            Self
        })
    }
}

impl Drop for WaitedFor {
    fn drop(&mut self) {
        WAITED_FOR.set(WAITED_FOR.get() - 1);
    }
}

/// Ends `stream` in the background; the caller is done with it. Called inside a `LocalSet`.
pub(crate) fn end_in_order(stream: TcpStream) {
    if SockRef::from(&stream).shutdown(std::net::Shutdown::Write).is_err() {
        return;
    }
    if drained(&stream) {
        return;
    }
    let Some(waited_for) = WaitedFor::begin() else { return };
    let reading = async move {
        // BOUND: the time limit around it, and FORGOTTEN_MAX.
        while stream.readable().await.is_ok() && !drained(&stream) {}
    };
    spawn_local(async move {
        let _ = tokio::time::timeout(MOMENT, reading).await;
        drop(waited_for);
    });
}

/// Reads what is there; true when the other side has ended (or will never).
fn drained(stream: &TcpStream) -> bool {
    let mut sink = [0u8; 4096];
    let mut forgotten = 0;
    loop {
        match stream.try_read(&mut sink) {
            Ok(0) => return true,
            Ok(n) => forgotten += n,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return false,
            Err(_) => return true,
        }
        if forgotten > FORGOTTEN_MAX {
            return true;
        }
    }
}
