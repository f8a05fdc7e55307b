//! The log's files: bounded, gone on with by the next run, whole up to where a run was killed.

use std::path::Path;

use understudy_eventlog::read::{Entry, Segment, Stop};
use understudy_eventlog::replay::{Began, Replay};
use understudy_eventlog::segment::{Build, HEADER_BYTES, Header};
use understudy_failover::config::{AutomaticGiveback, Config, PoolConfig, Timing};
use understudy_failover::effect::Effects;
use understudy_failover::input::Input;
use understudy_failover::machine::Machine;
use understudy_failover::survey::{LockDiskView, Survey};
use understudy_failover::words::{Incarnation, Micros, NodeId, Op, PairId, PoolId};

use super::{EventLog, FILES, file_name};
use crate::driver::world::Witness;

const BYTES: u64 = 4 << 20;

fn machine(incarnation: u64) -> Machine {
    let config = Config {
        pair: PairId(7),
        node: NodeId::A,
        preferred: NodeId::A,
        lock_disks: 3,
        pools: [(PoolId(1), PoolConfig { home: NodeId::A })].into(),
        may_split: false,
        policy: AutomaticGiveback::OnRequest.into(),
        timing: Timing::default(),
    };
    Machine::new(config, Incarnation(incarnation))
}

/// A reading of the lock disks that has no short form.
fn reading(at: u64) -> Input {
    let disk = LockDiskView { keys: vec![understudy_failover::key::ReservationKey(at); 40], ..LockDiskView::default() };
    Input::Surveyed { op: Some(Op(at)), survey: Box::new(Survey { disks: vec![Some(disk); 3] }) }
}

/// A run of so many steps; ends as a process does that is killed: nothing is closed, what was handed over is waited for.
fn run(folder: &Path, incarnation: u64, steps: u64) {
    let mut machine = machine(incarnation);
    let mut log = EventLog::open(folder, BYTES, &machine).expect("a log");
    for at in 0..steps {
        let fact = if at == 0 { Input::Started } else { reading(at) };
        let (now, mut orders) = (Micros(at * 50_000), Effects::new());
        log.told(now, &fact, &machine);
        machine.step(now, fact, &mut orders);
        log.ordered(&orders, &machine);
    }
}

fn files(folder: &Path) -> Vec<Vec<u8>> {
    let mut files: Vec<Vec<u8>> =
        (0..FILES).filter_map(|slot| std::fs::read(folder.join(file_name(slot))).ok()).collect();
    files.sort_by_key(|bytes| Segment::open(bytes).expect("a segment").header().number);
    files
}

/// Steps that ran again the same, runs that began, and how readings ended early.
fn run_again(folder: &Path) -> (u64, u64, Vec<Stop>) {
    let (mut steps, mut runs, mut stops) = (0, 0, Vec::new());
    let mut again = Replay::new();
    for bytes in files(folder) {
        for entry in Segment::open(&bytes).expect("a segment") {
            match entry {
                Ok(Entry::Start(start)) => {
                    let began = again.start(&start).expect("a machine");
                    assert!(!matches!(began, Began::Differs { .. }), "{began:?}");
                    runs += u64::from(began == Began::Run);
                }
                Ok(Entry::Step(step)) => {
                    assert_eq!(again.step(*step).expect("after a start").difference, None);
                    steps += 1;
                }
                Err(stop) => stops.push(stop),
            }
        }
    }
    (steps, runs, stops)
}

#[test]
fn runs_follow_one_another_in_one_file() {
    let folder = tempfile::tempdir().expect("a folder");
    for incarnation in 1..=3 {
        run(folder.path(), incarnation, 20);
    }
    assert_eq!(files(folder.path()).len(), 1);
    assert_eq!(run_again(folder.path()), (60, 3, vec![]));
}

#[test]
fn files_stay_within_what_the_log_may_hold_and_take_turns() {
    let folder = tempfile::tempdir().expect("a folder");
    for incarnation in 1..=12 {
        run(folder.path(), incarnation, 1_000);
    }
    let files = files(folder.path());
    assert_eq!(files.len() as u64, FILES);
    assert!(files.iter().all(|bytes| bytes.len() as u64 <= BYTES / FILES));
    let all: u64 = files.iter().map(|bytes| bytes.len() as u64).sum();
    assert!(all >= BYTES / FILES * (FILES - 2), "{all} bytes are kept");
    let numbers: Vec<u64> =
        files.iter().map(|bytes| Segment::open(bytes).expect("a segment").header().number).collect();
    assert!(numbers.windows(2).all(|pair| pair[1] == pair[0] + 1), "{numbers:?}");
    let (steps, _, stops) = run_again(folder.path());
    assert!(steps > 1_000 && stops.is_empty(), "{steps} steps, {stops:?}");
}

#[test]
fn half_a_frame_left_by_a_killed_run_is_cut_off_by_the_next() {
    let folder = tempfile::tempdir().expect("a folder");
    run(folder.path(), 1, 20);
    let path = folder.path().join(file_name(1));
    let mut bytes = std::fs::read(&path).expect("the first segment");
    bytes.truncate(bytes.len() - 3);
    std::fs::write(&path, &bytes).expect("written");
    let (steps, _, stops) = run_again(folder.path());
    assert!(steps == 19 && matches!(stops[..], [Stop::Cut { .. }]), "{steps} steps, {stops:?}");
    run(folder.path(), 2, 20);
    assert_eq!(run_again(folder.path()), (39, 2, vec![]));
}

#[test]
fn another_build_of_the_same_release_begins_a_segment_of_its_own() {
    let folder = tempfile::tempdir().expect("a folder");
    run(folder.path(), 1, 20);
    let path = folder.path().join(file_name(1));
    let mut bytes = std::fs::read(&path).expect("the first segment");
    let mut header = Header::decode(&bytes).expect("a header");
    header.build = Build(header.build.0 ^ 1);
    bytes[..HEADER_BYTES].copy_from_slice(&header.encode());
    std::fs::write(&path, &bytes).expect("written");
    run(folder.path(), 2, 20);
    let builds: Vec<bool> = files(folder.path())
        .iter()
        .map(|bytes| Segment::open(bytes).expect("a segment").header().is_of_this_build())
        .collect();
    assert_eq!(builds, [false, true]);
    assert_eq!(run_again(folder.path()), (40, 2, vec![]));
}

#[test]
fn a_file_of_something_else_is_left_alone_until_its_turn_comes() {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join(file_name(0)), "not a log").expect("written");
    run(folder.path(), 1, 5);
    assert_eq!(std::fs::read(folder.path().join(file_name(0))).expect("still there"), b"not a log");
    std::fs::remove_file(folder.path().join(file_name(0))).expect("removed");
    assert_eq!(run_again(folder.path()), (5, 1, vec![]));
}

#[test]
fn the_fact_that_makes_a_machine_panic_is_in_the_log() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().to_owned();
    let died = std::thread::spawn(move || {
        let mut machine = machine(1);
        let mut log = EventLog::open(&path, BYTES, &machine).expect("a log");
        let mut orders = Effects::new();
        log.told(Micros(0), &Input::Started, &machine);
        machine.step(Micros(0), Input::Started, &mut orders);
        log.ordered(&orders, &machine);
        log.told(Micros(7), &Input::TimerExpired, &machine);
        // What is kept for company is handed over by the panic hook, before anything is dropped.
        std::mem::forget(log);
        panic!("the machine is wrong about something");
    });
    assert!(died.join().is_err());
    assert_eq!(run_again(folder.path()).0, 2);
}

#[test]
fn a_folder_that_cannot_be_written_is_an_error_and_no_panic() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("a file");
    std::fs::write(&file, "").expect("written");
    assert!(EventLog::open(&file, BYTES, &machine(1)).is_err());
}
