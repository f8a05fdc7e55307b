//! Booting: finding out whose the pools are and whether the partner lives.
//!
//! Not here: serving; that is [`crate::claim`]. The one idea: the record decides. A node that cannot find out never serves; it stays
//! BOOTING, says why, and looks again with every survey and every page.

use std::collections::BTreeSet;

use crate::bring_up::GiveWait;
use crate::claim::{Origin, Route};
use crate::effect::{Alarm, Effect, Effects};
use crate::machine::{Machine, State};
use crate::page::{PoolState, StateWord};
use crate::survey::{Standing, Survey};
use crate::watch::Signs;
use crate::words::{Micros, PoolId};

impl Machine {
    /// BOOTING is in the page before any disk is touched.
    pub(crate) fn started(&mut self, now: Micros, out: &mut Effects) {
        if self.state != State::Off {
            return;
        }
        self.state = State::Booting;
        self.watch.start_over(now);
        self.publish(out);
        let op = self.op();
        out.push(Effect::Survey { op });
    }

    /// Decides with what is known; called for every survey and page while booting.
    pub(crate) fn decide_boot(&mut self, now: Micros, out: &mut Effects) {
        let Some(survey) = self.survey.clone().filter(Survey::is_readable) else { return };
        if !self.own_pools_known(&survey, out) || self.watch.signs(now, &self.config) != Signs::Alive {
            // Silence is judged at the end of the step; a partner of whom only the heartbeat is seen may have our pools.
            self.wait_without_partner(now, out);
            return;
        }
        let mine: BTreeSet<PoolId> = self.recorded_mine().collect();
        if mine.is_empty() && !self.homes_away().is_empty() {
            self.enter(State::GiveWait(GiveWait::Waiting));
        } else if self.partner_vouches() {
            self.begin_claim(Origin::Boot, Route::HomeAgain, mine, out);
        }
    }

    /// The records give own pools to a partner whose page cannot be read: GIVEWAIT all the same, and no further.
    fn wait_without_partner(&mut self, now: Micros, out: &mut Effects) {
        let beats = self.watch.signs(now, &self.config) == Signs::HeartbeatOnly;
        let mine = self.recorded_mine().next().is_some();
        if beats && !mine && !self.homes_away().is_empty() {
            self.raise_alarm(Alarm::InterconnectDown, out);
            self.enter(State::GiveWait(GiveWait::Waiting));
        }
    }

    fn recorded_mine(&self) -> impl Iterator<Item = PoolId> + '_ {
        let own = self.config.node;
        self.desk.entries.values().filter(move |entry| entry.owner == own).map(|entry| entry.pool)
    }

    /// Whether the records of every pool can be judged; raises what cannot.
    fn own_pools_known(&mut self, survey: &Survey, out: &mut Effects) -> bool {
        let mut known = true;
        for pool in self.config.pools.keys().copied().collect::<Vec<_>>() {
            match survey.standing(pool) {
                Standing::Known(_) => self.clear_alarm(Alarm::RecordUnknown(pool), out),
                Standing::Unsettled { .. } | Standing::Unknown => {
                    known = false;
                    self.raise_alarm(Alarm::RecordUnknown(pool), out);
                }
            }
        }
        known
    }

    /// Whether the partner's page has acknowledged this incarnation as booting and serves nothing that is recorded as ours.
    fn partner_vouches(&self) -> bool {
        let Some(page) = self.watch.page() else { return false };
        let acknowledged = page
            .content
            .acknowledgement
            .is_some_and(|seen| seen.incarnation == self.incarnation && seen.state == StateWord::Booting);
        let serves_ours = page
            .content
            .pools
            .iter()
            .any(|pool| self.owner(pool.id) == Some(self.config.node) && pool.state == PoolState::Serving);
        acknowledged && !serves_ours
    }
}
