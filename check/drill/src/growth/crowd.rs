//! Clients that are there and do nothing: sessions, each of its own initiator, on one thread.

use std::rc::Rc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use tokio::sync::oneshot;
use tokio::task::LocalSet;
use understudy_disk::session::{Nexus, Options, Place, Request, Session, Transfer};
use understudy_iscsi::serial::Isid;
use understudy_load::LunAddress;
use understudy_scsi::luns::encode_lun;

/// How long everybody may take.
const GATHERED_WITHIN: Duration = Duration::from_secs(60);

/// Idle sessions ask after their target only after this: their pings are not what is measured.
const QUIET: Duration = Duration::from_secs(3_600);

/// Sessions that stay as long as this does, and come back when they are dropped.
#[derive(Debug)]
pub(super) struct Crowd {
    leave: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Crowd {
    /// Logs `sessions` in at the target of `address`; each sends TEST UNIT READY to every one of `luns` until it is GOOD.
    pub(super) fn gather(address: &LunAddress, sessions: usize, luns: &[u16]) -> anyhow::Result<Self> {
        let (leave, left) = oneshot::channel();
        let (gathered, all_there): (Sender<anyhow::Result<()>>, Receiver<anyhow::Result<()>>) = channel();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (address, luns) = (address.clone(), luns.to_vec());
        let thread = std::thread::spawn(move || {
            runtime.block_on(LocalSet::new().run_until(async {
                let crowd: Vec<Rc<Session>> = (0..sessions).map(|number| log_in(&address, number)).collect();
                let visits = crowd.iter().map(|session| visit(session, &luns));
                let visited = futures_util::future::try_join_all(visits).await;
                // Whoever waits for it may have given up.
                drop(gathered.send(visited.map(drop)));
                drop(left.await);
                futures_util::future::join_all(crowd.iter().map(|session| session.close())).await;
            }));
        });
        let crowd = Self { leave: Some(leave), thread: Some(thread) };
        all_there.recv_timeout(GATHERED_WITHIN).context("the crowd did not gather in time")??;
        Ok(crowd)
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        drop(self.leave.take());
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

fn log_in(address: &LunAddress, number: usize) -> Rc<Session> {
    let place = Place { portal: address.portal.to_string(), target: address.target.clone() };
    let nexus =
        Nexus { initiator_name: format!("{}-idle{number}", address.initiator), isid: Isid::random(0x75_7367, 1) };
    let options = Options { ping_after: QUIET, login_deadline: GATHERED_WITHIN, ..Options::default() };
    Session::start(place, nexus, options)
}

async fn visit(session: &Session, luns: &[u16]) -> anyhow::Result<()> {
    session.connected().await?;
    for lun in luns {
        // BOUND: a unit has a handful of unit attentions for a nexus, one an answer.
        for attempt in 0.. {
            let request = Request { cdb: [0; 16], transfer: Transfer::None, deadline: GATHERED_WITHIN };
            let answer = session.execute(encode_lun(*lun), request).await?;
            if answer.status == 0 {
                break;
            }
            ensure!(attempt < 16, "unit {lun} is not ready: status {:02x}", answer.status);
        }
    }
    if luns.is_empty() && session.link() == understudy_disk::disk::Link::Down {
        bail!("a session was lost at once");
    }
    Ok(())
}
