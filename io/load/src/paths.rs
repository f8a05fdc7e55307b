//! The ways a client has to one LUN: one line each, and which of them the next command takes.
//!
//! The first line that is up, in the order given: the first is to be the optimised one. A command whose line was lost is issued again on
//! whichever is up then; the target sees to it that nothing of it can still be carried out on the lost one.

use std::pin::pin;
use std::rc::Rc;

use futures_util::future::select_all;

use crate::line::{Line, Session};

/// Ways to one LUN, the preferred one first; at least one.
pub(crate) struct Paths(Vec<Rc<Line>>);

impl Paths {
    pub(crate) fn over(lines: Vec<Rc<Line>>) -> Self {
        Self(lines)
    }

    /// The first line, whose score is the score of all.
    pub(crate) fn first(&self) -> &Rc<Line> {
        &self.0[0]
    }

    /// A session that is up, and its line; waits for one if necessary.
    pub(crate) async fn session(&self) -> (Rc<Line>, Session) {
        let up = self.0.iter().find_map(|line| line.session_now().map(|session| (Rc::clone(line), session)));
        if let Some(up) = up {
            return up;
        }
        let waits = self.0.iter().map(|line| Box::pin(async { (Rc::clone(line), line.session().await) }));
        pin!(select_all(waits)).await.0
    }
}
