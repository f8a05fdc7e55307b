//! A command from its arrival to its answer.
//!
//! [`Task::execute`] waits for the gate, for its turn in the task set and for its blocks, and looks at the gate again
//! after each wait: a hold that came meanwhile must find nothing starting behind its back.

use std::rc::Rc;

use bytes::Bytes;
use understudy_scsi::cdb::{Command, Span};
use understudy_scsi::sense::{Asc, Sense};
use understudy_unit::unit::{Begun, Plan, Work};
use understudy_unit::{Admission, Completion, NexusId, Sharing, TaskId};

use crate::gate::Gate;
use crate::medium::MediumError;
use crate::perform;
use crate::routed::{Routed, turned_away};
use crate::unit::{Busy, Claimed, Turn, UnitOnMedium};

/// How a command ended for its initiator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Answer this.
    Completed(Completion),
    /// Answer nothing.
    Aborted,
    /// Answer nothing and close the connection: this node must not speak for the unit any more.
    Fenced,
    /// Answer this to a command that asked for so many bytes of data-out, whatever [`Task::data_out_bytes`] said before its unit was
    /// known.
    Carried {
        /// The answer.
        completion: Completion,
        /// Bytes of data-out it asked for.
        data_out_wanted: u32,
    },
}

/// How a command ended on a unit.
pub(crate) enum Ended {
    /// So.
    With(Outcome),
    /// The unit was taken away before the command began.
    NotBegun,
}

impl Ended {
    /// For a client whose session is with this node alone.
    fn or_fenced(self) -> Outcome {
        match self {
            Self::With(outcome) => outcome,
            Self::NotBegun => Outcome::Fenced,
        }
    }
}

/// A command in the task set. Dropping it abandons it.
#[derive(Debug)]
pub struct Task {
    pub(crate) place: Place,
    pub(crate) data_out_bytes: u32,
}

#[derive(Debug)]
pub(crate) enum Place {
    /// The target itself answers.
    Target(Completion),
    Unit(OnUnit),
    /// It came in a session of the other node's.
    Forwarded(OnUnit),
    Routed(Routed),
    /// It is done.
    Frozen(Frozen),
}

/// What a command does that finds its unit held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum IfHeld {
    /// It waits in the task set.
    Wait,
    /// It leaves without having begun: whoever brought it has somewhere else to wait, from where it can also go to another node.
    Leave,
}

/// A command in the task set of a unit.
#[derive(Debug)]
pub(crate) struct OnUnit {
    pub(crate) listed: Listed,
    pub(crate) nexus: NexusId,
    pub(crate) plan: Plan,
    pub(crate) target_name: Rc<str>,
    if_held: IfHeld,
}

/// A place in the task set, given up when dropped.
#[derive(Debug)]
pub(crate) struct Listed {
    pub(crate) unit: Rc<UnitOnMedium>,
    pub(crate) task: TaskId,
    _busy: Busy,
}

impl Drop for Listed {
    fn drop(&mut self) {
        self.unit.core.borrow_mut().end(self.task);
        self.unit.tasks_moved.signal();
    }
}

/// What is between a command and its start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Look {
    /// Nothing.
    Go,
    /// Older commands.
    Behind,
    /// The gate.
    Shut,
}

/// Why a command that waited did not get what it waited for.
pub(crate) enum Stopped {
    Aborted,
    /// Fenced, or held where it does not wait.
    TurnedAway,
    /// The gate shut: wait again.
    Held,
}

/// What a command needs besides its turn before it goes to the medium.
enum Needs {
    Nothing,
    Blocks(Span, Sharing),
    ManyBlocks(Vec<Span>),
    TurnToChange,
}

/// What it got.
pub(crate) struct Holding {
    _claim: Option<Claimed>,
    _claims: Vec<Claimed>,
    pub(crate) turn: Option<Turn>,
}

impl Task {
    pub(crate) fn answered(completion: Completion) -> Self {
        Self { place: Place::Target(completion), data_out_bytes: 0 }
    }

    pub(crate) fn on_unit(on_unit: OnUnit, data_out_bytes: u32) -> Self {
        Self { place: Place::Unit(on_unit), data_out_bytes }
    }

    pub(crate) fn forwarded(on_unit: OnUnit, data_out_bytes: u32) -> Self {
        Self { place: Place::Forwarded(on_unit), data_out_bytes }
    }

    pub(crate) fn routed(routed: Routed, data_out_bytes: u32) -> Self {
        Self { place: Place::Routed(routed), data_out_bytes }
    }

    /// Bytes of data-out the command asks for; zero if it asks for none or has already failed.
    #[must_use]
    pub fn data_out_bytes(&self) -> u32 {
        self.data_out_bytes
    }

    /// The initiator has this many bytes of data-out for the command (0 if it is no write for the transport).
    ///
    /// More than the CDB asks for is harmless to a write: its transport reports a residual. COMPARE AND WRITE and WRITE
    /// SAME are refused, because the initiator plainly means another command than the CDB says: there the length
    /// counts in pairs, or not at all (SBC-3 r36 §5.2, §5.42).
    pub fn offer(&mut self, bytes: u32) {
        let on_unit = match &mut self.place {
            Place::Unit(on_unit) | Place::Forwarded(on_unit) => on_unit,
            Place::Routed(routed) => match routed.here() {
                Some(on_unit) => on_unit,
                None => {
                    // Nobody knows yet what it asks for: all there is will be sent where its unit is.
                    self.data_out_bytes = bytes;
                    return;
                }
            },
            Place::Target(_) | Place::Frozen(_) => return,
        };
        if on_unit.offer(bytes, self.data_out_bytes) == Offer::Refused {
            self.data_out_bytes = 0;
        }
    }

    /// The initiator has room for so many bytes of data-in (0 if the command is no read for the transport).
    pub fn make_room(&mut self, bytes: u32) {
        if let Place::Routed(routed) = &mut self.place {
            routed.make_room(bytes);
        }
    }

    /// Waits until the command is aborted; for whoever still collects its data.
    pub async fn aborted(&self) {
        match &self.place {
            Place::Target(_) | Place::Frozen(_) => std::future::pending().await,
            Place::Unit(on_unit) | Place::Forwarded(on_unit) => on_unit.aborted().await,
            Place::Routed(routed) => routed.aborted().await,
        }
    }

    /// Carries the command out. Fewer bytes than [`Task::data_out_bytes`] are written as far as they are whole blocks.
    pub async fn execute(self, data_out: Bytes) -> Outcome {
        match self.place {
            Place::Target(completion) => Outcome::Completed(completion),
            Place::Unit(on_unit) => on_unit.execute(data_out).await.or_fenced(),
            Place::Forwarded(on_unit) => match on_unit.execute(data_out).await {
                Ended::With(outcome) => outcome,
                Ended::NotBegun => Outcome::Completed(turned_away()),
            },
            Place::Routed(mut routed) => {
                // Nearly always it has begun here and ends here.
                if let Some(on_unit) = routed.take_here() {
                    match on_unit.execute(data_out.clone()).await {
                        Ended::With(outcome) => return outcome,
                        Ended::NotBegun => routed.waits_again(),
                    }
                }
                // Boxed: it is the rare kind, and larger than all others.
                Box::pin(routed.execute(data_out)).await
            }
            Place::Frozen(frozen) => frozen.thawed().await,
        }
    }
}

/// What became of an initiator's offer of data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Offer {
    /// It will do.
    Taken,
    /// The initiator means another command than its CDB says.
    Refused,
}

impl OnUnit {
    pub(crate) fn begun(
        (unit, nexus): (Rc<UnitOnMedium>, NexusId),
        begun: Begun,
        target_name: Rc<str>,
        if_held: IfHeld,
    ) -> Self {
        let listed = Listed { _busy: Busy::of(&unit), unit, task: begun.task };
        Self { listed, nexus, plan: begun.plan, target_name, if_held }
    }

    /// See [`Task::offer`]; `wanted` is what the CDB asks for.
    pub(crate) fn offer(&mut self, bytes: u32, wanted: u32) -> Offer {
        if bytes > wanted
            && let Plan::Command(Command::CompareAndWrite { .. } | Command::WriteSame { .. }) = self.plan
        {
            let sense = Sense::illegal(Asc::INVALID_FIELD_IN_CDB);
            let refused = self.listed.unit.core.borrow().check(&sense);
            self.plan = Plan::Refused(refused);
            return Offer::Refused;
        }
        Offer::Taken
    }

    pub(crate) async fn aborted(&self) {
        let Listed { unit, task, .. } = &self.listed;
        unit.tasks_moved.until(|| unit.is_aborted(*task).then_some(())).await;
    }

    pub(crate) async fn execute(self, data_out: Bytes) -> Ended {
        let Self { listed, nexus, plan, target_name, if_held } = self;
        let command = match plan {
            Plan::Refused(completion) => {
                return match listed.admitted(if_held).await {
                    Ok(()) => Ended::With(listed.settle(Ok(completion)).await),
                    Err(stopped) => listed.stopped(&stopped),
                };
            }
            Plan::Command(command) => command,
        };
        // BOUND: each round waits for the gate to open; it ends when the command starts, is aborted or fenced.
        loop {
            if let Err(stopped) = listed.admitted(if_held).await {
                return listed.stopped(&stopped);
            }
            let work = listed.unit.core.borrow_mut().work(nexus, &command, &data_out, &target_name);
            let holding = match listed.obtain(needs(&work)).await {
                Ok(holding) => holding,
                Err(Stopped::Held) => continue,
                Err(stopped) => return listed.stopped(&stopped),
            };
            return Ended::With(listed.perform(nexus, &command, work, holding, data_out).await);
        }
    }
}

fn needs(work: &Work) -> Needs {
    match work {
        Work::Done(_) | Work::Flush | Work::LbaStatus { .. } => Needs::Nothing,
        Work::Read(span) | Work::Verify(span, _) => Needs::Blocks(*span, Sharing::Shared),
        Work::Write(span, _)
        | Work::WriteAndVerify(span, _)
        | Work::WriteSame(span, ..)
        | Work::CompareAndWrite(span, _)
        | Work::OrWrite(span, _) => Needs::Blocks(*span, Sharing::Exclusive),
        Work::Unmap(spans) => Needs::ManyBlocks(perform::merged(spans)),
        Work::Change(_) => Needs::TurnToChange,
    }
}

impl Listed {
    fn stopped(&self, stopped: &Stopped) -> Ended {
        match stopped {
            Stopped::TurnedAway => Ended::NotBegun,
            Stopped::Aborted | Stopped::Held => Ended::With(self.aborted_outcome()),
        }
    }

    fn aborted_outcome(&self) -> Outcome {
        let answer = self.unit.core.borrow().answer_of_aborted(self.task);
        answer.map_or(Outcome::Aborted, Outcome::Completed)
    }

    /// Whether the command may start now.
    pub(crate) fn look(&self) -> Result<Look, Stopped> {
        let admission = self.unit.core.borrow().admission(self.task);
        match (self.unit.gate(), admission) {
            (Gate::Fenced, _) => Err(Stopped::TurnedAway),
            (_, Admission::Aborted) => Err(Stopped::Aborted),
            (Gate::Open, Admission::Go) => Ok(Look::Go),
            (Gate::Open, Admission::Wait) => Ok(Look::Behind),
            (Gate::Held | Gate::Frozen, _) => Ok(Look::Shut),
        }
    }

    /// Waits for the gate and for older commands.
    async fn admitted(&self, if_held: IfHeld) -> Result<(), Stopped> {
        // BOUND: each round waits for an event.
        loop {
            match self.look()? {
                Look::Go => return Ok(()),
                Look::Behind => {
                    let admission = || {
                        let shut = self.unit.gate() != Gate::Open;
                        let waits = self.unit.core.borrow().admission(self.task) == Admission::Wait;
                        (shut || !waits).then_some(())
                    };
                    self.unit.tasks_moved.until(admission).await;
                }
                Look::Shut if if_held == IfHeld::Leave => return Err(Stopped::TurnedAway),
                Look::Shut => {
                    let moved = || {
                        let open = matches!(self.unit.gate(), Gate::Open | Gate::Fenced);
                        (open || self.unit.is_aborted(self.task)).then_some(())
                    };
                    self.unit.gate_moved.until(moved).await;
                }
            }
        }
    }

    /// Waits for blocks or for the turn to change state. Giving up gives back what was obtained.
    async fn obtain(&self, needs: Needs) -> Result<Holding, Stopped> {
        let mut holding = Holding { _claim: None, _claims: Vec::new(), turn: None };
        match needs {
            Needs::Nothing => (),
            Needs::Blocks(span, sharing) => {
                let claim = Claimed::make(&self.unit, span, sharing);
                self.wait(|| claim.is_granted().then_some(())).await?;
                holding._claim = Some(claim);
            }
            // All claims are made at once, so that two such commands cannot each wait for the other.
            Needs::ManyBlocks(spans) => {
                let claims: Vec<Claimed> =
                    spans.into_iter().map(|span| Claimed::make(&self.unit, span, Sharing::Exclusive)).collect();
                self.wait(|| claims.iter().all(Claimed::is_granted).then_some(())).await?;
                holding._claims = claims;
            }
            Needs::TurnToChange => holding.turn = Some(self.wait(|| Turn::take(&self.unit)).await?),
        }
        Ok(holding)
    }

    async fn wait<T>(&self, mut ready: impl FnMut() -> Option<T>) -> Result<T, Stopped> {
        self.unit
            .claims_moved
            .until(|| match self.unit.gate() {
                Gate::Fenced => Some(Err(Stopped::TurnedAway)),
                _ if self.unit.is_aborted(self.task) => Some(Err(Stopped::Aborted)),
                Gate::Held | Gate::Frozen => Some(Err(Stopped::Held)),
                Gate::Open => ready().map(Ok),
            })
            .await
    }

    async fn perform(
        self,
        nexus: NexusId,
        command: &Command,
        work: Work,
        holding: Holding,
        data_out: Bytes,
    ) -> Outcome {
        if let Work::Done(completion) = work {
            return self.settle(Ok(completion)).await;
        }
        // A reservation may have come into force while this command waited for its blocks.
        let again = self.unit.core.borrow().admit_again(nexus, command);
        if let Err(conflict) = again {
            return self.settle(Ok(conflict)).await;
        }
        self.start();
        match work {
            Work::Read(span) => {
                // PANIC: `LogicalUnit` limits a transfer to 32 MiB, far below 2^32 blocks.
                let blocks = u32::try_from(span.blocks).expect("a transfer is limited");
                let read = self.unit.medium.read(span.lba, blocks).await;
                drop(holding);
                self.settle(read.map(Completion::data)).await
            }
            work => {
                let carrier = self.unit.carrier.clone();
                let carried = carrier.carry(async move {
                    let result = perform::run(&self, nexus, work, holding, data_out).await;
                    (self, result)
                });
                let (listed, result) = carried.await;
                listed.settle(result).await
            }
        }
    }

    fn start(&self) {
        self.unit.core.borrow_mut().start(self.task);
    }

    /// The medium is done: the command leaves the task set, and its answer goes out when it may.
    async fn settle(self, result: Result<Completion, MediumError>) -> Outcome {
        match self.judge(result) {
            Ok(outcome) => outcome,
            Err(frozen) => frozen.thawed().await,
        }
    }

    /// The same, without waiting for a frozen gate.
    pub(crate) fn judge(self, result: Result<Completion, MediumError>) -> Result<Outcome, Frozen> {
        let completion = match result {
            Err(MediumError::Fenced) => {
                self.unit.fence();
                return Ok(Outcome::Fenced);
            }
            Err(error) => perform::medium_error(&self.unit.core.borrow(), &error),
            Ok(completion) => completion,
        };
        if self.unit.is_aborted(self.task) {
            return Ok(self.aborted_outcome());
        }
        let unit = Rc::clone(&self.unit);
        let busy = Busy::of(&unit);
        drop(self);
        match unit.gate() {
            Gate::Open | Gate::Held => Ok(Outcome::Completed(completion)),
            Gate::Fenced => Ok(Outcome::Fenced),
            Gate::Frozen => Err(Frozen { unit, completion, _busy: busy }),
        }
    }
}

/// An answer that waits for the gate, although its command is out of the task set.
#[derive(Debug)]
pub(crate) struct Frozen {
    unit: Rc<UnitOnMedium>,
    completion: Completion,
    _busy: Busy,
}

impl Frozen {
    async fn thawed(self) -> Outcome {
        let Self { unit, completion, _busy } = self;
        let gate = unit.gate_moved.until(|| Some(unit.gate()).filter(|gate| *gate != Gate::Frozen)).await;
        if gate == Gate::Fenced { Outcome::Fenced } else { Outcome::Completed(completion) }
    }
}
