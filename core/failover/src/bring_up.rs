//! The repaired node's way: GIVEWAIT, DISKINIT, MBWAIT.
//!
//! Not here: what the survivor does meanwhile ([`crate::survivor`]), and the end of the way, which is a claim on the partner's COMMIT
//! ([`crate::claim`]). The one idea: each step forward is an answer to a word read in the partner's page by RDMA and checked on the
//! disks themselves; whatever does not fit leads back to GIVEWAIT.

use std::collections::BTreeSet;

use crate::claim::{Origin, Route};
use crate::effect::{Alarm, Effect, Effects, NoForecast, Veto};
use crate::machine::{Machine, Membership, State};
use crate::page::{Page, PoolState, StateWord};
use crate::survey::Survey;
use crate::timeline::Step;
use crate::timers::Timer;
use crate::watch::Signs;
use crate::words::{Micros, Op, PoolId};

/// GIVEWAIT.
#[derive(Debug, Clone, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub enum GiveWait {
    /// For RELEASED with this incarnation in the partner's page.
    Waiting,
    /// It was read; the disks are asked. Ends with `ReleaseChecked`.
    Checking {
        /// Of the order.
        op: Op,
    },
}

/// DISKINIT: disks are initialised and the lock disks joined, side by side.
#[derive(Debug, Clone, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct DiskInit {
    /// Ends with `DisksInitialised` or `DiskInitConflicted`; `None` when it is done.
    pub init: Option<Op>,
    /// Ends with `LockDisksJoined`; `None` when it is done.
    pub join: Option<Op>,
    /// Pools that cannot be opened here: they stay where they are when the others come.
    pub unopenable: BTreeSet<PoolId>,
}

/// Whether the partner's page says that a hand-off was vetoed because of this node's inventory.
fn finds_other_disks(page: &Page) -> bool {
    page.content.vetoes & Veto::InventoryMismatch.bit() != 0
}

impl Machine {
    /// Whether the partner's page offers its release, or its giveback, to this incarnation.
    pub(crate) fn is_offered(&self, page: &Page) -> bool {
        let offers = matches!(page.content.state, StateWord::Released | StateWord::Giveback);
        #[cfg(feature = "mutants")]
        if crate::mutants::is_on(crate::mutants::Mutant::AnyRelease) {
            return offers || page.content.state == StateWord::Takeover;
        }
        offers && page.content.released_to == Some(self.incarnation)
    }

    pub(crate) fn page_read_give_wait(&mut self, now: Micros, wait: &GiveWait, page: &Page, out: &mut Effects) {
        self.clear_alarm(Alarm::InterconnectDown, out);
        if self.take_early_announcement(page, out) || self.take_what_the_records_give(now, page, out) {
            return;
        }
        if *wait == GiveWait::Waiting && !self.timers.is_set(Timer::Retry) {
            self.look_for_release(now, out);
        }
    }

    /// Asks the disks if the partner's page says RELEASED.
    pub(crate) fn look_for_release(&mut self, _now: Micros, out: &mut Effects) {
        let released = self.watch.page().is_some_and(|page| {
            page.content.state == StateWord::Released && page.content.released_to == Some(self.incarnation)
        });
        #[cfg(feature = "mutants")]
        let released = (released || crate::mutants::is_on(crate::mutants::Mutant::AnyRelease))
            && !crate::mutants::is_on(crate::mutants::Mutant::OverlookRelease);
        if released {
            let (op, pools) = (self.op(), self.homes_away());
            let legs = self.legs_of(&pools);
            out.push(Effect::CheckRelease { op, pools, legs });
            self.enter(State::GiveWait(GiveWait::Checking { op }));
        }
    }

    pub(crate) fn release_checked(&mut self, now: Micros, op: Op, open: u32, of: u32, out: &mut Effects) {
        if self.state != State::GiveWait(GiveWait::Checking { op }) {
            return;
        }
        let offered = self.watch.page().is_some_and(|page| self.is_offered(page));
        #[cfg(feature = "mutants")]
        let open = if crate::mutants::is_on(crate::mutants::Mutant::AnyRelease) { of } else { open };
        if open < of || of == 0 || !offered {
            out.push(Effect::Timeline(Step::ReleaseNotFound));
            return self.back_to_give_wait(now);
        }
        out.push(Effect::Timeline(Step::ReleaseVerified { open, of }));
        // RELEASED for this incarnation is also the leave to register on the lock disks.
        let join = (self.membership == Membership::Outside).then(|| self.op());
        if let Some(op) = join {
            let which = (0..self.config.lock_disks).collect();
            out.push(Effect::JoinLockDisks { op, which, key: self.lock_key() });
        }
        let (init, pools) = (self.op(), self.homes_away());
        let legs = self.legs_of(&pools);
        out.push(Effect::InitialiseDisks { op: init, pools, legs });
        self.enter(State::DiskInit(DiskInit { init: Some(init), join, unopenable: BTreeSet::new() }));
    }

    fn back_to_give_wait(&mut self, now: Micros) {
        self.inventory = None;
        for pool in self.homes_away() {
            self.set_here(pool, PoolState::Away);
        }
        self.enter(State::GiveWait(GiveWait::Waiting));
        self.retry_after(now, self.config.timing.bring_up_retry);
    }

    pub(crate) fn page_read_disk_init(&mut self, now: Micros, page: &Page, out: &mut Effects) {
        if !self.take_early_announcement(page, out) && !self.is_offered(page) {
            self.back_to_give_wait(now);
        }
    }

    /// A COMMIT that is announced to this incarnation before it is in MBWAIT again: it was there when the partner judged, and went back since, because
    /// a page came late or it looked at the disks anew. The partner holds the commands until somebody serves, so what is not
    /// initialised is opened in the claim.
    fn take_early_announcement(&mut self, page: &Page, out: &mut Effects) -> bool {
        #[cfg(feature = "mutants")]
        if crate::mutants::is_on(crate::mutants::Mutant::OverlookAnnouncement) {
            return false;
        }
        self.membership == Membership::Registered && self.take_announcement(page, out)
    }

    /// Claims what the partner's page announces to this incarnation, if it is no older than what is known of these pools.
    fn take_announcement(&mut self, page: &Page, out: &mut Effects) -> bool {
        let Some(announced) = page.content.announcement.filter(|announced| announced.to == self.incarnation) else {
            return false;
        };
        // The record may have been seen before the announcement: the pools then count as own ones already, and are not here yet.
        let homes = self.announced_in(page, announced.generation);
        if homes.is_empty() || !homes.iter().all(|pool| announced.generation >= self.generation(*pool)) {
            return false;
        }
        out.push(Effect::Timeline(Step::AnnouncementRead { generation: announced.generation }));
        let route = Route::Committed { generation: announced.generation };
        self.begin_claim(Origin::HandedOver, route, homes, out);
        true
    }

    pub(crate) fn joined_disk_init(&mut self, now: Micros, op: Op, init: &DiskInit, joined: usize, out: &mut Effects) {
        if init.join != Some(op) {
            return;
        }
        if joined < self.config.majority() {
            return self.back_to_give_wait(now);
        }
        out.push(Effect::Timeline(Step::LockDisksJoined { joined, of: self.config.lock_disks }));
        self.become_member(out);
        self.disk_init_went_on(DiskInit { join: None, ..init.clone() });
    }

    pub(crate) fn disks_initialised(
        &mut self,
        now: Micros,
        op: Op,
        inventory: u64,
        (found, of): (u32, u32),
        out: &mut Effects,
    ) {
        match self.state.clone() {
            State::DiskInit(init) if init.init == Some(op) => {
                out.push(Effect::Timeline(Step::DisksInitialised { found, of }));
                self.clear_alarm(Alarm::DiskInitFailed, out);
                self.inventory = Some(inventory);
                self.disk_init_went_on(DiskInit { init: None, ..init });
            }
            State::Wanting(wanting) => self.wanted_disks_initialised(now, op, wanting, inventory),
            // Late: whoever ordered it has gone back since.
            State::Off
            | State::Booting
            | State::Claiming(_)
            | State::GiveWait(_)
            | State::DiskInit(_)
            | State::MailboxWait
            | State::Up
            | State::Takeover(_)
            | State::Released(_)
            | State::HandingOff(_)
            | State::Halting(_)
            | State::Ended => {}
        }
    }

    /// A pool that its partner has and this node could not open stays where it is served; one that nobody can open does not keep the
    /// others away from home.
    pub(crate) fn pools_unopenable(
        &mut self,
        now: Micros,
        op: Op,
        inventory: u64,
        found: (u32, u32),
        pools: &BTreeSet<PoolId>,
        out: &mut Effects,
    ) {
        let better_there: Vec<PoolId> = pools.iter().copied().filter(|pool| !self.is_refused_there(*pool)).collect();
        if better_there.is_empty() {
            return self.disks_initialised(now, op, inventory, found, out);
        }
        if let State::DiskInit(init) = self.state.clone()
            && init.init == Some(op)
        {
            for pool in &better_there {
                self.raise_alarm(Alarm::PoolUnusable(*pool), out);
            }
            let unopenable: BTreeSet<PoolId> = better_there.into_iter().collect();
            if self.may_split() && self.homes_away().iter().any(|pool| !unopenable.contains(pool)) {
                out.push(Effect::Timeline(Step::DisksInitialised { found: found.0, of: found.1 }));
                self.clear_alarm(Alarm::DiskInitFailed, out);
                self.inventory = Some(inventory);
                return self.disk_init_went_on(DiskInit { init: None, unopenable, ..init });
            }
        }
        // Somebody who asked for pools and could not open them does without.
        self.disk_init_conflicted(now, op, out);
    }

    /// Whether the partner's page says that the partner could not serve this pool itself.
    pub(crate) fn is_refused_there(&self, pool: PoolId) -> bool {
        let page = self.watch.page().and_then(|page| page.content.pool(pool));
        page.is_some_and(|pool| pool.state == PoolState::Refused)
    }

    fn disk_init_went_on(&mut self, init: DiskInit) {
        if init.init.is_some() || init.join.is_some() {
            return self.enter(State::DiskInit(init));
        }
        for pool in self.homes_away() {
            let state = if init.unopenable.contains(&pool) { PoolState::Refused } else { PoolState::Warm };
            self.set_here(pool, state);
        }
        self.enter(State::MailboxWait);
    }

    pub(crate) fn disk_init_conflicted(&mut self, now: Micros, op: Op, out: &mut Effects) {
        match self.state.clone() {
            State::DiskInit(init) if init.init == Some(op) => {
                self.raise_alarm(Alarm::DiskInitFailed, out);
                self.back_to_give_wait(now);
            }
            State::Wanting(wanting) if wanting.init == Some(op) => {
                self.give_up_wanting(now, &wanting, NoForecast::DisksUnread, out);
            }
            State::Off
            | State::Booting
            | State::Claiming(_)
            | State::GiveWait(_)
            | State::DiskInit(_)
            | State::MailboxWait
            | State::Up
            | State::Takeover(_)
            | State::Released(_)
            | State::HandingOff(_)
            | State::Wanting(_)
            | State::Halting(_)
            | State::Ended => {}
        }
    }

    pub(crate) fn page_read_mailbox_wait(&mut self, now: Micros, page: &Page, out: &mut Effects) {
        if self.take_announcement(page, out) || self.take_what_the_records_give(now, page, out) {
            return;
        }
        if !self.is_offered(page) {
            self.back_to_give_wait(now);
        } else if finds_other_disks(page) && !self.timers.is_set(Timer::Retry) {
            // Perhaps it says so of an earlier look; until then it has judged again.
            self.retry_after(now, self.config.timing.veto_retry.after(self.config.timing.veto_retry));
        }
    }

    /// The partner still finds other disks than this node found: a leg was dropped since, or could not be read then. Nobody else
    /// would ever look again.
    pub(crate) fn retry_mailbox_wait(&mut self, now: Micros) {
        if self.watch.page().is_some_and(|page| self.is_offered(page) && finds_other_disks(page)) {
            self.back_to_give_wait(now);
        }
    }

    /// MBWAIT polls the record beside the page: a COMMIT that stands counts, also when its announcement cannot be read any more.
    pub(crate) fn surveyed_bring_up(&mut self, now: Micros, survey: &Survey, out: &mut Effects) {
        if self.state != State::MailboxWait {
            return;
        }
        let signs = self.watch.signs(now, &self.config);
        let unreadable = self.watch.page_silence(now) >= self.config.timing.wait_closed && signs != Signs::Alive;
        if let Some((homes, generation)) = self.committed_unannounced(survey).filter(|_| unreadable) {
            self.begin_claim(Origin::HandedOver, Route::Committed { generation }, homes, out);
        }
    }
}
