//! Text keys an initiator proposes at login, and what becomes of them (RFC 7143 §13).
//!
//! Not here: the login's PDUs. The one idea: the target, as responder, states the result; this end only checks that
//! the result is one it may live with and takes the RFC's default where a key was not answered.

use understudy_iscsi::advertised::DATA_REGION_KEY;
use understudy_iscsi::text::{KeyList, boolean, parse_boolean, parse_number};
use understudy_iscsi::{Digest, Digests};

use super::{Config, DigestOffer, Purpose, SessionLost};

/// MaxBurstLength proposed: one R2T then covers any write this project makes.
const MAX_BURST_BYTES: u32 = 16 * 1024 * 1024 - 512;
/// FirstBurstLength proposed: writes up to this size need no R2T round trip.
const FIRST_BURST_BYTES: u32 = 262_144;
/// MaxOutstandingR2T proposed.
const OUTSTANDING_R2TS: u32 = 8;

/// What was negotiated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parameters {
    /// Digests in full feature phase.
    pub digests: Digests,
    /// Longest data segment the target takes, in bytes.
    pub send_segment_bytes: u32,
    /// Longest sequence of solicited data, in bytes.
    pub max_burst_bytes: u32,
    /// Longest unsolicited data of a command, in bytes.
    pub first_burst_bytes: u32,
    /// Whether a command may carry immediate data.
    pub immediate_data: bool,
    /// Whether unsolicited Data-Out PDUs are forbidden.
    pub initial_r2t: bool,
    /// The target's portal group tag, if it said so.
    pub portal_group_tag: Option<u16>,
    /// The target's alias; empty if it has none.
    pub target_alias: String,
    /// Whether the target moves data to and from the data region that was proposed.
    pub data_region: bool,
}

impl Parameters {
    /// The values in force where nothing is negotiated, RFC 7143 §13.
    #[must_use]
    pub fn defaults() -> Self {
        Self {
            digests: Digests::default(),
            send_segment_bytes: 8192,
            max_burst_bytes: 262_144,
            first_burst_bytes: 65_536,
            immediate_data: true,
            initial_r2t: true,
            portal_group_tag: None,
            target_alias: String::new(),
            data_region: false,
        }
    }

    /// Takes one key of the target's. Returns the answer owed, if it is a key this end must answer.
    pub(super) fn take(&mut self, config: &Config, key: &str, value: &str) -> Result<Option<Owed>, SessionLost> {
        if matches!(value, "NotUnderstood" | "Irrelevant" | "Reject") {
            return refusal(config, key).map_or(Ok(None), Err);
        }
        match key {
            "HeaderDigest" => self.digests.header = digest(config.header_digest, value)?,
            "DataDigest" => self.digests.data = digest(config.data_digest, value)?,
            "MaxRecvDataSegmentLength" => self.send_segment_bytes = number(value, 512, 0xff_ffff)?,
            "MaxBurstLength" => self.max_burst_bytes = number(value, 512, MAX_BURST_BYTES)?,
            "FirstBurstLength" => self.first_burst_bytes = number(value, 512, FIRST_BURST_BYTES)?,
            "ImmediateData" => self.immediate_data = truth(value)?,
            "InitialR2T" => self.initial_r2t = truth(value)?,
            "TargetPortalGroupTag" => self.portal_group_tag = Some(number(value, 0, 0xffff)? as u16),
            "TargetAlias" => value.clone_into(&mut self.target_alias),
            DATA_REGION_KEY if config.data_region.is_some() => self.data_region = truth(value)?,
            // ErrorRecoveryLevel is a minimum and 0 was proposed.
            "ErrorRecoveryLevel" => _ = number(value, 0, 0)?,
            // Answers that leave nothing to decide here: this end proposed the only value it uses, or the key is a
            // declaration about the target.
            "MaxConnections"
            | "MaxOutstandingR2T"
            | "DefaultTime2Wait"
            | "DefaultTime2Retain"
            | "DataPDUInOrder"
            | "DataSequenceInOrder"
            | "TargetAddress"
            | "IFMarker"
            | "OFMarker"
            | "TaskReporting"
            | "iSCSIProtocolLevel" => {}
            unknown => return Ok(Some(Owed { key: unknown.to_owned() })),
        }
        Ok(None)
    }
}

/// A key the target proposed that this end does not know and must answer with NotUnderstood (RFC 7143 §6.2).
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Owed {
    pub(super) key: String,
}

/// A refused proposal leaves the default in force, which does for all keys but a digest that was demanded.
fn refusal(config: &Config, key: &str) -> Option<SessionLost> {
    let demanded = key == "HeaderDigest" && config.header_digest == DigestOffer::Demand
        || key == "DataDigest" && config.data_digest == DigestOffer::Demand;
    demanded.then_some(SessionLost::Protocol("the target refused a digest that is demanded"))
}

fn digest(offer: DigestOffer, value: &str) -> Result<Digest, SessionLost> {
    match (value, offer) {
        ("None", DigestOffer::None | DigestOffer::Prefer) => Ok(Digest::None),
        ("CRC32C", DigestOffer::Prefer | DigestOffer::Demand) => Ok(Digest::Crc32c),
        _not_proposed => Err(SessionLost::Protocol("the target chose a digest that was not proposed")),
    }
}

fn number(value: &str, low: u32, high: u32) -> Result<u32, SessionLost> {
    parse_number(value)
        .and_then(|number| u32::try_from(number).ok())
        .filter(|number| (low..=high).contains(number))
        .ok_or(SessionLost::Protocol("a negotiated number is out of range"))
}

fn truth(value: &str) -> Result<bool, SessionLost> {
    parse_boolean(value).ok_or(SessionLost::Protocol("a negotiated boolean is neither Yes nor No"))
}

/// Keys that say who asks for what; they go into the very first request (RFC 7143 §6.3).
pub(super) fn identification(config: &Config, keys: &mut KeyList) {
    keys.push("InitiatorName", &config.initiator_name[..]);
    match &config.purpose {
        Purpose::Normal { target } => {
            keys.push("SessionType", "Normal");
            keys.push("TargetName", &target[..]);
        }
        Purpose::Discovery => keys.push("SessionType", "Discovery"),
    }
}

/// Operational keys; those that are irrelevant in a discovery session are left out of one.
pub(super) fn proposals(config: &Config, keys: &mut KeyList) {
    keys.push("HeaderDigest", digest_list(config.header_digest));
    keys.push("DataDigest", digest_list(config.data_digest));
    keys.push("MaxRecvDataSegmentLength", config.receive_segment_bytes.to_string());
    keys.push("DefaultTime2Wait", "0");
    keys.push("DefaultTime2Retain", "0");
    keys.push("ErrorRecoveryLevel", "0");
    if config.purpose != Purpose::Discovery {
        keys.push("MaxConnections", "1");
        keys.push("InitialR2T", boolean(false));
        keys.push("ImmediateData", boolean(true));
        keys.push("MaxBurstLength", MAX_BURST_BYTES.to_string());
        keys.push("FirstBurstLength", FIRST_BURST_BYTES.to_string());
        keys.push("MaxOutstandingR2T", OUTSTANDING_R2TS.to_string());
        keys.push("DataPDUInOrder", boolean(true));
        keys.push("DataSequenceInOrder", boolean(true));
        if let Some(region) = &config.data_region {
            keys.push(DATA_REGION_KEY, &region[..]);
        }
    }
}

fn digest_list(offer: DigestOffer) -> &'static str {
    match offer {
        DigestOffer::None => "None",
        DigestOffer::Prefer => "CRC32C,None",
        DigestOffer::Demand => "CRC32C",
    }
}
