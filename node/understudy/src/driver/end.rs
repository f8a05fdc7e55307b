//! How a process of a node ends at once: to be started again as a fresh incarnation, or in a panic.
//!
//! Nothing of a run may go on once it has ended, and nothing is waited for: the process leaves by the shortest way there is. Whoever
//! started it has waited for it then and says so in its place ([`crate::supervisor`]). This is the only `unsafe` of this crate.

use std::io::Write as _;

/// Exit status of a worker that is to be started again as a fresh incarnation.
pub const START_AGAIN: u8 = 86;

/// Exit status of a process that panicked, as Rust's own.
pub const PANICKED: u8 = 101;

/// Ends this process; its supervisor starts a fresh run.
pub fn start_again() -> ! {
    at_once(START_AGAIN)
}

/// From now on a panic on any thread, once it is in the log, is the end of this process: half a node helps nobody.
///
/// The log says which thread, where and why. The way it came there costs seconds of reading debug information while this process is no
/// longer a node and not yet known as dead, so only who asks for all of it (`RUST_BACKTRACE=full`) gets it.
pub fn in_a_panic() {
    let before = std::panic::take_hook();
    let tells_the_way = std::env::var_os("RUST_BACKTRACE").is_some_and(|value| value == "full");
    std::panic::set_hook(Box::new(move |info| {
        if tells_the_way {
            before(info);
        } else {
            let thread = std::thread::current();
            // Nothing in a panic may panic, least of all for want of a log.
            let _ = writeln!(std::io::stderr(), "\nthread '{}' {info}", thread.name().unwrap_or("unnamed"));
        }
        at_once(PANICKED)
    }));
}

/// Not by `exit`, which runs other people's code first, nor by `abort`, which may write all memory to a disk before the process is gone.
fn at_once(status: u8) -> ! {
    // SAFETY: `_exit` takes any number and does not return; no Rust object is touched.
    unsafe { libc::_exit(status.into()) }
}
