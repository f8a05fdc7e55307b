//! Logins that have to be proved, by an initiator that says anything and now and then the right thing.
//!
//! The fuzzer composes texts of keys and values, among them the right answer to the challenge that is out, that challenge sent back, and
//! any bytes, over as many requests and connections as it likes.
//!
//! Properties: nobody is let in on a connection on which the right user with the right answer to its challenge was not seen; this end proves itself
//! only then, with the right answer to a challenge that is not its own; no secret is ever sent.

use std::sync::Arc;

use bytes::{Buf, Bytes, BytesMut};
use understudy_iscsi::binary::{encode_binary, parse_binary};
use understudy_iscsi::chap::ChapAlgorithm;
use understudy_iscsi::login::{LoginStatus, Stage};
use understudy_iscsi::request::LoginRequest;
use understudy_iscsi::serial::{Cid, CmdSn, Isid, StatSn, TaskTag, Tsih};
use understudy_iscsi::text::{KeyList, parse_number};
use understudy_iscsi::{Digests, FrameDecoder, InitiatorPdu, Outgoing, TargetPdu};
use understudy_session::Micros;
use understudy_session::secret::Secret;
use understudy_session::target::access::{Access, AccessList, Credentials, Grant, Identity, Scope};
use understudy_session::target::{Chance, Event, Setup, TargetConnection};

use crate::choices::{Choices, Script};

const SECRET: &[u8] = b"the initiator's secret";
const OWN_SECRET: &[u8] = b"the target's own secret";

/// Requests on one connection, and connections.
const MOST_REQUESTS: usize = 24;
const MOST_CONNECTIONS: usize = 4;

/// Keys with values. What stands here for a value is made when it is sent.
const WORDS: &[(&str, &str)] = &[
    ("InitiatorName", "iqn.2026-01.test:c"),
    ("TargetName", "iqn.2026-01.test:t"),
    ("AuthMethod", "CHAP,None"),
    ("CHAP_A", "8,7,6,5"),
    ("CHAP_N", "user"),
    ("CHAP_R", RIGHT),
    ("CHAP_I", "7"),
    ("CHAP_C", "0x000102030405060708090a0b0c0d0e0f"),
    ("CHAP_C", REFLECTED),
    ("CHAP_R", WRONG),
    ("CHAP_A", "5"),
    ("CHAP_A", "6,99"),
    ("CHAP_N", "target"),
    ("CHAP_R", "0b////////////////////////"),
    ("CHAP_I", "256"),
    ("CHAP_C", "0b"),
    ("AuthMethod", "None"),
    ("SessionType", "Discovery"),
    ("InitiatorName", "iqn.2026-01.test:other"),
    ("MaxRecvDataSegmentLength", "4096"),
];
const RIGHT: &str = "right";
const WRONG: &str = "wrong";
const REFLECTED: &str = "reflected";

/// The challenge that is out on a connection.
struct Out {
    algorithm: ChapAlgorithm,
    identifier: u8,
    challenge: Vec<u8>,
}

/// Plays the script.
pub fn run(bytes: &[u8]) {
    let mut choices = Choices::new(bytes);
    for _ in 0..MOST_CONNECTIONS {
        // How far it came is nothing to judge.
        let _ = connect(&mut choices);
        if choices.is_over() {
            break;
        }
    }
}

fn access() -> Access {
    let identity = |user: &str, secret| Identity { user: user.to_owned(), secret: Secret::new(secret).expect("long enough") };
    let credentials = Credentials { initiator: identity("user", SECRET), target: Some(identity("target", OWN_SECRET)) };
    let grant = Grant { scope: Scope::EveryTarget, credentials: Some(credentials) };
    Access::Listed(AccessList::new([("iqn.2026-01.test:c".to_owned(), grant)], ChapAlgorithm::ALL.to_vec()))
}

/// How far a connection came.
#[derive(Debug, Default)]
struct Gone {
    admitted: bool,
    proved_itself: bool,
}

fn connect(choices: &mut Choices<'_>) -> Gone {
    let mut gone = Gone::default();
    let chance = Chance { identifier: choices.byte(), challenge: choices.exactly() };
    let setup = Setup { access: Arc::new(access()), chance: Some(chance), ..Setup::default() };
    let mut machine = TargetConnection::new(setup, Micros(0));
    let (mut out, mut proved) = (None, false);
    for _ in 0..MOST_REQUESTS {
        let text = compose(choices, out.as_ref());
        if let (Some(out), Ok(keys)) = (&out, KeyList::parse(&text)) {
            proved |= is_proof(out, &keys);
        }
        let flags = choices.byte();
        send(&mut machine, request(flags, text.clone()));
        while let Some(event) = machine.poll_event() {
            let Event::LoginAsked(asked) = event else { panic!("nothing but a login: {event:?}") };
            assert!(proved, "let in without a proof");
            assert_eq!(asked.initiator, "iqn.2026-01.test:c");
            machine.admit(Micros(0), Tsih(1));
            gone.admitted = true;
        }
        let answers = answers(&mut machine);
        judge(&answers, &text, out.as_ref(), proved);
        out = challenge_of(&answers).or(out);
        gone.proved_itself |= answers.get("CHAP_R").is_some();
        if gone.admitted || machine.end().is_some() || choices.is_over() {
            break;
        }
    }
    gone
}

/// Keys that the fuzzer chose; behind them any bytes, if it wants.
fn compose(choices: &mut Choices<'_>, out: Option<&Out>) -> Bytes {
    let mut text = Vec::new();
    for _ in 0..choices.below(8) {
        let (key, value) = choices.pick(WORDS);
        let value = match (*value, out) {
            (RIGHT, Some(out)) => encode_binary(&right(out)),
            (WRONG, Some(out)) => encode_binary(&out.algorithm.answer(out.identifier, OWN_SECRET, &out.challenge)),
            (REFLECTED, Some(out)) => encode_binary(&out.challenge),
            (other, _) => other.to_owned(),
        };
        text.extend_from_slice(format!("{key}={value}\0").as_bytes());
    }
    if choices.byte() == 255 {
        text.extend_from_slice(choices.chunk());
    }
    text.truncate(8192);
    Bytes::from(text)
}

fn right(out: &Out) -> Vec<u8> {
    out.algorithm.answer(out.identifier, SECRET, &out.challenge)
}

fn is_proof(out: &Out, keys: &KeyList) -> bool {
    let answer = keys.get("CHAP_R").and_then(|value| parse_binary(value, 1024));
    keys.get("CHAP_N") == Some("user") && answer == Some(right(out))
}

fn request(flags: u8, text: Bytes) -> LoginRequest {
    let (stage, next_stage) = match flags & 0x0c {
        0x00 => (Stage::Security, Stage::Operational),
        0x04 => (Stage::Security, Stage::FullFeature),
        0x08 => (Stage::Operational, Stage::FullFeature),
        _same => (Stage::Security, Stage::Security),
    };
    LoginRequest {
        transit: flags & 1 != 0,
        more_text: flags & 0x12 == 0x12,
        stage,
        next_stage,
        version_max: 0,
        version_min: 0,
        isid: Isid([0x80, 0, 0, 0, 0, 1]),
        tsih: Tsih(0),
        tag: TaskTag(0),
        cid: Cid(0),
        cmd_sn: CmdSn(1),
        exp_stat_sn: StatSn(0),
        text,
    }
}

fn send(machine: &mut TargetConnection, request: LoginRequest) {
    let mut out = Outgoing::new();
    out.push(InitiatorPdu::LoginRequest(request).into_frame(), Digests::default());
    let length = out.len();
    let mut wire = BytesMut::from(&out.copy_to_bytes(length)[..]);
    machine.handle_input(&mut wire);
}

/// What the target said, all keys of all responses.
fn answers(machine: &mut TargetConnection) -> KeyList {
    let out = machine.outgoing();
    let length = out.len();
    let mut sent = BytesMut::from(&out.copy_to_bytes(length)[..]);
    for secret in [SECRET, OWN_SECRET] {
        assert!(!sent.windows(secret.len()).any(|window| window == secret), "a secret was sent");
    }
    let mut text = Vec::new();
    let mut decoder = FrameDecoder::new(1 << 24);
    while let Some(frame) = decoder.next(&mut sent).expect("a sound stream") {
        let Ok(TargetPdu::LoginResponse(response)) = TargetPdu::decode(frame) else { panic!("no login response") };
        assert!(response.status == LoginStatus::SUCCESS || response.text.is_empty());
        text.extend_from_slice(&response.text);
    }
    KeyList::parse(&text).expect("our own text")
}

fn judge(answers: &KeyList, asked: &[u8], out: Option<&Out>, proved: bool) {
    let Some(answer) = answers.get("CHAP_R") else { return };
    assert!(proved, "it proved itself to one who did not");
    let out = out.expect("a challenge was answered before");
    let asked = KeyList::parse(asked).unwrap_or_default();
    // In pieces, with the C bit, the question is not in the last text alone.
    let (Some(identifier), Some(challenge)) = (asked.get("CHAP_I"), asked.get("CHAP_C")) else { return };
    let (Some(identifier), Some(challenge)) = (parse_number(identifier), parse_binary(challenge, 1024)) else { return };
    assert_ne!(challenge, out.challenge, "its own challenge was answered");
    let expected = out.algorithm.answer(identifier as u8, OWN_SECRET, &challenge);
    assert_eq!(parse_binary(answer, 64), Some(expected));
}

fn challenge_of(answers: &KeyList) -> Option<Out> {
    let algorithm = ChapAlgorithm::from_number(parse_number(answers.get("CHAP_A")?)?)?;
    let identifier = answers.get("CHAP_I")?.parse().expect("a number up to 255");
    let challenge = parse_binary(answers.get("CHAP_C")?, 64).expect("our own value");
    assert_eq!(challenge.len(), algorithm.answer_bytes());
    Some(Out { algorithm, identifier, challenge })
}

/// Decisions for one request with the words of these places, and these flags.
fn said(words: &[u8], flags: u8) -> Vec<u8> {
    Script::new().bytes(&[words.len() as u8]).bytes(words).bytes(&[0, flags]).done()
}

/// Logins one way and mutual, with each kind of wrong answer, and one that tries to pass by.
#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    let chance = [0x5a; 33];
    let names = said(&[0, 1, 2], 0);
    let login = |algorithms: u8, proof: &[u8]| {
        let script = Script::new().bytes(&chance).bytes(&names).bytes(&said(&[algorithms], 0));
        script.bytes(&said(proof, 0x01)).bytes(&said(&[19], 0x09)).done()
    };
    vec![
        login(3, &[4, 5]),
        login(10, &[4, 5, 6, 7]),
        login(11, &[4, 9]),
        login(3, &[4, 5, 6, 8]),
        login(3, &[12, 5, 14, 15]),
        Script::new().bytes(&chance).bytes(&said(&[0, 1, 16], 0x09)).bytes(&said(&[], 0x05)).done(),
        // A login, and on a second connection what was heard on the first.
        [login(3, &[4, 5]), login(3, &[4, 5, 6, 7])].concat(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is never reached is never tested: the first seeds are logins that succeed.
    #[test]
    fn seeds_of_good_logins_get_through() {
        for (seed, mutual) in seeds()[..2].iter().zip([false, true]) {
            let gone = connect(&mut Choices::new(seed));
            assert!(gone.admitted && gone.proved_itself == mutual, "{gone:?}");
        }
    }
}
