//! Making a log: from what a machine is told and orders to pieces of segments.
//!
//! Not here: where the pieces go; a [`Sink`] takes them, or says that it cannot now. The one idea: nothing here waits and nothing grows.
//! Routine steps are kept for at most [`KEPT_FOR`] and then handed over together, a step worth anything at once; what the sink does
//! not take is left out and counted, and as soon as it takes something again the log goes on from a snapshot.

use understudy_failover::effect::Effects;
use understudy_failover::input::Input;
use understudy_failover::machine::Machine;
use understudy_failover::words::{Incarnation, Micros, NodeId, PairId};

use crate::frame::{self, AROUND, BODY_BYTES_MAX};
use crate::segment::Header;
use crate::start::{Occasion, Stand, Start};
use crate::step::{Memory, Weight};

/// How long routine steps wait to be handed over: what a process that is killed loses of them at most. Ten readings of the partner's
/// page share one frame.
pub const KEPT_FOR: Micros = Micros::from_millis(100);

/// Steps kept are handed over when they are this long, whatever they are.
const KEPT_BYTES: usize = 16 << 10;

/// Room kept free in a segment for the frame that is being filled: it must fit the segment its first step was counted for.
const ROOM: u64 = 64 << 10;

/// How long after a piece was not taken the next is offered: each is a whole snapshot, and a disk that is full stays so for a while.
const AGAIN_AFTER: Micros = Micros::from_millis(250);

/// The smallest segment: a snapshot of the largest pair and some hours of one that is well.
pub const SEGMENT_BYTES_MIN: u64 = 1 << 20;

/// Something to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// To the end of the segment in use.
    Append(Vec<u8>),
    /// The same, and it is a start: it can be read although something before it was lost.
    Start(Vec<u8>),
    /// A new segment begins with this; its number says in which place.
    Segment {
        /// One more than the last one's.
        number: u64,
        /// Header and first frame.
        bytes: Vec<u8>,
    },
}

/// Whether a sink took a piece.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    /// It did, and it will be written after everything before it.
    Yes,
    /// It did not, and nothing of it will be written.
    No,
}

/// Takes pieces without waiting.
pub trait Sink {
    /// Takes a piece or leaves it.
    fn put(&mut self, piece: Piece) -> Taken;

    /// Microseconds since 1970.
    fn wall_micros(&self) -> u64;
}

/// Where a log goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Number of the newest segment; 0 if there was none.
    pub number: u64,
    /// Its bytes; `None` if it cannot be gone on with.
    pub length: Option<u64>,
}

/// How the log stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flow {
    /// Steps follow the last start.
    Going,
    /// So many steps were left out: it goes on with a start, not before this moment.
    Interrupted { left_out: u64, until: Micros },
}

/// Keeps the log of one run.
#[derive(Debug)]
pub struct Recorder<S> {
    sink: S,
    pair: PairId,
    node: NodeId,
    incarnation: Incarnation,
    place: Place,
    segment_bytes: u64,
    flow: Flow,
    memory: Memory,
    steps: u64,
    /// The body of the next frame.
    kept: Vec<u8>,
    kept_steps: u64,
    kept_since: Micros,
    /// Where in it the step under way begins, and what it is worth.
    under_way: Option<(usize, Weight)>,
    now: Micros,
}

impl<S: Sink> Recorder<S> {
    /// Begins the log of a run at its place, before the machine's first step.
    ///
    /// # Panics
    /// On segments smaller than [`SEGMENT_BYTES_MIN`]: the configuration was read.
    #[must_use]
    pub fn begin(sink: S, machine: &Machine, place: Place, segment_bytes: u64) -> Self {
        assert!(segment_bytes >= SEGMENT_BYTES_MIN, "a segment holds a snapshot");
        let config = machine.config();
        let mut it = Self {
            sink,
            pair: config.pair,
            node: config.node,
            incarnation: machine.incarnation(),
            place,
            segment_bytes,
            flow: Flow::Interrupted { left_out: 0, until: Micros(0) },
            memory: Memory::default(),
            steps: 0,
            kept: Vec::with_capacity(KEPT_BYTES),
            kept_steps: 0,
            kept_since: Micros(0),
            under_way: None,
            now: Micros(0),
        };
        it.start(Occasion::Process, Stand::New(Box::new(config.clone())));
        it
    }

    /// The machine is about to be told `fact`.
    pub fn told(&mut self, now: Micros, fact: &Input, machine: &Machine) {
        self.now = now;
        self.go_on(machine);
        self.steps += 1;
        self.under_way = None;
        if let Flow::Interrupted { left_out, .. } = &mut self.flow {
            *left_out += 1;
            return;
        }
        if self.kept.is_empty() {
            self.kept_since = now;
        }
        let begin = self.kept.len();
        match self.memory.put_fact(now, fact, &mut self.kept) {
            Some(weight) => {
                self.kept_steps += 1;
                self.under_way = Some((begin, weight));
            }
            None => {
                self.hand_over();
                self.interrupt(1);
            }
        }
    }

    /// It has ordered this.
    pub fn ordered(&mut self, orders: &Effects) {
        let Some((tag, weight)) = self.under_way.take() else { return };
        Memory::put_orders(orders, tag, &mut self.kept);
        let has_waited = self.now.since(self.kept_since) >= KEPT_FOR || self.kept.len() >= KEPT_BYTES;
        if weight == Weight::Worthy || !orders.is_empty() || has_waited {
            self.hand_over();
        }
    }

    /// Hands over what is kept, also a step that was begun and not ended: its orders will never come.
    pub fn hand_over(&mut self) {
        if self.kept.is_empty() {
            return;
        }
        let taken = if self.kept.len() <= BODY_BYTES_MAX && self.fits(self.kept.len()) {
            self.append(Piece::Append(frame::frame(frame::STEPS, &self.kept)))
        } else {
            Taken::No
        };
        if taken == Taken::No {
            self.interrupt(self.kept_steps);
        }
        self.kept.clear();
        self.kept_steps = 0;
    }

    fn interrupt(&mut self, steps: u64) {
        self.flow = Flow::Interrupted { left_out: self.left_out() + steps, until: self.now.after(AGAIN_AFTER) };
    }

    /// Steps of this run so far.
    #[must_use]
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// Bytes of the segment in use, and its number.
    #[must_use]
    pub fn place(&self) -> Place {
        self.place
    }

    /// Steps left out since the log was interrupted, if it is.
    #[must_use]
    pub fn left_out(&self) -> u64 {
        match self.flow {
            Flow::Going => 0,
            Flow::Interrupted { left_out, .. } => left_out,
        }
    }

    /// Between two steps: begins a new segment if this one is full, and goes on after an interruption.
    fn go_on(&mut self, machine: &Machine) {
        let is_full = !self.fits(self.kept.len() + ROOM as usize);
        if self.flow == Flow::Going && is_full {
            self.hand_over();
        }
        let occasion = match self.flow {
            Flow::Going if is_full => Occasion::Segment,
            Flow::Going => return,
            Flow::Interrupted { until, .. } if self.now < until => return,
            Flow::Interrupted { left_out, .. } => Occasion::LeftOut { steps: left_out },
        };
        self.start(occasion, Stand::Snapshot(Box::new(machine.clone())));
    }

    fn fits(&self, body: usize) -> bool {
        self.place.length.is_some_and(|length| length + (body + AROUND) as u64 <= self.segment_bytes)
    }

    /// Writes a start, in the segment in use if there is room for it and something to follow.
    fn start(&mut self, occasion: Occasion, stand: Stand) {
        let (wall_micros, now) = (self.sink.wall_micros(), self.now);
        let start = Start { incarnation: self.incarnation, wall_micros, now, steps: self.steps, occasion, stand };
        // A start longer than a frame would be a configuration no pair can have; the log stays interrupted then.
        let body = postcard::to_stdvec(&start).ok().filter(|body| body.len() <= BODY_BYTES_MAX);
        let taken = match body.map(|body| frame::frame(frame::START, &body)) {
            None => Taken::No,
            Some(frame) if occasion == Occasion::Segment || !self.fits(frame.len() + ROOM as usize) => {
                self.begin_segment(&frame, wall_micros)
            }
            Some(frame) => self.append(Piece::Start(frame)),
        };
        match taken {
            Taken::Yes => {
                self.flow = Flow::Going;
                self.memory = Memory::from(now);
            }
            Taken::No => self.interrupt(0),
        }
    }

    fn begin_segment(&mut self, first: &[u8], wall_micros: u64) -> Taken {
        let number = self.place.number + 1;
        let header = Header::new(self.pair, self.node, number, self.incarnation, wall_micros).encode();
        let bytes = [&header, first].concat();
        let length = bytes.len() as u64;
        if length > self.segment_bytes {
            return Taken::No;
        }
        let taken = self.sink.put(Piece::Segment { number, bytes });
        if taken == Taken::Yes {
            self.place = Place { number, length: Some(length) };
        }
        taken
    }

    fn append(&mut self, piece: Piece) -> Taken {
        let length = match &piece {
            Piece::Append(bytes) | Piece::Start(bytes) | Piece::Segment { bytes, .. } => bytes.len() as u64,
        };
        let taken = self.sink.put(piece);
        if taken == Taken::Yes {
            self.place.length = self.place.length.map(|before| before + length);
        }
        taken
    }
}

impl<S> Recorder<S> {
    /// Where the pieces go.
    pub fn sink(&mut self) -> &mut S {
        &mut self.sink
    }
}
