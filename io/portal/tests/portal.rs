//! A portal over real sockets, driven by hand: service, gates, reinstatement, and what bad clients can do.

mod hand;

use std::future::Future;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use hand::{Hand, PATIENCE, login};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::{LocalSet, spawn_local, yield_now};
use tokio::time::timeout;
use understudy_device::memory::MemoryMedium;
use understudy_device::{Target, UnitIdentity, UnitOnMedium, UnitOptions};
use understudy_iscsi::TargetPdu;
use understudy_iscsi::binary::{encode_binary, parse_binary};
use understudy_iscsi::chap::ChapAlgorithm;
use understudy_iscsi::login::{LoginStatus, Stage};
use understudy_iscsi::request::{DataOut, LoginRequest};
use understudy_iscsi::response::LoginResponse;
use understudy_iscsi::serial::{StatSn, TaskTag, TransferTag, Tsih};
use understudy_iscsi::text::KeyList;
use understudy_portal::access::{ALGORITHMS, Access, AccessList, Credentials, Grant, Identity, Scope};
use understudy_portal::secret::Secret;
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

/// RFC 7143 §11.13.5.
#[test]
fn login_for_a_target_served_elsewhere_is_sent_there() {
    on_one_thread(async {
        let (_there, there) = open_portal();
        let here = Portal::bind(loopback(), PortalOptions::default()).unwrap();
        here.add_target(target("iqn.2026-01.test:own"), LoginGate::opened());
        here.point_to(&NAME.to_ascii_uppercase(), there);
        let mut client = Hand::connect(here.address()).await;
        let refused = client.try_log_in(NAME, 1).await;
        assert_eq!((refused.status.class, refused.status.detail), (1, 1));
        assert_eq!(refused.text, format!("TargetAddress={there}\0").as_bytes());
        assert!(client.receive().await.is_none());
        let mut client = Hand::log_in(there, NAME, 1).await;
        client.make_ready().await;
        // What is served here is served here, and what nobody knows is not found.
        here.add_target(target(NAME), LoginGate::opened());
        Hand::log_in(here.address(), NAME, 1).await.make_ready().await;
        let refused = Hand::connect(here.address()).await.try_log_in("iqn.2026-01.test:none", 1).await;
        assert_eq!((refused.status.class, refused.status.detail), (2, 3));
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
            client.send(LoginRequest { tsih, ..login(&text, 1) }).await;
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
        assert_eq!(told_to_come_back(&mut second).await, (3, [0, 0, 0]));
        assert_eq!(portal.counters().connections, 0);
    });
}

/// The last word on a connection before it ends in order: the event and its parameters, of which the second is Time2Wait.
async fn told_to_come_back(client: &mut Hand) -> (u8, [u16; 3]) {
    let Some(TargetPdu::AsyncMessage(message)) = client.receive().await else { panic!("not told") };
    assert!(client.receive().await.is_none(), "and nothing after it");
    (message.event.0, message.parameters)
}

/// RFC 7143 §11.9: what was answered arrives, then the word that the session is over and when to come back; what was not answered is not.
#[test]
fn dismissed_clients_are_told_to_come_back_at_once() {
    on_one_thread(async {
        let (portal, address) = open_portal();
        let mut client = Hand::log_in(address, NAME, 1).await;
        client.make_ready().await;
        // One that waits for its data is under way.
        client.command(&[0x2a, 0, 0, 0, 0, 1, 0, 0, 1], 0, 512).await;
        assert!(matches!(client.receive().await, Some(TargetPdu::R2t(_))));
        let held = LoginGate::held();
        portal.add_target(target("iqn.2026-01.test:held"), held.clone());
        let mut logging_in = Hand::connect(address).await;
        logging_in.ask_log_in("TargetName=iqn.2026-01.test:held\0", 1).await;
        until(|| held.waiting() == 1).await;
        assert_eq!(portal.dismiss_sessions(NAME), 1);
        assert_eq!(told_to_come_back(&mut client).await, (3, [0, 0, 0]));
        // Whoever has not logged in has no session to be told of.
        assert_eq!(portal.dismiss_sessions("iqn.2026-01.test:held"), 1);
        assert!(logging_in.receive().await.is_none());
        let mut again = Hand::log_in(address, NAME, 1).await;
        again.make_ready().await;
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

const CLIENT_SECRET: &[u8] = b"what the hand knows";
const OWN_SECRET: &[u8] = b"what the portal knows";

/// Only the hand may log in, and only if it knows its secret.
fn guarded() -> PortalOptions {
    let identity = |user: &str, secret| Identity { user: user.to_owned(), secret: Secret::new(secret).unwrap() };
    let credentials =
        Credentials { initiator: identity("hand", CLIENT_SECRET), target: Some(identity("portal", OWN_SECRET)) };
    let grant = Grant { scope: Scope::EveryTarget, credentials: Some(credentials) };
    let list = AccessList::new([("iqn.2026-01.test:hand".to_owned(), grant)], ALGORITHMS.to_vec());
    PortalOptions { access: Arc::new(Access::Listed(list)), ..PortalOptions::default() }
}

/// What a login says in the security stage.
async fn say(hand: &mut Hand, text: &str, next: Option<Stage>) -> LoginResponse {
    let request = LoginRequest {
        transit: next.is_some(),
        stage: Stage::Security,
        next_stage: next.unwrap_or(Stage::Security),
        ..login(text, 1)
    };
    hand.send(request).await;
    let Some(TargetPdu::LoginResponse(response)) = hand.receive().await else { panic!("no response") };
    response
}

/// The login up to the challenge: identifier and challenge.
async fn be_challenged(hand: &mut Hand) -> (u8, Vec<u8>) {
    let names = format!("InitiatorName=iqn.2026-01.test:hand\0TargetName={NAME}\0AuthMethod=CHAP\0");
    say(hand, &names, None).await;
    let keys = KeyList::parse(&say(hand, "CHAP_A=7\0", None).await.text).unwrap();
    let identifier = keys.get("CHAP_I").unwrap().parse().unwrap();
    (identifier, parse_binary(keys.get("CHAP_C").unwrap(), 64).unwrap())
}

#[test]
fn both_sides_prove_who_they_are_and_no_challenge_comes_twice() {
    on_one_thread(async {
        let (_portal, address) = portal_at(loopback(), guarded(), &LoginGate::opened());
        let mut known = Hand::connect(address).await;
        let (identifier, challenge) = be_challenged(&mut known).await;
        let answer = encode_binary(&ChapAlgorithm::Sha256.answer(identifier, CLIENT_SECRET, &challenge));
        let proof = format!("CHAP_N=hand\0CHAP_R={answer}\0CHAP_I=5\0CHAP_C=0x0102030405060708\0");
        let response = say(&mut known, &proof, Some(Stage::FullFeature)).await;
        assert_eq!((response.status, response.transit), (LoginStatus::SUCCESS, true));
        let own = encode_binary(&ChapAlgorithm::Sha256.answer(5, OWN_SECRET, &[1, 2, 3, 4, 5, 6, 7, 8]));
        let keys = KeyList::parse(&response.text).unwrap();
        assert_eq!((keys.get("CHAP_N"), keys.get("CHAP_R")), (Some("portal"), Some(&own[..])));
        known.make_ready().await;

        // What was heard before is no answer to the next challenge.
        let mut replaying = Hand::connect(address).await;
        let (_, other) = be_challenged(&mut replaying).await;
        assert_ne!(challenge, other);
        let refused = say(&mut replaying, &proof, Some(Stage::FullFeature)).await;
        assert_eq!(refused.status, LoginStatus::AUTHENTICATION_FAILURE);
        assert!(replaying.receive().await.is_none());
    });
}

#[test]
fn who_has_to_prove_itself_and_does_not_is_refused_in_every_kind_of_session() {
    on_one_thread(async {
        let (portal, address) = portal_at(loopback(), guarded(), &LoginGate::opened());
        for keys in [format!("TargetName={NAME}\0"), "SessionType=Discovery\0".to_owned()] {
            let mut hand = Hand::connect(address).await;
            hand.ask_log_in(&keys, 1).await;
            let Some(TargetPdu::LoginResponse(refused)) = hand.receive().await else { panic!("no response") };
            assert_eq!(refused.status, LoginStatus::AUTHENTICATION_FAILURE);
        }
        let mut stranger = Hand::connect(address).await;
        stranger.send(login(&format!("InitiatorName=iqn.2026-01.test:other\0TargetName={NAME}\0"), 1)).await;
        let Some(TargetPdu::LoginResponse(refused)) = stranger.receive().await else { panic!("no response") };
        assert_eq!(refused.status, LoginStatus::AUTHORIZATION_FAILURE);
        assert_eq!((portal.counters().sessions, portal.counters().logins), (0, 0));
    });
}

#[test]
fn without_random_numbers_nobody_is_let_in() {
    on_one_thread(async {
        let options = PortalOptions { chance: || None, ..guarded() };
        let (_portal, address) = portal_at(loopback(), options, &LoginGate::opened());
        let mut hand = Hand::connect(address).await;
        let names = format!("InitiatorName=iqn.2026-01.test:hand\0TargetName={NAME}\0AuthMethod=CHAP\0");
        say(&mut hand, &names, None).await;
        assert_eq!(say(&mut hand, "CHAP_A=7\0", None).await.status, LoginStatus::TARGET_ERROR);
    });
}

#[test]
fn logins_that_never_end_keep_nobody_out() {
    on_one_thread(async {
        let options = PortalOptions { logins_max: 2, ..PortalOptions::default() };
        let (_portal, address) = portal_at(loopback(), options, &LoginGate::opened());
        let mut session = Hand::log_in(address, NAME, 9).await;
        let mut oldest = Hand::connect(address).await;
        let mut idle = Vec::new();
        for _ in 0..8 {
            idle.push(Hand::connect(address).await);
        }
        assert!(oldest.receive().await.is_none());
        let mut client = Hand::log_in(address, NAME, 1).await;
        client.make_ready().await;
        session.make_ready().await;
    });
}

#[test]
fn logins_that_never_end_give_way_when_connections_are_scarce() {
    on_one_thread(async {
        let options = PortalOptions { connections_max: 2, ..PortalOptions::default() };
        let (_portal, address) = portal_at(loopback(), options, &LoginGate::opened());
        let mut first = Hand::log_in(address, NAME, 1).await;
        let mut idle = Hand::connect(address).await;
        let mut second = Hand::log_in(address, NAME, 2).await;
        assert!(idle.receive().await.is_none());
        first.make_ready().await;
        second.make_ready().await;
    });
}

#[test]
fn sessions_of_one_initiator_are_bounded_and_one_may_still_be_replaced() {
    on_one_thread(async {
        let options = PortalOptions { sessions_per_initiator_max: 2, ..PortalOptions::default() };
        let (portal, address) = portal_at(loopback(), options, &LoginGate::opened());
        let mut first = Hand::log_in(address, NAME, 1).await;
        let _second = Hand::log_in(address, NAME, 2).await;
        let refused = Hand::connect(address).await.try_log_in(NAME, 3).await;
        assert_eq!(refused.status, LoginStatus::OUT_OF_RESOURCES);
        let mut again = Hand::log_in(address, NAME, 2).await;
        again.make_ready().await;
        // Another one's sessions are not counted.
        let mut other = Hand::connect(address).await;
        other.send(login(&format!("InitiatorName=iqn.2026-01.test:other\0TargetName={NAME}\0"), 1)).await;
        assert!(matches!(other.receive().await, Some(TargetPdu::LoginResponse(r)) if r.status == LoginStatus::SUCCESS));
        assert_eq!(portal.counters().sessions, 3);
        first.make_ready().await;
    });
}

#[test]
fn memory_is_shared_out_among_sessions_when_it_is_scarce() {
    on_one_thread(async {
        // There is memory for one block. A second command of who has it waits until its first is answered; others go on.
        let options = PortalOptions { memory_bytes: 512, ..PortalOptions::default() };
        let (_portal, address) = portal_at(loopback(), options, &LoginGate::opened());
        let mut first = Hand::log_in(address, NAME, 1).await;
        let mut second = Hand::log_in(address, NAME, 2).await;
        first.make_ready().await;
        second.make_ready().await;
        let stuck = first.command(&[0x2a, 0, 0, 0, 0, 1, 0, 0, 1], 0, 512).await;
        let Some(TargetPdu::R2t(r2t)) = first.receive().await else { panic!("an R2T expected") };
        assert_eq!(r2t.tag, stuck);
        let waiting = first.command(&[0x2a, 0, 0, 0, 0, 2, 0, 0, 1], 0, 512).await;
        second.write_block(3, &[3; 512]).await;
        // The answer to a command without data overtakes the one that waits for memory: nothing was asked for it yet.
        first.command(&[0; 6], 0, 0).await;
        assert_eq!(first.status().await.status, 0);
        first.send(data_out(stuck, r2t.transfer_tag)).await;
        assert_eq!(first.status().await.tag, stuck);
        let Some(TargetPdu::R2t(r2t)) = first.receive().await else { panic!("an R2T expected") };
        assert_eq!(r2t.tag, waiting);
    });
}

fn data_out(tag: TaskTag, transfer_tag: TransferTag) -> DataOut {
    DataOut {
        is_final: true,
        lun: 0,
        tag,
        transfer_tag,
        exp_stat_sn: StatSn(0),
        data_sn: 0,
        buffer_offset: 0,
        data: bytes::Bytes::from_static(&[1; 512]),
    }
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
