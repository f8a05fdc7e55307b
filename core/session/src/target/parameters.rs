//! What a target negotiates at login, key by key (RFC 7143 §6.2, §13).
//!
//! Not here: the text that carries keys, the order of login stages, authentication. The one idea: each key of an
//! initiator gives exactly one [`Answer`], and what was agreed sits in one [`Parameters`] value that the full feature
//! phase only reads.
//!
//! A list answer is the first of the initiator's values that we know; a number is the smaller (or, for Time2Wait, the
//! larger) of the two; a boolean the AND or the OR as the key says. A value that is no value of the key's type is
//! answered with `Reject` and changes nothing.

use std::collections::BTreeSet;

use understudy_iscsi::advertised::DATA_REGION_KEY;
use understudy_iscsi::{Digest, Digests};

/// What the target side is willing to agree to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offer {
    /// Largest data segment we take in one PDU, in bytes: the MaxRecvDataSegmentLength we declare.
    pub receive_data_segment: u32,
    /// Largest MaxBurstLength, in bytes.
    pub max_burst: u32,
    /// Largest FirstBurstLength, in bytes.
    pub first_burst: u32,
    /// Largest MaxOutstandingR2T.
    pub outstanding_r2ts: u16,
    /// Whether data digests and header digests may be agreed to.
    pub digests: DigestOffer,
    /// Whether data may be moved to and from an initiator's data region.
    pub data_regions: DataRegions,
}

/// What becomes of a data region that an initiator proposes ([`understudy_iscsi::advertised`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DataRegions {
    /// The key is not known here.
    #[default]
    Unknown,
    /// It is used.
    Used,
}

/// Which digests the target agrees to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DigestOffer {
    /// Whatever the initiator likes best of `None` and `CRC32C`.
    AsAsked,
    /// Only `None`.
    Never,
}

impl Default for Offer {
    /// A burst of 1 MiB is what common initiators send as one command; 256 KiB per data segment is what they declare.
    fn default() -> Self {
        Self {
            receive_data_segment: 256 << 10,
            max_burst: 1 << 20,
            first_burst: 256 << 10,
            outstanding_r2ts: 4,
            digests: DigestOffer::AsAsked,
            data_regions: DataRegions::Unknown,
        }
    }
}

/// Kind of session a login asks for (RFC 7143 §13.21).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum SessionKind {
    /// Only asks which targets there are.
    Discovery,
    /// SCSI commands to one target.
    Normal,
}

/// What was agreed; starts with the defaults of RFC 7143 §13.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parameters {
    /// Digests from full feature phase on.
    pub digests: Digests,
    /// Largest data segment the initiator takes, in bytes (its MaxRecvDataSegmentLength).
    pub send_data_segment: u32,
    /// Longest sequence of Data-In or solicited Data-Out, in bytes.
    pub max_burst: u32,
    /// Most unsolicited data of one command, immediate data included, in bytes.
    pub first_burst: u32,
    /// R2Ts that one task may have outstanding.
    pub outstanding_r2ts: u16,
    /// Whether unsolicited Data-Out is forbidden (InitialR2T=Yes).
    pub initial_r2t: InitialR2t,
    /// Whether a command may carry data.
    pub immediate_data: ImmediateData,
    /// Where the initiator's data region is served.
    pub data_region: Option<String>,
}

/// InitialR2T (RFC 7143 §13.10).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InitialR2t {
    /// Yes: unsolicited Data-Out PDUs are an error.
    Required,
    /// No: the first burst may come unasked.
    NotRequired,
}

/// ImmediateData (RFC 7143 §13.11).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ImmediateData {
    /// Yes.
    Allowed,
    /// No.
    Forbidden,
}

impl Default for Parameters {
    fn default() -> Self {
        Self {
            digests: Digests::default(),
            send_data_segment: 8192,
            max_burst: 262_144,
            first_burst: 65_536,
            outstanding_r2ts: 1,
            initial_r2t: InitialR2t::Required,
            immediate_data: ImmediateData::Allowed,
            data_region: None,
        }
    }
}

impl Parameters {
    /// Takes the initiator's MaxRecvDataSegmentLength, which it may declare again in full feature phase.
    ///
    /// # Errors
    /// [`NegotiationError::IllegalDeclaration`].
    pub(crate) fn redeclare_segment(&mut self, value: &str) -> Result<(), NegotiationError> {
        let declared = number(value, LENGTHS);
        let illegal = || NegotiationError::IllegalDeclaration("MaxRecvDataSegmentLength".to_owned());
        self.send_data_segment = declared.ok_or_else(illegal)?;
        Ok(())
    }
}

/// Answer to one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// This value, under the same key.
    Value(String),
    /// A declaration: taken note of, not answered.
    Noted,
    /// Does not apply to this negotiation.
    Irrelevant,
    /// Not a legal or acceptable value.
    Reject,
    /// No such key.
    NotUnderstood,
}

impl Answer {
    /// The text behind `key=`, if there is one.
    #[must_use]
    pub fn text(&self) -> Option<&str> {
        match self {
            Self::Value(value) => Some(value),
            Self::Noted => None,
            Self::Irrelevant => Some("Irrelevant"),
            Self::Reject => Some("Reject"),
            Self::NotUnderstood => Some("NotUnderstood"),
        }
    }
}

/// The initiator broke a rule of negotiation that no answer can repair; the login fails with "initiator error".
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NegotiationError {
    /// A key came a second time (RFC 7143 §6.3).
    #[error("key {0} was negotiated twice")]
    Twice(String),
    /// A declared value is not legal; declarations can not be answered.
    #[error("illegal value of {0}")]
    IllegalDeclaration(String),
}

/// The operational part of one login.
#[derive(Debug, Clone)]
pub struct Negotiation {
    offer: Offer,
    agreed: Parameters,
    seen: BTreeSet<String>,
}

/// Segment and burst lengths are 512 to 2^24 - 1 bytes (RFC 7143 §13.12-13.14).
const LENGTHS: (u32, u32) = (512, 0x00ff_ffff);

impl Negotiation {
    /// Nothing agreed yet.
    #[must_use]
    pub fn new(offer: Offer) -> Self {
        Self { offer, agreed: Parameters::default(), seen: BTreeSet::new() }
    }

    /// What holds when login ends.
    ///
    /// FirstBurstLength may not exceed MaxBurstLength (§13.14), also when only one of the two was negotiated.
    #[must_use]
    pub fn agreed(&self) -> Parameters {
        let mut agreed = self.agreed.clone();
        agreed.first_burst = agreed.first_burst.min(agreed.max_burst);
        agreed
    }

    /// Takes note that a key came that is not negotiated here.
    ///
    /// # Errors
    /// [`NegotiationError::Twice`].
    pub fn declare(&mut self, key: &str) -> Result<Answer, NegotiationError> {
        // BOUND: one entry per key of a login, each text of which is bounded, as is the time for all of them.
        if self.seen.insert(key.to_owned()) { Ok(Answer::Noted) } else { Err(NegotiationError::Twice(key.to_owned())) }
    }

    /// Answers one operational key.
    ///
    /// # Errors
    /// [`NegotiationError`]: the login has to be ended.
    pub fn answer(&mut self, kind: SessionKind, key: &str, value: &str) -> Result<Answer, NegotiationError> {
        self.declare(key)?;
        if kind == SessionKind::Discovery && only_in_normal_sessions(key) {
            return Ok(Answer::Irrelevant);
        }
        Ok(match key {
            "MaxRecvDataSegmentLength" => {
                self.agreed.redeclare_segment(value)?;
                Answer::Noted
            }
            "HeaderDigest" => digest(value, self.offer.digests, &mut self.agreed.digests.header),
            "DataDigest" => digest(value, self.offer.digests, &mut self.agreed.digests.data),
            "InitialR2T" => match boolean(value) {
                // OR, and we never ask for it.
                Some(asked) => {
                    self.agreed.initial_r2t = if asked { InitialR2t::Required } else { InitialR2t::NotRequired };
                    yes_or_no(asked)
                }
                None => Answer::Reject,
            },
            "ImmediateData" => match boolean(value) {
                // AND, and we always want it.
                Some(asked) => {
                    self.agreed.immediate_data = if asked { ImmediateData::Allowed } else { ImmediateData::Forbidden };
                    yes_or_no(asked)
                }
                None => Answer::Reject,
            },
            "MaxBurstLength" => smaller(value, LENGTHS, self.offer.max_burst, &mut self.agreed.max_burst),
            "FirstBurstLength" => smaller(value, LENGTHS, self.offer.first_burst, &mut self.agreed.first_burst),
            "MaxOutstandingR2T" => {
                let mut agreed = u32::from(self.agreed.outstanding_r2ts);
                let answer = smaller(value, (1, 65_535), u32::from(self.offer.outstanding_r2ts), &mut agreed);
                self.agreed.outstanding_r2ts = u16::try_from(agreed).unwrap_or(u16::MAX);
                answer
            }
            // One connection a session: sessions here live and die with their connection.
            "MaxConnections" => smaller(value, (1, 65_535), 1, &mut 0),
            // We neither keep a lost session (Time2Retain 0) nor need time before a new one: the larger of his and 0.
            "DefaultTime2Wait" => number(value, (0, 3600)).map_or(Answer::Reject, |n| Answer::Value(n.to_string())),
            "DefaultTime2Retain" => smaller(value, (0, 3600), 0, &mut 0),
            "ErrorRecoveryLevel" => smaller(value, (0, 2), 0, &mut 0),
            // OR, and we ask for order.
            "DataPDUInOrder" | "DataSequenceInOrder" => {
                boolean(value).map_or(Answer::Reject, |_asked| Answer::Value("Yes".to_owned()))
            }
            "TaskReporting" => first_of(value, &["RFC3720"]),
            "iSCSIProtocolLevel" => smaller(value, (0, 31), 1, &mut 0),
            // Obsolete keys with a prescribed answer (RFC 7143 §13.25).
            "IFMarker" | "OFMarker" => boolean(value).map_or(Answer::Reject, |_asked| yes_or_no(false)),
            "IFMarkInt" | "OFMarkInt" => Answer::Reject,
            DATA_REGION_KEY if self.offer.data_regions == DataRegions::Used => {
                self.agreed.data_region = Some(value.to_owned());
                yes_or_no(true)
            }
            _unknown => Answer::NotUnderstood,
        })
    }
}

/// Keys that RFC 7143 §13 restricts to normal sessions.
fn only_in_normal_sessions(key: &str) -> bool {
    matches!(
        key,
        "MaxConnections"
            | "InitialR2T"
            | "ImmediateData"
            | "MaxBurstLength"
            | "FirstBurstLength"
            | "MaxOutstandingR2T"
            | "DataPDUInOrder"
            | "DataSequenceInOrder"
            | "TaskReporting"
            | "iSCSIProtocolLevel"
    )
}

fn digest(value: &str, offer: DigestOffer, agreed: &mut Digest) -> Answer {
    let known: &[&str] = match offer {
        DigestOffer::AsAsked => &["None", "CRC32C"],
        DigestOffer::Never => &["None"],
    };
    let answer = first_of(value, known);
    if let Answer::Value(chosen) = &answer {
        *agreed = if chosen == "CRC32C" { Digest::Crc32c } else { Digest::None };
    }
    answer
}

/// The first of the initiator's values that is known here.
fn first_of(value: &str, known: &[&str]) -> Answer {
    let chosen = value.split(',').find(|asked| known.contains(asked));
    chosen.map_or(Answer::Reject, |chosen| Answer::Value(chosen.to_owned()))
}

fn smaller(value: &str, range: (u32, u32), ours: u32, agreed: &mut u32) -> Answer {
    let Some(asked) = number(value, range) else {
        return Answer::Reject;
    };
    *agreed = asked.min(ours);
    Answer::Value(agreed.to_string())
}

fn yes_or_no(value: bool) -> Answer {
    Answer::Value(if value { "Yes" } else { "No" }.to_owned())
}

fn boolean(value: &str) -> Option<bool> {
    match value {
        "Yes" => Some(true),
        "No" => Some(false),
        _neither => None,
    }
}

/// A numerical value: decimal or `0x` hexadecimal (RFC 7143 §6.1), within `range`.
fn number(value: &str, range: (u32, u32)) -> Option<u32> {
    let hexadecimal = value.strip_prefix("0x").or_else(|| value.strip_prefix("0X"));
    let (digits, radix) = hexadecimal.map_or((value, 10), |digits| (digits, 16));
    // `from_str_radix` would take a sign.
    if !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    let number = u32::from_str_radix(digits, radix).ok()?;
    (range.0..=range.1).contains(&number).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(key: &str, value: &str) -> Answer {
        Negotiation::new(Offer::default()).answer(SessionKind::Normal, key, value).unwrap()
    }

    fn value(text: &str) -> Answer {
        Answer::Value(text.to_owned())
    }

    #[test]
    fn numbers_are_the_smaller_of_both_and_time_to_wait_the_larger() {
        assert_eq!(answer("MaxBurstLength", "16776192"), value("1048576"));
        assert_eq!(answer("MaxBurstLength", "0x10000"), value("65536"));
        assert_eq!(answer("MaxConnections", "8"), value("1"));
        assert_eq!(answer("ErrorRecoveryLevel", "2"), value("0"));
        assert_eq!(answer("DefaultTime2Wait", "5"), value("5"));
        assert_eq!(answer("DefaultTime2Retain", "20"), value("0"));
        assert_eq!(answer("MaxOutstandingR2T", "1"), value("1"));
    }

    #[test]
    fn booleans_follow_their_function() {
        assert_eq!(answer("InitialR2T", "Yes"), value("Yes"));
        assert_eq!(answer("InitialR2T", "No"), value("No"));
        assert_eq!(answer("ImmediateData", "No"), value("No"));
        assert_eq!(answer("DataPDUInOrder", "No"), value("Yes"));
        assert_eq!(answer("IFMarker", "Yes"), value("No"));
    }

    #[test]
    fn list_answer_is_the_initiators_first_known_value() {
        assert_eq!(answer("HeaderDigest", "CRC32C,None"), value("CRC32C"));
        assert_eq!(answer("HeaderDigest", "None,CRC32C"), value("None"));
        assert_eq!(answer("DataDigest", "X-fast,CRC32C"), value("CRC32C"));
        assert_eq!(answer("DataDigest", "X-fast"), Answer::Reject);
    }

    #[test]
    fn illegal_values_are_rejected_and_change_nothing() {
        let mut negotiation = Negotiation::new(Offer::default());
        for (key, bad) in [
            ("MaxBurstLength", "511"),
            ("FirstBurstLength", "16777216"),
            ("MaxOutstandingR2T", "0"),
            ("InitialR2T", "yes"),
            ("ImmediateData", ""),
            ("ErrorRecoveryLevel", "+1"),
            ("DefaultTime2Wait", "99999999999999"),
            ("MaxConnections", "-1"),
        ] {
            assert_eq!(negotiation.answer(SessionKind::Normal, key, bad), Ok(Answer::Reject), "{key}={bad}");
        }
        assert_eq!(negotiation.agreed(), Parameters::default());
    }

    #[test]
    fn unknown_keys_are_not_understood_and_repeated_ones_end_the_login() {
        let mut negotiation = Negotiation::new(Offer::default());
        assert_eq!(negotiation.answer(SessionKind::Normal, "X-com.example", "1"), Ok(Answer::NotUnderstood));
        assert_eq!(
            negotiation.answer(SessionKind::Normal, "X-com.example", "1"),
            Err(NegotiationError::Twice("X-com.example".to_owned()))
        );
    }

    #[test]
    fn illegal_declaration_ends_the_login() {
        let mut negotiation = Negotiation::new(Offer::default());
        assert!(negotiation.answer(SessionKind::Normal, "MaxRecvDataSegmentLength", "511").is_err());
    }

    #[test]
    fn keys_of_normal_sessions_are_irrelevant_in_a_discovery_session() {
        let mut negotiation = Negotiation::new(Offer::default());
        assert_eq!(negotiation.answer(SessionKind::Discovery, "MaxBurstLength", "512"), Ok(Answer::Irrelevant));
        let digest = negotiation.answer(SessionKind::Discovery, "HeaderDigest", "CRC32C").unwrap();
        assert_eq!(digest, value("CRC32C"));
    }

    #[test]
    fn first_burst_never_exceeds_max_burst() {
        let mut negotiation = Negotiation::new(Offer::default());
        negotiation.answer(SessionKind::Normal, "MaxBurstLength", "4096").unwrap();
        assert_eq!(negotiation.agreed().first_burst, 4096);
    }
}
