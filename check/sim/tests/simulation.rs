//! That a seed decides everything, and runs that must hold: a few short ones, and every plan kept because it once did not.

use std::path::Path;

use understudy_sim::plan::Plan;
use understudy_sim::run::run;
use understudy_sim::weather::Kind;

/// A run cut off after so many milliseconds of faults, so that a test takes seconds.
fn short(mut plan: Plan) -> Plan {
    plan.length_ms = plan.length_ms.min(4_000);
    plan.faults.retain(|planned| planned.at_ms < 4_000);
    plan
}

#[test]
fn the_same_seed_gives_the_same_run_and_it_holds() {
    let plan = short(Plan::from_seed(3));
    let (one, other) = (run(&plan), run(&plan));
    assert_eq!(one, other);
    assert_eq!(one.failure, None);
    assert!(one.acknowledged > 0 && one.reads > 0, "{one:?}");
}

#[test]
fn kinds_that_are_rare_together_hold_alone() {
    let weathers: [&[Kind]; 6] = [
        &[Kind::Crowd, Kind::Kill],
        &[Kind::RepeatAnswers, Kind::RepeatNews],
        &[Kind::Damage, Kind::KillBoth],
        &[Kind::ShelfPower, Kind::KillShelf],
        &[Kind::Stop, Kind::CutAll],
        &[Kind::Operators, Kind::Volumes],
    ];
    for (seed, kinds) in (500..).zip(weathers) {
        let mut plan = short(Plan::in_weather(seed, kinds));
        plan.clock_rate = [900, 1_200];
        let outcome = run(&plan);
        assert_eq!(outcome.failure, None, "seed {seed}, {kinds:?}: {:#?}", outcome.last_lines);
        assert!(!outcome.refused && outcome.home_after.is_some(), "seed {seed}, {kinds:?}");
    }
}

#[test]
fn a_leg_lost_for_good_is_done_without() {
    let mut plan = Plan::in_weather(1, &[]);
    plan.length_ms = 12_000;
    let lost = r#"{"at_ms":1000,"for_ms":0,"fault":{"LoseLeg":{"shelf":4}}}"#;
    plan.faults.push(serde_json::from_str(lost).expect("a fault"));
    let outcome = run(&plan);
    assert_eq!(outcome.failure, None, "{:#?}", outcome.last_lines);
    assert!(!outcome.refused && outcome.reads > 0);
}

#[test]
fn plans_that_went_wrong_once_hold() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/plans");
    let files = std::fs::read_dir(folder).expect("kept plans").map(|entry| entry.expect("a file").path());
    for file in files {
        let text = std::fs::read_to_string(&file).expect("a kept plan");
        let plan: Plan = serde_json::from_str(&text).expect("a plan");
        let outcome = run(&plan);
        assert_eq!(outcome.failure, None, "{}: {:#?}", file.display(), outcome.last_lines);
    }
}
