//! Target port groups: how well a unit can be reached by which ports (asymmetric logical unit access, SPC-4 r37 §6.37).
//!
//! Not here: which state a port has, and what a command is answered in it; those decisions are the logical unit's. Nor SET TARGET PORT
//! GROUPS: a unit whose states follow its pool and nobody's wish says so by TPGS, and refuses the command as one it does not have.

use crate::bytes::{u8_at, u16_at, u32_at};

/// How a port group reaches a unit (SPC-4 r37 §6.37, ASYMMETRIC ACCESS STATE).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum AccessState {
    /// Every command is carried out, as well as it can be.
    ActiveOptimized = 0x0,
    /// Every command is carried out, by a longer way.
    ActiveNonOptimized = 0x1,
    /// Commands that reach no block are carried out; a group with this state may become active.
    Standby = 0x2,
    /// Only who the unit is, and how else it is reached, is answered.
    Unavailable = 0x3,
}

impl AccessState {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::ActiveOptimized, Self::ActiveNonOptimized, Self::Standby, Self::Unavailable];

    /// The state of these four bits, if it is one of those used here.
    #[must_use]
    pub fn from_bits(bits: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|state| *state as u8 == bits & 0x0f)
    }

    /// Its bit among the supported states: AO_SUP, AN_SUP, S_SUP, U_SUP.
    fn support(self) -> u8 {
        1 << self as u8
    }
}

/// Why a group has the state it has (SPC-4 r37 §6.37, STATUS CODE).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum AccessCause {
    /// It never had another one.
    Initial = 0x00,
    /// The device moved it by itself.
    Implicit = 0x02,
}

/// One target port group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortGroup {
    /// TARGET PORT GROUP.
    pub group: u16,
    /// Its state.
    pub state: AccessState,
    /// Why.
    pub cause: AccessCause,
    /// The states it can have.
    pub possible: Vec<AccessState>,
    /// Relative target port identifiers of its ports.
    pub ports: Vec<u16>,
}

/// PARAMETER DATA FORMAT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReportFormat {
    /// Length only.
    LengthOnly,
    /// With how long a transition may take.
    Extended,
}

/// The parameter data of REPORT TARGET PORT GROUPS (SPC-4 r37 §6.37). `transition_s`: the longest a state may be in transition,
/// in seconds; zero: not told.
#[must_use]
pub fn encode_groups(groups: &[PortGroup], format: ReportFormat, transition_s: u8) -> Vec<u8> {
    let mut out = match format {
        ReportFormat::LengthOnly => vec![0; 4],
        // Format type 001b in the high bits of the first byte behind the length.
        ReportFormat::Extended => vec![0, 0, 0, 0, 0x10, transition_s, 0, 0],
    };
    for group in groups {
        let possible = group.possible.iter().fold(0, |bits, state| bits | state.support());
        out.extend_from_slice(&[group.state as u8, possible]);
        out.extend_from_slice(&group.group.to_be_bytes());
        out.extend_from_slice(&[0, group.cause as u8, 0, group.ports.len() as u8]);
        for port in &group.ports {
            out.extend_from_slice(&u32::from(*port).to_be_bytes());
        }
    }
    let length = (out.len() - 4) as u32;
    out[..4].copy_from_slice(&length.to_be_bytes());
    out
}

/// Reads parameter data of either format, as far as it is whole; a group with a state not used here is left out.
#[must_use]
pub fn parse_groups(bytes: &[u8]) -> Vec<PortGroup> {
    let end = bytes.len().min(4usize.saturating_add(u32_at(bytes, 0) as usize));
    let header = if bytes.len() > 4 && u8_at(bytes, 4) & 0x70 == 0x10 { 8 } else { 4 };
    let mut rest = bytes.get(header..end).unwrap_or_default();
    let mut groups = Vec::new();
    // BOUND: each round takes at least eight bytes.
    while rest.len() >= 8 {
        let length = 8 + 4 * usize::from(rest[7]);
        let Some(descriptor) = rest.get(..length) else { break };
        rest = &rest[length..];
        let Some(state) = AccessState::from_bits(descriptor[0]) else { continue };
        groups.push(PortGroup {
            group: u16_at(descriptor, 2),
            state,
            cause: if descriptor[5] == 0 { AccessCause::Initial } else { AccessCause::Implicit },
            possible: AccessState::ALL.into_iter().filter(|state| descriptor[1] & state.support() != 0).collect(),
            ports: descriptor[8..].chunks_exact(4).map(|port| u16_at(port, 2)).collect(),
        });
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::*;

    fn two() -> Vec<PortGroup> {
        let possible = vec![AccessState::ActiveOptimized, AccessState::Unavailable];
        let group = |group, state, ports| PortGroup {
            group,
            state,
            cause: AccessCause::Implicit,
            possible: possible.clone(),
            ports,
        };
        vec![group(1, AccessState::ActiveOptimized, vec![1, 3]), group(0x102, AccessState::Unavailable, vec![0x102])]
    }

    /// SPC-4 r37 §6.37.
    #[test]
    fn groups_of_either_format_are_read_back_as_written() {
        for format in [ReportFormat::LengthOnly, ReportFormat::Extended] {
            let bytes = encode_groups(&two(), format, 30);
            assert_eq!(u32_at(&bytes, 0) as usize + 4, bytes.len());
            assert_eq!(parse_groups(&bytes), two(), "{format:?}");
            for cut in 0..bytes.len() {
                assert!(parse_groups(&bytes[..cut]).len() < 2);
            }
        }
    }

    /// SPC-4 r37 §6.37: byte by byte, so that both directions cannot be wrong alike.
    #[test]
    fn a_group_has_its_fields_where_the_standard_puts_them() {
        let bytes = encode_groups(&two()[1..], ReportFormat::Extended, 30);
        assert_eq!(bytes, [0, 0, 0, 16, 0x10, 30, 0, 0, 0x03, 0x09, 1, 2, 0, 2, 0, 1, 0, 0, 1, 2]);
    }
}
