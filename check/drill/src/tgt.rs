//! Debian's tgtd as a shelf: an instance of its own with its own port and control socket, ended by its own id.

use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, ensure};
use understudy::harness::{Process, Signal, free_ports};

use crate::tools;

/// Control ports tgtd takes (a 16-bit number that is also part of its socket's name).
const CONTROL_PORTS: u32 = 30_000;

/// What it may take to start, and to answer one order.
const START: Duration = Duration::from_secs(10);
const ORDER_SECONDS: u32 = 10;

/// A running tgtd.
#[derive(Debug)]
pub struct Tgtd {
    process: Process,
    portal: SocketAddr,
    control: String,
    socket: PathBuf,
}

impl Tgtd {
    /// iSCSI name of its one target.
    pub const TARGET: &str = "iqn.2026-01.org.example.understudy:foreign-shelf";

    /// Whether tgt is installed; says so in one line if not.
    #[must_use]
    pub fn is_present() -> bool {
        tools::present(&["tgtd", "tgtadm", "timeout", "setpriv"], "tgt coreutils util-linux")
    }

    /// Starts one with a disk of each of these sizes, its files in `folder`.
    ///
    /// # Errors
    /// It does not come up, or refuses a disk.
    pub fn start(folder: &Path, sizes: &[u64]) -> anyhow::Result<Self> {
        let portal = *free_ports(1)?.first().context("no free port")?;
        // The socket is in a folder of its own, so the number only has to be one.
        let control = (std::process::id() % CONTROL_PORTS + 1).to_string();
        let socket = folder.join("tgtd.control");
        // It ends with this thread, however that ends.
        let program = tools::find("setpriv").context("setpriv not found")?;
        let daemon = tools::find("tgtd").context("tgtd not found")?.display().to_string();
        let variable = format!("TGT_IPC_SOCKET={}", socket.display());
        let portal_option = format!("portal={portal}");
        let env = tools::find("env").context("env not found")?.display().to_string();
        let arguments =
            ["--pdeathsig", "KILL", &env, &variable, &daemon, "-f", "-C", &control, "--iscsi", &portal_option]
                .map(str::to_owned);
        let process = Process::start_foreign(&program, &arguments, &folder.join("tgtd.log"))?;
        let mut tgtd = Self { process, portal, control, socket };
        tgtd.process.wait_until(START, "serves", || std::net::TcpStream::connect(portal).is_ok())?;
        tgtd.order(&["--mode", "target", "--op", "new", "--tid", "1", "-T", Self::TARGET])?;
        for (lun, bytes) in (1..).zip(sizes) {
            let file = folder.join(format!("tgt-{lun}.disk"));
            File::create(&file)?.set_len(*bytes)?;
            let (lun, file) = (lun.to_string(), file.display().to_string());
            tgtd.order(&["--mode", "logicalunit", "--op", "new", "--tid", "1", "--lun", &lun, "-b", &file])?;
        }
        tgtd.order(&["--mode", "target", "--op", "bind", "--tid", "1", "-I", "ALL"])?;
        Ok(tgtd)
    }

    /// Its disks as a pair's file names them, in the order of the sizes given.
    #[must_use]
    pub fn urls(&self, count: usize) -> Vec<String> {
        (1..=count).map(|lun| format!("iscsi://{}/{}/{lun}", self.portal, Self::TARGET)).collect()
    }

    /// From now on an initiator has to prove that it knows `theirs`, and is proved `own` if it asks; each a user with a secret.
    ///
    /// # Errors
    /// It refuses.
    pub fn demand_proofs(&self, theirs: (&str, &str), own: (&str, &str)) -> anyhow::Result<()> {
        for (user, secret) in [theirs, own] {
            self.order(&["--mode", "account", "--op", "new", "--user", user, "--password", secret])?;
        }
        self.order(&["--mode", "account", "--op", "bind", "--tid", "1", "--user", theirs.0])?;
        self.order(&["--mode", "account", "--op", "bind", "--tid", "1", "--user", own.0, "--outgoing"])
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// It has ended.
    pub fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        self.process.signal(signal)
    }

    fn order(&self, order: &[&str]) -> anyhow::Result<()> {
        let mut command = tools::bounded(&tools::find("tgtadm").context("tgtadm not found")?, ORDER_SECONDS)?;
        command.args(["-C", &self.control, "--lld", "iscsi"]).args(order).env("TGT_IPC_SOCKET", &self.socket);
        let output = command.output().context("cannot start tgtadm")?;
        ensure!(
            output.status.success(),
            "tgtadm {} ended with {}: {}",
            order.join(" "),
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(())
    }
}
