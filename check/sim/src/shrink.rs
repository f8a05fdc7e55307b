//! Makes a failing run smaller: fewer faults, shorter, still failing.

use crate::plan::Plan;
use crate::run::{Outcome, run};

/// Runs tried. BOUND: a run takes seconds.
const TRIES: usize = 120;

/// The smallest plan found that still goes wrong, and how.
#[must_use]
pub fn shrink(plan: &Plan, outcome: Outcome) -> (Plan, Outcome) {
    let mut best = (plan.clone(), outcome);
    let mut tries = 0;
    let mut piece = best.0.faults.len().div_ceil(2);
    // BOUND: the pieces become smaller, and every turn uses up tries.
    while piece > 0 && tries < TRIES {
        let mut at = 0;
        let mut shrunk = false;
        while at < best.0.faults.len() && tries < TRIES {
            let mut smaller = best.0.clone();
            smaller.faults.drain(at..(at + piece).min(best.0.faults.len()));
            smaller.length_ms =
                smaller.faults.last().map_or(2_000, |last| last.at_ms + last.for_ms + 3_000).min(best.0.length_ms);
            tries += 1;
            let tried = run(&smaller);
            if tried.failure.is_some() {
                best = (smaller, tried);
                shrunk = true;
            } else {
                at += piece;
            }
        }
        if !shrunk || piece > 1 {
            piece /= 2;
        }
    }
    best
}
