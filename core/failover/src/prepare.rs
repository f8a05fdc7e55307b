//! The second half of a claim: fence, open, look once more, serve.
//!
//! Not here: how the claim came to stand on the lock disks ([`crate::claim`]). The one idea: every pool makes its own progress, a pool
//! that cannot be had is refused after a few tries and does not keep the others waiting, and all of them are verified together.

use std::collections::{BTreeMap, BTreeSet};

use crate::claim::{Again, Claim, ClaimPhase, Origin, Part, Progress, Route, Tried};
use crate::effect::{Alarm, Effect, Effects, FenceKind, LegsAre, Reply, RestartReason};
use crate::input::{FenceOutcome, OpenOutcome};
use crate::machine::{Machine, State};
use crate::page::PoolState;
use crate::survey::{KeyMajority, Survey};
use crate::survivor::{AfterMailboxWait, Released};
use crate::timeline::Step;
use crate::timers::Timer;
use crate::words::{Micros, Op, PoolId};

/// How often a disk operation of one pool is tried before the pool is refused and the others go on.
pub(crate) const TRIES: u8 = 3;

impl Machine {
    pub(crate) fn prepare(&mut self, now: Micros, claim: Claim, out: &mut Effects) {
        let mut pools = BTreeMap::new();
        for pool in claim.pools.clone() {
            let sound =
                self.desk.entries.get(&pool).is_some_and(|entry| !entry.legs.iter().any(|legs| legs.is_empty()));
            if sound {
                let tried = if self.is_refused_here(pool) { Tried::Before } else { Tried::Now };
                pools.insert(pool, Progress { fence: Part::Due, open: Part::Due, failures: 0, tried });
                if !self.is_holding(pool) {
                    self.set_here(pool, PoolState::Opening);
                }
            } else {
                self.refuse(now, pool, Alarm::RecordUnknown(pool), out);
            }
        }
        let mut claim = claim;
        claim.phase = ClaimPhase::Preparing { pools, portals: BTreeMap::new() };
        self.order_parts(now, claim, out);
    }

    pub(crate) fn refuse(&mut self, now: Micros, pool: PoolId, alarm: Alarm, out: &mut Effects) {
        self.set_here(pool, PoolState::Refused);
        self.raise_alarm(alarm, out);
        self.timers.set(Timer::Refused, now.after(self.config.timing.refused_retry));
    }

    /// The end state this claim needs on a pool's disks.
    fn fence_kind(&self, claim: &Claim, pool: PoolId) -> FenceKind {
        match claim.route {
            Route::Contested { .. } => FenceKind::Exclusive,
            Route::Committed { .. } => FenceKind::WriteGuard,
            // The partner may go on reading.
            Route::HomeAgain if matches!(claim.origin, Origin::Released(_)) => FenceKind::WriteGuard,
            // Once contested, and not seen through or in doubt since: whom it was contested from may still answer reads.
            Route::HomeAgain if self.is_exclusive_due(claim, pool) => FenceKind::Exclusive,
            Route::HomeAgain if self.home(pool) == Some(self.config.node) => FenceKind::WriteGuard,
            Route::HomeAgain => FenceKind::Exclusive,
        }
    }

    fn is_exclusive_due(&self, claim: &Claim, pool: PoolId) -> bool {
        #[cfg(feature = "mutants")]
        if crate::mutants::is_on(crate::mutants::Mutant::RetryWithGuard) {
            return false;
        }
        let due = self.here.get(&pool).and_then(|here| here.fence_due);
        claim.origin == Origin::Service && due == Some(FenceKind::Exclusive)
    }

    /// Orders every part that is due or failed, or goes on when all are done.
    pub(crate) fn order_parts(&mut self, now: Micros, mut claim: Claim, out: &mut Effects) {
        let ClaimPhase::Preparing { mut pools, mut portals } = claim.phase.clone() else { return };
        let early = matches!(claim.route, Route::Committed { .. });
        #[cfg(feature = "mutants")]
        let early = early || crate::mutants::is_on(crate::mutants::Mutant::ServeBeforeFence);
        for (pool, progress) in &mut pools {
            if matches!(progress.fence, Part::Due | Part::Failed) {
                let kind = self.fence_kind(&claim, *pool);
                if let Some(here) = self.here.get_mut(pool) {
                    here.fence_due = Some(kind);
                }
                progress.fence = Part::Ordered(self.order_fence(*pool, kind, out));
            }
            let may_open = early || progress.fence == Part::Done;
            if may_open && matches!(progress.open, Part::Due | Part::Failed) {
                progress.open = Part::Ordered(self.order_open(*pool, &claim.route, out));
            }
            let identity = self.config.pools[pool].home;
            let listens = self.listening[identity.index()] || portals.values().any(|other| *other == identity);
            #[cfg(feature = "mutants")]
            let may_open = may_open || crate::mutants::is_on(crate::mutants::Mutant::PortalsBeforeFence);
            if may_open && !listens && self.brings_portals(&claim, identity) {
                let op = self.op();
                portals.insert(op, identity);
                out.push(Effect::OpenPortals { op, identity });
            }
        }
        claim.phase = ClaimPhase::Preparing { pools, portals };
        self.go_on_preparing(now, claim, out);
    }

    fn order_fence(&mut self, pool: PoolId, kind: FenceKind, out: &mut Effects) -> Op {
        let op = self.op();
        let entry = &self.desk.entries[&pool];
        let (generation, legs) = (entry.generation, entry.legs.clone());
        out.push(Effect::FencePool { op, pool, generation, kind, legs });
        op
    }

    fn order_open(&mut self, pool: PoolId, route: &Route, out: &mut Effects) -> Op {
        let op = self.op();
        let entry = self.desk.entries[&pool].clone();
        let legs_are = match route {
            Route::Committed { .. } => entry.legs_are,
            Route::HomeAgain | Route::Contested { .. } => LegsAre::PerhapsDifferent,
        };
        let (generation, metadata_version, legs) = (entry.generation, entry.metadata_version, entry.legs);
        out.push(Effect::OpenPool { op, pool, generation, metadata_version, legs_are, legs });
        op
    }

    fn go_on_preparing(&mut self, now: Micros, claim: Claim, out: &mut Effects) {
        let ClaimPhase::Preparing { pools, portals } = &claim.phase else { return };
        let ready = |progress: &Progress| progress.fence == Part::Done && progress.open == Part::Done;
        #[cfg(feature = "mutants")]
        let ready = |progress: &Progress| {
            ready(progress)
                || (progress.open == Part::Done && crate::mutants::is_on(crate::mutants::Mutant::ServeBeforeFence))
        };
        if pools.values().all(ready) && portals.is_empty() {
            let ready = pools.keys().copied().collect();
            let back = self.better_there(now, &claim, &ready);
            if back.is_empty() {
                self.order_again(claim, Again::Verify(ready), out);
            } else {
                self.hand_back(claim, back, &ready);
            }
        } else {
            let failed = pools.values().any(|progress| progress.fence == Part::Failed || progress.open == Part::Failed);
            let waiting = self.timers.is_set(Timer::Retry);
            self.enter(State::Claiming(Box::new(claim)));
            if failed || waiting {
                self.retry_after(now, self.config.timing.retry);
            }
        }
    }

    /// Changes the progress of one pool in the claim under way.
    fn part_answered(&mut self, now: Micros, pool: PoolId, out: &mut Effects, change: impl FnOnce(&mut Progress)) {
        let State::Claiming(mut claim) = self.state.clone() else { return };
        let ClaimPhase::Preparing { pools, .. } = &mut claim.phase else { return };
        let Some(progress) = pools.get_mut(&pool) else { return };
        change(progress);
        let failures = progress.failures;
        if failures >= TRIES {
            let alarm =
                if progress.fence == Part::Failed { Alarm::PoolRefused(pool) } else { Alarm::PoolUnusable(pool) };
            pools.remove(&pool);
            self.refuse(now, pool, alarm, out);
        }
        let fenced = match &claim.phase {
            ClaimPhase::Preparing { pools, .. } => pools.get(&pool).is_some_and(|one| one.fence == Part::Done),
            _ => false,
        };
        if fenced {
            self.order_parts_but_failed(now, *claim, out);
        } else {
            self.go_on_preparing(now, *claim, out);
        }
    }

    /// What a fence just seen makes possible; what failed waits for its time.
    fn order_parts_but_failed(&mut self, now: Micros, claim: Claim, out: &mut Effects) {
        let ClaimPhase::Preparing { pools, .. } = &claim.phase else { return };
        let failed = pools.values().any(|progress| progress.fence == Part::Failed || progress.open == Part::Failed);
        if failed {
            self.go_on_preparing(now, claim, out);
        } else {
            self.order_parts(now, claim, out);
        }
    }

    /// Whether the claim under way waits for this fence.
    fn awaits_fence(&self, op: Op, pool: PoolId) -> bool {
        let State::Claiming(claim) = &self.state else { return false };
        let ClaimPhase::Preparing { pools, .. } = &claim.phase else { return false };
        pools.get(&pool).is_some_and(|progress| progress.fence == Part::Ordered(op))
    }

    fn awaits_open(&self, op: Op, pool: PoolId) -> bool {
        let State::Claiming(claim) = &self.state else { return false };
        let ClaimPhase::Preparing { pools, .. } = &claim.phase else { return false };
        pools.get(&pool).is_some_and(|progress| progress.open == Part::Ordered(op))
    }

    pub(crate) fn pool_fenced(&mut self, now: Micros, op: Op, pool: PoolId, outcome: FenceOutcome, out: &mut Effects) {
        if self.awaits_fence(op, pool) {
            self.claim_fenced(now, pool, outcome, out);
        } else if self.doubts.get(&pool) == Some(&Some(op)) {
            self.doubt_answered(now, pool, outcome, out);
        } else {
            self.review_answered(now, op, pool, outcome, out);
        }
    }

    fn claim_fenced(&mut self, now: Micros, pool: PoolId, outcome: FenceOutcome, out: &mut Effects) {
        let State::Claiming(claim) = self.state.clone() else { return };
        let generation = self.generation(pool);
        match outcome {
            FenceOutcome::Incomplete { fenced, of, unreached } => {
                if let Some(without) = self.left_out(now, &claim, pool, (fenced, of), &unreached) {
                    return self.leave_out(*claim, without, out);
                }
                self.part_answered(now, pool, out, |progress| {
                    progress.fence = Part::Failed;
                    progress.failures += 1;
                });
            }
            FenceOutcome::Fenced => {
                let kind = self.fence_kind(&claim, pool);
                if let Some(here) = self.here.get_mut(&pool) {
                    here.fence = Some(kind);
                    here.key_generation = generation;
                }
                out.push(Effect::Timeline(Step::PoolFenced { pool, generation }));
                self.part_answered(now, pool, out, |progress| progress.fence = Part::Done);
            }
            FenceOutcome::Lost => self.restart(RestartReason::FenceLost, out),
            FenceOutcome::NewerKey { generation } => {
                self.desk.raise_floor(generation);
                self.pause_claim(now, *claim, Again::Look);
            }
        }
    }

    pub(crate) fn pool_opened(&mut self, now: Micros, op: Op, pool: PoolId, outcome: OpenOutcome, out: &mut Effects) {
        if !self.awaits_open(op, pool) {
            return;
        }
        let State::Claiming(claim) = self.state.clone() else { return };
        let recorded = self.desk.entries[&pool].metadata_version;
        #[cfg(feature = "mutants")]
        let recorded = if crate::mutants::is_on(crate::mutants::Mutant::OldMetadata) {
            crate::words::MetadataVersion(0)
        } else {
            recorded
        };
        match outcome {
            OpenOutcome::Opened { metadata_version } if metadata_version >= recorded => {
                if let Some(here) = self.here.get_mut(&pool) {
                    here.metadata_version = metadata_version;
                }
                self.part_answered(now, pool, out, |progress| progress.open = Part::Done);
            }
            OpenOutcome::Opened { .. } | OpenOutcome::Failed => self.part_answered(now, pool, out, |progress| {
                progress.open = Part::Failed;
                progress.failures += 1;
            }),
            OpenOutcome::NewerGeneration { generation } => {
                self.desk.raise_floor(generation);
                self.pause_claim(now, *claim, Again::Look);
            }
        }
    }

    pub(crate) fn portals_opened(&mut self, now: Micros, op: Op, out: &mut Effects) {
        let State::Claiming(mut claim) = self.state.clone() else { return };
        let ClaimPhase::Preparing { portals, .. } = &mut claim.phase else { return };
        let Some(identity) = portals.remove(&op) else { return };
        self.listening[identity.index()] = true;
        out.push(Effect::Timeline(Step::PortalsListening { identity }));
        self.go_on_preparing(now, *claim, out);
    }

    pub(crate) fn claim_verified(
        &mut self,
        now: Micros,
        claim: Claim,
        ready: &BTreeSet<PoolId>,
        survey: &Survey,
        out: &mut Effects,
    ) {
        #[cfg(feature = "mutants")]
        if crate::mutants::is_on(crate::mutants::Mutant::SkipVerify) {
            return self.serve_claimed(now, claim, ready, out);
        }
        match survey.key_majority(self.lock_key()) {
            KeyMajority::Held => {}
            KeyMajority::Lost => return self.restart(RestartReason::KeyLost, out),
            KeyMajority::Unknown => return self.pause_claim(now, claim, Again::Verify(ready.clone())),
        }
        let partner = self.config.partner();
        if matches!(claim.route, Route::Contested { .. }) {
            match self.is_alone(survey) {
                KeyMajority::Held => {}
                KeyMajority::Unknown => return self.pause_claim(now, claim, Again::Verify(ready.clone())),
                // A run of the partner that has not seen this claim may have a claim of its own on its way, which has to be aborted.
                KeyMajority::Lost => {
                    return self.contest_again(claim, survey.key_of(self.config.pair, partner), out);
                }
            }
        }
        if claim.pools.iter().any(|pool| survey.is_claimed_by(partner, *pool, self.generation(*pool))) {
            return self.restart(RestartReason::NewerGeneration, out);
        }
        out.push(Effect::Timeline(Step::Verified));
        self.serve_claimed(now, claim, ready, out);
    }

    fn serve_claimed(&mut self, now: Micros, claim: Claim, ready: &BTreeSet<PoolId>, out: &mut Effects) {
        for pool in ready {
            self.set_here(*pool, PoolState::Serving);
            self.doubts.remove(pool);
            self.clear_alarm(Alarm::PoolRefused(*pool), out);
            self.clear_alarm(Alarm::PoolUnusable(*pool), out);
            if self.home(*pool) == Some(self.config.node) {
                // It came to its own without the coordinated way, which had failed.
                self.clear_alarm(Alarm::DiskInitFailed, out);
            }
            out.push(Effect::ServePool { pool: *pool });
            out.push(Effect::Timeline(Step::Serving { pool: *pool, generation: self.generation(*pool) }));
        }
        match claim.origin {
            Origin::Wanted { request } => {
                out.push(Effect::AnswerOperator { request, reply: Reply::Done });
                match self.watch.incarnation() {
                    Some(to) => self.enter(State::Released(Released::new(to, AfterMailboxWait::OnRequest))),
                    None => self.rest(now, out),
                }
            }
            Origin::Released(released) => self.enter(State::Released(released)),
            Origin::AfterCommit(hand_off) => {
                if let Some(asked) = hand_off.asked {
                    out.push(Effect::AnswerOperator { request: asked.request, reply: Reply::GivenUp });
                }
                self.rest(now, out);
            }
            Origin::Boot | Origin::BringUp | Origin::Service | Origin::HandedOver => self.rest(now, out),
        }
    }
}
