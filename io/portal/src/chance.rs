//! Random bytes for the challenges of logins.
//!
//! Not here: what they are used for. The one idea: they are drawn anew for each connection, and where there are none the login is
//! refused rather than challenged with something that could be guessed.

use understudy_session::target::Chance;

/// Where random bytes come from; `None` if there are none.
pub type ChanceSource = fn() -> Option<Chance>;

/// From the system, which never repeats itself.
#[must_use]
pub fn from_system() -> Option<Chance> {
    let mut drawn = [0; 33];
    if let Err(error) = getrandom::fill(&mut drawn) {
        tracing::error!(%error, "no random numbers from the system");
        return None;
    }
    let [identifier, challenge @ ..] = drawn;
    Some(Chance { identifier, challenge })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_challenge_comes_twice() {
        let drawn: Vec<_> = (0..100).map(|_| from_system().expect("the system has some").challenge).collect();
        for (place, challenge) in drawn.iter().enumerate() {
            assert!(!drawn[..place].contains(challenge));
        }
    }
}
