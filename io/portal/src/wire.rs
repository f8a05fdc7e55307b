//! What a connection is made of and where it comes from: TCP, or whatever a simulation puts in its place.
//!
//! Not here: what is spoken on it. The kind of stream is known when the program is built, so the real one costs nothing.

use std::future::Future;
use std::io;
use std::net::SocketAddr;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use crate::farewell;
use crate::listener::Listener;

/// A stream of bytes to an initiator.
pub trait Wire: AsyncRead + AsyncWrite + Unpin + 'static {
    /// The address the initiator connected to.
    ///
    /// # Errors
    /// The connection has died already.
    fn local_addr(&self) -> io::Result<SocketAddr>;

    /// Small pieces are not to be kept back to be sent together.
    fn send_at_once(&self);

    /// Ends it so that what was already sent still arrives; called inside a `LocalSet`.
    fn end_in_order(self);
}

/// Where connections come from.
pub trait Acceptor: 'static {
    /// A connection.
    type Stream: Wire;

    /// Where it listens, with the real port.
    fn address(&self) -> SocketAddr;

    /// The next connection and who asked for it. May be cancelled.
    ///
    /// # Errors
    /// What the network says; it is asked again after a moment.
    fn accept(&self) -> impl Future<Output = io::Result<(Self::Stream, SocketAddr)>>;

    /// New connections come here again, though one other may have begun to listen at the address later.
    ///
    /// # Errors
    /// What the network says.
    fn reclaim(&self) -> io::Result<()>;

    /// Stops listening; returns the connections that were established but not yet accepted.
    fn close(self) -> Vec<Self::Stream>;
}

impl Acceptor for Listener {
    type Stream = TcpStream;

    fn address(&self) -> SocketAddr {
        Self::address(self)
    }

    async fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        Self::accept(self).await
    }

    fn reclaim(&self) -> io::Result<()> {
        Self::reclaim(self)
    }

    fn close(self) -> Vec<TcpStream> {
        Self::close(self)
    }
}

impl Wire for TcpStream {
    fn local_addr(&self) -> io::Result<SocketAddr> {
        Self::local_addr(self)
    }

    fn send_at_once(&self) {
        if let Err(error) = self.set_nodelay(true) {
            tracing::debug!(%error, "cannot set TCP_NODELAY");
        }
    }

    fn end_in_order(self) {
        farewell::end_in_order(self);
    }
}
