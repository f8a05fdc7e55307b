//! Gates: whether commands pass, for one unit or for many at once.
//!
//! The one idea: a gate is a word that commands look at, so a pool of a thousand volumes is held by changing one word. Nobody has to be
//! told but commands that wait, and a gate knows the units that have any.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use crate::carrier::Carrier;
use crate::unit::UnitOnMedium;

/// Whether commands pass. A later one is stricter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Gate {
    /// Yes.
    Open,
    /// New commands wait; those under way end and are answered.
    Held,
    /// New commands wait, and so do the answers of those under way.
    Frozen,
    /// For good: everything ends without an answer.
    Fenced,
}

/// One gate in front of many units, besides the one each has of its own; the stricter counts.
pub struct CommonGate {
    gate: Cell<Gate>,
    /// Units with commands that may wait for the gate. BOUND: no more than there are commands.
    busy: RefCell<Vec<Rc<UnitOnMedium>>>,
    /// Drives what was given up by the commands of all of them.
    pub(crate) carrier: Carrier,
}

impl std::fmt::Debug for CommonGate {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("CommonGate").field("gate", &self.gate).finish_non_exhaustive()
    }
}

impl CommonGate {
    /// A gate that nothing passes yet. Must be called inside a `LocalSet`.
    #[must_use]
    pub fn held() -> Rc<Self> {
        Rc::new(Self { gate: Cell::new(Gate::Held), busy: RefCell::default(), carrier: Carrier::start() })
    }

    /// The gate.
    #[must_use]
    pub fn gate(&self) -> Gate {
        self.gate.get()
    }

    /// Fenced stays fenced: a node that lost its right does not get it back in this run.
    fn move_to(&self, gate: Gate) {
        if self.gate.get() != Gate::Fenced {
            self.gate.set(gate);
        }
        // A copy: a command that is woken may end at once and leave the list.
        let busy = self.busy.borrow().clone();
        busy.iter().for_each(|unit| unit.look_again());
    }

    /// New commands wait from now on; those under way end.
    pub fn hold(&self) {
        self.move_to(Gate::Held);
    }

    /// Like [`CommonGate::hold`], and the answers of commands under way wait too.
    pub fn freeze(&self) {
        self.move_to(Gate::Frozen);
    }

    /// Commands and answers pass again, where the unit's own gate lets them.
    pub fn resume(&self) {
        self.move_to(Gate::Open);
    }

    /// Nothing is answered any more.
    pub fn fence(&self) {
        self.move_to(Gate::Fenced);
    }

    /// Waits until nothing of any unit is at its medium. While the gate is held nothing new comes there, so only units that have commands
    /// now have to be waited for; with the gate open there is no telling for how long.
    pub async fn drained(&self) {
        let busy = self.busy.borrow().clone();
        for unit in busy {
            unit.drained().await;
        }
    }

    /// The unit has a command now; says at which place it is remembered.
    pub(crate) fn enter(&self, unit: Rc<UnitOnMedium>) -> usize {
        let mut busy = self.busy.borrow_mut();
        busy.push(unit);
        busy.len() - 1
    }

    /// The unit at this place has no command left; the one that was last takes its place.
    pub(crate) fn leave(&self, at: usize) {
        let mut busy = self.busy.borrow_mut();
        let gone = busy.swap_remove(at);
        if let Some(moved) = busy.get(at) {
            moved.busy_at.set(at);
        }
        drop(busy);
        drop(gone);
    }
}
