//! The login phase of a connection (RFC 7143 §6.3, §11.12, §11.13).
//!
//! Not here: which targets exist and who is logged in already; that is asked of the shell when everything else is
//! agreed ([`super::Event::LoginAsked`]), so a login can be held with nothing but its last response missing.
//!
//! The one idea: each login request gives one [`Step`]. A request that breaks a rule ends the login with the status
//! the RFC names; nothing is repaired. Who the initiator is, and whether it proved it, is judged before the shell is asked anything.

use bytes::{Bytes, BytesMut};
use understudy_iscsi::login::{LoginStatus, Stage};
use understudy_iscsi::request::LoginRequest;
use understudy_iscsi::response::{LoginResponse, Window};
use understudy_iscsi::serial::{Cid, Isid, TaskTag, Tsih};
use understudy_iscsi::text::KeyList;

use super::PortalGroups;
use super::access::Refusal;
use super::parameters::{Answer, Negotiation, NegotiationError, Offer, Parameters, SessionKind};
use super::security::Security;
use crate::credentials::is_security_key;

/// Most text in one login request chain, and in one response: a login has no more than a few dozen short keys, and
/// 8192 bytes is what either side takes in one PDU before anything is negotiated (RFC 7143 §13.12).
pub(crate) const TEXT_LIMIT: usize = 8192;

/// Most requests in one login. Real ones take two to five, with CHAP a few more.
const REQUESTS_LIMIT: u32 = 64;

/// Longest iSCSI name in bytes (RFC 7143 §4.2.7.1).
const NAME_LIMIT: usize = 223;

/// A login that only the shell can still refuse.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoginAsked {
    /// iSCSI name of the initiator.
    pub initiator: String,
    /// With the name, the SCSI initiator port.
    pub isid: Isid,
    /// Zero for a new session.
    pub tsih: Tsih,
    /// Connection within the session.
    pub cid: Cid,
    /// What kind of session.
    pub kind: SessionKind,
    /// Target's iSCSI name; always there in a normal session.
    pub target: Option<String>,
}

/// What a login request leads to.
#[derive(Debug)]
pub(crate) enum Step {
    /// Send this and go on.
    Respond(LoginResponse),
    /// Everything is agreed: ask the shell; `response` is sent when it agrees.
    Ask { asked: LoginAsked, response: LoginResponse },
}

/// Why a login is refused.
#[derive(Debug)]
pub(crate) enum Refused {
    /// A rule of the login was broken.
    Broken(LoginStatus),
    /// The initiator may not log in.
    NotLetIn(Refusal),
}

impl Refused {
    /// How it is answered.
    pub(crate) fn status(&self) -> LoginStatus {
        match self {
            Self::Broken(status) => *status,
            Self::NotLetIn(refusal) => refusal.status(),
        }
    }
}

impl From<LoginStatus> for Refused {
    fn from(status: LoginStatus) -> Self {
        Self::Broken(status)
    }
}

impl From<Refusal> for Refused {
    fn from(refusal: Refusal) -> Self {
        Self::NotLetIn(refusal)
    }
}

/// What all requests of one login have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Identity {
    isid: Isid,
    tsih: Tsih,
    tag: TaskTag,
    cid: Cid,
}

impl Identity {
    fn of(request: &LoginRequest) -> Self {
        Self { isid: request.isid, tsih: request.tsih, tag: request.tag, cid: request.cid }
    }
}

/// State of a login.
#[derive(Debug)]
pub(crate) struct Login {
    portal_groups: PortalGroups,
    receive_data_segment: u32,
    security: Security,
    identity: Option<Identity>,
    stage: Stage,
    requests: u32,
    text: BytesMut,
    initiator: Option<String>,
    target: Option<String>,
    kind: SessionKind,
    negotiation: Negotiation,
    group_told: bool,
    segment_declared: bool,
}

impl Login {
    pub(crate) fn new(offer: Offer, portal_groups: PortalGroups, security: Security) -> Self {
        Self {
            portal_groups,
            receive_data_segment: offer.receive_data_segment,
            security,
            identity: None,
            stage: Stage::Security,
            requests: 0,
            text: BytesMut::new(),
            initiator: None,
            target: None,
            kind: SessionKind::Normal,
            negotiation: Negotiation::new(offer),
            group_told: false,
            segment_declared: false,
        }
    }

    /// Whether no request has come yet.
    pub(crate) fn is_first(&self) -> bool {
        self.identity.is_none()
    }

    /// The initiator's name as it said; empty before it has.
    pub(crate) fn initiator(&self) -> &str {
        self.initiator.as_deref().unwrap_or_default()
    }

    /// What was agreed, and what kind of session it is for.
    pub(crate) fn agreed(&self) -> (SessionKind, Parameters) {
        (self.kind, self.negotiation.agreed())
    }

    /// Takes one request.
    ///
    /// # Errors
    /// Why the login is refused.
    pub(crate) fn step(&mut self, request: &LoginRequest, window: Window) -> Result<Step, Refused> {
        self.check_frame(request)?;
        self.requests += 1;
        if self.requests > REQUESTS_LIMIT || self.text.len() + request.text.len() > TEXT_LIMIT {
            return Err(LoginStatus::INITIATOR_ERROR.into());
        }
        self.text.extend_from_slice(&request.text);
        if request.more_text {
            return Ok(Step::Respond(response(request, window, Bytes::new())));
        }
        let keys = KeyList::parse(&self.text.split()).map_err(|_unreadable| LoginStatus::INITIATOR_ERROR)?;
        let text = self.answer(&keys)?;
        let response = LoginResponse { transit: request.transit, ..response(request, window, text) };
        let passes = self.security.lets_pass(self.initiator())?;
        // One that begins behind the security stage proves nothing any more.
        if !passes && (request.transit || self.stage != Stage::Security) {
            self.security.hold_back(self.initiator())?;
            return Ok(Step::Respond(LoginResponse { transit: false, next_stage: self.stage, ..response }));
        }
        if !request.transit {
            return Ok(Step::Respond(response));
        }
        self.stage = request.next_stage;
        if request.next_stage == Stage::FullFeature { self.ask(request, response) } else { Ok(Step::Respond(response)) }
    }

    fn ask(&self, request: &LoginRequest, response: LoginResponse) -> Result<Step, Refused> {
        let initiator = self.initiator.clone().ok_or(LoginStatus::MISSING_PARAMETER)?;
        if let (SessionKind::Normal, Some(target)) = (self.kind, &self.target) {
            self.security.check_target(&initiator, target)?;
        }
        let Identity { isid, tsih, cid, .. } = Identity::of(request);
        let asked = LoginAsked { initiator, isid, tsih, cid, kind: self.kind, target: self.target.clone() };
        Ok(Step::Ask { asked, response })
    }

    /// Rules about the header (RFC 7143 §6.3, §11.12).
    fn check_frame(&mut self, request: &LoginRequest) -> Result<(), LoginStatus> {
        if request.version_min > 0 {
            return Err(LoginStatus::UNSUPPORTED_VERSION);
        }
        let identity = Identity::of(request);
        match self.identity {
            None => {
                self.identity = Some(identity);
                self.stage = request.stage;
            }
            Some(first) if first != identity => return Err(LoginStatus::INVALID_DURING_LOGIN),
            Some(_same) => {}
        }
        let backwards = request.transit && request.next_stage <= request.stage;
        let contradictory = request.transit && request.more_text;
        if request.stage == Stage::FullFeature || request.stage != self.stage || backwards || contradictory {
            return Err(LoginStatus::INITIATOR_ERROR);
        }
        Ok(())
    }

    /// Answers the keys of one whole text.
    fn answer(&mut self, keys: &KeyList) -> Result<Bytes, Refused> {
        let mut answers = KeyList::new();
        self.take_names(keys)?;
        for (key, value) in keys.iter() {
            let answer = self.answer_key(key, value)?;
            if let Some(text) = answer.text() {
                answers.push(key, text);
            }
        }
        if self.stage == Stage::Security {
            let initiator = self.initiator.as_deref().unwrap_or_default();
            for (key, value) in self.security.step(initiator, keys)? {
                answers.push(key, value);
            }
        }
        if self.kind == SessionKind::Normal && !self.group_told {
            self.group_told = true;
            let tag = self.portal_groups.tag_in(self.target.as_deref().unwrap_or_default());
            answers.push("TargetPortalGroupTag", tag.to_string());
        }
        if self.stage == Stage::Operational && !self.segment_declared {
            self.segment_declared = true;
            answers.push("MaxRecvDataSegmentLength", self.receive_data_segment.to_string());
        }
        let text = answers.encode();
        if text.len() > TEXT_LIMIT { Err(LoginStatus::INITIATOR_ERROR.into()) } else { Ok(text) }
    }

    /// Who and what for: these decide how the other keys are read, wherever in the text they stand. They must be in
    /// the first request (RFC 7143 §6.3).
    fn take_names(&mut self, keys: &KeyList) -> Result<(), LoginStatus> {
        match keys.get("SessionType") {
            None => {}
            Some("Normal") => self.kind = SessionKind::Normal,
            Some("Discovery") => self.kind = SessionKind::Discovery,
            Some(_unknown) => return Err(LoginStatus::SESSION_TYPE_NOT_SUPPORTED),
        }
        for (key, place) in [("InitiatorName", &mut self.initiator), ("TargetName", &mut self.target)] {
            if let Some(name) = keys.get(key) {
                if name.is_empty() || name.len() > NAME_LIMIT {
                    return Err(LoginStatus::INITIATOR_ERROR);
                }
                *place = Some(name.to_owned());
            }
        }
        let target_missing = self.kind == SessionKind::Normal && self.target.is_none();
        if self.initiator.is_none() || target_missing {
            return Err(LoginStatus::MISSING_PARAMETER);
        }
        Ok(())
    }

    fn answer_key(&mut self, key: &str, value: &str) -> Result<Answer, LoginStatus> {
        let answer = match key {
            "InitiatorName" | "TargetName" | "SessionType" | "InitiatorAlias" => self.negotiation.declare(key),
            // Answered together, see `Security::step`.
            security if self.stage == Stage::Security && is_security_key(security) => self.negotiation.declare(key),
            "AuthMethod" => Ok(Answer::Reject),
            _operational => self.negotiation.answer(self.kind, key, value),
        };
        answer.map_err(status)
    }
}

fn status(error: NegotiationError) -> LoginStatus {
    match error {
        NegotiationError::Twice(_) | NegotiationError::IllegalDeclaration(_) => LoginStatus::INITIATOR_ERROR,
    }
}

fn response(request: &LoginRequest, window: Window, text: Bytes) -> LoginResponse {
    LoginResponse {
        transit: false,
        more_text: false,
        stage: request.stage,
        next_stage: request.next_stage,
        version_max: 0,
        version_active: 0,
        isid: request.isid,
        tsih: request.tsih,
        tag: request.tag,
        window,
        status: LoginStatus::SUCCESS,
        text,
    }
}

/// The response that refuses a login (RFC 7143 §11.13.5); everything but the status and the tags is reserved.
pub(crate) fn refusal(request: Option<&LoginRequest>, window: Window, status: LoginStatus) -> LoginResponse {
    LoginResponse {
        transit: false,
        more_text: false,
        stage: request.map_or(Stage::Security, |request| request.stage),
        next_stage: Stage::Security,
        version_max: 0,
        version_active: 0,
        isid: request.map_or(Isid::default(), |request| request.isid),
        tsih: request.map_or(Tsih::default(), |request| request.tsih),
        tag: request.map_or(TaskTag(0), |request| request.tag),
        window,
        status,
        text: Bytes::new(),
    }
}
