//! Where a client believes its units to be, and what it has to be told when one is somewhere else.
//!
//! For a session that is kept while units move between nodes: a unit that comes and goes with its node cannot know what its client saw
//! before it came.

use std::collections::BTreeMap;

use understudy_scsi::sense::Asc;

/// Where a unit is, seen from the node that keeps the session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// At this node.
    Here,
    /// At the other node, in this session with it.
    There(u64),
}

/// What the client of one nexus was told, by LUN field.
#[derive(Debug, Default)]
pub struct Whereabouts {
    // BOUND: whoever calls `told` does so for numbers a unit can have.
    told: BTreeMap<u64, Side>,
}

impl Whereabouts {
    /// Whether the client was told of this unit at all.
    #[must_use]
    pub fn is_known(&self, lun: u64) -> bool {
        self.told.contains_key(&lun)
    }

    /// The unit attention that the next command to a unit has to be answered with (an arrival and a lost session: SAM-5 r21 §6.3).
    #[must_use]
    pub fn owed(&self, lun: u64, now: Side) -> Option<Asc> {
        match (self.told.get(&lun), now) {
            (Some(before), now) if *before == now => None,
            (Some(Side::There(_)), Side::There(_)) => Some(Asc::I_T_NEXUS_LOSS),
            (Some(_), _) => Some(Asc::ASYMMETRIC_ACCESS_STATE_CHANGED),
            (None, _) => Some(Asc::POWER_ON_RESET_OR_BUS_DEVICE_RESET),
        }
    }

    /// The client knows now.
    pub fn told(&mut self, lun: u64, now: Side) {
        self.told.insert(lun, now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// SAM-5 r21 §6.3.
    #[test]
    fn a_client_is_told_of_its_arrival_of_each_move_and_of_each_lost_session_once() {
        let mut known = Whereabouts::default();
        let story = [
            (Side::There(1), Asc::POWER_ON_RESET_OR_BUS_DEVICE_RESET),
            (Side::Here, Asc::ASYMMETRIC_ACCESS_STATE_CHANGED),
            (Side::There(2), Asc::ASYMMETRIC_ACCESS_STATE_CHANGED),
            (Side::There(3), Asc::I_T_NEXUS_LOSS),
        ];
        for (now, owed) in story {
            assert_eq!(known.owed(0, now), Some(owed), "{now:?}");
            known.told(0, now);
            assert_eq!(known.owed(0, now), None, "{now:?}");
            assert!(known.is_known(0) && !known.is_known(1));
        }
    }
}
