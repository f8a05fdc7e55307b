//! Looking at all disks at once: who they are, what they carry, and whether the partner lets us read them.
//!
//! Only reads. A disk reserved exclusively by the partner shows as [`Finding::Conflict`]: that is the sign for a
//! booting node to go back and wait, not an error of the disk.

use std::rc::Rc;

use futures_util::stream::{self, StreamExt as _};
use understudy_disk::disk::{Disk, DiskError, DiskIdentity, Extent, Geometry};
use understudy_layout::gpt::{Contents, INSPECTED_BYTES, inspect};
use understudy_layout::label::{Label, LabelError, Role};
use understudy_layout::{DiskShape, Span, Uuid, inventory_digest};

/// What a disk turned out to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finding {
    /// It carries a label of ours.
    Ours(Label),
    /// Both ends are zeroes.
    Blank,
    /// It carries something else; the text says what.
    Foreign(&'static str),
    /// It carries a label of ours that is not usable.
    Damaged(LabelError),
    /// Reserved by another node so that even reads are refused.
    Conflict,
    /// It could not be asked.
    Failed(DiskError),
}

/// One disk looked at.
pub struct Discovered {
    /// The disk.
    pub disk: Rc<dyn Disk>,
    /// Who it says it is, if it could be asked; works on reserved disks, too.
    pub identity: Option<DiskIdentity>,
    /// Its geometry, if it could be asked.
    pub geometry: Option<Geometry>,
    /// What it carries.
    pub finding: Finding,
}

/// A disk with a label of a pool.
#[derive(Clone)]
pub struct PoolDisk {
    /// The disk.
    pub disk: Rc<dyn Disk>,
    /// Its label.
    pub label: Label,
}

/// How far a discovery is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    /// Disks looked at.
    pub done: usize,
    /// All disks.
    pub of: usize,
    /// The one just looked at.
    pub name: String,
}

/// Everything found, in the order the disks were given.
pub struct Inventory {
    /// One entry a disk.
    pub disks: Vec<Discovered>,
}

impl Inventory {
    /// Equal on both nodes exactly when they found the same pool disks with the same sizes; see
    /// [`inventory_digest`]. Lock disks are not part of it.
    #[must_use]
    pub fn digest(&self) -> u64 {
        let pool_disks = self.labels().filter(|(_, label)| matches!(label.role, Role::PoolLeg { .. }));
        let disks: Vec<_> = pool_disks
            .map(|(found, label)| {
                let size = found.geometry.map_or(0, |geometry| geometry.blocks * u64::from(geometry.block_bytes));
                (label.disk, size)
            })
            .collect();
        inventory_digest(&disks)
    }

    /// Disks reserved by another node.
    pub fn conflicts(&self) -> impl Iterator<Item = &Discovered> {
        self.disks.iter().filter(|found| found.finding == Finding::Conflict)
    }

    /// Number of disks with a label of ours.
    #[must_use]
    pub fn found(&self) -> usize {
        self.labels().count()
    }

    /// The disks of one pool, for [`crate::Pool::load`].
    #[must_use]
    pub fn pool_disks(&self, pool: Uuid) -> Vec<PoolDisk> {
        self.labels()
            .filter(|(_, label)| matches!(label.role, Role::PoolLeg { pool: of, .. } if of == pool))
            .map(|(found, label)| PoolDisk { disk: Rc::clone(&found.disk), label: label.clone() })
            .collect()
    }

    /// Every pool some disk names, with the name on its label.
    #[must_use]
    pub fn pools(&self) -> Vec<(Uuid, String)> {
        let mut pools: Vec<_> = self
            .labels()
            .filter_map(|(_, label)| match &label.role {
                Role::PoolLeg { pool, pool_name, .. } => Some((*pool, pool_name.clone())),
                Role::Lock { .. } => None,
            })
            .collect();
        pools.sort();
        pools.dedup_by_key(|(pool, _)| *pool);
        pools
    }

    fn labels(&self) -> impl Iterator<Item = (&Discovered, &Label)> {
        self.disks.iter().filter_map(|found| match &found.finding {
            Finding::Ours(label) => Some((found, label)),
            Finding::Blank | Finding::Foreign(_) | Finding::Damaged(_) | Finding::Conflict | Finding::Failed(_) => None,
        })
    }
}

/// Looks at every disk, `at_once` of them side by side, and tells `progress` after each.
pub async fn discover(disks: Vec<Rc<dyn Disk>>, at_once: usize, mut progress: impl FnMut(Progress)) -> Inventory {
    let of = disks.len();
    let mut looks = stream::iter(disks.into_iter().enumerate())
        .map(|(at, disk)| async move { (at, look(disk).await) })
        .buffer_unordered(at_once.max(1));
    let mut found = Vec::with_capacity(of);
    while let Some((at, discovered)) = looks.next().await {
        progress(Progress { done: found.len() + 1, of, name: discovered.disk.name().to_owned() });
        found.push((at, discovered));
    }
    drop(looks);
    found.sort_by_key(|(at, _)| *at);
    Inventory { disks: found.into_iter().map(|(_, discovered)| discovered).collect() }
}

/// Looks at one disk.
async fn look(disk: Rc<dyn Disk>) -> Discovered {
    let identity = disk.identify().await.ok();
    let geometry = disk.probe().await;
    let finding = match &geometry {
        Ok(geometry) => examine(&*disk, *geometry).await.unwrap_or_else(of_error),
        Err(error) => of_error(error.clone()),
    };
    Discovered { disk, identity, geometry: geometry.ok(), finding }
}

fn of_error(error: DiskError) -> Finding {
    match error {
        DiskError::Conflict => Finding::Conflict,
        other => Finding::Failed(other),
    }
}

pub(crate) fn shape_of(geometry: Geometry) -> DiskShape {
    DiskShape { block_bytes: geometry.block_bytes, blocks: geometry.blocks }
}

pub(crate) fn extent_of(geometry: Geometry, span: Span) -> Result<Extent, DiskError> {
    let outside = || DiskError::Protocol("range past the end of the disk".into());
    Extent::within(geometry, span.lba, span.blocks).ok_or_else(outside)
}

/// What stands on a disk of this geometry.
pub(crate) async fn examine(disk: &dyn Disk, geometry: Geometry) -> Result<Finding, DiskError> {
    let shape = shape_of(geometry);
    if let Some([first, second]) = Label::places(shape) {
        let first = disk.read(extent_of(geometry, first)?).await?;
        let second = disk.read(extent_of(geometry, second)?).await?;
        match Label::decode(shape, [&first, &second]) {
            Ok(label) => return Ok(Finding::Ours(label)),
            Err(LabelError::Absent) => {}
            Err(error) => return Ok(Finding::Damaged(error)),
        }
    }
    let inspected = shape.bytes().min(INSPECTED_BYTES as u64);
    let tail_offset = shape.bytes() - inspected;
    let (Some(head), Some(tail)) = (shape.span(0, inspected), shape.span(tail_offset, inspected)) else {
        return Ok(Finding::Foreign("blocks of a size we do not use"));
    };
    let head = disk.read(extent_of(geometry, head)?).await?;
    let tail = disk.read(extent_of(geometry, tail)?).await?;
    Ok(match inspect(shape, &head, &tail) {
        Contents::Blank => Finding::Blank,
        Contents::Ours(_) => Finding::Damaged(LabelError::Absent),
        Contents::Foreign(what) => Finding::Foreign(what),
    })
}
