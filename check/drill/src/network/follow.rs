//! Clients find a portal where it was listened on last: the network's part when an address moves from host to host.
//!
//! It looks at the listening sockets of both nodes' hosts through sock_diag(7), as `ss` does, and changes the clients' route to a
//! portal's address when the newest listener is another one. The same rule holds between two processes on one host. It is not
//! part of the pair, knows nothing of its state, and lags some milliseconds behind, which clients see in their pauses.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, ensure};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketType, netlink};
use understudy::config::NodeName;

use super::{Host, Network, enter, lead, portal_address};

/// Between two looks.
const LOOK: Duration = Duration::from_millis(2);

/// Of linux/netlink.h and linux/sock_diag.h.
mod wire {
    pub(super) const HEADER_BYTES: usize = 16;
    pub(super) const REQUEST_BYTES: usize = HEADER_BYTES + 56;
    pub(super) const SOCK_DIAG_BY_FAMILY: u16 = 20;
    pub(super) const REQUEST_AND_DUMP: u16 = 0x301;
    pub(super) const AF_INET: u8 = 2;
    pub(super) const TCP: u8 = 6;
    /// 1 << TCP_LISTEN.
    pub(super) const LISTENING: u32 = 1 << 10;
    /// Of the source address in an answer, behind the header.
    pub(super) const SOURCE_AT: usize = 8;
}

/// A running follower; dropping it ends it.
#[derive(Debug)]
pub(super) struct Follower {
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Follower {
    pub(super) fn start(network: &Network) -> anyhow::Result<Self> {
        let namespaces = [network.file(Host::Node(NodeName::A))?, network.file(Host::Node(NodeName::B))?];
        let client = network.name(Host::Client);
        let over = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&over);
        let thread = std::thread::Builder::new().name("follower".to_owned()).spawn(move || {
            // A socket stays in the namespace it was made in.
            let sockets = namespaces.map(|namespace| enter(&namespace).and_then(|()| open()));
            let outcome = match sockets {
                [Ok(a), Ok(b)] => follow(&[a, b], &client, &told),
                [Err(error), _] | [_, Err(error)] => Err(error),
            };
            if let Err(error) = outcome {
                eprintln!("portals are not followed any more: {error:#}");
            }
        })?;
        Ok(Self { over, thread: Some(thread) })
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // It can only have panicked, which was printed.
            drop(thread.join());
        }
    }
}

fn open() -> anyhow::Result<OwnedFd> {
    rustix::net::socket(AddressFamily::NETLINK, SocketType::DGRAM, Some(netlink::SOCK_DIAG)).context("no sock_diag")
}

fn follow(sockets: &[OwnedFd; 2], client: &str, over: &AtomicBool) -> anyhow::Result<()> {
    let mut listeners: [Listeners; 2] = Default::default();
    let mut leads = NodeName::BOTH;
    // BOUND: until the network is dropped.
    while !over.load(Ordering::Relaxed) {
        let seen = [listening(&sockets[0])?, listening(&sockets[1])?];
        for identity in NodeName::BOTH {
            let address = portal_address(identity);
            listeners[identity.index()].see(NodeName::BOTH.map(|node| seen[node.index()].contains(&address)));
            let newest = listeners[identity.index()].newest();
            if let Some(newest) = newest.filter(|newest| *newest != leads[identity.index()]) {
                lead(client, identity, newest)?;
                leads[identity.index()] = newest;
            }
        }
        std::thread::sleep(LOOK);
    }
    Ok(())
}

/// The nodes listening at one portal, the newest last.
#[derive(Debug, Default)]
struct Listeners(Vec<NodeName>);

impl Listeners {
    fn see(&mut self, listening: [bool; 2]) {
        self.0.retain(|node| listening[node.index()]);
        for node in NodeName::BOTH {
            if listening[node.index()] && !self.0.contains(&node) {
                self.0.push(node);
            }
        }
    }

    fn newest(&self) -> Option<NodeName> {
        self.0.last().copied()
    }
}

/// The addresses that are listened on.
fn listening(socket: &OwnedFd) -> anyhow::Result<BTreeSet<IpAddr>> {
    rustix::net::send(socket, &request(), SendFlags::empty()).context("cannot ask sock_diag")?;
    let mut found = BTreeSet::new();
    let mut bytes = vec![0; 32 << 10];
    // BOUND: the kernel ends the answer with DONE.
    loop {
        let (length, _) =
            rustix::net::recv(socket, &mut bytes[..], RecvFlags::empty()).context("sock_diag is silent")?;
        ensure!(length >= wire::HEADER_BYTES, "sock_diag answers with {length} bytes");
        if take(&bytes[..length], &mut found) == Answer::Complete {
            return Ok(found);
        }
    }
}

fn request() -> [u8; wire::REQUEST_BYTES] {
    let mut bytes = [0; wire::REQUEST_BYTES];
    bytes[0..4].copy_from_slice(&(wire::REQUEST_BYTES as u32).to_ne_bytes());
    bytes[4..6].copy_from_slice(&wire::SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    bytes[6..8].copy_from_slice(&wire::REQUEST_AND_DUMP.to_ne_bytes());
    bytes[16] = wire::AF_INET;
    bytes[17] = wire::TCP;
    bytes[20..24].copy_from_slice(&wire::LISTENING.to_ne_bytes());
    bytes
}

#[derive(Debug, PartialEq, Eq)]
enum Answer {
    MoreToCome,
    Complete,
}

/// Takes the messages of one answer in.
fn take(mut bytes: &[u8], found: &mut BTreeSet<IpAddr>) -> Answer {
    // BOUND: each round takes at least a header.
    while let Some((header, _)) = bytes.split_first_chunk::<{ wire::HEADER_BYTES }>() {
        let length = u32::from_ne_bytes([header[0], header[1], header[2], header[3]]) as usize;
        let kind = u16::from_ne_bytes([header[4], header[5]]);
        if kind != wire::SOCK_DIAG_BY_FAMILY || length < wire::HEADER_BYTES || length > bytes.len() {
            // DONE, or an error, after which nothing comes either.
            return Answer::Complete;
        }
        let source = bytes[wire::HEADER_BYTES..length].get(wire::SOURCE_AT..wire::SOURCE_AT + 4);
        if let Some(source) = source.and_then(|source| <[u8; 4]>::try_from(source).ok()) {
            found.insert(IpAddr::from(source));
        }
        bytes = &bytes[length.next_multiple_of(4).min(bytes.len())..];
    }
    Answer::MoreToCome
}

#[cfg(test)]
mod tests {
    use super::*;

    const NLMSG_DONE: u16 = 3;

    fn message(kind: u16, body: &[u8]) -> Vec<u8> {
        let length = (wire::HEADER_BYTES + body.len()) as u32;
        let mut bytes = length.to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend([0; 10]);
        bytes.extend(body);
        bytes
    }

    #[test]
    fn the_newest_of_two_listeners_is_followed_and_the_older_one_again_when_it_ends() {
        let mut listeners = Listeners::default();
        listeners.see([true, false]);
        assert_eq!(listeners.newest(), Some(NodeName::A));
        listeners.see([true, true]);
        assert_eq!(listeners.newest(), Some(NodeName::B));
        listeners.see([true, false]);
        assert_eq!(listeners.newest(), Some(NodeName::A));
        listeners.see([false, false]);
        assert_eq!(listeners.newest(), None);
    }

    #[test]
    fn an_answer_is_read_to_its_end() {
        let mut body = vec![0; 56];
        body[wire::SOURCE_AT..wire::SOURCE_AT + 4].copy_from_slice(&[10, 77, 10, 1]);
        let mut found = BTreeSet::new();
        let first = message(wire::SOCK_DIAG_BY_FAMILY, &body);
        assert_eq!(take(&first, &mut found), Answer::MoreToCome);
        assert_eq!(take(&message(NLMSG_DONE, &[0; 4]), &mut found), Answer::Complete);
        assert_eq!(found, BTreeSet::from([IpAddr::from([10, 77, 10, 1])]));
    }
}
