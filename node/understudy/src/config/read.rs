//! Walking a TOML document strictly: every key asked for is remembered, every other key is a mistake.
//!
//! The walk never stops at a mistake; it notes it and goes on with `None`, so that one run reports everything.

use std::cell::RefCell;
use std::ops::{Range, RangeInclusive};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::mistake::Mistake;

/// A value and where it stands.
#[derive(Debug, Clone)]
pub(super) struct At<T> {
    pub value: T,
    pub span: Range<usize>,
}

/// The mistakes found so far.
#[derive(Debug, Default)]
pub(super) struct Mistakes(RefCell<Vec<Mistake>>);

impl Mistakes {
    pub fn note(&self, span: &Range<usize>, message: impl Into<String>, label: impl Into<String>) {
        self.push(span, message.into(), label.into(), None);
    }

    pub fn advise(&self, span: &Range<usize>, message: impl Into<String>, label: impl Into<String>, advice: &str) {
        self.push(span, message.into(), label.into(), Some(advice.to_owned()));
    }

    fn push(&self, span: &Range<usize>, message: String, label: String, advice: Option<String>) {
        self.0.borrow_mut().push(Mistake { message, label, advice, span: span.clone() });
    }

    pub fn into_sorted(self) -> Vec<Mistake> {
        let mut all = self.0.into_inner();
        all.sort_by_key(|mistake| mistake.span.start);
        all
    }
}

/// One entry of a list of strings and tables.
pub(super) enum Listed<'d> {
    Text(At<&'d str>),
    Table(Table<'d>),
}

/// One table being read. Its name is how the operator knows it: `[pair]`, `[node.a]`, `[[disk]]`.
pub(super) struct Table<'d> {
    name: String,
    span: Range<usize>,
    entries: Option<&'d DeTable<'d>>,
    asked: RefCell<Vec<&'static str>>,
    mistakes: &'d Mistakes,
}

impl<'d> Table<'d> {
    pub fn root(document: &'d Spanned<DeTable<'d>>, mistakes: &'d Mistakes) -> Self {
        Self::new("the file", document.span().start..document.span().start, Some(document.get_ref()), mistakes)
    }

    pub fn new(name: &str, span: Range<usize>, entries: Option<&'d DeTable<'d>>, mistakes: &'d Mistakes) -> Self {
        Self { name: name.to_owned(), span, entries, asked: RefCell::default(), mistakes }
    }

    pub fn span(&self) -> &Range<usize> {
        &self.span
    }

    /// Whether the table has this key, whatever its value.
    pub fn has(&self, key: &'static str) -> bool {
        self.look(key).is_some()
    }

    fn look(&self, key: &'static str) -> Option<&'d Spanned<DeValue<'d>>> {
        self.asked.borrow_mut().push(key);
        self.entries?.iter().find(|(name, _)| name.get_ref() == key).map(|(_, value)| value)
    }

    fn wrong_type(&self, key: &str, found: &Spanned<DeValue<'_>>, expected: &str) {
        let is = with_article(found.get_ref().type_str());
        self.mistakes.note(
            &found.span(),
            format!("`{key}` in {} must be {expected}", self.name),
            format!("this is {is}"),
        );
    }

    fn missing(&self, key: &str, expected: &str) {
        if self.entries.is_some() {
            let label = format!("`{key}` is expected here: {expected}");
            self.mistakes.note(&self.span, format!("{} has no `{key}`", self.name), label);
        }
    }

    /// A sub-table that must be there; a missing one is a mistake and reads as empty without further mistakes.
    pub fn table(&self, key: &'static str, name: &str) -> Table<'d> {
        if self.optional_is_absent(key) {
            let message = format!("there is no {name}");
            self.mistakes.note(&self.span, message, format!("a table {name} is expected in the file"));
            return Table::new(name, self.span.clone(), None, self.mistakes);
        }
        self.optional_table(key, name)
    }

    fn optional_is_absent(&self, key: &'static str) -> bool {
        self.entries.is_some() && self.look(key).is_none()
    }

    /// A sub-table that may be absent; absent it reads as empty.
    pub fn optional_table(&self, key: &'static str, name: &str) -> Table<'d> {
        match self.look(key) {
            None => Table::new(name, self.span.clone(), None, self.mistakes),
            Some(value) => self.as_table(key, value, name),
        }
    }

    fn as_table(&self, key: &str, value: &'d Spanned<DeValue<'d>>, name: &str) -> Table<'d> {
        let entries = value.get_ref().as_table();
        if entries.is_none() {
            self.wrong_type(key, value, "a table");
        }
        Table::new(name, value.span(), entries, self.mistakes)
    }

    /// An array of tables, `[[key]]`; absent means empty.
    pub fn tables(&self, key: &'static str, name: &str) -> Vec<Table<'d>> {
        let Some(value) = self.look(key) else { return Vec::new() };
        let Some(items) = value.get_ref().as_array() else {
            self.wrong_type(key, value, &format!("written as {name}, once for each"));
            return Vec::new();
        };
        items.iter().map(|item| self.as_table(key, item, name)).collect()
    }

    /// A string that must be there.
    pub fn text(&self, key: &'static str, expected: &str) -> Option<At<&'d str>> {
        match self.look(key) {
            None => {
                self.missing(key, expected);
                None
            }
            Some(value) => self.as_text(key, value, expected),
        }
    }

    /// A string that may be absent.
    pub fn optional_text(&self, key: &'static str, expected: &str) -> Option<At<&'d str>> {
        self.look(key).and_then(|value| self.as_text(key, value, expected))
    }

    fn as_text(&self, key: &str, value: &'d Spanned<DeValue<'d>>, expected: &str) -> Option<At<&'d str>> {
        let text = value.get_ref().as_str();
        if text.is_none() {
            self.wrong_type(key, value, expected);
        }
        text.map(|text| At { value: text, span: value.span() })
    }

    /// A string, or a table of one string for each node: `"…"` or `{ a = "…", b = "…" }`.
    pub fn text_for_each_node(&self, key: &'static str, expected: &str) -> Option<[At<&'d str>; 2]> {
        let Some(value) = self.look(key) else {
            self.missing(key, expected);
            return None;
        };
        if value.get_ref().is_table() {
            let table = self.as_table(key, value, &format!("`{key}`"));
            let (a, b) = (table.text("a", expected), table.text("b", expected));
            table.finish();
            return Some([a?, b?]);
        }
        let text = self.as_text(key, value, expected)?;
        Some([text.clone(), text])
    }

    /// A whole number within `range`, or `default`; `unit` as "a whole number of milliseconds".
    pub fn number(&self, key: &'static str, default: u64, unit: &str, range: RangeInclusive<u64>) -> u64 {
        let Some(value) = self.look(key) else { return default };
        let expected = format!("{unit} from {} to {}", range.start(), range.end());
        let Some(number) = value.get_ref().as_integer() else {
            self.wrong_type(key, value, &expected);
            return default;
        };
        match u64::from_str_radix(number.as_str(), number.radix()) {
            Ok(number) if range.contains(&number) => number,
            Ok(_) | Err(_) => {
                let message = format!("`{key}` in {} must be {expected}", self.name);
                self.mistakes.note(&value.span(), message, "this is outside that range");
                default
            }
        }
    }

    /// A list of strings that must be there.
    pub fn texts(&self, key: &'static str, expected: &str) -> Vec<At<&'d str>> {
        let Some(value) = self.look(key) else {
            self.missing(key, expected);
            return Vec::new();
        };
        self.as_texts(key, value, expected)
    }

    /// A list that must be there, of strings and inline tables as one likes; `name` is how the operator knows such a table.
    pub fn texts_and_tables(&self, key: &'static str, name: &str, expected: &str) -> Vec<Listed<'d>> {
        let Some(value) = self.look(key) else {
            self.missing(key, expected);
            return Vec::new();
        };
        let Some(items) = value.get_ref().as_array() else {
            self.wrong_type(key, value, expected);
            return Vec::new();
        };
        let read = |item: &'d Spanned<DeValue<'d>>| match item.get_ref().is_table() {
            true => Some(Listed::Table(self.as_table(key, item, name))),
            false => self.as_text(key, item, expected).map(Listed::Text),
        };
        items.iter().filter_map(read).collect()
    }

    /// A list of strings that may be absent.
    pub fn optional_texts(&self, key: &'static str, expected: &str) -> Option<Vec<At<&'d str>>> {
        self.look(key).map(|value| self.as_texts(key, value, expected))
    }

    fn as_texts(&self, key: &str, value: &'d Spanned<DeValue<'d>>, expected: &str) -> Vec<At<&'d str>> {
        let Some(items) = value.get_ref().as_array() else {
            self.wrong_type(key, value, expected);
            return Vec::new();
        };
        items.iter().filter_map(|item| self.as_text(key, item, expected)).collect()
    }

    /// A list of lists of strings that must be there, each inner list with its own place.
    pub fn text_lists(&self, key: &'static str, expected: &str) -> Vec<At<Vec<At<&'d str>>>> {
        let Some(value) = self.look(key) else {
            self.missing(key, expected);
            return Vec::new();
        };
        let Some(items) = value.get_ref().as_array() else {
            self.wrong_type(key, value, expected);
            return Vec::new();
        };
        items.iter().map(|item| At { value: self.as_texts(key, item, expected), span: item.span() }).collect()
    }

    /// Notes every key nobody asked for.
    pub fn finish(&self) {
        let Some(entries) = self.entries else { return };
        let asked = self.asked.borrow();
        for (key, _) in entries {
            let name: &str = key.get_ref();
            if !asked.contains(&name) {
                self.unknown(&key.span(), name, &asked);
            }
        }
    }

    fn unknown(&self, span: &Range<usize>, name: &str, known: &[&'static str]) {
        let label = match nearest(name, known) {
            Some(near) => format!("did you mean `{near}`?"),
            None => "not known here".to_owned(),
        };
        let mut sorted: Vec<_> = known.iter().map(|key| format!("`{key}`")).collect();
        sorted.sort();
        sorted.dedup();
        let advice = format!("{} may have: {}", self.name, sorted.join(", "));
        self.mistakes.advise(span, format!("unknown key `{name}` in {}", self.name), label, &advice);
    }
}

fn with_article(kind: &str) -> String {
    let article = if kind.starts_with(['a', 'e', 'i', 'o', 'u']) { "an" } else { "a" };
    format!("{article} {kind}")
}

/// The known key that differs from `name` by the fewest edits, if that is few enough to be a slip of the pen.
pub(super) fn nearest<'k>(name: &str, known: &[&'k str]) -> Option<&'k str> {
    let allowed = (name.chars().count() / 3).max(1);
    let near = known.iter().map(|key| (edits(name, key), *key)).min()?;
    (near.0 <= allowed || near.1.starts_with(name)).then_some(near.1)
}

/// Edit distance (insert, delete, replace).
fn edits(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (i, l) in left.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, r) in right.iter().enumerate() {
            let replace = diagonal + usize::from(l != *r);
            diagonal = row[j + 1];
            row[j + 1] = replace.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[right.len()]
}
