//! The second way to each volume: through the portals of the other identity, whichever node has them.
//!
//! A target has two portal groups. Its own portals are the first: they are at the node that has its pools. The portals of the other
//! identity are the second: they may be at the other node, and then what comes by them is forwarded. So a client with a path to both has one that
//! survives every move of the pools, whichever way they go.
//!
//! A target's pools may be at both nodes. Its own portals are at its home then, and what comes by them for a pool that the other node has is
//! forwarded there, as coming by the first group.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use understudy_device::{Elsewhere, NexusName, OnDemand, Presence};
use understudy_disk::session::Place;
use understudy_failover::page::{PageContent, PoolState};
use understudy_forward::Nowhere;
use understudy_portal::{LoginGate, Opener, Portal, PortalOptions, Way};
use understudy_scsi::alua::{AccessCause, AccessState, PortGroup};

#[cfg(feature = "mistakes")]
use super::super::mistakes;
use super::{AT_ONCE, Identity, NodeName, OpenPool, PoolId, Service, node_id};
use crate::driver::shelves::pool_id;

/// Where the partner forwards commands of this identity's target to, from the start to the end: the portal is the same for both.
pub(super) struct Forwarded {
    pub(super) gate: LoginGate,
    pub(super) portal: RefCell<Option<Portal>>,
}

impl Default for Forwarded {
    fn default() -> Self {
        Self { gate: LoginGate::held(), portal: RefCell::default() }
    }
}

impl Forwarded {
    /// Nothing is taken any more until the gate is opened again. The sessions end in order: what was sent is answered, so that the partner
    /// knows what became of it.
    pub(super) fn end_sessions(&self, target: &str) {
        self.gate.hold();
        if let Some(portal) = &*self.portal.borrow() {
            portal.request_logout(target);
        }
    }
}

/// Tag of a target's own portals, which is their relative port as well.
const OWN_GROUP: u16 = 1;
/// Tag of the other identity's portals.
const OTHER_GROUP: u16 = 2;

impl Service {
    /// Offers, at a portal of `identity`, its own target.
    pub(super) fn offer_own(&self, identity: NodeName, portal: &Portal, gate: LoginGate) {
        let target = Rc::clone(&self.identities[identity.index()].target);
        let way = match self.way_to_partner(identity) {
            // At the home some of the pools may be away.
            Some(open) if identity == self.own => {
                let open = Rc::new(open);
                Way::Routed(Rc::new(move |client: &NexusName| {
                    let (open, client) = (Rc::clone(&open), client.clone());
                    OnDemand::opened_by(move || open(&client))
                }))
            }
            // The partner's portals are here only while all of its pools are.
            Some(_) | None => Way::Here,
        };
        portal.add_target_by(target, gate, OWN_GROUP, way);
    }

    /// Offers, at a portal of `identity`, the other identity's target as well, or points there.
    pub(super) fn offer_other(&self, identity: NodeName, portal: &Portal, there: Option<SocketAddr>) {
        let other = identity.partner();
        let [own_name, other_name] = [identity, other].map(|node| &self.config.node(node).target);
        let Some(open) = self.way_to_partner(other) else {
            // The other identity's target is at its own portals, whichever node has them.
            if let Some(there) = there {
                portal.point_to(other_name, there);
            }
            return;
        };
        let gate = LoginGate::held();
        // Commands wait for their units; logins need not.
        gate.open();
        let open: Opener = if other == self.own { Rc::new(|_| Rc::new(Nowhere)) } else { Rc::new(open) };
        let target = Rc::clone(&self.identities[other.index()].target);
        portal.add_target_by(target, gate, OTHER_GROUP, Way::Routed(open));
        if let Some(there) = there {
            portal.is_also_at(own_name, there, OTHER_GROUP);
            portal.is_also_at(other_name, there, OWN_GROUP);
        }
    }

    /// Opens sessions with the partner for what it has of a target, if commands are forwarded.
    fn way_to_partner(&self, of: NodeName) -> Option<impl Fn(&NexusName) -> Rc<dyn Elsewhere> + 'static> {
        let forwarding = self.config.forwarding()?;
        let portal = forwarding[self.own.partner().index()].to_string();
        let place = Place { portal, target: self.config.node(of).target.clone() };
        let (world, data) = (Rc::clone(&self.world), self.data.clone());
        Some(move |client: &NexusName| {
            let way = world.open_forward(place.clone(), client, data.as_deref());
            #[cfg(feature = "mistakes")]
            let way = mistakes::beyond(way);
            way
        })
    }

    /// Listens for what the partner forwards to volumes of this node, from the start: the partner's sessions are logging in when the
    /// pools come, and go on the moment they are served.
    pub async fn open_forwarding(&self) {
        let Some(forwarding) = self.config.forwarding() else { return };
        let partner = forwarding[self.own.partner().index()];
        // Who the client is was proved to the partner.
        let access = Arc::default();
        let data = self.data.as_ref().map(|data| data.reach.clone());
        let options = PortalOptions { only_from: Some(partner.ip()), access, data, ..self.config.portal_options() };
        let portal = self.bind_until_free(forwarding[self.own.index()], options).await;
        // Of the own target, what came to the partner's portals; of the partner's, what came to its own.
        for (node, group) in [(self.own, OTHER_GROUP), (self.own.partner(), OWN_GROUP)] {
            let Identity { target, forwarded, .. } = &self.identities[node.index()];
            portal.add_target_by(Rc::clone(target), forwarded.gate.clone(), group, Way::Forwarded);
            *forwarded.portal.borrow_mut() = Some(portal.clone());
        }
        if self.config.pools_of(self.own).next().is_none() {
            // No pool ever opens the portals of this node: all they are for is the way to the partner's.
            self.open_portals(node_id(self.own)).await;
        }
    }

    /// Commands that the partner forwarded here and whose data was moved by RDMA, since the start.
    #[must_use]
    pub fn moved_by_rdma(&self) -> u64 {
        self.data.as_ref().map_or(0, |data| data.moves.count())
    }

    /// The groups by which volumes of this home are reached while this node has them.
    pub(super) fn groups_of(&self, home: NodeName) -> Vec<PortGroup> {
        if self.config.forwarding().is_none() {
            return Vec::new();
        }
        let are_here = |node: NodeName| !self.identities[node.index()].portals.borrow().is_empty();
        let group = |tag, state| PortGroup {
            group: tag,
            state,
            cause: AccessCause::Implicit,
            possible: vec![AccessState::ActiveOptimized, AccessState::ActiveNonOptimized],
            ports: vec![tag],
        };
        let through = |node: NodeName| match are_here(node) {
            true => AccessState::ActiveOptimized,
            false => AccessState::ActiveNonOptimized,
        };
        vec![group(OWN_GROUP, through(home)), group(OTHER_GROUP, through(home.partner()))]
    }

    /// Tells the volumes open here that portals came or went.
    pub(super) fn tell_of_ways(&self) {
        for (id, opened) in self.open_pools() {
            let Some(home) = self.home_of(id) else { continue };
            let groups = self.groups_of(home);
            tokio::task::spawn_local(async move { tell(&opened, &groups).await });
        }
    }

    /// Takes notice of what the machine says of its pools, and of what is open: a target is whole where all of them are here.
    pub fn pools_moved(&self) {
        let Some(content) = self.publisher.content() else { return };
        for node in NodeName::BOTH {
            self.identities[node.index()].target.set_presence(self.presence_of(node, &content));
        }
    }

    fn presence_of(&self, home: NodeName, content: &PageContent) -> Presence {
        let partner = Some(node_id(self.own.partner()));
        let (mut here, mut away) = (0, 0);
        for pool in self.config.pools_of(home).filter_map(|pool| content.pool(pool_id(pool.id))) {
            let is_open = || self.opened(pool.id).is_some_and(|opened| opened.is_shown());
            match pool.state {
                PoolState::Serving | PoolState::Held if is_open() => here += 1,
                PoolState::Serving | PoolState::Held => return Presence::Unsettled,
                _ if pool.owner == partner => away += 1,
                // Nobody has it, and it is tried again now and then.
                PoolState::Refused => {}
                PoolState::Away | PoolState::Warm | PoolState::Opening => return Presence::Unsettled,
            }
        }
        match (here, away) {
            (0, _) => Presence::Unsettled,
            (_, 0) => Presence::Whole,
            (_, _) => Presence::Part,
        }
    }

    /// Whether other pools of a pool's home are at the partner.
    pub(super) fn is_in_part(&self, id: PoolId) -> bool {
        let content = self.publisher.content();
        self.home_of(id).zip(content).is_some_and(|(home, content)| self.presence_of(home, &content) == Presence::Part)
    }

    /// Whether a pool of this home that is open here is this node's: not so while it is held for the partner, to which it was handed over.
    pub(super) fn keeps_some_of(&self, home: NodeName) -> bool {
        let Some(content) = self.publisher.content() else { return false };
        let own = Some(node_id(self.own));
        let mut of_home = self.config.pools_of(home).filter_map(|pool| content.pool(pool_id(pool.id)));
        of_home.any(|pool| pool.owner == own && matches!(pool.state, PoolState::Serving | PoolState::Held))
    }

    /// These pools are about to be handed over: where others of their home stay, clients' commands are going to be forwarded.
    pub fn are_leaving(&self, pools: &[PoolId]) {
        for node in NodeName::BOTH {
            let open = self.open_pools();
            let mut of_home = open.iter().map(|(id, _)| *id).filter(|id| self.home_of(*id) == Some(node));
            let stay = of_home.clone().any(|id| !pools.contains(&id));
            let is_parting = stay && of_home.any(|id| pools.contains(&id));
            self.identities[node.index()].target.set_parting(is_parting);
        }
    }

    /// When nothing of a pool's home is here any more, what the partner forwards has to find another way.
    pub(super) fn end_forwarded_if_gone(&self, id: PoolId) {
        let Some(home) = self.home_of(id) else { return };
        if self.served.borrow().iter().all(|other| self.home_of(*other) != Some(home)) {
            let Identity { target, forwarded, .. } = &self.identities[home.index()];
            forwarded.end_sessions(target.name());
        }
    }
}

/// A few at a time: clients are being answered.
async fn tell(opened: &OpenPool, groups: &[PortGroup]) {
    let units: Vec<_> = opened.units.borrow().values().map(|known| Rc::clone(&known.unit)).collect();
    for units in units.chunks(AT_ONCE) {
        units.iter().for_each(|unit| unit.reached_by(groups.to_vec()));
        tokio::task::yield_now().await;
    }
}
