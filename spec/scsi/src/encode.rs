//! CDBs as the initiator sends them, one function a command.
//!
//! Always the widest form there is, so that no address or length has to be cut; byte counts are the caller's to keep
//! equal to the buffer offered.

use crate::cdb::{Force, Span};
use crate::operations::{action, opcode};
use crate::reservation::{InAction, OutAction, ReservationType};

/// A CDB, padded with zeroes to sixteen bytes.
pub type Cdb = [u8; 16];

fn cdb(bytes: &[u8]) -> Cdb {
    let mut out = [0; 16];
    out[..bytes.len()].copy_from_slice(bytes);
    out
}

fn block_16(code: u8, flags: u8, span: Span) -> Cdb {
    debug_assert!(span.blocks <= u64::from(u32::MAX), "a 16-byte CDB counts blocks in 32 bits");
    let mut out = cdb(&[code, flags]);
    out[2..10].copy_from_slice(&span.lba.to_be_bytes());
    out[10..14].copy_from_slice(&(span.blocks as u32).to_be_bytes());
    out
}

fn force_bit(force: Force) -> u8 {
    match force {
        Force::CacheAllowed => 0x00,
        Force::UnitAccess => 0x08,
    }
}

/// TEST UNIT READY.
#[must_use]
pub fn test_unit_ready() -> Cdb {
    cdb(&[opcode::TEST_UNIT_READY])
}

/// Standard INQUIRY with an allocation length in bytes.
#[must_use]
pub fn inquiry(allocation: u16) -> Cdb {
    let [high, low] = allocation.to_be_bytes();
    cdb(&[opcode::INQUIRY, 0, 0, high, low])
}

/// INQUIRY of a vital product data page.
#[must_use]
pub fn vital_product_data(page: u8, allocation: u16) -> Cdb {
    let [high, low] = allocation.to_be_bytes();
    cdb(&[opcode::INQUIRY, 1, page, high, low])
}

/// REPORT LUNS.
#[must_use]
pub fn report_luns(allocation: u32) -> Cdb {
    let mut out = cdb(&[opcode::REPORT_LUNS]);
    out[6..10].copy_from_slice(&allocation.to_be_bytes());
    out
}

/// READ CAPACITY (10).
#[must_use]
pub fn read_capacity_10() -> Cdb {
    cdb(&[opcode::READ_CAPACITY_10])
}

/// READ CAPACITY (16).
#[must_use]
pub fn read_capacity_16(allocation: u32) -> Cdb {
    let mut out = cdb(&[opcode::SERVICE_ACTION_IN_16, action::READ_CAPACITY_16]);
    out[10..14].copy_from_slice(&allocation.to_be_bytes());
    out
}

/// READ (16).
#[must_use]
pub fn read_16(span: Span, force: Force) -> Cdb {
    block_16(opcode::READ_16, force_bit(force), span)
}

/// WRITE (16).
#[must_use]
pub fn write_16(span: Span, force: Force) -> Cdb {
    block_16(opcode::WRITE_16, force_bit(force), span)
}

/// READ (10); the address must fit 32 and the count 16 bits.
#[must_use]
pub fn read_10(lba: u32, blocks: u16, force: Force) -> Cdb {
    block_10(opcode::READ_10, force, lba, blocks)
}

/// WRITE (10); the address must fit 32 and the count 16 bits.
#[must_use]
pub fn write_10(lba: u32, blocks: u16, force: Force) -> Cdb {
    block_10(opcode::WRITE_10, force, lba, blocks)
}

fn block_10(code: u8, force: Force, lba: u32, blocks: u16) -> Cdb {
    let mut out = cdb(&[code, force_bit(force)]);
    out[2..6].copy_from_slice(&lba.to_be_bytes());
    out[7..9].copy_from_slice(&blocks.to_be_bytes());
    out
}

/// SYNCHRONIZE CACHE (16) of the whole unit.
#[must_use]
pub fn synchronize_cache_16() -> Cdb {
    cdb(&[opcode::SYNCHRONIZE_CACHE_16])
}

/// SYNCHRONIZE CACHE (10) of the whole unit, for disks that lack the longer form.
#[must_use]
pub fn synchronize_cache_10() -> Cdb {
    cdb(&[opcode::SYNCHRONIZE_CACHE_10])
}

/// COMPARE AND WRITE; the data-out buffer is twice `blocks`.
#[must_use]
pub fn compare_and_write(lba: u64, blocks: u8, force: Force) -> Cdb {
    let mut out = cdb(&[opcode::COMPARE_AND_WRITE, force_bit(force)]);
    out[2..10].copy_from_slice(&lba.to_be_bytes());
    out[13] = blocks;
    out
}

/// UNMAP with a parameter list of so many bytes.
#[must_use]
pub fn unmap(parameter_bytes: u16) -> Cdb {
    let mut out = cdb(&[opcode::UNMAP]);
    out[7..9].copy_from_slice(&parameter_bytes.to_be_bytes());
    out
}

/// WRITE SAME (16) of zeroes that may deallocate, with one block of data-out.
#[must_use]
pub fn write_same_16_unmap(span: Span) -> Cdb {
    block_16(opcode::WRITE_SAME_16, 0x08, span)
}

/// PERSISTENT RESERVE IN.
#[must_use]
pub fn persistent_reserve_in(action: InAction, allocation: u16) -> Cdb {
    let mut out = cdb(&[opcode::PERSISTENT_RESERVE_IN, action as u8]);
    out[7..9].copy_from_slice(&allocation.to_be_bytes());
    out
}

/// PERSISTENT RESERVE OUT of logical unit scope; `kind` is ignored by the service actions that have no type.
#[must_use]
pub fn persistent_reserve_out(action: OutAction, kind: Option<ReservationType>, parameter_bytes: u32) -> Cdb {
    let mut out = cdb(&[opcode::PERSISTENT_RESERVE_OUT, action as u8, kind.map_or(0, |kind| kind as u8)]);
    out[5..9].copy_from_slice(&parameter_bytes.to_be_bytes());
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cdb::Command;

    #[test]
    fn what_is_built_is_parsed_back() {
        let span = Span { lba: 1 << 40, blocks: 77 };
        assert_eq!(
            Command::parse(&read_16(span, Force::UnitAccess)),
            Ok(Command::Read { span, force: Force::UnitAccess })
        );
        assert_eq!(
            Command::parse(&write_16(span, Force::CacheAllowed)),
            Ok(Command::Write { span, force: Force::CacheAllowed })
        );
        let kind = Some(ReservationType::ExclusiveAccessRegistrantsOnly);
        assert_eq!(
            Command::parse(&persistent_reserve_out(OutAction::PreemptAndAbort, kind, 24)),
            Ok(Command::PersistentReserveOut {
                action: OutAction::PreemptAndAbort,
                scope_and_type: 0x06,
                parameter_bytes: 24
            })
        );
        let narrow = Span { lba: 9, blocks: 2 };
        assert_eq!(
            Command::parse(&write_10(9, 2, Force::UnitAccess)),
            Ok(Command::Write { span: narrow, force: Force::UnitAccess })
        );
    }
}
