//! That `cargo xtask calm` would notice: a pair to which something is done does not pass for one to which nothing was.

use std::path::Path;
use std::time::Duration;

use understudy::config::NodeName;
use understudy::timeline::step;
use understudy_drill::calm::Report;
use understudy_drill::ground::{Ground, Hosting, Wish};
use understudy_drill::play;

/// Several times what the test takes on a busy machine.
const LIMIT: Duration = Duration::from_secs(90);

#[test]
fn a_takeover_is_counted_step_by_step_with_its_alarm() {
    play(LIMIT, |folder| {
        let program = Path::new(env!("CARGO_BIN_EXE_understudy-drilled")).to_owned();
        let wish = Wish { program, parent: folder.to_owned(), volumes: 1, hosting: Hosting::Here };
        let mut ground = Ground::make(&wish)?;
        ground.stage.steps.clear();
        ground.lose(NodeName::A)?;
        let mut report = Report::default();
        report.look(&mut ground);
        for name in [step::PARTNER_LOST, step::CONTEST, step::TAKEOVER] {
            let counted = report.false_alarms.keys().any(|told| told.starts_with(&format!("b {name}: ")));
            anyhow::ensure!(counted, "{name} was not counted: {report:?}");
        }
        anyhow::ensure!(!report.alarms.is_empty() && report.unanswered == 1, "node a is gone: {report:?}");
        Ok(())
    });
}
