//! A virtual machine without KVM that is spoken to over its serial console.
//!
//! Its only network is a datagram socket shared with its sibling. It is a child of this process and ends with it, however
//! that ends; the console is its standard input and output, and dropping it ends it by its own id.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::programs::Running;

/// What a guest is made of.
pub(super) struct Hardware<'a> {
    pub(super) kernel: &'a Path,
    pub(super) initial: &'a Path,
    /// Folder of the sockets that join the guests.
    pub(super) folder: &'a Path,
    /// When nobody waits for it any more.
    pub(super) end: Instant,
}

/// A running guest.
pub(super) struct Guest {
    node: u8,
    end: Instant,
    console: ChildStdin,
    lines: Receiver<String>,
    heard: Vec<String>,
    _process: Running,
}

impl Guest {
    /// Starts node 1 or 2; does not wait.
    pub(super) fn start(node: u8, hardware: &Hardware<'_>) -> Result<Self> {
        let socket = |node: u8| hardware.folder.join(format!("net-{node}")).display().to_string();
        let (own, other) = (socket(node), socket(3 - node));
        let link = format!("dgram,id=pair,local.type=unix,local.path={own},remote.type=unix,remote.path={other}");
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "qemu-system-x86_64"]);
        command.args(["-accel", "tcg", "-cpu", "max", "-m", "384", "-smp", "1", "-nodefaults", "-no-user-config"]);
        command.args(["-display", "none", "-no-reboot", "-serial", "stdio", "-netdev", &link]);
        command.args(["-device", &format!("virtio-net-pci,netdev=pair,romfile=,mac=52:54:00:00:00:0{node}")]);
        command.arg("-kernel").arg(hardware.kernel).arg("-initrd").arg(hardware.initial);
        command.args(["-append", &format!("console=ttyS0 quiet loglevel=3 mitigations=off panic=-1 node={node}")]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit());
        let mut process = Running::start("qemu-system-x86_64", &mut command)?;
        let console = process.child().stdin.take().context("no console")?;
        let output = process.child().stdout.take().context("no console")?;
        Ok(Self { node, end: hardware.end, console, lines: follow(output), heard: Vec::new(), _process: process })
    }

    /// Types a line.
    pub(super) fn order(&mut self, line: &str) -> Result<()> {
        writeln!(self.console, "{line}").and_then(|()| self.console.flush()).context("the guest is gone")
    }

    /// Waits for a line that holds every one of `parts`; returns it with the time that passed.
    /// BOUND: the limit, and the end of the whole acceptance.
    pub(super) fn expect(&mut self, parts: &[&str], limit: Duration) -> Result<(String, Duration)> {
        let start = Instant::now();
        let limit = limit.min(self.end.saturating_duration_since(start));
        loop {
            match self.lines.recv_timeout(limit.saturating_sub(start.elapsed())) {
                Ok(line) => {
                    let found = parts.iter().all(|part| line.contains(part));
                    self.heard.push(line.clone());
                    if found {
                        return Ok((line, start.elapsed()));
                    }
                }
                Err(RecvTimeoutError::Timeout) => bail!(
                    "guest {} did not say {} within {} s; it said last\n{}",
                    self.node,
                    parts.join(" … "),
                    limit.as_secs(),
                    self.last_lines()
                ),
                Err(RecvTimeoutError::Disconnected) => bail!("guest {} ended:\n{}", self.node, self.last_lines()),
            }
        }
    }

    fn last_lines(&self) -> String {
        self.heard[self.heard.len().saturating_sub(25)..].join("\n")
    }
}

/// The console's lines, read by a thread that ends with the console.
fn follow(output: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, lines) = channel();
    std::thread::spawn(move || {
        let mut output = BufReader::new(output);
        let mut line = Vec::new();
        while output.read_until(b'\n', &mut line).is_ok_and(|count| count > 0) {
            let text = String::from_utf8_lossy(&line).trim_end().to_owned();
            if sender.send(text).is_err() {
                return;
            }
            line.clear();
        }
    });
    lines
}
