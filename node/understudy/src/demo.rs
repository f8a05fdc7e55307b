//! `understudy demo`: a pair loses a node and gets it back while clients write and verify, on this machine, for all to see.
//!
//! Everything is real: the shelf and both nodes are processes of their own, the clients reach the volumes over iSCSI, the
//! node dies by SIGKILL. What is shown comes from the nodes' own event streams as it happens, from the clients' own
//! clocks, and from an observer that asks the shelf for its reservations. What it measured decides the exit status.

mod observer;
mod outcome;
mod screen;
mod story;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;

use crate::timeline::Style;

pub use outcome::Outcome;

/// How to run the demo.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where to write the result as JSON.
    pub json: Option<PathBuf>,
    /// Whether the folder stays.
    pub folder: Keep,
    /// libfabric provider of the interconnect.
    pub provider: String,
    /// How to print.
    pub style: Style,
}

/// What happens to the demo's folder at the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// It stays.
    Always,
    /// It stays if something went wrong.
    OnFailure,
}

/// Runs the demo. The exit status is success if everything it promises held.
///
/// # Errors
/// It could not be run to its end; the folder with all logs is named.
pub fn run(options: &Options) -> anyhow::Result<ExitCode> {
    let folder = tempfile::Builder::new().prefix("understudy-demo-").tempdir().context("cannot make a folder")?;
    let played = story::play(options, folder.path());
    let (report, status) = match played {
        Ok(outcome) => {
            if let Some(file) = &options.json {
                outcome.write(file)?;
            }
            let status = if outcome.holds() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
            (outcome.holds(), Ok(status))
        }
        Err(error) => (false, Err(error)),
    };
    if report && options.folder == Keep::OnFailure {
        return status;
    }
    let kept = folder.keep();
    match status {
        Ok(status) => {
            println!("\ndisks and logs are in {}", kept.display());
            Ok(status)
        }
        Err(error) => {
            Err(error.context(format!("the demo did not get to its end; disks and logs are in {}", kept.display())))
        }
    }
}
