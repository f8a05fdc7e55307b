//! Persistent reservations: registrations, the reservation, and what each service action does to them
//! (SPC-4 r37 §5.13).
//!
//! A service action is planned on a copy: [`Reservations::plan`] answers the state that would follow, whom to tell and
//! whose commands to abort, or a refusal that changes nothing. The caller keeps the new state durably and only then
//! puts it in force.
//!
//! Invariants, held by construction and checked by the property test below: the holder of a reservation is registered;
//! an all-registrants reservation has at least one registrant; no registration has key zero; PRGENERATION never goes
//! back and moves only with registrations.

use std::collections::BTreeMap;

use understudy_scsi::reservation::{
    FullStatus, HeldReservation, MoveList, OutAction, OutList, OwnRegistration, Persistence, ReservationType,
};
use understudy_scsi::sense::{Asc, Sense};
use understudy_scsi::transport::{InitiatorPort, TransportId};

use crate::nexus::Nexus;

/// Most registrations of one unit; one more is refused with INSUFFICIENT REGISTRATION RESOURCES.
pub const MOST_REGISTRATIONS: usize = 1024;

/// A reservation in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// Its type.
    pub kind: ReservationType,
    /// Who holds it; `None` for the all-registrants types, where everyone registered does.
    pub holder: Option<Nexus>,
}

/// Registrations and reservation of one unit.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Reservations {
    pub(crate) generation: u32,
    pub(crate) registrations: BTreeMap<Nexus, u64>,
    pub(crate) held: Option<Held>,
    pub(crate) persistence: Persistence,
}

/// A PERSISTENT RESERVE OUT with everything it carries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// Any service action but REGISTER AND MOVE, with SCOPE and TYPE.
    Plain(OutAction, u8, OutList),
    /// REGISTER AND MOVE, with SCOPE and TYPE.
    Move(u8, MoveList),
}

/// What a service action would do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Planned {
    /// The state that would follow.
    pub next: Reservations,
    /// Unit attentions, for each nexus concerned.
    pub attentions: Vec<(Nexus, Asc)>,
    /// Nexuses whose commands are aborted (PREEMPT AND ABORT).
    pub aborts: Vec<Nexus>,
}

/// Why a service action is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// RESERVATION CONFLICT.
    Conflict,
    /// CHECK CONDITION.
    Check(Sense),
}

/// What a nexus may do while the reservation stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Standing {
    /// Everything.
    Admitted,
    /// Read, but not write.
    BarredFromWriting,
    /// Neither read nor write.
    Barred,
}

type Outcome = Result<Planned, Refusal>;

impl Reservations {
    /// PRGENERATION.
    #[must_use]
    pub fn generation(&self) -> u32 {
        self.generation
    }

    /// The key a nexus is registered with.
    #[must_use]
    pub fn key_of(&self, nexus: &Nexus) -> Option<u64> {
        self.registrations.get(nexus).copied()
    }

    /// Whether anybody is registered.
    #[must_use]
    pub fn is_unused(&self) -> bool {
        self.registrations.is_empty()
    }

    /// The reservation in force.
    #[must_use]
    pub fn held(&self) -> Option<&Held> {
        self.held.as_ref()
    }

    /// Whether registrations must survive a loss of power.
    #[must_use]
    pub fn persistence(&self) -> Persistence {
        self.persistence
    }

    /// Every key, in the order of nexuses.
    pub fn keys(&self) -> impl ExactSizeIterator<Item = u64> {
        self.registrations.values().copied()
    }

    /// The reservation as READ RESERVATION shows it.
    #[must_use]
    pub fn report(&self) -> Option<HeldReservation> {
        let held = self.held.as_ref()?;
        let key = held.holder.as_ref().and_then(|holder| self.key_of(holder)).unwrap_or(0);
        Some(HeldReservation { key, kind: held.kind })
    }

    /// Every registration as READ FULL STATUS shows it.
    #[must_use]
    pub fn full_status(&self) -> Vec<FullStatus> {
        self.registrations
            .iter()
            .map(|(nexus, key)| FullStatus {
                key: *key,
                holds: self.held.as_ref().filter(|_| self.holds(nexus)).map(|held| held.kind),
                target_port: nexus.target_port,
                port: nexus.initiator.clone(),
            })
            .collect()
    }

    /// Whether the nexus holds the reservation (SPC-4 r37 §5.13.10).
    #[must_use]
    pub fn holds(&self, nexus: &Nexus) -> bool {
        self.held.as_ref().is_some_and(|held| match &held.holder {
            Some(holder) => holder == nexus,
            None => self.registrations.contains_key(nexus),
        })
    }

    /// What the nexus may do (SPC-4 r37 §5.13.1 tables 62 and 63).
    #[must_use]
    pub fn standing(&self, nexus: &Nexus) -> Standing {
        let Some(held) = &self.held else { return Standing::Admitted };
        if self.holds(nexus) || (held.kind.admits_registrants() && self.registrations.contains_key(nexus)) {
            Standing::Admitted
        } else if held.kind.lets_outsiders_read() {
            Standing::BarredFromWriting
        } else {
            Standing::Barred
        }
    }

    /// Plans a service action asked by `nexus`.
    ///
    /// # Errors
    /// A [`Refusal`] means that nothing would change.
    pub fn plan(&self, nexus: &Nexus, request: &Request) -> Outcome {
        match request {
            Request::Plain(action, scope_and_type, list) => match action {
                OutAction::Register => self.register(nexus, list, OldKey::MustMatch),
                OutAction::RegisterAndIgnoreExistingKey => self.register(nexus, list, OldKey::Ignored),
                OutAction::Reserve => self.reserve(nexus, list, *scope_and_type),
                OutAction::Release => self.release(nexus, list, *scope_and_type),
                OutAction::Clear => self.clear(nexus, list),
                OutAction::Preempt => self.preempt(nexus, list, *scope_and_type),
                OutAction::PreemptAndAbort => self.preempt_and_abort(nexus, list, *scope_and_type),
                OutAction::RegisterAndMove => Err(Refusal::Check(Sense::cdb_field(1, Some(4)))),
            },
            Request::Move(scope_and_type, list) => self.register_and_move(nexus, list, *scope_and_type),
        }
    }

    fn unchanged(&self) -> Planned {
        Planned { next: self.clone(), attentions: Vec::new(), aborts: Vec::new() }
    }

    /// The next state after a change of registrations: PRGENERATION moves.
    fn next_generation(&self) -> Planned {
        let mut planned = self.unchanged();
        planned.next.generation = self.generation.wrapping_add(1);
        planned
    }

    fn require_key(&self, nexus: &Nexus, key: u64) -> Result<(), Refusal> {
        if self.key_of(nexus) == Some(key) { Ok(()) } else { Err(Refusal::Conflict) }
    }

    /// SPC-4 r37 §5.13.7 and tables 49 and 50.
    fn register(&self, nexus: &Nexus, list: &OutList, old_key: OldKey) -> Outcome {
        let registered = self.key_of(nexus);
        // SPC-4 r37 §6.16.3: ALL_TG_PT is refused as REPORT CAPABILITIES announces; SPEC_I_PT belongs to REGISTER of
        // a nexus that is not registered yet.
        if list.all_target_ports == understudy_scsi::reservation::AllTargetPorts::Yes {
            return Err(Refusal::Check(Sense::parameter_field(20, Some(2))));
        }
        if old_key == OldKey::MustMatch && registered.unwrap_or(0) != list.key {
            return Err(Refusal::Conflict);
        }
        if list.ports.is_some() && (old_key == OldKey::Ignored || registered.is_some()) {
            return Err(Refusal::Check(Sense::parameter_field(20, Some(3))));
        }
        match (registered, list.action_key) {
            (None, 0) if list.ports.is_some() => Err(Refusal::Check(Sense::parameter_field(20, Some(3)))),
            (None, 0) => Ok(self.unchanged()),
            (Some(_), 0) => {
                let mut planned = self.next_generation();
                planned.next.persistence = list.persistence;
                planned.unregister(nexus);
                Ok(planned)
            }
            (_, key) => self.register_key(nexus, key, list),
        }
    }

    fn register_key(&self, nexus: &Nexus, key: u64, list: &OutList) -> Outcome {
        let mut planned = self.next_generation();
        planned.next.persistence = list.persistence;
        planned.next.registrations.insert(nexus.clone(), key);
        for id in list.ports.iter().flatten() {
            let port = port_of(id).ok_or(Refusal::Check(Sense::parameter_field(28, None)))?;
            let named = Nexus { initiator: port.clone(), target_port: nexus.target_port };
            // Naming a nexus that is registered already is refused as a whole (SPC-4 r37 §5.13.7); oneself may be
            // among those named.
            if self.registrations.contains_key(&named) {
                return Err(Refusal::Conflict);
            }
            planned.next.registrations.insert(named, key);
        }
        if planned.next.registrations.len() > MOST_REGISTRATIONS {
            return Err(Refusal::Check(Sense::illegal(Asc::INSUFFICIENT_REGISTRATION_RESOURCES)));
        }
        Ok(planned)
    }

    /// SPC-4 r37 §5.13.9.
    fn reserve(&self, nexus: &Nexus, list: &OutList, scope_and_type: u8) -> Outcome {
        self.require_key(nexus, list.key)?;
        let kind = unit_scope(scope_and_type)?;
        let Some(held) = &self.held else {
            let mut planned = self.unchanged();
            planned.next.hold(nexus, kind);
            return Ok(planned);
        };
        if held.kind == kind && self.holds(nexus) { Ok(self.unchanged()) } else { Err(Refusal::Conflict) }
    }

    /// SPC-4 r37 §5.13.11.1.
    fn release(&self, nexus: &Nexus, list: &OutList, scope_and_type: u8) -> Outcome {
        self.require_key(nexus, list.key)?;
        let Some(held) = self.held.as_ref().filter(|_| self.holds(nexus)) else { return Ok(self.unchanged()) };
        if scope_and_type != held.kind as u8 {
            return Err(Refusal::Check(Sense::illegal(Asc::INVALID_RELEASE_OF_PERSISTENT_RESERVATION)));
        }
        let mut planned = self.unchanged();
        planned.next.held = None;
        if held.kind.admits_registrants() {
            planned.tell_others(nexus, Asc::RESERVATIONS_RELEASED);
        }
        Ok(planned)
    }

    /// SPC-4 r37 §5.13.11.3.
    fn clear(&self, nexus: &Nexus, list: &OutList) -> Outcome {
        self.require_key(nexus, list.key)?;
        let mut planned = self.next_generation();
        planned.tell_others(nexus, Asc::RESERVATIONS_PREEMPTED);
        planned.next.held = None;
        planned.next.registrations.clear();
        Ok(planned)
    }

    /// SPC-4 r37 §5.13.11.2.
    fn preempt(&self, nexus: &Nexus, list: &OutList, scope_and_type: u8) -> Outcome {
        self.require_key(nexus, list.key)?;
        let victim = list.action_key;
        match &self.held {
            Some(held) if held.holder.is_none() && victim == 0 => {
                self.take_over(nexus, unit_scope(scope_and_type)?, |_, _| true)
            }
            Some(held) if held.holder.as_ref().is_some_and(|holder| self.key_of(holder) == Some(victim)) => {
                self.take_over(nexus, unit_scope(scope_and_type)?, |_, key| key == victim)
            }
            Some(_) | None if victim == 0 => Err(Refusal::Check(Sense::parameter_field(8, None))),
            Some(_) | None => self.remove_registrations(nexus, victim),
        }
    }

    /// The reservation is released, the victims' registrations go, and this nexus holds a new reservation, all in one
    /// (SPC-4 r37 §5.13.11.2.4).
    fn take_over(&self, nexus: &Nexus, kind: ReservationType, victims: impl Fn(&Nexus, u64) -> bool) -> Outcome {
        let mut planned = self.next_generation();
        for (registrant, key) in &self.registrations {
            if registrant != nexus && victims(registrant, *key) {
                planned.next.registrations.remove(registrant);
                planned.attentions.push((registrant.clone(), Asc::REGISTRATIONS_PREEMPTED));
            }
        }
        planned.next.hold(nexus, kind);
        if self.held.as_ref().is_some_and(|held| held.kind != kind) {
            planned.tell_others(nexus, Asc::RESERVATIONS_RELEASED);
        }
        Ok(planned)
    }

    /// Registrations go, the reservation stays (SPC-4 r37 §5.13.11.2.5).
    fn remove_registrations(&self, nexus: &Nexus, victim: u64) -> Outcome {
        let mut planned = self.next_generation();
        let victims: Vec<&Nexus> =
            self.registrations.iter().filter(|(_, key)| **key == victim).map(|(registrant, _)| registrant).collect();
        if victims.is_empty() {
            return Err(Refusal::Conflict);
        }
        for registrant in victims {
            planned.next.registrations.remove(registrant);
            if registrant != nexus {
                planned.attentions.push((registrant.clone(), Asc::REGISTRATIONS_PREEMPTED));
            }
        }
        if planned.next.registrations.is_empty() {
            planned.next.held = None;
        }
        Ok(planned)
    }

    /// SPC-4 r37 §5.13.11.2.6: as PREEMPT, and every command of the nexuses that had the victim's key is aborted, this
    /// nexus's others among them if it preempts its own key.
    fn preempt_and_abort(&self, nexus: &Nexus, list: &OutList, scope_and_type: u8) -> Outcome {
        let mut planned = self.preempt(nexus, list, scope_and_type)?;
        let everybody_else = list.action_key == 0;
        planned.aborts = self
            .registrations
            .iter()
            .filter(|(registrant, key)| if everybody_else { *registrant != nexus } else { **key == list.action_key })
            .map(|(registrant, _)| registrant.clone())
            .collect();
        Ok(planned)
    }

    /// SPC-4 r37 §5.13.8.
    fn register_and_move(&self, nexus: &Nexus, list: &MoveList, scope_and_type: u8) -> Outcome {
        self.require_key(nexus, list.key)?;
        let Some(held) = &self.held else { return Err(Refusal::Check(Sense::cdb_field(1, Some(4)))) };
        if held.holder.as_ref() != Some(nexus) {
            return Err(Refusal::Conflict);
        }
        if unit_scope(scope_and_type)? != held.kind {
            return Err(Refusal::Check(Sense::cdb_field(2, Some(3))));
        }
        if list.action_key == 0 {
            return Err(Refusal::Check(Sense::parameter_field(8, None)));
        }
        let port = port_of(&list.port).ok_or(Refusal::Check(Sense::parameter_field(24, None)))?;
        let to = Nexus { initiator: port.clone(), target_port: list.target_port };
        if to == *nexus {
            return Err(Refusal::Check(Sense::parameter_field(24, None)));
        }
        let mut planned = self.next_generation();
        planned.next.persistence = list.persistence;
        planned.next.registrations.insert(to.clone(), list.action_key);
        planned.next.held = Some(Held { kind: held.kind, holder: Some(to) });
        if list.own_registration == OwnRegistration::Removed {
            planned.next.registrations.remove(nexus);
        }
        if planned.next.registrations.len() > MOST_REGISTRATIONS {
            return Err(Refusal::Check(Sense::illegal(Asc::INSUFFICIENT_REGISTRATION_RESOURCES)));
        }
        Ok(planned)
    }

    fn hold(&mut self, nexus: &Nexus, kind: ReservationType) {
        let holder = (!kind.is_all_registrants()).then(|| nexus.clone());
        self.held = Some(Held { kind, holder });
    }

    /// The first rule broken, for tests and for state read back.
    ///
    /// # Errors
    /// Says which one.
    pub fn invariant_holder_is_registered(&self) -> Result<(), &'static str> {
        if self.registrations.values().any(|key| *key == 0) {
            return Err("a registration has key zero");
        }
        match &self.held {
            None => Ok(()),
            Some(held) if held.kind.is_all_registrants() != held.holder.is_none() => {
                Err("holder and type of the reservation disagree")
            }
            Some(Held { holder: Some(holder), .. }) if !self.registrations.contains_key(holder) => {
                Err("the holder is not registered")
            }
            Some(_) if self.registrations.is_empty() => Err("a reservation without registrants"),
            Some(_) => Ok(()),
        }
    }
}

/// Whether REGISTER compares the old key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum OldKey {
    MustMatch,
    Ignored,
}

impl Planned {
    /// Tells everybody who stays registered, except the nexus that asked.
    fn tell_others(&mut self, nexus: &Nexus, asc: Asc) {
        let others = self.next.registrations.keys().filter(|registrant| *registrant != nexus).cloned();
        self.attentions.extend(others.map(|registrant| (registrant, asc)));
    }

    /// SPC-4 r37 §5.13.11.1.2: the reservation goes with its holder's registration; only registrants-only types tell
    /// the others, because only those lose access they had.
    fn unregister(&mut self, nexus: &Nexus) {
        let held_here = self.next.holds(nexus);
        self.next.registrations.remove(nexus);
        let Some(held) = &self.next.held else { return };
        let ends = match held.holder {
            Some(_) => held_here,
            None => self.next.registrations.is_empty(),
        };
        if ends {
            let tell = held.kind.admits_registrants();
            self.next.held = None;
            if tell {
                self.tell_others(nexus, Asc::RESERVATIONS_RELEASED);
            }
        }
    }
}

/// SCOPE must be the logical unit (0h), TYPE one of the six.
fn unit_scope(scope_and_type: u8) -> Result<ReservationType, Refusal> {
    if scope_and_type >> 4 != 0 {
        return Err(Refusal::Check(Sense::cdb_field(2, Some(7))));
    }
    ReservationType::from_bits(scope_and_type).ok_or(Refusal::Check(Sense::cdb_field(2, Some(3))))
}

/// A registration needs a port: a TransportID that names a device only cannot be registered here.
fn port_of(id: &TransportId) -> Option<&InitiatorPort> {
    match id {
        TransportId::Port(port) => Some(port),
        TransportId::Device(_) => None,
    }
}

#[cfg(test)]
#[path = "reservations_tests.rs"]
mod tests;
