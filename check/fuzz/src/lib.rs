//! What the fuzzers do with their bytes: one plain function a parser or state machine.
//!
//! A function takes any bytes at all and panics exactly when a property is broken: not only "no crash", but "what is
//! decoded encodes back", "no answer is longer than it was allowed to be", "a fenced nexus writes nothing". Where a
//! format carries a checksum, the function makes it right first, so that the bytes behind it are reached.
//!
//! Nothing here knows of libFuzzer: the workspace in `libfuzzer/` wraps each function in a program, and the test in
//! `tests/` replays the committed corpora and every case that was ever found, with the ordinary toolchain.
//!
//! To add a target: a module with `run` and `seeds`, a line in [`TARGETS`], a file of three lines in
//! `libfuzzer/fuzz_targets/`, and `cargo xtask fuzz --seed-corpora`.

mod choices;
mod scripted;

macro_rules! targets {
    ($($(#[$part:meta])* $name:ident: $what:literal, $longest:literal;)*) => {
        $($(#[$part])* pub mod $name;)*

        /// Every target, in the order in which they are run.
        pub const TARGETS: &[Target] = &[
            $($(#[$part])* Target { name: stringify!($name), what: $what, longest_input: $longest, run: $name::run, seeds: $name::seeds },)*
        ];
    };
}

/// One target.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// Its name: of the module, the program and the folders.
    pub name: &'static str,
    /// What eats the bytes.
    pub what: &'static str,
    /// Longest input worth trying, bytes.
    pub longest_input: usize,
    /// Eats them; panics when a property is broken.
    pub run: fn(&[u8]),
    /// A few short inputs that get far, made by our own encoders.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

targets! {
    pdu: "iSCSI frames and the PDUs of both directions", 4096;
    text: "iSCSI text keys", 4096;
    target_session: "the target's half of a session, login and full feature phase", 4096;
    initiator_session: "the initiator's half of a session, login and full feature phase", 4096;
    conversation: "both halves of a session with each other", 1024;
    cdb: "command descriptor blocks", 64;
    unit: "a whole logical unit under commands of several nexuses", 4096;
}
