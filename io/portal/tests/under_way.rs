//! Commands that are under way while sessions end, tasks are aborted and units are held: over real sockets, on a medium
//! that writes when it is told to.

#[allow(dead_code, reason = "shared with the other test binary, which uses all of it")]
mod hand;

use std::cell::Cell;
use std::future::Future;
use std::net::SocketAddr;
use std::rc::Rc;

use bytes::Bytes;
use futures_util::future::LocalBoxFuture;
use hand::{Hand, PATIENCE};
use tokio::sync::Semaphore;
use tokio::task::{LocalSet, yield_now};
use tokio::time::timeout;
use understudy_device::medium::{Durability, Geometry, Medium, MediumError};
use understudy_device::memory::MemoryMedium;
use understudy_device::{Target, UnitIdentity, UnitOnMedium, UnitOptions};
use understudy_iscsi::TargetPdu;
use understudy_iscsi::codes::{TaskFunction, TaskFunctionResponse};
use understudy_iscsi::request::{DataOut, TaskManagementRequest};
use understudy_iscsi::serial::{CmdSn, StatSn, TaskTag};
use understudy_portal::{LoginGate, Portal, PortalOptions};

const NAME: &str = "iqn.2026-01.test:disk";

/// Memory whose writes wait for a permit each.
struct Slow {
    memory: Rc<MemoryMedium>,
    permits: Semaphore,
    waiting: Cell<usize>,
    written: Cell<usize>,
}

impl Medium for Slow {
    fn geometry(&self) -> Geometry {
        self.memory.geometry()
    }
    fn read(&self, lba: u64, blocks: u32) -> LocalBoxFuture<'_, Result<Bytes, MediumError>> {
        self.memory.read(lba, blocks)
    }
    fn write(&self, lba: u64, bytes: Bytes, durability: Durability) -> LocalBoxFuture<'_, Result<(), MediumError>> {
        Box::pin(async move {
            self.waiting.set(self.waiting.get() + 1);
            self.permits.acquire().await.expect("never closed").forget();
            self.waiting.set(self.waiting.get() - 1);
            self.memory.write(lba, bytes, durability).await?;
            self.written.set(self.written.get() + 1);
            Ok(())
        })
    }
    fn flush(&self) -> LocalBoxFuture<'_, Result<(), MediumError>> {
        self.memory.flush()
    }
    fn zero(&self, lba: u64, blocks: u64) -> LocalBoxFuture<'_, Result<(), MediumError>> {
        self.memory.zero(lba, blocks)
    }
    fn keep_state(&self, state: Vec<u8>) -> LocalBoxFuture<'_, Result<(), MediumError>> {
        self.memory.keep_state(state)
    }
}

struct Served {
    portal: Portal,
    address: SocketAddr,
    target: Rc<Target>,
    medium: Rc<Slow>,
}

fn served() -> Served {
    let medium = Rc::new(Slow {
        memory: MemoryMedium::new(512, 128),
        permits: Semaphore::new(0),
        waiting: Cell::new(0),
        written: Cell::new(0),
    });
    let target = Target::new(NAME);
    let identity = UnitIdentity { uuid: [7; 16], product: "TEST".to_owned() };
    let unit = UnitOnMedium::new(UnitOptions::new(identity), Rc::clone(&medium) as Rc<dyn Medium>, None).unwrap();
    target.add(0, unit).unwrap();
    let portal = Portal::bind("127.0.0.1:0".parse().unwrap(), PortalOptions::default()).unwrap();
    portal.add_target(Rc::clone(&target), LoginGate::opened());
    Served { address: portal.address(), portal, target, medium }
}

fn on_one_thread(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let bounded = async { timeout(3 * PATIENCE, test).await.expect("the test ends in time") };
    LocalSet::new().block_on(&runtime, bounded);
}

async fn until(what: impl Fn() -> bool) {
    let waiting = async {
        while !what() {
            yield_now().await;
        }
    };
    timeout(PATIENCE, waiting).await.expect("it happens in time");
}

/// Rounds of the scheduler in which something could happen that must not.
async fn a_while() {
    for _ in 0..50 {
        yield_now().await;
    }
}

/// Sends a write of one block with its data; the answer is still to come.
async fn start_write(client: &mut Hand, lba: u8, byte: u8) -> TaskTag {
    let tag = client.command(&[0x2a, 0, 0, 0, 0, lba, 0, 0, 1], 0, 512).await;
    let Some(TargetPdu::R2t(r2t)) = client.receive().await else { panic!("an R2T expected") };
    client.send(data_out(tag, r2t, byte)).await;
    tag
}

fn data_out(tag: TaskTag, r2t: understudy_iscsi::response::R2t, byte: u8) -> DataOut {
    DataOut {
        is_final: true,
        lun: 0,
        tag,
        transfer_tag: r2t.transfer_tag,
        exp_stat_sn: StatSn(0),
        data_sn: 0,
        buffer_offset: 0,
        data: Bytes::from(vec![byte; 512]),
    }
}

#[test]
fn login_of_the_same_nexus_waits_for_the_write_that_is_at_the_medium() {
    on_one_thread(async {
        let Served { portal, address, medium, .. } = served();
        let mut older = Hand::log_in(address, NAME, 1).await;
        older.make_ready().await;
        start_write(&mut older, 3, 0xaa).await;
        until(|| medium.waiting.get() == 1).await;
        let mut newer = Hand::connect(address).await;
        newer.ask_log_in(&format!("TargetName={NAME}\0InitialR2T=Yes\0ImmediateData=No\0"), 1).await;
        assert!(older.receive().await.is_none(), "the older session ends at once");
        a_while().await;
        assert_eq!(portal.counters().held_logins, 1, "and the login waits for what it left behind");
        medium.permits.add_permits(1);
        assert!(matches!(newer.receive().await, Some(TargetPdu::LoginResponse(r)) if r.status.class == 0));
        assert_eq!(medium.written.get(), 1, "after the login nothing of the older session can be written");
        newer.make_ready().await;
        assert_eq!(&newer.read_block(3).await.data[..], [0xaa; 512]);
    });
}

#[test]
fn aborted_write_gets_no_answer_and_its_late_data_is_ignored() {
    on_one_thread(async {
        let Served { address, medium, portal: _open, .. } = served();
        let mut client = Hand::log_in(address, NAME, 1).await;
        client.make_ready().await;
        let tag = client.command(&[0x2a, 0, 0, 0, 0, 4, 0, 0, 1], 0, 512).await;
        let Some(TargetPdu::R2t(r2t)) = client.receive().await else { panic!("an R2T expected") };
        client
            .send(TaskManagementRequest {
                immediate: true,
                function: TaskFunction::ABORT_TASK,
                lun: 0,
                tag: TaskTag(900),
                referenced: tag,
                cmd_sn: CmdSn(99),
                exp_stat_sn: StatSn(0),
                referenced_cmd_sn: CmdSn(0),
                exp_data_sn: 0,
            })
            .await;
        let Some(TargetPdu::TaskManagementResponse(done)) = client.receive().await else { panic!("no response") };
        assert_eq!((done.tag, done.response), (TaskTag(900), TaskFunctionResponse::COMPLETE));
        client.send(data_out(tag, r2t, 0xbb)).await;
        client.make_ready().await;
        assert_eq!((medium.waiting.get(), medium.written.get()), (0, 0));
    });
}

#[test]
fn many_commands_of_one_connection_are_outstanding_and_reads_overtake_writes() {
    on_one_thread(async {
        let Served { address, medium, portal: _open, .. } = served();
        let mut client = Hand::log_in(address, NAME, 1).await;
        client.make_ready().await;
        for lba in 0..64 {
            start_write(&mut client, lba, lba).await;
        }
        until(|| medium.waiting.get() == 64).await;
        assert_eq!(client.read_block(100).await.status, Some(0));
        medium.permits.add_permits(64);
        for _ in 0..64 {
            assert_eq!(client.status().await.status, 0);
        }
        assert_eq!(&client.read_block(63).await.data[..], [63; 512]);
    });
}

/// What a hand-off does to a client with one path: commands wait, then the connection ends and nothing was answered.
#[test]
fn held_commands_are_carried_on_or_dropped_unanswered() {
    on_one_thread(async {
        let Served { portal, address, target, medium } = served();
        medium.permits.add_permits(100);
        let mut client = Hand::log_in(address, NAME, 1).await;
        client.make_ready().await;
        target.hold_and_drain().await;
        client.command(&[0x28, 0, 0, 0, 0, 5, 0, 0, 1], 512, 0).await;
        a_while().await;
        target.resume();
        assert!(matches!(client.receive().await, Some(TargetPdu::DataIn(data)) if data.status == Some(0)));
        target.hold_and_drain().await;
        let before = portal.counters().commands;
        client.command(&[0x28, 0, 0, 0, 0, 5, 0, 0, 1], 512, 0).await;
        a_while().await;
        assert_eq!(portal.drop_sessions(NAME), 1);
        assert!(client.receive().await.is_none());
        assert_eq!(portal.counters().commands, before);
        target.resume();
        let mut again = Hand::log_in(address, NAME, 1).await;
        again.make_ready().await;
    });
}
