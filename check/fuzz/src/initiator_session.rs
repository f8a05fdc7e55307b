//! The initiator's half of an iSCSI session against a target that sends anything.
//!
//! The fuzzer plays the target, the caller (commands, task management, logout) and the clock.
//!
//! Properties: what is sent is a stream of sound PDUs with the digests agreed; every command and function ends exactly
//! once, by an event or when the session is given up; no byte of data-out is sent twice, whatever a target asks for;
//! data-in is never more than was asked for; an answer from the target never makes much more traffic than itself; where a
//! target has to prove itself, which it cannot here, there is no login, and no secret is ever sent.

use std::collections::BTreeMap;

use bytes::{Buf, Bytes, BytesMut};
use understudy_iscsi::codes::{TaskAttribute, TaskFunction};
use understudy_iscsi::login::Stage;
use understudy_iscsi::request::LoginRequest;
use understudy_iscsi::serial::{Isid, TaskTag};
use understudy_iscsi::{Digests, FrameDecoder, InitiatorPdu, Opcode, Outgoing, TargetPdu};
use understudy_session::Micros;
use understudy_session::credentials::{ALGORITHMS, Chance, Credentials, Identity};
use understudy_session::initiator::{
    Command, Config, DigestOffer, Event, Initiator, Management, Proof, Purpose, SessionLost, Transfer,
};
use understudy_session::secret::Secret;

use crate::choices::{Choices, Script};
use crate::scripted::{self, Standing};

const MOST_STEPS: usize = 300;
const WRITE_BYTES: [usize; 4] = [512, 4096, 70_000, 300_000];

/// What the caller asked for.
#[derive(Debug, Clone, Copy)]
enum Asked {
    Nothing,
    Read(u32),
    Write(usize),
    Function,
}

struct Bench<'a> {
    choices: Choices<'a>,
    initiator: Initiator<u32>,
    /// Nobody can log it in.
    is_mutual: bool,
    now: u64,
    wire: BytesMut,
    /// What the fuzzer's target sends with, and reads with.
    digests: Digests,
    receiving: FrameDecoder,
    standing: Standing,
    /// Login request that waits for its answer.
    login: Option<LoginRequest>,
    open: BTreeMap<u32, Asked>,
    /// Per task tag: data-out announced, and bytes of it seen.
    sent: BTreeMap<TaskTag, (usize, usize)>,
    tags: Vec<TaskTag>,
    next_ticket: u32,
    lost: bool,
}

const SECRET: &[u8] = b"the initiator's secret";
const TARGET_SECRET: &[u8] = b"what nobody here knows";

/// Nothing to prove, one way, or mutual.
fn proof(number: u8) -> Option<Proof> {
    let identity = |user: &str, secret| Identity { user: user.to_owned(), secret: Secret::new(secret).expect("long enough") };
    let target = (number == 2).then(|| identity("target", TARGET_SECRET));
    let credentials = Credentials { initiator: identity("user", SECRET), target };
    (1..=2).contains(&number).then(|| Proof { credentials, algorithms: ALGORITHMS.to_vec() })
}

fn config(choices: &mut Choices<'_>) -> Config {
    let offers = [DigestOffer::Prefer, DigestOffer::None, DigestOffer::Demand];
    let kind = choices.byte();
    let discovery = kind & 7 == 7;
    Config {
        initiator_name: "iqn.2026-01.test:c".into(),
        isid: Isid([0x80, 0, 0, 0, 0, 1]),
        purpose: if discovery { Purpose::Discovery } else { Purpose::Normal { target: "iqn.2026-01.test:t".into() } },
        first_stage: *choices.pick(&[Stage::Operational, Stage::Security]),
        proof: proof(kind >> 3 & 3),
        header_digest: *choices.pick(&offers),
        data_digest: *choices.pick(&offers),
        receive_segment_bytes: 65_536,
        data_region: None,
        ping_after: Micros::from_seconds(5),
        ping_within: Micros::from_seconds(5),
        login_within: Micros::from_seconds(10),
    }
}

/// Plays the script.
pub fn run(bytes: &[u8]) {
    let mut choices = Choices::new(bytes);
    let config = config(&mut choices);
    let is_mutual = config.proof.as_ref().is_some_and(|proof| proof.credentials.target.is_some());
    let chance = Chance { identifier: 1, challenge: [0x5a; 32] };
    let mut bench = Bench {
        choices,
        initiator: Initiator::with_chance(config, Some(chance), Micros(0)),
        is_mutual,
        now: 0,
        wire: BytesMut::new(),
        digests: Digests::default(),
        receiving: FrameDecoder::new(1 << 24),
        standing: Standing { stat_sn: 1, cmd_sn: 1, tag: TaskTag(0) },
        login: None,
        open: BTreeMap::new(),
        sent: BTreeMap::new(),
        tags: Vec::new(),
        next_ticket: 0,
        lost: false,
    };
    bench.read_requests();
    for _ in 0..MOST_STEPS {
        if bench.choices.is_over() || bench.lost {
            break;
        }
        bench.step();
    }
    let Bench { initiator, mut open, .. } = bench;
    let outstanding = initiator.outstanding();
    let fates = initiator.abandon();
    assert_eq!(fates.len(), outstanding);
    for (ticket, _fate) in fates {
        assert!(open.remove(&ticket).is_some(), "ticket {ticket} ended twice");
    }
    assert!(open.is_empty(), "without an end: {open:?}");
}

impl Bench<'_> {
    fn step(&mut self) {
        match self.choices.below(8) {
            0 => {
                let bytes = self.choices.chunk();
                self.wire.extend_from_slice(bytes);
                self.deliver();
            }
            1..=3 => {
                if let Some(request) = self.login.take() {
                    let response = scripted::login_response(&mut self.choices, &request, self.standing);
                    self.send(TargetPdu::LoginResponse(response));
                } else {
                    let index = self.choices.below(self.tags.len());
                    self.standing.tag = self.tags.get(index).copied().unwrap_or(TaskTag(0));
                    let response = scripted::response(&mut self.choices, self.standing);
                    self.send(response);
                }
                self.standing.stat_sn = self.standing.stat_sn.wrapping_add(1);
                self.deliver();
            }
            4 => self.submit(),
            5 => self.manage(),
            6 => self.pass_time(),
            _ => match self.choices.below(4) {
                0 => self.initiator.log_out(),
                1 => self.initiator.send_targets(),
                _ => self.submit(),
            },
        }
        self.read_events();
        self.read_requests();
    }

    fn send(&mut self, pdu: TargetPdu) {
        let mut out = Outgoing::new();
        out.push(pdu.into_frame(), self.digests);
        let length = out.len();
        let mut bytes = BytesMut::from(&out.copy_to_bytes(length)[..]);
        if self.choices.byte() == 255 {
            let at = usize::from(self.choices.u16()) % bytes.len();
            bytes[at] ^= self.choices.byte();
        }
        self.wire.extend_from_slice(&bytes);
    }

    fn deliver(&mut self) {
        let result = self.initiator.receive(Micros(self.now), &mut self.wire);
        self.note(result);
    }

    fn note(&mut self, result: Result<(), SessionLost>) {
        if let Err(lost) = result {
            assert!(!lost.to_string().is_empty());
            self.lost = true;
        }
    }

    fn ticket(&mut self, asked: Asked) -> u32 {
        self.next_ticket += 1;
        self.open.insert(self.next_ticket, asked);
        self.next_ticket
    }

    fn submit(&mut self) {
        let (asked, transfer) = match self.choices.below(3) {
            0 => (Asked::Nothing, Transfer::None),
            1 => {
                let bytes = *self.choices.pick(&[512, 4096, 1 << 20]);
                (Asked::Read(bytes), Transfer::Read(bytes))
            }
            _ => {
                let bytes = *self.choices.pick(&WRITE_BYTES);
                (Asked::Write(bytes), Transfer::Write(Bytes::from(vec![1; bytes])))
            }
        };
        let ticket = self.ticket(asked);
        let deadline = Micros(self.now + 1_000_000 * (1 + self.choices.below(20) as u64));
        let command = Command { ticket, lun: 0, attribute: TaskAttribute::SIMPLE, cdb: [0; 16], transfer, deadline };
        match self.initiator.submit(command) {
            Ok(tag) => {
                if let Asked::Write(bytes) = asked {
                    self.sent.insert(tag, (bytes, 0));
                }
                self.tags.push(tag);
            }
            Err(_refused) => {
                self.open.remove(&ticket);
            }
        }
    }

    fn manage(&mut self) {
        let functions = [
            TaskFunction::ABORT_TASK,
            TaskFunction::ABORT_TASK_SET,
            TaskFunction::LOGICAL_UNIT_RESET,
            TaskFunction::TARGET_WARM_RESET,
        ];
        let index = self.choices.below(self.tags.len());
        let referenced = self.tags.get(index).copied();
        let ticket = self.ticket(Asked::Function);
        let deadline = Micros(self.now + 5_000_000);
        let function = *self.choices.pick(&functions);
        match self.initiator.manage(Management { ticket, function, lun: 0, referenced, deadline }) {
            Ok(tag) => self.tags.push(tag),
            Err(_refused) => {
                self.open.remove(&ticket);
            }
        }
    }

    fn pass_time(&mut self) {
        self.now = match self.choices.below(3) {
            0 => self.now + 1_000,
            _ => self.initiator.next_timeout().0.clamp(self.now, self.now + 60_000_000),
        };
        let result = self.initiator.timeouts(Micros(self.now));
        self.note(result);
    }

    fn read_requests(&mut self) {
        let out = self.initiator.outgoing();
        let length = out.len();
        // Every byte of data-out goes out once; everything else that a step can cause is small.
        assert!(length < 16 << 20, "{length} bytes to send after one step");
        let mut sent = BytesMut::from(&out.copy_to_bytes(length)[..]);
        // BOUND: every turn takes a PDU off `sent`.
        while !sent.is_empty() {
            // A login request has no digests, even if it is read after the login has ended.
            let is_login = sent[0] & 0x3f == Opcode::LoginRequest as u8;
            self.receiving.set(if is_login { Digests::default() } else { self.digests }, 1 << 24);
            let frame = self.receiving.next(&mut sent).expect("a sound stream").expect("whole PDUs only");
            match InitiatorPdu::decode(frame).expect("sound PDUs") {
                InitiatorPdu::LoginRequest(request) => {
                    assert!(![SECRET, TARGET_SECRET].iter().any(|secret| {
                        request.text.windows(secret.len()).any(|bytes| bytes == *secret)
                    }));
                    self.login = Some(request);
                }
                InitiatorPdu::ScsiCommand(command) => {
                    self.standing.cmd_sn = command.cmd_sn.0.wrapping_add(1);
                    self.count(command.tag, command.data.len());
                }
                InitiatorPdu::DataOut(data) => self.count(data.tag, data.data.len()),
                InitiatorPdu::TextRequest(_)
                | InitiatorPdu::NopOut(_)
                | InitiatorPdu::TaskManagementRequest(_)
                | InitiatorPdu::LogoutRequest(_) => {}
                InitiatorPdu::Snack(snack) => panic!("error recovery level 0 has no SNACK: {snack:?}"),
            }
        }
    }

    fn count(&mut self, tag: TaskTag, bytes: usize) {
        if let Some((announced, seen)) = self.sent.get_mut(&tag) {
            *seen += bytes;
            assert!(*seen <= *announced, "{seen} bytes of data-out sent of {announced}");
        } else {
            assert_eq!(bytes, 0, "data-out of a command that writes nothing");
        }
    }

    fn read_events(&mut self) {
        while let Some(event) = self.initiator.poll_event() {
            match event {
                Event::LoggedIn(parameters) => {
                    assert!(!self.is_mutual, "logged in without the target's proof");
                    assert!(parameters.first_burst_bytes <= parameters.max_burst_bytes);
                    assert!(parameters.send_segment_bytes >= 512);
                    self.digests = parameters.digests;
                }
                Event::Completed { ticket, completion } => match self.open.remove(&ticket) {
                    Some(Asked::Read(bytes)) => assert!(completion.data_in.len() <= bytes as usize),
                    Some(Asked::Nothing | Asked::Write(_)) => assert!(completion.data_in.is_empty()),
                    other => panic!("ticket {ticket} completed: {other:?}"),
                },
                Event::Ended { ticket, .. } => assert!(self.open.remove(&ticket).is_some()),
                Event::Managed { ticket, .. } => {
                    assert!(matches!(self.open.remove(&ticket), Some(Asked::Function)));
                }
                Event::Targets(targets) => assert!(targets.len() <= 8192),
                Event::SenseReported { .. } | Event::LogoutRequested | Event::LoggedOut => {}
            }
        }
    }
}

/// Decisions for a sound last login response that answers with these keys.
fn accepted(keys: &[(u8, u8)]) -> Script {
    // Flags, near StatSN, CmdSN and MaxCmdSN, status, keys, undamaged.
    let script = Script::new().bytes(&[1]).bytes(&[0]).bytes(&[0, 0, 0, 0]).bytes(&[keys.len() as u8]);
    keys.iter().fold(script, |script, (key, value)| script.bytes(&[*key, *value])).bytes(&[0])
}

/// A login and a read, a solicited write, an abort, a logout.
#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    let plain = [0, 0, 1, 1];
    let read = [4, 1, 0, 19];
    let data_in = [1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1, 7, 0];
    let write = [4, 2, 2, 19];
    let r2t = [1, 0, 3, 0, 0, 0, 0, 0, 0, 0, 0, 5, 2, 0];
    let response = [1, 0, 6, 0, 0, 0, 0, 0, 0, 0];
    let logout = [7, 0];
    let whole = |config: &[u8], keys: &[(u8, u8)], rest: &[&[u8]]| {
        Script::new().bytes(config).bytes(&accepted(keys).done()).bytes(&rest.concat()).done()
    };
    vec![
        whole(&plain, &[(16, 0)], &[&read, &data_in, &logout]),
        whole(&plain, &[(10, 0), (11, 1), (7, 2)], &[&write, &r2t, &response, &logout]),
        whole(&[0, 0, 0, 0], &[(4, 0), (5, 0)], &[&write, &read, &[5, 0, 0], &response]),
        // A method, a challenge, and whatever is taken for a proof; one way and mutual.
        whole(&[8, 1, 1, 1], &[(3, 2)], &[&[1], &accepted(&[(20, 0), (21, 0), (22, 0)]).done()]),
        whole(&[16, 1, 1, 1], &[(3, 2)], &[&[1], &accepted(&[(20, 0), (21, 0), (22, 0)]).done(), &[1], &accepted(&[(23, 0), (24, 0)]).done()]),
    ]
}
