//! What the verifying client knows: per slot, which write was acknowledged last and which is under way.
//!
//! A *slot* is the run of blocks one command covers. The client has at most one write under way per slot, and a write whose answer
//! never came is issued again with the same sequence until it is acknowledged. So the rule a read must obey is short: each
//! block carries the write acknowledged last *before the read was issued*, or any write issued since. Anything older is
//! a lost write; anything else is corruption.
//!
//! Going *backwards* between two reads while a write is under way (first the new block, then the old one) is counted
//! apart: SCSI gives an unanswered write no order against reads, yet a pair that does it is worth knowing about.

use std::fmt;

use crate::stamp::{Found, Run, Sequence, read_stamp};

/// Index of a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Slot(pub usize);

/// What a block should have been and was not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Violation {
    /// Address of the block.
    pub lba: u64,
    /// The oldest write it may carry.
    pub at_least: Sequence,
    /// The newest write it may carry.
    pub at_most: Sequence,
    /// What it was.
    pub found: Found,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (at_least, at_most) = (self.at_least.0, self.at_most.0);
        write!(f, "block {}: write {at_least} was acknowledged (newest issued: {at_most}), but it holds ", self.lba)?;
        match self.found {
            Found::Stamped(sequence) => write!(f, "write {}", sequence.0),
            Found::Elsewhere { lba } => write!(f, "a block that belongs at {lba}"),
            Found::Damaged => f.write_str("a damaged block"),
            Found::Foreign => f.write_str("something this client never wrote"),
        }
    }
}

/// What a read, once issued, may return at the least.
#[derive(Debug, Clone, Copy)]
pub struct Expectation {
    slot: Slot,
    acknowledged: Sequence,
    seen: Sequence,
}

/// What a read showed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Judgement {
    /// Blocks that broke the rule.
    pub violations: Vec<Violation>,
    /// Blocks older than what a read finished earlier had shown, though nothing acknowledged was lost.
    pub backward_blocks: u64,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    acknowledged: Sequence,
    issued: Sequence,
    /// Newest write that a finished read showed.
    seen: Sequence,
}

/// Everything acknowledged and under way on one LUN.
#[derive(Debug)]
pub struct Ledger {
    run: Run,
    block_bytes: usize,
    blocks_per_slot: u32,
    entries: Vec<Entry>,
}

impl Ledger {
    /// A ledger of `slots` slots of `blocks_per_slot` blocks each, the first at block 0, nothing written yet.
    #[must_use]
    pub fn new(run: Run, slots: usize, blocks_per_slot: u32, block_bytes: u32) -> Self {
        let unwritten = Entry { acknowledged: Sequence(0), issued: Sequence(0), seen: Sequence(0) };
        Self { run, block_bytes: block_bytes as usize, blocks_per_slot, entries: vec![unwritten; slots] }
    }

    /// Number of slots.
    #[must_use]
    pub fn slots(&self) -> usize {
        self.entries.len()
    }

    /// First block of a slot.
    #[must_use]
    pub fn first_block(&self, slot: Slot) -> u64 {
        slot.0 as u64 * u64::from(self.blocks_per_slot)
    }

    /// Starts a write: the sequence it carries, or `None` while an earlier write of the slot is unacknowledged.
    pub fn issue(&mut self, slot: Slot) -> Option<Sequence> {
        let entry = &mut self.entries[slot.0];
        if entry.issued > entry.acknowledged {
            return None;
        }
        entry.issued = Sequence(entry.issued.0 + 1);
        Some(entry.issued)
    }

    /// The write under way in `slot` was acknowledged.
    ///
    /// # Panics
    /// If `sequence` is not the write under way: the caller issues one write per slot at a time.
    pub fn acknowledge(&mut self, slot: Slot, sequence: Sequence) {
        let entry = &mut self.entries[slot.0];
        assert_eq!(entry.issued, sequence, "one write under way per slot");
        entry.acknowledged = sequence;
    }

    /// Whether `slot` has a write that was issued and not acknowledged.
    #[must_use]
    pub fn unsettled(&self, slot: Slot) -> bool {
        let entry = &self.entries[slot.0];
        entry.issued > entry.acknowledged
    }

    /// Whether any write of this run was acknowledged in `slot`.
    #[must_use]
    pub fn written(&self, slot: Slot) -> bool {
        self.entries[slot.0].acknowledged > Sequence(0)
    }

    /// Takes down what a read of `slot` issued now must show.
    #[must_use]
    pub fn expect(&self, slot: Slot) -> Expectation {
        let entry = &self.entries[slot.0];
        Expectation { slot, acknowledged: entry.acknowledged, seen: entry.seen }
    }

    /// Judges what a read returned against what was expected when it was issued. An answer of the wrong length breaks
    /// the rule for every block it lacks.
    pub fn judge(&mut self, expected: Expectation, bytes: &[u8]) -> Judgement {
        let first = self.first_block(expected.slot);
        let at_most = self.entries[expected.slot.0].issued;
        let mut judgement = Judgement::default();
        let mut oldest_shown = at_most;
        for index in 0..self.blocks_per_slot {
            let lba = first + u64::from(index);
            let start = index as usize * self.block_bytes;
            let block = bytes.get(start..start + self.block_bytes).unwrap_or_default();
            let found = read_stamp(block, self.run, lba);
            let shown = match found {
                Found::Stamped(sequence) if (expected.acknowledged..=at_most).contains(&sequence) => sequence,
                // Before the first acknowledged write a block may hold whatever was there before this run.
                Found::Foreign if expected.acknowledged == Sequence(0) && !block.is_empty() => Sequence(0),
                Found::Stamped(_) | Found::Elsewhere { .. } | Found::Damaged | Found::Foreign => {
                    judgement.violations.push(Violation { lba, at_least: expected.acknowledged, at_most, found });
                    continue;
                }
            };
            judgement.backward_blocks += u64::from(shown < expected.seen);
            oldest_shown = oldest_shown.min(shown);
        }
        if judgement.violations.is_empty() {
            let seen = &mut self.entries[expected.slot.0].seen;
            *seen = (*seen).max(oldest_shown);
        }
        judgement
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stamp::write_stamp;

    const RUN: Run = Run(1);
    const SLOT: Slot = Slot(3);

    fn ledger() -> Ledger {
        Ledger::new(RUN, 8, 2, 512)
    }

    fn content(ledger: &Ledger, sequences: [u64; 2]) -> Vec<u8> {
        let mut bytes = vec![0; 1024];
        for (index, (block, sequence)) in bytes.chunks_mut(512).zip(sequences).enumerate() {
            if sequence > 0 {
                write_stamp(block, RUN, ledger.first_block(SLOT) + index as u64, Sequence(sequence));
            }
        }
        bytes
    }

    fn written(times: u64) -> Ledger {
        let mut ledger = ledger();
        for _ in 0..times {
            let sequence = ledger.issue(SLOT).expect("no write under way");
            ledger.acknowledge(SLOT, sequence);
        }
        ledger
    }

    #[test]
    fn the_acknowledged_write_is_accepted() {
        let mut ledger = written(2);
        let bytes = content(&ledger, [2, 2]);
        assert_eq!(ledger.judge(ledger.expect(SLOT), &bytes), Judgement::default());
    }

    #[test]
    fn an_older_write_than_the_acknowledged_is_a_violation() {
        let mut ledger = written(2);
        let bytes = content(&ledger, [2, 1]);
        let judgement = ledger.judge(ledger.expect(SLOT), &bytes);
        assert_eq!(judgement.violations.len(), 1);
        assert_eq!(judgement.violations[0].found, Found::Stamped(Sequence(1)));
    }

    #[test]
    fn a_write_that_vanished_is_a_violation() {
        let mut ledger = written(1);
        let judgement = ledger.judge(ledger.expect(SLOT), &[0; 1024]);
        assert_eq!(judgement.violations.len(), 2);
    }

    #[test]
    fn a_short_answer_is_a_violation_even_before_the_first_write() {
        let mut ledger = ledger();
        let judgement = ledger.judge(ledger.expect(SLOT), &[0; 512]);
        assert_eq!(judgement.violations.len(), 1);
    }

    #[test]
    fn while_a_write_is_under_way_each_block_may_be_old_or_new() {
        let mut ledger = written(1);
        ledger.issue(SLOT).expect("no write under way");
        for sequences in [[1, 1], [1, 2], [2, 1], [2, 2]] {
            let bytes = content(&ledger, sequences);
            assert!(ledger.judge(ledger.expect(SLOT), &bytes).violations.is_empty(), "{sequences:?}");
        }
    }

    #[test]
    fn a_write_never_issued_is_a_violation() {
        let mut ledger = written(1);
        let bytes = content(&ledger, [2, 2]);
        assert_eq!(ledger.judge(ledger.expect(SLOT), &bytes).violations.len(), 2);
    }

    #[test]
    fn a_write_acknowledged_while_the_read_was_under_way_need_not_show() {
        let mut ledger = written(1);
        let expected = ledger.expect(SLOT);
        let sequence = ledger.issue(SLOT).expect("no write under way");
        ledger.acknowledge(SLOT, sequence);
        let old = content(&ledger, [1, 1]);
        assert!(ledger.judge(expected, &old).violations.is_empty());
        assert_eq!(ledger.judge(ledger.expect(SLOT), &old).violations.len(), 2);
    }

    #[test]
    fn going_back_while_a_write_is_under_way_is_counted_apart() {
        let mut ledger = written(1);
        ledger.issue(SLOT).expect("no write under way");
        let (new, old) = (content(&ledger, [2, 2]), content(&ledger, [1, 2]));
        assert_eq!(ledger.judge(ledger.expect(SLOT), &new).backward_blocks, 0);
        let judgement = ledger.judge(ledger.expect(SLOT), &old);
        assert!(judgement.violations.is_empty());
        assert_eq!(judgement.backward_blocks, 1);
    }

    #[test]
    fn a_second_write_waits_for_the_first() {
        let mut ledger = ledger();
        assert!(ledger.issue(SLOT).is_some());
        assert!(ledger.unsettled(SLOT));
        assert_eq!(ledger.issue(SLOT), None);
    }
}
