//! Who may log in, to what, and with which proof.
//!
//! Not here: the exchange that proves it, in the security stage of a login. The one idea: everything follows from the initiator's name;
//! a proof only shows that the name is not borrowed.

use std::collections::BTreeMap;

use understudy_iscsi::chap::ChapAlgorithm;
use understudy_iscsi::login::LoginStatus;

pub use crate::credentials::{ALGORITHMS, Credentials, Identity};

/// Who may log in.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Access {
    /// Whoever reaches the portal, under any name, to every target.
    #[default]
    Everyone,
    /// Only those listed.
    Listed(AccessList),
}

/// The initiators that may log in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccessList {
    algorithms: Vec<ChapAlgorithm>,
    grants: BTreeMap<String, Grant>,
}

/// What one initiator may do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// What it may use.
    pub scope: Scope,
    /// What it has to prove first; without it the name alone is believed.
    pub credentials: Option<Credentials>,
}

/// The targets that an initiator may use, and sees in a discovery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    /// All.
    EveryTarget,
    /// Those with these iSCSI names.
    Only(Vec<String>),
}

impl AccessList {
    /// These initiators by their iSCSI names, and the algorithms agreed to.
    #[must_use]
    pub fn new(grants: impl IntoIterator<Item = (String, Grant)>, algorithms: Vec<ChapAlgorithm>) -> Self {
        // Names are compared as the standard normalises them, which for ASCII means in lower case (RFC 7143 §4.2.7.2).
        let grants = grants.into_iter().map(|(name, grant)| (name.to_ascii_lowercase(), grant)).collect();
        Self { algorithms, grants }
    }

    pub(super) fn algorithms(&self) -> &[ChapAlgorithm] {
        &self.algorithms
    }
}

impl Access {
    /// Whether a login may need random numbers.
    #[must_use]
    pub fn demands_proofs(&self) -> bool {
        match self {
            Self::Everyone => false,
            Self::Listed(list) => list.grants.values().any(|grant| grant.credentials.is_some()),
        }
    }

    /// What this initiator has to prove; `None` if nothing.
    ///
    /// # Errors
    /// It may not log in at all.
    pub(super) fn credentials(&self, initiator: &str) -> Result<Option<&Credentials>, Refusal> {
        match self {
            Self::Everyone => Ok(None),
            Self::Listed(list) => match list.grants.get(&initiator.to_ascii_lowercase()) {
                Some(grant) => Ok(grant.credentials.as_ref()),
                None => Err(Refusal::of(initiator, Reason::Unlisted)),
            },
        }
    }

    /// Whether this initiator may use, and see, this target.
    #[must_use]
    pub fn may_use(&self, initiator: &str, target: &str) -> bool {
        match self {
            Self::Everyone => true,
            Self::Listed(list) => {
                let grant = list.grants.get(&initiator.to_ascii_lowercase());
                grant.is_some_and(|grant| match &grant.scope {
                    Scope::EveryTarget => true,
                    Scope::Only(targets) => targets.iter().any(|allowed| allowed.eq_ignore_ascii_case(target)),
                })
            }
        }
    }
}

/// An initiator was not let in: for the log of whoever set this end up, never for the initiator.
///
/// What an initiator sent is shown escaped (its length was checked before), and nothing is shown that could be a secret put into the wrong field.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("initiator {initiator:?} is refused: {reason}")]
pub struct Refusal {
    /// Its name, as it says.
    pub initiator: String,
    /// Why.
    pub reason: Reason,
}

/// Why an initiator is not let in, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// No entry has its name.
    #[error("it is not listed; list it by this name if it may log in")]
    Unlisted,
    /// Its entry does not name this target.
    #[error("its entry does not allow target {0:?}")]
    TargetNotAllowed(String),
    /// It wants no authentication.
    #[error("it does not offer CHAP, which its entry demands; give it its user name and secret")]
    NoProof,
    /// It wants an authentication that there is none for.
    #[error("it insists on authentication, for which its entry has no secret; give the entry one or turn it off there")]
    NothingToProve,
    /// It offers only algorithms that are not agreed to.
    #[error(
        "of CHAP's algorithms it offers only {}, and allowed are {}; allow one of its own, or have it offer one of these",
        names(offered),
        names(allowed)
    )]
    NoAlgorithm {
        /// Those of its own that are known.
        offered: Vec<ChapAlgorithm>,
        /// Those agreed to.
        allowed: Vec<ChapAlgorithm>,
    },
    /// It gave another user name than the entry's.
    #[error("its user name is not the one of its entry")]
    WrongUser,
    /// It does not know the secret.
    #[error("its secret is not the one of its entry")]
    WrongSecret,
    /// It wants this end to prove itself.
    #[error("it asks for mutual CHAP, for which its entry has no secret of this end; add one, or turn it off there")]
    NoOwnProof,
    /// It sent the challenge back that it was to answer.
    #[error("it sent back the challenge it was given, as one does who wants to have it answered")]
    Reflected,
    /// It broke the order or the form of the exchange.
    #[error("authentication went wrong: {0}")]
    Malformed(&'static str),
    /// There was no random number for a challenge.
    #[error("there are no random numbers to challenge it with")]
    NoChance,
}

impl Refusal {
    pub(super) fn of(initiator: &str, reason: Reason) -> Self {
        Self { initiator: initiator.to_owned(), reason }
    }

    /// How the login is answered (RFC 7143 §11.13.5).
    #[must_use]
    pub fn status(&self) -> LoginStatus {
        match self.reason {
            Reason::Unlisted | Reason::TargetNotAllowed(_) => LoginStatus::AUTHORIZATION_FAILURE,
            Reason::NoProof
            | Reason::NothingToProve
            | Reason::NoAlgorithm { .. }
            | Reason::WrongUser
            | Reason::WrongSecret
            | Reason::NoOwnProof
            | Reason::Reflected => LoginStatus::AUTHENTICATION_FAILURE,
            Reason::Malformed(_) => LoginStatus::INITIATOR_ERROR,
            Reason::NoChance => LoginStatus::TARGET_ERROR,
        }
    }
}

fn names(algorithms: &[ChapAlgorithm]) -> String {
    if algorithms.is_empty() {
        return "ones unknown here".to_owned();
    }
    let names: Vec<_> = algorithms.iter().map(|algorithm| algorithm.name()).collect();
    names.join(", ")
}
