//! A target: units by number, and the I_T nexuses attached to them.
//!
//! The target answers what no single unit can: REPORT LUNS, and commands to a number nobody has. A nexus has a place only in
//! units whose [`Audience`] its initiator belongs to, and reaches units only by its places: what it does not see is not
//! there for it, whichever command, function or reservation it tries it with.
//!
//! It takes its place in a unit with its first command to it, and not when it logs in: a login costs the same with one unit as with a
//! thousand, so that a thousand clients that come back after a move of a thousand volumes do not wait for a million places. To
//! the initiator it is the same: its first command is told of a power-on or a nexus loss, which says more than whatever
//! happened before (SAM-5 r21 §5.14, §6.3). For the same reason news of the list of units wait at the nexus until it
//! comes to a place.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::rc::{Rc, Weak};

use thiserror::Error;
use understudy_scsi::luns::{self, HIGHEST_LUN};
use understudy_scsi::operations::opcode;
use understudy_scsi::sense::Asc;
use understudy_scsi::transport::InitiatorPort;
use understudy_unit::unit::{LogicalUnit, Reset};
use understudy_unit::{Nexus, TaskAttribute, TaskId};

use crate::attached::{Attached, Change, Numbered, Place};
use crate::audience::Audience;
use crate::event::Event;
use crate::listing::{in_part, not_in_this_part, nothing_here};
use crate::routed::{Elsewhere, Routes, turned_away};
use crate::task::{IfHeld, OnUnit, Task};
use crate::unit::UnitOnMedium;

/// Who logs in, and through which portal group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NexusName {
    /// iSCSI initiator name.
    pub initiator_name: String,
    /// Initiator session identifier.
    pub isid: [u8; 6],
    /// Target portal group tag.
    pub target_portal_group: u16,
}

impl From<NexusName> for Nexus {
    fn from(name: NexusName) -> Self {
        Self {
            // Names are compared without case (RFC 7143 §4.2.7.2).
            initiator: InitiatorPort { name: name.initiator_name.to_ascii_lowercase(), isid: name.isid },
            target_port: name.target_portal_group,
        }
    }
}

/// A unit has this number already, or the number is too high.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("logical unit number {0} is taken or above 16383")]
pub struct LunTaken(pub u16);

/// Task management functions (SAM-5 r21 §7). CLEAR ACA and TASK REASSIGN are not supported, and the portal says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TaskManagement {
    /// One task.
    AbortTask,
    /// Every task of this nexus on the unit.
    AbortTaskSet,
    /// The task set of this nexus: each has one of its own (TST 001b).
    ClearTaskSet,
    /// Everything on the unit.
    LogicalUnitReset,
    /// Everything on every unit that the nexus sees.
    TargetWarmReset,
    /// Everything on every unit, as if power had failed; the portal closes the sessions afterwards.
    TargetColdReset,
}

/// How a task management function ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TaskManagementResponse {
    /// Done, and nothing it aborted can reach a medium any more.
    Complete,
    /// The referenced task is not in the task set.
    TaskDoesNotExist,
    /// No such unit, or none that this nexus sees.
    LunDoesNotExist,
    /// It would have ended what the nexus does not see.
    NotAuthorized,
}

/// How much of a target is at this node. Only where units come and go with their pools it makes a difference, to a nexus that is
/// [routed](Target::attach_routed) or [forwarded](Target::attach_forwarded).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Presence {
    /// Units may be on their way here: one that is not here may be anywhere.
    #[default]
    Unsettled,
    /// What is here stays for now, and other units are at the other node.
    Part,
    /// All units that the target is going to have.
    Whole,
}

/// A target.
#[derive(Debug)]
pub struct Target {
    name: Rc<str>,
    /// By number.
    units: RefCell<Vec<Numbered>>,
    presence: Cell<Presence>,
    /// Some of the units are about to go to the other node, and others to stay.
    is_parting: Cell<bool>,
    /// How often units came, went, or were said to be here.
    moves: Cell<u64>,
    /// Units came or went.
    pub(crate) units_moved: Event,
    // BOUND: dead entries are swept before it grows.
    attached: RefCell<Vec<Weak<Attached>>>,
}

impl Target {
    /// A target of this iSCSI name without units.
    #[must_use]
    pub fn new(name: impl Into<String>) -> Rc<Self> {
        Rc::new(Self {
            name: name.into().into(),
            units: RefCell::default(),
            presence: Cell::default(),
            is_parting: Cell::new(false),
            moves: Cell::new(0),
            units_moved: Event::default(),
            attached: RefCell::default(),
        })
    }

    /// Its iSCSI name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Adds a unit that everyone sees; nexuses attached to the target's other units find a unit attention (3Fh/0Eh).
    ///
    /// # Errors
    /// [`LunTaken`].
    pub fn add(&self, lun: u16, unit: Rc<UnitOnMedium>) -> Result<(), LunTaken> {
        self.add_for(lun, unit, Audience::Everyone)
    }

    /// Adds a unit that only `audience` sees; only they find the unit attention.
    ///
    /// # Errors
    /// [`LunTaken`].
    pub fn add_for(&self, lun: u16, unit: Rc<UnitOnMedium>, audience: Audience) -> Result<(), LunTaken> {
        self.add_all([(lun, unit, audience)]).pop().map_or(Ok(()), Err)
    }

    /// Adds many units, as [`Target::add_for`] does each, and names those that found no room: one look at each nexus, however many they
    /// are.
    pub fn add_all(&self, units: impl IntoIterator<Item = (u16, Rc<UnitOnMedium>, Audience)>) -> Vec<LunTaken> {
        self.put(units, Change::OfList)
    }

    /// The same for units that come from the other node: to a nexus that reached them there the list is what it was.
    pub fn arrive(&self, units: impl IntoIterator<Item = (u16, Rc<UnitOnMedium>, Audience)>) -> Vec<LunTaken> {
        self.put(units, Change::OfPlace)
    }

    fn put(&self, units: impl IntoIterator<Item = (u16, Rc<UnitOnMedium>, Audience)>, change: Change) -> Vec<LunTaken> {
        let mut added: Vec<_> =
            units.into_iter().map(|(lun, unit, audience)| Numbered { lun, unit, audience }).collect();
        added.sort_by_key(|numbered| numbered.lun);
        let mut refused = Vec::new();
        let mut before = None;
        added.retain(|numbered| {
            let lun = numbered.lun;
            let there = self.units.borrow().binary_search_by_key(&lun, |numbered| numbered.lun).is_ok();
            let fits = lun <= HIGHEST_LUN && !there && before != Some(lun);
            before = Some(lun);
            if !fits {
                refused.push(LunTaken(lun));
            }
            fits
        });
        for attached in self.attached.borrow().iter().filter_map(Weak::upgrade) {
            if attached.is_told_of(change) && added.iter().any(|numbered| attached.sees(numbered)) {
                attached.list_changed();
            }
        }
        let mut all = self.units.borrow_mut();
        all.append(&mut added);
        // Two ascending runs: they are merged.
        all.sort_by_key(|numbered| numbered.lun);
        drop(all);
        self.moved();
        refused
    }

    /// Removes a unit; its commands are aborted as if every nexus were lost.
    pub fn remove(&self, lun: u16) -> Option<Rc<UnitOnMedium>> {
        self.remove_all(|other| other == lun).pop()
    }

    /// Removes every unit whose number `goes`, as [`Target::remove`] does, and answers them by number: one look at each nexus,
    /// however many they are.
    pub fn remove_all(&self, goes: impl Fn(u16) -> bool) -> Vec<Rc<UnitOnMedium>> {
        self.take(goes, Change::OfList)
    }

    /// The same for units that go to the other node: to a nexus that reaches them there the list is what it was.
    pub fn depart(&self, goes: impl Fn(u16) -> bool) -> Vec<Rc<UnitOnMedium>> {
        self.take(goes, Change::OfPlace)
    }

    fn take(&self, goes: impl Fn(u16) -> bool, change: Change) -> Vec<Rc<UnitOnMedium>> {
        let (gone, stay): (Vec<_>, Vec<_>) = self.units.take().into_iter().partition(|numbered| goes(numbered.lun));
        self.units.replace(stay);
        for attached in self.attached.borrow().iter().filter_map(Weak::upgrade) {
            attached.places.borrow_mut().retain(|place| {
                let stays = !goes(place.lun);
                if !stays {
                    place.leave();
                }
                stays
            });
            if attached.is_told_of(change) && gone.iter().any(|numbered| attached.sees(numbered)) {
                attached.list_changed();
            }
        }
        self.moved();
        gone.into_iter().map(|numbered| numbered.unit).collect()
    }

    /// Whether an initiator would find anything here: a unit it sees, or perhaps one that is at the other node, or no units at all, as in
    /// a target whose units are on their way.
    #[must_use]
    pub fn has_something_for(&self, initiator: &str) -> bool {
        let units = self.units.borrow();
        units.is_empty()
            || self.presence.get() == Presence::Part
            || units.iter().any(|numbered| numbered.audience.includes(initiator))
    }

    /// Numbers of its units, ascending.
    #[must_use]
    pub fn luns(&self) -> Vec<u16> {
        self.units.borrow().iter().map(|numbered| numbered.lun).collect()
    }

    /// Its units.
    #[must_use]
    pub fn units(&self) -> Vec<Rc<UnitOnMedium>> {
        self.units.borrow().iter().map(|numbered| Rc::clone(&numbered.unit)).collect()
    }

    /// Says how much of the target is at this node.
    pub fn set_presence(&self, presence: Presence) {
        if self.presence.replace(presence) != presence {
            self.moved();
        }
    }

    pub(crate) fn presence(&self) -> Presence {
        self.presence.get()
    }

    pub(crate) fn is_whole(&self) -> bool {
        self.presence.get() == Presence::Whole
    }

    /// Says whether some of the units are about to go to the other node while others stay: then whoever has commands for those that
    /// are held opens its session with the other node beforehand.
    pub fn set_parting(&self, parting: bool) {
        self.is_parting.set(parting);
    }

    pub(crate) fn is_parting(&self) -> bool {
        self.is_parting.get()
    }

    /// As long as it is the same, the same units were here all the time.
    pub(crate) fn moves(&self) -> u64 {
        self.moves.get()
    }

    fn moved(&self) {
        self.moves.set(self.moves.get() + 1);
        self.units_moved.signal();
    }

    /// The unit of this number, if the nexus sees it.
    pub(crate) fn unit_for(&self, attached: &Attached, lun: u64) -> Option<Rc<UnitOnMedium>> {
        let lun = luns::decode_lun(lun)?;
        let units = self.units.borrow();
        let found = units.binary_search_by_key(&lun, |numbered| numbered.lun).ok()?;
        Some(&units[found]).filter(|numbered| attached.sees(numbered)).map(|numbered| Rc::clone(&numbered.unit))
    }

    /// Enters a command of a nexus that knows by itself when its client has to be told that it was attached: with `tell`, now. Answers
    /// the bytes of data-out, too; `None` if there is no such unit for it.
    pub(crate) fn begin_continued(
        &self,
        attached: &Attached,
        lun: u64,
        tell: Option<Asc>,
        (tag, attribute, cdb): (u32, TaskAttribute, &[u8; 16]),
    ) -> Option<(OnUnit, u32)> {
        let Place { unit, id, .. } =
            attached.place(luns::decode_lun(lun)?, &self.units, LogicalUnit::attach_continued)?;
        if let Some(asc) = tell {
            unit.core.borrow_mut().tell(id, asc);
        }
        let begun = unit.core.borrow_mut().begin(id, tag, attribute, cdb);
        let data_out_bytes = begun.data_out_bytes;
        Some((OnUnit::begun((unit, id), begun, Rc::clone(&self.name), IfHeld::Leave), data_out_bytes))
    }

    /// Attaches an I_T nexus. One nexus may be attached once at a time; at a session reinstatement close the old
    /// handle first.
    #[must_use]
    pub fn attach(self: &Rc<Self>, nexus: NexusName) -> NexusHandle {
        NexusHandle { attached: self.attach_to(nexus, false), target: Rc::clone(self), role: Role::Client }
    }

    /// The same, for a session of the other node's that carries commands of this initiator, who has its session there. Commands that
    /// are not begun because their unit was taken away, or has not come yet, are answered so that the other node looks for another way.
    #[must_use]
    pub fn attach_forwarded(self: &Rc<Self>, nexus: NexusName) -> NexusHandle {
        NexusHandle { attached: self.attach_to(nexus, true), target: Rc::clone(self), role: Role::Forwarded }
    }

    /// The same, for a session whose units may be at another node, reached by `elsewhere`.
    #[must_use]
    pub fn attach_routed(self: &Rc<Self>, nexus: NexusName, elsewhere: Rc<dyn Elsewhere>) -> NexusHandle {
        let attached = self.attach_to(nexus, true);
        let routes = Routes::new(Rc::clone(self), Rc::clone(&attached), elsewhere);
        NexusHandle { attached, target: Rc::clone(self), role: Role::Routed(routes) }
    }

    fn attach_to(self: &Rc<Self>, nexus: NexusName, spans_nodes: bool) -> Rc<Attached> {
        let nexus = Nexus::from(nexus);
        let attached = Rc::new(Attached { nexus, spans_nodes, places: RefCell::default(), list: Cell::default() });
        let mut all = self.attached.borrow_mut();
        if all.len() == all.capacity() {
            all.retain(|other| other.strong_count() > 0);
        }
        all.push(Rc::downgrade(&attached));
        drop(all);
        attached
    }

    /// The numbers of the units that a nexus sees here.
    pub(crate) fn luns_seen_by(&self, attached: &Attached) -> BTreeSet<u16> {
        self.units.borrow().iter().filter(|numbered| attached.sees(numbered)).map(|numbered| numbered.lun).collect()
    }

    fn seen_by(&self, attached: &Attached) -> Vec<Numbered> {
        self.units.borrow().iter().filter(|numbered| attached.sees(numbered)).cloned().collect()
    }

    /// Holds every unit and waits until nothing is at a medium.
    pub async fn hold_and_drain(&self) {
        let units = self.units();
        for unit in &units {
            unit.hold();
        }
        for unit in &units {
            unit.drained().await;
        }
    }

    /// Opens the gate of every unit.
    pub fn resume(&self) {
        self.units().iter().for_each(|unit| unit.resume());
    }

    /// Freezes every unit.
    pub fn freeze(&self) {
        self.units().iter().for_each(|unit| unit.freeze());
    }

    /// Fences every unit for good.
    pub fn fence(&self) {
        self.units().iter().for_each(|unit| unit.fence());
    }
}

/// An I_T nexus attached to a target. Dropping it is an I_T nexus loss.
#[derive(Debug)]
pub struct NexusHandle {
    target: Rc<Target>,
    attached: Rc<Attached>,
    role: Role,
}

/// Whose session it is.
enum Role {
    /// A client's, whose units are here.
    Client,
    /// The other node's.
    Forwarded,
    /// A client's, whose units may be at another node.
    Routed(Rc<Routes>),
}

impl std::fmt::Debug for Role {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(match self {
            Self::Client => "Client",
            Self::Forwarded => "Forwarded",
            Self::Routed(_) => "Routed",
        })
    }
}

impl Drop for NexusHandle {
    fn drop(&mut self) {
        for place in self.attached.places.take() {
            place.leave();
        }
    }
}

impl NexusHandle {
    /// The target.
    #[must_use]
    pub fn target(&self) -> &Rc<Target> {
        &self.target
    }

    fn place(&self, lun: u64) -> Option<Place> {
        let attach = match self.role {
            Role::Client => LogicalUnit::attach,
            Role::Forwarded | Role::Routed(_) => LogicalUnit::attach_continued,
        };
        self.attached.place(luns::decode_lun(lun)?, &self.target.units, attach)
    }

    /// The units it sees.
    fn seen(&self) -> Vec<Numbered> {
        self.target.seen_by(&self.attached)
    }

    /// Enters a command; `lun` are the eight bytes of the LUN field as a big-endian number, `tag` the initiator task
    /// tag. The order of calls is the order of the task set. Never blocks.
    pub fn begin(&self, lun: u64, tag: u32, attribute: TaskAttribute, cdb: [u8; 16]) -> Task {
        if let Role::Routed(routes) = &self.role {
            return routes.begin(lun, tag, attribute, cdb);
        }
        let is_forwarded = matches!(self.role, Role::Forwarded);
        // Where the rest is, if this is not all, only the other node has to know.
        let presence = if is_forwarded { self.target.presence() } else { Presence::Whole };
        if cdb[0] == opcode::REPORT_LUNS {
            return Task::answered(match presence {
                Presence::Whole => self.target.report_luns(&self.attached, &cdb),
                Presence::Part => in_part(self.target.report_luns(&self.attached, &cdb)),
                Presence::Unsettled => turned_away(),
            });
        }
        let Some(Place { unit, id, .. }) = self.place(lun) else {
            return Task::answered(match presence {
                Presence::Whole => nothing_here(&cdb),
                Presence::Part => not_in_this_part(),
                Presence::Unsettled => turned_away(),
            });
        };
        let begun = unit.core.borrow_mut().begin(id, tag, attribute, &cdb);
        let data_out_bytes = begun.data_out_bytes;
        let if_held = if is_forwarded { IfHeld::Leave } else { IfHeld::Wait };
        let on_unit = OnUnit::begun((unit, id), begun, Rc::clone(&self.target.name), if_held);
        if is_forwarded { Task::forwarded(on_unit, data_out_bytes) } else { Task::on_unit(on_unit, data_out_bytes) }
    }

    /// Carries out a task management function.
    pub async fn task_management(&self, function: TaskManagement, lun: u64, referenced: u32) -> TaskManagementResponse {
        if let Role::Routed(routes) = &self.role
            && let Some(response) = routes.manage(function, lun, referenced).await
        {
            return response;
        }
        match function {
            TaskManagement::TargetWarmReset => return self.reset_target(Reset::Unit).await,
            TaskManagement::TargetColdReset => return self.reset_target(Reset::Cold).await,
            TaskManagement::AbortTask
            | TaskManagement::AbortTaskSet
            | TaskManagement::ClearTaskSet
            | TaskManagement::LogicalUnitReset => (),
        }
        let Some(Place { unit, id, .. }) = self.place(lun) else { return TaskManagementResponse::LunDoesNotExist };
        let aborting = {
            let mut core = unit.core.borrow_mut();
            if function == TaskManagement::AbortTask {
                match core.abort_task(id, referenced) {
                    Some(task) => vec![task],
                    None => return TaskManagementResponse::TaskDoesNotExist,
                }
            } else if function == TaskManagement::LogicalUnitReset {
                core.reset(Reset::Unit)
            } else {
                core.abort_task_set(id)
            }
        };
        unit.look_again();
        unit.off_medium(&aborting).await;
        TaskManagementResponse::Complete
    }

    /// Resets what this nexus sees, which it could reset one by one as well. A cold reset also ends every session of the target, so it
    /// is left to those who see all of it: RFC 7143 §11.5.1 subjects it to access controls.
    async fn reset_target(&self, reset: Reset) -> TaskManagementResponse {
        let seen = self.seen();
        if reset == Reset::Cold && seen.len() < self.target.units.borrow().len() {
            return TaskManagementResponse::NotAuthorized;
        }
        let mut aborting = Vec::new();
        for Numbered { unit, .. } in &seen {
            aborting.push(unit.core.borrow_mut().reset(reset));
            unit.look_again();
        }
        for (Numbered { unit, .. }, tasks) in seen.iter().zip(&aborting) {
            unit.off_medium(tasks).await;
        }
        TaskManagementResponse::Complete
    }

    /// Ends the nexus and waits until nothing of it is at a medium any more.
    pub async fn close(self) {
        if let Role::Routed(routes) = &self.role {
            routes.close().await;
        }
        let places = self.attached.places.take();
        let leaving: Vec<(Rc<UnitOnMedium>, Vec<TaskId>)> =
            places.iter().map(|place| (Rc::clone(&place.unit), place.leave())).collect();
        for (unit, tasks) in leaving {
            unit.off_medium(&tasks).await;
        }
    }
}
