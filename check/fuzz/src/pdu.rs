//! iSCSI framing and every PDU of both directions (RFC 7143 §11), digests on and off.
//!
//! Two ways in: the bytes as a stream, cut into pieces wherever the fuzzer likes; and the bytes as one PDU whose
//! lengths and digests are made right, so that the decoders behind the framing are reached.
//!
//! Properties: where the stream is cut does not matter; no data segment is longer than the limit; what is decoded
//! encodes to a frame that decodes to the same; that frame travels through the sender's queue unchanged.

use bytes::{Buf, Bytes, BytesMut};
use understudy_iscsi::bhs::BHS_BYTES;
use understudy_iscsi::serial::{CmdSn, StatSn, TaskTag, TransferTag};
use understudy_iscsi::{Bhs, Digest, Digests, Frame, FrameDecoder, FrameError, InitiatorPdu, Opcode, Outgoing, TargetPdu};

use crate::choices::{Choices, Script};

/// Small, so that the limit is met.
const DATA_LIMIT: usize = 1024;

fn digests(bits: u8) -> Digests {
    let digest = |on: bool| if on { Digest::Crc32c } else { Digest::None };
    Digests { header: digest(bits & 1 != 0), data: digest(bits & 2 != 0) }
}

/// Reads the bytes both ways.
pub fn run(bytes: &[u8]) {
    let mut choices = Choices::new(bytes);
    let (way, digests) = (choices.byte(), digests(choices.byte()));
    if way & 1 == 0 {
        let step = usize::from(choices.byte()) + 1;
        stream(choices.remainder(), digests, step);
    } else {
        one(&mut choices, digests);
    }
}

/// Frames and the error at the end, if any.
fn cut(bytes: &[u8], digests: Digests, step: usize) -> (Vec<Frame>, Option<FrameError>) {
    let mut decoder = FrameDecoder::new(DATA_LIMIT);
    decoder.set(digests, DATA_LIMIT);
    let (mut buffer, mut frames) = (BytesMut::new(), Vec::new());
    for piece in bytes.chunks(step) {
        buffer.extend_from_slice(piece);
        loop {
            match decoder.next(&mut buffer) {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => break,
                Err(FrameError::DataDigest(_)) => {}
                Err(error) => return (frames, Some(error)),
            }
        }
        assert!(buffer.capacity() < 64 << 10, "the decoder reserves no more than a frame");
    }
    (frames, None)
}

fn stream(bytes: &[u8], digests: Digests, step: usize) {
    let whole = cut(bytes, digests, bytes.len().max(1));
    assert_eq!(whole, cut(bytes, digests, step), "where the stream is cut must not matter");
    for frame in whole.0 {
        assert!(frame.data.len() <= DATA_LIMIT);
        assert_eq!((frame.bhs.ahs_bytes(), frame.bhs.data_bytes()), (frame.ahs.len(), frame.data.len()));
        both_directions(&frame, digests);
    }
}

/// One PDU with right lengths: header and data of the fuzzer's choice.
fn one(choices: &mut Choices<'_>, digests: Digests) {
    let header: [u8; BHS_BYTES] = choices.exactly();
    let ahs_words = choices.below(4);
    let ahs = Bytes::copy_from_slice(&choices.chunk().iter().copied().chain([0; 16]).take(ahs_words * 4).collect::<Vec<_>>());
    let data = choices.chunk();
    let data = Bytes::copy_from_slice(&data[..data.len().min(DATA_LIMIT)]);
    let frame = Frame::with_ahs(Bhs(header), ahs, data);
    both_directions(&frame, digests);
}

fn both_directions(frame: &Frame, digests: Digests) {
    if let Ok(pdu) = InitiatorPdu::decode(frame.clone()) {
        if let InitiatorPdu::ScsiCommand(command) = &pdu {
            let _ = command.bidirectional_read_bytes();
            assert!(command.extended_cdb().is_none_or(|cdb| cdb.len() <= 16 + frame.ahs.len()));
        }
        let again = pdu.clone().into_frame();
        assert_eq!(InitiatorPdu::decode(again.clone()).as_ref(), Ok(&pdu));
        travels(again, digests);
    }
    if let Ok(pdu) = TargetPdu::decode(frame.clone()) {
        let again = pdu.clone().into_frame();
        assert_eq!(TargetPdu::decode(again.clone()).as_ref(), Ok(&pdu));
        travels(again, digests);
    }
}

/// Through the queue of what goes out and back.
fn travels(frame: Frame, digests: Digests) {
    let mut out = Outgoing::new();
    out.push(frame.clone(), digests);
    let length = out.len();
    let mut wire = BytesMut::from(&out.copy_to_bytes(length)[..]);
    assert_eq!(wire.len(), length);
    let mut decoder = FrameDecoder::new(1 << 24);
    decoder.set(digests, 1 << 24);
    assert_eq!(decoder.next(&mut wire), Ok(Some(frame)));
    assert!(wire.is_empty());
}

/// One PDU of several kinds, as a stream and by itself.
#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    let command = InitiatorPdu::ScsiCommand(understudy_iscsi::request::ScsiCommand {
        immediate: false,
        is_final: true,
        read: false,
        write: true,
        attribute: understudy_iscsi::codes::TaskAttribute::SIMPLE,
        lun: 0,
        tag: TaskTag(7),
        expected_bytes: 512,
        cmd_sn: CmdSn(1),
        exp_stat_sn: StatSn(1),
        cdb: [0x2a; 16],
        ahs: Bytes::from_static(&[0, 5, 2, 0, 0, 0, 2, 0]),
        data: Bytes::from_static(&[5; 20]),
    });
    let data_out = InitiatorPdu::DataOut(understudy_iscsi::request::DataOut {
        is_final: true,
        lun: 0,
        tag: TaskTag(7),
        transfer_tag: TransferTag(3),
        exp_stat_sn: StatSn(1),
        data_sn: 0,
        buffer_offset: 0,
        data: Bytes::from_static(&[9; 33]),
    });
    let mut seeds = Vec::new();
    for bits in 0..4 {
        let mut out = Outgoing::new();
        out.push(command.clone().into_frame(), digests(bits));
        out.push(data_out.clone().into_frame(), digests(bits));
        let length = out.len();
        seeds.push(Script::new().bytes(&[0, bits, 7]).bytes(&out.copy_to_bytes(length)).done());
    }
    let opcodes = [Opcode::ScsiResponse, Opcode::AsyncMessage, Opcode::LoginResponse, Opcode::Reject, Opcode::R2t];
    for opcode in opcodes {
        let header = Bhs::new(opcode, 0x80);
        seeds.push(Script::new().bytes(&[1, 3]).bytes(&header.0).bytes(&[0]).chunk(&[]).chunk(b"\0\x02ab").done());
    }
    seeds
}
