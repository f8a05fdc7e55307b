//! Names the build: a digest of the sources of the failover machine, which every segment of a log carries.
//!
//! Releases have numbers, and between two of them there are many programs. The one idea: whether two programs may decide
//! differently depends on the sources that decide, so those are digested, and neither a clock, nor a path, nor a version
//! control system is needed to say that two logs come from the same machine.

use std::fs;
use std::path::{Path, PathBuf};

/// Where the machine is.
const MACHINE: &str = "../failover/src";

/// Not part of the machine of a product: the simulated world and the deliberate mistakes.
const LEFT_OUT: [&str; 2] = ["sim", "mutants.rs"];

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed={MACHINE}");
    let root = Path::new(MACHINE);
    let mut files = Vec::new();
    collect(root, &mut files);
    files.sort();
    let mut digest = Digest::default();
    for file in &files {
        let name = file.strip_prefix(root).unwrap_or(file);
        digest.add(name.to_string_lossy().replace('\\', "/").as_bytes());
        digest.add(&fs::read(file).unwrap_or_else(|error| panic!("cannot read {}: {error}", file.display())));
    }
    println!("cargo::rustc-env=UNDERSTUDY_BUILD={:08x}", digest.number());
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    let entries = fs::read_dir(folder).unwrap_or_else(|error| panic!("cannot read {}: {error}", folder.display()));
    for entry in entries {
        let path = entry.unwrap_or_else(|error| panic!("cannot read {}: {error}", folder.display())).path();
        if LEFT_OUT.iter().any(|name| path.ends_with(name)) {
            continue;
        }
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

/// FNV-1a with 64 bits (Fowler, Noll, Vo), folded: the same on every machine and with every compiler, which the standard
/// library's hashes do not promise.
struct Digest(u64);

impl Default for Digest {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Digest {
    /// Takes in a part, and where it ends.
    fn add(&mut self, part: &[u8]) {
        let length = part.len() as u64;
        for byte in part.iter().copied().chain(length.to_le_bytes()) {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }

    /// Never 0, which stands for a log that does not say.
    fn number(&self) -> u32 {
        (((self.0 >> 32) ^ self.0) as u32).max(1)
    }
}
