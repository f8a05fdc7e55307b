//! The task set: which commands there are, whether one may start, and which are to be aborted (SAM-5 r21 §8).
//!
//! Each I_T nexus has a task set of its own (TST 001b): ordering never reaches across nexuses, so a client that never
//! sends its data stalls only itself. With no ordered or head-of-queue task about, starting a simple one costs two
//! comparisons. An aborted task stays listed until its driver has noticed; at the medium it stays until the medium is
//! done, because only then is it really over.

use crate::nexus::{NexusId, TaskAttribute};

/// Name of a task; a later task in the same slot has another stamp.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TaskId {
    slot: u32,
    stamp: u32,
}

/// Whether a task may start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// Yes.
    Go,
    /// An older task of the same nexus has to end first.
    Wait,
    /// It was aborted.
    Aborted,
}

/// Who caused an abort.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AbortedBy {
    /// The nexus whose task it is.
    Itself,
    /// Another nexus, or the unit.
    Another,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Free,
    Waiting,
    AtMedium,
}

#[derive(Debug)]
struct Entry {
    stamp: u32,
    place: Place,
    aborted: Option<AbortedBy>,
    nexus: NexusId,
    tag: u32,
    attribute: TaskAttribute,
    sequence: u64,
}

/// Most tasks one nexus may have before TASK SET FULL: far above any command window, a stop for a portal gone wrong.
pub(crate) const MOST_TASKS_OF_A_NEXUS: u32 = 4096;

/// Counters of one nexus that keep the common case free of scans.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct TaskCounts {
    pub(crate) all: u32,
    /// Ordered and head-of-queue tasks.
    pub(crate) rigid: u32,
}

/// Every task of a unit.
#[derive(Debug, Default)]
pub(crate) struct TaskSet {
    // BOUND: MOST_TASKS_OF_A_NEXUS for each attached nexus.
    entries: Vec<Entry>,
    free: Vec<u32>,
    next_sequence: u64,
    at_medium: usize,
}

impl TaskSet {
    /// Enters a task.
    pub(crate) fn enter(
        &mut self,
        counts: &mut TaskCounts,
        nexus: NexusId,
        tag: u32,
        attribute: TaskAttribute,
    ) -> TaskId {
        self.next_sequence += 1;
        counts.all += 1;
        counts.rigid += u32::from(attribute != TaskAttribute::Simple);
        let sequence = self.next_sequence;
        let fresh = Entry { stamp: 0, place: Place::Waiting, aborted: None, nexus, tag, attribute, sequence };
        if let Some(slot) = self.free.pop() {
            let entry = &mut self.entries[slot as usize];
            let stamp = entry.stamp.wrapping_add(1);
            *entry = Entry { stamp, ..fresh };
            return TaskId { slot, stamp };
        }
        let slot = self.entries.len() as u32;
        self.entries.push(fresh);
        TaskId { slot, stamp: 0 }
    }

    fn entry(&self, id: TaskId) -> Option<&Entry> {
        self.entries.get(id.slot as usize).filter(|entry| entry.stamp == id.stamp && entry.place != Place::Free)
    }

    /// Whether the task may start.
    pub(crate) fn admission(&self, id: TaskId, counts: TaskCounts) -> Admission {
        let Some(entry) = self.entry(id) else { return Admission::Aborted };
        if entry.aborted.is_some() {
            return Admission::Aborted;
        }
        match entry.attribute {
            TaskAttribute::HeadOfQueue => Admission::Go,
            TaskAttribute::Simple if counts.rigid == 0 => Admission::Go,
            TaskAttribute::Simple => self.behind(entry, |older| older.attribute != TaskAttribute::Simple),
            TaskAttribute::Ordered => self.behind(entry, |_| true),
        }
    }

    fn behind(&self, entry: &Entry, blocks: impl Fn(&Entry) -> bool) -> Admission {
        let waits = self.entries.iter().any(|older| {
            older.place != Place::Free
                && older.nexus == entry.nexus
                && older.sequence < entry.sequence
                // An aborted task at the medium still changes blocks; one that is not there is over.
                && (older.aborted.is_none() || older.place == Place::AtMedium)
                && blocks(older)
        });
        if waits { Admission::Wait } else { Admission::Go }
    }

    /// Who aborted the task, if anybody did.
    pub(crate) fn aborted(&self, id: TaskId) -> Option<AbortedBy> {
        self.entry(id).map_or(Some(AbortedBy::Itself), |entry| entry.aborted)
    }

    /// The task goes to the medium.
    pub(crate) fn start(&mut self, id: TaskId) {
        assert!(self.entry(id).is_some_and(|entry| entry.place == Place::Waiting), "a task starts once");
        self.entries[id.slot as usize].place = Place::AtMedium;
        self.at_medium += 1;
    }

    /// The task is over.
    pub(crate) fn end(&mut self, id: TaskId, counts: Option<&mut TaskCounts>) {
        let Some(entry) = self.entry(id) else { return };
        let was_at_medium = entry.place == Place::AtMedium;
        if let Some(counts) = counts {
            counts.all -= 1;
            counts.rigid -= u32::from(entry.attribute != TaskAttribute::Simple);
        }
        self.at_medium -= usize::from(was_at_medium);
        self.entries[id.slot as usize].place = Place::Free;
        self.free.push(id.slot);
    }

    /// The nexus of a task.
    pub(crate) fn nexus(&self, id: TaskId) -> Option<NexusId> {
        self.entry(id).map(|entry| entry.nexus)
    }

    /// Whether the task is at the medium right now.
    pub(crate) fn is_at_medium(&self, id: TaskId) -> bool {
        self.entry(id).is_some_and(|entry| entry.place == Place::AtMedium)
    }

    /// Tasks at the medium.
    pub(crate) fn at_medium(&self) -> usize {
        self.at_medium
    }

    /// Every task at the medium right now.
    pub(crate) fn those_at_medium(&self) -> Vec<TaskId> {
        let entries = self.entries.iter().enumerate().filter(|(_, entry)| entry.place == Place::AtMedium);
        entries.map(|(slot, entry)| TaskId { slot: slot as u32, stamp: entry.stamp }).collect()
    }

    /// Live tasks of a nexus with this tag.
    pub(crate) fn find(&self, nexus: NexusId, tag: u32) -> Option<TaskId> {
        self.entries
            .iter()
            .enumerate()
            .find(|(_, entry)| {
                entry.place != Place::Free && entry.nexus == nexus && entry.tag == tag && entry.aborted.is_none()
            })
            .map(|(slot, entry)| TaskId { slot: slot as u32, stamp: entry.stamp })
    }

    /// Aborts every task that `chosen` names, and answers them all.
    pub(crate) fn abort(&mut self, mut chosen: impl FnMut(TaskId, NexusId) -> Option<AbortedBy>) -> Vec<Aborting> {
        let mut aborting = Vec::new();
        for (slot, entry) in self.entries.iter_mut().enumerate() {
            let id = TaskId { slot: slot as u32, stamp: entry.stamp };
            if entry.place == Place::Free {
                continue;
            }
            let Some(by) = chosen(id, entry.nexus) else { continue };
            entry.aborted.get_or_insert(by);
            // A task aborted earlier is answered all the same: the medium does not know that it was.
            aborting.push(Aborting { task: id, nexus: entry.nexus, at_medium: entry.place == Place::AtMedium });
        }
        aborting
    }
}

/// A task that was told to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Aborting {
    pub(crate) task: TaskId,
    pub(crate) nexus: NexusId,
    /// Whether it has to be waited for: elsewhere it can never start any more.
    pub(crate) at_medium: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use TaskAttribute::{HeadOfQueue, Ordered, Simple};

    const A: NexusId = NexusId(0);
    const B: NexusId = NexusId(1);

    /// SAM-5 r21 §8.6.3.
    #[test]
    fn ordered_waits_for_older_and_holds_up_younger_of_its_nexus_only() {
        let (mut tasks, mut counts, mut foreign) = (TaskSet::default(), TaskCounts::default(), TaskCounts::default());
        let old = tasks.enter(&mut counts, A, 1, Simple);
        let ordered = tasks.enter(&mut counts, A, 2, Ordered);
        let young = tasks.enter(&mut counts, A, 3, Simple);
        let other = tasks.enter(&mut foreign, B, 1, Simple);
        let head = tasks.enter(&mut counts, A, 4, HeadOfQueue);
        assert_eq!(tasks.admission(old, counts), Admission::Go);
        assert_eq!(tasks.admission(ordered, counts), Admission::Wait);
        assert_eq!(tasks.admission(young, counts), Admission::Wait);
        assert_eq!(tasks.admission(other, foreign), Admission::Go);
        assert_eq!(tasks.admission(head, counts), Admission::Go);
        tasks.end(old, Some(&mut counts));
        assert_eq!(tasks.admission(ordered, counts), Admission::Go);
        tasks.end(ordered, Some(&mut counts));
        assert_eq!(tasks.admission(young, counts), Admission::Go);
    }

    #[test]
    fn an_aborted_task_blocks_ordering_only_while_at_the_medium() {
        let (mut tasks, mut counts) = (TaskSet::default(), TaskCounts::default());
        let old = tasks.enter(&mut counts, A, 1, Simple);
        let ordered = tasks.enter(&mut counts, A, 2, Ordered);
        tasks.start(old);
        let aborted = tasks.abort(|task, _| (task == old).then_some(AbortedBy::Itself));
        assert_eq!(aborted.len(), 1);
        assert_eq!(tasks.admission(ordered, counts), Admission::Wait);
        tasks.end(old, Some(&mut counts));
        assert_eq!(tasks.admission(ordered, counts), Admission::Go);
    }

    #[test]
    fn a_stale_name_does_nothing_to_the_slots_next_task() {
        let (mut tasks, mut counts) = (TaskSet::default(), TaskCounts::default());
        let old = tasks.enter(&mut counts, A, 1, Simple);
        tasks.end(old, Some(&mut counts));
        let new = tasks.enter(&mut counts, A, 2, Simple);
        tasks.end(old, Some(&mut counts));
        assert_eq!(tasks.admission(new, counts), Admission::Go);
        assert_eq!(tasks.admission(old, counts), Admission::Aborted);
        assert_eq!(counts.all, 1);
    }
}
