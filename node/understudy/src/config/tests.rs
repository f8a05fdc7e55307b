//! Golden texts of mistakes, and what a good file means.

use std::path::Path;
use std::time::Duration;

use super::{AutomaticGiveback, AutomaticTakeover, Config, Look, NodeName, OnEnd, Provider, fold_name};

const EXAMPLE: &str = include_str!("../../../../docs/pair.example.toml");

/// A file without mistakes, short enough to see what a test changes.
pub(crate) const GOOD: &str = r#"[pair]
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

#[test]
fn managed_portals_are_on_the_interface_of_the_node_that_has_them() {
    let managed = r#"portals = ["127.0.0.1:3260", { address = "10.0.0.1:3260", interface = "eth1" },
        { address = "[fd00::1]:3260", interface = { a = "eth1", b = "ens3" }, prefix = 64 }]"#;
    let config =
        read(&GOOD.replacen("portals = [\"127.0.0.1:3260\"]", managed, 1)).unwrap_or_else(|report| panic!("{report}"));
    assert!(config.manages_addresses());
    assert!(!read(GOOD).unwrap_or_else(|report| panic!("{report}")).manages_addresses());
    let node = config.node(NodeName::A);
    assert_eq!(node.portals.len(), 3);
    let on = |host| -> Vec<_> {
        let managed = node.managed_on(host).into_iter();
        managed.map(|one| format!("{}/{} {}", one.address, one.prefix, one.interface)).collect()
    };
    assert_eq!(on(NodeName::A), ["10.0.0.1/32 eth1", "fd00::1/64 eth1"]);
    assert_eq!(on(NodeName::B), ["10.0.0.1/32 eth1", "fd00::1/64 ens3"]);
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

/// The example with keys that are commented out written out: those of its sections, or of the entry that is commented out as a whole.
fn spelled_out(entries: bool) -> String {
    let mut in_entry = false;
    let mut spelled = String::new();
    for line in EXAMPLE.lines() {
        in_entry = line.starts_with("#[[") || in_entry && !line.is_empty();
        let is_key = line.starts_with('#') && (line.contains(" = ") || line.starts_with("#[["));
        spelled += if is_key && in_entry == entries { &line[1..] } else { line };
        spelled += "\n";
    }
    spelled
}

#[test]
fn every_default_shown_in_the_example_is_the_real_one() {
    let spelled = spelled_out(false);
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
    assert_eq!(micros(config.timing.ended), core.wait_ended.0);
    assert_eq!(micros(config.timing.closed), core.wait_closed.0);
    assert_eq!(micros(config.timing.boot), core.boot_wait.0);
    assert_eq!(micros(config.timing.retry), core.retry.0);
    assert_eq!(micros(config.timing.handoff), core.hold_limit.0);
    assert!(matches!(config.giveback, AutomaticGiveback::Within { limit: 3, .. }));
    assert_eq!(config.giveback_delay, Duration::ZERO);
    assert_eq!(config.takeover, AutomaticTakeover { on_panic: OnEnd::TakeOver, on_halt: OnEnd::TakeOver });
    assert_eq!(config.event_log_bytes, 32 << 20);
    assert_eq!(config.provider, Provider::Tcp);
    assert_eq!(config.pair.preferred, NodeName::A);
}

#[test]
fn policy_is_read_as_it_stands_there() {
    let policy = "[giveback]\ndelay_ms = 1500\n[takeover]\non_halt = \"no\"\n[node.a]";
    let config = read(&GOOD.replace("[node.a]", policy)).unwrap_or_else(|report| panic!("{report}"));
    assert_eq!(config.giveback_delay, Duration::from_millis(1_500));
    assert_eq!(config.takeover, AutomaticTakeover { on_panic: OnEnd::TakeOver, on_halt: OnEnd::Leave });
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

#[test]
fn the_initiator_shown_in_the_example_is_a_good_one() {
    let config = read(&spelled_out(true)).unwrap_or_else(|report| panic!("{report}"));
    assert!(config.has_secrets());
    let shown = format!("{config:?}");
    assert!(shown.contains("redhat:web1") && shown.contains("office:a") && shown.contains("\"web1\""), "{shown}");
    for secret in ["9f3c54d0b7a8e621", "27d1e60b93f8a4c5", "b06d7c31e58f92a4", "4e91a7d0c3582bf6"] {
        assert!(EXAMPLE.contains(secret) && !shown.contains(secret));
    }
    let proof = config.disk_options(config.disks[0].url(NodeName::A)).proof.expect("the shelf has an entry");
    assert_eq!(proof.credentials.initiator.user, "office");
    assert_eq!(proof.algorithms, [understudy_iscsi::chap::ChapAlgorithm::Sha256]);
    assert_eq!(proof.credentials.target.expect("mutual").user, "shelf");
    assert_eq!(config.audiences.listed().collect::<Vec<_>>(), ["accounts"]);
}

/// An entry to be appended to the good file.
const INITIATOR: &str = "\n[[initiator]]\nname = \"iqn.2026-01.com.example:web\"\nnodes = [\"b\"]\nuser = \"web\"\nsecret = \"open sesame, please\"\nown_secret = \"sesame is open, do enter\"\n";

#[test]
fn initiators_are_let_in_to_the_targets_of_the_nodes_they_are_given() {
    use understudy_portal::access::{ALGORITHMS, Access, AccessList, Credentials, Grant, Identity, Scope};
    use understudy_portal::secret::Secret;
    assert_eq!(*read(GOOD).expect("good").access, Access::Everyone);
    let identity =
        |user: &str, secret: &[u8]| Identity { user: user.to_owned(), secret: Secret::new(secret).expect("long") };
    let credentials = Credentials {
        initiator: identity("web", b"open sesame, please"),
        target: Some(identity("office", b"sesame is open, do enter")),
    };
    let scope = Scope::Only(vec!["iqn.2026-01.com.example:b".to_owned()]);
    let web = ("iqn.2026-01.com.example:web".to_owned(), Grant { scope, credentials: Some(credentials) });
    let plain = "\n[[initiator]]\nname = \"iqn.2026-01.com.example:old\"\n";
    let old = ("iqn.2026-01.com.example:old".to_owned(), Grant { scope: Scope::EveryTarget, credentials: None });
    let config = read(&format!("{GOOD}{INITIATOR}{plain}")).unwrap_or_else(|report| panic!("{report}"));
    let expected = AccessList::new([web, old], ALGORITHMS.to_vec());
    assert_eq!(config.portal_options().access, std::sync::Arc::new(Access::Listed(expected)));
}

#[test]
fn a_name_alone_is_no_secret_and_user_names_have_defaults() {
    let plain = "\n[[initiator]]\nname = \"iqn.2026-01.com.example:old\"\n";
    assert!(!read(&format!("{GOOD}{plain}")).expect("good").has_secrets());
    let config = read(&format!("{GOOD}{plain}secret = \"open sesame, please\"\n")).expect("good");
    let shown = format!("{:?}", config.access);
    assert!(config.has_secrets() && shown.contains("user: \"iqn.2026-01.com.example:old\""), "{shown}");
}

/// An entry to be appended to the good file with its initiator.
const VOLUME: &str = "\n[[volume]]\nname = \"books\"\ninitiators = [\"iqn.2026-01.com.example:web\"]\n";

#[test]
fn volumes_are_seen_by_those_they_name_and_by_everyone_if_they_name_nobody() {
    use understudy_device::Audience;
    assert_eq!(*read(GOOD).expect("good").audiences.of("books"), Audience::Everyone);
    let web = Audience::only(["iqn.2026-01.com.example:web"]);
    let good = |text: &str| read(&format!("{GOOD}{text}")).unwrap_or_else(|report| panic!("{report}"));
    let config = good(&format!("{INITIATOR}{VOLUME}\n[[volume]]\nname = \"open\"\n"));
    assert_eq!(
        ["books", "open", "other"].map(|name| config.audiences.of(name).clone()),
        [web.clone(), Audience::Everyone, Audience::Everyone]
    );
    // The initiator may use the volumes of node b only.
    assert!(config.nobody_sees("books", NodeName::A) && !config.nobody_sees("books", NodeName::B));
    assert!(!config.nobody_sees("other", NodeName::A));
    let config = good(&format!("[access]\nunlisted_volumes = \"nobody\"\n{VOLUME}[[volume]]\nname = \"open\"\n"));
    assert_eq!(config.audiences.of("books"), &web);
    assert_eq!(config.audiences.of("open"), &Audience::Everyone);
    assert!(config.nobody_sees("other", NodeName::A) && !config.nobody_sees("books", NodeName::A));
    assert_eq!(config.audiences.listed().collect::<Vec<_>>(), ["books", "open"]);
}

#[test]
fn limits_reach_the_portals() {
    let limits = "[limits]\nconnections = 9\nlogins = 8\nsessions_per_initiator = 7\ncommands = 6\nmemory_mib = 50\nlogin_ms = 4000\nping_ms = 3000\n";
    let options = read(&format!("{limits}{GOOD}")).unwrap_or_else(|report| panic!("{report}")).portal_options();
    assert_eq!((options.connections_max, options.logins_max, options.sessions_per_initiator_max), (9, 8, 7));
    assert_eq!((options.limits.window, options.memory_bytes), (6, 50 << 20));
    let limits = &options.limits;
    assert_eq!([limits.login.0, limits.ping_after.0, limits.ping_timeout.0], [4_000_000, 3_000_000, 3_000_000]);
}

/// One change each of the good file with an initiator.
const ACCESS_MISTAKES: &[(&str, &str, &str)] = &[
    ("initiator without a name", "name = \"iqn.2026-01.com.example:web\"\n", ""),
    ("initiator that has no iSCSI name", "name = \"iqn.2026-01.com.example:web\"", "name = \"web\""),
    ("secret that is too short", "open sesame, please", "sesame"),
    ("unknown key that may hold a secret", "secret = \"open", "secert = \"open"),
    ("secret that is no text", "\"open sesame, please\"", "123456789012345678"),
    ("one secret for both directions", "sesame is open, do enter", "open sesame, please"),
    ("user without a secret", "secret = \"open sesame, please\"\nown_secret = \"sesame is open, do enter\"\n", ""),
    ("own secret without a secret", "secret = \"open sesame, please\"\n", ""),
    ("unknown node of an initiator", "nodes = [\"b\"]", "nodes = [\"c\"]"),
    ("initiator that may use nothing", "nodes = [\"b\"]", "nodes = []"),
    ("quote that is not closed in a secret", "do enter\"", "do enter"),
    ("no such algorithm", "\n[[initiator]]", "\n[access]\nalgorithms = [\"sha256\"]\n[[initiator]]"),
    ("no algorithm", "\n[[initiator]]", "\n[access]\nalgorithms = []\n[[initiator]]"),
    ("limit out of range", "\n[[initiator]]", "\n[limits]\nconnections = 0\n[[initiator]]"),
    (
        "shelf that no disk is on",
        "\n[[initiator]]",
        "\n[[shelf]]\ntarget = \"iqn.2026-01.com.example:shell\"\nown_secret = \"knock three times\"\n[[initiator]]",
    ),
    (
        "shelf without a secret of the pair, with a user without one",
        "\n[[initiator]]",
        "\n[[shelf]]\ntarget = \"iqn.2026-01.com.example:shelf\"\nuser = \"shelf\"\n[[initiator]]",
    ),
    (
        "shelf named twice, with one secret for all",
        "\n[[initiator]]",
        "\n[[shelf]]\ntarget = \"iqn.2026-01.com.example:shelf\"\nown_secret = \"knock three times\"\n[[shelf]]\ntarget = \"iqn.2026-01.com.example:shelf\"\nown_secret = \"knock three times\"\nsecret = \"open sesame, please\"\n[[initiator]]",
    ),
    ("no such word for unlisted volumes", "\n[[initiator]]", "\n[access]\nunlisted_volumes = \"web\"\n[[initiator]]"),
    ("volume without a name", "\n[[initiator]]", "\n[[volume]]\ninitiators = []\n[[initiator]]"),
    (
        "volume seen by one who can not log in",
        "\n[[initiator]]",
        "\n[[volume]]\nname = \"v\"\ninitiators = [\"iqn.2026-01.com.example:webb\", \"iqn.1991-05.org:x\"]\n[[initiator]]",
    ),
    (
        "volume with a wrong name and one of no initiator",
        "\n[[initiator]]",
        "\n[[volume]]\nname = \"A volume\"\ninitiators = [\"web\"]\nlun = 3\n[[initiator]]",
    ),
    (
        "volume named twice, with an initiator named twice",
        "\n[[initiator]]",
        "\n[[volume]]\nname = \"v\"\n[[volume]]\nname = \"v\"\ninitiators = [\"iqn.2026-01.com.example:web\", \"iqn.2026-01.com.example:web\"]\n[[initiator]]",
    ),
    (
        "one secret for two initiators",
        "\n[[initiator]]",
        "\n[[initiator]]\nname = \"iqn.2026-01.com.example:two\"\nsecret = \"open sesame, please\"\n[[initiator]]",
    ),
    (
        "initiator named twice",
        "\n[[initiator]]",
        "\n[[initiator]]\nname = \"iqn.2026-01.com.example:web\"\n[[initiator]]",
    ),
];

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
    ("delay without an end", "[node.a]", "[giveback]\ndelay_ms = 86400001\n[node.a]"),
    ("wrong words for a takeover", "[node.a]", "[takeover]\non_panic = \"never\"\non_halt = true\n[node.a]"),
    ("unknown key of takeovers", "[node.a]", "[takeover]\nonreboot = \"no\"\n[node.a]"),
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
    (
        "one node that forwards",
        "interconnect = \"127.0.0.1:7200\"",
        "interconnect = \"127.0.0.1:7200\"\nforward = \"127.0.0.1:7201\"",
    ),
    (
        "commands forwarded to where a portal is",
        "interconnect = \"127.0.0.1:7200\"",
        "interconnect = \"127.0.0.1:7200\"\nforward = \"127.0.0.1:3260\"",
    ),
    ("same portal on both nodes", "127.0.0.1:3261", "127.0.0.1:3260"),
    ("interconnect where a portal is", "127.0.0.1:7200", "127.0.0.1:3260"),
    ("portal on every address", "127.0.0.1:3261", "0.0.0.0:3261"),
    ("address without a port", "127.0.0.1:3261", "127.0.0.1"),
    (
        "managed portal without an address or an interface",
        "\"127.0.0.1:3260\"",
        "{ adress = \"10.0.0.1:3260\" }, { address = \"10.0.0.2:3260\", interfaces = \"eth1\" }",
    ),
    ("interface that no machine has", "\"127.0.0.1:3260\"", "{ address = \"10.0.0.1:3260\", interface = \"eth 1\" }"),
    (
        "interface of one node only",
        "\"127.0.0.1:3260\"",
        "{ address = \"10.0.0.1:3260\", interface = { a = \"eth1\" } }",
    ),
    (
        "prefix that is too long",
        "\"127.0.0.1:3260\"",
        "{ address = \"10.0.0.1:3260\", interface = \"eth1\", prefix = 33 }",
    ),
    ("loopback that is managed", "\"127.0.0.1:3260\"", "{ address = \"127.0.0.1:3260\", interface = \"lo\" }"),
    (
        "one address managed and not",
        "\"127.0.0.1:3260\"",
        "\"10.0.0.1:3260\", { address = \"10.0.0.1:3261\", interface = \"eth1\" }",
    ),
    (
        "one address managed in two ways",
        "\"127.0.0.1:3260\"",
        "{ address = \"10.0.0.1:3260\", interface = \"eth1\" }, { address = \"10.0.0.1:3261\", interface = \"eth2\" }",
    ),
    (
        "managed address that is also the other node's",
        "\"127.0.0.1:3260\"",
        "{ address = \"10.0.0.1:3260\", interface = \"eth1\" }]\ntarget = \"iqn.2026-01.com.example:a\"\nstate = \"a\"\n\n[node.b]\ninterconnect = \"10.0.0.1:7200\"\nportals = [\"10.0.0.1:3261\"]\ntarget = \"iqn.2026-01.com.example:b\"\nstate = \"b\"\n\n[node.c]\nportals = [\"127.0.0.1:3260\"",
    ),
    ("a number among the portals", "\"127.0.0.1:3260\"", "3260"),
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
    for (title, from, to) in ACCESS_MISTAKES {
        assert!(INITIATOR.contains(from), "the entry has `{from}`");
        let report = read(&(GOOD.to_owned() + &INITIATOR.replacen(from, to, 1))).expect_err("a mistake");
        assert!(!report.contains("sesame"), "a secret is shown: {report}");
        all += &format!("==== {title}\n{report}\n");
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
fn file_with_secrets_that_everyone_may_read_is_refused() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("pair.toml");
    for (text, mode, refused) in [
        (format!("{GOOD}{INITIATOR}"), 0o644, true),
        (format!("{GOOD}{INITIATOR}"), 0o602, true),
        (format!("{GOOD}{INITIATOR}"), 0o640, false),
        (format!("{GOOD}{INITIATOR}"), 0o600, false),
        (GOOD.to_owned(), 0o644, false),
    ] {
        std::fs::write(&file, text).expect("it can be written");
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).expect("its mode can be set");
        match Config::load(&file) {
            Ok(_) => assert!(!refused, "{mode:o}"),
            Err(error) => {
                let text = error.render(Look::Plain);
                assert!(
                    refused && text.contains("chmod 600") && text.contains(&format!("{mode:04o}")),
                    "{mode:o}: {text}"
                );
                assert!(!text.contains("sesame"));
            }
        }
    }
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
