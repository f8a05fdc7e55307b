//! Hosts with cables between them, so that cutting a cable is cutting a cable: network namespaces that a drill makes itself.
//!
//! Four hosts: two nodes, a shelf, and the clients. Between each two of them that talk lies a cable of its own (a veth pair), with
//! its own little network: the interconnect, a path of each node to the disks, a path of the clients to each node and, to look at
//! the disks from outside, to the shelf. Nothing outside these namespaces is touched: not even the cables' ends ever lie there.
//!
//! Usually addresses of portals exist on both nodes, and `follow` leads clients to the node that began to listen last: what a network
//! does when an address moves. Where the nodes are to move their addresses themselves, a fifth host is a switch (a bridge) that the nodes
//! and the clients are connected to, and nobody leads anybody.
//!
//! Everything carries the maker's process id in its name. It is removed when dropped, and what a killed maker left behind is
//! removed by the next one.

mod follow;
pub(crate) mod lan;
mod route;
mod switched;

use std::fs::File;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, ensure};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use understudy::config::NodeName;
use understudy::harness::{Hosts, Site};

use crate::tools;
use follow::Follower;

/// Every namespace's name begins with it.
const PREFIX: &str = "understudy-drill";

/// Where iproute2 keeps the names of network namespaces.
const NAMES: &str = "/run/netns";

/// What must be installed.
const PACKAGE: &str = "iproute2";

/// A hardware address nobody has: locally administered, and not one the kernel draws, which are random.
const NOBODY: &str = "02:00:00:00:00:00";

/// The port of every portal and of the shelf (RFC 7143 §13.1); nobody else listens there, the hosts are the drill's own.
const ISCSI_PORT: u16 = 3260;

/// The port for forwarded commands.
const FORWARD_PORT: u16 = 7101;

/// The port of the interconnect.
const INTERCONNECT_PORT: u16 = 7100;

/// Networks this process made so far.
static MADE: AtomicU32 = AtomicU32::new(0);

/// One of the hosts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Host {
    Node(NodeName),
    Shelf,
    Client,
    Switch,
}

/// How clients come to the portals.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// Over a cable to each node; they are led to the one that listens.
    Led,
    /// Over a switch, to whoever says that an address is there.
    Switched,
}

/// What can be cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cable {
    /// Between the nodes.
    Interconnect,
    /// Between this node and the shelf.
    DiskPath(NodeName),
    /// Between this node and the clients' switch, where there is one.
    ToSwitch(NodeName),
}

/// The hosts and cables of one pair.
#[derive(Debug)]
pub struct Network {
    tag: String,
    way: Way,
    follower: Option<Follower>,
}

impl Network {
    /// Makes the hosts and connects them.
    ///
    /// # Errors
    /// There is no iproute2, or no right to make namespaces here.
    pub fn make() -> anyhow::Result<Self> {
        Self::make_with(Way::Led)
    }

    /// The same, with another way for clients.
    ///
    /// # Errors
    /// As [`Network::make`].
    pub fn make_with(way: Way) -> anyhow::Result<Self> {
        ensure!(tools::find("ip").is_some(), "ip not found (Debian: {PACKAGE})");
        remove_left_behind();
        let tag = format!("{PREFIX}-{}-{}", std::process::id(), MADE.fetch_add(1, Ordering::Relaxed));
        // From here on dropping it removes whatever was made.
        let mut network = Self { tag, way, follower: None };
        network.connect().context("cannot make network namespaces here")?;
        match way {
            Way::Led => {
                network.lead_clients().context("cannot lead clients here")?;
                network.follower = Some(Follower::start(&network)?);
            }
            Way::Switched => switched::connect(&network).context("cannot make a switch here")?,
        }
        Ok(network)
    }

    fn connect(&self) -> anyhow::Result<()> {
        let [node_a, node_b] = NodeName::BOTH.map(|node| self.name(Host::Node(node)));
        let (shelf, client) = (self.name(Host::Shelf), self.name(Host::Client));
        let mut all: String = [&node_a, &node_b, &shelf, &client].map(|host| format!("netns add {host}\n")).concat();
        all += &cable(&node_a, "interconnect", &node_b, "interconnect");
        all += &cable(&node_a, "disks", &shelf, "node-a");
        all += &cable(&node_b, "disks", &shelf, "node-b");
        all += &cable(&client, "shelf", &shelf, "client");
        ip(None, &all)?;
        let [a, b] = NodeName::BOTH;
        self.set_up(Host::Node(a), &[("interconnect", "0.1"), ("disks", "1.1")])?;
        self.set_up(Host::Node(b), &[("interconnect", "0.2"), ("disks", "2.1")])?;
        self.set_up(Host::Shelf, &[("node-a", "1.2"), ("node-b", "2.2"), ("client", "3.2")])?;
        self.set_up(Host::Client, &[("shelf", "3.1")])?;
        let to_shelf = |end: &str| format!("route add {}/32 dev {end}\n", shelf_address());
        self.ip(Host::Node(a), &to_shelf("disks"))?;
        self.ip(Host::Node(b), &to_shelf("disks"))?;
        self.ip(Host::Shelf, &format!("addr add {}/32 dev lo\n", shelf_address()))?;
        self.ip(Host::Client, &to_shelf("shelf"))
    }

    /// A cable from the clients to each node, and the addresses of all portals on both.
    fn lead_clients(&self) -> anyhow::Result<()> {
        let client = self.name(Host::Client);
        for node in NodeName::BOTH {
            let (end, host) = (format!("node-{node}"), Host::Node(node));
            ip(None, &cable(&client, &end, &self.name(host), "client"))?;
            let [near, far] = [["4.1", "4.2"], ["5.1", "5.2"]][node.index()];
            self.set_up(Host::Client, &[(&end, near)])?;
            self.set_up(host, &[("client", far)])?;
            let portals = NodeName::BOTH.map(|identity| format!("addr add {}/32 dev lo\n", portal_address(identity)));
            self.ip(host, &portals.concat())?;
            self.ip(Host::Client, &format!("route add {}/32 via {}\n", portal_address(node), node_from_clients(node)))?;
        }
        Ok(())
    }

    /// Cables' ends with the last two numbers of their addresses.
    fn set_up(&self, host: Host, ends: &[(&str, &str)]) -> anyhow::Result<()> {
        let up = |(end, numbers): &(&str, &str)| format!("addr add 10.77.{numbers}/30 dev {end}\nlink set {end} up\n");
        self.ip(host, &("link set lo up\n".to_owned() + &ends.iter().map(up).collect::<String>()))
    }

    fn name(&self, host: Host) -> String {
        let host = match host {
            Host::Node(node) => node.to_string(),
            Host::Shelf => "shelf".to_owned(),
            Host::Client => "client".to_owned(),
            Host::Switch => "switch".to_owned(),
        };
        format!("{}-{host}", self.tag)
    }

    fn file(&self, host: Host) -> anyhow::Result<File> {
        let path = Path::new(NAMES).join(self.name(host));
        File::open(&path).with_context(|| format!("cannot open {}", path.display()))
    }

    /// Runs lines of ip(8) on a host.
    fn ip(&self, host: Host, lines: &str) -> anyhow::Result<()> {
        ip(Some(&self.name(host)), lines)
    }

    /// Where a pair on these hosts runs.
    ///
    /// # Errors
    /// There is no iproute2.
    pub fn site(&self) -> anyhow::Result<Site> {
        let program = tools::find("ip").context("ip not found")?.display().to_string();
        let way = |host| vec![program.clone(), "netns".to_owned(), "exec".to_owned(), self.name(host)];
        let shelf = SocketAddr::new(shelf_address(), ISCSI_PORT);
        Ok(Site::Apart(Box::new(Hosts {
            to_shelf: way(Host::Shelf),
            to_nodes: NodeName::BOTH.map(|node| way(Host::Node(node))),
            interconnects: ["10.77.0.1", "10.77.0.2"]
                .map(|address| SocketAddr::new(parsed(address), INTERCONNECT_PORT)),
            forwards: Some(["10.77.0.1", "10.77.0.2"].map(|address| SocketAddr::new(parsed(address), FORWARD_PORT))),
            portals: NodeName::BOTH.map(|node| match self.way {
                Way::Led => SocketAddr::new(portal_address(node), ISCSI_PORT),
                Way::Switched => SocketAddr::new(switched::portal_address(node), ISCSI_PORT),
            }),
            more_portals: NodeName::BOTH.map(|node| match self.way {
                Way::Led => Vec::new(),
                Way::Switched => {
                    let sixth = switched::has_ipv6().then(|| switched::portal_address_v6(node));
                    sixth.map(|address| SocketAddr::new(address, ISCSI_PORT)).into_iter().collect()
                }
            }),
            portals_on: match self.way {
                Way::Led => None,
                Way::Switched => Some(switched::INTERFACE.to_owned()),
            },
            shelf_listens: shelf,
            shelf_from_nodes: [shelf; 2],
            shelf_from_here: shelf,
        })))
    }

    /// Moves the calling thread, and all threads and processes it starts from now on, to the clients' host.
    ///
    /// # Errors
    /// What the system said.
    pub fn enter_as_client(&self) -> anyhow::Result<()> {
        enter(&self.file(Host::Client)?)
    }

    /// Leaves the clients where they are led now, whoever listens, until [`Network::follow_again`].
    pub fn look_away(&self) {
        self.follower.iter().for_each(Follower::look_away);
    }

    /// Leads the clients to the newest listeners again; done when they are.
    pub fn follow_again(&self) {
        self.follower.iter().for_each(Follower::look_again);
    }

    /// How late clients were led to a new listener, at the most, since this was asked last: some milliseconds, and more where this
    /// process gets no processor time. A part of their pauses that is not the pair's.
    #[must_use]
    pub fn latest(&self) -> std::time::Duration {
        self.follower.as_ref().map(Follower::latest).unwrap_or_default()
    }

    /// Cuts a cable: nothing passes any more, in either direction, and nobody is told. The far end loses its carrier.
    ///
    /// # Errors
    /// What ip(8) said.
    pub fn cut(&self, cable: Cable) -> anyhow::Result<()> {
        let (host, end) = far_end(cable);
        self.ip(host, &format!("link set {end} down\n"))
    }

    /// What `sender` sends over the interconnect does not arrive any more; the other direction is sound.
    ///
    /// # Errors
    /// What ip(8) said.
    pub fn mute(&self, sender: NodeName) -> anyhow::Result<()> {
        let to = interconnect_address(sender.partner());
        self.ip(Host::Node(sender), &format!("neigh replace {to} lladdr {NOBODY} dev interconnect nud permanent\n"))
    }

    /// Mends every cable.
    ///
    /// # Errors
    /// What ip(8) said.
    pub fn mend(&self) -> anyhow::Result<()> {
        let [a, b] = NodeName::BOTH;
        let mut cables = vec![Cable::Interconnect, Cable::DiskPath(a), Cable::DiskPath(b)];
        if self.way == Way::Switched {
            cables.extend([Cable::ToSwitch(a), Cable::ToSwitch(b)]);
        }
        for cable in cables {
            let (host, end) = far_end(cable);
            self.ip(host, &format!("link set {end} up\n"))?;
        }
        for node in NodeName::BOTH {
            // Replaced first, so that there is something to delete; then the right one is asked for again.
            let to = format!("{} dev interconnect", interconnect_address(node.partner()));
            let lines = format!("neigh replace {to} lladdr {NOBODY} nud permanent\nneigh del {to}\n");
            self.ip(Host::Node(node), &lines)?;
        }
        Ok(())
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        self.follower = None;
        let [a, b] = NodeName::BOTH.map(Host::Node);
        for host in [a, b, Host::Shelf, Host::Client, Host::Switch] {
            remove(&self.name(host));
        }
    }
}

/// The line of ip(8) that connects two hosts.
fn cable(one: &str, end: &str, other: &str, other_end: &str) -> String {
    format!("link add name {end} netns {one} type veth peer name {other_end} netns {other}\n")
}

/// The end of a cable that is taken down, with its host: the other end, and its addresses and routes, stay as they are.
fn far_end(cable: Cable) -> (Host, &'static str) {
    match cable {
        Cable::Interconnect => (Host::Node(NodeName::B), "interconnect"),
        Cable::DiskPath(NodeName::A) => (Host::Shelf, "node-a"),
        Cable::DiskPath(NodeName::B) => (Host::Shelf, "node-b"),
        Cable::ToSwitch(NodeName::A) => (Host::Switch, "node-a"),
        Cable::ToSwitch(NodeName::B) => (Host::Switch, "node-b"),
    }
}

fn parsed(address: &str) -> IpAddr {
    // PANIC: the callers' addresses stand in this file.
    IpAddr::V4(address.parse::<Ipv4Addr>().expect("an address"))
}

fn shelf_address() -> IpAddr {
    parsed("10.77.9.1")
}

fn interconnect_address(node: NodeName) -> IpAddr {
    parsed(["10.77.0.1", "10.77.0.2"][node.index()])
}

fn portal_address(identity: NodeName) -> IpAddr {
    parsed(["10.77.10.1", "10.77.10.2"][identity.index()])
}

/// Where clients reach a node, whatever it listens for.
fn node_from_clients(node: NodeName) -> IpAddr {
    parsed(["10.77.4.2", "10.77.5.2"][node.index()])
}

/// Moves the calling thread to the host of an open namespace.
fn enter(namespace: &File) -> anyhow::Result<()> {
    move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).context("cannot enter a namespace")
}

/// Runs lines of ip(8), here or in a namespace.
fn ip(namespace: Option<&str>, lines: &str) -> anyhow::Result<()> {
    let mut command = tools::command("ip")?;
    if let Some(namespace) = namespace {
        command.args(["-netns", namespace]);
    }
    let mut running = command
        .args(["-batch", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot start ip")?;
    // Closed at the end of the statement, so that ip sees the end.
    running.stdin.take().context("ip has no input")?.write_all(lines.as_bytes())?;
    let output = running.wait_with_output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "ip: {}\nof these lines:\n{lines}", said.trim());
    Ok(())
}

/// Removes a namespace, and with it the cables that end there.
fn remove(name: &str) {
    let Some(program) = tools::find("ip") else { return };
    // It may not exist: what was half made is removed as well.
    let _ = Command::new(program).args(["netns", "delete", name]).stderr(Stdio::null()).status();
}

/// Removes what makers left behind that do not live any more; their processes ended with them.
fn remove_left_behind() {
    let names = std::fs::read_dir(NAMES).into_iter().flatten().flatten();
    for name in names.filter_map(|entry| entry.file_name().into_string().ok()) {
        let rest = name.strip_prefix(PREFIX).and_then(|rest| rest.strip_prefix('-'));
        if rest.and_then(|rest| rest.split('-').next()).is_some_and(|maker| !lives(maker)) {
            remove(&name);
        }
    }
}

/// Whether a process with this id runs; one that only waits to be waited for (proc(5): state `Z`) does not.
fn lives(process: &str) -> bool {
    let stat = std::fs::read_to_string(PathBuf::from("/proc").join(process).join("stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with('Z'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_lives_and_nobody_has_the_number_of_none() {
        assert!(lives(&std::process::id().to_string()));
        assert!(!lives("0"));
    }

    /// Without rights nothing can be made, and then nothing is left either.
    #[test]
    fn a_network_leaves_nothing_behind() {
        let Ok(network) = Network::make() else { return };
        let name = network.name(Host::Shelf);
        assert!(Path::new(NAMES).join(&name).exists());
        drop(network);
        assert!(!Path::new(NAMES).join(&name).exists());
    }
}
