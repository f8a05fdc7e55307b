//! Records and heartbeats of a lock disk, with their checksums made right.
//!
//! Properties: what is decoded encodes to a record that fits its slot and decodes to the same; entries ascend; nothing of
//! another pair or node passes; a record cut short never decodes.

use understudy_failover::effect::LegsAre;
use understudy_failover::record::{Heartbeat, PoolEntry, RECORD_SLOT_BYTES, Record, RecordError, Verdict};
use understudy_failover::words::{Generation, Incarnation, LegSet, MetadataVersion, NodeId, PairId, PoolId};

use crate::choices::{Choices, Script};

const PAIR: PairId = PairId(9);

/// Reads the bytes as a record, then as a heartbeat.
pub fn run(bytes: &[u8]) {
    let mut choices = Choices::new(bytes);
    let way = choices.byte();
    if way & 1 == 0 {
        record(choices.remainder(), way & 0x70 != 0x70);
    } else {
        heartbeat(choices.remainder(), way & 0x70 != 0x70);
    }
}

/// Length and checksum right; magic, version, pair and node too unless the fuzzer's first byte says otherwise.
fn sealed(bytes: &[u8]) -> Vec<u8> {
    let mut body = bytes.to_vec();
    body.resize(body.len().max(40), 0);
    let length = (body.len() + 4) as u32;
    body[32..36].copy_from_slice(&length.to_le_bytes());
    let crc = crc_fast::crc32_iscsi(&body).to_le_bytes();
    body.extend_from_slice(&crc);
    body
}

fn record(bytes: &[u8], seal: bool) {
    let bytes = if seal { sealed(bytes) } else { bytes.to_vec() };
    match Record::decode(&bytes, PAIR, NodeId::A) {
        Ok(read) => {
            assert_eq!((read.pair, read.node), (PAIR, NodeId::A));
            assert!(read.pools.windows(2).all(|pair| pair[0].pool < pair[1].pool));
            let again = read.encode();
            assert!(again.len() <= RECORD_SLOT_BYTES && again.len().is_multiple_of(4096));
            assert_eq!(Record::decode(&again, PAIR, NodeId::A).as_ref(), Ok(&read));
            assert_eq!(Record::decode(&again, PAIR, NodeId::B), Err(RecordError::Foreign));
            assert!(Record::decode(&bytes[..bytes.len() - 1], PAIR, NodeId::A).is_err() || !seal);
            assert_eq!(Record::slots_of([&again, &bytes], PAIR, NodeId::A)[0].as_ref(), Some(&read));
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

fn heartbeat(bytes: &[u8], seal: bool) {
    let mut bytes = bytes.to_vec();
    if seal {
        bytes.resize(bytes.len().max(36), 0);
        let crc = crc_fast::crc32_iscsi(&bytes[..32]).to_le_bytes();
        bytes[32..36].copy_from_slice(&crc);
    }
    if let Ok(read) = Heartbeat::decode(&bytes, PAIR, NodeId::A) {
        let again = read.encode(PAIR, NodeId::A);
        assert_eq!(Heartbeat::decode(&again, PAIR, NodeId::A), Ok(read));
        assert_eq!(Heartbeat::decode(&again, PAIR, NodeId::B), Err(RecordError::Foreign));
    }
}

/// A record of two pools and a heartbeat.
#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    let entry = |pool: u32| PoolEntry {
        pool: PoolId(pool),
        owner: NodeId::A,
        generation: Generation(7),
        metadata_version: MetadataVersion(1 << 33),
        verdict: Verdict::Commit,
        legs_are: LegsAre::Equal,
        legs: vec![LegSet(3); 2],
    };
    let pools = vec![entry(1), entry(2)];
    let record = Record { pair: PAIR, node: NodeId::A, incarnation: Incarnation(5), sequence: 6, pools }.encode();
    let beat = Heartbeat { incarnation: Incarnation(5), counter: 8 }.encode(PAIR, NodeId::A);
    vec![
        Script::new().bytes(&[0]).bytes(&record[..92]).done(),
        Script::new().bytes(&[0x70]).bytes(&record[..96]).done(),
        Script::new().bytes(&[1]).bytes(&beat[..36]).done(),
    ]
}
