//! The whole story on disks served by somebody else's target: Debian's tgtd instead of the own shelf.
//!
//! tgtd's reservations are weaker (it has no PREEMPT AND ABORT worth the name and no APTPL): the pair must get along with
//! what a disk says it can, and still lose nothing.

use std::time::Duration;

use understudy::config::NodeName;
use understudy::harness::{Plan, ShelfKind, Signal};
use understudy_drill::stage::plan;
use understudy_drill::tgt::Tgtd;
use understudy_drill::{Fault, Stage, play};

/// Several times what a test takes on a busy machine.
const LIMIT: Duration = Duration::from_secs(90);

/// Sizes of the lock disks and pool disks of a small pair.
const SIZES: [u64; 7] = [16 << 20, 16 << 20, 16 << 20, 128 << 20, 128 << 20, 128 << 20, 128 << 20];

fn on_tgtd(story: impl FnOnce(&mut Stage, &Tgtd) -> anyhow::Result<()> + Send + 'static) {
    if !Tgtd::is_present() {
        return;
    }
    play(LIMIT, move |folder| {
        // Dropped last: the nodes end before their disks.
        let tgtd = Tgtd::start(folder, &SIZES)?;
        let plan = Plan {
            shelf: ShelfKind::Given(tgtd.urls(SIZES.len())),
            ..plan(env!("CARGO_BIN_EXE_understudy-drilled"), folder)
        };
        let mut stage = Stage::set_up(plan)?;
        stage.start_clients(1)?;
        story(&mut stage, &tgtd)?;
        stage.conclude()
    });
}

#[test]
fn takeover_bring_up_and_giveback_work_on_tgtd() {
    on_tgtd(|stage, _| {
        stage.lose(NodeName::A)?;
        stage.demand_keys_of(|_| NodeName::B)?;
        stage.pair.start(NodeName::A)
    });
}

#[test]
fn a_survivor_stopped_while_it_holds_writes_nothing_late_on_tgtd() {
    on_tgtd(|stage, _| {
        stage.lose(NodeName::A)?;
        stage.arm(NodeName::B, "held", Fault::Stopped)?;
        stage.pair.start(NodeName::A)?;
        stage.wait_until_hit(NodeName::B, Fault::Stopped)?;
        stage.wait_until_alone(NodeName::A)?;
        stage.demand_keys_of(|_| NodeName::A)?;
        stage.repair(NodeName::B, Fault::Stopped)
    });
}

/// tgtd forgets a registration with the session it was made in.
#[test]
fn a_shelf_that_stood_still_longer_than_every_deadline_is_used_again_on_tgtd() {
    on_tgtd(|stage, tgtd| {
        tgtd.signal(Signal::STOP)?;
        let lost = stage.wait_until_disks_are_lost();
        tgtd.signal(Signal::CONT)?;
        lost?;
        stage.wait_until_home()?;
        stage.wait_until_clients_go_on("after the shelf stood still")
    });
}
