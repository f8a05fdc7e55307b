//! What is said for a node whose process is known to have ended.
//!
//! Not here: how that is known (whoever started the process has waited for it, so no thread of it runs any more), and how the page is
//! published. The one idea: the last page stays as it was, with its incarnation and counters, and says PANICKED; only a page that says
//! HALTED keeps its word. A run that never published anything is not spoken for. Neither is one that was killed from outside where a partner
//! that reads PANICKED would leave its pools alone: nothing was wrong with it that its partner might meet, so its silence has to be found.

use crate::config::OnEnd;
use crate::page::{PAGE_BYTES, Page, StateWord};
use crate::words::{NodeId, PairId};

/// Why a process is gone, as far as whoever waited for it can tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// By itself: it panicked, gave up or crashed. Its partner might meet the same.
    Failed,
    /// Somebody else ended it: an operator, or a kernel that had no memory left.
    Killed,
}

/// The page to publish for a dead run from what it left behind, the newest first: of two copies one is whole unless nothing was ever
/// published. `None` if there is nothing to say, or nobody the words would be of. `on_panic` is what its partner does when it reads PANICKED.
#[must_use]
pub fn last_word(
    left_behind: &[Box<[u8; PAGE_BYTES]>],
    (pair, node): (PairId, NodeId),
    cause: Cause,
    on_panic: OnEnd,
) -> Option<Page> {
    let mut page = left_behind.iter().find_map(|bytes| Page::decode(bytes, pair, node).ok())?;
    page.content.state = match (page.content.state, cause, on_panic) {
        (StateWord::Halted, ..) => StateWord::Halted,
        (_, Cause::Killed, OnEnd::Leave) => return None,
        (_, Cause::Failed, _) | (_, Cause::Killed, OnEnd::TakeOver) => StateWord::Panicked,
    };
    page.sequence = page.sequence.wrapping_add(2);
    Some(page)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::config::{AutomaticGiveback, Config, Timing};
    use crate::machine::Machine;
    use crate::page::{LAYOUT_VERSION, LiveWords, SEQUENCE_OFFSET};
    use crate::words::Incarnation;

    const PAIR: PairId = PairId(7);
    const NODE: NodeId = NodeId::B;

    fn page(incarnation: u64, sequence: u64, state: StateWord) -> Page {
        let config = Config {
            pair: PAIR,
            node: NODE,
            preferred: NODE,
            lock_disks: 1,
            pools: BTreeMap::new(),
            may_split: false,
            policy: AutomaticGiveback::OnRequest.into(),
            timing: Timing::default(),
        };
        let mut content = Machine::new(config, Incarnation(incarnation)).content();
        content.state = state;
        let live = LiveWords { progress: 3, heartbeat: 5, last_completion: 8 };
        let incarnation = Incarnation(incarnation);
        Page { pair: PAIR, node: NODE, incarnation, sequence, layout_version: LAYOUT_VERSION, content, live }
    }

    fn torn(page: &Page) -> Box<[u8; PAGE_BYTES]> {
        let mut bytes = page.encode();
        bytes[SEQUENCE_OFFSET] |= 1;
        bytes
    }

    fn said(left_behind: [Box<[u8; PAGE_BYTES]>; 2]) -> Option<Page> {
        last_word(&left_behind, (PAIR, NODE), Cause::Failed, OnEnd::TakeOver)
    }

    #[test]
    fn a_dead_run_is_said_to_have_panicked_and_everything_else_stays() {
        let last = page(9, 40, StateWord::Up);
        let word = said([last.encode(), last.encode()]).expect("a page");
        let mut expected = page(9, 42, StateWord::Panicked);
        expected.content = crate::page::PageContent { state: StateWord::Panicked, ..last.content };
        assert_eq!(word, expected);
        assert_eq!(Page::decode(&word.encode(), PAIR, NODE), Ok(word), "the partner can read it");
    }

    #[test]
    fn an_orderly_end_stays_one() {
        let last = page(9, 40, StateWord::Halted);
        assert_eq!(said([last.encode(), last.encode()]), Some(page(9, 42, StateWord::Halted)));
    }

    #[test]
    fn a_death_in_the_middle_of_a_publication_is_spoken_for_under_the_incarnation_that_died() {
        // A fresh run's first page, torn in either place.
        let (before, first) = (page(9, 40, StateWord::Up), page(10, 2, StateWord::Booting));
        let incarnation = |left_behind| said(left_behind).map(|page| (page.incarnation.0, page.content.state));
        assert_eq!(incarnation([torn(&first), before.encode()]), Some((9, StateWord::Panicked)));
        assert_eq!(incarnation([first.encode(), torn(&first)]), Some((10, StateWord::Panicked)));
    }

    #[test]
    fn nothing_is_said_where_nothing_was() {
        let empty = || Box::new([0; PAGE_BYTES]);
        assert_eq!(said([empty(), empty()]), None);
        assert_eq!(said([torn(&page(9, 2, StateWord::Up)), empty()]), None, "its first draft");
        let last = page(9, 40, StateWord::Up);
        let of_another = last_word(&[last.encode()], (PairId(8), NODE), Cause::Failed, OnEnd::TakeOver);
        assert_eq!(of_another, None, "another pair's");
    }

    #[test]
    fn a_killed_run_is_not_said_to_have_panicked_where_its_pools_would_be_left_alone_for_that() {
        let word = |state, cause, on_panic| {
            let last = page(9, 40, state);
            last_word(&[last.encode()], (PAIR, NODE), cause, on_panic).map(|page| page.content.state)
        };
        let (up, panicked, halted) = (StateWord::Up, StateWord::Panicked, StateWord::Halted);
        assert_eq!(word(up, Cause::Failed, OnEnd::TakeOver), Some(panicked));
        assert_eq!(word(up, Cause::Killed, OnEnd::TakeOver), Some(panicked), "announced, so that nobody waits");
        assert_eq!(word(up, Cause::Failed, OnEnd::Leave), Some(panicked), "left alone");
        assert_eq!(word(up, Cause::Killed, OnEnd::Leave), None, "taken over, as after any death");
        for (cause, on_panic) in [(Cause::Failed, OnEnd::Leave), (Cause::Killed, OnEnd::Leave)] {
            assert_eq!(word(halted, cause, on_panic), Some(halted), "its stop was over");
        }
    }
}
