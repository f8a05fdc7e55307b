//! What the connections of one portal share: targets, sessions, counters, and the admission of logins.
//!
//! Not here: bytes. The idea of admission: an I_T nexus (initiator name, ISID, target, portal group) has at most one
//! session. A newer login of the same nexus takes the place of an older login that still waits, and, once it may pass
//! the gate, of an older session; that session's commands are over before the new login is answered
//! (RFC 7143 §6.3.5). What there is only so much of (connections, logins, sessions, memory) is counted here, and whoever
//! only waits gives way to whoever comes.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::rc::{Rc, Weak};
use std::time::Duration;

use tokio::time::{Instant, timeout};
use understudy_device::{Elsewhere, NexusHandle, NexusName, Target};
use understudy_iscsi::login::LoginStatus;
use understudy_iscsi::serial::{Isid, Tsih};
use understudy_session::target::parameters::{DataRegions, Offer};
use understudy_session::target::{LoginAsked, PortalGroups, SessionKind, TargetEntry, TargetsWanted};

use crate::control::{Control, Order};
use crate::eager::{Awake, Eager};
use crate::gate::LoginGate;
use crate::portal::{PortalCounters, PortalOptions};

/// Names one I_T nexus within a portal group.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct NexusKey {
    target: String,
    initiator: String,
    isid: Isid,
}

/// A target that is served, and its gate.
#[derive(Clone)]
pub(crate) struct Served {
    pub(crate) target: Rc<Target>,
    pub(crate) gate: LoginGate,
    pub(crate) activity: Rc<Activity>,
    /// Tag of this portal in the target.
    pub(crate) portal_group: u16,
    pub(crate) way: Way,
}

/// Where the units of a target are, for whoever logs in to it.
#[derive(Clone)]
pub enum Way {
    /// Here.
    Here,
    /// Here, and who logs in is another node that forwards its clients' commands: see [`Target::attach_forwarded`].
    Forwarded,
    /// Here or at another node, with which a session is opened for each client: see [`Target::attach_routed`].
    Routed(Opener),
}

/// Opens a client's session with another node.
pub type Opener = Rc<dyn Fn(&NexusName) -> Rc<dyn Elsewhere>>;

/// What was done for one target, or for all.
#[derive(Debug, Default)]
pub(crate) struct Activity {
    pub(crate) logins: Cell<u64>,
    pub(crate) commands: Cell<u64>,
    pub(crate) last_completion: Cell<Option<Instant>>,
}

impl Activity {
    /// One more command was answered.
    pub(crate) fn completed(&self, now: Instant) {
        self.commands.set(self.commands.get() + 1);
        self.last_completion.set(Some(now));
    }
}

/// Shared by all connections of a portal.
pub(crate) struct Registry {
    pub(crate) options: PortalOptions,
    pub(crate) started: Instant,
    pub(crate) activity: Activity,
    pub(crate) failed_sessions: Cell<u64>,
    /// Only where connections come from the kernel: a simulation's time stands still while anything is awake.
    awake: RefCell<Option<Awake>>,
    targets: RefCell<BTreeMap<String, Served>>,
    /// Where targets are served that are not served here.
    elsewhere: RefCell<BTreeMap<String, SocketAddr>>,
    /// Other portals of the targets served here, and their tags. BOUND: what their owner told.
    other_ways: RefCell<BTreeMap<String, Vec<(SocketAddr, u16)>>>,
    connections: RefCell<BTreeMap<u64, Rc<Control>>>,
    /// Those of them that have not logged in, the oldest first.
    negotiating: RefCell<BTreeSet<u64>>,
    sessions: RefCell<BTreeMap<NexusKey, (Tsih, Rc<Control>)>>,
    /// Their handles.
    handles: RefCell<BTreeSet<u16>>,
    logins: RefCell<BTreeMap<NexusKey, Rc<Control>>>,
    held_logins: Cell<usize>,
    /// Bytes of data of commands under way, of all connections.
    memory_used: Cell<u64>,
    next_connection: Cell<u64>,
    next_tsih: Cell<u16>,
    /// When something was last said about too many of something, and how often it was not said since.
    complained: Cell<Option<(Instant, u64)>>,
}

/// Why a login is not let in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Declined {
    /// This is the answer.
    Status(LoginStatus),
    /// The target is served there, and nothing else is wrong.
    Elsewhere(SocketAddr),
}

impl From<LoginStatus> for Declined {
    fn from(status: LoginStatus) -> Self {
        Self::Status(status)
    }
}

/// A flood is worth a line now and then, not one for each drop.
const BETWEEN_COMPLAINTS: Duration = Duration::from_secs(1);

/// A session that was let in. Dropping it takes it off the books.
pub(crate) struct Admitted {
    pub(crate) tsih: Tsih,
    /// None in a discovery session.
    pub(crate) nexus: Option<NexusHandle>,
    pub(crate) served: Option<Served>,
    place: Option<Place>,
}

/// An entry in the map of sessions.
struct Place {
    registry: Weak<Registry>,
    key: NexusKey,
    control: Rc<Control>,
}

impl Drop for Place {
    fn drop(&mut self) {
        let Some(registry) = self.registry.upgrade() else { return };
        let mut sessions = registry.sessions.borrow_mut();
        if sessions.get(&self.key).is_some_and(|(_, control)| Rc::ptr_eq(control, &self.control))
            && let Some((tsih, _)) = sessions.remove(&self.key)
        {
            registry.handles.borrow_mut().remove(&tsih.0);
        }
    }
}

/// A connection on the books; dropping it takes it off and tells those who wait for its end.
pub(crate) struct Enrolled {
    registry: Rc<Registry>,
    id: u64,
    pub(crate) control: Rc<Control>,
    /// Bytes of data of its commands, as last told.
    memory_used: Cell<u64>,
}

impl Enrolled {
    /// Its commands hold so many bytes of data now.
    pub(crate) fn uses_memory(&self, bytes: u64) {
        let before = self.memory_used.replace(bytes);
        let total = &self.registry.memory_used;
        total.set(total.get() - before + bytes);
    }

    /// Its login is over, or waits for us: it is in nobody's way any more.
    pub(crate) fn negotiated(&self) {
        self.registry.negotiating.borrow_mut().remove(&self.id);
    }
}

impl Drop for Enrolled {
    fn drop(&mut self) {
        self.negotiated();
        self.uses_memory(0);
        self.registry.connections.borrow_mut().remove(&self.id);
        self.control.is_over();
    }
}

/// A login that waits at a gate, or for an older session to end.
struct Claim<'a> {
    registry: &'a Registry,
    key: NexusKey,
    control: &'a Rc<Control>,
}

impl<'a> Claim<'a> {
    /// Takes the place of an older login of the same nexus: its client has given it up.
    fn stake(registry: &'a Registry, key: NexusKey, control: &'a Rc<Control>) -> Self {
        let older = registry.logins.borrow_mut().insert(key.clone(), Rc::clone(control));
        if let Some(older) = older {
            older.order(Order::Drop);
        }
        registry.held_logins.set(registry.held_logins.get() + 1);
        Self { registry, key, control }
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        self.registry.held_logins.set(self.registry.held_logins.get() - 1);
        let mut logins = self.registry.logins.borrow_mut();
        if logins.get(&self.key).is_some_and(|control| Rc::ptr_eq(control, self.control)) {
            logins.remove(&self.key);
        }
    }
}

impl Registry {
    pub(crate) fn new(options: PortalOptions) -> Rc<Self> {
        Rc::new(Self {
            options,
            started: Instant::now(),
            activity: Activity::default(),
            failed_sessions: Cell::new(0),
            awake: RefCell::default(),
            targets: RefCell::default(),
            elsewhere: RefCell::default(),
            other_ways: RefCell::default(),
            connections: RefCell::default(),
            negotiating: RefCell::default(),
            sessions: RefCell::default(),
            handles: RefCell::default(),
            logins: RefCell::default(),
            held_logins: Cell::new(0),
            memory_used: Cell::new(0),
            next_connection: Cell::new(0),
            next_tsih: Cell::new(0),
            complained: Cell::new(None),
        })
    }

    /// From now on this thread stays awake for the next command where that pays. Called inside a `LocalSet`.
    pub(crate) fn be_eager(&self) {
        self.awake.borrow_mut().get_or_insert_with(Awake::start);
    }

    /// What a connection tells when something came and when it waits.
    pub(crate) fn eager(&self) -> Option<Rc<Eager>> {
        self.awake.borrow().as_ref().map(|awake| Rc::clone(&awake.eager))
    }

    /// What is agreed to at login.
    pub(crate) fn offer(&self) -> Offer {
        let data_regions = if self.options.data.is_some() { DataRegions::Used } else { DataRegions::Unknown };
        Offer { data_regions, ..self.options.offer.clone() }
    }

    /// Puts a new connection on the books. If there are too many, the oldest that has not logged in yet makes room;
    /// `None` if there is none.
    pub(crate) fn enrol(self: &Rc<Self>) -> Option<Enrolled> {
        let full = self.connections.borrow().len() >= self.options.connections_max;
        let crowded = self.negotiating.borrow().len() >= self.options.logins_max;
        if (full || crowded) && !self.end_oldest_login() {
            return None;
        }
        let id = self.next_connection.get();
        self.next_connection.set(id + 1);
        let control = Rc::new(Control::default());
        self.connections.borrow_mut().insert(id, Rc::clone(&control));
        self.negotiating.borrow_mut().insert(id);
        Some(Enrolled { registry: Rc::clone(self), id, control, memory_used: Cell::new(0) })
    }

    /// Whether there was one.
    fn end_oldest_login(&self) -> bool {
        let oldest = self.negotiating.borrow_mut().pop_first();
        let Some(control) = oldest.and_then(|id| self.connections.borrow().get(&id).cloned()) else { return false };
        let limit = self.options.logins_max;
        self.complain(|unsaid| tracing::warn!(limit, unsaid, "too many logins at a time: the oldest is ended"));
        control.order(Order::Drop);
        true
    }

    /// Says something about a flood, unless something was said a moment ago; it is told how often nothing was said since.
    pub(crate) fn complain(&self, say: impl FnOnce(u64)) {
        match self.complained.get() {
            Some((last, unsaid)) if last.elapsed() < BETWEEN_COMPLAINTS => {
                self.complained.set(Some((last, unsaid + 1)))
            }
            before => {
                say(before.map_or(0, |(_, unsaid)| unsaid));
                self.complained.set(Some((Instant::now(), 0)));
            }
        }
    }

    /// Bytes of data that the commands under way of one session may hold now: when all together hold as much as they may, an even
    /// share each, so that whoever holds more waits for its own and not for others'.
    pub(crate) fn memory_share(&self) -> u64 {
        let (most, all) = (self.options.limits.memory_bytes, self.options.memory_bytes);
        if self.memory_used.get() < all {
            return most;
        }
        let sessions = self.sessions.borrow().len().max(1) as u64;
        most.min(all / sessions)
    }

    /// Whether one more session of this nexus's initiator fits.
    fn has_room_for(&self, key: &NexusKey) -> bool {
        let first = NexusKey { isid: Isid([0; 6]), ..key.clone() };
        let sessions = self.sessions.borrow();
        let of_initiator = |(other, _): &(&NexusKey, _)| other.target == key.target && other.initiator == key.initiator;
        let count = sessions.range(first..).take_while(of_initiator).count();
        count < self.options.sessions_per_initiator_max
    }

    /// Decides about a login, which may take a while. Errors: how to decline it.
    pub(crate) async fn admit(self: Rc<Self>, control: Rc<Control>, asked: LoginAsked) -> Result<Admitted, Declined> {
        let name = match (asked.kind, asked.target) {
            (SessionKind::Discovery, _) => {
                return Ok(Admitted { tsih: self.free_tsih(), nexus: None, served: None, place: None });
            }
            (SessionKind::Normal, Some(name)) => name.to_ascii_lowercase(),
            (SessionKind::Normal, None) => return Err(LoginStatus::MISSING_PARAMETER.into()),
        };
        let gate = self.served(&name).ok_or_else(|| self.not_served(&name))?.gate;
        control.belongs_to(&name);
        let key = NexusKey { target: name.clone(), initiator: asked.initiator, isid: asked.isid };
        if asked.tsih != Tsih(0) {
            // A session here has one connection (MaxConnections=1); a second one can not be added.
            let known = self.sessions.borrow().get(&key).is_some_and(|(tsih, _)| *tsih == asked.tsih);
            let status = if known { LoginStatus::TOO_MANY_CONNECTIONS } else { LoginStatus::SESSION_DOES_NOT_EXIST };
            return Err(status.into());
        }
        if self.held_logins.get() >= self.options.held_logins_max {
            return Err(LoginStatus::OUT_OF_RESOURCES.into());
        }
        let claim = Claim::stake(&self, key.clone(), &control);
        let passed = timeout(self.options.hold_limit, gate.pass()).await;
        passed.map_err(|_too_long| LoginStatus::SERVICE_UNAVAILABLE)?;
        self.end_older_session(&key).await;
        // The world may have changed while we waited.
        let served = self.served(&name).ok_or(LoginStatus::NOT_FOUND)?;
        if !self.has_room_for(&key) {
            let limit = self.options.sessions_per_initiator_max;
            self.complain(|unsaid| tracing::warn!(initiator = ?key.initiator, limit, unsaid, "too many sessions of one initiator"));
            return Err(LoginStatus::OUT_OF_RESOURCES.into());
        }
        drop(claim);
        Ok(self.enter(key, served, control))
    }

    /// How a login to a target is declined that is not served here.
    fn not_served(&self, name: &str) -> Declined {
        let known = self.elsewhere.borrow().get(name).copied();
        known.map_or(Declined::Status(LoginStatus::NOT_FOUND), Declined::Elsewhere)
    }

    /// From now on logins to this target are sent to `address`, unless it is served here.
    pub(crate) fn point_to(&self, name: &str, address: SocketAddr) {
        self.elsewhere.borrow_mut().insert(name.to_ascii_lowercase(), address);
    }

    async fn end_older_session(&self, key: &NexusKey) {
        // BOUND: a later login of the same nexus ends this one (see Claim), so at most one more session can appear.
        loop {
            let older = self.sessions.borrow().get(key).map(|(_, control)| Rc::clone(control));
            let Some(older) = older else { return };
            older.order(Order::Drop);
            older.until_over().await;
        }
    }

    fn enter(self: &Rc<Self>, key: NexusKey, served: Served, control: Rc<Control>) -> Admitted {
        let tsih = self.free_tsih();
        let name = NexusName {
            initiator_name: key.initiator.clone(),
            isid: key.isid.0,
            target_portal_group: served.portal_group,
        };
        let nexus = match &served.way {
            Way::Here => served.target.attach(name),
            Way::Forwarded => served.target.attach_forwarded(name),
            Way::Routed(open) => {
                let elsewhere = open(&name);
                served.target.attach_routed(name, elsewhere)
            }
        };
        let before = self.sessions.borrow_mut().insert(key.clone(), (tsih, Rc::clone(&control)));
        let mut handles = self.handles.borrow_mut();
        handles.insert(tsih.0);
        // The older session of this nexus was over, see `admit`; a handle would be lost if it was not.
        before.map(|(older, _)| handles.remove(&older.0));
        drop(handles);
        self.activity.logins.set(self.activity.logins.get() + 1);
        served.activity.logins.set(served.activity.logins.get() + 1);
        let place = Some(Place { registry: Rc::downgrade(self), key, control });
        Admitted { tsih, nexus: Some(nexus), served: Some(served), place }
    }

    /// A session handle that no session has; never 0 (RFC 7143 §11.12.6).
    fn free_tsih(&self) -> Tsih {
        let handles = self.handles.borrow();
        // BOUND: there are fewer sessions than handles, see `PortalOptions::connections_max`.
        loop {
            let next = self.next_tsih.get().wrapping_add(1);
            self.next_tsih.set(next);
            if next != 0 && !handles.contains(&next) {
                return Tsih(next);
            }
        }
    }

    /// What SendTargets shows: each target in which the client finds something, at the address it came to.
    pub(crate) fn entries(
        &self,
        wanted: &TargetsWanted,
        initiator: &str,
        own: Option<&str>,
        at: SocketAddr,
    ) -> Vec<TargetEntry> {
        let is_asked_for = |target: &Rc<Target>| match wanted {
            TargetsWanted::All => true,
            TargetsWanted::Named(asked) => target.name().eq_ignore_ascii_case(asked),
            TargetsWanted::Own => Some(target.name()) == own,
        };
        let targets = self.targets.borrow();
        let asked_for = targets.iter().filter(|(_, served)| is_asked_for(&served.target));
        let shown = asked_for.filter(|(_, served)| served.target.has_something_for(initiator));
        let other_ways = self.other_ways.borrow();
        let entry = |(key, served): (&String, &Served)| {
            let here = (at.to_string(), served.portal_group);
            let there = other_ways.get(key).into_iter().flatten().map(|(address, tag)| (address.to_string(), *tag));
            TargetEntry { name: served.target.name().to_owned(), portals: [here].into_iter().chain(there).collect() }
        };
        shown.map(entry).collect()
    }

    pub(crate) fn served(&self, name: &str) -> Option<Served> {
        self.targets.borrow().get(&name.to_ascii_lowercase()).cloned()
    }

    /// The tags of this portal in its targets.
    pub(crate) fn portal_groups(&self) -> PortalGroups {
        let targets = self.targets.borrow();
        let of = targets.iter().map(|(name, served)| (name.clone(), served.portal_group));
        PortalGroups { usual: self.options.portal_group, of: of.collect() }
    }

    /// A target is reached there as well.
    pub(crate) fn is_also_at(&self, name: &str, address: SocketAddr, portal_group: u16) {
        let mut others = self.other_ways.borrow_mut();
        others.entry(name.to_ascii_lowercase()).or_default().push((address, portal_group));
    }

    /// Serves `target`; ends the sessions of one with the same name.
    pub(crate) fn add_target(&self, target: Rc<Target>, gate: LoginGate, portal_group: u16, way: Way) {
        let name = target.name().to_ascii_lowercase();
        let served = Served { target, gate, activity: Rc::default(), portal_group, way };
        if self.targets.borrow_mut().insert(name.clone(), served).is_some() {
            self.order_all_of(&name, Order::Drop);
        }
    }

    pub(crate) fn remove_target(&self, name: &str) -> usize {
        self.targets.borrow_mut().remove(&name.to_ascii_lowercase());
        self.order_all_of(name, Order::Drop)
    }

    /// Gives an order to every connection of a target; how many there are.
    pub(crate) fn order_all_of(&self, name: &str, order: Order) -> usize {
        let name = name.to_ascii_lowercase();
        let connections = self.connections.borrow();
        let concerned = connections.values().filter(|control| control.is_of(&name));
        concerned.inspect(|control| control.order(order)).count()
    }

    /// Every connection there is.
    pub(crate) fn controls(&self) -> Vec<Rc<Control>> {
        self.connections.borrow().values().cloned().collect()
    }

    /// Ends every connection; done when nothing of them is left.
    pub(crate) async fn end_all(&self) {
        let controls = self.controls();
        for control in &controls {
            control.order(Order::Dismiss);
        }
        for control in controls {
            control.until_over().await;
        }
    }

    pub(crate) fn counters(&self) -> PortalCounters {
        PortalCounters {
            sessions: self.sessions.borrow().len(),
            connections: self.connections.borrow().len(),
            held_logins: self.held_logins.get(),
            logins: self.activity.logins.get(),
            commands: self.activity.commands.get(),
            failed_sessions: self.failed_sessions.get(),
            last_completion: self.activity.last_completion.get(),
        }
    }

    pub(crate) fn target_counters(&self, name: &str) -> Option<PortalCounters> {
        let Served { gate, activity, .. } = self.served(name)?;
        let name = name.to_ascii_lowercase();
        Some(PortalCounters {
            sessions: self.sessions.borrow().keys().filter(|key| key.target == name).count(),
            connections: self.connections.borrow().values().filter(|control| control.is_of(&name)).count(),
            held_logins: gate.waiting(),
            logins: activity.logins.get(),
            commands: activity.commands.get(),
            failed_sessions: 0,
            last_completion: activity.last_completion.get(),
        })
    }
}

impl Admitted {
    /// Name of the target, in a normal session.
    pub(crate) fn target_name(&self) -> Option<&str> {
        self.served.as_ref().map(|served| served.target.name())
    }

    /// Whether this is a session on the books (not a discovery session).
    pub(crate) fn is_normal(&self) -> bool {
        self.place.is_some()
    }
}
