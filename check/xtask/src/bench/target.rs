//! Our target against another one, both serving memory to the same load generator, in turns (A B A B …), so that other
//! work on the machine hits both alike.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use super::{Series, machine, write_json};
use crate::programs::{MemoryFolder, Running, build_release, installed, silent, succeed};

/// Size of the LUN: more than any processor's cache, little enough for any machine's memory.
const MEBIBYTES: u64 = 256;

/// Longest time for a server to listen.
const START_LIMIT: Duration = Duration::from_secs(10);

/// Whom our target is compared with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rival {
    /// Debian's package tgt, on a file in memory.
    Tgtd,
}

impl Rival {
    pub(crate) fn named(name: &str) -> Result<Self> {
        match name {
            "tgtd" => Ok(Self::Tgtd),
            other => bail!("--against {other}: expected tgtd"),
        }
    }
}

/// How long it is measured.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Effort {
    /// Turns of each.
    pub(crate) rounds: u32,
    /// Length of one measurement.
    pub(crate) seconds: u32,
}

/// One kind of load: 4 KiB commands, all reads or all writes, at a depth, on one connection.
#[derive(Debug, Clone, Copy)]
struct Workload {
    name: &'static str,
    read_percent: u32,
    depth: u32,
}

const WORKLOADS: [Workload; 4] = [
    Workload { name: "4 KiB read, depth 1", read_percent: 100, depth: 1 },
    Workload { name: "4 KiB read, depth 32", read_percent: 100, depth: 32 },
    Workload { name: "4 KiB write, depth 1", read_percent: 0, depth: 1 },
    Workload { name: "4 KiB write, depth 32", read_percent: 0, depth: 32 },
];

/// A server under test.
struct Server {
    /// Ended, by its own id, with this value.
    _running: Running,
    portal: String,
    target: String,
    lun: u32,
}

/// Measures both in turns.
pub(crate) fn run(rival: Rival, effort: Effort, json: Option<PathBuf>) -> Result<()> {
    let programs = build_release(&["--package", "understudy-load", "--bins", "--examples"])?;
    let machine = machine();
    let folder = MemoryFolder::new()?;
    let ours = start_ours(&programs)?;
    let theirs = match rival {
        Rival::Tgtd => start_tgtd(folder.path())?,
    };
    let mut rows = Vec::new();
    for workload in WORKLOADS {
        let (mut own, mut other) = (Series::default(), Series::default());
        for _ in 0..effort.rounds {
            own.push(measure(&programs, &ours, workload, effort.seconds)?);
            other.push(measure(&programs, &theirs, workload, effort.seconds)?);
        }
        rows.push((workload, own, other));
    }
    println!("{:<24}{:>14}{:>14}{:>8}", "commands per second", "understudy", "tgtd", "ratio");
    for (workload, own, other) in &rows {
        let (own, other) = (own.median(), other.median());
        println!("{:<24}{own:>14.0}{other:>14.0}{:>8.2}", workload.name, own / other);
    }
    let describe = |(workload, own, other): &(Workload, Series, Series)| {
        let ratio = own.median() / other.median();
        json!({ "workload": workload.name, "understudy": own.to_json(), "tgtd": other.to_json(), "ratio": ratio })
    };
    let rows: Vec<Value> = rows.iter().map(describe).collect();
    let effort = json!({ "rounds": effort.rounds, "seconds": effort.seconds, "mebibytes": MEBIBYTES });
    write_json(json.as_deref(), &json!({ "machine": machine, "effort": effort, "commands_per_second": rows }))
}

/// Commands per second of one measurement.
fn measure(programs: &Path, server: &Server, workload: Workload, seconds: u32) -> Result<f64> {
    let mut command = Command::new(programs.join("understudy-load"));
    command.args(["generate", "--portal", &server.portal, "--target", &server.target]);
    command.args(["--lun", &server.lun.to_string(), "--depth", &workload.depth.to_string()]);
    command.args(["--read-percent", &workload.read_percent.to_string(), "--seconds", &seconds.to_string()]);
    command.args(["--warm-up-millis", "300", "--json", "-"]);
    let output = succeed(&mut command).with_context(|| format!("{} against {}", workload.name, server.portal))?;
    let report: Value = serde_json::from_slice(&output.stdout).context("understudy-load wrote no JSON")?;
    report["iops"].as_f64().context("understudy-load reported no rate")
}

/// Our target on memory; it says on its first line where it listens and ends when its input closes.
fn start_ours(programs: &Path) -> Result<Server> {
    let mut command = Command::new(programs.join("examples/memory_target"));
    command.args(["--mebibytes", &MEBIBYTES.to_string()]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut running = Running::start("memory_target", &mut command)?;
    let output = running.child().stdout.take().context("memory_target has no output")?;
    let mut line = String::new();
    BufReader::new(output).read_line(&mut line).context("memory_target said nothing")?;
    let words: Vec<&str> = line.split_whitespace().collect();
    let [portal, target, lun] = words[..] else { bail!("memory_target said: {line}") };
    let lun = lun.parse().context("memory_target named no LUN")?;
    Ok(Server { _running: running, portal: portal.to_owned(), target: target.to_owned(), lun })
}

/// A tgtd of our own: own control socket, own port, a file in memory.
fn start_tgtd(folder: &Path) -> Result<Server> {
    ensure!(installed("tgtd") && installed("tgtadm"), "tgtd is missing (Debian: apt-get install tgt)");
    let disk = folder.join("tgtd.disk");
    File::create(&disk)?.set_len(MEBIBYTES << 20).context("cannot make tgtd's disk")?;
    let portal = TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string();
    let control = (std::process::id() % 30_000 + 1_000).to_string();
    let socket = folder.join("tgtd.control");
    let mut command = Command::new(program("tgtd"));
    command.args(["-f", "-C", &control, "--iscsi", &format!("portal={portal}")]).env("TGT_IPC_SOCKET", &socket);
    let running = Running::start("tgtd", silent(&mut command))?;
    wait_for(&portal)?;
    let target = "iqn.2026-01.example:rival";
    let steps: [&[&str]; 3] = [
        &["--mode", "target", "--op", "new", "--tid", "1", "-T", target],
        &["--mode", "logicalunit", "--op", "new", "--tid", "1", "--lun", "1", "-b", &disk.to_string_lossy()],
        &["--mode", "target", "--op", "bind", "--tid", "1", "-I", "ALL"],
    ];
    for step in steps {
        let mut command = Command::new(program("tgtadm"));
        succeed(command.args(["-C", &control, "--lld", "iscsi"]).args(step).env("TGT_IPC_SOCKET", &socket))?;
    }
    Ok(Server { _running: running, portal, target: target.to_owned(), lun: 1 })
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
