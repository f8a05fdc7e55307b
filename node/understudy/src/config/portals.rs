//! `portals` of a node: where its volumes are served, and which of these addresses the nodes move themselves.
//!
//! `"ADDRESS:PORT"` is listened on where it is. `{ address = "ADDRESS:PORT", interface = "eth1" }` is put on that interface by
//! whichever node serves there, and taken off again.

use std::net::{IpAddr, SocketAddr};
use std::ops::Range;

use understudy_address::ManagedAddress;

use super::build::{Distinct, address};
use super::read::{At, Listed, Mistakes, Table};
use super::{NodeName, NodeSettings};

/// Longest name of an interface: `IFNAMSIZ` of linux/if.h with the closing zero.
const INTERFACE_BYTES: usize = 15;

/// An address of portals that the nodes put on interfaces themselves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortalAddress {
    /// The address.
    pub address: IpAddr,
    /// Length of the prefix it is given with.
    pub prefix: u8,
    /// The interface it is put on, on each node's machine, in the order of [`NodeName::index`].
    pub interfaces: [String; 2],
}

impl NodeSettings {
    /// The addresses of this node's portals that are managed, as they are on the machine of `host`.
    #[must_use]
    pub fn managed_on(&self, host: NodeName) -> Vec<ManagedAddress> {
        let on = |one: &PortalAddress| ManagedAddress {
            address: one.address,
            prefix: one.prefix,
            interface: one.interfaces[host.index()].clone(),
        };
        self.managed.iter().map(on).collect()
    }
}

/// The portals of one node.
#[derive(Default)]
pub(super) struct Portals {
    pub addresses: Vec<SocketAddr>,
    pub managed: Vec<PortalAddress>,
}

const EXPECTED: &str = "a list of addresses with port, as in [\"10.0.0.1:3260\"]";
const INTERFACE_EXPECTED: &str = "the name of an interface, as in \"eth1\"";

pub(super) fn portals(table: &Table<'_>, owner: &str, claimed: &mut Distinct<'_>, mistakes: &Mistakes) -> Portals {
    let mut portals = Portals::default();
    for listed in table.texts_and_tables("portals", "a portal", EXPECTED) {
        match listed {
            Listed::Text(text) => {
                let Some(found) = claim(&text, owner, claimed, mistakes) else { continue };
                if let Some(before) = portals.managed.iter().find(|one| one.address == found.ip()) {
                    half_managed(before.address, &text.span, mistakes);
                }
                portals.addresses.push(found);
            }
            Listed::Table(inner) => managed(&inner, &mut portals, owner, claimed, mistakes),
        }
    }
    portals
}

fn claim(text: &At<&str>, owner: &str, claimed: &mut Distinct<'_>, mistakes: &Mistakes) -> Option<SocketAddr> {
    let found = address(text, mistakes)?;
    claimed.claim(found.to_string(), &text.span, owner, "the address");
    Some(found)
}

fn managed(table: &Table<'_>, portals: &mut Portals, owner: &str, claimed: &mut Distinct<'_>, mistakes: &Mistakes) {
    let text = table.text("address", "an address and port, as in \"10.0.0.1:3260\"");
    let interfaces = table.text_for_each_node("interface", INTERFACE_EXPECTED);
    let found = text.as_ref().and_then(|text| claim(text, owner, claimed, mistakes));
    let longest = if found.is_some_and(|found| found.is_ipv6()) { 128 } else { 32 };
    let prefix = table.number("prefix", longest, "the bits of a prefix, a whole number", 1..=longest);
    table.finish();
    let (Some(text), Some(found), Some(interfaces)) = (text, found, interfaces) else { return };
    portals.addresses.push(found);
    if found.ip().is_loopback() {
        let advice =
            "leave `interface` out: every machine has the loopback addresses already, and nobody else reaches them";
        mistakes.advise(&text.span, "a loopback address can not be managed", "no other machine can have it", advice);
    }
    let usable = interfaces.iter().filter(|name| !is_interface(name.value)).collect::<Vec<_>>();
    if let Some(name) = usable.first() {
        let label = format!("expected {INTERFACE_EXPECTED}, of at most {INTERFACE_BYTES} characters");
        mistakes.note(&name.span, "no interface can have this name", label);
    }
    let one = PortalAddress {
        address: found.ip(),
        prefix: prefix as u8,
        interfaces: interfaces.map(|name| name.value.to_owned()),
    };
    match portals.managed.iter().find(|before| before.address == one.address) {
        Some(before) if *before == one => {}
        Some(before) => {
            let label = format!("an earlier portal has {} on {}", before.address, before.interfaces.join(" and "));
            let advice = "an address is on one interface, with one prefix, whatever the port";
            mistakes.advise(&text.span, "this address is managed in two ways", label, advice);
        }
        None => {
            let others = portals.addresses.iter().filter(|other| other.ip() == one.address).count();
            if others > 1 {
                half_managed(one.address, &text.span, mistakes);
            }
            portals.managed.push(one);
        }
    }
}

/// One portal would lose its address with the other.
fn half_managed(address: IpAddr, span: &Range<usize>, mistakes: &Mistakes) {
    let advice = "give every portal at this address the same `interface`, or none";
    mistakes.advise(span, format!("{address} is managed for one port only"), "the address moves as a whole", advice);
}

fn is_interface(name: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_graphic() && byte != b'/' && byte != b':';
    (1..=INTERFACE_BYTES).contains(&name.len()) && name.bytes().all(fits) && name != "." && name != ".."
}

/// An address that moves may be nobody's but its portals': with it would go the other node's, or the interconnect.
pub(super) fn check_managed(nodes: &[NodeSettings; 2], span: &Range<usize>, mistakes: &Mistakes) {
    for node in nodes {
        let others = &nodes[node.name.partner().index()];
        let interconnects = nodes.iter().map(|node| (node.interconnect.ip(), "the interconnect"));
        let forwards = nodes.iter().filter_map(|node| Some((node.forward?.ip(), "forwarded commands")));
        let fixed = interconnects.chain(forwards);
        let theirs = others.portals.iter().map(|portal| (portal.ip(), "a portal of the other node"));
        let taken: Vec<_> = fixed.chain(theirs).collect();
        for one in &node.managed {
            if let Some((address, whose)) = taken.iter().find(|(address, _)| *address == one.address) {
                let message = format!("{address} is managed for [node.{}] and used for {whose}", node.name);
                let advice = "a managed address moves with its node's volumes: give it an address of its own";
                mistakes.advise(span, message, "in this table", advice);
            }
        }
    }
}

/// Commands are forwarded both ways or not at all.
pub(super) fn check_forwarding(nodes: &[NodeSettings; 2], span: &Range<usize>, mistakes: &Mistakes) {
    let [a, b] = nodes;
    if a.forward.is_some() != b.forward.is_some() {
        mistakes.advise(
            span,
            "only one of the nodes has a `forward` address",
            "expected in both of [node.a] and [node.b], or in none",
            "each node carries out what the other one forwards, so that every volume is visible through both",
        );
    }
}
