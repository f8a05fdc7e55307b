//! The kill matrix: either node is killed, or stopped and woken later, in every state of a bring-up.
//!
//! Node a was killed and b serves everything; a boots again, and one of the two is hit at a named place. A cell does not say
//! how the pair gets out of it. It demands: the other node comes to serve everything alone, to the clients' satisfaction;
//! only its keys stand on the pool disks then, before the hit node lives again; afterwards both nodes come home by themselves; nothing
//! acknowledged was lost and no command failed. A late write of a woken node would show as a lost or old block.

use std::time::Duration;

use understudy::config::NodeName;
use understudy_drill::stage::plan;
use understudy_drill::{Fault, Stage, play};

/// Several times what a cell takes on a busy machine.
const LIMIT: Duration = Duration::from_secs(90);

/// The node that boots again.
const REPAIRED: NodeName = NodeName::A;

/// The node that serves everything meanwhile.
const SURVIVOR: NodeName = NodeName::B;

/// Hits `node` at `place`. States the repaired node leaves at once are made to last: it hangs `at` that place until the
/// survivor, which must see it there, was hit.
fn cell(node: NodeName, place: &'static str, at: Option<&'static str>, fault: Fault) {
    play(LIMIT, move |folder| {
        let mut stage = Stage::set_up(plan(env!("CARGO_BIN_EXE_understudy-drilled"), folder))?;
        stage.start_clients(1)?;
        stage.lose(REPAIRED)?;
        stage.arm(node, place, fault)?;
        if let Some(at) = at {
            stage.arm(REPAIRED, at, Fault::Hung)?;
        }
        stage.pair.start(REPAIRED)?;
        stage.wait_until_hit(node, fault)?;
        if at.is_some() {
            stage.wait_until_hit(REPAIRED, Fault::Hung)?;
            stage.repair(REPAIRED, Fault::Hung)?;
        }
        let other = node.partner();
        match fault {
            Fault::Killed | Fault::Died | Fault::Panicked | Fault::Stopped => stage.wait_until_alone(other)?,
            Fault::Hung => stage.wait_until_alone_beside_hanging(other)?,
        }
        stage.demand_keys_of(|_| other)?;
        stage.repair(node, fault)?;
        stage.conclude()
    });
}

/// One test function a cell: `module::place::{killed, stopped}`.
macro_rules! cells {
    ($($module:ident: $node:expr => { $($name:ident = $place:literal $(while $at:literal)?),* $(,)? })*) => {
        $(mod $module {
            $(mod $name {
                use super::super::{Fault, cell};

                const AT: Option<&str> = [$(Some($at),)? None][0];

                #[test]
                fn killed() {
                    cell($node, $place, AT, Fault::Killed);
                }

                #[test]
                fn stopped_and_woken() {
                    cell($node, $place, AT, Fault::Stopped);
                }

                #[test]
                fn hung_and_gone_on() {
                    cell($node, $place, AT, Fault::Hung);
                }
            })*
        })*
    };
}

cells! {
    repaired_node: super::super::REPAIRED => {
        booting = "page-booting",
        givewait = "page-givewait",
        released_read = "released-read",
        release_checked = "release-checked",
        diskinit = "page-diskinit",
        disks_initialised = "disks-initialised",
        mbwait = "page-mbwait",
        giveback_read = "giveback-read",
        announcement_read = "announcement-read",
        commit_read = "commit-read",
        resuming = "page-resuming",
        portals_listening = "portals-listening",
        fenced = "fenced",
        serving = "serving",
    }
    survivor: super::super::SURVIVOR => {
        booting_read = "booting-read" while "page-booting",
        givewait_read = "givewait-read",
        reservations_released = "reservations-released",
        released = "page-released",
        diskinit_read = "diskinit-read" while "page-diskinit",
        mbwait_read = "mbwait-read",
        giveback = "page-giveback",
        holding = "holding",
        held = "held",
        commit_sent = "commit-sent",
        committed = "committed",
        announced = "announced",
        resuming_read = "resuming-read" while "page-resuming",
        ceased = "ceased",
    }
}
