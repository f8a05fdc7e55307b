//! The way to one LUN: how a client gets a session, and gets another one after it was lost.

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use futures_util::future::LocalBoxFuture;
use understudy_disk::disk::{Disk, DiskError};

/// Where a LUN is, and as whom to log in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LunAddress {
    /// Address and port of the portal.
    pub portal: SocketAddr,
    /// iSCSI name of the target.
    pub target: String,
    /// LUN number.
    pub lun: u16,
    /// iSCSI name of the client.
    pub initiator: String,
}

/// Something that can be connected to again and again. A session that was dropped must not carry out anything more
/// once the next one is up: over iSCSI, the same initiator name and ISID see to that (session reinstatement,
/// RFC 7143 §6.3.5).
pub trait Route {
    /// Logs in once, without trying again, and asks the geometry.
    fn connect(&self) -> LocalBoxFuture<'_, Result<Rc<dyn Disk>, DiskError>>;
}

/// How long the parts of an exchange may take.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Deadlines {
    /// Connection and login together.
    pub(crate) login: Duration,
    /// One command, from issue to answer.
    pub(crate) command: Duration,
}

/// One iSCSI session per connect, with the same initiator name and ISID every time.
pub(crate) struct IscsiRoute {
    address: LunAddress,
    deadlines: Deadlines,
}

impl IscsiRoute {
    pub(crate) fn new(address: LunAddress, deadlines: Deadlines) -> Self {
        Self { address, deadlines }
    }
}

impl Route for IscsiRoute {
    fn connect(&self) -> LocalBoxFuture<'_, Result<Rc<dyn Disk>, DiskError>> {
        let (target, command) = (&self.address.target, self.deadlines.command);
        Box::pin(async move { Err(DiskError::Unreachable(format!("{target}: no initiator yet ({command:?})"))) })
    }
}
