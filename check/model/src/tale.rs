//! A counterexample as a list of steps: who did what, and the timeline's words for what followed.

use crate::explore::{Counterexample, beginning};
use crate::fair::{self, Company};
use crate::laws::Law;
use crate::moves;
use crate::scenes::Scene;

/// Tells it.
#[must_use]
pub fn tell(scene: &Scene, found: &Counterexample) -> String {
    let mut pair = beginning(scene);
    let mut lines = vec![format!("scene {}: begins with {}", scene.name, fair::describe(&pair))];
    for (number, it) in (1..).zip(&found.moves) {
        lines.push(format!("{number:>4}  {}{}", order_of(&pair, *it), it));
        match moves::apply(scene, &pair, *it, Some(&mut lines)) {
            Some(next) => pair = next,
            None => lines.push("      nothing changes".to_owned()),
        }
    }
    if matches!(found.law, Law::ServedAgain | Law::HomeAgain | Law::AtRest) || pair.memory.broken.is_none() {
        for company in Company::ALL {
            let mut told = Some(Vec::new());
            if fair::run(scene, &pair, company, None, &mut told).is_err() {
                lines.push(format!("      from here faults stop: {company:?}"));
                let told = told.unwrap_or_default();
                let more = told.len().saturating_sub(60);
                lines.extend(told.into_iter().take(60));
                lines.push(format!("      … and {more} lines more"));
                break;
            }
        }
    }
    lines.push(format!("broken: {}", found.law));
    lines.push(format!("        {}", found.how));
    lines.join("\n")
}

/// Which order a step belongs to.
fn order_of(pair: &crate::pair::Pair, it: moves::Move) -> String {
    let moves::Move::Step(node, at, _) = it else { return String::new() };
    let work = pair.node(node).tasks.get(at).map(|task| format!("{:?}", task.work)).unwrap_or_default();
    let name: String = work.chars().take_while(char::is_ascii_alphabetic).collect();
    format!("[{name}] ")
}
