//! The vocabulary of the log: every fact, order and state, and what each consists of, pinned in `vocabulary.golden.txt`.
//!
//! Bytes in a log mean something only together with this. When it changes: raise `VOCABULARY` in `src/segment.rs`; if anything but
//! new variants at the ends of enums changed, raise `OLDEST_VOCABULARY` to it too; then `UPDATE_GOLDEN=1` writes the file anew.

use std::fmt::Write;
use std::path::Path;

use serde_reflection::{Samples, Tracer, TracerConfig};
use understudy_eventlog::segment::{OLDEST_VOCABULARY, VOCABULARY};
use understudy_eventlog::start::Start;
use understudy_failover::effect::Effect;
use understudy_failover::input::Input;

/// Each pass sees one more variant of every enum; the longest has some thirty, and some stand deep inside others.
const PASSES: usize = 200;

/// Every enum. One that is missing here is named by the failure.
const ENUMS: [&str; 56] = [
    "AfterMailboxWait",
    "Again",
    "Alarm",
    "AutomaticGiveback",
    "ClaimPhase",
    "Earnest",
    "Effect",
    "Entry",
    "Exclusive",
    "FenceKind",
    "FenceOutcome",
    "GiveWait",
    "Halted",
    "HandOffPhase",
    "Health",
    "Hold",
    "Immovable",
    "Input",
    "Job",
    "JoinOutcome",
    "LegState",
    "LegsAre",
    "Link",
    "Membership",
    "NoForecast",
    "NodeId",
    "NotHeld",
    "OnEnd",
    "Occasion",
    "OpenOutcome",
    "Origin",
    "Part",
    "Pause",
    "PollPace",
    "PoolState",
    "Reply",
    "Request",
    "RestartReason",
    "Route",
    "SignOfLife",
    "SoftVetoes",
    "Stage",
    "Stand",
    "State",
    "StateWord",
    "Step",
    "TakeoverKind",
    "Timer",
    "Unreadable",
    "Verdict",
    "Veto",
    "WantAnswer",
    "WantHow",
    "Why",
    "Withheld",
    "WriteOutcome",
];

fn vocabulary() -> String {
    let mut tracer = Tracer::new(TracerConfig::default());
    let samples = Samples::new();
    for _ in 0..PASSES {
        // What the pass before has not seen all of may be looked at again.
        for name in ENUMS {
            tracer.check_incomplete_enum(name);
        }
        tracer.trace_type_once::<Input>(&samples).expect("facts are plain data");
        tracer.trace_type_once::<Effect>(&samples).expect("orders are plain data");
        tracer.trace_type_once::<Start>(&samples).expect("the machine is plain data");
    }
    let mut text = format!("vocabulary {VOCABULARY}, readable from {OLDEST_VOCABULARY}\n");
    for (name, format) in tracer.registry().expect("everything was seen") {
        let _ = writeln!(text, "{name}: {format:?}");
    }
    text
}

#[test]
fn facts_orders_and_states_are_what_the_number_of_the_vocabulary_says() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vocabulary.golden.txt");
    let found = vocabulary();
    if std::env::var_os("UPDATE_GOLDEN").is_some_and(|value| value == "1") {
        std::fs::write(&golden, &found).expect("written");
    }
    let expected = std::fs::read_to_string(&golden).unwrap_or_default();
    for (found, expected) in found.lines().zip(expected.lines()) {
        assert_eq!(found, expected, "see the head of this file");
    }
    assert_eq!(found.lines().count(), expected.lines().count(), "see the head of this file");
}
