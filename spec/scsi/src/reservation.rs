//! Persistent reservations on the wire: service actions, types, parameter lists and parameter data, both ways
//! (SPC-4 r37 §5.13, §6.15, §6.16).
//!
//! What a service action does to registrations is in `understudy-unit`.

use crate::bytes::{u8_at, u16_at, u32_at, u64_at};
use crate::sense::{Asc, Sense};
use crate::transport::{InitiatorPort, TransportId};

/// PERSISTENT RESERVE IN service actions (SPC-4 r37 table 204).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum InAction {
    /// Every registered key.
    ReadKeys = 0,
    /// The reservation in force.
    ReadReservation = 1,
    /// What is supported.
    ReportCapabilities = 2,
    /// Keys with their I_T nexuses.
    ReadFullStatus = 3,
}

impl InAction {
    /// The action in the low five bits.
    #[must_use]
    pub fn from_bits(bits: u8) -> Option<Self> {
        Some(match bits & 0x1f {
            0 => Self::ReadKeys,
            1 => Self::ReadReservation,
            2 => Self::ReportCapabilities,
            3 => Self::ReadFullStatus,
            _ => return None,
        })
    }
}

/// PERSISTENT RESERVE OUT service actions (SPC-4 r37 table 214).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum OutAction {
    /// Register or unregister, naming the old key.
    Register = 0,
    /// Reserve.
    Reserve = 1,
    /// Release.
    Release = 2,
    /// Remove everything.
    Clear = 3,
    /// Remove registrations of a key, take its reservation.
    Preempt = 4,
    /// The same, and abort what they had under way.
    PreemptAndAbort = 5,
    /// Register or unregister whatever the old key.
    RegisterAndIgnoreExistingKey = 6,
    /// Register another I_T nexus and give it the reservation.
    RegisterAndMove = 7,
}

impl OutAction {
    /// The action in the low five bits.
    #[must_use]
    pub fn from_bits(bits: u8) -> Option<Self> {
        Some(match bits & 0x1f {
            0 => Self::Register,
            1 => Self::Reserve,
            2 => Self::Release,
            3 => Self::Clear,
            4 => Self::Preempt,
            5 => Self::PreemptAndAbort,
            6 => Self::RegisterAndIgnoreExistingKey,
            7 => Self::RegisterAndMove,
            _ => return None,
        })
    }
}

/// Reservation types (SPC-4 r37 table 211).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum ReservationType {
    /// 1h: only the holder writes.
    WriteExclusive = 0x1,
    /// 3h: only the holder reads or writes.
    ExclusiveAccess = 0x3,
    /// 5h: registrants write, everyone reads.
    WriteExclusiveRegistrantsOnly = 0x5,
    /// 6h: only registrants read or write.
    ExclusiveAccessRegistrantsOnly = 0x6,
    /// 7h: like 5h, every registrant is a holder.
    WriteExclusiveAllRegistrants = 0x7,
    /// 8h: like 6h, every registrant is a holder.
    ExclusiveAccessAllRegistrants = 0x8,
}

impl ReservationType {
    /// All six.
    pub const ALL: [Self; 6] = [
        Self::WriteExclusive,
        Self::ExclusiveAccess,
        Self::WriteExclusiveRegistrantsOnly,
        Self::ExclusiveAccessRegistrantsOnly,
        Self::WriteExclusiveAllRegistrants,
        Self::ExclusiveAccessAllRegistrants,
    ];

    /// The type of the low four bits, or `None` for an obsolete or reserved value.
    #[must_use]
    pub fn from_bits(bits: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| *kind as u8 == bits & 0x0f)
    }

    /// Whether every registrant holds the reservation.
    #[must_use]
    pub fn is_all_registrants(self) -> bool {
        matches!(self, Self::WriteExclusiveAllRegistrants | Self::ExclusiveAccessAllRegistrants)
    }

    /// Whether registrants that do not hold the reservation have the holder's access.
    #[must_use]
    pub fn admits_registrants(self) -> bool {
        !matches!(self, Self::WriteExclusive | Self::ExclusiveAccess)
    }

    /// Whether those it keeps out may still read.
    #[must_use]
    pub fn lets_outsiders_read(self) -> bool {
        matches!(self, Self::WriteExclusive | Self::WriteExclusiveRegistrantsOnly | Self::WriteExclusiveAllRegistrants)
    }
}

/// PERSISTENT RESERVE OUT parameter list, all service actions but REGISTER AND MOVE (SPC-4 r37 §6.16.3).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct OutList {
    /// RESERVATION KEY: one's own.
    pub key: u64,
    /// SERVICE ACTION RESERVATION KEY: the new or the victim's.
    pub action_key: u64,
    /// SPEC_I_PT: initiator ports to register as well; `None` if the bit is zero.
    pub ports: Option<Vec<TransportId>>,
    /// ALL_TG_PT.
    pub all_target_ports: AllTargetPorts,
    /// APTPL.
    pub persistence: Persistence,
}

/// ALL_TG_PT (SPC-4 r37 §6.16.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AllTargetPorts {
    /// The port the command came by.
    #[default]
    No,
    /// Every target port.
    Yes,
}

/// APTPL (SPC-4 r37 §5.13.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Persistence {
    /// Registrations may go with the power.
    #[default]
    Volatile,
    /// Registrations must survive a loss of power.
    ThroughPowerLoss,
}

/// REGISTER AND MOVE parameter list (SPC-4 r37 §6.16.4).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MoveList {
    /// RESERVATION KEY: one's own.
    pub key: u64,
    /// SERVICE ACTION RESERVATION KEY: what the new nexus is registered with.
    pub action_key: u64,
    /// UNREG: whether the mover's own registration ends.
    pub own_registration: OwnRegistration,
    /// APTPL.
    pub persistence: Persistence,
    /// RELATIVE TARGET PORT IDENTIFIER of the new nexus.
    pub target_port: u16,
    /// Initiator port of the new nexus.
    pub port: TransportId,
}

/// UNREG of REGISTER AND MOVE.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OwnRegistration {
    /// Stays.
    Kept,
    /// Is removed.
    Removed,
}

/// Bytes of the list without TransportIDs.
const OUT_LIST_BYTES: usize = 24;

impl OutList {
    /// Reads the list.
    ///
    /// # Errors
    /// PARAMETER LIST LENGTH ERROR unless it is 24 bytes, or longer exactly where SPEC_I_PT says so; INVALID FIELD IN
    /// PARAMETER LIST for a TransportID that cannot be read.
    pub fn parse(list: &[u8]) -> Result<Self, Sense> {
        if list.len() < OUT_LIST_BYTES {
            return Err(Sense::illegal(Asc::PARAMETER_LIST_LENGTH_ERROR));
        }
        let flags = list[20];
        let ports = match flags & 0x08 {
            0 if list.len() != OUT_LIST_BYTES => return Err(Sense::illegal(Asc::PARAMETER_LIST_LENGTH_ERROR)),
            0 => None,
            _ => Some(parse_ports(list)?),
        };
        Ok(Self {
            key: u64_at(list, 0),
            action_key: u64_at(list, 8),
            ports,
            all_target_ports: if flags & 0x04 == 0 { AllTargetPorts::No } else { AllTargetPorts::Yes },
            persistence: persistence(flags),
        })
    }

    /// The list's bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![0u8; OUT_LIST_BYTES];
        out[0..8].copy_from_slice(&self.key.to_be_bytes());
        out[8..16].copy_from_slice(&self.action_key.to_be_bytes());
        out[20] = persistence_bit(self.persistence);
        if self.all_target_ports == AllTargetPorts::Yes {
            out[20] |= 0x04;
        }
        if let Some(ports) = &self.ports {
            out[20] |= 0x08;
            let ids: Vec<u8> = ports.iter().flat_map(TransportId::encode).collect();
            out.extend_from_slice(&(ids.len() as u32).to_be_bytes());
            out.extend_from_slice(&ids);
        }
        out
    }
}

fn parse_ports(list: &[u8]) -> Result<Vec<TransportId>, Sense> {
    let length = u32_at(list, OUT_LIST_BYTES) as usize;
    let Some(mut rest) = list.get(OUT_LIST_BYTES + 4..) else {
        return Err(Sense::illegal(Asc::PARAMETER_LIST_LENGTH_ERROR));
    };
    if rest.len() != length {
        return Err(Sense::illegal(Asc::PARAMETER_LIST_LENGTH_ERROR));
    }
    let mut ports = Vec::new();
    // BOUND: each TransportID takes at least 24 bytes of `rest`.
    while !rest.is_empty() {
        let at = (list.len() - rest.len()) as u16;
        let (port, taken) = TransportId::parse(rest).ok_or(Sense::parameter_field(at, None))?;
        ports.push(port);
        rest = &rest[taken..];
    }
    Ok(ports)
}

fn persistence(flags: u8) -> Persistence {
    if flags & 0x01 == 0 { Persistence::Volatile } else { Persistence::ThroughPowerLoss }
}

fn persistence_bit(persistence: Persistence) -> u8 {
    match persistence {
        Persistence::Volatile => 0,
        Persistence::ThroughPowerLoss => 1,
    }
}

impl MoveList {
    /// Reads the list.
    ///
    /// # Errors
    /// PARAMETER LIST LENGTH ERROR if the lengths disagree, INVALID FIELD IN PARAMETER LIST for a bad TransportID.
    pub fn parse(list: &[u8]) -> Result<Self, Sense> {
        let length = u32_at(list, 20) as usize;
        if list.len() < OUT_LIST_BYTES + 24 || list.len() - OUT_LIST_BYTES != length {
            return Err(Sense::illegal(Asc::PARAMETER_LIST_LENGTH_ERROR));
        }
        let (port, taken) = TransportId::parse(&list[OUT_LIST_BYTES..]).ok_or(Sense::parameter_field(24, None))?;
        if taken != length {
            return Err(Sense::illegal(Asc::PARAMETER_LIST_LENGTH_ERROR));
        }
        Ok(Self {
            key: u64_at(list, 0),
            action_key: u64_at(list, 8),
            own_registration: if list[17] & 0x02 == 0 { OwnRegistration::Kept } else { OwnRegistration::Removed },
            persistence: persistence(list[17]),
            target_port: u16_at(list, 18),
            port,
        })
    }

    /// The list's bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![0u8; OUT_LIST_BYTES];
        out[0..8].copy_from_slice(&self.key.to_be_bytes());
        out[8..16].copy_from_slice(&self.action_key.to_be_bytes());
        out[17] = persistence_bit(self.persistence);
        if self.own_registration == OwnRegistration::Removed {
            out[17] |= 0x02;
        }
        out[18..20].copy_from_slice(&self.target_port.to_be_bytes());
        let id = self.port.encode();
        out[20..24].copy_from_slice(&(id.len() as u32).to_be_bytes());
        out.extend_from_slice(&id);
        out
    }
}

/// READ KEYS parameter data (SPC-4 r37 §6.15.2).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct KeyList {
    /// PRGENERATION.
    pub generation: u32,
    /// One key a registration.
    pub keys: Vec<u64>,
    /// Keys the target announced but the buffer did not hold: ask again with more room.
    pub missing: usize,
}

impl KeyList {
    /// The bytes.
    #[must_use]
    pub fn encode(generation: u32, keys: impl ExactSizeIterator<Item = u64>) -> Vec<u8> {
        let mut out = Vec::with_capacity(8 + keys.len() * 8);
        out.extend_from_slice(&generation.to_be_bytes());
        out.extend_from_slice(&((keys.len() * 8) as u32).to_be_bytes());
        for key in keys {
            out.extend_from_slice(&key.to_be_bytes());
        }
        out
    }

    /// Reads the data; `None` if shorter than its header.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        if bytes.len() < 8 {
            return None;
        }
        let announced = u32_at(bytes, 4) as usize / 8;
        let present = announced.min((bytes.len() - 8) / 8);
        Some(Self {
            generation: u32_at(bytes, 0),
            keys: (0..present).map(|index| u64_at(bytes, 8 + index * 8)).collect(),
            missing: announced - present,
        })
    }
}

/// A reservation in force, as READ RESERVATION shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeldReservation {
    /// The holder's key; zero for the all-registrants types.
    pub key: u64,
    /// Its type.
    pub kind: ReservationType,
}

/// READ RESERVATION parameter data (SPC-4 r37 §6.15.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReservationReport {
    /// PRGENERATION.
    pub generation: u32,
    /// The reservation, if the unit is reserved.
    pub held: Option<HeldReservation>,
}

impl ReservationReport {
    /// The bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![0u8; 8];
        out[0..4].copy_from_slice(&self.generation.to_be_bytes());
        if let Some(held) = self.held {
            out[7] = 16;
            out.extend_from_slice(&held.key.to_be_bytes());
            out.extend_from_slice(&[0, 0, 0, 0, 0, held.kind as u8, 0, 0]);
        }
        out
    }

    /// Reads the data; `None` if it is shorter than it says or names a type that does not exist.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        if bytes.len() < 8 {
            return None;
        }
        let generation = u32_at(bytes, 0);
        if u32_at(bytes, 4) == 0 {
            return Some(Self { generation, held: None });
        }
        if bytes.len() < 22 {
            return None;
        }
        let kind = ReservationType::from_bits(u8_at(bytes, 21))?;
        Some(Self { generation, held: Some(HeldReservation { key: u64_at(bytes, 8), kind }) })
    }
}

/// REPORT CAPABILITIES parameter data (SPC-4 r37 §6.15.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capabilities {
    /// SPC-2 RESERVE and RELEASE by a registrant are answered GOOD (CRH).
    pub compatible_reservations: bool,
    /// SPEC_I_PT is supported (SIP_C).
    pub named_ports: bool,
    /// ALL_TG_PT is supported (ATP_C).
    pub all_target_ports: bool,
    /// APTPL is supported (PTPL_C).
    pub persistence: bool,
    /// APTPL is in force now (PTPL_A).
    pub persistence_active: bool,
}

impl Capabilities {
    /// The bytes. All six types are announced; ALLOW COMMANDS is 000b, which says nothing about them
    /// (SPC-4 r37 table 209).
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let bit = |value: bool, bit: u8| if value { 1u8 << bit } else { 0 };
        vec![
            0,
            8,
            bit(self.compatible_reservations, 4)
                | bit(self.named_ports, 3)
                | bit(self.all_target_ports, 2)
                | bit(self.persistence, 0),
            0x80 | bit(self.persistence_active, 0),
            0xea,
            0x01,
            0,
            0,
        ]
    }

    /// Reads the data; `None` if shorter than eight bytes.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        (bytes.len() >= 8).then(|| Self {
            compatible_reservations: bytes[2] & 0x10 != 0,
            named_ports: bytes[2] & 0x08 != 0,
            all_target_ports: bytes[2] & 0x04 != 0,
            persistence: bytes[2] & 0x01 != 0,
            persistence_active: bytes[3] & 0x01 != 0,
        })
    }
}

/// One registration of READ FULL STATUS (SPC-4 r37 §6.15.5).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FullStatus {
    /// The key.
    pub key: u64,
    /// The type, if this nexus holds the reservation.
    pub holds: Option<ReservationType>,
    /// Relative target port identifier of the nexus.
    pub target_port: u16,
    /// Initiator port of the nexus.
    pub port: InitiatorPort,
}

/// READ FULL STATUS parameter data.
#[must_use]
pub fn encode_full_status(generation: u32, registrations: &[FullStatus]) -> Vec<u8> {
    let mut out = vec![0u8; 8];
    out[0..4].copy_from_slice(&generation.to_be_bytes());
    for registration in registrations {
        let id = registration.port.encode();
        let mut descriptor = [0u8; 24];
        descriptor[0..8].copy_from_slice(&registration.key.to_be_bytes());
        if let Some(kind) = registration.holds {
            descriptor[12] = 0x01;
            descriptor[13] = kind as u8;
        }
        descriptor[18..20].copy_from_slice(&registration.target_port.to_be_bytes());
        descriptor[20..24].copy_from_slice(&(id.len() as u32).to_be_bytes());
        out.extend_from_slice(&descriptor);
        out.extend_from_slice(&id);
    }
    let additional = (out.len() - 8) as u32;
    out[4..8].copy_from_slice(&additional.to_be_bytes());
    out
}

/// Reads READ FULL STATUS parameter data: the generation and every registration of an iSCSI port; `None` if malformed.
#[must_use]
pub fn parse_full_status(bytes: &[u8]) -> Option<(u32, Vec<FullStatus>)> {
    let generation = u32_at(bytes, 0);
    let mut rest = bytes.get(8..)?;
    let length = (u32_at(bytes, 4) as usize).min(rest.len());
    rest = &rest[..length];
    let mut registrations = Vec::new();
    // BOUND: each descriptor takes at least 24 bytes of `rest`.
    while rest.len() >= 24 {
        let additional = u32_at(rest, 20) as usize;
        let descriptor = rest.get(..24usize.checked_add(additional)?)?;
        if let Some((TransportId::Port(port), _)) = TransportId::parse(&descriptor[24..]) {
            let holds = if descriptor[12] & 0x01 != 0 { ReservationType::from_bits(descriptor[13]) } else { None };
            registrations.push(FullStatus {
                key: u64_at(descriptor, 0),
                holds,
                target_port: u16_at(descriptor, 18),
                port,
            });
        }
        rest = &rest[descriptor.len()..];
    }
    Some((generation, registrations))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(last: u8) -> InitiatorPort {
        InitiatorPort { name: "iqn.2026-01.org.example:host".into(), isid: [0x80, 0, 0, 0, 0, last] }
    }

    #[test]
    fn out_lists_are_read_back_as_written() {
        let plain = OutList { key: 1, action_key: 2, ..OutList::default() };
        let full = OutList {
            ports: Some(vec![TransportId::Port(port(1)), TransportId::Device("iqn.y".into())]),
            all_target_ports: AllTargetPorts::Yes,
            persistence: Persistence::ThroughPowerLoss,
            ..plain.clone()
        };
        for list in [plain, full] {
            assert_eq!(OutList::parse(&list.encode()), Ok(list));
        }
    }

    /// SPC-4 r37 §6.16.2: without SPEC_I_PT the list is 24 bytes, no more and no less.
    #[test]
    fn out_lists_of_another_length_are_refused() {
        for length in [0, 8, 23, 25, 48] {
            assert_eq!(
                OutList::parse(&vec![0; length]),
                Err(Sense::illegal(Asc::PARAMETER_LIST_LENGTH_ERROR)),
                "{length}"
            );
        }
        let mut lying = OutList { ports: Some(vec![TransportId::Port(port(1))]), ..OutList::default() }.encode();
        lying[27] = lying[27].wrapping_add(4);
        assert!(OutList::parse(&lying).is_err());
    }

    #[test]
    fn move_lists_are_read_back_as_written() {
        let list = MoveList {
            key: 5,
            action_key: 6,
            own_registration: OwnRegistration::Removed,
            persistence: Persistence::ThroughPowerLoss,
            target_port: 3,
            port: TransportId::Port(port(9)),
        };
        assert_eq!(MoveList::parse(&list.encode()), Ok(list.clone()));
        assert!(MoveList::parse(&list.encode()[..40]).is_err());
    }

    #[test]
    fn a_short_read_keys_buffer_says_how_many_are_missing() {
        let bytes = KeyList::encode(7, [1u64, 2, 3].into_iter());
        assert_eq!(KeyList::parse(&bytes).unwrap().keys, vec![1, 2, 3]);
        let cut = KeyList::parse(&bytes[..16]).unwrap();
        assert_eq!((cut.keys, cut.missing), (vec![1], 2));
        assert_eq!(KeyList::parse(&[0; 7]), None);
    }

    #[test]
    fn reservations_are_read_back_as_written() {
        let free = ReservationReport { generation: 3, held: None };
        assert_eq!(ReservationReport::parse(&free.encode()), Some(free));
        for kind in ReservationType::ALL {
            let held = ReservationReport { generation: 9, held: Some(HeldReservation { key: 0xabc, kind }) };
            assert_eq!(ReservationReport::parse(&held.encode()), Some(held));
            assert_eq!(ReservationReport::parse(&held.encode()[..20]), None);
        }
    }

    #[test]
    fn full_status_is_read_back_as_written() {
        let rows = vec![
            FullStatus { key: 1, holds: None, target_port: 1, port: port(1) },
            FullStatus { key: 2, holds: Some(ReservationType::ExclusiveAccess), target_port: 2, port: port(2) },
        ];
        let bytes = encode_full_status(4, &rows);
        assert_eq!(parse_full_status(&bytes), Some((4, rows)));
        assert_eq!(parse_full_status(&bytes[..bytes.len() - 1]), None);
    }
}
