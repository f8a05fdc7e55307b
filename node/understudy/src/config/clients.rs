//! `[access]`, `[[initiator]]` and `[limits]`: which clients are let in, and how much of a node they may take.
//!
//! Not here: how they prove who they are. The one idea: a file without an `[[initiator]]` lets everyone in, one with a single
//! one lets nobody in but those it names. What a client may not see, a report of mistakes does not show either ([`without_secrets`]).

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use understudy_iscsi::chap::ChapAlgorithm;
use understudy_portal::access::{ALGORITHMS, Access, AccessList, Credentials, Grant, Identity, Scope};
use understudy_portal::secret::Secret;
use understudy_portal::{Limits, PortalOptions};
use understudy_session::Micros;

use super::build::{Distinct, MS, iscsi_name, node_name};
use super::read::{At, Mistakes, Table, nearest};
use super::{Config, NodeName, NodeSettings};

/// `[limits]`: how much of a node its clients may take, at each of its portals.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClientLimits {
    /// Connections.
    pub connections: usize,
    /// Connections that have not logged in yet.
    pub logins: usize,
    /// Sessions of one initiator.
    pub sessions_per_initiator: usize,
    /// Commands of one session.
    pub commands: u32,
    /// Bytes of data that the commands of all sessions may hold.
    pub memory_bytes: u64,
    /// How long a login may take.
    pub login: Duration,
    /// Silence after which a client is pinged, and after which one that does not answer is given up.
    pub ping: Duration,
}

impl Config {
    /// How a node's portals behave.
    #[must_use]
    pub fn portal_options(&self) -> PortalOptions {
        let micros = |length: Duration| Micros(u64::try_from(length.as_micros()).unwrap_or(u64::MAX));
        let ClientLimits { connections, logins, sessions_per_initiator, commands, memory_bytes, login, ping } =
            self.limits;
        let limits = Limits {
            window: commands,
            login: micros(login),
            ping_after: micros(ping),
            ping_timeout: micros(ping),
            ..Limits::default()
        };
        PortalOptions {
            limits,
            access: Arc::clone(&self.access),
            connections_max: connections,
            logins_max: logins,
            sessions_per_initiator_max: sessions_per_initiator,
            memory_bytes,
            ..PortalOptions::default()
        }
    }

    /// Whether the file has secrets in it.
    #[must_use]
    pub fn has_secrets(&self) -> bool {
        self.access.demands_proofs() || !self.proofs.is_empty()
    }
}

/// Every default is the portal's, where its reason stands.
pub(super) fn limits(table: &Table<'_>) -> ClientLimits {
    let defaults = PortalOptions::default();
    let count = |key, default: usize| table.number(key, default as u64, "a whole number", 1..=65_000) as usize;
    let millis = |length: Micros| length.0 / 1_000;
    let read = ClientLimits {
        connections: count("connections", defaults.connections_max),
        logins: count("logins", defaults.logins_max),
        sessions_per_initiator: count("sessions_per_initiator", defaults.sessions_per_initiator_max),
        commands: table.number("commands", u64::from(defaults.limits.window), "a whole number", 1..=1_024) as u32,
        memory_bytes: table.number("memory_mib", defaults.memory_bytes >> 20, "a whole number of MiB", 16..=1 << 20)
            << 20,
        login: Duration::from_millis(table.number("login_ms", millis(defaults.limits.login), MS, 1_000..=600_000)),
        ping: Duration::from_millis(table.number("ping_ms", millis(defaults.limits.ping_after), MS, 1_000..=600_000)),
    };
    table.finish();
    read
}

/// The names of algorithms in the file.
const NAMES: [(&str, ChapAlgorithm); 4] = [
    ("sha3-256", ChapAlgorithm::Sha3_256),
    ("sha-256", ChapAlgorithm::Sha256),
    ("sha-1", ChapAlgorithm::Sha1),
    ("md5", ChapAlgorithm::Md5),
];

const ALGORITHMS_EXPECTED: &str = "a list of \"sha3-256\", \"sha-256\", \"sha-1\" and \"md5\"";

/// Which of CHAP's algorithms are agreed to.
pub(super) fn algorithms(table: &Table<'_>, mistakes: &Mistakes) -> Vec<ChapAlgorithm> {
    let names = table.optional_texts("algorithms", ALGORITHMS_EXPECTED);
    let Some(names) = names else { return ALGORITHMS.to_vec() };
    if names.is_empty() {
        let advice = "leave the key out to have the defaults";
        mistakes.advise(table.span(), "`algorithms` is empty", "nobody could log in", advice);
    }
    names.iter().filter_map(|name| algorithm(name, mistakes)).collect()
}

fn algorithm(name: &At<&str>, mistakes: &Mistakes) -> Option<ChapAlgorithm> {
    let found = NAMES.iter().find(|(known, _)| *known == name.value).map(|(_, algorithm)| *algorithm);
    if found.is_none() {
        let near = nearest(name.value, &NAMES.map(|(known, _)| known));
        let label = near.map_or(format!("expected {ALGORITHMS_EXPECTED}"), |near| format!("did you mean `{near}`?"));
        mistakes.note(&name.span, "there is no such algorithm of CHAP", label);
    }
    found
}

/// What one `[[initiator]]` says.
pub(super) struct ReadInitiator {
    names: Vec<String>,
    nodes: Option<Vec<NodeName>>,
    credentials: Option<Credentials>,
}

impl ReadInitiator {
    /// Its iSCSI names.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.names.iter().map(String::as_str)
    }

    /// A grant for each of its names.
    pub(super) fn grants(self, scope: Scope) -> impl Iterator<Item = (String, Grant)> {
        let grant = Grant { scope, credentials: self.credentials };
        self.names.into_iter().map(move |name| (name, grant.clone()))
    }
}

/// Keys of `[[initiator]]` and `[[shelf]]` that are no secret.
const PUBLIC_KEYS: [&str; 7] = ["algorithms", "name", "names", "target", "nodes", "user", "own_user"];

/// Whose clients are listed, with the user name it goes by unless another is given.
#[derive(Clone, Copy)]
pub(super) enum Whose<'n> {
    /// A pair's: an entry is one client.
    Pair(&'n str),
    /// A shelf's: an entry is a pair, whose nodes have names of their own and one secret.
    Shelf(&'n str),
}

pub(super) fn initiators(
    tables: &[Table<'_>],
    whose: Whose<'_>,
    secrets: &mut Secrets<'_>,
    mistakes: &Mistakes,
) -> Vec<ReadInitiator> {
    let mut names = Distinct::new(mistakes);
    tables.iter().filter_map(|table| initiator(table, whose, &mut names, secrets, mistakes)).collect()
}

fn initiator(
    table: &Table<'_>,
    whose: Whose<'_>,
    names: &mut Distinct<'_>,
    secrets: &mut Secrets<'_>,
    mistakes: &Mistakes,
) -> Option<ReadInitiator> {
    let (own_name, called, nodes) = match whose {
        Whose::Pair(own_name) => {
            let name = table.text("name", "the iSCSI name of a client, as in \"iqn.1994-05.com.redhat:web1\"");
            let expected = "a list of the nodes whose volumes it may use, as in [\"a\", \"b\"]";
            (own_name, name.into_iter().collect(), table.optional_texts("nodes", expected))
        }
        Whose::Shelf(own_name) => {
            (own_name, table.texts("names", "a list of the iSCSI names that the pair's nodes log in with"), None)
        }
    };
    let user = table.optional_text("user", "the user name of the client");
    let secret = table.optional_text("secret", "the secret of the client");
    let own_user = table.optional_text("own_user", "the user name of the pair towards this client");
    let own_secret = table.optional_text("own_secret", "the secret of the pair towards this client");
    table.finish();
    let needs = |given: &Option<At<&str>>, key: &str, other: Option<&At<&str>>, needed: &str| {
        if let (Some(given), None) = (given, other) {
            let message = format!("`{key}` in [[initiator]] needs a `{needed}`");
            mistakes.note(&given.span, message, "there is none in this entry");
        }
    };
    needs(&user, "user", secret.as_ref(), "secret");
    needs(&own_secret, "own_secret", secret.as_ref(), "secret");
    needs(&own_user, "own_user", own_secret.as_ref(), "own_secret");
    let called: Vec<At<&str>> = called;
    for name in &called {
        names.claim(name.value.to_owned(), &name.span, "an [[initiator]]", "the initiator name");
    }
    let first = called.first()?.value;
    let nodes = nodes.map(|nodes| own_nodes(&nodes, table, mistakes));
    let mut identity = |user: Option<&At<&str>>, otherwise: &str, secret: &At<&str>, use_| {
        let user = user.map_or(Some(otherwise), |user| user_name(user, mistakes))?;
        Some(Identity { user: user.to_owned(), secret: secrets.take(secret, use_)? })
    };
    let own = own_secret.map(|secret| identity(own_user.as_ref(), own_name, &secret, Use::Own));
    let theirs = secret.map(|secret| identity(user.as_ref(), first, &secret, Use::Theirs));
    let credentials = match (theirs, own) {
        (None, _) => None,
        (Some(theirs), own) => Some(Credentials { initiator: theirs?, target: own.flatten() }),
    };
    let names = called.iter().filter_map(|name| iscsi_name(name, mistakes)).collect();
    Some(ReadInitiator { names, nodes, credentials })
}

fn own_nodes(names: &[At<&str>], table: &Table<'_>, mistakes: &Mistakes) -> Vec<NodeName> {
    if names.is_empty() {
        let advice = "leave the key out to allow the volumes of both nodes";
        mistakes.advise(table.span(), "`nodes` in [[initiator]] is empty", "it could use nothing", advice);
    }
    names.iter().filter_map(|name| node_name(name, "nodes", mistakes)).collect()
}

/// As long as the shortest limit of common initiators, and without what cannot be sent in a text key.
pub(super) fn user_name<'t>(user: &At<&'t str>, mistakes: &Mistakes) -> Option<&'t str> {
    let sound = (1..=223).contains(&user.value.len()) && !user.value.contains(char::is_control);
    if !sound {
        mistakes.note(
            &user.span,
            "this user name can not be used",
            "expected 1 to 223 bytes without control characters",
        );
    }
    sound.then_some(user.value)
}

/// Which side proves itself with a secret.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Use {
    Theirs,
    Own,
}

/// Every secret of the file. None may stand twice: who knows it for one use could pretend to be the other (RFC 7143 §9.2.1).
pub(super) struct Secrets<'m> {
    known: BTreeMap<String, Use>,
    mistakes: &'m Mistakes,
}

impl<'m> Secrets<'m> {
    pub(super) fn new(mistakes: &'m Mistakes) -> Self {
        Self { known: BTreeMap::new(), mistakes }
    }

    pub(super) fn take(&mut self, text: &At<&str>, use_: Use) -> Option<Secret> {
        let secret = match Secret::new(text.value.as_bytes()) {
            Ok(secret) => secret,
            Err(error) => {
                let advice = "for one nobody guesses: openssl rand -hex 16, or -hex 8 where a client takes no more than 16 characters";
                self.mistakes.advise(&text.span, "this secret can not be used", error.to_string(), advice);
                return None;
            }
        };
        let label = match (self.known.insert(text.value.to_owned(), use_), use_) {
            (None, _) => return Some(secret),
            (Some(Use::Theirs), Use::Theirs) => "already the secret of another one, who could pretend to be this one",
            (Some(Use::Own), Use::Own) => "already used towards another one, who could pretend to be this end",
            (Some(_), _) => "the other's and one's own secrets must differ: else what one proves, the other can repeat",
        };
        self.mistakes.note(&text.span, "this secret is used twice", label);
        None
    }
}

/// Who may log in, once it is known what the nodes' targets are called.
pub(super) fn access(
    initiators: Vec<ReadInitiator>,
    algorithms: Vec<ChapAlgorithm>,
    nodes: &[NodeSettings; 2],
) -> Access {
    if initiators.is_empty() {
        return Access::Everyone;
    }
    let target = |node: &NodeName| nodes[node.index()].target.clone();
    let grants = initiators.into_iter().flat_map(|read| {
        let only = read.nodes.as_ref().map(|nodes| Scope::Only(nodes.iter().map(target).collect()));
        read.grants(only.unwrap_or(Scope::EveryTarget))
    });
    Access::Listed(AccessList::new(grants, algorithms))
}

/// The text of a file with everything starred out that may be a secret, byte for byte as long.
///
/// It has to work on a file that is no TOML, so it goes by lines: inside an `[[initiator]]` or a `[[shelf]]` only the values of keys known to be public are
/// left, and elsewhere whatever follows the word.
pub(super) fn without_secrets(text: &str) -> String {
    let mut within = false;
    let mut out = String::with_capacity(text.len());
    for line in text.split_inclusive('\n') {
        let begun = line.trim_start();
        if begun.starts_with('[') {
            let table = begun.trim_start_matches(['[', ' ', '\t']);
            within = ["initiator", "shelf"].iter().any(|name| table.starts_with(name));
        }
        let hidden =
            if within && !begun.starts_with(['[', '#']) { hidden_in_entry(line) } else { hidden_elsewhere(line) };
        let (shown, hidden) = line.split_at(hidden.start);
        out.push_str(shown);
        out.extend(hidden.bytes().map(|byte| if matches!(byte, b'\n' | b'\r') { char::from(byte) } else { '*' }));
    }
    out
}

fn hidden_in_entry(line: &str) -> Range<usize> {
    match line.split_once('=') {
        Some((key, _)) if PUBLIC_KEYS.contains(&key.trim()) => line.len()..line.len(),
        Some((key, _)) => key.len() + 1..line.len(),
        None => 0..line.len(),
    }
}

fn hidden_elsewhere(line: &str) -> Range<usize> {
    let end = line.len();
    line.to_ascii_lowercase().find("secret").map_or(end..end, |at| at + "secret".len()..end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_may_be_a_secret_is_starred_out_and_nothing_moves() {
        let text = "[pair]\nname = \"office\"\n[[initiator]]\nname = \"iqn.a:b\"\nsecert = \"open sesame\"\r\n# a remark\nsecret = \"\"\"\nopén\nsesame\"\"\"\nuser = \"u\"\n\n[ [initiator] ]\nname open sesame\n[node.a]\nx = { Secret = \"open sesame\" }\n[access]\nalgorithms = []\n";
        let shown = without_secrets(text);
        assert_eq!(shown.len(), text.len());
        for hidden in ["sesame", "op", "én"] {
            assert!(!shown.contains(hidden), "{shown}");
        }
        for kept in
            ["name = \"office\"", "name = \"iqn.a:b\"", "secert =*", "user = \"u\"", "# a remark", "algorithms = []"]
        {
            assert!(shown.contains(kept), "{kept}: {shown}");
        }
        assert_eq!(shown.matches('\n').count(), text.matches('\n').count());
    }
}
