//! A portal as its owner sees it: addresses, targets, gates, counters.
//!
//! Not here: what is spoken on a connection ([`crate::connection`]) and who is let in ([`crate::registry`]).

use std::cell::RefCell;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, spawn_local};
use tokio::time::Instant;
use understudy_device::Target;
use understudy_session::target::Limits;
use understudy_session::target::access::Access;
use understudy_session::target::parameters::Offer;

use crate::chance::{ChanceSource, from_system};
use crate::connection;
use crate::control::Order;
use crate::data::DataReach;
use crate::gate::LoginGate;
use crate::heap::keep_freed_memory;
use crate::listener::{Listener, Presence};
use crate::registry::{Registry, Way};
use crate::wire::{Acceptor, Wire};

/// How a portal behaves.
#[derive(Debug, Clone)]
pub struct PortalOptions {
    /// Target portal group tag (RFC 7143 §13.9), part of every nexus's name.
    pub portal_group: u16,
    /// Bounds of each connection; `limits.login` is how long a login may take.
    pub limits: Limits,
    /// What is agreed to at login.
    pub offer: Offer,
    /// Who may log in, with which proof, and who sees which target.
    pub access: Arc<Access>,
    /// Random bytes for those who have to prove who they are.
    pub chance: ChanceSource,
    /// How long a login is held at a closed gate before it is refused with "service unavailable". Longer than any
    /// hand-off; shorter than the 120 s after which open-iscsi fails the commands it has queued.
    pub hold_limit: Duration,
    /// Most logins held at a time.
    pub held_logins_max: usize,
    /// Most connections at a time; below 65,535, the number of session handles.
    pub connections_max: usize,
    /// Most connections that have not logged in yet. One more ends the oldest of them: so those that never finish keep nobody out.
    pub logins_max: usize,
    /// Most sessions of one initiator (one name, different ISIDs) with one target; one more is refused with "out of resources".
    pub sessions_per_initiator_max: usize,
    /// Bytes of data that the commands under way of all sessions may hold; once they do, each session has an even share of them.
    pub memory_bytes: u64,
    /// How long an initiator that was asked to log out may take.
    pub logout_within: Duration,
    /// Only connections from there are taken; from anywhere if it is `None`.
    pub only_from: Option<IpAddr>,
    /// How the data regions of initiators are reached; without it they are not known here.
    pub data: Option<DataReach>,
    /// Whether its addresses must be this machine's when it begins to listen.
    pub presence: Presence,
}

impl Default for PortalOptions {
    fn default() -> Self {
        Self {
            portal_group: 1,
            limits: Limits::default(),
            offer: Offer::default(),
            access: Arc::default(),
            chance: from_system,
            hold_limit: Duration::from_secs(60),
            held_logins_max: 1024,
            connections_max: 4096,
            // A login takes two to five round trips: a thousand clients that come back at once are through before this is full
            // for long, and whoever is ended comes again.
            logins_max: 1024,
            // Twice what the most generous initiators open over all their paths.
            sessions_per_initiator_max: 64,
            // 32 sessions can each have what one may hold at most; if a thousand want more than this, they have a MiB each.
            memory_bytes: 1 << 30,
            logout_within: Duration::from_secs(10),
            only_from: None,
            data: None,
            presence: Presence::Here,
        }
    }
}

/// What a portal has done and has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PortalCounters {
    /// Normal sessions now.
    pub sessions: usize,
    /// Connections now, those that log in included.
    pub connections: usize,
    /// Logins waiting at a gate, or for an older session to end, now.
    pub held_logins: usize,
    /// Sessions ever let in.
    pub logins: u64,
    /// Commands ever answered.
    pub commands: u64,
    /// Sessions that ended by an error of the initiator or of the network (not counted per target).
    pub failed_sessions: u64,
    /// When the last command was answered.
    pub last_completion: Option<Instant>,
}

/// Why a portal can not be opened.
#[derive(Debug, Error)]
pub enum PortalError {
    /// The address can not be listened on.
    #[error("cannot listen on {address}")]
    Listen {
        /// Which.
        address: SocketAddr,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Addresses at which iSCSI targets are served: one portal group.
#[derive(Clone)]
pub struct Portal(Rc<Inner>);

struct Inner {
    registry: Rc<Registry>,
    listening: RefCell<Vec<Listening>>,
}

/// One listener and the task that accepts from it.
struct Listening {
    address: SocketAddr,
    wishes: mpsc::UnboundedSender<Wish>,
    task: JoinHandle<()>,
}

/// What the task that accepts is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wish {
    /// To get the new connections of its address again.
    Reclaim,
    /// To end.
    Stop,
}

impl Portal {
    /// Listens at `address` (port 0: a free one) and accepts at once. Called inside a `LocalSet`.
    ///
    /// If another process of the same user listens there too, the one that bound last gets the new connections.
    ///
    /// # Errors
    /// [`PortalError::Listen`].
    pub fn bind(address: SocketAddr, options: PortalOptions) -> Result<Self, PortalError> {
        let portal = Self::without_listener(options);
        portal.listen_also(address)?;
        Ok(portal)
    }

    /// Serves what `listener` accepts. Called inside a `LocalSet`.
    #[must_use]
    pub fn on(listener: impl Acceptor, options: PortalOptions) -> Self {
        let portal = Self::without_listener(options);
        portal.accept_from(listener);
        portal
    }

    fn without_listener(options: PortalOptions) -> Self {
        Self(Rc::new(Inner { registry: Registry::new(options), listening: RefCell::default() }))
    }

    fn accept_from(&self, listener: impl Acceptor) -> SocketAddr {
        let address = listener.address();
        // BOUND: one wish for each contest that is won.
        let (wishes, wished) = mpsc::unbounded_channel();
        let task = spawn_local(accept(listener, Rc::clone(&self.0.registry), wished));
        self.0.listening.borrow_mut().push(Listening { address, wishes, task });
        address
    }

    /// Listens at one more address; the same targets are served there, in the same portal group. Returns the address
    /// with its real port.
    ///
    /// # Errors
    /// [`PortalError::Listen`].
    pub fn listen_also(&self, address: SocketAddr) -> Result<SocketAddr, PortalError> {
        let listener = Listener::bind(address, self.0.registry.options.presence)
            .map_err(|source| PortalError::Listen { address, source })?;
        keep_freed_memory();
        self.0.registry.be_eager();
        Ok(self.accept_from(listener))
    }

    /// Where it listens.
    #[must_use]
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.0.listening.borrow().iter().map(|listening| listening.address).collect()
    }

    /// The first address it listens at.
    ///
    /// PANIC: after [`Portal::stop_listening`].
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        *self.addresses().first().expect("the portal listens")
    }

    /// Serves a target here; one of the same name is replaced and its sessions are dropped.
    pub fn add_target(&self, target: Rc<Target>, gate: LoginGate) {
        self.0.registry.add_target(target, gate, self.0.registry.options.portal_group, Way::Here);
    }

    /// The same, in a portal group of this tag, and with units that may be at another node.
    pub fn add_target_by(&self, target: Rc<Target>, gate: LoginGate, portal_group: u16, way: Way) {
        self.0.registry.add_target(target, gate, portal_group, way);
    }

    /// Whoever looks for targets is told that this one is reached there, too, in the portal group of this tag.
    pub fn is_also_at(&self, name: &str, address: SocketAddr, portal_group: u16) {
        self.0.registry.is_also_at(name, address, portal_group);
    }

    /// From now on whoever logs in to a target that is not served here is sent to `address`, for this once (RFC 7143 §11.13.5, "target
    /// moved temporarily"). What `address` names must serve the target, or hold its logins: a client that is sent back and forth gives
    /// up.
    pub fn point_to(&self, name: &str, address: SocketAddr) {
        self.0.registry.point_to(name, address);
    }

    /// Stops serving a target: drops its sessions and refuses later logins with "not found". Returns the number of
    /// connections dropped.
    pub fn remove_target(&self, name: &str) -> usize {
        self.0.registry.remove_target(name)
    }

    /// Ends the connections of a target without answers to the commands under way; the target stays. Returns how many.
    pub fn drop_sessions(&self, name: &str) -> usize {
        self.0.registry.order_all_of(name, Order::Drop)
    }

    /// The same, and tells the initiators that they may come back at once (RFC 7143 §11.9, asynchronous event 3 with a Time2Wait
    /// of zero). Who is told nothing waits for the DefaultTime2Wait it logged in with: open-iscsi two seconds.
    pub fn dismiss_sessions(&self, name: &str) -> usize {
        self.0.registry.order_all_of(name, Order::Dismiss)
    }

    /// Asks the initiators of a target to log out; ends those that have not in time. Returns how many were asked.
    pub fn request_logout(&self, name: &str) -> usize {
        self.0.registry.order_all_of(name, Order::RequestLogout)
    }

    /// What was done here.
    #[must_use]
    pub fn counters(&self) -> PortalCounters {
        self.0.registry.counters()
    }

    /// What was done for one target; `None` if it is not served.
    #[must_use]
    pub fn target_counters(&self, name: &str) -> Option<PortalCounters> {
        self.0.registry.target_counters(name)
    }

    /// The other ends of the connections there are now.
    #[must_use]
    pub fn peers(&self) -> Vec<SocketAddr> {
        self.0.registry.controls().iter().filter_map(|control| control.peer()).collect()
    }

    /// Ends every session, telling the initiators as [`Portal::dismiss_sessions`] does, and listens on: who comes meanwhile is
    /// held at the gate. Done when none of the commands of those there were is left.
    pub async fn end_sessions(&self) {
        self.0.registry.end_all().await;
    }

    /// New connections come here again, though one other process may have begun to listen at the addresses later, and may be stopped.
    pub fn reclaim(&self) {
        for listening in self.0.listening.borrow().iter() {
            // The task ends by itself only with the runtime.
            let _ = listening.wishes.send(Wish::Reclaim);
        }
    }

    /// Stops listening; sessions live on. What sat in the accept queue is ended in order.
    pub async fn stop_listening(&self) {
        let listening = self.0.listening.take();
        for Listening { wishes, task, .. } in listening {
            // The task ends by itself only with the runtime.
            let _ = wishes.send(Wish::Stop);
            let _ = task.await;
        }
    }

    /// Stops listening and ends every session, telling the initiators as [`Portal::dismiss_sessions`] does; done when none of their
    /// commands is left.
    pub async fn close(&self) {
        self.stop_listening().await;
        self.0.registry.end_all().await;
    }
}

/// Pause after a failed accept (out of file descriptors, say): trying at once again would only burn the processor.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

async fn accept<A: Acceptor>(listener: A, registry: Rc<Registry>, mut wished: mpsc::UnboundedReceiver<Wish>) {
    // BOUND: ends when the portal stops listening or is dropped.
    loop {
        let accepted = tokio::select! {
            biased;
            wish = wished.recv() => match wish {
                Some(Wish::Reclaim) => {
                    if let Err(error) = listener.reclaim() {
                        tracing::warn!(%error, address = %listener.address(), "cannot reclaim the address");
                    }
                    continue;
                }
                Some(Wish::Stop) | None => break,
            },
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) if registry.options.only_from.is_some_and(|only| only != peer.ip().to_canonical()) => {
                registry.complain(|unsaid| tracing::warn!(%peer, unsaid, "a connection that is not the partner's"));
                stream.end_in_order();
            }
            Ok((stream, peer)) => match registry.enrol() {
                Some(enrolled) => {
                    spawn_local(connection::serve(stream, peer, Rc::clone(&registry), enrolled));
                }
                None => {
                    let limit = registry.options.connections_max;
                    registry.complain(|unsaid| tracing::warn!(%peer, limit, unsaid, "too many connections"));
                    stream.end_in_order();
                }
            },
            Err(error) => {
                tracing::warn!(%error, address = %listener.address(), "cannot accept connections");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    for stream in listener.close() {
        stream.end_in_order();
    }
}
