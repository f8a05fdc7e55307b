//! A session with the other node that is opened when the first command needs it: most never do, where the units of a target are usually all here.

use std::cell::RefCell;
use std::rc::Rc;

use futures_util::future::LocalBoxFuture;

use super::{Carried, Elsewhere, Sent};
use crate::event::Event;
use crate::target::{TaskManagement, TaskManagementResponse};

/// See the module.
pub struct OnDemand {
    open: Box<dyn Fn() -> Rc<dyn Elsewhere>>,
    line: RefCell<Option<Rc<dyn Elsewhere>>>,
    opened: Event,
}

impl OnDemand {
    /// `open` opens it, once.
    #[must_use]
    pub fn opened_by(open: impl Fn() -> Rc<dyn Elsewhere> + 'static) -> Rc<dyn Elsewhere> {
        Rc::new(Self { open: Box::new(open), line: RefCell::default(), opened: Event::default() })
    }

    fn line(&self) -> Option<Rc<dyn Elsewhere>> {
        self.line.borrow().clone()
    }
}

impl Elsewhere for OnDemand {
    fn need(&self) {
        if self.line.borrow().is_none() {
            let line = (self.open)();
            *self.line.borrow_mut() = Some(line);
            self.opened.signal();
        }
    }

    fn session(&self) -> Option<u64> {
        self.line()?.session()
    }

    fn changed(&self, seen: Option<u64>) -> LocalBoxFuture<'_, ()> {
        Box::pin(async move {
            let line = self.opened.until(|| self.line()).await;
            line.changed(seen).await;
        })
    }

    fn send(&self, command: &Carried) -> Option<Sent> {
        self.line()?.send(command)
    }

    fn manage(
        &self,
        function: TaskManagement,
        lun: u64,
        referenced: Option<u32>,
    ) -> LocalBoxFuture<'_, Option<TaskManagementResponse>> {
        Box::pin(async move { self.line()?.manage(function, lun, referenced).await })
    }

    fn close(&self) -> LocalBoxFuture<'_, ()> {
        Box::pin(async move {
            if let Some(line) = self.line() {
                line.close().await;
            }
        })
    }
}
