//! One child process and what it starts itself: with its output in a log, ended by its own id.
//!
//! Each is the leader of a process group of its own: what is done to a process from outside as if its machine did it (SIGKILL, SIGSTOP,
//! SIGCONT) is done to all of its group. A node has two processes in it.

use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, kill_process, kill_process_group, pidfd_open};

pub use rustix::process::Signal;

/// Lines of a log shown when something went wrong.
const LOG_TAIL: usize = 20;

/// A child process. Dropping it kills it.
#[derive(Debug)]
pub struct Process {
    child: Child,
    what: String,
    log: PathBuf,
}

impl Process {
    /// Starts this project's `program` with `args`, its output appended to `log`. It ends when this process does.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start(program: &Path, args: &[String], log: &Path) -> anyhow::Result<Self> {
        Self::start_on(&[], program, args, log)
    }

    /// The same on another host: `way` is the command that replaces itself by a program there, none for this host.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start_on(way: &[String], program: &Path, args: &[String], log: &Path) -> anyhow::Result<Self> {
        Self::spawn(command(way, program, args), format!("{} {}", program.display(), args.join(" ")), log)
    }

    /// The same with somebody else's program, which is not told to end with this process: dropping ends it.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start_foreign(program: &Path, args: &[String], log: &Path) -> anyhow::Result<Self> {
        let mut command = Command::new(program);
        command.args(args);
        Self::spawn(command, format!("{} {}", program.display(), args.join(" ")), log)
    }

    fn spawn(mut command: Command, what: String, log: &Path) -> anyhow::Result<Self> {
        let output = open_log(log).with_context(|| format!("cannot open {}", log.display()))?;
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let child = command
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()
            .with_context(|| format!("cannot start {what}"))?;
        Ok(Self { child, what, log: log.to_owned() })
    }

    /// Its process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal: SIGKILL, SIGSTOP and SIGCONT to all of its group, others, which it can pass on, to the process alone.
    ///
    /// # Errors
    /// What the system said.
    pub fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        // The child was not waited for, so its id can not have passed to another process, nor its group's to another group.
        let pid = Pid::from_child(&self.child);
        let sent = match signal {
            Signal::KILL | Signal::STOP | Signal::CONT => kill_process_group(pid, signal),
            _ => kill_process(pid, signal),
        };
        sent.with_context(|| format!("cannot signal {}", self.what))
    }

    /// The processes of its group beside itself, as a node's worker is.
    #[must_use]
    pub fn started(&self) -> Vec<u32> {
        group_of(self.id()).into_iter().filter(|process| *process != self.id()).collect()
    }

    /// Fails if it has ended.
    ///
    /// # Errors
    /// It has, with the end of its log.
    pub fn check_alive(&mut self) -> anyhow::Result<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => bail!(
                "{} ended by itself ({status}); the end of {}:\n{}",
                self.what,
                self.log.display(),
                tail(&self.log)
            ),
        }
    }

    /// Waits until `reached`, at most `limit`.
    ///
    /// # Errors
    /// It was not, or the process ended.
    pub fn wait_until(&mut self, limit: Duration, what: &str, mut reached: impl FnMut() -> bool) -> anyhow::Result<()> {
        let deadline = Instant::now() + limit;
        // BOUND: the deadline.
        while !reached() {
            self.check_alive()?;
            if Instant::now() >= deadline {
                let (does, waited) = (doing(self.id()), limit.as_secs());
                bail!("{} not {what} after {waited} s; {does}; the end of its log:\n{}", self.what, tail(&self.log));
            }
            std::thread::sleep(super::LOOK);
        }
        Ok(())
    }

    /// Waits until it has ended by itself, and everything it started; gives its exit status.
    ///
    /// # Errors
    /// It runs on after `limit`.
    pub fn wait_for_end(&mut self, limit: Duration) -> anyhow::Result<ExitStatus> {
        let deadline = Instant::now() + limit;
        // BOUND: the deadline.
        loop {
            // What is left of the group has the same end before it, but may be some moments behind.
            if let (Some(status), true) = (self.child.try_wait()?, self.started().is_empty()) {
                return Ok(status);
            }
            if Instant::now() >= deadline {
                let (does, waited) = (doing(self.id()), limit.as_secs());
                bail!("{} still runs after {waited} s; {does}; the end of its log:\n{}", self.what, tail(&self.log));
            }
            std::thread::sleep(super::LOOK);
        }
    }

    /// Kills it and waits until it is gone.
    pub fn end(self) {
        drop(self);
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail only if it has ended already.
        drop(self.signal(Signal::KILL));
        let group: Vec<OwnedFd> = self.started().into_iter().filter_map(end_of).collect();
        drop(self.child.wait());
        for end in group {
            await_end(&end);
        }
    }
}

/// The processes of a group that have not ended.
fn group_of(leader: u32) -> Vec<u32> {
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let ids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    ids.filter(|id| stat(*id).is_some_and(|stat| stat.group == leader && !stat.has_ended())).collect()
}

/// Something that can be waited on until a process has ended; nothing if there is none.
fn end_of(process: u32) -> Option<OwnedFd> {
    let pid = Pid::from_raw(process.cast_signed())?;
    pidfd_open(pid, PidfdFlags::empty()).ok()
}

/// Returns when the process has ended and let go of everything it had open.
fn await_end(end: &OwnedFd) {
    // It was sent SIGKILL: only an interrupted wait is repeated.
    while let Err(Errno::INTR) = poll(&mut [PollFd::new(end, PollFlags::IN)], None) {}
}

/// Runs `program` to its end, on the host `way` leads to, and gives what it printed.
///
/// # Errors
/// It failed, with what it said.
pub(super) fn run(way: &[String], program: &Path, args: &[String]) -> anyhow::Result<String> {
    let output = command(way, program, args).stdin(Stdio::null()).output();
    let output = output.with_context(|| format!("cannot start {}", program.display()))?;
    if !output.status.success() {
        bail!(
            "`understudy {}` ended with {}:\n{}",
            args.join(" "),
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn command(way: &[String], program: &Path, args: &[String]) -> Command {
    let mut command = match way {
        [] => Command::new(program),
        [first, rest @ ..] => {
            let mut command = Command::new(first);
            command.args(rest).arg(program);
            command
        }
    };
    // A process group of its own: Ctrl-C in the terminal is for this process, which then ends its children in order.
    std::os::unix::process::CommandExt::process_group(&mut command, 0);
    command.arg("--with-parent").arg(std::process::id().to_string()).args(args);
    command
}

/// Whether the process with this id and everything in its group are stopped by a signal.
pub(super) fn is_stopped(id: u32) -> bool {
    let group = group_of(id);
    !group.is_empty() && group.into_iter().all(|process| stat(process).is_some_and(|stat| stat.state == 'T'))
}

/// What is known of a process (proc(5)).
struct Stat {
    /// `T` for stopped, `Z` for one that has ended and was not waited for.
    state: char,
    group: u32,
    threads: u32,
}

impl Stat {
    /// The first thread may have ended before the others.
    fn has_ended(&self) -> bool {
        matches!(self.state, 'Z' | 'X') && self.threads <= 1
    }
}

fn stat(id: u32) -> Option<Stat> {
    let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    // The name before it stands in parentheses and may hold anything, so the last one counts.
    let (_, rest) = stat.rsplit_once(')')?;
    let mut words = rest.split_whitespace();
    let (state, group) = (words.next()?.chars().next()?, words.nth(1)?.parse().ok()?);
    Some(Stat { state, group, threads: words.nth(14)?.parse().ok()? })
}

/// What the process with this id is doing (proc(5)): its program's name, which is still that of the way to its host if it has not
/// begun, its state, and where in the system it waits.
fn doing(id: u32) -> String {
    let read = |name: &str| std::fs::read_to_string(format!("/proc/{id}/{name}")).unwrap_or_default();
    let state = stat(id).map_or('?', |stat| stat.state);
    format!("it runs `{}` and is in state {state}, waiting in {:?}", read("comm").trim(), read("wchan"))
}

fn open_log(log: &Path) -> std::io::Result<File> {
    OpenOptions::new().create(true).append(true).open(log)
}

/// The last lines of a log.
fn tail(log: &Path) -> String {
    let bytes = std::fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(LOG_TAIL)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_keeps_somebody_waiting_is_told_by_name_and_state() {
        let mut sleeper =
            Process::spawn(command_of("sleep", "1000"), "sleep".to_owned(), Path::new("/dev/null")).expect("sleep");
        sleeper.signal(Signal::STOP).expect("a signal");
        let id = sleeper.id();
        sleeper.wait_until(Duration::from_secs(20), "stopped", || is_stopped(id)).expect("stopped");
        let told = sleeper.wait_until(Duration::ZERO, "awake", || false).expect_err("it is not").to_string();
        assert!(told.contains("it runs `sleep` and is in state T"), "{told}");
    }

    fn command_of(program: &str, argument: &str) -> Command {
        let mut command = Command::new(program);
        command.arg(argument);
        command
    }
}
