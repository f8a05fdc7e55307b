//! A foreign interface of the portal: a classic BPF program that steers new connections to one of two listeners.
//!
//! Linux keeps the listeners of one address in an array, in the order in which they were bound, and asks the program
//! which index gets a new connection. `ret 1` says "the second"; an index beyond the array makes the kernel choose by
//! itself, and with one listener there is only one choice. So with two listeners the newer one gets everything, and
//! when either closes the other is left. `ret 0` gives the older one everything, until a newer one comes and says `ret 1`
//! again. A third one beside two would wait for its turn: an address has one owner and at most one successor.
//! socket(7), `SO_ATTACH_REUSEPORT_CBPF`.

use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, BorrowedFd};

/// `BPF_RET | BPF_K`: return the constant of the instruction.
const RETURN_CONSTANT: u16 = 0x06;

/// Which listener of an address gets new connections: its index among them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Preferred {
    /// The one that was bound first.
    OlderOfTwo = 0,
    /// The one that was bound second.
    NewerOfTwo = 1,
}

/// Attaches the steering program to the group of a listening socket with `SO_REUSEPORT` set; it takes the place of another.
///
/// Has to happen after `listen`: the kernel refuses to let a socket that has a group of its own join another one. The
/// group keeps the program, so one that listens second is steered from its first moment.
pub(crate) fn prefer(preferred: Preferred, socket: BorrowedFd<'_>) -> io::Result<()> {
    let mut program = [libc::sock_filter { code: RETURN_CONSTANT, jt: 0, jf: 0, k: preferred as u32 }];
    let descriptor = libc::sock_fprog { len: 1, filter: program.as_mut_ptr() };
    // SAFETY: the descriptor is open (borrowed), `descriptor` points to a program of the stated length that outlives
    // the call, and the kernel copies both.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_REUSEPORT_CBPF,
            (&raw const descriptor).cast(),
            size_of::<libc::sock_fprog>() as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
