//! The file that describes a pair.
//!
//! Properties: a file is accepted or every mistake found in it has a message and a place inside the file that starts and
//! ends at whole characters, so that it can be shown with its line; showing them always works; what is accepted names
//! only disks and pools that are there.

use std::collections::BTreeSet;
use std::path::Path;

use understudy::config::{Config, ConfigError, Look};

/// Reads the bytes as a pair's file, if they are text.
pub fn run(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    match Config::parse(Path::new("/etc/understudy/pair.toml"), text) {
        Ok(config) => {
            let names: BTreeSet<&str> = config.pools.iter().map(|pool| pool.name.as_str()).collect();
            assert_eq!(names.len(), config.pools.len(), "two pools of one name");
            assert!(names.iter().all(|name| config.pool(name).is_some()));
            assert!(matches!(config.lock_disks.len(), 1 | 3));
        }
        Err(error) => {
            let shown = error.render(Look::Plain);
            let ConfigError::Mistaken { mistakes, .. } = &error else { panic!("nothing was read from a disk") };
            assert!(!mistakes.is_empty() && shown.contains("mistake"));
            for mistake in mistakes {
                assert!(!mistake.message.is_empty());
                assert!(text.get(mistake.span.clone()).is_some(), "{mistake:?} points at no text");
            }
        }
    }
}

/// The annotated example, the same with an initiator, and a short file with mistakes.
#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    let example = include_str!("../../../docs/pair.example.toml");
    let mistaken = "[pair]\nname = \"x\"\nid = 7\n[node.a]\nportals = [1]\n[[disk]]\nname = \"d\"\nurl = \"iscsi://h/t/0\"\n[[pool]]\nmirrors = [[\"d\", \"e\"]]\n";
    // Without its comments the example is short enough to be changed everywhere.
    let code: String =
        example.lines().filter(|line| !line.starts_with('#') && !line.is_empty()).map(|line| format!("{line}\n")).collect();
    let initiator = format!("{code}[[initiator]]\nname = \"iqn.2026-01.test:c\"\nnodes = [\"a\"]\nuser = \"u\"\nsecret = \"9f3c54d0b7a8e621\"\nown_secret = \"27d1e60b93f8a4c5\"\n");
    let volume = format!("{initiator}[[volume]]\nname = \"v\"\ninitiators = [\"iqn.2026-01.test:c\"]\n");
    vec![code.into_bytes(), mistaken.as_bytes().to_vec(), initiator.into_bytes(), volume.into_bytes()]
}
