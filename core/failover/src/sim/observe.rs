//! What the world notes of every fact and order, and the invariants it checks.
//!
//! Not here: the invariants themselves ([`crate::invariants`]). The one idea: the observer knows what really is, the machines only what
//! they were told.

use super::disks::LockDisk;
use super::{Mount, Node, Served, World};
use crate::effect::Effect;
use crate::input::Input;
use crate::invariants::{self, PairView, Service};
use crate::words::{Generation, NodeId, PoolId};

impl World {
    pub(super) fn note_input(&mut self, node: NodeId, input: &Input) {
        let it = &mut self.nodes[node.index()];
        it.deeds.clock += 1;
        let clock = it.deeds.clock;
        match input {
            Input::PoolFenced { pool, outcome: crate::input::FenceOutcome::Fenced, .. } => {
                it.deeds.fenced.insert(*pool, clock);
            }
            Input::Surveyed { op: Some(op), survey } => {
                if let (Some(ordered), Some(machine)) = (it.surveys.remove(op), &it.machine) {
                    let held = survey.key_majority(machine.lock_key()) == crate::survey::KeyMajority::Held;
                    it.deeds.verified = Some((ordered, held));
                }
            }
            Input::ReleaseChecked { open, of, .. } => it.deeds.release_checked = open == of && *of > 0,
            _ => {}
        }
    }

    /// The pair as the invariants see it.
    #[must_use]
    pub fn view(&self) -> PairView<'_> {
        let services = |node: &Node| {
            let service = |mount: &Mount| {
                if mount.served == Served::Yes { Service::Answering } else { Service::Silent }
            };
            node.mounts.iter().map(|(pool, mount)| (*pool, service(mount))).collect()
        };
        PairView {
            machines: [self.nodes[0].machine.as_ref(), self.nodes[1].machine.as_ref()],
            pages: [self.nodes[0].page.as_ref(), self.nodes[1].page.as_ref()],
            lock_disks: self.lock_disks.iter().map(LockDisk::view).collect(),
            pool_disks: self
                .pool_disks
                .iter()
                .map(|(pool, disks)| (*pool, disks.iter().map(|disk| disk.pr.clone()).collect()))
                .collect(),
            services: [services(&self.nodes[0]), services(&self.nodes[1])],
        }
    }

    /// Checks every invariant, if anything they look at has changed.
    pub(super) fn check(&mut self) {
        if !std::mem::take(&mut self.changed) {
            return;
        }
        let view = self.view();
        let mut verdict = invariants::check_moment(&view);
        if verdict.is_ok() {
            verdict = invariants::invariant_generation_never_goes_back(&self.highest, &view);
        }
        let truths: Vec<(PoolId, Generation)> =
            self.pool_disks.keys().filter_map(|pool| Some((*pool, view.truth(*pool)?.generation))).collect();
        let reserved = invariants::reserved_disks(&view);
        if verdict.is_ok() {
            verdict = invariants::invariant_reserved_disks_stay_reserved(&self.reserved, &reserved);
        }
        self.highest.extend(truths);
        self.reserved.extend(reserved);
        if let Err(what) = verdict {
            self.fail(what);
        }
    }

    pub(super) fn note_effect(&mut self, node: NodeId, effect: &Effect) {
        self.changed = true;
        let it = &mut self.nodes[node.index()];
        it.deeds.clock += 1;
        let clock = it.deeds.clock;
        let verdict = match effect {
            Effect::Survey { op } => {
                it.surveys.insert(*op, clock);
                Ok(())
            }
            Effect::ServePool { pool } => {
                it.deeds.served.insert(*pool, clock);
                invariants::invariant_served_after_fence_and_verification(node, *pool, &it.deeds)
            }
            Effect::InitialiseDisks { .. }
                if it
                    .machine
                    .as_ref()
                    .is_some_and(|machine| matches!(machine.state(), crate::machine::State::DiskInit(_))) =>
            {
                invariants::invariant_release_before_disk_init(node, &it.deeds)
            }
            Effect::ClosePortals { identity } => {
                invariants::invariant_close_only_after_giveback(node, *identity, &self.view())
            }
            _ => Ok(()),
        };
        if let Err(what) = verdict {
            self.fail(what);
        }
        if let Effect::Timeline(step) = effect {
            self.say(node, || step.to_string());
        }
    }
}
