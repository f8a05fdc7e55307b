//! The list of clients that a node writes into its partner's memory, with its checksum made right.
//!
//! Properties: a list is read whole or not at all; what is read can be written and reads the same; it is never longer than its place;
//! no list of the other node passes.

use understudy::driver::clientele::{Clientele, MOST, SLOT_BYTES};
use understudy_address::Connection;
use understudy_failover::words::{Incarnation, NodeId};

use crate::choices::{Choices, Script};

/// Lays the fuzzer's bytes, pairs of a place and a run of bytes, over a sound list.
pub fn run(bytes: &[u8]) {
    let mut choices = Choices::new(bytes);
    let mut slot = sample(3).encode();
    slot.resize(SLOT_BYTES, 0);
    let seal = choices.byte() & 7 != 7;
    while !choices.is_over() {
        let at = usize::from(choices.u16()) % SLOT_BYTES;
        let run = choices.chunk();
        let run = &run[..run.len().min(SLOT_BYTES - at)];
        slot[at..at + run.len()].copy_from_slice(run);
    }
    if seal {
        Clientele::seal(&mut slot);
    }
    assert_eq!(Clientele::decode(&slot, NodeId::B).filter(|_| slot[10] == NodeId::A.code()), None);
    let Some(read) = Clientele::decode(&slot, NodeId::A) else { return };
    assert!(read.connections.len() <= MOST);
    let written = read.encode();
    assert!(written.len() <= SLOT_BYTES && read.offset() < 2 * SLOT_BYTES as u64);
    assert_eq!(Clientele::decode(&written, NodeId::A), Some(read));
}

fn sample(connections: u16) -> Clientele {
    let portal = ([10, 0, 0, 11], 3260).into();
    let connection = |number: u16| Connection { portal, client: ([10, 0, 0, 99], 40_000 + number).into() };
    let connections = (0..connections).map(connection).collect();
    Clientele { node: NodeId::A, incarnation: Incarnation(7), sequence: 5, connections }
}

/// One connection more, one less, another node, and no checksum.
#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    let at = |offset: u16, bytes: &[u8]| Script::new().bytes(&offset.to_le_bytes()).chunk(bytes).done();
    let whole = |seal: u8, parts: &[Vec<u8>]| [&[seal][..], &parts.concat()].concat();
    vec![
        whole(0, &[at(12, &[4])]),
        whole(0, &[at(12, &[1])]),
        whole(0, &[at(10, &[NodeId::B.code()])]),
        whole(7, &[at(40, &[1, 2, 3])]),
    ]
}
