//! Nothing is refused and no alarm is raised without a word why and what to do.

use understudy_failover::effect::{Alarm, Immovable, NoForecast, Veto};
use understudy_failover::page::StateWord;
use understudy_failover::words::PoolId;

use super::{Movement, Said, of_alarm, of_immovable, of_no_forecast, of_not_now, of_veto};
use crate::config::NodeName;

const MOVEMENTS: [Movement; 2] = [Movement::Takeover, Movement::Giveback];

fn name(pool: PoolId) -> String {
    if pool == PoolId(1) { "fast".to_owned() } else { "bulk".to_owned() }
}

/// Everything there is to be said, by the enums of the failover machine, with the name of each.
fn all() -> Vec<(String, Said)> {
    let pool = PoolId(1);
    let mut all = Vec::new();
    for movement in MOVEMENTS {
        let vetoes = Veto::ALL.into_iter().map(|veto| (format!("{veto:?}"), of_veto(veto, movement)));
        let states = StateWord::ALL.into_iter().map(|state| (state.to_string(), of_not_now(state, movement)));
        let immovable = Immovable::each(PoolId(2)).into_iter();
        let immovable = immovable.map(|why| (format!("{why:?}"), of_immovable(pool, why, movement, name)));
        let found = vetoes.chain(states).chain(immovable);
        all.extend(found.map(|(what, said)| (format!("{movement:?} {what}"), said)));
    }
    all.extend(NoForecast::ALL.into_iter().map(|why| (format!("{why:?}"), of_no_forecast(why, NodeName::A))));
    all.extend(Alarm::each(pool).into_iter().map(|alarm| (format!("{alarm:?}"), of_alarm(alarm, NodeName::A, name))));
    all
}

/// Words of advice: what somebody can do, or that nobody has to.
const DOING: [&str; 17] = [
    "ask",
    "back up",
    "by itself",
    "check",
    "compare",
    "find out",
    "mend",
    "name",
    "nothing has to be done",
    "once",
    "repair",
    "see",
    "start",
    "takeover",
    "giveback",
    "upgrade",
    "wait",
];

#[test]
fn every_refusal_and_every_alarm_names_its_reason_and_its_remedy() {
    let all = all();
    assert_eq!(all.len(), 2 * (12 + 11 + 5) + 4 + 14, "of every kind there is");
    for (what, Said { reason, remedy }) in &all {
        assert!(reason.len() > 15, "{what} is said without a reason: {reason:?}");
        assert!(remedy.len() > 15, "{what} is said without a remedy: {remedy:?}");
        assert!(DOING.iter().any(|word| remedy.contains(word)), "{what}: nothing to do in {remedy:?}");
        assert!(!reason.contains('\n') && !remedy.contains('\n'), "{what} is said in one line");
    }
}

#[test]
fn no_two_refusals_of_one_movement_are_said_alike() {
    let all = all();
    for (at, (what, said)) in all.iter().enumerate() {
        let same: Vec<_> = all[at + 1..].iter().filter(|(_, other)| other.reason == said.reason).collect();
        let other_way = |(other, _): &&(String, Said)| other.split_once(' ').is_some_and(|(_, it)| what.ends_with(it));
        assert!(same.iter().all(other_way), "{what} and {same:?}");
    }
}

#[test]
fn pools_are_called_what_the_operator_calls_them() {
    let said = of_immovable(PoolId(1), Immovable::SharesTarget { with: PoolId(2) }, Movement::Giveback, name);
    assert!(said.reason.starts_with("fast cannot move without bulk:"), "{said}");
    let alarm = of_alarm(Alarm::PoolRefused(PoolId(2)), NodeName::A, name);
    assert!(alarm.to_string().starts_with("bulk is refused: not every leg"), "{alarm}");
}
