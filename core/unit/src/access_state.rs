//! By which target port groups a unit is reached, and what each of them lets pass (asymmetric logical unit access).
//!
//! Problem: a unit that is reached through two nodes is one unit, with ports that are not alike: at most one node has its pool. A
//! client has to be told which way to take, and a command that came the other way must not be answered as if it had been
//! carried out.
//!
//! Idea: the groups and their states are the unit's own knowledge, told to it by whoever moves its pool; every answer about them
//! (REPORT TARGET PORT GROUPS, the designators of page 83h) and every refusal comes from this one list. States move by
//! themselves, with the pool, and never by a client's wish: INQUIRY says so (TPGS 01b), and SET TARGET PORT GROUPS is no command
//! of this unit.
//!
//! Invariant: after a state moved, every nexus finds the unit attention 2Ah/06h before its next command is carried out, whichever group it
//! comes by. Not here: *transitioning*. A move takes milliseconds in which commands are held; a client that is told of a transition
//! looks again only after seconds.

use understudy_scsi::alua::{AccessCause, AccessState, PortGroup, ReportFormat, encode_groups};
use understudy_scsi::cdb::Command;
use understudy_scsi::sense::{Asc, Sense, SenseKey};

use crate::nexus::NexusId;
use crate::unit::LogicalUnit;

/// Longest a group may be in transition, in seconds, for a client that looks while a move is held: as long as a command may be held.
const TRANSITION_S: u8 = 30;

/// The groups a unit was told of; none as long as there is only the one a command comes by.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct PortGroups(Vec<PortGroup>);

impl PortGroups {
    /// The group of a port: with no groups told each port is its own.
    fn of_port(&self, port: u16) -> u16 {
        self.0.iter().find(|group| group.ports.contains(&port)).map_or(port, |group| group.group)
    }

    fn state_of_port(&self, port: u16) -> AccessState {
        let found = self.0.iter().find(|group| group.ports.contains(&port));
        found.map_or(AccessState::ActiveOptimized, |group| group.state)
    }
}

/// Whether a command is carried out by a port in this state, as SPC-4 r37 has it for each; a command that reaches blocks is not,
/// unless the state is active.
fn passes(state: AccessState, command: &Command) -> bool {
    match (state, command) {
        (AccessState::ActiveOptimized | AccessState::ActiveNonOptimized, _) => true,
        (
            AccessState::Standby | AccessState::Unavailable,
            Command::Inquiry { .. }
            | Command::VitalProductData { .. }
            | Command::ReportLuns { .. }
            | Command::ReportTargetPortGroups { .. }
            | Command::RequestSense { .. },
        ) => true,
        (AccessState::Unavailable, _) => false,
        (
            AccessState::Standby,
            Command::LogSense { .. }
            | Command::ModeSense { .. }
            | Command::ModeSelect { .. }
            | Command::SendDiagnostic
            | Command::ReadCapacity10
            | Command::ReadCapacity16 { .. }
            | Command::ReportSupportedOperationCodes { .. }
            | Command::ReportSupportedTaskManagement { .. }
            | Command::PersistentReserveIn { .. }
            | Command::PersistentReserveOut { .. },
        ) => true,
        (AccessState::Standby, _) => false,
    }
}

impl LogicalUnit {
    /// Tells the unit its groups. Whoever is attached is told that something changed, unless nothing did.
    pub fn reached_by(&mut self, groups: Vec<PortGroup>) {
        let groups = PortGroups(groups);
        if self.port_groups != groups {
            self.port_groups = groups;
            self.tell_everybody(Asc::ASYMMETRIC_ACCESS_STATE_CHANGED);
        }
    }

    /// A group reaches the unit in another way now: every nexus finds a unit attention (2Ah/06h).
    pub fn access_moved(&mut self, group: u16, state: AccessState) {
        let mut groups = self.port_groups.0.clone();
        for moved in groups.iter_mut().filter(|known| known.group == group && known.state != state) {
            moved.state = state;
            moved.cause = AccessCause::Implicit;
        }
        self.reached_by(groups);
    }

    /// The state of the group a nexus comes by.
    #[must_use]
    pub fn access_state(&self, nexus: NexusId) -> AccessState {
        self.port_groups.state_of_port(self.state(nexus).nexus.target_port)
    }

    /// Whether the way a command came lets it pass.
    pub(crate) fn open_to(&self, nexus: NexusId, command: &Command) -> Result<(), Sense> {
        // The usual case: nothing was told.
        if self.port_groups.0.is_empty() {
            return Ok(());
        }
        let asc = match self.access_state(nexus) {
            state if passes(state, command) => return Ok(()),
            AccessState::Standby => Asc::TARGET_PORT_IN_STANDBY_STATE,
            AccessState::ActiveOptimized | AccessState::ActiveNonOptimized | AccessState::Unavailable => {
                Asc::TARGET_PORT_IN_UNAVAILABLE_STATE
            }
        };
        Err(Sense::new(SenseKey::NotReady, asc))
    }

    /// The group of a port, for page 83h.
    pub(crate) fn group_of_port(&self, port: u16) -> u16 {
        self.port_groups.of_port(port)
    }

    /// REPORT TARGET PORT GROUPS (SPC-4 r37 §6.37).
    pub(crate) fn report_groups(&self, nexus: NexusId, format: ReportFormat) -> Vec<u8> {
        let port = self.state(nexus).nexus.target_port;
        let alone = || PortGroup {
            group: self.group_of_port(port),
            state: AccessState::ActiveOptimized,
            cause: AccessCause::Initial,
            possible: vec![AccessState::ActiveOptimized],
            ports: vec![port],
        };
        let told = &self.port_groups.0;
        if told.is_empty() {
            encode_groups(&[alone()], format, TRANSITION_S)
        } else {
            encode_groups(told, format, TRANSITION_S)
        }
    }
}

#[cfg(test)]
#[path = "access_state_tests.rs"]
mod tests;
