//! Unmodified clients of other people: QEMU's iSCSI driver (libiscsi) puts a real file system onto a volume and reads it back
//! through a takeover and a giveback. Its own reconnection must be enough; nothing here tells it anything.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use understudy::config::NodeName;
use understudy::harness::volume_name;
use understudy_drill::stage::plan;
use understudy_drill::{Stage, play, tools};

/// Several times what a test takes on a busy machine.
const LIMIT: Duration = Duration::from_secs(120);

/// Seconds any one run of a tool may take.
const TOOL_SECONDS: u32 = 60;

/// Size of the image: that of a volume.
const IMAGE_BYTES: u64 = 32 << 20;

/// What the node's own pace of a slowed transfer is: the whole image takes a quarter of a minute, several times a takeover and a
/// giveback together.
const SLOW_BYTES_A_SECOND: &str = "2M";

const PROGRAMS: [&str; 4] = ["qemu-img", "mkfs.ext4", "e2fsck", "timeout"];

/// Whether the tools are there, QEMU's iSCSI driver among them; one line if not.
fn tools_present() -> bool {
    let packages = "qemu-utils qemu-block-extra e2fsprogs coreutils";
    if !tools::present(&PROGRAMS, packages) {
        return false;
    }
    let help = tools::run("qemu-img", TOOL_SECONDS, &["--help"]).expect("qemu-img --help");
    let has_driver = String::from_utf8_lossy(&help.stdout).split_whitespace().any(|word| word == "iscsi");
    if !has_driver {
        eprintln!("SKIPPED: qemu-img has no iSCSI driver (Debian: {packages})");
    }
    has_driver
}

/// Bytes without a pattern, the same for the same seed (xorshift64*).
fn noise(seed: u64, bytes: usize) -> Vec<u8> {
    let mut state = seed | 1;
    let mut next = || {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        state.wrapping_mul(0x2545_f491_4f6c_dd1d)
    };
    (0..bytes.div_ceil(8)).flat_map(|_| next().to_le_bytes()).take(bytes).collect()
}

/// An ext4 image full of files: many small ones and some large.
fn make_image(folder: &Path) -> anyhow::Result<PathBuf> {
    let tree = folder.join("tree");
    for group in 0..8 {
        let group_folder = tree.join(format!("group-{group}"));
        std::fs::create_dir_all(&group_folder)?;
        for number in 0..40_usize {
            let bytes = noise(group * 1000 + number as u64, number * 700 + 1);
            std::fs::write(group_folder.join(format!("small-{number}")), bytes)?;
        }
        std::fs::write(group_folder.join("large"), noise(group + 77, 1 << 20))?;
    }
    let image = folder.join("image.raw");
    File::create(&image)?.set_len(IMAGE_BYTES)?;
    let (tree, file) = (tree.display().to_string(), image.display().to_string());
    tools::succeed("mkfs.ext4", TOOL_SECONDS, &["-q", "-F", "-E", "root_owner=0:0", "-d", &tree, &file])?;
    check_file_system(&image)?;
    Ok(image)
}

fn check_file_system(image: &Path) -> anyhow::Result<()> {
    tools::succeed("e2fsck", TOOL_SECONDS, &["-f", "-n", &image.display().to_string()]).map(drop)
}

/// The first volume of node a as libiscsi writes it.
fn url_of(stage: &Stage) -> anyhow::Result<String> {
    let address = stage.address_of(&volume_name(NodeName::A, 0), NodeName::A)?;
    Ok(format!("iscsi://{}/{}/{}", address.portal, address.target, address.lun))
}

fn write_to_volume(image: &Path, url: &str) -> anyhow::Result<()> {
    let image = image.display().to_string();
    tools::succeed("qemu-img", TOOL_SECONDS, &["convert", "-n", "-f", "raw", "-O", "raw", &image, url]).map(drop)
}

/// Reads the volume back and demands that it is the image, byte for byte, and a clean file system.
fn demand_on_volume(image: &Path, url: &str, when: &str) -> anyhow::Result<()> {
    let back = image.with_extension("back");
    let target = back.display().to_string();
    tools::succeed("qemu-img", TOOL_SECONDS, &["convert", "-f", "raw", "-O", "raw", url, &target])?;
    let (sent, found) = (std::fs::read(image)?, std::fs::read(&back)?);
    ensure!(found.len() >= sent.len(), "the volume is smaller than the image {when}");
    if let Some(place) = sent.iter().zip(&found).position(|(sent, found)| sent != found) {
        bail!("byte {place} of the volume is not that of the image {when}");
    }
    check_file_system(&back).with_context(|| when.to_owned())
}

/// The completed commands of clients of node a's identity at the node that serves them.
fn commands_at(stage: &Stage, node: NodeName) -> u64 {
    let Ok(status) = stage.pair.status(node) else { return 0 };
    status.portals.iter().filter(|portal| portal.identity == NodeName::A).map(|portal| portal.commands).sum()
}

/// A transfer at a slow pace, to have something happen meanwhile.
fn slow_transfer(folder: &Path, from: &str, to: &str) -> anyhow::Result<Child> {
    let log = File::create(folder.join("transfer.log"))?;
    let mut command = tools::bounded(&tools::find("qemu-img").context("qemu-img")?, TOOL_SECONDS)?;
    command.args(["convert", "-n", "-m", "2", "-r", SLOW_BYTES_A_SECOND, "-f", "raw", "-O", "raw", from, to]);
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn().context("cannot start qemu-img")
}

/// Ends the transfer when the test does.
struct Transfer {
    child: Child,
    log: PathBuf,
}

impl Drop for Transfer {
    fn drop(&mut self) {
        // Both fail only if it has ended already. `timeout` passes SIGTERM on to the program it runs.
        let _ =
            rustix::process::kill_process(rustix::process::Pid::from_child(&self.child), rustix::process::Signal::TERM);
        drop(self.child.wait());
    }
}

impl Transfer {
    fn demand_running(&mut self, when: &str) -> anyhow::Result<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => bail!("qemu-img ended {when} ({status}): {}", std::fs::read_to_string(&self.log)?),
        }
    }

    fn finish(mut self) -> anyhow::Result<()> {
        let status = self.child.wait()?;
        let log = std::fs::read_to_string(&self.log)?;
        ensure!(status.success(), "qemu-img ended with {status}: {log}");
        Ok(())
    }
}

/// Runs a transfer while node a is lost and comes home again, and demands that it ran on all the way.
fn transfer_across(stage: &mut Stage, folder: &Path, from: &str, to: &str) -> anyhow::Result<()> {
    let child = slow_transfer(folder, from, to)?;
    let mut transfer = Transfer { child, log: folder.join("transfer.log") };
    let moves_on = |stage: &mut Stage, node: NodeName, when: &str| {
        let before = commands_at(stage, node);
        stage.wait_for(when, |stage| commands_at(stage, node) > before + 4)
    };
    moves_on(stage, NodeName::A, "the transfer has begun")?;
    stage.lose(NodeName::A)?;
    moves_on(stage, NodeName::B, "the transfer goes on at b")?;
    transfer.demand_running("before the giveback")?;
    stage.pair.start(NodeName::A)?;
    stage.wait_until_home()?;
    moves_on(stage, NodeName::A, "the transfer goes on at a")?;
    transfer.demand_running("right after the giveback")?;
    transfer.finish()
}

#[test]
fn an_ext4_image_is_identical_and_clean_after_a_takeover_and_after_the_giveback() {
    if !tools_present() {
        return;
    }
    play(LIMIT, |folder| {
        let image = make_image(folder)?;
        let pair_folder = folder.join("pair");
        std::fs::create_dir(&pair_folder)?;
        let mut stage = Stage::set_up(plan(env!("CARGO_BIN_EXE_understudy-drilled"), &pair_folder))?;
        let url = url_of(&stage)?;
        write_to_volume(&image, &url)?;
        demand_on_volume(&image, &url, "before anything happened")?;
        stage.lose(NodeName::A)?;
        demand_on_volume(&image, &url, "after the takeover")?;
        stage.pair.start(NodeName::A)?;
        stage.wait_until_home()?;
        demand_on_volume(&image, &url, "after the giveback")
    });
}

#[test]
fn qemu_img_writes_on_across_a_takeover_and_a_giveback() {
    if !tools_present() {
        return;
    }
    play(LIMIT, |folder| {
        let image = make_image(folder)?;
        let pair_folder = folder.join("pair");
        std::fs::create_dir(&pair_folder)?;
        let mut stage = Stage::set_up(plan(env!("CARGO_BIN_EXE_understudy-drilled"), &pair_folder))?;
        let url = url_of(&stage)?;
        transfer_across(&mut stage, folder, &image.display().to_string(), &url)?;
        demand_on_volume(&image, &url, "after a transfer across both")
    });
}

#[test]
fn qemu_img_reads_on_across_a_takeover_and_a_giveback() {
    if !tools_present() {
        return;
    }
    play(LIMIT, |folder| {
        let image = make_image(folder)?;
        let pair_folder = folder.join("pair");
        std::fs::create_dir(&pair_folder)?;
        let mut stage = Stage::set_up(plan(env!("CARGO_BIN_EXE_understudy-drilled"), &pair_folder))?;
        let url = url_of(&stage)?;
        write_to_volume(&image, &url)?;
        let read = folder.join("read.raw");
        File::create(&read)?.flush()?;
        File::options().write(true).open(&read)?.set_len(IMAGE_BYTES)?;
        transfer_across(&mut stage, folder, &url, &read.display().to_string())?;
        ensure!(std::fs::read(&image)? == std::fs::read(&read)?, "what was read across both is not the image");
        check_file_system(&read)
    });
}
