//! TransportIDs and port names of iSCSI (SPC-4 r37 §7.6.4.6, RFC 7143 §4.2.7).

use crate::bytes::{u8_at, u16_at};

/// An iSCSI initiator port: the initiator's name and the session's ISID. Two logins with the same pair are the same
/// port, which is what lets a registration outlive a session.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InitiatorPort {
    /// iSCSI name, at most 223 bytes (RFC 7143 §4.2.7.1).
    pub name: String,
    /// Initiator session identifier.
    pub isid: [u8; 6],
}

/// Longest iSCSI name in bytes.
pub const LONGEST_NAME: usize = 223;

/// An initiator named in a parameter list: a port, or a whole device (no ISID given).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TransportId {
    /// One port.
    Port(InitiatorPort),
    /// Every port of this name.
    Device(String),
}

impl InitiatorPort {
    /// The port's SCSI name: name, `,i,0x` and twelve hexadecimal digits.
    #[must_use]
    pub fn scsi_name(&self) -> String {
        let mut out = format!("{},i,0x", self.name);
        for byte in self.isid {
            out.push_str(&format!("{byte:02x}"));
        }
        out
    }

    /// The TransportID, format 01b: header, name string with a zero at its end, padded to four bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        encode_name(0x45, &self.scsi_name())
    }
}

impl TransportId {
    /// The TransportID's bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Port(port) => port.encode(),
            Self::Device(name) => encode_name(0x05, name),
        }
    }

    /// Reads one TransportID from the head of `bytes` and says how long it is; `None` if it is of another transport,
    /// cut short or no iSCSI name.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<(Self, usize)> {
        let additional = usize::from(u16_at(bytes, 2));
        let length = 4 + additional;
        if length < 24 || length % 4 != 0 || u8_at(bytes, 0) & 0x0f != 0x05 {
            return None;
        }
        let field = bytes.get(4..length)?;
        let end = field.iter().position(|byte| *byte == 0)?;
        let text = str::from_utf8(&field[..end]).ok()?;
        let id = match bytes[0] >> 6 {
            0 => Self::Device(valid_name(text)?),
            1 => {
                let (name, isid) = text.rsplit_once(",i,0x")?;
                Self::Port(InitiatorPort { name: valid_name(name)?, isid: parse_isid(isid)? })
            }
            _ => return None,
        };
        Some((id, length))
    }
}

fn valid_name(text: &str) -> Option<String> {
    (!text.is_empty() && text.len() <= LONGEST_NAME).then(|| text.to_ascii_lowercase())
}

fn parse_isid(text: &str) -> Option<[u8; 6]> {
    if text.len() != 12 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let number = u64::from_str_radix(text, 16).ok()?;
    let mut isid = [0; 6];
    isid.copy_from_slice(&number.to_be_bytes()[2..]);
    Some(isid)
}

fn encode_name(first: u8, name: &str) -> Vec<u8> {
    // The additional length is at least 20 and a multiple of four (SPC-4 r37 table 516).
    let field = (name.len() + 1).next_multiple_of(4).max(20);
    let mut out = vec![first, 0];
    out.extend_from_slice(&(field as u16).to_be_bytes());
    out.extend_from_slice(name.as_bytes());
    out.resize(4 + field, 0);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port() -> InitiatorPort {
        InitiatorPort { name: "iqn.2026-01.org.example:a".into(), isid: [0x80, 1, 2, 3, 4, 5] }
    }

    #[test]
    fn ports_and_devices_are_read_back_as_written() {
        for id in [TransportId::Port(port()), TransportId::Device("iqn.x".into())] {
            let mut bytes = id.encode();
            assert_eq!(bytes.len() % 4, 0);
            let length = bytes.len();
            bytes.extend_from_slice(b"more");
            assert_eq!(TransportId::parse(&bytes), Some((id, length)));
        }
    }

    #[test]
    fn bad_ids_are_refused() {
        let good = port().encode();
        assert_eq!(TransportId::parse(&good[..good.len() - 1]), None);
        let mut fibre_channel = good.clone();
        fibre_channel[0] = 0x40;
        assert_eq!(TransportId::parse(&fibre_channel), None);
        let mut endless = good.clone();
        endless[4..].fill(b'a');
        assert_eq!(TransportId::parse(&endless), None);
        assert_eq!(TransportId::parse(&[]), None);
    }
}
