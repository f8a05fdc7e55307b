//! The other node's end of a session, and what tests of sessions with units at two nodes share.
#![allow(dead_code, reason = "each test has a use for a part of it")]

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::Future;
use std::rc::Rc;

use futures_util::future::LocalBoxFuture;
use tokio::sync::{oneshot, watch};
use tokio::task::spawn_local;
use understudy_device::{
    Answer, Carried, Completion, Elsewhere, Medium, NexusHandle, NexusName, Outcome, Sent, Target, TaskManagement,
    TaskManagementResponse, UnitOnMedium,
};
use understudy_scsi::cdb::{Force, Span};
use understudy_scsi::encode;
use understudy_scsi::sense::{Asc, Sense, SenseKey};

use crate::late::{LateMedium, options};

/// The other node's end of a session, which the test opens and cuts.
pub struct Partner {
    target: Rc<Target>,
    session: watch::Sender<Option<u64>>,
    pub opened: Cell<u64>,
    nexus: RefCell<Option<Rc<NexusHandle>>>,
    next: Cell<u32>,
    /// Commands without an answer: cut, they are answered that nobody knows.
    pending: RefCell<BTreeMap<u32, oneshot::Sender<Answer>>>,
}

impl Partner {
    pub fn of(target: &Rc<Target>) -> Rc<Self> {
        Rc::new(Self {
            target: Rc::clone(target),
            session: watch::Sender::new(None),
            opened: Cell::new(0),
            nexus: RefCell::default(),
            next: Cell::new(0),
            pending: RefCell::default(),
        })
    }

    pub async fn open(&self) {
        // As a login of the same nexus does: nothing of the older session is left.
        let older = self.nexus.take().and_then(Rc::into_inner);
        if let Some(older) = older {
            older.close().await;
        }
        *self.nexus.borrow_mut() = Some(Rc::new(self.target.attach_forwarded(client())));
        self.opened.set(self.opened.get() + 1);
        self.session.send_replace(Some(self.opened.get()));
    }

    /// The connection breaks; what was begun at the other node goes on there.
    pub fn cut(&self) {
        self.session.send_replace(None);
        for (_, answer) in self.pending.take() {
            let _ = answer.send(Answer::Unknown);
        }
    }
}

impl Elsewhere for Partner {
    fn session(&self) -> Option<u64> {
        *self.session.borrow()
    }

    fn changed(&self, seen: Option<u64>) -> LocalBoxFuture<'_, ()> {
        let mut sessions = self.session.subscribe();
        Box::pin(async move {
            sessions.wait_for(|now| *now != seen).await.unwrap();
        })
    }

    fn send(&self, command: &Carried) -> Option<Sent> {
        self.session()?;
        let reference = self.next.replace(self.next.get() + 1);
        let nexus = self.nexus.borrow().clone()?;
        let (sender, answer) = oneshot::channel();
        self.pending.borrow_mut().insert(reference, sender);
        let carried = command.clone();
        let mut task = nexus.begin(carried.lun, reference, carried.attribute, carried.cdb);
        task.offer(carried.data_out.len() as u32);
        let wanted = task.data_out_bytes();
        let done = spawn_local(task.execute(carried.data_out));
        let answer = async move {
            tokio::select! {
                biased;
                unknown = answer => unknown.unwrap_or(Answer::Unknown),
                done = done => match done.unwrap() {
                    Outcome::Completed(completion) => Answer::Answered { completion, data_out_wanted: wanted },
                    // It is not answered; the session ends, or the function that aborted it is.
                    Outcome::Carried { .. } | Outcome::Aborted | Outcome::Fenced => Answer::Unknown,
                },
            }
        };
        Some(Sent { reference, answer: Box::pin(answer) })
    }

    fn manage(
        &self,
        function: TaskManagement,
        lun: u64,
        referenced: Option<u32>,
    ) -> LocalBoxFuture<'_, Option<TaskManagementResponse>> {
        Box::pin(async move {
            let nexus = self.nexus.borrow().clone()?;
            let response = nexus.task_management(function, lun, referenced.unwrap_or_default()).await;
            Some(response)
        })
    }

    fn close(&self) -> LocalBoxFuture<'_, ()> {
        Box::pin(async {
            let nexus = self.nexus.take().and_then(Rc::into_inner);
            if let Some(nexus) = nexus {
                nexus.close().await;
            }
        })
    }
}

pub fn client() -> NexusName {
    NexusName { initiator_name: "iqn.2026-01.test:host".into(), isid: [0x80, 0, 0, 0, 0, 1], target_portal_group: 2 }
}

pub fn unit(medium: &Rc<LateMedium>) -> Rc<UnitOnMedium> {
    UnitOnMedium::new(options(), Rc::clone(medium) as Rc<dyn Medium>, None).unwrap()
}

pub fn write_cdb() -> [u8; 16] {
    encode::write_16(Span { lba: 0, blocks: 1 }, Force::CacheAllowed)
}

pub fn read_cdb() -> [u8; 16] {
    encode::read_16(Span { lba: 0, blocks: 1 }, Force::CacheAllowed)
}

pub fn answered(outcome: Outcome) -> Completion {
    match outcome {
        Outcome::Completed(completion) | Outcome::Carried { completion, .. } => completion,
        other => panic!("{other:?}"),
    }
}

pub fn sense(completion: &Completion) -> Sense {
    Sense::parse(completion.sense.as_ref().expect("there is sense data")).unwrap()
}

pub fn attention(completion: &Completion) -> Asc {
    assert_eq!(sense(completion).key, SenseKey::UnitAttention);
    sense(completion).asc
}

/// Runs a test whose clock goes on only when everything waits for it.
pub fn run<F: Future>(test: impl FnOnce() -> F) -> F::Output {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, async { test().await })
}
