//! Every deliberate mistake that has to be found is, within its few seeds. With the feature `mistakes` only.

#![cfg(feature = "mistakes")]

use understudy_sim::mistakes::KNOWN;

#[test]
fn every_mistake_that_has_to_be_found_is() {
    let missed: Vec<String> =
        KNOWN.iter().filter(|case| case.find().is_none()).map(|case| case.mistake.name()).collect();
    assert!(missed.is_empty(), "not found: {missed:?}");
}
