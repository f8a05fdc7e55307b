//! Two machines with Debian's Corosync, Pacemaker and tgt, each in namespaces of its own on one host of the drill's network.
//!
//! Everything runs as it is installed, with its own folders, sockets and shared memory in memory of its own. The one idea: a machine is a
//! process namespace, so the death of its first process is the death of everything on it, and nobody is looked for by name.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use rustix::process::{Pid, kill_process};
use understudy::config::NodeName;
use understudy::harness::{Process, Signal};

use super::{AddressOrder, resources};
use crate::network::Network;
use crate::tools;

/// iSCSI name of the one target.
pub(super) const TARGET: &str = "iqn.2026-01.org.example.understudy:peer";

/// The group of all resources, and the resource that tells where it is.
const GROUP: &str = "storage";

/// What must be installed: programs, and the agents Pacemaker starts.
const PROGRAMS: [&str; 13] = [
    "corosync",
    "corosync-cmapctl",
    "pacemakerd",
    "crm_node",
    "crm_resource",
    "crm_attribute",
    "cibadmin",
    "tgtd",
    "tgtadm",
    "arping",
    "nsenter",
    "unshare",
    "setpriv",
];
const AGENTS: [&str; 3] = ["IPaddr2", "iSCSITarget", "iSCSILogicalUnit"];
const AGENTS_FOLDER: &str = "/usr/lib/ocf/resource.d/heartbeat";
const PACKAGES: &str = "pacemaker pacemaker-cli-utils corosync resource-agents tgt iputils-arping util-linux";

/// What happens inside a machine.
const MACHINE: &str = include_str!("machine.sh");
const COROSYNC: &str = include_str!("corosync.conf");

/// For anything a cluster does by itself. The first election of a controller alone waits 20 s for nodes that do not come.
const PATIENCE: Duration = Duration::from_secs(90);

/// Between two looks, each of which starts a program on a machine under test.
const LOOK: Duration = Duration::from_millis(250);

/// What one of the cluster's own commands may take.
const COMMAND_SECONDS: u32 = 20;

/// The disk that both machines see.
const DISK_BYTES: u64 = 64 << 20;

/// Fails if a part of the stack is not there, with what to install.
pub(super) fn demand_installed() -> anyhow::Result<()> {
    let programs = PROGRAMS.iter().filter(|program| tools::find(program).is_none());
    let agents = AGENTS.iter().filter(|agent| !Path::new(AGENTS_FOLDER).join(agent).is_file());
    let missing: Vec<&str> = programs.chain(agents).copied().collect();
    ensure!(missing.is_empty(), "{} not found (Debian: {PACKAGES})", missing.join(", "));
    Ok(())
}

/// The cluster; dropping it ends everything on both machines.
#[derive(Debug)]
pub(super) struct Cluster<'a> {
    network: &'a Network,
    folder: PathBuf,
    machines: [Option<Machine>; 2],
}

impl<'a> Cluster<'a> {
    /// Starts both machines with an empty disk and waits until node a serves it.
    pub(super) fn start(
        network: &'a Network,
        folder: &Path,
        token_ms: u32,
        order: AddressOrder,
    ) -> anyhow::Result<Self> {
        fs::write(folder.join("machine.sh"), MACHINE)?;
        fs::write(folder.join("corosync.conf"), corosync_file(token_ms))?;
        fs::write(folder.join("resources.xml"), resources::file(order))?;
        fs::File::create(folder.join("lun.disk"))?.set_len(DISK_BYTES)?;
        let mut cluster = Self { network, folder: folder.to_owned(), machines: [None, None] };
        for node in NodeName::BOTH {
            cluster.boot(node)?;
        }
        cluster.wait_for("both machines are members", Cluster::is_whole)?;
        cluster.configure()?;
        cluster.wait_for("the group runs", |cluster| cluster.place().is_some())?;
        cluster.move_to(NodeName::A)?;
        Ok(cluster)
    }

    /// Without fencing, of which there is none here, and with the resources staying where they are until somebody moves them.
    fn configure(&self) -> anyhow::Result<()> {
        let settings: [&[&str]; 3] = [
            &["crm_attribute", "--type", "crm_config", "--name", "stonith-enabled", "--update", "false"],
            &["crm_attribute", "--type", "rsc_defaults", "--name", "resource-stickiness", "--update", "100"],
            &["cibadmin", "--replace", "--scope", "resources", "--xml-file", "/run/shared/resources.xml"],
        ];
        for setting in settings {
            self.wait_for(&setting.join(" "), |cluster| cluster.on(NodeName::A, setting).is_ok())?;
        }
        Ok(())
    }

    /// Starts a machine; does not wait.
    pub(super) fn boot(&mut self, node: NodeName) -> anyhow::Result<()> {
        let machine = Machine::start(&self.network.way_to(node)?, node, &self.folder)?;
        self.machines[node.index()] = Some(machine);
        Ok(())
    }

    /// What a power cut does: nothing of the machine is heard any more, and then all its processes are gone.
    pub(super) fn cut_power(&mut self, node: NodeName) -> anyhow::Result<()> {
        let machine = self.machines[node.index()].take().with_context(|| format!("{} does not run", name(node)))?;
        let first = machine.first_process()?;
        self.network.darken(node)?;
        machine.end(first)
    }

    /// The power is there again.
    pub(super) fn restore_power(&mut self, node: NodeName) -> anyhow::Result<()> {
        self.network.light_up(node)?;
        self.boot(node)
    }

    /// An administrator moves the group, and waits until it is there.
    pub(super) fn move_to(&self, node: NodeName) -> anyhow::Result<()> {
        self.on(node, &["crm_resource", "--resource", GROUP, "--move", "--node", &name(node), "--force"])?;
        self.wait_until_at(node)?;
        // The move is a wish that would stay, and would bring the group back whenever the node comes back.
        self.on(node, &["crm_resource", "--resource", GROUP, "--clear"]).map(drop)
    }

    /// Waits until every resource of the group runs on a machine.
    pub(super) fn wait_until_at(&self, node: NodeName) -> anyhow::Result<()> {
        self.wait_for(&format!("the group runs on {}", name(node)), |cluster| cluster.place() == Some(node))
    }

    /// Waits until both machines are members and their controllers have nothing left to do.
    pub(super) fn wait_until_whole(&self) -> anyhow::Result<()> {
        self.wait_for("both machines are members", Cluster::is_whole)
    }

    /// Both are in the membership, and Pacemaker has taken both in: a command of its own works on each.
    fn is_whole(&self) -> bool {
        let ready = |node: NodeName| {
            let members = self.on(node, &["crm_node", "-p"]).unwrap_or_default();
            let members: BTreeSet<&str> = members.split_whitespace().collect();
            let settled = || self.on(node, &["crm_resource", "--wait", "--timeout", "10"]).is_ok();
            members == BTreeSet::from(["node-a", "node-b"]) && settled()
        };
        NodeName::BOTH.into_iter().all(ready)
    }

    /// Where all resources of the group run, if it is one machine.
    fn place(&self) -> Option<NodeName> {
        let asked = NodeName::BOTH.into_iter().find(|node| self.machines[node.index()].is_some())?;
        let at = |resource: &&str| {
            self.on(asked, &["crm_resource", "--resource", resource, "--locate", "--quiet"]).unwrap_or_default()
        };
        let places: BTreeSet<String> = resources::NAMES.iter().map(at).collect();
        let only = places.iter().next().filter(|_| places.len() == 1)?;
        NodeName::BOTH.into_iter().find(|node| only.trim() == name(*node))
    }

    fn wait_for(&self, what: &str, reached: impl Fn(&Self) -> bool) -> anyhow::Result<()> {
        let deadline = Instant::now() + PATIENCE;
        // BOUND: the deadline.
        while !reached(self) {
            if Instant::now() >= deadline {
                bail!("{} s have passed, and still not: {what}", PATIENCE.as_secs());
            }
            std::thread::sleep(LOOK);
        }
        Ok(())
    }

    /// Runs a command on a machine to its end and gives what it printed.
    fn on(&self, node: NodeName, command: &[&str]) -> anyhow::Result<String> {
        let machine = self.machines[node.index()].as_ref().with_context(|| format!("{} does not run", name(node)))?;
        machine.run(command)
    }
}

/// One machine.
#[derive(Debug)]
struct Machine {
    /// Waits for the first process inside, and takes it along should it be killed itself.
    outside: Process,
}

impl Machine {
    fn start(way: &[String], node: NodeName, folder: &Path) -> anyhow::Result<Self> {
        let setpriv = tools::find("setpriv").context("setpriv not found")?;
        // It ends with this thread, however that ends; the rest replaces itself by the next one up to `unshare`.
        let mut arguments = vec!["--pdeathsig".to_owned(), "KILL".to_owned()];
        arguments.extend(way.iter().cloned());
        let apart = ["unshare", "--pid", "--fork", "--kill-child", "--mount", "--mount-proc", "--ipc", "--uts", "sh"];
        arguments.extend(apart.map(str::to_owned));
        let folder_text = folder.display().to_string();
        arguments.extend([folder.join("machine.sh").display().to_string(), name(node), folder_text]);
        let log = folder.join(format!("{}.log", name(node)));
        Ok(Self { outside: Process::start_foreign(&setpriv, &arguments, &log)? })
    }

    /// The one whose end is the end of everything on the machine.
    fn first_process(&self) -> anyhow::Result<Pid> {
        let id = self.outside.id();
        let children = fs::read_to_string(format!("/proc/{id}/task/{id}/children")).context("no list of children")?;
        let first = children.split_whitespace().next().and_then(|child| child.parse().ok());
        first.and_then(Pid::from_raw).context("the machine has no first process")
    }

    /// Kills everything on it and waits until it is gone.
    fn end(mut self, first: Pid) -> anyhow::Result<()> {
        // Its parent has not ended, and has not waited for it, so the id can not have passed to another process.
        self.outside.check_alive()?;
        kill_process(first, Signal::KILL).context("cannot kill the machine")?;
        self.outside.wait_for_end(PATIENCE).map(drop)
    }

    fn run(&self, command: &[&str]) -> anyhow::Result<String> {
        let first = self.first_process()?.as_raw_nonzero().to_string();
        let (limit, seconds) = ("--signal=KILL", COMMAND_SECONDS.to_string());
        let mut inside = tools::command("nsenter")?;
        let output = inside.args(["--target", &first, "--all", "timeout", limit, &seconds]).args(command).output()?;
        ensure!(
            output.status.success(),
            "{} ended with {}: {}",
            command.join(" "),
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        );
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

impl Drop for Cluster<'_> {
    fn drop(&mut self) {
        for machine in self.machines.iter_mut().filter_map(Option::take) {
            // One that has no first process any more has ended; dropping the outside ends what may be left.
            if let Ok(first) = machine.first_process() {
                drop(machine.end(first));
            }
        }
    }
}

/// A machine's name in the cluster.
fn name(node: NodeName) -> String {
    format!("node-{node}")
}

fn corosync_file(token_ms: u32) -> String {
    let [[a0, a1], [b0, b1]] = NodeName::BOTH.map(Network::fixed_addresses);
    let mut text = COROSYNC.replace("@TOKEN@", &token_ms.to_string());
    for (place, address) in [("@A0@", a0), ("@A1@", a1), ("@B0@", b0), ("@B1@", b1)] {
        text = text.replace(place, &address.to_string());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_of_corosync_has_every_address_and_one_place_left_for_the_name() {
        let text = corosync_file(3_000);
        let left: BTreeSet<&str> = text.split('@').skip(1).step_by(2).collect();
        assert_eq!(left, BTreeSet::from(["NAME"]));
        assert!(text.contains("token: 3000") && text.contains("ring1_addr: 10.77.6.3"), "{text}");
    }
}
