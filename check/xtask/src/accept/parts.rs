//! What the guests are made of, looked for on this machine: a kernel, a shell, libfabric with its providers, our program.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};

use crate::accept::image::{Image, Kernel};
use crate::programs::{cargo, succeed};
use crate::workspace;

/// What the guests' kernel must bring besides what it has built in; what these need comes along.
const MODULES: [&str; 5] = ["virtio_pci", "virtio_net", "crc32_generic", "rdma_rxe", "rdma_ucm"];

/// The first process of a guest. `node` comes from the kernel's command line.
const INIT: &str = r#"#!/bin/busybox sh
export PATH=/bin
/bin/busybox mkdir -p /proc /sys /dev /tmp /run
/bin/busybox --install -s /bin
mount -t proc proc /proc; mount -t sysfs sysfs /sys; mount -t devtmpfs devtmpfs /dev
stty -echo
while read -r module; do insmod "$module" || echo "no module $module"; done < /modules/order
ip link set lo up; ip addr add "10.77.0.$node/24" dev eth0; ip link set eth0 up
rdma link add rxe0 type rxe netdev eth0
mkfifo /words
echo "guest $node is ready"
while read -r line; do eval "$line"; done
"#;

/// Where Debian keeps programs and libraries.
const PROGRAM_FOLDERS: [&str; 4] = ["/usr/bin", "/bin", "/usr/sbin", "/sbin"];

/// Everything found.
pub(super) struct Parts {
    pub(super) kernel: Kernel,
    busybox: PathBuf,
    rdma: PathBuf,
    fabric: PathBuf,
    soft_roce: PathBuf,
}

impl Parts {
    /// Looks; `None`, with one line that names the packages, if something is missing.
    ///
    /// Kernel and busybox are downloaded and unpacked below the build folder if they are not installed: a machine
    /// seldom wants a kernel installed for this.
    pub(super) fn find() -> Result<Option<Self>> {
        let unpacked = workspace::target_folder()?.join("accept");
        fetch_absent(&unpacked);
        let kernel = kernel_below(&unpacked);
        let (busybox, rdma) = (busybox_below(&unpacked), program("rdma"));
        let fabric = library("libfabric.so.1");
        let soft_roce = library("libibverbs.so.1").as_deref().and_then(soft_roce_beside);
        let found = [
            (program("qemu-system-x86_64").is_some(), "qemu-system-x86"),
            (program("setpriv").is_some(), "util-linux"),
            (kernel.is_some(), "linux-image-amd64"),
            (busybox.is_some(), "busybox-static"),
            (rdma.is_some(), "iproute2"),
            (fabric.is_some(), "libfabric1"),
            (soft_roce.is_some(), "ibverbs-providers"),
        ];
        let missing: Vec<&str> = found.iter().filter(|(there, _)| !there).map(|(_, package)| *package).collect();
        if let (Some(kernel), Some(busybox), Some(rdma), Some(fabric), Some(soft_roce), []) =
            (kernel, busybox, rdma, fabric, soft_roce, missing.as_slice())
        {
            return Ok(Some(Self { kernel, busybox, rdma, fabric, soft_roce }));
        }
        println!("skipped: install Debian's {}", missing.join(", "));
        Ok(None)
    }

    /// The guests' file system.
    pub(super) fn image(&self) -> Result<Image> {
        succeed(&mut cargo(["build", "--quiet", "--package", "understudy-fabric", "--example", "page_peer"]))?;
        let peer = workspace::target_folder()?.join("debug/examples/page_peer");
        let mut image = Image::default();
        image.add("/init", INIT.as_bytes().to_vec());
        image.copy_with_libraries(&self.busybox, "/bin/busybox")?;
        image.copy_with_libraries(&self.rdma, "/bin/rdma")?;
        image.copy_with_libraries(&peer, "/bin/page_peer")?;
        for library in [&self.fabric, &self.soft_roce] {
            image.copy_with_libraries(library, &library.to_string_lossy())?;
        }
        image.add("/etc/libibverbs.d/rxe.driver", b"driver rxe\n".to_vec());
        let order = self.kernel.add_modules(&MODULES, &mut image)?;
        image.add("/modules/order", (order.join("\n") + "\n").into_bytes());
        Ok(image)
    }
}

fn kernel_below(unpacked: &Path) -> Option<Kernel> {
    Kernel::below(Path::new("/")).or_else(|| Kernel::below(unpacked))
}

fn busybox_below(unpacked: &Path) -> Option<PathBuf> {
    let own = unpacked.join("bin/busybox");
    program("busybox").or_else(|| own.is_file().then_some(own))
}

fn program(name: &str) -> Option<PathBuf> {
    PROGRAM_FOLDERS.iter().map(|folder| Path::new(folder).join(name)).find(|file| file.is_file())
}

/// Where the loader finds a library.
fn library(name: &str) -> Option<PathBuf> {
    let output = Command::new("/sbin/ldconfig").arg("-p").output().ok()?;
    let listing = String::from_utf8_lossy(&output.stdout).into_owned();
    let line = listing.lines().find(|line| line.trim_start().starts_with(name))?;
    line.split("=> ").nth(1).map(PathBuf::from)
}

/// libibverbs loads its drivers from a folder beside itself, by the path without symbolic links.
fn soft_roce_beside(library: &Path) -> Option<PathBuf> {
    let library = library.canonicalize().ok()?;
    let drivers = fs::read_dir(library.parent()?.join("libibverbs")).ok()?;
    drivers
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("librxe-")))
}

/// Downloads and unpacks kernel and busybox where they are absent. Without a package archive they stay absent, which
/// the caller says.
fn fetch_absent(unpacked: &Path) {
    let mut absent = Vec::new();
    if busybox_below(unpacked).is_none() {
        absent.push("busybox-static".to_owned());
    }
    if kernel_below(unpacked).is_none() {
        absent.extend(kernel_package());
    }
    for package in absent {
        println!("downloading Debian's {package} to {}", unpacked.display());
        if fetch(&package, unpacked).is_err() {
            println!("note: {package} could not be downloaded (apt-get download {package})");
        }
    }
}

/// The package with the kernel that `linux-image-amd64` stands for.
fn kernel_package() -> Option<String> {
    let output =
        Command::new("apt-cache").args(["depends", "linux-image-amd64"]).stderr(Stdio::null()).output().ok()?;
    let listing = String::from_utf8_lossy(&output.stdout).into_owned();
    listing
        .lines()
        .find_map(|line| line.trim().strip_prefix("Depends: linux-image-"))
        .map(|rest| format!("linux-image-{rest}"))
}

fn fetch(package: &str, unpacked: &Path) -> Result<()> {
    let folder = unpacked.join("archives");
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    succeed(Command::new("apt-get").args(["download", package]).current_dir(&folder))?;
    for archive in fs::read_dir(&folder)?.flatten().map(|entry| entry.path()) {
        succeed(Command::new("dpkg").arg("-x").arg(&archive).arg(unpacked))?;
        fs::remove_file(&archive)?;
    }
    Ok(())
}
