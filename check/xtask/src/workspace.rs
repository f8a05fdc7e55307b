//! The workspace as the checks see it: its crates with their layers, and its source files.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

/// The layers, lowest first; a crate's layer is the folder it lies in.
pub(crate) const LAYERS: [&str; 5] = ["spec", "core", "io", "node", "check"];

/// One crate of the workspace.
#[derive(Debug, Clone)]
pub(crate) struct Crate {
    pub(crate) name: String,
    /// First folder of its path.
    pub(crate) layer: String,
    /// Its folder, relative to the root.
    pub(crate) folder: PathBuf,
    pub(crate) dependencies: Vec<Dependency>,
}

/// One arrow.
#[derive(Debug, Clone)]
pub(crate) struct Dependency {
    pub(crate) name: String,
    pub(crate) purpose: Purpose,
}

/// What a dependency is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    Product,
    Build,
    Tests,
}

/// The root folder of the workspace.
pub(crate) fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).expect("xtask lies two folders below the root").to_owned()
}

/// Where cargo puts what it builds.
pub(crate) fn target_folder() -> Result<PathBuf> {
    let folder = metadata()?["target_directory"].as_str().map(PathBuf::from);
    folder.context("cargo metadata names no target directory")
}

fn metadata() -> Result<Value> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(["metadata", "--format-version", "1", "--no-deps"]).current_dir(root());
    let output = command.output().context("cannot run cargo metadata")?;
    ensure!(output.status.success(), "cargo metadata failed: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).context("cargo metadata answered something that is not JSON")
}

/// Every crate of the workspace.
pub(crate) fn crates() -> Result<Vec<Crate>> {
    let packages = metadata()?["packages"].as_array().cloned().context("cargo metadata names no packages")?;
    packages.iter().map(|package| read_crate(package).context("cargo metadata has an unknown shape")).collect()
}

fn read_crate(package: &Value) -> Option<Crate> {
    let manifest = Path::new(package["manifest_path"].as_str()?);
    let folder = manifest.parent()?.strip_prefix(root()).ok()?.to_owned();
    let layer = folder.components().next()?.as_os_str().to_str()?.to_owned();
    let dependencies = package["dependencies"].as_array()?.iter().filter_map(read_dependency).collect();
    Some(Crate { name: package["name"].as_str()?.to_owned(), layer, folder, dependencies })
}

fn read_dependency(dependency: &Value) -> Option<Dependency> {
    let purpose = match dependency["kind"].as_str() {
        Some("dev") => Purpose::Tests,
        Some("build") => Purpose::Build,
        Some(_) | None => Purpose::Product,
    };
    Some(Dependency { name: dependency["name"].as_str()?.to_owned(), purpose })
}

/// A source file, its path relative to the root.
pub(crate) struct SourceFile {
    pub(crate) path: String,
    pub(crate) text: String,
}

/// Every Rust file of the layers, in order of their paths.
pub(crate) fn source_files() -> Result<Vec<SourceFile>> {
    let mut files = Vec::new();
    for layer in LAYERS {
        collect(&root().join(layer), &mut files)?;
    }
    files.sort_by(|one, other| one.path.cmp(&other.path));
    Ok(files)
}

fn collect(folder: &Path, files: &mut Vec<SourceFile>) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            // A crate of its own below another (a fuzz target) may build into its own folder.
            if path.file_name().is_some_and(|name| name != "target") {
                collect(&path, files)?;
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
            let relative = path.strip_prefix(root()).context("a file outside the root")?;
            files.push(SourceFile { path: relative.to_string_lossy().into_owned(), text });
        }
    }
    Ok(())
}

/// Fails with every complaint on its own line, or says that `what` is in order.
pub(crate) fn conclude(what: &str, complaints: &[String]) -> Result<()> {
    ensure!(complaints.is_empty(), "{what}:\n  {}", complaints.join("\n  "));
    println!("{what}: in order");
    Ok(())
}
