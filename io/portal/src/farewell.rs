//! Ending a TCP connection so that what was already sent still arrives.
//!
//! Closing a socket with unread bytes makes the kernel send a reset, and a reset throws away what the other side has
//! received but not read: completions among them. So we send our end first, read and forget what still comes, and
//! close when the other side has closed too or after a moment.

use std::time::Duration;

use socket2::SockRef;
use tokio::net::TcpStream;
use tokio::task::spawn_local;

/// How long we wait for the other side's end. Long enough for a round trip on any network that storage is served on;
/// a client that has nothing to say closes at once.
const MOMENT: Duration = Duration::from_secs(1);

/// Bytes we are willing to read and forget: what a client may have under way in a full socket buffer.
const FORGOTTEN_MAX: usize = 16 << 20;

/// Ends `stream` in the background; the caller is done with it. Called inside a `LocalSet`.
pub(crate) fn end_in_order(stream: TcpStream) {
    if SockRef::from(&stream).shutdown(std::net::Shutdown::Write).is_err() {
        return;
    }
    if drained(&stream) {
        return;
    }
    let reading = async move {
        // BOUND: the time limit around it, and FORGOTTEN_MAX.
        while stream.readable().await.is_ok() && !drained(&stream) {}
    };
    spawn_local(async move {
        let _ = tokio::time::timeout(MOMENT, reading).await;
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
