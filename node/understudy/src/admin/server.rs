//! The node's end of the admin socket.
//!
//! It accepts connections on the node's own runtime and passes each request on to the driver. The socket is made under
//! another name with mode 0600 and renamed into place, so there is no moment at which somebody else could open it.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

use thiserror::Error;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{Semaphore, mpsc, oneshot};

use super::{AdminRequest, LINE_BYTES, Line, Request, Response, VERSION};
use crate::timeline::Recorder;

/// Connections served at a time; further ones wait in the listen queue. Commands of an operator and a dashboard need a
/// handful.
const CONNECTIONS: usize = 64;

/// Longest request. The longest real one is below 300 bytes.
const REQUEST_BYTES: u64 = 64 << 10;

/// Why the admin socket could not be opened.
#[derive(Debug, Error)]
pub enum ServerError {
    /// Somebody answers there.
    #[error("another node already answers at {}", .0.display())]
    Taken(PathBuf),
    /// The system refused.
    #[error("cannot open the admin socket {}: {source}", path.display())]
    Io {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// A bound admin socket; dropping it removes the file.
#[derive(Debug)]
pub struct Server {
    listener: UnixListener,
    path: PathBuf,
}

impl Server {
    /// Opens the socket at `path`, replacing one that nobody answers at; makes its folder.
    ///
    /// # Errors
    /// [`ServerError::Taken`] when a living process answers there.
    pub fn bind(path: &Path) -> Result<Self, ServerError> {
        let failed = |source| ServerError::Io { path: path.to_owned(), source };
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(failed)?;
        }
        if std::os::unix::net::UnixStream::connect(path).is_ok() {
            return Err(ServerError::Taken(path.to_owned()));
        }
        let mut fresh = path.as_os_str().to_owned();
        fresh.push(".new");
        let fresh = PathBuf::from(fresh);
        match std::fs::remove_file(&fresh) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
            Ok(()) | Err(_) => {}
        }
        let listener = UnixListener::bind(&fresh).map_err(failed)?;
        std::fs::set_permissions(&fresh, std::fs::Permissions::from_mode(0o600)).map_err(failed)?;
        std::fs::rename(&fresh, path).map_err(failed)?;
        Ok(Self { listener, path: path.to_owned() })
    }

    /// Serves connections until dropped; to be run on the node's `LocalSet`. Requests go into `requests`; steps come
    /// from `recorder`.
    pub async fn serve(self, requests: mpsc::Sender<AdminRequest>, recorder: Rc<Recorder>) {
        let places = Arc::new(Semaphore::new(CONNECTIONS));
        // BOUND: runs as long as the node; the semaphore bounds the tasks.
        loop {
            let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
            let stream = match self.listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "admin socket: accept failed");
                    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                    continue;
                }
            };
            let (requests, recorder) = (requests.clone(), Rc::clone(&recorder));
            tokio::task::spawn_local(async move {
                if let Err(error) = converse(stream, &requests, &recorder).await {
                    tracing::debug!(%error, "admin connection ended");
                }
                drop(place);
            });
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Nobody answers at a file left behind, so a failure here harms nothing.
        drop(std::fs::remove_file(&self.path));
    }
}

/// Answers one connection's requests in order.
async fn converse(stream: UnixStream, requests: &mpsc::Sender<AdminRequest>, recorder: &Recorder) -> io::Result<()> {
    let (read, mut write) = stream.into_split();
    let mut lines = BufReader::new(read);
    // BOUND: ends with the connection.
    while let Some(line) = next_line(&mut lines).await? {
        match parse(&line) {
            Err(response) => send(&mut write, &response).await?,
            Ok(Request::Events { earlier }) => return events(&mut write, recorder, earlier).await,
            Ok(Request::Timeline { newest }) => {
                send(&mut write, &Response::Timeline { steps: recorder.newest(newest) }).await?;
            }
            Ok(request) => match ask(request, requests).await {
                Some(response) => send(&mut write, &response).await?,
                // The driver dropped the request: the node is ending or restarting, and so does this connection.
                None => return Ok(()),
            },
        }
    }
    Ok(())
}

/// The next request line; `None` at the end. A longer line than any request ends the connection.
async fn next_line(lines: &mut BufReader<OwnedReadHalf>) -> io::Result<Option<String>> {
    let mut line = String::new();
    let read = lines.take(REQUEST_BYTES).read_line(&mut line).await?;
    if read as u64 == REQUEST_BYTES && !line.ends_with('\n') {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "request line too long"));
    }
    Ok((read > 0).then_some(line))
}

fn parse(line: &str) -> Result<Request, Response> {
    let failed =
        |reason: String| Response::Failed { reason, advice: "use the `understudy` of this release".to_owned() };
    let version: Line<Ignored> =
        serde_json::from_str(line).map_err(|error| failed(format!("unreadable request: {error}")))?;
    if version.understudy != VERSION {
        return Err(failed(format!("this node speaks admin protocol {VERSION}, not {}", version.understudy)));
    }
    let line: Line<Request> =
        serde_json::from_str(line).map_err(|error| failed(format!("unknown request: {error}")))?;
    Ok(line.body)
}

/// Any body: read to know the version before the rest is judged.
#[derive(serde::Deserialize)]
struct Ignored {}

async fn ask(request: Request, requests: &mpsc::Sender<AdminRequest>) -> Option<Response> {
    let (reply, answer) = oneshot::channel();
    requests.send(AdminRequest { request, reply }).await.ok()?;
    answer.await.ok()
}

async fn events(write: &mut OwnedWriteHalf, recorder: &Recorder, earlier: usize) -> io::Result<()> {
    let mut steps = recorder.subscribe();
    // No await between subscribing and reading what was before: nothing is shown twice or missed.
    for step in recorder.newest(earlier) {
        send(write, &Response::Event { step }).await?;
    }
    // BOUND: ends when the client goes away or the node does.
    loop {
        match steps.recv().await {
            Ok(step) => send(write, &Response::Event { step }).await?,
            Err(RecvError::Lagged(missed)) => tracing::warn!(missed, "an events client is too slow"),
            Err(RecvError::Closed) => return Ok(()),
        }
    }
}

async fn send(write: &mut OwnedWriteHalf, response: &Response) -> io::Result<()> {
    let mut line = serde_json::to_vec(&Line::new(response)).map_err(io::Error::other)?;
    line.push(b'\n');
    debug_assert!(line.len() <= LINE_BYTES, "an answer must fit what a client accepts");
    write.write_all(&line).await
}
