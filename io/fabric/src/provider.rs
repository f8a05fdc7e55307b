//! Which of libfabric's providers carries the interconnect; chosen by configuration.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

/// A provider of libfabric.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Provider {
    /// Sockets: runs anywhere, emulates RDMA.
    #[default]
    Tcp,
    /// Shared memory: both nodes on one host.
    Shm,
    /// RDMA cards and Soft-RoCE.
    Verbs,
}

impl Provider {
    /// libfabric's name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Shm => "shm",
            Self::Verbs => "verbs",
        }
    }
}

impl fmt::Display for Provider {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

/// The configuration names no provider of ours.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("unknown interconnect provider \"{0}\": expected tcp, shm or verbs")]
pub struct UnknownProvider(pub String);

impl FromStr for Provider {
    type Err = UnknownProvider;

    fn from_str(name: &str) -> Result<Self, UnknownProvider> {
        match name {
            "tcp" => Ok(Self::Tcp),
            "shm" => Ok(Self::Shm),
            "verbs" => Ok(Self::Verbs),
            other => Err(UnknownProvider(other.to_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_providers_are_read_back() {
        for provider in [Provider::Tcp, Provider::Shm, Provider::Verbs] {
            assert_eq!(provider.to_string().parse(), Ok(provider));
        }
    }

    #[test]
    fn an_unknown_provider_is_refused_by_name() {
        assert_eq!("sockets".parse::<Provider>(), Err(UnknownProvider("sockets".into())));
    }
}
