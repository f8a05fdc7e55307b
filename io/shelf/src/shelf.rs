//! A folder of disks behind one portal and one target.
//!
//! For each disk `NAME` the folder holds `NAME.disk` (the blocks, sparse), `NAME.label` (identity and geometry) and,
//! once there is any, `NAME.state` (reservations that survive a loss of power). `shelf.lock` is locked as long as a
//! shelf uses the folder, and the system unlocks it when the process ends in whatever way.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use thiserror::Error;
use understudy_device::medium::{Geometry, Medium};
use understudy_device::{OpenError, Target, UnitIdentity, UnitOnMedium, UnitOptions};
use understudy_portal::access::Access;
use understudy_portal::{LoginGate, Portal, PortalError, PortalOptions};

use crate::file::FileMedium;
use crate::label::Label;

/// LUNs that one target serves here: the range of LUN addresses both address methods can tell apart easily (SAM-5 r21
/// §4.7.7.3 allows more; nobody needs them on one shelf).
const DISKS_MAX: usize = 256;

/// Product name the disks report in INQUIRY.
const PRODUCT: &str = "SHELF DISK";

/// A shelf: which disks, where they are kept and where they are served.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShelfConfig {
    /// Where the disks' files are kept; made if missing.
    pub folder: PathBuf,
    /// Where to listen; port 0 takes any free one.
    pub listen: SocketAddr,
    /// The iSCSI name of the target that has all disks.
    pub target: String,
    /// The disks; a disk's place in the list, from 0, is its LUN.
    pub disks: Vec<ShelfDisk>,
    /// Who may log in, with which proof; secrets have no text form, so it is not part of this one's.
    #[serde(skip)]
    pub access: Arc<Access>,
}

/// One disk of a shelf.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShelfDisk {
    /// Letters, digits, `-`, `_` and `.`: it becomes a file name.
    pub name: String,
    /// Size in bytes, a multiple of the block size.
    pub bytes: u64,
    /// Bytes of a logical block: 512 or 4096.
    pub block_bytes: u32,
}

/// Why a shelf does not start.
#[derive(Debug, Error)]
pub enum ShelfError {
    /// A file or the folder could not be used.
    #[error("cannot use {}: {source}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// Another shelf serves this folder.
    #[error("the folder {} is in use by another shelf{}: stop that one, or choose another folder", folder.display(),
        holder.map_or_else(String::new, |id| format!(" (process {id})")))]
    InUse {
        /// The folder.
        folder: PathBuf,
        /// The other shelf's process, if it said so.
        holder: Option<u32>,
    },
    /// The configuration cannot be served.
    #[error("{0}")]
    Config(String),
    /// A disk's file does not fit its configuration.
    #[error("disk {disk}: {text}")]
    Disk {
        /// The disk's name.
        disk: String,
        /// What is wrong and what to do.
        text: String,
    },
    /// The reservations kept for a disk are unreadable, and serving it without them could let a fenced initiator write.
    #[error("disk {disk}: its kept reservations ({}) cannot be read ({source}); restore the file, or remove it if no \
             initiator relies on them", path.display())]
    Kept {
        /// The disk's name.
        disk: String,
        /// The file.
        path: PathBuf,
        /// Why not.
        source: OpenError,
    },
    /// The portal does not open.
    #[error(transparent)]
    Portal(#[from] PortalError),
}

/// A running shelf. Dropping it without [`Shelf::stop`] leaves the sessions to end with their runtime.
pub struct Shelf {
    portal: Portal,
    target: Rc<Target>,
    media: Vec<Rc<FileMedium>>,
    _lock: File,
}

impl Shelf {
    /// Locks the folder, makes the disks that are missing, and serves. Must be called inside a `LocalSet`.
    ///
    /// # Errors
    /// [`ShelfError`]; nothing is served then, and no existing file was changed.
    pub async fn start(config: ShelfConfig) -> Result<Self, ShelfError> {
        Self::start_wrapped(config, |_, medium| medium).await
    }

    /// As [`Shelf::start`], with `wrap` (LUN, medium) putting something in front of each disk's medium: for tests and
    /// measurements, such as a [`crate::delay::DelayedMedium`].
    ///
    /// # Errors
    /// As [`Shelf::start`].
    pub async fn start_wrapped(
        config: ShelfConfig,
        mut wrap: impl FnMut(u16, Rc<dyn Medium>) -> Rc<dyn Medium>,
    ) -> Result<Self, ShelfError> {
        check(&config)?;
        fs::create_dir_all(&config.folder).map_err(file_trouble(&config.folder))?;
        let lock = lock(&config.folder)?;
        let target = Target::new(config.target.as_str());
        let mut media = Vec::with_capacity(config.disks.len());
        for (lun, disk) in (0..).zip(&config.disks) {
            let opened = Opened::open(&config.folder, disk)?;
            media.push(opened.medium.clone());
            let unit = opened.unit(disk, wrap(lun, opened.medium.clone()))?;
            target.add(lun, unit).map_err(|error| ShelfError::Config(error.to_string()))?;
        }
        let portal = Portal::bind(config.listen, PortalOptions { access: config.access, ..PortalOptions::default() })?;
        portal.add_target(target.clone(), LoginGate::opened());
        Ok(Self { portal, target, media, _lock: lock })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.portal.address()
    }

    /// The target with all disks.
    #[must_use]
    pub fn target(&self) -> &Rc<Target> {
        &self.target
    }

    /// The portal: counters, dropping sessions.
    #[must_use]
    pub fn portal(&self) -> &Portal {
        &self.portal
    }

    /// Closes the portal and all sessions, waits for what is at the disks, and makes it durable.
    pub async fn stop(self) {
        self.portal.close().await;
        self.target.hold_and_drain().await;
        for medium in &self.media {
            if let Err(error) = medium.flush().await {
                tracing::error!(%error, "a disk could not be flushed at the shelf's end");
            }
        }
    }
}

/// A disk whose files are open.
struct Opened {
    medium: Rc<FileMedium>,
    uuid: [u8; 16],
    state: PathBuf,
}

impl Opened {
    fn open(folder: &Path, disk: &ShelfDisk) -> Result<Self, ShelfError> {
        let path = |suffix: &str| folder.join(format!("{}.{suffix}", disk.name));
        let (blocks, label, state) = (path("disk"), path("label"), path("state"));
        let label = find_or_make_label(&label, &blocks, disk)?;
        let geometry = Geometry { block_bytes: disk.block_bytes, blocks: disk.bytes / u64::from(disk.block_bytes) };
        let medium = FileMedium::open(&disk.name, &blocks, &state, geometry).map_err(file_trouble(&blocks))?;
        let uuid = label.uuid().expect("labels are checked when they are read");
        Ok(Self { medium: Rc::new(medium), uuid, state })
    }

    fn unit(&self, disk: &ShelfDisk, medium: Rc<dyn Medium>) -> Result<Rc<UnitOnMedium>, ShelfError> {
        let kept = self.medium.kept_state().map_err(file_trouble(&self.state))?;
        let identity = UnitIdentity { uuid: self.uuid, product: PRODUCT.into() };
        UnitOnMedium::new(UnitOptions::new(identity), medium, kept.as_deref()).map_err(|source| ShelfError::Kept {
            disk: disk.name.clone(),
            path: self.state.clone(),
            source,
        })
    }
}

/// The label of an existing disk, checked against its configuration, or that of a new one.
fn find_or_make_label(path: &Path, blocks: &Path, disk: &ShelfDisk) -> Result<Label, ShelfError> {
    let trouble = |text: String| ShelfError::Disk { disk: disk.name.clone(), text };
    let found = Label::read(path).map_err(|why| trouble(format!("{} is damaged: {why}", path.display())))?;
    if let Some(label) = found {
        if (label.bytes, label.block_bytes) != (disk.bytes, disk.block_bytes) {
            return Err(trouble(format!(
                "it was made with {} bytes in blocks of {}, and is configured with {} bytes in blocks of {}; configure \
                 it as it is, or remove its files to lose it",
                label.bytes, label.block_bytes, disk.bytes, disk.block_bytes
            )));
        }
        return Ok(label);
    }
    if blocks.metadata().is_ok_and(|found| found.len() > 0) {
        return Err(trouble(format!(
            "{} exists without its label {}; move it away if it is not a shelf's disk",
            blocks.display(),
            path.display()
        )));
    }
    let mut uuid = [0; 16];
    getrandom::fill(&mut uuid).map_err(|error| trouble(format!("no random identity: {error}")))?;
    let label = Label::new(uuid, disk.bytes, disk.block_bytes);
    label.write(path).map_err(file_trouble(path))?;
    Ok(label)
}

fn file_trouble(path: &Path) -> impl FnOnce(io::Error) -> ShelfError {
    move |source| ShelfError::File { path: path.to_owned(), source }
}

/// Locks the folder for this process and leaves its number there for the next one's message.
fn lock(folder: &Path) -> Result<File, ShelfError> {
    let path = folder.join("shelf.lock");
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .map_err(file_trouble(&path))?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {
            // Only for the message of a second shelf, so a failure is no reason not to serve.
            let _ = file.set_len(0);
            let _ = rustix::io::pwrite(&file, std::process::id().to_string().as_bytes(), 0);
            Ok(file)
        }
        Err(rustix::io::Errno::WOULDBLOCK) => {
            let holder = fs::read_to_string(&path).ok().and_then(|text| text.trim().parse().ok());
            Err(ShelfError::InUse { folder: folder.to_owned(), holder })
        }
        Err(error) => Err(ShelfError::File { path, source: error.into() }),
    }
}

/// Everything that can be known to be wrong before a file is touched.
fn check(config: &ShelfConfig) -> Result<(), ShelfError> {
    let mut names = BTreeSet::new();
    if config.disks.is_empty() {
        return Err(ShelfError::Config("a shelf needs at least one disk".into()));
    }
    if config.disks.len() > DISKS_MAX {
        let count = config.disks.len();
        return Err(ShelfError::Config(format!("a shelf has at most {DISKS_MAX} disks, and {count} are configured")));
    }
    if !is_iscsi_name(&config.target) {
        return Err(ShelfError::Config(format!(
            "\"{}\" is no iSCSI name: expected iqn.YYYY-MM.reversed.domain:anything, in lower case",
            config.target
        )));
    }
    for disk in &config.disks {
        check_disk(disk)?;
        if !names.insert(&disk.name) {
            return Err(ShelfError::Config(format!("two disks are called \"{}\"", disk.name)));
        }
    }
    Ok(())
}

fn check_disk(disk: &ShelfDisk) -> Result<(), ShelfError> {
    let trouble = |text: String| Err(ShelfError::Disk { disk: disk.name.clone(), text });
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    if disk.name.is_empty() || disk.name.len() > 64 || disk.name.starts_with('.') || !disk.name.bytes().all(fits) {
        return trouble("a disk's name is 1 to 64 letters, digits, '-', '_' or '.', not beginning with '.'".into());
    }
    if ![512, 4096].contains(&disk.block_bytes) {
        return trouble(format!("blocks of {} bytes: expected 512 or 4096", disk.block_bytes));
    }
    if disk.bytes == 0 || !disk.bytes.is_multiple_of(disk.block_bytes.into()) || i64::try_from(disk.bytes).is_err() {
        return trouble(format!("{} bytes: expected a multiple of the block size, not 0", disk.bytes));
    }
    Ok(())
}

/// RFC 7143 §4.2.7.2: `iqn.` or `eui.` or `naa.`, at most 223 bytes, of lower-case letters, digits, '-', '.' and ':'.
fn is_iscsi_name(name: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-.:".contains(&byte);
    let known = ["iqn.", "eui.", "naa."].iter().any(|kind| name.len() > kind.len() && name.starts_with(kind));
    known && name.len() <= 223 && name.bytes().all(fits)
}
