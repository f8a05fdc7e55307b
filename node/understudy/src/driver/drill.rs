//! For drills only (cargo feature `drill`, never in the product): a node that stops or kills itself at a named place.
//!
//! Signals sent from outside hit a node somewhere near a state; this hits it in the state. A file named `drill` in the node's
//! state folder holds `<place>:kill`, `<place>:stop` or `<place>:hang`, where a place is the name of a step of the timeline (it is
//! hit when the step is recorded, before any later order is carried out) or `page-<state>`, as `page-givewait` (it is
//! hit when the page with that state word was just published). The file is removed first: each one is hit once.
//!
//! Killed or stopped are both processes of the node, worker and supervisor, as by a power cut. Who dies is the worker alone, by SIGKILL,
//! and who panics too: then the supervisor speaks for it. A node that hangs does nothing more, its I/O included, but its memory can still be read: the fabric has threads of its own. It goes on
//! when the file `hanging`, which it makes, is removed.

use std::path::Path;
use std::time::Duration;

use rustix::process::{Signal, getpid, getppid, kill_process};

/// Name of the file in the state folder.
pub const FILE: &str = "drill";

/// Name of the file in the state folder for as long as the node hangs.
pub const HANGING: &str = "hanging";

/// Between two looks whether it may go on.
const LOOK: Duration = Duration::from_millis(1);

/// BOUND: a drill that forgot the node.
const LOOKS: usize = 60_000;

/// Called at each place; acts if the file asks for it.
pub fn reached(state: &Path, place: &str) {
    let file = state.join(FILE);
    let Ok(text) = std::fs::read_to_string(&file) else { return };
    let Some((wanted, what)) = text.trim().split_once(':') else { return };
    if wanted != place {
        return;
    }
    // Nobody else reads it; were it to stay, the drill would notice a second hit.
    drop(std::fs::remove_file(&file));
    match what {
        "kill" => hit(Signal::KILL),
        "die" => hit_worker(Signal::KILL),
        "panic" => panic!("a drill asks for it"),
        "stop" => hit(Signal::STOP),
        "hang" => hang(&state.join(HANGING)),
        other => tracing::error!("a drill asks for `{other}`, which is not known"),
    }
}

/// The supervisor first, so that it sees nothing of what comes to its worker.
fn hit(signal: Signal) {
    if let Some(supervisor) = getppid() {
        // It is as much this user's as its worker.
        let _ = kill_process(supervisor, signal);
    }
    hit_worker(signal);
}

fn hit_worker(signal: Signal) {
    // A process can always signal itself.
    let _ = kill_process(getpid(), signal);
}

fn hang(file: &Path) {
    if let Err(error) = std::fs::write(file, "") {
        tracing::error!("cannot hang: {error}");
        return;
    }
    for _ in 0..LOOKS {
        if !file.exists() {
            return;
        }
        std::thread::sleep(LOOK);
    }
}
