//! Where the initiator has the data of a command, for a target that moves it by RDMA: an additional header segment of our own.
//!
//! Not here: the memory itself, and how the two ends agree on it. The one idea: as in iSER a command says where its data is, or has to go, and the
//! response comes when it was moved; only that everything else stays plain iSCSI, and a target may use TCP all the same.
//!
//! | offset | bytes | what |
//! |---|---|---|
//! | 0 | 2 | AHSLength: 9 |
//! | 2 | 1 | AHSType: 3Ch, which RFC 7143 §11.2.2.1 leaves unassigned |
//! | 3 | 1 | reserved |
//! | 4 | 4 | offset in the data region |
//! | 8 | 4 | length |

use bytes::Bytes;

/// Key by which the two ends agree on a data region at login: proposed with the address where the initiator's memory is served, answered `Yes`.
pub const DATA_REGION_KEY: &str = "X-io.understudy.DataRegion";

/// AHSType of the segment.
pub const AHS_TYPE: u8 = 0x3c;

/// Bytes behind AHSType.
const AHS_LENGTH: u16 = 9;

/// A stretch of the initiator's data region.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Advertised {
    /// From the region's start, in bytes.
    pub offset: u32,
    /// In bytes.
    pub length: u32,
}

impl Advertised {
    /// The whole segment.
    #[must_use]
    pub fn encode(self) -> Bytes {
        let mut segment = [0; 12];
        segment[..2].copy_from_slice(&AHS_LENGTH.to_be_bytes());
        segment[2] = AHS_TYPE;
        segment[4..8].copy_from_slice(&self.offset.to_be_bytes());
        segment[8..].copy_from_slice(&self.length.to_be_bytes());
        Bytes::copy_from_slice(&segment)
    }

    /// From what follows AHSType; `None` if it has another length, or lies beyond what a number can say.
    pub(crate) fn decode(body: &[u8]) -> Option<Self> {
        let [_reserved, offset @ .., a, b, c, d] = body else { return None };
        let advertised =
            Self { offset: u32::from_be_bytes(offset.try_into().ok()?), length: u32::from_be_bytes([*a, *b, *c, *d]) };
        advertised.offset.checked_add(advertised.length).map(|_end| advertised)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codes::TaskAttribute;
    use crate::request::ScsiCommand;
    use crate::serial::{CmdSn, StatSn, TaskTag};

    fn command(ahs: Bytes) -> ScsiCommand {
        ScsiCommand {
            immediate: false,
            is_final: true,
            read: true,
            write: false,
            attribute: TaskAttribute::SIMPLE,
            lun: 0,
            tag: TaskTag(1),
            expected_bytes: 65_536,
            cmd_sn: CmdSn(1),
            exp_stat_sn: StatSn(1),
            cdb: [0; 16],
            ahs,
            data: Bytes::new(),
        }
    }

    #[test]
    fn a_command_says_where_its_data_goes() {
        let advertised = Advertised { offset: 0x0010_0000, length: 0x0002_0000 };
        let encoded = advertised.encode();
        assert_eq!(encoded[..], [0, 9, 0x3c, 0, 0, 0x10, 0, 0, 0, 2, 0, 0]);
        let decoded = ScsiCommand::decode(command(encoded).into_frame()).expect("a command");
        assert_eq!(decoded.advertised(), Some(advertised));
        assert_eq!(decoded.extended_cdb(), None);
    }

    #[test]
    fn a_segment_that_is_short_long_or_runs_over_is_none() {
        assert_eq!(command(Bytes::new()).advertised(), None);
        for (at, byte) in [(1, 8), (1, 10), (1, 200), (2, 0x3d)] {
            let mut bad = Advertised { offset: 0, length: 512 }.encode().to_vec();
            bad[at] = byte;
            assert_eq!(command(bad.into()).advertised(), None, "byte {at}");
        }
        assert_eq!(command(Advertised { offset: u32::MAX, length: 1 }.encode()).advertised(), None);
    }
}
