//! Command descriptor blocks, parsed into commands.
//!
//! Parsing checks what can be known from the sixteen bytes alone: operation code, service action, bits no field owns.
//! Whether a block lies within the unit, or a reservation refuses the command, is the logical unit's business.

use crate::alua::ReportFormat;
use crate::bytes::{u16_at, u32_at, u64_at};
use crate::operations::{self, Found, action, opcode};
use crate::reservation::{InAction, OutAction};
use crate::sense::{Asc, Sense, SenseFormat};

/// Why a CDB is no command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CdbFault {
    /// No such operation code (INVALID COMMAND OPERATION CODE).
    UnknownCode,
    /// A field holds what it must not (INVALID FIELD IN CDB).
    Field {
        /// First byte of the field.
        byte: u16,
        /// Leftmost bit, where known.
        bit: Option<u8>,
    },
}

impl CdbFault {
    /// The sense data that says so.
    #[must_use]
    pub fn sense(self) -> Sense {
        match self {
            Self::UnknownCode => Sense::illegal(Asc::INVALID_COMMAND_OPERATION_CODE),
            Self::Field { byte, bit } => Sense::cdb_field(byte, bit),
        }
    }
}

/// Blocks a command names, not yet checked against any unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// First logical block.
    pub lba: u64,
    /// Number of logical blocks; zero is allowed where the standard allows it.
    pub blocks: u64,
}

/// FUA (SBC-3 r36 §4.15.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Force {
    /// The cache may be used.
    CacheAllowed,
    /// From or to the medium before the status.
    UnitAccess,
}

/// BYTCHK (SBC-3 r36 §5.37 table 88).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compare {
    /// 00b: read the medium, compare nothing.
    Nothing,
    /// 01b: the data-out buffer holds every block.
    EveryBlock,
    /// 11b: the data-out buffer holds one block, every block must equal it.
    OneBlock,
}

/// What WRITE SAME writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pattern {
    /// The block in the data-out buffer.
    DataOut,
    /// Zeroes; there is no data-out buffer (NDOB).
    Zeroes,
}

/// Whether WRITE SAME may deallocate instead of writing (UNMAP bit).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deallocate {
    /// Must write.
    No,
    /// May deallocate where the unit reads deallocated blocks as the pattern.
    Allowed,
}

/// Whether a MODE command is of the 6-byte or the 10-byte kind: it decides the header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ModeForm {
    /// 4-byte header.
    Six,
    /// 8-byte header.
    Ten,
}

/// PC field of MODE SENSE (SPC-4 r37 §6.14).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PageControl {
    /// Current values.
    Current,
    /// A mask of what can be changed.
    Changeable,
    /// Values after power-on without saved pages.
    Default,
    /// Saved values.
    Saved,
}

/// Whether block descriptors may be returned (DBD).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BlockDescriptors {
    /// None.
    Disabled,
    /// The 8-byte one.
    Short,
    /// The 16-byte one is allowed (LLBAA).
    LongAllowed,
}

/// What REPORT SUPPORTED OPERATION CODES asks (SPC-4 r37 §6.35).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OperationQuery {
    /// Every command.
    All,
    /// One operation code, which must have no service actions.
    Code(u8),
    /// One operation code and service action, which must exist as such.
    CodeAndAction(u8, u16),
    /// One operation code, with its service action if it has them.
    CodeWithActionIfAny(u8, u16),
}

/// Whether time-out descriptors are wanted (RCTD).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Timeouts {
    /// Without.
    Omitted,
    /// With.
    Reported,
}

/// REPORT SUPPORTED TASK MANAGEMENT FUNCTIONS: short answer or extended (REPD).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TaskManagementReport {
    /// 4 bytes.
    Basic,
    /// 16 bytes.
    Extended,
}

/// Which READ DEFECT DATA it is: it decides the header of the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DefectForm {
    /// 4-byte header.
    Ten,
    /// 8-byte header.
    Twelve,
}

/// What READ DEFECT DATA asks for (SBC-3 r36 §5.16): REQ_PLIST (bit 4), REQ_GLIST (bit 3) and the address format (bits 2 to 0), in
/// the places they also have in the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DefectLists(pub u8);

/// A command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "variants and fields carry the standard's names; the functions below say where from")]
pub enum Command {
    TestUnitReady,
    RequestSense {
        format: SenseFormat,
        allocation: u32,
    },
    Inquiry {
        allocation: u32,
    },
    VitalProductData {
        page: u8,
        allocation: u32,
    },
    ReportLuns {
        select: u8,
        allocation: u32,
    },
    ReadCapacity10,
    ReadCapacity16 {
        allocation: u32,
    },
    GetLbaStatus {
        lba: u64,
        allocation: u32,
    },
    Read {
        span: Span,
        force: Force,
    },
    Write {
        span: Span,
        force: Force,
    },
    WriteAndVerify {
        span: Span,
        compare: Compare,
    },
    Verify {
        span: Span,
        compare: Compare,
    },
    WriteSame {
        span: Span,
        pattern: Pattern,
        deallocate: Deallocate,
    },
    Unmap {
        parameter_bytes: u32,
    },
    CompareAndWrite {
        span: Span,
        force: Force,
    },
    OrWrite {
        span: Span,
        force: Force,
    },
    SynchronizeCache {
        span: Span,
    },
    PreFetch {
        span: Span,
    },
    ModeSense {
        form: ModeForm,
        control: PageControl,
        page: u8,
        subpage: u8,
        descriptors: BlockDescriptors,
        allocation: u32,
    },
    ModeSelect {
        form: ModeForm,
        save: SavePages,
        parameter_bytes: u32,
    },
    ReportSupportedOperationCodes {
        query: OperationQuery,
        timeouts: Timeouts,
        allocation: u32,
    },
    ReportSupportedTaskManagement {
        report: TaskManagementReport,
        allocation: u32,
    },
    ReportTargetPortGroups {
        format: ReportFormat,
        allocation: u32,
    },
    LogSense {
        page: u8,
        subpage: u8,
        /// First parameter wanted.
        pointer: u16,
        allocation: u32,
    },
    ReadDefectData {
        form: DefectForm,
        lists: DefectLists,
        allocation: u32,
    },
    /// The default self-test, or nothing at all: other tests and parameter lists are refused by the parser.
    SendDiagnostic,
    StartStopUnit(StartStop),
    Reserve6,
    Release6,
    PersistentReserveIn {
        action: InAction,
        allocation: u32,
    },
    PersistentReserveOut {
        action: OutAction,
        scope_and_type: u8,
        parameter_bytes: u32,
    },
}

/// SP bit of MODE SELECT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SavePages {
    /// Current values only.
    No,
    /// Also the saved values.
    Yes,
}

/// What START STOP UNIT asks for (SBC-3 r36 §5.25).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StartStop {
    /// START = 1 with POWER CONDITION 0: be ready.
    Start,
    /// START = 0 with POWER CONDITION 0: stop.
    Stop,
    /// Any other power condition.
    PowerCondition(u8),
}

const HIGH_BITS: u8 = 0xe0;

impl Command {
    /// Reads a CDB.
    ///
    /// # Errors
    /// [`CdbFault`] says what the initiator got wrong.
    pub fn parse(cdb: &[u8; 16]) -> Result<Self, CdbFault> {
        let operation = match operations::find(cdb) {
            Found::Operation(operation) => operation,
            Found::UnknownAction => return Err(CdbFault::Field { byte: 1, bit: Some(4) }),
            Found::UnknownCode => return Err(CdbFault::UnknownCode),
        };
        if let Some((byte, bit)) = operations::stray_bit(operation, cdb) {
            return Err(CdbFault::Field { byte, bit: Some(bit) });
        }
        match cdb[0] & HIGH_BITS {
            0x00 => Self::parse_6(cdb),
            0x20 | 0x40 => Self::parse_10(cdb),
            0x80 => Self::parse_16(cdb),
            _ => Self::parse_12(cdb),
        }
    }

    fn parse_6(cdb: &[u8; 16]) -> Result<Self, CdbFault> {
        let allocation = u32::from(u16_at(cdb, 3));
        Ok(match cdb[0] {
            opcode::TEST_UNIT_READY => Self::TestUnitReady,
            opcode::REQUEST_SENSE => {
                let format = if cdb[1] & 1 == 0 { SenseFormat::Fixed } else { SenseFormat::Descriptor };
                Self::RequestSense { format, allocation: u32::from(cdb[4]) }
            }
            opcode::READ_6 => Self::Read { span: span_6(cdb), force: Force::CacheAllowed },
            opcode::WRITE_6 => Self::Write { span: span_6(cdb), force: Force::CacheAllowed },
            opcode::INQUIRY if cdb[1] & 1 != 0 => Self::VitalProductData { page: cdb[2], allocation },
            // SPC-4 r37 §6.6.1: a page code without EVPD is an error.
            opcode::INQUIRY if cdb[2] != 0 => return Err(CdbFault::Field { byte: 2, bit: None }),
            opcode::INQUIRY => Self::Inquiry { allocation },
            opcode::MODE_SELECT_6 => mode_select(cdb, ModeForm::Six, u32::from(cdb[4]))?,
            opcode::RESERVE_6 => Self::Reserve6,
            opcode::RELEASE_6 => Self::Release6,
            opcode::MODE_SENSE_6 => mode_sense(cdb, ModeForm::Six, u32::from(cdb[4])),
            opcode::START_STOP_UNIT => Self::StartStopUnit(start_stop(cdb)),
            opcode::SEND_DIAGNOSTIC => send_diagnostic(cdb)?,
            _ => return Err(CdbFault::UnknownCode),
        })
    }

    fn parse_10(cdb: &[u8; 16]) -> Result<Self, CdbFault> {
        let span = Span { lba: u64::from(u32_at(cdb, 2)), blocks: u64::from(u16_at(cdb, 7)) };
        let parameter_bytes = u32::from(u16_at(cdb, 7));
        Ok(match cdb[0] {
            opcode::READ_CAPACITY_10 => read_capacity_10(cdb)?,
            opcode::MODE_SELECT_10 => mode_select(cdb, ModeForm::Ten, parameter_bytes)?,
            opcode::MODE_SENSE_10 => mode_sense(cdb, ModeForm::Ten, parameter_bytes),
            opcode::LOG_SENSE => Self::LogSense {
                page: cdb[2] & 0x3f,
                subpage: cdb[3],
                pointer: u16_at(cdb, 5),
                allocation: parameter_bytes,
            },
            opcode::READ_DEFECT_DATA_10 => Self::ReadDefectData {
                form: DefectForm::Ten,
                lists: DefectLists(cdb[2] & 0x1f),
                allocation: parameter_bytes,
            },
            // SBC-3 r36 §5.35: the ANCHOR bit is refused while LBPPBE says anchors are not supported.
            opcode::UNMAP if cdb[1] & 1 != 0 => return Err(CdbFault::Field { byte: 1, bit: Some(0) }),
            opcode::UNMAP => Self::Unmap { parameter_bytes },
            opcode::PERSISTENT_RESERVE_IN => Self::PersistentReserveIn {
                action: InAction::from_bits(cdb[1]).ok_or(CdbFault::Field { byte: 1, bit: Some(4) })?,
                allocation: parameter_bytes,
            },
            opcode::PERSISTENT_RESERVE_OUT => Self::PersistentReserveOut {
                action: OutAction::from_bits(cdb[1]).ok_or(CdbFault::Field { byte: 1, bit: Some(4) })?,
                scope_and_type: cdb[2],
                parameter_bytes: u32_at(cdb, 5),
            },
            code => return Self::block_command(code, cdb[1], span),
        })
    }

    fn parse_12(cdb: &[u8; 16]) -> Result<Self, CdbFault> {
        let allocation = u32_at(cdb, 6);
        Ok(match cdb[0] {
            opcode::REPORT_LUNS => Self::ReportLuns { select: cdb[2], allocation },
            opcode::MAINTENANCE_IN if cdb[1] & 0x1f == action::REPORT_SUPPORTED_OPERATION_CODES => {
                supported_operations(cdb, allocation)?
            }
            opcode::MAINTENANCE_IN if cdb[1] & 0x1f == action::REPORT_TARGET_PORT_GROUPS => {
                let format = match cdb[1] >> 5 {
                    0 => ReportFormat::LengthOnly,
                    1 => ReportFormat::Extended,
                    _ => return Err(CdbFault::Field { byte: 1, bit: Some(7) }),
                };
                Self::ReportTargetPortGroups { format, allocation }
            }
            opcode::MAINTENANCE_IN => {
                let report =
                    if cdb[2] & 0x80 == 0 { TaskManagementReport::Basic } else { TaskManagementReport::Extended };
                Self::ReportSupportedTaskManagement { report, allocation }
            }
            opcode::READ_DEFECT_DATA_12 => {
                Self::ReadDefectData { form: DefectForm::Twelve, lists: DefectLists(cdb[1] & 0x1f), allocation }
            }
            code => {
                let span = Span { lba: u64::from(u32_at(cdb, 2)), blocks: u64::from(u32_at(cdb, 6)) };
                return Self::block_command(code, cdb[1], span);
            }
        })
    }

    fn parse_16(cdb: &[u8; 16]) -> Result<Self, CdbFault> {
        let span = Span { lba: u64_at(cdb, 2), blocks: u64::from(u32_at(cdb, 10)) };
        Ok(match cdb[0] {
            opcode::COMPARE_AND_WRITE => {
                Self::CompareAndWrite { span: Span { lba: span.lba, blocks: u64::from(cdb[13]) }, force: force(cdb[1]) }
            }
            opcode::ORWRITE_16 => Self::OrWrite { span, force: force(cdb[1]) },
            opcode::SERVICE_ACTION_IN_16 if cdb[1] & 0x1f == action::READ_CAPACITY_16 => {
                Self::ReadCapacity16 { allocation: u32_at(cdb, 10) }
            }
            opcode::SERVICE_ACTION_IN_16 => Self::GetLbaStatus { lba: span.lba, allocation: u32_at(cdb, 10) },
            code => return Self::block_command(code, cdb[1], span),
        })
    }

    /// The commands that exist in several lengths and differ only in how wide their fields are.
    fn block_command(code: u8, flags: u8, span: Span) -> Result<Self, CdbFault> {
        Ok(match code {
            opcode::READ_10 | opcode::READ_12 | opcode::READ_16 => Self::Read { span, force: force(flags) },
            opcode::WRITE_10 | opcode::WRITE_12 | opcode::WRITE_16 => Self::Write { span, force: force(flags) },
            opcode::WRITE_AND_VERIFY_10 | opcode::WRITE_AND_VERIFY_12 | opcode::WRITE_AND_VERIFY_16 => {
                let compare = if flags & 0x02 == 0 { Compare::Nothing } else { Compare::EveryBlock };
                Self::WriteAndVerify { span, compare }
            }
            opcode::VERIFY_10 | opcode::VERIFY_12 | opcode::VERIFY_16 => {
                Self::Verify { span, compare: byte_check(flags)? }
            }
            opcode::PRE_FETCH_10 | opcode::PRE_FETCH_16 => Self::PreFetch { span },
            opcode::SYNCHRONIZE_CACHE_10 | opcode::SYNCHRONIZE_CACHE_16 => Self::SynchronizeCache { span },
            opcode::WRITE_SAME_10 | opcode::WRITE_SAME_16 => write_same(flags, span)?,
            _ => return Err(CdbFault::UnknownCode),
        })
    }
}

/// SBC-3 r36 §5.8 and §5.29: zero blocks mean 256.
fn span_6(cdb: &[u8; 16]) -> Span {
    let lba = u64::from(u32_at(cdb, 0) & 0x001f_ffff);
    let blocks = if cdb[4] == 0 { 256 } else { u64::from(cdb[4]) };
    Span { lba, blocks }
}

fn force(flags: u8) -> Force {
    if flags & 0x08 == 0 { Force::CacheAllowed } else { Force::UnitAccess }
}

fn byte_check(flags: u8) -> Result<Compare, CdbFault> {
    match (flags >> 1) & 0x03 {
        0 => Ok(Compare::Nothing),
        1 => Ok(Compare::EveryBlock),
        3 => Ok(Compare::OneBlock),
        _ => Err(CdbFault::Field { byte: 1, bit: Some(2) }),
    }
}

/// SBC-3 r36 §5.43: ANCHOR (bit 4) is refused while anchors are not supported; NDOB exists in WRITE SAME (16) only, and
/// the table of operations refuses it in the other.
fn write_same(flags: u8, span: Span) -> Result<Command, CdbFault> {
    if flags & 0x10 != 0 {
        return Err(CdbFault::Field { byte: 1, bit: Some(4) });
    }
    let pattern = if flags & 0x01 == 0 { Pattern::DataOut } else { Pattern::Zeroes };
    let deallocate = if flags & 0x08 == 0 { Deallocate::No } else { Deallocate::Allowed };
    Ok(Command::WriteSame { span, pattern, deallocate })
}

/// SBC-3 r36 §5.12: without PMI the address must be zero; PMI itself is obsolete and answered like none.
fn read_capacity_10(cdb: &[u8; 16]) -> Result<Command, CdbFault> {
    if cdb[8] & 1 == 0 && u32_at(cdb, 2) != 0 {
        return Err(CdbFault::Field { byte: 2, bit: None });
    }
    Ok(Command::ReadCapacity10)
}

/// SPC-4 r37 §6.11: only page format (PF) parameter lists are understood.
fn mode_select(cdb: &[u8; 16], form: ModeForm, parameter_bytes: u32) -> Result<Command, CdbFault> {
    if cdb[1] & 0x10 == 0 && parameter_bytes != 0 {
        return Err(CdbFault::Field { byte: 1, bit: Some(4) });
    }
    let save = if cdb[1] & 1 == 0 { SavePages::No } else { SavePages::Yes };
    Ok(Command::ModeSelect { form, save, parameter_bytes })
}

fn mode_sense(cdb: &[u8; 16], form: ModeForm, allocation: u32) -> Command {
    let control = match cdb[2] >> 6 {
        0 => PageControl::Current,
        1 => PageControl::Changeable,
        2 => PageControl::Default,
        _ => PageControl::Saved,
    };
    let descriptors = match (cdb[1] & 0x08 != 0, cdb[1] & 0x10 != 0) {
        (true, _) => BlockDescriptors::Disabled,
        (false, true) => BlockDescriptors::LongAllowed,
        (false, false) => BlockDescriptors::Short,
    };
    Command::ModeSense { form, control, page: cdb[2] & 0x3f, subpage: cdb[3], descriptors, allocation }
}

fn start_stop(cdb: &[u8; 16]) -> StartStop {
    match (cdb[4] >> 4, cdb[4] & 1) {
        (0, 1) => StartStop::Start,
        (0, _) => StartStop::Stop,
        (condition, _) => StartStop::PowerCondition(condition),
    }
}

/// SPC-4 r37 §6.42: the default self-test is the only one there is, and no diagnostic page can be sent.
fn send_diagnostic(cdb: &[u8; 16]) -> Result<Command, CdbFault> {
    if cdb[1] & 0xe0 != 0 {
        return Err(CdbFault::Field { byte: 1, bit: Some(7) });
    }
    if u16_at(cdb, 3) != 0 {
        return Err(CdbFault::Field { byte: 3, bit: None });
    }
    Ok(Command::SendDiagnostic)
}

fn supported_operations(cdb: &[u8; 16], allocation: u32) -> Result<Command, CdbFault> {
    let (code, action) = (cdb[3], u16_at(cdb, 4));
    let query = match cdb[2] & 0x07 {
        0 => OperationQuery::All,
        1 => OperationQuery::Code(code),
        2 => OperationQuery::CodeAndAction(code, action),
        3 => OperationQuery::CodeWithActionIfAny(code, action),
        _ => return Err(CdbFault::Field { byte: 2, bit: Some(2) }),
    };
    let timeouts = if cdb[2] & 0x80 == 0 { Timeouts::Omitted } else { Timeouts::Reported };
    Ok(Command::ReportSupportedOperationCodes { query, timeouts, allocation })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operations::OPERATIONS;

    #[test]
    fn every_command_of_the_table_is_parsed() {
        for operation in &OPERATIONS {
            let mut cdb = [0u8; 16];
            cdb[0] = operation.code;
            cdb[1] = operation.action.unwrap_or(0);
            assert!(Command::parse(&cdb).is_ok(), "{operation:02x?}");
        }
    }

    /// SBC-3 r36 §5.8.
    #[test]
    fn read_6_of_zero_blocks_reads_256() {
        let cdb = [0x08, 0x1f, 0xff, 0xfe, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        let span = Span { lba: 0x1f_fffe, blocks: 256 };
        assert_eq!(Command::parse(&cdb), Ok(Command::Read { span, force: Force::CacheAllowed }));
    }

    /// SBC-3 r36 §5.11: RDPROTECT is refused on a unit without protection information.
    #[test]
    fn protection_bits_are_refused() {
        let mut cdb = [0u8; 16];
        cdb[0] = 0x88;
        cdb[1] = 0x20;
        assert_eq!(Command::parse(&cdb), Err(CdbFault::Field { byte: 1, bit: Some(5) }));
    }

    /// SPC-4 r37 §6.42.
    #[test]
    fn only_the_default_self_test_is_taken() {
        let mut cdb = [0u8; 16];
        (cdb[0], cdb[1]) = (opcode::SEND_DIAGNOSTIC, 0x04);
        assert_eq!(Command::parse(&cdb), Ok(Command::SendDiagnostic));
        cdb[1] = 0x20;
        assert_eq!(Command::parse(&cdb), Err(CdbFault::Field { byte: 1, bit: Some(7) }));
        (cdb[1], cdb[4]) = (0x10, 8);
        assert_eq!(Command::parse(&cdb), Err(CdbFault::Field { byte: 3, bit: None }));
    }

    #[test]
    fn unknown_codes_and_unknown_actions_differ() {
        let mut cdb = [0u8; 16];
        cdb[0] = 0xc1;
        assert_eq!(Command::parse(&cdb), Err(CdbFault::UnknownCode));
        cdb[0] = opcode::PERSISTENT_RESERVE_IN;
        cdb[1] = 9;
        assert_eq!(Command::parse(&cdb), Err(CdbFault::Field { byte: 1, bit: Some(4) }));
    }

    #[test]
    fn no_sixteen_bytes_panic() {
        for code in 0..=255u8 {
            for fill in [0x00, 0xff, 0x5a] {
                let mut cdb = [fill; 16];
                cdb[0] = code;
                let _ = Command::parse(&cdb);
            }
        }
    }
}
