//! Persistent reservations of an iSCSI logical unit.
//!
//! Not here: when to reserve what. The one idea: a command answered by a unit attention has done nothing and is repeated, so
//! that what is answered in the end is about reservations; a conflict is never repeated.

use std::rc::Rc;

use futures_util::future::{LocalBoxFuture, join, join_all};
use understudy_iscsi::codes::TaskAttribute;
use understudy_scsi::encode;
use understudy_scsi::reservation::{
    self as wire, InAction, KeyList, OutAction, OutList, Persistence, ReservationReport,
};
use understudy_scsi::{Asc, SenseKey};

use crate::disk::DiskError;
use crate::lun::{IscsiLun, Unit};
use crate::reservation::{Key, Keys, Reservation, ReservationType, Reservations, Seen};
use crate::session::Transfer;

const SIMPLE: TaskAttribute = TaskAttribute::SIMPLE;

/// First allocation length for READ KEYS: 127 registrations. A longer list is asked for again with its own length.
const KEYS_BYTES: u16 = 8 + 127 * 8;

/// A registration made again that is not proved to be the continuation of the old one. It stays noted, whatever became of the
/// command, until it is proved or the caller registers anew: a second try would find the first one's key listed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Renewal {
    key: Key,
    /// PRGENERATION with which the key was seen listed.
    seen: u32,
}

impl Renewal {
    /// Nothing but the new registration has happened since.
    fn is_proved_by(self, generation: u32) -> bool {
        generation == self.seen.wrapping_add(1)
    }

    /// Nothing at all has happened since, or nothing but the new registration.
    fn explains(self, generation: u32) -> bool {
        generation == self.seen || self.is_proved_by(generation)
    }
}

fn to_wire(kind: ReservationType) -> wire::ReservationType {
    match kind {
        ReservationType::WriteExclusive => wire::ReservationType::WriteExclusive,
        ReservationType::ExclusiveAccess => wire::ReservationType::ExclusiveAccess,
        ReservationType::WriteExclusiveRegistrantsOnly => wire::ReservationType::WriteExclusiveRegistrantsOnly,
        ReservationType::ExclusiveAccessRegistrantsOnly => wire::ReservationType::ExclusiveAccessRegistrantsOnly,
        ReservationType::WriteExclusiveAllRegistrants => wire::ReservationType::WriteExclusiveAllRegistrants,
        ReservationType::ExclusiveAccessAllRegistrants => wire::ReservationType::ExclusiveAccessAllRegistrants,
    }
}

fn from_wire(kind: wire::ReservationType) -> ReservationType {
    match kind {
        wire::ReservationType::WriteExclusive => ReservationType::WriteExclusive,
        wire::ReservationType::ExclusiveAccess => ReservationType::ExclusiveAccess,
        wire::ReservationType::WriteExclusiveRegistrantsOnly => ReservationType::WriteExclusiveRegistrantsOnly,
        wire::ReservationType::ExclusiveAccessRegistrantsOnly => ReservationType::ExclusiveAccessRegistrantsOnly,
        wire::ReservationType::WriteExclusiveAllRegistrants => ReservationType::WriteExclusiveAllRegistrants,
        wire::ReservationType::ExclusiveAccessAllRegistrants => ReservationType::ExclusiveAccessAllRegistrants,
    }
}

impl Unit {
    async fn reserve_in(
        &self,
        attribute: TaskAttribute,
        action: InAction,
        bytes: u16,
    ) -> Result<bytes::Bytes, DiskError> {
        let cdb = encode::persistent_reserve_in(action, bytes);
        self.ask_as(attribute, cdb, Transfer::Read(bytes.into())).await
    }

    /// A PERSISTENT RESERVE OUT answered by a unit attention has done nothing, so it may be repeated; if the attention
    /// was a reset that took the registration away, the repeat conflicts, which is the truth.
    async fn reserve_out(
        &self,
        attribute: TaskAttribute,
        action: OutAction,
        kind: Option<ReservationType>,
        list: OutList,
    ) -> Result<(), DiskError> {
        let list = list.encode();
        let cdb = encode::persistent_reserve_out(action, kind.map(to_wire), list.len() as u32);
        self.ask_as(attribute, cdb, Transfer::Write(list.into())).await.map(|_| ())
    }

    async fn read_keys(&self, attribute: TaskAttribute) -> Result<Keys, DiskError> {
        let read = async |bytes| {
            let answer = self.reserve_in(attribute, InAction::ReadKeys, bytes).await?;
            KeyList::parse(&answer).ok_or_else(|| DiskError::Protocol("READ KEYS is too short".to_owned()))
        };
        let mut list = read(KEYS_BYTES).await?;
        if list.missing > 0 {
            list = read(u16::try_from(8 + (list.keys.len() + list.missing) * 8).unwrap_or(u16::MAX)).await?;
        }
        if list.missing > 0 {
            return Err(DiskError::Protocol(format!("{} registrations cannot be read", list.missing)));
        }
        Ok(Keys { generation: list.generation, keys: list.keys.into_iter().map(Key).collect() })
    }

    async fn read_reservation(&self, attribute: TaskAttribute) -> Result<Option<Reservation>, DiskError> {
        let bytes = self.reserve_in(attribute, InAction::ReadReservation, 24).await?;
        let report = ReservationReport::parse(&bytes)
            .ok_or_else(|| DiskError::Protocol("READ RESERVATION makes no sense".to_owned()))?;
        Ok(report.held.map(|held| Reservation { key: Key(held.key), kind: from_wire(held.kind) }))
    }

    async fn register(&self, key: Key) -> Result<(), DiskError> {
        let list = |persistence| OutList { action_key: key.0, persistence, ..OutList::default() };
        let action = OutAction::RegisterAndIgnoreExistingKey;
        match self.reserve_out(SIMPLE, action, None, list(Persistence::ThroughPowerLoss)).await {
            Err(error) if refuses_parameter(&error) => {
                self.keeps_through_power_loss.set(false);
                self.reserve_out(SIMPLE, action, None, list(Persistence::Volatile)).await
            }
            answer => {
                self.keeps_through_power_loss.set(answer.is_ok() || self.keeps_through_power_loss.get());
                answer
            }
        }
    }

    /// One at a time, and not beside another change of the own registration: both would show in PRGENERATION.
    async fn keep_registered(&self, key: Key) -> Result<bool, DiskError> {
        let found = self.read_keys(SIMPLE).await?;
        let renewal = self.renewal.get().filter(|renewal| renewal.key == key);
        let in_doubt = renewal.is_some_and(|renewal| !renewal.explains(found.generation));
        if in_doubt || !found.keys.contains(&key) {
            return Ok(false);
        }
        let persistence =
            if self.keeps_through_power_loss.get() { Persistence::ThroughPowerLoss } else { Persistence::Volatile };
        let same = OutList { key: key.0, action_key: key.0, persistence, ..OutList::default() };
        match self.reserve_out(SIMPLE, OutAction::Register, None, same).await {
            Ok(()) => {
                self.renewal.set(None);
                return Ok(true);
            }
            Err(DiskError::Conflict) => {}
            Err(error) => return Err(error),
        }
        let renewal = Renewal { key, seen: found.generation };
        self.renewal.set(Some(renewal));
        self.register(key).await?;
        let after = self.read_keys(SIMPLE).await?;
        if renewal.is_proved_by(after.generation) && after.keys.contains(&key) {
            tracing::info!(disk = %self.name, "the target had forgotten this nexus with its session: registered again");
            self.renewal.set(None);
            return Ok(true);
        }
        // Somebody changed something in between: this may be a registration that was taken away on purpose.
        self.register(Key(0)).await?;
        Ok(false)
    }

    async fn with_key(&self, action: OutAction, key: Key, kind: Option<ReservationType>) -> Result<(), DiskError> {
        self.reserve_out(SIMPLE, action, kind, OutList { key: key.0, ..OutList::default() }).await
    }

    async fn preempt(&self, key: Key, victim: Key, kind: ReservationType) -> Result<(), DiskError> {
        let list = OutList { key: key.0, action_key: victim.0, ..OutList::default() };
        self.reserve_out(SIMPLE, OutAction::Preempt, Some(kind), list).await
    }

    async fn preempt_and_abort(
        &self,
        attribute: TaskAttribute,
        key: Key,
        victim: Key,
        kind: ReservationType,
    ) -> Result<(), DiskError> {
        if self.aborts_exactly.get() {
            let list = OutList { key: key.0, action_key: victim.0, ..OutList::default() };
            match self.reserve_out(attribute, OutAction::PreemptAndAbort, Some(kind), list).await {
                Err(error) if refuses_action(&error) => self.lacks_preempt_and_abort(),
                answer => return answer,
            }
        }
        self.preempt(key, victim, kind).await?;
        // What the victim had under way is aborted with everything else; writes it sends later conflict.
        self.reset().await
    }

    /// All of them are sent before the first is answered; ORDERED, so that the target carries them out one after the other.
    async fn seize(&self, key: Key, victims: &[Key], kind: ReservationType) -> Seen {
        let preempts = victims.iter().map(|victim| self.preempt_and_abort(TaskAttribute::ORDERED, key, *victim, kind));
        let look = join(self.read_keys(TaskAttribute::ORDERED), self.read_reservation(TaskAttribute::ORDERED));
        // In this order: what is polled first is sent first.
        let (_, (_, (keys, reservation))) = join(self.register(key), join(join_all(preempts), look)).await;
        Ok((keys?, reservation?))
    }

    fn lacks_preempt_and_abort(&self) {
        self.aborts_exactly.set(false);
        tracing::warn!(
            disk = %self.name,
            "the disk lacks PREEMPT AND ABORT: PREEMPT and LOGICAL UNIT RESET stand in, with weaker guarantees"
        );
    }
}

/// Answers of a disk that does not know the service action: SPC-4 r37 §6.16 allows either code; tgtd uses the first.
fn refuses_action(error: &DiskError) -> bool {
    is_illegal(error, &[Asc::INVALID_FIELD_IN_CDB, Asc::INVALID_COMMAND_OPERATION_CODE])
}

/// Answers of a disk that does not take APTPL, SPC-4 r37 §5.13.5; some older ones blame the CDB.
fn refuses_parameter(error: &DiskError) -> bool {
    is_illegal(error, &[Asc::INVALID_FIELD_IN_PARAMETER_LIST, Asc::INVALID_FIELD_IN_CDB])
}

fn is_illegal(error: &DiskError, codes: &[Asc]) -> bool {
    match error {
        DiskError::CheckCondition { key, asc } => {
            *key == SenseKey::IllegalRequest as u8 && codes.iter().any(|code| code.0 == *asc)
        }
        DiskError::Conflict
        | DiskError::Unreachable(_)
        | DiskError::OutcomeUnknown(_)
        | DiskError::Status(_)
        | DiskError::Io(_)
        | DiskError::Protocol(_) => false,
    }
}

impl Reservations for IscsiLun {
    fn read_keys(&self) -> LocalBoxFuture<'_, Result<Keys, DiskError>> {
        Box::pin(self.unit.read_keys(SIMPLE))
    }

    fn read_reservation(&self) -> LocalBoxFuture<'_, Result<Option<Reservation>, DiskError>> {
        Box::pin(self.unit.read_reservation(SIMPLE))
    }

    fn register(&self, key: Key) -> LocalBoxFuture<'_, Result<(), DiskError>> {
        Box::pin(async move {
            let _alone = self.unit.registering.lock().await;
            self.unit.renewal.set(None);
            self.unit.register(key).await
        })
    }

    fn keep_registered(&self, key: Key) -> LocalBoxFuture<'_, Result<bool, DiskError>> {
        let unit = Rc::clone(&self.unit);
        let keep = async move {
            let _alone = unit.registering.lock().await;
            unit.keep_registered(key).await
        };
        // In a task of its own: a caller that loses interest half way, its pool having moved to the node that took the old
        // registration away, would leave the new one behind.
        Box::pin(async move {
            match tokio::task::spawn_local(keep).await {
                Ok(kept) => kept,
                Err(ended) if ended.is_panic() => std::panic::resume_unwind(ended.into_panic()),
                Err(ended) => Err(DiskError::Unreachable(ended.to_string())),
            }
        })
    }

    fn reserve(&self, key: Key, kind: ReservationType) -> LocalBoxFuture<'_, Result<(), DiskError>> {
        Box::pin(self.unit.with_key(OutAction::Reserve, key, Some(kind)))
    }

    fn release(&self, key: Key, kind: ReservationType) -> LocalBoxFuture<'_, Result<(), DiskError>> {
        Box::pin(self.unit.with_key(OutAction::Release, key, Some(kind)))
    }

    fn preempt(&self, key: Key, victim: Key, kind: ReservationType) -> LocalBoxFuture<'_, Result<(), DiskError>> {
        Box::pin(async move {
            let _alone = self.unit.registering.lock().await;
            self.unit.preempt(key, victim, kind).await
        })
    }

    fn preempt_and_abort(
        &self,
        key: Key,
        victim: Key,
        kind: ReservationType,
    ) -> LocalBoxFuture<'_, Result<(), DiskError>> {
        Box::pin(async move {
            let _alone = self.unit.registering.lock().await;
            self.unit.preempt_and_abort(SIMPLE, key, victim, kind).await
        })
    }

    fn seize<'a>(&'a self, key: Key, victims: &'a [Key], kind: ReservationType) -> LocalBoxFuture<'a, Seen> {
        Box::pin(async move {
            let _alone = self.unit.registering.lock().await;
            self.unit.renewal.set(None);
            self.unit.seize(key, victims, kind).await
        })
    }

    fn clear(&self, key: Key) -> LocalBoxFuture<'_, Result<(), DiskError>> {
        Box::pin(async move {
            let _alone = self.unit.registering.lock().await;
            self.unit.with_key(OutAction::Clear, key, None).await
        })
    }

    fn reset(&self) -> LocalBoxFuture<'_, Result<(), DiskError>> {
        Box::pin(self.unit.reset())
    }

    fn keeps_through_power_loss(&self) -> bool {
        self.unit.keeps_through_power_loss.get()
    }

    fn aborts_exactly(&self) -> bool {
        self.unit.aborts_exactly.get()
    }
}
