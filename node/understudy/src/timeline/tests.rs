//! What is kept, how it is grouped, how it is shown.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::json;

use super::{OperationKind, Recorder, Style, TimelineStep, clock, group, read_file, render, step};
use crate::config::NodeName::{self, A, B};

fn at(millis: u64, node: NodeName, kind: &str) -> TimelineStep {
    TimelineStep {
        number: millis,
        wall_micros: 1_767_225_600_000_000 + millis * 1000,
        node,
        incarnation: "0".to_owned(),
        step: kind.to_owned(),
        text: format!("{kind} happened"),
        values: BTreeMap::new(),
    }
}

/// A pair that starts, loses a and gets it back.
fn story() -> Vec<TimelineStep> {
    let mut steps = vec![
        at(0, A, step::BOOTING),
        at(1, B, step::BOOTING),
        at(50, A, step::UP),
        at(51, B, step::UP),
        at(1000, B, step::PARTNER_LOST),
        at(1150, B, step::CONTEST),
        at(1200, B, step::TAKEOVER),
        at(3000, A, step::BOOTING),
        at(3010, A, step::GIVEWAIT),
        at(3011, B, step::GIVEWAIT_READ),
        at(3012, B, step::RESERVATIONS_RELEASED),
        at(3040, A, step::MBWAIT),
        at(3050, B, step::COMMITTED),
        at(3060, A, step::UP),
        at(3061, B, step::CEASED),
    ];
    steps[6].values.insert(step::PAUSE.to_owned(), json!(187_300));
    steps
}

#[test]
fn steps_of_both_nodes_become_start_takeover_and_bring_up() {
    let mut steps = story();
    steps.reverse();
    let operations = group(steps);
    let summary: Vec<_> = operations.iter().map(|one| (one.kind, one.node, one.steps.len())).collect();
    assert_eq!(
        summary,
        [(OperationKind::Start, A, 4), (OperationKind::Takeover, B, 3), (OperationKind::BringUp, A, 8)]
    );
    assert_eq!(operations[1].pause_micros(), Some(187_300));
    assert_eq!(operations[2].micros(), 61_000);
}

#[test]
fn a_second_loss_during_the_bring_up_is_a_takeover_of_its_own() {
    let mut steps = story();
    steps.truncate(10);
    steps.push(at(3020, B, step::PARTNER_LOST));
    let kinds: Vec<_> = group(steps).iter().map(|one| one.kind).collect();
    assert_eq!(kinds, [OperationKind::Start, OperationKind::Takeover, OperationKind::BringUp, OperationKind::Takeover]);
}

#[test]
fn steps_whose_beginning_was_cut_off_are_left_out() {
    assert_eq!(group(story().split_off(4).split_off(1)).first().map(|one| one.kind), Some(OperationKind::Takeover));
    assert_eq!(group(vec![at(5, A, step::UP)]), []);
}

#[test]
fn plain_rendering_is_as_in_the_golden_text() {
    let text = render(&group(story().split_off(4)), Style::Plain);
    let expected = "\
takeover of node b  2026-01-01 00:00:01.000 UTC, 200.0 ms, pause 187.3 ms
     +0.0 ms    b  partner-lost           partner-lost happened
   +150.0 ms    b  contest                contest happened
   +200.0 ms    b  takeover               takeover happened

bring-up and giveback of node a  2026-01-01 00:00:03.000 UTC, 61.0 ms
     +0.0 ms  a    booting                booting happened
    +10.0 ms  a    givewait               givewait happened
    +11.0 ms    b  givewait-read          givewait-read happened
    +12.0 ms    b  reservations-released  reservations-released happened
    +40.0 ms  a    mbwait                 mbwait happened
    +50.0 ms    b  committed              committed happened
    +60.0 ms  a    up                     up happened
    +61.0 ms    b  ceased                 ceased happened

";
    assert_eq!(text, expected);
}

#[test]
fn colours_only_where_a_terminal_allows_them() {
    let variable = |name: &str, value: &'static str| {
        let name = name.to_owned();
        move |asked: &str| (asked == name).then(|| value.to_owned())
    };
    assert_eq!(Style::for_terminal(true, |_| None), Style::Coloured);
    assert_eq!(Style::for_terminal(false, |_| None), Style::Plain);
    assert_eq!(Style::for_terminal(true, variable("NO_COLOR", "1")), Style::Plain);
    assert_eq!(Style::for_terminal(true, variable("NO_COLOR", "")), Style::Coloured);
    assert_eq!(Style::for_terminal(true, variable("TERM", "dumb")), Style::Plain);
    assert!(render(&group(story()), Style::Coloured).contains("\x1b["));
    assert!(!render(&group(story()), Style::Plain).contains('\x1b'));
}

#[test]
fn dates_of_leap_years_and_century_ends_are_right() {
    let seconds = |seconds: u64| clock(seconds * 1_000_000);
    assert_eq!(seconds(0), "1970-01-01 00:00:00.000");
    assert_eq!(seconds(951_782_400), "2000-02-29 00:00:00.000");
    assert_eq!(seconds(951_868_800), "2000-03-01 00:00:00.000");
    assert_eq!(seconds(1_798_761_599), "2026-12-31 23:59:59.000");
    assert_eq!(seconds(4_107_542_400), "2100-03-01 00:00:00.000");
    assert_eq!(clock(1_234_567), "1970-01-01 00:00:01.234");
}

/// Waits for the writer thread: the file has so many steps.
fn wait_for_file(path: &Path, count: usize) -> Vec<TimelineStep> {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let steps = read_file(path).expect("readable");
        if steps.len() >= count {
            return steps;
        }
        assert!(Instant::now() < deadline, "{} of {count} steps in the file", steps.len());
        std::thread::yield_now();
    }
}

#[test]
fn steps_survive_the_process_and_numbers_go_on_in_the_next() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("timeline.jsonl");
    let first = Recorder::open(folder.path(), A, 1).expect("a recorder");
    first.record("one", "text", BTreeMap::from([("of".to_owned(), json!(4))]));
    first.record("two", "text", BTreeMap::new());
    let steps = wait_for_file(&file, 2);
    assert_eq!(steps[0].number("of"), Some(4));
    drop(first);
    let second = Recorder::open(folder.path(), A, 2).expect("a recorder");
    second.record("three", "text", BTreeMap::new());
    let numbers: Vec<_> = second.newest(10).iter().map(|step| (step.number, step.incarnation.clone())).collect();
    let incarnation = |number: u64| format!("{number:016x}");
    assert_eq!(numbers, [(1, incarnation(1)), (2, incarnation(1)), (3, incarnation(2))]);
    assert_eq!(second.newest(1)[0].step, "three");
}

#[test]
fn a_torn_last_line_costs_only_itself() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("timeline.jsonl");
    let mut torn = serde_json::to_vec(&at(7, A, "whole")).expect("JSON");
    torn.extend_from_slice(b"\n{\"number\":8,\"wall\xff");
    std::fs::File::create(&file).expect("a file").write_all(&torn).expect("written");
    let recorder = Recorder::open(folder.path(), A, 1).expect("a recorder");
    recorder.record("after", "text", BTreeMap::new());
    let steps = wait_for_file(&file, 2);
    let names: Vec<_> = steps.iter().map(|step| (step.number, step.step.as_str())).collect();
    assert_eq!(names, [(7, "whole"), (8, "after")]);
}

#[test]
fn a_file_that_does_not_exist_has_no_steps() {
    let folder = tempfile::tempdir().expect("a folder");
    assert_eq!(read_file(&folder.path().join("none")).expect("no error"), []);
}

#[test]
fn a_file_grown_too_long_loses_its_older_half_and_no_line_is_cut() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("timeline.jsonl");
    let filler = "x".repeat(1000);
    let mut long = at(0, A, "old");
    long.text.clone_from(&filler);
    let line = serde_json::to_string(&long).expect("JSON") + "\n";
    let lines = super::recorder::FILE_BYTES as usize / line.len() + 1;
    std::fs::write(&file, line.repeat(lines)).expect("written");
    let recorder = Recorder::open(folder.path(), A, 1).expect("a recorder");
    recorder.record("newest", "text", BTreeMap::new());
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let text = std::fs::read_to_string(&file).expect("readable");
        if text.contains("newest") && text.len() < line.len() * lines / 2 + 1000 {
            assert!(text.lines().all(|line| serde_json::from_str::<TimelineStep>(line).is_ok()));
            return;
        }
        assert!(Instant::now() < deadline, "the file is still {} bytes long", text.len());
        std::thread::yield_now();
    }
}
