//! Logins with an access list, text by text: what goes back, or why it ends.

use bytes::Bytes;
use understudy_iscsi::login::Stage;
use understudy_iscsi::request::LoginRequest;
use understudy_iscsi::response::Window;
use understudy_iscsi::serial::{Cid, CmdSn, Isid, StatSn, TaskTag, Tsih};

use super::*;
use crate::secret::Secret;
use crate::target::access::{ALGORITHMS, AccessList, Grant, Scope};
use crate::target::login::{Login, Refused, Step};
use crate::target::parameters::Offer;

const SECRET: &[u8] = b"a secret of the initiator";
const OWN_SECRET: &[u8] = b"a secret of the target";
const NAMES: &str = "InitiatorName=iqn.2026-01.test:web;TargetName=iqn.2026-01.test:disk;";
const CHANCE: Chance = Chance { identifier: 77, challenge: [0xc4; 32] };

fn identity(user: &str, secret: &[u8]) -> Identity {
    Identity { user: user.to_owned(), secret: Secret::new(secret).expect("long enough") }
}

/// Three initiators: `web` proves itself (and this end to it), `lone` proves itself, `old` is believed; `old` uses one target only.
fn list(algorithms: &[ChapAlgorithm]) -> Access {
    let web = Credentials { initiator: identity("web-user", SECRET), target: Some(identity("office", OWN_SECRET)) };
    let lone = Credentials { initiator: identity("lone-user", SECRET), target: None };
    let only = Scope::Only(vec!["iqn.2026-01.test:disk".to_owned()]);
    let grants = [
        ("web", Grant { scope: Scope::EveryTarget, credentials: Some(web) }),
        ("lone", Grant { scope: Scope::EveryTarget, credentials: Some(lone) }),
        ("old", Grant { scope: only, credentials: None }),
    ];
    let grants = grants.map(|(name, grant)| (format!("iqn.2026-01.test:{name}"), grant));
    Access::Listed(AccessList::new(grants, algorithms.to_vec()))
}

struct Scene(Login);

impl Scene {
    fn new() -> Self {
        Self::with(list(&ALGORITHMS), Some(CHANCE))
    }

    fn with(access: Access, chance: Option<Chance>) -> Self {
        Self(Login::new(Offer::default(), 1.into(), Security::new(Arc::new(access), chance)))
    }

    /// One in which the challenge is out.
    fn challenged(names: &str) -> Self {
        let mut scene = Self::new();
        assert_eq!(
            scene.say(&format!("{names}AuthMethod=CHAP,None;")),
            "stays: AuthMethod=CHAP;TargetPortalGroupTag=1;"
        );
        let challenge = scene.say("CHAP_A=7;");
        assert_eq!(challenge, format!("stays: CHAP_A=7;CHAP_I=77;CHAP_C=0x{};", "c4".repeat(32)));
        scene
    }

    /// A text in the security stage that does not ask to go on.
    fn say(&mut self, text: &str) -> String {
        self.request(Stage::Security, None, text)
    }

    /// A text in the security stage that asks to go on.
    fn conclude(&mut self, text: &str) -> String {
        self.request(Stage::Security, Some(Stage::Operational), text)
    }

    fn request(&mut self, stage: Stage, next: Option<Stage>, text: &str) -> String {
        let request = LoginRequest {
            transit: next.is_some(),
            more_text: false,
            stage,
            next_stage: next.unwrap_or(Stage::Security),
            version_max: 0,
            version_min: 0,
            isid: Isid([0x80, 0, 0, 0, 0, 1]),
            tsih: Tsih(0),
            tag: TaskTag(1),
            cid: Cid(1),
            cmd_sn: CmdSn(1),
            exp_stat_sn: StatSn(0),
            text: Bytes::from(text.replace(';', "\0")),
        };
        match self.0.step(&request, Window::default()) {
            Ok(Step::Respond(response)) => {
                let text = String::from_utf8_lossy(&response.text).replace('\0', ";");
                format!("{}: {text}", if response.transit { "goes on" } else { "stays" })
            }
            Ok(Step::Ask { asked, .. }) => format!("asks for {}", asked.initiator),
            Err(Refused::Broken(status)) => format!("{:02x}{:02x}", status.class, status.detail),
            Err(Refused::NotLetIn(refusal)) => {
                let status = refusal.status();
                format!("{:02x}{:02x} {refusal}", status.class, status.detail)
            }
        }
    }
}

/// The right answer of the initiator to the scene's challenge.
fn answer() -> String {
    encode_binary(&ChapAlgorithm::Sha256.answer(77, SECRET, &[0xc4; 32]))
}

fn names_of(initiator: &str) -> String {
    format!("InitiatorName=iqn.2026-01.test:{initiator};TargetName=iqn.2026-01.test:disk;")
}

#[test]
fn initiator_that_knows_its_secret_goes_on() {
    let mut scene = Scene::challenged(NAMES);
    assert_eq!(scene.conclude(&format!("CHAP_N=web-user;CHAP_R={};", answer())), "goes on: ");
    let asked = scene.request(Stage::Operational, Some(Stage::FullFeature), "InitialR2T=Yes;");
    assert_eq!(asked, "asks for iqn.2026-01.test:web");
}

#[test]
fn every_algorithm_is_agreed_to_in_the_initiators_order_if_it_is_allowed() {
    for (offered, allowed, chosen) in [
        ("5,6,7,8", &ALGORITHMS[..], "CHAP_A=6;"),
        ("8,7,6,5", &ALGORITHMS, "CHAP_A=8;"),
        ("0x7,8", &ALGORITHMS, "CHAP_A=7;"),
        ("5", &ChapAlgorithm::ALL, "CHAP_A=5;"),
        ("99,four,,6", &ALGORITHMS, "CHAP_A=6;"),
    ] {
        let mut scene = Scene::with(list(allowed), Some(CHANCE));
        scene.say(&format!("{NAMES}AuthMethod=CHAP;"));
        let answered = scene.say(&format!("CHAP_A={offered};"));
        assert!(answered.contains(chosen), "{offered}: {answered}");
        let algorithm = ChapAlgorithm::ALL.into_iter().find(|one| chosen.contains(&one.number().to_string())).unwrap();
        let challenge = &CHANCE.challenge[..algorithm.answer_bytes()];
        assert!(answered.contains(&format!("CHAP_C={};", encode_binary(challenge))), "{answered}");
        let answer = encode_binary(&algorithm.answer(77, SECRET, challenge));
        assert_eq!(scene.conclude(&format!("CHAP_N=web-user;CHAP_R={answer};")), "goes on: ");
    }
}

#[test]
fn target_proves_itself_when_it_is_asked_to() {
    let mut scene = Scene::challenged(NAMES);
    let right = answer();
    let answered =
        scene.conclude(&format!("CHAP_N=web-user;CHAP_R={right};CHAP_I=9;CHAP_C=0bAAECAwQFBgcICQoLDA0ODw==;"));
    let challenge: Vec<u8> = (0..16).collect();
    let own = encode_binary(&ChapAlgorithm::Sha256.answer(9, OWN_SECRET, &challenge));
    assert_eq!(answered, format!("goes on: CHAP_N=office;CHAP_R={own};"));
}

#[test]
fn target_proves_itself_to_nobody_who_did_not_prove_itself() {
    let mut scene = Scene::challenged(NAMES);
    let wrong = encode_binary(&[1; 32]);
    let refused = scene.conclude(&format!("CHAP_N=web-user;CHAP_R={wrong};CHAP_I=9;CHAP_C=0x0102;"));
    assert!(refused.starts_with("0201") && refused.contains("secret is not the one"), "{refused}");
    assert!(!refused.contains("CHAP_R"));
}

/// One text instead of the right answer each, the status it is refused with, and a word of the reason.
#[test]
fn bad_answers_are_refused_with_the_status_for_it() {
    let right = answer();
    for (text, status, word) in [
        (format!("CHAP_N=web-user;CHAP_R={};", encode_binary(&[0; 32])), "0201", "secret is not the one"),
        (format!("CHAP_N=web-user;CHAP_R={};", &right[..34]), "0201", "secret is not the one"),
        (format!("CHAP_N=web-user;CHAP_R={right}00;"), "0201", "secret is not the one"),
        (format!("CHAP_N=Web-User;CHAP_R={right};"), "0201", "user name is not the one"),
        (format!("CHAP_N=office;CHAP_R={right};"), "0201", "user name is not the one"),
        (format!("CHAP_N=;CHAP_R={right};"), "0201", "user name is not the one"),
        (format!("CHAP_R={right};"), "0200", "missing"),
        ("CHAP_N=web-user;".to_owned(), "0200", "missing"),
        (format!("CHAP_N=web-user;CHAP_R={};", &right[2..]), "0200", "no binary value"),
        ("CHAP_N=web-user;CHAP_R=0x;".to_owned(), "0200", "no binary value"),
        (format!("CHAP_N=web-user;CHAP_R=0x{};", "00".repeat(1025)), "0200", "no binary value"),
        (format!("CHAP_N=web-user;CHAP_R={right};CHAP_I=9;"), "0200", "missing"),
        (format!("CHAP_N=web-user;CHAP_R={right};CHAP_C=0x01;"), "0200", "missing"),
        (format!("CHAP_N=web-user;CHAP_R={right};CHAP_I=256;CHAP_C=0x01;"), "0200", "no number"),
        (format!("CHAP_N=web-user;CHAP_R={right};CHAP_I=1;CHAP_C=0x{};", "01".repeat(1025)), "0200", "no binary"),
        (format!("CHAP_N=web-user;CHAP_R={right};CHAP_A=5;"), "0200", ""),
        (format!("CHAP_N=web-user;CHAP_R={right};AuthMethod=None;"), "0200", ""),
        (format!("CHAP_N=web-user;CHAP_R={right};CHAP_R={right};"), "0200", ""),
    ] {
        let mut scene = Scene::challenged(NAMES);
        let refused = scene.conclude(&text);
        assert!(refused.starts_with(status) && refused.contains(word), "{text}: {refused}");
    }
}

#[test]
fn own_challenge_sent_back_is_not_answered() {
    let right = answer();
    let mut scene = Scene::challenged(NAMES);
    let back = "c4".repeat(32);
    let refused = scene.conclude(&format!("CHAP_N=web-user;CHAP_R={right};CHAP_I=77;CHAP_C=0x{back};"));
    assert!(refused.starts_with("0201") && refused.contains("sent back the challenge"), "{refused}");
}

#[test]
fn what_is_asked_out_of_turn_ends_the_login() {
    let right = answer();
    let mut early = Scene::new();
    assert!(early.say(&format!("{NAMES}CHAP_A=8;")).starts_with("0200"));
    let mut both = Scene::new();
    assert!(both.say(&format!("{NAMES}AuthMethod=CHAP;CHAP_A=8;")).starts_with("0200"));
    let mut unasked = Scene::new();
    unasked.say(&format!("{NAMES}AuthMethod=CHAP;"));
    assert!(unasked.say(&format!("CHAP_N=web-user;CHAP_R={right};")).starts_with("0200"));
    let mut again = Scene::challenged(NAMES);
    assert_eq!(again.say("CHAP_A=6;"), "0200");
    let mut late = Scene::challenged(NAMES);
    assert_eq!(late.say(&format!("CHAP_N=web-user;CHAP_R={right};")), "stays: ");
    assert!(late.say("CHAP_I=1;CHAP_C=0x02;").starts_with("0200"));
}

#[test]
fn nobody_leaves_the_stage_without_its_proof() {
    let mut scene = Scene::challenged(NAMES);
    assert_eq!(scene.conclude(""), "stays: ");
    assert_eq!(scene.request(Stage::Security, Some(Stage::FullFeature), ""), "stays: ");
    assert_eq!(scene.request(Stage::Operational, Some(Stage::FullFeature), ""), "0200");
    for (stage, next, text) in [
        (Stage::Security, Some(Stage::Operational), NAMES.to_owned()),
        (Stage::Security, Some(Stage::FullFeature), NAMES.to_owned()),
        (Stage::Security, Some(Stage::Operational), format!("{NAMES}AuthMethod=None;")),
        (Stage::Operational, Some(Stage::FullFeature), NAMES.to_owned()),
        (Stage::Operational, None, NAMES.to_owned()),
        (Stage::Operational, Some(Stage::FullFeature), format!("{NAMES}AuthMethod=CHAP;")),
    ] {
        let refused = Scene::new().request(stage, next, &text);
        assert!(refused.starts_with("0201") && refused.contains("does not offer CHAP"), "{stage:?} {text}: {refused}");
    }
}

#[test]
fn initiator_with_md5_alone_is_refused_with_a_reason_that_says_what_to_do() {
    let mut scene = Scene::new();
    scene.say(&format!("{NAMES}AuthMethod=CHAP;"));
    assert_eq!(
        scene.say("CHAP_A=5;"),
        "0201 initiator \"iqn.2026-01.test:web\" is refused: of CHAP's algorithms it offers only MD5, and allowed are SHA3-256, \
         SHA-256, SHA1; allow one of its own, or have it offer one of these"
    );
}

#[test]
fn mutual_chap_needs_a_secret_of_this_end() {
    let mut scene = Scene::challenged(&names_of("lone"));
    let right = answer();
    let refused = scene.conclude(&format!("CHAP_N=lone-user;CHAP_R={right};CHAP_I=9;CHAP_C=0x0102;"));
    assert!(refused.starts_with("0201") && refused.contains("mutual CHAP"), "{refused}");
}

#[test]
fn only_listed_initiators_log_in_and_only_to_their_targets() {
    let log_in = |text: &str| Scene::new().request(Stage::Operational, Some(Stage::FullFeature), text);
    assert_eq!(log_in(&names_of("old")), "asks for iqn.2026-01.test:old");
    assert_eq!(log_in(&names_of("OLD")), "asks for iqn.2026-01.test:OLD");
    let stranger = log_in(&names_of("stranger"));
    assert!(stranger.starts_with("0202") && stranger.contains("not listed"), "{stranger}");
    let other = log_in("InitiatorName=iqn.2026-01.test:old;TargetName=iqn.2026-01.test:other;");
    assert!(other.starts_with("0202") && other.contains("does not allow target"), "{other}");
    let mut insists = Scene::new();
    let refused = insists.say(&format!("{}AuthMethod=CHAP;", names_of("old")));
    assert!(refused.starts_with("0201") && refused.contains("no secret"), "{refused}");
}

#[test]
fn discovery_wants_the_same_proof() {
    let names = "InitiatorName=iqn.2026-01.test:web;SessionType=Discovery;";
    let refused = Scene::new().request(Stage::Operational, Some(Stage::FullFeature), names);
    assert!(refused.starts_with("0201"), "{refused}");
    let mut scene = Scene::new();
    assert_eq!(scene.say(&format!("{names}AuthMethod=CHAP;")), "stays: AuthMethod=CHAP;");
    scene.say("CHAP_A=7;");
    let asked =
        scene.request(Stage::Security, Some(Stage::FullFeature), &format!("CHAP_N=web-user;CHAP_R={};", answer()));
    assert_eq!(asked, "asks for iqn.2026-01.test:web");
    let stranger = "InitiatorName=iqn.2026-01.test:stranger;SessionType=Discovery;";
    assert!(Scene::new().say(stranger).starts_with("0202"));
}

#[test]
fn without_chance_nobody_is_challenged() {
    let mut scene = Scene::with(list(&ALGORITHMS), None);
    scene.say(&format!("{NAMES}AuthMethod=CHAP;"));
    assert!(scene.say("CHAP_A=8;").starts_with("0300"));
}

#[test]
fn without_a_list_everyone_logs_in_and_nobody_is_asked_for_a_proof() {
    let everyone = || Scene::with(Access::Everyone, None);
    assert_eq!(
        everyone().request(Stage::Operational, Some(Stage::FullFeature), NAMES),
        "asks for iqn.2026-01.test:web"
    );
    assert!(everyone().conclude(&format!("{NAMES}AuthMethod=CHAP,None;")).contains("AuthMethod=None"));
    assert!(everyone().say(&format!("{NAMES}AuthMethod=CHAP;")).starts_with("0201"));
    assert!(!Access::Everyone.demands_proofs() && list(&ALGORITHMS).demands_proofs());
}

#[test]
fn nothing_that_is_shown_holds_a_secret() {
    let mut scene = Scene::challenged(NAMES);
    let refused = scene.conclude("CHAP_N=a secret of the initiator;CHAP_R=0x00;");
    let shown = format!("{refused} {:?} {:?}", scene.0, list(&ALGORITHMS));
    assert!(!shown.contains("secret of") && !shown.contains(&format!("{:?}", &SECRET[..8])[1..20]), "{shown}");
}
