//! A nexus attached to a target: which units it sees, its place in each of them, and what it has been told of their list.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use understudy_unit::unit::LogicalUnit;
use understudy_unit::{Nexus, NexusId, TaskId};

use crate::audience::Audience;
use crate::unit::UnitOnMedium;

/// A unit of a target.
#[derive(Debug, Clone)]
pub(crate) struct Numbered {
    pub(crate) lun: u16,
    pub(crate) unit: Rc<UnitOnMedium>,
    pub(crate) audience: Audience,
}

/// A nexus and its place in each unit it has asked something, ordered by number.
#[derive(Debug)]
pub(crate) struct Attached {
    pub(crate) nexus: Nexus,
    /// It reaches the units of both nodes.
    pub(crate) spans_nodes: bool,
    pub(crate) places: RefCell<Vec<Place>>,
    pub(crate) list: Cell<List>,
}

/// What it is that units come or go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    /// The target has others.
    OfList,
    /// It has them elsewhere.
    OfPlace,
}

/// What became of the list of units, as one nexus sees it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct List {
    /// How often it changed.
    changes: u32,
    /// How many of these changes the initiator knew when it read the list last.
    reported: u32,
}

#[derive(Debug, Clone)]
pub(crate) struct Place {
    pub(crate) lun: u16,
    pub(crate) unit: Rc<UnitOnMedium>,
    pub(crate) id: NexusId,
    /// What the unit was told of the list.
    told: List,
}

/// How a nexus takes its place in a unit.
pub(crate) type Attach = fn(&mut LogicalUnit, Nexus) -> NexusId;

impl Attached {
    pub(crate) fn sees(&self, numbered: &Numbered) -> bool {
        numbered.audience.includes(&self.nexus.initiator.name)
    }

    pub(crate) fn is_told_of(&self, change: Change) -> bool {
        change == Change::OfList || !self.spans_nodes
    }

    pub(crate) fn list_changed(&self) {
        let List { changes, reported } = self.list.get();
        self.list.set(List { changes: changes + 1, reported });
    }

    pub(crate) fn list_reported(&self) {
        let changes = self.list.get().changes;
        self.list.set(List { changes, reported: changes });
    }

    /// The place in the unit of this number, taken now by `attach` if it has none yet.
    pub(crate) fn place(&self, lun: u16, units: &RefCell<Vec<Numbered>>, attach: Attach) -> Option<Place> {
        let mut places = self.places.borrow_mut();
        let at = match places.binary_search_by_key(&lun, |place| place.lun) {
            Ok(at) => at,
            Err(at) => {
                let units = units.borrow();
                let found = units.binary_search_by_key(&lun, |numbered| numbered.lun).ok()?;
                let unit = Rc::clone(&units.get(found).filter(|numbered| self.sees(numbered))?.unit);
                let id = attach(&mut unit.core.borrow_mut(), self.nexus.clone());
                places.insert(at, Place { lun, unit, id, told: self.list.get() });
                at
            }
        };
        let place = &mut places[at];
        place.tell(self.list.get());
        Some(place.clone())
    }
}

impl Place {
    /// Brings the unit up to date about the list of units.
    fn tell(&mut self, list: List) {
        if self.told == list {
            return;
        }
        let mut core = self.unit.core.borrow_mut();
        if self.told.reported != list.reported {
            core.luns_reported(self.id);
        }
        if list.reported < list.changes && self.told.changes != list.changes {
            core.luns_changed(self.id);
        }
        drop(core);
        self.told = list;
    }

    pub(crate) fn leave(&self) -> Vec<TaskId> {
        let aborting = self.unit.core.borrow_mut().detach(self.id);
        self.unit.look_again();
        aborting
    }
}
