//! The names of steps, so that whoever records, groups and watches means the same thing.
//!
//! Further steps may be recorded under any other name: they are shown, and mean nothing to the grouping.

/// Value: the longest gap between two completed commands that this node measured, in microseconds.
pub const PAUSE: &str = "pause_micros";
/// A process published its page and begins to boot.
pub const BOOTING: &str = "booting";
/// The repaired node found that its pools belong to its partner and waits.
pub const GIVEWAIT: &str = "givewait";
/// The survivor read GIVEWAIT by RDMA.
pub const GIVEWAIT_READ: &str = "givewait-read";
/// The survivor released the reservations on the disks, "released N of N".
pub const RESERVATIONS_RELEASED: &str = "reservations-released";
/// The survivor's page announces the release.
pub const RELEASED: &str = "released";
/// The repaired node read RELEASED by RDMA.
pub const RELEASED_READ: &str = "released-read";
/// The repaired node checked the reservations itself.
pub const RELEASE_CHECKED: &str = "release-checked";
/// The repaired node initialises its disks.
pub const DISKINIT: &str = "diskinit";
/// The repaired node is ready for its pools.
pub const MBWAIT: &str = "mbwait";
/// The survivor read MBWAIT by RDMA.
pub const MBWAIT_READ: &str = "mbwait-read";
/// The survivor begins the giveback.
pub const GIVEBACK: &str = "giveback";
/// An operator asked for a giveback.
pub const GIVEBACK_ASKED: &str = "giveback-asked";
/// The commit stands on a majority of lock disks.
pub const COMMITTED: &str = "committed";
/// The repaired node read the commit.
pub const COMMIT_READ: &str = "commit-read";
/// The survivor has ceased to process requests for the repaired node.
pub const CEASED: &str = "ceased";
/// The disks of a pool are fenced for this node and read back.
pub const FENCED: &str = "fenced";
/// The node serves its own pools.
pub const UP: &str = "up";
/// The partner's page or link is gone, or it says that it ended.
pub const PARTNER_LOST: &str = "partner-lost";
/// The lock disks are contested.
pub const CONTEST: &str = "contest";
/// The node read that its partner wants its pools.
pub const WANT_READ: &str = "want-read";
/// An operator asked for a takeover.
pub const TAKEOVER_ASKED: &str = "takeover-asked";
/// The node serves its partner's pools.
pub const TAKEOVER: &str = "takeover";
/// The partner's machine was reported to have lost its power.
pub const POWER_LOSS_REPORTED: &str = "power-loss-reported";
/// It has not: a false alarm.
pub const POWER_LOSS_REFUTED: &str = "power-loss-refuted";
