//! Sense data: what a CHECK CONDITION says, in fixed and in descriptor format (SPC-4 r37 §4.5).
//!
//! Only current errors are built; deferred ones are understood when they come from a disk.

use crate::bytes::{u8_at, u16_at, u32_at, u64_at};

/// Sense keys (SPC-4 r37 §4.5.6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum SenseKey {
    /// Nothing to report.
    NoSense = 0x0,
    /// Done with some recovery.
    RecoveredError = 0x1,
    /// Not accessible now.
    NotReady = 0x2,
    /// The medium is at fault.
    MediumError = 0x3,
    /// The hardware is at fault.
    HardwareError = 0x4,
    /// The initiator is at fault.
    IllegalRequest = 0x5,
    /// Something happened meanwhile.
    UnitAttention = 0x6,
    /// Protected blocks.
    DataProtect = 0x7,
    /// Blank medium.
    BlankCheck = 0x8,
    /// Vendor specific.
    VendorSpecific = 0x9,
    /// A copy was aborted.
    CopyAborted = 0xa,
    /// The target gave the command up.
    AbortedCommand = 0xb,
    /// Reserved.
    Reserved = 0xc,
    /// Volume overflow.
    VolumeOverflow = 0xd,
    /// Data did not match the medium.
    Miscompare = 0xe,
    /// Completed; look at the sense data.
    Completed = 0xf,
}

impl SenseKey {
    /// The key of the low four bits of `bits`.
    #[must_use]
    pub fn from_bits(bits: u8) -> Self {
        match bits & 0x0f {
            0x0 => Self::NoSense,
            0x1 => Self::RecoveredError,
            0x2 => Self::NotReady,
            0x3 => Self::MediumError,
            0x4 => Self::HardwareError,
            0x5 => Self::IllegalRequest,
            0x6 => Self::UnitAttention,
            0x7 => Self::DataProtect,
            0x8 => Self::BlankCheck,
            0x9 => Self::VendorSpecific,
            0xa => Self::CopyAborted,
            0xb => Self::AbortedCommand,
            0xc => Self::Reserved,
            0xd => Self::VolumeOverflow,
            0xe => Self::Miscompare,
            _ => Self::Completed,
        }
    }
}

/// Additional sense code (high byte) and qualifier (low byte), SPC-4 r37 §4.5.6 and annex F.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Asc(pub u16);

#[allow(missing_docs, reason = "each constant's name is the standard's name of the code")]
impl Asc {
    pub const NONE: Self = Self(0x0000);
    pub const LOGICAL_UNIT_NOT_READY_CAUSE_NOT_REPORTABLE: Self = Self(0x0400);
    pub const LOGICAL_UNIT_BECOMING_READY: Self = Self(0x0401);
    pub const LOGICAL_UNIT_NOT_READY_INITIALIZING_COMMAND_REQUIRED: Self = Self(0x0402);
    pub const ASYMMETRIC_ACCESS_STATE_TRANSITION: Self = Self(0x040a);
    pub const TARGET_PORT_IN_STANDBY_STATE: Self = Self(0x040b);
    pub const TARGET_PORT_IN_UNAVAILABLE_STATE: Self = Self(0x040c);
    pub const LOGICAL_UNIT_COMMUNICATION_FAILURE: Self = Self(0x0800);
    pub const WRITE_ERROR: Self = Self(0x0c00);
    pub const INVALID_FIELD_IN_COMMAND_INFORMATION_UNIT: Self = Self(0x0e03);
    pub const UNRECOVERED_READ_ERROR: Self = Self(0x1100);
    pub const PARAMETER_LIST_LENGTH_ERROR: Self = Self(0x1a00);
    pub const MISCOMPARE_DURING_VERIFY: Self = Self(0x1d00);
    pub const INVALID_COMMAND_OPERATION_CODE: Self = Self(0x2000);
    pub const LOGICAL_BLOCK_ADDRESS_OUT_OF_RANGE: Self = Self(0x2100);
    pub const INVALID_FIELD_IN_CDB: Self = Self(0x2400);
    pub const LOGICAL_UNIT_NOT_SUPPORTED: Self = Self(0x2500);
    pub const INVALID_FIELD_IN_PARAMETER_LIST: Self = Self(0x2600);
    pub const PARAMETER_NOT_SUPPORTED: Self = Self(0x2601);
    pub const INVALID_RELEASE_OF_PERSISTENT_RESERVATION: Self = Self(0x2604);
    pub const WRITE_PROTECTED: Self = Self(0x2700);
    pub const SPACE_ALLOCATION_FAILED_WRITE_PROTECT: Self = Self(0x2707);
    pub const POWER_ON_RESET_OR_BUS_DEVICE_RESET: Self = Self(0x2900);
    pub const POWER_ON: Self = Self(0x2901);
    pub const SCSI_BUS_RESET: Self = Self(0x2902);
    pub const BUS_DEVICE_RESET_FUNCTION: Self = Self(0x2903);
    pub const DEVICE_INTERNAL_RESET: Self = Self(0x2904);
    pub const I_T_NEXUS_LOSS: Self = Self(0x2907);
    pub const MODE_PARAMETERS_CHANGED: Self = Self(0x2a01);
    pub const RESERVATIONS_PREEMPTED: Self = Self(0x2a03);
    pub const RESERVATIONS_RELEASED: Self = Self(0x2a04);
    pub const REGISTRATIONS_PREEMPTED: Self = Self(0x2a05);
    pub const ASYMMETRIC_ACCESS_STATE_CHANGED: Self = Self(0x2a06);
    pub const CAPACITY_DATA_HAS_CHANGED: Self = Self(0x2a09);
    pub const COMMAND_SEQUENCE_ERROR: Self = Self(0x2c00);
    pub const COMMANDS_CLEARED_BY_ANOTHER_INITIATOR: Self = Self(0x2f00);
    pub const SAVING_PARAMETERS_NOT_SUPPORTED: Self = Self(0x3900);
    pub const MICROCODE_HAS_BEEN_CHANGED: Self = Self(0x3f01);
    pub const REPORTED_LUNS_DATA_HAS_CHANGED: Self = Self(0x3f0e);
    pub const INTERNAL_TARGET_FAILURE: Self = Self(0x4400);
    pub const OVERLAPPED_COMMANDS_ATTEMPTED: Self = Self(0x4e00);
    pub const INSUFFICIENT_RESOURCES: Self = Self(0x5503);
    pub const INSUFFICIENT_REGISTRATION_RESOURCES: Self = Self(0x5504);

    /// ADDITIONAL SENSE CODE.
    #[must_use]
    pub fn code(self) -> u8 {
        (self.0 >> 8) as u8
    }

    /// ADDITIONAL SENSE CODE QUALIFIER.
    #[must_use]
    pub fn qualifier(self) -> u8 {
        self.0 as u8
    }
}

/// Which of the two formats sense data is returned in (D_SENSE, SPC-4 r37 §7.5.8).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SenseFormat {
    /// 18 bytes, response code 70h.
    Fixed,
    /// 8 bytes and descriptors, response code 72h.
    Descriptor,
}

/// Where the byte in error is (SPC-4 r37 §4.5.2.4.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FieldPlace {
    /// In the CDB.
    Cdb,
    /// In the parameter list.
    ParameterList,
}

/// A pointer to the field in error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FieldPointer {
    /// CDB or parameter list.
    pub place: FieldPlace,
    /// First byte of the field.
    pub byte: u16,
    /// Leftmost bit of the field, where a bit is at fault.
    pub bit: Option<u8>,
}

/// What went wrong, or what happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sense {
    /// Sense key.
    pub key: SenseKey,
    /// Additional sense code and qualifier.
    pub asc: Asc,
    /// INFORMATION: first failing block, or offset of the first byte that differs.
    pub information: Option<u64>,
    /// The field in error.
    pub field: Option<FieldPointer>,
}

impl Sense {
    /// Sense with neither information nor field pointer.
    #[must_use]
    pub const fn new(key: SenseKey, asc: Asc) -> Self {
        Self { key, asc, information: None, field: None }
    }

    /// ILLEGAL REQUEST.
    #[must_use]
    pub const fn illegal(asc: Asc) -> Self {
        Self::new(SenseKey::IllegalRequest, asc)
    }

    /// UNIT ATTENTION.
    #[must_use]
    pub const fn attention(asc: Asc) -> Self {
        Self::new(SenseKey::UnitAttention, asc)
    }

    /// INVALID FIELD IN CDB, pointing at it.
    #[must_use]
    pub const fn cdb_field(byte: u16, bit: Option<u8>) -> Self {
        let mut sense = Self::illegal(Asc::INVALID_FIELD_IN_CDB);
        sense.field = Some(FieldPointer { place: FieldPlace::Cdb, byte, bit });
        sense
    }

    /// INVALID FIELD IN PARAMETER LIST, pointing at it.
    #[must_use]
    pub const fn parameter_field(byte: u16, bit: Option<u8>) -> Self {
        let mut sense = Self::illegal(Asc::INVALID_FIELD_IN_PARAMETER_LIST);
        sense.field = Some(FieldPointer { place: FieldPlace::ParameterList, byte, bit });
        sense
    }

    /// The same sense with INFORMATION.
    #[must_use]
    pub const fn with_information(mut self, information: u64) -> Self {
        self.information = Some(information);
        self
    }

    /// The bytes of this sense data.
    #[must_use]
    pub fn encode(&self, format: SenseFormat) -> Vec<u8> {
        match format {
            SenseFormat::Fixed => self.encode_fixed(),
            SenseFormat::Descriptor => self.encode_descriptor(),
        }
    }

    /// SPC-4 r37 §4.5.3. INFORMATION that does not fit four bytes is left out and VALID stays zero.
    fn encode_fixed(&self) -> Vec<u8> {
        let mut out = vec![0u8; 18];
        out[0] = 0x70;
        out[2] = self.key as u8;
        if let Some(information) = self.information.and_then(|wide| u32::try_from(wide).ok()) {
            out[0] |= 0x80;
            out[3..7].copy_from_slice(&information.to_be_bytes());
        }
        out[7] = 10;
        out[12..14].copy_from_slice(&self.asc.0.to_be_bytes());
        if let Some(field) = self.field {
            out[15..18].copy_from_slice(&field.encode());
        }
        out
    }

    /// SPC-4 r37 §4.5.2.
    fn encode_descriptor(&self) -> Vec<u8> {
        let mut out = vec![0x72, self.key as u8, self.asc.code(), self.asc.qualifier(), 0, 0, 0, 0];
        if let Some(information) = self.information {
            out.extend_from_slice(&[0x00, 0x0a, 0x80, 0x00]);
            out.extend_from_slice(&information.to_be_bytes());
        }
        if let Some(field) = self.field {
            out.extend_from_slice(&[0x02, 0x06, 0x00, 0x00]);
            out.extend_from_slice(&field.encode());
            out.push(0);
        }
        out[7] = (out.len() - 8) as u8;
        out
    }

    /// Reads sense data of either format, current or deferred; `None` if it is neither or too short to hold a key and
    /// a code.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        match u8_at(bytes, 0) & 0x7f {
            0x70 | 0x71 if bytes.len() >= 3 => Some(Self::parse_fixed(bytes)),
            0x72 | 0x73 if bytes.len() >= 4 => Some(Self::parse_descriptor(bytes)),
            _ => None,
        }
    }

    fn parse_fixed(bytes: &[u8]) -> Self {
        let mut sense = Self::new(SenseKey::from_bits(bytes[2]), Asc(u16_at(bytes, 12)));
        if bytes[0] & 0x80 != 0 {
            sense.information = Some(u64::from(u32_at(bytes, 3)));
        }
        if bytes.len() >= 18 {
            sense.field = FieldPointer::parse(&bytes[15..18], sense.key);
        }
        sense
    }

    fn parse_descriptor(bytes: &[u8]) -> Self {
        let mut sense = Self::new(SenseKey::from_bits(bytes[1]), Asc(u16_at(bytes, 2)));
        let mut rest = bytes.get(8..).unwrap_or(&[]);
        // BOUND: each round takes at least two bytes of `rest`.
        while rest.len() >= 2 {
            let length = (2 + usize::from(rest[1])).min(rest.len());
            let (descriptor, behind) = rest.split_at(length);
            match descriptor[0] {
                0x00 if length >= 12 => sense.information = Some(u64_at(descriptor, 4)),
                0x02 if length >= 7 => sense.field = FieldPointer::parse(&descriptor[4..7], sense.key),
                // Other descriptors say nothing that is used here.
                _ => (),
            }
            rest = behind;
        }
        sense
    }
}

impl FieldPointer {
    fn encode(self) -> [u8; 3] {
        let [high, low] = self.byte.to_be_bytes();
        let place = match self.place {
            FieldPlace::Cdb => 0x40,
            FieldPlace::ParameterList => 0x00,
        };
        let bit = self.bit.map_or(0, |bit| 0x08 | (bit & 0x07));
        [0x80 | place | bit, high, low]
    }

    fn parse(bytes: &[u8], key: SenseKey) -> Option<Self> {
        if key != SenseKey::IllegalRequest || bytes[0] & 0x80 == 0 {
            return None;
        }
        let place = if bytes[0] & 0x40 != 0 { FieldPlace::Cdb } else { FieldPlace::ParameterList };
        let bit = (bytes[0] & 0x08 != 0).then_some(bytes[0] & 0x07);
        Some(Self { place, byte: u16_at(bytes, 1), bit })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_formats_are_read_back_as_written() {
        for format in [SenseFormat::Fixed, SenseFormat::Descriptor] {
            for sense in [
                Sense::attention(Asc::REGISTRATIONS_PREEMPTED),
                Sense::new(SenseKey::Miscompare, Asc::MISCOMPARE_DURING_VERIFY).with_information(513),
                Sense::cdb_field(2, Some(5)),
                Sense::parameter_field(20, None),
            ] {
                assert_eq!(Sense::parse(&sense.encode(format)), Some(sense), "{format:?}");
            }
        }
    }

    /// SPC-4 r37 §4.5.3: the INFORMATION field of fixed sense holds four bytes; a larger value is not cut.
    #[test]
    fn fixed_format_leaves_out_information_wider_than_its_field() {
        let sense = Sense::new(SenseKey::MediumError, Asc::WRITE_ERROR).with_information(1 << 40);
        let fixed = Sense::parse(&sense.encode(SenseFormat::Fixed)).unwrap();
        assert_eq!(fixed.information, None);
        let wide = Sense::parse(&sense.encode(SenseFormat::Descriptor)).unwrap();
        assert_eq!(wide.information, Some(1 << 40));
    }

    #[test]
    fn rubbish_is_no_sense_data() {
        assert_eq!(Sense::parse(&[]), None);
        assert_eq!(Sense::parse(&[0x70]), None);
        assert_eq!(Sense::parse(&[0x12, 0, 0, 0]), None);
        assert!(Sense::parse(&[0x72, 5, 0x24, 0, 0, 0, 0, 200, 0, 10, 1]).is_some());
    }
}
