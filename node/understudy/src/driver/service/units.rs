//! The units of a pool: made while it is warm, put behind its target when it is opened, let go when it is closed.
//!
//! Problem: a pool of a thousand volumes is to change hands as fast as one of four, and what a unit keeps must be what is on the disks
//! now.
//!
//! Idea: everything done for each volume is done while the partner serves. In the pause the pool is asked whether its metadata is still the
//! very object that all units were made of; then they are put behind the target together and their common gate is opened. If it is another
//! one, each unit is compared with it, and what does not fit is made anew.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::{Rc, Weak};

use understudy_device::{
    Access, Audience, CommonGate, Gate, Keep, OpenError, Provisioning, Target, UnitIdentity, UnitOnMedium, UnitOptions,
};
use understudy_failover::words::{Generation, PoolId};
use understudy_layout::Uuid;
use understudy_layout::metadata::Metadata;
use understudy_pool::{self as pool, Pool, VolumeMedium, VolumeSummary};
use understudy_scsi::alua::PortGroup;

#[cfg(feature = "mistakes")]
use super::super::mistakes;
use super::Service;

/// Units made or let go without a look at anything else: a fraction of a millisecond.
const AT_ONCE: usize = 32;

/// A pool whose metadata is loaded.
pub struct OpenPool {
    /// The pool itself.
    pub pool: Rc<Pool>,
    /// In front of all its units: held until the pool is served.
    pub(super) gate: Rc<CommonGate>,
    /// Its volumes as logical units, by volume.
    pub units: RefCell<BTreeMap<Uuid, VolumeUnit>>,
    /// Those of them that are not behind the target yet, by number: nobody is to see them before the pool is this node's.
    unseen: RefCell<Vec<Unseen>>,
    /// Whether all others are.
    is_shown: Cell<bool>,
    /// The metadata all of them were made of or compared with.
    made_of: RefCell<Weak<Metadata>>,
    pub(super) generation: Cell<Generation>,
}

/// What a target is given of a unit.
type Unseen = (u16, Rc<UnitOnMedium>, Audience);

/// What the list of a target's units is when some are put behind it.
pub(super) enum ListIs {
    /// There are new ones.
    Longer,
    /// They come from the other node.
    AsItWas,
}

/// A volume as a logical unit.
pub struct VolumeUnit {
    /// Its number.
    pub lun: u16,
    /// The unit.
    pub unit: Rc<UnitOnMedium>,
    /// What it is on.
    medium: Rc<VolumeMedium>,
}

impl VolumeUnit {
    /// Whether it is what would be made of this volume now, but for its protection.
    fn is_of(&self, volume: &VolumeSummary, medium: &Rc<VolumeMedium>) -> bool {
        self.lun == volume.lun
            && Rc::ptr_eq(&self.medium, medium)
            && self.unit.look(|unit| unit.has_kept(&medium.kept_state()))
    }
}

impl OpenPool {
    /// Whether commands pass: the pool is served here.
    #[must_use]
    pub fn is_answering(&self) -> bool {
        self.gate.gate() == Gate::Open
    }

    /// Whether its volumes are behind their target.
    pub(super) fn is_shown(&self) -> bool {
        self.is_shown.get()
    }

    pub(super) fn new(pool: Rc<Pool>, generation: Generation) -> Rc<Self> {
        Rc::new(Self {
            pool,
            gate: CommonGate::held(),
            units: RefCell::default(),
            unseen: RefCell::default(),
            is_shown: Cell::new(false),
            made_of: RefCell::default(),
            generation: Cell::new(generation),
        })
    }

    /// Whether there is a unit of each volume, and all of them are of the metadata in force: the same object, so that not one of a
    /// thousand has to be looked at.
    fn is_made(&self) -> bool {
        let metadata = self.pool.metadata();
        self.made_of.borrow().ptr_eq(&Rc::downgrade(&metadata)) && self.units.borrow().len() == metadata.volumes.len()
    }

    fn note_made(&self) {
        *self.made_of.borrow_mut() = Rc::downgrade(&self.pool.metadata());
    }

    /// The unit of a volume, behind the pool's gate and seen by nobody yet.
    fn make_unit(&self, volume: &VolumeSummary, audience: Audience, groups: Vec<PortGroup>) -> Result<(), OpenError> {
        let Some(medium) = self.pool.medium(volume.uuid) else { return Ok(()) };
        let kept = medium.kept_state();
        let kept = Some(kept.as_slice()).filter(|kept| !kept.is_empty());
        let below = Rc::clone(&medium);
        #[cfg(feature = "mistakes")]
        let below = mistakes::before(below);
        let unit = UnitOnMedium::behind(&self.gate, unit_options(&self.pool, volume), below, kept)?;
        unit.reached_by(groups);
        self.unseen.borrow_mut().push((volume.lun, Rc::clone(&unit), audience));
        self.units.borrow_mut().insert(volume.uuid, VolumeUnit { lun: volume.lun, unit, medium });
        Ok(())
    }

    /// Takes away the units that are not what would be made of their volumes now. None of them was ever let through.
    fn remove_stale(&self, target: &Target, volumes: &[VolumeSummary]) {
        let now: BTreeMap<Uuid, &VolumeSummary> = volumes.iter().map(|volume| (volume.uuid, volume)).collect();
        let is_fresh = |uuid: &Uuid, known: &VolumeUnit| {
            let medium = self.pool.medium(*uuid);
            now.get(uuid).zip(medium).is_some_and(|(volume, medium)| known.is_of(volume, &medium))
        };
        let mut gone = BTreeSet::new();
        self.units.borrow_mut().retain(|uuid, known| {
            let stays = is_fresh(uuid, known);
            if !stays {
                known.unit.fence();
                gone.insert(known.lun);
            }
            stays
        });
        let unseen = self.unseen.take();
        let (never_seen, unseen): (Vec<_>, Vec<_>) = unseen.into_iter().partition(|(lun, ..)| gone.contains(lun));
        self.unseen.replace(unseen);
        for (lun, ..) in never_seen {
            gone.remove(&lun);
        }
        if !gone.is_empty() {
            target.remove_all(|lun| gone.contains(&lun));
        }
    }

    /// All its units, which it has no longer.
    fn take_units(&self) -> Vec<Rc<UnitOnMedium>> {
        let seen = self.units.take().into_values().map(|known| known.unit);
        let unseen = self.unseen.take().into_iter().map(|(_, unit, _)| unit);
        seen.chain(unseen).collect()
    }
}

impl Service {
    /// Makes the units of a warm pool. A few at a time: this node may be serving others.
    pub(super) async fn make_units(&self, id: PoolId, warm: &OpenPool) {
        warm.note_made();
        let groups = self.home_of(id).map(|home| self.groups_of(home)).unwrap_or_default();
        for volumes in warm.pool.volumes().chunks(AT_ONCE) {
            for volume in volumes {
                let is_there = warm.units.borrow().contains_key(&volume.uuid);
                if !is_there {
                    // One that cannot be made is tried again when the pool is opened, and told of then.
                    let _ = warm.make_unit(volume, self.audience_of(volume), groups.clone());
                }
            }
            tokio::task::yield_now().await;
            if !warm.made_of.borrow().ptr_eq(&Rc::downgrade(&warm.pool.metadata())) {
                // Opened meanwhile, with other metadata: its units were made by that.
                return;
            }
        }
    }

    fn audience_of(&self, volume: &VolumeSummary) -> Audience {
        self.config.audiences.of(&volume.name).clone()
    }

    /// Brings the units of a pool that is being opened in line with its metadata and puts them behind the target of its home, held.
    pub(super) async fn bring_in_line(&self, id: PoolId, opened: &OpenPool) {
        let Some(place) = self.identity_of(id) else { return };
        if !opened.is_made() {
            let volumes = opened.pool.volumes();
            opened.remove_stale(&place.target, &volumes);
            for volume in &volumes {
                let known = opened.units.borrow().get(&volume.uuid).map(|known| Rc::clone(&known.unit));
                match (known, volume.protection) {
                    (None, _) => self.add_unit(id, opened, volume),
                    (Some(unit), pool::Protection::Writable) => unit.allow_writes(),
                    // Held since it was made, so nothing is under way.
                    (Some(unit), pool::Protection::WriteProtected) => unit.write_protect().await,
                }
            }
            opened.note_made();
        }
        self.show_units(id, opened, ListIs::AsItWas);
        opened.is_shown.set(true);
        self.pools_moved();
    }

    /// Makes the unit of a volume, or says why there is none.
    pub(super) fn add_unit(&self, id: PoolId, opened: &OpenPool, volume: &VolumeSummary) {
        let groups = self.home_of(id).map(|home| self.groups_of(home)).unwrap_or_default();
        if let Err(error) = opened.make_unit(volume, self.audience_of(volume), groups) {
            tracing::error!("volume {} is not served: {error}", volume.name);
        }
    }

    /// Puts units that nobody saw yet behind the target of their pool's home.
    pub(super) fn show_units(&self, id: PoolId, opened: &OpenPool, change: ListIs) {
        let Some(place) = self.identity_of(id) else { return };
        let unseen = opened.unseen.take();
        let taken = match change {
            ListIs::Longer => place.target.add_all(unseen),
            ListIs::AsItWas => place.target.arrive(unseen),
        };
        for taken in taken {
            tracing::error!("a volume is not served: its target has LUN {} already", taken.0);
            opened.units.borrow_mut().retain(|_, known| known.lun != taken.0);
        }
    }

    /// Takes a pool's units from everybody; what is held is dropped without an answer.
    pub(super) fn take_down(&self, id: PoolId, opened: &OpenPool) {
        opened.gate.fence();
        let luns: BTreeSet<u16> = opened.units.borrow().values().map(|known| known.lun).collect();
        let unseen = opened.unseen.borrow().iter().map(|(lun, ..)| *lun).collect::<BTreeSet<_>>();
        let is_behind = |lun: u16| luns.contains(&lun) && !unseen.contains(&lun);
        let gone = self.identity_of(id).map(|place| place.target.depart(is_behind));
        opened.pool.stop();
        tokio::task::spawn_local(let_go([opened.take_units(), gone.unwrap_or_default()]));
    }
}

/// Lets units go a few at a time: the partner's clients are being answered on the same machine's time, and this node's own as well.
async fn let_go(units: [Vec<Rc<UnitOnMedium>>; 2]) {
    for mut units in units {
        // BOUND: each round lets some go.
        while !units.is_empty() {
            units.truncate(units.len().saturating_sub(AT_ONCE));
            tokio::task::yield_now().await;
        }
    }
}

/// What a volume is as a unit.
fn unit_options(pool: &Pool, volume: &VolumeSummary) -> UnitOptions {
    let identity = UnitIdentity { uuid: volume.uuid.0, product: "VOLUME".to_owned() };
    UnitOptions {
        keep: Keep::Always,
        provisioning: match volume.provisioning {
            pool::Provisioning::Thick => Provisioning::Full,
            pool::Provisioning::Thin => Provisioning::Thin,
        },
        unmap_granularity_bytes: pool.metadata().chunk_bytes,
        access: match volume.protection {
            pool::Protection::Writable => Access::ReadWrite,
            pool::Protection::WriteProtected => Access::WriteProtected,
        },
        ..UnitOptions::new(identity)
    }
}
