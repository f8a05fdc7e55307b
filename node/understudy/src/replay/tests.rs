//! What an operator sees of a replay: the verdict, the step it differs at, and a plain word for every file that is no log.

use std::path::{Path, PathBuf};

use serde_json::Value;
use understudy_eventlog::segment::{Build, HEADER_BYTES, Header, RELEASE_AND_BUILD};
use understudy_failover::config::{AutomaticGiveback, Config, PoolConfig, Timing};
use understudy_failover::effect::{Alarm, Effect, Effects};
use understudy_failover::input::{Earnest, Input, Request, SoftVetoes, Unreadable};
use understudy_failover::machine::Machine;
use understudy_failover::survey::{LockDiskView, Survey};
use understudy_failover::words::{Incarnation, Micros, NodeId, PairId, PoolId, RequestId};

use super::{
    Ending, Json, Quiet, Range, Show, Text, Transcript, Uneventfully, Verdict, read, render_verdict, run, span,
};
use crate::driver::world::Witness;
use crate::event_log::{EventLog, file_name};
use crate::timeline::Style;

fn machine(node: NodeId, incarnation: u64) -> Machine {
    let config = Config {
        pair: PairId(7),
        node,
        preferred: NodeId::A,
        lock_disks: 3,
        pools: [(PoolId(1), PoolConfig { home: NodeId::A })].into(),
        may_split: false,
        policy: AutomaticGiveback::OnRequest.into(),
        timing: Timing::default(),
    };
    Machine::new(config, Incarnation(incarnation))
}

/// Facts of a start without a partner: some from which nothing follows, one of an operator.
fn facts() -> Vec<Input> {
    let what = Request::Giveback { vetoes: SoftVetoes::Count, earnest: Earnest::Do };
    let unreadable = || Input::PartnerPageUnreadable(Unreadable::Refused);
    let mut facts = vec![Input::Started];
    facts.extend((0..20).map(|_| unreadable()));
    facts.push(Input::OperatorAsked { request: RequestId(1), what });
    facts.extend((0..5).map(|_| unreadable()));
    facts
}

/// A log of these facts; `edit` may change the orders before they are written down.
fn log(folder: &Path, node: NodeId, incarnation: u64, edit: impl Fn(u64, &mut Effects)) {
    let mut machine = machine(node, incarnation);
    let mut log = EventLog::open(folder, 4 << 20, &machine).expect("a log");
    for (at, fact) in facts().into_iter().enumerate() {
        let (now, mut orders) = (Micros(at as u64 * 10_000), Effects::new());
        log.told(now, &fact, &machine);
        machine.step(now, fact, &mut orders);
        edit(at as u64 + 1, &mut orders);
        log.ordered(&orders, &machine);
    }
}

fn as_it_was(_: u64, _: &mut Effects) {}

fn verdict(paths: &[PathBuf]) -> Verdict {
    run(&read(paths), &mut Quiet)
}

fn shown(paths: &[PathBuf], range: Range) -> String {
    let mut text = String::new();
    run(&read(paths), &mut Text::new(|part: &str| text.push_str(part), Style::Plain, range));
    text
}

fn everything(all: Uneventfully) -> Range {
    Range::everything(all)
}

#[test]
fn a_log_as_it_was_written_is_the_same() {
    let folder = tempfile::tempdir().expect("a folder");
    log(folder.path(), NodeId::A, 1, as_it_was);
    log(folder.path(), NodeId::A, 2, as_it_was);
    let paths = [folder.path().to_owned()];
    let verdict = verdict(&paths);
    assert_eq!((verdict.ending(), verdict.runs, verdict.steps), (Ending::Same, 2, 54));
    assert!(render_verdict(&verdict, Style::Plain).contains("every order is the one recorded"));
    // A single file of it as well.
    assert_eq!(run(&read(&[folder.path().join(file_name(1))]), &mut Quiet).ending(), Ending::Same);
}

#[test]
fn an_order_that_was_another_is_named_with_its_step_and_both_words() {
    let folder = tempfile::tempdir().expect("a folder");
    log(folder.path(), NodeId::A, 1, |step, orders| match step {
        22 => orders.insert(1, Effect::RaiseAlarm(Alarm::HandOffVetoed)),
        25 => orders.push(Effect::Halt),
        _ => {}
    });
    let paths = [folder.path().to_owned()];
    let verdict = verdict(&paths);
    assert_eq!((verdict.ending(), verdict.differing_steps), (Ending::Differs, 2));
    let [first] = &verdict.differences[..] else { panic!("one a run: {:?}", verdict.differences) };
    assert_eq!((first.number, first.words.len()), (22, 3));
    assert!(first.words[0].contains("order 2 of step 22"), "{:?}", first.words);
    assert!(first.words[1].contains("alarm: HandOffVetoed"), "{:?}", first.words);
    let text = shown(&paths, everything(Uneventfully::Counted));
    assert!(text.contains("DIFFERS in order 2: recorded is: alarm: HandOffVetoed"), "{text}");
}

#[test]
fn of_many_runs_that_differ_the_first_are_spelt_out() {
    let folder = tempfile::tempdir().expect("a folder");
    for incarnation in 1..=13 {
        log(folder.path(), NodeId::A, incarnation, |step, orders| {
            if step == 25 {
                orders.push(Effect::Halt);
            }
        });
    }
    let verdict = verdict(&[folder.path().to_owned()]);
    assert_eq!(verdict.differences.len(), 13);
    let text = render_verdict(&verdict, Style::Plain);
    assert_eq!(text.matches("differs: run").count(), 10, "{text}");
    assert!(text.contains("and 3 more runs that differ"), "{text}");
}

#[test]
fn an_order_recorded_that_does_not_come_here_is_named_too() {
    let folder = tempfile::tempdir().expect("a folder");
    log(folder.path(), NodeId::A, 1, |step, orders| {
        if step == 1 {
            orders.pop();
        }
    });
    let verdict = verdict(&[folder.path().to_owned()]);
    let words = &verdict.differences[0].words;
    assert!(words[1].contains("recorded: nothing more") && words[2].contains("read the lock disks"), "{words:?}");
}

#[test]
fn uneventful_steps_are_counted_unless_asked_for_and_ranges_hold() {
    let folder = tempfile::tempdir().expect("a folder");
    log(folder.path(), NodeId::A, 1, as_it_was);
    let paths = [folder.path().to_owned()];
    let counted = shown(&paths, everything(Uneventfully::Counted));
    assert!(counted.contains("… 20 uneventful in 0.190 s: 20 failed reads of the partner's page"), "{counted}");
    let all = shown(&paths, everything(Uneventfully::Shown));
    assert_eq!(all.matches("cannot be read: Refused").count(), 25, "{all}");
    let some = shown(&paths, Range { steps: 20..=22, ..everything(Uneventfully::Shown) });
    assert_eq!(some.matches("cannot be read").count(), 2, "{some}");
    assert!(some.contains("the operator asks for the giveback") && !some.contains("the process runs"), "{some}");
}

#[test]
fn json_says_the_same_one_object_a_line() {
    let folder = tempfile::tempdir().expect("a folder");
    log(folder.path(), NodeId::B, 1, as_it_was);
    let mut text = String::new();
    let mut json = Json::new(|part: &str| text.push_str(part), everything(Uneventfully::Counted));
    run(&read(&[folder.path().to_owned()]), &mut json);
    drop(json);
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).expect("an object")).collect();
    let kinds: Vec<&str> = lines.iter().filter_map(|line| line["kind"].as_str()).collect();
    assert_eq!(kinds, ["run", "step", "uneventful", "step", "uneventful", "verdict"]);
    assert_eq!((lines[0]["node"].as_str(), lines[2]["steps"].as_u64()), (Some("b"), Some(20)));
    assert_eq!((lines[5]["verdict"].as_str(), lines[5]["steps"].as_u64()), (Some("same"), Some(27)));
}

#[test]
fn transcript_puts_both_nodes_into_one_text() {
    let folder = tempfile::tempdir().expect("a folder");
    let folders = [NodeId::A, NodeId::B].map(|node| folder.path().join(node.to_string()));
    log(&folders[0], NodeId::A, 1, as_it_was);
    log(&folders[1], NodeId::B, 2, as_it_was);
    let mut transcript = Transcript::default();
    transcript_of(&folders, &mut transcript);
    let text = transcript.render();
    for line in [
        " A process started, incarnation 0000000000000001",
        " B asserted BOOTING",
        "# the operator asks A for the giveback",
    ] {
        assert!(text.contains(line), "{line} is missing in\n{text}");
    }
    assert!(text.starts_with("    0.000 A process started"), "{text}");
}

fn transcript_of(paths: &[PathBuf], transcript: &mut dyn Show) {
    assert_eq!(run(&read(paths), transcript).ending(), Ending::Same);
}

#[test]
fn a_log_cut_off_is_run_up_to_there_and_the_cut_is_said() {
    let folder = tempfile::tempdir().expect("a folder");
    log(folder.path(), NodeId::A, 1, as_it_was);
    let file = folder.path().join(file_name(1));
    let bytes = std::fs::read(&file).expect("the log");
    std::fs::write(&file, &bytes[..bytes.len() - 2]).expect("written");
    let text = shown(std::slice::from_ref(&file), everything(Uneventfully::Counted));
    assert!(text.contains("it ends in the middle of a frame, at byte"), "{text}");
    assert_eq!(verdict(&[file]).ending(), Ending::Same);
}

/// What is said of a file that cannot be used.
fn refused(file: &Path) -> String {
    let verdict = verdict(&[file.to_owned()]);
    assert_eq!(verdict.ending(), Ending::Unusable);
    render_verdict(&verdict, Style::Plain)
}

#[test]
fn files_that_are_no_logs_are_refused_in_plain_words() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("file");
    assert!(refused(&file).contains("No such file"), "{}", refused(&file));
    assert!(refused(folder.path()).contains("no event log in this folder"));
    for (bytes, words) in [
        (&b"[pair]\nname = \"x\"\n"[..], "this is no event log"),
        (&b""[..], "nothing was logged in it"),
        (&b"USTDEVTS\x01\0"[..], "nothing was logged in it"),
        (&[b"USTDEVTS".as_slice(), &[7; 200]].concat(), "the header is damaged"),
    ] {
        std::fs::write(&file, bytes).expect("written");
        assert!(refused(&file).contains(words), "{}", refused(&file));
    }
}

/// A log as another build of this release writes it: `edit` changes its header.
fn relabel(file: &Path, edit: impl Fn(&mut Header)) {
    let mut bytes = std::fs::read(file).expect("a log");
    let mut header = Header::decode(&bytes).expect("a header");
    edit(&mut header);
    bytes[..HEADER_BYTES].copy_from_slice(&header.encode());
    std::fs::write(file, bytes).expect("written");
}

#[test]
fn a_difference_says_whether_another_build_wrote_the_log() {
    let folder = tempfile::tempdir().expect("a folder");
    log(folder.path(), NodeId::A, 1, |step, orders| {
        if step == 22 {
            orders.push(Effect::Halt);
        }
    });
    let file = folder.path().join(file_name(1));
    let said = |build: Option<Build>| {
        if let Some(build) = build {
            relabel(&file, |header| header.build = build);
        }
        let verdict = verdict(std::slice::from_ref(&file));
        assert_eq!(verdict.ending(), Ending::Differs);
        render_verdict(&verdict, Style::Plain)
    };
    assert!(said(None).contains("written by this very build: this is a bug"), "{}", said(None));
    let another = said(Some(Build(0x1234)));
    assert!(another.contains("build 00001234") && another.contains(RELEASE_AND_BUILD), "{another}");
    assert!(another.contains("what was changed between the two may be the reason"), "{another}");
    let unknown = said(Some(Build::NOT_SAID));
    assert!(unknown.contains("before logs named the build"), "{unknown}");
}

#[test]
fn only_steps_about_something_are_shown_and_only_runs_that_have_one() {
    let folder = tempfile::tempdir().expect("a folder");
    log(folder.path(), NodeId::A, 1, as_it_was);
    log(folder.path(), NodeId::A, 2, as_it_was);
    let paths = [folder.path().to_owned()];
    let only = |text: &str| Range { only: vec![text.to_owned()], ..everything(Uneventfully::Counted) };
    let asked = shown(&paths, only("the operator asks"));
    assert_eq!(
        (asked.matches("asks for the giveback").count(), asked.matches("uneventful").count()),
        (2, 0),
        "{asked}"
    );
    assert_eq!(asked.matches("incarnation 000000000000000").count(), 2, "{asked}");
    let uneventful = shown(&paths, only("cannot be read"));
    assert!(!uneventful.contains("uneventful") && !uneventful.contains("incarnation"), "{uneventful}");
    let nothing = shown(&paths, only("no such words"));
    assert!(!nothing.contains("incarnation") && nothing.contains("54 steps of 2 runs"), "{nothing}");
    let second = shown(&paths, Range { steps: 50..=54, ..everything(Uneventfully::Shown) });
    assert!(second.contains("incarnation 0000000000000002"), "{second}");
    assert!(!second.contains("incarnation 0000000000000001"), "{second}");
}

#[test]
fn steps_are_found_by_the_clock_on_the_wall() {
    let folder = tempfile::tempdir().expect("a folder");
    log(folder.path(), NodeId::A, 1, as_it_was);
    let paths = [folder.path().to_owned()];
    let (first, last) = span(&read(&paths)).expect("moments");
    assert_eq!(last - first, 260_000);
    let part = |moments| shown(&paths, Range { moments, ..everything(Uneventfully::Shown) });
    let late = part(last - 40_000..=u64::MAX);
    assert_eq!(late.matches("cannot be read").count(), 5, "{late}");
    let early = part(0..=first + 10_000);
    assert_eq!(early.matches("cannot be read").count(), 1, "{early}");
    assert!(early.contains("the process runs") && !early.contains("asks"), "{early}");
}

#[test]
fn lock_disks_that_say_the_same_are_said_once() {
    let disk = Some(LockDiskView { keys: vec![], ..LockDiskView::default() });
    let survey = |disks: Vec<Option<LockDiskView>>| {
        super::words::fact(&Input::Surveyed { op: None, survey: Box::new(Survey { disks }) })
    };
    let words = survey(vec![disk.clone(), None, disk]);
    assert!(words.contains("[0 2] A never beat") && words.contains("; [1] silent"), "{words}");
}

#[test]
fn a_log_of_a_release_too_far_away_names_the_release_to_use() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut header = Header::new(PairId(7), NodeId::A, 1, Incarnation(1), 0);
    header.release = "9.8.7".to_owned();
    header.vocabulary = 0;
    let file = folder.path().join("file");
    std::fs::write(&file, header.encode()).expect("written");
    assert!(refused(&file).contains("replay it with the program that wrote it"), "{}", refused(&file));
    assert!(refused(&file).contains(RELEASE_AND_BUILD), "{}", refused(&file));
    assert!(refused(&file).contains("written by release 9.8.7, build"), "{}", refused(&file));
}

#[test]
fn a_good_log_beside_a_bad_file_is_run_and_the_bad_file_is_named() {
    let folder = tempfile::tempdir().expect("a folder");
    log(folder.path(), NodeId::A, 1, as_it_was);
    std::fs::write(folder.path().join(file_name(2)), "something else altogether").expect("written");
    let beside = verdict(&[folder.path().to_owned()]);
    assert_eq!((beside.steps, beside.ending()), (27, Ending::Unusable));
    // One that was only just begun is what a kill leaves, and nothing to complain of.
    std::fs::write(folder.path().join(file_name(2)), "").expect("written");
    assert_eq!(verdict(&[folder.path().to_owned()]).ending(), Ending::Same);
}
