//! What each command means: an answer at once, work for the medium, or a change of kept state.
//!
//! Arrived here, a command is sound, its blocks exist and it is its turn. What is left is the reservation in force right
//! now, write protection, and the parameter list.

use bytes::Bytes;
use understudy_scsi::Status;
use understudy_scsi::cdb::{
    BlockDescriptors, Command, Compare, Deallocate, Force, ModeForm, PageControl, Pattern, SavePages, Span, StartStop,
};
use understudy_scsi::inquiry::{Peripheral, Provisioning};
use understudy_scsi::mode;
use understudy_scsi::provisioning::{self, ProvisioningStatus};
use understudy_scsi::reservation::{
    self, Capabilities, InAction, KeyList, MoveList, OutAction, OutList, Persistence, ReservationReport,
};
use understudy_scsi::sense::{Asc, Sense, SenseFormat, SenseKey};

use crate::answers::{self, PageContext};
use crate::change::Change;
use crate::nexus::{Completion, NexusId};
use crate::pages::Reach;
use crate::reservations::{Refusal, Request};
use crate::state::MOST_BYTES;
use crate::tasks::TaskId;
use crate::unit::{Access, LogicalUnit};
use crate::untold::Untold;

/// Whether a write must be on the medium before its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// A cache may hold it.
    Cached,
    /// FUA, or the write cache is disabled.
    ForceUnitAccess,
}

/// Descriptors one GET LBA STATUS is answered with at most: a client that wants to know more asks again from there.
const MOST_LBA_STATUSES: usize = 256;

/// What to do for a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Work {
    /// Nothing: this is the answer.
    Done(Completion),
    /// Read and answer the blocks.
    Read(Span),
    /// Write the blocks; the data has exactly their length.
    Write(Span, Durability),
    /// Write durably, then read back; `Compare` says whether to compare.
    WriteAndVerify(Span, Compare),
    /// Read, and compare as told.
    Verify(Span, Compare),
    /// Write one block over and over.
    WriteSame(Span, Pattern, Deallocate),
    /// Zero these blocks.
    Unmap(Vec<Span>),
    /// Compare with the first half of the data, then write the second.
    CompareAndWrite(Span, Durability),
    /// Set in the blocks every bit that is set in the data, which has exactly their length.
    OrWrite(Span, Durability),
    /// Make everything written so far durable.
    Flush,
    /// Find out which blocks have a place of their own, and answer [`LogicalUnit::lba_statuses`].
    LbaStatus {
        /// From this block on, which exists.
        lba: u64,
        /// Stretches that are told at most, not zero.
        most: usize,
        /// Bytes the answer may have.
        allocation: u32,
    },
    /// Plan, keep and commit a change of state.
    Change(StateRequest),
}

/// A change of kept state, as asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StateRequest {
    /// PERSISTENT RESERVE OUT.
    Reserve(Request),
    /// MODE SELECT with its parameter list.
    SelectPages(ModeForm, SavePages, Bytes),
}

impl LogicalUnit {
    /// What to do for an admitted command. `target_name` is the iSCSI name of the target the nexus is attached to.
    pub fn work(&mut self, nexus: NexusId, command: &Command, data_out: &Bytes, target_name: &str) -> Work {
        // A pool may have moved while the command waited: it is not carried out by a way that is closed now.
        if let Err(sense) = self.open_to(nexus, command) {
            return Work::Done(self.check(&sense));
        }
        if let Err(conflict) = self.admit(nexus, command) {
            return Work::Done(conflict);
        }
        match command {
            Command::Read { span, .. } if span.blocks == 0 => Work::Done(Completion::good()),
            Command::Read { span, .. } => Work::Read(*span),
            Command::Write { span, force } => {
                self.write(*span, *force, data_out).unwrap_or_else(|sense| Work::Done(self.check(&sense)))
            }
            _ => self
                .colder_work(nexus, command, data_out, target_name)
                .unwrap_or_else(|sense| Work::Done(self.check(&sense))),
        }
    }

    fn write(&self, span: Span, force: Force, data_out: &Bytes) -> Result<Work, Sense> {
        self.writable()?;
        let span = self.arrived(span, data_out)?;
        Ok(nothing_or(span, Work::Write(span, self.durability(force))))
    }

    /// An initiator that offered less data than the CDB names gets the whole blocks it sent written; its transport
    /// reports the difference as a residual (RFC 7143 §11.4.5.1). With a part of a block at the end nothing is written, and it is
    /// told: a part that got lost in silence would be taken for written.
    fn arrived(&self, span: Span, data_out: &Bytes) -> Result<Span, Sense> {
        let (bytes, block_bytes) = (data_out.len() as u64, u64::from(self.geometry.block_bytes));
        if bytes >= span.blocks * block_bytes {
            return Ok(span);
        }
        if !bytes.is_multiple_of(block_bytes) {
            return Err(Sense::illegal(Asc::INVALID_FIELD_IN_COMMAND_INFORMATION_UNIT));
        }
        Ok(Span { blocks: bytes / block_bytes, ..span })
    }

    fn durability(&self, force: Force) -> Durability {
        if force == Force::UnitAccess || !self.pages.write_cache_enabled() {
            Durability::ForceUnitAccess
        } else {
            Durability::Cached
        }
    }

    pub(crate) fn writable(&self) -> Result<(), Sense> {
        if self.is_write_protected() {
            return Err(Sense::new(SenseKey::DataProtect, Asc::WRITE_PROTECTED));
        }
        Ok(())
    }

    /// Whether writes are refused, by the unit's owner or because a client asked for it (SWP).
    #[must_use]
    pub fn is_write_protected(&self) -> bool {
        self.options.access == Access::WriteProtected || self.pages.software_write_protected()
    }

    fn colder_work(
        &mut self,
        nexus: NexusId,
        command: &Command,
        data_out: &Bytes,
        target_name: &str,
    ) -> Result<Work, Sense> {
        Ok(match command {
            Command::Read { .. } | Command::Write { .. } => unreachable!("the caller answers these"),
            Command::WriteAndVerify { span, compare } => {
                self.writable()?;
                let span = self.arrived(*span, data_out)?;
                nothing_or(span, Work::WriteAndVerify(span, *compare))
            }
            Command::Verify { span, compare } => self.verify(*span, *compare, data_out)?,
            Command::WriteSame { span, pattern, deallocate } => {
                self.write_same(*span, *pattern, *deallocate, data_out)?
            }
            Command::Unmap { .. } => self.unmap(data_out)?,
            Command::CompareAndWrite { span, force } => {
                self.writable()?;
                self.need(data_out, span.blocks * 2)?;
                nothing_or(*span, Work::CompareAndWrite(*span, self.durability(*force)))
            }
            Command::OrWrite { span, force } => {
                self.writable()?;
                let span = self.arrived(*span, data_out)?;
                nothing_or(span, Work::OrWrite(span, self.durability(*force)))
            }
            Command::SynchronizeCache { .. } | Command::StartStopUnit(StartStop::Stop) => Work::Flush,
            Command::StartStopUnit(StartStop::PowerCondition(_)) => return Err(Sense::cdb_field(4, Some(7))),
            Command::StartStopUnit(StartStop::Start)
            | Command::TestUnitReady
            | Command::SendDiagnostic
            | Command::PreFetch { .. } => Work::Done(Completion::good()),
            Command::ModeSelect { form, save, parameter_bytes } => {
                let list = parameters(data_out, *parameter_bytes)?;
                Work::Change(StateRequest::SelectPages(*form, *save, list))
            }
            Command::PersistentReserveOut { action, scope_and_type, parameter_bytes } => {
                let list = data_out.get(..*parameter_bytes as usize).unwrap_or(data_out);
                Work::Change(StateRequest::Reserve(self.reserve_request(*action, *scope_and_type, list)?))
            }
            Command::GetLbaStatus { lba, allocation } if self.options.provisioning == Provisioning::Thin => {
                self.find_out_status(*lba, *allocation)?
            }
            Command::Reserve6 => Work::Done(self.reserve_6(nexus)),
            Command::Release6 => Work::Done(self.release_6(nexus)),
            Command::RequestSense { .. }
            | Command::Inquiry { .. }
            | Command::VitalProductData { .. }
            | Command::ReportLuns { .. }
            | Command::ReadCapacity10
            | Command::ReadCapacity16 { .. }
            | Command::GetLbaStatus { .. }
            | Command::LogSense { .. }
            | Command::ReadDefectData { .. }
            | Command::ModeSense { .. }
            | Command::ReportSupportedOperationCodes { .. }
            | Command::ReportSupportedTaskManagement { .. }
            | Command::ReportTargetPortGroups { .. }
            | Command::PersistentReserveIn { .. } => {
                let (mut bytes, allocation) = self.answer(nexus, command, target_name)?;
                bytes.truncate(allocation as usize);
                Work::Done(Completion::data(bytes.into()))
            }
        })
    }

    fn need(&self, data_out: &Bytes, blocks: u64) -> Result<(), Sense> {
        if data_out.len() as u64 >= blocks * u64::from(self.geometry.block_bytes) {
            return Ok(());
        }
        Err(Sense::illegal(Asc::INVALID_FIELD_IN_CDB))
    }

    fn verify(&self, span: Span, compare: Compare, data_out: &Bytes) -> Result<Work, Sense> {
        match compare {
            Compare::Nothing => (),
            Compare::EveryBlock => self.need(data_out, span.blocks)?,
            Compare::OneBlock => self.need(data_out, span.blocks.min(1))?,
        }
        Ok(nothing_or(span, Work::Verify(span, compare)))
    }

    /// SBC-3 r36 §5.42, §5.43: zero blocks mean up to the end (WSNZ is zero).
    fn write_same(
        &self,
        span: Span,
        pattern: Pattern,
        deallocate: Deallocate,
        data_out: &Bytes,
    ) -> Result<Work, Sense> {
        self.writable()?;
        if deallocate == Deallocate::Allowed && self.options.provisioning == Provisioning::Full {
            return Err(Sense::cdb_field(1, Some(3)));
        }
        if pattern == Pattern::DataOut {
            self.need(data_out, 1)?;
        }
        let blocks = if span.blocks == 0 { self.geometry.blocks - span.lba } else { span.blocks };
        let span = Span { blocks, ..span };
        Ok(nothing_or(span, Work::WriteSame(span, pattern, deallocate)))
    }

    fn unmap(&self, data_out: &Bytes) -> Result<Work, Sense> {
        if self.options.provisioning == Provisioning::Full {
            return Err(Sense::illegal(Asc::INVALID_COMMAND_OPERATION_CODE));
        }
        self.writable()?;
        let mut spans = provisioning::parse_unmap(data_out)?;
        for span in &spans {
            self.check_span(span.lba, span.blocks)?;
        }
        spans.retain(|span| span.blocks != 0);
        Ok(if spans.is_empty() { Work::Done(Completion::good()) } else { Work::Unmap(spans) })
    }

    fn reserve_request(&self, action: OutAction, scope_and_type: u8, list: &[u8]) -> Result<Request, Sense> {
        Ok(match action {
            OutAction::RegisterAndMove => Request::Move(scope_and_type, MoveList::parse(list)?),
            OutAction::Register
            | OutAction::Reserve
            | OutAction::Release
            | OutAction::Clear
            | OutAction::Preempt
            | OutAction::PreemptAndAbort
            | OutAction::RegisterAndIgnoreExistingKey => Request::Plain(action, scope_and_type, OutList::parse(list)?),
        })
    }

    /// RESERVE (6). With registrations about, a registrant gets GOOD and nothing changes, anyone else a conflict
    /// (SPC-4 r37 §5.13.3, CRH).
    fn reserve_6(&mut self, nexus: NexusId) -> Completion {
        if let Some(answer) = self.compatible_answer(nexus) {
            return answer;
        }
        self.legacy = Some(nexus);
        Completion::good()
    }

    fn release_6(&mut self, nexus: NexusId) -> Completion {
        if let Some(answer) = self.compatible_answer(nexus) {
            return answer;
        }
        if self.legacy == Some(nexus) {
            self.legacy = None;
        }
        Completion::good()
    }

    fn compatible_answer(&self, nexus: NexusId) -> Option<Completion> {
        if self.reservations.is_unused() {
            return None;
        }
        let registered = self.reservations.key_of(&self.state(nexus).nexus).is_some();
        Some(Completion::status(if registered { Status::Good } else { Status::ReservationConflict }))
    }

    /// Parameter data of a command that only asks, and the length it is cut to.
    fn answer(&mut self, nexus: NexusId, command: &Command, target_name: &str) -> Result<(Vec<u8>, u32), Sense> {
        let capacity = answers::capacity(self.geometry, self.options.provisioning);
        Ok(match command {
            Command::RequestSense { format, allocation } => (self.pending_sense(nexus, *format), *allocation),
            Command::Inquiry { allocation } => (self.options.identity.standard_inquiry(Peripheral::Disk), *allocation),
            Command::VitalProductData { page, allocation } => {
                let context = PageContext {
                    identity: &self.options.identity,
                    geometry: self.geometry,
                    provisioning: self.options.provisioning,
                    unmap_granularity_bytes: self.options.unmap_granularity_bytes,
                    target_name,
                    target_port: self.state(nexus).nexus.target_port,
                    port_group: self.group_of_port(self.state(nexus).nexus.target_port),
                };
                (context.page(*page).ok_or(Sense::cdb_field(2, None))?, *allocation)
            }
            Command::ReadCapacity10 => (capacity.encode_10(), 8),
            Command::ReadCapacity16 { allocation } => (capacity.encode_16(), *allocation),
            Command::GetLbaStatus { lba, allocation } => (self.lba_status(*lba)?, *allocation),
            Command::ModeSense { form, control, page, subpage, descriptors, allocation } => {
                (self.mode_sense(*form, *control, *page, *subpage, *descriptors)?, *allocation)
            }
            Command::LogSense { page, subpage, pointer, allocation } => {
                (answers::log_page(*page, *subpage, *pointer)?, *allocation)
            }
            Command::ReadDefectData { form, lists, allocation } => (answers::no_defects(*form, *lists), *allocation),
            Command::ReportSupportedOperationCodes { query, timeouts, allocation } => {
                (answers::supported_operations(*query, *timeouts, self.options.provisioning)?, *allocation)
            }
            Command::ReportSupportedTaskManagement { report, allocation } => {
                (answers::supported_task_management(*report), *allocation)
            }
            Command::ReportTargetPortGroups { format, allocation } => (self.report_groups(nexus, *format), *allocation),
            Command::PersistentReserveIn { action, allocation } => (self.reserve_in(*action), *allocation),
            // REPORT LUNS belongs to the target, which knows its units; everything else is answered elsewhere.
            _ => return Err(Sense::illegal(Asc::INVALID_COMMAND_OPERATION_CODE)),
        })
    }

    /// SPC-4 r37 §6.39: a pending unit attention is reported as parameter data, and thereby cleared.
    fn pending_sense(&mut self, nexus: NexusId, format: SenseFormat) -> Vec<u8> {
        let pending = self.state_mut(nexus).attentions.take();
        pending.map_or(Sense::new(SenseKey::NoSense, Asc::NONE), Sense::attention).encode(format)
    }

    fn find_out_status(&self, lba: u64, allocation: u32) -> Result<Work, Sense> {
        self.check_span(lba, 1)?;
        let room = (allocation.saturating_sub(8) / 16) as usize;
        Ok(Work::LbaStatus { lba, most: room.clamp(1, MOST_LBA_STATUSES), allocation })
    }

    /// GET LBA STATUS of a thin unit: what its medium told of the blocks from `lba` on (SBC-3 r36 §5.6).
    #[must_use]
    pub fn lba_statuses(lba: u64, stretches: &[(u64, ProvisioningStatus)], allocation: u32) -> Completion {
        let mut bytes = provisioning::encode_lba_statuses(lba, stretches.iter().copied());
        bytes.truncate(allocation as usize);
        Completion::data(bytes.into())
    }

    /// SBC-3 r36 §5.6: all blocks of a fully provisioned unit are mapped.
    fn lba_status(&self, lba: u64) -> Result<Vec<u8>, Sense> {
        if lba >= self.geometry.blocks {
            return Err(Sense::illegal(Asc::LOGICAL_BLOCK_ADDRESS_OUT_OF_RANGE));
        }
        let all = (self.geometry.blocks - lba, ProvisioningStatus::Mapped);
        Ok(provisioning::encode_lba_statuses(lba, [all]))
    }

    fn mode_header(&self) -> mode::Header {
        mode::Header {
            write_protected: self.is_write_protected(),
            blocks: self.geometry.blocks,
            block_bytes: self.geometry.block_bytes,
        }
    }

    fn mode_sense(
        &self,
        form: ModeForm,
        control: PageControl,
        page: u8,
        subpage: u8,
        descriptors: BlockDescriptors,
    ) -> Result<Vec<u8>, Sense> {
        let pages = self.pages.sense(control, page, subpage)?;
        Ok(mode::encode_sense(form, descriptors, self.mode_header(), &pages))
    }

    fn reserve_in(&self, action: InAction) -> Vec<u8> {
        let generation = self.reservations.generation();
        match action {
            InAction::ReadKeys => KeyList::encode(generation, self.reservations.keys()),
            InAction::ReadReservation => ReservationReport { generation, held: self.reservations.report() }.encode(),
            InAction::ReportCapabilities => Capabilities {
                compatible_reservations: true,
                named_ports: true,
                all_target_ports: false,
                persistence: true,
                persistence_active: self.reservations.persistence() == Persistence::ThroughPowerLoss,
            }
            .encode(),
            InAction::ReadFullStatus => reservation::encode_full_status(generation, &self.reservations.full_status()),
        }
    }

    /// Plans a change of kept state. Only one may be between this and its [`LogicalUnit::commit`].
    ///
    /// # Errors
    /// The answer, if the change is refused.
    pub fn plan_change(&self, nexus: NexusId, task: TaskId, request: &StateRequest) -> Result<Change, Completion> {
        let mut change = Change { asked_by: nexus, task, reservations: None, pages: None };
        match request {
            StateRequest::Reserve(request) => {
                let planned = self.reservations.plan(&self.state(nexus).nexus, request);
                change.reservations = Some(planned.map_err(|refusal| match refusal {
                    Refusal::Conflict => Completion::status(Status::ReservationConflict),
                    Refusal::Check(sense) => self.check(&sense),
                })?);
                let bytes = self.bytes_after(&change, Untold::default()).len();
                if bytes > MOST_BYTES && bytes > self.kept.len() {
                    return Err(self.no_room_to_keep(&StateRequest::Reserve(request.clone())));
                }
            }
            StateRequest::SelectPages(form, save, list) => {
                let reach = match save {
                    SavePages::No => Reach::Current,
                    SavePages::Yes => Reach::CurrentAndSaved,
                };
                let selected = mode::parse_select(*form, list, self.mode_header());
                let pages = selected.and_then(|pages| self.pages.select(&pages, reach));
                change.pages = Some(pages.map_err(|sense| self.check(&sense))?);
            }
        }
        Ok(change)
    }
}

/// A parameter list that arrived as long as the CDB says it is.
fn parameters(data_out: &Bytes, bytes: u32) -> Result<Bytes, Sense> {
    if (data_out.len() as u64) < u64::from(bytes) {
        return Err(Sense::illegal(Asc::PARAMETER_LIST_LENGTH_ERROR));
    }
    Ok(data_out.slice(..bytes as usize))
}

fn nothing_or(span: Span, work: Work) -> Work {
    if span.blocks == 0 { Work::Done(Completion::good()) } else { work }
}
