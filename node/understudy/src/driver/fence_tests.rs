//! What a fence asks of a disk, and what it makes of a disk that changed since it was looked at.

use std::cell::Cell;

use bytes::Bytes;
use futures_util::future::{LocalBoxFuture, ready};
use understudy_disk::disk::{DiskError, DiskIdentity, Durability, Extent, Geometry};
use understudy_disk::reservation::{Reservations, Seen};
use understudy_failover::words::{Generation, Incarnation};

use super::*;

const POOL: PoolId = PoolId(1);
const PLACE: LegPlace = LegPlace { mirror: 0, leg: 0 };

fn key(node: NodeId, generation: u32) -> ReservationKey {
    ReservationKey::on_pool_disk(PairId(9), node, 0, Generation(generation), Incarnation(7))
}

/// The reservations of one disk, and what was asked of them.
#[derive(Default)]
struct Fake {
    keys: RefCell<Vec<Key>>,
    held: Cell<Option<Reservation>>,
    epoch: Cell<u64>,
    asked: RefCell<Vec<&'static str>>,
}

impl Fake {
    /// As the partner serves it.
    fn of(partner: ReservationKey) -> Rc<Self> {
        let fake = Self::default();
        fake.is_now_of(partner);
        Rc::new(fake)
    }

    fn is_now_of(&self, owner: ReservationKey) {
        let kind = ReservationType::WriteExclusiveRegistrantsOnly;
        self.keys.replace(vec![Key(owner.0)]);
        self.held.set(Some(Reservation { key: Key(owner.0), kind }));
    }

    fn note(&self, what: &'static str) {
        self.asked.borrow_mut().push(what);
    }

    fn found(&self) -> Keys {
        Keys { generation: 0, keys: self.keys.borrow().clone() }
    }

    fn take_key_away(&self, victim: Key, by: Key, kind: ReservationType) {
        self.keys.borrow_mut().retain(|key| *key != victim);
        if self.held.get().is_some_and(|held| held.key == victim) {
            self.held.set(Some(Reservation { key: by, kind }));
        }
    }

    fn fence(self: &Rc<Self>, own: ReservationKey, foreseen: &Foreseen) -> impl Future<Output = FencedDisks> {
        let disks = [PlacedDisk { place: PLACE, disk: Rc::clone(self) as Rc<dyn Disk> }];
        async move { fence_all((POOL, &disks), own, FenceKind::Exclusive, foreseen).await }
    }

    async fn foresee(self: &Rc<Self>) -> Foreseen {
        let foreseen = Foreseen::default();
        foreseen.look(POOL, &[PlacedDisk { place: PLACE, disk: Rc::clone(self) as Rc<dyn Disk> }]).await;
        self.asked.take();
        foreseen
    }
}

type Answer<'a, T> = LocalBoxFuture<'a, Result<T, DiskError>>;

fn answer<'a, T: 'a>(answer: T) -> Answer<'a, T> {
    Box::pin(ready(Ok(answer)))
}

impl Reservations for Fake {
    fn read_keys(&self) -> Answer<'_, Keys> {
        self.note("look");
        answer(self.found())
    }

    fn read_reservation(&self) -> Answer<'_, Option<Reservation>> {
        answer(self.held.get())
    }

    fn register(&self, key: Key) -> Answer<'_, ()> {
        self.note("register");
        self.keys.borrow_mut().push(key);
        answer(())
    }

    fn keep_registered(&self, key: Key) -> Answer<'_, bool> {
        answer(self.keys.borrow().contains(&key))
    }

    fn reserve(&self, key: Key, kind: ReservationType) -> Answer<'_, ()> {
        self.held.set(Some(Reservation { key, kind }));
        answer(())
    }

    fn release(&self, _: Key, _: ReservationType) -> Answer<'_, ()> {
        unreachable!("a fence releases nothing")
    }

    fn preempt(&self, _: Key, _: Key, _: ReservationType) -> Answer<'_, ()> {
        unreachable!("a fence aborts what it preempts")
    }

    fn preempt_and_abort(&self, key: Key, victim: Key, kind: ReservationType) -> Answer<'_, ()> {
        self.note("preempt");
        self.take_key_away(victim, key, kind);
        answer(())
    }

    fn seize<'a>(&'a self, key: Key, victims: &'a [Key], kind: ReservationType) -> LocalBoxFuture<'a, Seen> {
        self.note("seize");
        self.keys.borrow_mut().push(key);
        victims.iter().for_each(|victim| self.take_key_away(*victim, key, kind));
        answer((self.found(), self.held.get()))
    }

    fn clear(&self, _: Key) -> Answer<'_, ()> {
        unreachable!("a fence clears nothing")
    }

    fn reset(&self) -> Answer<'_, ()> {
        unreachable!("a fence resets nothing")
    }

    fn keeps_through_power_loss(&self) -> bool {
        true
    }

    fn aborts_exactly(&self) -> bool {
        true
    }
}

impl Disk for Fake {
    fn name(&self) -> &str {
        "fake"
    }

    fn geometry(&self) -> Result<Geometry, DiskError> {
        unreachable!("a fence is about reservations")
    }

    fn identify(&self) -> Answer<'_, DiskIdentity> {
        unreachable!("a fence is about reservations")
    }

    fn probe(&self) -> Answer<'_, Geometry> {
        unreachable!("a fence is about reservations")
    }

    fn read(&self, _: Extent) -> Answer<'_, Bytes> {
        unreachable!("a fence is about reservations")
    }

    fn admits_reads(&self) -> Answer<'_, ()> {
        unreachable!("a fence is about reservations")
    }

    fn write(&self, _: Extent, _: Bytes, _: Durability) -> Answer<'_, ()> {
        unreachable!("a fence is about reservations")
    }

    fn flush(&self) -> Answer<'_, ()> {
        unreachable!("a fence is about reservations")
    }

    fn link(&self) -> Link {
        Link::Connected { epoch: self.epoch.get() }
    }

    fn link_changed(&self, _: Link) -> LocalBoxFuture<'_, Link> {
        unreachable!("nobody waits")
    }

    fn reservations(&self) -> Option<&dyn Reservations> {
        Some(self)
    }
}

fn outcomes(fenced: &FencedDisks) -> Vec<DiskFence> {
    fenced.outcomes.iter().map(|(_, _, end)| *end).collect()
}

#[tokio::test]
async fn what_was_foreseen_spares_the_look_and_is_used_once() {
    let disk = Fake::of(key(NodeId::A, 4));
    let foreseen = disk.foresee().await;
    let fenced = disk.fence(key(NodeId::B, 5), &foreseen).await;
    assert_eq!((outcomes(&fenced), fenced.legs.len()), (vec![DiskFence::Fenced], 1));
    assert_eq!(disk.asked.take(), ["seize"]);
    disk.is_now_of(key(NodeId::A, 6));
    let fenced = disk.fence(key(NodeId::B, 7), &foreseen).await;
    assert_eq!(outcomes(&fenced), [DiskFence::Fenced]);
    assert_eq!(disk.asked.take(), ["look", "seize"]);
}

#[tokio::test]
async fn a_disk_that_changed_since_is_looked_at_and_fenced_by_what_stands() {
    let disk = Fake::of(key(NodeId::A, 4));
    let foreseen = disk.foresee().await;
    disk.is_now_of(key(NodeId::A, 6));
    let fenced = disk.fence(key(NodeId::B, 7), &foreseen).await;
    assert_eq!(outcomes(&fenced), [DiskFence::Fenced]);
    assert_eq!(disk.asked.take(), ["seize", "look", "preempt", "look"]);
    assert_eq!(*disk.keys.borrow(), [Key(key(NodeId::B, 7).0)]);
}

#[tokio::test]
async fn a_newer_key_of_the_partner_stops_a_fence_that_foresaw_an_older_one() {
    let disk = Fake::of(key(NodeId::A, 4));
    let foreseen = disk.foresee().await;
    disk.is_now_of(key(NodeId::A, 6));
    let fenced = disk.fence(key(NodeId::B, 5), &foreseen).await;
    assert_eq!((outcomes(&fenced), fenced.legs.len()), (vec![DiskFence::NewerKey(Generation(6))], 0));
    assert_eq!(disk.held.get().map(|held| held.key), Some(Key(key(NodeId::A, 6).0)), "the partner has it");
}

#[tokio::test(start_paused = true)]
async fn what_was_seen_in_another_session_or_long_ago_is_not_used() {
    let disk = Fake::of(key(NodeId::A, 4));
    let foreseen = disk.foresee().await;
    disk.epoch.set(1);
    assert_eq!(outcomes(&disk.fence(key(NodeId::B, 5), &foreseen).await), [DiskFence::Fenced]);
    assert_eq!(disk.asked.take(), ["look", "seize"]);
    disk.is_now_of(key(NodeId::A, 6));
    let foreseen = disk.foresee().await;
    tokio::time::advance(FORESEEN_FOR).await;
    assert_eq!(outcomes(&disk.fence(key(NodeId::B, 7), &foreseen).await), [DiskFence::Fenced]);
    assert_eq!(disk.asked.take(), ["look", "seize"]);
}
