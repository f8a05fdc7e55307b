//! How a process of a node ends at once: to be started again as a fresh incarnation, or in a panic.
//!
//! Nothing of a run may go on once it has ended, and nothing is waited for: the process leaves by the shortest way there is. Whoever
//! started it has waited for it then and says so in its place ([`crate::supervisor`]). This is the only `unsafe` of this crate.

/// Exit status of a worker that is to be started again as a fresh incarnation.
pub const START_AGAIN: u8 = 86;

/// Exit status of a process that panicked, as Rust's own.
pub const PANICKED: u8 = 101;

/// Ends this process; its supervisor starts a fresh run.
pub fn start_again() -> ! {
    at_once(START_AGAIN)
}

/// From now on a panic on any thread, once it is in the log, is the end of this process: half a node helps nobody.
pub fn in_a_panic() {
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        before(info);
        at_once(PANICKED)
    }));
}

/// Not by `exit`, which runs other people's code first, nor by `abort`, which may write all memory to a disk before the process is gone.
fn at_once(status: u8) -> ! {
    // SAFETY: `_exit` takes any number and does not return; no Rust object is touched.
    unsafe { libc::_exit(status.into()) }
}
