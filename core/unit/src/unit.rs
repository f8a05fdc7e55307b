//! The logical unit: who is attached, what is pending, what is reserved, and what each command means for the medium.
//!
//! Life of a command: [`LogicalUnit::begin`] enters it in the task set and answers at once if it is refused;
//! [`LogicalUnit::admission`] says when it may start; [`LogicalUnit::work`] checks the reservation again (it may have
//! changed while data was on its way) and says what to do; [`LogicalUnit::end`] takes it out. Changes of kept state go
//! [`LogicalUnit::plan_change`] → keep → [`LogicalUnit::commit`], one at a time: see the crate's head for why.
//!
//! **READ and WRITE with no reservation** cost a table look-up, a few comparisons and one slot of the task set. What a
//! nexus may do is computed when reservations change, not when a command comes.

use std::collections::BTreeSet;

use bytes::Bytes;
use understudy_scsi::cdb::{Command, Compare, Pattern};
use understudy_scsi::inquiry::Provisioning;
use understudy_scsi::sense::{Asc, Sense, SenseFormat, SenseKey};
use understudy_scsi::{Status, luns};

use crate::access_state::PortGroups;
use crate::answers::{Identity, MOST_TRANSFER_BYTES};
use crate::attention::Attentions;
use crate::nexus::{Completion, Geometry, Nexus, NexusId, TaskAttribute};
use crate::pages::ModePages;
use crate::reservations::{Reservations, Standing};
use crate::rules::{Reach, changes_blocks, legacy_conflict, passes_attention, reach};
use crate::state::{self, Kept, StateFault};
use crate::tasks::{AbortedBy, Admission, MOST_TASKS_OF_A_NEXUS, TaskCounts, TaskId, TaskSet};
use crate::untold::{Conditions, Untold};

pub use crate::change::Change;
pub use crate::commands::{Durability, StateRequest, Work};

/// When registrations are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// As APTPL asks: the end of the process is a loss of power (a shelf).
    AsAskedByAptpl,
    /// Always: the unit moves between nodes and no client is to notice (a pair's volume).
    Always,
}

/// Whether anybody may write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Yes.
    ReadWrite,
    /// Writes are refused with WRITE PROTECTED.
    WriteProtected,
}

/// What a unit is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnitOptions {
    /// Who it is.
    pub identity: Identity,
    /// When registrations are kept.
    pub keep: Keep,
    /// Whether UNMAP is offered.
    pub provisioning: Provisioning,
    /// Bytes that are forgotten as a whole: what UNMAP is best asked for in multiples of.
    pub unmap_granularity_bytes: u32,
    /// Whether anybody may write.
    pub access: Access,
}

impl UnitOptions {
    /// Thin, writable, registrations kept as APTPL asks.
    #[must_use]
    pub fn new(identity: Identity) -> Self {
        Self {
            identity,
            keep: Keep::AsAskedByAptpl,
            provisioning: Provisioning::Thin,
            // A page of a file.
            unmap_granularity_bytes: 4096,
            access: Access::ReadWrite,
        }
    }
}

/// What became of a command at its arrival.
#[derive(Debug, Clone)]
pub enum Plan {
    /// It is refused with this; no data is wanted.
    Refused(Completion),
    /// It is sound and waits for its turn.
    Command(Command),
}

/// A command in the task set.
#[derive(Debug, Clone)]
pub struct Begun {
    /// Its name.
    pub task: TaskId,
    /// What to do when it is admitted.
    pub plan: Plan,
    /// Bytes of data-out it asks for.
    pub data_out_bytes: u32,
}

#[derive(Debug)]
pub(crate) struct NexusState {
    pub(crate) nexus: Nexus,
    pub(crate) attentions: Attentions,
    pub(crate) standing: Standing,
    counts: TaskCounts,
    pub(crate) attached: bool,
}

/// Which reset befell the unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reset {
    /// LOGICAL UNIT RESET or TARGET WARM RESET.
    Unit,
    /// TARGET COLD RESET: as if power had failed.
    Cold,
}

/// Initiator ports remembered after they left, to tell a nexus loss from a first visit.
const MOST_REMEMBERED: usize = 1024;

/// A logical unit.
#[derive(Debug)]
pub struct LogicalUnit {
    pub(crate) options: UnitOptions,
    pub(crate) geometry: Geometry,
    pub(crate) pages: ModePages,
    pub(crate) reservations: Reservations,
    /// The nexus of an SPC-2 RESERVE (6), which keeps everybody else out.
    pub(crate) legacy: Option<NexusId>,
    pub(crate) nexuses: Vec<NexusState>,
    free: Vec<u32>,
    // BOUND: MOST_REMEMBERED.
    visited: BTreeSet<Nexus>,
    /// Ports that are not attached and have to be told of their reservations; always empty where registrations are kept as
    /// APTPL asks.
    pub(crate) untold: Untold,
    pub(crate) port_groups: PortGroups,
    pub(crate) tasks: TaskSet,
    /// Tasks one nexus may have.
    most_tasks: u32,
    /// What was kept last.
    pub(crate) kept: Vec<u8>,
}

impl LogicalUnit {
    /// A unit of this geometry, with what it kept before.
    ///
    /// # Errors
    /// [`StateFault`] if the kept bytes cannot be used.
    pub fn new(options: UnitOptions, geometry: Geometry, kept: Option<&[u8]>) -> Result<Self, StateFault> {
        let Kept { reservations, pages, untold } = kept.map_or(Ok(Kept::default()), state::decode)?;
        let kept = kept.map_or_else(|| state::encode(&reservations, &pages, Untold::default()), <[u8]>::to_vec);
        Ok(Self {
            options,
            geometry,
            pages,
            reservations,
            legacy: None,
            nexuses: Vec::new(),
            free: Vec::new(),
            visited: BTreeSet::new(),
            untold,
            port_groups: PortGroups::default(),
            tasks: TaskSet::default(),
            most_tasks: MOST_TASKS_OF_A_NEXUS,
            kept,
        })
    }

    /// Size and block length.
    #[must_use]
    pub fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// Registrations and reservation in force.
    #[must_use]
    pub fn reservations(&self) -> &Reservations {
        &self.reservations
    }

    pub(crate) fn state(&self, id: NexusId) -> &NexusState {
        &self.nexuses[id.0 as usize]
    }

    pub(crate) fn state_mut(&mut self, id: NexusId) -> &mut NexusState {
        &mut self.nexuses[id.0 as usize]
    }

    /// Attaches an I_T nexus. It finds a unit attention: power on at its first visit, nexus loss afterwards
    /// (SAM-5 r21 §6.3).
    pub fn attach(&mut self, nexus: Nexus) -> NexusId {
        let known = self.visited.contains(&nexus);
        self.attach_told(nexus, Some(if known { Asc::I_T_NEXUS_LOSS } else { Asc::POWER_ON_RESET_OR_BUS_DEVICE_RESET }))
    }

    /// Attaches an I_T nexus whose session is kept by somebody else and may have begun before this unit was here. It finds no unit
    /// attention of its arrival: whoever keeps the session knows what its client has to be told, and when.
    pub fn attach_continued(&mut self, nexus: Nexus) -> NexusId {
        self.attach_told(nexus, None)
    }

    fn attach_told(&mut self, nexus: Nexus, arrival: Option<Asc>) -> NexusId {
        let mut attentions = Attentions::default();
        arrival.into_iter().for_each(|asc| attentions.establish(asc));
        if !self.visited.contains(&nexus) {
            if self.visited.len() >= MOST_REMEMBERED {
                self.visited.pop_first();
            }
            self.visited.insert(nexus.clone());
        }
        self.untold.take(&nexus).codes().for_each(|asc| attentions.establish(asc));
        let standing = self.reservations.standing(&nexus);
        let state = NexusState { nexus, attentions, standing, counts: TaskCounts::default(), attached: true };
        if let Some(slot) = self.free.pop() {
            self.nexuses[slot as usize] = state;
            return NexusId(slot);
        }
        self.nexuses.push(state);
        NexusId(self.nexuses.len() as u32 - 1)
    }

    /// The nexus is gone: its tasks are aborted and an SPC-2 reservation of its is released. Answers the tasks that
    /// are still at the medium.
    pub fn detach(&mut self, id: NexusId) -> Vec<TaskId> {
        let aborting = self.abort_where(|_, nexus| (nexus == id).then_some(AbortedBy::Itself));
        if self.legacy == Some(id) {
            self.legacy = None;
        }
        self.state_mut(id).attached = false;
        if self.options.keep == Keep::Always {
            let state = &self.nexuses[id.0 as usize];
            self.untold.add(&state.nexus, Conditions::of(state.attentions.pending()));
        }
        self.free_if_over(id);
        aborting
    }

    fn free_if_over(&mut self, id: NexusId) {
        let state = &self.nexuses[id.0 as usize];
        if !state.attached && state.counts.all == 0 {
            self.free.push(id.0);
        }
    }

    /// From now on a nexus may have so many tasks at most, never more than the unit has room for. With none at all every command is
    /// answered BUSY, else one too many TASK SET FULL (SAM-5 r21 §5.3.1).
    pub fn allow_tasks(&mut self, most: u32) {
        self.most_tasks = most.min(MOST_TASKS_OF_A_NEXUS);
    }

    /// Enters a command. Never blocks; the order of calls is the order of the task set.
    pub fn begin(&mut self, nexus: NexusId, tag: u32, attribute: TaskAttribute, cdb: &[u8; 16]) -> Begun {
        let crowded = self.state(nexus).counts.all >= self.most_tasks;
        let task = self.tasks.enter(&mut self.nexuses[nexus.0 as usize].counts, nexus, tag, attribute);
        if crowded {
            let status = if self.most_tasks == 0 { Status::Busy } else { Status::TaskSetFull };
            let plan = Plan::Refused(Completion::status(status));
            return Begun { task, plan, data_out_bytes: 0 };
        }
        match self.accept(nexus, cdb) {
            Ok((command, data_out_bytes)) => Begun { task, plan: Plan::Command(command), data_out_bytes },
            Err(completion) => Begun { task, plan: Plan::Refused(completion), data_out_bytes: 0 },
        }
    }

    fn accept(&mut self, nexus: NexusId, cdb: &[u8; 16]) -> Result<(Command, u32), Completion> {
        let parsed = Command::parse(cdb);
        let exempt = match &parsed {
            Ok(command) => passes_attention(command),
            Err(_) => false,
        };
        if !exempt {
            self.raise_attention(nexus, &parsed)?;
        }
        let command = parsed.map_err(|fault| self.check(&fault.sense()))?;
        self.open_to(nexus, &command).map_err(|sense| self.check(&sense))?;
        let data_out_bytes = self.data_out_bytes(&command).map_err(|sense| self.check(&sense))?;
        Ok((command, data_out_bytes))
    }

    /// Status precedence of SAM-5 r21 §5.3.3: reset attentions, then RESERVATION CONFLICT, then other attentions.
    fn raise_attention(
        &mut self,
        nexus: NexusId,
        parsed: &Result<Command, understudy_scsi::CdbFault>,
    ) -> Result<(), Completion> {
        if !self.state(nexus).attentions.is_empty() {
            if let Some(asc) = self.state_mut(nexus).attentions.take_reset() {
                return Err(self.check(&Sense::attention(asc)));
            }
            if let Ok(command) = parsed {
                self.admit(nexus, command)?;
            }
            if let Some(asc) = self.state_mut(nexus).attentions.take() {
                return Err(self.check(&Sense::attention(asc)));
            }
        }
        match parsed {
            Ok(command) => self.admit(nexus, command),
            Err(_) => Ok(()),
        }
    }

    /// Whether reservations let the command pass.
    pub(crate) fn admit(&self, nexus: NexusId, command: &Command) -> Result<(), Completion> {
        let conflict = match self.legacy {
            Some(holder) => legacy_conflict(holder == nexus, command),
            None => match self.state(nexus).standing {
                Standing::Admitted => false,
                Standing::BarredFromWriting => reach(command) == Reach::Writes,
                Standing::Barred => reach(command) != Reach::Neither,
            },
        };
        if conflict { Err(Completion::status(Status::ReservationConflict)) } else { Ok(()) }
    }

    /// The checks of reservation and write protection once more, for a command that had to wait after [`LogicalUnit::work`].
    ///
    /// # Errors
    /// RESERVATION CONFLICT, WRITE PROTECTED.
    pub fn admit_again(&self, nexus: NexusId, command: &Command) -> Result<(), Completion> {
        self.admit(nexus, command)?;
        if changes_blocks(command) { self.writable().map_err(|sense| self.check(&sense)) } else { Ok(()) }
    }

    /// From now on anybody may write, or nobody. Every nexus is told that what MODE SENSE says has changed (WP,
    /// SBC-3 r36 §6.5.2). Answers the tasks that are at the medium already.
    pub fn set_access(&mut self, access: Access) -> Vec<TaskId> {
        if self.options.access != access {
            self.options.access = access;
            self.tell_everybody(Asc::MODE_PARAMETERS_CHANGED);
        }
        self.tasks.those_at_medium()
    }

    /// Whether writes may stay in a cache (WCE).
    #[must_use]
    pub fn caches_writes(&self) -> bool {
        self.pages.write_cache_enabled()
    }

    /// CHECK CONDITION in the format the control page asks for.
    #[must_use]
    pub fn check(&self, sense: &Sense) -> Completion {
        Completion::check(sense, self.sense_format())
    }

    /// The format of sense data now.
    #[must_use]
    pub fn sense_format(&self) -> SenseFormat {
        self.pages.sense_format()
    }

    /// Bytes of data-out, after checking that every block named exists and no limit is exceeded.
    fn data_out_bytes(&self, command: &Command) -> Result<u32, Sense> {
        let block = u64::from(self.geometry.block_bytes);
        let bytes = match command {
            Command::Read { span, .. } => {
                self.check_span(span.lba, span.blocks)?;
                self.check_transfer(span.blocks)?;
                0
            }
            Command::Write { span, .. } | Command::WriteAndVerify { span, .. } | Command::OrWrite { span, .. } => {
                self.check_span(span.lba, span.blocks)?;
                self.check_transfer(span.blocks)? * block
            }
            Command::CompareAndWrite { span, .. } => {
                self.check_span(span.lba, span.blocks)?;
                span.blocks * block * 2
            }
            Command::Verify { span, compare } => {
                self.check_span(span.lba, span.blocks)?;
                match compare {
                    Compare::Nothing => 0,
                    Compare::EveryBlock => self.check_transfer(span.blocks)? * block,
                    Compare::OneBlock if span.blocks == 0 => 0,
                    Compare::OneBlock => block,
                }
            }
            Command::WriteSame { span, pattern, .. } => {
                self.check_span(span.lba, span.blocks)?;
                match pattern {
                    Pattern::DataOut => block,
                    Pattern::Zeroes => 0,
                }
            }
            Command::SynchronizeCache { span } | Command::PreFetch { span } => {
                self.check_span(span.lba, span.blocks)?;
                0
            }
            Command::Unmap { parameter_bytes }
            | Command::ModeSelect { parameter_bytes, .. }
            | Command::PersistentReserveOut { parameter_bytes, .. } => u64::from(*parameter_bytes),
            Command::TestUnitReady
            | Command::RequestSense { .. }
            | Command::Inquiry { .. }
            | Command::VitalProductData { .. }
            | Command::ReportLuns { .. }
            | Command::ReadCapacity10
            | Command::ReadCapacity16 { .. }
            | Command::GetLbaStatus { .. }
            | Command::LogSense { .. }
            | Command::ReadDefectData { .. }
            | Command::SendDiagnostic
            | Command::ModeSense { .. }
            | Command::ReportSupportedOperationCodes { .. }
            | Command::ReportSupportedTaskManagement { .. }
            | Command::ReportTargetPortGroups { .. }
            | Command::StartStopUnit(_)
            | Command::Reserve6
            | Command::Release6
            | Command::PersistentReserveIn { .. } => 0,
        };
        // Parameter lists have limits of their own; none needs more than 64 KiB (SPEC_I_PT with 255 long names).
        u32::try_from(bytes)
            .ok()
            .filter(|bytes| u64::from(*bytes) <= MOST_TRANSFER_BYTES)
            .ok_or(Sense::cdb_field(5, None))
    }

    pub(crate) fn check_span(&self, lba: u64, blocks: u64) -> Result<(), Sense> {
        let end = lba.checked_add(blocks);
        if end.is_some_and(|end| end <= self.geometry.blocks) {
            return Ok(());
        }
        Err(Sense::illegal(Asc::LOGICAL_BLOCK_ADDRESS_OUT_OF_RANGE))
    }

    fn check_transfer(&self, blocks: u64) -> Result<u64, Sense> {
        let most = MOST_TRANSFER_BYTES / u64::from(self.geometry.block_bytes);
        if blocks <= most { Ok(blocks) } else { Err(Sense::cdb_field(10, None)) }
    }

    /// Whether the task may start.
    #[must_use]
    pub fn admission(&self, task: TaskId) -> Admission {
        match self.tasks.nexus(task) {
            Some(nexus) => self.tasks.admission(task, self.state(nexus).counts),
            None => Admission::Aborted,
        }
    }

    /// Whether the task was aborted.
    #[must_use]
    pub fn is_aborted(&self, task: TaskId) -> bool {
        self.tasks.aborted(task).is_some()
    }

    /// What an aborted task answers: nothing, or TASK ABORTED if another nexus aborted it and the control page's TAS bit
    /// is set (SAM-5 r21 §5.6).
    #[must_use]
    pub fn answer_of_aborted(&self, task: TaskId) -> Option<Completion> {
        let by_another = self.tasks.aborted(task) == Some(AbortedBy::Another);
        (by_another && self.pages.reports_task_aborted()).then(|| Completion::status(Status::TaskAborted))
    }

    /// The task goes to the medium, or starts to change kept state.
    pub fn start(&mut self, task: TaskId) {
        self.tasks.start(task);
    }

    /// The task is over.
    pub fn end(&mut self, task: TaskId) {
        let Some(nexus) = self.tasks.nexus(task) else { return };
        self.tasks.end(task, Some(&mut self.nexuses[nexus.0 as usize].counts));
        self.free_if_over(nexus);
    }

    /// Whether the task is at the medium right now.
    #[must_use]
    pub fn is_at_medium(&self, task: TaskId) -> bool {
        self.tasks.is_at_medium(task)
    }

    /// Number of tasks at the medium.
    #[must_use]
    pub fn at_medium(&self) -> usize {
        self.tasks.at_medium()
    }

    fn abort_where(&mut self, chosen: impl FnMut(TaskId, NexusId) -> Option<AbortedBy>) -> Vec<TaskId> {
        self.tasks
            .abort(chosen)
            .into_iter()
            .filter(|aborting| aborting.at_medium)
            .map(|aborting| aborting.task)
            .collect()
    }

    /// ABORT TASK (SAM-5 r21 §7.2); `None` if there is no such task.
    pub fn abort_task(&mut self, nexus: NexusId, tag: u32) -> Option<TaskId> {
        let found = self.tasks.find(nexus, tag)?;
        self.abort_where(|task, _| (task == found).then_some(AbortedBy::Itself));
        Some(found)
    }

    /// ABORT TASK SET and, because every nexus has a task set of its own, CLEAR TASK SET (SAM-5 r21 §7.3, §7.5).
    pub fn abort_task_set(&mut self, nexus: NexusId) -> Vec<TaskId> {
        self.abort_where(|_, owner| (owner == nexus).then_some(AbortedBy::Itself))
    }

    /// A reset: every task is aborted, SPC-2 reservations go, mode pages return to their saved values, everyone is told
    /// (SAM-5 r21 §6.3.3). Persistent reservations stay.
    pub fn reset(&mut self, reset: Reset) -> Vec<TaskId> {
        let aborting = self.abort_where(|_, _| Some(AbortedBy::Itself));
        self.legacy = None;
        self.pages.reset();
        self.tell_everybody(match reset {
            Reset::Unit => Asc::BUS_DEVICE_RESET_FUNCTION,
            Reset::Cold => Asc::POWER_ON_RESET_OR_BUS_DEVICE_RESET,
        });
        aborting
    }

    /// Establishes a unit attention for one nexus.
    pub fn tell(&mut self, nexus: NexusId, asc: Asc) {
        self.state_mut(nexus).attentions.establish(asc);
    }

    pub(crate) fn tell_everybody(&mut self, asc: Asc) {
        for state in self.nexuses.iter_mut().filter(|state| state.attached) {
            state.attentions.establish(asc);
        }
    }

    /// The medium has another size now.
    pub fn resize(&mut self, geometry: Geometry) {
        self.geometry = geometry;
        self.tell_everybody(Asc::CAPACITY_DATA_HAS_CHANGED);
    }

    /// The target's list of units, as this nexus sees it, has changed.
    pub fn luns_changed(&mut self, nexus: NexusId) {
        self.state_mut(nexus).attentions.establish(Asc::REPORTED_LUNS_DATA_HAS_CHANGED);
    }

    /// The nexus has read the list of units.
    pub fn luns_reported(&mut self, nexus: NexusId) {
        self.state_mut(nexus).attentions.withdraw(Asc::REPORTED_LUNS_DATA_HAS_CHANGED);
    }

    /// REPORT LUNS parameter data for a target with these units, cut to the allocation length.
    #[must_use]
    pub fn report_luns(luns: &[u16], allocation: u32) -> Bytes {
        let mut bytes = luns::encode_report(luns);
        bytes.truncate(allocation as usize);
        bytes.into()
    }

    /// The sense data of a failed medium access.
    #[must_use]
    pub fn medium_error(&self, key: SenseKey, asc: Asc, lba: Option<u64>) -> Completion {
        let mut sense = Sense::new(key, asc);
        sense.information = lba;
        self.check(&sense)
    }
}

#[cfg(test)]
#[path = "unit_tests.rs"]
mod tests;
