//! Compiles the C shim against the installed libfabric and links it.
//!
//! The `fi_*` calls are static inline functions of libfabric's headers, so a C compiler has to see them once. Where
//! the headers are missing the build ends here with the name of the package that has them.

use std::env;
use std::path::PathBuf;
use std::process::{Command, exit};

fn main() {
    println!("cargo:rerun-if-changed=shim/fabric.c");
    println!("cargo:rerun-if-env-changed=LIBFABRIC_DIR");
    let mut build = cc::Build::new();
    build.file("shim/fabric.c").warnings(true).extra_warnings(true);
    let folders = include_folders();
    for folder in &folders.include {
        build.include(folder);
    }
    if !has_header(&folders.include) {
        println!(
            "cargo:error=libfabric's headers were not found: install Debian's package libfabric-dev (apt-get install \
             libfabric-dev), or point LIBFABRIC_DIR at an installation of libfabric 1.17 or newer"
        );
        exit(1);
    }
    build.compile("understudy_fabric_shim");
    for folder in &folders.link {
        println!("cargo:rustc-link-search=native={}", folder.display());
    }
    println!("cargo:rustc-link-lib=fabric");
}

/// Where to look besides the compiler's own folders.
#[derive(Default)]
struct Folders {
    include: Vec<PathBuf>,
    link: Vec<PathBuf>,
}

/// The folders of `LIBFABRIC_DIR` if set, else what `pkg-config` says, else none (plain `-lfabric`).
fn include_folders() -> Folders {
    if let Some(root) = env::var_os("LIBFABRIC_DIR").map(PathBuf::from) {
        return Folders { include: vec![root.join("include")], link: vec![root.join("lib")] };
    }
    let mut folders = Folders::default();
    let Ok(answer) = Command::new("pkg-config").args(["--cflags", "--libs", "libfabric"]).output() else {
        return folders;
    };
    if answer.status.success() {
        for word in String::from_utf8_lossy(&answer.stdout).split_whitespace() {
            if let Some(folder) = word.strip_prefix("-I") {
                folders.include.push(folder.into());
            } else if let Some(folder) = word.strip_prefix("-L") {
                folders.link.push(folder.into());
            }
        }
    }
    folders
}

/// Whether the preprocessor finds `rdma/fabric.h`, so that a missing package is one sentence and not a page of errors.
fn has_header(include: &[PathBuf]) -> bool {
    let mut probe = cc::Build::new();
    probe.file("shim/probe.c").cargo_metadata(false).cargo_warnings(false).warnings(false);
    for folder in include {
        probe.include(folder);
    }
    probe.try_expand().is_ok()
}
