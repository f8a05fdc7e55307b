//! A portal over real sockets, driven by hand: service, gates, reinstatement, and what bad clients can do.

mod hand;

use std::future::Future;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use hand::{Hand, PATIENCE, login};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::{LocalSet, spawn_local, yield_now};
use tokio::time::timeout;
use understudy_device::memory::MemoryMedium;
use understudy_device::{Target, UnitIdentity, UnitOnMedium, UnitOptions};
use understudy_iscsi::TargetPdu;
use understudy_iscsi::serial::Tsih;
use understudy_portal::{Limits, LoginGate, Portal, PortalOptions};
use understudy_session::Micros;

const NAME: &str = "iqn.2026-01.test:disk";

fn on_one_thread(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let bounded = async { timeout(3 * PATIENCE, test).await.expect("the test ends in time") };
    LocalSet::new().block_on(&runtime, bounded);
}

fn target(name: &str) -> Rc<Target> {
    let target = Target::new(name);
    let identity = UnitIdentity { uuid: [7; 16], product: "TEST".to_owned() };
    let unit = UnitOnMedium::new(UnitOptions::new(identity), MemoryMedium::new(512, 128), None).unwrap();
    target.add(0, unit).unwrap();
    target
}

fn loopback() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

fn portal_at(address: SocketAddr, options: PortalOptions, gate: &LoginGate) -> (Portal, SocketAddr) {
    let portal = Portal::bind(address, options).unwrap();
    portal.add_target(target(NAME), gate.clone());
    let address = portal.address();
    (portal, address)
}

fn open_portal() -> (Portal, SocketAddr) {
    portal_at(loopback(), PortalOptions::default(), &LoginGate::opened())
}

async fn until(what: impl Fn() -> bool) {
    let waiting = async {
        while !what() {
            yield_now().await;
        }
    };
    timeout(PATIENCE, waiting).await.expect("it happens in time");
}

#[test]
fn written_block_is_read_back_and_counted() {
    on_one_thread(async {
        let (portal, address) = open_portal();
        let mut client = Hand::log_in(address, NAME, 1).await;
        client.make_ready().await;
        client.write_block(5, &[0xa5; 512]).await;
        let answer = client.read_block(5).await;
        assert_eq!((answer.status, &answer.data[..]), (Some(0), &[0xa5; 512][..]));
        let counters = portal.target_counters(NAME).unwrap();
        assert_eq!((counters.sessions, counters.logins), (1, 1));
        assert!(counters.commands >= 3 && counters.last_completion.is_some());
        drop(client);
        until(|| portal.counters().connections == 0).await;
    });
}

#[test]
fn discovery_names_the_address_that_was_used() {
    on_one_thread(async {
        let (portal, address) = open_portal();
        let other = portal.listen_also(loopback()).unwrap();
        portal.add_target(target("iqn.2026-01.test:second"), LoginGate::held());
        for used in [address, other] {
            let expected = format!(
                "TargetName={NAME};TargetAddress={used},1;TargetName=iqn.2026-01.test:second;TargetAddress={used},1;"
            );
            assert_eq!(Hand::discover(used).await, expected);
        }
    });
}

#[test]
fn unknown_target_unknown_session_and_second_connection_are_refused() {
    on_one_thread(async {
        let (portal, address) = open_portal();
        let mut client = Hand::connect(address).await;
        let refused = client.try_log_in("iqn.2026-01.test:none", 1).await;
        assert_eq!((refused.status.class, refused.status.detail), (2, 3));
        assert!(client.receive().await.is_none());

        let mut session = Hand::connect(address).await;
        let tsih = session.try_log_in(NAME, 1).await.tsih;
        assert_ne!(tsih, Tsih(0));
        let text = format!("InitiatorName=iqn.2026-01.test:hand\0TargetName={NAME}\0");
        for (tsih, detail) in [(Tsih(tsih.0 + 1), 10), (tsih, 6)] {
            let mut client = Hand::connect(address).await;
            client.send(understudy_iscsi::request::LoginRequest { tsih, ..login(&text, 1) }).await;
            let Some(TargetPdu::LoginResponse(refused)) = client.receive().await else { panic!("no response") };
            assert_eq!((refused.status.class, refused.status.detail), (2, detail));
        }
        session.make_ready().await;
        assert_eq!(portal.counters().sessions, 1);
    });
}

/// RFC 7143 §6.3.5.
#[test]
fn login_of_the_same_nexus_ends_the_older_session_first() {
    on_one_thread(async {
        let (portal, address) = open_portal();
        let mut older = Hand::log_in(address, NAME, 1).await;
        older.make_ready().await;
        let mut other = Hand::log_in(address, NAME, 2).await;
        // A write that waits for its data is under way in the older session.
        older.command(&[0x2a, 0, 0, 0, 0, 1, 0, 0, 1], 0, 512).await;
        assert!(matches!(older.receive().await, Some(TargetPdu::R2t(_))));
        let mut newer = Hand::log_in(address, NAME, 1).await;
        assert!(older.receive().await.is_none());
        newer.make_ready().await;
        other.make_ready().await;
        assert_eq!(portal.counters().sessions, 2);
    });
}

#[test]
fn login_is_held_until_the_gate_opens_and_a_newer_one_takes_its_place() {
    on_one_thread(async {
        let gate = LoginGate::held();
        let (portal, address) = portal_at(loopback(), PortalOptions::default(), &gate);
        let mut given_up = Hand::connect(address).await;
        given_up.ask_log_in(&format!("TargetName={NAME}\0"), 1).await;
        until(|| gate.waiting() == 1).await;
        let mut client = Hand::connect(address).await;
        client.ask_log_in(&format!("TargetName={NAME}\0"), 1).await;
        assert!(given_up.receive().await.is_none());
        until(|| gate.waiting() == 1 && portal.counters().connections == 1).await;
        assert_eq!(portal.counters().sessions, 0);
        gate.open();
        assert!(matches!(client.receive().await, Some(TargetPdu::LoginResponse(r)) if r.status.class == 0));
        assert_eq!((gate.waiting(), portal.counters().held_logins), (0, 0));
        assert!(gate.longest_hold() > Duration::ZERO);
    });
}

#[test]
fn login_held_too_long_is_told_to_come_back_and_one_too_many_is_refused() {
    on_one_thread(async {
        let options =
            PortalOptions { hold_limit: Duration::from_millis(50), held_logins_max: 1, ..PortalOptions::default() };
        let gate = LoginGate::held();
        let (_portal, address) = portal_at(loopback(), options, &gate);
        let mut first = Hand::connect(address).await;
        first.ask_log_in(&format!("TargetName={NAME}\0"), 1).await;
        until(|| gate.waiting() == 1).await;
        let mut second = Hand::connect(address).await;
        let refused = second.try_log_in(NAME, 2).await;
        assert_eq!((refused.status.class, refused.status.detail), (3, 2));
        let Some(TargetPdu::LoginResponse(refused)) = first.receive().await else { panic!("no response") };
        assert_eq!((refused.status.class, refused.status.detail), (3, 1));
    });
}

#[test]
fn dropped_sessions_end_in_order_and_removed_targets_are_not_found() {
    on_one_thread(async {
        let (portal, address) = open_portal();
        portal.add_target(target("iqn.2026-01.test:second"), LoginGate::opened());
        let mut first = Hand::log_in(address, NAME, 1).await;
        let mut second = Hand::log_in(address, "iqn.2026-01.test:second", 1).await;
        assert_eq!(portal.drop_sessions(NAME), 1);
        assert!(first.receive().await.is_none());
        second.make_ready().await;
        let mut again = Hand::log_in(address, NAME, 1).await;
        assert_eq!(portal.request_logout(NAME), 1);
        assert!(matches!(again.receive().await, Some(TargetPdu::AsyncMessage(message)) if message.event.0 == 1));
        assert_eq!(portal.remove_target(NAME), 1);
        assert!(again.receive().await.is_none());
        let refused = Hand::connect(address).await.try_log_in(NAME, 1).await;
        assert_eq!((refused.status.class, refused.status.detail), (2, 3));
        portal.close().await;
        assert!(second.receive().await.is_none());
        assert_eq!(portal.counters().connections, 0);
    });
}

#[test]
fn fenced_target_closes_the_connection_without_an_answer() {
    on_one_thread(async {
        let portal = Portal::bind(loopback(), PortalOptions::default()).unwrap();
        let target = target(NAME);
        portal.add_target(Rc::clone(&target), LoginGate::opened());
        let mut client = Hand::log_in(portal.address(), NAME, 1).await;
        client.make_ready().await;
        target.fence();
        client.command(&[0; 6], 0, 0).await;
        assert!(client.receive().await.is_none());
    });
}

/// An address moves from one portal to another while clients come and go: nobody is refused or reset.
#[test]
fn address_moves_to_a_newer_portal_under_connecting_clients() {
    on_one_thread(async {
        let gate = LoginGate::opened();
        let (older, address) = portal_at(loopback(), PortalOptions::default(), &gate);
        let clients = spawn_local(async move {
            for round in 0..200 {
                let mut client = Hand::log_in(address, NAME, round).await;
                client.make_ready().await;
            }
        });
        until(|| older.counters().logins > 20).await;
        let (newer, _) = portal_at(address, PortalOptions::default(), &gate);
        until(|| newer.counters().logins > 20).await;
        older.stop_listening().await;
        clients.await.unwrap();
        assert_eq!(older.counters().logins + newer.counters().logins, 200);
    });
}

/// Whatever one client does, another one's session goes on.
#[test]
fn bad_clients_lose_their_session_and_nobody_else_does() {
    on_one_thread(async {
        let (portal, address) = open_portal();
        let mut good = Hand::log_in(address, NAME, 1).await;
        good.make_ready().await;
        let mut lying_login = login("InitiatorName=iqn.2026-01.test:hand\0", 3).into_frame().bhs.0;
        lying_login[5..8].copy_from_slice(&[0xff, 0xff, 0xff]);
        for bytes in [&[0xff_u8; 4096][..], &b"GET / HTTP/1.0\r\n\r\n".repeat(40), &lying_login, &[0; 48]] {
            let mut bad = Hand::connect(address).await;
            bad.socket.write_all(bytes).await.unwrap();
            let Some(TargetPdu::LoginResponse(refused)) = bad.receive().await else { panic!("no refusal") };
            assert_eq!(refused.status.class, 2);
            assert!(bad.receive().await.is_none());
            good.make_ready().await;
        }
        for bytes in [[0x25_u8; 48], [0x3e; 48]] {
            let mut bad = Hand::log_in(address, NAME, 9).await;
            let mut bytes = bytes;
            bytes[4..8].fill(0);
            bad.socket.write_all(&bytes).await.unwrap();
            assert!(matches!(bad.receive().await, Some(TargetPdu::Reject(_))));
            assert!(bad.receive().await.is_none());
            good.make_ready().await;
        }
        let mut oversize = Hand::log_in(address, NAME, 9).await;
        let mut header = [0_u8; 48];
        header[0..8].copy_from_slice(&[0x40, 0x80, 0, 0, 0, 0xff, 0xff, 0xff]);
        oversize.socket.write_all(&header).await.unwrap();
        assert!(oversize.receive().await.is_none());
        good.make_ready().await;
        assert_eq!(portal.counters().sessions, 1);
    });
}

#[test]
fn login_that_is_never_finished_is_given_up() {
    on_one_thread(async {
        let limits = Limits { login: Micros(50_000), ..Limits::default() };
        let options = PortalOptions { limits, ..PortalOptions::default() };
        let (portal, address) = portal_at(loopback(), options, &LoginGate::opened());
        let mut silent = Hand::connect(address).await;
        let mut truncated = Hand::connect(address).await;
        truncated.socket.write_all(&[0x43, 0x87, 0, 0]).await.unwrap();
        let mut byte = [0];
        assert_eq!(timeout(PATIENCE, silent.socket.read(&mut byte)).await.unwrap().unwrap(), 0);
        assert_eq!(timeout(PATIENCE, truncated.socket.read(&mut byte)).await.unwrap().unwrap(), 0);
        until(|| portal.counters().connections == 0).await;
    });
}

#[test]
fn connections_are_bounded() {
    on_one_thread(async {
        let options = PortalOptions { connections_max: 2, ..PortalOptions::default() };
        let (_portal, address) = portal_at(loopback(), options, &LoginGate::opened());
        let mut first = Hand::log_in(address, NAME, 1).await;
        let mut second = Hand::log_in(address, NAME, 2).await;
        let mut third = Hand::connect(address).await;
        assert!(third.receive().await.is_none());
        first.make_ready().await;
        second.make_ready().await;
    });
}
