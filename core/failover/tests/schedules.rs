//! Random schedules of the pair: safety under faults, then liveness once they stop, and proof that the schedules bite.
//!
//! `UNDERSTUDY_SEED` sets the first seed, `UNDERSTUDY_RUNS` how many schedules; a failing seed is printed with its transcript's end.
//! `UNDERSTUDY_TRACE=1` prints the whole transcript of a failing seed.

use understudy_failover::mutants::{self, Mutant};
use understudy_failover::sim::faults::{Mix, pair_of, replay, run_schedule};
use understudy_failover::sim::{Chaos, World};
use understudy_failover::words::Micros;

fn number(name: &str, or: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(or)
}

const LENGTH: Micros = Micros::from_millis(15_000);

/// What befalls the schedule of a seed: four kinds of bad luck in turn.
fn luck(seed: u64) -> (Mix, Chaos) {
    match seed % 4 {
        0 => (Mix::ALL, Chaos::WILD),
        1 => (MEETINGS, HANGING),
        2 => (LEGS, Chaos::WILD),
        _ => (HAND_OFFS, FORGETFUL),
    }
}

fn transcript(seed: u64) -> Vec<String> {
    let (mix, chaos) = luck(seed);
    let mut world = World::new(pair_of(seed), seed, chaos);
    world.transcript = Some(Vec::new());
    let _ = replay(&mut world, mix, LENGTH);
    world.transcript.unwrap_or_default()
}

#[test]
fn no_schedule_breaks_an_invariant_and_every_one_heals() {
    let (first, runs) = (number("UNDERSTUDY_SEED", 1), number("UNDERSTUDY_RUNS", 400));
    let mut failed = Vec::new();
    let mut acknowledged = 0;
    for seed in first..first + runs {
        let (mix, chaos) = luck(seed);
        match run_schedule(seed, mix, chaos, LENGTH) {
            Ok(world) => acknowledged += world.acknowledged,
            Err(what) => {
                println!("seed {seed}: {what}");
                failed.push(seed);
            }
        }
    }
    println!("{runs} schedules from seed {first}: {acknowledged} acknowledged writes, {} failed", failed.len());
    if let Some(seed) = failed.first() {
        let lines = transcript(*seed);
        let from = if number("UNDERSTUDY_TRACE", 0) == 1 { 0 } else { lines.len().saturating_sub(60) };
        println!("{}", lines[from..].join("\n"));
    }
    assert!(failed.is_empty(), "failing seeds: {failed:?}");
}

/// Switches a mistake on and looks for the first seed that finds it. Faults are drawn so that the mistake matters soon; what is found is
/// found by the same invariants and the same demand for service as without it.
fn must_find(mutant: Mutant, mix: Mix, chaos: Chaos) {
    mutants::switch(Some(mutant));
    let first = number("UNDERSTUDY_SEED", 1);
    let found =
        (first..first + 400).find_map(|seed| run_schedule(seed, mix, chaos, LENGTH).err().map(|what| (seed, what)));
    mutants::switch(None);
    let (seed, what) = found.unwrap_or_else(|| panic!("{mutant:?} was not found"));
    println!("{mutant:?} found by seed {seed}: {what}");
    let sound = run_schedule(seed, mix, chaos, LENGTH);
    assert!(sound.is_ok(), "seed {seed} fails without {mutant:?} too: {:?}", sound.err());
}

/// Records often of unknown outcome.
const FORGETFUL: Chaos = Chaos { record_unknown: 3, ..Chaos::WILD };
/// Writes often hang in the disks.
const HANGING: Chaos = Chaos { slow_write: 4, ..Chaos::WILD };
/// Processes stopped, interconnect and lock disks cut: nodes meet unexpectedly.
const MEETINGS: Mix = Mix { kill: 2, stop: 8, interconnect: 4, lock_disk: 2, leg: 0, operator: 3 };
/// Legs come and go, nodes die.
const LEGS: Mix = Mix { kill: 4, stop: 2, interconnect: 0, lock_disk: 0, leg: 8, operator: 1 };
/// Nothing but deaths and hand-offs.
const HAND_OFFS: Mix = Mix { kill: 3, stop: 1, interconnect: 0, lock_disk: 0, leg: 0, operator: 6 };

#[test]
fn serving_without_the_second_look_is_found() {
    must_find(Mutant::SkipVerify, MEETINGS, Chaos::WILD);
}

#[test]
fn announcing_before_the_commit_stands_is_found() {
    must_find(Mutant::AnnounceBeforeCommit, HAND_OFFS, Chaos::WILD);
}

#[test]
fn serving_before_the_fence_is_found() {
    must_find(Mutant::ServeBeforeFence, Mix::ALL, Chaos::WILD);
}

#[test]
fn releasing_without_a_write_guard_is_found() {
    must_find(Mutant::ReleaseWithoutGuard, Mix::ALL, Chaos::WILD);
}

#[test]
fn taking_any_survey_for_the_verification_is_found() {
    must_find(Mutant::IgnoreOpNumbers, Mix::ALL, Chaos::WILD);
}

#[test]
fn serving_on_a_minority_record_is_found() {
    must_find(Mutant::ServeOnMinorityRecord, Mix::ALL, FORGETFUL);
}

#[test]
fn resuming_after_a_commit_was_sent_is_found() {
    must_find(Mutant::ResumeAfterCommitSent, HAND_OFFS, FORGETFUL);
}

#[test]
fn preempting_without_abort_is_found() {
    must_find(Mutant::PlainPreempt, MEETINGS, HANGING);
}

#[test]
fn dropping_a_leg_before_it_is_recorded_is_found() {
    must_find(Mutant::DropLegUnrecorded, LEGS, Chaos::WILD);
}
