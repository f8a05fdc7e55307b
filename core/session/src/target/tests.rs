//! Transcripts: PDUs an initiator sends, and every PDU and event that comes of them, as text.

use super::parameters::DataRegions;
use super::*;
use bytes::Buf;
use understudy_iscsi::codes::{LogoutReason, TaskFunction};
use understudy_iscsi::login::Stage;
use understudy_iscsi::request::*;
use understudy_iscsi::serial::{CmdSn, Isid, StatSn};
use understudy_iscsi::{Bhs, Digest, Digests, InitiatorPdu, Opcode, TargetPdu};

const NAMES: &str = "InitiatorName=iqn.2026-01.test:client\0TargetName=iqn.2026-01.test:disk\0";
const DISCOVERY: &str = "InitiatorName=iqn.2026-01.test:client\0SessionType=Discovery\0";

/// An initiator that only does what it is told, and the connection under test.
struct Bench {
    machine: TargetConnection,
    buffer: BytesMut,
    answers: FrameDecoder,
    sending: Digests,
    now: Micros,
    cmd_sn: u32,
    /// Data-out that the shell would find in CDBs.
    wanted: u32,
}

impl Bench {
    fn new(setup: Setup) -> Self {
        Self {
            machine: TargetConnection::new(setup, Micros(0)),
            buffer: BytesMut::new(),
            answers: FrameDecoder::new(1 << 24),
            sending: Digests::default(),
            now: Micros(0),
            cmd_sn: 1,
            wanted: 0,
        }
    }

    /// Logged in, with these keys negotiated.
    fn logged_in(setup: Setup, keys: &str) -> Self {
        let mut bench = Self::new(setup);
        bench.send(login(Stage::Operational, Some(Stage::FullFeature), &format!("{NAMES}{keys}")));
        bench.machine.admit(bench.now, Tsih(7));
        let shown = bench.shown();
        assert!(shown.contains("status=0000"), "{shown}");
        bench
    }

    fn send(&mut self, pdu: impl Into<InitiatorPdu>) {
        self.send_frame(pdu.into().into_frame());
    }

    fn send_frame(&mut self, frame: Frame) {
        let mut wire = Outgoing::new();
        wire.push(frame, self.sending);
        let bytes = wire.copy_to_bytes(wire.remaining());
        self.send_bytes(&bytes);
    }

    fn send_bytes(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
        self.machine.heard(self.now);
        self.machine.handle_input(&mut self.buffer);
    }

    /// What came out since the last look: one line for each PDU and event, in this order.
    fn shown(&mut self) -> String {
        let mut lines = Vec::new();
        loop {
            let mut events = Vec::new();
            while let Some(event) = self.machine.poll_event() {
                match &event {
                    Event::Command(command) => {
                        let begun = self.machine.begun(command.tag, self.wanted);
                        events.push(format!("command {} lun={:x} -> {begun:.80?}", command.tag.0, command.lun));
                    }
                    Event::DataArrived { tag, data } => events.push(format!("data {} {} bytes", tag.0, data.len())),
                    other => events.push(format!("{other:?}")),
                }
            }
            let out = self.machine.outgoing();
            let mut sent = BytesMut::from(&out.copy_to_bytes(out.remaining())[..]);
            while let Some(frame) = self.answers.next(&mut sent).expect("our own frames are good") {
                lines.push(show(TargetPdu::decode(frame).expect("our own PDUs are good")));
            }
            if events.is_empty() {
                return lines.join("\n");
            }
            lines.append(&mut events);
            self.machine.handle_input(&mut self.buffer);
        }
    }

    fn command(&mut self, tag: u32, direction: Direction, bytes: u32, data: &[u8]) {
        let command = self.next_command(tag, direction, bytes, data);
        self.send(command);
    }

    fn next_command(&mut self, tag: u32, direction: Direction, bytes: u32, data: &[u8]) -> ScsiCommand {
        self.cmd_sn += 1;
        ScsiCommand {
            immediate: false,
            is_final: true,
            read: direction == Direction::Read,
            write: direction == Direction::Write,
            attribute: TaskAttribute::SIMPLE,
            lun: 0,
            tag: TaskTag(tag),
            expected_bytes: bytes,
            cmd_sn: CmdSn(self.cmd_sn - 1),
            exp_stat_sn: StatSn(0),
            cdb: [0; 16],
            ahs: Bytes::new(),
            data: Bytes::copy_from_slice(data),
        }
    }

    fn data_out(&mut self, tag: u32, transfer_tag: TransferTag, data_sn: u32, offset: u32, bytes: usize, end: bool) {
        self.send(DataOut {
            is_final: end,
            lun: 0,
            tag: TaskTag(tag),
            transfer_tag,
            exp_stat_sn: StatSn(0),
            data_sn,
            buffer_offset: offset,
            data: Bytes::from(vec![data_sn as u8; bytes]),
        });
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Direction {
    None,
    Read,
    Write,
}

fn login(stage: Stage, next: Option<Stage>, text: &str) -> LoginRequest {
    LoginRequest {
        transit: next.is_some(),
        more_text: false,
        stage,
        next_stage: next.unwrap_or(stage),
        version_max: 0,
        version_min: 0,
        isid: Isid([0x80, 1, 2, 3, 0, 0]),
        tsih: Tsih(0),
        tag: TaskTag(1),
        cid: Cid(1),
        cmd_sn: CmdSn(1),
        exp_stat_sn: StatSn(0),
        text: Bytes::copy_from_slice(text.as_bytes()),
    }
}

fn show(pdu: TargetPdu) -> String {
    let window =
        |w: understudy_iscsi::response::Window| format!("[{} {} {}]", w.stat_sn.0, w.exp_cmd_sn.0, w.max_cmd_sn.0);
    match pdu {
        TargetPdu::LoginResponse(p) => format!(
            "login-response {}{:?}>{:?} status={:02x}{:02x} tsih={} {} {}",
            if p.transit { "T " } else { "" },
            p.stage,
            p.next_stage,
            p.status.class,
            p.status.detail,
            p.tsih.0,
            window(p.window),
            String::from_utf8_lossy(&p.text).replace('\0', ";")
        ),
        TargetPdu::ScsiResponse(p) => format!(
            "response {} status={:02x} {:?} datasn={} {}{}",
            p.tag.0,
            p.status,
            p.residual,
            p.exp_data_sn,
            window(p.window),
            if p.sense.len() > 13 {
                format!(" sense={:x}/{:02x}/{:02x}", p.sense[2], p.sense[12], p.sense[13])
            } else {
                String::new()
            }
        ),
        TargetPdu::DataIn(p) => format!(
            "data-in {}{} sn={} at={} bytes={} status={:?} {:?} {}",
            p.tag.0,
            if p.is_final { " F" } else { "" },
            p.data_sn,
            p.buffer_offset,
            p.data.len(),
            p.status,
            p.residual,
            window(p.window)
        ),
        TargetPdu::R2t(p) => format!(
            "r2t {} ttt={} sn={} at={} bytes={} {}",
            p.tag.0,
            p.transfer_tag.0,
            p.r2t_sn,
            p.buffer_offset,
            p.desired_bytes,
            window(p.window)
        ),
        TargetPdu::TextResponse(p) => format!(
            "text-response{}{} {}",
            if p.is_final { " F" } else { "" },
            if p.more_text { " C" } else { "" },
            String::from_utf8_lossy(&p.text).replace('\0', ";")
        ),
        TargetPdu::Reject(p) => format!("reject {:02x} of opcode {:02x}", p.reason.0, p.rejected[0] & 0x3f),
        TargetPdu::NopIn(p) => {
            format!("nop-in {:x} ttt={:x} bytes={} {}", p.tag.0, p.transfer_tag.0, p.data.len(), window(p.window))
        }
        TargetPdu::LogoutResponse(p) => format!("logout-response {} {}", p.tag.0, p.response.0),
        TargetPdu::TaskManagementResponse(p) => format!("function-response {} {}", p.tag.0, p.response.0),
        TargetPdu::AsyncMessage(p) => format!("async {} {:?}", p.event.0, p.parameters),
    }
}

/// RFC 7143 §6.3: names, then security, then operational stage, then full feature phase.
#[test]
fn login_through_both_stages_negotiates_and_asks_the_shell_before_the_last_response() {
    let mut bench = Bench::new(Setup::default());
    bench.send(login(Stage::Security, Some(Stage::Operational), &format!("{NAMES}AuthMethod=CHAP,None\0")));
    assert_eq!(
        bench.shown(),
        "login-response T Security>Operational status=0000 tsih=0 [0 1 128] AuthMethod=None;TargetPortalGroupTag=0;"
    );
    bench.send(login(
        Stage::Operational,
        Some(Stage::FullFeature),
        "HeaderDigest=None\0MaxBurstLength=262144\0MaxRecvDataSegmentLength=65536\0X-org.test=1\0InitialR2T=No\0",
    ));
    let Some(Event::LoginAsked(asked)) = bench.machine.poll_event() else { panic!("the shell is asked") };
    assert_eq!((asked.initiator.as_str(), asked.kind), ("iqn.2026-01.test:client", SessionKind::Normal));
    assert_eq!(asked.target.as_deref(), Some("iqn.2026-01.test:disk"));
    assert_eq!(bench.shown(), "", "held until the shell agrees");
    bench.machine.admit(Micros(0), Tsih(9));
    assert_eq!(
        bench.shown(),
        "login-response T Operational>FullFeature status=0000 tsih=9 [1 1 128] HeaderDigest=None;\
         MaxBurstLength=262144;X-org.test=NotUnderstood;InitialR2T=No;MaxRecvDataSegmentLength=262144;"
    );
}

/// RFC 7143 §11.13.5: each mistake has its status.
#[test]
fn bad_logins_are_refused_with_the_status_for_it() {
    let operational = Some(Stage::FullFeature);
    let old_version = LoginRequest { version_min: 1, ..login(Stage::Operational, operational, NAMES) };
    let both = LoginRequest { more_text: true, ..login(Stage::Operational, operational, NAMES) };
    for (request, status) in [
        (login(Stage::Operational, operational, "TargetName=iqn.x\0"), "0207"),
        (login(Stage::Operational, operational, "InitiatorName=iqn.x\0"), "0207"),
        (login(Stage::Operational, operational, &format!("{NAMES}SessionType=Odd\0")), "0209"),
        (login(Stage::Security, operational, &format!("{NAMES}AuthMethod=CHAP\0")), "0201"),
        (login(Stage::Operational, operational, &format!("{NAMES}MaxBurstLength=512\0MaxBurstLength=512\0")), "0200"),
        (login(Stage::Operational, Some(Stage::Security), NAMES), "0200"),
        (login(Stage::FullFeature, None, NAMES), "0200"),
        (login(Stage::Operational, operational, "no key at all"), "0200"),
        (old_version, "0205"),
        (both, "0200"),
    ] {
        let mut bench = Bench::new(Setup::default());
        let text = request.text.clone();
        bench.send(request);
        let shown = bench.shown();
        assert!(shown.contains(&format!("status={status}")), "{text:?}: {shown}");
        assert!(matches!(bench.machine.end(), Some(End::LoginRefused(_) | End::NotLetIn(_))));
    }
}

#[test]
fn login_requests_that_change_identity_or_never_end_are_refused() {
    let mut bench = Bench::new(Setup::default());
    bench.send(login(Stage::Operational, None, NAMES));
    bench.send(LoginRequest { cid: Cid(2), ..login(Stage::Operational, None, "") });
    assert!(bench.shown().contains("status=020b"));
    let mut bench = Bench::new(Setup::default());
    bench.send(login(Stage::Operational, None, NAMES));
    for _ in 0..64 {
        bench.send(login(Stage::Operational, None, ""));
    }
    assert!(bench.shown().ends_with(' '));
    assert!(matches!(bench.machine.end(), Some(End::LoginRefused(_) | End::NotLetIn(_))));
}

#[test]
fn text_of_a_login_may_come_in_pieces() {
    let mut bench = Bench::new(Setup::default());
    let text = format!("{NAMES}MaxBurstLength=4096\0");
    let (first, second) = text.split_at(50);
    bench.send(LoginRequest { more_text: true, ..login(Stage::Operational, None, first) });
    assert_eq!(bench.shown(), "login-response Operational>Operational status=0000 tsih=0 [0 1 128] ");
    bench.send(login(Stage::Operational, Some(Stage::FullFeature), second));
    bench.machine.admit(Micros(0), Tsih(1));
    assert!(bench.shown().contains("MaxBurstLength=4096"));
}

#[test]
fn garbage_and_overlong_segments_end_the_login() {
    for bytes in [vec![0xffu8; 4096], b"GET / HTTP/1.1\r\nHost: localhost\r\nAccept: */*\r\n\r\n".to_vec(), {
        let mut lying = login(Stage::Operational, None, NAMES).into_frame().bhs.0.to_vec();
        lying[5] = 0xff;
        lying
    }] {
        let mut bench = Bench::new(Setup::default());
        bench.send_bytes(&bytes);
        assert!(matches!(bench.machine.end(), Some(End::LoginRefused(_))), "{:?}", bench.machine.end());
        assert!(bench.shown().contains("status=02"));
    }
}

#[test]
fn login_that_stops_half_way_is_given_up_in_time() {
    let mut bench = Bench::new(Setup::default());
    bench.send_bytes(&[0x43; 20]);
    let deadline = bench.machine.poll_deadline().unwrap();
    bench.machine.handle_deadline(Micros(deadline.0 - 1));
    assert_eq!(bench.machine.end(), None);
    bench.machine.handle_deadline(deadline);
    assert_eq!(bench.machine.end(), Some(&End::LoginTimeout));
}

/// RFC 7143 §11.13.5, §13.8.
#[test]
fn who_is_sent_elsewhere_is_told_the_address_and_no_portal_group() {
    let mut bench = Bench::new(Setup::default());
    bench.send(login(Stage::Operational, Some(Stage::FullFeature), NAMES));
    bench.shown();
    bench.machine.redirect("[fd00::2]:3260");
    assert_eq!(bench.machine.end(), Some(&End::LoginRefused(LoginStatus::MOVED_TEMPORARILY)));
    let shown = bench.shown();
    assert!(shown.contains("TargetAddress=[fd00::2]:3260") && shown.contains("0101"), "{shown}");
    assert!(!shown.contains("3260,"), "{shown}");
}

#[test]
fn refused_by_the_shell_means_a_final_response_with_its_status() {
    let mut bench = Bench::new(Setup::default());
    bench.send(login(Stage::Operational, Some(Stage::FullFeature), NAMES));
    assert!(!bench.machine.takes_input());
    bench.machine.poll_event();
    bench.machine.refuse(LoginStatus::NOT_FOUND);
    assert!(bench.shown().starts_with("login-response Operational>Operational status=0203 tsih=0"));
    assert_eq!(bench.machine.end(), Some(&End::LoginRefused(LoginStatus::NOT_FOUND)));
}

/// RFC 7143 Appendix C; long answers in several PDUs, §11.11.
#[test]
fn discovery_lists_targets_and_refuses_commands() {
    let mut bench = Bench::new(Setup::default());
    let text = format!("{DISCOVERY}MaxRecvDataSegmentLength=512\0");
    bench.send(login(Stage::Operational, Some(Stage::FullFeature), &text));
    bench.machine.admit(Micros(0), Tsih(1));
    bench.shown();
    let request = |tag, transfer_tag, text: &'static str| TextRequest {
        immediate: true,
        is_final: true,
        more_text: false,
        lun: 0,
        tag: TaskTag(tag),
        transfer_tag,
        cmd_sn: CmdSn(1),
        exp_stat_sn: StatSn(0),
        text: Bytes::from_static(text.as_bytes()),
    };
    bench.send(request(5, TransferTag::RESERVED, "SendTargets=All\0"));
    assert_eq!(bench.machine.poll_event(), Some(Event::TargetsAsked(TargetsWanted::All)));
    let name = |n| format!("iqn.2026-01.test:{n}{}", "x".repeat(200));
    let portals = vec![("127.0.0.1:3260".to_owned(), 1)];
    bench.machine.targets((0..3).map(|n| TargetEntry { name: name(n), portals: portals.clone() }).collect());
    let first = bench.shown();
    assert!(first.starts_with("text-response C TargetName=iqn.2026-01.test:0xx"), "{first}");
    bench.send(request(5, TransferTag(1), ""));
    let second = bench.shown();
    assert!(second.starts_with("text-response F "), "{second}");
    assert!(second.ends_with("TargetAddress=127.0.0.1:3260,1;"), "{second}");
    bench.command(6, Direction::Read, 512, &[]);
    assert_eq!(bench.shown(), "reject 05 of opcode 01");
}

#[test]
fn read_is_split_into_segments_and_bursts_with_status_in_the_last() {
    let keys = "MaxRecvDataSegmentLength=1024\0MaxBurstLength=2048\0";
    let mut bench = Bench::logged_in(Setup::default(), keys);
    bench.command(2, Direction::Read, 5000, &[]);
    assert_eq!(bench.shown(), "command 2 lun=0 -> Execute(b\"\")");
    bench.machine.complete(TaskTag(2), Reply { data_in: Bytes::from(vec![0; 4608]), ..Reply::good() });
    assert_eq!(
        bench.shown(),
        "data-in 2 sn=0 at=0 bytes=1024 status=None None [0 2 129]\n\
         data-in 2 F sn=1 at=1024 bytes=1024 status=None None [0 2 129]\n\
         data-in 2 sn=2 at=2048 bytes=1024 status=None None [0 2 129]\n\
         data-in 2 F sn=3 at=3072 bytes=1024 status=None None [0 2 129]\n\
         data-in 2 F sn=4 at=4096 bytes=512 status=Some(0) Underflow(392) [1 2 129]"
    );
}

#[test]
fn residuals_say_what_was_not_transferred() {
    let mut bench = Bench::logged_in(Setup::default(), "");
    bench.command(2, Direction::Read, 512, &[]);
    bench.shown();
    bench.machine.complete(TaskTag(2), Reply { data_in: Bytes::from(vec![0; 1024]), ..Reply::good() });
    assert_eq!(bench.shown(), "data-in 2 F sn=0 at=0 bytes=512 status=Some(0) Overflow(512) [1 2 129]");
    bench.command(3, Direction::None, 0, &[]);
    bench.shown();
    bench.machine.complete(TaskTag(3), Reply { data_in: Bytes::from(vec![0; 36]), ..Reply::good() });
    assert_eq!(bench.shown(), "response 3 status=00 Overflow(36) datasn=0 [2 3 130]");
    bench.wanted = 512;
    bench.command(4, Direction::Write, 1024, &[1; 1024]);
    assert!(bench.shown().starts_with("command 4 lun=0 -> Execute("));
    bench.machine.complete(TaskTag(4), Reply { data_out_wanted: 512, ..Reply::good() });
    assert_eq!(bench.shown(), "response 4 status=00 Underflow(512) datasn=0 [3 4 131]");
}

#[test]
fn check_condition_comes_in_a_response_with_sense() {
    let mut bench = Bench::logged_in(Setup::default(), "");
    bench.command(2, Direction::Read, 512, &[]);
    bench.shown();
    let sense = Bytes::from_static(&[0x70, 0, 5, 0, 0, 0, 0, 10, 0, 0, 0, 0, 0x21, 0, 0, 0, 0, 0]);
    bench.machine.complete(TaskTag(2), Reply { status: 2, sense, ..Reply::good() });
    assert_eq!(bench.shown(), "response 2 status=02 Underflow(512) datasn=0 [1 2 129] sense=5/21/00");
}

/// RFC 7143 §4.2.5.2, §11.8: immediate, unsolicited and solicited data of one write.
#[test]
fn write_takes_immediate_then_unsolicited_then_solicited_data() {
    let keys = "InitialR2T=No\0ImmediateData=Yes\0FirstBurstLength=1024\0MaxBurstLength=1024\0MaxOutstandingR2T=2\0";
    let mut bench = Bench::logged_in(Setup::default(), keys);
    bench.wanted = 4096;
    let command = bench.next_command(2, Direction::Write, 4096, &[9; 512]);
    bench.send(ScsiCommand { is_final: false, ..command });
    assert_eq!(bench.shown(), "command 2 lun=0 -> Later");
    bench.data_out(2, TransferTag::RESERVED, 0, 512, 512, true);
    assert_eq!(
        bench.shown(),
        "r2t 2 ttt=0 sn=0 at=1024 bytes=1024 [1 2 128]\nr2t 2 ttt=1 sn=1 at=2048 bytes=1024 [1 2 128]"
    );
    bench.data_out(2, TransferTag(0), 0, 1024, 1024, true);
    assert_eq!(bench.shown(), "r2t 2 ttt=2 sn=2 at=3072 bytes=1024 [1 2 128]");
    bench.data_out(2, TransferTag(1), 0, 2048, 512, false);
    bench.data_out(2, TransferTag(1), 1, 2560, 512, true);
    bench.data_out(2, TransferTag(2), 0, 3072, 1024, true);
    assert_eq!(bench.shown(), "data 2 4096 bytes");
    bench.machine.complete(TaskTag(2), Reply { data_out_wanted: 4096, ..Reply::good() });
    assert_eq!(bench.shown(), "response 2 status=00 None datasn=3 [1 2 129]");
}

#[test]
fn command_that_needs_no_data_gets_no_r2t() {
    let mut bench = Bench::logged_in(Setup::default(), "");
    bench.wanted = 0;
    bench.command(2, Direction::Write, 4096, &[]);
    assert_eq!(bench.shown(), "command 2 lun=0 -> Execute(b\"\")");
}

/// RFC 7143 §11.4.7.2.
#[test]
fn wrong_data_sn_and_forbidden_data_end_the_command_not_the_session() {
    let mut bench = Bench::logged_in(Setup::default(), "ImmediateData=No\0");
    bench.wanted = 512;
    bench.command(2, Direction::Write, 512, &[]);
    bench.shown();
    bench.data_out(2, TransferTag(0), 3, 0, 512, true);
    assert_eq!(
        bench.shown(),
        "response 2 status=02 Underflow(512) datasn=1 [1 2 129] sense=b/0c/0d\nCommandFailed { tag: TaskTag(2) }"
    );
    bench.command(3, Direction::Write, 512, &[0; 512]);
    assert!(bench.shown().contains("sense=b/0c/0c"));
    bench.command(4, Direction::Read, 0, &[]);
    assert_eq!(bench.shown(), "command 4 lun=0 -> Execute(b\"\")");
}

/// RFC 7143 §4.2.2.1: the window; commands outside are ignored, early ones wait.
#[test]
fn commands_are_delivered_in_order_of_cmd_sn_within_the_window() {
    let limits = Limits { window: 4, ..Limits::default() };
    let mut bench = Bench::logged_in(Setup { limits, ..Setup::default() }, "");
    let mut command = |n| bench.next_command(n, Direction::None, 0, &[]);
    let commands: Vec<_> = (1..=6).map(&mut command).collect();
    bench.send(commands[2].clone());
    bench.send(commands[1].clone());
    bench.send(commands[4].clone());
    assert_eq!(bench.shown(), "");
    bench.send(commands[0].clone());
    assert_eq!(
        bench.shown(),
        "command 1 lun=0 -> Execute(b\"\")\ncommand 2 lun=0 -> Execute(b\"\")\ncommand 3 lun=0 -> Execute(b\"\")"
    );
    bench.send(commands[0].clone());
    bench.send(commands[3].clone());
    assert_eq!(bench.shown(), "command 4 lun=0 -> Execute(b\"\")");
    bench.send(commands[4].clone());
    assert_eq!(bench.shown(), "", "the window is full");
    bench.machine.complete(TaskTag(2), Reply::good());
    assert_eq!(bench.shown(), "response 2 status=00 None datasn=0 [1 5 5]");
    bench.send(commands[4].clone());
    assert_eq!(bench.shown(), "command 5 lun=0 -> Execute(b\"\")");
}

/// A command that came early may keep a first burst waiting with it, not segments of any length.
#[test]
fn data_held_for_an_early_command_is_no_more_than_a_first_burst() {
    let mut bench = Bench::logged_in(Setup::default(), "InitialR2T=No\0FirstBurstLength=4096\0");
    let late = bench.next_command(1, Direction::None, 0, &[]);
    let early = ScsiCommand { is_final: false, ..bench.next_command(2, Direction::Write, 8192, &[]) };
    bench.send(early);
    bench.data_out(2, TransferTag::RESERVED, 0, 0, 4096, false);
    assert_eq!(bench.machine.end(), None);
    bench.data_out(2, TransferTag::RESERVED, 1, 4096, 4096, true);
    assert_eq!(bench.machine.end(), Some(&End::Protocol("more unsolicited data than the first burst")));
    bench.send(late);
    assert_eq!(bench.shown(), "");
}

#[test]
fn commands_wait_for_memory_and_go_on_when_others_are_done() {
    let limits = Limits { memory_bytes: 1 << 20, ..Limits::default() };
    let mut bench = Bench::logged_in(Setup { limits, ..Setup::default() }, "");
    for tag in 1..=3 {
        bench.command(tag, Direction::Read, 600 << 10, &[]);
    }
    assert_eq!(bench.shown(), "command 1 lun=0 -> Execute(b\"\")\ncommand 2 lun=0 -> Later\ncommand 3 lun=0 -> Later");
    bench.machine.complete(TaskTag(1), Reply::good());
    assert!(bench.shown().ends_with("\ndata 2 0 bytes"));
    bench.machine.abandon(TaskTag(2));
    assert_eq!(bench.shown(), "data 3 0 bytes");
}

/// SAM-5 r21 §5.3.1: what there is no room for is sent again by the initiator.
#[test]
fn data_that_came_unasked_and_cannot_be_used_yet_is_bounded() {
    let limits = Limits { memory_bytes: 4096, ..Limits::default() };
    let mut bench = Bench::logged_in(Setup { limits, ..Setup::default() }, "");
    bench.wanted = 4096;
    for tag in 1..=3 {
        bench.command(tag, Direction::Write, 4096, &[7; 4096]);
    }
    let shown = bench.shown();
    let lines: Vec<&str> = shown.lines().collect();
    assert!(lines.iter().any(|line| line.starts_with("command 1 lun=0 -> Execute")), "{shown}");
    assert!(lines.contains(&"command 2 lun=0 -> Later") && lines.contains(&"command 3 lun=0 -> Refused"), "{shown}");
    assert!(shown.contains("response 3 status=28"), "{shown}");
    // An answer counts until it is sent.
    bench.machine.complete(TaskTag(1), Reply::good());
    assert!(bench.shown().starts_with("response 1"));
    assert_eq!(bench.shown(), "data 2 4096 bytes");
    bench.machine.complete(TaskTag(2), Reply::good());
    bench.shown();
    bench.command(4, Direction::Write, 4096, &[7; 4096]);
    assert!(bench.shown().contains("command 4 lun=0 -> Execute"));
}

#[test]
fn first_burst_that_is_not_sent_counts_as_what_it_may_become() {
    let limits = Limits { memory_bytes: 8192, ..Limits::default() };
    let mut bench = Bench::logged_in(Setup { limits, ..Setup::default() }, "InitialR2T=No\0FirstBurstLength=4096\0");
    bench.wanted = 4096;
    for tag in 1..=3 {
        let open = ScsiCommand { is_final: false, ..bench.next_command(tag, Direction::Write, 4096, &[]) };
        bench.send(open);
    }
    let shown = bench.shown();
    assert!(shown.contains("command 2 lun=0 -> Later") && shown.contains("command 3 lun=0 -> Refused"), "{shown}");
    // What the initiator sends of the refused one all the same is ignored.
    bench.data_out(3, TransferTag::RESERVED, 0, 0, 4096, true);
    bench.data_out(1, TransferTag::RESERVED, 0, 0, 4096, true);
    assert_eq!(bench.shown(), "data 1 4096 bytes");
}

#[test]
fn data_kept_ahead_of_its_turn_is_bounded() {
    let limits = Limits { memory_bytes: 8192, ..Limits::default() };
    let mut bench = Bench::logged_in(Setup { limits, ..Setup::default() }, "");
    let _never_sent = bench.next_command(1, Direction::None, 0, &[]);
    for tag in 2..=3 {
        bench.command(tag, Direction::Write, 4096, &[7; 4096]);
        assert_eq!(bench.machine.end(), None);
    }
    bench.command(4, Direction::Write, 4096, &[7; 4096]);
    assert_eq!(bench.machine.end(), Some(&End::Protocol("more data ahead of its turn than there is memory for")));
}

#[test]
fn less_memory_holds_back_what_comes_and_not_what_is_under_way() {
    let mut bench = Bench::logged_in(Setup::default(), "");
    bench.command(1, Direction::Read, 1 << 20, &[]);
    bench.machine.limit_memory(1 << 20);
    bench.command(2, Direction::Read, 4096, &[]);
    assert_eq!(bench.shown(), "command 1 lun=0 -> Execute(b\"\")\ncommand 2 lun=0 -> Later");
    bench.machine.complete(TaskTag(1), Reply::good());
    assert!(bench.shown().ends_with("data 2 0 bytes"));
}

#[test]
fn discovery_that_never_ends_is_ended() {
    let mut bench = Bench::new(Setup::default());
    bench.send(login(Stage::Operational, Some(Stage::FullFeature), DISCOVERY));
    bench.machine.admit(Micros(0), Tsih(1));
    bench.shown();
    // BOUND: a minute, ten seconds at a time.
    while bench.machine.end().is_none() {
        bench.now = bench.now.plus(Micros::from_seconds(10));
        bench.machine.handle_deadline(bench.now);
        if bench.machine.end().is_none() {
            bench.send(nop(TaskTag(3), TransferTag::RESERVED, b""));
            bench.shown();
        }
    }
    assert_eq!(bench.machine.end(), Some(&End::DiscoveryOverdue));
    assert_eq!(bench.now, Limits::default().discovery);
}

#[test]
fn discovery_shows_only_what_the_initiator_may_use() {
    use crate::target::access::{ALGORITHMS, AccessList, Grant, Scope};
    let scope = Scope::Only(vec!["iqn.2026-01.test:one".to_owned()]);
    let grant = ("iqn.2026-01.test:client".to_owned(), Grant { scope, credentials: None });
    let access = Arc::new(Access::Listed(AccessList::new([grant], ALGORITHMS.to_vec())));
    let mut bench = Bench::new(Setup { access, ..Setup::default() });
    bench.send(login(Stage::Operational, Some(Stage::FullFeature), DISCOVERY));
    bench.machine.admit(Micros(0), Tsih(1));
    bench.shown();
    bench.send(TextRequest {
        immediate: true,
        is_final: true,
        more_text: false,
        lun: 0,
        tag: TaskTag(5),
        transfer_tag: TransferTag::RESERVED,
        cmd_sn: CmdSn(1),
        exp_stat_sn: StatSn(0),
        text: Bytes::from_static(b"SendTargets=All\0"),
    });
    assert_eq!(bench.machine.poll_event(), Some(Event::TargetsAsked(TargetsWanted::All)));
    let entry = |name: &str| TargetEntry { name: name.to_owned(), portals: vec![("127.0.0.1:3260".to_owned(), 1)] };
    bench.machine.targets(vec![entry("iqn.2026-01.test:one"), entry("iqn.2026-01.test:two")]);
    let shown = bench.shown();
    assert!(shown.contains("test:one") && !shown.contains("test:two"), "{shown}");
}

#[test]
fn immediate_commands_are_bounded_and_do_not_use_the_window() {
    let limits = Limits { immediate_commands: 1, ..Limits::default() };
    let mut bench = Bench::logged_in(Setup { limits, ..Setup::default() }, "");
    for tag in [1, 2] {
        let command = bench.next_command(tag, Direction::None, 0, &[]);
        bench.cmd_sn -= 1;
        bench.send(ScsiCommand { immediate: true, ..command });
    }
    assert_eq!(bench.shown(), "command 1 lun=0 -> Execute(b\"\")\nreject 06 of opcode 01");
    bench.machine.complete(TaskTag(1), Reply::good());
    assert_eq!(bench.shown(), "response 1 status=00 None datasn=0 [2 1 128]");
}

#[test]
fn ping_is_answered_and_a_silent_initiator_is_pinged_and_given_up() {
    let mut bench = Bench::logged_in(Setup::default(), "");
    bench.send(nop(TaskTag(3), TransferTag::RESERVED, b"hello"));
    assert_eq!(bench.shown(), "nop-in 3 ttt=ffffffff bytes=5 [1 1 128]");
    let first = bench.machine.poll_deadline().unwrap();
    bench.machine.handle_deadline(first);
    assert_eq!(bench.shown(), "nop-in ffffffff ttt=0 bytes=0 [2 1 128]");
    bench.now = first.plus(Micros(1));
    bench.send(nop(TaskTag::RESERVED, TransferTag(0), b""));
    assert_eq!(bench.shown(), "");
    let second = bench.machine.poll_deadline().unwrap();
    assert_eq!(second, bench.now.plus(Limits::default().ping_after));
    bench.machine.handle_deadline(second);
    let third = bench.machine.poll_deadline().unwrap();
    bench.machine.handle_deadline(third);
    assert_eq!(bench.machine.end(), Some(&End::Silent));
}

fn nop(tag: TaskTag, transfer_tag: TransferTag, data: &'static [u8]) -> NopOut {
    let (cmd_sn, exp_stat_sn) = (CmdSn(1), StatSn(0));
    NopOut { immediate: true, lun: 0, tag, transfer_tag, cmd_sn, exp_stat_sn, data: Bytes::from_static(data) }
}

#[test]
fn task_management_goes_to_the_shell_and_unsupported_functions_do_not() {
    let mut bench = Bench::logged_in(Setup::default(), "");
    let request = |function| TaskManagementRequest {
        immediate: true,
        function,
        lun: 1 << 48,
        tag: TaskTag(8),
        referenced: TaskTag(2),
        cmd_sn: CmdSn(1),
        exp_stat_sn: StatSn(0),
        referenced_cmd_sn: CmdSn(0),
        exp_data_sn: 0,
    };
    bench.send(request(TaskFunction::ABORT_TASK));
    let event = bench.machine.poll_event();
    let expected = Event::TaskManagement {
        tag: TaskTag(8),
        function: TaskFunction::ABORT_TASK,
        lun: 1 << 48,
        referenced: TaskTag(2),
    };
    assert_eq!(event, Some(expected));
    bench.machine.function_done(TaskTag(8), TaskFunctionResponse::COMPLETE);
    assert_eq!(bench.shown(), "function-response 8 0");
    bench.send(request(TaskFunction::TASK_REASSIGN));
    bench.send(request(TaskFunction(99)));
    assert_eq!(bench.shown(), "function-response 8 4\nfunction-response 8 5");
}

#[test]
fn logout_is_answered_when_the_nexus_is_gone() {
    let mut bench = Bench::logged_in(Setup::default(), "");
    let logout = |reason, cid| LogoutRequest {
        immediate: true,
        reason,
        tag: TaskTag(4),
        cid: Cid(cid),
        cmd_sn: CmdSn(1),
        exp_stat_sn: StatSn(0),
    };
    bench.send(logout(LogoutReason::CLOSE_CONNECTION, 5));
    bench.send(logout(LogoutReason::REMOVE_FOR_RECOVERY, 1));
    assert_eq!(bench.shown(), "logout-response 4 1\nlogout-response 4 2");
    bench.send(logout(LogoutReason::CLOSE_SESSION, 1));
    assert_eq!(bench.shown(), "LogoutAsked");
    bench.command(5, Direction::Read, 512, &[]);
    assert_eq!(bench.shown(), "reject 0c of opcode 01");
    bench.machine.logged_out();
    assert_eq!(bench.shown(), "logout-response 4 0");
    assert_eq!(bench.machine.end(), Some(&End::LoggedOut));
}

#[test]
fn initiator_that_is_asked_to_log_out_and_does_not_is_cut_off() {
    let mut bench = Bench::logged_in(Setup::default(), "");
    bench.machine.request_logout(Micros(0), Micros::from_seconds(3));
    assert_eq!(bench.shown(), "async 1 [0, 0, 3]");
    bench.machine.handle_deadline(Micros::from_seconds(3));
    assert_eq!(bench.machine.end(), Some(&End::LogoutOverdue));
}

/// RFC 7143 §13.1, §7.8.
#[test]
fn digests_are_checked_and_a_damaged_data_out_fails_only_its_command() {
    let mut bench = Bench::logged_in(Setup::default(), "HeaderDigest=CRC32C\0DataDigest=CRC32C\0ImmediateData=No\0");
    let digests = Digests { header: Digest::Crc32c, data: Digest::Crc32c };
    bench.answers.set(digests, 1 << 24);
    bench.sending = digests;
    bench.wanted = 512;
    bench.command(2, Direction::Write, 512, &[]);
    assert!(bench.shown().contains("r2t 2 ttt=0"));
    let pdu = DataOut {
        is_final: true,
        lun: 0,
        tag: TaskTag(2),
        transfer_tag: TransferTag(0),
        exp_stat_sn: StatSn(0),
        data_sn: 0,
        buffer_offset: 0,
        data: Bytes::from(vec![1; 512]),
    };
    let mut wire = Outgoing::new();
    wire.push(pdu.into_frame(), digests);
    let mut bytes = wire.copy_to_bytes(wire.remaining()).to_vec();
    bytes[60] ^= 1;
    bench.send_bytes(&bytes);
    assert_eq!(
        bench.shown(),
        "reject 02 of opcode 05\nresponse 2 status=02 Underflow(512) datasn=1 [2 2 129] sense=b/47/05\n\
         CommandFailed { tag: TaskTag(2) }"
    );
    bench.command(3, Direction::None, 0, &[]);
    assert_eq!(bench.shown(), "command 3 lun=0 -> Execute(b\"\")");
    bytes[0] ^= 1;
    bench.send_bytes(&bytes);
    assert_eq!(bench.machine.end(), Some(&End::Frame(FrameError::HeaderDigest)));
}

#[test]
fn what_no_initiator_may_send_is_rejected_and_ends_the_session() {
    for frame in [
        Frame::new(Bhs::new(Opcode::ScsiResponse, 0x80), Bytes::new()),
        Frame::new(Bhs([0x1f; 48]), Bytes::new()),
        login(Stage::Operational, None, NAMES).into_frame(),
    ] {
        let mut bench = Bench::logged_in(Setup::default(), "");
        let mut frame = frame;
        frame.bhs.0[4] = 0;
        bench.send_frame(frame);
        assert!(bench.shown().starts_with("reject 0"));
        assert!(matches!(bench.machine.end(), Some(End::Protocol(_))), "{:?}", bench.machine.end());
    }
    let mut bench = Bench::logged_in(Setup::default(), "");
    let mut lying = Bhs::new(Opcode::NopOut, 0x80);
    lying.0[5] = 0xff;
    bench.send_bytes(&lying.0);
    assert!(matches!(bench.machine.end(), Some(End::Frame(FrameError::DataTooLong { .. }))));
}

#[test]
fn random_bytes_after_login_never_break_more_than_the_session() {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    println!("seed {state:#x}");
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    for _ in 0..2000 {
        let mut bench = Bench::logged_in(Setup::default(), "InitialR2T=No\0");
        for _ in 0..20 {
            let mut bhs = [0u8; 48];
            for byte in &mut bhs {
                *byte = random() as u8;
            }
            // Mostly valid opcodes, short segments and numbers near the window.
            bhs[0] = (random() % 8) as u8 | if random() % 2 == 0 { 0x40 } else { 0 };
            bhs[4] = (random() % 3) as u8;
            (bhs[5], bhs[6]) = (0, (random() % 3) as u8);
            bhs[16..20].copy_from_slice(&((random() % 4) as u32).to_be_bytes());
            bhs[20..24].copy_from_slice(&((random() % 4) as u32 * 512).to_be_bytes());
            bhs[24..28].copy_from_slice(&((random() % 9) as u32).to_be_bytes());
            let frame_bytes = usize::from(bhs[4]) * 4 + Bhs(bhs).data_bytes().next_multiple_of(4);
            bench.wanted = (random() % 4) as u32 * 512;
            bench.send_bytes(&bhs);
            bench.send_bytes(&vec![random() as u8; frame_bytes]);
            bench.shown();
            bench.machine.complete(TaskTag((random() % 4) as u32), Reply::good());
        }
    }
}

/// What goes out after a command that expects so many bytes is answered with `data`: with a reply, or in the room for it.
fn answered(keys: &str, expected: u32, data: &[u8], placed: bool) -> Option<Bytes> {
    let mut bench = Bench::logged_in(Setup::default(), keys);
    if keys.contains("CRC32C") {
        bench.sending = Digests { header: Digest::Crc32c, data: Digest::Crc32c };
    }
    // Something that went out earlier is in the room.
    bench.command(1, Direction::Read, 2048, &[]);
    bench.read_all(1, &[0x77; 2048]);
    bench.command(2, Direction::Read, expected, &[]);
    let Some(Event::Command(_)) = bench.machine.poll_event() else { panic!("it came") };
    assert_eq!(bench.machine.begun(TaskTag(2), 0), Begun::Execute(Bytes::new()));
    if placed {
        bench.machine.place(TaskTag(2), data.len())?.copy_from_slice(data);
        bench.machine.complete_placed(TaskTag(2));
    } else {
        bench.machine.complete(TaskTag(2), Reply { data_in: Bytes::copy_from_slice(data), ..Reply::good() });
    }
    let out = bench.machine.outgoing();
    Some(out.copy_to_bytes(out.remaining()))
}

impl Bench {
    fn read_all(&mut self, tag: u32, data: &[u8]) {
        let Some(Event::Command(_)) = self.machine.poll_event() else { panic!("it came") };
        self.machine.begun(TaskTag(tag), 0);
        self.machine.complete(TaskTag(tag), Reply { data_in: Bytes::copy_from_slice(data), ..Reply::good() });
        let out = self.machine.outgoing();
        out.advance(out.remaining());
    }
}

/// RFC 7143 §11.7, §11.4.5, §13.1.
#[test]
fn data_that_was_placed_goes_out_as_a_reply_does() {
    for keys in ["", "HeaderDigest=CRC32C\0DataDigest=CRC32C\0"] {
        for (expected, bytes) in [(512, 512), (512, 509), (4096, 4096), (8192, 4096), (4096, 1)] {
            let data: Vec<u8> = (0..bytes).map(|at| (at % 251) as u8).collect();
            let placed = answered(keys, expected, &data, true);
            assert!(placed.is_some(), "{keys} {expected} {bytes}");
            assert_eq!(placed, answered(keys, expected, &data, false), "{keys} {expected} {bytes}");
        }
    }
}

#[test]
fn there_is_room_only_for_an_answer_of_one_short_pdu_with_all_of_the_data() {
    for (keys, expected, bytes) in [
        ("", 512, 513),
        ("", 512, 0),
        ("", 8192, 4097),
        ("MaxRecvDataSegmentLength=512\0", 4096, 1024),
        ("MaxBurstLength=512\0FirstBurstLength=512\0", 4096, 1024),
    ] {
        assert_eq!(answered(keys, expected, &vec![1; bytes], true), None, "{keys} {expected} {bytes}");
    }
    let mut bench = Bench::logged_in(Setup::default(), "");
    bench.command(1, Direction::Write, 512, &[0; 512]);
    assert!(bench.shown().contains("Execute"));
    assert_eq!(bench.machine.place(TaskTag(1), 512), None, "it does not read");
    assert_eq!(bench.machine.place(TaskTag(2), 512), None, "there is no such command");
}

#[test]
fn commands_that_are_over_in_any_order_are_each_answered_once() {
    let mut bench = Bench::logged_in(Setup::default(), "");
    for tag in 1..=4 {
        bench.command(tag, Direction::None, 0, &[]);
        assert!(bench.shown().contains("Execute"));
    }
    bench.command(3, Direction::None, 0, &[]);
    assert!(bench.shown().starts_with("reject"), "a tag in use");
    for (tag, times) in [(4, 1), (2, 1), (4, 0), (1, 1), (3, 1)] {
        bench.machine.complete(TaskTag(tag), Reply::good());
        assert_eq!(bench.shown().lines().count(), times, "{tag}");
    }
}

// ---- data regions

const REGION: &str = "X-io.understudy.DataRegion=192.0.2.1:7000\0";

fn with_regions() -> Bench {
    let offer = Offer { data_regions: DataRegions::Used, ..Offer::default() };
    let bench = Bench::logged_in(Setup { offer, ..Setup::default() }, REGION);
    assert_eq!(bench.machine.data_region(), Some("192.0.2.1:7000"));
    bench
}

fn advertised(bench: &mut Bench, tag: u32, direction: Direction, bytes: u32, length: u32) -> ScsiCommand {
    let ahs = Advertised { offset: 4096, length }.encode();
    ScsiCommand { ahs, ..bench.next_command(tag, direction, bytes, &[]) }
}

#[test]
fn data_that_is_advertised_is_fetched_and_no_r2t_is_sent() {
    let mut bench = with_regions();
    bench.wanted = 65_536;
    let command = advertised(&mut bench, 2, Direction::Write, 65_536, 65_536);
    bench.send(command);
    let shown = bench.shown();
    assert!(shown.contains("-> Later") && shown.contains("FetchData") && shown.contains("length: 65536"), "{shown}");
    assert!(!shown.contains("r2t"), "{shown}");
    let data = Bytes::from(vec![7; 65_536]);
    assert_eq!(bench.machine.fetched(TaskTag(2), Some(data.clone())), Some(data.clone()));
    assert_eq!(bench.machine.fetched(TaskTag(2), Some(data)), None, "a second time");
    bench.machine.complete(TaskTag(2), Reply { data_out_wanted: 65_536, ..Reply::good() });
    let shown = bench.shown();
    assert!(shown.contains("status=00"), "{shown}");
}

#[test]
fn data_that_cannot_be_fetched_or_is_cut_short_is_asked_for() {
    for fetched in [None, Some(Bytes::from(vec![7; 65_535]))] {
        let mut bench = with_regions();
        bench.wanted = 65_536;
        let command = advertised(&mut bench, 2, Direction::Write, 65_536, 65_536);
        bench.send(command);
        bench.shown();
        assert_eq!(bench.machine.fetched(TaskTag(2), fetched), None);
        let shown = bench.shown();
        assert!(shown.contains("r2t"), "{shown}");
        bench.data_out(2, TransferTag(0), 0, 0, 65_536, true);
        let shown = bench.shown();
        assert!(shown.contains("data 2 65536 bytes"), "{shown}");
    }
}

#[test]
fn less_than_is_wanted_is_not_fetched_and_an_aborted_command_wants_nothing() {
    let mut bench = with_regions();
    bench.wanted = 65_536;
    let command = advertised(&mut bench, 2, Direction::Write, 65_536, 65_535);
    bench.send(command);
    let shown = bench.shown();
    assert!(shown.contains("r2t") && !shown.contains("FetchData"), "{shown}");
    let command = advertised(&mut bench, 3, Direction::Write, 65_536, 65_536);
    bench.send(command);
    bench.shown();
    bench.machine.abandon(TaskTag(3));
    assert_eq!(bench.machine.fetched(TaskTag(3), Some(Bytes::from(vec![7; 65_536]))), None);
}

#[test]
fn what_was_moved_counts_for_the_residual_and_is_not_sent() {
    let mut bench = with_regions();
    let command = advertised(&mut bench, 2, Direction::Read, 65_536, 65_536);
    bench.send(command);
    bench.shown();
    bench.machine.complete(TaskTag(2), Reply { data_in_moved: 61_440, ..Reply::good() });
    let shown = bench.shown();
    assert!(shown.contains("Underflow(4096)") && !shown.contains("data-in"), "{shown}");
}

#[test]
fn without_agreement_nothing_is_fetched() {
    let mut bench = Bench::logged_in(Setup::default(), REGION);
    assert_eq!(bench.machine.data_region(), None);
    bench.wanted = 65_536;
    let command = advertised(&mut bench, 2, Direction::Write, 65_536, 65_536);
    bench.send(command);
    let shown = bench.shown();
    assert!(shown.contains("r2t") && !shown.contains("FetchData"), "{shown}");
    // Nor when it turned out to be out of reach.
    let mut bench = with_regions();
    bench.machine.forget_data_region();
    let command = advertised(&mut bench, 2, Direction::Write, 65_536, 65_536);
    bench.wanted = 65_536;
    bench.send(command);
    let shown = bench.shown();
    assert!(shown.contains("r2t"), "{shown}");
}
