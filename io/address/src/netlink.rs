//! Addresses on interfaces, in the kernel's own words (rtnetlink(7)).
//!
//! Three requests, each answered before the next is sent: the kernel carries a request out while it is being sent, so nothing here
//! waits for anything but the kernel's own lock.

use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

use crate::{AddressError, HardwareAddress, ManagedAddress};

/// Of linux/netlink.h, linux/rtnetlink.h, linux/if_addr.h and linux/if_link.h.
mod wire {
    pub(super) const HEADER_BYTES: usize = 16;
    pub(super) const GET_LINK: u16 = 18;
    pub(super) const NEW_ADDRESS: u16 = 20;
    pub(super) const DELETE_ADDRESS: u16 = 21;
    pub(super) const ERROR: u16 = 2;
    pub(super) const REQUEST: u16 = 0x1;
    pub(super) const REQUEST_AND_ACKNOWLEDGE: u16 = 0x1 | 0x4;
    /// The two above with `NLM_F_REPLACE | NLM_F_CREATE`.
    pub(super) const REPLACE_OR_CREATE: u16 = 0x1 | 0x4 | 0x100 | 0x400;
    pub(super) const LINK_BYTES: usize = 16;
    pub(super) const LINK_NAME: u16 = 3;
    pub(super) const LINK_ADDRESS: u16 = 1;
    pub(super) const ADDRESS: u16 = 1;
    pub(super) const LOCAL: u16 = 2;
    pub(super) const CACHE: u16 = 6;
    /// `IFA_F_NODAD`: an IPv6 address can be used at once.
    pub(super) const NO_CHECK: u8 = 0x02;
    pub(super) const EVERYWHERE: u8 = 0;
    /// `ARPHRD_ETHER`.
    pub(super) const ETHERNET: u16 = 1;
}

/// An interface as the kernel has it now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Interface {
    pub(crate) index: i32,
    /// None if it is no Ethernet.
    pub(crate) hardware: Option<HardwareAddress>,
}

/// Whether an address was there to be removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Removed {
    It,
    NothingThere,
}

/// A connection to the kernel.
pub(crate) struct Rtnetlink(OwnedFd);

impl Rtnetlink {
    pub(crate) fn open() -> Result<Self, AddressError> {
        // No protocol named is number 0, NETLINK_ROUTE.
        let flags = SocketFlags::CLOEXEC;
        let socket = rustix::net::socket_with(AddressFamily::NETLINK, SocketType::DGRAM, flags, None);
        Ok(Self(socket.map_err(|error| AddressError::system("open rtnetlink", error))?))
    }

    pub(crate) fn interface(&self, name: &str) -> Result<Interface, AddressError> {
        let mut body = vec![0; wire::LINK_BYTES];
        let mut text = name.as_bytes().to_vec();
        text.push(0);
        attribute(&mut body, wire::LINK_NAME, &text);
        match self.ask(wire::GET_LINK, wire::REQUEST, &body) {
            Ok(answer) => interface(&answer).ok_or_else(|| AddressError::NoInterface(name.to_owned())),
            Err(error) => match error.raw_os_error() {
                // A name that is too long is one that no interface has.
                Some(libc::ENODEV | libc::ERANGE | libc::EINVAL) => Err(AddressError::NoInterface(name.to_owned())),
                _ => Err(AddressError::system("look at an interface", error)),
            },
        }
    }

    /// Puts an address on an interface for `lifetime`, or gives one that is there that much longer.
    pub(crate) fn add(&self, index: i32, what: &ManagedAddress, lifetime: Duration) -> Result<(), AddressError> {
        let mut body = message(index, what);
        attribute(&mut body, wire::LOCAL, &octets(what.address));
        attribute(&mut body, wire::ADDRESS, &octets(what.address));
        let seconds = u32::try_from(lifetime.as_secs()).unwrap_or(u32::MAX).to_ne_bytes();
        // Preferred, valid, and two times that the kernel fills in.
        attribute(&mut body, wire::CACHE, &[seconds, seconds, [0; 4], [0; 4]].concat());
        let answer = self.ask(wire::NEW_ADDRESS, wire::REPLACE_OR_CREATE, &body);
        answer.map(drop).map_err(|error| AddressError::system("put an address on an interface", error))
    }

    pub(crate) fn remove(&self, index: i32, what: &ManagedAddress) -> Result<Removed, AddressError> {
        let mut body = message(index, what);
        // Without the address of the other end an IPv4 address is found whatever prefix it was given with.
        attribute(&mut body, wire::LOCAL, &octets(what.address));
        match self.ask(wire::DELETE_ADDRESS, wire::REQUEST_AND_ACKNOWLEDGE, &body) {
            Ok(_) => Ok(Removed::It),
            Err(error) if error.raw_os_error() == Some(libc::EADDRNOTAVAIL) => Ok(Removed::NothingThere),
            Err(error) => Err(AddressError::system("take an address off an interface", error)),
        }
    }

    /// Sends one request and gives the body of its answer, empty if it says no more than that all is well.
    fn ask(&self, kind: u16, flags: u16, body: &[u8]) -> io::Result<Vec<u8>> {
        rustix::net::send(&self.0, &request(kind, flags, body), SendFlags::empty())?;
        let mut bytes = [0; 8192];
        let (length, _) = rustix::net::recv(&self.0, &mut bytes[..], RecvFlags::empty())?;
        answer(&bytes[..length])
    }
}

fn request(kind: u16, flags: u16, body: &[u8]) -> Vec<u8> {
    let length = (wire::HEADER_BYTES + body.len()) as u32;
    let mut bytes = length.to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    // One request at a time needs no number; the sender's is the kernel's business.
    bytes.extend([0; 8]);
    bytes.extend(body);
    bytes
}

/// `struct ifaddrmsg`.
fn message(index: i32, what: &ManagedAddress) -> Vec<u8> {
    let (family, flags) = match what.address {
        IpAddr::V4(_) => (libc::AF_INET as u8, 0),
        IpAddr::V6(_) => (libc::AF_INET6 as u8, wire::NO_CHECK),
    };
    let mut body = vec![family, what.prefix, flags, wire::EVERYWHERE];
    body.extend(index.to_ne_bytes());
    body
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

fn attribute(body: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let length = (4 + value.len()) as u16;
    body.extend(length.to_ne_bytes());
    body.extend(kind.to_ne_bytes());
    body.extend(value);
    body.resize(body.len().next_multiple_of(4), 0);
}

/// The body of an answer, or what went wrong.
fn answer(bytes: &[u8]) -> io::Result<Vec<u8>> {
    let broken = || io::Error::new(io::ErrorKind::InvalidData, "the kernel's answer is cut short");
    let (header, body) = bytes.split_first_chunk::<{ wire::HEADER_BYTES }>().ok_or_else(broken)?;
    if u16::from_ne_bytes([header[4], header[5]]) != wire::ERROR {
        return Ok(body.to_vec());
    }
    match i32::from_ne_bytes(*body.first_chunk().ok_or_else(broken)?) {
        0 => Ok(Vec::new()),
        error => Err(io::Error::from_raw_os_error(error.saturating_neg())),
    }
}

/// Index and hardware address, from the body of a `RTM_NEWLINK`.
fn interface(body: &[u8]) -> Option<Interface> {
    let (fixed, mut rest) = body.split_first_chunk::<{ wire::LINK_BYTES }>()?;
    let kind = u16::from_ne_bytes([fixed[2], fixed[3]]);
    let index = i32::from_ne_bytes(*fixed[4..].first_chunk()?);
    let mut hardware = None;
    // BOUND: each round takes at least an attribute's header.
    while let Some(header) = rest.first_chunk::<4>() {
        let length = usize::from(u16::from_ne_bytes([header[0], header[1]]));
        let Some(value) = rest.get(4..length) else { break };
        if u16::from_ne_bytes([header[2], header[3]]) == wire::LINK_ADDRESS && kind == wire::ETHERNET {
            hardware = value.try_into().ok().map(HardwareAddress);
        }
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Some(Interface { index, hardware })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_a_body_or_a_number() {
        let mut bytes = request(wire::ERROR, 0, &(-libc::EPERM).to_ne_bytes());
        assert_eq!(answer(&bytes).unwrap_err().raw_os_error(), Some(libc::EPERM));
        bytes[16..20].fill(0);
        assert!(answer(&bytes).unwrap().is_empty());
        assert_eq!(answer(&request(wire::NEW_ADDRESS, 0, &[7])).unwrap(), [7]);
        assert!(answer(&bytes[..12]).is_err() && answer(&bytes[..18]).is_err());
    }

    #[test]
    fn the_loopback_interface_is_found_and_has_no_hardware_address() {
        let found = Rtnetlink::open().unwrap().interface("lo").unwrap();
        assert!(found.index > 0);
        assert_eq!(found.hardware, None);
    }

    #[test]
    fn an_interface_that_is_not_there_is_named_with_what_to_do() {
        for name in ["no-such", "a-name-that-is-longer-than-any-interface-has"] {
            let said = Rtnetlink::open().unwrap().interface(name).unwrap_err().to_string();
            assert!(said.contains(name) && said.contains("ip link"), "{said}");
        }
    }

    #[test]
    fn attributes_of_a_link_are_read_up_to_one_that_is_cut_short() {
        let mut body = vec![0; wire::LINK_BYTES];
        body[2..4].copy_from_slice(&wire::ETHERNET.to_ne_bytes());
        body[4..8].copy_from_slice(&9i32.to_ne_bytes());
        attribute(&mut body, wire::LINK_NAME, b"eth0\0");
        attribute(&mut body, wire::LINK_ADDRESS, &[2, 0, 0, 0, 0, 1]);
        let expected = Interface { index: 9, hardware: Some(HardwareAddress([2, 0, 0, 0, 0, 1])) };
        assert_eq!(interface(&body), Some(expected));
        body.extend([40, 0, 1, 0]);
        assert_eq!(interface(&body), Some(expected));
        assert_eq!(interface(&body[..12]), None);
    }
}
