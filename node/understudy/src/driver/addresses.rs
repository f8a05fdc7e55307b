//! The addresses of portals while they move: brought once a portal listens, taken away once its clients were told, and the clients
//! of a partner that is gone told in its place.
//!
//! Nothing is decided here and nothing is safe because of it: whether an identity is served is the failover machine's business, and
//! what keeps disks sound is the fence. Addresses that are not managed stay where they are, and of those nothing here is done.
//!
//! **The order of a move.** The node that takes over listens, logins held, and only then brings the address and announces it; so
//! whoever follows it finds somebody who answers. The one that gives says goodbye to its clients while it still has the address, and
//! takes it off then. Between the two both have it, for some milliseconds, and the one that announced it last gets the clients. There is no
//! question before: the likeliest machine to answer it is the partner, and clients wait.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};
use understudy_address::{Connection, LIFETIME, ManagedAddress};
use understudy_failover::words::Incarnation;
use understudy_portal::{Portal, Presence};

use super::clientele::{Clientele, MOST};
use super::partner::PartnerView;
use super::publisher::Publisher;
use super::service::{Service, node_id};
use super::world::{Addresses, Post};
use crate::config::{Config, NodeName};
use crate::timeline::Recorder;

/// How long the goodbyes to clients may keep an address here: they need no answer, only to be sent.
const GOODBYES: Duration = Duration::from_millis(50);

/// Between two looks whether the clients changed.
const LOOK: Duration = Duration::from_millis(100);

/// The partner is told again what did not change: it may have started anew, and then knows nothing.
const REPEAT: Duration = Duration::from_secs(2);

/// After a failure to write, which a partner that is down causes again and again.
const AGAIN: Duration = Duration::from_secs(1);

/// A write that takes longer has failed.
const WRITE_WITHIN: Duration = Duration::from_secs(1);

/// Between two renewals: four may fail before the kernel lets go of an address.
const RENEW: Duration = LIFETIME.checked_div(5).expect("five is not zero");

/// A partner whose page was read so recently tells its clients itself. What it has told by then is looked at after as long as it takes to say
/// goodbye and to tell that.
const STILL_THERE: Duration = Duration::from_millis(300);

/// What moves the addresses of both identities.
pub struct PortalAddresses {
    config: Rc<Config>,
    own: NodeName,
    /// None where no address is managed.
    keeper: Option<Rc<dyn Addresses>>,
    publisher: Rc<Publisher>,
    partner: Rc<PartnerView>,
    recorder: Rc<Recorder>,
    /// Counts the moves of each identity; an odd one is there.
    moves: [Cell<u64>; 2],
    /// Addresses that should be here and could not be brought.
    missing: RefCell<Vec<(NodeName, ManagedAddress)>>,
}

impl PortalAddresses {
    /// No identity's addresses are here.
    #[must_use]
    pub fn new(
        (config, own): (&Rc<Config>, NodeName),
        keeper: Option<Rc<dyn Addresses>>,
        publisher: &Rc<Publisher>,
        partner: &Rc<PartnerView>,
        recorder: &Rc<Recorder>,
    ) -> Rc<Self> {
        Rc::new(Self {
            config: Rc::clone(config),
            own,
            keeper,
            publisher: Rc::clone(publisher),
            partner: Rc::clone(partner),
            recorder: Rc::clone(recorder),
            moves: Default::default(),
            missing: RefCell::default(),
        })
    }

    /// Whether an address of this identity must be here to be listened on.
    #[must_use]
    pub fn presence(&self, identity: NodeName, portal: std::net::SocketAddr) -> Presence {
        let managed = self.config.node(identity).managed.iter().any(|one| one.address == portal.ip());
        if managed { Presence::MayComeLater } else { Presence::Here }
    }

    /// Brings the addresses of an identity whose portals listen. What cannot be brought is an alarm, and tried again: its other
    /// addresses may reach the clients.
    pub async fn arrive(self: &Rc<Self>, identity: NodeName) {
        let Some(keeper) = &self.keeper else { return };
        let moves = &self.moves[identity.index()];
        moves.set((moves.get() + 1) | 1);
        let mine = moves.get();
        let (began, managed) = (Instant::now(), self.config.node(identity).managed_on(self.own));
        if managed.is_empty() {
            return;
        }
        let names = names(&managed);
        self.bring(keeper.as_ref(), identity, managed).await;
        let micros = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
        let text = format!("{names} here and announced, after {:.2} ms", micros as f64 / 1e3);
        self.recorder.record("addresses-here", text, [("micros".to_owned(), micros.into())].into());
        let silent = self.partner.read_at.get().is_none_or(|read| read.elapsed() > STILL_THERE);
        if silent {
            return self.tell_clients_of_the_dead(identity);
        }
        let me = Rc::clone(self);
        tokio::task::spawn_local(async move {
            sleep(STILL_THERE).await;
            if me.moves[identity.index()].get() == mine {
                me.tell_clients_of_the_dead(identity);
            }
        });
    }

    /// Brings the addresses of an identity that is here once more, because the partner may have announced them since; in the
    /// background.
    pub fn reclaim(self: &Rc<Self>, identity: NodeName) {
        let (Some(keeper), me) = (self.keeper.clone(), Rc::clone(self)) else { return };
        tokio::task::spawn_local(async move {
            if me.moves[identity.index()].get() % 2 == 1 {
                me.bring(keeper.as_ref(), identity, me.config.node(identity).managed_on(me.own)).await;
            }
        });
    }

    async fn bring(&self, keeper: &dyn Addresses, identity: NodeName, addresses: Vec<ManagedAddress>) {
        for one in addresses {
            let outcome = keeper.take(vec![one.clone()]).await;
            let mut missing = self.missing.borrow_mut();
            missing.retain(|(_, other)| other.address != one.address);
            if let Err(error) = outcome {
                tracing::error!("{} can not be brought here: {error}; tried again", one.address);
                missing.push((identity, one));
            }
        }
    }

    /// The connections that the partner had at portals of this identity when it was last heard.
    fn tell_clients_of_the_dead(&self, identity: NodeName) {
        let Some(keeper) = &self.keeper else { return };
        let managed = &self.config.node(identity).managed;
        let mut connections = self.told_by_partner();
        connections.retain(|one| managed.iter().any(|managed| managed.address == one.portal.ip()));
        if !connections.is_empty() {
            tracing::info!("{} connections to the partner's portals are ended in its place", connections.len());
            keeper.tickle(connections);
        }
    }

    /// The connections at managed portals that the partner last told of.
    #[must_use]
    pub fn told_by_partner(&self) -> Vec<Connection> {
        if self.keeper.is_none() {
            return Vec::new();
        }
        let partner = node_id(self.own.partner());
        let told = Clientele::newest(partner, |offset, into| self.publisher.landed(offset, into));
        told.map(|list| list.connections).unwrap_or_default()
    }

    /// Ends what is served at these portals and takes the addresses of their identity away; in the background.
    pub fn depart(self: &Rc<Self>, identity: NodeName, portals: Vec<Portal>) {
        let managed = self.config.node(identity).managed_on(self.own);
        let moves = &self.moves[identity.index()];
        moves.set((moves.get() + 1) & !1);
        let (mine, me) = (moves.get(), Rc::clone(self));
        self.missing.borrow_mut().retain(|(other, _)| *other != identity);
        tokio::task::spawn_local(async move {
            if let Some(keeper) = me.keeper.as_ref().filter(|_| !managed.is_empty()) {
                // The portals listen on meanwhile: who still comes this way waits at the gate, and is not refused.
                let goodbyes = join_all(portals.iter().map(Portal::end_sessions));
                // Too late is as good: the next owner's kernel resets what is left.
                let _ = timeout(GOODBYES, goodbyes).await;
                // It may have come back.
                if me.moves[identity.index()].get() == mine {
                    let names = names(&managed);
                    take_off(keeper.as_ref(), managed).await;
                    me.recorder.record("addresses-gone", format!("{names} taken off"), Default::default());
                }
            }
            join_all(portals.iter().map(Portal::close)).await;
        });
    }

    /// Takes every address away: the process ends.
    pub async fn wind_up(&self) {
        let Some(keeper) = &self.keeper else { return };
        let all = NodeName::BOTH.into_iter().flat_map(|identity| self.config.node(identity).managed_on(self.own));
        take_off(keeper.as_ref(), all.collect()).await;
    }

    /// Keeps what is here for as long as this runs, and tries what is missing.
    pub async fn keep(self: Rc<Self>) {
        let Some(keeper) = self.keeper.clone() else { return };
        let mut ticks = interval(RENEW);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // BOUND: as long as the node runs.
        loop {
            ticks.tick().await;
            keeper.keep();
            let missing = self.missing.borrow().clone();
            for (identity, one) in missing {
                if self.moves[identity.index()].get() % 2 == 1 {
                    self.bring(keeper.as_ref(), identity, vec![one]).await;
                }
            }
        }
    }

    /// What the operator is to know.
    #[must_use]
    pub fn alarms(&self) -> Vec<String> {
        let Some(keeper) = &self.keeper else { return Vec::new() };
        let missing = self.missing.borrow();
        let missing = missing.iter().map(|(_, one)| {
            format!(
                "{} could not be put on {}: clients do not reach it; is the interface there?",
                one.address, one.interface
            )
        });
        let contested = keeper.contested().into_iter().map(|one| {
            format!(
                "{} is also answered for by {}: clients may find the wrong machine; find and stop it",
                one.address, one.by
            )
        });
        missing.chain(contested).collect()
    }
}

fn names(addresses: &[ManagedAddress]) -> String {
    let names: Vec<_> = addresses.iter().map(|one| format!("{} on {}", one.address, one.interface)).collect();
    names.join(", ")
}

async fn take_off(keeper: &dyn Addresses, addresses: Vec<ManagedAddress>) {
    if let Err(error) = keeper.leave(addresses).await {
        tracing::error!(
            "an address of a portal can not be taken off: {error}; the kernel lets go of it in {LIFETIME:?}"
        );
    }
}

/// Tells the partner which clients are connected here, for ever.
pub async fn tell_partner(
    mut post: Box<dyn Post>,
    service: Rc<Service>,
    (config, own): (Rc<Config>, NodeName),
    (incarnation, first): (Incarnation, u64),
) {
    let mut ticks = interval(LOOK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut list = Clientele { node: node_id(own), incarnation, sequence: first, connections: Vec::new() };
    let mut written: Option<Instant> = None;
    // BOUND: as long as the node runs.
    loop {
        ticks.tick().await;
        let connections = connections(&service, &config);
        if connections == list.connections && written.is_some_and(|written| written.elapsed() < REPEAT) {
            continue;
        }
        list.connections = connections;
        list.sequence += 1;
        match post.write(list.offset(), list.encode(), WRITE_WITHIN).await {
            Ok(()) => written = Some(Instant::now()),
            Err(error) => {
                tracing::debug!(%error, "the partner could not be told of the clients; tried again");
                written = None;
                sleep(AGAIN).await;
            }
        }
    }
}

/// Those at managed addresses, in order, at most [`MOST`].
fn connections(service: &Service, config: &Config) -> Vec<Connection> {
    let managed = |identity: NodeName, portal: &Portal| {
        let address = portal.addresses().first().copied()?;
        config.node(identity).managed.iter().any(|one| one.address == address.ip()).then_some(address)
    };
    let portals = service.portals();
    let of = portals.iter().filter_map(|(identity, portal)| Some((managed(*identity, portal)?, portal)));
    let all = of.flat_map(|(address, portal)| {
        portal.peers().into_iter().map(move |client| Connection { portal: address, client })
    });
    let mut all: Vec<_> = all.collect();
    all.sort();
    all.truncate(MOST);
    all
}

#[cfg(test)]
#[path = "addresses_tests.rs"]
mod tests;
