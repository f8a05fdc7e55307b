//! On which hosts the parts of a pair run, and at which addresses they find each other.
//!
//! Usually all of it is this very host. A drill that cuts cables makes hosts of its own (network namespaces) and says here
//! how to start a program there; the harness does not know how they were made.

use std::net::SocketAddr;

use anyhow::bail;

use super::free_ports;

/// On which hosts a pair runs.
#[derive(Debug, Clone, Default)]
pub enum Site {
    /// All of it on this one, at ports of the loopback address that happen to be free.
    #[default]
    Here,
    /// Each part on a host of its own.
    Apart(Box<Hosts>),
}

/// Ways to hosts, and addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hosts {
    /// The command that replaces itself by a program on the shelf's host; empty: the program is started right here.
    pub to_shelf: Vec<String>,
    /// The same for the hosts of the nodes.
    pub to_nodes: [Vec<String>; 2],
    /// Each node's end of the interconnect.
    pub interconnects: [SocketAddr; 2],
    /// Where each node takes forwarded commands; nowhere if it is `None`.
    pub forwards: Option<[SocketAddr; 2]>,
    /// Each node's portal; both hosts must let it be listened on.
    pub portals: [SocketAddr; 2],
    /// Further portals of each node.
    pub more_portals: [Vec<SocketAddr>; 2],
    /// The interface on which the nodes put the portals' addresses themselves; none: the addresses are there.
    pub portals_on: Option<String>,
    /// Where the shelf listens.
    pub shelf_listens: SocketAddr,
    /// Where each node reaches the shelf.
    pub shelf_from_nodes: [SocketAddr; 2],
    /// Where this process reaches it.
    pub shelf_from_here: SocketAddr,
}

impl Site {
    /// The hosts and addresses to use.
    ///
    /// # Errors
    /// No free ports.
    pub fn hosts(&self) -> anyhow::Result<Hosts> {
        if let Self::Apart(hosts) = self {
            return Ok((**hosts).clone());
        }
        let addresses = free_ports(7)?;
        let [interconnect_a, interconnect_b, portal_a, portal_b, forward_a, forward_b, shelf] = addresses[..] else {
            bail!("expected 7 free ports, got {}", addresses.len());
        };
        Ok(Hosts {
            to_shelf: Vec::new(),
            to_nodes: [Vec::new(), Vec::new()],
            interconnects: [interconnect_a, interconnect_b],
            forwards: Some([forward_a, forward_b]),
            portals: [portal_a, portal_b],
            more_portals: [Vec::new(), Vec::new()],
            portals_on: None,
            shelf_listens: shelf,
            shelf_from_nodes: [shelf; 2],
            shelf_from_here: shelf,
        })
    }
}
