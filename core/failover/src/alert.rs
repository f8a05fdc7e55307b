//! A report from outside that the partner's machine has lost its power, as a BMC sends it.
//!
//! Not here: what follows from a partner that is silent. The one idea: a report says where to look, and never what is there. It shortens the
//! wait; a page or a heartbeat that moves after it refutes it, and then everything is as it was. What moved before the report and is only
//! seen after it refutes nothing: so each sign is first looked at once.

use crate::effect::{Effect, Effects, Reply};
use crate::machine::{Machine, State};
use crate::timeline::Step;
use crate::watch::Signs;
use crate::words::{Micros, Op, RequestId};

/// What refutes a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub enum SignOfLife {
    /// The page moves.
    Page,
    /// A heartbeat on a lock disk moves.
    Heartbeat,
}

/// A report that has not been refuted.
#[derive(Debug, Clone, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct Alert {
    /// Whose answer is due.
    pub request: Option<RequestId>,
    /// When it came.
    pub at: Micros,
    /// The reading of the lock disks ordered with it, until it has shown them: what moves later, moves after the report.
    pub look: Option<Op>,
    /// Whether the page was read since: the same.
    pub page_seen: bool,
    /// What refutes it.
    pub refuted: Option<SignOfLife>,
}

impl Alert {
    /// The page was read.
    pub(crate) fn page_read(&mut self, moved: bool) {
        if moved && self.page_seen {
            self.refuted = Some(SignOfLife::Page);
        }
        self.page_seen = true;
    }

    /// The lock disks were read, if `readable`, and a heartbeat has moved, if `moved`.
    pub(crate) fn surveyed(&mut self, op: Option<Op>, readable: bool, moved: bool) {
        if self.look.is_none() && moved {
            self.refuted = Some(SignOfLife::Heartbeat);
        }
        if self.look == op && readable {
            self.look = None;
        }
    }

    /// Whether the lock disks were seen since: nobody is given up on a report alone.
    pub(crate) fn shortens_the_wait(&self) -> bool {
        self.look.is_none()
    }
}

impl Machine {
    /// Somebody reports that the partner's machine has no power.
    pub(crate) fn asked_partner_lost(&mut self, now: Micros, request: RequestId, out: &mut Effects) {
        let judges = match self.state {
            State::GiveWait(_)
            | State::DiskInit(_)
            | State::MailboxWait
            | State::Up
            | State::Takeover(_)
            | State::Released(_)
            | State::HandingOff(_)
            | State::Wanting(_) => true,
            // Nothing is known of a partner yet, or it is contested already, or nothing of it matters any more.
            State::Off | State::Booting | State::Claiming(_) | State::Halting(_) | State::Ended => false,
        };
        if !judges || self.watch.page().is_none() {
            return out.push(Effect::AnswerOperator { request, reply: Reply::NotNow { state: self.state_word() } });
        }
        self.end_alert(Reply::GivenUp, out);
        let look = self.op();
        out.extend([Effect::Timeline(Step::PowerLossReported), Effect::Survey { op: look }]);
        self.watch.alert =
            Some(Alert { request: Some(request), at: now, look: Some(look), page_seen: false, refuted: None });
    }

    /// Answers a report once it is clear what it is worth: at the end of every step.
    pub(crate) fn judge_alert(&mut self, now: Micros, signs: Signs, out: &mut Effects) {
        let Some(alert) = &mut self.watch.alert else { return };
        if let Some(by) = alert.refuted {
            if alert.request.is_some() {
                out.push(Effect::Timeline(Step::PowerLossRefuted(by)));
            }
            self.end_alert(Reply::Refuted { by }, out);
        } else if signs == Signs::Silent {
            // It stands: the wait stays short for as long as the partner is away.
            if let Some(request) = alert.request.take() {
                out.push(Effect::AnswerOperator { request, reply: Reply::Done });
            }
        } else if alert.request.is_some() && now.since(alert.at) >= self.config.timing.wait_long {
            // The lock disks cannot be read. Whatever there is to find is found without it by now.
            self.end_alert(Reply::GivenUp, out);
        }
    }

    fn end_alert(&mut self, reply: Reply, out: &mut Effects) {
        let due = self.watch.alert.take().and_then(|alert| alert.request);
        out.extend(due.map(|request| Effect::AnswerOperator { request, reply }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn alert() -> Alert {
        Alert { request: Some(RequestId(1)), at: Micros(0), look: Some(Op(7)), page_seen: false, refuted: None }
    }

    #[test]
    fn page_that_moved_before_the_report_refutes_nothing() {
        let mut alert = alert();
        alert.page_read(true);
        assert_eq!(alert.refuted, None, "it may have moved before");
        alert.page_read(false);
        assert_eq!(alert.refuted, None);
        alert.page_read(true);
        assert_eq!(alert.refuted, Some(SignOfLife::Page));
    }

    #[test]
    fn heartbeat_that_moved_before_the_report_refutes_nothing() {
        let mut alert = alert();
        alert.surveyed(None, true, true);
        alert.surveyed(Some(Op(6)), true, true);
        alert.surveyed(Some(Op(7)), false, true);
        assert!(!alert.shortens_the_wait(), "no majority was read");
        alert.surveyed(Some(Op(7)), true, true);
        assert!(alert.shortens_the_wait());
        assert_eq!(alert.refuted, None, "each may have been read before");
        alert.surveyed(None, true, false);
        assert_eq!(alert.refuted, None);
        alert.surveyed(None, true, true);
        assert_eq!(alert.refuted, Some(SignOfLife::Heartbeat));
    }
}
