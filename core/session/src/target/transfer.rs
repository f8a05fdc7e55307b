//! The data-out of one command: immediate, unsolicited and solicited (RFC 7143 §4.2.5.2, §11.7, §11.8).
//!
//! Not here: the PDUs' headers beyond their numbers, and what becomes of the data. The one idea: with DataPDUInOrder
//! and DataSequenceInOrder agreed to be Yes (we accept nothing else), data can only come as one run from offset 0, so
//! everything is an append, and whatever does not continue the run is an error of the initiator.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};
use understudy_iscsi::request::DataOut;
use understudy_iscsi::serial::TransferTag;

use super::parameters::Parameters;

/// Why the data-out of a command cannot be used. The command ends with CHECK CONDITION (RFC 7143 §11.4.7.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Data came that was not allowed to come unasked.
    Unexpected,
    /// Data is missing, repeated or out of order.
    WrongAmount,
    /// The data digest was wrong.
    Digest,
}

/// Whether data may still come without an R2T.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unsolicited {
    /// The command said so, and the last PDU of the burst has not come.
    Open { data_sn: u32 },
    /// None, or all of it has come.
    Ended,
}

/// One R2T that has not been answered in full.
#[derive(Debug, Clone, Copy)]
struct Sequence {
    transfer_tag: TransferTag,
    end: u32,
    data_sn: u32,
}

/// An R2T to send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Solicit {
    pub(crate) transfer_tag: TransferTag,
    pub(crate) r2t_sn: u32,
    pub(crate) buffer_offset: u32,
    pub(crate) desired_bytes: u32,
}

/// What has come so far; copied only if it comes in pieces.
#[derive(Debug)]
enum Gathered {
    Whole(Bytes),
    Pieces(BytesMut),
}

/// Collects the data-out of one command.
#[derive(Debug)]
pub(crate) struct Transfer {
    /// Bytes that will be used: the smaller of what the initiator has and what the CDB wants. Known from
    /// [`Transfer::want`] on.
    wanted: u32,
    /// Bytes the initiator has (Expected Data Transfer Length of a write).
    offered: u32,
    /// Bytes that came, those beyond `wanted` included.
    received: u32,
    solicited: u32,
    r2t_sn: u32,
    unsolicited: Unsolicited,
    sequences: VecDeque<Sequence>,
    gathered: Gathered,
    fault: Option<Fault>,
}

impl Transfer {
    /// Starts with what came in the command PDU itself. `offered` is 0 for commands that do not write.
    pub(crate) fn start(immediate: Bytes, offered: u32, more_follows: bool, agreed: &Parameters) -> Self {
        let received = u32::try_from(immediate.len()).unwrap_or(u32::MAX);
        let fault = if received > 0 && agreed.immediate_data == super::parameters::ImmediateData::Forbidden {
            Some(Fault::Unexpected)
        } else if received > offered.min(agreed.first_burst) {
            Some(Fault::WrongAmount)
        } else {
            None
        };
        let unsolicited = if more_follows { Unsolicited::Open { data_sn: 0 } } else { Unsolicited::Ended };
        Self {
            wanted: offered,
            offered,
            received,
            solicited: received,
            r2t_sn: 0,
            unsolicited,
            sequences: VecDeque::new(),
            gathered: Gathered::Whole(immediate),
            fault,
        }
    }

    /// The CDB has been looked at: it wants `bytes`.
    pub(crate) fn want(&mut self, bytes: u32) {
        self.wanted = bytes.min(self.offered);
    }

    /// Why the data cannot be used, if so.
    pub(crate) fn fault(&self) -> Option<Fault> {
        self.fault
    }

    /// Remembers the first thing that went wrong.
    pub(crate) fn fail(&mut self, fault: Fault) {
        self.fault.get_or_insert(fault);
    }

    /// Whether nothing more can come: the data is complete, or was given up.
    pub(crate) fn is_settled(&self) -> bool {
        let quiet = self.unsolicited == Unsolicited::Ended && self.sequences.is_empty();
        quiet && (self.fault.is_some() || self.received >= self.wanted)
    }

    /// Whether the initiator has to be asked for more.
    pub(crate) fn needs_soliciting(&self) -> bool {
        self.fault.is_none() && self.unsolicited == Unsolicited::Ended && self.solicited < self.wanted
    }

    /// The next R2T, as long as there may be one more.
    pub(crate) fn solicit(&mut self, transfer_tag: TransferTag, agreed: &Parameters) -> Option<Solicit> {
        if !self.needs_soliciting() || self.sequences.len() >= usize::from(agreed.outstanding_r2ts) {
            return None;
        }
        let desired_bytes = (self.wanted - self.solicited).min(agreed.max_burst);
        let solicit = Solicit { transfer_tag, r2t_sn: self.r2t_sn, buffer_offset: self.solicited, desired_bytes };
        self.solicited += desired_bytes;
        self.r2t_sn += 1;
        // BOUND: outstanding_r2ts, checked above.
        self.sequences.push_back(Sequence { transfer_tag, end: self.solicited, data_sn: 0 });
        Some(solicit)
    }

    /// R2Ts sent so far.
    pub(crate) fn r2ts(&self) -> u32 {
        self.r2t_sn
    }

    /// Takes one Data-Out PDU. `digest_good` false: its data is lost, its place in the sequence is not.
    pub(crate) fn take(&mut self, pdu: &DataOut, agreed: &Parameters) {
        if pdu.transfer_tag == TransferTag::RESERVED {
            self.take_unsolicited(pdu, agreed);
        } else {
            self.take_solicited(pdu);
        }
    }

    fn take_unsolicited(&mut self, pdu: &DataOut, agreed: &Parameters) {
        let Unsolicited::Open { data_sn } = self.unsolicited else {
            self.fail(Fault::Unexpected);
            return;
        };
        self.append(pdu, data_sn, self.offered.min(agreed.first_burst));
        self.unsolicited = Unsolicited::Open { data_sn: data_sn.wrapping_add(1) };
        if pdu.is_final {
            self.unsolicited = Unsolicited::Ended;
            self.solicited = self.received;
        }
    }

    fn take_solicited(&mut self, pdu: &DataOut) {
        let Some(position) = self.sequences.iter().position(|sequence| sequence.transfer_tag == pdu.transfer_tag)
        else {
            self.fail(Fault::WrongAmount);
            return;
        };
        if position != 0 {
            self.fail(Fault::WrongAmount);
        }
        let Sequence { end, data_sn, .. } = self.sequences[position];
        self.append(pdu, data_sn, end);
        self.sequences[position].data_sn = data_sn.wrapping_add(1);
        if pdu.is_final {
            self.sequences.remove(position);
            if self.received != end {
                self.fail(Fault::WrongAmount);
            }
        }
    }

    fn append(&mut self, pdu: &DataOut, data_sn: u32, end: u32) {
        let length = u32::try_from(pdu.data.len()).unwrap_or(u32::MAX);
        let continues = pdu.data_sn == data_sn && pdu.buffer_offset == self.received;
        if !continues || length > end.saturating_sub(self.received) {
            self.fail(Fault::WrongAmount);
        }
        if self.fault.is_some() {
            return;
        }
        let useful = self.wanted.saturating_sub(self.received).min(length) as usize;
        self.received += length;
        if useful == 0 {
            return;
        }
        if let Gathered::Whole(first) = &self.gathered {
            if first.is_empty() && useful as u32 == self.wanted {
                self.gathered = Gathered::Whole(pdu.data.slice(..useful));
                return;
            }
            // Before anything is asked for, `wanted` is not counted against the memory budget: room for a first burst.
            let room = if self.sequences.is_empty() { end.min(self.wanted) } else { self.wanted };
            let mut pieces = BytesMut::with_capacity(room as usize);
            pieces.extend_from_slice(first);
            self.gathered = Gathered::Pieces(pieces);
        }
        if let Gathered::Pieces(pieces) = &mut self.gathered {
            if pieces.len() + useful > pieces.capacity() {
                pieces.reserve(self.wanted as usize - pieces.len());
            }
            pieces.extend_from_slice(&pdu.data[..useful]);
        }
    }

    /// Most bytes that this end holds without having asked for them: those that came, or a first burst while more may come.
    pub(crate) fn may_hold(&self, agreed: &Parameters) -> u32 {
        match self.unsolicited {
            Unsolicited::Open { .. } => self.wanted.min(agreed.first_burst),
            Unsolicited::Ended => self.received,
        }
    }

    /// Whether any of it has come.
    pub(crate) fn has_any(&self) -> bool {
        self.received > 0
    }

    /// Bytes of memory that the rest of this transfer will take.
    pub(crate) fn wanted(&self) -> u32 {
        self.wanted
    }

    /// The data, cut to what was wanted; leaves nothing behind.
    pub(crate) fn finish(&mut self) -> Bytes {
        let gathered = core::mem::replace(&mut self.gathered, Gathered::Whole(Bytes::new()));
        let mut data = match gathered {
            Gathered::Whole(bytes) => bytes,
            Gathered::Pieces(pieces) => pieces.freeze(),
        };
        data.truncate(self.wanted as usize);
        data
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::target::parameters::{ImmediateData, InitialR2t};
    use understudy_iscsi::serial::{StatSn, TaskTag};

    fn agreed() -> Parameters {
        Parameters {
            max_burst: 1024,
            first_burst: 1024,
            outstanding_r2ts: 2,
            initial_r2t: InitialR2t::NotRequired,
            ..Parameters::default()
        }
    }

    fn data_out(transfer_tag: TransferTag, data_sn: u32, buffer_offset: u32, data: &[u8], is_final: bool) -> DataOut {
        DataOut {
            is_final,
            lun: 0,
            tag: TaskTag(1),
            transfer_tag,
            exp_stat_sn: StatSn(0),
            data_sn,
            buffer_offset,
            data: Bytes::copy_from_slice(data),
        }
    }

    #[test]
    fn immediate_data_that_is_everything_is_not_copied() {
        let bytes = Bytes::from(vec![7; 512]);
        let mut transfer = Transfer::start(bytes.clone(), 512, false, &agreed());
        transfer.want(512);
        assert!(transfer.is_settled());
        assert_eq!(transfer.finish().as_ptr(), bytes.as_ptr());
    }

    #[test]
    fn immediate_unsolicited_and_solicited_data_join() {
        let rules = agreed();
        let mut transfer = Transfer::start(Bytes::from(vec![1; 512]), 3072, true, &rules);
        transfer.want(3072);
        assert!(!transfer.needs_soliciting());
        transfer.take(&data_out(TransferTag::RESERVED, 0, 512, &[2; 512], true), &rules);
        let first = transfer.solicit(TransferTag(10), &rules).unwrap();
        let second = transfer.solicit(TransferTag(11), &rules).unwrap();
        assert_eq!((first.buffer_offset, first.desired_bytes, first.r2t_sn), (1024, 1024, 0));
        assert_eq!((second.buffer_offset, second.desired_bytes, second.r2t_sn), (2048, 1024, 1));
        assert_eq!(transfer.solicit(TransferTag(12), &rules), None);
        transfer.take(&data_out(TransferTag(10), 0, 1024, &[3; 512], false), &rules);
        transfer.take(&data_out(TransferTag(10), 1, 1536, &[4; 512], true), &rules);
        transfer.take(&data_out(TransferTag(11), 0, 2048, &[5; 1024], true), &rules);
        assert!(transfer.is_settled());
        assert_eq!(transfer.fault(), None);
        let data = transfer.finish();
        let expected: Vec<u8> = [[1u8; 512], [2; 512], [3; 512], [4; 512], [5; 512], [5; 512]].concat();
        assert_eq!(data, expected);
    }

    #[test]
    fn unasked_data_reserves_no_more_than_a_first_burst() {
        let rules = agreed();
        let mut transfer = Transfer::start(Bytes::new(), 32 << 20, true, &rules);
        transfer.want(32 << 20);
        transfer.take(&data_out(TransferTag::RESERVED, 0, 0, &[1; 512], false), &rules);
        let Gathered::Pieces(pieces) = &transfer.gathered else { panic!("more is to come") };
        assert!(pieces.capacity() <= 2048, "{} bytes for 512", pieces.capacity());
    }

    #[test]
    fn data_beyond_what_the_cdb_wants_is_taken_and_forgotten() {
        let rules = agreed();
        let mut transfer = Transfer::start(Bytes::new(), 1024, true, &rules);
        transfer.want(512);
        transfer.take(&data_out(TransferTag::RESERVED, 0, 0, &[1; 256], false), &rules);
        assert!(!transfer.is_settled());
        transfer.take(&data_out(TransferTag::RESERVED, 1, 256, &[2; 768], true), &rules);
        assert!(transfer.is_settled());
        assert_eq!(transfer.finish().len(), 512);
    }

    #[test]
    fn wrong_data_sn_wrong_offset_and_overlong_data_are_faults() {
        let rules = agreed();
        for bad in [
            data_out(TransferTag(10), 1, 0, &[0; 512], true),
            data_out(TransferTag(10), 0, 4, &[0; 512], true),
            data_out(TransferTag(10), 0, 0, &[0; 516], true),
            data_out(TransferTag(10), 0, 0, &[0; 256], true),
        ] {
            let mut transfer = Transfer::start(Bytes::new(), 512, false, &rules);
            transfer.want(512);
            transfer.solicit(TransferTag(10), &rules).unwrap();
            transfer.take(&bad, &rules);
            assert_eq!(transfer.fault(), Some(Fault::WrongAmount), "{bad:?}");
            assert!(transfer.is_settled());
        }
    }

    #[test]
    fn unasked_data_is_a_fault() {
        let rules = Parameters { immediate_data: ImmediateData::Forbidden, ..agreed() };
        let mut transfer = Transfer::start(Bytes::from_static(&[0; 512]), 512, false, &rules);
        assert_eq!(transfer.fault(), Some(Fault::Unexpected));
        transfer = Transfer::start(Bytes::new(), 512, false, &rules);
        transfer.take(&data_out(TransferTag::RESERVED, 0, 0, &[0; 512], true), &rules);
        assert_eq!(transfer.fault(), Some(Fault::Unexpected));
        transfer = Transfer::start(Bytes::from_static(&[0; 2048]), 4096, false, &agreed());
        assert_eq!(transfer.fault(), Some(Fault::WrongAmount));
    }
}
