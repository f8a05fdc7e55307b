//! Orders being carried out, one small step at a time.
//!
//! Not here: the bookkeeping of what a driver serves ([`super::driver`]). The one idea: between any two steps anything can happen,
//! also the death of the process.

use std::collections::BTreeSet;

use super::disks::InFlight;
use super::{Served, What, World};
use crate::effect::{Entry, FenceKind};
use crate::fence::{DiskFence, FenceMove, FenceType, PlacedFence, Registered, fence_move, judge_pool};
use crate::input::{HandOffFindings, Input, JoinOutcome, NotHeld, OpenOutcome, WriteOutcome};
use crate::invariants::Holder;
use crate::key::ReservationKey;
use crate::record::Record;
use crate::survey::{ContestMove, LockDiskView, Survey, contest_move};
use crate::words::{Generation, LegSet, Micros, MirrorIndex, NodeId, Op, PoolId};

/// One order under way.
#[derive(Debug, Clone)]
pub(crate) struct Task {
    pub(crate) op: Op,
    pub(crate) kind: Kind,
}

/// A disk of a pool.
pub(crate) type Leg = (PoolId, u8);

#[derive(Debug, Clone)]
pub(crate) enum Kind {
    Survey { solicited: Solicited, disks: Vec<Option<LockDiskView>> },
    Join { key: ReservationKey, which: BTreeSet<usize>, disks: Vec<JoinOutcome> },
    Contest { contest: Contest, disks: Vec<Option<Vec<ReservationKey>>> },
    Record { record: Box<Record>, disks: Vec<WriteOutcome> },
    Fence { fence: Fence, ends: Vec<PlacedFence> },
    Retype { legs: Vec<Leg>, to: FenceType, done: u32, next: usize },
    Check { legs: Vec<Leg>, open: u32, next: usize },
    Init { legs: Vec<Leg>, next: usize },
    Open { pool: PoolId, generation: Generation },
    Hold { pool: PoolId, until: Micros },
    Prepare { pools: Vec<PoolId> },
    Portals,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Solicited {
    Ordered,
    AfterBeat,
}

#[derive(Debug, Clone)]
pub(crate) struct Contest {
    pub(crate) key: ReservationKey,
    pub(crate) entry: Entry,
    pub(crate) here: Entry,
    pub(crate) victim: Option<ReservationKey>,
    pub(crate) stopped: bool,
}

#[derive(Debug, Clone)]
pub(crate) struct Fence {
    pub(crate) pool: PoolId,
    pub(crate) own: ReservationKey,
    pub(crate) kind: FenceKind,
    pub(crate) good: LegSet,
    pub(crate) registered: Registered,
    pub(crate) next: u8,
}

enum Next {
    Again(Kind),
    Done(Input),
}

fn type_number(kind: FenceType) -> u8 {
    match kind {
        FenceType::WriteGuard => 5,
        FenceType::Exclusive => 6,
    }
}

fn aborts_exactly() -> bool {
    #[cfg(feature = "mutants")]
    return !crate::mutants::is_on(crate::mutants::Mutant::PlainPreempt);
    #[cfg(not(feature = "mutants"))]
    true
}

impl World {
    pub(crate) fn begin_task(&mut self, node: NodeId, op: Op, kind: Kind) {
        let id = self.next_task;
        self.next_task += 1;
        let it = &mut self.nodes[node.index()];
        let queue = match &kind {
            Kind::Record { .. } => Some(&mut it.record_queue),
            Kind::Fence { .. } | Kind::Retype { .. } => Some(it.pool_queues.entry(PoolId(0)).or_default()),
            _ => None,
        };
        it.tasks.insert(id, Task { op, kind });
        let first = queue.is_none_or(|queue| {
            queue.push(id);
            queue.len() == 1
        });
        if first {
            self.next_step(node, id);
        }
    }

    fn next_step(&mut self, node: NodeId, id: u64) {
        let longest = self.chaos.step_us;
        let mut length = longest / 10 + self.dice.below(longest);
        if self.dice.once_in(self.chaos.slow_step) {
            length *= 50;
        }
        self.after(node, What::Step(id), length);
    }

    pub(crate) fn step_task(&mut self, node: NodeId, id: u64) {
        let Some(task) = self.nodes[node.index()].tasks.remove(&id) else { return };
        let op = task.op;
        match self.one_step(node, op, task.kind) {
            Next::Again(kind) => {
                self.nodes[node.index()].tasks.insert(id, Task { op, kind });
                self.next_step(node, id);
            }
            Next::Done(input) => {
                let it = &mut self.nodes[node.index()];
                let mut queues: Vec<&mut Vec<u64>> = it.pool_queues.values_mut().collect();
                queues.push(&mut it.record_queue);
                let mut next = None;
                for queue in queues {
                    if queue.first() == Some(&id) {
                        queue.remove(0);
                        next = queue.first().copied();
                    }
                }
                if let Some(next) = next {
                    self.next_step(node, next);
                }
                self.input(node, input);
            }
        }
    }

    fn one_step(&mut self, node: NodeId, op: Op, kind: Kind) -> Next {
        let reads_only = matches!(
            kind,
            Kind::Survey { .. } | Kind::Check { .. } | Kind::Init { .. } | Kind::Open { .. } | Kind::Hold { .. }
        );
        self.changed |= !reads_only;
        match kind {
            Kind::Survey { solicited, disks } => self.survey_step(node, op, solicited, disks),
            Kind::Join { key, which, disks } => self.join_step(node, op, key, (which, disks)),
            Kind::Contest { contest, disks } => self.contest_step(node, op, contest, disks),
            Kind::Record { record, disks } => self.record_step(node, op, record, disks),
            Kind::Fence { fence, ends } => self.fence_step(node, op, fence, ends),
            Kind::Retype { legs, to, done, next } => self.retype_step(node, op, legs, to, (done, next)),
            Kind::Check { legs, open, next } => self.check_step(node, op, legs, open, next),
            Kind::Init { legs, next } => self.init_step(node, op, legs, next),
            Kind::Open { pool, generation } => self.open_step(node, op, pool, generation),
            Kind::Hold { pool, until } => self.hold_step(node, op, pool, until),
            Kind::Prepare { pools } => {
                let findings = HandOffFindings {
                    inventory: inventory(&pools),
                    vetoes: BTreeSet::new(),
                    of_pools: self.vetoes_of(node, &pools),
                    predicted_pause: Micros(900),
                };
                Next::Done(Input::HandOffPrepared { op, findings })
            }
            Kind::Portals => Next::Done(Input::PortalsOpened { op }),
        }
    }

    fn survey_step(
        &mut self,
        node: NodeId,
        op: Op,
        solicited: Solicited,
        mut disks: Vec<Option<LockDiskView>>,
    ) -> Next {
        self.end_late_record(node, disks.len());
        let disk = &self.lock_disks[disks.len()];
        disks.push((!disk.cut[node.index()]).then(|| disk.view()));
        if disks.len() < self.lock_disks.len() {
            return Next::Again(Kind::Survey { solicited, disks });
        }
        let op = (solicited == Solicited::Ordered).then_some(op);
        Next::Done(Input::Surveyed { op, survey: Box::new(Survey { disks }) })
    }

    fn join_step(
        &mut self,
        node: NodeId,
        op: Op,
        key: ReservationKey,
        (which, mut disks): (BTreeSet<usize>, Vec<JoinOutcome>),
    ) -> Next {
        let asked = which.contains(&disks.len());
        let disk = &mut self.lock_disks[disks.len()];
        if disk.cut[node.index()] || !asked {
            disks.push(JoinOutcome::Unreachable);
        } else {
            disk.keys[node.index()] = Some(key);
            // What an earlier run of this node had under way is aborted with its key.
            disk.late.retain(|(owner, record)| *owner != node || record.incarnation.low() as u64 == key.0 & 0xffff);
            disks.push(JoinOutcome::Joined);
        }
        if disks.len() < self.lock_disks.len() {
            return Next::Again(Kind::Join { key, which, disks });
        }
        Next::Done(Input::LockDisksJoined { op, disks })
    }

    fn contest_step(
        &mut self,
        node: NodeId,
        op: Op,
        mut contest: Contest,
        mut disks: Vec<Option<Vec<ReservationKey>>>,
    ) -> Next {
        let disk = &mut self.lock_disks[disks.len()];
        if contest.stopped || disk.cut[node.index()] {
            disks.push(None);
            contest.here = contest.entry;
        } else {
            let keys: Vec<ReservationKey> = disk.keys.iter().flatten().copied().collect();
            match contest_move(&keys, contest.key, contest.victim, contest.here) {
                ContestMove::Register => {
                    disk.keys[node.index()] = Some(contest.key);
                    contest.here = Entry::Registered;
                }
                ContestMove::PreemptAndAbort(_) => disk.preempt_and_abort(node),
                ContestMove::Next => {
                    disks.push(Some(keys));
                    contest.here = contest.entry;
                }
                ContestMove::Stop => {
                    disks.push(Some(keys));
                    contest.stopped = true;
                }
            }
        }
        if disks.len() < self.lock_disks.len() {
            return Next::Again(Kind::Contest { contest, disks });
        }
        Next::Done(Input::LockDisksContested { op, disks })
    }

    fn record_step(&mut self, node: NodeId, op: Op, record: Box<Record>, mut disks: Vec<WriteOutcome>) -> Next {
        let at = disks.len();
        let unknown = self.dice.once_in(self.chaos.record_unknown);
        let lost = self.dice.once_in(2);
        let disk = &mut self.lock_disks[at];
        // An earlier write to this disk can land no more once the session was made anew for this one.
        disk.late.retain(|(owner, _)| *owner != node);
        let outcome = if disk.cut[node.index()] || disk.keys[node.index()].is_none() {
            WriteOutcome::Failed
        } else if unknown && lost {
            WriteOutcome::Unknown
        } else if unknown {
            disk.late.push((node, (*record).clone()));
            self.record_later(at, node, record.sequence);
            WriteOutcome::Unknown
        } else {
            disk.store(node, &record);
            WriteOutcome::Written
        };
        disks.push(outcome);
        if disks.len() < self.lock_disks.len() {
            return Next::Again(Kind::Record { record, disks });
        }
        Next::Done(Input::RecordWritten { op, disks })
    }

    /// A write of unknown outcome ended its session; whatever this node sends to the disk next goes through a new one, and by then the old
    /// write has landed or never will.
    fn end_late_record(&mut self, node: NodeId, at: usize) {
        let late = self.lock_disks[at].late.iter().find(|(owner, _)| *owner == node).map(|(_, record)| record.sequence);
        let Some(sequence) = late.filter(|_| !self.lock_disks[at].cut[node.index()]) else { return };
        self.changed = true;
        if self.dice.once_in(2) {
            self.land_record(at, node, sequence);
        } else {
            self.lock_disks[at].late.retain(|(owner, _)| *owner != node);
        }
    }

    pub(crate) fn land_record(&mut self, at: usize, node: NodeId, sequence: u64) {
        let disk = &mut self.lock_disks[at];
        let found = disk.late.iter().position(|(owner, record)| *owner == node && record.sequence == sequence);
        if let Some(found) = found {
            let (_, record) = disk.late.swap_remove(found);
            disk.store(node, &record);
        }
    }

    fn fence_step(&mut self, node: NodeId, op: Op, mut fence: Fence, mut ends: Vec<PlacedFence>) -> Next {
        let run = self.nodes[node.index()].run;
        let leg = fence.next;
        let Some(disk) = self.pool_disks.get_mut(&fence.pool).and_then(|disks| disks.get_mut(leg as usize)) else {
            return Next::Done(Input::PoolFenced { op, pool: fence.pool, outcome: judge_pool(&ends) });
        };
        let next = if disk.reachable[node.index()] {
            fence_move(&disk.standing(), fence.own, fence.kind, fence.registered)
        } else {
            FenceMove::End(DiskFence::Unreached)
        };
        match next {
            FenceMove::Register => {
                disk.register(node, fence.own);
                disk.in_flight.retain(|write| write.node != node || write.run == run);
                fence.registered = Registered::Already;
            }
            FenceMove::PreemptAndAbort(victim, kind) => {
                disk.preempt(node, victim, type_number(kind), aborts_exactly());
            }
            FenceMove::Reserve(kind) | FenceMove::ChangeType(kind) => disk.hold(node, type_number(kind)),
            FenceMove::End(end) => {
                if fence.good.contains(crate::words::LegIndex(leg)) {
                    ends.push((MirrorIndex(0), crate::words::LegIndex(leg), end));
                }
                fence.next += 1;
                fence.registered = Registered::NotYet;
            }
        }
        Next::Again(Kind::Fence { fence, ends })
    }

    fn retype_step(
        &mut self,
        node: NodeId,
        op: Op,
        legs: Vec<Leg>,
        to: FenceType,
        (mut done, next): (u32, usize),
    ) -> Next {
        let of = legs.len() as u32;
        let Some((pool, leg)) = legs.get(next).copied() else {
            return Next::Done(match to {
                FenceType::WriteGuard => Input::ReservationsReleased { op, released: done, of },
                FenceType::Exclusive => Input::ReservationsRestored { op, restored: done, of },
            });
        };
        let disk = self.disk(pool, leg);
        let holds = disk.pr.reservation.is_some_and(|holder| holder.node == node);
        if disk.reachable[node.index()] && holds {
            disk.hold(node, type_number(to));
            #[cfg(feature = "mutants")]
            if to == FenceType::WriteGuard && crate::mutants::is_on(crate::mutants::Mutant::ReleaseWithoutGuard) {
                disk.pr.reservation = None;
            }
            done += 1;
        }
        Next::Again(Kind::Retype { legs, to, done, next: next + 1 })
    }

    fn check_step(&mut self, node: NodeId, op: Op, legs: Vec<Leg>, mut open: u32, next: usize) -> Next {
        let of = legs.len() as u32;
        let Some((pool, leg)) = legs.get(next).copied() else {
            return Next::Done(Input::ReleaseChecked { op, open, of });
        };
        let disk = self.disk(pool, leg);
        let guard = Some(Holder { node: node.partner(), kind: 5 });
        // Still this node's own: the partner could not fence it, and it does not stand in the way of reading.
        let own = disk.pr.reservation.is_some_and(|holder| holder.node == node);
        if !disk.reachable[node.index()] || own || disk.pr.reservation == guard {
            open += 1;
        }
        Next::Again(Kind::Check { legs, open, next: next + 1 })
    }

    fn init_step(&mut self, node: NodeId, op: Op, legs: Vec<Leg>, next: usize) -> Next {
        let of = legs.len() as u32;
        let Some((pool, leg)) = legs.get(next).copied() else {
            let mut pools: Vec<PoolId> = legs.iter().map(|leg| leg.0).collect();
            pools.dedup();
            return Next::Done(Input::DisksInitialised { op, inventory: inventory(&pools), found: of, of });
        };
        let disk = self.disk(pool, leg);
        if disk.reachable[node.index()] && !disk.lets_read(node) {
            return Next::Done(Input::DiskInitConflicted { op });
        }
        Next::Again(Kind::Init { legs, next: next + 1 })
    }

    fn open_step(&mut self, node: NodeId, op: Op, pool: PoolId, _generation: Generation) -> Next {
        let good = self.nodes[node.index()].mounts[&pool].good;
        let disks = &self.pool_disks[&pool];
        let readable = disks.iter().enumerate().any(|(leg, disk)| {
            good.contains(crate::words::LegIndex(leg as u8)) && disk.reachable[node.index()] && disk.lets_read(node)
        });
        let outcome = if readable {
            OpenOutcome::Opened { metadata_version: crate::words::MetadataVersion(1) }
        } else {
            OpenOutcome::Failed
        };
        Next::Done(Input::PoolOpened { op, pool, outcome })
    }

    fn hold_step(&mut self, node: NodeId, op: Op, pool: PoolId, until: Micros) -> Next {
        let late = self.now >= until;
        let mount = &self.nodes[node.index()].mounts[&pool];
        if mount.served != Served::Held || (late && mount.outstanding.is_some()) {
            return Next::Done(Input::PoolNotHeld { op, pool, reason: NotHeld::DrainTimedOut });
        }
        if mount.outstanding.is_some() {
            return Next::Again(Kind::Hold { pool, until });
        }
        let legs_are = self.legs_are(node, pool);
        let metadata_version = crate::words::MetadataVersion(1);
        Next::Done(Input::PoolHeld { op, pool, metadata_version, legs_are })
    }

    pub(crate) fn disk(&mut self, pool: PoolId, leg: u8) -> &mut super::disks::PoolDisk {
        // PANIC: legs come from this world's own tables.
        &mut self.pool_disks.get_mut(&pool).expect("a pool of this world")[leg as usize]
    }

    pub(crate) fn accept_write(&mut self, node: NodeId, pool: PoolId, leg: u8, value: u64) {
        let run = self.nodes[node.index()].run;
        self.disk(pool, leg).in_flight.push(InFlight { node, run, value });
        self.land_later(pool, leg, value);
    }
}

/// The same on both nodes for the same pools.
fn inventory(pools: &[PoolId]) -> u64 {
    pools.iter().fold(17, |digest, pool| digest * 31 + u64::from(pool.0))
}
