//! Command descriptor blocks.
//!
//! Properties: a command is parsed only if every bit set belongs to a field of its row in the table of operations; bits
//! behind the CDB's own length change nothing; our own CDBs are parsed back as they were meant.

use understudy_scsi::cdb::{Command, Force, Span};
use understudy_scsi::operations::{self, Found, OPERATIONS};
use understudy_scsi::reservation::{InAction, OutAction, ReservationType};
use understudy_scsi::{CdbFault, encode};

use crate::choices::{Choices, Script};

/// A CDB that gets past the first checks: a command of the table, the bits its fields own.
pub(crate) fn plausible(choices: &mut Choices<'_>) -> [u8; 16] {
    let operation = choices.pick(&OPERATIONS);
    let mut cdb: [u8; 16] = choices.exactly();
    for (byte, owned) in cdb.iter_mut().zip(operation.usage) {
        *byte &= owned;
    }
    cdb[0] = operation.code;
    if let Some(action) = operation.action {
        cdb[1] = action;
    }
    cdb
}

/// Reads sixteen bytes as they are, then as a plausible command.
pub fn run(bytes: &[u8]) {
    let mut choices = Choices::new(bytes);
    judge(choices.exactly());
    let plausible = plausible(&mut choices);
    judge(plausible);
    built(&mut choices);
}

fn judge(cdb: [u8; 16]) {
    let parsed = Command::parse(&cdb);
    let Found::Operation(operation) = operations::find(&cdb) else {
        assert!(parsed.is_err());
        return;
    };
    let length = usize::from(operation.cdb_bytes);
    match parsed {
        Err(CdbFault::UnknownCode) => panic!("{:02x} is in the table and is not parsed", cdb[0]),
        Err(fault) => assert!(!fault.sense().encode(understudy_scsi::sense::SenseFormat::Descriptor).is_empty()),
        Ok(command) => {
            assert_eq!(operations::stray_bit(operation, &cdb), None);
            let mut masked = cdb;
            for (byte, owned) in masked.iter_mut().zip(operation.usage) {
                *byte &= owned;
            }
            masked[0] = cdb[0];
            if operation.action.is_some() {
                masked[1] |= cdb[1] & 0x1f;
            }
            assert_eq!(Command::parse(&masked), Ok(command), "a bit outside the usage data was evaluated");
            let mut longer = cdb;
            longer[length..].fill(0xff);
            assert_eq!(Command::parse(&longer), Ok(command), "a byte behind the CDB was evaluated");
        }
    }
}

fn built(choices: &mut Choices<'_>) {
    let span = Span { lba: choices.u64(), blocks: u64::from(choices.u32()) };
    let force = if choices.flag() { Force::UnitAccess } else { Force::CacheAllowed };
    assert_eq!(Command::parse(&encode::read_16(span, force)), Ok(Command::Read { span, force }));
    assert_eq!(Command::parse(&encode::write_16(span, force)), Ok(Command::Write { span, force }));
    let allocation = choices.u16();
    for action in (0..4).filter_map(InAction::from_bits) {
        let expected = Command::PersistentReserveIn { action, allocation: u32::from(allocation) };
        assert_eq!(Command::parse(&encode::persistent_reserve_in(action, allocation)), Ok(expected));
    }
    let (kind, parameter_bytes) = (ReservationType::from_bits(choices.byte() & 0x0f), choices.u32());
    for action in (0..8).filter_map(OutAction::from_bits) {
        let scope_and_type = kind.map_or(0, |kind| kind as u8);
        let expected = Command::PersistentReserveOut { action, scope_and_type, parameter_bytes };
        assert_eq!(Command::parse(&encode::persistent_reserve_out(action, kind, parameter_bytes)), Ok(expected));
    }
}

/// One CDB of each length.
#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    let span = Span { lba: 0x1234, blocks: 8 };
    let cdbs = [
        encode::inquiry(255),
        encode::write_10(7, 1, Force::UnitAccess),
        encode::report_luns(1024),
        encode::write_same_16_unmap(span),
    ];
    let seed = |(at, cdb): (u8, &[u8; 16])| Script::new().bytes(cdb).bytes(&[at * 12]).bytes(&[0xff; 16]).u64(9).u32(2);
    (0u8..).zip(&cdbs).map(|pair| seed(pair).bytes(&[1, 0, 1, 6]).u32(24).done()).collect()
}
