//! The logs of a real pair: whatever befell its nodes, what they did runs again the same, while they run and afterwards.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use understudy::config::NodeName;
use understudy::harness::{Pair, Plan};

const LIMIT: Duration = Duration::from_secs(60);

fn program() -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_understudy"))
}

fn replay(args: &[&str], folders: &[PathBuf]) -> Output {
    Command::new(program()).arg("replay").args(args).args(folders).stdin(Stdio::null()).output().expect("it runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn running_pair(folder: &Path) -> Pair {
    let plan = Plan { program: Some(program()), disk_bytes: 64 << 20, volume_bytes: 8 << 20, ..Plan::small(folder) };
    let mut pair = Pair::lay_out(plan).expect("a pair's file");
    pair.start_shelf().expect("the shelf serves");
    pair.init().expect("prepared");
    for node in NodeName::BOTH {
        pair.start(node).expect("started");
    }
    both_up(&mut pair);
    pair
}

fn both_up(pair: &mut Pair) {
    for node in NodeName::BOTH {
        pair.wait_for_state(node, &["UP"], LIMIT).expect("UP");
    }
}

fn folders(pair: &Pair) -> [PathBuf; 2] {
    NodeName::BOTH.map(|node| pair.config().node(node).state.clone())
}

/// The verdict on logs that must be the same; the runs they hold. On a machine that is busy enough there may be more of them than were
/// asked for: a node that was kept waiting for too long is taken over and begins again.
fn same(folders: &[PathBuf]) -> u64 {
    let output = replay(&["--json"], folders);
    let shown = text(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{}{}", shown, text(&output.stderr));
    let verdict: Value = serde_json::from_str(shown.lines().last().expect("a verdict")).expect("an object");
    assert_eq!(verdict["verdict"], "same");
    // A node killed as soon as it was up takes its last uneventful steps with it.
    assert!(verdict["steps"].as_u64().expect("a number") > 5, "{verdict}");
    verdict["runs"].as_u64().expect("a number")
}

#[test]
fn takeover_bring_up_giveback_kills_and_rebirths_of_a_real_pair_run_again_the_same() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut pair = running_pair(folder.path());
    let logs = folders(&pair);
    assert!(same(&logs) >= 2, "of running nodes");

    pair.kill(NodeName::A).expect("killed");
    pair.wait_for_state(NodeName::B, &["TAKEOVER"], LIMIT).expect("taken over");
    assert!(same(&logs[..1]) >= 1, "of a node that was killed");
    pair.start(NodeName::A).expect("started");
    both_up(&mut pair);
    assert!(same(&logs) >= 3, "a second run of a");

    // The victim of a forced takeover replaces itself by a fresh run of the same process.
    let file = pair.config().file.display().to_string();
    let before = pair.status(NodeName::A).expect("a answers").incarnation;
    let forced = ["takeover", "--node", "b", "--force", "--pair", &file].map(str::to_owned);
    pair.command(&forced).expect("forced");
    let deadline = Instant::now() + LIMIT;
    while pair.status(NodeName::A).is_ok_and(|status| status.incarnation == before) {
        assert!(Instant::now() < deadline, "a is never taken over");
    }
    both_up(&mut pair);
    assert!(same(&logs) >= 4, "a third run of a");

    let transcript = replay(&["--export-transcript"], &logs);
    let transcript = text(&transcript.stdout);
    let mut rest = transcript.as_str();
    for line in
        ["A asserted GIVEWAIT", "B released 2 of 2", "A asserted MBWAIT", "B asserted GIVEBACK", "A restarting: "]
    {
        let at = rest.find(line).unwrap_or_else(|| panic!("no `{line}` in its place in\n{transcript}"));
        rest = &rest[at..];
    }
    for node in NodeName::BOTH {
        pair.kill(node).expect("killed");
    }
    assert!(same(&logs) >= 4, "after the end of both");
}

#[test]
fn replay_ends_with_the_status_it_promises() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("file");
    std::fs::write(&file, "nothing of the kind").expect("written");
    let output = replay(&["--quiet"], std::slice::from_ref(&file));
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stdout).contains("this is no event log"), "{}", text(&output.stdout));
    assert_eq!(replay(&[], &[]).status.code(), Some(2), "a file has to be named");
}
