//! What the disk tests share: a private tgtd, local sets, benches.
#![allow(dead_code, reason = "each test file uses its part of it")]

pub mod mini;

use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::rc::Rc;
use std::time::{Duration, Instant};

use futures_util::future::LocalBoxFuture;
use understudy_disk::conformance::Bench;
use understudy_disk::disk::Disk;
use understudy_disk::lun::IscsiLun;
use understudy_disk::session::{Nexus, Options, Place};
use understudy_disk::url::LunUrl;
use understudy_iscsi::serial::Isid;

/// Longest a test may take; a hang then fails instead of standing still.
const TEST_LIMIT: Duration = Duration::from_secs(60);

/// Runs `test` as a node runs: one thread, one local set.
pub fn run<R>(test: impl Future<Output = R>) -> R {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime starts");
    tokio::task::LocalSet::new()
        .block_on(&runtime, async { tokio::time::timeout(TEST_LIMIT, test).await.expect("the test ends in time") })
}

pub fn nexus(number: u16) -> Nexus {
    Nexus { initiator_name: "iqn.2026-01.example:node".to_owned(), isid: Isid::random(7, number) }
}

pub fn options() -> Options {
    Options { command_deadline: Duration::from_secs(10), login_deadline: Duration::from_secs(10), ..Options::default() }
}

/// A bench on one unit of some target.
pub struct IscsiBench {
    pub url: LunUrl,
    pub options: Options,
}

impl Bench for IscsiBench {
    fn open(&self, number: u16) -> LocalBoxFuture<'_, Rc<dyn Disk>> {
        Box::pin(async move {
            let lun = IscsiLun::open(&self.url, nexus(number), self.options.clone());
            lun.ready(Duration::from_secs(10)).await.expect("the target is there");
            lun as Rc<dyn Disk>
        })
    }
}

pub const TGTD_TARGET: &str = "iqn.2026-01.example:tgtd";

/// Debian's tgtd with one target of one 32 MiB unit (LUN 1), private to a test. Ended by its own process id.
pub struct Tgtd {
    child: Child,
    control: String,
    pub address: SocketAddr,
    backing: tempfile::NamedTempFile,
}

impl Tgtd {
    /// `None`, with a line that says so, where tgtd is not installed or may not run.
    pub fn start() -> Option<Self> {
        let tgtd = ["/usr/sbin/tgtd", "/usr/bin/tgtd"].map(PathBuf::from).into_iter().find(|path| path.exists());
        let Some(tgtd) = tgtd else {
            eprintln!("SKIPPED: tgtd is not installed (Debian package tgt)");
            return None;
        };
        // BOUND: a port or control number may be taken by somebody else in the moment between; not five times.
        for _ in 0..5 {
            if let Some(started) = Self::start_once(&tgtd) {
                return Some(started);
            }
        }
        eprintln!("SKIPPED: tgtd does not start here (it needs to write to /run)");
        None
    }

    fn start_once(tgtd: &Path) -> Option<Self> {
        let backing = tempfile::NamedTempFile::new().expect("a temporary file");
        backing.as_file().set_len(32 * 1024 * 1024).expect("space for a disk");
        let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let address = free.local_addr().expect("a bound address");
        drop(free);
        // tgtd takes control numbers below 32768; ports given out by the kernel lie above, so they stay distinct.
        let control = (address.port() % 32_768).to_string();
        let mut started = Self { child: spawn(tgtd, &control, address), control, address, backing };
        started.wait_until_up().then(|| {
            started.configure();
            started
        })
    }

    fn wait_until_up(&mut self) -> bool {
        let limit = Instant::now() + Duration::from_secs(10);
        while Instant::now() < limit {
            if self.child.try_wait().expect("the child can be asked").is_some() {
                return false;
            }
            if self.admin("sys", "show", &[]) {
                return true;
            }
            std::thread::yield_now();
        }
        false
    }

    fn configure(&self) {
        let path = self.backing.path().display().to_string();
        assert!(self.admin("target", "new", &["--tid", "1", "-T", TGTD_TARGET]));
        assert!(self.admin("logicalunit", "new", &["--tid", "1", "--lun", "1", "-b", &path]));
        assert!(self.admin("target", "bind", &["--tid", "1", "-I", "ALL"]));
    }

    /// Has the target prefer CRC32C for both digests.
    pub fn prefer_digests(&self) {
        for name in ["HeaderDigest", "DataDigest"] {
            assert!(self.admin("target", "update", &["--tid", "1", "-n", name, "-v", "CRC32C"]));
        }
    }

    fn admin(&self, mode: &str, operation: &str, arguments: &[&str]) -> bool {
        let mut command = Command::new("tgtadm");
        command.args(["-C", &self.control, "--lld", "iscsi", "--mode", mode, "--op", operation]).args(arguments);
        command.stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
    }

    /// SIGKILL, then a fresh one at the same address on the same file. Registrations are lost with it.
    pub fn kill_and_restart(&mut self) {
        self.kill();
        remove_control_socket(&self.control);
        let tgtd = ["/usr/sbin/tgtd", "/usr/bin/tgtd"].map(PathBuf::from).into_iter().find(|path| path.exists());
        self.child = spawn(&tgtd.expect("it ran before"), &self.control, self.address);
        assert!(self.wait_until_up(), "tgtd starts again");
        self.configure();
    }

    pub fn kill(&mut self) {
        self.child.kill().expect("the child is ours");
        self.child.wait().expect("a killed child ends");
    }

    /// SIGSTOP or SIGCONT by name.
    pub fn signal(&self, name: &str) {
        let sent = Command::new("kill").args([&format!("-{name}"), &self.child.id().to_string()]).status();
        assert!(sent.is_ok_and(|status| status.success()));
    }

    pub fn url(&self) -> LunUrl {
        LunUrl { place: Place { portal: self.address.to_string(), target: TGTD_TARGET.to_owned() }, lun: 1 }
    }
}

impl Drop for Tgtd {
    fn drop(&mut self) {
        _ = self.child.kill();
        _ = self.child.wait();
        remove_control_socket(&self.control);
    }
}

/// A killed tgtd leaves its control socket behind, and the next one refuses to start on it.
fn remove_control_socket(control: &str) {
    for name in [format!("/run/tgtd/socket.{control}"), format!("/run/tgtd/socket.{control}.lock")] {
        _ = std::fs::remove_file(name);
    }
}

fn spawn(tgtd: &Path, control: &str, address: SocketAddr) -> Child {
    let mut command = Command::new(tgtd);
    command.args(["-f", "-C", control, "--iscsi", &format!("portal={address}")]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("tgtd can be started")
}
