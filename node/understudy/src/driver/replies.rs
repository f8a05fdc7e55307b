//! What operators are answered when the failover machine has answered.

use std::collections::{BTreeMap, BTreeSet};

use understudy_failover::effect::{Reply, Veto};
use understudy_failover::input::Earnest;
use understudy_failover::words::{PoolId, RequestId};

use super::node::Node;
use super::told::{Movement, Said, of_immovable, of_no_forecast, of_not_now, told_veto};
use crate::admin::{Earnest as ToldEarnest, Request, Response, Staying, Veto as ToldVeto};
use crate::timeline::sign;

impl Node {
    /// The machine answered a request.
    pub(super) fn answer_operator(&self, request: RequestId, reply: Reply) {
        let Some((asked, answer)) = self.waiting.borrow_mut().remove(&request) else { return };
        let response = match movement_of(&asked) {
            Some((movement, earnest)) => self.response_to(&asked, (movement, earnest), reply),
            None => self.response_to_report(reply),
        };
        // Whoever asked may have gone.
        let _ = answer.send(response);
    }

    /// The answer to a report that the partner's machine has lost its power.
    fn response_to_report(&self, reply: Reply) -> Response {
        let partner = self.own.partner();
        match reply {
            Reply::Done => Response::Done {
                text: format!(
                    "{partner} shows no sign of life and is given up; `understudy timeline` shows what follows"
                ),
            },
            Reply::NotNow { state } => refused(
                format!("not while this node is {state}: it knows nothing of its partner yet, or has nothing to take"),
                "`understudy status` shows what both nodes are doing",
            ),
            Reply::Refuted { by } => refused(
                format!("{partner} lives: its {} moved after the report. Nothing was done", sign(by)),
                "it was a false alarm; `understudy takeover --planned` takes its pools from a node that lives",
            ),
            Reply::GivenUp
            | Reply::WouldDo { .. }
            | Reply::DoneInPart { .. }
            | Reply::Vetoed { .. }
            | Reply::NotThisPool { .. }
            | Reply::NoForecast(_) => Response::Failed {
                reason: "the lock disks do not show whether the partner lives".to_owned(),
                advice: "`understudy status` shows which disks are down; the node goes on looking".to_owned(),
            },
        }
    }

    fn response_to(&self, asked: &Request, (movement, earnest): (Movement, Earnest), reply: Reply) -> Response {
        let vetoes_told = |vetoes: BTreeSet<Veto>| vetoes.into_iter().map(|veto| told_veto(veto, movement)).collect();
        match (reply, earnest) {
            (Reply::Done, _) => Response::Done { text: self.done_text(asked, movement) },
            (Reply::DoneInPart { stayed }, _) => {
                Response::DoneInPart { text: self.done_text(asked, movement), staying: self.staying(stayed, movement) }
            }
            (Reply::WouldDo { overridden, pause, pools, stay }, _) => {
                let staying = self.staying(stay, movement);
                self.forecast(movement, (pools, staying), vetoes_told(overridden), Some(pause.0))
            }
            (Reply::Vetoed { vetoes }, Earnest::DryRun) => {
                self.forecast(movement, (Vec::new(), Vec::new()), vetoes_told(vetoes), None)
            }
            (Reply::Vetoed { vetoes }, Earnest::Do) => {
                let hard = vetoes.iter().any(|veto| !veto.is_soft());
                let advice = if hard {
                    "hard vetoes cannot be overridden: remove their cause and ask again"
                } else {
                    "wait until their cause has passed, or ask with --override-vetoes"
                };
                Response::Refused {
                    reason: "vetoed".to_owned(),
                    vetoes: vetoes_told(vetoes),
                    advice: advice.to_owned(),
                }
            }
            (Reply::NotNow { state }, _) => refused_as(of_not_now(state, movement)),
            (Reply::NotThisPool { pool, why }, _) => {
                refused_as(of_immovable(pool, why, movement, |pool| self.pool_name(pool)))
            }
            (Reply::NoForecast(why), _) => {
                let Said { reason, remedy } = of_no_forecast(why, self.own.partner());
                Response::TakeoverForecast {
                    pools: Vec::new(),
                    vetoes: Vec::new(),
                    predicted_pause_micros: None,
                    unknown: reason,
                    advice: remedy,
                }
            }
            (Reply::GivenUp | Reply::Refuted { .. }, _) => Response::Failed {
                reason: "it was begun and given up: the pools are where they were".to_owned(),
                advice: "`understudy timeline` shows how far it came; ask again once the cause is gone".to_owned(),
            },
        }
    }

    fn staying(&self, stay: BTreeMap<PoolId, BTreeSet<Veto>>, movement: Movement) -> Vec<Staying> {
        let of_pool = |(pool, vetoes): (PoolId, BTreeSet<Veto>)| Staying {
            pool: self.pool_name(pool),
            vetoes: vetoes.into_iter().map(|veto| told_veto(veto, movement)).collect(),
        };
        stay.into_iter().map(of_pool).collect()
    }

    fn forecast(
        &self,
        movement: Movement,
        (pools, staying): (Vec<PoolId>, Vec<Staying>),
        vetoes: Vec<ToldVeto>,
        pause: Option<u64>,
    ) -> Response {
        let pools = pools.into_iter().map(|pool| self.pool_name(pool)).collect();
        match movement {
            Movement::Giveback => Response::GivebackForecast { pools, staying, vetoes, predicted_pause_micros: pause },
            Movement::Takeover => Response::TakeoverForecast {
                pools,
                vetoes,
                predicted_pause_micros: pause,
                unknown: String::new(),
                advice: String::new(),
            },
        }
    }

    fn done_text(&self, asked: &Request, movement: Movement) -> String {
        let (own, partner) = (self.own, self.own.partner());
        let named = match asked {
            Request::TakeoverOf { pools, .. } | Request::GivebackOf { pools, .. } => pools.join(", "),
            _ => String::new(),
        };
        match (movement, named.as_str()) {
            (Movement::Takeover, "") => format!("the pools of {partner} are served by {own}"),
            (Movement::Takeover, pools) => format!("served by {own}: {pools}"),
            (Movement::Giveback, "") => format!("{partner} serves its pools"),
            (Movement::Giveback, pools) => format!("served by {partner}: {pools}"),
        }
    }
}

pub(super) fn movement_of(asked: &Request) -> Option<(Movement, Earnest)> {
    match asked {
        Request::Takeover { .. } => Some((Movement::Takeover, Earnest::Do)),
        Request::TakeoverOf { earnest, .. } => Some((Movement::Takeover, really(*earnest))),
        Request::Giveback { .. } => Some((Movement::Giveback, Earnest::Do)),
        Request::GivebackDryRun => Some((Movement::Giveback, Earnest::DryRun)),
        Request::GivebackOf { earnest, .. } => Some((Movement::Giveback, really(*earnest))),
        Request::PartnerLost
        | Request::Status
        | Request::VolumeCreate { .. }
        | Request::VolumeList
        | Request::VolumeProtect { .. }
        | Request::VolumeDelete { .. }
        | Request::Timeline { .. }
        | Request::Events { .. } => None,
    }
}

pub(super) fn really(earnest: ToldEarnest) -> Earnest {
    match earnest {
        ToldEarnest::Do => Earnest::Do,
        ToldEarnest::DryRun => Earnest::DryRun,
    }
}

pub(super) fn refused(reason: String, advice: &str) -> Response {
    Response::Refused { reason, vetoes: Vec::new(), advice: advice.to_owned() }
}

pub(super) fn refused_as(said: Said) -> Response {
    refused(said.reason, &said.remedy)
}
