//! The security stage of a login: `AuthMethod`, and CHAP in one direction or both (RFC 7143 §12.1, RFC 1994).
//!
//! Not here: who may log in ([`super::access`]) and the operational keys. The one idea: a login that has to prove something
//! passes four states in order, and every text moves it on, is refused, or says nothing and leaves it where it is.
//!
//! ```text
//! initiator                                   state before
//! AuthMethod=CHAP,None                        Unasked
//!                AuthMethod=CHAP
//! CHAP_A=8,7,6,5                              Chosen
//!                CHAP_A=8 CHAP_I CHAP_C
//! CHAP_N CHAP_R [CHAP_I CHAP_C]               Challenged
//!                [CHAP_N CHAP_R]              Proved
//! ```
//!
//! What is defended against: a guess or a replay (the challenge is new for each login and comes from outside, where
//! there is chance), a challenge sent back to be answered here (refused; and this end proves itself only after the initiator did, with
//! a secret that differs from the initiator's), an answer compared byte by byte. What is not: somebody in the middle who lets a login pass and
//! takes the connection over afterwards. CHAP protects no more than the login; RFC 7143 §9 names IPsec for the rest.

use std::sync::Arc;

use understudy_iscsi::binary::{encode_binary, parse_binary};
use understudy_iscsi::chap::{BINARY_LIMIT, ChapAlgorithm};
use understudy_iscsi::text::{KeyList, parse_number};

use super::access::{Access, Credentials, Identity, Reason, Refusal};
use crate::credentials::{Chance, is_security_key};

/// Most algorithms of an initiator's list that are looked at; there are four.
const ALGORITHMS_LIMIT: usize = 32;

/// How far a login has come.
#[derive(Debug)]
enum State {
    /// No method was agreed on.
    Unasked,
    /// `AuthMethod=None`.
    Waived,
    /// `AuthMethod=CHAP`; the algorithm is next.
    Chosen,
    /// The answer is next.
    Challenged { algorithm: ChapAlgorithm, identifier: u8, challenge: Vec<u8> },
    /// The initiator is who it says.
    Proved,
}

/// What goes back: keys with their values.
pub(crate) type Answers = Vec<(&'static str, String)>;

/// The security stage of one login.
#[derive(Debug)]
pub(crate) struct Security {
    access: Arc<Access>,
    chance: Option<Chance>,
    state: State,
}

impl Security {
    pub(crate) fn new(access: Arc<Access>, chance: Option<Chance>) -> Self {
        Self { access, chance, state: State::Unasked }
    }

    /// Whether this initiator may go on to the next stage now.
    ///
    /// # Errors
    /// It may not log in at all.
    pub(crate) fn lets_pass(&self, initiator: &str) -> Result<bool, Refusal> {
        let nothing_to_prove = self.access.credentials(initiator)?.is_none();
        Ok(nothing_to_prove || matches!(self.state, State::Proved))
    }

    /// An initiator wants to go on that may not: refused unless it is in the midst of proving itself.
    pub(crate) fn hold_back(&self, initiator: &str) -> Result<(), Refusal> {
        match self.state {
            State::Unasked | State::Waived => Err(Refusal::of(initiator, Reason::NoProof)),
            State::Chosen | State::Challenged { .. } | State::Proved => Ok(()),
        }
    }

    /// Whether this initiator, let in, may use this target.
    ///
    /// # Errors
    /// It may not.
    pub(crate) fn check_target(&self, initiator: &str, target: &str) -> Result<(), Refusal> {
        if self.access.may_use(initiator, target) {
            return Ok(());
        }
        Err(Refusal::of(initiator, Reason::TargetNotAllowed(target.to_owned())))
    }

    /// Takes the security keys of one text.
    ///
    /// # Errors
    /// Why the login ends.
    pub(crate) fn step(&mut self, initiator: &str, keys: &KeyList) -> Result<Answers, Refusal> {
        if !keys.iter().any(|(key, _)| is_security_key(key)) {
            return Ok(Vec::new());
        }
        let access = Arc::clone(&self.access);
        let credentials = access.credentials(initiator)?;
        self.moved_on(&access, credentials, keys).map_err(|reason| Refusal::of(initiator, reason))
    }

    fn moved_on(
        &mut self,
        access: &Access,
        credentials: Option<&Credentials>,
        keys: &KeyList,
    ) -> Result<Answers, Reason> {
        let state = std::mem::replace(&mut self.state, State::Unasked);
        let (state, answers) = match (state, credentials) {
            (State::Unasked, Some(_)) => choose_chap(keys)?,
            (State::Unasked, None) => choose_none(keys)?,
            (State::Chosen, Some(_)) => challenge(access, self.chance.take(), keys)?,
            (State::Challenged { algorithm, identifier, challenge }, Some(credentials)) => {
                let challenge = Challenge { algorithm, identifier, bytes: &challenge };
                (State::Proved, challenge.judge(credentials, keys)?)
            }
            (State::Waived | State::Chosen | State::Challenged { .. } | State::Proved, _) => {
                return Err(Reason::Malformed("a key of a step that is over"));
            }
        };
        self.state = state;
        Ok(answers)
    }
}

/// The value of `key`, the only security key that may be there.
fn only<'k>(keys: &'k KeyList, key: &str) -> Result<&'k str, Reason> {
    let mut security = keys.iter().filter(|(key, _)| is_security_key(key));
    match (security.next(), security.next()) {
        (Some((found, value)), None) if found == key => Ok(value),
        _other => Err(Reason::Malformed("a key that does not belong to this step")),
    }
}

fn offers(value: &str, method: &str) -> bool {
    value.split(',').any(|offered| offered == method)
}

fn choose_chap(keys: &KeyList) -> Result<(State, Answers), Reason> {
    if !offers(only(keys, "AuthMethod")?, "CHAP") {
        return Err(Reason::NoProof);
    }
    Ok((State::Chosen, vec![("AuthMethod", "CHAP".to_owned())]))
}

fn choose_none(keys: &KeyList) -> Result<(State, Answers), Reason> {
    if !offers(only(keys, "AuthMethod")?, "None") {
        return Err(Reason::NothingToProve);
    }
    Ok((State::Waived, vec![("AuthMethod", "None".to_owned())]))
}

/// The initiator's order counts, as in every list (RFC 7143 §6.2.1).
fn challenge(access: &Access, chance: Option<Chance>, keys: &KeyList) -> Result<(State, Answers), Reason> {
    let numbers = only(keys, "CHAP_A")?.split(',').take(ALGORITHMS_LIMIT);
    let offered: Vec<_> = numbers.filter_map(|number| ChapAlgorithm::from_number(parse_number(number)?)).collect();
    let allowed = match access {
        Access::Everyone => &[],
        Access::Listed(list) => list.algorithms(),
    };
    let Some(algorithm) = offered.iter().copied().find(|algorithm| allowed.contains(algorithm)) else {
        return Err(Reason::NoAlgorithm { offered, allowed: allowed.to_vec() });
    };
    let Chance { identifier, challenge } = chance.ok_or(Reason::NoChance)?;
    let challenge = challenge[..algorithm.answer_bytes()].to_vec();
    let answers = vec![
        ("CHAP_A", algorithm.number().to_string()),
        ("CHAP_I", identifier.to_string()),
        ("CHAP_C", encode_binary(&challenge)),
    ];
    Ok((State::Challenged { algorithm, identifier, challenge }, answers))
}

/// What the initiator was asked.
#[derive(Clone, Copy)]
struct Challenge<'c> {
    algorithm: ChapAlgorithm,
    identifier: u8,
    bytes: &'c [u8],
}

impl Challenge<'_> {
    /// Judges the initiator's answer, and answers its own challenge if it has one.
    fn judge(self, credentials: &Credentials, keys: &KeyList) -> Result<Answers, Reason> {
        if keys.get("AuthMethod").or(keys.get("CHAP_A")).is_some() {
            return Err(Reason::Malformed("a key that does not belong to this step"));
        }
        let (Some(user), Some(answer)) = (keys.get("CHAP_N"), keys.get("CHAP_R")) else {
            return Err(Reason::Malformed("CHAP_N or CHAP_R is missing"));
        };
        let answer = parse_binary(answer, BINARY_LIMIT).ok_or(Reason::Malformed("CHAP_R is no binary value"))?;
        let back = challenge_back(keys)?;
        if back.as_ref().is_some_and(|(_, bytes)| bytes == self.bytes) {
            return Err(Reason::Reflected);
        }
        let Identity { user: expected, secret } = &credentials.initiator;
        // Computed for a wrong user too, so that the time taken tells nothing.
        let right = self.algorithm.is_answer(&answer, self.identifier, secret.bytes(), self.bytes);
        if user != expected {
            return Err(Reason::WrongUser);
        }
        if !right {
            return Err(Reason::WrongSecret);
        }
        match back {
            None => Ok(Vec::new()),
            Some((identifier, bytes)) => {
                let own = credentials.target.as_ref().ok_or(Reason::NoOwnProof)?;
                let answer = self.algorithm.answer(identifier, own.secret.bytes(), &bytes);
                Ok(vec![("CHAP_N", own.user.clone()), ("CHAP_R", encode_binary(&answer))])
            }
        }
    }
}

/// The initiator's own challenge, if it has one.
fn challenge_back(keys: &KeyList) -> Result<Option<(u8, Vec<u8>)>, Reason> {
    match (keys.get("CHAP_I"), keys.get("CHAP_C")) {
        (None, None) => Ok(None),
        (Some(identifier), Some(challenge)) => {
            let identifier = parse_number(identifier).and_then(|number| u8::try_from(number).ok());
            let identifier = identifier.ok_or(Reason::Malformed("CHAP_I is no number up to 255"))?;
            let bytes = parse_binary(challenge, BINARY_LIMIT);
            Ok(Some((identifier, bytes.ok_or(Reason::Malformed("CHAP_C is no binary value"))?)))
        }
        (Some(_), None) | (None, Some(_)) => Err(Reason::Malformed("CHAP_I or CHAP_C is missing")),
    }
}

#[cfg(test)]
mod tests;
