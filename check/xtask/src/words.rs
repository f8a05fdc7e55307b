//! The word check: names that say nothing, files that do not say what they are, and silent arms in what decides.

use anyhow::Result;

use crate::source::{Token, tokens};
use crate::workspace;

/// Ends of type names that say nothing about the thing.
const EMPTY_ENDINGS: [&str; 6] = ["Manager", "Handler", "Helper", "Helpers", "Util", "Utils"];

/// Names of modules that collect what belongs elsewhere.
const EMPTY_MODULES: [&str; 7] = ["util", "utils", "common", "helper", "helpers", "misc", "prelude"];

/// What decides: here every input is answered by name.
const DECIDING: &str = "core/failover/src/";

/// What only checks what decides.
const CHECKING: [&str; 2] = ["core/failover/src/sim/", "core/failover/src/tests/"];

/// Checks the workspace.
pub(crate) fn run() -> Result<()> {
    let files = workspace::source_files()?;
    let complaints: Vec<String> = files.iter().flat_map(|file| complaints(&file.path, &file.text)).collect();
    workspace::conclude("words", &complaints)
}

fn complaints(path: &str, text: &str) -> Vec<String> {
    let tokens = tokens(text);
    let mut complaints: Vec<String> = empty_names(path, &tokens).collect();
    if !opens_with_heading(text) {
        complaints.push(format!("{path}: does not open with `//!`: what it is, what it is not, the one idea"));
    }
    if path.starts_with(DECIDING) && !CHECKING.iter().any(|folder| path.starts_with(folder)) {
        complaints.extend(silent_arms(path, &tokens));
    }
    complaints
}

/// Attributes of the crate may stand before the heading.
fn opens_with_heading(text: &str) -> bool {
    let mut lines = text.lines().skip_while(|line| line.starts_with("#!") || line.is_empty());
    lines.next().is_some_and(|line| line.starts_with("//!"))
}

/// Types and modules *defined* here; names of other people's crates are theirs.
fn empty_names<'a>(path: &'a str, tokens: &'a [Token]) -> impl Iterator<Item = String> + 'a {
    let defined = tokens.windows(2).filter_map(|pair| {
        let (keyword, name) = (pair[0].text.as_str(), pair[1].text.as_str());
        let empty = match keyword {
            "struct" | "enum" | "trait" | "type" => EMPTY_ENDINGS.iter().any(|ending| name.ends_with(ending)),
            "mod" => EMPTY_MODULES.contains(&name),
            _ => false,
        };
        empty.then_some(&pair[1])
    });
    defined.map(move |token| format!("{path}:{}: `{}` does not say what it is", token.line, token.text))
}

/// `_ => {}`: whatever comes next would be ignored without a word.
fn silent_arms(path: &str, tokens: &[Token]) -> Vec<String> {
    let arms =
        tokens.windows(5).filter(|arm| arm.iter().map(|token| token.text.as_str()).eq(["_", "=", ">", "{", "}"]));
    arms.map(|arm| format!("{path}:{}: `_ => {{}}` where every input is answered by name", arm[0].line)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATH: &str = "core/failover/src/machine.rs";

    #[test]
    fn empty_names_fail_where_they_are_defined() {
        assert_eq!(complaints(PATH, "//! T\nstruct DiskManager;\nmod util;\n").len(), 2);
        assert!(complaints(PATH, "//! T\nuse other::DiskManager;\nfn common() {}\n").is_empty());
    }

    #[test]
    fn a_file_without_a_heading_fails() {
        assert_eq!(complaints(PATH, "fn f() {}\n").len(), 1);
        assert_eq!(complaints(PATH, "#![forbid(unsafe_code)]\nfn f() {}\n").len(), 1);
        assert!(complaints(PATH, "#![forbid(unsafe_code)]\n\n//! T\nfn f() {}\n").is_empty());
    }

    #[test]
    fn a_silent_arm_fails_in_the_failover_machine_only() {
        let code = "//! T\nfn f() { match x { A => b(), _ => {} } }\n";
        assert_eq!(complaints(PATH, code).len(), 1);
        assert!(complaints("io/disk/src/lib.rs", code).is_empty());
    }
}
