//! A command at the first look: whether it can be carried out right now, without waiting for anything.
//!
//! The one idea: nothing is decided here. [`OnUnit::attempt`] asks what [`Task::execute`] asks first, in the same order and of the
//! same functions. Where an answer is not the usual one (the gate is shut, an older command has to end, a reservation stands,
//! somebody else has the blocks, the medium takes its time) the command is left as it was and goes the whole way. Nobody else runs
//! between the first question and the end, so what is asked once stays true, and the claim on the blocks and the place at the
//! medium, which are there for others to see, are not taken.
//!
//! It saves a future in memory of its own for each command, and a read lands where it is sent from.

use bytes::Bytes;
use understudy_scsi::cdb::{Command, Span};
use understudy_unit::unit::{Plan, Work};
use understudy_unit::{Completion, Sharing};

use crate::perform::medium_durability;
use crate::task::{Frozen, Look, OnUnit, Outcome, Place, Task};

/// What became of a command at the first look.
#[derive(Debug)]
pub enum Attempt {
    /// It is over, like this.
    Over(Outcome),
    /// It is over, and GOOD: what it reads is in the room that was given.
    Placed,
    /// It has to wait for something: [`Task::execute`] carries it out.
    Waits(Task),
}

impl Task {
    /// Carries the command out if that takes no waiting. A read asks `room` for the place of its data, all of it, and takes the whole way if
    /// there is none.
    pub fn attempt<'a>(self, data_out: &Bytes, room: impl FnOnce(usize) -> Option<&'a mut [u8]>) -> Attempt {
        let data_out_bytes = self.data_out_bytes;
        let waits = |place| Attempt::Waits(Task { place, data_out_bytes });
        let first = match self.place {
            Place::Unit(on_unit) => on_unit.attempt(data_out, room),
            Place::Routed(mut routed) => match routed.attempt(data_out, room) {
                Some(first) => first,
                None => return waits(Place::Routed(routed)),
            },
            place @ (Place::Target(_) | Place::Forwarded(_) | Place::Frozen(_)) => return waits(place),
        };
        match first {
            First::Over(outcome) => Attempt::Over(outcome),
            First::Placed => Attempt::Placed,
            First::Frozen(frozen) => Attempt::Waits(Task { place: Place::Frozen(frozen), data_out_bytes: 0 }),
            First::Waits(on_unit) => waits(Place::Unit(on_unit)),
        }
    }
}

/// What became of a command on a unit at the first look.
pub(crate) enum First {
    Over(Outcome),
    Placed,
    /// It is done, and its answer waits for the gate.
    Frozen(Frozen),
    Waits(OnUnit),
}

impl OnUnit {
    pub(crate) fn attempt<'a>(self, data_out: &Bytes, room: impl FnOnce(usize) -> Option<&'a mut [u8]>) -> First {
        match self.work_now(data_out) {
            Some(Work::Read(span)) if self.read_now(span, room).is_some() => First::Placed,
            Some(Work::Write(span, durability)) if self.is_free(span, Sharing::Exclusive) => {
                let bytes = data_out.slice(..self.bytes(span));
                match self.listed.unit.medium.write_now(span.lba, &bytes, medium_durability(durability)) {
                    Some(written) => match self.listed.judge(written.map(|()| Completion::good())) {
                        Ok(outcome) => First::Over(outcome),
                        Err(frozen) => First::Frozen(frozen),
                    },
                    None => First::Waits(self),
                }
            }
            Some(_) | None => First::Waits(self),
        }
    }

    /// What to do for a plain read or write whose turn it is. Asking that of another command may already change something.
    fn work_now(&self, data_out: &Bytes) -> Option<Work> {
        let Plan::Command(command @ (Command::Read { .. } | Command::Write { .. })) = &self.plan else { return None };
        let Ok(Look::Go) = self.listed.look() else { return None };
        Some(self.listed.unit.core.borrow_mut().work(self.nexus, command, data_out, &self.target_name))
    }

    /// Reads into the room. A read that fails changes nothing and is made again on the whole way, where it is answered.
    fn read_now<'a>(&self, span: Span, room: impl FnOnce(usize) -> Option<&'a mut [u8]>) -> Option<()> {
        if !self.is_free(span, Sharing::Shared) {
            return None;
        }
        let into = room(self.bytes(span))?;
        self.listed.unit.medium.read_now(span.lba, into)?.ok()?;
        // A medium that found out that it is fenced may have shut the gate.
        self.listed.look().is_ok_and(|look| look == Look::Go).then_some(())
    }

    fn is_free(&self, span: Span, sharing: Sharing) -> bool {
        self.listed.unit.is_free(span, sharing)
    }

    fn bytes(&self, span: Span) -> usize {
        self.listed.bytes(span.blocks)
    }
}
