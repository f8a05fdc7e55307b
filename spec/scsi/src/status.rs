//! Status bytes (SAM-5 r21 §5.3.1).

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Status {
    /// Done.
    Good = 0x00,
    /// Sense data says why not.
    CheckCondition = 0x02,
    /// Done, and a condition was met (PRE-FETCH that fits the cache).
    ConditionMet = 0x04,
    /// Try again.
    Busy = 0x08,
    /// A reservation refuses this I_T nexus.
    ReservationConflict = 0x18,
    /// No room for one more command.
    TaskSetFull = 0x28,
    /// An auto contingent allegiance is in force.
    AcaActive = 0x30,
    /// Another I_T nexus aborted the command and TAS is one.
    TaskAborted = 0x40,
}

impl Status {
    /// The status of a wire byte, or `None` for a reserved value.
    #[must_use]
    pub fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            0x00 => Self::Good,
            0x02 => Self::CheckCondition,
            0x04 => Self::ConditionMet,
            0x08 => Self::Busy,
            0x18 => Self::ReservationConflict,
            0x28 => Self::TaskSetFull,
            0x30 => Self::AcaActive,
            0x40 => Self::TaskAborted,
            _ => return None,
        })
    }
}
