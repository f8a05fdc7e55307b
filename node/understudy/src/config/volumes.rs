//! `[[volume]]`: which clients see a volume.
//!
//! Not here: the volumes themselves, which are made with `understudy volume create`; an entry may be there before its volume
//! is. The one idea: an entry narrows what `[[initiator]]` allows and never widens it.

use std::collections::{BTreeMap, BTreeSet};

use understudy_device::Audience;
use understudy_portal::access::Access;

use super::build::{Distinct, iscsi_name, named};
use super::clients::ReadInitiator;
use super::read::{At, Mistakes, Table, nearest};
use super::{Config, NodeName};

/// Which clients see which volume.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Audiences {
    /// Of the volumes that have an entry, by name.
    listed: BTreeMap<String, Audience>,
    /// Of all others.
    others: Audience,
}

impl Audiences {
    /// Who sees the volume of this name, of those who may log in.
    #[must_use]
    pub fn of(&self, volume: &str) -> &Audience {
        self.listed.get(volume).unwrap_or(&self.others)
    }

    /// The volumes that have an entry.
    pub fn listed(&self) -> impl Iterator<Item = &str> {
        self.listed.keys().map(String::as_str)
    }
}

impl Config {
    /// Whether nobody who may log in to `node`'s target sees the volume of this name.
    #[must_use]
    pub fn nobody_sees(&self, volume: &str, node: NodeName) -> bool {
        let target = &self.node(node).target;
        match (self.audiences.of(volume), self.access.as_ref()) {
            (Audience::Everyone, _) => false,
            (Audience::Only(names), Access::Everyone) => names.is_empty(),
            (Audience::Only(names), Access::Listed(_)) => !names.iter().any(|name| self.access.may_use(name, target)),
        }
    }
}

const INITIATORS_EXPECTED: &str =
    "a list of the iSCSI names of the clients that see it, as in [\"iqn.1994-05.com.redhat:web1\"]";

/// Who sees the volumes without an entry: `unlisted_volumes` in `[access]`.
pub(super) fn others(table: &Table<'_>, mistakes: &Mistakes) -> Audience {
    let text = table.optional_text("unlisted_volumes", "\"everyone\" or \"nobody\"");
    match text.as_ref().map_or("everyone", |text| text.value) {
        "everyone" => Audience::Everyone,
        "nobody" => Audience::Only(BTreeSet::new()),
        _ => {
            let span = text.map_or(0..0, |text| text.span);
            let message = "`unlisted_volumes` in [access] is wrong";
            mistakes.note(&span, message, "expected \"everyone\" or \"nobody\"");
            Audience::Everyone
        }
    }
}

pub(super) fn audiences(
    tables: &[Table<'_>],
    others: Audience,
    initiators: &[ReadInitiator],
    mistakes: &Mistakes,
) -> Audiences {
    let mut names = Distinct::new(mistakes);
    let known: Vec<&str> = initiators.iter().flat_map(ReadInitiator::names).collect();
    let read = |table: &Table<'_>| {
        let name = named(table, mistakes);
        let listed = table.optional_texts("initiators", INITIATORS_EXPECTED);
        table.finish();
        if listed.as_ref().is_some_and(Vec::is_empty) {
            let advice = "leave the key out to show the volume to everyone who may log in";
            mistakes.advise(
                table.span(),
                "`initiators` in [[volume]] is empty",
                "nobody could see this volume",
                advice,
            );
        }
        let audience = listed.map_or(Audience::Everyone, |listed| audience(&listed, &known, mistakes));
        let name = name?;
        names.claim(format!("`{}`", name.value), &name.span, "a [[volume]]", "the volume name");
        Some((name.value, audience))
    };
    Audiences { listed: tables.iter().filter_map(read).collect(), others }
}

fn audience(listed: &[At<&str>], known: &[&str], mistakes: &Mistakes) -> Audience {
    let mut once = Distinct::new(mistakes);
    let sound = listed.iter().filter_map(|text| {
        let name = iscsi_name(text, mistakes)?;
        once.claim(name.clone(), &text.span, "this volume", "the initiator name");
        // Without any [[initiator]] everyone may log in.
        if !known.is_empty() && !known.contains(&name.as_str()) {
            let label = match nearest(&name, known) {
                Some(near) => format!("did you mean `{near}`?"),
                None => "no [[initiator]] has this name".to_owned(),
            };
            let advice = "only clients with an [[initiator]] can log in, and see a volume then";
            mistakes.advise(&text.span, format!("there is no initiator `{name}`"), label, advice);
        }
        Some(name)
    });
    Audience::only(sound)
}
