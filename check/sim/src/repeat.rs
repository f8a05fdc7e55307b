//! Where PDUs begin and end in a stream of iSCSI, so that what comes twice is a whole answer and not a torn one.
//!
//! TCP delivers nothing twice; a target that answers a command again, at once or after others, is broken. An initiator must not take
//! the second answer for that of another command.

use bytes::Bytes;

/// Bytes of a basic header segment (RFC 7143 §11.2).
const HEADER: usize = 48;

/// One direction of a connection, as far as it was sent. Without digests, which the simulated nodes do not ask for.
#[derive(Debug, Default)]
pub struct Framing {
    header: Vec<u8>,
    /// Bytes of the present PDU that are still to come behind its header.
    rest: usize,
    /// Sent before, comes again.
    pub kept: Option<Bytes>,
}

impl Framing {
    /// Takes what is sent next; whether it is made of whole PDUs.
    pub fn take(&mut self, mut bytes: &[u8]) -> bool {
        let began_whole = self.is_between();
        while !bytes.is_empty() {
            if self.rest > 0 {
                let taken = self.rest.min(bytes.len());
                self.rest -= taken;
                bytes = &bytes[taken..];
                continue;
            }
            let taken = (HEADER - self.header.len()).min(bytes.len());
            self.header.extend_from_slice(&bytes[..taken]);
            bytes = &bytes[taken..];
            if self.header.len() == HEADER {
                let length = u32::from_be_bytes([0, self.header[5], self.header[6], self.header[7]]) as usize;
                self.rest = usize::from(self.header[4]) * 4 + length.next_multiple_of(4);
                self.header.clear();
            }
        }
        began_whole && self.is_between()
    }

    fn is_between(&self) -> bool {
        self.rest == 0 && self.header.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pdu_is_whole_with_its_padded_data_and_not_before() {
        let mut framing = Framing::default();
        let mut pdu = vec![0; HEADER + 8];
        pdu[7] = 5;
        assert!(framing.take(&pdu));
        assert!(framing.take(&[pdu.clone(), pdu.clone()].concat()));
        assert!(!framing.take(&pdu[..50]));
        assert!(!framing.take(&pdu[50..]));
        assert!(framing.take(&pdu));
    }
}
