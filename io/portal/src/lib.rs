//! Portals: TCP listeners that serve iSCSI targets.
//!
//! A portal moves bytes between sockets and [`understudy_session`]'s target half, which decides everything about the
//! protocol, and gives the commands that come out of it to the SCSI targets of [`understudy_device`]. No SCSI and no
//! iSCSI decision is made here.
//!
//! Everything runs on one thread inside a `LocalSet`.

mod chance;
mod connection;
mod control;
mod crowded;
mod data;
mod eager;
mod farewell;
mod gate;
mod heap;
mod listener;
mod portal;
mod registry;
mod steer;
mod wire;

pub use chance::{ChanceSource, from_system};
pub use data::{DataMover, DataReach};
pub use gate::LoginGate;
pub use listener::Presence;
pub use portal::{Portal, PortalCounters, PortalError, PortalOptions};
pub use registry::{Opener, Way};
pub use understudy_session::secret;
pub use understudy_session::target::parameters::{DigestOffer, Offer};
pub use understudy_session::target::{Chance, Limits, access};
pub use wire::{Acceptor, Wire};
