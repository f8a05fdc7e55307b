//! Unit attentions pending for one I_T nexus (SAM-5 r21 §5.14).
//!
//! A condition is remembered once however often it happens. Power-on and reset conditions come first and take the
//! place of everything else that was pending: an initiator that is told of them has to look at everything anyway.

use understudy_scsi::Asc;

/// What is pending, in the order it will be reported.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Attentions {
    // BOUND: one entry for each code the unit knows, because codes are not repeated.
    pending: Vec<Asc>,
}

/// Whether a code belongs to the power-on, reset and nexus-loss family, which also goes before RESERVATION CONFLICT
/// (SAM-5 r21 §5.3.3).
fn is_reset(asc: Asc) -> bool {
    asc.code() == 0x29
}

impl Attentions {
    /// Remembers a condition.
    pub fn establish(&mut self, asc: Asc) {
        if is_reset(asc) {
            // The conditions are ordered by how much they say: a pending power-on is not weakened to a nexus loss.
            let strongest =
                self.pending.first().copied().filter(|first| is_reset(*first)).map_or(asc, |old| old.min(asc));
            self.pending.clear();
            self.pending.push(strongest);
        } else if !self.pending.contains(&asc) {
            self.pending.push(asc);
        }
    }

    /// Whether nothing is pending.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.pending.is_empty()
    }

    /// What is pending, in the order it will be reported.
    pub(crate) fn pending(&self) -> impl Iterator<Item = Asc> + '_ {
        self.pending.iter().copied()
    }

    /// Takes the first condition.
    pub fn take(&mut self) -> Option<Asc> {
        if self.pending.is_empty() { None } else { Some(self.pending.remove(0)) }
    }

    /// Takes the first condition if it goes before RESERVATION CONFLICT.
    pub fn take_reset(&mut self) -> Option<Asc> {
        if self.pending.first().copied().is_some_and(is_reset) { self.take() } else { None }
    }

    /// Forgets one condition because the initiator has just learned of it by other means.
    pub fn withdraw(&mut self, asc: Asc) {
        self.pending.retain(|pending| *pending != asc);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_is_reported_once() {
        let mut attentions = Attentions::default();
        attentions.establish(Asc::RESERVATIONS_RELEASED);
        attentions.establish(Asc::REGISTRATIONS_PREEMPTED);
        attentions.establish(Asc::RESERVATIONS_RELEASED);
        assert_eq!(attentions.take(), Some(Asc::RESERVATIONS_RELEASED));
        assert_eq!(attentions.take(), Some(Asc::REGISTRATIONS_PREEMPTED));
        assert_eq!(attentions.take(), None);
    }

    /// SAM-5 r21 §5.14.
    #[test]
    fn a_reset_takes_the_place_of_what_was_pending_and_a_weaker_one_does_not() {
        let mut attentions = Attentions::default();
        attentions.establish(Asc::RESERVATIONS_RELEASED);
        attentions.establish(Asc::POWER_ON_RESET_OR_BUS_DEVICE_RESET);
        attentions.establish(Asc::I_T_NEXUS_LOSS);
        assert_eq!(attentions.take_reset(), Some(Asc::POWER_ON_RESET_OR_BUS_DEVICE_RESET));
        assert_eq!(attentions.take(), None);
    }
}
