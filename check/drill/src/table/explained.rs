//! Cells that leave something to be noticed, each with the reason why that is right.
//!
//! Nothing here excuses a lost write, a volume served twice, a wrong key or a pair that does not come home: there is no
//! explanation for those.

use crate::cell::Cell;
use crate::fault::Fault;

/// Why a command may fail, or a leg be dropped, in this cell; none where neither may happen.
#[must_use]
pub fn explanation(cell: Cell) -> Option<&'static str> {
    match cell.fault {
        Fault::Nothing
        | Fault::Killed
        | Fault::StoppedShort
        | Fault::StoppedLong
        | Fault::InterconnectCut
        | Fault::InterconnectMuted
        | Fault::DiskPathCut
        | Fault::ShelfStopped
        | Fault::ShelfKilled
        | Fault::DiskSlow
        | Fault::DiskFailing
        | Fault::OppositeAsked
        | Fault::OldConfiguration => None,
    }
}
