//! Orders being carried out, step by step.
//!
//! Not here: the bookkeeping of what is served ([`crate::orders`]). The one idea: a step is what one node does to one disk, or, where
//! [`Detail::EveryDisk`] is asked for, what it does there until its answer is known: in between, the other node could only do what it
//! could do just before or after as well. Between two steps anything can happen.
//!
//! [`Detail::EveryDisk`]: crate::scenes::Detail::EveryDisk

use std::collections::BTreeSet;

use understudy_failover::effect::{Entry, LegsAre, Veto};
use understudy_failover::fence::{DiskFence, FenceMove, FenceType, Registered, fence_move, judge_pool};
use understudy_failover::input::{HandOffFindings, Input, JoinOutcome, NotHeld, OpenOutcome, WriteOutcome};
use understudy_failover::invariants::Holder;
use understudy_failover::key::ReservationKey;
use understudy_failover::mutants::{Mutant, is_on};
use understudy_failover::record::{Heartbeat, Record};
use understudy_failover::survey::{ContestMove, LockDiskView, Survey, contest_move};
use understudy_failover::words::{Incarnation, LegIndex, MetadataVersion, Micros, MirrorIndex, NodeId, Op, PoolId};

use crate::orders::World;
use crate::pair::{Pair, Served, Task, Work};

/// How the world answers a step that may go more than one way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Turn {
    /// As it should.
    Well,
    /// A record's write has an unknown outcome, and may land later.
    Unknown,
    /// Metadata is taken from what was kept warm.
    Stale,
}

enum Next {
    Again(Work),
    Done(Input),
}

/// Which orders are carried out one after another.
#[derive(PartialEq, Eq)]
enum Queue {
    Records,
    Reservations,
    None,
}

fn queue(work: &Work) -> Queue {
    match work {
        Work::Record { .. } => Queue::Records,
        Work::Fence { .. } | Work::Retype { .. } => Queue::Reservations,
        _ => Queue::None,
    }
}

/// The tasks of a node that may take a step now.
#[must_use]
pub fn ready(pair: &Pair, node: NodeId) -> Vec<usize> {
    let tasks = &pair.node(node).tasks;
    let is_first = |at: usize| {
        let own = queue(&tasks[at].work);
        own == Queue::None || !tasks[..at].iter().any(|before| queue(&before.work) == own)
    };
    (0..tasks.len()).filter(|at| is_first(*at) && may_step(pair, node, &tasks[*at].work)).collect()
}

/// A step waits while an earlier write of this node to that lock disk may still land, and a hold while it drains.
fn may_step(pair: &Pair, node: NodeId, work: &Work) -> bool {
    let disks = &pair.shelf.lock_disks;
    let settled = |at: usize| {
        disks.get(at).is_none_or(|disk| disk.cut[node.index()] || !disk.late.iter().any(|(owner, _)| *owner == node))
    };
    match work {
        Work::Survey { disks: read, .. } => (read.len()..disks.len()).all(settled),
        Work::Join { which, disks: done, .. } => !which.contains(&done.len()) || settled(done.len()),
        Work::Contest { disks: done, .. } => settled(done.len()),
        Work::Record { disks: done, .. } => settled(done.len()),
        Work::Hold { pool } => {
            let mount = &pair.node(node).mounts[pool];
            mount.outstanding.is_none() || mount.served != Served::Held
        }
        Work::Fence { .. }
        | Work::Retype { .. }
        | Work::Check { .. }
        | Work::Init { .. }
        | Work::Portals
        | Work::Open { .. }
        | Work::Prepare { .. } => true,
    }
}

fn type_number(kind: FenceType) -> u8 {
    match kind {
        FenceType::WriteGuard => 5,
        FenceType::Exclusive => 6,
    }
}

impl World<'_> {
    /// One step of a task.
    pub fn step_task(&mut self, node: NodeId, at: usize, turn: Turn) {
        let Task { op, work } = self.pair.node_mut(node).tasks[at].clone();
        match self.one_step(node, op, work, turn) {
            Next::Again(work) => self.pair.node_mut(node).tasks[at].work = work,
            Next::Done(input) => {
                self.pair.node_mut(node).tasks.remove(at);
                self.input(node, input);
            }
        }
    }

    fn one_step(&mut self, node: NodeId, op: Op, work: Work, turn: Turn) -> Next {
        match work {
            Work::Survey { after, disks } => self.survey_step(node, op, after, disks),
            Work::Join { key, which, disks } => self.join_step(node, op, key, which, disks),
            Work::Contest { .. } => self.contest_step(node, op, work),
            Work::Record { record, disks } => self.record_step(node, op, record, disks, turn),
            Work::Fence { .. } => self.fence_step(node, op, work),
            Work::Retype { legs, to, next, done } => self.retype_step(node, op, legs, to, (next, done)),
            Work::Check { legs } => self.check(node, op, &legs),
            Work::Init { legs } => self.initialise(node, op, &legs),
            Work::Portals => Next::Done(Input::PortalsOpened { op }),
            Work::Open { pool } => self.open(node, op, pool, turn),
            Work::Hold { pool } => self.hold(node, op, pool),
            Work::Prepare { pools } => self.prepare(node, op, &pools),
        }
    }

    // ---- lock disks

    /// What a node reads of a lock disk now.
    fn read_lock_disk(&self, node: NodeId, at: usize) -> Option<LockDiskView> {
        let disk = &self.pair.shelf.lock_disks[at];
        if disk.cut[node.index()] {
            return None;
        }
        let mut view = disk.view();
        let partner = self.pair.node(node.partner());
        if disk.keys[node.partner().index()].is_some() {
            // Two counts are enough: what it beat before, and one more if it beats now.
            let counter = u64::from(partner.beating && !disk.cut[node.partner().index()]);
            view.heartbeats[node.partner().index()] = Some(Heartbeat { incarnation: Incarnation::NONE, counter });
        }
        Some(view)
    }

    /// The unsolicited reading after a heartbeat.
    pub fn look(&mut self, node: NodeId) {
        let disks = (0..self.pair.shelf.lock_disks.len()).map(|at| self.read_lock_disk(node, at)).collect();
        self.input(node, Input::Surveyed { op: None, survey: Box::new(Survey { disks }) });
    }

    fn survey_step(
        &mut self,
        node: NodeId,
        op: Op,
        after: BTreeSet<PoolId>,
        mut disks: Vec<Option<LockDiskView>>,
    ) -> Next {
        let all = self.pair.shelf.lock_disks.len();
        let until = if self.scene.is_fine() { disks.len() + 1 } else { all };
        while disks.len() < until {
            disks.push(self.read_lock_disk(node, disks.len()));
        }
        if disks.len() < all {
            return Next::Again(Work::Survey { after, disks });
        }
        let survey = Survey { disks };
        if let Some(machine) = &self.pair.node(node).machine {
            let held = survey.key_majority(machine.key_on_lock_disks());
            self.note_survey(node, after, held);
        }
        Next::Done(Input::Surveyed { op: Some(op), survey: Box::new(survey) })
    }

    fn join_step(
        &mut self,
        node: NodeId,
        op: Op,
        key: ReservationKey,
        which: BTreeSet<usize>,
        mut disks: Vec<JoinOutcome>,
    ) -> Next {
        let at = disks.len();
        let reached = which.contains(&at) && !self.pair.shelf.lock_disks[at].cut[node.index()];
        if reached {
            self.pair.shelf_mut().lock_disks[at].keys[node.index()] = Some(key);
        }
        disks.push(if reached { JoinOutcome::Joined } else { JoinOutcome::Unreachable });
        if disks.len() < self.pair.shelf.lock_disks.len() {
            return Next::Again(Work::Join { key, which, disks });
        }
        Next::Done(Input::LockDisksJoined { op, disks })
    }

    fn contest_step(&mut self, node: NodeId, op: Op, mut work: Work) -> Next {
        let Work::Contest { key, entry, here, victim, stopped, disks } = &mut work else { unreachable!() };
        let at = disks.len();
        // BOUND: each move but the last changes the keys towards the own one alone; three at most.
        loop {
            let disk = &mut self.pair.shelf_mut().lock_disks[at];
            if *stopped || disk.cut[node.index()] {
                disks.push(None);
                *here = *entry;
                break;
            }
            let keys: Vec<ReservationKey> = disk.keys.iter().flatten().copied().collect();
            match contest_move(&keys, *key, *victim, *here) {
                ContestMove::Register => {
                    disk.keys[node.index()] = Some(*key);
                    *here = Entry::Registered;
                }
                ContestMove::PreemptAndAbort(_) => disk.preempt_and_abort(node),
                end @ (ContestMove::Next | ContestMove::Stop) => {
                    disks.push(Some(keys));
                    *here = *entry;
                    *stopped = end == ContestMove::Stop;
                    break;
                }
            }
            if self.scene.is_fine() {
                return Next::Again(work);
            }
        }
        if disks.len() < self.pair.shelf.lock_disks.len() {
            return Next::Again(work);
        }
        let disks = std::mem::take(disks);
        Next::Done(Input::LockDisksContested { op, disks })
    }

    fn record_step(
        &mut self,
        node: NodeId,
        op: Op,
        record: Box<Record>,
        mut disks: Vec<WriteOutcome>,
        turn: Turn,
    ) -> Next {
        let disk = &mut self.pair.shelf_mut().lock_disks[disks.len()];
        disks.push(if disk.cut[node.index()] || disk.keys[node.index()].is_none() {
            WriteOutcome::Failed
        } else if turn == Turn::Unknown {
            disk.late.push((node, (*record).clone()));
            WriteOutcome::Unknown
        } else {
            disk.store(node, &record);
            crate::laws::stored(&mut self.pair, &record);
            WriteOutcome::Written
        });
        if disks.len() < self.pair.shelf.lock_disks.len() {
            return Next::Again(Work::Record { record, disks });
        }
        Next::Done(Input::RecordWritten { op, disks })
    }

    // ---- pool disks

    fn fence_step(&mut self, node: NodeId, op: Op, mut work: Work) -> Next {
        let Work::Fence { pool, own, kind, good, registered, leg, ends } = &mut work else { unreachable!() };
        let run = u32::from(self.pair.node(node).run);
        // BOUND: register, preempt, reserve, change of type, end: five moves a leg.
        loop {
            let disk = &self.pair.leg(*pool, *leg).disk;
            let mut next = if disk.reachable[node.index()] {
                fence_move(&disk.standing(), *own, *kind, *registered)
            } else {
                FenceMove::End(DiskFence::Unreached)
            };
            if *registered == Registered::Already && is_on(Mutant::SkipReadBack) {
                next = FenceMove::End(DiskFence::Fenced);
            }
            if let FenceMove::End(end) = next {
                if good.contains(LegIndex(*leg)) {
                    ends.push((MirrorIndex(0), LegIndex(*leg), end));
                }
                *leg += 1;
                *registered = Registered::NotYet;
                break;
            }
            self.fence_disk(node, (*pool, *leg), *own, next, run);
            if next == FenceMove::Register {
                *registered = Registered::Already;
            }
            if self.scene.is_fine() {
                return Next::Again(work);
            }
        }
        if (*leg as usize) < self.pair.shelf.legs[pool].len() {
            return Next::Again(work);
        }
        Next::Done(Input::PoolFenced { op, pool: *pool, outcome: judge_pool(ends) })
    }

    fn fence_disk(&mut self, node: NodeId, (pool, leg): (PoolId, u8), own: ReservationKey, next: FenceMove, run: u32) {
        let disk = &mut self.pair.leg_mut(pool, leg).disk;
        match next {
            FenceMove::Register => {
                disk.register(node, own);
                // The session was made anew: what an earlier run left on this nexus is aborted.
                disk.in_flight.retain(|write| write.node != node || write.run == run);
            }
            FenceMove::PreemptAndAbort(victim, kind) => {
                disk.preempt(node, victim, type_number(kind), !is_on(Mutant::PlainPreempt));
            }
            FenceMove::Reserve(kind) | FenceMove::ChangeType(kind) => disk.hold(node, type_number(kind)),
            FenceMove::End(_) => {}
        }
    }

    fn retype_step(
        &mut self,
        node: NodeId,
        op: Op,
        legs: Vec<(PoolId, u8)>,
        to: FenceType,
        (mut next, mut done): (usize, u32),
    ) -> Next {
        let of = legs.len() as u32;
        if let Some((pool, leg)) = legs.get(next).copied() {
            let disk = &mut self.pair.leg_mut(pool, leg).disk;
            let holds = disk.pr.reservation.is_some_and(|holder| holder.node == node);
            if disk.reachable[node.index()] && holds {
                disk.hold(node, type_number(to));
                if to == FenceType::WriteGuard && is_on(Mutant::ReleaseWithoutGuard) {
                    disk.pr.reservation = None;
                }
                done += 1;
            }
            next += 1;
        }
        if next < legs.len() {
            return Next::Again(Work::Retype { legs, to, next, done });
        }
        Next::Done(match to {
            FenceType::WriteGuard => Input::ReservationsReleased { op, released: done, of },
            FenceType::Exclusive => Input::ReservationsRestored { op, restored: done, of },
        })
    }

    fn check(&mut self, node: NodeId, op: Op, legs: &[(PoolId, u8)]) -> Next {
        let guard = Some(Holder { node: node.partner(), kind: 5 });
        let open = legs.iter().filter(|(pool, leg)| {
            let disk = &self.pair.leg(*pool, *leg).disk;
            let own = disk.pr.reservation.is_some_and(|holder| holder.node == node);
            !disk.reachable[node.index()] || own || disk.pr.reservation == guard
        });
        Next::Done(Input::ReleaseChecked { op, open: open.count() as u32, of: legs.len() as u32 })
    }

    fn initialise(&mut self, node: NodeId, op: Op, legs: &[(PoolId, u8)]) -> Next {
        let refused = legs.iter().any(|(pool, leg)| {
            let disk = &self.pair.leg(*pool, *leg).disk;
            disk.reachable[node.index()] && !disk.lets_read(node)
        });
        if refused {
            return Next::Done(Input::DiskInitConflicted { op });
        }
        let of = legs.len() as u32;
        let pools: BTreeSet<PoolId> = legs.iter().map(|(pool, _)| *pool).collect();
        let reached: Vec<(PoolId, u8)> = legs.iter().copied().filter(|it| self.reaches(node, *it)).collect();
        let pools: BTreeSet<PoolId> =
            pools.into_iter().filter(|pool| !reached.iter().any(|(other, _)| other == pool)).collect();
        let (inventory, found) = (inventory(&reached), reached.len() as u32);
        Next::Done(if pools.is_empty() {
            Input::DisksInitialised { op, inventory, found, of }
        } else {
            Input::PoolsUnopenable { op, inventory, found, of, pools }
        })
    }

    fn reaches(&self, node: NodeId, (pool, leg): (PoolId, u8)) -> bool {
        self.pair.leg(pool, leg).disk.reachable[node.index()]
    }

    fn open(&mut self, node: NodeId, op: Op, pool: PoolId, turn: Turn) -> Next {
        let good = self.pair.node(node).mounts[&pool].good;
        let legs = self.pair.shelf.legs[&pool].iter().enumerate();
        let readable = legs.filter(|(leg, it)| {
            good.contains(LegIndex(*leg as u8)) && it.disk.reachable[node.index()] && it.disk.lets_read(node)
        });
        let found = readable.map(|(_, leg)| leg.version).max();
        let outcome = match found {
            Some(version) => {
                let version = if turn == Turn::Stale { version.saturating_sub(1) } else { version };
                self.mount(node, pool).version = version;
                OpenOutcome::Opened { metadata_version: MetadataVersion(version) }
            }
            None => OpenOutcome::Failed,
        };
        Next::Done(Input::PoolOpened { op, pool, outcome })
    }

    fn hold(&mut self, node: NodeId, op: Op, pool: PoolId) -> Next {
        let mount = self.pair.node(node).mounts[&pool].clone();
        if mount.served != Served::Held {
            return Next::Done(Input::PoolNotHeld { op, pool, reason: NotHeld::DrainTimedOut });
        }
        let mut version = mount.version;
        if !mount.flushed {
            version += 1;
            // A leg that is written along is good as soon as that is recorded, and has to have this too.
            for leg in crate::clients::written(&self.pair, node, pool) {
                let it = self.pair.leg_mut(pool, leg);
                if !it.disk.reachable[node.index()] || !it.disk.pr.lets_write(node) {
                    return Next::Done(Input::PoolNotHeld { op, pool, reason: NotHeld::FlushFailed });
                }
                it.version = version;
            }
            let mount = self.mount(node, pool);
            (mount.version, mount.flushed) = (version, true);
        }
        let legs_are = if mount.equal { LegsAre::Equal } else { LegsAre::PerhapsDifferent };
        Next::Done(Input::PoolHeld { op, pool, metadata_version: MetadataVersion(version), legs_are })
    }

    fn prepare(&mut self, node: NodeId, op: Op, pools: &[PoolId]) -> Next {
        let mounts = &self.pair.node(node).mounts;
        let differing = pools.iter().filter(|pool| mounts[pool].served != Served::No && !mounts[pool].equal);
        let of_pools = differing.map(|pool| (*pool, BTreeSet::from([Veto::ResyncRunning]))).collect();
        let legs = pools.iter().flat_map(|pool| [(*pool, 0), (*pool, 1)]);
        let good = legs.filter(|(pool, leg)| mounts[pool].good.contains(LegIndex(*leg)));
        let reached: Vec<(PoolId, u8)> = good.filter(|it| self.reaches(node, *it)).collect();
        let findings = HandOffFindings {
            inventory: inventory(&reached),
            vetoes: BTreeSet::new(),
            of_pools,
            predicted_pause: Micros(0),
        };
        Next::Done(Input::HandOffPrepared { op, findings })
    }

    // ---- what lands late

    /// A record of unknown outcome lands, or it turns out that it never will.
    pub fn settle_record(&mut self, at: usize, owner: NodeId, lands: Lands) {
        let disk = &mut self.pair.shelf_mut().lock_disks[at];
        let Some(found) = disk.late.iter().position(|(node, _)| *node == owner) else { return };
        let (_, record) = disk.late.remove(found);
        if lands == Lands::Yes {
            disk.store(owner, &record);
            crate::laws::stored(&mut self.pair, &record);
        }
    }
}

/// What becomes of something on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Lands {
    /// It gets there.
    Yes,
    /// It never will.
    Never,
}

/// The same on both nodes for the same legs.
fn inventory(legs: &[(PoolId, u8)]) -> u64 {
    legs.iter().map(|(pool, leg)| 1 << (2 * pool.0 + u32::from(*leg))).sum()
}
