//! One step: a moment, a fact, and the orders that followed, in as few bytes as can be.
//!
//! A step is a tag, the time since the step before (a varint of microseconds), the fact in the form the tag names, and the orders
//! if the tag says that there are any.
//!
//! | tag | fact |
//! |---|---|
//! | 0 | the fact in postcard form |
//! | 1 | a reading of the lock disks nobody ordered, like the last reading but for heartbeats: a varint a node, by which its counter moved on every disk |
//! | 2 | the same: a varint a disk and node, disk by disk |
//! | 16 to 31 | the partner's page, like the last one read but for live words. Bits of the tag: 1 sequence, 2 progress, 4 heartbeat, 8 last completion; a varint for each that is set, in this order, by which it moved |
//! | + 128 | orders follow the fact, in postcard form |
//!
//! "The last" is the last one since the frame with the start. Numbers move by wrapping, so that any change has a form.
//!
//! The one idea: a hundred pages and twenty readings of the lock disks a second differ in counters only, and each of those that do
//! not is worth its full length.

use serde::de::DeserializeOwned;
use thiserror::Error;
use understudy_failover::effect::Effects;
use understudy_failover::input::Input;
use understudy_failover::page::{LiveWords, Page};
use understudy_failover::survey::{LockDiskView, Survey};
use understudy_failover::words::Micros;

use crate::varint;

const FULL: u8 = 0;
const BEATS_OF_NODES: u8 = 1;
const BEATS_OF_DISKS: u8 = 2;
const PAGE: u8 = 16;
const PAGE_BITS: u8 = 0x0f;
const HAS_ORDERS: u8 = 0x80;

/// A step as it stands in a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// When.
    pub now: Micros,
    /// What the machine was told.
    pub fact: Input,
    /// What it ordered.
    pub orders: Effects,
}

/// Why the bytes of a step mean nothing here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum StepError {
    /// Ends too early.
    #[error("a step ends too early")]
    Short,
    /// A form this program does not know.
    #[error("a step is written in form {0}, which is not known here")]
    Form(u8),
    /// "Like the last one" where there is none.
    #[error("a step refers to one that is not there")]
    NothingBefore,
    /// The fact is of a kind this program does not know, or damaged.
    #[error("a fact is not known here")]
    Fact,
    /// The same of an order.
    #[error("an order is not known here")]
    Orders,
}

/// What both writer and reader remember of the steps before.
#[derive(Debug, Clone, Default)]
pub struct Memory {
    now: Micros,
    page: Option<Page>,
    survey: Option<Survey>,
}

/// Whether a step is one of the many in which only counters moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weight {
    /// It is.
    Routine,
    /// It is worth being handed over at once.
    Worthy,
}

impl Memory {
    /// As at a start at this moment.
    #[must_use]
    pub fn from(now: Micros) -> Self {
        Self { now, page: None, survey: None }
    }

    /// Writes a step here. Says whether it has bytes, which no step of the driver's lacks; nothing is written otherwise.
    pub fn put(&mut self, step: &Step, out: &mut Vec<u8>) -> bool {
        let tag = out.len();
        let is_written = self.put_fact(step.now, &step.fact, out).is_some();
        if is_written {
            Self::put_orders(&step.orders, tag, out);
        }
        is_written
    }

    /// Writes moment and fact. `None` and nothing written if it has no bytes, which no fact of the driver's lacks.
    pub(crate) fn put_fact(&mut self, now: Micros, fact: &Input, out: &mut Vec<u8>) -> Option<Weight> {
        let begin = out.len();
        out.push(FULL);
        varint::put(now.0.wrapping_sub(self.now.0), out);
        let weight = match self.short(fact, out) {
            Some(tag) => {
                out[begin] = tag;
                Weight::Routine
            }
            None => {
                if postcard::to_io(fact, &mut *out).is_err() {
                    out.truncate(begin);
                    return None;
                }
                weight_in_full(fact)
            }
        };
        self.now = now;
        self.remember(fact);
        Some(weight)
    }

    /// Adds the orders to the step whose tag stands at `tag`. Orders without bytes are left out.
    pub(crate) fn put_orders(orders: &Effects, tag: usize, out: &mut Vec<u8>) {
        let length = out.len();
        if orders.is_empty() {
            return;
        }
        match postcard::to_io(orders, &mut *out) {
            Ok(_) => out[tag] |= HAS_ORDERS,
            Err(_) => out.truncate(length),
        }
    }

    /// The short form of a fact, if it has one: written without its tag, which is given back.
    fn short(&self, fact: &Input, out: &mut Vec<u8>) -> Option<u8> {
        match fact {
            Input::PartnerPageRead(page) => self.short_page(page, out),
            Input::Surveyed { op: None, survey } => self.short_survey(survey, out),
            _ => None,
        }
    }

    fn short_page(&self, page: &Page, out: &mut Vec<u8>) -> Option<u8> {
        let last = self.page.as_ref().filter(|last| is_like(last, page))?;
        let moved = [
            page.sequence.wrapping_sub(last.sequence),
            page.live.progress.wrapping_sub(last.live.progress),
            page.live.heartbeat.wrapping_sub(last.live.heartbeat),
            page.live.last_completion.wrapping_sub(last.live.last_completion),
        ];
        let mut tag = PAGE;
        for (bit, by) in moved.into_iter().enumerate().filter(|(_, by)| *by != 0) {
            tag |= 1 << bit;
            varint::put(by, out);
        }
        Some(tag)
    }

    fn short_survey(&self, survey: &Survey, out: &mut Vec<u8>) -> Option<u8> {
        let last = self.survey.as_ref()?;
        let beats = moved_beats(last, survey)?;
        let of = |node: usize| beats.iter().map(move |disk| disk[node]).max().unwrap_or(0);
        let by = [of(0), of(1)];
        if beaten(last, &vec![by; last.disks.len()]).as_ref() == Some(survey) {
            by.into_iter().for_each(|by| varint::put(by, out));
            return Some(BEATS_OF_NODES);
        }
        beats.into_iter().flatten().for_each(|by| varint::put(by, out));
        Some(BEATS_OF_DISKS)
    }

    fn remember(&mut self, fact: &Input) {
        match fact {
            Input::PartnerPageRead(page) => self.page = Some((**page).clone()),
            Input::Surveyed { survey, .. } => self.survey = Some((**survey).clone()),
            _ => {}
        }
    }

    /// The step at the beginning of `bytes`, and what follows it.
    ///
    /// # Errors
    /// [`StepError`].
    pub fn take<'b>(&mut self, bytes: &'b [u8]) -> Result<(Step, &'b [u8]), StepError> {
        let (tag, rest) = bytes.split_first().ok_or(StepError::Short)?;
        let (passed, rest) = varint::take(rest).ok_or(StepError::Short)?;
        let now = Micros(self.now.0.wrapping_add(passed));
        let (fact, rest) = match tag & !HAS_ORDERS {
            FULL => postcard_from(rest).ok_or(StepError::Fact)?,
            BEATS_OF_NODES => self.take_survey(rest, Share::OfNode)?,
            BEATS_OF_DISKS => self.take_survey(rest, Share::OfDisk)?,
            form if form & !PAGE_BITS == PAGE => self.take_page(form & PAGE_BITS, rest)?,
            form => return Err(StepError::Form(form)),
        };
        let (orders, rest) = match tag & HAS_ORDERS {
            0 => (Effects::new(), rest),
            _ => postcard_from(rest).ok_or(StepError::Orders)?,
        };
        self.now = now;
        self.remember(&fact);
        Ok((Step { now, fact, orders }, rest))
    }

    fn take_page<'b>(&self, bits: u8, rest: &'b [u8]) -> Result<(Input, &'b [u8]), StepError> {
        let mut rest = rest;
        let mut page = self.page.clone().ok_or(StepError::NothingBefore)?;
        let live = &mut page.live;
        let words = [&mut page.sequence, &mut live.progress, &mut live.heartbeat, &mut live.last_completion];
        for (bit, word) in words.into_iter().enumerate() {
            if bits & (1 << bit) != 0 {
                let (by, after) = varint::take(rest).ok_or(StepError::Short)?;
                *word = word.wrapping_add(by);
                rest = after;
            }
        }
        Ok((Input::PartnerPageRead(Box::new(page)), rest))
    }

    fn take_survey<'b>(&self, rest: &'b [u8], share: Share) -> Result<(Input, &'b [u8]), StepError> {
        let last = self.survey.as_ref().ok_or(StepError::NothingBefore)?;
        let mut rest = rest;
        let mut pair_of_numbers = || -> Result<[u64; 2], StepError> {
            let mut by = [0; 2];
            for by in &mut by {
                (*by, rest) = varint::take(rest).ok_or(StepError::Short)?;
            }
            Ok(by)
        };
        let by: Vec<[u64; 2]> = match share {
            Share::OfNode => vec![pair_of_numbers()?; last.disks.len()],
            Share::OfDisk => last.disks.iter().map(|_| pair_of_numbers()).collect::<Result<_, _>>()?,
        };
        let survey = beaten(last, &by).ok_or(StepError::NothingBefore)?;
        Ok((Input::Surveyed { op: None, survey: Box::new(survey) }, rest))
    }
}

/// Most facts that have no short form are rare. Not these: a partner that is gone is asked for its page a hundred times a second, for as
/// long as it is gone, and each answer in a frame of its own would make the log of a night forget how it began.
fn weight_in_full(fact: &Input) -> Weight {
    match fact {
        Input::PartnerPageUnreadable(_) | Input::TimerExpired => Weight::Routine,
        _ => Weight::Worthy,
    }
}

/// What a number of heartbeats is said for.
#[derive(Clone, Copy)]
enum Share {
    OfNode,
    OfDisk,
}

fn postcard_from<T: DeserializeOwned>(bytes: &[u8]) -> Option<(T, &[u8])> {
    postcard::take_from_bytes(bytes).ok()
}

/// Whether two pages differ in live words only.
fn is_like(last: &Page, page: &Page) -> bool {
    let Page { pair, node, incarnation, sequence: _, layout_version, content, live: _ } = last;
    let LiveWords { progress: _, heartbeat: _, last_completion: _ } = last.live;
    (*pair, *node, *incarnation, *layout_version) == (page.pair, page.node, page.incarnation, page.layout_version)
        && *content == page.content
}

/// By how much each heartbeat moved, disk by disk and by node; `None` if anything else differs.
fn moved_beats(last: &Survey, survey: &Survey) -> Option<Vec<[u64; 2]>> {
    let beats = |disk: &Option<LockDiskView>| disk.as_ref().map(|disk| disk.heartbeats);
    let moved = |(last, now): (&Option<LockDiskView>, &Option<LockDiskView>)| {
        let (Some(last), Some(now)) = (beats(last), beats(now)) else { return [0; 2] };
        [0, 1].map(|node: usize| match (last[node], now[node]) {
            (Some(last), Some(now)) => now.counter.wrapping_sub(last.counter),
            (Some(_) | None, Some(_) | None) => 0,
        })
    };
    let by: Vec<[u64; 2]> = last.disks.iter().zip(&survey.disks).map(moved).collect();
    (by.len() == survey.disks.len() && beaten(last, &by).as_ref() == Some(survey)).then_some(by)
}

/// The reading with its heartbeats moved.
fn beaten(last: &Survey, by: &[[u64; 2]]) -> Option<Survey> {
    let mut survey = last.clone();
    if by.len() != survey.disks.len() {
        return None;
    }
    for (disk, by) in survey.disks.iter_mut().zip(by) {
        for (beat, by) in disk.iter_mut().flat_map(|disk| &mut disk.heartbeats).zip(by) {
            if let Some(beat) = beat {
                beat.counter = beat.counter.wrapping_add(*by);
            }
        }
    }
    Some(survey)
}
