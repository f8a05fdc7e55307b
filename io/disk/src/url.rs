//! `iscsi://host:port/target/lun`, the form libiscsi and QEMU use.
//!
//! Not here: user names and passwords in URLs, which end up in logs; they are refused. The one idea: what parses
//! prints back the same.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

use crate::session::Place;

/// Registered port of iSCSI, RFC 7143 §14 (IANA: iscsi-target).
const DEFAULT_PORT: u16 = 3260;

/// Where a logical unit is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LunUrl {
    /// Portal and target.
    pub place: Place,
    /// Logical unit number, 0 to 16383.
    pub lun: u16,
}

/// Why a text is not such a URL.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("`{text}` is not a disk address: {reason}; expected iscsi://host:port/target-name/lun")]
pub struct UrlError {
    text: String,
    reason: &'static str,
}

impl FromStr for LunUrl {
    type Err = UrlError;

    fn from_str(text: &str) -> Result<Self, UrlError> {
        let refuse = |reason| UrlError { text: text.to_owned(), reason };
        let rest = text.strip_prefix("iscsi://").ok_or_else(|| refuse("it does not start with iscsi://"))?;
        let mut parts = rest.split('/');
        let (authority, target, lun) = match (parts.next(), parts.next(), parts.next(), parts.next()) {
            (Some(authority), Some(target), Some(lun), None) => (authority, target, lun),
            _other_count => return Err(refuse("it must have exactly a portal, a target and a unit number")),
        };
        if authority.contains('@') {
            return Err(refuse("it holds credentials"));
        }
        if target.is_empty() || target.len() > 223 || target.contains(|c: char| c.is_whitespace() || c.is_control()) {
            return Err(refuse("the target name is empty, longer than 223 bytes or holds blanks"));
        }
        let portal = portal(authority).ok_or_else(|| refuse("the portal is not host:port"))?;
        let lun = lun.parse().ok().filter(|lun| *lun <= understudy_scsi::luns::HIGHEST_LUN);
        let lun = lun.ok_or_else(|| refuse("the unit number is not between 0 and 16383"))?;
        Ok(Self { place: Place { portal, target: target.to_owned() }, lun })
    }
}

/// `host`, `host:port`, `[v6]` or `[v6]:port` as `host:port`.
fn portal(authority: &str) -> Option<String> {
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, port.parse::<u16>().ok().filter(|port| *port != 0)?),
        Some(_) | None => (authority, DEFAULT_PORT),
    };
    let is_v6 = host.starts_with('[') && host.ends_with(']');
    let is_plain = !host.contains(['[', ']', ':']);
    (!host.is_empty() && host != "[]" && (is_v6 || is_plain)).then(|| format!("{host}:{port}"))
}

impl fmt::Display for LunUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "iscsi://{}/{}/{}", self.place.portal, self.place.target, self.lun)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_parses_prints_back() {
        for text in ["iscsi://127.0.0.1:3261/iqn.2026-01.example:a/0", "iscsi://[::1]:7/iqn.x:b/16383"] {
            assert_eq!(text.parse::<LunUrl>().expect("sound").to_string(), text);
        }
    }

    #[test]
    fn a_missing_port_is_the_registered_one() {
        let url: LunUrl = "iscsi://disk.example/iqn.x/3".parse().expect("sound");
        assert_eq!(url.place.portal, "disk.example:3260");
        let url: LunUrl = "iscsi://[fe80::1]/iqn.x/3".parse().expect("sound");
        assert_eq!(url.place.portal, "[fe80::1]:3260");
    }

    #[test]
    fn what_is_no_disk_address_is_refused() {
        for text in [
            "",
            "http://h:1/t/0",
            "iscsi://h:1/t",
            "iscsi://h:1/t/0/1",
            "iscsi://h:1//0",
            "iscsi://h:1/t/x",
            "iscsi://h:1/t/16384",
            "iscsi://h:0/t/0",
            "iscsi://h:99999/t/0",
            "iscsi://:1/t/0",
            "iscsi://a:b:1/t/0",
            "iscsi://[]:1/t/0",
            "iscsi://user%pw@h:1/t/0",
            "iscsi://h:1/a b/0",
        ] {
            assert!(text.parse::<LunUrl>().is_err(), "{text} was taken");
        }
    }
}
