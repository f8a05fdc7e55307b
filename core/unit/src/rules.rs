//! Which commands reservations and unit attentions let pass: the tables of the standards, as exhaustive matches.
//!
//! Pure functions of the command; whether a reservation stands, and who holds it, is asked elsewhere.

use understudy_scsi::cdb::{Command, StartStop};

/// What a command does to the medium, as far as reservations care (SPC-4 r37 table 62, SBC-3 r36 table 13).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reach {
    /// Passes every reservation, or has rules of its own.
    Neither,
    /// Passes a write exclusive reservation.
    Reads,
    /// Passes none.
    Writes,
}

pub(crate) fn reach(command: &Command) -> Reach {
    match command {
        Command::Read { .. }
        | Command::Verify { .. }
        | Command::PreFetch { .. }
        | Command::GetLbaStatus { .. }
        | Command::ReportSupportedOperationCodes { .. }
        | Command::ReportSupportedTaskManagement { .. }
        | Command::ReadDefectData { .. }
        | Command::ModeSense { .. } => Reach::Reads,
        Command::Write { .. }
        | Command::WriteAndVerify { .. }
        | Command::WriteSame { .. }
        | Command::Unmap { .. }
        | Command::CompareAndWrite { .. }
        | Command::OrWrite { .. }
        | Command::SynchronizeCache { .. }
        | Command::ModeSelect { .. }
        | Command::SendDiagnostic
        | Command::StartStopUnit(StartStop::Stop | StartStop::PowerCondition(_)) => Reach::Writes,
        Command::TestUnitReady
        | Command::RequestSense { .. }
        | Command::Inquiry { .. }
        | Command::VitalProductData { .. }
        | Command::ReportLuns { .. }
        | Command::ReportTargetPortGroups { .. }
        | Command::LogSense { .. }
        | Command::ReadCapacity10
        | Command::ReadCapacity16 { .. }
        | Command::StartStopUnit(StartStop::Start)
        | Command::Reserve6
        | Command::Release6
        | Command::PersistentReserveIn { .. }
        | Command::PersistentReserveOut { .. } => Reach::Neither,
    }
}

/// Whether the command is one that write protection refuses (SBC-3 r36 §4.12).
pub(crate) fn changes_blocks(command: &Command) -> bool {
    matches!(
        command,
        Command::Write { .. }
            | Command::WriteAndVerify { .. }
            | Command::WriteSame { .. }
            | Command::Unmap { .. }
            | Command::CompareAndWrite { .. }
            | Command::OrWrite { .. }
    )
}

/// SPC-2 reservations (SPC-2 r20 §5.5.1): persistent reservation commands conflict even for the holder, RELEASE of
/// anybody else is answered GOOD and does nothing.
pub(crate) fn legacy_conflict(own: bool, command: &Command) -> bool {
    match command {
        Command::PersistentReserveIn { .. } | Command::PersistentReserveOut { .. } => true,
        Command::Inquiry { .. }
        | Command::VitalProductData { .. }
        | Command::ReportLuns { .. }
        | Command::ReportTargetPortGroups { .. }
        | Command::RequestSense { .. }
        | Command::Release6 => false,
        // Everything else is the holder's alone.
        _ => !own,
    }
}

/// Commands that neither report nor clear unit attentions (SPC-4 r37 §5.12, SAM-5 r21 §5.14).
#[must_use]
pub fn passes_attention(command: &Command) -> bool {
    matches!(
        command,
        Command::Inquiry { .. }
            | Command::VitalProductData { .. }
            | Command::ReportLuns { .. }
            | Command::RequestSense { .. }
    )
}

/// Whether a command that was perhaps carried out may be carried out once more without anybody being able to tell: it changes neither blocks nor
/// what the unit keeps.
#[must_use]
pub fn may_be_repeated(command: &Command) -> bool {
    match command {
        Command::Read { .. }
        | Command::Verify { .. }
        | Command::PreFetch { .. }
        | Command::SynchronizeCache { .. }
        | Command::TestUnitReady
        | Command::Inquiry { .. }
        | Command::VitalProductData { .. }
        | Command::ReportLuns { .. }
        | Command::ReadCapacity10
        | Command::ReadCapacity16 { .. }
        | Command::GetLbaStatus { .. }
        | Command::LogSense { .. }
        | Command::ModeSense { .. }
        | Command::ReportSupportedOperationCodes { .. }
        | Command::ReportSupportedTaskManagement { .. }
        | Command::ReportTargetPortGroups { .. }
        | Command::PersistentReserveIn { .. } => true,
        Command::Write { .. }
        | Command::WriteAndVerify { .. }
        | Command::WriteSame { .. }
        | Command::Unmap { .. }
        | Command::CompareAndWrite { .. }
        | Command::OrWrite { .. }
        | Command::ModeSelect { .. }
        | Command::SendDiagnostic
        | Command::StartStopUnit(_)
        | Command::RequestSense { .. }
        | Command::ReadDefectData { .. }
        | Command::Reserve6
        | Command::Release6
        | Command::PersistentReserveOut { .. } => false,
    }
}
