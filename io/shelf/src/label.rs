//! Small files beside the blocks: who a disk is, and the state its logical unit keeps. Each is replaced whole.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};

/// What makes a disk the same disk after a restart.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Label {
    /// Grows when this file's meaning changes.
    pub(crate) format: u32,
    /// 32 hexadecimal digits, drawn when the disk was made; initiators know the disk by it.
    pub(crate) uuid: String,
    /// Bytes of the disk.
    pub(crate) bytes: u64,
    /// Bytes of a logical block.
    pub(crate) block_bytes: u32,
}

/// The only format so far.
const FORMAT: u32 = 1;

impl Label {
    /// The label of a new disk.
    pub(crate) fn new(uuid: [u8; 16], bytes: u64, block_bytes: u32) -> Self {
        Self { format: FORMAT, uuid: uuid.iter().map(|byte| format!("{byte:02x}")).collect(), bytes, block_bytes }
    }

    /// The uuid's bytes; `None` if the text is not 32 hexadecimal digits.
    pub(crate) fn uuid(&self) -> Option<[u8; 16]> {
        let digits = self.uuid.as_bytes();
        if digits.len() != 32 || !digits.iter().all(u8::is_ascii_hexdigit) {
            return None;
        }
        let number = u128::from_str_radix(&self.uuid, 16).ok()?;
        Some(number.to_be_bytes())
    }

    /// Reads a label; `Ok(None)` if there is none.
    pub(crate) fn read(path: &Path) -> Result<Option<Self>, String> {
        let Some(bytes) = read_whole(path).map_err(|error| error.to_string())? else { return Ok(None) };
        let text = String::from_utf8(bytes).map_err(|error| error.to_string())?;
        let label: Self = toml::from_str(&text).map_err(|error| error.message().to_owned())?;
        if label.format != FORMAT {
            return Err(format!("format {} is newer than this program's", label.format));
        }
        if label.uuid().is_none() {
            return Err("its uuid is not 32 hexadecimal digits".into());
        }
        Ok(Some(label))
    }

    /// Writes it durably.
    pub(crate) fn write(&self, path: &Path) -> io::Result<()> {
        let text = toml::to_string(self).map_err(io::Error::other)?;
        replace(path, text.as_bytes())
    }
}

/// The whole file, or `None` if there is none.
pub(crate) fn read_whole(path: &Path) -> io::Result<Option<Vec<u8>>> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Replaces `path` so that a loss of power leaves the old or the new content, and the new one once this returned.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut fresh = path.as_os_str().to_owned();
    fresh.push(".new");
    let fresh = Path::new(&fresh);
    let mut file = File::create(fresh)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(fresh, path)?;
    // The name is only durable once the folder is.
    File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_is_read_back() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("d.label");
        let label = Label::new([0xab; 16], 4096, 512);
        assert_eq!(Label::read(&path), Ok(None));
        label.write(&path).expect("written");
        assert_eq!(Label::read(&path), Ok(Some(label.clone())));
        assert_eq!(label.uuid(), Some([0xab; 16]));
    }

    #[test]
    fn damaged_labels_are_refused_with_a_reason() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("d.label");
        let good = toml::to_string(&Label::new([1; 16], 4096, 512)).expect("text");
        for bad in [
            String::new(),
            "\u{0}".into(),
            good.replace("format = 1", "format = 2"),
            good.replace("uuid = \"01", "uuid = \"+1"),
            good.replace("uuid = \"0", "uuid = \""),
            good.replace("bytes = 4096", "bytes = -1"),
        ] {
            fs::write(&path, &bad).expect("written");
            assert!(Label::read(&path).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_replaced_file_has_the_new_content_and_leaves_nothing_behind() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("state");
        replace(&path, b"old, and longer").expect("written");
        replace(&path, b"new").expect("written");
        assert_eq!(read_whole(&path).expect("read").as_deref(), Some(&b"new"[..]));
        assert_eq!(fs::read_dir(folder.path()).expect("the folder").count(), 1);
    }
}
