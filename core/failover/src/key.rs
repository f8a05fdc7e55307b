//! Reservation keys: how a node signs a registration on a disk.
//!
//! A key says who registered it and when in the pair's history: pair, node, path, generation and the low bits of the
//! incarnation. On a pool disk each path has its own key (a PREEMPT removes every nexus that shares the victim's key,
//! SPC-4 r37 §5.13.11.2.4, and one's own sibling paths with it); on a lock disk path and generation are zero, so that
//! one PREEMPT AND ABORT removes all of a node.

use crate::words::{Generation, Incarnation, NodeId, PairId};

/// A reservation key as it stands on a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
pub struct ReservationKey(pub u64);

/// What a key says.
///
/// Bits from the top: pair 16, node 2, path 6, generation 24, incarnation 16.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyParts {
    /// Whose pair.
    pub pair: PairId,
    /// Whose registration.
    pub node: NodeId,
    /// Number of the path, 0 to 63; zero on lock disks.
    pub path: u8,
    /// Generation of the pool at registration; zero on lock disks.
    pub generation: Generation,
    /// Low bits of the incarnation that registered.
    pub incarnation_low: u16,
}

impl KeyParts {
    /// The key that says this.
    ///
    /// # Panics
    /// On a path or generation that does not fit: both come from this node's own configuration and counting.
    #[must_use]
    pub fn key(self) -> ReservationKey {
        assert!(self.path < 64, "a node has at most 64 paths to a disk");
        assert!(self.generation <= Generation::LAST, "a generation fits a key");
        ReservationKey(
            u64::from(self.pair.0) << 48
                | u64::from(self.node.code()) << 46
                | u64::from(self.path) << 40
                | u64::from(self.generation.0) << 16
                | u64::from(self.incarnation_low),
        )
    }
}

impl ReservationKey {
    /// The one key of all of a node's nexuses on lock disks.
    #[must_use]
    pub fn on_lock_disk(pair: PairId, node: NodeId, incarnation: Incarnation) -> Self {
        KeyParts { pair, node, path: 0, generation: Generation(0), incarnation_low: incarnation.low() }.key()
    }

    /// The key of one path to a pool disk.
    ///
    /// # Panics
    /// On a path number above 63 or a generation above [`Generation::LAST`].
    #[must_use]
    pub fn on_pool_disk(
        pair: PairId,
        node: NodeId,
        path: u8,
        generation: Generation,
        incarnation: Incarnation,
    ) -> Self {
        KeyParts { pair, node, path, generation, incarnation_low: incarnation.low() }.key()
    }

    /// What the key says, or `None` if it cannot be a key of any pair (a foreign system's).
    #[must_use]
    pub fn parts(self) -> Option<KeyParts> {
        let node = NodeId::from_code((self.0 >> 46 & 0b11) as u8)?;
        Some(KeyParts {
            pair: PairId((self.0 >> 48) as u16),
            node,
            path: (self.0 >> 40 & 0x3f) as u8,
            generation: Generation((self.0 >> 16 & 0x00ff_ffff) as u32),
            incarnation_low: (self.0 & 0xffff) as u16,
        })
    }

    /// Whether the key is one of this node of this pair, of whatever incarnation.
    #[must_use]
    pub fn is_of(self, pair: PairId, node: NodeId) -> bool {
        self.parts().is_some_and(|parts| parts.pair == pair && parts.node == node)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_says_what_it_was_made_of() {
        let key =
            ReservationKey::on_pool_disk(PairId(0xbeef), NodeId::B, 63, Generation::LAST, Incarnation(0x1234_5678));
        let parts = key.parts().expect("own key");
        assert_eq!(parts.pair, PairId(0xbeef));
        assert_eq!(parts.node, NodeId::B);
        assert_eq!(parts.path, 63);
        assert_eq!(parts.generation, Generation::LAST);
        assert_eq!(parts.incarnation_low, 0x5678);
        assert_eq!(parts.key(), key);
    }

    #[test]
    fn keys_of_a_lock_disk_differ_only_by_node_and_incarnation() {
        let a = ReservationKey::on_lock_disk(PairId(1), NodeId::A, Incarnation(7));
        let b = ReservationKey::on_lock_disk(PairId(1), NodeId::B, Incarnation(7));
        assert_ne!(a, b);
        assert!(a.is_of(PairId(1), NodeId::A) && !a.is_of(PairId(1), NodeId::B) && !a.is_of(PairId(2), NodeId::A));
        assert_eq!(a.parts().map(|parts| (parts.path, parts.generation)), Some((0, Generation(0))));
    }

    #[test]
    fn zero_and_foreign_keys_have_no_parts() {
        assert_eq!(ReservationKey(0).parts(), None);
        assert_eq!(ReservationKey(0x0000_c000_0000_0001).parts(), None);
    }
}
