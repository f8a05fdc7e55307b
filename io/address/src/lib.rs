//! IP addresses that a node puts on its interfaces and takes off again, and the news of them to neighbours and clients.
//!
//! A portal's address is where the portal is served. On two machines somebody has to move it: this crate does, when it is told. It
//! decides nothing, and nothing is ever safe because of it: two nodes that both have an address disturb each other's clients, and what
//! keeps their disks sound is the fence.
//!
//! **Idea.** One thread ([`Keeper`]) owns every socket that is needed, so that neither a busy kernel lock nor a flood of ARP can
//! hold up the thread that serves clients. An address is taken at once and announced at once, several times; whether somebody else
//! answers for it is asked *beside* that and not before it, because clients wait and the likeliest other one is the partner that
//! hangs. Of two that announce an address the one that did so last has it.
//!
//! **An address does not outlive its node.** It is given to the kernel for [`LIFETIME`] and renewed as long as the node's serving
//! thread says so ([`Keeper::keep`]); that of a process that was killed or stopped goes by itself. The next run takes it off
//! before it does anything else.
//!
//! **Clients of a node whose machine is gone** know nothing of it: no reset can come from there. [`Keeper::tickle`] sends each of their
//! connections a segment that fits nothing. The client answers with what it expects, the kernel here knows no such connection and
//! resets it, and the client connects again.
//!
//! **Absent on purpose:** routes, interfaces that are made or brought up, and addresses of anything but Ethernet being announced.

mod frames;
mod keeper;
mod netlink;
mod sockets;

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use thiserror::Error;

pub use keeper::Keeper;

/// How long the kernel keeps an address that is not renewed. Longer than any stall after which a node goes on as if nothing had been;
/// short enough that a switch and its hosts do not have to choose between two machines for long.
pub const LIFETIME: Duration = Duration::from_secs(10);

/// An address, and where this machine has it while it serves the portal there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManagedAddress {
    /// The address.
    pub address: IpAddr,
    /// Length of the prefix it is given with.
    pub prefix: u8,
    /// Name of the interface.
    pub interface: String,
}

/// A client's TCP connection, as both ends name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Connection {
    /// Our end.
    pub portal: SocketAddr,
    /// The client's end.
    pub client: SocketAddr,
}

/// An Ethernet address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HardwareAddress(pub [u8; 6]);

impl fmt::Display for HardwareAddress {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, f] = self.0;
        write!(out, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}")
    }
}

/// An address of this node that another machine on the network has, too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Contested {
    /// The address.
    pub address: IpAddr,
    /// Who answers for it.
    pub by: HardwareAddress,
}

/// Why an address could not be managed.
#[derive(Debug, Error)]
pub enum AddressError {
    /// The configuration names an interface that this machine does not have.
    #[error(
        "there is no interface `{0}` on this machine: `ip link` lists those there are; correct `interface` of the portal in the \
         pair's file"
    )]
    NoInterface(String),
    /// The process lacks a capability.
    #[error(
        "not allowed to {what}: addresses of portals need CAP_NET_ADMIN and CAP_NET_RAW; run the node as root, or give its unit \
         AmbientCapabilities=CAP_NET_ADMIN CAP_NET_RAW"
    )]
    NotAllowed {
        /// What was tried.
        what: &'static str,
    },
    /// The system refused something.
    #[error("cannot {what}: {source}")]
    System {
        /// What was tried.
        what: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The thread that does it has ended.
    #[error("the thread that keeps addresses has ended")]
    Ended,
}

impl AddressError {
    fn system(what: &'static str, error: impl Into<io::Error>) -> Self {
        let source: io::Error = error.into();
        if source.kind() == io::ErrorKind::PermissionDenied {
            return Self::NotAllowed { what };
        }
        Self::System { what, source }
    }
}
