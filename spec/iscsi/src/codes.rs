//! Code values carried in PDUs: task management, logout, reject, asynchronous events, residuals.
//!
//! Not here: login stages and statuses (`login`). The one idea: a code is a newtype over its byte with named
//! constants, because a value nobody has heard of must survive decoding to be answered or logged.

macro_rules! code {
    ($(#[$doc:meta])* $name:ident { $($(#[$cdoc:meta])* $constant:ident = $value:expr,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub u8);

        impl $name {
            $($(#[$cdoc])* pub const $constant: Self = Self($value);)*
        }
    };
}

code! {
    /// Task management function, RFC 7143 §11.5.1 (7 bits).
    TaskFunction {
        /// Abort one task.
        ABORT_TASK = 1,
        /// Abort every task of this nexus on the logical unit.
        ABORT_TASK_SET = 2,
        /// Clear an ACA condition.
        CLEAR_ACA = 3,
        /// Abort every task on the logical unit.
        CLEAR_TASK_SET = 4,
        /// Reset the logical unit.
        LOGICAL_UNIT_RESET = 5,
        /// Reset the target, sessions stay.
        TARGET_WARM_RESET = 6,
        /// Reset the target and drop its sessions.
        TARGET_COLD_RESET = 7,
        /// Move a task to another connection.
        TASK_REASSIGN = 8,
        /// Ask whether a task is there (RFC 7144).
        QUERY_TASK = 9,
        /// Ask whether this nexus has tasks (RFC 7144).
        QUERY_TASK_SET = 10,
        /// Reset the I_T nexus (RFC 7144).
        I_T_NEXUS_RESET = 11,
        /// Ask for pending asynchronous events (RFC 7144).
        QUERY_ASYNCHRONOUS_EVENT = 12,
    }
}

code! {
    /// Answer to a task management function, RFC 7143 §11.6.1.
    TaskFunctionResponse {
        /// Done (for queries: not there).
        COMPLETE = 0,
        /// The referenced task does not exist.
        TASK_DOES_NOT_EXIST = 1,
        /// The logical unit does not exist.
        LUN_DOES_NOT_EXIST = 2,
        /// The task is still allegiant to another connection.
        TASK_STILL_ALLEGIANT = 3,
        /// Task reassignment is not supported.
        REASSIGNMENT_NOT_SUPPORTED = 4,
        /// The function is not supported.
        NOT_SUPPORTED = 5,
        /// The function was not authorized.
        NOT_AUTHORIZED = 6,
        /// For the queries of RFC 7144: succeeded, the task is there.
        SUCCEEDED = 7,
        /// The function was rejected.
        REJECTED = 255,
    }
}

code! {
    /// iSCSI service response of a SCSI Response PDU, RFC 7143 §11.4.3.
    ServiceResponse {
        /// The command was completed at the target; the status byte counts.
        COMPLETED = 0,
        /// The target failed; there is no SCSI status.
        TARGET_FAILURE = 1,
    }
}

code! {
    /// Why an initiator logs out, RFC 7143 §11.14.1 (7 bits).
    LogoutReason {
        /// Close every connection of the session.
        CLOSE_SESSION = 0,
        /// Close one connection.
        CLOSE_CONNECTION = 1,
        /// Remove a connection for recovery.
        REMOVE_FOR_RECOVERY = 2,
    }
}

code! {
    /// Answer to a logout, RFC 7143 §11.15.1.
    LogoutResponseCode {
        /// Closed successfully.
        SUCCESS = 0,
        /// No such connection.
        CID_NOT_FOUND = 1,
        /// Recovery is not supported.
        RECOVERY_NOT_SUPPORTED = 2,
        /// Clean-up failed.
        CLEANUP_FAILED = 3,
    }
}

code! {
    /// Why a PDU was rejected, RFC 7143 §11.17.1.
    RejectReason {
        /// Data digest error.
        DATA_DIGEST_ERROR = 0x02,
        /// A SNACK was refused.
        SNACK_REJECT = 0x03,
        /// Protocol error.
        PROTOCOL_ERROR = 0x04,
        /// Command not supported in this session type.
        COMMAND_NOT_SUPPORTED = 0x05,
        /// Too many immediate commands.
        IMMEDIATE_COMMAND_REJECT = 0x06,
        /// A task is in progress.
        TASK_IN_PROGRESS = 0x07,
        /// Invalid data acknowledgement.
        INVALID_DATA_ACK = 0x08,
        /// A PDU field is invalid.
        INVALID_PDU_FIELD = 0x09,
        /// Can not generate a target transfer tag: out of resources.
        LONG_OPERATION_REJECT = 0x0a,
        /// Deprecated negotiation reset.
        NEGOTIATION_RESET = 0x0b,
        /// The connection waits for a logout.
        WAITING_FOR_LOGOUT = 0x0c,
    }
}

code! {
    /// Kind of an asynchronous message, RFC 7143 §11.9.1.
    AsyncEvent {
        /// A SCSI asynchronous event with sense data.
        SCSI_EVENT = 0,
        /// The target asks for a logout within Parameter3 seconds.
        REQUEST_LOGOUT = 1,
        /// The target drops the connection in Parameter1.
        DROP_CONNECTION = 2,
        /// The target drops every connection of the session.
        DROP_SESSION = 3,
        /// The target asks for parameter negotiation.
        REQUEST_NEGOTIATION = 4,
        /// All tasks of a logical unit are being terminated (RFC 7143 §11.9.1, FastAbort).
        TASKS_TERMINATED = 5,
        /// Vendor specific.
        VENDOR = 255,
    }
}

code! {
    /// SCSI task attribute in a SCSI Command PDU, RFC 7143 §11.3.1 (3 bits).
    TaskAttribute {
        /// Untagged.
        UNTAGGED = 0,
        /// Simple.
        SIMPLE = 1,
        /// Ordered.
        ORDERED = 2,
        /// Head of queue.
        HEAD_OF_QUEUE = 3,
        /// ACA.
        ACA = 4,
    }
}

/// How many bytes of the expected transfer did not take place, RFC 7143 §11.4.5.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Residual {
    /// Exactly the expected length.
    #[default]
    None,
    /// This many bytes of the expected length were not transferred.
    Underflow(u32),
    /// This many bytes more than the expected length would have been needed.
    Overflow(u32),
}

impl Residual {
    /// The residual of a transfer of `actual` bytes where the initiator expected `expected`.
    #[must_use]
    pub const fn between(expected: u32, actual: u32) -> Self {
        if actual < expected {
            Self::Underflow(expected - actual)
        } else if actual > expected {
            Self::Overflow(actual - expected)
        } else {
            Self::None
        }
    }

    pub(crate) fn bits(self) -> u8 {
        match self {
            Self::None => 0,
            Self::Underflow(_) => 0x02,
            Self::Overflow(_) => 0x04,
        }
    }

    pub(crate) fn count(self) -> u32 {
        match self {
            Self::None => 0,
            Self::Underflow(count) | Self::Overflow(count) => count,
        }
    }

    /// Both bits set is forbidden; it is read as "none" rather than refused, because the status decides anyway.
    pub(crate) fn from_bits(bits: u8, count: u32) -> Self {
        match bits & 0x06 {
            0x02 => Self::Underflow(count),
            0x04 => Self::Overflow(count),
            _none_or_contradictory => Self::None,
        }
    }
}
