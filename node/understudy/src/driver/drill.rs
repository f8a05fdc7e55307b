//! For drills only (cargo feature `drill`, never in the product): a node that stops or kills itself at a named place.
//!
//! Signals sent from outside hit a node somewhere near a state; this hits it in the state. A file named `drill` in the node's
//! state folder holds `<place>:kill` or `<place>:stop`, where a place is the name of a step of the timeline (it is
//! hit when the step is recorded, before any later order is carried out) or `page-<state>`, as `page-givewait` (it is
//! hit when the page with that state word was just published). The file is removed before the signal is sent: each one is hit once.

use std::path::Path;

use rustix::process::{Signal, getpid, kill_process};

/// Name of the file in the state folder.
pub const FILE: &str = "drill";

/// Called at each place; acts if the file asks for it.
pub fn reached(state: &Path, place: &str) {
    let file = state.join(FILE);
    let Ok(text) = std::fs::read_to_string(&file) else { return };
    let signal = match text.trim().split_once(':') {
        Some((wanted, "kill")) if wanted == place => Signal::KILL,
        Some((wanted, "stop")) if wanted == place => Signal::STOP,
        Some(_) | None => return,
    };
    // Nobody else reads it; were it to stay, the drill would notice a second hit.
    drop(std::fs::remove_file(&file));
    // A process can always signal itself.
    let _ = kill_process(getpid(), signal);
}
