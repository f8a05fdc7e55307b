//! One child process: started with its output in a log, ended by its own id.

use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

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
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        command.args(args);
        Self::spawn(command, format!("{} {}", program.display(), args.join(" ")), log)
    }

    fn spawn(mut command: Command, what: String, log: &Path) -> anyhow::Result<Self> {
        let output = open_log(log).with_context(|| format!("cannot open {}", log.display()))?;
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

    /// Sends a signal.
    ///
    /// # Errors
    /// What the system said.
    pub fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        // The child was not waited for, so its id can not have passed to another process.
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).with_context(|| format!("cannot signal {}", self.what))
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

    /// Waits until it has ended by itself.
    ///
    /// # Errors
    /// It runs on after `limit`.
    pub fn wait_for_end(&mut self, limit: Duration) -> anyhow::Result<()> {
        let deadline = Instant::now() + limit;
        // BOUND: the deadline.
        while self.child.try_wait()?.is_none() {
            if Instant::now() >= deadline {
                let (does, waited) = (doing(self.id()), limit.as_secs());
                bail!("{} still runs after {waited} s; {does}; the end of its log:\n{}", self.what, tail(&self.log));
            }
            std::thread::sleep(super::LOOK);
        }
        Ok(())
    }

    /// Kills it and waits until it is gone.
    pub fn end(self) {
        drop(self);
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail only if it has ended already.
        drop(self.child.kill());
        drop(self.child.wait());
    }
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

/// Whether the process with this id is stopped by a signal (proc(5): state `T`).
pub(super) fn is_stopped(id: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
    // The name before it stands in parentheses and may hold anything, so the last one counts.
    stat.rsplit_once(')').is_some_and(|(_, rest)| rest.trim_start().starts_with('T'))
}

/// What the process with this id is doing (proc(5)): its program's name, which is still that of the way to its host if it has not
/// begun, its state, and where in the system it waits.
fn doing(id: u32) -> String {
    let read = |name: &str| std::fs::read_to_string(format!("/proc/{id}/{name}")).unwrap_or_default();
    let stat = read("stat");
    let state = stat.rsplit_once(')').and_then(|(_, rest)| rest.trim_start().chars().next()).unwrap_or('?');
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
