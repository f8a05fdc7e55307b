//! A pool this node owns and cannot serve, or that is the partner's while the partner has this node's, beside a partner that could.
//!
//! Not here: how a pool is tried ([`crate::prepare`]). The one idea: a node never keeps what only the other one can serve, and no two nodes serve
//! crosswise. The owner records
//! that the pool is the partner's, which is a COMMIT like any other and needs no message; the partner finds it in the records and claims
//! it, and this node goes the repaired node's way. Where both nodes forward commands each pool goes by itself; else all pools of a home go
//! together, because their portals do, and a home of which this node serves a pool stays. What the partner's page calls refused stays: then
//! neither can, and it is tried again here.

use std::collections::BTreeSet;

use crate::claim::{Again, Claim, ClaimPhase, Origin, Route};
use crate::desk::Job;
use crate::effect::{Effect, Effects, Reply};
use crate::hand_off::{HandOff, Why};
use crate::machine::{Machine, State};
use crate::page::{PoolState, StateWord, WantAnswer};
use crate::timeline::Step;
use crate::watch::Signs;
use crate::words::{Generation, Micros, NodeId, PoolId};

impl Machine {
    /// The pools of a claim that are to be the partner's, of which those in `ready` could be had here.
    pub(crate) fn better_there(&self, now: Micros, claim: &Claim, ready: &BTreeSet<PoolId>) -> BTreeSet<PoolId> {
        #[cfg(feature = "mutants")]
        if crate::mutants::is_on(crate::mutants::Mutant::KeepUnopened) {
            return BTreeSet::new();
        }
        let unopened = |pool: &PoolId| {
            let failed = !ready.contains(pool) && self.has_legs(*pool) && !self.is_refused_there(*pool);
            failed && self.home(*pool).is_some_and(|home| self.partner_could(now, home))
        };
        if self.may_split() {
            let crosswise = |pool: &PoolId| {
                self.home(*pool).is_some_and(|home| self.is_crosswise(home) && self.partner_could(now, home))
            };
            return claim.pools.iter().copied().filter(|pool| unopened(pool) || crosswise(pool)).collect();
        }
        let goes = |home: &NodeId| {
            let is_of_home = |pool: &PoolId| self.home(*pool) == Some(*home);
            let serves = self.held_pools().any(|pool| is_of_home(&pool) && !claim.pools.contains(&pool));
            let any_unopened = claim.pools.iter().any(|pool| is_of_home(pool) && unopened(pool));
            !serves && self.partner_could(now, *home) && (any_unopened || self.is_crosswise(*home))
        };
        let homes: BTreeSet<NodeId> = NodeId::BOTH.into_iter().filter(goes).collect();
        let pools = claim.pools.iter().copied();
        pools.filter(|pool| self.home(*pool).is_some_and(|home| homes.contains(&home))).collect()
    }

    /// Whether this home is the partner's while the partner has pools of this node's home. Each would serve the other's, nobody would be in GIVEWAIT, and
    /// so nothing would ever come home.
    fn is_crosswise(&self, home: NodeId) -> bool {
        #[cfg(feature = "mutants")]
        if crate::mutants::is_on(crate::mutants::Mutant::ServeCrosswise) {
            return false;
        }
        home == self.config.partner() && !self.homes_away().is_empty()
    }

    /// Whether the partner is in a state from which it would claim pools of this home.
    fn partner_could(&self, now: Micros, home: NodeId) -> bool {
        let Some(page) = self.watch.page().filter(|_| self.watch.signs(now, &self.config) == Signs::Alive) else {
            return false;
        };
        match page.content.state {
            StateWord::Up | StateWord::Takeover | StateWord::Released | StateWord::Giveback => true,
            StateWord::Booting | StateWord::GiveWait => home == self.config.partner(),
            StateWord::DiskInit
            | StateWord::MailboxWait
            | StateWord::Resuming
            | StateWord::Halted
            | StateWord::Panicked => false,
        }
    }

    /// A mirror without a good leg is nobody's to serve.
    fn has_legs(&self, pool: PoolId) -> bool {
        self.desk.entries.get(&pool).is_some_and(|entry| !entry.legs.iter().any(|legs| legs.is_empty()))
    }

    pub(crate) fn hand_back(&mut self, claim: Claim, pools: BTreeSet<PoolId>, ready: &BTreeSet<PoolId>) {
        self.desk.ask(Job::HandBack(pools.clone()));
        let ready = ready.difference(&pools).copied().collect();
        self.claim_phase(claim, ClaimPhase::HandingBack { pools, ready });
    }

    /// The record stands: what was prepared of these pools is forgotten, and what else was claimed goes on.
    pub(crate) fn handed_back(&mut self, now: Micros, generation: Generation, out: &mut Effects) {
        let State::Claiming(mut claim) = self.state.clone() else { return };
        let ClaimPhase::HandingBack { pools, ready } = claim.phase.clone() else { return };
        out.push(Effect::Timeline(Step::HandedBack { generation }));
        for pool in &pools {
            out.push(Effect::ClosePool { pool: *pool });
            self.doubts.remove(pool);
            if let Some(here) = self.here.get_mut(pool) {
                (here.fence, here.fence_due) = (None, None);
                if here.state != PoolState::Refused {
                    here.state = PoolState::Away;
                }
            }
        }
        claim.pools.retain(|pool| !pools.contains(pool));
        let kept = self.held_besides(&pools).union(&claim.pools).copied().collect();
        for identity in NodeId::BOTH {
            if self.portals_go(identity, &pools, &kept) && self.listening[identity.index()] {
                self.close_service(identity, out);
            }
        }
        if !claim.pools.is_empty() {
            return self.order_again(*claim, Again::Verify(ready), out);
        }
        match claim.origin {
            Origin::Released(released) => self.enter(State::Released(released)),
            Origin::Wanted { request } => {
                out.push(Effect::AnswerOperator { request, reply: Reply::GivenUp });
                self.rest(now, out);
            }
            Origin::Boot | Origin::BringUp | Origin::Service | Origin::HandedOver | Origin::AfterCommit(_) => {
                self.rest(now, out);
            }
        }
    }

    /// Claims what was handed over again; commands that are held go on being held.
    pub(crate) fn take_back(&mut self, mut hand_off: HandOff, out: &mut Effects) {
        self.announcement = None;
        if let Some(asked) = hand_off.asked.take() {
            out.push(Effect::AnswerOperator { request: asked.request, reply: Reply::GivenUp });
        }
        if let Why::Wanted { number, .. } = hand_off.why {
            self.want_answer = WantAnswer::Refused(number);
        }
        self.reclaim_portals(&hand_off, out);
        let pools = hand_off.pools.clone();
        self.begin_claim(Origin::AfterCommit(Box::new(hand_off)), Route::HomeAgain, pools, out);
    }
}
