//! Text requests in full feature phase: SendTargets (RFC 7143 §4.3, §11.10, Appendix C).
//!
//! Not here: which targets there are; the shell is asked ([`super::Event::TargetsAsked`]). The one idea: an exchange
//! has a text coming in, possibly in pieces, and then a text going out, possibly in pieces, and nothing else.

use bytes::{Bytes, BytesMut};
use understudy_iscsi::codes::RejectReason;
use understudy_iscsi::request::TextRequest;
use understudy_iscsi::response::TextResponse;
use understudy_iscsi::serial::{TaskTag, TransferTag};
use understudy_iscsi::text::KeyList;

use super::parameters::{Parameters, SessionKind};
use super::wire::Wire;

/// Most text taken in one exchange: there is nothing long to ask for.
const INCOMING_LIMIT: usize = 8192;

/// The transfer tag of the one exchange that a connection can have; any value but the reserved one does.
const EXCHANGE: TransferTag = TransferTag(1);

/// One target as SendTargets shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TargetEntry {
    /// iSCSI name.
    pub name: String,
    /// Where it is: `address:port` (an IPv6 address in brackets) and the portal group tag.
    pub portals: Vec<(String, u16)>,
}

/// Which targets an initiator wants to know of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TargetsWanted {
    /// All.
    All,
    /// This one.
    Named(String),
    /// The one it is logged in to.
    Own,
}

/// State of the exchange.
#[derive(Debug, Default)]
pub(crate) struct Exchange {
    incoming: BytesMut,
    answers: KeyList,
    outgoing: Bytes,
    tag: Option<TaskTag>,
    /// Whether the initiator has said all it has to say (F bit); until then neither may we (RFC 7143 §11.11.1).
    all_asked: bool,
}

impl Exchange {
    /// Takes one request; what it returns has to be asked of the shell before the answer can go out.
    ///
    /// # Errors
    /// Why the request is rejected.
    pub(crate) fn take(
        &mut self,
        request: &TextRequest,
        kind: SessionKind,
        agreed: &mut Parameters,
        wire: &mut Wire,
    ) -> Result<Option<TargetsWanted>, RejectReason> {
        if request.transfer_tag == TransferTag::RESERVED {
            *self = Self { tag: Some(request.tag), ..Self::default() };
        } else if request.transfer_tag != EXCHANGE || self.tag != Some(request.tag) {
            return Err(RejectReason::INVALID_PDU_FIELD);
        }
        self.all_asked = request.is_final;
        if !self.outgoing.is_empty() {
            self.respond(agreed, wire);
            return Ok(None);
        }
        if self.incoming.len() + request.text.len() > INCOMING_LIMIT || (request.more_text && request.is_final) {
            self.tag = None;
            return Err(RejectReason::PROTOCOL_ERROR);
        }
        self.incoming.extend_from_slice(&request.text);
        if request.more_text {
            self.send(false, false, Bytes::new(), wire);
            return Ok(None);
        }
        let keys = KeyList::parse(&self.incoming.split()).map_err(|_unreadable| RejectReason::PROTOCOL_ERROR)?;
        let wanted = self.answer(&keys, kind, agreed);
        if wanted.is_none() {
            self.finish(Vec::new(), agreed, wire);
        }
        Ok(wanted)
    }

    fn answer(&mut self, keys: &KeyList, kind: SessionKind, agreed: &mut Parameters) -> Option<TargetsWanted> {
        let mut wanted = None;
        for (key, value) in keys.iter() {
            match key {
                "SendTargets" => match (value, kind) {
                    ("All", SessionKind::Discovery) => wanted = Some(TargetsWanted::All),
                    ("", SessionKind::Normal) => wanted = Some(TargetsWanted::Own),
                    ("All", SessionKind::Normal) | ("", SessionKind::Discovery) => self.answers.push(key, "Reject"),
                    (name, _) => wanted = Some(TargetsWanted::Named(name.to_owned())),
                },
                // The one operational key that may change in full feature phase (RFC 7143 §13.12).
                "MaxRecvDataSegmentLength" => match agreed.redeclare_segment(value) {
                    Ok(()) => {}
                    Err(_illegal) => self.answers.push(key, "Reject"),
                },
                _other => self.answers.push(key, "NotUnderstood"),
            }
        }
        wanted
    }

    /// Sends the answer, with the targets the shell named.
    pub(crate) fn finish(&mut self, targets: Vec<TargetEntry>, agreed: &Parameters, wire: &mut Wire) {
        let mut answers = core::mem::take(&mut self.answers);
        for target in targets {
            answers.push("TargetName", target.name);
            for (address, group) in target.portals {
                answers.push("TargetAddress", format!("{address},{group}"));
            }
        }
        self.outgoing = answers.encode();
        self.respond(agreed, wire);
    }

    /// Sends as much of the answer as one PDU takes.
    fn respond(&mut self, agreed: &Parameters, wire: &mut Wire) {
        let piece = self.outgoing.split_to(self.outgoing.len().min(agreed.send_data_segment as usize));
        let more = !self.outgoing.is_empty();
        self.send(!more && self.all_asked, more, piece, wire);
    }

    fn send(&mut self, is_final: bool, more_text: bool, text: Bytes, wire: &mut Wire) {
        let Some(tag) = self.tag else { return };
        let window = wire.status_window();
        let transfer_tag = if is_final { TransferTag::RESERVED } else { EXCHANGE };
        wire.send(TextResponse { is_final, more_text, lun: 0, tag, transfer_tag, window, text }.into_frame());
        if is_final {
            self.tag = None;
        }
    }
}
