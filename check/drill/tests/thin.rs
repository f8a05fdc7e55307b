//! Thin volumes on real processes: nothing that was acknowledged is lost when the node that gave the chunks dies, and only what was written
//! takes room.

use std::time::Duration;

use anyhow::{Context, ensure};
use understudy::admin::Provisioning;
use understudy::config::NodeName;
use understudy::harness::{Plan, volume_name};
use understudy_drill::stage::plan;
use understudy_drill::{Stage, play};

/// Several times what the test takes on a busy machine.
const LIMIT: Duration = Duration::from_secs(120);

/// Bytes of the pool that a volume uses, as the node that serves it says.
fn used(stage: &Stage, node: NodeName) -> anyhow::Result<u64> {
    let volumes = stage.pair.volumes(node)?;
    let name = volume_name(NodeName::A, 0);
    let volume = volumes.iter().find(|volume| volume.name == name).context("the volume is not served")?;
    ensure!(volume.provisioning == Provisioning::Thin, "{name} is not thin");
    Ok(volume.used_bytes)
}

#[test]
fn thin_volumes_larger_than_their_pool_live_through_the_death_of_a_node_and_its_return() {
    play(LIMIT, |folder| {
        let usual = plan(env!("CARGO_BIN_EXE_understudy-drilled"), folder);
        let larger = usual.disk_bytes * 4;
        let mut stage = Stage::set_up(Plan { provisioning: Provisioning::Thin, volume_bytes: larger, ..usual })?;
        ensure!(used(&stage, NodeName::A)? == 0, "a new thin volume uses room");
        stage.start_clients(1)?;
        let before = used(&stage, NodeName::A)?;
        ensure!(before > 0 && before < larger / 8, "{before} bytes are used");
        stage.lose(NodeName::A)?;
        stage.wait_until_clients_go_on("after the takeover")?;
        ensure!(used(&stage, NodeName::B)? >= before, "chunks were lost");
        stage.pair.start(NodeName::A)?;
        stage.wait_until_home()?;
        stage.wait_until_clients_go_on("after the giveback")?;
        stage.conclude()
    });
}
