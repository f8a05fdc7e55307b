//! Files nobody wrote: whatever the bytes, reading ends, with everything good before the first bad byte and without a panic.

mod kit;

use std::sync::OnceLock;

use kit::{Memory, facts_of, log};
use proptest::prelude::*;
use understudy_eventlog::frame::{self, Next};
use understudy_eventlog::read::{Entry, Segment};
use understudy_eventlog::segment::{HEADER_BYTES, Header};
use understudy_failover::words::{Incarnation, Micros, NodeId, PairId};

fn header() -> Vec<u8> {
    Header::new(PairId(7), NodeId::A, 1, Incarnation(1), 0).encode().to_vec()
}

/// Reads to the end; gives the entries.
fn read(bytes: &[u8]) -> Vec<Entry> {
    let Ok(segment) = Segment::open(bytes) else { return Vec::new() };
    segment.take_while(Result::is_ok).map(Result::unwrap).collect()
}

/// The frames of a segment of a real run, apart.
fn frames() -> Vec<(u8, Vec<u8>)> {
    static FRAMES: OnceLock<Vec<(u8, Vec<u8>)>> = OnceLock::new();
    FRAMES.get_or_init(make_frames).clone()
}

fn make_frames() -> Vec<(u8, Vec<u8>)> {
    let (config, told) = facts_of(2, Micros::from_millis(3_000), NodeId::A);
    let mut memory = Memory::default();
    log(&config, &told, 1 << 20, &mut memory);
    let bytes = &memory.segments[0].1;
    let mut rest = &bytes[HEADER_BYTES..];
    let mut frames = Vec::new();
    while let Next::Frame { kind, body, rest: after } = frame::next(rest) {
        frames.push((kind, body.to_vec()));
        rest = after;
    }
    frames
}

proptest! {
    #[test]
    fn any_bytes_are_read_to_an_end(bytes in prop::collection::vec(any::<u8>(), 0..2_000)) {
        read(&bytes);
    }

    #[test]
    fn any_bodies_behind_a_sound_crc_are_read_to_an_end(
        bodies in prop::collection::vec((0_u8..4, prop::collection::vec(any::<u8>(), 0..400)), 0..8),
    ) {
        let mut bytes = header();
        bodies.iter().for_each(|(kind, body)| bytes.extend(frame::frame(*kind, body)));
        read(&bytes);
    }

    #[test]
    fn real_bodies_with_changed_bytes_are_read_to_an_end(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let mut frames = frames();
        for (frame, at, to) in changes {
            let frame = frame.index(frames.len());
            let body = &mut frames[frame].1;
            if !body.is_empty() {
                let at = at.index(body.len());
                body[at] = to;
            }
        }
        let mut bytes = header();
        frames.iter().for_each(|(kind, body)| bytes.extend(frame::frame(*kind, body)));
        for entry in read(&bytes) {
            if let Entry::Start(start) = entry {
                drop(start.machine());
            }
        }
    }
}

#[test]
fn frames_that_may_be_left_out_are_and_others_end_the_reading() {
    let frames = frames();
    let with = |extra: u8| {
        let mut bytes = header();
        for (kind, body) in &frames {
            bytes.extend(frame::frame(*kind, body));
            bytes.extend(frame::frame(extra, b"of a later release"));
        }
        bytes
    };
    let plain: usize = read(&{
        let mut bytes = header();
        frames.iter().for_each(|(kind, body)| bytes.extend(frame::frame(*kind, body)));
        bytes
    })
    .len();
    assert_eq!(read(&with(200)).len(), plain);
    let stopped = with(9);
    let stop = Segment::open(&stopped).unwrap().find_map(Result::err).expect("it stops");
    assert!(stop.to_string().contains("kind 9"), "{stop}");
}

#[test]
fn lengths_inside_a_body_ask_for_no_memory() {
    // A list of 2^63 readings in a body of a few bytes.
    let mut body = vec![0, 0, 4, 0];
    body.extend([0xff; 9]);
    body.push(0x7f);
    let mut bytes = header();
    let (kind, start) = frames().into_iter().next().expect("a start");
    bytes.extend(frame::frame(kind, &start));
    bytes.extend(frame::frame(frame::STEPS, &body));
    assert_eq!(read(&bytes).len(), 1);
}
