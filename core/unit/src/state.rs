//! What a unit keeps through the end of its process: reservations, saved mode pages, and whom it still has to tell, as bytes.
//!
//! Little-endian, one block: magic "UNDU", format version (u16), zero (u16), then fields, then CRC32C of everything
//! before it. Bytes that do not fit are an error and never "nothing kept": a unit that forgot its reservations would
//! let in whom somebody has fenced off.
//!
//! Version 1 ends with the mode pages. Version 2 goes on with sections, and is written only where there is one: what has none is
//! the same bytes as ever, for releases that know version 1 only. A reader refuses a section it does not know
//! if its number is below 128, and leaves it out from 128 on.
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
//! | version 2: number of sections, each: number, length, bytes | 1, (1 + 4 + n) |
//! | CRC32C | 4 |
//!
//! | section | content |
//! |---|---|
//! | 128 | ports still to be told, oldest first; each: target port (2), ISID (6), conditions (1), name length (1), name. Conditions: 1 reservations preempted, 2 reservations released, 4 registrations preempted |

use std::collections::BTreeMap;

use thiserror::Error;
use understudy_scsi::reservation::{Persistence, ReservationType};
use understudy_scsi::transport::{InitiatorPort, LONGEST_NAME};

use crate::nexus::Nexus;
use crate::pages::ModePages;
use crate::reservations::{Held, MOST_REGISTRATIONS, Reservations};
use crate::untold::{Conditions, Untold};

const MAGIC: &[u8; 4] = b"UNDU";
/// Without sections.
const VERSION_PLAIN: u16 = 1;
/// With sections.
const VERSION_SECTIONS: u16 = 2;
const NO_HOLDER: u16 = u16::MAX;
/// The section of ports still to be told.
const SECTION_UNTOLD: u8 = 128;
/// From this number on a reader may leave out a section it does not know.
const FIRST_OPTIONAL: u8 = 128;

/// Most bytes a unit keeps. Every medium can keep so many: a pool's metadata has room for them a volume. 257 registrations
/// with names of the longest kind (RFC 7143 §4.2.7.1: 223 bytes), more than 900 with customary ones.
pub const MOST_BYTES: usize = 64 << 10;

/// Everything that is kept.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Kept {
    pub(crate) reservations: Reservations,
    pub(crate) pages: ModePages,
    pub(crate) untold: Untold,
}

/// Why kept bytes cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum StateFault {
    /// Too short, wrong magic or wrong checksum.
    #[error("the kept state of the unit is damaged")]
    Damaged,
    /// Written by a newer release.
    #[error("the kept state of the unit has format version {0}, newer than this program knows")]
    Newer(u16),
    /// Written by a newer release, with something this program must not leave out.
    #[error("the kept state of the unit has a section {0}, which this program does not know and must not leave out")]
    UnknownSection(u8),
    /// The checksum is right and the content makes no sense.
    #[error("the kept state of the unit contradicts itself: {0}")]
    Contradiction(&'static str),
}

fn checksum(bytes: &[u8]) -> [u8; 4] {
    (crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, bytes) as u32).to_le_bytes()
}

/// The bytes of this state; at most [`MOST_BYTES`], unless reservations and mode pages alone are more.
pub(crate) fn encode(reservations: &Reservations, pages: &ModePages, mut untold: Untold) -> Vec<u8> {
    let plain = encode_plain(reservations, pages);
    // BOUND: each round forgets a port.
    while !untold.is_empty() {
        let mut out = plain.clone();
        out[4..6].copy_from_slice(&VERSION_SECTIONS.to_le_bytes());
        out.extend_from_slice(&[1, SECTION_UNTOLD]);
        let section = encode_untold(&untold);
        out.extend_from_slice(&(section.len() as u32).to_le_bytes());
        out.extend_from_slice(&section);
        if out.len() + 4 <= MOST_BYTES {
            return sealed(out);
        }
        untold.forget_oldest();
    }
    sealed(plain)
}

fn sealed(mut out: Vec<u8>) -> Vec<u8> {
    let sum = checksum(&out);
    out.extend_from_slice(&sum);
    out
}

fn encode_plain(reservations: &Reservations, pages: &ModePages) -> Vec<u8> {
    let mut out = MAGIC.to_vec();
    out.extend_from_slice(&VERSION_PLAIN.to_le_bytes());
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
    let kept = pages.kept();
    out.push(kept.len() as u8);
    for page in kept {
        out.extend_from_slice(&(page.len() as u16).to_le_bytes());
        out.extend_from_slice(page);
    }
    out
}

fn encode_untold(untold: &Untold) -> Vec<u8> {
    let mut out = Vec::new();
    for (nexus, conditions) in untold.iter() {
        out.extend_from_slice(&nexus.target_port.to_le_bytes());
        out.extend_from_slice(&nexus.initiator.isid);
        out.extend_from_slice(&[conditions.bits(), nexus.initiator.name.len() as u8]);
        out.extend_from_slice(nexus.initiator.name.as_bytes());
    }
    out
}

pub(crate) fn decode(bytes: &[u8]) -> Result<Kept, StateFault> {
    let (body, sum) = bytes.split_last_chunk::<4>().ok_or(StateFault::Damaged)?;
    if checksum(body) != *sum || !body.starts_with(MAGIC) {
        return Err(StateFault::Damaged);
    }
    let mut fields = Fields { rest: &body[4..] };
    let version = fields.u16()?;
    if !matches!(version, VERSION_PLAIN | VERSION_SECTIONS) {
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
    let untold = if version == VERSION_SECTIONS { decode_sections(&mut fields)? } else { Untold::default() };
    if !fields.rest.is_empty() {
        return Err(StateFault::Contradiction("bytes left over"));
    }
    Ok(Kept { reservations, pages, untold })
}

fn decode_sections(fields: &mut Fields<'_>) -> Result<Untold, StateFault> {
    let mut untold = Untold::default();
    for _ in 0..fields.u8()? {
        let number = fields.u8()?;
        let length = usize::try_from(fields.u32()?).map_err(|_| StateFault::Damaged)?;
        let mut section = Fields { rest: fields.take(length)? };
        match number {
            SECTION_UNTOLD => {
                // BOUND: each round takes ten bytes or more.
                while !section.rest.is_empty() {
                    let target_port = section.u16()?;
                    let isid = section.number()?;
                    let conditions = Conditions::from_bits(section.u8()?);
                    let name = section.name()?;
                    untold.add(&Nexus { initiator: InitiatorPort { name, isid }, target_port }, conditions);
                }
            }
            // What a later release added may be left out.
            optional if optional >= FIRST_OPTIONAL => {}
            unknown => return Err(StateFault::UnknownSection(unknown)),
        }
    }
    Ok(untold)
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
    if usize::from(count) > MOST_REGISTRATIONS {
        return Err(StateFault::Contradiction("more registrations than there can be"));
    }
    let mut registrations = BTreeMap::new();
    let mut holder_nexus = None;
    for index in 0..count {
        let key = fields.u64()?;
        let target_port = fields.u16()?;
        let isid = fields.number()?;
        let name = fields.name()?;
        let nexus = Nexus { initiator: InitiatorPort { name, isid }, target_port };
        if index == holder {
            holder_nexus = Some(nexus.clone());
        }
        if registrations.insert(nexus, key).is_some() {
            return Err(StateFault::Contradiction("one port registered twice"));
        }
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

    /// An initiator's name behind its length.
    fn name(&mut self) -> Result<String, StateFault> {
        let length = usize::from(self.u8()?);
        let name = str::from_utf8(self.take(length)?).map_err(|_| StateFault::Contradiction("initiator name"))?;
        if length > LONGEST_NAME {
            return Err(StateFault::Contradiction("initiator name"));
        }
        Ok(name.to_owned())
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
#[path = "state_tests.rs"]
mod tests;
