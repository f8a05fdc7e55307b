//! The target's half of an iSCSI session against an initiator that sends anything.
//!
//! The fuzzer plays the initiator (PDUs near the rules, any bytes, damaged digests), the shell behind the session
//! (admits or refuses, answers late, early or never) and the clock.
//!
//! Properties: what is sent is always a stream of sound PDUs with the digests agreed; a command is handed over once and
//! answered at most once; its data-out is no longer than its CDB asks for; StatSN counts every status; the
//! command window is never deeper than the limit and never shrinks; an ended connection takes and asks nothing.

use std::collections::BTreeMap;

use bytes::{Buf, Bytes, BytesMut};
use understudy_iscsi::codes::TaskFunctionResponse;
use understudy_iscsi::login::{LoginStatus, Stage};
use understudy_iscsi::response::Window;
use understudy_iscsi::serial::{TaskTag, Tsih};
use understudy_iscsi::text::KeyList;
use understudy_iscsi::{Digest, Digests, FrameDecoder, InitiatorPdu, Outgoing, TargetPdu};
use understudy_session::Micros;
use understudy_session::target::parameters::{DataRegions, Offer};
use understudy_session::target::{Begun, Event, Limits, Reply, Setup, TargetConnection, TargetEntry};

use crate::choices::{Choices, Script};
use crate::scripted;

const WINDOW: u32 = 4;
/// Enough to log in, fill every table and log out.
const MOST_STEPS: usize = 300;

/// A command as the shell knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stand {
    WaitsForData { wanted: u32 },
    Executes,
}

struct Bench<'a> {
    choices: Choices<'a>,
    machine: TargetConnection,
    now: u64,
    /// On their way to the machine.
    wire: BytesMut,
    sending: Digests,
    receiving: FrameDecoder,
    agreed: Digests,
    commands: BTreeMap<TaskTag, Stand>,
    functions: Vec<TaskTag>,
    next_cmd_sn: u32,
    last: Option<Window>,
    full_feature: bool,
}

/// Plays the script.
pub fn run(bytes: &[u8]) {
    let mut choices = Choices::new(bytes);
    let limits = Limits {
        window: WINDOW,
        immediate_commands: 2,
        task_functions: 2,
        memory_bytes: *choices.pick(&[1 << 20, 1024, 40 << 20]),
        ..Limits::default()
    };
    let offer = Offer { data_regions: DataRegions::Used, ..Offer::default() };
    let setup = Setup { limits, offer, portal_groups: 1.into(), ..Setup::default() };
    let mut bench = Bench {
        choices,
        machine: TargetConnection::new(setup, Micros(0)),
        now: 0,
        wire: BytesMut::new(),
        sending: Digests::default(),
        receiving: FrameDecoder::new(1 << 24),
        agreed: Digests::default(),
        commands: BTreeMap::new(),
        functions: Vec::new(),
        next_cmd_sn: 1,
        last: None,
        full_feature: false,
    };
    for _ in 0..MOST_STEPS {
        if bench.choices.is_over() {
            break;
        }
        bench.step();
    }
    bench.machine.drop_session();
    bench.settle();
    assert!(bench.machine.end().is_some() && bench.machine.poll_deadline().is_none());
}

impl Bench<'_> {
    fn step(&mut self) {
        match self.choices.below(8) {
            0 => {
                let bytes = self.choices.chunk();
                self.wire.extend_from_slice(bytes);
            }
            1 => {
                let request = scripted::login_request(&mut self.choices, self.next_cmd_sn);
                self.send(InitiatorPdu::LoginRequest(request));
            }
            2 | 3 => {
                let command = scripted::command(&mut self.choices, self.next_cmd_sn);
                if !command.immediate && command.cmd_sn.0 == self.next_cmd_sn {
                    self.next_cmd_sn = self.next_cmd_sn.wrapping_add(1);
                }
                self.send(InitiatorPdu::ScsiCommand(command));
            }
            4 | 5 => {
                let request = scripted::request(&mut self.choices, self.next_cmd_sn);
                self.send(request);
            }
            6 => self.answer_one(),
            _ => self.pass_time(),
        }
        self.machine.heard(Micros(self.now));
        self.machine.handle_input(&mut self.wire);
        self.settle();
    }

    fn send(&mut self, pdu: InitiatorPdu) {
        let mut out = Outgoing::new();
        out.push(pdu.into_frame(), self.sending);
        let length = out.len();
        let mut bytes = BytesMut::from(&out.copy_to_bytes(length)[..]);
        if self.choices.byte() == 255 {
            let at = usize::from(self.choices.u16()) % bytes.len();
            bytes[at] ^= self.choices.byte();
        }
        self.wire.extend_from_slice(&bytes);
    }

    /// Lets machine and shell talk until neither has anything to say.
    fn settle(&mut self) {
        // BOUND: every event takes something off the machine, which gets nothing new here.
        loop {
            self.read_answers();
            let Some(event) = self.machine.poll_event() else { break };
            self.handle(event);
            self.machine.handle_input(&mut self.wire);
        }
        self.read_answers();
        if self.machine.end().is_some() {
            assert!(!self.machine.takes_input() && self.machine.poll_event().is_none());
            self.wire.clear();
        }
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::LoginAsked(asked) => {
                assert!(!asked.initiator.is_empty() && asked.initiator.len() <= 223);
                if self.choices.byte() == 255 {
                    self.machine.redirect("10.0.0.1:3260");
                } else {
                    self.machine.admit(Micros(self.now), Tsih(1));
                    self.read_answers();
                    self.full_feature = true;
                    self.sending = self.agreed;
                    self.receiving.set(self.agreed, 1 << 24);
                }
            }
            Event::TargetsAsked(_) => {
                let entry = |number| TargetEntry {
                    name: format!("iqn.2026-01.test:t{number}"),
                    portals: vec![("127.0.0.1:3260".to_owned(), 1); 8],
                };
                let count = self.choices.below(64);
                self.machine.targets((0..count).map(entry).collect());
            }
            Event::Command(arrived) => {
                let wanted = match self.choices.below(4) {
                    0 => 0,
                    1 => arrived.data_out_offered.min(32 << 20),
                    2 => 512,
                    _ => 32 << 20,
                };
                assert!(!self.commands.contains_key(&arrived.tag), "a tag under way is not handed over again");
                match self.machine.begun(arrived.tag, wanted) {
                    Begun::Execute(data) => {
                        assert!(data.len() <= wanted.min(arrived.data_out_offered) as usize);
                        self.commands.insert(arrived.tag, Stand::Executes);
                    }
                    Begun::Later => {
                        self.commands.insert(arrived.tag, Stand::WaitsForData { wanted });
                    }
                    Begun::Refused => {}
                }
            }
            Event::DataArrived { tag, data } => match self.commands.insert(tag, Stand::Executes) {
                Some(Stand::WaitsForData { wanted }) => assert!(data.len() <= wanted as usize),
                other => panic!("data for a command that waits for none: {other:?}"),
            },
            Event::FetchData { tag, from } => {
                let Some(Stand::WaitsForData { wanted }) = self.commands.get(&tag) else {
                    panic!("data is fetched for a command that waits for none");
                };
                assert!(from.length <= *wanted && from.offset.checked_add(from.length).is_some());
                let fetched = (self.choices.byte() != 255).then(|| Bytes::from(vec![7; from.length as usize]));
                if self.machine.fetched(tag, fetched).is_some() {
                    self.commands.insert(tag, Stand::Executes);
                }
            }
            Event::CommandFailed { tag } => {
                // Its answer is out already, so it may be forgotten by now.
                let before = self.commands.remove(&tag);
                assert_ne!(before, Some(Stand::Executes));
            }
            Event::TaskManagement { tag, .. } => self.functions.push(tag),
            Event::LogoutAsked => {
                for (tag, _) in std::mem::take(&mut self.commands) {
                    self.machine.abandon(tag);
                }
                self.machine.logged_out();
            }
        }
    }

    /// The shell answers a command or a function that it has.
    fn answer_one(&mut self) {
        if self.choices.below(4) == 3 && !self.functions.is_empty() {
            let tag = self.functions.remove(0);
            self.machine.function_done(tag, TaskFunctionResponse::COMPLETE);
            return;
        }
        let index = self.choices.below(self.commands.len());
        let Some((tag, stand)) = self.commands.iter().nth(index).map(|(tag, stand)| (*tag, *stand)) else { return };
        let abort = self.choices.below(4) == 0;
        if abort || stand != Stand::Executes {
            self.commands.remove(&tag);
            self.machine.abandon(tag);
            return;
        }
        let reply = Reply {
            status: *self.choices.pick(&[0, 2, 0x18]),
            sense: Bytes::from(vec![0x70; self.choices.below(32)]),
            data_in: Bytes::from(vec![7; usize::from(self.choices.u16())]),
            data_out_wanted: 512,
            data_in_moved: 0,
        };
        self.machine.complete(tag, reply);
    }

    fn pass_time(&mut self) {
        match self.choices.below(4) {
            0 => self.now += 1_000,
            1 => self.machine.request_logout(Micros(self.now), Micros::from_seconds(1)),
            _ => {
                let deadline = self.machine.poll_deadline();
                self.now = deadline.map_or(self.now, |deadline| deadline.0.max(self.now));
                self.machine.handle_deadline(Micros(self.now));
            }
        }
    }

    fn read_answers(&mut self) {
        let out = self.machine.outgoing();
        let length = out.len();
        let mut sent = BytesMut::from(&out.copy_to_bytes(length)[..]);
        while let Some(frame) = self.receiving.next(&mut sent).expect("a sound stream") {
            let pdu = TargetPdu::decode(frame).expect("sound PDUs");
            self.judge(&pdu);
        }
        assert!(sent.is_empty(), "whole PDUs only");
    }

    fn judge(&mut self, pdu: &TargetPdu) {
        let (window, is_status) = match pdu {
            TargetPdu::LoginResponse(response) => {
                assert!(!self.full_feature);
                self.note_digests(&response.text);
                assert!(response.status == LoginStatus::SUCCESS || !response.transit);
                let ends = response.transit && response.next_stage == Stage::FullFeature;
                assert!(!ends || response.tsih != Tsih(0) || response.status != LoginStatus::SUCCESS);
                (response.window, response.status == LoginStatus::SUCCESS)
            }
            TargetPdu::ScsiResponse(response) => {
                self.commands.remove(&response.tag);
                (response.window, true)
            }
            TargetPdu::DataIn(data) => {
                assert!(self.commands.contains_key(&data.tag), "data for a command that is over");
                if data.status.is_some() {
                    self.commands.remove(&data.tag);
                }
                (data.window, data.status.is_some())
            }
            TargetPdu::R2t(r2t) => {
                assert!(r2t.desired_bytes > 0);
                (r2t.window, false)
            }
            TargetPdu::NopIn(nop) => (nop.window, nop.tag != TaskTag::RESERVED),
            TargetPdu::TaskManagementResponse(response) => (response.window, true),
            TargetPdu::TextResponse(response) => (response.window, true),
            TargetPdu::LogoutResponse(response) => (response.window, true),
            TargetPdu::AsyncMessage(message) => (message.window, true),
            TargetPdu::Reject(reject) => (reject.window, true),
        };
        self.judge_window(window, is_status);
    }

    fn judge_window(&mut self, window: Window, is_status: bool) {
        let depth = window.max_cmd_sn.0.wrapping_sub(window.exp_cmd_sn.0).wrapping_add(1);
        if self.full_feature {
            assert!(depth <= WINDOW, "the window is {depth} deep");
        }
        if let Some(last) = self.last {
            assert!(last.exp_cmd_sn.is_at_or_before(window.exp_cmd_sn) || !self.full_feature);
            assert!(last.max_cmd_sn.is_at_or_before(window.max_cmd_sn) || !self.full_feature);
            if is_status {
                assert_eq!(window.stat_sn, last.stat_sn.next(), "StatSN counts every status");
            }
        }
        let stat_sn = if is_status { window.stat_sn } else { self.last.map_or(window.stat_sn, |last| last.stat_sn) };
        if is_status || self.last.is_some() {
            self.last = Some(Window { stat_sn, ..window });
        }
    }

    /// What the target answered last holds.
    fn note_digests(&mut self, text: &[u8]) {
        let keys = KeyList::parse(text).expect("our own text");
        for (key, value) in keys.iter() {
            let place = match key {
                "HeaderDigest" => &mut self.agreed.header,
                "DataDigest" => &mut self.agreed.data,
                _other => continue,
            };
            match value {
                "CRC32C" => *place = Digest::Crc32c,
                "None" => *place = Digest::None,
                _refused => {}
            }
        }
    }
}

/// Decisions for a login request that asks for these keys (by their index in the table, and the index of the value).
fn login(keys: &[(u8, u8)]) -> Script {
    let script = Script::new().bytes(&[1]).bytes(&[1, 0, 0]).bytes(&[keys.len() as u8]);
    let keys = keys.iter().fold(script, |script, (key, value)| script.bytes(&[*key, *value]));
    keys.bytes(&[0])
}

/// A login with and without digests, commands with all kinds of data, a discovery.
#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    let names: &[(u8, u8)] = &[(0, 0), (1, 0)];
    let admit = [0];
    // A write of 1,024 bytes with 512 of them immediate, solicited data, and its answer.
    let write = [2, 4, 1, 2, 0, 1, 9, 0, 1, 4, 0, 0, 1, 0, 0, 1, 1, 9, 0, 6, 0, 0, 1, 0, 0, 0, 0];
    let read = [2, 2, 2, 3, 0, 0, 0, 0, 0, 6, 0, 0, 1, 0, 0, 0, 16];
    let logout = [4, 6, 1, 0, 3, 0, 0];
    let whole = |keys: &[(u8, u8)]| {
        let keys = [names, keys].concat();
        Script::new().bytes(&[0]).bytes(&login(&keys).done()).bytes(&admit).bytes(&write).bytes(&read).bytes(&logout).done()
    };
    let discovery = [(0, 0), (2, 1)];
    let ask = [4, 5, 1, 3, 0, 0, 1, 18, 0, 0, 20];
    vec![
        whole(&[]),
        whole(&[(4, 0), (5, 0)]),
        whole(&[(10, 1), (11, 0), (8, 2), (7, 1), (9, 1)]),
        Script::new().bytes(&[1]).bytes(&login(&discovery).done()).bytes(&admit).bytes(&ask).bytes(&logout).done(),
    ]
}
