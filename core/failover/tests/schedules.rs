//! Random schedules of the pair: safety under faults, then liveness once they stop, and proof that the schedules bite.
//!
//! `UNDERSTUDY_SEED` sets the first seed, `UNDERSTUDY_RUNS` how many schedules; a failing seed is printed with its transcript's end.
//! `UNDERSTUDY_TRACE=1` prints the whole transcript of a failing seed.

use understudy_failover::mutants::{self, Mutant};
use understudy_failover::sim::faults::{Mix, replay, run_schedule};
use understudy_failover::sim::{Chaos, World, usual_config};
use understudy_failover::words::{Micros, NodeId};

fn number(name: &str, or: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(or)
}

const LENGTH: Micros = Micros::from_millis(15_000);

fn transcript(seed: u64, mix: Mix) -> Vec<String> {
    let mut world = World::new([usual_config(NodeId::A), usual_config(NodeId::B)], seed, Chaos::WILD);
    world.transcript = Some(Vec::new());
    let _ = replay(&mut world, mix, LENGTH);
    world.transcript.unwrap_or_default()
}

fn run_all(mix: Mix, first: u64, runs: u64) {
    let mut failed = Vec::new();
    let mut acknowledged = 0;
    for seed in first..first + runs {
        match run_schedule(seed, mix, LENGTH) {
            Ok(world) => acknowledged += world.acknowledged,
            Err(what) => {
                println!("seed {seed}: {what}");
                failed.push(seed);
            }
        }
    }
    println!("{runs} schedules from seed {first}: {acknowledged} acknowledged writes, {} failed", failed.len());
    if let Some(seed) = failed.first() {
        let lines = transcript(*seed, mix);
        let from = if number("UNDERSTUDY_TRACE", 0) == 1 { 0 } else { lines.len().saturating_sub(60) };
        println!("{}", lines[from..].join("\n"));
    }
    assert!(failed.is_empty(), "failing seeds: {failed:?}");
}

#[test]
fn no_schedule_breaks_an_invariant_and_every_one_heals() {
    run_all(Mix::ALL, number("UNDERSTUDY_SEED", 1), number("UNDERSTUDY_RUNS", 40));
}

/// The first seed that finds a mutant, within `runs`.
fn found(mutant: Mutant, mix: Mix, runs: u64) -> Option<(u64, String)> {
    mutants::switch(Some(mutant));
    let first = number("UNDERSTUDY_SEED", 1);
    let found = (first..first + runs).find_map(|seed| run_schedule(seed, mix, LENGTH).err().map(|what| (seed, what)));
    mutants::switch(None);
    found
}

fn must_find(mutant: Mutant) {
    let (seed, what) = found(mutant, Mix::ALL, 400).unwrap_or_else(|| panic!("{mutant:?} was not found"));
    println!("{mutant:?} found by seed {seed}: {what}");
}

#[test]
fn serving_without_the_second_look_is_found() {
    must_find(Mutant::SkipVerify);
}

#[test]
fn announcing_before_the_commit_stands_is_found() {
    must_find(Mutant::AnnounceBeforeCommit);
}

#[test]
fn serving_before_the_fence_is_found() {
    must_find(Mutant::ServeBeforeFence);
}

#[test]
fn releasing_without_a_write_guard_is_found() {
    must_find(Mutant::ReleaseWithoutGuard);
}

#[test]
fn taking_any_survey_for_the_verification_is_found() {
    must_find(Mutant::IgnoreOpNumbers);
}

#[test]
fn serving_on_a_minority_record_is_found() {
    must_find(Mutant::ServeOnMinorityRecord);
}

#[test]
fn resuming_after_a_commit_was_sent_is_found() {
    must_find(Mutant::ResumeAfterCommitSent);
}

#[test]
fn preempting_without_abort_is_found() {
    must_find(Mutant::PlainPreempt);
}

#[test]
fn dropping_a_leg_before_it_is_recorded_is_found() {
    must_find(Mutant::DropLegUnrecorded);
}
