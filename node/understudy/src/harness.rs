//! A whole pair on this machine: a shelf and two nodes as processes of their own, in a folder of their own.
//!
//! The demo runs on it, and so do the tests that kill, stop and restart nodes. It starts the processes with this very
//! program (or the one named), keeps their logs, and ends every one of them by its own id when dropped; should this
//! process itself be killed, the kernel ends them.
//!
//! It waits by asking the nodes, with a limit, and never assumes that something took a certain time.

mod free_port;
mod process;
mod site;
mod watch;

use std::fmt::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use understudy_load::LunAddress;

use crate::admin::{Client, Provisioning, Request, Response, Status, VolumeStatus};
use crate::cli::Size;
use crate::config::{Config, NodeName};

pub use free_port::free_ports;
pub use process::{Process, Signal};
pub use site::{Hosts, Site};
pub use watch::Watch;

/// Between two looks at something that is waited for. Short against everything measured here.
const LOOK: Duration = Duration::from_millis(10);

/// For a program of this project to start and serve: part of a second even for a development build; but a machine that gives it
/// hardly any processor time was seen to take above ten for starting the process alone.
const START_WITHIN: Duration = Duration::from_secs(60);

/// What a pair shall be made of.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The executable that is the shelf and the nodes; this one if none.
    pub program: Option<PathBuf>,
    /// Folder for disks, logs, sockets; must exist and be empty.
    pub folder: PathBuf,
    /// libfabric provider of the interconnect.
    pub provider: String,
    /// Pools of each node.
    pub pools: usize,
    /// Mirrors in each pool.
    pub mirrors: usize,
    /// Size of a pool disk.
    pub disk_bytes: u64,
    /// Volumes in each pool.
    pub volumes: usize,
    /// Size of a volume.
    pub volume_bytes: u64,
    /// When the volumes' chunks are taken.
    pub provisioning: Provisioning,
    /// Sections of the pair's file beside those that are laid out here, as TOML.
    pub more: String,
    /// Where the disks come from.
    pub shelf: ShelfKind,
    /// Whom the own shelf lets in, as the TOML file it is given; everyone if none.
    pub shelf_access: Option<String>,
    /// On which hosts everything runs.
    pub site: Site,
}

/// Where the disks of a pair come from.
#[derive(Debug, Clone)]
pub enum ShelfKind {
    /// `understudy shelf`, started by the harness.
    Own,
    /// Something else that serves the disks already: one URL each for `l0 l1 l2` and then the pool disks in order.
    Given(Vec<String>),
}

impl Plan {
    /// One mirror and one volume of 32 MiB a node, on the own shelf.
    #[must_use]
    pub fn small(folder: &Path) -> Self {
        Self {
            program: None,
            folder: folder.to_owned(),
            provider: "tcp".to_owned(),
            pools: 1,
            mirrors: 1,
            disk_bytes: 128 << 20,
            volumes: 1,
            volume_bytes: 32 << 20,
            provisioning: Provisioning::Thick,
            more: String::new(),
            shelf: ShelfKind::Own,
            shelf_access: None,
            site: Site::Here,
        }
    }

    fn disk_names(&self) -> Vec<String> {
        (0..self.pools * self.mirrors * 4).map(|index| format!("d{index}")).collect()
    }
}

/// Size of a lock disk: twice the smallest the layout allows.
const LOCK_DISK_BYTES: u64 = 16 << 20;

/// iSCSI name of the harness's own shelf.
const SHELF_TARGET: &str = "iqn.2026-01.org.example.understudy:shelf";

/// A pair, from its folder up. Dropping it ends every process.
#[derive(Debug)]
pub struct Pair {
    plan: Plan,
    program: PathBuf,
    config: Config,
    hosts: Hosts,
    shelf: Option<Process>,
    nodes: [Option<Process>; 2],
}

impl Pair {
    /// Chooses ports and writes the pair's file. Starts nothing.
    ///
    /// # Errors
    /// No free ports, no program, an unusable plan.
    pub fn lay_out(plan: Plan) -> anyhow::Result<Self> {
        let program = match &plan.program {
            Some(program) => program.clone(),
            None => std::env::current_exe().context("cannot find this program's own file")?,
        };
        let hosts = plan.site.hosts()?;
        let text = pair_file(&plan, &hosts)?;
        let file = plan.folder.join("pair.toml");
        write_for_owner(&file, &text).with_context(|| format!("cannot write {}", file.display()))?;
        let config = Config::load(&file).map_err(|error| anyhow::anyhow!(error.render(crate::config::Look::Plain)))?;
        Ok(Self { plan, program, config, hosts, shelf: None, nodes: [None, None] })
    }

    /// What the pair's file says.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The folder with everything, also the logs `shelf.log`, `node-a.log`, `node-b.log`.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.plan.folder
    }

    /// Where this process reaches the own shelf.
    #[must_use]
    pub fn shelf_address(&self) -> SocketAddr {
        self.hosts.shelf_from_here
    }

    /// Starts the shelf and waits until it serves; nothing with a given shelf.
    ///
    /// # Errors
    /// It does not come up within 60 s.
    pub fn start_shelf(&mut self) -> anyhow::Result<()> {
        self.start_shelf_short_of(0)
    }

    /// The same, and the last disks, so many, are not there: what a disk that broke for good looks like.
    ///
    /// # Errors
    /// It does not come up within 60 s.
    pub fn start_shelf_short_of(&mut self, lost: usize) -> anyhow::Result<()> {
        if let ShelfKind::Given(_) = self.plan.shelf {
            return Ok(());
        }
        let mut args = vec!["shelf".to_owned(), "--folder".to_owned(), self.folder_of("shelf")];
        args.extend(["--listen".to_owned(), self.hosts.shelf_listens.to_string()]);
        args.extend(["--target".to_owned(), SHELF_TARGET.to_owned()]);
        let locks = ["l0", "l1", "l2"].map(|name| format!("{name}:{LOCK_DISK_BYTES}"));
        let disks = self.plan.disk_names().into_iter().map(|name| format!("{name}:{}", self.plan.disk_bytes));
        let disks: Vec<_> = locks.into_iter().chain(disks).collect();
        for disk in disks[..disks.len() - lost].iter().cloned() {
            args.extend(["--disk".to_owned(), disk]);
        }
        if let Some(access) = &self.plan.shelf_access {
            let file = self.folder().join("shelf.toml");
            write_for_owner(&file, access).with_context(|| format!("cannot write {}", file.display()))?;
            args.extend(["--access".to_owned(), file.display().to_string()]);
        }
        let log = self.folder().join("shelf.log");
        let mut shelf = Process::start_on(&self.hosts.to_shelf, &self.program, &args, &log)?;
        let address = self.hosts.shelf_from_here;
        shelf.wait_until(START_WITHIN, "serves", || std::net::TcpStream::connect(address).is_ok())?;
        self.shelf = Some(shelf);
        Ok(())
    }

    fn folder_of(&self, name: &str) -> String {
        self.folder().join(name).display().to_string()
    }

    /// Prepares the disks and makes the volumes; gives what `pair init` printed.
    ///
    /// # Errors
    /// What `pair init` said.
    pub fn init(&self) -> anyhow::Result<String> {
        let mut args = vec!["pair".to_owned(), "init".to_owned(), "--pair".to_owned(), self.file()];
        for pool in &self.config.pools {
            let before = self.config.pools_of(pool.home).take_while(|other| other.name != pool.name).count();
            for index in (0..self.plan.volumes).map(|index| before * self.plan.volumes + index) {
                let thin = match self.plan.provisioning {
                    Provisioning::Thick => "",
                    Provisioning::Thin => ":thin",
                };
                let name = volume_name(pool.home, index);
                let volume = format!("{name}:{}:{}{thin}", self.plan.volume_bytes, pool.name);
                args.extend(["--volume".to_owned(), volume]);
            }
        }
        self.command(&args)
    }

    fn file(&self) -> String {
        self.config.file.display().to_string()
    }

    /// Runs another command of the program to its end, where node a runs, and gives what it printed.
    ///
    /// # Errors
    /// It failed, with what it said.
    pub fn command(&self, args: &[String]) -> anyhow::Result<String> {
        process::run(&self.hosts.to_nodes[NodeName::A.index()], &self.program, args)
    }

    /// From now on nodes are started with this program.
    pub fn replace_program(&mut self, program: PathBuf) {
        self.program = program;
    }

    /// Starts a node; does not wait.
    ///
    /// # Errors
    /// It runs already, or cannot be started.
    pub fn start(&mut self, node: NodeName) -> anyhow::Result<()> {
        self.start_with(node, &self.config.file.clone())
    }

    /// The same with another pair's file than the pair was prepared with.
    ///
    /// # Errors
    /// It runs already, or cannot be started.
    pub fn start_with(&mut self, node: NodeName, file: &Path) -> anyhow::Result<()> {
        let place = &mut self.nodes[node.index()];
        if place.is_some() {
            bail!("node {node} runs already");
        }
        let args = ["node".to_owned(), node.to_string(), "--pair".to_owned(), file.display().to_string()];
        let log = self.plan.folder.join(format!("node-{node}.log"));
        *place = Some(Process::start_on(&self.hosts.to_nodes[node.index()], &self.program, &args, &log)?);
        Ok(())
    }

    /// Kills both processes of a node with SIGKILL, as a power cut does, and waits until they are gone.
    ///
    /// # Errors
    /// It does not run.
    pub fn kill(&mut self, node: NodeName) -> anyhow::Result<()> {
        let process = self.nodes[node.index()].take().with_context(|| format!("node {node} does not run"))?;
        process.end();
        Ok(())
    }

    /// Kills a node's worker alone with SIGKILL and does not wait: its supervisor announces the death, and ends by itself.
    ///
    /// # Errors
    /// It does not run.
    pub fn kill_worker(&self, node: NodeName) -> anyhow::Result<()> {
        let worker = self.worker_of(node).with_context(|| format!("node {node} has no worker"))?;
        let worker = rustix::process::Pid::from_raw(worker.cast_signed()).context("a process has a number")?;
        rustix::process::kill_process(worker, Signal::KILL).context("cannot kill a node's worker")
    }

    /// The id of a node's worker, if it runs.
    #[must_use]
    pub fn worker_of(&self, node: NodeName) -> Option<u32> {
        self.nodes[node.index()].as_ref()?.started().first().copied()
    }

    /// Whether a node was started and not ended by this harness.
    #[must_use]
    pub fn runs(&self, node: NodeName) -> bool {
        self.nodes[node.index()].is_some()
    }

    /// The id of a node's first process, its supervisor, if it runs.
    #[must_use]
    pub fn process_of(&self, node: NodeName) -> Option<u32> {
        self.nodes[node.index()].as_ref().map(Process::id)
    }

    /// The id of the own shelf's process, if it runs.
    #[must_use]
    pub fn process_of_shelf(&self) -> Option<u32> {
        self.shelf.as_ref().map(Process::id)
    }

    /// Kills the shelf with SIGKILL.
    ///
    /// # Errors
    /// It does not run.
    pub fn kill_shelf(&mut self) -> anyhow::Result<()> {
        self.shelf.take().context("the shelf does not run")?.end();
        Ok(())
    }

    /// Sends a signal to a node: SIGKILL, SIGSTOP and SIGCONT to both processes, others to its supervisor, which passes them on.
    ///
    /// # Errors
    /// It does not run.
    pub fn signal(&self, node: NodeName, signal: Signal) -> anyhow::Result<()> {
        self.process(node)?.signal(signal)
    }

    /// Sends a signal to the shelf.
    ///
    /// # Errors
    /// It does not run.
    pub fn signal_shelf(&self, signal: Signal) -> anyhow::Result<()> {
        self.shelf.as_ref().context("the shelf does not run")?.signal(signal)
    }

    fn process(&self, node: NodeName) -> anyhow::Result<&Process> {
        self.nodes[node.index()].as_ref().with_context(|| format!("node {node} does not run"))
    }

    /// Waits until a node's processes have ended by themselves, as they do where a drill asked for it; gives the node's exit status.
    ///
    /// # Errors
    /// It does not run, or runs on after `limit`.
    pub fn wait_for_end(&mut self, node: NodeName, limit: Duration) -> anyhow::Result<ExitStatus> {
        let process = self.nodes[node.index()].as_mut().with_context(|| format!("node {node} does not run"))?;
        let status = process.wait_for_end(limit)?;
        self.nodes[node.index()] = None;
        Ok(status)
    }

    /// Waits until a node's processes are stopped (SIGSTOP).
    ///
    /// # Errors
    /// It does not run, or is not stopped after `limit`.
    pub fn wait_until_stopped(&mut self, node: NodeName, limit: Duration) -> anyhow::Result<()> {
        let process = self.nodes[node.index()].as_mut().with_context(|| format!("node {node} does not run"))?;
        let id = process.id();
        process.wait_until(limit, "stopped", || process::is_stopped(id))
    }

    /// Asks a node one thing.
    ///
    /// # Errors
    /// It does not answer.
    pub fn ask(&self, node: NodeName, request: &Request, limit: Duration) -> anyhow::Result<Response> {
        Ok(Client::connect(&self.config.node(node).admin)?.ask(request, limit)?)
    }

    /// The state of a node.
    ///
    /// # Errors
    /// It does not answer.
    pub fn status(&self, node: NodeName) -> anyhow::Result<Status> {
        match self.ask(node, &Request::Status, Duration::from_secs(2))? {
            Response::Status { status } => Ok(*status),
            other => bail!("node {node} answered its status with {other:?}"),
        }
    }

    /// The volumes a node serves.
    ///
    /// # Errors
    /// It does not answer.
    pub fn volumes(&self, node: NodeName) -> anyhow::Result<Vec<VolumeStatus>> {
        match self.ask(node, &Request::VolumeList, Duration::from_secs(5))? {
            Response::Volumes { volumes } => Ok(volumes),
            other => bail!("node {node} answered its volumes with {other:?}"),
        }
    }

    /// Waits until a node's state word is one of `states`; gives its status then.
    ///
    /// # Errors
    /// It is not within `limit`, or the node's process ended.
    pub fn wait_for_state(&mut self, node: NodeName, states: &[&str], limit: Duration) -> anyhow::Result<Status> {
        let deadline = Instant::now() + limit;
        let mut last = "it never answered".to_owned();
        // BOUND: the deadline.
        while Instant::now() < deadline {
            self.check_alive(node)?;
            match self.status(node) {
                Ok(status) if states.contains(&status.state.as_str()) => return Ok(status),
                Ok(status) => last = format!("it is {} ({})", status.state, status.stage),
                Err(error) => last = format!("{error:#}"),
            }
            std::thread::sleep(LOOK);
        }
        bail!("node {node} is not {} after {} s: {last}", states.join(" or "), limit.as_secs())
    }

    /// Fails if a node that was started has ended by itself.
    ///
    /// # Errors
    /// It has, with the end of its log.
    pub fn check_alive(&mut self, node: NodeName) -> anyhow::Result<()> {
        match &mut self.nodes[node.index()] {
            Some(process) => process.check_alive(),
            None => Ok(()),
        }
    }

    /// Where a client finds a volume, under the initiator name given.
    #[must_use]
    pub fn address_of(volume: &VolumeStatus, initiator: &str) -> Option<LunAddress> {
        let portal = *volume.portals.first()?;
        Some(LunAddress { portal, target: volume.target.clone(), lun: volume.lun, initiator: initiator.to_owned() })
    }

    /// The portal that is part of a node's identity, whichever node has it now.
    #[must_use]
    pub fn portal_of(&self, identity: NodeName) -> SocketAddr {
        self.hosts.portals[identity.index()]
    }

    /// Watches what nodes record, from before they run to after they ended.
    #[must_use]
    pub fn watch(&self) -> Watch {
        Watch::start(NodeName::BOTH.map(|node| self.config.node(node).admin.clone()))
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        // The nodes first: they would only complain about the shelf.
        for process in self.nodes.iter_mut().filter_map(Option::take) {
            process.end();
        }
        if let Some(shelf) = self.shelf.take() {
            shelf.end();
        }
    }
}

/// Name of the `index`th pool of `home`.
#[must_use]
pub fn pool_name(home: NodeName, index: usize) -> String {
    if index == 0 { format!("pool-{home}") } else { format!("pool-{home}{}", index + 1) }
}

/// Name of the `index`th volume of `home`, those of all its pools counted on.
#[must_use]
pub fn volume_name(home: NodeName, index: usize) -> String {
    format!("vol-{home}{index}")
}

/// Writes a new file that nobody else may read: there may be secrets in it.
fn write_for_owner(file: &Path, text: &str) -> std::io::Result<()> {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600).open(file)?.write_all(text.as_bytes())
}

fn pair_file(plan: &Plan, hosts: &Hosts) -> anyhow::Result<String> {
    let names: Vec<String> = ["l0", "l1", "l2"].map(str::to_owned).into_iter().chain(plan.disk_names()).collect();
    let urls: Vec<String> = match &plan.shelf {
        ShelfKind::Own => (0..names.len()).map(|lun| shelf_url(hosts, lun)).collect(),
        ShelfKind::Given(urls) if urls.len() == names.len() => urls.iter().map(|url| format!("\"{url}\"")).collect(),
        ShelfKind::Given(urls) => bail!("{} disks are needed, {} were given", names.len(), urls.len()),
    };
    let mut text =
        format!("[pair]\nname = \"demo\"\n\n[interconnect]\nprovider = \"{}\"\n\n{}\n", plan.provider, plan.more);
    for node in NodeName::BOTH {
        let (interconnect, portal) = (hosts.interconnects[node.index()], hosts.portals[node.index()]);
        let target = format!("iqn.2026-01.org.example.understudy:node-{node}");
        let forward = hosts.forwards.map_or(String::new(), |both| format!("forward = \"{}\"\n", both[node.index()]));
        let portals =
            std::iter::once(&portal).chain(&hosts.more_portals[node.index()]).map(|portal| match &hosts.portals_on {
                None => format!("\"{portal}\""),
                Some(interface) => format!("{{ address = \"{portal}\", interface = \"{interface}\" }}"),
            });
        let portals = portals.collect::<Vec<_>>().join(", ");
        write!(
            text,
            "[node.{node}]\ninterconnect = \"{interconnect}\"\n{forward}portals = [{portals}]\ntarget = \"{target}\"\nstate = \"state-{node}\"\n\n"
        )?;
    }
    for (index, (name, url)) in names.iter().zip(&urls).enumerate() {
        let kind = if index < 3 { "lock_disk" } else { "disk" };
        write!(text, "[[{kind}]]\nname = \"{name}\"\nurl = {url}\n\n")?;
    }
    for (index, node) in NodeName::BOTH.into_iter().flat_map(|node| (0..plan.pools).map(move |index| (index, node))) {
        let legs = |mirror: usize| ((node.index() * plan.pools + index) * plan.mirrors + mirror) * 2;
        let mirrors: Vec<String> =
            (0..plan.mirrors).map(|mirror| format!("[\"d{}\", \"d{}\"]", legs(mirror), legs(mirror) + 1)).collect();
        let (name, mirrors) = (pool_name(node, index), mirrors.join(", "));
        write!(text, "[[pool]]\nname = \"{name}\"\nhome = \"{node}\"\nmirrors = [{mirrors}]\n\n")?;
    }
    Ok(text)
}

/// Where the nodes reach a disk of the own shelf, as TOML.
fn shelf_url(hosts: &Hosts, lun: usize) -> String {
    let [a, b] = hosts.shelf_from_nodes.map(|shelf| format!("\"iscsi://{shelf}/{SHELF_TARGET}/{lun}\""));
    if a == b { a } else { format!("{{ a = {a}, b = {b} }}") }
}

/// A size for people.
#[must_use]
pub fn size(bytes: u64) -> String {
    Size(bytes).to_string()
}
