//! Who may log in: the security stage of a login.
//!
//! Not here: the operational keys. The one idea: a policy answers `AuthMethod`, and says when the initiator has proved
//! enough to leave the stage. Only the open policy exists; CHAP adds a variant with its own state and keys.

use understudy_iscsi::login::LoginStatus;

use super::parameters::Answer;

/// How a target wants initiators to prove who they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Security {
    /// Not at all.
    #[default]
    Open,
}

impl Security {
    /// Answers the initiator's list of methods (RFC 7143 §12.1).
    ///
    /// # Errors
    /// The status to refuse the login with: no method in common is an authentication failure.
    pub(crate) fn choose_method(self, asked: &str) -> Result<Answer, LoginStatus> {
        match self {
            Self::Open if asked.split(',').any(|method| method == "None") => Ok(Answer::Value("None".to_owned())),
            Self::Open => Err(LoginStatus::AUTHENTICATION_FAILURE),
        }
    }

    /// Whether the initiator may go on to the next stage.
    pub(crate) fn is_satisfied(self) -> bool {
        match self {
            Self::Open => true,
        }
    }
}
