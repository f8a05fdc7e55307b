//! Disks as a node reaches them: the [`disk::Disk`] boundary and its back ends.
pub mod disk;
pub mod reservation;
