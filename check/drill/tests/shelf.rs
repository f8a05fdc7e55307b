//! What happens to the shelf happens to both nodes at once: neither may take it for the other's death, and nothing
//! acknowledged may be missing afterwards.

use std::time::Duration;

use anyhow::Context;
use understudy::config::NodeName;
use understudy::harness::Signal;
use understudy_drill::registered::register_late;
use understudy_drill::stage::plan;
use understudy_drill::{Stage, play};
use understudy_failover::words::NodeId;

/// Several times what a test takes on a busy machine.
const LIMIT: Duration = Duration::from_secs(90);

fn with_clients(story: impl FnOnce(&mut Stage) -> anyhow::Result<()> + Send + 'static) {
    play(LIMIT, move |folder| {
        let mut stage = Stage::set_up(plan(env!("CARGO_BIN_EXE_understudy-drilled"), folder))?;
        stage.start_clients(1)?;
        story(&mut stage)?;
        stage.conclude()
    });
}

#[test]
fn a_shelf_that_stood_still_longer_than_every_deadline_is_used_again() {
    with_clients(|stage| {
        stage.pair.signal_shelf(Signal::STOP)?;
        let lost = stage.wait_until_disks_are_lost();
        stage.pair.signal_shelf(Signal::CONT)?;
        lost?;
        stage.wait_until_home()?;
        stage.wait_until_clients_go_on("after the shelf stood still")
    });
}

/// SPC-4 r37 §5.13.5: what was registered with APTPL is there again.
#[test]
fn a_shelf_that_was_killed_and_started_again_is_used_again() {
    with_clients(|stage| {
        stage.pair.kill_shelf()?;
        stage.wait_until_disks_are_lost()?;
        stage.pair.start_shelf()?;
        stage.wait_until_home()?;
        stage.wait_until_clients_go_on("after the shelf was started again")
    });
}

/// A node that was stopped in the middle of its fence: what it had under way lands after its partner fenced the disk.
#[test]
fn a_registration_that_lands_after_the_fence_keeps_nobody_from_coming_home() {
    with_clients(|stage| {
        stage.lose(NodeName::A)?;
        let config = stage.pair.config();
        register_late(config.disks.first().context("no disks")?, config, NodeId::A)?;
        stage.pair.start(NodeName::A)?;
        stage.wait_until_home()?;
        stage.demand_keys_of(|home| home)?;
        stage.wait_until_clients_go_on("after the giveback")
    });
}

/// Everything loses power, and one disk is not there any more afterwards: nobody had time to record that.
#[test]
fn a_disk_lost_with_everything_else_leaves_its_pool_served_on_the_other_leg() {
    with_clients(|stage| {
        let pool = stage.pair.config().pools_of(NodeName::B).next().context("no pool")?.name.clone();
        for node in NodeName::BOTH {
            stage.pair.kill(node)?;
        }
        stage.pair.kill_shelf()?;
        stage.pair.start_shelf_short_of(1)?;
        for node in NodeName::BOTH {
            stage.pair.start(node)?;
        }
        stage.wait_until_clients_go_on("with one leg of a mirror")?;
        stage.wait_for("the timeline tells of it", |stage| {
            NodeName::BOTH.iter().any(|node| stage.times_told(*node, "legs-left-out", &pool) > 0)
        })?;
        // It was found again, and is taken back like any leg that was dropped.
        stage.pair.kill_shelf()?;
        stage.wait_until_disks_are_lost()?;
        stage.pair.start_shelf()?;
        stage.wait_until_home()?;
        stage.wait_for("every leg is good again", |stage| {
            stage.pair.status(NodeName::B).is_ok_and(|status| {
                let mut legs = status.pools.iter().flat_map(|pool| &pool.mirrors).flat_map(|mirror| &mirror.legs);
                legs.all(|leg| leg.state == "good")
            })
        })?;
        stage.wait_until_clients_go_on("with both legs")
    });
}
