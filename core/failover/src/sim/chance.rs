//! Chance: the seeded generator, and how badly a world behaves.
//!
//! Not here: which faults are drawn ([`super::faults`]). The one idea: one generator, drawn from in one order, makes a seed a schedule.

/// A small generator of numbers: SplitMix64 (public domain, Steele, Lea and Flood 2014).
#[derive(Debug, Clone)]
pub struct Dice(u64);

impl Dice {
    /// From a seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `bound`, which is not zero.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.roll() % bound
    }

    /// True once in `in_how_many`; never for zero.
    pub fn once_in(&mut self, in_how_many: u64) -> bool {
        in_how_many != 0 && self.below(in_how_many) == 0
    }
}

/// How the world misbehaves. Zero is never.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chaos {
    /// A page read is lost, once in so many.
    pub page_lost: u64,
    /// A page read is late, once in so many.
    pub page_late: u64,
    /// A record write has an unknown outcome, once in so many.
    pub record_unknown: u64,
    /// Longest time of one step of an order, microseconds; the shortest is a tenth.
    pub step_us: u64,
    /// Longest time of a client's write, microseconds.
    pub write_us: u64,
    /// A step takes fifty times as long, once in so many.
    pub slow_step: u64,
    /// A client's write hangs in the disk for up to two seconds, once in so many.
    pub slow_write: u64,
}

impl Chaos {
    /// Nothing goes wrong and everything takes its usual time.
    pub const NONE: Self = Self {
        page_lost: 0,
        page_late: 0,
        record_unknown: 0,
        step_us: 200,
        write_us: 400,
        slow_step: 0,
        slow_write: 0,
    };
    /// Much goes wrong.
    pub const WILD: Self = Self {
        page_lost: 12,
        page_late: 8,
        record_unknown: 12,
        step_us: 2_000,
        write_us: 20_000,
        slow_step: 60,
        slow_write: 60,
    };
}
