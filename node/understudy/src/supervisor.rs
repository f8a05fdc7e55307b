//! The small process that stands beside a node's worker and speaks for it when it is dead.
//!
//! Problem: a process that dies cannot say so; its partner has to find out by silence, which takes many times longer than anything that
//! follows. Idea: the state page is registered by another process, which does nothing but wait for the worker. Once the worker's process
//! has ended and was waited for, no thread of it runs any more, so the supervisor may publish PANICKED in its place
//! ([`understudy_failover::last_word`]), on the connections the partner reads anyway. That is certain knowledge, but nothing is safe because of
//! it: what the worker left on its way to the disks is kept out by the fence, as after every other death. Where the partner leaves alone
//! what has panicked, a worker that was killed is not spoken for, and the supervisor ends at once: its partner finds the machine refusing.
//!
//! A worker never outlives its supervisor (the kernel kills it), so a supervisor that dies is a node that dies, unannounced. Starting a dead
//! worker again is not done here but by whoever starts the node; only a worker that asks for it, to be a fresh incarnation, is.

use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::process::ExitStatusExt as _;
use std::process::{ExitCode, ExitStatus, Stdio};

use anyhow::Context as _;
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};
use tokio::signal::unix::{Signal as Signals, SignalKind, signal};
use understudy_fabric::{FabricError, Identity, PageServer, Provider, ServerOptions, SharedMemory, SharedPage};
use understudy_failover::last_word::{Cause, last_word};
use understudy_failover::page::{SEQUENCE_OFFSET, StateWord};
use understudy_failover::words::PairId;

use crate::config::{Config, NodeName};
use crate::driver::end;
use crate::driver::service::node_id;

/// This program, also when another one has been put in its place meanwhile: both processes agree on the memory they share.
const THIS_PROGRAM: &str = "/proc/self/exe";

/// The memory the supervisor has handed to this process, a worker, as its standard input.
///
/// # Errors
/// This process was not started by a supervisor.
pub fn memory_of_worker() -> Result<SharedMemory, FabricError> {
    let handed: OwnedFd = std::io::stdin()
        .as_fd()
        .try_clone_to_owned()
        .map_err(|error| FabricError::System { what: "take over shared memory", text: error.to_string() })?;
    SharedMemory::open(handed)
}

/// Serves the page of `own` and runs its worker until it ends; what this process says with its exit status then.
///
/// # Errors
/// The page cannot be served or the worker not be started.
pub async fn run(config: &Config, own: NodeName) -> anyhow::Result<ExitCode> {
    let memory = SharedMemory::create()?;
    let _server = serve(&memory, config, own)?;
    let mut told = Told::listen()?;
    // BOUND: a worker that asks for a fresh run lost its pools to its partner first.
    let status = loop {
        let mut worker = start_worker(&memory, config, own)?;
        let status = wait_for(&mut worker, &mut told).await?;
        if status.code() != Some(end::START_AGAIN.into()) {
            break status;
        }
    };
    let page = memory.publisher(SEQUENCE_OFFSET);
    if let Some(state) = speak_for(&page, config, own, cause(status)) {
        if state == StateWord::Panicked {
            tracing::error!("node {own} is dead: its worker ended with {status}; the page says {state}");
        }
        // Later the partner would have found out by itself.
        let _ = tokio::time::timeout(config.timing.silent, told.next()).await;
    }
    Ok(exit_code(status))
}

fn serve(memory: &SharedMemory, config: &Config, own: NodeName) -> anyhow::Result<PageServer> {
    let address = config.node(own).interconnect;
    let provider: Provider = config.provider.as_str().parse().context("interconnect provider")?;
    let identity = Identity { pair: u64::from(config.pair.id), node: node_id(own).code() };
    PageServer::start_on(memory, ServerOptions { provider, address, identity, sequence_offset: SEQUENCE_OFFSET })
        .with_context(|| format!("cannot register the state page at {address}"))
}

/// Publishes what there is to say for a worker that was waited for; gives the state said.
fn speak_for(page: &SharedPage, config: &Config, own: NodeName, cause: Cause) -> Option<StateWord> {
    let whose = (PairId(config.pair.id), node_id(own));
    let word = last_word(&page.left_behind(), whose, cause, config.takeover.on_panic.into())?;
    page.publish(&word.encode());
    Some(word.content.state)
}

fn start_worker(memory: &SharedMemory, config: &Config, own: NodeName) -> anyhow::Result<Child> {
    let shared = memory.descriptor().try_clone_to_owned().context("cannot hand over the state page's memory")?;
    Command::new(THIS_PROGRAM)
        .arg("--with-parent")
        .arg(std::process::id().to_string())
        .args(["node", "--worker", &own.to_string(), "--pair"])
        .arg(&config.file)
        .stdin(Stdio::from(shared))
        .spawn()
        .context("cannot start the node's worker")
}

/// Waits until the worker's process has ended; what this process is told is passed on to it.
async fn wait_for(worker: &mut Child, told: &mut Told) -> anyhow::Result<ExitStatus> {
    loop {
        let signal = tokio::select! {
            biased;
            status = worker.wait() => return status.context("cannot wait for the node's worker"),
            signal = told.next() => signal,
        };
        // Not waited for yet, so its id cannot have passed to another process.
        if let Some(worker) = worker.id().and_then(|id| Pid::from_raw(id.cast_signed())) {
            // It fails only if the worker has ended, which is what it was to do.
            let _ = kill_process(worker, signal);
        }
    }
}

/// What an operator or a service manager tells a node by signals: to stop.
struct Told {
    terminate: Signals,
    interrupt: Signals,
}

impl Told {
    fn listen() -> anyhow::Result<Self> {
        let listen = |kind| signal(kind).context("cannot listen for signals");
        Ok(Self { terminate: listen(SignalKind::terminate())?, interrupt: listen(SignalKind::interrupt())? })
    }

    async fn next(&mut self) -> Signal {
        tokio::select! {
            _ = self.terminate.recv() => Signal::TERM,
            _ = self.interrupt.recv() => Signal::INT,
        }
    }
}

/// Whether the worker ended by itself, by its exit status or a signal that a process raises by what it does; every other signal was sent to it.
fn cause(status: ExitStatus) -> Cause {
    const OWN_FAULTS: [Signal; 7] =
        [Signal::ABORT, Signal::BUS, Signal::FPE, Signal::ILL, Signal::SEGV, Signal::SYS, Signal::TRAP];
    match status.signal() {
        Some(signal) if !OWN_FAULTS.iter().any(|fault| fault.as_raw() == signal) => Cause::Killed,
        Some(_) | None => Cause::Failed,
    }
}

/// The worker's own exit status; of one that a signal ended, 128 and the signal's number, as a shell has it.
fn exit_code(status: ExitStatus) -> ExitCode {
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
    ExitCode::from(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn panics_and_crashes_are_failures_and_signals_from_outside_are_not() {
        let ended_by = |signal: Signal| cause(ExitStatus::from_raw(signal.as_raw()));
        let with_core = |signal: Signal| cause(ExitStatus::from_raw(signal.as_raw() | 0x80));
        // What the panic hook ends a worker with, and what a worker that gives up does.
        for code in [101, 1, 0] {
            assert_eq!(cause(ExitStatus::from_raw(code << 8)), Cause::Failed, "exit status {code}");
        }
        for fault in [Signal::ABORT, Signal::BUS, Signal::FPE, Signal::ILL, Signal::SEGV, Signal::SYS, Signal::TRAP] {
            assert_eq!((ended_by(fault), with_core(fault)), (Cause::Failed, Cause::Failed), "{fault:?}");
        }
        for sent in [Signal::KILL, Signal::TERM, Signal::INT, Signal::HUP, Signal::QUIT, Signal::XCPU] {
            assert_eq!(ended_by(sent), Cause::Killed, "{sent:?}");
        }
    }
}
