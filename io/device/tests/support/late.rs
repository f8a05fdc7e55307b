//! A medium whose writes land late, one by one, when the test says so: what a busy disk behind a network looks like.
//!
//! Shared by the tests of this crate; it holds the moment at which a write really reaches the blocks.
#![allow(dead_code, reason = "each test binary uses its part")]

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::Future;
use std::rc::Rc;

use bytes::Bytes;
use futures_util::future::LocalBoxFuture;
use tokio::sync::oneshot;
use understudy_device::medium::{Durability, Geometry, MediumError};
use understudy_device::memory::MemoryMedium;
use understudy_device::{
    Attempt, Completion, Medium, NexusHandle, NexusName, Outcome, Target, Task, TaskAttribute, UnitIdentity,
    UnitOnMedium, UnitOptions,
};
use understudy_scsi::reservation::{OutAction, OutList, Persistence, ReservationType};
use understudy_scsi::{Status, encode};

/// See the module.
pub struct LateMedium {
    inner: Rc<MemoryMedium>,
    late: Cell<bool>,
    late_reading: Cell<bool>,
    late_keeping: Cell<bool>,
    waiting: RefCell<VecDeque<oneshot::Sender<()>>>,
    /// First byte of every write in the order they landed.
    pub landed: RefCell<Vec<u8>>,
    /// How many of them had landed when it was last flushed.
    pub flushed: Cell<usize>,
    pub failing: Cell<Option<MediumError>>,
    /// Reads and writes that took no waiting and went well.
    pub at_once: Cell<u32>,
    /// Writes that had to be on the medium before they were answered.
    pub forced: Cell<u32>,
    /// How the next attempts to keep state fail.
    pub failing_keeps: RefCell<VecDeque<MediumError>>,
}

impl LateMedium {
    pub fn new() -> Rc<Self> {
        Rc::new(Self {
            inner: MemoryMedium::new(512, 4096),
            late: Cell::new(false),
            late_reading: Cell::new(false),
            late_keeping: Cell::new(false),
            waiting: RefCell::default(),
            landed: RefCell::default(),
            flushed: Cell::default(),
            failing: Cell::new(None),
            at_once: Cell::default(),
            forced: Cell::default(),
            failing_keeps: RefCell::default(),
        })
    }

    /// From now on writes wait for [`LateMedium::land_one`].
    pub fn be_late(&self) {
        self.late.set(true);
    }

    /// From now on reads wait for it.
    pub fn read_late(&self) {
        self.late_reading.set(true);
    }

    /// From now on neither does; what waits goes on waiting.
    pub fn be_punctual(&self) {
        self.late.set(false);
        self.late_reading.set(false);
    }

    /// From now on keeping state waits for [`LateMedium::land_one`].
    pub fn keep_late(&self) {
        self.late_keeping.set(true);
    }

    /// Lets the write that waits longest land; whether there was one.
    pub fn land_one(&self) -> bool {
        // BOUND: each round takes a sender out of the queue.
        while let Some(sender) = self.waiting.borrow_mut().pop_front() {
            if sender.send(()).is_ok() {
                return true;
            }
        }
        false
    }

    pub fn waiting(&self) -> usize {
        self.waiting.borrow().len()
    }

    pub fn kept(&self) -> Option<Vec<u8>> {
        self.inner.kept_state()
    }

    fn count(&self, durability: Durability) {
        self.forced.set(self.forced.get() + u32::from(durability == Durability::ForceUnitAccess));
    }

    async fn my_turn(&self, late: bool) {
        if late {
            let (sender, receiver) = oneshot::channel();
            self.waiting.borrow_mut().push_back(sender);
            receiver.await.ok();
        }
    }
}

impl Medium for LateMedium {
    fn geometry(&self) -> Geometry {
        self.inner.geometry()
    }

    fn read(&self, lba: u64, blocks: u32) -> LocalBoxFuture<'_, Result<Bytes, MediumError>> {
        Box::pin(async move {
            self.my_turn(self.late_reading.get()).await;
            self.inner.read(lba, blocks).await
        })
    }

    fn read_now(&self, lba: u64, into: &mut [u8]) -> Option<Result<(), MediumError>> {
        if self.late_reading.get() {
            return None;
        }
        self.at_once.set(self.at_once.get() + 1);
        self.inner.read_now(lba, into)
    }

    fn write_now(&self, lba: u64, bytes: &Bytes, durability: Durability) -> Option<Result<(), MediumError>> {
        if self.late.get() {
            return None;
        }
        if let Some(error) = self.failing.take() {
            return Some(Err(error));
        }
        self.landed.borrow_mut().push(bytes[0]);
        self.count(durability);
        self.at_once.set(self.at_once.get() + 1);
        self.inner.write_now(lba, bytes, durability)
    }

    fn write(&self, lba: u64, bytes: Bytes, durability: Durability) -> LocalBoxFuture<'_, Result<(), MediumError>> {
        Box::pin(async move {
            self.my_turn(self.late.get()).await;
            if let Some(error) = self.failing.take() {
                return Err(error);
            }
            self.landed.borrow_mut().push(bytes[0]);
            self.count(durability);
            self.inner.write(lba, bytes, durability).await
        })
    }

    fn flush(&self) -> LocalBoxFuture<'_, Result<(), MediumError>> {
        self.flushed.set(self.landed.borrow().len());
        self.inner.flush()
    }

    fn zero(&self, lba: u64, blocks: u64) -> LocalBoxFuture<'_, Result<(), MediumError>> {
        Box::pin(async move {
            self.my_turn(self.late.get()).await;
            self.landed.borrow_mut().push(0);
            self.inner.zero(lba, blocks).await
        })
    }

    fn keep_state(&self, state: Vec<u8>) -> LocalBoxFuture<'_, Result<(), MediumError>> {
        Box::pin(async move {
            self.my_turn(self.late_keeping.get()).await;
            if let Some(error) = self.failing_keeps.borrow_mut().pop_front() {
                return Err(error);
            }
            self.inner.keep_state(state).await
        })
    }
}

/// Runs a test on one thread with a `LocalSet`, as a node does.
pub fn run<F: Future>(test: impl FnOnce() -> F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, async { test().await })
}

/// Lets everything that can go on go on.
pub async fn settle() {
    for _ in 0..50 {
        tokio::task::yield_now().await;
    }
}

pub fn options() -> UnitOptions {
    UnitOptions::new(UnitIdentity { uuid: *b"0123456789abcdef", product: "TEST".into() })
}

pub fn target(medium: &Rc<LateMedium>) -> Rc<Target> {
    target_with(options(), medium)
}

pub fn target_with(options: UnitOptions, medium: &Rc<LateMedium>) -> Rc<Target> {
    let unit = UnitOnMedium::new(options, Rc::clone(medium) as Rc<dyn Medium>, medium.kept().as_deref()).unwrap();
    let target = Target::new("iqn.2026-01.test:target");
    target.add(0, unit).unwrap();
    target
}

/// Logs a host in and swallows its power-on unit attention.
pub async fn host(target: &Rc<Target>, number: u8) -> Rc<NexusHandle> {
    let handle = target.attach(NexusName {
        initiator_name: format!("iqn.2026-01.test:host{number}"),
        isid: [0x80, 0, 0, 0, 0, number],
        target_portal_group: 1,
    });
    let handle = Rc::new(handle);
    assert_eq!(command(&handle, encode::test_unit_ready(), Bytes::new()).await.status, Status::CheckCondition);
    handle
}

pub async fn outcome(handle: &NexusHandle, cdb: [u8; 16], data_out: Bytes) -> Outcome {
    handle.begin(0, 0, TaskAttribute::Simple, cdb).execute(data_out).await
}

/// Carries a command out as a portal does: at the first look if that will do.
pub async fn carry_out(task: Task, data_out: Bytes) -> Outcome {
    let mut room = Vec::new();
    let attempt = task.attempt(&data_out, |bytes| {
        room.resize(bytes, 0xee);
        Some(&mut room[..])
    });
    match attempt {
        Attempt::Over(outcome) => outcome,
        Attempt::Placed => Outcome::Completed(Completion::data(room.into())),
        Attempt::Waits(task) => task.execute(data_out).await,
    }
}

pub async fn command(handle: &NexusHandle, cdb: [u8; 16], data_out: Bytes) -> Completion {
    match outcome(handle, cdb, data_out).await {
        Outcome::Completed(completion) => completion,
        other => panic!("{other:?}"),
    }
}

/// A block of `byte`.
pub fn block(byte: u8) -> Bytes {
    Bytes::from(vec![byte; 512])
}

pub async fn reserve_out(
    handle: &NexusHandle,
    action: OutAction,
    kind: Option<ReservationType>,
    key: u64,
    action_key: u64,
) -> Status {
    let list = OutList { key, action_key, persistence: Persistence::ThroughPowerLoss, ..OutList::default() };
    command(handle, encode::persistent_reserve_out(action, kind, 24), list.encode().into()).await.status
}

pub async fn register(handle: &NexusHandle, key: u64) {
    assert_eq!(reserve_out(handle, OutAction::RegisterAndIgnoreExistingKey, None, 0, key).await, Status::Good);
}
