//! The initial file system of a guest: one program, the libraries it loads, and the kernel modules of Soft-RoCE.
//!
//! Not a distribution: it is put together from what is installed on this machine, written in the kernel's own archive
//! format (`newc` of cpio, which the kernel unpacks into memory), and needs no tool and no rights to make.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// The files of a guest: path without the leading slash, mode, content. Ordered, so folders come before what they hold.
#[derive(Default)]
pub(super) struct Image(BTreeMap<String, (u32, Vec<u8>)>);

const FOLDER: u32 = 0o040_755;
const FILE: u32 = 0o100_755;

impl Image {
    /// Adds a file, with the folders it lies in.
    pub(super) fn add(&mut self, path: &str, content: Vec<u8>) {
        let path = path.trim_start_matches('/');
        for (end, _) in path.match_indices('/') {
            self.0.entry(path[..end].to_owned()).or_insert((FOLDER, Vec::new()));
        }
        self.0.insert(path.to_owned(), (FILE, content));
    }

    /// Adds a file of this machine.
    pub(super) fn copy(&mut self, from: &Path, to: &str) -> Result<()> {
        self.add(to, fs::read(from).with_context(|| format!("cannot read {}", from.display()))?);
        Ok(())
    }

    /// Adds an ELF file and every library the loader would load with it, each where it lies on this machine.
    pub(super) fn copy_with_libraries(&mut self, from: &Path, to: &str) -> Result<()> {
        self.copy(from, to)?;
        // A program without libraries makes ldd fail, and has none to bring.
        let output = Command::new("ldd").arg(from).output().context("cannot run ldd")?;
        for library in libraries(&String::from_utf8_lossy(&output.stdout)) {
            self.copy(Path::new(&library), &library)?;
        }
        Ok(())
    }

    /// The archive.
    pub(super) fn to_cpio(&self) -> Vec<u8> {
        let mut archive = Vec::new();
        for (inode, (path, (mode, content))) in self.0.iter().enumerate() {
            append(&mut archive, inode, path, *mode, content);
        }
        append(&mut archive, 0, "TRAILER!!!", 0, &[]);
        archive
    }
}

/// One member: a header of 13 hexadecimal numbers, the name, the content, each padded to 4 bytes
/// (Linux, `Documentation/driver-api/early-userspace/buffer-format.rst`).
fn append(archive: &mut Vec<u8>, inode: usize, path: &str, mode: u32, content: &[u8]) {
    let mode = mode as usize;
    let fields = [inode, mode, 0, 0, 1, 0, content.len(), 0, 0, 0, 0, path.len() + 1, 0];
    archive.extend(b"070701");
    for field in fields {
        archive.extend(format!("{field:08x}").bytes());
    }
    archive.extend(path.bytes());
    archive.push(0);
    pad(archive);
    archive.extend(content);
    pad(archive);
}

fn pad(archive: &mut Vec<u8>) {
    archive.resize(archive.len().next_multiple_of(4), 0);
}

/// The paths in what `ldd` prints.
fn libraries(listing: &str) -> Vec<String> {
    let paths = listing.lines().filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')));
    paths.map(str::to_owned).collect()
}

/// A kernel with its modules, installed or unpacked somewhere.
pub(super) struct Kernel {
    pub(super) image: PathBuf,
    modules: BTreeMap<String, PathBuf>,
}

impl Kernel {
    /// The newest kernel below `root` (`/`, or where a package was unpacked) that has Soft-RoCE.
    pub(super) fn below(root: &Path) -> Option<Self> {
        let mut versions: Vec<_> = fs::read_dir(root.join("lib/modules")).ok()?.flatten().collect();
        versions.sort_by_key(fs::DirEntry::file_name);
        versions.into_iter().rev().find_map(|version| {
            let image = root.join("boot").join(format!("vmlinuz-{}", version.file_name().to_string_lossy()));
            let mut modules = BTreeMap::new();
            collect_modules(&version.path().join("kernel"), &mut modules);
            (image.is_file() && modules.contains_key("rdma_rxe")).then_some(Self { image, modules })
        })
    }

    /// Puts modules, and those they need, into the image; returns their paths there in the order to load them.
    pub(super) fn add_modules(&self, wanted: &[&str], image: &mut Image) -> Result<Vec<String>> {
        let mut order = Vec::new();
        let mut seen = BTreeSet::new();
        for name in wanted {
            self.add_module(name, image, &mut seen, &mut order)?;
        }
        Ok(order)
    }

    /// BOUND: each module is visited once.
    fn add_module(
        &self,
        name: &str,
        image: &mut Image,
        seen: &mut BTreeSet<String>,
        order: &mut Vec<String>,
    ) -> Result<()> {
        if !seen.insert(name.to_owned()) {
            return Ok(());
        }
        // Not there: built into the kernel.
        let Some(file) = self.modules.get(name) else { return Ok(()) };
        let content = fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
        ensure!(content.starts_with(b"\x7fELF"), "{} is compressed, which this cannot read", file.display());
        for needed in needs(&content) {
            self.add_module(&needed, image, seen, order)?;
        }
        let path = format!("/modules/{name}.ko");
        image.add(&path, content);
        order.push(path);
        Ok(())
    }
}

fn collect_modules(folder: &Path, modules: &mut BTreeMap<String, PathBuf>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            collect_modules(&path, modules);
        } else if let Some((name, _)) = entry.file_name().to_string_lossy().split_once(".ko") {
            modules.insert(name.replace('-', "_"), path);
        }
    }
}

/// The modules that one says it depends on, in the `depends=` entry of its information section.
fn needs(module: &[u8]) -> Vec<String> {
    const ENTRY: &[u8] = b"\0depends=";
    let Some(start) = module.windows(ENTRY.len()).position(|window| window == ENTRY) else { return Vec::new() };
    let list = module[start + ENTRY.len()..].split(|byte| *byte == 0).next().unwrap_or_default();
    let names = String::from_utf8_lossy(list).replace('-', "_");
    names.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_come_before_the_files_in_them() {
        let mut image = Image::default();
        image.add("/lib/x/y", b"abc".to_vec());
        image.add("/init", Vec::new());
        let paths: Vec<_> = image.0.keys().map(String::as_str).collect();
        assert_eq!(paths, ["init", "lib", "lib/x", "lib/x/y"]);
    }

    #[test]
    fn archive_members_are_padded_and_the_trailer_ends_them() {
        let mut image = Image::default();
        image.add("a", b"hello".to_vec());
        let archive = image.to_cpio();
        assert_eq!(archive.len() % 4, 0);
        assert_eq!(&archive[..14], b"07070100000000");
        assert_eq!(&archive[54..62], b"00000005", "the length of the content");
        assert_eq!(&archive[110..117], b"a\0hello");
        assert!(String::from_utf8_lossy(&archive).contains("TRAILER!!!\0"));
    }

    #[test]
    fn libraries_are_the_paths_of_the_listing() {
        let listing = "\tlinux-vdso.so.1 (0x1)\n\tlibc.so.6 => /lib/libc.so.6 (0x2)\n\t/lib64/ld.so.2 (0x3)\n";
        assert_eq!(libraries(listing), ["/lib/libc.so.6", "/lib64/ld.so.2"]);
    }

    #[test]
    fn needs_of_a_module_are_read_from_its_information() {
        assert_eq!(needs(b"\x7fELF..\0depends=ib-core,udp_tunnel\0x"), ["ib_core", "udp_tunnel"]);
        assert_eq!(needs(b"\x7fELF..\0depends=\0x"), Vec::<String>::new());
        assert_eq!(needs(b"\x7fELF"), Vec::<String>::new());
    }
}
