//! A simulated shelf: one disk, one process, the product's own logical unit, target and portal in front of a [`SimMedium`].
//!
//! Each disk has a shelf of its own, so that each can be cut off, restarted and lose power alone.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;

use tokio::task::spawn_local;
use understudy_device::{Target, UnitIdentity, UnitOnMedium, UnitOptions};
use understudy_portal::{Limits, LoginGate, Portal, PortalOptions};

use crate::medium::SimMedium;
use crate::network::{Host, Net};
use crate::process::{End, Process};

/// The shelf of one disk.
pub struct Shelf {
    number: usize,
    net: Rc<Net>,
    window: u32,
    /// What outlives the process.
    pub medium: Rc<SimMedium>,
    running: RefCell<Option<Running>>,
}

struct Running {
    process: Process,
    unit: Rc<UnitOnMedium>,
    portal: Portal,
    target: String,
}

impl Shelf {
    /// A shelf that is off; its initiators may have `window` commands under way.
    #[must_use]
    pub fn new(number: usize, net: &Rc<Net>, medium: Rc<SimMedium>, window: u32) -> Rc<Self> {
        Rc::new(Self { number, net: Rc::clone(net), window, medium, running: RefCell::default() })
    }

    /// Where it is reached.
    #[must_use]
    pub fn address(number: usize) -> SocketAddr {
        SocketAddr::new([10, 1, 0, 1 + number as u8].into(), 3260)
    }

    /// The iSCSI name of its target.
    #[must_use]
    pub fn target(number: usize) -> String {
        format!("iqn.2026-01.sim:disk{number}")
    }

    /// Starts it, unless it runs.
    pub fn start(self: &Rc<Self>) {
        if self.running.borrow().is_some() {
            return;
        }
        self.net.host_is_up(Host::Shelf(self.number));
        let process = Process::new();
        let (me, ours) = (Rc::clone(self), process.clone());
        spawn_local(async move {
            let work = me.clone().serve(ours.clone());
            ours.run(work).await;
        });
    }

    async fn serve(self: Rc<Self>, process: Process) {
        let uuid = [0x51 + self.number as u8; 16];
        let options = UnitOptions::new(UnitIdentity { uuid, product: "SIM DISK".to_owned() });
        let kept = self.medium.kept();
        let unit =
            UnitOnMedium::new(options, Rc::clone(&self.medium) as _, kept.as_deref()).expect("its own state is sound");
        let name = Self::target(self.number);
        let target = Target::new(name.as_str());
        target.add(0, Rc::clone(&unit)).expect("an empty target has room");
        let limits = Limits { window: self.window, ..Limits::default() };
        let listener = self.net.listen(Self::address(self.number), Host::Shelf(self.number), &process);
        let portal = Portal::on(listener, PortalOptions { limits, ..PortalOptions::default() });
        portal.add_target(target, LoginGate::opened());
        *self.running.borrow_mut() = Some(Running { process, unit, portal, target: name });
        std::future::pending::<()>().await;
    }

    /// Ends it. After a loss of power what was in its cache is gone in part.
    pub fn end(&self, how: End) {
        let Some(running) = self.running.borrow_mut().take() else { return };
        running.process.end(how);
        drop(running);
        match how {
            End::PowerLost => self.medium.lose_power(),
            End::Killed => self.medium.abandon(),
        }
    }

    /// It stands still.
    pub fn stop(&self) {
        self.running.borrow().iter().for_each(|running| running.process.stop());
    }

    /// It goes on.
    pub fn go_on(&self) {
        self.running.borrow().iter().for_each(|running| running.process.go_on());
    }

    /// Breaks every session off.
    pub fn drop_sessions(&self) {
        if let Some(running) = self.running.borrow().as_ref() {
            // However many there were.
            let _ = running.portal.drop_sessions(&running.target);
        }
    }

    /// From now on an initiator may have so many commands in its task set; until it is started again.
    pub fn allow_tasks(&self, most: u32) {
        self.running.borrow().iter().for_each(|running| running.unit.allow_tasks(most));
    }

    /// The logical unit, while it runs.
    #[must_use]
    pub fn unit(&self) -> Option<Rc<UnitOnMedium>> {
        self.running.borrow().as_ref().map(|running| Rc::clone(&running.unit))
    }
}
