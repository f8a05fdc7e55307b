//! Reading a segment: its header, then starts and steps, up to its end or to where it was cut.
//!
//! Not here: running them. The one idea: everything up to the first thing that cannot be read is good, nothing after it is used, and
//! the place is said.

use thiserror::Error;

use crate::frame::{self, Cut, Next};
use crate::segment::{HEADER_BYTES, Header, HeaderError};
use crate::start::Start;
use crate::step::{Memory, Step, StepError};

/// What stands in a segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    /// A replay can begin here.
    Start(Box<Start>),
    /// A step.
    Step(Box<Step>),
}

/// How the reading of a segment ended, short of its end.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Stop {
    /// Cut off there; everything before it is good.
    #[error("{}, at byte {offset}: {bytes} bytes are left out", cut_words(*cut))]
    Cut {
        /// How.
        cut: Cut,
        /// Where the frame begins.
        offset: u64,
        /// Bytes from there to the end of the file.
        bytes: u64,
    },
    /// Whole, and not understood: of a later release, or damaged before its CRC was made.
    #[error("at byte {offset}: {reason}")]
    Strange {
        /// Where the frame begins.
        offset: u64,
        /// What.
        reason: Strange,
    },
}

/// What is whole and not understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Strange {
    /// A kind of frame that has to be understood.
    #[error("a frame of kind {0}, which is not known here")]
    Kind(u8),
    /// A start.
    #[error("a start that is not understood here")]
    Start,
    /// Steps with nothing to run them on.
    #[error("steps before any start")]
    NoStart,
    /// A step.
    #[error(transparent)]
    Step(StepError),
}

fn cut_words(cut: Cut) -> &'static str {
    match cut {
        Cut::Unfinished => "it ends in the middle of a frame",
        Cut::Damaged => "it is damaged (CRC)",
    }
}

/// A segment being read.
#[derive(Debug, Clone)]
pub struct Segment<'b> {
    header: Header,
    all: &'b [u8],
    /// What follows the frame in hand.
    rest: &'b [u8],
    /// Where the frame in hand begins.
    offset: usize,
    /// Steps of the frame in hand that were not given out yet.
    steps: &'b [u8],
    memory: Option<Memory>,
    ended: bool,
}

impl<'b> Segment<'b> {
    /// Begins to read.
    ///
    /// # Errors
    /// [`HeaderError`]: nothing can be read.
    pub fn open(all: &'b [u8]) -> Result<Self, HeaderError> {
        let header = Header::decode(all)?;
        let (offset, rest) = (HEADER_BYTES, &all[HEADER_BYTES..]);
        Ok(Self { header, all, rest, offset, steps: &[], memory: None, ended: false })
    }

    /// Whose log it is.
    #[must_use]
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Where the frame in hand begins, in bytes from the beginning of the file.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.offset as u64
    }

    fn take(&mut self) -> Option<Result<Entry, Stop>> {
        if !self.steps.is_empty() {
            return Some(self.take_step());
        }
        // BOUND: each frame is longer than nothing.
        loop {
            self.offset = self.all.len() - self.rest.len();
            let (kind, body, rest) = match frame::next(self.rest) {
                Next::End => return None,
                Next::Cut(cut) => return Some(Err(self.cut(cut))),
                Next::Frame { kind, body, rest } => (kind, body, rest),
            };
            self.rest = rest;
            match kind {
                frame::START => return Some(self.take_start(body)),
                frame::STEPS if self.memory.is_none() => return Some(Err(self.strange(Strange::NoStart))),
                frame::STEPS if body.is_empty() => {}
                frame::STEPS => {
                    self.steps = body;
                    return Some(self.take_step());
                }
                frame::MAY_BE_LEFT_OUT.. => {}
                kind => return Some(Err(self.strange(Strange::Kind(kind)))),
            }
        }
    }

    fn take_start(&mut self, body: &[u8]) -> Result<Entry, Stop> {
        let start: Start = postcard::from_bytes(body).map_err(|_| self.strange(Strange::Start))?;
        self.memory = Some(Memory::from(start.now));
        Ok(Entry::Start(Box::new(start)))
    }

    fn take_step(&mut self) -> Result<Entry, Stop> {
        let Some(memory) = &mut self.memory else { return Err(self.strange(Strange::NoStart)) };
        match memory.take(self.steps) {
            Ok((step, rest)) => {
                self.steps = rest;
                Ok(Entry::Step(Box::new(step)))
            }
            Err(error) => Err(self.strange(Strange::Step(error))),
        }
    }

    fn strange(&self, reason: Strange) -> Stop {
        Stop::Strange { offset: self.offset as u64, reason }
    }

    fn cut(&self, cut: Cut) -> Stop {
        Stop::Cut { cut, offset: self.offset as u64, bytes: (self.all.len() - self.offset) as u64 }
    }
}

impl Iterator for Segment<'_> {
    type Item = Result<Entry, Stop>;

    /// Entries in order; after a [`Stop`] nothing more comes.
    fn next(&mut self) -> Option<Self::Item> {
        if self.ended {
            return None;
        }
        let taken = self.take();
        self.ended = !matches!(taken, Some(Ok(_)));
        taken
    }
}

/// Bytes of a segment up to the end of its last whole frame, from where a writer may go on. Only the CRCs are looked at.
#[must_use]
pub fn whole_bytes(all: &[u8]) -> usize {
    let mut rest = all.get(HEADER_BYTES..).unwrap_or_default();
    // BOUND: each frame is longer than nothing.
    while let Next::Frame { rest: after, .. } = frame::next(rest) {
        rest = after;
    }
    all.len() - rest.len()
}
