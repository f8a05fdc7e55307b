//! SCSI-3 persistent reservations of one disk, one function a service action (SPC-4 r37 §5.13, §6.15, §6.16).
//!
//! A command answered by a unit attention is repeated a bounded number of times; RESERVATION CONFLICT is never repeated, it is a
//! fact for the caller.

use futures_util::future::LocalBoxFuture;

use crate::disk::DiskError;

/// A reservation key; zero means "none".
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(pub u64);

/// Reservation types of SPC-4 r37 table 61.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum ReservationType {
    /// 1: only the holder writes.
    WriteExclusive = 1,
    /// 3: only the holder reads or writes.
    ExclusiveAccess = 3,
    /// 5: registrants write, everyone reads.
    WriteExclusiveRegistrantsOnly = 5,
    /// 6: only registrants read or write.
    ExclusiveAccessRegistrantsOnly = 6,
    /// 7: like 5, every registrant is a holder.
    WriteExclusiveAllRegistrants = 7,
    /// 8: like 6, every registrant is a holder.
    ExclusiveAccessAllRegistrants = 8,
}

/// Answer of READ KEYS.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Keys {
    /// PRGENERATION: counts changes of registrations.
    pub generation: u32,
    /// Every registered key, one entry a nexus, and on targets that bind registrations to sessions one a forgotten session.
    pub keys: Vec<Key>,
}

/// Answer of READ RESERVATION.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reservation {
    /// The holder's key (zero for the all-registrants types).
    pub key: Key,
    /// Its type.
    pub kind: ReservationType,
}

/// What READ KEYS and READ RESERVATION answered.
pub type Seen = Result<(Keys, Option<Reservation>), DiskError>;

/// The persistent reservations of one logical unit.
pub trait Reservations {
    /// READ KEYS.
    fn read_keys(&self) -> LocalBoxFuture<'_, Result<Keys, DiskError>>;
    /// READ RESERVATION; `None` when the disk is not reserved.
    fn read_reservation(&self) -> LocalBoxFuture<'_, Result<Option<Reservation>, DiskError>>;
    /// REGISTER AND IGNORE EXISTING KEY; `Key(0)` unregisters. APTPL is asked for and, where the disk refuses it
    /// (05h/26h/00h), the registration is made without it (see [`Reservations::keeps_through_power_loss`]).
    fn register(&self, key: Key) -> LocalBoxFuture<'_, Result<(), DiskError>>;
    /// Makes sure that it is this I_T nexus that is registered with `key`, which nobody but this node registers, and not only
    /// an earlier session of it; false if it is not, or no longer for certain.
    ///
    /// A registration belongs to the initiator port, whatever the session (SPC-4 r37 §5.13.1, RFC 7143 §4.4.3.2), and then
    /// REGISTER of the same key changes nothing. Some targets (tgtd) bind it to the session: after a new login the key is
    /// still listed and the commands conflict. There it is registered again, and counts only if PRGENERATION shows that
    /// nobody changed a registration since the key was seen listed: a node that was fenced never gets back by this.
    fn keep_registered(&self, key: Key) -> LocalBoxFuture<'_, Result<bool, DiskError>>;
    /// RESERVE with one's own `key`.
    fn reserve(&self, key: Key, kind: ReservationType) -> LocalBoxFuture<'_, Result<(), DiskError>>;
    /// RELEASE of a reservation of `kind` held by `key`.
    fn release(&self, key: Key, kind: ReservationType) -> LocalBoxFuture<'_, Result<(), DiskError>>;
    /// PREEMPT: `key` is one's own, `victim` the key to remove; with `victim == key` the type of one's own
    /// reservation changes in one step.
    fn preempt(&self, key: Key, victim: Key, kind: ReservationType) -> LocalBoxFuture<'_, Result<(), DiskError>>;
    /// PREEMPT AND ABORT. On a shelf that lacks it (tgtd answers 05h/24h or 05h/20h) this is PREEMPT followed by
    /// LOGICAL UNIT RESET, and [`Reservations::aborts_exactly`] turns false.
    fn preempt_and_abort(
        &self,
        key: Key,
        victim: Key,
        kind: ReservationType,
    ) -> LocalBoxFuture<'_, Result<(), DiskError>>;
    /// REGISTER AND IGNORE EXISTING KEY with `key`, and right behind it PREEMPT AND ABORT of each victim, READ KEYS and READ RESERVATION, none
    /// of them waiting for the answer to the one before: one round trip.
    ///
    /// Any of them may be refused, and not every target keeps the order they are sent in; whatever became of the changes, only what is
    /// read tells, and if it shows anything but the end, only what is read after this returned.
    fn seize<'a>(&'a self, key: Key, victims: &'a [Key], kind: ReservationType) -> LocalBoxFuture<'a, Seen>;
    /// CLEAR: removes every registration and the reservation. For `pair init` and tests only.
    fn clear(&self, key: Key) -> LocalBoxFuture<'_, Result<(), DiskError>>;
    /// LOGICAL UNIT RESET task management function.
    fn reset(&self) -> LocalBoxFuture<'_, Result<(), DiskError>>;
    /// Whether the disk accepted APTPL at the last registration.
    fn keeps_through_power_loss(&self) -> bool;
    /// Whether PREEMPT AND ABORT is the disk's own, or the weaker substitute.
    fn aborts_exactly(&self) -> bool;
}
