//! CHAP towards a shelf, with this project's own target as the shelf.
mod support;

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use support::{nexus, options, run};
use understudy_device::memory::MemoryMedium;
use understudy_device::{Target, UnitIdentity, UnitOnMedium, UnitOptions};
use understudy_disk::discover::discover;
use understudy_disk::disk::{Disk, DiskError, Link};
use understudy_disk::lun::IscsiLun;
use understudy_disk::session::{Options, Place, Proof, Reconnect, Session};
use understudy_disk::url::LunUrl;
use understudy_portal::access::{ALGORITHMS, Access, AccessList, Credentials, Grant, Identity, Scope};
use understudy_portal::secret::Secret;
use understudy_portal::{LoginGate, Portal, PortalOptions};

const TARGET: &str = "iqn.2026-01.example:shelf";
const SECRET: &str = "a secret of the pair";
const SHELF_SECRET: &str = "a secret of the shelf";
const PATIENCE: Duration = Duration::from_secs(20);

fn identity(user: &str, secret: &str) -> Identity {
    Identity { user: user.to_owned(), secret: Secret::new(secret.as_bytes()).expect("long enough") }
}

/// A shelf that wants the pair's secret, and proves itself if asked to and `own` is there.
fn shelf(own: Option<&str>) -> (Portal, LunUrl) {
    let unit = UnitOptions::new(UnitIdentity { uuid: [7; 16], product: "SHELF DISK".to_owned() });
    let target = Target::new(TARGET);
    let unit = UnitOnMedium::new(unit, MemoryMedium::new(512, 64), None).expect("a fresh unit");
    target.add(0, unit).expect("the number is free");
    let credentials =
        Credentials { initiator: identity("pair", SECRET), target: own.map(|secret| identity("shelf", secret)) };
    let grant = Grant { scope: Scope::EveryTarget, credentials: Some(credentials) };
    let list = AccessList::new([(nexus(0).initiator_name, grant)], ALGORITHMS.to_vec());
    let options = PortalOptions { access: Arc::new(Access::Listed(list)), ..PortalOptions::default() };
    let portal = Portal::bind("127.0.0.1:0".parse().expect("an address"), options).expect("a free port");
    portal.add_target(target, LoginGate::opened());
    let place = Place { portal: portal.address().to_string(), target: TARGET.to_owned() };
    (portal, LunUrl { place, lun: 0 })
}

fn proving(own: &str, demanded: Option<&str>) -> Options {
    let credentials =
        Credentials { initiator: identity("pair", own), target: demanded.map(|secret| identity("shelf", secret)) };
    Options { proof: Some(Proof { credentials, algorithms: ALGORITHMS.to_vec() }), ..options() }
}

/// How a login with these settings ends, and a discovery.
async fn log_in(url: &LunUrl, options: Options) -> [Result<(), DiskError>; 2] {
    let portal = &url.place.portal;
    let found = discover(portal, nexus(0), &options).await.map(|targets| assert_eq!(targets[0].name, TARGET));
    let session = Session::start(url.place.clone(), nexus(0), Options { reconnect: Reconnect::Never, ..options });
    let connected = session.connected().await;
    assert_eq!(connected.is_ok(), matches!(session.link(), Link::Connected { .. }));
    session.close().await;
    [connected, found]
}

#[test]
fn a_shelf_that_demands_a_proof_gets_it_and_gives_its_own() {
    run(async {
        let (portal, url) = shelf(Some(SHELF_SECRET));
        for demanded in [None, Some(SHELF_SECRET)] {
            assert_eq!(log_in(&url, proving(SECRET, demanded)).await, [Ok(()), Ok(())], "{demanded:?}");
        }
        // A session that was lost proves everything again.
        let lun: Rc<IscsiLun> = IscsiLun::open(&url, nexus(0), proving(SECRET, Some(SHELF_SECRET)));
        lun.ready(PATIENCE).await.expect("logged in");
        let seen = lun.link();
        assert_eq!(portal.drop_sessions(TARGET), 1);
        while lun.link() == seen || lun.link() == Link::Down {
            tokio::task::yield_now().await;
        }
        lun.ready(PATIENCE).await.expect("logged in again");
    });
}

#[test]
fn who_proves_something_else_is_told_what_to_compare() {
    run(async {
        let (_portal, url) = shelf(Some(SHELF_SECRET));
        for (options, expected) in [
            (proving("another one of the pair", None), "compare user name, secret"),
            (proving("another one of the pair", Some(SHELF_SECRET)), "compare user name, secret"),
            (options(), "compare user name, secret"),
            (proving(SECRET, Some("another one of the shelf")), "its secret is not the one known here"),
        ] {
            for outcome in log_in(&url, options).await {
                let Err(DiskError::Unreachable(text)) = outcome else { panic!("{expected}: {outcome:?}") };
                assert!(text.contains(expected) && !text.contains("another one"), "{text}");
            }
        }
        let (_portal, url) = shelf(None);
        for outcome in log_in(&url, proving(SECRET, Some(SHELF_SECRET))).await {
            let Err(DiskError::Unreachable(text)) = outcome else { panic!("{outcome:?}") };
            assert!(text.contains("authentication failed"), "{text}");
        }
    });
}

/// A shelf that lets everyone in proves nothing; whoever demands a proof does not use it.
#[test]
fn a_shelf_that_proves_nothing_is_not_used_where_it_has_to() {
    run(async {
        let target = Target::new(TARGET);
        let portal = Portal::bind("127.0.0.1:0".parse().expect("an address"), PortalOptions::default()).expect("free");
        portal.add_target(target, LoginGate::opened());
        let url = LunUrl { place: Place { portal: portal.address().to_string(), target: TARGET.to_owned() }, lun: 0 };
        for outcome in log_in(&url, proving(SECRET, Some(SHELF_SECRET))).await {
            let Err(DiskError::Unreachable(text)) = outcome else { panic!("{outcome:?}") };
            assert!(text.contains("authentication failed") || text.contains("does not prove"), "{text}");
        }
        // One way it has nothing to prove, and nobody asks.
        let found = discover(&portal.address().to_string(), nexus(0), &proving(SECRET, None)).await;
        assert!(found.is_ok(), "{found:?}");
    });
}
