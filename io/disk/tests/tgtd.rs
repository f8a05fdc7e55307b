//! The iSCSI back end against a foreign target: Debian's tgtd. Skipped with a line where it is absent.

mod support;

use std::time::Duration;

use bytes::Bytes;
use support::{IscsiBench, Tgtd, nexus, options, run};
use understudy_disk::conformance;
use understudy_disk::discover::discover;
use understudy_disk::disk::{Disk, DiskError, Durability, Extent, Link};
use understudy_disk::lun::IscsiLun;
use understudy_disk::reservation::{Key, ReservationType};
use understudy_disk::session::{DigestOffer, Options, Reconnect, Request, Session, Transfer};

#[test]
fn tgtd_passes_the_disk_suite() {
    let Some(tgtd) = Tgtd::start() else { return };
    run(conformance::disk(&IscsiBench { url: tgtd.url(), options: options() }));
}

#[test]
fn tgtd_passes_the_disk_suite_with_digests() {
    let Some(tgtd) = Tgtd::start() else { return };
    tgtd.prefer_digests();
    let options = Options { header_digest: DigestOffer::Demand, data_digest: DigestOffer::Demand, ..options() };
    run(conformance::disk(&IscsiBench { url: tgtd.url(), options }));
}

#[test]
fn tgtd_passes_the_reservation_suite_with_the_substitute_for_preempt_and_abort() {
    let Some(tgtd) = Tgtd::start() else { return };
    run(conformance::reservations(&IscsiBench { url: tgtd.url(), options: options() }));
}

#[test]
fn tgtd_is_known_to_be_the_weaker_shelf() {
    let Some(tgtd) = Tgtd::start() else { return };
    run(async {
        let lun = IscsiLun::open(&tgtd.url(), nexus(0), options());
        lun.ready(Duration::from_secs(10)).await.expect("tgtd is there");
        let pr = lun.reservations().expect("iSCSI disks have reservations");
        pr.register(Key(1)).await.expect("REGISTER is accepted without APTPL");
        assert!(!pr.keeps_through_power_loss());
        pr.preempt_and_abort(Key(1), Key(1), ReservationType::WriteExclusiveRegistrantsOnly).await.expect("substitute");
        assert!(!pr.aborts_exactly());
    });
}

#[test]
fn discovery_finds_the_target() {
    let Some(tgtd) = Tgtd::start() else { return };
    run(async {
        let portal = tgtd.address.to_string();
        let targets = discover(&portal, nexus(0), &options()).await.expect("tgtd answers discovery");
        assert_eq!(targets.len(), 1);
        assert_eq!(targets[0].name, support::TGTD_TARGET);
        assert_eq!(targets[0].addresses, [format!("{portal},1")]);
    });
}

#[test]
fn a_killed_target_is_found_again_and_its_lost_registrations_show() {
    let Some(mut tgtd) = Tgtd::start() else { return };
    run(async {
        let lun = IscsiLun::open(&tgtd.url(), nexus(0), options());
        lun.ready(Duration::from_secs(10)).await.expect("tgtd is there");
        let pr = lun.reservations().expect("iSCSI disks have reservations");
        pr.register(Key(9)).await.expect("REGISTER is accepted");
        let geometry = lun.geometry().expect("connected");
        let extent = Extent::within(geometry, 8, 8).expect("inside");
        let bytes = Bytes::from(vec![0x5a; 8 * geometry.block_bytes as usize]);
        lun.write(extent, bytes.clone(), Durability::ForceUnitAccess).await.expect("written");
        let Link::Connected { epoch: before } = lun.link() else { panic!("connected") };
        lun.trust(before);

        tgtd.kill();
        assert_eq!(lun.link_changed(lun.link()).await, Link::Down);
        let refused = lun.read(extent).await;
        assert!(matches!(refused, Err(DiskError::Unreachable(_))), "{refused:?}");
        tgtd.kill_and_restart();
        let Link::Connected { epoch: after } = lun.link_changed(Link::Down).await else { panic!("connected again") };
        assert!(after > before);
        assert_eq!(lun.read(extent).await, Ok(bytes.clone()));
        assert_eq!(pr.read_keys().await.expect("READ KEYS is answered").keys, []);
        // The fence was proved in the older epoch: nothing is written before it is proved again.
        let held_back = lun.write(extent, bytes.clone(), Durability::Cached).await;
        assert!(matches!(held_back, Err(DiskError::Unreachable(_))), "{held_back:?}");
        lun.trust(after);
        lun.write(extent, bytes, Durability::Cached).await.expect("written");
    });
}

#[test]
fn a_target_that_stops_leaves_a_write_of_unknown_outcome() {
    let Some(tgtd) = Tgtd::start() else { return };
    run(async {
        let short = Options { command_deadline: Duration::from_millis(300), ..options() };
        let lun = IscsiLun::open(&tgtd.url(), nexus(0), short);
        lun.ready(Duration::from_secs(10)).await.expect("tgtd is there");
        let geometry = lun.geometry().expect("connected");
        let extent = Extent::within(geometry, 0, 8).expect("inside");
        tgtd.signal("STOP");
        let bytes = Bytes::from(vec![1; 8 * geometry.block_bytes as usize]);
        let outcome = lun.write(extent, bytes, Durability::Cached).await;
        assert!(matches!(outcome, Err(DiskError::OutcomeUnknown(_))), "{outcome:?}");
        assert_eq!(lun.link(), Link::Down);
        tgtd.signal("CONT");
        lun.ready(Duration::from_secs(10)).await.expect("tgtd goes on, so the session is made anew");
        assert_eq!(
            lun.read(extent).await.expect("readable").len(),
            extent.blocks() as usize * geometry.block_bytes as usize
        );
    });
}

/// tgtd binds a registration to the session: after the next login the key is listed and the commands conflict.
#[test]
fn a_registration_forgotten_with_its_session_is_kept_unless_it_was_preempted() {
    let Some(tgtd) = Tgtd::start() else { return };
    run(async {
        let kind = ReservationType::WriteExclusiveRegistrantsOnly;
        let short = Options { command_deadline: Duration::from_millis(300), ..options() };
        let (lun, other) =
            (IscsiLun::open(&tgtd.url(), nexus(0), short), IscsiLun::open(&tgtd.url(), nexus(1), options()));
        let (pr, taker) = (lun.reservations().expect("iSCSI"), other.reservations().expect("iSCSI"));
        for disk in [&lun, &other] {
            disk.ready(Duration::from_secs(10)).await.expect("tgtd is there");
        }
        let extent = Extent::within(lun.geometry().expect("connected"), 0, 1).expect("inside");
        let write = || lun.write(extent, Bytes::from(vec![1; 512]), Durability::Cached);
        let lose_session = async || {
            tgtd.signal("STOP");
            assert!(matches!(lun.read(extent).await, Err(DiskError::OutcomeUnknown(_))));
            tgtd.signal("CONT");
            lun.ready(Duration::from_secs(10)).await.expect("tgtd goes on, so the session is made anew");
        };
        pr.register(Key(1)).await.expect("REGISTER is accepted");
        pr.reserve(Key(1), kind).await.expect("RESERVE is accepted");
        lose_session().await;
        assert!(pr.read_keys().await.expect("answered").keys.contains(&Key(1)));
        assert_eq!(write().await, Err(DiskError::Conflict), "or this test is about nothing");
        assert_eq!(pr.keep_registered(Key(1)).await, Ok(true));
        assert_eq!(write().await, Ok(()));
        lose_session().await;
        taker.register(Key(2)).await.expect("REGISTER is accepted");
        taker.preempt_and_abort(Key(2), Key(1), kind).await.expect("a registrant may preempt another");
        assert_eq!(pr.keep_registered(Key(1)).await, Ok(false));
        assert_eq!(taker.read_keys().await.expect("answered").keys, [Key(2)], "the forgotten sessions' too are gone");
        assert_eq!(write().await, Err(DiskError::Conflict));
        assert_eq!(lun.admits_reads().await, Ok(()), "others may read");
        let exclusive = ReservationType::ExclusiveAccessRegistrantsOnly;
        taker.preempt(Key(2), Key(2), exclusive).await.expect("the type changes in one step");
        assert_eq!(lun.admits_reads().await, Err(DiskError::Conflict), "a READ of no blocks is a READ");
        assert_eq!(other.admits_reads().await, Ok(()));
    });
}

#[test]
fn a_client_without_reconnection_stays_down() {
    let Some(mut tgtd) = Tgtd::start() else { return };
    run(async {
        let once = Options { reconnect: Reconnect::Never, ..options() };
        let session = Session::start(tgtd.url().place, nexus(0), once);
        session.connected().await.expect("tgtd is there");
        let lun = understudy_scsi::luns::encode_lun(1);
        let inquiry = Request {
            cdb: understudy_scsi::encode::inquiry(96),
            transfer: Transfer::Read(96),
            deadline: Duration::from_secs(10),
        };
        let answer = session.execute(lun, inquiry.clone()).await.expect("answered");
        assert_eq!(answer.status, 0);
        assert!(answer.data_in.len() >= 36);
        tgtd.kill();
        assert_eq!(session.link_changed(session.link()).await, Link::Down);
        assert!(matches!(session.execute(lun, inquiry).await, Err(DiskError::Unreachable(_))));
        assert!(matches!(session.connected().await, Err(DiskError::Unreachable(_))));
    });
}

#[test]
fn close_logs_out() {
    let Some(tgtd) = Tgtd::start() else { return };
    run(async {
        let session = Session::start(tgtd.url().place, nexus(0), options());
        session.connected().await.expect("tgtd is there");
        session.close().await;
        assert_eq!(session.link(), Link::Down);
        assert_eq!(session.last_trouble(), "logged out");
    });
}
