//! The clients' route to a portal, changed in the kernel's own words (rtnetlink(7)).
//!
//! Not through ip(8) like everything else that is made here: this one happens while clients wait, and a busy machine takes longer
//! to start a program than a pair takes to hand a pool over.

use std::net::IpAddr;
use std::os::fd::OwnedFd;

use anyhow::{Context, ensure};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketType};
use understudy::config::NodeName;

use super::{node_from_clients, portal_address};

/// Of linux/netlink.h and linux/rtnetlink.h.
mod wire {
    pub(super) const HEADER_BYTES: usize = 16;
    pub(super) const NEW_ROUTE: u16 = 24;
    /// `NLM_F_REQUEST | NLM_F_ACK | NLM_F_REPLACE | NLM_F_CREATE`.
    pub(super) const REPLACE_OR_CREATE: u16 = 0x1 | 0x4 | 0x100 | 0x400;
    /// Also the answer that nothing went wrong, with the number 0.
    pub(super) const ERROR: u16 = 2;
    pub(super) const AF_INET: u8 = 2;
    pub(super) const ONE_ADDRESS: u8 = 32;
    pub(super) const MAIN_TABLE: u8 = 254;
    pub(super) const BY_BOOT: u8 = 3;
    pub(super) const EVERYWHERE: u8 = 0;
    pub(super) const UNICAST: u8 = 1;
    pub(super) const DESTINATION: u16 = 1;
    pub(super) const GATEWAY: u16 = 5;
}

/// The routes of the host it was opened on.
#[derive(Debug)]
pub(super) struct Routes(OwnedFd);

impl Routes {
    /// Of the host the calling thread is on.
    ///
    /// # Errors
    /// What the system said.
    pub(super) fn open() -> anyhow::Result<Self> {
        // No protocol named is number 0, NETLINK_ROUTE.
        let socket = rustix::net::socket(AddressFamily::NETLINK, SocketType::DGRAM, None);
        Ok(Self(socket.context("no rtnetlink")?))
    }

    /// Leads the clients of a portal to a node.
    ///
    /// # Errors
    /// What the system said.
    pub(super) fn lead(&self, identity: NodeName, to: NodeName) -> anyhow::Result<()> {
        let (portal, node) = (portal_address(identity), node_from_clients(to));
        rustix::net::send(&self.0, &request(portal, node), SendFlags::empty()).context("cannot ask for a route")?;
        let mut bytes = [0; 4096];
        let (length, _) = rustix::net::recv(&self.0, &mut bytes[..], RecvFlags::empty()).context("no answer")?;
        let outcome = outcome(&bytes[..length]).context("an answer nobody asked for")?;
        ensure!(outcome == 0, "no route to {portal} over {node}: {}", std::io::Error::from_raw_os_error(-outcome));
        Ok(())
    }
}

/// To `destination` over `gateway`.
fn request(destination: IpAddr, gateway: IpAddr) -> Vec<u8> {
    let mut body = vec![wire::AF_INET, wire::ONE_ADDRESS, 0, 0];
    body.extend([wire::MAIN_TABLE, wire::BY_BOOT, wire::EVERYWHERE, wire::UNICAST]);
    body.extend([0; 4]);
    for (kind, address) in [(wire::DESTINATION, destination), (wire::GATEWAY, gateway)] {
        // PANIC: the hosts' addresses are of this family.
        let IpAddr::V4(address) = address else { panic!("{address} is no IPv4 address") };
        body.extend(8u16.to_ne_bytes());
        body.extend(kind.to_ne_bytes());
        body.extend(address.octets());
    }
    let mut bytes = ((wire::HEADER_BYTES + body.len()) as u32).to_ne_bytes().to_vec();
    bytes.extend(wire::NEW_ROUTE.to_ne_bytes());
    bytes.extend(wire::REPLACE_OR_CREATE.to_ne_bytes());
    bytes.extend([0; 8]);
    bytes.extend(body);
    bytes
}

/// The number an answer says it went wrong with, negative, or 0.
fn outcome(bytes: &[u8]) -> Option<i32> {
    let (header, body) = bytes.split_first_chunk::<{ wire::HEADER_BYTES }>()?;
    let is_outcome = u16::from_ne_bytes([header[4], header[5]]) == wire::ERROR;
    body.first_chunk().copied().map(i32::from_ne_bytes).filter(|_| is_outcome)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_went_wrong_is_read_from_the_answer_and_from_no_other() {
        let answer = |kind: u16, number: i32| {
            let mut bytes = vec![0; wire::HEADER_BYTES];
            bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
            bytes.extend(number.to_ne_bytes());
            bytes
        };
        assert_eq!(outcome(&answer(wire::ERROR, 0)), Some(0));
        assert_eq!(outcome(&answer(wire::ERROR, -101)), Some(-101));
        assert_eq!(outcome(&answer(wire::NEW_ROUTE, 0)), None);
        assert_eq!(outcome(&answer(wire::ERROR, 0)[..18]), None);
    }
}
