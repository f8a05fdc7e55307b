//! A leg of a mirror that was dropped because its disk failed: taken back by itself once the disk works, by whoever owns the pool
//! then, while clients go on; and the operator sees all of it.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, ensure};
use understudy::admin::{LegStatus, Request, Response, SoftVetoes, Veto};
use understudy::config::NodeName;
use understudy_drill::fault::trouble_disk;
use understudy_drill::legs::demand_equal_legs;
use understudy_drill::stage::plan;
use understudy_drill::{Stage, play};

/// Several times what a test takes on a busy machine.
const LIMIT: Duration = Duration::from_secs(120);

/// How long a node may take to answer a request for a hand-off.
const ANSWER_WITHIN: Duration = Duration::from_secs(20);

/// The first leg of the pool of node a, and its name.
const DISK: &str = "d0";

/// Slow enough that a copy can be met half way.
const SLOW: &str = "delay 60";

fn set_up(folder: &Path) -> anyhow::Result<Stage> {
    let mut stage = Stage::set_up(plan(env!("CARGO_BIN_EXE_understudy-drilled"), folder))?;
    stage.start_clients(1)?;
    wait_until_in_step(&mut stage)?;
    Ok(stage)
}

/// What a node says of the leg.
fn leg(stage: &Stage, at: NodeName) -> Option<LegStatus> {
    let status = stage.pair.status(at).ok()?;
    let mut legs = status.pools.into_iter().flat_map(|pool| pool.mirrors).flat_map(|mirror| mirror.legs);
    legs.find(|leg| leg.disk == DISK)
}

/// Whether a node has an alarm about the leg.
fn alarmed(stage: &Stage, at: NodeName) -> bool {
    stage.pair.status(at).is_ok_and(|status| status.alarms.iter().any(|alarm| alarm.contains(DISK)))
}

fn wait_until_leg_is(stage: &mut Stage, at: NodeName, state: &str) -> anyhow::Result<()> {
    stage.wait_for(&format!("{DISK} is {state} at {at}"), |stage| {
        leg(stage, at).is_some_and(|leg| leg.state == state) && alarmed(stage, at) == (state != "good")
    })
}

fn wait_until_in_step(stage: &mut Stage) -> anyhow::Result<()> {
    stage.wait_for("all mirrors are in step", |stage| {
        NodeName::BOTH.iter().all(|node| {
            stage.pair.status(*node).is_ok_and(|status| {
                let mut mirrors = status.pools.iter().flat_map(|pool| &pool.mirrors);
                mirrors.all(|mirror| mirror.resync_left_bytes == 0)
            })
        })
    })
}

/// Makes the disk fail until `owner` does without it.
fn lose_leg(stage: &mut Stage, owner: NodeName) -> anyhow::Result<()> {
    trouble_disk(&stage.pair, DISK, Some("error"))?;
    wait_until_leg_is(stage, owner, "dropped")?;
    stage.wait_until_clients_go_on("with one leg")
}

/// Lets the disk work again, slowly, and meets the copy half way.
fn wait_until_half_copied(stage: &mut Stage, owner: NodeName) -> anyhow::Result<()> {
    trouble_disk(&stage.pair, DISK, Some(SLOW))?;
    stage.wait_for(&format!("{DISK} is copied to by {owner}"), |stage| {
        leg(stage, owner).and_then(|leg| leg.copied_percent).is_some_and(|percent| (5..90).contains(&percent))
    })
}

/// Node b serves everything and copies to the leg of the pool of node a, which waits for its giveback.
fn set_up_with_copy_before_giveback(folder: &Path) -> anyhow::Result<Stage> {
    let mut stage = set_up(folder)?;
    stage.lose(NodeName::A)?;
    lose_leg(&mut stage, NodeName::B)?;
    wait_until_half_copied(&mut stage, NodeName::B)?;
    stage.pair.start(NodeName::A)?;
    stage.wait_for("b sees a wait for its pools", |stage| {
        stage.pair.status(NodeName::B).is_ok_and(|status| status.partner.state == "MBWAIT")
    })?;
    Ok(stage)
}

/// Asks node b for a giveback until it is at a point where it can be asked for one: its own attempts take turns with that.
fn ask_for_giveback(stage: &mut Stage, soft_vetoes: SoftVetoes) -> anyhow::Result<Response> {
    let mut answer = None;
    stage.wait_for("b has an answer to a request for a giveback", |stage| {
        answer = stage.pair.ask(NodeName::B, &Request::Giveback { soft_vetoes }, ANSWER_WITHIN).ok();
        match &answer {
            Some(Response::Refused { vetoes, .. }) => !vetoes.is_empty(),
            Some(_) => true,
            None => false,
        }
    })?;
    answer.context("no answer")
}

/// Everything of a sound pair, and the legs hold the same.
fn conclude(mut stage: Stage) -> anyhow::Result<()> {
    wait_until_leg_is(&mut stage, NodeName::A, "good")?;
    stage.wait_until_home()?;
    stage.wait_until_clients_go_on("at the end")?;
    stage.demand_keys_of(|home| home)?;
    for verdict in stage.verdicts()? {
        ensure!(verdict.holds(), "a client is not content: {verdict:?}");
    }
    wait_until_in_step(&mut stage)?;
    demand_equal_legs(stage.pair.config(), &stage.pair.folder().join("shelf"), &[])?;
    stage.conclude()
}

#[test]
fn a_disk_that_failed_for_a_while_is_taken_back_while_clients_go_on() {
    play(LIMIT, |folder| {
        let mut stage = set_up(folder)?;
        lose_leg(&mut stage, NodeName::A)?;
        let marks = stage.mark();
        wait_until_half_copied(&mut stage, NodeName::A)?;
        stage.wait_until_clients_go_on("beside the copy")?;
        trouble_disk(&stage.pair, DISK, None)?;
        wait_until_leg_is(&mut stage, NodeName::A, "good")?;
        for (client, pause) in stage.pauses(&marks) {
            eprintln!("longest pause of {client} from mended to good: {pause:?}");
        }
        for step in ["leg-resync", "leg-resync-progress", "leg-taken-back"] {
            stage.wait_until_told(NodeName::A, step, DISK)?;
        }
        conclude(stage)
    });
}

#[test]
fn the_survivor_takes_a_leg_back_and_gives_the_whole_mirror_home() {
    play(LIMIT, |folder| {
        let mut stage = set_up(folder)?;
        stage.lose(NodeName::A)?;
        lose_leg(&mut stage, NodeName::B)?;
        trouble_disk(&stage.pair, DISK, None)?;
        wait_until_leg_is(&mut stage, NodeName::B, "good")?;
        stage.demand_keys_of(|_| NodeName::B)?;
        stage.pair.start(NodeName::A)?;
        stage.wait_until_home()?;
        ensure!(stage.times_told(NodeName::A, "leg-resync", DISK) == 0, "what came home whole is not copied again");
        conclude(stage)
    });
}

#[test]
fn a_leg_that_comes_back_after_the_repaired_node_looked_at_its_disks_does_not_keep_it_away() {
    play(LIMIT, |folder| {
        let mut stage = set_up_with_copy_before_giveback(folder)?;
        trouble_disk(&stage.pair, DISK, None)?;
        // By itself: the copy ends, the inventories differ, the repaired node looks again.
        stage.wait_until_home()?;
        conclude(stage)
    });
}

#[test]
fn a_giveback_during_a_copy_is_vetoed_and_if_it_must_be_the_new_owner_begins_anew() {
    play(LIMIT, |folder| {
        let mut stage = set_up_with_copy_before_giveback(folder)?;
        let answer = ask_for_giveback(&mut stage, SoftVetoes::Respect)?;
        let of_copy = |vetoes: &[Veto]| vetoes.iter().any(|veto| veto.reason.contains("dropped leg"));
        let told = matches!(&answer, Response::Refused { vetoes, .. } if of_copy(vetoes));
        ensure!(told, "asked during a copy: {answer:?}");
        let answer = ask_for_giveback(&mut stage, SoftVetoes::Override)?;
        ensure!(matches!(answer, Response::Done { .. }), "overridden: {answer:?}");
        stage.wait_until_home()?;
        ensure!(stage.times_told(NodeName::B, "leg-taken-back", DISK) == 0, "the copy was over before the giveback");
        trouble_disk(&stage.pair, DISK, None)?;
        wait_until_leg_is(&mut stage, NodeName::A, "good")?;
        stage.wait_until_told(NodeName::A, "leg-taken-back", DISK)?;
        conclude(stage)
    });
}

#[test]
fn an_owner_killed_during_a_copy_leaves_it_to_the_survivor() {
    play(LIMIT, |folder| {
        let mut stage = set_up(folder)?;
        lose_leg(&mut stage, NodeName::A)?;
        wait_until_half_copied(&mut stage, NodeName::A)?;
        stage.lose(NodeName::A)?;
        let dropped = leg(&stage, NodeName::B).context("b says nothing of it")?;
        ensure!(dropped.state != "good", "a leg half copied to counts as good: {dropped:?}");
        trouble_disk(&stage.pair, DISK, None)?;
        wait_until_leg_is(&mut stage, NodeName::B, "good")?;
        stage.pair.start(NodeName::A)?;
        stage.wait_until_home()?;
        conclude(stage)
    });
}
