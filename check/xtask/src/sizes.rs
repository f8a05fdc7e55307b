//! The size ratchet: files and functions stay small enough to be read, and what is too long already may only shrink.
//!
//! A file may have 1,000 lines without its unit tests; a function 70, unless `function-sizes.txt` beside this crate
//! grants it more. `--accept` takes over what has become shorter; a longer figure is a decision and is written by hand.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::source::{functions, lines_without_tests, tokens};
use crate::workspace::{self, SourceFile};

/// Most lines of a file without its unit tests.
const FILE_LIMIT: usize = 1000;

/// Lines from which a file is named, though it passes.
const FILE_ADVICE: usize = 600;

/// Most lines of a function that no entry grants more.
const FUNCTION_LIMIT: usize = 70;

/// Granted lengths: `path::function` → lines. Two functions of one name in a file share the longest.
type Granted = BTreeMap<String, usize>;

/// Checks the workspace.
pub(crate) fn run() -> Result<()> {
    let files = workspace::source_files()?;
    let granted = read_granted()?;
    let long = long_functions(&files);
    for file in files.iter().filter(|file| (FILE_ADVICE..=FILE_LIMIT).contains(&lines_without_tests(&file.text))) {
        println!("sizes: note: {} has {} lines without tests", file.path, lines_without_tests(&file.text));
    }
    if granted.iter().any(|(name, lines)| long.get(name) != Some(lines)) {
        println!("sizes: note: function-sizes.txt grants more than is used; cargo xtask sizes --accept shrinks it");
    }
    let mut complaints = long_files(&files);
    complaints.extend(too_long(&long, &granted));
    workspace::conclude("sizes", &complaints)
}

/// Shrinks the granted lengths to what is used.
pub(crate) fn accept() -> Result<()> {
    let long = long_functions(&workspace::source_files()?);
    let shrunk = shrink(&read_granted()?, &long);
    let lines: String = shrunk.iter().map(|(name, lines)| format!("{lines} {name}\n")).collect();
    fs::write(granted_file(), lines).context("cannot write function-sizes.txt")?;
    run()
}

fn granted_file() -> PathBuf {
    workspace::root().join("check/xtask/function-sizes.txt")
}

fn read_granted() -> Result<Granted> {
    let text = fs::read_to_string(granted_file()).context("cannot read function-sizes.txt")?;
    parse_granted(&text)
}

fn parse_granted(text: &str) -> Result<Granted> {
    let parse = |line: &str| {
        let (lines, name) = line.split_once(' ').with_context(|| format!("function-sizes.txt: `{line}`"))?;
        let lines = lines.parse().with_context(|| format!("function-sizes.txt: `{lines}` is no number"))?;
        Ok((name.to_owned(), lines))
    };
    text.lines().filter(|line| !line.is_empty()).map(parse).collect()
}

fn long_files(files: &[SourceFile]) -> Vec<String> {
    let sized = files.iter().map(|file| (&file.path, lines_without_tests(&file.text)));
    let long = sized.filter(|(_, lines)| *lines > FILE_LIMIT);
    long.map(|(path, lines)| format!("{path}: {lines} lines without tests, at most {FILE_LIMIT}")).collect()
}

fn long_functions(files: &[SourceFile]) -> Granted {
    let mut long = Granted::new();
    for file in files {
        for function in functions(&tokens(&file.text)) {
            if function.lines > FUNCTION_LIMIT {
                let longest = long.entry(format!("{}::{}", file.path, function.name)).or_default();
                *longest = function.lines.max(*longest);
            }
        }
    }
    long
}

fn too_long(long: &Granted, granted: &Granted) -> Vec<String> {
    let limit = |name: &String| granted.get(name).copied().unwrap_or(FUNCTION_LIMIT);
    let over = long.iter().filter(|(name, lines)| **lines > limit(name));
    over.map(|(name, lines)| format!("{name}: {lines} lines, at most {}", limit(name))).collect()
}

/// Never grows an entry and never adds one.
fn shrink(granted: &Granted, long: &Granted) -> Granted {
    let used = granted.iter().filter_map(|(name, lines)| Some((name.clone(), *lines.min(long.get(name)?))));
    used.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, text: String) -> [SourceFile; 1] {
        [SourceFile { path: path.to_owned(), text }]
    }

    fn function_of(lines: usize) -> String {
        format!("fn f() {{\n{}}}\n", "    g();\n".repeat(lines - 2))
    }

    #[test]
    fn a_function_over_the_limit_fails_unless_granted() {
        let at_limit = long_functions(&file("core/x.rs", function_of(70)));
        assert!(at_limit.is_empty());
        let over = long_functions(&file("core/x.rs", function_of(71)));
        assert_eq!(too_long(&over, &Granted::new()).len(), 1);
        let granted = parse_granted("71 core/x.rs::f\n").unwrap();
        assert!(too_long(&over, &granted).is_empty());
        let longer = long_functions(&file("core/x.rs", function_of(72)));
        assert_eq!(too_long(&longer, &granted).len(), 1);
    }

    #[test]
    fn accepting_only_shrinks() {
        let granted = parse_granted("90 a::f\n80 a::g\n75 a::h").unwrap();
        let long = parse_granted("85 a::f\n99 a::g\n71 a::new").unwrap();
        assert_eq!(shrink(&granted, &long), parse_granted("85 a::f\n80 a::g").unwrap());
    }

    #[test]
    fn a_file_over_the_limit_fails_but_its_tests_do_not_count() {
        let body = "x\n".repeat(1000);
        assert!(long_files(&file("a.rs", format!("{body}#[cfg(test)]\nmod tests {{\n}}\n"))).is_empty());
        assert_eq!(long_files(&file("a.rs", format!("{body}x\n"))).len(), 1);
    }

    #[test]
    fn a_broken_grant_is_named() {
        assert!(parse_granted("many a::f").unwrap_err().to_string().contains("many"));
    }
}
