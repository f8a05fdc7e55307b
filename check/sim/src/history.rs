//! The history of every block as its clients saw it, and whether one register could have behaved so.
//!
//! Linearizability of a register whose writes all differ (Gibbons and Korach, "Testing shared memories", SIAM J. Comput. 26 (1997)):
//! a write and the reads that returned it form a cluster, with a zone between the earliest end and the latest beginning among
//! them. If the earliest end comes first, the value was certainly there throughout the zone. The history is linearizable exactly if
//! no read ended before its write began, no two such zones overlap, and no other cluster's zone lies inside one.
//!
//! A write of unknown outcome may take effect at any time after it began, or never, so its end is never; one that nobody read is
//! left out.

use std::collections::BTreeMap;

/// A moment: the number of an event, so that no two are the same.
pub type Moment = u64;

/// After everything.
const NEVER: Moment = Moment::MAX;

/// What is known of one value of one block.
#[derive(Debug, Clone, Copy)]
struct Cluster {
    began: Moment,
    /// Answered, or never.
    ended: Moment,
    earliest_read_end: Moment,
    latest_read_begin: Moment,
    was_read: bool,
    /// It certainly never reached the block.
    never_happened: bool,
}

/// Values of one block by number; 0 is what was there before.
#[derive(Debug, Default)]
struct Block {
    values: BTreeMap<u64, Cluster>,
}

/// What broke the rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Volume and block.
    pub place: (usize, u64),
    /// In words.
    pub text: String,
}

/// All blocks of all volumes.
#[derive(Debug, Default)]
pub struct History {
    now: Moment,
    blocks: BTreeMap<(usize, u64), Block>,
    /// Acknowledged writes.
    pub acknowledged: u64,
    /// Writes whose outcome nobody knows.
    pub unknown: u64,
    /// Reads that were answered, in blocks.
    pub reads: u64,
}

/// How a write ended for its client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Written {
    /// Answered GOOD.
    Acknowledged,
    /// Not known.
    Unknown,
    /// It was certainly never sent.
    Never,
}

impl History {
    /// The next moment.
    pub fn moment(&mut self) -> Moment {
        self.now += 1;
        self.now
    }

    fn block(&mut self, place: (usize, u64)) -> &mut Block {
        self.blocks.entry(place).or_insert_with(|| {
            let before = Cluster {
                began: 0,
                ended: 0,
                earliest_read_end: NEVER,
                latest_read_begin: 0,
                was_read: false,
                never_happened: false,
            };
            Block { values: [(0, before)].into() }
        })
    }

    /// A write of `value`, which is written only once, begins.
    pub fn write_begins(&mut self, place: (usize, u64), value: u64) {
        let began = self.moment();
        let cluster = Cluster {
            began,
            ended: NEVER,
            earliest_read_end: NEVER,
            latest_read_begin: 0,
            was_read: false,
            never_happened: false,
        };
        self.block(place).values.insert(value, cluster);
    }

    /// It ends.
    pub fn write_ends(&mut self, place: (usize, u64), value: u64, how: Written) {
        let now = self.moment();
        match how {
            Written::Acknowledged => self.acknowledged += 1,
            Written::Unknown => self.unknown += 1,
            Written::Never => {}
        }
        if let Some(cluster) = self.block(place).values.get_mut(&value) {
            match how {
                Written::Acknowledged => cluster.ended = now,
                Written::Unknown => {}
                Written::Never => cluster.never_happened = true,
            }
        }
    }

    /// A read that began at `began` returned `value`.
    ///
    /// # Errors
    /// The value was never written there.
    pub fn read_ends(&mut self, place: (usize, u64), value: u64, began: Moment) -> Result<(), Violation> {
        let now = self.moment();
        self.reads += 1;
        let Some(cluster) = self.block(place).values.get_mut(&value) else {
            return Err(Violation { place, text: format!("holds value {value}, which was never written there") });
        };
        cluster.was_read = true;
        cluster.earliest_read_end = cluster.earliest_read_end.min(now);
        cluster.latest_read_begin = cluster.latest_read_begin.max(began);
        if cluster.never_happened {
            return Err(Violation { place, text: format!("holds value {value}, whose write was never sent") });
        }
        Ok(())
    }

    /// Judges all blocks.
    ///
    /// # Errors
    /// The first that no register explains.
    pub fn judge(&self) -> Result<(), Violation> {
        self.blocks
            .iter()
            .try_for_each(|(place, block)| block.judge().map_err(|text| Violation { place: *place, text }))
    }

    /// Forgets what can make no difference any more: values certainly overwritten before every operation still under way. Called
    /// when nothing is under way.
    pub fn settle(&mut self) {
        for block in self.blocks.values_mut() {
            let newest = block.values.iter().filter(|(_, cluster)| cluster.ended != NEVER).map(|(_, c)| c.began).max();
            let Some(newest) = newest else { continue };
            block.values.retain(|value, cluster| {
                *value == 0 || cluster.ended == NEVER || cluster.ended.max(cluster.latest_read_begin) >= newest
            });
        }
    }
}

impl Block {
    fn judge(&self) -> Result<(), String> {
        let mut certain: Vec<(Moment, Moment, u64)> = Vec::new();
        let mut others: Vec<(Moment, Moment, u64)> = Vec::new();
        for (value, cluster) in &self.values {
            if (cluster.ended == NEVER || cluster.never_happened) && !cluster.was_read {
                continue;
            }
            if cluster.earliest_read_end < cluster.began {
                return Err(format!("value {value} was read before it was written"));
            }
            let first_end = cluster.ended.min(cluster.earliest_read_end);
            let last_begin = cluster.began.max(cluster.latest_read_begin);
            if first_end < last_begin {
                certain.push((first_end, last_begin, *value));
            } else {
                others.push((last_begin, first_end, *value));
            }
        }
        certain.sort_unstable();
        for pair in certain.windows(2) {
            let ((_, end, one), (begin, _, other)) = (pair[0], pair[1]);
            if begin < end {
                return Err(format!(
                    "value {one} was there until {end}, and value {other} from {begin} on: one of them came back"
                ));
            }
        }
        for (begin, end, value) in others {
            let inside = certain.iter().find(|(from, to, _)| *from < begin && end < *to);
            if let Some((from, to, over)) = inside {
                return Err(format!(
                    "value {value} was written and ended between {begin} and {end}, while value {over} was there from {from} to {to}: \
                     it was lost"
                ));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: (usize, u64) = (0, 7);

    fn write(history: &mut History, value: u64) {
        history.write_begins(AT, value);
        history.write_ends(AT, value, Written::Acknowledged);
    }

    fn read(history: &mut History, value: u64) -> Result<(), Violation> {
        let began = history.moment();
        history.read_ends(AT, value, began)
    }

    #[test]
    fn what_was_acknowledged_last_may_be_read() {
        let mut history = History::default();
        read(&mut history, 0).unwrap();
        write(&mut history, 1);
        read(&mut history, 1).unwrap();
        write(&mut history, 2);
        read(&mut history, 2).unwrap();
        history.judge().unwrap();
    }

    #[test]
    fn an_acknowledged_write_that_is_gone_is_found() {
        let mut history = History::default();
        write(&mut history, 1);
        write(&mut history, 2);
        read(&mut history, 1).unwrap();
        assert!(history.judge().is_err());
        let mut fresh = History::default();
        write(&mut fresh, 1);
        read(&mut fresh, 0).unwrap();
        assert!(fresh.judge().is_err());
    }

    #[test]
    fn a_write_of_unknown_outcome_may_show_late_or_never_but_not_come_and_go() {
        let mut history = History::default();
        history.write_begins(AT, 1);
        history.write_ends(AT, 1, Written::Unknown);
        write(&mut history, 2);
        read(&mut history, 2).unwrap();
        history.judge().unwrap();
        read(&mut history, 1).unwrap();
        history.judge().unwrap();
        read(&mut history, 2).unwrap();
        assert!(history.judge().is_err());
    }

    #[test]
    fn two_writes_under_way_may_end_in_either_order_but_readers_agree() {
        let mut history = History::default();
        history.write_begins(AT, 1);
        history.write_begins(AT, 2);
        history.write_ends(AT, 1, Written::Acknowledged);
        history.write_ends(AT, 2, Written::Acknowledged);
        read(&mut history, 1).unwrap();
        history.judge().unwrap();
        read(&mut history, 2).unwrap();
        assert!(history.judge().is_err());
    }

    #[test]
    fn a_write_that_was_never_sent_must_not_show() {
        let mut history = History::default();
        history.write_begins(AT, 1);
        history.write_ends(AT, 1, Written::Never);
        history.judge().unwrap();
        assert!(read(&mut history, 1).is_err());
        assert!(read(&mut history, 9).is_err());
    }

    #[test]
    fn what_is_settled_away_makes_no_difference() {
        let mut history = History::default();
        for value in 1..50 {
            write(&mut history, value);
            read(&mut history, value).unwrap();
        }
        history.settle();
        history.judge().unwrap();
        read(&mut history, 48).unwrap_err();
        read(&mut history, 49).unwrap();
        history.judge().unwrap();
    }
}
