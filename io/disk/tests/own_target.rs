//! The iSCSI back end against this project's own target over loopback.

mod support;

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{LocalBoxFuture, join, poll_immediate};
use support::{IscsiBench, nexus, options, run};
use tokio::sync::Semaphore;
use understudy_device::medium::{self, MediumError};
use understudy_device::memory::MemoryMedium;
use understudy_device::{Medium, Target, UnitIdentity, UnitOnMedium, UnitOptions};
use understudy_disk::conformance;
use understudy_disk::discover::discover;
use understudy_disk::disk::{Disk, DiskError, Durability, Extent, Link};
use understudy_disk::lun::IscsiLun;
use understudy_disk::reservation::{Key, Reservation, ReservationType};
use understudy_disk::session::{DigestOffer, Options, Place};
use understudy_disk::url::LunUrl;
use understudy_portal::{LoginGate, Portal, PortalOptions};

const TARGET: &str = "iqn.2026-01.example:shelf";

/// A portal with one target of one 32 MiB unit in memory (LUN 3).
struct Shelf {
    portal: Portal,
}

/// A medium whose writes wait until the test lets them through.
struct SlowMedium {
    inner: Rc<MemoryMedium>,
    arrived: Semaphore,
    may_pass: Semaphore,
}

impl Medium for SlowMedium {
    fn geometry(&self) -> medium::Geometry {
        self.inner.geometry()
    }

    fn read(&self, lba: u64, blocks: u32) -> LocalBoxFuture<'_, Result<Bytes, MediumError>> {
        self.inner.read(lba, blocks)
    }

    fn write(
        &self,
        lba: u64,
        bytes: Bytes,
        durability: medium::Durability,
    ) -> LocalBoxFuture<'_, Result<(), MediumError>> {
        Box::pin(async move {
            self.arrived.add_permits(1);
            self.may_pass.acquire().await.expect("never closed").forget();
            self.inner.write(lba, bytes, durability).await
        })
    }

    fn flush(&self) -> LocalBoxFuture<'_, Result<(), MediumError>> {
        self.inner.flush()
    }

    fn zero(&self, lba: u64, blocks: u64) -> LocalBoxFuture<'_, Result<(), MediumError>> {
        self.inner.zero(lba, blocks)
    }

    fn keep_state(&self, state: Vec<u8>) -> LocalBoxFuture<'_, Result<(), MediumError>> {
        self.inner.keep_state(state)
    }
}

impl Shelf {
    fn start(block_bytes: u32) -> Self {
        Self::on(MemoryMedium::new(block_bytes, 32 * 1024 * 1024 / u64::from(block_bytes)))
    }

    fn on(medium: Rc<dyn Medium>) -> Self {
        let identity = UnitIdentity { uuid: [7; 16], product: "SHELF DISK".to_owned() };
        let unit = UnitOnMedium::new(UnitOptions::new(identity), medium, None).expect("a fresh unit");
        let target = Target::new(TARGET);
        assert!(target.add(3, unit).is_ok(), "the number is free");
        let address = "127.0.0.1:0".parse().expect("an address");
        let portal = Portal::bind(address, PortalOptions::default()).expect("a free port");
        portal.add_target(target, LoginGate::opened());
        Self { portal }
    }

    fn url(&self) -> LunUrl {
        LunUrl { place: Place { portal: self.portal.address().to_string(), target: TARGET.to_owned() }, lun: 3 }
    }

    fn bench(&self, options: Options) -> IscsiBench {
        IscsiBench { url: self.url(), options }
    }
}

#[test]
fn the_own_target_passes_the_disk_suite() {
    for block_bytes in [512, 4096] {
        run(async {
            let shelf = Shelf::start(block_bytes);
            conformance::disk(&shelf.bench(options())).await;
        });
    }
}

#[test]
fn the_own_target_passes_the_disk_suite_with_digests() {
    run(async {
        let shelf = Shelf::start(4096);
        let digests = DigestOffer::Demand;
        conformance::disk(&shelf.bench(Options { header_digest: digests, data_digest: digests, ..options() })).await;
    });
}

#[test]
fn the_own_target_passes_the_reservation_suite_to_the_letter() {
    run(async {
        let shelf = Shelf::start(512);
        conformance::reservations(&shelf.bench(options())).await;
    });
    run(async {
        let shelf = Shelf::start(512);
        conformance::reservations_to_the_letter(&shelf.bench(options())).await;
    });
}

#[test]
fn a_dropped_session_comes_back_to_its_own_registration() {
    run(async {
        let shelf = Shelf::start(512);
        let lun = IscsiLun::open(&shelf.url(), nexus(0), options());
        lun.ready(Duration::from_secs(10)).await.expect("the shelf is there");
        let pr = lun.reservations().expect("iSCSI disks have reservations");
        let kind = ReservationType::WriteExclusiveRegistrantsOnly;
        pr.register(Key(5)).await.expect("REGISTER is accepted");
        pr.reserve(Key(5), kind).await.expect("RESERVE is accepted");
        let seen @ Link::Connected { epoch: before } = lun.link() else { panic!("connected") };
        lun.trust(before);

        assert_eq!(shelf.portal.drop_sessions(TARGET), 1);
        assert_eq!(lun.link_changed(seen).await, Link::Down);
        let Link::Connected { epoch } = lun.link_changed(Link::Down).await else { panic!("connected again") };
        assert!(epoch > before);
        // Same name and ISID, so the target knows the initiator port again.
        assert_eq!(pr.read_keys().await.expect("READ KEYS is answered").keys, [Key(5)]);
        assert_eq!(pr.read_reservation().await, Ok(Some(Reservation { key: Key(5), kind })));
        let extent = Extent::within(lun.geometry().expect("known"), 0, 1).expect("inside");
        let held_back = lun.write(extent, Bytes::from(vec![0; 512]), Durability::Cached).await;
        assert!(matches!(held_back, Err(DiskError::Unreachable(_))), "{held_back:?}");
        lun.trust(epoch);
        lun.write(extent, Bytes::from(vec![0; 512]), Durability::Cached).await.expect("a registrant writes");
    });
}

#[test]
fn the_identity_is_the_same_through_every_nexus() {
    run(async {
        let shelf = Shelf::start(512);
        let mut seen = Vec::new();
        for number in [0, 1] {
            let lun = IscsiLun::open(&shelf.url(), nexus(number), options());
            lun.ready(Duration::from_secs(10)).await.expect("the shelf is there");
            seen.push(lun.identify().await.expect("INQUIRY is answered"));
        }
        assert_eq!(seen[0], seen[1]);
        assert!(seen[0].designator.starts_with("naa."), "{seen:?}");
        assert!(!seen[0].serial.is_empty());
    });
}

#[test]
fn discovery_names_the_target_and_its_portal() {
    run(async {
        let shelf = Shelf::start(512);
        let portal = shelf.portal.address().to_string();
        let targets = discover(&portal, nexus(0), &options()).await.expect("discovery is answered");
        assert_eq!(targets.len(), 1);
        assert_eq!((&targets[0].name[..], &targets[0].addresses[..]), (TARGET, &[format!("{portal},1")][..]));
    });
}

#[test]
fn a_held_login_waits_and_is_answered_when_the_gate_opens() {
    run(async {
        let shelf = Shelf::start(512);
        let identity = UnitIdentity { uuid: [8; 16], product: "VOLUME".to_owned() };
        let unit = UnitOnMedium::new(UnitOptions::new(identity), MemoryMedium::new(512, 64), None).expect("fresh");
        let target = Target::new("iqn.2026-01.example:held");
        assert!(target.add(0, unit).is_ok());
        let gate = LoginGate::held();
        shelf.portal.add_target(target, gate.clone());
        let place = Place { portal: shelf.portal.address().to_string(), target: "iqn.2026-01.example:held".to_owned() };
        let lun: Rc<IscsiLun> = IscsiLun::open(&LunUrl { place, lun: 0 }, nexus(0), options());
        // Cooperative turns, not time: the login has to arrive at the gate.
        while gate.waiting() == 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(lun.link(), Link::Down);
        gate.open();
        lun.ready(Duration::from_secs(10)).await.expect("the gate is open");
    });
}

/// SPC-4 r37 §5.13.11.2, and design rule 3: a write in flight at PREEMPT AND ABORT is on the disk when that is answered,
/// or never will be.
#[test]
fn preempt_and_abort_is_not_answered_while_the_victims_write_is_at_the_medium() {
    run(async {
        let slow = Rc::new(SlowMedium {
            inner: MemoryMedium::new(512, 65_536),
            arrived: Semaphore::new(0),
            may_pass: Semaphore::new(0),
        });
        let shelf = Shelf::on(Rc::clone(&slow) as Rc<dyn Medium>);
        let own = IscsiLun::open(&shelf.url(), nexus(0), options());
        let impatient = Options { command_deadline: Duration::from_millis(500), ..options() };
        let victim = IscsiLun::open(&shelf.url(), nexus(1), impatient);
        for (lun, key) in [(&own, Key(1)), (&victim, Key(2))] {
            lun.ready(Duration::from_secs(10)).await.expect("the shelf is there");
            lun.reservations().expect("iSCSI").register(key).await.expect("REGISTER is accepted");
        }
        let kind = ReservationType::WriteExclusiveRegistrantsOnly;
        victim.reservations().expect("iSCSI").reserve(Key(2), kind).await.expect("RESERVE is accepted");

        let extent = Extent::within(victim.geometry().expect("known"), 0, 1).expect("inside");
        let writing = victim.write(extent, Bytes::from(vec![0xee; 512]), Durability::Cached);
        let preempting = async {
            slow.arrived.acquire().await.expect("never closed").forget();
            let mut preempting = own.reservations().expect("iSCSI").preempt_and_abort(Key(1), Key(2), kind);
            // Later commands of the same session are answered, so this one had its chance.
            for _ in 0..20 {
                assert_eq!(poll_immediate(&mut preempting).await, None, "answered too early");
                own.identify().await.expect("INQUIRY is answered");
            }
            slow.may_pass.add_permits(1);
            preempting.await
        };
        let (written, preempted) = join(writing, preempting).await;
        assert_eq!(preempted, Ok(()));
        assert!(matches!(written, Err(DiskError::OutcomeUnknown(_))), "{written:?}");
        assert_eq!(own.read(extent).await, Ok(Bytes::from(vec![0xee; 512])), "the write was at the medium already");
        victim.ready(Duration::from_secs(10)).await.expect("logged in again");
        let fenced = victim.write(extent, Bytes::from(vec![0xdd; 512]), Durability::Cached).await;
        assert_eq!(fenced, Err(DiskError::Conflict));
    });
}
