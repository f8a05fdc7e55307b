//! Text keys of login and text PDUs (RFC 7143 §6).
//!
//! Properties: what is parsed encodes to a text that parses to the same; nothing is invented (no more keys than
//! separators, no longer than the text); numbers and booleans read back as written.

use understudy_iscsi::text::{self, KeyList};

/// Parses the bytes as a whole text.
pub fn run(bytes: &[u8]) {
    let Ok(keys) = KeyList::parse(bytes) else { return };
    let again = keys.encode();
    assert_eq!(KeyList::parse(&again).as_ref(), Ok(&keys));
    assert!(again.len() <= bytes.len() + 1, "only the last NUL may be missing");
    let mut pushed = KeyList::new();
    for (key, value) in keys.iter() {
        assert!(keys.get(key).is_some());
        // What was parsed may be echoed: a key list of our own takes every key and value of a peer's.
        pushed.push(key, value);
        if let Some(number) = text::parse_number(value) {
            assert_eq!(text::parse_number(&number.to_string()), Some(number));
        }
        if let Some(truth) = text::parse_boolean(value) {
            assert_eq!(text::boolean(truth), value);
        }
    }
    assert_eq!(pushed, keys);
}

/// A login's text and a discovery's.
#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    vec![
        b"InitiatorName=iqn.2026-01.test:c\0SessionType=Normal\0TargetName=iqn.2026-01.test:t\0HeaderDigest=CRC32C,None\0MaxRecvDataSegmentLength=0x40000\0InitialR2T=No\0ImmediateData=Yes\0".to_vec(),
        b"TargetName=iqn.2026-01.test:t\0TargetAddress=[::1]:3260,1\0X-vendor=\0".to_vec(),
    ]
}
