//! The program as an operator runs it: a whole pair on this machine, and every command against it.
//!
//! The processes are the real executable. Nothing here sleeps: states are waited for, with a limit far beyond what a
//! busy machine needs.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use understudy::config::NodeName;
use understudy::harness::{Pair, Plan, Signal, free_ports};

const LIMIT: Duration = Duration::from_secs(60);

fn program() -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_understudy"))
}

fn understudy(args: &[&str]) -> Output {
    Command::new(program()).args(args).stdin(Stdio::null()).output().expect("the program runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A pair whose shelf serves and whose disks are blank.
fn blank_pair(folder: &Path) -> Pair {
    let plan = Plan { program: Some(program()), disk_bytes: 64 << 20, volume_bytes: 8 << 20, ..Plan::small(folder) };
    let mut pair = Pair::lay_out(plan).expect("a pair's file");
    pair.start_shelf().expect("the shelf serves");
    pair
}

/// A pair with both nodes UP.
fn running_pair(folder: &Path) -> Pair {
    let mut pair = blank_pair(folder);
    pair.init().expect("prepared");
    for node in NodeName::BOTH {
        pair.start(node).expect("started");
    }
    for node in NodeName::BOTH {
        pair.wait_for_state(node, &["UP"], LIMIT).expect("UP");
    }
    pair
}

fn on_pair(pair: &Pair, args: &[&str]) -> Output {
    let file = pair.config().file.display().to_string();
    understudy(&[args, &["--pair", &file]].concat())
}

/// The output of a command that must succeed.
fn said(output: &Output) -> String {
    assert!(output.status.success(), "{}: {}{}", output.status, text(&output.stdout), text(&output.stderr));
    text(&output.stdout)
}

/// The complaint of a command that must end with this status.
fn refused(output: &Output, status: i32) -> String {
    assert_eq!(output.status.code(), Some(status), "{}{}", text(&output.stdout), text(&output.stderr));
    text(&output.stderr)
}

#[test]
fn demo_holds_what_it_promises_and_writes_the_named_fields() {
    let folder = tempfile::tempdir().expect("a folder");
    let json = folder.path().join("result.json");
    let output = Command::new(program())
        .args(["demo", "--json", &json.display().to_string()])
        .env("TMPDIR", folder.path())
        .output()
        .expect("the program runs");
    let shown = said(&output);
    assert!(!shown.contains('\x1b'), "plain text when piped");
    for step in [
        "GIVEWAIT in the page of a by RDMA",
        "released 2 of 2",
        "MBWAIT in the page of a by RDMA",
        "type 6 (exclusive access, registrants only) held by b; registered: b",
    ] {
        assert!(shown.contains(step), "`{step}` is not in:\n{shown}");
    }
    let result: serde_json::Value = serde_json::from_slice(&std::fs::read(&json).expect("the result")).expect("JSON");
    assert_eq!(result["lost_writes"], 0);
    assert_eq!(result["failed_commands"], 0);
    assert!(result["acknowledged_writes"].as_u64().expect("a number") > 100);
    for pause in ["takeover_pause_ms", "giveback_pause_ms", "uncoordinated_outage_ms"] {
        assert!(result[pause].as_f64().expect("a number") > 0.0, "{pause}");
    }
    assert_eq!(result["timeline"].as_array().expect("a list").last().expect("operations")["kind"], "bring-up");
    let left: Vec<_> = std::fs::read_dir(folder.path())
        .expect("readable")
        .filter_map(Result::ok)
        .map(|entry| entry.file_name())
        .collect();
    assert_eq!(left, ["result.json"], "the demo's own folder is removed");
}

#[test]
fn interrupted_demo_ends_its_children_and_names_the_folder() {
    let folder = tempfile::tempdir().expect("a folder");
    let log = folder.path().join("out.txt");
    let out = std::fs::File::create(&log).expect("a file");
    let mut demo = Command::new(program())
        .arg("demo")
        .env("TMPDIR", folder.path())
        .stdout(out.try_clone().expect("a handle"))
        .stderr(out)
        .spawn()
        .expect("the demo runs");
    let read = || std::fs::read_to_string(&log).unwrap_or_default();
    wait("both nodes boot", || read().matches("page says UP").count() >= 2);
    let pid = rustix::process::Pid::from_child(&demo);
    rustix::process::kill_process(pid, Signal::INT).expect("the demo lives");
    let status = demo.wait().expect("it ends");
    let shown = read();
    assert_eq!(status.code(), Some(1), "{shown}");
    assert!(shown.contains("interrupted") && shown.contains("disks and logs are in"), "{shown}");
    let sockets: Vec<PathBuf> = admin_sockets(folder.path());
    assert_eq!(sockets.len(), 2, "both nodes had run");
    for socket in sockets {
        wait("the node is gone", || std::os::unix::net::UnixStream::connect(&socket).is_err());
    }
}

fn admin_sockets(folder: &Path) -> Vec<PathBuf> {
    let demo = std::fs::read_dir(folder).expect("readable").filter_map(Result::ok).map(|entry| entry.path());
    let demo = demo.into_iter().find(|path| path.is_dir()).expect("the demo's folder was kept");
    ["state-a", "state-b"]
        .iter()
        .map(|state| demo.join(state).join("admin.sock"))
        .filter(|path| path.exists())
        .collect()
}

fn wait(what: &str, mut reached: impl FnMut() -> bool) {
    let deadline = Instant::now() + LIMIT;
    while !reached() {
        assert!(Instant::now() < deadline, "not within {} s: {what}", LIMIT.as_secs());
        std::thread::yield_now();
    }
}

#[test]
fn pair_init_refuses_disks_in_use_and_overwrites_when_told() {
    let folder = tempfile::tempdir().expect("a folder");
    let pair = blank_pair(folder.path());
    let first = said(&on_pair(&pair, &["pair", "init", "--volume", "one:8MiB:pool-a"]));
    assert!(first.contains("volume one of 8 MiB in pool-a, logical unit 0"), "{first}");
    let again = refused(&on_pair(&pair, &["pair", "init"]), 1);
    assert!(again.contains("disk `l0` is in use") && again.contains("--overwrite"), "{again}");
    let overwritten = said(&on_pair(&pair, &["pair", "init", "--overwrite", "--volume", "two:8MiB:pool-b"]));
    assert!(overwritten.contains("volume two") && !overwritten.contains("volume one"), "{overwritten}");
}

#[test]
fn pair_init_refuses_disks_of_a_running_pair_and_harms_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut pair = running_pair(folder.path());
    let complaint = refused(&on_pair(&pair, &["pair", "init"]), 1);
    assert!(complaint.contains("is in use: key "), "{complaint}");
    for node in NodeName::BOTH {
        pair.wait_for_state(node, &["UP"], LIMIT).expect("still UP");
    }
}

#[test]
fn pair_init_with_an_unknown_pool_changes_no_disk() {
    let folder = tempfile::tempdir().expect("a folder");
    let pair = blank_pair(folder.path());
    let complaint = refused(&on_pair(&pair, &["pair", "init", "--volume", "one:8MiB:nowhere"]), 1);
    assert!(complaint.contains("there is no pool `nowhere`"), "{complaint}");
    said(&on_pair(&pair, &["pair", "init"]));
}

#[test]
fn volumes_are_made_listed_and_deleted_on_the_node_that_owns_the_pool() {
    let folder = tempfile::tempdir().expect("a folder");
    let pair = running_pair(folder.path());
    said(&on_pair(&pair, &["volume", "create", "extra", "8MiB", "--pool", "pool-b"]));
    let listed: serde_json::Value =
        serde_json::from_str(&said(&on_pair(&pair, &["volume", "list", "--json"]))).expect("JSON");
    let volumes = listed.as_array().expect("a list");
    let mut names: Vec<_> = volumes.iter().map(|volume| volume["name"].as_str().expect("a name")).collect();
    names.sort_unstable();
    assert_eq!(names, ["extra", "vol-a0", "vol-b0"]);
    let taken = on_pair(&pair, &["volume", "create", "extra", "8MiB", "--pool", "pool-b"]);
    assert!(!taken.status.success(), "a name twice");
    said(&on_pair(&pair, &["volume", "delete", "extra"]));
    assert!(!said(&on_pair(&pair, &["volume", "list"])).contains("extra"));
    let unknown = refused(&on_pair(&pair, &["volume", "create", "x", "8MiB", "--pool", "nowhere"]), 1);
    assert!(unknown.contains("the pair's pools are: pool-a, pool-b"), "{unknown}");
}

#[test]
fn status_and_timeline_show_both_nodes_as_text_and_json() {
    let folder = tempfile::tempdir().expect("a folder");
    let pair = running_pair(folder.path());
    let shown = said(&on_pair(&pair, &["status"]));
    for part in ["node a  UP", "node b  UP", "pool-a", "lock disk", "portal"] {
        assert!(shown.contains(part), "`{part}` is not in:\n{shown}");
    }
    let json: serde_json::Value = serde_json::from_str(&said(&on_pair(&pair, &["status", "--json"]))).expect("JSON");
    assert_eq!(json["a"]["state"], "UP");
    assert_eq!(json["b"]["partner"]["interconnect"], "read");
    let shown = said(&on_pair(&pair, &["timeline"]));
    assert!(shown.starts_with("start of node ") && shown.contains("page says UP"), "{shown}");
    let json: serde_json::Value = serde_json::from_str(&said(&on_pair(&pair, &["timeline", "--json"]))).expect("JSON");
    assert_eq!(json[0]["kind"], "start");
}

#[test]
fn planned_takeover_and_giveback_by_command() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut pair = running_pair(folder.path());
    let either = refused(&on_pair(&pair, &["takeover"]), 1);
    assert!(either.contains("say which with --node"), "{either}");
    let nothing = refused(&on_pair(&pair, &["giveback"]), 5);
    assert!(nothing.contains("no node that answers here has pools of its partner"), "{nothing}");
    said(&on_pair(&pair, &["takeover", "--node", "b"]));
    pair.wait_for_state(NodeName::A, &["MBWAIT"], LIMIT).expect("a is warm");
    // Its partner may not have read that yet, and would refuse.
    let deadline = Instant::now() + LIMIT;
    while pair.status(NodeName::B).expect("b answers").partner.state != "MBWAIT" {
        assert!(Instant::now() < deadline, "b never reads MBWAIT");
    }
    let forecast = said(&on_pair(&pair, &["giveback", "--dry-run"]));
    assert!(forecast.contains("nothing was changed"), "{forecast}");
    said(&on_pair(&pair, &["giveback"]));
    for node in NodeName::BOTH {
        pair.wait_for_state(node, &["UP"], LIMIT).expect("UP");
    }
}

#[test]
fn commands_without_a_node_or_a_file_say_what_to_do() {
    let folder = tempfile::tempdir().expect("a folder");
    let pair = Pair::lay_out(Plan { program: Some(program()), ..Plan::small(folder.path()) }).expect("a pair's file");
    for command in [&["status"][..], &["takeover", "--node", "a"], &["giveback"], &["volume", "list"], &["timeline"]] {
        let complaint = refused(&on_pair(&pair, command), 4);
        assert!(complaint.contains("start it with `understudy node a`"), "{command:?}: {complaint}");
    }
    let missing = refused(&understudy(&["status", "--pair", "/nonexistent/pair.toml"]), 3);
    assert!(missing.contains("cannot read the pair's file /nonexistent/pair.toml"), "{missing}");
    let wrong = folder.path().join("wrong.toml");
    std::fs::write(&wrong, "[pair]\nnam = \"x\"\n").expect("written");
    let wrong = refused(&understudy(&["node", "a", "--pair", &wrong.display().to_string()]), 3);
    assert!(wrong.contains("wrong.toml:2:1") && wrong.contains("did you mean `name`?"), "{wrong}");
}

#[test]
fn shelf_with_a_bad_disk_or_a_taken_address_says_so() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().display().to_string();
    let odd = refused(&understudy(&["shelf", "--folder", &path, "--disk", "d0:1000"]), 1);
    assert!(odd.contains("no whole number of blocks of 512"), "{odd}");
    let nameless = refused(&understudy(&["shelf", "--folder", &path, "--disk", "d0"]), 1);
    assert!(nameless.contains("write it as name:size"), "{nameless}");
    let address = free_ports(1).expect("a port")[0];
    let _taken = std::net::TcpListener::bind(address).expect("bound");
    let output = understudy(&["shelf", "--folder", &path, "--listen", &address.to_string(), "--disk", "d0:16MiB"]);
    assert!(refused(&output, 1).contains("the shelf does not start"));
}
