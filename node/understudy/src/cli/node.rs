//! `node` and `pair init`: the commands that touch disks, each on a runtime of its own.

use std::ffi::CString;
use std::process::ExitCode;

use rustix::process::{Resource, Rlimit, Signal, getppid, getrlimit, set_parent_process_death_signal, setrlimit};
use tracing_subscriber::EnvFilter;

use super::{Failure, InitArgs, NodeArgs};
use crate::config::{Config, NodeName};
use crate::driver::end;
use crate::supervisor;
use crate::timeline::Style;

/// Makes this process end when `parent`, which must have started it, ends.
pub(super) fn end_with(parent: u32) -> Result<(), Failure> {
    set_parent_process_death_signal(Some(Signal::KILL))
        .map_err(|error| Failure::new(format!("cannot ask to end with process {parent}: {error}"), ""))?;
    // It may have ended before it was asked.
    match getppid() {
        Some(pid) if pid.as_raw_nonzero().get().cast_unsigned() == parent => Ok(()),
        Some(_) | None => Err(Failure::new(format!("process {parent} has ended, or did not start this one"), "")),
    }
}

/// Logs go to standard error, as much as RUST_LOG asks for.
pub(super) fn start_log() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let coloured = Style::of_stderr() == Style::Coloured;
    // A second start in one process (tests) changes nothing.
    drop(tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(coloured).try_init());
}

/// Runs `work` on the one runtime of this process.
pub(super) fn on_runtime<T>(work: impl Future<Output = T>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(format!("cannot start the runtime: {error}"), ""))?;
    Ok(tokio::task::LocalSet::new().block_on(&runtime, work))
}

pub(super) fn run(args: &NodeArgs) -> Result<ExitCode, Failure> {
    let config = args.file.load()?;
    start_log();
    end::in_a_panic();
    if !args.worker {
        return Ok(on_runtime(supervisor::run(&config, args.node))??);
    }
    // What `ps` and `top` show of it, else the name of the way it was started.
    let _ = rustix::thread::set_name(&CString::new(format!("node-{}", args.node)).unwrap_or_default());
    let page = supervisor::memory_of_worker().map_err(anyhow::Error::from)?;
    allow_open_files(&config, args.node);
    Ok(on_runtime(crate::driver::run(config, args.node, page))??)
}

/// Files a node has open beside its clients' connections: disks, the interconnect, the admin socket, logs; several times what it has.
const OTHER_FILES: u64 = 256;

/// Lets this process have as many files open as the system allows, and says so if that is not enough for the clients it may have: a
/// node that could not reach its own disks any more for all its clients would be worse than one that turns clients away.
fn allow_open_files(config: &Config, node: NodeName) {
    let limit = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }) {
        tracing::warn!(%error, "cannot raise the number of files that may be open");
    }
    // After a takeover it has the portals of both.
    let portals = NodeName::BOTH.iter().map(|name| config.node(*name).portals.len()).sum::<usize>() as u64;
    let needed = portals * config.limits.connections as u64 + OTHER_FILES;
    let allowed = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    if allowed < needed {
        tracing::warn!(
            "node {node} may have {allowed} files open and its clients {needed}: lower `connections` in [limits], or raise the limit (ulimit \
             -n, LimitNOFILE of systemd)"
        );
    }
}

pub(super) fn pair_init(args: &InitArgs) -> Result<ExitCode, Failure> {
    let config = args.file.load()?;
    let wish = crate::pair_init::Wish {
        node: args.node,
        volumes: args.volumes.clone(),
        disks_in_use: if args.overwrite {
            crate::pair_init::DisksInUse::Overwrite
        } else {
            crate::pair_init::DisksInUse::Refuse
        },
    };
    let lines = on_runtime(crate::pair_init::run(&config, &wish))?.map_err(|error| {
        let advice = error.advice();
        Failure::new(format!("the pair was not prepared: {error}"), advice)
    })?;
    for line in lines {
        println!("{line}");
    }
    Ok(ExitCode::SUCCESS)
}
