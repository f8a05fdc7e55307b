//! Segments of an event log, with the checksums of header and frames made right.
//!
//! Not the machine: what was read is not run, since a machine may stop itself at facts nobody could have told it. Properties: reading
//! ends, with no more entries than there are bytes; nothing follows what stopped it; a file cut off after its last whole frame
//! gives the same; a step that was read is written in a form that is read as the same step; a start gives a machine or says why not.

use understudy_eventlog::frame;
use understudy_eventlog::read::{Entry, Segment, Stop, whole_bytes};
use understudy_eventlog::record::{Piece, Place, Recorder, SEGMENT_BYTES_MIN, Sink, Taken};
use understudy_eventlog::segment::{HEADER_BYTES, Header};
use understudy_eventlog::step::{Memory, Step};
use understudy_failover::config::{AutomaticGiveback, Config, PoolConfig, Timing};
use understudy_failover::effect::Effects;
use understudy_failover::input::{Health, Input, Unreadable};
use understudy_failover::machine::Machine;
use understudy_failover::page::{LAYOUT_VERSION, LiveWords, Page, PageContent, Stage, StateWord, WantAnswer};
use understudy_failover::record::Heartbeat;
use understudy_failover::survey::{LockDiskView, Survey};
use understudy_failover::words::{Generation, Incarnation, Micros, NodeId, PairId, PoolId};

use crate::choices::{Choices, Script};

const PAIR: PairId = PairId(9);
const OWN: Incarnation = Incarnation(5);

/// Reads the bytes as a segment: frames of the fuzzer's with checksums, bytes of the fuzzer's behind a header, or bytes alone.
pub fn run(bytes: &[u8]) {
    let mut choices = Choices::new(bytes);
    let way = choices.byte();
    let mut all = if way & 3 == 3 { Vec::new() } else { Header::new(PAIR, NodeId::A, 1, OWN, 0).encode().to_vec() };
    if way & 2 == 0 {
        // BOUND: each frame takes some of the input.
        while !choices.is_over() {
            let kind = choices.byte();
            all.extend(frame::frame(kind, choices.chunk()));
        }
    } else {
        all.extend_from_slice(choices.remainder());
    }
    let Ok(segment) = Segment::open(&all) else { return };
    let entries: Vec<Result<Entry, Stop>> = segment.take(all.len() + 1).collect();
    assert!(entries.len() <= all.len());
    assert!(entries.iter().rev().skip(1).all(Result::is_ok), "nothing follows what stopped the reading");
    let whole = whole_bytes(&all);
    let again: Vec<_> = Segment::open(&all[..whole]).expect("the same header").collect();
    let is_cut = matches!(entries.last(), Some(Err(Stop::Cut { .. })));
    assert_eq!(again[..], entries[..entries.len() - usize::from(is_cut)], "up to the last whole frame");
    let mut memory = Memory::default();
    for entry in entries.iter().flatten() {
        match entry {
            Entry::Start(start) => {
                memory = Memory::from(start.now);
                if let Ok(machine) = start.machine() {
                    assert_eq!((machine.config(), machine.incarnation()), (start.config(), start.incarnation));
                }
            }
            Entry::Step(step) => write_again(&mut memory, step),
        }
    }
}

fn write_again(memory: &mut Memory, step: &Step) {
    let mut reader = memory.clone();
    let mut bytes = Vec::new();
    assert!(memory.put(step, &mut bytes), "what was read has bytes");
    let read = reader.take(&bytes);
    assert_eq!(read.as_ref().map(|(read, rest)| (read, rest.len())), Ok((step, 0)));
}

/// Keeps what is handed over.
struct Kept(Vec<u8>);

impl Sink for &mut Kept {
    fn put(&mut self, piece: Piece) -> Taken {
        match piece {
            Piece::Append(bytes) | Piece::Start(bytes) | Piece::Segment { bytes, .. } => self.0.extend(bytes),
        }
        Taken::Yes
    }

    fn wall_micros(&self) -> u64 {
        1_800_000_000_000_000
    }
}

fn content() -> PageContent {
    PageContent {
        state: StateWord::Up,
        stage: Stage::Unknown,
        health: Health::Good,
        generation: Generation(1),
        acknowledgement: None,
        portals_listening: [false, true],
        released_to: None,
        inventory: Some(7),
        vetoes: 0,
        announcement: None,
        want: None,
        want_answer: WantAnswer::Nothing,
        may_split: false,
        pools: Vec::new(),
    }
}

/// One of each form of a step, and a snapshot. No orders: what a machine orders changes, and the seeds would with it.
fn segment() -> Vec<u8> {
    let config = Config {
        pair: PAIR,
        node: NodeId::A,
        preferred: NodeId::A,
        lock_disks: 3,
        pools: [(PoolId(1), PoolConfig { home: NodeId::A })].into(),
        may_split: false,
        policy: AutomaticGiveback::OnRequest.into(),
        timing: Timing::default(),
    };
    let page = |heartbeat| {
        let live = LiveWords { progress: 3, heartbeat, last_completion: heartbeat * 7 };
        let (node, incarnation, sequence) = (NodeId::B, Incarnation(6), heartbeat * 2);
        let content = content();
        let page = Page { pair: PAIR, node, incarnation, sequence, layout_version: LAYOUT_VERSION, content, live };
        Input::PartnerPageRead(Box::new(page))
    };
    let survey = |counters: [u64; 3]| {
        let beat = |counter| Some(Heartbeat { incarnation: OWN, counter });
        let disk = |counter| Some(LockDiskView { heartbeats: [beat(counter), None], ..LockDiskView::default() });
        Input::Surveyed { op: None, survey: Box::new(Survey { disks: counters.map(disk).to_vec() }) }
    };
    let machine = Machine::new(config, OWN);
    let mut kept = Kept(Vec::new());
    let mut recorder = Recorder::begin(&mut kept, &machine, Place { number: 0, length: None }, SEGMENT_BYTES_MIN);
    let facts = [
        Input::TimerExpired,
        page(1),
        page(2),
        survey([1, 1, 1]),
        survey([2, 2, 2]),
        survey([3, 4, 5]),
        Input::PartnerPageUnreadable(Unreadable::Torn),
    ];
    for (at, fact) in facts.iter().enumerate() {
        recorder.told(Micros(at as u64 * 30_000), fact, &machine);
        recorder.ordered(&Effects::new());
    }
    recorder.hand_over();
    kept.0
}

/// A run from its start as frames, the same cut off in a frame, and with a frame that may be left out.
#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    let all = segment();
    let mut rest = &all[HEADER_BYTES..];
    let mut frames = Script::new().bytes(&[0]);
    while let frame::Next::Frame { kind, body, rest: after } = frame::next(rest) {
        frames = frames.bytes(&[kind]).chunk(body);
        rest = after;
    }
    let frames = frames.done();
    let cut = Script::new().bytes(&[2]).bytes(&all[HEADER_BYTES..all.len() - 3]).done();
    let more = Script::new().bytes(&frames).bytes(&[frame::MAY_BE_LEFT_OUT]).chunk(b"of a later release").done();
    vec![frames, cut, more]
}
