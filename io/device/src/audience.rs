//! Who sees a unit: everyone who is let in, or some initiators only.
//!
//! Not here: how an initiator proves its name. The one idea: to an initiator that does not see a unit its number has no unit,
//! so nothing that goes by numbers has to ask again.

use std::collections::BTreeSet;

/// The initiators that see a unit.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Audience {
    /// Whoever is logged in.
    #[default]
    Everyone,
    /// Those with these iSCSI names, in lower case; see [`Audience::only`].
    Only(BTreeSet<String>),
}

impl Audience {
    /// Nobody but these.
    #[must_use]
    pub fn only(names: impl IntoIterator<Item = impl AsRef<str>>) -> Self {
        // Names are compared without case (RFC 7143 §4.2.7.2).
        Self::Only(names.into_iter().map(|name| name.as_ref().to_ascii_lowercase()).collect())
    }

    /// Whether this initiator is one of them.
    #[must_use]
    pub fn includes(&self, initiator: &str) -> bool {
        match self {
            Self::Everyone => true,
            Self::Only(names) if initiator.bytes().any(|byte| byte.is_ascii_uppercase()) => {
                names.contains(&initiator.to_ascii_lowercase())
            }
            Self::Only(names) => names.contains(initiator),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_compared_without_case_and_as_a_whole() {
        let audience = Audience::only(["iqn.2026-01.test:Web"]);
        assert!(audience.includes("iqn.2026-01.test:web") && audience.includes("IQN.2026-01.test:WEB"));
        assert!(!audience.includes("iqn.2026-01.test:web1") && !audience.includes("iqn.2026-01.test:we"));
        assert!(!Audience::only([""; 0]).includes("iqn.2026-01.test:web"));
        assert!(Audience::Everyone.includes("anyone"));
    }
}
