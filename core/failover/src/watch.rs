//! What a node knows of its partner's life.
//!
//! Not here: what follows from silence. The one idea: a sign of life is a counter that moves, in the page or on a lock disk, never a read
//! that succeeds; and a node that was itself stopped knows nothing until it has looked again.

use crate::alert::Alert;
use crate::config::Config;
use crate::input::Unreadable;
use crate::key::ReservationKey;
use crate::page::{Page, StateWord};
use crate::record::Heartbeat;
use crate::survey::Survey;
use crate::words::{Incarnation, Micros, Op};

/// What the partner's two signs say now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Signs {
    /// The page moves.
    Alive,
    /// The page stands still, the heartbeat goes on.
    HeartbeatOnly,
    /// Both stand still, for long enough to contest.
    Silent,
    /// Not long enough in silence, or this node cannot see the heartbeats itself.
    NotKnown,
}

/// How the last reads of the page went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
enum Link {
    /// Pages come, or nothing is known yet.
    Usual,
    /// Closed by the partner's end since the last page: its process is gone, or the link alone.
    Closed,
    /// The partner's machine says that nobody listens there: its process is gone, since a node listens from its first
    /// moment to its last.
    Refused,
    /// What comes is not a page of this pair's partner.
    Rejected,
}

/// The watch kept on the partner.
#[derive(Debug, Clone, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct Watch {
    page: Option<Page>,
    page_moved: Micros,
    beats: Vec<Option<Heartbeat>>,
    beat_moved: Micros,
    /// When a heartbeat was really seen to move; `beat_moved` may also be the start of counting.
    beat_seen: Option<Micros>,
    last_readable: Option<Micros>,
    link: Link,
    /// The partner's key on the lock disks, as far as it is known.
    key: Option<ReservationKey>,
    /// A report that its machine has lost its power.
    pub(crate) alert: Option<Alert>,
}

impl Watch {
    /// Nothing seen yet.
    #[must_use]
    pub fn new(lock_disks: usize) -> Self {
        Self {
            page: None,
            page_moved: Micros(0),
            beats: vec![None; lock_disks],
            beat_moved: Micros(0),
            beat_seen: None,
            last_readable: None,
            link: Link::Usual,
            key: None,
            alert: None,
        }
    }

    /// The page last read in this life.
    #[must_use]
    pub fn page(&self) -> Option<&Page> {
        self.page.as_ref()
    }

    /// The incarnation of the page last read.
    #[must_use]
    pub fn incarnation(&self) -> Option<Incarnation> {
        self.page.as_ref().map(|page| page.incarnation)
    }

    /// The partner's key a contest is against.
    #[must_use]
    pub fn key(&self) -> Option<ReservationKey> {
        self.key
    }

    /// The partner's key turned out to be another one.
    pub fn learn_key(&mut self, now: Micros, key: Option<ReservationKey>) {
        self.key = key;
        self.start_over(now);
    }

    /// The next contest is against whatever key the partner has.
    pub fn forget_key(&mut self) {
        self.key = None;
    }

    /// Whether what answers for the partner is not it.
    #[must_use]
    pub fn is_rejected(&self) -> bool {
        self.link == Link::Rejected
    }

    /// Whether the incarnation last seen is known to have ended: in an orderly way, or its supervisor has waited for its process.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.page.as_ref().is_some_and(|page| matches!(page.content.state, StateWord::Halted | StateWord::Panicked))
    }

    /// Whether it has ended and nothing is seen of another one in its place. A heartbeat that moves then was on its way.
    fn is_over(&self, config: &Config) -> bool {
        let Some(page) = self.page.as_ref().filter(|_| self.has_ended()) else { return false };
        let its_key = ReservationKey::on_lock_disk(config.pair, config.partner(), page.incarnation);
        let same_key = self.key.is_none_or(|key| key == its_key);
        let of_another = |beat: &Heartbeat| ![page.incarnation, Incarnation::NONE].contains(&beat.incarnation);
        same_key && !self.beats.iter().flatten().any(of_another)
    }

    /// Counts every silence from now: this node was stopped, or begins.
    pub fn start_over(&mut self, now: Micros) {
        self.page_moved = now;
        self.beat_moved = now;
        self.last_readable = None;
    }

    /// A page was read.
    pub fn page_read(&mut self, now: Micros, page: Page, config: &Config) {
        let moved = self.page.as_ref().is_none_or(|last| {
            last.incarnation != page.incarnation
                || last.live.heartbeat != page.live.heartbeat
                || last.live.progress != page.live.progress
        });
        if moved {
            self.page_moved = now;
            self.link = Link::Usual;
        }
        if self.incarnation() != Some(page.incarnation) {
            self.key = Some(ReservationKey::on_lock_disk(config.pair, config.partner(), page.incarnation));
        }
        if let Some(alert) = &mut self.alert {
            alert.page_read(moved);
        }
        self.page = Some(page);
    }

    /// A read gave no page. Answers whether that is the first sign of an end since the last page: what is known of the
    /// heartbeats may then be as old as a heartbeat, and a look at them now lets the wait begin now.
    pub fn page_unreadable(&mut self, why: Unreadable) -> bool {
        let before = self.link;
        match why {
            // A refusal says more than a closed link, and stays said until there is a page.
            Unreadable::Closed if before == Link::Refused => {}
            Unreadable::Closed => self.link = Link::Closed,
            Unreadable::Refused => self.link = Link::Refused,
            Unreadable::Rejected => self.link = Link::Rejected,
            // These say nothing beyond the silence that is counted anyway.
            Unreadable::TimedOut | Unreadable::Fabric | Unreadable::Torn => {}
        }
        let is_end = |link| matches!(link, Link::Closed | Link::Refused);
        self.page.is_some() && is_end(self.link) && !is_end(before)
    }

    /// The lock disks were read.
    pub fn surveyed(&mut self, now: Micros, op: Option<Op>, survey: &Survey, config: &Config) {
        let mut moved = false;
        let beats = survey.heartbeats(config.partner());
        for (last, beat) in self.beats.iter_mut().zip(beats) {
            let Some(beat) = beat else { continue };
            moved |= last.is_some_and(|last| last != beat);
            *last = Some(beat);
        }
        if moved {
            self.beat_moved = now;
            self.beat_seen = Some(now);
        }
        if let Some(alert) = &mut self.alert {
            alert.surveyed(op, survey.is_readable(), moved);
        }
        if survey.is_readable() {
            self.last_readable = Some(now);
        }
    }

    /// How long a silence has to last.
    fn wait(&self, config: &Config) -> Micros {
        let timing = &config.timing;
        let base = match (&self.page, self.link) {
            (None, _) => timing.boot_wait,
            // It has ended for certain: there is nothing to wait for.
            (Some(_), _) if self.is_over(config) => return Micros(0),
            // It has ended, or lost its link alone, or has no power: who ended does not contest, so there is no tie to avoid.
            (Some(_), Link::Refused) => return timing.wait_ended,
            (Some(_), _) if self.has_ended() => return timing.wait_ended,
            (Some(_), _) if self.alert.as_ref().is_some_and(Alert::shortens_the_wait) => return timing.wait_ended,
            (Some(_), Link::Closed) => return timing.wait_closed,
            (Some(_), Link::Usual | Link::Rejected) => timing.wait_long,
        };
        if config.preferred == config.node { base } else { base.after(timing.second_node_delay) }
    }

    /// What the signs say.
    #[must_use]
    pub fn signs(&self, now: Micros, config: &Config) -> Signs {
        let wait = self.wait(config);
        let still = |moved: Micros| now.since(moved) >= wait;
        // A moving page of a process whose link has closed is the last one it wrote.
        if self.page.is_some() && !still(self.page_moved) && self.link == Link::Usual && !self.has_ended() {
            return Signs::Alive;
        }
        match (still(self.page_moved), still(self.beat_moved)) {
            (true, true) if self.is_blind(now, config) => Signs::NotKnown,
            (true, true) => Signs::Silent,
            (_, false) if self.beat_seen.is_some_and(|seen| now.since(seen) < wait) => Signs::HeartbeatOnly,
            (_, false) | (false, true) => Signs::NotKnown,
        }
    }

    /// Whether the heartbeats could not be seen lately.
    #[must_use]
    pub fn is_blind(&self, now: Micros, config: &Config) -> bool {
        self.last_readable.is_none_or(|at| now.since(at) > config.timing.own_gap)
    }

    /// For how long the page has stood still.
    #[must_use]
    pub fn page_silence(&self, now: Micros) -> Micros {
        now.since(self.page_moved)
    }

    /// When to judge again.
    #[must_use]
    pub fn next_judgement(&self, now: Micros, config: &Config) -> Micros {
        let due = self.page_moved.max(self.beat_moved).after(self.wait(config));
        if due > now { due } else { now.after(config.timing.heartbeat) }
    }

    #[cfg(feature = "sim")]
    pub(crate) fn has_heard(&self) -> bool {
        self.page_moved > Micros(0) || self.beat_moved > Micros(0)
    }

    #[cfg(feature = "sim")]
    pub(crate) fn content_mut(&mut self) -> Option<&mut crate::page::PageContent> {
        self.page.as_mut().map(|page| &mut page.content)
    }

    #[cfg(feature = "sim")]
    pub(crate) fn hear_nothing(&mut self) {
        self.page_moved = Micros(0);
        self.beat_moved = Micros(0);
        self.beat_seen = self.beat_seen.map(|_| Micros(0));
    }

    /// Counters back to zero, and what an old heartbeat says besides being old.
    #[cfg(feature = "sim")]
    pub(crate) fn forget_counters(&mut self) {
        if let Some(page) = &mut self.page {
            page.live = crate::page::LiveWords::default();
            page.sequence = 0;
        }
        // Whose it was is asked beside a page that says it has ended.
        let ended = self.has_ended();
        for beat in &mut self.beats {
            let incarnation = beat.filter(|_| ended).map_or(Incarnation::NONE, |beat| beat.incarnation);
            *beat = Some(Heartbeat { incarnation, counter: 0 });
        }
        // While the page moves nobody asks for the heartbeat, and the next silence ends both.
        if self.page.is_some() && self.page_moved > Micros(0) {
            self.beat_moved = Micros(0);
        }
        if self.beat_moved == Micros(0) {
            self.beat_seen = None;
        }
        self.last_readable = self.last_readable.map(|_| crate::sim::canonical::NOW);
    }

    pub(crate) fn shift_back(&mut self, by: Micros) {
        self.page_moved = self.page_moved.since(by);
        self.beat_moved = self.beat_moved.since(by);
        self.beat_seen = self.beat_seen.map(|at| at.since(by));
        self.last_readable = self.last_readable.map(|at| at.since(by));
        if let Some(alert) = &mut self.alert {
            alert.at = alert.at.since(by);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::config::{AutomaticGiveback, Timing};
    use crate::machine::Machine;
    use crate::page::{LAYOUT_VERSION, LiveWords};
    use crate::survey::LockDiskView;
    use crate::words::{NodeId, PairId};

    fn config(node: NodeId) -> Config {
        Config {
            pair: PairId(7),
            node,
            preferred: node,
            lock_disks: 1,
            pools: BTreeMap::new(),
            may_split: false,
            policy: AutomaticGiveback::OnRequest.into(),
            timing: Timing::default(),
        }
    }

    /// A watch that saw a page and a heartbeat one second after the start.
    struct Bench {
        config: Config,
        watch: Watch,
    }

    impl Bench {
        fn new(state: StateWord) -> Self {
            let mut content = Machine::new(config(NodeId::B), Incarnation(9)).content();
            let config = config(NodeId::A);
            content.state = state;
            let (pair, node) = (config.pair, NodeId::B);
            let live = LiveWords { progress: 1, heartbeat: 1, last_completion: 0 };
            let page = Page {
                pair,
                node,
                incarnation: Incarnation(9),
                sequence: 2,
                layout_version: LAYOUT_VERSION,
                content,
                live,
            };
            let mut bench = Self { watch: Watch::new(1), config };
            bench.beat(1_000, 1);
            bench.watch.page_read(Micros::from_millis(1_000), page, &bench.config);
            bench
        }

        /// The partner's heartbeat as read from the lock disk.
        fn beat(&mut self, millis: u64, counter: u64) {
            self.beat_of(Incarnation(9), millis, counter);
        }

        fn beat_of(&mut self, incarnation: Incarnation, millis: u64, counter: u64) {
            let beat = Heartbeat { incarnation, counter };
            let view = LockDiskView { heartbeats: [None, Some(beat)], ..LockDiskView::default() };
            let survey = Survey { disks: vec![Some(view)] };
            self.watch.surveyed(Micros::from_millis(millis), None, &survey, &self.config);
        }

        fn signs(&self, millis: u64) -> Signs {
            self.watch.signs(Micros::from_millis(millis), &self.config)
        }
    }

    #[test]
    fn silence_is_found_the_sooner_the_surer_the_end_is() {
        let ways: [(&[Unreadable], StateWord, u64); 4] = [
            (&[Unreadable::TimedOut], StateWord::Up, 600),
            (&[Unreadable::Closed], StateWord::Up, 150),
            (&[Unreadable::Closed, Unreadable::Refused], StateWord::Up, 75),
            (&[Unreadable::Refused, Unreadable::Closed, Unreadable::TimedOut], StateWord::Up, 75),
        ];
        for (failures, state, wait) in ways {
            let mut bench = Bench::new(state);
            for why in failures {
                bench.watch.page_unreadable(*why);
            }
            for at in (1_000..1_000 + wait).step_by(25) {
                bench.beat(at, 1);
            }
            assert_ne!(bench.signs(999 + wait), Signs::Silent, "{failures:?}");
            assert_eq!(bench.signs(1_000 + wait), Signs::Silent, "{failures:?}");
        }
    }

    #[test]
    fn of_a_run_that_is_said_to_have_ended_nothing_more_is_waited_for() {
        for state in [StateWord::Halted, StateWord::Panicked] {
            let mut bench = Bench::new(state);
            assert_eq!(bench.signs(1_000), Signs::Silent, "{state}");
            // What it had sent to a lock disk arrives after its end.
            bench.beat(1_010, 2);
            assert_eq!(bench.signs(1_010), Signs::Silent, "{state}");
            assert_eq!(bench.signs(1_400), Signs::NotKnown, "{state}: nobody has looked for 390 ms");
        }
    }

    /// Its page cannot be read, and the last one is of the run before.
    #[test]
    fn another_run_beside_a_page_that_says_panicked_is_seen_alive() {
        let mut bench = Bench::new(StateWord::Panicked);
        for (at, counter) in (1_050..3_000).step_by(50).zip(1..) {
            bench.beat_of(Incarnation(10), at, counter);
            assert_ne!(bench.signs(at + 49), Signs::Silent, "a beat {at} ms after the start");
        }
        assert_eq!(bench.signs(2_999), Signs::HeartbeatOnly);
        // One that registered and has not beaten yet.
        let mut bench = Bench::new(StateWord::Panicked);
        let key = ReservationKey::on_lock_disk(PairId(7), NodeId::B, Incarnation(10));
        bench.watch.learn_key(Micros::from_millis(1_010), Some(key));
        bench.beat(1_020, 1);
        assert_ne!(bench.signs(1_084), Signs::Silent);
        assert_eq!(bench.signs(1_085), Signs::Silent);
    }

    #[test]
    fn partner_whose_machine_refuses_and_whose_heart_beats_is_not_silent() {
        let mut bench = Bench::new(StateWord::Up);
        bench.watch.page_unreadable(Unreadable::Refused);
        for (at, counter) in (1_050..3_000).step_by(50).zip(2..) {
            bench.beat(at, counter);
            assert_ne!(bench.signs(at + 49), Signs::Silent, "a beat {at} ms after the start");
        }
        assert_eq!(bench.signs(2_999), Signs::HeartbeatOnly);
    }

    #[test]
    fn first_sign_of_an_end_asks_for_a_look_and_later_ones_do_not() {
        let mut bench = Bench::new(StateWord::Up);
        assert!(!bench.watch.page_unreadable(Unreadable::TimedOut));
        assert!(bench.watch.page_unreadable(Unreadable::Closed));
        assert!(!bench.watch.page_unreadable(Unreadable::Refused));
        assert!(!bench.watch.page_unreadable(Unreadable::Closed));
        // Of a partner that was never seen there is nothing to find out in a hurry.
        assert!(!Watch::new(1).page_unreadable(Unreadable::Refused));
    }
}
