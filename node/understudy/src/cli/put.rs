//! Printing for commands whose output is read by people and pipes alike.
//!
//! A reader that has seen enough (`understudy timeline | head`) closes the pipe. That is no failure of the command, and it must
//! not end in a panic either, which is what the standard macros do.

use std::io::{ErrorKind, Write};

/// Prints `text` as it is. Ends the process quietly when nobody reads any more.
pub(super) fn put(text: &str) {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => {}
        Err(error) if error.kind() == ErrorKind::BrokenPipe => std::process::exit(0),
        Err(error) => {
            eprintln!("understudy: cannot print: {error}");
            std::process::exit(1);
        }
    }
}
