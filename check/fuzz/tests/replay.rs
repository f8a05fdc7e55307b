//! Every committed input of every fuzz target, on the ordinary toolchain: the seed corpora, and each case that a fuzzer
//! once found.
//!
//! Not a fuzzer: nothing new is tried here, so it takes no time and fails for the same reason every time.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use understudy_fuzz_targets::{TARGETS, Target};

fn folder(kind: &str, target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(kind).join(target)
}

/// The files of a folder, by name; none if there is no such folder.
fn inputs(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.expect("a readable folder").path()).collect();
    paths.sort();
    paths.into_iter().map(|path| (path.display().to_string(), fs::read(&path).expect("a readable input"))).collect()
}

fn replay(target: &Target, inputs: Vec<(String, Vec<u8>)>) {
    for (name, bytes) in inputs {
        println!("{} eats {name}", target.name);
        (target.run)(&bytes);
    }
}

#[test]
fn every_case_once_found_keeps_its_property_now() {
    for target in TARGETS {
        replay(target, inputs(&folder("regressions", target.name)));
    }
}

#[test]
fn every_seed_keeps_the_properties() {
    for target in TARGETS {
        replay(target, inputs(&folder("corpus", target.name)));
    }
}

#[test]
fn every_cut_and_every_flipped_byte_of_every_seed_keeps_the_properties() {
    for target in TARGETS {
        for seed in (target.seeds)() {
            let step = seed.len() / 200 + 1;
            for at in (0..seed.len()).step_by(step) {
                (target.run)(&seed[..at]);
                let mut flipped = seed.clone();
                flipped[at] ^= 0x81;
                (target.run)(&flipped);
            }
        }
    }
}

#[test]
fn the_committed_corpora_are_the_seeds() {
    for target in TARGETS {
        let committed: BTreeSet<Vec<u8>> =
            inputs(&folder("corpus", target.name)).into_iter().map(|(_, bytes)| bytes).collect();
        let seeds: BTreeSet<Vec<u8>> = (target.seeds)().into_iter().collect();
        assert!(committed == seeds, "{}: run cargo xtask fuzz --seed-corpora", target.name);
        assert!(!seeds.is_empty());
    }
}

#[test]
fn every_target_has_a_program() {
    let programs = Path::new(env!("CARGO_MANIFEST_DIR")).join("libfuzzer/fuzz_targets");
    let manifest = fs::read_to_string(programs.with_file_name("Cargo.toml")).expect("the programs' manifest");
    let found: BTreeSet<String> = inputs(&programs)
        .into_iter()
        .map(|(name, _)| name.rsplit(['/', '.']).nth(1).unwrap_or("").to_owned())
        .collect();
    let wanted: BTreeSet<String> = TARGETS.iter().map(|target| target.name.to_owned()).collect();
    // Without the appliance its targets are missing here, and their programs are there all the same.
    assert!(wanted.is_subset(&found) && (wanted == found || cfg!(not(feature = "appliance"))), "{found:?}, {wanted:?}");
    for name in wanted {
        assert!(manifest.contains(&format!("name = \"{name}\"")), "{name} is not in the programs' manifest");
    }
}
