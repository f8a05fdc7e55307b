//! Numbers that identify or order things on an iSCSI connection, each with its own type.
//!
//! Not here: who increments them when. The one idea: CmdSN and StatSN wrap, so they are compared with the serial
//! arithmetic of RFC 1982 (RFC 7143 §4.2.2.1) and deliberately have no `Ord`.

macro_rules! serial_number {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
        pub struct $name(pub u32);

        impl $name {
            /// The number after this one, wrapping.
            #[must_use]
            pub const fn next(self) -> Self {
                Self(self.0.wrapping_add(1))
            }

            /// This number plus `count`, wrapping.
            #[must_use]
            pub const fn plus(self, count: u32) -> Self {
                Self(self.0.wrapping_add(count))
            }

            /// Whether this number comes before `other`. Numbers exactly 2^31 apart are not ordered: false both ways
            /// round (RFC 1982 §3.2).
            #[must_use]
            pub const fn is_before(self, other: Self) -> bool {
                let ahead = other.0.wrapping_sub(self.0);
                ahead != 0 && ahead < 1 << 31
            }

            /// Whether this number comes before `other` or equals it.
            #[must_use]
            pub const fn is_at_or_before(self, other: Self) -> bool {
                self.0 == other.0 || self.is_before(other)
            }

            /// How many steps lead from `earlier` to this number, wrapping.
            #[must_use]
            pub const fn steps_since(self, earlier: Self) -> u32 {
                self.0.wrapping_sub(earlier.0)
            }
        }
    };
}

serial_number! {
    /// Command sequence number of a session, RFC 7143 §4.2.2.1.
    CmdSn
}
serial_number! {
    /// Status sequence number of a connection, RFC 7143 §4.2.2.2.
    StatSn
}

/// Initiator Task Tag, RFC 7143 §11.2.1.8; [`TaskTag::RESERVED`] means "no task".
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TaskTag(pub u32);

impl TaskTag {
    /// The value that names no task.
    pub const RESERVED: Self = Self(0xffff_ffff);
}

/// Target Transfer Tag, RFC 7143 §11.7.4; [`TransferTag::RESERVED`] means "none".
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TransferTag(pub u32);

impl TransferTag {
    /// The value that names no transfer.
    pub const RESERVED: Self = Self(0xffff_ffff);
}

/// Initiator session identifier: with the initiator's name it names the SCSI initiator port (RFC 7143 §11.12.5), to
/// which a target binds persistent reservations; it must therefore never change for a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Isid(pub [u8; 6]);

impl Isid {
    /// An ISID of the "random" naming authority (type 10b, RFC 7143 §11.12.5): 24 bits chosen by the caller and a
    /// 16-bit qualifier.
    #[must_use]
    pub const fn random(number: u32, qualifier: u16) -> Self {
        let n = number.to_be_bytes();
        let q = qualifier.to_be_bytes();
        Self([0x80, n[1], n[2], n[3], q[0], q[1]])
    }
}

/// Target session identifying handle; zero asks for a new session, RFC 7143 §11.12.6.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Tsih(pub u16);

/// Connection identifier within a session, RFC 7143 §11.12.7.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Cid(pub u16);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn serial_numbers_order_across_the_wrap() {
        assert!(CmdSn(0xffff_fff0).is_before(CmdSn(5)));
        assert!(!CmdSn(5).is_before(CmdSn(0xffff_fff0)));
        assert!(!CmdSn(7).is_before(CmdSn(7)));
        assert!(CmdSn(7).is_at_or_before(CmdSn(7)));
        assert_eq!(CmdSn(u32::MAX).next(), CmdSn(0));
        assert_eq!(CmdSn(2).steps_since(CmdSn(u32::MAX)), 3);
    }

    #[test]
    fn numbers_half_the_circle_apart_are_not_ordered() {
        assert!(!StatSn(0).is_before(StatSn(1 << 31)));
        assert!(!StatSn(1 << 31).is_before(StatSn(0)));
    }
}
