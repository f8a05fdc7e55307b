//! A change of kept state from its plan to its being in force: reservations, saved mode pages, and whom to tell.
//!
//! The order is the point: [`LogicalUnit::plan_change`], then [`LogicalUnit::bytes_to_keep`] go to the medium, then
//! [`LogicalUnit::commit`]. A change that could not be kept is dropped, and nothing of it was ever seen.

use understudy_scsi::reservation::Persistence;
use understudy_scsi::sense::{Asc, Sense, SenseKey};

use crate::commands::StateRequest;
use crate::nexus::{Completion, Nexus, NexusId};
use crate::pages::ModePages;
use crate::reservations::{Planned, Reservations};
use crate::state;
use crate::tasks::{AbortedBy, TaskId};
use crate::unit::{Keep, LogicalUnit};
use crate::untold::{Conditions, Untold};

/// A change of kept state, planned and not yet in force.
#[derive(Debug, Clone)]
pub struct Change {
    pub(crate) asked_by: NexusId,
    pub(crate) task: TaskId,
    pub(crate) reservations: Option<Planned>,
    pub(crate) pages: Option<ModePages>,
}

impl LogicalUnit {
    /// The bytes to keep before `change` may be committed; `None` if what is kept already says so.
    #[must_use]
    pub fn bytes_to_keep(&self, change: &Change) -> Option<Vec<u8>> {
        self.bytes_unless_kept(change, self.untold_after(change))
    }

    /// The same without what can be done without: for a medium that has no room for more.
    #[must_use]
    pub fn fewest_bytes_to_keep(&self, change: &Change) -> Option<Vec<u8>> {
        self.bytes_unless_kept(change, Untold::default())
    }

    fn bytes_unless_kept(&self, change: &Change, untold: Untold) -> Option<Vec<u8>> {
        let bytes = self.bytes_after(change, untold);
        (bytes != self.kept).then_some(bytes)
    }

    pub(crate) fn bytes_after(&self, change: &Change, untold: Untold) -> Vec<u8> {
        let reservations = change.reservations.as_ref().map_or(&self.reservations, |planned| &planned.next);
        let pages = change.pages.as_ref().unwrap_or(&self.pages);
        let volatile = self.options.keep == Keep::AsAskedByAptpl && reservations.persistence() == Persistence::Volatile;
        if volatile {
            state::encode(&Reservations::default(), pages, untold)
        } else {
            state::encode(reservations, pages, untold)
        }
    }

    /// Whom somebody would have to tell of reservations if this process ended right after the change.
    fn untold_after(&self, change: &Change) -> Untold {
        let mut untold = self.untold.clone();
        if self.options.keep == Keep::AsAskedByAptpl {
            return untold;
        }
        for state in self.nexuses.iter().filter(|state| state.attached) {
            untold.add(&state.nexus, Conditions::of(state.attentions.pending()));
        }
        for (nexus, asc) in change.reservations.iter().flat_map(|planned| &planned.attentions) {
            untold.add(nexus, Conditions::of([*asc]));
        }
        untold
    }

    /// Whether these bytes are what was kept last, here or before; none are those of a unit that never kept anything.
    #[must_use]
    pub fn has_kept(&self, bytes: &[u8]) -> bool {
        match bytes {
            [] => self.kept == state::encode(&Reservations::default(), &ModePages::default(), Untold::default()),
            bytes => self.kept == bytes,
        }
    }

    /// The answer to a change that finds no room on its medium.
    #[must_use]
    pub fn no_room_to_keep(&self, request: &StateRequest) -> Completion {
        match request {
            StateRequest::Reserve(_) => self.check(&Sense::illegal(Asc::INSUFFICIENT_REGISTRATION_RESOURCES)),
            StateRequest::SelectPages(..) => self.check(&Sense::illegal(Asc::INSUFFICIENT_RESOURCES)),
        }
    }

    /// The answer to a change that could not be kept and is not in force.
    #[must_use]
    pub fn not_kept(&self) -> Completion {
        self.check(&Sense::new(SenseKey::HardwareError, Asc::INTERNAL_TARGET_FAILURE))
    }

    /// Puts a change in force; `kept` are the bytes that were kept for it. From here on no new command of a preempted
    /// nexus passes. Answers the tasks PREEMPT AND ABORT has to wait for: those at the medium. The others
    /// can never start any more.
    pub fn commit(&mut self, change: Change, kept: Option<Vec<u8>>) -> Vec<TaskId> {
        if let Some(kept) = kept {
            self.kept = kept;
        }
        if let Some(pages) = change.pages {
            let changed = pages != self.pages;
            self.pages = pages;
            if changed {
                self.tell_others(change.asked_by, Asc::MODE_PARAMETERS_CHANGED);
            }
        }
        let Some(planned) = change.reservations else { return Vec::new() };
        self.reservations = planned.next;
        debug_assert_eq!(self.reservations.invariant_holder_is_registered(), Ok(()));
        for state in self.nexuses.iter_mut().filter(|state| state.attached) {
            state.standing = self.reservations.standing(&state.nexus);
        }
        for (nexus, asc) in &planned.attentions {
            self.tell_named(nexus, *asc);
        }
        if planned.aborts.is_empty() {
            Vec::new()
        } else {
            self.abort_preempted(&planned.aborts, change.asked_by, change.task)
        }
    }

    /// Tells a port now, or when it is back.
    fn tell_named(&mut self, nexus: &Nexus, asc: Asc) {
        match self.nexuses.iter_mut().find(|state| state.attached && state.nexus == *nexus) {
            Some(state) => state.attentions.establish(asc),
            None if self.options.keep == Keep::Always => self.untold.add(nexus, Conditions::of([asc])),
            None => (),
        }
    }

    /// SPC-4 r37 §5.13.11.2.6: everything of the preempted nexuses except the command that preempts; whoever lost a
    /// command to another nexus is told, if TAS does not tell it by status.
    fn abort_preempted(&mut self, preempted: &[Nexus], asked_by: NexusId, own: TaskId) -> Vec<TaskId> {
        let nexuses = &self.nexuses;
        let aborting = self.tasks.abort(|task, nexus| {
            let victim = task != own && preempted.contains(&nexuses[nexus.0 as usize].nexus);
            victim.then_some(if nexus == asked_by { AbortedBy::Itself } else { AbortedBy::Another })
        });
        if !self.pages.reports_task_aborted() {
            for nexus in aborting.iter().map(|aborting| aborting.nexus).filter(|nexus| *nexus != asked_by) {
                self.nexuses[nexus.0 as usize].attentions.establish(Asc::COMMANDS_CLEARED_BY_ANOTHER_INITIATOR);
            }
        }
        aborting.into_iter().filter(|aborting| aborting.at_medium).map(|aborting| aborting.task).collect()
    }

    fn tell_others(&mut self, except: NexusId, asc: Asc) {
        for (index, state) in self.nexuses.iter_mut().enumerate() {
            if state.attached && index != except.0 as usize {
                state.attentions.establish(asc);
            }
        }
    }
}

#[cfg(test)]
#[path = "change_tests.rs"]
mod tests;
