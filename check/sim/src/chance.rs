//! Chance that follows from a seed: the only one there is in a simulation.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

/// A stream of numbers; clones draw from the same stream.
#[derive(Debug, Clone)]
pub struct Chance(Rc<Cell<u64>>);

impl Chance {
    /// The stream that follows from `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(Rc::new(Cell::new(seed)))
    }

    /// A stream of its own for `purpose`, so that what is drawn for one thing does not move everything else.
    #[must_use]
    pub fn apart(&self, purpose: u64) -> Self {
        Self::new(mix(self.0.get() ^ mix(purpose.wrapping_add(0x5eed))))
    }

    /// The next number: SplitMix64 (Steele, Lea, Flood, "Fast splittable pseudorandom number generators", 2014).
    #[must_use]
    pub fn draw(&self) -> u64 {
        let next = self.0.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
        self.0.set(next);
        mix(next)
    }

    /// From 0 up to but not including `end`.
    #[must_use]
    pub fn below(&self, end: u64) -> u64 {
        self.draw() % end.max(1)
    }

    /// Both ends included.
    #[must_use]
    pub fn between(&self, least: u64, most: u64) -> u64 {
        least + self.below(most.saturating_sub(least) + 1)
    }

    /// True once in so many times.
    #[must_use]
    pub fn one_in(&self, times: u64) -> bool {
        self.below(times) == 0
    }

    /// One of them.
    #[must_use]
    pub fn pick<T: Copy>(&self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }

    /// A number of milliseconds; both ends included.
    #[must_use]
    pub fn millis(&self, least: u64, most: u64) -> Duration {
        Duration::from_millis(self.between(least, most))
    }
}

fn mix(mut word: u64) -> u64 {
    word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}
