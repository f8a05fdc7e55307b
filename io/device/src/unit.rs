//! One logical unit on one medium, with its gate.
//!
//! The unit's decisions are in [`LogicalUnit`]; this adds waiting. Three events say "look again": the gate moved, a task
//! left the medium or was aborted, a claim on blocks was given up.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use thiserror::Error;
use understudy_scsi::alua::PortGroup;
use understudy_scsi::cdb::Span;
use understudy_unit::state::StateFault;
use understudy_unit::unit::{Access, LogicalUnit, UnitOptions};
use understudy_unit::{Claim, ExtentClaims, Geometry, Sharing, TaskId};

use crate::carrier::Carrier;
use crate::event::Event;
use crate::gate::{CommonGate, Gate};
use crate::medium::Medium;

/// Why a unit cannot be opened.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum OpenError {
    /// What it kept cannot be used. Going on without would forget its reservations.
    #[error(transparent)]
    State(#[from] StateFault),
    /// The medium's block length is none a disk has.
    #[error("block length {0} is not a power of two between 512 and 4096")]
    BlockBytes(u32),
    /// The medium has no blocks.
    #[error("the medium is empty")]
    Empty,
}

/// A logical unit on a medium.
pub struct UnitOnMedium {
    pub(crate) core: RefCell<LogicalUnit>,
    pub(crate) medium: Rc<dyn Medium>,
    pub(crate) carrier: Carrier,
    claims: RefCell<ExtentClaims>,
    gate: Cell<Gate>,
    common: Option<Rc<CommonGate>>,
    /// Commands that may wait for the gate: see [`Busy`].
    waiting: Cell<usize>,
    /// Its place among the busy units of the common gate, while there are any.
    pub(crate) busy_at: Cell<usize>,
    /// Whether a change of kept state is between its plan and its end.
    changing: Cell<bool>,
    pub(crate) gate_moved: Event,
    pub(crate) tasks_moved: Event,
    pub(crate) claims_moved: Event,
}

impl std::fmt::Debug for UnitOnMedium {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("UnitOnMedium").field("gate", &self.gate).finish_non_exhaustive()
    }
}

fn geometry(medium: &dyn Medium) -> Geometry {
    let geometry = medium.geometry();
    Geometry { block_bytes: geometry.block_bytes, blocks: geometry.blocks }
}

impl UnitOnMedium {
    /// The unit on `medium`, with what was last given to [`Medium::keep_state`]. Must be called inside a `LocalSet`.
    ///
    /// # Errors
    /// [`OpenError`] if the kept state or the geometry cannot be used.
    pub fn new(options: UnitOptions, medium: Rc<dyn Medium>, kept: Option<&[u8]>) -> Result<Rc<Self>, OpenError> {
        Self::make(options, medium, kept, None)
    }

    /// The same, behind a gate that other units are behind, too.
    ///
    /// # Errors
    /// [`OpenError`] if the kept state or the geometry cannot be used.
    pub fn behind(
        gate: &Rc<CommonGate>,
        options: UnitOptions,
        medium: Rc<dyn Medium>,
        kept: Option<&[u8]>,
    ) -> Result<Rc<Self>, OpenError> {
        Self::make(options, medium, kept, Some(Rc::clone(gate)))
    }

    fn make(
        options: UnitOptions,
        medium: Rc<dyn Medium>,
        kept: Option<&[u8]>,
        common: Option<Rc<CommonGate>>,
    ) -> Result<Rc<Self>, OpenError> {
        let geometry = geometry(&*medium);
        if !(512..=4096).contains(&geometry.block_bytes) || !geometry.block_bytes.is_power_of_two() {
            return Err(OpenError::BlockBytes(geometry.block_bytes));
        }
        if geometry.blocks == 0 {
            return Err(OpenError::Empty);
        }
        Ok(Rc::new(Self {
            core: RefCell::new(LogicalUnit::new(options, geometry, kept)?),
            medium,
            carrier: common.as_ref().map_or_else(Carrier::start, |common| common.carrier.clone()),
            claims: RefCell::default(),
            gate: Cell::new(Gate::Open),
            common,
            waiting: Cell::new(0),
            busy_at: Cell::new(0),
            changing: Cell::new(false),
            gate_moved: Event::default(),
            tasks_moved: Event::default(),
            claims_moved: Event::default(),
        }))
    }

    /// Looks at what the unit knows.
    pub fn look<T>(&self, look: impl FnOnce(&LogicalUnit) -> T) -> T {
        look(&self.core.borrow())
    }

    /// The medium has another size now: every nexus finds a unit attention (2Ah/09h).
    pub fn capacity_changed(&self) {
        self.core.borrow_mut().resize(geometry(&*self.medium));
    }

    /// Tells the unit by which groups of ports it is reached; see [`LogicalUnit::reached_by`].
    pub fn reached_by(&self, groups: Vec<PortGroup>) {
        self.core.borrow_mut().reached_by(groups);
    }

    /// From now on nobody writes; ends when nothing that was under way does any more.
    pub async fn write_protect(&self) {
        let under_way = self.core.borrow_mut().set_access(Access::WriteProtected);
        self.off_medium(&under_way).await;
    }

    /// From now on anybody may write whom reservations let.
    pub fn allow_writes(&self) {
        self.core.borrow_mut().set_access(Access::ReadWrite);
    }

    /// From now on an initiator may have so many commands in the task set; see [`LogicalUnit::allow_tasks`].
    pub fn allow_tasks(&self, most: u32) {
        self.core.borrow_mut().allow_tasks(most);
    }

    /// The gate: the stricter one of its own and the one it shares.
    #[must_use]
    pub fn gate(&self) -> Gate {
        let own = self.gate.get();
        self.common.as_ref().map_or(own, |common| own.max(common.gate()))
    }

    /// Fenced stays fenced: a node that lost its right does not get it back in this run.
    fn move_gate(&self, gate: Gate) {
        if self.gate.get() != Gate::Fenced {
            self.gate.set(gate);
        }
        self.look_again();
    }

    /// New commands wait from now on; those under way end.
    pub fn hold(&self) {
        self.move_gate(Gate::Held);
    }

    /// Like [`UnitOnMedium::hold`], and the answers of commands under way wait too.
    pub fn freeze(&self) {
        self.move_gate(Gate::Frozen);
    }

    /// Commands and answers pass again.
    pub fn resume(&self) {
        self.move_gate(Gate::Open);
    }

    /// Nothing is answered any more.
    pub fn fence(&self) {
        self.move_gate(Gate::Fenced);
    }

    /// Waits until nothing is at the medium. With the gate open there is no telling for how long.
    pub async fn drained(&self) {
        self.tasks_moved.until(|| (self.commands_under_way() == 0).then_some(())).await;
    }

    /// Commands at the medium right now.
    #[must_use]
    pub fn commands_under_way(&self) -> usize {
        self.core.borrow().at_medium()
    }

    /// Wakes everybody who waits for anything.
    pub(crate) fn look_again(&self) {
        self.gate_moved.signal();
        self.tasks_moved.signal();
        self.claims_moved.signal();
    }

    /// Waits until none of these tasks is at the medium.
    pub(crate) async fn off_medium(&self, tasks: &[TaskId]) {
        if tasks.is_empty() {
            return;
        }
        self.tasks_moved
            .until(|| {
                let core = self.core.borrow();
                (!tasks.iter().any(|task| core.is_at_medium(*task))).then_some(())
            })
            .await;
    }

    /// Whether a claim on these blocks would be granted at once.
    pub(crate) fn is_free(&self, span: Span, sharing: Sharing) -> bool {
        self.claims.borrow().is_free(span.lba, span.blocks, sharing)
    }

    pub(crate) fn is_aborted(&self, task: TaskId) -> bool {
        self.core.borrow().is_aborted(task)
    }
}

/// A command that may wait for the gate, in the task set or with its answer. While there is one, the unit's common gate knows the
/// unit.
#[derive(Debug)]
pub(crate) struct Busy(Rc<UnitOnMedium>);

impl Busy {
    pub(crate) fn of(unit: &Rc<UnitOnMedium>) -> Self {
        let before = unit.waiting.replace(unit.waiting.get() + 1);
        if let Some(common) = unit.common.as_ref().filter(|_| before == 0) {
            unit.busy_at.set(common.enter(Rc::clone(unit)));
        }
        Self(Rc::clone(unit))
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        let Self(unit) = self;
        unit.waiting.set(unit.waiting.get() - 1);
        if let Some(common) = unit.common.as_ref().filter(|_| unit.waiting.get() == 0) {
            common.leave(unit.busy_at.get());
        }
    }
}

/// A claim on blocks, given up when dropped.
pub(crate) struct Claimed {
    unit: Rc<UnitOnMedium>,
    claim: Claim,
}

impl Claimed {
    pub(crate) fn make(unit: &Rc<UnitOnMedium>, span: Span, sharing: Sharing) -> Self {
        let claim = unit.claims.borrow_mut().claim(span.lba, span.blocks, sharing);
        Self { unit: Rc::clone(unit), claim }
    }

    pub(crate) fn is_granted(&self) -> bool {
        self.unit.claims.borrow().granted(self.claim)
    }
}

impl Drop for Claimed {
    fn drop(&mut self) {
        use understudy_unit::Released;
        let released = self.unit.claims.borrow_mut().release(self.claim);
        match released {
            Released::Somebody => self.unit.claims_moved.signal(),
            Released::Nobody => (),
        }
    }
}

/// The turn to change kept state, given up when dropped: one change at a time.
pub(crate) struct Turn {
    unit: Rc<UnitOnMedium>,
}

impl Turn {
    pub(crate) fn take(unit: &Rc<UnitOnMedium>) -> Option<Self> {
        (!unit.changing.replace(true)).then(|| Self { unit: Rc::clone(unit) })
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.unit.changing.set(false);
        self.unit.claims_moved.signal();
    }
}
