//! Clients find a portal where it was listened on last: the network's part when an address moves from host to host.
//!
//! It looks at the listening sockets of both nodes' hosts through sock_diag(7), as `ss` does, and changes the clients' route to a
//! portal's address ([`super::route`]) when the newest listener is another one. The same rule holds between two processes on one
//! host. It is not part of the pair, knows nothing of its state, and lags some milliseconds behind, which clients see in their
//! pauses; on a machine that leaves it no processor time it lags by that much more, so it says how late it was.
//!
//! A listener is a socket and not a host that listens: one that was closed and opened again between two looks is a new one.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketType, netlink};
use understudy::config::NodeName;

use super::route::Routes;
use super::{Host, Network, enter, portal_address};

/// Between two looks.
const LOOK: Duration = Duration::from_millis(2);

/// Of linux/netlink.h, linux/sock_diag.h and linux/inet_diag.h.
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
    /// Of the socket's cookie there: a number no other socket has as long as the system runs.
    pub(super) const COOKIE_AT: usize = 44;
}

/// What the follower and its owner tell each other.
#[derive(Debug, Default)]
struct Told {
    over: AtomicBool,
    looks_away: AtomicBool,
    looks: AtomicU64,
    /// Microseconds.
    latest: AtomicU64,
}

/// A running follower; dropping it ends it.
#[derive(Debug)]
pub(super) struct Follower {
    told: Arc<Told>,
    thread: Option<JoinHandle<()>>,
}

impl Follower {
    pub(super) fn start(network: &Network) -> anyhow::Result<Self> {
        let namespaces = [network.file(Host::Node(NodeName::A))?, network.file(Host::Node(NodeName::B))?];
        let client = network.file(Host::Client)?;
        let told = Arc::new(Told::default());
        let shared = Arc::clone(&told);
        let thread = std::thread::Builder::new().name("follower".to_owned()).spawn(move || {
            // A socket stays in the namespace it was made in.
            let sockets = namespaces.map(|namespace| enter(&namespace).and_then(|()| open()));
            let routes = enter(&client).and_then(|()| Routes::open());
            let outcome = match (sockets, routes) {
                ([Ok(a), Ok(b)], Ok(routes)) => follow(&[a, b], &routes, &shared),
                ([Err(error), _] | [_, Err(error)], _) | (_, Err(error)) => Err(error),
            };
            if let Err(error) = outcome {
                eprintln!("portals are not followed any more: {error:#}");
            }
            shared.over.store(true, Ordering::Relaxed);
        })?;
        Ok(Self { told, thread: Some(thread) })
    }

    /// Stops looking; clients are led where they are led now.
    pub(super) fn look_away(&self) {
        self.told.looks_away.store(true, Ordering::Relaxed);
        self.wait_for_looks();
    }

    /// Looks again; returns when clients are led where they are to be.
    pub(super) fn look_again(&self) {
        self.told.looks_away.store(false, Ordering::Relaxed);
        self.wait_for_looks();
    }

    /// Two rounds: one may be under way.
    fn wait_for_looks(&self) {
        let seen = self.told.looks.load(Ordering::Relaxed);
        // BOUND: the follower goes on or says that it is over.
        while self.told.looks.load(Ordering::Relaxed) < seen + 2 && !self.told.over.load(Ordering::Relaxed) {
            std::thread::sleep(LOOK);
        }
    }

    /// The longest time since this was asked last that what happened on the nodes may have waited for the clients' route.
    pub(super) fn latest(&self) -> Duration {
        Duration::from_micros(self.told.latest.swap(0, Ordering::Relaxed))
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.told.over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // It can only have panicked, which was printed.
            drop(thread.join());
        }
    }
}

fn open() -> anyhow::Result<OwnedFd> {
    rustix::net::socket(AddressFamily::NETLINK, SocketType::DGRAM, Some(netlink::SOCK_DIAG)).context("no sock_diag")
}

fn follow(sockets: &[OwnedFd; 2], routes: &Routes, told: &Told) -> anyhow::Result<()> {
    let mut listeners: [Listeners; 2] = Default::default();
    let mut leads = NodeName::BOTH;
    let mut last_look = Instant::now();
    // BOUND: until the network is dropped.
    while !told.over.load(Ordering::Relaxed) {
        let look = Instant::now();
        if !told.looks_away.load(Ordering::Relaxed) {
            let seen = [listening(&sockets[0])?, listening(&sockets[1])?];
            for identity in NodeName::BOTH {
                let address = portal_address(identity);
                let of = |node: NodeName| seen[node.index()].get(&address).cloned().unwrap_or_default();
                listeners[identity.index()].see(NodeName::BOTH.map(of));
                let newest = listeners[identity.index()].newest();
                if let Some(newest) = newest.filter(|newest| *newest != leads[identity.index()]) {
                    routes.lead(identity, newest)?;
                    leads[identity.index()] = newest;
                }
            }
            // What happened right after the look before has waited from then to now.
            let late = u64::try_from(last_look.elapsed().as_micros()).unwrap_or(u64::MAX);
            told.latest.fetch_max(late, Ordering::Relaxed);
        }
        last_look = look;
        told.looks.fetch_add(1, Ordering::Relaxed);
        std::thread::sleep(LOOK);
    }
    Ok(())
}

/// A listening socket's cookie.
type Cookie = u64;

/// The listeners at one portal, the newest last.
#[derive(Debug, Default)]
struct Listeners(Vec<(NodeName, Cookie)>);

impl Listeners {
    /// Several that are new in one look are taken in this order: a node that listened here before opened its new one last. An
    /// address has one owner and at most one successor, so it closed the old one after the successor had come.
    fn see(&mut self, listening: [BTreeSet<Cookie>; 2]) {
        let before = std::mem::take(&mut self.0);
        let here = |node: NodeName| listening[node.index()].iter().map(move |cookie| (node, *cookie));
        let mut new: Vec<_> = NodeName::BOTH.into_iter().flat_map(here).filter(|one| !before.contains(one)).collect();
        new.sort_by_key(|(node, _)| before.iter().any(|(other, _)| other == node));
        self.0 = before.into_iter().filter(|(node, cookie)| listening[node.index()].contains(cookie)).collect();
        self.0.extend(new);
    }

    fn newest(&self) -> Option<NodeName> {
        self.0.last().map(|(node, _)| *node)
    }
}

/// The sockets that listen, by address.
type Seen = BTreeMap<IpAddr, BTreeSet<Cookie>>;

fn listening(socket: &OwnedFd) -> anyhow::Result<Seen> {
    rustix::net::send(socket, &request(), SendFlags::empty()).context("cannot ask sock_diag")?;
    let mut found = Seen::new();
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
fn take(mut bytes: &[u8], found: &mut Seen) -> Answer {
    // BOUND: each round takes at least a header.
    while let Some((header, _)) = bytes.split_first_chunk::<{ wire::HEADER_BYTES }>() {
        let length = u32::from_ne_bytes([header[0], header[1], header[2], header[3]]) as usize;
        let kind = u16::from_ne_bytes([header[4], header[5]]);
        if kind != wire::SOCK_DIAG_BY_FAMILY || length < wire::HEADER_BYTES || length > bytes.len() {
            // DONE, or an error, after which nothing comes either.
            return Answer::Complete;
        }
        if let Some((address, cookie)) = listener(&bytes[wire::HEADER_BYTES..length]) {
            found.entry(address).or_default().insert(cookie);
        }
        bytes = &bytes[length.next_multiple_of(4).min(bytes.len())..];
    }
    Answer::MoreToCome
}

/// Address and cookie of a socket, from an answer's body.
fn listener(body: &[u8]) -> Option<(IpAddr, Cookie)> {
    let (_, source) = body.split_at_checked(wire::SOURCE_AT)?;
    let (_, cookie) = body.split_at_checked(wire::COOKIE_AT)?;
    Some((IpAddr::from(*source.first_chunk::<4>()?), Cookie::from_ne_bytes(*cookie.first_chunk()?)))
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

    fn seen<const A: usize, const B: usize>(a: [Cookie; A], b: [Cookie; B]) -> [BTreeSet<Cookie>; 2] {
        [BTreeSet::from(a), BTreeSet::from(b)]
    }

    #[test]
    fn the_newest_of_two_listeners_is_followed_and_the_older_one_again_when_it_ends() {
        let mut listeners = Listeners::default();
        listeners.see(seen([1], []));
        assert_eq!(listeners.newest(), Some(NodeName::A));
        listeners.see(seen([1], [2]));
        assert_eq!(listeners.newest(), Some(NodeName::B));
        listeners.see(seen([1], []));
        assert_eq!(listeners.newest(), Some(NodeName::A));
        listeners.see(seen([], []));
        assert_eq!(listeners.newest(), None);
    }

    #[test]
    fn a_node_that_closed_and_listened_again_between_two_looks_is_the_newest() {
        let mut listeners = Listeners::default();
        listeners.see(seen([], [1]));
        listeners.see(seen([2], [1]));
        assert_eq!(listeners.newest(), Some(NodeName::A));
        listeners.see(seen([2], [3]));
        assert_eq!(listeners.newest(), Some(NodeName::B));
    }

    #[test]
    fn of_two_that_are_new_in_one_look_the_one_that_listened_before_is_the_newest() {
        for (owner, successor) in [(NodeName::A, NodeName::B), (NodeName::B, NodeName::A)] {
            let mut listeners = Listeners::default();
            let of = |cookies: [(NodeName, Cookie); 2]| {
                NodeName::BOTH.map(|node| cookies.iter().filter(|one| one.0 == node).map(|one| one.1).collect())
            };
            listeners.see(of([(owner, 1), (owner, 1)]));
            listeners.see(of([(owner, 3), (successor, 2)]));
            assert_eq!(listeners.newest(), Some(owner));
        }
    }

    #[test]
    fn an_answer_is_read_to_its_end() {
        let mut body = vec![0; 72];
        body[wire::SOURCE_AT..wire::SOURCE_AT + 4].copy_from_slice(&[10, 77, 10, 1]);
        body[wire::COOKIE_AT..wire::COOKIE_AT + 8].copy_from_slice(&7u64.to_ne_bytes());
        let mut found = Seen::new();
        let first = message(wire::SOCK_DIAG_BY_FAMILY, &body);
        assert_eq!(take(&first, &mut found), Answer::MoreToCome);
        let second = message(wire::SOCK_DIAG_BY_FAMILY, &body[..wire::COOKIE_AT]);
        assert_eq!(take(&second, &mut found), Answer::MoreToCome);
        assert_eq!(take(&message(NLMSG_DONE, &[0; 4]), &mut found), Answer::Complete);
        assert_eq!(found, Seen::from([(IpAddr::from([10, 77, 10, 1]), BTreeSet::from([7]))]));
    }

    #[test]
    fn a_socket_keeps_its_cookie_and_another_one_at_its_address_has_another() {
        let one = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let socket = open().expect("sock_diag");
        let here = |cookies: &BTreeSet<Cookie>| cookies.clone();
        let address = IpAddr::from([127, 0, 0, 1]);
        let first = listening(&socket).expect("listeners").get(&address).map(here).expect("one listens");
        let again = listening(&socket).expect("listeners").get(&address).map(here).expect("one listens");
        assert!(first.intersection(&again).next().is_some(), "{first:?} {again:?}");
        drop(one);
    }
}
