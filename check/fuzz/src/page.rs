//! The partner's state page, with its checksum made right.
//!
//! Properties: a page is decoded or refused with a reason; what is decoded can be published and decodes to the same; the
//! state a reader acts on is a state that exists; no page of another pair or node passes; a torn page never does.

use understudy_failover::input::Health;
use understudy_failover::page::{
    Acknowledgement, Announcement, LAYOUT_VERSION, LiveWords, PAGE_BYTES, Page, PageContent, PageError, PagePool,
    PoolState, Stage, StateWord, Want, WantAnswer, WantHow,
};
use understudy_failover::words::{Generation, Incarnation, MetadataVersion, NodeId, PairId, PoolId};

use crate::choices::{Choices, Script};

const PAIR: PairId = PairId(0x1234);

/// Writes a page by offsets: the fuzzer's bytes are pairs of a place and a run of bytes, laid over a sound page.
pub fn run(bytes: &[u8]) {
    let mut choices = Choices::new(bytes);
    let mut page = *sample().encode();
    let seal = choices.byte() & 7 != 7;
    while !choices.is_over() {
        let at = usize::from(choices.u16()) % PAGE_BYTES;
        let run = choices.chunk();
        let run = &run[..run.len().min(PAGE_BYTES - at)];
        page[at..at + run.len()].copy_from_slice(run);
    }
    if seal {
        let crc = crc_fast::crc32_iscsi(&page[..PAGE_BYTES - 4]).to_le_bytes();
        page[PAGE_BYTES - 4..].copy_from_slice(&crc);
    }
    match Page::decode(&page, PAIR, NodeId::B) {
        Ok(read) => judge(&page, &read),
        Err(error) => {
            assert!(!error.to_string().is_empty());
            assert!(error != PageError::Torn || !seal || page[24] & 1 == 1, "a sealed page is not torn");
        }
    }
}

fn judge(bytes: &[u8; PAGE_BYTES], read: &Page) {
    assert_eq!((read.pair, read.node), (PAIR, NodeId::B));
    assert_ne!(read.incarnation, Incarnation::NONE);
    assert!(read.content.generation <= Generation::LAST);
    assert!(read.content.pools.iter().all(|pool| pool.generation <= Generation::LAST));
    let again = read.encode();
    assert_eq!(Page::decode(&again, PAIR, NodeId::B).as_ref(), Ok(read));
    // State word and sequence stand at their fixed places.
    assert_eq!((&again[64..68], &again[24..32]), (&bytes[64..68], &bytes[24..32]));
    assert!(Page::decode(&again, PAIR, NodeId::A).is_err());
    assert!(Page::decode(&again, PairId(PAIR.0 ^ 1), NodeId::B).is_err());
}

fn sample() -> Page {
    let pool = |id: u32| PagePool {
        id: PoolId(id),
        owner: Some(NodeId::A),
        state: PoolState::Serving,
        wanted: true,
        generation: Generation(7),
        metadata_version: MetadataVersion(9),
    };
    Page {
        pair: PAIR,
        node: NodeId::B,
        incarnation: Incarnation(77),
        sequence: 4,
        layout_version: LAYOUT_VERSION,
        content: PageContent {
            state: StateWord::GiveWait,
            stage: Stage::WaitingForRelease,
            health: Health::Good,
            generation: Generation(7),
            acknowledgement: Some(Acknowledgement { incarnation: Incarnation(5), state: StateWord::Takeover }),
            portals_listening: [true, false],
            released_to: Some(Incarnation(5)),
            inventory: Some(3),
            vetoes: 1,
            announcement: Some(Announcement { generation: Generation(7), to: Incarnation(5) }),
            want: Some(Want { number: 1, how: WantHow::VetoesCount }),
            want_answer: WantAnswer::Refused(1),
            may_split: false,
            pools: vec![pool(1), pool(2)],
        },
        live: LiveWords { progress: 1, heartbeat: 2, last_completion: 3 },
    }
}

/// A changed state word, a changed pool, a page that is all another.
#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    let at = |offset: u16, bytes: &[u8]| Script::new().bytes(&offset.to_le_bytes()).chunk(bytes).done();
    let whole = |parts: &[Vec<u8>]| [&[0][..], &parts.concat()].concat();
    vec![
        whole(&[at(64, &4u32.to_le_bytes())]),
        whole(&[at(160, &[60, 0, 0, 0]), at(256, &[9; 64])]),
        whole(&[at(0, &sample().encode()[..300])]),
        whole(&[at(24, &[5])]),
    ]
}
