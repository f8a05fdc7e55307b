//! What a target answers that none of its units can: the list of units, and commands to a number without one.
//!
//! Where the units of a target are at two nodes, each of them knows its own. A node that is asked by the other one, and has only some of them,
//! says that of its answer, so that the other one neither takes its list for the whole nor a number without a unit there for one without a
//! unit at all. The client sees nothing of that.

use std::collections::BTreeSet;

use bytes::{Bytes, BytesMut};
use understudy_scsi::Status;
use understudy_scsi::cdb::Command;
use understudy_scsi::inquiry::Peripheral;
use understudy_scsi::luns::{self, HIGHEST_LUN, Listing};
use understudy_scsi::sense::{Asc, Sense, SenseFormat, SenseKey};
use understudy_unit::unit::LogicalUnit;
use understudy_unit::{Completion, Identity};

use crate::attached::Attached;
use crate::target::Target;

/// Room for the longest list there can be.
pub(crate) const WHOLE_LIST_BYTES: u32 = 8 + 8 * (HIGHEST_LUN as u32 + 1);

/// The byte of REPORT LUNS parameter data, reserved by SPC-4 r37 §6.33, in which a node says to the other one that it has only some of the units.
const IN_PART_OFFSET: usize = 7;
const IN_PART: u8 = 1;

/// Commands to a number without a unit (SPC-4 r37 §5.11.1, SAM-5 r21 §4.7.5): INQUIRY says so in its data, REQUEST SENSE
/// in its sense data, everything else fails.
pub(crate) fn nothing_here(cdb: &[u8; 16]) -> Completion {
    let absent = Sense::illegal(Asc::LOGICAL_UNIT_NOT_SUPPORTED);
    match Command::parse(cdb) {
        Ok(Command::Inquiry { allocation }) => {
            let nobody = Identity { uuid: [0; 16], product: String::new() };
            cut(nobody.standard_inquiry(Peripheral::NothingHere), allocation)
        }
        Ok(Command::RequestSense { format, allocation }) => cut(absent.encode(format), allocation),
        Ok(_) | Err(_) => Completion::check(&absent, SenseFormat::Fixed),
    }
}

/// The answer of a node that has some of a target's units, and not this one. No unit here ever is in standby, so it means nothing else.
pub(crate) fn not_in_this_part() -> Completion {
    Completion::check(&Sense::new(SenseKey::NotReady, Asc::TARGET_PORT_IN_STANDBY_STATE), SenseFormat::Fixed)
}

fn cut(mut bytes: Vec<u8>, allocation: u32) -> Completion {
    bytes.truncate(allocation as usize);
    Completion::data(Bytes::from(bytes))
}

/// What a REPORT LUNS asks for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asked {
    listing: Listing,
    allocation: u32,
}

impl Asked {
    /// Errors: its answer.
    pub(crate) fn by(cdb: &[u8; 16]) -> Result<Self, Completion> {
        let refuse = |sense: Sense| Err(Completion::check(&sense, SenseFormat::Fixed));
        let (select, allocation) = match Command::parse(cdb) {
            Ok(Command::ReportLuns { select, allocation }) => (select, allocation),
            Ok(_) => return refuse(Sense::illegal(Asc::INVALID_COMMAND_OPERATION_CODE)),
            Err(fault) => return refuse(fault.sense()),
        };
        if allocation < 16 {
            return refuse(Sense::cdb_field(6, None));
        }
        match luns::lists_units(select) {
            Some(listing) => Ok(Self { listing, allocation }),
            None => refuse(Sense::cdb_field(2, None)),
        }
    }

    /// The answer, with these units.
    pub(crate) fn answer(self, units: &BTreeSet<u16>) -> Completion {
        let listed = match self.listing {
            Listing::EveryUnit => units.iter().copied().collect(),
            Listing::WellKnown => Vec::new(),
        };
        Completion::data(LogicalUnit::report_luns(&listed, self.allocation))
    }
}

impl Target {
    /// SPC-4 r37 §6.33: the units that this nexus sees; the answer is the same by whatever number it is asked, and takes the unit
    /// attention 3Fh/0Eh with it.
    pub(crate) fn report_luns(&self, attached: &Attached, cdb: &[u8; 16]) -> Completion {
        match Asked::by(cdb) {
            Ok(asked) => {
                attached.list_reported();
                asked.answer(&self.luns_seen_by(attached))
            }
            Err(refused) => refused,
        }
    }
}

/// The same list, said to be of some of the units.
pub(crate) fn in_part(answer: Completion) -> Completion {
    if answer.status != Status::Good {
        return answer;
    }
    let mut data_in = BytesMut::from(&answer.data_in[..]);
    // The allocation length is 16 bytes at least, and the header 8.
    data_in[IN_PART_OFFSET] = IN_PART;
    Completion { data_in: data_in.freeze(), ..answer }
}

/// Whether a list is said to be of some of the units.
pub(crate) fn is_in_part(answer: &Completion) -> bool {
    answer.status == Status::Good && answer.data_in.get(IN_PART_OFFSET) == Some(&IN_PART)
}

/// The units a list names.
pub(crate) fn units_in(answer: &Completion) -> BTreeSet<u16> {
    luns::parse_report(&answer.data_in).into_iter().filter_map(luns::decode_lun).collect()
}
