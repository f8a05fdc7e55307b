//! Starting again as a fresh incarnation: this process replaces itself by a new run of the same program.
//!
//! Nothing of the old run may leak into the new one, so every open file but the standard three is closed by the kernel
//! when the program is replaced. This is the only `unsafe` of this crate.

use std::os::unix::process::CommandExt;
use std::process::Command;

/// Replaces this process. Returns only if the system refused, with what it said.
#[must_use]
pub fn start_again() -> std::io::Error {
    // SAFETY: close_range with CLOSE_RANGE_CLOEXEC only marks descriptors; none is closed before the program is replaced, and
    // no Rust object is touched.
    unsafe {
        libc::close_range(3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC as libc::c_int);
    }
    let program = match std::env::current_exe() {
        Ok(program) => program,
        Err(error) => return error,
    };
    Command::new(program).args(std::env::args_os().skip(1)).exec()
}
