//! What the state page says for each state of the machine.
//!
//! Not here: any decision. The one idea: the page is a pure function of the machine, published when it differs from the last one.

use std::collections::BTreeSet;

use crate::bring_up::{DiskInit, GiveWait};
use crate::claim::{Again, Claim, ClaimPhase, Origin, Route};
use crate::effect::PollPace;
use crate::hand_off::{HandOff, HandOffPhase, Why};
use crate::machine::{Machine, State};
use crate::operator::Wanting;
use crate::page::{Acknowledgement, PageContent, PagePool, Stage, StateWord, Want};
use crate::survivor::{AfterMailboxWait, Exclusive, Released};
use crate::words::{Generation, PoolId};

impl Machine {
    /// The words to publish.
    pub(crate) fn content(&self) -> PageContent {
        let (state, stage) = self.state_and_stage();
        PageContent {
            state,
            stage,
            health: self.health,
            generation: self.desk.floor(),
            acknowledgement: self.acknowledgement(),
            portals_listening: self.listening,
            released_to: match &self.state {
                State::Released(released) => Some(released.to),
                State::HandingOff(hand_off) => hand_off.released_to(),
                State::Claiming(claim) => match &claim.origin {
                    Origin::Released(released) => Some(released.to),
                    _ => None,
                },
                _ => None,
            },
            inventory: self.inventory,
            vetoes: self.vetoes.iter().map(|veto| veto.bit()).sum(),
            announcement: self.announcement,
            want: self.want(),
            want_answer: self.want_answer,
            may_split: self.config.may_split,
            pools: self.config.pools.keys().map(|pool| self.page_pool(*pool)).collect(),
        }
    }

    fn page_pool(&self, pool: PoolId) -> PagePool {
        let here = self.here[&pool];
        let entry = self.desk.entries.get(&pool);
        let wanted = matches!(&self.state, State::Wanting(Wanting { pools, .. }) if pools.contains(&pool));
        PagePool {
            id: pool,
            owner: entry.map(|entry| entry.owner),
            state: here.state,
            wanted,
            generation: entry.map_or(Generation(0), |entry| entry.generation),
            metadata_version: here.metadata_version,
        }
    }

    fn want(&self) -> Option<Want> {
        match &self.state {
            State::Wanting(wanting) => wanting.number.map(|number| Want { number, how: wanting.how }),
            _ => None,
        }
    }

    /// Withheld while the lock disks are contested: who contests does not vouch for its partner.
    fn acknowledgement(&self) -> Option<Acknowledgement> {
        if let State::Claiming(claim) = &self.state
            && matches!(claim.route, Route::Contested { .. })
        {
            return None;
        }
        self.watch.page().map(|page| Acknowledgement { incarnation: page.incarnation, state: page.content.state })
    }

    fn state_and_stage(&self) -> (StateWord, Stage) {
        match &self.state {
            State::Off => (StateWord::Booting, Stage::Idle),
            State::Booting if self.survey.is_none() => (StateWord::Booting, Stage::Surveying),
            State::Booting => (StateWord::Booting, Stage::WaitingForPartner),
            State::Claiming(claim) => (self.claiming_word(claim), claim.phase.stage()),
            State::GiveWait(GiveWait::Waiting) => (StateWord::GiveWait, Stage::WaitingForRelease),
            State::GiveWait(GiveWait::Checking { .. }) => (StateWord::GiveWait, Stage::CheckingRelease),
            State::DiskInit(DiskInit { .. }) => (StateWord::DiskInit, Stage::InitialisingDisks),
            State::MailboxWait => (StateWord::MailboxWait, Stage::WaitingForGiveback),
            State::Up => (StateWord::Up, Stage::Idle),
            State::Takeover(Exclusive::Resting) => (StateWord::Takeover, Stage::Idle),
            State::Takeover(Exclusive::Releasing { .. }) => (StateWord::Takeover, Stage::Releasing),
            State::Takeover(Exclusive::Restoring { .. }) => (StateWord::Takeover, Stage::Fencing),
            State::Released(_) if !self.vetoes.is_empty() => (StateWord::Released, Stage::Vetoed),
            State::Released(Released { then: AfterMailboxWait::Delayed, .. }) => (StateWord::Released, Stage::Delaying),
            State::Released(_) => (StateWord::Released, Stage::Idle),
            State::HandingOff(hand_off) => (hand_off_word(hand_off), hand_off.phase.stage()),
            State::Wanting(_) => (StateWord::Up, Stage::Wanting),
            State::Halting(_) if self.desk.is_halted() => (StateWord::Halted, Stage::Idle),
            State::Halting(_) => (self.serving_word(), Stage::Halting),
            State::Ended => (self.ended_word(), Stage::Idle),
        }
    }

    fn ended_word(&self) -> StateWord {
        if self.desk.is_halted() { StateWord::Halted } else { StateWord::Booting }
    }

    /// UP, or TAKEOVER with guests.
    pub(crate) fn serving_word(&self) -> StateWord {
        if self.guests().iter().any(|pool| self.is_holding(*pool)) { StateWord::Takeover } else { StateWord::Up }
    }

    fn claiming_word(&self, claim: &Claim) -> StateWord {
        let contesting = matches!(claim.route, Route::Contested { .. });
        let won =
            contesting && !matches!(claim.phase, ClaimPhase::Contesting { .. } | ClaimPhase::Paused(Again::Contest));
        match &claim.origin {
            Origin::Boot => StateWord::Booting,
            Origin::BringUp if won => StateWord::Takeover,
            Origin::BringUp => StateWord::GiveWait,
            Origin::HandedOver => StateWord::Resuming,
            Origin::Wanted { .. } => StateWord::Up,
            Origin::Service | Origin::AfterCommit(_) if won => StateWord::Takeover,
            Origin::Released(_) => StateWord::Released,
            Origin::Service => self.serving_word(),
            Origin::AfterCommit(_) => StateWord::Giveback,
        }
    }

    /// Whether clients of these pools still find this node.
    fn is_listening_for(&self, pools: &BTreeSet<PoolId>) -> bool {
        pools.iter().filter_map(|pool| self.home(*pool)).any(|identity| self.listening[identity.index()])
    }

    /// Clients wait in a hand-off: both sides read the partner's page briskly, and eagerly while the next word they wait for is due.
    pub(crate) fn wanted_pace(&self) -> PollPace {
        let stage = self.watch.page().map(|page| page.content.stage);
        match &self.state {
            State::MailboxWait | State::Wanting(_) => match stage {
                Some(Stage::Preparing | Stage::Holding | Stage::Committing) => PollPace::Eager,
                _ => PollPace::Brisk,
            },
            State::HandingOff(hand_off) => match hand_off.phase {
                // Once this node's clients are sent away nobody waits for it.
                HandOffPhase::Announced { .. } if self.is_listening_for(&hand_off.pools) => PollPace::Eager,
                HandOffPhase::Announced { .. }
                | HandOffPhase::Preparing { .. }
                | HandOffPhase::Holding { .. }
                | HandOffPhase::Committing
                | HandOffPhase::ReadingBack { .. }
                | HandOffPhase::Aborting { .. }
                | HandOffPhase::Reviewing { .. } => PollPace::Brisk,
            },
            State::Claiming(claim) if matches!(claim.route, Route::Committed { .. }) => PollPace::Brisk,
            State::Off
            | State::Booting
            | State::Claiming(_)
            | State::GiveWait(_)
            | State::DiskInit(_)
            | State::Up
            | State::Takeover(_)
            | State::Released(_)
            | State::Halting(_)
            | State::Ended => PollPace::Routine,
        }
    }
}

/// RELEASED stays in the page while a giveback is prepared; GIVEBACK from the first command held.
fn hand_off_word(hand_off: &HandOff) -> StateWord {
    match (&hand_off.phase, &hand_off.why) {
        (HandOffPhase::Preparing { .. }, Why::Giveback) => StateWord::Released,
        (HandOffPhase::Preparing { .. }, Why::Wanted { .. }) => StateWord::Up,
        _ => StateWord::Giveback,
    }
}
