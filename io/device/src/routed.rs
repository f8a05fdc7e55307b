//! A nexus whose units may be at another node: each command is carried out wherever its unit is, and its session stays.
//!
//! Problem: a client that has a session here with a target whose pools are served by the partner must not notice where they are, nor when
//! they move. A command may come before a move, wait during it, and be carried out after it.
//!
//! Idea: nobody keeps a table of who owns what. If the unit is behind the target here, the command is begun on it like any other. Else it
//! is sent to the other node, if there is a session with it. Else it waits for either. A command that was turned away before it began (its
//! unit was taken away, here or there) looks for its way again.
//!
//! **Invariant: what may have been carried out is never repeated.** A command that was sent and not answered is of unknown outcome.
//! Nothing is said of it before nothing of it can be carried out any more: until the unit is here, fenced against whoever had it, or the other
//! node has let in a later session of the same nexus, which ends everything of the older one (RFC 7143 §6.3.5). Then a command that changes
//! nothing is carried out again, and any other is answered ABORTED COMMAND: its client, who knows whether it may, sends it again.
//!
//! Unit attentions of the move are told here, by the commands that come after it; those that waited are not failed for it, unless they are the
//! first of their session, which are told of that. Order: a command with
//! the attribute ORDERED is begun after all older ones of this nexus, and before all younger ones.

mod command;
mod on_demand;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{LocalBoxFuture, select};
use understudy_scsi::cdb::Command;
use understudy_scsi::luns::decode_lun;
use understudy_scsi::operations::opcode;
use understudy_scsi::sense::{Asc, Sense, SenseFormat, SenseKey};
use understudy_unit::{Completion, Side, TaskAttribute, Whereabouts, passes_attention};

pub(crate) use command::Routed;
pub use on_demand::OnDemand;

use crate::attached::Attached;
use crate::event::Event;
use crate::gate::Gate;
use crate::listing::nothing_here;
use crate::target::{Presence, Target, TaskManagement, TaskManagementResponse};
use crate::task::{OnUnit, Task};
use crate::unit::{Busy, UnitOnMedium};

/// How long a command waits for a node that has its unit, before the client is told to take another way: less than the 30 s after which a
/// Linux client aborts it.
const HOLD_LIMIT: Duration = Duration::from_secs(25);

/// Before a command is sent again that the other node turned away, if its unit does not come here meanwhile. The other node holds the unit to
/// hand it over, which takes milliseconds, and may keep it after all.
const TURNED_AWAY_PAUSE: Duration = Duration::from_millis(1);

/// A command on its way to another node.
#[derive(Debug, Clone)]
pub struct Carried {
    /// LUN field, as a big-endian number.
    pub lun: u64,
    /// Task attribute.
    pub attribute: TaskAttribute,
    /// CDB.
    pub cdb: [u8; 16],
    /// All data-out the initiator has for it.
    pub data_out: Bytes,
    /// Bytes of data-in the initiator has room for.
    pub data_in_room: u32,
}

/// What became of a command that was sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// It was answered.
    Answered {
        /// With this; as much data as the command had, of which the initiator gets what it has room for.
        completion: Completion,
        /// Bytes of data-out it asked for.
        data_out_wanted: u32,
    },
    /// It never left this node.
    NotSent,
    /// The session ended before an answer came.
    Unknown,
}

/// A command that was sent.
pub struct Sent {
    /// Names it to [`Elsewhere::manage`].
    pub reference: u32,
    /// What becomes of it.
    pub answer: LocalBoxFuture<'static, Answer>,
}

/// One nexus's session with the node that may have its units.
pub trait Elsewhere {
    /// There is, or is about to be, a command to send: whoever opens its session only then does so.
    fn need(&self) {}

    /// The number of the session there is; `None` while there is none. A later one has a greater number, and when it is there nothing of an
    /// earlier one can be carried out any more.
    fn session(&self) -> Option<u64>;

    /// Waits until [`Elsewhere::session`] is not `seen` any more.
    fn changed(&self, seen: Option<u64>) -> LocalBoxFuture<'_, ()>;

    /// Sends a command; commands arrive in the order of calls. `None`: there is no session.
    fn send(&self, command: &Carried) -> Option<Sent>;

    /// Asks for a task management function; `referenced` is a command sent in the session there is. `None`: no answer came.
    fn manage(
        &self,
        function: TaskManagement,
        lun: u64,
        referenced: Option<u32>,
    ) -> LocalBoxFuture<'_, Option<TaskManagementResponse>>;

    /// Ends the session.
    fn close(&self) -> LocalBoxFuture<'_, ()>;
}

/// The answer of a node that has taken the unit away, or has not got it yet, to a command that it did not begin. No unit here ever reports a
/// transition, so it means nothing else.
pub(crate) fn turned_away() -> Completion {
    Completion::check(&Sense::new(SenseKey::NotReady, Asc::ASYMMETRIC_ACCESS_STATE_TRANSITION), SenseFormat::Fixed)
}

/// How far a command has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Nowhere.
    Waiting,
    /// Begun here.
    Here,
    /// Sent in this session, under this reference.
    There { session: u64, reference: u32 },
}

#[derive(Debug)]
struct UnderWay {
    tag: u32,
    lun: u64,
    attribute: TaskAttribute,
    stage: Stage,
    is_aborted: bool,
}

/// The ways of one nexus.
pub(crate) struct Routes {
    target: Rc<Target>,
    attached: Rc<Attached>,
    elsewhere: Rc<dyn Elsewhere>,
    /// By age. BOUND: the command window of the session.
    commands: RefCell<BTreeMap<u64, UnderWay>>,
    next: Cell<u64>,
    /// How many of them have gone nowhere.
    waiting: Cell<usize>,
    /// A command was aborted, or another one may go.
    moved: Event,
    /// What the client was told.
    known: RefCell<Whereabouts>,
}

/// What of a target is at this node, as of one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stand {
    presence: Presence,
    moves: u64,
    has_unit: bool,
}

impl Stand {
    /// Whether a unit that the other node did not have between these two moments is nowhere. One that moves is at both nodes for a while: it
    /// leaves the one after it has come to the other. So one that neither has was somewhere else in between only if something moved here.
    fn is_nowhere(self, later: Self) -> bool {
        self == later && self.presence == Presence::Part && !self.has_unit
    }
}

/// Where a command can go now.
enum Way {
    Here,
    There(u64),
    /// The target itself answers.
    Target,
}

/// Whether a function is about every unit of the target.
fn is_of_target(function: TaskManagement) -> bool {
    matches!(function, TaskManagement::TargetWarmReset | TaskManagement::TargetColdReset)
}

impl Routes {
    pub(crate) fn new(target: Rc<Target>, attached: Rc<Attached>, elsewhere: Rc<dyn Elsewhere>) -> Rc<Self> {
        Rc::new(Self {
            target,
            attached,
            elsewhere,
            commands: RefCell::default(),
            next: Cell::new(0),
            waiting: Cell::new(0),
            moved: Event::default(),
            known: RefCell::default(),
        })
    }

    /// Whether it asks for the list of units, and no unit.
    fn asks_target(cdb: &[u8; 16]) -> bool {
        cdb[0] == opcode::REPORT_LUNS
    }

    fn way(&self, lun: u64, cdb: &[u8; 16]) -> Option<Way> {
        let unit = if Self::asks_target(cdb) { None } else { self.unit(lun) };
        match unit.map(|unit| unit.gate()) {
            Some(Gate::Open) => return Some(Way::Here),
            // It may be on its way here, or from here; where it goes there is a session with it.
            Some(_) if self.target.is_parting() => self.elsewhere.need(),
            Some(Gate::Held | Gate::Frozen | Gate::Fenced) => {}
            None => match self.target.presence() {
                Presence::Whole => return Some(Way::Target),
                Presence::Part => self.elsewhere.need(),
                Presence::Unsettled => {}
            },
        }
        self.elsewhere.session().map(Way::There)
    }

    fn unit(&self, lun: u64) -> Option<Rc<UnitOnMedium>> {
        self.target.unit_for(&self.attached, lun)
    }

    /// Whether the unit is served here, or there is none: then whoever had it before is fenced. That it is behind the target, held, may come
    /// before that.
    fn is_here(&self, lun: u64) -> bool {
        self.unit(lun).map_or_else(|| self.target.is_whole(), |unit| unit.gate() == Gate::Open)
    }

    /// Whether a command may go before those that wait.
    fn may_go(&self, number: u64) -> bool {
        let commands = self.commands.borrow();
        // None but itself, as it is nearly always: however many are under way, they need not be looked at.
        if self.waiting.get() <= 1 {
            return true;
        }
        let Some(own) = commands.get(&number) else { return true };
        let mut older = commands.range(..number).map(|(_, other)| other).filter(|other| other.stage == Stage::Waiting);
        match own.attribute {
            TaskAttribute::HeadOfQueue => true,
            TaskAttribute::Simple => older.all(|other| other.attribute != TaskAttribute::Ordered),
            TaskAttribute::Ordered => older.next().is_none(),
        }
    }

    fn set_stage(&self, number: u64, stage: Stage) {
        if let Some(own) = self.commands.borrow_mut().get_mut(&number) {
            let before = std::mem::replace(&mut own.stage, stage);
            let waiting = self.waiting.get() + usize::from(stage == Stage::Waiting);
            self.waiting.set(waiting - usize::from(before == Stage::Waiting));
        }
        self.moved.signal();
    }

    /// A command is over.
    fn forget(&self, number: u64) {
        let gone = self.commands.borrow_mut().remove(&number);
        if gone.is_some_and(|own| own.stage == Stage::Waiting) {
            self.waiting.set(self.waiting.get() - 1);
        }
        self.moved.signal();
    }

    fn is_aborted(&self, number: u64) -> bool {
        self.commands.borrow().get(&number).is_some_and(|own| own.is_aborted)
    }

    fn begin_here(
        &self,
        lun: u64,
        tag: u32,
        attribute: TaskAttribute,
        cdb: &[u8; 16],
        tell: Option<Asc>,
    ) -> Option<(OnUnit, u32)> {
        self.target.begin_continued(&self.attached, lun, tell, (tag, attribute, cdb))
    }

    /// Enters a command.
    pub(crate) fn begin(self: &Rc<Self>, lun: u64, tag: u32, attribute: TaskAttribute, cdb: [u8; 16]) -> Task {
        let number = self.next.replace(self.next.get() + 1);
        let under_way = UnderWay { tag, lun, attribute, stage: Stage::Waiting, is_aborted: false };
        self.commands.borrow_mut().insert(number, under_way);
        self.waiting.set(self.waiting.get() + 1);
        let carried = Carried { lun, attribute, cdb, data_out: Bytes::new(), data_in_room: 0 };
        let command = Routed::new(Rc::clone(self), number, tag, carried);
        if !self.may_go(number) {
            return Task::routed(command, 0);
        }
        match self.way(lun, &cdb) {
            Some(Way::Target) => Task::answered(self.answer_of_target(&cdb)),
            Some(Way::Here) => self.begin_at_once(command),
            // Held here still: it has not moved yet, and may stay.
            Some(Way::There(_)) if self.unit(lun).is_some() => Task::routed(command, 0),
            Some(Way::There(session)) => match self.attention_of_other(lun, session, &cdb) {
                Some(attention) => Task::answered(attention),
                None => Task::routed(command, 0),
            },
            None => Task::routed(command, 0),
        }
    }

    fn begin_at_once(&self, mut command: Routed) -> Task {
        let Carried { lun, attribute, cdb, .. } = *command.carried();
        let owed = self.known.borrow().owed(lun, Side::Here);
        if owed.is_some() {
            self.known.borrow_mut().told(lun, Side::Here);
        }
        let begun = self.begin_here(lun, command.tag(), attribute, &cdb, owed);
        let Some((on_unit, data_out_bytes)) = begun else { return Task::routed(command, 0) };
        command.is_begun(on_unit);
        Task::routed(command, data_out_bytes)
    }

    /// The unit attention that a command gets instead of being sent.
    fn attention_of_other(&self, lun: u64, session: u64, cdb: &[u8; 16]) -> Option<Completion> {
        let now = Side::There(session);
        // A number no unit can have gets no entry.
        decode_lun(lun)?;
        let owed = self.known.borrow().owed(lun, now)?;
        if Self::asks_target(cdb) || Command::parse(cdb).is_ok_and(|command| passes_attention(&command)) {
            return None;
        }
        self.known.borrow_mut().told(lun, now);
        Some(Completion::check(&Sense::attention(owed), SenseFormat::Fixed))
    }

    fn answer_of_target(&self, cdb: &[u8; 16]) -> Completion {
        if Self::asks_target(cdb) { self.target.report_luns(&self.attached, cdb) } else { nothing_here(cdb) }
    }

    /// Waits until `ready` answers something; it is asked whenever anything moved: commands of this nexus, the units of the target, the gate
    /// of this one, the session with the other node.
    async fn until<T>(&self, lun: u64, ready: impl Fn() -> Option<T>) -> T {
        // BOUND: each round waits for something that moved.
        loop {
            let (seen, unit, moves) = (self.elsewhere.session(), self.unit(lun), self.target.moves());
            if let Some(value) = ready() {
                return value;
            }
            let moved = pin!(self.moved.until(|| ready().map(drop)));
            // With the unit its gate is another one.
            let units = pin!(self.target.units_moved.until(|| (self.target.moves() != moves).then_some(())));
            let gate = pin!(async {
                match &unit {
                    Some(unit) => {
                        // Whoever may wait for a gate is known to it.
                        let _busy = Busy::of(unit);
                        let before = unit.gate();
                        unit.gate_moved.until(|| (unit.gate() != before).then_some(())).await;
                    }
                    None => std::future::pending().await,
                }
            });
            select(select(moved, units), select(gate, self.elsewhere.changed(seen))).await;
        }
    }

    /// Sees to it that there is a session, if the other node has the unit or others of the target.
    fn need_for(&self, function: TaskManagement, lun: u64) {
        let is_elsewhere = || self.unit(lun).is_none_or(|unit| unit.gate() != Gate::Open);
        if self.target.presence() == Presence::Part && (is_of_target(function) || is_elsewhere()) {
            self.elsewhere.need();
        }
    }

    /// What of the target is here now.
    fn stand(&self, lun: u64) -> Stand {
        Stand { presence: self.target.presence(), moves: self.target.moves(), has_unit: self.unit(lun).is_some() }
    }

    /// Whether nothing sent in `session` can be carried out any more.
    fn is_over(&self, session: u64, lun: u64) -> bool {
        self.is_here(lun) || self.elsewhere.session().is_some_and(|now| now > session)
    }

    async fn until_over(&self, session: u64, lun: u64) {
        self.until(lun, || self.is_over(session, lun).then_some(())).await;
    }

    /// Marks these commands aborted: they go nowhere any more.
    fn abort(&self, numbers: &[u64], which: impl Fn(&UnderWay) -> bool) {
        let mut commands = self.commands.borrow_mut();
        for number in numbers {
            if let Some(own) = commands.get_mut(number).filter(|own| which(own)) {
                own.is_aborted = true;
            }
        }
        drop(commands);
        self.moved.signal();
    }

    /// The commands under way that a function for a whole task set, unit or target is about.
    fn concerned(&self, function: TaskManagement, lun: u64) -> Vec<u64> {
        let every = is_of_target(function);
        let commands = self.commands.borrow();
        commands.iter().filter(|(_, own)| every || own.lun == lun).map(|(number, _)| *number).collect()
    }

    /// Carries out a task management function as far as it concerns what is not here. `None`: it is this target's.
    ///
    /// A command that was sent is aborted when the other node says so, not before: its answer may be on the way, and then it was not.
    pub(crate) async fn manage(
        &self,
        function: TaskManagement,
        lun: u64,
        referenced: u32,
    ) -> Option<TaskManagementResponse> {
        if function == TaskManagement::AbortTask {
            return self.abort_task(lun, referenced).await;
        }
        let concerned = self.concerned(function, lun);
        self.abort(&concerned, |own| !matches!(own.stage, Stage::There { .. }));
        let response = self.manage_elsewhere(function, lun, None).await;
        let is_done = response.is_none_or(|response| response == TaskManagementResponse::Complete);
        if is_done {
            self.abort(&concerned, |_| true);
        }
        // What is about every unit is done at both nodes where both have some.
        let is_in_part = is_of_target(function) && self.target.presence() == Presence::Part;
        response.filter(|_| !(is_done && is_in_part))
    }

    async fn abort_task(&self, lun: u64, referenced: u32) -> Option<TaskManagementResponse> {
        let named = |own: &UnderWay| own.tag == referenced && own.lun == lun;
        let number = self.commands.borrow().iter().find(|(_, own)| named(own)).map(|(number, _)| *number);
        let Some(number) = number else { return Some(TaskManagementResponse::TaskDoesNotExist) };
        let abort = || self.abort(&[number], |_| true);
        // BOUND: another round only when the command was turned away meanwhile.
        loop {
            let stage = self.commands.borrow().get(&number).map(|own| own.stage);
            match stage {
                None => return Some(TaskManagementResponse::TaskDoesNotExist),
                Some(Stage::Here) => {
                    abort();
                    return None;
                }
                Some(Stage::Waiting) => {
                    abort();
                    return Some(TaskManagementResponse::Complete);
                }
                Some(Stage::There { session, .. }) if self.elsewhere.session() != Some(session) => {
                    abort();
                    self.until_over(session, lun).await;
                    return Some(TaskManagementResponse::Complete);
                }
                Some(Stage::There { reference, .. }) => {
                    let response = self.manage_elsewhere(TaskManagement::AbortTask, lun, Some(reference)).await;
                    if response.is_none_or(|response| response == TaskManagementResponse::Complete) {
                        abort();
                        return response;
                    }
                    let now = self.commands.borrow().get(&number).map(|own| own.stage);
                    if now.is_none() || now == stage {
                        // Its answer is on the way.
                        return response;
                    }
                }
            }
        }
    }

    async fn manage_elsewhere(
        &self,
        function: TaskManagement,
        lun: u64,
        reference: Option<u32>,
    ) -> Option<TaskManagementResponse> {
        let is_here = || if is_of_target(function) { self.target.is_whole() } else { self.is_here(lun) };
        self.need_for(function, lun);
        // BOUND: each round waits for the unit to be here or for a session.
        loop {
            let session = self.until(lun, || if is_here() { Some(None) } else { self.elsewhere.session().map(Some) });
            let session = session.await?;
            if let Some(response) = self.elsewhere.manage(function, lun, reference).await {
                return Some(response);
            }
            self.until_over(session, lun).await;
            if reference.is_some() {
                return Some(TaskManagementResponse::Complete);
            }
        }
    }

    pub(crate) async fn close(&self) {
        self.elsewhere.close().await;
    }
}
