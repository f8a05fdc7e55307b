//! What one client does to others: floods, halves, and answers that nobody reads. Beside each of them a sound client goes on.

#[allow(dead_code, reason = "it is shared with tests that use more of it")]
mod hand;

use std::cell::Cell;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;

use bytes::{Buf, Bytes};
use hand::{Hand, PATIENCE};
use tokio::io::AsyncWriteExt;
use tokio::task::{LocalSet, spawn_local, yield_now};
use tokio::time::timeout;
use understudy_device::memory::MemoryMedium;
use understudy_device::{Target, UnitIdentity, UnitOnMedium, UnitOptions};
use understudy_iscsi::codes::{LogoutReason, RejectReason, TaskAttribute};
use understudy_iscsi::request::{LogoutRequest, NopOut, ScsiCommand, TextRequest};
use understudy_iscsi::serial::{Cid, CmdSn, StatSn, TaskTag, TransferTag};
use understudy_iscsi::{Digests, InitiatorPdu, Outgoing, TargetPdu};
use understudy_portal::{Limits, LoginGate, Portal, PortalOptions};
use understudy_session::Micros;

const NAME: &str = "iqn.2026-01.test:disk";

/// What a portal may take in from a client that reads nothing: the answers it keeps (4 MiB), and what the kernel keeps in both directions
/// (tcp_rmem and tcp_wmem end at 32 MiB each where they were raised).
const TAKEN_IN: usize = 128 << 20;

fn on_one_thread(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let bounded = async { timeout(3 * PATIENCE, test).await.expect("the test ends in time") };
    LocalSet::new().block_on(&runtime, bounded);
}

fn open_portal(limits: Limits) -> (Portal, SocketAddr) {
    let target = Target::new(NAME);
    let identity = UnitIdentity { uuid: [7; 16], product: "TEST".to_owned() };
    let unit = UnitOnMedium::new(UnitOptions::new(identity), MemoryMedium::new(512, 4096), None).unwrap();
    target.add(0, unit).unwrap();
    let options = PortalOptions { limits, ..PortalOptions::default() };
    let portal = Portal::bind("127.0.0.1:0".parse().unwrap(), options).unwrap();
    portal.add_target(target, LoginGate::opened());
    let address = portal.address();
    (portal, address)
}

/// A sound client that is logged in.
async fn sound(address: SocketAddr) -> Hand {
    let mut client = Hand::log_in(address, NAME, 1).await;
    client.make_ready().await;
    client.write_block(7, &[0x3c; 512]).await;
    client
}

/// It is served.
async fn goes_on(client: &mut Hand) {
    assert_eq!(client.read_block(7).await.data[..], [0x3c; 512]);
}

async fn until(what: impl Fn() -> bool) {
    let waiting = async {
        while !what() {
            yield_now().await;
        }
    };
    timeout(PATIENCE, waiting).await.expect("it happens in time");
}

fn bytes_of(pdu: impl Into<InitiatorPdu>) -> Bytes {
    let mut out = Outgoing::new();
    out.push(pdu.into().into_frame(), Digests::default());
    out.copy_to_bytes(out.remaining())
}

fn ping(bytes: usize) -> NopOut {
    NopOut {
        immediate: true,
        lun: 0,
        tag: TaskTag(9),
        transfer_tag: TransferTag::RESERVED,
        cmd_sn: CmdSn(1),
        exp_stat_sn: StatSn(0),
        data: Bytes::from(vec![0x55; bytes]),
    }
}

fn read(tag: u32, blocks: u16) -> ScsiCommand {
    let [high, low] = blocks.to_be_bytes();
    ScsiCommand {
        immediate: true,
        is_final: true,
        read: true,
        write: false,
        attribute: TaskAttribute::SIMPLE,
        lun: 0,
        tag: TaskTag(tag),
        expected_bytes: u32::from(blocks) * 512,
        cmd_sn: CmdSn(1),
        exp_stat_sn: StatSn(0),
        cdb: [0x28, 0, 0, 0, 0, 0, 0, high, low, 0, 0, 0, 0, 0, 0, 0],
        ahs: Bytes::new(),
        data: Bytes::new(),
    }
}

fn send_targets() -> TextRequest {
    TextRequest {
        immediate: true,
        is_final: true,
        more_text: false,
        lun: 0,
        tag: TaskTag(2),
        transfer_tag: TransferTag::RESERVED,
        cmd_sn: CmdSn(1),
        exp_stat_sn: StatSn(0),
        text: Bytes::from_static(b"SendTargets=\0"),
    }
}

/// Sends `pdu` again and again without reading until the socket takes no more, however often the sound client is served meanwhile.
/// Returns the bytes that went.
async fn flood_unread(hostile: &Hand, pdu: &Bytes, sound: &mut Hand) -> usize {
    // In the middle of a PDU a part of it is left to send.
    let (mut sent, mut refusals) = (0, 0);
    while refusals < 50 {
        assert!(sent < TAKEN_IN, "{sent} bytes were taken in from a client that reads nothing");
        match hostile.socket.try_write(&pdu[sent % pdu.len()..]) {
            Ok(count) => (sent, refusals) = (sent + count, 0),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                refusals += 1;
                goes_on(sound).await;
            }
            Err(error) => panic!("{error}"),
        }
    }
    sent
}

#[test]
fn a_client_that_reads_no_answer_is_read_no_further_and_ends_by_its_silence() {
    on_one_thread(async {
        let second = Micros::from_seconds(1);
        let limits = Limits { ping_after: second, ping_timeout: second, ..Limits::default() };
        let (portal, address) = open_portal(limits);
        let mut client = sound(address).await;
        for pdu in [bytes_of(ping(8192)), bytes_of(read(3, 128)), bytes_of(send_targets())] {
            let hostile = Hand::log_in(address, NAME, 2).await;
            flood_unread(&hostile, &pdu, &mut client).await;
            // Its answers are never read, so what it might still have to say is never heard.
            while portal.counters().sessions > 1 {
                goes_on(&mut client).await;
            }
        }
        assert_eq!(portal.counters().failed_sessions, 3);
    });
}

#[test]
fn a_client_that_stops_in_the_middle_of_a_pdu_delays_nobody_and_ends_by_its_silence() {
    on_one_thread(async {
        let second = Micros::from_seconds(1);
        let limits = Limits { ping_after: second, ping_timeout: second, ..Limits::default() };
        let (portal, address) = open_portal(limits);
        let mut client = sound(address).await;
        let whole = bytes_of(ping(512));
        let mut halves = Vec::new();
        for (number, length) in (2..).zip([1, 24, 47, 48, 300, 559]) {
            let mut hostile = Hand::log_in(address, NAME, number).await;
            hostile.socket.write_all(&whole[..length]).await.unwrap();
            halves.push(hostile);
        }
        assert_eq!(portal.counters().sessions, 1 + halves.len());
        while portal.counters().sessions > 1 {
            goes_on(&mut client).await;
        }
        for mut hostile in halves {
            // It was asked for a sign of life; then the connection ended in order.
            assert!(matches!(hostile.receive().await, Some(TargetPdu::NopIn(_))));
            assert!(hostile.receive().await.is_none());
        }
    });
}

/// Sends `pdu` without end and reads what comes, until told to stop.
fn flood(mut hostile: Hand, pdu: Bytes, answers: Rc<Cell<u64>>, rejects: Rc<Cell<u64>>) -> tokio::task::JoinHandle<()> {
    spawn_local(async move {
        let block = pdu.repeat(64);
        loop {
            hostile.socket.write_all(&block).await.expect("a flood is no reason to end a session");
            for _ in 0..64 {
                match hostile.receive().await.expect("it is answered") {
                    TargetPdu::Reject(reject) => {
                        assert_eq!(reject.reason, RejectReason::IMMEDIATE_COMMAND_REJECT);
                        rejects.set(rejects.get() + 1);
                    }
                    _answer => answers.set(answers.get() + 1),
                }
            }
        }
    })
}

#[test]
fn floods_of_immediate_commands_pings_and_text_requests_keep_nobody_from_being_served() {
    on_one_thread(async {
        let (portal, address) = open_portal(Limits::default());
        let mut client = sound(address).await;
        let counts: Vec<_> = (0..3).map(|_| (Rc::new(Cell::new(0)), Rc::new(Cell::new(0)))).collect();
        let pdus = [bytes_of(ping(0)), bytes_of(send_targets()), bytes_of(read(4, 1))];
        let mut floods = Vec::new();
        for ((number, pdu), (answers, rejects)) in (2..).zip(pdus).zip(&counts) {
            let mut hostile = Hand::log_in(address, NAME, number).await;
            if number == 4 {
                // The unit attention of a new session would be its only answer without data.
                hostile.make_ready().await;
            }
            floods.push(flood(hostile, pdu, Rc::clone(answers), Rc::clone(rejects)));
        }
        until(|| counts.iter().all(|(answers, rejects)| answers.get() + rejects.get() > 0)).await;
        for _ in 0..500 {
            goes_on(&mut client).await;
        }
        assert!(floods.iter().all(|flood| !flood.is_finished()), "a flooding session ended");
        floods.iter().for_each(tokio::task::JoinHandle::abort);
        until(|| portal.counters().sessions == 1).await;
        goes_on(&mut client).await;
    });
}

#[test]
fn a_client_that_logs_in_and_out_again_and_again_leaves_nothing_behind() {
    on_one_thread(async {
        let (portal, address) = open_portal(Limits::default());
        let mut client = sound(address).await;
        let before = portal.counters();
        for round in 0..300_u32 {
            // Every third goes without a word.
            let mut hostile = Hand::log_in(address, NAME, 2 + (round % 5) as u8).await;
            if round % 3 != 0 {
                hostile
                    .send(LogoutRequest {
                        immediate: true,
                        reason: LogoutReason::CLOSE_SESSION,
                        tag: TaskTag(5),
                        cid: Cid(1),
                        cmd_sn: CmdSn(1),
                        exp_stat_sn: StatSn(0),
                    })
                    .await;
                assert!(matches!(hostile.receive().await, Some(TargetPdu::LogoutResponse(_))));
                assert!(hostile.receive().await.is_none());
            }
            goes_on(&mut client).await;
        }
        until(|| portal.counters().connections == 1).await;
        let after = portal.counters();
        assert_eq!((after.sessions, after.held_logins, after.logins), (1, 0, before.logins + 300));
    });
}
