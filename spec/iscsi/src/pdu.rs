//! All PDUs of one direction as one enum, for receivers.
//!
//! Not here: the PDUs themselves (`request`, `response`). The one idea: the opcode picks the variant; an opcode of the
//! other direction is as malformed as an undefined one.

use crate::bhs::{Malformed, Opcode};
use crate::frame::Frame;
use crate::request::{
    DataOut, LoginRequest, LogoutRequest, NopOut, ScsiCommand, Snack, TaskManagementRequest, TextRequest,
};
use crate::response::{
    AsyncMessage, DataIn, LoginResponse, LogoutResponse, NopIn, R2t, Reject, ScsiResponse, TaskManagementResponse,
    TextResponse,
};

macro_rules! direction {
    ($(#[$doc:meta])* $name:ident { $($variant:ident,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq)]
        #[allow(missing_docs, reason = "each variant is documented at its struct")]
        pub enum $name {
            $($variant($variant),)*
        }

        impl $name {
            /// Reads a frame.
            ///
            /// # Errors
            /// [`Malformed`]: undefined opcode, opcode of the other direction, or what the PDU's own decoding refuses.
            pub fn decode(frame: Frame) -> Result<Self, Malformed> {
                match frame.bhs.opcode()? {
                    $(Opcode::$variant => $variant::decode(frame).map(Self::$variant),)*
                    _other_direction => Err(Malformed::Opcode(frame.bhs.byte(0) & 0x3f)),
                }
            }

            /// Makes the frame.
            #[must_use]
            pub fn into_frame(self) -> Frame {
                match self {
                    $(Self::$variant(pdu) => pdu.into_frame(),)*
                }
            }
        }

        $(impl From<$variant> for $name {
            fn from(pdu: $variant) -> Self {
                Self::$variant(pdu)
            }
        })*
    };
}

direction! {
    /// A PDU from an initiator.
    InitiatorPdu {
        NopOut,
        ScsiCommand,
        TaskManagementRequest,
        LoginRequest,
        TextRequest,
        DataOut,
        LogoutRequest,
        Snack,
    }
}

direction! {
    /// A PDU from a target.
    TargetPdu {
        NopIn,
        ScsiResponse,
        TaskManagementResponse,
        LoginResponse,
        TextResponse,
        DataIn,
        LogoutResponse,
        R2t,
        AsyncMessage,
        Reject,
    }
}
