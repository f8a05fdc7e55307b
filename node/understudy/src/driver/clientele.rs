//! The clients of a node, as the partner is told of them: who would have to be told that their connections are no more.
//!
//! A node writes the list into the partner's memory, beside its page, again whenever it changed. It is a help and no more: nothing
//! waits for it, a list that is old, torn or missing costs some clients their own timeouts, and nobody's data depends on it.
//!
//! **Idea.** Two places, written in turns, each list with a number and a checksum. Whoever dies while writing one leaves the other
//! whole, so the reader needs to look only when it has to: after its partner died.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use understudy_address::Connection;
use understudy_fabric::LANDING_BYTES;
use understudy_failover::words::{Incarnation, NodeId};

/// Bytes of one of the two places.
pub const SLOT_BYTES: usize = LANDING_BYTES / 2;

/// Most connections that are told; of more, some clients find out by themselves.
pub const MOST: usize = (SLOT_BYTES - HEADER_BYTES) / ENTRY_BYTES;

/// A list that another release could not read has another number.
const VERSION: u16 = 1;

const MAGIC: [u8; 8] = *b"UNDCLNTS";
const HEADER_BYTES: usize = 36;
const COUNT_AT: usize = 12;
const CRC_AT: usize = 32;
const ENTRY_BYTES: usize = 36;
const ENDPOINT_BYTES: usize = ENTRY_BYTES / 2;

/// One list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Clientele {
    /// Whose clients.
    pub node: NodeId,
    /// Of which run of it.
    pub incarnation: Incarnation,
    /// Grows with every list, from run to run as well as the wall clock does; says into which place it goes.
    pub sequence: u64,
    /// At most [`MOST`].
    pub connections: Vec<Connection>,
}

impl Clientele {
    /// Where it goes.
    #[must_use]
    pub fn offset(&self) -> u64 {
        (self.sequence % 2) * SLOT_BYTES as u64
    }

    /// As it is written; connections beyond [`MOST`] are left out.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let told = &self.connections[..self.connections.len().min(MOST)];
        let mut bytes = MAGIC.to_vec();
        bytes.extend(VERSION.to_le_bytes());
        bytes.extend([self.node.code(), 0]);
        bytes.extend((told.len() as u32).to_le_bytes());
        bytes.extend(self.incarnation.0.to_le_bytes());
        bytes.extend(self.sequence.to_le_bytes());
        bytes.extend([0; 4]);
        for connection in told {
            put(&mut bytes, connection.portal);
            put(&mut bytes, connection.client);
        }
        Self::seal(&mut bytes);
        bytes
    }

    /// Makes the checksum right of a list that is whole; of anything else it changes nothing.
    pub fn seal(slot: &mut [u8]) {
        let Some(count) = slot.get(COUNT_AT..).and_then(<[u8]>::first_chunk) else { return };
        let length = (u32::from_le_bytes(*count) as usize).checked_mul(ENTRY_BYTES).map(|bytes| HEADER_BYTES + bytes);
        let Some(whole) = length.and_then(|length| slot.get_mut(..length)) else { return };
        let sum = checksum(whole);
        whole[CRC_AT..HEADER_BYTES].copy_from_slice(&sum.to_le_bytes());
    }

    /// The list of `node` in one place; `None` if there is none, or half of one.
    #[must_use]
    pub fn decode(slot: &[u8], node: NodeId) -> Option<Self> {
        let header = slot.first_chunk::<HEADER_BYTES>()?;
        let number = |at: usize| u64::from_le_bytes(*header[at..].first_chunk::<8>().unwrap_or(&[0; 8]));
        let count = u32::from_le_bytes(*header[COUNT_AT..].first_chunk()?) as usize;
        if header[..8] != MAGIC || header[8..10] != VERSION.to_le_bytes() || header[10] != node.code() || count > MOST {
            return None;
        }
        let whole = slot.get(..HEADER_BYTES + count * ENTRY_BYTES)?;
        if header[CRC_AT..] != checksum(whole).to_le_bytes() {
            return None;
        }
        let entries = whole[HEADER_BYTES..].chunks_exact(ENTRY_BYTES);
        let read =
            |entry: &[u8]| Some(Connection { portal: endpoint(entry)?, client: endpoint(&entry[ENDPOINT_BYTES..])? });
        let connections = entries.map(read).collect::<Option<_>>()?;
        Some(Self { node, incarnation: Incarnation(number(16)), sequence: number(24), connections })
    }

    /// The newest whole list of `node` in both places, which `copy` copies.
    #[must_use]
    pub fn newest(node: NodeId, copy: impl Fn(usize, &mut [u8]) -> bool) -> Option<Self> {
        let mut slot = vec![0; SLOT_BYTES];
        let read = |place: usize| copy(place * SLOT_BYTES, &mut slot).then(|| Self::decode(&slot, node)).flatten();
        let mut lists: Vec<_> = (0..2).filter_map(read).collect();
        lists.sort_by_key(|list| list.sequence);
        lists.pop()
    }
}

fn checksum(bytes: &[u8]) -> u32 {
    let mut digest = crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc32Iscsi);
    digest.update(&bytes[..CRC_AT]);
    digest.update(&bytes[HEADER_BYTES..]);
    digest.finalize() as u32
}

/// 16 bytes of address, an IPv4 address mapped into IPv6, and the port.
fn put(bytes: &mut Vec<u8>, endpoint: SocketAddr) {
    let address = match endpoint.ip() {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    };
    bytes.extend(address.octets());
    bytes.extend(endpoint.port().to_le_bytes());
}

fn endpoint(bytes: &[u8]) -> Option<SocketAddr> {
    let (address, port) = bytes.split_first_chunk::<16>()?;
    let address = IpAddr::V6(Ipv6Addr::from(*address)).to_canonical();
    Some(SocketAddr::new(address, u16::from_le_bytes(*port.first_chunk()?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connection(number: u16) -> Connection {
        Connection {
            portal: SocketAddr::new([10, 0, 0, 11].into(), 3260),
            client: SocketAddr::new(IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, number)), 40_000 + number),
        }
    }

    fn list(sequence: u64, connections: usize) -> Clientele {
        let connections = (0..connections).map(|number| connection(number as u16)).collect();
        Clientele { node: NodeId::A, incarnation: Incarnation(7), sequence, connections }
    }

    #[test]
    fn a_list_is_read_as_it_was_written_and_never_longer_than_its_place() {
        for count in [0, 1, MOST] {
            let list = list(3, count);
            let bytes = list.encode();
            assert!(bytes.len() <= SLOT_BYTES);
            assert_eq!(Clientele::decode(&bytes, NodeId::A), Some(list));
        }
        let cut = Clientele::decode(&list(3, MOST + 5).encode(), NodeId::A).unwrap();
        assert_eq!(cut.connections.len(), MOST);
    }

    #[test]
    fn half_a_list_a_changed_one_and_that_of_another_node_are_none() {
        let bytes = list(3, 2).encode();
        assert_eq!(Clientele::decode(&bytes, NodeId::B), None);
        assert_eq!(Clientele::decode(&[0; SLOT_BYTES], NodeId::A), None);
        for end in 0..bytes.len() {
            assert_eq!(Clientele::decode(&bytes[..end], NodeId::A), None, "{end} bytes");
        }
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            assert_eq!(Clientele::decode(&changed, NodeId::A), None, "byte {at}");
        }
    }

    #[test]
    fn of_two_places_the_newer_whole_one_counts() {
        let mut memory = vec![0; LANDING_BYTES];
        let write = |memory: &mut Vec<u8>, list: &Clientele| {
            let (at, bytes) = (list.offset() as usize, list.encode());
            memory[at..at + bytes.len()].copy_from_slice(&bytes);
        };
        let newest = |memory: &[u8]| {
            let copy = |at: usize, into: &mut [u8]| {
                into.copy_from_slice(&memory[at..at + into.len()]);
                true
            };
            Clientele::newest(NodeId::A, copy)
        };
        assert_eq!(newest(&memory), None);
        write(&mut memory, &list(4, 1));
        write(&mut memory, &list(5, 3));
        assert_eq!(newest(&memory), Some(list(5, 3)));
        let torn = list(5, 3).offset() as usize + HEADER_BYTES;
        memory[torn] ^= 1;
        assert_eq!(newest(&memory), Some(list(4, 1)));
        assert_eq!(Clientele::newest(NodeId::A, |_, _| false), None);
    }
}
