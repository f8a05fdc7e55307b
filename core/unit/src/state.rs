//! What a unit keeps through the end of its process: reservations and saved mode pages, as bytes.
//!
//! Little-endian, one block: magic "UNDU", format version (u16), zero (u16), then fields, then CRC32C of everything
//! before it. Bytes that do not fit are an error and never "nothing kept": a unit that forgot its reservations would
//! let in whom somebody has fenced off.
//!
//! | field | bytes |
//! |---|---|
//! | magic, version, zero | 4 + 2 + 2 |
//! | PRGENERATION | 4 |
//! | APTPL (0, 1) | 1 |
//! | reservation type (0: none) | 1 |
//! | index of the holder among the registrations (FFFFh: none) | 2 |
//! | number of registrations | 2 |
//! | each: key, target port, ISID, name length, name | 8 + 2 + 6 + 1 + n |
//! | number of saved mode pages, each: length, bytes | 1, (2 + n) |
//! | CRC32C | 4 |

use std::collections::BTreeMap;

use thiserror::Error;
use understudy_scsi::reservation::{Persistence, ReservationType};
use understudy_scsi::transport::{InitiatorPort, LONGEST_NAME};

use crate::nexus::Nexus;
use crate::pages::ModePages;
use crate::reservations::{Held, Reservations};

const MAGIC: &[u8; 4] = b"UNDU";
const VERSION: u16 = 1;
const NO_HOLDER: u16 = u16::MAX;

/// Why kept bytes cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum StateFault {
    /// Too short, wrong magic or wrong checksum.
    #[error("the kept state of the unit is damaged")]
    Damaged,
    /// Written by a newer release.
    #[error("the kept state of the unit has format version {0}, newer than this program knows")]
    Newer(u16),
    /// The checksum is right and the content makes no sense.
    #[error("the kept state of the unit contradicts itself: {0}")]
    Contradiction(&'static str),
}

fn checksum(bytes: &[u8]) -> [u8; 4] {
    (crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, bytes) as u32).to_le_bytes()
}

pub(crate) fn encode(reservations: &Reservations, pages: &ModePages) -> Vec<u8> {
    let mut out = MAGIC.to_vec();
    out.extend_from_slice(&VERSION.to_le_bytes());
    out.extend_from_slice(&[0, 0]);
    out.extend_from_slice(&reservations.generation.to_le_bytes());
    out.push(match reservations.persistence {
        Persistence::Volatile => 0,
        Persistence::ThroughPowerLoss => 1,
    });
    let holder = reservations.held.as_ref().and_then(|held| held.holder.as_ref());
    let holder = holder.and_then(|holder| reservations.registrations.keys().position(|nexus| nexus == holder));
    out.push(reservations.held.as_ref().map_or(0, |held| held.kind as u8));
    out.extend_from_slice(&holder.map_or(NO_HOLDER, |index| index as u16).to_le_bytes());
    out.extend_from_slice(&(reservations.registrations.len() as u16).to_le_bytes());
    for (nexus, key) in &reservations.registrations {
        out.extend_from_slice(&key.to_le_bytes());
        out.extend_from_slice(&nexus.target_port.to_le_bytes());
        out.extend_from_slice(&nexus.initiator.isid);
        out.push(nexus.initiator.name.len() as u8);
        out.extend_from_slice(nexus.initiator.name.as_bytes());
    }
    out.push(pages.saved().len() as u8);
    for page in pages.saved() {
        out.extend_from_slice(&(page.len() as u16).to_le_bytes());
        out.extend_from_slice(page);
    }
    let sum = checksum(&out);
    out.extend_from_slice(&sum);
    out
}

pub(crate) fn decode(bytes: &[u8]) -> Result<(Reservations, ModePages), StateFault> {
    let (body, sum) = bytes.split_last_chunk::<4>().ok_or(StateFault::Damaged)?;
    if checksum(body) != *sum || !body.starts_with(MAGIC) {
        return Err(StateFault::Damaged);
    }
    let mut fields = Fields { rest: &body[4..] };
    let version = fields.u16()?;
    if version != VERSION {
        return Err(StateFault::Newer(version));
    }
    fields.u16()?;
    let reservations = decode_reservations(&mut fields)?;
    let count = fields.u8()?;
    let mut pages = Vec::new();
    for _ in 0..count {
        let length = usize::from(fields.u16()?);
        pages.push(fields.take(length)?.to_vec());
    }
    let pages = ModePages::restore(pages).ok_or(StateFault::Contradiction("mode pages"))?;
    if !fields.rest.is_empty() {
        return Err(StateFault::Contradiction("bytes left over"));
    }
    Ok((reservations, pages))
}

fn decode_reservations(fields: &mut Fields<'_>) -> Result<Reservations, StateFault> {
    let generation = fields.u32()?;
    let persistence = match fields.u8()? {
        0 => Persistence::Volatile,
        1 => Persistence::ThroughPowerLoss,
        _ => return Err(StateFault::Contradiction("APTPL")),
    };
    let kind = fields.u8()?;
    let holder = fields.u16()?;
    let count = fields.u16()?;
    let mut registrations = BTreeMap::new();
    let mut holder_nexus = None;
    for index in 0..count {
        let key = fields.u64()?;
        let target_port = fields.u16()?;
        let isid = *fields.take(6)?.first_chunk::<6>().ok_or(StateFault::Damaged)?;
        let length = usize::from(fields.u8()?);
        let name = str::from_utf8(fields.take(length)?).map_err(|_| StateFault::Contradiction("initiator name"))?;
        if length > LONGEST_NAME {
            return Err(StateFault::Contradiction("initiator name"));
        }
        let nexus = Nexus { initiator: InitiatorPort { name: name.to_owned(), isid }, target_port };
        if index == holder {
            holder_nexus = Some(nexus.clone());
        }
        registrations.insert(nexus, key);
    }
    let held = match kind {
        0 => None,
        bits => {
            let kind = ReservationType::from_bits(bits).ok_or(StateFault::Contradiction("reservation type"))?;
            Some(Held { kind, holder: holder_nexus })
        }
    };
    let reservations = Reservations { generation, registrations, held, persistence };
    reservations.invariant_holder_is_registered().map_err(StateFault::Contradiction)?;
    Ok(reservations)
}

/// Bytes being read; every step may find too few.
struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8], StateFault> {
        let (head, rest) = self.rest.split_at_checked(length).ok_or(StateFault::Damaged)?;
        self.rest = rest;
        Ok(head)
    }

    fn number<const N: usize>(&mut self) -> Result<[u8; N], StateFault> {
        self.take(N)?.first_chunk::<N>().copied().ok_or(StateFault::Damaged)
    }

    fn u8(&mut self) -> Result<u8, StateFault> {
        Ok(u8::from_le_bytes(self.number()?))
    }

    fn u16(&mut self) -> Result<u16, StateFault> {
        Ok(u16::from_le_bytes(self.number()?))
    }

    fn u32(&mut self) -> Result<u32, StateFault> {
        Ok(u32::from_le_bytes(self.number()?))
    }

    fn u64(&mut self) -> Result<u64, StateFault> {
        Ok(u64::from_le_bytes(self.number()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Reservations {
        let nexus = |last| Nexus {
            initiator: InitiatorPort { name: format!("iqn.host{last}"), isid: [0, 1, 2, 3, 4, last] },
            target_port: 1,
        };
        Reservations {
            generation: 77,
            registrations: BTreeMap::from([(nexus(1), 0xa), (nexus(2), 0xb)]),
            held: Some(Held { kind: ReservationType::ExclusiveAccessRegistrantsOnly, holder: Some(nexus(2)) }),
            persistence: Persistence::ThroughPowerLoss,
        }
    }

    #[test]
    fn state_is_read_back_as_written() {
        let bytes = encode(&sample(), &ModePages::default());
        assert_eq!(decode(&bytes), Ok((sample(), ModePages::default())));
    }

    #[test]
    fn any_damaged_byte_and_any_cut_is_noticed() {
        let bytes = encode(&sample(), &ModePages::default());
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x10;
            assert_eq!(decode(&damaged), Err(StateFault::Damaged), "byte {at}");
            assert_eq!(decode(&bytes[..at]), Err(StateFault::Damaged), "cut at {at}");
        }
    }

    #[test]
    fn a_newer_format_and_a_foreign_holder_are_refused() {
        let mut bytes = encode(&sample(), &ModePages::default());
        bytes.truncate(bytes.len() - 4);
        let reseal = |body: &[u8]| [body, &checksum(body)].concat();
        let mut newer = bytes.clone();
        newer[4] = 9;
        assert_eq!(decode(&reseal(&newer)), Err(StateFault::Newer(9)));
        let mut orphan = bytes.clone();
        orphan[14] = 40;
        assert!(matches!(decode(&reseal(&orphan)), Err(StateFault::Contradiction(_))));
    }
}
