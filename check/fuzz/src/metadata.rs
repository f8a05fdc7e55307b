//! Pool metadata, with both checksums made right.
//!
//! Properties: metadata that is accepted keeps its own invariants, so every block of every volume lies on its mirror and
//! no chunk belongs to two volumes; it encodes to an image that reads the same; the changes that a node makes to
//! it (a volume more, a volume less, another state) give metadata that is accepted as well.

use std::collections::BTreeSet;

use understudy_layout::allocate::{NewPool, NewVolume};
use understudy_layout::metadata::{Header, Metadata, Protection, Provisioning, STATE_MAX_BYTES, newest};
use understudy_layout::thin::unmapped;
use understudy_layout::{MetadataVersion, PAGE_BYTES, Uuid};

use crate::choices::{Choices, Script};

const SLOT_BYTES: u32 = 8 << 20;

/// Bytes of the header page before its zeroes.
const HEADER_BYTES: usize = 60;

/// Reads the bytes as header fields and body.
pub fn run(bytes: &[u8]) {
    let mut choices = Choices::new(bytes);
    let way = choices.byte();
    let mut header: [u8; HEADER_BYTES] = choices.exactly();
    let body = choices.clone().remainder();
    if way & 0x70 != 0x70 {
        header[12..16].copy_from_slice(&(body.len() as u32).to_le_bytes());
        header[56..60].copy_from_slice(&crc_fast::crc32_iscsi(body).to_le_bytes());
    }
    let mut image = header.to_vec();
    image.resize(PAGE_BYTES - 4, 0);
    image.extend_from_slice(&crc_fast::crc32_iscsi(&image).to_le_bytes());
    image.extend_from_slice(body);
    if let Ok(header) = Header::decode(&image) {
        assert!(header.image_bytes() >= PAGE_BYTES as u64);
    }
    match Metadata::decode(&image) {
        Ok(metadata) => judge(&metadata),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

fn judge(metadata: &Metadata) {
    assert_eq!(metadata.unsound(), None);
    let image = metadata.encode(SLOT_BYTES).expect("it came out of a smaller one");
    assert_eq!(Metadata::decode(&image).as_ref(), Ok(metadata));
    assert_eq!(newest([metadata.clone()], metadata.version).as_ref(), Ok(metadata));
    let mut owned = BTreeSet::new();
    for (uuid, volume) in &metadata.volumes {
        assert_eq!(*uuid, volume.uuid);
        let chunks: u64 = volume.runs.iter().map(|run| u64::from(run.chunks)).sum();
        match volume.provisioning {
            Provisioning::Thick => assert!(volume.bytes() <= chunks * u64::from(metadata.chunk_bytes)),
            Provisioning::Thin => assert!(chunks <= u64::from(volume.chunks(metadata.chunk_bytes))),
        }
        for run in &volume.runs {
            let mirror = &metadata.mirrors[usize::from(run.mirror)];
            assert!(u64::from(run.physical) + u64::from(run.chunks) <= u64::from(mirror.chunks));
            // The ends are enough: overlapping runs of equal length share one, others are caught by a later case.
            assert!(owned.insert((run.mirror, run.physical)) , "a chunk of two volumes");
        }
    }
    if metadata.version.0 < u64::MAX {
        changes(metadata);
    }
}

fn changes(metadata: &Metadata) {
    let new = |provisioning| NewVolume {
        uuid: Uuid([0xee; 16]),
        name: "another".into(),
        lun: 77,
        block_bytes: 4096,
        blocks: 300,
        provisioning,
    };
    let mut all = Vec::new();
    all.extend(metadata.with_volume(new(Provisioning::Thick)));
    all.extend(metadata.with_volume(new(Provisioning::Thin)));
    for (uuid, volume) in metadata.volumes.iter().filter(|(_, volume)| volume.provisioning == Provisioning::Thin) {
        let end = volume.chunks(metadata.chunk_bytes);
        let holes = unmapped(&volume.runs, end.saturating_sub(5)..end);
        if let Ok(chosen) = metadata.plan_chunks(*uuid, &holes, &mut metadata.free(&[])) {
            let more = metadata.with_chunks(*uuid, &chosen).expect("chosen from what is free");
            assert!(unmapped(&more.volumes[uuid].runs, end.saturating_sub(5)..end).is_empty());
            all.push(more);
        }
        all.push(metadata.without_chunks(*uuid, &[1..3, 2..end]).expect("it is thin"));
    }
    if let Some(uuid) = metadata.volumes.keys().next() {
        all.push(metadata.without_volume(*uuid).expect("it is there"));
        all.push(metadata.with_protection(*uuid, Protection::WriteProtected).expect("it is there"));
        all.push(metadata.with_state(*uuid, vec![7; 100]).expect("it is there and short"));
        assert!(metadata.with_state(*uuid, vec![0; STATE_MAX_BYTES + 1]).is_err());
    }
    for next in all {
        assert_eq!(next.version, MetadataVersion(metadata.version.0 + 1));
        let image = next.encode(SLOT_BYTES).expect("a little more");
        assert_eq!(Metadata::decode(&image), Ok(next));
    }
}

/// A pool without volumes, one with two, and one with a thin volume, too, that is write-protected.
#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    let disk = |number: u8| (Uuid([number; 16]), 64 << 20);
    let pool = NewPool {
        pool: Uuid([1; 16]),
        number: 1,
        pair: 1,
        home: 0,
        name: "fast".into(),
        chunk_bytes: 1 << 20,
        block_bytes: 512,
        mirrors: vec![vec![disk(2), disk(3)], vec![disk(4), disk(5)]],
    };
    let empty = pool.metadata().expect("a sound pool");
    let volume = |number: u8, blocks| NewVolume {
        uuid: Uuid([number; 16]),
        name: format!("v{number}"),
        lun: u16::from(number),
        block_bytes: 512,
        blocks,
        provisioning: Provisioning::Thick,
    };
    let one = empty.with_volume(volume(6, 2048 * 40)).expect("room");
    let two = one.with_volume(volume(7, 2048 * 50)).expect("room").with_state(Uuid([7; 16]), vec![1; 9]).expect("there");
    let seed = |metadata: &Metadata| {
        let image = metadata.encode(SLOT_BYTES).expect("it fits");
        let length = Header::decode(&image).expect("our own").body_bytes as usize;
        Script::new().bytes(&[0]).bytes(&image[..HEADER_BYTES]).bytes(&image[PAGE_BYTES..PAGE_BYTES + length]).done()
    };
    let thin = NewVolume { provisioning: Provisioning::Thin, ..volume(8, 2048 * 500) };
    let three = two.with_volume(thin).expect("takes no room");
    let chosen = three.plan_chunks(Uuid([8; 16]), &[0..4, 9..12], &mut three.free(&[])).expect("room");
    let three = three.with_chunks(Uuid([8; 16]), &chosen).expect("free");
    let three = three.with_protection(Uuid([8; 16]), Protection::WriteProtected).expect("there");
    vec![seed(&empty), seed(&two), seed(&three)]
}
