//! The initiator against scripted PDUs.

use bytes::{Buf, Bytes, BytesMut};
use understudy_iscsi::codes::{
    AsyncEvent, LogoutResponseCode, RejectReason, Residual, ServiceResponse, TaskAttribute, TaskFunction,
    TaskFunctionResponse,
};
use understudy_iscsi::login::{LoginStatus, Stage};
use understudy_iscsi::request::{DataOut, LoginRequest, ScsiCommand};
use understudy_iscsi::response::{
    AsyncMessage, DataIn, LoginResponse, LogoutResponse, NopIn, R2t, Reject, ScsiResponse, TaskManagementResponse,
    TextResponse, Window,
};
use understudy_iscsi::serial::{CmdSn, Isid, StatSn, TaskTag, TransferTag, Tsih};
use understudy_iscsi::text::KeyList;
use understudy_iscsi::{Advertised, Digest, Digests, FrameDecoder, InitiatorPdu, Outgoing, TargetPdu};

use super::{
    Command, Config, DigestOffer, DiscoveredTarget, Event, Fate, Initiator, Management, Purpose, SessionLost, Transfer,
};
use crate::Micros;

const ISID: Isid = Isid([0x80, 1, 2, 3, 0, 9]);
const SECOND: u64 = 1_000_000;

fn config() -> Config {
    Config {
        initiator_name: "iqn.2026-01.example:node".to_owned(),
        isid: ISID,
        purpose: Purpose::Normal { target: "iqn.2026-01.example:disk".to_owned() },
        first_stage: Stage::Operational,
        proof: None,
        header_digest: DigestOffer::None,
        data_digest: DigestOffer::None,
        receive_segment_bytes: 65_536,
        data_region: None,
        ping_after: Micros(SECOND),
        ping_within: Micros(SECOND),
        login_within: Micros(SECOND),
    }
}

/// An initiator and the script's end of its connection.
struct Scene {
    initiator: Initiator<u32>,
    decoder: FrameDecoder,
    digests: Digests,
    now: Micros,
    stat_sn: StatSn,
    window: u32,
}

impl Scene {
    fn new(config: Config) -> Self {
        let initiator = Initiator::new(config, Micros(0));
        let decoder = FrameDecoder::new(1 << 24);
        Self { initiator, decoder, digests: Digests::default(), now: Micros(0), stat_sn: StatSn(100), window: 32 }
    }

    /// A scene that is logged in with these keys answered.
    fn logged_in(keys: &[(&str, &str)]) -> Self {
        let mut scene = Self::new(config());
        let request = scene.login_request();
        scene.answer_login(&request, Stage::FullFeature, keys).expect("login is accepted");
        assert!(matches!(scene.initiator.poll_event(), Some(Event::LoggedIn(_))));
        scene
    }

    /// Everything the initiator has sent since last asked.
    fn sent(&mut self) -> Vec<InitiatorPdu> {
        let outgoing = self.initiator.outgoing();
        let mut bytes = BytesMut::from(&outgoing.copy_to_bytes(outgoing.len())[..]);
        let mut pdus = Vec::new();
        while let Some(frame) = self.decoder.next(&mut bytes).expect("the initiator's stream is sound") {
            pdus.push(InitiatorPdu::decode(frame).expect("the initiator's PDUs are sound"));
        }
        assert!(bytes.is_empty());
        pdus
    }

    fn login_request(&mut self) -> LoginRequest {
        match self.sent().as_slice() {
            [InitiatorPdu::LoginRequest(request)] => request.clone(),
            other => panic!("not one login request: {other:?}"),
        }
    }

    fn commands(&mut self) -> Vec<ScsiCommand> {
        let command = |pdu| match pdu {
            InitiatorPdu::ScsiCommand(command) => Some(command),
            _other => None,
        };
        self.sent().into_iter().filter_map(command).collect()
    }

    fn receive(&mut self, pdu: impl Into<TargetPdu>) -> Result<(), SessionLost> {
        let mut outgoing = Outgoing::new();
        outgoing.push(pdu.into().into_frame(), self.digests);
        let mut bytes = BytesMut::from(&outgoing.copy_to_bytes(outgoing.len())[..]);
        self.initiator.receive(self.now, &mut bytes)
    }

    fn login_response(&mut self, request: &LoginRequest, next: Stage, keys: &[(&str, &str)]) -> LoginResponse {
        let mut list = KeyList::new();
        keys.iter().for_each(|(key, value)| list.push(key, *value));
        LoginResponse {
            transit: next != request.stage,
            more_text: false,
            stage: request.stage,
            next_stage: next,
            version_max: 0,
            version_active: 0,
            isid: request.isid,
            tsih: Tsih(if next == Stage::FullFeature { 7 } else { 0 }),
            tag: request.tag,
            window: self.status_window(),
            status: LoginStatus::SUCCESS,
            text: list.encode(),
        }
    }

    fn answer_login(&mut self, request: &LoginRequest, next: Stage, keys: &[(&str, &str)]) -> Result<(), SessionLost> {
        let response = self.login_response(request, next, keys);
        self.receive(response)
    }

    /// The numbers of a PDU with status.
    fn status_window(&mut self) -> Window {
        let window = self.plain_window();
        self.stat_sn = self.stat_sn.next();
        window
    }

    fn plain_window(&self) -> Window {
        Window { stat_sn: self.stat_sn, exp_cmd_sn: CmdSn(1), max_cmd_sn: CmdSn(self.window) }
    }

    fn submit(&mut self, ticket: u32, transfer: Transfer) -> TaskTag {
        let deadline = self.now.plus(Micros(10 * SECOND));
        let attribute = TaskAttribute::SIMPLE;
        let command = Command { ticket, lun: 0, attribute, cdb: [ticket as u8; 16], transfer, deadline };
        self.initiator.submit(command).expect("there is room")
    }

    fn status(&mut self, tag: TaskTag, status: u8) -> ScsiResponse {
        ScsiResponse {
            response: ServiceResponse::COMPLETED,
            status,
            tag,
            window: self.status_window(),
            exp_data_sn: 0,
            read_residual: Residual::None,
            residual: Residual::None,
            sense: Bytes::new(),
        }
    }

    fn data_in(&mut self, tag: TaskTag, offset: u32, data: &[u8], status: Option<u8>) -> DataIn {
        DataIn {
            is_final: status.is_some(),
            acknowledge: false,
            status,
            residual: Residual::None,
            lun: 0,
            tag,
            transfer_tag: TransferTag::RESERVED,
            window: if status.is_some() { self.status_window() } else { self.plain_window() },
            data_sn: 0,
            buffer_offset: offset,
            data: Bytes::copy_from_slice(data),
        }
    }

    fn r2t(&self, tag: TaskTag, buffer_offset: u32, desired_bytes: u32) -> R2t {
        let window = self.plain_window();
        R2t { lun: 0, tag, transfer_tag: TransferTag(77), window, r2t_sn: 0, buffer_offset, desired_bytes }
    }

    fn completed(&mut self) -> (u32, u8, Bytes) {
        match self.initiator.poll_event() {
            Some(Event::Completed { ticket, completion }) => (ticket, completion.status, completion.data_in),
            other => panic!("no completion: {other:?}"),
        }
    }

    fn fates(self) -> Vec<(u32, Fate)> {
        let mut fates = self.initiator.abandon();
        fates.sort_by_key(|(ticket, _)| *ticket);
        fates
    }
}

fn bytes(length: usize) -> Bytes {
    (0..length).map(|n| (n * 7 + n / 256) as u8).collect()
}

fn data_outs(pdus: Vec<InitiatorPdu>) -> Vec<DataOut> {
    let data_out = |pdu| match pdu {
        InitiatorPdu::DataOut(pdu) => Some(pdu),
        _other => None,
    };
    pdus.into_iter().filter_map(data_out).collect()
}

// Login: RFC 7143 §6.3.

#[test]
fn login_takes_one_round_and_asks_for_what_is_fast() {
    let mut scene = Scene::new(config());
    let request = scene.login_request();
    assert_eq!((request.stage, request.next_stage, request.transit), (Stage::Operational, Stage::FullFeature, true));
    assert_eq!((request.isid, request.tsih), (ISID, Tsih(0)));
    let keys = KeyList::parse(&request.text).expect("a key list");
    for (key, value) in [
        ("InitiatorName", "iqn.2026-01.example:node"),
        ("TargetName", "iqn.2026-01.example:disk"),
        ("SessionType", "Normal"),
        ("ImmediateData", "Yes"),
        ("InitialR2T", "No"),
        ("HeaderDigest", "None"),
        ("ErrorRecoveryLevel", "0"),
        ("MaxConnections", "1"),
    ] {
        assert_eq!(keys.get(key), Some(value), "{key}");
    }
    let answers = [("MaxBurstLength", "65536"), ("FirstBurstLength", "131072"), ("InitialR2T", "No")];
    scene.answer_login(&request, Stage::FullFeature, &answers).expect("accepted");
    let Some(Event::LoggedIn(parameters)) = scene.initiator.poll_event() else { panic!("logged in") };
    assert_eq!(parameters.max_burst_bytes, 65_536);
    assert_eq!(parameters.first_burst_bytes, 65_536, "FirstBurstLength must not exceed MaxBurstLength (§13.14)");
    assert!(!parameters.initial_r2t && parameters.immediate_data);
    assert_eq!(parameters.send_segment_bytes, 8192, "default where the target declared none (§13.12)");
}

#[test]
fn login_follows_the_target_through_security_and_several_rounds() {
    let mut scene = Scene::new(Config { first_stage: Stage::Security, ..config() });
    let first = scene.login_request();
    assert_eq!((first.stage, first.next_stage), (Stage::Security, Stage::Operational));
    assert_eq!(KeyList::parse(&first.text).expect("keys").get("AuthMethod"), Some("None"));
    scene.answer_login(&first, Stage::Operational, &[("AuthMethod", "None")]).expect("accepted");
    let second = scene.login_request();
    assert_eq!(second.stage, Stage::Operational);
    assert!(KeyList::parse(&second.text).expect("keys").get("MaxBurstLength").is_some());
    // The target stays in the stage and proposes a key nobody knows: it is answered, and nothing is repeated.
    scene.answer_login(&second, Stage::Operational, &[("X-com.example.key", "1")]).expect("accepted");
    let third = scene.login_request();
    let keys = KeyList::parse(&third.text).expect("keys");
    assert_eq!(keys.iter().collect::<Vec<_>>(), [("X-com.example.key", "NotUnderstood")]);
    scene.answer_login(&third, Stage::FullFeature, &[]).expect("accepted");
    assert!(scene.initiator.is_logged_in());
}

#[test]
fn login_text_may_come_in_pieces() {
    let mut scene = Scene::new(config());
    let request = scene.login_request();
    let mut first = scene.login_response(&request, Stage::Operational, &[]);
    first.more_text = true;
    first.text = Bytes::from_static(b"MaxBurst");
    scene.receive(first).expect("accepted");
    let next = scene.login_request();
    assert!(!next.transit && next.text.is_empty());
    let mut last = scene.login_response(&next, Stage::FullFeature, &[]);
    last.text = Bytes::from_static(b"Length=4096\0");
    scene.receive(last).expect("accepted");
    assert_eq!(scene.initiator.parameters().max_burst_bytes, 4096);
}

#[test]
fn a_refused_login_says_why_and_where_to() {
    let mut scene = Scene::new(config());
    let request = scene.login_request();
    let mut response = scene.login_response(&request, Stage::Operational, &[("TargetAddress", "10.0.0.2:3260,1")]);
    response.status = LoginStatus::MOVED_TEMPORARILY;
    let lost = scene.receive(response);
    let address = Some("10.0.0.2:3260,1".to_owned());
    assert_eq!(lost, Err(SessionLost::LoginRefused { status: LoginStatus::MOVED_TEMPORARILY, address }));
}

#[test]
fn a_target_that_breaks_login_rules_is_left() {
    type Break = fn(&mut LoginResponse);
    let breaks: [Break; 6] = [
        |response| response.isid = Isid([0; 6]),
        |response| response.stage = Stage::Security,
        |response| response.tsih = Tsih(0),
        |response| response.text = Bytes::from_static(b"MaxBurstLength=0\0"),
        |response| response.text = Bytes::from_static(b"HeaderDigest=CRC32C\0"),
        |response| response.text = Bytes::from_static(b"nonsense"),
    ];
    for (number, spoil) in breaks.into_iter().enumerate() {
        let mut scene = Scene::new(config());
        let request = scene.login_request();
        let mut response = scene.login_response(&request, Stage::FullFeature, &[]);
        spoil(&mut response);
        assert!(matches!(scene.receive(response), Err(SessionLost::Protocol(_))), "break number {number}");
    }
}

#[test]
fn a_login_without_end_is_left() {
    let mut scene = Scene::new(config());
    for _ in 0..100 {
        let request = scene.login_request();
        if scene.answer_login(&request, Stage::Operational, &[]).is_err() {
            return;
        }
    }
    panic!("a hundred rounds were not too many");
}

#[test]
fn a_login_that_takes_too_long_is_left() {
    let mut scene = Scene::new(config());
    assert_eq!(scene.initiator.next_timeout(), Micros(SECOND));
    assert_eq!(scene.initiator.timeouts(Micros(SECOND - 1)), Ok(()));
    assert_eq!(scene.initiator.timeouts(Micros(SECOND)), Err(SessionLost::LoginTooSlow));
}

#[test]
fn demanded_digests_are_used_after_login_or_there_is_no_session() {
    let demanding = Config { header_digest: DigestOffer::Demand, data_digest: DigestOffer::Demand, ..config() };
    let mut scene = Scene::new(demanding.clone());
    let request = scene.login_request();
    scene
        .answer_login(&request, Stage::FullFeature, &[("HeaderDigest", "CRC32C"), ("DataDigest", "CRC32C")])
        .expect("accepted");
    assert!(scene.initiator.poll_event().is_some());
    scene.digests = Digests { header: Digest::Crc32c, data: Digest::Crc32c };
    scene.decoder.set(scene.digests, 1 << 24);
    scene.submit(1, Transfer::Write(bytes(10)));
    let command = scene.commands().remove(0);
    assert_eq!(command.data, bytes(10));
    let response = scene.status(command.tag, 0);
    scene.receive(response).expect("digests are right");
    assert_eq!(scene.completed().0, 1);

    for refusal in ["None", "Reject"] {
        let mut scene = Scene::new(demanding.clone());
        let request = scene.login_request();
        let lost = scene.answer_login(&request, Stage::FullFeature, &[("HeaderDigest", refusal)]);
        assert!(matches!(lost, Err(SessionLost::Protocol(_))), "{refusal}");
    }
}

// Commands and data: RFC 7143 §4.2.4, §11.3 to §11.8.

#[test]
fn commands_take_numbers_in_order_and_wait_for_the_window() {
    let mut scene = Scene::new(config());
    scene.window = 2;
    let request = scene.login_request();
    let early = scene.submit(1, Transfer::None);
    assert!(scene.sent().is_empty(), "nothing but login is sent before login has ended");
    scene.answer_login(&request, Stage::FullFeature, &[]).expect("accepted");
    scene.submit(2, Transfer::None);
    scene.submit(3, Transfer::None);
    let commands = scene.commands();
    assert_eq!(commands.iter().map(|command| command.cmd_sn).collect::<Vec<_>>(), [CmdSn(1), CmdSn(2)]);
    assert_eq!(commands[0].tag, early);
    assert_eq!(commands[0].exp_stat_sn, StatSn(101), "the login response was number 100");
    scene.window = 3;
    let response = scene.status(early, 0);
    scene.receive(response).expect("accepted");
    assert_eq!(scene.commands()[0].cmd_sn, CmdSn(3));
}

#[test]
fn a_window_that_shrinks_is_ignored() {
    let mut scene = Scene::logged_in(&[]);
    let tag = scene.submit(1, Transfer::None);
    scene.window = 1;
    let response = scene.status(tag, 0);
    scene.receive(response).expect("accepted");
    scene.submit(2, Transfer::None);
    assert_eq!(scene.commands().len(), 2);
}

#[test]
fn data_in_is_gathered_in_order() {
    let mut scene = Scene::logged_in(&[]);
    let whole = bytes(3000);
    let tag = scene.submit(1, Transfer::Read(3000));
    let command = scene.commands().remove(0);
    assert!(command.read && !command.write && command.is_final && command.expected_bytes == 3000);
    for (start, end, status) in [(0, 1000, None), (1000, 2048, None), (2048, 3000, Some(0))] {
        let pdu = scene.data_in(tag, start as u32, &whole[start..end], status);
        scene.receive(pdu).expect("accepted");
    }
    let mut data_in = None;
    while let Some(event) = scene.initiator.poll_event() {
        if let Event::Completed { ticket: 1, completion } = event {
            data_in = Some(completion.data_in);
        }
    }
    assert_eq!(data_in, Some(whole));
    assert_eq!(scene.initiator.outstanding(), 0);
}

#[test]
fn data_in_out_of_place_ends_the_session() {
    for (offset, length) in [(1, 10), (0, 101), (u32::MAX, 1)] {
        let mut scene = Scene::logged_in(&[]);
        let tag = scene.submit(1, Transfer::Read(100));
        let pdu = scene.data_in(tag, offset, &bytes(length), None);
        assert!(matches!(scene.receive(pdu), Err(SessionLost::Protocol(_))), "{offset}+{length}");
    }
    let mut scene = Scene::logged_in(&[]);
    let tag = scene.submit(1, Transfer::Write(bytes(100)));
    let pdu = scene.data_in(tag, 0, &bytes(1), None);
    assert!(matches!(scene.receive(pdu), Err(SessionLost::Protocol(_))), "data for a write");
}

#[test]
fn small_writes_travel_with_their_command() {
    let mut scene = Scene::logged_in(&[("InitialR2T", "No"), ("ImmediateData", "Yes")]);
    scene.submit(1, Transfer::Write(bytes(4096)));
    let command = scene.commands().remove(0);
    assert!(command.write && command.is_final && command.expected_bytes == 4096);
    assert_eq!(command.data, bytes(4096));
}

#[test]
fn unsolicited_data_fills_the_first_burst_and_the_rest_waits_for_r2t() {
    let mut scene =
        Scene::logged_in(&[("InitialR2T", "No"), ("FirstBurstLength", "2048"), ("MaxRecvDataSegmentLength", "1024")]);
    let whole = bytes(5000);
    let tag = scene.submit(1, Transfer::Write(whole.clone()));
    let mut pdus = scene.sent();
    let InitiatorPdu::ScsiCommand(command) = pdus.remove(0) else { panic!("the command comes first") };
    assert!(!command.is_final && command.data == whole[..1024]);
    let unsolicited = data_outs(pdus);
    assert_eq!(unsolicited.len(), 1);
    assert!(unsolicited[0].is_final && unsolicited[0].transfer_tag == TransferTag::RESERVED);
    assert_eq!((unsolicited[0].buffer_offset, &unsolicited[0].data[..]), (1024, &whole[1024..2048]));

    scene.receive(scene.r2t(tag, 2048, 2952)).expect("accepted");
    let solicited = data_outs(scene.sent());
    let places: Vec<_> = solicited.iter().map(|pdu| (pdu.data_sn, pdu.buffer_offset, pdu.is_final)).collect();
    assert_eq!(places, [(0, 2048, false), (1, 3072, false), (2, 4096, true)]);
    assert!(solicited.iter().all(|pdu| pdu.transfer_tag == TransferTag(77)));
    assert_eq!(solicited.iter().flat_map(|pdu| pdu.data.to_vec()).collect::<Vec<_>>(), whole[2048..]);
}

#[test]
fn without_immediate_data_everything_is_solicited() {
    let mut scene = Scene::logged_in(&[("InitialR2T", "Yes"), ("ImmediateData", "No")]);
    let tag = scene.submit(1, Transfer::Write(bytes(700)));
    let pdus = scene.sent();
    assert!(matches!(&pdus[..], [InitiatorPdu::ScsiCommand(command)] if command.data.is_empty() && command.is_final));
    scene.receive(scene.r2t(tag, 0, 700)).expect("accepted");
    assert_eq!(data_outs(scene.sent())[0].data, bytes(700));
}

#[test]
fn r2t_for_what_is_not_there_ends_the_session() {
    for (offset, length) in [(0, 701), (700, 1), (0, 0), (u32::MAX, u32::MAX)] {
        let mut scene = Scene::logged_in(&[]);
        let tag = scene.submit(1, Transfer::Write(bytes(700)));
        let r2t = scene.r2t(tag, offset, length);
        assert!(matches!(scene.receive(r2t), Err(SessionLost::Protocol(_))), "{offset}+{length}");
    }
    let mut scene = Scene::logged_in(&[]);
    let r2t = scene.r2t(TaskTag(5), 0, 1);
    assert!(matches!(scene.receive(r2t), Err(SessionLost::Protocol(_))));
}

/// Otherwise 48 bytes from a target, repeated, would make this end queue the whole write each time.
#[test]
fn r2t_for_what_was_sent_already_ends_the_session() {
    let asked_twice = |first: (u32, u32), second: (u32, u32)| {
        let mut scene = Scene::logged_in(&[("InitialR2T", "Yes"), ("ImmediateData", "No")]);
        let tag = scene.submit(1, Transfer::Write(bytes(2048)));
        scene.receive(scene.r2t(tag, first.0, first.1)).expect("accepted");
        scene.receive(scene.r2t(tag, second.0, second.1))
    };
    assert_eq!(asked_twice((0, 1024), (1024, 1024)), Ok(()));
    for second in [(0, 2048), (512, 512), (1023, 1025)] {
        assert!(matches!(asked_twice((0, 1024), second), Err(SessionLost::Protocol(_))), "{second:?}");
    }
    let mut scene = Scene::logged_in(&[]);
    let tag = scene.submit(1, Transfer::Write(bytes(700)));
    assert!(scene.receive(scene.r2t(tag, 0, 700)).is_err(), "all of it went out as immediate data");
}

#[test]
fn sense_data_and_residual_come_with_the_status() {
    let mut scene = Scene::logged_in(&[]);
    let tag = scene.submit(1, Transfer::Read(100));
    let mut response = scene.status(tag, 2);
    response.sense = bytes(18);
    response.residual = Residual::Underflow(100);
    scene.receive(response).expect("accepted");
    let Some(Event::Completed { ticket: 1, completion }) = scene.initiator.poll_event() else { panic!("completed") };
    assert_eq!((completion.status, completion.sense, completion.residual), (2, bytes(18), Residual::Underflow(100)));
}

#[test]
fn a_target_failure_is_no_status() {
    let mut scene = Scene::logged_in(&[]);
    let tag = scene.submit(1, Transfer::Write(bytes(8)));
    let mut response = scene.status(tag, 0);
    response.response = ServiceResponse::TARGET_FAILURE;
    scene.receive(response).expect("accepted");
    assert_eq!(scene.initiator.poll_event(), Some(Event::Ended { ticket: 1, fate: Fate::Unknown }));
}

#[test]
fn an_answer_to_an_ended_task_finds_nothing() {
    let mut scene = Scene::logged_in(&[]);
    let tag = scene.submit(1, Transfer::None);
    let response = scene.status(tag, 0);
    scene.receive(response.clone()).expect("accepted");
    let reused = scene.submit(2, Transfer::None);
    assert_ne!(reused, tag);
    assert!(matches!(scene.receive(response), Err(SessionLost::Protocol(_))));
}

// Loss: nothing is replayed, everything is accounted for.

#[test]
fn a_lost_connection_tells_sent_from_not_sent() {
    let mut scene = Scene::logged_in(&[]);
    let answered = scene.submit(0, Transfer::Write(bytes(10)));
    for ticket in 1..=40 {
        scene.submit(ticket, Transfer::Write(bytes(10)));
    }
    let sent = scene.commands().len() as u32;
    assert_eq!(sent, 32, "the window");
    let mut response = scene.status(answered, 0);
    response.window.max_cmd_sn = CmdSn(32);
    scene.receive(response).expect("accepted");
    assert_eq!(scene.completed().0, 0);
    let expected = (1..=40).map(|ticket| (ticket, if ticket < sent { Fate::Unknown } else { Fate::NotSent }));
    assert_eq!(scene.fates(), expected.collect::<Vec<_>>());
}

#[test]
fn a_new_session_uses_the_same_isid_and_sends_nothing_of_the_old_one() {
    let mut scene = Scene::logged_in(&[]);
    scene.submit(1, Transfer::Write(bytes(10)));
    assert_eq!(scene.fates(), [(1, Fate::Unknown)]);
    let mut scene = Scene::new(config());
    let request = scene.login_request();
    assert_eq!((request.isid, request.tsih), (ISID, Tsih(0)), "reinstatement, RFC 7143 §6.3.5");
    scene.answer_login(&request, Stage::FullFeature, &[]).expect("accepted");
    assert!(scene.sent().is_empty());
}

#[test]
fn a_sent_command_past_its_deadline_costs_the_session_and_a_waiting_one_only_itself() {
    let mut scene = Scene::new(config());
    scene.window = 1;
    let request = scene.login_request();
    scene.answer_login(&request, Stage::FullFeature, &[]).expect("accepted");
    scene.submit(1, Transfer::None);
    let command = |ticket, deadline| Command {
        ticket,
        lun: 0,
        attribute: TaskAttribute::SIMPLE,
        cdb: [0; 16],
        transfer: Transfer::None,
        deadline,
    };
    scene.initiator.submit(command(2, Micros(SECOND / 2))).expect("there is room");
    assert!(matches!(scene.initiator.poll_event(), Some(Event::LoggedIn(_))));
    assert_eq!(scene.initiator.next_timeout(), Micros(SECOND / 2));
    assert_eq!(scene.initiator.timeouts(Micros(SECOND / 2)), Ok(()));
    assert_eq!(scene.initiator.poll_event(), Some(Event::Ended { ticket: 2, fate: Fate::NotSent }));
    assert_eq!(scene.initiator.timeouts(Micros(10 * SECOND)), Err(SessionLost::CommandTooSlow));
    assert_eq!(scene.fates(), [(1, Fate::Unknown)]);
}

#[test]
fn more_commands_than_the_table_holds_come_back_unsent() {
    let mut scene = Scene::logged_in(&[]);
    for ticket in 0..super::tasks::TASK_LIMIT as u32 {
        scene.submit(ticket, Transfer::None);
    }
    let command = Command {
        ticket: 9999,
        lun: 0,
        attribute: TaskAttribute::SIMPLE,
        cdb: [0; 16],
        transfer: Transfer::None,
        deadline: Micros(SECOND),
    };
    assert_eq!(scene.initiator.submit(command).map_err(|back| back.ticket), Err(9999));
}

// Signs of life, task management, asynchronous messages, logout, discovery.

#[test]
fn silence_is_pinged_and_then_ends_the_session() {
    let mut scene = Scene::logged_in(&[]);
    assert_eq!(scene.initiator.timeouts(Micros(SECOND)), Ok(()));
    let pdus = scene.sent();
    let [InitiatorPdu::NopOut(ping)] = &pdus[..] else { panic!("not one ping: {pdus:?}") };
    assert!(ping.immediate && ping.tag != TaskTag::RESERVED && ping.transfer_tag == TransferTag::RESERVED);
    assert_eq!(ping.cmd_sn, CmdSn(1), "immediate, so the number is not used up");
    let window = scene.status_window();
    scene.now = Micros(SECOND + 5);
    let answer = NopIn { lun: 0, tag: ping.tag, transfer_tag: TransferTag::RESERVED, window, data: Bytes::new() };
    scene.receive(answer).expect("accepted");
    assert_eq!(scene.initiator.next_timeout(), Micros(2 * SECOND + 5));
    assert_eq!(scene.initiator.timeouts(Micros(2 * SECOND + 5)), Ok(()));
    assert_eq!(scene.initiator.timeouts(Micros(3 * SECOND + 5)), Err(SessionLost::Silent));
}

#[test]
fn the_targets_ping_is_answered() {
    let mut scene = Scene::logged_in(&[]);
    let window = scene.plain_window();
    let ping = NopIn {
        lun: 3,
        tag: TaskTag::RESERVED,
        transfer_tag: TransferTag(42),
        window,
        data: Bytes::from_static(b"hi"),
    };
    scene.receive(ping).expect("accepted");
    let pdus = scene.sent();
    let [InitiatorPdu::NopOut(answer)] = &pdus[..] else { panic!("not one answer: {pdus:?}") };
    assert!(answer.immediate && answer.tag == TaskTag::RESERVED && answer.transfer_tag == TransferTag(42));
    assert_eq!((answer.lun, &answer.data[..]), (3, &b"hi"[..]));
    assert_eq!(answer.exp_stat_sn, StatSn(101), "a ping carries no status (RFC 7143 §11.19)");
}

fn management(function: TaskFunction, lun: u64, referenced: Option<TaskTag>) -> Management<u32> {
    Management { ticket: 500, function, lun, referenced, deadline: Micros(10 * SECOND) }
}

#[test]
fn a_unit_reset_ends_the_older_tasks_of_that_unit() {
    let mut scene = Scene::logged_in(&[]);
    scene.submit(1, Transfer::Write(bytes(4)));
    let other_unit = Command {
        ticket: 2,
        lun: 1,
        attribute: TaskAttribute::SIMPLE,
        cdb: [0; 16],
        transfer: Transfer::None,
        deadline: Micros(10 * SECOND),
    };
    scene.initiator.submit(other_unit).expect("there is room");
    let tag = scene.initiator.manage(management(TaskFunction::LOGICAL_UNIT_RESET, 0, None)).expect("there is room");
    let newer = scene.submit(3, Transfer::None);
    let pdus = scene.sent();
    let InitiatorPdu::TaskManagementRequest(request) = &pdus[2] else { panic!("the function is sent at once") };
    assert!(request.immediate && request.cmd_sn == CmdSn(3) && request.referenced == TaskTag::RESERVED);
    let window = scene.status_window();
    let response = TaskFunctionResponse::COMPLETE;
    scene.receive(TaskManagementResponse { response, tag, window }).expect("accepted");
    assert_eq!(scene.initiator.poll_event(), Some(Event::Ended { ticket: 1, fate: Fate::Unknown }));
    assert_eq!(scene.initiator.poll_event(), Some(Event::Managed { ticket: 500, response }));
    assert_eq!(scene.initiator.poll_event(), None);
    let response = scene.status(newer, 0);
    scene.receive(response).expect("the newer task is still there");
}

#[test]
fn abort_task_names_its_task_and_an_unsent_one_is_withdrawn() {
    let mut scene = Scene::logged_in(&[]);
    scene.submit(0, Transfer::None);
    let victim = scene.submit(1, Transfer::None);
    scene.sent();
    let tag = scene.initiator.manage(management(TaskFunction::ABORT_TASK, 0, Some(victim))).expect("there is room");
    let pdus = scene.sent();
    let [InitiatorPdu::TaskManagementRequest(request)] = &pdus[..] else { panic!("one function: {pdus:?}") };
    assert_eq!((request.referenced, request.referenced_cmd_sn), (victim, CmdSn(2)));
    let window = scene.status_window();
    let response = TaskFunctionResponse::COMPLETE;
    scene.receive(TaskManagementResponse { response, tag, window }).expect("accepted");
    assert_eq!(scene.initiator.poll_event(), Some(Event::Ended { ticket: 1, fate: Fate::Unknown }));

    let mut last = victim;
    for ticket in 2..=40 {
        last = scene.submit(ticket, Transfer::None);
    }
    _ = scene.initiator.manage(management(TaskFunction::ABORT_TASK, 0, Some(last))).expect("there is room");
    assert!(matches!(scene.initiator.poll_event(), Some(Event::Managed { .. })));
    assert_eq!(scene.initiator.poll_event(), Some(Event::Ended { ticket: 40, fate: Fate::NotSent }));
}

fn asynchronous(scene: &mut Scene, event: AsyncEvent) -> AsyncMessage {
    let window = scene.status_window();
    AsyncMessage {
        event,
        vendor_code: 0,
        lun: 5,
        window,
        parameters: [0, 0, 3],
        sense: bytes(18),
        event_data: Bytes::new(),
    }
}

#[test]
fn a_requested_logout_waits_for_what_was_sent() {
    let mut scene = Scene::logged_in(&[]);
    let tag = scene.submit(1, Transfer::None);
    let message = asynchronous(&mut scene, AsyncEvent::REQUEST_LOGOUT);
    scene.receive(message).expect("accepted");
    assert_eq!(scene.initiator.poll_event(), Some(Event::LogoutRequested));
    assert!(scene.commands().len() == 1 && !scene.initiator.is_logged_in());
    let response = scene.status(tag, 0);
    scene.receive(response).expect("accepted");
    assert_eq!(scene.completed().0, 1);
    let pdus = scene.sent();
    let [InitiatorPdu::LogoutRequest(request)] = &pdus[..] else { panic!("one logout: {pdus:?}") };
    let window = scene.status_window();
    let logout = LogoutResponse {
        response: LogoutResponseCode::SUCCESS,
        tag: request.tag,
        window,
        time_to_wait_s: 0,
        time_to_retain_s: 0,
    };
    scene.receive(logout).expect("accepted");
    assert_eq!(scene.initiator.poll_event(), Some(Event::LoggedOut));
}

#[test]
fn asynchronous_messages_report_or_end_the_session() {
    let mut scene = Scene::logged_in(&[]);
    let message = asynchronous(&mut scene, AsyncEvent::SCSI_EVENT);
    scene.receive(message).expect("accepted");
    assert_eq!(scene.initiator.poll_event(), Some(Event::SenseReported { lun: 5, sense: bytes(18) }));
    for event in [AsyncEvent::DROP_CONNECTION, AsyncEvent::DROP_SESSION, AsyncEvent::TASKS_TERMINATED] {
        let mut scene = Scene::logged_in(&[]);
        let message = asynchronous(&mut scene, event);
        assert_eq!(scene.receive(message), Err(SessionLost::Dropped(event)));
    }
}

#[test]
fn a_reject_ends_the_session() {
    let mut scene = Scene::logged_in(&[]);
    let tag = scene.submit(1, Transfer::Write(bytes(4)));
    let rejected = scene.commands().remove(0).into_frame().bhs;
    assert_eq!(TaskTag(rejected.u32(16)), tag);
    let window = scene.status_window();
    let reason = RejectReason::PROTOCOL_ERROR;
    let lost = scene.receive(Reject { reason, window, data_sn: 0, rejected: Bytes::copy_from_slice(&rejected.0) });
    assert_eq!(lost, Err(SessionLost::Rejected { reason, opcode: 1 }));
    assert_eq!(scene.fates(), [(1, Fate::Unknown)]);
}

#[test]
fn discovery_collects_targets_over_several_responses() {
    let mut scene = Scene::new(Config { purpose: Purpose::Discovery, ..config() });
    let request = scene.login_request();
    let keys = KeyList::parse(&request.text).expect("keys");
    assert_eq!((keys.get("SessionType"), keys.get("TargetName")), (Some("Discovery"), None));
    scene.answer_login(&request, Stage::FullFeature, &[]).expect("accepted");
    scene.initiator.send_targets();
    let pdus = scene.sent();
    let [InitiatorPdu::TextRequest(ask)] = &pdus[..] else { panic!("one text request: {pdus:?}") };
    assert_eq!(KeyList::parse(&ask.text).expect("keys").get("SendTargets"), Some("All"));
    let mut response = TextResponse {
        is_final: false,
        more_text: true,
        lun: 0,
        tag: ask.tag,
        transfer_tag: TransferTag(9),
        window: scene.status_window(),
        text: Bytes::from_static(b"TargetName=iqn.a\0TargetAddress=10.0.0.1:3260,1\0Target"),
    };
    scene.receive(response.clone()).expect("accepted");
    let pdus = scene.sent();
    let [InitiatorPdu::TextRequest(more)] = &pdus[..] else { panic!("one text request: {pdus:?}") };
    assert!(more.text.is_empty() && more.transfer_tag == TransferTag(9));
    response.is_final = true;
    response.more_text = false;
    response.text = Bytes::from_static(b"Address=10.0.0.2:3260,1\0TargetName=iqn.b\0");
    response.window = scene.status_window();
    scene.receive(response).expect("accepted");
    assert!(matches!(scene.initiator.poll_event(), Some(Event::LoggedIn(_))));
    let addresses = vec!["10.0.0.1:3260,1".to_owned(), "10.0.0.2:3260,1".to_owned()];
    let targets = vec![
        DiscoveredTarget { name: "iqn.a".to_owned(), addresses },
        DiscoveredTarget { name: "iqn.b".to_owned(), addresses: Vec::new() },
    ];
    assert_eq!(scene.initiator.poll_event(), Some(Event::Targets(targets)));
}

#[test]
fn arbitrary_bytes_from_the_target_never_panic() {
    // A fixed linear congruential sequence: the same bytes in every run.
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as u32
    };
    let opcodes = [0x20, 0x21, 0x22, 0x23, 0x24, 0x25, 0x26, 0x31, 0x32, 0x3f];
    for round in 0..20_000 {
        let mut scene = if round % 2 == 0 { Scene::new(config()) } else { Scene::logged_in(&[]) };
        let tags = [scene.submit(1, Transfer::Read(512)), scene.submit(2, Transfer::Write(bytes(9000)))];
        let mut wire = BytesMut::new();
        for _ in 0..3 {
            let mut head = [0u8; 48];
            head.iter_mut().for_each(|byte| *byte = next() as u8);
            head[0] = opcodes[next() as usize % opcodes.len()];
            let length = next() % 64;
            head[4..8].copy_from_slice(&length.to_be_bytes());
            if next() % 2 == 0 {
                head[16..20].copy_from_slice(&tags[next() as usize % 2].0.to_be_bytes());
                head[40..44].copy_from_slice(&(next() % 600).to_be_bytes());
                head[44..48].copy_from_slice(&(next() % 9000).to_be_bytes());
            }
            wire.extend_from_slice(&head);
            (0..length.next_multiple_of(4)).for_each(|_| wire.extend_from_slice(&[next() as u8]));
        }
        if scene.initiator.receive(Micros(1), &mut wire).is_ok() {
            _ = scene.initiator.timeouts(Micros(u64::MAX));
        }
        while scene.initiator.poll_event().is_some() {}
        assert!(scene.fates().len() <= 2);
    }
}

// ---- data regions

fn with_a_region(answer: &str) -> Scene {
    let mut scene = Scene::new(Config { data_region: Some("192.0.2.1:7000".to_owned()), ..config() });
    let request = scene.login_request();
    let text = String::from_utf8_lossy(&request.text).into_owned();
    assert!(text.contains("X-io.understudy.DataRegion=192.0.2.1:7000"), "{text}");
    let keys = [("X-io.understudy.DataRegion", answer), ("InitialR2T", "No")];
    scene.answer_login(&request, Stage::FullFeature, &keys).expect("login is accepted");
    scene
}

#[test]
fn a_target_of_another_release_that_does_not_know_regions_is_logged_in_to_without() {
    assert_eq!(with_a_region("Yes").initiator.data_region(), Some("192.0.2.1:7000"));
    for refusal in ["NotUnderstood", "No", "Reject"] {
        assert_eq!(with_a_region(refusal).initiator.data_region(), None, "{refusal}");
    }
}

#[test]
fn data_in_a_region_is_sent_only_when_the_target_asks_for_it() {
    let mut scene = with_a_region("Yes");
    let advertised = Advertised { offset: 8192, length: 1024 };
    let command = |transfer| Command {
        ticket: 1,
        lun: 0,
        attribute: TaskAttribute::SIMPLE,
        cdb: [0; 16],
        transfer,
        deadline: Micros(SECOND),
    };
    let tag =
        scene.initiator.submit(command(Transfer::WriteFrom(Bytes::from(vec![7; 1024]), advertised))).expect("sent");
    scene.initiator.submit(command(Transfer::ReadInto(1024, advertised))).expect("sent");
    let commands = scene.commands();
    assert_eq!(commands.len(), 2);
    for (sent, write) in commands.iter().zip([true, false]) {
        assert_eq!((sent.advertised(), sent.data.len()), (Some(advertised), 0));
        assert_eq!((sent.write, sent.read, sent.is_final, sent.expected_bytes), (write, !write, true, 1024));
    }
    let window = scene.plain_window();
    let (transfer_tag, r2t_sn, buffer_offset, desired_bytes) = (TransferTag(9), 0, 0, 1024);
    scene.receive(R2t { lun: 0, tag, transfer_tag, window, r2t_sn, buffer_offset, desired_bytes }).expect("taken");
    let sent = scene.sent();
    let [InitiatorPdu::DataOut(data)] = &sent[..] else { panic!("{sent:?}") };
    assert_eq!((data.data.len(), data.is_final), (1024, true));
}
