//! What happened to the reservations and registrations of initiator ports that have not been told yet.
//!
//! A unit attention belongs to an I_T nexus that is there. A port that is logged out while its registration is preempted,
//! or whose node dies before it was told, would only find out by a RESERVATION CONFLICT, or, after a RELEASE, never. So what is
//! pending of these conditions is kept with the volume, by port, and reported when the port is back, behind the power-on or
//! nexus-loss condition it finds then.
//!
//! **At least once.** What was reported is taken off the kept bytes with the next change, not at once: a write for each report
//! would buy nothing. After the death of a node in between a port is told again, of something that is still true.
//!
//! The list is a courtesy and never a condition of safety: it is bounded, the oldest entry goes first, and it goes altogether
//! where there is no room to keep it.

use std::collections::VecDeque;

use understudy_scsi::Asc;

use crate::nexus::Nexus;

/// Most ports remembered. A few times the nodes of a large cluster of clients; a port that never comes back costs a place here
/// until so many others have gone by.
pub(crate) const MOST_UNTOLD: usize = 128;

/// The conditions that outlast a nexus, each with its bit in the kept bytes.
const LASTING: [(Asc, u8); 3] =
    [(Asc::RESERVATIONS_PREEMPTED, 1), (Asc::RESERVATIONS_RELEASED, 2), (Asc::REGISTRATIONS_PREEMPTED, 4)];

/// Conditions of one port, a bit each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Conditions(u8);

impl Conditions {
    /// Those of the codes that outlast a nexus.
    pub(crate) fn of(codes: impl IntoIterator<Item = Asc>) -> Self {
        let bit = |asc| LASTING.iter().find(|(lasting, _)| *lasting == asc).map_or(0, |(_, bit)| *bit);
        Self(codes.into_iter().fold(0, |bits, asc| bits | bit(asc)))
    }

    /// As kept; bits a later release may have added are left out.
    pub(crate) fn from_bits(bits: u8) -> Self {
        Self(bits & LASTING.iter().fold(0, |all, (_, bit)| all | bit))
    }

    pub(crate) fn bits(self) -> u8 {
        self.0
    }

    /// The codes, in the order they are reported.
    pub(crate) fn codes(self) -> impl Iterator<Item = Asc> {
        LASTING.into_iter().filter(move |(_, bit)| self.0 & bit != 0).map(|(asc, _)| asc)
    }
}

/// Ports and what they have to be told, oldest first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Untold {
    // BOUND: MOST_UNTOLD.
    ports: VecDeque<(Nexus, Conditions)>,
}

impl Untold {
    /// Adds conditions to what a port has to be told.
    pub(crate) fn add(&mut self, nexus: &Nexus, conditions: Conditions) {
        if conditions.0 == 0 {
            return;
        }
        let known = self.take(nexus);
        if self.ports.len() >= MOST_UNTOLD {
            self.ports.pop_front();
        }
        self.ports.push_back((nexus.clone(), Conditions(known.0 | conditions.0)));
    }

    /// Takes out what a port has to be told.
    pub(crate) fn take(&mut self, nexus: &Nexus) -> Conditions {
        let found = self.ports.iter().position(|(port, _)| port == nexus);
        found.and_then(|at| self.ports.remove(at)).map_or(Conditions(0), |(_, conditions)| conditions)
    }

    pub(crate) fn iter(&self) -> impl ExactSizeIterator<Item = (&Nexus, Conditions)> {
        self.ports.iter().map(|(nexus, conditions)| (nexus, *conditions))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.ports.is_empty()
    }

    /// Forgets the port that waits longest.
    pub(crate) fn forget_oldest(&mut self) {
        self.ports.pop_front();
    }
}

#[cfg(test)]
mod tests {
    use understudy_scsi::transport::InitiatorPort;

    use super::*;

    fn nexus(number: usize) -> Nexus {
        Nexus { initiator: InitiatorPort { name: format!("iqn.host{number}"), isid: [0; 6] }, target_port: 1 }
    }

    #[test]
    fn only_conditions_of_reservations_outlast_a_nexus_and_each_is_told_once() {
        let mut untold = Untold::default();
        untold.add(&nexus(1), Conditions::of([Asc::MODE_PARAMETERS_CHANGED, Asc::I_T_NEXUS_LOSS]));
        assert!(untold.is_empty());
        untold.add(&nexus(1), Conditions::of([Asc::REGISTRATIONS_PREEMPTED]));
        untold.add(&nexus(1), Conditions::of([Asc::RESERVATIONS_RELEASED, Asc::REGISTRATIONS_PREEMPTED]));
        let told: Vec<Asc> = untold.take(&nexus(1)).codes().collect();
        assert_eq!(told, [Asc::RESERVATIONS_RELEASED, Asc::REGISTRATIONS_PREEMPTED]);
        assert_eq!(untold.take(&nexus(1)).codes().count(), 0);
    }

    #[test]
    fn the_oldest_port_goes_when_there_are_too_many() {
        let mut untold = Untold::default();
        for number in 0..=MOST_UNTOLD {
            untold.add(&nexus(number), Conditions::of([Asc::RESERVATIONS_RELEASED]));
        }
        assert_eq!(untold.iter().len(), MOST_UNTOLD);
        assert_eq!(untold.take(&nexus(0)).bits(), 0);
        assert_ne!(untold.take(&nexus(MOST_UNTOLD)).bits(), 0);
    }
}
