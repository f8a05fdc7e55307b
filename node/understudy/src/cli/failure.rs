//! What a command says when it did not do what it was asked, and the exit status that goes with it.

use std::process::ExitCode;

use crate::admin::{ClientError, Response, Veto, VetoWeight};
use crate::config::ConfigError;
use crate::timeline::Style;

/// Why a command ends without having done its work. The numbers of [`Failure::status`] are part of `--help`.
#[derive(Debug)]
pub enum Failure {
    /// It could not be done.
    Failed {
        /// What happened.
        reason: String,
        /// What the operator can do.
        advice: String,
    },
    /// The pair's file is wrong or missing.
    Config(ConfigError),
    /// No node answers.
    NoNode {
        /// What happened.
        reason: String,
        /// What the operator can do.
        advice: String,
    },
    /// The node will not.
    Refused {
        /// Why.
        reason: String,
        /// The vetoes, if any.
        vetoes: Vec<Veto>,
        /// What the operator can do.
        advice: String,
    },
}

impl Failure {
    /// A failure with advice.
    pub fn new(reason: impl Into<String>, advice: impl Into<String>) -> Self {
        Self::Failed { reason: reason.into(), advice: advice.into() }
    }

    /// The exit status.
    #[must_use]
    pub fn status(&self) -> u8 {
        match self {
            Self::Failed { .. } => 1,
            Self::Config(_) => 3,
            Self::NoNode { .. } => 4,
            Self::Refused { .. } => 5,
        }
    }

    /// The text for the operator, ending in a newline.
    #[must_use]
    pub fn render(&self, style: Style) -> String {
        let title = |text: &str| format!("{} {text}\n", style.bad("understudy:"));
        match self {
            Self::Config(error) => error.render(super::look()),
            Self::Failed { reason, advice } | Self::NoNode { reason, advice } => title(reason) + &indented(advice),
            Self::Refused { reason, vetoes, advice } => title(reason) + &list(vetoes) + &indented(advice),
        }
    }

    /// Prints the text on standard error and gives the exit status.
    #[must_use]
    pub fn report(&self) -> ExitCode {
        eprint!("{}", self.render(Style::of_stderr()));
        ExitCode::from(self.status())
    }

    /// What an answer other than the hoped-for one means.
    #[must_use]
    pub fn from_answer(answer: Response) -> Self {
        match answer {
            Response::Refused { reason, vetoes, advice } => Self::Refused { reason, vetoes, advice },
            Response::Failed { reason, advice } => Self::Failed { reason, advice },
            Response::Status { .. }
            | Response::Done { .. }
            | Response::DoneInPart { .. }
            | Response::GivebackForecast { .. }
            | Response::TakeoverForecast { .. }
            | Response::Volumes { .. }
            | Response::Timeline { .. }
            | Response::Event { .. } => Self::new(
                "the node gave an answer that does not belong to the question",
                "use the same release on both sides",
            ),
        }
    }
}

/// The vetoes one below the other.
#[must_use]
pub(super) fn list(vetoes: &[Veto]) -> String {
    let line = |veto: &Veto| {
        let weight = match veto.weight {
            VetoWeight::Soft => "soft veto, can be overridden",
            VetoWeight::Hard => "hard veto",
        };
        let remedy = if veto.remedy.is_empty() { String::new() } else { format!("    {}\n", veto.remedy) };
        format!("  - {} ({weight})\n{remedy}", veto.reason)
    };
    vetoes.iter().map(line).collect()
}

fn indented(advice: &str) -> String {
    if advice.is_empty() { String::new() } else { format!("  {advice}\n") }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Self::Config(error)
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        let reason = error.to_string();
        match error {
            ClientError::NoNode { .. } => {
                let advice = "start it with `understudy node a` (or `b`); status and timeline work while one node runs";
                Self::NoNode { reason, advice: advice.to_owned() }
            }
            ClientError::NoAnswer { .. } => {
                let advice = "it is ending, starting again, or waiting for its disks; `understudy status` tells which";
                Self::NoNode { reason, advice: advice.to_owned() }
            }
            ClientError::Foreign { .. } => Self::new(reason, "use the same release on both sides"),
        }
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::new(format!("{error:#}"), "")
    }
}
