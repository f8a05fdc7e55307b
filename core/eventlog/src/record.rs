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
use crate::segment::{HEADER_BYTES, Header};
use crate::start::{Occasion, Stand, Start};
use crate::step::{Memory, Weight};

/// How long routine steps wait to be handed over: what a process that is killed loses of them at most. Ten readings of the partner's
/// page share one frame.
pub const KEPT_FOR: Micros = Micros::from_millis(100);

/// Steps kept are handed over when they are this long, whatever they are.
const KEPT_BYTES: usize = 16 << 10;

/// Room kept free in a segment for the frame that is being filled: it must fit the segment its first step was counted for.
const ROOM: u64 = 64 << 10;

/// The smallest segment: a snapshot of the largest pair and some hours of one that is well.
pub const SEGMENT_BYTES_MIN: u64 = 1 << 20;

/// Something to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// To the end of the segment in use.
    Append(Vec<u8>),
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
    /// Number of the segment in use; 0 if there was none.
    pub number: u64,
    /// Its bytes.
    pub length: u64,
}

/// How the log stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flow {
    /// Steps follow the last start.
    Going,
    /// So many steps were left out: it goes on with a start.
    Interrupted(u64),
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
            flow: Flow::Interrupted(0),
            memory: Memory::default(),
            steps: 0,
            kept: Vec::with_capacity(KEPT_BYTES),
            kept_steps: 0,
            kept_since: Micros(0),
            under_way: None,
        };
        let stand = Stand::New(config.clone());
        it.start(Micros(0), Occasion::Process, stand);
        it
    }

    /// The machine is about to be told `fact`.
    pub fn telling(&mut self, now: Micros, fact: &Input, machine: &Machine) {
        self.go_on(now, machine);
        self.steps += 1;
        self.under_way = None;
        if let Flow::Interrupted(left_out) = &mut self.flow {
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
                self.flow = Flow::Interrupted(self.left_out() + 1);
            }
        }
    }

    /// It has ordered this.
    pub fn ordered(&mut self, now: Micros, orders: &Effects) {
        let Some((tag, weight)) = self.under_way.take() else { return };
        Memory::put_orders(orders, tag, &mut self.kept);
        let has_waited = now.since(self.kept_since) >= KEPT_FOR || self.kept.len() >= KEPT_BYTES;
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
            self.append(frame::frame(frame::STEPS, &self.kept))
        } else {
            Taken::No
        };
        if taken == Taken::No {
            self.flow = Flow::Interrupted(self.kept_steps);
        }
        self.kept.clear();
        self.kept_steps = 0;
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
            Flow::Interrupted(left_out) => left_out,
        }
    }

    /// Between two steps: begins a new segment if this one is full, and goes on after an interruption.
    fn go_on(&mut self, now: Micros, machine: &Machine) {
        let stand = || Stand::Snapshot(Box::new(machine.clone()));
        match self.flow {
            Flow::Going if self.fits(self.kept.len() + ROOM as usize) => {}
            Flow::Going => {
                self.hand_over();
                let occasion = match self.flow {
                    Flow::Going => Occasion::Segment,
                    Flow::Interrupted(steps) => Occasion::LeftOut { steps },
                };
                self.start(now, occasion, stand());
            }
            Flow::Interrupted(steps) => self.start(now, Occasion::LeftOut { steps }, stand()),
        }
    }

    fn fits(&self, body: usize) -> bool {
        self.place.number > 0 && self.place.length + (body + AROUND) as u64 <= self.segment_bytes
    }

    /// Writes a start, in the segment in use if there is room for it and something to follow.
    fn start(&mut self, now: Micros, occasion: Occasion, stand: Stand) {
        let wall_micros = self.sink.wall_micros();
        let start = Start { incarnation: self.incarnation, wall_micros, now, steps: self.steps, occasion, stand };
        // A start longer than a frame would be a configuration no pair can have; the log stays interrupted then.
        let body = postcard::to_stdvec(&start).ok().filter(|body| body.len() <= BODY_BYTES_MAX);
        let Some(body) = body else { return };
        let bytes = frame::frame(frame::START, &body);
        let is_new = occasion == Occasion::Segment || !self.fits(body.len() + ROOM as usize);
        let taken = if is_new { self.begin_segment(bytes, wall_micros) } else { self.append(bytes) };
        if taken == Taken::Yes {
            self.flow = Flow::Going;
            self.memory = Memory::from(now);
        } else if self.flow == Flow::Going {
            self.flow = Flow::Interrupted(0);
        }
    }

    fn begin_segment(&mut self, first: Vec<u8>, wall_micros: u64) -> Taken {
        let number = self.place.number + 1;
        let mut bytes = Header::new(self.pair, self.node, number, self.incarnation, wall_micros).encode().to_vec();
        bytes.extend(first);
        let length = bytes.len() as u64;
        if length < HEADER_BYTES as u64 || length > self.segment_bytes {
            return Taken::No;
        }
        let taken = self.sink.put(Piece::Segment { number, bytes });
        if taken == Taken::Yes {
            self.place = Place { number, length };
        }
        taken
    }

    fn append(&mut self, bytes: Vec<u8>) -> Taken {
        let length = bytes.len() as u64;
        let taken = self.sink.put(Piece::Append(bytes));
        if taken == Taken::Yes {
            self.place.length += length;
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
