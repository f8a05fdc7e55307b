//! SendTargets in a discovery session (RFC 7143 Appendix C).
//!
//! Not here: what to do with the targets. The one idea: the answer may come in many text responses; it is collected
//! within a bound and parsed once.

use bytes::Bytes;
use understudy_iscsi::request::TextRequest;
use understudy_iscsi::response::TextResponse;
use understudy_iscsi::serial::TransferTag;
use understudy_iscsi::text::{KeyList, TEXT_LIMIT};

use super::{Event, Initiator, OWN_TAG, SessionLost};

/// A target and where it can be reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiscoveredTarget {
    /// iSCSI name.
    pub name: String,
    /// `host:port,portal-group-tag` as the target wrote them; empty means: the address that was asked.
    pub addresses: Vec<String>,
}

/// Text collected so far.
#[derive(Debug, Default)]
pub(super) struct Collected {
    text: Vec<u8>,
}

impl<T> Initiator<T> {
    /// Asks for all targets; [`Event::Targets`] follows. To be called once, after login.
    pub fn send_targets(&mut self) {
        let mut keys = KeyList::new();
        keys.push("SendTargets", "All");
        self.push_text(keys.encode(), 0, TransferTag::RESERVED);
    }

    fn push_text(&mut self, text: Bytes, lun: u64, transfer_tag: TransferTag) {
        let request = TextRequest {
            immediate: true,
            is_final: true,
            more_text: false,
            lun,
            tag: OWN_TAG,
            transfer_tag,
            cmd_sn: self.cmd_sn,
            exp_stat_sn: self.exp_stat_sn,
            text,
        };
        self.outgoing.push(request.into_frame(), self.digests);
    }

    pub(super) fn receive_text(&mut self, response: TextResponse) -> Result<(), SessionLost> {
        self.note_status(response.window);
        self.discovery.text.extend_from_slice(&response.text);
        if self.discovery.text.len() > TEXT_LIMIT {
            return Err(SessionLost::Protocol("discovery text too long"));
        }
        if !response.is_final || response.more_text {
            if response.transfer_tag == TransferTag::RESERVED {
                return Err(SessionLost::Protocol("an unfinished text response without a transfer tag"));
            }
            self.push_text(Bytes::new(), response.lun, response.transfer_tag);
            return Ok(());
        }
        let text = core::mem::take(&mut self.discovery.text);
        let keys = KeyList::parse(&text).map_err(|_| SessionLost::Protocol("discovery text is not a key list"))?;
        self.events.push_back(Event::Targets(targets(&keys)));
        Ok(())
    }
}

/// Addresses belong to the target name before them.
fn targets(keys: &KeyList) -> Vec<DiscoveredTarget> {
    let mut targets: Vec<DiscoveredTarget> = Vec::new();
    for (key, value) in keys.iter() {
        match (key, targets.last_mut()) {
            ("TargetName", _) => targets.push(DiscoveredTarget { name: value.to_owned(), addresses: Vec::new() }),
            ("TargetAddress", Some(target)) => target.addresses.push(value.to_owned()),
            // Keys that a later revision may add about a target say nothing that is needed here.
            (_other, _) => {}
        }
    }
    targets
}
