//! How a node learns that it has lost: its key gone from the lock disks, a newer claim recorded, its fence gone.
//!
//! Not here: who won. The one idea: a conflict or a unit attention is a reason to look, and nothing is acknowledged until looked; what
//! the look confirms ends this incarnation.

use std::collections::BTreeSet;

use crate::claim::{Origin, Route};
use crate::effect::{Effect, Effects, RestartReason};
use crate::input::FenceOutcome;
use crate::machine::{Machine, Membership, State};
use crate::page::PoolState;
use crate::survey::{KeyMajority, Survey};
use crate::survivor::Exclusive;
use crate::timers::Timer;
use crate::words::{Micros, PoolId};

impl Machine {
    /// Judges every reading of the lock disks; returns whether this incarnation has ended.
    pub(crate) fn has_lost(&mut self, survey: &Survey, out: &mut Effects) -> bool {
        if self.membership == Membership::Outside {
            return false;
        }
        if survey.key_majority(self.lock_key()) == KeyMajority::Lost {
            self.restart(RestartReason::KeyLost, out);
            return true;
        }
        let partner = self.config.partner();
        let overtaken = self.held_pools().any(|pool| {
            self.owner(pool) == Some(self.config.node) && survey.is_claimed_by(partner, pool, self.generation(pool))
        });
        if overtaken {
            self.restart(RestartReason::NewerGeneration, out);
        }
        overtaken
    }

    /// A lock disk that was out of reach when this node registered, or that forgot everybody, is joined when it is read again. One where
    /// this node's key was and the partner's is now was lost, and stays so.
    pub(crate) fn join_the_rest(&mut self, survey: &Survey, out: &mut Effects) {
        let contesting =
            matches!(&self.state, State::Claiming(claim) if matches!(claim.route, Route::Contested { .. }));
        if self.membership == Membership::Outside || self.rejoin.is_some() || contesting {
            return;
        }
        let (own, pair, partner) = (self.lock_key(), self.config.pair, self.config.partner());
        let missing = survey.disks.iter().enumerate().filter(|(at, disk)| {
            disk.as_ref().is_some_and(|disk| {
                let forgot = !disk.keys.iter().any(|key| key.is_of(pair, partner));
                !disk.keys.contains(&own) && (forgot || !self.joined.contains(at))
            })
        });
        let which: BTreeSet<usize> = missing.map(|(at, _)| at).collect();
        if !which.is_empty() {
            let op = self.op();
            self.rejoin = Some(op);
            out.push(Effect::JoinLockDisks { op, which, key: own });
        }
    }

    /// A conflict or a unit attention on a disk of a pool: freeze, then look.
    pub(crate) fn fence_doubted(&mut self, _now: Micros, pool: PoolId, out: &mut Effects) {
        #[cfg(feature = "mutants")]
        if crate::mutants::is_on(crate::mutants::Mutant::AttentionIsDefeat) {
            return self.restart(RestartReason::FenceLost, out);
        }
        // What is handed over is held already, and looked at before it could go on; what is looked at is being looked at.
        let owned = self.owner(pool) == Some(self.config.node);
        if !owned || !self.is_holding(pool) || self.doubts.contains_key(&pool) {
            return;
        }
        out.push(Effect::FreezePool { pool });
        self.set_here(pool, PoolState::Held);
        let op = self.order_look(pool, out);
        self.doubts.insert(pool, Some(op));
    }

    pub(crate) fn look_at_doubts(&mut self, _now: Micros, out: &mut Effects) {
        let waiting = self.doubts.iter().filter(|(_, op)| op.is_none()).map(|(pool, _)| *pool);
        for pool in waiting.collect::<Vec<_>>() {
            let op = self.order_look(pool, out);
            self.doubts.insert(pool, Some(op));
        }
    }

    pub(crate) fn doubt_answered(&mut self, now: Micros, pool: PoolId, outcome: FenceOutcome, out: &mut Effects) {
        match outcome {
            FenceOutcome::Fenced => {
                self.doubts.remove(&pool);
                self.resume_doubted(pool, out);
            }
            // The disk forgot its registrations, or does not answer: the claim is made again where nothing else is under way.
            FenceOutcome::Incomplete { .. } if self.may_reclaim() => {
                self.doubts.insert(pool, None);
                let pools = BTreeSet::from([pool]);
                self.begin_claim(Origin::Service, Route::HomeAgain, pools, out);
            }
            FenceOutcome::Incomplete { .. } => {
                self.doubts.insert(pool, None);
                self.timers.set(Timer::Doubt, now.after(self.config.timing.retry));
            }
            FenceOutcome::Lost | FenceOutcome::NewerKey { .. } => self.restart(RestartReason::FenceLost, out),
        }
    }

    fn may_reclaim(&self) -> bool {
        matches!(self.state, State::Up | State::Takeover(Exclusive::Resting))
    }

    fn resume_doubted(&mut self, pool: PoolId, out: &mut Effects) {
        let held = match &self.state {
            State::HandingOff(hand_off) => hand_off.is_holding(pool),
            State::Halting(_) => true,
            _ => false,
        };
        if !held {
            self.set_here(pool, PoolState::Serving);
            out.push(Effect::ResumePool { pool });
        }
    }
}
