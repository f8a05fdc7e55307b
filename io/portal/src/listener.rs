//! A TCP listener whose address can move between two processes of one machine without a refused or reset connect.
//!
//! The idea: the one that takes the address over listens *beside* the other (`SO_REUSEPORT`), and from that moment
//! the kernel gives every new connection to the newer one ([`crate::steer`]). The older one closes whenever it likes;
//! a stopped process that never closes does no harm either. If the newer one is to get it no more, and may be stopped, the older
//! one reclaims the address. What sat in its accept queue when it closed is accepted
//! first and ended in order, because the kernel would reset it.
//!
//! Not here: addresses of network interfaces (who has which), and what is spoken on a connection.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};

use crate::steer::{Preferred, prefer};

/// Connections the kernel keeps for us while we are busy: a thousand clients that all come back at the same moment
/// after a takeover fit; the kernel caps it at `net.core.somaxconn` (4096 on current kernels).
const BACKLOG: i32 = 4096;

/// Whether an address must be this machine's to be listened on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Presence {
    /// It must: a wrong one is found out at once.
    #[default]
    Here,
    /// Somebody brings it once the portal listens, so that nobody who follows it is refused.
    MayComeLater,
}

/// The listening half of a portal.
pub(crate) struct Listener {
    socket: TcpListener,
    address: SocketAddr,
}

impl Listener {
    /// Listens at `address` (port 0: a free one), beside an older listener if there is one.
    pub(crate) fn bind(address: SocketAddr, presence: Presence) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        match (presence, address) {
            (Presence::Here, _) => {}
            (Presence::MayComeLater, SocketAddr::V4(_)) => socket.set_freebind_v4(true)?,
            (Presence::MayComeLater, SocketAddr::V6(_)) => socket.set_freebind_v6(true)?,
        }
        socket.set_reuse_address(true)?;
        socket.set_reuse_port(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        prefer(Preferred::NewerOfTwo, socket.as_fd())?;
        let socket = TcpListener::from_std(socket.into())?;
        let address = socket.local_addr()?;
        Ok(Self { socket, address })
    }

    /// Where it listens, with the real port.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// The next connection.
    pub(crate) async fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        self.socket.accept().await
    }

    /// Gets every new connection again, though one other began to listen later; what waits to be accepted there stays there.
    ///
    /// # Errors
    /// What the system says.
    pub(crate) fn reclaim(&self) -> io::Result<()> {
        prefer(Preferred::OlderOfTwo, self.socket.as_fd())
    }

    /// Stops listening; returns the connections that were established but not yet accepted.
    ///
    /// The caller ends them in order (see [`crate::farewell`]): the kernel would reset them. The race that remains,
    /// a connection established between the last look and the close, exists only when no newer listener is there.
    pub(crate) fn close(self) -> Vec<TcpStream> {
        let mut left = Vec::new();
        let Ok(listener) = self.socket.into_std() else {
            return left;
        };
        // BOUND: the accept queue holds at most BACKLOG entries, and a newer listener gets all that come now; without
        // one the count ends it.
        while left.len() < BACKLOG as usize {
            let Ok((stream, _)) = listener.accept() else {
                break;
            };
            if stream.set_nonblocking(true).is_ok()
                && let Ok(stream) = TcpStream::from_std(stream)
            {
                left.push(stream);
            }
        }
        left
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::farewell;
    use std::time::Duration;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::time::timeout;

    const LOOPBACK: &str = "127.0.0.1:0";
    const PATIENCE: Duration = Duration::from_secs(10);

    async fn accepted_by(listener: &Listener, other: &Listener) -> SocketAddr {
        tokio::select! {
            accepted = listener.accept() => accepted.unwrap().1,
            _ = other.accept() => panic!("the other listener got the connection"),
        }
    }

    #[tokio::test(flavor = "current_thread")]
    async fn newest_of_two_listeners_gets_every_connection_and_the_older_one_takes_over_again() {
        let older = Listener::bind(LOOPBACK.parse().unwrap(), Presence::Here).unwrap();
        let address = older.address();
        let newer = Listener::bind(address, Presence::Here).unwrap();
        for _ in 0..100 {
            let client = TcpStream::connect(address).await.unwrap();
            let peer = timeout(PATIENCE, accepted_by(&newer, &older)).await.unwrap();
            assert_eq!(client.local_addr().unwrap(), peer);
        }
        assert!(newer.close().is_empty());
        for _ in 0..20 {
            let client = TcpStream::connect(address).await.unwrap();
            let (_, peer) = timeout(PATIENCE, older.accept()).await.unwrap().unwrap();
            assert_eq!(client.local_addr().unwrap(), peer);
        }
        // And back: a third listener is again the newer of two.
        let third = Listener::bind(address, Presence::Here).unwrap();
        for _ in 0..100 {
            let _client = TcpStream::connect(address).await.unwrap();
            timeout(PATIENCE, accepted_by(&third, &older)).await.unwrap();
        }
    }

    #[tokio::test(flavor = "current_thread")]
    async fn the_older_listener_reclaims_every_connection_until_a_newer_one_comes() {
        let older = Listener::bind(LOOPBACK.parse().unwrap(), Presence::Here).unwrap();
        let address = older.address();
        let stopped = Listener::bind(address, Presence::Here).unwrap();
        older.reclaim().unwrap();
        for _ in 0..100 {
            let _client = TcpStream::connect(address).await.unwrap();
            timeout(PATIENCE, accepted_by(&older, &stopped)).await.unwrap();
        }
        drop(stopped);
        let _client = TcpStream::connect(address).await.unwrap();
        timeout(PATIENCE, older.accept()).await.unwrap().unwrap();
        let newer = Listener::bind(address, Presence::Here).unwrap();
        for _ in 0..100 {
            let _client = TcpStream::connect(address).await.unwrap();
            timeout(PATIENCE, accepted_by(&newer, &older)).await.unwrap();
        }
    }

    #[tokio::test(flavor = "current_thread")]
    async fn closing_the_older_listener_refuses_and_resets_nobody() {
        let older = Listener::bind(LOOPBACK.parse().unwrap(), Presence::Here).unwrap();
        let address = older.address();
        // These sit in the older one's accept queue, with bytes already sent.
        let mut early = Vec::new();
        for _ in 0..8 {
            let mut client = TcpStream::connect(address).await.unwrap();
            client.write_all(&[0x43; 48]).await.unwrap();
            early.push(client);
        }
        let newer = Listener::bind(address, Presence::Here).unwrap();
        let left = older.close();
        assert_eq!(left.len(), early.len());
        let ended = async move {
            for stream in left {
                farewell::end_in_order(stream);
            }
            for mut client in early {
                let mut buffer = [0u8; 1];
                let read = timeout(PATIENCE, client.read(&mut buffer)).await.unwrap();
                assert_eq!(read.expect("ended in order, not reset"), 0);
            }
        };
        tokio::task::LocalSet::new().run_until(ended).await;
        for _ in 0..100 {
            let _client = TcpStream::connect(address).await.expect("nobody is refused");
            timeout(PATIENCE, newer.accept()).await.unwrap().unwrap();
        }
    }

    /// 192.0.2.1 is for documentation and nobody's (RFC 5737).
    #[tokio::test(flavor = "current_thread")]
    async fn an_address_that_comes_later_is_listened_on_before_and_one_that_must_be_here_is_refused() {
        let elsewhere: SocketAddr = "192.0.2.1:0".parse().unwrap();
        assert_eq!(Listener::bind(elsewhere, Presence::MayComeLater).unwrap().address().ip(), elsewhere.ip());
        let refused = Listener::bind(elsewhere, Presence::Here).err().expect("it is not here");
        assert_eq!(refused.kind(), io::ErrorKind::AddrNotAvailable);
        let sixth: SocketAddr = "[2001:db8::1]:0".parse().unwrap();
        // A machine without IPv6 has nothing to say here.
        if TcpListener::bind("[::1]:0").await.is_ok() {
            assert_eq!(Listener::bind(sixth, Presence::MayComeLater).unwrap().address().ip(), sixth.ip());
        }
    }
}
