//! `upgrade`: a pair goes from the program of an older commit to this one, under clients.
//!
//! The older program is built from the repository in a work tree of its own, with the libraries that are built already.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::drill;
use crate::programs::{cargo, succeed};
use crate::workspace;

/// The commit to come from, if none is named.
const BEFORE: &str = "HEAD~1";

/// The program of the drills: the product, with places at which a drill can hit it.
const PROGRAM: [&str; 4] = ["--package", "understudy-drill", "--bin", "understudy-drilled"];

/// From `commit` to what is here; `options` are for the drill.
pub(crate) fn run(commit: Option<&str>, options: &[&str]) -> Result<()> {
    let older = build(commit.unwrap_or(BEFORE))?;
    let older = older.to_str().context("the path of the older program is no text")?.to_owned();
    drill::upgrade(&[&["--old", older.as_str()], options].concat())
}

/// As part of CI: a clone may have no commit before.
pub(crate) fn check() -> Result<()> {
    if git(["rev-parse", "--verify", "--quiet", BEFORE]).is_err() {
        println!("skipped: this clone has no commit before this one (git fetch --deepen 1)");
        return Ok(());
    }
    run(None, &[])
}

fn git<const N: usize>(arguments: [&str; N]) -> Result<()> {
    succeed(Command::new("git").args(arguments).current_dir(workspace::root())).map(drop)
}

/// Builds the program of a commit and gives a copy of it.
fn build(commit: &str) -> Result<PathBuf> {
    let target = workspace::target_folder()?;
    let folder = target.join("upgrade");
    let tree = folder.join("older");
    remove(&tree)?;
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let path = tree.to_str().context("the path of the work tree is no text")?;
    git(["worktree", "add", "--force", "--detach", path, commit]).context("no work tree of that commit")?;
    let mut command = cargo(["build", "--quiet"]);
    let built = succeed(command.args(PROGRAM).current_dir(&tree).env("CARGO_TARGET_DIR", &target));
    let program = folder.join("understudy-older");
    let kept = built.and_then(|_| {
        fs::copy(target.join("debug/understudy-drilled"), &program)
            .context("the older program is not where it was built")
    });
    remove(&tree)?;
    kept.map(|_| program)
}

fn remove(tree: &Path) -> Result<()> {
    if tree.exists() {
        fs::remove_dir_all(tree).with_context(|| format!("cannot remove {}", tree.display()))?;
    }
    git(["worktree", "prune"])
}
