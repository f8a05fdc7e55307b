//! The clients' switch, and what can be seen there of addresses: which host has one, and where the clients believe it is.

use std::net::{IpAddr, Ipv6Addr};
use std::path::Path;
use std::process::Output;

use anyhow::{Context, ensure};
use understudy::config::NodeName;

use super::{Host, Network, cable, ip, parsed};
use crate::tools;

/// The nodes' interface to the switch.
pub(super) const INTERFACE: &str = "clients";

/// The clients' interface to it.
const LAN: &str = "lan";

/// Makes the switch and connects the nodes and the clients to it. Everybody has an address of his own; those of portals are the nodes'
/// business.
pub(super) fn connect(network: &Network) -> anyhow::Result<()> {
    let switch = network.name(Host::Switch);
    ip(None, &format!("netns add {switch}\n"))?;
    network.ip(Host::Switch, "link add name lan type bridge forward_delay 0\nlink set lan up\n")?;
    let ends = [
        (Host::Node(NodeName::A), INTERFACE, "node-a", "11"),
        (Host::Node(NodeName::B), INTERFACE, "node-b", "12"),
        (Host::Client, LAN, "client", "9"),
    ];
    for (host, end, port, number) in ends {
        ip(None, &cable(&network.name(host), end, &switch, port))?;
        network.ip(Host::Switch, &format!("link set {port} master lan\nlink set {port} up\n"))?;
        network.ip(host, &format!("addr add 10.77.20.{number}/24 dev {end}\nlink set {end} up\n"))?;
        if has_ipv6() {
            network.ip(host, &format!("addr add fd00:77::{number}/64 dev {end} nodad\n"))?;
        }
    }
    Ok(())
}

/// Whether the system knows IPv6 at all; where it does not, nobody expects it of the nodes.
pub(super) fn has_ipv6() -> bool {
    Path::new("/proc/sys/net/ipv6").exists()
}

/// Where the volumes of a node are found.
pub(super) fn portal_address(identity: NodeName) -> IpAddr {
    parsed(["10.77.20.1", "10.77.20.2"][identity.index()])
}

/// The same over IPv6.
pub(super) fn portal_address_v6(identity: NodeName) -> IpAddr {
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0x77, 0, 0, 0, 0, 0, identity.index() as u16 + 1))
}

impl Network {
    /// The nodes that have an address.
    ///
    /// # Errors
    /// What ip(8) said.
    pub fn have_address(&self, address: IpAddr) -> anyhow::Result<Vec<NodeName>> {
        let mut found = Vec::new();
        for node in NodeName::BOTH {
            let told = self.ask(Host::Node(node), &["-o", "addr", "show", "to", &address.to_string()])?;
            if !told.trim().is_empty() {
                found.push(node);
            }
        }
        Ok(found)
    }

    /// The node at which the clients believe an address to be; none if they have to ask.
    ///
    /// # Errors
    /// What ip(8) said.
    pub fn is_believed_at(&self, address: IpAddr) -> anyhow::Result<Option<NodeName>> {
        let told = self.ask(Host::Client, &["neigh", "show", &address.to_string(), "dev", LAN])?;
        let Some(believed) = word_behind(&told, "lladdr") else { return Ok(None) };
        for node in NodeName::BOTH {
            let link = self.ask(Host::Node(node), &["link", "show", INTERFACE])?;
            if word_behind(&link, "link/ether") == Some(believed) {
                return Ok(Some(node));
            }
        }
        Ok(None)
    }

    /// Lets the clients forget where everybody is, so that they ask anew.
    ///
    /// # Errors
    /// What ip(8) said.
    pub fn forget_neighbours(&self) -> anyhow::Result<()> {
        self.ask(Host::Client, &["neigh", "flush", "dev", LAN]).map(drop)
    }

    fn ask(&self, host: Host, arguments: &[&str]) -> anyhow::Result<String> {
        let mut command = tools::command("ip")?;
        let output: Output =
            command.args(["-netns", &self.name(host)]).args(arguments).output().context("cannot start ip")?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "ip {}: {}", arguments.join(" "), said.trim());
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

fn word_behind<'t>(text: &'t str, word: &str) -> Option<&'t str> {
    let mut words = text.split_whitespace().skip_while(|found| *found != word);
    words.nth(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hardware_address_stands_behind_its_word() {
        assert_eq!(word_behind("10.77.20.1 lladdr 02:00:00:00:00:0a REACHABLE", "lladdr"), Some("02:00:00:00:00:0a"));
        assert_eq!(word_behind("10.77.20.1 FAILED", "lladdr"), None);
        assert_eq!(word_behind("", "lladdr"), None);
    }
}
