//! The login of an initiator (RFC 7143 §6.3, §11.12, §11.13).
//!
//! Not here: the keys' values (`negotiation`) and who proves what (`security`). The one idea: this end is ready for the
//! next stage whenever it has nothing to prove, and says so; the target decides how many rounds it takes, within a bound.

use bytes::Bytes;
use understudy_iscsi::login::{LoginStatus, Stage};
use understudy_iscsi::request::LoginRequest;
use understudy_iscsi::response::LoginResponse;
use understudy_iscsi::serial::{Cid, StatSn, Tsih};
use understudy_iscsi::text::{KeyList, TEXT_LIMIT};

use super::security::Security;
use super::{Config, Event, Initiator, OWN_TAG, Phase, SessionLost, negotiation};
use crate::credentials::{Chance, is_security_key};

/// Longest data segment during login: the RFC's default MaxRecvDataSegmentLength (§13.12), on which both ends rely
/// until they have declared another.
pub(super) const LOGIN_SEGMENT_BYTES: usize = 8192;

/// Most responses in one login; a target that goes on longer is not getting anywhere.
const ROUND_LIMIT: u32 = 32;

/// A login under way.
#[derive(Debug)]
pub(super) struct Login {
    stage: Stage,
    rounds: u32,
    /// Text of responses with the C bit, so far.
    collected: Vec<u8>,
    /// Keys to send with the next request.
    keys: KeyList,
    introduced: bool,
    proposed: bool,
    security: Security,
}

impl Login {
    pub(super) fn new(config: &Config, chance: Option<Chance>) -> Self {
        Self {
            stage: if config.proof.is_some() { Stage::Security } else { config.first_stage },
            rounds: 0,
            collected: Vec::new(),
            keys: KeyList::new(),
            introduced: false,
            proposed: false,
            security: Security::new(config.proof.clone(), chance),
        }
    }
}

/// What to do about a refusal, where the status says so much (RFC 7143 §11.13.5).
pub(super) fn advice(status: LoginStatus) -> &'static str {
    match status {
        LoginStatus::AUTHENTICATION_FAILURE => {
            ": authentication failed; compare user name, secret and CHAP's algorithms at both ends"
        }
        LoginStatus::AUTHORIZATION_FAILURE => ": this initiator's name may not use the target; list it there",
        LoginStatus::NOT_FOUND => ": there is no such target at this address",
        _says_it_all => "",
    }
}

impl<T> Initiator<T> {
    /// Sends the request that the state of the login calls for, with all keys that are due.
    pub(super) fn send_login_request(&mut self) {
        let Phase::Login(login) = &mut self.phase else { return };
        let mut keys = core::mem::take(&mut login.keys);
        if !login.introduced {
            login.introduced = true;
            negotiation::identification(&self.config, &mut keys);
            if login.stage == Stage::Security {
                keys.push("AuthMethod", login.security.offer());
            }
        }
        if login.stage == Stage::Operational && !login.proposed {
            login.proposed = true;
            negotiation::proposals(&self.config, &mut keys);
        }
        let stage = login.stage;
        let transit = stage != Stage::Security || login.security.is_ready();
        let text = keys.encode();
        self.push_login(transit, stage, text);
    }

    fn push_login(&mut self, transit: bool, stage: Stage, text: Bytes) {
        let request = LoginRequest {
            transit,
            more_text: false,
            stage,
            next_stage: match (transit, stage) {
                // Reserved where no transition is asked for (RFC 7143 §11.12.3).
                (false, _) => Stage::Security,
                (true, Stage::Security) => Stage::Operational,
                (true, Stage::Operational | Stage::FullFeature) => Stage::FullFeature,
            },
            version_max: 0,
            version_min: 0,
            isid: self.config.isid,
            tsih: Tsih(0),
            tag: OWN_TAG,
            cid: Cid(0),
            cmd_sn: self.cmd_sn,
            exp_stat_sn: self.exp_stat_sn,
            text,
        };
        self.outgoing.push(request.into_frame(), self.digests);
    }

    pub(super) fn receive_login(&mut self, response: LoginResponse) -> Result<(), SessionLost> {
        let Phase::Login(login) = &mut self.phase else { return Ok(()) };
        login.rounds += 1;
        if login.rounds == 1 {
            // The first response sets the connection's StatSN, RFC 7143 §11.13.4.
            self.exp_stat_sn = StatSn(response.window.stat_sn.0);
        }
        if response.status != LoginStatus::SUCCESS {
            let keys = KeyList::parse(&response.text).unwrap_or_default();
            let address = keys.get("TargetAddress").map(str::to_owned);
            return Err(SessionLost::LoginRefused { status: response.status, address });
        }
        if login.rounds > ROUND_LIMIT {
            return Err(SessionLost::Protocol("the login does not end"));
        }
        if response.stage != login.stage || response.tag != OWN_TAG || response.isid != self.config.isid {
            return Err(SessionLost::Protocol("a login response that answers something else"));
        }
        login.collected.extend_from_slice(&response.text);
        if login.collected.len() > TEXT_LIMIT {
            return Err(SessionLost::Protocol("login text too long"));
        }
        self.exp_stat_sn = response.window.stat_sn.next();
        if response.more_text {
            // RFC 7143 §6.2: the rest is asked for with an empty request that stays in the stage.
            let stage = login.stage;
            self.push_login(false, stage, Bytes::new());
            return Ok(());
        }
        self.take_login_text()?;
        self.advance_login(&response)
    }

    fn take_login_text(&mut self) -> Result<(), SessionLost> {
        let Phase::Login(login) = &mut self.phase else { return Ok(()) };
        let text = core::mem::take(&mut login.collected);
        let keys = KeyList::parse(&text).map_err(|_| SessionLost::Protocol("login text is not a key list"))?;
        let in_security = login.stage == Stage::Security;
        if in_security {
            for (key, value) in login.security.take(&keys)? {
                login.keys.push(key, value);
            }
        }
        for (key, value) in keys.iter() {
            if is_security_key(key) {
                // Some targets say so once more.
                if in_security || (key, value) == ("AuthMethod", "None") {
                    continue;
                }
                return Err(SessionLost::Protocol("a key of the security stage outside of it"));
            }
            if let Some(owed) = self.parameters.take(&self.config, key, value)? {
                login.keys.push(&owed.key, "NotUnderstood");
            }
        }
        Ok(())
    }

    fn advance_login(&mut self, response: &LoginResponse) -> Result<(), SessionLost> {
        let Phase::Login(login) = &mut self.phase else { return Ok(()) };
        if response.transit {
            if response.next_stage <= login.stage {
                return Err(SessionLost::Protocol("the login goes backwards"));
            }
            if login.stage == Stage::Security {
                login.security.pass()?;
            }
            login.stage = response.next_stage;
        }
        if login.stage != Stage::FullFeature {
            self.send_login_request();
            return Ok(());
        }
        if response.tsih == Tsih(0) {
            return Err(SessionLost::Protocol("the target gave no session handle"));
        }
        self.max_cmd_sn = response.window.max_cmd_sn;
        self.phase = Phase::Full;
        self.digests = self.parameters.digests;
        self.parameters.first_burst_bytes = self.parameters.first_burst_bytes.min(self.parameters.max_burst_bytes);
        self.decoder.set(self.digests, self.config.receive_segment_bytes as usize);
        self.events.push_back(Event::LoggedIn(self.parameters.clone()));
        Ok(())
    }
}
