//! The pool disks as this node reaches them, pool by pool and leg by leg.

use std::collections::BTreeMap;
use std::rc::Rc;

use understudy_disk::disk::Disk;
use understudy_failover::words::{LegIndex, LegSet, PoolId};
use understudy_pool::LegPlace;

use crate::config::Config;

/// Number of a pool on the wire and in records.
#[must_use]
pub fn pool_id(number: u16) -> PoolId {
    PoolId(u32::from(number))
}

/// A disk and its place in its pool.
#[derive(Clone)]
pub struct PlacedDisk {
    /// Mirror and leg.
    pub place: LegPlace,
    /// The disk there.
    pub disk: Rc<dyn Disk>,
}

/// Every disk of every pool.
pub struct PoolDisks {
    /// In the order of the configuration.
    all: Vec<Rc<dyn Disk>>,
    /// Mirrors of each pool, as places in `all`.
    mirrors: BTreeMap<PoolId, Vec<Vec<usize>>>,
}

impl PoolDisks {
    /// The disks of `config`, opened in its order.
    #[must_use]
    pub fn new(config: &Config, all: Vec<Rc<dyn Disk>>) -> Self {
        let mirrors = config.pools.iter().map(|pool| (pool_id(pool.id), pool.mirrors.clone())).collect();
        Self { all, mirrors }
    }

    /// Every disk, in the order of the configuration.
    #[must_use]
    pub fn all(&self) -> &[Rc<dyn Disk>] {
        &self.all
    }

    /// Every disk of a pool.
    #[must_use]
    pub fn of_pool(&self, pool: PoolId) -> Vec<Rc<dyn Disk>> {
        let mirrors = self.mirrors.get(&pool).into_iter().flatten();
        mirrors.flatten().map(|place| Rc::clone(&self.all[*place])).collect()
    }

    /// Every disk of a pool with its place.
    #[must_use]
    pub fn placed_of(&self, pool: PoolId) -> Vec<PlacedDisk> {
        let mirrors = self.mirrors.get(&pool).map_or(0, Vec::len);
        self.good_of(pool, &vec![LegSet(u8::MAX); mirrors])
    }

    /// Every disk of some pools.
    #[must_use]
    pub fn of_pools(&self, pools: &[PoolId]) -> Vec<Rc<dyn Disk>> {
        pools.iter().flat_map(|pool| self.of_pool(*pool)).collect()
    }

    /// The disks of a pool whose legs are *not* in the sets, one set a mirror.
    #[must_use]
    pub fn dropped_of(&self, pool: PoolId, good: &[LegSet]) -> Vec<PlacedDisk> {
        let dropped: Vec<_> = good.iter().map(|legs| LegSet(!legs.0)).collect();
        self.good_of(pool, &dropped)
    }

    /// The disks of a pool whose legs are in the sets, one set a mirror.
    #[must_use]
    pub fn good_of(&self, pool: PoolId, good: &[LegSet]) -> Vec<PlacedDisk> {
        let mirrors = self.mirrors.get(&pool).into_iter().flatten().zip(good);
        let legs = (0u16..).zip(mirrors).flat_map(|(mirror, (legs, good))| {
            let placed = (0u8..).zip(legs).filter(|(leg, _)| good.contains(LegIndex(*leg)));
            placed.map(move |(leg, disk)| (LegPlace { mirror, leg }, *disk))
        });
        legs.map(|(place, disk)| PlacedDisk { place, disk: Rc::clone(&self.all[disk]) }).collect()
    }
}
