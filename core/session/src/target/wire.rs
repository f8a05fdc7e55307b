//! The sending side of a connection: sequence numbers, digests, and the queue of what goes out.
//!
//! Not here: what to say. The one idea: nobody builds a [`Window`] by hand; a PDU that carries a status takes the next
//! StatSN, any other one only shows it (RFC 7143 §4.2.2.2).

use understudy_iscsi::response::{Reject, Window};
use understudy_iscsi::serial::{CmdSn, StatSn};
use understudy_iscsi::{Bhs, Digests, Frame, Outgoing};

use bytes::Bytes;
use understudy_iscsi::codes::RejectReason;

/// What goes out, and the numbers on it.
#[derive(Debug, Default)]
pub(crate) struct Wire {
    pub(crate) out: Outgoing,
    pub(crate) digests: Digests,
    stat_sn: StatSn,
    exp_cmd_sn: CmdSn,
    max_cmd_sn: CmdSn,
}

impl Wire {
    /// Sets the numbers at the first login request: commands start at the login's CmdSN, and the initiator says
    /// which StatSN it would like to see first.
    pub(crate) fn start(&mut self, cmd_sn: CmdSn, stat_sn: StatSn, depth: u32) {
        self.exp_cmd_sn = cmd_sn;
        self.max_cmd_sn = cmd_sn.plus(depth - 1);
        self.stat_sn = stat_sn;
    }

    /// Next CmdSN to be taken.
    pub(crate) fn expected(&self) -> CmdSn {
        self.exp_cmd_sn
    }

    /// Whether `cmd_sn` lies within the window that the initiator was told.
    pub(crate) fn within_window(&self, cmd_sn: CmdSn) -> bool {
        self.exp_cmd_sn.is_at_or_before(cmd_sn) && cmd_sn.is_at_or_before(self.max_cmd_sn)
    }

    /// The command with the expected number was taken.
    pub(crate) fn take_command(&mut self) {
        self.exp_cmd_sn = self.exp_cmd_sn.next();
    }

    /// A numbered command is over: the initiator may send one more. So MaxCmdSN never goes back, and at no time are
    /// more numbered commands outstanding than the window is deep.
    pub(crate) fn free_command(&mut self) {
        self.max_cmd_sn = self.max_cmd_sn.next();
    }

    /// Numbers for a PDU that carries no status.
    pub(crate) fn window(&self) -> Window {
        Window { stat_sn: self.stat_sn, exp_cmd_sn: self.exp_cmd_sn, max_cmd_sn: self.max_cmd_sn }
    }

    /// Numbers for a PDU that carries a status.
    pub(crate) fn status_window(&mut self) -> Window {
        let window = self.window();
        self.stat_sn = self.stat_sn.next();
        window
    }

    /// Queues a PDU.
    pub(crate) fn send(&mut self, frame: Frame) {
        self.out.push(frame, self.digests);
    }

    /// Room for a short data segment: see [`Outgoing::place`].
    pub(crate) fn place(&mut self, bytes: usize) -> Option<&mut [u8]> {
        self.out.place(bytes, self.digests)
    }

    /// Queues a PDU with the data that was placed.
    pub(crate) fn send_placed(&mut self, bhs: Bhs) {
        self.out.push_placed(bhs, self.digests);
    }

    /// Queues a Reject of the PDU with this header (RFC 7143 §11.17).
    pub(crate) fn reject(&mut self, reason: RejectReason, rejected: &Bhs) {
        let window = self.status_window();
        let rejected = Bytes::copy_from_slice(&rejected.0);
        self.send(Reject { reason, window, data_sn: 0, rejected }.into_frame());
    }
}
