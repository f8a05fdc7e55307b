//! The history of every block as its clients saw it, and whether one register could have behaved so.
//!
//! Linearizability of a register whose writes all differ (Gibbons and Korach, "Testing shared memories", SIAM J. Comput. 26 (1997)):
//! a write and the reads that returned it form a cluster, with a zone between the earliest end and the latest beginning among
//! them. If the earliest end comes first, the value was certainly there throughout the zone. The history is linearizable exactly if
//! no read ended before its write began, no two such zones overlap, and no other cluster's zone lies inside one.
//!
//! A write of unknown outcome may take effect at any time after it began, or never, so its end is never; one that nobody read is
//! left out. Once its owner is fenced (`fenced`) it must not take effect any more: whoever sends it again to the new owner relies on that.
//!
//! **Caches.** A write that was neither forced nor flushed may be lost when a leg's disk loses power, if that leg is then read: by
//! another owner, or because the other leg is gone. So from such a moment on (`forgotten_shows`) a value that nothing durable has
//! replaced may come back, once, as if it were written again with an unknown outcome. What was forced or flushed never may, nor
//! what was replaced after the loss.

use std::collections::{BTreeMap, BTreeSet};

use crate::plan::{LEGS, VOLUMES};

/// A moment: the number of an event, so that no two are the same.
pub type Moment = u64;

/// Volume and block.
pub type Place = (usize, u64);

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
    /// It was forced: no disk's loss of power takes it back, once it is acknowledged. What was flushed is told by [`Cluster::is_durable`].
    was_forced: bool,
    /// If it is going to take effect, then before this: its owner was fenced.
    deadline: Moment,
}

impl Cluster {
    fn begun(began: Moment) -> Self {
        Self {
            began,
            ended: NEVER,
            earliest_read_end: NEVER,
            latest_read_begin: 0,
            was_read: false,
            never_happened: false,
            was_forced: false,
            deadline: NEVER,
        }
    }

    fn first_end(&self) -> Moment {
        self.ended.min(self.earliest_read_end).min(self.deadline)
    }

    /// Acknowledged, and forced or covered by a flush of its volume that began at `flushed`.
    fn is_durable(&self, flushed: Moment) -> bool {
        self.was_forced || self.ended < flushed
    }
}

/// Distance between the number of a value and that of the same value when it comes back.
const AGAIN: u64 = 1 << 40;

/// Values of one block by number; 0 is what was there before.
#[derive(Debug, Default)]
struct Block {
    values: BTreeMap<u64, Cluster>,
    /// The number under which a value counts that may have come back.
    again: BTreeMap<u64, u64>,
}

/// What broke the rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Volume and block.
    pub place: Place,
    /// In words.
    pub text: String,
}

/// All blocks of all volumes.
#[derive(Debug, Default)]
pub struct History {
    now: Moment,
    blocks: BTreeMap<Place, Block>,
    /// By pool and leg, when its disk last forgot what was in its cache.
    forgot: BTreeMap<(usize, usize), Moment>,
    /// By volume, when the last of its flushes began that were answered GOOD: whatever had ended before is durable.
    flushed: BTreeMap<usize, Moment>,
    /// By pool, the writes since its disks were last fenced whose clients were told that nobody knows.
    given_up: BTreeMap<usize, Vec<(Place, u64)>>,
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
    /// Answered GOOD, perhaps from a cache.
    Acknowledged,
    /// Answered GOOD, and it had to be on the medium.
    Durable,
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

    /// How many there were.
    #[must_use]
    pub fn moments(&self) -> Moment {
        self.now
    }

    fn block(&mut self, place: Place) -> &mut Block {
        self.blocks.entry(place).or_insert_with(|| {
            let before = Cluster { ended: 0, was_forced: true, ..Cluster::begun(0) };
            Block { values: [(0, before)].into(), again: BTreeMap::new() }
        })
    }

    /// A write of `value`, which is written only once, begins.
    pub fn write_begins(&mut self, place: Place, value: u64) {
        let began = self.moment();
        self.block(place).values.insert(value, Cluster::begun(began));
    }

    /// It ends.
    pub fn write_ends(&mut self, place: Place, value: u64, how: Written) {
        let now = self.moment();
        match how {
            Written::Acknowledged | Written::Durable => self.acknowledged += 1,
            Written::Unknown => self.unknown += 1,
            Written::Never => {}
        }
        if how == Written::Unknown {
            self.given_up.entry(VOLUMES[place.0].1).or_default().push((place, value));
        }
        if let Some(cluster) = self.block(place).values.get_mut(&value) {
            match how {
                Written::Acknowledged => cluster.ended = now,
                Written::Durable => (cluster.ended, cluster.was_forced) = (now, true),
                Written::Unknown => {}
                Written::Never => cluster.never_happened = true,
            }
        }
    }

    /// A read that began at `began` returned `value`.
    ///
    /// # Errors
    /// The value was never written there.
    pub fn read_ends(&mut self, place: Place, value: u64, began: Moment) -> Result<(), Violation> {
        let now = self.moment();
        self.reads += 1;
        let block = self.block(place);
        let counted = block.again.get(&value).copied().unwrap_or(value);
        let Some(cluster) = block.values.get_mut(&counted) else {
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

    /// A flush of a volume that began at `began` was answered GOOD.
    pub fn flush_ends(&mut self, volume: usize, began: Moment) {
        let flushed = self.flushed.entry(volume).or_default();
        *flushed = began.max(*flushed);
    }

    /// The disks of this pool are fenced and it is served anew: what had an unknown outcome before is on them or never will be.
    pub fn fenced(&mut self, pool: usize) {
        let now = self.moment();
        for (place, value) in self.given_up.remove(&pool).unwrap_or_default() {
            let cluster = self.block(place).values.get_mut(&value);
            cluster.into_iter().for_each(|cluster| cluster.deadline = now);
        }
    }

    /// The disk of a leg lost power, and with it what was in its cache. When the other one has before, either may be read.
    pub fn leg_forgets(&mut self, pool: usize, leg: usize) {
        let now = self.moment();
        self.forgot.insert((pool, leg), now);
        if (0..LEGS).all(|leg| self.forgot.contains_key(&(pool, leg))) {
            self.forgotten_shows(pool);
        }
    }

    /// What a leg of this pool forgot may show from now on: another owner reads it, or the other leg is gone.
    pub fn forgotten_shows(&mut self, pool: usize) {
        let Some(forgot) = (0..LEGS).filter_map(|leg| self.forgot.get(&(pool, leg)).copied()).max() else { return };
        let now = self.moment();
        let of_pool = |place: &Place| VOLUMES[place.0].1 == pool;
        for (place, block) in self.blocks.iter_mut().filter(|(place, _)| of_pool(place)) {
            let flushed = self.flushed.get(&place.0).copied().unwrap_or(0);
            block.may_come_back(forgot, flushed, now);
        }
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
}

impl Block {
    /// From `now` on, whatever nothing durable has replaced before the disk `forgot`, and nothing at all since.
    fn may_come_back(&mut self, forgot: Moment, flushed: Moment, now: Moment) {
        let is_durable = |cluster: &Cluster| cluster.is_durable(flushed);
        let stays = |cluster: &&Cluster| cluster.ended != NEVER && (is_durable(cluster) || cluster.began > forgot);
        let last = self.values.values().filter(stays).map(|cluster| cluster.began).max().unwrap_or(0);
        // Also what was under way then: a leg may have had it in its cache already, and it is answered when the other one has it.
        let was_lost = |cluster: &Cluster| !is_durable(cluster) && cluster.began < forgot;
        if !self.values.values().any(|cluster| was_lost(cluster) && cluster.first_end() >= last) {
            return;
        }
        let can = |cluster: &Cluster| cluster.first_end() != NEVER && cluster.first_end() >= last;
        let numbers = self.values.iter().filter(|(_, cluster)| can(cluster)).map(|(number, _)| number % AGAIN);
        let numbers: BTreeSet<u64> = numbers.collect();
        for number in numbers {
            let again = self.again.get(&number).copied().unwrap_or(number) + AGAIN;
            self.again.insert(number, again);
            self.values.insert(again, Cluster::begun(now));
        }
    }

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
            let first_end = cluster.first_end();
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
            // They do not overlap and are in order, so only the last one that begins before can still be there.
            let before = certain.partition_point(|(from, _, _)| *from < begin);
            if let Some((from, to, over)) = certain[..before].last().filter(|(_, to, _)| end < *to) {
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
mod slow;

#[cfg(test)]
mod tests {
    use super::*;

    const AT: Place = (0, 7);

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
    fn a_write_of_unknown_outcome_must_not_land_behind_a_fence() {
        let mut history = History::default();
        history.write_begins(AT, 1);
        history.write_ends(AT, 1, Written::Unknown);
        history.fenced(VOLUMES[AT.0].1);
        write(&mut history, 2);
        read(&mut history, 2).unwrap();
        history.judge().unwrap();
        read(&mut history, 1).unwrap();
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
    fn what_was_only_in_a_cache_may_be_lost_with_the_leg_but_not_what_was_flushed_or_written_since() {
        let mut history = History::default();
        write(&mut history, 1);
        write(&mut history, 2);
        let began = history.moment();
        history.flush_ends(AT.0, began);
        write(&mut history, 3);
        read(&mut history, 3).unwrap();
        history.leg_forgets(VOLUMES[AT.0].1, 1);
        read(&mut history, 3).unwrap();
        history.judge().unwrap();
        history.forgotten_shows(VOLUMES[AT.0].1);
        read(&mut history, 2).unwrap();
        history.judge().unwrap();
        write(&mut history, 4);
        history.forgotten_shows(VOLUMES[AT.0].1);
        read(&mut history, 4).unwrap();
        history.judge().unwrap();
        read(&mut history, 1).unwrap();
        assert!(history.judge().is_err());
    }

    #[test]
    fn what_was_under_way_when_both_caches_were_lost_may_be_lost_though_it_is_answered_later() {
        let mut history = History::default();
        write(&mut history, 1);
        history.leg_forgets(VOLUMES[AT.0].1, 0);
        history.write_begins(AT, 2);
        history.leg_forgets(VOLUMES[AT.0].1, 1);
        history.write_ends(AT, 2, Written::Acknowledged);
        read(&mut history, 1).unwrap();
        history.judge().unwrap();
    }

    #[test]
    fn what_a_leg_forgot_must_not_show_while_the_same_owner_has_the_other_leg() {
        let mut history = History::default();
        write(&mut history, 1);
        history.leg_forgets(VOLUMES[AT.0].1, 1);
        read(&mut history, 0).unwrap();
        assert!(history.judge().is_err());
    }

    #[test]
    fn a_forced_write_stays_whatever_forgets() {
        let mut history = History::default();
        history.write_begins(AT, 1);
        history.write_ends(AT, 1, Written::Durable);
        history.leg_forgets(VOLUMES[AT.0].1, 0);
        history.leg_forgets(VOLUMES[AT.0].1, 1);
        read(&mut history, 0).unwrap();
        assert!(history.judge().is_err());
    }
}
