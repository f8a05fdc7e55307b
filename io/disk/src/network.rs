//! How a session gets its byte stream: TCP, or whatever a simulation puts in its place.
//!
//! Not here: what is spoken on it. The kind of stream is known when the program is built, so the real one costs nothing.

use std::future::Future;
use std::io;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

/// Gives connections to portals.
pub trait Network: 'static {
    /// A connection.
    type Stream: AsyncRead + AsyncWrite + Unpin + 'static;

    /// Connects to `portal`, `host:port`.
    ///
    /// # Errors
    /// What the network says; the session tries again.
    fn connect(&self, portal: &str) -> impl Future<Output = io::Result<Self::Stream>>;
}

/// The network of this machine.
#[derive(Debug, Clone, Copy)]
pub struct Tcp;

impl Network for Tcp {
    type Stream = TcpStream;

    async fn connect(&self, portal: &str) -> io::Result<TcpStream> {
        let stream = TcpStream::connect(portal).await?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }
}
