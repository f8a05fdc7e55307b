//! The initiator's part of the security stage: it proves itself where the target asks for it, and has the target prove itself
//! where it was told to (RFC 7143 §12.1, RFC 1994).
//!
//! Not here: the login's PDUs. The one idea: who has to see a proof of the target offers nothing but CHAP and passes on
//! only from [`State::Over`]; that the target lets this end in counts for nothing.
//!
//! ```text
//! initiator                        target            state after
//! AuthMethod=CHAP[,None]                             Offered
//!                                  AuthMethod=CHAP
//! CHAP_A=8,7,6                                       Named
//!                                  CHAP_A=8 CHAP_I CHAP_C
//! CHAP_N CHAP_R [CHAP_I CHAP_C]                      Over, or Challenged
//!                                  [CHAP_N CHAP_R]   Over
//! ```
//!
//! A challenge that is sent back and forth proves nothing here, because the two directions have different secrets.

use understudy_iscsi::binary::{encode_binary, parse_binary};
use understudy_iscsi::chap::{BINARY_LIMIT, ChapAlgorithm};
use understudy_iscsi::text::{KeyList, parse_number};

use crate::credentials::{Chance, Credentials, Identity, is_security_key};

/// How to prove who this end is, and whether the target has to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proof {
    /// Names and secrets; with one of the target there is no session without its proof.
    pub credentials: Credentials,
    /// What is offered, the best first.
    pub algorithms: Vec<ChapAlgorithm>,
}

/// Why the two ends did not come to know each other, and what to do about it.
///
/// Nothing of what the target sent is shown, since a secret may have been put into the wrong field.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unproved {
    /// The target asks for a proof.
    #[error("it demands CHAP, and there is no secret for it here: give this end the user name and secret it expects")]
    NoSecret,
    /// The target takes no part in CHAP.
    #[error(
        "it does not prove who it is, which is demanded here: turn mutual CHAP on there, or leave its secret out here"
    )]
    Refused,
    /// The target does not know what it would have to.
    #[error("its secret is not the one known here: compare both, or find out who answers at its address")]
    WrongSecret,
    /// It is another one.
    #[error("its user name is not the one known here: compare both, or find out who answers at its address")]
    WrongUser,
    /// It wants an algorithm that was not offered.
    #[error("it chose an algorithm of CHAP that was not offered: allow one that both ends have")]
    Algorithm,
    /// It broke the order or the form of the exchange.
    #[error("authentication went wrong: {0}")]
    Malformed(&'static str),
    /// There was no random number for a challenge.
    #[error("there are no random numbers to challenge it with")]
    NoChance,
}

/// How far it has come.
#[derive(Debug)]
enum State {
    /// The method is next.
    Offered,
    /// `AuthMethod=CHAP`, and the algorithms are named; the challenge is next.
    Named,
    /// The target's proof is next.
    Challenged { algorithm: ChapAlgorithm, identifier: u8, challenge: Vec<u8> },
    /// Whatever there was to prove is proved.
    Over,
}

/// What goes to the target: keys with their values.
type Answers = Vec<(&'static str, String)>;

/// The security stage of one login.
#[derive(Debug)]
pub(super) struct Security {
    proof: Option<Proof>,
    chance: Option<Chance>,
    state: State,
}

impl Security {
    pub(super) fn new(proof: Option<Proof>, chance: Option<Chance>) -> Self {
        Self { proof, chance, state: State::Offered }
    }

    /// The value of `AuthMethod` to begin with.
    pub(super) fn offer(&self) -> &'static str {
        match &self.proof {
            None => "None",
            Some(_) if self.demands_proof() => "CHAP",
            Some(_) => "CHAP,None",
        }
    }

    fn demands_proof(&self) -> bool {
        self.proof.as_ref().is_some_and(|proof| proof.credentials.target.is_some())
    }

    /// Whether the next request asks to leave the stage.
    pub(super) fn is_ready(&self) -> bool {
        !matches!(self.state, State::Named)
    }

    /// The target leaves the stage.
    ///
    /// # Errors
    /// Something is still to be proved.
    pub(super) fn pass(&self) -> Result<(), Unproved> {
        match self.state {
            State::Over => Ok(()),
            // It said nothing of a method, which is as good as none (RFC 7143 §6.3).
            State::Offered if !self.demands_proof() => Ok(()),
            State::Named if !self.demands_proof() => {
                Err(Unproved::Malformed("it goes on without the proof it asked for"))
            }
            State::Offered | State::Named | State::Challenged { .. } => Err(Unproved::Refused),
        }
    }

    /// Takes the security keys of one whole text of the target's.
    ///
    /// # Errors
    /// Why there will be no session.
    pub(super) fn take(&mut self, keys: &KeyList) -> Result<Answers, Unproved> {
        if !keys.iter().any(|(key, _)| is_security_key(key)) {
            return Ok(Vec::new());
        }
        let state = std::mem::replace(&mut self.state, State::Over);
        let (state, answers) = match state {
            State::Offered => self.method(only(keys, ["AuthMethod"])?[0])?,
            State::Named => self.answer(only(keys, ["CHAP_A", "CHAP_I", "CHAP_C"])?)?,
            State::Challenged { algorithm, identifier, challenge } => {
                self.judge(only(keys, ["CHAP_N", "CHAP_R"])?, algorithm, identifier, &challenge)?;
                (State::Over, Vec::new())
            }
            State::Over => return Err(Unproved::Malformed("a key of a step that is over")),
        };
        self.state = state;
        Ok(answers)
    }

    fn method(&self, value: &str) -> Result<(State, Answers), Unproved> {
        match (&self.proof, value) {
            (None, "None" | "Reject" | "NotUnderstood" | "Irrelevant") => Ok((State::Over, Vec::new())),
            (None, _) => Err(Unproved::NoSecret),
            (Some(proof), "CHAP") => {
                let numbers: Vec<_> = proof.algorithms.iter().map(|algorithm| algorithm.number().to_string()).collect();
                Ok((State::Named, vec![("CHAP_A", numbers.join(","))]))
            }
            (Some(_), "None") if !self.demands_proof() => Ok((State::Over, Vec::new())),
            (Some(_), "None" | "Reject" | "NotUnderstood" | "Irrelevant") => Err(Unproved::Refused),
            (Some(_), _) => Err(Unproved::Malformed("it chose a method that was not offered")),
        }
    }

    /// Answers the target's challenge, and challenges it in turn where it has to prove itself.
    fn answer(&mut self, [algorithm, identifier, challenge]: [&str; 3]) -> Result<(State, Answers), Unproved> {
        let Some(Proof { credentials, algorithms }) = &self.proof else { return Err(Unproved::NoSecret) };
        let algorithm = parse_number(algorithm).and_then(ChapAlgorithm::from_number);
        let algorithm = algorithm.filter(|algorithm| algorithms.contains(algorithm)).ok_or(Unproved::Algorithm)?;
        let identifier = parse_number(identifier).and_then(|number| u8::try_from(number).ok());
        let identifier = identifier.ok_or(Unproved::Malformed("CHAP_I is no number up to 255"))?;
        let challenge = parse_binary(challenge, BINARY_LIMIT).filter(|bytes| !bytes.is_empty());
        let challenge = challenge.ok_or(Unproved::Malformed("CHAP_C is no binary value"))?;
        let Identity { user, secret } = &credentials.initiator;
        let response = algorithm.answer(identifier, secret.bytes(), &challenge);
        let mut answers = vec![("CHAP_N", user.clone()), ("CHAP_R", encode_binary(&response))];
        if credentials.target.is_none() {
            return Ok((State::Over, answers));
        }
        let Chance { identifier, challenge } = self.chance.take().ok_or(Unproved::NoChance)?;
        let challenge = challenge[..algorithm.answer_bytes()].to_vec();
        answers.push(("CHAP_I", identifier.to_string()));
        answers.push(("CHAP_C", encode_binary(&challenge)));
        Ok((State::Challenged { algorithm, identifier, challenge }, answers))
    }

    fn judge(
        &self,
        [user, response]: [&str; 2],
        algorithm: ChapAlgorithm,
        identifier: u8,
        challenge: &[u8],
    ) -> Result<(), Unproved> {
        let target = self.proof.as_ref().and_then(|proof| proof.credentials.target.as_ref());
        let expected = target.ok_or(Unproved::Malformed("a proof nobody asked for"))?;
        let response = parse_binary(response, BINARY_LIMIT).ok_or(Unproved::Malformed("CHAP_R is no binary value"))?;
        // Computed for a wrong user too, so that the time taken tells nothing.
        let right = algorithm.is_answer(&response, identifier, expected.secret.bytes(), challenge);
        match (user == expected.user, right) {
            (false, _) => Err(Unproved::WrongUser),
            (true, false) => Err(Unproved::WrongSecret),
            (true, true) => Ok(()),
        }
    }
}

/// The values of these keys, which must be there and be the only security keys.
fn only<'k, const N: usize>(keys: &'k KeyList, wanted: [&str; N]) -> Result<[&'k str; N], Unproved> {
    if keys.iter().filter(|(key, _)| is_security_key(key)).count() != N {
        return Err(Unproved::Malformed("a key is missing, or does not belong to this step"));
    }
    let mut values = [""; N];
    for (place, key) in values.iter_mut().zip(wanted) {
        *place = keys.get(key).ok_or(Unproved::Malformed("a key is missing, or does not belong to this step"))?;
    }
    Ok(values)
}

#[cfg(test)]
mod tests;
