//! The way to one LUN: how a client gets a session, and gets another one after it was lost.

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use futures_util::future::LocalBoxFuture;
use understudy_disk::disk::{Disk, DiskError};
use understudy_disk::lun::IscsiLun;
use understudy_disk::session::{Nexus, Options, Place, Reconnect};
use understudy_disk::url::LunUrl;
use understudy_iscsi::serial::Isid;

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

/// The same for every session, so that a new one pushes the old one out.
const CLIENT_ISID: Isid = Isid::random(0x75_736c, 1);

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
        Box::pin(async move {
            let lun = IscsiLun::open(&self.url(), self.nexus(), self.options());
            lun.session().connected().await?;
            let login = lun.session().link();
            // The LUN is ready once its size is known; the session may be lost before that.
            tokio::select! {
                biased;
                ready = lun.ready(self.deadlines.login) => ready?,
                _ = lun.session().link_changed(login) => {
                    return Err(DiskError::Unreachable(lun.session().last_trouble()));
                }
            }
            lun.geometry()?;
            Ok(lun as Rc<dyn Disk>)
        })
    }
}

impl IscsiRoute {
    fn url(&self) -> LunUrl {
        let place = Place { portal: self.address.portal.to_string(), target: self.address.target.clone() };
        LunUrl { place, lun: self.address.lun }
    }

    fn nexus(&self) -> Nexus {
        Nexus { initiator_name: self.address.initiator.clone(), isid: CLIENT_ISID }
    }

    /// One session per connect: trying again is the caller's, so that it can be counted.
    fn options(&self) -> Options {
        Options {
            command_deadline: self.deadlines.command,
            login_deadline: self.deadlines.login,
            reconnect: Reconnect::Never,
            ..Options::default()
        }
    }
}
