//! The targets that benchmarks compare, each started as a program of its own on a free port and ended with what it holds.
//!
//! Not here: what is measured on them. Programs of other projects are never built here: they come from the path, or from where
//! the command line says.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::json;

use crate::programs::{Running, installed, silent, succeed};

/// Size of a LUN: more than any processor's cache, little enough for any machine's memory.
pub(crate) const MEBIBYTES: u64 = 256;

/// Memory that SPDK is given, in MiB: the LUN, and the buffers it sets aside for sessions.
const SPDK_MEBIBYTES: u64 = 2048;

/// Longest time for a server to listen.
const START_LIMIT: Duration = Duration::from_secs(20);

/// The name that other projects' targets are given.
const NAME: &str = "iqn.2026-01.example:rival";

/// Where a server runs, and where its client: on a processor each, as if they were two machines. Left to itself the system now
/// runs both on one, where they take turns, and now on two, which is three times as slow for one command at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Server,
    Client,
}

/// `program`, to be run on the processor of its side.
pub(crate) fn on_its_processor(side: Side, program: impl AsRef<OsStr>) -> Command {
    let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    if processors < 2 || !installed("taskset") {
        return Command::new(program);
    }
    let mut command = Command::new("taskset");
    command.args(["-c", if side == Side::Server { "0" } else { "1" }]).arg(program);
    command
}

/// What the LUN is kept on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Keeping {
    /// The target's own memory; for tgtd, which has none, a file in memory.
    Memory,
    /// A file in memory, so that no disk of this machine is measured.
    File,
}

/// A target of another project.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Rival {
    /// Debian's package tgt.
    Tgtd,
    /// SPDK's `iscsi_tgt`, which is this program. It polls, so it always takes a whole processor.
    Spdk(PathBuf),
}

impl Rival {
    /// `tgtd`, `spdk` or both with a comma between; `program` is SPDK's.
    pub(crate) fn named(names: &str, program: Option<PathBuf>) -> Result<Vec<Self>> {
        let one = |name: &str| match (name, &program) {
            ("tgtd", _) => Ok(Self::Tgtd),
            ("spdk", Some(program)) => Ok(Self::Spdk(program.clone())),
            ("spdk", None) => bail!("--against spdk: --peer-program FILE has to name SPDK's iscsi_tgt"),
            (other, _) => bail!("--against {other}: expected tgtd, spdk, or tgtd,spdk"),
        };
        names.split(',').map(one).collect()
    }

    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Tgtd => "tgtd",
            Self::Spdk(_) => "SPDK",
        }
    }

    pub(crate) fn start(&self, folder: &Path, keeping: Keeping) -> Result<Server> {
        match self {
            Self::Tgtd => start_tgtd(folder),
            Self::Spdk(program) => start_spdk(program, folder, keeping),
        }
    }
}

/// A server under test.
pub(crate) struct Server {
    /// Ended, by its own id, with this value.
    running: Running,
    pub(crate) portal: String,
    pub(crate) target: String,
    pub(crate) lun: u32,
}

impl Server {
    /// Its process.
    pub(crate) fn process(&self) -> u32 {
        self.running.id()
    }

    /// What holds it, portal, target and LUN.
    pub(crate) fn into_parts(self) -> (Running, String, String, u32) {
        (self.running, self.portal, self.target, self.lun)
    }

    /// Stops it (`-STOP`) while others are measured, and lets it go on (`-CONT`): one that polls would take their processor.
    pub(crate) fn signal(&self, signal: &str) -> Result<()> {
        succeed(Command::new("kill").args([signal, &self.process().to_string()])).map(drop)
    }

    /// Processor time of all of its threads so far, in microseconds.
    pub(crate) fn processor_micros(&self) -> Result<f64> {
        processor_micros(self.process())
    }
}

/// Processor time of all threads of a process that runs, in microseconds.
pub(crate) fn processor_micros(process: u32) -> Result<f64> {
    let mut nanos = 0.0;
    for thread in fs::read_dir(format!("/proc/{process}/task")).context("the process is gone")? {
        // The first of three numbers is the time spent on a processor, in nanoseconds. A thread may end meanwhile.
        let figures = fs::read_to_string(thread?.path().join("schedstat")).unwrap_or_default();
        nanos += figures.split(' ').next().and_then(|first| first.parse::<f64>().ok()).unwrap_or_default();
    }
    Ok(nanos / 1e3)
}

/// Our target; it says on its first line where it listens and ends when its input closes.
pub(crate) fn start_ours(programs: &Path, folder: &Path, keeping: Keeping) -> Result<Server> {
    let mut command = on_its_processor(Side::Server, programs.join("examples/memory_target"));
    command.args(["--mebibytes", &MEBIBYTES.to_string()]).stdin(Stdio::piped());
    if keeping == Keeping::File {
        command.arg("--file").arg(folder.join("understudy.disk"));
    }
    let (running, line) = start_and_listen("memory_target", &mut command)?;
    let words: Vec<&str> = line.split_whitespace().collect();
    let [portal, target, lun] = words[..] else { bail!("memory_target said: {line}") };
    let lun = lun.parse().context("memory_target named no LUN")?;
    Ok(Server { running, portal: portal.to_owned(), target: target.to_owned(), lun })
}

/// Starts a program that says something on its first line.
pub(crate) fn start_and_listen(name: &str, command: &mut Command) -> Result<(Running, String)> {
    let mut running = Running::start(name, command.stdout(Stdio::piped()))?;
    let output = running.child().stdout.take().with_context(|| format!("{name} has no output"))?;
    let mut line = String::new();
    BufReader::new(output).read_line(&mut line).with_context(|| format!("{name} said nothing"))?;
    ensure!(!line.trim().is_empty(), "{name} said nothing");
    Ok((running, line.trim().to_owned()))
}

/// A tgtd of our own: own control socket, own port, a file in memory.
fn start_tgtd(folder: &Path) -> Result<Server> {
    ensure!(installed("tgtd") && installed("tgtadm"), "tgtd is missing (Debian: apt-get install tgt)");
    let disk = folder.join("tgtd.disk");
    File::create(&disk)?.set_len(MEBIBYTES << 20).context("cannot make tgtd's disk")?;
    let portal = free_port()?;
    let control = (std::process::id() % 30_000 + 1_000).to_string();
    let socket = folder.join("tgtd.control");
    let mut command = on_its_processor(Side::Server, program("tgtd"));
    command.args(["-f", "-C", &control, "--iscsi", &format!("portal={portal}")]).env("TGT_IPC_SOCKET", &socket);
    let running = Running::start("tgtd", silent(&mut command))?;
    wait_for(&portal)?;
    let steps: [&[&str]; 3] = [
        &["--mode", "target", "--op", "new", "--tid", "1", "-T", NAME],
        &["--mode", "logicalunit", "--op", "new", "--tid", "1", "--lun", "1", "-b", &disk.to_string_lossy()],
        &["--mode", "target", "--op", "bind", "--tid", "1", "-I", "ALL"],
    ];
    for step in steps {
        let mut command = Command::new(program("tgtadm"));
        succeed(command.args(["-C", &control, "--lld", "iscsi"]).args(step).env("TGT_IPC_SOCKET", &socket))?;
    }
    Ok(Server { running, portal, target: NAME.to_owned(), lun: 1 })
}

/// SPDK on one processor, without huge pages and without devices, set up from a file.
fn start_spdk(program: &Path, folder: &Path, keeping: Keeping) -> Result<Server> {
    ensure!(program.is_file(), "{} is no program", program.display());
    let portal = free_port()?;
    let (host, port) = portal.split_once(':').context("an address and a port")?;
    let device = match keeping {
        Keeping::Memory => {
            let (name, blocks) = ("bdev_malloc_create", MEBIBYTES << 11);
            json!({ "method": name, "params": { "name": "disk", "num_blocks": blocks, "block_size": 512 } })
        }
        Keeping::File => {
            let disk = folder.join("spdk.disk");
            File::create(&disk)?.set_len(MEBIBYTES << 20).context("cannot make SPDK's disk")?;
            json!({ "method": "bdev_aio_create", "params": { "name": "disk", "filename": disk, "block_size": 512 } })
        }
    };
    let portals = json!({ "tag": 1, "portals": [{ "host": host, "port": port }] });
    let initiators = json!({ "tag": 1, "initiators": ["ANY"], "netmasks": ["ANY"] });
    let (maps, luns) = (json!([{ "pg_tag": 1, "ig_tag": 1 }]), json!([{ "bdev_name": "disk", "lun_id": 0 }]));
    let node = json!({ "name": NAME, "alias_name": "rival", "pg_ig_maps": maps, "luns": luns, "queue_depth": 64,
        "disable_chap": true });
    let iscsi = json!([
        { "method": "iscsi_create_portal_group", "params": portals },
        { "method": "iscsi_create_initiator_group", "params": initiators },
        { "method": "iscsi_create_target_node", "params": node },
    ]);
    let subsystems = json!([{ "subsystem": "bdev", "config": [device] }, { "subsystem": "iscsi", "config": iscsi }]);
    let setup = folder.join("spdk.json");
    fs::write(&setup, json!({ "subsystems": subsystems }).to_string()).context("cannot write SPDK's setup")?;
    let mut command = on_its_processor(Side::Server, program);
    command.args(["--no-huge", "-s", &SPDK_MEBIBYTES.to_string(), "-m", "0x1", "-u"]).arg("-c").arg(setup);
    // Its trace would stay behind in memory when it is ended.
    command.arg("-r").arg(folder.join("spdk.control")).args(["--num-trace-entries", "0"]);
    let running = Running::start("iscsi_tgt", silent(&mut command))?;
    wait_for(&portal)?;
    Ok(Server { running, portal, target: NAME.to_owned(), lun: 0 })
}

fn free_port() -> Result<String> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string())
}

/// Debian keeps both where an ordinary user's path does not look.
fn program(name: &str) -> PathBuf {
    let system = Path::new("/usr/sbin").join(name);
    if system.is_file() { system } else { PathBuf::from(name) }
}

fn wait_for(portal: &str) -> Result<()> {
    let deadline = Instant::now() + START_LIMIT;
    while TcpStream::connect(portal).is_err() {
        ensure!(Instant::now() < deadline, "nothing listens at {portal}");
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}
