//! The protocol over a real socket: what a client asks, what it gets, and what bad lines do.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::mpsc;

use super::{
    AdminRequest, Client, ClientError, Request, Response, Server, ServerError, TakeoverKind, Veto, VetoWeight,
};
use crate::config::NodeName;
use crate::timeline::Recorder;

/// Far longer than anything here takes.
const LIMIT: Duration = Duration::from_secs(20);

/// A node's end with a driver that refuses everything, on a thread of its own; ends with the returned sender.
struct Node {
    path: PathBuf,
    /// Each sent text becomes a step.
    steps: mpsc::UnboundedSender<String>,
    _folder: tempfile::TempDir,
}

fn node() -> Node {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("admin.sock");
    let (steps, texts) = mpsc::unbounded_channel();
    let (ready, started) = std::sync::mpsc::channel();
    let (state, socket) = (folder.path().to_owned(), path.clone());
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        tokio::task::LocalSet::new().block_on(&runtime, async {
            let recorder = Rc::new(Recorder::open(&state, NodeName::B, 0xabc).expect("a recorder"));
            recorder.record("booting", "first", std::collections::BTreeMap::new());
            let server = Server::bind(&socket).expect("a socket");
            let (sender, requests) = mpsc::channel(4);
            tokio::task::spawn_local(server.serve(sender, Rc::clone(&recorder)));
            tokio::task::spawn_local(refuse_all(requests));
            ready.send(()).expect("the test waits");
            record_all(texts, &recorder).await;
        });
    });
    started.recv_timeout(LIMIT).expect("the node starts");
    Node { path, steps, _folder: folder }
}

async fn refuse_all(mut requests: mpsc::Receiver<AdminRequest>) {
    while let Some(AdminRequest { request, reply }) = requests.recv().await {
        let vetoes = vec![Veto { weight: VetoWeight::Hard, reason: format!("{request:?}"), remedy: String::new() }];
        drop(reply.send(Response::Refused { reason: "not now".to_owned(), vetoes, advice: String::new() }));
    }
}

async fn record_all(mut texts: mpsc::UnboundedReceiver<String>, recorder: &Recorder) {
    while let Some(text) = texts.recv().await {
        recorder.record("told", text, std::collections::BTreeMap::new());
    }
}

#[test]
fn requests_reach_the_driver_and_its_answers_come_back_in_order() {
    let node = node();
    let mut client = Client::connect(&node.path).expect("the node answers");
    for request in [Request::Status, Request::Takeover { kind: TakeoverKind::Forced }, Request::VolumeList] {
        match client.ask(&request, LIMIT).expect("an answer") {
            Response::Refused { vetoes, .. } => assert_eq!(vetoes[0].reason, format!("{request:?}")),
            other => panic!("unexpected {other:?}"),
        }
    }
}

#[test]
fn timeline_is_answered_without_the_driver() {
    let node = node();
    let mut client = Client::connect(&node.path).expect("the node answers");
    match client.ask(&Request::Timeline { newest: 10 }, LIMIT).expect("an answer") {
        Response::Timeline { steps } => {
            assert_eq!(steps.len(), 1);
            assert_eq!(
                (steps[0].step.as_str(), steps[0].node, steps[0].incarnation.as_str()),
                ("booting", NodeName::B, "0000000000000abc")
            );
        }
        other => panic!("unexpected {other:?}"),
    }
}

#[test]
fn events_begin_with_earlier_steps_and_go_on_as_they_happen() {
    let node = node();
    let mut events = Client::connect(&node.path).expect("the node answers").events(5).expect("a stream");
    assert_eq!(events.next().expect("the earlier step").text, "first");
    for text in ["second", "third"] {
        node.steps.send(text.to_owned()).expect("the node lives");
        assert_eq!(events.next().expect("a step").text, text);
    }
}

#[test]
fn events_end_when_the_node_ends() {
    let node = node();
    let mut events = Client::connect(&node.path).expect("the node answers").events(0).expect("a stream");
    drop(node);
    assert_eq!(events.next(), None);
}

#[test]
fn socket_is_for_its_owner_only() {
    let node = node();
    let mode = std::fs::metadata(&node.path).expect("the socket").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

/// Sends raw bytes and gives the first line that comes back.
fn raw(node: &Node, bytes: &[u8]) -> String {
    let mut stream = UnixStream::connect(&node.path).expect("the node answers");
    stream.set_read_timeout(Some(LIMIT)).expect("a time limit");
    // A node that gives up in the middle of a long line closes the connection.
    drop(stream.write_all(bytes));
    let mut line = String::new();
    drop(BufReader::new(stream).read_line(&mut line));
    line
}

#[test]
fn bad_lines_are_answered_and_harm_nobody() {
    let node = node();
    assert!(raw(&node, b"nonsense\n").contains("unreadable request"));
    assert!(raw(&node, b"\xff\xfe\n").is_empty());
    assert!(raw(&node, b"{\"understudy\":1,\"request\":\"dance\"}\n").contains("unknown request"));
    assert!(raw(&node, b"{\"understudy\":99,\"request\":\"status\"}\n").contains("speaks admin protocol 1, not 99"));
    assert!(raw(&node, b"{\"request\":\"status\"}\n").contains("unreadable request"));
    assert_eq!(raw(&node, &vec![b'x'; 200 << 10]), "");
    let mut client = Client::connect(&node.path).expect("the node still answers");
    assert!(matches!(client.ask(&Request::Status, LIMIT), Ok(Response::Refused { .. })));
}

#[test]
fn a_client_that_sends_nothing_keeps_nobody_waiting() {
    let node = node();
    let _silent: Vec<_> = (0..20).map(|_| UnixStream::connect(&node.path).expect("connects")).collect();
    let mut client = Client::connect(&node.path).expect("the node answers");
    assert!(client.ask(&Request::Status, LIMIT).is_ok());
}

#[test]
fn nobody_at_the_socket_is_told_with_its_path() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("none.sock");
    let error = Client::connect(&path).expect_err("nobody is there");
    assert!(matches!(error, ClientError::NoNode { .. }));
    assert!(error.to_string().contains("none.sock"));
}

fn on_local<T>(work: impl FnOnce() -> T) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let _guard = runtime.enter();
    work()
}

#[test]
fn a_socket_somebody_answers_at_is_not_taken() {
    let node = node();
    let error = on_local(|| Server::bind(&node.path)).expect_err("taken");
    assert!(matches!(error, ServerError::Taken(_)));
    assert!(Client::connect(&node.path).is_ok());
}

#[test]
fn a_socket_left_behind_is_replaced_and_removed_in_the_end() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("deep/admin.sock");
    std::fs::create_dir(folder.path().join("deep")).expect("a folder");
    drop(std::os::unix::net::UnixListener::bind(&path).expect("a listener that dies"));
    assert!(path.exists(), "a dead listener leaves its file");
    on_local(|| {
        let server = Server::bind(&path).expect("replaced");
        assert!(Client::connect(&path).is_ok());
        drop(server);
    });
    assert!(!path.exists());
}
