//! Addresses of disks, `iscsi://host:port/target/lun`.
//!
//! Properties: what is read prints to a text that reads the same; the unit number can be addressed; a refusal names what it
//! refuses.

use understudy_disk::url::LunUrl;

/// Reads the bytes as an address, if they are text.
pub fn run(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    // Most of what is tried gets past the first check.
    for text in [text.to_owned(), format!("iscsi://{text}")] {
        match text.parse::<LunUrl>() {
            Ok(url) => {
                assert!(url.lun <= understudy_scsi::luns::HIGHEST_LUN);
                assert!(url.place.target.len() <= 223 && url.place.portal.contains(':'));
                assert_eq!(url.to_string().parse(), Ok(url));
            }
            Err(error) => assert!(error.to_string().contains(&text)),
        }
    }
}

/// A name, an IPv4 and an IPv6 address.
#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    let texts = ["disk.example/iqn.2026-01.test:t/0", "127.0.0.1:3261/iqn.x/16383", "[fe80::1]:7/iqn.2026-01.test:t/1"];
    texts.map(|text| text.as_bytes().to_vec()).into()
}
