//! The layer check: arrows between crates point down, and `spec` and `core` stay without the world.
//!
//! A crate may use crates of its own layer (cargo itself refuses cycles) and of the layers below. What `spec` and
//! `core` must not touch is looked for as words of the code, tests included: a clock in a test of the failover machine
//! would make that test depend on the machine it runs on.

use anyhow::Result;

use crate::source::{Token, tokens};
use crate::workspace::{self, Crate, LAYERS, Purpose, SourceFile};

/// Words no file of `spec` or `core` may hold, and why.
const FORBIDDEN_WORDS: [(&str, &str); 13] = [
    ("Instant", "a clock"),
    ("SystemTime", "a clock"),
    ("async", "async code"),
    ("await", "async code"),
    ("unsafe", "unsafe code"),
    ("HashMap", "a map of random order"),
    ("HashSet", "a set of random order"),
    ("RandomState", "randomness"),
    ("TcpStream", "a socket"),
    ("TcpListener", "a socket"),
    ("UdpSocket", "a socket"),
    ("UnixStream", "a socket"),
    ("Mutex", "a lock, which only threads need"),
];

/// Crates `spec` and `core` may neither name in code nor depend on, tests excepted for the latter.
const FORBIDDEN_CRATES: [(&str, &str); 12] = [
    ("tokio", "a runtime"),
    ("futures", "async code"),
    ("futures_util", "async code"),
    ("rand", "randomness"),
    ("getrandom", "randomness"),
    ("fastrand", "randomness"),
    ("socket2", "sockets"),
    ("mio", "sockets"),
    ("libc", "the operating system"),
    ("nix", "the operating system"),
    ("rustix", "the operating system"),
    ("crossbeam", "threads"),
];

/// Modules of the standard library `spec` and `core` must not name.
const FORBIDDEN_MODULES: [(&str, &str); 6] = [
    ("net", "sockets"),
    ("thread", "threads"),
    ("fs", "files"),
    ("process", "processes"),
    ("env", "the environment"),
    ("os", "the operating system"),
];

/// Modules that integration tests of `spec` and `core` may name all the same: golden files, and a seed or a count given by
/// whoever runs them. What is tested still gets neither.
const GRANTED_TO_TESTS: [&str; 2] = ["fs", "env"];

/// What a build script of theirs may name: it reads sources on the machine that builds, and nothing of it is in what is built.
const GRANTED_TO_BUILD_SCRIPTS: [&str; 1] = ["fs"];

/// Layers that must stay without the world.
const PURE: [&str; 2] = ["spec", "core"];

/// Checks the workspace.
pub(crate) fn run() -> Result<()> {
    let crates = workspace::crates()?;
    let files = workspace::source_files()?;
    let mut complaints = upward_arrows(&crates);
    complaints.extend(forbidden_dependencies(&crates));
    complaints.extend(missing_forbid_unsafe(&crates, &files));
    complaints.extend(files.iter().flat_map(|file| worldly_words(&file.path, &file.text)));
    workspace::conclude("layers", &complaints)
}

fn height(layer: &str) -> Option<usize> {
    LAYERS.iter().position(|known| *known == layer)
}

/// Crates outside the layers, and dependencies on a higher layer.
fn upward_arrows(crates: &[Crate]) -> Vec<String> {
    let mut complaints = Vec::new();
    for from in crates {
        let Some(own) = height(&from.layer) else {
            complaints.push(format!("{} lies in {}, which is no layer", from.name, from.folder.display()));
            continue;
        };
        for arrow in &from.dependencies {
            let target = crates.iter().find(|candidate| candidate.name == arrow.name);
            let Some(to) = target else { continue };
            if height(&to.layer).is_some_and(|other| other > own) {
                let (from, below, to, above) = (&from.name, &from.layer, &to.name, &to.layer);
                complaints.push(format!("{from} ({below}) depends on {to} ({above}): arrows point down only"));
            }
        }
    }
    complaints
}

fn forbidden_dependencies(crates: &[Crate]) -> Vec<String> {
    let mut complaints = Vec::new();
    for pure in crates.iter().filter(|candidate| PURE.contains(&candidate.layer.as_str())) {
        for arrow in pure.dependencies.iter().filter(|arrow| arrow.purpose != Purpose::Tests) {
            let name = arrow.name.replace('-', "_");
            if let Some((_, why)) = FORBIDDEN_CRATES.iter().find(|(forbidden, _)| *forbidden == name) {
                complaints.push(format!("{} ({}) depends on {}: {why}", pure.name, pure.layer, arrow.name));
            }
        }
    }
    complaints
}

fn missing_forbid_unsafe(crates: &[Crate], files: &[SourceFile]) -> Vec<String> {
    let pure = crates.iter().filter(|candidate| PURE.contains(&candidate.layer.as_str()));
    let roots = pure.map(|pure| pure.folder.join("src/lib.rs").to_string_lossy().into_owned());
    let lacks = |root: &String| {
        let file = files.iter().find(|file| file.path == *root);
        !file.is_some_and(|file| file.text.contains("#![forbid(unsafe_code)]"))
    };
    roots.filter(lacks).map(|root| format!("{root}: lacks #![forbid(unsafe_code)]")).collect()
}

/// What a file of `spec` or `core` names that it must not; nothing for files of other layers.
fn worldly_words(path: &str, text: &str) -> Vec<String> {
    if !PURE.iter().any(|layer| path.starts_with(&format!("{layer}/"))) {
        return Vec::new();
    }
    let tokens = tokens(text);
    let granted_here: &[&str] = match path.split('/').nth(2) {
        Some("tests") => &GRANTED_TO_TESTS,
        Some("build.rs") => &GRANTED_TO_BUILD_SCRIPTS,
        Some(_) | None => &[],
    };
    let granted = |at: usize| granted_here.contains(&tokens[at].text.as_str());
    let found = |at: usize| worldly_word(&tokens, at).filter(|_| !granted(at)).map(|why| (at, why));
    let complaints = (0..tokens.len()).filter_map(found);
    complaints.map(|(at, why)| format!("{path}:{}: `{}` is {why}", tokens[at].line, tokens[at].text)).collect()
}

fn worldly_word(tokens: &[Token], at: usize) -> Option<&'static str> {
    let word = tokens[at].text.as_str();
    let reason = |table: &[(&str, &'static str)]| table.iter().find(|(known, _)| *known == word).map(|(_, why)| *why);
    let names_a_path = |at: usize| tokens.get(at + 1).is_some_and(|next| next.is(":")) && colon(tokens, at + 2);
    if let Some(why) = reason(&FORBIDDEN_WORDS) {
        return Some(why);
    }
    if let Some(why) = reason(&FORBIDDEN_CRATES) {
        let used = at > 0 && (tokens[at - 1].is("use") || tokens[at - 1].is("crate"));
        return (names_a_path(at) || used).then_some(why);
    }
    reason(&FORBIDDEN_MODULES).filter(|_| is_module_of_std(tokens, at))
}

fn colon(tokens: &[Token], at: usize) -> bool {
    tokens.get(at).is_some_and(|token| token.is(":"))
}

/// Whether the word at `at` is named right below `std`, as `std::word` or first in a branch of `std::{…}`.
fn is_module_of_std(tokens: &[Token], at: usize) -> bool {
    let behind_std = |at: usize| at >= 3 && colon(tokens, at - 1) && colon(tokens, at - 2) && tokens[at - 3].is("std");
    if behind_std(at) {
        return true;
    }
    // In a group: the branch must begin here, and the brace that opens the group must stand behind `std::`.
    let begins_branch = at > 0 && (tokens[at - 1].is("{") || tokens[at - 1].is(","));
    begins_branch && opening_brace(tokens, at).is_some_and(behind_std)
}

/// The innermost `{` open before `at`.
fn opening_brace(tokens: &[Token], at: usize) -> Option<usize> {
    let mut closed = 0;
    for index in (0..at).rev() {
        match tokens[index].text.as_str() {
            "}" => closed += 1,
            "{" if closed == 0 => return Some(index),
            "{" => closed -= 1,
            ";" => return None, // An import ends here, and so does the search.
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workspace::Dependency;

    fn member(path: &str, depends_on: &[&str], purpose: Purpose) -> Crate {
        let (layer, name) = path.split_once('/').unwrap();
        let dependencies = depends_on.iter().map(|name| Dependency { name: (*name).to_owned(), purpose }).collect();
        Crate { name: name.to_owned(), layer: layer.to_owned(), folder: path.into(), dependencies }
    }

    #[test]
    fn an_upward_arrow_fails() {
        for purpose in [Purpose::Product, Purpose::Build, Purpose::Tests] {
            let crates = [member("core/unit", &["portal"], purpose), member("io/portal", &[], purpose)];
            let complaints = upward_arrows(&crates);
            assert_eq!(complaints.len(), 1, "{purpose:?}");
            assert!(complaints[0].contains("unit (core) depends on portal (io)"), "{complaints:?}");
        }
    }

    #[test]
    fn arrows_down_and_within_a_layer_pass() {
        let crates = [
            member("io/portal", &["unit", "device", "tokio"], Purpose::Product),
            member("io/device", &["unit"], Purpose::Product),
            member("core/unit", &[], Purpose::Product),
        ];
        assert!(upward_arrows(&crates).is_empty());
        assert!(forbidden_dependencies(&crates).is_empty());
    }

    #[test]
    fn a_crate_outside_the_layers_fails() {
        assert_eq!(upward_arrows(&[member("tools/thing", &[], Purpose::Product)]).len(), 1);
    }

    #[test]
    fn a_runtime_in_core_fails_as_dependency_but_not_in_its_tests() {
        assert_eq!(forbidden_dependencies(&[member("core/unit", &["tokio"], Purpose::Product)]).len(), 1);
        assert_eq!(forbidden_dependencies(&[member("spec/scsi", &["getrandom"], Purpose::Build)]).len(), 1);
        assert!(forbidden_dependencies(&[member("core/unit", &["rand"], Purpose::Tests)]).is_empty());
    }

    #[test]
    fn a_clock_in_core_fails_however_it_is_imported() {
        for code in [
            "use std::time::Instant;",
            "use std::{time::{Duration, Instant}, fmt};",
            "fn f() { let now = std::time::SystemTime::now(); }",
        ] {
            assert_eq!(worldly_words("core/failover/src/machine.rs", code).len(), 1, "{code}");
        }
    }

    #[test]
    fn sockets_threads_and_runtimes_fail_in_core_and_spec() {
        for code in [
            "use std::net::SocketAddr;",
            "use std::{fmt, net::IpAddr};",
            "use std::{fmt::{self, Display}, thread};",
            "fn f() { std::thread::yield_now(); }",
            "use tokio::sync::Notify;",
            "fn f() { tokio::spawn(g()); }",
            "async fn f() {}",
            "use std::collections::HashMap;",
            "fn f() { unsafe { g() } }",
            "fn f() -> u64 { rand::random() }",
        ] {
            assert_eq!(worldly_words("core/unit/src/lib.rs", code).len(), 1, "{code}");
            assert_eq!(worldly_words("spec/scsi/src/lib.rs", code).len(), 1, "{code}");
            assert!(worldly_words("io/disk/src/lib.rs", code).is_empty(), "{code}");
        }
    }

    #[test]
    fn a_build_script_reads_files_but_no_clock() {
        let code = "use std::fs; use std::time::Instant;";
        assert_eq!(worldly_words("core/eventlog/build.rs", code).len(), 1);
        assert_eq!(worldly_words("core/eventlog/src/build.rs", code).len(), 2);
    }

    #[test]
    fn integration_tests_read_golden_files_and_seeds_but_no_clock() {
        let code = "use std::{env, fs};";
        assert!(worldly_words("core/failover/tests/golden.rs", code).is_empty());
        assert_eq!(worldly_words("core/failover/src/machine.rs", code).len(), 2);
        assert_eq!(worldly_words("core/failover/tests/golden.rs", "use std::time::Instant;").len(), 1);
    }

    #[test]
    fn words_of_comments_strings_and_other_paths_pass() {
        for code in [
            "//! No Instant, no tokio, nothing async.",
            "const X: &str = \"std::net and unsafe\";",
            "use std::time::Duration;",
            "#![forbid(unsafe_code)]",
            "struct S { process: u8, thread: u8, rand: u8 }",
            "use crate::net::Portal;",
            "mod fs;",
        ] {
            assert!(worldly_words("core/unit/src/lib.rs", code).is_empty(), "{code}");
        }
    }

    #[test]
    fn a_core_crate_without_forbid_unsafe_fails() {
        let crates = [member("core/unit", &[], Purpose::Product)];
        let file = |text: &str| [SourceFile { path: "core/unit/src/lib.rs".to_owned(), text: text.to_owned() }];
        assert_eq!(missing_forbid_unsafe(&crates, &file("//! Text.")).len(), 1);
        assert!(missing_forbid_unsafe(&crates, &file("#![forbid(unsafe_code)]")).is_empty());
    }
}
