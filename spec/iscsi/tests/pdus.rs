//! Properties of the PDU codec: what is encoded decodes to itself, and no bytes make a decoder panic.

use bytes::{Buf, Bytes, BytesMut};
use proptest::collection::vec;
use proptest::prelude::{Just, Strategy, any, prop_assert, prop_assert_eq, prop_oneof, proptest};
use understudy_iscsi::codes::{
    AsyncEvent, LogoutReason, LogoutResponseCode, RejectReason, Residual, ServiceResponse, TaskAttribute, TaskFunction,
    TaskFunctionResponse,
};
use understudy_iscsi::login::{LoginStatus, Stage};
use understudy_iscsi::request::{
    DataOut, LoginRequest, LogoutRequest, NopOut, ScsiCommand, Snack, TaskManagementRequest, TextRequest,
};
use understudy_iscsi::response::{
    AsyncMessage, DataIn, LoginResponse, LogoutResponse, NopIn, R2t, Reject, ScsiResponse, TaskManagementResponse,
    TextResponse, Window,
};
use understudy_iscsi::serial::{Cid, CmdSn, Isid, StatSn, TaskTag, TransferTag, Tsih};
use understudy_iscsi::text::KeyList;
use understudy_iscsi::{Digest, Digests, Frame, FrameDecoder, FrameError, InitiatorPdu, Outgoing, TargetPdu};

fn data() -> impl Strategy<Value = Bytes> {
    vec(any::<u8>(), 0..300).prop_map(Bytes::from)
}

fn sense() -> impl Strategy<Value = Bytes> {
    vec(any::<u8>(), 0..252).prop_map(Bytes::from)
}

fn window() -> impl Strategy<Value = Window> {
    any::<(u32, u32, u32)>().prop_map(|(stat_sn, exp_cmd_sn, max_cmd_sn)| Window {
        stat_sn: StatSn(stat_sn),
        exp_cmd_sn: CmdSn(exp_cmd_sn),
        max_cmd_sn: CmdSn(max_cmd_sn),
    })
}

fn residual() -> impl Strategy<Value = Residual> {
    prop_oneof![
        Just(Residual::None),
        any::<u32>().prop_map(Residual::Underflow),
        any::<u32>().prop_map(Residual::Overflow)
    ]
}

/// A current stage, and a transition to a next stage or none.
fn stages() -> impl Strategy<Value = (bool, Stage, Stage)> {
    let stage = || prop_oneof![Just(Stage::Security), Just(Stage::Operational), Just(Stage::FullFeature)];
    (any::<bool>(), stage(), stage()).prop_map(|(transit, now, next)| (transit, now, if transit { next } else { now }))
}

fn scsi_command() -> impl Strategy<Value = InitiatorPdu> {
    let flags = any::<(bool, bool, bool, bool)>();
    let numbers = any::<(u64, u32, u32, u32, u32, [u8; 16])>();
    (flags, 0u8..8, numbers, vec(any::<[u8; 4]>(), 0..4), data()).prop_map(|(flags, attribute, numbers, ahs, data)| {
        ScsiCommand {
            immediate: flags.0,
            is_final: flags.1,
            read: flags.2,
            write: flags.3,
            attribute: TaskAttribute(attribute),
            lun: numbers.0,
            tag: TaskTag(numbers.1),
            expected_bytes: numbers.2,
            cmd_sn: CmdSn(numbers.3),
            exp_stat_sn: StatSn(numbers.4),
            cdb: numbers.5,
            ahs: Bytes::from(ahs.concat()),
            data,
        }
        .into()
    })
}

fn login_request() -> impl Strategy<Value = InitiatorPdu> {
    let numbers = any::<(u8, u8, [u8; 6], u16, u32, u16, u32, u32)>();
    (stages(), any::<bool>(), numbers, data()).prop_map(|((transit, stage, next_stage), more_text, n, text)| {
        LoginRequest {
            transit,
            more_text,
            stage,
            next_stage,
            version_max: n.0,
            version_min: n.1,
            isid: Isid(n.2),
            tsih: Tsih(n.3),
            tag: TaskTag(n.4),
            cid: Cid(n.5),
            cmd_sn: CmdSn(n.6),
            exp_stat_sn: StatSn(n.7),
            text,
        }
        .into()
    })
}

fn initiator_pdu() -> impl Strategy<Value = InitiatorPdu> {
    let n = || any::<(bool, bool, u64, u32, u32, u32, u32, u32)>();
    prop_oneof![
        scsi_command(),
        login_request(),
        (n(), data()).prop_map(|(n, data)| NopOut {
            immediate: n.0,
            lun: n.2,
            tag: TaskTag(n.3),
            transfer_tag: TransferTag(n.4),
            cmd_sn: CmdSn(n.5),
            exp_stat_sn: StatSn(n.6),
            data
        }
        .into()),
        (n(), 0u8..0x80).prop_map(|(n, function)| TaskManagementRequest {
            immediate: n.0,
            function: TaskFunction(function),
            lun: n.2,
            tag: TaskTag(n.3),
            referenced: TaskTag(n.4),
            cmd_sn: CmdSn(n.5),
            exp_stat_sn: StatSn(n.6),
            referenced_cmd_sn: CmdSn(n.7),
            exp_data_sn: n.3
        }
        .into()),
        (n(), any::<bool>(), data()).prop_map(|(n, more_text, text)| TextRequest {
            immediate: n.0,
            is_final: n.1,
            more_text,
            lun: n.2,
            tag: TaskTag(n.3),
            transfer_tag: TransferTag(n.4),
            cmd_sn: CmdSn(n.5),
            exp_stat_sn: StatSn(n.6),
            text
        }
        .into()),
        (n(), data()).prop_map(|(n, data)| DataOut {
            is_final: n.0,
            lun: n.2,
            tag: TaskTag(n.3),
            transfer_tag: TransferTag(n.4),
            exp_stat_sn: StatSn(n.5),
            data_sn: n.6,
            buffer_offset: n.7,
            data
        }
        .into()),
        (n(), 0u8..0x80, any::<u16>()).prop_map(|(n, reason, cid)| LogoutRequest {
            immediate: n.0,
            reason: LogoutReason(reason),
            tag: TaskTag(n.3),
            cid: Cid(cid),
            cmd_sn: CmdSn(n.5),
            exp_stat_sn: StatSn(n.6)
        }
        .into()),
        (n(), 0u8..16).prop_map(|(n, kind)| Snack {
            kind,
            lun: n.2,
            tag: TaskTag(n.3),
            transfer_tag: TransferTag(n.4),
            exp_stat_sn: StatSn(n.5),
            begin: n.6,
            run: n.7
        }
        .into()),
    ]
}

fn login_response() -> impl Strategy<Value = TargetPdu> {
    let numbers = any::<(u8, u8, [u8; 6], u16, u32, u8, u8)>();
    (stages(), any::<bool>(), numbers, window(), data()).prop_map(
        |((transit, stage, next_stage), more_text, n, window, text)| {
            LoginResponse {
                transit,
                more_text,
                stage,
                next_stage,
                version_max: n.0,
                version_active: n.1,
                isid: Isid(n.2),
                tsih: Tsih(n.3),
                tag: TaskTag(n.4),
                window,
                status: LoginStatus { class: n.5, detail: n.6 },
                text,
            }
            .into()
        },
    )
}

fn data_in() -> impl Strategy<Value = TargetPdu> {
    let n = any::<(bool, bool, u64, u32, u32, u32, u32)>();
    let end = prop_oneof![Just((None, Residual::None)), (any::<u8>().prop_map(Some), residual())];
    (n, end, window(), data()).prop_map(|(n, (status, residual), window, data)| {
        DataIn {
            is_final: n.0,
            acknowledge: n.1,
            status,
            residual,
            lun: n.2,
            tag: TaskTag(n.3),
            transfer_tag: TransferTag(n.4),
            window,
            data_sn: n.5,
            buffer_offset: n.6,
            data,
        }
        .into()
    })
}

fn target_pdu() -> impl Strategy<Value = TargetPdu> {
    let n = || any::<(bool, bool, u64, u32, u32, u32, u32, u8, u8)>();
    prop_oneof![
        login_response(),
        data_in(),
        (n(), window(), residual(), residual(), sense()).prop_map(|(n, window, read_residual, residual, sense)| {
            ScsiResponse {
                response: ServiceResponse(n.7),
                status: n.8,
                tag: TaskTag(n.3),
                window,
                exp_data_sn: n.4,
                read_residual,
                residual,
                sense,
            }
            .into()
        }),
        (n(), window()).prop_map(|(n, window)| TaskManagementResponse {
            response: TaskFunctionResponse(n.7),
            tag: TaskTag(n.3),
            window
        }
        .into()),
        (n(), window()).prop_map(|(n, window)| R2t {
            lun: n.2,
            tag: TaskTag(n.3),
            transfer_tag: TransferTag(n.4),
            window,
            r2t_sn: n.5,
            buffer_offset: n.6,
            desired_bytes: n.3
        }
        .into()),
        (n(), window(), any::<[u16; 3]>(), sense(), data()).prop_map(|(n, window, parameters, sense, event_data)| {
            AsyncMessage { event: AsyncEvent(n.7), vendor_code: n.8, lun: n.2, window, parameters, sense, event_data }
                .into()
        }),
        (n(), window(), data()).prop_map(|(n, window, text)| TextResponse {
            is_final: n.0,
            more_text: n.1,
            lun: n.2,
            tag: TaskTag(n.3),
            transfer_tag: TransferTag(n.4),
            window,
            text
        }
        .into()),
        (n(), window(), any::<(u16, u16)>()).prop_map(|(n, window, times)| LogoutResponse {
            response: LogoutResponseCode(n.7),
            tag: TaskTag(n.3),
            window,
            time_to_wait_s: times.0,
            time_to_retain_s: times.1
        }
        .into()),
        (n(), window(), data()).prop_map(|(n, window, rejected)| Reject {
            reason: RejectReason(n.7),
            window,
            data_sn: n.3,
            rejected
        }
        .into()),
        (n(), window(), data()).prop_map(|(n, window, data)| NopIn {
            lun: n.2,
            tag: TaskTag(n.3),
            transfer_tag: TransferTag(n.4),
            window,
            data
        }
        .into()),
    ]
}

fn digests() -> impl Strategy<Value = Digests> {
    let digest = || prop_oneof![Just(Digest::None), Just(Digest::Crc32c)];
    (digest(), digest()).prop_map(|(header, data)| Digests { header, data })
}

/// Sends frames through the outgoing queue and the decoder, in pieces of `step` bytes.
fn travel(frames: &[Frame], digests: Digests, step: usize) -> Result<Vec<Frame>, FrameError> {
    let mut outgoing = Outgoing::new();
    for frame in frames {
        outgoing.push(frame.clone(), digests);
    }
    let wire = outgoing.copy_to_bytes(outgoing.len());
    let mut decoder = FrameDecoder::new(usize::MAX);
    decoder.set(digests, 1 << 20);
    let mut buffer = BytesMut::new();
    let mut received = Vec::new();
    for piece in wire.chunks(step) {
        buffer.extend_from_slice(piece);
        while let Some(frame) = decoder.next(&mut buffer)? {
            received.push(frame);
        }
    }
    assert!(buffer.is_empty(), "bytes are left over");
    Ok(received)
}

proptest! {
    #[test]
    fn initiator_pdus_decode_to_what_was_encoded(pdu in initiator_pdu()) {
        prop_assert_eq!(InitiatorPdu::decode(pdu.clone().into_frame()), Ok(pdu));
    }

    #[test]
    fn target_pdus_decode_to_what_was_encoded(pdu in target_pdu()) {
        prop_assert_eq!(TargetPdu::decode(pdu.clone().into_frame()), Ok(pdu));
    }

    #[test]
    fn a_pdu_of_the_other_direction_is_refused(to_target in initiator_pdu(), to_initiator in target_pdu()) {
        prop_assert!(TargetPdu::decode(to_target.into_frame()).is_err());
        prop_assert!(InitiatorPdu::decode(to_initiator.into_frame()).is_err());
    }

    #[test]
    fn frames_survive_the_wire_however_it_is_cut(
        pdus in vec(initiator_pdu(), 1..6), digests in digests(), step in 1usize..700,
    ) {
        let frames: Vec<Frame> = pdus.into_iter().map(InitiatorPdu::into_frame).collect();
        prop_assert_eq!(travel(&frames, digests, step), Ok(frames));
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in vec(any::<u8>(), 0..2000), digests in digests(), limit in 0usize..4000) {
        let mut decoder = FrameDecoder::new(limit);
        decoder.set(digests, limit);
        let mut buffer = BytesMut::from(&bytes[..]);
        while let Ok(Some(frame)) = decoder.next(&mut buffer) {
            if let Ok(InitiatorPdu::ScsiCommand(command)) = InitiatorPdu::decode(frame.clone()) {
                _ = (command.extended_cdb(), command.bidirectional_read_bytes());
            }
            _ = TargetPdu::decode(frame);
        }
    }

    #[test]
    fn arbitrary_headers_decode_or_are_refused(head in vec(any::<u8>(), 48), ahs in vec(any::<u8>(), 0..64), data in data()) {
        let mut bhs = understudy_iscsi::Bhs([0; 48]);
        bhs.0.copy_from_slice(&head);
        for opcode in 0..64 {
            bhs.0[0] = opcode;
            let frame = Frame { bhs, ahs: Bytes::from(ahs.clone()), data: data.clone() };
            if let Ok(InitiatorPdu::ScsiCommand(command)) = InitiatorPdu::decode(frame.clone()) {
                _ = (command.extended_cdb(), command.bidirectional_read_bytes());
            }
            _ = TargetPdu::decode(frame);
        }
    }

    #[test]
    fn arbitrary_text_never_panics(text in vec(any::<u8>(), 0..600)) {
        _ = KeyList::parse(&text);
    }

    #[test]
    fn key_lists_parse_to_what_was_encoded(pairs in vec(("[A-Z][A-Za-z0-9.#_-]{0,40}", "[ -~]{0,100}"), 0..20)) {
        let mut keys = KeyList::new();
        for (key, value) in &pairs {
            keys.push(key, &value[..]);
        }
        prop_assert_eq!(KeyList::parse(&keys.encode()), Ok(keys));
    }

    #[test]
    fn a_flipped_bit_never_passes_both_digests(pdu in scsi_command(), at in any::<usize>(), bit in 0u8..8) {
        let digests = Digests { header: Digest::Crc32c, data: Digest::Crc32c };
        let frame = pdu.into_frame();
        let mut outgoing = Outgoing::new();
        outgoing.push(frame.clone(), digests);
        let mut wire = BytesMut::from(&outgoing.copy_to_bytes(outgoing.len())[..]);
        let at = at % wire.len();
        wire[at] ^= 1 << bit;
        let mut decoder = FrameDecoder::new(0);
        decoder.set(digests, 1 << 24);
        // Flipped length bits may make the decoder wait for more: that is not accepting either.
        prop_assert!(!matches!(decoder.next(&mut wire), Ok(Some(_))));
    }
}

#[test]
fn digest_examples_of_the_standard_hold() {
    // RFC 3720 Appendix B.4 (carried over by RFC 7143): 32 bytes of zeros, of ones, and ascending.
    assert_eq!(understudy_iscsi::frame::crc32c(&[0; 32]), [0xaa, 0x36, 0x91, 0x8a]);
    assert_eq!(understudy_iscsi::frame::crc32c(&[0xff; 32]), [0x43, 0xab, 0xa8, 0x62]);
    let ascending: Vec<u8> = (0..32).collect();
    assert_eq!(understudy_iscsi::frame::crc32c(&ascending), [0x4e, 0x79, 0xdd, 0x46]);
}

#[test]
fn a_data_segment_beyond_the_limit_is_refused_before_it_arrives() {
    let mut decoder = FrameDecoder::new(8192);
    let bhs = understudy_iscsi::Bhs::new(understudy_iscsi::Opcode::NopOut, 0x80).with_u32(4, 8193);
    let mut buffer = BytesMut::from(&bhs.0[..]);
    assert_eq!(decoder.next(&mut buffer), Err(FrameError::DataTooLong { length: 8193, limit: 8192 }));
}

#[test]
fn a_wrong_data_digest_leaves_the_next_frame_readable() {
    let digests = Digests { header: Digest::None, data: Digest::Crc32c };
    let ping = |data: &'static [u8]| {
        NopOut {
            immediate: true,
            lun: 0,
            tag: TaskTag(1),
            transfer_tag: TransferTag::RESERVED,
            cmd_sn: CmdSn(1),
            exp_stat_sn: StatSn(1),
            data: Bytes::from_static(data),
        }
        .into_frame()
    };
    let mut outgoing = Outgoing::new();
    outgoing.push(ping(b"first"), digests);
    outgoing.push(ping(b"second"), digests);
    let mut wire = BytesMut::from(&outgoing.copy_to_bytes(outgoing.len())[..]);
    wire[50] ^= 1;
    let mut decoder = FrameDecoder::new(0);
    decoder.set(digests, 8192);
    assert_eq!(decoder.next(&mut wire), Err(FrameError::DataDigest(ping(b"first").bhs)));
    assert_eq!(decoder.next(&mut wire), Ok(Some(ping(b"second"))));
}

#[test]
fn long_data_travels_by_reference_and_in_order() {
    let digests = Digests { header: Digest::Crc32c, data: Digest::Crc32c };
    let long = Bytes::from((0..100_001u32).map(|n| n as u8).collect::<Vec<u8>>());
    let frame = DataOut {
        is_final: true,
        lun: 0,
        tag: TaskTag(7),
        transfer_tag: TransferTag(9),
        exp_stat_sn: StatSn(1),
        data_sn: 0,
        buffer_offset: 0,
        data: long.clone(),
    }
    .into_frame();
    let mut outgoing = Outgoing::new();
    outgoing.push(frame.clone(), digests);
    let mut slices = [std::io::IoSlice::new(&[]); 4];
    let used = outgoing.chunks_vectored(&mut slices);
    assert_eq!(used, 3);
    assert_eq!(slices[1].as_ptr(), long.as_ptr());
    assert_eq!(outgoing.short_bytes(), 3 + 4, "padding and digest behind the long data, and nothing of it");
    assert_eq!(travel(&[frame.clone(), frame.clone()], digests, 997), Ok(vec![frame.clone(), frame]));
}

#[test]
fn extended_cdb_comes_whole_and_lying_segments_give_none() {
    let mut command = ScsiCommand {
        immediate: false,
        is_final: true,
        read: false,
        write: false,
        attribute: TaskAttribute::SIMPLE,
        lun: 0,
        tag: TaskTag(0),
        expected_bytes: 0,
        cmd_sn: CmdSn(0),
        exp_stat_sn: StatSn(0),
        cdb: [0x7f; 16],
        ahs: Bytes::from_static(&[0, 5, 1, 0, 1, 2, 3, 4]),
        data: Bytes::new(),
    };
    let whole = command.extended_cdb().expect("segment is sound");
    assert_eq!(whole[16..], [1, 2, 3, 4]);
    command.ahs = Bytes::from_static(&[0xff, 0xff, 1, 0, 1, 2, 3, 4]);
    assert_eq!(command.extended_cdb(), None);
    command.ahs = Bytes::from_static(&[0, 5, 2, 0, 0, 0, 1, 0]);
    assert_eq!(command.bidirectional_read_bytes(), Some(256));
}

#[test]
fn text_that_is_no_key_list_is_refused() {
    use understudy_iscsi::text::TextError;
    assert_eq!(KeyList::parse(b"NoEquals\0"), Err(TextError::Syntax));
    assert_eq!(KeyList::parse(b"=x\0"), Err(TextError::KeyName));
    assert_eq!(KeyList::parse(b"A\xff=x\0"), Err(TextError::Syntax));
    let long = format!("{}=x\0", "A".repeat(64));
    assert_eq!(KeyList::parse(long.as_bytes()), Err(TextError::KeyName));
    assert_eq!(KeyList::parse(&vec![b'A'; 300_000]), Err(TextError::TooLong));
}

proptest! {
    /// However short and long data, placed and pushed, and sending mix, the bytes are those of the frames in their order.
    #[test]
    fn a_queue_that_is_sent_in_pieces_gives_every_byte_once(
        digests in digests(),
        steps in vec((0usize..4, prop_oneof![Just(0usize), 1usize..5000, Just(4096), 5000usize..9000]), 1..60),
    ) {
        let (mut outgoing, mut sent, mut expected) = (Outgoing::new(), Vec::new(), Vec::new());
        for (number, (what, bytes)) in steps.into_iter().enumerate() {
            let ping = NopIn {
                lun: number as u64,
                tag: TaskTag(1),
                transfer_tag: TransferTag::RESERVED,
                window: Window::default(),
                data: Bytes::from(vec![number as u8; bytes]),
            };
            let frame = ping.into_frame();
            let mut alone = Outgoing::new();
            alone.push(frame.clone(), digests);
            match what {
                0 => {
                    let piece = bytes.min(outgoing.len());
                    sent.extend_from_slice(&outgoing.copy_to_bytes(piece));
                    continue;
                }
                1 => match outgoing.place(bytes, digests) {
                    Some(room) => {
                        room.copy_from_slice(&frame.data);
                        prop_assert_eq!(outgoing.placed(), bytes);
                        outgoing.push_placed(frame.bhs, digests);
                    }
                    None => outgoing.push(frame, digests),
                },
                _ => outgoing.push(frame, digests),
            }
            expected.extend_from_slice(&alone.copy_to_bytes(alone.len()));
            let mut slices = [std::io::IoSlice::new(&[]); 256];
            let used = outgoing.chunks_vectored(&mut slices);
            prop_assert_eq!(slices[..used].iter().map(|slice| slice.len()).sum::<usize>(), outgoing.len());
        }
        sent.extend_from_slice(&outgoing.copy_to_bytes(outgoing.len()));
        prop_assert!(sent == expected);
        prop_assert_eq!(outgoing.short_bytes(), 0);
    }
}

#[test]
#[should_panic(expected = "data was placed")]
fn room_that_something_was_queued_in_is_not_sent() {
    let mut outgoing = Outgoing::new();
    let ping = NopIn {
        lun: 0,
        tag: TaskTag(1),
        transfer_tag: TransferTag::RESERVED,
        window: Window::default(),
        data: Bytes::new(),
    };
    let frame = ping.into_frame();
    outgoing.place(512, Digests::default()).expect("it is short")[0] = 1;
    outgoing.push(frame.clone(), Digests::default());
    outgoing.push_placed(frame.bhs, Digests::default());
}
