//! Chunks for thin volumes: chosen, made blank, and recorded before anything is written to them.
//!
//! Problem: the first write to a chunk of a thin volume needs a place that no disk knows of yet. What is acknowledged must be found by
//! whoever owns the pool next, and what the chunk held before must never be seen, wherever power fails in between.
//!
//! Idea: three steps, each proved before the next. The chunk is made blank on every leg that counts, and flushed. The metadata in which
//! the volume has it is written to every good leg of the pool (`crate::commit`). Only then the write goes there. A crash after the first
//! step leaves a free chunk, after the second one that reads as zeroes, which is what the volume showed there before.
//!
//! One round at a time, for everything that came while the last one was under way: any number of volumes and commands share the flushes
//! and the metadata write. A volume whose client writes one chunk after the other gets some ahead, so that it pays once for many; not
//! when the pool is nearly full, where chunks that are never used would be missed elsewhere.
//!
//! A chunk that is *chosen* is not in the metadata yet and is nobody else's; [`Chosen`] gives it up when dropped, whether it was
//! recorded by then or not. While a round is under way no leg becomes good again (`crate::take_back`): it would lack what the round
//! made blank.
//!
//! Rejected: the data first and the chunk made blank around it afterwards (one write fewer, but old data on the disk shows after a
//! crash); chunks made blank beforehand and remembered (saves the client's wait, but not the metadata write that follows).

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Range;
use std::rc::Rc;

use futures_util::future::{join_all, try_join_all};
use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use tokio::sync::{Mutex, MutexGuard, oneshot};
use tokio::task::spawn_local;
use understudy_layout::Uuid;
use understudy_layout::allocate::{AllocateError, Free};
use understudy_layout::metadata::{Metadata, Run};
use understudy_layout::thin::unmapped;

use crate::mirror::{MirrorFault, REGION_BYTES};
use crate::pool::{Pool, VolumeError, detached};
use crate::thin::Held;

/// Regions made blank at once: enough to keep a few disks busy.
const CLEARED_AT_ONCE: usize = 8;

/// Requests that share a round. Each is a change of the metadata, of which only so many are written together.
const MOST_TOGETHER: usize = 64;

/// Bytes a volume gets ahead at most: some ten milliseconds of a fast client's writes.
pub const MOST_AHEAD_BYTES: u64 = 16 << 20;

/// Nothing is given ahead once less than one part in so many of the pool is free.
const SPARE_PARTS: u64 = 8;

/// What a command needs before it can write.
struct Wanted {
    volume: Uuid,
    needed: Vec<Range<u32>>,
    ahead: Range<u32>,
    answer: oneshot::Sender<Result<(), VolumeError>>,
}

/// A request with the chunks chosen for it.
struct Granted {
    volume: Uuid,
    runs: Vec<Run>,
    answer: oneshot::Sender<Result<(), VolumeError>>,
}

/// The chunks of a pool on their way to a volume.
#[derive(Default)]
pub struct Allotting {
    /// Held by a round, and by a leg that becomes part of its mirror again.
    turn: Mutex<()>,
    /// In the order they came. BOUND: one of each command under way.
    wanted: RefCell<VecDeque<Wanted>>,
    chosen: Rc<RefCell<ChosenRuns>>,
}

/// By number, so that each choice can be given up.
#[derive(Default)]
struct ChosenRuns {
    next: u64,
    runs: BTreeMap<u64, Vec<Run>>,
}

/// Chunks that are nobody else's as long as this lives.
pub struct Chosen {
    number: u64,
    all: Rc<RefCell<ChosenRuns>>,
}

impl Drop for Chosen {
    fn drop(&mut self) {
        self.all.borrow_mut().runs.remove(&self.number);
    }
}

impl Allotting {
    /// Every chunk that is chosen and may not be recorded yet.
    pub fn chosen(&self) -> Vec<Run> {
        self.chosen.borrow().runs.values().flatten().copied().collect()
    }

    /// Keeps these chunks from everybody else.
    pub fn choose(&self, runs: &[Run]) -> Chosen {
        let mut all = self.chosen.borrow_mut();
        let number = all.next;
        all.next += 1;
        all.runs.insert(number, runs.to_vec());
        Chosen { number, all: Rc::clone(&self.chosen) }
    }

    /// No round is under way, and none begins, as long as this lives.
    pub async fn turn(&self) -> MutexGuard<'_, ()> {
        self.turn.lock().await
    }
}

impl Pool {
    /// Gives a thin volume the chunks it lacks of these, and perhaps those `ahead`. Once begun it is carried through.
    pub(crate) async fn allot(
        &self,
        volume: Uuid,
        needed: Vec<Range<u32>>,
        ahead: Range<u32>,
    ) -> Result<(), VolumeError> {
        let me = self.me.upgrade().ok_or(VolumeError::Fenced)?;
        let (answer, outcome) = oneshot::channel();
        self.allotting.wanted.borrow_mut().push_back(Wanted { volume, needed, ahead, answer });
        // As many rounds as requests, and each takes one or more: none is left behind.
        spawn_local(async move { me.allot_what_is_wanted().await });
        // The task ends without an answer only when the runtime goes down, and then nobody is answered any more.
        outcome.await.unwrap_or(Err(VolumeError::Fenced))
    }

    async fn allot_what_is_wanted(&self) {
        let _turn = self.allotting.turn().await;
        let wanted: Vec<_> = {
            let mut waiting = self.allotting.wanted.borrow_mut();
            let together = waiting.len().min(MOST_TOGETHER);
            waiting.drain(..together).collect()
        };
        let granted = self.choose_for(wanted);
        if granted.is_empty() {
            return;
        }
        let runs: Vec<Run> = granted.iter().flat_map(|granted| &granted.runs).copied().collect();
        let _chosen = self.allotting.choose(&runs);
        if let Err(fault) = self.make_blank(&runs).await {
            granted.into_iter().for_each(|granted| answer(granted.answer, Err(fault.into())));
            return;
        }
        // Asked for all at once, so that they share a write; each may still be refused alone.
        let commits = granted.into_iter().map(|granted| async move {
            let Granted { volume, runs, answer } = granted;
            let outcome = match runs.is_empty() {
                true => Ok(()),
                false => self.commit(move |metadata| metadata.with_chunks(volume, &runs)).await.map(drop),
            };
            self.adopt_map(volume);
            (answer, outcome)
        });
        // Answered together: one may have been given what another waited for.
        join_all(commits).await.into_iter().for_each(|(waiting, outcome)| answer(waiting, outcome));
    }

    /// Chooses chunks for each; those that cannot get any are answered.
    fn choose_for(&self, wanted: Vec<Wanted>) -> Vec<Granted> {
        let metadata = self.metadata();
        let mut free = metadata.free(&self.allotting.chosen());
        let mut promised: BTreeMap<Uuid, Vec<Run>> = BTreeMap::new();
        let mut granted: Vec<Granted> = Vec::new();
        for wanted in wanted {
            let mine = promised.entry(wanted.volume).or_default();
            match plan(&metadata, &wanted, mine, &mut free) {
                // What an earlier request of this round gets already is not chosen again, so there may be nothing left.
                Ok(runs) => {
                    mine.extend(&runs);
                    mine.sort_unstable_by_key(|run| run.logical);
                    granted.push(Granted { volume: wanted.volume, runs, answer: wanted.answer });
                }
                Err(refused) => answer(wanted.answer, Err(refused.into())),
            }
        }
        granted
    }

    /// Makes these chunks read as zeroes on every leg that counts, on the medium.
    async fn make_blank(&self, runs: &[Run]) -> Result<(), MirrorFault> {
        self.clear(runs).await?;
        let used: BTreeSet<u16> = runs.iter().map(|run| run.mirror).collect();
        try_join_all(used.into_iter().map(|mirror| self.mirrors[usize::from(mirror)].flush())).await.map(drop)
    }

    /// Makes these chunks read as zeroes on every leg that counts: whole chunks, because what lies behind a volume's end must be equal,
    /// too.
    pub(crate) async fn clear(&self, runs: &[Run]) -> Result<(), MirrorFault> {
        let chunk = u64::from(self.metadata.borrow().chunk_bytes);
        let regions = runs.iter().flat_map(|run| {
            let first = u64::from(run.physical) * chunk;
            let end = first + u64::from(run.chunks) * chunk;
            (first..end).step_by(REGION_BYTES as usize).map(|offset| (run.mirror, offset))
        });
        let clears = regions.map(|(mirror, offset)| {
            let mirror = Rc::clone(&self.mirrors[usize::from(mirror)]);
            async move { mirror.clear(offset, REGION_BYTES).await }
        });
        stream::iter(clears).map(Ok).try_for_each_concurrent(CLEARED_AT_ONCE, |clear| clear).await
    }

    /// Takes these chunks from a thin volume; they are free when this returns. Nothing may be under way on them: `held` keeps it so
    /// until the change has an outcome, also if the caller goes away.
    pub(crate) async fn take_chunks(
        &self,
        volume: Uuid,
        places: Vec<Range<u32>>,
        held: Held,
    ) -> Result<(), VolumeError> {
        let me = self.me.upgrade().ok_or(VolumeError::Fenced)?;
        detached(async move {
            let taken = me.commit(move |metadata| metadata.without_chunks(volume, &places)).await;
            me.adopt_map(volume);
            drop(held);
            taken.map(drop)
        })
        .await
    }
}

/// Chunks for what a request needs and neither the volume nor `promised` has, and for what is ahead if there is plenty.
fn plan(metadata: &Metadata, wanted: &Wanted, promised: &[Run], free: &mut Free) -> Result<Vec<Run>, AllocateError> {
    let volume = wanted.volume;
    let map = &metadata.volumes.get(&volume).ok_or(AllocateError::NoSuchVolume(volume))?.runs;
    let missing = |place: &Range<u32>| {
        let holes = unmapped(map, place.clone());
        holes.into_iter().flat_map(|hole| unmapped(promised, hole)).collect::<Vec<_>>()
    };
    let count = |places: &[Range<u32>]| places.iter().map(|place| u64::from(place.end - place.start)).sum::<u64>();
    let mut places: Vec<_> = wanted.needed.iter().flat_map(missing).collect();
    let ahead = missing(&wanted.ahead);
    let all: u64 = metadata.mirrors.iter().map(|mirror| u64::from(mirror.chunks)).sum();
    let left = free.chunks().saturating_sub(count(&places) + count(&ahead));
    if !places.is_empty() && left > all / SPARE_PARTS {
        places.extend(ahead);
    }
    metadata.plan_chunks(volume, &joined(places), free)
}

/// Places that touch made one, so that what belongs together comes to lie together.
fn joined(mut places: Vec<Range<u32>>) -> Vec<Range<u32>> {
    places.sort_unstable_by_key(|place| place.start);
    let mut out: Vec<Range<u32>> = Vec::with_capacity(places.len());
    for place in places {
        match out.last_mut() {
            Some(last) if last.end >= place.start => last.end = last.end.max(place.end),
            Some(_) | None => out.push(place),
        }
    }
    out
}

fn answer(waiting: oneshot::Sender<Result<(), VolumeError>>, outcome: Result<(), VolumeError>) {
    // Whoever asked may be gone; what was asked is carried through all the same.
    let _ = waiting.send(outcome);
}
