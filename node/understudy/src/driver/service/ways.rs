//! The second way to each volume: through the portals of the other identity, whichever node has them.
//!
//! A target has two portal groups. Its own portals are the first: they are always at the node that has its pools. The portals of the other
//! identity are the second: they may be at the other node, and then what comes by them is forwarded. So a client with a path to both has one that
//! survives every move of the pools, whichever way they go.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use understudy_device::NexusName;
use understudy_disk::session::Place;
use understudy_forward::Nowhere;
use understudy_portal::{LoginGate, Opener, Portal, PortalOptions, Way};
use understudy_scsi::alua::{AccessCause, AccessState, PortGroup};

#[cfg(feature = "mistakes")]
use super::super::mistakes;
use super::{AT_ONCE, Identity, NodeName, OpenPool, PoolId, Service, node_id};

/// Where the partner forwards commands to: only for the own identity, open from the start to the end.
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
    /// Offers, at a portal of `identity`, the other identity's target as well, or points there.
    pub(super) fn offer_other(&self, identity: NodeName, portal: &Portal, there: Option<SocketAddr>) {
        let other = identity.partner();
        let [own_name, other_name] = [identity, other].map(|node| &self.config.node(node).target);
        let Some(forwarding) = self.config.forwarding() else {
            // The other identity's target is at its own portals, whichever node has them.
            if let Some(there) = there {
                portal.point_to(other_name, there);
            }
            return;
        };
        let gate = LoginGate::held();
        // Commands wait for their units; logins need not.
        gate.open();
        let open: Opener = if other == self.own {
            Rc::new(|_| Rc::new(Nowhere))
        } else {
            let place = Place { portal: forwarding[other.index()].to_string(), target: other_name.clone() };
            let (world, data) = (Rc::clone(&self.world), self.data.clone());
            Rc::new(move |client: &NexusName| {
                let way = world.open_forward(place.clone(), client, data.as_deref());
                #[cfg(feature = "mistakes")]
                let way = mistakes::beyond(way);
                way
            })
        };
        let target = Rc::clone(&self.identities[other.index()].target);
        portal.add_target_by(target, gate, OTHER_GROUP, Way::Routed(open));
        if let Some(there) = there {
            portal.is_also_at(own_name, there, OTHER_GROUP);
            portal.is_also_at(other_name, there, OWN_GROUP);
        }
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
        let Identity { target, forwarded, .. } = &self.identities[self.own.index()];
        portal.add_target_by(Rc::clone(target), forwarded.gate.clone(), OTHER_GROUP, Way::Forwarded);
        *forwarded.portal.borrow_mut() = Some(portal);
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
        let other =
            if are_here(home.partner()) { AccessState::ActiveOptimized } else { AccessState::ActiveNonOptimized };
        vec![group(OWN_GROUP, AccessState::ActiveOptimized), group(OTHER_GROUP, other)]
    }

    /// Tells the volumes open here that portals came or went.
    pub(super) fn tell_of_ways(&self) {
        for (id, opened) in self.open_pools() {
            let Some(home) = self.home_of(id) else { continue };
            let groups = self.groups_of(home);
            tokio::task::spawn_local(async move { tell(&opened, &groups).await });
        }
    }

    /// Whether all volumes of a pool's identity are here that this node is going to serve.
    pub(super) fn set_whole(&self, id: PoolId, whole: bool) {
        if let Some(Identity { target, .. }) = self.identity_of(id) {
            target.set_whole(whole);
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
