//! What a peer's cluster finds on the same hosts: one network of clients and nodes in which addresses move by themselves, and nodes
//! that lose their power.
//!
//! An address that moves there is announced by its new holder (gratuitous ARP) to a bridge, as in a rack; nobody follows it from outside.

use std::net::{IpAddr, SocketAddr};

use anyhow::Context;
use understudy::config::NodeName;

use super::{Host, ISCSI_PORT, Network, interconnect_address, ip, parsed, shelf_address};
use crate::tools;

/// A node's end of its cable to the bridge, and the bridge.
const LAN: &str = "lan";

/// All ends of a node's cables.
const ENDS: [&str; 4] = ["interconnect", "disks", "client", LAN];

impl Network {
    /// Connects both nodes and the clients to a bridge, and lets the nodes answer a client whichever cable it came by: a connection
    /// lives on with its old address when its route has moved.
    ///
    /// # Errors
    /// What ip(8) said.
    pub fn lay_lan(&self) -> anyhow::Result<()> {
        let client = self.name(Host::Client);
        self.ip(Host::Client, &format!("link add {LAN} type bridge\naddr add 10.77.6.1/24 dev {LAN}\n"))?;
        for node in NodeName::BOTH {
            let (name, port) = (self.name(Host::Node(node)), format!("{LAN}-{node}"));
            ip(None, &format!("link add name {LAN} netns {name} type veth peer name {port} netns {client}\n"))?;
            self.ip(Host::Client, &format!("link set {port} master {LAN} up\n"))?;
            self.configure_lan(node)?;
        }
        self.ip(Host::Client, &format!("link set {LAN} up\n"))
    }

    fn configure_lan(&self, node: NodeName) -> anyhow::Result<()> {
        let (from, back) = [("10.77.5.0/30", "10.77.4.1"), ("10.77.4.0/30", "10.77.5.1")][node.index()];
        let own = lan_address(node);
        let lines = format!("addr add {own}/24 dev {LAN}\nlink set {LAN} up\nroute replace {from} via {back}\n");
        self.ip(Host::Node(node), &lines)
    }

    /// The command that replaces itself by a program on a node's host.
    ///
    /// # Errors
    /// There is no iproute2.
    pub fn way_to(&self, node: NodeName) -> anyhow::Result<Vec<String>> {
        let program = tools::find("ip").context("ip not found")?.display().to_string();
        Ok(vec![program, "netns".to_owned(), "exec".to_owned(), self.name(Host::Node(node))])
    }

    /// The network's part of a power cut: from now on nothing a node says is heard, its last words included. Its processes are
    /// the caller's.
    ///
    /// # Errors
    /// What ip(8) said.
    pub fn darken(&self, node: NodeName) -> anyhow::Result<()> {
        let down = |end: &str| format!("link set {end} down\n");
        self.ip(Host::Node(node), &ENDS.map(down).concat())
    }

    /// What a machine configures when it boots; an address that had moved to it is not among that.
    ///
    /// # Errors
    /// What ip(8) said.
    pub fn light_up(&self, node: NodeName) -> anyhow::Result<()> {
        let up = |end: &str| format!("link set {end} up\n");
        let forgotten = format!("addr flush dev {LAN}\n");
        let shelf = format!("route replace {}/32 dev disks\n", shelf_address());
        self.ip(Host::Node(node), &(forgotten + &ENDS.map(up).concat() + &shelf))?;
        self.configure_lan(node)
    }

    /// A node's two addresses that never move: of the interconnect and of the bridge.
    #[must_use]
    pub fn fixed_addresses(node: NodeName) -> [IpAddr; 2] {
        [interconnect_address(node), lan_address(node)]
    }

    /// The portal of a peer's cluster, on the node that holds its address.
    #[must_use]
    pub fn moving_portal() -> SocketAddr {
        SocketAddr::new(parsed("10.77.6.10"), ISCSI_PORT)
    }
}

/// The cable to the bridge, as programs on a node are told.
pub(crate) const LAN_DEVICE: &str = LAN;

fn lan_address(node: NodeName) -> IpAddr {
    parsed(["10.77.6.2", "10.77.6.3"][node.index()])
}
