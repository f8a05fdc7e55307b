//! Random bytes for the challenge to a target that has to prove itself.
//!
//! Not here: what they are used for. The one idea: they are drawn anew for each connection, and only where there will be a challenge.

use understudy_session::credentials::Chance;
use understudy_session::initiator::Config;

/// For one login; `None` if nobody is challenged, or if the system has none, and then the login fails.
pub(crate) fn for_one(config: &Config) -> Option<Chance> {
    config.proof.as_ref()?.credentials.target.as_ref()?;
    let mut drawn = [0; 33];
    if let Err(error) = getrandom::fill(&mut drawn) {
        tracing::error!(%error, "no random numbers from the system");
        return None;
    }
    let [identifier, challenge @ ..] = drawn;
    Some(Chance { identifier, challenge })
}
