//! A command of a nexus whose units may be at another node, from its arrival to its answer.

use std::rc::Rc;

use bytes::Bytes;
use tokio::time::{Instant, timeout, timeout_at};
use understudy_scsi::Status;
use understudy_scsi::cdb::Command;
use understudy_scsi::encode;
use understudy_scsi::sense::{Asc, Sense, SenseFormat, SenseKey};
use understudy_unit::{Completion, Side, may_be_repeated};

use super::{Answer, Carried, HOLD_LIMIT, Routes, Sent, Stage, Stand, TURNED_AWAY_PAUSE, Way, turned_away};
use crate::attempt::First;
use crate::listing::{Asked, WHOLE_LIST_BYTES, is_in_part, not_in_this_part, nothing_here, units_in};
use crate::target::Presence;
use crate::task::{Ended, OnUnit, Outcome};

/// A command of such a nexus. Dropping it abandons it.
pub(crate) struct Routed {
    routes: Rc<Routes>,
    number: u64,
    carried: Carried,
    tag: u32,
    /// It has begun here.
    here: Option<OnUnit>,
    /// Bytes of data-out it asked for when it began here, if that was not known when it came.
    wanted: Option<u32>,
}

impl std::fmt::Debug for Routed {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Routed")
            .field("carried", &self.carried)
            .field("here", &self.here)
            .finish_non_exhaustive()
    }
}

impl Drop for Routed {
    fn drop(&mut self) {
        self.routes.forget(self.number);
    }
}

/// What became of a command that was sent.
enum Reply {
    Answered {
        completion: Completion,
        data_out_wanted: u32,
    },
    /// It was not begun, because its unit moves.
    TurnedAway,
    /// It was not sent after all.
    Ended,
    /// The session ended before an answer came.
    Unknown,
}

/// What the next step of a command is.
enum Next {
    Aborted,
    TooLate,
    Go(Way),
}

impl Routed {
    pub(super) fn new(routes: Rc<Routes>, number: u64, tag: u32, carried: Carried) -> Self {
        Self { routes, number, carried, tag, here: None, wanted: None }
    }

    pub(super) fn carried(&self) -> &Carried {
        &self.carried
    }

    pub(super) fn tag(&self) -> u32 {
        self.tag
    }

    /// It has begun here.
    pub(super) fn is_begun(&mut self, on_unit: OnUnit) {
        self.routes.set_stage(self.number, Stage::Here);
        self.here = Some(on_unit);
    }

    /// The command on its unit, if it has begun here: what it asked for was told when it came.
    pub(crate) fn take_here(&mut self) -> Option<OnUnit> {
        self.here.take()
    }

    /// Its unit was taken away before it began.
    pub(crate) fn waits_again(&self) {
        self.routes.set_stage(self.number, Stage::Waiting);
    }

    pub(crate) fn here(&mut self) -> Option<&mut OnUnit> {
        self.here.as_mut()
    }

    /// The same as for a command that is on a unit, if this one has begun here; `None`: it goes the whole way.
    pub(crate) fn attempt<'a>(
        &mut self,
        data_out: &Bytes,
        room: impl FnOnce(usize) -> Option<&'a mut [u8]>,
    ) -> Option<First> {
        match self.here.take()?.attempt(data_out, room) {
            First::Waits(on_unit) => {
                self.here = Some(on_unit);
                None
            }
            first => Some(first),
        }
    }

    pub(crate) fn make_room(&mut self, bytes: u32) {
        self.carried.data_in_room = bytes;
    }

    /// Waits until the command is aborted.
    pub(crate) async fn aborted(&self) {
        match &self.here {
            Some(on_unit) => on_unit.aborted().await,
            None => self.routes.moved.until(|| self.routes.is_aborted(self.number).then_some(())).await,
        }
    }

    pub(crate) async fn execute(mut self, data_out: Bytes) -> Outcome {
        let deadline = Instant::now() + HOLD_LIMIT;
        self.carried.data_out = data_out;
        // BOUND: each round ends the command, or waits for its unit to be somewhere.
        loop {
            if let Some(on_unit) = self.here.take() {
                match on_unit.execute(self.carried.data_out.clone()).await {
                    Ended::With(Outcome::Completed(completion)) => return self.completed_here(completion),
                    Ended::With(outcome) => return outcome,
                    Ended::NotBegun => self.waits_again(),
                }
            }
            match self.next(deadline).await {
                Next::Aborted => return Outcome::Aborted,
                Next::TooLate => {
                    let sense = Sense::new(SenseKey::NotReady, Asc::TARGET_PORT_IN_UNAVAILABLE_STATE);
                    return not_begun(Completion::check(&sense, SenseFormat::Fixed));
                }
                Next::Go(Way::Target) => return not_begun(self.routes.answer_of_target(&self.carried.cdb)),
                Next::Go(Way::Here) => self.begin_here(),
                Next::Go(Way::There(session)) => {
                    if let Some(attention) = self.attention_of_arrival(session) {
                        return not_begun(attention);
                    }
                    if let Some(outcome) = self.carry_out_there(session).await {
                        return outcome;
                    }
                }
            }
        }
    }

    fn completed_here(&self, completion: Completion) -> Outcome {
        match self.wanted {
            Some(data_out_wanted) => Outcome::Carried { completion, data_out_wanted },
            // As was said when it came.
            None => Outcome::Completed(completion),
        }
    }

    fn brought(&self) -> u32 {
        u32::try_from(self.carried.data_out.len()).unwrap_or(u32::MAX)
    }

    async fn next(&self, deadline: Instant) -> Next {
        let Carried { lun, cdb, .. } = &self.carried;
        let way = self.routes.until(*lun, || {
            if self.routes.is_aborted(self.number) {
                return Some(Next::Aborted);
            }
            self.routes.may_go(self.number).then(|| self.routes.way(*lun, cdb)).flatten().map(Next::Go)
        });
        timeout_at(deadline, way).await.unwrap_or(Next::TooLate)
    }

    /// A command that waited is not told that its unit has moved, but it may be the first of its session.
    fn attention_of_arrival(&self, session: u64) -> Option<Completion> {
        let Carried { lun, cdb, .. } = &self.carried;
        let is_first = !self.routes.known.borrow().is_known(*lun);
        is_first.then(|| self.routes.attention_of_other(*lun, session, cdb)).flatten()
    }

    fn begin_here(&mut self) {
        let Carried { lun, attribute, cdb, .. } = self.carried;
        let is_first = !self.routes.known.borrow().is_known(lun);
        let tell = is_first.then(|| self.routes.known.borrow().owed(lun, Side::Here)).flatten();
        if is_first {
            self.routes.known.borrow_mut().told(lun, Side::Here);
        }
        if let Some((mut on_unit, wanted)) = self.routes.begin_here(lun, self.tag, attribute, &cdb, tell) {
            on_unit.offer(self.brought(), wanted);
            self.wanted = Some(wanted);
            self.is_begun(on_unit);
        }
    }

    /// `None`: it has to look for its way again.
    async fn carry_out_there(&self, session: u64) -> Option<Outcome> {
        let before = self.routes.stand(self.carried.lun);
        if Routes::asks_target(&self.carried.cdb) {
            return self.list_units(session, before).await;
        }
        match self.send(session, &self.carried).await {
            Reply::Answered { completion, .. } if completion == not_in_this_part() => {
                if before.is_nowhere(self.routes.stand(self.carried.lun)) {
                    return Some(not_begun(nothing_here(&self.carried.cdb)));
                }
                self.turned_away().await;
                None
            }
            Reply::Answered { completion, data_out_wanted } => Some(Outcome::Carried { completion, data_out_wanted }),
            Reply::TurnedAway => {
                self.turned_away().await;
                None
            }
            Reply::Ended => None,
            Reply::Unknown => self.of_unknown_outcome(session).await,
        }
    }

    /// Sends a command and waits for what becomes of it. Afterwards this one waits again, unless it is over.
    async fn send(&self, session: u64, carried: &Carried) -> Reply {
        let Some(Sent { reference, answer }) = self.routes.elsewhere.send(carried) else { return Reply::TurnedAway };
        self.routes.set_stage(self.number, Stage::There { session, reference });
        let reply = match answer.await {
            Answer::Answered { completion, .. } if completion == turned_away() => Reply::TurnedAway,
            Answer::Answered { completion, data_out_wanted } => Reply::Answered { completion, data_out_wanted },
            Answer::NotSent => Reply::Ended,
            // Its stage says in which session, until nothing of it can be carried out any more.
            Answer::Unknown => return Reply::Unknown,
        };
        self.routes.set_stage(self.number, Stage::Waiting);
        reply
    }

    /// The list of units, of the other node alone or, where both have some, of both. A unit that moves meanwhile is here before or after.
    async fn list_units(&self, session: u64, before: Stand) -> Option<Outcome> {
        let Routes { target, attached, .. } = &*self.routes;
        let asked = match Asked::by(&self.carried.cdb) {
            Ok(asked) => asked,
            Err(refused) => return Some(not_begun(refused)),
        };
        let mut units = target.luns_seen_by(attached);
        // However little room the client has, what the other node lists has to be known.
        let cdb = encode::report_luns(WHOLE_LIST_BYTES);
        let whole = Carried { cdb, data_in_room: WHOLE_LIST_BYTES, ..self.carried.clone() };
        let completion = match self.send(session, &whole).await {
            Reply::Answered { completion, .. } => completion,
            Reply::TurnedAway => {
                self.turned_away().await;
                return None;
            }
            Reply::Ended => return None,
            Reply::Unknown => return self.of_unknown_outcome(session).await,
        };
        if completion.status != Status::Good {
            return Some(not_begun(completion));
        }
        if !is_in_part(&completion) {
            units.clear();
        } else if [before, self.routes.stand(self.carried.lun)].iter().any(|at| at.presence != Presence::Part) {
            self.turned_away().await;
            return None;
        } else {
            units.extend(target.luns_seen_by(attached));
        }
        units.extend(units_in(&completion));
        attached.list_reported();
        Some(not_begun(asked.answer(&units)))
    }

    /// Waits a moment, or until its unit is here.
    async fn turned_away(&self) {
        let Carried { lun, cdb, .. } = &self.carried;
        let is_here = || matches!(self.routes.way(*lun, cdb), Some(Way::Here | Way::Target)).then_some(());
        // Too early or not, it is tried again.
        let _ = timeout(TURNED_AWAY_PAUSE, self.routes.until(*lun, is_here)).await;
    }

    /// What to say of a command that was sent in a session that ended, or whose abort was confirmed; `None`: it is carried out again.
    async fn of_unknown_outcome(&self, session: u64) -> Option<Outcome> {
        let lun = self.carried.lun;
        let known = || (self.routes.is_aborted(self.number) || self.routes.is_over(session, lun)).then_some(());
        self.routes.until(lun, known).await;
        if self.routes.is_aborted(self.number) {
            return Some(Outcome::Aborted);
        }
        let is_harmless = Command::parse(&self.carried.cdb).is_ok_and(|command| may_be_repeated(&command));
        if is_harmless {
            self.routes.set_stage(self.number, Stage::Waiting);
            return None;
        }
        let sense = Sense::new(SenseKey::AbortedCommand, Asc::LOGICAL_UNIT_COMMUNICATION_FAILURE);
        let completion = Completion::check(&sense, SenseFormat::Fixed);
        Some(Outcome::Carried { completion, data_out_wanted: self.brought() })
    }
}

fn not_begun(completion: Completion) -> Outcome {
    Outcome::Carried { completion, data_out_wanted: 0 }
}
