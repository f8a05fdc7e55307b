//! Orders of the failover machine, carried out.
//!
//! One function an order. What takes time runs as a task of its own, or in the lane of its pool, and ends by sending the
//! fact that answers it.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::rc::Rc;
use std::time::Duration;

use tokio::time::Instant;
use understudy_failover::effect::{Alarm, Effect, Effects, FenceKind, PollPace, Veto};
use understudy_failover::fence::{FenceType, judge_pool};
use understudy_failover::input::{FenceOutcome, HandOffFindings, Input, OpenOutcome};
use understudy_failover::page::Stage;
use understudy_failover::words::{LegIndex, LegSet, Micros, MirrorIndex, NodeId, Op, PairId, PoolId};
use understudy_pool::LegPlace;

use super::Ending;
use super::fence::{change_type, check_release, fence_all, standing_of};
use super::node::{Fence, Node};
use super::service::{Recorded, node_id, node_name};
use super::shelves::pool_id;
use crate::timeline::step::PAUSE;

/// How many looks at the lock disks, each taken with nothing else to do, a hand-off takes as long as between the flush and a client's first
/// answer: record, its reading, fence, verification and what the client does, all at once with the closing and opening of portals.
/// Measured: `bench handoff` compares.
const ROUNDS_OF_A_HAND_OFF: u32 = 20;

/// How long the first answer after a hand-off is waited for, to tell the pause. BOUND: without clients there is none.
const FIRST_ANSWER_WITHIN: Duration = Duration::from_secs(20);

impl Node {
    /// Carries out every order; says how the run ends, if one of them ends it.
    pub fn carry_out_all(self: &Rc<Self>, orders: Effects) -> Option<Ending> {
        // In the order given; what comes after an order to end is not carried out any more.
        orders.into_iter().find_map(|order| self.carry_out(order))
    }

    fn carry_out(self: &Rc<Self>, order: Effect) -> Option<Ending> {
        let me = Rc::clone(self);
        match order {
            Effect::PublishPage(content) => {
                let state = content.state;
                self.publisher.publish(*content);
                self.service.pools_moved();
                if self.state.get().0 != Some(state) {
                    self.state.set((Some(state), Instant::now()));
                    self.reached(&format!("page-{}", state.name().to_lowercase()));
                }
            }
            Effect::Survey { op } => {
                self.answer(async move { Input::Surveyed { op: Some(op), survey: Box::new(me.locks.survey().await) } })
            }
            Effect::JoinLockDisks { op, key, which } => self
                .answer_in_turn(async move { Input::LockDisksJoined { op, disks: me.locks.join(key, &which).await } }),
            Effect::ContestLockDisks { op, key, entry, victim } => self.answer_in_turn(async move {
                Input::LockDisksContested { op, disks: me.locks.contest(key, entry, victim).await }
            }),
            Effect::WriteRecord { op, record } => {
                self.answer_in_turn(
                    async move { Input::RecordWritten { op, disks: me.locks.write_record(&record).await } },
                )
            }
            Effect::FencePool { op, pool, generation, kind, legs } => {
                let fence = Fence { key: self.pool_key(generation), legs, fenced: Vec::new() };
                self.answer_in_lane(pool, async move { me.fence(op, pool, kind, fence).await });
            }
            Effect::ReleaseReservations { op, pools } => self.answer(async move { me.release(op, &pools).await }),
            Effect::RestoreReservations { op, pools } => self.answer(async move { me.restore(op, &pools).await }),
            Effect::CheckRelease { op, pools, legs } => {
                self.answer(async move { me.check_release(op, &pools, &legs).await });
            }
            Effect::InitialiseDisks { op, legs, .. } => self.answer(async move { me.initialise(op, &legs).await }),
            Effect::OpenPortals { op, identity } => self.answer(async move {
                me.service.open_portals(identity).await;
                Input::PortalsOpened { op }
            }),
            Effect::ClosePortals { identity } => self.service.close_portals(identity),
            Effect::ReclaimPortals { identity } => self.service.reclaim_portals(identity),
            Effect::OpenPool { op, pool, generation, metadata_version, legs_are, legs } => {
                let recorded = Recorded { generation, metadata_version, legs_are, legs };
                self.answer(async move { me.open_pool(op, pool, recorded).await });
            }
            Effect::ServePool { pool } => self.serve(pool),
            Effect::HoldPool { op, pool } => self.answer(async move { me.hold_pool(op, pool).await }),
            Effect::FreezePool { pool } => self.service.freeze(pool),
            Effect::ResumePool { pool } => self.service.resume(pool),
            Effect::ClosePool { pool } => self.service.close(pool),
            Effect::LegDropped { pool, mirror, leg } => self.leg_dropped(pool, mirror, leg),
            Effect::LegTakenBack { pool, mirror, leg } => self.leg_taken_back(pool, mirror, leg),
            Effect::PrepareHandOff { op, pools } => {
                self.service.are_leaving(&pools);
                self.answer(async move { Input::HandOffPrepared { op, findings: me.prepare_hand_off(&pools).await } })
            }
            Effect::StartHeartbeat => self.beating.set(true),
            Effect::SetPollPace(pace) => self.set_pace(pace),
            Effect::RaiseAlarm(alarm) => self.raise(alarm),
            Effect::ClearAlarm(alarm) => self.clear(alarm),
            Effect::Timeline(step) => self.note(&step),
            Effect::AnswerOperator { request, reply } => self.answer_operator(request, reply),
            // The machine has told the timeline why.
            Effect::Restart(_) => return Some(Ending::Restart),
            Effect::Halt => return Some(Ending::Halted),
        }
        None
    }

    /// Runs `work` beside everything else; its fact goes to the machine.
    fn answer(&self, work: impl Future<Output = Input> + 'static) {
        let facts = self.facts.clone();
        tokio::task::spawn_local(async move {
            // The receiver lives as long as the process.
            let _ = facts.send(work.await);
        });
    }

    /// The same, after everything ordered on the lock disks before.
    fn answer_in_turn(&self, work: impl Future<Output = Input> + 'static) {
        let facts = self.facts.clone();
        self.record_lane.give(async move {
            let _ = facts.send(work.await);
        });
    }

    /// The same, after everything ordered on the reservations of this pool before.
    fn answer_in_lane(&self, pool: PoolId, work: impl Future<Output = Input> + 'static) {
        let facts = self.facts.clone();
        let lane = self.pool_lanes.get(&pool).expect("orders name pools of the configuration");
        lane.give(async move {
            let _ = facts.send(work.await);
        });
    }

    /// Where the partner is read eagerly because it prepares to hand over, the disks that are to be fenced then are looked at.
    fn set_pace(self: &Rc<Self>, pace: PollPace) {
        self.pace.set(pace);
        let stage = self.partner.page.borrow().as_ref().map(|page| page.content.stage);
        let prepares = matches!(stage, Some(Stage::Preparing | Stage::Holding | Stage::Committing));
        if pace != PollPace::Eager || !prepares {
            return;
        }
        for pool in self.config.pools.iter().map(|pool| pool_id(pool.id)) {
            if !self.service.opened(pool).is_some_and(|opened| opened.is_answering()) {
                let me = Rc::clone(self);
                tokio::task::spawn_local(async move { me.foreseen.look(pool, &me.disks.placed_of(pool)).await });
            }
        }
    }

    async fn fence(&self, op: Op, pool: PoolId, kind: FenceKind, mut fence: Fence) -> Input {
        let disks = self.disks.good_of(pool, &fence.legs);
        let fenced = fence_all((pool, &disks), fence.key, kind, &self.foreseen).await;
        self.publisher.progress();
        let outcome = judge_pool(&fenced.outcomes);
        fence.fenced = fenced.legs;
        // What is left of an incomplete fence is served if nobody can be behind the rest; a look proves only what is whole.
        let incomplete = matches!(outcome, FenceOutcome::Incomplete { .. }) && kind != FenceKind::Look;
        if outcome == FenceOutcome::Fenced || incomplete {
            if let Some(overseer) = self.service.overseer(pool) {
                overseer.fenced_with(fence.key, kind);
            }
            self.fences.borrow_mut().insert(pool, fence);
        }
        Input::PoolFenced { op, pool, outcome }
    }

    /// Changes the type of the own reservation on every disk of these pools; how many read back so, of how many.
    async fn retype(self: &Rc<Self>, pools: &[PoolId], to: FenceType) -> (u32, u32) {
        self.note_reservations("reservations-before", pools).await;
        let (mut done, mut of) = (0, 0);
        for pool in pools {
            let Some(fence) = self.fences.borrow().get(pool).cloned() else { continue };
            let disks = self.disks.good_of(*pool, &fence.legs);
            of += disks.len();
            let (finished, count) = tokio::sync::oneshot::channel();
            let lane = self.pool_lanes.get(pool).expect("orders name pools of the configuration");
            let dropped = self.disks.dropped_of(*pool, &fence.legs);
            let overseer = self.service.overseer(*pool).cloned();
            lane.give(async move {
                // In its turn, so that a leg that comes back is given the fence the others have then.
                overseer.iter().for_each(|overseer| overseer.retyped(to.into()));
                let _ = finished.send(change_type(&disks, fence.key, to).await);
                // Tried, not counted: a leg recorded bad may be in reach again, and need not keep the partner waiting.
                change_type(&dropped, fence.key, to).await;
            });
            done += count.await.unwrap_or(0);
        }
        self.note_reservations("reservations-after", pools).await;
        (done as u32, of as u32)
    }

    /// Records what READ RESERVATION says on every disk of these pools.
    async fn note_reservations(&self, step: &str, pools: &[PoolId]) {
        let disks = self.disks.of_pools(pools);
        let mut values = BTreeMap::new();
        let mut counts = BTreeMap::<String, usize>::new();
        for disk in &disks {
            let said = self.describe_standing(standing_of(disk.as_ref()).await.as_ref());
            *counts.entry(said.clone()).or_default() += 1;
            values.insert(disk.name().to_owned(), serde_json::Value::String(said));
        }
        let words: Vec<_> =
            counts.iter().map(|(said, count)| format!("{said} on {count} of {}", disks.len())).collect();
        self.recorder.record(step, format!("READ RESERVATION: {}", words.join(", ")), values);
    }

    async fn check_release(&self, op: Op, pools: &[PoolId], legs: &BTreeMap<PoolId, Vec<LegSet>>) -> Input {
        self.note_reservations("reservations-read", pools).await;
        let good = legs.iter().flat_map(|(pool, legs)| self.disks.good_of(*pool, legs));
        let disks: Vec<_> = good.map(|placed| placed.disk).collect();
        let found = check_release(&disks, PairId(self.config.pair.id), node_id(self.own)).await;
        Input::ReleaseChecked { op, open: found.open, of: found.of }
    }

    async fn initialise(&self, op: Op, good: &BTreeMap<PoolId, Vec<LegSet>>) -> Input {
        match self.service.initialise(good).await {
            Ok((disks, pools)) => {
                let (inventory, found) = (disks.digest(), disks.found() as u32);
                let of = good.iter().map(|(pool, legs)| self.disks.good_of(*pool, legs).len()).sum::<usize>() as u32;
                if pools.is_empty() {
                    Input::DisksInitialised { op, inventory, found, of }
                } else {
                    Input::PoolsUnopenable { op, inventory, found, of, pools }
                }
            }
            Err(super::service::Conflicted) => Input::DiskInitConflicted { op },
        }
    }

    async fn open_pool(&self, op: Op, pool: PoolId, recorded: Recorded) -> Input {
        let outcome = self.service.open(pool, recorded).await;
        match outcome {
            OpenOutcome::Opened { .. } => self.publisher.progress(),
            OpenOutcome::NewerGeneration { .. } | OpenOutcome::Failed => self.service.close(pool),
        }
        Input::PoolOpened { op, pool, outcome }
    }

    async fn hold_pool(&self, op: Op, pool: PoolId) -> Input {
        match self.service.hold(pool).await {
            Ok((metadata_version, legs_are)) => Input::PoolHeld { op, pool, metadata_version, legs_are },
            Err(reason) => Input::PoolNotHeld { op, pool, reason },
        }
    }

    async fn release(self: &Rc<Self>, op: Op, pools: &[PoolId]) -> Input {
        let (released, of) = self.retype(pools, FenceType::WriteGuard).await;
        Input::ReservationsReleased { op, released, of }
    }

    async fn restore(self: &Rc<Self>, op: Op, pools: &[PoolId]) -> Input {
        let (restored, of) = self.retype(pools, FenceType::Exclusive).await;
        Input::ReservationsRestored { op, restored, of }
    }

    fn raise(&self, alarm: Alarm) {
        if self.alarms.borrow_mut().insert(alarm) {
            tracing::warn!(?alarm, "alarm raised");
        }
    }

    fn clear(&self, alarm: Alarm) {
        if self.alarms.borrow_mut().remove(&alarm) {
            tracing::info!(?alarm, "alarm cleared");
        }
    }

    fn serve(self: &Rc<Self>, pool: PoolId) {
        let me = Rc::clone(self);
        let before = self.partner.page.borrow().as_ref().map(|page| page.live.last_completion).filter(|last| *last > 0);
        let fenced = self.fences.borrow().get(&pool).map(|fence| fence.fenced.clone()).unwrap_or_default();
        // Beside others of its home, which are served already, nothing tells its first answer from theirs.
        let is_first = !self.service.serves_beside(pool);
        tokio::task::spawn_local(async move {
            let began = Instant::now();
            me.service.serve(pool, &fenced).await;
            if is_first {
                me.note_first_answer(pool, began, before).await;
            }
        });
    }

    /// Waits for the first command completed after `began` and records how long clients had to wait for it since the last one
    /// the partner had completed.
    async fn note_first_answer(&self, pool: PoolId, began: Instant, before: Option<u64>) {
        let Some(identity) = self.service.home_of(pool) else { return };
        let Some(served) = self.service.opened(pool).map(|served| Rc::downgrade(&served)) else { return };
        let is_still_served = || self.service.opened(pool).is_some_and(|now| served.ptr_eq(&Rc::downgrade(&now)));
        let deadline = began + FIRST_ANSWER_WITHIN;
        // A pool that moved away again leaves the answer to whoever waits for it after its next move.
        while Instant::now() < deadline && is_still_served() {
            if let Some(last) = self.service.last_completion(identity).filter(|last| *last >= began) {
                let Some(before) = before else { return };
                let answered = self.wall_micros_of(last);
                let pause = answered.saturating_sub(before);
                let name = self.pool_name(pool);
                let text =
                    format!("first command of {name} completed after the move; pause {:.1} ms", pause as f64 / 1e3);
                self.recorder.record_at(answered, "first-answer", text, [(PAUSE.to_owned(), pause.into())].into());
                return;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    pub(super) fn pool_name(&self, pool: PoolId) -> String {
        let pools = &self.config.pools;
        let found = pools.iter().find(|layout| pool_id(layout.id) == pool);
        found.map_or_else(|| pool.to_string(), |layout| layout.name.clone())
    }

    fn leg_dropped(&self, pool: PoolId, mirror: MirrorIndex, leg: LegIndex) {
        let mut fences = self.fences.borrow_mut();
        if let Some(legs) = fences.get_mut(&pool).and_then(|fence| fence.legs.get_mut(usize::from(mirror.0))) {
            *legs = LegSet::without(*legs, leg);
        }
        if let Some(overseer) = self.service.overseer(pool) {
            overseer.leg_dropped(LegPlace { mirror: mirror.0, leg: leg.0 });
        }
    }

    /// From now on its disk is part of the inventory and of every order on the pool's reservations.
    fn leg_taken_back(&self, pool: PoolId, mirror: MirrorIndex, leg: LegIndex) {
        let mut fences = self.fences.borrow_mut();
        if let Some(legs) = fences.get_mut(&pool).and_then(|fence| fence.legs.get_mut(usize::from(mirror.0))) {
            *legs = LegSet::with(*legs, leg);
        }
        let place = LegPlace { mirror: mirror.0, leg: leg.0 };
        // A pool that is not open here was closed since, and is opened with the legs of its record.
        if let Some(opened) = self.service.opened(pool) {
            opened.pool.leg_recorded_good(place);
        }
        if let Some(overseer) = self.service.overseer(pool) {
            overseer.leg_taken_back(place);
        }
    }

    /// Flushes while serving, takes the inventory, lists what speaks against a hand-off and measures what holding would take.
    async fn prepare_hand_off(&self, pools: &[PoolId]) -> HandOffFindings {
        self.service.flush_pools(pools).await;
        let good: BTreeMap<_, _> = {
            let fences = self.fences.borrow();
            let known = pools.iter().filter_map(|pool| Some((*pool, fences.get(pool)?.legs.clone())));
            known.collect()
        };
        let inventory = self.service.inventory(&good).await;
        let predicted = self.predict_pause(pools).await;
        let open = self.service.open_pools().into_iter().filter(|(id, _)| pools.contains(id));
        let of_pools = open.map(|(id, opened)| (id, vetoes_of(&opened.pool))).collect();
        let predicted_pause = Micros(u64::try_from(predicted.as_micros()).unwrap_or(u64::MAX));
        HandOffFindings { inventory: inventory.digest(), vetoes: BTreeSet::new(), of_pools, predicted_pause }
    }

    /// How long clients would wait: what lies in the pause is measured now, or counted in what is.
    async fn predict_pause(&self, pools: &[PoolId]) -> Duration {
        let began = Instant::now();
        self.service.flush_pools(pools).await;
        let flush = began.elapsed();
        let mut rounds = [Duration::ZERO; 3];
        for round in &mut rounds {
            let began = Instant::now();
            self.locks.survey().await;
            *round = began.elapsed();
        }
        rounds.sort();
        flush + Duration::from_micros(self.machine_config().timing.poll_eager().0) + rounds[1] * ROUNDS_OF_A_HAND_OFF
    }

    /// `type 6 held by b`, for the operator.
    pub(super) fn describe_standing(&self, standing: Option<&understudy_failover::fence::DiskStanding>) -> String {
        let Some(standing) = standing else { return "no answer".to_owned() };
        let pair = PairId(self.config.pair.id);
        match standing.reservation {
            None => "not reserved".to_owned(),
            Some((key, kind)) => {
                let holder = NodeId::BOTH.into_iter().find(|node| key.is_of(pair, *node));
                let holder = holder.map_or_else(|| "another system".to_owned(), |node| node_name(node).to_string());
                let kind = match kind {
                    Some(FenceType::WriteGuard) => "type 5",
                    Some(FenceType::Exclusive) => "type 6",
                    None => "another type",
                };
                format!("{kind} held by {holder}")
            }
        }
    }
}

/// What speaks against handing over this pool now.
fn vetoes_of(pool: &understudy_pool::Pool) -> BTreeSet<Veto> {
    let found = [
        (Veto::ResyncRunning, !pool.in_sync()),
        (Veto::CopyRunning, !pool.returning_legs().is_empty()),
        (Veto::WriteOutcomeUnknown, pool.writes_of_unknown_outcome() > 0),
    ];
    found.into_iter().filter(|(_, holds)| *holds).map(|(veto, _)| veto).collect()
}
