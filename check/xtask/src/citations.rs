//! Which section of which standard is carried out where, and by which test it is held: from the citations in comments.
//!
//! Not a judge of what a comment says about a section, only of whether it can be followed: a citation names a document and revision that
//! docs/specs.md pins. The one idea: comments are read as words, so that a citation may go on in the next line, and the words
//! `SPC-4 r37 §5.13.11` are one wherever they stand.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use anyhow::{Context, Result};

use crate::workspace::{self, SourceFile};

/// Where documents and their revisions are pinned: in the first column of its table.
const PINNED_IN: &str = "docs/specs.md";

/// Names of T10 documents begin so; a revision follows.
const WITH_REVISION: [&str; 4] = ["SAM-", "SPC-", "SBC-", "SSC-"];

/// Names of documents whose number is a word of its own.
const WITH_NUMBER: [&str; 3] = ["RFC", "UEFI", "libfabric"];

/// What a piece of source is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Purpose {
    Code,
    Test,
}

/// One mention of a section.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Citation {
    document: String,
    section: String,
    place: String,
    purpose: Purpose,
}

/// Where a section is mentioned.
#[derive(Debug, Default)]
struct Mentions {
    code: BTreeSet<String>,
    tests: BTreeSet<String>,
}

/// By document, then by section.
type Table = BTreeMap<String, BTreeMap<Section, Mentions>>;

/// A section's number, in the order of a table of contents.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Section(Vec<Step>);

/// One step of it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    Number(u32),
    Letter(String),
}

impl Section {
    fn parse(text: &str) -> Self {
        let step = |step: &str| step.parse().map_or_else(|_| Step::Letter(step.to_owned()), Step::Number);
        Self(text.split('.').map(step).collect())
    }

    fn text(&self) -> String {
        let step = |step: &Step| match step {
            Step::Number(number) => number.to_string(),
            Step::Letter(letter) => letter.clone(),
        };
        self.0.iter().map(step).collect::<Vec<_>>().join(".")
    }
}

/// Lists every section with the code and the tests that cite it, then those that no test cites; fails as [`check`] does.
pub(crate) fn list() -> Result<()> {
    let all = every_citation()?;
    let table = table(&all);
    for (document, sections) in &table {
        println!("\n{document}");
        for (section, mentions) in sections {
            println!("  §{}", section.text());
            mentions.code.iter().for_each(|place| println!("      code  {place}"));
            mentions.tests.iter().for_each(|place| println!("      test  {place}"));
        }
    }
    let untested = untested(&table);
    println!("\ncited in code, and by no test:");
    untested.iter().for_each(|section| println!("  {section}"));
    println!();
    check()
}

/// Fails if a citation cannot be followed.
pub(crate) fn check() -> Result<()> {
    let all = every_citation()?;
    let path = workspace::root().join(PINNED_IN);
    let specs = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    workspace::conclude("citations", &complaints(&all, &pinned(&specs)))?;
    let table = table(&all);
    let cited: usize = table.values().flat_map(BTreeMap::values).filter(|mentions| !mentions.code.is_empty()).count();
    println!("{cited} sections are cited in code, {} of them by no test", untested(&table).len());
    Ok(())
}

fn every_citation() -> Result<Vec<Citation>> {
    Ok(workspace::source_files()?.iter().flat_map(citations).collect())
}

/// The documents pinned, as citations name them.
fn pinned(specs: &str) -> BTreeSet<String> {
    let rows = specs.lines().filter_map(|line| line.strip_prefix("| ")?.split(" |").next());
    rows.map(|name| name.trim().to_owned()).collect()
}

fn complaints(citations: &[Citation], pinned: &BTreeSet<String>) -> Vec<String> {
    let stray = citations.iter().filter(|citation| !pinned.contains(&citation.document));
    stray
        .map(|Citation { document, section, place, .. }| {
            format!("{place}: {document} §{section}: {PINNED_IN} pins no such document and revision")
        })
        .collect()
}

fn table(citations: &[Citation]) -> Table {
    let mut table = Table::new();
    for Citation { document, section, place, purpose } in citations {
        let sections = table.entry(document.clone()).or_default();
        let mentions = sections.entry(Section::parse(section)).or_default();
        match purpose {
            Purpose::Code => mentions.code.insert(place.clone()),
            Purpose::Test => mentions.tests.insert(place.clone()),
        };
    }
    table
}

/// Sections of which code says that it carries them out while no test cites them or a part of them.
fn untested(table: &Table) -> Vec<String> {
    let mut out = Vec::new();
    for (document, sections) in table {
        for (section, _) in sections.iter().filter(|(_, mentions)| !mentions.code.is_empty()) {
            let tested = |(other, mentions): (&Section, &Mentions)| {
                other.0.starts_with(&section.0) && !mentions.tests.is_empty()
            };
            if !sections.iter().any(tested) {
                out.push(format!("{document} §{}", section.text()));
            }
        }
    }
    out
}

/// The citations in a file's comments.
fn citations(file: &SourceFile) -> Vec<Citation> {
    let words = words_of_comments(&file.text);
    let tests_from = first_line_of_tests(file);
    let mut out = Vec::new();
    let mut document: Option<(String, usize)> = None;
    for (at, (word, line)) in words.iter().enumerate() {
        if let Some(named) = document_at(&words, at) {
            document = Some((named.0, at + named.1));
            continue;
        }
        let Some(section) = word.trim_start_matches('(').strip_prefix('§').map(section_of) else {
            // The words of a document's own name are not yet what follows it.
            if document.as_ref().is_some_and(|(_, until)| at >= *until) && !ends_open(&words, at) {
                document = None;
            }
            continue;
        };
        if let Some((document, _)) = document.as_ref().filter(|_| !section.is_empty()) {
            let purpose = if *line >= tests_from { Purpose::Test } else { Purpose::Code };
            let place = format!("{}:{line}", file.path);
            out.push(Citation { document: document.clone(), section, place, purpose });
        }
    }
    out
}

/// Whether a word between two sections leaves the document open, as in `§5.1 and §5.2`.
fn ends_open(words: &[(String, usize)], at: usize) -> bool {
    matches!(words[at].0.as_str(), "and" | "or" | "to")
}

/// The document whose name begins with this word, and how many words it has.
fn document_at(words: &[(String, usize)], at: usize) -> Option<(String, usize)> {
    let bare = |word: &str| word.trim_matches(|c: char| "([`\"',;:.)]".contains(c)).to_owned();
    let name = bare(&words[at].0);
    let next = words.get(at + 1).map(|(word, _)| bare(word)).unwrap_or_default();
    if WITH_REVISION.iter().any(|prefix| name.starts_with(prefix)) {
        let is_revision = next.strip_prefix('r').is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
        return Some(if is_revision { (format!("{name} {next}"), 2) } else { (name, 1) });
    }
    let is_number = next.starts_with(|c: char| c.is_ascii_digit());
    (WITH_NUMBER.contains(&name.as_str()) && is_number).then(|| (format!("{name} {next}"), 2))
}

/// The number at the front of a word: `5.13.3,` is 5.13.3, and so is `5.13.3's`.
fn section_of(word: &str) -> String {
    let end = word.find(|c: char| !(c.is_ascii_digit() || c.is_ascii_uppercase() || c == '.')).unwrap_or(word.len());
    word[..end].trim_end_matches('.').to_owned()
}

/// The words of all comments, each with its line. A comment ends where code begins: a word that stands for it keeps citations apart.
fn words_of_comments(text: &str) -> Vec<(String, usize)> {
    let mut words = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let comment = match line.trim_start().strip_prefix("//") {
            Some(comment) => Some(comment.trim_start_matches(['/', '!'])),
            None => line.split_once(" // ").map(|(_, comment)| comment),
        };
        match comment {
            Some(comment) => words.extend(comment.split_whitespace().map(|word| (word.to_owned(), index + 1))),
            None => words.push((String::new(), index + 1)),
        }
    }
    words
}

/// From this line on a file is tests: all of it in the folders of tests and checks, else from its own tests on.
fn first_line_of_tests(file: &SourceFile) -> usize {
    let name = file.path.rsplit('/').next().unwrap_or_default();
    let is_test = file.path.starts_with("check/") || file.path.contains("/tests/") || name.ends_with("tests.rs");
    if is_test { 1 } else { crate::source::lines_without_tests(&file.text) + 1 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str) -> Vec<(String, String, Purpose)> {
        let file = SourceFile { path: "core/unit/src/unit.rs".to_owned(), text: text.to_owned() };
        citations(&file).into_iter().map(|found| (found.document, found.section, found.purpose)).collect()
    }

    fn code(document: &str, section: &str) -> (String, String, Purpose) {
        (document.to_owned(), section.to_owned(), Purpose::Code)
    }

    #[test]
    fn citations_are_found_across_lines_and_in_lists() {
        let text = "//! As asked (SPC-4 r37\n//! §5.13.3, §5.13.4): all.\nfn f() {} // RFC 7143 §11.4.5.1's\n";
        let expected = [code("SPC-4 r37", "5.13.3"), code("SPC-4 r37", "5.13.4"), code("RFC 7143", "11.4.5.1")];
        assert_eq!(found(text), expected);
        assert_eq!(found("/// SBC-3 r36 §5.2 and §5.7.\n"), [code("SBC-3 r36", "5.2"), code("SBC-3 r36", "5.7")]);
    }

    #[test]
    fn a_section_belongs_to_no_document_that_was_named_before_in_passing() {
        assert_eq!(found("/// RFC 7143 says it well, unlike what stands in §5.\n"), []);
        assert_eq!(found("/// RFC 7143 is a document.\nfn f() {}\n/// §5 of design.md\n"), []);
        assert_eq!(found("let x = \"SPC-4 r37 §6.8\";\n"), []);
    }

    #[test]
    fn a_citation_without_a_pinned_revision_is_complained_of() {
        let specs = "| short name | document |\n|---|---|\n| SPC-4 r37 | Commands |\n";
        let file = |text: &str| SourceFile { path: "a.rs".to_owned(), text: text.to_owned() };
        let all = citations(&file("// SPC-4 r37 §6.8\n\n// SPC-4 r36 §6.8\n\n// SPC-4 §6.8\n"));
        let complaints = complaints(&all, &pinned(specs));
        assert_eq!(complaints.len(), 2);
        assert!(complaints[0].starts_with("a.rs:3: SPC-4 r36 §6.8:"), "{complaints:?}");
    }

    #[test]
    fn a_test_of_a_part_holds_the_section() {
        let text = "// SBC-3 r36 §5.2 and §5.3\n#[cfg(test)]\nmod tests {\n// SBC-3 r36 §5.2.1\n}\n";
        let file = SourceFile { path: "a.rs".to_owned(), text: text.to_owned() };
        assert_eq!(untested(&table(&citations(&file))), ["SBC-3 r36 §5.3"]);
    }
}
