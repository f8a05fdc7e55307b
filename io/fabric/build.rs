//! Compiles the C shim against the headers of the installed libfabric. The library itself is loaded at run time.
//!
//! The `fi_*` calls are static inline functions of libfabric's headers, so a C compiler has to see them once. Where
//! the headers are missing the build ends here with the name of the package that has them.

use std::env;
use std::path::PathBuf;
use std::process::{Command, exit};

fn main() {
    println!("cargo::rerun-if-changed=shim/fabric.c");
    println!("cargo::rerun-if-env-changed=LIBFABRIC_DIR");
    let mut build = cc::Build::new();
    build.file("shim/fabric.c").warnings(true).extra_warnings(true);
    let folders = include_folders();
    build.includes(&folders);
    if let Some(root) = env::var_os("LIBFABRIC_DIR").map(PathBuf::from) {
        let library = root.join("lib/libfabric.so.1");
        build.define("UF_LIBRARY", format!("\"{}\"", library.display()).as_str());
    }
    if !has_header(&folders) {
        println!(
            "cargo::error=libfabric's headers were not found: install Debian's package libfabric-dev (apt-get install \
             libfabric-dev), or point LIBFABRIC_DIR at an installation of libfabric 1.17 or newer"
        );
        exit(1);
    }
    build.compile("understudy_fabric_shim");
    // dlopen is a library of its own before glibc 2.34.
    println!("cargo::rustc-link-lib=dl");
}

/// Where to look for headers besides the compiler's own folders: in `LIBFABRIC_DIR` if set, else where `pkg-config`
/// says.
fn include_folders() -> Vec<PathBuf> {
    if let Some(root) = env::var_os("LIBFABRIC_DIR").map(PathBuf::from) {
        return vec![root.join("include")];
    }
    let Ok(answer) = Command::new("pkg-config").args(["--cflags-only-I", "libfabric"]).output() else {
        return Vec::new();
    };
    let words = String::from_utf8_lossy(&answer.stdout).into_owned();
    words.split_whitespace().filter_map(|word| word.strip_prefix("-I")).map(PathBuf::from).collect()
}

/// Whether the preprocessor finds `rdma/fabric.h`, so that a missing package is one sentence and not a page of errors.
fn has_header(include: &[PathBuf]) -> bool {
    let mut probe = cc::Build::new();
    probe.file("shim/probe.c").cargo_metadata(false).cargo_warnings(false).warnings(false);
    probe.includes(include);
    probe.try_expand().is_ok()
}
