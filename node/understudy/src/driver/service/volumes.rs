//! Volumes as operators make, protect and delete them: in the pool's metadata and behind its target, one change at a time.

use understudy_layout::Uuid;
use understudy_layout::allocate::AllocateError;
use understudy_pool::{Protection, Provisioning, VolumeError, VolumeSummary, VolumeWish};

use super::units::ListIs;
use super::{PoolId, Rc, Service, VolumeUnit};

/// Why a volume was not made, changed or deleted.
#[derive(Debug, thiserror::Error)]
pub enum CreateError {
    /// The pool is not served by this node.
    #[error("the pool is not served by this node")]
    NotHere,
    /// Its target's pools are at both nodes, so a number that is free here may be taken there.
    #[error("the pools of this home are at both nodes, and a number that is free here may be taken there")]
    InPart,
    /// The pool refused.
    #[error(transparent)]
    Refused(#[from] VolumeError),
}

impl Service {
    /// Makes a volume in an open pool and serves it at once.
    ///
    /// # Errors
    /// What the pool says against it.
    pub async fn create_volume(
        &self,
        id: PoolId,
        name: &str,
        bytes: u64,
        provisioning: Provisioning,
    ) -> Result<VolumeSummary, CreateError> {
        let _turn = self.turn(id).await;
        let opened = self.opened(id).ok_or(CreateError::NotHere)?;
        if self.is_in_part(id) {
            return Err(CreateError::InPart);
        }
        let block_bytes = opened.pool.metadata().block_bytes;
        let blocks = bytes.div_ceil(u64::from(block_bytes));
        let wish = VolumeWish { name: name.to_owned(), lun: self.free_lun(id), block_bytes, blocks, provisioning };
        let volume = opened.pool.create_volume(wish).await?;
        self.add_unit(id, &opened, &volume);
        self.show_units(id, &opened, ListIs::Longer);
        Ok(volume)
    }

    /// The lowest LUN that no volume behind this pool's target has.
    pub(super) fn free_lun(&self, id: PoolId) -> Option<u16> {
        let taken = self.identity_of(id)?.target.luns();
        // They ascend: the first one that is not where it would be without a gap tells where the gap is.
        let gap = (0..u16::MAX).zip(&taken).find(|(lun, taken)| lun != *taken);
        gap.map(|(lun, _)| lun).or_else(|| u16::try_from(taken.len()).ok())
    }

    /// Protects a volume of an open pool against writes, or lets clients write again. Once it is protected, nothing writes that was
    /// under way before.
    ///
    /// # Errors
    /// What the pool says against it; then it is as it was.
    pub async fn protect_volume(&self, id: PoolId, uuid: Uuid, protection: Protection) -> Result<(), CreateError> {
        let _turn = self.turn(id).await;
        let opened = self.opened(id).ok_or(CreateError::NotHere)?;
        let known = opened.pool.volumes().into_iter().find(|volume| volume.uuid == uuid);
        let before = known.ok_or(VolumeError::Allocate(AllocateError::NoSuchVolume(uuid)))?.protection;
        let unit = opened.units.borrow().get(&uuid).map(|known| Rc::clone(&known.unit));
        if let (Protection::WriteProtected, Some(unit)) = (protection, &unit) {
            // Before it is kept: a write that is answered after a new owner may have read that there is none would be one too many.
            unit.write_protect().await;
        }
        let kept = opened.pool.protect_volume(uuid, protection).await;
        let now = if kept.is_ok() { protection } else { before };
        if let (Protection::Writable, Some(unit)) = (now, &unit) {
            unit.allow_writes();
        }
        Ok(kept?)
    }

    /// Deletes a volume of an open pool.
    ///
    /// # Errors
    /// What the pool says against it.
    pub async fn delete_volume(&self, id: PoolId, uuid: Uuid) -> Result<(), CreateError> {
        let _turn = self.turn(id).await;
        let opened = self.opened(id).ok_or(CreateError::NotHere)?;
        let known = opened.units.borrow_mut().remove(&uuid);
        if let Some(VolumeUnit { lun, unit, .. }) = known {
            if let Some(place) = self.identity_of(id) {
                place.target.remove(lun);
            }
            unit.fence();
        }
        Ok(opened.pool.delete_volume(uuid).await?)
    }
}
