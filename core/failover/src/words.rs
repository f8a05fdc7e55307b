//! The numbers of the protocol, one newtype each.
//!
//! Not here: anything that decides. The one idea: a pair, a node, a run of its process, a generation and a moment are
//! different things and cannot be mixed up in a call.

use std::fmt;

/// Number of the pair, the same on both nodes, part of every page, record and key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
pub struct PairId(pub u16);

/// One of the two nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
pub enum NodeId {
    /// The first node of the pair's configuration.
    A,
    /// The second one.
    B,
}

impl NodeId {
    /// Both nodes, in the order of their areas on a lock disk.
    pub const BOTH: [Self; 2] = [Self::A, Self::B];

    /// The other node.
    #[must_use]
    pub fn partner(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B => Self::A,
        }
    }

    /// 0 or 1: index of this node's area on a lock disk and in every `[_; 2]` by node.
    #[must_use]
    pub fn index(self) -> usize {
        match self {
            Self::A => 0,
            Self::B => 1,
        }
    }

    /// The number written to pages, records and keys: 1 or 2, so that no key is ever zero.
    #[must_use]
    pub fn code(self) -> u8 {
        match self {
            Self::A => 1,
            Self::B => 2,
        }
    }

    /// The node of a code, or `None` if there is no such node.
    #[must_use]
    pub fn from_code(code: u8) -> Option<Self> {
        match code {
            1 => Some(Self::A),
            2 => Some(Self::B),
            _ => None,
        }
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::A => "A",
            Self::B => "B",
        })
    }
}

/// One run of a node's process: a random non-zero number drawn by the driver at start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
pub struct Incarnation(pub u64);

impl Incarnation {
    /// "Nobody": the word in a page that names no incarnation.
    pub const NONE: Self = Self(0);

    /// The bits that go into a key.
    #[must_use]
    pub fn low(self) -> u16 {
        (self.0 & 0xffff) as u16
    }
}

impl fmt::Display for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// Grows with every change of ownership or of mirror legs. 24 bits, because it is part of every key.
///
/// Odd ones are handed out by node A, even ones by node B: however late either hears of the other, no two claims carry the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
pub struct Generation(pub u32);

impl Generation {
    /// The largest one a key can carry. One change a second for three months; `pair init` starts again from 1.
    pub const LAST: Self = Self(0x00ff_ffff);

    /// The smallest one after this that this node may hand out, or `None` where they are used up: such a node cannot take anything over
    /// and says so.
    #[must_use]
    pub fn next_of(self, node: NodeId) -> Option<Self> {
        let parity = match node {
            NodeId::A => 1,
            NodeId::B => 0,
        };
        let next = self.0.checked_add(1)?;
        let next = if next % 2 == parity { next } else { next.checked_add(1)? };
        (next <= Self::LAST.0).then_some(Self(next))
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// Grows with every write of a pool's metadata.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
pub struct MetadataVersion(pub u64);

/// Number of a pool, unique in the pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
pub struct PoolId(pub u32);

impl fmt::Display for PoolId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pool {}", self.0)
    }
}

/// Index of a mirror within its pool, as in the pool's label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
pub struct MirrorIndex(pub u16);

/// Index of a leg within its mirror, 0 to 7.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
pub struct LegIndex(pub u8);

/// The legs of one mirror that are recorded good, one bit a leg.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
pub struct LegSet(pub u8);

impl LegSet {
    /// The first `legs` legs.
    ///
    /// # Panics
    /// On more than 8 legs: the configuration's limit.
    #[must_use]
    pub fn first(legs: u8) -> Self {
        assert!(legs <= 8, "a mirror has at most 8 legs");
        Self(((1u16 << legs) - 1) as u8)
    }

    /// Whether a leg is in the set.
    #[must_use]
    pub fn contains(self, leg: LegIndex) -> bool {
        leg.0 < 8 && self.0 & (1 << leg.0) != 0
    }

    /// The set without a leg.
    #[must_use]
    pub fn without(self, leg: LegIndex) -> Self {
        if leg.0 < 8 { Self(self.0 & !(1 << leg.0)) } else { self }
    }

    /// The set with a leg.
    #[must_use]
    pub fn with(self, leg: LegIndex) -> Self {
        if leg.0 < 8 { Self(self.0 | (1 << leg.0)) } else { self }
    }

    /// The legs in both sets.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// The legs that are not in the other set.
    #[must_use]
    pub fn except(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Whether no leg is left.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// How many legs.
    #[must_use]
    pub fn len(self) -> u32 {
        self.0.count_ones()
    }
}

/// A moment, or a length of time, in microseconds of the driver's monotonic clock. The core has no clock of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, serde::Serialize, serde::Deserialize)]
pub struct Micros(pub u64);

impl Micros {
    /// So many milliseconds.
    #[must_use]
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis * 1_000)
    }

    /// This moment and `length` after it.
    #[must_use]
    pub const fn after(self, length: Self) -> Self {
        Self(self.0.saturating_add(length.0))
    }

    /// From `earlier` to this moment, zero if it lies ahead.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Self {
        Self(self.0.saturating_sub(earlier.0))
    }
}

/// Number of an order, echoed in its answer. An answer whose number is not the one waited for does nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
pub struct Op(pub u64);

/// Number of an operator's request, given by the driver and echoed in [`crate::effect::Effect::AnswerOperator`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
pub struct RequestId(pub u64);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_generation_is_handed_out_by_both_nodes() {
        for seen in (0..20).map(Generation) {
            let [a, b] = NodeId::BOTH.map(|node| seen.next_of(node).expect("plenty left"));
            assert!(a > seen && b > seen && a != b, "{seen}: {a} and {b}");
            assert_eq!((a.0 % 2, b.0 % 2), (1, 0));
            assert_eq!(a.0.max(b.0), seen.0 + 2, "none is left out");
        }
    }

    #[test]
    fn generations_used_up_are_not_counted_on_from() {
        let last = Generation::LAST.0;
        assert_eq!(Generation(last - 1).next_of(NodeId::A), Some(Generation::LAST));
        assert_eq!(Generation(last - 1).next_of(NodeId::B), None);
        assert_eq!(Generation::LAST.next_of(NodeId::A), None);
        assert_eq!(Generation(u32::MAX).next_of(NodeId::B), None);
    }
}
