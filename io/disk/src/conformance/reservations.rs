//! The facts about persistent reservations on which fencing rests, through two nexuses.
//!
//! Not here: all six types in all combinations, which is a target's own conformance; here is what a pair relies on.
//! The one idea: every fact starts from a clean unit and leaves one behind.

use std::rc::Rc;

use super::{Bench, read, write};
use crate::disk::{Disk, DiskError};
use crate::reservation::ReservationType::{
    ExclusiveAccessRegistrantsOnly, WriteExclusive, WriteExclusiveRegistrantsOnly,
};
use crate::reservation::{Key, Reservation, ReservationType, Reservations};

const OWN: Key = Key(0x0001_0000_0000_00a1);
const PARTNER: Key = Key(0x0002_0000_0000_00b2);

/// The unit through two nexuses.
struct Two {
    own: Rc<dyn Disk>,
    partner: Rc<dyn Disk>,
}

fn pr(disk: &dyn Disk) -> &dyn Reservations {
    disk.reservations().expect("the suite is for disks with reservations")
}

impl Two {
    fn own(&self) -> &dyn Reservations {
        pr(&*self.own)
    }

    fn partner(&self) -> &dyn Reservations {
        pr(&*self.partner)
    }

    /// Registrations in ascending order, as both nexuses see them.
    async fn keys(&self) -> Vec<Key> {
        let mut keys = self.own().read_keys().await.expect("READ KEYS is answered").keys;
        keys.sort();
        let mut seen = self.partner().read_keys().await.expect("READ KEYS is answered").keys;
        seen.sort();
        assert_eq!(keys, seen, "two nexuses see different registrations");
        keys
    }

    async fn held(&self) -> Option<(Key, ReservationType)> {
        let held = self.own().read_reservation().await.expect("READ RESERVATION is answered");
        assert_eq!(self.partner().read_reservation().await, Ok(held), "two nexuses see different reservations");
        held.map(|Reservation { key, kind }| (key, kind))
    }

    async fn register_both(&self) {
        self.own().register(OWN).await.expect("REGISTER is accepted");
        self.partner().register(PARTNER).await.expect("REGISTER is accepted");
    }

    /// Everything gone, from whatever state.
    async fn clean(&self) {
        self.own().register(OWN).await.expect("REGISTER AND IGNORE EXISTING KEY is always accepted");
        self.own().clear(OWN).await.expect("CLEAR by a registrant is accepted");
        assert_eq!(self.keys().await, []);
        assert_eq!(self.held().await, None);
    }

    async fn expect(&self, who: Who, reads: Result<(), DiskError>, writes: Result<(), DiskError>) {
        let disk = match who {
            Who::Own => &*self.own,
            Who::Partner => &*self.partner,
        };
        assert_eq!(read(disk, 0, 1).await.map(|_| ()), reads, "{who:?} reads");
        assert_eq!(write(disk, 0, 1, 7).await, writes, "{who:?} writes");
    }
}

#[derive(Debug, Clone, Copy)]
enum Who {
    Own,
    Partner,
}

const CONFLICT: Result<(), DiskError> = Err(DiskError::Conflict);

/// Runs every fact about reservations.
///
/// PANIC: at the first fact that does not hold.
pub async fn reservations(bench: &dyn Bench) {
    let two = Two { own: bench.open(0).await, partner: bench.open(1).await };
    assert_eq!(two.keys().await, [], "the bench hands out a unit without registrations");
    registrations_come_and_go(&two).await;
    a_registration_is_kept_and_none_is_made(&two).await;
    strangers_change_nothing(&two).await;
    write_exclusive_lets_strangers_read(&two).await;
    exclusive_access_shuts_strangers_out(&two).await;
    preempting_the_own_key_changes_the_type(&two).await;
    preempting_a_registrant_fences_it(&two).await;
    preempting_the_holder_takes_its_reservation(&two).await;
    preempt_and_abort_ends_like_preempt(&two).await;
    seizing_ends_like_its_parts(&two).await;
    only_the_holder_releases(&two).await;
    clear_removes_everything(&two).await;
    a_unit_reset_leaves_reservations_alone(&two).await;
}

/// Runs the facts that the standard demands but a pair can do without, because tgtd, an allowed shelf, breaks them.
///
/// PANIC: at the first fact that does not hold.
pub async fn reservations_to_the_letter(bench: &dyn Bench) {
    let two = Two { own: bench.open(0).await, partner: bench.open(1).await };
    two.partner().register(PARTNER).await.expect("REGISTER is accepted");
    // A stranger releases nothing, not even nothing (SPC-4 r37 §5.13.6 table 60).
    assert_eq!(two.own().release(OWN, WriteExclusiveRegistrantsOnly).await, CONFLICT);
    // A registrant names its own key or is refused (SPC-4 r37 §5.13.5).
    assert_eq!(two.partner().reserve(OWN, WriteExclusiveRegistrantsOnly).await, CONFLICT);
    assert_eq!(two.held().await, None);
    assert!(two.own().aborts_exactly() && two.partner().keeps_through_power_loss());
    two.own().register(OWN).await.expect("REGISTER is accepted");
    let preempted = two.own().preempt_and_abort(OWN, PARTNER, WriteExclusiveRegistrantsOnly).await;
    preempted.expect("PREEMPT AND ABORT is accepted");
    assert!(two.own().aborts_exactly(), "PREEMPT AND ABORT is the unit's own");
    // It removed a registrant that held nothing, so nothing is reserved (§5.13.11.1.2).
    assert_eq!(two.held().await, None);
    two.clean().await;
    // ORDERED tasks are carried out in the order they come in (SAM-5 r21 §8.6.3), so one round trip is enough.
    two.partner().register(PARTNER).await.expect("REGISTER is accepted");
    two.partner().reserve(PARTNER, ExclusiveAccessRegistrantsOnly).await.expect("RESERVE is accepted");
    let (keys, held) = two.own().seize(OWN, &[PARTNER], WriteExclusiveRegistrantsOnly).await.expect("answered");
    assert_eq!(keys.keys, [OWN]);
    assert_eq!(held, Some(Reservation { key: OWN, kind: WriteExclusiveRegistrantsOnly }));
    two.clean().await;
}

/// SPC-4 r37 §5.13.7.
async fn registrations_come_and_go(two: &Two) {
    let before = two.own().read_keys().await.expect("READ KEYS is answered").generation;
    two.register_both().await;
    assert_eq!(two.keys().await, [OWN, PARTNER]);
    two.own().register(Key(5)).await.expect("a registration may be replaced");
    assert_eq!(two.keys().await, [Key(5), PARTNER]);
    let after = two.own().read_keys().await.expect("READ KEYS is answered").generation;
    assert_eq!(after.wrapping_sub(before), 3, "PRGENERATION counts registrations (§6.15.2)");
    two.own().register(Key(0)).await.expect("unregistering is accepted");
    assert_eq!(two.keys().await, [PARTNER]);
    two.own().register(Key(0)).await.expect("unregistering twice is accepted (§5.13.7)");
    two.clean().await;
}

async fn a_registration_is_kept_and_none_is_made(two: &Two) {
    two.partner().register(PARTNER).await.expect("REGISTER is accepted");
    assert_eq!(two.own().keep_registered(OWN).await, Ok(false));
    assert_eq!(two.keys().await, [PARTNER]);
    two.own().register(OWN).await.expect("REGISTER is accepted");
    assert_eq!(two.own().keep_registered(OWN).await, Ok(true));
    let kind = WriteExclusiveRegistrantsOnly;
    two.partner().preempt_and_abort(PARTNER, OWN, kind).await.expect("a registrant may preempt another");
    assert_eq!(two.own().keep_registered(OWN).await, Ok(false), "who was fenced stays fenced");
    assert_eq!(two.keys().await, [PARTNER]);
    two.clean().await;
}

/// SPC-4 r37 §5.13.6 table 60: PERSISTENT RESERVE OUT from a nexus without registration conflicts.
async fn strangers_change_nothing(two: &Two) {
    two.partner().register(PARTNER).await.expect("REGISTER is accepted");
    let own = two.own();
    assert_eq!(own.reserve(OWN, WriteExclusiveRegistrantsOnly).await, CONFLICT);
    assert_eq!(own.preempt(OWN, PARTNER, WriteExclusiveRegistrantsOnly).await, CONFLICT);
    assert_eq!(own.preempt_and_abort(OWN, PARTNER, WriteExclusiveRegistrantsOnly).await, CONFLICT);
    assert_eq!(own.clear(OWN).await, CONFLICT);
    assert_eq!(two.keys().await, [PARTNER]);
    assert_eq!(two.held().await, None);
    two.clean().await;
}

/// SPC-4 r37 §5.13.1 table 61, type 5.
async fn write_exclusive_lets_strangers_read(two: &Two) {
    two.own().register(OWN).await.expect("REGISTER is accepted");
    two.own().reserve(OWN, WriteExclusiveRegistrantsOnly).await.expect("RESERVE by a registrant is accepted");
    assert_eq!(two.held().await, Some((OWN, WriteExclusiveRegistrantsOnly)));
    two.expect(Who::Own, Ok(()), Ok(())).await;
    two.expect(Who::Partner, Ok(()), CONFLICT).await;
    two.partner().register(PARTNER).await.expect("REGISTER is accepted on a reserved unit");
    two.expect(Who::Partner, Ok(()), Ok(())).await;
    two.clean().await;
}

/// SPC-4 r37 §5.13.1 table 61, type 6; what a stranger may still ask: table 59.
async fn exclusive_access_shuts_strangers_out(two: &Two) {
    two.own().register(OWN).await.expect("REGISTER is accepted");
    two.own().reserve(OWN, ExclusiveAccessRegistrantsOnly).await.expect("RESERVE by a registrant is accepted");
    two.expect(Who::Own, Ok(()), Ok(())).await;
    two.expect(Who::Partner, CONFLICT, CONFLICT).await;
    two.partner.identify().await.expect("INQUIRY is answered on a reserved unit");
    assert_eq!(two.held().await, Some((OWN, ExclusiveAccessRegistrantsOnly)));
    two.clean().await;
}

/// A target that does not take the registration as it is asked for first (tgtd lacks APTPL) has refused the preempts before it is made; then one
/// command at a time leads to the end.
async fn seizing_ends_like_its_parts(two: &Two) {
    let kind = WriteExclusiveRegistrantsOnly;
    two.partner().register(PARTNER).await.expect("REGISTER is accepted");
    two.partner().reserve(PARTNER, kind).await.expect("RESERVE by a registrant is accepted");
    // The second victim is not there: its preempt is refused, and the rest is done all the same.
    let seen = two.own().seize(OWN, &[PARTNER, Key(0x0003_0000_0000_00c3)], kind).await;
    if two.keys().await.contains(&PARTNER) {
        two.own().preempt_and_abort(OWN, PARTNER, kind).await.expect("a registrant may preempt another");
    }
    assert_eq!((two.keys().await, two.held().await), (vec![OWN], Some((OWN, kind))));
    two.expect(Who::Partner, Ok(()), CONFLICT).await;
    let (keys, held) = seen.expect("READ KEYS and READ RESERVATION are answered");
    assert!(keys.keys.iter().all(|key| [OWN, PARTNER].contains(key)), "{keys:?}");
    assert!(held.is_some_and(|held| held.kind == kind), "{held:?}");
    two.clean().await;
}

/// SPC-4 r37 §5.13.11.1.3: a holder that preempts itself keeps its registration and gets the new type at once.
async fn preempting_the_own_key_changes_the_type(two: &Two) {
    two.own().register(OWN).await.expect("REGISTER is accepted");
    two.own().reserve(OWN, WriteExclusiveRegistrantsOnly).await.expect("RESERVE by a registrant is accepted");
    assert_eq!(two.own().reserve(OWN, ExclusiveAccessRegistrantsOnly).await, CONFLICT, "RESERVE changes no type");
    for kind in [ExclusiveAccessRegistrantsOnly, WriteExclusiveRegistrantsOnly] {
        two.own().preempt(OWN, OWN, kind).await.expect("PREEMPT of the own key is accepted");
        assert_eq!(two.held().await, Some((OWN, kind)));
        assert_eq!(two.keys().await, [OWN]);
        two.expect(Who::Own, Ok(()), Ok(())).await;
    }
    two.clean().await;
}

/// SPC-4 r37 §5.13.11.1.2: the key goes, the reservation of another holder stays.
async fn preempting_a_registrant_fences_it(two: &Two) {
    two.register_both().await;
    two.own().reserve(OWN, WriteExclusiveRegistrantsOnly).await.expect("RESERVE by a registrant is accepted");
    two.expect(Who::Partner, Ok(()), Ok(())).await;
    two.own().preempt(OWN, PARTNER, WriteExclusiveRegistrantsOnly).await.expect("PREEMPT is accepted");
    assert_eq!(two.keys().await, [OWN]);
    assert_eq!(two.held().await, Some((OWN, WriteExclusiveRegistrantsOnly)));
    two.expect(Who::Partner, Ok(()), CONFLICT).await;
    two.clean().await;
}

/// SPC-4 r37 §5.13.11.1.3.
async fn preempting_the_holder_takes_its_reservation(two: &Two) {
    two.register_both().await;
    two.partner().reserve(PARTNER, WriteExclusiveRegistrantsOnly).await.expect("RESERVE by a registrant is accepted");
    two.own().preempt(OWN, PARTNER, ExclusiveAccessRegistrantsOnly).await.expect("PREEMPT is accepted");
    assert_eq!(two.keys().await, [OWN]);
    assert_eq!(two.held().await, Some((OWN, ExclusiveAccessRegistrantsOnly)));
    two.expect(Who::Own, Ok(()), Ok(())).await;
    two.expect(Who::Partner, CONFLICT, CONFLICT).await;
    two.clean().await;
}

/// SPC-4 r37 §5.13.11.2; where the unit lacks it, the substitute must end in the same state.
async fn preempt_and_abort_ends_like_preempt(two: &Two) {
    two.register_both().await;
    two.partner().reserve(PARTNER, WriteExclusiveRegistrantsOnly).await.expect("RESERVE by a registrant is accepted");
    let preempted = two.own().preempt_and_abort(OWN, PARTNER, ExclusiveAccessRegistrantsOnly).await;
    preempted.expect("PREEMPT AND ABORT, or its substitute, is accepted");
    assert_eq!(two.keys().await, [OWN]);
    assert_eq!(two.held().await, Some((OWN, ExclusiveAccessRegistrantsOnly)));
    two.expect(Who::Own, Ok(()), Ok(())).await;
    two.expect(Who::Partner, CONFLICT, CONFLICT).await;
    two.clean().await;
}

/// SPC-4 r37 §5.13.10.2: RELEASE by a registrant that is not the holder is GOOD and does nothing.
async fn only_the_holder_releases(two: &Two) {
    two.register_both().await;
    two.own().reserve(OWN, WriteExclusive).await.expect("RESERVE by a registrant is accepted");
    two.expect(Who::Partner, Ok(()), CONFLICT).await;
    two.partner().release(PARTNER, WriteExclusive).await.expect("RELEASE by another registrant is GOOD");
    assert_eq!(two.held().await, Some((OWN, WriteExclusive)));
    two.own().release(OWN, WriteExclusive).await.expect("RELEASE by the holder is accepted");
    assert_eq!(two.held().await, None);
    assert_eq!(two.keys().await, [OWN, PARTNER]);
    two.expect(Who::Partner, Ok(()), Ok(())).await;
    two.clean().await;
}

/// SPC-4 r37 §5.13.11.3.
async fn clear_removes_everything(two: &Two) {
    two.register_both().await;
    two.partner().reserve(PARTNER, ExclusiveAccessRegistrantsOnly).await.expect("RESERVE by a registrant is accepted");
    two.own().clear(OWN).await.expect("CLEAR by any registrant is accepted");
    assert_eq!(two.keys().await, []);
    assert_eq!(two.held().await, None);
    two.expect(Who::Own, Ok(()), Ok(())).await;
    two.expect(Who::Partner, Ok(()), Ok(())).await;
}

/// SPC-4 r37 §5.13.1: a logical unit reset does not touch persistent reservations.
async fn a_unit_reset_leaves_reservations_alone(two: &Two) {
    two.register_both().await;
    two.own().reserve(OWN, WriteExclusiveRegistrantsOnly).await.expect("RESERVE by a registrant is accepted");
    two.own().reset().await.expect("LOGICAL UNIT RESET is accepted");
    assert_eq!(two.keys().await, [OWN, PARTNER]);
    assert_eq!(two.held().await, Some((OWN, WriteExclusiveRegistrantsOnly)));
    two.clean().await;
}
