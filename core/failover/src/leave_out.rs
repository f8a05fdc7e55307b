//! A leg recorded good that a claim cannot reach.
//!
//! Not here: the loss of a leg while its pool is served ([`crate::desk`]). The one idea: whoever had the pool before acknowledged nothing
//! that is not on every leg recorded good, can record nothing any more, and answers no read that not every one of these legs, or a
//! majority of the lock disks, confirmed (`io/pool`); so when one leg of every mirror is fenced, the others are not needed. That costs a
//! whole copy when they come back: so it is done only when a pool is tried again that was refused, and a partner that could serve it with
//! all of its legs is handed it first ([`crate::hand_back`]).

use std::collections::BTreeSet;

use crate::claim::{Claim, ClaimPhase, Route, Tried};
use crate::desk::Job;
use crate::effect::{Effect, Effects};
use crate::machine::Machine;
use crate::prepare::TRIES;
use crate::record::PoolEntry;
use crate::timeline::Step;
use crate::words::{LegSet, Micros, PoolId};

impl Machine {
    /// What is to be recorded of a pool whose fence has failed for the last time but for disks that gave no answer; `None` if that
    /// would not do, or has to wait.
    pub(crate) fn left_out(
        &self,
        now: Micros,
        claim: &Claim,
        pool: PoolId,
        (fenced, of): (u32, u32),
        unreached: &[LegSet],
    ) -> Option<PoolEntry> {
        #[cfg(feature = "mutants")]
        if crate::mutants::is_on(crate::mutants::Mutant::KeepLostLegs) {
            return None;
        }
        let ClaimPhase::Preparing { pools, .. } = &claim.phase else { return None };
        let last = pools.get(&pool).is_some_and(|it| it.tried == Tried::Before && it.failures + 1 >= TRIES);
        let missing: u32 = unreached.iter().map(|legs| legs.len()).sum();
        if claim.route != Route::HomeAgain || !last || fenced + missing != of {
            return None;
        }
        let others = pools.keys().copied().filter(|other| *other != pool).collect::<BTreeSet<_>>();
        if self.better_there(now, claim, &others).contains(&pool) {
            return None;
        }
        let mut entry = self.desk.entries.get(&pool)?.clone();
        for (legs, unreached) in entry.legs.iter_mut().zip(unreached) {
            *legs = legs.except(*unreached);
        }
        (!entry.legs.iter().any(|legs| legs.is_empty())).then_some(entry)
    }

    /// Records it; the claim goes on from there, with what is left.
    pub(crate) fn leave_out(&mut self, claim: Claim, without: PoolEntry, out: &mut Effects) {
        out.push(Effect::Timeline(Step::LegsLeftOut { pool: without.pool }));
        self.desk.ask(Job::Claim(vec![without]));
        self.claim_phase(claim, ClaimPhase::Recording);
    }
}
