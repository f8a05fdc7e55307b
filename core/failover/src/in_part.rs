//! Pools of one home at both nodes: when they may be, where the home's portals are then, what of a hand-off stays, and what the records give.
//!
//! Problem: pools of one home share a target, its portals and the answers about it, and yet one of them is to move alone, or to stay when the
//! others go home.
//!
//! Idea: where both nodes forward commands it does not matter to a client which of them a portal is at. So the portals of a home are at the home
//! as long as it serves any pool of it, else at the partner, and every pool moves by itself. A node with some of its pools away goes the
//! repaired node's way for those, GIVEWAIT to MBWAIT, while it serves the others; the giveback that completes the first is one like it. Not here:
//! any of these steps; this is only what they ask.

use std::collections::{BTreeMap, BTreeSet};

use crate::claim::{Claim, Origin, Route};
use crate::effect::{Effect, Effects, Reply, Veto};
use crate::hand_off::{HandOff, HandOffPhase, Why};
use crate::input::{HandOffFindings, SoftVetoes};
use crate::machine::{Machine, State};
use crate::page::{Page, PoolState};
use crate::survey::Survey;
use crate::survivor::{AfterMailboxWait, Released};
use crate::timeline::Step;
use crate::words::{Generation, Micros, NodeId, PoolId};

impl Machine {
    /// Whether both nodes forward commands, so that pools of one home may be at both.
    pub(crate) fn may_split(&self) -> bool {
        self.config.may_split && self.watch.page().is_some_and(|page| page.content.may_split)
    }

    /// Whether pools of this hand-off may stay while the others go.
    pub(crate) fn goes_in_part(&self, hand_off: &HandOff) -> bool {
        hand_off.why == Why::Giveback && self.may_split()
    }

    // ---- portals

    /// Whether the portals of `identity` go along when these pools leave this node, which keeps those in `kept`.
    pub(crate) fn portals_go(&self, identity: NodeId, leaving: &BTreeSet<PoolId>, kept: &BTreeSet<PoolId>) -> bool {
        let is_of_home = |pool: &PoolId| self.home(*pool) == Some(identity);
        let keeps = kept.iter().any(is_of_home);
        #[cfg(feature = "mutants")]
        let keeps = keeps && !crate::mutants::is_on(crate::mutants::Mutant::ClosePortalsOfPart);
        leaving.iter().any(is_of_home) && (identity == self.config.partner() || !keeps)
    }

    /// The pools this node has besides these.
    pub(crate) fn held_besides(&self, leaving: &BTreeSet<PoolId>) -> BTreeSet<PoolId> {
        self.held_pools().filter(|pool| !leaving.contains(pool)).collect()
    }

    /// Whether a claim brings the portals of `identity` here: those of the partner's only if the partner, which lives, has none of its pools.
    pub(crate) fn brings_portals(&self, claim: &Claim, identity: NodeId) -> bool {
        let partner = self.config.partner();
        let stays = |pool: PoolId| !claim.pools.contains(&pool) && self.owner(pool) == Some(partner);
        identity != partner
            || matches!(claim.route, Route::Contested { .. })
            || !self.config.homes_of(identity).any(stays)
    }

    // ---- what stays of a hand-off

    /// What speaks against each of the pools alone.
    pub(crate) fn vetoes_of_pools(
        &self,
        hand_off: &HandOff,
        findings: &HandOffFindings,
    ) -> BTreeMap<PoolId, BTreeSet<Veto>> {
        let mut vetoes = findings.of_pools.clone();
        vetoes.retain(|pool, vetoes| hand_off.pools.contains(pool) && !vetoes.is_empty());
        let receiver =
            self.watch.page().filter(|page| page.incarnation == hand_off.to && hand_off.why == Why::Giveback);
        let unusable = |pool: &&PoolId| {
            let there = receiver.and_then(|page| page.content.pool(**pool));
            there.is_some_and(|there| there.state == PoolState::Refused) && !self.is_refused_here(**pool)
        };
        for pool in hand_off.pools.iter().filter(unusable) {
            vetoes.entry(*pool).or_default().insert(Veto::UnusableThere);
        }
        vetoes
    }

    /// The pools of a hand-off that are to stay, with what counts against each.
    pub(crate) fn staying(
        of_pools: &BTreeMap<PoolId, BTreeSet<Veto>>,
        vetoes: SoftVetoes,
    ) -> BTreeMap<PoolId, BTreeSet<Veto>> {
        let counting = |veto: &Veto| vetoes == SoftVetoes::Count || !veto.is_soft();
        let of_pool = |(pool, vetoes): (&PoolId, &BTreeSet<Veto>)| {
            let counting: BTreeSet<Veto> = vetoes.iter().copied().filter(counting).collect();
            (!counting.is_empty()).then_some((*pool, counting))
        };
        of_pools.iter().filter_map(of_pool).collect()
    }

    /// One pool could not be held: it is served on, and the others go without it.
    pub(crate) fn leave_behind(
        &mut self,
        now: Micros,
        mut hand_off: HandOff,
        pool: PoolId,
        veto: Veto,
        out: &mut Effects,
    ) {
        let HandOffPhase::Holding { pools } = &mut hand_off.phase else { return };
        pools.remove(&pool);
        hand_off.pools.remove(&pool);
        self.stays(&mut hand_off, BTreeMap::from([(pool, BTreeSet::from([veto]))]), out);
        self.resume_pool(pool, out);
        self.commit_if_held(now, hand_off, out);
    }

    /// Notes which pools stay.
    pub(crate) fn stays(
        &mut self,
        hand_off: &mut HandOff,
        stayed: BTreeMap<PoolId, BTreeSet<Veto>>,
        out: &mut Effects,
    ) {
        for (pool, vetoes) in stayed {
            out.push(Effect::Timeline(Step::PoolStays { pool, vetoes: vetoes.clone() }));
            hand_off.pools.remove(&pool);
            hand_off.stayed.insert(pool, vetoes);
        }
    }

    /// What is said to an operator of a hand-off that is done.
    pub(crate) fn reply_of(hand_off: &HandOff) -> Reply {
        match hand_off.stayed.is_empty() {
            true => Reply::Done,
            false => Reply::DoneInPart { stayed: hand_off.stayed.clone() },
        }
    }

    /// Where this node rests after a giveback: with guests that stayed it goes on being released to the partner, which waits for them.
    pub(crate) fn rest_after_giveback(&mut self, now: Micros, hand_off: &HandOff) {
        let guests: BTreeSet<PoolId> = self.guests().into_iter().collect();
        if guests.is_empty() {
            return self.enter(State::Up);
        }
        let is_unasked = guests.iter().any(|pool| !hand_off.stayed.contains_key(pool));
        let then = if is_unasked { AfterMailboxWait::OnRequest } else { AfterMailboxWait::Configured };
        self.enter(State::Released(Released::new(hand_off.to, then)));
        self.retry_after(now, self.config.timing.veto_retry);
    }

    // ---- what comes back of a hand-off

    /// The pools of a hand-off that its receiver has recorded to be this node's after all.
    pub(crate) fn handed_back_of(&self, hand_off: &HandOff, announced: Generation) -> BTreeSet<PoolId> {
        let own = self.config.node;
        let back = |pool: &PoolId| {
            let known = self.survey.as_ref().and_then(|survey| survey.standing(*pool).known().cloned());
            known.is_some_and(|entry| entry.owner == own && entry.generation > announced)
        };
        hand_off.pools.iter().copied().filter(back).collect()
    }

    /// A reading of the lock disks shows that the receiver has given some back.
    pub(crate) fn handed_back_seen(
        &mut self,
        now: Micros,
        hand_off: HandOff,
        announced: Generation,
        out: &mut Effects,
    ) {
        let back = self.handed_back_of(&hand_off, announced);
        if !back.is_empty() && back.len() == hand_off.pools.len() {
            self.take_back(hand_off, out);
        } else if let Some(page) = self.watch.page().cloned().filter(|_| !back.is_empty()) {
            self.judge_receiver(now, &hand_off, announced, &page, out);
        }
    }

    /// The receiver serves what it kept; the rest is claimed again.
    pub(crate) fn done_but_for(&mut self, mut hand_off: HandOff, back: BTreeSet<PoolId>, out: &mut Effects) {
        let gone: BTreeSet<PoolId> = hand_off.pools.difference(&back).copied().collect();
        self.let_go(&gone, out);
        let unusable = back.iter().map(|pool| (*pool, BTreeSet::from([Veto::UnusableThere]))).collect();
        self.stays(&mut hand_off, unusable, out);
        if let Some(asked) = hand_off.asked.take() {
            let reply = Self::reply_of(&hand_off);
            out.push(Effect::AnswerOperator { request: asked.request, reply });
        }
        hand_off.pools = back;
        self.take_back(hand_off, out);
    }

    // ---- what the records give

    /// Own pools that the records give to this node and that it does not have, and could perhaps serve.
    fn given(&self) -> BTreeSet<PoolId> {
        let own = self.config.node;
        let given =
            |pool: &PoolId| self.owner(*pool) == Some(own) && !self.is_holding(*pool) && !self.is_refused_here(*pool);
        self.config.homes_of(own).filter(given).collect()
    }

    /// The own pools of the COMMIT that the partner's page announces and that are not here yet. The page goes on announcing it for a while.
    pub(crate) fn announced_in(&self, page: &Page, generation: Generation) -> BTreeSet<PoolId> {
        let own = self.config.node;
        let homes: BTreeSet<PoolId> = self.config.homes_of(own).filter(|pool| !self.is_holding(*pool)).collect();
        let is_given = |pool: &PoolId| {
            let there = page.content.pool(*pool);
            there.is_some_and(|there| there.owner == Some(own) && there.generation == generation)
        };
        #[cfg(feature = "mutants")]
        if crate::mutants::is_on(crate::mutants::Mutant::ClaimWholeHome) {
            return homes;
        }
        homes.into_iter().filter(is_given).collect()
    }

    /// In a bring-up, with a partner that offers nothing: it committed and restarted, or took a COMMIT back. What the records give to this node is
    /// claimed. Returns whether the bring-up is over.
    pub(crate) fn take_what_the_records_give(&mut self, now: Micros, page: &Page, out: &mut Effects) -> bool {
        let readable = self.survey.as_ref().is_some_and(Survey::is_readable);
        if !readable || self.is_offered(page) {
            return false;
        }
        let given = self.given();
        let has_there = |pool: &PoolId| {
            page.content.pool(*pool).is_some_and(|it| matches!(it.state, PoolState::Serving | PoolState::Held))
        };
        let (holds_some, is_home) = (self.held_pools().next().is_some(), self.homes_away().is_empty());
        match (holds_some, is_home) {
            (true, _) if !given.is_empty() && !given.iter().any(has_there) => {
                self.begin_claim(Origin::Service, Route::HomeAgain, given, out);
            }
            (true, true) if given.is_empty() => self.rest(now, out),
            (true, _) => return false,
            (false, _) if is_home || !given.is_empty() => {
                self.enter(State::Booting);
                self.decide_boot(now, out);
            }
            (false, _) => return false,
        }
        true
    }

    /// In MBWAIT, with a page that cannot be read any more: the own pools of a COMMIT that stands, and its generation.
    pub(crate) fn committed_unannounced(&self, survey: &Survey) -> Option<(BTreeSet<PoolId>, Generation)> {
        let given = self.given();
        let generation =
            given.iter().filter_map(|pool| survey.standing(*pool).known().map(|it| it.generation)).min()?;
        Some((given, generation))
    }
}
