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
    ($($(#[$part:meta])* $name:ident: $what:literal;)*) => {
        $($(#[$part])* pub mod $name;)*

        /// Every target, in the order in which they are run.
        pub const TARGETS: &[Target] = &[
            $($(#[$part])* Target { name: stringify!($name), what: $what, run: $name::run, seeds: $name::seeds },)*
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
    /// Eats them; panics when a property is broken.
    pub run: fn(&[u8]),
    /// A few short inputs that get far, made by our own encoders.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

targets! {
    pdu: "iSCSI frames and the PDUs of both directions";
    text: "iSCSI text keys";
    target_session: "the target's half of a session, login and full feature phase";
    chap: "logins that have to be proved";
    initiator_session: "the initiator's half of a session, login and full feature phase";
    conversation: "both halves of a session with each other";
    cdb: "command descriptor blocks";
    unit: "a whole logical unit under commands of several nexuses";
    unit_state: "what a logical unit keeps through a restart";
    scsi_lists: "parameter lists of PERSISTENT RESERVE OUT, MODE SELECT and UNMAP";
    scsi_answers: "sense, INQUIRY, capacity and reservations as the initiator reads them";
    page: "the partner's state page";
    record: "records and heartbeats of a lock disk";
    machine: "the failover machine beside a partner that writes anything";
    event_log: "segments of a node's event log";
    label: "disk labels";
    metadata: "pool metadata";
    gpt: "partition tables";
    #[cfg(feature = "appliance")]
    config: "the file that describes a pair";
    #[cfg(feature = "appliance")]
    url: "addresses of disks";
    #[cfg(feature = "appliance")]
    admin: "lines of the admin socket";
    #[cfg(feature = "appliance")]
    clientele: "the partner's list of clients";
}
