//! The client's end of the admin socket: blocking, for commands and the demo.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use thiserror::Error;

use super::{LINE_BYTES, Line, Request, Response, VERSION};
use crate::timeline::TimelineStep;

/// Why a node could not be asked.
#[derive(Debug, Error)]
pub enum ClientError {
    /// Nobody answers at the socket.
    #[error("no node answers at {}: {source}", path.display())]
    NoNode {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The connection ended or nothing came in time.
    #[error("the node at {} did not answer: {source}", path.display())]
    NoAnswer {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The answer makes no sense here.
    #[error("the node at {} answered what this release does not know: {what}", path.display())]
    Foreign {
        /// The socket.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
}

/// A connection to a node's admin socket.
#[derive(Debug)]
pub struct Client {
    path: PathBuf,
    stream: BufReader<UnixStream>,
}

impl Client {
    /// Connects to the node whose socket is `path`.
    ///
    /// # Errors
    /// [`ClientError::NoNode`].
    pub fn connect(path: &Path) -> Result<Self, ClientError> {
        let stream =
            UnixStream::connect(path).map_err(|source| ClientError::NoNode { path: path.to_owned(), source })?;
        Ok(Self { path: path.to_owned(), stream: BufReader::new(stream) })
    }

    /// Asks one thing and waits for the answer, `limit` at most.
    ///
    /// # Errors
    /// [`ClientError::NoAnswer`] or [`ClientError::Foreign`]; the connection is of no use afterwards.
    pub fn ask(&mut self, request: &Request, limit: Duration) -> Result<Response, ClientError> {
        self.send(request, limit)?;
        self.receive()
    }

    /// Turns the connection into a stream of steps, beginning with `earlier` past ones.
    ///
    /// # Errors
    /// [`ClientError::NoAnswer`] when the request could not be sent.
    pub fn events(mut self, earlier: usize) -> Result<Events, ClientError> {
        self.send(&Request::Events { earlier }, Duration::from_secs(5))?;
        let path = self.path.clone();
        self.stream.get_ref().set_read_timeout(None).map_err(|source| ClientError::NoAnswer { path, source })?;
        Ok(Events(self))
    }

    fn send(&mut self, request: &Request, limit: Duration) -> Result<(), ClientError> {
        let mut line = serde_json::to_vec(&Line::new(request)).map_err(|error| self.foreign(error.to_string()))?;
        line.push(b'\n');
        let stream = self.stream.get_mut();
        let sent = stream
            .set_read_timeout(Some(limit))
            .and_then(|()| stream.set_write_timeout(Some(limit)))
            .and_then(|()| stream.write_all(&line));
        sent.map_err(|source| self.no_answer(source))
    }

    fn receive(&mut self) -> Result<Response, ClientError> {
        let mut line = String::new();
        let read = (&mut self.stream).take(LINE_BYTES as u64).read_line(&mut line);
        match read {
            Err(source) => return Err(self.no_answer(source)),
            Ok(0) => return Err(self.no_answer(io::ErrorKind::UnexpectedEof.into())),
            Ok(_) => {}
        }
        let line: Line<Response> = serde_json::from_str(&line).map_err(|error| self.foreign(error.to_string()))?;
        if line.understudy != VERSION {
            return Err(self.foreign(format!("admin protocol {}, this program speaks {VERSION}", line.understudy)));
        }
        Ok(line.body)
    }

    fn no_answer(&self, source: io::Error) -> ClientError {
        ClientError::NoAnswer { path: self.path.clone(), source }
    }

    fn foreign(&self, what: String) -> ClientError {
        ClientError::Foreign { path: self.path.clone(), what }
    }
}

/// Steps of a node as they happen; ends when the node does.
#[derive(Debug)]
pub struct Events(Client);

impl Iterator for Events {
    type Item = TimelineStep;

    fn next(&mut self) -> Option<TimelineStep> {
        match self.0.receive() {
            Ok(Response::Event { step }) => Some(step),
            Ok(_) | Err(_) => None,
        }
    }
}
