//! What an initiator says to the texts of a target, and whether it goes on.

use super::*;
use crate::credentials::ALGORITHMS;
use crate::secret::Secret;

const SECRET: &[u8] = b"a secret of the initiator";
const TARGET_SECRET: &[u8] = b"a secret of the target";
const CHANCE: Chance = Chance { identifier: 5, challenge: [0xa1; 32] };

fn identity(user: &str, secret: &[u8]) -> Identity {
    Identity { user: user.to_owned(), secret: Secret::new(secret).expect("long enough") }
}

fn one_way() -> Security {
    let credentials = Credentials { initiator: identity("pair", SECRET), target: None };
    Security::new(Some(Proof { credentials, algorithms: ALGORITHMS.to_vec() }), Some(CHANCE))
}

fn mutual() -> Security {
    let credentials =
        Credentials { initiator: identity("pair", SECRET), target: Some(identity("shelf", TARGET_SECRET)) };
    Security::new(Some(Proof { credentials, algorithms: ALGORITHMS.to_vec() }), Some(CHANCE))
}

/// What it says to `text`, with `;` for the separators.
fn say(security: &mut Security, text: &str) -> Result<String, Unproved> {
    let keys = KeyList::parse(text.replace(';', "\0").as_bytes()).expect("keys");
    let answers = security.take(&keys)?;
    Ok(answers.into_iter().map(|(key, value)| format!("{key}={value};")).collect())
}

fn challenged(security: &mut Security) -> Result<String, Unproved> {
    say(security, "AuthMethod=CHAP;")?;
    say(security, "CHAP_A=7;CHAP_I=9;CHAP_C=0x0102030405060708;")
}

fn response() -> String {
    encode_binary(&ChapAlgorithm::Sha256.answer(9, SECRET, &[1, 2, 3, 4, 5, 6, 7, 8]))
}

fn proof_of_target(secret: &[u8]) -> String {
    encode_binary(&ChapAlgorithm::Sha256.answer(5, secret, &[0xa1; 32]))
}

#[test]
fn it_proves_itself_where_it_is_asked_to_and_goes_on_where_it_is_not() {
    let mut security = one_way();
    assert_eq!(security.offer(), "CHAP,None");
    assert_eq!(say(&mut security, "AuthMethod=CHAP;").as_deref(), Ok("CHAP_A=8,7,6;"));
    assert!(!security.is_ready(), "it is in the midst of proving itself");
    let said = say(&mut security, "CHAP_A=7;CHAP_I=9;CHAP_C=0x0102030405060708;");
    assert_eq!(said, Ok(format!("CHAP_N=pair;CHAP_R={};", response())));
    assert!(security.is_ready());
    assert_eq!(security.pass(), Ok(()));

    let mut security = one_way();
    assert_eq!(say(&mut security, "AuthMethod=None;").as_deref(), Ok(""));
    assert_eq!(security.pass(), Ok(()));
    assert_eq!(one_way().pass(), Ok(()), "a target that says nothing of a method wants none");
}

#[test]
fn who_has_nothing_to_prove_says_so_and_is_told_where_that_does_not_do() {
    let mut security = Security::new(None, None);
    assert_eq!(security.offer(), "None");
    assert_eq!(say(&mut security, "AuthMethod=None;").as_deref(), Ok(""));
    assert_eq!(say(&mut Security::new(None, None), "AuthMethod=CHAP;"), Err(Unproved::NoSecret));
    assert_eq!(say(&mut Security::new(None, None), "AuthMethod=Reject;").as_deref(), Ok(""));
}

/// RFC 7143 §12.1.3: the initiator decides whether the target has to prove itself.
#[test]
fn a_target_that_has_to_prove_itself_is_believed_nothing_before() {
    let mut security = mutual();
    assert_eq!(security.offer(), "CHAP", "there is no way round");
    assert_eq!(security.pass(), Err(Unproved::Refused));
    let said = challenged(&mut security);
    let own = format!("CHAP_I=5;CHAP_C=0x{};", "a1".repeat(32));
    assert_eq!(said, Ok(format!("CHAP_N=pair;CHAP_R={};{own}", response())));
    assert_eq!(security.pass(), Err(Unproved::Refused), "it was let in, but by whom?");
    let good = format!("CHAP_N=shelf;CHAP_R={};", proof_of_target(TARGET_SECRET));
    assert_eq!(say(&mut security, &good).as_deref(), Ok(""));
    assert_eq!(security.pass(), Ok(()));
    assert!(say(&mut security, &good).is_err(), "once");
}

#[test]
fn a_target_that_proves_something_else_is_refused() {
    let right = proof_of_target(TARGET_SECRET);
    for (text, expected) in [
        (format!("CHAP_N=shelf;CHAP_R={};", proof_of_target(b"another one of the target")), Unproved::WrongSecret),
        (format!("CHAP_N=shelf;CHAP_R={};", proof_of_target(SECRET)), Unproved::WrongSecret),
        // The initiator's own answer to the target's challenge, sent back.
        (format!("CHAP_N=shelf;CHAP_R={};", response()), Unproved::WrongSecret),
        ("CHAP_N=shelf;CHAP_R=0x00;".to_owned(), Unproved::WrongSecret),
        (format!("CHAP_N=other;CHAP_R={right};"), Unproved::WrongUser),
    ] {
        let mut security = mutual();
        challenged(&mut security).expect("a good challenge");
        assert_eq!(say(&mut security, &text), Err(expected), "{text}");
    }
    for text in ["AuthMethod=None;", "AuthMethod=Reject;"] {
        assert_eq!(say(&mut mutual(), text), Err(Unproved::Refused), "{text}");
    }
    for text in
        ["CHAP_N=shelf;", "CHAP_N=shelf;CHAP_R=zero;", "CHAP_N=shelf;CHAP_R=0x;", "CHAP_N=shelf;CHAP_R=0x00;CHAP_A=7;"]
    {
        let mut security = mutual();
        challenged(&mut security).expect("a good challenge");
        assert!(matches!(say(&mut security, text), Err(Unproved::Malformed(_))), "{text}");
    }
}

#[test]
fn an_exchange_out_of_order_or_out_of_form_ends_the_login() {
    for text in
        ["CHAP_A=7;CHAP_I=9;CHAP_C=0x01;", "AuthMethod=CHAP;CHAP_A=7;", "AuthMethod=SRP;", "AuthMethod=CHAP,None;"]
    {
        assert!(matches!(say(&mut one_way(), text), Err(Unproved::Malformed(_))), "{text}");
    }
    for text in [
        "AuthMethod=CHAP;",
        "CHAP_A=7;CHAP_I=9;",
        "CHAP_A=7;CHAP_I=256;CHAP_C=0x01;",
        "CHAP_A=7;CHAP_I=9;CHAP_C=0x;",
        "CHAP_A=7;CHAP_I=9;CHAP_C=one;",
        "CHAP_A=7;CHAP_I=9;CHAP_C=0x01;CHAP_N=x;",
    ] {
        let mut security = one_way();
        say(&mut security, "AuthMethod=CHAP;").expect("agreed");
        assert!(matches!(say(&mut security, text), Err(Unproved::Malformed(_))), "{text}");
    }
    let mut security = one_way();
    say(&mut security, "AuthMethod=CHAP;").expect("agreed");
    assert_eq!(say(&mut security, "CHAP_A=5;CHAP_I=9;CHAP_C=0x01;"), Err(Unproved::Algorithm), "MD5 was not offered");
    let mut security = one_way();
    say(&mut security, "AuthMethod=CHAP;").expect("agreed");
    assert!(matches!(security.pass(), Err(Unproved::Malformed(_))), "it asked and did not wait for the answer");
}

#[test]
fn without_random_numbers_no_target_proves_itself() {
    let mut security = mutual();
    security.chance = None;
    assert_eq!(challenged(&mut security), Err(Unproved::NoChance));
}

#[test]
fn nothing_secret_is_shown() {
    let mut security = mutual();
    challenged(&mut security).expect("a good challenge");
    let shown = format!("{security:?}");
    assert!(!shown.contains("a secret of"), "{shown}");
}
