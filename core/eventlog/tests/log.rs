//! Logs of simulated pairs under faults: what is written comes back, runs again the same, and stays within its bounds.
//!
//! `UNDERSTUDY_SEED` sets the first seed, `UNDERSTUDY_RUNS` how many schedules.

mod kit;

use kit::{Memory, facts_of, log, run_again};
use understudy_eventlog::frame::Cut;
use understudy_eventlog::read::{Entry, Segment, Stop, whole_bytes};
use understudy_eventlog::record::SEGMENT_BYTES_MIN;
use understudy_eventlog::replay::Began;
use understudy_failover::input::{Input, Unreadable};
use understudy_failover::mutants::{self, Mutant};
use understudy_failover::words::{Micros, NodeId};

const LENGTH: Micros = Micros::from_millis(15_000);

fn number(name: &str, or: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(or)
}

fn segments(memory: &Memory) -> impl Iterator<Item = &[u8]> {
    memory.segments.iter().map(|(_, bytes)| bytes.as_slice())
}

#[test]
fn every_run_of_a_random_schedule_runs_again_the_same() {
    let (first, runs) = (number("UNDERSTUDY_SEED", 1), number("UNDERSTUDY_RUNS", 12));
    for seed in first..first + runs {
        for node in NodeId::BOTH {
            let (config, told) = facts_of(seed, LENGTH, node);
            let mut memory = Memory::default();
            log(&config, &told, 16 << 20, &mut memory);
            let again = run_again(segments(&memory));
            assert_eq!(again.stops, [], "seed {seed}");
            assert_eq!(again.steps.len(), told.len(), "seed {seed}");
            for (step, told) in again.steps.iter().zip(&told) {
                assert_eq!((step.now, &step.fact), (told.now, &told.input), "seed {seed}");
                assert_eq!(step.difference, None, "seed {seed}: step {} of {node}", step.number);
            }
        }
    }
}

#[test]
fn a_changed_machine_is_reported_at_its_first_other_order() {
    let (config, told) = facts_of(3, LENGTH, NodeId::A);
    let mut memory = Memory::default();
    log(&config, &told, 16 << 20, &mut memory);
    let sound = run_again(segments(&memory));
    mutants::switch(Some(Mutant::ServeBeforeFence));
    let changed = run_again(segments(&memory));
    mutants::switch(None);
    let step = changed.first_difference().expect("the change shows");
    let place = changed.steps.iter().position(|step| step.difference.is_some()).expect("the same");
    // Found out with other means: the first step at which a machine with the mistake orders something else.
    let expected = sound.steps.iter().zip(&changed.steps).position(|(one, other)| one.orders != other.orders);
    assert_eq!(Some(place), expected);
    let difference = step.difference.as_ref().expect("just found");
    assert_eq!(difference.recorded.as_ref(), step.recorded.get(difference.at));
    assert_eq!(difference.replayed.as_ref(), step.orders.get(difference.at));
    assert_ne!(difference.recorded, difference.replayed);
}

#[test]
fn segments_stay_within_their_bound_and_each_can_be_read_alone() {
    let mut memory = Memory::default();
    let mut all = 0;
    for seed in 1.. {
        let (config, told) = facts_of(seed * 2, Micros::from_millis(60_000), NodeId::B);
        log(&config, &told, SEGMENT_BYTES_MIN, &mut memory);
        all += told.len();
        if memory.segments.len() > 2 {
            break;
        }
    }
    assert!(segments(&memory).all(|bytes| bytes.len() as u64 <= SEGMENT_BYTES_MIN));
    let numbers: Vec<u64> = memory.segments.iter().map(|(number, _)| *number).collect();
    assert_eq!(numbers, (1..=numbers.len() as u64).collect::<Vec<_>>());
    let together = run_again(segments(&memory));
    assert_eq!((together.steps.len(), together.stops.len()), (all, 0));
    assert_eq!(together.began.iter().filter(|began| **began == Began::Same).count(), numbers.len() - 1);
    for bytes in segments(&memory).skip(1) {
        let alone = run_again([bytes]);
        assert_eq!(alone.began[0], Began::Run);
        assert!(alone.first_difference().is_none() && !alone.steps.is_empty());
    }
}

/// What the second segment of a log begins with, after a first one in which every step came a microsecond later.
fn second_segment_after_an_edited_first(seed: u64) -> Began {
    let (config, told) = facts_of(seed, Micros::from_millis(60_000), NodeId::B);
    let mut memory = Memory::default();
    for _ in 0..20 {
        log(&config, &told, SEGMENT_BYTES_MIN, &mut memory);
    }
    let mut again = understudy_eventlog::replay::Replay::new();
    let first: Vec<Entry> = Segment::open(&memory.segments[0].1).unwrap().map(Result::unwrap).collect();
    let mut second = Segment::open(&memory.segments[1].1).unwrap();
    for entry in first {
        match entry {
            Entry::Start(start) => drop(again.start(&start).unwrap()),
            Entry::Step(mut step) => {
                step.now = Micros(step.now.0 + 1);
                drop(again.step(*step).unwrap());
            }
        }
    }
    let Some(Ok(Entry::Start(start))) = second.next() else { panic!("a segment begins with a start") };
    again.start(&start).unwrap()
}

#[test]
fn an_edited_snapshot_is_reported_with_the_line_that_differs() {
    // A segment may also begin with a run of its own, which has nothing before it.
    let differs = (1..20).find_map(|seed| match second_segment_after_an_edited_first(seed) {
        Began::Differs { recorded, replayed } => Some((recorded, replayed)),
        Began::Run | Began::Same | Began::AfterLeftOut { .. } => None,
    });
    let (recorded, replayed) = differs.expect("one of these schedules goes on in a second segment");
    assert_ne!(recorded, replayed);
}

#[test]
fn steps_a_sink_does_not_take_are_counted_and_the_log_goes_on() {
    let (config, told) = facts_of(5, LENGTH, NodeId::A);
    let run = told.chunk_by(|one, next| one.incarnation == next.incarnation).max_by_key(|run| run.len()).unwrap();
    for refuses_from in [0, run.len() / 2] {
        let mut memory = Memory::default();
        let mut machine = understudy_failover::machine::Machine::new(config.clone(), run[0].incarnation);
        if refuses_from == 0 {
            memory.refuses = 3;
        }
        let place = memory.place();
        let mut recorder =
            understudy_eventlog::record::Recorder::begin(&mut memory, &machine, place, SEGMENT_BYTES_MIN);
        for (at, told) in run.iter().enumerate() {
            if refuses_from > 0 && at == refuses_from {
                recorder.sink().refuses = 3;
            }
            let mut orders = Vec::new();
            recorder.told(told.now, &told.input, &machine);
            machine.step(told.now, told.input.clone(), &mut orders);
            recorder.ordered(&orders);
        }
        recorder.hand_over();
        assert_eq!((recorder.left_out(), recorder.steps()), (0, run.len() as u64));
        let again = run_again(segments(&memory));
        assert_eq!(again.stops, []);
        assert!(again.first_difference().is_none());
        let left_out = run.len() - again.steps.len();
        let said = again.began.iter().find_map(|began| match began {
            Began::AfterLeftOut { steps } => Some(*steps),
            Began::Run | Began::Same | Began::Differs { .. } => None,
        });
        assert!(left_out >= 3, "{left_out} left out");
        assert!(refuses_from == 0 || said == Some(left_out as u64), "{said:?} of {left_out}");
        assert_eq!(again.steps.last().map(|step| step.number), Some(run.len() as u64), "numbers go on");
    }
}

#[test]
fn a_partner_that_is_gone_costs_a_few_bytes_a_read() {
    const READS: u64 = 3_000;
    let machine = understudy_failover::machine::Machine::new(
        understudy_failover::sim::usual_config(NodeId::A),
        understudy_failover::words::Incarnation(7),
    );
    let mut memory = Memory::default();
    let place = memory.place();
    let mut recorder = understudy_eventlog::record::Recorder::begin(&mut memory, &machine, place, SEGMENT_BYTES_MIN);
    let gone = Input::PartnerPageUnreadable(Unreadable::Refused);
    let place_before = recorder.place();
    for read in 0..READS {
        recorder.told(Micros(read * 10_000), &gone, &machine);
        recorder.ordered(&Vec::new());
    }
    recorder.hand_over();
    let bytes = recorder.place().length.zip(place_before.length).map_or(0, |(after, before)| after - before);
    assert!(bytes > READS && bytes <= READS * 7, "{bytes} bytes for {READS} reads");
    assert_eq!(run_again(segments(&memory)).steps.len() as u64, READS);
}

#[test]
fn a_log_cut_anywhere_gives_everything_before_the_cut() {
    let (config, told) = facts_of(6, Micros::from_millis(4_000), NodeId::A);
    let mut memory = Memory::default();
    log(&config, &told, SEGMENT_BYTES_MIN, &mut memory);
    let bytes = &memory.segments[0].1;
    let whole = run_again([bytes.as_slice()]);
    let mut given = 0;
    for length in (understudy_eventlog::segment::HEADER_BYTES..bytes.len()).step_by(37) {
        let cut = run_again([&bytes[..length]]);
        assert!(cut.steps.len() >= given && cut.first_difference().is_none());
        given = cut.steps.len();
        match cut.stops.as_slice() {
            [] => assert_eq!(whole_bytes(&bytes[..length]), length),
            [Stop::Cut { cut: Cut::Unfinished, offset, bytes: left }] => {
                assert_eq!(whole_bytes(&bytes[..length]) as u64, *offset);
                assert_eq!(offset + left, length as u64);
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(given > 0 && given <= whole.steps.len());
}

#[test]
fn a_damaged_frame_ends_the_reading_and_says_where() {
    let (config, told) = facts_of(6, Micros::from_millis(4_000), NodeId::A);
    let mut memory = Memory::default();
    log(&config, &told, SEGMENT_BYTES_MIN, &mut memory);
    let mut bytes = memory.segments[0].1.clone();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x40;
    let again = run_again([bytes.as_slice()]);
    let [Stop::Cut { offset, .. }] = again.stops.as_slice() else { panic!("{:?}", again.stops) };
    assert!(*offset <= middle as u64 && !again.steps.is_empty());
    assert!(again.first_difference().is_none());
}
