//! The commands there are: operation code, service action, which CDB bits are evaluated, how long one may take.
//!
//! One table serves three readers: the parser refuses a CDB with bits set that no field owns, REPORT SUPPORTED OPERATION
//! CODES (SPC-4 r37 §6.35) shows the table, and tests walk it so that no command is advertised without being parsed.

use crate::bytes::u8_at;

/// Operation codes (SPC-4 r37 annex E).
#[allow(missing_docs, reason = "each constant's name is the standard's name of the operation")]
pub mod opcode {
    pub const TEST_UNIT_READY: u8 = 0x00;
    pub const REQUEST_SENSE: u8 = 0x03;
    pub const READ_6: u8 = 0x08;
    pub const WRITE_6: u8 = 0x0a;
    pub const INQUIRY: u8 = 0x12;
    pub const MODE_SELECT_6: u8 = 0x15;
    pub const RESERVE_6: u8 = 0x16;
    pub const RELEASE_6: u8 = 0x17;
    pub const MODE_SENSE_6: u8 = 0x1a;
    pub const START_STOP_UNIT: u8 = 0x1b;
    pub const SEND_DIAGNOSTIC: u8 = 0x1d;
    pub const READ_CAPACITY_10: u8 = 0x25;
    pub const READ_10: u8 = 0x28;
    pub const WRITE_10: u8 = 0x2a;
    pub const WRITE_AND_VERIFY_10: u8 = 0x2e;
    pub const VERIFY_10: u8 = 0x2f;
    pub const PRE_FETCH_10: u8 = 0x34;
    pub const SYNCHRONIZE_CACHE_10: u8 = 0x35;
    pub const READ_DEFECT_DATA_10: u8 = 0x37;
    pub const WRITE_SAME_10: u8 = 0x41;
    pub const UNMAP: u8 = 0x42;
    pub const LOG_SENSE: u8 = 0x4d;
    pub const MODE_SELECT_10: u8 = 0x55;
    pub const MODE_SENSE_10: u8 = 0x5a;
    pub const PERSISTENT_RESERVE_IN: u8 = 0x5e;
    pub const PERSISTENT_RESERVE_OUT: u8 = 0x5f;
    pub const READ_16: u8 = 0x88;
    pub const COMPARE_AND_WRITE: u8 = 0x89;
    pub const WRITE_16: u8 = 0x8a;
    pub const ORWRITE_16: u8 = 0x8b;
    pub const WRITE_AND_VERIFY_16: u8 = 0x8e;
    pub const VERIFY_16: u8 = 0x8f;
    pub const PRE_FETCH_16: u8 = 0x90;
    pub const SYNCHRONIZE_CACHE_16: u8 = 0x91;
    pub const WRITE_SAME_16: u8 = 0x93;
    pub const SERVICE_ACTION_IN_16: u8 = 0x9e;
    pub const REPORT_LUNS: u8 = 0xa0;
    pub const MAINTENANCE_IN: u8 = 0xa3;
    pub const READ_12: u8 = 0xa8;
    pub const WRITE_12: u8 = 0xaa;
    pub const WRITE_AND_VERIFY_12: u8 = 0xae;
    pub const VERIFY_12: u8 = 0xaf;
    pub const READ_DEFECT_DATA_12: u8 = 0xb7;
}

/// Service actions of the operation codes that have them.
#[allow(missing_docs, reason = "each constant's name is the standard's name of the service action")]
pub mod action {
    pub const READ_CAPACITY_16: u8 = 0x10;
    pub const GET_LBA_STATUS: u8 = 0x12;
    pub const REPORT_TARGET_PORT_GROUPS: u8 = 0x0a;
    pub const REPORT_SUPPORTED_OPERATION_CODES: u8 = 0x0c;
    pub const REPORT_SUPPORTED_TASK_MANAGEMENT_FUNCTIONS: u8 = 0x0d;
}

/// One command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Operation {
    /// Operation code.
    pub code: u8,
    /// Service action in the low five bits of byte 1, for operation codes that have them.
    pub action: Option<u8>,
    /// Length of the CDB in bytes.
    pub cdb_bytes: u8,
    /// CDB usage data (SPC-4 r37 §6.35.3): a one for every bit that is evaluated, byte 0 the operation code, and the
    /// service action in its place.
    pub usage: [u8; 16],
    /// Recommended time-out in seconds.
    pub timeout_s: u32,
}

/// Seconds after which an initiator may give up on a command that touches the medium: above the longest hold of a
/// planned hand-off and the takeover of a hung partner, both of which wait inside the target.
const MEDIUM_TIMEOUT_S: u32 = 30;
/// The same for commands whose work grows with the unit (UNMAP, WRITE SAME, SYNCHRONIZE CACHE).
const LONG_TIMEOUT_S: u32 = 120;

const fn plain(usage: &[u8], timeout_s: u32) -> Operation {
    let mut full = [0u8; 16];
    let mut at = 0;
    while at < usage.len() {
        full[at] = usage[at];
        at += 1;
    }
    Operation { code: usage[0], action: None, cdb_bytes: usage.len() as u8, usage: full, timeout_s }
}

const fn with_action(usage: &[u8], timeout_s: u32) -> Operation {
    let mut operation = plain(usage, timeout_s);
    operation.action = Some(usage[1]);
    operation
}

/// With `evaluated` bits of byte 1 beside the service action.
const fn with_action_beside(usage: &[u8], evaluated: u8, timeout_s: u32) -> Operation {
    let mut operation = with_action(usage, timeout_s);
    operation.usage[1] |= evaluated;
    operation
}

const fn read_write_10(code: u8, flags: u8) -> Operation {
    plain(&[code, flags, 0xff, 0xff, 0xff, 0xff, 0x3f, 0xff, 0xff, 0], MEDIUM_TIMEOUT_S)
}

const fn read_write_12(code: u8, flags: u8) -> Operation {
    plain(&[code, flags, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x3f, 0], MEDIUM_TIMEOUT_S)
}

const fn read_write_16(code: u8, flags: u8, timeout_s: u32) -> Operation {
    plain(&[code, flags, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x3f, 0], timeout_s)
}

const fn reserve_in(action: u8) -> Operation {
    with_action(&[opcode::PERSISTENT_RESERVE_IN, action, 0, 0, 0, 0, 0, 0xff, 0xff, 0], MEDIUM_TIMEOUT_S)
}

const fn reserve_out(action: u8) -> Operation {
    with_action(&[opcode::PERSISTENT_RESERVE_OUT, action, 0xff, 0, 0, 0xff, 0xff, 0xff, 0xff, 0], MEDIUM_TIMEOUT_S)
}

/// Every command, ordered by operation code and service action.
pub static OPERATIONS: [Operation; 56] = [
    plain(&[opcode::TEST_UNIT_READY, 0, 0, 0, 0, 0], MEDIUM_TIMEOUT_S),
    plain(&[opcode::REQUEST_SENSE, 0x01, 0, 0, 0xff, 0], MEDIUM_TIMEOUT_S),
    plain(&[opcode::READ_6, 0x1f, 0xff, 0xff, 0xff, 0], MEDIUM_TIMEOUT_S),
    plain(&[opcode::WRITE_6, 0x1f, 0xff, 0xff, 0xff, 0], MEDIUM_TIMEOUT_S),
    plain(&[opcode::INQUIRY, 0x01, 0xff, 0xff, 0xff, 0], MEDIUM_TIMEOUT_S),
    plain(&[opcode::MODE_SELECT_6, 0x11, 0, 0, 0xff, 0], MEDIUM_TIMEOUT_S),
    plain(&[opcode::RESERVE_6, 0, 0, 0, 0, 0], MEDIUM_TIMEOUT_S),
    plain(&[opcode::RELEASE_6, 0, 0, 0, 0, 0], MEDIUM_TIMEOUT_S),
    plain(&[opcode::MODE_SENSE_6, 0x08, 0xff, 0xff, 0xff, 0], MEDIUM_TIMEOUT_S),
    plain(&[opcode::START_STOP_UNIT, 0x01, 0, 0x0f, 0xf7, 0], LONG_TIMEOUT_S),
    plain(&[opcode::SEND_DIAGNOSTIC, 0xf7, 0, 0xff, 0xff, 0], LONG_TIMEOUT_S),
    plain(&[opcode::READ_CAPACITY_10, 0, 0xff, 0xff, 0xff, 0xff, 0, 0, 0x01, 0], MEDIUM_TIMEOUT_S),
    read_write_10(opcode::READ_10, 0x1a),
    read_write_10(opcode::WRITE_10, 0x1a),
    read_write_10(opcode::WRITE_AND_VERIFY_10, 0x12),
    read_write_10(opcode::VERIFY_10, 0x16),
    read_write_10(opcode::PRE_FETCH_10, 0x02),
    plain(&[opcode::SYNCHRONIZE_CACHE_10, 0x06, 0xff, 0xff, 0xff, 0xff, 0x3f, 0xff, 0xff, 0], LONG_TIMEOUT_S),
    plain(&[opcode::READ_DEFECT_DATA_10, 0, 0x1f, 0, 0, 0, 0, 0xff, 0xff, 0], MEDIUM_TIMEOUT_S),
    plain(&[opcode::WRITE_SAME_10, 0x18, 0xff, 0xff, 0xff, 0xff, 0x3f, 0xff, 0xff, 0], LONG_TIMEOUT_S),
    plain(&[opcode::UNMAP, 0x01, 0, 0, 0, 0, 0x3f, 0xff, 0xff, 0], LONG_TIMEOUT_S),
    // SP is not evaluated: log parameters are not saved.
    plain(&[opcode::LOG_SENSE, 0, 0xff, 0xff, 0, 0xff, 0xff, 0xff, 0xff, 0], MEDIUM_TIMEOUT_S),
    plain(&[opcode::MODE_SELECT_10, 0x11, 0, 0, 0, 0, 0, 0xff, 0xff, 0], MEDIUM_TIMEOUT_S),
    plain(&[opcode::MODE_SENSE_10, 0x18, 0xff, 0xff, 0, 0, 0, 0xff, 0xff, 0], MEDIUM_TIMEOUT_S),
    reserve_in(0),
    reserve_in(1),
    reserve_in(2),
    reserve_in(3),
    reserve_out(0),
    reserve_out(1),
    reserve_out(2),
    reserve_out(3),
    reserve_out(4),
    reserve_out(5),
    reserve_out(6),
    reserve_out(7),
    read_write_16(opcode::READ_16, 0x1a, MEDIUM_TIMEOUT_S),
    plain(
        &[opcode::COMPARE_AND_WRITE, 0x1a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0xff, 0x3f, 0],
        MEDIUM_TIMEOUT_S,
    ),
    read_write_16(opcode::WRITE_16, 0x1a, MEDIUM_TIMEOUT_S),
    read_write_16(opcode::ORWRITE_16, 0x1a, MEDIUM_TIMEOUT_S),
    read_write_16(opcode::WRITE_AND_VERIFY_16, 0x12, MEDIUM_TIMEOUT_S),
    read_write_16(opcode::VERIFY_16, 0x16, MEDIUM_TIMEOUT_S),
    read_write_16(opcode::PRE_FETCH_16, 0x02, MEDIUM_TIMEOUT_S),
    read_write_16(opcode::SYNCHRONIZE_CACHE_16, 0x06, LONG_TIMEOUT_S),
    read_write_16(opcode::WRITE_SAME_16, 0x19, LONG_TIMEOUT_S),
    with_action(
        &[
            opcode::SERVICE_ACTION_IN_16,
            action::READ_CAPACITY_16,
            0xff,
            0xff,
            0xff,
            0xff,
            0xff,
            0xff,
            0xff,
            0xff,
            0xff,
            0xff,
            0xff,
            0xff,
            0x01,
            0,
        ],
        MEDIUM_TIMEOUT_S,
    ),
    with_action(
        &[
            opcode::SERVICE_ACTION_IN_16,
            action::GET_LBA_STATUS,
            0xff,
            0xff,
            0xff,
            0xff,
            0xff,
            0xff,
            0xff,
            0xff,
            0xff,
            0xff,
            0xff,
            0xff,
            0,
            0,
        ],
        MEDIUM_TIMEOUT_S,
    ),
    plain(&[opcode::REPORT_LUNS, 0, 0xff, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, 0], MEDIUM_TIMEOUT_S),
    // The format is in the bits beside the service action.
    with_action_beside(
        &[opcode::MAINTENANCE_IN, action::REPORT_TARGET_PORT_GROUPS, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, 0],
        0xe0,
        MEDIUM_TIMEOUT_S,
    ),
    with_action(
        &[
            opcode::MAINTENANCE_IN,
            action::REPORT_SUPPORTED_OPERATION_CODES,
            0x87,
            0xff,
            0xff,
            0xff,
            0xff,
            0xff,
            0xff,
            0xff,
            0,
            0,
        ],
        MEDIUM_TIMEOUT_S,
    ),
    with_action(
        &[
            opcode::MAINTENANCE_IN,
            action::REPORT_SUPPORTED_TASK_MANAGEMENT_FUNCTIONS,
            0x80,
            0,
            0,
            0,
            0xff,
            0xff,
            0xff,
            0xff,
            0,
            0,
        ],
        MEDIUM_TIMEOUT_S,
    ),
    read_write_12(opcode::READ_12, 0x1a),
    read_write_12(opcode::WRITE_12, 0x1a),
    read_write_12(opcode::WRITE_AND_VERIFY_12, 0x12),
    read_write_12(opcode::VERIFY_12, 0x16),
    plain(&[opcode::READ_DEFECT_DATA_12, 0x1f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0], MEDIUM_TIMEOUT_S),
];

/// Row of the first entry of every operation code, or 255.
static FIRST_ROW: [u8; 256] = first_rows();

const fn first_rows() -> [u8; 256] {
    let mut rows = [255u8; 256];
    let mut row = OPERATIONS.len();
    while row > 0 {
        row -= 1;
        rows[OPERATIONS[row].code as usize] = row as u8;
    }
    rows
}

/// What [`find`] answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// This command.
    Operation(&'static Operation),
    /// The operation code is known, the service action is not.
    UnknownAction,
    /// No such operation code.
    UnknownCode,
}

/// The rows of one operation code.
#[must_use]
pub fn rows(code: u8) -> &'static [Operation] {
    let first = usize::from(FIRST_ROW[usize::from(code)]);
    let Some(tail) = OPERATIONS.get(first..) else { return &[] };
    let count = tail.iter().take_while(|operation| operation.code == code).count();
    &tail[..count]
}

/// The command a CDB asks for.
#[must_use]
pub fn find(cdb: &[u8; 16]) -> Found {
    let first = usize::from(FIRST_ROW[usize::from(cdb[0])]);
    let Some(operation) = OPERATIONS.get(first) else { return Found::UnknownCode };
    if operation.action.is_none() {
        return Found::Operation(operation);
    }
    let asked = u8_at(cdb, 1) & 0x1f;
    rows(cdb[0]).iter().find(|operation| operation.action == Some(asked)).map_or(Found::UnknownAction, Found::Operation)
}

/// The first byte and bit set in `cdb` that no field of `operation` owns. Bits 7 and 6 of the control byte are vendor
/// specific (SAM-5 r21 §5.2) and ignored.
#[must_use]
pub fn stray_bit(operation: &Operation, cdb: &[u8; 16]) -> Option<(u16, u8)> {
    // Most commands have none: one look at the whole CDB.
    if u128::from_ne_bytes(*cdb) & !u128::from_ne_bytes(operation.usage) == 0 {
        return None;
    }
    let length = usize::from(operation.cdb_bytes);
    for (at, byte) in cdb.iter().enumerate().take(length).skip(1) {
        let mut owned = operation.usage[at];
        if at == 1 && operation.action.is_some() {
            owned |= 0x1f;
        }
        if at == length - 1 {
            owned |= 0xc0;
        }
        let stray = byte & !owned;
        if stray != 0 {
            return Some((at as u16, 7 - stray.leading_zeros() as u8));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_is_ordered_and_has_no_twins() {
        for pair in OPERATIONS.windows(2) {
            assert!((pair[0].code, pair[0].action) < (pair[1].code, pair[1].action), "{:02x?}", pair[1]);
        }
    }

    #[test]
    fn every_row_is_found_by_its_own_usage_data() {
        for operation in &OPERATIONS {
            assert_eq!(find(&operation.usage), Found::Operation(operation));
            assert_eq!(stray_bit(operation, &operation.usage), None);
        }
    }

    /// SAM-5 r21 §5.2: NACA is refused where NORMACA is zero.
    #[test]
    fn naca_is_a_stray_bit() {
        let mut cdb = [0u8; 16];
        cdb[5] = 0x04;
        let Found::Operation(operation) = find(&cdb) else { panic!("TEST UNIT READY is in the table") };
        assert_eq!(stray_bit(operation, &cdb), Some((5, 2)));
    }
}
