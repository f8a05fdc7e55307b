//! Both halves of our iSCSI session against each other, over a wire that the fuzzer cuts into pieces.
//!
//! Not for hostile input (that is `target_session` and `initiator_session`): everything here is sound, in every
//! mixture of parameters, sizes, orders and delays that there is.
//!
//! Properties: nothing is lost, refused or mixed up. Every write arrives byte for byte, every read comes back byte for
//! byte, every command and function is answered (with TASK SET FULL only where more data came unasked than there is memory
//! for), and the session ends in order.

use std::collections::{BTreeMap, BTreeSet};

use bytes::{Buf, Bytes, BytesMut};
use understudy_iscsi::codes::{TaskAttribute, TaskFunction, TaskFunctionResponse};
use understudy_iscsi::login::Stage;
use understudy_iscsi::serial::{Isid, TaskTag, Tsih};
use understudy_session::Micros;
use understudy_session::initiator::{self, Command, Config, DigestOffer, Initiator, Management, Purpose, Transfer};
use understudy_session::target::parameters::Offer;
use understudy_session::target::{self, Begun, Limits, Reply, Setup, TargetConnection};

use crate::choices::Choices;

const MOST_STEPS: usize = 400;

/// What a ticket is to come back with.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Expected {
    Write,
    Read(usize),
    Nothing,
    Function,
}

struct Talk<'a> {
    choices: Choices<'a>,
    initiator: Initiator<u32>,
    target: TargetConnection,
    to_target: BytesMut,
    to_initiator: BytesMut,
    /// Commands at the target: what they are and their data-out, if it is there.
    arrived: BTreeMap<TaskTag, (u32, Option<Bytes>)>,
    expected: BTreeMap<u32, Expected>,
    /// Commands that were told to come again, because there was too much data already: nothing of them may be left.
    told_to_come_again: BTreeSet<u32>,
    next_ticket: u32,
    logged_out: bool,
}

/// Bytes of a write, which follow from its ticket.
fn content(ticket: u32, length: usize) -> Bytes {
    let pattern: [u8; 251] = std::array::from_fn(|at| (ticket as usize * 31 + at * 7) as u8);
    pattern.repeat(length / pattern.len() + 1)[..length].to_vec().into()
}

/// SAM-5 r21 §5.3.1.
const TASK_SET_FULL: u8 = 0x28;

const WRITES: [usize; 8] = [512, 1, 4096, 513, 8192, 3000, 20_000, 40_000];

impl<'a> Talk<'a> {
    fn new(mut choices: Choices<'a>) -> Self {
        let digest = [DigestOffer::None, DigestOffer::Prefer, DigestOffer::Demand];
        let config = Config {
            initiator_name: "iqn.2026-01.test:c".into(),
            isid: Isid([0x80, 0, 0, 0, 0, 1]),
            purpose: Purpose::Normal { target: "iqn.2026-01.test:t".into() },
            first_stage: *choices.pick(&[Stage::Operational, Stage::Security]),
            proof: None,
            header_digest: *choices.pick(&digest),
            data_digest: *choices.pick(&digest),
            receive_segment_bytes: *choices.pick(&[512, 4096, 65_536, 513]),
            data_region: None,
            ping_after: Micros::from_seconds(5),
            ping_within: Micros::from_seconds(5),
            login_within: Micros::from_seconds(10),
        };
        let offer = Offer {
            receive_data_segment: *choices.pick(&[8192, 512, 65_536, 1000]),
            max_burst: *choices.pick(&[65_536, 512, 1 << 20, 9000]),
            first_burst: *choices.pick(&[65_536, 512, 1 << 18, 9000]),
            outstanding_r2ts: *choices.pick(&[1, 4]),
            ..Offer::default()
        };
        let limits = Limits {
            window: *choices.pick(&[8, 1, 32]),
            memory_bytes: *choices.pick(&[1 << 20, 1000, 1 << 17]),
            ..Limits::default()
        };
        let setup = Setup { offer, limits, portal_groups: 1.into(), ..Setup::default() };
        Self {
            choices,
            initiator: Initiator::new(config, Micros(0)),
            target: TargetConnection::new(setup, Micros(0)),
            to_target: BytesMut::new(),
            to_initiator: BytesMut::new(),
            arrived: BTreeMap::new(),
            expected: BTreeMap::new(),
            told_to_come_again: BTreeSet::new(),
            next_ticket: 0,
            logged_out: false,
        }
    }

    fn step(&mut self) {
        match self.choices.below(6) {
            0 | 1 => self.submit(),
            2 => self.carry_to_target(),
            3 => self.carry_to_initiator(),
            4 => self.answer_one(),
            _ => self.manage(),
        }
    }

    fn ticket(&mut self, expected: Expected) -> u32 {
        self.next_ticket += 1;
        self.expected.insert(self.next_ticket, expected);
        self.next_ticket
    }

    fn submit(&mut self) {
        let length = *self.choices.pick(&WRITES);
        let (expected, kind) = match self.choices.below(3) {
            0 => (Expected::Write, 1),
            1 => (Expected::Read(length), 2),
            _ => (Expected::Nothing, 0),
        };
        let ticket = self.ticket(expected.clone());
        let transfer = match expected {
            Expected::Write => Transfer::Write(content(ticket, length)),
            Expected::Read(length) => Transfer::Read(length as u32),
            Expected::Nothing | Expected::Function => Transfer::None,
        };
        let mut cdb = [0; 16];
        cdb[0] = kind;
        cdb[1..5].copy_from_slice(&ticket.to_le_bytes());
        cdb[5..9].copy_from_slice(&(length as u32).to_le_bytes());
        let deadline = Micros(u64::MAX);
        let command = Command { ticket, lun: 0, attribute: TaskAttribute::SIMPLE, cdb, transfer, deadline };
        assert!(self.initiator.submit(command).is_ok());
    }

    /// Functions of a kind that ends no task: the shell answers that it knows no such task.
    fn manage(&mut self) {
        let ticket = self.ticket(Expected::Function);
        let management = Management {
            ticket,
            function: TaskFunction::ABORT_TASK,
            lun: 0,
            referenced: None,
            deadline: Micros(u64::MAX),
        };
        if self.initiator.manage(management).is_err() {
            self.expected.remove(&ticket);
        }
    }

    fn piece(&mut self) -> usize {
        match self.choices.byte() {
            255 => usize::MAX,
            byte => usize::from(byte) * usize::from(byte) + 1,
        }
    }

    fn carry_to_target(&mut self) {
        let piece = self.piece();
        move_some(self.initiator.outgoing(), &mut self.to_target, piece);
        self.target.handle_input(&mut self.to_target);
        self.ask_target();
    }

    fn carry_to_initiator(&mut self) {
        let piece = self.piece();
        move_some(self.target.outgoing(), &mut self.to_initiator, piece);
        self.initiator.receive(Micros(0), &mut self.to_initiator).expect("a sound target is believed");
        self.read_events();
    }

    fn ask_target(&mut self) {
        while let Some(event) = self.target.poll_event() {
            match event {
                target::Event::LoginAsked(_) => self.target.admit(Micros(0), Tsih(7)),
                target::Event::TargetsAsked(_) => self.target.targets(Vec::new()),
                target::Event::Command(command) => {
                    let ticket = u32::from_le_bytes(command.cdb[1..5].try_into().expect("four bytes"));
                    let wanted = if command.cdb[0] == 1 { command.data_out_offered } else { 0 };
                    match self.target.begun(command.tag, wanted) {
                        Begun::Execute(data) => drop(self.arrived.insert(command.tag, (ticket, Some(data)))),
                        Begun::Later => drop(self.arrived.insert(command.tag, (ticket, None))),
                        Begun::Refused => {
                            assert!(wanted > 0, "only data that came unasked is too much");
                            self.told_to_come_again.insert(ticket);
                        }
                    }
                }
                target::Event::DataArrived { tag, data } => {
                    self.arrived.get_mut(&tag).expect("a command that waits").1 = Some(data);
                }
                target::Event::TaskManagement { tag, .. } => {
                    self.target.function_done(tag, TaskFunctionResponse::TASK_DOES_NOT_EXIST);
                }
                target::Event::LogoutAsked => self.target.logged_out(),
                target::Event::FetchData { .. } => panic!("no data region was proposed"),
                target::Event::CommandFailed { tag } => panic!("the data-out of {tag:?} was refused"),
            }
            self.target.handle_input(&mut self.to_target);
        }
        let end = self.target.end();
        assert!(end.is_none_or(|end| *end == target::End::LoggedOut), "{end:?}");
    }

    fn answer_one(&mut self) {
        let ready: Vec<TaskTag> =
            self.arrived.iter().filter(|(_, (_, data))| data.is_some()).map(|(tag, _)| *tag).collect();
        let index = self.choices.below(ready.len());
        let Some(tag) = ready.get(index) else { return };
        let Some((ticket, Some(data))) = self.arrived.remove(tag) else { return };
        let data_in = match self.expected.get(&ticket) {
            Some(Expected::Write) => {
                assert_eq!(data, content(ticket, data.len()), "a write arrived changed");
                Bytes::new()
            }
            Some(Expected::Read(length)) => content(ticket, *length),
            Some(Expected::Nothing) => Bytes::new(),
            other => panic!("ticket {ticket} arrived and was {other:?}"),
        };
        let wanted = data.len() as u32;
        self.target.complete(*tag, Reply { data_in, data_out_wanted: wanted, ..Reply::good() });
        self.ask_target();
    }

    fn read_events(&mut self) {
        while let Some(event) = self.initiator.poll_event() {
            match event {
                initiator::Event::Completed { ticket, completion } => {
                    let status = if self.told_to_come_again.remove(&ticket) { TASK_SET_FULL } else { 0 };
                    assert_eq!((completion.status, completion.sense.len()), (status, 0));
                    match self.expected.remove(&ticket) {
                        Some(Expected::Read(length)) => assert_eq!(completion.data_in, content(ticket, length)),
                        Some(Expected::Write | Expected::Nothing) => assert!(completion.data_in.is_empty()),
                        other => panic!("ticket {ticket} completed and was {other:?}"),
                    }
                }
                initiator::Event::Managed { ticket, .. } => {
                    assert_eq!(self.expected.remove(&ticket), Some(Expected::Function));
                }
                initiator::Event::LoggedIn(_) | initiator::Event::Targets(_) => {}
                initiator::Event::LoggedOut => self.logged_out = true,
                other => panic!("nobody caused {other:?}"),
            }
        }
    }

    /// Everything under way ends within a bounded number of exchanges.
    fn drain(&mut self) {
        let mut rounds = 0;
        while !self.expected.is_empty() || !self.initiator.is_logged_in() {
            self.exchange();
            rounds += 1;
            assert!(rounds < 4000, "stuck with {:?}", self.expected);
        }
        self.initiator.log_out();
        for _ in 0..4 {
            self.exchange();
        }
        assert!(self.logged_out && self.initiator.outstanding() == 0);
        assert_eq!(self.target.end(), Some(&target::End::LoggedOut));
    }

    fn exchange(&mut self) {
        move_some(self.initiator.outgoing(), &mut self.to_target, usize::MAX);
        self.target.handle_input(&mut self.to_target);
        self.ask_target();
        while self.arrived.values().any(|(_, data)| data.is_some()) {
            self.answer_one();
        }
        move_some(self.target.outgoing(), &mut self.to_initiator, usize::MAX);
        self.initiator.receive(Micros(0), &mut self.to_initiator).expect("a sound target is believed");
        self.read_events();
    }
}

fn move_some(from: &mut impl Buf, to: &mut BytesMut, most: usize) {
    let count = from.remaining().min(most);
    to.extend_from_slice(&from.copy_to_bytes(count));
}

/// Plays the script, then lets everything come to its end.
pub fn run(bytes: &[u8]) {
    let mut talk = Talk::new(Choices::new(bytes));
    for _ in 0..MOST_STEPS {
        if talk.choices.is_over() {
            break;
        }
        talk.step();
    }
    talk.drain();
}

/// Writes, reads and functions in several mixtures.
#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    let mixture = [0, 2, 0, 0, 4, 1, 0, 6, 0, 2, 255, 3, 255, 2, 255, 5, 4, 0, 3, 255, 2, 9, 3, 9, 4, 0];
    let with = |head: &[u8]| [head, &mixture, &mixture].concat();
    vec![with(&[0; 10]), with(&[1, 1, 2, 1, 1, 1, 1, 1, 1, 1]), with(&[0, 0, 1, 2, 2, 3, 3, 0, 2, 2])]
}
