//! A pair on this machine that stands until its input closes, for `cargo xtask bench path`: a shelf, two nodes, and a volume of
//! one mirror. The first argument is the `understudy` program, the second an empty folder.
//!
//! Prints one line of JSON when the volume is served: where it is, and the ids of the processes that a command goes through.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use understudy::config::NodeName;
use understudy::harness::{Pair, Plan, volume_name};

/// Bytes of the volume, and of the disks under it.
const BYTES: (u64, u64) = (256 << 20, 320 << 20);

/// Longest wait for a node to serve.
const LIMIT: Duration = Duration::from_secs(60);

fn main() -> Result<()> {
    let arguments: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let [program, folder] = &arguments[..] else { bail!("usage: standing_pair UNDERSTUDY FOLDER") };
    let small = Plan::small(folder);
    let plan = Plan { program: Some(program.clone()), volume_bytes: BYTES.0, disk_bytes: BYTES.1, ..small };
    let mut pair = Pair::lay_out(plan)?;
    pair.start_shelf()?;
    pair.init()?;
    for node in [NodeName::A, NodeName::B] {
        pair.start(node)?;
    }
    for node in [NodeName::A, NodeName::B] {
        pair.wait_for_state(node, &["UP"], LIMIT)?;
    }
    let name = volume_name(NodeName::A, 0);
    let volumes = pair.volumes(NodeName::A)?;
    let volume = volumes.iter().find(|volume| volume.name == name).context("node a has no volume")?;
    let address = Pair::address_of(volume, "iqn.2026-01.org.example.understudy:bench").context("no portal")?;
    let (shelf, node) = (pair.process_of_shelf(), pair.process_of(NodeName::A));
    let processes = serde_json::json!({ "shelf": shelf, "node": node });
    let (portal, target, lun) = (address.portal.to_string(), address.target, address.lun);
    println!("{}", serde_json::json!({ "portal": portal, "target": target, "lun": lun, "processes": processes }));
    std::io::copy(&mut std::io::stdin(), &mut std::io::sink())?;
    Ok(())
}
