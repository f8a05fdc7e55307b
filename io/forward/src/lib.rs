//! The way to the partner for commands whose units it has: one iSCSI session for each session of a client.
//!
//! Problem: a command that came to one node is to be carried out by the other as if the client had sent it there: under the client's name, to
//! which its reservations are bound, in its order, with its own bounds of memory, and once at most.
//!
//! Idea: that is what iSCSI does. The line logs in at the partner with the client's own initiator name and ISID, in the portal group of the
//! path that the client took. So the partner's task set, its reservations, its access lists and its session reinstatement hold for what is
//! forwarded as for what comes directly, and there is no second protocol that could differ.
//!
//! Not here: which commands are forwarded, and what follows from an answer that never came (`understudy-device`, `routed`).
//!
//! Where the interconnect's provider has RDMA, the data of long commands is moved by it ([`landings`], [`movers`]); commands and answers are iSCSI's
//! all the same.
#![forbid(unsafe_code)]

pub mod landings;
pub mod movers;

use std::rc::Rc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::future::LocalBoxFuture;
use understudy_device::{
    Answer, Carried, Completion, Elsewhere, NexusName, Sent, Status, TaskAttribute, TaskManagement,
    TaskManagementResponse,
};
use understudy_disk::disk::{DiskError, Link};
use understudy_disk::session::{self, Nexus, Options, RegionOffer, Request, Session, Transfer};
use understudy_iscsi::codes::{self, Residual, TaskFunction, TaskFunctionResponse};
use understudy_iscsi::serial::{Isid, TaskTag};

use landings::{Landings, Stretch};

/// A command takes as long as its client waits for it: whoever gives it up says so by a task management function.
const COMMAND_DEADLINE: Duration = Duration::from_secs(3600);

/// A login that the partner holds is let go and made anew after this long: a partner that lost its power while it held one says nothing.
const LOGIN_DEADLINE: Duration = Duration::from_secs(5);

/// A command that moves less is carried by TCP alone: its data goes along with it, and to hand it to another thread would take longer.
pub const RDMA_FROM_BYTES: usize = 64 << 10;

/// Settings of the sessions that carry clients' commands, and that offer this memory for their data.
#[must_use]
pub fn options_with(landings: &Rc<Landings>) -> Options {
    let landings = Rc::clone(landings);
    Options { data_region: Some(RegionOffer::new(move || landings.name())), ..options() }
}

/// Settings of the sessions that carry clients' commands.
#[must_use]
pub fn options() -> Options {
    Options { command_deadline: COMMAND_DEADLINE, login_deadline: LOGIN_DEADLINE, ..Options::default() }
}

/// As whom to log in for a client.
#[must_use]
pub fn nexus(client: &NexusName) -> Nexus {
    Nexus { initiator_name: client.initiator_name.clone(), isid: Isid(client.isid) }
}

/// The session that carries the commands of one client. Dropping it closes the connection.
pub struct Line {
    session: Rc<Session>,
    landings: Option<Rc<Landings>>,
}

impl Line {
    /// Over a session made with [`options`] and [`nexus`].
    #[must_use]
    pub fn over(session: Rc<Session>) -> Rc<dyn Elsewhere> {
        Rc::new(Self { session, landings: None })
    }

    /// Over a session made with [`options_with`] and [`nexus`].
    #[must_use]
    pub fn with(session: Rc<Session>, landings: Rc<Landings>) -> Rc<dyn Elsewhere> {
        Rc::new(Self { session, landings: Some(landings) })
    }

    /// Memory for the data of a command, if it is worth it and there is some.
    fn stretch(&self, bytes: usize) -> Option<Stretch> {
        let landings = self.landings.as_ref().filter(|_| bytes >= RDMA_FROM_BYTES)?;
        landings.stretch(&self.session.data_region()?, bytes)
    }
}

impl Elsewhere for Line {
    fn session(&self) -> Option<u64> {
        match self.session.link() {
            // One that the partner ends in order takes nothing more, and answers what it took.
            Link::Connected { epoch } if self.session.takes_commands() => Some(epoch),
            Link::Connected { .. } | Link::Down => None,
        }
    }

    fn changed(&self, seen: Option<u64>) -> LocalBoxFuture<'_, ()> {
        Box::pin(async move {
            // BOUND: each round waits for a change of the link.
            loop {
                let link = self.session.link();
                if self.session() != seen {
                    return;
                }
                self.session.link_changed(link).await;
            }
        })
    }

    fn send(&self, command: &Carried) -> Option<Sent> {
        let Carried { lun, attribute, cdb, data_out, data_in_room } = command;
        let reads = data_out.is_empty();
        let most = if reads { *data_in_room } else { u32::try_from(data_out.len()).ok()? };
        let stretch = self.stretch(most as usize);
        let transfer = match (most, &stretch) {
            (0, _) => Transfer::None,
            (room, None) if reads => Transfer::Read(room),
            (room, Some(stretch)) if reads => Transfer::ReadInto(room, stretch.advertised()),
            (_, None) => Transfer::Write(data_out.clone()),
            (_, Some(stretch)) => {
                stretch.put(data_out);
                Transfer::WriteFrom(data_out.clone(), stretch.advertised())
            }
        };
        let request = Request { cdb: *cdb, transfer, deadline: COMMAND_DEADLINE };
        let (tag, reply) = match self.session.submit(*lun, code_of(*attribute), request) {
            Ok(submitted) => submitted,
            Err(_not_sent) => {
                stretch.iter().for_each(Stretch::answered);
                return None;
            }
        };
        let answer = async move {
            match reply.await {
                Ok(answer) => {
                    let answer = match &stretch {
                        Some(stretch) if reads => landed(answer, most, stretch),
                        _ => answer,
                    };
                    stretch.iter().for_each(Stretch::answered);
                    understood(answer, most, reads)
                }
                Err(DiskError::Unreachable(_)) => {
                    stretch.iter().for_each(Stretch::answered);
                    Answer::NotSent
                }
                Err(_) => Answer::Unknown,
            }
        };
        Some(Sent { reference: tag.0, answer: Box::pin(answer) })
    }

    fn manage(
        &self,
        function: TaskManagement,
        lun: u64,
        referenced: Option<u32>,
    ) -> LocalBoxFuture<'_, Option<TaskManagementResponse>> {
        let function = match function {
            TaskManagement::AbortTask => TaskFunction::ABORT_TASK,
            TaskManagement::AbortTaskSet => TaskFunction::ABORT_TASK_SET,
            TaskManagement::ClearTaskSet => TaskFunction::CLEAR_TASK_SET,
            TaskManagement::LogicalUnitReset => TaskFunction::LOGICAL_UNIT_RESET,
            TaskManagement::TargetWarmReset => TaskFunction::TARGET_WARM_RESET,
            TaskManagement::TargetColdReset => TaskFunction::TARGET_COLD_RESET,
        };
        Box::pin(async move {
            let response = self.session.manage_task(lun, function, referenced.map(TaskTag)).await.ok()?;
            Some(match response {
                TaskFunctionResponse::COMPLETE => TaskManagementResponse::Complete,
                TaskFunctionResponse::TASK_DOES_NOT_EXIST => TaskManagementResponse::TaskDoesNotExist,
                TaskFunctionResponse::LUN_DOES_NOT_EXIST => TaskManagementResponse::LunDoesNotExist,
                _refused => TaskManagementResponse::NotAuthorized,
            })
        })
    }

    fn close(&self) -> LocalBoxFuture<'_, ()> {
        Box::pin(self.session.close())
    }
}

/// There is no other node that could have the units: for the target whose home this node is.
pub struct Nowhere;

impl Elsewhere for Nowhere {
    fn session(&self) -> Option<u64> {
        None
    }

    fn changed(&self, _: Option<u64>) -> LocalBoxFuture<'_, ()> {
        Box::pin(std::future::pending())
    }

    fn send(&self, _: &Carried) -> Option<Sent> {
        None
    }

    fn manage(&self, _: TaskManagement, _: u64, _: Option<u32>) -> LocalBoxFuture<'_, Option<TaskManagementResponse>> {
        Box::pin(std::future::ready(None))
    }

    fn close(&self) -> LocalBoxFuture<'_, ()> {
        Box::pin(std::future::ready(()))
    }
}

fn code_of(attribute: TaskAttribute) -> codes::TaskAttribute {
    match attribute {
        TaskAttribute::Simple => codes::TaskAttribute::SIMPLE,
        TaskAttribute::Ordered => codes::TaskAttribute::ORDERED,
        TaskAttribute::HeadOfQueue => codes::TaskAttribute::HEAD_OF_QUEUE,
    }
}

/// A read that was answered GOOD without data has it in its stretch; it may have come with the answer as well.
fn landed(answer: session::Answer, most: u32, stretch: &Stretch) -> session::Answer {
    if answer.status != Status::Good as u8 || !answer.data_in.is_empty() {
        return answer;
    }
    let bytes = match answer.residual {
        Residual::None | Residual::Overflow(_) => most,
        Residual::Underflow(missing) => most.saturating_sub(missing),
    };
    session::Answer { data_in: stretch.take(bytes as usize), ..answer }
}

/// What the partner answered to a command that moved at most `most` bytes, towards the client or away from it.
fn understood(answer: session::Answer, most: u32, reads: bool) -> Answer {
    let session::Answer { status, sense, mut data_in, residual } = answer;
    let Some(status) = Status::from_byte(status) else { return Answer::Unknown };
    let wanted = match residual {
        Residual::None => most,
        Residual::Underflow(bytes) => most.saturating_sub(bytes),
        Residual::Overflow(bytes) => most.saturating_add(bytes),
    };
    if reads && matches!(residual, Residual::Overflow(_)) {
        data_in = as_long_as_it_was(data_in, wanted);
    }
    let sense = Some(sense).filter(|sense| !sense.is_empty());
    Answer::Answered { completion: Completion { status, sense, data_in }, data_out_wanted: wanted }
}

/// There was more than the client has room for, and its residual has to say so: what it does not get anyway is filled up.
fn as_long_as_it_was(data_in: Bytes, length: u32) -> Bytes {
    let mut whole = BytesMut::from(&data_in[..]);
    whole.resize(length as usize, 0);
    whole.freeze()
}
