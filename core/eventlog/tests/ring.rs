//! Long random schedules in a log that forgets: whatever was dropped, cut off or lost, what is left runs again the same, to the last
//! field of the machine.
//!
//! `UNDERSTUDY_SEED` sets the first seed, `UNDERSTUDY_RUNS` how many schedules.

mod kit;

use kit::{Memory, facts_of, run_again};
use understudy_eventlog::read::{Entry, Segment};
use understudy_eventlog::record::{Place, Recorder, SEGMENT_BYTES_MIN};
use understudy_eventlog::replay::{Began, Replay};
use understudy_failover::effect::Effects;
use understudy_failover::machine::Machine;
use understudy_failover::sim::Dice;
use understudy_failover::words::{Incarnation, Micros, NodeId};

const LENGTH: Micros = Micros::from_millis(40_000);

/// A segment is full when less than this is free.
const ROOM: u64 = 64 << 10;

/// More than the start of a run takes.
const START: u64 = 1_000;

/// The next segment is begun after so many bytes at most: about what half of the runs write.
const SOON: u64 = 12_000;

/// Steps between two interruptions, at most.
const STEPS_MAX: u64 = 3_000;

/// A log, and where each of its runs came to.
struct Logged {
    memory: Memory,
    ends: Vec<(Incarnation, Machine)>,
    steps: usize,
    seed: u64,
}

impl Logged {
    fn segments(&self) -> impl Iterator<Item = &[u8]> {
        self.memory.segments.iter().map(|(_, bytes)| bytes.as_slice())
    }
}

/// Whether the sink is sometimes busy.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Disk {
    Quick,
    SometimesBusy,
}

/// Each run goes on in a segment that is nearly full, so that somewhere in it the next is begun, with a snapshot.
fn logged(seed: u64, node: NodeId, disk: Disk) -> Logged {
    let (config, told) = facts_of(seed, LENGTH, node);
    let mut dice = Dice::new(seed);
    let mut logged = Logged { memory: Memory::default(), ends: Vec::new(), steps: told.len(), seed };
    for run in told.chunk_by(|one, next| one.incarnation == next.incarnation) {
        let mut machine = Machine::new(config.clone(), run[0].incarnation);
        let number = logged.memory.place().number;
        let place = Place { number, length: (number > 0).then(|| SEGMENT_BYTES_MIN - ROOM - START - dice.below(SOON)) };
        let mut recorder = Recorder::begin(&mut logged.memory, &machine, place, SEGMENT_BYTES_MIN);
        let mut busy_in = dice.below(STEPS_MAX);
        for told in run {
            busy_in = busy_in.saturating_sub(1);
            if disk == Disk::SometimesBusy && busy_in == 0 {
                recorder.sink().refuses = 1 + dice.below(4) as u32;
                busy_in = 1 + dice.below(STEPS_MAX);
            }
            let mut orders = Effects::new();
            recorder.told(told.now, &told.input, &machine);
            machine.step(told.now, told.input.clone(), &mut orders);
            recorder.ordered(&orders);
        }
        recorder.sink().refuses = 0;
        recorder.hand_over();
        logged.ends.push((run[0].incarnation, machine));
    }
    logged
}

fn schedules(disk: Disk) -> impl Iterator<Item = Logged> {
    let number = |name: &str, or| std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(or);
    let (first, runs) = (number("UNDERSTUDY_SEED", 1), number("UNDERSTUDY_RUNS", 6));
    (first..first + runs).flat_map(move |seed| NodeId::BOTH.map(|node| logged(seed, node, disk)))
}

/// Runs it again and says whether a snapshot or an order differed.
fn holds<'b>(seed: u64, segments: impl IntoIterator<Item = &'b [u8]>) -> kit::Outcome {
    let again = run_again(segments);
    let other = again.began.iter().find(|began| matches!(began, Began::Differs { .. }));
    assert_eq!(other, None, "seed {seed}");
    let step = again.first_difference();
    assert!(step.is_none(), "seed {seed}: {step:#?}");
    again
}

#[test]
fn the_machine_that_ran_again_is_the_machine_that_ran() {
    let mut snapshots = 0;
    for logged in schedules(Disk::Quick) {
        let mut again = Replay::new();
        let mut steps = 0;
        let mut ends = logged.ends.iter().peekable();
        for entry in logged.segments().flat_map(|bytes| Segment::open(bytes).expect("a segment")) {
            match entry.expect("whole") {
                Entry::Start(start) => {
                    if let Some((incarnation, end)) = ends.next_if(|(whose, _)| *whose != start.incarnation) {
                        assert_eq!(again.machine(), Some(end), "seed {}, {incarnation}", logged.seed);
                    }
                    snapshots += u32::from(again.start(&start).expect("a machine") == Began::Same);
                }
                Entry::Step(step) => {
                    assert_eq!(again.step(*step).expect("after a start").difference, None, "seed {}", logged.seed);
                    steps += 1;
                }
            }
        }
        assert_eq!((again.machine(), steps), (ends.next().map(|(_, end)| end), logged.steps), "seed {}", logged.seed);
    }
    assert!(snapshots > 0, "some run goes on in another segment");
}

#[test]
fn what_a_ring_still_holds_runs_again_the_same() {
    for logged in schedules(Disk::Quick) {
        let all: Vec<&[u8]> = logged.segments().collect();
        let mut given = usize::MAX;
        for dropped in 0..all.len() {
            let again = holds(logged.seed, all[dropped..].iter().copied());
            assert_eq!(again.began.first(), Some(&Began::Run), "seed {}", logged.seed);
            assert!(again.stops.is_empty() && again.steps.len() < given, "seed {}", logged.seed);
            given = again.steps.len();
            // One that was not copied is a gap, and no difference.
            let with_a_gap = all.iter().enumerate().filter(|(at, _)| *at != dropped).map(|(_, bytes)| *bytes);
            holds(logged.seed, with_a_gap);
        }
    }
}

#[test]
fn a_segment_cut_off_costs_the_steps_behind_the_cut_and_makes_no_difference() {
    for logged in schedules(Disk::Quick) {
        let mut dice = Dice::new(logged.seed);
        for place in 0..logged.memory.segments.len() {
            let mut all: Vec<&[u8]> = logged.segments().collect();
            let header = understudy_eventlog::segment::HEADER_BYTES as u64;
            let length = header + dice.below(all[place].len() as u64 - header);
            all[place] = &all[place][..length as usize];
            assert!(holds(logged.seed, all).steps.len() <= logged.steps);
        }
    }
}

#[test]
fn a_busy_disk_costs_steps_and_makes_no_difference() {
    let mut left_out = 0;
    for logged in schedules(Disk::SometimesBusy) {
        let again = holds(logged.seed, logged.segments());
        assert!(again.stops.is_empty(), "seed {}: {:?}", logged.seed, again.stops);
        left_out += logged.steps - again.steps.len();
    }
    assert!(left_out > 0, "the disk was busy at times");
}
