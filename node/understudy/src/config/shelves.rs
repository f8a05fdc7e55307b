//! `[[shelf]]`: what the pair and a shelf prove to each other before disks are used; and the file that tells a shelf the same.
//!
//! Not here: the exchange itself. The one idea: as in `[[initiator]]`, `user` and `secret` are the other end's, `own_user` and
//! `own_secret` one's own; so the two ends' files say the same the other way round. A pair logs in under several names, so a shelf's
//! `[[initiator]]` has `names`.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use toml::de::DeTable;
use understudy_disk::session::{Options, Proof};
use understudy_iscsi::chap::ChapAlgorithm;
use understudy_portal::access::{Access, AccessList, Credentials, Identity, Scope};

use super::build::{Distinct, iscsi_name, syntax};
use super::clients::{self, Secrets, Use, Whose};
use super::mistake::ConfigError;
use super::read::{Mistakes, Table, nearest};
use super::{Config, DiskUrl};

/// What is proved at the login to each shelf that has an entry, by the name of its target.
pub type Proofs = BTreeMap<String, Proof>;

impl Config {
    /// How a node reaches the disk at `url`.
    #[must_use]
    pub fn disk_options(&self, url: &DiskUrl) -> Options {
        let proof = self.proofs.get(&url.target.to_ascii_lowercase()).cloned();
        Options { command_deadline: self.timing.disk, proof, ..Options::default() }
    }
}

/// `[[shelf]]` tables: the proof at each target named, which must be one in `used`; a slip of the pen would leave the proof out. Where
/// an entry names no algorithms, `algorithms` are offered.
pub(super) fn proofs(
    tables: &[Table<'_>],
    pair: &str,
    used: &[&str],
    algorithms: &[ChapAlgorithm],
    secrets: &mut Secrets<'_>,
    mistakes: &Mistakes,
) -> Proofs {
    let mut targets = Distinct::new(mistakes);
    let read = |table: &Table<'_>| {
        let target =
            table.text("target", "the iSCSI name of the shelf's target, as it stands in the `url` of its disks");
        let own_user = table.optional_text("own_user", "the user name of the pair at this shelf");
        let own_secret = table.text("own_secret", "the secret that the pair proves to this shelf");
        let user = table.optional_text("user", "the user name of the shelf");
        let secret = table.optional_text("secret", "the secret that the shelf has to prove (mutual CHAP)");
        let own_list = table.has("algorithms").then(|| clients::algorithms(table, mistakes));
        table.finish();
        if let (Some(user), None) = (&user, &secret) {
            let message = "`user` in [[shelf]] needs a `secret`";
            mistakes.note(&user.span, message, "there is none in this entry");
        }
        let (target, own_secret) = (target?, own_secret?);
        targets.claim(target.value.to_owned(), &target.span, "a [[shelf]]", "the target");
        let named = |user: Option<_>, otherwise: &str| {
            let user = user.as_ref().map_or(Some(otherwise), |user| clients::user_name(user, mistakes))?;
            Some(user.to_owned())
        };
        let name = iscsi_name(&target, mistakes);
        if name.is_some() && !used.contains(&target.value) {
            let label = match nearest(target.value, used) {
                Some(near) => format!("did you mean `{near}`?"),
                None => "no `url` of a [[disk]] or [[lock_disk]] has this target".to_owned(),
            };
            mistakes.note(&target.span, format!("there is no disk at the shelf `{}`", target.value), label);
        }
        let own = Identity { user: named(own_user, pair)?, secret: secrets.take(&own_secret, Use::Own)? };
        let theirs = match secret {
            None => None,
            Some(secret) => {
                Some(Identity { user: named(user, target.value)?, secret: secrets.take(&secret, Use::Theirs)? })
            }
        };
        let credentials = Credentials { initiator: own, target: theirs };
        Some((name?, Proof { credentials, algorithms: own_list.unwrap_or_else(|| algorithms.to_vec()) }))
    };
    tables.iter().filter_map(read).collect()
}

/// Reads the file that says whom a shelf lets in: `[access]` and `[[initiator]]` as in a pair's file, with `names` instead of `name`
/// and `nodes`.
///
/// # Errors
/// [`ConfigError`] with every mistake found, or that everyone may read the file.
pub fn shelf_access(file: &Path, target: &str) -> Result<Arc<Access>, ConfigError> {
    let text =
        std::fs::read_to_string(file).map_err(|source| ConfigError::Unreadable { file: file.to_owned(), source })?;
    let access = parse_shelf_access(file, &text, target)?;
    if access.demands_proofs() {
        super::check_readers(file)?;
    }
    Ok(Arc::new(access))
}

fn parse_shelf_access(file: &Path, text: &str, target: &str) -> Result<Access, ConfigError> {
    let mistaken = |mistakes| {
        let text = clients::without_secrets(text);
        ConfigError::Mistaken { file: file.to_owned(), text, mistakes }
    };
    let (document, errors) = DeTable::parse_recoverable(text);
    if !errors.is_empty() {
        return Err(mistaken(errors.iter().map(|error| syntax(error, text.len())).collect()));
    }
    let mistakes = Mistakes::default();
    let root = Table::root(&document, &mistakes);
    let access = root.optional_table("access", "[access]");
    let algorithms = clients::algorithms(&access, &mistakes);
    access.finish();
    let mut secrets = Secrets::new(&mistakes);
    let tables = root.tables("initiator", "[[initiator]]");
    let initiators = clients::initiators(&tables, Whose::Shelf(target), &mut secrets, &mistakes);
    root.finish();
    if tables.is_empty() {
        let label = "at least one [[initiator]] is expected";
        mistakes.note(root.span(), "nobody could log in to this shelf", label);
    }
    let grants = initiators.into_iter().flat_map(|read| read.grants(Scope::EveryTarget));
    let list = AccessList::new(grants, algorithms);
    let found = mistakes.into_sorted();
    if found.is_empty() { Ok(Access::Listed(list)) } else { Err(mistaken(found)) }
}

#[cfg(test)]
mod tests {
    use understudy_portal::access::Grant;

    use super::*;
    use crate::config::Look;

    const TARGET: &str = "iqn.2026-01.com.example:shelf";
    const NODE: &str = "[[initiator]]\nnames = [\"iqn.2026-01.com.example:a.disks\", \"iqn.2026-01.com.example:b.disks\"]\nuser = \"office\"\nsecret = \"open sesame, please\"\nown_secret = \"sesame is open, do enter\"\n";

    fn read(text: &str) -> Result<Access, String> {
        parse_shelf_access(Path::new("/etc/shelf.toml"), text, TARGET).map_err(|error| error.render(Look::Plain))
    }

    #[test]
    fn a_shelfs_file_names_who_is_let_in_and_the_shelf_goes_by_its_target() {
        let access =
            read(&format!("[access]\nalgorithms = [\"sha-256\"]\n{NODE}")).unwrap_or_else(|report| panic!("{report}"));
        let identity = |user: &str, secret: &[u8]| Identity {
            user: user.to_owned(),
            secret: understudy_portal::secret::Secret::new(secret).expect("long enough"),
        };
        let credentials = Credentials {
            initiator: identity("office", b"open sesame, please"),
            target: Some(identity(TARGET, b"sesame is open, do enter")),
        };
        let grant = Grant { scope: Scope::EveryTarget, credentials: Some(credentials) };
        let names = ["iqn.2026-01.com.example:a.disks", "iqn.2026-01.com.example:b.disks"];
        let grants = names.map(|name| (name.to_owned(), grant.clone()));
        let list = AccessList::new(grants, vec![ChapAlgorithm::Sha256]);
        assert_eq!(access, Access::Listed(list));
    }

    #[test]
    fn mistakes_in_a_shelfs_file_are_shown_without_secrets() {
        for (text, expected) in [
            (String::new(), "nobody could log in to this shelf"),
            (format!("{NODE}nodes = [\"a\"]\n"), "unknown key `nodes`"),
            (NODE.replace("names = [", "name = ["), "[[initiator]] has no `names`"),
            (NODE.replace("b.disks", "a.disks"), "iqn.2026-01.com.example:a.disks is used twice"),
            (format!("{NODE}[[pool]]\n"), "unknown key `pool`"),
            (NODE.replace("open sesame, please", "sesame"), "this secret can not be used"),
            (NODE.replace("sesame is open, do enter", "open sesame, please"), "this secret is used twice"),
            (format!("{NODE}["), "this is not TOML"),
        ] {
            let report = read(&text).expect_err("a mistake");
            assert!(report.contains(expected) && !report.contains("open sesame"), "{report}");
        }
    }
}
