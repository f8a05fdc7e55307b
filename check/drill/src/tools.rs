//! Programs of other people that some drills need: where they are, or one clear line that the drill is skipped.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use anyhow::{Context, ensure};

/// Folders searched after `PATH`: Debian keeps tools of the administrator out of the `PATH` of ordinary users.
const ADMINISTRATORS: [&str; 2] = ["/usr/sbin", "/sbin"];

/// Where a program is.
#[must_use]
pub fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(ADMINISTRATORS.map(PathBuf::from));
    folders.map(|folder| folder.join(program)).find(|file| file.is_file())
}

/// Whether all programs are there; says so in one line if not.
#[must_use]
pub fn present(programs: &[&str], packages: &str) -> bool {
    let missing: Vec<&str> = programs.iter().copied().filter(|program| find(program).is_none()).collect();
    if !missing.is_empty() {
        // Not through the test's capture, so that it is seen in every log.
        eprintln!("SKIPPED: {} not found (Debian: {packages})", missing.join(", "));
    }
    missing.is_empty()
}

/// A program of the machine, found by [`find`].
///
/// # Errors
/// It is not there.
pub fn command(program: &str) -> anyhow::Result<Command> {
    Ok(Command::new(find(program).with_context(|| format!("{program} not found"))?))
}

/// Runs a command to its end, at most `seconds`, and demands success.
///
/// # Errors
/// It failed, with what it said.
pub fn succeed(program: &str, seconds: u32, arguments: &[&str]) -> anyhow::Result<Output> {
    let output = run(program, seconds, arguments)?;
    ensure!(
        output.status.success(),
        "{program} {} ended with {}:\n{}{}",
        arguments.join(" "),
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(output)
}

/// Runs a command to its end, at most `seconds` (then it is killed and its status says 137).
///
/// # Errors
/// It cannot be started.
pub fn run(program: &str, seconds: u32, arguments: &[&str]) -> anyhow::Result<Output> {
    let program = find(program).with_context(|| format!("{program} not found"))?;
    let mut command = bounded(&program, seconds)?;
    command.args(arguments).output().with_context(|| format!("cannot start {}", program.display()))
}

/// A command that coreutils' `timeout` ends after `seconds`.
///
/// # Errors
/// There is no `timeout`.
pub fn bounded(program: &Path, seconds: u32) -> anyhow::Result<Command> {
    let mut command = command("timeout")?;
    command.args(["--signal=KILL", &seconds.to_string()]).arg(program);
    Ok(command)
}
