//! Bytes on the wire: announcements and probes of ARP, neighbour advertisements, and the segment that fits no connection.
//!
//! Pure functions; nothing is sent here.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::{Connection, HardwareAddress};

const EVERYBODY: [u8; 6] = [0xff; 6];

/// Ethernet type of ARP.
pub(crate) const ARP: u16 = 0x0806;

/// Ethernet type of IPv6.
pub(crate) const IPV6: u16 = 0x86dd;

/// Where the sender's IPv4 address lies in an Ethernet frame with ARP.
pub(crate) const ARP_SENDER_AT: usize = ARP_AT + 14;

/// Where ARP begins in an Ethernet frame.
const ARP_AT: usize = 14;

/// Bytes of an Ethernet frame with ARP, without padding.
const ARP_FRAME_BYTES: usize = ARP_AT + 28;

/// Hop limit that a neighbour advertisement must arrive with (RFC 4861 §7.1.2).
const UNROUTED: u8 = 255;

/// Time to live of a segment, the kernel's own default.
const HOPS: u8 = 64;

const TCP: u8 = 6;
const ICMPV6: u8 = 58;

/// Bytes of a TCP header without options.
const SEGMENT_BYTES: usize = 20;

/// "`address` is here": RFC 5227 §2.3, a request whose sender and target address are the same.
pub(crate) fn announcement(from: HardwareAddress, address: Ipv4Addr) -> Vec<u8> {
    arp_request(from, address, address)
}

/// "Has anybody `address`?": RFC 5227 §2.1.1, a request whose sender address is unknown, so that nobody learns anything from it.
pub(crate) fn probe(from: HardwareAddress, address: Ipv4Addr) -> Vec<u8> {
    arp_request(from, Ipv4Addr::UNSPECIFIED, address)
}

fn arp_request(from: HardwareAddress, sender: Ipv4Addr, target: Ipv4Addr) -> Vec<u8> {
    let mut frame = ethernet(EVERYBODY, from, ARP);
    // Ethernet, IPv4, the lengths of both addresses, a request.
    frame.extend([0, 1, 8, 0, 6, 4, 0, 1]);
    frame.extend(from.0);
    frame.extend(sender.octets());
    frame.extend([0; 6]);
    frame.extend(target.octets());
    frame
}

fn ethernet(to: [u8; 6], from: HardwareAddress, kind: u16) -> Vec<u8> {
    let mut frame = to.to_vec();
    frame.extend(from.0);
    frame.extend(kind.to_be_bytes());
    frame
}

/// What an ARP frame says of its sender's address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Heard {
    /// It has just been taken there.
    Announced,
    /// It is there.
    Used,
}

/// The sender's address, where it is, and whether that is news; `None` for what is no ARP of IPv4, and for probes.
pub(crate) fn hear(frame: &[u8]) -> Option<(Ipv4Addr, HardwareAddress, Heard)> {
    let arp = frame.get(ARP_AT..ARP_FRAME_BYTES)?;
    if frame[12..14] != ARP.to_be_bytes() || arp[..6] != [0, 1, 8, 0, 6, 4] {
        return None;
    }
    let by = HardwareAddress(*arp[8..].first_chunk()?);
    let sender = Ipv4Addr::from(*arp[14..].first_chunk::<4>()?);
    let target = Ipv4Addr::from(*arp[24..].first_chunk::<4>()?);
    if sender.is_unspecified() {
        return None;
    }
    Some((sender, by, if sender == target { Heard::Announced } else { Heard::Used }))
}

/// "`address` is here, whatever you knew": an unsolicited neighbour advertisement, RFC 4861 §7.2.6.
pub(crate) fn advertisement(from: HardwareAddress, address: Ipv6Addr) -> Vec<u8> {
    const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
    // Type, code, checksum, and the flag "override".
    let mut message = vec![136, 0, 0, 0, 0x20, 0, 0, 0];
    message.extend(address.octets());
    // The option with the target's link-layer address, one unit of 8 bytes.
    message.extend([2, 1]);
    message.extend(from.0);
    let sum = checksum(&[&pseudo(address.into(), ALL_NODES.into(), ICMPV6, message.len()), &message]);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    // RFC 2464 §7: the last four bytes of the group's address.
    let mut frame = ethernet([0x33, 0x33, 0, 0, 0, 1], from, IPV6);
    frame.extend(ipv6_header(address, ALL_NODES, ICMPV6, UNROUTED, message.len()));
    frame.extend(message);
    frame
}

/// A segment from the portal that fits no connection: an ACK of nothing with the number 0 (RFC 9293 §3.10.7.4: whoever gets a
/// segment outside its window answers with an ACK of its own). With its IP header.
///
/// `None` if the two ends are not of one family.
pub(crate) fn tickle(connection: &Connection) -> Option<Vec<u8>> {
    let (portal, client) = (connection.portal, connection.client);
    let mut segment = portal.port().to_be_bytes().to_vec();
    segment.extend(client.port().to_be_bytes());
    segment.extend([0; 8]);
    // Five words of header, the flag ACK, a window, no checksum yet, nothing urgent.
    segment.extend([5 << 4, 0x10, 0xff, 0xff, 0, 0, 0, 0]);
    let sum = checksum(&[&pseudo(portal.ip(), client.ip(), TCP, segment.len()), &segment]);
    segment[16..18].copy_from_slice(&sum.to_be_bytes());
    let mut packet = match (portal.ip(), client.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => ipv4_header(from, to, TCP, SEGMENT_BYTES),
        (IpAddr::V6(from), IpAddr::V6(to)) => ipv6_header(from, to, TCP, HOPS, SEGMENT_BYTES),
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => return None,
    };
    packet.extend(segment);
    Some(packet)
}

/// RFC 791 §3.1; the kernel fills in the identification, and the checksum again.
fn ipv4_header(from: Ipv4Addr, to: Ipv4Addr, protocol: u8, payload: usize) -> Vec<u8> {
    let mut header = vec![0x45, 0];
    header.extend((20 + payload as u16).to_be_bytes());
    header.extend([0, 0, 0x40, 0, HOPS, protocol, 0, 0]);
    header.extend(from.octets());
    header.extend(to.octets());
    let sum = checksum(&[&header]);
    header[10..12].copy_from_slice(&sum.to_be_bytes());
    header
}

/// RFC 8200 §3.
fn ipv6_header(from: Ipv6Addr, to: Ipv6Addr, next: u8, hops: u8, payload: usize) -> Vec<u8> {
    let mut header = vec![0x60, 0, 0, 0];
    header.extend((payload as u16).to_be_bytes());
    header.extend([next, hops]);
    header.extend(from.octets());
    header.extend(to.octets());
    header
}

/// What a checksum of the layer above covers of IP: RFC 9293 §3.1, RFC 8200 §8.1.
fn pseudo(from: IpAddr, to: IpAddr, protocol: u8, length: usize) -> Vec<u8> {
    let octets = |address: IpAddr| match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    };
    let mut bytes = octets(from);
    bytes.extend(octets(to));
    // As 32-bit numbers both forms sum up to the same as the shorter fields of IPv4.
    bytes.extend((length as u32).to_be_bytes());
    bytes.extend([0, 0, 0, protocol]);
    bytes
}

/// RFC 1071; every part but the last must have an even length.
fn checksum(parts: &[&[u8]]) -> u16 {
    let words = parts.iter().flat_map(|part| part.chunks(2));
    let mut sum: u32 = words.map(|pair| u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |low| u32::from(*low))).sum();
    // BOUND: each round moves the carry down.
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: HardwareAddress = HardwareAddress([2, 0, 0, 0, 0, 0x0a]);
    const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 11);

    /// RFC 5227 §2.3 and §2.1.1.
    #[test]
    fn an_announcement_names_the_address_twice_and_a_probe_names_no_sender() {
        let frame = announcement(HERE, ADDRESS);
        assert_eq!(frame.len(), ARP_FRAME_BYTES);
        assert_eq!(frame[..6], EVERYBODY);
        assert_eq!(frame[6..12], HERE.0);
        assert_eq!(frame[ARP_SENDER_AT..ARP_SENDER_AT + 4], ADDRESS.octets());
        assert_eq!(frame[38..42], ADDRESS.octets());
        let frame = probe(HERE, ADDRESS);
        assert_eq!(frame[ARP_SENDER_AT..ARP_SENDER_AT + 4], [0; 4]);
        assert_eq!(frame[38..42], ADDRESS.octets());
    }

    #[test]
    fn an_announcement_is_heard_a_probe_is_not_and_an_answer_says_who_has_it() {
        assert_eq!(hear(&announcement(HERE, ADDRESS)), Some((ADDRESS, HERE, Heard::Announced)));
        assert_eq!(hear(&probe(HERE, ADDRESS)), None);
        let mut answer = arp_request(HERE, ADDRESS, Ipv4Addr::UNSPECIFIED);
        answer[21] = 2;
        assert_eq!(hear(&answer), Some((ADDRESS, HERE, Heard::Used)));
        assert_eq!(hear(&answer[..30]), None);
        answer[13] = 0;
        assert_eq!(hear(&answer), None);
    }

    /// RFC 1071 §4.1: summed up with its checksum, anything gives zero.
    #[test]
    fn checksums_add_up() {
        let from: Ipv6Addr = "fd00::11".parse().unwrap();
        let frame = advertisement(HERE, from);
        let (header, message) = frame[14..].split_at(40);
        let to = IpAddr::V6(Ipv6Addr::from(*header[24..].first_chunk::<16>().unwrap()));
        assert_eq!(checksum(&[&pseudo(from.into(), to, ICMPV6, message.len()), message]), 0);
        assert_eq!(header[7], 255, "RFC 4861 §7.1.2");
        for (portal, client, header) in
            [("10.0.0.11:3260", "10.0.0.99:40000", 20), ("[fd00::11]:3260", "[fd00::99]:40000", 40)]
        {
            let connection = Connection { portal: portal.parse().unwrap(), client: client.parse().unwrap() };
            let packet = tickle(&connection).unwrap();
            let segment = &packet[header..];
            let pseudo = pseudo(connection.portal.ip(), connection.client.ip(), TCP, segment.len());
            assert_eq!(checksum(&[&pseudo, segment]), 0);
            assert_eq!(segment[13], 0x10, "RFC 9293 §3.1: ACK and nothing else");
            if header == 20 {
                assert_eq!(checksum(&[&packet[..20]]), 0);
            }
        }
        let mixed = Connection { portal: "10.0.0.1:1".parse().unwrap(), client: "[fd00::1]:1".parse().unwrap() };
        assert_eq!(tickle(&mixed), None);
    }

    proptest::proptest! {
        #[test]
        fn no_frame_makes_hearing_panic(frame in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..80)) {
            let _ = hear(&frame);
        }
    }
}
