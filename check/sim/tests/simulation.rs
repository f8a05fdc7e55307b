//! That a seed decides everything, and seeds that must hold.

use understudy_sim::plan::Plan;
use understudy_sim::run::run;

#[test]
fn the_same_seed_gives_the_same_run_and_it_holds() {
    let mut plan = Plan::from_seed(3);
    plan.length_ms = 4_000;
    plan.faults.retain(|planned| planned.at_ms < 4_000);
    let (one, other) = (run(&plan), run(&plan));
    assert_eq!(one, other);
    assert_eq!(one.failure, None);
    assert!(one.acknowledged > 0 && one.reads > 0, "{one:?}");
}
