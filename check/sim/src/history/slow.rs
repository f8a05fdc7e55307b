//! The history as it is told in its head, without any shortcut: every flush marks every value it covers, every fence every value given
//! up, every value is compared with every zone. Slow, plain, and only here to be compared with: same history, same verdict.

use std::collections::{BTreeMap, BTreeSet};

use super::{AGAIN, Moment, NEVER, Place, Violation, Written};
use crate::plan::{LEGS, VOLUMES};

#[derive(Clone, Copy)]
struct Cluster {
    began: Moment,
    ended: Moment,
    earliest_read_end: Moment,
    latest_read_begin: Moment,
    was_read: bool,
    never_happened: bool,
    is_durable: bool,
    was_given_up: bool,
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
            is_durable: false,
            was_given_up: false,
            deadline: NEVER,
        }
    }

    fn first_end(&self) -> Moment {
        self.ended.min(self.earliest_read_end).min(self.deadline)
    }
}

#[derive(Default)]
struct Block {
    values: BTreeMap<u64, Cluster>,
    again: BTreeMap<u64, u64>,
}

/// As [`super::History`], call by call.
#[derive(Default)]
pub struct History {
    now: Moment,
    blocks: BTreeMap<Place, Block>,
    forgot: BTreeMap<(usize, usize), Moment>,
}

impl History {
    pub fn moment(&mut self) -> Moment {
        self.now += 1;
        self.now
    }

    fn block(&mut self, place: Place) -> &mut Block {
        self.blocks.entry(place).or_insert_with(|| {
            let before = Cluster { ended: 0, is_durable: true, ..Cluster::begun(0) };
            Block { values: [(0, before)].into(), again: BTreeMap::new() }
        })
    }

    fn values_of_pool(&mut self, pool: usize) -> impl Iterator<Item = &mut Cluster> {
        let blocks = self.blocks.iter_mut().filter(move |(place, _)| VOLUMES[place.0].1 == pool);
        blocks.flat_map(|(_, block)| block.values.values_mut())
    }

    pub fn write_begins(&mut self, place: Place, value: u64) {
        let began = self.moment();
        self.block(place).values.insert(value, Cluster::begun(began));
    }

    pub fn write_ends(&mut self, place: Place, value: u64, how: Written) {
        let now = self.moment();
        let cluster = self.block(place).values.get_mut(&value).expect("it began");
        match how {
            Written::Acknowledged => cluster.ended = now,
            Written::Durable => (cluster.ended, cluster.is_durable) = (now, true),
            Written::Unknown => cluster.was_given_up = true,
            Written::Never => cluster.never_happened = true,
        }
    }

    pub fn read_ends(&mut self, place: Place, value: u64, began: Moment) -> Result<(), Violation> {
        let now = self.moment();
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

    pub fn flush_ends(&mut self, volume: usize, began: Moment) {
        let blocks = self.blocks.range_mut((volume, 0)..=(volume, u64::MAX));
        let clusters = blocks.flat_map(|(_, block)| block.values.values_mut());
        clusters.filter(|cluster| cluster.ended < began).for_each(|cluster| cluster.is_durable = true);
    }

    pub fn fenced(&mut self, pool: usize) {
        let now = self.moment();
        let given_up = self.values_of_pool(pool).filter(|cluster| cluster.was_given_up);
        given_up.for_each(|cluster| cluster.deadline = cluster.deadline.min(now));
    }

    pub fn leg_forgets(&mut self, pool: usize, leg: usize) {
        let now = self.moment();
        self.forgot.insert((pool, leg), now);
        if (0..LEGS).all(|leg| self.forgot.contains_key(&(pool, leg))) {
            self.forgotten_shows(pool);
        }
    }

    pub fn forgotten_shows(&mut self, pool: usize) {
        let Some(forgot) = (0..LEGS).filter_map(|leg| self.forgot.get(&(pool, leg)).copied()).max() else { return };
        let now = self.moment();
        let blocks = self.blocks.iter_mut().filter(|(place, _)| VOLUMES[place.0].1 == pool);
        blocks.for_each(|(_, block)| block.may_come_back(forgot, now));
    }

    pub fn judge(&self) -> Result<(), Violation> {
        let judged = |(place, block): (&Place, &Block)| block.judge().map_err(|text| Violation { place: *place, text });
        self.blocks.iter().try_for_each(judged)
    }
}

impl Block {
    fn may_come_back(&mut self, forgot: Moment, now: Moment) {
        let stays = |cluster: &&Cluster| cluster.ended != NEVER && (cluster.is_durable || cluster.began > forgot);
        let last = self.values.values().filter(stays).map(|cluster| cluster.began).max().unwrap_or(0);
        let was_lost = |cluster: &Cluster| !cluster.is_durable && cluster.began < forgot;
        if !self.values.values().any(|cluster| was_lost(cluster) && cluster.first_end() >= last) {
            return;
        }
        let can = |cluster: &Cluster| cluster.first_end() != NEVER && cluster.first_end() >= last;
        let numbers = self.values.iter().filter(|(_, cluster)| can(cluster)).map(|(number, _)| number % AGAIN);
        for number in numbers.collect::<BTreeSet<u64>>() {
            let again = self.again.get(&number).copied().unwrap_or(number) + AGAIN;
            self.again.insert(number, again);
            self.values.insert(again, Cluster::begun(now));
        }
    }

    fn judge(&self) -> Result<(), String> {
        let counts =
            |(_, cluster): &(&u64, &Cluster)| cluster.was_read || !(cluster.ended == NEVER || cluster.never_happened);
        let (mut certain, mut others) = (Vec::new(), Vec::new());
        for (value, cluster) in self.values.iter().filter(counts) {
            if cluster.earliest_read_end < cluster.began {
                return Err(format!("value {value} was read before it was written"));
            }
            let (first_end, last_begin) = (cluster.first_end(), cluster.began.max(cluster.latest_read_begin));
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

/// Random histories, most of them nearly right: what is read is mostly what a register with caches could hold.
mod compared {
    use super::super::History as Quick;
    use super::*;
    use crate::chance::Chance;

    struct Both {
        chance: Chance,
        quick: Quick,
        slow: History,
        /// Writes under way.
        writes: Vec<(Place, u64)>,
        /// What each block holds, and held before.
        held: BTreeMap<Place, Vec<u64>>,
        next: u64,
    }

    impl Both {
        fn new(seed: u64) -> Self {
            let (quick, slow) = (Quick::default(), History::default());
            let chance = Chance::new(seed);
            Self { chance, quick, slow, writes: Vec::new(), held: BTreeMap::new(), next: 0 }
        }

        fn place(&self) -> Place {
            (self.chance.below(VOLUMES.len() as u64) as usize, self.chance.below(2))
        }

        fn moment(&mut self) -> Moment {
            let now = self.quick.moment();
            assert_eq!(now, self.slow.moment());
            now
        }

        fn write_begins(&mut self) {
            let place = self.place();
            self.next += 1;
            self.quick.write_begins(place, self.next);
            self.slow.write_begins(place, self.next);
            self.writes.push((place, self.next));
        }

        fn write_ends(&mut self) {
            if self.writes.is_empty() {
                return self.write_begins();
            }
            let (place, value) = self.writes.swap_remove(self.chance.below(self.writes.len() as u64) as usize);
            let how = match self.chance.below(12) {
                0 | 1 => Written::Unknown,
                2 => Written::Never,
                3..=6 => Written::Durable,
                _more => Written::Acknowledged,
            };
            self.quick.write_ends(place, value, how);
            self.slow.write_ends(place, value, how);
            let is_there = how != Written::Never && (how != Written::Unknown || self.chance.one_in(2));
            if is_there {
                self.held.entry(place).or_default().push(value);
            }
        }

        /// Mostly what is there; now and then what was there before, and the register has lost the newer ones from then on.
        fn read(&mut self) {
            let place = self.place();
            let began = self.moment();
            let held = self.held.entry(place).or_default();
            if self.chance.one_in(60) {
                held.pop();
            }
            let value = held.last().copied().unwrap_or(0);
            assert_eq!(self.quick.read_ends(place, value, began), self.slow.read_ends(place, value, began));
        }

        fn flush(&mut self) {
            let began = self.moment();
            if self.chance.one_in(2) {
                self.write_ends();
            }
            let volume = self.place().0;
            self.quick.flush_ends(volume, began);
            self.slow.flush_ends(volume, began);
        }

        fn trouble(&mut self) {
            let (pool, leg) = (self.chance.below(2) as usize, self.chance.below(LEGS as u64) as usize);
            match self.chance.below(3) {
                0 => {
                    self.quick.fenced(pool);
                    self.slow.fenced(pool);
                }
                1 => {
                    self.quick.leg_forgets(pool, leg);
                    self.slow.leg_forgets(pool, leg);
                }
                _else => {
                    self.quick.forgotten_shows(pool);
                    self.slow.forgotten_shows(pool);
                }
            }
        }

        fn step(&mut self) {
            match self.chance.below(40) {
                0..=12 => self.write_begins(),
                13..=25 => self.write_ends(),
                26..=36 => self.read(),
                37 | 38 => self.flush(),
                _else => self.trouble(),
            }
        }
    }

    #[test]
    fn the_same_history_gets_the_same_verdict() {
        let (mut held, mut broken) = (0, 0);
        for seed in 0..2_000 {
            let mut both = Both::new(seed);
            let mut verdict = Ok(());
            // Until it is broken: afterwards both would only say the same again.
            for _ in 0..60 {
                (0..5).for_each(|_| both.step());
                verdict = both.quick.judge();
                assert_eq!(verdict, both.slow.judge(), "seed {seed}");
                if verdict.is_err() {
                    break;
                }
            }
            *(if verdict.is_ok() { &mut held } else { &mut broken }) += 1;
        }
        assert!(held > 200 && broken > 200, "a comparison of {held} that held and {broken} that did not shows little");
    }
}
