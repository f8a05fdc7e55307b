//! Golden texts of mistakes, and what a good file means.

use std::path::Path;
use std::time::Duration;

use super::{AutomaticGiveback, Config, Look, NodeName, Provider, fold_name};

const EXAMPLE: &str = include_str!("../../../../docs/pair.example.toml");

/// A file without mistakes, short enough to see what a test changes.
const GOOD: &str = r#"[pair]
name = "office"

[node.a]
interconnect = "127.0.0.1:7100"
portals = ["127.0.0.1:3260"]
target = "iqn.2026-01.com.example:a"
state = "a"

[node.b]
interconnect = "127.0.0.1:7200"
portals = ["127.0.0.1:3261"]
target = "iqn.2026-01.com.example:b"
state = "b"

[[lock_disk]]
name = "l0"
url = "iscsi://127.0.0.1:3300/iqn.2026-01.com.example:shelf/0"

[[disk]]
name = "d0"
url = "iscsi://127.0.0.1:3300/iqn.2026-01.com.example:shelf/1"

[[disk]]
name = "d1"
url = "iscsi://127.0.0.1:3300/iqn.2026-01.com.example:shelf/2"

[[pool]]
name = "fast"
home = "a"
mirrors = [["d0", "d1"]]
"#;

fn read(text: &str) -> Result<Config, String> {
    Config::parse(Path::new("/etc/pair.toml"), text).map_err(|error| error.render(Look::Plain))
}

/// What is reported when `from` in the good file is replaced by `to`.
fn report(from: &str, to: &str) -> String {
    assert!(GOOD.contains(from), "the good file has `{from}`");
    read(&GOOD.replacen(from, to, 1)).expect_err("a mistake")
}

/// A megabyte of something else: every line a mistake, only the first few shown.
#[test]
fn a_file_of_mistakes_is_reported_in_part() {
    let text: String = (0..60_000).map(|number| format!("key{number} = {number}\n")).collect();
    let report = read(&text).expect_err("nothing but mistakes");
    assert!(report.contains("unknown key `key0`") && !report.contains("unknown key `key40`"), "{:.2000}", report);
    assert!(report.contains("only the first 30 are shown") && report.len() < 64 << 10);
}

#[test]
fn the_annotated_example_is_a_good_file() {
    let config = read(EXAMPLE).unwrap_or_else(|report| panic!("{report}"));
    assert_eq!(config.pair.id, 0x5a3c);
    assert_eq!(config.provider, Provider::Verbs);
    assert_eq!(config.lock_disks[2].urls[0].portal, "10.9.0.1:3260".parse().expect("an address"));
    assert_eq!(config.lock_disks[2].url(NodeName::B).portal, "10.9.0.2:3260".parse().expect("an address"));
    assert_eq!(config.pools[1].home, NodeName::B);
    assert_eq!(config.pools[1].mirrors, [[2, 3]]);
}

#[test]
fn every_default_shown_in_the_example_is_the_real_one() {
    let spelled: String = EXAMPLE
        .lines()
        .map(|line| if line.starts_with('#') && line.contains(" = ") { &line[1..] } else { line })
        .fold(String::new(), |all, line| all + line + "\n");
    let mut spelled = read(&spelled).unwrap_or_else(|report| panic!("{report}"));
    let config = read(EXAMPLE).unwrap_or_else(|report| panic!("{report}"));
    spelled.file.clone_from(&config.file);
    assert_eq!(spelled, config);
}

#[test]
fn the_shortest_good_file_has_the_defaults_of_the_failover_core() {
    let config = read(GOOD).unwrap_or_else(|report| panic!("{report}"));
    let core = understudy_failover::config::Timing::default();
    let micros = |length: Duration| length.as_micros() as u64;
    assert_eq!(micros(config.timing.poll), core.poll_routine.0);
    assert_eq!(micros(config.timing.poll_brisk), core.poll_brisk.0);
    assert_eq!(micros(config.timing.heartbeat), core.heartbeat.0);
    assert_eq!(micros(config.timing.silent), core.wait_long.0);
    assert_eq!(micros(config.timing.gone), core.wait_short.0);
    assert_eq!(micros(config.timing.boot), core.boot_wait.0);
    assert_eq!(micros(config.timing.retry), core.retry.0);
    assert_eq!(micros(config.timing.handoff), core.hold_limit.0);
    assert!(matches!(config.giveback, AutomaticGiveback::Within { limit: 3, .. }));
    assert_eq!(config.event_log_bytes, 32 << 20);
    assert_eq!(config.provider, Provider::Tcp);
    assert_eq!(config.pair.preferred, NodeName::A);
}

#[test]
fn relative_paths_are_relative_to_the_file() {
    let config = read(GOOD).unwrap_or_else(|report| panic!("{report}"));
    assert_eq!(config.node(NodeName::A).state, Path::new("/etc/a"));
    assert_eq!(config.node(NodeName::B).admin, Path::new("/etc/b/admin.sock"));
}

#[test]
fn numbers_derived_from_names_never_change() {
    // They stand on disks: a release that derives others does not find its pools.
    assert_eq!([fold_name("fast"), fold_name("bulk"), fold_name("office")], [59, 34068, 4287]);
    assert_eq!(read(GOOD).expect("good").pair.id, 4287);
}

/// One change of the good file each, and in `mistakes.golden.txt` what is then reported.
const MISTAKES: &[(&str, &str, &str)] = &[
    ("unknown key with a neighbour", "portals = [\"127.0.0.1:3260\"]", "portal = [\"127.0.0.1:3260\"]"),
    ("unknown key without one", "name = \"office\"", "name = \"office\"\ncolour = \"blue\""),
    ("unknown table", "[node.a]", "[timings]\n[node.a]"),
    ("wrong type", "state = \"a\"", "state = 7"),
    ("wrong type of a list", "portals = [\"127.0.0.1:3260\"]", "portals = \"127.0.0.1:3260\""),
    ("single table where several are expected", "[[pool]]", "[pool]"),
    ("not TOML", "home = \"a\"", "home = a"),
    ("missing key", "target = \"iqn.2026-01.com.example:b\"\n", ""),
    ("missing table", "[pair]\nname = \"office\"\n", ""),
    ("number out of range", "[node.a]", "[timing]\npoll_ms = 0\n[node.a]"),
    ("contradicting times", "[node.a]", "[timing]\nheartbeat_ms = 400\n[node.a]"),
    ("no such provider", "[node.a]", "[interconnect]\nprovider = \"rdma\"\n[node.a]"),
    ("no such node", "home = \"a\"", "home = \"c\""),
    ("unusable pair id", "name = \"office\"", "name = \"office\"\nid = \"0000\""),
    ("unusable name", "name = \"fast\"", "name = \"Fast Pool\""),
    ("wrong word for automatic", "[node.a]", "[giveback]\nautomatic = \"no\"\n[node.a]"),
    ("event log too large", "[node.a]", "[event_log]\nsize_mib = 4096\n[node.a]"),
    ("unknown key of the event log", "[node.a]", "[event_log]\nsize = 64\n[node.a]"),
    ("disk name used twice", "name = \"d1\"", "name = \"d0\""),
    ("lock disk and disk of one name", "name = \"d1\"", "name = \"l0\""),
    ("one logical unit twice", "shelf/2", "shelf/1"),
    ("unknown disk in a mirror", "\"d1\"]]", "\"d11\"]]"),
    ("disk used twice", "[[\"d0\", \"d1\"]]", "[[\"d0\", \"d0\"]]"),
    ("mirror of three", "[[\"d0\", \"d1\"]]", "[[\"d0\", \"d1\", \"d0\"]]"),
    (
        "two lock disks",
        "[[disk]]",
        "[[lock_disk]]\nname = \"l1\"\nurl = \"iscsi://127.0.0.1:3300/iqn.2026-01.com.example:shelf/9\"\n\n[[disk]]",
    ),
    ("same portal on both nodes", "127.0.0.1:3261", "127.0.0.1:3260"),
    ("interconnect where a portal is", "127.0.0.1:7200", "127.0.0.1:3260"),
    ("portal on every address", "127.0.0.1:3261", "0.0.0.0:3261"),
    ("address without a port", "127.0.0.1:3261", "127.0.0.1"),
    ("same target on both nodes", "iqn.2026-01.com.example:b", "iqn.2026-01.com.example:a"),
    ("target that is no iSCSI name", "iqn.2026-01.com.example:b", "Node B"),
    ("same folder for both nodes", "state = \"b\"", "state = \"a\""),
    ("plain file as a disk", "iscsi://127.0.0.1:3300/iqn.2026-01.com.example:shelf/2", "/var/lib/disk.img"),
    ("url without a logical unit", "shelf/2", "shelf"),
    (
        "url with a name for an address",
        "iscsi://127.0.0.1:3300/iqn.2026-01.com.example:shelf/2",
        "iscsi://shelf/iqn.2026-01.com.example:shelf/2",
    ),
    ("no pool", "[[pool]]\nname = \"fast\"\nhome = \"a\"\nmirrors = [[\"d0\", \"d1\"]]\n", ""),
    ("several mistakes at once", "home = \"a\"", "home = \"x\"\nmirors = 1"),
];

/// To accept new texts after reading them: `UPDATE_GOLDEN=1 cargo test -p understudy golden`.
#[test]
fn every_mistake_is_reported_as_in_the_golden_file() {
    let mut all = String::new();
    for (title, from, to) in MISTAKES {
        all += &format!("==== {title}\n{}\n", report(from, to));
    }
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/config/mistakes.golden.txt");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&golden, &all).expect("the golden file can be written");
    }
    let expected = std::fs::read_to_string(&golden).expect("the golden file");
    for (found, expected) in all.split("==== ").zip(expected.split("==== ")) {
        assert_eq!(found, expected);
    }
    assert_eq!(all.len(), expected.len(), "every case has its text");
}

#[test]
fn socket_path_longer_than_the_system_allows_is_reported() {
    let long = "x".repeat(120);
    let report = report("state = \"b\"", &format!("state = \"{long}\""));
    assert!(report.contains("too long") && report.contains("give a shorter path as `admin`"), "{report}");
}

#[test]
fn missing_file_is_reported_with_its_path_and_what_to_do() {
    let error = Config::load(Path::new("/nonexistent/pair.toml")).expect_err("no such file");
    let text = error.render(Look::Plain);
    assert!(text.contains("/nonexistent/pair.toml") && text.contains("--pair FILE"), "{text}");
}

#[test]
fn no_piece_of_the_example_makes_reading_panic() {
    // Every prefix, and every line left out: syntax errors, missing keys, dangling references.
    for end in (0..EXAMPLE.len()).filter(|end| EXAMPLE.is_char_boundary(*end)).step_by(7) {
        drop(read(&EXAMPLE[..end]));
    }
    let lines: Vec<&str> = EXAMPLE.lines().collect();
    for left_out in 0..lines.len() {
        let text: String =
            lines.iter().enumerate().filter(|(n, _)| *n != left_out).map(|(_, l)| format!("{l}\n")).collect();
        drop(read(&text));
    }
}
