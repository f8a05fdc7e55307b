//! What a model checker needs of a machine: equal situations made equal, and deadlines that pass one by one.
//!
//! Not here: the checker. The one idea: a machine compares moments, counters and order numbers only with others of their kind, so that
//! renaming them, or letting each deadline pass at any time at all, changes nothing a machine could see. Every real schedule is then
//! among those explored, and many more.

use crate::bring_up::GiveWait;
use crate::claim::{Claim, ClaimPhase, Origin, Part};
use crate::hand_off::{HandOff, HandOffPhase, Hold};
use crate::machine::{Machine, State};
use crate::page::{PageContent, PoolState, Stage, WantAnswer};
use crate::survivor::Exclusive;
use crate::timers::Timer;
use crate::words::{Generation, MetadataVersion, Micros, Op};

/// The moment every machine in canonical form lives at. What lies before it is at zero, which is older than every wait.
pub const NOW: Micros = Micros(1);

impl Machine {
    /// What it has in its page.
    #[must_use]
    pub fn shown(&self) -> Option<&PageContent> {
        self.published.as_ref()
    }

    /// Its key on lock disks.
    #[must_use]
    pub fn key_on_lock_disks(&self) -> crate::key::ReservationKey {
        self.lock_key()
    }

    /// Deadlines that are set, without the one that only makes it look at its partner's signs again.
    #[must_use]
    pub fn deadlines(&self) -> Vec<Timer> {
        let all =
            [Timer::Retry, Timer::Limit, Timer::Record, Timer::Release, Timer::Doubt, Timer::Refused, Timer::Delay];
        all.into_iter().filter(|timer| self.timers.is_set(*timer)).collect()
    }

    /// Lets this deadline be due at [`NOW`], and no other.
    pub fn let_pass(&mut self, due: Timer) {
        for timer in self.deadlines() {
            self.timers.set(timer, Micros(NOW.0 + 1));
        }
        self.timers.set(Timer::Signs, Micros(NOW.0 + 1));
        self.timers.set(due, NOW);
    }

    /// Whether its partner has ended and is left alone, as configured.
    #[must_use]
    pub fn leaves_partner_alone(&self) -> bool {
        let serves = match self.state {
            State::Up => true,
            State::Takeover(Exclusive::Resting) => self.has_partner_pools(),
            _ => false,
        };
        serves && self.is_left_alone().is_some()
    }

    /// Whether the partner has shown a sign since the last silence.
    #[must_use]
    pub fn has_heard(&self) -> bool {
        self.watch.has_heard()
    }

    /// The partner's page and heartbeat have stood still for longer than any wait.
    pub fn hear_nothing(&mut self) {
        self.watch.hear_nothing();
        self.let_pass(Timer::Signs);
    }

    /// Visits every order's number it still knows.
    pub fn visit_ops(&mut self, visit: &mut dyn FnMut(&mut Op)) {
        self.desk.visit_ops(visit);
        self.rejoin.iter_mut().chain(&mut self.guarding).for_each(&mut *visit);
        self.watch.alert.iter_mut().flat_map(|alert| &mut alert.look).for_each(&mut *visit);
        self.doubts.values_mut().flatten().for_each(&mut *visit);
        visit_state(&mut self.state, visit);
    }

    /// Makes equal situations equal: order numbers from `next_op` on, no counters, no moments but before and now, no alarms (nothing
    /// is decided by them).
    pub fn forget_what_does_not_matter(&mut self, next_op: u64) {
        self.next_op = next_op;
        self.alarms.clear();
        self.watch.forget_counters();
        let booting = match &self.state {
            State::Booting => true,
            State::Claiming(claim) => matches!(claim.origin, Origin::Boot | Origin::HandedOver),
            _ => false,
        };
        if let Some(content) = self.watch.content_mut() {
            forget_what_is_not_read_again(content, booting);
        }
        for disk in self.survey.iter_mut().flat_map(|survey| survey.disks.iter_mut()).flatten() {
            disk.heartbeats = [None; 2];
        }
        for timer in self.deadlines() {
            self.timers.set(timer, Micros(NOW.0 + 1));
        }
        self.timers.set(Timer::Signs, Micros(NOW.0 + 1));
        self.givebacks.clear();
        self.last_step = self.last_step.map(|_| NOW);
    }
}

/// Of a page read before, most words were judged when it was read; what is asked later stays. What a partner vouches for is asked while
/// booting only.
fn forget_what_is_not_read_again(content: &mut PageContent, booting: bool) {
    content.stage = Stage::Idle;
    content.generation = Generation(0);
    content.portals_listening = [false; 2];
    content.vetoes = 0;
    content.announcement = None;
    content.want_answer = WantAnswer::Nothing;
    if !booting {
        content.acknowledgement = None;
        // Asked for later is only what the partner could not serve.
        content.pools.retain(|pool| pool.state == PoolState::Refused);
        for pool in &mut content.pools {
            (pool.owner, pool.wanted, pool.generation, pool.metadata_version) =
                (None, false, Generation(0), MetadataVersion(0));
        }
    }
}

fn visit_state(state: &mut State, visit: &mut dyn FnMut(&mut Op)) {
    match state {
        State::Claiming(claim) => visit_claim(claim, visit),
        State::GiveWait(GiveWait::Checking { op }) => visit(op),
        State::DiskInit(init) => init.init.iter_mut().chain(&mut init.join).for_each(visit),
        State::Takeover(Exclusive::Releasing { op, .. } | Exclusive::Restoring { op }) => visit(op),
        State::HandingOff(hand_off) => visit_hand_off(hand_off, visit),
        State::Wanting(wanting) => wanting.init.iter_mut().for_each(visit),
        State::Halting(halting) => halting.pools.values_mut().for_each(|hold| visit_hold(hold, visit)),
        State::Off
        | State::Booting
        | State::GiveWait(GiveWait::Waiting)
        | State::MailboxWait
        | State::Up
        | State::Takeover(Exclusive::Resting)
        | State::Released(_)
        | State::Ended => {}
    }
}

fn visit_hold(hold: &mut Hold, visit: &mut dyn FnMut(&mut Op)) {
    if let Hold::Ordered(op) = hold {
        visit(op);
    }
}

fn visit_hand_off(hand_off: &mut HandOff, visit: &mut dyn FnMut(&mut Op)) {
    match &mut hand_off.phase {
        HandOffPhase::Preparing { op } => visit(op),
        HandOffPhase::Holding { pools } => pools.values_mut().for_each(|hold| visit_hold(hold, visit)),
        HandOffPhase::ReadingBack { op, .. } => op.iter_mut().for_each(visit),
        HandOffPhase::Reviewing { fences, survey } => fences.values_mut().chain(survey).for_each(visit),
        HandOffPhase::Committing | HandOffPhase::Aborting { .. } | HandOffPhase::Announced { .. } => {}
    }
}

fn visit_claim(claim: &mut Claim, visit: &mut dyn FnMut(&mut Op)) {
    if let Origin::AfterCommit(hand_off) = &mut claim.origin {
        visit_hand_off(hand_off, visit);
    }
    match &mut claim.phase {
        ClaimPhase::Joining { op }
        | ClaimPhase::Contesting { op }
        | ClaimPhase::Looking { op }
        | ClaimPhase::Verifying { op, .. } => visit(op),
        ClaimPhase::Preparing { pools, portals } => {
            for part in pools.values_mut().flat_map(|progress| [&mut progress.fence, &mut progress.open]) {
                if let Part::Ordered(op) = part {
                    visit(op);
                }
            }
            let renamed = std::mem::take(portals).into_iter().map(|(mut op, identity)| {
                visit(&mut op);
                (op, identity)
            });
            *portals = renamed.collect();
        }
        ClaimPhase::Recording | ClaimPhase::HandingBack { .. } | ClaimPhase::Paused(_) => {}
    }
}
